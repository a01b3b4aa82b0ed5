"""The checker finds what is wrong, says where, and finds nothing in what is right."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from backends import needs_emulator
from minifcn.random import stream
from minifcn_kernels.cuda.emulator import emulation
from minifcn_kernels.cuda.emulator.library import KernelError
from minifcn_kernels.cuda.launch import CudaSource, empty

pytestmark = needs_emulator

PLANTED = Path(__file__).with_name("planted.cu")
TEXT = PLANTED.read_text()
KERNELS = ("turn<64>", "sum", "warp_sum", "stream", "negate", "tf32")
ORDERS = range(4)


def floats(*shape):
    return stream(1, "checker").standard_normal(shape, dtype=np.float32)


def run(source, kernel):
    """Run a kernel; return its result and what it should be."""
    match kernel:
        case "turn<64>":
            x = floats(192)
            y = empty(x.shape, like=x)
            source.launch(kernel, 1, 64, x, y, 3)
            return y, x.reshape(3, 64)[:, ::-1].ravel()
        case "sum":
            x = floats(1001)
            y = np.zeros(1, np.float32)
            source.launch(kernel, 2, 128, x, y, x.size)
            return y, x.sum(keepdims=True)
        case "warp_sum":
            x = floats(32)
            y = empty((1,), like=x)
            source.launch(kernel, 1, 32, x, y)
            return y, x.sum(keepdims=True)
        case "stream":
            x = floats(384)
            y = empty(x.shape, like=x)
            source.launch(kernel, 1, 32, x, y, 3, shared_bytes=2 * 128 * 4)
            return y, 2 * x
        case "negate":
            x = floats(100)
            y = empty(x.shape, like=x)
            source.launch(kernel, 1, 32, x, y, x.size)
            return y, -x
        case "tf32":
            a, b = floats(16, 8), floats(8, 8)
            y = empty((16, 8), like=a)
            source.launch(kernel, 1, 32, a, b, y)
            # Each factor is off by up to 2⁻¹¹, so a product by 2⁻¹⁰, and there are 8 of them.
            assert np.abs(y - a.astype(float) @ b).max() < 8 * np.abs(a).max() * np.abs(b).max() * 2**-10
            return y, rounded_to_tf32(a) @ rounded_to_tf32(b)


def rounded_to_tf32(x):
    """10 bits of mantissa: the float32 spacing, 2¹³ times as wide."""
    spacing = np.spacing(np.abs(x)).astype(float) * 2**13
    return (np.round(x / spacing) * spacing).astype(np.float32)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("kernel", "mode"), [*product(KERNELS, ["fast", "check"]), ("stream", "debug")])
def test_a_correct_kernel_is_correct_in_every_mode_and_order(kernel, mode, order):
    with emulation(mode, order=order):
        result, expected = run(CudaSource(PLANTED, KERNELS), kernel)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


# What is planted where, and what the checker has to say of it. The line it names is that of ⟦…⟧ in the new text.
BUGS = {
    "no barrier before reading": (
        "turn<64>",
        "        __syncthreads();  // the tile is complete\n        y[run",
        "        ⟦y⟧[run",
        r"reads shared memory that (thread .* wrote at planted.cu:\d+, with no barrier|this block has not written)",
    ),
    "no barrier before writing again": (
        "turn<64>",
        "        __syncthreads();  // everybody is done with it\n",
        "",
        r"(reads|writes) shared memory that thread .* (read|wrote) at planted.cu:\d+, with no barrier between them",
    ),
    "a tile that is too small": ("turn<64>", "float tile[TILE]", "float tile[TILE - 1]", "is out of the bounds of"),
    "an index beyond an argument": (
        "turn<64>",
        "= x[run * TILE + t]",
        "= ⟦x⟧[run * TILE + t + 1]",
        "reads element 192 of argument x, which has 192",
    ),
    "an index before an argument": (
        "turn<64>",
        "= x[run * TILE + t]",
        "= ⟦x⟧[run * TILE + t - 1]",
        "reads element -1 of argument x, which has 192",
    ),
    "a write beyond an argument": (
        "turn<64>",
        "y[run * TILE + t] =",
        "⟦y⟧[(run + 1) * TILE + t] =",
        r"writes element (19[2-9]|2[0-9]{2}) of argument y, which has 192",
    ),
    "a write to a const argument": (
        "turn<64>",
        "        tile[t] = x[run * TILE + t];",
        "        tile[t] = x[run * TILE + t];\n        ⟦const_cast⟧<float*>(x)[t] = 0;",
        "writes to argument x, which is const",
    ),
    "shared memory that nobody wrote": (
        "turn<64>",
        "tile[t] = x",
        "if (t > 0) tile[t] = x",
        "reads shared memory that this block has not written",
    ),
    "threads that return before a barrier": (
        "turn<64>",
        "        __syncthreads();  // the tile is complete",
        "        if (t == 40) return;\n        ⟦__syncthreads⟧();",
        r"waits at the __syncthreads of {line}, but thread \(40,0,0\) has returned \(divergent barrier\)",
    ),
    "a barrier in one branch of two": (
        "turn<64>",
        "        __syncthreads();  // the tile is complete",
        "        if (t < 32) { ⟦__syncthreads⟧(); } else { __syncthreads(); }",
        r"waits at the __syncthreads of {line}, but thread .* at that of {line} \(divergent barrier\)",
    ),
    "division by zero": ("turn<64>", "x[run * TILE + t];", "x[⟦run⟧ * TILE + t / (runs - 3)];", "divides by zero"),
    "no guard": (
        "sum",
        "; i < n; i +=",
        "; ⟦i⟧ < 1024; i +=",
        "reads element 10[0-9]{2} of argument x, which has 1001",
    ),
    "no barrier between warps": (
        "sum",
        "    __syncthreads();\n    if (warp == 0) {",
        "    if (warp == 0) {",
        r"(reads|writes) shared memory that",
    ),
    "no guard on shared memory": (
        "sum",
        "lane < warps ? parts[lane] : 0",
        "⟦parts⟧[lane]",
        "reads shared memory that this block has not written",
    ),
    "a shuffle in one branch": (
        "sum",
        "    for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(~0u, v, d);\n    if (lane",
        "    if (lane < 16) v += ⟦__shfl_down_sync⟧(~0u, v, 1);\n    if (lane",
        r"waits at {line} for lane 16 of its warp, which waits at the __syncthreads of planted.cu:\d+",
    ),
    "a lane that is not in its own mask": (
        "sum",
        "v += __shfl_down_sync(~0u, v, d);\n    if (lane",
        "v += ⟦__shfl_down_sync⟧(0xffffu, v, d);\n    if (lane",
        "at {line}: lane [0-9]+ (is not in its own mask 0000ffff|shuffles from lane [0-9]+, which is not in the mask)",
    ),
    "a sum without atomics": (
        "sum",
        "atomicAdd(y, v)",
        "⟦y⟧[0] += v",
        r"reads argument y that thread \(0,0,0\) of another block wrote at {line}, with no barrier",
    ),
    "no meeting of the warp": (
        "warp_sum",
        "        __syncwarp();\n",
        "",
        r"(reads|writes) shared memory that thread .* (read|wrote) at planted.cu:\d+, with no barrier",
    ),
    "a wait that is missing": ("stream", "        cp_async_wait<1>();\n", "", "reads the target of a cp.async"),
    "a wait that is too lax": ("stream", "cp_async_wait<1>", "cp_async_wait<2>", "reads the target of a cp.async"),
    "no barrier after the wait": (
        "stream",
        "        __syncthreads();  // everybody's copies have landed\n",
        "",
        r"reads (shared memory that|the target of a cp.async)",
    ),
    "no barrier before the next copy": (
        "stream",
        "        __syncthreads();  // everybody has read them\n",
        "",
        "(reads|writes) (shared memory that thread|the target of a cp.async)",
    ),
    "a copy to an odd address": (
        "stream",
        "&stages[tile % 2 * 128 + 4 * t]",
        "⟦&⟧stages[tile % 2 * 128 + 4 * t + 1]",
        "copies 16 bytes by cp.async to or from an address that is not aligned to as many",
    ),
    "too much dynamic shared memory": (
        "stream",
        "2 * stages[tile % 2 * 128 + j * 32 + t]",
        "2 * ⟦stages⟧[tile % 2 * 128 + j * 32 + t + 128]",
        "reads (byte 1024 of dynamic shared memory, of which the launch asked for 1024|shared memory|the target)",
    ),
    "a misaligned vector": (
        "negate",
        "const float4*>(&x[i])",
        "const float4*>(&⟦x⟧[i + 1])",
        "at {line}: address .* is not aligned to the 16 bytes that '(const )?(struct )?float4' needs",
    ),
    "no guard against the last vector": (
        "negate",
        "    if (i >= n) return;\n",
        "",
        "reads element 1[0-9]{2} of argument x, which has 100",
    ),
    "a matrix product by half a warp": (
        "tf32",
        "    mma_m16n8k8_tf32(d, af, bf, d);",
        "    if (threadIdx.x < 16) ⟦mma_m16n8k8_tf32⟧(d, af, bf, d);",
        "waits at {line} for lane 16 of its warp, which has returned",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_in_every_order_and_its_line_named(bug, tmp_path):
    kernel, old, new, complaint = BUGS[bug]
    assert TEXT.count(old) == 1
    planted = TEXT.replace(old, new)
    line = f"planted.cu:{planted.partition('⟦')[0].count(chr(10)) + 1}" if "⟦" in planted else "planted.cu:"
    path = tmp_path / "planted.cu"
    path.write_text(planted.replace("⟦", "").replace("⟧", ""))
    source = CudaSource(path, KERNELS)
    for order in ORDERS:
        with emulation("check", order=order), pytest.raises(KernelError) as caught:
            run(source, kernel)
        message = str(caught.value)
        assert re.search(complaint.replace("{line}", line), message), message
        assert line in message, message
        assert message.startswith(f"{kernel}: block (")
