"""The 3×3 convolution with a quarter of its multiplications: Winograd's F(4×4, 3×3), forward and input gradient.

`winograd_transforms` has the algebra: a tile of 4×4 outputs takes one product at each of 36 points, for each filter and
channel, in place of 144. The sum over channels may be taken before the way back from points to outputs,

    M[point, k, tile] = Σ_c U[point, k, c] · V[point, c, tile]        Y = Aᵀ M A + b

and that is 36 matrix products, for the register tile. What they save has to pay for three transforms: of the data (once
for all filters), of the filters (once for all tiles), and back (once for all channels). So it pays where there are many
of each; `choose` says from when on.

A transform makes 36 numbers of 16, which is of use only if they never leave the cache. So a task takes the tiles box by
box: it transforms all channels under a box, then goes through the filters, `FILTERS` at a time; for each lot it sums
over the channels, `CHANNELS` at a time, and goes back to outputs.

The gradient of the input is a convolution as well: of gy, padded by 2 − padding, with the filters turned by 180° and
input and output channels exchanged.

**Error.** Let u = 2⁻²⁴, float32's unit roundoff, γ(n) = n·u/(1 − n·u), and |·| the absolute values of a matrix. Then

    |error of Y| ≤ γ(28 + C) · ( |Aᵀ| [Σ_c (|G| |W| |Gᵀ|) ⊙ (|Bᵀ| |D| |B|)] |A| + |b| )

for what is summed passes at most 28 + C roundings (Higham, "Accuracy and Stability of Numerical Algorithms", §3.1): 4
in each of the two products with Bᵀ, 4 with G (its entries are rounded, too) and 5 with Aᵀ; C in the sum over channels,
where products and additions are fused; one for the bias, and one to spare. What costs accuracy are the magnitudes: a
row of |Bᵀ| adds up to 10, one of |Aᵀ| to 19, where a direct sum has plain Σ|W||D|. In practice the error is about ten
times that of the direct sum: 10⁻⁶ to 10⁻⁵ of the largest output.

A thread's scratch memory is 0.9 MB for every 64 channels, and 0.8 MB; it does not grow with the image. With many boxes,
all filters are transformed beforehand, which takes four times their own size.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import get_num_threads, get_thread_id, prange

from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.conv2d.winograd_transforms import (
    CHANNELS,
    LANES,
    PANEL,
    PLANE,
    POINTS,
    POSITIONS,
    REACH,
    ROW,
    SKEW,
    TILE,
    V_STEP,
    WIDTH,
    WORKSPACE,
    cut_into_boxes,
    panels_of,
    times_a_t,
    times_g,
    transform_data,
)
from minifcn_kernels.jit import Array, compiled, inlined, scratch_memory
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import ROWS, VECTORS, tile

# Filters in a lot. Their transforms (297 KB with 64 channels) stay in a second-level cache of 512 KB while a box's data
# passes by, point after point.
FILTERS = 32
U_STEP = FILTERS * CHANNELS + SKEW  # from point to point
U_BLOCK = POINTS * U_STEP
M_STEP = FILTERS * POSITIONS + SKEW
M_BLOCK, V_BLOCK = POINTS * M_STEP, POINTS * V_STEP
# Tasks to cut the work into. Where boxes do not make so many, the filters are cut as well, but no finer than this: each
# task transforms the data for itself. And if even so there are less than a few, the boxes are made smaller.
TASKS = 16
FEWEST_FILTERS = 128
FEW_TASKS = 4
# With more boxes than this, filters are transformed once and kept. Below, every task transforms what it needs, when it
# needs it: to write and read all would take longer.
FEW_BOXES = 4

# A task's boxes, and its lots of filters in a group.
TASK = np.dtype([(name, np.int64) for name in ("box0", "box1", "group", "lot0", "lot1")])


def conv2d_winograd(x: Array, w: Array, b: Array | None, g: ConvGeometry) -> Array:
    """`conv2d` by F(4×4, 3×3)."""
    bias = np.zeros(g.K, x.dtype) if b is None else b
    return _convolve(x, w, bias, g.y_shape, g.padding, g.groups, False)


def conv2d_grad_input_winograd(gy: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv2d_grad_input` by F(4×4, 3×3)."""
    no_bias = np.zeros(g.C, gy.dtype)
    return _convolve(gy, w, no_bias, g.x_shape, (2 - g.padding[0], 2 - g.padding[1]), g.groups, True)


