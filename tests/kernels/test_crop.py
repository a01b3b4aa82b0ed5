"""Crop, its gradient and fuse: against the definition, each other, and rectangles that do not fit."""

import re

import numpy as np
import pytest
from hypothesis import given

import minifcn_kernels as kernels
from backends import backends
from geometry import SEEDS, crops, normal, whole
from oracles import crop as oracle


@backends
@given(crops(), SEEDS)
def test_all_three_are_their_definition(backend, geometry, seed):
    x_shape, offset, size = geometry
    x, gy = normal(seed, x_shape), normal(seed + 1, (*x_shape[:2], *size))
    with kernels.use_backend(backend):
        np.testing.assert_array_equal(kernels.crop(x, offset, size), oracle.crop(x, offset, size))
        np.testing.assert_array_equal(kernels.crop_grad(gy, offset, x_shape), oracle.crop_grad(gy, offset, x_shape))
        np.testing.assert_array_equal(kernels.fuse(gy, x, offset), oracle.fuse(gy, x, offset))


@backends
@given(crops(), SEEDS)
def test_the_adjoint_is_exact_on_whole_numbers(backend, geometry, seed):
    x_shape, offset, size = geometry
    x, gy = whole(seed, x_shape), whole(seed + 1, (*x_shape[:2], *size))
    with kernels.use_backend(backend):
        assert np.vdot(kernels.crop(x, offset, size), gy) == np.vdot(x, kernels.crop_grad(gy, offset, x_shape))


@backends
@pytest.mark.parametrize(
    ("offset", "size", "error", "message"),
    [
        ((1, 0), (4, 5), ValueError, "offset (1, 0) and size (4, 5) reach to row 5 and column 5, but the map has 4×5"),
        ((0, 3), (4, 3), ValueError, "offset (0, 3) and size (4, 3) reach to row 4 and column 6, but the map has 4×5"),
        ((-1, 0), (2, 2), ValueError, "offset must be at least 0, got (-1, 0)"),
        ((0, 0), (0, 2), ValueError, "size must be at least 1, got (0, 2)"),
        ((0.5, 0), (2, 2), TypeError, "offset must be an int or a pair of ints (h, w), got (0.5, 0)"),
        (0, "4", TypeError, "size must be an int or a pair of ints (h, w), got '4'"),
    ],
)
def test_a_rectangle_that_does_not_fit_is_refused(backend, offset, size, error, message):
    with kernels.use_backend(backend), pytest.raises(error, match=re.escape(message)):
        kernels.crop(np.zeros((1, 2, 4, 5)), offset, size)


@backends
def test_fuse_refuses_maps_that_do_not_meet(backend):
    coarse, fine = np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 4, 4))
    with kernels.use_backend(backend):
        with pytest.raises(ValueError, match=re.escape("offset (2, 0) and size (3, 3) reach to row 5 and column 3")):
            kernels.fuse(coarse, fine, (2, 0))
        with pytest.raises(ValueError, match="coarse says that C is 2"):
            kernels.fuse(coarse, fine[:, :1], 0)


@backends
def test_crop_grad_refuses_a_cotangent_that_does_not_fit(backend):
    gy = np.zeros((1, 2, 3, 3))
    with kernels.use_backend(backend):
        with pytest.raises(ValueError, match=re.escape("reach to row 5 and column 4, but the map has 4×4")):
            kernels.crop_grad(gy, (2, 1), (1, 2, 4, 4))
        with pytest.raises(ValueError, match=re.escape("gy must have shape (2, 2, 3, 3), got (1, 2, 3, 3)")):
            kernels.crop_grad(gy, 0, (2, 2, 4, 4))
        with pytest.raises(ValueError, match=re.escape("the shape of the map must have four axes, got (4, 4)")):
            kernels.crop_grad(gy, 0, (4, 4))
