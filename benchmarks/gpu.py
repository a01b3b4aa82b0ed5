"""The layer table on a GPU, against PyTorch and cuDNN: ``python benchmarks/gpu.py [--rows …] [--table FILE]``.

Every result is first compared with PyTorch's in float64. Then both run in turn (A B A B …), timed by CUDA events, with
TF32 off for both and with TF32 on for both. A pause on the GPU lets Python queue all calls of a round beforehand, so
that the rows measure kernels, not how fast Python launches them; whole nets are timed without. Inputs rotate among
copies that together are larger than the cache.

The long table goes to ``--table``; the last lines say which results are wrong, if any (then the exit status is 1), and
are a short table. It shows what was measured until then, whatever ends the program early. ``--dry`` goes through the
same comparisons on a machine without a GPU: tiny layers, on the emulator, without times. Where minifcn cannot be
installed, ``PYTHONPATH=.:kernels python benchmarks/gpu.py`` runs it out of the source tree.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from math import gcd
from typing import Any, NamedTuple

import nets
import numpy as np
import torch
from layers import ROWS, Row, convolution, memory_bound
from pairs import Pair

import minifcn_kernels as kernels
from minifcn_kernels.cuda import device

# Relative to the norm of the right result. Winograd's transforms enlarge float32's rounding, TF32 has 10 bits.
LIMITS = {False: 1e-4, True: 2e-3}
CACHE = 128 << 20  # bytes; an H200 has 60 MB of second-level cache
ROUND = 2e-3  # seconds of work that one timing covers, at least
# Multiply-adds in float32 that a multiprocessor does in a cycle, by compute capability (CUDA C++ Programming Guide,
# "Arithmetic Instructions").
LANES = {(7, 5): 64, (8, 0): 64, (8, 6): 128, (8, 9): 128, (9, 0): 128}


class Result(NamedTuple):
    """A row of the table; times in seconds, errors relative to float64."""

    row: str
    sum: str
    tf32: bool
    error: float
    limit: float
    their_error: float
    ours: float
    theirs: float
    work: float

    @property
    def ratio(self) -> float:
        """Above 1, minifcn is faster."""
        return self.theirs / self.ours

    @property
    def is_right(self) -> bool:
        """Whether our error is what the arithmetic explains."""
        return self.error <= self.limit  # a NaN is not


class Gpu:
    """The current GPU, for CuPy and PyTorch alike."""

    def __init__(self, seconds: float) -> None:
        import cupy

        self.cupy, self.seconds = cupy, seconds
        gpu = cupy.cuda.Device()
        attributes = gpu.attributes
        self.clock = attributes["ClockRate"] * 1e3
        self.peak = 2 * self.clock * attributes["MultiProcessorCount"] * LANES.get(device.capability_of(gpu), 128)
        self.name = torch.cuda.get_device_name()
        torch.backends.cudnn.benchmark = True  # let cuDNN choose its best algorithm by trying

    def place(self, array: Any) -> tuple[Any, Any]:
        """Copy an array to the GPU; PyTorch uses the same memory."""
        ours = self.cupy.asarray(array)
        return ours, torch.as_tensor(ours, device="cuda")

    def copies(self, make: Callable[[], list[Pair]], moved: float) -> list[list[Pair]]:
        """Make pairs, with other arrays each time, until their arrays fill the cache."""
        return [make() for _ in range(max(1, min(16, round(CACHE / moved))))]

    def times(self, pairs: list[Pair], pause: bool = True) -> tuple[float, float]:
        """Return the median seconds of a call, ours and theirs."""
        ours, theirs = [p.ours for p in pairs], [p.theirs for p in pairs]
        once = max(self._round(calls, 2, pause) for calls in (ours, theirs))
        count = max(1, min(100, round(ROUND / once)))
        measured = []
        until = time.perf_counter() + self.seconds
        while len(measured) < 5 or time.perf_counter() < until:
            measured.append((self._round(ours, count, pause), self._round(theirs, count, pause)))
        a, b = zip(*measured, strict=True)
        return statistics.median(a), statistics.median(b)

    def _round(self, calls: list[Callable[[], Any]], count: int, pause: bool) -> float:
        """Return the seconds on the GPU of a call, the mean of ``count``."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if pause:  # half a millisecond for a call, to launch them all meanwhile
            torch.cuda._sleep(int(5e-4 * count * self.clock))
        start.record()
        for i in range(count):
            calls[i % len(calls)]()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / count


