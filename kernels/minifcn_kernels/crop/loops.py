"""The cropping kernels in Numba: one thread owns one row of the output."""

import numpy as np
from numba import prange

from minifcn_kernels.crop.contract import crop, crop_grad, crop_window, fuse
from minifcn_kernels.dispatch import check_shape
from minifcn_kernels.jit import Array, compiled
from minifcn_kernels.spatial import IntOrPair, Pair


@crop.implementation("numba")
def crop_loops(x: Array, offset: IntOrPair, size: IntOrPair) -> Array:
    """`crop`, row by row."""
    y: Array = _crop(x, *crop_window(x.shape, offset, size))
    return y


@compiled
def _crop(x: Array, offset: Pair, size: Pair) -> Array:
    N, C = x.shape[:2]
    top, left = offset
    OH, OW = size
    y = np.empty((N, C, OH, OW), x.dtype)
    for row in prange(N * C * OH):
        i = row % OH
        c = row // OH % C
        n = row // OH // C
        x_row = x[n, c, top + i, left : left + OW]
        for j in range(OW):
            y[n, c, i, j] = x_row[j]
    return y


@crop_grad.implementation("numba")
def crop_grad_loops(gy: Array, offset: IntOrPair, x_shape: tuple[int, int, int, int]) -> Array:
    """`crop_grad`, row by row."""
    offset, size = crop_window(x_shape, offset, gy.shape[2:])
    check_shape("crop_grad", "gy", gy.shape, (*x_shape[:2], *size))
    gx: Array = _crop_grad(gy, offset, tuple(x_shape))
    return gx


@compiled
def _crop_grad(gy: Array, offset: Pair, x_shape: tuple[int, int, int, int]) -> Array:
    N, C, H, W = x_shape
    OH, OW = gy.shape[2:]
    top, left = offset
    gx = np.empty(x_shape, gy.dtype)
    for row in prange(N * C * H):
        h = row % H
        c = row // H % C
        n = row // H // C
        gx_row = gx[n, c, h]
        for w in range(W):
            gx_row[w] = 0
        if top <= h < top + OH:
            inside = gx_row[left : left + OW]
            for j in range(OW):
                inside[j] = gy[n, c, h - top, j]
    return gx


@fuse.implementation("numba")
def fuse_loops(coarse: Array, fine: Array, offset: IntOrPair) -> Array:
    """`fuse`, row by row: the crop is never written to memory."""
    offset, _ = crop_window(fine.shape, offset, coarse.shape[2:])
    y: Array = _fuse(coarse, fine, offset)
    return y


@compiled
def _fuse(coarse: Array, fine: Array, offset: Pair) -> Array:
    N, C, OH, OW = coarse.shape
    top, left = offset
    y = np.empty(coarse.shape, coarse.dtype)
    for row in prange(N * C * OH):
        i = row % OH
        c = row // OH % C
        n = row // OH // C
        fine_row = fine[n, c, top + i, left : left + OW]
        for j in range(OW):
            y[n, c, i, j] = coarse[n, c, i, j] + fine_row[j]
    return y
