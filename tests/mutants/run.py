"""Run the tests over changed code and count how often they notice: ``python tests/mutants/run.py engine``.

What is to be changed and what has to notice stands in ``mutants.toml``. Nobody's working tree is touched: every mutant
is written into a copy of the project, and a process of its own runs the tests there. Such a process is a fork of this
one, which has imported all that takes long and is nothing of ours; so a mutant costs little more than its tests.

A mutant is killed if a test fails, or nothing works any more, or the tests take so much longer that it must hang. It
survives if all tests pass. What survives is either shown by a better test, or it computes the same: then it is named,
with the reason, in ``equivalent.toml``.
"""

import argparse
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from pathlib import Path

from tqdm import tqdm

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = ROOT / "runs" / "mutants"
COPIED = ("minifcn", "kernels", "tests", "docs", "examples", "pyproject.toml")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider")
# Hypothesis is imported already, of which pytest warns. The CUDA sources have tests and mutants of their own.
OPTIONS += ("-W", "ignore::pytest.PytestAssertRewriteWarning", "-k", "not emulator")
# What a size that has become a product of sizes must not take: all the memory that there is.
MEMORY = 4 << 30


def main() -> int:
    """Run a group, write its table, and return 0 if the score is reached."""
    config = tomllib.loads((HERE / "mutants.toml").read_text(encoding="utf-8"))
    groups = [name for name, value in config.items() if isinstance(value, dict) and "files" in value]
    parser = argparse.ArgumentParser(description="How many of the changed programs do the tests notice?")
    parser.add_argument("group", choices=groups)
    parser.add_argument(
        "--resume", action="store_true", help="believe what an earlier run killed; try only the rest again"
    )
    arguments = parser.parse_args()
    group = config[arguments.group]
    prepare(compiled=group["compile"])
    from mutations import sample  # not before there is a sys.path and a setting for Numba

    mutants = sample(ROOT, list(group["files"]), group["sample"], config["seed"])
    killed = run(mutants, group["files"], RESULTS / f"{arguments.group}.jsonl", arguments.resume)
    return report(mutants, killed, group["target"], config["most_equivalent"])


def prepare(compiled: bool) -> None:
    """Set the environment of all tests, and import what takes long."""
    os.environ["MINIFCN_TEST_PROFILE"] = "mutants"
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["NUMBA_NUM_THREADS"] = "2"
    if not compiled:
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    sys.dont_write_bytecode = True  # two mutants of one second and one size would share it
    sys.path.insert(0, str(HERE))
    for module in ("hypothesis", "numba", "numba.extending", "onnx.reference", "pytest"):
        importlib.import_module(module)


def run(mutants, tests, results, resume):
    """Return the mutants that the tests noticed."""
    known = set(results.read_text(encoding="utf-8").splitlines()) if resume and results.exists() else set()
    results.parent.mkdir(parents=True, exist_ok=True)
    killed = {mutant for mutant in mutants if key(mutant) in known}
    with tempfile.TemporaryDirectory() as folder, results.open("a" if resume else "w", encoding="utf-8") as log:
        copies = [copy_of_the_project(Path(folder) / str(i)) for i in range(processors())]
        if any(file.startswith("kernels/") for file in tests):
            os.environ["NUMBA_CACHE_DIR"] = folder  # what is compiled of mutants goes when they go
        waiting = [mutant for mutant in reversed(mutants) if mutant not in killed]
        limits = {}
        progress = tqdm(total=len(waiting), unit="mutant")
        running = {}
        while waiting or running:
            while waiting and copies:
                mutant, copy = waiting.pop(), copies.pop()
                if mutant.file not in limits:
                    limits[mutant.file] = 5 + 3 * time_of(copy, tests[mutant.file], mutant.file)
                (copy / mutant.file).write_text(mutant.code, encoding="utf-8")
                running[start(copy, tests[mutant.file])] = mutant, copy, time.monotonic() + limits[mutant.file]
            for process, (mutant, copy, deadline) in list(running.items()):
                status = ended(process, deadline)
                if status is None:
                    continue
                del running[process]
                copies.append(copy)
                shutil.copy(ROOT / mutant.file, copy / mutant.file)
                progress.update()
                if status:
                    killed.add(mutant)
                    log.write(key(mutant) + "\n")
                    log.flush()
                else:
                    progress.write(f"survived: {mutant}")
            time.sleep(0.01)
    return killed


def key(mutant):
    return json.dumps([mutant.file, mutant.number, mutant.before, mutant.after])


def processors():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def copy_of_the_project(copy):
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


def time_of(copy, tests, file):
    """Run the tests on the code as it is: they have to pass."""
    begin = time.monotonic()
    if ended(start(copy, tests), deadline=begin + 600, wait=True):
        output = (copy / "output.txt").read_text(encoding="utf-8")
        raise SystemExit(f"the tests of {file} fail without any change: {' '.join(tests)}\n{output}")
    return time.monotonic() - begin


def start(copy, tests):
    """Start a process that runs ``tests`` in ``copy``; return its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()  # so that whatever the tests start can be ended with them
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        output = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy)
        sys.path[:0] = [str(copy), str(copy / "kernels")]
        import pytest

        import minifcn

        assert Path(minifcn.__file__).is_relative_to(copy)
        status = pytest.main([*OPTIONS, *tests])
    except BaseException:  # a fork must not go on where its parent does, whatever happens
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(process, deadline, wait=False):
    """Return None while a process runs, then 0 if its tests passed."""
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
            return os.waitpid(process, 0)[1]
        if not wait:
            return None
        time.sleep(0.01)


def report(mutants, killed, target, most_equivalent):
    """Print the table; return 0 if enough is killed and not too much set aside."""
    listed = tomllib.loads((HERE / "equivalent.toml").read_text(encoding="utf-8"))["mutant"]
    equivalent = {(entry["file"], entry["before"], entry["after"]) for entry in listed}
    survivors = [mutant for mutant in mutants if mutant not in killed]
    aside = [mutant for mutant in survivors if (mutant.file, mutant.before, mutant.after) in equivalent]
    print(f"{'file':60}  mutants  killed  equivalent")
    counts = [Counter(mutant.file for mutant in some) for some in (mutants, killed, aside)]
    for file in counts[0]:
        print(f"{file:60}  {counts[0][file]:7}  {counts[1][file]:6}  {counts[2][file]:10}")
    score = len(killed) / (len(mutants) - len(aside))
    print(f"{len(killed)} of {len(mutants)} killed, {len(aside)} set aside as equivalent: {score:.1%}")
    for mutant in survivors:
        if mutant not in aside:
            print(f"survived: {mutant}")
    return int(score < target or len(aside) > most_equivalent * len(mutants))


if __name__ == "__main__":
    sys.exit(main())