def _convolve(
    x: Array, w: Array, b: Array, y_shape: tuple[int, int, int, int], padding: Pair, groups: int, transposed: bool
) -> Array:
    """Convolve with ``w``; if ``transposed``, with ``w`` turned by 180° and its channels exchanged."""
    N, K, OH, OW = y_shape
    boxes, tasks = _plan(N, K // groups, OH, OW, groups)
    lots, c_lots = -(-K // groups // FILTERS), -(-x.shape[1] // groups // CHANNELS)
    blocks = groups * lots * c_lots if len(boxes) > FEW_BOXES else 0
    U = np.empty((blocks, U_BLOCK), x.dtype)
    if blocks:
        _transform_filters(U, w, groups, transposed)
    y = np.empty(y_shape, x.dtype)
    threads = get_num_threads()
    scratch = scratch_memory(threads * (WORKSPACE + U_BLOCK + M_BLOCK + c_lots * V_BLOCK)).reshape(threads, -1)
    _winograd(y, scratch, x, w, U, b, padding, groups, transposed, boxes, tasks)
    return y


@lru_cache(maxsize=256)
def _plan(N: int, K: int, OH: int, OW: int, groups: int) -> tuple[Array, Array]:
    """Return the table of boxes and the table of tasks, for K filters in a group."""
    lots, splits = -(-K // FILTERS), -(-K // FEWEST_FILTERS)
    tiles = N * -(-OH // TILE) * -(-OW // TILE)
    boxes = cut_into_boxes(N, OH, OW, max(WIDTH, min(POSITIONS, tiles * splits * groups // FEW_TASKS)))
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
def _transform_filters(out: Array, w: Array, groups: int, transposed: bool) -> None:
    """out[block] = `_transform_block` of every block: of every group, lot of filters, and lot of channels."""
    blocks_per_group = len(out) // groups
    depth = w.shape[0] // groups if transposed else w.shape[1]
    depth_blocks = (depth + CHANNELS - 1) // CHANNELS
    for block in prange(len(out)):
        group, rest = block // blocks_per_group, block % blocks_per_group
        _transform_block(out[block], w, groups, transposed, group, rest // depth_blocks, rest % depth_blocks)


@inlined
def _transform_block(U: Array, w: Array, groups: int, transposed: bool, group: int, lot: int, c_lot: int) -> None:
    """G W Gᵀ of a lot of filters for a lot of channels. Vectors run over the second axis of ``w``::

    U[point·U_STEP + filter·CHANNELS + channel]       or, if transposed: [… + channel·FILTERS + filter]
    """
    K, C = w.shape[0] // groups, w.shape[1]
    w_flat = w.reshape(-1)
    k_size, c_size = (CHANNELS, FILTERS) if transposed else (FILTERS, CHANNELS)
    k_lot, c_lot = (c_lot, lot) if transposed else (lot, c_lot)
    c0, c1 = c_lot * c_size, min(C, (c_lot + 1) * c_size)
    six = len(U) // (REACH * U_STEP)  # see `transform_data`
    taps = np.zeros(9 * CHANNELS, w.dtype)
    points = np.empty(18 * CHANNELS, w.dtype)
    for k in range(k_lot * k_size, min(K, (k_lot + 1) * k_size)):
        first = ((group * K + k) * C + c0) * 9
        for tap in range(9):
            turned = 8 - tap if transposed else tap
            source, to = w_flat[first + tap :], taps[turned * CHANNELS :]
            for c in range(c1 - c0):
                to[c] = source[9 * c]
        for s in range(3):
            for first in range(s * CHANNELS, s * CHANNELS + c_size, FILTERS):
                t, p = taps[first:], points[first:]
                for c in range(FILTERS):
                    u0, u1, u2, u3, u4, u5 = times_g(t[c], t[c + 3 * CHANNELS], t[c + 6 * CHANNELS])
                    p[c], p[c + 3 * CHANNELS], p[c + 6 * CHANNELS] = u0, u1, u2
                    p[c + 9 * CHANNELS], p[c + 12 * CHANNELS], p[c + 15 * CHANNELS] = u3, u4, u5
        for i in range(six):
            for first in range(0, c_size, FILTERS):
                p = points[3 * i * CHANNELS + first :]
                u = U[REACH * i * U_STEP + k % k_size * c_size + first :]
                for c in range(FILTERS):
                    u0, u1, u2, u3, u4, u5 = times_g(p[c], p[c + CHANNELS], p[c + 2 * CHANNELS])
                    u[c], u[c + U_STEP], u[c + 2 * U_STEP] = u0, u1, u2
                    u[c + 3 * U_STEP], u[c + 4 * U_STEP], u[c + 5 * U_STEP] = u3, u4, u5


@compiled
def _winograd(
    out: Array,
    scratch: Array,
    x: Array,
    w: Array,
    prepared: Array,
    b: Array,
    padding: Pair,
    groups: int,
    transposed: bool,
    boxes: Array,
    tasks: Array,
) -> None:
    """Convolve ``x`` with ``w``, whose transforms are ``prepared`` (or that is empty), into ``out``.

    ``scratch`` has a row for each thread.
    """
    for t in prange(len(tasks)):
        task = tasks[t]
        memory = scratch[get_thread_id()]
        _run_task(out, memory, x, w, prepared, b, padding, groups, transposed, boxes[task.box0 : task.box1], task)


@inlined
def _run_task(
    y: Array,
    memory: Array,
    x: Array,
    w: Array,
    prepared: Array,
    b: Array,
    padding: Pair,
    groups: int,
    transposed: bool,
    boxes: Array,
    task: Any,
) -> None:
    K_per_group, C_per_group = y.shape[1] // groups, x.shape[1] // groups
    tile_rows = (y.shape[2] + TILE - 1) // TILE
    lots, c_lots = (K_per_group + FILTERS - 1) // FILTERS, (C_per_group + CHANNELS - 1) // CHANNELS
    workspace, memory = memory[:WORKSPACE], memory[WORKSPACE:]
    U_here, memory = memory[:U_BLOCK], memory[U_BLOCK:]
    M, V = memory[:M_BLOCK], memory[M_BLOCK:]

    # Where the tile finds the filters' channels, the vectors of a panel, and its channels.
    u_step, c_step = (1, FILTERS) if transposed else (CHANNELS, 1)
    channel = np.arange(CHANNELS)
    u_offsets, v_offsets = channel * c_step, channel * WIDTH
    starts = np.arange(VECTORS) * LANES

    for box in boxes:
        panels = panels_of(box)
        for c in range(C_per_group):
            v_first = c // CHANNELS * V_BLOCK + c % CHANNELS * WIDTH
            of_x = task.group * C_per_group + c
            transform_data(V, v_first, x, of_x, tile_rows, padding, box, workspace)
        for lot in range(task.lot0, task.lot1):
            filters = min(FILTERS, K_per_group - lot * FILTERS)
            for c_lot in range(c_lots):
                channels = min(CHANNELS, C_per_group - c_lot * CHANNELS)
                if len(prepared) == 0:
                    _transform_block(U_here, w, groups, transposed, task.group, lot, c_lot)
                U = U_here if len(prepared) == 0 else prepared[(task.group * lots + lot) * c_lots + c_lot]
                for point in range(POINTS):
                    if c_lot == 0:
                        M[point * M_STEP : (point + 1) * M_STEP] = 0
                    for panel in range(panels):
                        v = V[c_lot * V_BLOCK + point * V_STEP + panel * PANEL :]
                        for m in range(0, filters, ROWS):
                            tile(
                                *(channels, filters - m),
                                *(U, point * U_STEP + m * u_step, u_step, u_offsets),
                                *(v, starts, 0, v_offsets),
                                *(M, point * M_STEP + m * POSITIONS + panel * WIDTH, POSITIONS),
                            )
            for k in range(filters):
                of_y = task.group * K_per_group + lot * FILTERS + k
                _transform_back(y, of_y, M, k * POSITIONS, b[of_y], tile_rows, box, workspace)


@inlined
def _transform_back(
    y: Array, k: int, M: Array, m_first: int, bias: float, tile_rows: int, box: Any, workspace: Array
) -> None:
    """y = Aᵀ M A + bias in the outputs of a box, for one filter; without what tiles have beyond the map's edge."""
    _, K, OH, OW = y.shape
    y_flat = y.reshape(-1)
    rows, planes = workspace[: REACH * ROW], workspace[REACH * ROW : WORKSPACE]
    six = len(rows) // ROW  # see `transform_data`
    count = panels_of(box) * WIDTH
    for j in range(six):
        m, plane = M[m_first + j * M_STEP :], planes[j * PLANE :]
        step = REACH * M_STEP
        for p in range(count):
            m0, m1, m2 = m[p], m[p + step], m[p + 2 * step]
            t0, t1, t2, t3 = times_a_t(m0, m1, m2, m[p + 3 * step], m[p + 4 * step], m[p + 5 * step])
            plane[p], plane[p + REACH * PLANE] = t0, t1
            plane[p + 2 * REACH * PLANE], plane[p + 3 * REACH * PLANE] = t2, t3
    for i in range(six - 2):  # rows of the tile
        t, row = planes[i * REACH * PLANE :], rows[i * ROW :]
        for p in range(count):
            t0, t1, t2 = t[p], t[p + PLANE], t[p + 2 * PLANE]
            y0, y1, y2, y3 = times_a_t(t0, t1, t2, t[p + 3 * PLANE], t[p + 4 * PLANE], t[p + 5 * PLANE])
            row[4 * p], row[4 * p + 1], row[4 * p + 2], row[4 * p + 3] = y0 + bias, y1 + bias, y2 + bias, y3 + bias
    columns = min(TILE * (box.q1 - box.q0), OW - TILE * box.q0)
    for r in range(box.r0, box.r1):
        n, top = r // tile_rows, r % tile_rows * TILE
        source = (r - box.r0) * TILE * (box.q1 - box.q0 + 1)
        for i in range(min(TILE, OH - top)):
            y_row, row = y_flat[((n * K + k) * OH + top + i) * OW + TILE * box.q0 :], rows[i * ROW + source :]
            for z in range(columns):
                y_row[z] = row[z]
