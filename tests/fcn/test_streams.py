import numpy as np
import pytest

from minifcn import Tensor, fcn, nn, ops
from minifcn.random import stream
from minifcn.testing import check_gradients
from whole_nets import drawn_anew


def backbone(channels=3):
    layers = {
        "conv1": nn.Conv2d(channels, 4, 3, padding=1, rng=stream(0, "conv1")),
        "pool1": nn.MaxPool2d(2, ceil_mode=True),
        "conv2": nn.Conv2d(4, 5, 2, rng=stream(0, "conv2")),
        "pool2": nn.MaxPool2d(2, ceil_mode=True),
    }
    return nn.Sequential(layers, taps={2: ("pool1", 4), 4: ("pool2", 5)})


def images(channels=3, seed=0):
    return Tensor(stream(seed, "images").standard_normal((2, channels, 11, 9)).astype(np.float32))


def two_heads():
    return drawn_anew(fcn.MultiTask(backbone(), {"semantic": 4, "geometric": 3}, stride=2))


def test_heads_in_one_net_score_what_two_nets_over_one_backbone_score():
    net = two_heads()
    scores = net(images())
    assert {name: s.shape for name, s in scores.items()} == {"semantic": (2, 4, 11, 9), "geometric": (2, 3, 11, 9)}
    for name, channels in (("semantic", slice(0, 4)), ("geometric", slice(4, 7))):
        alone = fcn.FCN(backbone(), net.heads[name], stride=2)
        for path, parameter in alone.named_parameters():
            theirs = dict(net.fcn.named_parameters())[path].data
            parameter.data = theirs if path.startswith("backbone") else np.ascontiguousarray(theirs[channels])
        np.testing.assert_allclose(alone(images()).data, scores[name].data, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(net.head(name)(images()).data, scores[name].data)


def test_each_head_trains_its_own_scores_and_all_train_the_backbone():
    net = two_heads()
    labels = stream(0, "labels").integers(0, 3, (2, 11, 9))

    def gradients(names):
        net.zero_grad()
        scores = net(images())
        losses = [ops.cross_entropy(scores[name], labels) for name in names]
        sum(losses[1:], losses[0]).backward()
        parameters = dict(net.fcn.named_parameters())
        return parameters["score.stride4.weight"].grad, parameters["backbone.conv1.weight"].grad

    semantic, geometric, both = (gradients(names) for names in (["semantic"], ["geometric"], ["semantic", "geometric"]))
    assert semantic[0][:4].any()
    assert not semantic[0][4:].any()
    assert not geometric[0][:4].any()
    for alone, other, together in zip(semantic, geometric, both, strict=True):
        np.testing.assert_allclose(alone + other, together, rtol=1e-4, atol=1e-6)


def test_a_second_head_costs_its_score_channels_only():
    def trained(net):
        return sum(p.data.size for p in net.parameters() if p.requires_grad)

    one, two = ({"a": 4}, {"a": 4, "b": 3})
    extra = trained(fcn.MultiTask(backbone(), two, stride=4)) - trained(fcn.MultiTask(backbone(), one, stride=4))
    assert extra == 3 * (5 + 1)  # a 1×1 layer from conv2's 5 channels, with a bias


@pytest.mark.parametrize("heads", [{}, {"a": 0}])
def test_a_net_without_heads_or_classes_is_refused(heads):
    with pytest.raises(ValueError, match="heads must name one label set or more, of one class or more"):
        fcn.MultiTask(backbone(), heads)


def test_an_unknown_head_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="there is no head 'depth'; choose one of semantic, geometric"):
        two_heads().head("depth")


def late():
    colour, depth = (drawn_anew(fcn.FCN(backbone(c), 3, stride=2), seed) for c, seed in ((3, 0), (1, 1)))
    return fcn.LateFusion(colour, depth, channels=3)


def test_late_fusion_adds_the_scores_of_nets_that_see_their_own_channels():
    net, x = late(), images(4)
    expected = net.first(Tensor(x.data[:, :3].copy())).data + net.second(Tensor(x.data[:, 3:].copy())).data
    np.testing.assert_allclose(net(x).data, expected, rtol=1e-5, atol=1e-5)


def test_both_nets_of_a_late_fusion_are_trained():
    net = late()
    check_gradients(net, images(4).data[:1, :, :5, :6].astype(np.float64), mode="directional")
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"first", "second"}


def test_late_fusion_of_an_image_without_a_second_modality_is_refused():
    with pytest.raises(ValueError, match="takes 3 channels, and an image of 3 channels leaves none"):
        late()(images(3))
