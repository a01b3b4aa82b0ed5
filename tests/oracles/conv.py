"""Convolution and its gradients by the definition, one multiplication at a time."""

import numpy as np

from oracles.pairs import pair


def taps(x_shape, w_shape, y_shape, stride, padding, dilation, groups):
    """Yield the index of the element of x, of w and of y in every product that a convolution adds up."""
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    N, C, H, W = x_shape
    K, c_per_group, R, S = w_shape
    k_per_group = K // groups
    _, _, OH, OW = y_shape
    for n in range(N):
        for k in range(K):
            for c in range(c_per_group):
                channel = (k // k_per_group) * c_per_group + c
                for i in range(OH):
                    for j in range(OW):
                        for r in range(R):
                            for s in range(S):
                                h, w = i * sh - ph + r * dh, j * sw - pw + s * dw
                                if 0 <= h < H and 0 <= w < W:
                                    yield (n, channel, h, w), (k, c, r, s), (n, k, i, j)


def output_shape(x_shape, w_shape, stride, padding, dilation):
    """Count along each axis how often the window can be put down within the padded input."""
    sizes = []
    for size, kernel, step, pad, gap in zip(
        x_shape[2:], w_shape[2:], pair(stride), pair(padding), pair(dilation), strict=True
    ):
        count, start = 0, -pad
        while start + (kernel - 1) * gap <= size + pad - 1:
            count, start = count + 1, start + step
        sizes.append(count)
    return (x_shape[0], w_shape[0], *sizes)


def conv2d(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1):
    y = np.zeros(output_shape(x.shape, w.shape, stride, padding, dilation), x.dtype)
    for at_x, at_w, at_y in taps(x.shape, w.shape, y.shape, stride, padding, dilation, groups):
        y[at_y] += x[at_x] * w[at_w]
    if b is not None:
        for k in range(w.shape[0]):
            y[:, k] += b[k]
    return y


def conv2d_grad_input(gy, w, x_shape, *, stride=1, padding=0, dilation=1, groups=1):
    gx = np.zeros(x_shape, gy.dtype)
    for at_x, at_w, at_y in taps(x_shape, w.shape, gy.shape, stride, padding, dilation, groups):
        gx[at_x] += gy[at_y] * w[at_w]
    return gx


def conv2d_grad_weight(x, gy, w_shape, *, stride=1, padding=0, dilation=1, groups=1):
    gw = np.zeros(w_shape, x.dtype)
    for at_x, at_w, at_y in taps(x.shape, w_shape, gy.shape, stride, padding, dilation, groups):
        gw[at_w] += x[at_x] * gy[at_y]
    return gw


def conv_transpose2d(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Add, for every input element, a scaled copy of its filter to the output; w is (C, K/G, R, S)."""
    (sh, sw), (ph, pw), (dh, dw), (oh, ow) = pair(stride), pair(padding), pair(dilation), pair(output_padding)
    N, C, H, W = x.shape
    _, k_per_group, R, S = w.shape
    c_per_group = C // groups
    height = (H - 1) * sh - 2 * ph + dh * (R - 1) + oh + 1
    width = (W - 1) * sw - 2 * pw + dw * (S - 1) + ow + 1
    y = np.zeros((N, k_per_group * groups, height, width), x.dtype)
    for n, c, h, v in np.ndindex(*x.shape):
        for k, r, s in np.ndindex(k_per_group, R, S):
            i, j = h * sh + r * dh - ph, v * sw + s * dw - pw
            if 0 <= i < height and 0 <= j < width:
                y[n, c // c_per_group * k_per_group + k, i, j] += x[n, c, h, v] * w[c, k, r, s]
    if b is not None:
        for k in range(len(b)):
            y[:, k] += b[k]
    return y
