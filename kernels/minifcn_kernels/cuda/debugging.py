"""Where gdb can stop: what ``debug`` says of each kernel in which it cannot.

gdb is silent about a breakpoint that is never met, and moves one on a line without code to the next line that has some.
"""

import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

Index = tuple[int, int, int]


class Watch:
    """Watches launches, as `emulation`'s ``announce``, for one in which ``thread`` of ``block`` can come to ``at``.

    Args:
        at: ``FILE:LINE``; empty for wherever a kernel begins.
    """

    def __init__(self, at: str, block: Index, thread: Index) -> None:
        self.at, self.block, self.thread = at, block, thread
        self.possible = False
        self._known: set[str] = set()

    def __call__(self, library: str, kernel: str, grid: Index, block: Index) -> None:
        reason = self._obstacle(library, grid, block)
        self.possible |= reason is None
        if reason is not None and library not in self._known:
            _say(f"{kernel} cannot stop there: {reason}")
        self._known.add(library)

    def _obstacle(self, library: str, grid: Index, block: Index) -> str | None:
        for what, index, size in (("block", self.block, grid), ("thread", self.thread, block)):
            if any(i >= n for i, n in zip(index, size, strict=True)):
                return f"no {what} is {_shown(index)}, for it has {' × '.join(map(str, size))} of them"
        if not self.at:
            return None
        file, _, line = self.at.rpartition(":")
        code = _code(library)
        if Path(file).name not in code:
            return f"its code is in {', '.join(sorted(code))}, none of it in {file}"
        lines = code[Path(file).name]
        if int(line) in lines:
            return None
        return f"{self.at} holds none of its code; gdb takes the next line that does, of {_runs(lines)}"

    def end(self, target: str) -> None:
        """Say that ``target`` has run to its end, and what it means if gdb has not stopped."""
        there = f"thread {_shown(self.thread)} of block {_shown(self.block)}"
        if self.possible:
            verdict = f"where gdb did not stop, {there} did not come to {self.at or 'a kernel'}"
        elif self._known:
            verdict = f"no kernel could stop at {self.at or 'its beginning'} in {there}"
        else:
            verdict = "it launched no kernel"
        _say(f"{target} has ended; {verdict}")


@cache
def _code(library: str) -> dict[str, list[int]]:
    """Return which lines hold code of a kernel, for every file of CUDA C++ that it is made of."""
    command = ["objdump", "--dwarf=decodedline", library]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines: dict[str, set[int]] = defaultdict(set)
    for file, line in re.findall(r"^(\S+\.cuh?) +(\d+) +0x", table, re.MULTILINE):
        lines[file].add(int(line))
    return {file: sorted(numbers) for file, numbers in lines.items()}


def _runs(lines: list[int]) -> str:
    """Return sorted numbers with their gaps: ``3-5, 9``."""
    gaps = [i for i, (a, b) in enumerate(pairwise(lines), 1) if b > a + 1]
    runs = [lines[i:j] for i, j in pairwise([0, *gaps, len(lines)])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _shown(index: Index) -> str:
    return f"({','.join(map(str, index))})"


def _say(text: str) -> None:
    sys.stderr.write(f"debug: {text}\n")
