"""The convolution on the register tile, turned: pixels are its rows, and filters lie along the vectors.

    y[k, pixel] = b[k] + Σ_d  x[position[pixel] + offset[d]] · w[k, d]            d = (c, r, s)

with the padded input, in which output pixel (n, i, j) has the position of its first tap, (n, i·stride, j·stride), and
every channel and tap an offset from there. It is the product of `direct` with its sides exchanged, for convolutions
that have filters enough for a vector or two. Of x, the tile reads single numbers now, so these may lie as far apart as
stride and dilation please, and nothing has to be taken apart; and a map of any size is made of whole rows. In return,
filters are turned before, and outputs afterwards:

    panel[d, k] = w[k, d]        y[k, pixel] = sums[pixel, k]

The output is cut into boxes of a few hundred pixels. For each box, and a few channels at a time, the input under it is
copied to a block, with zeros where the padding is. A tile's rows are groups of ROW_GROUP neighbours, so that it can
find them fast; where a row of pixels ends within a group, the rest of that is computed in vain.

A thread's scratch memory is a block (at most BLOCK numbers, or else a single channel's), sums (BOX_PIXELS by
BOX_FILTERS) and a panel of BOX_FILTERS; it keeps the panel for the next task if that differs only in its boxes.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import PART, copy_run, cut_boxes, list_boxes, turn
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.conv2d.positions import (
    Extent,
    copy_padded,
    cut_evenly,
    even_box,
    extent_of,
    find_positions,
    offsets_of_taps,
    runs_of,
)
from minifcn_kernels.jit import Array, compiled
from minifcn_kernels.memory import empty, odd_lines, scratch_memory, whole_lines
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROW_GROUP, ROWS, VECTOR_BYTES, VECTORS, lanes_of, next_vectors, part_tile

# What a tile adds up in one go: see `direct`.
DEPTH = 96
# Pixels and filters to a box, at most: its sums, 290 KB, and its filters stay in a second-level cache.
BOX_PIXELS = 512
BOX_FILTERS = 128
# Numbers in a block of more than one channel.
BLOCK = 2**17
# Tasks to cut a small output into, so that several threads have work, as long as a box keeps this many of both.
TASKS = 8
FEWEST_PIXELS = 64
FEWEST_FILTERS = 32

# One row per task: some filters of a group, and some boxes.
TASK = np.dtype([(name, np.int64) for name in (*PART, "group", "k0", "k1")])


class Plan(NamedTuple):
    """How the output is cut, and where a tile finds what it reads."""

    extent: Extent
    channels: int  # of a block
    memory: tuple[int, ...]  # a thread's: numbers in its block, panel and sums
    step: int  # from row to row of panel and sums
    boxes: Array
    tasks: Array
    offsets: Array  # of (channel, tap) in a block
    starts: Array  # of a tile's vectors
    rows: Array  # of the panel, one for each (channel, tap) of a block


def conv2d_turned(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d` on the register tile, turned."""
    y = empty(g.y_shape, x.dtype)
    if y.size == 0:
        return y
    plan = _plan(g, x.itemsize)
    bias = np.zeros(g.K, x.dtype) if b is None else b
    (scratch,) = scratch_memory(x.dtype, (get_num_threads(), sum(plan.memory)))
    (scratch_positions,) = scratch_memory(np.int64, (get_num_threads(), BOX_PIXELS + ROWS // ROW_GROUP))
    _turned.over(
        len(plan.tasks), y, scratch, scratch_positions, x, w.reshape(-1), bias, g.groups, g.stride, g.padding, *plan
    )
    return y


@lru_cache(maxsize=256)
def _plan(g: ConvGeometry, item_bytes: int) -> Plan:
    K, C, T = g.K // g.groups, g.C // g.groups, g.R * g.S
    lanes = VECTOR_BYTES // item_bytes
    # Rather few filters to a task than few pixels, if there is more to load of the filters than of the input.
    filters, pixels = BOX_FILTERS // lanes * lanes, BOX_PIXELS
    filters_first = g.K * C * T > g.N * (g.C * g.H * g.W + g.K * g.OH * g.OW)
    size = g.N, K, g.OH, g.OW
    while g.groups * -(-K // filters) * len(list_boxes(size, even_box(g, pixels, ROW_GROUP))) < TASKS:
        if filters >= 2 * FEWEST_FILTERS and (filters_first or pixels < 2 * FEWEST_PIXELS):
            filters = filters // (2 * lanes) * lanes
        elif pixels >= 2 * FEWEST_PIXELS:
            pixels //= 2
        else:
            break
    filters = min(cut_evenly(K, filters, lanes), K)
    box = even_box(g, pixels, ROW_GROUP)
    boxes = list_boxes(size, box)
    blocks = [(group, k, min(k + filters, K)) for group in range(g.groups) for k in range(0, K, filters)]
    _, tasks = cut_boxes(blocks, len(boxes), TASKS)

    extent = extent_of(g, box)
    plane = extent[2]
    channels = cut_evenly(C, max(1, min(DEPTH // T, BLOCK // plane)), 1)
    step = odd_lines(item_bytes, filters)
    groups = box[0] * box[1] * -(-box[2] // ROW_GROUP)
    return Plan(
        extent,
        channels,
        whole_lines(
            item_bytes,
            channels * plane + lanes + ROW_GROUP * g.stride[1],  # what is beyond the last pixel is read, too
            C * T * step,
            -(-groups * ROW_GROUP // ROWS) * ROWS * step,
        ),
        step,
        boxes,
        np.array(tasks, TASK),
        (np.arange(channels)[:, None] * plane + offsets_of_taps(g, extent)).reshape(-1),
        np.arange(VECTORS) * lanes,
        np.arange(channels * T) * step,
    )


@compiled
def _turned(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    scratch_positions: Array,
    x: Array,
    w: Array,
    bias: Array,
    groups: int,
    stride: Pair,
    padding: Pair,
    extent: Extent,
    channels: int,
    memory: tuple[int, int, int],
    step: int,
    boxes: Array,
    tasks: Array,
    offsets: Array,
    starts: Array,
    rows: Array,
) -> None:
    """Do tasks; a thread has its row of scratch memory. It turns filters when they are others than its last task's."""
    _, K, OH, OW = out.shape
    C = x.shape[1] // groups
    out_flat, lanes, T = out.reshape(-1), lanes_of(x), len(rows) // channels
    mine, positions = scratch[get_thread_id()], scratch_positions[get_thread_id()]
    block, mine = mine[: memory[0]], mine[memory[0] :]
    panel, sums = mine[: memory[1]], mine[memory[1] :]

    for t in range(first, last):
        task = tasks[t]
        k_first, filters = task.group * (K // groups) + task.k0, task.k1 - task.k0
        vectors = (filters + lanes - 1) // lanes
        if t == first or task.part == 0:
            turn(panel, 0, step, w, k_first * C * T, C * T, filters, C * T)
        for box in boxes[task.first_box : task.last_box]:
            of_groups = find_positions(positions, box, stride, extent, ROW_GROUP)
            pixels = of_groups * ROW_GROUP  # those without meaning included, at the end of each row
            positions[of_groups : of_groups + ROWS // ROW_GROUP] = 0  # the last tile may have more
            for pixel in range(pixels):
                copy_run(sums, pixel * step, bias, k_first, filters)
            for c0 in range(0, C, channels):
                c1 = min(c0 + channels, C)
                of_x = task.group * C + c0, task.group * C + c1
                copy_padded(block, extent, x, box, of_x, stride, padding)
                vector = 0
                while vector < vectors:
                    count = next_vectors(vectors - vector)
                    right = panel[c0 * T * step + vector * lanes :]
                    for pixel in range(0, pixels, ROWS):
                        part_tile(
                            count,
                            (c1 - c0) * T,
                            block, positions[pixel // ROW_GROUP :], stride[1], offsets,
                            right, starts, 0, rows,
                            sums, pixel * step + vector * lanes, step,
                        )  # fmt: skip
                    vector += count

            # A row ends with a whole group, or else the next one does not follow on it.
            runs, run = runs_of(box, OW if OW % ROW_GROUP == 0 else -1)
            run_step = (run + ROW_GROUP - 1) // ROW_GROUP * ROW_GROUP * step
            source = 0
            for n in range(box.n0, box.n1):
                for i in range(box.i0, box.i0 + runs):
                    to = ((n * K + k_first) * OH + i) * OW + box.j0
                    turn(out_flat, to, OH * OW, sums, source, step, run, filters)
                    source += run_step
