"""The wrapper of Numba: one cache folder per state of the sources, one word when it compiles, repair of damage."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from backends import threads
from minifcn_kernels import jit

# The smallest kernel, run once; then what Numba's own setting is.
PROGRAM = """
import numba
import numpy as np
import minifcn_kernels as kernels

numba.config.CACHE_DIR = "the user's"
y = kernels.crop(np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3), (1, 1), (2, 2))
assert y.tolist() == [[[[4, 5], [7, 8]]]], y
assert numba.config.CACHE_DIR == "the user's"
"""


# A convolution large enough for Winograd's algorithm, whose helpers are large, too; then a digest of its bits.
CONVOLUTION = """
import hashlib
import numpy as np
import minifcn_kernels as kernels

x, w, b = (np.random.default_rng(0).standard_normal(s, np.float32) for s in ((1, 16, 40, 40), (32, 16, 3, 3), 32))
with kernels.use_algorithm("winograd"):
    y = kernels.conv2d(x, w, b, padding=1)
print(hashlib.sha256(y.tobytes()).hexdigest())
"""


def run_program(cache, program=PROGRAM):
    """Run a kernel in a new process; return what it printed and what it said."""
    process = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache), "NUMBA_DISABLE_JIT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


def test_compiled_code_is_announced_kept_reused_and_repaired(tmp_path):
    first = run_program(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert first == f"minifcn: compiling kernels for this CPU (once; later runs load them from {tmp_path})\n"
    assert folder.stat().st_mode & 0o077 == 0  # nobody else may write code that we would run

    assert run_program(tmp_path) == ""

    for suffix in (".nbc", ".nbi"):  # the code, and the index that leads to it
        file = min(folder.rglob(f"*{suffix}"))
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        damaged, compiling = run_program(tmp_path).splitlines()
        assert damaged.startswith(f"minifcn: the compiled kernel in {folder}")
        assert damaged.endswith("compiling it anew")
        assert compiling.startswith("minifcn: compiling kernels")
    assert run_program(tmp_path) == ""


@pytest.mark.slow
def test_the_process_that_compiles_computes_the_same_bits_as_later_ones(tmp_path):
    first = run_program(tmp_path, CONVOLUTION).splitlines()[0]
    assert run_program(tmp_path, CONVOLUTION) == first + "\n"


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the kernels' sources that `cache_folder` takes for the real ones."""
    copy = tmp_path / "minifcn_kernels"
    shutil.copytree(Path(jit.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(jit, "__file__", str(copy / "jit.py"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return copy


def folder(op="crop"):
    return jit.cache_folder.__wrapped__(Path(jit.__file__).parent / op)


def test_unchanged_sources_keep_their_cache_folder(sources):
    before = folder()
    (sources / "notes.txt").write_text("not code")
    assert folder() == before


@pytest.mark.parametrize("source", ["spatial.py", "crop/loops.py"])
def test_a_changed_source_gets_a_new_cache_folder(sources, source):
    before = folder()
    source = sources / source
    source.write_text(source.read_text() + "\n")
    assert folder() != before


def test_a_change_to_one_op_leaves_the_others_compiled(sources):
    before = folder()
    other = sources / "pool2d" / "loops.py"
    other.write_text(other.read_text() + "\n")
    assert folder() == before


def test_a_renamed_source_gets_a_new_cache_folder(sources):
    before = folder()
    (sources / "spatial.py").rename(sources / "space.py")
    assert folder() != before


def test_checked_code_is_kept_apart_from_unchecked(sources, monkeypatch):
    before = folder()
    monkeypatch.setattr(numba.config, "BOUNDSCHECK", 1 if numba.config.BOUNDSCHECK != 1 else 0)
    assert folder() != before


def test_the_cache_lies_in_the_users_own_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder().parent == tmp_path / "minifcn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folder().parent == tmp_path / "home" / ".cache" / "minifcn"


def test_each_combination_of_types_is_specialised_once(monkeypatch):
    made = []

    def specialise(function, arguments):
        made.append(arguments)
        return lambda units, arguments: function(0, units, *arguments)

    def scale(first, last, out, x, factor):
        out[first:last] = x[first:last] * factor

    monkeypatch.setattr(jit, "_specialise", specialise)
    kernel = jit.compiled(scale)
    for x in (np.ones(3), np.zeros(5), np.ones(3, np.float32), np.ones((2, 2))):
        for factor in (2, 3):
            out = np.empty_like(x)
            kernel.over(len(x), out, x, factor)
            np.testing.assert_array_equal(out, x * factor)
    assert len(made) == 3  # float64 and float32 rows, float64 planes


def test_ctrl_c_within_compiled_code_stays_ctrl_c(monkeypatch):
    """Numba chains it behind two SystemErrors when it comes while a result is handed over to Python."""

    def interrupted(units, arguments):
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as stop:
                raise SystemError("unpickling returned a result with an exception set") from stop
        except SystemError as error:
            raise SystemError("the kernel returned a result with an exception set") from error

    def broken(units, arguments):
        raise SystemError("something else")

    for specialised, raised in ((interrupted, KeyboardInterrupt), (broken, SystemError)):
        monkeypatch.setattr(jit, "_specialise", lambda function, arguments, made=specialised: made)
        with pytest.raises(raised):
            jit.compiled(lambda first, last: None).over(1)


@jit.compiled
def _count(first, last, out, out_shares):
    if last > first:
        out_shares[first] = last
    for unit in range(first, last):
        if out[unit] < 0:
            raise ValueError("a unit that cannot be done")
        out[unit] += 1


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("units", [0, 1, 2, 3, 10])
def test_threads_share_out_the_units(count, units):
    done, shares = np.zeros(12, int), np.zeros(12, int)
    with threads(count):
        _count.over(units, done, shares)
        assert numba.get_num_threads() == count  # not fewer, even if there are fewer units
    assert done.tolist() == [1] * units + [0] * (12 - units)
    if not numba.config.DISABLE_JIT:
        assert set(shares) == {0, *(units * (t + 1) // count for t in range(count))}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("unit", [0, 9])
def test_an_exception_in_any_thread_reaches_the_caller(count, unit):
    done = np.zeros(10, int)
    done[unit] = -1
    with threads(count), pytest.raises(ValueError, match="a unit that cannot be done"):
        _count.over(10, done, np.zeros(10, int))
