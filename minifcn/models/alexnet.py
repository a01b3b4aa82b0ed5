"""AlexNet, of two towers (2012) and of one (2014).

Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012.
Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv 1404.5997, 2014.
"""

import numpy as np

from minifcn import nn
from minifcn.random import stream


def alexnet(num_classes: int, in_channels: int = 3, *, towers: int = 2, seed: int = 0) -> nn.Sequential:
    """Return AlexNet: five convolutions, fc6, fc7 and the scores.

    With two towers it is the net of 2012 for 227×227 images, whose conv2, conv4 and conv5 each see their own tower's
    half of the channels (``groups=2``). Two details are those of the FCN paper's released net rather than of the
    first paper: each normalisation stands behind its pool, not before, and has k = 1 and alpha = 10⁻⁴/5 per channel
    (2012: k = 2 and 10⁻⁴).

    With one tower it is the net of 2014 for 224×224 images, narrower, without groups and normalisation: the one that
    torchvision trains.

    Args:
        num_classes: scores per image.
        in_channels: of the image.
        towers: 2 or 1.
        seed: names the first weights.

    Raises:
        ValueError: another number of towers.
    """
    if towers not in (1, 2):
        raise ValueError(f"alexnet: towers must be 2 (the net of 2012) or 1 (that of 2014), got {towers}")
    rng = stream(seed, "alexnet")
    return (_two_towers if towers == 2 else _one_tower)(num_classes, in_channels, rng)


def _two_towers(num_classes: int, in_channels: int, rng: np.random.Generator) -> nn.Sequential:
    layers = {
        "conv1": nn.Conv2d(in_channels, 96, 11, stride=4, rng=rng),  # 227 → 55
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(3, stride=2, ceil_mode=True),  # → 27
        "norm1": nn.LocalResponseNorm(5),
        "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=2, rng=rng),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(3, stride=2, ceil_mode=True),  # → 13
        "norm2": nn.LocalResponseNorm(5),
        "conv3": nn.Conv2d(256, 384, 3, padding=1, rng=rng),
        "relu3": nn.ReLU(),
        "conv4": nn.Conv2d(384, 384, 3, padding=1, groups=2, rng=rng),
        "relu4": nn.ReLU(),
        "conv5": nn.Conv2d(384, 256, 3, padding=1, groups=2, rng=rng),
        "relu5": nn.ReLU(),
        "pool5": nn.MaxPool2d(3, stride=2, ceil_mode=True),  # → 6
        "flatten": nn.Flatten((256, 6, 6)),
        "fc6": nn.Linear(256 * 6 * 6, 4096, rng=rng),
        "relu6": nn.ReLU(),
        "drop6": nn.Dropout(0.5),
        "fc7": nn.Linear(4096, 4096, rng=rng),
        "relu7": nn.ReLU(),
        "drop7": nn.Dropout(0.5),
        "score": nn.Linear(4096, num_classes, rng=rng),
    }
    taps = {4: ("relu1", 96), 8: ("pool1", 96), 16: ("pool2", 256), 32: ("drop7", 4096)}
    return nn.Sequential(layers, taps=taps)


def _one_tower(num_classes: int, in_channels: int, rng: np.random.Generator) -> nn.Sequential:
    layers = {
        "conv1": nn.Conv2d(in_channels, 64, 11, stride=4, padding=2, rng=rng),  # 224 → 55
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(3, stride=2),  # → 27
        "conv2": nn.Conv2d(64, 192, 5, padding=2, rng=rng),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(3, stride=2),  # → 13
        "conv3": nn.Conv2d(192, 384, 3, padding=1, rng=rng),
        "relu3": nn.ReLU(),
        "conv4": nn.Conv2d(384, 256, 3, padding=1, rng=rng),
        "relu4": nn.ReLU(),
        "conv5": nn.Conv2d(256, 256, 3, padding=1, rng=rng),
        "relu5": nn.ReLU(),
        "pool5": nn.MaxPool2d(3, stride=2),  # → 6
        "flatten": nn.Flatten((256, 6, 6)),
        "drop5": nn.Dropout(0.5),
        "fc6": nn.Linear(256 * 6 * 6, 4096, rng=rng),
        "relu6": nn.ReLU(),
        "drop6": nn.Dropout(0.5),
        "fc7": nn.Linear(4096, 4096, rng=rng),
        "relu7": nn.ReLU(),
        "score": nn.Linear(4096, num_classes, rng=rng),
    }
    taps = {4: ("relu1", 64), 8: ("pool1", 64), 16: ("pool2", 192), 32: ("relu7", 4096)}
    return nn.Sequential(layers, taps=taps)
