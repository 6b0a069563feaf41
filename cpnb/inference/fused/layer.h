// One layer over tiles: which rows and columns a thread takes, and what it does with them.

#pragma once

#include "arithmetic.h"
#include "scratch.h"

extern "C" {

// Geometry of one call. Channels, out_channels (of the last link of the chain) and rank are those
// of one group. rank 0: a dense convolution, ungrouped and without padding.
struct Geometry {
    Int samples, height, width, channels, out_height, out_width, out_channels, groups;
    Int size_y, size_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    Int rank, threads;
};

// All that calls on input of one shape have in common. `reduce`, `vertical` and `horizontal` are
// unused for rank 0; each group has its own products and filters, one after the other.
struct Call {
    Geometry geometry;
    const Product* reduce;
    const float *vertical, *horizontal;
    const Product* chain;
    Int links;
};

}  // extern "C"

namespace {

constexpr Int BLOCK_ROWS = 8;           // image rows that are filtered before they are expanded
constexpr Int LEAST_POSITIONS = 64;     // for which a product re-reads its weights
constexpr Int DENSE_POSITIONS = 192;    // of a dense convolution at a time
constexpr Int RING_FLOATS = 96 * 1024;  // 384 KiB for the reduced maps
constexpr Int CHUNK = 16;               // columns filtered down before they are filtered across

class Layer {
  public:
    Layer(const Call& call, const float* x, float* y)
        : g(call.geometry), x_(x), y_(y), reduce_(call.reduce), vertical_(call.vertical),
          horizontal_(call.horizontal), chain_(call.chain), links_(call.links) {
        if (g.rank) plan_tiles(); else plan_dense();
    }

    Int units() const { return units_; }
    Int result_bytes() const { return g.samples * g.out_height * g.out_width * row_length() * 4; }

    Int scratch_bytes() const {
        Int bytes = 2 * Scratch::bytes<float*>(capacity_);
        for (Int i = 0; i + 1 < links_; i++) bytes += link_bytes(i);
        if (!g.rank) return bytes;
        return bytes + Scratch::bytes<float>(capacity_ * channels()) +
               Scratch::bytes<float>(planes() * plane()) +
               Scratch::bytes<float>(BLOCK_ROWS * columns_ * LANES) +
               2 * Scratch::bytes<float*>(ring_rows_ * columns_) +
               Scratch::bytes<Int>(ring_rows_) + Scratch::bytes<float*>(ring_rows_) +
               Scratch::bytes<float*>(columns_) +
               Scratch::bytes<float*>(std::max(g.size_y, g.size_x));
    }

    void run(Int unit, Scratch& scratch) const {
        scratch.clear();
        Work work(*this, scratch);
        if (g.rank) run_factored(unit, work); else run_dense(unit, work);
        flush(work);
    }

  private:
    // A thread's buffers while it does one unit.
    struct Work {
        const float** rows;  // a pointer to the input of the chain for each position …
        float** out;         // … and to its result
        Int used = 0;
        float *mid, *ring, *filtered;
        const float** reduce_from;
        float** reduce_to;
        Int* slots;            // where in a plane the rows that are filtered now stand
        const float** down;    // these rows of one plane
        const float** across;  // the columns of `filtered`
        const float** lines;   // what meets the taps of a filter
        Scratch& scratch;

        Work(const Layer& layer, Scratch& scratch)
            : rows(scratch.take<const float*>(layer.capacity_)),
              out(scratch.take<float*>(layer.capacity_)), scratch(scratch) {
            if (!layer.g.rank) return;
            mid = scratch.take<float>(layer.capacity_ * layer.channels());
            ring = scratch.take<float>(layer.planes() * layer.plane());
            filtered = scratch.take<float>(BLOCK_ROWS * layer.columns_ * LANES);
            reduce_from = scratch.take<const float*>(layer.ring_rows_ * layer.columns_);
            reduce_to = scratch.take<float*>(layer.ring_rows_ * layer.columns_);
            slots = scratch.take<Int>(layer.ring_rows_);
            down = scratch.take<const float*>(layer.ring_rows_);
            across = scratch.take<const float*>(layer.columns_);
            for (Int j = 0; j < layer.columns_; j++) across[j] = filtered + j * LANES;
            lines = scratch.take<const float*>(std::max(layer.g.size_y, layer.g.size_x));
        }
    };

