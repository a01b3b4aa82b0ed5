"""First values: He's variance, and the bilinear filter of FCN §3.3."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, nn, ops
from minifcn.random import stream


@pytest.mark.parametrize("shape", [(64, 16, 5, 5), (300, 200), (64, 1, 3, 3)])
def test_he_normal_has_variance_2_over_fan_in(shape):
    w = nn.init.he_normal(shape, stream(1))
    assert (w.dtype, w.shape) == (np.float32, shape)
    fan_in = w[0].size
    # Of n normal numbers: the mean is off by σ/√n, the variance by σ²·√(2/n); four of them.
    assert abs(w.mean()) < 4 * np.sqrt(2 / fan_in / w.size)
    assert abs(w.var() * fan_in / 2 - 1) < 4 * np.sqrt(2 / w.size)


def test_he_normal_is_a_function_of_its_generator():
    one, same, other = (nn.init.he_normal((3, 2), stream(seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).all()
    assert (nn.init.he_normal((3, 2)) != nn.init.he_normal((3, 2))).all()


def test_empty_weights_are_refused():
    with pytest.raises(ValueError, match=r"he_normal: every size .* at least 1, got shape \(3, 0\)"):
        nn.Linear(0, 3)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_a_bilinear_filter_is_the_released_nets_formula_on_the_channel_diagonal(R, S, channels):
    w = nn.init.bilinear(channels, (R, S))
    assert (w.dtype, w.shape) == (np.float32, (channels, channels, R, S))

    def triangle(size):
        factor = (size + 1) // 2
        centre = factor - 1 if size % 2 else factor - 0.5
        return [1 - abs(i - centre) / factor for i in range(size)]

    for c, k, r, s in np.ndindex(w.shape):
        assert w[c, k, r, s] == np.float32(triangle(R)[r] * triangle(S)[s] if c == k else 0)


def test_one_side_stands_for_both_and_groups_leave_out_the_zeros():
    full, depthwise, paired = (nn.init.bilinear(4, 3, groups=groups) for groups in (1, 4, 2))
    assert full.shape == (4, 4, 3, 3)
    assert depthwise.shape == (4, 1, 3, 3)
    x = Tensor(stream(1).standard_normal((1, 4, 3, 3)).astype(np.float32))
    one = ops.conv_transpose2d(x, Tensor(full), stride=2).data
    for w, groups in ((depthwise, 4), (paired, 2)):
        np.testing.assert_array_equal(ops.conv_transpose2d(x, Tensor(w), stride=2, groups=groups).data, one)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_an_odd_bilinear_filter_interpolates_exactly_between_pixels(factor):
    x = stream(2).standard_normal((1, 1, 4, 5)).astype(np.float32)
    w = nn.init.bilinear(1, 2 * factor - 1)
    y = ops.conv_transpose2d(Tensor(x), Tensor(w), stride=factor, padding=factor - 1).data
    for i, j in np.ndindex(y.shape[2:]):
        h, v = i // factor, j // factor
        dh, dv = i / factor - h, j / factor - v
        expected = sum(
            (1 - dh if a == 0 else dh) * (1 - dv if b == 0 else dv) * x[0, 0, h + a, v + b]
            for a in (0, 1)
            for b in (0, 1)
            if h + a < 4 and v + b < 5  # beyond the edge the weight is 0
        )
        assert abs(y[0, 0, i, j] - expected) < 1e-5


@pytest.mark.parametrize("factor", [2, 4])
def test_an_even_bilinear_filter_keeps_a_constant_in_the_interior(factor):
    x = Tensor(np.ones((1, 1, 5, 5), np.float32))
    w = Tensor(nn.init.bilinear(1, 2 * factor))
    y = ops.conv_transpose2d(x, w, stride=factor, padding=factor // 2).data
    assert y.shape[2:] == (5 * factor, 5 * factor)
    inner = slice(factor, -factor)
    np.testing.assert_allclose(y[0, 0, inner, inner], 1, rtol=1e-6)


def test_a_blank_net_has_zeros_that_take_no_time_and_the_next_one_has_weights():
    with nn.init.blank():
        blank = nn.Linear(25_088, 4096)  # VGG16's fc6
    assert not blank.weight.data[::500].any()
    assert blank.weight.dtype == np.float32
    assert nn.Linear(3, 2).weight.data.all()
