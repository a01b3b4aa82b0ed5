"""Max and average pooling: each forgets where things were, and its gradient has to know."""

from typing import Any

import minifcn_kernels as kernels
from minifcn.tensor import Function, Tensor
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair


class MaxPool2d(Function):
    """y = the window's largest; the cotangent goes to the element that won, whose position forward kept."""

    fresh_gradients = True

    def forward(self, x: Array, **options: Any) -> Array:
        y, index = kernels.max_pool2d(x, **options)
        self.save(index, x.shape, options)
        return y

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        index, x_shape, options = self.saved
        return (kernels.max_pool2d_grad(grad, index, x_shape, **options),)


class AvgPool2d(Function):
    """y = the window's mean; each of its elements gets an equal share of the cotangent."""

    fresh_gradients = True

    def forward(self, x: Array, **options: Any) -> Array:
        self.save(x.shape, options)
        return kernels.avg_pool2d(x, **options)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x_shape, options = self.saved
        return (kernels.avg_pool2d_grad(grad, x_shape, **options),)


def max_pool2d(
    x: Tensor,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Take the largest element in each window of x (N, C, H, W); see `minifcn_kernels.max_pool2d` for the contract.

    Of equal elements the first wins, and gets the whole gradient.
    """
    return MaxPool2d.apply(
        x, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
    )


def avg_pool2d(
    x: Tensor,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Average over each window of x (N, C, H, W); see `minifcn_kernels.avg_pool2d` for the contract."""
    return AvgPool2d.apply(
        x,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )
