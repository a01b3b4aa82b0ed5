"""Depthwise convolution with a large stride, and its gradients: the upsampling layers of an FCN (FCN §3.3).

Upsampling by f is the input's gradient of a convolution of stride f: an output column u = k·f + p (padding counted)
meets column j = k − a of gy at tap s = a·f + p, for 0 ≤ a < ⌈S/f⌉. Written so, vectors along u are impossible: j
stands still for f columns, then moves on. So gy's rows are *stretched*, every number f times, and the filter's rows
are repeated with period f:

    stretched[u] = gy[⌊u/f⌋]        periodic[r, a][u] = w[r, a·f + u mod f]

    gx[u] = Σ_r Σ_a stretched[u − a·f] · periodic[r, a][u]

which is plain arithmetic on long rows, and every row of the large map is written once. Stretching costs 1/R of it. The
convolution itself is the adjoint: products on long rows, of which every f neighbours are then added up,

    y[j] = Σ_{j·f ≤ u < (j+1)·f}  Σ_r Σ_a x[u + a·f] · periodic[r, a][u]

For the weights, vectors may run along the taps s of a row of the filter, since these meet neighbours; there is nothing
to stretch:

    gw[r, s] = Σ_i Σ_j  gy[i, j] · x[i·f + r, j·f + s]

Where f does not divide S, weights of zero fill up the last period. (Zero times infinity is NaN: an infinity may show up
as NaN also beside the last tap that it really meets.)

A task makes BAND rows of the small map, or the rows of the large one above them, or all weights of a filter. A thread's
memory is, in numbers: back, BAND + ρ stretched rows and ρ·⌈S/f⌉ periodic ones, with the ρ = ⌊dilation·(R − 1)/f⌋ + 1
rows of gy that a row meets; forward, R·⌈S/f⌉ periodic rows and one of products; for the weights a padded row; rows are
as long as the large map is wide.
"""

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import copy_run, fill
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.conv2d.depthwise import add_taps, ceil_div
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import empty, scratch_memory, whole_lines
from minifcn_kernels.spatial import Pair

# Rows of the small map to a task: enough that making the periodic rows does not count, and that there are many tasks.
BAND = 32


