"""``MINIFCN_TEST_ORDER=1`` runs all emulated kernels in that order of threads; ``make check`` goes through four."""

import os

import pytest

from minifcn_kernels.cuda.emulator import current_emulation, emulation


@pytest.fixture(scope="session", autouse=True)
def _thread_order():
    with emulation(current_emulation().mode, order=int(os.environ.get("MINIFCN_TEST_ORDER", "0"))):
        yield
