"""The cross-entropy kernels in CUDA C++: a thread for every pixel."""

from pathlib import Path

import numpy as np

from minifcn_kernels.cross_entropy.contract import (
    Reduction,
    check_cotangent,
    check_reduction,
    label_and_weight,
    softmax_cross_entropy,
    softmax_cross_entropy_grad,
)
from minifcn_kernels.cuda.device import module_of
from minifcn_kernels.cuda.grid import ceil_div, check_countable, number, over_elements
from minifcn_kernels.cuda.launch import CudaSource, empty
from minifcn_kernels.jit import Array

THREADS = 256  # of a block of `sum_stretches`
STRETCH = 16 * THREADS  # numbers that it adds

source = CudaSource(
    Path(__file__).with_name("cross_entropy.cu"),
    [f"{kernel}<{T}>" for kernel in ("pixel_weights", "pixel_losses", "logit_gradients") for T in ("float", "double")]
    + [f"sum_stretches<{T}, {STRETCH}>" for T in ("float", "double")],
)


@softmax_cross_entropy.implementation("cuda")
def softmax_cross_entropy_cuda(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Array:
    """`softmax_cross_entropy`: a loss for every pixel, then their sum. Waits for the check of the targets to end."""
    check_reduction(reduction)
    check_countable("softmax_cross_entropy", logits=logits.shape)
    labels, v = _labels_and_weights(logits, target, weight, mask, ignore_index)
    loss = empty(target.shape, like=logits)
    kernel = f"pixel_losses<{number(logits)}>"
    source.launch(kernel, *over_elements(loss.size), logits, labels, v, loss, _fields(logits))
    if reduction == "none":
        return loss
    total = _total(loss)
    if reduction == "mean":
        total = total / _divisor(v)
    return module_of(logits).asarray(total, logits.dtype)


@softmax_cross_entropy_grad.implementation("cuda")
def softmax_cross_entropy_grad_cuda(
    gy: Array,
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Array:
    """`softmax_cross_entropy_grad`, pixel by pixel. Waits for the check of the targets to end."""
    check_cotangent(gy, logits, target, reduction)
    check_countable("softmax_cross_entropy_grad", logits=logits.shape)
    labels, v = _labels_and_weights(logits, target, weight, mask, ignore_index)
    if reduction == "mean":
        gy = gy / _divisor(v)
    gy = module_of(logits).ascontiguousarray(gy, logits.dtype)
    gradient = empty(logits.shape, like=logits)
    arguments = gy, logits, labels, v, gradient, _fields(logits), reduction == "none"
    source.launch(f"logit_gradients<{number(logits)}>", *over_elements(v.size), *arguments)
    return gradient


def _labels_and_weights(
    logits: Array, target: Array, weight: Array | None, mask: Array | None, ignore_index: int
) -> tuple[Array, Array]:
    """Return the targets as int64, and every pixel's weight v; both (N, H, W)."""
    xp = module_of(logits)
    labels = target.astype(np.int64, copy=False)
    v, bad = empty(target.shape, like=logits), xp.zeros(1, np.int32)
    of_class = xp.ones(logits.shape[1], logits.dtype) if weight is None else weight
    of_pixel = xp.ones(target.shape, logits.dtype) if mask is None else mask
    arguments = labels, of_class, of_pixel, v, bad, _fields(logits), ignore_index
    source.launch(f"pixel_weights<{number(logits)}>", *over_elements(v.size), *arguments)
    if bad[0]:
        label_and_weight(logits, target, weight, mask, ignore_index)  # raises, and says which
    return labels, v


def _divisor(v: Array) -> Array:
    """Return Σ v, 0-d and float64; 1 if nothing counts, so that loss and gradient come out as 0."""
    total = _total(v)
    return module_of(v).where(total == 0, 1.0, total)


def _total(x: Array) -> Array:
    """Return Σ x, 0-d and float64, added in an order that only the size of ``x`` decides."""
    sums = x.reshape(-1)
    if sums.size == 0:
        return module_of(x).zeros((), np.float64)
    while sums.size > 1 or sums.dtype != np.float64:
        stretches = ceil_div(sums.size, STRETCH)
        longer, sums = sums, empty((stretches,), like=x, dtype=np.float64)
        source.launch(f"sum_stretches<{number(longer)}, {STRETCH}>", stretches, THREADS, longer, sums, longer.size)
    return sums.reshape(())


def _fields(logits: Array) -> dict[str, int]:
    """Return the fields of the C++ struct ``Loss``."""
    N, C, H, W = logits.shape
    return {"N": N, "C": C, "plane": H * W}
