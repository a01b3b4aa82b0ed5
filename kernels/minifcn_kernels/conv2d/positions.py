"""The input as the turned tile reads it: number by number, in a block that leaves it as it lies.

Where vectors run along pixels, a block has to take strides apart (see `block`). Where they run along filters, pixels
are read one at a time, and may lie anywhere. So a block is just the padded input under a box of output pixels, for some
channels: output pixel (n, i, j) of the box has the *position* of its first tap,

    (n · BH + i · stride) · BW + j · stride            BH, BW: rows and columns of a block

and a tap (r, s) an *offset* from there. The `Extent` of a block says how far its channels lie apart, too.
"""

from typing import Any, TypeAlias

import numpy as np

from minifcn_kernels.conv2d.block import copy_block
from minifcn_kernels.conv2d.contract import ConvGeometry
from minifcn_kernels.jit import Array, inlined
from minifcn_kernels.spatial import Pair

# Rows and columns of a block, and the step from channel to channel.
Extent: TypeAlias = tuple[int, int, int]

NO_STRIDE, ONE_PHASE = (1, 1), np.zeros((1, 2), np.int64)


def cut_evenly(size: int, most: int, step: int) -> int:
    """Return the length of pieces of ``size``, evenly cut, as few as can be of multiples of ``step`` up to ``most``."""
    pieces = -(-size // (most // step * step))
    return -(-size // (pieces * step)) * step


def even_box(g: ConvGeometry, pixels: int, group: int = 1) -> tuple[int, int, int]:
    """Return the images, rows and columns of boxes of at most so many pixels, of which each row is whole groups."""
    columns = cut_evenly(g.OW, pixels, 1)
    of_row = -(-columns // group) * group
    rows = cut_evenly(g.OH, max(1, pixels // of_row), 1)
    return cut_evenly(g.N, max(1, pixels // (rows * of_row)), 1) if rows == g.OH else 1, rows, columns


def extent_of(g: ConvGeometry, box: tuple[int, int, int]) -> Extent:
    """Return the extent of the block of a box of so many images, rows and columns."""
    images, rows, columns = box
    BH = (rows - 1) * g.stride[0] + (g.R - 1) * g.dilation[0] + 1
    BW = (columns - 1) * g.stride[1] + (g.S - 1) * g.dilation[1] + 1
    return BH, BW, images * BH * BW


def offsets_of_taps(g: ConvGeometry, extent: Extent) -> Array:
    """Return the offset of every tap in a block, in the order of a filter."""
    r, s = np.divmod(np.arange(g.R * g.S), g.S)
    return r * g.dilation[0] * extent[1] + s * g.dilation[1]


@inlined
def find_positions(positions: Array, box: Any, stride: Pair, extent: Extent, group: int) -> int:
    """Write the positions of a box's pixels, of every ``group`` in a row the first, and return how many they are."""
    count = 0
    for n in range(box.n1 - box.n0):
        for i in range(box.i1 - box.i0):
            for j in range(0, box.j1 - box.j0, group):
                positions[count] = (n * extent[0] + i * stride[0]) * extent[1] + j * stride[1]
                count += 1
    return count


@inlined
def copy_padded(block: Array, extent: Extent, x: Array, box: Any, channels: Pair, stride: Pair, padding: Pair) -> None:
    """Copy some channels of the padded input under a box to a block."""
    BH, BW, plane = extent
    top_left = box.i0 * stride[0] - padding[0], box.j0 * stride[1] - padding[1]
    copy_block(block, plane, BH, BW, x, (box.n0, box.n1), channels, top_left, NO_STRIDE, ONE_PHASE)


@inlined
def runs_of(box: Any, columns: int) -> Pair:
    """Return how many runs of neighbours a box has in a map of so many columns, and how many pixels each."""
    rows, length = box.i1 - box.i0, box.j1 - box.j0
    if length == columns:
        return 1, rows * length
    return rows, length
