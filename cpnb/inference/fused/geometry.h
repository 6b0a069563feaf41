// What a call of a layer is told, as native.py writes it.

#pragma once

#include "arithmetic.h"

extern "C" {

// Floats from one position, row and sample of NHWC maps to the next.
struct Steps {
    Int pixel, row, sample;
    Int to(Int n, Int y, Int x) const { return n * sample + y * row + x * pixel; }
};

// Geometry of one call. Channels, out_channels (of the last link of the chain) and rank are those
// of one group. rank 0: a dense convolution, ungrouped and without padding.
struct Geometry {
    Int samples, height, width, channels, out_height, out_width, out_channels, groups;
    Int size_y, size_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    Int rank, threads;
    Steps in, out;
};

// All that calls on input of one shape have in common. `reduce`, `vertical` and `horizontal` are
// unused for rank 0; each group has its own products and filters, one after the other. Without
// links the filtered terms are the result.
struct Call {
    Geometry geometry;
    const Product* reduce;
    const float *vertical, *horizontal;
    const Product* chain;
    Int links;
};

}  // extern "C"
