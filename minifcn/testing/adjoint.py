"""Proving that two linear functions are each other's transpose, to the last bit."""

from collections.abc import Callable

import numpy as np

from minifcn.testing.data import whole
from minifcn.testing.failure import AdjointError, Mismatch, describe, place
from minifcn_kernels.jit import Array

# Every whole number up to here is a float64.
_EXACT = 2.0**53
# Up to this many entries a matrix is worked out to name the one that is wrong.
_ENTRIES = 10_000


def check_adjoint(
    forward: Callable[[Array], Array], transpose: Callable[[Array], Array], shape: tuple[int, ...], *, seed: int = 0
) -> None:
    """Prove ⟨forward(x), y⟩ = ⟨x, transpose(y)⟩ exactly, for linear functions of arrays.

    x and y are whole numbers in float64, so that nothing is rounded and there is nothing to tolerate; the weights
    that the functions hold must be whole, too (`minifcn.testing.data.whole`).

    Args:
        forward: maps arrays of ``shape`` to arrays; ``transpose`` maps back.
        transpose: what should be the transpose, such as a gradient or a transposed convolution.
        shape: of x.
        seed: names the numbers.

    Raises:
        AdjointError: forward is not linear, shapes do not fit, or the equation does not hold.
        ValueError: forward makes numbers that are not whole or too large to be exact.
    """
    x, other = whole(shape, seed), whole(shape, seed + 1)
    f_x = forward(x)
    if not np.array_equal(f_x, np.rint(f_x)):
        raise ValueError("check_adjoint: forward makes numbers that are not whole; give it whole weights")
    y = whole(f_x.shape, seed + 2)
    g_y = transpose(y)
    code = f"from minifcn import testing\ntesting.check_adjoint(forward, transpose, {shape}, seed={seed})"

    if not np.array_equal(forward(x + other), f_x + forward(other)):
        nonlinear = Mismatch(
            "forward", "forward(a + b)", "forward(a) + forward(b)", causes=("a bias, or an activation",)
        )
        raise AdjointError(describe("forward is not linear", "forward is linear", nonlinear, code))
    if g_y.shape != x.shape:
        misshapen = Mismatch("transpose(y)", f"shape {g_y.shape}", f"shape {x.shape}")
        raise AdjointError(describe("transpose gives another shape", "transpose maps back", misshapen, code))
    if max(_size(f_x, y), _size(x, g_y)) > _EXACT:
        raise ValueError("check_adjoint: the numbers grow too large to be exact; use smaller weights or shapes")
    left, right = float(np.vdot(f_x, y)), float(np.vdot(x, g_y))
    if left != right:
        mismatch = _entry(forward, transpose, x.shape, y.shape) or Mismatch(
            "the two inner products", right, left, names=("⟨x, transpose(y)⟩", "⟨forward(x), y⟩")
        )
        raise AdjointError(describe("transpose is wrong", "⟨forward(x), y⟩ = ⟨x, transpose(y)⟩", mismatch, code))


def _size(a: Array, b: Array) -> float:
    return float(np.vdot(np.abs(a), np.abs(b)))


def _entry(
    forward: Callable[[Array], Array], transpose: Callable[[Array], Array], x: tuple[int, ...], y: tuple[int, ...]
) -> Mismatch | None:
    """Return the first pair of elements that the two connect with different weights, if it can be found quickly."""
    if np.prod(x) * np.prod(y) > _ENTRIES:
        return None
    matrix = np.stack([forward(unit).ravel() for unit in _units(x)], axis=1)  # (outputs, inputs)
    transposed = np.stack([transpose(unit).ravel() for unit in _units(y)])  # (outputs, inputs), if it is the transpose
    wrong = matrix != transposed
    if not wrong.any():
        return None
    out, inp = (int(i) for i in np.argwhere(wrong)[0])
    to, at = (tuple(int(i) for i in np.unravel_index(k, shape)) for k, shape in ((out, y), (inp, x)))
    where = f"{place('x', at, x)} and {place('y', to, y)}"
    names = ("transpose", "forward")
    return Mismatch(where, transposed[out, inp], matrix[out, inp], f"{int(wrong.sum())} of {wrong.size} pairs", names)


def _units(shape: tuple[int, ...]) -> Array:
    return np.eye(int(np.prod(shape))).reshape(-1, *shape)
