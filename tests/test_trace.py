"""`trace`: the listing of a graph."""

import numpy as np
import pytest

from minifcn import Tensor, nn, ops, trace


def leaf(*values):
    return Tensor(list(values), requires_grad=True)


def test_a_listing_shows_leaves_functions_shapes_dtypes_and_edges(capsys):
    x, w = leaf(1, 2, 3), leaf(4, 5, 6)
    text = trace((x * w + x).sum(), {"x": x, "w": w})
    assert text.splitlines() == [
        "1  leaf x  (3,)  float32",
        "2  leaf w  (3,)  float32",
        "3  Mul     (3,)  float32  ← 1, 2",
        "4  Add     (3,)  float32  ← 3, 1",
        "5  Sum     ()    float32  ← 4",
    ]
    assert capsys.readouterr().out == text


def test_the_docstring_shows_what_trace_shows():
    x, w = leaf(1, 2, 3), leaf(4, 5, 6)
    for line in trace((x * w + x).sum(), {"x": x, "w": w}).splitlines():
        assert line in trace.__doc__


def test_every_function_stands_below_what_it_uses_once():
    x = leaf(1, 2)
    left, right = x.exp(), x.log()
    lines = trace((left * right + left).sum()).splitlines()
    rows = [line.split() for line in lines]
    assert [int(row[0]) for row in rows] == list(range(1, 7))
    assert sorted(row[1] for row in rows) == ["Add", "Exp", "Log", "Mul", "Sum", "leaf"]
    for line in lines[1:]:
        number = int(line.split()[0])
        assert all(int(source) < number for source in line.partition("← ")[2].split(", "))


def test_constants_are_shown_by_shape_and_an_omitted_bias_not_at_all():
    x = Tensor(np.zeros((1, 1, 4, 4)))
    w = Tensor(np.zeros((2, 1, 3, 3)), requires_grad=True)
    assert trace(ops.conv2d(x, w)).splitlines()[1] == "2  Conv2d  (1, 2, 2, 2)  float64  ← constant (1, 1, 4, 4), 1"
    assert trace(leaf(1) * 2).endswith("← 1, constant ()\n")


def test_a_nets_parameters_go_by_their_paths():
    net = nn.Sequential({"fc": nn.Linear(2, 1)})
    text = trace(net(Tensor(np.ones((1, 2)).astype(np.float32))), dict(net.named_parameters()))
    assert "leaf fc.weight  (1, 2)" in text
    assert "leaf fc.bias    (1,)" in text


def test_a_leaf_alone_is_one_line():
    assert trace(leaf(1, 2)) == "1  leaf  (2,)  float32\n"


def test_after_backward_only_the_freed_functions_name_is_left():
    x = leaf(1, 2)
    shared = x * 2
    loss = shared.sum()
    loss.backward()
    assert trace(loss) == "1  Sum  freed by backward\n"
    assert trace(shared + 1).splitlines()[0].split() == ["1", "Mul", "freed", "by", "backward"]


def test_a_long_chain_can_be_listed():
    y = leaf(1)
    for _ in range(3000):  # deeper than Python's recursion
        y = -y
    assert trace(y).count("Neg") == 3000


@pytest.mark.parametrize("listed", [True, False])
def test_a_listing_does_not_disturb_backward(listed):
    x = leaf(1, 2)
    loss = (x * x).sum()
    if listed:
        trace(loss)
    loss.backward()
    assert x.grad.tolist() == [2, 4]
