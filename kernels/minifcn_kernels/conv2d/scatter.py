"""The input's gradient of maps that are small against their filter: multiply first, then scatter.

As a correlation (see `direct`) an input pixel meets all taps of its phase, even where they fall beside the output. For
the FCN's fc6, 7×7 on 22×22 pixels, that is nearly every second product in vain. The other way round nothing is: first
what every output pixel gives to every tap, a matrix product, and then each to the input pixel it belongs to:

    G[c, r, s, nij] = Σ_k w[k, c, r, s] · gy[n, k, i, j]
    gx[n, c, h, w] = Σ_r Σ_s G[c, r, s, nij]           h = i·stride + r·dilation − padding, w alike

But G has R·S numbers for each number of the output; so it is made for a lot of channels at a time, and where a single
channel's would be more than `SUMS` the correlation does it. The sums over taps are taken in a fixed order, and a map of
gx belongs to one thread.
"""

import numpy as np

from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.conv2d.product import Operand, maps, multiply
from minifcn_kernels.jit import Array, compiled
from minifcn_kernels.memory import empty
from minifcn_kernels.spatial import Pair, valid_outputs

# Numbers of G at a time: 16 MB of float32.
SUMS = 2**22
# To write, read and add a number of G takes as long as so many multiply-adds (AVX2).
MOVE = 32


def scatter_pays(g: ConvGeometry) -> bool:
    """Return whether products without zeros, and moving them, take less time than a correlation's products."""
    pixels = g.OH * g.OW
    met = -(-g.H // g.stride[0]) * -(-g.W // g.stride[1])  # output positions that a tap meets, also beside the output
    K = g.K // g.groups
    return _sums_of_channel(g) <= SUMS and pixels * (K + MOVE) < met * K


def _sums_of_channel(g: ConvGeometry) -> int:
    """Return how many numbers of G one channel of each group has."""
    return g.groups * g.R * g.S * g.N * g.OH * g.OW


def conv2d_grad_input_scatter(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input` as a matrix product whose result is scattered."""
    gx = np.zeros(g.x_shape, gy.dtype)
    K, C, pixels = g.K // g.groups, g.C // g.groups, g.N * g.OH * g.OW
    taps = g.R * g.S
    lot = max(1, min(C, SUMS // max(1, _sums_of_channel(g))))
    lots = -(-C // lot)
    sums = empty((g.groups, -(-C // lots), g.R, g.S, pixels), gy.dtype)
    for c0, c1 in ((C * i // lots, C * (i + 1) // lots) for i in range(lots)):
        rows = (c1 - c0) * taps
        G = sums.reshape(-1)[: g.groups * rows * pixels].reshape(g.groups, c1 - c0, g.R, g.S, pixels)
        filters = Operand((rows, 1, 0), (K, C * taps, 0), K * C * taps)
        result = Operand((rows, pixels, 0), (max(1, pixels), 1, 0), rows * pixels)
        multiply(
            G,
            w.reshape(-1)[c0 * taps :],
            gy,
            (rows, K, pixels),
            filters,
            maps(g, g.K, g.OH * g.OW),
            result,
            g.groups,
        )
        _scatter.over(g.N * g.groups * (c1 - c0), gx, G, c0, (g.OH, g.OW), g.stride, g.padding, g.dilation)
    return gx


@compiled
def _scatter(
    first: int,
    last: int,
    out: Array,
    sums: Array,
    c0: int,
    output: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> None:
    """Add the sums of channels from ``c0`` on, of every group, to their pixels in ``out`` (N, C, H, W)."""
    N, C, H, W = out.shape
    groups, channels, R, S, _ = sums.shape
    OH, OW = output
    flat, target = sums.reshape(-1), out.reshape(-1)
    for plane in range(first, last):
        n, group, c = plane // (groups * channels), plane // channels % groups, plane % channels
        to_plane = (n * C + group * (C // groups) + c0 + c) * H * W
        for r in range(R):
            i0, i1 = valid_outputs(OH, H, r * dilation[0] - padding[0], stride[0])
            for s in range(S):
                j0, j1 = valid_outputs(OW, W, s * dilation[1] - padding[1], stride[1])
                row = (((group * channels + c) * R + r) * S + s) * N + n
                for i in range(i0, i1):
                    source = (row * OH + i) * OW + j0
                    h, left = i * stride[0] + r * dilation[0] - padding[0], s * dilation[1] - padding[1]
                    to = to_plane + h * W + j0 * stride[1] + left
                    if stride[1] == 1:
                        for j in range(j1 - j0):
                            target[to + j] += flat[source + j]
                    else:
                        for j in range(j1 - j0):
                            target[to + j * stride[1]] += flat[source + j]
