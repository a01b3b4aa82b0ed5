"""What a layer does to space: the answer of every module's ``window()``.

A layer that looks through a sliding window answers a `Window`, an element-wise one the identity ``Window()``,
layers one after another a `Chain` and branches side by side a `Fork`. Whatever the kind, a geometry knows

- how large the output is                    `Geometry.output_size`
- where its cells lie over the input         `Geometry.coordinate_map`
- which part of the input each cell sees     `Geometry.receptive_field`

No values are needed for that, so geometry costs microseconds where a forward pass costs seconds.

Notation: kernel k, stride s, padding p, dilation d, effective kernel k_eff = d(k − 1) + 1. Height and width
do not influence each other: axis 0 is the vertical one, axis 1 the horizontal one.
"""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import reduce
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from minifcn.nn.coordinates import CoordinateMap
from minifcn_kernels.spatial import IntOrPair, Pair, pair

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
Side = TypeVar("Side", int, IntArray)

AXES = ("height", "width")


@dataclass(frozen=True)
class ReceptiveField:
    """The rectangle of input cells that an output cell sees, each field as (vertical, horizontal).

    Output i sees the ``size`` cells that begin at ``offset + stride·i``; a negative index lies in the padding.
    After upsampling ``stride`` is a fraction and neighbouring outputs may see one cell more or fewer: ``size``
    is then the largest, and ``offset`` the first cell of output 0.
    """

    size: Pair
    stride: tuple[Fraction, Fraction]
    offset: Pair


class Geometry(ABC):
    """What a layer, or a net of layers, does to space. The kinds are `Window`, `Chain` and `Fork`."""

    def window(self) -> "Geometry":
        """Return itself, so that a geometry can stand wherever a module is asked for its window."""
        return self

    def output_size(self, size: Side | tuple[Side, Side]) -> tuple[Side, Side]:
        """Return the output's (height, width) for an input of ``size``, by PyTorch's rules.

        ``size`` is (height, width), or one side that stands for both. A side is an int, or an integer array
        to ask for many sizes at once. For an int that leaves no output ``ValueError`` says why; in an array
        such a side answers 0, and 0 stays 0 through all later layers.
        """
        h, w = size if isinstance(size, tuple) else (size, size)
        return self.output_side(_checked_side(h), 0), self.output_side(_checked_side(w), 1)

    def coordinate_map(self) -> tuple[CoordinateMap, CoordinateMap]:
        """Return the (vertical, horizontal) maps from input to output coordinates."""
        return self.axis_map(0), self.axis_map(1)

    def receptive_field(self) -> ReceptiveField:
        """Return what each output cell sees of the input. FCN §3.

        Convolutions and poolings compose by the paper's rule: kernel k and stride s, followed by k' and s',
        see k + (k' − 1)s cells and move by s·s'.

        Raises:
            ValueError: a transposed window that leaves outputs which see nothing (see `Window.input_span`).
        """
        spans = [[self.input_span(i, i, axis) for i in range(self.period(axis))] for axis in (0, 1)]
        vertical, horizontal = (max(last - first + 1 for first, last in outputs) for outputs in spans)
        return ReceptiveField(
            size=(vertical, horizontal),
            stride=(1 / self.axis_map(0).scale, 1 / self.axis_map(1).scale),
            offset=(spans[0][0][0], spans[1][0][0]),
        )

    @abstractmethod
    def output_side(self, side: Side, axis: int) -> Side:
        """Return the output's side along ``axis``: `output_size` for one axis."""

    @abstractmethod
    def axis_map(self, axis: int) -> CoordinateMap:
        """Return the map from input to output coordinates along ``axis``."""

    @abstractmethod
    def input_span(self, first: int, last: int, axis: int) -> Pair:
        """Return the first and the last input cell that the outputs ``first`` … ``last`` see along ``axis``."""

    @abstractmethod
    def period(self, axis: int) -> int:
        """Return after how many outputs the pattern of what they see repeats; 1 without upsampling."""


