"""LeNet-5: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998, fig. 2."""

from minifcn import nn
from minifcn.random import stream


def lenet(num_classes: int, in_channels: int = 1, *, seed: int = 0) -> nn.Sequential:
    """Return LeNet-5 for images of 32×32: two 5×5 convolutions with pools, then C5 (120), F6 (84) and the scores.

    The plan and the widths (6, 16, 120, 84) are the paper's. As in later reprints of the net, the pools take maxima
    (the paper: scaled means), the units are ReLUs (scaled tanh), C3 sees all maps of S2 (a hand-made selection),
    and the scores are a linear layer (Gaussian units).

    Args:
        num_classes: scores per image.
        in_channels: of the image.
        seed: names the first weights.
    """
    rng = stream(seed, "lenet")
    return nn.Sequential(
        {
            "conv1": nn.Conv2d(in_channels, 6, 5, rng=rng),  # 32 → 28
            "relu1": nn.ReLU(),
            "pool2": nn.MaxPool2d(2),  # → 14
            "conv3": nn.Conv2d(6, 16, 5, rng=rng),  # → 10
            "relu3": nn.ReLU(),
            "pool4": nn.MaxPool2d(2),  # → 5
            "flatten": nn.Flatten((16, 5, 5)),
            "conv5": nn.Linear(16 * 5 * 5, 120, rng=rng),  # the paper's C5: a convolution whose filter covers its map
            "relu5": nn.ReLU(),
            "fc6": nn.Linear(120, 84, rng=rng),
            "relu6": nn.ReLU(),
            "score": nn.Linear(84, num_classes, rng=rng),
        },
        taps={2: ("pool2", 6), 4: ("relu6", 84)},
    )