class Dry:
    """No GPU: the emulator and PyTorch on the CPU, on tiny layers, and no times."""

    name, peak = "the emulator", 1.0

    def place(self, array: Any) -> tuple[Any, Any]:
        """Leave an array where it is."""
        return array, torch.from_numpy(array)

    def copies(self, make: Callable[[], list[Pair]], moved: float) -> list[list[Pair]]:
        """Make pairs once."""
        return [make()]

    def times(self, pairs: list[Pair], pause: bool = True) -> tuple[float, float]:
        """Return no times."""
        return 1.0, 1.0


def tiny(row: Row) -> Row:
    """Shrink a layer to what the emulator computes at once, keeping its kind."""
    groups = gcd(row.groups, 3 if row.groups % 3 == 0 else 2)
    C, K = (min(n, 6 * groups) if row.groups < n else groups for n in (row.C, row.K))
    taps, stride = min(row.taps, 5), min(row.stride, 3)
    padding, dilation = min(row.padding, 2), row.dilation
    size = max(4, dilation * (taps - 1) + 3)
    return Row(row.N, C, K, size, taps, stride, padding, dilation, groups, row.transposed)


@contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """Allow TF32 to both, or to none."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    with kernels.allow_tf32(tf32):
        yield


def relative_error(result: Any, exact: torch.Tensor) -> float:
    """Return ‖result − exact‖ / ‖exact‖."""
    result = torch.as_tensor(result, device=exact.device)
    with torch.no_grad():
        return float((result.double() - exact).norm() / exact.norm())


def errors(tf32: bool, ours: Any, theirs: Any, exact: torch.Tensor, layers: int = 1) -> tuple[float, float, float]:
    """Return our error, what it may be after so many layers, and PyTorch's."""
    return relative_error(ours, exact), layers * LIMITS[tf32], relative_error(theirs, exact)


def in_float64(machine: Any) -> Callable[[Any], tuple[Any, Any]]:
    """Return how to place arrays for the right result: in float64, if they are of floats."""

    def place(array: Any) -> tuple[Any, Any]:
        return machine.place(array.astype(np.float64) if array.dtype == np.float32 else array)

    return place


def compared(
    machine: Any, name: str, make: Callable[[Any], Iterable[Pair]], precisions: Iterable[bool]
) -> Iterator[Result]:
    """Yield the results of a row whose pairs ``make`` makes of a way to place arrays."""
    exact = [pair.theirs() for pair in make(in_float64(machine))]
    exact = [e[0] if isinstance(e, tuple) else e for e in exact]
    moved = 4.0 * sum(e.numel() for e in exact)
    copies = machine.copies(lambda: list(make(machine.place)), moved)
    for tf32 in precisions:
        with precision(tf32):
            for i, (pair, right) in enumerate(zip(copies[0], exact, strict=True)):
                off = errors(tf32, pair.ours(), pair.theirs(), right)
                yield Result(name, pair.name, tf32, *off, *machine.times([copy[i] for copy in copies]), pair.work)


def whole_nets(machine: Gpu) -> Iterator[Result]:
    """Yield the passes of FCN-8s over VGG16 on an image of 500×500, TF32 off and on."""
    task = nets.Task(nets.full_net(), (1, 3, 500, 500))
    twin = nets.TwinTask(task)
    twin.net.cuda()
    twin.x, twin.target = twin.x.cuda(), twin.target.cuda()
    task.net.to("cuda")
    task.x, task.target = (machine.cupy.asarray(array) for array in (task.x, task.target))
    with torch.no_grad():
        exact = copy.deepcopy(twin.net).double()(twin.x.double())
    passes = {"forward": "forward", "backward": "forward and backward"}
    for tf32 in (False, True):
        with precision(tf32):
            off = errors(tf32, task.forward(), twin.forward(), exact, layers=16)
            for method, name in passes.items():
                pair = Pair(name, getattr(task, method), getattr(twin, method), 1.0)
                times = machine.times([pair], pause=False)
                yield Result(f"FCN-8s VGG16, {name}", "whole net", tf32, *off, *times, 1.0)


