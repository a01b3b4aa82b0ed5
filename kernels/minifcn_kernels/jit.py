"""The one typed wrapper of Numba: flags, cache folder, and a word to the user when the first run compiles.

Three habits of Numba are mended here, once, for every kernel:

* **Stale code.** A cached function is not recompiled when a helper in another file changes. So every op has a cache
  folder named by a hash of its own sources and of those that all ops share: new sources, new folder.
* **Racing processes.** Two processes that compile two signatures of one function overwrite each other's index.
  So every signature has a folder of its own, in which all writers write the same.
* **Two copies of everything.** Numba compiles once more for a read-only argument, and once more for a strided
  one. So signatures are declared: every array is a read-only C-contiguous one (the dispatcher makes it
  contiguous, a kernel never writes to its arguments), and one specialisation per dtype serves all.

Two kinds of arguments may be written to. One is named ``out`` or ``out_…``, the result, which the caller has made (see
`memory.empty`) and whose values mean nothing yet. The other is named ``scratch`` or ``scratch_…``, memory to work in
that is touched once and for all: see `memory.scratch_memory`.

A kernel makes no arrays itself, so Numba need not count references to arrays. It counts them atomically, for every
slice, and all threads use the same counter: that took up to half the time of a small convolution.
"""

import hashlib
import inspect
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config, event, types
from numba.core.types.containers import Tuple
from numpy.typing import NDArray

from minifcn_kernels.threads import share_out
from minifcn_kernels.tile import VECTOR_BYTES

Array = NDArray[Any]

# What the compiler may assume. Sums may be reordered and a multiply-add fused (both decided when compiling, so
# results stay the same from run to run); NaN, infinity and their comparisons keep their meaning, which
# `fastmath=True` would give up.
_FASTMATH = {"contract", "reassoc", "arcp", "nsz"}

# What reading a damaged cache file has been seen to raise; none of them is a compile error of Numba's.
_DAMAGED = (EOFError, pickle.UnpicklingError, ValueError, LookupError, AttributeError, ImportError)

_lock = threading.RLock()


