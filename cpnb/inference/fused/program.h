// The steps of a whole network: layers, pooling, sums, and maps that come in and go out.

#pragma once

#include "layer.h"

extern "C" {

// Maps between steps lie in NHWC order in one piece of memory, which the step's positions begin at;
// channels are those of whole vectors, but for maps that come in or go out.
struct Op {
    Int kind, in, other, out;  // floats from the start of the memory
    Int activation;
    const float *scale, *shift;  // by channel
    Call call;                   // of other steps than layers only the geometry
};

}  // extern "C"

namespace {

enum Kind : Int { LAYER, LOAD, STORE, MAXIMUM, MEAN, SUM, SCALE, ACTIVATE };  // as in program.py

class Task {
  public:
    Task(const Op& op, float* memory, const float* x, float* y)
        : op_(op), g(op.call.geometry), x_(op.kind == LOAD ? x : memory + op.in),
          y_(op.kind == STORE ? y : memory + op.out), other_(memory + op.other),
          layer_(op.call, x_, y_, op.kind == LAYER) {}

    Int units() const {
        return op_.kind == LAYER ? layer_.units() : ceil_div(g.samples * g.out_height, rows());
    }
    Int scratch_bytes() const { return op_.kind == LAYER ? layer_.scratch_bytes() : 0; }

    void run(Int unit, Scratch& scratch) const {
        if (op_.kind == LAYER) return layer_.run(unit, scratch);
        const Int last = std::min((unit + 1) * rows(), g.samples * g.out_height);
        for (Int i = unit * rows(); i < last; i++) row(i / g.out_height, i % g.out_height);
    }

  private:
    // Of the output, that a thread takes at once: as much as is worth its while.
    Int rows() const { return ceil_div(4096, g.out_width * g.channels); }

    void row(Int n, Int y) const {
        float* out = y_ + g.out.to(n, y, 0);
        if (op_.kind == LOAD || op_.kind == STORE) return copy(n, y, out);
        for (Int x = 0; x < g.out_width; x++, out += g.out.pixel) {
            if (op_.kind == MAXIMUM || op_.kind == MEAN) pool(n, y, x, out);
            else combine(n, y, x, out);
        }
    }

    // Channels lie g.dilation_x apart in what is read, and g.dilation_y in what is written.
    void copy(Int n, Int y, float* out) const {
        const float* in = x_ + g.in.to(n, y, 0);
        if (g.channels <= 4) {  // an image, most often channel by channel
            for (Int c = 0; c < g.channels; c++, in += g.dilation_x, out += g.dilation_y)
                for (Int x = 0; x < g.out_width; x++) out[x * g.out.pixel] = in[x * g.in.pixel];
            return;
        }
        for (Int x = 0; x < g.out_width; x++, in += g.in.pixel, out += g.out.pixel)
            for (Int c = 0; c < g.channels; c++) out[c * g.dilation_y] = in[c * g.dilation_x];
    }

    void pool(Int n, Int y, Int x, float* out) const {
        const Int top = y * g.stride_y - g.pad_y, left = x * g.stride_x - g.pad_x;
        const Int y0 = std::max(top, Int(0)), y1 = std::min(top + g.size_y, g.height);
        const Int x0 = std::max(left, Int(0)), x1 = std::min(left + g.size_x, g.width);
        const float share = 1.0f / float(g.rank ? g.size_y * g.size_x : (y1 - y0) * (x1 - x0));
        for (Int c = 0; c < g.channels; c += LANES) {
            const float* in = x_ + g.in.to(n, 0, 0) + c;
            const bool most = op_.kind == MAXIMUM;
            Vec result = most ? at(in + g.in.to(0, y0, x0)) : Vec{};
            for (Int i = y0; i < y1; i++)
                for (Int j = x0; j < x1; j++) {
                    const Vec value = at(in + g.in.to(0, i, j));
                    result = most ? maximum(value, result) : result + value;
                }
            at(out + c) = activated(most ? result : result * share, op_.activation);
        }
    }

    void combine(Int n, Int y, Int x, float* out) const {
        const float *in = x_ + g.in.to(n, y, x), *other = other_ + g.out.to(n, y, x);
        for (Int c = 0; c < g.channels; c += LANES) {
            Vec value = at(in + c);
            if (op_.kind == SUM) value += at(other + c);
            if (op_.kind == SCALE) value = value * at(op_.scale + c) + at(op_.shift + c);
            at(out + c) = activated(value, op_.activation);
        }
    }

    const Op& op_;
    const Geometry& g;
    const float* const x_;
    float* const y_;
    const float* const other_;
    const Layer layer_;
};

inline Int scratch_bytes(const Op& op, float* memory) {
    return Task(op, memory, memory, memory).scratch_bytes();
}

}  // namespace
