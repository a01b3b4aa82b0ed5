"""Winograd's tiles: how an image is cut into them, and the small matrices that carry them to 36 points and back.

Take four outputs of a convolution with three taps in one dimension. They meet six inputs d0 … d5, and they are twelve
products. Read taps, outputs and inputs as coefficients of polynomials, and the convolution is a product of polynomials
of degree 2 and 3 (or its transpose); such a product is settled by its values at 2 + 3 + 1 = 6 points, and there it is
taken point by point: six products. With the points 0, 1, −1, 2, −2 and ∞ (Lavin & Gray 2015, "Fast Algorithms for
Convolutional Neural Networks", §4.1 and 4.3: F(4, 3))

    y = Aᵀ [(G w) ⊙ (Bᵀ d)]                  w: 3 taps, d: 6 inputs, y: 4 outputs

and for a tile of 4×4 outputs, which meets 6×6 inputs, along columns and then along rows:

    Y = Aᵀ [(G W Gᵀ) ⊙ (Bᵀ D B)] A           36 products in place of 4·4·3·3 = 144

This is linear in W. So the gradient of the filter is its transpose, with the same three matrices:

    GW = Gᵀ [(A GY Aᵀ) ⊙ (Bᵀ D B)] G

The functions below multiply by one of these matrices, and write it as few sums of what its rows have in common.

**Where tiles lie.** An image is cut into TH × TW tiles, and the tile rows of all images are numbered through: r = n·TH
+ tile row. A box is a rectangle of such rows and some tile columns. Within a box tile (row, column) has the *position*
row · (columns + 1) + column: between rows one position is left empty, so that the two columns of inputs by which a tile
reaches into the next one are always found at the next position.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from minifcn_kernels.jit import Array, inlined
from minifcn_kernels.spatial import Pair
from minifcn_kernels.tile import VECTOR_BYTES, VECTORS

# What the functions below multiply by. Only the error bound and the tests use the matrices themselves.
B_T = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float64,
)
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A_T = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64)

# How much a row of Aᵀ (… ⊙ …), in one dimension, can make of numbers of magnitude 1; and a row of Gᵀ (… ⊙ …).
FORWARD_GROWTH = float((np.abs(A_T) @ (np.abs(G).sum(axis=1) * np.abs(B_T).sum(axis=1))).max())
WEIGHT_GROWTH = float((np.abs(G.T) @ (np.abs(A_T).sum(axis=0) * np.abs(B_T).sum(axis=1))).max())

TILE = 4  # outputs of a tile along an axis
REACH = 6  # inputs that they meet, and points
POINTS = REACH * REACH
LANES = VECTOR_BYTES // np.dtype(np.float32).itemsize
WIDTH = VECTORS * LANES
# The most positions in a box. A multiple of the register tile's width, whether vectors hold 4, 8 or 16 numbers.
POSITIONS = 96
# Channels whose transforms lie together; their panels are what the register tile reads as its right-hand side.
CHANNELS = 64

# Steps in scratch memory: from panel to panel, from plane to plane, from row to row, from point to point. What is
# written side by side must not lie a multiple of 4096 bytes apart, or it competes for the same few lines of the
# first-level cache: hence the SKEW, the widest of vectors.
SKEW = 16
PANEL = CHANNELS * WIDTH
PLANE = POSITIONS + SKEW
ROW = TILE * PLANE
V_STEP = CHANNELS * POSITIONS + SKEW
WORKSPACE = 2 * REACH * ROW

BOX = np.dtype([(name, np.int64) for name in ("r0", "r1", "q0", "q1")])  # firsts and one past lasts

# Plain numbers would turn float32 into float64.
TWO, FOUR, FIVE, EIGHT = (np.float32(n) for n in (2, 4, 5, 8))
QUARTER, SIXTH, TWELFTH, TWENTY_FOURTH = (np.float32(1 / n) for n in (4, 6, 12, 24))


@inlined
def times_b_t(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> tuple[Any, ...]:
    """Bᵀ d: six inputs to six points."""
    even, odd = d4 - FOUR * d2, d3 - FOUR * d1  # what 1 and −1 share, up to the sign
    even_2, odd_2 = d4 - d2, TWO * (d3 - d1)  # what 2 and −2 share
    zero, infinity = FOUR * d0 - FIVE * d2 + d4, FOUR * d1 - FIVE * d3 + d5
    return zero, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, infinity


@inlined
def times_g(w0: Any, w1: Any, w2: Any) -> tuple[Any, ...]:
    """G w: three taps to six points."""
    even, odd = SIXTH * (w0 + w2), SIXTH * w1
    even_2, odd_2 = TWENTY_FOURTH * w0 + SIXTH * w2, TWELFTH * w1
    return QUARTER * w0, -even - odd, odd - even, even_2 + odd_2, even_2 - odd_2, w2


@inlined
def times_a_t(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> tuple[Any, ...]:
    """Aᵀ m: six points to four outputs."""
    even, odd, even_2, odd_2 = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + even + even_2, odd + TWO * odd_2, even + FOUR * even_2, odd + EIGHT * odd_2 + m5


@inlined
def times_a(y0: Any, y1: Any, y2: Any, y3: Any) -> tuple[Any, ...]:
    """A y: four outputs to six points."""
    even, odd = y0 + y2, y1 + y3
    even_2, odd_2 = y0 + FOUR * y2, TWO * y1 + EIGHT * y3
    return y0, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, y3


@inlined
def times_g_t(u0: Any, u1: Any, u2: Any, u3: Any, u4: Any, u5: Any) -> tuple[Any, ...]:
    """Gᵀ u: six points to three taps."""
    even, odd, even_2, odd_2 = SIXTH * (u1 + u2), SIXTH * (u2 - u1), u3 + u4, u3 - u4
    return QUARTER * u0 - even + TWENTY_FOURTH * even_2, odd + TWELFTH * odd_2, SIXTH * even_2 - even + u5


def error_bound(terms: int, growth: float, largest: float) -> float:
    """Return how far off any result can be: γ(28 + terms)·terms·growth²·largest, see **Error** in `winograd`.

    Args:
        terms: how many products are added up at a point: channels, or tiles for the weight gradient.
        growth: `FORWARD_GROWTH` or `WEIGHT_GROWTH`.
        largest: the product of the two operands' largest magnitudes.
    """
    roundings = (28 + terms) * 2.0**-24
    return roundings / (1 - roundings) * terms * growth**2 * largest


@lru_cache(maxsize=256)
def cut_into_boxes(N: int, OH: int, OW: int, most: int) -> Array:
    """Cut the tiles of N outputs of OH × OW into boxes of at most ``most`` positions that fill the fewest panels."""
    R, TW = N * -(-OH // TILE), -(-OW // TILE)

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


@inlined
def transform_data(
    V: Array, v_first: int, x: Array, c: int, tile_rows: int, padding: Pair, box: Any, workspace: Array
) -> None:
    """Bᵀ D B of all tiles of a box, in channel ``c`` of ``x``::

        V[v_first + point·V_STEP + panel·PANEL + p]             for position panel·WIDTH + p of the box

    Vectors run over the positions. For the first product that is simple, since a row's neighbours are neighbours in
    memory. For the second, every fourth number is wanted: the rows are dealt out to four planes in between.

    Here and elsewhere loops run to ``six``, and not to REACH: a compiler that knows the number unrolls them, for more
    code that is not faster.
    """
    _, C, H, W = x.shape
    x_flat = x.reshape(-1)
    rows, planes = workspace[: REACH * ROW], workspace[REACH * ROW : WORKSPACE]
    six = len(rows) // ROW
    width = TILE * (box.q1 - box.q0 + 1)
    left = TILE * box.q0 - padding[1]
    before = min(max(0, -left), width)  # columns left of x
    after = max(before, min(width, W - left))  # the first column right of x
    for r in range(box.r0, box.r1):
        n, top = r // tile_rows, r % tile_rows * TILE - padding[0]
        for i in range(six):
            row = rows[i * ROW + (r - box.r0) * width :]
            inside = 0 <= top + i < H
            for z in range(before if inside else width):
                row[z] = 0
            if inside:
                source = x_flat[((n * C + c) * H + top + i) * W + left + before :]
                row = row[before:]
                for z in range(after - before):
                    row[z] = source[z]
                row = row[after - before :]
                for z in range(width - after):
                    row[z] = 0

    panels = panels_of(box)
    count = panels * WIDTH + LANES  # the last tile reaches into the next position
    for z in range(TILE * count):
        d0, d1, d2 = rows[z], rows[z + ROW], rows[z + 2 * ROW]
        d3, d4, d5 = rows[z + 3 * ROW], rows[z + 4 * ROW], rows[z + 5 * ROW]
        u0, u1, u2, u3, u4, u5 = times_b_t(d0, d1, d2, d3, d4, d5)
        rows[z], rows[z + ROW], rows[z + 2 * ROW] = u0, u1, u2
        rows[z + 3 * ROW], rows[z + 4 * ROW], rows[z + 5 * ROW] = u3, u4, u5
    for i in range(six):
        d, plane = rows[i * ROW :], planes[i * ROW :]
        for p in range(count):
            plane[p], plane[p + PLANE] = d[4 * p], d[4 * p + 1]
            plane[p + 2 * PLANE], plane[p + 3 * PLANE] = d[4 * p + 2], d[4 * p + 3]
    for i in range(six):
        for panel in range(panels):
            d, v = planes[i * ROW + panel * WIDTH :], V[v_first + i * REACH * V_STEP + panel * PANEL :]
            for p in range(WIDTH):
                d0, d1, d2, d3 = d[p], d[p + PLANE], d[p + 2 * PLANE], d[p + 3 * PLANE]
                u0, u1, u2, u3, u4, u5 = times_b_t(d0, d1, d2, d3, d[p + 1], d[p + PLANE + 1])
                v[p], v[p + V_STEP], v[p + 2 * V_STEP] = u0, u1, u2
                v[p + 3 * V_STEP], v[p + 4 * V_STEP], v[p + 5 * V_STEP] = u3, u4, u5
