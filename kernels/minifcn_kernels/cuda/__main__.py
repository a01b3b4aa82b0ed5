"""Tools for learners, without a GPU: ``python -m minifcn_kernels.cuda check | coalescing | debug | compile``.

Each takes the name of a kernel of `minifcn_kernels`, such as ``conv2d``, and runs it on a few small odd shapes; or a
Python script of yours that launches kernels of its own through `launch.CudaSource`.
"""

import argparse
import os
import runpy
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from minifcn_kernels.cuda import coalescing, compilation
from minifcn_kernels.cuda.debugging import Watch
from minifcn_kernels.cuda.emulator import build, emulation
from minifcn_kernels.cuda.emulator.build import CompileError
from minifcn_kernels.cuda.emulator.library import KernelError
from minifcn_kernels.cuda.samples import KERNELS, Sample, samples

_ORDERS = ("ascending", "descending", "shuffled", "shuffled otherwise")
# Of the largest output: float32 sums of a few hundred terms against the reference's, and the like in float64.
_TOLERANCES = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
_TF32_TOLERANCE = 2e-3  # factors have 10 bits of mantissa: a product of two is off by up to 2⁻¹⁰


class Mismatch(Exception):
    """A kernel's result is not that of its reference."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a tool; returns the process's exit code: 0, 1 if a kernel is at fault, 2 for bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = words.index("--") if "--" in words else len(words)  # what follows is gdb's
    options = _parser().parse_args(words[:own], argparse.Namespace(gdb=words[own + 1 :]))
    try:
        reason = compilation.missing() if options.name == "compile" else build.missing()
        if reason is not None:
            raise RuntimeError(reason)
        options.tool(options)
    except (KernelError, CompileError, Mismatch) as error:
        _say(f"FAULT: {error}")
        return 1
    except (ValueError, RuntimeError) as error:
        sys.stderr.write(f"{options.name}: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m minifcn_kernels.cuda", description=__doc__)
    tools = parser.add_subparsers(required=True, metavar="TOOL")
    what = f"{', '.join(KERNELS)}; or your script, NAME.py"
    for name, tool, summary in (
        ("check", _check, "find races, bad addresses, divergent barriers, unwritten memory, in four thread orders"),
        ("coalescing", _coalescing, "sectors per request and bank conflicts, line by line"),
        ("debug", _debug, "stop gdb in one CUDA thread; what follows -- is given to gdb"),
        ("compile", _compile, "compile for GPUs that are not here: registers and spills of every kernel"),
    ):
        command = tools.add_parser(name, help=summary, description=summary)
        command.set_defaults(tool=tool, name=name)
        if name != "compile":
            command.add_argument("target", metavar="KERNEL", help=what)
            command.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="what to give to the script")
        if name == "debug":
            command.add_argument("--thread", type=_index, default=(0, 0, 0), help="x,y,z in its block (default: 0,0,0)")
            command.add_argument("--block", type=_index, default=(0, 0, 0), help="x,y,z in the grid (default: 0,0,0)")
            command.add_argument(
                "--at",
                type=_place,
                metavar="FILE:LINE",
                help="where to stop (default: where the first kernel begins)",
            )
    return parser


def _index(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if not 1 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"must be x, or x,y or x,y,z, got {text!r}")
    x, y, z = (*map(int, parts), 0, 0)[:3]
    return x, y, z


def _place(text: str) -> str:
    file, _, line = text.rpartition(":")
    if not file or not line.isdecimal():
        raise argparse.ArgumentTypeError(f"must be FILE:LINE, got {text!r}")
    return text


@dataclass(frozen=True, slots=True)
class Script:
    """A script of the user's, and what it is given."""

    path: str
    arguments: list[str]

    def __str__(self) -> str:
        return " ".join([self.path, *self.arguments])


Run: TypeAlias = Sample | Script


