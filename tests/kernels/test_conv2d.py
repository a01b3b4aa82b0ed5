"""Convolution and its two gradients: against the definition, against each other, and where they must refuse."""

import re
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

import minifcn_kernels as kernels
from backends import needs_emulator
from geometry import SEEDS, convolutions, normal, whole
from minifcn_kernels.conv2d.contract import backwards, conv_geometry
from oracles import conv as oracle

IMPLEMENTATIONS = (
    "numpy",
    "numba loops",
    pytest.param("emulator loops", marks=needs_emulator),  # output by output
    pytest.param("emulator direct", marks=needs_emulator),  # as a matrix product
)


@contextmanager
def implementation(name):
    backend, *algorithm = name.split()
    with ExitStack() as stack:
        stack.enter_context(kernels.use_backend(backend))
        for a in algorithm:
            stack.enter_context(kernels.use_algorithm(a))
        yield


def arrays(seed, g, make=normal, dtype=np.float64):
    """Return x, w, b and a cotangent gy for geometry g."""
    spatial = {name: value for name, value in g.options.items() if name != "groups"}
    y_shape = oracle.output_shape(g.x_shape, g.w_shape, **spatial)
    shapes = g.x_shape, g.w_shape, g.w_shape[:1], y_shape
    return tuple(make(seed + i, shape, dtype) for i, shape in enumerate(shapes))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@given(convolutions(), SEEDS)
