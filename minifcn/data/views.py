"""A data set seen in another way: parts of it masked, or a depth camera beside the colour camera."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from minifcn.data.dataset import VOID, DataError, Dataset, Example
from minifcn.random import stream


@dataclass(frozen=True)
class View:
    """``dataset``, to be seen in another way by a subclass, which overrides `example` and what else it changes."""

    dataset: Dataset

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
        """Return the data set's own example."""
        return self.dataset.example(index, epoch)


@dataclass(frozen=True)
class Masked(View):
    """``dataset`` with one part of every image made grey: what can be learned from the other part? PAMI 2017, §6.

    ``part`` is the foreground (all classes but 0), the background (class 0), or "both": then the image says only where
    the foreground is, by 1 for each of its pixels, and nothing but its shape is left. Void pixels are grey in each
    case: the outline of an object would give it away.

    Raises:
        DataError: another part.
    """

    part: Literal["foreground", "background", "both"]

    def __post_init__(self) -> None:
        if self.part not in ("foreground", "background", "both"):
            raise DataError(f'part must be "foreground", "background" or "both", got {self.part!r}')

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return the data set's example with 0, which is mid-grey, for all that is masked."""
        example = super().example(index, epoch)
        foreground = (example.label != 0) & (example.label != VOID)
        if self.part == "both":
            image = np.broadcast_to(foreground, example.image.shape).astype(np.float32)
        else:
            kept = foreground if self.part == "background" else example.label == 0
            image = np.where(kept, example.image, np.float32(0))
        return Example(image, example.label, example.name)


@dataclass(frozen=True)
class WithDepth(View):
    """``dataset`` with a depth camera's measurement as a last channel, as NYUDv2's images have one.

    Objects stand out from a wall, on which everything else is painted: the clutter is flat. So depth tells objects from
    clutter, which colour does not, but it is coarse: the camera measures once for every ``cell``×``cell`` pixels how
    much of them is near (from −1, nothing, to 1, all), with normal noise of deviation ``noise``, and it misses one cell
    in ten, which then reads 0.
    """

    seed: int
    cell: int = 8
    noise: float = 0.3

    @property
    def channels(self) -> int:
        """One more than the data set's own."""
        return self.dataset.channels + 1

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return the data set's example with depth, a function of (seed, epoch, index)."""
        example = super().example(index, epoch)
        near = (example.label != 0) & (example.label != VOID)
        depth = self._measured(near, stream(self.seed, "depth", epoch, index))
        return Example(np.concatenate([example.image, depth[None]]), example.label, example.name)

    def _measured(self, near: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return the depth image (H, W) of a scene in which the pixels ``near`` (H, W) stand out."""
        (H, W), side = near.shape, self.cell
        whole = np.pad(near, ((0, -H % side), (0, -W % side)))  # up to whole cells
        rows, columns = whole.shape[0] // side, whole.shape[1] // side
        share = whole.reshape(rows, side, columns, side).mean(axis=(1, 3))
        depth = 2 * share - 1 + self.noise * rng.standard_normal((rows, columns))
        depth[rng.random((rows, columns)) < _MISSED] = 0
        return depth.repeat(side, axis=0).repeat(side, axis=1)[:H, :W].astype(np.float32)


_MISSED = 0.1  # of the cells: as from surfaces that do not reflect
