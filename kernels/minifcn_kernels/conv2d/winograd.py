"""The convolution with a fraction of its multiplications: Winograd's F(4×4, 3×3), forward and input gradient.

`winograd_transforms` has the algebra: a tile of 4×4 outputs takes one product at each of 36 points, for each filter and
channel, in place of 144. The sum over channels may be taken before the way back from points to outputs,

    M[point, k, tile] = Σ_v U[point, k, v] · V[point, v, tile]        Y = Aᵀ M A + b

and that is 36 matrix products, for the register tile. The channels v are virtual ones: a larger filter and a stride
make several of each channel, see `winograd_tiles`. What the products save has to pay for three transforms: of the data
(once for all filters), of the filters (once for all tiles), and back (once for all channels). So it pays where there
are many of each; `choose` says from when on. The bias costs nothing: the column of Aᵀ for the point 1 is all ones, so b
added to M at the point (1, 1) comes back as b in each of the 16 outputs.

A transform makes 36 numbers of 16, which is of use only if they stay in a cache. So a task takes the tiles box by box:
it transforms all channels under a box, then goes through the filters, a few lots at a time; for these it multiplies
point by point, and goes back to outputs.

The gradient of the input is a convolution as well, if there is no stride: of gy, padded by dilation·(R − 1) − padding,
with the filters turned by 180° and input and output channels exchanged. With a stride, every phase of the input has
taps of its own, and each would transform all of gy for itself: that is left to `direct`.

**Error.** Let u = 2⁻²⁴, float32's unit roundoff, γ(n) = n·u/(1 − n·u), and |·| the absolute values of a matrix. Then,
with C virtual channels,

    |error of Y| ≤ γ(28 + C) · ( |Aᵀ| [Σ_v (|G| |W| |Gᵀ|) ⊙ (|Bᵀ| |D| |B|)] |A| + |b| )

for what is summed passes at most 28 + C roundings (Higham, "Accuracy and Stability of Numerical Algorithms", §3.1): 4
in each of the two products with Bᵀ, 4 with G (its entries are rounded, too) and 5 with Aᵀ; C in the sum over channels,
where products and additions are fused; one for the bias, and one to spare. What costs accuracy are the magnitudes: a
row of |Bᵀ| adds up to 10, one of |Aᵀ| to 19, where a direct sum has plain Σ|W||D|. In practice the error is about ten
times that of the direct sum: 10⁻⁶ to 10⁻⁵ of the largest output.

A thread's scratch memory is 0.9 MB for every 64 virtual channels, and 2.1 MB; it does not grow with the image. With
many boxes, all filters are transformed beforehand, which takes 36 numbers for each origin of theirs, 304 MB at most.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import copy_strided
from minifcn_kernels.conv2d.contract import ConvGeometry, backwards
from minifcn_kernels.conv2d.vectors import LANES, collect
from minifcn_kernels.conv2d.winograd_tiles import (
    CHANNELS,
    PLANE,
    POSITIONS,
    ROW,
    SKEW,
    V_BLOCK,
    V_PANEL,
    V_STEP,
    WIDTH,
    WORKSPACE,
    cut_into_boxes,
    input_rows,
    lay_out,
    output_rows,
    panels_of,
    tile_rows,
    transform_data,
)
from minifcn_kernels.conv2d.winograd_transforms import POINTS, REACH, TAPS, TILE, points_to_outputs, taps_to_points
from minifcn_kernels.jit import Array, compiled, inlined, scratch_memory
from minifcn_kernels.tile import ROWS, VECTORS, move_vector, tile

# Filters in a lot, whose transforms lie together with those of `CHANNELS` virtual channels (297 KB, which a
# second-level cache of 512 KB keeps if they are made for one box only); and lots whose sums are made together.
FILTERS = 32
LOTS = 4
U_STEP = FILTERS * CHANNELS + SKEW  # from point to point
U_BLOCK = POINTS * U_STEP
M_STEP = LOTS * FILTERS * WIDTH + SKEW
M_PANEL = POINTS * M_STEP
M_BLOCK = POSITIONS // WIDTH * M_PANEL
BIAS_POINT = REACH + 1  # the point (1, 1)
# Numbers that a second-level cache of 512 KB can keep, and leave room for the filters that pass by.
CACHE = 112 * 1024
# Tasks to cut the work into. Where boxes do not make so many, the filters are cut as well, but no finer than this: each
# task transforms the data for itself. And if even so there are less than a few, the boxes are made smaller.
TASKS = 16
FEWEST_FILTERS = 128
FEW_TASKS = 4
# With more boxes than this, filters are transformed once and kept. Below, every task transforms what it needs, when it
# needs it: to write and read all would take longer.
FEW_BOXES = 4
MOST_BLOCKS = 1024  # 304 MB

# A task's boxes, and its lots of filters in a group.
TASK = np.dtype([(name, np.int64) for name in ("box0", "box1", "group", "lot0", "lot1")])


def conv2d_winograd(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d` by F(4×4, 3×3)."""
    return _convolve(x, w, np.zeros(g.K, x.dtype) if b is None else b, g, False)


