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

Columns of the register tile are tiles of the map. Where there are so few that most columns would be empty (the 16 of
fc6 in an FCN, for 24 columns with AVX2 and 48 with AVX-512), it is turned: rows are tiles then, and columns filters. So
that 16 tiles take no more than 16 rows, the empty positions between them are closed up.

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

A thread's scratch memory is at most 0.9 MB for every 64 virtual channels, and 3.5 MB; it does not grow with the image.
With many boxes, all filters are transformed beforehand, which takes 36 numbers for each origin of theirs, 304 MB at
most.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.conv2d.block import copy_strided
from minifcn_kernels.conv2d.contract import ConvGeometry, backwards
from minifcn_kernels.conv2d.vectors import LANES, collect
from minifcn_kernels.conv2d.winograd_filters import (
    FILTERS,
    U_BLOCK,
    U_STEP,
    filter_desk,
    transform_block,
    transform_filters,
)
from minifcn_kernels.conv2d.winograd_tiles import (
    CHANNELS,
    PLANE,
    POSITIONS,
    ROW,
    SKEW,
    V_PANEL,
    V_STEP,
    WIDTH,
    WORKSPACE,
    close_up,
    cut_into_boxes,
    input_rows,
    lay_out,
    output_rows,
    panels_in,
    panels_of,
    scratch_rows,
    tile_rows,
    tiles_of,
    transform_data,
)
from minifcn_kernels.conv2d.winograd_transforms import POINTS, REACH, TILE, points_to_outputs
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import empty, scratch_memory
from minifcn_kernels.moves import group_of, interleave, move_vector
from minifcn_kernels.tile import ROWS, VECTOR_BYTES, VECTORS, next_vectors, part_tile, tile

LOTS = 144 // FILTERS  # whose sums are made together
M_STEP = LOTS * FILTERS * WIDTH + SKEW
M_PANEL = POINTS * M_STEP
M_BLOCK = POSITIONS // WIDTH * M_PANEL
# The same turned: the sums of a panel's tiles for a lot, from point to point.
N_STEP = WIDTH * FILTERS + SKEW
N_LOT = POINTS * N_STEP
N_BLOCK = LOTS * N_LOT
# Where the tile finds its channels, and the vectors of a panel or of a lot of filters.
U_OFFSETS, V_OFFSETS = np.arange(CHANNELS) * FILTERS, np.arange(CHANNELS) * WIDTH
STARTS = np.arange(VECTORS) * LANES
BIAS_POINT = REACH + 1  # the point (1, 1)
# Numbers that a second-level cache of 512 KB (AVX2) or 1 MB (AVX-512) keeps, with room for the filters that pass by.
CACHE = 3584 * VECTOR_BYTES
# To close up a tile at a point takes as long as so many multiply-adds: three vectors' worth.
CLOSING = 3 * LANES
# Tasks to cut the work into. Where boxes do not make so many, the filters are cut as well, but no finer than this: each
# thread transforms the data for itself. And if even so there are less than a few, the boxes are made smaller.
TASKS = 16
FEWEST_FILTERS = 128
FEW_TASKS = 4
# With more boxes than this, filters are transformed once and kept, if they take no more numbers than that (304 MB).
# Else every task transforms what it needs, when it needs it: to write and read all would take longer.
FEW_BOXES = 6
MOST_PREPARED = 76 * 10**6

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
    if len(boxes) <= FEW_BOXES or blocks * U_BLOCK > MOST_PREPARED:
        blocks = 0
    U = empty((blocks, U_BLOCK), x.dtype)
    threads, desk = get_num_threads(), filter_desk(w)
    if blocks:
        (desks,) = scratch_memory(np.float32, (threads, desk))
        transform_filters.over(blocks, U, desks, w, grid, origins, g.groups, transposed)
    y = empty(g.y_shape, x.dtype)
    # What sums at a point begin with: zeros; or a filter's bias, of which the last tile may want some too many.
    begins = np.concatenate([np.zeros(FILTERS, b.dtype), b, np.zeros(ROWS, b.dtype)])
    V = v_lots * int(panels_in(boxes).max(initial=0)) * V_PANEL
    (scratch,) = scratch_memory(np.float32, (threads, WORKSPACE + desk + U_BLOCK + N_BLOCK + M_BLOCK + V))
    rows = scratch_rows(threads, boxes, origins)
    _winograd.over(
        len(tasks), y, scratch, *rows, x, w, U, begins, desk, grid, origins, g.groups, transposed, boxes, tasks
    )
    return y


