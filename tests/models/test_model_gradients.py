"""The gradients of the classifiers as a whole, from the loss back to the image, in training and in use.

The large ones are checked without their heads, which the small ones have, too: there, slopes along a hundred million
weights would be measured. And since among their 100,000 ReLUs a few are always about to switch, their gradients are
compared with slopes to four digits, not as `check_gradients` does it to six; what they are made of is proved elsewhere.
"""

import numpy as np
import pytest

from minifcn import fcn, models, nn
from minifcn.random import stream
from minifcn.testing import check_gradients
from minifcn.testing.data import normal
from minifcn.testing.subject import Subject, pull
from whole_nets import NetAndLoss, drawn_anew, idle

CLASSES = 4

# Each classifier, and the shape of an image that it is made for.
CLASSIFIERS = {
    "lenet": (models.lenet, (1, 1, 32, 32)),
    "tiny_vgg": (models.tiny_vgg, (1, 3, 64, 64)),
}
# Each large one, the layer before its head, and the smallest image of which that layer makes 2×1 cells.
TRUNKS = {
    "alexnet": (models.alexnet, "pool5", (1, 3, 99, 67)),
    "vgg16": (models.vgg16, "pool5", (1, 3, 33, 17)),
    "googlenet": (models.googlenet, "inception5b", (1, 3, 65, 40)),
}
STEP = 1e-7  # of the size of what is moved: small enough to meet few kinks, far above the rounding of float64


def test_every_model_has_a_row():
    assert CLASSIFIERS.keys() | TRUNKS.keys() == set(models.__all__)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_gradient_of_a_whole_classifier(name, training):
    make, shape = CLASSIFIERS[name]
    # One seed of eight puts a ReLU or a pool of tiny_vgg within reach of the smallest step (KinkError); these do not.
    image = normal(shape)
    module = NetAndLoss(drawn_anew(make(CLASSES)), np.array([3])).train(training)
    with nn.random_state(0):
        assert idle(module, image) == []
        check_gradients(module, image, mode="directional")


def trunk(make, last):
    """The layers up to ``last``, as they are in the net."""
    with nn.init.blank():
        net = fcn.convolutionalize(make(CLASSES))
    layers = {}
    for name, layer in net.named_children():
        layers[name] = layer
        if name == last:
            break
    return nn.Sequential(layers)


class SumOfSquares(nn.Module):
    """A number that depends on every output."""

    def __init__(self, net):
        self.net = net

    def forward(self, x):
        y = self.net(x)
        return (y * y).sum()


@pytest.mark.parametrize(
    "name",
    ["alexnet", pytest.param("vgg16", marks=pytest.mark.slow), pytest.param("googlenet", marks=pytest.mark.slow)],
)
def test_the_gradient_of_a_large_net_up_to_its_head(name):
    make, last, shape = TRUNKS[name]
    net = drawn_anew(trunk(make, last))
    assert net.window().output_size(shape[2:]) == (2, 1)
    subject = Subject(SumOfSquares(net), [normal(shape)])  # in float64
    leaves = subject.tensors(subject.point)
    gradients = pull(subject.apply(leaves), np.array(1.0), leaves)
    for i, (leaf, value, gradient) in enumerate(zip(subject.leaves, subject.point, gradients, strict=True)):
        direction = stream(0, leaf).standard_normal(value.shape) * value.std()
        before, after = subject.point[:i], subject.point[i + 1 :]
        behind, ahead = (subject.forward([*before, value + t * direction, *after]) for t in (-STEP, STEP))
        slope = (ahead - behind) / (2 * STEP)
        # Slopes are of the order of 100; one that happens to be near 0 is as far off as rounding puts them all.
        assert slope == pytest.approx(np.vdot(gradient, direction), rel=1e-4, abs=1e-4), leaf
        assert gradient.any(), leaf
