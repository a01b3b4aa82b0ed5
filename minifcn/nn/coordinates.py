"""Coordinate maps: where a pixel of the input lies in the output of a layer, as an exact fraction.

One convention holds everywhere: pixel i has its centre at coordinate i, in the input and in every output.
A layer stretches and moves these coordinates; along each axis, independently, it is an affine map

    output coordinate = scale · input coordinate + shift

With kernel k, stride s, padding p, dilation d and the effective kernel k_eff = d(k − 1) + 1:

    convolution, pooling      scale 1/s    shift (p − (k_eff − 1)/2) / s
    transposed convolution    scale s      shift (k_eff − 1)/2 − p

Why: the window of output j begins at input s·j − p and its centre lies (k_eff − 1)/2 further on, so
x = s·j − p + (k_eff − 1)/2; solved for j this is the first line. A transposed convolution has its input and
output swapped (FCN §3.3), so its map is the inverse of the first line.

A convolution that keeps the size, with an odd kernel and p = (k − 1)/2, is the identity. A 2×2 pooling of
stride 2 sends x to x/2 − 1/4: pixels 0 and 1, whose middle is at 1/2, become pixel 0.
"""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class CoordinateMap:
    """The affine map x ↦ ``scale``·x + ``shift`` of one axis; ``CoordinateMap()`` is the identity.

    The module's docstring states the convention. Fractions, not floats: a crop is right only if its offset
    is a whole number exactly.
    """

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    def __call__(self, x: int | Fraction) -> Fraction:
        """Return the output coordinate of the input coordinate ``x``."""
        return self.scale * x + self.shift

    def then(self, later: "CoordinateMap") -> "CoordinateMap":
        """Return the map that applies this one first and ``later`` to its result."""
        return CoordinateMap(later.scale * self.scale, later(self.shift))

    def inverse(self) -> "CoordinateMap":
        """Return the map from the output back to the input."""
        return CoordinateMap(1 / self.scale, -self.shift / self.scale)
