"""The gradients of the classifiers as a whole, from the loss back to the image, in training and in use.

The large ones have as many layers and the geometry of their papers, but fewer channels, and nothing in them bends: of
their 100,000 ReLUs and maxima some always lie within the smallest step of a kink. Kinks are proved in small nets.
"""

import numpy as np
import pytest

from minifcn import models, nn
from minifcn.testing import check_gradients
from minifcn.testing.data import normal
from whole_nets import NetAndLoss, drawn_anew, idle, narrowed, smoothed

CLASSES = 4

# Each classifier, and the shape of an image that it is made for.
SMALL = {
    "lenet": (models.lenet, (1, 1, 32, 32)),
    "tiny_vgg": (models.tiny_vgg, (1, 3, 64, 64)),
}
# And by how much its channels can be divided.
LARGE = {
    "alexnet": (models.alexnet, (1, 3, 227, 227), 16),
    "vgg16": (models.vgg16, (1, 3, 224, 224), 32),
    "googlenet": (models.googlenet, (1, 3, 224, 224), 8),
}
both_modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def test_every_model_has_a_row():
    assert SMALL.keys() | LARGE.keys() == set(models.__all__), "give every model a row: here its gradient is proved"


def check(net, shape, training):
    module, image = NetAndLoss(drawn_anew(net), np.array([3])).train(training), normal(shape)
    with nn.random_state(0):
        assert idle(module, image) == []
        check_gradients(module, image, mode="directional")


# One seed of eight puts a ReLU or a pool of tiny_vgg within reach of the smallest step (KinkError); these do not.
@both_modes
@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_of_a_whole_classifier(name, training):
    make, shape = SMALL[name]
    check(make(CLASSES), shape, training)


@both_modes
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "alexnet")) for name in LARGE])
def test_the_gradient_of_a_whole_large_classifier(name, training, monkeypatch):
    make, shape, factor = LARGE[name]
    narrowed(monkeypatch, factor)
    smoothed(monkeypatch)
    check(make(CLASSES), shape, training)
