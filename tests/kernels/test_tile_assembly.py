"""The register tile's machine code for processors that may not be at hand: written, and read for spills; not run.

A tile that needs more registers than there are goes on working, but in every step some of its sums are stored to the
stack and loaded again. Nothing else would tell.
"""

import importlib.util
import platform
import re
import sys

import llvmlite.binding as llvm
import numba
import pytest
from numba import types

from minifcn_kernels import tile

# The vector unit's name; machine and features as `vector_unit` is told them; LLVM's names for such a processor.
UNITS = {
    "AVX2": ("x86_64", {}, "x86_64-unknown-linux-gnu", "haswell"),
    "AVX-512": ("x86_64", {"avx512f": True}, "x86_64-unknown-linux-gnu", "skylake-avx512"),
    "NEON": ("aarch64", {}, "aarch64-unknown-linux-gnu", "neoverse-n1"),
}


@pytest.fixture(params=UNITS)
def unit(request, monkeypatch):
    """A copy of tile.py as it is on such a machine, and LLVM's names for that."""
    machine, features, triple, cpu = UNITS[request.param]
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: features)
    monkeypatch.setattr(numba.config, "CPU_NAME", None)
    spec = importlib.util.spec_from_file_location("tile_of_another_machine", tile.__file__)
    copy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, copy)
    spec.loader.exec_module(copy)
    return copy, triple, cpu


def steps(function, signature, triple, cpu):
    """Compile ``function`` for another machine, and return the instructions of each of its innermost loops."""
    function = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    function.compile(signature)
    (code,) = function.inspect_llvm().values()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    code = re.sub('target triple = ".*"', f'target triple = "{triple}"', code)
    code = re.sub('target datalayout = ".*"', f'target datalayout = "{machine.target_data}"', code)
    lines = [
        line.split("#")[0].split("//")[0].strip()
        for line in machine.emit_assembly(llvm.parse_assembly(code)).splitlines()
    ]
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    jumps = [
        (labels.get(line.split()[-1], number), number) for number, line in enumerate(lines) if re.match(r"j|b\.", line)
    ]
    loops = [lines[first + 1 : last + 1] for first, last in jumps if first < last]
    return [loop for loop in loops if not any(line.endswith(":") for line in loop)]


@pytest.mark.parametrize("element", [types.float32, types.float64])
@pytest.mark.parametrize("name", ["tile", "part_tile", "dot_tile"])
def test_a_step_of_the_tile_multiplies_in_registers(unit, name, element):
    copy, triple, cpu = unit
    numbers, places = types.Array(element, 1, "C"), types.Array(types.int64, 1, "C")
    n, the_tile = types.int64, getattr(copy, name)

    def run_tile(depth, a, first, step, offsets, b, starts, b_offsets, c, fresh):
        the_tile(depth, a, first, 1, offsets, b, starts, first, b_offsets, c, first, step, fresh, a, first)

    def run_dot_tile(depth, a, first, step, b, starts, b_offsets, c):
        the_tile(depth, a, first, step, b, starts, first, b_offsets, c, first, step)

    def run_part_tile(count, depth, a, first, step, offsets, b, starts, b_offsets, c):
        the_tile(count, depth, a, offsets, step, offsets, b, starts, first, b_offsets, c, first, step)

    run, arguments, vectors = {
        "tile": (run_tile, (n, numbers, n, n, places, numbers, places, places, numbers, types.boolean), [copy.VECTORS]),
        "part_tile": (
            run_part_tile,
            (n, n, numbers, n, n, places, numbers, places, places, numbers),
            range(1, copy.VECTORS + 1),
        ),
        "dot_tile": (run_dot_tile, (n, numbers, n, n, numbers, places, places, numbers), [copy.VECTORS]),
    }[name]
    loops = steps(run, arguments, triple, cpu)
    loops = [loop for loop in loops if any(re.match("vfm|fmla", line) for line in loop)]
    products = [sum(bool(re.match("vfm|fmla", line)) for line in loop) for loop in loops]
    assert sorted(products) == [copy.ROWS * count for count in vectors]  # a loop for each, one step at a time
    for loop in loops:
        spills = [line for line in loop if re.search(r"v.*%[re]sp|[vq]\d.*\[sp", line)]
        assert spills == [], "\n".join(loop)
