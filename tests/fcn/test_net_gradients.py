"""The gradients of FCN-32s, 16s and 8s as a whole, from the loss through every crop and skip back to the image.

And of all else in `minifcn.fcn` that has a gradient.
"""

import numpy as np
import pytest

from backends import needs_emulator
from minifcn import Tensor, fcn, nn, training
from minifcn.random import stream
from minifcn.testing import GradientError, check_gradients
from minifcn.testing.data import distinct, normal
from minifcn_kernels import use_backend
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


def late_fusion():
    def net():
        return drawn_anew(fcn.FCN(narrow_backbone(), CLASSES, stride=16))

    return fcn.LateFusion(net(), net(), channels=1), normal((1, 2, HEIGHT, WIDTH))


def one_head():
    net = fcn.MultiTask(narrow_backbone(), {"semantic": 3, "geometric": 2}, stride=16)
    return drawn_anew(net).head("geometric"), IMAGE


def rarefied():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(2, 2, 1))
    return drawn_anew(fcn.rarefy(net)), distinct((1, 1, 12, 13))


def sampled_loss():
    target = stream(0, "labels").integers(0, CLASSES, (1, 4, 5))
    return lambda z: fcn.sample_loss(z, target, 0.5, stream(0, "kept")), normal((1, CLASSES, 4, 5))


# What else has a gradient: a function that makes it, and a point.
PARTS = {
    "LateFusion": late_fusion,
    "MultiTask": one_head,
    "bilinear_upsampling": lambda: (fcn.bilinear_upsampling(2, 4, 2, learned=True), normal((1, 2, 3, 4))),
    "rarefy": rarefied,
    "sample_loss": sampled_loss,
}
PROVED_ABOVE = {"FCN", "convolutionalize"}  # convolutionalize makes layers of layers, and copies weights
WITHOUT_GRADIENT = {
    "LayerRow",
    "Summary",
    "feature_scales",
    "geometry",
    "images_per_batch",
    "inspect",
    "sample_labels",
    "shift_and_stitch",
    "summarize",
}


def test_everything_has_a_row():
    rows = PARTS.keys() | PROVED_ABOVE | WITHOUT_GRADIENT
    assert rows == set(fcn.__all__), "give it a row in PARTS, or say in WITHOUT_GRADIENT that it has none"


@pytest.mark.parametrize("name", PARTS)
def test_the_gradient_of_a_part(name):
    part, x = PARTS[name]()
    with nn.random_state(0):
        check_gradients(part, x, mode="directional")


@needs_emulator
@pytest.mark.parametrize(("stride", "upsampling"), NETS)
def test_a_training_step_by_the_cuda_kernels_is_the_cpus_within_rounding(stride, upsampling):
    weights = {}
    for backend in ("numba", "emulator"):
        module = net_and_loss(stride, upsampling)
        solver = training.SGD(module.net, lr=0.1, momentum=0.9, weight_decay=5e-4)
        with use_backend(backend), nn.random_state(0):
            module(Tensor(IMAGE.astype(np.float32))).backward()
            solver.step()
        weights[backend] = module.state_dict()
    for name, there in weights["emulator"].items():
        np.testing.assert_allclose(there, weights["numba"][name], rtol=1e-4, atol=1e-5, err_msg=name)
