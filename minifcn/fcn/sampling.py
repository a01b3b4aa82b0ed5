"""Patchwise training is loss sampling (FCN §3.4).

Every cell of a net's final map is a patch: the part of the image that it sees. A whole image's loss is a sum over its
cells, so its gradient is the sum of the gradients of all its patches, and a cell whose loss is left out is a patch that
was not drawn. Training on random patches therefore *is* training on whole images with random cells left out, but for
the cost: the patches of one image share what they compute.

With every cell kept with probability p an image yields one of 2ⁿ batches of patches instead of always the same, and
images per batch have to rise by 1/p to keep the number of patches. Uniform sampling leaves the classes' shares as
they are; only a probability q_c that depends on a cell's class c rebalances, in expectation just as weights w_c = q_c
do, with more variance.

A cell is a patch only on the map itself. Behind bilinear upsampling a pixel's loss touches up to four cells.
"""

import math
from collections.abc import Sequence

import numpy as np

from minifcn import ops
from minifcn.tensor import Tensor
from minifcn_kernels.cross_entropy.contract import Reduction
from minifcn_kernels.jit import Array


def sample_loss(
    logits: Tensor,
    target: Array,
    keep: float | Sequence[float],
    rng: np.random.Generator,
    *,
    weight: Array | None = None,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the cross-entropy of the cells that `sample_labels` keeps; see there and `ops.cross_entropy`.

    "mean" is over the kept cells: the loss of the minibatch of their patches. "sum" is the one whose expectation over
    the draws is ``keep`` times the loss of all cells.
    """
    kept = sample_labels(target, keep, rng, ignore_index=ignore_index)
    return ops.cross_entropy(logits, kept, weight=weight, ignore_index=ignore_index, reduction=reduction)


def sample_labels(
    target: Array, keep: float | Sequence[float], rng: np.random.Generator, *, ignore_index: int = 255
) -> Array:
    """Return ``target`` with each label kept with its probability, independently, and else ``ignore_index``.

    Args:
        target: integers of any shape: a class 0 … C − 1, or ``ignore_index``, which stays.
        keep: p, or one probability q_c for each class.
        rng: draws one number per label.

    Raises:
        ValueError: a probability is not in 0 < p ≤ 1, or a label has none.
    """
    probabilities = np.asarray(keep, np.float64)
    if probabilities.ndim > 1 or not ((probabilities > 0) & (probabilities <= 1)).all():
        raise ValueError(f"sample_labels: keep must hold probabilities, 0 < p <= 1, one or one per class, got {keep}")
    labelled = target != ignore_index
    if probabilities.ndim == 1:
        unknown = np.unique(target[labelled & ((target < 0) | (target >= len(probabilities)))])
        if unknown.size:
            raise ValueError(
                f"sample_labels: keep has probabilities for the classes 0 … {len(probabilities) - 1}, but target holds "
                f"{unknown[0]}; give one for each class"
            )
        probabilities = probabilities[np.where(labelled, target, 0)]
    drawn = rng.random(target.shape) < probabilities
    return np.where(drawn, target, np.asarray(ignore_index, target.dtype))


def images_per_batch(batch_size: int, keep: float) -> int:
    """Return how many images hold as many kept cells, in the mean, as ``batch_size`` whole ones: ×1/p, rounded up.

    Raises:
        ValueError: ``keep`` is not in 0 < p ≤ 1.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"images_per_batch: keep must satisfy 0 < keep <= 1, got {keep}")
    return math.ceil(batch_size / keep)
