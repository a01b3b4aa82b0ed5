"""Augmentation: mirroring and jitter, as functions of (seed, epoch, index). FCN §4.3."""

from dataclasses import dataclass

import numpy as np

from minifcn.data.dataset import VOID, Dataset, Example
from minifcn.random import stream


def mirrored(example: Example) -> Example:
    """Return ``example`` with left and right exchanged, in the image and in the labels."""
    return Example(
        np.ascontiguousarray(example.image[:, :, ::-1]),
        np.ascontiguousarray(example.label[:, ::-1]),
        example.name,
    )


def shifted(example: Example, down: int, right: int) -> Example:
    """Return ``example`` moved by ``down`` and ``right`` pixels (negative: up, left), its size kept.

    Where nothing moves in, the image is 0 (mid-grey) and the label is ``VOID``: nobody knows what was there.
    """
    image = np.zeros_like(example.image)
    label = np.full_like(example.label, VOID)
    height, width = label.shape
    to_rows, from_rows = _overlap(down, height)
    to_columns, from_columns = _overlap(right, width)
    image[:, to_rows, to_columns] = example.image[:, from_rows, from_columns]
    label[to_rows, to_columns] = example.label[from_rows, from_columns]
    return Example(image, label, example.name)


def _overlap(shift: int, side: int) -> tuple[slice, slice]:
    """Return where the pixels that stay within ``side`` come to lie, and where they lay: y = x + shift."""
    kept = max(side - abs(shift), 0)
    to, origin = max(shift, 0), max(-shift, 0)
    return slice(to, to + kept), slice(origin, origin + kept)


@dataclass(frozen=True)
class Augmented:
    """``dataset``, its examples mirrored at random and moved by up to ``jitter`` pixels each way. FCN §4.3.

    Mirroring suits photographs; digits lose their meaning by it: pass ``mirror=False``.
    """

    dataset: Dataset
    seed: int
    mirror: bool = True
    jitter: int = 32

    @property
    def classes(self) -> tuple[str, ...]:
        """The data set's own classes."""
        return self.dataset.classes

    @property
    def channels(self) -> int:
        """The data set's own channels."""
        return self.dataset.channels

    def __len__(self) -> int:
        return len(self.dataset)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return the data set's example, augmented by a function of (seed, epoch, index)."""
        example = self.dataset.example(index, epoch)
        rng = stream(self.seed, "augment", epoch, index)
        # Both are always drawn, so that the jitter does not depend on whether mirroring is on.
        flip = rng.random() < 0.5
        down, right = rng.integers(-self.jitter, self.jitter, 2, endpoint=True).tolist()
        if self.mirror and flip:
            example = mirrored(example)
        return shifted(example, down, right)
