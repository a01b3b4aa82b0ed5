"""Which algorithm computes a convolution on NumPy arrays: the policy's, or with ``"auto"`` the one chosen here.

The choice is a function of the geometry alone, so that a net gives the same bits on every run and for any number of
threads.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba.core import config

from minifcn_kernels.conv2d import direct, grad_weight, loops, winograd, winograd_grad_weight
from minifcn_kernels.conv2d.contract import ConvGeometry, conv2d, conv2d_grad_input, conv2d_grad_weight, conv_geometry
from minifcn_kernels.conv2d.winograd_transforms import POSITIONS, TILE, WIDTH, cut_into_boxes, panels_in
from minifcn_kernels.dispatch import check_shape, current_policy
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair

FORWARD = {
    "loops": loops.conv2d_loops,
    "direct": direct.conv2d_direct,
    "winograd": winograd.conv2d_winograd,
}
GRAD_INPUT = {
    "loops": loops.conv2d_grad_input_loops,
    "direct": direct.conv2d_grad_input_direct,
    "winograd": winograd.conv2d_grad_input_winograd,
}
GRAD_WEIGHT = {
    "loops": loops.conv2d_grad_weight_loops,
    "direct": grad_weight.conv2d_grad_weight_direct,
    "winograd": winograd_grad_weight.conv2d_grad_weight_winograd,
}

# What the transforms of F(4×4, 3×3) cost, in multiply-adds that the register tile makes in the same time: for a tile of
# an incoming channel, for a tile of an outgoing one, and for a filter. MEASURED
COMING, GOING, FILTER = 1000, 500, 300


def winograd_applies(g: ConvGeometry, dtype: Any) -> bool:
    """Return whether this is a convolution that F(4×4, 3×3) can do."""
    return (g.R, g.S, g.stride, g.dilation) == (3, 3, (1, 1), (1, 1)) and dtype == np.float32


@lru_cache(maxsize=256)
def winograd_pays(inputs: int, outputs: int, maps: tuple[int, int, int]) -> bool:
    """Return whether F(4×4, 3×3) is the faster way from ``inputs`` to ``outputs`` channels, ``maps`` (N, OH, OW).

    Compared are multiply-adds for a tile, an incoming and an outgoing channel: 144 without, and with it 36, more where
    the positions do not fill their panels, and a share of each transform.
    """
    N, OH, OW = maps
    tiles = N * -(-OH // TILE) * -(-OW // TILE)
    if tiles == 0:
        return False
    positions = WIDTH * int(panels_in(cut_into_boxes(N, OH, OW, POSITIONS)).sum())
    return 36 * positions / tiles + COMING / outputs + GOING / inputs + FILTER / tiles < 144


def choose(g: ConvGeometry, dtype: Any, inputs: int, outputs: int, maps: tuple[int, int, int]) -> str:
    """Return ``"loops"``, ``"direct"`` or ``"winograd"`` for a sum that takes ``inputs`` channels to ``outputs``.

    By ``"auto"``, Winograd is taken for float32 where it pays. With one output channel (depthwise convolution) the rows
    of the register tile have nothing to share, and most of its arithmetic would be thrown away. And where Numba is told
    not to compile, there is no tile.

    Raises:
        RuntimeError: ``"direct"`` or ``"winograd"`` is asked for under ``NUMBA_DISABLE_JIT``.
    """
    algorithm = current_policy().algorithm
    if algorithm == "auto":
        if config.DISABLE_JIT or outputs == 1:
            return "loops"
        pays = winograd_applies(g, dtype) and winograd_pays(inputs, outputs, maps)
        return "winograd" if pays else "direct"
    if algorithm != "loops" and config.DISABLE_JIT:
        raise RuntimeError(
            f"algorithm {algorithm!r} exists in compiled code only; unset NUMBA_DISABLE_JIT, or use_algorithm('loops')"
        )
    return "direct" if algorithm == "winograd" and not winograd_applies(g, dtype) else algorithm


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
    algorithm = choose(g, x.dtype, g.C // g.groups, g.K // g.groups, (g.N, g.OH, g.OW))
    return FORWARD[algorithm](x, w, b, g)


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
    algorithm = choose(g, gy.dtype, g.K // g.groups, g.C // g.groups, (g.N, g.H, g.W))
    return GRAD_INPUT[algorithm](gy, w, g)


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
    algorithm = choose(g, x.dtype, g.C // g.groups, g.K // g.groups, (g.N, g.OH, g.OW))
    return GRAD_WEIGHT[algorithm](x, gy, g)
