"""Local response normalisation as an op."""

import pytest
from hypothesis import given

from minifcn import ops
from minifcn.testing import check_gradients, strategies
from minifcn_kernels import use_backend


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@given(strategies.normalisations())
def test_the_gradient_of_local_response_norm_is_right(backend, case):
    with use_backend(backend):
        check_gradients(lambda x: ops.local_response_norm(x, **case.options), case.array(), mode="directional")
