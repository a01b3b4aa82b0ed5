"""What the checks do at the edges: kinks, dtypes, modules, bad arguments."""

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import find, given, settings

import minifcn.testing
import minifcn_kernels as kernels
from minifcn import Function, Tensor, nn, ops
from minifcn.ops.movement import Reshape
from minifcn.testing import (
    AdjointError,
    BackendError,
    GradientError,
    KinkError,
    check_adjoint,
    check_backends,
    check_gradients,
    check_ties,
    slopes,
    strategies,
)
from minifcn.testing.cases import ConvCase, CropCase
from minifcn.testing.data import distinct, strided, tied, whole


def test_a_kink_is_not_called_a_wrong_gradient():
    with pytest.raises(KinkError, match=r"kink near input 0, element \(0, 1\) of shape \(1, 2\), where it is 0"):
        check_gradients(ops.relu, np.array([[1.0, 0.0]]))


@pytest.mark.parametrize("distance", [1e-4, 2e-5, 5e-6])
def test_a_kink_nearby_is_out_of_reach_of_a_smaller_step(distance):
    check_gradients(ops.relu, np.array([distance, -distance]))


@pytest.mark.parametrize("distance", np.linspace(0, 0.99, 34))
def test_no_distance_hides_a_kink_from_the_smallest_step(distance):
    place = distance * slopes.STEPS[-1] / 2
    assert slopes.measure(lambda t: max(t - place, 0.0), magnitude=1e-9).kink


def test_a_wrong_gradient_is_told_before_a_kink():
    class Wrong(Function):
        def forward(self, x):
            self.save(x)
            return np.abs(x)

        def backward(self, grad):
            return (-grad * np.sign(self.saved[0]),)

    with pytest.raises(GradientError):
        check_gradients(Wrong.apply, np.array([0.0, 1.0]))


def test_a_smooth_function_far_from_linear_is_no_kink():
    check_gradients(lambda x: (x * 30).exp() / 1e6 + ops.log(x + 1.02), distinct((2, 3)) / 2.5)


def test_a_wrong_rule_for_ties_is_shown_with_the_tie():
    with pytest.raises(GradientError, match="At a tie the first maximum"):
        check_ties(lambda x: ops.max(x[:, ::-1], 1), np.array([[1.0, 1.0]]))


def test_a_module_is_left_as_it_is():
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU())
    before = {name: value.copy() for name, value in net.state_dict().items()}
    check_gradients(net, distinct((1, 1, 3, 3)))
    for name, parameter in net.named_parameters():
        assert parameter.dtype == np.float32
        assert parameter.grad is None
        np.testing.assert_array_equal(parameter.data, before[name])


def test_the_parameters_of_a_module_are_checked_by_name():
    class Scale(nn.Module):
        def __init__(self):
            self.factor = nn.Parameter(np.array([2.0]))

        def forward(self, x):
            return x * Tensor(self.factor.data)

    with pytest.raises(GradientError, match="gradient of parameter factor"):
        check_gradients(Scale(), distinct((2, 2)))


def test_a_fixed_parameter_needs_no_gradient():
    layer = nn.Conv2d(1, 1, 2)
    layer.weight = nn.Parameter(layer.weight.data, lr_multiplier=0)
    check_gradients(layer, distinct((1, 1, 3, 3)))


def test_a_function_that_holds_float64_constants_is_fine():
    check_gradients(lambda x: x * np.array([1.0, 2.0]), distinct((3, 2)))


def test_a_module_that_holds_float64_constants_is_not():
    class Scale(nn.Module):
        def forward(self, x):
            return x * np.array([1.0, 2.0])

    with pytest.raises(TypeError, match="mixes"):
        check_gradients(Scale(), distinct((3, 2)))


def test_needs_that_guard_the_wrong_gradient_are_found():
    class Product(Function):
        def forward(self, a, b):
            self.save(a, b)
            return a * b

        def backward(self, grad):
            a, b = self.saved
            return grad * b if self.needs[1] else None, grad * a if self.needs[1] else None

    with pytest.raises(GradientError, match=r"self\.needs"):
        check_gradients(Product.apply, distinct((2, 2)), distinct((2, 2), 1))


def test_float64_out_of_float32_is_found():
    with pytest.raises(GradientError, match="dtype of the output"):
        check_gradients(lambda x: Tensor(np.ones(2)), distinct((2, 2)))


def test_a_function_that_refuses_float32_for_another_reason_is_found():
    class Widen(Function):
        def forward(self, x):
            return x.astype(np.float64)

        def backward(self, grad):
            return (grad.copy(),)

    with pytest.raises(TypeError, match="must return the dtype"):
        check_gradients(Widen.apply, distinct((2, 2)))


def test_randomness_is_found():
    rng = np.random.default_rng(0)
    with pytest.raises(GradientError, match="same bits"):
        check_gradients(lambda x: x * rng.random((2, 2)), distinct((2, 2)))


