"""The kernels of minifcn: arrays in, arrays out. They know no tensor and stand on NumPy and Numba; CuPy is optional."""

from minifcn_kernels.conv2d import conv2d, conv2d_grad_input, conv2d_grad_weight
from minifcn_kernels.crop import crop, crop_grad, fuse
from minifcn_kernels.cross_entropy import softmax_cross_entropy, softmax_cross_entropy_grad
from minifcn_kernels.dispatch import allow_tf32, backends, use_algorithm, use_backend
from minifcn_kernels.local_response_norm import local_response_norm, local_response_norm_grad
from minifcn_kernels.pool2d import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad

__all__ = [
    "allow_tf32",
    "avg_pool2d",
    "avg_pool2d_grad",
    "backends",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "crop",
    "crop_grad",
    "fuse",
    "local_response_norm",
    "local_response_norm_grad",
    "max_pool2d",
    "max_pool2d_grad",
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
    "use_algorithm",
    "use_backend",
]
