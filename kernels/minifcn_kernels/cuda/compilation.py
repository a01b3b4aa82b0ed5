"""Compile kernels for GPUs that are not here, and see what they cost: registers, shared memory, spills.

By nvcc where it is installed, else by NVRTC out of the wheels ``nvidia-cuda-nvrtc`` and ``nvidia-cuda-runtime``.
A spill is a variable that found no register and lives in (slow) local memory.
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path

from minifcn_kernels.cuda.emulator.build import HEADERS, CompileError
from minifcn_kernels.cuda.launch import CudaSource

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")
_TF32_SINCE = "sm_80"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one kernel takes of a multiprocessor; bytes of static shared memory, and of registers spilled."""

    kernel: str
    architecture: str
    registers: int
    shared_bytes: int
    spilled_bytes: int

    def __str__(self) -> str:
        spills = f"{self.spilled_bytes} bytes spilled" if self.spilled_bytes else "no spills"
        return (
            f"{self.kernel:<48} {self.architecture}  {self.registers:>3} registers, "
            f"{self.shared_bytes:>5} bytes of shared memory, {spills}"
        )


def sources() -> list[CudaSource]:
    """Return every ``.cu`` file of the ops."""
    ops = sorted(path.parent.name for path in Path(__file__).parents[1].glob("*/gpu.py"))
    modules = [import_module(f"minifcn_kernels.{op}.gpu") for op in ops]
    return [source for module in modules for source in vars(module).values() if isinstance(source, CudaSource)]


def compile_for(source: CudaSource, architecture: str) -> list[Cost]:
    """Compile every kernel of ``source`` that ``architecture`` (``"sm_75"``) can run.

    Raises:
        CompileError: the compiler refuses the source.
        RuntimeError: there is no compiler; says what to install.
    """
    kernels = source.kernels + (source.from_sm_80 if architecture >= _TF32_SINCE else ())
    if not kernels:
        return []
    # A template that nothing instantiates compiles to nothing.
    instantiations = "".join(f"template {_declaration(source, kernel)};\n" for kernel in kernels if "<" in kernel)
    text = f'#include "{source.path}"\n{instantiations}'
    options = [f"-arch={architecture}", "-std=c++17", f"-I{HEADERS}", f"-I{source.path.parent}", "--ptxas-options=-v"]
    compile_text = _with_nvcc if shutil.which("nvcc") else _with_nvrtc
    costs = {name.replace(" ", ""): cost for name, cost in _costs(compile_text(text, options))}
    return [Cost(kernel, architecture, *costs[kernel.replace(" ", "")]) for kernel in kernels]


def _declaration(source: CudaSource, kernel: str) -> str:
    return f"__global__ void {kernel}({', '.join(p.type for p in source.parameters(kernel))})"


def _with_nvcc(text: str, options: list[str]) -> str:
    """Return what the assembler reports."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cu"
        path.write_text(text)
        command = ["nvcc", "-cubin", *options, str(path), "-o", str(path.with_suffix(".cubin"))]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise CompileError(process.stderr.strip())
    return process.stderr


def _with_nvrtc(text: str, options: list[str]) -> str:
    """Return what the assembler reports."""
    nvrtc = _load_nvrtc()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    try:
        encoded = [option.encode() for option in options]
        error = nvrtc.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if error:
        raise CompileError(log.value.decode().strip())
    return log.value.decode()


def missing() -> str | None:
    """Return what is missing to compile for GPUs, and how to mend it; None if nothing is."""
    if not shutil.which("nvcc") and not _nvrtc_libraries():
        return "compiling for GPUs needs nvcc, or NVRTC: pip install nvidia-cuda-nvrtc"
    if not shutil.which("c++filt"):
        return "reading a compiler's report needs c++filt; install it (Debian, Ubuntu: apt install binutils)"
    return None


def _nvrtc_libraries() -> list[Path]:
    package = util.find_spec("nvidia")
    folders = (package.submodule_search_locations or []) if package else []
    return sorted(library for folder in folders for library in Path(folder).glob("*/lib/libnvrtc.so.*"))


def _load_nvrtc() -> ctypes.CDLL:
    reason = missing()
    if reason is not None:
        raise RuntimeError(reason)
    library = _nvrtc_libraries()[0]
    for builtins in library.parent.glob("libnvrtc-builtins.so.*"):  # which not every version looks for beside itself
        ctypes.CDLL(str(builtins))
    return ctypes.CDLL(str(library))


def _costs(log: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Yield every kernel's name with its registers, shared and spilled bytes, out of the assembler's report."""
    entries = log.split("Compiling entry function '")[1:]
    mangled = [entry.partition("'")[0] for entry in entries]
    names = subprocess.run(["c++filt", *mangled], capture_output=True, text=True, check=True).stdout.splitlines()
    for name, entry in zip(names, entries, strict=True):
        numbers = [
            sum(map(int, re.findall(pattern, entry)))
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes smem", r"(\d+) bytes spill stores")
        ]
        # `void conv2d<float, 64>(float const*, int)`; what is no template has no return type in its name
        yield name.removeprefix("void ").partition("(")[0], (numbers[0], numbers[1], numbers[2])
