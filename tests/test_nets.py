"""Nets by name and by description."""

import json
from dataclasses import asdict

import pytest

from minifcn import nets, nn
from minifcn.nets import NetSpec
from minifcn.training import checkpoint


@pytest.mark.parametrize(
    ("name", "classifier", "stride", "padding"),
    [
        ("lenet", "lenet", None, None),
        ("googlenet", "googlenet", None, None),
        ("fcn16s", "tiny_vgg", 16, None),
        ("fcn8s-vgg16", "vgg16", 8, 100),  # as the released nets pad
        ("fcn32s-alexnet", "alexnet", 32, 100),
        ("fcn4s-googlenet", "googlenet", 4, None),
    ],
)
def test_a_name_says_which_net_it_is(name, classifier, stride, padding):
    assert nets.is_name(name)
    spec = nets.spec_of(name, 21)
    assert (spec.classifier, spec.stride, spec.padding, spec.num_classes) == (classifier, stride, padding, 21)


@pytest.mark.parametrize("name", ["", "vgg", "fcn8s-", "fcns-vgg16", "fcn0s", "fcn8s-vgg16-x", "runs/demo"])
def test_what_is_no_name_is_refused_with_those_there_are(name):
    assert not nets.is_name(name)
    with pytest.raises(ValueError, match=r"there is no net .*lenet, tiny_vgg, alexnet, vgg16, googlenet.*fcn8s-vgg16"):
        nets.spec_of(name, 21)


def test_a_net_that_was_trained_at_once_comes_back_with_its_scales(tmp_path):
    spec = NetSpec(classifier="tiny_vgg", num_classes=3, channels=3, stride=8, scales=((16, 0.25), (8, 0.5)))
    assert json.loads(json.dumps(asdict(spec)))["scales"] == [[16, 0.25], [8, 0.5]]  # JSON knows no tuples
    with nn.init.blank():
        net = spec.build()
    arrays = {f"{nets.MODEL}{name}": array for name, array in net.state_dict().items()}
    meta = nets.meta_of(spec, classes=["a", "b", "c"])
    path = checkpoint.save(tmp_path, 1, arrays, meta)
    assert nets.load(path).net.scales == {16: 0.25, 8: 0.5}