@lru_cache(maxsize=256)
def _plan(R: int, TW: int, depth: int, K: int, groups: int) -> tuple[Array, Array]:
    """Return the table of boxes and the table of tasks, for K filters in a group and R rows of TW tiles."""
    lots, splits = -(-K // FILTERS), min(TASKS, -(-K // FEWEST_FILTERS))
    panels = CACHE // (POINTS * WIDTH * (depth + min(K, LOTS * FILTERS)))
    most = min(POSITIONS, panels * WIDTH) if panels else POSITIONS
    boxes = cut_into_boxes(R, TW, max(WIDTH, min(most, R * (TW + 1) * splits * groups // FEW_TASKS)))
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
def _winograd(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    scratch_inputs: Array,
    scratch_outputs: Array,
    x: Array,
    w: Array,
    prepared: Array,
    begins: Array,
    desk_size: int,
    grid: Array,
    origins: Array,
    groups: int,
    transposed: bool,
    boxes: Array,
    tasks: Array,
) -> None:
    """Convolve ``x`` with ``w``, whose transforms are ``prepared`` (or that is empty), into ``out``.

    Each scratch array has a row for each thread. ``begins`` is what sums begin with: zeros for a lot of filters, then
    the bias of each.
    """
    thread = get_thread_id()
    memory = scratch[thread]
    K, C = out.shape[1] // groups, x.shape[1] // groups
    depth = C * len(origins)
    lots, v_lots = (K + FILTERS - 1) // FILTERS, (depth + CHANNELS - 1) // CHANNELS
    workspace, memory = memory[:WORKSPACE], memory[WORKSPACE:]
    desk, memory = memory[:desk_size], memory[desk_size:]
    U_here, memory = memory[:U_BLOCK], memory[U_BLOCK:]
    N, memory = memory[:N_BLOCK], memory[N_BLOCK:]
    M, V = memory[:M_BLOCK], memory[M_BLOCK:]
    v_block = len(V) // v_lots  # as many panels as the largest box has

    for t in range(first, last):
        task = tasks[t]
        # Tasks that share a box lie side by side, and have no other: the data may be transformed already.
        fresh = t == first or task.box0 != tasks[t - 1].box0 or task.group != tasks[t - 1].group
        for box in boxes[task.box0 : task.box1]:
            panels = panels_of(box)
            # Turn the register tile, if for a channel that takes fewer products, closing up included.
            rows, columns = (tiles_of(box) + ROWS - 1) // ROWS * ROWS, (K + LANES - 1) // LANES * LANES
            closing = CLOSING * tiles_of(box) if box.r1 - box.r0 > 1 else 0
            turned = len(prepared) == 0 and panels == 1 and rows * columns + closing < WIDTH * K
            x_rows = scratch_inputs[thread, :, : (box.r1 - box.r0) * REACH]
            y_rows = scratch_outputs[thread, : (box.r1 - box.r0) * TILE]
            input_rows(x_rows, x, origins, grid[0], box)
            output_rows(y_rows, out, grid[0], box)
            for v in range(depth if fresh else 0):
                x_first = (task.group * C + v // len(origins)) * x.shape[2] * x.shape[3]
                v_first = v // CHANNELS * v_block + v % CHANNELS * WIDTH
                transform_data(V, v_first, x, x_first, x_rows[v % len(origins)], grid[0].step_w, box, workspace)
                if turned:
                    close_up(V, v_first, box)
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
                        # A lot's transforms are used at once, and V for all lots before the next channels.
                        v_lot, rest = step // (lots_here * POINTS), step % (lots_here * POINTS)
                        lot, point = first_lot + rest // POINTS, rest % POINTS
                        U = U_here
                        if point == 0:
                            transform_block(U, desk, w, grid[0], origins, groups, transposed, task.group, lot, v_lot)
                    v_first, u_first = v_lot * v_block + point * V_STEP, point * U_STEP
                    channels, filters = min(CHANNELS, depth - v_lot * CHANNELS), min(FILTERS, K - lot * FILTERS)
                    if turned:
                        to = (lot - first_lot) * N_LOT + point * N_STEP
                        _multiply_turned(
                            N, to,
                            V, v_first,
                            U, u_first,
                            channels, filters, tiles_of(box),
                            v_lot == 0, begins,
                        )  # fmt: skip
                    else:
                        row = (lot - first_lot) * FILTERS
                        to, begin = point * M_STEP + row * WIDTH, FILTERS + k_first + row if point == BIAS_POINT else 0
                        _multiply(
                            M, to,
                            U, u_first,
                            V, v_first,
                            channels, filters, panels,
                            v_lot == 0, begins, begin,
                        )  # fmt: skip
                if turned:
                    _turn(M, N, begins, FILTERS + k_first, lots_here, tiles_of(box))
                for k in range(min(K, last_lot * FILTERS) - first_lot * FILTERS):
                    to = (k_first + k) * out.shape[2] * out.shape[3]
                    _transform_back(out, to, y_rows, M, k * WIDTH, grid[0].every_w, box, not turned, workspace)


@inlined
def _multiply(
    M: Array,
    to: int,
    U: Array,
    u_first: int,
    V: Array,
    v_first: int,
    channels: int,
    filters: int,
    panels: int,
    fresh: bool,
    begins: Array,
    begin: int,
) -> None:
    """M[filter, tile] += U V at one point, for a lot of filters and a lot of virtual channels.

    If ``fresh``, the sums of a filter begin with its number of ``begins``, from ``begin`` on.
    """
    for panel in range(panels):
        v = V[v_first + panel * V_PANEL :]
        for m in range(0, filters, ROWS):
            u, m_first = u_first + m, to + panel * M_PANEL + m * WIDTH
            tile(channels, U, u, 1, U_OFFSETS, v, STARTS, 0, V_OFFSETS, M, m_first, WIDTH, fresh, begins, begin + m)


@inlined
def _multiply_turned(
    N: Array,
    to: int,
    V: Array,
    v_first: int,
    U: Array,
    u_first: int,
    channels: int,
    filters: int,
    tiles: int,
    fresh: bool,
    begins: Array,
) -> None:
    """N[tile, filter] += V U: `_multiply` with the operands exchanged, for a box of one panel, closed up."""
    f = 0
    while f < filters:
        u, vectors = U[u_first + f :], next_vectors((filters - f + LANES - 1) // LANES)
        for p in range(0, tiles, ROWS):
            v, n = v_first + p, to + p * FILTERS + f
            part_tile(
                vectors,
                channels, V, v, 1, V_OFFSETS, u, STARTS, 0, U_OFFSETS, N, n, FILTERS, fresh, begins, 0,
            )  # fmt: skip
        f += vectors * LANES


@inlined
def _turn(M: Array, N: Array, begins: Array, begin: int, lots: int, tiles: int) -> None:
    """M[point, filter, tile] = N[point, tile, filter] for some lots, plus the bias: ``begins`` from ``begin`` on."""
    for step in range(lots * POINTS):
        lot, point = step // POINTS, step % POINTS
        to, first = point * M_STEP + lot * FILTERS * WIDTH, lot * N_LOT + point * N_STEP
        for p in range(0, tiles, group_of(M)):
            for f in range(0, FILTERS, LANES):
                interleave(M, to + f * WIDTH + p, WIDTH, N, first + p * FILTERS + f, FILTERS, ROWS)
        if point == BIAS_POINT:
            for f in range(min(FILTERS, len(begins) - begin - lot * FILTERS)):
                for p in range(WIDTH):
                    M[to + f * WIDTH + p] += begins[begin + lot * FILTERS + f]


@inlined
def _transform_back(
    y: Array,
    y_first: int,
    y_rows: Array,
    M: Array,
    m_first: int,
    step: int,
    box: Any,
    apart: bool,
    workspace: Array,
) -> None:
    """y = Aᵀ M A in the ``y_rows`` of a box, for one filter; without what tiles have beyond the map's edge.

    Whether rows of tiles lie ``apart`` in M, by an empty position.
    """
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
    width = TILE * (box.q1 - box.q0 + apart)
    for row in range(len(y_rows)):
        first, source, count = y_first + y_rows[row, 0], row % TILE * ROW + row // TILE * width, y_rows[row, 1]
        if step == 1 and count >= LANES:
            for z in range(0, count - LANES, LANES):
                move_vector(y_flat, first + z, rows, source + z)
            # The last vector is a whole one again; some of it may be there already.
            move_vector(y_flat, first + count - LANES, rows, source + count - LANES)
        else:
            copy_strided(y_flat, first, step, rows, source, 1, count)
