// Depthwise filters of one vector of channels.
//
//   filter     several positions at once;
//   slide      the same for neighbours, the usual case: each is loaded once;
//   separable  both filters of a layer in one go.

#pragma once

#include "arithmetic.h"

namespace {

constexpr int FILTERED = 8;  // positions that `filter` works on at once
constexpr int SLID = 4;      // and `slide`: with 9 weights they fit in 16 registers

// Depthwise filter of `count` positions; position i takes vector i * step of each tap's line.

template <int B>
inline void filter_block(const float* const* lines, Int taps, const float* w, Int from, Int step,
                         float* out, Int out_stride) {
    Vec sum[B] = {};
    for (Int t = 0; t < taps; t++) {
        const Vec weight = at(w + t * LANES);
        const float* line = lines[t] + from * step;
        UNROLL for (int b = 0; b < B; b++) sum[b] += at(line + b * step) * weight;
    }
    for (int b = 0; b < B; b++) at(out + (from + b) * out_stride) = sum[b];
}

// The last block overlaps the one before: some positions twice are cheaper than a remainder.
template <int B>
inline void filter_blocks(const float* const* lines, Int taps, const float* w, Int count, Int step,
                          float* out, Int out_stride) {
    for (Int i = 0; i < count; i += B)
        filter_block<B>(lines, taps, w, std::min(i, count - B), step, out, out_stride);
}

inline void filter(const float* const* lines, Int taps, const float* w, Int count, Int step,
                   float* out, Int out_stride) {
    if (count >= FILTERED && step == LANES)
        filter_blocks<FILTERED>(lines, taps, w, count, LANES, out, out_stride);
    else if (count >= FILTERED)
        filter_blocks<FILTERED>(lines, taps, w, count, step, out, out_stride);
    else if (count >= 4)
        filter_blocks<4>(lines, taps, w, count, step, out, out_stride);
    else
        filter_blocks<1>(lines, taps, w, count, step, out, out_stride);
}

// Depthwise filter of D taps over neighbours: line i has a part in results i - D + 1 to i.

template <int D>
inline void slide_block(const float* const (&line)[SLID + D - 1], Int shift, const float* w,
                        float* out, Int out_stride) {
    Vec weight[D], sum[SLID] = {};
    UNROLL for (int t = 0; t < D; t++) {
        weight[t] = at(w + t * LANES);
        hold(weight[t]);
    }
    UNROLL for (int i = 0; i < SLID + D - 1; i++) {
        Vec value = at(line[i] + shift);
        hold(value);
        UNROLL for (int b = 0; b < SLID; b++)
            if (b <= i && i < b + D) sum[b] += value * weight[i - b];
    }
    UNROLL for (int b = 0; b < SLID; b++) at(out + b * out_stride) = sum[b];
}

template <int D>
void slide_blocks(const float* const* lines, Int count, Int repeats, Int step, const float* w,
                  float* out, Int out_stride, Int repeat_stride) {
    for (Int i = 0; i < count; i += SLID) {
        const Int from = std::min(i, count - SLID);
        const float* line[SLID + D - 1];
        UNROLL for (int k = 0; k < SLID + D - 1; k++) line[k] = lines[from + k];
        float* to = out + from * out_stride;
        for (Int r = 0; r < repeats; r++, to += repeat_stride)
            slide_block<D>(line, r * step, w, to, out_stride);
    }
}

// `count` results, `repeats` times, each time `step` further on in all lines. False where it is
// made for no such filter.
inline bool slide(const float* const* lines, Int taps, const float* w, Int count, Int repeats,
                  Int step, float* out, Int out_stride, Int repeat_stride) {
    const auto run = taps == 3   ? slide_blocks<3>
                     : taps == 5 ? slide_blocks<5>
                     : taps == 7 ? slide_blocks<7>
                     : taps == 8 ? slide_blocks<8>
                     : taps == 9 ? slide_blocks<9>
                                 : nullptr;
    if (!run || count < SLID) return false;
    run(lines, count, repeats, step, w, out, out_stride, repeat_stride);
    return true;
}

// Both depthwise filters, down and then across, of D taps each: what the first one gives stays in
// registers. `wide` columns of SLID rows.
template <int D>
void separable_rows(const float* const* lines, const float* down, const float* across, Int wide,
                    float* out, Int pixel, Int row) {
    const float* line[SLID + D - 1];
    UNROLL for (int i = 0; i < SLID + D - 1; i++) line[i] = lines[i];
    Vec column[D][SLID];  // filtered down
    const auto filter_down = [&](Int j, Vec (&sum)[SLID]) {
        UNROLL for (int b = 0; b < SLID; b++) sum[b] = Vec{};
        UNROLL for (int i = 0; i < SLID + D - 1; i++) {
            const Vec value = at(line[i] + j * LANES);
            UNROLL for (int b = 0; b < SLID; b++)
                if (b <= i && i < b + D) sum[b] += value * at(down + (i - b) * LANES);
        }
    };
    UNROLL for (int t = 0; t < D - 1; t++) filter_down(t, column[t]);
    for (Int j = 0; j < wide; j++, out += pixel) {
        filter_down(j + D - 1, column[D - 1]);
        UNROLL for (int b = 0; b < SLID; b++) {
            Vec sum = Vec{};
            UNROLL for (int t = 0; t < D; t++) sum += column[t][b] * at(across + t * LANES);
            at(out + b * row) = sum;
        }
        UNROLL for (int t = 0; t < D - 1; t++)
            UNROLL for (int b = 0; b < SLID; b++) column[t][b] = column[t + 1][b];
    }
}

// False where it is made for no such filters: they take the 32 registers of AVX-512, and SLID rows.
inline bool separable(const float* const* lines, Int taps, const float* down, const float* across,
                      Int rows, Int wide, float* out, Int pixel, Int row) {
    if (LANES < 16 || rows < SLID || (taps != 3 && taps != 5)) return false;
    const auto run = taps == 3 ? separable_rows<3> : separable_rows<5>;
    for (Int i = 0; i < rows; i += SLID) {
        const Int from = std::min(i, rows - SLID);
        run(lines + from, down, across, wide, out + from * row, pixel, row);
    }
    return true;
}

}  // namespace
