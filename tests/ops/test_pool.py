"""The pooling ops: their gradients, what forward keeps for backward, and their options."""

import numpy as np
import pytest
from hypothesis import given

from minifcn import Tensor, ops
from minifcn.testing import check_gradients, strategies
from minifcn.testing.data import normal
from minifcn_kernels import use_backend

backends = pytest.mark.parametrize("backend", ["numpy", "numba"])


def backward(op, x, gy, **options):
    """Return op's output and the gradient of x, as arrays."""
    x = Tensor(x, requires_grad=True)
    y = op(x, **options)
    y.backward(gy)
    return y.data, x.grad


@backends
@given(strategies.poolings())
def test_the_gradient_of_max_pool2d_is_right(backend, case):
    with use_backend(backend):
        check_gradients(lambda x: ops.max_pool2d(x, **case.max_options), case.array(), mode="directional")


@backends
@given(strategies.poolings(dilated=False))
def test_the_gradient_of_avg_pool2d_is_right(backend, case):
    with use_backend(backend):
        check_gradients(lambda x: ops.avg_pool2d(x, **case.avg_options), case.array(), mode="directional")


@backends
def test_of_equal_elements_the_first_gets_the_whole_gradient(backend):
    with use_backend(backend):
        _, gx = backward(ops.max_pool2d, np.ones((1, 1, 2, 4)), np.array([[[[5.0, 7.0]]]]), kernel_size=2)
    np.testing.assert_array_equal(gx[0, 0], [[5, 0, 7, 0], [0, 0, 0, 0]])


@backends
def test_an_element_that_wins_twice_gets_both_gradients(backend):
    x = np.array([[[[0.0, 9.0, 1.0]]]])
    with use_backend(backend):
        y, gx = backward(ops.max_pool2d, x, np.array([[[[5.0, 7.0]]]]), kernel_size=(1, 2), stride=1)
    np.testing.assert_array_equal(y, [[[[9, 9]]]])
    np.testing.assert_array_equal(gx, [[[[0, 12, 0]]]])


@pytest.mark.parametrize("op", [ops.max_pool2d, ops.avg_pool2d])
def test_the_stride_is_the_kernel_size_unless_told(op):
    x = Tensor(np.zeros((1, 1, 6, 6)))
    assert op(x, (2, 3)).shape == (1, 1, 3, 2)
    assert op(x, (2, 3), stride=1).shape == (1, 1, 5, 4)


@pytest.mark.parametrize("op", [ops.max_pool2d, ops.avg_pool2d])
def test_no_padding_no_dilation_and_no_window_over_the_edge_unless_told(op):
    x = np.arange(49.0).reshape(1, 1, 7, 7)
    y = op(Tensor(x), 3).data[0, 0]
    reduce = np.max if op is ops.max_pool2d else np.mean
    np.testing.assert_allclose(y, [[reduce(x[0, 0, i : i + 3, j : j + 3]) for j in (0, 3)] for i in (0, 3)])


def test_padding_counts_in_an_average_unless_told():
    y = ops.avg_pool2d(Tensor(np.ones((1, 1, 3, 3))), 3, padding=1).data
    np.testing.assert_allclose(y, [[[[4 / 9]]]])


@pytest.mark.parametrize("op", [ops.max_pool2d, ops.avg_pool2d])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays(op, dtype):
    y, gx = backward(op, normal((1, 1, 4, 4)).astype(dtype), np.ones((1, 1, 2, 2), dtype), kernel_size=2)
    assert y.dtype == gx.dtype == dtype


@pytest.mark.parametrize("op", [ops.max_pool2d, ops.avg_pool2d])
def test_backward_runs_on_the_backend_of_forward(op):
    """Forward in NumPy and backward outside the ``with``: bits as from NumPy's gradient."""
    x, gy = normal((1, 2, 7, 7)).astype(np.float32), normal((1, 2, 3, 3), 1).astype(np.float32)
    with use_backend("numpy"):
        _, expected = backward(op, x, gy, kernel_size=3, stride=2)
        tensor = Tensor(x, requires_grad=True)
        y = op(tensor, 3, stride=2)
    y.backward(gy)
    assert tensor.grad.tobytes() == expected.tobytes()