def test_a_gradient_that_is_the_cotangent_itself_is_found(monkeypatch):
    monkeypatch.setattr(Reshape, "fresh_gradients", True)
    with pytest.raises(GradientError, match=r"Gradients share memory with nothing[\s\S]*the memory of the cotangent"):
        check_gradients(lambda x: x.reshape(4), distinct((2, 2)))


def test_reliance_on_the_memory_layout_is_found():
    class Flat(Function):
        def forward(self, x):
            self.save(x.shape)
            return np.ravel(x, order="K").copy()

        def backward(self, grad):
            return (grad.reshape(self.saved[0]).copy(),)

    with pytest.raises(GradientError, match="lie in memory"):
        check_gradients(Flat.apply, distinct((2, 3)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_gradients(ops.relu, np.array([1, 2])), TypeError, "class labels"),
        (lambda: check_gradients(ops.relu, distinct((2,)), mode="fast"), ValueError, "mode must be"),
        (lambda: check_gradients(lambda x: x.data, distinct((2,))), TypeError, "must return one Tensor"),
        (lambda: check_gradients(lambda: Tensor([1.0])), ValueError, "neither inputs nor parameters"),
        (lambda: check_gradients(lambda x: x * float("inf"), distinct((2,))), ValueError, "not finite"),
        (lambda: check_adjoint(lambda x: x / 3, lambda y: y / 3, (2,)), ValueError, "not whole"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with np.errstate(all="ignore"), pytest.raises(error, match=message):
        call()


def test_an_adjoint_holds_exactly():
    w = whole((3, 2, 2, 3))
    check_adjoint(
        lambda x: kernels.conv2d(x, w, stride=(2, 1), padding=1),
        lambda gy: kernels.conv2d_grad_input(gy, w, (1, 2, 5, 4), stride=(2, 1), padding=1),
        (1, 2, 5, 4),
    )


@pytest.mark.parametrize(
    ("forward", "transpose", "message"),
    [
        (lambda x: x[:-1], lambda y: np.append(0, y), r"x, element \(0,\) of shape \(4,\) and y, element \(0,\)"),
        (lambda x: x + 1, lambda y: y, "forward is not linear"),
        (lambda x: x[:-1], lambda y: y, "another shape"),
    ],
)
def test_a_wrong_transpose_is_found(forward, transpose, message):
    with pytest.raises(AdjointError, match=message):
        check_adjoint(forward, transpose, (4,))


def test_a_backend_error_names_the_backend_and_can_be_pasted(monkeypatch):
    right = kernels.crop._implementations["numba"]
    monkeypatch.setitem(kernels.crop._implementations, "numba", lambda **arguments: right(**arguments) + 1)
    case = CropCase(H=2, size=(1, 1))
    with pytest.raises(BackendError, match=r"crop on numba \(auto\) in float32") as raised:
        check_backends(kernels.crop, case)
    code = "\n".join(line.strip() for line in str(raised.value).partition("to see it again\n")[2].splitlines())
    with pytest.raises(BackendError):
        exec(code, {})


def test_a_case_shows_what_is_not_default():
    assert repr(ConvCase(H=3, stride=(2, 1))) == "ConvCase(H=3, stride=(2, 1))"


ALL_CASES = {
    "convolutions": strategies.convolutions(),
    "transposed convolutions": strategies.transposed_convolutions(),
    "poolings": strategies.poolings(),
    "crops": strategies.crops(),
    "label maps": strategies.label_maps(),
    "normalisations": strategies.normalisations(),
}


@pytest.mark.parametrize("name", ALL_CASES)
def test_cases_shrink_towards_one_pixel(name):
    smallest = find(ALL_CASES[name], lambda case: True, settings=settings(database=None, deadline=None))
    assert smallest == type(smallest)(count_include_pad=False) if name == "poolings" else smallest == type(smallest)()


@given(x=strategies.arrays(strided=True))
def test_strided_arrays_are_strided(x):
    assert x.shape[-1] == 1 or not x.flags.c_contiguous


@given(x=strategies.arrays(strategies.shapes(3, 6)))
def test_distinct_numbers_keep_away_from_kinks(x):
    assert np.abs(x).min() >= 1 / 128
    assert x.size == 1 or np.diff(np.sort(x, axis=None)).min() >= 1 / 64 - 1e-12


@pytest.mark.parametrize("array", [np.float64(3.0), tied((3,)), distinct((2, 3, 4)), np.arange(6).reshape(2, 3)])
def test_strided_is_equal(array):
    array = np.asarray(array)
    np.testing.assert_array_equal(strided(array), array)
    assert strided(array).dtype == array.dtype


def test_only_the_strategies_import_hypothesis():
    for path in Path(minifcn.testing.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
        names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert any(name.startswith("hypothesis") for name in names) == (path.name == "strategies.py")
