"""Local response normalisation, which AlexNet and GoogLeNet use."""

import minifcn_kernels as kernels
from minifcn.tensor import Function, Tensor
from minifcn_kernels.jit import Array


class LocalResponseNorm(Function):
    """y = x·scale^(−beta), the scale from the squares of the channels around; nothing but x is kept for backward."""

    fresh_gradients = True

    def forward(self, x: Array, *, size: int, alpha: float, beta: float, k: float) -> Array:
        self.save(x, size, alpha, beta, k)
        return kernels.local_response_norm(x, size, alpha, beta, k)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (kernels.local_response_norm_grad(grad, *self.saved),)


def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Divide x (N, C, H, W) by the activity of the ``size`` channels around each: x / (k + alpha/size · Σ x²)^beta.

    See `minifcn_kernels.local_response_norm` for the contract.
    """
    return LocalResponseNorm.apply(x, size=size, alpha=alpha, beta=beta, k=k)
