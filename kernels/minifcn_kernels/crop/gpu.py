"""The cropping kernels in CUDA C++: a thread for every element that is written."""

from pathlib import Path

from minifcn_kernels.crop.contract import crop, crop_grad, crop_window, fuse
from minifcn_kernels.cuda.grid import check_countable, number, over_rows
from minifcn_kernels.cuda.launch import CudaSource, empty
from minifcn_kernels.dispatch import check_shape
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair, Pair

source = CudaSource(
    Path(__file__).with_name("crop.cu"),
    [f"{kernel}<{T}>" for kernel in ("crop", "crop_grad", "fuse") for T in ("float", "double")],
)


@crop.implementation("cuda")
def crop_cuda(x: Array, offset: IntOrPair, size: IntOrPair) -> Array:
    """`crop`, element by element."""
    offset, size = crop_window(x.shape, offset, size)
    check_countable("crop", x=x.shape)
    y = empty((*x.shape[:2], *size), like=x)
    source.launch(f"crop<{number(x)}>", *_elements(y), x, y, _fields(x.shape, offset, size))
    return y


@crop_grad.implementation("cuda")
def crop_grad_cuda(gy: Array, offset: IntOrPair, x_shape: tuple[int, int, int, int]) -> Array:
    """`crop_grad`, element by element."""
    offset, size = crop_window(x_shape, offset, gy.shape[2:])
    check_shape("crop_grad", "gy", gy.shape, (*x_shape[:2], *size))
    check_countable("crop_grad", x=x_shape)
    gx = empty(x_shape, like=gy)
    source.launch(f"crop_grad<{number(gy)}>", *_elements(gx), gy, gx, _fields(x_shape, offset, size))
    return gx


@fuse.implementation("cuda")
def fuse_cuda(coarse: Array, fine: Array, offset: IntOrPair) -> Array:
    """`fuse`, element by element: the crop is never written to memory."""
    offset, size = crop_window(fine.shape, offset, coarse.shape[2:])
    check_countable("fuse", fine=fine.shape)
    y = empty(coarse.shape, like=coarse)
    source.launch(f"fuse<{number(coarse)}>", *_elements(y), coarse, fine, y, _fields(fine.shape, offset, size))
    return y


def _elements(out: Array) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return grid and block for one thread to each element of a map (N, C, H, W)."""
    N, C, H, W = out.shape
    return over_rows(N * C * H, W)


def _fields(x_shape: tuple[int, ...], offset: Pair, size: Pair) -> dict[str, int]:
    """Return the fields of the C++ struct ``Crop``."""
    N, C, H, W = x_shape
    names = "planes", "H", "W", "OH", "OW", "top", "left"
    return dict(zip(names, (N * C, H, W, *size, *offset), strict=True))
