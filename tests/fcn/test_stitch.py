"""Shift-and-stitch, the rarefied net and the answers patch by patch are one and the same."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, fcn, models, nn, no_grad
from minifcn.random import stream
from minifcn.testing import strategies
from whole_nets import in_float64


@st.composite
def unpadded_nets(draw):
    """Draw up to four layers, convolutions and poolings, some with ReLUs; the depth of three 3×3/2 stays small."""
    seed = draw(strategies.seeds())
    layers, channels, strides = [], draw(st.integers(1, 3)), [1, 1]
    first = channels
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "depthwise", "max", "average"]))
        kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        # A total stride of at most 4 keeps the image small; a stride may be larger than its kernel.
        stride = tuple(draw(st.integers(1, 4 // so_far)) for so_far in strides)
        strides = [a * b for a, b in zip(strides, stride, strict=True)]
        dilation = draw(st.integers(1, 2))
        if kind == "average":
            layers.append(nn.AvgPool2d(kernel, stride))
        elif kind == "max":
            layers.append(nn.MaxPool2d(kernel, stride, dilation=dilation))
        else:
            groups = channels if kind == "depthwise" else 1
            out = channels * draw(st.integers(1, 2)) if kind == "depthwise" else draw(st.integers(1, 3))
            rng = stream(seed, "layer", number)
            layers.append(nn.Conv2d(channels, out, kernel, stride, dilation=dilation, groups=groups, rng=rng))
            channels = out
            if draw(st.booleans()):
                layers.append(nn.ReLU())
    return nn.Sequential(*layers), first, seed


def patch_by_patch(net, x):
    """The definition: cut out every patch as large as the receptive field, and run the net on it alone."""
    (R, S), (H, W) = net.window().receptive_field().size, x.shape[2:]
    with no_grad():
        rows = [
            [net(Tensor(np.ascontiguousarray(x.data[:, :, i : i + R, j : j + S]))).data for j in range(W - S + 1)]
            for i in range(H - R + 1)
        ]
    return np.array(rows)[..., 0, 0].transpose(2, 3, 0, 1)  # (i, j, N, K, 1, 1) → (N, K, i, j)


@given(drawn=unpadded_nets(), more=st.tuples(st.integers(0, 5), st.integers(0, 5)), N=st.integers(1, 2))
def test_stitched_rarefied_and_patch_by_patch_agree(drawn, more, N):
    net, channels, seed = drawn
    in_float64(net)
    R, S = net.window().receptive_field().size
    x = Tensor(stream(seed, "image").standard_normal((N, channels, R + more[0], S + more[1])))
    expected = patch_by_patch(net, x)
    stitched = fcn.shift_and_stitch(net, x)
    with no_grad():
        rarefied = fcn.rarefy(net)(x)
    assert stitched.shape == rarefied.shape == expected.shape
    np.testing.assert_allclose(stitched.data, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(rarefied.data, expected, rtol=1e-12, atol=1e-12)


def test_lenet_convolutionalized_answers_for_every_patch():
    dense = fcn.convolutionalize(models.lenet(10))
    x = Tensor(stream(0, "image").standard_normal((1, 1, 37, 34)).astype(np.float32))
    with no_grad():
        coarse, rarefied = dense(x), fcn.rarefy(dense)(x)
    stitched = fcn.shift_and_stitch(dense, x)
    assert coarse.shape == (1, 10, 2, 1)
    assert stitched.shape == rarefied.shape == (1, 10, 6, 3)
    np.testing.assert_allclose(stitched.data, rarefied.data, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(stitched.data[:, :, ::4, ::4], coarse.data)


def test_branches_side_by_side_are_rarefied_too():
    def branch(out, stream_name):
        return nn.Conv2d(4, out, 3, rng=stream(0, stream_name))

    net = nn.Sequential(
        {
            "conv": nn.Conv2d(2, 4, 3, stride=2, rng=stream(0, "first")),
            "fork": nn.Parallel(
                {
                    "a": branch(2, "a"),
                    "b": nn.Sequential(nn.LocalResponseNorm(3), branch(3, "b")),
                    "c": nn.AvgPool2d(3, 1),
                }
            ),
            "pool": nn.MaxPool2d(2, 3),
        }
    )
    x = Tensor(stream(0, "x").standard_normal((2, 2, 19, 17)).astype(np.float32))
    with no_grad():
        rarefied = fcn.rarefy(net)(x).data
    np.testing.assert_allclose(rarefied, fcn.shift_and_stitch(net, x).data, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rarefied, patch_by_patch(net, x), rtol=1e-5, atol=1e-6)


def test_a_rarefied_filter_holds_the_old_one_between_zeros():
    """The paper's form: f'_ij = f_{i/s, j/s} where s divides both i and j, else 0."""
    net = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(1, 1, 3, bias=False, rng=stream(0)))
    rare = np.zeros((1, 1, 5, 5), np.float32)
    rare[:, :, ::2, ::2] = net[1].weight.data
    written_out = nn.Sequential(nn.MaxPool2d(2, 1), nn.Conv2d(1, 1, 5, bias=False))
    written_out[1].weight.data = rare
    x = Tensor(stream(1).standard_normal((1, 1, 9, 8)).astype(np.float32))
    np.testing.assert_allclose(fcn.rarefy(net)(x).data, written_out(x).data, rtol=1e-5, atol=1e-6)


def test_the_rarefied_net_owns_its_weights():
    net = nn.Sequential({"conv": nn.Conv2d(1, 2, 3, 2), "drop": nn.Dropout(0.5)})
    rare = fcn.rarefy(net)
    assert (net["conv"].stride, rare["conv"].stride) == ((2, 2), (1, 1))
    assert not np.shares_memory(net["conv"].weight.data, rare["conv"].weight.data)


def test_a_net_without_a_stride_may_pad_and_is_run_once():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, rng=stream(0)), nn.Conv2d(1, 1, 1, rng=stream(1)))
    x = Tensor(stream(2).standard_normal((1, 1, 6, 5)).astype(np.float32))
    np.testing.assert_array_equal(fcn.shift_and_stitch(net, x).data, net(x).data)
    np.testing.assert_array_equal(fcn.rarefy(net)(x).data, net(x).data)


class Mystery(nn.Module):
    def forward(self, x):
        return x[:, :, ::2, ::2]

    def window(self):
        return nn.Window(1, 2)


def test_a_layer_of_ones_own_can_be_stitched_but_not_rarefied():
    net = nn.Sequential({"halve": Mystery(), "conv": nn.Conv2d(1, 1, 2, rng=stream(0))})
    x = Tensor(stream(1).standard_normal((1, 1, 7, 6)).astype(np.float32))
    np.testing.assert_allclose(fcn.shift_and_stitch(net, x).data, patch_by_patch(net, x), rtol=1e-6)
    with pytest.raises(TypeError, match="nothing is known about how to dilate halve, a Mystery"):
        fcn.rarefy(net)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"pool": nn.MaxPool2d(2), "conv": nn.Conv2d(1, 1, 3, padding=1)}, r"conv, a Conv2d, pads by (1, 1) within"),
        (
            {"conv": nn.Conv2d(1, 1, 3, padding=(0, 1)), "pool": nn.AvgPool2d(2)},
            r"conv, a Conv2d, pads by (0, 1) within",
        ),
        ({"pool": nn.MaxPool2d(3, 2, ceil_mode=True)}, "pool, a MaxPool2d, rounds its size up (ceil_mode)"),
        ({"pool": nn.MaxPool2d(2), "up": nn.ConvTranspose2d(1, 1, 4, 2)}, "up, a ConvTranspose2d, upsamples"),
    ],
)
def test_what_would_break_the_identity_is_refused_with_the_reason(layers, message):
    net, x = nn.Sequential(layers), Tensor(np.zeros((1, 1, 9, 9), np.float32))
    with pytest.raises(ValueError, match=re.escape(message)):
        fcn.shift_and_stitch(net, x)
    with pytest.raises(ValueError, match=re.escape(message)):
        fcn.rarefy(net)


def test_padding_really_would_break_it():
    """The refusal is no caution: the copy that is cropped by one sees a zero where pixel 0 was, at its border only."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False, rng=stream(0))
    x = stream(1).standard_normal((1, 1, 8, 8)).astype(np.float32)
    shifted = nn.Sequential(conv, nn.MaxPool2d(2))(Tensor(x[:, :, :, 1:])).data
    dense = nn.Sequential(conv, nn.MaxPool2d(2, 1))(Tensor(x)).data[:, :, ::2, 1::2]
    differs = ~np.isclose(shifted, dense[..., : shifted.shape[3]], rtol=1e-5, atol=1e-6)
    assert differs[..., 0].any()
    assert not differs[..., 1:-1].any()


def test_dropout_that_is_on_and_images_that_are_too_small_are_refused():
    net = nn.Sequential({"conv": nn.Conv2d(1, 1, 3, 2), "drop": nn.Dropout(0.5)})
    x = Tensor(np.zeros((1, 1, 5, 5), np.float32))
    with pytest.raises(ValueError, match=r"drop, a Dropout, would draw another mask.*eval\(\)"):
        fcn.shift_and_stitch(net, x)
    assert fcn.shift_and_stitch(net.eval(), x).shape == (1, 1, 3, 3)
    with pytest.raises(ValueError, match="the net sees patches of 3×3, the image has only 5×2 pixels"):
        fcn.shift_and_stitch(net, Tensor(np.zeros((1, 1, 5, 2), np.float32)))


def test_an_empty_batch_stays_empty():
    assert fcn.shift_and_stitch(nn.MaxPool2d(2), Tensor(np.zeros((0, 2, 5, 4), np.float32))).shape == (0, 2, 4, 3)
