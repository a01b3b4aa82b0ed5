"""The cross-entropy as an op: gradients, maps of one pixel, constants, and errors."""

import re

import numpy as np
import pytest
from hypothesis import given

from minifcn import Tensor, ops
from minifcn.testing import check_gradients, strategies
from minifcn.testing.data import normal
from minifcn_kernels import use_backend
from oracles import cross_entropy as oracle

backends = pytest.mark.parametrize("backend", ["numpy", "numba"])
REDUCTIONS = ("mean", "sum", "none")


@backends
@given(strategies.label_maps())
def test_the_gradient_of_cross_entropy_is_right(backend, case):
    with use_backend(backend):
        check_gradients(lambda z: ops.cross_entropy(z, **case.options), case.logits(), mode="directional")


@backends
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_of_logits_are_maps_of_one_pixel(backend, reduction):
    rows, target, mask = normal((5, 3)), np.array([0, 2, 255, 1, 1]), np.array([1.0, 0.5, 1, 0, 2])
    weight = np.array([1.0, 2.0, 3.0])
    options = {"weight": weight, "reduction": reduction}
    maps = {"target": target.reshape(5, 1, 1), "mask": mask.reshape(5, 1, 1)}
    tensor = Tensor(rows, requires_grad=True)
    with use_backend(backend):
        loss = ops.cross_entropy(tensor, target, mask=mask, **options)
        gy = np.asarray(normal(loss.shape, 1))
        loss.backward(gy)
    expected = oracle.softmax_cross_entropy(rows.reshape(5, 3, 1, 1), **maps, **options)
    np.testing.assert_allclose(loss.data, np.reshape(expected, loss.shape), rtol=1e-12)
    assert loss.shape == ((5,) if reduction == "none" else ())
    gy = gy.reshape(5, 1, 1) if reduction == "none" else gy
    expected = oracle.softmax_cross_entropy_grad(gy, rows.reshape(5, 3, 1, 1), **maps, **options)
    np.testing.assert_allclose(tensor.grad, expected.reshape(5, 3), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays(dtype):
    logits = Tensor(normal((1, 2, 3, 3)).astype(dtype), requires_grad=True)
    loss = ops.cross_entropy(logits, np.zeros((1, 3, 3), np.uint8))
    loss.backward()
    assert loss.dtype == logits.grad.dtype == dtype


def test_without_a_valid_pixel_loss_and_gradient_are_zero():
    logits = Tensor(normal((1, 2, 3, 3)), requires_grad=True)
    loss = ops.cross_entropy(logits, np.full((1, 3, 3), 255))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


LOGITS, ROWS = Tensor(np.zeros((2, 3, 4, 5))), Tensor(np.zeros((2, 3)))
TARGET, LABELS = np.zeros((2, 4, 5), np.int64), np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("logits", "target", "options", "error", "message"),
    [
        (Tensor(np.zeros((2, 3, 4))), TARGET, {}, ValueError, "must be (N, C, H, W) or (N, C), got shape (2, 3, 4)"),
        (ROWS, LABELS[:1], {}, ValueError, "cross_entropy: target must have shape (2,), got (1,)"),
        (ROWS, LABELS, {"mask": np.ones(3)}, ValueError, "cross_entropy: mask must have shape (2,), got (3,)"),
        (LOGITS, LABELS, {}, ValueError, "target must have the axes (N, H, W), got shape (2,)"),
        (LOGITS, TARGET, {"weight": np.ones(3, np.float32)}, TypeError, "logits is float64 but weight is float32"),
        (LOGITS, Tensor(np.zeros((2, 4, 5))), {}, TypeError, "target must be an integer array, got Tensor"),
        (LOGITS, TARGET + 3, {}, ValueError, "target[0, 0, 0] is 3, neither a class (0 … 2) nor ignore_index (255)"),
        (ROWS, LABELS, {"reduction": "max"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got 'max'"),
    ],
)
def test_bad_arguments_are_refused_by_name(logits, target, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ops.cross_entropy(logits, target, **options)
