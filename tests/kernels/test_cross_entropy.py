"""The softmax cross-entropy and its gradient: against the definition, at extreme logits, and where nothing counts."""

import re

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minifcn_kernels as kernels
from backends import backends
from geometry import LOGIT_SHAPES, SEEDS, normal
from minifcn.random import stream
from minifcn_kernels.cross_entropy.exponential import LEAST_FLOAT32, LEAST_FLOAT64, exponentials
from oracles import cross_entropy as oracle

REDUCTIONS = st.sampled_from(["mean", "sum", "none"])
TARGET_DTYPES = st.sampled_from([np.uint8, np.int16, np.int64])


def targets(seed, shape, dtype):
    """Classes for logits of ``shape``, and 255 at about every fourth pixel."""
    N, C, H, W = shape
    target = stream(seed).integers(0, C, (N, H, W))
    return np.where(stream(seed, 1).random((N, H, W)) < 0.25, 255, target).astype(dtype)


@st.composite
def cases(draw):
    """Return logits, target, options, and a cotangent of the result."""
    shape, seed = draw(LOGIT_SHAPES), draw(SEEDS)
    N, C, H, W = shape
    options = {"reduction": draw(REDUCTIONS)}
    if draw(st.booleans()):
        options["weight"] = stream(seed, "weight").uniform(0.5, 2, C)
    if draw(st.booleans()):
        options["mask"] = stream(seed, "mask").uniform(0.5, 2, (N, H, W)) * stream(seed, "kept").integers(
            0, 2, (N, H, W)
        )
    gy = normal(seed + 1, (N, H, W) if options["reduction"] == "none" else ())
    return normal(seed, shape), targets(seed, shape, draw(TARGET_DTYPES)), options, np.asarray(gy)


@backends
@given(cases())
def test_loss_and_gradient_are_their_definition(backend, case):
    logits, target, options, gy = case
    with kernels.use_backend(backend):
        loss = kernels.softmax_cross_entropy(logits, target, **options)
        grad = kernels.softmax_cross_entropy_grad(gy, logits, target, **options)
    np.testing.assert_allclose(loss, oracle.softmax_cross_entropy(logits, target, **options), rtol=1e-12, atol=1e-12)
    expected = oracle.softmax_cross_entropy_grad(gy, logits, target, **options)
    np.testing.assert_allclose(grad, expected, rtol=1e-12, atol=1e-12)
    assert isinstance(loss, np.ndarray)
    assert loss.shape == gy.shape


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_neither_overflow_nor_lose_their_differences(backend, dtype):
    # Three pixels: the target is the winner, lies 20000 below it, and lies 1 below it at a height of 10000.
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4 - 1]], dtype).T.reshape(1, 2, 1, 3)
    target = np.array([0, 0, 1]).reshape(1, 1, 3)
    with kernels.use_backend(backend):
        loss = kernels.softmax_cross_entropy(logits, target, reduction="none")
        grad = kernels.softmax_cross_entropy_grad(np.ones((1, 1, 3), dtype), logits, target, reduction="none")
    np.testing.assert_allclose(loss[0, 0], [0, 2e4, 1 + np.log1p(np.exp(-1))], rtol=1e-6)
    p = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(grad[0, :, 0], [[0, -1, p], [0, 1, -p]], rtol=1e-6)


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("nothing", ["all ignored", "all masked", "class of weight 0", "empty batch"])
def test_where_nothing_counts_loss_and_gradient_are_zero(backend, dtype, reduction, nothing):
    logits, target = normal(0, (2, 3, 4, 5), dtype), np.ones((2, 4, 5), np.uint8)
    options = {"reduction": reduction}
    if nothing == "all ignored":
        target[:] = 255
    elif nothing == "all masked":
        options["mask"] = np.zeros(target.shape, dtype)
    elif nothing == "class of weight 0":
        options["weight"] = np.array([1, 0, 1], dtype)
    else:
        logits, target = logits[:0], target[:0]
    with kernels.use_backend(backend):
        loss = kernels.softmax_cross_entropy(logits, target, **options)
        grad = kernels.softmax_cross_entropy_grad(np.ones((), dtype), logits, target, **options)
    assert loss == 0
    assert loss.dtype == grad.dtype == dtype
    assert grad.shape == logits.shape
    assert not grad.any()


@backends
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_logits_show_where_they_count_and_nowhere_else(backend, bad):
    logits, target = normal(0, (1, 3, 2, 2)), np.array([[[0, 255], [1, 2]]])
    logits[0, 1, 0, :] = bad  # at a pixel that counts, and at one that is ignored
    with kernels.use_backend(backend), np.errstate(invalid="ignore"):  # NumPy warns of ∞ − ∞ when Numba's JIT is off
        loss = kernels.softmax_cross_entropy(logits, target, reduction="none")
        grad = kernels.softmax_cross_entropy_grad(np.ones((1, 2, 2)), logits, target, reduction="none")
    np.testing.assert_array_equal(np.isfinite(loss[0]), [[False, True], [True, True]])
    assert loss[0, 0, 1] == 0
    assert np.isnan(grad[0, :, 0, 0]).any()
    assert not grad[0, :, 0, 1].any()
    assert np.isfinite(grad[0, :, 1]).all()


@backends
def test_a_class_of_probability_zero_is_no_trouble(backend):
    logits = np.array([0.0, -np.inf, 0.0]).reshape(1, 3, 1, 1)
    target = np.zeros((1, 1, 1), np.int64)
    with kernels.use_backend(backend):
        assert kernels.softmax_cross_entropy(logits, target) == pytest.approx(np.log(2))
        grad = kernels.softmax_cross_entropy_grad(np.ones(()), logits, target)
    np.testing.assert_allclose(grad.ravel(), [-0.5, 0, 0.5])


