"""Nothing in the kernels is idle: each barrier, wait and guard is taken out in turn, and the runs notice.

A mutant is caught if one of the runs, in mode "check", raises: because the checker objects or the result is wrong.
"""

import re
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

import minifcn_kernels as kernels
from backends import needs_emulator
from cuda_runs import RUNS, SOURCES
from minifcn_kernels.cuda.emulator import emulation
from minifcn_kernels.cuda.emulator.library import KernelError
from minifcn_kernels.cuda.launch import CudaSource

pytestmark = needs_emulator

# What may go without anybody noticing, for it only saves time.
IDLE = {
    "step < steps → true": "zeros would be copied behind the end of a sum",
    "t != ignore_index → true": "ignored targets would be checked again, by the host",
    "STRIDE > 0 → false": "the stride would be looked up where the compiler knows it",
}


@dataclass(frozen=True)
class Mutant:
    """A change to a file of kernels: what stands in ``start`` to ``end`` becomes ``after``."""

    file: Path
    start: int
    end: int
    after: str

    @property
    def change(self):
        return f"{self.file.read_text()[self.start : self.end]} → {self.after or 'nothing'}"

    def __str__(self):
        line = self.file.read_text().count("\n", 0, self.start) + 1
        return f"{self.file.name}:{line}: {self.change}"


def closing(text, start):
    """Return the index behind the parenthesis that closes the one at ``start``."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    raise AssertionError("an open parenthesis")


def split(text, start, end, separator):
    """Yield the stretches of ``text`` between the separators that are in no parentheses."""
    cuts, depth = [start - len(separator)], 0
    for at in range(start, end):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[at], 0)
        if depth == 0 and text.startswith(separator, at):
            cuts.append(at)
    for before, after in pairwise([*cuts, end]):
        yield before + len(separator), after


def terms(text, start, end, alone):
    """Yield (start, end, after) for every term of a condition; one that stands alone becomes what ``alone`` says."""
    for separator, neutral in ((" || ", "false"), (" && ", "true")):
        parts = list(split(text, start, end, separator))
        if len(parts) > 1:
            for part in parts:
                yield from terms(text, *part, [neutral])
            return
    if text[start] == "(" and closing(text, start) == end:
        inner = list(terms(text, start + 1, end - 1, []))
        if inner:
            yield from inner
            return
    for after in alone:
        yield start, end, after


def mutants_of(file):
    """Yield every mutant of a file of kernels."""
    text = re.sub(r"//[^\n]*", lambda comment: " " * len(comment[0]), file.read_text())  # of the same length
    for found in re.finditer(r"__syncthreads\(\);|cp_async_\w+(?:<[^>]*>)?\(\);", text):
        yield Mutant(file, *found.span(), "")
    for found in re.finditer(r"\bif (?=\()", text):
        end = closing(text, found.end())
        leaves = re.match(r"\s*(?:return|continue)\b", text[end:])
        for term in terms(text, found.end() + 1, end - 1, ["false" if leaves else "true"]):
            yield Mutant(file, *term)
    for found in re.finditer(r"\bconst bool \w+ = (.*?);", text):
        if " ? " not in found[1]:
            for term in terms(text, *found.span(1), []):
                yield Mutant(file, *term)
    for found in re.finditer(r"(?:= |return |\(|\[)((?:[^=?;,()\[\]]|[=<>]=|\([^()]*\)|\[[^\[\]]*\])+?) \? ", text):
        for term in terms(text, *found.span(1), ["true", "false"]):
            yield Mutant(file, *term)
    for found in re.finditer(r"\b(?:min|max)(?=\()", text):
        end = closing(text, found.end())
        for part in split(text, found.end() + 1, end - 1, ", "):
            yield Mutant(file, found.start(), end, text[slice(*part)])


def files_of(source):
    """Return a source's own file and the headers beside it that it includes."""
    wanted, files = [source.path], []
    while wanted:
        file = wanted.pop()
        files.append(file)
        included = [file.with_name(name) for name in re.findall(r'#include "([\w.]+)"', file.read_text())]
        wanted += [header for header in included if header.exists() and header not in files]
    return files


MUTANTS = [
    pytest.param(source.path.name, mutant, id=str(mutant))
    for source in SOURCES
    for file in files_of(source)
    for mutant in mutants_of(file)
    # A header that several sources include is mutated for the one that is named like it.
    if file == source.path or file.stem == source.path.stem or source.path.name == "conv2d.cu"
]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder for what is compiled, so that mutants do not fill the user's."""
    return tmp_path_factory.mktemp("mutants")


def objection(file, folder, monkeypatch, cache):
    """Return what the runs of ``file`` say to its sources in ``folder``; None if they see nothing wrong."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    (source,) = (s for s in SOURCES if s.path.name == file)
    altered = CudaSource(folder / file, source.kernels, source.from_sm_80)
    launch = CudaSource.launch

    def redirected(self, *arguments, **options):
        return launch(altered if self is source else self, *arguments, **options)

    monkeypatch.setattr(CudaSource, "launch", redirected)
    with kernels.use_backend("emulator"):
        for run in RUNS[file]:
            for order in (0, 2):
                with emulation("check", order=order):
                    try:
                        run()
                    except (KernelError, AssertionError, pytest.fail.Exception) as error:
                        return str(error)
    return None


def check_is_caught(file, mutant, monkeypatch, tmp_path, cache):
    folder = tmp_path / "sources"
    shutil.copytree(mutant.file.parent, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = mutant.file.read_text()
    (folder / mutant.file.name).write_text(text[: mutant.start] + mutant.after + text[mutant.end :])
    assert (objection(file, folder, monkeypatch, cache) is None) == (mutant.change in IDLE)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "mutant"), MUTANTS)
def test_whatever_is_taken_out_is_missed(file, mutant, monkeypatch, tmp_path, cache):
    check_is_caught(file, mutant, monkeypatch, tmp_path, cache)


# The ones that a pipeline of copies hangs on.
SAMPLE = [m for m in MUTANTS if re.match(r"gemm.cuh:\d+: (__sync|cp_async_wait)", m.id)]


@pytest.mark.parametrize(("file", "mutant"), SAMPLE)
def test_a_barrier_or_wait_that_is_taken_out_is_missed(file, mutant, monkeypatch, tmp_path, cache):
    check_is_caught(file, mutant, monkeypatch, tmp_path, cache)


def test_idle_code_is_still_there():
    assert {mutant.values[1].change for mutant in MUTANTS} >= IDLE.keys()
