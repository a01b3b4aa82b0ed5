"""Max and average pooling and their gradients: by the definition, at ties, NaN and infinity, and at bad geometry."""

import re

import numpy as np
import pytest
from hypothesis import given

import minifcn_kernels as kernels
from backends import backends
from geometry import SEEDS, distinct, normal, poolings, whole
from minifcn_kernels.pool2d.contract import pool_geometry
from oracles import pool as oracle


def square(values):
    """A map of one channel, (1, 1, H, W), from nested lists."""
    return np.array(values, np.float64)[None, None]


@backends
@given(poolings(dilated=True), SEEDS)
def test_max_pooling_is_its_definition(backend, g, seed):
    # Whole numbers tie in most windows, so this is also the rule for ties.
    x = whole(seed, g.x_shape)
    with kernels.use_backend(backend):
        y, index = kernels.max_pool2d(x, **g.options)
    expected_y, expected_index = oracle.max_pool2d(x, **g.options)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(index, expected_index)
    assert index.dtype == np.int32


@backends
@given(poolings(dilated=True), SEEDS)
def test_max_pooling_of_nan_and_infinity_is_its_definition(backend, g, seed):
    x = np.array([-np.inf, np.nan, 0.0, np.inf])[whole(seed, g.x_shape, np.int64) % 4]
    with kernels.use_backend(backend):
        y, index = kernels.max_pool2d(x, **g.options)
    expected_y, expected_index = oracle.max_pool2d(x, **g.options)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(index, expected_index)


@backends
@given(poolings(dilated=True), SEEDS)
def test_max_pooling_gives_the_cotangent_to_the_winner(backend, g, seed):
    x = distinct(seed, g.x_shape)
    with kernels.use_backend(backend):
        y, index = kernels.max_pool2d(x, **g.options)
        gy = whole(seed + 1, y.shape)
        gx = kernels.max_pool2d_grad(gy, index, x.shape, **g.options)
    np.testing.assert_array_equal(gx, oracle.max_pool2d_grad(gy, index, x.shape))


@backends
@given(poolings(dilated=False), SEEDS)
def test_average_pooling_is_its_definition(backend, g, seed):
    x = normal(seed, g.x_shape)
    with kernels.use_backend(backend):
        y = kernels.avg_pool2d(x, **g.options)
        gy = normal(seed + 1, y.shape)
        gx = kernels.avg_pool2d_grad(gy, x.shape, **g.options)
    np.testing.assert_allclose(y, oracle.avg_pool2d(x, **g.options), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gx, oracle.avg_pool2d_grad(gy, x.shape, **g.options), rtol=1e-12, atol=1e-12)


@backends
@given(poolings(dilated=False), SEEDS)
def test_the_adjoint_of_average_pooling_is_exact_on_whole_numbers(backend, g, seed):
    x = 36 * whole(seed, g.x_shape)  # a divisor is a product of two numbers up to 3, so it divides 36
    with kernels.use_backend(backend):
        y = kernels.avg_pool2d(x, **g.options)
        gy = 36 * whole(seed + 1, y.shape)
        assert np.vdot(y, gy) == np.vdot(x, kernels.avg_pool2d_grad(gy, x.shape, **g.options))


@backends
def test_the_first_of_equal_elements_wins(backend):
    with kernels.use_backend(backend):
        y, index = kernels.max_pool2d(np.zeros((1, 1, 4, 6)), 2)
    np.testing.assert_array_equal(index[0, 0], [[0, 2, 4], [12, 14, 16]])
    assert not y.any()


@backends
def test_the_first_nan_wins(backend):
    nan = np.nan
    x = square([[1, nan, 5, 6], [nan, 9, 7, 8]])
    with kernels.use_backend(backend):
        y, index = kernels.max_pool2d(x, 2)
    np.testing.assert_array_equal(y, square([[nan, 8]]))
    np.testing.assert_array_equal(index[0, 0], [[1, 7]])


@backends
def test_padding_never_wins(backend):
    x = np.full((1, 1, 3, 3), -np.inf)
    with kernels.use_backend(backend):
        y, index = kernels.max_pool2d(x, 3, stride=1, padding=1)
    assert np.isneginf(y).all()
    np.testing.assert_array_equal(index[0, 0], [[0, 0, 1], [0, 0, 1], [3, 3, 4]])


@backends
def test_ceil_mode_drops_a_window_that_would_start_behind_the_input(backend):
    # Rounded up, three windows fit into 3 + 2·1 columns with stride 2; the third would start at column 3 of 3.
    x = square([[1, 2, 3]] * 3)
    with kernels.use_backend(backend):
        y, _ = kernels.max_pool2d(x, 2, stride=2, padding=1, ceil_mode=True)
    np.testing.assert_array_equal(y, square([[1, 3], [1, 3]]))


@backends
def test_the_divisor_counts_padding_but_not_what_lies_beyond_it(backend):
    x = np.ones((1, 1, 4, 4))
    options = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    # Three windows along an axis start at −1, 1 and 3; they see 2, 3 and 1 pixels, of 3, 3 and 2 in the padded input.
    with kernels.use_backend(backend):
        y = kernels.avg_pool2d(x, **options)
        without = kernels.avg_pool2d(x, **options, count_include_pad=False)
    share = np.array([2 / 3, 1, 1 / 2])
    np.testing.assert_allclose(y[0, 0], np.outer(share, share))
    np.testing.assert_array_equal(without, np.ones((1, 1, 3, 3)))


