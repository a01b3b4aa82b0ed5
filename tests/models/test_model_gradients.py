"""The gradients of the classifiers as a whole, from the loss back to the image, in training and in use."""

import numpy as np
import pytest

from minifcn import models, nn
from minifcn.testing import check_gradients
from minifcn.testing.data import normal
from whole_nets import NetAndLoss, drawn_anew, idle

CLASSES = 4

# Each classifier, and the shape of an image that it is made for.
MODELS = {
    "lenet": (models.lenet, (1, 1, 32, 32)),
    "tiny_vgg": (models.tiny_vgg, (1, 3, 64, 64)),
}


def test_every_model_has_a_row():
    assert MODELS.keys() == set(models.__all__)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_of_a_whole_classifier(name, training):
    make, shape = MODELS[name]
    # One seed of eight puts a ReLU or a pool of tiny_vgg within reach of the smallest step (KinkError); these do not.
    image = normal(shape)
    module = NetAndLoss(drawn_anew(make(CLASSES)), np.array([3])).train(training)
    with nn.random_state(0):
        assert idle(module, image) == []
        check_gradients(module, image, mode="directional")
