"""Local response normalisation, as in AlexNet and GoogLeNet, and its gradient."""

from minifcn_kernels.local_response_norm import gpu, loops  # noqa: F401  they register the implementations
from minifcn_kernels.local_response_norm.contract import local_response_norm, local_response_norm_grad

__all__ = ["local_response_norm", "local_response_norm_grad"]
