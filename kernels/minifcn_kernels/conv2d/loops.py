"""The convolution kernels in Numba, as one would write them on a blackboard.

Each sum is a nest of loops over its equation's indices, with two things to note. The innermost loop runs along a
row, where neighbours in memory lie, so that with stride 1 the compiler makes vector instructions of it; and
its bounds are worked out beforehand (`valid_outputs`), so that padding costs no test and no zeros are multiplied.

Every thread owns whole outputs (a plane, or one filter) and adds to them in a fixed
order: the same bits for any number of threads.
"""

import numpy as np

from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import empty
from minifcn_kernels.spatial import Pair, valid_outputs


@inlined
def add_scaled(y: Array, y_first: int, y_step: int, x: Array, x_first: int, x_step: int, count: int, w: float) -> None:
    """y[y_first + j·y_step] += w · x[x_first + j·x_step] for j < count, of two flat arrays.

    Indices are unsigned: that spares the test for negative ones, which would keep the compiler from using vectors.
    """
    i, i_step, h, h_step = np.uint64(y_first), np.uint64(y_step), np.uint64(x_first), np.uint64(x_step)
    if y_step == 1 and x_step == 1:
        for j in range(np.uint64(count)):
            y[i + j] += w * x[h + j]
    else:
        for j in range(np.uint64(count)):
            y[i + j * i_step] += w * x[h + j * h_step]


@inlined
def dot(a: Array, a_first: int, b: Array, b_first: int, b_step: int, count: int) -> float:
    """Return Σ_j a[a_first + j] · b[b_first + j·b_step] over j < count, of two flat arrays."""
    i, h, h_step = np.uint64(a_first), np.uint64(b_first), np.uint64(b_step)
    total = a.dtype.type(0)
    if b_step == 1:
        for j in range(np.uint64(count)):
            total += a[i + j] * b[h + j]
    else:
        for j in range(np.uint64(count)):
            total += a[i + j] * b[h + j * h_step]
    return total


def conv2d_loops(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d`: one thread owns one output plane."""
    bias = np.zeros(g.K, x.dtype) if b is None else b
    y = empty(g.y_shape, x.dtype)
    _conv2d.over(g.N * g.K, y, x, w, bias, g.stride, g.padding, g.dilation, g.groups)
    return y


@compiled
def _conv2d(
    first: int,
    last: int,
    out: Array,
    x: Array,
    w: Array,
    b: Array,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    _, C, H, W = x.shape
    K, C_per_group, R, S = w.shape
    OH, OW = out.shape[2:]
    x = x.reshape(-1)
    y = out.reshape(-1)
    for plane in range(first, last):
        k = plane % K
        n = plane // K
        c0 = k // (K // groups) * C_per_group  # the first input channel of k's group
        y_plane = plane * OH * OW
        y[y_plane : y_plane + OH * OW] = b[k]
        for r in range(R):
            offset_h = r * dilation[0] - padding[0]
            i0, i1 = valid_outputs(OH, H, offset_h, stride[0])
            for s in range(S):
                offset_w = s * dilation[1] - padding[1]
                j0, j1 = valid_outputs(OW, W, offset_w, stride[1])
                for c in range(C_per_group):
                    x_plane = (n * C + c0 + c) * H * W
                    for i in range(i0, i1):
                        y_first = y_plane + i * OW + j0
                        x_first = x_plane + (i * stride[0] + offset_h) * W + j0 * stride[1] + offset_w
                        add_scaled(y, y_first, 1, x, x_first, stride[1], j1 - j0, w[k, c, r, s])


def conv2d_grad_input_loops(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input`: one thread owns one plane of the input's gradient."""
    gx = np.zeros(g.x_shape, gy.dtype)
    _conv2d_grad_input.over(g.N * g.C, gx, gy, w, g.stride, g.padding, g.dilation, g.groups)
    return gx


@compiled
def _conv2d_grad_input(
    first: int,
    last: int,
    out: Array,
    gy: Array,
    w: Array,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    _, C, H, W = out.shape
    _, K, OH, OW = gy.shape
    _, C_per_group, R, S = w.shape
    K_per_group = K // groups
    gy = gy.reshape(-1)
    gx = out.reshape(-1)
    for plane in range(first, last):
        c = plane % C
        n = plane // C
        k0 = c // C_per_group * K_per_group  # the first output channel of c's group
        gx_plane = plane * H * W
        for r in range(R):
            offset_h = r * dilation[0] - padding[0]
            i0, i1 = valid_outputs(OH, H, offset_h, stride[0])
            for s in range(S):
                offset_w = s * dilation[1] - padding[1]
                j0, j1 = valid_outputs(OW, W, offset_w, stride[1])
                for k in range(k0, k0 + K_per_group):
                    gy_plane = (n * K + k) * OH * OW
                    for i in range(i0, i1):
                        gx_first = gx_plane + (i * stride[0] + offset_h) * W + j0 * stride[1] + offset_w
                        gy_first = gy_plane + i * OW + j0
                        weight = w[k, c % C_per_group, r, s]
                        add_scaled(gx, gx_first, stride[1], gy, gy_first, 1, j1 - j0, weight)


def conv2d_grad_weight_loops(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight`: one thread owns one R×S filter."""
    gw = np.zeros(g.w_shape, x.dtype)
    _conv2d_grad_weight.over(g.K * g.C // g.groups, gw, x, gy, g.stride, g.padding, g.dilation)
    return gw


@compiled
def _conv2d_grad_weight(
    first: int, last: int, out: Array, x: Array, gy: Array, stride: Pair, padding: Pair, dilation: Pair
) -> None:
    N, C, H, W = x.shape
    OH, OW = gy.shape[2:]
    K, C_per_group, R, S = out.shape
    K_per_group = K // (C // C_per_group)
    x = x.reshape(-1)
    gy = gy.reshape(-1)
    for kc in range(first, last):
        k = kc // C_per_group
        c = kc % C_per_group
        c0 = k // K_per_group * C_per_group  # the first input channel of k's group
        for r in range(R):
            offset_h = r * dilation[0] - padding[0]
            i0, i1 = valid_outputs(OH, H, offset_h, stride[0])
            for s in range(S):
                offset_w = s * dilation[1] - padding[1]
                j0, j1 = valid_outputs(OW, W, offset_w, stride[1])
                for n in range(N):
                    x_plane = (n * C + c0 + c) * H * W
                    gy_plane = (n * K + k) * OH * OW
                    for i in range(i0, i1):
                        x_first = x_plane + (i * stride[0] + offset_h) * W + j0 * stride[1] + offset_w
                        gy_first = gy_plane + i * OW + j0
                        out[k, c, r, s] += dot(gy, gy_first, x, x_first, stride[1], j1 - j0)
