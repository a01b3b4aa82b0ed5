"""The block: the piece of input under a box of output pixels, copied to a scratch buffer that stays in the cache.

The register tile reads its right-hand side from here. A box is images n0…n1 by output rows i0…i1 by output columns
j0…j1; its block holds, for some channels, all that its pixels meet at any tap. What lies outside the input is zero
there, so no later step knows of padding.

Nor does any later step know of a stride. The rows of the input fall into ``stride`` phases, row h = q·stride + p into
phase p, and the columns likewise. Output row i meets a tap at the input row

    h = i·stride + r·dilation − padding = (i + a)·stride + p        for the a and p of its r

so within phase p it is the row i + a: a tap reads its own phase, and there neighbouring outputs meet neighbours.
The block keeps apart the phases that some tap reads, and lies in memory like an array of the shape

    (channels, phases, images, BH, BW)

in which a pixel (n, i, j) of the box has a *position*, and (channel, tap) an *offset* from there.

Where neighbouring pixels have neighbouring positions, a tile can read vectors of them right from the block. That
leaves three ways to make vectors of the pixels of a box, of which `choose_box` takes the one of least work:

* every row begins a new vector, and the last vector of a row holds a few pixels too many;
* one row follows on the other with the filter's overhang between them, and the overhang is computed too;
* the pixels are first gathered into a panel, side by side: the best for tiny maps.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from minifcn_kernels.jit import Array, inlined
from minifcn_kernels.memory import CACHE_LINE
from minifcn_kernels.moves import (
    clear_vector,
    group_of,
    interleave,
    interleave_two,
    move_every_second,
    move_few,
    move_number,
    move_vector,
    prefetch,
)
from minifcn_kernels.spatial import Pair, valid_outputs
from minifcn_kernels.tile import VECTOR_BYTES, lanes_of

# While a row is gathered, the one so many rows later is asked for: rows lie too far apart for the processor to foresee.
AHEAD = 8
# Firsts and one past lasts of a box's images, rows and columns.
BOX = np.dtype([(name, np.int64) for name in ("n0", "n1", "i0", "i1", "j0", "j1")])
# What a task says of its boxes: which part of a block's they are, the first, and one past the last.
PART = ("part", "first_box", "last_box")

# Of the taps (top, left, overhang_h, overhang_w): their least offsets, and the extent beyond them.
Reach: TypeAlias = tuple[int, int, int, int]


class BoxSize(NamedTuple):
    """What a box holds if the edge of the output does not cut it short, and how vectors are made of it."""

    images: int
    rows: int
    columns: int
    in_place: bool  # whether tiles read the block, or a panel gathered from it
    row_step: int  # from a row of the box to the next, among the pixels of its vectors


@lru_cache(maxsize=256)
def choose_box(
    size: tuple[int, int, int, int],
    filters: int,
    pixels: int,
    overhang: Pair,
    planes: float,
    lanes: int,
    tile_vectors: int,
    extra: int = 0,
) -> BoxSize:
    """Return the box that promises the least work.

    Args:
        size: of the output: images, filters of a group, rows, columns.
        filters: that share a box, filled up to whole tiles.
        pixels: at most so many in a box.
        overhang: rows and columns that the taps reach beyond the box.
        planes: of the block, for each tap of a channel.
        lanes: numbers in a vector.
        tile_vectors: the vectors of a box are filled up to a multiple of this.
        extra: that a box costs besides, in vectors.
    """
    N, _, OH, OW = size

    def work(box: BoxSize) -> float:
        """Vectors that are multiplied for each tap; to copy one costs like multiplying four, to gather one like two."""
        total = 0.0
        cuts = _cut(N, box.images), _cut(OH, box.rows), _cut(OW, box.columns)
        for (images, a), (rows, b), (columns, c) in itertools.product(*cuts):
            last_row = (images - 1) * box.rows + rows - 1
            vectors = -(-(last_row * box.row_step + columns) // (lanes * tile_vectors)) * tile_vectors
            moved = 0 if box.in_place else images * rows * -(-columns // lanes) + vectors / tile_vectors
            copied = planes * images * (rows + overhang[0]) * (2 + (columns + overhang[1]) / lanes)
            total += a * b * c * ((vectors + extra) * filters + 2 * moved + 4 * copied)
        return total

    sizes = []
    fewest, multiple = -(-OW // pixels), lanes * tile_vectors
    for cuts in range(fewest, fewest + 3):
        columns = min(OW, -(-OW // cuts // multiple) * multiple if cuts > 1 else OW)
        for rows in {-(-OH // cut) for cut in range(1, OH + 1)}:
            if rows * columns <= pixels:
                for images in {1, max(1, min(N, pixels // (rows * columns)))}:
                    sizes.append(BoxSize(images, rows, columns, False, columns))
                    sizes.append(BoxSize(images, rows, columns, True, -(-columns // lanes) * lanes))
                sizes.append(BoxSize(1, rows, columns, True, columns + overhang[1]))
    return min(sizes, key=work)


def _cut(size: int, length: int) -> list[tuple[int, int]]:
    """Return the lengths of the pieces of ``size``, and how many there are of each."""
    pieces = [(length, size // length), (size % length, 1)]
    return [(length, count) for length, count in pieces if length * count > 0]


def list_boxes(size: tuple[int, int, int, int], box: tuple[int, int, int]) -> Array:
    """Cut an output of ``size`` (images, filters, rows, columns) into boxes of so many images, rows and columns."""
    N, _, OH, OW = size
    images, rows, columns = box
    boxes = [
        (n, min(n + images, N), i, min(i + rows, OH), j, min(j + columns, OW))
        for n in range(0, N, images)
        for i in range(0, OH, rows)
        for j in range(0, OW, columns)
    ]
    return np.array(boxes, BOX)


def cut_boxes(blocks: Sequence[tuple[int, ...]], boxes: int, wanted: int) -> tuple[int, list[tuple[int, ...]]]:
    """Cut the boxes of every block of filters into parts, so that there are as many tasks as are wanted, if possible.

    Returns:
        The parts of a block; and for each task the fields of `PART` and those of its block. Those of one block follow
        on each other.
    """
    parts = max(1, min(-(-wanted // len(blocks)), boxes))
    cuts = [part * boxes // parts for part in range(parts + 1)]
    return parts, [(part, cuts[part], cuts[part + 1], *block) for block in blocks for part in range(parts)]


def split_taps(rows: Array, columns: Array, stride: Pair) -> tuple[Array, Array]:
    """Split the input positions that output (0, 0) meets at its taps, ``rows`` and ``columns``, into phases.

    Returns:
        For each tap (a, b, number of its phase); for each phase that occurs (p, q).
    """
    a, p = np.divmod(rows, stride[0])
    b, q = np.divmod(columns, stride[1])
    phases, number = np.unique(np.stack([p, q], axis=1), axis=0, return_inverse=True)
    return np.stack([a, b, number.reshape(-1)], axis=1), phases


@inlined
def copy_block(
    block: Array,
    plane: int,
    BH: int,
    BW: int,
    x: Array,
    images: Pair,
    channels: Pair,
    top_left: Pair,
    stride: Pair,
    phases: Array,
) -> None:
    """Fill a block from ``x`` (N, C, H, W): of every phase BH rows and BW columns from ``top_left`` on.

    ``plane`` is from a phase to the next in the block: it may have room for more images. Images are written in the
    order in which they lie, and zeros by whole vectors: up to a vector less one beyond the last row.
    """
    _, C, H, W = x.shape
    top, left = top_left
    x_flat = x.reshape(-1)
    for c in range(channels[0], channels[1]):
        for phase in range(len(phases)):
            p, q = phases[phase, 0], phases[phase, 1]
            # What lies inside x: rows and columns of the block.
            first, last = valid_outputs(BH, H, top * stride[0] + p, stride[0])
            before, after = valid_outputs(BW, W, left * stride[1] + q, stride[1])
            to = ((c - channels[0]) * len(phases) + phase) * plane
            for n in range(images[0], images[1]):
                if (last - first) * (after - before) < BH * BW:
                    clear(block, to, BH * BW)
                source = ((n * C + c) * H + (top + first) * stride[0] + p) * W + (left + before) * stride[1] + q
                for row in range(first, last):
                    prefetch_run(x_flat, source + H * W, (after - before) * stride[1])  # the next channel's
                    copy_every(block, to + row * BW + before, x_flat, source, stride[1], after - before)
                    source += stride[0] * W
                to += BH * BW


def tap_offsets(taps: Array, channels: int, phases: int, box: BoxSize, reach: Reach) -> Array:
    """Return where (channel, tap) lies in a block, from a pixel's position on; of taps, see `split_taps`."""
    top, left, overhang_h, overhang_w = reach
    BH, BW = box.rows + overhang_h, box.columns + overhang_w
    plane = box.images * BH * BW
    of_tap = taps[:, 2] * plane + (taps[:, 0] - top) * BW + taps[:, 1] - left
    return (np.arange(channels)[:, None] * phases * plane + of_tap).reshape(-1)


