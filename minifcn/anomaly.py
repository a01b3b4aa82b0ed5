"""`detect_anomaly`: stop at the op that makes a NaN or an infinity, and say where it was called."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from minifcn_kernels.jit import Array

_detecting = ContextVar("detecting", default=False)


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Inside this ``with``, stop at the first op that makes a NaN or an infinity, forward or backward.

    The FloatingPointError names the op and the user's line that called it. Every array is searched through, which
    costs time: a tool for finding a fault, not for training.
    """
    token = _detecting.set(True)
    try:
        yield
    finally:
        _detecting.reset(token)


def detecting() -> bool:
    """Return whether the current code runs inside `detect_anomaly`."""
    return _detecting.get()


def user_line() -> str:
    """Return ``file:line`` of the innermost caller outside the minifcn package."""
    package = f"{Path(__file__).parent}{os.sep}"
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def check(op: str, line: str, made: str, result: Array | None, sources: Sequence[Array | None]) -> None:
    """Raise a FloatingPointError if ``result`` is not finite; ``made`` says which result of ``op`` it is."""
    if result is None or _finite(result):
        return
    kind = "a NaN" if np.isnan(result).any() else "an infinity"
    origin = "from finite values" if all(map(_finite, sources)) else "from values that already held one"
    raise FloatingPointError(f"{op}: {made} holds {kind}, made {origin}; the op was called at {line}")


def _finite(array: Array | None) -> bool:
    return array is None or bool(np.isfinite(array).all())
