"""Where Winograd's tiles find their inputs: how any convolution is a sum of 3×3 ones without stride or dilation.

F(4×4, 3×3) wants nine neighbouring taps, and outputs whose inputs are neighbours. Here is how others are brought to
that form. In one dimension, an output i meets tap r at the input

    h = i·stride + r·dilation − padding

**Residue classes.** Let g = gcd(stride, dilation). Take only every (dilation/g)-th output, i = a + i'·dilation/g, and
only every (stride/g)-th tap, r = r0 + t·stride/g. With step = stride·dilation/g, their least common multiple,

    h = (i' + t)·step + (a·stride + r0·dilation − padding)

which depends on i' + t alone. Read with this step, from the place in brackets on, the input is an image over which t
runs as in a convolution that has neither stride nor dilation. So outputs fall into *classes* a, which know nothing of
each other: a dilated convolution is as many small ones, interleaved. And taps fall into classes r0: a strided
convolution is a sum of as many, each over the part of the input that its taps meet.

**Larger filters.** A filter of more than three taps is a sum of filters of three, each of which begins three later. So
the taps of a class are cut into threes.

Both together: every part of a filter has an *origin*, the tap r0 where it begins, and has the taps r0 + t·stride/g for
t < 3, of which those beyond the filter count as zero. And each origin makes of every channel a *virtual channel*, which
is the channel read from elsewhere. Their products are added up at the 36 points like those of other channels::

                          origins (rows × columns)     multiplications for 4×4 outputs: 36 each, in place of 16·R·S
    3×3                   1                            36    144
    3×3, dilation 2       1, in 4 classes              36    144
    5×5                   2×2                          144   400
    7×7                   3×3                          324   784
    3×3, stride 2         2×2                          144   144
    11×11, stride 4       4×4                          576   1936

**Boxes.** The outputs of each class of each image are cut into TH × TW tiles, and the tile rows of all are numbered
through: r = (n·classes + class)·TH + tile row. A box is a rectangle of such rows and some tile columns. Within a box
tile (row, column) has the *position* row · (columns + 1) + column: between rows one position is left empty, so that the
two columns of inputs by which a tile reaches into the next one are always found at the next position.
"""

from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np

from minifcn_kernels.conv2d.block import copy_every, prefetch_run
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.conv2d.vectors import LANES, deal, move_row
from minifcn_kernels.conv2d.winograd_transforms import POINTS, REACH, TAPS, TILE, data_to_points, row_to_points
from minifcn_kernels.jit import Array, inlined
from minifcn_kernels.memory import scratch_memory
from minifcn_kernels.moves import move_number
from minifcn_kernels.spatial import Pair, valid_outputs
from minifcn_kernels.tile import VECTORS

WIDTH = VECTORS * LANES
# The most positions in a box. A multiple of the register tile's width, whether vectors hold 4, 8 or 16 numbers.
POSITIONS = 96
# Virtual channels whose transforms lie together; their panels are what the register tile reads as its right-hand side.
CHANNELS = 64

# Steps in scratch memory: from plane to plane, from row to row, from point to point. What is written side by side must
# not lie a multiple of 4096 bytes apart, or it competes for the same few lines of the first-level cache: hence the
# SKEW, the widest of vectors.
SKEW = 16
PLANE = POSITIONS + SKEW
ROW = TILE * PLANE
WORKSPACE = 2 * REACH * ROW
V_STEP = CHANNELS * WIDTH + SKEW
V_PANEL = POINTS * V_STEP  # the transforms of a panel for `CHANNELS` virtual channels, all in one piece
V_BLOCK = POSITIONS // WIDTH * V_PANEL

BOX = np.dtype([(name, np.int64) for name in ("r0", "r1", "q0", "q1")])  # firsts and one past lasts

ORIGIN = np.dtype([(name, np.int64) for name in ("r", "s")])
# The one geometry that all boxes share; every name stands for a number along h and one along w.
GRID = np.dtype(
    [
        (f"{name}_{axis}", np.int64)
        for name in (
            *("stride", "dilation", "padding"),
            "step",  # in the input, between what neighbouring outputs of a class meet
            "every",  # of the output belongs to a class
            "apart",  # taps of an origin
            "classes",
            "tiles",  # of a class
        )
        for axis in "hw"
    ]
)


