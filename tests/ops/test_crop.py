"""Crop and fuse: their gradients, and which inputs get one."""

import numpy as np
import pytest
from hypothesis import given

from minifcn import Tensor, ops
from minifcn.testing import check_gradients, strategies
from minifcn.testing.data import normal
from minifcn_kernels import use_backend

backends = pytest.mark.parametrize("backend", ["numpy", "numba"])


@backends
@given(strategies.crops())
def test_the_gradient_of_crop_is_right(backend, case):
    with use_backend(backend):
        check_gradients(lambda x: ops.crop(x, case.offset, case.size), case.arrays()[0], mode="directional")


@backends
@given(strategies.crops())
def test_the_gradients_of_fuse_are_right(backend, case):
    fine, coarse = case.arrays()
    with use_backend(backend):
        check_gradients(lambda a, b: ops.fuse(a, b, case.offset), coarse, fine, mode="directional")


@backends
def test_fuse_of_one_tensor_with_itself_adds_both_gradients(backend):
    x = Tensor(normal((1, 1, 3, 3)), requires_grad=True)
    with use_backend(backend):
        ops.fuse(x, x, 0).backward(np.ones((1, 1, 3, 3)))
    np.testing.assert_array_equal(x.grad, np.full((1, 1, 3, 3), 2.0))


@pytest.mark.parametrize("which", [0, 1])
def test_fuse_gives_a_gradient_only_to_the_input_that_wants_one(which):
    coarse, fine = (Tensor(normal((1, 2, 3, 3), i), requires_grad=i == which) for i in (0, 1))
    ops.fuse(coarse, fine, (0, 0)).backward(np.ones((1, 2, 3, 3)))
    assert [coarse.grad is not None, fine.grad is not None] == [which == 0, which == 1]