def test_convolution_is_its_definition(name, g, seed):
    x, w, b, _ = arrays(seed, g)
    with implementation(name):
        np.testing.assert_allclose(
            kernels.conv2d(x, w, b, **g.options), oracle.conv2d(x, w, b, **g.options), rtol=1e-12, atol=1e-12
        )
        np.testing.assert_allclose(
            kernels.conv2d(x, w, **g.options), oracle.conv2d(x, w, **g.options), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@given(convolutions(), SEEDS)
def test_gradients_are_their_definition(name, g, seed):
    x, w, _, gy = arrays(seed, g)
    with implementation(name):
        gx = kernels.conv2d_grad_input(gy, w, g.x_shape, **g.options)
        gw = kernels.conv2d_grad_weight(x, gy, g.w_shape, **g.options)
    np.testing.assert_allclose(gx, oracle.conv2d_grad_input(gy, w, g.x_shape, **g.options), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gw, oracle.conv2d_grad_weight(x, gy, g.w_shape, **g.options), rtol=1e-12, atol=1e-12)


@given(convolutions(), SEEDS)
def test_the_input_gradient_is_the_convolution_backwards(g, seed):
    """Of gy, padded or cut off, with the filters turned by 180° and their channels exchanged."""
    g = replace(g, options=g.options | {"stride": (1, 1)})
    _, w, _, gy = arrays(seed, g, whole)
    back = backwards(conv_geometry(g.x_shape, g.w_shape, **g.options))
    padded = gy
    for axis, pad in ((2, back.padding[0]), (3, back.padding[1])):
        padded = np.pad(padded, [(max(pad, 0), max(pad, 0)) if a == axis else (0, 0) for a in range(4)])
        padded = padded.take(range(max(-pad, 0), padded.shape[axis] - max(-pad, 0)), axis)
    by_group = w.reshape(back.groups, -1, *w.shape[1:]).swapaxes(1, 2)
    turned = by_group.reshape(g.x_shape[1], -1, *w.shape[2:])[:, :, ::-1, ::-1]
    gx = oracle.conv2d(padded, turned, dilation=back.dilation, groups=back.groups)
    np.testing.assert_array_equal(gx, oracle.conv2d_grad_input(gy, w, g.x_shape, **g.options))
    assert gx.shape == (back.N, back.K, back.OH, back.OW)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@given(convolutions(), SEEDS)
def test_adjoints_hold_exactly_on_whole_numbers(name, g, seed):
    """⟨conv(x, w), gy⟩ = ⟨x, conv_grad_input(gy, w)⟩ = ⟨w, conv_grad_weight(x, gy)⟩."""
    x, w, _, gy = arrays(seed, g, whole)
    with implementation(name):
        forward = np.vdot(kernels.conv2d(x, w, **g.options), gy)
        assert forward == np.vdot(x, kernels.conv2d_grad_input(gy, w, g.x_shape, **g.options))
        assert forward == np.vdot(w, kernels.conv2d_grad_weight(x, gy, g.w_shape, **g.options))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        pytest.param((1, 2, 9, 9), (3, 2, 2, 2), {"stride": 4}, id="stride larger than the filter"),
        pytest.param((2, 3, 1, 1), (2, 3, 1, 1), {}, id="one by one"),
        pytest.param((0, 2, 5, 5), (3, 2, 3, 3), {"padding": 1}, id="batch of zero"),
        pytest.param((1, 4, 6, 6), (8, 1, 3, 3), {"groups": 4, "padding": 1}, id="groups = channels"),
        pytest.param(
            (1, 2, 13, 11), (2, 2, 3, 3), {"dilation": 3, "stride": 2, "padding": 2}, id="dilation and stride"
        ),
        pytest.param((1, 1, 5, 70), (2, 1, 3, 3), {"padding": 1}, id="rows longer than a vector"),
        pytest.param((1, 1, 2, 2), (1, 1, 3, 3), {"padding": 3}, id="windows of padding alone"),
        pytest.param((1, 1, 4, 3), (1, 1, 2, 3), {"stride": (1, 2), "padding": (0, 1), "dilation": (3, 1)}, id="pairs"),
    ],
)
def test_special_geometries_are_their_definition(name, x_shape, w_shape, options):
    spatial = {"stride": 1, "padding": 0, "dilation": 1} | options
    groups = spatial.pop("groups", 1)
    x, w, b = normal(1, x_shape), normal(2, w_shape), normal(3, w_shape[:1])
    gy = normal(4, oracle.output_shape(x_shape, w_shape, **spatial))
    with implementation(name):
        for actual, expected in (
            (kernels.conv2d(x, w, b, **options), oracle.conv2d(x, w, b, groups=groups, **spatial)),
            (
                kernels.conv2d_grad_input(gy, w, x_shape, **options),
                oracle.conv2d_grad_input(gy, w, x_shape, groups=groups, **spatial),
            ),
            (
                kernels.conv2d_grad_weight(x, gy, w_shape, **options),
                oracle.conv2d_grad_weight(x, gy, w_shape, groups=groups, **spatial),
            ),
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


X, W = np.zeros((1, 4, 5, 6)), np.zeros((6, 4, 3, 3))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, W), {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ((X, W), {"stride": (1, -2)}, ValueError, "stride must be at least 1, got (1, -2)"),
        ((X, W), {"stride": 1.5}, TypeError, "stride must be an int or a pair of ints (h, w), got 1.5"),
        ((X, W), {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ((X, W), {"padding": (1, 2, 3)}, TypeError, "padding must be an int or a pair of ints (h, w), got (1, 2, 3)"),
        ((X, W), {"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
        ((X, W), {"dilation": 3}, ValueError, "reaches over 7×7 pixels, more than the padded input has (5×6)"),
        (
            (X, W),
            {"dilation": (4, 2), "padding": (1, 0)},
            ValueError,
            "over 9×5 pixels, more than the padded input has (7×6)",
        ),
        (
            (X, W),
            {"dilation": (1, 4), "padding": (0, 1)},
            ValueError,
            "over 3×9 pixels, more than the padded input has (5×8)",
        ),
        ((X, W), {"groups": 3}, ValueError, "groups must divide the 4 input and 6 output channels, got 3"),
        ((X, W), {"groups": 0}, ValueError, "groups must divide the 4 input and 6 output channels, got 0"),
        ((X, W), {"groups": 2}, ValueError, "takes 4 × 2 groups = 8 input channels, but x of shape (1, 4, 5, 6) has 4"),
        ((X, W, np.zeros(5)), {}, ValueError, "b with axes (K) has shape (5,), but w says that K is 6"),
        ((X, W[0]), {}, ValueError, "w must have the axes (K, C/G, R, S), got shape (4, 3, 3)"),
    ],
)
def test_bad_arguments_are_refused_by_name(name, arguments, options, error, message):
    with implementation(name), pytest.raises(error, match=re.escape(message)):
        kernels.conv2d(*arguments, **options)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_cotangent_of_another_shape_is_refused(name):
    gy = np.zeros((1, 6, 3, 3))  # X and W give (1, 6, 3, 4)
    message = re.escape("gy must have shape (1, 6, 3, 4), got (1, 6, 3, 3)")
    with implementation(name):
        with pytest.raises(ValueError, match=message):
            kernels.conv2d_grad_input(gy, W, X.shape)
        with pytest.raises(ValueError, match=message):
            kernels.conv2d_grad_weight(X, gy, W.shape)
