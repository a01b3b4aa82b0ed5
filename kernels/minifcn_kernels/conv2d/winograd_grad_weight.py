"""The weight gradient of a convolution at Winograd's 36 points.

With the matrices of `winograd_transforms`, and as the transpose of what `winograd` does,

    S[point, v, k] = Σ_tiles V[point, v, tile] · Z[point, k, tile]        GW = Gᵀ S G

with V = Bᵀ D B the data as there, and Z = A GY Aᵀ the gradient of a tile's 4×4 outputs at the 36 points. Again 36
matrix products; virtual channels are the rows of the register tile and filters its columns, so Z has vectors of
filters.

The sum runs over all tiles. Threads share out channels and filters, not tiles, so that each adds up sums of its own,
from the first tile to the last: the same bits for any number of threads. They work in step: all transform the data and
the gradients of some boxes, all multiply; and so on with the next boxes.

**Error.** As in `winograd`, for the same 28 roundings (4 and 4 in the two products with Bᵀ and A each, 12 in those with
Gᵀ) and one for each of the T tiles that are added up:

    |error of GW| ≤ γ(28 + T) · |Gᵀ| [Σ_tiles (|A| |GY| |Aᵀ|) ⊙ (|Bᵀ| |D| |B|)] |G|

Scratch memory is the transforms of as many boxes as `BATCH` numbers hold (8 MB; but of one box at least, which is 14 KB
for each virtual channel and filter), a thread's sums of a block (0.5 MB with AVX2) and, if there are several batches,
those of all blocks: 36 numbers for each origin of a filter's channel. It does not grow with the image.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import get_num_threads, get_thread_id

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
from minifcn_kernels.jit import Array, compiled, inlined, scratch_memory
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTORS, tile

# Numbers in the transforms of the boxes that are worked on together.
BATCH = 2**21
# Channels that a thread transforms in one go.
SHARE = 8
# Steps in the transforms of a vector of filters: from point to point, and to the next vector.
Z_STEP = POSITIONS * LANES + SKEW
Z_BLOCK = POINTS * Z_STEP
# What a thread needs to transform such a vector: a row of each filter, the tiles, and one tile at 24 and 36 points.
DESK = max(WORKSPACE, LANES * ROW + TILE * TILE * Z_STEP + TILE * REACH * LANES)
# At most so many virtual channels and vectors of filters make a block, whose sums (440 KB with AVX2) stay in a
# second-level cache of 512 KB until all 36 points are there. Rather less, if that would make only a few blocks.
BLOCK_CHANNELS, BLOCK_VECTORS = 64, 2 * VECTORS
S_BLOCK = POINTS * (BLOCK_CHANNELS * BLOCK_VECTORS * LANES + SKEW)
FEW_BLOCKS = 8
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
    depth, vectors = len(origins) * C, -(-K // WIDTH) * VECTORS
    blocks = _cut(depth, vectors)
    v_step, z_step = -(-depth // CHANNELS) * V_BLOCK, vectors * Z_BLOCK  # from box to box
    together = max(1, min(len(boxes), BATCH // (v_step + z_step)))
    threads = get_num_threads()
    kept = len(blocks) if together < len(boxes) else 0
    desks, sums, V, Z, totals = scratch_memory(
        np.float32, (threads, DESK), (threads, S_BLOCK), (together, v_step), (together, z_step), (kept, S_BLOCK)
    )
    gw = np.empty(g.w_shape, x.dtype)
    rows = scratch_rows(threads, boxes, origins)
    pieces = -(-C // SHARE) + -(-K // LANES)
    for group in range(g.groups):
        for box0 in range(0, len(boxes), together):
            batch = boxes[box0 : box0 + together]
            where = grid, origins, g.groups, group, batch
            _transform.over(len(batch) * pieces, V, Z, desks, *rows, x, gy, *where)
            begins, ends = box0 == 0, box0 + together >= len(boxes)
            tiles, offsets = _tiles_of(batch)
            _add_up.over(len(blocks), gw, totals, sums, desks, V, Z, *where, blocks, tiles, offsets, begins, ends)
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
    K, C = gy.shape[1] // groups, x.shape[1] // groups
    depth = C * len(origins)
    shares, vectors = (C + SHARE - 1) // SHARE, (K + LANES - 1) // LANES
    thread = get_thread_id()
    desk = scratch[thread]
    for unit in range(first, last):
        box, piece = unit // (shares + vectors), unit % (shares + vectors)
        if piece < shares:
            x_rows = scratch_inputs[thread, :, : (boxes[box].r1 - boxes[box].r0) * REACH]
            input_rows(x_rows, x, origins, grid[0], boxes[box])
            for v in range(piece * SHARE * len(origins), min(depth, (piece + 1) * SHARE * len(origins))):
                x_first = (group * C + v // len(origins)) * x.shape[2] * x.shape[3]
                v_first, rows = v // CHANNELS * V_BLOCK + v % CHANNELS * WIDTH, x_rows[v % len(origins)]
                transform_data(out_V[box], v_first, x, x_first, rows, grid[0].step_w, boxes[box], desk)
        else:
            k0, k1 = (piece - shares) * LANES, min(K, (piece - shares + 1) * LANES)
            z = out_Z[box, (piece - shares) * Z_BLOCK :]
            gy_rows = scratch_outputs[thread, : (boxes[box].r1 - boxes[box].r0) * TILE]
            output_rows(gy_rows, gy, grid[0], boxes[box])
            _transform_gradient(z, gy_rows, gy, group * K + k0, k1 - k0, grid[0], boxes[box], desk)


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
    boxes: Array,
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
    s, taps = scratch[get_thread_id()], scratch_desks[get_thread_id()][: TAPS * REACH * LANES]
    for unit in range(first, last):
        block = blocks[unit]
        s_row, s_step = _steps(block)
        _multiply(s, s_row, s_step, V, Z, block, tiles, offsets)
        if not begins:
            total = out_totals[unit]
            for i in range(POINTS * s_step):
                s[i] += total[i]
        if ends:
            _transform_back(out, taps, s, s_row, s_step, group, out.shape[0] // groups, block, grid[0], origins)
        else:
            total = out_totals[unit]
            for i in range(POINTS * s_step):
                total[i] = s[i]


@inlined
def _steps(block: Any) -> Pair:
    """Return the steps in the sums of a block, from virtual channel to virtual channel and from point to point."""
    row = (block.k1 - block.k0) * LANES
    return row, (block.v1 - block.v0 + ROWS - 1) // ROWS * ROWS * row + SKEW


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
    s: Array, s_row: int, s_step: int, V: Array, Z: Array, block: Any, tiles: Array, all_offsets: Array
) -> None:
    """s[v, k] = Σ_tiles V[v, tile] · Z[k, tile] for a block at all points, over the tiles of some boxes.

    These boxes are summed for themselves before they are added to those before them: a sum of sums collects fewer
    roundings than one long sum.
    """
    for point in range(POINTS):
        for box in range(len(tiles)):
            v, offsets = V[box], all_offsets[box]
            for k in range(block.k0, block.k1, VECTORS):
                z = Z[box, k * Z_BLOCK + point * Z_STEP :]
                for c in range(block.v0, block.v1, ROWS):
                    v_first = c // CHANNELS * V_BLOCK + point * V_STEP + c % CHANNELS * WIDTH
                    to, fresh = point * s_step + (c - block.v0) * s_row + (k - block.k0) * LANES, box == 0
                    tile(tiles[box], v, v_first, WIDTH, offsets, z, STARTS, 0, Z_OFFSETS, s, to, s_row, fresh, ZEROS, 0)


@inlined
def _transform_back(
    gw: Array, taps: Array, s: Array, s_row: int, s_step: int, group: int, K: int, block: Any, grid: Any, origins: Array
) -> None:
    """gw = Gᵀ S G for a block; each of the nine goes to its tap, if the filter has it."""
    _, C, R, S = gw.shape
    gw_flat = gw.reshape(-1)
    three = len(taps) // (REACH * LANES)  # see `transform_data`
    for k in range(block.k0, min(block.k1, (K + LANES - 1) // LANES)):
        for v in range(block.v0, block.v1):
            first = (v - block.v0) * s_row + (k - block.k0) * LANES
            for j in range(2 * three):
                points_to_taps(taps, j * LANES, REACH * LANES, s, first + j * s_step, REACH * s_step)
            for i in range(three):
                points_to_taps(taps, i * TAPS * LANES, LANES, taps, i * REACH * LANES, LANES)
            c, origin = v // len(origins), origins[v % len(origins)]
            for tap in range(three * TAPS):
                row, column = origin.r + tap // TAPS * grid.apart_h, origin.s + tap % TAPS * grid.apart_w
                if row < R and column < S:
                    to = np.uint64((((group * K + k * LANES) * C + c) * R + row) * S + column)
                    for lane in range(np.uint64(min(LANES, K - k * LANES))):
                        gw_flat[to + lane * np.uint64(C * R * S)] = taps[np.uint64(tap * LANES) + lane]
