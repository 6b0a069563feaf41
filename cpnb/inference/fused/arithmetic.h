// Vectors, and a narrow matrix product, sums held in registers; with `taps` the left matrix is
// gathered on the fly, which makes it a dense convolution.
//
// A maxout costs no memory traffic: the candidates for one output are different registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace {

using Int = std::int64_t;

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 6;  // 24 sums, 4 weights and a factor
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 3;
#else
constexpr int LANES = 4, ROWS = 3;
#endif
constexpr int SUMS = 4;  // vectors of sums for each row of a block

// Unrolled before GCC decides what to keep in registers: arrays of sums would lie in memory.
#define UNROLL _Pragma("GCC unroll 32")
#define UNROLL_4 _Pragma("GCC unroll 4")  // where the loop's own instructions count

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vec& at(float* p) { return *reinterpret_cast<Vec*>(p); }
inline const Vec& at(const float* p) { return *reinterpret_cast<const Vec*>(p); }

// With few registers GCC would load a weight anew for each use, and be held up by its loads.
#if defined(__x86_64__) && !defined(__AVX512F__)
inline void hold(Vec& v) { asm("" : "+x"(v)); }
#else
inline void hold(Vec&) {}
#endif

inline Vec maximum(Vec a, Vec b) { return ((a > b) | (a != a)) ? a : b; }  // keeps NaN, as torch does
inline Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }

}  // namespace

extern "C" {

// A 1x1 convolution, or with taps > 1 a dense one whose kernel rows are `depth` values long.
// What lies `residual` floats from a result is added to it before the activation, unless it is 0.
struct Product {
    Int taps, tap_stride, depth, outputs, group;  // `outputs` after a maxout over `group`
    Int activation, residual;
    const float *weights, *bias;  // packed by packing.py
};

}  // extern "C"

namespace {

enum Activation : Int { NONE, RELU, RELU6, SILU };  // as in packing.py

// e to the power of v, to two units in the last place; overflows and underflows as it should.
inline Vec exponential(Vec v) {
    typedef std::int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    const Vec most = Vec{} + 88.7f, least = Vec{} - 87.3f;
    const Vec x = v > most ? most : (v < least ? least : v);
    const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
    const Vec whole = shifted - 12582912.0f;
    const Vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Vec p = r * 1.9875691e-4f + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f, p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666666e-1f, p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    const Ints power = (reinterpret_cast<const Ints&>(shifted) - 0x4B400000 + 127) << 23;
    return p * reinterpret_cast<const Vec&>(power);
}

inline Vec activated(Vec v, Int kind) {  // keeps NaN, as torch does
    if (kind == SILU) return v / (exponential(-v) + 1.0f);
    if (kind != NONE) v = v < 0 ? Vec{} : v;
    return kind == RELU6 ? (v > 6 ? Vec{} + 6.0f : v) : v;
}

// Matrix product

// One step of depth: the fewer of the M factors and N weights stay in registers, the others pass.
template <int M, int N>
inline void step(const float* const (&row)[M], Int k, const float* w, Vec (&sum)[M][N]) {
    if constexpr (M > N) {
        UNROLL for (int m = 0; m < M; m++)
            UNROLL for (int n = 0; n < N; n++) sum[m][n] += row[m][k] * at(w + n * LANES);
    } else {
        Vec factor[M];
        UNROLL for (int m = 0; m < M; m++) factor[m] = row[m][k] - Vec{};
        UNROLL for (int n = 0; n < N; n++) {
            Vec weight = at(w + n * LANES);
            hold(weight);
            UNROLL for (int m = 0; m < M; m++) sum[m][n] += factor[m] * weight;
        }
    }
}

template <int M, int N>
inline void accumulate(const float* const* rows, const Product& p, const float* w, Vec (&sum)[M][N]) {
    const float* row[M];
    UNROLL for (int m = 0; m < M; m++) row[m] = rows[m];
    for (Int tap = 0; tap < p.taps; tap++) {
        UNROLL_4 for (Int k = 0; k < p.depth; k++, w += N * LANES) step<M, N>(row, k, w, sum);
        UNROLL for (int m = 0; m < M; m++) row[m] += p.tap_stride;
    }
}

// M rows by N vectors of sums, of which each G in a row compete; `stride` lies between the vectors
// of the result.
template <int M, int N, int G>
void block(const float* const* rows, const Product& p, const float* w, const float* bias,
           float* const* out, Int first, Int stride) {
    Vec sum[M][N];
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int m = 0; m < M; m++) sum[m][n] = at(bias + n * LANES);
    accumulate<M, N>(rows, p, w, sum);
    if (p.residual) {
        UNROLL for (int m = 0; m < M; m++)
            UNROLL for (int v = 0; v < N; v++)
                sum[m][v] += at(out[m] + p.residual + (first + v) * stride);
    }
    const Int activation = p.activation;
    UNROLL for (int m = 0; m < M; m++) {
        UNROLL for (int v = 0; v < N / G; v++) {
            Vec best = sum[m][v * G];
            UNROLL for (int g = 1; g < G; g++) best = maximum(best, sum[m][v * G + g]);
            sum[m][v] = activated(best, activation);
        }
    }
    const Int left = p.outputs - first * LANES;
    if (stride != LANES || left >= N / G * LANES) {
        UNROLL for (int m = 0; m < M; m++)
            UNROLL for (int v = 0; v < N / G; v++) at(out[m] + (first + v) * stride) = sum[m][v];
    } else {
        float values[M][N / G * LANES];
        UNROLL for (int m = 0; m < M; m++)
            UNROLL for (int v = 0; v < N / G; v++) at(values[m] + v * LANES) = sum[m][v];
        for (int m = 0; m < M; m++) std::copy_n(values[m], left, out[m] + first * LANES);
    }
}

