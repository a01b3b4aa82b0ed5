"""Central differences in float64: what a gradient must agree with, whatever its algebra."""

import numpy as np
import pytest

from minifcn.random import stream


def gradient(f, x, cotangent, step=1e-6):
    """Return ∂⟨cotangent, f(x)⟩/∂x, element by element; f must not keep or change x."""
    slope = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        slope[at] = np.vdot(cotangent, f(up) - f(down)) / (2 * step)
    return slope


def assert_gradient(grad, f, x, cotangent, *, directions=3, step=1e-6):
    """Check that ``grad`` is ∂⟨cotangent, f(x)⟩/∂x, in a few random directions v instead of along every axis.

    ⟨grad, v⟩ must be ⟨cotangent, f(x + step·v) − f(x − step·v)⟩ / (2·step). Every v touches every element, so an
    error in any one of them shows in all of the comparisons.
    """
    assert grad.shape == x.shape
    for direction in range(directions):
        v = stream(direction, "direction").standard_normal(x.shape)
        slope = np.vdot(cotangent, f(x + step * v) - f(x - step * v)) / (2 * step)
        # The difference carries the rounding of f, about 1e-16 / step, and a truncation of the order of step².
        assert np.vdot(grad, v) == pytest.approx(slope, rel=1e-7, abs=1e-8 * (1 + np.abs(grad).sum()))
