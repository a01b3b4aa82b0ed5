"""Convolutions that are matrix products: 1×1, of stride 1 and without padding, forward and both gradients.

Such a filter meets one pixel at a time, so with P = H·W pixels numbered p, in images n, the three sums are

    y[k, np] = b[k] + Σ_c  w[k, c] · x[c, np]          gx[c, np] = Σ_k  w[k, c] · gy[k, np]

    gw[k, c] = Σ_np  gy[k, np] · x[c, np]

and all of them are one product  c[m, n] = Σ_d a[m, d] · b[d, n],  whose operands lie in memory this way or that way
round. What makes a product fast is the same for all (Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix
Multiplication"): the register tile reads vectors of the right side from a copy, a *panel*, in just the order in which
it wants them,

    panel[n // width, d, n % width]          width: VECTORS vectors

of which `TILES` widths and a slice of `DEPTH` stay in the second-level cache while the tile goes down the rows. Each of
its numbers is used once for every ROWS rows, so the copy costs little, the more so as it goes by whole vectors:
neighbours along n are copied as such, and neighbours along d are turned by `interleave`. Of the left side the tile
reads single numbers. Where neighbours along d lie side by side, it reads them where they are; else from a copy, too,
panel[d, m].

As  cᵀ = bᵀ · aᵀ,  either side may be the left one. It is the one whose copy would cost more: for the weight gradient of
a layer with few filters the input, from where it lies, while only the small gy is turned.

Sums go to where the result lies. Those of tiles at an edge, or of a result whose rows are not neighbours, are put
together in scratch memory first. A thread's scratch memory is 0.8 MB with AVX2; it does not grow with the maps.
"""

import itertools
import math
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import copy_strided, gather
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import CACHE_LINE, empty, scratch_memory, whole_lines
from minifcn_kernels.moves import group_of, interleave, prefetch
from minifcn_kernels.tile import ROWS, VECTOR_BYTES, VECTORS, lanes_of, next_vectors, part_tile

# Along an index, numbers lie ``step`` apart, but after every ``length`` of them the next is ``jump`` from the first.
Axis: TypeAlias = tuple[int, int, int]

DEPTH = 96  # 9 KB of a right panel with AVX2, and the least error for long sums: see `tile`
TILES = 12  # widths of a tile in a right panel, at most: 110 KB of a second-level cache of 512 KB
LEFT_ROWS = 128  # in a left panel: 54 KB
LOT_ROWS = 512  # whose sums are finished before the next are begun
# What takes as long as so many multiply-adds: to copy a number by vectors, to turn one, and to go on to another row.
COPY, TURN, ROW = 8, 24, 256
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
    y = empty(g.y_shape, x.dtype)
    K, C, P = g.K // g.groups, g.C // g.groups, g.H * g.W
    multiply(y, w, x, (K, C, g.N * P), _filters(g), maps(g, g.C, P), maps(g, g.K, P), g.groups, b)
    return y


