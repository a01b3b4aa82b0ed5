"""Depthwise convolution: one channel in and one out in every group, so that each map has a filter of its own.

There is no sum over channels, and so nothing that a register tile could use again: nine multiply-adds for every number
of a 3×3 convolution, which the processor does faster than memory delivers the number. What is left to do is to touch
memory once and to keep the arithmetic on long rows.

Where the output is as wide as the input and nothing is skipped (stride 1, padding that makes up for the filter), the
pixels need no rows at all. What pixel z = i·W + j meets at tap (a, b) lies a·W + b further on, and

    y[z] = bias + Σ_t w[t] · x[z + offset[t]]

is one loop over a whole map, right from x and into y. Nine taps are taken at a time, so that a number is loaded and
stored once for nine multiply-adds. The first and last columns, which see the wrong row at some taps, are made anew.

Otherwise a map is copied, with zeros around it, to a *block* that stays in the first-level cache (a band of its rows,
if it is large). There a row follows on the other, and the loop is the same: a few columns between two rows are computed
in vain, and the sums are copied to y row by row.

A stride is taken apart as in `block`: with r·dilation − padding = a·stride + p, tap r meets row i + a of phase p,
the rows h = q·stride + p. So the block holds the phases that some tap meets, each like a map of its own. The input's
gradient turns this round: gy has one phase, and row q of phase p of gx meets at tap r the row q − a of gy. The
weight gradient multiplies the same two things, gw[t] = Σ_z gy[z] · block[z + offset[t]], with zeros between gy's rows.
(Zero times infinity is NaN: an infinity in x may show up as NaN also in a weight whose tap just misses it.)

A thread's scratch memory is a block and as much for the sums of one phase: 32 KB each at most, or what it takes to
make one row of output, should that be more.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import copy_strided, fill, split_taps
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.conv2d.loops import add_scaled
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import empty, scratch_memory, whole_lines
from minifcn_kernels.spatial import Pair

BLOCK_BYTES = 2**15  # as much as a first-level cache holds


class Plan(NamedTuple):
    """How maps are cut into bands, and what meets what: see `_correlate`."""

    outputs: Array  # phases of the output; the weight gradient has no use for them, so they come first
    taps: Array
    phases: Array  # of the block
    offsets: Array  # of a tap: from an output's place to what it meets in the block
    memory: tuple[int, ...]  # a thread's: numbers in weights, block and sums
    reach: tuple[int, int, int, int]  # of the taps: the least offsets (top, left), and the extent beyond them
    band: int  # rows of a phase of the output to make at once


def is_depthwise(g: ConvGeometry) -> bool:
    """Return whether every group has one channel in and one out."""
    return g.C == g.K == g.groups


def keeps_width(g: ConvGeometry) -> bool:
    """Return whether a row of the output is as long as one of the input, pixel by pixel."""
    return g.stride == (1, 1) and g.OW == g.W


def conv2d_depthwise(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d`, map by map."""
    bias = np.zeros(g.K, x.dtype) if b is None else b
    y = empty(g.y_shape, x.dtype)
    _run(y, x, w, bias, g.stride, (1, 1), g, _forward_plan(g, x.itemsize))
    return y


