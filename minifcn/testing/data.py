"""Arrays to test with, each a function of its shape and a seed: small to write down, the same everywhere.

What the numbers must be depends on what is tested. Central differences need a point where the function is smooth;
an adjoint that must hold exactly needs whole numbers; the rule for a tie needs ties.
"""

import numpy as np

from minifcn.random import stream
from minifcn_kernels.jit import Array

Shape = tuple[int, ...]


def normal(shape: Shape, seed: int = 0) -> Array:
    """Draw from the normal distribution of mean 0 and variance 1."""
    return stream(seed, "normal").standard_normal(shape)


def distinct(shape: Shape, seed: int = 0) -> Array:
    """Shuffle evenly spaced numbers around 0, of which none is 0: the data for ReLU and max pooling.

    Neighbours are at least 1/64 apart, and nothing is nearer to 0 than half of that. Steps of central differences are
    far smaller, so no maximum changes its place and no sign flips. Up to 256 numbers lie within ±2.
    """
    size = int(np.prod(shape))
    spacing = max(1 / 64, 4 / size) if size else 0.0
    places = np.arange(size) - size // 2 + 0.5  # …, −1.5, −0.5, 0.5, 1.5, …
    return stream(seed, "distinct").permutation(places * spacing).reshape(shape)


def tied(shape: Shape, seed: int = 0) -> Array:
    """Draw from −1, 0 and 1: equal maxima in almost every window, and many a 0 for a ReLU."""
    return stream(seed, "tied").integers(-1, 2, shape).astype(np.float64)


def whole(shape: Shape, seed: int = 0) -> Array:
    """Draw whole numbers from −4 to 4: their sums and products are exact, whatever the order."""
    return stream(seed, "whole").integers(-4, 5, shape).astype(np.float64)


def strided(array: Array) -> Array:
    """Return an equal array that is laid out unkindly: axes reversed, backwards, with gaps of NaN or huge numbers."""
    if array.ndim == 0:
        return strided(array[None]).reshape(())
    gap = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    *outer, last = array.shape
    store = np.full((2 * last, *reversed(outer)), gap, array.dtype)
    backwards = slice(None, None, -1)
    view = store[(slice(None, None, -2), *[backwards] * len(outer))].transpose()
    view[...] = array
    return view