def _runs(target: str, arguments: list[str]) -> list[Run]:
    """Return what ``target`` names: a kernel's samples, or one script."""
    if target.endswith(".py"):
        if not Path(target).exists():
            raise ValueError(f"there is no script {target}")
        return [Script(target, arguments)]
    if target not in KERNELS:
        raise ValueError(f"there is no kernel {target!r}; choose one of {', '.join(KERNELS)}, or name a script.py")
    if arguments:
        raise ValueError(f"{target} is a kernel and takes no arguments, got {' '.join(arguments)}; a script would")
    return list(samples(target))


def _run(run: Run) -> None:
    """Run a script, or a sample whose results have to be right."""
    if isinstance(run, Script):
        before = sys.argv
        sys.argv = [run.path, *run.arguments]
        try:
            runpy.run_path(run.path, run_name="__main__")
        finally:
            sys.argv = before
        return
    for got, expected in zip(run.run("emulator"), run.run("numpy"), strict=True):
        tolerance = _TF32_TOLERANCE if run.tf32 else _TOLERANCES.get(expected.dtype, 0)
        allowed = tolerance * np.abs(expected).max(initial=0)
        off = np.abs(got - expected).max(initial=0)
        if not off <= allowed:
            raise Mismatch(f"{run}: the result is off by {off:.3g}, more than rounding's {allowed:.3g}")


def _check(options: argparse.Namespace) -> None:
    for run in _runs(options.target, options.arguments):
        for order, name in enumerate(_ORDERS):
            with emulation("check", order=order), _named(run, name):
                _run(run)
        _say(f"ok    {run}")
    _say("No fault found: memory, races, barriers and initialisation, in four thread orders")


@contextmanager
def _named(run: Run, order: str) -> Iterator[None]:
    try:
        yield
    except KernelError as error:
        raise KernelError(f"{error}\n       in {run}, threads {order}") from None


def _coalescing(options: argparse.Namespace) -> None:
    for run in _runs(options.target, options.arguments):
        _say(f"{run}, block 0 of every launch:")
        shown: set[str] = set()

        def show(library: str, accesses: Any, shown: set[str] = shown) -> None:
            if library not in shown:  # the first launch of each kernel
                shown.add(library)
                for line in coalescing.report(library, accesses):
                    _say(f"  {line}")

        with emulation("check", trace=show):
            _run(run)


def _debug(options: argparse.Namespace) -> None:
    """Become gdb, which runs this module again: mode debug, a breakpoint that one thread alone meets."""
    if shutil.which("gdb") is None:
        raise RuntimeError("debug needs gdb; install it (Debian, Ubuntu: apt install gdb)")
    _runs(options.target, options.arguments)
    condition = " && ".join(
        f"emulator::registers.{register}.{axis} == {value}"
        for register, index in (("thread_index", options.thread), ("block_index", options.block))
        for axis, value in zip("xyz", index, strict=True)
    )
    commands = ["set breakpoint pending on", f"break {options.at or 'emulator_entry'} if {condition}", "run"]
    if options.at is None:
        commands.append("step")  # from the way in to the kernel's first line
    words = [word for command in commands for word in ("-ex", command)]
    again = "import sys; from minifcn_kernels.cuda.__main__ import run_once; sys.exit(run_once(*sys.argv[1:]))"
    where = options.at or "", *(",".join(map(str, index)) for index in (options.block, options.thread))
    python = sys.executable, "-c", again, options.target, *where, *options.arguments
    os.execvp("gdb", ["gdb", "-q", *words, *options.gdb, "--args", *python])


def run_once(target: str, at: str, block: str, thread: str, *arguments: str) -> int:
    """Run a kernel's first sample, or a script: what gdb is given to run. Returns the process's exit code."""
    watch = Watch(at, _index(block), _index(thread))
    try:
        with emulation("debug", announce=watch):
            _run(_runs(target, list(arguments))[0])
    except (KernelError, CompileError, Mismatch) as error:
        _say(f"FAULT: {error}")
        return 1
    finally:
        watch.end(target)
    return 0


def _compile(_: argparse.Namespace) -> None:
    for architecture in compilation.ARCHITECTURES:
        for source in compilation.sources():
            for cost in compilation.compile_for(source, architecture):
                _say(str(cost))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
