"""Local response normalisation as an op."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from differences import assert_gradient
from geometry import SEEDS, normal
from minifcn import Tensor, ops
from minifcn_kernels import use_backend


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@given(st.tuples(*[st.integers(1, 4)] * 4), SEEDS, st.integers(1, 6))
def test_local_response_norm_agrees_with_central_differences(backend, shape, seed, size):
    x, gy = normal(seed, shape), normal(seed + 1, shape)
    constants = {"size": size, "alpha": 0.7, "beta": 0.75, "k": 1.5}
    tensor = Tensor(x, requires_grad=True)
    with use_backend(backend):
        ops.local_response_norm(tensor, **constants).backward(gy)
        assert_gradient(tensor.grad, lambda x: ops.local_response_norm(Tensor(x), **constants).data, x, gy)
