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

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from minifcn_kernels.jit import Array, inlined
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import VECTOR_BYTES, move_vector, prefetch

# While a row is gathered, the one so many rows later is asked for: rows lie too far apart for the processor to foresee.
AHEAD = 8
# Firsts and one past lasts of a box's images, rows and columns.
BOX = np.dtype([(name, np.int64) for name in ("n0", "n1", "i0", "i1", "j0", "j1")])


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
    """
    N, _, OH, OW = size

    def work(box: BoxSize) -> float:
        """Vectors that are multiplied for each tap; to move one costs like multiplying four."""
        images, rows, columns, in_place, row_step = box
        vectors = -(-((images * rows - 1) * row_step + columns) // (lanes * tile_vectors)) * tile_vectors
        moved = 0 if in_place else images * rows * -(-columns // lanes) + vectors / tile_vectors
        copied = planes * images * (rows + overhang[0]) * (2 + (columns + overhang[1]) / lanes)
        boxes = -(-N // images) * -(-OH // rows) * -(-OW // columns)
        return boxes * (vectors * filters + 4 * (moved + copied))

    sizes = []
    fewest, multiple = -(-OW // pixels), lanes * tile_vectors
    for cuts in range(fewest, fewest + 3):
        columns = min(OW, -(-OW // cuts // multiple) * multiple if cuts > 1 else OW)
        for rows in {-(-OH // cut) for cut in range(1, OH + 1)}:
            if rows * columns <= pixels:
                images = max(1, min(N, pixels // (rows * columns)))
                sizes.append(BoxSize(images, rows, columns, False, columns))
                sizes.append(BoxSize(images, rows, columns, True, -(-columns // lanes) * lanes))
                sizes.append(BoxSize(1, rows, columns, True, columns + overhang[1]))
    return min(sizes, key=work)


def list_boxes(size: tuple[int, int, int, int], box: BoxSize) -> Array:
    """Cut an output of ``size`` (images, filters, rows, columns) into boxes."""
    N, _, OH, OW = size
    boxes = [
        (n, min(n + box.images, N), i, min(i + box.rows, OH), j, min(j + box.columns, OW))
        for n in range(0, N, box.images)
        for i in range(0, OH, box.rows)
        for j in range(0, OW, box.columns)
    ]
    return np.array(boxes, BOX)


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

    ``plane`` is from a phase to the next in the block: it may have room for more images.
    """
    _, C, H, W = x.shape
    top, left = top_left
    x_flat = x.reshape(-1)
    for c in range(channels[0], channels[1]):
        for phase in range(len(phases)):
            to = ((c - channels[0]) * len(phases) + phase) * plane
            p, q = phases[phase, 0], phases[phase, 1]
            before = min(max(0, -left), BW)  # columns left of x
            after = max(before, min(BW, (W - q + stride[1] - 1) // stride[1] - left))  # the first column right of x
            for n in range(images[0], images[1]):
                for row in range(top, top + BH):
                    h = row * stride[0] + p
                    if 0 <= h < H:
                        fill(block, to, before, 0)
                        source = ((n * C + c) * H + h) * W + (left + before) * stride[1] + q
                        copy_strided(block, to + before, 1, x_flat, source, stride[1], after - before)
                        fill(block, to + after, BW - after, 0)
                    else:
                        fill(block, to, BW, 0)
                    to += BW


@inlined
def tap_offsets(taps: Array, channels: int, channel_step: int, plane: int, BW: int, top: int, left: int) -> Array:
    """Return where (channel, tap) lies in a block, from a pixel's position on; of taps, see `split_taps`."""
    T = len(taps)
    offset = np.empty(channels * T, np.int64)
    for c in range(channels):
        for t in range(T):
            offset[c * T + t] = c * channel_step + taps[t, 2] * plane + (taps[t, 0] - top) * BW + taps[t, 1] - left
    return offset


@inlined
def vector_positions(
    to: Array, images: int, rows: int, columns: int, row_step: int, image_step: int, BW: int, lanes: int
) -> None:
    """Write the positions of the vectors of a box that is read in place to ``to``."""
    for v in range(((images * rows - 1) * row_step + columns + lanes - 1) // lanes):
        row, column = v * lanes // row_step, v * lanes % row_step
        to[v] = row // rows * image_step + row % rows * BW + column


@inlined
def cut_pieces(
    images: int, rows: int, columns: int, image_step: int, BW: int, lanes: int, width: int, tile_step: int
) -> tuple[Array, Array]:
    """Cut the pixels of a box into the pieces of which `gather` makes panels.

    Returns:
        The position of each piece, and its place in a panel. There ``width`` pixels begin every ``tile_step``.
    """
    pixels = images * rows * columns
    froms = np.empty(pixels // lanes + images * rows + pixels // width + 1, np.int64)
    tos = np.empty_like(froms)
    piece = pixel = 0
    while pixel < pixels:
        row, column = pixel // columns, pixel % columns
        froms[piece] = row // rows * image_step + row % rows * BW + column
        tos[piece] = pixel // width * tile_step + pixel % width
        pixel += min(lanes, columns - column, width - pixel % width)
        piece += 1
    return froms[:piece], tos[:piece]


@inlined
def gather(panel: Array, row_step: int, source: Array, offsets: Array, depth: int, froms: Array, tos: Array) -> None:
    """panel[d·row_step + tos[p] + l] = source[froms[p] + offsets[d] + l] for d < depth, all pieces p and l < lanes.

    A piece is a few neighbours, at most a vector of them. It is moved as a whole vector all the same: the next piece,
    which begins within it, writes over what was too much.
    """
    lanes = VECTOR_BYTES // panel.itemsize
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
def copy_run(target: Array, first: int, source: Array, source_first: int, count: int) -> None:
    """target[first + j] = source[source_first + j] for j < count, of two flat arrays."""
    lanes = VECTOR_BYTES // target.itemsize
    if count < lanes:
        for j in range(count):
            target[first + j] = source[source_first + j]
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
        # Unsigned indices spare the test for negative ones.
        t, t_step, s, s_step = np.uint64(first), np.uint64(step), np.uint64(source_first), np.uint64(source_step)
        for j in range(np.uint64(max(0, count))):
            target[t + j * t_step] = source[s + j * s_step]


@inlined
def fill(target: Array, first: int, count: int, value: float) -> None:
    """target[first + j] = value for j < count, of a flat array."""
    t = np.uint64(first)
    for j in range(np.uint64(count)):
        target[t + j] = value
