"""Hypothesis profiles: a quick one that always tries the same examples, a thorough one that looks for new ones.

``MINIFCN_TEST_PROFILE=thorough pytest`` chooses the second.
"""

import os
import sys

import pytest
from hypothesis import Phase, settings

# Some tests compare one thread with two, on a machine of one core as well. Numba reads this when it is imported.
os.environ["NUMBA_NUM_THREADS"] = "2"
# Threads that spin while they wait take the processor from the other test process: ten times slower on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No deadline: the first example of a kernel may compile it, which takes seconds.
settings.register_profile("quick", max_examples=20, derandomize=True, deadline=None, print_blob=True)
# 400: the 31 tests for false alarms of `minifcn.testing` see 12,400 layers, and `make check` stays below half an hour.
settings.register_profile("thorough", max_examples=400, deadline=None, print_blob=True)
# For `make mutants`: whether a test fails is all that is asked there, not the smallest case for which it does.
settings.register_profile("mutants", settings.get_profile("quick"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("MINIFCN_TEST_PROFILE", "quick"))


@pytest.fixture
def cuda(monkeypatch):
    """Provide a GPU: the real one where there is one, else a fake CuPy whose kernels run on the emulator."""
    import fake_cupy
    from minifcn_kernels.cuda import device
    from minifcn_kernels.cuda.emulator import build

    if device.missing() is None:
        yield device.cupy()
    elif build.missing() is not None:
        pytest.skip(f"no GPU, and none can be faked: {build.missing()}")
    else:
        fake = fake_cupy.fake_module()
        monkeypatch.setitem(sys.modules, "cupy", fake)
        fake_cupy.forget()
        yield fake
        monkeypatch.undo()
        fake_cupy.forget()