def conv2d_grad_input_depthwise(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input`, map by map."""
    no_bias = np.zeros(g.C, gy.dtype)
    gx = empty(g.x_shape, gy.dtype)
    _run(gx, gy, w, no_bias, (1, 1), g.stride, g, _backward_plan(g, gy.itemsize))
    return gx


def conv2d_grad_weight_depthwise(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight`, map by map; the maps of a batch are added in its order."""
    plan = _forward_plan(g, x.itemsize)
    gw = empty((g.N, g.C, g.R * g.S), x.dtype)
    (scratch,) = scratch_memory(x.dtype, (get_num_threads(), sum(plan.memory)))
    _grad_weight.over(g.N * g.C, gw, scratch, x, gy, g.stride, *plan[1:])
    return gw.sum(axis=0).reshape(g.w_shape)


def _run(y: Array, x: Array, w: Array, b: Array, in_step: Pair, out_step: Pair, g: ConvGeometry, plan: Plan) -> None:
    """Correlate ``x`` with ``w`` into ``y``: see `_correlate`."""
    (scratch,) = scratch_memory(x.dtype, (get_num_threads(), sum(plan.memory)))
    tasks = y.shape[0] * y.shape[1] * -(-y.shape[2] // (out_step[0] * plan.band))
    if keeps_width(g):
        offsets = plan.taps[:, 0] * g.W + plan.taps[:, 1]
        where = plan.taps, offsets, plan.reach, plan.band
        _correlate_in_place.over(tasks, y, scratch, x, w.reshape(g.groups, -1), b, *where)
    else:
        _correlate.over(tasks, y, scratch, x, w.reshape(g.groups, -1), b, in_step, out_step, *plan)


@lru_cache(maxsize=256)
def _forward_plan(g: ConvGeometry, item_bytes: int) -> Plan:
    """Plan y: x falls into phases."""
    taps, phases = _taps_by_phase(g)
    return _plan(taps, phases, np.array([(0, 0, 0, len(taps))]), (g.OH, g.OW), item_bytes)


@lru_cache(maxsize=256)
def _backward_plan(g: ConvGeometry, item_bytes: int) -> Plan:
    """Plan gx, which falls into phases, while gy has one."""
    taps, phases = _taps_by_phase(g)
    rows, columns = np.divmod(np.arange(g.stride[0] * g.stride[1]), g.stride[1])
    numbers = phases[:, 0] * g.stride[1] + phases[:, 1]
    firsts, lasts = (np.searchsorted(numbers[taps[:, 2]], np.arange(len(rows)), side) for side in ("left", "right"))
    outputs = np.stack([rows, columns, firsts, lasts], axis=1)
    size = -(-g.H // g.stride[0]), -(-g.W // g.stride[1])
    return _plan(taps * (-1, -1, 0, 1), np.zeros((1, 2), np.int64), outputs, size, item_bytes)


def _taps_by_phase(g: ConvGeometry) -> tuple[Array, Array]:
    """Return the taps (a, b, number of the phase, place in the filter), phase after phase, and the phases (p, q)."""
    place = np.arange(g.R * g.S)
    r, s = np.divmod(place, g.S)
    taps, phases = split_taps(r * g.dilation[0] - g.padding[0], s * g.dilation[1] - g.padding[1], g.stride)
    taps = np.column_stack([taps, place])
    return taps[np.argsort(taps[:, 2], kind="stable")], phases


def _plan(taps: Array, phases: Array, outputs: Array, size: Pair, item_bytes: int) -> Plan:
    """Plan an output whose phases have ``size``."""
    (top, left), (bottom, right) = taps[:, :2].min(axis=0).tolist(), taps[:, :2].max(axis=0).tolist()
    overhang_h, overhang_w = bottom - top, right - left
    rows, columns = size
    band = BLOCK_BYTES // (item_bytes * len(phases) * (columns + overhang_w)) - overhang_h
    band = max(1, min(band, rows))
    BH, BW = band + overhang_h, columns + overhang_w
    offsets = (taps[:, 2] * BH + taps[:, 0] - top) * BW + taps[:, 1] - left
    memory = whole_lines(item_bytes, len(taps), len(phases) * BH * BW, band * BW)
    return Plan(outputs, taps, phases, offsets, memory, (top, left, overhang_h, overhang_w), band)


@compiled
def _correlate_in_place(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    x: Array,
    w: Array,
    b: Array,
    taps: Array,
    offsets: Array,
    reach: tuple[int, int, int, int],
    band: int,
) -> None:
    """Compute the same as `_correlate` for strides of 1, where rows of ``out`` are as long as rows of ``x``."""
    _, C, H, W = x.shape
    OH = out.shape[2]
    top, left, overhang_h, overhang_w = reach
    bottom, right = top + overhang_h, left + overhang_w
    bands, T = ceil_div(OH, band), len(taps)
    x_flat, out_flat = x.reshape(-1), out.reshape(-1)
    weights = scratch[get_thread_id()][:T]
    for task in range(first, last):
        plane, i0 = task // bands, task % bands * band
        c, i1 = plane % C, min(i0 + band, OH)
        x_first, out_first = plane * H * W, plane * OH * W
        for t in range(T):
            weights[t] = w[c, taps[t, 3]]
        fill(out_flat, out_first + i0 * W, (i1 - i0) * W, b[c])
        # All rows that meet the map at every tap are one run; each of the others meets some rows of taps.
        i = i0
        while i < i1:
            run_end = max(i + 1, min(i1, H - bottom)) if i + top >= 0 else i + 1
            t0, t1 = 0, T
            while t0 < t1 and not 0 <= i + taps[t0, 0] < H:
                t0 += 1
            while t0 < t1 and not 0 <= i + taps[t1 - 1, 0] < H:
                t1 -= 1
            # From the first column that meets the map at every tap to the last.
            j0 = max(0, -left)
            count = (run_end - 1 - i) * W + min(W, W - right) - j0
            to, source = out_first + i * W + j0, x_first + i * W + j0
            add_taps(out_flat, to, max(0, count), x_flat, source, offsets[t0:t1], weights[t0:t1])
            i = run_end
        for j in range(W):
            if not (j + left >= 0 and j + right < W):
                for i in range(i0, i1):
                    out_flat[out_first + i * W + j] = b[c]
                for t in range(T):
                    if 0 <= j + taps[t, 1] < W:
                        i = max(i0, -taps[t, 0])
                        count = max(0, min(i1, H - taps[t, 0]) - i)
                        source = x_first + (i + taps[t, 0]) * W + j + taps[t, 1]
                        add_scaled(out_flat, out_first + i * W + j, W, x_flat, source, W, count, weights[t])


@compiled
def _correlate(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    x: Array,
    w: Array,
    b: Array,
    in_step: Pair,
    out_step: Pair,
    outputs: Array,
    taps: Array,
    phases: Array,
    offsets: Array,
    memory: tuple[int, int, int],
    reach: tuple[int, int, int, int],
    band: int,
) -> None:
    """Correlate each map with its filter, for the phases (p', q') of ``out`` with their taps::

        out[n, c, i·step' + p', j·step' + q'] = b[c] + Σ_t w[c, t] · x[n, c, (i + a)·step + p, (j + b)·step + q]

    with (a, b, number of the phase (p, q), place in a filter) from the table of taps, and (p', q', first tap, one past
    the last) from the table of outputs.
    """
    _, C, H, W = x.shape
    OH, OW = out.shape[2:]
    top, left, overhang_h, overhang_w = reach
    rows, columns = ceil_div(OH, out_step[0]), ceil_div(OW, out_step[1])
    bands, BH, BW = ceil_div(rows, band), band + overhang_h, columns + overhang_w
    x_flat, out_flat = x.reshape(-1), out.reshape(-1)
    mine = scratch[get_thread_id()]
    weights, mine = mine[: memory[0]], mine[memory[0] :]
    block, sums = mine[: memory[1]], mine[memory[1] :]
    for task in range(first, last):
        plane, i0 = task // bands, task % bands * band
        c = plane % C
        copy_band(block, BH, BW, x_flat, plane * H, H, W, (i0 + top, left), in_step, phases)
        for t in range(len(taps)):
            weights[t] = w[c, taps[t, 3]]
        for output in range(len(outputs)):
            p, q, t0, t1 = outputs[output]
            i1 = min(i0 + band, ceil_div(OH - p, out_step[0]))
            width = ceil_div(OW - q, out_step[1])
            if i0 < i1 and width > 0:
                count = (i1 - 1 - i0) * BW + width
                fill(sums, 0, count, b[c])
                add_taps(sums, 0, count, block, 0, offsets[t0:t1], weights[t0:t1])
                for i in range(i0, i1):
                    to = (plane * OH + i * out_step[0] + p) * OW + q
                    copy_strided(out_flat, to, out_step[1], sums, (i - i0) * BW, 1, width)


@compiled
def _grad_weight(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    x: Array,
    gy: Array,
    stride: Pair,
    taps: Array,
    phases: Array,
    offsets: Array,
    memory: tuple[int, int, int],
    reach: tuple[int, int, int, int],
    band: int,
) -> None:
    """out[n, c, place of tap t] = Σ_i Σ_j gy[n, c, i, j] · x[n, c, (i + a)·stride + p, (j + b)·stride + q]."""
    H, W = x.shape[2:]
    OH, OW = gy.shape[2:]
    top, left, overhang_h, overhang_w = reach
    BH, BW = band + overhang_h, OW + overhang_w
    x_flat, gy_flat, out_flat = x.reshape(-1), gy.reshape(-1), out.reshape(-1)
    mine = scratch[get_thread_id()]
    totals, mine = mine[: len(taps)], mine[memory[0] :]
    block, cotangent = mine[: memory[1]], mine[memory[1] :]
    for plane in range(first, last):
        fill(cotangent, 0, band * BW, 0)
        fill(totals, 0, len(taps), 0)
        for i0 in range(0, OH, band):
            i1 = min(i0 + band, OH)
            copy_band(block, BH, BW, x_flat, plane * H, H, W, (i0 + top, left), stride, phases)
            for i in range(i0, i1):
                copy_strided(cotangent, (i - i0) * BW, 1, gy_flat, (plane * OH + i) * OW, 1, OW)
            add_dots(totals, cotangent, (i1 - 1 - i0) * BW + OW, block, offsets)
        for t in range(len(taps)):
            out_flat[plane * len(taps) + taps[t, 3]] = totals[t]


@inlined
def ceil_div(a: int, b: int) -> int:
    """Return ⌈a / b⌉."""
    return -(-a // b)


@inlined
def copy_band(
    block: Array,
    BH: int,
    BW: int,
    x: Array,
    map_row: int,
    H: int,
    W: int,
    top_left: Pair,
    step: Pair,
    phases: Array,
) -> None:
    """Fill a block: of every phase BH rows and BW columns from ``top_left`` on. The map begins at row ``map_row``."""
    top, left = top_left
    fill(block, 0, len(phases) * BH * BW, 0)
    for phase in range(len(phases)):
        p, q = phases[phase]
        # What lies inside the map: rows and columns of the block.
        first_row, last_row = max(0, -top), min(BH, ceil_div(H - p, step[0]) - top)
        first, last = max(0, -left), min(BW, ceil_div(W - q, step[1]) - left)
        for row in range(first_row, last_row):
            to = (phase * BH + row) * BW + first
            source = (map_row + (top + row) * step[0] + p) * W + (left + first) * step[1] + q
            copy_strided(block, to, 1, x, source, step[1], max(0, last - first))


@inlined
def add_taps(sums: Array, to: int, count: int, source: Array, first: int, offset: Array, weights: Array) -> None:
    """sums[to + z] += Σ_t weights[t] · source[first + offset[t] + z] for z < count; 9, 3 or 1 taps at once."""
    # Unsigned indices and numbers of their own, or else the compiler makes no vector instructions of it.
    n, i, t, T = np.uint64(count), np.uint64(to), 0, len(offset)
    while t + 9 <= T:
        a, b, c = np.uint64(first + offset[t]), np.uint64(first + offset[t + 1]), np.uint64(first + offset[t + 2])
        d, e, f = np.uint64(first + offset[t + 3]), np.uint64(first + offset[t + 4]), np.uint64(first + offset[t + 5])
        g, h, j = np.uint64(first + offset[t + 6]), np.uint64(first + offset[t + 7]), np.uint64(first + offset[t + 8])
        wa, wb, wc = weights[t], weights[t + 1], weights[t + 2]
        wd, we, wf = weights[t + 3], weights[t + 4], weights[t + 5]
        wg, wh, wi = weights[t + 6], weights[t + 7], weights[t + 8]
        for z in range(n):
            one = wa * source[z + a] + wb * source[z + b] + wc * source[z + c]
            two = wd * source[z + d] + we * source[z + e] + wf * source[z + f]
            three = wg * source[z + g] + wh * source[z + h] + wi * source[z + j]
            sums[i + z] += one + two + three
        t += 9
    while t + 3 <= T:
        a, b, c = np.uint64(first + offset[t]), np.uint64(first + offset[t + 1]), np.uint64(first + offset[t + 2])
        wa, wb, wc = weights[t], weights[t + 1], weights[t + 2]
        for z in range(n):
            sums[i + z] += wa * source[z + a] + wb * source[z + b] + wc * source[z + c]
        t += 3
    while t < T:
        a, wa = np.uint64(first + offset[t]), weights[t]
        for z in range(n):
            sums[i + z] += wa * source[z + a]
        t += 1


@inlined
def add_dots(totals: Array, cotangent: Array, count: int, block: Array, offsets: Array) -> None:
    """totals[t] += Σ_z cotangent[z] · block[z + offsets[t]] over z < count: three taps at once, then one."""
    n, t, T = np.uint64(count), 0, len(offsets)
    zero = block.dtype.type(0)
    while t + 3 <= T:
        a, b, c = np.uint64(offsets[t]), np.uint64(offsets[t + 1]), np.uint64(offsets[t + 2])
        sum_a, sum_b, sum_c = zero, zero, zero
        for z in range(n):
            sum_a += cotangent[z] * block[z + a]
            sum_b += cotangent[z] * block[z + b]
            sum_c += cotangent[z] * block[z + c]
        totals[t] += sum_a
        totals[t + 1] += sum_b
        totals[t + 2] += sum_c
        t += 3
    while t < T:
        a, sum_a = np.uint64(offsets[t]), zero
        for z in range(n):
            sum_a += cotangent[z] * block[z + a]
        totals[t] += sum_a
        t += 1
