"""Spatial options and sizes: an int or an ``(h, w)`` pair becomes a checked pair; which windows meet a map."""

import operator
from typing import Any, TypeAlias

import numpy as np

from minifcn_kernels.jit import inlined

Pair: TypeAlias = tuple[int, int]
IntOrPair: TypeAlias = int | tuple[int, int]
_INTEGER = int | np.integer


def pair(name: str, value: IntOrPair, *, minimum: int) -> Pair:
    """Return ``value`` as ``(h, w)``.

    Raises:
        TypeError: not an int and not a pair of ints.
        ValueError: below ``minimum``.
    """
    try:
        h, w = value if isinstance(value, tuple | list) else (value, value)
        h, w = operator.index(h), operator.index(w)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an int or a pair of ints (h, w), got {value!r}") from None
    if min(h, w) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return h, w


def check_map_shape(kernel: str, name: str, shape: Any) -> None:
    """Raise a ValueError that names ``kernel`` and argument ``name`` unless ``shape`` is a tuple of four ints."""
    if not isinstance(shape, tuple | list) or len(shape) != 4:
        raise ValueError(f"{kernel}: the shape of {name} must have four axes, got {shape!r}")
    if not all(isinstance(size, _INTEGER) for size in shape):
        raise ValueError(f"{kernel}: the shape of {name} must hold ints, got {shape!r}")


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return along one axis how many windows fit: ``⌊(size + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1``.

    Zero or less means that not even one fits.
    """
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@inlined
def valid_outputs(outputs: int, size: int, offset: int, stride: int) -> Pair:
    """Return first and one past last of the output positions i with 0 ≤ i·stride + offset < size."""
    first = min(outputs, max(0, -(offset // stride)))  # ⌈−offset / stride⌉
    last = min(outputs, -((offset - size) // stride))  # ⌈(size − offset) / stride⌉
    return first, max(first, last)
