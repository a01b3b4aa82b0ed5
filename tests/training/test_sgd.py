"""SGD against the rule of its docstring, written as loops over Python numbers; and what it leaves alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, nn, ops
from minifcn.training import SGD

SHAPES = [(), (3,), (2, 1, 3, 2)]
LARGE = (70, 1000)  # more than the 2¹⁶ elements that are updated at a time, and no multiple of them


class Net(nn.Module):
    def __init__(self, arrays, multipliers):
        for i, (array, (lr, decay)) in enumerate(zip(arrays, multipliers, strict=True)):
            setattr(self, f"p{i}", nn.Parameter(array, lr_multiplier=lr, decay_multiplier=decay))


def naive_step(parameters, velocities, grads, multipliers, lr, momentum, weight_decay, clip_norm):
    """One step over nested lists of numbers, all flat: p[i][j] is element j of parameter i."""
    norm = math.sqrt(math.fsum(g * g for grad in grads for g in grad))
    scale = 1.0 if clip_norm is None else min(1.0, clip_norm / norm)
    for p, v, grad, (lr_multiplier, decay_multiplier) in zip(parameters, velocities, grads, multipliers, strict=True):
        for j, g in enumerate(grad):
            v[j] = momentum * v[j] + scale * g + weight_decay * decay_multiplier * p[j]
            p[j] = p[j] - lr * lr_multiplier * v[j]
    return norm


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@given(
    seed=st.integers(0, 2**32 - 1),
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
    lr=st.sampled_from([0.0, 0.1, 1.5]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.05]),
    clip_norm=st.sampled_from([None, 0.3, 1e3]),
)
def test_three_steps_agree_with_the_rule(dtype, tolerance, seed, shapes, lr, momentum, weight_decay, clip_norm):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    multipliers = [(float(rng.choice([0.5, 1, 2])), float(rng.choice([0, 1, 3]))) for _ in shapes]
    expected = [array.ravel().tolist() for array in arrays]
    velocities = [[0.0] * array.size for array in arrays]
    net = Net(arrays, multipliers)
    sgd = SGD(net, lr, momentum, weight_decay, clip_norm)
    for _ in range(3):
        for parameter in net.parameters():
            parameter.grad = rng.standard_normal(parameter.shape).astype(dtype)
        grads = [parameter.grad.ravel().tolist() for parameter in net.parameters()]
        norm = naive_step(expected, velocities, grads, multipliers, lr, momentum, weight_decay, clip_norm)
        assert sgd.step() == pytest.approx(norm, rel=1e-6)
    for parameter, numbers, name, v in zip(net.parameters(), expected, sgd.state_dict(), velocities, strict=True):
        assert parameter.dtype == dtype
        np.testing.assert_allclose(parameter.data.ravel(), numbers, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(sgd.state_dict()[name].ravel(), v, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", [lambda a: a, lambda a: a.T, lambda a: a[::2, ::-1], lambda a: a.reshape(-1)])
def test_every_element_of_a_large_parameter_moves_whatever_its_layout(layout):
    array = np.zeros(LARGE, np.float32)
    parameter = nn.Parameter(layout(array))
    parameter.grad = np.arange(parameter.data.size, dtype=np.float32).reshape(parameter.shape)
    norm = SGD([parameter], lr=0.5, momentum=0).step()
    np.testing.assert_array_equal(parameter.data, -0.5 * parameter.grad)
    assert np.shares_memory(parameter.data, array)
    n = parameter.data.size
    assert norm == pytest.approx(math.sqrt((n - 1) * n * (2 * n - 1) / 6), rel=1e-12)  # Σ i² for i < n


def test_the_layers_biases_learn_twice_as_fast_and_do_not_decay():
    conv = nn.Conv2d(1, 1, 1, rng=np.random.default_rng(0))  # FCN §4.3
    conv.weight.data[...] = conv.bias.data[...] = 1
    conv.weight.grad, conv.bias.grad = np.ones((1, 1, 1, 1), np.float32), np.ones(1, np.float32)
    SGD(conv, lr=0.25, momentum=0, weight_decay=1).step()
    assert conv.weight.data.item() == 1 - 0.25 * (1 + 1)
    assert conv.bias.data.item() == 1 - 2 * 0.25


def test_a_fixed_parameter_gets_no_gradient_and_never_moves():
    fixed, free = nn.Parameter([1.0], lr_multiplier=0), nn.Parameter([1.0])
    sgd = SGD([fixed, free], lr=0.1, weight_decay=0.5)
    (fixed * free).sum().backward()
    sgd.step()
    assert fixed.data == 1
    assert free.data != 1
    assert list(sgd.state_dict()) == ["1"]


def test_a_parameter_without_gradient_keeps_its_value_and_its_velocity():
    parameter, other = nn.Parameter([1.0]), nn.Parameter([1.0])
    sgd = SGD([parameter, other], lr=1, momentum=0.5, weight_decay=0.5)
    parameter.grad = other.grad = np.ones(1, np.float32)
    sgd.step()
    before, velocity = parameter.data.copy(), sgd.state_dict()["0"].copy()
    parameter.zero_grad()
    sgd.step()
    np.testing.assert_array_equal(parameter.data, before)
    np.testing.assert_array_equal(sgd.state_dict()["0"], velocity)


def test_the_learning_rate_may_change_between_steps():
    parameter = nn.Parameter(np.zeros(1, np.float32))
    sgd = SGD([parameter], lr=1.0, momentum=0.0)
    parameter.grad = np.ones(1, np.float32)
    for lr in (1.0, 0.5, 0.25):
        sgd.lr = lr
        sgd.step()
    assert parameter.data == -1.75


def test_a_numpy_number_for_the_learning_rate_gives_the_same_bits_as_a_python_one():
    grad = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    moved = []
    for lr in (0.1, np.float64(0.1)):
        parameter = nn.Parameter(np.ones(1000, np.float32))
        parameter.grad = grad
        SGD([parameter], lr=lr).step()
        moved.append(parameter.data.tobytes())
    assert moved[0] == moved[1]


@pytest.mark.parametrize(("clip_norm", "length"), [(None, 5), (10, 5), (5, 5), (1, 1)])
def test_clipping_shortens_the_whole_gradient_and_never_lengthens_it(clip_norm, length):
    first, second = nn.Parameter(np.zeros(1, np.float32)), nn.Parameter(np.zeros(1, np.float32))
    first.grad, second.grad = np.full(1, 3, np.float32), np.full(1, -4, np.float32)
    assert SGD([first, second], lr=1, clip_norm=clip_norm).step() == 5
    np.testing.assert_allclose([first.data[0], second.data[0]], [-3 / 5 * length, 4 / 5 * length], rtol=1e-6)
    assert (first.grad, second.grad) == (3, -4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_refused_and_nothing_moves(bad):
    first, second = nn.Parameter([1.0]), nn.Parameter([1.0, 2.0])
    sgd = SGD([first, second], lr=1, clip_norm=1)
    first.grad, second.grad = np.ones(1, np.float32), np.array([0, bad], np.float32)
    with pytest.raises(FloatingPointError, match=r"the norm of the gradient is (nan|inf)"):
        sgd.step()
    assert first.data == 1
    assert sgd.state_dict() == {}


def test_the_norm_of_large_float32_gradients_does_not_overflow():
    parameter = nn.Parameter(np.zeros(4, np.float32))
    parameter.grad = np.full(4, 1e30, np.float32)
    assert SGD([parameter], lr=1e-30, clip_norm=1).step() == pytest.approx(2e30)


def test_backward_after_a_step_refuses_the_changed_weights():
    parameter = nn.Parameter([2.0])
    sgd = SGD([parameter], lr=0.1)
    parameter.grad = np.ones(1, np.float32)
    loss = (parameter * parameter).sum()
    sgd.step()
    with pytest.raises(RuntimeError, match="changed after"):
        loss.backward()


def test_a_restored_optimizer_takes_the_same_steps_bit_for_bit():
    def three_steps(net, sgd, rng):
        for _ in range(3):
            sgd.zero_grad()
            y = net(Tensor(rng.standard_normal((2, 3, 4, 4)).astype(np.float32)))
            (y * y).sum().backward()
            sgd.step()

    def build():
        net = nn.Conv2d(3, 2, 3, rng=np.random.default_rng(0))
        return net, SGD(net, lr=0.01, weight_decay=0.1)

    net, sgd = build()
    three_steps(net, sgd, np.random.default_rng(1))
    twin, twin_sgd = build()
    twin.load_state_dict(net.state_dict())
    twin_sgd.load_state_dict(sgd.state_dict())
    assert list(twin_sgd.state_dict()) == ["weight", "bias"]
    three_steps(net, sgd, np.random.default_rng(2))
    three_steps(twin, twin_sgd, np.random.default_rng(2))
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(twin.state_dict()[name], array)
        assert not np.shares_memory(twin_sgd.state_dict()[name], sgd.state_dict()[name])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"score.weight": np.zeros(1)}, "unexpected: score.weight"),
        ({"weight": np.zeros(3)}, r"of another shape: weight \(given \(3,\), expected \(2, 3, 1, 1\)\)"),
    ],
)
def test_velocities_of_another_net_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        SGD(nn.Conv2d(3, 2, 1), lr=0.1).load_state_dict(state)


def test_zero_grad_forgets_every_gradient():
    net = nn.Conv2d(1, 1, 1)
    ops.sum(net(Tensor(np.ones((1, 1, 2, 2), np.float32)))).backward()
    SGD(net, lr=0.1).zero_grad()
    assert net.weight.grad is None
    assert net.bias.grad is None


SHARED = nn.Parameter([1.0])


@pytest.mark.parametrize(
    ("parameters", "options", "error", "message"),
    [
        ([SHARED], {"lr": -0.1}, ValueError, "SGD: lr must satisfy 0 <= lr, got -0.1"),
        ([SHARED], {"lr": math.nan}, ValueError, "lr must .* got nan"),
        ([SHARED], {"lr": 1, "momentum": 1.0}, ValueError, "momentum must satisfy 0 <= momentum < 1, got 1.0"),
        ([SHARED], {"lr": 1, "weight_decay": -1}, ValueError, "weight_decay must satisfy 0 <= weight_decay, got -1"),
        ([SHARED], {"lr": 1, "clip_norm": 0}, ValueError, "clip_norm must satisfy clip_norm > 0, or None, got 0"),
        ([], {"lr": 1}, ValueError, "no parameter"),
        (nn.ReLU(), {"lr": 1}, ValueError, "no parameter"),
        ([SHARED, SHARED], {"lr": 1}, ValueError, "given twice"),
        ([SHARED, Tensor([1.0])], {"lr": 1}, TypeError, "parameter 1 must be an nn.Parameter, got Tensor"),
    ],
)
def test_bad_arguments_are_named(parameters, options, error, message):
    with pytest.raises(error, match=message):
        SGD(parameters, **options)
