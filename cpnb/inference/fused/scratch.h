// Memory that a thread keeps between calls, so that its pages are faulted in once.

#pragma once

#include <cstdlib>
#include <new>

#include "arithmetic.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

constexpr Int HUGE_PAGE = Int(1) << 21;

// Faulted in by pages of 2 MiB, not of 4 KiB: fewer faults, and no pages that by chance compete for
// the same places of a cache. A wish, of which Linux may make nothing.
inline void wish_huge_pages(void* start, Int bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const auto from = reinterpret_cast<std::uintptr_t>(start);
    const auto first = (from + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    const auto last = (from + bytes) / HUGE_PAGE * HUGE_PAGE;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)start, (void)bytes;
#endif
}

class Scratch {
  public:
    ~Scratch() { std::free(start_); }

    void reserve(Int bytes) {
        if (bytes <= size_) return;
        std::free(start_);
        start_ = nullptr, size_ = 0;
        void* memory = nullptr;
        bytes = ceil_div(bytes, HUGE_PAGE) * HUGE_PAGE;
        if (posix_memalign(&memory, HUGE_PAGE, bytes)) throw std::bad_alloc();
        wish_huge_pages(memory, bytes);
        start_ = static_cast<char*>(memory), size_ = bytes;
    }

    template <class T> static Int bytes(Int count) { return ceil_div(count * sizeof(T), 64) * 64; }

    template <class T> T* take(Int count) {
        T* part = reinterpret_cast<T*>(start_ + used_);
        used_ += bytes<T>(count);
        return part;
    }

    void clear() { used_ = 0; }
    Int mark() const { return used_; }
    void back_to(Int mark) { used_ = mark; }

  private:
    char* start_ = nullptr;
    Int size_ = 0, used_ = 0;
};

thread_local Scratch scratch;

}  // namespace
