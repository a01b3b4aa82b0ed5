"""The algorithms for convolutions: each is the same convolution, with the same bits for any number of threads."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minifcn_kernels as kernels
from backends import threads
from geometry import SEEDS, normal, whole
from minifcn_kernels.conv2d.choose import FORWARD, GRAD_WEIGHT, choose, conv2d_grad_weight_numba, conv2d_numba
from minifcn_kernels.conv2d.contract import conv_geometry
from minifcn_kernels.conv2d.direct import conv2d_direct
from minifcn_kernels.conv2d.dots import conv2d_grad_weight_dots
from minifcn_kernels.conv2d.grad_weight import conv2d_grad_weight_direct
from minifcn_kernels.conv2d.turned import conv2d_turned
from minifcn_kernels.tile import ROWS, VECTOR_BYTES

ALGORITHMS = ("loops", "direct")
DTYPES = (np.float32, np.float64)
LANES = VECTOR_BYTES // 8  # of float64


@dataclass(frozen=True)
class Convolution:
    """A geometry: shapes of x, w and the output, and the options."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    options: dict[str, Any]

    def arrays(self, make, seed, dtype):
        """Return x, w, b and a cotangent gy."""
        shapes = self.x_shape, self.w_shape, self.w_shape[:1], self.y_shape
        return tuple(make(seed + i, shape, dtype) for i, shape in enumerate(shapes))