def shown(result: Result, peak: float, timed: bool) -> str:
    """Return a result as a row of the long table."""
    error = f"{result.error:.1e}" if result.is_right else f"WRONG: {result.error:.1e}"
    cells = [result.row, result.sum, "on" if result.tf32 else "off", error, f"{result.their_error:.1e}"]
    if timed:
        rate = result.work / result.ours
        share = f"{rate / peak:.0%}" if not result.tf32 and result.work > 1 else ""
        cells += [
            f"{result.ours * 1e6:.0f}",
            f"{result.theirs * 1e6:.0f}",
            f"{rate / 1e9:.0f}",
            share,
            f"{result.ratio:.2f}",
        ]
    return "| " + " | ".join(cells) + " |"


def summary(results: list[Result]) -> Iterator[str]:
    """Yield the lines of the short table: geometric means of the ratios, and the slowest row of each kind."""
    yield "| what | TF32 | ratio to PyTorch (geometric mean) | least | at |"
    yield "|---|---|--:|--:|---|"
    kinds = (
        {r.sum: None for r in results if r.row in ROWS}
        | {"": None}
        | {r.row: None for r in results if r.row not in ROWS}
    )
    for kind in kinds:
        for tf32 in (False, True):
            chosen = [r for r in results if r.tf32 == tf32 and (r.sum if r.row in ROWS else r.row) == kind]
            if kind == "":  # the whole table
                chosen = [r for r in results if r.tf32 == tf32 and r.row in ROWS]
            if chosen:
                least = min(chosen, key=lambda r: r.ratio)
                mean = statistics.geometric_mean(r.ratio for r in chosen)
                state, where = "on" if tf32 else "off", f"{least.row}, {least.sum}"
                yield f"| {kind or 'all layers'} | {state} | {mean:.2f} | {least.ratio:.2f} | {where} |"


def main() -> None:
    """Check and measure what is asked for, and print the short table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join([*ROWS, "memory", "nets"]), help="names, separated by commas")
    parser.add_argument("--seconds", type=float, default=0.3, help="to spend on each comparison")
    parser.add_argument(
        "--table", type=argparse.FileType("w"), default=sys.stderr, help="where to write the long table"
    )
    parser.add_argument("--dry", action="store_true", help="check tiny layers on the emulator")
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    for name in names:
        if name not in (*ROWS, "memory", "nets"):
            parser.error(f"--rows: there is no row {name!r}; choose of {', '.join([*ROWS, 'memory', 'nets'])}")
    if not arguments.dry and (reason := device.missing()) is not None:
        parser.error(f"{reason}; --dry needs none")
    machine: Any = Dry() if arguments.dry else Gpu(arguments.seconds)
    versions = f"{machine.name}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
    print(versions, file=arguments.table)
    columns = [
        "row",
        "sum",
        "TF32",
        "error",
        "PyTorch's",
        "µs",
        "PyTorch µs",
        "GFLOP/s or GB/s",
        "of the peak",
        "ratio",
    ]
    columns = columns[:5] if arguments.dry else columns
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), file=arguments.table)
    results: list[Result] = []
    try:
        with kernels.use_backend("emulator") if arguments.dry else nullcontext():
            for result in measured(machine, names, arguments.dry):
                results.append(result)
                print(shown(result, machine.peak, not arguments.dry), file=arguments.table, flush=True)
    finally:
        wrong = [r for r in results if not r.is_right]
        for r in wrong:
            state = "on" if r.tf32 else "off"
            print(f"WRONG: {r.row}, {r.sum}, TF32 {state}: the error is {r.error:.1e}, more than {r.limit:.0e}")
        print(f"{len(results) - len(wrong)} of {len(results)} results agree with float64")
        if not arguments.dry:
            print(versions, *summary(results), sep="\n")
    sys.exit(1 if wrong else 0)


def measured(machine: Any, names: Iterable[str], dry: bool) -> Iterator[Result]:
    """Yield the results of the rows of these names."""
    for name in names:
        if name == "memory":
            for i in range(5):  # one pair at a time: their arrays are large
                pair = lambda place, i=i: [list(memory_bound(place, size=30 if dry else 698))[i]]  # noqa: E731
                yield from compared(machine, "memory", pair, [False])
        elif name == "nets":
            yield from () if dry else whole_nets(machine)
        else:
            row = tiny(ROWS[name]) if dry else ROWS[name]
            yield from compared(machine, name, lambda place, row=row: convolution(row, place), [False, True])


if __name__ == "__main__":
    main()
