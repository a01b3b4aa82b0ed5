"""Which algorithm computes a convolution on NumPy arrays: the policy's, or with ``"auto"`` the one chosen here.

The choice is a function of the geometry alone, so that a net gives the same bits on every run and for any number of
threads.
"""

from numba.core import config

from minifcn_kernels.conv2d import direct, grad_weight, loops
from minifcn_kernels.conv2d.contract import conv2d, conv2d_grad_input, conv2d_grad_weight, conv_geometry
from minifcn_kernels.dispatch import check_shape, current_policy
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair


def choose(filters_per_group: int) -> str:
    """Return ``"direct"`` or ``"loops"`` for a sum that makes ``filters_per_group`` outputs from the same inputs.

    With one filter (depthwise convolution) the rows of the register tile have nothing to share, and most of its
    arithmetic would be thrown away. And where Numba is told not to compile, there is no tile.

    Raises:
        RuntimeError: ``"direct"`` is asked for under ``NUMBA_DISABLE_JIT``.
    """
    algorithm = current_policy().algorithm
    if algorithm == "auto":
        return "loops" if filters_per_group == 1 or config.DISABLE_JIT else "direct"
    if algorithm == "direct" and config.DISABLE_JIT:
        raise RuntimeError(
            "algorithm 'direct' exists in compiled code only; unset NUMBA_DISABLE_JIT, or use_algorithm('loops')"
        )
    return algorithm


@conv2d.implementation("numba")
def conv2d_numba(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """`conv2d` by the chosen algorithm."""
    g = conv_geometry(x.shape, w.shape, stride, padding, dilation, groups)
    run = direct.conv2d_direct if choose(g.K // g.groups) == "direct" else loops.conv2d_loops
    return run(x, w, b, g)


@conv2d_grad_input.implementation("numba")
def conv2d_grad_input_numba(
    gy: Array,
    w: Array,
    x_shape: tuple[int, int, int, int],
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """`conv2d_grad_input` by the chosen algorithm."""
    g = conv_geometry(x_shape, w.shape, stride, padding, dilation, groups)
    check_shape("conv2d_grad_input", "gy", gy.shape, g.y_shape)
    direct_or_loops = choose(g.C // g.groups)
    run = direct.conv2d_grad_input_direct if direct_or_loops == "direct" else loops.conv2d_grad_input_loops
    return run(gy, w, g)


@conv2d_grad_weight.implementation("numba")
def conv2d_grad_weight_numba(
    x: Array,
    gy: Array,
    w_shape: tuple[int, int, int, int],
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """`conv2d_grad_weight` by the chosen algorithm."""
    g = conv_geometry(x.shape, w_shape, stride, padding, dilation, groups)
    check_shape("conv2d_grad_weight", "gy", gy.shape, g.y_shape)
    direct_or_loops = choose(g.K // g.groups)
    run = grad_weight.conv2d_grad_weight_direct if direct_or_loops == "direct" else loops.conv2d_grad_weight_loops
    return run(x, gy, g)
