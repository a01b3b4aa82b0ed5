"""Trainings in tests are tiny: waiting for a second thread would take longer than what it computes."""

import numba
import pytest


@pytest.fixture(autouse=True)
def one_thread():
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(threads)
