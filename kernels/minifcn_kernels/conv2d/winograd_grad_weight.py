"""The weight gradient of a convolution at Winograd's 36 points.

With the matrices of `winograd_transforms`, and as the transpose of what `winograd` does,

    S[point, v, k] = Σ_tiles V[point, v, tile] · Z[point, k, tile]        GW = Gᵀ S G

with V = Bᵀ D B the data as there, and Z = A GY Aᵀ the gradient of a tile's 4×4 outputs at the 36 points. Again 36
matrix products; virtual channels are the rows of the register tile and filters its columns, so Z has vectors of
filters.

The sum runs over all tiles. Threads share out channels and filters, not tiles, so that each adds up sums of its own,
from the first tile to the last: the same bits for any number of threads. They work in step: all transform the data and
the gradients of some boxes, all multiply; and so on with the next boxes.

If all channels and filters fit a single block, threads would spend more time waiting for each other than multiplying.
So the boxes are cut into parts, by the geometry alone. A thread goes through a part box by box, and transforms and
multiplies in its own cache; in the end, the sums of the parts are added up in their order. With two threads that takes
0.6 to 0.85 of the time, and with one it is no slower.

**Error.** As in `winograd`, for the same 28 roundings (4 and 4 in the two products with Bᵀ and A each, 12 in those with
Gᵀ) and one for each of the T tiles that are added up:

    |error of GW| ≤ γ(28 + T) · |Gᵀ| [Σ_tiles (|A| |GY| |Aᵀ|) ⊙ (|Bᵀ| |D| |B|)] |G|

Scratch memory is the transforms of as many boxes as `BATCH` numbers hold (8 MB; but of one box at least, which is 14 KB
for each virtual channel and filter), a thread's sums of a block (0.5 MB with AVX2) and, if there are several batches,
those of all blocks: 36 numbers for each origin of a filter's channel. With parts it is a box and a block's sums for
each thread, and such sums for each part. It does not grow with the image.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import add_run, fill
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.conv2d.vectors import LANES, deal, move_row
from minifcn_kernels.conv2d.winograd_tiles import (
    CHANNELS,
    POSITIONS,
    ROW,
    SKEW,
    V_BLOCK,
    V_PANEL,
    V_STEP,
    WIDTH,
    WORKSPACE,
    copy_apart,
    cut_into_boxes,
    input_rows,
    lay_out,
    output_rows,
    scratch_rows,
    tile_rows,
    transform_data,
)
from minifcn_kernels.conv2d.winograd_transforms import POINTS, REACH, TAPS, TILE, outputs_to_points, points_to_taps
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import empty, scratch_memory
from minifcn_kernels.moves import interleave, move_number
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTORS, next_vectors, part_tile

# Numbers in the transforms of the boxes that are worked on together.
BATCH = 2**21
# Channels that a thread transforms in one go.
SHARE = 8
# Steps in the transforms of a vector of filters: from point to point, and to the next vector.
Z_STEP = POSITIONS * LANES + SKEW
Z_BLOCK = POINTS * Z_STEP
# What a thread needs to transform such a vector: a row of each filter, the tiles, and one tile at 24 and 36 points. It
# is more than it needs to go back.
DESK = max(WORKSPACE, LANES * ROW + TILE * TILE * Z_STEP + TILE * REACH * LANES)
# At most so many virtual channels and vectors of filters make a block, whose sums (440 KB with AVX2, twice that with
# AVX-512) stay in a second-level cache of 512 KB, or of 1 MB, until all 36 points are there. Rather less, if that would
# make only a few blocks.
BLOCK_CHANNELS, BLOCK_VECTORS = 64, 2 * VECTORS
S_BLOCK = POINTS * (BLOCK_CHANNELS * BLOCK_VECTORS * LANES + SKEW)
FEW_BLOCKS = 8
# Channels whose taps are turned together.
TURNED = min(ROWS, LANES)
PARTS = 8  # enough to keep several threads evenly busy
# Where the tile finds its tiles and the vectors of filters in Z, and what its sums begin with.
Z_OFFSETS, STARTS, ZEROS = np.arange(POSITIONS) * LANES, np.arange(VECTORS) * Z_BLOCK, np.zeros(ROWS, np.float32)

BLOCK = np.dtype([(name, np.int64) for name in ("v0", "v1", "k0", "k1")])  # virtual channels, and vectors of filters


def conv2d_grad_weight_winograd(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` by Winograd's F(4×4, 3×3), transposed."""
    grid, origins = lay_out(g)
    boxes = cut_into_boxes(*tile_rows(g.N, grid), POSITIONS)
    if len(boxes) == 0:
        return np.zeros(g.w_shape, x.dtype)
    C, K = g.C // g.groups, g.K // g.groups
    depth, vectors = len(origins) * C, -(-K // LANES)
    blocks = _cut(depth, vectors)
    v_step, z_step = -(-depth // CHANNELS) * V_BLOCK, vectors * Z_BLOCK  # from box to box
    together = max(1, min(len(boxes), BATCH // (v_step + z_step)))
    threads = get_num_threads()
    gw = empty(g.w_shape, x.dtype)
    rows = scratch_rows(threads, boxes, origins)
    if together < len(boxes) and depth <= BLOCK_CHANNELS and vectors <= BLOCK_VECTORS:
        parts = min(PARTS, len(boxes))
        cuts = np.arange(parts + 1) * len(boxes) // parts
        desks, sums, V, Z, totals = scratch_memory(
            np.float32, (threads, DESK), (threads, S_BLOCK), (threads, v_step), (threads, z_step), (parts, S_BLOCK)
        )
        for group in range(g.groups):
            where = grid, origins, g.groups, group
            _add_up_part.over(parts, totals, desks, V, Z, *rows, x, gy, *where, boxes, cuts, *_tiles_of(boxes))
            _add_up_parts.over(len(blocks), gw, sums, desks, totals, *where, blocks)
        return gw

    kept = len(blocks) if together < len(boxes) else 0
    desks, sums, V, Z, totals = scratch_memory(
        np.float32, (threads, DESK), (threads, S_BLOCK), (together, v_step), (together, z_step), (kept, S_BLOCK)
    )
    pieces = -(-C // SHARE) + -(-K // LANES)
    for group in range(g.groups):
        where = grid, origins, g.groups, group
        for box0 in range(0, len(boxes), together):
            batch = boxes[box0 : box0 + together]
            _transform.over(len(batch) * pieces, V, Z, desks, *rows, x, gy, *where, batch)
            begins, ends = box0 == 0, box0 + together >= len(boxes)
            more = blocks, *_tiles_of(batch), begins, ends
            _add_up.over(len(blocks), gw, totals, sums, desks, V, Z, *where, *more)
    return gw


@lru_cache(maxsize=256)
def _cut(depth: int, vectors: int) -> Array:
    """Cut the sums of ``depth`` virtual channels and ``vectors`` of filters into blocks."""
    channels, filters = BLOCK_CHANNELS, BLOCK_VECTORS
    while -(-depth // channels) * -(-vectors // filters) < FEW_BLOCKS and channels > ROWS:
        channels, filters = (channels, VECTORS) if filters > VECTORS else (channels // 2, filters)
    blocks = [
        (v, min(v + channels, depth), k, min(k + filters, vectors))
        for v in range(0, depth, channels)
        for k in range(0, vectors, filters)
    ]
    return np.array(blocks, BLOCK)


def _tiles_of(boxes: Array) -> tuple[Array, Array]:
    """Return how many tiles there are in each box, and where each of them lies in the transforms of a channel."""
    columns = boxes["q1"] - boxes["q0"]
    tile = np.arange(POSITIONS)
    position = tile + tile // columns[:, None]  # behind each row, one is empty
    return (boxes["r1"] - boxes["r0"]) * columns, position // WIDTH * V_PANEL + position % WIDTH


@compiled
def _transform(
    first: int,
    last: int,
    out_V: Array,
    out_Z: Array,
    scratch: Array,
    scratch_inputs: Array,
    scratch_outputs: Array,
    x: Array,
    gy: Array,
    grid: Array,
    origins: Array,
    groups: int,
    group: int,
    boxes: Array,
) -> None:
    """Transform the data and the gradient under some boxes: units are pieces of a box, each some of its channels."""
    pieces = (x.shape[1] // groups + SHARE - 1) // SHARE + (gy.shape[1] // groups + LANES - 1) // LANES
    thread = get_thread_id()
    desk, inputs, outputs = scratch[thread], scratch_inputs[thread], scratch_outputs[thread]
    for unit in range(first, last):
        box, piece = unit // pieces, unit % pieces
        where = grid[0], origins, groups, group, boxes[box]
        _transform_piece(out_V[box], out_Z[box], piece, desk, inputs, outputs, x, gy, *where)


@inlined
def _transform_piece(
    V: Array,
    Z: Array,
    piece: int,
    desk: Array,
    inputs: Array,
    outputs: Array,
    x: Array,
    gy: Array,
    grid: Any,
    origins: Array,
    groups: int,
    group: int,
    box: Any,
) -> None:
    """Transform a piece of a box: some channels of the data, or else a vector of filters of the gradient."""
    K, C = gy.shape[1] // groups, x.shape[1] // groups
    shares = (C + SHARE - 1) // SHARE
    if piece < shares:
        x_rows = inputs[:, : (box.r1 - box.r0) * REACH]
        input_rows(x_rows, x, origins, grid, box)
        for v in range(piece * SHARE * len(origins), min(C, (piece + 1) * SHARE) * len(origins)):
            x_first = (group * C + v // len(origins)) * x.shape[2] * x.shape[3]
            v_first, rows = v // CHANNELS * V_BLOCK + v % CHANNELS * WIDTH, x_rows[v % len(origins)]
            transform_data(V, v_first, x, x_first, rows, grid.step_w, box, desk)
    else:
        k0, k1 = (piece - shares) * LANES, min(K, (piece - shares + 1) * LANES)
        gy_rows = outputs[: (box.r1 - box.r0) * TILE]
        output_rows(gy_rows, gy, grid, box)
        _transform_gradient(Z[(piece - shares) * Z_BLOCK :], gy_rows, gy, group * K + k0, k1 - k0, grid, box, desk)


@compiled
def _add_up_part(
    first: int,
    last: int,
    out_totals: Array,
    scratch: Array,
    scratch_V: Array,
    scratch_Z: Array,
    scratch_inputs: Array,
    scratch_outputs: Array,
    x: Array,
    gy: Array,
    grid: Array,
    origins: Array,
    groups: int,
    group: int,
    boxes: Array,
    cuts: Array,
    tiles: Array,
    offsets: Array,
) -> None:
    """Sum over each part of the boxes for itself, all channels and filters at once."""
    depth, vectors = x.shape[1] // groups * len(origins), (gy.shape[1] // groups + LANES - 1) // LANES
    pieces = (x.shape[1] // groups + SHARE - 1) // SHARE + vectors
    s_row, s_step = _steps(depth, vectors)
    thread = get_thread_id()
    desk, inputs, outputs = scratch[thread], scratch_inputs[thread], scratch_outputs[thread]
    V, Z = scratch_V[thread : thread + 1], scratch_Z[thread : thread + 1]
    for part in range(first, last):
        for box in range(cuts[part], cuts[part + 1]):
            where = grid[0], origins, groups, group, boxes[box]
            for piece in range(pieces):
                _transform_piece(V[0], Z[0], piece, desk, inputs, outputs, x, gy, *where)
            here = tiles[box : box + 1], offsets[box : box + 1]
            _multiply(out_totals[part], s_row, s_step, V, Z, 0, depth, 0, vectors, *here, box == cuts[part])


@compiled
def _add_up_parts(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    scratch_desks: Array,
    totals: Array,
    grid: Array,
    origins: Array,
    groups: int,
    group: int,
    blocks: Array,
) -> None:
    """Add up the sums of the parts, block by block, and write the weights' gradients."""
    K = out.shape[0] // groups
    total_row, total_step = _steps(out.shape[1] * len(origins), (K + LANES - 1) // LANES)
    s, desk = scratch[get_thread_id()], scratch_desks[get_thread_id()]
    for block in blocks[first:last]:
        s_row, s_step = _steps(block.v1 - block.v0, block.k1 - block.k0)
        for point in range(POINTS):
            for v in range(block.v1 - block.v0):
                to = point * s_step + v * s_row
                source = point * total_step + (block.v0 + v) * total_row + block.k0 * LANES
                fill(s, to, s_row, 0)
                for part in range(len(totals)):
                    add_run(s, to, totals[part], source, s_row)
        _transform_back(out, desk, s, s_row, s_step, group, K, block, grid[0], origins)


@compiled
def _add_up(
    first: int,
    last: int,
    out: Array,
    out_totals: Array,
    scratch: Array,
    scratch_desks: Array,
    V: Array,
    Z: Array,
    grid: Array,
    origins: Array,
    groups: int,
    group: int,
    blocks: Array,
    tiles: Array,
    offsets: Array,
    begins: bool,
    ends: bool,
) -> None:
    """Sum over some boxes, block by block, and add the sums to those of boxes before them.

    ``tiles`` and ``offsets`` are `_tiles_of` these boxes. ``begins`` and ``ends`` say whether they are the first boxes,
    and the last.
    """
    s, desk = scratch[get_thread_id()], scratch_desks[get_thread_id()]
    for unit in range(first, last):
        block = blocks[unit]
        s_row, s_step = _steps(block.v1 - block.v0, block.k1 - block.k0)
        _multiply(s, s_row, s_step, V, Z, block.v0, block.v1, block.k0, block.k1, tiles, offsets, True)
        if not begins:
            total = out_totals[unit]
            for i in range(POINTS * s_step):
                s[i] += total[i]
        if ends:
            _transform_back(out, desk, s, s_row, s_step, group, out.shape[0] // groups, block, grid[0], origins)
        else:
            total = out_totals[unit]
            for i in range(POINTS * s_step):
                total[i] = s[i]


@inlined
def _steps(channels: int, vectors: int) -> Pair:
    """Return the steps in the sums of a block, from virtual channel to virtual channel and from point to point."""
    row = vectors * LANES
    return row, (channels + ROWS - 1) // ROWS * ROWS * row + SKEW


@inlined
def _transform_gradient(
    Z: Array, gy_rows: Array, gy: Array, k: int, filters: int, grid: Any, box: Any, desk: Array
) -> None:
    """A GY Aᵀ of all tiles of a box, for the filters in the lanes of a vector: Z[point·Z_STEP + tile·LANES + lane].

    Outputs beyond the map's edge are zero. Lanes without a filter hold numbers without meaning.
    """
    gy_flat = gy.reshape(-1)
    columns, plane = box.q1 - box.q0, gy.shape[2] * gy.shape[3]
    rows, desk = desk[: LANES * ROW], desk[LANES * ROW :]
    tiles, points = desk[: TILE * TILE * Z_STEP], desk[TILE * TILE * Z_STEP :]
    four = len(gy_rows) // (box.r1 - box.r0)  # see `transform_data`
    for r in range(box.r1 - box.r0):
        for i in range(four):
            first, count = gy_rows[r * TILE + i, 0], gy_rows[r * TILE + i, 1]
            for lane in range(filters):
                gy_first = first + (k + lane) * plane
                if grid.every_w == 1:
                    move_row(rows, lane * ROW, gy_flat, gy_first, 0, count, TILE * columns)
                else:
                    copy_apart(rows, lane * ROW, gy_flat, gy_first, grid.every_w, 0, count, TILE * columns)
            for q in range(columns):
                deal(tiles, i * TILE * Z_STEP + q * LANES, Z_STEP, rows, q * TILE, ROW)
        for q in range(columns):
            for j in range(four):
                first = j * Z_STEP + q * LANES
                outputs_to_points(points, j * LANES, TILE * LANES, tiles, first, TILE * Z_STEP)
            for i in range(four + 2):
                to = i * REACH * Z_STEP + (r * columns + q) * LANES
                outputs_to_points(Z, to, Z_STEP, points, i * TILE * LANES, LANES)


@inlined
def _multiply(
    s: Array,
    s_row: int,
    s_step: int,
    V: Array,
    Z: Array,
    v0: int,
    v1: int,
    k0: int,
    k1: int,
    tiles: Array,
    all_offsets: Array,
    fresh: bool,
) -> None:
    """s[v, k] += Σ_tiles V[v, tile] · Z[k, tile] for a block at all points, over the tiles of some boxes.

    If ``fresh``, the sums begin at zero.

    These boxes are summed for themselves before they are added to those before them: a sum of sums collects fewer
    roundings than one long sum.
    """
    for point in range(POINTS):
        for box in range(len(tiles)):
            v, offsets = V[box], all_offsets[box]
            new = fresh and box == 0
            k = k0
            while k < k1:
                z = Z[box, k * Z_BLOCK + point * Z_STEP :]
                vectors = next_vectors(k1 - k)
                for c in range(v0, v1, ROWS):
                    v_first = c // CHANNELS * V_BLOCK + point * V_STEP + c % CHANNELS * WIDTH
                    to, n = point * s_step + (c - v0) * s_row + (k - k0) * LANES, tiles[box]
                    part_tile(
                        vectors,
                        n, v, v_first, WIDTH, offsets, z, STARTS, 0, Z_OFFSETS, s, to, s_row, new, ZEROS, 0,
                    )  # fmt: skip
                k += vectors


@inlined
def _transform_back(
    gw: Array, desk: Array, s: Array, s_row: int, s_step: int, group: int, K: int, block: Any, grid: Any, origins: Array
) -> None:
    """gw = Gᵀ S G for a block; each of the nine goes to its tap, if the filter has it.

    A filter's taps and channels lie side by side, and filters far apart. So some channels are made first and then
    turned, to be written by runs of neighbours.
    """
    _, C, R, S = gw.shape
    gw_flat = gw.reshape(-1)
    points, taps = desk[: TAPS * REACH * LANES], desk[TAPS * REACH * LANES :]
    three = len(points) // (REACH * LANES)  # see `transform_data`
    neighbours = len(origins) == 1 and R == S == TAPS
    for k in range(block.k0, min(block.k1, (K + LANES - 1) // LANES)):
        filters, k_first = min(LANES, K - k * LANES), (group * K + k * LANES) * C
        for v0 in range(block.v0, block.v1, TURNED):
            v1 = min(v0 + TURNED, block.v1)
            for v in range(v0, v1):
                first = (v - block.v0) * s_row + (k - block.k0) * LANES
                for j in range(2 * three):
                    points_to_taps(points, j * LANES, REACH * LANES, s, first + j * s_step, REACH * s_step)
                for i in range(three):
                    to = ((v - v0) * TAPS + i) * TAPS * LANES
                    points_to_taps(taps, to, LANES, points, i * REACH * LANES, LANES)
            if neighbours and v1 - v0 == TURNED and filters == LANES:
                for tap in range(0, TURNED * TAPS * TAPS, TURNED):
                    to = (k_first + v0) * TAPS * TAPS + tap
                    interleave(gw_flat, to, C * TAPS * TAPS, taps, tap * LANES, LANES, TURNED)
            else:
                for v in range(v0, v1):
                    c, origin = v // len(origins), origins[v % len(origins)]
                    for tap in range(three * TAPS):
                        row, column = origin.r + tap // TAPS * grid.apart_h, origin.s + tap % TAPS * grid.apart_w
                        if row < R and column < S:
                            to, source = ((k_first + c) * R + row) * S + column, ((v - v0) * TAPS * TAPS + tap) * LANES
                            for lane in range(filters):
                                move_number(gw_flat, to + lane * C * R * S, taps, source + lane)
