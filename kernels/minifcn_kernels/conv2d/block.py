"""The block: the padded piece of input under a box of output pixels, in a scratch buffer that stays in the cache.

The register tile reads its right-hand side from here. A box is images n0…n1 by output rows i0…i1 by output columns
j0…j1; its block holds, for some channels, all that its pixels meet at any tap:

    block[c · channel_step + position · pixel_step]        position = (n · BH + row) · BW + column

with BH rows and BW columns to an image. What lies outside the input is zero, so no later step knows of padding. A
pixel's position knows the stride; a tap is an offset from there, whatever the dilation.
"""

import numpy as np

from minifcn_kernels.jit import Array, inlined
from minifcn_kernels.spatial import Pair


@inlined
def positions(images: int, rows: int, columns: int, BH: int, BW: int, stride: Pair, slack: int) -> Array:
    """Return where tap (0, 0) of each pixel of a box lies in its block, and ``slack`` zeros after the last."""
    position = np.zeros(images * rows * columns + slack, np.int64)
    pixel = 0
    for n in range(images):
        for i in range(rows):
            for j in range(columns):
                position[pixel] = (n * BH + i * stride[0]) * BW + j * stride[1]
                pixel += 1
    return position


@inlined
def copy_block(
    block: Array,
    channel_step: int,
    pixel_step: int,
    BH: int,
    BW: int,
    x: Array,
    images: Pair,
    channels: Pair,
    top: int,
    left: int,
) -> None:
    """Fill a block from ``x`` (N, C, H, W), rows from ``top`` and columns from ``left`` on, zero outside ``x``."""
    _, C, H, W = x.shape
    x_flat = x.reshape(-1)
    before = min(max(0, -left), BW)  # columns left of x
    after = max(before, min(BW, W - left))  # the first column right of x
    for c in range(channels[0], channels[1]):
        to = (c - channels[0]) * channel_step
        for n in range(images[0], images[1]):
            for h in range(top, top + BH):
                if 0 <= h < H:
                    fill(block, to, pixel_step, before, 0)
                    source = ((n * C + c) * H + h) * W + left + before
                    copy_run(block, to + before * pixel_step, pixel_step, x_flat, source, after - before)
                    fill(block, to + after * pixel_step, pixel_step, BW - after, 0)
                else:
                    fill(block, to, pixel_step, BW, 0)
                to += BW * pixel_step


@inlined
def copy_run(target: Array, first: int, step: int, source: Array, source_first: int, count: int) -> None:
    """target[first + j·step] = source[source_first + j] for j < count, of two flat arrays.

    Indices are unsigned: that spares the test for negative ones, which would keep the compiler from using vectors.
    """
    t, t_step, s = np.uint64(first), np.uint64(step), np.uint64(source_first)
    if step == 1:
        for j in range(np.uint64(count)):
            target[t + j] = source[s + j]
    else:
        for j in range(np.uint64(count)):
            target[t + j * t_step] = source[s + j]


@inlined
def fill(target: Array, first: int, step: int, count: int, value: float) -> None:
    """target[first + j·step] = value for j < count, of a flat array."""
    t, t_step = np.uint64(first), np.uint64(step)
    if step == 1:
        for j in range(np.uint64(count)):
            target[t + j] = value
    else:
        for j in range(np.uint64(count)):
            target[t + j * t_step] = value
