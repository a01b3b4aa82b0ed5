"""The claim that matters most: a gradient is what central differences measure."""

from collections.abc import Callable

import numpy as np

from minifcn.random import stream
from minifcn.testing import slopes
from minifcn.testing.claims import Trial
from minifcn.testing.diagnosis import Evidence, likely_causes
from minifcn.testing.failure import KinkError, Mismatch, extent, place, worst
from minifcn_kernels.jit import Array

# Up to this many elements a gradient that is wrong along a direction is measured whole, so that it can be diagnosed.
# Examples that Hypothesis has shrunk are smaller, and those on the way there need no diagnosis.
_MEASURABLE = 64


def every_slope(trial: Trial) -> Mismatch | None:
    """Compare every element of every gradient; report what is wrong before what lies on a kink."""
    kinks = []
    for leaf in range(len(trial.grads)):
        mismatch, kink = _every_element(trial, leaf)
        if mismatch is not None:
            return mismatch
        kinks += [kink] if kink else []
    if kinks:
        raise _kink_error(trial, kinks[0])
    return None


def _every_element(trial: Trial, leaf: int) -> tuple[Mismatch | None, str]:
    """Compare one gradient element by element; return the worst that is wrong, and the name of the first kink."""
    analytic = trial.grads[leaf]
    name, numeric, wrong, kink = trial.subject.leaves[leaf], np.zeros_like(analytic), np.zeros(analytic.shape, bool), ""
    for at in np.ndindex(analytic.shape):
        slope = _slope(trial, leaf, _unit(analytic.shape, at))
        numeric[at] = analytic[at] if slope.kink else slope.value
        wrong[at] = not slope.kink and not slope.agrees_with(float(analytic[at]))
        if slope.kink and not kink:
            kink = f"{place(name, at, analytic.shape)}, where it is {trial.subject.point[leaf][at]:.6g}"
    if not wrong.any():
        return None, kink
    off = np.where(wrong, np.abs(analytic - numeric), 0)
    return _mismatch(trial, leaf, worst(off), numeric, wrong), kink


def random_slopes(trial: Trial) -> Mismatch | None:
    """Compare every gradient along one random direction; look for the element only where that is wrong."""
    for leaf, analytic in enumerate(trial.grads):
        slope, right = _random_slope(trial, leaf)
        if slope.kink:
            raise _kink_error(trial, f"{trial.subject.leaves[leaf]}, along a random direction")
        if not right:
            mismatch = _every_element(trial, leaf)[0] if analytic.size <= _MEASURABLE else None
            return mismatch or _narrow_down(trial, leaf)
    return None


def agrees(trial: Trial) -> bool:
    """Say whether every gradient is right along one random direction, or lies on a kink."""
    measured = (_random_slope(trial, leaf) for leaf in range(len(trial.grads)))
    return all(slope.kink or right for slope, right in measured)


def _random_slope(trial: Trial, leaf: int) -> tuple[slopes.Slope, bool]:
    """Measure the slope along one random direction, and say whether the gradient agrees."""
    direction = _direction(trial, leaf)
    slope = _slope(trial, leaf, direction)
    return slope, slope.agrees_with(float(np.vdot(trial.grads[leaf], direction)))


def _direction(trial: Trial, leaf: int) -> Array:
    return stream(trial.seed, "direction", leaf).standard_normal(trial.grads[leaf].shape)


def _narrow_down(trial: Trial, leaf: int) -> Mismatch:
    """Find a wrong element by halving the direction, following the half that is more wrong."""
    analytic, direction = trial.grads[leaf], _direction(trial, leaf)
    elements = np.arange(analytic.size)
    while len(elements) > 1:
        off = []
        halves = np.array_split(elements, 2)
        for half in halves:
            chosen = np.isin(np.arange(analytic.size), half).reshape(analytic.shape)
            part = direction * chosen
            off.append(abs(_slope(trial, leaf, part).value - float(np.vdot(analytic, part))))
        elements = halves[int(np.argmax(off))]
    at = tuple(int(i) for i in np.unravel_index(int(elements[0]), analytic.shape))
    numeric = _slope(trial, leaf, _unit(analytic.shape, at)).value
    where = place(trial.gradients[leaf], at, analytic.shape)
    cause = (
        f'with mode="full", or with {trial.subject.leaves[leaf]} of at most {_MEASURABLE} elements, it can be diagnosed'
    )
    return Mismatch(where, analytic[at], numeric, names=("analytic", "numeric"), causes=(cause,))


def _mismatch(trial: Trial, leaf: int, at: tuple[int, ...], numeric: Array, wrong: Array) -> Mismatch:
    """Put together what is known about a wrong gradient."""
    analytic, step = trial.grads[leaf], slopes.STEPS[0] * _unit(numeric.shape, at)
    x = trial.subject.point[leaf]
    column = (_moved(trial, leaf)(x + step) - _moved(trial, leaf)(x - step)) / (2 * slopes.STEPS[0])
    doubled = trial.run(trial.subject.point, cotangent=np.asarray(2 * trial.cotangent))[1][leaf]
    causes = likely_causes(Evidence(analytic, numeric, at, trial.cotangent * column, doubled))
    where = place(trial.gradients[leaf], at, analytic.shape)
    return Mismatch(where, analytic[at], numeric[at], extent(wrong), ("analytic", "numeric"), causes)


def _slope(trial: Trial, leaf: int, direction: Array) -> slopes.Slope:
    loss = slopes.along(_moved(trial, leaf), trial.subject.point[leaf], direction, trial.cotangent)
    return slopes.measure(loss, float(np.abs(trial.cotangent * trial.output).sum()))


def _moved(trial: Trial, leaf: int) -> Callable[[Array], Array]:
    """Return the function of one leaf alone, the others where they are."""
    point = trial.subject.point
    return lambda value: trial.subject.forward([*point[:leaf], value, *point[leaf + 1 :]])


def _unit(shape: tuple[int, ...], at: tuple[int, ...]) -> Array:
    unit = np.zeros(shape)
    unit[at] = 1
    return unit


def _kink_error(trial: Trial, where: str) -> KinkError:
    return KinkError(
        f"{trial.subject.name}: kink near {where}: the slopes on its two sides differ, so no gradient can be called "
        f"wrong there. Use inputs away from kinks (minifcn.testing.data.distinct), or check_ties for the rule at "
        f"a tie. If there should be no kink, look for something in the function that is not computed in float64"
    )
