import numba
import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Arrays are tiny here: a second thread would only be waited for."""
    numba.set_num_threads(1)
