"""Convolution, transposed convolution and linear: against loops, central differences, and each other as adjoints."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, ops
from minifcn.testing import check_adjoint, check_gradients, strategies
from minifcn.testing.data import normal, strided, whole
from oracles import conv as oracle


def arrays(seed, *shapes):
    return [normal(shape, seed + i) for i, shape in enumerate(shapes)]


# --- conv2d --------------------------------------------------------------------------------------------------------


@given(case=strategies.convolutions())
def test_conv2d_is_the_sum_over_its_window(case):
    y = ops.conv2d(*map(Tensor, case.arrays()), **case.options)
    np.testing.assert_allclose(y.data, oracle.conv2d(*case.arrays(), **case.options), rtol=1e-12, atol=1e-12)


@given(case=strategies.convolutions())
def test_the_gradients_of_conv2d_are_right(case):
    check_gradients(lambda *a: ops.conv2d(*a, **case.options), *case.arrays(), mode="directional")


SPECIAL = {
    "1x1": ((2, 3, 4, 4), (2, 3, 1, 1), {}),
    "stride over the filter": ((1, 2, 8, 9), (3, 2, 2, 2), {"stride": 3}),
    "depthwise": ((1, 4, 5, 5), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    "dilation with stride": ((1, 1, 9, 9), (1, 1, 3, 3), {"dilation": 2, "stride": 2, "padding": 2}),
    "whole map": ((2, 3, 4, 5), (6, 3, 4, 5), {}),
    "a batch of zero": ((0, 2, 4, 4), (3, 2, 3, 3), {}),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_conv2d_and_its_gradients_in_a_special_case(name):
    x_shape, w_shape, options = SPECIAL[name]
    x, w, b = arrays(1, x_shape, w_shape, w_shape[:1])
    y = ops.conv2d(Tensor(x), Tensor(w), Tensor(b), **options)
    np.testing.assert_allclose(y.data, oracle.conv2d(x, w, b, **options), rtol=1e-12, atol=1e-12)
    check_gradients(lambda *t: ops.conv2d(*t, **options), x, w, b)


def test_strided_inputs_convolve_like_contiguous_ones():
    x, w, b = (strided(a) for a in arrays(1, (2, 2, 4, 5), (3, 2, 2, 3), (3,)))
    y = ops.conv2d(Tensor(x), Tensor(w), Tensor(b)).data
    np.testing.assert_allclose(y, oracle.conv2d(x, w, b), rtol=1e-12, atol=1e-12)
    check_gradients(ops.conv2d, x, w, b)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "b_shape", "options", "message"),
    [
        ((2, 4, 4), (1, 2, 3, 3), None, {}, "x must have the axes .N, C, H, W., got shape (2, 4, 4)"),
        ((1, 2, 4, 4), (1, 3, 3, 3), None, {}, "takes 3 × 1 groups = 3 input channels, but x .* has 2"),
        ((1, 2, 4, 4), (3, 2, 3, 3), (2,), {}, "b with axes .K. has shape (2,), but w says that K is 3"),
        ((1, 2, 4, 4), (3, 2, 5, 3), None, {}, "5×3 pixels, more than the padded input"),
        ((1, 2, 4, 4), (3, 2, 3, 3), None, {"stride": -1}, "stride must be at least 1, got -1"),
        ((1, 2, 4, 4), (3, 2, 3, 3), None, {"stride": 0}, "stride must be at least 1, got 0"),
        ((1, 2, 4, 4), (3, 2, 3, 3), None, {"padding": (0, -1)}, "padding must be at least 0, got (0, -1)"),
        ((1, 2, 4, 4), (3, 2, 3, 3), None, {"dilation": 0}, "dilation must be at least 1, got 0"),
        ((1, 2, 4, 4), (3, 2, 3, 3), None, {"groups": 2}, "groups must divide"),
    ],
)
def test_conv2d_refuses_what_does_not_fit_and_names_it(x_shape, w_shape, b_shape, options, message):
    x, w = Tensor(np.zeros(x_shape)), Tensor(np.zeros(w_shape))
    b = None if b_shape is None else Tensor(np.zeros(b_shape))
    with pytest.raises(ValueError, match=literal(message)):
        ops.conv2d(x, w, b, **options)


def literal(message):
    """Escape the parentheses and plus signs of a message, not its wildcards."""
    return re.sub(r"([()+])", r"\\\1", message)


@pytest.mark.parametrize("value", [1.5, "2", (1, 2, 3), None])
def test_an_option_that_is_no_int_and_no_pair_is_refused(value):
    with pytest.raises(TypeError, match="stride must be an int or a pair of ints"):
        ops.conv2d(Tensor(np.zeros((1, 1, 3, 3))), Tensor(np.zeros((1, 1, 1, 1))), stride=value)


# --- conv_transpose2d ----------------------------------------------------------------------------------------------


@given(case=strategies.transposed_convolutions())
def test_conv_transpose2d_adds_a_scaled_filter_for_every_input(case):
    y = ops.conv_transpose2d(*map(Tensor, case.arrays()), **case.options)
    expected = oracle.conv_transpose2d(*case.arrays(), **case.options)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.data, expected, rtol=1e-12, atol=1e-12)


@given(case=strategies.transposed_convolutions())
def test_the_gradients_of_conv_transpose2d_are_right(case):
    check_gradients(lambda *a: ops.conv_transpose2d(*a, **case.options), *case.arrays(), mode="directional")


@given(case=strategies.convolutions())
def test_a_transposed_convolution_is_exactly_the_adjoint_of_the_convolution(case):
    x, w = (whole(array.shape, case.seed + i) for i, array in enumerate(case.arrays()[:2]))
    # The input's rows that no window reached are what output_padding gives back.
    reach = [d * (k - 1) + 1 for d, k in zip(case.dilation, w.shape[2:], strict=True)]
    left_over = tuple((x.shape[2 + i] + 2 * case.padding[i] - reach[i]) % case.stride[i] for i in (0, 1))
    check_adjoint(
        lambda x: ops.conv2d(Tensor(x), Tensor(w), **case.options).data,
        lambda y: ops.conv_transpose2d(Tensor(y), Tensor(w), output_padding=left_over, **case.options).data,
        x.shape,
    )


@pytest.mark.parametrize("name", ["a batch of zero", "stride over the filter", "depthwise", "1x1"])
def test_conv_transpose2d_and_its_gradients_in_a_special_case(name):
    (N, _, H, W), (K, C_per_group, R, S), options = SPECIAL[name]
    x, w, b = arrays(1, (N, K, H, W), (K, C_per_group, R, S), (C_per_group * options.get("groups", 1),))
    y = ops.conv_transpose2d(Tensor(x), Tensor(w), Tensor(b), **options)
    np.testing.assert_allclose(y.data, oracle.conv_transpose2d(x, w, b, **options), rtol=1e-12, atol=1e-12)
    check_gradients(lambda *t: ops.conv_transpose2d(*t, **options), x, w, b)


def test_strided_inputs_upsample_like_contiguous_ones():
    check_gradients(ops.conv_transpose2d, *map(strided, arrays(1, (2, 2, 2, 3), (2, 3, 2, 3), (3,))))


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "b_shape", "options", "message"),
    [
        ((1, 2, 4), (2, 1, 3, 3), None, {}, "expected x (N, C, H, W) and w (C, K/G, R, S) with one C, got (1, 2, 4)"),
        ((1, 2, 4, 4), (3, 2, 3, 3), None, {}, "with one C, got (1, 2, 4, 4) and (3, 2, 3, 3)"),
        ((1, 2, 4, 4), (2, 3, 3, 3), (2,), {}, "b must have shape (3,), one for each channel, got (2,)"),
        ((1, 2, 4, 4), (2, 3, 3, 3), (1,), {}, "b must have shape (3,), one for each channel, got (1,)"),
        ((1, 2, 4, 4), (2, 3, 3, 3), None, {"output_padding": 1}, "smaller than the stride (1, 1), got (1, 1)"),
        (
            (1, 2, 4, 4),
            (2, 3, 3, 3),
            None,
            {"stride": (3, 2), "output_padding": (2, 2), "dilation": 3},  # below the dilation, as PyTorch would take
            "output_padding must be smaller than the stride (3, 2), got (2, 2)",
        ),
        (
            (1, 2, 4, 4),
            (2, 3, 3, 3),
            None,
            {"stride": (2, 3), "output_padding": (2, 2)},
            "output_padding must be smaller than the stride (2, 3), got (2, 2)",
        ),
        ((1, 2, 4, 4), (2, 3, 3, 3), None, {"output_padding": -1}, "output_padding must be at least 0, got -1"),
        ((1, 2, 4, 4, 1), (2, 1, 3, 3), None, {}, "expected x (N, C, H, W) and w (C, K/G, R, S) with one C"),
        ((1, 2, 4, 4), (2, 1, 3), None, {}, "expected x (N, C, H, W) and w (C, K/G, R, S) with one C"),
        ((1, 2, 4, 4), (2, 1, 3, 3, 1), None, {}, "expected x (N, C, H, W) and w (C, K/G, R, S) with one C"),
        ((1, 3, 4, 4), (2, 3, 3, 3), None, {}, "with one C, got (1, 3, 4, 4) and (2, 3, 3, 3)"),
        ((1, 2, 2, 2), (2, 3, 3, 3), None, {"padding": 2}, "padding (2, 2) leaves an output of 0×0"),
        ((1, 2, 2, 4), (2, 3, 3, 3), None, {"padding": (2, 0)}, "padding (2, 0) leaves an output of 0×6"),
        ((1, 2, 4, 2), (2, 3, 3, 3), None, {"padding": (0, 2)}, "padding (0, 2) leaves an output of 6×0"),
        ((1, 2, 4, 4), (2, 3, 3, 3), None, {"stride": 0}, "stride must be at least 1, got 0"),
        ((1, 2, 4, 4), (2, 3, 3, 3), None, {"padding": -1}, "padding must be at least 0, got -1"),
        ((1, 2, 4, 4), (2, 3, 3, 3), None, {"dilation": 0}, "dilation must be at least 1, got 0"),
        (
            (1, 3, 4, 4),
            (3, 2, 3, 3),
            None,
            {"groups": 2},
            "groups must be an int that divides the 3 channels of x, got 2",
        ),
        (
            (1, 2, 4, 4),
            (2, 3, 3, 3),
            None,
            {"groups": 1.0},
            "groups must be an int that divides the 2 channels of x, got 1.0",
        ),
        (
            (1, 2, 4, 4),
            (2, 3, 3, 3),
            None,
            {"groups": 0},
            "groups must be an int that divides the 2 channels of x, got 0",
        ),
    ],
)
def test_conv_transpose2d_refuses_what_does_not_fit_and_names_it(x_shape, w_shape, b_shape, options, message):
    x, w = Tensor(np.zeros(x_shape)), Tensor(np.zeros(w_shape))
    b = None if b_shape is None else Tensor(np.zeros(b_shape))
    with pytest.raises(ValueError, match=literal(message)):
        ops.conv_transpose2d(x, w, b, **options)


# --- linear --------------------------------------------------------------------------------------------------------


@given(N=st.integers(0, 3), C=st.integers(1, 4), K=st.integers(1, 4), bias=st.booleans(), seed=strategies.seeds())
def test_linear_is_a_weighted_sum_of_features(N, C, K, bias, seed):
    x, w, b = arrays(seed, (N, C), (K, C), (K,))
    y = ops.linear(Tensor(x), Tensor(w), Tensor(b) if bias else None).data
    assert y.shape == (N, K)
    for n, k in np.ndindex(N, K):
        expected = sum(x[n, c] * w[k, c] for c in range(C)) + (b[k] if bias else 0)
        assert abs(y[n, k] - expected) < 1e-12
    check_gradients(ops.linear, *([x, w, b] if bias else [x, w]), seed=seed)


@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [((3,), (2, 3)), ((1, 3), (2, 4)), ((1, 3), (2, 2)), ((1, 3, 1), (2, 3)), ((1, 3), (3,)), ((1, 3), (2, 3, 1))],
)
def test_linear_refuses_what_does_not_fit(x_shape, w_shape):
    with pytest.raises(
        ValueError,
        match=literal(f"linear: expected x (N, C) and w (K, C) with one C, got shapes {x_shape} and {w_shape}"),
    ):
        ops.linear(Tensor(np.zeros(x_shape)), Tensor(np.zeros(w_shape)))


@pytest.mark.parametrize("op", [ops.conv2d, ops.conv_transpose2d])
def test_tensors_of_two_dtypes_are_refused(op):
    x, w = Tensor(np.zeros((1, 1, 3, 3), np.float32)), Tensor(np.zeros((1, 1, 3, 3)))
    with pytest.raises(TypeError, match="mixes float32 and float64 tensors; convert one"):
        op(x, w)
