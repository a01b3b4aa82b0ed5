"""Winograd's small matrices, which carry a tile to 36 points and back.

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

The functions below multiply by one of these matrices, and write it as few sums of what its rows have in common. They
are run on whole vectors: see `vectors`, and the intrinsics below that are made of them.
"""

from typing import Any

import numpy as np

from minifcn_kernels.conv2d.vectors import on_vectors

TILE = 4  # outputs of a tile along an axis
REACH = 6  # inputs that they meet, and points
POINTS = REACH * REACH
TAPS = 3

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


def times_b_t(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> tuple[Any, ...]:
    """Bᵀ d: six inputs to six points."""
    even, odd = d4 - 4 * d2, d3 - 4 * d1  # what 1 and −1 share, up to the sign
    even_2, odd_2 = d4 - d2, 2 * (d3 - d1)  # what 2 and −2 share
    zero, infinity = 4 * d0 - 5 * d2 + d4, 4 * d1 - 5 * d3 + d5
    return zero, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, infinity


def times_g(w0: Any, w1: Any, w2: Any) -> tuple[Any, ...]:
    """G w: three taps to six points."""
    even, odd = 1 / 6 * (w0 + w2), 1 / 6 * w1
    even_2, odd_2 = 1 / 24 * w0 + 1 / 6 * w2, 1 / 12 * w1
    return 1 / 4 * w0, -even - odd, odd - even, even_2 + odd_2, even_2 - odd_2, w2


def times_a_t(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> tuple[Any, ...]:
    """Aᵀ m: six points to four outputs."""
    even, odd, even_2, odd_2 = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + even + even_2, odd + 2 * odd_2, even + 4 * even_2, odd + 8 * odd_2 + m5


def times_a(y0: Any, y1: Any, y2: Any, y3: Any) -> tuple[Any, ...]:
    """A y: four outputs to six points."""
    even, odd = y0 + y2, y1 + y3
    even_2, odd_2 = y0 + 4 * y2, 2 * y1 + 8 * y3
    return y0, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, y3


def times_g_t(u0: Any, u1: Any, u2: Any, u3: Any, u4: Any, u5: Any) -> tuple[Any, ...]:
    """Gᵀ u: six points to three taps."""
    even, odd, even_2, odd_2 = 1 / 6 * (u1 + u2), 1 / 6 * (u2 - u1), u3 + u4, u3 - u4
    return 1 / 4 * u0 - even + 1 / 24 * even_2, odd + 1 / 12 * odd_2, 1 / 6 * even_2 - even + u5


data_to_points, taps_to_points, outputs_to_points = on_vectors(times_b_t), on_vectors(times_g), on_vectors(times_a)
points_to_outputs, points_to_taps = on_vectors(times_a_t), on_vectors(times_g_t)
# Along a row, tiles lie side by side, and the last two inputs of a tile are the first two of the next one.
row_to_points = on_vectors(times_b_t, planes=TILE)


def error_bound(terms: int, growth: float, largest: float) -> float:
    """Return how far off any result can be: γ(28 + terms)·terms·growth²·largest, see **Error** in `winograd`.

    Args:
        terms: how many products are added up at a point: virtual channels, or tiles for the weight gradient.
        growth: `FORWARD_GROWTH` or `WEIGHT_GROWTH`.
        largest: the product of the two operands' largest magnitudes.
    """
    roundings = (28 + terms) * 2.0**-24
    return roundings / (1 - roundings) * terms * growth**2 * largest
