"""Alignment by impulses: the pixels that move an output lie where the geometry says that the output is.

The nets here are linear (average pools, no ReLU) with one channel and positive filters that are symmetric around their
middle, so how far each pixel moves an output is a bump that is symmetric around the output's place: it is highest
there, and its centre of mass is there, exactly.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, fcn, nn
from minifcn.fcn.geometry import coordinate_map


def symmetric(layer):
    """Give a layer filters that rise towards their middle."""
    rows, columns = (1 + np.minimum(np.arange(k), np.arange(k)[::-1]) for k in layer.kernel_size)
    layer.weight.data = (np.outer(rows, columns) / (rows.sum() * columns.sum()))[None, None].astype(np.float32)
    return layer


def in_double(net):
    for parameter in net.parameters():
        parameter._data = parameter.data.astype(np.float64)  # the place is exact only if rounding is far away
    return net


def response(net, size, i, j):
    """Return how far each pixel of an image moves the output of ``net`` at (i, j): an impulse sent backwards."""
    x = Tensor(np.zeros((1, 1, *size)), requires_grad=True)
    y = net(x)
    impulse = np.zeros(y.shape)
    impulse[0, 0, i, j] = 1
    y.backward(impulse)
    return x.grad[0, 0]


def centre(moved):
    """Return the (vertical, horizontal) centre of mass."""
    rows, columns = np.indices(moved.shape)
    return (moved * rows).sum() / moved.sum(), (moved * columns).sum() / moved.sum()


def highest(moved):
    """Return the middle of the pixels that move the output most; several where it lies between pixels."""
    rows, columns = np.nonzero(moved >= moved.max() * (1 - 1e-9))
    return (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2


@st.composite
def layers(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    if draw(st.booleans()):
        return nn.AvgPool2d(kernel, stride=draw(st.integers(1, 2)))
    padding = draw(st.integers(0, 2))
    return symmetric(nn.Conv2d(1, 1, kernel, stride=draw(st.integers(1, 3)), padding=padding, bias=False))


@given(st.lists(layers(), min_size=1, max_size=4), st.data())
def test_the_pixel_that_moves_an_output_most_is_where_the_map_says(chain, data):
    net = in_double(nn.Sequential(*chain))
    field = net.window().receptive_field()
    # Outputs that see no padding: there a bump would be cut off. There is one at least on a map of this size.
    size = tuple(max(side, int(k + s)) for side, k, s in zip((110, 120), field.size, field.stride, strict=True))
    height, width = net.window().output_size(size)
    inside = [
        [i for i in range(n) if o + s * i >= 0 and o + s * i + k <= side]
        for n, o, s, k, side in zip((height, width), field.offset, field.stride, field.size, size, strict=True)
    ]
    i, j = data.draw(st.sampled_from(inside[0])), data.draw(st.sampled_from(inside[1]))
    moved = response(net, size, i, j)
    place = [float(axis_map.inverse()(at)) for axis_map, at in zip(coordinate_map(net), (i, j), strict=True)]
    np.testing.assert_allclose(centre(moved), place, atol=1e-6)
    if all(layer.stride == (1, 1) for layer in chain[:-1]):  # a stride before a filter leaves gaps in the bump
        np.testing.assert_allclose(highest(moved), place, atol=1e-6)


def averaging(blocks, fc6, first=None):
    """VGG's plan, or AlexNet's, with average pools and one channel."""
    layers, taps, stride = {}, {}, 1
    if first is not None:
        layers["conv0"] = symmetric(nn.Conv2d(1, 1, *first, bias=False))
        stride = first[1]
    for block, (kernel, pool) in enumerate(blocks, start=1):
        layers[f"conv{block}"] = symmetric(nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False))
        layers[f"pool{block}"] = nn.AvgPool2d(pool, stride=2, ceil_mode=True)
        stride *= 2
        taps[stride] = (f"pool{block}", 1)
    layers["fc6"] = symmetric(nn.Conv2d(1, 1, fc6, bias=False))
    return nn.Sequential(layers, taps=taps | {stride: ("fc6", 1)})


BACKBONES = {
    "VGG16": lambda: averaging([(5, 2), (5, 2), (7, 2), (7, 2), (7, 2)], 7),
    "AlexNet": lambda: averaging([(3, 3), (5, 3), (7, 3)], 6, first=(11, 4)),
    "TinyVGG": lambda: averaging([(3, 2)] * 5, 2),
}


def finest(name):
    return [32, 16, 8] if name == "AlexNet" else [32, 16, 8, 4, 2]


@pytest.mark.parametrize(("name", "stride"), [(name, stride) for name in BACKBONES for stride in finest(name)])
def test_each_score_lies_over_its_pixel(name, stride):
    """Crop one pixel off, and every centre is one pixel off."""
    net = fcn.FCN(BACKBONES[name](), 1, stride=stride)
    for _, layer in net.score.named_children():
        layer.weight.data = np.ones_like(layer.weight.data)
    in_double(net)
    size = (560, 574)
    for i, j in [(280, 287), (267, 300), (291, 274)]:  # far enough inside for the bump to be whole
        np.testing.assert_allclose(centre(response(net, size, i, j)), (i, j), atol=1e-6)


def test_an_offset_that_is_one_off_is_seen():
    net = fcn.FCN(BACKBONES["TinyVGG"](), 1, padding=30)
    net.score["stride32"].weight.data = np.ones((1, 1, 1, 1), np.float32)
    in_double(net)
    assert centre(response(net, (200, 200), 100, 90)) == pytest.approx((100, 90), abs=1e-6)
    top, left = net.plan.offset
    object.__setattr__(net.plan, "offset", (top - 1, left))
    assert centre(response(net, (200, 200), 100, 90)) == pytest.approx((99, 90), abs=1e-6)


def test_the_highest_pixel_of_a_coarse_cell_of_vgg16_is_where_the_map_says():
    net = in_double(averaging([(5, 2), (5, 2), (7, 2), (7, 2), (7, 2)], 7))
    vertical, _ = coordinate_map(net)
    assert vertical.inverse().scale == 32
    place = vertical.inverse()(1)
    assert isinstance(place, Fraction)
    moved = response(net, (480, 480), 1, 1)
    assert highest(moved) == (float(place), float(place))


def test_the_response_is_what_the_net_computes_with():
    net = in_double(averaging([(3, 2)] * 3, 3))
    x = np.random.default_rng(0).standard_normal((1, 1, 40, 40))
    y = net(Tensor(x)).data
    moved = response(net, (40, 40), 1, 2)
    assert (moved * x[0, 0]).sum() == pytest.approx(y[0, 0, 1, 2], rel=1e-12)
