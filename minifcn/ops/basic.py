"""Arithmetic, element by element, and the matrix product. One `Function` each, its algebra in its first line.

Inputs that differ in shape are broadcast as in NumPy; the gradient of a broadcast is the sum over the axes that
it repeated (`_sum_to`). In the comments, g is the cotangent of the output.
"""

from typing import TypeAlias

import numpy as np

from minifcn.tensor import Function, Scalar, Tensor
from minifcn_kernels.jit import Array

Operand: TypeAlias = Tensor | Array | Scalar


def _sum_to(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``grad`` over the axes along which an array of ``shape`` was broadcast."""
    if grad.shape == shape:
        return grad
    added = tuple(range(grad.ndim - len(shape)))
    stretched = tuple(len(added) + i for i, size in enumerate(shape) if size == 1 and grad.shape[len(added) + i] != 1)
    return grad.sum(axis=added + stretched, keepdims=True).reshape(shape)


class Add(Function):
    """y = a + b; ∂y/∂a = ∂y/∂b = 1."""

    def forward(self, a: Array, b: Array) -> Array:
        self.save(a.shape, b.shape)
        return a + b

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        a_shape, b_shape = self.saved
        return (
            _sum_to(grad, a_shape) if self.needs[0] else None,
            _sum_to(grad, b_shape) if self.needs[1] else None,
        )


class Sub(Function):
    """y = a − b; ∂y/∂a = 1, ∂y/∂b = −1."""

    def forward(self, a: Array, b: Array) -> Array:
        self.save(a.shape, b.shape)
        return a - b

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        a_shape, b_shape = self.saved
        return (
            _sum_to(grad, a_shape) if self.needs[0] else None,
            _sum_to(-grad, b_shape) if self.needs[1] else None,
        )


class Mul(Function):
    """y = a·b; ∂y/∂a = b, ∂y/∂b = a."""

    def forward(self, a: Array, b: Array) -> Array:
        self.save(a, b)
        return a * b

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        a, b = self.saved
        return (
            _sum_to(grad * b, a.shape) if self.needs[0] else None,
            _sum_to(grad * a, b.shape) if self.needs[1] else None,
        )


class Div(Function):
    """y = a/b; ∂y/∂a = 1/b, ∂y/∂b = −a/b² = −y/b."""

    def forward(self, a: Array, b: Array) -> Array:
        y = a / b
        self.save(a.shape, b, y)
        return y

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        a_shape, b, y = self.saved
        grad_a = grad / b
        return (
            _sum_to(grad_a, a_shape) if self.needs[0] else None,
            _sum_to(-grad_a * y, b.shape) if self.needs[1] else None,
        )


class Neg(Function):
    """y = −a; ∂y/∂a = −1."""

    def forward(self, a: Array) -> Array:
        return -a

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (-grad,)


class Pow(Function):
    """y = aᵖ for a number p; ∂y/∂a = p·aᵖ⁻¹."""

    def forward(self, a: Array, *, exponent: float) -> Array:
        self.save(a, exponent)
        return a**exponent

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        a, exponent = self.saved
        return (grad * (exponent * a ** (exponent - 1)),) if exponent else (np.zeros_like(a),)


class Exp(Function):
    """y = eᵃ; ∂y/∂a = y."""

    def forward(self, a: Array) -> Array:
        y = np.exp(a)
        self.save(y)
        return y

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (y,) = self.saved
        return (grad * y,)


class Log(Function):
    """y = ln a; ∂y/∂a = 1/a."""

    def forward(self, a: Array) -> Array:
        self.save(a)
        return np.log(a)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (a,) = self.saved
        return (grad / a,)


class Sqrt(Function):
    """y = √a; ∂y/∂a = 1/(2y)."""

    def forward(self, a: Array) -> Array:
        y = np.sqrt(a)
        self.save(y)
        return y

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (y,) = self.saved
        return (grad / (2 * y),)


class MatMul(Function):
    """Y = A·B over the last two axes; ∂/∂A: G·Bᵀ, ∂/∂B: Aᵀ·G.

    Summed by einsum, in one fixed order: BLAS gives other bits for other numbers of threads.
    """

    def forward(self, a: Array, b: Array) -> Array:
        self.save(a, b)
        return np.einsum("...ij,...jk->...ik", a, b)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        a, b = self.saved
        return (
            _sum_to(np.einsum("...ik,...jk->...ij", grad, b), a.shape) if self.needs[0] else None,
            _sum_to(np.einsum("...ij,...ik->...jk", a, grad), b.shape) if self.needs[1] else None,
        )


def add(a: Operand, b: Operand) -> Tensor:
    """Return a + b."""
    return Add.apply(a, b)


def sub(a: Operand, b: Operand) -> Tensor:
    """Return a − b."""
    return Sub.apply(a, b)


def mul(a: Operand, b: Operand) -> Tensor:
    """Return a·b, element by element."""
    return Mul.apply(a, b)


def div(a: Operand, b: Operand) -> Tensor:
    """Return a/b, element by element."""
    return Div.apply(a, b)


def neg(a: Tensor) -> Tensor:
    """Return −a."""
    return Neg.apply(a)


def pow(a: Tensor, exponent: Scalar) -> Tensor:
    """Return a to the power of a number.

    Raises:
        TypeError: the exponent is something else; for a tensor b, write ``(log(a) * b).exp()``.
    """
    if not isinstance(exponent, int | float | np.number):
        raise TypeError(f"pow: the exponent must be a number, got {type(exponent).__name__}; write (log(a) * b).exp()")
    return Pow.apply(a, exponent=float(exponent))


def exp(a: Tensor) -> Tensor:
    """Return eᵃ."""
    return Exp.apply(a)


def log(a: Tensor) -> Tensor:
    """Return the natural logarithm."""
    return Log.apply(a)


def sqrt(a: Tensor) -> Tensor:
    """Return the square root."""
    return Sqrt.apply(a)


def matmul(a: Tensor | Array, b: Tensor | Array) -> Tensor:
    """Return the matrix product over the last two axes, (…, I, J) @ (…, J, K) → (…, I, K).

    Raises:
        ValueError: fewer than two axes, or inner sizes that differ.
    """
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: expected shapes (…, I, J) and (…, J, K), got {a.shape} and {b.shape}")
    return MatMul.apply(a, b)
