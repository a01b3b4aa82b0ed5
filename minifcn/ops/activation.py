"""Activations: ReLU, softmax, log-softmax, dropout. In the comments, g is the cotangent of the output."""

import numpy as np

from minifcn.arrays import check_device, empty_like
from minifcn.tensor import Function, Tensor
from minifcn_kernels.cuda.device import is_array
from minifcn_kernels.jit import Array


class ReLU(Function):
    """y = max(a, 0), NaN stays NaN; ∂y/∂a = 1 where y > 0, else 0 (at a = 0 too).

    It keeps y, which the next op keeps anyway, and not a, which then can be freed.
    """

    def forward(self, a: Array) -> Array:
        y = np.maximum(a, 0, out=empty_like(a))
        self.save(y)
        return y

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (y,) = self.saved
        return (np.multiply(grad, y > 0, out=empty_like(grad)),)


class Softmax(Function):
    """y = eᵃ / Σ eᵃ along an axis; the gradient is y · (g − Σ g·y)."""

    def forward(self, a: Array, *, dim: int) -> Array:
        e = np.exp(a - a.max(axis=dim, keepdims=True))  # shifted, so that no exponential overflows
        y = e / e.sum(axis=dim, keepdims=True)
        self.save(y, dim)
        return y

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        y, dim = self.saved
        return (y * (grad - (grad * y).sum(axis=dim, keepdims=True)),)


class LogSoftmax(Function):
    """y = a − ln Σ eᵃ along an axis; the gradient is g − eʸ · Σ g."""

    def forward(self, a: Array, *, dim: int) -> Array:
        shifted = a - a.max(axis=dim, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))
        self.save(y, dim)
        return y

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        y, dim = self.saved
        return (grad - np.exp(y) * grad.sum(axis=dim, keepdims=True),)


class Dropout(Function):
    """y = a · mask / (1 − p): what is kept is scaled up, so that the expectation stays; the gradient likewise."""

    def forward(self, a: Array, *, p: float, mask: Array) -> Array:
        scaled = mask.astype(a.dtype) / a.dtype.type(1 - p)
        self.save(scaled)
        return a * scaled

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (scaled,) = self.saved
        return (grad * scaled,)


def relu(x: Tensor) -> Tensor:
    """Return max(x, 0); the derivative at 0 is 0."""
    return ReLU.apply(x)


def softmax(x: Tensor, dim: int) -> Tensor:
    """Return eˣ / Σ eˣ, the sum along ``dim``; stable for any finite x."""
    return Softmax.apply(x, dim=dim)


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """Return x − ln Σ eˣ, the sum along ``dim``; stable for any finite x."""
    return LogSoftmax.apply(x, dim=dim)


def dropout(x: Tensor, p: float, *, mask: Array) -> Tensor:
    """Return x where ``mask`` is True, scaled by 1/(1 − p), and 0 elsewhere.

    The mask is an argument, not drawn here, so that the op stays a function: see `nn.Dropout` for where it comes from.

    Raises:
        ValueError: p is outside 0 ≤ p < 1, or the mask has another shape than x, or is on another device.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must satisfy 0 <= p < 1, got {p}")
    if not is_array(mask) or mask.shape != x.shape:
        raise ValueError(f"dropout: mask must be an array of x's shape {x.shape}, got {getattr(mask, 'shape', mask)}")
    check_device("dropout", mask, x.data)
    return Dropout.apply(x, p=p, mask=mask)
