"""The convolution kernels in Numba, as one would write them on a blackboard.

Each sum is a nest of loops in the order of its equation, with two things to note. The innermost loop runs along
a row, where neighbours in memory lie, so the compiler turns it into vector instructions; and the bounds of that
loop are worked out beforehand (`valid_outputs`), so that padding costs no test and no zeros are multiplied.

Every thread owns whole outputs (a plane, or the filters of an output channel) and adds to them in a fixed
order: the same bits for any number of threads.
"""

import numpy as np
from numba import prange

from minifcn_kernels.conv2d.contract import conv2d, conv2d_grad_input, conv2d_grad_weight, conv_geometry
from minifcn_kernels.dispatch import check_shape
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.spatial import IntOrPair, Pair


@inlined
def valid_outputs(outputs: int, size: int, offset: int, stride: int) -> Pair:
    """Return first and one past last of the output positions i with 0 ≤ i·stride + offset < size."""
    first = max(0, -(offset // stride))  # ⌈−offset / stride⌉
    last = min(outputs, -((offset - size) // stride))  # ⌈(size − offset) / stride⌉
    return first, max(first, last)


@conv2d.implementation("numba")
def conv2d_loops(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """`conv2d`: one thread owns one row of one output plane."""
    g = conv_geometry(x.shape, w.shape, stride, padding, dilation, groups)
    bias = np.zeros(g.K, x.dtype) if b is None else b
    y: Array = _conv2d(x, w, bias, (g.OH, g.OW), g.stride, g.padding, g.dilation, g.groups)
    return y


@compiled
def _conv2d(x: Array, w: Array, b: Array, out: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    N, C, H, W = x.shape
    K, C_per_group, R, S = w.shape
    OH, OW = out
    y = np.empty((N, K, OH, OW), x.dtype)
    for row in prange(N * K * OH):
        i = row % OH
        k = row // OH % K
        n = row // OH // K
        c0 = k // (K // groups) * C_per_group  # the first input channel of k's group
        y_row = y[n, k, i]
        y_row[:] = b[k]
        for c in range(C_per_group):
            for r in range(R):
                h = i * stride[0] + r * dilation[0] - padding[0]
                if 0 <= h < H:
                    x_row = x[n, c0 + c, h]
                    for s in range(S):
                        offset = s * dilation[1] - padding[1]
                        j0, j1 = valid_outputs(OW, W, offset, stride[1])
                        weight = w[k, c, r, s]
                        for j in range(j0, j1):
                            y_row[j] += weight * x_row[j * stride[1] + offset]
    return y


@conv2d_grad_input.implementation("numba")
def conv2d_grad_input_loops(
    gy: Array,
    w: Array,
    x_shape: tuple[int, int, int, int],
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """`conv2d_grad_input`: one thread owns one plane of the input's gradient."""
    g = conv_geometry(x_shape, w.shape, stride, padding, dilation, groups)
    check_shape("conv2d_grad_input", "gy", gy.shape, g.y_shape)
    gx: Array = _conv2d_grad_input(gy, w, g.x_shape, g.stride, g.padding, g.dilation, g.groups)
    return gx


@compiled
def _conv2d_grad_input(
    gy: Array,
    w: Array,
    x_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    N, C, H, W = x_shape
    _, K, OH, OW = gy.shape
    _, C_per_group, R, S = w.shape
    K_per_group = K // groups
    gx = np.zeros((N, C, H, W), gy.dtype)
    for plane in prange(N * C):
        c = plane % C
        n = plane // C
        k0 = c // C_per_group * K_per_group  # the first output channel of c's group
        for k in range(k0, k0 + K_per_group):
            for r in range(R):
                offset_h = r * dilation[0] - padding[0]
                i0, i1 = valid_outputs(OH, H, offset_h, stride[0])
                for i in range(i0, i1):
                    gx_row = gx[n, c, i * stride[0] + offset_h]
                    gy_row = gy[n, k, i]
                    for s in range(S):
                        offset_w = s * dilation[1] - padding[1]
                        j0, j1 = valid_outputs(OW, W, offset_w, stride[1])
                        weight = w[k, c % C_per_group, r, s]
                        for j in range(j0, j1):
                            gx_row[j * stride[1] + offset_w] += weight * gy_row[j]
    return gx


@conv2d_grad_weight.implementation("numba")
def conv2d_grad_weight_loops(
    x: Array,
    gy: Array,
    w_shape: tuple[int, int, int, int],
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """`conv2d_grad_weight`: one thread owns one R×S filter."""
    g = conv_geometry(x.shape, w_shape, stride, padding, dilation, groups)
    check_shape("conv2d_grad_weight", "gy", gy.shape, g.y_shape)
    gw: Array = _conv2d_grad_weight(x, gy, g.w_shape, g.stride, g.padding, g.dilation)
    return gw


@compiled
def _conv2d_grad_weight(
    x: Array, gy: Array, w_shape: tuple[int, int, int, int], stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    N, C, H, W = x.shape
    OH, OW = gy.shape[2:]
    K, C_per_group, R, S = w_shape
    K_per_group = K // (C // C_per_group)
    gw = np.zeros(w_shape, x.dtype)
    for kc in prange(K * C_per_group):
        k = kc // C_per_group
        c = kc % C_per_group
        c0 = k // K_per_group * C_per_group  # the first input channel of k's group
        for n in range(N):
            for r in range(R):
                offset_h = r * dilation[0] - padding[0]
                i0, i1 = valid_outputs(OH, H, offset_h, stride[0])
                for i in range(i0, i1):
                    x_row = x[n, c0 + c, i * stride[0] + offset_h]
                    gy_row = gy[n, k, i]
                    for s in range(S):
                        offset_w = s * dilation[1] - padding[1]
                        j0, j1 = valid_outputs(OW, W, offset_w, stride[1])
                        row_sum = x.dtype.type(0)
                        for j in range(j0, j1):
                            row_sum += gy_row[j] * x_row[j * stride[1] + offset_w]
                        gw[k, c, r, s] += row_sum
    return gw