@dataclass(frozen=True, init=False, repr=False)
class Window(Geometry):
    """A window that slides over the input; ``Window()`` is the identity of element-wise layers.

    ``kernel``, ``stride``, ``padding``, ``dilation`` and ``output_padding`` take an int or an (h, w) pair and
    are kept as pairs. ``transposed`` is a transposed convolution; only it has an ``output_padding``. ``ceil``
    is the pooling rule that lets the last window hang over the edge.

    Raises:
        TypeError: a spatial argument is not an int or a pair of ints.
        ValueError: kernel, stride or dilation below 1, a negative padding, an output padding that is not below
            the stride or has no transposed window, or ``ceil`` with ``transposed``.
    """

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    transposed: bool = False
    ceil: bool = False
    output_padding: Pair = (0, 0)

    # Written out, because it takes more (an int or a pair) than the fields keep (a pair).
    def __init__(
        self,
        kernel: IntOrPair = 1,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        transposed: bool = False,
        ceil: bool = False,
        output_padding: IntOrPair = 0,
    ) -> None:
        values = {
            "kernel": pair("kernel", kernel, minimum=1),
            "stride": pair("stride", stride, minimum=1),
            "padding": pair("padding", padding, minimum=0),
            "dilation": pair("dilation", dilation, minimum=1),
            "transposed": transposed,
            "ceil": ceil,
            "output_padding": pair("output_padding", output_padding, minimum=0),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the way to set a field of a frozen dataclass
        if not transposed and max(self.output_padding) > 0:
            raise ValueError(
                f"output_padding belongs to a transposed window, got output_padding={output_padding} "
                "with transposed=False: set one of them"
            )
        if any(extra >= s for extra, s in zip(self.output_padding, self.stride, strict=True)):
            raise ValueError(
                f"output_padding must be smaller than the stride, got {self.output_padding} with stride "
                f"{self.stride}: it only chooses among the sizes that one strided convolution maps alike"
            )
        if transposed and ceil:
            raise ValueError("ceil=True is a rule of pooling, a transposed window has no last window to round")

    def __repr__(self) -> str:
        told = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                square = isinstance(value, tuple) and value[0] == value[1]
                told.append(f"{field.name}={value[0] if square else value}")
        return f"Window({', '.join(told)})"

    def effective_kernel(self, axis: int) -> int:
        """Return k_eff = d(k − 1) + 1: how many cells the window spans along ``axis``, holes included."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def output_side(self, side: Side, axis: int) -> Side:
        """Return how many windows fit along ``axis`` (transposed: how many cells they cover together).

        ::

            ⌊(n + 2p − k_eff) / s⌋ + 1              n is the input's side
            min(⌈(n + 2p − k_eff) / s⌉ + 1,         ceil: up to s − 1 cells may hang over the edge, but
                ⌈(n + p) / s⌉)                      each window starts in the input or its left padding
            (n − 1)s − 2p + k_eff + output padding  transposed
        """
        n, s, p, k = side, self.stride[axis], self.padding[axis], self.effective_kernel(axis)
        if self.transposed:
            output = (n - 1) * s - 2 * p + k + self.output_padding[axis]
        elif self.ceil:
            output = np.minimum(_ceil_div(n + 2 * p - k, s) + 1, _ceil_div(n + p, s))
        else:
            output = (n + 2 * p - k) // s + 1
        if isinstance(side, np.ndarray):
            return np.where((side > 0) & (output > 0), output, 0)
        if output < 1:
            raise ValueError(self._why_no_output(side, axis))
        return int(output)

    def _why_no_output(self, side: int, axis: int) -> str:
        name, p, k = AXES[axis], self.padding[axis], self.effective_kernel(axis)
        if self.transposed:
            return f"{self} trims all of its output away at input {name} {side}: lower its padding of {p}"
        return (
            f"{self} does not fit: its kernel spans {k} cells, the padded input's {name} is "
            f"{side} + 2·{p} = {side + 2 * p}; use a larger input, or more padding"
        )

    def axis_map(self, axis: int) -> CoordinateMap:
        """Return the map along ``axis``; `minifcn.nn.coordinates` derives it."""
        half = Fraction(self.effective_kernel(axis) - 1, 2)
        convolution = CoordinateMap(Fraction(self.stride[axis]), half - self.padding[axis]).inverse()
        return convolution.inverse() if self.transposed else convolution

    def input_span(self, first: int, last: int, axis: int) -> Pair:
        """Return the first and the last input cell that the outputs ``first`` … ``last`` see along ``axis``.

        Output i of a convolution sees s·i − p … s·i − p + k_eff − 1. In a transposed one input j reaches the
        outputs s·j − p … s·j − p + k − 1; solved for j, output i sees ⌈(i + p − k + 1)/s⌉ … ⌊(i + p)/s⌋.

        Raises:
            ValueError: a transposed window with a kernel smaller than its stride, or with both a stride and a
                dilation. There are outputs that see nothing or cells far apart, and no rectangle tells what a
                later layer sees through them.
        """
        k, s, p = self.effective_kernel(axis), self.stride[axis], self.padding[axis]
        if not self.transposed:
            return first * s - p, last * s - p + k - 1
        if k < s or (s > 1 and self.dilation[axis] > 1):
            raise ValueError(
                f"{self} has no receptive field: there are gaps in what its outputs see; "
                "give it dilation 1 and a kernel at least as large as its stride"
            )
        return _ceil_div(first + p - k + 1, s), (last + p) // s

    def period(self, axis: int) -> int:
        """Return s if transposed: output i + s sees what output i sees, one cell further on. Else 1."""
        return self.stride[axis] if self.transposed else 1


@dataclass(frozen=True)
class Crop(Geometry):
    """A crop that begins at ``offset`` (top, left) and keeps all that follows."""

    offset: Pair

    def output_side(self, side: Side, axis: int) -> Side:
        """Return the side less what is cut off."""
        return side - self.offset[axis]

    def axis_map(self, axis: int) -> CoordinateMap:
        """Return the map that brings the offset to 0."""
        return CoordinateMap(shift=Fraction(-self.offset[axis]))

    def input_span(self, first: int, last: int, axis: int) -> Pair:
        """Return the same cells, counted from before the crop."""
        return first + self.offset[axis], last + self.offset[axis]

    def period(self, axis: int) -> int:
        """Return 1."""
        return 1


@dataclass(frozen=True, init=False)
class Chain(Geometry):
    """Layers one after another, what ``Sequential`` answers; ``Chain([])`` is the identity.

    ``parts`` is kept as a tuple without nested chains and without identities, so that nets which do the same
    to space are equal, and the first part is the first layer that has a window.
    """

    parts: tuple[Geometry, ...]

    def __init__(self, parts: Iterable[Geometry]) -> None:
        flat: list[Geometry] = []
        for part in _checked_geometries("Chain", parts):
            flat.extend(part.parts if isinstance(part, Chain) else [part])
        object.__setattr__(self, "parts", tuple(part for part in flat if part != Window()))

    def output_side(self, side: Side, axis: int) -> Side:
        """Return the last layer's output side along ``axis``."""
        for part in self.parts:
            side = part.output_side(side, axis)
        return side

    def axis_map(self, axis: int) -> CoordinateMap:
        """Return all maps along ``axis``, one after another."""
        return reduce(CoordinateMap.then, (part.axis_map(axis) for part in self.parts), CoordinateMap())

    def input_span(self, first: int, last: int, axis: int) -> Pair:
        """Return what the outputs see, walking from the last layer back to the input."""
        for part in reversed(self.parts):
            first, last = part.input_span(first, last, axis)
        return first, last

    def period(self, axis: int) -> int:
        """Return the product of all periods: that many outputs move every layer by whole cells."""
        return math.prod(part.period(axis) for part in self.parts)


@dataclass(frozen=True, init=False)
class Fork(Geometry):
    """Branches side by side over one input, what ``Parallel`` answers; an output cell sees all they see.

    Their outputs are stacked cell by cell, so they must lie over the same input cells and have one size.

    Raises:
        ValueError: no branch, or two with different coordinate maps; later, in `output_size`, two with different
            sizes for that input.
    """

    branches: tuple[Geometry, ...]

    def __init__(self, branches: Iterable[Geometry]) -> None:
        object.__setattr__(self, "branches", tuple(_checked_geometries("Fork", branches)))
        if not self.branches:
            raise ValueError("a Fork needs at least one branch, got none")
        one = self.branches[0]
        for other in self.branches[1:]:
            if other.coordinate_map() != one.coordinate_map():
                raise ValueError(
                    "branches of a Fork must lie over the same input cells: "
                    f"{one} maps by {one.coordinate_map()}, {other} by {other.coordinate_map()}; "
                    "give them one stride, and an odd kernel k the padding (k − 1)/2"
                )

    def output_side(self, side: Side, axis: int) -> Side:
        """Return the side on which all branches agree."""
        one = self.branches[0]
        expected = one.output_side(side, axis)
        for other in self.branches[1:]:
            output = other.output_side(side, axis)
            differ = np.not_equal(output, expected)
            if differ.any():
                n, a, b = (np.broadcast_to(x, differ.shape)[differ][0] for x in (side, expected, output))
                raise ValueError(
                    f"branches of a Fork must have one output size, but {AXES[axis]} {n} becomes "
                    f"{a} in {one} and {b} in {other}: change a padding or ceil"
                )
        return expected

    def axis_map(self, axis: int) -> CoordinateMap:
        """Return the map on which all branches agree."""
        return self.branches[0].axis_map(axis)

    def input_span(self, first: int, last: int, axis: int) -> Pair:
        """Return the union of what the branches see, from its first to its last cell."""
        spans = [branch.input_span(first, last, axis) for branch in self.branches]
        return min(first for first, _ in spans), max(last for _, last in spans)

    def period(self, axis: int) -> int:
        """Return the least common multiple of the branches' periods."""
        return math.lcm(*(branch.period(axis) for branch in self.branches))


def _ceil_div(a: Side, b: int) -> Side:
    return -(-a // b)


def _checked_geometries(owner: str, parts: Iterable[Geometry]) -> list[Geometry]:
    parts = list(parts)
    for part in parts:
        if not isinstance(part, Geometry):
            raise TypeError(
                f"a {owner} is made of geometries, got {part!r} of type {type(part).__name__}: "
                "pass what a module's window() answers"
            )
    return parts


def _checked_side(side: Side) -> Side:
    if isinstance(side, np.ndarray):
        if not np.issubdtype(side.dtype, np.integer):
            raise TypeError(f"size must hold integers, got an array of {side.dtype}")
        # int64: an unsigned side less a kernel would wrap around to a huge one
        return np.maximum(side.astype(np.int64), 0)
    try:
        side = operator.index(side)
    except TypeError:
        raise TypeError(f"size must be an int, an integer array or a pair (h, w) of them, got {side!r}") from None
    if side < 1:
        raise ValueError(f"size must be at least 1, got {side}")
    return side
