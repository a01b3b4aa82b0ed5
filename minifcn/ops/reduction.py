"""Reductions over axes: sum, mean and max.

In the comments, g is the cotangent of the output.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from minifcn.ops.movement import inverse
from minifcn.tensor import Function, Tensor
from minifcn_kernels.cuda.device import module_of
from minifcn_kernels.jit import Array

Dim: TypeAlias = int | tuple[int, ...] | None


class Sum(Function):
    """y = Σ a over axes; the gradient repeats g along them."""

    def forward(self, a: Array, *, axes: tuple[int, ...], keepdim: bool) -> Array:
        self.save(a.shape, axes)
        return a.sum(axis=axes, keepdims=keepdim)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        shape, axes = self.saved
        reduced = [1 if axis in axes else size for axis, size in enumerate(shape)]
        return (np.broadcast_to(grad.reshape(reduced), shape),)


class Max(Function):
    """y = max a over axes; the gradient goes to the first maximum. NaN propagates."""

    def forward(self, a: Array, *, axes: tuple[int, ...], keepdim: bool) -> Array:
        self.save(a, axes)
        return a.max(axis=axes, keepdims=keepdim)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        a, axes = self.saved
        order = [axis for axis in range(a.ndim) if axis not in axes] + sorted(axes)
        moved = a.transpose(order)  # the reduced axes come last
        rows = moved.reshape(grad.size, math.prod(a.shape[axis] for axis in axes))  # one row for each maximum
        rows_grad = np.zeros_like(rows)
        rows_grad[module_of(a).arange(grad.size), rows.argmax(axis=1)] = grad.ravel()
        return (rows_grad.reshape(moved.shape).transpose(inverse(order)),)


def _axes(dim: Dim, ndim: int) -> tuple[int, ...]:
    """Return the axes that a reduction over ``dim`` removes, counted from the front."""
    return normalize_axis_tuple(range(ndim) if dim is None else dim, ndim, argname="dim")


def sum(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return the sum over all axes, or over ``dim`` (one or several); ``keepdim`` leaves those at length 1."""
    return Sum.apply(x, axes=_axes(dim, x.ndim), keepdim=keepdim)


def mean(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return the mean over all axes, or over ``dim``: the sum divided by how many numbers went into each."""
    count = math.prod(x.shape[axis] for axis in _axes(dim, x.ndim))
    return sum(x, dim, keepdim) / count


def max(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Return the maximum over all axes, or over ``dim``. The first of equal maxima gets the gradient.

    PyTorch's ``amax``: only the values, over one axis too.
    """
    return Max.apply(x, axes=_axes(dim, x.ndim), keepdim=keepdim)
