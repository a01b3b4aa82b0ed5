"""The pooling kernels in Numba: position by position of the window, a row of outputs at a time.

The innermost loop takes one position (r, s) of all windows in a row. It runs over slices that start where the
first window sees the input, so it needs no test for padding. Strides 1 and 2 are written out as constants, and
the maximum as a choice instead of a jump: only then does the compiler make vector instructions of it. And the winners
go to another row than the one they are compared with: a choice between what is there and something else would become a
masked store, which takes AMD's processors several times as long. The former made 2×2 windows five times as fast, and
the latter twice as fast again.

Every thread owns whole outputs (a row forward, a plane backward), clears them and adds to them in a fixed order: the
same bits for any number of threads.
"""

from math import prod

import numpy as np

from minifcn_kernels.dispatch import check_shape
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.pool2d.contract import (
    INDEX,
    avg_pool2d,
    avg_pool2d_grad,
    check_index,
    max_pool2d,
    max_pool2d_grad,
    pool_geometry,
    window_counts,
)
from minifcn_kernels.spatial import IntOrPair, Pair, valid_outputs


@max_pool2d.implementation("numba")
def max_pool2d_loops(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """`max_pool2d`: one thread owns one row of one output plane."""
    g = pool_geometry(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    y, index = np.empty(g.y_shape, x.dtype), np.empty(g.y_shape, INDEX)
    _max_pool2d.over(prod(g.y_shape[:3]), y, index, x, g.kernel, g.stride, g.padding, g.dilation)
    return y, index


@compiled
def _max_pool2d(
    first: int,
    last: int,
    out: Array,
    out_index: Array,
    x: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> None:
    _, C, H, W = x.shape
    OH, OW = out.shape[2:]
    first_column = np.empty(OW, np.int32)
    for j in range(OW):
        first_column[j] = first_inside(j * stride[1] - padding[1], dilation[1])
    best, index = np.empty((2, OW), x.dtype), np.empty((2, OW), np.int32)
    for row in range(first, last):
        i = row % OH
        c = row // OH % C
        n = row // OH // C
        top = i * stride[0] - padding[0]
        # No element of −∞ wins against −∞, but the first that a window sees has its index from the start.
        now, first_row = 0, np.int32(W * first_inside(top, dilation[0]))
        for j in range(OW):
            best[now, j] = -np.inf
            index[now, j] = first_row + first_column[j]
        for r in range(kernel[0]):
            h = top + r * dilation[0]
            if 0 <= h < H:
                for s in range(kernel[1]):
                    offset = s * dilation[1] - padding[1]
                    j0, j1 = valid_outputs(OW, W, offset, stride[1])
                    w0 = j0 * stride[1] + offset
                    before, after = (best[now], index[now]), (best[1 - now], index[1 - now])
                    x_row, position = x[n, c, h, w0:], h * W + w0
                    if stride[1] == 1:
                        take_larger(after, before, j0, j1, x_row, position, 1)
                    elif stride[1] == 2:
                        take_larger(after, before, j0, j1, x_row, position, 2)
                    else:
                        take_larger(after, before, j0, j1, x_row, position, stride[1])
                    now = 1 - now
        for j in range(OW):
            out[n, c, i, j] = best[now, j]
            out_index[n, c, i, j] = index[now, j]


@inlined
def first_inside(start: int, dilation: int) -> int:
    """Return the first position ≥ 0 of a window that starts at ``start``."""
    return start if start >= 0 else start % dilation


@inlined
def take_larger(
    after: tuple[Array, Array],
    before: tuple[Array, Array],
    j0: int,
    j1: int,
    x_row: Array,
    position: int,
    stride: int,
) -> None:
    """Copy the best of a row and their indices, but let the x of outputs j0 … j1 win if larger or the first NaN.

    ``x_row[(j - j0)·stride]``, with index ``position + (j - j0)·stride``, is what output j sees.
    """
    for j in range(j0):
        after[0][j], after[1][j] = before[0][j], before[1][j]
    best, index = before[0][j0:j1], before[1][j0:j1]
    new_best, new_index = after[0][j0:j1], after[1][j0:j1]
    for j in range(len(best)):
        old, old_index, value = best[j], index[j], x_row[j * stride]
        # `not ≤` is true of NaN as well, and old == old is false once NaN has won. (No `and`: it would be a jump.)
        wins = (not value <= old) & (old == old)
        new_best[j] = value if wins else old
        new_index[j] = np.int32(position) + np.int32(j * stride) if wins else old_index
    for j in range(j1, len(before[0])):
        after[0][j], after[1][j] = before[0][j], before[1][j]


@max_pool2d_grad.implementation("numba")
def max_pool2d_grad_loops(
    gy: Array,
    index: Array,
    x_shape: tuple[int, int, int, int],
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> Array:
    """`max_pool2d_grad`: one thread owns one plane of the input's gradient and scatters into it."""
    g = pool_geometry(x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    check_shape("max_pool2d_grad", "gy", gy.shape, g.y_shape)
    check_index(index, g)  # compiled code would write anywhere
    gx = np.empty(g.x_shape, gy.dtype)
    _max_pool2d_grad.over(prod(g.x_shape[:2]), gx, gy, index.astype(INDEX, copy=False))
    return gx


@compiled
def _max_pool2d_grad(first: int, last: int, out: Array, gy: Array, index: Array) -> None:
    _, C, H, W = out.shape
    OH, OW = gy.shape[2:]
    for plane in range(first, last):
        c = plane % C
        n = plane // C
        gx_plane = out[n, c].reshape(H * W)
        for position in range(H * W):
            gx_plane[position] = 0
        for i in range(OH):
            for j in range(OW):
                gx_plane[index[n, c, i, j]] += gy[n, c, i, j]


@avg_pool2d.implementation("numba")
def avg_pool2d_loops(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """`avg_pool2d`: one thread owns one row of one output plane."""
    g = pool_geometry(x.shape, kernel_size, stride, padding, 1, ceil_mode)
    rows, columns = window_counts(g, count_include_pad, x.dtype)
    y = np.empty(g.y_shape, x.dtype)
    _avg_pool2d.over(prod(g.y_shape[:3]), y, x, rows, columns, g.kernel, g.stride, g.padding)
    return y


@compiled
def _avg_pool2d(
    first: int, last: int, out: Array, x: Array, rows: Array, columns: Array, kernel: Pair, stride: Pair, padding: Pair
) -> None:
    _, C, H, W = x.shape
    OH, OW = len(rows), len(columns)
    for row in range(first, last):
        i = row % OH
        c = row // OH % C
        n = row // OH // C
        y_row = out[n, c, i]
        for j in range(OW):
            y_row[j] = 0
        for r in range(kernel[0]):
            h = i * stride[0] + r - padding[0]
            if 0 <= h < H:
                for s in range(kernel[1]):
                    offset = s - padding[1]
                    j0, j1 = valid_outputs(OW, W, offset, stride[1])
                    sums, x_row = y_row[j0:j1], x[n, c, h, j0 * stride[1] + offset :]
                    if stride[1] == 1:
                        add_every(sums, x_row, 1)
                    elif stride[1] == 2:
                        add_every(sums, x_row, 2)
                    else:
                        add_every(sums, x_row, stride[1])
        for j in range(OW):
            y_row[j] /= rows[i] * columns[j]


@inlined
def add_every(sums: Array, x_row: Array, stride: int) -> None:
    """Add every ``stride``-th element of ``x_row`` to ``sums``."""
    for j in range(len(sums)):
        sums[j] += x_row[j * stride]


@avg_pool2d_grad.implementation("numba")
def avg_pool2d_grad_loops(
    gy: Array,
    x_shape: tuple[int, int, int, int],
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """`avg_pool2d_grad`: one thread owns one plane of the input's gradient."""
    g = pool_geometry(x_shape, kernel_size, stride, padding, 1, ceil_mode)
    check_shape("avg_pool2d_grad", "gy", gy.shape, g.y_shape)
    rows, columns = window_counts(g, count_include_pad, gy.dtype)
    gx = np.empty(g.x_shape, gy.dtype)
    _avg_pool2d_grad.over(prod(g.x_shape[:2]), gx, gy, rows, columns, g.kernel, g.stride, g.padding)
    return gx


@compiled
def _avg_pool2d_grad(
    first: int, last: int, out: Array, gy: Array, rows: Array, columns: Array, kernel: Pair, stride: Pair, padding: Pair
) -> None:
    _, C, H, W = out.shape
    OH, OW = len(rows), len(columns)
    for plane in range(first, last):
        c = plane % C
        n = plane // C
        for h in range(H):
            for w in range(W):
                out[n, c, h, w] = 0
        share = np.empty(OW, gy.dtype)  # what each element of a window gets
        for i in range(OH):
            for j in range(OW):
                share[j] = gy[n, c, i, j] / (rows[i] * columns[j])
            for r in range(kernel[0]):
                h = i * stride[0] + r - padding[0]
                if 0 <= h < H:
                    for s in range(kernel[1]):
                        offset = s - padding[1]
                        j0, j1 = valid_outputs(OW, W, offset, stride[1])
                        gx_row = out[n, c, h, j0 * stride[1] + offset :]
                        if stride[1] == 1:
                            add_to_every(gx_row, share[j0:j1], 1)
                        else:
                            add_to_every(gx_row, share[j0:j1], stride[1])


@inlined
def add_to_every(gx_row: Array, share: Array, stride: int) -> None:
    """Add ``share`` to every ``stride``-th element of ``gx_row``."""
    for j in range(len(share)):
        gx_row[j * stride] += share[j]
