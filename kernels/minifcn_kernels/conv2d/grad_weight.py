"""The weight gradient on the register tile: a matrix product that sums over pixels.

    gw[k, c, tap] = Σ_pixel  x[c, position[pixel] + offset[tap]] · gy[k, pixel]

with the padded input, in which output pixel (n, i, j) has the position of its first tap, (n, i·stride, j·stride), and
every tap an offset from there. Channels are the rows of the tile: it reads single numbers of x, so these may lie as far
apart as stride and dilation please. Filters are its columns, and pixels what is summed over; so gy, of which it reads
vectors, is turned first:

    panel[pixel, k] = gy[k, pixel]

The output is cut into boxes of a few hundred pixels. For each box, gy is turned to a panel, and the input under it is
copied to a block, some channels at a time, with zeros where the padding is. Both serve all the sums of a task. (Where
filters or channels are few, tiles would be filled with little: see `dots`.)

The sum over all pixels may be long (half a million terms for the first layers of an FCN), and one thread would do all
of it. So the boxes of pixels are cut into parts, each part is summed for itself, and the partial sums are added in the
order of the parts. The cut depends on the geometry alone, so the result has the same bits for any number of threads.

A thread's scratch memory is its panel (BOX_PIXELS by BOX_FILTERS), its block (BLOCK_BYTES, or else ROWS channels) and
its sums (BOX_WEIGHTS by BOX_FILTERS, or else ROWS channels): about 0.7 MB, save for filters of 64 and the like.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import PART, cut_boxes, list_boxes, turn
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
from minifcn_kernels.tile import ROWS, VECTOR_BYTES, VECTORS, lanes_of, next_vectors, part_tile

# Pixels that a tile adds up in one go, about: see `direct` for the length of a sum. A box has several times as many, so
# that rows of the input which its neighbours share are not copied too often.
DEPTH = 96
BOX_PIXELS = 512
# Filters to a task, and weights of each: what is copied of gy and x serves that many sums.
BOX_FILTERS = 128
BOX_WEIGHTS = 576
BLOCK_BYTES = 2**16
# Tasks to aim for where the weights are few: enough to keep several threads evenly busy.
TASKS = 8

# Some filters and channels of a group, and some boxes, whose sums make a part of these weights.
TASK = np.dtype([(name, np.int64) for name in (*PART, "group", "k0", "k1", "c0", "c1")])


class Plan(NamedTuple):
    """How the sums are cut, and where a tile finds what it reads."""

    parts: int
    extent: Extent
    channels: int  # of a block, a multiple of ROWS
    memory: tuple[int, ...]  # a thread's: numbers in its block, panel and sums
    step: int  # from row to row of panel and sums
    boxes: Array
    tasks: Array
    taps: Array  # offsets in a block
    starts: Array  # of a tile's vectors
    rows: Array  # of the panel, one for each pixel


def conv2d_grad_weight_direct(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` on the register tile."""
    if x.size == 0 or gy.size == 0:
        return np.zeros(g.w_shape, x.dtype)
    plan = _plan(g, x.itemsize)
    partial = empty((plan.parts, *g.w_shape), x.dtype)
    (scratch,) = scratch_memory(x.dtype, (get_num_threads(), sum(plan.memory)))
    (scratch_positions,) = scratch_memory(np.int64, (get_num_threads(), BOX_PIXELS))
    operands = x, gy, np.zeros(ROWS, x.dtype), g.stride, g.padding
    _grad_weight.over(len(plan.tasks), partial, scratch, scratch_positions, *operands, *plan[1:])
    return partial[0] if plan.parts == 1 else partial.sum(axis=0)


