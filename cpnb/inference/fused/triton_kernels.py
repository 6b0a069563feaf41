"""The two Triton kernels behind `gpu`: reduce with vertical, horizontal with expand.

Maps lie in NHWC order. What the four small convolutions of a factored layer would write and read
three times on their way, R channels wide, is written and read once, between the two kernels; the
bias, the maxout and the ReLU are applied before a result leaves the registers. Sums are in float32.
"""

import triton
import triton.language as tl


# Sizes of the input: a kernel compiled for one of them serves the others.
@triton.jit(do_not_specialize=["height", "width", "out_height", "row_tiles"])
def reduce_vertical(
    x, weights, taps, z, channels, rank, height, width, out_height, row_tiles,
    stride, dilation, pad, steps, size: tl.constexpr, precision: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANKS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """z(y', x, r) = Σ_i taps(i, r) Σ_s weights(s, r) x(y'·stride + i·dilation − pad, x, s).

    A program makes a tile of ROWS × COLUMNS × RANKS. It walks down the `steps` input rows that the
    tile depends on, reduces each one to RANKS channels once, and adds it to every output row that
    it belongs to. Grid: (samples · row tiles, column tiles, groups · rank tiles).
    """
    sample, tile = tl.program_id(0) // row_tiles, tl.program_id(0) % row_tiles
    rank_tiles = tl.cdiv(rank, RANKS)
    group = tl.program_id(2) // rank_tiles
    groups = tl.num_programs(2) // rank_tiles
    row = tile * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    r = (tl.program_id(2) % rank_tiles) * RANKS + tl.arange(0, RANKS)
    depth = tl.arange(0, DEPTH)
    acc = tl.zeros((ROWS, COLUMNS, RANKS), tl.float32)
    for step in range(steps):
        y = tile * ROWS * stride - pad + step
        row_of = y + tl.zeros_like(column)  # a block: one truth value does not join a block of them
        kept_columns = (row_of >= 0) & (row_of < height) & (column < width)
        line = (sample.to(tl.int64) * height + y) * width
        reduced = tl.zeros((COLUMNS, RANKS), tl.float32)
        for s in range(0, channels, DEPTH):
            of_x = (line + column[:, None]) * channels * groups + group * channels + s + depth
            part = kept_columns[:, None] & (s + depth < channels)
            of_weights = (group * channels + s + depth[:, None]) * rank + r
            kept = (s + depth[:, None] < channels) & (r < rank)
            reduced = tl.dot(
                tl.load(x + of_x, part, 0.0), tl.load(weights + of_weights, kept, 0.0),
                reduced, input_precision=precision,
            )  # fmt: skip
        away = step - tl.arange(0, ROWS) * stride
        tap = away // dilation
        belongs = (away >= 0) & (away % dilation == 0) & (tap < size)
        of_taps = (group * size + tap[:, None]) * rank + r
        tap = tl.load(taps + of_taps, belongs[:, None] & (r < rank), 0.0).to(tl.float32)
        # Chosen, not multiplied by zero: a NaN stays in the rows that it belongs to.
        acc += tl.where(belongs[:, None, None], tap[:, None, :] * reduced[None, :, :], 0.0)
    line = (sample.to(tl.int64) * out_height + row[:, None]) * width + column
    of_z = line[:, :, None] * rank * groups + group * rank + r
    kept = (row[:, None] < out_height) & (column < width)
    tl.store(z + of_z, acc.to(z.dtype.element_ty), kept[:, :, None] & (r < rank))


@triton.jit(do_not_specialize=["positions", "width", "out_width"])
def horizontal_expand(
    z, taps, weights, bias, y, rank, outputs, positions, width, out_width,
    stride, dilation, pad, size, GROUP: tl.constexpr, RELU: tl.constexpr,
    precision: tl.constexpr, POSITIONS: tl.constexpr, OUTPUTS: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    """y(x', t) = act(bias(t) + Σ_r weights(r, t) Σ_j taps(j, r) z(x'·stride + j·dilation − pad, r))

    act takes the largest of GROUP neighbouring outputs, then the ReLU. `positions` counts those of
    all lines of all samples. Grid: (position tiles, output tiles, groups).
    """
    group, groups = tl.program_id(2), tl.num_programs(2)
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    line = (position // out_width).to(tl.int64) * width
    first = (position % out_width) * stride - pad
    t = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    acc = tl.zeros((POSITIONS, OUTPUTS), tl.float32)
    for start in range(0, rank, RANKS):
        r = start + tl.arange(0, RANKS)
        maps = tl.zeros((POSITIONS, RANKS), tl.float32)
        for j in range(size):
            column = first + j * dilation
            kept = (position < positions) & (column >= 0) & (column < width)
            of_z = (line + column)[:, None] * rank * groups + group * rank + r
            tap = tl.load(taps + (group * size + j) * rank + r, r < rank, 0.0)
            maps += tl.load(z + of_z, kept[:, None] & (r < rank), 0.0) * tap.to(tl.float32)
        of_weights = (group * rank + r[:, None]) * outputs + t
        kept = (r[:, None] < rank) & (t < outputs)
        panel = tl.load(weights + of_weights, kept, 0.0)
        acc = tl.dot(maps.to(panel.dtype), panel, acc, input_precision=precision)
    acc += tl.load(bias + group * outputs + t, t < outputs, 0.0).to(tl.float32)
    if GROUP >= 2:
        acc = larger_of_pairs(acc, POSITIONS, OUTPUTS)
    if GROUP == 4:
        acc = larger_of_pairs(acc, POSITIONS, OUTPUTS // 2)
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    kinds = outputs // GROUP
    t = tl.program_id(1) * (OUTPUTS // GROUP) + tl.arange(0, OUTPUTS // GROUP)
    of_y = (position.to(tl.int64) * groups + group)[:, None] * kinds + t
    kept = (position < positions)[:, None] & (t < kinds)
    tl.store(y + of_y, acc.to(y.dtype.element_ty), kept)


@triton.jit
def larger_of_pairs(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The larger of each two neighbours of a row; NaN where one is."""
    one, other = tl.split(tl.reshape(values, (ROWS, COLUMNS // 2, 2)))
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)
