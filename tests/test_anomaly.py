"""`detect_anomaly`: it stops at the op that made a NaN or an infinity, and tells the user's line."""

import contextlib
import inspect
from pathlib import Path

import numpy as np
import pytest

import minifcn
from minifcn import Function, Tensor, detect_anomaly, nn, ops

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own word on the NaNs made here


def leaf(*values):
    return Tensor(list(values), requires_grad=True)


def here(offset=0):
    """Return file:line of the caller, ``offset`` lines further down."""
    caller = inspect.currentframe().f_back
    return f"{caller.f_code.co_filename}:{caller.f_lineno + offset}"


class BadBackward(Function):
    def forward(self, a, *, value):
        self.value = value
        return a * 1

    def backward(self, grad):
        return (np.full_like(grad, self.value),)


def test_forward_stops_at_the_op_that_made_it_and_names_the_users_line():
    x = leaf(-1, 1)
    line = here(+2)
    with detect_anomaly(), pytest.raises(FloatingPointError) as error:
        (x * 2).sqrt().sum()
    assert str(error.value) == f"Sqrt: the output holds a NaN, made from finite values; the op was called at {line}"


def test_an_infinity_is_told_from_a_nan():
    message = "Exp: the output holds an infinity, made from finite values"
    with detect_anomaly(), pytest.raises(FloatingPointError, match=message):
        leaf(1000).exp()


def test_a_value_that_came_in_broken_is_told_from_one_made_here():
    message = "Add: the output holds a NaN, made from values that already held one"
    with detect_anomaly(), pytest.raises(FloatingPointError, match=message):
        _ = leaf(float("nan")) + 1


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "a NaN"), (np.inf, "an infinity"), (-np.inf, "an infinity")])
def test_backward_stops_at_the_op_whose_gradient_it_is_and_names_the_line_of_its_forward(value, kind):
    x = leaf(1, 2)
    with detect_anomaly():
        line = here(+1)
        y = BadBackward.apply(x * 2, value=value)
        loss = y.sum()
        with pytest.raises(FloatingPointError) as error:
            loss.backward()
    message = f"BadBackward: the gradient of input 0 holds {kind}, made from finite values; the op was called at {line}"
    assert str(error.value) == message
    assert x.grad is None


def test_a_backward_alone_is_watched_too():
    loss = BadBackward.apply(leaf(1), value=np.nan)
    with detect_anomaly(), pytest.raises(FloatingPointError, match=r"BadBackward: .* a line outside detect_anomaly"):
        loss.backward()


def test_the_line_is_the_users_though_a_layer_lies_between():
    net = nn.Sequential(nn.ReLU(), nn.ReLU())
    line = here(+2)
    with detect_anomaly(), pytest.raises(FloatingPointError) as error:
        net(leaf(float("inf")))
    assert str(error.value).endswith(line)


def test_a_folder_whose_name_begins_like_the_packages_is_the_users():
    neighbour = f"{Path(minifcn.__file__).parent}-experiments/train.py"
    script = compile("\n\nmake(x)", neighbour, "exec")
    with detect_anomaly(), pytest.raises(FloatingPointError, match=rf"{neighbour}:3$"):
        exec(script, {"make": ops.log, "x": leaf(0)})


def test_finite_values_pass_and_so_do_left_out_inputs():
    with detect_anomaly():
        x = Tensor(np.ones((1, 1, 2, 2)), requires_grad=True)
        ops.conv2d(x, Tensor(np.ones((1, 1, 2, 2))), None).sum().backward()
    assert (x.grad == 1).all()


def test_nothing_is_watched_outside_or_after_the_block():
    with contextlib.suppress(ZeroDivisionError), detect_anomaly():
        1 / 0  # noqa: B018
    assert np.isnan((leaf(-1).sqrt() * 2).item())
