"""Which dtype a tensor has, and that nothing changes it."""

import operator

import numpy as np
import pytest

from graphs import leaf
from minifcn import Tensor, ops

SCALARS = [2, 2.0, True, np.float32(2), np.float64(2), np.int64(2), np.int8(2), np.bool_(True)]
ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv]
DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        ([1, 2], np.float32),
        ([1.0, 2.0], np.float32),
        (3, np.float32),
        (3.0, np.float32),
        (True, np.float32),
        (np.arange(3), np.float32),
        (np.array([True]), np.float32),
        (np.ones(2, np.float16), np.float32),
        (np.ones(2, np.float32), np.float32),
        (np.ones(2), np.float64),
        (np.ones(()), np.float64),
        (np.float64(1), np.float64),
        (np.float32(1), np.float32),
    ],
)
def test_float_arrays_keep_their_dtype_and_all_else_becomes_float32(data, dtype):
    tensor = Tensor(data)
    assert type(tensor.data) is np.ndarray
    assert tensor.dtype == dtype
    assert tensor.shape == np.shape(data)
    assert tensor.ndim == np.ndim(data)


def test_a_float_array_is_not_copied():
    array = np.ones(3)
    assert Tensor(array).data is array
    assert Tensor(array).numpy() is array


@pytest.mark.parametrize("data", [[1j], ["a"], [None], [object()]])
def test_what_is_no_number_is_refused(data):
    with pytest.raises(TypeError, match="data must be numbers, got"):
        Tensor(data)


def test_a_tensor_of_a_tensor_is_refused():
    with pytest.raises(TypeError, match="is a Tensor already"):
        Tensor(Tensor([1.0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: f"{type(s).__name__}")
@pytest.mark.parametrize("op", ARITHMETIC)
def test_a_scalar_never_changes_the_dtype(op, scalar, dtype):
    array = np.array([1.0, 4.0], dtype)
    x = Tensor(array)
    for result, expected in ((op(x, scalar), op(array, dtype(scalar))), (op(scalar, x), op(dtype(scalar), array))):
        assert isinstance(result, Tensor)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result.data, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scalar", SCALARS[:2] + SCALARS[3:7], ids=lambda s: f"{type(s).__name__}")
def test_a_power_keeps_the_dtype(scalar, dtype):
    result = Tensor(np.array([1.0, 3.0], dtype)) ** scalar
    assert result.dtype == dtype
    assert result.data.tolist() == [1.0, 9.0]


@pytest.mark.parametrize("op", [*ARITHMETIC, operator.matmul])
def test_an_array_on_the_left_asks_the_tensor(op):
    array, x = np.array([[1.0, 2.0], [3.0, 4.0]]), leaf([5.0, 6.0], [7.0, 8.0])
    result = op(array, x)
    assert isinstance(result, Tensor)
    np.testing.assert_array_equal(result.data, op(array, x.data))
    assert result.requires_grad


@pytest.mark.parametrize("op", [*ARITHMETIC, operator.matmul])
def test_mixed_float_dtypes_are_refused(op):
    single, double = np.ones((2, 2), np.float32), np.ones((2, 2))
    message = r"mixes .*float(32|64).* and .*float(32|64).*; convert one"
    for a, b in ((Tensor(single), Tensor(double)), (Tensor(single), double), (double, Tensor(single))):
        with pytest.raises(TypeError, match=message):
            op(a, b)


@pytest.mark.parametrize("kind", [int, np.uint8, bool])
def test_an_array_of_no_floats_takes_the_tensors_dtype(kind):
    assert (Tensor([1.0]) + np.array([1], kind)).dtype == np.float32


def test_mixed_dtypes_are_named_in_the_order_of_the_operands():
    with pytest.raises(TypeError, match="Add: mixes float32 and float64 tensors"):
        Tensor(np.ones(1, np.float32)) + Tensor(np.ones(1))


@pytest.mark.parametrize("exponent", [np.ones(2), Tensor([1.0]), "2", None])
def test_a_power_of_something_else_than_a_number_is_refused(exponent):
    with pytest.raises(TypeError, match=r"pow: the exponent must be a number, got"):
        _ = leaf(1.0, 2.0) ** exponent


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", [Tensor.sum, Tensor.mean, Tensor.max, lambda x: x[1, 1]])
def test_reductions_return_arrays_without_axes_not_numpy_scalars(reduce, dtype):
    x = Tensor(np.ones((2, 2), dtype))
    y = reduce(x)
    assert type(y.data) is np.ndarray
    assert y.shape == ()
    assert y.dtype == dtype


def test_a_tensor_without_axes_stays_an_array_through_gradients_and_updates():
    x = Tensor(3.0, requires_grad=True)
    ((x * x) * 2.0 + x**2.0 - x / 4.0).backward()
    assert type(x.grad) is np.ndarray
    assert x.grad == 4 * 3 + 2 * 3 - 0.25
    x.data = x.data - 0.5 * x.grad  # NumPy makes a scalar of it
    assert type(x.data) is np.ndarray


def test_nan_propagates():
    x = Tensor([1.0, float("nan"), 3.0])
    for y in (x.sum(), x.mean(), x.max(), (x * 0.0).sum(), ops.relu(x).sum(), (x**2.0).max()):
        assert np.isnan(y.item())
