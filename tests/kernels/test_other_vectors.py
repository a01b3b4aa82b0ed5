"""The kernels with vectors and tiles of other processors, run on this one: LLVM makes do with the instructions it has.

What they compute must not depend on how long a vector is. Only their speed is that of no processor.
"""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from minifcn_kernels.tile import VECTOR_BYTES

HERE = Path(__file__).parent
# As `vector_unit` is told them, with the bytes of a vector: NEON has vectors of 16 bytes and tiles of eight rows.
UNITS = {"NEON": (16, "platform.machine = lambda: 'aarch64'"), "AVX2": (32, "numba.config.CPU_NAME = 'haswell'")}
PROGRAM = """
import platform, sys
import numba, pytest
{setting}
from minifcn_kernels.tile import VECTOR_BYTES
numba.config.CPU_NAME = None
assert VECTOR_BYTES == {size}
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="vectors exist in compiled code only")
@pytest.mark.parametrize("unit", UNITS)
def test_the_kernels_compute_the_same_with_other_vectors(unit, tmp_path):
    size, setting = UNITS[unit]
    if size == VECTOR_BYTES:
        pytest.skip(f"these are this machine's own vectors, {size} bytes")
    names = ("tile", "conv2d_algorithms", "winograd", "every_kernel", "conv2d")
    tests = [str(HERE / f"test_{name}.py") for name in names]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setting=setting, size=size), *tests],
        cwd=HERE.parents[1],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
