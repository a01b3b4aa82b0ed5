"""Training all strides at once: features scaled to one norm (FCN §4.2, journal version)."""

import numpy as np
import pytest

from minifcn import Tensor, fcn, models, no_grad
from minifcn.random import stream


def net(stride=8, **options):
    built = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(4)), 3, stride=stride, padding=1, **options)
    for name, layer in built.score.named_children():
        layer.weight.data = stream(0, name).standard_normal(layer.weight.shape).astype(np.float32)
    return built.eval()


def images(count=2):
    return [
        Tensor(stream(i, "image").standard_normal((1, 3, 64, 80 + 16 * i)).astype(np.float32)) for i in range(count)
    ]


def mean_norms(built, batches):
    """The mean norm of a cell's features as they are scored, cell by cell."""
    norms = {stride: [] for stride in built.taps}
    with no_grad():
        for batch in batches:
            for stride, maps in built.tapped_maps(batch).items():
                norms[stride] += [np.linalg.norm(cell) for cell in maps.data[0].reshape(maps.shape[1], -1).T]
    return {stride: float(np.mean(values)) for stride, values in norms.items()}


def test_the_measured_scales_give_all_strides_one_norm():
    built = net()
    before = mean_norms(built, images())
    assert max(before.values()) > 1.5 * min(before.values())
    scales = fcn.feature_scales(built, images())
    assert scales.keys() == {16, 8}
    after = mean_norms(net(scales=scales), images())
    np.testing.assert_allclose(list(after.values()), before[32], rtol=1e-4)


def test_scales_that_are_in_force_do_not_change_what_is_measured():
    expected = fcn.feature_scales(net(), images())
    assert fcn.feature_scales(net(scales={16: 0.01, 8: 0.0001}), images()) == pytest.approx(expected, rel=1e-4)


def test_scaling_features_is_scaling_the_filters_that_score_them():
    scaled, plain = net(scales={16: 0.25, 8: 4.0}), net()
    plain.score["stride16"].weight.data = plain.score["stride16"].weight.data * np.float32(0.25)
    plain.score["stride8"].weight.data = plain.score["stride8"].weight.data * np.float32(4.0)
    (x,) = images(1)
    with no_grad():
        np.testing.assert_allclose(scaled(x).data, plain(x).data, rtol=1e-4, atol=1e-4)


def test_a_step_moves_each_strides_scores_by_its_squared_norm():
    """The derivation: Δs = −λ·g·‖x‖², for the score of a cell whose filter is moved by its own gradient alone."""
    rng = stream(0, "step")
    x, w, rate = rng.standard_normal(8), rng.standard_normal(8), 0.1
    for scale in (1.0, 0.01):
        g = 2.0  # of the loss by the score
        moved = (w - rate * g * (scale * x)) @ (scale * x)
        assert moved - w @ (scale * x) == pytest.approx(-rate * g * scale**2 * (x @ x))


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(ValueError, match=r"scales are for strides \[8, 16, 32\], got \[4\]"):
        net(scales={4: 0.1})
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="scales must be finite and above 0"):
            net(scales={8: scale})
    with pytest.raises(ValueError, match="are zero, or there are no images"):
        fcn.feature_scales(net(), [])
