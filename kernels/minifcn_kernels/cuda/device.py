"""Where arrays live: NumPy's on the CPU, CuPy's on a GPU. The one place that knows of CuPy.

CuPy is never imported before somebody asks for a GPU. An array of CuPy's can only exist if it has been imported, so
telling the two apart costs no import.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class DeviceError(RuntimeError):
    """A GPU was asked for and there is none that can be used; the message says why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device can run: its name, compute capability, and how large a launch may be."""

    name: str
    capability: tuple[int, int]
    threads: int  # in a block
    block: tuple[int, int, int]
    grid: tuple[int, int, int]
    shared_bytes: int  # of a block


# The emulator stands for an A100: the least capable device that has everything the kernels use.
# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", column 8.0.
EMULATED = Limits(
    name="the emulator (as sm_80)",
    capability=(8, 0),
    threads=1024,
    block=(1024, 1024, 64),
    grid=(2**31 - 1, 65535, 65535),
    shared_bytes=163 << 10,
)


def is_cupy(array: Any) -> bool:
    """Tell whether ``array`` is one of CuPy's."""
    if isinstance(array, np.ndarray):  # the usual case: asked for every input of every op, it has to be quick
        return False
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def is_array(array: Any) -> bool:
    """Tell whether ``array`` is one of NumPy's or of CuPy's."""
    return isinstance(array, np.ndarray) or is_cupy(array)


def module_of(array: Any) -> ModuleType:
    """Return ``numpy`` or ``cupy``, whichever computes on ``array``."""
    return sys.modules["cupy"] if is_cupy(array) else np


def device_of(array: Any) -> str:
    """Return ``"cpu"`` or ``"cuda"``."""
    return "cuda" if is_cupy(array) else "cpu"


def _place(array: Any) -> str:
    return f"GPU {array.device.id}" if is_cupy(array) else "the CPU"


def check_same(where: str, arrays: Sequence[tuple[str, Any]]) -> None:
    """Raise a ValueError that begins with ``where`` and names both unless all named ``arrays`` are in one place."""
    if not any(is_cupy(array) for _, array in arrays):
        return
    (first, there), *others = arrays
    for name, array in others:
        if _place(array) != _place(there):
            raise ValueError(
                f"{where}: {first} is on {_place(there)} but {name} on {_place(array)}; move one of them by .to()"
            )


def span(array: Any) -> tuple[int, int]:
    """Return the addresses of the first byte of a contiguous array and of the first behind it."""
    start: int = array.data.ptr if is_cupy(array) else array.ctypes.data
    return start, start + array.nbytes


@cache
def missing() -> str | None:
    """Return why no GPU can be used, with what to do about it; None if one can."""
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported ({error}); install it: pip install 'minifcn[cuda13]' (or cuda12)"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy finds no GPU: {error}"
    return None if count else "CuPy finds no GPU"


def cupy() -> Any:
    """Return the module ``cupy``.

    Raises:
        DeviceError: there is no GPU, or no CuPy.
    """
    reason = missing()
    if reason is not None:
        raise DeviceError(f"device 'cuda' is not available: {reason}")
    return sys.modules["cupy"]


def to_device(array: Array, name: str) -> Array:
    """Return ``array`` on ``"cpu"`` or ``"cuda"`` (the current GPU); the array itself if it is there already.

    Raises:
        ValueError: no device has that name.
        DeviceError: there is no GPU.
    """
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {name!r}")
    if name == "cuda":
        return cupy().asarray(array)
    return sys.modules["cupy"].asnumpy(array) if is_cupy(array) else array


def current() -> int:
    """Return the number of the current GPU."""
    number: int = cupy().cuda.runtime.getDevice()
    return number


def limits(array: Any) -> Limits:
    """Return the limits of the device that ``array`` is on; those of the emulator for one on the CPU."""
    return _gpu_limits(array.device.id) if is_cupy(array) else EMULATED


def capability_of(device: Any) -> tuple[int, int]:
    """Return the compute capability of one of CuPy's devices, which has it as digits: ``"90"``, ``"120"``."""
    major, minor = divmod(int(device.compute_capability), 10)
    return major, minor


@cache
def _gpu_limits(number: int) -> Limits:
    module = cupy()
    device = module.cuda.Device(number)
    attributes = device.attributes
    return Limits(
        name=module.cuda.runtime.getDeviceProperties(number)["name"].decode(),
        capability=capability_of(device),
        threads=attributes["MaxThreadsPerBlock"],
        block=tuple(attributes[f"MaxBlockDim{axis}"] for axis in "XYZ"),
        grid=tuple(attributes[f"MaxGridDim{axis}"] for axis in "XYZ"),
        shared_bytes=attributes["MaxSharedMemoryPerBlockOptin"],
    )
