"""What ``make bench`` writes to ``runs/performance.md``; or ``python benchmarks/cpu.py [--rows toy1,toy2]``.

One convolution by all algorithms; every row of the layer table, forward and both gradients, with one thread and with
two, against PyTorch; then what memory limits; then whole nets, the engine and its start. Takes about a quarter of an
hour. Needs the extra ``bench``.

GFLOP/s count a convolution's own multiply-adds, padding included, whatever the algorithm saves: so Winograd's may
pass 100 % of the peak.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

# Read when PyTorch is imported, so it is set before: see `pairs`.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
from layers import ROWS, Row, convolution, memory_bound, on_cpu
from pairs import Pair, Times, compare, copy_bandwidth, peak_flops, set_threads

import minifcn_kernels as kernels

HERE = Path(__file__).parent
THREADS = (1, 2)


def main() -> None:
    """Measure, print the tables as they grow, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="only these rows of the layer table, separated by commas, and nothing else")
    parser.add_argument(
        "--threads", type=int, action="append", help="1 and 2 unless given; may be given more than once"
    )
    parser.add_argument("--output", type=Path, help="a Markdown file to write the tables to")
    arguments = parser.parse_args()
    threads = arguments.threads or THREADS
    with arguments.output.open("w") if arguments.output else open(os.devnull, "w") as file:
        table = Table(file)
        table.line(f"{platform.machine()}, {os.cpu_count()} cores, {versions()}.\n")
        if not arguments.rows:
            road(table)
        layers(table, arguments.rows.split(",") if arguments.rows else list(ROWS), threads)
        if not arguments.rows:
            errors(table)
            memory(table, threads)
            nets(table, threads)
            start(table)


