"""``python -m minifcn_kernels.cuda``: each tool says what it should of a kernel that is known."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from backends import needs_emulator
from minifcn_kernels.cuda import __main__ as tools
from minifcn_kernels.cuda import coalescing, compilation
from minifcn_kernels.cuda.emulator import build, emulation
from minifcn_kernels.cuda.launch import CudaSource
from minifcn_kernels.cuda.samples import KERNELS, samples

pytestmark = needs_emulator

SCRIPT = """
import numpy as np
from pathlib import Path
from minifcn_kernels.cuda.launch import CudaSource
source = CudaSource(Path(__file__).with_name("mine.cu"), ["mine"])
y = np.zeros(64, np.float32)
source.launch("mine", 1, 64, y)
"""
RIGHT = """
__global__ void mine(float* y) {
    const int i = threadIdx.x;
    y[i] = i;
}
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "mine.cu").write_text(RIGHT)
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT)
    return path


def test_check_says_that_a_right_kernel_is_right(capsys):
    assert tools.main(["check", "crop"]) == 0
    shown = capsys.readouterr().out
    assert "ok    crop(float32[2, 3, 7, 9], (1, 2), (5, 6))\n" in shown
    assert "No fault found" in shown


def test_check_names_the_line_of_a_fault_in_a_script(script, capsys):
    assert tools.main(["check", str(script)]) == 0
    script.with_suffix(".cu").write_text(RIGHT.replace("y[i]", "y[i + 1]"))
    # A file is compiled once in a process; a new one is a new process's.
    process = subprocess.run(
        [sys.executable, "-m", "minifcn_kernels.cuda", "check", str(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "FAULT: mine: block (0,0,0) thread (63,0,0) at mine.cu:4 writes element 64 of argument y" in process.stdout
    assert "threads ascending" in process.stdout


def test_check_names_a_wrong_result(capsys, monkeypatch):
    monkeypatch.setitem(tools._TOLERANCES, np.dtype(np.float32), -1.0)
    assert tools.main(["check", "fuse"]) == 1
    assert "FAULT: fuse(float32[2, 3, 5, 6]" in capsys.readouterr().out


@pytest.mark.parametrize("tool", ["check", "coalescing", "debug"])
def test_what_is_no_kernel_is_refused_by_name(tool, capsys):
    assert tools.main([tool, "conv"]) == 2
    assert f"{tool}: there is no kernel 'conv'; choose one of avg_pool2d, " in capsys.readouterr().err
    assert tools.main([tool, "absent.py"]) == 2
    assert "there is no script absent.py" in capsys.readouterr().err
    assert tools.main([tool, "crop", "4", "5"]) == 2
    assert f"{tool}: crop is a kernel and takes no arguments, got 4 5; a script would" in capsys.readouterr().err


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_has_samples_that_run(kernel):
    for sample in samples(kernel):
        for got, expected in zip(sample.run("emulator"), sample.run("numpy"), strict=True):
            atol = 2e-3 * np.abs(expected).max() if sample.tf32 else 1e-4
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("kernel", ["conv2d", "conv2d_grad_input", "conv2d_grad_weight"])
def test_the_samples_of_a_convolution_go_through_all_its_files_and_through_tensor_cores(kernel, monkeypatch):
    reached = set()
    launch = CudaSource.launch

    def noted(self, name, *arguments, **options):
        reached.add((self.path.name, name in self.from_sm_80))
        return launch(self, name, *arguments, **options)

    monkeypatch.setattr(CudaSource, "launch", noted)
    for sample in samples(kernel):
        sample.run("emulator")
    assert reached == {("conv2d.cu", False), ("conv2d.cu", True), ("direct.cu", False), ("winograd.cu", False)}


PATTERNS = """
__global__ void patterns(const float* x, float* y) {
    __shared__ float tile[32][32], wide[32][33];
    __shared__ __align__(16) float4 four[32];
    const int t = threadIdx.x;
    y[t] = x[t];
    y[32 + t] = x[32 * t];
    tile[t][0] = 1;
    wide[t][0] = 1;
    tile[0][t] = 1;
    __syncthreads(), y[t] = tile[0][0];
    four[t] = make_float4(1, 2, 3, 4);
    __syncthreads(), y[t] = wide[0][0] + four[0].x;
}
"""


def test_coalescing_counts_sectors_and_turns_of_known_patterns(tmp_path):
    path = tmp_path / "patterns.cu"
    path.write_text(PATTERNS)
    lines = {}
    x = np.zeros(32 * 32, np.float32)

    def note(library, accesses):
        for line in coalescing.report(library, accesses):
            lines[line.place, line.shared, line.write] = line.requests, line.cost, line.least

    with emulation("check", trace=note):
        CudaSource(path, ["patterns"]).launch("patterns", 1, 32, x, np.zeros(64, np.float32))
    assert lines == {
        ("patterns.cu:6", False, False): (1, 4, 4),  # neighbours: 128 bytes
        ("patterns.cu:6", False, True): (1, 4, 4),
        ("patterns.cu:7", False, False): (1, 32, 4),  # a sector to each
        ("patterns.cu:7", False, True): (1, 4, 4),
        ("patterns.cu:8", True, True): (1, 32, 1),  # one bank
        ("patterns.cu:9", True, True): (1, 1, 1),  # padded
        ("patterns.cu:10", True, True): (1, 1, 1),
        ("patterns.cu:11", True, False): (1, 1, 1),  # one word for all
        ("patterns.cu:11", False, True): (1, 4, 4),
        ("patterns.cu:12", True, True): (1, 4, 4),  # 16 bytes a lane: four quarters of the warp
        ("patterns.cu:13", True, False): (2, 1, 1),
        ("patterns.cu:13", False, True): (1, 4, 4),
    }


def test_coalescing_shows_every_line_of_a_script(script, capsys):
    assert tools.main(["coalescing", str(script)]) == 0
    shown = capsys.readouterr().out
    assert "mine.cu:4" in shown
    assert "global write      2 requests of   4.0 sectors (least  4.0)  fine" in shown


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
def test_debug_stops_in_one_thread(script):
    tool = [sys.executable, "-m", "minifcn_kernels.cuda", "debug", str(script), "--thread", "37"]
    shown = [
        subprocess.run(
            [*tool, *more, "--", "-batch", "-ex", "print threadIdx.x", "-ex", "next", "-ex", "print i"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"DEBUGINFOD_URLS": ""},
        ).stdout
        for more in ([], ["--at", "mine.cu:3"])
    ]
    for out in shown:
        assert "$1 = 37" in out
        assert "$2 = 37" in out


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
def test_debug_is_not_silent_about_a_line_without_code(script):
    shown = subprocess.run(
        [sys.executable, "-m", "minifcn_kernels.cuda", "debug", str(script), "--at", "mine.cu:9", "--", "-batch"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"DEBUGINFOD_URLS": ""},
    ).stderr
    assert "debug: mine cannot stop there: mine.cu:9 holds none of its code" in shown
    assert f"debug: {script} has ended; no kernel could stop at mine.cu:9" in shown


@pytest.mark.parametrize(
    ("at", "block", "thread", "reason", "verdict"),
    [
        (
            "",
            "0,0,0",
            "0,0,0",
            None,
            "where gdb did not stop, thread (0,0,0) of block (0,0,0) did not come to a kernel",
        ),
        ("mine.cu:4", "0,0,0", "63,0,0", None, "thread (63,0,0) of block (0,0,0) did not come to mine.cu:4"),
        ("mine.cu:4", "0,9,0", "0,0,0", "no block is (0,9,0), for it has 1 × 1 × 1 of them", "of block (0,9,0)"),
        ("mine.cu:4", "0,0,0", "64,0,0", "no thread is (64,0,0), for it has 64 × 1 × 1 of them", "in thread (64,0,0)"),
        (
            "mine.cu:1",
            "0,0,0",
            "0,0,0",
            "mine.cu:1 holds none of its code; gdb takes the next line that does, of 2-5",
            "no kernel could stop at mine.cu:1 in thread (0,0,0) of block (0,0,0)",
        ),
        (
            "its.cu:4",
            "0,0,0",
            "0,0,0",
            "its code is in mine.cu, none of it in its.cu",
            "no kernel could stop at its.cu:4",
        ),
    ],
)
def test_debug_says_where_gdb_cannot_stop_and_what_there_is_instead(at, block, thread, reason, verdict, script, capsys):
    assert tools.run_once(str(script), at, block, thread) == 0
    *obstacles, end = capsys.readouterr().err.splitlines()
    assert obstacles == ([] if reason is None else [f"debug: mine cannot stop there: {reason}"])
    assert end.startswith(f"debug: {script} has ended; ")
    assert verdict in end


def test_debug_says_that_a_script_launches_nothing_and_what_a_kernel_does_wrong(script, tmp_path, capsys):
    idle = tmp_path / "idle.py"
    idle.write_text("pass\n")
    assert tools.run_once(str(idle), "", "0,0,0", "0,0,0") == 0
    assert capsys.readouterr().err == f"debug: {idle} has ended; it launched no kernel\n"
    script.with_suffix(".cu").write_text(RIGHT.replace("y[i]", "y[i + 1]"))
    assert tools.run_once(str(script), "", "0,0,0", "0,0,0") == 1
    assert "FAULT: mine: writes beside argument y" in capsys.readouterr().out


def test_debug_takes_no_place_but_a_line_of_a_file(capsys):
    with pytest.raises(SystemExit):
        tools.main(["debug", "crop", "--at", "crop.cu"])
    assert "argument --at: must be FILE:LINE, got 'crop.cu'" in capsys.readouterr().err


COSTLY = """
template <int N>
__global__ void __launch_bounds__(1024) costly(float* y) {
    __shared__ float tile[64];
    float a[N];
    tile[threadIdx.x % 64] = 1;
    for (int i = 0; i < N; ++i) a[i] = y[i];
    __syncthreads();
    for (int j = 0; j < 100; ++j)
        for (int i = 0; i < N; ++i) a[i] = a[i] * a[(i + 1) % N] + tile[j % 64];
    for (int i = 0; i < N; ++i) y[i] = a[i];
}
"""


@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
def test_compile_reports_registers_and_spills(tmp_path, compiler, monkeypatch):
    there = shutil.which("nvcc") if compiler == "nvcc" else compilation._nvrtc_libraries()
    if not there:
        pytest.skip(f"{compiler} is not installed")
    if compiler == "nvrtc":
        which = shutil.which
        monkeypatch.setattr(compilation.shutil, "which", lambda name: None if name == "nvcc" else which(name))
    path = tmp_path / "costly.cu"
    path.write_text(COSTLY)
    source = CudaSource(path, ["costly<4>", "costly<120>"])
    cheap, costly = compilation.compile_for(source, "sm_80")
    assert (cheap.kernel, cheap.spilled_bytes, cheap.shared_bytes) == ("costly<4>", 0, 256)
    assert costly.spilled_bytes > 0
    assert costly.registers == 64  # what 1,024 threads leave for each
    path.write_text("__global__ void broken(float* y) { y[0] = undeclared; }\n")
    with pytest.raises(build.CompileError, match=r"costly\.cu\(1\): error"):
        compilation.compile_for(CudaSource(path, ["broken"]), "sm_80")


@pytest.mark.slow
@pytest.mark.skipif(compilation.missing() is not None, reason=str(compilation.missing()))
@pytest.mark.parametrize("architecture", compilation.ARCHITECTURES)
def test_every_kernel_compiles_for_every_gpu_and_spills_nothing(architecture):
    costs = [cost for source in compilation.sources() for cost in compilation.compile_for(source, architecture)]
    assert len(costs) > 50
    assert [str(cost) for cost in costs if cost.spilled_bytes] == []


@pytest.mark.skipif(compilation.missing() is not None, reason=str(compilation.missing()))
def test_what_needs_sm_80_is_compiled_from_there_on(tmp_path):
    path = tmp_path / "mixed.cu"
    path.write_text("__global__ void plain(float* y) {}\n__global__ void modern(float* y) {}\n")
    source = CudaSource(path, ["plain"], from_sm_80=["modern"])
    names = {a: [cost.kernel for cost in compilation.compile_for(source, a)] for a in compilation.ARCHITECTURES}
    assert names == {"sm_75": ["plain"], "sm_80": ["plain", "modern"], "sm_90": ["plain", "modern"]}
