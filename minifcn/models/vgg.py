"""Nets on VGG's plan: blocks of 3×3 convolutions, each closed by a 2×2 pool, then two wide layers and the scores.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015.
"""

from collections.abc import Sequence

import numpy as np

from minifcn import nn
from minifcn.random import stream


def vgg16(num_classes: int, in_channels: int = 3, *, seed: int = 0) -> nn.Sequential:
    """Return VGG16 for 224×224 images: the paper's table 1, column D, and the backbone of the FCN paper's best nets.

    138 million parameters with 1000 classes, of which fc6 has 103 million. The pools round sizes up as Caffe's do;
    at 224 = 7·2⁵ nothing is left to round.

    Args:
        num_classes: scores per image.
        in_channels: of the image.
        seed: names the first weights.
    """
    blocks = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]
    rng = stream(seed, "vgg16")
    return _vgg(blocks, 4096, num_classes, in_channels, map_side=7, dropout=0.5, rng=rng)


def tiny_vgg(num_classes: int, in_channels: int = 3, *, seed: int = 0) -> nn.Sequential:
    """Return a net for 64×64 images on VGG16's plan (five pools, fc6, fc7, scores), narrow enough to train in a minute.

    Its pools round sizes up (``ceil_mode``), as those of the nets that the FCN paper started from.

    Args:
        num_classes: scores per image.
        in_channels: of the image.
        seed: names the first weights.
    """
    blocks = [(16, 1), (32, 1), (64, 1), (64, 1), (64, 1)]
    rng = stream(seed, "tiny_vgg")
    return _vgg(blocks, 128, num_classes, in_channels, map_side=2, dropout=0.1, rng=rng)


def _vgg(
    blocks: Sequence[tuple[int, int]],
    wide: int,
    num_classes: int,
    in_channels: int,
    *,
    map_side: int,
    dropout: float,
    rng: np.random.Generator,
) -> nn.Sequential:
    """Return a net of ``blocks`` (channels, convolutions), then fc6 on a map of ``map_side``², fc7 and the scores."""
    layers: dict[str, nn.Module] = {}
    channels = in_channels
    for block, (width, convolutions) in enumerate(blocks, start=1):
        for i in range(1, convolutions + 1):
            layers[f"conv{block}_{i}"] = nn.Conv2d(channels, width, 3, padding=1, rng=rng)
            layers[f"relu{block}_{i}"] = nn.ReLU()
            channels = width
        layers[f"pool{block}"] = nn.MaxPool2d(2, ceil_mode=True)
    layers |= {
        "flatten": nn.Flatten((channels, map_side, map_side)),
        "fc6": nn.Linear(channels * map_side**2, wide, rng=rng),
        "relu6": nn.ReLU(),
        "drop6": nn.Dropout(dropout),
        "fc7": nn.Linear(wide, wide, rng=rng),
        "relu7": nn.ReLU(),
        "drop7": nn.Dropout(dropout),
        "score": nn.Linear(wide, num_classes, rng=rng),
    }
    taps = {2**block: (f"pool{block}", width) for block, (width, _) in enumerate(blocks, start=1)}
    return nn.Sequential(layers, taps=taps | {2 ** len(blocks): ("drop7", wide)})
