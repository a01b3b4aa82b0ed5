"""Stochastic gradient descent with momentum, the solver of the paper (FCN §4.3)."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from minifcn.nn import Module, Parameter
from minifcn.nn.state import check_state
from minifcn_kernels.cuda.device import cupy, is_cupy, to_device
from minifcn_kernels.jit import Array

# Elements that are updated at a time: five passes over 2¹⁶ floats of three arrays stay within a CPU's cache, which
# makes the update of a large layer 2 to 3 times as fast as five passes over all of it, without large temporaries.
_CHUNK = 1 << 16
# On a GPU each chunk costs a wait for its result, and 2²⁴ float64 are 128 MB of temporary memory.
_GPU_CHUNK = 1 << 24


class SGD:
    """Step down the gradient, with momentum.

    For every parameter p with gradient g and velocity v (0 at first)::

        g ← g · min(1, clip_norm / ‖all g‖)
        v ← momentum · v + g + weight_decay · decay_multiplier · p
        p ← p − lr · lr_multiplier · v

    This is PyTorch's rule. Caffe, and so the paper's nets, keep lr inside of v; as long as lr does not change, that
    is the same. The multipliers are the parameter's own, see `nn.Parameter`: FCN §4.3 trains biases at twice the
    rate. A parameter whose ``grad`` is None is left out of the step: its velocity neither acts nor fades.

    Args:
        parameters: a module, whose parameters go by their paths in `state_dict`; or parameters, which go by number.
        lr: learning rate. It may be assigned to between steps.
        momentum: how much of the velocity survives a step, 0 ≤ momentum < 1.
        weight_decay: strength of the pull towards 0.
        clip_norm: the largest norm of the whole gradient that is used as it is; a larger one is scaled down to it.
            The gradient is that of all parameters, taken as one vector.

    Raises:
        TypeError: something in ``parameters`` is no `nn.Parameter`.
        ValueError: a number is out of range, there are no parameters, or one is given twice.
    """

    def __init__(
        self,
        parameters: Module | Iterable[Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        for name, value, sound, range_ in (
            ("lr", lr, 0 <= lr < math.inf, "0 <= lr"),
            ("momentum", momentum, 0 <= momentum < 1, "0 <= momentum < 1"),
            ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 <= weight_decay"),
            ("clip_norm", clip_norm, clip_norm is None or clip_norm > 0, "clip_norm > 0, or None"),
        ):
            if not sound:
                raise ValueError(f"SGD: {name} must satisfy {range_}, got {value}")
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self._parameters = _named(parameters)
        self._velocity: dict[str, Array] = {}

    def step(self) -> float:
        """Take one step, and return the gradient's norm as it was before clipping.

        Raises:
            FloatingPointError: the gradient holds a NaN or an infinity; then nothing is changed.
        """
        moved = {name: p for name, p in self._parameters.items() if p.grad is not None}
        # float64, one parameter after the other: the same bits whatever the number of threads.
        norm = math.sqrt(sum(_squared_norm(p.grad) for p in moved.values() if p.grad is not None))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the norm of the gradient is {norm}")
        scale = 1.0 if self.clip_norm is None or norm <= self.clip_norm else self.clip_norm / norm
        for name, parameter in moved.items():
            self._move(name, parameter, scale)
        return norm

    def _move(self, name: str, parameter: Parameter, scale: float) -> None:
        """Update one parameter and its velocity in place."""
        assert parameter.grad is not None
        if name not in self._velocity:
            self._velocity[name] = np.zeros_like(parameter.data)
        lr = float(self.lr * parameter.lr_multiplier)
        decay = float(self.weight_decay * parameter.decay_multiplier)
        arrays = parameter.data, parameter.grad, self._velocity[name]
        if is_cupy(parameter.data):
            # CuPy takes the type of the numbers for that of the arithmetic.
            numbers = map(parameter.dtype.type, (scale, self.momentum, decay, lr))
            p, g, v = arrays
            _update_on_gpu()(g, *numbers, p, v)
        else:
            for rows in _chunks(parameter.data):
                # Views, so that in-place operators write to the arrays themselves.
                p, g, v = (np.atleast_1d(array)[rows] for array in arrays)
                _update(p, g, v, scale, self.momentum, decay, lr)
        parameter.mark_changed()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters.values():
            parameter.zero_grad()

    def state_dict(self) -> dict[str, Array]:
        """Return the velocities (not copies) by their parameters' names; those that never moved have none."""
        return dict(self._velocity)

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over the velocities of `state_dict`, as copies beside their parameters; without one they start at 0.

        Raises:
            ValueError: a name is not a parameter's, or a shape differs; all are named, and nothing is loaded.
        """
        check_state({name: p.shape for name, p in self._parameters.items() if name in state}, state)
        self._velocity = {
            name: to_device(array.astype(self._parameters[name].dtype), self._parameters[name].device)
            for name, array in state.items()
        }


def _update(p: Array, g: Array, v: Array, scale: float, momentum: float, decay: float, lr: float) -> None:
    v *= momentum
    v += g if scale == 1 else scale * g
    if decay:
        v += decay * p
    p -= lr * v


@cache
def _update_on_gpu() -> Any:
    """Return `_update` as one CUDA kernel, a single pass over the three arrays."""
    return cupy().ElementwiseKernel(
        "T g, T scale, T momentum, T decay, T lr",
        "T p, T v",
        "v = momentum * v + scale * g + decay * p; p -= lr * v",
        "sgd_update",
    )


def _named(parameters: Module | Iterable[Parameter]) -> dict[str, Parameter]:
    if isinstance(parameters, Module):
        named = dict(parameters.named_parameters())
    else:
        named = {str(number): parameter for number, parameter in enumerate(parameters)}
    for name, parameter in named.items():
        if not isinstance(parameter, Parameter):
            raise TypeError(f"SGD: parameter {name} must be an nn.Parameter, got {type(parameter).__name__}")
    if not named:
        raise ValueError("SGD: there is no parameter to train")
    if len(set(named.values())) < len(named):
        raise ValueError("SGD: a parameter is given twice, and would move twice in a step; give each one once")
    return named


def _chunks(array: Array) -> Iterator[slice]:
    """Cut an array into slices of its first axis (a 0-d array counts as one row) of about a chunk's elements."""
    rows = np.atleast_1d(array)
    chunk = _GPU_CHUNK if is_cupy(array) else _CHUNK
    count = max(1, chunk * len(rows) // max(1, rows.size))
    for start in range(0, len(rows), count):
        yield slice(start, start + count)


def _squared_norm(grad: Array) -> float:
    """Return Σ g², in float64: there the square of a float32 cannot overflow."""
    rows = np.atleast_1d(grad)
    return sum(float(np.square(rows[part], dtype=np.float64).sum()) for part in _chunks(grad))
