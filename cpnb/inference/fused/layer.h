// One layer over tiles: which rows and columns a thread takes, and what it does with them.

#pragma once

#include "filters.h"
#include "geometry.h"
#include "scratch.h"

namespace {

constexpr Int BLOCK_ROWS = 8;           // image rows that are filtered before they are expanded
constexpr Int LEAST_POSITIONS = 64;     // for which a product re-reads its weights
constexpr Int DENSE_POSITIONS = 192;    // of a dense convolution at a time
constexpr Int FEW_POSITIONS = 64;       // a thread: its share of the outputs is better than of these
constexpr Int RING_FLOATS = 96 * 1024;  // 384 KiB for the reduced maps
constexpr Int CHUNK = 16;               // columns filtered down before they are filtered across

class Layer {
  public:
    // Planned only where it is one: other steps of a program have no products.
    Layer(const Call& call, const float* x, float* y, bool planned = true)
        : g(call.geometry), x_(x), y_(y), reduce_(call.reduce), vertical_(call.vertical),
          horizontal_(call.horizontal), chain_(call.chain), links_(call.links) {
        if (planned && g.rank) plan_tiles();
        else if (planned) plan_dense();
    }

    Int units() const { return units_; }
    Int result_bytes() const { return g.samples * g.out.sample * 4; }

    Int scratch_bytes() const {
        Int bytes = 2 * Scratch::bytes<float*>(capacity_);
        for (Int i = 0; i + 1 < links_; i++) bytes += link_bytes(i);
        if (!g.rank) return bytes;
        return bytes + (links_ ? Scratch::bytes<float>(capacity_ * channels()) : 0) +
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
        if (!g.rank) run_dense(unit, work);
        else if (links_) run_factored(unit, work);
        else run_terms(unit, work);
    }

  private:
    // Which terms of which group: panels of the first product, and the planes that they make.
    struct Part {
        Int group, panel, last_panel, plane, last_plane;
    };

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
            mid = layer.links_ ? scratch.take<float>(layer.capacity_ * layer.channels()) : nullptr;
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
    Int rows_in(Int rows) const { return (rows - 1) * g.stride_y + (g.size_y - 1) * g.dilation_y + 1; }
    Int columns_in(Int n) const { return (n - 1) * g.stride_x + (g.size_x - 1) * g.dilation_x + 1; }
    Int link_width(Int i) const { return ceil_div(chain_[i].outputs, LANES) * LANES; }
    Int link_bytes(Int i) const {
        return Scratch::bytes<float>(capacity_ * link_width(i)) + Scratch::bytes<float*>(capacity_);
    }

    // As many units as threads share evenly: each takes some positions, or, where there are few, some
    // panels of the outputs.
    void plan_dense() {
        const Int positions = g.samples * g.out_height * g.out_width;
        const bool few = links_ == 1 && positions < FEW_POSITIONS * g.threads;
        chunks_ = few ? panels_of(chain_[0]) : 1;
        const Int tiles = ceil_div(positions, DENSE_POSITIONS * g.threads) * (few ? 1 : g.threads);
        capacity_ = ceil_div(positions, tiles);
        units_ = ceil_div(positions, capacity_) * chunks_;
    }

    void plan_tiles() {
        chunks_ = links_ ? 1 : panels_of(reduce_[0]);
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
        if (!links_) batch_ = 1;
        const Int whole = ceil_div(g.samples, batch_) * g.groups * tiles_ * chunks_;
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
            const Int expand = links_ ? chain_[0].outputs * chain_[0].group : 0;
            work += rows * tile_ * (g.size_y + g.size_x + expand);
            work *= ceil_div(whole * strips, g.threads);
            if (strips == 1 || work < least) best = strips, least = work;
        }
        return best;
    }

    void run_dense(Int unit, Work& work) const {
        const Int positions = g.samples * g.out_height * g.out_width;
        const Int first = unit / chunks_ * capacity_, chunk = unit % chunks_;
        const Int last = std::min(first + capacity_, positions);
        for (Int i = first; i < last; i++) {
            const Int x = i % g.out_width, line = i / g.out_width;
            const Int y = line % g.out_height, n = line / g.out_height;
            work.rows[i - first] = x_ + g.in.to(n, y * g.stride_y, x * g.stride_x);
            work.out[i - first] = y_ + g.out.to(n, y, x);
        }
        work.used = last - first;
        if (chunks_ == 1) flush(work);
        else product(work.rows, work.used, chain_[0], work.out, LANES, chunk, chunk + 1);
    }

