"""The weight gradient of a 3×3 convolution at Winograd's 36 points.

With the matrices of `winograd_transforms`, and as the transpose of what `winograd` does,

    S[point, c, k] = Σ_tiles V[point, c, tile] · Z[point, k, tile]        GW = Gᵀ S G

with V = Bᵀ D B the data as there, and Z = A GY Aᵀ the gradient of a tile's 4×4 outputs at the 36 points. Again 36
matrix products; channels are the rows of the register tile and filters its columns, so Z has vectors of filters.

The sum runs over all tiles. Threads share out points and channels, not tiles, so that each adds up sums of its own,
from the first tile to the last: the same bits for any number of threads. They work in step: all transform the data of
some boxes, all transform their gradients, all multiply; and so on with the next boxes.

**Error.** As in `winograd`, for the same 28 roundings (4 and 4 in the two products with Bᵀ and A each, 12 in those with
Gᵀ) and one for each of the T tiles that are added up:

    |error of GW| ≤ γ(28 + T) · |Gᵀ| [Σ_tiles (|A| |GY| |Aᵀ|) ⊙ (|Bᵀ| |D| |B|)] |G|

Scratch memory is the sums (four times the size of a group's weights, rounded up to 64 channels and a tile's width of
filters) and the transforms of as many boxes as `BATCH` numbers hold (8 MB; but of one box at least, which is 14 KB for
each channel and filter). It does not grow with the image.
"""

from typing import Any

import numpy as np
from numba import get_num_threads, get_thread_id, prange

from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.conv2d.winograd_transforms import (
    CHANNELS,
    LANES,
    PANEL,
    POINTS,
    POSITIONS,
    REACH,
    SKEW,
    TILE,
    V_STEP,
    WIDTH,
    cut_into_boxes,
    times_a,
    times_g_t,
    transform_data,
)
from minifcn_kernels.jit import Array, compiled, inlined, scratch_memory
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTORS, tile

# Numbers in the transforms of the boxes that are worked on together.
BATCH = 2**21
# A vector of filters at one point: a number for each filter and tile.
GROUP = POSITIONS * LANES
PLANE = GROUP + SKEW
# What a thread needs to transform a vector of filters; more than enough for a channel of data.
DESK = (TILE * TILE + REACH * TILE) * PLANE
# Channels that a thread transforms in one go.
SHARE = 8


