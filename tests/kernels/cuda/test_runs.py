"""Every CUDA kernel computes what its reference does, in any order of its threads, and breaks no rule of CUDA's."""

import re
from pathlib import Path

import pytest

import minifcn_kernels as kernels
from backends import needs_emulator, needs_gpu
from cuda_runs import RUNS, SOURCES
from minifcn_kernels.cuda.emulator import emulation
from minifcn_kernels.cuda.launch import CudaSource
from minifcn_kernels.dispatch import Policy, use_policy

every_file = pytest.mark.parametrize("file", RUNS)


def run_all(file, mode, order):
    with kernels.use_backend("emulator"), emulation(mode, order=order):
        for run in RUNS[file]:
            run()


@needs_emulator
@every_file
def test_every_run_gives_what_the_reference_gives(file):
    run_all(file, "fast", 0)


@needs_gpu
@every_file
def test_every_run_gives_on_a_gpu_what_the_reference_gives(file):
    with use_policy(Policy("cuda")):
        for run in RUNS[file]:
            run()


@needs_emulator
@pytest.mark.slow
@every_file
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_no_rule_of_cuda_is_broken_in_any_order_of_threads(file, order):
    run_all(file, "check", order)


@needs_emulator
@every_file
def test_the_runs_reach_every_kernel_that_can_be_launched(file, monkeypatch):
    (source,) = (s for s in SOURCES if s.path.name == file)
    reached = set()
    launch = CudaSource.launch

    def noted(self, kernel, *arguments, **options):
        if self is source:
            reached.add(kernel)
        return launch(self, kernel, *arguments, **options)

    monkeypatch.setattr(CudaSource, "launch", noted)
    run_all(file, "fast", 0)
    assert {*source.kernels, *source.from_sm_80} - reached == set()


def test_every_source_is_run():
    assert sorted(source.path.name for source in SOURCES) == sorted(RUNS)
    ours = Path(kernels.__file__).parent
    assert sorted(source.path for source in SOURCES) == sorted(ours.rglob("*.cu"))


def test_no_result_depends_on_atomics():
    """Atomics raise the flags of bad arguments, which is the same whoever comes first, and nothing else."""
    for source in SOURCES:
        assert set(re.findall(r"atomic\w+\(.*?\)", source.text)) <= {"atomicMax(bad, 1)"}
