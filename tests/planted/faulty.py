"""The windowed kernels once more, by index maps, with a switch for each mistake that can be made in them.

With ``fault=None`` they are right. With a fault they still give arrays of the right shape: what a wrong index map
would read or write outside the map is left out, as a kernel with bounds checks would.
"""

import numpy as np

from minifcn_kernels.conv2d.contract import conv_geometry
from minifcn_kernels.pool2d.contract import pool_geometry, window_counts


def _one_more(pair):
    return pair[0] + 1, pair[1] + 1


def _one_less(pair):
    return max(0, pair[0] - 1), max(0, pair[1] - 1)


def _swapped(pair):
    return pair[::-1]


# fault: (which option, what becomes of it)
GEOMETRY = {
    "padding one more": ("padding", _one_more),
    "padding one less": ("padding", _one_less),
    "stride swapped": ("stride", _swapped),
    "padding swapped": ("padding", _swapped),
    "dilation swapped": ("dilation", _swapped),
    "dilation ignored": ("dilation", lambda pair: (1, 1)),
}


def taps(g, window, fault):
    """Yield each tap (r, s) with the output positions that it serves and the input positions that they meet."""
    options = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation}
    if fault in GEOMETRY:
        name, change = GEOMETRY[fault]
        options[name] = change(options[name])
    for r in range(window[0]):
        for s in range(window[1]):
            met = []
            for axis, (tap, outputs, size) in enumerate(((r, g.OH, g.H), (s, g.OW, g.W))):
                at = (
                    np.arange(outputs) * options["stride"][axis]
                    + tap * options["dilation"][axis]
                    - options["padding"][axis]
                )
                inside = (at >= 0) & (at < size)
                met.append((np.flatnonzero(inside), at[inside]))
            (i, h), (j, w) = met
            yield r, s, (..., i[:, None], j), (..., h[:, None], w)


def _tap(g, r, s, fault):
    """Return which filter tap is used for (r, s)."""
    return (g.R - 1 - r, g.S - 1 - s) if fault == "filter turned round" else (r, s)


def conv2d(x, w, b=None, *, fault, **options):
    g = conv_geometry(x.shape, w.shape, **options)
    by_group, w = x.reshape(g.N, g.groups, -1, g.H, g.W), w.reshape(g.groups, -1, *w.shape[1:])
    y = np.zeros((g.N, g.groups, g.K // g.groups, g.OH, g.OW), x.dtype)
    for r, s, outputs, inputs in taps(g, (g.R, g.S), fault):
        y[outputs] += np.einsum("ngcij,gkc->ngkij", by_group[inputs], w[(..., *_tap(g, r, s, fault))])
    y = y.reshape(g.y_shape)
    return y if b is None else y + b[:, None, None]


def conv2d_grad_input(gy, w, x_shape, *, fault, **options):
    g = conv_geometry(x_shape, w.shape, **options)
    gy, w = gy.reshape(g.N, g.groups, -1, g.OH, g.OW), w.reshape(g.groups, -1, *w.shape[1:])
    gx = np.zeros((g.N, g.groups, g.C // g.groups, g.H, g.W), gy.dtype)
    for r, s, outputs, inputs in taps(g, (g.R, g.S), fault):
        part = np.einsum("ngkij,gkc->ngcij", gy[outputs], w[(..., *_tap(g, r, s, fault))])
        gx[inputs] = part if fault == "overwritten" else gx[inputs] + part
    return gx.reshape(g.x_shape)


def conv2d_grad_weight(x, gy, w_shape, *, fault, **options):
    g = conv_geometry(x.shape, w_shape, **options)
    x, gy = x.reshape(g.N, g.groups, -1, g.H, g.W), gy.reshape(g.N, g.groups, -1, g.OH, g.OW)
    gw = np.zeros((g.groups, g.K // g.groups, g.C // g.groups, g.R, g.S), x.dtype)
    for r, s, outputs, inputs in taps(g, (g.R, g.S), fault):
        for n in range(g.N):
            part = np.einsum("gcij,gkij->gkc", x[n][inputs], gy[n][outputs])
            at = (..., *_tap(g, r, s, fault))
            gw[at] = part if fault == "overwritten" else gw[at] + part
    return gw.reshape(g.w_shape)


def max_pool2d(x, kernel_size, *, stride=None, padding=0, dilation=1, ceil_mode=False, fault):
    g = pool_geometry(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    y = np.full(g.y_shape, -np.inf, x.dtype)
    index = np.zeros(g.y_shape, np.int32)
    positions = np.arange(g.H * g.W, dtype=np.int32).reshape(g.H, g.W)
    for _, _, outputs, inputs in taps(g, g.kernel, fault):
        wins = x[inputs] >= y[outputs] if fault == "last maximum wins" else x[inputs] > y[outputs]
        y[outputs] = np.where(wins, x[inputs], y[outputs])
        index[outputs] = np.where(wins, positions[inputs], index[outputs])
    return np.where(np.isinf(y), 0, y), index


def max_pool2d_grad(gy, index, x_shape, kernel_size, *, fault, **options):
    gx = np.zeros((x_shape[0] * x_shape[1], x_shape[2] * x_shape[3]), gy.dtype)
    planes = np.arange(len(gx))[:, None]
    index, gy = index.reshape(len(gx), -1), gy.reshape(len(gx), -1)
    if fault == "overwritten":
        gx[planes, index] = gy
    else:
        np.add.at(gx, (planes, index), gy)
    return gx.reshape(x_shape)


def avg_pool2d(x, kernel_size, *, stride=None, padding=0, ceil_mode=False, count_include_pad=True, fault):
    g = pool_geometry(x.shape, kernel_size, stride, padding, 1, ceil_mode)
    y = np.zeros(g.y_shape, x.dtype)
    for _, _, outputs, inputs in taps(g, g.kernel, fault):
        y[outputs] += x[inputs]
    return y / _divisor(g, count_include_pad, x.dtype, fault)


def avg_pool2d_grad(
    gy, x_shape, kernel_size, *, stride=None, padding=0, ceil_mode=False, count_include_pad=True, fault
):
    g = pool_geometry(x_shape, kernel_size, stride, padding, 1, ceil_mode)
    share = gy / _divisor(g, count_include_pad, gy.dtype, fault)
    gx = np.zeros(x_shape, gy.dtype)
    for _, _, outputs, inputs in taps(g, g.kernel, fault):
        gx[inputs] = share[outputs] if fault == "overwritten" else gx[inputs] + share[outputs]
    return gx


def _divisor(g, count_include_pad, dtype, fault):
    if fault == "padding counted":
        count_include_pad = not count_include_pad
    rows, columns = window_counts(g, count_include_pad, dtype)
    return rows[:, None] * columns
