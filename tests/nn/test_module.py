"""Modules: what they find in their attributes, under which names, and what they load and refuse."""

import numpy as np
import pytest

from minifcn import Tensor, nn


class Block(nn.Module):
    def __init__(self):
        self.second = nn.Linear(2, 3)
        self.first = nn.Linear(3, 2)
        self.scale = nn.Parameter([1.0])
        self.notes = ["no", "modules"]


class Net(nn.Module):
    def __init__(self):
        self.gain = nn.Parameter([2.0])
        self.block = Block()
        self.head = nn.Linear(2, 1, bias=False)


PATHS = [
    "gain",
    "block.scale",
    "block.second.weight",
    "block.second.bias",
    "block.first.weight",
    "block.first.bias",
    "head.weight",
]


def test_parameters_go_by_their_paths_in_the_order_of_assignment_own_ones_first():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == PATHS
    assert [id(p) for p in net.parameters()] == [id(p) for _, p in net.named_parameters()]
    assert list(net.state_dict()) == PATHS


def test_modules_go_by_their_paths_parents_first():
    net = Net()
    names = ["", "block", "block.second", "block.first", "head"]
    assert [name for name, _ in net.named_modules()] == names
    assert [name for name, _ in net.named_children()] == ["block", "head"]
    assert dict(net.named_modules())["block.first"] is net.block.first


def test_a_shared_parameter_is_found_once_under_its_first_path():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    shared = nn.Linear(2, 2)
    assert len(list(nn.Sequential(shared, nn.ReLU(), shared).parameters())) == 2


def test_a_replaced_parameter_is_gone():
    net = nn.Linear(2, 2)
    net.bias = None
    assert [name for name, _ in net.named_parameters()] == ["weight"]


def test_a_module_knows_its_place_however_the_tree_was_built():
    inner = nn.Sequential({"drop": nn.Dropout()})
    assert inner["drop"].path == "drop"
    outer = nn.Sequential({"features": inner})
    assert inner["drop"].path == "features.drop"
    top = nn.Sequential({"net": outer})
    assert [m.path for _, m in top.named_modules()] == ["", "net", "net.features", "net.features.drop"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [([nn.ReLU()], "list"), ((nn.Parameter([1.0]),), "tuple"), ({"a": nn.ReLU()}, "dict"), ([1, nn.ReLU()], "list")],
)
def test_modules_in_a_collection_are_refused_because_they_would_be_lost(value, kind):
    with pytest.raises(TypeError, match=rf"Net\.layers: modules in a {kind} would be neither found .* nn\.Sequential"):
        Net().layers = value


def test_a_module_without_forward_or_window_is_named():
    class Mine(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Mine defines no forward"):
        Mine()(Tensor([1.0]))
    with pytest.raises(TypeError, match=r"Mine has no window\(\): define one that returns nn.Window"):
        Mine().window()


# --- parameters ----------------------------------------------------------------------------------------------------


def test_a_fixed_parameter_wants_no_gradient():
    assert nn.Parameter([1.0]).requires_grad
    assert not nn.Parameter([1.0], lr_multiplier=0).requires_grad


def test_biases_learn_at_twice_the_rate_and_do_not_decay():
    layer = nn.Conv2d(1, 2, 3)
    assert (layer.bias.lr_multiplier, layer.bias.decay_multiplier) == (2.0, 0.0)
    assert (layer.weight.lr_multiplier, layer.weight.decay_multiplier) == (1.0, 1.0)


def test_parameters_are_counted_by_their_numbers():
    assert nn.parameter_count(Net()) == 1 + 1 + (2 * 3 + 3) + (3 * 2 + 2) + 2
    assert nn.parameter_count(nn.ReLU()) == 0


def test_zero_grad_forgets_all_gradients():
    net = nn.Linear(2, 1)
    net(Tensor(np.ones((1, 2), np.float32))).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


# --- state ---------------------------------------------------------------------------------------------------------


def test_a_state_goes_from_net_to_net_bit_by_bit_and_by_copy():
    source, target = Net(), Net()
    target.load_state_dict(source.state_dict())
    for name, array in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[name], array)
        assert not np.shares_memory(target.state_dict()[name], array)


def test_a_state_holds_the_arrays_themselves():
    net = nn.Linear(1, 1)
    assert net.state_dict()["weight"] is net.weight.data


def test_loading_keeps_arrays_in_place_and_dtype():
    net = nn.Linear(1, 1)
    array = net.weight.data
    net.load_state_dict({"weight": np.array([[3.0]]), "bias": np.array([4.0])})
    assert net.weight.data is array
    assert (array.item(), array.dtype) == (3.0, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bias"), r"missing: bias"),
        (lambda s: s.update(extra=np.zeros(1)), r"unexpected: extra"),
        (lambda s: s.update(weight=np.zeros((1, 2))), r"another shape: weight \(given \(1, 2\), expected \(1, 1\)\)"),
    ],
)
def test_a_state_of_another_net_is_refused_and_nothing_is_loaded(change, message):
    net = nn.Linear(1, 1)
    before = net.weight.data.copy()
    state = {"weight": np.array([[7.0]]), "bias": np.array([7.0])}
    change(state)
    with pytest.raises(ValueError, match=rf"the state is of another net.*{message}"):
        net.load_state_dict(state)
    np.testing.assert_array_equal(net.weight.data, before)
    assert net.bias.data.tolist() == [0.0]


# --- training mode and repr ----------------------------------------------------------------------------------------


def test_train_and_eval_reach_every_module_and_return_the_net():
    net = Net()
    assert all(m.training for _, m in net.named_modules())
    assert net.eval() is net
    assert not any(m.training for _, m in net.named_modules())
    assert net.train() is net
    assert all(m.training for _, m in net.named_modules())
    net.train(False)
    assert not net.block.first.training


def test_repr_shows_the_tree_with_options_and_shapes():
    net = nn.Sequential({"conv": nn.Conv2d(1, 2, 3, stride=2), "inner": nn.Sequential(nn.ReLU())})
    assert repr(net) == (
        "Sequential(\n"
        "  conv: Conv2d(stride=(2, 2), padding=(0, 0), dilation=(1, 1), groups=1, kernel_size=(3, 3), "
        "weight=(2, 1, 3, 3), bias=(2,))\n"
        "  inner: Sequential(\n"
        "    0: ReLU()\n"
        "  )\n"
        ")"
    )
