"""The engine: the walk back through the graph, its arguments, and what it checks."""

import contextlib

import numpy as np
import pytest

import minifcn_kernels as kernels
from graphs import Identity, leaf
from minifcn import Function, Tensor, nn, no_grad, ops

# --- the walk back ---------------------------------------------------------------------------------------------------


def test_a_tensor_used_twice_gets_both_gradients():
    x = leaf(3.0, -2.0)
    (x * x).backward(np.array([1.0, 10.0]))
    assert x.grad.tolist() == [6.0, -40.0]


def test_paths_that_meet_add_up_in_a_diamond():
    x = leaf(2.0)
    left, right = x * 3.0, x * 5.0
    (left * right).sum().backward()  # 15x²
    assert x.grad.tolist() == [60.0]


def test_a_ladder_of_diamonds_is_walked_once_per_function_not_once_per_path():
    x = y = leaf(1.0)
    for _ in range(200):  # 2²⁰⁰ paths
        y = y * 0.5 + y * 0.5
    y.sum().backward()
    assert x.grad.tolist() == [1.0]


def test_a_function_runs_backward_once_after_all_that_used_its_output():
    seen = []

    def pull(grad):
        seen.append(grad.copy())
        return (grad,)

    x = leaf(1.0)
    shared = Identity.apply(x, pull=pull)
    late = ((shared * 2.0) * 3.0) * 4.0
    (shared + late).sum().backward()
    assert [g.tolist() for g in seen] == [[25.0]]
    assert x.grad.tolist() == [25.0]


@pytest.mark.parametrize("first", ["near", "far"])
def test_the_order_of_operands_does_not_change_what_a_shared_input_gets(first):
    x = leaf(2.0)
    far = ((x * 2.0) + x) * x  # 3x²
    y = x + far if first == "near" else far + x
    y.sum().backward()
    assert x.grad.tolist() == [13.0]


def test_a_chain_of_ten_thousand_ops_runs_forward_and_backward():
    x = y = leaf(1.0)
    for _ in range(10_000):
        y = y + 1.0
    y.sum().backward()
    assert y.item() == 10_001
    assert x.grad.tolist() == [1.0]


def test_an_input_that_wants_no_gradient_gets_none_and_costs_none():
    x, constant = leaf(1.0), Tensor(np.array([5.0]))
    y = x * constant
    assert y._creator.needs == (True, False)
    y.backward(np.array([1.0]))
    assert constant.grad is None
    assert not (constant * constant).requires_grad


def test_a_branch_whose_backward_returns_none_gets_nothing():
    x, z = leaf(1.0), leaf(1.0)
    cut = Identity.apply(x * 2.0, pull=lambda grad: (None,))
    (cut + z).sum().backward()
    assert x.grad is None
    assert z.grad.tolist() == [1.0]


def test_backward_of_a_leaf_is_its_cotangent():
    x = leaf(1.0, 2.0)
    x.backward(np.array([3.0, 4.0]))
    assert x.grad.tolist() == [3.0, 4.0]


def test_gradients_of_two_backwards_add_up():
    x = leaf(1.0, 2.0)
    for cotangent in ([1.0, 10.0], [100.0, 1000.0]):
        (x * 3.0).backward(np.array(cotangent))
    assert x.grad.tolist() == [303.0, 3030.0]
    x.zero_grad()
    assert x.grad is None


@pytest.mark.parametrize("again", ["root", "below", "above"])
def test_a_second_backward_says_that_the_graph_was_freed(again):
    x = leaf(1.0)
    middle = x * 2.0
    root = middle.sum()
    root.backward()
    second = {"root": root, "below": middle, "above": root * 2.0}[again]
    with pytest.raises(RuntimeError, match=r"earlier backward, which freed.*run the forward again"):
        second.backward(np.ones(second.shape))
    assert x.grad.tolist() == [2.0]


def test_two_losses_over_one_graph_are_refused_before_any_gradient_is_added():
    x, other = leaf(1.0), leaf(1.0)
    shared = x * 2.0
    first, second = shared.sum(), (shared * other).sum()
    first.backward()
    with pytest.raises(RuntimeError, match="earlier backward"):
        second.backward()
    assert other.grad is None


