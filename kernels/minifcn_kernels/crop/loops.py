"""The cropping kernels in Numba: one thread owns one row of the output."""

from math import prod

from minifcn_kernels.crop.contract import crop, crop_grad, crop_window, fuse
from minifcn_kernels.dispatch import check_shape
from minifcn_kernels.jit import Array, compiled
from minifcn_kernels.memory import empty
from minifcn_kernels.spatial import IntOrPair, Pair


@crop.implementation("numba")
def crop_loops(x: Array, offset: IntOrPair, size: IntOrPair) -> Array:
    """`crop`, row by row."""
    offset, size = crop_window(x.shape, offset, size)
    y = empty((*x.shape[:2], *size), x.dtype)
    _crop.over(prod(y.shape[:3]), y, x, offset)
    return y


@compiled
def _crop(first: int, last: int, out: Array, x: Array, offset: Pair) -> None:
    _, C, OH, OW = out.shape
    top, left = offset
    for row in range(first, last):
        i = row % OH
        c = row // OH % C
        n = row // OH // C
        x_row = x[n, c, top + i, left : left + OW]
        for j in range(OW):
            out[n, c, i, j] = x_row[j]


@crop_grad.implementation("numba")
def crop_grad_loops(gy: Array, offset: IntOrPair, x_shape: tuple[int, int, int, int]) -> Array:
    """`crop_grad`, row by row."""
    offset, size = crop_window(x_shape, offset, gy.shape[2:])
    check_shape("crop_grad", "gy", gy.shape, (*x_shape[:2], *size))
    gx = empty(x_shape, gy.dtype)
    _crop_grad.over(prod(gx.shape[:3]), gx, gy, offset)
    return gx


@compiled
def _crop_grad(first: int, last: int, out: Array, gy: Array, offset: Pair) -> None:
    _, C, H, W = out.shape
    OH, OW = gy.shape[2:]
    top, left = offset
    for row in range(first, last):
        h = row % H
        c = row // H % C
        n = row // H // C
        gx_row = out[n, c, h]
        for w in range(W):
            gx_row[w] = 0
        if top <= h < top + OH:
            inside = gx_row[left : left + OW]
            for j in range(OW):
                inside[j] = gy[n, c, h - top, j]


@fuse.implementation("numba")
def fuse_loops(coarse: Array, fine: Array, offset: IntOrPair) -> Array:
    """`fuse`, row by row: the crop is never written to memory."""
    offset, _ = crop_window(fine.shape, offset, coarse.shape[2:])
    y = empty(coarse.shape, coarse.dtype)
    _fuse.over(prod(y.shape[:3]), y, coarse, fine, offset)
    return y


@compiled
def _fuse(first: int, last: int, out: Array, coarse: Array, fine: Array, offset: Pair) -> None:
    _, C, OH, OW = coarse.shape
    top, left = offset
    for row in range(first, last):
        i = row % OH
        c = row // OH % C
        n = row // OH // C
        fine_row = fine[n, c, top + i, left : left + OW]
        for j in range(OW):
            out[n, c, i, j] = coarse[n, c, i, j] + fine_row[j]
