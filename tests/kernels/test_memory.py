"""Memory is used again only when nobody can see it any more."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn_kernels import memory

MEGABYTE = 2**20
# Each step makes a result of so many megabytes in one of six places, and drops what was there.
STEPS = st.lists(st.tuples(st.integers(4, 20), st.integers(0, 5)), max_size=40)


@pytest.fixture(autouse=True)
def pool(monkeypatch):
    """A pool of the test's own."""
    monkeypatch.setattr(memory, "_pool", memory._Pool())
    return memory._pool


def result(megabytes):
    return memory.empty((megabytes, MEGABYTE), np.uint8)


def address(array):
    return array.ctypes.data


def test_a_large_result_lies_where_one_was_that_is_gone(pool):
    first = memory.empty((3, MEGABYTE), np.float32)
    assert (first.shape, first.dtype) == ((3, MEGABYTE), np.float32)
    assert first.flags.c_contiguous
    assert first.flags.writeable
    place = address(first)
    del first
    assert address(memory.empty((2, 3, MEGABYTE // 4), np.float64)) == place  # of another shape, but as many bytes
    assert pool.used == 0


@pytest.mark.parametrize(
    "look",
    [
        lambda array: array[1:2, 5:],
        lambda array: array.T,
        lambda array: array.reshape(-1)[7:],
        lambda array: array.view(np.int32),
        lambda array: np.broadcast_to(array, (2, *array.shape)),
        memoryview,
    ],
    ids=["slice", "transposed", "flat", "other dtype", "broadcast", "buffer"],
)
def test_a_view_keeps_the_memory(pool, look):
    array = result(12)
    place, view = address(array), look(array)
    del array
    assert address(result(12)) != place
    pool.idle.clear()
    del view
    assert [address(block) for block in pool.idle] == [place]


def test_small_results_are_left_to_numpy(pool):
    assert memory.empty((10, 10), np.float64).shape == (10, 10)
    assert memory.empty((0, 5), np.float32).shape == (0, 5)
    assert memory.empty((), np.float32).shape == ()
    assert pool.most_used == 0


def test_a_result_does_not_lie_in_a_block_much_larger_than_itself(pool):
    large, other = result(16), result(16)
    del large
    small = result(12)
    assert pool.used == other.nbytes + small.nbytes


@given(steps=STEPS)
def test_results_that_live_share_nothing_and_keep_their_values(steps):
    live = {}
    for number, (megabytes, place) in enumerate(steps):
        live.pop(place, None)
        array = result(megabytes)
        array[:, ::4096] = number
        live[place] = array[1:], number
        for view, value in live.values():
            assert (view[:, ::4096] == value).all()


@given(steps=STEPS)
def test_used_and_idle_memory_together_are_no_more_than_was_once_used(steps):
    pool = memory._pool = memory._Pool()
    live, most = {}, 0
    for megabytes, place in steps:
        live.pop(place, None)
        live[place] = result(megabytes)
        needed = sum(array.nbytes for array in live.values())
        most = max(most, needed)
        assert needed <= pool.used <= memory.SPARE * needed
        assert pool.used + sum(map(len, pool.idle)) <= memory.SPARE * most
    live.clear()
    assert pool.used == 0


def test_no_more_is_kept_than_the_most(pool, monkeypatch):
    monkeypatch.setattr(pool, "most_idle", 20 * MEGABYTE)
    arrays = [result(8) for _ in range(5)]
    places = [address(array) for array in arrays]
    while arrays:
        arrays.pop(0)
    assert [address(block) for block in pool.idle] == places[-2:]  # what was idle for the longest is given back first


def test_idle_memory_is_given_back_when_there_is_too_little(pool, monkeypatch):
    used, *others = [result(8) for _ in range(3)]
    others.clear()
    failures = iter([MemoryError])
    empty = np.empty

    def scarce(*arguments):
        for failure in failures:
            raise failure
        return empty(*arguments)

    monkeypatch.setattr(memory.np, "empty", scarce)
    small = result(4)
    assert pool.used == used.nbytes + small.nbytes
    assert pool.idle == []


def test_a_lease_that_ends_while_the_pool_is_locked_waits(pool):
    array = result(8)
    with pool._lock:
        del array  # as the garbage collector might, in the midst of `take`
        assert pool.idle == []
    other = result(20)
    assert len(pool.idle) <= 1
    assert pool.used == other.nbytes


def test_threads_get_memory_of_their_own(pool):
    start = threading.Barrier(4)

    def work(number):
        start.wait()
        for _ in range(50):
            array = result(4)
            array[:, ::4096] = number
            assert (array[:, ::4096] == number).all()
            del array

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert pool.used == 0


def test_scratch_memory_begins_a_cache_line_and_is_kept_by_its_thread():
    (first,) = memory.scratch_memory(np.float32, (1000,))
    longer, matrix = memory.scratch_memory(np.float32, (5000,), (2, 30))
    assert first.shape == (1000,)
    assert (longer.shape, matrix.shape) == ((5000,), (2, 30))
    assert not np.shares_memory(longer, matrix)
    assert longer.ctypes.data % memory.CACHE_LINE == 0
    assert np.shares_memory(longer, memory.scratch_memory(np.float32, (3000,))[0])
    assert not np.shares_memory(longer, memory.scratch_memory(np.int64, (1500,))[0])
    with ThreadPoolExecutor(1) as thread:
        assert not np.shares_memory(longer, thread.submit(memory.scratch_memory, np.float32, (3000,)).result()[0])


def test_whole_lines():
    assert memory.whole_lines(4, 0, 1, 16, 17) == (0, 16, 16, 32)
    assert memory.whole_lines(8, 1, 8, 9) == (8, 8, 16)


@pytest.mark.parametrize("item_bytes", [4, 8])
def test_rows_of_odd_lines_lie_no_page_apart(item_bytes):
    for count in range(1, 3000):
        row = memory.odd_lines(item_bytes, count) * item_bytes
        assert count * item_bytes <= row < count * item_bytes + 2 * memory.CACHE_LINE
        assert row % memory.CACHE_LINE == 0
        assert all(rows * row % 4096 for rows in range(1, 64))