@lru_cache(maxsize=256)
def lay_out(g: ConvGeometry) -> tuple[Array, Array]:
    """Return the grid of a convolution (in an array of one), and its origins."""
    grid = np.zeros(1, GRID)
    for axis, outputs, stride, dilation, padding in zip(
        "hw", (g.OH, g.OW), g.stride, g.dilation, g.padding, strict=True
    ):
        common = gcd(stride, dilation)
        every = dilation // common
        sizes = {
            "stride": stride,
            "dilation": dilation,
            "padding": padding,
            "step": stride * every,
            "every": every,
            "apart": stride // common,
            "classes": min(every, outputs),
            "tiles": -(-outputs // (every * TILE)),
        }
        for name, size in sizes.items():
            grid[f"{name}_{axis}"] = size
    rows, columns = (
        [r for first in range(apart) for r in range(first, taps, TAPS * apart)]
        for taps, apart in ((g.R, int(grid["apart_h"][0])), (g.S, int(grid["apart_w"][0])))
    )
    return grid, np.array([(r, s) for r in rows for s in columns], ORIGIN)


def tile_rows(N: int, grid: Array) -> tuple[int, int]:
    """Return how many rows of tiles there are in all, and how many tiles in each."""
    size = grid[0]
    return N * int(size["classes_h"] * size["classes_w"] * size["tiles_h"]), int(size["tiles_w"])


@lru_cache(maxsize=256)
def cut_into_boxes(R: int, TW: int, most: int) -> Array:
    """Cut R rows of TW tiles into boxes of at most ``most`` positions that fill the fewest panels."""

    def panels(rows: int, columns: int) -> int:
        return -(-(rows * (columns + 1) - 1) // WIDTH)

    def cost(box: Pair) -> tuple[int, int]:
        """Panels in all; among equals, the number of boxes."""
        (full_r, last_r), (full_q, last_q) = divmod(R, box[0]), divmod(TW, box[1])
        total = full_r * full_q * panels(*box)
        total += full_r * panels(box[0], last_q) if last_q else 0
        total += full_q * panels(last_r, box[1]) if last_r else 0
        total += panels(last_r, last_q) if last_r and last_q else 0
        return total, -(-R // box[0]) * -(-TW // box[1])

    # One row has no empty position behind it.
    sizes = [
        (-(-R // -(-R // rows)), columns)
        for columns in {-(-TW // cut) for cut in range(1, TW + 1)}
        if columns <= most
        for rows in range(1, min(R, (most + 1) // (columns + 1)) + 1)
    ]
    rows, columns = min(sizes, key=cost, default=(1, 1))
    boxes = [(r, min(r + rows, R), q, min(q + columns, TW)) for r in range(0, R, rows) for q in range(0, TW, columns)]
    return np.array(boxes, BOX)


def panels_in(boxes: Array) -> Any:
    """Return how many panels the positions of each box fill."""
    positions = (boxes["r1"] - boxes["r0"]) * (boxes["q1"] - boxes["q0"] + 1) - 1  # none behind the last row
    return (positions + WIDTH - 1) // WIDTH


panels_of = inlined(panels_in)


def tiles_in(box: Any) -> Any:
    """Return how many tiles a box has."""
    return (box["r1"] - box["r0"]) * (box["q1"] - box["q0"])


tiles_of = inlined(tiles_in)


@inlined
def close_up(V: Array, v_first: int, box: Any) -> None:
    """Move the tiles of a box of one panel together, in the channel that begins there, over the empty positions."""
    columns = box.q1 - box.q0
    for point in range(POINTS):
        first = v_first + point * V_STEP
        for row in range(1, box.r1 - box.r0):
            for tile in range(row * columns, (row + 1) * columns):
                move_number(V, first + tile, V, first + tile + row)


def scratch_rows(threads: int, boxes: Array, origins: Array) -> list[Array]:
    """Return memory for `input_rows` and `output_rows`, for each thread."""
    rows = int((boxes["r1"] - boxes["r0"]).max(initial=0))
    return scratch_memory(np.int64, (threads, len(origins), rows * REACH, 3), (threads, rows * TILE, 2))


@inlined
def first_output(r: int, grid: Any) -> tuple[int, int, int]:
    """Return the image of tile row r, and the first output, row and column, of its first tile."""
    classes = grid.classes_h * grid.classes_w
    image, row = r // grid.tiles_h, r % grid.tiles_h
    one = image % classes
    return image // classes, one // grid.classes_w + row * TILE * grid.every_h, one % grid.classes_w


@inlined
def input_rows(rows: Array, x: Array, origins: Array, grid: Any, box: Any) -> None:
    """Write down what a box meets from each origin on, in the first channel of ``x``: six rows for every row of tiles.

    Of each the place of its first number in ``x``, which may lie outside; and first and one past last of the numbers
    that do not.
    """
    _, C, H, W = x.shape
    width = TILE * (box.q1 - box.q0 + 1)
    for r in range(box.r0, box.r1):
        n, i, j = first_output(r, grid)
        for o in range(len(origins)):
            top = i * grid.stride_h + origins[o].r * grid.dilation_h - grid.padding_h
            left = j * grid.stride_w + origins[o].s * grid.dilation_w - grid.padding_w + TILE * box.q0 * grid.step_w
            begin, end = valid_outputs(width, W, left, grid.step_w)
            for reach in range(REACH):
                h = top + reach * grid.step_h
                row = rows[o, (r - box.r0) * REACH + reach]
                row[0], row[1], row[2] = (n * C * H + h) * W + left, begin, end if 0 <= h < H else begin


@inlined
def output_rows(rows: Array, y: Array, grid: Any, box: Any) -> None:
    """Write down the rows of outputs of a box, in the first channel of ``y``: four for every row of tiles.

    Of each the place of its first number in ``y``, and how many there are.
    """
    _, K, OH, OW = y.shape
    for r in range(box.r0, box.r1):
        n, top, left = first_output(r, grid)
        left += TILE * box.q0 * grid.every_w
        columns = min(TILE * (box.q1 - box.q0), max(0, (OW - left + grid.every_w - 1) // grid.every_w))
        for i in range(TILE):
            h = top + i * grid.every_h
            row = rows[(r - box.r0) * TILE + i]
            row[0], row[1] = (n * K * OH + h) * OW + left, columns if h < OH else 0


@inlined
def transform_data(
    V: Array, v_first: int, x: Array, x_first: int, x_rows: Array, step: int, box: Any, workspace: Array
) -> None:
    """Bᵀ D B of all tiles of a box, in the channel that begins at ``x_first``::

        V[v_first + panel·V_PANEL + point·V_STEP + p]             for position panel·WIDTH + p of the box

    The data are the ``x_rows`` of `input_rows`, of every ``step``-th number. Vectors run over the positions. For the
    first product that is simple, since a row's neighbours are neighbours in memory. For the second, every fourth number
    is wanted: the rows are dealt out to four planes in between.

    Here and elsewhere loops run to ``six``, and not to REACH: a compiler that knows the number unrolls them, for more
    code that is not faster.
    """
    x_flat = x.reshape(-1)
    rows, planes = workspace[: REACH * ROW], workspace[REACH * ROW : WORKSPACE]
    six, plane = len(rows) // ROW, x.shape[2] * x.shape[3]
    width = TILE * (box.q1 - box.q0 + 1)
    for row in range(len(x_rows)):
        to = row % REACH * ROW + row // REACH * width
        first, begin, end = x_first + x_rows[row, 0], x_rows[row, 1], x_rows[row, 2]
        if step == 1:
            prefetch_run(x_flat, first + begin + plane, end - begin)  # what the next channel has there
            move_row(rows, to, x_flat, first, begin, end, width)
        else:
            copy_apart(rows, to, x_flat, first, step, begin, end, width)

    panels = panels_of(box)
    count = panels * WIDTH + LANES  # the last tile reaches into the next position
    for z in range(0, TILE * count, LANES):
        data_to_points(rows, z, ROW, rows, z, ROW)
    for i in range(six):
        for p in range(0, count, LANES):
            deal(planes, i * ROW + p, PLANE, rows, i * ROW + TILE * p, TILE)
    for i in range(six):
        for panel in range(panels):
            v, plane = v_first + panel * V_PANEL + i * REACH * V_STEP, i * ROW + panel * WIDTH
            for p in range(0, WIDTH, LANES):
                row_to_points(V, v + p, V_STEP, planes, plane + p, PLANE)


@inlined
def copy_apart(target: Array, to: int, source: Array, first: int, step: int, begin: int, end: int, count: int) -> None:
    """`move_row` from numbers that lie apart: target[to + z] = source[first + z·step]."""
    move_row(target, to, source, first, 0, 0, count)
    copy_every(target, to + begin, source, first + begin * step, step, end - begin)
