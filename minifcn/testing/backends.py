"""Proving that every implementation of a kernel computes what its reference does."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numba
import numpy as np

from minifcn.testing.data import strided
from minifcn.testing.failure import BackendError, Mismatch, describe, first_mismatch
from minifcn_kernels import dispatch
from minifcn_kernels.conv2d.choose import winograd_applies
from minifcn_kernels.conv2d.contract import conv_geometry
from minifcn_kernels.conv2d.winograd_tiles import lay_out, tile_rows
from minifcn_kernels.conv2d.winograd_transforms import FORWARD_GROWTH, WEIGHT_GROWTH, error_bound
from minifcn_kernels.cuda.device import is_cupy, to_device
from minifcn_kernels.dispatch import Kernel, Policy, current_policy, use_policy
from minifcn_kernels.jit import Array

Arguments = dict[str, Any]


class Case(Protocol):
    """Arguments for kernels; those of `minifcn.testing.cases` and whatever a user writes. Its repr can be pasted."""

    def arguments(self, kernel: str) -> dict[str, Any]:
        """Return the arguments of the kernel of that name; float arrays in float64."""

    def roundings(self, kernel: str) -> int:
        """Return how many roundings lie between the inputs and one output: n products that are summed make 2n."""


def check_backends(kernel: Kernel, case: Case) -> None:
    """Prove that all available backends and algorithms of ``kernel`` agree with its NumPy reference.

    The reference runs in float64. An implementation may differ by γ·m, with γ = n·u/(1 − n·u) for n roundings of unit
    u (Higham, "Accuracy and Stability of Numerical Algorithms", §3.1), in float64 as in float32, where m is the
    largest of inputs, outputs, and outputs for the absolute values of the inputs. Winograd's algorithm, asked for or
    chosen, has the error bound of its own that it states on top. Whole numbers must be equal.
    Each implementation also leaves its inputs alone, returns arrays of its own, takes any memory layout, and
    gives the same bits with one thread and with two (where Numba may use two).

    Args:
        kernel: one of `minifcn_kernels`, or one declared with `minifcn_kernels.dispatch.kernel`.
        case: its arguments.

    Raises:
        BackendError: it does not hold; the message tells for which backend, algorithm and dtype.
    """
    for dtype in dispatch.FLOATS:
        arguments = _in_precision(case.arguments(kernel.name), dtype)
        expected, tolerance = _reference(kernel, arguments, case.roundings(kernel.name), dtype)
        for name, policy in _policies(kernel):
            with use_policy(policy):
                more = _winograd_tolerance(kernel, arguments) if _may_be_winograd(kernel, policy, dtype) else 0
                failure = _first_failure(kernel, arguments, expected, tolerance + more)
            if failure is not None:
                claim, mismatch = failure
                headline = f"{kernel.name} on {name} in {dtype}: a claim does not hold"
                code = (
                    "import minifcn_kernels as kernels\nfrom minifcn import testing\n"
                    f"from {type(case).__module__} import {type(case).__name__}\n"
                    f"testing.check_backends(kernels.{kernel.name}, {case!r})"
                )
                raise BackendError(describe(headline, claim, mismatch, code))


def _policies(kernel: Kernel) -> Iterator[tuple[str, Policy]]:
    """Yield every way to run the kernel here, with its name; what is not available is left out."""
    for backend, state in dispatch.backends().items():
        if state != "available":
            continue
        several = backend != "numpy" and kernel.name.startswith("conv2d")
        for algorithm in dispatch.ALGORITHMS if several else ("auto",):
            if backend == "numba" and algorithm in ("direct", "winograd") and numba.config.DISABLE_JIT:
                continue  # the register tile exists in compiled code only
            yield f"{backend} ({algorithm})", Policy(backend, algorithm)


def _may_be_winograd(kernel: Kernel, policy: Policy, dtype: np.dtype[np.floating[Any]]) -> bool:
    if not kernel.name.startswith("conv2d") or policy.algorithm not in ("auto", "winograd"):
        return False
    return policy.backend != "numpy" and dtype == np.float32


def _winograd_tolerance(kernel: Kernel, arguments: Arguments) -> float:
    """Return by how much Winograd's algorithm may be off; 0 where it does not apply."""
    shapes = {name: a.shape for name, a in arguments.items() if isinstance(a, np.ndarray)}
    shapes |= {name.removesuffix("_shape"): a for name, a in arguments.items() if name.endswith("_shape")}
    options = [arguments.get(*option) for option in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))]
    g = conv_geometry(shapes["x"], shapes["w"], *options)
    if not winograd_applies(g, np.dtype(np.float32), of_input=kernel.name == "conv2d_grad_input"):
        return 0.0
    grid, origins = lay_out(g)
    rows, columns = tile_rows(g.N, grid)
    terms = {
        "conv2d": len(origins) * g.C // g.groups,
        "conv2d_grad_input": len(origins) * g.K // g.groups,
        "conv2d_grad_weight": rows * columns,
    }
    growth = WEIGHT_GROWTH if kernel.name == "conv2d_grad_weight" else FORWARD_GROWTH
    largest = [float(np.abs(arguments[name]).max(initial=0)) for name in ("x", "w", "gy") if name in arguments]
    return error_bound(terms[kernel.name], growth, largest[0] * largest[1])


