"""Which algorithm computes a convolution on NumPy arrays: the policy's, or with ``"auto"`` the one chosen here.

The choice is a pure function of the geometry, so that a net gives the same bits on every run and for any number of
threads.
"""

from typing import Any

import numba

from minifcn_kernels.conv2d import direct, grad_weight, loops
from minifcn_kernels.conv2d.contract import conv2d, conv2d_grad_input, conv2d_grad_weight
from minifcn_kernels.dispatch import current_policy
from minifcn_kernels.jit import Array


def choose(filters_per_group: int) -> str:
    """Return ``"direct"`` or ``"loops"`` for a sum that makes ``filters_per_group`` outputs from the same inputs.

    With one filter (depthwise convolution) the rows of the register tile have nothing to share, and most of
    its arithmetic would be thrown away.
    """
    algorithm = current_policy().algorithm
    if algorithm != "auto":
        return algorithm
    # The tile exists in compiled code only.
    return "loops" if filters_per_group == 1 or numba.config.DISABLE_JIT else "direct"


@conv2d.implementation("numba")
def conv2d_numba(x: Array, w: Array, b: Array | None = None, **options: Any) -> Array:
    """`conv2d` by the chosen algorithm."""
    if choose(w.shape[0] // options.get("groups", 1)) == "direct":
        return direct.conv2d_direct(x, w, b, **options)
    return loops.conv2d_loops(x, w, b, **options)


@conv2d_grad_input.implementation("numba")
def conv2d_grad_input_numba(gy: Array, w: Array, x_shape: tuple[int, int, int, int], **options: Any) -> Array:
    """`conv2d_grad_input` by the chosen algorithm."""
    if choose(w.shape[1]) == "direct":
        return direct.conv2d_grad_input_direct(gy, w, x_shape, **options)
    return loops.conv2d_grad_input_loops(gy, w, x_shape, **options)


@conv2d_grad_weight.implementation("numba")
def conv2d_grad_weight_numba(x: Array, gy: Array, w_shape: tuple[int, int, int, int], **options: Any) -> Array:
    """`conv2d_grad_weight` by the chosen algorithm."""
    if choose(w_shape[0] // options.get("groups", 1)) == "direct":
        return grad_weight.conv2d_grad_weight_direct(x, gy, w_shape, **options)
    return loops.conv2d_grad_weight_loops(x, gy, w_shape, **options)
