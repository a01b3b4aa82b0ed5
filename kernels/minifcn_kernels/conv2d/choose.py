"""Which algorithm computes a convolution on NumPy arrays: the policy's, or with ``"auto"`` the one chosen here.

The choice is a function of the geometry alone, so that a net gives the same bits on every run and for any number of
threads.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba.core import config

from minifcn_kernels.conv2d import (
    depthwise,
    direct,
    dots,
    grad_weight,
    loops,
    product,
    scatter,
    stretched,
    turned,
    winograd,
    winograd_grad_weight,
)
from minifcn_kernels.conv2d.contract import (
    ConvGeometry,
    backwards,
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    conv_geometry,
)
from minifcn_kernels.conv2d.vectors import LANES
from minifcn_kernels.conv2d.winograd_tiles import (
    POSITIONS,
    WIDTH,
    cut_into_boxes,
    lay_out,
    panels_in,
    tile_rows,
    tiles_in,
)
from minifcn_kernels.conv2d.winograd_transforms import POINTS, TILE
from minifcn_kernels.dispatch import check_shape, current_policy
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair
from minifcn_kernels.tile import ROWS, VECTOR_BYTES

FORWARD = {
    "loops": loops.conv2d_loops,
    "direct": direct.conv2d_direct,
    "turned": turned.conv2d_turned,
    "product": product.conv2d_product,
    "depthwise": depthwise.conv2d_depthwise,
    "stretched": stretched.conv2d_stretched,
    "winograd": winograd.conv2d_winograd,
}
GRAD_INPUT = {
    "loops": loops.conv2d_grad_input_loops,
    "direct": direct.conv2d_grad_input_direct,
    "product": product.conv2d_grad_input_product,
    "scatter": scatter.conv2d_grad_input_scatter,
    "depthwise": depthwise.conv2d_grad_input_depthwise,
    "stretched": stretched.conv2d_grad_input_stretched,
    "winograd": winograd.conv2d_grad_input_winograd,
}
GRAD_WEIGHT = {
    "loops": loops.conv2d_grad_weight_loops,
    "direct": grad_weight.conv2d_grad_weight_direct,
    "dots": dots.conv2d_grad_weight_dots,
    "product": product.conv2d_grad_weight_product,
    "depthwise": depthwise.conv2d_grad_weight_depthwise,
    "stretched": stretched.conv2d_grad_weight_stretched,
    "winograd": winograd_grad_weight.conv2d_grad_weight_winograd,
}

# What F(4×4, 3×3) costs, in multiply-adds that the register tile makes in the same time: for one tile of 4×4 outputs,
# one incoming virtual channel and one outgoing channel. It makes 36, whose sums are short and wait for the second-level
# cache (`PRODUCT`), and has a share in every transform. For data and outputs, timed on one core with AVX2 (Zen 3) in 5
# layers of 3 to 96 channels, where they lie side by side in memory, and `APART`, as a stride or a dilation leaves them.
# For filters and their gradients in 14 layers with maps of 7 to 100 pixels and filters of 3×3 to 7×7, with AVX2 and
# with AVX-512 (Zen 5): fc6 takes 0.78 of the direct time forward and 1.3 for its weight gradient, 512 channels on 14×14
# pixels 0.55 and 0.85.
PRODUCT = 4 / 3
DATA, BACK, FILTER = 1000, 600, 600
GRADIENT, WEIGHT = 700, 900  # for the weight gradient, in place of the latter two
APART = 600
# Virtual channels whose transforms take 115 MB a thread, or 29 MB for a box of one panel.
MOST_CHANNELS = 8192
# A direct convolution makes R·S for every output that there is, at nearly the tile's speed.
DIRECT = 8 / 7

# From this stride on, single maps are stretched rather than taken apart into phases: forward and back on 21 maps with
# filters of twice the stride, that takes 1.3 and 1.4 times as long by 2, as long by 3, and 0.8 by 4, 0.5 and 0.6 by 8,
# 0.2 and 0.4 by 32 (one core, AVX2).
STRETCHED_STRIDE = 4


def winograd_applies(g: ConvGeometry, dtype: Any, *, of_input: bool = False) -> bool:
    """Return whether F(4×4, 3×3) can do a convolution, or its input gradient, and takes fewer multiplications."""
    _, origins = lay_out(g)
    saves = POINTS * len(origins) < TILE * TILE * g.R * g.S
    fits = len(origins) * (g.K if of_input else g.C) // g.groups <= MOST_CHANNELS
    return bool(dtype == np.float32 and saves and fits and not (of_input and g.stride != (1, 1)))


@lru_cache(maxsize=256)
def winograd_pays(g: ConvGeometry, *, of_input: bool = False) -> bool:
    """Return whether F(4×4, 3×3) is faster for a convolution, or its input gradient."""
    direct_g, g = g, backwards(g) if of_input else g
    grid, origins = lay_out(g)
    rows, columns = tile_rows(g.N, grid)
    tiles = max(1, rows * columns)
    boxes = cut_into_boxes(rows, columns, POSITIONS)
    positions: float = WIDTH * int(panels_in(boxes).sum())  # those in vain included
    if positions == WIDTH:
        in_box = int(tiles_in(boxes[0]))
        positions = min(positions, -(-in_box // ROWS) * ROWS + winograd.CLOSING * in_box / (g.K // g.groups))
    data = DATA + APART * int(grid["step_w"][0] > 1)
    back = BACK + APART * int(grid["every_w"][0] > 1)
    inputs, outputs = g.C // g.groups, g.K // g.groups
    cost = len(origins) * (PRODUCT * POINTS * positions / tiles + data / outputs + FILTER / tiles) + back / inputs
    return cost < direct_cost(direct_g, tiles, of_input=of_input)


@lru_cache(maxsize=256)
def winograd_pays_for_weights(g: ConvGeometry) -> bool:
    """Return whether F(4×4, 3×3) is faster for the weight gradient of a convolution."""
    grid, origins = lay_out(g)
    rows, columns = tile_rows(g.N, grid)
    tiles = max(1, rows * columns)
    data = DATA + APART * int(grid["step_w"][0] > 1)
    gradient = GRADIENT + APART * int(grid["every_w"][0] > 1)
    inputs, outputs = g.C // g.groups, g.K // g.groups
    vectors = LANES * -(-outputs // LANES) / outputs  # those in vain included
    cost = len(origins) * (PRODUCT * POINTS * vectors + data / outputs + WEIGHT / tiles) + gradient / inputs
    return cost < direct_cost(g, tiles)


def filters_fill_vectors(g: ConvGeometry, item_bytes: int) -> bool:
    """Return whether filters can lie along the vectors of a tile: there are two vectors of them at least.

    With AVX-512 and 64 filters or more, forward takes 0.6 to 0.9 of the time that it takes with pixels along the
    vectors, and with 32 or 45 filters 0.8 to 1.15. The weight gradient takes 0.75 to 1 of the time of dot products, in
    one layer of 45 filters and 20 channels 1.2; and 2.5 with 16 filters and three channels, which do not fill a tile.
    """
    return g.K // g.groups * item_bytes >= 2 * VECTOR_BYTES


def direct_cost(g: ConvGeometry, tiles: int, *, of_input: bool = False) -> float:
    """Return the cost of the direct way, for a tile that has its share of all the products."""
    pixels = g.H * g.W if of_input and not scatter.scatter_pays(g) else g.OH * g.OW
    return DIRECT * g.R * g.S * g.N * pixels / tiles


def choose(g: ConvGeometry, dtype: Any, outputs: int, pays: bool, *, of_input: bool = False) -> str:
    """Return a name from the tables above, for a sum that makes ``outputs`` from the same inputs.

    ``of_input`` says that it is the gradient of the input.

    By ``"auto"``, Winograd's algorithm is taken for float32 where it applies and ``pays``. With one output the rows of
    the register tile have nothing to share, and most of its arithmetic would be thrown away: that is for the loops, or
    for the direct way of depthwise convolutions. And where Numba is told not to compile, there is no tile.

    Raises:
        RuntimeError: ``"direct"`` or ``"winograd"`` is asked for under ``NUMBA_DISABLE_JIT``.
    """
    algorithm = current_policy().algorithm
    if algorithm == "auto":
        if config.DISABLE_JIT or (outputs == 1 and not depthwise.is_depthwise(g)):
            return "loops"
        algorithm = "winograd" if pays else "direct"
    elif algorithm != "loops" and config.DISABLE_JIT:
        raise RuntimeError(
            f"algorithm {algorithm!r} exists in compiled code only; unset NUMBA_DISABLE_JIT, or use_algorithm('loops')"
        )
    if algorithm == "winograd" and not winograd_applies(g, dtype, of_input=of_input):
        algorithm = "direct"
    return direct_way(g) if algorithm == "direct" else algorithm


def direct_way(g: ConvGeometry) -> str:
    """Return which of the direct ways is this convolution's."""
    if depthwise.is_depthwise(g):
        return "stretched" if g.stride[1] >= STRETCHED_STRIDE and g.dilation[1] == 1 else "depthwise"
    return "product" if product.is_product(g) else "direct"


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
    algorithm = choose(g, x.dtype, g.K // g.groups, winograd_pays(g))
    if algorithm == "direct" and filters_fill_vectors(g, x.itemsize):
        algorithm = "turned"
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
    algorithm = choose(g, gy.dtype, g.C // g.groups, winograd_pays(g, of_input=True), of_input=True)
    if algorithm == "direct" and scatter.scatter_pays(g):
        algorithm = "scatter"
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
    algorithm = choose(g, x.dtype, g.K // g.groups, winograd_pays_for_weights(g))
    if algorithm == "direct" and not (filters_fill_vectors(g, x.itemsize) and g.C // g.groups >= ROWS):
        algorithm = "dots"
    return GRAD_WEIGHT[algorithm](x, gy, g)
