"""The launcher: what it casts, what it refuses, and that a GPU and the emulator are launched alike."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minifcn_kernels as kernels
from backends import needs_emulator
from minifcn_kernels.cuda import device
from minifcn_kernels.cuda.emulator import MODES, emulation
from minifcn_kernels.cuda.emulator.library import KernelError
from minifcn_kernels.cuda.launch import CompileError, CudaSource, empty, use_tf32
from minifcn_kernels.cuda.signature import parameters

pytestmark = needs_emulator

PATH = Path(__file__).with_name("launched.cu")
NAMES = ("axpb", "axpb<float, 1>", "axpb<double, 1>", "transpose", "types", "shared", "roomy", "beside", "nothing")


@pytest.fixture
def source():
    return CudaSource(PATH, NAMES)


@pytest.fixture(params=["cpu", "cuda"])
def there(request):
    """Return a function that puts an array on the CPU, for the emulator, or on a GPU."""
    if request.param == "cuda":
        request.getfixturevalue("cuda")
    return lambda array: device.to_device(array, request.param)


def host(array):
    return device.to_device(array, "cpu")


@pytest.mark.parametrize(("kernel", "dtype"), [("axpb<float, 1>", np.float32), ("axpb<double, 1>", np.float64)])
def test_numbers_are_cast_to_what_the_source_declares(source, there, kernel, dtype):
    x = there(np.arange(300, dtype=dtype))
    y = empty(x.shape, like=x)
    source.launch(kernel, 2, 256, 3, x, np.float32(0.5), y, np.int64(x.size))
    assert y.dtype == dtype
    np.testing.assert_array_equal(host(y), 3 * np.arange(300) + 0.5)


def test_every_kind_of_number_arrives(source, there):
    y = there(np.zeros(7))
    source.launch("types", 1, 1, True, 200, -3, 2**32 - 1, -(2**40), 0.1, there(np.array([255], np.uint8)), y)
    np.testing.assert_array_equal(host(y), [1, 200, -3, 2**32 - 1, -(2**40), np.float32(0.1), 255])


def test_a_struct_is_given_as_a_dict_and_a_grid_has_up_to_three_sides(source, there):
    x = np.arange(15, dtype=np.int32).reshape(3, 5)
    y = empty((5, 3), like=there(x))
    source.launch("transpose", (2, 1), (4, 4, 1), there(x), y, {"columns": 5, "rows": 3})
    np.testing.assert_array_equal(host(y), x.T)


def test_a_grid_without_blocks_does_nothing(source, there):
    y = empty((0,), like=there(np.zeros(1, np.float32)))
    source.launch("axpb<float, 1>", 0, 256, 1, y, 0, empty((0,), like=y), 0)


def test_much_dynamic_shared_memory_is_asked_for(source, there):
    y = empty((64,), like=there(np.zeros(1, np.float32)))
    source.launch("shared", 1, 64, y, shared_bytes=60 << 10)
    np.testing.assert_array_equal(host(y), np.arange(64)[::-1])


X = np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("kernel", "grid", "block", "arguments", "options", "error", "message"),
    [
        ("axpb<float, 2>", 1, 1, (), {}, ValueError, "'axpb<float, 2>' is none of its kernels (axpb, axpb<float, 1>, "),
        ("axpb", 1, 1, (), {}, ValueError, "axpb: it is a template; name an instantiation, such as `axpb<float>`"),
        ("beside", 1, 1, (), {}, TypeError, "beside takes 1 arguments (y), got 0"),
        ("axpb<float, 1>", 1, 1, (1, X, 0, X.copy(), 2**31), {}, ValueError, "n is int, which cannot hold 2147483648"),
        ("axpb<float, 1>", 1, 1, (1, X, 0, X.copy(), 8.0), {}, TypeError, "n is int, got 8.0"),
        ("axpb<float, 1>", 1, 1, ("1", X, 0, X.copy(), 8), {}, TypeError, "a is float, got '1'"),
        ("axpb<float, 1>", 1, 1, (1, X, 0, X, 8), {}, ValueError, "y is written to and shares memory with x"),
        ("axpb<float, 1>", 1, 1, (1, 2, 0, X, 8), {}, TypeError, "x must be a NumPy or CuPy array, got int"),
        ("axpb<double, 1>", 1, 1, (1, X, 0, X, 8), {}, TypeError, "x is const double*, got an array of float32"),
        ("beside", 1, 1, (X[::2],), {}, ValueError, "y must be C-contiguous"),
        ("beside", 1, 1, (np.broadcast_to(X, 8),), {}, ValueError, "y is written to, but the array is read-only"),
        ("nothing", 1, 1, (1,), {}, TypeError, "takes no array, so there is no telling where it should run"),
        (
            "beside",
            1,
            1025,
            (X,),
            {},
            ValueError,
            "a block of (1025, 1, 1) threads; the emulator (as sm_80) takes 1 to",
        ),
        ("beside", 1, 0, (X,), {}, ValueError, "a block of (0, 1, 1) threads"),
        ("beside", 1, (1, 1, 65), (X,), {}, ValueError, "at most (1024, 1024, 64) along (x, y, z)"),
        ("beside", (1, 65536), 1, (X,), {}, ValueError, "a grid of (1, 65536, 1) blocks; the emulator"),
        (
            "beside",
            -1,
            1,
            (X,),
            {},
            ValueError,
            "grid must be one to three ints (x, y, z), none of them negative, got -1",
        ),
        ("beside", 1, 1.0, (X,), {}, ValueError, "block must be one to three ints"),
        ("beside", 1, 1, (X,), {"shared_bytes": 164 << 10}, ValueError, "167936 bytes of dynamic shared memory"),
        ("beside", 1, 1, (X,), {"shared_bytes": 4.0}, ValueError, "4.0 bytes of dynamic shared memory"),
        (
            "transpose",
            1,
            1,
            (X.astype(np.int32), X.astype(np.int32), {"rows": 1}),
            {},
            TypeError,
            "size is a Size: expected a dict of ['columns', 'rows'], got ['rows']",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(source, kernel, grid, block, arguments, options, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        source.launch(kernel, grid, block, *arguments, **options)
    assert "launched.cu" in str(caught.value)


def test_what_the_compiled_kernel_leaves_no_room_for_is_refused(source, cuda):
    if device.cupy().__spec__ is not None:
        pytest.skip("a real GPU has room enough for these kernels")
    x = cuda.zeros(8, np.float32)
    with pytest.raises(ValueError, match="so many registers that a block may have 512 threads on a fake GPU, not 1024"):
        source.launch("axpb<float, 1>", 1, 1024, 1, x, 0, cuda.zeros(8, np.float32), 8)
    with pytest.raises(
        ValueError, match="1024 bytes of static and 65536 of dynamic shared memory; a block on a fake GPU"
    ):
        source.launch("shared", 1, 8, x, shared_bytes=64 << 10)


def test_the_kernels_of_a_source_are_given_as_a_list():
    with pytest.raises(
        TypeError, match=re.escape("launched.cu: kernels must be a list of names, got the string 'shared'")
    ):
        CudaSource(PATH, "shared")


def test_a_kernel_has_no_shared_memory_but_its_own(tmp_path):
    kernel = "__global__ void %s(float* y) { __shared__ float tile[8000]; tile[0] = 1; y[0] = tile[0]; }\n"
    path = tmp_path / "two.cu"
    path.write_text(kernel % "one" + kernel % "other")  # 32,000 bytes each; 48 KB is what a kernel can have
    for mode in MODES:
        with emulation(mode):
            CudaSource(path, ["one"]).launch("one", 1, 1, X.copy())


def test_static_and_dynamic_shared_memory_have_to_fit_together(source):
    y = np.zeros(32, np.float32)
    source.launch("roomy", 1, 32, y, shared_bytes=147 << 10)
    np.testing.assert_array_equal(y, np.arange(32)[::-1])
    with pytest.raises(KernelError, match="has 16384 bytes of static and 150529 of dynamic shared memory; a block can"):
        source.launch("roomy", 1, 32, y, shared_bytes=(147 << 10) + 1)


def test_arrays_on_different_devices_are_refused(source, cuda):
    message = "x is on the CPU but y on GPU 0; move one of them by .to()"
    with pytest.raises(ValueError, match=re.escape(message)):
        source.launch("axpb<float, 1>", 1, 1, 1, X, 0, cuda.zeros(8, np.float32), 8)
    with pytest.raises(ValueError, match="fuse: coarse is on the CPU but fine on GPU 0"):
        kernels.fuse(X.reshape(1, 1, 2, 4), cuda.zeros((1, 1, 2, 4), np.float32), 0)


def test_a_compile_error_names_file_and_line(tmp_path, there):
    path = tmp_path / "broken.cu"
    path.write_text("// COMPILE ERROR\n__global__ void broken(float* y) {\n    y[0] = undeclared;\n}\n")
    with pytest.raises(CompileError, match=r"broken\.cu[:(]\d"):
        CudaSource(path, ["broken"]).launch("broken", 1, 1, there(X))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("float2* y", "parameter `float2* y`: expected a number, a pointer to numbers or a struct of ints"),
        ("Mixed m, float* y", "struct Mixed: `float b`: a struct that is passed to a kernel may hold ints only"),
    ],
)
def test_parameters_that_cannot_be_passed_are_refused(tmp_path, declared, message):
    path = tmp_path / "odd.cu"
    path.write_text(f"struct Mixed {{ int a; float b; }};\n__global__ void odd({declared}) {{}}\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        CudaSource(path, ["odd"]).launch("odd", 1, 1, X)
    with pytest.raises(ValueError, match=re.escape("there is no `__global__ void absent(…)`")):
        CudaSource(path, ["absent"]).launch("absent", 1, 1, X)


def test_parameters_are_read_from_the_text_as_the_compiler_reads_them():
    x, y, b = (parameters(PATH.read_text(), "axpb<double, 1>")[i] for i in (1, 3, 2))
    assert (x.name, x.type, x.pointer, x.const) == ("x", "const double*", True, True)
    assert (y.type, y.const) == ("double*", False)
    assert b.dtype == np.float64


def test_a_write_beside_an_argument_is_seen_without_the_checker(source):
    with pytest.raises(KernelError, match="writes beside argument y"):
        source.launch("beside", 1, 1, np.zeros(1, np.float32))


FAILING = """
#include "ptx.cuh"
__global__ void failing(const float* x, float* y) {
    __shared__ float tile[256];
    cp_async<4>(&tile[threadIdx.x], x);
    if (threadIdx.x < 128) __syncthreads();
    y[threadIdx.x] = 1;
}
"""


def test_failed_launches_leak_nothing(tmp_path):
    """Threads fail with copies queued, half of a block at a barrier, the other half not yet begun."""
    path = tmp_path / "failing.cu"
    path.write_text(FAILING)
    source = CudaSource(path, ["failing"])

    def fail(times):
        for _ in range(times):
            with emulation("check"), pytest.raises(KernelError, match="writes element 128 of argument y"):
                source.launch("failing", 1, 256, X, np.zeros(128, np.float32))

    fail(200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fail(1000)
    # 1,000 launches with a kilobyte lost in each would be a megabyte; ru_maxrss counts kilobytes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )


AXPB = f"""
import numpy as np
from pathlib import Path
from minifcn_kernels.cuda.launch import CudaSource
x, y = np.ones(3, np.float32), np.zeros(3, np.float32)
CudaSource(Path({str(PATH)!r}), ["axpb<float, 1>"]).launch("axpb<float, 1>", 1, 32, 2, x, 1, y, 3)
print(y)
"""


def test_the_cache_is_private_reused_and_heals(tmp_path):
    def entries():
        return {path.name: path for path in (tmp_path / "emulator").glob("*.so")}

    assert run_python(AXPB, NUMBA_CACHE_DIR=str(tmp_path)).stdout == "[3. 3. 3.]\n"
    assert (tmp_path / "emulator").stat().st_mode & 0o077 == 0
    built = {name: path.stat().st_mtime_ns for name, path in entries().items()}
    assert len(built) == 2  # the machine, and the kernel
    assert run_python(AXPB, NUMBA_CACHE_DIR=str(tmp_path)).stdout == "[3. 3. 3.]\n"
    assert {name: path.stat().st_mtime_ns for name, path in entries().items()} == built
    for path in entries().values():
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    assert run_python(AXPB, NUMBA_CACHE_DIR=str(tmp_path)).stdout == "[3. 3. 3.]\n"
    assert entries().keys() == built.keys()


def test_processes_that_race_for_the_cache_all_succeed(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    racers = [
        subprocess.Popen([sys.executable, "-c", AXPB], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [racer.communicate()[0] for racer in racers] == ["[3. 3. 3.]\n"] * 2


def test_without_a_compiler_the_message_says_what_to_install(tmp_path):
    code = f"import minifcn_kernels as k; print(k.backends()['emulator']){AXPB}"
    process = run_python(code, PATH=str(tmp_path), NUMBA_CACHE_DIR=str(tmp_path))
    reason = "the emulator needs g++; install it (Debian, Ubuntu: apt install g++)"
    assert process.stdout == f"{reason}\n"
    assert process.stderr.splitlines()[-1] == f"RuntimeError: {reason}"


def test_without_a_gpu_the_reason_is_kept_and_shown():
    reason = device.missing()
    if reason is None:
        pytest.skip("there is a GPU")
    assert kernels.backends()["cuda"] == reason
    with pytest.raises(device.DeviceError, match=re.escape(f"device 'cuda' is not available: {reason}")):
        device.to_device(X, "cuda")


def test_tf32_is_used_where_it_is_allowed_and_refused_where_it_is_not_there(cuda):
    assert not use_tf32(X)
    with kernels.allow_tf32(True):
        assert use_tf32(X)  # the emulator has it
        assert not use_tf32(X.astype(np.float64))
        if device.limits(cuda.zeros(1)).capability < (8, 0):
            with pytest.raises(RuntimeError, match="TF32 needs a device of compute capability"):
                use_tf32(cuda.zeros(1, np.float32))


def test_out_of_memory_names_the_kernel_and_the_size():
    @kernels.dispatch.kernel(x=kernels.dispatch.floats("N C"))
    def greedy(x):
        """Want more than there is."""
        return np.empty(2**60, np.float32)

    with (
        pytest.raises(MemoryError, match=r"greedy of x \(2, 3\): Unable to allocate 4.00 EiB"),
        kernels.use_backend("numpy"),
    ):
        greedy(np.zeros((2, 3)))


@pytest.mark.parametrize(("mode", "order"), [("quick", 0), ("check", -1)])
def test_an_unknown_mode_or_order_is_refused(mode, order):
    with (
        pytest.raises(ValueError, match=r"(mode must be one of|order must be)"),
        emulation(mode, order=order),
    ):
        pass
