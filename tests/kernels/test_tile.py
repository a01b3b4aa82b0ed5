"""The register tile, alone: against NumPy, on operands that lie scattered in memory."""

import re

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geometry import SEEDS, whole
from minifcn.random import stream
from minifcn_kernels.moves import (
    clear_vector,
    group_of,
    interleave,
    interleave_two,
    move_every_second,
    move_few,
    move_number,
    move_vector,
)
from minifcn_kernels.tile import (
    ROW_GROUP,
    ROWS,
    VECTOR_BYTES,
    VECTORS,
    dot_tile,
    next_vectors,
    part_tile,
    tile,
    vector_unit,
)

DTYPES = (np.float32, np.float64)


@numba.njit
def run_tile(out, depth, a, a_first, a_step, a_offsets, b, b_starts, first_start, b_offsets, c_first, c_step):
    tile(depth, a, a_first, a_step, a_offsets, b, b_starts, first_start, b_offsets, out, c_first, c_step)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, depth=st.integers(1, 40))
def test_a_tile_is_a_matrix_product_of_scattered_operands(dtype, seed, depth):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    a, b, c = (whole(seed + i, 1000, dtype) for i in range(3))
    place = stream(seed)
    a_first, first_start, c_first = (int(n) for n in place.integers(0, 5, 3))
    a_step, c_step = int(place.integers(0, 20)), VECTORS * lanes + int(place.integers(0, 5))
    a_offsets = place.integers(0, 1000 - 5 - 20 * ROWS, depth)
    b_starts, b_offsets = place.integers(0, 400, first_start + VECTORS), place.integers(0, 500, depth)

    expected = c.copy()
    for m in range(ROWS):
        left = a[a_first + m * a_step + a_offsets]  # (depth,)
        for v in range(VECTORS):
            right = b[b_starts[first_start + v] + b_offsets[:, None] + np.arange(lanes)]  # (depth, lanes)
            first = c_first + m * c_step + v * lanes
            expected[first : first + lanes] += left @ right

    run_tile(c, depth, a, a_first, a_step, a_offsets, b, b_starts, first_start, b_offsets, c_first, c_step)
    np.testing.assert_array_equal(c, expected)


@numba.njit
def run_part_tile(out, vectors, depth, a, a_places, a_step, a_offsets, b, b_starts, b_offsets, c_step):
    part_tile(vectors, depth, a, a_places, a_step, a_offsets, b, b_starts, 1, b_offsets, out, 2, c_step)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", range(1, VECTORS + 1))
