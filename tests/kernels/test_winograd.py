"""Winograd's algorithm: its algebra, its error, its edges, and where it is chosen."""

from math import gcd

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minifcn_kernels as kernels
from backends import threads
from geometry import SEEDS, normal, whole
from minifcn.testing.data import strided
from minifcn_kernels.conv2d import choose, winograd, winograd_grad_weight
from minifcn_kernels.conv2d import winograd_transforms as transforms
from minifcn_kernels.conv2d.contract import backwards, conv_geometry
from minifcn_kernels.conv2d.winograd_tiles import lay_out, tile_rows
from minifcn_kernels.tile import VECTOR_BYTES

U = 2.0**-24  # float32's unit roundoff


def geometry(N, C, K, size, padding=(1, 1), groups=1, filters=(3, 3), **options):
    options = {"stride": 1, "dilation": 1} | options
    return conv_geometry((N, C, *size), (K, C // groups, *filters), padding=padding, groups=groups, **options)


def arrays(g, seed, make=normal, dtype=np.float32):
    """Return x, w, b and a cotangent gy."""
    shapes = g.x_shape, g.w_shape, (g.K,), g.y_shape
    return tuple(make(seed + i, shape, dtype) for i, shape in enumerate(shapes))


def three_sums(g, x, w, b, gy):
    options = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
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
    axes = []
    for longest in (11, 40):  # a row may be longer than a vector
        outputs, taps = draw(st.integers(1, longest)), draw(st.integers(1, 7))
        stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        padded = (outputs - 1) * stride + dilation * (taps - 1) + 1 + draw(st.integers(0, stride - 1))
        padding = draw(st.integers(0, min(3, (padded - 1) // 2)))
        axes.append((padded - 2 * padding, taps, stride, dilation, padding))
    size, filters, stride, dilation, padding = zip(*axes, strict=True)
    N = draw(st.integers(0, 3))
    return geometry(N, C, K, size, padding, groups, filters, stride=stride, dilation=dilation)


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
    "several batches of boxes": geometry(2, 130, 70, (44, 60)),
    "sums of weights in parts": geometry(1, 5, 40, (70, 150)),
    "sums of weights in fewer parts than usual": geometry(1, 5, 40, (64, 120)),
    "sums of weights in parts, in groups": geometry(3, 16, 40, (60, 100), groups=2),
    "dilation": geometry(2, 6, 5, (19, 21), (2, 2), dilation=2),
    "more classes than outputs": geometry(2, 4, 3, (9, 30), (0, 1), dilation=(4, 6)),
    "filters of 5×5, in groups": geometry(2, 6, 4, (13, 17), (2, 2), groups=2, filters=(5, 5)),
    "few tiles and many large filters": geometry(1, 20, 170, (13, 12), (1, 2), filters=(7, 6)),
    "few tiles, of several images, in groups": geometry(2, 6, 96, (4, 17), groups=2),
    "more virtual channels than a lot": geometry(1, 30, 9, (10, 11), (3, 3), filters=(7, 4)),
    "filters of 11×11 by 4": geometry(1, 3, 9, (60, 62), (2, 2), filters=(11, 11), stride=4),
    "filters of 7×5 by 2 and 3, turned about": geometry(1, 4, 40, (30, 44), (3, 0), filters=(7, 5), stride=(2, 3)),
    "stride and dilation that share a factor": geometry(
        2, 3, 5, (40, 40), (6, 4), filters=(7, 7), stride=4, dilation=6
    ),
    "filters of two taps": geometry(2, 5, 6, (9, 12), (1, 0), filters=(2, 2)),
}


def terms(g):
    """Return how many products are added up at a point: forward, for the input's gradient, for the weight's."""
    grid, origins = lay_out(g)
    rows, columns = tile_rows(g.N, grid)
    return len(origins) * g.C // g.groups, len(origins) * g.K // g.groups, rows * columns


def magnitudes(g, x, w, b, gy):
    """Return for each result the magnitudes that its error bound multiplies, in float64 and by the definition.

    For the input's gradient none if there is a stride, because that is another algorithm's.
    """
    A, B, F = (np.abs(matrix) for matrix in (transforms.A_T, transforms.B_T, transforms.G))
    x, w, b, gy = (np.abs(array) for array in (x, w, b, gy))

    def parts(g):
        """Yield for each class and origin: where its outputs, inputs and taps begin, and steps between them."""
        steps = [
            (s // gcd(s, d), d // gcd(s, d), s * d // gcd(s, d)) for s, d in zip(g.stride, g.dilation, strict=True)
        ]
        (apart_h, every_h, step_h), (apart_w, every_w, step_w) = steps
        for i, j in np.ndindex(min(every_h, g.OH), min(every_w, g.OW)):
            for r, s in np.ndindex(g.R, g.S):
                if r // apart_h % 3 == 0 and s // apart_w % 3 == 0:
                    top = i * g.stride[0] + r * g.dilation[0] - g.padding[0]
                    left = j * g.stride[1] + s * g.dilation[1] - g.padding[1]
                    rows, columns = slice(r, r + 3 * apart_h, apart_h), slice(s, s + 3 * apart_w, apart_w)
                    yield np.s_[..., i::every_h, j::every_w], (top, left), (step_h, step_w), np.s_[..., rows, columns]

    def tiles(image, first, step, count, reach):
        """(N, G, channels, *count, reach, reach): what tiles meet, of every ``step``-th number from ``first`` on."""
        index = [
            f + s * (4 * np.arange(n)[:, None] + np.arange(reach)) for f, s, n in zip(first, step, count, strict=True)
        ]
        inside = [(h >= 0) & (h < size) for h, size in zip(index, image.shape[2:], strict=True)]
        h, w = (np.where(mask, h, 0) for mask, h in zip(inside, index, strict=True))
        met = image[:, :, h[:, None, :, None], w[None, :, None, :]]
        met = met * (inside[0][:, None, :, None] & inside[1][None, :, None, :])
        return met.reshape(len(image), g.groups, image.shape[1] // g.groups, *met.shape[2:])

    def to_points(image, first, step, count):
        return np.einsum("ih,ngcyxhw,jw->ngcyxij", B, tiles(image, first, step, count, 6), B)

    def three_by_three(filters):
        return np.pad(filters, [(0, 0)] * (filters.ndim - 2) + [(0, 3 - size) for size in filters.shape[-2:]])

    def convolution(g, image, filters):
        y = np.zeros(g.y_shape)
        for outputs, first, step, taps in parts(g):
            count = [-(-size // 4) for size in y[outputs].shape[2:]]
            data = to_points(image, first, step, count)
            points = np.einsum("ir,gkcrs,js->gkcij", F, three_by_three(filters[taps]), F)
            part = np.einsum("pi,ngcyxij,gkcij,qj->ngkypxq", A, data, points, A, optimize=True)
            part = part.reshape(g.N, g.K, 4 * count[0], 4 * count[1])
            y[outputs] += part[:, :, : y[outputs].shape[2], : y[outputs].shape[3]]
        return y

    def grad_weight():
        gw = np.zeros((g.groups, g.K // g.groups, g.C // g.groups, g.R, g.S))
        for outputs, first, step, taps in parts(g):
            count = [-(-size // 4) for size in gy[outputs].shape[2:]]
            gradient = np.einsum("pi,ngkyxpq,qj->ngkyxij", A, tiles(gy[outputs], (0, 0), (1, 1), count, 4), A)
            data = to_points(x, first, step, count)
            part = np.einsum("ir,ngcyxij,ngkyxij,js->gkcrs", F, data, gradient, F, optimize=True)
            gw[taps] += part[..., : gw[taps].shape[-2], : gw[taps].shape[-1]]
        return gw.reshape(g.w_shape)

    filters = w.reshape(g.groups, g.K // g.groups, g.C // g.groups, g.R, g.S)
    turned = filters[..., ::-1, ::-1].swapaxes(1, 2)
    gx = convolution(backwards(g), gy, turned) if g.stride == (1, 1) else None
    return convolution(g, x, filters) + b[:, None, None], gx, grad_weight()


def winograd_sums(g, x, w, b, gy):
    """Return the sums by Winograd's algorithm, whether it pays or not; but not the one that it cannot do."""
    gx = (
        winograd.conv2d_grad_input_winograd(gy, w, g)
        if g.stride == (1, 1)
        else kernels.conv2d_grad_input(
            gy, w, g.x_shape, stride=g.stride, padding=g.padding, dilation=g.dilation, groups=g.groups
        )
    )
    return winograd.conv2d_winograd(x, w, b, g), gx, winograd_grad_weight.conv2d_grad_weight_winograd(x, gy, g)


def check_error(g, seed):
    data = arrays(g, seed)
    before = [array.copy() for array in data]
    actual = winograd_sums(g, *data)
    for array, copy in zip(data, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    exact = [array.astype(np.float64) for array in data]
    with kernels.use_backend("numpy"):
        expected = three_sums(g, *exact)
    for n, got, right, size in zip(terms(g), actual, expected, magnitudes(g, *exact), strict=True):
        gamma = (28 + n) * U / (1 - (28 + n) * U)
        assert got.dtype == np.float32
        if size is not None:
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
        columns = [times(*column) for column in np.eye(matrix.shape[1], dtype=np.float32)]
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
    for got, right in zip(winograd_sums(g, *data), expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=0, atol=0.05)


def test_the_bound_on_all_outputs_is_no_less_than_that_on_each():
    g = SHAPES["groups, and boxes of several images"]
    x, w, b, gy = arrays(g, 3, dtype=np.float64)
    each = magnitudes(g, x, w, 0 * b, gy)
    growths = transforms.FORWARD_GROWTH, transforms.FORWARD_GROWTH, transforms.WEIGHT_GROWTH
    operands = (x, w), (gy, w), (x, gy)
    for n, growth, (a, c), size in zip(terms(g), growths, operands, each, strict=True):
        gamma = (28 + n) * U / (1 - (28 + n) * U)
        assert transforms.error_bound(n, growth, np.abs(a).max() * np.abs(c).max()) >= gamma * size.max()


@pytest.mark.parametrize("name", SHAPES)
def test_one_thread_and_two_give_the_same_bits(name):
    g = SHAPES[name]
    data = arrays(g, 1)
    with threads(1):
        one = winograd_sums(g, *data)
    with threads(2):
        two = winograd_sums(g, *data)
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
        w5 = normal(1, (3, 2, 5, 5), np.float32)
        kernels.conv2d(x, w, stride=2)  # four origins of 36 products each, in place of 16·9
        kernels.conv2d(x, normal(1, (3, 2, 1, 1), np.float32))
        strided = geometry(1, 2, 3, (29, 29), filters=(5, 5), stride=2)
        kernels.conv2d_grad_input(normal(0, strided.y_shape, np.float32), w5, strided.x_shape, stride=2, padding=1)
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


def pays(g):
    """Return for each sum whether it is done by Winograd's algorithm in float32."""
    forward, back = (choose.winograd_applies(g, np.dtype(np.float32), of_input=of_input) for of_input in (False, True))
    return (
        forward and choose.winograd_pays(g),
        back and choose.winograd_pays(g, of_input=True),
        forward and choose.winograd_pays_for_weights(g),
    )


def test_outputs_that_a_tile_lacks_count_against_winograd():
    """A map of one pixel takes 36 products where 9 are enough, however many images fill the register tile."""
    for N in (1, 16, 1000):
        assert pays(geometry(N, 512, 512, (1, 1))) == (False, False, False)
    assert pays(geometry(1, 512, 512, (14, 14))) == (True, True, True)
    assert pays(geometry(8, 64, 64, (32, 32))) == (True, True, True)
    assert pays(geometry(0, 512, 512, (14, 14))) == (False, False, False)


def test_winograd_pays_for_larger_filters_dilations_and_strides_with_many_taps():
    assert pays(geometry(4, 64, 64, (64, 64), (2, 2), dilation=2)) == (True, True, True)
    assert pays(geometry(1, 96, 256, (86, 86), (2, 2), groups=2, filters=(5, 5))) == (True, True, True)
    large = geometry(1, 3, 96, (500, 500), (100, 100), filters=(11, 11), stride=4)
    assert pays(large) == (True, False, True)
    # fc6 of an FCN. Its output has 16 tiles, but its input has 36, and the direct way multiplies for the output alone.
    # With the short vectors of NEON, 16 tiles do not come out even.
    assert pays(geometry(1, 512, 4096, (22, 22), (0, 0), filters=(7, 7))) == (VECTOR_BYTES > 16, False, False)
    # 1024 channels with 9 origins each: their transforms would fill the memory.
    assert pays(geometry(1, 1024, 512, (22, 22), (0, 0), filters=(7, 7)))[0] is False