def vector_positions(box: BoxSize, reach: Reach, lanes: int) -> Array:
    """Return the positions of the vectors of a box that is read in place."""
    BH, BW = box.rows + reach[2], box.columns + reach[3]
    row, column = np.divmod(np.arange(0, (box.images * box.rows - 1) * box.row_step + box.columns, lanes), box.row_step)
    image, row = np.divmod(row, box.rows)
    return image * BH * BW + row * BW + column


def cut_pieces(box: BoxSize, reach: Reach, lanes: int, width: int, tile_step: int) -> tuple[Array, Array]:
    """Cut the pixels of a box into the pieces of which `gather` makes panels.

    Returns:
        The position of each piece, and its place in a panel, where ``width`` pixels begin every ``tile_step``.
    """
    BH, BW = box.rows + reach[2], box.columns + reach[3]
    pieces: list[tuple[int, int]] = []
    pixel = 0
    while not box.in_place and pixel < box.images * box.rows * box.columns:
        row, column = divmod(pixel, box.columns)
        position = row // box.rows * BH * BW + row % box.rows * BW + column
        pieces.append((position, pixel // width * tile_step + pixel % width))
        pixel += min(lanes, box.columns - column, width - pixel % width)
    froms, tos = np.array(pieces, np.int64).reshape(-1, 2).T
    return froms.copy(), tos.copy()


@inlined
def gather(panel: Array, row_step: int, source: Array, offsets: Array, depth: int, froms: Array, tos: Array) -> None:
    """panel[d·row_step + tos[p] + l] = source[froms[p] + offsets[d] + l] for d < depth, all pieces p and l < lanes.

    A piece is a few neighbours, at most a vector of them. It is moved as a whole vector all the same: the next piece,
    which begins within it, writes over what was too much.
    """
    lanes = lanes_of(panel)
    reach = 0
    for piece in range(len(froms)):
        reach = max(reach, froms[piece] + lanes)
    for d in range(depth):
        row, first, later = d * row_step, offsets[d], offsets[min(d + AHEAD, depth - 1)]
        if first + reach <= len(source):
            for piece in range(len(froms)):
                prefetch(source, later + froms[piece])
                move_vector(panel, row + tos[piece], source, first + froms[piece])
        else:
            for piece in range(len(froms)):
                count = min(lanes, len(source) - first - froms[piece])
                copy_run(panel, row + tos[piece], source, first + froms[piece], count)


@inlined
def prefetch_run(source: Array, first: int, count: int) -> None:
    """Ask for the cache lines of source[first : first + count], and do not wait for them. They may lie anywhere."""
    for line in range(0, count, CACHE_LINE * lanes_of(source) // VECTOR_BYTES):
        prefetch(source, first + line)


@inlined
def copy_run(target: Array, first: int, source: Array, source_first: int, count: int) -> None:
    """target[first + j] = source[source_first + j] for j < count, of two flat arrays."""
    lanes = lanes_of(target)
    if count < lanes:
        move_few(target, first, source, source_first, count)
    else:
        for j in range(0, count - lanes, lanes):
            move_vector(target, first + j, source, source_first + j)
        # The last vector is a whole one again; some of it may be there already.
        move_vector(target, first + count - lanes, source, source_first + count - lanes)


@inlined
def copy_strided(
    target: Array, first: int, step: int, source: Array, source_first: int, source_step: int, count: int
) -> None:
    """target[first + j·step] = source[source_first + j·source_step] for j < count, of two flat arrays."""
    if step == 1 and source_step == 1:
        copy_run(target, first, source, source_first, count)
    else:
        for j in range(count):
            move_number(target, first + j * step, source, source_first + j * source_step)


@inlined
def copy_every(target: Array, first: int, source: Array, source_first: int, step: int, count: int) -> None:
    """target[first + j] = source[source_first + j·step] for j < count: `copy_strided`, but faster for a step of 2."""
    lanes = lanes_of(target)
    if step == 2 and count >= lanes:
        for j in range(0, count - lanes, lanes):
            move_every_second(target, first + j, source, source_first + 2 * j)
        move_every_second(target, first + count - lanes, source, source_first + 2 * (count - lanes))
    else:
        copy_strided(target, first, 1, source, source_first, step, count)


@inlined
def copy_pairs(target: Array, first: int, source: Array, one: int, other: int, count: int) -> None:
    """target[first + 2·j] = source[one + j] and target[first + 2·j + 1] = source[other + j] for j < count."""
    lanes = lanes_of(target)
    whole = count // lanes * lanes
    for j in range(0, whole, lanes):
        interleave_two(target, first + 2 * j, source, one + j, other + j)
    for j in range(whole, count):
        move_number(target, first + 2 * j, source, one + j)
        move_number(target, first + 2 * j + 1, source, other + j)


@inlined
def turn(target: Array, to: int, to_step: int, source: Array, first: int, step: int, rows: int, count: int) -> None:
    """target[to + j·to_step + m] = source[first + m·step + j] for m < rows, j < count, of two flat arrays.

    It goes along a few rows of the source at a time, or else a few of the target: whichever lie further apart.
    """
    lanes, group = lanes_of(target), group_of(target)
    if rows < group or count < lanes:
        for m in range(rows):
            copy_strided(target, to + m, to_step, source, first + m * step, 1, count)
    else:
        by_source = step > to_step
        outer, inner = (rows, count) if by_source else (count, rows)
        for one in range(0, outer, lanes):
            for other in range(0, inner, lanes):
                m0, j0 = (one, other) if by_source else (other, one)
                for m1 in range(m0, min(m0 + lanes, rows), group):
                    # The last ones are a whole group and a whole vector again; some of them may be there already.
                    m, j = min(m1, rows - group), min(j0, count - lanes)
                    place = first + m * step + j
                    for row in range(lanes, lanes + group):
                        prefetch(source, place + row * step)
                    interleave(target, to + j * to_step + m, to_step, source, place, step, group)


@inlined
def clear(target: Array, first: int, count: int) -> None:
    """target[first + j] = 0 for j < count, and up to the end of the last vector. (A plain loop becomes a slow call.)"""
    j = 0
    while j < count:
        clear_vector(target, first + j)
        j += lanes_of(target)


@inlined
def fill(target: Array, first: int, count: int, value: float) -> None:
    """target[first + j] = value for j < count, of a flat array."""
    t = np.uint64(first)
    for j in range(np.uint64(count)):
        target[t + j] = value


@inlined
def add_run(target: Array, first: int, source: Array, source_first: int, count: int) -> None:
    """target[first + j] += source[source_first + j] for j < count, of two flat arrays."""
    # Of indices that may be negative, as Python's may, no vectors are made.
    t, s = np.uint64(first), np.uint64(source_first)
    for j in range(np.uint64(count)):
        target[t + j] += source[s + j]
