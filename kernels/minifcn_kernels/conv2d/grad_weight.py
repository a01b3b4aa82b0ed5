"""The weight gradient on the register tile: a matrix product that sums over pixels.

    gw[k, (r, s, c)] = Σ_pixel gy[k, pixel] · block[(position[pixel] + offset[r, s]) · channels + c]

The block (see `block`) has the channels innermost, so that for one pixel and one filter row the numbers of all (s, c)
lie side by side: they are the columns of the tile, and filters its rows. With a dilation along the row only the
channels of one tap are neighbours, and each tap makes a run of columns of its own.

The sum over all pixels may be long (half a million terms for the first layers of an FCN), and one thread would do all
of it. So the boxes of pixels are cut into parts, each part is summed for itself, and the partial sums are added in the
order of the parts. The cut depends on the geometry alone, so the result has the same bits for any number of threads.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import prange

from minifcn_kernels.conv2d.block import copy_block, copy_run, fill, positions
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTOR_BYTES, VECTORS, tile

# Pixels to a box: the rows that a tile reads for them (a tile's width each, 128 times) stay in the first-level cache.
BOX_PIXELS = 128
BOX_FILTERS = 64
# Channels to a block, in tile widths.
BOX_CHANNELS = 3
# Tasks to aim for where the weights are few: enough to keep several threads evenly busy. Scratch memory is at most
# this many times a block of BOX_FILTERS filters by BOX_CHANNELS tile widths.
TASKS = 16

# Firsts and one past lasts of a box's images, rows and columns.
BOX = np.dtype([(name, np.int64) for name in ("n0", "n1", "i0", "i1", "j0", "j1")])
# A part with its boxes, and the filters and channels of a group for which they are summed.
TASK = np.dtype([(name, np.int64) for name in ("part", "box0", "box1", "group", "k0", "k1", "c0", "c1")])


def conv2d_grad_weight_direct(x: Array, gy: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_weight` on the register tile."""
    boxes, tasks, parts = _plan(g, x.itemsize)
    partial = np.empty((parts, *g.w_shape), x.dtype)
    _grad_weight(partial, x, gy, g.stride, g.padding, g.dilation, boxes, tasks)
    return partial[0] if parts == 1 else partial.sum(axis=0)


@lru_cache(maxsize=256)
def _plan(g: ConvGeometry, item_bytes: int) -> tuple[Array, Array, int]:
    """Return the table of boxes, the table of tasks, and the number of parts."""
    columns = -(-g.OW // -(-g.OW // BOX_PIXELS))
    rows = min(g.OH, max(1, BOX_PIXELS // columns))
    rows = -(-g.OH // -(-g.OH // rows))
    images = max(1, min(g.N, BOX_PIXELS // (rows * columns)))
    boxes = [
        (n, min(n + images, g.N), i, min(i + rows, g.OH), j, min(j + columns, g.OW))
        for n in range(0, g.N, images)
        for i in range(0, g.OH, rows)
        for j in range(0, g.OW, columns)
    ]
    K, C = g.K // g.groups, g.C // g.groups
    channels = BOX_CHANNELS * VECTORS * VECTOR_BYTES // item_bytes
    blocks = [
        (group, k, min(k + BOX_FILTERS, K), c, min(c + channels, C))
        for group in range(g.groups)
        for k in range(0, K, BOX_FILTERS)
        for c in range(0, C, channels)
    ]
    parts = max(1, min(-(-TASKS // len(blocks)), len(boxes)))
    cuts = [part * len(boxes) // parts for part in range(parts + 1)]
    tasks = [(part, cuts[part], cuts[part + 1], *block) for part in range(parts) for block in blocks]
    return np.array(boxes, BOX), np.array(tasks, TASK), parts


@compiled
def _grad_weight(
    out: Array,
    x: Array,
    gy: Array,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    boxes: Array,
    tasks: Array,
) -> None:
    """Sum each part's boxes into its own weights, out[part]."""
    for t in prange(len(tasks)):
        task = tasks[t]
        _run_task(out[task.part], x, gy, stride, padding, dilation, boxes[task.box0 : task.box1], task)


@inlined
def _run_task(
    gw: Array,
    x: Array,
    gy: Array,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    boxes: Array,
    task: Any,
) -> None:
    """Sum over ``boxes`` for some filters and channels of a group, into their weights in ``gw``."""
    K, C_per_group, R, S = gw.shape
    C = x.shape[1]
    _, _, OH, OW = gy.shape
    lanes = VECTOR_BYTES // x.itemsize
    k_first = task.group * (K // (C // C_per_group)) + task.k0
    channels, filters = task.c1 - task.c0, task.k1 - task.k0
    of_x = (task.group * C_per_group + task.c0, task.group * C_per_group + task.c1)
    gy_flat, gw_flat = gy.reshape(-1), gw.reshape(-1)

    # Columns of the product come in runs of neighbours in the block: all (s, c) of a filter row, or the c of a tap.
    taps_per_run = S if dilation[1] == 1 else 1
    runs = R * S // taps_per_run
    run_vectors = (taps_per_run * channels + lanes - 1) // lanes
    tiles = (runs * run_vectors + VECTORS - 1) // VECTORS
    span = tiles * VECTORS * lanes
    starts = np.zeros(tiles * VECTORS, np.int64)
    sums = np.zeros((filters + ROWS - 1) // ROWS * ROWS * span, x.dtype)

    for box in boxes:
        images, rows, columns = box.n1 - box.n0, box.i1 - box.i0, box.j1 - box.j0
        depth = images * rows * columns
        BH = (rows - 1) * stride[0] + (R - 1) * dilation[0] + 1
        BW = (columns - 1) * stride[1] + (S - 1) * dilation[1] + 1
        block = np.empty(images * BH * BW * channels + lanes, x.dtype)  # the last vector may read past the end
        fill(block, images * BH * BW * channels, 1, lanes, 0)
        top, left = box.i0 * stride[0] - padding[0], box.j0 * stride[1] - padding[1]
        copy_block(block, 1, channels, BH, BW, x, (box.n0, box.n1), of_x, top, left)
        offset = positions(images, rows, columns, BH, BW, stride, 0) * channels

        pixel = np.arange(depth)
        left_side = np.empty(filters * depth, x.dtype)
        to = 0
        for k in range(k_first, k_first + filters):
            for n in range(box.n0, box.n1):
                for i in range(box.i0, box.i1):
                    copy_run(left_side, to, 1, gy_flat, ((n * K + k) * OH + i) * OW + box.j0, columns)
                    to += columns

        for run in range(runs):
            r, s = run * taps_per_run // S, run * taps_per_run % S
            for v in range(run_vectors):
                starts[run * run_vectors + v] = (r * dilation[0] * BW + s * dilation[1]) * channels + v * lanes
        for v in range(tiles):
            for m in range(0, filters, ROWS):
                tile(
                    *(depth, filters - m),
                    *(left_side, m * depth, depth, pixel),
                    *(block, starts, v * VECTORS, offset),
                    *(sums, m * span + v * VECTORS * lanes, span),
                )

    for k in range(filters):
        for run in range(runs):
            for s in range(taps_per_run):
                tap = run * taps_per_run + s
                source = k * span + run * run_vectors * lanes + s * channels
                to = ((k_first + k) * C_per_group + task.c0) * R * S + tap
                copy_run(gw_flat, to, R * S, sums, source, channels)
