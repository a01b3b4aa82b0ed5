"""What a check that fails says: which claim, where, by how much, why perhaps, and how to see it again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minifcn_kernels.jit import Array


class GradientError(AssertionError):
    """A gradient, or something else that `check_gradients` claims of a function, is wrong."""


class AdjointError(AssertionError):
    """Two linear functions are not each other's transpose."""


class BackendError(AssertionError):
    """A backend disagrees with the reference of its kernel, or breaks a kernel's promises."""


class KinkError(ValueError):
    """The point lies on a kink, where a function has no slope: no gradient can be called right or wrong there."""


@dataclass(frozen=True)
class Mismatch:
    """One place where what is differs from what should be, and how many there are.

    Attributes:
        where: what was compared, and the element: ``"gradient of input 0, element (0, 2) of (3, 4)"``.
        got, expected: what stands there, and what should: numbers, or words.
        extent: ``"5 of 12 elements are wrong"``, or nothing.
        names: what to call ``got`` and ``expected``.
        causes: sentences about what may be wrong, as far as there is evidence.
    """

    where: str
    got: Any
    expected: Any
    extent: str = ""
    names: tuple[str, str] = ("got", "expected")
    causes: tuple[str, ...] = ()


def first_mismatch(
    what: Sequence[str],
    got: Sequence[Array],
    expected: Sequence[Array],
    *,
    relative: float = 0.0,
    absolute: float = 0.0,
    names: tuple[str, str] = ("got", "expected"),
) -> Mismatch | None:
    """Compare arrays pairwise and return the worst place of the first pair that differs, or None.

    Elements may differ by ``absolute`` plus ``relative`` times the largest of the expected array. NaN equals NaN.
    """
    for name, a, b in zip(what, got, expected, strict=True):
        if a.shape != b.shape:
            return Mismatch(f"shape of {name}", a.shape, b.shape, names=names)
        with np.errstate(invalid="ignore"):
            off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
            allowed = absolute + relative * np.abs(b).max(initial=0)
        wrong = ~(off <= allowed)
        if wrong.any():
            at = worst(off)
            return Mismatch(place(name, at, a.shape), a[at], b[at], extent(wrong), names)
    return None


def worst(off: Array) -> tuple[int, ...]:
    """Return the index of the largest element; NaN counts as larger than everything."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape))


def place(what: str, at: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Name an element of an array."""
    return f"{what}, element {at} of shape {shape}" if shape else what


def extent(wrong: Array) -> str:
    """Say how much of an array is wrong."""
    return f"{int(wrong.sum())} of {wrong.size} elements"


def describe(headline: str, claim: str, mismatch: Mismatch, snippet: str) -> str:
    """Write the message of an error: a headline, a table, likely causes, and code that shows it again."""
    rows = [("claim", claim), ("at", mismatch.where)]
    rows += list(zip(mismatch.names, map(_number, (mismatch.got, mismatch.expected)), strict=True))
    rows += [("wrong", mismatch.extent)] if mismatch.extent else []
    rows += [("likely", cause) for cause in mismatch.causes]
    table = "\n".join(f"  {name:<10}{text}" for name, text in rows)
    code = "\n".join(f"      {line}".rstrip() for line in snippet.splitlines())
    return f"{headline}\n{table}\n  to see it again\n{code}"


def _number(value: Any) -> str:
    return f"{float(value):.7g}" if isinstance(value, float | np.number | np.ndarray) else str(value)