    // The terms of one panel of the first product, from strips of maps to strips of maps.
    void run_terms(Int unit, Work& work) const {
        const Int chunk = unit % chunks_, tile = unit / chunks_ % tiles_;
        const Int strip = unit / chunks_ / tiles_ % strips_, n = unit / chunks_ / tiles_ / strips_;
        const Product& p = reduce_[0];
        Int from = 0, count = 0;
        for (Int i = 0; i <= chunk; i++) {
            from += count;
            count = panel_vectors(p, from, panels_of(p) - i);
        }
        const Part part{0, chunk, chunk + 1, from, from + count};
        const Int left = tile * tile_, wide = std::min(tile_, g.out_width - left);
        const Int top = strip * strip_, bottom = std::min(top + strip_, g.out_height);
        Int ready = top * g.stride_y;
        for (Int row = top; row < bottom; row += BLOCK_ROWS) {
            const Int rows = std::min(BLOCK_ROWS, bottom - row), first = row * g.stride_y;
            fill_ring(work, n, part, std::max(ready, first), first + rows_in(rows),
                      left * g.stride_x - g.pad_x, columns_in(wide));
            ready = first + rows_in(rows);
            filter_rows(work, part, first, rows, wide, y_ + g.out.to(n, row, left), g.out.pixel,
                        g.out.row);
        }
    }

    void run_factored(Int unit, Work& work) const {
        const Int tile = unit % tiles_, strip = unit / tiles_ % strips_;
        const Int group = unit / tiles_ / strips_ % g.groups;
        const Int samples = unit / tiles_ / strips_ / g.groups * batch_;
        const Part part{group, 0, panels_of(reduce_[group]), 0, planes()};
        const Int left = tile * tile_, wide = std::min(tile_, g.out_width - left);
        const Int top = strip * strip_, bottom = std::min(top + strip_, g.out_height);
        for (Int i = 0; i < capacity_; i++) work.rows[i] = work.mid + i * channels();
        for (Int n = samples; n < std::min(samples + batch_, g.samples); n++) {
            Int ready = top * g.stride_y;  // rows, counted from the top of the padding
            for (Int row = top; row < bottom; row += BLOCK_ROWS) {
                const Int rows = std::min(BLOCK_ROWS, bottom - row), first = row * g.stride_y;
                if (work.used + rows * wide > capacity_) flush(work, group);
                fill_ring(work, n, part, std::max(ready, first), first + rows_in(rows),
                          left * g.stride_x - g.pad_x, columns_in(wide));
                ready = first + rows_in(rows);
                filter_rows(work, part, first, rows, wide, work.mid + work.used * channels(),
                            channels(), wide * channels());
                for (Int i = 0; i < rows; i++)
                    for (Int j = 0; j < wide; j++)
                        work.out[work.used++] =
                            y_ + g.out.to(n, row + i, left + j) + group * g.out_channels;
            }
        }
        flush(work, group);
    }

    // Reduce rows first … last, counted from the top of the padding, and columns from `left` on.
    void fill_ring(Work& work, Int sample, const Part& part, Int first, Int last, Int left,
                   Int columns) const {
        const Int step = plane();
        Int count = 0;
        for (Int row = first; row < last; row++) {
            const Int from = row - g.pad_y;
            float* slot = work.ring + row % ring_rows_ * pitch();
            for (Int j = 0; j < columns; j++, slot += LANES) {
                const Int column = left + j;
                if (from < 0 || from >= g.height || column < 0 || column >= g.width) {
                    for (Int p = part.plane; p < part.last_plane; p++) at(slot + p * step) = Vec{};
                } else {
                    work.reduce_from[count] =
                        x_ + g.in.to(sample, from, column) + part.group * g.channels;
                    work.reduce_to[count++] = slot;
                }
            }
        }
        product(work.reduce_from, count, reduce_[part.group], work.reduce_to, step, part.panel,
                part.last_panel);
    }

    void filter_rows(Work& work, const Part& part, Int first, Int rows, Int wide, float* out,
                     Int pixel, Int row) const {
        const Int columns = columns_in(wide), group = part.group;
        const bool plain = g.size_y == g.size_x && g.stride_y == 1 && g.stride_x == 1 &&
                           g.dilation_y == 1 && g.dilation_x == 1;
        for (Int i = 0; i < rows_in(rows); i++) work.slots[i] = (first + i) % ring_rows_ * pitch();
        for (Int p = part.plane; p < part.last_plane; p++) {
            const float* maps = work.ring + p * plane();
            for (Int i = 0; i < rows_in(rows); i++) work.down[i] = maps + work.slots[i];
            const float* down = vertical_ + (group * planes() + p) * g.size_y * LANES;
            const float* across = horizontal_ + (group * planes() + p) * g.size_x * LANES;
            if (plain && separable(work.down, g.size_y, down, across, rows, wide, out + p * LANES,
                                   pixel, row))
                continue;
            filter_down(work, down, rows, columns);
            filter_across(work, across, rows, wide, out + p * LANES, pixel, row);
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

    void filter_across(Work& work, const float* w, Int rows, Int wide, float* out, Int pixel,
                       Int row) const {
        const Int from = columns_ * LANES;
        if (g.stride_x == 1 && g.dilation_x == 1 &&
            slide(work.across, g.size_x, w, wide, rows, from, out, pixel, row))
            return;
        for (Int i = 0; i < rows; i++) {
            for (Int t = 0; t < g.size_x; t++)
                work.lines[t] = work.across[t * g.dilation_x] + i * from;
            filter(work.lines, g.size_x, w, wide, g.stride_x * LANES, out + i * row, pixel);
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
    Int chunks_ = 1;                                           // parts of the outputs, or terms
};

}  // namespace
