"""Local response normalisation and its gradient: against the definition, and bad constants."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minifcn_kernels as kernels
from backends import backends
from geometry import SEEDS, normal
from oracles import local_response_norm as oracle


@st.composite
def cases(draw):
    """Return x, a cotangent, and the constants; the window may reach over the channels on both sides."""
    shape = draw(st.integers(1, 2)), draw(st.integers(1, 7)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    seed, size = draw(SEEDS), draw(st.integers(1, 8))
    alpha, beta, k = draw(st.floats(0, 3)), draw(st.floats(0, 2)), draw(st.floats(0.5, 2))
    return normal(seed, shape), normal(seed + 1, shape), (size, alpha, beta, k)


@backends
@given(cases())
def test_output_and_gradient_are_their_definition(backend, case):
    x, gy, constants = case
    with kernels.use_backend(backend):
        y = kernels.local_response_norm(x, *constants)
        gx = kernels.local_response_norm_grad(gy, x, *constants)
    np.testing.assert_allclose(y, oracle.local_response_norm(x, *constants), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gx, oracle.local_response_norm_grad(gy, x, *constants), rtol=1e-12, atol=1e-12)


@backends
def test_an_even_window_leans_to_the_lower_channels(backend):
    # With beta = 1, k = 1 and alpha = size, y is x / (1 + the squares in the window).
    x = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    with kernels.use_backend(backend):
        y = kernels.local_response_norm(x, 2, 2, 1, 1)
    np.testing.assert_allclose(y.ravel(), [1 / 2, 2 / 6, 3 / 14])


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_numbers_do_as_constants_and_the_dtype_stays(backend, dtype):
    x = normal(0, (1, 3, 2, 2), dtype)
    with kernels.use_backend(backend):
        y = kernels.local_response_norm(x, 3, 1, 1, 1)
        gx = kernels.local_response_norm_grad(x, x, 3, 1, 1, 1)
    assert y.dtype == gx.dtype == dtype
    np.testing.assert_allclose(y, oracle.local_response_norm(x, 3, 1, 1, 1), rtol=1e-6)
    np.testing.assert_allclose(gx, oracle.local_response_norm_grad(x, x, 3, 1, 1, 1), rtol=1e-5, atol=1e-6)


@backends
@pytest.mark.parametrize(
    ("constants", "error", "message"),
    [
        ((0, 1, 1, 1), ValueError, "size must be at least 1, got 0"),
        ((2.5, 1, 1, 1), TypeError, "size must be an int, got 2.5"),
        ((3, -1, 1, 1), ValueError, "alpha must not be negative, got -1"),
        ((3, np.nan, 1, 1), ValueError, "alpha must not be negative, got nan"),
        ((3, 1, 1, 0), ValueError, "k must be positive, got 0"),
    ],
)
def test_bad_constants_are_refused_by_name(backend, constants, error, message):
    x = np.zeros((1, 3, 2, 2))
    with kernels.use_backend(backend):
        with pytest.raises(error, match=re.escape(message)):
            kernels.local_response_norm(x, *constants)
        with pytest.raises(error, match=re.escape(message)):
            kernels.local_response_norm_grad(x, x, *constants)