    // The reduced maps stand in planes of LANES channels: planes x ring rows x columns x LANES.
    Int channels() const { return ceil_div(g.rank, LANES) * LANES; }
    Int planes() const { return channels() / LANES; }
    // An odd number of cache lines, so that the rows of a column do not compete for one cache set.
    Int pitch() const { return (columns_ | 1) * LANES; }
    Int plane() const { return (ring_rows_ | 1) * pitch(); }
    Int row_length() const { return g.out_channels * g.groups; }
    Int rows_in(Int rows) const { return (rows - 1) * g.stride_y + (g.size_y - 1) * g.dilation_y + 1; }
    Int columns_in(Int n) const { return (n - 1) * g.stride_x + (g.size_x - 1) * g.dilation_x + 1; }
    Int link_width(Int i) const { return ceil_div(chain_[i].outputs, LANES) * LANES; }
    Int link_bytes(Int i) const {
        return Scratch::bytes<float>(capacity_ * link_width(i)) + Scratch::bytes<float*>(capacity_);
    }

    void plan_dense() {
        const Int positions = g.samples * g.out_height * g.out_width;
        capacity_ = std::min(DENSE_POSITIONS, ceil_div(positions, g.threads));
        units_ = ceil_div(positions, capacity_);
    }

    void plan_tiles() {
        ring_rows_ = rows_in(BLOCK_ROWS);
        tile_ = g.out_width;
        const Int most = std::max(RING_FLOATS / (ring_rows_ * channels()), columns_in(FILTERED));
        if (columns_in(tile_) > most) {
            const Int fits = (most - columns_in(1)) / g.stride_x + 1;
            tile_ = ceil_div(g.out_width, ceil_div(g.out_width, fits));
        }
        columns_ = columns_in(tile_);
        tiles_ = ceil_div(g.out_width, tile_);
        const Int positions = g.out_height * g.out_width;
        batch_ = std::min(ceil_div(LEAST_POSITIONS, positions), ceil_div(g.samples, 2 * g.threads));
        const Int whole = ceil_div(g.samples, batch_) * g.groups * tiles_;
        strips_ = best_strips(whole);
        strip_ = ceil_div(g.out_height, strips_);
        strips_ = ceil_div(g.out_height, strip_);
        units_ = whole * strips_;
        capacity_ = std::max(LEAST_POSITIONS, BLOCK_ROWS * tile_);
    }

    // More strips spread better over the threads, but each reduces the rows of its margin anew.
    Int best_strips(Int whole) const {
        Int best = 1, least = 0;
        for (Int strips = 1; strips <= std::min(g.out_height, 4 * g.threads); strips++) {
            const Int rows = ceil_div(g.out_height, strips);
            Int work = rows_in(rows) * columns_ * g.channels;
            work += rows * tile_ * (g.size_y + g.size_x + chain_[0].outputs * chain_[0].group);
            work *= ceil_div(whole * strips, g.threads);
            if (strips == 1 || work < least) best = strips, least = work;
        }
        return best;
    }

    void run_dense(Int unit, Work& work) const {
        const Int positions = g.samples * g.out_height * g.out_width;
        const Int first = unit * capacity_, last = std::min(first + capacity_, positions);
        for (Int i = first; i < last; i++) {
            const Int column = i % g.out_width, line = i / g.out_width;
            const Int row = line % g.out_height, sample = line / g.out_height;
            const Int top = sample * g.height + row * g.stride_y;
            work.rows[i - first] = x_ + (top * g.width + column * g.stride_x) * g.channels;
            work.out[i - first] = y_ + i * row_length();
        }
        work.used = last - first;
    }

    void run_factored(Int unit, Work& work) const {
        const Int tile = unit % tiles_, strip = unit / tiles_ % strips_;
        const Int group = unit / tiles_ / strips_ % g.groups;
        const Int samples = unit / tiles_ / strips_ / g.groups * batch_;
        const Int left = tile * tile_, wide = std::min(tile_, g.out_width - left);
        const Int top = strip * strip_, bottom = std::min(top + strip_, g.out_height);
        for (Int i = 0; i < capacity_; i++) work.rows[i] = work.mid + i * channels();
        for (Int n = samples; n < std::min(samples + batch_, g.samples); n++) {
            Int ready = top * g.stride_y;  // rows, counted from the top of the padding
            for (Int row = top; row < bottom; row += BLOCK_ROWS) {
                const Int rows = std::min(BLOCK_ROWS, bottom - row), first = row * g.stride_y;
                if (work.used + rows * wide > capacity_) flush(work, group);
                fill_ring(work, n, group, std::max(ready, first), first + rows_in(rows),
                          left * g.stride_x - g.pad_x, columns_in(wide));
                ready = first + rows_in(rows);
                filter_rows(work, group, first, rows, wide);
                for (Int i = 0; i < rows; i++)
                    for (Int j = 0; j < wide; j++)
                        work.out[work.used++] =
                            y_ + ((n * g.out_height + row + i) * g.out_width + left + j) * row_length() +
                            group * g.out_channels;
            }
        }
        flush(work, group);
    }

