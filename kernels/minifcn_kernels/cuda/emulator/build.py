"""Compile kernels for the CPU, once: a private cache whose entries are named by all that they are made of.

An entry ends in a digest of itself. One that does not match, because a disk was full or a file was cut, is built anew.
Entries appear by a rename, so processes may race: the last one wins, and all of them are right.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from minifcn_kernels.jit import cache_home

HERE = Path(__file__).parent
HEADERS = HERE.parent / "include"

_COMMON = ["-std=c++17", "-fPIC", "-Wall", "-fno-gnu-unique"]  # unique: libraries would share a template's statics
_MACHINE = ["-O2", "-g", "-U_FORTIFY_SOURCE"]  # fortified, longjmp refuses to leave one stack for another
# In DWARF 5, addr2line (binutils 2.40) takes an included file for the one that includes it; hence version 4 below.
_KERNEL = ["-fno-extern-tls-init", "-Wno-unknown-pragmas", "-Wno-unused"]
# A library has the shared memory of its own kernel, not of all in the file: what the entry does not reach is left out.
_KERNEL += ["-fvisibility=hidden", "-ffunction-sections", "-fdata-sections"]
_LINK = ["-shared", "-Wl,--gc-sections", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN"]  # some kernels need no machine
_MODES = {
    "fast": ["-O2"],
    "check": ["-O1", "-gdwarf-4", "-fsanitize=thread", "-fsanitize=bounds,alignment,integer-divide-by-zero"],
    "debug": ["-O0", "-g3"],  # with macros, so that gdb knows threadIdx
}
_DIGEST_BYTES = hashlib.sha256().digest_size


class CompileError(RuntimeError):
    """A ``.cu`` file does not compile; the message is the compiler's, with file and line."""


@cache
def missing() -> str | None:
    """Return what the emulator lacks on this machine, and how to mend it; None if it can run."""
    if sys.platform != "linux":
        return f"the emulator runs on Linux only, not on {sys.platform}"
    for tool, package in (("g++", "g++"), ("addr2line", "binutils")):
        if shutil.which(tool) is None:
            return f"the emulator needs {tool}; install it (Debian, Ubuntu: apt install {package})"
    return None


def build_kernel(source: Path, kernel: str, types: tuple[str, ...], mode: str) -> Path:
    """Return the library of one kernel in ``source``, a name or an instantiation, with parameters of these C++ types.

    Raises:
        CompileError: the compiler refuses it.
    """
    # gdb has to find the file; for the rest it is known by its content, wherever it lies.
    entry = _entry(source if mode == "debug" else Path(source.name), kernel, types)
    flags = [*_COMMON, *_KERNEL, *_MODES[mode]]
    machine = _build_machine()
    path = _folder() / f"{source.stem}-{_key([source, *beside(source), *_sources()], [entry, *flags, *_LINK])}.so"
    if not _is_whole(path):
        with _workplace() as folder:
            (folder / "entry.cpp").write_text(entry)
            includes: list[str | Path] = ["-include", HERE / "dialect.h", "-I", HEADERS, "-I", source.parent]
            _compile([*flags, *includes, "-c", folder / "entry.cpp", "-o", folder / "entry.o"])
            _compile([*_LINK, folder / "entry.o", machine, "-o", folder / "library"])
            _put(folder / "library", path)
    return path


def _entry(included: Path, kernel: str, types: tuple[str, ...]) -> str:
    """Return what every CUDA thread of a launch runs, with pointers to the arguments: a call of the kernel.

    The parameters were read from the kernel's text; the compiler confirms that they were read well.
    """
    arguments = ", ".join(f"*static_cast<{cpp}*>(arguments[{i}])" for i, cpp in enumerate(types))
    return f"""#include "{included}"
#include <type_traits>
static_assert(std::is_same_v<decltype(&{kernel}), void (*)({", ".join(types)})>, "the launcher misread the parameters");
extern "C" EXPORTED NOT_CHECKED void emulator_entry(void** arguments) {{ {kernel}({arguments}); }}
"""


def beside(source: Path) -> list[Path]:
    """Return the files that ``source`` may include by their name."""
    return sorted([*source.parent.glob("*.cuh"), *source.parent.glob("*.h")])


def _build_machine() -> Path:
    """Return the library of the machine and the checker, which all kernels share."""
    flags = [*_COMMON, *_MACHINE]
    path = _folder() / f"machine-{_key(_sources(), flags)}.so"
    if not _is_whole(path):
        with _workplace() as folder:
            sources = sorted(HERE.glob("*.cpp"))
            _compile([*flags, "-shared", *sources, f"-Wl,-soname,{path.name}", "-o", folder / "library"])
            _put(folder / "library", path)
    return path


def _sources() -> list[Path]:
    return sorted([*HERE.glob("*.h"), *HERE.glob("*.cpp"), *HEADERS.glob("*")])


def _key(files: list[Path], words: list[str]) -> str:
    digest = hashlib.sha256(_compiler_version().encode())
    for file in files:
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    digest.update("\0".join(words).encode())
    return digest.hexdigest()[:24]


@cache
def _compiler_version() -> str:
    reason = missing()
    if reason is not None:
        raise RuntimeError(reason)
    return subprocess.run(["g++", "-v"], capture_output=True, text=True, check=True).stderr


def _folder() -> Path:
    """Return the cache. It is private: who can write there can run code as the user."""
    folder = cache_home() / "emulator"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def _workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=_folder()) as name:
        yield Path(name)


def _compile(arguments: list[str | Path]) -> None:
    process = subprocess.run(["g++", *map(str, arguments)], capture_output=True, text=True, check=False)
    if process.returncode:
        raise CompileError(process.stderr.strip())


def _put(built: Path, path: Path) -> None:
    content = built.read_bytes()
    built.write_bytes(content + hashlib.sha256(content).digest())  # the loader ignores what follows the last section
    os.replace(built, path)


def _is_whole(path: Path) -> bool:
    if not path.exists():
        return False
    content = path.read_bytes()
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]
