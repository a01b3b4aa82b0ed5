"""Local response normalisation in Numba: one thread owns one row of pixels, through all channels.

Powers cost far more than sums, so the few squares of a window are simply added again for every channel. A running
sum would take off what it once added, and be left with the rounding errors of channels long gone.
"""

from numba import get_num_threads, get_thread_id

from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.local_response_norm.contract import (
    check_constants,
    local_response_norm,
    local_response_norm_grad,
)
from minifcn_kernels.memory import empty, odd_lines, scratch_memory


@local_response_norm.implementation("numba")
def local_response_norm_loops(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """`local_response_norm`, row by row."""
    check_constants(size, alpha, k)
    y = empty(x.shape, x.dtype)
    (scratch,) = scratch_memory(x.dtype, (get_num_threads(), odd_lines(x.itemsize, x.shape[3])))
    _local_response_norm.over(x.shape[0] * x.shape[2], y, scratch, x, size, float(alpha), float(beta), float(k))
    return y


@compiled
def _local_response_norm(
    first: int, last: int, out: Array, scratch: Array, x: Array, size: int, alpha: float, beta: float, k: float
) -> None:
    _, C, H, W = x.shape
    scale = scratch[get_thread_id()][:W]
    exponent = x.dtype.type(-beta)  # of the data's own type: a float64 here would make every power a float64 one
    for row in range(first, last):
        n = row // H
        h = row % H
        for c in range(C):
            fill_scale(scale, x[n], h, c, size, alpha, k)
            for w in range(W):
                out[n, c, h, w] = x[n, c, h, w] * scale[w] ** exponent


@inlined
def fill_scale(scale: Array, x: Array, h: int, c: int, size: int, alpha: float, k: float) -> None:
    """Write channel c's ``scale`` at row h, (W,), given an image, (C, H, W)."""
    scale[:] = k
    share = x.dtype.type(alpha / size)
    for d in range(max(0, c - size // 2), min(len(x), c + (size - 1) // 2 + 1)):
        for w in range(len(scale)):
            scale[w] += share * x[d, h, w] * x[d, h, w]


@local_response_norm_grad.implementation("numba")
def local_response_norm_grad_loops(gy: Array, x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """`local_response_norm_grad`, row by row."""
    check_constants(size, alpha, k)
    gx = empty(x.shape, x.dtype)
    threads, row = get_num_threads(), odd_lines(x.itemsize, x.shape[3])
    scratch = scratch_memory(x.dtype, (threads, row), (threads, x.shape[1], row))
    constants = float(alpha), float(beta), float(k)
    _local_response_norm_grad.over(x.shape[0] * x.shape[2], gx, *scratch, gy, x, size, *constants)
    return gx


@compiled
def _local_response_norm_grad(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    scratch_through: Array,
    gy: Array,
    x: Array,
    size: int,
    alpha: float,
    beta: float,
    k: float,
) -> None:
    _, C, H, W = x.shape
    scale = scratch[get_thread_id()][:W]
    through_scale = scratch_through[get_thread_id()]  # gy_e · x_e · scale_e^(−beta − 1), for every channel e
    factor = x.dtype.type(2 * alpha * beta / size)
    exponent = x.dtype.type(-beta)
    for row in range(first, last):
        n = row // H
        h = row % H
        for c in range(C):
            fill_scale(scale, x[n], h, c, size, alpha, k)
            for w in range(W):
                out[n, c, h, w] = gy[n, c, h, w] * scale[w] ** exponent
                through_scale[c, w] = out[n, c, h, w] * x[n, c, h, w] / scale[w]
        for c in range(C):
            for e in range(max(0, c - (size - 1) // 2), min(C, c + size // 2 + 1)):
                for w in range(W):
                    out[n, c, h, w] -= factor * x[n, c, h, w] * through_scale[e, w]
