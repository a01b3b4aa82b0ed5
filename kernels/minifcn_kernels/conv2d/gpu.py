"""The convolution kernels in CUDA C++: which kernel, which tile, how many blocks.

Three ways, chosen by the geometry alone:

- as an implicit matrix product on tiles (``conv2d.cu``), on tensor cores where `allow_tf32` is in force;
- Winograd's F(4×4, 3×3) for 3×3 filters of stride 1 in float32 (``winograd.cu``), around the same matrix product;
- output by output (``direct.cu``), where a group has too few filters to fill a tile.

A sum whose outputs make too few blocks to fill a GPU is cut into parts, again by the geometry alone.
"""

from dataclasses import asdict
from functools import cache
from math import gcd, prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minifcn_kernels.conv2d.contract import (
    ConvGeometry,
    backwards,
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    conv_geometry,
)
from minifcn_kernels.cuda.device import module_of, span
from minifcn_kernels.cuda.grid import (
    INDICES,
    THREADS,
    WARP,
    ceil_div,
    check_countable,
    number,
    over_elements,
    over_warps,
)
from minifcn_kernels.cuda.launch import CudaSource, empty, use_tf32
from minifcn_kernels.dispatch import allow_tf32, check_shape, current_policy
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair

# Blocks that a GPU should be given at once: two of 256 threads for each of the 132 multiprocessors of an H100. It is
# the same number on every device, because sums are cut by it, and how a sum is cut shows in its last bits.
WAVE = 2 * 132
# A part of a sum is at least this long, 16 steps of a tile: of fewer, filling the pipeline would be a large part.
LEAST_PART = 128
# Filters to a group up to which `direct.cu` is taken: a tile's 32 rows would be empty but for these.
FEW_FILTERS = 4
# Taps to a filter from which a whole warp works on one output.
MANY_TAPS = 64
# Elements of Winograd's transformed maps at a time, 1 GiB of them.
WORKSPACE = 1 << 28


class Tile(NamedTuple):
    """A block's BM × BN outputs, of which each thread, or on tensor cores each warp, owns TM × TN; see ``tile.cuh``."""

    BM: int
    BN: int
    TM: int
    TN: int
    number: str  # float, double; or tf32: on tensor cores

    @property
    def threads(self) -> int:
        """Threads to a block."""
        patches = self.BM // self.TM * (self.BN // self.TN)
        return patches * WARP if self.number == "tf32" else patches

    def instance(self, kernel: str, *more: int) -> str:
        """Return the name of ``kernel`` for this tile, and for what else its template takes."""
        *sizes, number = self
        if number == "tf32":
            return f"{kernel}_tf32<{', '.join(map(str, [*sizes, *more]))}>"
        return f"{kernel}<{', '.join(map(str, [number, *sizes, *more]))}>"


SINGLE = Tile(32, 128, 4, 8, "float"), Tile(64, 128, 8, 8, "float"), Tile(128, 128, 8, 8, "float")
NARROW = Tile(64, 32, 8, 4, "float")  # for the weight gradient of a net's first layer: it has 27 columns
DOUBLE = Tile(64, 64, 4, 4, "double")
TENSOR = Tile(64, 128, 32, 32, "tf32"), Tile(128, 128, 64, 32, "tf32")
# Neighbouring pixels that are copied at once: 1, or 4 (16 bytes) where the input is read as it lies.
COPIED = 1, 4

products = CudaSource(
    Path(__file__).with_name("conv2d.cu"),
    [
        *(tile.instance("conv2d_gemm", copied) for tile in SINGLE for copied in COPIED),
        DOUBLE.instance("conv2d_gemm", 1),
        *(tile.instance("conv2d_grad_input_gemm") for tile in (*SINGLE, DOUBLE)),
        *(tile.instance("conv2d_grad_weight_gemm") for tile in (NARROW, *SINGLE, DOUBLE)),
        "conv2d_sum_parts<float>",
        "conv2d_sum_parts<double>",
    ],
    from_sm_80=[
        *(tile.instance("conv2d_gemm", copied) for tile in TENSOR for copied in COPIED),
        *(tile.instance("conv2d_grad_input_gemm") for tile in TENSOR),
        *(tile.instance("conv2d_grad_weight_gemm") for tile in TENSOR),
    ],
)
singly = CudaSource(
    Path(__file__).with_name("direct.cu"),
    [
        f"{name}<{number}>"
        for name in ("conv2d_direct", "conv2d_wide", "conv2d_grad_input_direct", "conv2d_grad_weight_direct")
        for number in ("float", "double")
    ],
)
transforms = CudaSource(
    Path(__file__).with_name("winograd.cu"),
    [
        "winograd_filter<false>",
        "winograd_filter<true>",
        "winograd_input",
        "winograd_cotangent",
        "winograd_output",
        "winograd_grad_weight",
    ],
)


