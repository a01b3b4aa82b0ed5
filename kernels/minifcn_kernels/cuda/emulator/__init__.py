"""The emulator: ``.cu`` files compiled by g++ and run on the CPU, one fiber for every CUDA thread.

=========== ====================================================================================================
mode        what it is for
=========== ====================================================================================================
``fast``    running nets and tests: optimized; finds divergent barriers, wrong warps, writes beside an argument
``check``   finding bugs: every memory access is held against CUDA's rules (see ``checker.cpp``)
``debug``   stepping through one CUDA thread with gdb
=========== ====================================================================================================

Threads run in turn, and the kernel's author cannot know the turn. So every launch has an ``order``: 0 lets threads and
blocks run ascending, 1 descending, any other number shuffles them. Results that depend on it are wrong.

What it cannot show: speed, memory fences, and whatever happens between blocks that run at the same time.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

MODES = ("fast", "check", "debug")

Trace = Callable[[str, NDArray[Any]], None]
Announce = Callable[[str, str, tuple[int, int, int], tuple[int, int, int]], None]


@dataclass(frozen=True, slots=True)
class Emulation:
    """How the emulator runs launches.

    ``trace``, in mode ``check``, is called after every launch with the library's path and all accesses of block 0;
    ``announce`` before every launch with the library's path, the kernel's name, and the sizes of grid and block.
    """

    mode: str = "fast"
    order: int = 0
    trace: Trace | None = None
    announce: Announce | None = None


def _check_mode(mode: str, source: str) -> str:
    if mode not in MODES:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    return mode


_DEFAULT = Emulation(_check_mode(os.environ.get("MINIFCN_EMULATOR", "fast"), "MINIFCN_EMULATOR"))
_emulation = ContextVar("emulation", default=_DEFAULT)


def current_emulation() -> Emulation:
    """Return how launches run here."""
    return _emulation.get()


@contextmanager
def emulation(
    mode: str, *, order: int = 0, trace: Trace | None = None, announce: Announce | None = None
) -> Iterator[None]:
    """Run the launches of a ``with`` in ``mode`` and thread ``order``; ``MINIFCN_EMULATOR`` sets the default mode.

    `Emulation` says what ``trace`` and ``announce`` are called with.

    Raises:
        ValueError: no such mode, or a negative order.
    """
    if order < 0:
        raise ValueError(f"order must be 0 (ascending), 1 (descending) or the seed of a shuffle, got {order}")
    token = _emulation.set(Emulation(_check_mode(mode, "mode"), order, trace, announce))
    try:
        yield
    finally:
        _emulation.reset(token)
