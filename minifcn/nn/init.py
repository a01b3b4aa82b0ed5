"""First values of parameters: He for layers that are followed by a ReLU, bilinear for upsampling, zero for scores."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair, pair

_blank: ContextVar[bool] = ContextVar("blank", default=False)


@contextmanager
def blank() -> Iterator[None]:
    """Leave weights at zero inside this ``with``, for a net whose weights are about to be loaded.

    To draw the 138 million of VGG16 takes seconds; zeros that nobody has written to take neither time nor memory.
    """
    token = _blank.set(True)
    try:
        yield
    finally:
        _blank.reset(token)


def he_normal(shape: tuple[int, ...], rng: np.random.Generator | None = None) -> Array:
    """Draw weights of shape (K, C/G, R, S) or (K, C) from a normal distribution of variance 2 / fan-in, in float32.

    A ReLU halves the variance of what passes through it; this keeps it the same from layer to layer
    (He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, eq. 10).

    Args:
        shape: of the weights; all axes but the first are summed over by an output and make up its fan-in.
        rng: the source of the numbers; fresh entropy if None.

    Raises:
        ValueError: the weights would be empty.
    """
    if min(shape) < 1:
        raise ValueError(f"he_normal: every size of the weights must be at least 1, got shape {shape}")
    if _blank.get():
        return np.zeros(shape, np.float32)
    fan_in = math.prod(shape[1:])
    weights = (rng or np.random.default_rng()).standard_normal(shape)
    weights *= math.sqrt(2 / fan_in)  # in place: VGG16's fc6 takes 0.8 GB in float64
    return weights.astype(np.float32)


def bilinear(channels: int, kernel: IntOrPair, *, groups: int = 1) -> Array:
    """Return weights (channels, channels/groups, R, S) with which a transposed convolution interpolates (FCN §3.3).

    Each channel is upsampled alone: the filter stands on the channel diagonal. Along one axis of size k it is the
    triangle 1 − |i − centre| / factor with factor = ⌊(k + 1)/2⌋ and its peak in the middle, at (k − 1)/2.
    With kernel 2f − 1 and stride f this is exact interpolation; with kernel 2f, half a pixel to the side.
    """
    sizes = pair("kernel", kernel, minimum=1)
    triangles = []
    for size in sizes:
        factor = (size + 1) // 2
        triangles.append(1 - np.abs(np.arange(size) - (size - 1) / 2) / factor)
    per_group = channels // groups
    weights = np.zeros((channels, per_group, *sizes), np.float32)
    for channel in range(channels):
        weights[channel, channel % per_group] = np.outer(*triangles)
    return weights
