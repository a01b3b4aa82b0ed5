"""Convolution and its two gradients: three kernels from which both convolution layers are made."""

from minifcn_kernels.conv2d import choose, gpu  # noqa: F401  they register the implementations
from minifcn_kernels.conv2d.contract import conv2d, conv2d_grad_input, conv2d_grad_weight

__all__ = ["conv2d", "conv2d_grad_input", "conv2d_grad_weight"]
