"""Winograd's algorithm: its algebra, its error, its edges, and where it is chosen."""

from contextlib import contextmanager

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minifcn_kernels as kernels
from geometry import SEEDS, normal, whole
from minifcn.testing.data import strided
from minifcn_kernels.conv2d import choose, winograd, winograd_grad_weight
from minifcn_kernels.conv2d import winograd_transforms as transforms
from minifcn_kernels.conv2d.contract import conv_geometry

U = 2.0**-24  # float32's unit roundoff


@contextmanager
def threads(number):
    before = numba.get_num_threads()
    numba.set_num_threads(number)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def geometry(N, C, K, size, padding=(1, 1), groups=1):
    return conv_geometry((N, C, *size), (K, C // groups, 3, 3), 1, padding, 1, groups)


def arrays(g, seed, make=normal, dtype=np.float32):
    """Return x, w, b and a cotangent gy."""
    shapes = g.x_shape, g.w_shape, (g.K,), g.y_shape
    return tuple(make(seed + i, shape, dtype) for i, shape in enumerate(shapes))


def three_sums(g, x, w, b, gy):
    options = {"padding": g.padding, "groups": g.groups}
    return (
        kernels.conv2d(x, w, b, **options),
        kernels.conv2d_grad_input(gy, w, g.x_shape, **options),
        kernels.conv2d_grad_weight(x, gy, g.w_shape, **options),
    )


@st.composite
def geometries(draw):
    """Odd sizes, maps smaller than a tile, single outputs, empty batches, groups, any number of channels.

    The output's size is drawn and the input's derived from it, so every one is valid.
    """
    groups = draw(st.integers(1, 3))
    C, K = (groups * draw(st.integers(1, 9)) for _ in range(2))
    outputs = draw(st.integers(1, 11)), draw(st.integers(1, 40))  # a row may be longer than a vector
    padding = tuple(draw(st.integers(0, min(2, (size + 1) // 2))) for size in outputs)
    size = tuple(o + 2 - 2 * p for o, p in zip(outputs, padding, strict=True))
    return geometry(draw(st.integers(0, 3)), C, K, size, padding, groups)


# Each goes through another corner of how the work is cut.
SHAPES = {
    "one output": geometry(1, 5, 7, (3, 3), (0, 0)),
    "one pixel": geometry(1, 5, 7, (1, 1)),
    "tiny maps of many images": geometry(9, 6, 5, (2, 3)),
    "one channel, one filter": geometry(2, 1, 1, (9, 9)),
    "several lots of channels and of filters": geometry(1, 130, 70, (7, 9)),
    "filters cut among tasks": geometry(1, 3, 300, (5, 5)),
    "filters transformed beforehand": geometry(1, 70, 40, (60, 70)),
    "rows longer than a box": geometry(1, 2, 3, (5, 500)),
    "groups, and boxes of several images": geometry(8, 12, 8, (14, 14), groups=2),
    "an empty batch": geometry(0, 3, 4, (8, 8)),
    "padding beyond the filter": geometry(1, 3, 4, (4, 5), (7, 5)),
    "unequal paddings": geometry(2, 4, 4, (9, 6), (0, 2)),
}


def magnitudes(g, x, w, b, gy):
    """Return for each result the magnitudes that its error bound multiplies, in float64 and by the definition."""
    N, G = g.N, g.groups
    TH, TW = -(-g.OH // 4), -(-g.OW // 4)
    A, B, F = (np.abs(matrix) for matrix in (transforms.A_T, transforms.B_T, transforms.G))

    def tiles(image, top, left, TH, TW, reach):
        """(N, G, channels, TH, TW, reach, reach): what every tile meets, from the image padded by top and left."""
        sizes = [
            max(4 * count + 2, first + size)
            for count, first, size in zip((TH, TW), (top, left), image.shape[2:], strict=True)
        ]
        padded = np.zeros((*image.shape[:2], *sizes))
        padded[:, :, top : top + image.shape[2], left : left + image.shape[3]] = image
        views = np.lib.stride_tricks.sliding_window_view(padded, (reach, reach), axis=(2, 3))
        return views[:, :, ::4, ::4][:, :, :TH, :TW].reshape(N, G, image.shape[1] // G, TH, TW, reach, reach)

    def convolution(image, filters, padding, OH, OW):
        TH, TW = -(-OH // 4), -(-OW // 4)
        crop = [max(0, -p) for p in padding]
        d = tiles(image[:, :, crop[0] :, crop[1] :], max(0, padding[0]), max(0, padding[1]), TH, TW, 6)
        data = np.einsum("ih,ngcyxhw,jw->ngcyxij", B, d, B)
        taps = np.einsum("ir,gkcrs,js->gkcij", F, filters, F)
        y = np.einsum("pi,ngcyxij,gkcij,qj->ngkypxq", A, data, taps, A, optimize=True)
        return y.reshape(N, G * filters.shape[1], 4 * TH, 4 * TW)[:, :, :OH, :OW]

    x, w, b, gy = (np.abs(array) for array in (x, w, b, gy))
    filters = w.reshape(G, g.K // G, g.C // G, 3, 3)
    turned = filters[..., ::-1, ::-1].transpose(0, 2, 1, 3, 4)
    data = np.einsum("ih,ngcyxhw,jw->ngcyxij", B, tiles(x, *g.padding, TH, TW, 6), B)
    gradient = np.einsum("pi,ngkyxpq,qj->ngkyxij", A, tiles(gy, 0, 0, TH, TW, 4), A)
    gw = np.einsum("ir,ngcyxij,ngkyxij,js->gkcrs", F, data, gradient, F, optimize=True)
    return (
        convolution(x, filters, g.padding, g.OH, g.OW) + b[:, None, None],
        convolution(gy, turned, (2 - g.padding[0], 2 - g.padding[1]), g.H, g.W),
        gw.reshape(g.w_shape),
    )


def check_error(g, seed):
    data = arrays(g, seed)
    before = [array.copy() for array in data]
    with kernels.use_algorithm("winograd"):
        actual = three_sums(g, *data)
    for array, copy in zip(data, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    exact = [array.astype(np.float64) for array in data]
    with kernels.use_backend("numpy"):
        expected = three_sums(g, *exact)
    terms = g.C // g.groups, g.K // g.groups, g.N * -(-g.OH // 4) * -(-g.OW // 4)
    for n, got, right, size in zip(terms, actual, expected, magnitudes(g, *exact), strict=True):
        gamma = (28 + n) * U / (1 - (28 + n) * U)
        assert got.dtype == np.float32
        assert (np.abs(got - right) <= gamma * size).all()


def test_the_functions_multiply_by_the_matrices():
    """Each is given the columns of the unit matrix; what is a multiple of 1/24 is within a rounding of it."""
    for times, matrix in (
        (transforms.times_b_t, transforms.B_T),
        (transforms.times_g, transforms.G),
        (transforms.times_a_t, transforms.A_T),
        (transforms.times_a, transforms.A_T.T),
        (transforms.times_g_t, transforms.G.T),
    ):
        columns = [times.py_func(*column) for column in np.eye(matrix.shape[1], dtype=np.float32)]
        np.testing.assert_allclose(np.transpose(columns), matrix, rtol=2 * U, atol=0)


def test_the_matrices_make_a_convolution():
    """Aᵀ [(G w) ⊙ (Bᵀ d)] of unit vectors w and d: 1 where output + tap = input. By 24, all numbers are whole."""
    product = np.einsum("oe,er,eh->orh", transforms.A_T, 24 * transforms.G, transforms.B_T)
    output, tap, place = np.indices((4, 3, 6))
    np.testing.assert_array_equal(product, 24 * (output + tap == place))


@given(g=geometries(), seed=SEEDS)
def test_the_error_stays_within_its_bound(g, seed):
    check_error(g, seed)


@pytest.mark.parametrize("name", SHAPES)
def test_the_error_stays_within_its_bound_however_the_work_is_cut(name):
    check_error(SHAPES[name], 0)


@pytest.mark.parametrize("name", SHAPES)
def test_the_error_is_no_more_than_that_of_rounding(name):
    """The bound is loose. On whole numbers, a right result is off by rounding alone: far less than by one tap."""
    g = SHAPES[name]
    data = arrays(g, 0, whole)
    with kernels.use_backend("numpy"):
        expected = three_sums(g, *data)
    with kernels.use_algorithm("winograd"):
        for got, right in zip(three_sums(g, *data), expected, strict=True):
            np.testing.assert_allclose(got, right, rtol=0, atol=0.05)


def test_the_bound_on_all_outputs_is_no_less_than_that_on_each():
    g = SHAPES["groups, and boxes of several images"]
    x, w, b, gy = arrays(g, 3, dtype=np.float64)
    each = magnitudes(g, x, w, 0 * b, gy)
    terms = g.C // g.groups, g.K // g.groups, g.N * -(-g.OH // 4) * -(-g.OW // 4)
    growths = transforms.FORWARD_GROWTH, transforms.FORWARD_GROWTH, transforms.WEIGHT_GROWTH
    operands = (x, w), (gy, w), (x, gy)
    for n, growth, (a, c), size in zip(terms, growths, operands, each, strict=True):
        gamma = (28 + n) * U / (1 - (28 + n) * U)
        assert transforms.error_bound(n, growth, np.abs(a).max() * np.abs(c).max()) >= gamma * size.max()


@pytest.mark.parametrize("name", SHAPES)
def test_one_thread_and_two_give_the_same_bits(name):
    g = SHAPES[name]
    data = arrays(g, 1)
    with kernels.use_algorithm("winograd"):
        with threads(1):
            one = three_sums(g, *data)
        with threads(2):
            two = three_sums(g, *data)
    for a, b in zip(one, two, strict=True):
        assert a.tobytes() == b.tobytes()


def test_arrays_may_lie_in_memory_as_they_like():
    g = SHAPES["groups, and boxes of several images"]
    data = arrays(g, 2)
    with kernels.use_algorithm("winograd"):
        for a, b in zip(three_sums(g, *data), three_sums(g, *map(strided, data)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_nan_and_infinity_are_not_lost():
    g = geometry(1, 3, 4, (12, 12))
    x, w, b, gy = arrays(g, 4)
    for bad in (np.nan, np.inf):
        x[0, 1, 5, 6] = bad
        with kernels.use_algorithm("winograd"):
            y, _, gw = three_sums(g, x, w, b, gy)
        assert not np.isfinite(y[0, :, 4:7, 5:8]).any()
        assert np.isfinite(y[0, :, :3]).all()  # tiles that do not meet it
        assert not np.isfinite(gw[:, 1]).any()
        assert np.isfinite(gw[:, 0]).all()


def sums_run(monkeypatch):
    """Return the list to which every run of a Winograd sum adds its name."""
    ran = []
    for table in (choose.FORWARD, choose.GRAD_INPUT, choose.GRAD_WEIGHT):
        run = table["winograd"]
        monkeypatch.setitem(table, "winograd", lambda *a, run=run: (ran.append(run.__name__), run(*a))[1])
    return ran


def test_winograd_is_run_for_all_it_can_do_and_for_nothing_else(monkeypatch):
    ran = sums_run(monkeypatch)
    can = geometry(1, 2, 3, (9, 9))
    with kernels.use_algorithm("winograd"):
        three_sums(can, *arrays(can, 0))
        assert ran == [
            winograd.conv2d_winograd.__name__,
            winograd.conv2d_grad_input_winograd.__name__,
            winograd_grad_weight.conv2d_grad_weight_winograd.__name__,
        ]
        ran.clear()
        three_sums(can, *arrays(can, 0, dtype=np.float64))
        x, w = normal(0, (1, 2, 9, 9), np.float32), normal(1, (3, 2, 3, 3), np.float32)
        kernels.conv2d(x, w, stride=2)
        kernels.conv2d(x, w, dilation=2)
        kernels.conv2d(x, normal(1, (3, 2, 3, 1), np.float32))
        assert ran == []


def test_auto_takes_winograd_where_it_pays(monkeypatch):
    ran = sums_run(monkeypatch)
    wide, thin = geometry(1, 64, 64, (40, 40)), geometry(1, 3, 64, (40, 40))
    three_sums(wide, *arrays(wide, 0))
    assert len(ran) == 3
    ran.clear()
    three_sums(wide, *arrays(wide, 0, dtype=np.float64))
    three_sums(thin, *arrays(thin, 0))
    assert ran == []


def test_outputs_that_a_tile_lacks_count_against_winograd():
    """A map of one pixel takes 36 products where 9 are enough, however many images fill the register tile."""
    for N in (1, 16, 1000):
        assert not choose.winograd_pays(512, 512, N, 1, 1)
        assert not choose.winograd_pays_for_weights(512, 512, N, 1, 1)
    assert choose.winograd_pays(512, 512, 1, 14, 14)
    assert choose.winograd_pays_for_weights(64, 64, 8, 32, 32)
    assert not choose.winograd_pays(512, 512, 0, 14, 14)
