"""The convolution and its input gradient on the register tile: a matrix product whose right side is never written out.

Flatten filters and output planes, and a convolution is a matrix product:

    y[k, pixel] = b[k] + Σ_d w[k, d] · columns[d, pixel]            d = (c, r, s)

where columns[d, pixel] is what the pixel meets at tap (r, s) of channel c. The filters lie in memory as such a matrix.
The columns do not, and they would be R·S times as large as the input. So the output is cut into boxes of a few
hundred pixels; for each box, and a few channels at a time, the input under it is copied to a block (see `block`) and

    columns[d, pixel] = block[position[pixel] + offset[d]]

whatever stride and dilation are. (A 1×1 convolution of stride 1 is a matrix product right away: see `product`. Where
filters fill vectors, forward goes faster with these along the vectors: see `turned`.)

The left side is packed, too: a tile meets ROWS filters at a time, which lie far apart in memory, and each number of
theirs again in every tile of every box. So they are copied next to each other, in the order in which tiles read them.

The input's gradient is the same once more. An input row h meets the taps r with i·stride = h + padding − r·dilation
for a whole i, and they are the same for all rows of one phase, (h + padding) mod stride. So the input falls into as
many *grids*, rows and columns a stride apart, and each is a convolution of gy with stride 1, with filters made of the
taps that it meets, and no zeros are multiplied. A box is computed on all grids at once: they share its block.

A thread's scratch memory is a block (at most BLOCK numbers, or else a single channel's), a panel (at most PANEL
numbers, or else a single channel's) and sums (at most SUMS numbers, or else a tile width of a task's filters): about
1.3 MB at most, save for strides and filters of 64 and the like; it does not grow with the image. To it come packed
filters, at most BOX_FILTERS of them; a thread keeps them for the next task if that differs only in its boxes.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import (
    PART,
    Reach,
    choose_box,
    copy_block,
    copy_pairs,
    copy_strided,
    cut_boxes,
    cut_pieces,
    fill,
    gather,
    list_boxes,
    split_taps,
    tap_offsets,
    vector_positions,
)
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import empty, scratch_memory, whole_lines
from minifcn_kernels.moves import group_of, interleave
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTOR_BYTES, VECTORS, lanes_of, tile

# A box of at most this many tile widths and this many filters, and this many sums on all grids: its sums, its block and
# its filters fit a second-level cache together, of 512 KB with AVX2 and twice as much with AVX-512.
BOX_TILES = 16
BOX_FILTERS = 128
SUMS = 2**11 * VECTOR_BYTES
# What a tile adds up in one go. The square root of a sum's length is best for its error (see `tile`): 68 for 512
# channels of 3×3 taps. A little more saves ways to the sums and back, for an error larger by 3 %. The right-hand side
# stays in the first-level cache: 9 KB with AVX2, 18 KB with AVX-512.
BOX_DEPTH = 96
# Numbers in a block of more than one channel, and in a panel.
BLOCK = 2**17
PANEL = 2**16
# Tasks to cut a small output into, so that several threads have work, as long as a box keeps this many of both.
TASKS = 8
FEWEST_TILES = 4
FEWEST_FILTERS = 32

# One row per task: some filters of a group, and some boxes.
TASK = np.dtype([(name, np.int64) for name in (*PART, "group", "k0", "k1")])
# One row per grid of the output: its rows in the table of taps, its first row and column, how many it has of both.
GRID = np.dtype([(name, np.int64) for name in ("first_tap", "last_tap", "row", "column", "rows", "columns")])


class Plan(NamedTuple):
    """How a convolution is cut, and where its tiles find what they read."""

    step: Pair  # from a row and a column of a grid to the next
    box: tuple[int, int, int, int, int]  # a `BoxSize`
    reach: Reach
    channels: int  # of a block
    memory: tuple[int, ...]  # a thread's: numbers in its packed filters, block, panel and sums
    taps: Array  # (a, b, number of the phase, place in a filter)
    phases: Array  # of the input: (p, q)
    grids: Array
    boxes: Array
    tasks: Array
    # Row d = (c, t) of a grid's product: where it lies in the block, from a pixel's position on, in a tile of a panel,
    # and in packed filters.
    block_offsets: Array
    panel_offsets: Array
    packed_offsets: Array
    # Pixels: where in the block or the panel the vectors of them begin; the pieces of which panels are made.
    starts: Array
    froms: Array
    tos: Array


def conv2d_direct(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d` on the register tile."""
    y = empty(g.y_shape, x.dtype)
    _correlate(y, x, w, (g.C // g.groups * g.R * g.S, g.R * g.S), b, g.stride, g, _forward_plan(g, x.itemsize))
    return y


def conv2d_grad_input_direct(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input` on the register tile."""
    gx = empty(g.x_shape, gy.dtype)
    _correlate(gx, gy, w, (g.R * g.S, g.C // g.groups * g.R * g.S), None, (1, 1), g, _backward_plan(g, gy.itemsize))
    return gx


@lru_cache(maxsize=256)
def _forward_plan(g: ConvGeometry, item_bytes: int) -> Plan:
    """Plan y: one grid, and x falls into phases."""
    r, s = np.divmod(np.arange(g.R * g.S), g.S)
    taps, phases = split_taps(r * g.dilation[0] - g.padding[0], s * g.dilation[1] - g.padding[1], g.stride)
    taps = np.concatenate([taps, (r * g.S + s)[:, None]], axis=1)
    grids = np.array([(0, len(taps), 0, 0, g.OH, g.OW)], GRID)
    return _plan(g, g.K, (1, 1), taps, phases, grids, item_bytes)


@lru_cache(maxsize=256)
def _backward_plan(g: ConvGeometry, item_bytes: int) -> Plan:
    """Plan gx: one phase of gy, and gx falls into grids."""
    taps, grids = [np.zeros((0, 4), np.int64)], []
    count = 0
    for row in range(min(g.stride[0], g.H)):
        for column in range(min(g.stride[1], g.W)):
            taps.append(_grid_taps(g, row, column))
            rows, columns = -(-(g.H - row) // g.stride[0]), -(-(g.W - column) // g.stride[1])
            grids.append((count, count + len(taps[-1]), row, column, rows, columns))
            count += len(taps[-1])
    one_phase = np.zeros((1, 2), np.int64)
    return _plan(g, g.C, g.stride, np.concatenate(taps), one_phase, np.array(grids, GRID), item_bytes)


def _grid_taps(g: ConvGeometry, row: int, column: int) -> Array:
    """Return the taps of the grid that begins at input (row, column): the (i, j) it meets there, 0, and r·S + s."""
    r, s = np.divmod(np.arange(g.R * g.S), g.S)
    i, not_i = np.divmod(row + g.padding[0] - r * g.dilation[0], g.stride[0])
    j, not_j = np.divmod(column + g.padding[1] - s * g.dilation[1], g.stride[1])
    return np.stack([i, j, np.zeros_like(r), r * g.S + s], axis=1)[(not_i == 0) & (not_j == 0)]


def _plan(g: ConvGeometry, outputs: int, step: Pair, taps: Array, phases: Array, grids: Array, item_bytes: int) -> Plan:
    """Cut an output of so many channels, whose first grid is its largest, into boxes and tasks."""
    N, K, OH, OW = g.N, outputs // g.groups, int(grids[0]["rows"]), int(grids[0]["columns"])
    least = taps[:, :2].min(axis=0) if len(taps) else np.zeros(2, np.int64)
    overhang = taps[:, :2].max(axis=0) - least if len(taps) else least

    # Rather few filters to a task than few pixels, if there is more to load of the filters than of the input.
    lanes = VECTOR_BYTES // item_bytes
    width = VECTORS * lanes
    filters = min(-(-K // ROWS) * ROWS, BOX_FILTERS)
    pixels = min(BOX_TILES, max(1, SUMS // (filters * len(grids) * width))) * width
    filters_first = g.K * g.C * g.R * g.S > g.N * (g.C * g.H * g.W + g.K * g.OH * g.OW)
    while g.groups * -(-K // filters) * -(-N * OH * OW // pixels) < TASKS:
        if filters >= 2 * FEWEST_FILTERS and (filters_first or pixels < 2 * FEWEST_TILES * width):
            filters = -(-filters // (2 * ROWS)) * ROWS
        elif pixels >= 2 * FEWEST_TILES * width:
            pixels //= 2
        else:
            break
    planes = len(phases) / max(1, len(taps))
    reach = int(least[0]), int(least[1]), int(overhang[0]), int(overhang[1])
    box = choose_box((N, K, OH, OW), filters, pixels, reach[2:], planes, lanes, VECTORS)
    boxes = list_boxes((N, K, OH, OW), box[:3])
    blocks = [(group, k, min(k + filters, K)) for group in range(g.groups) for k in range(0, K, filters)]
    _, tasks = cut_boxes(blocks, len(boxes), TASKS)

    # A block has as many channels as give a tile its depth.
    C = (g.C * g.K // outputs) // g.groups
    most_taps = max(1, int((grids["last_tap"] - grids["first_tap"]).max()))
    plane = box.images * (box.rows + reach[2]) * (box.columns + reach[3])
    span = -(-((box.images * box.rows - 1) * box.row_step + box.columns) // width) * width
    channels = min(C, BOX_DEPTH // most_taps, BLOCK // (plane * len(phases)))
    if not box.in_place:
        channels = min(channels, PANEL // (most_taps * span))
    channels = -(-C // -(-C // max(1, channels)))
    depth = np.arange(channels * most_taps)
    panel_tile = len(depth) * width + lanes
    starts = np.zeros(span // lanes, np.int64)
    if box.in_place:
        positions = vector_positions(box, reach, lanes)
        starts[: len(positions)] = positions
    else:
        starts += np.arange(len(starts)) // VECTORS * panel_tile + np.arange(len(starts)) % VECTORS * lanes
    of_grids = [taps[grid["first_tap"] : grid["last_tap"]] for grid in grids]
    block_offsets = np.concatenate([tap_offsets(of_grid, channels, len(phases), box, reach) for of_grid in of_grids])
    channel = np.arange(channels)[:, None]
    packed_offsets = [(channel * g.R * g.S + of_grid[:, 3]).reshape(-1) * ROWS for of_grid in of_grids]
    return Plan(
        step,
        (int(box.images), int(box.rows), int(box.columns), int(box.in_place), int(box.row_step)),
        reach,
        channels,
        whole_lines(
            item_bytes,
            -(-filters // ROWS) * ROWS * C * g.R * g.S,
            channels * len(phases) * plane + width,  # a tile may read a vector past the last pixel
            0 if box.in_place else span // width * panel_tile,
            len(grids) * -(-filters // ROWS) * ROWS * span,
        ),
        taps,
        phases,
        grids,
        boxes,
        np.array(tasks, TASK),
        block_offsets,
        depth * width,
        np.concatenate(packed_offsets),
        starts,
        *cut_pieces(box, reach, lanes, width, panel_tile),
    )


def _correlate(
    y: Array, x: Array, w: Array, w_steps: Pair, b: Array | None, stride: Pair, g: ConvGeometry, plan: Plan
) -> None:
    """Correlate, grid by grid::

        y[n, k, i·step + row, j·step + column]
            = b[k] + Σ_c Σ_t w[k, c, t] · x[n, c, (i + a)·stride + p, (j + b)·stride + q]

    with (a, b, number of the phase (p, q), place in a filter) from the grid's table of taps. ``w`` has ``w_steps`` from
    k to k and from c to c within a group.
    """
    if y.size == 0:
        return
    # A tile at the edge may have rows beyond the last filter.
    bias = np.zeros(y.shape[1] + ROWS, x.dtype)
    if b is not None:
        bias[: len(b)] = b
    (scratch,) = scratch_memory(x.dtype, (get_num_threads(), sum(plan.memory)))
    _run_tasks.over(len(plan.tasks), y, scratch, x, w.reshape(-1), w_steps, bias, stride, g.groups, *plan)


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
    step: Pair,
    box_size: tuple[int, int, int, int, int],
    reach: Reach,
    channels: int,
    memory: tuple[int, int, int, int],
    taps: Array,
    phases: Array,
    grids: Array,
    boxes: Array,
    tasks: Array,
    block_offsets: Array,
    panel_offsets: Array,
    packed_offsets: Array,
    starts: Array,
    froms: Array,
    tos: Array,
) -> None:
    """Do tasks; ``scratch`` has a row for each thread. It packs filters when they are others than its last task's."""
    mine, out_flat = scratch[get_thread_id()], out.reshape(-1)
    packed, mine = mine[: memory[0]], mine[memory[0] :]
    block, mine = mine[: memory[1]], mine[memory[1] :]
    panel, sums = mine[: memory[2]], mine[memory[2] :]
    _, K, OH, OW = out.shape
    C = x.shape[1] // groups
    lanes = lanes_of(x)
    width = VECTORS * lanes
    images, rows, columns, in_place, row_step = box_size
    top, left, overhang_h, overhang_w = reach

    BH, BW = rows + overhang_h, columns + overhang_w
    plane = images * BH * BW
    for t in range(first, last):
        task = tasks[t]
        if t == first or task.part == 0:
            _pack(packed, w, w_steps, C, groups, channels, task)
        filters = task.k1 - task.k0
        k_first, c_first = task.group * (K // groups) + task.k0, task.group * C
        tiles, all_filters = len(starts) // VECTORS, (filters + ROWS - 1) // ROWS * ROWS
        # Sums, grid by grid; where no tap reaches they stay what they are now.
        span = tiles * width
        for grid in range(len(grids)):
            if grids[grid].first_tap == grids[grid].last_tap:
                for k in range(filters):
                    fill(sums, (grid * all_filters + k) * span, span, b[k_first + k])

        for box in boxes[task.first_box : task.last_box]:
            box_rows, box_columns = box.i1 - box.i0, box.j1 - box.j0
            last_row = (box.n1 - box.n0 - 1) * rows + box_rows - 1
            tiles = (last_row * row_step + box_columns + width - 1) // width
            # Where the box is a run of y, tiles write right there; save for the last, which may be cut short.
            joined = step == (1, 1) and row_step == columns == OW and box.n1 - box.n0 == 1 and filters % ROWS == 0
            if joined:
                box_rows, box_columns = 1, box_rows * OW
            whole = box_columns // width if joined else 0
            in_y = whole * width
            y_first = ((box.n0 * K + k_first) * OH + box.i0) * OW
            for c0 in range(0, C, channels):
                c1 = min(c0 + channels, C)
                of_x, top_left = (c_first + c0, c_first + c1), (box.i0 + top, box.j0 + left)
                copy_block(block, plane, BH, BW, x, (box.n0, box.n1), of_x, top_left, stride, phases)
                for grid in range(len(grids)):
                    first_tap = grids[grid].first_tap
                    met = grids[grid].last_tap - first_tap
                    depth = (c1 - c0) * met
                    left_offsets = packed_offsets[channels * first_tap :]
                    right, right_offsets = block, block_offsets[channels * first_tap :]
                    if not in_place:
                        gather(panel, width, block, right_offsets, depth, froms, tos)
                        right, right_offsets = panel, panel_offsets
                    for rest in range(2 if depth > 0 else 0):  # first the tiles that write to y, then those that do not
                        target, to, to_step, v0, v1 = out_flat, y_first, OH * OW, 0, whole
                        if rest:
                            target, to, to_step, v0, v1 = sums, grid * all_filters * span, span, whole, tiles
                        for v in range(v0, v1):
                            for m in range(0, filters, ROWS):
                                left_first = (all_filters * c0 + m * (c1 - c0)) * min(w_steps)
                                tile(
                                    depth,
                                    packed, left_first, 1, left_offsets,
                                    right, starts, v * VECTORS, right_offsets,
                                    target, to + m * to_step + v * width, to_step,
                                    c0 == 0, b, k_first + m,
                                )  # fmt: skip
            for k in range(filters):
                for n in range(box.n0, box.n1):
                    for i in range(box.i0, box.i0 + box_rows):
                        for grid in range(len(grids)):
                            if i < grids[grid].rows:
                                columns_here = box_columns if joined else min(box.j1, grids[grid].columns) - box.j0
                                row, column = grids[grid].row + i * step[0], grids[grid].column + box.j0 * step[1]
                                to = ((n * K + k_first + k) * OH + row) * OW + column + in_y
                                source = ((n - box.n0) * rows + i - box.i0) * row_step + in_y
                                source += (grid * all_filters + k) * span
                                paired = 0
                                if step[1] == 2 and grid + 1 < len(grids) and grids[grid + 1].column == 1:
                                    # With the next grid's columns, which lie in between, it makes whole runs.
                                    paired = min(box.j1, grids[grid + 1].columns) - box.j0
                                    copy_pairs(out_flat, to, sums, source, source + all_filters * span, paired)
                                if step[1] != 2 or grids[grid].column == 0:  # or else it was written already
                                    to, count = to + paired * step[1], columns_here - in_y - paired
                                    copy_strided(out_flat, to, step[1], sums, source + paired, 1, count)


@inlined
def _pack(packed: Array, w: Array, w_steps: Pair, C: int, groups: int, at_once: int, task: Any) -> None:
    """Copy a task's filters in the order in which tiles read them: by block of channels, and ROWS filters::

        packed[m // ROWS, c, t, m % ROWS] = w[m-th filter of the task, c, t], or anything beyond the last filter

    for the channels of the block, ``at_once``, and all taps t.
    """
    T, filters = min(w_steps), task.k1 - task.k0
    all_filters = (filters + ROWS - 1) // ROWS * ROWS
    first = task.group * (len(w) // groups) + task.k0 * w_steps[0]
    for c0 in range(0, C, at_once):
        channels = min(at_once, C - c0)
        # Go through w as it lies in memory: filter by filter, or else channel by channel.
        run = channels if w_steps[0] > w_steps[1] else 1
        for c in range(0, channels, run):
            for m in range(0, filters, ROWS):
                to = (all_filters * c0 + m * channels + c * ROWS) * T
                source = first + m * w_steps[0] + (c0 + c) * w_steps[1]
                rows, room = min(ROWS, filters - m), (channels - c) * T
                _pack_run(packed, to, w, source, w_steps[0], rows, run * T, room)


@inlined
def _pack_run(packed: Array, to: int, w: Array, first: int, step: int, rows: int, count: int, room: int) -> None:
    """packed[to + j·ROWS + row] = w[first + row·step + j] for row < rows, j < count; or even up to j < ``room``.

    There it may write whole vectors: what belongs there comes later.
    """
    lanes = lanes_of(w)
    whole = count // lanes * lanes
    if whole < count and whole + lanes <= room and first + (rows - 1) * step + whole + lanes <= len(w):
        whole += lanes
    for j in range(0, whole, lanes):
        for row in range(0, rows, group_of(w)):
            interleave(packed, to + j * ROWS + row, ROWS, w, first + j + row * step, step, rows - row)
    t, s, s_step = np.uint64(to + whole * ROWS), np.uint64(first + whole), np.uint64(step)
    for _ in range(count - whole):
        for row in range(np.uint64(rows)):
            packed[t + row] = w[s + row * s_step]
        t += np.uint64(ROWS)
        s += np.uint64(1)
