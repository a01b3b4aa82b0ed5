"""The filters of Winograd's convolution at 36 points: U = G W Gᵀ.

A vector holds the same tap of several filters. In memory a filter's taps and channels lie side by side, and filters far
apart, so they are turned about first; after that, every step is one on whole vectors. What is made of some filters and
some channels, a *block*, lies together. So it can be made just before it is used, and stay in a cache.
"""

from typing import Any

from numba import get_thread_id

from minifcn_kernels.conv2d.block import fill
from minifcn_kernels.conv2d.vectors import LANES, QUAD, deal
from minifcn_kernels.conv2d.winograd_tiles import CHANNELS, SKEW, WIDTH
from minifcn_kernels.conv2d.winograd_transforms import POINTS, REACH, TAPS, taps_to_points
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import CACHE_LINE, whole_lines
from minifcn_kernels.moves import move_vector, prefetch

# Filters in a lot, a multiple of the register tile's width: 24, or 48 with AVX-512. Their transforms for `CHANNELS`
# virtual channels make a block: 223 KB with AVX2.
FILTERS = -(-24 // WIDTH) * WIDTH
U_STEP = FILTERS * CHANNELS + SKEW  # from point to point
U_BLOCK = POINTS * U_STEP
# About so many taps of a filter, in several channels, are brought side by side at a time: those of a lot stay in a
# first-level cache.
TOGETHER = 96
# Numbers that memory delivers at a time. Where filters are used once, to ask for the next ones in time makes a layer of
# few tiles 3 to 10 % faster: a processor does not see by itself where 24 rows go on that lie far apart.
LINE_NUMBERS = CACHE_LINE // 4


def filter_desk(w: Array) -> int:
    """Return how many numbers `transform_block` has to have for its work: taps side by side, and taps at points."""
    taps = max(TOGETHER, w.shape[2] * w.shape[3]) + QUAD + TAPS * TAPS
    (desk,) = whole_lines(w.itemsize, (taps + TAPS * REACH) * FILTERS)
    return desk


@compiled
def transform_filters(
    first: int,
    last: int,
    out: Array,
    scratch: Array,
    w: Array,
    grid: Array,
    origins: Array,
    groups: int,
    transposed: bool,
) -> None:
    """out[block] = `transform_block` of every block: of every group, lot of filters, and lot of channels."""
    desk = scratch[get_thread_id()]
    blocks_per_group = len(out) // groups
    depth = len(origins) * (w.shape[0] // groups if transposed else w.shape[1])
    v_lots = (depth + CHANNELS - 1) // CHANNELS
    for block in range(first, last):
        group, rest = block // blocks_per_group, block % blocks_per_group
        lot, v_lot = rest // v_lots, rest % v_lots
        transform_block(out[block], desk, w, grid[0], origins, groups, transposed, group, lot, v_lot)


@inlined
def transform_block(
    U: Array,
    desk: Array,
    w: Array,
    grid: Any,
    origins: Array,
    groups: int,
    transposed: bool,
    group: int,
    lot: int,
    v_lot: int,
) -> None:
    """G W Gᵀ of a lot of filters for a lot of virtual channels: U[point·U_STEP + channel·FILTERS + filter]."""
    K, C, R, S = w.shape
    K //= groups
    w_flat = w.reshape(-1)
    filters, channels = (C, K) if transposed else (K, C)  # of a group
    filter_step, channel_step = (R * S, C * R * S) if transposed else (C * R * S, R * S)
    f0, v0 = lot * FILTERS, v_lot * CHANNELS
    count, v1 = min(FILTERS, filters - f0), min(channels * len(origins), v0 + CHANNELS)
    vectors = (count + LANES - 1) // LANES

    points, taps = desk[: TAPS * REACH * FILTERS], desk[TAPS * REACH * FILTERS :]
    three = len(points) // (REACH * FILTERS)  # see `transform_data`
    nine_first = len(taps) - TAPS * TAPS * FILTERS
    c0 = c1 = 0
    for v in range(v0, v1):
        c = v // len(origins)
        if v == v0 or c == c1:
            # Bring the filters of the next few channels side by side: taps[((c - c0)·R·S + tap)·FILTERS + filter].
            c0, c1 = c, min((v1 - 1) // len(origins) + 1, c + max(1, TOGETHER // (R * S)))
            # Runs of taps that a filter has one behind the other: of one channel, or of all.
            runs, length = (c1 - c0, R * S) if transposed else (1, (c1 - c0) * R * S)
            for run in range(runs):
                for f in range(0, count, LANES):
                    w_first = group * K * C * R * S + (c0 + run) * channel_step + (f0 + f) * filter_step
                    rows = min(LANES, count - f)
                    _side_by_side(
                        taps,
                        run * length * FILTERS + f,
                        w_flat,
                        w_first,
                        filter_step,
                        length,
                        rows,
                        (c1 - c0) * channel_step,
                    )
        origin = origins[v % len(origins)]
        place = origin.r * S + origin.s
        row_step, column_step = grid.apart_h * S * FILTERS, grid.apart_w * FILTERS
        if transposed:  # turned by 180°
            place, row_step, column_step = R * S - 1 - place, -row_step, -column_step
        first = ((c - c0) * R * S + place) * FILTERS
        if origin.r + (TAPS - 1) * grid.apart_h >= R or origin.s + (TAPS - 1) * grid.apart_w >= S:
            # Taps beyond the filter are zero: make nine of those that there are.
            for tap in range(three * TAPS):
                i, j = tap // TAPS, tap % TAPS
                to, source = nine_first + tap * FILTERS, first + i * row_step + j * column_step
                if origin.r + i * grid.apart_h < R and origin.s + j * grid.apart_w < S:
                    for z in range(0, vectors * LANES, LANES):
                        move_vector(taps, to + z, taps, source + z)
                else:
                    fill(taps, to, FILTERS, 0)
            first, row_step, column_step = nine_first, TAPS * FILTERS, FILTERS
        for j in range(three):
            for z in range(0, vectors * LANES, LANES):
                taps_to_points(points, j * FILTERS + z, TAPS * FILTERS, taps, first + j * column_step + z, row_step)
        for i in range(2 * three):
            to = i * REACH * U_STEP + (v - v0) * FILTERS
            for z in range(0, vectors * LANES, LANES):
                taps_to_points(U, to + z, U_STEP, points, i * TAPS * FILTERS + z, FILTERS)


@inlined
def _side_by_side(to: Array, to_first: int, w: Array, first: int, step: int, count: int, rows: int, ahead: int) -> None:
    """to[to_first + n·FILTERS + row] = w[first + row·step + n] for n < count and row < rows.

    Both are filled up, to whole quads and to a vector, with numbers without meaning. What lies ``ahead`` of these
    numbers will be wanted next.
    """
    readable = len(w) - (first + (LANES - 1) * step)  # in the last row of a vector
    n = 0
    while n < count and n + QUAD <= readable:
        if n % LINE_NUMBERS == 0:
            for lane in range(LANES):
                prefetch(w, first + n + lane * step + ahead)
        deal(to, to_first + n * FILTERS, FILTERS, w, first + n, step)
        n += QUAD
    for m in range(n, count):
        for row in range(rows):
            to[to_first + m * FILTERS + row] = w[first + row * step + m]
