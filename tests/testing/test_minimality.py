"""What Hypothesis reports for a broken convolution is a smallest case: lower anything by one and the bug is gone."""

import dataclasses

import hypothesis
import minifcn_kernels as kernels
import pytest
from planted.bugs import CONVOLUTIONS, OP_BUGS
from planted.faulty import *  # noqa: F403

from minifcn import ops
from minifcn.testing import GradientError, check_gradients, strategies
from minifcn.testing.cases import ConvCase

BUGS = [bug for bug in OP_BUGS if bug.subject == "conv2d" and bug.variant not in ("",)]
calls = 0

def fails(case):
    """Say whether the toolkit finds something wrong with the convolution of this case."""
    global calls
    calls += 1
    try:
        with kernels.use_backend("numpy"):
            check_gradients(lambda *a: ops.conv2d(*a, **case.options), *case.arrays(), mode="directional")
    except GradientError:
        return True
    return False


def smaller(case):
    """Yield the cases in which one size or option is one less."""
    for field in dataclasses.fields(ConvCase):
        value = getattr(case, field.name)
        if field.name == "seed":
            continue
        if isinstance(value, tuple):
            for axis in (0, 1):
                yield dataclasses.replace(case, **{field.name: tuple(v - (i == axis) for i, v in enumerate(value))})
        elif value:
            yield dataclasses.replace(case, **{field.name: type(value)(value - 1)})


def is_valid(case):
    try:
        return min(case.N, case.C, case.K, case.H, case.W, case.R, case.S, case.groups) > 0 and case.geometry is not None
    except ValueError:
        return False


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_counterexample_is_locally_minimal(bug, monkeypatch):
    global calls
    import time
    t=time.time(); calls=0
    bug.plant(monkeypatch)
    profile = hypothesis.settings(max_examples=500, derandomize=True, database=None, deadline=None)
    case = hypothesis.find(strategies.convolutions(), fails, settings=profile)
    bad = [other for other in smaller(case) if is_valid(other) and fails(other)]
    print("\n", bug, case, bad, calls, time.time()-t)
