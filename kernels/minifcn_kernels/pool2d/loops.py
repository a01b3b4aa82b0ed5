"""The pooling kernels in Numba: position by position of the window, a row of outputs at a time.

The innermost loop takes one position (r, s) of all windows in a row. It runs over slices that start where the
first window sees the input, so it needs no test for padding. With a stride, an input row is dealt out first, so that
what neighbouring windows see lies side by side: read where it is, it would be gathered by single numbers, and with
AVX-512 2×2 windows took three times as long. The maximum is written as a choice instead of a jump, and the winners go
to another row than the one they are compared with: a choice between what is there and something else would become a
masked store, which takes AMD's processors twice as long.

Every thread owns whole outputs (a row forward, a plane backward), clears them and adds to them in a fixed order: the
same bits for any number of threads.
"""

from math import prod

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.dispatch import check_shape
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import empty, odd_lines, scratch_memory
from minifcn_kernels.pool2d.contract import (
    INDEX,
    PoolGeometry,
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
    y, index = empty(g.y_shape, x.dtype), empty(g.y_shape, INDEX)
    threads = get_num_threads()
    row, dealt = odd_lines(x.itemsize, g.OW), odd_lines(x.itemsize, dealt_row(g))
    scratch = scratch_memory(x.dtype, (threads, 2, row), (threads, dealt))
    (indices,) = scratch_memory(INDEX, (threads, 3, odd_lines(INDEX.itemsize, g.OW)))
    _max_pool2d.over(prod(g.y_shape[:3]), y, index, *scratch, indices, x, g.kernel, g.stride, g.padding, g.dilation)
    return y, index


@compiled
def _max_pool2d(
    first: int,
    last: int,
    out: Array,
    out_index: Array,
    scratch_best: Array,
    scratch_dealt: Array,
    scratch_index: Array,
    x: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> None:
    _, C, H, W = x.shape
    OH, OW = out.shape[2:]
    thread = get_thread_id()
    best, index, first_column = scratch_best[thread], scratch_index[thread], scratch_index[thread, 2]
    for j in range(OW):
        first_column[j] = first_inside(j * stride[1] - padding[1], dilation[1])
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
                dealt = deal_out(scratch_dealt[thread], x[n, c, h], stride[1])
                for s in range(kernel[1]):
                    offset = s * dilation[1] - padding[1]
                    j0, j1 = valid_outputs(OW, W, offset, stride[1])
                    before = best[now][:OW], index[now][:OW]
                    after = best[1 - now][:OW], index[1 - now][:OW]
                    seen = dealt[place_in_dealt(offset, W, stride[1]) + j0 :]
                    take_larger(after, before, j0, j1, seen, h * W + j0 * stride[1] + offset, stride[1])
                    now = 1 - now
        for j in range(OW):
            out[n, c, i, j] = best[now, j]
            out_index[n, c, i, j] = index[now, j]


def dealt_row(g: PoolGeometry) -> int:
    """Return how many numbers `deal_out` writes."""
    return g.stride[1] * -(-g.W // g.stride[1])


@inlined
def deal_out(dealt: Array, x_row: Array, stride: int) -> Array:
    """Return what ``x_row`` holds, but every ``stride``-th of its numbers side by side: phase after phase."""
    if stride == 1:
        return x_row
    length = (len(x_row) + stride - 1) // stride
    if stride == 2:  # of both in one loop the compiler makes shuffles of vectors
        for j in range(len(x_row) // 2):
            dealt[j], dealt[length + j] = x_row[2 * j], x_row[2 * j + 1]
        dealt[length - 1] = x_row[2 * length - 2]
    else:
        for phase in range(min(stride, len(x_row))):
            for j in range((len(x_row) - phase + stride - 1) // stride):
                dealt[phase * length + j] = x_row[j * stride + phase]
    return dealt


@inlined
def place_in_dealt(offset: int, size: int, stride: int) -> int:
    """Return where the number at ``offset`` is in a row of ``size``, dealt out; those of later windows follow."""
    return offset % stride * ((size + stride - 1) // stride) + offset // stride


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
    seen: Array,
    position: int,
    stride: int,
) -> None:
    """Copy the best of a row and their indices, but let what outputs j0 … j1 see win if larger or the first NaN.

    ``seen[j - j0]``, with index ``position + (j - j0)·stride``, is what output j sees.
    """
    for j in range(j0):
        after[0][j], after[1][j] = before[0][j], before[1][j]
    best, index = before[0][j0:j1], before[1][j0:j1]
    new_best, new_index = after[0][j0:j1], after[1][j0:j1]
    for j in range(len(best)):
        old, old_index, value = best[j], index[j], seen[j]
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
    gx = empty(g.x_shape, gy.dtype)
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
    y = empty(g.y_shape, x.dtype)
    (scratch,) = scratch_memory(x.dtype, (get_num_threads(), odd_lines(x.itemsize, dealt_row(g))))
    _avg_pool2d.over(prod(g.y_shape[:3]), y, scratch, x, rows, columns, g.kernel, g.stride, g.padding)
    return y


@compiled
def _avg_pool2d(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    x: Array,
    rows: Array,
    columns: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
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
                dealt = deal_out(scratch[get_thread_id()], x[n, c, h], stride[1])
                for s in range(kernel[1]):
                    offset = s - padding[1]
                    j0, j1 = valid_outputs(OW, W, offset, stride[1])
                    sums, seen = y_row[j0:j1], dealt[place_in_dealt(offset, W, stride[1]) + j0 :]
                    for j in range(len(sums)):
                        sums[j] += seen[j]
        for j in range(OW):
            y_row[j] /= rows[i] * columns[j]


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
    gx = empty(g.x_shape, gy.dtype)
    (scratch,) = scratch_memory(gy.dtype, (get_num_threads(), odd_lines(gy.itemsize, g.OW)))
    _avg_pool2d_grad.over(prod(g.x_shape[:2]), gx, scratch, gy, rows, columns, g.kernel, g.stride, g.padding)
    return gx


@compiled
def _avg_pool2d_grad(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    gy: Array,
    rows: Array,
    columns: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
) -> None:
    _, C, H, W = out.shape
    share = scratch[get_thread_id()]  # what each element of a window gets
    OH, OW = len(rows), len(columns)
    for plane in range(first, last):
        c = plane % C
        n = plane // C
        for h in range(H):
            for w in range(W):
                out[n, c, h, w] = 0
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
