"""The backends to test on, with a reason where one is not to be had, and a number of threads to run on."""

from contextlib import contextmanager

import numba
import pytest

from minifcn_kernels.cuda import device
from minifcn_kernels.cuda.emulator import build

needs_gpu = pytest.mark.skipif(device.missing() is not None, reason=str(device.missing()))
needs_emulator = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
EMULATOR = pytest.param("emulator", marks=needs_emulator)
BACKENDS = ("numpy", "numba", EMULATOR)
backends = pytest.mark.parametrize("backend", BACKENDS)


@contextmanager
def threads(number):
    """Let compiled kernels run on so many threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(number)
    try:
        yield
    finally:
        numba.set_num_threads(before)
