"""Bilinear upsampling against the paper's formula, as the adjoint of a convolution, and what it costs."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, fcn, no_grad, ops
from minifcn.random import stream
from minifcn.testing import strategies
from whole_nets import in_float64

factors = st.integers(1, 5)
sides = st.integers(1, 5)


def interpolated(x, row, column):
    """The paper's double sum at a point of the map x (H, W), both coordinates between two pixels or on one."""
    total = 0.0
    for alpha in (0, 1):
        for beta in (0, 1):
            i, j = math.floor(row) + alpha, math.floor(column) + beta
            share = abs(1 - alpha - (row % 1)) * abs(1 - beta - (column % 1))
            total += float(share) * x[i, j] if share else 0.0
    return total


def source(output, factor, kernel):
    """Where an output pixel lies in the input: i/f for odd kernels, (i + ½)/f − ½ for even ones.

    i counts from the output over input pixel 0 (f − 1 pixels from the edge), for even kernels from f/2 − ½ before it.
    """
    if kernel == 2 * factor - 1:
        return Fraction(output - (factor - 1), factor)
    i = output - Fraction(factor, 2)
    return (i + Fraction(1, 2)) / factor - Fraction(1, 2)


@given(fs=st.tuples(factors, factors), odd=st.tuples(st.booleans(), st.booleans()), size=st.tuples(sides, sides),
       channels=st.integers(1, 3), learned=st.booleans(), seed=strategies.seeds())  # fmt: skip
def test_the_interior_is_the_interpolation_formula(fs, odd, size, channels, learned, seed):
    kernels = tuple(2 * f - 1 if o else 2 * f for f, o in zip(fs, odd, strict=True))
    layer = in_float64(fcn.bilinear_upsampling(channels, kernels, fs, learned=learned))
    x = stream(seed).standard_normal((2, channels, *size))
    with no_grad():
        y = layer(Tensor(x)).data
    checked = 0
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            at = source(i, fs[0], kernels[0]), source(j, fs[1], kernels[1])
            if all(0 <= a <= side - 1 for a, side in zip(at, size, strict=True)):
                checked += 1
                for n in range(2):
                    for c in range(channels):
                        assert y[n, c, i, j] == pytest.approx(interpolated(x[n, c], *at), abs=1e-6)
    # Between the centres of `side` input pixels lie f(side − 1) + 1 outputs of an odd kernel, f(side − 1) of an even.
    assert checked == math.prod(f * (side - 1) + o for f, o, side in zip(fs, odd, size, strict=True))


@given(f=factors, even=st.booleans(), size=st.tuples(sides, sides))
def test_constants_are_kept_in_the_interior(f, even, size):
    layer = fcn.bilinear_upsampling(2, 2 * f - 1 + even, f)
    with no_grad():
        y = layer(Tensor(np.full((1, 2, *size), 3.0, np.float32))).data
    margin = f - 1 + even  # pixels that only one input pixel along this axis reaches
    inside = y[:, :, margin : y.shape[2] - margin, margin : y.shape[3] - margin]
    np.testing.assert_allclose(inside, 3, rtol=1e-6)


@given(f=factors, even=st.booleans(), size=st.tuples(sides, sides), channels=st.integers(1, 3), seed=strategies.seeds())
def test_the_adjoint_is_the_downsampling_convolution(f, even, size, channels, seed):
    """⟨up(x), y⟩ = ⟨x, down(y)⟩: the same filters, as a convolution of stride f."""
    layer = in_float64(fcn.bilinear_upsampling(channels, 2 * f - 1 + even, f))
    x = stream(seed, "x").standard_normal((2, channels, *size))
    with no_grad():
        up = layer(Tensor(x))
        y = stream(seed, "y").standard_normal(up.shape)
        down = ops.conv2d(Tensor(y), layer.weight, stride=f, groups=channels)
    assert down.shape == x.shape
    assert np.vdot(up.data, y) == pytest.approx(np.vdot(x, down.data), rel=1e-12, abs=1e-12)


@given(f=factors, even=st.booleans(), size=st.tuples(sides, sides), channels=st.integers(1, 4), seed=strategies.seeds())
def test_fixed_upsampling_of_c_channels_costs_c_filters_and_gives_what_c_squared_give(f, even, size, channels, seed):
    k, C = 2 * f - 1 + even, channels
    fixed, learned = (fcn.bilinear_upsampling(C, k, f, learned=learned) for learned in (False, True))
    assert (fixed.weight.shape, learned.weight.shape) == ((C, 1, k, k), (C, C, k, k))
    x = Tensor(stream(seed).standard_normal((1, C, *size)).astype(np.float32))
    with no_grad():
        np.testing.assert_allclose(fixed(x).data, learned(x).data, rtol=1e-5, atol=1e-5)


def test_only_learned_upsampling_gets_a_gradient():
    x = Tensor(stream(0).standard_normal((1, 2, 3, 3)).astype(np.float32), requires_grad=True)
    for learned in (False, True):
        layer = fcn.bilinear_upsampling(2, 3, 2, learned=learned)
        layer(x).sum().backward()
        assert (layer.weight.grad is not None) == learned


def test_an_empty_batch_and_a_factor_of_one():
    assert fcn.bilinear_upsampling(2, (4, 3), 2)(Tensor(np.zeros((0, 2, 3, 3), np.float32))).shape == (0, 2, 8, 7)
    x = Tensor(stream(0).standard_normal((1, 2, 3, 4)).astype(np.float32))
    np.testing.assert_array_equal(fcn.bilinear_upsampling(2, 1, 1)(x).data, x.data)


@pytest.mark.parametrize("kernel", [1, 2, 5, 64])
def test_a_kernel_that_would_ripple_is_refused(kernel):
    with pytest.raises(ValueError, match=f"kernel_size for a factor of 2 must be 3 or 4, got {kernel}"):
        fcn.bilinear_upsampling(1, kernel, 2)


def test_no_channels_are_refused():
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        fcn.bilinear_upsampling(0, 3, 2)
