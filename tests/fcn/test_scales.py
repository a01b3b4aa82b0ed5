"""Training all strides at once: features scaled to one norm (FCN §4.2, journal version)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, fcn, nn, no_grad
from minifcn.random import stream
from minifcn.testing import strategies
from minifcn.training import SGD
from whole_nets import backbone, drawn_anew, in_float64, plans

SCALES = st.sampled_from([1e-4, 1e-2, 0.25, 1.0, 3.0, 100.0])  # among them those of the released net


@st.composite
def nets(draw):
    """An FCN that scores every map of its backbone, and scales for all but the coarsest."""
    plan, seed = draw(plans()), draw(strategies.seeds())
    strides = [2**number for number in range(1, len(plan[0]))]
    return plan, seed, {stride: draw(SCALES) for stride in strides}


def build(plan, seed, scales):
    return in_float64(drawn_anew(fcn.FCN(backbone(plan, 3, seed), 2, stride=2, scales=scales), seed)).eval()


def images(seed, count=2):
    return [Tensor(stream(seed, "image", i).standard_normal((1, 3, 9 + i, 12 - 3 * i))) for i in range(count)]


def mean_norms(net, batches):
    """The mean norm of a cell's features as they are scored, cell by cell."""
    norms = {stride: [] for stride in net.taps}
    with no_grad():
        for batch in batches:
            for stride, maps in net.tapped_maps(batch).items():
                norms[stride] += [np.linalg.norm(cell) for cell in maps.data[0].reshape(maps.shape[1], -1).T]
    return {stride: float(np.mean(values)) for stride, values in norms.items()}


@given(nets())
def test_the_measured_scales_give_all_strides_one_norm(drawn):
    plan, seed, _ = drawn
    scales = fcn.feature_scales(build(plan, seed, {}), images(seed))
    norms = mean_norms(build(plan, seed, scales), images(seed))
    np.testing.assert_allclose(list(norms.values()), norms[max(norms)], rtol=1e-10)


@given(nets())
def test_scales_that_are_in_force_do_not_change_what_is_measured(drawn):
    plan, seed, scales = drawn
    expected = fcn.feature_scales(build(plan, seed, {}), images(seed))
    assert fcn.feature_scales(build(plan, seed, scales), images(seed)) == pytest.approx(expected, rel=1e-10)


@given(nets())
def test_scaling_features_is_scaling_the_filters_that_score_them(drawn):
    plan, seed, scales = drawn
    scaled, plain = build(plan, seed, scales), build(plan, seed, {})
    for stride, scale in scales.items():
        plain.score[f"stride{stride}"].weight.data = plain.score[f"stride{stride}"].weight.data * scale
    (x,) = images(seed, 1)
    with no_grad():
        np.testing.assert_allclose(scaled(x).data, plain(x).data, rtol=1e-10, atol=1e-10)


@given(nets(), st.floats(-2, 2), st.data())
def test_a_step_moves_a_score_by_the_squared_norm_of_its_scaled_features(drawn, g, data):
    """The derivation: Δs = −λ·g·a²‖x‖², for the score of a cell whose filter is moved by that cell's gradient alone."""
    plan, seed, scales = drawn
    net, rate = build(plan, seed, scales), 0.1
    (image,) = images(seed, 1)
    stride = data.draw(st.sampled_from(sorted(net.taps)))
    layer = net.score[f"stride{stride}"]
    layer.bias.requires_grad = False
    features = net.tapped_maps(image)[stride].detach()
    cell = 0, 1, *(data.draw(st.integers(0, side - 1)) for side in features.shape[2:])
    before = layer(features)
    gradient = np.zeros(before.shape)
    gradient[cell] = g
    before.backward(gradient)
    SGD(layer, rate, momentum=0.0).step()
    unscaled = build(plan, seed, {}).tapped_maps(image)[stride].data[0, :, *cell[2:]]
    expected = -rate * g * scales.get(stride, 1.0) ** 2 * (unscaled @ unscaled)
    assert layer(features).data[cell] - before.data[cell] == pytest.approx(expected, rel=1e-6, abs=1e-9)


PLAN = [(2, 3, nn.MaxPool2d, 2)] * 3, 2


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(ValueError, match=r"scales are for strides \[2, 4, 8\], got \[16\]"):
        build(PLAN, 0, {16: 0.1})
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="scales must be finite and above 0"):
            build(PLAN, 0, {4: scale})
    with pytest.raises(ValueError, match="are zero, or there are no images"):
        fcn.feature_scales(build(PLAN, 0, {}), [])
