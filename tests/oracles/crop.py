"""Cropping by the definition, one element at a time."""

import numpy as np


def crop(x, offset, size):
    y = np.zeros((*x.shape[:2], *size), x.dtype)
    for n, c, i, j in np.ndindex(*y.shape):
        y[n, c, i, j] = x[n, c, offset[0] + i, offset[1] + j]
    return y


def crop_grad(gy, offset, x_shape):
    gx = np.zeros(x_shape, gy.dtype)
    for n, c, i, j in np.ndindex(*gy.shape):
        gx[n, c, offset[0] + i, offset[1] + j] = gy[n, c, i, j]
    return gx


def fuse(coarse, fine, offset):
    y = np.zeros(coarse.shape, coarse.dtype)
    for n, c, i, j in np.ndindex(*y.shape):
        y[n, c, i, j] = coarse[n, c, i, j] + fine[n, c, offset[0] + i, offset[1] + j]
    return y