@conv2d.implementation("cuda")
def conv2d_cuda(
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
    check_countable("conv2d", x=g.x_shape, w=g.w_shape, y=g.y_shape)
    bias = module_of(x).zeros(g.K, x.dtype) if b is None else b
    match choose(x, g, g.K // g.groups):
        case "winograd":
            with allow_tf32(False):  # the transforms would enlarge its errors
                return winograd_forward(x, w, bias, g, turned=False)
        case "direct":
            return forward_product(x, w, bias, g)
    y = empty(g.y_shape, like=x)
    if g.R * g.S < MANY_TAPS:
        singly.launch(f"conv2d_direct<{number(x)}>", *over_elements(y.size), x, w, bias, y, fields(g))
    else:
        singly.launch(f"conv2d_wide<{number(x)}>", *over_warps(y.size), x, w, bias, y, fields(g))
    return y


@conv2d_grad_input.implementation("cuda")
def conv2d_grad_input_cuda(
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
    check_countable("conv2d_grad_input", gy=g.y_shape, w=g.w_shape, x=g.x_shape)
    match choose(gy, g, g.C // g.groups):
        case "winograd":
            with allow_tf32(False):
                return winograd_forward(gy, w, module_of(gy).zeros(g.C, gy.dtype), backwards(g), turned=True)
        case "direct":
            return grad_input_product(gy, w, g)
    gx = empty(g.x_shape, like=gy)
    singly.launch(f"conv2d_grad_input_direct<{number(gy)}>", *over_elements(gx.size), gy, w, gx, fields(g))
    return gx


@conv2d_grad_weight.implementation("cuda")
def conv2d_grad_weight_cuda(
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
    check_countable("conv2d_grad_weight", x=g.x_shape, gy=g.y_shape, w=g.w_shape)
    match choose(x, g, g.K // g.groups):
        case "winograd":
            with allow_tf32(False):
                return winograd_grad_weight(x, gy, g)
        case "direct":
            return grad_weight_product(x, gy, g)
    weights = g.K * g.C // g.groups * g.R * g.S
    blocks, threads = over_warps(weights)
    parts, part_length = cut(g.N * g.OH * g.OW, blocks, weights)
    partial = empty((parts, *g.w_shape), like=x)
    kernel = f"conv2d_grad_weight_direct<{number(x)}>"
    singly.launch(kernel, (blocks, parts), threads, x, gy, partial, fields(g), part_length)
    return sum_of_parts(partial, None)


def choose(x: Array, g: ConvGeometry, outputs: int) -> str:
    """Return ``"loops"``, ``"direct"`` or ``"winograd"`` for sums that make ``outputs`` channels to a group from ``x``.

    ``"loops"`` is output by output, ``"direct"`` the matrix product. Winograd saves three quarters of the
    multiplications, 13.5 of 18 FLOPs for each of the C·K·pixels products, and writes and reads maps of 2.25 times the
    size, 18 bytes more for each of the (C + K)·pixels. An H100 does about 50 FLOPs of float32 in the time of 3 bytes,
    which says that it pays from C·K/(C + K) = 22 on; and its three more launches, 10 µs, want sums of 2³⁰ FLOPs or
    more, which take twice as long. (Estimates from data sheets, not measured.)

    Its filters are 4 times as large as w, and there is a gradient of them for each chunk of tiles: it is not taken
    where that is more than kernels can count.
    """
    algorithm = current_policy().algorithm
    applies = (g.R, g.S, g.stride, g.dilation) == (3, 3, (1, 1), (1, 1)) and x.dtype == np.float32
    applies = applies and 4 * prod(g.w_shape) * max(1, len(chunks_of_tiles(g))) < INDICES
    if algorithm == "winograd":
        return "winograd" if applies else "direct"
    if algorithm != "auto":
        return algorithm
    C, K = g.C // g.groups, g.K // g.groups
    pays = C * K >= 22 * (C + K) and 18 * C * K * g.groups * g.N * g.OH * g.OW >= 1 << 30
    if applies and pays and not use_tf32(x):
        return "winograd"
    return "loops" if outputs <= FEW_FILTERS else "direct"


def forward_product(x: Array, w: Array, b: Array, g: ConvGeometry) -> Array:
    """`conv2d` as an implicit matrix product."""
    pixels = g.OH * g.OW
    tile = tile_for(x, g.K // g.groups)
    as_it_lies = (g.R, g.S, g.stride, g.padding) == (1, 1, (1, 1), (0, 0)) and pixels % 4 == 0
    copied = 4 if as_it_lies and x.dtype == np.float32 and is_aligned(x) else 1
    kernel = tile.instance("conv2d_gemm", copied)
    tiles = ceil_div(g.N * pixels, tile.BN), g.groups * ceil_div(g.K // g.groups, tile.BM)
    return product(kernel, tile, tiles, g.C // g.groups * g.R * g.S, (x, w, b), g.y_shape, b, g)


def grad_input_product(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input` as implicit matrix products, one for each phase of the stride."""
    phases = g.stride[0] * g.stride[1]
    pixels = g.N * ceil_div(g.H, g.stride[0]) * ceil_div(g.W, g.stride[1])  # of a phase
    # Of R taps, every (stride / gcd)-th belongs to one phase; some phases may have none.
    taps = [ceil_div((g.R, g.S)[a], g.stride[a] // gcd(g.stride[a], g.dilation[a])) for a in (0, 1)]
    tile = tile_for(gy, g.C // g.groups)
    kernel = tile.instance("conv2d_grad_input_gemm")
    tiles = phases * ceil_div(pixels, tile.BN), g.groups * ceil_div(g.C // g.groups, tile.BM)
    return product(kernel, tile, tiles, g.K // g.groups * taps[0] * taps[1], (gy, w), g.x_shape, None, g)


def grad_weight_product(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` as an implicit matrix product."""
    weights = g.C // g.groups * g.R * g.S  # of a filter
    tile = tile_for(x, g.K // g.groups)
    if weights <= NARROW.BN and x.dtype == np.float32:
        tile = NARROW
    kernel = tile.instance("conv2d_grad_weight_gemm")
    tiles = ceil_div(weights, tile.BN), g.groups * ceil_div(g.K // g.groups, tile.BM)
    return product(kernel, tile, tiles, g.N * g.OH * g.OW, (x, gy), g.w_shape, None, g)


def product(
    kernel: str,
    tile: Tile,
    tiles: tuple[int, int],
    length: int,
    inputs: tuple[Array, ...],
    shape: tuple[int, ...],
    b: Array | None,
    g: ConvGeometry,
) -> Array:
    """Run ``kernel`` on ``tiles`` along columns and rows, its sums of ``length`` products cut; return the sums."""
    blocks = ceil_div(prod(tiles) * tile.threads, THREADS)  # as if all had as many threads
    parts, part_length = cut(length, blocks, prod(shape))
    partial = empty((parts, *shape), like=inputs[0])
    pieces = {"column_tiles": tiles[0], "part_length": part_length}
    products.launch(kernel, (prod(tiles), parts), tile.threads, *inputs, partial, fields(g), pieces)
    return sum_of_parts(partial, b)


def winograd_forward(x: Array, w: Array, b: Array, g: ConvGeometry, *, turned: bool) -> Array:
    """`conv2d` by Winograd's algorithm, with the filters of ``w`` or, ``turned``, as the gradient needs them."""
    u = empty((36 * g.K, g.C // g.groups, 1, 1), like=x)
    kernel = f"winograd_filter<{str(turned).lower()}>"
    transforms.launch(kernel, *over_elements(w.size // 9), w, u, len(w), w.shape[1], g.groups)
    y = empty(g.y_shape, like=x)
    no_bias = module_of(x).zeros(36 * g.K, x.dtype)
    for first, tiles in chunks_of_tiles(g):
        v = empty((1, 36 * g.C, 1, tiles), like=x)
        transforms.launch("winograd_input", *over_elements(g.C * tiles), x, v, fields(g), first, tiles)
        m = forward_product(v, u, no_bias, conv_geometry(v.shape, u.shape, 1, 0, 1, 36 * g.groups))
        transforms.launch("winograd_output", *over_elements(g.K * tiles), m, b, y, fields(g), first, tiles)
    return y


def winograd_grad_weight(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` by the transpose of Winograd's algorithm."""
    chunks = chunks_of_tiles(g)
    sums = empty((len(chunks), 36 * g.K, g.C // g.groups, 1, 1), like=x)
    for i, (first, tiles) in enumerate(chunks):
        v, z = (empty((1, 36 * channels, 1, tiles), like=x) for channels in (g.C, g.K))
        transforms.launch("winograd_input", *over_elements(g.C * tiles), x, v, fields(g), first, tiles)
        transforms.launch("winograd_cotangent", *over_elements(g.K * tiles), gy, z, fields(g), first, tiles)
        sums[i] = grad_weight_product(v, z, conv_geometry(v.shape, sums.shape[1:], 1, 0, 1, 36 * g.groups))
    gw = empty(g.w_shape, like=x)
    total = sum_of_parts(sums, None)
    transforms.launch("winograd_grad_weight", *over_elements(gw.size // 9), total, gw, gw.size // 9)
    return gw


def chunks_of_tiles(g: ConvGeometry) -> list[tuple[int, int]]:
    """Return first and number of the tiles that Winograd's algorithm takes at a time; numbers are multiples of 4."""
    tiles = g.N * ceil_div(g.OH, 4) * ceil_div(g.OW, 4)
    most = max(4, WORKSPACE // (36 * (g.C + g.K)) // 4 * 4)
    return [(first, min(most, ceil_div(tiles - first, 4) * 4)) for first in range(0, tiles, most)]


def tile_for(x: Array, rows: int) -> Tile:
    """Return the tile for a product of ``x`` that has ``rows`` rows to a group: the smallest that takes them all."""
    if x.dtype == np.float64:
        return DOUBLE
    tiles = TENSOR if use_tf32(x) else SINGLE
    return next((tile for tile in tiles if rows <= tile.BM), tiles[-1])


def cut(length: int, blocks: int, outputs: int) -> tuple[int, int]:
    """Return into how many parts to cut ``outputs`` sums of ``length``, in ``blocks`` blocks; and a part's length.

    There is always one part, even of nothing: the kernel writes the zeros.
    """
    most = min(WAVE // max(1, blocks), length // LEAST_PART, INDICES // max(1, outputs))
    part_length = max(1, ceil_div(length, max(1, most)))
    return max(1, ceil_div(length, part_length)), part_length


def sum_of_parts(partial: Array, b: Array | None) -> Array:
    """Add the parts of sums (parts, …) in their order, and the bias of each channel (axis 2), if there is one.

    Where there is only one part, the kernel that made it has added the bias already.
    """
    if len(partial) == 1:
        return partial[0]
    bias = module_of(partial).zeros(1, partial.dtype) if b is None else b
    out = empty(partial.shape[1:], like=partial)
    plane = prod(out.shape[2:]) if b is not None else out.size
    kernel = f"conv2d_sum_parts<{number(out)}>"
    arguments = partial, bias, out, out.size, len(partial), plane, bias.size
    products.launch(kernel, ceil_div(out.size, 32), (32, 8), *arguments)
    return out


@cache
def fields(g: ConvGeometry) -> dict[str, int]:
    """Return the fields of the C++ struct ``Conv``."""
    of_python = asdict(g)
    pairs = {name: of_python.pop(name) for name in ("stride", "padding", "dilation")}
    for axis, letter in enumerate("hw"):
        of_python |= {f"{name}_{letter}": pair[axis] for name, pair in pairs.items()}
        common = gcd(g.stride[axis], g.dilation[axis])
        of_python[f"gcd_{letter}"] = common
        of_python[f"inverse_{letter}"] = pow(g.dilation[axis] // common, -1, g.stride[axis] // common)
    return of_python | {"C_per_group": g.C // g.groups, "K_per_group": g.K // g.groups}


def is_aligned(x: Array) -> bool:
    """Tell whether ``x`` begins at a multiple of 16 bytes: a slice need not."""
    return span(x)[0] % 16 == 0
