"""Crop and fuse: how an FCN makes maps of different sizes meet (FCN §4.2)."""

import minifcn_kernels as kernels
from minifcn.tensor import Function, Tensor
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair


class Crop(Function):
    """y = a rectangle of x; the cotangent goes back to where the rectangle was, the rest gets 0."""

    fresh_gradients = True

    def forward(self, x: Array, *, offset: IntOrPair, size: IntOrPair) -> Array:
        self.save(x.shape, offset)
        return kernels.crop(x, offset, size)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x_shape, offset = self.saved
        return (kernels.crop_grad(grad, offset, x_shape),)


class Fuse(Function):
    """y = coarse + crop(fine); ∂y/∂coarse = 1, and fine gets the gradient of the crop."""

    def forward(self, coarse: Array, fine: Array, *, offset: IntOrPair) -> Array:
        self.save(fine.shape, offset)
        return kernels.fuse(coarse, fine, offset)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        fine_shape, offset = self.saved
        return grad, kernels.crop_grad(grad, offset, fine_shape) if self.needs[1] else None


def crop(x: Tensor, offset: IntOrPair, size: IntOrPair) -> Tensor:
    """Cut the rectangle of ``size`` (H, W) at ``offset`` (top, left) out of x (N, C, H, W).

    See `minifcn_kernels.crop` for the contract.
    """
    return Crop.apply(x, offset=offset, size=size)


def fuse(coarse: Tensor, fine: Tensor, offset: IntOrPair) -> Tensor:
    """Add to ``coarse`` the rectangle of its size at ``offset`` (top, left) of ``fine``: the skip connection of an FCN.

    See `minifcn_kernels.fuse` for the contract.
    """
    return Fuse.apply(coarse, fine, offset=offset)
