"""One launcher for both machines: the arrays of a launch decide whether a GPU runs it, or the emulator.

::

    source = CudaSource(Path(__file__).with_name("axpy.cu"), ["axpy<float>", "axpy<double>"])

    y = empty(x.shape, like=x)
    source.launch("axpy<float>", -(-x.size // 256), 256, 2.0, x, y, x.size)

CuPy arrays go to their GPU, compiled by NVRTC; NumPy arrays go to the emulator, compiled by g++. Arguments are cast and
checked against the C++ source (see `signature`), the launch against the limits of the device. Nothing is ever moved
from one to the other.
"""

import hashlib
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minifcn_kernels.cuda import device
from minifcn_kernels.cuda.device import Limits
from minifcn_kernels.cuda.emulator import current_emulation, library
from minifcn_kernels.cuda.emulator.build import HEADERS, CompileError, beside
from minifcn_kernels.cuda.signature import Parameter, parameters
from minifcn_kernels.dispatch import current_policy

Array = NDArray[Any]
Extent: TypeAlias = int | tuple[int, ...]

# A kernel that wants more dynamic shared memory than this has to tell CUDA so beforehand.
_ASKED_FOR_FROM = 48 << 10


class CudaSource:
    """A ``.cu`` file and the kernels in it that may be launched.

    Args:
        path: the file. What it includes by ``#include "…"`` lies beside it or in ``minifcn_kernels/cuda/include``.
        kernels: names of its kernels; of a template, every instantiation that is used: ``"conv2d<float, 64, 64>"``.
            So the list is all there is to compile, and `compilation` can compile it for devices that are not here.
        from_sm_80: those that need compute capability 8.0, such as TF32 tensor cores.
    """

    def __init__(self, path: Path, kernels: Sequence[str], from_sm_80: Sequence[str] = ()) -> None:
        if isinstance(kernels, str):
            raise TypeError(f"{path.name}: kernels must be a list of names, got the string {kernels!r}")
        self.path = path.resolve()
        self.kernels = tuple(kernels)
        self.from_sm_80 = tuple(from_sm_80)
        self._parameters: dict[str, tuple[Parameter, ...]] = {}

    def launch(self, kernel: str, grid: Extent, block: Extent, *arguments: Any, shared_bytes: int = 0) -> None:
        """Run ``kernel`` with ``grid`` blocks of ``block`` threads on the machine that its arrays belong to.

        Args:
            kernel: one of the names given to the constructor.
            grid, block: an int, or (x, y) or (x, y, z). A grid without blocks does nothing.
            arguments: in the order of the C++ parameters. Arrays are C-contiguous, of the dtype declared, and all of
                one machine; one that is written to shares no memory with another. Numbers are cast. A struct of ints
                is given as a dict.
            shared_bytes: of dynamic shared memory, which a kernel declares as ``extern __shared__ … smem[]``.

        Raises:
            ValueError, TypeError: no such kernel, the device cannot run such a launch, or an argument does not fit.
            CompileError: the source does not compile; names file and line.
            KernelError: the emulator caught the kernel doing what CUDA forbids.
        """
        declared = self.parameters(kernel)
        where = f"{self.path.name}: {kernel}"
        if len(arguments) != len(declared):
            names = ", ".join(p.name for p in declared)
            raise TypeError(f"{where} takes {len(declared)} arguments ({names}), got {len(arguments)}")
        arrays = [(p, a) for p, a in zip(declared, arguments, strict=True) if p.pointer]
        _check_arrays(where, arrays)
        try:
            cast = [a if p.pointer else p.cast(a) for p, a in zip(declared, arguments, strict=True)]
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None
        grid, block = _extent(where, "grid", grid), _extent(where, "block", block)
        on_gpu = device.is_cupy(arrays[0][1])
        limits = device.limits(arrays[0][1])
        _check_limits(where, limits, grid, block, shared_bytes)
        if 0 in grid:
            return
        if on_gpu:
            with arrays[0][1].device:
                function = _gpu_function(self, kernel, device.current())
                _check_function(where, limits, function, block, shared_bytes)
                if shared_bytes > _ASKED_FOR_FROM:
                    function.max_dynamic_shared_size_bytes = shared_bytes
                function(grid, block, tuple(cast), shared_mem=shared_bytes)
        else:
            library.launch(self.path, kernel, declared, grid, block, cast, shared_bytes, current_emulation())

    def parameters(self, kernel: str) -> tuple[Parameter, ...]:
        """Return the C++ parameters of ``kernel``.

        Raises:
            ValueError: it is none of this source's kernels, or has parameters of kinds that cannot be passed.
        """
        if kernel not in self._parameters:
            if kernel not in self.kernels and kernel not in self.from_sm_80:
                raise ValueError(
                    f"{self.path.name}: {kernel!r} is none of its kernels ({', '.join(self.kernels + self.from_sm_80)})"
                )
            try:
                headers = [header.read_text(encoding="utf-8") for header in beside(self.path)]  # may declare a struct
                self._parameters[kernel] = parameters("\n".join([*headers, self.text]), kernel)
            except ValueError as error:
                raise ValueError(f"{self.path}: {kernel}: {error}") from None
        return self._parameters[kernel]

    @cached_property
    def text(self) -> str:
        """The C++ source."""
        return self.path.read_text(encoding="utf-8")