def _in_precision(arguments: Arguments, dtype: np.dtype[np.floating[Any]]) -> Arguments:
    return _map_floats(arguments, lambda array: array.astype(dtype))


def _map_floats(arguments: Arguments, change: Callable[[Array], Array]) -> Arguments:
    """Return the arguments with all their float arrays changed."""
    return {name: np.asarray(change(value)) if _is_float(value) else value for name, value in arguments.items()}


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _run(kernel: Kernel, arguments: Arguments) -> list[Array]:
    """Run the kernel and return its outputs as a list; most have one. On a GPU, arrays go there and back."""
    if current_policy().backend == "cuda":
        arguments = {n: to_device(a, "cuda") if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    outputs = kernel(**arguments)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    return [to_device(array, "cpu") if is_cupy(array) else array for array in outputs]


def _reference(
    kernel: Kernel, arguments: Arguments, roundings: int, dtype: np.dtype[np.floating[Any]]
) -> tuple[list[Array], float]:
    """Run the reference in float64; return its outputs, and how far an implementation in ``dtype`` may be off."""
    exact = _in_precision(arguments, np.dtype(np.float64))
    with use_policy(Policy("numpy")):
        expected = _run(kernel, exact)
        at_most = _run(kernel, _map_floats(exact, np.abs))
    floats = [array for array in (*expected, *at_most, *exact.values()) if _is_float(array)]
    magnitude = max(float(np.abs(array[np.isfinite(array)]).max(initial=0)) for array in floats)
    unit = float(np.finfo(dtype).eps) / 2
    in_float64 = float(np.finfo(np.float64).eps) / 2  # the reference rounds, too
    return expected, roundings * (unit / (1 - roundings * unit) + in_float64) * magnitude


def _first_failure(
    kernel: Kernel, arguments: Arguments, expected: list[Array], tolerance: float
) -> tuple[str, Mismatch] | None:
    """Return the first claim that does not hold for the policy in force, and where."""
    names = [f"output {i}" for i in range(len(expected))]
    arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    before = {name: array.copy() for name, array in arrays.items()}
    outputs = _run(kernel, arguments)

    changed = first_mismatch([*arrays], [*arrays.values()], [*before.values()])
    if changed:
        return "Inputs are left alone", changed
    for name, output, right in zip(names, outputs, expected, strict=True):
        absolute = tolerance if _is_float(right) else 0
        off = first_mismatch([name], [output], [right], absolute=absolute, names=("got", "reference"))
        if off:
            return f"The result is the reference's, to {tolerance:.3g}", off
        dtype = next(a.dtype for a in arrays.values() if _is_float(a)) if _is_float(right) else right.dtype
        if output.dtype != dtype:
            return "The result has the inputs' dtype", Mismatch(name, output.dtype, dtype)
        for argument, array in arrays.items():
            if np.shares_memory(output, array):
                return "Results are arrays of their own", Mismatch(
                    name, f"the memory of {argument}", "memory of its own"
                )
    again = _run(kernel, {name: strided(value) if name in arrays else value for name, value in arguments.items()})
    differs = first_mismatch(names, again, outputs)
    if differs:
        return "It makes no difference how the inputs lie in memory", differs
    if current_policy().backend != "numba":
        return None
    differs = first_mismatch(names, *_with_one_and_two_threads(kernel, arguments))
    return ("One thread and two give the same bits", differs) if differs else None


def _with_one_and_two_threads(kernel: Kernel, arguments: Arguments) -> tuple[list[Array], list[Array]]:
    """Run the kernel with one thread, then with two; with one again where Numba was told to use no more."""
    threads = numba.get_num_threads()
    results = []
    try:
        for count in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
            numba.set_num_threads(count)
            results.append(_run(kernel, arguments))
    finally:
        numba.set_num_threads(threads)
    return results[0], results[1]
