"""Weights under the names that others use: each lands in its layer, or nothing is loaded."""

import re

import numpy as np
import pytest

from minifcn import Tensor, fcn, models, nn, no_grad, ops, weights
from minifcn.random import stream
from minifcn.weights import CAFFE, TORCHVISION, Pixels, WeightsError

CLASSES = 3
BACKBONE = ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1", "fc6", "fc7"]

# What the port calls the layers behind the backbone, and which of ours they are.
HEADS = {
    32: {"score_fr": "score.stride32", "upscore": "upsample.final"},
    16: {
        "score_fr": "score.stride32",
        "score_pool4": "score.stride16",
        "upscore2": "upsample.stride32",
        "upscore16": "upsample.final",
    },
    8: {
        "score_fr": "score.stride32",
        "score_pool4": "score.stride16",
        "score_pool3": "score.stride8",
        "upscore2": "upsample.stride32",
        "upscore_pool4": "upsample.stride16",
        "upscore8": "upsample.final",
    },
}


def tiny_fcn(stride, **options):
    """An FCN whose layers are called as those over VGG16, and that fits into a test."""
    with nn.init.blank():
        return fcn.FCN(fcn.convolutionalize(models.tiny_vgg(10)), CLASSES, stride=stride, **options)


def foreign_state(stride):
    """Random weights for `tiny_fcn` under the port's names, and the names of ours that they belong to."""
    layers = {name: f"backbone.{name}" for name in BACKBONE} | HEADS[stride]
    modules = dict(tiny_fcn(stride).named_modules())
    state, ours = {}, {}
    for theirs, path in layers.items():
        for kind, parameter in modules[path].named_parameters():
            shape = parameter.shape
            if path.startswith("upsample"):
                shape = (CLASSES, CLASSES, *shape[2:])
            state[f"{theirs}.{kind}"] = stream(1, theirs, kind).standard_normal(shape).astype(np.float32)
            ours[f"{theirs}.{kind}"] = f"{path}.{kind}"
    return state, ours


def saved(path, state):
    np.savez(path, **state)
    return path


@pytest.mark.parametrize("stride", HEADS)
def test_every_array_of_the_port_lands_in_its_layer(tmp_path, stride):
    state, ours = foreign_state(stride)
    net = tiny_fcn(stride)
    assert weights.load(net, saved(tmp_path / "port.npz", state)) is CAFFE
    parameters = dict(net.named_parameters())
    assert sorted(ours.values()) == sorted(parameters)
    for theirs, path in ours.items():
        np.testing.assert_array_equal(parameters[path].data, state[theirs])


def test_filters_on_the_channel_diagonal_stay_groups_and_compute_the_same(tmp_path):
    state, ours = foreign_state(8)
    upsampling = [name for name, path in ours.items() if path.startswith("upsample")]
    nearly = dict(state)
    for name in upsampling:
        state[name] = state[name] * np.eye(CLASSES, dtype=np.float32)[:, :, None, None]
        nearly[name] = state[name].copy()
        nearly[name][0, 1, 0, 0] = 1e-30  # nothing to a sum, but no diagonal any more
    grouped, full = tiny_fcn(8).eval(), tiny_fcn(8).eval()
    weights.load(grouped, saved(tmp_path / "diagonal.npz", state))
    weights.load(full, saved(tmp_path / "full.npz", nearly))
    x = Tensor(stream(0, "image").standard_normal((1, 3, 40, 70)).astype(np.float32))
    with no_grad():
        y, expected = grouped(x).data, full(x).data
    assert {layer.groups for _, layer in grouped.upsample.named_children()} == {CLASSES}
    assert {layer.groups for _, layer in full.upsample.named_children()} == {1}
    assert np.abs(y).max() > 0
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_learned_upsampling_keeps_all_its_filters(tmp_path):
    state, _ = foreign_state(16)
    state["upscore2.weight"] *= np.eye(CLASSES, dtype=np.float32)[:, :, None, None]
    net = tiny_fcn(16, upsampling="learned")
    weights.load(net, saved(tmp_path / "port.npz", state))
    assert net.upsample["stride32"].groups == 1
    assert net.upsample["stride32"].weight.requires_grad
    assert not net.upsample["final"].weight.requires_grad


def test_all_that_is_wrong_is_named_at_once_and_nothing_is_loaded(tmp_path):
    state, _ = foreign_state(8)
    del state["conv1_1.bias"], state["score_pool4.weight"]
    state |= {"extra.weight": np.zeros(2, np.float32), "another": np.zeros(1, np.float32)}
    state["fc6.weight"] = state["fc6.weight"].reshape(128, -1)
    state["upscore8.weight"] = state["upscore8.weight"][:, :1]
    net = tiny_fcn(8)
    with pytest.raises(WeightsError, match=r"wrong\.npz: the state is of another net") as caught:
        weights.load(net, saved(tmp_path / "wrong.npz", state))
    assert (
        "missing: conv1_1.bias, score_pool4.weight; unexpected: another, extra.weight; of another shape: "
        "fc6.weight (given (128, 256), expected (128, 64, 2, 2)), "
        "upscore8.weight (given (3, 1, 16, 16), expected (3, 3, 16, 16)). Nothing was loaded"
    ) in str(caught.value)
    trained = [p for name, p in net.named_parameters() if not name.startswith("upsample")]
    assert not any(parameter.data.any() for parameter in trained)


