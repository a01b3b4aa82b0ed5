"""Crop, its gradient, and fuse: how maps of different sizes meet."""

from minifcn_kernels.crop import gpu, loops  # noqa: F401  they register the implementations
from minifcn_kernels.crop.contract import crop, crop_grad, fuse

__all__ = ["crop", "crop_grad", "fuse"]
