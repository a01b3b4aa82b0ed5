"""The kernels of minifcn: arrays in, arrays out. They know no tensor and stand on NumPy and Numba alone."""

from minifcn_kernels.conv2d import conv2d, conv2d_grad_input, conv2d_grad_weight
from minifcn_kernels.dispatch import backends, use_backend

__all__ = [
    "backends",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "use_backend",
]
