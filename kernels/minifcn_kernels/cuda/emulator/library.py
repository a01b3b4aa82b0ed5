"""A compiled kernel, loaded: hands it its arguments, and makes a Python error of what the machine objects to."""

import ctypes
import re
import subprocess
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minifcn_kernels.cuda.emulator import Emulation
from minifcn_kernels.cuda.emulator.build import HEADERS, HERE, build_kernel
from minifcn_kernels.cuda.signature import Parameter

# One access of a kernel, as the checker notes it down: checker.cpp's `Traced`.
TRACED = np.dtype(
    [("code", "u8"), ("address", "u8"), ("thread", "u4"), ("size", "u2"), ("write", "u1"), ("shared", "u1")]
)
# Arrays begin where CUDA lets them begin, and have a margin on both sides that nobody may write to.
_ALIGNMENT = 256
_MARGIN_BYTE = 0xFF  # floats of such bytes are NaN

_lock = threading.Lock()  # there is one machine in a process


class KernelError(RuntimeError):
    """A kernel did what CUDA forbids; the message names the block, the thread and the line."""


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("item_size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("writable", ctypes.c_int),
    )


class _Launch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_size_t),
        ("order", ctypes.c_uint),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("buffer_count", ctypes.c_size_t),
        ("checking", ctypes.c_int),
        ("tracing", ctypes.c_int),
    )


class _DeviceArray:
    """A copy of an array in memory of its own, as on a device."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.nbytes = array.nbytes
        memory = np.full(array.nbytes + 3 * _ALIGNMENT, _MARGIN_BYTE, np.uint8)
        begin = _ALIGNMENT + -memory.ctypes.data % _ALIGNMENT
        self._memory = memory
        self._begin = begin
        self.array = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array

    def is_overrun(self) -> bool:
        """Tell whether a margin was written to."""
        margins = self._memory[: self._begin], self._memory[self._begin + self.nbytes :]
        return any((margin != _MARGIN_BYTE).any() for margin in margins)


def launch(
    source: Path,
    kernel: str,
    parameters: Sequence[Parameter],
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    arguments: Sequence[Any],
    shared_bytes: int,
    emulation: Emulation,
) -> None:
    """Compile ``kernel`` if need be, and run it on ``arguments``, which are checked already.

    Raises:
        CompileError: the compiler refuses the source.
        KernelError: the kernel did what CUDA forbids.
    """
    library = _load(source, kernel, tuple(p.type for p in parameters), emulation.mode)
    if emulation.announce is not None:
        emulation.announce(library._name, kernel, grid, block)
    values: list[Any] = []
    devices: list[tuple[Parameter, NDArray[Any], _DeviceArray]] = []
    for parameter, argument in zip(parameters, arguments, strict=True):
        if parameter.pointer:
            device = _DeviceArray(argument)
            devices.append((parameter, argument, device))
            argument = np.array(device.array.ctypes.data)
        values.append(np.asarray(argument))
    buffers = [
        _Buffer(d.array.ctypes.data, a.nbytes, a.itemsize, f"argument {p.name}".encode(), not p.const)
        for p, a, d in devices
    ]
    pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
    wanted = _Launch(
        ctypes.cast(library.emulator_entry, ctypes.c_void_p),
        pointers,
        (ctypes.c_uint * 3)(*grid),
        (ctypes.c_uint * 3)(*block),
        shared_bytes,
        emulation.order,
        (_Buffer * len(buffers))(*buffers),
        len(buffers),
        emulation.mode == "check",
        emulation.trace is not None,
    )
    with _lock:
        error = library.emulator_launch(ctypes.byref(wanted))
        if emulation.trace is not None:
            emulation.trace(library._name, _accesses(library))
    for parameter, argument, device in devices:
        if error is None and device.is_overrun():
            error = f"writes beside argument {parameter.name}; mode 'check' tells where".encode()
        if not parameter.const:
            argument[...] = device.array
    if error is not None:
        raise KernelError(f"{kernel}: {_with_lines(error.decode(), library._name)}")


def _accesses(library: ctypes.CDLL) -> NDArray[Any]:
    count = ctypes.c_size_t()
    start = library.emulator_trace(ctypes.byref(count))
    return np.frombuffer(ctypes.string_at(start, count.value * TRACED.itemsize), TRACED)


@cache
def _load(source: Path, kernel: str, types: tuple[str, ...], mode: str) -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_kernel(source, kernel, types, mode)))
    library.emulator_launch.restype = ctypes.c_char_p
    library.emulator_trace.restype = ctypes.c_void_p
    return library


def _with_lines(message: str, library: str) -> str:
    return re.sub(r"\{([0-9a-f]+)\}", lambda code: "at " + line_at(library, int(code[1], 16)), message)


@cache
def line_at(library: str, code: int) -> str:
    """Return ``file:line`` of the call that returns to ``code``, an offset in ``library``."""
    command = ["addr2line", "-i", "-e", library, hex(code - 1)]
    frames = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    # From the innermost inlined function outwards: what stands in our headers happened where it was called from.
    places = [frame.split(" (")[0] for frame in frames]
    own = [place for place in places if Path(place).parent not in (HERE, HEADERS)]
    return Path((own or places)[0]).name