def conv2d_grad_input_winograd(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input` by F(4×4, 3×3), for a stride of 1."""
    return _convolve(gy, w, np.zeros(g.C, gy.dtype), backwards(g), True)


def _convolve(x: Array, w: Array, b: Array, g: ConvGeometry, transposed: bool) -> Array:
    """Convolve with ``w``; if ``transposed``, with ``w`` turned by 180° and its channels exchanged."""
    grid, origins = lay_out(g)
    boxes, tasks = _plan(*tile_rows(g.N, grid), len(origins) * g.C // g.groups, g.K // g.groups, g.groups)
    lots, v_lots = -(-g.K // g.groups // FILTERS), -(-len(origins) * g.C // g.groups // CHANNELS)
    blocks = g.groups * lots * v_lots
    if len(boxes) <= FEW_BOXES or blocks > MOST_BLOCKS:
        blocks = 0
    U = np.empty((blocks, U_BLOCK), x.dtype)
    if blocks:
        _transform_filters.over(blocks, U, w, grid, origins, g.groups, transposed)
    y = np.empty(g.y_shape, x.dtype)
    b = np.concatenate([b, np.zeros(ROWS, b.dtype)])  # the last tile may have rows beyond the last filter
    threads = get_num_threads()
    (scratch,) = scratch_memory((threads, WORKSPACE + U_BLOCK + M_BLOCK + v_lots * V_BLOCK))
    _winograd.over(len(tasks), y, scratch, x, w, U, b, grid, origins, g.groups, transposed, boxes, tasks)
    return y


@lru_cache(maxsize=256)
def _plan(R: int, TW: int, depth: int, K: int, groups: int) -> tuple[Array, Array]:
    """Return the table of boxes and the table of tasks, for K filters in a group and R rows of TW tiles."""
    lots, splits = -(-K // FILTERS), -(-K // FEWEST_FILTERS)
    panels = CACHE // (POINTS * WIDTH * (depth + min(K, LOTS * FILTERS)))
    most = min(POSITIONS, panels * WIDTH) if panels else POSITIONS
    boxes = cut_into_boxes(R, TW, max(WIDTH, min(most, R * TW * splits * groups // FEW_TASKS)))
    parts = min(len(boxes), TASKS)
    if parts * groups >= TASKS:
        splits = 1
    starts = [range(groups), range(parts), range(splits)]
    group, part, split = (axis.reshape(-1) for axis in np.meshgrid(*starts, indexing="ij"))
    tasks = np.zeros(len(group), TASK)
    tasks["group"] = group
    if parts:
        tasks["box0"], tasks["box1"] = part * len(boxes) // parts, (part + 1) * len(boxes) // parts
    tasks["lot0"], tasks["lot1"] = split * lots // splits, (split + 1) * lots // splits
    return boxes, tasks


@compiled
def _transform_filters(
    first: int, last: int, out: Array, w: Array, grid: Array, origins: Array, groups: int, transposed: bool
) -> None:
    """out[block] = `_transform_block` of every block: of every group, lot of filters, and lot of channels."""
    blocks_per_group = len(out) // groups
    depth = len(origins) * (w.shape[0] // groups if transposed else w.shape[1])
    v_lots = (depth + CHANNELS - 1) // CHANNELS
    for block in range(first, last):
        group, rest = block // blocks_per_group, block % blocks_per_group
        _transform_block(out[block], w, grid[0], origins, groups, transposed, group, rest // v_lots, rest % v_lots)


@inlined
def _transform_block(
    U: Array, w: Array, grid: Any, origins: Array, groups: int, transposed: bool, group: int, lot: int, v_lot: int
) -> None:
    """G W Gᵀ of a lot of filters for a lot of virtual channels. Vectors run over the second axis of ``w``::

    U[point·U_STEP + filter·CHANNELS + channel]       or, if transposed: [… + channel·FILTERS + filter]
    """
    K, C, R, S = w.shape
    K //= groups
    w_flat = w.reshape(-1)
    filters, channels = (C, K) if transposed else (K, C)  # of a group
    f0, f1 = lot * FILTERS, min(filters, (lot + 1) * FILTERS)
    v0, v1 = v_lot * CHANNELS, min(channels * len(origins), (v_lot + 1) * CHANNELS)
    row0, row1, size = (v0, v1, FILTERS) if transposed else (f0, f1, CHANNELS)
    taps = np.zeros(TAPS * TAPS * CHANNELS, w.dtype)
    points = np.empty(TAPS * REACH * CHANNELS, w.dtype)
    six = len(points) // (TAPS * CHANNELS)  # see `transform_data`
    for row in range(row0, row1):
        # A row's columns, in runs of one origin each: of a filter the channels, of a virtual channel the filters.
        column0, column1 = (f0, f1) if transposed else (v0, v1)
        column = column0
        while column < column1:
            if transposed:
                origin, k, c, end = row // channels, row % channels, column, column1
            else:
                origin, k, c = column // channels, row, column % channels
                end = min(column1, column - c + channels)
            first = ((group * K + k) * C + c) * R * S
            _copy_taps(taps, column - column0, w_flat, first, end - column, R, S, origins[origin], grid, transposed)
            column = end
        for s in range(six // 2):
            for z in range(s * CHANNELS, s * CHANNELS + size, LANES):
                taps_to_points(points, z, TAPS * CHANNELS, taps, z, TAPS * CHANNELS)
        for i in range(six):
            to = i * REACH * U_STEP + (row - row0) * size
            for z in range(0, size, LANES):
                taps_to_points(U, to + z, U_STEP, points, i * TAPS * CHANNELS + z, CHANNELS)


@inlined
def _copy_taps(
    to: Array, to_first: int, w: Array, first: int, count: int, R: int, S: int, origin: Any, grid: Any, turned: bool
) -> None:
    """Copy the 3×3 taps of an origin for some neighbouring filters: to[tap·CHANNELS + to_first + f]."""
    for tap in range(len(to) // CHANNELS):  # nine, see `transform_data`
        r, s = origin.r + tap // TAPS * grid.apart_h, origin.s + tap % TAPS * grid.apart_w
        tap_first = tap * CHANNELS + to_first
        if r < R and s < S:
            place = (R - 1 - r) * S + S - 1 - s if turned else r * S + s
            copy_strided(to, tap_first, 1, w, first + place, R * S, count)
        else:
            to[tap_first : tap_first + count] = 0


@compiled
def _winograd(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    x: Array,
    w: Array,
    prepared: Array,
    b: Array,
    grid: Array,
    origins: Array,
    groups: int,
    transposed: bool,
    boxes: Array,
    tasks: Array,
) -> None:
    """Convolve ``x`` with ``w``, whose transforms are ``prepared`` (or that is empty), into ``out``.

    ``scratch`` has a row for each thread.
    """
    for task in tasks[first:last]:
        task_boxes = boxes[task.box0 : task.box1]
        memory = scratch[get_thread_id()]
        _run_task(out, memory, x, w, prepared, b, grid[0], origins, groups, transposed, task_boxes, task)


@inlined
def _run_task(
    y: Array,
    memory: Array,
    x: Array,
    w: Array,
    prepared: Array,
    b: Array,
    grid: Any,
    origins: Array,
    groups: int,
    transposed: bool,
    boxes: Array,
    task: Any,
) -> None:
    K, C = y.shape[1] // groups, x.shape[1] // groups
    depth = C * len(origins)
    lots, v_lots = (K + FILTERS - 1) // FILTERS, (depth + CHANNELS - 1) // CHANNELS
    workspace, memory = memory[:WORKSPACE], memory[WORKSPACE:]
    U_here, memory = memory[:U_BLOCK], memory[U_BLOCK:]
    M, V = memory[:M_BLOCK], memory[M_BLOCK:]

    # Where the tile finds the filters, their channels, the vectors of a panel, and its channels.
    channel = np.arange(CHANNELS)
    u_offsets, v_offsets, starts = channel * (FILTERS if transposed else 1), channel * WIDTH, np.arange(VECTORS) * LANES
    zeros = np.zeros(FILTERS, y.dtype)

    for box in boxes:
        panels = panels_of(box)
        y_rows = output_rows(y, grid, box)
        for origin in range(len(origins)):
            x_rows = input_rows(x, origins[origin], grid, box)
            for c in range(C):
                v, x_first = origin * C + c, (task.group * C + c) * x.shape[2] * x.shape[3]
                v_first = v // CHANNELS * V_BLOCK + v % CHANNELS * WIDTH
                transform_data(V, v_first, x, x_first, x_rows, grid.step_w, box, workspace)
        for first_lot in range(task.lot0, task.lot1, LOTS):
            last_lot = min(task.lot1, first_lot + LOTS)
            k_first = task.group * K + first_lot * FILTERS
            lots_here = last_lot - first_lot
            for step in range(POINTS * v_lots * lots_here):
                if len(prepared) > 0:
                    # Point by point, so that its sums are made in one go, and V is read once for all these filters.
                    point, rest = step // (v_lots * lots_here), step % (v_lots * lots_here)
                    v_lot, lot = rest // lots_here, first_lot + rest % lots_here
                    U = prepared[(task.group * lots + lot) * v_lots + v_lot]
                else:
                    lot, rest = first_lot + step // (v_lots * POINTS), step % (v_lots * POINTS)
                    v_lot, point = rest // POINTS, rest % POINTS
                    U = U_here
                    if point == 0:
                        _transform_block(U, w, grid, origins, groups, transposed, task.group, lot, v_lot)
                left, right = (U, transposed, u_offsets), (V, starts, v_offsets)
                row, filters = (lot - first_lot) * FILTERS, min(FILTERS, K - lot * FILTERS)
                _multiply(M, row, *left, *right, b, k_first + row, zeros, filters, depth, v_lot, point, panels)
            for k in range(min(K, last_lot * FILTERS) - first_lot * FILTERS):
                _transform_back(
                    y, (k_first + k) * y.shape[2] * y.shape[3], y_rows, M, k * WIDTH, grid.every_w, box, workspace
                )


@inlined
def _multiply(
    M: Array,
    row: int,
    U: Array,
    neighbours: bool,
    u_offsets: Array,
    V: Array,
    starts: Array,
    v_offsets: Array,
    b: Array,
    k: int,
    zeros: Array,
    filters: int,
    depth: int,
    v_lot: int,
    point: int,
    panels: int,
) -> None:
    """Add U V at one point, for a lot of filters and a lot of virtual channels, to M from ``row`` on.

    The first of these lots sets M, at the point (1, 1) to the bias of the filters from ``k`` on. ``neighbours`` says
    whether the filters of a channel lie side by side in U.
    """
    channels = min(CHANNELS, depth - v_lot * CHANNELS)
    start, start_first = (b, k) if point == BIAS_POINT else (zeros, 0)
    for panel in range(panels):
        to = panel * M_PANEL + point * M_STEP + row * WIDTH
        v = V[v_lot * V_BLOCK + panel * V_PANEL + point * V_STEP :]
        for m in range(0, filters, ROWS):
            right, target = (v, starts, 0, v_offsets), (M, to + m * WIDTH, WIDTH)
            begin = (v_lot == 0, start, start_first + m)
            if neighbours:  # twice the same, but with steps that the compiler knows: see `tile`
                tile(channels, ROWS, U, point * U_STEP + m, 1, u_offsets, *right, *target, *begin)
            else:
                u_first = point * U_STEP + m * CHANNELS
                tile(channels, ROWS, U, u_first, CHANNELS, u_offsets, *right, *target, *begin)


@inlined
def _transform_back(
    y: Array, y_first: int, y_rows: Array, M: Array, m_first: int, step: int, box: Any, workspace: Array
) -> None:
    """y = Aᵀ M A in the ``y_rows`` of a box, for one filter; without what tiles have beyond the map's edge."""
    y_flat = y.reshape(-1)
    rows, planes = workspace[: TILE * ROW], workspace[TILE * ROW : WORKSPACE]
    four = len(rows) // ROW  # see `transform_data`
    for p in range(0, panels_of(box) * WIDTH, LANES):
        for j in range(four + 2):
            first = m_first + p // WIDTH * M_PANEL + j * M_STEP + p % WIDTH
            points_to_outputs(planes, j * PLANE + p, REACH * PLANE, M, first, REACH * M_STEP)
        for i in range(four):
            points_to_outputs(planes, i * REACH * PLANE + p, PLANE, planes, i * REACH * PLANE + p, PLANE)
            collect(rows, i * ROW + TILE * p, TILE, planes, i * REACH * PLANE + p, PLANE)
    width = TILE * (box.q1 - box.q0 + 1)
    for row in range(len(y_rows)):
        first, source, count = y_first + y_rows[row, 0], row % TILE * ROW + row // TILE * width, y_rows[row, 1]
        if step == 1 and count >= LANES:
            for z in range(0, count - LANES, LANES):
                move_vector(y_flat, first + z, rows, source + z)
            # The last vector is a whole one again; some of it may be there already.
            move_vector(y_flat, first + count - LANES, rows, source + count - LANES)
        else:
            copy_strided(y_flat, first, step, rows, source, 1, count)
