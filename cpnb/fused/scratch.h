// Memory that a thread keeps between calls, so that its pages are faulted in once.

#pragma once

#include <cstdlib>
#include <new>

#include "arithmetic.h"

namespace {

class Scratch {
  public:
    ~Scratch() { std::free(start_); }

    void reserve(Int bytes) {
        if (bytes <= size_) return;
        std::free(start_);
        start_ = nullptr, size_ = 0;
        void* memory = nullptr;
        if (posix_memalign(&memory, 64, bytes)) throw std::bad_alloc();
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
