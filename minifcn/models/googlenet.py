"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, table 1 and figure 3."""

from typing import NamedTuple

import numpy as np

from minifcn import nn
from minifcn.random import stream


class Inception(NamedTuple):
    """A row of the paper's table 1: how many channels each branch gives (``reduce``: the 1×1 before 3×3 or 5×5)."""

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int

    @property
    def channels(self) -> int:
        """How many channels the branches have together."""
        return self.one + self.three + self.five + self.pool


_TABLE = {
    "3a": Inception(64, 96, 128, 16, 32, 32),
    "3b": Inception(128, 128, 192, 32, 96, 64),
    "4a": Inception(192, 96, 208, 16, 48, 64),
    "4b": Inception(160, 112, 224, 24, 64, 64),
    "4c": Inception(128, 128, 256, 24, 64, 64),
    "4d": Inception(112, 144, 288, 32, 64, 64),
    "4e": Inception(256, 160, 320, 32, 128, 128),
    "5a": Inception(256, 160, 320, 32, 128, 128),
    "5b": Inception(384, 192, 384, 48, 128, 128),
}


def googlenet(num_classes: int, in_channels: int = 3, *, seed: int = 0) -> nn.Sequential:
    """Return GoogLeNet for 224×224 images: 22 layers deep, most of them in nine inception modules.

    Without the two auxiliary classifiers, which serve the training on ImageNet alone (the FCN paper, too, uses the
    final one only). Its coarsest tap is inception5b: an FCN ends there, before the 7×7 average pool (FCN §4.1).

    Args:
        num_classes: scores per image.
        in_channels: of the image.
        seed: names the first weights.
    """
    rng = stream(seed, "googlenet")
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, rng=rng),  # 224 → 112
        "relu1": nn.ReLU(),
        "pool1": _halve(),  # → 56
        "norm1": nn.LocalResponseNorm(5),
        "conv2_reduce": nn.Conv2d(64, 64, 1, rng=rng),
        "relu2_reduce": nn.ReLU(),
        "conv2": nn.Conv2d(64, 192, 3, padding=1, rng=rng),
        "relu2": nn.ReLU(),
        "norm2": nn.LocalResponseNorm(5),
        "pool2": _halve(),  # → 28
    }
    channels = 192
    for name, row in _TABLE.items():
        if name in ("4a", "5a"):
            layers[f"pool{int(name[0]) - 1}"] = _halve()  # pool3 → 14, pool4 → 7
        layers[f"inception{name}"] = _inception(channels, row, rng)
        channels = row.channels
    layers |= {
        "pool5": nn.AvgPool2d(7, stride=1),  # → 1
        "drop5": nn.Dropout(0.4),
        "flatten": nn.Flatten((channels, 1, 1)),
        "score": nn.Linear(channels, num_classes, rng=rng),
    }
    taps = {2: ("relu1", 64), 4: ("norm2", 192)}
    modules = {8: "3b", 16: "4e", 32: "5b"}
    taps |= {stride: (f"inception{name}", _TABLE[name].channels) for stride, name in modules.items()}
    return nn.Sequential(layers, taps=taps)


def _halve() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _inception(channels: int, row: Inception, rng: np.random.Generator) -> nn.Parallel:
    """Return four branches that keep the map's size, side by side: 1×1; 1×1, 3×3; 1×1, 5×5; pool, 1×1."""

    def convolution(c: int, k: int, size: int) -> dict[str, nn.Module]:
        name = f"conv{size}x{size}"
        return {name: nn.Conv2d(c, k, size, padding=size // 2, rng=rng), f"relu{size}x{size}": nn.ReLU()}

    return nn.Parallel(
        {
            "one": nn.Sequential(convolution(channels, row.one, 1)),
            "three": nn.Sequential(convolution(channels, row.reduce3, 1) | convolution(row.reduce3, row.three, 3)),
            "five": nn.Sequential(convolution(channels, row.reduce5, 1) | convolution(row.reduce5, row.five, 5)),
            "pool": nn.Sequential({"pool3x3": nn.MaxPool2d(3, 1, padding=1)} | convolution(channels, row.pool, 1)),
        }
    )
