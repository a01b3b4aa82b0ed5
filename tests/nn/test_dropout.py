"""Dropout: its mask is a function of (seed, step, micro-batch, path) and of nothing else."""

import contextlib

import numpy as np
import pytest

from minifcn import Tensor, nn

X = Tensor(np.ones((4, 8, 5, 5), np.float32))


def masks(net, *moment):
    """Return for every dropout in ``net``, a chain, what it kept at this moment."""
    with nn.random_state(*moment):
        return [layer(X).data > 0 for _, layer in net.named_children()]


def two():
    return nn.Sequential({"drop6": nn.Dropout(0.5), "drop7": nn.Dropout(0.5)})


def test_the_same_moment_draws_the_same_mask_in_any_net_and_order():
    first, second = masks(two(), 1, 2, 3)
    masks(two(), 9, 9, 9)
    with nn.random_state(1, 2, 3):
        net = two()
        assert (net["drop7"](X).data > 0).tolist() == second.tolist()
        assert (net["drop6"](X).data > 0).tolist() == first.tolist()


@pytest.mark.parametrize("moment", [(2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2)])
def test_another_seed_step_or_microbatch_draws_another_mask(moment):
    for one, other in zip(masks(two(), 1, 2, 3), masks(two(), *moment), strict=True):
        assert 0.3 < (one == other).mean() < 0.7


def test_layers_at_different_paths_draw_different_masks():
    first, second = masks(two(), 1, 2, 3)
    assert 0.3 < (first == second).mean() < 0.7
    inner = nn.Sequential({"classifier": two()})
    with nn.random_state(1, 2, 3):
        moved = inner["classifier"]["drop6"](X).data > 0
    assert 0.3 < (first == moved).mean() < 0.7


def test_step_and_microbatch_begin_at_0():
    assert [m.tolist() for m in masks(two(), 5)] == [m.tolist() for m in masks(two(), 5, 0, 0)]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_the_rate_is_p_and_what_is_kept_is_scaled_to_keep_the_expectation(p):
    x = Tensor(np.full((100, 1000), 2.0, np.float32))
    with nn.random_state(7):
        y = nn.Dropout(p)(x).data
    kept = y != 0
    # The share of n independent draws has a standard deviation of √(p (1 − p) / n); four of them.
    assert abs(kept.mean() - (1 - p)) < 4 * np.sqrt(p * (1 - p) / y.size)
    np.testing.assert_allclose(y[kept], 2 / (1 - p), rtol=1e-6)


def test_the_gradient_passes_where_the_value_did():
    x = Tensor(np.ones((50,)), requires_grad=True)
    with nn.random_state(7):
        y = nn.Dropout(0.5)(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)


def test_single_and_double_precision_draw_the_same_mask():
    drop = nn.Dropout(0.5)
    with nn.random_state(3):
        single, double = (drop(Tensor(np.ones(100, dtype))).data for dtype in (np.float32, np.float64))
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(single, double)


def test_out_of_training_or_with_p_0_it_does_nothing_and_needs_no_moment():
    assert nn.Dropout(0.5).eval()(X) is X
    assert nn.Dropout(0)(X) is X


def test_training_outside_of_a_moment_is_refused():
    with pytest.raises(RuntimeError, match=r"must run inside `with nn.random_state\(seed, step\):`.*call eval"):
        nn.Dropout(0.5)(X)
    with contextlib.suppress(ZeroDivisionError), nn.random_state(1):
        1 / 0  # noqa: B018
    with pytest.raises(RuntimeError, match="random_state"):
        nn.Dropout(0.5)(X)


def test_moments_nest():
    drop = nn.Dropout(0.5)
    with nn.random_state(1):
        before = drop(X).data
        with nn.random_state(2):
            assert (drop(X).data != before).any()
        np.testing.assert_array_equal(drop(X).data, before)


@pytest.mark.parametrize("p", [-0.1, 1, 1.5, float("nan")])
def test_a_probability_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match=f"Dropout: p must satisfy 0 <= p < 1, got {p}"):
        nn.Dropout(p)