@given(seed=SEEDS, depth=st.integers(1, 40))
def test_a_part_of_a_tile_leaves_the_rest_alone_and_rows_may_lie_in_groups(dtype, vectors, seed, depth):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    a, b, c = (whole(seed + i, 1000, dtype) for i in range(3))
    place = stream(seed)
    a_step, c_step = int(place.integers(0, 20)), vectors * lanes + int(place.integers(0, 5))
    a_places, a_offsets = place.integers(0, 400, ROWS // ROW_GROUP), place.integers(0, 500, depth)
    b_starts, b_offsets = place.integers(0, 400, 1 + vectors), place.integers(0, 500, depth)

    expected = c.copy()
    for m in range(ROWS):
        left = a[a_places[m // ROW_GROUP] + m % ROW_GROUP * a_step + a_offsets]  # (depth,)
        for v in range(vectors):
            right = b[b_starts[1 + v] + b_offsets[:, None] + np.arange(lanes)]  # (depth, lanes)
            first = 2 + m * c_step + v * lanes
            expected[first : first + lanes] += left @ right

    run_part_tile(c, vectors, depth, a, a_places, a_step, a_offsets, b, b_starts, b_offsets, c_step)
    np.testing.assert_array_equal(c, expected)


@numba.njit
def run_next_vectors(left):
    return next_vectors(left)


def test_no_vector_is_left_alone_if_it_can_be_helped():
    for vectors in range(1, 40):
        taken = []
        while sum(taken) < vectors:
            taken.append(run_next_vectors(vectors - sum(taken)))
        assert sum(taken) == vectors
        assert max(taken) <= VECTORS
        assert min(taken) > 1 or vectors == 1
        assert len(taken) == -(-vectors // VECTORS)


@numba.njit
def run_fresh_tile(out, fresh, a, a_offsets, b, b_starts, b_offsets, bias, bias_first):
    depth, width = len(a_offsets), VECTORS * VECTOR_BYTES // out.itemsize
    tile(depth, a, 0, 1, a_offsets, b, b_starts, 0, b_offsets, out, 0, width, fresh, bias, bias_first)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, depth=st.integers(1, 20), bias_first=st.integers(0, 3))
def test_a_fresh_tile_begins_with_the_bias_of_its_rows_and_another_with_what_is_there(dtype, seed, depth, bias_first):
    width = VECTORS * VECTOR_BYTES // np.dtype(dtype).itemsize
    a, b, c = (
        whole(seed, (depth, ROWS), dtype),
        whole(seed + 1, (depth, width), dtype),
        whole(seed + 2, (ROWS, width), dtype),
    )
    # What is in a fresh tile must not be read.
    bias = whole(seed + 3, bias_first + ROWS, dtype)
    step, starts = np.arange(depth), np.arange(VECTORS) * (width // VECTORS)
    for fresh in (False, True):
        first = np.where(fresh, bias[bias_first:, None], c)
        sums = np.full_like(c, np.nan) if fresh else c.copy()
        run_fresh_tile(
            sums.reshape(-1),
            fresh,
            a.reshape(-1),
            step * ROWS,
            b.reshape(-1),
            starts,
            step * width,
            bias,
            bias_first,
        )
        np.testing.assert_array_equal(sums, first + a.T @ b)


@numba.njit
def run_dot_tile(out, depth, a, a_first, a_step, b, b_starts, first_start, b_offsets, c_first, c_step):
    dot_tile(depth, a, a_first, a_step, b, b_starts, first_start, b_offsets, out, c_first, c_step)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=SEEDS, depth=st.integers(1, 20))
def test_a_dot_tile_adds_up_along_its_vectors(dtype, seed, depth):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    a, b, c = (whole(seed + i, 4000, dtype) for i in range(3))
    place = stream(seed)
    a_first, first_start, c_first = (int(n) for n in place.integers(0, 5, 3))
    a_step, c_step = int(place.integers(0, 300)), VECTORS + int(place.integers(0, 5))
    b_starts, b_offsets = place.integers(0, 400, first_start + VECTORS), place.integers(0, 500, depth)

    expected = c.copy()
    for m in range(ROWS):
        left = a[a_first + m * a_step :][: depth * lanes].reshape(depth, lanes)
        for v in range(VECTORS):
            right = b[b_starts[first_start + v] + b_offsets[:, None] + np.arange(lanes)]  # (depth, lanes)
            expected[c_first + m * c_step + v] += (left * right).sum()

    run_dot_tile(c, depth, a, a_first, a_step, b, b_starts, first_start, b_offsets, c_first, c_step)
    np.testing.assert_array_equal(c, expected)


@numba.njit
def run_moves(out, interleaved, source, rows):
    move_vector(out, 3, source, 5)
    interleave(interleaved, 1, ROWS + 3, source, 2, 70, rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", range(1, ROWS + 1))
def test_vectors_are_moved_and_interleaved(dtype, rows):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    group = min(ROWS, lanes)
    rows = min(rows, group)
    source = np.arange(1000, dtype=dtype)
    source[2 + (rows - 1) * 70 + lanes :] = np.nan  # what follows the last row must not be read
    moved, flat = np.full(100, -1, dtype), np.full(1 + lanes * (ROWS + 3), -1, dtype)
    run_moves(moved, flat, source, rows)
    np.testing.assert_array_equal(moved, [-1] * 3 + source[5 : 5 + lanes].tolist() + [-1] * (100 - 3 - lanes))
    interleaved = flat[1:].reshape(lanes, ROWS + 3)
    columns = 2 + np.arange(rows) * 70 + np.arange(lanes)[:, None]  # (lanes, rows)
    np.testing.assert_array_equal(interleaved[:, :rows], columns)
    assert not np.isnan(interleaved).any()
    assert (interleaved[:, group:] == -1).all()
    assert flat[0] == -1


@numba.njit
def run_group_of(array):
    return group_of(array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_rows_that_are_turned_together_divide_those_of_a_tile_and_its_columns(dtype):
    array = np.zeros(1, dtype)
    group, lanes = run_group_of(array), VECTOR_BYTES // array.itemsize
    assert group > 1
    assert ROWS % group == VECTORS * lanes % group == 0


@numba.njit
def run_move_every_second(out, source, first):
    move_every_second(out, 3, source, first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_second_number_is_moved(dtype):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    source, moved = np.arange(100, dtype=dtype), np.full(100, -1, dtype)
    run_move_every_second(moved, source, 5)
    expected = [-1] * 3 + source[5 : 5 + 2 * lanes : 2].tolist() + [-1] * (100 - 3 - lanes)
    np.testing.assert_array_equal(moved, expected)


@numba.njit
def run_small_moves(out, source, few, number, pairs, count):
    clear_vector(out, 1)
    move_few(out, few, source, 5, count)
    move_number(out, number, source, 7)
    interleave_two(out, pairs, source, 3, 50)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_few_numbers_are_moved_and_two_rows_interleaved(dtype):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    source = np.arange(100, dtype=dtype)
    few, number = 1 + lanes, 1 + 2 * lanes
    pairs = number + 1
    for count in range(lanes):
        out = np.full(pairs + 2 * lanes + 1, -1, dtype)
        run_small_moves(out, source, few, number, pairs, count)
        moved = source[5 : 5 + count].tolist() + [-1] * (lanes - count)
        mixed = np.stack([source[3 : 3 + lanes], source[50 : 50 + lanes]], axis=1).reshape(-1).tolist()
        np.testing.assert_array_equal(out, [-1, *[0] * lanes, *moved, source[7], *mixed, -1])


def test_a_number_is_moved_by_an_atomic_load():
    """No compiler makes that part of a vector. Whether it would gather a plain one depends on all that is around it."""

    @numba.njit
    def move_apart(out, source, step, count):
        for j in range(count):
            move_number(out, j * step, source, j * step)

    numbers = np.zeros(100, np.float32)
    move_apart(numbers, numbers, 3, 10)
    (code,) = move_apart.inspect_llvm().values()
    assert re.search("load atomic (i32|float), ", code)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_keep_their_meaning(dtype):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    a, b = np.full(ROWS, np.inf, dtype), np.ones(VECTORS * lanes, dtype)
    b[0], b[1] = 0, -1
    c = np.zeros(ROWS * VECTORS * lanes, dtype)
    zero, starts = np.zeros(1, np.int64), np.arange(VECTORS) * lanes
    run_tile(c, 1, a, 0, 1, zero, b, starts, 0, zero, 0, VECTORS * lanes)
    assert np.isnan(c[0])
    assert c[1] == -np.inf
    assert c[2] == np.inf


def test_the_tile_uses_the_registers_and_not_more():
    """ROWS · VECTORS sums, VECTORS numbers of b, one of a: 16 registers with AVX2, at most 32 with AVX-512 and NEON."""
    registers = {32: 16, 64: 32, 16: 32}[VECTOR_BYTES]
    assert ROWS * VECTORS + VECTORS + 1 <= registers < 2 * ROWS * VECTORS + VECTORS + 1


@pytest.mark.parametrize(
    ("machine", "cpu_name", "features", "expected"),
    [
        ("x86_64", None, {"avx512f": True}, (64, 32)),
        ("x86_64", None, {"avx512f": False}, (32, 16)),
        ("AMD64", None, {}, (32, 16)),
        ("x86_64", "haswell", {"avx512f": True}, (32, 16)),
        ("aarch64", None, {}, (16, 32)),
        ("arm64", None, {}, (16, 32)),
        ("ARM64", None, {}, (16, 32)),
    ],
)
def test_the_vector_unit_is_that_of_the_cpu_that_is_compiled_for(machine, cpu_name, features, expected):
    assert vector_unit(machine, cpu_name, features) == expected


def test_the_products_may_be_fused_and_nothing_else():
    """More licence would let the compiler reorder sums, or take NaN and infinity for impossible."""
    numbers, places = np.zeros(ROWS * VECTORS * VECTOR_BYTES, np.float32), np.zeros(VECTORS, np.int64)
    run_tile(numbers, 1, numbers, 0, 0, places, numbers, places, 0, places, 0, VECTORS * VECTOR_BYTES // 4)
    for code in run_tile.inspect_llvm().values():
        products = re.findall(r"fmul (.*)<\d+ x ", code)
        assert set(products) == {"contract "}
