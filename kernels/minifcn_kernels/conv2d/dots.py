"""The weight gradient of few filters or channels: dot products on the register tile.

    gw[k, d] = Σ_pixel gy[k, pixel] · block[position[pixel] + offset[d]]            d = (c, r, s)

In `grad_weight` filters lie along the vectors, and channels are rows. Where there are not enough of them, the pixels
can do it, as there are always many of those. But pixels are what is summed over. So the tile is the other one,
`dot_tile`, which multiplies vectors by vectors and adds up the lanes at the end. Boxes, blocks and panels are as in
`direct` (see `block`). gy is copied to a panel of rows cut into the same vectors, and where such a vector holds more
than the pixels of its row, gy is zero. (Zero times infinity is NaN: an infinity in x may show up as NaN also in a
weight whose tap just misses it.)

The sum over all pixels may be long (half a million terms for the first layers of an FCN), and one thread would do all
of it. So the boxes of pixels are cut into parts, each part is summed for itself, and the partial sums are added in the
order of the parts. The cut depends on the geometry alone, so the result has the same bits for any number of threads.

A thread's scratch memory is its part of gy (BOX_FILTERS by BOX_VECTORS vectors), its block or panel (BLOCK_BYTES, or
else a single channel's) and its sums (BOX_FILTERS by BOX_WEIGHTS): about 0.5 MB, save for filters of 64 and the like.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import (
    PART,
    Reach,
    choose_box,
    copy_block,
    copy_run,
    cut_boxes,
    cut_pieces,
    fill,
    gather,
    list_boxes,
    prefetch_run,
    split_taps,
    tap_offsets,
    vector_positions,
)
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.jit import Array, compiled
from minifcn_kernels.memory import empty, scratch_memory, whole_lines
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTOR_BYTES, VECTORS, dot_tile, lanes_of

# Vectors of pixels to a box. Adding up a tile's lanes takes as long as so many of them; and what ROWS filters meet
# in a box, 8 KB with AVX2, stays in the first-level cache together with a block of this size.
LANES_ADDED = 8
BOX_VECTORS = 64
BLOCK_BYTES = 2**14
# Filters to a task, and weights of each: what is copied of gy and x serves that many sums.
BOX_FILTERS = 128
BOX_WEIGHTS = 576
# Tasks to aim for where the weights are few: enough to keep several threads evenly busy.
TASKS = 16

# Some filters and channels of a group, and some boxes, whose sums make a part of these weights.
TASK = np.dtype([(name, np.int64) for name in (*PART, "group", "k0", "k1", "c0", "c1")])


class Plan(NamedTuple):
    """How the sums are cut, and where a tile finds what it reads."""

    parts: int
    box: tuple[int, int, int, int, int]  # a `BoxSize`
    reach: Reach
    channels: int  # of a block
    memory: tuple[int, ...]  # a thread's: numbers in its block, panel, left side and sums
    taps: int
    phases: Array
    boxes: Array
    tasks: Array
    offsets: Array  # (channel, tap) in the block, from a pixel's position on
    starts: Array  # (channel, tap) in the block or the panel, up to a tile's multiple of them
    positions: Array  # vectors of pixels there
    froms: Array  # the pieces of which panels are made
    tos: Array


def conv2d_grad_weight_dots(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` as dot products."""
    plan = _plan(g, x.itemsize)
    partial = empty((plan.parts, *g.w_shape), x.dtype)
    (scratch,) = scratch_memory(x.dtype, (get_num_threads(), sum(plan.memory)))
    _grad_weight.over(len(plan.tasks), partial, scratch, x, gy, g.stride, *plan[1:])
    return partial[0] if plan.parts == 1 else partial.sum(axis=0)