def test_no_grad_records_nothing_and_ends_with_its_block():
    x = leaf(1.0)
    with no_grad():
        y = x * 2.0
    assert not y.requires_grad
    assert y._creator is None
    assert (x * 2.0).requires_grad


def test_no_grad_ends_when_its_block_raises():
    with contextlib.suppress(ZeroDivisionError), no_grad():
        1 / 0  # noqa: B018
    assert (leaf(1.0) * 2.0).requires_grad


def test_detach_cuts_the_graph_and_shares_the_array():
    x = leaf(2.0)
    y = x * 3.0
    (y * y.detach()).sum().backward()
    assert x.grad.tolist() == [18.0]  # d(6·3x)/dx
    assert np.shares_memory(y.detach().data, y.data)


# --- arguments of backward -------------------------------------------------------------------------------------------


def test_only_a_single_number_has_a_default_cotangent():
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"pass grad.*not \(2,\)"):
        (x * 2.0).backward()
    (x * 2.0).sum().backward()
    x.reshape(1, 2)[:, :1].backward()  # one element, two axes
    assert x.grad.tolist() == [3.0, 2.0]


@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (np.ones(3), ValueError, r"shape \(2,\) and dtype float64, got \(3,\)"),
        (np.ones(1), ValueError, r"shape \(2,\) and dtype float64, got \(1,\)"),
        (np.ones(2, np.float32), ValueError, "got .* float32"),
        ([1.0, 1.0], TypeError, "must be an array, got list"),
        (Tensor(np.ones(2)), TypeError, "must be an array, got Tensor"),
    ],
)
def test_a_cotangent_that_does_not_fit_is_refused(grad, error, message):
    with pytest.raises(error, match=f"backward: grad .*{message}"):
        (leaf(1.0, 2.0) * 2.0).backward(grad)


def test_a_cotangent_of_more_precision_is_refused():
    with pytest.raises(ValueError, match=r"backward: grad must have .* dtype float32, got .* float64"):
        (leaf(1.0, dtype=np.float32) * 2.0).backward(np.ones(1))


def test_backward_of_a_constant_is_refused():
    with pytest.raises(RuntimeError, match="made from nothing that requires a gradient"):
        (Tensor([1.0]) * 2.0).backward()


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda g: g, TypeError, r"a tuple of 1 gradients"),
        (lambda g: (g, g), TypeError, r"a tuple of 1 gradients"),
        (lambda g: (), TypeError, r"a tuple of 1 gradients"),
        (lambda g: (g[:1],), ValueError, r"shape \(1,\).*input 0, which has shape \(2,\)"),
        (lambda g: (g.repeat(2),), ValueError, r"shape \(4,\).*input 0, which has shape \(2,\)"),
        (lambda g: (g.astype(np.float32),), ValueError, "dtype float32 for input 0, .* dtype float64"),
        (lambda g: (1.0,), ValueError, r"shape \(\)"),
        (lambda g: (Tensor(g),), ValueError, "dtype object"),
    ],
)
def test_a_backward_that_returns_something_wrong_is_named(returned, error, message):
    y = Identity.apply(leaf(1.0, 2.0), pull=returned)
    with pytest.raises(error, match=rf"Identity\.backward .*{message}"):
        y.sum().backward()


def test_a_backward_of_more_precision_is_named():
    y = Identity.apply(leaf(1.0, dtype=np.float32), pull=lambda g: (g.astype(np.float64),))
    with pytest.raises(ValueError, match=r"dtype float64 for input 0, .* dtype float32"):
        y.backward()


def test_a_forward_that_changes_the_dtype_is_named():
    class Widen(Identity):
        def forward(self, a):
            return a.astype(np.float64)

    with pytest.raises(TypeError, match=r"Widen\.forward must return .*float32, got float64"):
        Widen.apply(Tensor([1.0]))

    class Narrow(Identity):
        def forward(self, a):
            return a.astype(np.float32)

    with pytest.raises(TypeError, match=r"Narrow\.forward must return .*float64, got float32"):
        Narrow.apply(leaf(1.0))


def test_a_function_without_forward_or_backward_is_named():
    class Half(Function):
        def forward(self, a):
            return a / 2

    with pytest.raises(NotImplementedError, match="Function defines no forward"):
        Function.apply(leaf(1.0))
    with pytest.raises(NotImplementedError, match="Half defines no backward"):
        Half.apply(leaf(1.0)).backward()


