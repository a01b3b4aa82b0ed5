"""Which examples a step trains on, and how they become arrays."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minifcn.data.dataset import VOID, Dataset, order
from minifcn.fcn.sampling import sample_labels
from minifcn.random import stream


class Batch(NamedTuple):
    """Examples of one size, stacked: images (N, C, H, W), labels (N, H, W), or (N,) for a classifier."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]


def samples(seed: int, size: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the samples ``start`` … ``stop`` − 1 of an endless training, each as (epoch, index).

    The training sees the ``size`` examples in the order of epoch 0, then in that of epoch 1, and so on; a batch may
    begin in one epoch and end in the next. Where a sample stands decides what it is: there is nothing to remember.
    """
    for epoch in range(start // size, -(-stop // size)):
        first = epoch * size
        indices = order(seed, epoch, size)
        for position in range(max(start, first), min(stop, first + size)):
            yield epoch, int(indices[position - first])


def microbatches(dataset: Dataset, seed: int, step: int, batch_size: int, accumulate: int) -> list[Batch]:
    """Return the ``accumulate`` micro-batches, of ``batch_size`` examples each, of one training step.

    Raises:
        ValueError: images that are to be stacked differ in size.
    """
    size = batch_size * accumulate
    wanted = samples(seed, len(dataset), step * size, (step + 1) * size)
    examples = [dataset.example(index, epoch) for epoch, index in wanted]
    batches = []
    for start in range(0, size, batch_size):
        one, *others = batch = examples[start : start + batch_size]
        for other in others:
            if other.image.shape != one.image.shape:
                raise ValueError(
                    f"the images of a batch must have one size, but {one.name} is {one.image.shape} and {other.name} "
                    f"is {other.image.shape}: use batch_size=1 and accumulate={size}, which trains on as many a step"
                )
        batches.append(Batch(np.stack([e.image for e in batch]), np.stack([e.label for e in batch])))
    return batches


def sampled(batches: Sequence[Batch], keep: float | Sequence[float], seed: int, step: int) -> list[Batch]:
    """Return the micro-batches of a step with only a random part of their labels kept, the rest void (FCN §3.4)."""
    return [
        Batch(images, sample_labels(labels, keep, stream(seed, "sampling", microbatch, step)))
        for microbatch, (images, labels) in enumerate(batches)
    ]


def total_weight(batches: Sequence[Batch], class_weight: npt.NDArray[np.floating] | None) -> float:
    """Return what all labelled pixels of a step weigh together: their number, or the sum of their classes' weights."""
    total = 0.0
    for batch in batches:
        labels = batch.labels[batch.labels != VOID]
        total += labels.size if class_weight is None else float(class_weight[labels].sum(dtype=np.float64))
    return total
