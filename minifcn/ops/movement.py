"""Ops that move numbers without changing them: their gradients move the cotangents back."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minifcn.tensor import Function, Tensor
from minifcn_kernels.cuda.device import device_of, is_cupy, module_of, to_device
from minifcn_kernels.jit import Array


class Reshape(Function):
    """The same numbers in another shape; the gradient is shaped back."""

    def forward(self, a: Array, *, shape: tuple[int, ...]) -> Array:
        self.save(a.shape)
        return a.reshape(shape)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (shape,) = self.saved
        return (grad.reshape(shape),)


class Transpose(Function):
    """y's axis i is a's axis axes[i]; the gradient is permuted back."""

    def forward(self, a: Array, *, axes: tuple[int, ...]) -> Array:
        self.save(axes)
        return a.transpose(axes)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (axes,) = self.saved
        return (grad.transpose(inverse(axes)),)


class GetItem(Function):
    """y = a[index]; the gradient is zero but for the elements taken, and adds up where one was taken twice."""

    def forward(self, a: Array, *, index: Any) -> Array:
        self.save(a.shape, index)
        return a[index]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        shape, index = self.saved
        grad_a = module_of(grad).zeros(shape, grad.dtype)
        parts = index if isinstance(index, tuple) else (index,)
        if all(part is None or part is ... or isinstance(part, int | np.integer | slice) for part in parts):
            grad_a[index] = grad  # nothing is taken twice, and this is 60 times as fast
        elif is_cupy(grad):
            # CuPy would add by atomics, in an order that differs from run to run.
            raise NotImplementedError('GetItem: on a GPU, only ints and slices have a gradient; .to("cpu") first')
        else:
            np.add.at(grad_a, index, grad)
        return (grad_a,)


class Cat(Function):
    """Tensors joined along one axis; the gradient is cut at the seams."""

    def forward(self, *arrays: Array, dim: int) -> Array:
        self.save(np.cumsum([a.shape[dim] for a in arrays])[:-1].tolist(), dim)
        return np.concatenate(arrays, axis=dim)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        seams, dim = self.saved
        return tuple(np.split(grad, seams, axis=dim))


class Pad(Function):
    """A frame of one value around the map; the gradient is what lies inside the frame."""

    def forward(self, a: Array, *, padding: tuple[int, int, int, int], value: float) -> Array:
        left, right, top, bottom = padding
        self.save(padding)
        frame = [(0, 0)] * (a.ndim - 2) + [(top, bottom), (left, right)]
        return np.pad(a, frame, constant_values=value)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        ((left, right, top, bottom),) = self.saved
        H, W = grad.shape[-2:]
        return (grad[..., top : H - bottom, left : W - right],)


class To(Function):
    """The same numbers on another device; the gradient comes back."""

    def forward(self, a: Array, *, device: str) -> Array:
        self.save(device_of(a))
        return to_device(a, device)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (device,) = self.saved
        return (to_device(grad, device),)


def inverse(axes: Sequence[int]) -> tuple[int, ...]:
    """Return the permutation that undoes ``axes``."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def to(x: Tensor, device: str) -> Tensor:
    """Return x on ``"cpu"`` or ``"cuda"``, the current GPU; x itself if it is there.

    Raises:
        ValueError: no device has that name.
        DeviceError: there is no GPU; says why.
    """
    return x if device == x.device else To.apply(x, device=device)


def reshape(x: Tensor, *shape: int) -> Tensor:
    """Return the same numbers in another shape, ``reshape(x, 2, -1)``; one size may be −1 and is worked out."""
    return Reshape.apply(x, shape=shape)


def permute(x: Tensor, *dims: int) -> Tensor:
    """Return x with its axes in the order ``dims``.

    Raises:
        ValueError: ``dims`` does not name each axis once.
    """
    order = tuple(dim % x.ndim for dim in dims)
    if sorted(order) != list(range(x.ndim)) or not all(-x.ndim <= dim < x.ndim for dim in dims):
        raise ValueError(f"permute: dims must name each of the {x.ndim} axes once, got {dims}")
    return Transpose.apply(x, axes=order)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Return x with two axes swapped.

    Raises:
        ValueError: x has no such axis.
    """
    order = list(range(x.ndim))
    if not all(-x.ndim <= dim < x.ndim for dim in (dim0, dim1)):
        raise ValueError(f"transpose: dims must be axes of a tensor with {x.ndim}, got {dim0} and {dim1}")
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return Transpose.apply(x, axes=tuple(order))


def getitem(x: Tensor, index: Any) -> Tensor:
    """Return x[index] for any index that NumPy takes."""
    return GetItem.apply(x, index=index)


def cat(xs: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return the tensors joined along axis ``dim``.

    Raises:
        ValueError: no tensor is given, or they differ in another axis than ``dim``.
    """
    if not xs:
        raise ValueError("cat: expected at least one tensor, got none")
    return Cat.apply(*xs, dim=dim)


def pad(x: Tensor, padding: int | tuple[int, int, int, int], *, value: float = 0.0) -> Tensor:
    """Return x with a frame around its last two axes: one width, or (left, right, top, bottom) as in PyTorch.

    Raises:
        ValueError: a width is negative, or x has fewer than two axes.
    """
    if x.ndim < 2:
        raise ValueError(f"pad: x must have two axes or more, got shape {x.shape}")
    frame = (padding,) * 4 if isinstance(padding, int) else padding
    if len(frame) != 4 or min(frame) < 0:
        raise ValueError(f"pad: padding must be a width or (left, right, top, bottom), none negative, got {padding!r}")
    return Pad.apply(x, padding=frame, value=value)