@lru_cache(maxsize=256)
def _plan(g: ConvGeometry, item_bytes: int) -> Plan:
    r, s = np.divmod(np.arange(g.R * g.S), g.S)
    taps, phases = split_taps(r * g.dilation[0] - g.padding[0], s * g.dilation[1] - g.padding[1], g.stride)
    (top, left), (bottom, right) = taps[:, :2].min(axis=0).tolist(), taps[:, :2].max(axis=0).tolist()
    reach = top, left, bottom - top, right - left

    K, C = g.K // g.groups, g.C // g.groups
    lanes = VECTOR_BYTES // item_bytes
    size = g.N, K, g.OH, g.OW
    planes = len(phases) / len(taps)
    box = choose_box(size, min(K, BOX_FILTERS), BOX_VECTORS * lanes, reach[2:], planes, lanes, 1, LANES_ADDED)
    boxes = list_boxes(size, box[:3])

    in_task = max(1, BOX_WEIGHTS // len(taps))
    blocks = [
        (group, k, min(k + BOX_FILTERS, K), c, min(c + in_task, C))
        for group in range(g.groups)
        for k in range(0, K, BOX_FILTERS)
        for c in range(0, C, in_task)
    ]
    parts, tasks = cut_boxes(blocks, len(boxes), TASKS)

    plane = box.images * (box.rows + reach[2]) * (box.columns + reach[3])
    channels = max(1, min(in_task, C, BLOCK_BYTES // (len(phases) * plane * item_bytes)))
    vectors = -(-((box.images * box.rows - 1) * box.row_step + box.columns) // lanes)
    offsets = tap_offsets(taps, channels, len(phases), box, reach)
    starts = np.zeros(-(-len(offsets) // VECTORS) * VECTORS, np.int64)
    left_rows = -(-min(K, BOX_FILTERS) // ROWS) * ROWS
    starts[: len(offsets)] = offsets if box.in_place else np.arange(len(offsets)) * vectors * lanes
    return Plan(
        parts,
        (int(box.images), int(box.rows), int(box.columns), int(box.in_place), int(box.row_step)),
        reach,
        channels,
        whole_lines(
            item_bytes,
            channels * len(phases) * plane + lanes,  # the last vector may read past the end
            0 if box.in_place else len(offsets) * vectors * lanes + lanes,
            left_rows * vectors * lanes,
            left_rows * -(-min(in_task, C) // channels) * len(starts) + 1,  # see `dot_tile`
        ),
        len(taps),
        phases,
        boxes,
        np.array(tasks, TASK),
        offsets,
        starts,
        vector_positions(box, reach, lanes) if box.in_place else np.arange(vectors) * lanes,
        *cut_pieces(box, reach, lanes, box.images * box.rows * box.columns, 0),
    )


@compiled
def _grad_weight(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    x: Array,
    gy: Array,
    stride: Pair,
    box_size: tuple[int, int, int, int, int],
    reach: Reach,
    channels: int,
    memory: tuple[int, int, int, int],
    T: int,
    phases: Array,
    boxes: Array,
    tasks: Array,
    offsets: Array,
    starts: Array,
    positions: Array,
    froms: Array,
    tos: Array,
) -> None:
    """Sum each part's boxes into its own weights, out[part]; ``scratch`` has a row for each thread."""
    _, K, C_per_group, _, _ = out.shape
    C = x.shape[1]
    _, _, OH, OW = gy.shape
    lanes = lanes_of(x)
    images, rows, columns, in_place, row_step = box_size
    top, left, overhang_h, overhang_w = reach
    gy_flat = gy.reshape(-1)

    # The right side is the block, or a panel of vectors gathered from it. What a vector reads past the end meets zeros
    # of the left side, but must be no infinity or NaN.
    mine = scratch[get_thread_id()]
    block, mine = mine[: memory[0]], mine[memory[0] :]
    panel, mine = mine[: memory[1]], mine[memory[1] :]
    all_left, all_sums = mine[: memory[2]], mine[memory[2] :]
    fill(block, 0, len(block), 0)
    fill(panel, 0, len(panel), 0)
    vectors = len(positions)
    span = vectors * lanes
    BH, BW = rows + overhang_h, columns + overhang_w
    plane = images * BH * BW

    for task in tasks[first:last]:
        k_first = task.group * (K // (C // C_per_group)) + task.k0
        c_first = task.group * C_per_group
        filters = task.k1 - task.k0
        filter_tiles = (filters + ROWS - 1) // ROWS
        gw_flat = out[task.part].reshape(-1)

        # A chunk of channels has its own columns here, since its last tile may add a few sums without meaning.
        sums_step = (task.c1 - task.c0 + channels - 1) // channels * len(starts)
        sums, left_side = all_sums[: filter_tiles * ROWS * sums_step], all_left[: filter_tiles * ROWS * span]
        fill(sums, 0, len(sums), 0)
        fill(left_side, 0, len(left_side), 0)
        for box in boxes[task.first_box : task.last_box]:
            if (box.n1 - box.n0, box.i1 - box.i0, box.j1 - box.j0) != (images, rows, columns):
                fill(left_side, 0, len(left_side), 0)
            for k in range(filters):
                for n in range(box.n0, box.n1):
                    for i in range(box.i0, box.i1):
                        to = k * span + ((n - box.n0) * rows + i - box.i0) * row_step
                        source = ((n * K + k_first + k) * OH + i) * OW + box.j0
                        prefetch_run(gy_flat, source + OH * OW, box.j1 - box.j0)
                        copy_run(left_side, to, gy_flat, source, box.j1 - box.j0)
            for c0 in range(task.c0, task.c1, channels):
                c1 = min(c0 + channels, task.c1)
                depth = (c1 - c0) * T
                sums_first = (c0 - task.c0) // channels * len(starts)
                right = block if in_place else panel
                of_x, top_left = (c_first + c0, c_first + c1), (box.i0 + top, box.j0 + left)
                if box.n1 - box.n0 < images or c1 - c0 < channels:
                    fill(block, 0, len(block), 0)  # what is left there may be infinite
                copy_block(block, plane, BH, BW, x, (box.n0, box.n1), of_x, top_left, stride, phases)
                if not in_place:
                    gather(panel, span, block, offsets, depth, froms, tos)
                for m in range(0, filters, ROWS):
                    for d in range(0, depth, VECTORS):
                        dot_tile(
                            vectors,
                            left_side, m * span, span,
                            right, starts, d, positions,
                            sums, m * sums_step + sums_first + d, sums_step,
                        )  # fmt: skip

        # Chunks without such sums lie side by side.
        at_once = task.c1 - task.c0 if len(starts) == channels * T else channels
        for k in range(filters):
            for c0 in range(task.c0, task.c1, at_once):
                to = ((k_first + k) * C_per_group + c0) * T
                source = k * sums_step + (c0 - task.c0) // channels * len(starts)
                copy_run(gw_flat, to, sums, source, (min(c0 + at_once, task.c1) - c0) * T)