@lru_cache(maxsize=256)
def _plan(g: ConvGeometry, item_bytes: int) -> Plan:
    K, C, T = g.K // g.groups, g.C // g.groups, g.R * g.S
    lanes = VECTOR_BYTES // item_bytes
    filters = min(cut_evenly(K, BOX_FILTERS, lanes), K)
    in_task = min(cut_evenly(C, max(ROWS, BOX_WEIGHTS // T), ROWS), C)

    size, pixels = (g.N, K, g.OH, g.OW), BOX_PIXELS
    of_box = g.groups * -(-K // filters) * -(-C // in_task)
    while pixels >= 2 * DEPTH and of_box * len(list_boxes(size, even_box(g, pixels))) < TASKS:
        pixels //= 2
    box = even_box(g, pixels)
    boxes = list_boxes(size, box)
    blocks = [
        (group, k, min(k + filters, K), c, min(c + in_task, C))
        for group in range(g.groups)
        for k in range(0, K, filters)
        for c in range(0, C, in_task)
    ]
    parts, tasks = cut_boxes(blocks, len(boxes), TASKS)

    extent = extent_of(g, box)
    plane = extent[2]
    channels = cut_evenly(in_task, max(ROWS, BLOCK_BYTES // (plane * item_bytes)), ROWS)
    step = odd_lines(item_bytes, filters)
    return Plan(
        parts,
        extent,
        channels,
        whole_lines(
            item_bytes,
            channels * plane + lanes,  # what is copied last may end with a whole vector
            math.prod(box) * step,
            -(-in_task // ROWS) * ROWS * T * step,
        ),
        step,
        boxes,
        np.array(tasks, TASK),
        offsets_of_taps(g, extent),
        np.arange(VECTORS) * lanes,
        np.arange(math.prod(box)) * step,
    )


@compiled
def _grad_weight(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    scratch_positions: Array,
    x: Array,
    gy: Array,
    zeros: Array,
    stride: Pair,
    padding: Pair,
    extent: Extent,
    channels: int,
    memory: tuple[int, int, int],
    step: int,
    boxes: Array,
    tasks: Array,
    taps: Array,
    starts: Array,
    rows: Array,
) -> None:
    """Sum each part's boxes into its own weights, out[part]; scratch memory has a row for each thread."""
    _, K, C_per_group, _, _ = out.shape
    C, OH, OW, gy_flat = x.shape[1], gy.shape[2], gy.shape[3], gy.reshape(-1)
    T, lanes = len(taps), lanes_of(x)
    mine, positions = scratch[get_thread_id()], scratch_positions[get_thread_id()]
    block, mine = mine[: memory[0]], mine[memory[0] :]
    panel, sums = mine[: memory[1]], mine[memory[1] :]

    for task in tasks[first:last]:
        k_first = task.group * (K // (C // C_per_group)) + task.k0
        filters = task.k1 - task.k0
        vectors = (filters + lanes - 1) // lanes
        for box_number in range(task.first_box, task.last_box):
            box = boxes[box_number]
            pixels = find_positions(positions, box, stride, extent, 1)
            runs, run = runs_of(box, OW)
            to = 0
            for n in range(box.n0, box.n1):
                for i in range(box.i0, box.i0 + runs):
                    source = ((n * K + k_first) * OH + i) * OW + box.j0
                    turn(panel, to, step, gy_flat, source, OH * OW, filters, run)
                    to += run * step
            pieces = max(1, (pixels + DEPTH // 2) // DEPTH)
            for c0 in range(task.c0, task.c1, channels):
                c1 = min(c0 + channels, task.c1)
                of_x = task.group * C_per_group + c0, task.group * C_per_group + c1
                copy_padded(block, extent, x, box, of_x, stride, padding)
                for piece in range(pieces):
                    begin, end = pixels * piece // pieces, pixels * (piece + 1) // pieces
                    fresh = box_number == task.first_box and piece == 0
                    right = panel[begin * step :]
                    vector = 0
                    while vector < vectors:
                        count = next_vectors(vectors - vector)
                        for c in range(0, c1 - c0, ROWS):
                            for t in range(T):
                                to = ((c0 - task.c0 + c) * T + t) * step + vector * lanes
                                part_tile(
                                    count,
                                    end - begin,
                                    block, c * extent[2] + taps[t], extent[2], positions[begin:],
                                    right[vector * lanes :], starts, 0, rows,
                                    sums, to, T * step,
                                    fresh, zeros, 0,
                                )  # fmt: skip
                        vector += count
        to = (k_first * C_per_group + task.c0) * T
        turn(out[task.part].reshape(-1), to, C_per_group * T, sums, 0, step, (task.c1 - task.c0) * T, filters)