class Compiled:
    """A loop over units of work that compiles itself, for the types of its arguments, when it is first run.

    It is a function of ``first`` and ``last``, the range of units to do, and further arguments: arrays (C-contiguous,
    never written to except ``out``, ``out_…``, ``scratch`` and ``scratch_…``), ints, floats, bools and tuples of ints.
    It returns nothing and makes no arrays, though it may slice those it has. Units may be done in any order and side by
    side. Under ``NUMBA_DISABLE_JIT=1`` it stays a Python function.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self._specialisations: dict[tuple[Any, ...], Callable[..., None]] = {}

    def over(self, units: int, *arguments: Any) -> None:
        """Do ``units`` units, shared out among threads; compile for these arguments' types first if need be."""
        key = tuple([(a.dtype.char, a.ndim) if isinstance(a, np.ndarray) else type(a) for a in arguments])
        specialised = self._specialisations.get(key)
        if specialised is None:
            with _lock:
                specialised = self._specialisations[key] = _specialise(self.function, arguments)
        try:
            specialised(units, arguments)
        except SystemError as error:
            # What Numba makes of a Ctrl-C that comes while it hands a result over to Python.
            if isinstance(_first_cause(error), KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def compiled(function: Callable[..., Any]) -> Compiled:
    """Decorate a kernel, a loop over the units from ``first`` to ``last``: compiled lazily, parallel, kept on disk."""
    return Compiled(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a helper of compiled functions: it becomes part of whatever calls it."""
    return _inlined(function, _FASTMATH)


def inlined_in_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a helper whose rounding matters: as `inlined`, but sums and products stay in the order written down."""
    return _inlined(function, {"contract"})


def _inlined(function: Callable[..., Any], fastmath: set[str]) -> Callable[..., Any]:
    # Always inlined. Left to LLVM, a large helper may be called, and the linker takes whichever copy of it came first:
    # in the process that compiles, one that was optimised on its own, with other bits than later processes get.
    # Never called from Python, it needs no wrapper for that: a sixth less to compile.
    helper: Callable[..., Any] = numba.njit(
        fastmath=fastmath, error_model="numpy", forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True
    )(function)
    return helper


def _specialise(function: Callable[..., None], arguments: tuple[Any, ...]) -> Callable[..., None]:
    """Return a function of the number of units and of a tuple of such ``arguments``."""
    if config.DISABLE_JIT:
        return lambda units, arguments: function(0, units, *arguments)
    names = list(inspect.signature(function).parameters)[2:]
    signature = tuple(_argument_type(name, a) for name, a in zip(names, arguments, strict=True))
    name = hashlib.sha256(str(signature).encode()).hexdigest()[:12]
    folder = cache_folder(Path(inspect.getfile(function)).parent)
    folder /= f"{function.__module__.rpartition('.')[2]}.{function.__name__}-{name}"

    def build() -> Callable[..., None]:
        # With a signature given, Numba loads or compiles at once and refuses to compile anything else later.
        range_of_units = types.int64, types.int64
        # Without Numba's runtime nothing counts references, and a kernel that makes an array does not compile.
        work = _compile(function, (*range_of_units, *signature), no_cpython_wrapper=True, _nrt=False)
        launch = _compile(_launch, (types.int64, *range_of_units, Tuple(signature)), nogil=True)
        (made,) = work.overloads.values()
        address = made.library.get_pointer_to_function(made.fndesc.llvm_func_name)
        return lambda units, arguments: launch(address, units, numba.get_num_threads(), arguments)

    numba.get_num_threads()  # starts the threads, without which no compiled code can be loaded
    with _numba_settings(folder), event.install_listener("numba:compile", _announcer):
        try:
            return build()
        except _DAMAGED as error:
            if not folder.exists():
                raise
            _say(f"the compiled kernel in {folder} is damaged ({error!r}); compiling it anew")
            shutil.rmtree(folder)
            return build()


def _compile(function: Callable[..., None], arguments: tuple[Any, ...], **options: bool) -> Any:
    compile_now = numba.njit(
        types.void(*arguments),
        cache=True,
        fastmath=_FASTMATH,
        error_model="numpy",
        no_cfunc_wrapper=True,
        **options,
    )
    return compile_now(function)


def _launch(work: int, units: int, threads: int, arguments: tuple[Any, ...]) -> None:
    share_out(work, units, threads, arguments)


def _argument_type(name: str, argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        element = numba.from_dtype(argument.dtype)
        written = name.partition("_")[0] in ("out", "scratch")
        return types.Array(element, argument.ndim, "C", readonly=not written)
    return numba.typeof(argument)


@lru_cache
def cache_folder(op: Path) -> Path:
    """Return the folder that holds the compiled kernels whose sources lie in folder ``op``.

    It is named by a hash of these sources and of the package's files beside this one, which every kernel may use. It
    is made private: compiled code is stored pickled, and whoever can write there can run code as the user.
    """
    digest = hashlib.sha256()
    for source in sorted({*Path(__file__).parent.glob("*.py"), *op.glob("*.py")}):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    # Numba's own key covers the CPU, but not these.
    for part in (numba.__version__, llvmlite.__version__, np.__version__, config.BOUNDSCHECK, VECTOR_BYTES):
        digest.update(str(part).encode())
    folder = cache_home() / f"{op.name}-{digest.hexdigest()[:16]}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def cache_home() -> Path:
    """Return where compiled code is kept: ``NUMBA_CACHE_DIR`` if it is set, else our folder among the user's caches."""
    user_caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NUMBA_CACHE_DIR") or Path(user_caches) / "minifcn")


@contextmanager
def _numba_settings(folder: Path) -> Iterator[None]:
    """Point Numba's cache to ``folder`` for a moment, and compile a quarter faster.

    Both settings are global, and the user relies on them, too. LLVM's level 3 makes no kernel here faster than its
    level 2 does, and takes 14 seconds in place of 10.7 for the largest.
    """
    before = config.CACHE_DIR, config.OPT
    config.CACHE_DIR, config.OPT = str(folder), min(config.OPT, type(config.OPT)(2))
    try:
        yield
    finally:
        config.CACHE_DIR, config.OPT = before


class _Announcer(event.Listener):  # type: ignore[misc]  # Numba ships no types
    """Says once per process that kernels are being compiled, so that a quiet half minute does not look like a hang."""

    announced = False

    def on_start(self, event: event.Event) -> None:
        if not self.announced:
            self.announced = True
            _say(f"compiling kernels for this CPU (once; later runs load them from {cache_home()})")

    def on_end(self, event: event.Event) -> None:
        pass


_announcer = _Announcer()


def _say(message: str) -> None:
    sys.stderr.write(f"minifcn: {message}\n")
    sys.stderr.flush()
