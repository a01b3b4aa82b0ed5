"""From evidence to likely causes: a table of small functions, each of which knows one way gradients go wrong.

A rule looks at the `Evidence` and returns a sentence if it fits, else None. To teach it a new mistake, write a
function and add it to ``RULES``. The order is that of how specific a rule is: the first two that fit are shown.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minifcn_kernels.jit import Array

# Measured slopes are good to about 10⁻⁹; what agrees to 10⁻⁵ by chance, in random numbers, is rare enough.
_CLOSE = 1e-5


@dataclass(frozen=True)
class Evidence:
    """What is known about one wrong gradient g.

    Attributes:
        analytic: g as backward gives it.
        numeric: g as central differences measure it; the same shape.
        at: the index of the worst element.
        terms: what ``numeric[at]`` is the sum of, cotangent · ∂output/∂x[at], in the shape of the output.
        doubled: what backward gives for twice the cotangent.
    """

    analytic: Array
    numeric: Array
    at: tuple[int, ...]
    terms: Array
    doubled: Array

    @property
    def wrong(self) -> Array:
        """Where the two gradients differ."""
        return np.abs(self.analytic - self.numeric) > _CLOSE * self.scale

    @property
    def scale(self) -> float:
        """The size of the numbers that are compared."""
        return float(max(np.abs(self.analytic).max(), np.abs(self.numeric).max()))

    def same(self, a: Array, b: Array) -> bool:
        """Say whether two arrays agree as far as differences can tell."""
        return a.shape == b.shape and bool(np.all(np.abs(a - b) <= _CLOSE * self.scale))

    def same_here(self, value: float) -> bool:
        """Say whether the worst element of the analytic gradient is ``value``."""
        return bool(abs(self.analytic[self.at] - value) <= _CLOSE * self.scale)

    def contributions(self) -> Array:
        """Return the terms that are not 0, in the order of the output's elements."""
        return self.terms[np.abs(self.terms) > _CLOSE * self.scale]


def nothing_arrives(e: Evidence) -> str | None:
    """The path is cut."""
    if np.any(e.analytic):
        return None
    return "no gradient arrives: backward returns None or 0, or forward leaves the graph (.data, .numpy(), Tensor(…))"


def cotangent_ignored(e: Evidence) -> str | None:
    """∂y/∂x is returned, not ∂y/∂x · g."""
    if not e.same(e.doubled, e.analytic):
        return None
    return "backward ignores its argument: the derivative is not multiplied by the cotangent"


def sign(e: Evidence) -> str | None:
    """g = −g."""
    return "the sign: analytic = −numeric, in every element" if e.same(e.analytic, -e.numeric) else None


def factor(e: Evidence) -> str | None:
    """g = k·g, where k may be one of the sizes at hand."""
    if not e.numeric[e.at]:
        return None
    k = float(e.analytic[e.at] / e.numeric[e.at])
    if not k or abs(k + 1) < _CLOSE or not e.same(e.analytic, k * e.numeric):
        return None
    for count, name in _counts(e):
        if count > 1 and abs(k - count) < _CLOSE * count:
            return f"a missing 1/{count}: every element is {count} times too large, and {count} is {name}"
        if count > 1 and abs(k * count - 1) < _CLOSE:
            return f"an extra 1/{count}: every element is {count} times too small, and {count} is {name}"
    return f"a factor: every element is {k:.6g} times what it should be"


def _counts(e: Evidence) -> Iterator[tuple[int, str]]:
    """Yield the numbers that a mean may have been divided by, or not, and what they are."""
    for what, shape in (("input", e.numeric.shape), ("output", e.terms.shape)):
        yield int(np.prod(shape)), f"the number of the {what}'s elements"
        for axis, size in enumerate(shape):
            yield size, f"the length of the {what}'s axis {axis}"
    yield e.contributions().size, "the number of outputs that this element takes part in"


