// One factored convolution (reduce, vertical, horizontal, expand) or one small dense one, with the
// maxout or ReLU and the 1x1 convolutions that follow it, over tiles that stay in the cache.
//
// Maps lie in NHWC order. Only the last result is written to memory; what lies between stands in
// a buffer in the cache that each thread keeps. Called by native.py.

#include <omp.h>

#include <atomic>
#include <vector>

#include "program.h"

// Each thread does its own part of the units, whose maps it has in its cache from the step before,
// and then what others have left of theirs.
template <class Run> void share(Int units, std::atomic<Int>* taken, Int threads, const Run& run) {
    const Int own = omp_get_thread_num();
    for (Int k = 0; k < threads; k++) {
        const Int owner = (own + k) % threads;
        const Int first = units * owner / threads, last = units * (owner + 1) / threads;
        for (Int unit; (unit = first + taken[owner]++) < last;) run(unit);
    }
}

extern "C" {

int cpnb_lanes() { return LANES; }
int cpnb_sums() { return SUMS; }

// To be called before the memory is written to.
void cpnb_wish_huge_pages(void* start, Int bytes) { wish_huge_pages(start, bytes); }

// 0, or 1 where memory ran out.
int cpnb_run(const Call* call, const float* x, float* y) {
    const Layer layer(*call, x, y);
    const Int threads = call->geometry.threads;
    int failed = 0;
    if (layer.result_bytes() >= 4 * HUGE_PAGE) wish_huge_pages(y, layer.result_bytes());
#pragma omp parallel num_threads(int(threads)) if (layer.units() > 1 && threads > 1)
    {
        bool ready = true;
        try {
            scratch.reserve(layer.scratch_bytes());
        } catch (const std::bad_alloc&) {
            ready = false;
        }
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (Int unit = 0; unit < layer.units(); unit++)
            if (ready) layer.run(unit, scratch);
    }
    return failed;
}

// A whole network on maps in one piece of memory; 0, or 1 where memory ran out.
int cpnb_program(const Op* ops, Int count, float* memory, const float* x, float* y, Int threads) {
    int failed = 0;
    Int bytes = 0;
    for (Int i = 0; i < count; i++) bytes = std::max(bytes, scratch_bytes(ops[i], memory));
    std::vector<std::atomic<Int>> taken(count * threads);
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    {
        bool ready = true;
        try {
            scratch.reserve(bytes);
        } catch (const std::bad_alloc&) {
            ready = false;
#pragma omp atomic write
            failed = 1;
        }
        for (Int i = 0; i < count; i++) {  // each after the one before, and each shared out
            const Task task(ops[i], memory, x, y);
            share(task.units(), &taken[i * threads], threads,
                  [&](Int unit) { if (ready) task.run(unit, scratch); });
#pragma omp barrier
        }
    }
    return failed;
}

}  // extern "C"
