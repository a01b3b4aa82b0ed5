"""Layers: they run their op with their options, and their window tells the size of what comes out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, nn, ops
from minifcn.random import stream
from minifcn.testing import strategies

PAIRS = {low: st.one_of(st.integers(low, 3), st.tuples(st.integers(low, 3), st.integers(low, 3))) for low in (0, 1)}


def picture(*shape, seed=1):
    return Tensor(stream(seed).standard_normal(shape).astype(np.float32))


@st.composite
def upsamplings(draw):
    """Return a `ConvTranspose2d` that leaves an output of the (height, width) it is given with."""
    h, w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kernel, stride, dilation = draw(PAIRS[1]), draw(PAIRS[1]), draw(PAIRS[1])
    extra = tuple(draw(st.integers(0, s - 1)) for s in (stride if isinstance(stride, tuple) else (stride, stride)))
    layer = nn.ConvTranspose2d(2, 4, kernel, stride, 0, extra, groups=2, dilation=dilation)
    side = min(layer.window().output_size((h, w)))
    layer.padding = (draw(st.integers(0, (side - 1) // 2)),) * 2
    return layer, (h, w)


@given(case=strategies.convolutions())
def test_the_window_of_conv2d_tells_its_output_size(case):
    layer = nn.Conv2d(case.C, case.K, (case.R, case.S), **case.options)
    y = layer(picture(case.N, case.C, case.H, case.W))
    assert y.shape == (case.N, case.K, *layer.window().output_size((case.H, case.W)))


@given(case=upsamplings())
def test_the_window_of_conv_transpose2d_tells_its_output_size(case):
    layer, size = case
    assert layer(picture(1, 2, *size)).shape == (1, 4, *layer.window().output_size(size))


@given(case=strategies.poolings())
def test_the_window_of_max_pool2d_tells_its_output_size(case):
    layer = nn.MaxPool2d(**case.max_options)
    x = picture(case.N, case.C, case.H, case.W)
    assert layer(x).shape == (*x.shape[:2], *layer.window().output_size(x.shape[2:]))


@given(case=strategies.poolings(dilated=False))
def test_the_window_of_avg_pool2d_tells_its_output_size(case):
    layer = nn.AvgPool2d(**case.avg_options)
    x = picture(case.N, case.C, case.H, case.W)
    assert layer(x).shape == (*x.shape[:2], *layer.window().output_size(x.shape[2:]))


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.LocalResponseNorm(3), nn.Dropout(0.5).eval()], ids=repr)
def test_element_wise_layers_have_the_identity_window(layer):
    assert layer.window() == nn.Window()
    assert layer(picture(1, 4, 3, 5)).shape == (1, 4, 3, 5)


@given(C=st.integers(1, 3), H=st.integers(1, 4), W=st.integers(1, 4))
def test_flatten_and_linear_look_at_the_whole_map_once(C, H, W):
    net = nn.Sequential(nn.Flatten((C, H, W)), nn.Linear(C * H * W, 5))
    assert net.window().output_size((H, W)) == (1, 1)
    assert net(picture(2, C, H, W)).shape == (2, 5)


# --- each layer is its op ------------------------------------------------------------------------------------------


@given(case=strategies.convolutions())
def test_conv2d_runs_its_op_with_its_options(case):
    rng = stream(case.seed)
    layer = nn.Conv2d(case.C, case.K, (case.R, case.S), bias=case.bias, rng=rng, **case.options)
    x = picture(case.N, case.C, case.H, case.W, seed=case.seed)
    expected = ops.conv2d(x, layer.weight, layer.bias, **case.options)
    np.testing.assert_array_equal(layer(x).data, expected.data)
    assert layer.weight.shape == (case.K, case.C // case.groups, case.R, case.S)
    assert (layer.bias is not None) == case.bias


def test_conv_transpose2d_runs_its_op_with_its_options():
    layer = nn.ConvTranspose2d(2, 4, (2, 3), (3, 2), (1, 0), (2, 1), 2, False, (1, 2))
    x = picture(1, 2, 3, 4)
    options = {"stride": (3, 2), "padding": (1, 0), "output_padding": (2, 1), "dilation": (1, 2), "groups": 2}
    np.testing.assert_array_equal(layer(x).data, ops.conv_transpose2d(x, layer.weight, **options).data)
    assert layer.weight.shape == (2, 2, 2, 3)
    assert layer.bias is None


@given(case=strategies.poolings())
def test_max_pool2d_runs_its_op_with_its_options(case):
    x = picture(case.N, case.C, case.H, case.W)
    expected = ops.max_pool2d(x, **case.max_options)
    np.testing.assert_array_equal(nn.MaxPool2d(**case.max_options)(x).data, expected.data)


@given(case=strategies.poolings(dilated=False))
def test_avg_pool2d_runs_its_op_with_its_options(case):
    x = picture(case.N, case.C, case.H, case.W)
    expected = ops.avg_pool2d(x, **case.avg_options)
    np.testing.assert_array_equal(nn.AvgPool2d(**case.avg_options)(x).data, expected.data)


def test_local_response_norm_relu_linear_and_flatten_run_their_ops():
    x = picture(2, 5, 3, 4)
    norm = nn.LocalResponseNorm(3, 0.5, 0.6, 2.0)
    np.testing.assert_array_equal(norm(x).data, ops.local_response_norm(x, 3, 0.5, 0.6, 2.0).data)
    np.testing.assert_array_equal(nn.ReLU()(x).data, ops.relu(x).data)
    flat = nn.Flatten((5, 3, 4))(x)
    np.testing.assert_array_equal(flat.data, x.data.reshape(2, 60))
    layer = nn.Linear(60, 3)
    np.testing.assert_array_equal(layer(flat).data, ops.linear(flat, layer.weight, layer.bias).data)


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_a_pools_stride_is_its_kernel_unless_given(pool):
    assert pool((2, 3)).stride == (2, 3)
    assert pool(3, 2).stride == (2, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: nn.Conv2d(2, 3, 3, rng=rng),
        lambda rng: nn.ConvTranspose2d(2, 3, 3, rng=rng),
        lambda rng: nn.Linear(2, 3, rng=rng),
    ],
)
def test_weights_are_drawn_from_the_generator_and_biases_begin_at_0(make):
    one, same, other = (make(stream(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.weight.data, same.weight.data)
    assert (one.weight.data != other.weight.data).any()
    assert one.bias.shape == (3,)
    assert (one.bias.data == 0).all()


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [0, 2, 3, -1])
def test_groups_that_do_not_divide_the_channels_are_refused(layer, groups):
    with pytest.raises(ValueError, match=f"{layer.__name__}: groups must divide in_channels = 4 .* 9, got {groups}"):
        layer(4, 9, 3, groups=groups)


@pytest.mark.parametrize("layer", [lambda **o: nn.Conv2d(1, 1, 3, **o), lambda **o: nn.MaxPool2d(3, **o)])
@pytest.mark.parametrize("option", ["stride", "padding", "dilation"])
def test_bad_spatial_options_are_refused_when_the_layer_is_made(layer, option):
    with pytest.raises(ValueError, match=f"{option} must be at least ., got -1"):
        layer(**{option: -1})
    with pytest.raises(TypeError, match=f"{option} must be an int or a pair of ints"):
        layer(**{option: "2"})


def test_flatten_refuses_maps_of_another_size_and_says_what_takes_any():
    with pytest.raises(ValueError, match=r"Flatten\(3, 4, 4\): got maps of shape \(3, 5, 4\).*convolutionalize"):
        nn.Flatten([3, 4, 4])(picture(1, 3, 5, 4))
