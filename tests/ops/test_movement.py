"""Ops that move numbers: where each one comes from, and that cotangents go back there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, ops
from minifcn.ops import movement
from minifcn.ops.movement import permute, reshape, transpose
from minifcn.testing import check_gradients, strategies
from minifcn.testing.data import normal, strided

SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)


def numbered(shape):
    return np.arange(float(np.prod(shape))).reshape(shape)


# --- reshape and transpose -----------------------------------------------------------------------------------------


@given(shape=SHAPES, order=st.randoms(use_true_random=False), seed=strategies.seeds())
def test_reshape_keeps_the_numbers_in_reading_order(shape, order, seed):
    sizes = list(shape)
    order.shuffle(sizes)
    x = Tensor(numbered(shape))
    assert reshape(x, *sizes).data.ravel().tolist() == x.data.ravel().tolist()
    assert x.reshape(-1, sizes[0]).shape == (x.data.size // sizes[0], sizes[0])
    check_gradients(lambda t: t.reshape(*sizes), normal(shape, seed), seed=seed)


def test_reshape_to_another_number_of_elements_is_refused():
    with pytest.raises(ValueError, match="cannot reshape array of size 6 into shape"):
        Tensor(np.zeros((2, 3))).reshape(4)


@given(shape=SHAPES, order=st.randoms(use_true_random=False), negative=st.booleans(), seed=strategies.seeds())
def test_permute_moves_axes_and_gradients_move_back(shape, order, negative, seed):
    axes = list(range(len(shape)))
    order.shuffle(axes)
    named = [axis - len(shape) if negative else axis for axis in axes]
    x = numbered(shape)
    y = permute(Tensor(x), *named)
    for at in np.ndindex(shape):
        assert y.data[tuple(at[axis] for axis in axes)] == x[at]
    check_gradients(lambda t: permute(t, *named), normal(shape, seed), seed=seed)


@pytest.mark.parametrize("dims", [(0,), (0, 0), (0, 1, 1), (0, 3), (0, -3), ()])
def test_permute_by_something_else_than_a_permutation_is_refused(dims):
    with pytest.raises(ValueError, match="permute: dims must name each of the 2 axes once, got"):
        permute(Tensor(np.zeros((2, 3))), *dims)


@pytest.mark.parametrize(
    ("dims", "swapped"), [((0, 1), (3, 2, 4)), ((2, 1), (2, 4, 3)), ((-1, 0), (4, 3, 2)), ((-3, 2), (4, 3, 2))]
)
def test_transpose_swaps_two_axes_as_in_pytorch(dims, swapped):
    x = numbered((2, 3, 4))
    np.testing.assert_array_equal(Tensor(x).transpose(*dims).data, np.swapaxes(x, *dims).astype(np.float32))
    assert transpose(Tensor(x), *dims).shape == swapped
    check_gradients(lambda t: t.transpose(*dims), normal((2, 3, 4)))


@pytest.mark.parametrize("dims", [(0, 2), (0, 3), (-3, 0), (-4, 0)])
def test_transpose_of_an_axis_that_is_not_there_is_refused(dims):
    with pytest.raises(
        ValueError, match=f"transpose: dims must be axes of a tensor with 2, got {dims[0]} and {dims[1]}"
    ):
        Tensor(np.zeros((2, 3))).transpose(*dims)


# --- indexing ------------------------------------------------------------------------------------------------------

INDICES = {
    "int": 1,
    "negative int": -1,
    "all ints": (1, 2, 3),
    "slice": slice(1, None),
    "steps": (slice(None), slice(None, None, 2)),
    "negative steps": (slice(None, None, -1), slice(2, 0, -1)),
    "ellipsis": (..., 0),
    "middle ellipsis": (0, ..., slice(1, 3)),
    "new axis": (None, slice(None), None, 1),
    "list": [1, 0],
    "repeated": np.array([0, 1, 1, 1, 0]),
    "repeated pairs": (np.array([0, 1, 0, 0]), slice(None), np.array([2, 2, 2, 3])),
    "mask": numbered((2, 3, 4)) % 3 == 0,
    "row mask": np.array([True, False]),
    "range with repeats": range(-2, 2),
    "numpy int": np.int64(1),
    "nothing": slice(0, 0),
    "empty list": (slice(None), np.array([], int)),
}


@pytest.mark.parametrize("name", INDICES)
def test_indexing_takes_what_numpy_takes_and_gradients_add_up_where_it_was_taken(name):
    index = INDICES[name]
    x = Tensor(numbered((2, 3, 4)), requires_grad=True)
    y = x[index]
    np.testing.assert_array_equal(y.data, x.data[index])
    u = normal(y.shape, 7)
    y.backward(u)
    expected = np.zeros(24)
    for number, cotangent in zip(y.data.ravel(), u.ravel(), strict=True):
        expected[int(number)] += cotangent  # each number of `numbered` is its own place
    np.testing.assert_allclose(x.grad, expected.reshape(2, 3, 4), rtol=1e-14)


def test_the_gradient_of_slices_is_not_added_element_by_element(monkeypatch):
    """That takes 60 times as long."""

    class WithoutAdd:
        def __getattr__(self, name):
            assert name != "add"
            return getattr(np, name)

    monkeypatch.setattr(movement, "np", WithoutAdd())
    x = Tensor(numbered((2, 3, 4)), requires_grad=True)
    for index in (1, np.int64(1), slice(1), ..., None, (0, ..., None, slice(1, 3))):
        x[index].sum().backward()
    with pytest.raises(AssertionError):
        x[[0, 0]].sum().backward()


def test_an_index_out_of_range_is_refused():
    with pytest.raises(IndexError, match="index 5 is out of bounds for axis 0 with size 2"):
        Tensor([1.0, 2.0])[5]


def test_iterating_yields_rows():
    assert [row.shape for row in Tensor(np.zeros((2, 3)))] == [(3,), (3,)]


# --- cat -----------------------------------------------------------------------------------------------------------


@given(
    shape=SHAPES,
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    where=strategies.seeds(),
    seed=strategies.seeds(),
)
def test_cat_lays_tensors_one_behind_another(shape, counts, where, seed):
    dim = where % (2 * len(shape)) - len(shape)
    arrays = []
    for i, count in enumerate(counts):
        sizes = list(shape)
        sizes[dim] = count
        arrays.append(normal(tuple(sizes), seed + i))
    y = ops.cat([Tensor(a) for a in arrays], dim)
    rows = [row for a in arrays for row in np.moveaxis(a, dim, 0)]
    assert len(rows) == y.shape[dim]
    for row, expected in zip(np.moveaxis(y.data, dim, 0), rows, strict=True):
        np.testing.assert_array_equal(row, expected)
    check_gradients(lambda *xs: ops.cat(xs, dim), *arrays, seed=seed)


def test_a_tensor_joined_to_itself_gets_both_gradients():
    check_gradients(lambda x: ops.cat([x, x, x * 2]), normal((2, 3), 1))


def test_cat_joins_along_the_first_axis_unless_told():
    assert ops.cat([Tensor(np.ones((2, 3))), Tensor(np.ones((1, 3)))]).shape == (3, 3)


def test_cat_of_nothing_or_of_shapes_that_differ_is_refused():
    with pytest.raises(ValueError, match="cat: expected at least one tensor"):
        ops.cat([])
    with pytest.raises(ValueError, match="must match exactly"):
        ops.cat([Tensor(np.zeros((1, 2))), Tensor(np.zeros((1, 3)))])


# --- pad -----------------------------------------------------------------------------------------------------------


@given(
    lead=st.lists(st.integers(0, 2), max_size=2),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.one_of(st.integers(0, 2), st.tuples(*[st.integers(0, 2)] * 4)),
    value=st.sampled_from([0.0, -1.5]),
    seed=strategies.seeds(),
)
def test_pad_puts_a_frame_around_the_last_two_axes(lead, size, padding, value, seed):
    x = normal((*lead, *size), seed)
    y = ops.pad(Tensor(x), padding, value=value).data
    left, right, top, bottom = padding if isinstance(padding, tuple) else (padding,) * 4
    assert y.shape == (*lead, top + size[0] + bottom, left + size[1] + right)
    for *n, i, j in np.ndindex(y.shape):
        inside = top <= i < top + size[0] and left <= j < left + size[1]
        assert y[(*n, i, j)] == (x[(*n, i - top, j - left)] if inside else value)
    check_gradients(lambda t: ops.pad(t, padding, value=value), x, seed=seed)


def test_pad_frames_with_zeros_unless_told():
    assert ops.pad(Tensor(np.ones((1, 1))), 1).data.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("padding", [-1, (0, 0, 0, -1), (1, 1), (1, 1, 1, 1, 1, 1)])
def test_a_padding_that_is_no_frame_is_refused(padding):
    with pytest.raises(ValueError, match=r"pad: padding must be a width or \(left, right, top, bottom\)"):
        ops.pad(Tensor(np.zeros((2, 2))), padding)


def test_a_tensor_without_two_axes_cannot_be_framed():
    with pytest.raises(ValueError, match=r"pad: x must have two axes or more, got shape \(3,\)"):
        ops.pad(Tensor(np.zeros(3)), 1)


def test_strided_inputs_move_like_contiguous_ones():
    x = strided(normal((2, 3), 1))
    check_gradients(lambda t: ops.cat([t.reshape(6), ops.pad(t, 1)[1:3, 1:4].transpose(0, 1).reshape(6)]), x)
