"""The per-pixel loss that FCNs are trained with (FCN §4.1)."""

from typing import Any

import minifcn_kernels as kernels
from minifcn.tensor import Function, Tensor
from minifcn_kernels.cross_entropy.contract import Reduction
from minifcn_kernels.cuda.device import is_array
from minifcn_kernels.dispatch import check_shape
from minifcn_kernels.jit import Array


class CrossEntropy(Function):
    """y = −log softmax at the target, weighted and reduced; ∂y/∂logits = softmax − one-hot, weighted likewise."""

    fresh_gradients = True

    def forward(self, logits: Array, **options: Any) -> Array:
        self.save(logits, options)
        return kernels.softmax_cross_entropy(logits, **options)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        logits, options = self.saved
        return (kernels.softmax_cross_entropy_grad(grad, logits, **options),)


def cross_entropy(
    logits: Tensor,
    target: Array,
    *,
    weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the softmax cross-entropy of logits (N, C, H, W) with the classes in target (N, H, W).

    Logits (N, C) with target (N,) are maps of one pixel: a classifier's loss. ``mask`` has the shape of ``target``.
    Target, class ``weight`` (C,) and ``mask`` are constants: plain arrays, the latter two of the logits' dtype.
    See `minifcn_kernels.softmax_cross_entropy` for the contract.

    Raises:
        TypeError: target is no array.
        ValueError: logits have neither two nor four axes, target or mask do not fit them, a target is no class, or an
            unknown reduction.
    """
    if not is_array(target):
        raise TypeError(f"cross_entropy: target must be an integer array, got {type(target).__name__}")
    if logits.ndim not in (2, 4):
        raise ValueError(f"cross_entropy: logits must be (N, C, H, W) or (N, C), got shape {logits.shape}")
    N, C = logits.shape[:2]
    one_pixel = logits.ndim == 2
    if one_pixel:
        logits = logits.reshape(N, C, 1, 1)
        target = _one_pixel_map("target", target, N)
        mask = None if mask is None else _one_pixel_map("mask", mask, N)
    loss = CrossEntropy.apply(
        logits, target=target, weight=weight, mask=mask, ignore_index=ignore_index, reduction=reduction
    )
    return loss.reshape(N) if one_pixel and reduction == "none" else loss


def _one_pixel_map(name: str, values: Array, N: int) -> Array:
    """(N,) → (N, 1, 1)."""
    check_shape("cross_entropy", name, values.shape, (N,))
    return values.reshape(N, 1, 1)
