"""Reductions over axes: sum, mean and max.

In the comments, g is the cotangent of the output.
"""

from typing import TypeAlias

import numpy as np
from minifcn_kernels.jit import Array

from minifcn.tensor import Function, Tensor

Dim: TypeAlias = int | tuple[int, ...] | None


class Sum(Function):
    """y = Σ a over axes; the gradient repeats g along them."""

    def forward(self, a: Array, *, dim: Dim, keepdim: bool) -> Array:
        self.save(a.shape, dim, keepdim)
        return a.sum(axis=dim, keepdims=keepdim)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        shape, dim, keepdim = self.saved
        return (np.broadcast_to(_restore(grad, shape, dim, keepdim), shape),)


class Max(Function):
    """y = max a over axes; the gradient goes to the first maximum. NaN propagates."""

    def forward(self, a: Array, *, dim: Dim, keepdim: bool) -> Array:
        self.save(a, dim, keepdim)
        return a.max(axis=dim, keepdims=keepdim)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        a, dim, keepdim = self.saved
        reduced = _axes(dim, a.ndim)
        kept = tuple(axis for axis in range(a.ndim) if axis not in reduced)
        # Bring the reduced axes to the end and flatten them: (kept…, reduced) → argmax over one axis.
        columns = a.transpose(kept + reduced).reshape(*[a.shape[axis] for axis in kept], -1)
        columns_grad = np.zeros_like(columns)
        first = columns.argmax(axis=-1)[..., None]
        np.put_along_axis(columns_grad, first, grad.reshape(first.shape), axis=-1)
        moved = columns_grad.reshape([a.shape[axis] for axis in kept + reduced])
        return (moved.transpose(np.argsort(kept + reduced)),)


def _axes(dim: Dim, ndim: int) -> tuple[int, ...]:
    """Return the axes that a reduction over ``dim`` removes, counted from the front."""
    if dim is None:
        return tuple(range(ndim))
    return tuple(axis % ndim for axis in (dim if isinstance(dim, tuple) else (dim,)))


def _restore(grad: Array, shape: tuple[int, ...], dim: Dim, keepdim: bool) -> Array:
    """Give ``grad`` back the axes, of length one, that a reduction over ``dim`` removed."""
    if keepdim:
        return grad
    reduced = _axes(dim, len(shape))
    return grad.reshape([1 if axis in reduced else size for axis, size in enumerate(shape)])


def sum(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return the sum over all axes, or over ``dim`` (one or several); ``keepdim`` leaves those at length 1."""
    return Sum.apply(x, dim=dim, keepdim=keepdim)


def mean(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return the mean over all axes, or over ``dim``: the sum divided by how many numbers went into each."""
    count = int(np.prod([x.shape[axis] for axis in _axes(dim, x.ndim)]))
    return sum(x, dim, keepdim) / count


def max(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return the maximum over all axes, or over ``dim``. The first of equal maxima gets the gradient."""
    return Max.apply(x, dim=dim, keepdim=keepdim)
