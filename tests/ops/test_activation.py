"""ReLU, softmax, log-softmax and dropout: against plain loops and central differences, and where they are delicate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, no_grad, ops
from minifcn.random import stream
from minifcn.testing import check_gradients, strategies
from minifcn.testing.data import normal, strided

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def away_from_zero(seed, shape):
    x = normal(shape, seed)
    return x + 0.1 * np.sign(x)


@given(shape=SHAPES, seed=strategies.seeds())
def test_relu_keeps_what_is_positive(shape, seed):
    x = away_from_zero(seed, shape)
    y = ops.relu(Tensor(x)).data
    for at in np.ndindex(shape):
        assert y[at] == (x[at] if x[at] > 0 else 0)
    check_gradients(ops.relu, x, seed=seed)


def test_relu_has_slope_0_at_0_and_lets_nan_through():
    x = Tensor(np.array([-0.0, 0.0, np.nan, 5e-324]), requires_grad=True)
    y = ops.relu(x)
    y.backward(np.ones(4))
    assert np.isnan(y.data).tolist() == [False, False, True, False]
    assert x.grad.tolist() == [0, 0, 0, 1]


def in_columns(x, dim):
    return np.moveaxis(x, dim, -1).reshape(-1, x.shape[dim])


SOFTMAX = {
    "softmax": (ops.softmax, lambda row: [math.exp(v) / math.fsum(map(math.exp, row)) for v in row]),
    "log_softmax": (ops.log_softmax, lambda row: [v - math.log(math.fsum(map(math.exp, row))) for v in row]),
}


@pytest.mark.parametrize("name", SOFTMAX)
@given(shape=SHAPES, where=strategies.seeds(), seed=strategies.seeds())
def test_softmax_normalises_along_its_axis(name, shape, where, seed):
    op, of_row = SOFTMAX[name]
    dim = where % (2 * len(shape)) - len(shape)
    x = normal(shape, seed)
    y = op(Tensor(x), dim).data
    for row, expected in zip(in_columns(y, dim), in_columns(x, dim), strict=True):
        np.testing.assert_allclose(row, of_row(expected), rtol=1e-12, atol=1e-14)
    check_gradients(lambda t: op(t, dim), x, seed=seed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_give_exact_answers_without_a_warning(dtype):
    x = Tensor(np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype), requires_grad=True)
    y, log_y = ops.softmax(x, 1), ops.log_softmax(x, 1)
    np.testing.assert_allclose(y.data, [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(log_y.data, [[0, -2e4, -1e4], [-math.log(3)] * 3], rtol=1e-6)
    (y.sum() + log_y.sum()).backward()
    # Σ softmax is constant, and ∂Σ log-softmax/∂xᵢ = 1 − n·softmaxᵢ.
    np.testing.assert_allclose(x.grad, [[-2, 1, 1], [0, 0, 0]], atol=1e-6)
    assert y.dtype == log_y.dtype == x.grad.dtype == dtype


@given(shape=SHAPES, p=st.sampled_from([0.0, 0.25, 0.5, 0.9]), seed=strategies.seeds())
def test_dropout_scales_what_the_mask_keeps(shape, p, seed):
    x, mask = normal(shape, seed), stream(seed, 1).random(shape) >= p
    y = ops.dropout(Tensor(x), p, mask=mask).data
    for at in np.ndindex(shape):
        assert math.isclose(y[at], x[at] / (1 - p) if mask[at] else 0.0, rel_tol=1e-14)
    check_gradients(lambda t: ops.dropout(t, p, mask=mask), x, seed=seed)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2])
def test_a_probability_that_is_none_or_drops_all_is_refused(p):
    with pytest.raises(ValueError, match=f"dropout: p must satisfy 0 <= p < 1, got {p}"):
        ops.dropout(Tensor([1.0]), p, mask=np.array([True]))


@pytest.mark.parametrize("length", [1, 3])
def test_a_mask_of_another_shape_is_refused(length):
    with pytest.raises(ValueError, match=rf"dropout: mask must be an array of x's shape \(2,\), got \({length},\)"):
        ops.dropout(Tensor([1.0, 2.0]), 0.5, mask=np.ones(length, bool))


def test_single_precision_stays_single():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = ops.dropout(ops.relu(x), 0.3, mask=np.ones((2, 3), bool))
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32


@pytest.mark.parametrize("op", [ops.relu, lambda x: ops.softmax(x, 0), lambda x: ops.log_softmax(x, 1)])
def test_strided_inputs_give_what_contiguous_ones_give(op):
    x = away_from_zero(1, (3, 4))
    with no_grad():
        np.testing.assert_array_equal(op(Tensor(strided(x))).data, op(Tensor(x)).data)
    check_gradients(op, strided(x))
