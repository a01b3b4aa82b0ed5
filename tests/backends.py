"""The backends to test on, and a reason where one is not to be had."""

import pytest

from minifcn_kernels.cuda import device
from minifcn_kernels.cuda.emulator import build

needs_gpu = pytest.mark.skipif(device.missing() is not None, reason=str(device.missing()))
needs_emulator = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
EMULATOR = pytest.param("emulator", marks=needs_emulator)
BACKENDS = ("numpy", "numba", EMULATOR)
backends = pytest.mark.parametrize("backend", BACKENDS)
