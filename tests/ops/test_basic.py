"""Arithmetic: values against one number at a time, gradients against central differences, on broadcast shapes."""

import math
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, ops
from minifcn.ops import basic
from minifcn.testing import check_gradients, strategies
from minifcn.testing.data import normal, strided


@st.composite
def broadcast_shapes(draw):
    """Return two shapes that broadcast: the result's, each with leading axes left out and others shrunk to one."""
    result = draw(st.lists(st.integers(0, 3), max_size=3))
    return tuple(
        tuple(1 if draw(st.booleans()) else size for size in result[draw(st.integers(0, len(result))) :])
        for _ in range(2)
    )


SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def element(array, at):
    """Return the element that broadcasting puts at ``at``, found by counting axes from the back."""
    at = at[len(at) - array.ndim :]
    return float(array[tuple(0 if size == 1 else i for i, size in zip(at, array.shape, strict=True))])


def positive(seed, shape):
    """Away from 0, where division, logarithm and root are smooth."""
    return np.abs(normal(shape, seed)) + 0.5


BINARY = {
    "add": (basic.add, operator.add),
    "sub": (basic.sub, operator.sub),
    "mul": (basic.mul, operator.mul),
    "div": (basic.div, operator.truediv),
}
UNARY = {
    "neg": (operator.neg, operator.neg),
    "exp": (ops.exp, math.exp),
    "log": (ops.log, math.log),
    "sqrt": (ops.sqrt, math.sqrt),
    "cube": (lambda x: x**3, lambda x: x * x * x),
    "reciprocal": (lambda x: x**-1, lambda x: 1 / x),
    "root": (lambda x: x**0.5, math.sqrt),
    "one": (lambda x: x**0, lambda x: 1.0),
}


@pytest.mark.parametrize("name", BINARY)
@given(shapes=broadcast_shapes(), seed=strategies.seeds())
def test_a_binary_op_computes_each_element_of_the_broadcast(name, shapes, seed):
    op, of_numbers = BINARY[name]
    a, b = normal(shapes[0], seed), positive(seed + 1, shapes[1])
    y = op(Tensor(a), Tensor(b))
    assert y.shape == np.broadcast_shapes(*shapes)
    for at in np.ndindex(y.shape):
        assert y.data[at] == of_numbers(element(a, at), element(b, at))


@pytest.mark.parametrize("name", BINARY)
@given(shapes=broadcast_shapes(), seed=strategies.seeds())
def test_a_binary_gradient_is_summed_over_what_was_broadcast(name, shapes, seed):
    check_gradients(BINARY[name][0], normal(shapes[0], seed), positive(seed + 1, shapes[1]), seed=seed)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", BINARY)
@given(shapes=broadcast_shapes(), seed=strategies.seeds())
def test_one_side_may_be_a_constant(name, side, shapes, seed):
    op = BINARY[name][0]
    x, constant = positive(seed, shapes[0]), positive(seed + 1, shapes[1])
    check_gradients(lambda t: op(t, constant) if side == "left" else op(constant, t), x, seed=seed)


@pytest.mark.parametrize("name", UNARY)
@given(shape=SHAPES, seed=strategies.seeds())
def test_a_unary_op_computes_each_element(name, shape, seed):
    op, of_number = UNARY[name]
    x = positive(seed, shape)
    y = op(Tensor(x))
    assert y.shape == shape
    for at in np.ndindex(shape):
        assert math.isclose(y.data[at], of_number(float(x[at])), rel_tol=1e-14)


@pytest.mark.parametrize("name", UNARY)
@given(shape=SHAPES, seed=strategies.seeds())
def test_a_unary_gradient_is_right(name, shape, seed):
    check_gradients(UNARY[name][0], positive(seed, shape), seed=seed)


@pytest.mark.parametrize(("exponent", "slope"), [(0, 0.0), (1, 1.0), (2, 0.0), (3.5, 0.0)])
def test_a_power_has_its_slope_at_zero_too(exponent, slope):
    x = Tensor(np.zeros(1), requires_grad=True)
    (x**exponent).backward()
    assert x.grad.tolist() == [slope]


def test_a_negative_base_has_whole_powers():
    check_gradients(lambda x: x**3, np.array([-2.0, -0.5]))


@st.composite
def matrix_shapes(draw):
    rows, inner, columns = (draw(st.integers(1, 3)) for _ in range(3))
    left, right = draw(broadcast_shapes())
    return (*left, rows, inner), (*right, inner, columns)


@given(shapes=matrix_shapes(), seed=strategies.seeds())
def test_a_matrix_product_adds_up_row_times_column(shapes, seed):
    a, b = normal(shapes[0], seed), normal(shapes[1], seed + 1)
    y = Tensor(a) @ Tensor(b)
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    assert y.shape == (*stack, a.shape[-2], b.shape[-1])
    full_a, full_b = np.broadcast_to(a, stack + a.shape[-2:]), np.broadcast_to(b, stack + b.shape[-2:])
    for *at, i, k in np.ndindex(y.shape):
        expected = sum(full_a[(*at, i, j)] * full_b[(*at, j, k)] for j in range(a.shape[-1]))
        assert math.isclose(y.data[(*at, i, k)], expected, rel_tol=1e-12, abs_tol=1e-12)


@given(shapes=matrix_shapes(), seed=strategies.seeds())
def test_the_gradients_of_a_matrix_product_are_right(shapes, seed):
    check_gradients(ops.matmul, normal(shapes[0], seed), normal(shapes[1], seed + 1), seed=seed)


@pytest.mark.parametrize("shapes", [((2,), (2, 3)), ((2, 3), (3,)), ((2, 3), (2, 3)), ((2, 2), (3, 3)), ((), (1, 1))])
def test_a_matrix_product_of_shapes_that_do_not_fit_is_refused(shapes):
    a, b = (Tensor(np.zeros(shape)) for shape in shapes)
    with pytest.raises(ValueError, match=r"matmul: expected shapes \(…, I, J\) and \(…, J, K\), got \("):
        ops.matmul(a, b)


def test_a_strided_input_gives_what_a_contiguous_one_gives():
    a, b = normal((3, 4), 1), normal((4, 3), 2)
    np.testing.assert_array_equal((Tensor(strided(a)) @ strided(b)).data, (Tensor(a) @ b).data)
    check_gradients(lambda x, y: x * y.transpose(0, 1), strided(a), strided(b))


@pytest.mark.parametrize("op", [ops.exp, ops.log, ops.sqrt])
def test_methods_and_functions_are_one(op):
    x = Tensor(positive(3, (4,)))
    np.testing.assert_array_equal(op(x).data, getattr(x, op.__name__)().data)
