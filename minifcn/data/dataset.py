"""What every data set is: a fixed number of examples, each a function of its index and the epoch.

Nothing here remembers what was drawn before. The order of an epoch is a function of (seed, epoch), an example of
the data set's own seed, the epoch and the index. So a training that stops and resumes sees the same examples in
the same order, and examples may be drawn in any order, by any number of threads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from minifcn.random import stream, word

VOID = 255
"""The label of pixels that count neither in the loss nor in a metric: object borders, unlabelled regions."""

Split = Literal["train", "val", "test"]


class DataError(ValueError):
    """Data that cannot be used; the message names the file, what is wrong with it and how to mend it."""


@dataclass(frozen=True, eq=False)
class Example:
    """An image with its labels.

    ``image`` is float32 (C, H, W) with values in −1 … 1 (see ``to_input``). ``label`` is uint8: (H, W) holds the
    class of each pixel, or ``VOID``; shape () holds the one class of the whole image, for a classifier. ``name``
    tells where the example comes from and is fit to be a file's name.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    name: str


class Dataset(Protocol):
    """What training and evaluation ask of a data set; anything that answers it can be trained on."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names; a name's place is its label. Class 0 is the background where there is one."""

    @property
    def channels(self) -> int:
        """The C of every image (C, H, W)."""

    def __len__(self) -> int:
        """Return the number of examples of an epoch."""

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return example ``index`` (0 ≤ index < len) of ``epoch``: the same bits however often it is asked for."""


def order(seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
    """Return the order in which ``epoch`` visits the indices 0 … size − 1: a permutation, shape (size,)."""
    return stream(seed, "order", epoch).permutation(size)


_TRAIN, _VAL = 0.70, 0.15  # the rest is for the test


def split_names(names: Iterable[str]) -> dict[Split, list[str]]:
    """Split ``names`` into about 70 % for training, 15 % for validation and 15 % for the test, each one sorted.

    A name's hash, a number in 0 … 1, decides alone. So two runs and two machines agree, and a data set that grows
    keeps every old name where it was. Only where that would leave a split empty, which happens to a handful of
    names, the nearest name in the order of the hashes is moved there.

    Raises:
        DataError: there are fewer than three names, which cannot fill three splits.
    """
    fractions = sorted((word(name) / 2**64, name) for name in names)
    count = len(fractions)
    if count < 3:
        raise DataError(f"{count} examples cannot be split into train, val and test; at least 3 are needed")
    train_end = sum(fraction < _TRAIN for fraction, _ in fractions)
    val_end = sum(fraction < _TRAIN + _VAL for fraction, _ in fractions)
    train_end = min(max(train_end, 1), count - 2)
    val_end = min(max(val_end, train_end + 1), count - 1)
    ordered = [name for _, name in fractions]
    return {
        "train": sorted(ordered[:train_end]),
        "val": sorted(ordered[train_end:val_end]),
        "test": sorted(ordered[val_end:]),
    }


def check_split(split: Any) -> None:
    """Raise DataError unless ``split`` is "train", "val" or "test"."""
    if split not in ("train", "val", "test"):
        raise DataError(f'split must be "train", "val" or "test", got {split!r}')


def listed(values: Sequence[object], most: int = 5) -> str:
    """Join ``values`` for a message, but no more of them than a reader wants to see."""
    shown = ", ".join(str(value) for value in values[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"
