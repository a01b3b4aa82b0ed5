"""Sequential and Parallel: names, order, indexing, and what they refuse."""

import numpy as np
import pytest

from minifcn import Tensor, nn


class Times(nn.Module):
    def __init__(self, factor):
        self.factor = nn.Parameter([factor])

    def forward(self, x):
        return x * self.factor

    def window(self):
        return nn.Window()


class Plus(Times):
    def forward(self, x):
        return x + self.factor


def test_sequential_runs_one_after_another_in_order():
    assert nn.Sequential(Times(3.0), Plus(1.0))(Tensor([2.0])).item() == 7.0
    assert nn.Sequential(Plus(1.0), Times(3.0))(Tensor([2.0])).item() == 9.0
    assert nn.Sequential()(Tensor([2.0])).item() == 2.0


def test_parallel_joins_outputs_along_the_channels_in_order():
    x = Tensor(np.ones((2, 1, 1, 3), np.float32))
    y = nn.Parallel(Times(2.0), nn.Sequential(Times(3.0), Plus(1.0)))(x)
    assert y.shape == (2, 2, 1, 3)
    assert (y.data[:, 0] == 2).all()
    assert (y.data[:, 1] == 4).all()


@pytest.mark.parametrize("container", [nn.Sequential, nn.Parallel])
def test_layers_are_numbered_or_go_by_their_names(container):
    a, b = Times(1.0), Plus(1.0)
    assert list(container(a, b).state_dict()) == ["0.factor", "1.factor"]
    assert list(container({"conv1": a, "relu1": b}).state_dict()) == ["conv1.factor", "relu1.factor"]


def test_sequential_is_indexed_by_number_and_by_name():
    a, b = Times(1.0), Plus(1.0)
    net = nn.Sequential({"a": a, "b": b})
    assert net["a"] is net[0] is net.a is a
    assert net[-1] is b
    assert len(net) == 2
    assert list(net) == [a, b]
    with pytest.raises(KeyError, match="c"):
        net["c"]
    with pytest.raises(IndexError):
        net[2]


@pytest.mark.parametrize("container", [nn.Sequential, nn.Parallel])
@pytest.mark.parametrize("layer", [nn.ReLU, lambda x: x, None, [nn.ReLU()]])
def test_what_is_no_module_is_refused_by_its_place(container, layer):
    with pytest.raises(TypeError, match=f"{container.__name__}: 1 must be a Module, got {type(layer).__name__}"):
        container(nn.ReLU(), layer)
    with pytest.raises(TypeError, match=f"{container.__name__}: odd must be a Module"):
        container({"odd": layer})


@pytest.mark.parametrize("name", ["forward", "path", "training", "a.b", "", "window"])
def test_a_name_that_would_hide_something_is_refused(name):
    with pytest.raises(ValueError, match=f"{name!r} cannot name a layer"):
        nn.Sequential({name: nn.ReLU()})


def test_windows_compose():
    conv, pool = nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2)
    assert nn.Sequential(conv, nn.ReLU(), pool).window() == nn.Chain([conv.window(), pool.window()])
    assert nn.Parallel(conv, nn.ReLU()).window() == nn.Fork([conv.window(), nn.Window()])


def test_a_layer_without_a_window_is_named_by_the_net_around_it():
    class Mine(nn.Module):
        pass

    with pytest.raises(TypeError, match="Mine has no window"):
        nn.Sequential(nn.ReLU(), Mine()).window()
