"""The convolution and its input gradient on the register tile: a matrix product whose right side is never written out.

Flatten filters and output planes, and a convolution is a matrix product:

    y[k, pixel] = b[k] + Σ_d w[k, d] · columns[d, pixel]            d = (c, r, s)

where columns[d, pixel] is what the pixel meets at tap (r, s) of channel c. The filters lie in memory as such a matrix.
The columns do not, and they would be R·S times as large as the input. So the output is cut into boxes of a few
hundred pixels; for each box, and a few channels at a time, the input under it is copied to a block (see `block`), and

    columns[d, pixel] = block[offset[d] + position[pixel]]

whatever stride and dilation are. The tile reads its vectors of pixels right there, as long as neighbouring pixels
have neighbouring positions. That leaves three ways to make vectors of the pixels of a box, of which `_box` takes
the cheapest:

* every row begins a new vector, and the last vector of a row computes a few pixels too many;
* one row follows on the other with the filter's overhang between them, and the overhang is computed too;
* the pixels are first gathered into a panel, side by side: the only way with a stride, and the best for tiny maps.

The input's gradient is the same once more. An input row h meets the taps r with i·stride = h + padding − r·dilation
for a whole i, and they are the same for all rows of one *phase*, (h + padding) mod stride. So every phase is a
convolution of gy with stride 1, with filters made of the phase's taps, and no zeros are multiplied.

A task's scratch memory is its block (at most BLOCK numbers, or else a single channel's), its panel (BOX_DEPTH rows, or
else a single channel's, of one tile's width) and its sums (BOX_FILTERS by BOX_TILES tile widths): about 1 MB at most,
save for strides and filters of 64 and the like. It does not grow with the image.
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

# A box of at most this many tile widths and this many filters: its sums, its block and its filters fit a
# second-level cache of 512 KB together.
BOX_TILES = 16
BOX_FILTERS = 128
# What a tile adds up in one go: the 256 rows of its right-hand side, 24 KB with AVX2, stay in the first-level cache.
BOX_DEPTH = 256
# Numbers in a block of more than one channel.
BLOCK = 2**17
# Tasks to cut a small output into, so that several threads have work, as long as a box keeps this many of both.
TASKS = 8
FEWEST_TILES = 4
FEWEST_FILTERS = 64

# One row per task: a box of one phase of the output, for some filters of a group.
TASK = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("group", "k0", "k1", "n0", "n1", "i0", "i1", "j0", "j1"),  # firsts and one past lasts, within the phase
            "in_place",  # whether the tile reads the block, or a panel gathered from it
            "row_step",  # columns of the product from a row of the box to the next
            *("first_tap", "last_tap"),  # the phase's rows in the table of taps
            *("top", "left", "overhang_h", "overhang_w"),  # of the taps: the least offset, and the extent beyond it
            *("y_row", "y_column", "step_h", "step_w"),  # where the phase's outputs lie in the whole output
        )
    ]
)


def conv2d_direct(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d` on the register tile."""
    bias = np.zeros(g.K, x.dtype) if b is None else b
    taps, tasks = _forward_plan(g, x.itemsize)
    w_steps = (g.C // g.groups * g.R * g.S, g.R * g.S)
    y = np.empty(g.y_shape, x.dtype)
    _correlate(y, x, w.reshape(-1), w_steps, bias, g.stride, g.groups, taps, tasks)
    return y


def conv2d_grad_input_direct(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input` on the register tile."""
    no_bias = np.zeros(g.C, gy.dtype)
    taps, tasks = _backward_plan(g, gy.itemsize)
    w_steps = (g.R * g.S, g.C // g.groups * g.R * g.S)
    gx = np.empty(g.x_shape, gy.dtype)
    _correlate(gx, gy, w.reshape(-1), w_steps, no_bias, (1, 1), g.groups, taps, tasks)
    return gx


@lru_cache(maxsize=256)
def _forward_plan(g: ConvGeometry, item_bytes: int) -> tuple[Array, Array]:
    """Return the table of taps and the table of tasks for `_correlate`."""
    r, s = np.divmod(np.arange(g.R * g.S), g.S)
    taps = np.stack([r * g.dilation[0] - g.padding[0], s * g.dilation[1] - g.padding[1], r * g.S + s], axis=1)
    size = g.N, g.K // g.groups, g.OH, g.OW
    return taps, _tasks(g.groups, size, taps, g.stride, item_bytes)


@lru_cache(maxsize=256)
def _backward_plan(g: ConvGeometry, item_bytes: int) -> tuple[Array, Array]:
    """Return the table of taps and the table of tasks for `_correlate`, phase after phase."""
    all_taps: list[Array] = []
    all_tasks: list[Array] = []
    first_tap = 0
    for row in range(min(g.stride[0], g.H)):
        for column in range(min(g.stride[1], g.W)):
            taps = _phase_taps(g, row, column)
            rows, columns = -(-(g.H - row) // g.stride[0]), -(-(g.W - column) // g.stride[1])
            tasks = _tasks(g.groups, (g.N, g.C // g.groups, rows, columns), taps, (1, 1), item_bytes)
            tasks["first_tap"] += first_tap
            tasks["last_tap"] += first_tap
            tasks["y_row"], tasks["y_column"] = row, column
            tasks["step_h"], tasks["step_w"] = g.stride
            all_taps.append(taps)
            all_tasks.append(tasks)
            first_tap += len(taps)
    return np.concatenate(all_taps), np.concatenate(all_tasks)


def _phase_taps(g: ConvGeometry, row: int, column: int) -> Array:
    """Return the taps of the phase that begins at input (row, column): the (i, j) it meets there, and r·S + s."""
    r, s = np.divmod(np.arange(g.R * g.S), g.S)
    i, not_i = np.divmod(row + g.padding[0] - r * g.dilation[0], g.stride[0])
    j, not_j = np.divmod(column + g.padding[1] - s * g.dilation[1], g.stride[1])
    return np.stack([i, j, r * g.S + s], axis=1)[(not_i == 0) & (not_j == 0)]


def _tasks(groups: int, size: tuple[int, int, int, int], taps: Array, stride: Pair, item_bytes: int) -> Array:
    """Cut an output of ``size`` (images, filters of a group, rows, columns) into tasks."""
    N, K, OH, OW = size
    least = taps[:, :2].min(axis=0) if len(taps) else np.zeros(2, np.int64)
    overhang = taps[:, :2].max(axis=0) - least if len(taps) else least
    images, rows, columns, in_place, row_step = _box(size, int(overhang[1]), stride, item_bytes)
    boxes = -(-N // images) * -(-OH // rows) * -(-OW // columns)
    filters = min(BOX_FILTERS, max(FEWEST_FILTERS, K * boxes // TASKS))
    starts = [range(groups), range(0, K, filters), range(0, N, images), range(0, OH, rows), range(0, OW, columns)]
    group, k, n, i, j = (axis.reshape(-1) for axis in np.meshgrid(*starts, indexing="ij"))
    tasks = np.zeros(len(group), TASK)
    tasks["group"] = group
    tasks["k0"], tasks["k1"] = k, np.minimum(k + filters, K)
    tasks["n0"], tasks["n1"] = n, np.minimum(n + images, N)
    tasks["i0"], tasks["i1"] = i, np.minimum(i + rows, OH)
    tasks["j0"], tasks["j1"] = j, np.minimum(j + columns, OW)
    tasks["in_place"], tasks["row_step"] = in_place, row_step
    tasks["last_tap"] = len(taps)
    tasks["top"], tasks["left"] = least
    tasks["overhang_h"], tasks["overhang_w"] = overhang
    tasks["step_h"] = tasks["step_w"] = 1
    return tasks


def _box(
    size: tuple[int, int, int, int], overhang: int, stride: Pair, item_bytes: int
) -> tuple[int, int, int, bool, int]:
    """Return the box that takes the least work: images, rows, columns, whether it is read in place, its row step."""
    N, K, OH, OW = size
    lanes = VECTOR_BYTES // item_bytes
    width = VECTORS * lanes
    most = min(BOX_TILES * width, max(FEWEST_TILES * width, N * OH * OW // TASKS))
    columns = -(-OW // -(-OW // most))

    def work(box: tuple[int, int, int, bool, int]) -> float:
        """Columns that the tile computes per pixel; to gather one costs like computing it for width / 1.5 filters."""
        images, rows, columns, in_place, row_step = box
        used = (images * rows - 1) * row_step + columns
        return -(-used // width) * width / (images * rows * columns) * (1 if in_place else 1 + width / (1.5 * K))

    boxes = []
    for rows in {-(-OH // cut) for cut in range(1, OH + 1)}:
        if rows * columns <= most:
            images = max(1, min(N, most // (rows * columns)))
            boxes.append((images, rows, columns, False, columns))
            if stride == (1, 1):
                boxes.append((images, rows, columns, True, -(-columns // lanes) * lanes))
                boxes.append((1, rows, columns, True, columns + overhang))
    return min(boxes, key=work)


@compiled
def _correlate(
    out: Array,
    x: Array,
    w: Array,
    w_steps: Pair,
    b: Array,
    stride: Pair,
    groups: int,
    taps: Array,
    tasks: Array,
) -> None:
    """Correlate, phase by phase::

        out[n, k, i, j] = b[k] + Σ_c Σ_t w[k, c, t] · x[n, c, i·stride + taps[t, 0], j·stride + taps[t, 1]]

    ``w`` is flat, with ``w_steps`` from k to k and from c to c within a group; taps[t, 2] is a tap's place in a filter.
    """
    for t in prange(len(tasks)):
        _run_task(out, x, w, w_steps, b, stride, groups, taps, tasks[t])


@inlined
def _run_task(
    y: Array,
    x: Array,
    w: Array,
    w_steps: Pair,
    b: Array,
    stride: Pair,
    groups: int,
    taps: Array,
    task: Any,
) -> None:
    _, K, OH, OW = y.shape
    y_flat = y.reshape(-1)
    C_per_group, K_per_group = x.shape[1] // groups, K // groups
    lanes = VECTOR_BYTES // x.itemsize
    width = VECTORS * lanes
    T = task.last_tap - task.first_tap
    images, rows, columns = task.n1 - task.n0, task.i1 - task.i0, task.j1 - task.j0
    filters = task.k1 - task.k0
    k_first = task.group * K_per_group + task.k0

    # The block: as many channels as give a tile its depth. The last tile may read past the last position.
    BH = (rows - 1) * stride[0] + task.overhang_h + 1
    BW = (columns - 1) * stride[1] + task.overhang_w + 1
    plane = images * BH * BW
    channels = max(1, min(C_per_group, BOX_DEPTH // max(T, 1), BLOCK // plane))
    block = np.empty(channels * plane + width, x.dtype)
    fill(block, channels * plane, 1, width, 0)
    position = positions(images, rows, columns, BH, BW, stride, width)

    # The product's d = (c, t), and where its filters, its right-hand rows in the block and those in a panel lie.
    depth = channels * T
    w_offset, offset = np.empty(depth, np.int64), np.empty(depth, np.int64)
    panel_offset = np.empty(depth, np.int64)
    for c in range(channels):
        for t in range(T):
            tap = task.first_tap + t
            d = c * T + t
            w_offset[d] = c * w_steps[1] + taps[tap, 2]
            offset[d] = c * plane + (taps[tap, 0] - task.top) * BW + taps[tap, 1] - task.left
            panel_offset[d] = d * width
    panel = np.empty(1 if task.in_place else depth * width, x.dtype)

    # Columns of the product, and where in the block the vectors of them begin.
    tiles = ((images * rows - 1) * task.row_step + columns + width - 1) // width
    span = tiles * width
    starts = np.zeros(tiles * VECTORS, np.int64)
    if task.in_place:
        for v in range(((images * rows - 1) * task.row_step + columns + lanes - 1) // lanes):
            row, column = v * lanes // task.row_step, v * lanes % task.row_step
            starts[v] = position[row * columns] + column
    else:
        for v in range(VECTORS):
            starts[v] = v * lanes
    sums = np.empty((filters + ROWS - 1) // ROWS * ROWS * span, x.dtype)
    for k in range(filters):
        fill(sums, k * span, 1, span, b[k_first + k])

    top, left = task.i0 * stride[0] + task.top, task.j0 * stride[1] + task.left
    w_first = task.group * (len(w) // groups)
    for c0 in range(0, C_per_group if T > 0 else 0, channels):
        c1 = min(c0 + channels, C_per_group)
        of_x = (task.group * C_per_group + c0, task.group * C_per_group + c1)
        copy_block(block, plane, 1, BH, BW, x, (task.n0, task.n1), of_x, top, left)
        depth = (c1 - c0) * T
        for v in range(tiles):
            if task.in_place:
                right, first_start, right_offset = block, v * VECTORS, offset
            else:
                _gather(panel, width, block, offset, depth, position, v * width)
                right, first_start, right_offset = panel, 0, panel_offset
            for m in range(0, filters, ROWS):
                a_first = w_first + (task.k0 + m) * w_steps[0] + c0 * w_steps[1]
                c_first = m * span + v * width
                tile(
                    *(depth, filters - m),
                    *(w, a_first, w_steps[0], w_offset),
                    *(right, starts, first_start, right_offset),
                    *(sums, c_first, span),
                )

    for k in range(filters):
        source = k * span
        for n in range(task.n0, task.n1):
            for i in range(task.i0, task.i1):
                y_row = ((n * K + k_first + k) * OH + task.y_row + i * task.step_h) * OW
                y_first = y_row + task.y_column + task.j0 * task.step_w
                copy_run(y_flat, y_first, task.step_w, sums, source, columns)
                source += task.row_step


@inlined
def _gather(panel: Array, width: int, block: Array, offset: Array, depth: int, position: Array, first: int) -> None:
    """panel[d, v] = block[offset[d] + position[first + v]] for d < depth, v < width; indices as in `copy_run`."""
    to = np.uint64(0)
    for d in range(np.uint64(depth)):
        for v in range(np.uint64(width)):
            panel[to] = block[np.uint64(offset[d] + position[np.uint64(first) + v])]
            to += np.uint64(1)
