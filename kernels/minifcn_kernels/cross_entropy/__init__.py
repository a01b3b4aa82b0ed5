"""The softmax cross-entropy of every pixel and its gradient, fused."""

from minifcn_kernels.cross_entropy import gpu, loops  # noqa: F401  they register the implementations
from minifcn_kernels.cross_entropy.contract import softmax_cross_entropy, softmax_cross_entropy_grad

__all__ = ["softmax_cross_entropy", "softmax_cross_entropy_grad"]