@backends
def test_a_float32_mean_over_many_pixels_is_exact_to_float32(backend):
    # One logit pair in 250,000 pixels: a float32 running sum would be off in the third digit or so.
    logits = np.zeros((1, 2, 500, 500), np.float32)
    logits[:, 0] = 0.1
    with kernels.use_backend(backend):
        loss = kernels.softmax_cross_entropy(logits, np.zeros((1, 500, 500), np.uint8))
    assert loss == pytest.approx(np.log1p(np.exp(-0.1)), rel=2e-7)


@backends
def test_every_class_may_be_the_one_to_ignore(backend):
    logits = normal(0, (1, 2, 1, 2))
    with kernels.use_backend(backend):
        ignoring = kernels.softmax_cross_entropy(logits, np.array([[[0, 1]]]), ignore_index=1)
        alone = kernels.softmax_cross_entropy(logits[..., :1], np.array([[[0]]]))
        negative = kernels.softmax_cross_entropy(logits, np.array([[[0, -100]]]), ignore_index=-100)
    assert ignoring == alone == negative


@numba.njit
def exp_of_difference(y, x, largest):
    exponentials(y, x, largest)


@pytest.mark.parametrize(("dtype", "least"), [(np.float32, LEAST_FLOAT32), (np.float64, LEAST_FLOAT64)])
def test_an_exponential_is_right_to_one_and_a_half_units_in_the_last_place(dtype, least):
    # Everywhere down to the smallest normal number, dense near 0, and where the series' argument jumps.
    random = stream(0, "exponentials")
    jumps = np.log(2) * (np.arange(int(least / np.log(2)), 0) + 0.5)
    numbers = [random.uniform(0.999 * least, 0, 3000), -np.logspace(-30, 0, 3000), jumps, jumps * (1 + 2.0**-20)]
    x = np.concatenate(numbers).astype(dtype)
    y = np.empty_like(x)
    exp_of_difference(y, x, np.zeros_like(x))
    exact = np.exp(x.astype(np.longdouble))  # 11 bits more than float64
    assert (np.abs(y - exact) <= 1.5 * np.spacing(exact.astype(dtype))).all()


@pytest.mark.parametrize(("dtype", "least"), [(np.float32, LEAST_FLOAT32), (np.float64, LEAST_FLOAT64)])
def test_an_exponential_keeps_nan_and_makes_zero_of_what_is_no_normal_number(dtype, least):
    x = np.array([0, -0.0, np.nan, -np.inf, 1.001 * least, np.finfo(dtype).min, least, 0.999 * least], dtype)
    y = np.empty_like(x)
    exp_of_difference(y, x, np.zeros_like(x))
    np.testing.assert_array_equal(y[:-2], [1, 1, np.nan, 0, 0, 0])
    assert y[-2] == pytest.approx(np.finfo(dtype).tiny, rel=1e-5, abs=0)  # `least` has been rounded
    assert y[-1] >= np.finfo(dtype).tiny


Z, T = np.zeros((2, 3, 4, 5)), np.zeros((2, 4, 5), np.int64)


@backends
@pytest.mark.parametrize(
    ("bad", "dtype"), [(3, np.uint8), (-1, np.int64), (254, np.uint8), (-100, np.int16), (2**40, np.int64)]
)
def test_a_target_that_is_no_class_is_refused_with_its_place(backend, bad, dtype):
    target = T.astype(dtype)
    target[1, 2, 3] = bad
    target[1, 3, 0] = bad
    message = re.escape(f"target[1, 2, 3] is {bad}, neither a class (0 … 2) nor ignore_index (255)")
    with kernels.use_backend(backend):
        with pytest.raises(ValueError, match=message):
            kernels.softmax_cross_entropy(Z, target)
        with pytest.raises(ValueError, match=message):
            kernels.softmax_cross_entropy_grad(np.ones(()), Z, target)


@backends
@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        (T, {"reduction": "avg"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got 'avg'"),
        (T, {"weight": np.ones(2)}, ValueError, "weight with axes (C) has shape (2,), but logits says that C is 3"),
        (T, {"weight": np.ones(3, np.float32)}, TypeError, "logits is float64 but weight is float32"),
        (T, {"mask": T == 0}, TypeError, "mask must be float32 or float64, got bool"),
        (T, {"mask": np.ones((2, 4, 4))}, ValueError, "mask with axes (N, H, W) has shape (2, 4, 4)"),
        (T[0], {}, ValueError, "target must have the axes (N, H, W), got shape (4, 5)"),
        (T.astype(float), {}, TypeError, "target must hold integers, got float64"),
        (T.tolist(), {}, TypeError, "target must be a NumPy array with axes (N, H, W), got list"),
    ],
)
def test_bad_arguments_are_refused_by_name(backend, target, options, error, message):
    with kernels.use_backend(backend), pytest.raises(error, match=re.escape(message)):
        kernels.softmax_cross_entropy(Z, target, **options)


@backends
@pytest.mark.parametrize(
    ("gy", "reduction", "error", "message"),
    [
        (np.ones(1), "mean", ValueError, "gy must have shape (), got (1,)"),
        (np.ones(()), "none", ValueError, "gy must have shape (2, 4, 5), got ()"),
        (np.ones((), np.float32), "sum", TypeError, "logits is float64 but gy is float32"),
        (1.0, "mean", TypeError, "gy must be an array of shape (), like logits, got float"),
    ],
)
def test_a_cotangent_unlike_the_result_is_refused(backend, gy, reduction, error, message):
    with kernels.use_backend(backend), pytest.raises(error, match=re.escape(message)):
        kernels.softmax_cross_entropy_grad(gy, Z, T, reduction=reduction)