    // Reduce rows first … last, counted from the top of the padding, and columns from `left` on.
    void fill_ring(Work& work, Int sample, Int group, Int first, Int last, Int left, Int columns) const {
        const Int deep = planes(), step = plane();
        Int count = 0;
        for (Int row = first; row < last; row++) {
            const Int from = row - g.pad_y;
            float* slot = work.ring + row % ring_rows_ * pitch();
            for (Int j = 0; j < columns; j++, slot += LANES) {
                const Int column = left + j;
                if (from < 0 || from >= g.height || column < 0 || column >= g.width) {
                    for (Int p = 0; p < deep; p++) at(slot + p * step) = Vec{};
                } else {
                    const Int position = (sample * g.height + from) * g.width + column;
                    work.reduce_from[count] = x_ + (position * g.groups + group) * g.channels;
                    work.reduce_to[count++] = slot;
                }
            }
        }
        product(work.reduce_from, count, reduce_[group], work.reduce_to, step);
    }

    void filter_rows(Work& work, Int group, Int first, Int rows, Int wide) const {
        const Int columns = columns_in(wide);
        for (Int i = 0; i < rows_in(rows); i++) work.slots[i] = (first + i) % ring_rows_ * pitch();
        for (Int p = 0; p < planes(); p++) {
            const float* maps = work.ring + p * plane();
            for (Int i = 0; i < rows_in(rows); i++) work.down[i] = maps + work.slots[i];
            const float* down = vertical_ + (group * planes() + p) * g.size_y * LANES;
            const float* across = horizontal_ + (group * planes() + p) * g.size_x * LANES;
            filter_down(work, down, rows, columns);
            filter_across(work, across, rows, wide, p);
        }
    }

    void filter_down(Work& work, const float* w, Int rows, Int columns) const {
        if (g.stride_y == 1 && g.dilation_y == 1 &&
            slide(work.down, g.size_y, w, rows, columns, LANES, work.filtered, columns_ * LANES,
                  LANES))
            return;
        for (Int j = 0; j < columns; j += CHUNK) {
            for (Int i = 0; i < rows; i++) {
                for (Int t = 0; t < g.size_y; t++)
                    work.lines[t] = work.down[i * g.stride_y + t * g.dilation_y] + j * LANES;
                filter(work.lines, g.size_y, w, std::min(CHUNK, columns - j), LANES,
                       work.filtered + (i * columns_ + j) * LANES, LANES);
            }
        }
    }

    void filter_across(Work& work, const float* w, Int rows, Int wide, Int p) const {
        const Int row = columns_ * LANES;
        float* out = work.mid + work.used * channels() + p * LANES;
        if (g.stride_x == 1 && g.dilation_x == 1 &&
            slide(work.across, g.size_x, w, wide, rows, row, out, channels(), wide * channels()))
            return;
        for (Int i = 0; i < rows; i++) {
            for (Int t = 0; t < g.size_x; t++)
                work.lines[t] = work.across[t * g.dilation_x] + i * row;
            filter(work.lines, g.size_x, w, wide, g.stride_x * LANES, out + i * wide * channels(),
                   channels());
        }
    }

    // The chain of 1x1 convolutions for the positions that have come together.
    void flush(Work& work, Int group = 0) const {
        const float* const* rows = work.rows;
        const Int mark = work.scratch.mark();
        for (Int i = 0; i < links_; i++) {
            float** out = work.out;
            if (i + 1 < links_) {
                out = work.scratch.take<float*>(capacity_);
                float* maps = work.scratch.take<float>(capacity_ * link_width(i));
                for (Int j = 0; j < work.used; j++) out[j] = maps + j * link_width(i);
            }
            product(rows, work.used, chain_[group * links_ + i], out);
            rows = out;
        }
        work.scratch.back_to(mark);
        work.used = 0;
    }

    const Geometry g;
    const float* const x_;
    float* const y_;
    const Product* const reduce_;
    const float *const vertical_, *const horizontal_;
    const Product* const chain_;
    const Int links_;
    Int units_ = 0, capacity_ = 0;                             // positions that a flush takes
    Int ring_rows_ = 0, columns_ = 0, tile_ = 0, tiles_ = 0;   // reduced, and expanded columns
    Int batch_ = 0, strip_ = 0, strips_ = 0;                   // samples a unit; rows a strip
};

}  // namespace
