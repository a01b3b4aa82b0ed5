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
from numba import get_num_threads, get_thread_id, prange

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
    tile_rows,
    transform_data,
)
from minifcn_kernels.conv2d.winograd_transforms import POINTS, REACH, TAPS, TILE, outputs_to_points, points_to_taps
from minifcn_kernels.jit import Array, compiled, inlined, scratch_memory
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTORS, tile

# Numbers in the transforms of the boxes that are worked on together.
BATCH = 2**21
# Virtual channels that a thread transforms in one go.
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

BLOCK = np.dtype([(name, np.int64) for name in ("v0", "v1", "k0", "k1")])  # virtual channels, and vectors of filters


def conv2d_grad_weight_winograd(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` by Winograd's F(4×4, 3×3), transposed."""
    grid, origins = lay_out(g)
    boxes = cut_into_boxes(*tile_rows(g.N, grid), POSITIONS)
    if len(boxes) == 0:
        return np.zeros(g.w_shape, x.dtype)
    depth, vectors = len(origins) * g.C // g.groups, -(-g.K // g.groups // WIDTH) * VECTORS
    box_step = -(-depth // CHANNELS) * V_BLOCK + vectors * Z_BLOCK
    together = max(1, min(len(boxes), BATCH // box_step))
    blocks = _cut(depth, vectors)
    totals = len(blocks) * S_BLOCK if together < len(boxes) else 0
    gw = np.empty(g.w_shape, x.dtype)
    threads = get_num_threads()
    scratch = scratch_memory(threads * (DESK + S_BLOCK) + together * box_step + totals)
    _grad_weight(gw, scratch, threads, x, gy, grid, origins, g.groups, boxes, together, blocks)
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


@compiled
def _grad_weight(
    out: Array,
    scratch: Array,
    threads: int,
    x: Array,
    gy: Array,
    grid: Array,
    origins: Array,
    groups: int,
    boxes: Array,
    together: int,
    blocks: Array,
) -> None:
    """Sum over ``together`` boxes at a time."""
    K, C = out.shape[0] // groups, out.shape[1]
    depth, vectors = len(origins) * C, (K + LANES - 1) // LANES
    v_step = (depth + CHANNELS - 1) // CHANNELS * V_BLOCK  # from box to box
    z_step = (K + WIDTH - 1) // WIDTH * VECTORS * Z_BLOCK
    desks, memory = scratch[: threads * DESK].reshape(threads, DESK), scratch[threads * DESK :]
    sums, memory = memory[: threads * S_BLOCK].reshape(threads, S_BLOCK), memory[threads * S_BLOCK :]
    V, memory = memory[: together * v_step].reshape(together, v_step), memory[together * v_step :]
    Z, totals = memory[: together * z_step].reshape(together, z_step), memory[together * z_step :]
    shares_of_one = (C + SHARE - 1) // SHARE
    shares = len(origins) * shares_of_one
    for group in range(groups):
        for box0 in range(0, len(boxes), together):
            batch = boxes[box0 : box0 + together]
            for unit in prange(len(batch) * (shares + vectors)):
                box, piece = unit // (shares + vectors), unit % (shares + vectors)
                desk = desks[get_thread_id()]
                if piece < shares:
                    origin, first = piece // shares_of_one, piece % shares_of_one * SHARE
                    x_rows = input_rows(x, origins[origin], grid[0], batch[box])
                    for c in range(first, min(first + SHARE, C)):
                        v, x_first = origin * C + c, (group * C + c) * x.shape[2] * x.shape[3]
                        v_first = v // CHANNELS * V_BLOCK + v % CHANNELS * WIDTH
                        transform_data(V[box], v_first, x, x_first, x_rows, grid[0].step_w, batch[box], desk)
                else:
                    k0, k1 = (piece - shares) * LANES, min(K, (piece - shares + 1) * LANES)
                    z = Z[box, (piece - shares) * Z_BLOCK :]
                    _transform_gradient(z, gy, group * K + k0, k1 - k0, grid[0], batch[box], desk)
            for unit in prange(len(blocks)):
                block = blocks[unit]
                s = sums[get_thread_id()]
                s_row, s_step = _steps(block)
                _multiply(s, s_row, s_step, V, Z, block, batch)
                if together < len(boxes):
                    total = totals[unit * S_BLOCK : (unit + 1) * S_BLOCK]
                    if box0 > 0:
                        for i in range(POINTS * s_step):
                            s[i] += total[i]
                    if box0 + together < len(boxes):
                        for i in range(POINTS * s_step):
                            total[i] = s[i]
                if box0 + together >= len(boxes):
                    _transform_back(out, s, s_row, s_step, group, K, block, grid[0], origins)


@inlined
def _steps(block: Any) -> Pair:
    """Return the steps in the sums of a block, from virtual channel to virtual channel and from point to point."""
    row = (block.k1 - block.k0) * LANES
    return row, (block.v1 - block.v0 + ROWS - 1) // ROWS * ROWS * row + SKEW


@inlined
def _transform_gradient(Z: Array, gy: Array, k: int, filters: int, grid: Any, box: Any, desk: Array) -> None:
    """A GY Aᵀ of all tiles of a box, for the filters in the lanes of a vector: Z[point·Z_STEP + tile·LANES + lane].

    Outputs beyond the map's edge are zero. Lanes without a filter hold numbers without meaning.
    """
    gy_flat = gy.reshape(-1)
    columns, plane = box.q1 - box.q0, gy.shape[2] * gy.shape[3]
    rows, desk = desk[: LANES * ROW], desk[LANES * ROW :]
    tiles, points = desk[: TILE * TILE * Z_STEP], desk[TILE * TILE * Z_STEP :]
    gy_rows = output_rows(gy, grid, box)
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
def _multiply(s: Array, s_row: int, s_step: int, V: Array, Z: Array, block: Any, boxes: Array) -> None:
    """s[v, k] = Σ_tiles V[v, tile] · Z[k, tile] for a block at all points, over the tiles of some boxes.

    These boxes are summed for themselves before they are added to those before them: a sum of sums collects fewer
    roundings than one long sum.
    """
    tiles = np.empty(len(boxes), np.int64)
    v_offsets = np.empty((len(boxes), POSITIONS), np.int64)
    for box in range(len(boxes)):
        columns = boxes[box].q1 - boxes[box].q0
        tiles[box] = (boxes[box].r1 - boxes[box].r0) * columns
        for d in range(tiles[box]):
            position = d + d // columns  # behind each row, one is empty
            v_offsets[box, d] = position // WIDTH * V_PANEL + position % WIDTH
    z_offsets, starts = np.arange(POSITIONS) * LANES, np.arange(VECTORS) * Z_BLOCK
    s[: POINTS * s_step] = 0
    for point in range(POINTS):
        for box in range(len(boxes)):
            for k in range(block.k0, block.k1, VECTORS):
                z = Z[box, k * Z_BLOCK + point * Z_STEP :]
                for v in range(block.v0, block.v1, ROWS):
                    v_first = v // CHANNELS * V_BLOCK + point * V_STEP + v % CHANNELS * WIDTH
                    tile(
                        *(tiles[box], ROWS),
                        *(V[box], v_first, WIDTH, v_offsets[box]),
                        *(z, starts, 0, z_offsets),
                        *(s, point * s_step + (v - block.v0) * s_row + (k - block.k0) * LANES, s_row),
                    )


@inlined
def _transform_back(
    gw: Array, s: Array, s_row: int, s_step: int, group: int, K: int, block: Any, grid: Any, origins: Array
) -> None:
    """gw = Gᵀ S G for a block; each of the nine goes to its tap, if the filter has it."""
    _, C, R, S = gw.shape
    gw_flat = gw.reshape(-1)
    taps = np.empty(TAPS * REACH * LANES, gw.dtype)
    three = len(taps) // (REACH * LANES)  # see `transform_data`
    for k in range(block.k0, min(block.k1, (K + LANES - 1) // LANES)):
        for v in range(block.v0, block.v1):
            first = (v - block.v0) * s_row + (k - block.k0) * LANES
            for j in range(2 * three):
                points_to_taps(taps, j * LANES, REACH * LANES, s, first + j * s_step, REACH * s_step)
            for i in range(three):
                points_to_taps(taps, i * TAPS * LANES, LANES, taps, i * REACH * LANES, LANES)
            origin = origins[v // C]
            for tap in range(three * TAPS):
                row, column = origin.r + tap // TAPS * grid.apart_h, origin.s + tap % TAPS * grid.apart_w
                if row < R and column < S:
                    to = np.uint64((((group * K + k * LANES) * C + v % C) * R + row) * S + column)
                    for lane in range(np.uint64(min(LANES, K - k * LANES))):
                        gw_flat[to + lane * np.uint64(C * R * S)] = taps[np.uint64(tap * LANES) + lane]