def conv2d_grad_weight_winograd(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` by Winograd's F(4×4, 3×3), transposed."""
    boxes = cut_into_boxes(g.N, g.OH, g.OW, POSITIONS)
    if len(boxes) == 0:
        return np.zeros(g.w_shape, x.dtype)
    c_lots, vectors = -(-g.C // g.groups // CHANNELS), -(-g.K // g.groups // WIDTH) * VECTORS
    v_step, z_step = c_lots * POINTS * V_STEP, POINTS * (vectors * GROUP + SKEW)  # from box to box
    together = max(1, min(len(boxes), BATCH // (v_step + z_step)))
    sums = POINTS * (c_lots * CHANNELS * vectors * LANES + SKEW)
    gw = np.empty(g.w_shape, x.dtype)
    threads = get_num_threads()
    scratch = scratch_memory(threads * DESK + sums + together * (v_step + z_step))
    _grad_weight(gw, scratch, threads, x, gy, g.padding, g.groups, boxes, together)
    return gw


@compiled
def _grad_weight(
    out: Array,
    scratch: Array,
    threads: int,
    x: Array,
    gy: Array,
    padding: Pair,
    groups: int,
    boxes: Array,
    together: int,
) -> None:
    """Sum over ``together`` boxes at a time."""
    K, C = out.shape[0] // groups, out.shape[1]
    tile_rows = (gy.shape[2] + TILE - 1) // TILE
    c_lots, vectors = (C + CHANNELS - 1) // CHANNELS, (K + WIDTH - 1) // WIDTH * VECTORS
    shares = (C + SHARE - 1) // SHARE
    lot = CHANNELS * vectors * LANES
    s_step, z_step = c_lots * lot + SKEW, vectors * GROUP + SKEW  # from point to point
    desks, memory = scratch[: threads * DESK].reshape(threads, DESK), scratch[threads * DESK :]
    sums, memory = memory[: POINTS * s_step], memory[POINTS * s_step :]
    V = memory[: together * c_lots * POINTS * V_STEP].reshape(together, c_lots * POINTS * V_STEP)
    Z = memory[together * c_lots * POINTS * V_STEP :].reshape(together, POINTS * z_step)
    for group in range(groups):
        for box0 in range(0, len(boxes), together):
            batch = boxes[box0 : box0 + together]
            for unit in prange(len(batch) * shares):
                box, first = unit // shares, unit % shares * SHARE
                desk = desks[get_thread_id()]
                for c in range(first, min(first + SHARE, C)):
                    v, v_first = V[box], c // CHANNELS * POINTS * V_STEP + c % CHANNELS * WIDTH
                    transform_data(v, v_first, x, group * C + c, tile_rows, padding, batch[box], desk)
            for unit in prange(len(batch) * vectors):
                box, vector = unit // vectors, unit % vectors
                k0, k1 = group * K + vector * LANES, group * K + min((vector + 1) * LANES, K)
                _transform_gradient(
                    Z[box, vector * GROUP :], z_step, gy, k0, k1, tile_rows, batch[box], desks[get_thread_id()]
                )
            for unit in prange(POINTS * c_lots):
                point, c_lot = unit // c_lots, unit % c_lots
                channels = min(CHANNELS, C - c_lot * CHANNELS)
                s = sums[point * s_step + c_lot * lot :]
                if box0 == 0:
                    s[:lot] = 0
                v, z = V[:, c_lot * POINTS * V_STEP + point * V_STEP :], Z[:, point * z_step :]
                _add_products(s, v, z, channels, vectors, batch)
        for share in prange(shares):
            for c in range(share * SHARE, min((share + 1) * SHARE, C)):
                _transform_back(out, c, group * K, K, sums[c * vectors * LANES :], s_step)


@inlined
def _transform_gradient(
    Z: Array, z_step: int, gy: Array, k0: int, k1: int, tile_rows: int, box: Any, desk: Array
) -> None:
    """A GY Aᵀ of all tiles of a box, for as many filters as a vector has lanes: Z[point·z_step + tile·LANES + lane].

    The vector's lanes are filters, and those lie far apart in ``gy``: so this begins with copying number by number.
    Filters from k1 on, and outputs beyond the map's edge, are zero.
    """
    _, K, OH, OW = gy.shape
    gy_flat = gy.reshape(-1)
    columns = box.q1 - box.q0
    pixels = min(TILE * columns, OW - TILE * box.q0)
    tiles, points = desk[: TILE * TILE * PLANE], desk[TILE * TILE * PLANE :]
    tiles[:] = 0
    step = TILE * PLANE
    four, six = len(tiles) // step, len(points) // step  # see `transform_data`
    for k in range(k0, k1):
        for r in range(box.r0, box.r1):
            n, top = r // tile_rows, r % tile_rows * TILE
            for i in range(min(TILE, OH - top)):
                row = gy_flat[((n * K + k) * OH + top + i) * OW + TILE * box.q0 :]
                for j in range(TILE):
                    to = tiles[(TILE * i + j) * PLANE + (r - box.r0) * columns * LANES + k - k0 :]
                    for q in range((pixels - j + TILE - 1) // TILE):
                        to[q * LANES] = row[TILE * q + j]
    numbers = (box.r1 - box.r0) * columns * LANES
    for j in range(four):
        y, u = tiles[j * PLANE :], points[j * PLANE :]
        for z in range(numbers):
            u0, u1, u2, u3, u4, u5 = times_a(y[z], y[z + step], y[z + 2 * step], y[z + 3 * step])
            u[z], u[z + step], u[z + 2 * step] = u0, u1, u2
            u[z + 3 * step], u[z + 4 * step], u[z + 5 * step] = u3, u4, u5
    for i in range(six):
        y, u = points[i * step :], Z[REACH * i * z_step :]
        for z in range(numbers):
            u0, u1, u2, u3, u4, u5 = times_a(y[z], y[z + PLANE], y[z + 2 * PLANE], y[z + 3 * PLANE])
            u[z], u[z + z_step], u[z + 2 * z_step] = u0, u1, u2
            u[z + 3 * z_step], u[z + 4 * z_step], u[z + 5 * z_step] = u3, u4, u5


@inlined
def _add_products(s: Array, V: Array, Z: Array, channels: int, vectors: int, boxes: Array) -> None:
    """s[c, k] += Σ_tiles V[c, tile] · Z[k, tile] at one point, over the tiles of some boxes.

    These boxes are summed for themselves before they are added to those before them: a sum of sums collects fewer
    roundings than one long sum.
    """
    depth = np.empty(len(boxes), np.int64)
    v_offsets = np.empty((len(boxes), POSITIONS), np.int64)
    for box in range(len(boxes)):
        columns = boxes[box].q1 - boxes[box].q0
        depth[box] = (boxes[box].r1 - boxes[box].r0) * columns
        for d in range(depth[box]):
            position = d + d // columns  # behind each row, one is empty
            v_offsets[box, d] = position // WIDTH * PANEL + position % WIDTH
    z_offsets, starts = np.arange(POSITIONS) * LANES, np.arange(vectors) * GROUP
    product = np.empty(ROWS * WIDTH, s.dtype)
    for vector in range(0, vectors, VECTORS):
        for c in range(0, channels, ROWS):
            product[:] = 0
            for box in range(len(boxes)):
                tile(
                    *(depth[box], channels - c),
                    *(V[box], c * WIDTH, WIDTH, v_offsets[box]),
                    *(Z[box], starts, vector, z_offsets),
                    *(product, 0, WIDTH),
                )
            for row in range(ROWS):
                to, add = s[((c + row) * vectors + vector) * LANES :], product[row * WIDTH :]
                for k in range(WIDTH):
                    to[k] += add[k]


@inlined
def _transform_back(gw: Array, c: int, k_first: int, K: int, s: Array, s_step: int) -> None:
    """gw = Gᵀ S G for one channel."""
    _, C, R, S = gw.shape
    gw_flat = gw.reshape(-1)
    taps = np.empty(R * REACH * K, gw.dtype)
    for j in range(len(taps) // (R * K)):
        u, t = s[j * s_step :], taps[j * K :]
        step = REACH * s_step
        for k in range(K):
            u0, u1, u2, u3 = u[k], u[k + step], u[k + 2 * step], u[k + 3 * step]
            t[k], t[k + REACH * K], t[k + 2 * REACH * K] = times_g_t(u0, u1, u2, u3, u[k + 4 * step], u[k + 5 * step])
    for r in range(R):
        t, w = taps[r * REACH * K :], gw_flat[(k_first * C + c) * R * S + r * S :]
        for k in range(K):
            w0, w1, w2 = times_g_t(t[k], t[k + K], t[k + 2 * K], t[k + 3 * K], t[k + 4 * K], t[k + 5 * K])
            to = k * C * R * S
            w[to], w[to + 1], w[to + 2] = w0, w1, w2
