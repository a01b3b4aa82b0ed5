"""The gradients of FCN-32s, 16s and 8s as a whole: from the loss through every crop and skip back to the image."""

import numpy as np
import pytest

from minifcn import fcn, nn
from minifcn.random import stream
from minifcn.testing import GradientError, check_gradients
from minifcn.testing.data import normal
from planted.into_kernels import CROP_FAULTS, crop_elsewhere, plant_kernel
from whole_nets import NetAndLoss, drawn_anew, idle

CLASSES, VOID = 3, 255
HEIGHT, WIDTH = 20, 27  # neither is a multiple of any stride, so that every crop has something to cut off
IMAGE = normal((1, 1, HEIGHT, WIDTH))

# FCN-32s has no intermediate upsampling that could be learned.
NETS = [(32, "fixed"), (16, "fixed"), (16, "learned"), (8, "fixed"), (8, "learned")]


def narrow_backbone(channels=4):
    """VGG's plan with one convolution to a block and few channels; fc6 is 2×2."""
    layers, taps, width = {}, {}, 1
    for block in range(1, 6):
        layers[f"conv{block}"] = nn.Conv2d(width, channels, 3, padding=1)
        layers[f"relu{block}"] = nn.ReLU()
        layers[f"pool{block}"] = nn.MaxPool2d(2, ceil_mode=True)
        taps[2**block] = (f"pool{block}", channels)
        width = channels
    layers["fc6"] = nn.Conv2d(channels, channels, 2)
    layers["relu6"] = nn.ReLU()
    layers["drop6"] = nn.Dropout(0.5)
    return nn.Sequential(layers, taps=taps | {32: ("drop6", channels)})


def net_and_loss(stride, upsampling):
    """Make an FCN with its loss; about a quarter of the labels are void."""
    net = drawn_anew(fcn.FCN(narrow_backbone(), CLASSES, stride=stride, upsampling=upsampling))
    target = stream(0, "labels").integers(0, CLASSES + 1, (1, HEIGHT, WIDTH))
    return NetAndLoss(net, np.where(target == CLASSES, VOID, target))


@pytest.mark.parametrize(("stride", "upsampling"), NETS)
def test_the_gradient_of_a_whole_net(stride, upsampling):
    module = net_and_loss(stride, upsampling)
    with nn.random_state(0):
        assert idle(module, IMAGE) == []
        check_gradients(module, IMAGE, mode="directional")


def test_a_crop_that_is_one_pixel_off_in_backward_is_found(monkeypatch):
    one_off = crop_elsewhere("crop_grad", CROP_FAULTS["padding off by one"])
    plant_kernel("crop_grad", one_off)(monkeypatch)
    with nn.random_state(0), pytest.raises(GradientError, match="The gradient is what central differences measure"):
        check_gradients(net_and_loss(8, "fixed"), IMAGE, mode="directional")
