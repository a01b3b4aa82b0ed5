"""Pooling by the definition: list what each window sees, then decide."""

import math

import numpy as np

from oracles.pairs import pair


def outputs(size, kernel, stride, padding, dilation, ceil_mode):
    """Put windows down from left to right as long as the rule admits another one."""
    count, start = 0, -padding
    while True:
        last = start + (kernel - 1) * dilation
        fits = last <= size + padding - 1
        # ceil_mode: also one that does not fit, if the step that leads to it begins inside what is left over.
        overhangs = ceil_mode and last - (size + padding - 1) < stride and start < size
        if not (fits or overhangs):
            return count
        count, start = count + 1, start + stride


def output_shape(x_shape, kernel_size, stride, padding, dilation, ceil_mode):
    kernel, stride, padding, dilation = pair(kernel_size), pair(stride or kernel_size), pair(padding), pair(dilation)
    axes = zip(x_shape[2:], kernel, stride, padding, dilation, strict=True)
    return (*x_shape[:2], *(outputs(*axis, ceil_mode) for axis in axes))


def window(H, W, i, j, kernel_size, stride, padding, dilation=1):
    """List the positions (h, w) of the input that window (i, j) sees, in row-major order."""
    (R, S), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    positions = [(i * sh - ph + r * dh, j * sw - pw + s * dw) for r in range(R) for s in range(S)]
    return [(h, w) for h, w in positions if 0 <= h < H and 0 <= w < W]


def max_pool2d(x, kernel_size, *, stride=None, padding=0, dilation=1, ceil_mode=False):
    shape = output_shape(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    y, index = np.zeros(shape, x.dtype), np.zeros(shape, np.int32)
    H, W = x.shape[2:]
    for n, c, i, j in np.ndindex(*shape):
        best = None
        for h, w in window(H, W, i, j, kernel_size, stride or kernel_size, padding, dilation):
            value = x[n, c, h, w]
            if best is None or value > best or (math.isnan(value) and not math.isnan(best)):
                best = y[n, c, i, j] = value
                index[n, c, i, j] = h * W + w
    return y, index


def max_pool2d_grad(gy, index, x_shape):
    gx = np.zeros(x_shape, gy.dtype)
    for n, c, i, j in np.ndindex(*gy.shape):
        h, w = divmod(int(index[n, c, i, j]), x_shape[3])
        gx[n, c, h, w] += gy[n, c, i, j]
    return gx


def divisor(H, W, i, j, kernel_size, stride, padding, count_include_pad):
    """Count the window's positions in the input, or in the input and its padding."""
    ph, pw = pair(padding)
    if not count_include_pad:
        return len(window(H, W, i, j, kernel_size, stride, padding))
    # Seen from the padded map's corner, the same window has no padding around it.
    return len(window(H + 2 * ph, W + 2 * pw, i, j, kernel_size, stride, 0))


def avg_pool2d(x, kernel_size, *, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    stride = stride or kernel_size
    H, W = x.shape[2:]
    y = np.zeros(output_shape(x.shape, kernel_size, stride, padding, 1, ceil_mode), x.dtype)
    for n, c, i, j in np.ndindex(*y.shape):
        for h, w in window(H, W, i, j, kernel_size, stride, padding):
            y[n, c, i, j] += x[n, c, h, w]
        y[n, c, i, j] /= divisor(H, W, i, j, kernel_size, stride, padding, count_include_pad)
    return y


def avg_pool2d_grad(gy, x_shape, kernel_size, *, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    stride = stride or kernel_size
    H, W = x_shape[2:]
    gx = np.zeros(x_shape, gy.dtype)
    for n, c, i, j in np.ndindex(*gy.shape):
        share = gy[n, c, i, j] / divisor(H, W, i, j, kernel_size, stride, padding, count_include_pad)
        for h, w in window(H, W, i, j, kernel_size, stride, padding):
            gx[n, c, h, w] += share
    return gx
