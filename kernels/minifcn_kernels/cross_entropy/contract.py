"""What the two kernels of the per-pixel softmax cross-entropy compute.

Notation, here and in every implementation::

    N batch   C classes   H W map size   n h w one pixel
    z = logits[n, :, h, w]        t = target[n, h, w]

A pixel counts with the weight

    v[n, h, w] = weight[t] · mask[n, h, w]        and 0 where t is ``ignore_index``

(1 for what is not given). A pixel of weight 0 is as if it did not exist: whatever its logits, NaN included, it adds
exactly 0 to the loss and gets the gradient 0.

Forward keeps nothing: backward computes the softmax again from the logits. In the loops it does so inside the array
that becomes the gradient, one exponential per logit each way, and no other array of the logits' size.
"""

from typing import Literal, TypeAlias

import numpy as np

from minifcn_kernels.dispatch import check_shape, floats, integers, kernel
from minifcn_kernels.jit import Array

Reduction: TypeAlias = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")


@kernel(logits=floats("N C H W"), target=integers("N H W"), weight=floats("C"), mask=floats("N H W"))
def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Array:
    """Compute the multinomial logistic loss of every pixel, and reduce it::

        loss[n, h, w] = v[n, h, w] · (log Σ_c exp z_c − z_t)

        "none": loss        "sum": Σ loss        "mean": Σ loss / Σ v

    with z, t and v as in the notation above. The maximum of z is taken off first, so logits of any size do not
    overflow. Sums over pixels run in float64, in an order that only the shape decides.

    Args:
        logits: (N, C, H, W), unnormalised.
        target: (N, H, W), any integer dtype; a class in 0 … C − 1, or ``ignore_index``.
        weight: (C,), what a pixel of each class counts, or None for 1.
        mask: (N, H, W), what each pixel counts, or None for 1; of the dtype of ``logits``.
        ignore_index: the label of pixels that do not count (VOC marks borders with 255).
        reduction: "mean", "sum" or "none". A mean over nothing (Σ v = 0) is 0; PyTorch gives NaN there.

    Returns:
        (N, H, W) for "none", else a 0-d array; of the dtype of ``logits``.

    Raises:
        ValueError: a target that is neither a class nor ``ignore_index``, or an unknown reduction.
    """
    label, v = label_and_weight(logits, target, weight, mask, ignore_index)
    largest = logits.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a NaN or infinite logit is the caller's to see, in the loss
        log_sum = np.log(np.exp(logits - largest).sum(axis=1))
        z_target = np.take_along_axis(logits - largest, label[:, None], axis=1)[:, 0]
        loss = np.where(v == 0, 0, v * (log_sum - z_target))
    return reduce(loss, v, reduction)


@kernel(logits=floats("N C H W"), target=integers("N H W"), weight=floats("C"), mask=floats("N H W"))
def softmax_cross_entropy_grad(
    gy: Array,
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Array:
    """Pull a cotangent of `softmax_cross_entropy`'s result back to the logits::

        g[n, c, h, w] = u[n, h, w] · (softmax(z)_c − [c = t])

        "none": u = gy · v        "sum": u = gy · v        "mean": u = gy · v / Σ v

    with z, t and v as in the notation above; in the first case gy is one number per pixel.

    Args:
        gy: the cotangent, in shape and dtype that of the result: (N, H, W) for "none", else 0-d.
        logits, target, weight, mask, ignore_index, reduction: those of the forward pass.

    Returns:
        (N, C, H, W); all zero where Σ v = 0.

    Raises:
        TypeError, ValueError: see `softmax_cross_entropy`; also if ``gy`` has another dtype or shape than the result.
    """
    label, u = label_and_cotangent(gy, logits, target, weight, mask, ignore_index, reduction)
    with np.errstate(invalid="ignore"):
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        g = exponentials / exponentials.sum(axis=1, keepdims=True)
        np.put_along_axis(g, label[:, None], np.take_along_axis(g, label[:, None], axis=1) - 1, axis=1)
        u = u[:, None]
        return np.where(u == 0, 0, u * g)


def label_and_weight(
    logits: Array, target: Array, weight: Array | None, mask: Array | None, ignore_index: int
) -> tuple[Array, Array]:
    """Return every pixel's class and weight v, both (N, H, W); where the target is ignored, class 0 of weight 0."""
    C = logits.shape[1]
    counts = target != ignore_index
    bad = counts & ((target < 0) | (target >= C))
    if bad.any():
        n, h, w = (int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
        raise ValueError(
            f"softmax_cross_entropy: target[{n}, {h}, {w}] is {target[n, h, w]}, "
            f"neither a class (0 … {C - 1}) nor ignore_index ({ignore_index})"
        )
    label = np.where(counts, target, 0).astype(np.int64, copy=False)
    v = counts.astype(logits.dtype)
    if weight is not None:
        v *= weight[label]
    if mask is not None:
        v *= mask
    return label, v


def reduce(loss: Array, v: Array, reduction: Reduction) -> Array:
    """Reduce the pixels' losses, (N, H, W), already weighted by ``v``."""
    if check_reduction(reduction) == "none":
        return loss
    total = loss.sum(dtype=np.float64)
    if reduction == "mean":
        total /= total_weight(v)
    return np.asarray(total, loss.dtype)


def label_and_cotangent(
    gy: Array,
    logits: Array,
    target: Array,
    weight: Array | None,
    mask: Array | None,
    ignore_index: int,
    reduction: Reduction,
) -> tuple[Array, Array]:
    """Return every pixel's class and its u as in `softmax_cross_entropy_grad`, both (N, H, W)."""
    check_cotangent(gy, logits, target, reduction)
    label, v = label_and_weight(logits, target, weight, mask, ignore_index)
    if reduction == "mean":
        gy = (gy / total_weight(v)).astype(v.dtype)
    return label, gy * v


def check_cotangent(gy: Array, logits: Array, target: Array, reduction: Reduction) -> None:
    """Raise an error unless ``gy`` has dtype and shape of what `softmax_cross_entropy` returns."""
    shape = target.shape if check_reduction(reduction) == "none" else ()
    if not isinstance(gy, type(logits)):
        raise TypeError(
            f"softmax_cross_entropy_grad: gy must be an array of shape {shape}, like logits, got {type(gy).__name__}"
        )
    check_shape("softmax_cross_entropy_grad", "gy", gy.shape, shape)
    if gy.dtype != logits.dtype:
        raise TypeError(
            f"softmax_cross_entropy_grad: logits is {logits.dtype} but gy is {gy.dtype}; convert one of them"
        )


def total_weight(v: Array) -> float:
    """Return Σ v, the mean's divisor; 1 if nothing counts, so that loss and gradient come out as 0."""
    return float(v.sum(dtype=np.float64)) or 1.0


def check_reduction(reduction: Reduction) -> Reduction:
    """Return ``reduction``, or raise a ValueError if it is none of the three."""
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"softmax_cross_entropy: reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}"
        )
    return reduction
