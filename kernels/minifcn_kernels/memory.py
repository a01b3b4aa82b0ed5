"""Memory for results, and memory to work in: what is large is used again, because the system's is slow at first.

The system hands memory out cleared, page by page, when it is first touched, and takes it back as soon as it is free. To
fill 125 MB of fresh memory, a map of 64 channels at 700×700 pixels, takes 9 ms; to copy as much to memory that was used
before, 7 ms. And to clear pages drives all else from the caches. It was a tenth of the time of a convolution with 64
channels, and a quarter with 3.

Two kinds of memory are kept:

* **Results** (`empty`): an array says that it lies in a *lease* of some memory, and so does, by way of that array,
  every view of it. When the last of them is gone, so is the lease, and its memory serves the next result of that size.
  Nothing has to be given back by hand, and nothing can be given back too early.
* **Scratch memory** (`scratch_memory`), which nobody keeps beyond a call: see there.
"""

import threading
from collections import deque
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minifcn_kernels.jit import Array

CACHE_LINE = 64  # bytes
# From so many bytes on NumPy asks for huge pages, which the system hands out cleared.
LEAST = 2**22
# Idle memory that is kept, at most; and never so much that a process takes more than what it once used at a time.
MOST_IDLE = 2**29
# A result may lie in memory that is larger than it by this factor.
SPARE = 1.25


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an array like `np.empty`: its values mean nothing, and it shares its memory with no other."""
    size = prod(shape) * np.dtype(dtype).itemsize
    if size < LEAST:
        return np.empty(shape, dtype)
    memory = np.asarray(_Lease(_pool, size))
    return memory[:size].view(dtype).reshape(shape)


class _Lease:
    """The owner of an array's memory; gives it back when the array and all its views are gone."""

    def __init__(self, pool: "_Pool", size: int) -> None:
        self.pool, self.block = pool, pool.take(size)
        self.__array_interface__ = self.block.__array_interface__

    def __del__(self) -> None:
        self.pool.give_back(self.block)


class _Pool:
    """Blocks of memory that nobody uses, the one idle for the longest first."""

    def __init__(self) -> None:
        self.idle: list[Array] = []
        self.most_idle = MOST_IDLE  # kept here: the last leases end when Python does, and the module's names are gone
        self.used = self.most_used = 0  # bytes
        # A lease may end at any moment, even while this very thread has the lock: then its block waits here.
        self._returned: deque[Array] = deque()
        self._lock = threading.Lock()

    def take(self, size: int) -> Array:
        """Return a block of at least so many bytes."""
        with self._lock:
            self._collect()
            fitting = [block for block in self.idle if size <= len(block) <= SPARE * size]
            if fitting:
                block = min(fitting, key=len)
                self.idle = [other for other in self.idle if other is not block]
            else:
                self.most_used = max(self.most_used, self.used + size)
                self._keep(self.most_used - self.used - size)
                try:
                    block = np.empty(size, np.uint8)
                except MemoryError:
                    self._keep(0)
                    block = np.empty(size, np.uint8)
            self.used += len(block)
            self.most_used = max(self.most_used, self.used)
        return block

    def give_back(self, block: Array) -> None:
        """Take back a block."""
        self._returned.append(block)
        if self._lock.acquire(blocking=False):
            try:
                self._collect()
            finally:
                self._lock.release()

    def _collect(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self.used -= len(block)
            self.idle.append(block)
        self._keep(self.most_idle)

    def _keep(self, most: int) -> None:
        """Give idle blocks back to the system until no more than so many bytes are idle."""
        while sum(map(len, self.idle)) > most:
            self.idle.pop(0)


_pool = _Pool()


class _Kept(threading.local):
    """The scratch memory of a Python thread."""

    def __init__(self) -> None:
        self.by_dtype: dict[np.dtype[Any], Array] = {}


_kept = _Kept()


def scratch_memory(dtype: DTypeLike, *shapes: tuple[int, ...]) -> list[Array]:
    """Return arrays of these shapes for a compiled function to work in, the first at the start of a cache line.

    Their values mean nothing. The memory is kept for the next call for this dtype from the same Python thread, because
    the first touch of fresh memory costs a page fault for every 4 KB: 4 ms for 8 MB, more than many a convolution. So
    what is needed at the same time has to come from one call. Kernels get a row for each thread, and take the one that
    `numba.get_thread_id` says.
    """
    dtype = np.dtype(dtype)
    sizes = [prod(shape) for shape in shapes]
    memory: Array | None = _kept.by_dtype.get(dtype)
    if memory is None or len(memory) < sum(sizes):
        fresh = np.empty(sum(sizes) * dtype.itemsize + CACHE_LINE, np.uint8)
        begin = -fresh.ctypes.data % CACHE_LINE
        memory = _kept.by_dtype[dtype] = fresh[begin:][: sum(sizes) * dtype.itemsize].view(dtype)
    ends = accumulate(sizes)
    return [memory[end - size : end].reshape(shape) for end, size, shape in zip(ends, sizes, shapes, strict=True)]


def whole_lines(item_bytes: int, *counts: int) -> tuple[int, ...]:
    """Round each count of numbers up to whole cache lines, so that what follows in memory begins with a line, too.

    Vectors that cross two lines take twice as long, and a line that two threads write to wanders between their caches.
    """
    in_line = CACHE_LINE // item_bytes
    return tuple(-(-count // in_line) * in_line for count in counts)


def odd_lines(item_bytes: int, count: int) -> int:
    """Round a row's count of numbers up to an odd number of cache lines.

    Rows that are read and written side by side must not lie a multiple of 4096 bytes apart: a processor takes a load
    for one of what was just stored, if the last twelve bits of their addresses are the same, and waits.
    """
    (whole,) = whole_lines(item_bytes, count)
    return whole | CACHE_LINE // item_bytes
