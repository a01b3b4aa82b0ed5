"""What Hypothesis reports for a broken convolution is a smallest case: lower anything by one and the bug is gone."""

import dataclasses
import os

import hypothesis
import pytest

from minifcn import Tensor, ops
from minifcn.testing import GradientError, check_gradients, strategies
from planted.bugs import OP_BUGS

OPS = {
    "conv2d": (ops.conv2d, strategies.convolutions()),
    "conv_transpose2d": (ops.conv_transpose2d, strategies.transposed_convolutions()),
}
BUGS = [bug for bug in OP_BUGS if bug.subject in OPS]
if os.environ.get("MINIFCN_TEST_PROFILE") != "thorough":
    BUGS = BUGS[::11]  # every kernel and most kinds


def fails(op, case):
    """Say whether the toolkit finds something wrong with the convolution of this case."""
    try:
        check_gradients(lambda *a: op(*a, **case.options), *case.arrays(), mode="directional")
    except GradientError:
        return True
    return False


def smaller(case):
    """Yield the cases in which one size or option is one less."""
    for field in dataclasses.fields(case):
        value = getattr(case, field.name)
        if isinstance(value, tuple):
            for axis in (0, 1):
                yield dataclasses.replace(case, **{field.name: tuple(v - (i == axis) for i, v in enumerate(value))})
        elif value and field.name != "seed":
            yield dataclasses.replace(case, **{field.name: type(value)(value - 1)})


def is_valid(op, case):
    if min(case.N, case.C, case.K, case.H, case.W, case.R, case.S, case.groups) < 1:
        return False
    try:
        op(*[Tensor(a) for a in case.arrays()], **case.options)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_counterexample_is_locally_minimal(bug, monkeypatch):
    bug.plant(monkeypatch)
    op, cases = OPS[bug.subject]
    phases = [hypothesis.Phase.generate, hypothesis.Phase.shrink]  # what Hypothesis explains besides takes longer
    profile = hypothesis.settings(max_examples=500, derandomize=True, database=None, deadline=None, phases=phases)
    case = hypothesis.find(cases, lambda case: fails(op, case), settings=profile)
    assert [other for other in smaller(case) if is_valid(op, other) and fails(op, other)] == []