def torchvision_state(net):
    """The classifier's own parameters, by torchvision's names: layers counted on either side of the flattening."""
    layers = list(net.named_children())
    flatten = [name for name, _ in layers].index("flatten")
    return {
        (f"features.{i}" if i < flatten else f"classifier.{i - flatten - 1}") + f".{kind}": parameter.data
        for i, (_, layer) in enumerate(layers)
        for kind, parameter in layer.named_parameters()
    }


def test_a_classifier_takes_torchvisions_names(tmp_path):
    trained, empty = models.tiny_vgg(10, seed=3).eval(), models.tiny_vgg(10, seed=4).eval()
    state = torchvision_state(trained)
    assert {name for name in state if name.endswith("weight")} == {
        *(f"features.{i}.weight" for i in (0, 3, 6, 9, 12)),
        *(f"classifier.{i}.weight" for i in (0, 3, 6)),
    }
    assert weights.load(empty, saved(tmp_path / "classifier.npz", state)) is TORCHVISION
    x = Tensor(stream(0, "image").standard_normal((1, 3, 64, 64)).astype(np.float32))
    with no_grad():
        np.testing.assert_array_equal(empty(x).data, trained(x).data)


TORCHVISION_LAYERS = {
    "vgg16": ((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (0, 3, 6)),
    "alexnet": ((0, 3, 6, 8, 10), (1, 4, 6)),
}


@pytest.mark.parametrize("name", TORCHVISION_LAYERS)
def test_the_large_classifiers_ask_for_torchvisions_names(tmp_path, name):
    with nn.init.blank():
        net = models.vgg16(1000) if name == "vgg16" else models.alexnet(1000, towers=1)
    with pytest.raises(WeightsError) as caught:
        weights.load(net, saved(tmp_path / "empty.npz", {}))
    features, classifier = TORCHVISION_LAYERS[name]
    assert set(re.findall(r"(\w+\.\d+)\.weight", str(caught.value))) == {
        *(f"features.{i}" for i in features),
        *(f"classifier.{i}" for i in classifier),
    }


def test_weights_of_the_other_family_are_recognised(tmp_path):
    classifier = saved(tmp_path / "classifier.npz", torchvision_state(models.tiny_vgg(10)))
    with pytest.raises(WeightsError, match=r"weights of a torchvision classifier: load them into models\.vgg16"):
        weights.load(tiny_fcn(8), classifier)
    port = saved(tmp_path / "port.npz", foreign_state(8)[0])
    with pytest.raises(WeightsError, match=r"weights of an FCN: load them into fcn\.FCN"):
        weights.load(models.tiny_vgg(10), port)


def test_nets_that_nobody_else_has_names_for_are_refused(tmp_path):
    path = saved(tmp_path / "empty.npz", {})
    with nn.init.blank():
        others = [models.googlenet(10), fcn.convolutionalize(models.tiny_vgg(10)), nn.ReLU()]
    for net in others:
        with pytest.raises(TypeError, match=r"weights\.load: needs an FCN, or a classifier"):
            weights.load(net, path)


def test_a_forward_before_loading_is_not_continued_with_the_new_weights(tmp_path):
    net = tiny_fcn(32).eval()
    loss = ops.sum(net(Tensor(np.ones((1, 3, 40, 40), np.float32))))
    weights.load(net, saved(tmp_path / "port.npz", foreign_state(32)[0]))
    with pytest.raises(RuntimeError, match="changed after forward"):
        loss.backward()


def test_pixels_are_ordered_centred_and_scaled():
    picture = stream(0, "picture").integers(0, 256, (4, 5, 3), dtype=np.uint8)
    red, green, blue = (picture[:, :, c].astype(np.float64) for c in range(3))
    caffe = CAFFE.image(picture)
    np.testing.assert_allclose(caffe, [blue - 104.00698793, green - 116.66876762, red - 122.67891434], rtol=1e-5)
    torchvision = TORCHVISION.image(picture)
    expected = [(red / 255 - 0.485) / 0.229, (green / 255 - 0.456) / 0.224, (blue / 255 - 0.406) / 0.225]
    np.testing.assert_allclose(torchvision, expected, rtol=1e-4, atol=1e-5)
    assert caffe.dtype == torchvision.dtype == np.float32
    assert str(CAFFE) == "channels BGR, pixels 0 … 255 less 104.007, 116.669, 122.679"
    with pytest.raises(ValueError, match=r"\(H, W, 3\), got \(3, 4, 5\)"):
        Pixels("RGB", (0, 0, 0)).image(np.zeros((3, 4, 5), np.uint8))
