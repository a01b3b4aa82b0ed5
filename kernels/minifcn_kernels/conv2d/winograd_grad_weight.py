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

Scratch memory is the sums (four times the size of the weights, rounded up to 64 channels and 24 filters) and the
transforms of as many boxes as `BATCH` numbers hold (16 MB; but of one box at least: 14 KB for each channel and filter).
"""

from typing import Any

import numpy as np
from numba import prange

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
    WORKSPACE,
    cut_into_boxes,
    times_a,
    times_g_t,
    transform_data,
)
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTORS, tile

# Numbers in the transforms of the boxes that are worked on together.
BATCH = 2**22
# A vector of filters at one point: a number for each filter and tile.
GROUP = POSITIONS * LANES
PLANE = GROUP + SKEW
# Channels that a thread transforms in one go.
SHARE = 8


def conv2d_grad_weight_winograd(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` by Winograd's F(4×4, 3×3), transposed."""
    boxes = cut_into_boxes(g.N, g.OH, g.OW, POSITIONS)
    gw = np.empty(g.w_shape, x.dtype)
    _grad_weight(gw, x, gy, g.padding, g.groups, boxes)
    return gw


@compiled
def _grad_weight(out: Array, x: Array, gy: Array, padding: Pair, groups: int, boxes: Array) -> None:
    K, C = out.shape[0] // groups, out.shape[1]
    tile_rows = (gy.shape[2] + TILE - 1) // TILE
    c_lots, vectors = (C + CHANNELS - 1) // CHANNELS, (K + WIDTH - 1) // WIDTH * VECTORS
    shares = (C + SHARE - 1) // SHARE
    z_step = vectors * GROUP + SKEW  # of Z, from point to point
    s_step = c_lots * CHANNELS * vectors * LANES + SKEW  # of the sums, from point to point
    together = max(1, min(len(boxes), BATCH // (POINTS * (c_lots * V_STEP + z_step))))
    V = np.empty((together, c_lots, POINTS * V_STEP), x.dtype)
    Z = np.empty((together, POINTS * z_step), x.dtype)
    sums = np.empty(POINTS * s_step, x.dtype)
    for group in range(groups):
        sums[:] = 0
        for box0 in range(0, len(boxes), together):
            batch = boxes[box0 : box0 + together]
            for unit in prange(len(batch) * shares):
                box, first = unit // shares, unit % shares * SHARE
                workspace = np.zeros(WORKSPACE, x.dtype)
                for c in range(first, min(first + SHARE, C)):
                    v, v_first = V[box, c // CHANNELS], c % CHANNELS * WIDTH
                    transform_data(v, v_first, x, group * C + c, tile_rows, padding, batch[box], workspace)
            for unit in prange(len(batch) * vectors):
                box, vector = unit // vectors, unit % vectors
                k0, k1 = group * K + vector * LANES, group * K + min((vector + 1) * LANES, K)
                _transform_gradient(Z[box, vector * GROUP :], z_step, gy, k0, k1, tile_rows, batch[box])
            for unit in prange(POINTS * c_lots):
                point, c_lot = unit // c_lots, unit % c_lots
                channels = min(CHANNELS, C - c_lot * CHANNELS)
                s = sums[point * s_step + c_lot * CHANNELS * vectors * LANES :]
                for box in range(len(batch)):
                    v, z = V[box, c_lot, point * V_STEP :], Z[box, point * z_step :]
                    _add_products(s, v, z, channels, vectors, batch[box])
        for share in prange(shares):
            for c in range(share * SHARE, min((share + 1) * SHARE, C)):
                _transform_back(out, c, group * K, K, sums[c * vectors * LANES :], s_step)


@inlined
def _transform_gradient(Z: Array, z_step: int, gy: Array, k0: int, k1: int, tile_rows: int, box: Any) -> None:
    """A GY Aᵀ of all tiles of a box, for as many filters as a vector has lanes: Z[point·z_step + tile·LANES + lane].

    The vector's lanes are filters, and those lie far apart in ``gy``: so this begins with copying number by number.
    Filters from k1 on, and outputs beyond the map's edge, are zero.
    """
    _, K, OH, OW = gy.shape
    gy_flat = gy.reshape(-1)
    columns = box.q1 - box.q0
    pixels = min(TILE * columns, OW - TILE * box.q0)
    tiles = np.zeros(TILE * TILE * PLANE, gy.dtype)
    points = np.empty(REACH * TILE * PLANE, gy.dtype)
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
    step = TILE * PLANE
    for j in range(TILE):
        y, u = tiles[j * PLANE :], points[j * PLANE :]
        for z in range(numbers):
            u0, u1, u2, u3, u4, u5 = times_a(y[z], y[z + step], y[z + 2 * step], y[z + 3 * step])
            u[z], u[z + step], u[z + 2 * step] = u0, u1, u2
            u[z + 3 * step], u[z + 4 * step], u[z + 5 * step] = u3, u4, u5
    for i in range(REACH):
        y, u = points[i * step :], Z[REACH * i * z_step :]
        for z in range(numbers):
            u0, u1, u2, u3, u4, u5 = times_a(y[z], y[z + PLANE], y[z + 2 * PLANE], y[z + 3 * PLANE])
            u[z], u[z + z_step], u[z + 2 * z_step] = u0, u1, u2
            u[z + 3 * z_step], u[z + 4 * z_step], u[z + 5 * z_step] = u3, u4, u5


@inlined
def _add_products(s: Array, v: Array, z: Array, channels: int, vectors: int, box: Any) -> None:
    """s[c, k] += Σ_tiles v[c, tile] · z[k, tile] at one point, over the tiles of a box."""
    columns = box.q1 - box.q0
    depth = (box.r1 - box.r0) * columns
    v_offsets = np.empty(depth, np.int64)
    for d in range(depth):
        position = d + d // columns  # behind each row, one is empty
        v_offsets[d] = position // WIDTH * PANEL + position % WIDTH
    z_offsets, starts = np.arange(depth) * LANES, np.arange(vectors) * GROUP
    for vector in range(0, vectors, VECTORS):
        for c in range(0, channels, ROWS):
            tile(
                *(depth, channels - c),
                *(v, c * WIDTH, WIDTH, v_offsets),
                *(z, starts, vector, z_offsets),
                *(s, (c * vectors + vector) * LANES, vectors * LANES),
            )


@inlined
def _transform_back(gw: Array, c: int, k_first: int, K: int, s: Array, s_step: int) -> None:
    """gw = Gᵀ S G for one channel."""
    _, C, R, S = gw.shape
    gw_flat = gw.reshape(-1)
    taps = np.empty(R * REACH * K, gw.dtype)
    for j in range(REACH):
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
