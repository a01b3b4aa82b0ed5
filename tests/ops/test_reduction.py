"""Sum, mean and max over every choice of axes: against plain loops and central differences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, ops
from minifcn.testing import check_gradients, strategies
from minifcn.testing.data import distinct, normal, strided, whole


@st.composite
def reductions(draw, smallest=1):
    """Return a shape, an axis choice and keepdim."""
    ndim = draw(st.integers(0, 4))
    shape = tuple(draw(st.integers(smallest, 3)) for _ in range(ndim))
    axes = draw(st.permutations(range(ndim)))[: draw(st.integers(0, ndim))]
    axes = tuple(axis - ndim * draw(st.booleans()) for axis in axes)
    dim = draw(st.sampled_from([None, axes, *axes]))
    return shape, dim, draw(st.booleans())


def groups(shape, dim, keepdim):
    """Return the reduced shape, and for each of its places the places of the numbers that go into it, in order."""
    reduced = set(range(len(shape))) if dim is None else {a % len(shape) for a in np.atleast_1d(dim).astype(int)}
    place = {}
    for at in np.ndindex(shape):
        key = tuple((0,) * keepdim if axis in reduced else (i,) for axis, i in enumerate(at))
        place.setdefault(sum(key, ()), []).append(at)
    kept = [((1,) * keepdim if axis in reduced else (size,)) for axis, size in enumerate(shape)]
    return sum(kept, ()), place


FOLDS = {"sum": math.fsum, "mean": lambda numbers: math.fsum(numbers) / len(numbers), "max": max}


@pytest.mark.parametrize("name", FOLDS)
@given(case=reductions(), seed=strategies.seeds())
def test_each_output_reduces_its_own_numbers(name, case, seed):
    shape, dim, keepdim = case
    x = normal(shape, seed)
    y = getattr(ops, name)(Tensor(x), dim, keepdim)
    expected_shape, places = groups(shape, dim, keepdim)
    assert y.shape == expected_shape
    for out, ins in places.items():
        assert math.isclose(y.data[out], FOLDS[name]([x[at] for at in ins]), rel_tol=1e-13, abs_tol=1e-13)


@pytest.mark.parametrize("name", FOLDS)
@given(case=reductions(), seed=strategies.seeds())
def test_the_gradient_of_a_reduction_is_right(name, case, seed):
    shape, dim, keepdim = case
    check_gradients(lambda x: getattr(x, name)(dim, keepdim), distinct(shape, seed), seed=seed)


@pytest.mark.parametrize("name", FOLDS)
def test_all_axes_are_reduced_and_none_is_kept_unless_told(name):
    x = Tensor(np.ones((2, 3)))
    for call in (getattr(ops, name), getattr(Tensor, name)):
        assert call(x).shape == ()
        assert call(x, 1).shape == (2,)


@given(case=reductions(), seed=strategies.seeds())
def test_the_first_of_equal_maxima_gets_the_gradient(case, seed):
    shape, dim, keepdim = case
    x = Tensor(whole(shape, seed), requires_grad=True)
    y = x.max(dim, keepdim)
    u = normal(y.shape, seed)
    y.backward(u)
    expected = np.zeros(shape)
    for out, ins in groups(shape, dim, keepdim)[1].items():
        expected[max(ins, key=lambda at: x.data[at])] = u[out]  # Python's max takes the first, too
    np.testing.assert_array_equal(x.grad, expected)


def test_a_nan_is_the_maximum_and_gets_the_gradient():
    x = Tensor(np.array([[1.0, np.nan, 9.0, np.nan], [1.0, 2.0, 3.0, 0.0]]), requires_grad=True)
    y = x.max(1)
    y.backward(np.array([5.0, 7.0]))
    assert np.isnan(y.data).tolist() == [True, False]
    assert x.grad.tolist() == [[0, 5, 0, 0], [0, 0, 7, 0]]


@pytest.mark.parametrize("name", FOLDS)
def test_a_batch_of_zero_has_reductions_and_gradients(name):
    x = Tensor(np.zeros((0, 3)), requires_grad=True)
    y = getattr(x, name)(1)
    y.backward(np.zeros(0))
    assert y.shape == (0,)
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("name", FOLDS)
def test_a_strided_input_is_reduced_like_a_contiguous_one(name):
    check_gradients(lambda x: getattr(x, name)((0, 2)), strided(distinct((2, 3, 2), 1)))


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize(
    ("shape", "dim", "message"),
    [
        ((2, 3), 2, "dim: axis 2 is out of bounds"),
        ((2, 3), (0, -3), "dim: axis -3 is out of bounds"),
        ((2, 3), (1, -1), "repeated axis in `dim`"),
        ((), 0, "dim: axis 0 is out of bounds"),
    ],
)
def test_a_dim_that_is_not_there_is_named(name, shape, dim, message):
    with pytest.raises(ValueError, match=message):
        getattr(Tensor(np.ones(shape)), name)(dim)


def test_sums_of_single_precision_stay_in_it():
    x = Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    x.mean().backward()
    assert x.grad.dtype == np.float32
