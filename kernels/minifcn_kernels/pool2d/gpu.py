"""The pooling kernels in CUDA C++: a thread for every element that is written."""

from pathlib import Path

import numpy as np

from minifcn_kernels.cuda.device import module_of
from minifcn_kernels.cuda.grid import check_countable, number, over_rows
from minifcn_kernels.cuda.launch import CudaSource, empty
from minifcn_kernels.dispatch import check_shape
from minifcn_kernels.jit import Array
from minifcn_kernels.pool2d.contract import (
    INDEX,
    PoolGeometry,
    avg_pool2d,
    avg_pool2d_grad,
    check_index,
    max_pool2d,
    max_pool2d_grad,
    pool_geometry,
)
from minifcn_kernels.spatial import IntOrPair

STRIDES = 0, 1, 2  # written out as constants; 0 stands for any other
INDICES = "int", "long long"

source = CudaSource(
    Path(__file__).with_name("pool2d.cu"),
    [
        *(f"{kernel}<{T}>" for kernel in ("max_pool2d", "avg_pool2d") for T in ("float", "double")),
        *(f"max_pool2d_grad<{T}, {index}, {s}>" for T in ("float", "double") for index in INDICES for s in STRIDES),
        *(f"avg_pool2d_grad<{T}, {s}>" for T in ("float", "double") for s in STRIDES),
    ],
)


@max_pool2d.implementation("cuda")
def max_pool2d_cuda(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """`max_pool2d`, window by window."""
    g = pool_geometry(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    check_countable("max_pool2d", x=g.x_shape, y=g.y_shape)
    y, index = empty(g.y_shape, like=x), empty(g.y_shape, like=x, dtype=INDEX)
    source.launch(f"max_pool2d<{number(x)}>", *over_rows(g.N * g.C * g.OH, g.OW), x, y, index, _fields(g))
    return y, index


@max_pool2d_grad.implementation("cuda")
def max_pool2d_grad_cuda(
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
    """`max_pool2d_grad`, input pixel by input pixel.

    Indices are checked on the way, so this waits for the kernel to end.
    """
    g = pool_geometry(x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    check_shape("max_pool2d_grad", "gy", gy.shape, g.y_shape)
    check_countable("max_pool2d_grad", gy=g.y_shape, x=g.x_shape)
    winners = index if index.dtype == INDEX else index.astype(np.int64)
    gx, bad = empty(g.x_shape, like=gy), module_of(gy).zeros(1, np.int32)
    kernel = f"max_pool2d_grad<{number(gy)}, {INDICES[index.dtype != INDEX]}, {_constant(g)}>"
    source.launch(kernel, *over_rows(g.N * g.C * g.H, g.W), gy, winners, gx, bad, _fields(g))
    if bad[0]:
        check_index(index, g)
    return gx


@avg_pool2d.implementation("cuda")
def avg_pool2d_cuda(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """`avg_pool2d`, window by window."""
    g = pool_geometry(x.shape, kernel_size, stride, padding, 1, ceil_mode)
    check_countable("avg_pool2d", x=g.x_shape, y=g.y_shape)
    y = empty(g.y_shape, like=x)
    threads = over_rows(g.N * g.C * g.OH, g.OW)
    source.launch(f"avg_pool2d<{number(x)}>", *threads, x, y, _fields(g), count_include_pad)
    return y


@avg_pool2d_grad.implementation("cuda")
def avg_pool2d_grad_cuda(
    gy: Array,
    x_shape: tuple[int, int, int, int],
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """`avg_pool2d_grad`, input pixel by input pixel."""
    g = pool_geometry(x_shape, kernel_size, stride, padding, 1, ceil_mode)
    check_shape("avg_pool2d_grad", "gy", gy.shape, g.y_shape)
    check_countable("avg_pool2d_grad", gy=g.y_shape, x=g.x_shape)
    gx = empty(g.x_shape, like=gy)
    kernel = f"avg_pool2d_grad<{number(gy)}, {_constant(g)}>"
    source.launch(kernel, *over_rows(g.N * g.C * g.H, g.W), gy, gx, _fields(g), count_include_pad)
    return gx


def _constant(g: PoolGeometry) -> int:
    """Return the stride of both axes, if there is a kernel for it, or 0."""
    return g.stride[0] if g.stride[0] == g.stride[1] and g.stride[0] in STRIDES else 0


def _fields(g: PoolGeometry) -> dict[str, int]:
    """Return the fields of the C++ struct ``Pool``."""
    (R, S), stride, padding, dilation = g.kernel, g.stride, g.padding, g.dilation
    return {
        **{"planes": g.N * g.C, "H": g.H, "W": g.W, "OH": g.OH, "OW": g.OW, "R": R, "S": S},
        **{"stride_h": stride[0], "stride_w": stride[1], "padding_h": padding[0], "padding_w": padding[1]},
        **{"dilation_h": dilation[0], "dilation_w": dilation[1]},
    }
