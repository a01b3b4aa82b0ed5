"""Max and average pooling and their gradients."""

from minifcn_kernels.pool2d import gpu, loops  # noqa: F401  they register the implementations
from minifcn_kernels.pool2d.contract import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad

__all__ = ["avg_pool2d", "avg_pool2d_grad", "max_pool2d", "max_pool2d_grad"]
