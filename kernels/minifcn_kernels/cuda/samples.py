"""A few calls of every kernel, small and odd: what the tools for learners run when they are given a kernel's name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import minifcn_kernels as kernels
from minifcn_kernels.dispatch import Kernel, Policy, use_policy

KERNELS: dict[str, Kernel] = {name: k for name, k in sorted(vars(kernels).items()) if isinstance(k, Kernel)}


@dataclass(frozen=True, slots=True)
class Sample:
    """One call of a kernel by one of its algorithms, in TF32 or not, and how to say which."""

    kernel: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    algorithm: str = "auto"
    tf32: bool = False

    def __str__(self) -> str:
        shown = [f"{a.dtype}{list(a.shape)}" if isinstance(a, np.ndarray) else str(a) for a in self.arguments]
        shown += [f"{n}={list(o.shape) if isinstance(o, np.ndarray) else o}" for n, o in self.options.items()]
        by = "" if self.algorithm == "auto" else f" by {self.algorithm}"
        return f"{self.kernel}({', '.join(shown)}){by}{' in TF32' if self.tf32 else ''}"

    def run(self, backend: str) -> tuple[NDArray[Any], ...]:
        """Return the results on ``backend``."""
        with use_policy(Policy(backend, self.algorithm, self.tf32)):
            results = KERNELS[self.kernel](*self.arguments, **self.options)
        return results if isinstance(results, tuple) else (results,)


def samples(kernel: str) -> list[Sample]:
    """Return calls of the kernel called so, in float32 and float64, with data that is the same every time."""
    calls = []
    for dtype in (np.float32, np.float64):
        rng = np.random.default_rng(0)

        def draw(*shape: int, dtype: Any = dtype, rng: np.random.Generator = rng) -> NDArray[Any]:
            return rng.standard_normal(shape).astype(dtype)

        calls += [
            Sample(kernel, arguments, options, algorithm, tf32)
            for arguments, options in _CALLS[kernel](draw)
            for algorithm, tf32 in _ways(kernel, options, dtype)
        ]
    return calls


def _ways(kernel: str, options: dict[str, Any], dtype: Any) -> list[tuple[str, bool]]:
    """Return algorithms, and whether in TF32: a convolution in every way that it allows, all else in the only one."""
    if not kernel.startswith("conv2d"):
        return [("auto", False)]
    ways = [("direct", False), ("loops", False)]
    if dtype == np.float32:
        ways.append(("direct", True))
        if options == _FOR_WINOGRAD:
            ways.append(("winograd", False))
    return ways


_Draw = Callable[..., NDArray[Any]]
_Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]

_FOR_WINOGRAD: dict[str, Any] = {"padding": 1}  # the 3×3 filters of the first convolution below, without a stride
# The sizes of one convolution each: x, w and y, with the options that lead from x and w to y.
_CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 3, 9, 11), (5, 3, 3, 3), (1, 5, 9, 11), _FOR_WINOGRAD),
    ((2, 6, 9, 8), (10, 3, 3, 2), (2, 10, 4, 7), {"stride": (2, 1), "groups": 2}),
    # Enough channels for every gradient to go to tensor cores; 6·6 pixels can be copied four at a time.
    ((1, 36, 6, 6), (40, 36, 1, 1), (1, 40, 6, 6), {}),
]
_POOL: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}  # (7, 9) → (4, 5)
_NORM = (5, 1e-4, 0.75, 1.0)


def _conv2d(draw: _Draw) -> _Calls:
    return [((draw(*x), draw(*w), draw(w[0])), options) for x, w, _, options in _CONVOLUTIONS]


def _conv2d_grad_input(draw: _Draw) -> _Calls:
    return [((draw(*y), draw(*w), x), options) for x, w, y, options in _CONVOLUTIONS]


def _conv2d_grad_weight(draw: _Draw) -> _Calls:
    return [((draw(*x), draw(*y), w), options) for x, w, y, options in _CONVOLUTIONS]


def _max_pool2d_grad(draw: _Draw) -> _Calls:
    rows, columns = np.arange(4) * 2, np.arange(5) * 2
    centres = np.broadcast_to(rows[:, None] * 9 + columns, (2, 3, 4, 5)).astype(np.int32)
    return [((draw(2, 3, 4, 5), centres, (2, 3, 7, 9)), _POOL)]


def _target() -> NDArray[Any]:
    return np.arange(2 * 5 * 7).reshape(2, 5, 7) % 3


_CALLS: dict[str, Callable[[_Draw], _Calls]] = {
    "conv2d": _conv2d,
    "conv2d_grad_input": _conv2d_grad_input,
    "conv2d_grad_weight": _conv2d_grad_weight,
    "max_pool2d": lambda draw: [((draw(2, 3, 7, 9),), _POOL)],
    "max_pool2d_grad": _max_pool2d_grad,
    "avg_pool2d": lambda draw: [((draw(2, 3, 7, 9),), _POOL)],
    "avg_pool2d_grad": lambda draw: [((draw(2, 3, 4, 5), (2, 3, 7, 9)), _POOL)],
    "crop": lambda draw: [((draw(2, 3, 7, 9), (1, 2), (5, 6)), {})],
    "crop_grad": lambda draw: [((draw(2, 3, 5, 6), (1, 2), (2, 3, 7, 9)), {})],
    "fuse": lambda draw: [((draw(2, 3, 5, 6), draw(2, 3, 7, 9), (1, 2)), {})],
    "softmax_cross_entropy": lambda draw: [((draw(2, 3, 5, 7), _target()), {})],
    "softmax_cross_entropy_grad": lambda draw: [((draw(1)[0:1].reshape(()), draw(2, 3, 5, 7), _target()), {})],
    "local_response_norm": lambda draw: [((draw(2, 7, 3, 5), *_NORM), {})],
    "local_response_norm_grad": lambda draw: [((draw(2, 7, 3, 5), draw(2, 7, 3, 5), *_NORM), {})],
}
