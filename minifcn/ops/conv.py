"""Convolution and transposed convolution: three kernels make two ops.

================== ================= ===================== ==============================
op                 forward           gradient of the input gradient of the weight
================== ================= ===================== ==============================
conv2d             conv2d            conv2d_grad_input     conv2d_grad_weight(x, gy)
conv_transpose2d   conv2d_grad_input conv2d                conv2d_grad_weight(gy, x)
================== ================= ===================== ==============================

"Upsampling is backwards strided convolution" (FCN §3.3): swap what a convolution does forward with what it does
backward, and you have the op that upsamples.
"""

from typing import Any

import numpy as np

import minifcn_kernels as kernels
from minifcn.tensor import Function, Tensor
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair, Pair, pair


def _sum_over_pixels(grad: Array) -> Array:
    """(N, K, OH, OW) → (K,): the gradient of a bias, which is added to every pixel of its channel."""
    return grad.sum(axis=(0, 2, 3))


class Conv2d(Function):
    """y = x ⋆ w + b; the two sums of the table above, and for b the sum over all pixels."""

    fresh_gradients = True

    def forward(self, x: Array, w: Array, b: Array | None, **options: Any) -> Array:
        self.save(x, w, options)
        return kernels.conv2d(x, w, b, **options)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, w, options = self.saved
        return (
            kernels.conv2d_grad_input(grad, w, x.shape, **options) if self.needs[0] else None,
            kernels.conv2d_grad_weight(x, grad, w.shape, **options) if self.needs[1] else None,
            _sum_over_pixels(grad) if self.needs[2] else None,
        )


class ConvTranspose2d(Function):
    """The adjoint of a convolution as a forward pass; its own adjoint is that convolution."""

    fresh_gradients = True

    def forward(self, x: Array, w: Array, b: Array | None, *, out: Pair, **options: Any) -> Array:
        self.save(x, w, options)
        y_shape = (x.shape[0], w.shape[1] * options["groups"], *out)
        y: Array = kernels.conv2d_grad_input(x, w, y_shape, **options)
        if b is not None:
            y += b[:, None, None]
        return y

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, w, options = self.saved
        return (
            kernels.conv2d(grad, w, **options) if self.needs[0] else None,
            kernels.conv2d_grad_weight(grad, x, w.shape, **options) if self.needs[1] else None,
            _sum_over_pixels(grad) if self.needs[2] else None,
        )


def conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve x (N, C, H, W) with w (K, C/G, R, S) and add b (K,); see `minifcn_kernels.conv2d` for the contract."""
    return Conv2d.apply(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups)


def conv_transpose2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """Upsample x (N, C, H, W) by ``stride`` with w (C, K/G, R, S) and add b (K,): the adjoint of a convolution.

    Every input pixel adds a copy of the filter, scaled by itself, to the output::

        OH = (H − 1)·stride − 2·padding + dilation·(R − 1) + output_padding + 1

    ``output_padding`` picks one of the ``stride`` output sizes that a convolution would map to the same input size.

    Raises:
        ValueError: output_padding is not below the stride (PyTorch admits below the dilation, too: such rows would be
            outside every window), padding leaves no output, b does not fit, or what `minifcn_kernels.conv2d_grad_input`
            refuses.
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[0]:
        raise ValueError(
            f"conv_transpose2d: expected x (N, C, H, W) and w (C, K/G, R, S) with one C, got {x.shape} and {w.shape}"
        )
    if not isinstance(groups, int | np.integer) or groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f"conv_transpose2d: groups must be an int that divides the {x.shape[1]} channels of x, got {groups!r}"
        )
    stride = pair("stride", stride, minimum=1)
    padding = pair("padding", padding, minimum=0)
    output_padding = pair("output_padding", output_padding, minimum=0)
    dilation = pair("dilation", dilation, minimum=1)
    if output_padding[0] >= stride[0] or output_padding[1] >= stride[1]:
        raise ValueError(
            f"conv_transpose2d: output_padding must be smaller than the stride {stride}, got {output_padding}"
        )
    channels = w.shape[1] * groups
    if b is not None and b.shape != (channels,):
        raise ValueError(f"conv_transpose2d: b must have shape ({channels},), one for each channel, got {b.shape}")
    height, width = (
        (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (w.shape[2 + i] - 1) + output_padding[i] + 1
        for i in (0, 1)
    )
    if height < 1 or width < 1:
        raise ValueError(f"conv_transpose2d: padding {padding} leaves an output of {height}×{width}; use less of it")
    return ConvTranspose2d.apply(
        x, w, b, out=(height, width), stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Return x·wᵀ + b for x (N, C), w (K, C), b (K,): a convolution of 1×1 maps (FCN §3.1 read backwards).

    Raises:
        ValueError: x or w has not two axes, or they differ in C.
    """
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
        raise ValueError(f"linear: expected x (N, C) and w (K, C) with one C, got shapes {x.shape} and {w.shape}")
    y = conv2d(x.reshape(*x.shape, 1, 1), w.reshape(*w.shape, 1, 1), b)
    return y.reshape(x.shape[0], w.shape[0])