def conv2d_grad_input_product(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input` as a matrix product."""
    gx = empty(g.x_shape, gy.dtype)
    K, C, P = g.K // g.groups, g.C // g.groups, g.H * g.W
    multiply(gx, w, gy, (C, K, g.N * P), _filters(g).transposed, maps(g, g.K, P), maps(g, g.C, P), g.groups)
    return gx


def conv2d_grad_weight_product(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` as a matrix product."""
    gw = empty(g.w_shape, x.dtype)
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
    (exchanged, *lie), parts, tasks = _plan(size, left_lies, right_lies, out_lies, groups, out.itemsize)
    if exchanged:
        left, right, M = right, left, N
    # What sums begin with: the bias of their row, or nothing; the last tile may have rows beyond the last.
    starts = np.zeros(groups * M + M + ROWS, out.dtype)
    if bias is not None and not exchanged:
        starts[: groups * M] = bias
    partial = out if parts == 1 else empty((parts, *out.shape), out.dtype)
    width = VECTORS * VECTOR_BYTES // out.itemsize
    memory = TILES * (LOT_ROWS + DEPTH + 1) * width + DEPTH * (LEFT_ROWS + CACHE_LINE // out.itemsize) + width
    (scratch,) = scratch_memory(out.dtype, (get_num_threads(), *whole_lines(out.itemsize, memory)))
    pieces = max(TILES * width, LEFT_ROWS)  # of a panel's row: each has a number at least
    (scratch_places,) = scratch_memory(
        np.int64, (get_num_threads(), 3 * DEPTH + TILES * (VECTORS + 2) + 1 + 2 * pieces)
    )
    sides = left.reshape(-1), right.reshape(-1)
    _multiply.over(
        len(tasks),
        partial.reshape(-1),
        scratch,
        scratch_places,
        *sides,
        starts,
        *itertools.chain(*lie),
        out.size,
        tasks,
    )
    if parts > 1:
        np.sum(partial, axis=0, out=out)
    if bias is not None and exchanged:
        out += bias[:, None, None]


@lru_cache(maxsize=256)
def _plan(
    size: tuple[int, int, int], left: Operand, right: Operand, out: Operand, groups: int, item_bytes: int
) -> tuple[tuple[bool, Operand, Operand, Operand], int, Array]:
    """Choose which side is the left one, and how rows, columns and depth are cut, so that copies cost least.

    Returns:
        Whether the sides are exchanged, and how all three matrices lie then; the parts of a sum; the table of tasks.
    """
    M, D, N = size
    lanes = VECTOR_BYTES // item_bytes
    steps = ROWS, VECTORS * lanes, DEPTH
    wanted = min(TASKS, max(1, groups * M * N * D // FEWEST_PRODUCTS))
    ways = [((M, N, D), (False, left, right, out))]
    if out.columns[2] == 0:  # cᵀ = bᵀ · aᵀ, whose rows have to be evenly spaced
        ways.append(((N, M, D), (True, right.transposed, left.transposed, out.transposed)))

    def cost(choice: Any) -> tuple[int, float]:
        """Tasks that are missing; and multiply-adds, and what takes as long as they."""
        (lengths, (_, a, b, c)), cuts = choice
        rows, columns, depth = (
            -(-length // (cut * step)) * step for length, cut, step in zip(lengths, cuts, steps, strict=True)
        )
        depth = min(depth, D)
        from_left = rows * COPY / 2 if a.columns[1] == 1 else rows * COPY + ROW
        from_right = columns * COPY + ROW if b.columns[1] == 1 else columns * TURN
        copied = from_left * -(-columns // (TILES * steps[1])) + from_right * -(-rows // LOT_ROWS)
        moved = rows * columns * ((COPY if c.columns[1] == 1 else TURN) + (3 * COPY if cuts[2] > 1 else 0))
        tasks = math.prod(cuts)
        return max(0, wanted - groups * tasks), tasks * ((rows * columns + copied) * depth + moved)

    choices = [
        (way, cuts)
        for way in ways
        for cuts in itertools.product(
            *(range(1, min(TASKS, -(-length // step)) + 1) for length, step in zip(way[0], steps, strict=True))
        )
    ]
    (lengths, how), cuts = min(choices, key=cost)
    rows, columns, depths = (
        [(i * tiles // cut * step, min((i + 1) * tiles // cut * step, length)) for i in range(cut)]
        for length, cut, step in zip(lengths, cuts, steps, strict=True)
        for tiles in [-(-length // step)]
    )
    tasks = [
        (part, group, *m, *n, *d)
        for group in range(groups)
        for n in columns
        for m in rows
        for part, d in enumerate(depths)
    ]
    return how, cuts[2], np.array(tasks, TASK)


@compiled
def _multiply(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    scratch_places: Array,
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
    """Sum every part into its own place in ``out``; ``scratch`` and ``scratch_places`` have a row for each thread."""
    lanes = lanes_of(out)
    width = VECTORS * lanes
    M = out_rows[0]
    places = scratch_places[get_thread_id()]
    left_offset, right_offset, places = places[:DEPTH], places[DEPTH : 2 * DEPTH], places[2 * DEPTH :]
    starts, places = places[: TILES * VECTORS], places[TILES * VECTORS :]
    tile_vector, places = places[: TILES + 1], places[TILES + 1 :]
    column_place, places = places[:TILES], places[TILES:]
    for task in tasks[first:last]:
        memory, group = scratch[get_thread_id()], task.group
        out_first = task.part * part_step + group * out_group
        left_first, right_first = group * left_group, group * right_group
        bias_first = len(bias) - M - ROWS if task.part > 0 else task.group * M
        depth = task.d1 - task.d0
        slices = (depth + DEPTH - 1) // DEPTH
        depth = (depth + slices - 1) // slices
        # Panels end with room for a last vector that is longer than what is wanted of it. A row of the left one is an
        # odd number of cache lines long, so that rows do not contend for the same places in the cache.
        left_step, right_tile = LEFT_ROWS + CACHE_LINE * lanes // VECTOR_BYTES, (depth + 1) * width
        sums, memory = memory[: LOT_ROWS * TILES * width], memory[LOT_ROWS * TILES * width :]
        right_panel, left_panel = memory[: TILES * right_tile], memory[TILES * right_tile :]
        for d in range(depth):
            left_offset[d], right_offset[d] = d * left_step, d * width
        for v in range(len(starts)):
            starts[v] = v // VECTORS * right_tile + v % VECTORS * (width // VECTORS)

        # The last tile of a left side in place begins a few rows early, rather than have rows beyond the last.
        in_place = left_columns[1] == 1 and M >= ROWS
        left_side, left_row = (left, left_rows[1]) if in_place else (left_panel, 1)
        whole = M - M % ROWS
        early = ROWS - M % ROWS if in_place else 0

        for n0 in range(task.n0, task.n1, TILES * width):
            n1 = min(n0 + TILES * width, task.n1)
            # Of each tile, its first vector, and where its columns are in the result, if they are neighbours there.
            tiles, vectors, vector = 0, (n1 - n0 + lanes - 1) // lanes, 0
            while vector < vectors:
                n, columns = n0 + vector * lanes, next_vectors(vectors - vector) * lanes
                neighbours = (
                    n + columns <= n1 and n % out_columns[0] + columns <= out_columns[0] and out_columns[1] == 1
                )
                tile_vector[tiles] = vector
                column_place[tiles] = out_first + _place(n, out_columns) if neighbours else -1
                tiles, vector = tiles + 1, vector + columns // lanes
            tile_vector[tiles] = vectors
            sums_step = vectors * lanes
            for m0 in range(task.m0, task.m1, LOT_ROWS):
                m1 = min(m0 + LOT_ROWS, task.m1)
                for d0 in range(task.d0, task.d1, depth):
                    d1 = min(d0 + depth, task.d1)
                    for d in range(d0, d1 if in_place else d0):
                        left_offset[d - d0] = left_first + _place(d, left_columns)
                    for l0 in range(m0, m1, LEFT_ROWS):
                        l1 = min(l0 + LEFT_ROWS, m1)
                        # One call for both sides: a second copy of it would take a third longer to compile.
                        for side in range(0 if l0 == m0 else 1, 1 if in_place else 2):
                            panel, row_step, tile_step = right_panel, width, right_tile
                            source, begin, across, i0, i1, along = right, right_first, right_columns, n0, n1, right_rows
                            if side == 1:
                                panel, row_step, tile_step = left_panel, left_step, left_step
                                source, begin, across, i0, i1, along = left, left_first, left_rows, l0, l1, left_columns
                            _pack(panel, row_step, tile_step, source, begin, across, i0, i1, along, d0, d1, places)
                        for m in range(l0, l1, ROWS):
                            row = m if m < whole else m - early
                            place = row * left_row if in_place else m - l0
                            for next_row in range(ROWS, 2 * ROWS):
                                prefetch(left_side, place + next_row * left_row + left_offset[0])
                            for t in range(tiles):
                                vector = tile_vector[t]
                                target, to, step = (
                                    (out, column_place[t] + m * out_rows[1], out_rows[1])
                                    if column_place[t] >= 0 and m < whole
                                    else (sums, (m - m0) * sums_step + vector * lanes, sums_step)
                                )
                                part_tile(
                                    tile_vector[t + 1] - vector,
                                    d1 - d0,
                                    left_side, place, left_row, left_offset,
                                    right_panel, starts, vector, right_offset,
                                    target, to, step,
                                    d0 == task.d0, bias, bias_first + row,
                                )  # fmt: skip
                for t in range(tiles):
                    for m in range(m0 if column_place[t] < 0 else max(m0, whole), m1):
                        row = m - m0 if m < whole else m - m0 + early
                        n, end = n0 + tile_vector[t] * lanes, min(n0 + tile_vector[t + 1] * lanes, n1)
                        while n < end:
                            count = min(out_columns[0] - n % out_columns[0], end - n)
                            to = out_first + m * out_rows[1] + _place(n, out_columns)
                            copy_strided(out, to, out_columns[1], sums, row * sums_step + n - n0, 1, count)
                            n += count


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
    places: Array,
) -> None:
    """Copy a side to its panel, for n0 ≤ n < n1 and d0 ≤ d < d1::

    panel[(n - n0) // width · tile_step + (d - d0) · width + (n - n0) % width]
        = source[first + (place of n across) + (place of d along)]

    ``places`` is memory for that many of both.
    """
    lanes = lanes_of(panel)
    if across[1] == 1:
        offsets, places = places[: d1 - d0], places[d1 - d0 :]
        for d in range(d0, d1):
            offsets[d - d0] = first + _place(d, along)
        # Pieces of neighbours, each within one tile: see `gather`.
        froms, tos = places[: len(places) // 2], places[len(places) // 2 :]
        pieces, n = 0, n0
        while n < n1:
            column = (n - n0) % width
            froms[pieces], tos[pieces] = _place(n, across), (n - n0) // width * tile_step + column
            n += min(lanes, width - column, across[0] - n % across[0], n1 - n)
            pieces += 1
        gather(panel, width, source, offsets, d1 - d0, froms[:pieces], tos[:pieces])
    else:
        for n in range(n0, n1, group_of(panel)):
            rows = min(group_of(panel), n1 - n)
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
                d += count
