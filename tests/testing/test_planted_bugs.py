"""Does the toolkit find what it is for? Mistakes of thirteen kinds, in every op and kernel that they apply to."""

import pytest

import minifcn_kernels as kernels
from minifcn import ops
from minifcn.testing import BackendError, GradientError, check_backends, check_gradients, check_ties
from minifcn.testing.cases import PoolCase
from planted.bugs import KERNEL_BUGS, KINDS, OP_BUGS
from planted.subjects import AVG_POOL, CONV, CROP, LABELS, MAX_POOL, NORM, SUBJECTS, TIED

CASES = {
    "conv2d": CONV,
    "max_pool2d": MAX_POOL,
    "avg_pool2d": AVG_POOL,
    "crop": CROP,
    "fuse": CROP,
    "softmax_cross_entropy": LABELS,
    "local_response_norm": NORM,
}
TIED_POOL = PoolCase(N=2, C=2, H=6, W=7, R=3, S=2, ties=True)


def case_of(bug):
    if bug.kind == "ties":
        return TIED_POOL
    return next(case for name, case in CASES.items() if bug.subject.startswith(name))


def test_every_public_op_is_proved():
    # On one device `to` is the tensor itself.
    missing = set(ops.__all__) - {"to"} - SUBJECTS.keys()
    assert not missing, f"add {missing} to SUBJECTS in tests/planted/subjects.py, at a point where mistakes show"


@pytest.mark.parametrize("name", SUBJECTS)
def test_no_false_alarm_on_any_op(name):
    check_gradients(SUBJECTS[name].call, *SUBJECTS[name].inputs)


@pytest.mark.parametrize("name", TIED)
def test_no_false_alarm_at_ties(name):
    check_ties(*TIED[name])


@pytest.mark.parametrize("bug", OP_BUGS, ids=str)
def test_a_bug_in_an_op_is_found(bug, monkeypatch):
    bug.plant(monkeypatch)
    check = check_ties if bug.kind == "ties" else check_gradients
    point = TIED[bug.subject] if bug.kind == "ties" else (SUBJECTS[bug.subject].call, *SUBJECTS[bug.subject].inputs)
    # A gradient of the wrong shape is already refused by the engine.
    with pytest.raises(ValueError if bug.variant == "left as it is" else GradientError):
        check(*point)


@pytest.mark.parametrize("bug", KERNEL_BUGS, ids=str)
def test_a_bug_in_a_kernel_is_found(bug, monkeypatch):
    bug.plant(monkeypatch)
    with pytest.raises(BackendError):
        check_backends(getattr(kernels, bug.subject), case_of(bug))


def test_every_kind_of_bug_is_planted():
    assert {bug.kind for bug in OP_BUGS} == set(KINDS)
