"""Convolutions that are matrix products: 1×1, of stride 1 and without padding, forward and both gradients.

Such a filter meets one pixel at a time, so with P = H·W pixels numbered p, in images n, the three sums are

    y[k, np] = b[k] + Σ_c  w[k, c] · x[c, np]          gx[c, np] = Σ_k  w[k, c] · gy[k, np]

    gw[k, c] = Σ_np  gy[k, np] · x[c, np]

and all of them are one product  c[m, n] = Σ_d a[m, d] · b[d, n],  whose operands lie in memory this way or that way
round. What makes a product fast is the same for all (Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix
Multiplication"): the register tile reads both sides from copies, *panels*, in just the order in which it wants them,

    panel[n // width, d, n % width]          width: ROWS on the left, VECTORS vectors on the right

of which a slice of `DEPTH` by one tile width stays in the first-level cache while the tile goes down the rows, and
`TILES` of them, with a lot of `LEFT_ROWS` rows, in the second. Each number of a panel is used a hundred times and
more, so the copy costs little, the more so as it goes by whole vectors: neighbours along n are copied as such, and
neighbours along d are turned by `interleave`. Sums go to where the result lies, but for those at its edges.

A thread's scratch memory is its two panels, 0.5 MB with AVX2 and float32; it does not grow with the maps.
"""

import itertools
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import gather
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.jit import Array, compiled, inlined, scratch_memory
from minifcn_kernels.tile import ROWS, VECTOR_BYTES, VECTORS, interleave, prefetch, tile

# Along an index, numbers lie ``step`` apart, but after every ``length`` of them the next is ``jump`` from the first.
Axis: TypeAlias = tuple[int, int, int]

DEPTH = 96  # 9 KB of a right panel with AVX2, and the least error for long sums: see `tile`
TILES = 12  # widths of a tile in a right panel, at most: 288 KB of a second-level cache of 512 KB
LEFT_ROWS = 128  # in a left panel: 128 KB
# A task has at least so many multiply-adds, as many as take 10 µs, and there are no more than so many tasks.
FEWEST_PRODUCTS = 2**19
TASKS = 8

# Part of the sum, group, and the ranges of rows, columns and depth.
TASK = np.dtype([(name, np.int64) for name in ("part", "group", "m0", "m1", "n0", "n1", "d0", "d1")])


class Operand(NamedTuple):
    """How a matrix lies in a flat array: two axes, and the step from a group to the next."""

    rows: Axis
    columns: Axis
    group: int

    @property
    def transposed(self) -> "Operand":
        """The same numbers, with rows and columns exchanged."""
        return Operand(self.columns, self.rows, self.group)


def is_product(g: ConvGeometry) -> bool:
    """Whether every output pixel meets just the one input pixel at the same place."""
    return (g.R, g.S, *g.stride, *g.padding) == (1, 1, 1, 1, 0, 0)


