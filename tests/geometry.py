"""Hypothesis strategies for the geometry of windowed kernels, and arrays to go with them: for tests of kernels alone.

Everything above the kernels takes `minifcn.testing.strategies`, whose cases ask the kernels' contracts for the size
of an output. Here the contracts themselves are tested, so nothing is asked: the output's size is drawn and the
input's derived from it, and no example is thrown away. Arrays have a dtype, since kernels are tested in both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minifcn.random import stream

SEEDS = st.integers(0, 2**32 - 1)


def normal(seed, shape, dtype=np.float64):
    return stream(seed).standard_normal(shape).astype(dtype)


def whole(seed, shape, dtype=np.float64):
    """Small whole numbers: their sums and products are exact, and they tie often."""
    return stream(seed).integers(-3, 4, shape).astype(dtype)


def distinct(seed, shape, dtype=np.float64):
    """Numbers of which any two differ by 0.1 or more: a maximum stays where it is under small steps."""
    size = int(np.prod(shape))
    return (stream(seed).permutation(size).reshape(shape) * 0.1).astype(dtype)


@dataclass(frozen=True)
class Windowed:
    """A valid geometry: the shapes of x and of the filter or window, and the options."""

    x_shape: tuple[int, int, int, int]
    w_shape: tuple[int, ...]
    options: dict[str, Any]


@st.composite
def convolutions(draw):
    groups = draw(st.integers(1, 3))
    C, K = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    axes = []
    for _ in range(2):
        outputs, kernel, stride, dilation = (draw(st.integers(1, 3)) for _ in range(4))
        left_over = draw(st.integers(0, stride - 1))
        padded = (outputs - 1) * stride + dilation * (kernel - 1) + 1 + left_over
        padding = draw(st.integers(0, min(3, (padded - 1) // 2)))
        axes.append((padded - 2 * padding, kernel, stride, padding, dilation))
    sizes, kernels, strides, paddings, dilations = zip(*axes, strict=True)
    options = {"stride": strides, "padding": paddings, "dilation": dilations, "groups": groups}
    return Windowed((draw(st.integers(1, 2)), C, *sizes), (K, C // groups, *kernels), options)


@st.composite
def poolings(draw, *, dilated, ceil=True):
    ceil_mode = ceil and draw(st.booleans())
    axes = []
    for _ in range(2):
        outputs, kernel, stride = (draw(st.integers(1, 3)) for _ in range(3))
        dilation = draw(st.integers(1, 3)) if dilated else 1
        reach = dilation * (kernel - 1) + 1
        # Less than one stride is left over, or in ceil_mode missing.
        missing = min(stride, reach) - 1 if ceil_mode else 0
        padded = (outputs - 1) * stride + reach + draw(st.integers(-missing, stride - 1))
        padding = draw(st.integers(0, min(kernel // 2, (padded - 1) // 2)))
        if padded - 2 * padding < dilation:  # a dilated window might jump over so small an input
            padding = 0
        axes.append((padded - 2 * padding, kernel, stride, padding, dilation))
    sizes, kernels, strides, paddings, dilations = zip(*axes, strict=True)
    options = {"kernel_size": kernels, "stride": strides, "padding": paddings, "ceil_mode": ceil_mode}
    options |= {"dilation": dilations} if dilated else {"count_include_pad": draw(st.booleans())}
    return Windowed((draw(st.integers(1, 2)), draw(st.integers(1, 2)), *sizes), kernels, options)


@st.composite
def crops(draw):
    """Return the shape of a map, and the offset and size of a rectangle in it."""
    offset, size, behind = ((draw(st.integers(low, 3)), draw(st.integers(low, 3))) for low in (0, 1, 0))
    N, C = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return (N, C, *(o + s + b for o, s, b in zip(offset, size, behind, strict=True))), offset, size


LOGIT_SHAPES = st.tuples(*[st.integers(1, 4)] * 4)
