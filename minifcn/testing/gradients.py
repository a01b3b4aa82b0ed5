"""Proving a gradient: `check_gradients`, and `check_ties` for the points where there is none to measure."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from minifcn.testing import data
from minifcn.testing.claims import CLAIMS_AFTER, CLAIMS_BEFORE, Claim, Trial
from minifcn.testing.failure import GradientError, Mismatch, describe
from minifcn.testing.snippet import snippet
from minifcn.testing.subject import Subject
from minifcn.testing.values import agrees, every_slope, random_slopes
from minifcn_kernels.jit import Array

Mode = Literal["full", "directional"]

_VALUES = "The gradient is what central differences measure."
_TIES = "At a tie the first maximum gets the gradient, at 0 a ReLU gets none."


def check_gradients(f: Callable[..., Any], *inputs: Any, mode: Mode = "full", seed: int = 0) -> None:
    """Prove the gradient of ``f`` at a point, for all inputs and, if ``f`` is a module, all its parameters.

    With a random cotangent u, backward's Jᵀu is compared with the slopes of ⟨u, f⟩ that central differences measure
    in float64 (`minifcn.testing.slopes`), and everything in `minifcn.testing.claims` is checked too: gradients
    accumulate, inputs are left alone, memory layout and dtype do not matter, calls do not disturb each other …

    Args:
        f: a function of tensors that returns a tensor, or a `Module`, which is copied and never touched.
        inputs: arrays or tensors, the point; all are differentiated. What has no gradient, such as class labels,
            belongs into the function: ``check_gradients(lambda x: loss(x, labels), x)``; constants there must be
            float64 or follow ``x.dtype``. Numbers of size 1 suit the steps best.
        mode: ``"full"`` measures the slope along every element (4 forward passes each), ``"directional"`` along one
            random direction for each input and parameter; the first for layers, the second for nets.
        seed: names the cotangent and the directions.

    Raises:
        GradientError: a claim does not hold; the message tells where, why perhaps, and how to see it again.
        KinkError: the point lies on a kink, such as a tie of a maximum: use other inputs, or `check_ties`.
        ValueError: the output is not finite, or there is nothing to differentiate.
    """
    if mode not in ("full", "directional"):
        raise ValueError(f"mode must be 'full' or 'directional', got {mode!r}")
    trial = _trial(f, inputs, seed)
    failure = _first_failure(trial, mode)
    if failure is not None:
        claim, mismatch = failure
        options = f"seed={seed}" if mode == "full" else f"mode={mode!r}, seed={seed}"
        code = snippet("check_gradients", trial.subject, options, data.distinct, lambda xs: _fails(_trial(f, xs, seed)))
        raise GradientError(describe(f"{trial.subject.name}: a claim does not hold", claim, mismatch, code))


def check_ties(f: Callable[..., Any], *inputs: Any, seed: int = 0) -> None:
    """Prove that where maxima tie the first one gets the gradient, and that ReLU's slope at 0 is 0.

    A tie has no slope, but the convention says which of the slopes around it to take: that of the point reached by
    lowering every element a little, later ones more. There no tie is left, the first of equals is the largest,
    and a 0 is negative.

    Args:
        f, inputs, seed: as for `check_gradients`; the inputs should have ties (`minifcn.testing.data.tied`).

    Raises:
        GradientError: the gradient at the tie is another.
    """
    trial = _trial(f, inputs, seed)
    mismatch = _at_tie(trial)
    if mismatch is not None:
        code = snippet(
            "check_ties", trial.subject, f"seed={seed}", data.tied, lambda xs: bool(_at_tie(_trial(f, xs, seed)))
        )
        raise GradientError(describe(f"{trial.subject.name}: a claim does not hold", _TIES, mismatch, code))


def _at_tie(trial: Trial) -> Mismatch | None:
    """Compare the gradient at the tie with that a tiny step away, once that is proved a larger step away."""
    wrong = every_slope(Trial(trial.subject.at(_untied(trial, 2.0**-8)), trial.seed))
    # So small that gradients hardly change, and far above the rounding of numbers below 1000.
    return wrong or trial.differ(trial.grads, trial.run(_untied(trial, 1e-9))[1], relative=1e-6)


def _untied(trial: Trial, step: float) -> list[Array]:
    """Lower every element by ``step`` at most, later ones more."""
    point = trial.subject.point
    return [x - step * np.arange(1, x.size + 1).reshape(x.shape) / max(x.size, 1) for x in point]


def _trial(f: Callable[..., Any], inputs: Sequence[Any], seed: int) -> Trial:
    subject = Subject(f, inputs)
    trial = Trial(subject, seed)
    if not np.isfinite(trial.output).all():
        raise ValueError(f"{subject.name} is not finite at the inputs, so it has no gradient there; use other inputs")
    return trial


def _first_failure(trial: Trial, mode: Mode) -> tuple[str, Mismatch] | None:
    """Return the sentence of the first claim that does not hold, and where."""
    broken = _broken(CLAIMS_BEFORE, trial)
    if broken is None and (mismatch := every_slope(trial) if mode == "full" else random_slopes(trial)):
        return _VALUES, mismatch
    return broken or _broken(CLAIMS_AFTER, trial)


def _broken(claims: Sequence[Claim], trial: Trial) -> tuple[str, Mismatch] | None:
    return next(((claim.sentence, mismatch) for claim in claims if (mismatch := claim(trial))), None)


def _fails(trial: Trial) -> bool:
    """Say quickly, without looking for the place, whether any claim fails."""
    return not agrees(trial) or _broken(CLAIMS_BEFORE + CLAIMS_AFTER, trial) is not None
