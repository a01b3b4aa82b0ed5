"""Slopes measured by central differences, and the kinks where there is none to measure.

Let L(t) be the loss at distance t along a direction. Two measurements, with steps h and h/2::

    d(h) = (L(h) − L(−h)) / 2h             the slope          smooth: L' + O(h²)
    s(h) = (L(h) − 2·L(0) + L(−h)) / h     how much it bends  smooth: h·L'' + O(h³)

Where L is smooth, d(h) and d(h/2) agree, and s(h) is twice s(h/2). A kink, where the slope jumps by J at distance δ,
breaks one or the other: d differs by J·δ/2h (for δ ≤ h/2), and s(h) − 2·s(h/2) = −J·(1 − 3δ/h). At a kink right
at the point, such as ReLU's at 0, d agrees with itself and is wrong all the same; only s tells.

A kink that is merely near does no harm to a smaller step. So the step shrinks until both agree; a kink is what
remains at the smallest, and there no gradient can be judged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minifcn_kernels.jit import Array

# Large steps round less, small ones see fewer kinks: first 2⁻¹² ≈ 2·10⁻⁴, down to 2⁻²⁰ ≈ 10⁻⁶. Powers of two, so
# that halving is exact.
STEPS = (2.0**-12, 2.0**-16, 2.0**-20)

# Relative agreement asked for. Mistakes are of order 1; the error of d, h²·L'''/6, is 10⁻⁸·L''' with the first step.
RELATIVE = 1e-6

# How many roundings, of the size of the output, one evaluation of L may be off by. A sum of 64 products makes up to
# 64, each of the size of its terms, which together are about √64 = 8 times what they add up to: 512, were they all to
# point one way.
ROUNDINGS = 256


@dataclass(frozen=True, slots=True)
class Slope:
    """A measured slope: its value, how far off rounding may put it, and whether a kink makes it meaningless."""

    value: float
    noise: float
    kink: bool

    def agrees_with(self, value: float) -> bool:
        """Say whether ``value`` is this slope as far as can be measured."""
        return abs(value - self.value) <= RELATIVE * max(abs(value), abs(self.value)) + self.noise


def measure(loss: Callable[[float], float], magnitude: float) -> Slope:
    """Measure the slope of ``loss`` at 0.

    Args:
        loss: the loss as a function of the distance along a direction.
        magnitude: the sum of the absolute values of what the loss adds up, to which its rounding is proportional.
    """
    here = loss(0.0)
    for step in STEPS:
        noise = ROUNDINGS * float(np.finfo(np.float64).eps) * magnitude / step
        ahead, behind = loss(step), loss(-step)
        ahead_half, behind_half = loss(step / 2), loss(-step / 2)
        d, d_half = (ahead - behind) / (2 * step), (ahead_half - behind_half) / step
        bend, bend_half = (ahead - 2 * here + behind) / step, (ahead_half - 2 * here + behind_half) / (step / 2)
        tolerance = RELATIVE * max(abs(d), abs(d_half)) + noise
        if abs(d - d_half) <= tolerance and abs(bend - 2 * bend_half) <= 4 * tolerance:
            # d(h) is off by c·h², d(h/2) by a quarter of that: this mixture by neither (Richardson).
            return Slope((4 * d_half - d) / 3, noise, kink=False)
    return Slope(d_half, noise, kink=True)


def along(f: Callable[[Array], Array], x: Array, direction: Array, cotangent: Array) -> Callable[[float], float]:
    """Return L(t) = ⟨cotangent, f(x + t·direction)⟩."""
    return lambda t: float(np.vdot(cotangent, f(x + t * direction)))
