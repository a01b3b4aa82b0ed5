"""Compiled kernels read and write their arrays and nothing else."""

import subprocess
import sys

import pytest

import guarded

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forbids pages by mprotect")


@pytest.mark.parametrize("seed", [0, 1])
def test_convolutions_touch_nothing_beyond_their_arrays(seed):
    process = subprocess.run(
        [sys.executable, guarded.__file__, str(seed), "300"], capture_output=True, text=True, check=False
    )
    ran = process.stdout.splitlines()
    assert process.returncode == 0, f"ended with {process.returncode} in {ran[-1]}\n{process.stderr}"
    assert len(ran) > 200


def test_to_touch_what_lies_beyond_ends_the_process():
    program = (
        "import guarded, ctypes; x = guarded.guarded((5,), 'float32', {}); ctypes.string_at(x.ctypes.data + {}, 1)"
    )
    for at_end, beyond in ((True, 20), (False, -1)):
        process = subprocess.run(
            [sys.executable, "-c", program.format(at_end, beyond)],
            cwd=guarded.__file__.rpartition("/")[0],
            check=False,
        )
        assert process.returncode < 0, f"{beyond} could be read"