# --- changes between forward and backward ----------------------------------------------------------------------------


def by_assignment(net):
    net.weight.data -= 1.0


def by_hand(net):
    net.weight.data[...] = 0.0
    net.weight.mark_changed()


def by_loading(net):
    net.load_state_dict({"weight": np.zeros((1, 1)), "bias": np.zeros(1)})


CHANGES = [by_assignment, by_hand, by_loading]


@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_changed_between_forward_and_backward_raises(change):
    net = nn.Linear(1, 1)
    loss = net(Tensor(np.ones((1, 1), np.float32))).sum()
    change(net)
    with pytest.raises(RuntimeError, match=r"changed after forward.*or the forward again"):
        loss.backward()
    assert net.weight.grad is None


@pytest.mark.parametrize(
    "view", [lambda w: w.detach(), lambda w: w.reshape(1), lambda w: w[0], lambda w: ops.permute(w, 1, 0)]
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_view_of_a_weight_changes_with_it_though_it_is_not_recorded(change, view):
    net = nn.Linear(1, 1)
    net.weight.requires_grad = False
    x = leaf(1.0, dtype=np.float32)
    loss = (x * view(net.weight)).sum()
    change(net)
    with pytest.raises(RuntimeError, match=r"Mul: an input .* was changed"):
        loss.backward()


def test_an_output_changed_between_forward_and_backward_raises():
    y = leaf(1.0).exp()  # keeps its output
    y.data *= 0.0
    with pytest.raises(RuntimeError, match=r"Exp: .* was changed"):
        y.sum().backward()


def test_a_change_before_the_forward_or_after_the_backward_is_fine():
    net = nn.Linear(1, 1)
    for _ in range(2):
        net(Tensor(np.ones((1, 1), np.float32))).sum().backward()
        by_assignment(net)
    assert net.weight.grad.tolist() == [[2.0]]


@pytest.mark.parametrize("array", [np.zeros(1), np.zeros(3), np.zeros(2, np.float32), 0.0])
def test_new_data_must_keep_shape_and_dtype(array):
    with pytest.raises(ValueError, match=r"data must keep shape \(2,\) and dtype float64"):
        leaf(1.0, 2.0).data = array
    with pytest.raises(ValueError, match=r"data must keep .* dtype float32, got .* float64"):
        leaf(1.0, 2.0, dtype=np.float32).data = np.zeros(2)


# --- backend policy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chosen", "later"), [("numpy", "numba"), ("numba", "numpy")])
def test_backward_runs_on_the_backend_of_its_forward(chosen, later, monkeypatch):
    ran = []
    three = [kernels.conv2d, kernels.conv2d_grad_input, kernels.conv2d_grad_weight]
    for kernel in three:
        for backend, run in kernel._implementations.items():

            def spy(*args, run=run, note=(kernel.name, backend), **options):
                ran.append(note)
                return run(*args, **options)

            monkeypatch.setitem(kernel._implementations, backend, spy)
    x, w = leaf(*np.ones((1, 1, 3, 3))), leaf(*np.ones((1, 1, 2, 2)))
    with kernels.use_backend(chosen):
        y = ops.conv2d(x, w)
    with kernels.use_backend(later):
        y.sum().backward()
    assert ran == [(kernel.name, chosen) for kernel in three]


# --- numbers and words -----------------------------------------------------------------------------------------------


def test_item_is_a_python_float_and_only_of_one_element():
    assert type(Tensor([[2.5]]).item()) is float
    with pytest.raises(ValueError, match="size 1"):
        Tensor([1.0, 2.0]).item()


def test_repr_shows_shape_dtype_and_op():
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert repr(x) == "Tensor([1., 2.], shape=(2,), dtype=float32, op=leaf, requires_grad)"
    assert repr((x * 2.0).sum()) == "Tensor(6., shape=(), dtype=float32, op=Sum)"
    assert "shape=(100, 100), dtype=float64, op=leaf" in repr(Tensor(np.zeros((100, 100))))
    assert len(repr(Tensor(np.zeros((100, 100))))) < 300
    assert "..." in repr(Tensor(np.zeros(21)))
    assert "..." not in repr(Tensor(np.zeros(20)))
    assert repr(Tensor(1 / 3)) == "Tensor(0.3333, shape=(), dtype=float32, op=leaf)"