@st.composite
def convolutions(draw, most_channels=9, most_taps=4, longest_stride=4):
    """Geometries that fill several tiles and boxes and leave edges of both.

    The output's size is drawn and the input's derived from it, so every one is valid.
    """
    groups = draw(st.integers(1, 3))
    C, K = (groups * draw(st.integers(1, most_channels)) for _ in range(2))
    outputs, inputs, filters, strides, paddings, dilations = [], [], [], [], [], []
    for longest in (9, 40):  # a row may be longer than a vector
        size, taps = draw(st.integers(1, longest)), draw(st.integers(1, most_taps))
        stride = draw(st.integers(1, longest_stride))
        dilation = draw(st.integers(1, 3))
        padded = (size - 1) * stride + dilation * (taps - 1) + 1 + draw(st.integers(0, stride - 1))
        padding = draw(st.integers(0, min(4, (padded - 1) // 2)))
        outputs.append(size)
        inputs.append(padded - 2 * padding)
        filters.append(taps)
        strides.append(stride)
        paddings.append(padding)
        dilations.append(dilation)
    N = draw(st.integers(0, 3))
    options = {"stride": tuple(strides), "padding": tuple(paddings), "dilation": tuple(dilations), "groups": groups}
    return Convolution((N, C, *inputs), (K, C // groups, *filters), (N, K, *outputs), options)


@st.composite
def products(draw):
    """1×1 convolutions, with as many channels, filters and pixels as fill several tiles of a matrix product."""
    N, groups = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    C, K = (groups * draw(st.integers(1, 60)) for _ in range(2))
    size = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    return Convolution((N, C, *size), (K, C // groups, 1, 1), (N, K, *size), {"groups": groups})


def three_sums(g, x, w, b, gy):
    """Return the convolution and its two gradients, after checking that they left the inputs alone."""
    before = [array.copy() for array in (x, w, b, gy)]
    sums = (
        kernels.conv2d(x, w, b, **g.options),
        kernels.conv2d_grad_input(gy, w, g.x_shape, **g.options),
        kernels.conv2d_grad_weight(x, gy, g.w_shape, **g.options),
    )
    for array, copy in zip((x, w, b, gy), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    return sums


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(g=convolutions() | convolutions(most_channels=1, most_taps=10, longest_stride=9) | products(), seed=SEEDS)
def test_every_algorithm_is_exact_on_whole_numbers(algorithm, dtype, g, seed):
    arrays = g.arrays(whole, seed, dtype)
    with kernels.use_backend("numpy"):
        expected = three_sums(g, *arrays)
    with kernels.use_algorithm(algorithm):
        for actual, exact in zip(three_sums(g, *arrays), expected, strict=True):
            assert actual.dtype == dtype
            np.testing.assert_array_equal(actual, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@given(g=convolutions(most_channels=20, most_taps=3) | convolutions(most_channels=1, most_taps=10), seed=SEEDS)
def test_both_direct_ways_are_exact_for_many_filters_and_for_few(dtype, g, seed):
    """Which of them is taken follows from how many filters there are; what they compute must not."""
    x, w, b, gy = g.arrays(whole, seed, dtype)
    geometry = conv_geometry(x.shape, w.shape, *g.options.values())
    with kernels.use_backend("numpy"):
        y, gw = kernels.conv2d(x, w, b, **g.options), kernels.conv2d_grad_weight(x, gy, w.shape, **g.options)
    for forward in (conv2d_direct, conv2d_turned):
        np.testing.assert_array_equal(forward(x, w, b, geometry), y)
    for grad_weight in (conv2d_grad_weight_direct, conv2d_grad_weight_dots):
        np.testing.assert_array_equal(grad_weight(x, gy, geometry), gw)


SHAPES = {
    "tiny maps of many images": ((7, 5, 2, 2), (6, 5, 3, 3), {"padding": 1}),
    "tiny maps of many images, all filters in whole tiles": ((7, 5, 2, 2), (8, 5, 3, 3), {"padding": 1}),
    "one pixel": ((5, 9, 1, 1), (7, 9, 1, 1), {}),
    "rows cut into boxes": ((1, 2, 3, 900), (5, 2, 3, 3), {"padding": 1}),
    "more channels than a block": ((1, 70, 9, 9), (70, 70, 3, 3), {"padding": 1}),
    "more filters than a box": ((1, 3, 5, 5), (150, 3, 1, 1), {}),
    "more taps than a tile's depth": ((1, 2, 20, 24), (3, 2, 18, 20), {}),
    "boxes that are runs of the output": ((2, 20, 17, 64), (16, 20, 3, 3), {"padding": 1}),
    "boxes that are runs of the output, with a stride, gathered": (
        (1, 9, 55, 56),
        (128, 9, 3, 3),
        {"stride": 2, "padding": 1},
    ),
    "weights in chunks that are no multiple of a tile": ((1, 30, 20, 40), (9, 30, 2, 2), {}),
    "many parts of a weight gradient": ((4, 3, 40, 40), (4, 3, 3, 3), {"padding": 1}),
    "stride beyond the filter": ((2, 3, 17, 17), (5, 3, 2, 2), {"stride": 5}),
    "upsampling by 8": ((1, 2, 48, 48), (2, 1, 16, 16), {"stride": 8, "groups": 2}),
    "upsampling by 4, in bands": ((1, 2, 150, 23), (2, 1, 7, 7), {"stride": 4, "groups": 2}),
    "upsampling by 5, padded, a margin left over": (
        (2, 2, 39, 39),
        (2, 1, 10, 10),
        {"stride": 5, "padding": 7, "groups": 2},
    ),
    "upsampling across, apart upwards": (
        (1, 2, 90, 41),
        (2, 1, 3, 5),
        {"stride": (2, 4), "dilation": (3, 1), "groups": 2},
    ),
    "1×1 on many maps, cut short": ((7, 6, 11, 13), (9, 6, 1, 1), {}),
    "1×1 on tiny maps": ((9, 30, 1, 3), (7, 30, 1, 1), {}),
    "1×1 with a sum in parts": ((1, 9000, 4, 9), (5, 9000, 1, 1), {}),
    "1×1 with a weight's sum in parts": ((2, 9, 60, 61), (20, 9, 1, 1), {}),
    "1×1 with more rows and columns than a panel": ((1, 16, 17, 18), (135, 16, 1, 1), {}),
    "1×1 with more rows than are summed at a time": ((1, 5, 4, 7), (530, 5, 1, 1), {}),
    "1×1 with few filters on many channels": ((2, 135, 13, 17), (5, 135, 1, 1), {}),
    "one column by strides": ((3, 4, 9, 1), (5, 4, 3, 1), {"stride": 2, "padding": (1, 0)}),
    "one column by strides, of many maps": ((4, 6, 4, 1), (9, 6, 3, 1), {"stride": (3, 2), "padding": (1, 0)}),
    "1×1 in groups": ((2, 34, 6, 7), (18, 17, 1, 1), {"groups": 2}),
    "one pixel of many images, in groups": ((61, 34, 1, 1), (18, 17, 1, 1), {"groups": 2}),
    "one output of a large filter": ((3, 5, 7, 6), (40, 5, 7, 6), {}),
    "a map small against its filter": ((2, 6, 9, 11), (66, 3, 5, 4), {"groups": 2}),
    "a map small against its filter, with all options": (
        (3, 4, 13, 14),
        (90, 4, 4, 5),
        {"stride": (1, 2), "dilation": (2, 1), "padding": (0, 1)},
    ),
    "more products than are scattered at a time": ((1, 3, 79, 79), (24, 3, 30, 30), {}),
    "1×1 with a stride": ((2, 6, 11, 13), (9, 6, 1, 1), {"stride": 2}),
    "depthwise": ((2, 5, 19, 23), (5, 1, 3, 3), {"padding": 1, "groups": 5}),
    "depthwise as wide as its input, but lower": (
        (2, 3, 9, 11),
        (3, 1, 4, 5),
        {"padding": (1, 4), "dilation": (1, 2), "groups": 3},
    ),
    "depthwise on a map narrower than its filter": ((2, 3, 4, 2), (3, 1, 3, 7), {"padding": (1, 3), "groups": 3}),
    "depthwise in bands": ((1, 2, 120, 130), (2, 1, 5, 5), {"padding": 2, "groups": 2}),
    "depthwise, dilated, with a stride": ((2, 3, 40, 30), (3, 1, 3, 4), {"stride": (3, 2), "dilation": 3, "groups": 3}),
    "depthwise with two filters a channel": ((2, 5, 19, 23), (10, 1, 3, 3), {"stride": 2, "groups": 5}),
    "stride and dilation that share a factor": ((2, 3, 30, 30), (5, 3, 3, 3), {"stride": 4, "dilation": 2}),
    "many filters": ((3, 17, 11, 13), (70, 17, 3, 3), {"padding": 1, "stride": (1, 2)}),
    "many filters, more than a box has": ((1, 9, 30, 31), (150, 9, 3, 3), {"stride": 2, "padding": 1}),
    "many filters on wide rows": ((1, 10, 4, 1100), (40, 10, 3, 2), {"stride": (2, 1)}),
    "many filters on maps of one column": ((5, 9, 21, 1), (33, 9, 3, 1), {"padding": (1, 0)}),
    "many filters on many tiny maps": ((40, 9, 3, 3), (64, 9, 3, 3), {"padding": 1}),
    "many filters in groups, dilated": ((2, 34, 20, 21), (80, 17, 3, 3), {"groups": 2, "dilation": 2, "padding": 2}),
    "many filters, few channels": ((2, 3, 20, 24), (48, 3, 5, 5), {"stride": 2}),
    "padding beyond the filter": ((1, 3, 6, 6), (4, 3, 2, 2), {"padding": 5}),
}


def named(name):
    x_shape, w_shape, options = SHAPES[name]
    y_shape = kernels.conv2d(np.zeros(x_shape), np.zeros(w_shape), **options).shape
    return Convolution(x_shape, w_shape, y_shape, options)


@pytest.mark.parametrize("name", SHAPES)
def test_the_tile_handles_every_edge(name):
    g = named(name)
    arrays = g.arrays(whole, 0, np.float32)
    with kernels.use_backend("numpy"):
        expected = three_sums(g, *arrays)
    with kernels.use_algorithm("direct"):
        for actual, exact in zip(three_sums(g, *arrays), expected, strict=True):
            np.testing.assert_array_equal(actual, exact)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", SHAPES)
def test_one_thread_and_two_give_the_same_bits(algorithm, name):
    g = named(name)
    arrays = g.arrays(normal, 1, np.float32)
    with kernels.use_algorithm(algorithm):
        with threads(1):
            one = three_sums(g, *arrays)
        with threads(2):
            two = three_sums(g, *arrays)
    for a, b in zip(one, two, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", SHAPES)
def test_float32_stays_within_the_error_bound_of_a_sum(name):
    """A sum of n rounded products is off by at most n·ε·Σ|product|, ε = 2⁻²⁴ (n + 1 with a bias), in whatever order."""
    g = named(name)
    arrays = g.arrays(normal, 2, np.float32)
    exact_arrays = [array.astype(np.float64) for array in arrays]
    magnitudes = [np.abs(array) for array in exact_arrays]
    K, C_per_group, R, S = g.w_shape
    N, _, OH, OW = g.y_shape
    groups = g.options.get("groups", 1)
    terms = C_per_group * R * S + 1, K // groups * R * S, N * OH * OW
    with kernels.use_backend("numpy"):
        exact, magnitude = three_sums(g, *exact_arrays), three_sums(g, *magnitudes)
    with kernels.use_algorithm("direct"):
        sums = three_sums(g, *arrays)
    for n, actual, right, size in zip(terms, sums, exact, magnitude, strict=True):
        # ε² terms are covered by the 1 added to n.
        assert (np.abs(actual - right) <= (n + 1) * 2.0**-24 * size).all()


@pytest.mark.parametrize(("taps", "depth"), [(1, 96), (3, 72)])
def test_a_long_sum_is_as_exact_as_a_sum_of_short_ones(taps, depth):
    """The tile adds up at most ``depth`` products before it adds them to what was there: see `tile` for the error."""
    x_shape, w_shape = (1, 1024, 9, 9), (1024, 1024, taps, taps)
    options = {"padding": taps // 2}
    x, w, gy = normal(0, x_shape, np.float32), normal(1, w_shape, np.float32), normal(2, x_shape, np.float32)

    def sums(x, w, gy):
        return kernels.conv2d(x, w, **options), kernels.conv2d_grad_input(gy, w, x_shape, **options)

    with kernels.use_algorithm("direct"):
        exact, actual = sums(*(array.astype(np.float64) for array in (x, w, gy))), sums(x, w, gy)
    n = 1024 * taps * taps
    for right, result in zip(exact, actual, strict=True):
        error = np.sqrt(np.mean((result - right) ** 2) / np.mean(right**2))
        # A rounding is off by 2⁻²⁴ at most, and by less than half of that on average.
        assert error < 2.0**-24 / 2 * np.sqrt((depth + n / depth) / 2)


@pytest.mark.parametrize(
    ("w_shape", "stride", "auto", "direct"),
    [
        ((2, 4, 3, 3), 1, "loops", "direct"),  # the tile would have one row
        ((4, 4, 3, 3), 1, "direct", "direct"),
        ((8, 1, 3, 3), 1, "depthwise", "depthwise"),
        ((8, 1, 3, 3), (4, 3), "depthwise", "depthwise"),
        ((8, 1, 3, 3), (1, 4), "stretched", "stretched"),
    ],
)
def test_the_choice_follows_from_the_geometry(w_shape, stride, auto, direct):
    g, dtype = conv_geometry((1, 8, 9, 9), w_shape, stride, 1, 1, 8 // w_shape[1]), np.dtype(np.float64)
    outputs = w_shape[0] * w_shape[1] // 8
    assert choose(g, dtype, outputs, pays=True) == auto
    with kernels.use_algorithm("direct"):
        assert choose(g, dtype, outputs, pays=True) == direct
    with kernels.use_algorithm("loops"):
        assert choose(g, dtype, outputs, pays=True) == "loops"


@pytest.mark.parametrize(
    ("K", "C", "forward", "grad_weight"),
    [
        (2 * LANES, ROWS, "turned", "direct"),
        (2 * LANES - 1, ROWS, "direct", "dots"),
        (2 * LANES, ROWS - 1, "turned", "dots"),
    ],
)
def test_filters_lie_along_the_vectors_if_there_are_enough(K, C, forward, grad_weight, monkeypatch):
    called = []
    for table, name in ((FORWARD, forward), (GRAD_WEIGHT, grad_weight)):
        monkeypatch.setitem(table, name, lambda *arguments, name=name: called.append(name))
    x, w, y = np.zeros((1, C, 5, 5)), np.zeros((K, C, 2, 2)), np.zeros((1, K, 4, 4))
    with kernels.use_algorithm("direct"):
        conv2d_numba(x, w)
        conv2d_grad_weight_numba(x, y, w.shape)
    assert called == [forward, grad_weight]


def test_an_unknown_algorithm_is_refused_by_name():
    with (
        pytest.raises(ValueError, match="algorithm must be one of 'auto', 'loops', 'direct', 'winograd', got 'fft'"),
        kernels.use_algorithm("fft"),
    ):
        pass


@pytest.mark.parametrize(("N", "C", "size", "K"), [(70, 12, 4, 8), (45, 64, 5, 8), (130, 5, 4, 8), (70, 12, 4, 40)])
def test_an_infinity_stays_with_its_channel_whatever_was_in_the_block_before(N, C, size, K):
    """The last box has fewer images than there is room for; there the box before it left what is another channel's."""
    g = Convolution((N, C, size, size), (K, C, 3, 3), (N, K, size, size), {"padding": 1})
    x, _, _, gy = g.arrays(normal, 3, np.float32)
    x[:, -1, 2, 2] = np.inf
    with kernels.use_algorithm("direct"), threads(1):
        gw = kernels.conv2d_grad_weight(x, gy, g.w_shape, **g.options)
    assert np.isfinite(gw[:, :-1]).all()
    assert not np.isfinite(gw[:, -1]).any()