def conv2d_product(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d` as a matrix product."""
    y = np.empty(g.y_shape, x.dtype)
    K, C, P = g.K // g.groups, g.C // g.groups, g.H * g.W
    multiply(y, w, x, (K, C, g.N * P), _filters(g), maps(g, g.C, P), maps(g, g.K, P), g.groups, b)
    return y


def conv2d_grad_input_product(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input` as a matrix product."""
    gx = np.empty(g.x_shape, gy.dtype)
    K, C, P = g.K // g.groups, g.C // g.groups, g.H * g.W
    multiply(gx, w, gy, (C, K, g.N * P), _filters(g).transposed, maps(g, g.K, P), maps(g, g.C, P), g.groups)
    return gx


def conv2d_grad_weight_product(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` as a matrix product."""
    gw = np.empty(g.w_shape, x.dtype)
    K, C, P = g.K // g.groups, g.C // g.groups, g.H * g.W
    multiply(gw, gy, x, (K, g.N * P, C), maps(g, g.K, P), maps(g, g.C, P).transposed, _filters(g), g.groups)
    return gw


def _filters(g: ConvGeometry) -> Operand:
    """Filters as a matrix (filter, channel)."""
    K, C = g.K // g.groups, g.C // g.groups
    return Operand((K, C, 0), (C, 1, 0), K * C)


def maps(g: ConvGeometry, channels: int, pixels: int) -> Operand:
    """Maps of so many channels and pixels as a matrix (channel, pixel), in which image follows on image."""
    in_group = channels // g.groups
    columns = (pixels, 1, channels * pixels) if pixels > 1 else (g.N, channels, 0)
    return Operand((in_group, pixels, 0), columns, in_group * pixels)


def multiply(
    out: Array,
    left: Array,
    right: Array,
    size: tuple[int, int, int],
    left_lies: Operand,
    right_lies: Operand,
    out_lies: Operand,
    groups: int = 1,
    bias: Array | None = None,
) -> None:
    """Write the product of ``left`` (M × D) and ``right`` (D × N), plus a row's ``bias``, to ``out``, group by group.

    Args:
        out: C-contiguous, of whatever shape, as are left and right.
        size: M, D and N.
        left_lies, right_lies, out_lies: where the matrices' elements are.
        groups: so many products.
        bias: (groups · M,), or None for zero.
    """
    M, D, N = size
    if M * D * N == 0:
        out[...] = 0 if bias is None else bias[:, None, None]
        return
    by_column = out_lies.columns[1] != 1
    if by_column:  # vectors are written along rows; maps of one pixel are neighbours along the channels
        left, right, M, N = right, left, N, M
        left_lies, right_lies, out_lies = right_lies.transposed, left_lies.transposed, out_lies.transposed
    parts, tasks = _plan(M, D, N, groups, out.itemsize)
    # What sums begin with: the bias of their row, or nothing; the last tile may have rows beyond the last.
    starts = np.zeros(groups * M + M + ROWS, out.dtype)
    if bias is not None and not by_column:
        starts[: groups * M] = bias
    partial = out if parts == 1 else np.empty((parts, *out.shape), out.dtype)
    threads = get_num_threads()
    width = VECTORS * VECTOR_BYTES // out.itemsize
    memory = TILES * (DEPTH + 1) * width + LEFT_ROWS * (DEPTH + width) + ROWS * width
    (scratch,) = scratch_memory((threads, memory * out.itemsize // 4))
    lie = (*left_lies, *right_lies, *out_lies)
    sides = left.reshape(-1), right.reshape(-1)
    _multiply.over(len(tasks), partial.reshape(-1), scratch.view(out.dtype), *sides, starts, *lie, out.size, tasks)
    if parts > 1:
        np.sum(partial, axis=0, out=out)
    if bias is not None and by_column:
        out += bias[:, None, None]


@lru_cache(maxsize=256)
def _plan(M: int, D: int, N: int, groups: int, item_bytes: int) -> tuple[int, Array]:
    """Cut rows, columns and depth so that the copies cost least; return the parts of a sum, and the table of tasks."""
    lanes = VECTOR_BYTES // item_bytes
    width = VECTORS * lanes
    row_tiles, column_tiles, slices = -(-M // ROWS), -(-N // width), -(-D // DEPTH)
    wanted = min(TASKS, max(1, groups * M * N * D // FEWEST_PRODUCTS))

    def cost(cuts: tuple[int, int, int]) -> tuple[int, float]:
        """Tasks that are missing; and multiply-adds, to which a number that is copied or added counts as a vector."""
        m, n, d = cuts
        rows, columns = -(-row_tiles // m) * ROWS, -(-column_tiles // n) * width
        lots = -(-columns // (TILES * width))
        depth = -(-slices // d) * DEPTH if d > 1 else D
        copied = (rows * lots + columns) * depth + (3 * rows * columns if d > 1 else 0)
        return max(0, wanted - groups * m * n * d), m * n * d * (rows * columns * depth + copied * lanes)

    most_m, most_n, most_d = (min(most, TASKS) for most in (row_tiles, column_tiles, slices))
    choices = itertools.product(range(1, most_m + 1), range(1, most_n + 1), range(1, most_d + 1))
    best = min(choices, key=cost)
    rows, columns, depths = (
        [(part * tiles // parts * step, min((part + 1) * tiles // parts * step, size)) for part in range(parts)]
        for parts, tiles, step, size in zip(
            best, (row_tiles, column_tiles, slices), (ROWS, width, DEPTH), (M, N, D), strict=True
        )
    )
    tasks = [
        (part, group, *m, *n, *d)
        for group in range(groups)
        for n in columns
        for m in rows
        for part, d in enumerate(depths)
    ]
    return best[2], np.array(tasks, TASK)


@compiled
def _multiply(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    left: Array,
    right: Array,
    bias: Array,
    left_rows: Axis,
    left_columns: Axis,
    left_group: int,
    right_rows: Axis,
    right_columns: Axis,
    right_group: int,
    out_rows: Axis,
    out_columns: Axis,
    out_group: int,
    part_step: int,
    tasks: Array,
) -> None:
    """Sum every part into its own place in ``out``; ``scratch`` has a row for each thread."""
    for task in tasks[first:last]:
        _run_task(
            *(out, out_rows, out_columns, task.part * part_step + task.group * out_group),
            *(left, left_rows, left_columns, task.group * left_group),
            *(right, right_rows, right_columns, task.group * right_group),
            *(bias, scratch[get_thread_id()], task),
        )


@inlined
def _run_task(
    out: Array,
    out_rows: Axis,
    out_columns: Axis,
    out_first: int,
    left: Array,
    left_rows: Axis,
    left_columns: Axis,
    left_first: int,
    right: Array,
    right_rows: Axis,
    right_columns: Axis,
    right_first: int,
    bias: Array,
    memory: Array,
    task: Any,
) -> None:
    lanes = VECTOR_BYTES // out.itemsize
    width = VECTORS * lanes
    no_bias = len(bias) - out_rows[0] - ROWS
    bias_first = no_bias if task.part > 0 else task.group * out_rows[0]
    depth = task.d1 - task.d0
    slices = (depth + DEPTH - 1) // DEPTH
    depth = (depth + slices - 1) // slices
    # A tile's panel ends with room for a last vector that is longer than what is wanted of it.
    left_tile, right_tile = depth * ROWS + lanes, depth * width + lanes
    edge, memory = memory[: ROWS * width], memory[ROWS * width :]
    right_panel, left_panel = memory[: TILES * right_tile], memory[TILES * right_tile :]
    left_offset, right_offset = np.empty(depth, np.int64), np.empty(depth, np.int64)
    for d in range(depth):
        left_offset[d], right_offset[d] = d * ROWS, d * width
    starts = np.empty(TILES * VECTORS, np.int64)
    for v in range(len(starts)):
        starts[v] = v // VECTORS * right_tile + v % VECTORS * lanes

    for n0 in range(task.n0, task.n1, TILES * width):
        n1 = min(n0 + TILES * width, task.n1)
        for d0 in range(task.d0, task.d1, depth):
            d1 = min(d0 + depth, task.d1)
            fresh = d0 == task.d0
            _pack(right_panel, width, right_tile, right, right_first, right_columns, n0, n1, right_rows, d0, d1)
            for m0 in range(task.m0, task.m1, LEFT_ROWS):
                m1 = min(m0 + LEFT_ROWS, task.m1)
                _pack(left_panel, ROWS, left_tile, left, left_first, left_rows, m0, m1, left_columns, d0, d1)
                for n in range(n0, n1, width):
                    columns, column_first = min(width, n1 - n), out_first + _place(n, out_columns)
                    whole = columns == width and n % out_columns[0] + width <= out_columns[0]
                    for m in range(m0, m1, ROWS):
                        rows = min(ROWS, m1 - m)
                        first = column_first + m * out_rows[1]
                        in_place = whole and rows == ROWS
                        target, to, step = (out, first, out_rows[1]) if in_place else (edge, 0, width)
                        begin = (bias_first if fresh else no_bias) + m
                        tile(
                            *(d1 - d0, ROWS),
                            *(left_panel, (m - m0) // ROWS * left_tile, 1, left_offset),
                            *(right_panel, starts, (n - n0) // width * VECTORS, right_offset),
                            *(target, to, step),
                            *(fresh | (not in_place), bias, begin),
                        )
                        if not in_place:
                            _move_edge(out, first, out_rows[1], out_columns, edge, rows, n, columns, fresh)


@inlined
def _place(index: int, axis: Axis) -> int:
    return index // axis[0] * axis[2] + index % axis[0] * axis[1]


@inlined
def _pack(
    panel: Array,
    width: int,
    tile_step: int,
    source: Array,
    first: int,
    across: Axis,
    n0: int,
    n1: int,
    along: Axis,
    d0: int,
    d1: int,
) -> None:
    """Copy a side to its panel, for n0 ≤ n < n1 and d0 ≤ d < d1::

    panel[(n - n0) // width · tile_step + (d - d0) · width + (n - n0) % width]
        = source[first + (place of n across) + (place of d along)]
    """
    lanes = VECTOR_BYTES // panel.itemsize
    if across[1] == 1:
        offsets = np.empty(d1 - d0, np.int64)
        for d in range(d0, d1):
            offsets[d - d0] = first + _place(d, along)
        # Pieces of neighbours, each within one tile: see `gather`.
        froms = np.empty((n1 - n0) // min(lanes, width) + 2 * ((n1 - n0) // min(across[0], width) + 2), np.int64)
        tos = np.empty(len(froms), np.int64)
        pieces, n = 0, n0
        while n < n1:
            column = (n - n0) % width
            froms[pieces], tos[pieces] = _place(n, across), (n - n0) // width * tile_step + column
            n += min(lanes, width - column, across[0] - n % across[0], n1 - n)
            pieces += 1
        gather(panel, width, source, offsets, d1 - d0, froms[:pieces], tos[:pieces])
    else:
        for n in range(n0, n1, ROWS):
            rows = min(ROWS, n1 - n)
            tile_first = (n - n0) // width * tile_step + (n - n0) % width
            d = d0
            while d < d1:
                count = min(along[0] - d % along[0], d1 - d)  # neighbours
                to, place = tile_first + (d - d0) * width, first + n * across[1] + _place(d, along)
                if count < lanes:
                    for j in range(count):
                        for row in range(rows):
                            panel[to + j * width + row] = source[place + j + row * across[1]]
                for j in range(0, count if count >= lanes else 0, lanes):
                    # The last vectors are whole ones again; some of them may be there already.
                    i = min(j, count - lanes)
                    interleave(panel, to + i * width, width, source, place + i, across[1], rows)
                    for row in range(ROWS):  # the next rows
                        prefetch(source, place + i + (ROWS + row) * across[1])
                d += count


@inlined
def _move_edge(
    out: Array, first: int, step: int, out_columns: Axis, edge: Array, rows: int, n: int, columns: int, fresh: bool
) -> None:
    """Add a tile at an edge, of ``rows`` and ``columns`` from column n on, to ``out``; if ``fresh``, write it there."""
    width = len(edge) // ROWS
    base = first - _place(n, out_columns)
    column = 0
    while column < columns:
        run = min(out_columns[0] - (n + column) % out_columns[0], columns - column)  # neighbours
        for row in range(rows):
            source, to = row * width + column, base + _place(n + column, out_columns) + row * step
            for j in range(run):
                out[to + j] = edge[source + j] if fresh else out[to + j] + edge[source + j]
        column += run
