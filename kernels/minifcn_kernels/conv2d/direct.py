"""The convolution and its input gradient on the register tile: a matrix product whose right side is never written out.

Flatten filters and output planes, and a convolution is a matrix product:

    y[k, pixel] = b[k] + Σ_d w[k, d] · columns[d, pixel]            d = (c, r, s)

where columns[d, pixel] is what the pixel meets at tap (r, s) of channel c. The filters lie in memory as such a matrix.
The columns do not, and they would be R·S times as large as the input. So the output is cut into boxes of a few
hundred pixels; for each box, and a few channels at a time, the input under it is copied to a block (see `block`) and

    columns[d, pixel] = block[position[pixel] + offset[d]]

whatever stride and dilation are. (A 1×1 convolution of stride 1 is a matrix product right away: see `product`.)

The left side is packed, too: a tile meets ROWS filters at a time, which lie far apart in memory, and each number of
theirs again in every tile of every box. So they are copied next to each other, in the order in which tiles read them.

The input's gradient is the same once more. An input row h meets the taps r with i·stride = h + padding − r·dilation
for a whole i, and they are the same for all rows of one *phase*, (h + padding) mod stride. So every phase is a
convolution of gy with stride 1, with filters made of the phase's taps, and no zeros are multiplied.

A task's scratch memory is its block (at most BLOCK numbers, or else a single channel's), its panel (at most PANEL
numbers, or else a single channel's) and its sums (BOX_FILTERS by BOX_TILES tile widths): about 1 MB at most, save for
strides and filters of 64 and the like; it does not grow with the image. To it come its packed filters, at most
BOX_FILTERS of them; tasks that differ only in their boxes share them.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import (
    choose_box,
    copy_block,
    copy_strided,
    cut_pieces,
    fill,
    gather,
    list_boxes,
    split_taps,
    tap_offsets,
    vector_positions,
)
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.jit import Array, compiled, inlined, scratch_memory
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTOR_BYTES, VECTORS, interleave, tile

# A box of at most this many tile widths and this many filters: its sums, its block and its filters fit a
# second-level cache of 512 KB together.
BOX_TILES = 16
BOX_FILTERS = 128
# What a tile adds up in one go. The square root of a sum's length is best for its error (see `tile`): 68 for 512
# channels of 3×3 taps. The right-hand side, 6 KB with AVX2, has much room in the first-level cache.
BOX_DEPTH = 64
# Numbers in a block of more than one channel, and in a panel.
BLOCK = 2**17
PANEL = 2**16
# Tasks to cut a small output into, so that several threads have work, as long as a box keeps this many of both.
TASKS = 8
FEWEST_TILES = 4
FEWEST_FILTERS = 32

# One row per task: some filters of a group, and some boxes of one phase of the output.
TASK = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("group", "k0", "k1", "first_box", "last_box"),
            *("shares", "packs"),  # whether its filters serve several tasks, and whether it is the one that packs them
            "region",  # of shared memory, for these
            *("images", "rows", "columns"),  # of a box that is not cut short by the edge of the output
            "in_place",  # whether the tile reads the block, or a panel gathered from it
            "row_step",  # columns of the product from a row of a box to the next
            *("first_tap", "last_tap"),  # the phase's rows in the table of taps
            *("top", "left", "overhang_h", "overhang_w"),  # of the taps: the least offset, and the extent beyond it
            *("y_row", "y_column", "step_h", "step_w"),  # where the phase's outputs lie in the whole output
        )
    ]
)


def conv2d_direct(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d` on the register tile."""
    bias = np.zeros(g.K, x.dtype) if b is None else b
    y = np.empty(g.y_shape, x.dtype)
    w_steps = (g.C // g.groups * g.R * g.S, g.R * g.S)
    _correlate(y, x, w, w_steps, bias, g.stride, g.groups, *_forward_plan(g, x.itemsize))
    return y


def conv2d_grad_input_direct(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input` on the register tile."""
    no_bias = np.zeros(g.C, gy.dtype)
    gx = np.empty(g.x_shape, gy.dtype)
    w_steps = (g.R * g.S, g.C // g.groups * g.R * g.S)
    _correlate(gx, gy, w, w_steps, no_bias, (1, 1), g.groups, *_backward_plan(g, gy.itemsize))
    return gx


@lru_cache(maxsize=256)
def _forward_plan(g: ConvGeometry, item_bytes: int) -> tuple[Array, ...]:
    """Return the tables of taps, phases, boxes and tasks for `_correlate`."""
    r, s = np.divmod(np.arange(g.R * g.S), g.S)
    taps, phases = split_taps(r * g.dilation[0] - g.padding[0], s * g.dilation[1] - g.padding[1], g.stride)
    taps = np.concatenate([taps, (r * g.S + s)[:, None]], axis=1)
    size = g.N, g.K // g.groups, g.OH, g.OW
    boxes, tasks = _cut(g, size, taps, len(phases), item_bytes)
    tasks["region"] = np.cumsum(tasks["packs"]) - 1
    return taps, phases, boxes, tasks


@lru_cache(maxsize=256)
def _backward_plan(g: ConvGeometry, item_bytes: int) -> tuple[Array, ...]:
    """Return the tables of taps, phases (of gy: there is one), boxes and tasks, phase after phase of x."""
    all_taps: list[Array] = []
    all_boxes: list[Array] = []
    all_tasks: list[Array] = []
    first_tap = first_box = 0
    for row in range(min(g.stride[0], g.H)):
        for column in range(min(g.stride[1], g.W)):
            taps = _phase_taps(g, row, column)
            rows, columns = -(-(g.H - row) // g.stride[0]), -(-(g.W - column) // g.stride[1])
            boxes, tasks = _cut(g, (g.N, g.C // g.groups, rows, columns), taps, 1, item_bytes)
            tasks["first_tap"] += first_tap
            tasks["last_tap"] += first_tap
            tasks["first_box"] += first_box
            tasks["last_box"] += first_box
            tasks["y_row"], tasks["y_column"] = row, column
            tasks["step_h"], tasks["step_w"] = g.stride
            all_taps.append(taps)
            all_boxes.append(boxes)
            all_tasks.append(tasks)
            first_tap += len(taps)
            first_box += len(boxes)
    one_phase = np.zeros((1, 2), np.int64)
    tasks = np.concatenate(all_tasks)
    tasks["region"] = np.cumsum(tasks["packs"]) - 1
    return np.concatenate(all_taps), one_phase, np.concatenate(all_boxes), tasks


def _phase_taps(g: ConvGeometry, row: int, column: int) -> Array:
    """Return the taps of the phase that begins at input (row, column): the (i, j) it meets there, 0, and r·S + s."""
    r, s = np.divmod(np.arange(g.R * g.S), g.S)
    i, not_i = np.divmod(row + g.padding[0] - r * g.dilation[0], g.stride[0])
    j, not_j = np.divmod(column + g.padding[1] - s * g.dilation[1], g.stride[1])
    return np.stack([i, j, np.zeros_like(r), r * g.S + s], axis=1)[(not_i == 0) & (not_j == 0)]


def _cut(
    g: ConvGeometry, size: tuple[int, int, int, int], taps: Array, phases: int, item_bytes: int
) -> tuple[Array, Array]:
    """Cut an output of ``size`` (images, filters of a group, rows, columns) into boxes and tasks."""
    N, K, OH, OW = size
    least = taps[:, :2].min(axis=0) if len(taps) else np.zeros(2, np.int64)
    overhang = taps[:, :2].max(axis=0) - least if len(taps) else least

    # Rather few filters to a task than few pixels, if there is more to load of the filters than of the input.
    lanes = VECTOR_BYTES // item_bytes
    width = VECTORS * lanes
    filters, pixels = min(K, BOX_FILTERS), BOX_TILES * width
    filters_first = g.K * g.C * g.R * g.S > g.N * (g.C * g.H * g.W + g.K * g.OH * g.OW)
    while g.groups * -(-K // filters) * -(-N * OH * OW // pixels) < TASKS:
        if filters >= 2 * FEWEST_FILTERS and (filters_first or pixels < 2 * FEWEST_TILES * width):
            filters = -(-filters // 2)
        elif pixels >= 2 * FEWEST_TILES * width:
            pixels //= 2
        else:
            break
    planes = phases / max(1, len(taps))
    tile_filters = -(-filters // ROWS) * ROWS
    box = choose_box(size, tile_filters, pixels, (int(overhang[0]), int(overhang[1])), planes, lanes, VECTORS)
    boxes = list_boxes(size, box)
    blocks = [(group, k, min(k + filters, K)) for group in range(g.groups) for k in range(0, K, filters)]
    parts = max(1, min(-(-TASKS // len(blocks)), len(boxes)))
    cuts = [part * len(boxes) // parts for part in range(parts + 1)]
    rest = *box, 0, len(taps), *least, *overhang, 0, 0, 1, 1
    tasks = [
        (*block, cuts[part], cuts[part + 1], parts > 1, parts > 1 and part == 0, 0, *rest)
        for block in blocks
        for part in range(parts)
    ]
    return boxes, np.array(tasks, TASK)


def _correlate(
    y: Array,
    x: Array,
    w: Array,
    w_steps: Pair,
    b: Array,
    stride: Pair,
    groups: int,
    taps: Array,
    phases: Array,
    boxes: Array,
    tasks: Array,
) -> None:
    """Correlate, phase by phase::

        y[n, k, i, j] = b[k] + Σ_c Σ_t w[k, c, t] · x[n, c, (i + a)·stride + p, (j + b)·stride + q]

    with (a, b, number of the phase (p, q), place in a filter) from the table of taps. ``w`` has ``w_steps`` from k to k
    and from c to c within a group.
    """
    w, channels = w.reshape(-1), x.shape[1] // groups
    filters = -(-(tasks["k1"] - tasks["k0"]) // ROWS) * ROWS
    region = int((filters * channels * (tasks["last_tap"] - tasks["first_tap"])).max())
    shared = tasks[tasks["packs"] > 0]
    # Packed filters, a row for each of the sets that tasks share and for each thread.
    (scratch,) = scratch_memory((len(shared) + get_num_threads(), region * x.itemsize // 4))
    scratch = scratch.view(x.dtype)
    _pack_shared.over(len(shared), scratch, w, w_steps, channels, groups, taps, shared)
    _run_tasks.over(len(tasks), y, scratch, x, w, w_steps, b, stride, groups, len(shared), taps, phases, boxes, tasks)


@compiled
def _pack_shared(
    first: int,
    last: int,
    scratch: Array,
    w: Array,
    w_steps: Pair,
    channels: int,
    groups: int,
    taps: Array,
    tasks: Array,
) -> None:
    for t in range(first, last):
        _pack(scratch[t], w, w_steps, channels, groups, taps, tasks[t])


@compiled
def _run_tasks(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    x: Array,
    w: Array,
    w_steps: Pair,
    b: Array,
    stride: Pair,
    groups: int,
    shared: int,
    taps: Array,
    phases: Array,
    boxes: Array,
    tasks: Array,
) -> None:
    for task in tasks[first:last]:
        packed = scratch[task.region if task.shares else shared + get_thread_id()]
        if not task.shares:
            _pack(packed, w, w_steps, x.shape[1] // groups, groups, taps, task)
        _run_task(out, x, packed, b, stride, groups, taps, phases, boxes, task)


@inlined
def _run_task(
    y: Array,
    x: Array,
    packed: Array,
    b: Array,
    stride: Pair,
    groups: int,
    all_taps: Array,
    phases: Array,
    all_boxes: Array,
    task: Any,
) -> None:
    taps, boxes = all_taps[task.first_tap : task.last_tap], all_boxes[task.first_box : task.last_box]
    _, K, OH, OW = y.shape
    y_flat = y.reshape(-1)
    C_per_group, K_per_group, T = x.shape[1] // groups, K // groups, len(taps)
    lanes = VECTOR_BYTES // x.itemsize
    width = VECTORS * lanes
    filters = task.k1 - task.k0
    filter_tiles = (filters + ROWS - 1) // ROWS
    k_first, c_first = task.group * K_per_group + task.k0, task.group * C_per_group

    # The block: as many channels as give a tile its depth. A tile may read past the last pixel.
    BH, BW = task.rows + task.overhang_h, task.columns + task.overhang_w
    plane = task.images * BH * BW
    tiles = ((task.images * task.rows - 1) * task.row_step + task.columns + width - 1) // width
    span = tiles * width
    channels = max(1, min(C_per_group, BOX_DEPTH // max(T, 1)))
    channels = max(1, min(channels, BLOCK // (plane * len(phases))))
    if not task.in_place:
        channels = max(1, min(channels, PANEL // (max(T, 1) * span)))
    channels = (C_per_group - 1) // ((C_per_group - 1) // channels + 1) + 1
    depth = channels * T
    block = np.zeros(channels * len(phases) * plane + width, x.dtype)
    panel_tile = depth * width + lanes
    panel = np.zeros(1 if task.in_place else tiles * panel_tile, x.dtype)

    # Row d = (c, t) of the product: where it lies in the block, from a pixel's position on, and in tiles of a panel.
    # Pixels: where in the block the vectors of them begin, or the pieces of which panels are made.
    image_step, channel_step = BH * BW, len(phases) * plane
    offset = tap_offsets(taps, channels, channel_step, plane, BW, task.top, task.left)
    panel_offset, packed_offset = np.arange(depth) * width, np.arange(depth) * ROWS
    starts = np.zeros(tiles * VECTORS, np.int64)
    if task.in_place:
        vector_positions(starts, task.images, task.rows, task.columns, task.row_step, image_step, BW, lanes)
    else:
        for v in range(len(starts)):
            starts[v] = v // VECTORS * panel_tile + v % VECTORS * lanes
    froms, tos = cut_pieces(task.images, task.rows, task.columns, image_step, BW, lanes, width, panel_tile)

    sums = np.empty(filter_tiles * ROWS * span, x.dtype)
    for box in boxes:
        last_row = (box.n1 - box.n0 - 1) * task.rows + box.i1 - box.i0 - 1
        tiles = (last_row * task.row_step + box.j1 - box.j0 + width - 1) // width
        for k in range(filters):
            fill(sums, k * span, span, b[k_first + k])
        for c0 in range(0, C_per_group if T > 0 else 0, channels):
            c1 = min(c0 + channels, C_per_group)
            depth = (c1 - c0) * T
            right, right_offset = (block, offset) if task.in_place else (panel, panel_offset)
            of_x, top_left = (c_first + c0, c_first + c1), (box.i0 + task.top, box.j0 + task.left)
            copy_block(block, plane, BH, BW, x, (box.n0, box.n1), of_x, top_left, stride, phases)
            if not task.in_place:
                gather(panel, width, block, offset, depth, froms, tos)
            for v in range(tiles):
                for m in range(filter_tiles):
                    left, to = (m * C_per_group + c0) * T * ROWS, m * ROWS * span + v * width
                    left_side = (packed, left, 1, packed_offset)
                    right_side = (right, starts, v * VECTORS, right_offset)
                    tile(depth, ROWS, *left_side, *right_side, sums, to, span)
        for k in range(filters):
            for n in range(box.n0, box.n1):
                for i in range(box.i0, box.i1):
                    source = k * span + ((n - box.n0) * task.rows + i - box.i0) * task.row_step
                    y_row = ((n * K + k_first + k) * OH + task.y_row + i * task.step_h) * OW
                    y_first = y_row + task.y_column + box.j0 * task.step_w
                    copy_strided(y_flat, y_first, task.step_w, sums, source, 1, box.j1 - box.j0)


@inlined
def _pack(packed: Array, w: Array, w_steps: Pair, channels: int, groups: int, all_taps: Array, task: Any) -> None:
    """packed[m // ROWS, c, t, m % ROWS] = w[m-th filter of the task, c, taps[t, 3]], and 0 beyond the last filter."""
    taps = all_taps[task.first_tap : task.last_tap]
    T, filters = len(taps), task.k1 - task.k0
    first = task.group * (len(w) // groups) + task.k0 * w_steps[0]
    # Go through w as it lies in memory: filter by filter, or else channel by channel.
    at_once = channels if w_steps[0] > w_steps[1] else 1
    for c0 in range(0, channels, at_once):
        for m in range(0, filters, ROWS):
            to = (m * channels + c0 * ROWS) * T
            source = first + m * w_steps[0] + c0 * w_steps[1]
            rows = min(ROWS, filters - m)
            if rows == ROWS and min(w_steps) == T:  # taps of a filter are neighbours
                _pack_run(packed, to, w, source, w_steps[0], at_once * T)
            else:
                for c in range(at_once):
                    for t in range(T):
                        place = source + c * w_steps[1] + taps[t, 3]
                        for row in range(rows):
                            packed[to + row] = w[place + row * w_steps[0]]
                        for row in range(rows, ROWS):
                            packed[to + row] = 0
                        to += ROWS


@inlined
def _pack_run(packed: Array, to: int, w: Array, first: int, step: int, count: int) -> None:
    """packed[to + j·ROWS + row] = w[first + row·step + j] for j < count, row < ROWS."""
    lanes = VECTOR_BYTES // w.itemsize
    whole = count // lanes * lanes
    for j in range(0, whole, lanes):
        interleave(packed, to + j * ROWS, ROWS, w, first + j, step, ROWS)
    t, s, s_step = np.uint64(to + whole * ROWS), np.uint64(first + whole), np.uint64(step)
    for _ in range(count - whole):
        for row in range(np.uint64(ROWS)):
            packed[t + row] = w[s + row * s_step]
        t += np.uint64(ROWS)
        s += np.uint64(1)