def transposed(e: Evidence) -> str | None:
    """Two axes have changed places."""
    for a in range(e.numeric.ndim):
        for b in range(a + 1, e.numeric.ndim):
            swapped = e.numeric.swapaxes(a, b)
            if e.same(e.analytic, swapped) and not e.same(swapped, e.numeric):
                return f"axes {a} and {b} are swapped: analytic is numeric with these two axes transposed"
    return None


def flipped(e: Evidence) -> str | None:
    """The filter is turned round, or the index runs backwards."""
    for axes in [(-2, -1), *((axis,) for axis in range(e.numeric.ndim))]:
        if e.numeric.ndim >= len(axes) and e.same(e.analytic, np.flip(e.numeric, axes)):
            named = " and ".join(str(axis % e.numeric.ndim) for axis in axes)
            return f"analytic is numeric flipped along axis {named}: a filter turned the wrong way round"
    return None


def shifted(e: Evidence) -> str | None:
    """Off by one."""
    for axis, size in enumerate(e.numeric.shape):
        front, back = range(size - 1), range(1, size)
        for to, by in ((front, -1), (back, 1)):
            a = e.analytic.take(to, axis)
            if np.any(a) and e.same(a, e.numeric.take(back if by < 0 else front, axis)):
                return f"analytic is numeric moved by {by:+d} along axis {axis}: a padding or offset that is off by one"
    return None


def unmasked(e: Evidence) -> str | None:
    """There is a gradient where the function does not look."""
    if np.any(np.abs(e.numeric[e.wrong]) > _CLOSE * e.scale):
        return None
    return "all that is wrong should be 0: a mask, an ignored label or the losers of a maximum are treated as if used"


def only_one_arrives(e: Evidence) -> str | None:
    """One contribution has overwritten the others."""
    parts = e.contributions()
    if len(parts) < 2 or not any(e.same_here(part) for part in parts):
        return None
    which = "the last" if e.same_here(parts[-1]) else "the first" if e.same_here(parts[0]) else "one"
    return (
        f"only {which} of {len(parts)} contributions arrived: overwritten (`=`) where it must accumulate (`+=`), "
        f"or not summed over an axis"
    )


def not_summed(e: Evidence) -> str | None:
    """Only one slice of the output, of several elements, has been looked at."""
    for axis, size in enumerate(e.terms.shape):
        others = tuple(a for a in range(e.terms.ndim) if a != axis)
        sums, parts = e.terms.sum(axis=others), np.count_nonzero(e.terms, axis=others)
        for index in (0, size - 1):
            if np.count_nonzero(sums) > 1 and parts[index] > 1 and e.same_here(sums[index]):
                return (
                    f"only index {index} of the output's axis {axis} was counted: the gradient of what is broadcast "
                    f"or shared along an axis is the sum over it"
                )
    return None


def one_missing(e: Evidence) -> str | None:
    """A loop ends too early."""
    parts = e.contributions()
    if len(parts) < 3 or not any(e.same_here(e.terms.sum() - part) for part in parts):
        return None
    return f"one of {len(parts)} contributions is missing: a bound or padding that is off by one"


def skipped(e: Evidence) -> str | None:
    """Backward walks past some elements."""
    if np.any(e.analytic[e.wrong]):
        return None
    return "all that is wrong got exactly 0: backward's geometry (padding, stride, dilation, offset) passes them by"


def shuffled(e: Evidence) -> str | None:
    """The right numbers stand in the wrong places."""
    if not e.same(np.sort(e.analytic, axis=None), np.sort(e.numeric, axis=None)):
        return None
    return "the right numbers in the wrong places: a reshape or transpose reads them in another order than forward"


RULES: tuple[Callable[[Evidence], str | None], ...] = (
    nothing_arrives,
    cotangent_ignored,
    sign,
    factor,
    transposed,
    flipped,
    unmasked,
    only_one_arrives,
    not_summed,
    one_missing,
    skipped,
    shifted,
    shuffled,
)


def likely_causes(evidence: Evidence) -> tuple[str, ...]:
    """Return the sentences of the first two rules that fit."""
    return tuple([sentence for rule in RULES if (sentence := rule(evidence))][:2])
