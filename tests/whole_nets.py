"""Whole nets with a loss at the end, at a point where nothing in them is idle."""

import numpy as np
from hypothesis import strategies as st

from minifcn import Tensor, nn, ops
from minifcn.random import stream


class NetAndLoss(nn.Module):
    """The mean cross-entropy of a net's scores against ``target``, where 255 counts for nothing."""

    def __init__(self, net, target):
        self.net = net
        self.target = target

    def forward(self, x):
        return ops.cross_entropy(self.net(x), self.target)


@st.composite
def plans(draw):
    """Draw the plan of a small backbone: for each map that can be scored, the convolution and the pool before it."""

    def block(kernels):
        channels, kernel = draw(st.integers(1, 3)), draw(st.sampled_from(kernels))
        return channels, kernel, draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d])), draw(st.integers(2, 3))

    # The first convolution pads the image, which one of 1×1 cannot.
    return [block([3, 5]), *(block([1, 3]) for _ in range(draw(st.integers(0, 2))))], draw(st.integers(1, 3))


def backbone(plan, in_channels, seed=0):
    """Build a plan of `plans`: maps of stride 2, 4, … whose layers are named as in VGG, the last behind an fc."""
    blocks, fc = plan
    layers, taps, C = {}, {}, in_channels
    for number, (K, kernel, pool, size) in enumerate(blocks, start=1):
        layers[f"conv{number}"] = nn.Conv2d(C, K, kernel, padding=kernel // 2, rng=stream(seed, "conv", number))
        layers[f"pool{number}"] = pool(size, stride=2, ceil_mode=True)
        taps[2**number] = (f"pool{number}", K)
        C = K
    layers["fc"] = nn.Conv2d(C, 3, fc, rng=stream(seed, "fc"))
    return nn.Sequential(layers, taps=taps | {2 ** len(blocks): ("fc", 3)})


def drawn_anew(net, seed=0):
    """Return the net with every trained parameter drawn at random.

    Biases and score layers begin at zero, which hides what flows through them, and puts ReLUs that see nothing but
    padding exactly on their kink; upsampling begins bilinear, and filters that are symmetric hide what is swapped.
    """
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            parameter.data = nn.init.he_normal(parameter.shape, stream(seed, name))
    return net


def in_float64(net):
    """Return the net with every parameter in float64, where sums taken in two orders still agree to 1e-12."""
    for _, module in net.named_modules():
        for name, p in list(vars(module).items()):
            if isinstance(p, nn.Parameter):
                setattr(module, name, nn.Parameter(p.data.astype(np.float64), lr_multiplier=p.lr_multiplier))
    return net


def idle(module, x):
    """Return the names of what gets a gradient of zeros only: there, every check would be passed."""
    x = Tensor(x.astype("float32"), requires_grad=True)
    module(x).backward()
    leaves = {"the input": x} | {name: p for name, p in module.named_parameters() if p.requires_grad}
    return [name for name, leaf in leaves.items() if not leaf.grad.any()]


def narrowed(monkeypatch, factor):
    """Let models be built with so many times fewer channels: layers and geometry stay, and differences are affordable.

    The image's channels and the classes, of which there are fewer than ``factor``, stay too.
    """

    def thin(channels):
        return channels // factor or channels

    def conv(C, K, *arguments, make=nn.Conv2d, **options):
        return make(thin(C), thin(K), *arguments, **options)

    def linear(C, K, *arguments, make=nn.Linear, **options):
        return make(thin(C), thin(K), *arguments, **options)

    monkeypatch.setattr(nn, "Conv2d", conv)
    monkeypatch.setattr(nn, "Linear", linear)
    monkeypatch.setattr(nn, "Flatten", lambda shape, make=nn.Flatten: make((thin(shape[0]), *shape[1:])))


class Softplus(nn.Module):
    """y = ln(1 + eˣ): a ReLU without a kink."""

    def forward(self, x):
        return ops.log(1 + ops.exp(x))


def smoothed(monkeypatch):
    """Let models be built without kinks: of some 100,000 ReLUs and maxima, one always lies within the smallest step."""
    monkeypatch.setattr(nn, "ReLU", Softplus)
    monkeypatch.setattr(nn, "MaxPool2d", nn.AvgPool2d)
