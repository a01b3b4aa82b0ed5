"""What a net was trained to see: the order of its channels, and what was taken off its pixels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Pixels:
    """How pixels 0 … 255 become a net's input: (pixel − mean) / std, channel by channel.

    Attributes:
        order: which channel comes first in the net's input.
        mean, std: for each channel, in that order.
    """

    order: Literal["RGB", "BGR"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def image(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return picture (H, W, 3), red first, as an image (3, H, W) for the net."""
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"Pixels: a picture must have shape (H, W, 3), got {picture.shape}")
        ordered = picture if self.order == "RGB" else picture[:, :, ::-1]
        scaled = (ordered - np.array(self.mean)) / np.array(self.std)  # in float64, as the port does
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)

    def __str__(self) -> str:
        def listed(values: tuple[float, float, float]) -> str:
            return ", ".join(f"{value:.3f}" for value in values)

        divided = "" if self.std == (1.0, 1.0, 1.0) else f", divided by {listed(self.std)}"
        return f"channels {self.order}, pixels 0 … 255 less {listed(self.mean)}{divided}"


CAFFE = Pixels("BGR", mean=(104.00698793, 116.66876762, 122.67891434))
"""The released FCNs and the Caffe classifiers that they started from: less the mean of ImageNet's training pixels."""

TORCHVISION = Pixels("RGB", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
"""torchvision's classifiers: 255 times 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225, for pixels from 0 to 1."""
