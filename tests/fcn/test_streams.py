"""Several heads on one net, and two nets under one sum (FCN §5): equalities that hold for any geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, fcn, nn, ops
from minifcn.random import stream
from minifcn.testing import check_gradients, strategies
from whole_nets import backbone, drawn_anew, in_float64, plans

PLAN = [(4, 3, nn.MaxPool2d, 2), (5, 1, nn.AvgPool2d, 3)], 2
HEADS = st.dictionaries(st.sampled_from(["semantic", "geometric", "parts"]), st.integers(1, 4), min_size=1)
SIZES = st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12))  # N, H, W


def images(channels, size, seed=0):
    N, H, W = size
    return Tensor(stream(seed, "images").standard_normal((N, channels, H, W)))


def many_heads(plan, heads, stride, seed=0):
    return in_float64(drawn_anew(fcn.MultiTask(backbone(plan, 3), heads, stride=stride), seed))


@st.composite
def plans_with_stride(draw):
    """A backbone's plan and one of the strides that it has."""
    plan = draw(plans())
    return plan, 2 ** draw(st.integers(1, len(plan[0])))


@given(net=plans_with_stride(), heads=HEADS, size=SIZES, seed=strategies.seeds())
def test_heads_in_one_net_score_what_nets_of_their_own_score(net, heads, size, seed):
    plan, stride = net
    together, x = many_heads(plan, heads, stride, seed), images(3, size, seed)
    scores = together(x)
    assert {name: s.shape for name, s in scores.items()} == {n: (size[0], k, *size[1:]) for n, k in heads.items()}
    theirs, start = dict(together.fcn.named_parameters()), 0
    for name, classes in heads.items():
        alone = in_float64(fcn.FCN(backbone(plan, 3), classes, stride=stride))
        for path, parameter in alone.named_parameters():
            shared = path.startswith("backbone")
            values = theirs[path].data if shared else theirs[path].data[start : start + classes]
            parameter.data = np.ascontiguousarray(values)
        start += classes
        np.testing.assert_allclose(scores[name].data, alone(x).data, rtol=1e-11, atol=1e-11)
        np.testing.assert_array_equal(together.head(name)(x).data, scores[name].data)


@given(net=plans_with_stride(), heads=HEADS, size=SIZES, seed=strategies.seeds())
def test_the_gradient_of_all_heads_is_the_sum_of_theirs_and_a_head_moves_no_other_ones_scores(net, heads, size, seed):
    plan, stride = net
    together, x = many_heads(plan, heads, stride, seed), images(3, size, seed)
    labels = {name: stream(seed, name).integers(0, k, (size[0], *size[1:])) for name, k in heads.items()}

    def gradients(names):
        together.zero_grad()
        scores = together(x)
        losses = [ops.cross_entropy(scores[name], labels[name]) for name in names]
        sum(losses[1:], losses[0]).backward()
        return {path: p.grad.copy() for path, p in together.named_parameters() if p.requires_grad}

    alone, start = {name: gradients([name]) for name in heads}, 0
    for path, gradient in gradients(heads).items():
        np.testing.assert_allclose(sum(alone[name][path] for name in heads), gradient, rtol=1e-9, atol=1e-11)
    for name, classes in heads.items():
        for path, gradient in alone[name].items():
            if path.startswith("fcn.score."):
                assert not np.delete(gradient, range(start, start + classes), axis=0).any(), f"{name} moves {path}"
        start += classes


@given(net=plans_with_stride(), more=st.integers(1, 4))
def test_a_second_head_costs_its_score_channels_only(net, more):
    plan, stride = net

    def trained(heads):
        net = fcn.MultiTask(backbone(plan, 3), heads, stride=stride)
        return sum(p.data.size for p in net.parameters() if p.requires_grad)

    channels = [3, *(K for s, (K, *_) in zip((2, 4, 8), plan[0][:-1], strict=False) if s >= stride)]
    extra = sum(more * (C + 1) for C in channels)  # a 1×1 layer for every map that is scored, with a bias
    assert trained({"a": 2, "b": more}) - trained({"a": 2}) == extra


@pytest.mark.parametrize("heads", [{}, {"a": 0}])
def test_a_net_without_heads_or_classes_is_refused(heads):
    with pytest.raises(ValueError, match="heads must name one label set or more, of one class or more"):
        fcn.MultiTask(backbone(PLAN, 3), heads)


def test_an_unknown_head_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="there is no head 'depth'; choose one of semantic, geometric"):
        many_heads(PLAN, {"semantic": 4, "geometric": 3}, 2).head("depth")


def late(first, second, channels, classes=3, seed=0):
    """Two nets, which may have different plans, over the channels (first's, second's)."""
    nets = [
        drawn_anew(fcn.FCN(backbone(plan, C), classes, stride=2), seed + number)
        for number, (plan, C) in enumerate(zip((first, second), channels, strict=True))
    ]
    return in_float64(fcn.LateFusion(*nets, channels=channels[0]))


@given(
    first=plans(),
    second=plans(),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    classes=st.integers(1, 4),
    size=SIZES,
    seed=strategies.seeds(),
)
def test_late_fusion_adds_the_scores_of_nets_that_see_their_own_channels(first, second, channels, classes, size, seed):
    net, x = late(first, second, channels, classes, seed), images(sum(channels), size, seed)
    own = x.data[:, : channels[0]].copy(), x.data[:, channels[0] :].copy()
    expected = net.first(Tensor(own[0])).data + net.second(Tensor(own[1])).data
    np.testing.assert_allclose(net(x).data, expected, rtol=1e-12, atol=1e-12)


def test_both_nets_of_a_late_fusion_are_trained():
    net = late(PLAN, PLAN, (3, 1))
    check_gradients(net, images(4, (1, 5, 6)).data, mode="directional")
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"first", "second"}


def test_late_fusion_of_an_image_without_a_second_modality_is_refused():
    with pytest.raises(ValueError, match="takes 3 channels, and an image of 3 channels leaves none"):
        late(PLAN, PLAN, (3, 1))(images(3, (2, 11, 9)))
