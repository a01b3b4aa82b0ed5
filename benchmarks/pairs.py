"""How two implementations are compared: in turn (A B A B …), in one process, on the same arrays and as many threads."""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# PyTorch's threads keep spinning after their work and would slow down what follows. Read when a runtime starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numba
import numpy as np
import torch

from minifcn_kernels.tile import ROWS, VECTOR_BYTES, VECTORS, tile

SECONDS = 1.0  # to spend on each pair, after the warm-up


class Pair(NamedTuple):
    """The same work twice. ``work`` counts it, in FLOPs or in bytes; the results of both must agree."""

    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    work: float


class Times(NamedTuple):
    """Medians in seconds, and the median of the ratios pair by pair: above 1, minifcn is faster."""

    ours: float
    theirs: float
    ratio: float


def set_threads(threads: int) -> None:
    """Let both compute on as many threads."""
    numba.set_num_threads(threads)
    torch.set_num_threads(threads)


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(pair: Pair) -> Times:
    """Check that both agree, which also warms them up, and time them in turn."""
    for ours, theirs in zip(_arrays(pair.ours()), _arrays(pair.theirs()), strict=True):
        # Within the error of Winograd's convolution, the one algorithm here that trades accuracy for speed.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * np.abs(theirs).max(), err_msg=pair.name)
    times = []
    until = time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < until:
        times.append((seconds(pair.ours), seconds(pair.theirs)))
    a, b = zip(*times, strict=True)
    return Times(statistics.median(a), statistics.median(b), statistics.median(t / s for s, t in times))


def _arrays(result: Any) -> list[Any]:
    results = result if isinstance(result, tuple) else (result,)
    return [r.detach().numpy() if isinstance(r, torch.Tensor) else r for r in results]


def peak_flops() -> float:
    """Measure the float32 FLOPs a second of one core: the register tile over operands in the first-level cache."""
    depth, lanes = 256, VECTOR_BYTES // 4
    a, b, c = (np.ones(size, np.float32) for size in (depth * ROWS, depth * VECTORS * lanes, ROWS * VECTORS * lanes))
    d = np.arange(depth)
    starts = np.arange(VECTORS) * lanes
    repeats = 20_000
    run = (c, a, d * ROWS, b, starts, d * VECTORS * lanes, repeats)
    _repeat_tile(*run)
    best = min(seconds(lambda: _repeat_tile(*run)) for _ in range(10))
    return 2.0 * ROWS * VECTORS * lanes * depth * repeats / best


@numba.njit
def _repeat_tile(c: Any, a: Any, a_offsets: Any, b: Any, b_starts: Any, b_offsets: Any, repeats: int) -> None:
    for _ in range(repeats):
        tile(
            len(a_offsets),
            *(a, 0, 1, a_offsets),
            *(b, b_starts, 0, b_offsets),
            *(c, 0, VECTORS * VECTOR_BYTES // c.itemsize),
        )


def copy_bandwidth() -> float:
    """Measure the bytes a second that copying a large array moves, read and written, on the threads that are set."""
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    best = min(seconds(lambda: target.copy_(source)) for _ in range(7))
    return 2.0 * source.nbytes / best