def empty(shape: Sequence[int], *, like: Array, dtype: Any = None) -> Array:
    """Return a fresh array on the machine of ``like``, of its dtype unless another is given, for a kernel to fill.

    For the emulator it is filled with NaN, or with the smallest integer: an element that a kernel forgets shows.
    """
    dtype = np.dtype(like.dtype if dtype is None else dtype)
    if device.is_cupy(like):
        return device.cupy().empty(tuple(shape), dtype)
    unwritten = np.nan if dtype.kind == "f" else np.iinfo(dtype).min
    return np.full(tuple(shape), unwritten, dtype)


def use_tf32(x: Array) -> bool:
    """Tell whether a kernel on ``x`` may multiply in TF32: `allow_tf32` is in force and the numbers are float32.

    Raises:
        RuntimeError: it is in force, and the device has no TF32.
    """
    if not current_policy().allow_tf32 or x.dtype != np.float32:
        return False
    capability = device.limits(x).capability
    if capability < (8, 0):
        raise RuntimeError(
            f"allow_tf32: TF32 needs a device of compute capability 8.0 (Ampere) or later, this one has "
            f"{capability[0]}.{capability[1]}; leave it out"
        )
    return True


@cache
def _gpu_function(source: CudaSource, kernel: str, device_id: int) -> Any:
    """Return ``kernel`` compiled and loaded on the current device, which is ``device_id``."""
    cupy = device.cupy()
    # CuPy's cache knows the source, not what it includes.
    included = hashlib.sha256()
    for header in (*sorted(HEADERS.glob("*")), *beside(source.path)):
        included.update(header.read_bytes())
    options = (
        "-std=c++17",
        f"-I{HEADERS}",
        f"-I{source.path.parent}",
        f"-DMINIFCN_INCLUDED={included.hexdigest()[:16]}",
    )
    code = f'#line 1 "{source.path}"\n{source.text}'  # so that errors name the file and its lines
    module = cupy.RawModule(code=code, options=options, name_expressions=[kernel])
    try:
        return module.get_function(kernel)
    except cupy.cuda.compiler.CompileException as error:
        raise CompileError(str(error)) from None


def _check_arrays(where: str, arrays: list[tuple[Parameter, Any]]) -> None:
    if not arrays:
        raise TypeError(f"{where}: takes no array, so there is no telling where it should run")
    for parameter, array in arrays:
        if not device.is_array(array):
            raise TypeError(f"{where}: {parameter.name} must be a NumPy or CuPy array, got {type(array).__name__}")
        if array.dtype != parameter.dtype:
            raise TypeError(f"{where}: {parameter.name} is {parameter.type}, got an array of {array.dtype}")
        if not array.flags.c_contiguous:
            raise ValueError(f"{where}: {parameter.name} must be C-contiguous")
        if isinstance(array, np.ndarray) and not parameter.const and not array.flags.writeable:
            raise ValueError(f"{where}: {parameter.name} is written to, but the array is read-only")
    device.check_same(where, [(p.name, a) for p, a in arrays])
    spans = [(p, *device.span(array)) for p, array in arrays]
    for written, start, end in spans:
        if not written.const:
            for other, its_start, its_end in spans:
                if other is not written and start < its_end and its_start < end:
                    raise ValueError(f"{where}: {written.name} is written to and shares memory with {other.name}")


def _extent(where: str, name: str, extent: Extent) -> tuple[int, int, int]:
    sizes = extent if isinstance(extent, tuple) else (extent,)
    if not 1 <= len(sizes) <= 3 or not all(isinstance(size, int | np.integer) and size >= 0 for size in sizes):
        raise ValueError(f"{where}: {name} must be one to three ints (x, y, z), none of them negative, got {extent!r}")
    x, y, z = (*map(int, sizes), 1, 1)[:3]
    return x, y, z


def _check_limits(
    where: str, limits: Limits, grid: tuple[int, int, int], block: tuple[int, int, int], shared_bytes: int
) -> None:
    threads = block[0] * block[1] * block[2]
    if not 1 <= threads <= limits.threads or any(b > most for b, most in zip(block, limits.block, strict=True)):
        raise ValueError(
            f"{where}: a block of {block} threads; {limits.name} takes 1 to {limits.threads}, "
            f"and at most {limits.block} along (x, y, z)"
        )
    if any(g > most for g, most in zip(grid, limits.grid, strict=True)):
        raise ValueError(f"{where}: a grid of {grid} blocks; {limits.name} takes at most {limits.grid}")
    if not isinstance(shared_bytes, int | np.integer) or not 0 <= shared_bytes <= limits.shared_bytes:
        raise ValueError(
            f"{where}: {shared_bytes} bytes of dynamic shared memory; a block on {limits.name} can have "
            f"{limits.shared_bytes}"
        )


def _check_function(where: str, limits: Limits, function: Any, block: tuple[int, int, int], shared_bytes: int) -> None:
    """Check what only the compiled kernel tells: its registers, and its shared memory of fixed size."""
    threads = block[0] * block[1] * block[2]
    if threads > function.max_threads_per_block:
        raise ValueError(
            f"{where}: uses so many registers that a block may have {function.max_threads_per_block} threads on "
            f"{limits.name}, not {threads}"
        )
    if function.shared_size_bytes + shared_bytes > limits.shared_bytes:
        raise ValueError(
            f"{where}: {function.shared_size_bytes} bytes of static and {shared_bytes} of dynamic shared memory; "
            f"a block on {limits.name} can have {limits.shared_bytes}"
        )