template <int N, int G, int... M>
void pick_rows(int m, std::integer_sequence<int, M...>, const float* const* rows, const Product& p,
               const float* w, const float* bias, float* const* out, Int first, Int stride) {
    (void)((m == M + 1 && (block<M + 1, N, G>(rows, p, w, bias, out, first, stride), true)) || ...);
}

template <int N, int G>
void panel(const float* const* rows, Int count, const Product& p, const float* w,
           const float* bias, float* const* out, Int first, Int stride) {
    const Int blocks = ceil_div(count, ROWS);
    for (Int i = 0, done = 0; i < blocks; i++) {
        const Int m = ceil_div(count - done, blocks - i);  // 8 rows are 4 + 4 rather than 6 + 2
        pick_rows<N, G>(int(m), std::make_integer_sequence<int, ROWS>(), rows + done, p, w, bias,
                        out + done, first, stride);
        done += m;
    }
}

inline Int most_vectors(const Product& p) { return p.group == 3 ? 3 : SUMS; }
inline Int vectors_of(const Product& p) { return ceil_div(p.outputs, LANES) * p.group; }
inline Int panels_of(const Product& p) { return ceil_div(vectors_of(p), most_vectors(p)); }

// Vectors in the panel that begins at vector v, with `left` panels to come, it included. Without a
// maxout 13 vectors are 4 + 3 + 3 + 3 rather than 4 + 4 + 4 + 1.
inline Int panel_vectors(const Product& p, Int v, Int left) {
    const Int rest = vectors_of(p) - v;
    return p.group == 1 ? ceil_div(rest, left) : std::min(most_vectors(p), rest);
}

// out[i] = act(rows[i] . weights + bias); rows and out are pointers, so that any gathering will do.
// Only panels `from` up to `to`, where given; results are counted from the first of all panels.
void product(const float* const* rows, Int count, const Product& p, float* const* out,
             Int stride = LANES, Int from = 0, Int to = -1) {
    const Int panels = panels_of(p);
    const float *w = p.weights, *bias = p.bias;
    if (to < 0) to = panels;
    for (Int i = 0, v = 0, n; i < to; i++, v += n) {
        n = panel_vectors(p, v, panels - i);
        if (i < from) {
            w += p.taps * p.depth * n * LANES, bias += n * LANES;
            continue;
        }
        const Int first = v / p.group;
        const auto run = p.group == 4   ? panel<4, 4>
                         : p.group == 3 ? panel<3, 3>
                         : p.group == 2 ? (n == 4 ? panel<4, 2> : panel<2, 2>)
                         : n == 4       ? panel<4, 1>
                         : n == 3       ? panel<3, 1>
                         : n == 2       ? panel<2, 1>
                                        : panel<1, 1>;
        run(rows, count, p, w, bias, out, first, stride);
        w += p.taps * p.depth * n * LANES;
        bias += n * LANES;
    }
}

}  // namespace
