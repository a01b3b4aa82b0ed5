"""Crop and fuse: their gradients, and which inputs get one."""

import numpy as np
import pytest
from hypothesis import given

from differences import assert_gradient
from geometry import SEEDS, crops, normal, whole
from minifcn import Tensor, ops
from minifcn_kernels import use_backend

backends = pytest.mark.parametrize("backend", ["numpy", "numba"])


@backends
@given(crops(), SEEDS)
def test_crop_agrees_with_central_differences(backend, geometry, seed):
    x_shape, offset, size = geometry
    x, gy = whole(seed, x_shape), whole(seed + 1, (*x_shape[:2], *size))
    tensor = Tensor(x, requires_grad=True)
    with use_backend(backend):
        ops.crop(tensor, offset, size).backward(gy)
        assert_gradient(tensor.grad, lambda x: ops.crop(Tensor(x), offset, size).data, x, gy)


@backends
@given(crops(), SEEDS)
def test_fuse_agrees_with_central_differences_in_both_inputs(backend, geometry, seed):
    fine_shape, offset, size = geometry
    fine, coarse = normal(seed, fine_shape), normal(seed + 1, (*fine_shape[:2], *size))
    gy = normal(seed + 2, coarse.shape)
    tensors = Tensor(coarse, requires_grad=True), Tensor(fine, requires_grad=True)
    with use_backend(backend):
        y = ops.fuse(*tensors, offset)
        y.backward(gy)
        assert_gradient(tensors[0].grad, lambda c: ops.fuse(Tensor(c), Tensor(fine), offset).data, coarse, gy)
        assert_gradient(tensors[1].grad, lambda f: ops.fuse(Tensor(coarse), Tensor(f), offset).data, fine, gy)
    assert not np.shares_memory(tensors[0].grad, gy)


@backends
def test_fuse_of_one_tensor_with_itself_adds_both_gradients(backend):
    x = Tensor(normal(0, (1, 1, 3, 3)), requires_grad=True)
    with use_backend(backend):
        ops.fuse(x, x, 0).backward(np.ones((1, 1, 3, 3)))
    np.testing.assert_array_equal(x.grad, np.full((1, 1, 3, 3), 2.0))


@pytest.mark.parametrize("which", [0, 1])
def test_fuse_gives_a_gradient_only_to_the_input_that_wants_one(which):
    coarse, fine = (Tensor(normal(i, (1, 2, 3, 3)), requires_grad=i == which) for i in (0, 1))
    ops.fuse(coarse, fine, (0, 0)).backward(np.ones((1, 2, 3, 3)))
    assert [coarse.grad is not None, fine.grad is not None] == [which == 0, which == 1]
