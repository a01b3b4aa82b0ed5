"""Nets on VGG's plan: blocks of 3×3 convolutions, each closed by a 2×2 pool, then two wide layers and the scores.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015.
"""

from minifcn import nn
from minifcn.random import stream


def tiny_vgg(num_classes: int, in_channels: int = 3, *, seed: int = 0) -> nn.Sequential:
    """Return a net for 64×64 images on VGG16's plan (five pools, fc6, fc7, scores), narrow enough to train in a minute.

    Its pools round sizes up (``ceil_mode``), as those of the nets that the FCN paper started from.

    Args:
        num_classes: scores per image.
        in_channels: of the image.
        seed: names the first weights.
    """
    rng = stream(seed, "tiny_vgg")
    blocks = [
        (16, 1),
        (32, 1),
        (64, 1),
        (64, 1),
        (64, 1),
    ]  # (channels, convolutions); VGG16: 64×2 … 512×3
    layers: dict[str, nn.Module] = {}
    channels = in_channels
    for block, (width, convolutions) in enumerate(blocks, start=1):
        for i in range(1, convolutions + 1):
            layers[f"conv{block}_{i}"] = nn.Conv2d(channels, width, 3, padding=1, rng=rng)
            layers[f"relu{block}_{i}"] = nn.ReLU()
            channels = width
        layers[f"pool{block}"] = nn.MaxPool2d(2, ceil_mode=True)
    layers |= {
        "flatten": nn.Flatten((channels, 2, 2)),  # 64 / 2⁵ = 2
        "fc6": nn.Linear(channels * 2 * 2, 128, rng=rng),
        "relu6": nn.ReLU(),
        "drop6": nn.Dropout(0.1),
        "fc7": nn.Linear(128, 128, rng=rng),
        "relu7": nn.ReLU(),
        "drop7": nn.Dropout(0.1),
        "score": nn.Linear(128, num_classes, rng=rng),
    }
    taps = {2**block: (f"pool{block}", blocks[block - 1][0]) for block in range(1, 5)}
    return nn.Sequential(layers, taps=taps | {32: ("drop7", 128)})