@backends
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_longer_than_a_vector_are_pooled_alike(backend, stride, dtype):
    x = whole(0, (1, 2, 5, 103), dtype)
    options = {"kernel_size": 3, "stride": stride, "padding": 1}
    with kernels.use_backend(backend):
        y, index = kernels.max_pool2d(x, **options)
        mean = kernels.avg_pool2d(x, **options)
        spread = kernels.avg_pool2d_grad(mean, x.shape, **options)
    expected_y, expected_index = oracle.max_pool2d(x, **options)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(mean, oracle.avg_pool2d(x, **options), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(spread, oracle.avg_pool2d_grad(mean, x.shape, **options), rtol=1e-6, atol=1e-6)


X = np.zeros((1, 2, 4, 5))


@backends
@pytest.mark.parametrize(
    ("kernel_size", "options", "error", "message"),
    [
        (0, {}, ValueError, "kernel_size must be at least 1, got 0"),
        ("2", {}, TypeError, "kernel_size must be an int or a pair of ints (h, w), got '2'"),
        (2, {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        (2, {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        (3, {"padding": 2}, ValueError, "padding must be at most half the kernel_size (3, 3), got (2, 2)"),
        ((1, 5), {"padding": (1, 2)}, ValueError, "at most half the kernel_size (1, 5), got (1, 2)"),
        ((5, 1), {"padding": (2, 1)}, ValueError, "at most half the kernel_size (5, 1), got (2, 1)"),
        (6, {"padding": (1, 0)}, ValueError, "reaches over 6×6 pixels, more than the padded input has (6×5)"),
    ],
)
def test_bad_arguments_are_refused_by_name(backend, kernel_size, options, error, message):
    with kernels.use_backend(backend):
        with pytest.raises(error, match=re.escape(message)):
            kernels.max_pool2d(X, kernel_size, **options)
        with pytest.raises(error, match=re.escape(message)):
            kernels.avg_pool2d(X, kernel_size, **options)


@backends
def test_a_bad_dilation_is_refused_by_name(backend):
    with kernels.use_backend(backend), pytest.raises(ValueError, match="dilation must be at least 1, got 0"):
        kernels.max_pool2d(X, 2, dilation=0)


@backends
def test_a_window_that_jumps_over_the_input_is_refused(backend):
    # Its two rows would be −1 and 1, both padding of the single row 0.
    with kernels.use_backend(backend), pytest.raises(ValueError, match="jumps over the input of 1×3 pixels"):
        kernels.max_pool2d(np.zeros((1, 1, 1, 3)), 2, dilation=2, padding=1)


def test_no_geometry_that_is_let_through_has_a_window_without_input():
    for size in range(1, 5):
        for kernel in range(1, 6):
            for stride in range(1, 6):
                for padding in range(kernel // 2 + 1):
                    for dilation in range(1, 6):
                        for ceil_mode in (False, True):
                            check_every_window_sees_input(size, kernel, stride, padding, dilation, ceil_mode)


def check_every_window_sees_input(size, kernel, stride, padding, dilation, ceil_mode):
    options = kernel, stride, padding, dilation, ceil_mode
    count = oracle.outputs(size, *options)
    seen = [oracle.window(size, size, i, i, kernel, stride, padding, dilation) for i in range(count)]
    valid = count > 0 and all(seen)
    if valid:
        assert pool_geometry((1, 1, size, size), *options).y_shape == (1, 1, count, count)
    else:
        with pytest.raises(ValueError, match=r"^pool2d: "):
            pool_geometry((1, 1, size, size), *options)


def test_a_plane_too_large_for_an_index_is_refused():
    with pytest.raises(ValueError, match="at most 2147483647 pixels, got 65536×32768"):
        pool_geometry((1, 1, 1 << 16, 1 << 15), 2, None, 0, 1, False)


@backends
@pytest.mark.parametrize(("bad", "shown"), [(-1, "-1 … 0"), (20, "0 … 20"), (1 << 40, "0 … 1099511627776")])
def test_an_index_outside_the_plane_is_refused(backend, bad, shown):
    index = np.zeros((1, 2, 2, 2), np.int64)
    index[0, 1, 1, 0] = bad
    message = re.escape(f"index must lie in 0 … 19 (a plane of 4×5), got {shown}")
    with kernels.use_backend(backend), pytest.raises(ValueError, match=message):
        kernels.max_pool2d_grad(np.zeros((1, 2, 2, 2)), index, X.shape, 2)


@backends
def test_a_cotangent_of_another_shape_is_refused(backend):
    gy = np.zeros((1, 2, 2, 3))
    message = re.escape("gy must have shape (1, 2, 2, 2), got (1, 2, 2, 3)")
    with kernels.use_backend(backend):
        with pytest.raises(ValueError, match=message):
            kernels.max_pool2d_grad(gy, np.zeros(gy.shape, np.int32), X.shape, 2)
        with pytest.raises(ValueError, match=message):
            kernels.avg_pool2d_grad(gy, X.shape, 2)


@pytest.mark.parametrize("size", [(4, 1), (3, 16)])
def test_windows_that_begin_beyond_the_last_output_stay_within_their_row(size):
    """Of a kernel much wider than the map, some columns meet no output at all."""
    x = distinct(0, (2, 3, *size), np.float32)
    for kernel, padding in (((1, 5), (0, 2)), ((3, 35), (1, 17))):
        for expected, actual in zip(
            oracle.max_pool2d(x, kernel, stride=(1, 1), padding=padding),
            kernels.max_pool2d(x, kernel, stride=1, padding=padding),
            strict=True,
        ):
            np.testing.assert_array_equal(actual, expected)