def conv2d_stretched(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d`: products on long rows, added up by strides."""
    bias = np.zeros(g.K, x.dtype) if b is None else b
    y = empty(g.y_shape, x.dtype)
    tasks = g.N * g.K * -(-g.OH // BAND)
    length, shifts = g.OW * g.stride[1], -(-g.S // g.stride[1])
    memory = _memory(x, (g.R * shifts * length, length), g.R)
    _collect.over(tasks, y, *memory, x, w.reshape(g.K, g.R, g.S), bias, g.stride, g.padding, g.dilation[0])
    return y


def conv2d_grad_input_stretched(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input`: products with stretched rows."""
    gx = empty(g.x_shape, gy.dtype)
    top, bottom = g.padding[0] // g.stride[0], -(-(g.padding[0] + g.H) // g.stride[0])
    tasks = g.N * g.C * -(-(bottom - top) // BAND)
    reach, shifts = g.dilation[0] * (g.R - 1) // g.stride[0], -(-g.S // g.stride[1])
    longest = shifts * g.stride[1] + max(g.OW * g.stride[1], g.W + g.padding[1])  # of a row, whatever its kind
    memory = _memory(gy, ((BAND + reach) * longest, (reach + 1) * shifts * longest), (reach + 1) * (shifts + 1))
    _spread.over(tasks, gx, *memory, gy, w.reshape(g.C, g.R, g.S), g.stride, g.padding, g.dilation[0])
    return gx


def conv2d_grad_weight_stretched(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight`: vectors of taps; the maps of a batch are added in its order."""
    gw = empty((g.N, g.C, g.R, g.S), x.dtype)
    offsets = np.arange(g.OW) * g.stride[1]
    length = (g.OW - 1) * g.stride[1] + g.S
    (scratch,) = scratch_memory(x.dtype, (get_num_threads(), *whole_lines(x.itemsize, length)))
    _grad_weight.over(g.N * g.C, gw, scratch, x, gy, g.stride[0], g.padding, g.dilation[0], length, offsets)
    return gw.sum(axis=0).reshape(g.w_shape)


def _memory(like: Array, rows: tuple[int, int], places: int) -> tuple[Array, Array, Array]:
    """Return memory for each thread: two of numbers like those, and one for pairs of places."""
    threads = get_num_threads()
    one, two = whole_lines(like.itemsize, *rows)
    first, second = scratch_memory(like.dtype, (threads, one), (threads, two))
    (pairs,) = scratch_memory(np.int64, (threads, 2, places))
    return first, second, pairs


@compiled
def _spread(
    first: int,
    last: int,
    out: Array,
    scratch_stretched: Array,
    scratch_periodic: Array,
    scratch_places: Array,
    gy: Array,
    w: Array,
    stride: Pair,
    padding: Pair,
    dilation: int,
) -> None:
    """Write the input's gradient, whose rows h = q·stride + p − padding meet rows q − shift of gy, phase by phase."""
    N, C, H, W = out.shape
    OH, OW = gy.shape[2:]
    _, R, S = w.shape
    (step_h, step_w), (pad_h, pad_w) = stride, padding
    shifts, reach = ceil_div(S, step_w), dilation * (R - 1) // step_h
    margin, skipped = (shifts - 1) * step_w, pad_w // step_w * step_w  # no need of periods within the padding
    length = margin + max(OW * step_w, W + pad_w)
    period_row = ceil_div(W + pad_w - skipped, step_w) * step_w
    top, bottom = pad_h // step_h, ceil_div(pad_h + H, step_h)  # of q
    bands = ceil_div(bottom - top, BAND)
    gy_flat, out_flat = gy.reshape(-1), out.reshape(-1)
    thread = get_thread_id()
    stretched, periodic = scratch_stretched[thread], scratch_periodic[thread]
    lefts, rights = scratch_places[thread, 0], scratch_places[thread, 1]
    shift = lefts[(reach + 1) * shifts :]
    for task in range(first, last):
        plane, q0 = task // bands, top + task % bands * BAND
        q1 = min(q0 + BAND, bottom)
        fill(stretched, 0, (BAND + reach) * length, 0)
        for i in range(max(0, q0 - reach), min(OH, q1)):
            stretch(stretched, (i - q0 + reach) * length + margin, gy_flat, (plane * OH + i) * OW, OW, step_w)
        for p in range(step_h):
            met = 0  # rows of the filter
            for r in range(R):
                if r * dilation % step_h == p:
                    shift[met] = r * dilation // step_h
                    repeat(periodic, met * shifts * period_row, period_row, w[plane % C, r], step_w)
                    met += 1
            for q in range(q0, q1):
                h = q * step_h + p - pad_h
                if 0 <= h < H:
                    count = 0
                    for m in range(met):
                        i = q - shift[m]
                        if 0 <= i < OH:
                            for a in range(shifts):
                                lefts[count] = (i - q0 + reach) * length + pad_w + margin - a * step_w
                                rights[count] = (m * shifts + a) * period_row + pad_w - skipped
                                count += 1
                    to = (plane * H + h) * W
                    fill(out_flat, to, W, 0)
                    add_products(out_flat, to, W, stretched, lefts[:count], periodic, rights[:count])


@compiled
def _collect(
    first: int,
    last: int,
    out: Array,
    scratch_periodic: Array,
    scratch_products: Array,
    scratch_places: Array,
    x: Array,
    w: Array,
    b: Array,
    stride: Pair,
    padding: Pair,
    dilation: int,
) -> None:
    """Write the convolution, row by row."""
    N, C, OH, OW = out.shape
    H, W = x.shape[2:]
    _, R, S = w.shape
    (step_h, step_w), (pad_h, pad_w) = stride, padding
    shifts, length = ceil_div(S, step_w), OW * step_w
    bands = ceil_div(OH, BAND)
    x_flat, out_flat = x.reshape(-1), out.reshape(-1)
    thread = get_thread_id()
    periodic, products = scratch_periodic[thread], scratch_products[thread]
    lefts, rights = scratch_places[thread, 0], scratch_places[thread, 1]
    for task in range(first, last):
        plane, i0 = task // bands, task % bands * BAND
        for r in range(R):
            repeat(periodic, r * shifts * length, length, w[plane % C, r], step_w)
        for i in range(i0, min(i0 + BAND, OH)):
            fill(products, 0, length, 0)
            for a in range(shifts):
                # Where the columns u + a·stride − padding lie within x.
                u0, u1 = max(0, pad_w - a * step_w), min(length, W + pad_w - a * step_w)
                count = 0
                for r in range(R):
                    h = i * step_h + r * dilation - pad_h
                    if 0 <= h < H:
                        lefts[count] = (plane * H + h) * W + u0 + a * step_w - pad_w
                        rights[count] = (r * shifts + a) * length + u0
                        count += 1
                add_products(products, u0, max(0, u1 - u0), x_flat, lefts[:count], periodic, rights[:count])
            fold(products, length, step_w)
            for j in range(OW):
                out_flat[(plane * OH + i) * OW + j] = b[plane % C] + products[j]


@compiled
def _grad_weight(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    x: Array,
    gy: Array,
    step_h: int,
    padding: Pair,
    dilation: int,
    length: int,
    offsets: Array,
) -> None:
    """out[n, c, r, s] = Σ_i Σ_j gy[n, c, i, j] · x[n, c, i·stride + r·dilation − padding, j·stride + s − padding]."""
    H, W = x.shape[2:]
    OH, OW = gy.shape[2:]
    _, _, R, S = out.shape
    pad_h, pad_w = padding
    x_flat, gy_flat, out_flat = x.reshape(-1), gy.reshape(-1), out.reshape(-1)
    row = scratch[get_thread_id()]
    fill(row, 0, length, 0)
    count = min(W, length - pad_w)
    for plane in range(first, last):
        fill(out_flat, plane * R * S, R * S, 0)
        for i in range(OH):
            weights = gy_flat[(plane * OH + i) * OW :][:OW]
            for r in range(R):
                h = i * step_h + r * dilation - pad_h
                if 0 <= h < H:
                    copy_run(row, pad_w, x_flat, (plane * H + h) * W, count)
                    add_taps(out_flat, (plane * R + r) * S, S, row, 0, offsets, weights)


@inlined
def stretch(target: Array, to: int, source: Array, first: int, count: int, times: int) -> None:
    """target[to + j·times + p] = source[first + j] for j < count, p < times."""
    for j in range(count):
        fill(target, to + j * times, times, source[first + j])


@inlined
def repeat(periodic: Array, to: int, length: int, w_row: Array, stride: int) -> None:
    """periodic[to + a·length + u] = w_row[a·stride + u mod stride], or 0 beyond its end; length is whole periods."""
    for a in range((len(w_row) + stride - 1) // stride):
        t, s = np.uint64(to + a * length), np.uint64(a * stride)
        taps = np.uint64(min(stride, len(w_row) - a * stride))
        for p in range(taps):
            periodic[t + p] = w_row[s + p]
        for p in range(taps, np.uint64(stride)):
            periodic[t + p] = 0
        for u in range(np.uint64(length - stride)):
            periodic[t + np.uint64(stride) + u] = periodic[t + u]


@inlined
def add_products(sums: Array, to: int, count: int, a: Array, lefts: Array, b: Array, rights: Array) -> None:
    """sums[to + z] += Σ_t a[lefts[t] + z] · b[rights[t] + z] for z < count: four products at once, then one."""
    n, s, t, T = np.uint64(count), np.uint64(to), 0, len(lefts)
    while t + 4 <= T:
        # Numbers of their own and unsigned indices, or else the compiler makes no vector instructions of it.
        h, i, j, k = np.uint64(lefts[t]), np.uint64(lefts[t + 1]), np.uint64(lefts[t + 2]), np.uint64(lefts[t + 3])
        c, d, e, f = np.uint64(rights[t]), np.uint64(rights[t + 1]), np.uint64(rights[t + 2]), np.uint64(rights[t + 3])
        for z in range(n):
            one = a[h + z] * b[c + z] + a[i + z] * b[d + z]
            two = a[j + z] * b[e + z] + a[k + z] * b[f + z]
            sums[s + z] += one + two
        t += 4
    while t < T:
        h, c = np.uint64(lefts[t]), np.uint64(rights[t])
        for z in range(n):
            sums[s + z] += a[h + z] * b[c + z]
        t += 1


@inlined
def fold(products: Array, length: int, stride: int) -> None:
    """products[j] = Σ_{p < stride} products[j·stride + p]: pairs are added while the stride is even."""
    while stride % 2 == 0:
        stride //= 2
        length //= 2
        for k in range(np.uint64(length)):
            products[k] = products[np.uint64(2) * k] + products[np.uint64(2) * k + np.uint64(1)]
    for j in range(length // stride):
        total = products[j * stride]
        for p in range(1, stride):
            total += products[j * stride + p]
        products[j] = total