class Table:
    """Prints lines of Markdown and writes them to a file."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def line(self, text: str = "") -> None:
        """Add a line."""
        print(text, flush=True)
        print(text, file=self.file, flush=True)

    def header(self, *names: str, left: int = 2) -> None:
        """Begin a table whose first ``left`` columns hold words."""
        self.line("\n| " + " | ".join(names) + " |")
        self.line("|" + "---|" * left + "--:|" * (len(names) - left))

    def row(self, *cells: Any) -> None:
        """Add a row."""
        self.line("| " + " | ".join(map(str, cells)) + " |")


def versions() -> str:
    """Name what is compared."""
    import numba
    import torch

    return f"Python {platform.python_version()}, Numba {numba.__version__}, PyTorch {torch.__version__}"


def road(table: Table) -> None:
    """Compare the ways to compute one convolution, on one thread: see docs/fast-convolution.md."""
    set_threads(1)
    peak = peak_flops()
    table.line("64 → 64 channels, 3×3 filters, 56×56 pixels, one thread.")
    table.header("way", "ms", "GFLOP/s", "of the peak", "PyTorch ms", left=1)
    forward = convolution(Row(1, 64, 64, 56))[0]
    for way in ("reference", "loops", "direct", "winograd"):
        policy = kernels.use_backend("numpy") if way == "reference" else kernels.use_algorithm(way)
        with policy:
            times = compare(forward)
        flops = forward.work / times.ours
        table.row(
            way, f"{times.ours * 1e3:.2f}", f"{flops / 1e9:.1f}", f"{flops / peak:.0%}", f"{times.theirs * 1e3:.2f}"
        )
    table.line()


def layers(table: Table, names: Iterable[str], threads: Iterable[int]) -> None:
    """Compare the convolutions."""
    peak = peak_flops()
    table.line(f"Arithmetic peak of one core, measured: {peak / 1e9:.0f} GFLOP/s.")
    ratios: dict[tuple[str, int], list[float]] = {}
    table.header("row", "sum", "threads", "ms", "GFLOP/s", "of the peak", "PyTorch ms", "ratio")
    for name in names:
        for pair in convolution(ROWS[name]):
            for count, times in on_threads(pair, threads):
                ratios.setdefault((pair.name, count), []).append(times.ratio)
                flops = pair.work / times.ours
                table.row(
                    *(name, pair.name, count, f"{times.ours * 1e3:.2f}", f"{flops / 1e9:.0f}"),
                    *(f"{flops / (peak * count):.0%}", f"{times.theirs * 1e3:.2f}", f"{times.ratio:.2f}"),
                )
    table.header("sum", "threads", "geometric mean of the ratios", "least", left=1)
    for (name, count), values in sorted(ratios.items()):
        table.row(name, count, f"{statistics.geometric_mean(values):.2f}", f"{min(values):.2f}")


def errors(table: Table) -> None:
    """Compare the errors of float32 results, as a share of the results, against float64: root mean squares."""
    table.header("row", "sum", "error, direct", "error, auto", "PyTorch's")
    for name in ("conv5", "fc7", "alex1", "toy2", "dilated"):
        for pair, exact in zip(convolution(ROWS[name]), convolution(ROWS[name], in_float64), strict=True):
            right = exact.theirs().numpy()
            results = []
            for algorithm in ("direct", "auto"):
                with kernels.use_algorithm(algorithm):
                    results.append(pair.ours())
            results.append(pair.theirs().numpy(force=True))
            shares = (np.sqrt(np.mean((r - right) ** 2) / np.mean(right**2)) for r in results)
            table.row(name, pair.name, *(f"{share:.1e}" for share in shares))


def in_float64(array: Any) -> tuple[Any, Any]:
    """Put an array to where its sums are nearly exact."""
    return on_cpu(array.astype(np.float64))


def memory(table: Table, threads: Iterable[int]) -> None:
    """Compare what memory limits."""
    table.header("memory-bound", "threads", "ms", "GB/s", "of a copy's", "PyTorch ms", "ratio", left=1)
    for pair in memory_bound():
        for count, times in on_threads(pair, threads):
            set_threads(count)
            speed = pair.work / times.ours
            table.row(
                *(pair.name, count, f"{times.ours * 1e3:.2f}", f"{speed / 1e9:.1f}"),
                *(f"{speed / copy_bandwidth():.0%}", f"{times.theirs * 1e3:.2f}", f"{times.ratio:.2f}"),
            )


def on_threads(pair: Pair, threads: Iterable[int]) -> Iterator[tuple[int, Times]]:
    """Compare with each number of threads."""
    for count in threads:
        set_threads(count)
        yield count, compare(pair)


def nets(table: Table, threads: Iterable[int]) -> None:
    """Compare whole nets, in processes of their own."""
    table.header("net", "threads", "ms", "PyTorch ms", "ratio", left=1)
    for title, name in (
        ("small FCN-8s, 8×3×128×128, training step", "small"),
        ("FCN-8s VGG16, 500×500, forward", "full forward"),
        ("FCN-8s VGG16, 500×500, forward and backward", "full backward"),
    ):
        for count in threads:
            times = measure(name, "--threads", str(count))
            ours, theirs = (f"{times[who] * 1e3:.0f}" for who in ("ours", "theirs"))
            table.row(title, count, ours, theirs, f"{times['ratio']:.2f}")
    table.header("peak memory, FCN-8s VGG16, 500×500", "GB", "PyTorch GB", left=1)
    for name in ("forward", "backward"):
        ours, theirs = (measure(f"peak {name}{who}")["bytes"] for who in ("", " twin"))
        table.row(name, f"{ours / 1e9:.2f}", f"{theirs / 1e9:.2f}")


def start(table: Table) -> None:
    """Measure the engine's overhead and its start."""
    table.header("engine", "measured", left=1)
    overhead = measure("overhead")
    table.row(
        "one-element add, forward and backward, less NumPy's", f"{(overhead['ours'] - overhead['numpy']) * 1e6:.1f} µs"
    )
    imports = [measure("import")["seconds"] for _ in range(9)]
    table.row("`import minifcn`, median of 9", f"{statistics.median(imports):.2f} s")
    with tempfile.TemporaryDirectory() as cache:
        for state in ("nothing compiled", "compiled"):
            first = measure("first step", NUMBA_CACHE_DIR=cache)["seconds"]
            table.row(f"first training step of a process, {state}", f"{first:.1f} s")


def measure(name: str, *options: str, **environment: str) -> dict[str, Any]:
    """Let `nets` take one measurement in a process of its own."""
    command = [sys.executable, str(HERE / "nets.py"), name, *options]
    shown = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, check=True).stdout
    measured: dict[str, Any] = json.loads(shown)
    return measured


if __name__ == "__main__":
    main()
