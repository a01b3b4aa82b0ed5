"""Kernels as named functions: one contract, several implementations, one place that chooses between them.

::

    @kernel(x=floats("N C H W"), w=floats("K C/G R S"), b=floats("K"))     contract.py
    def conv2d(x, w, b=None, *, stride=1):
        '''The equation, the shapes, the errors, the source.'''
        return ...                                                          the NumPy reference

    @conv2d.implementation("numba")                                         loops.py
    def conv2d_loops(x, w, b=None, *, stride=1): ...

A call checks the arrays against the declaration, makes them C-contiguous and hands them to the implementation
that the policy names. NumPy arrays go to ``"numba"`` unless `use_backend` says otherwise; CuPy arrays, which are on a
GPU, always go to ``"cuda"``. The backend ``"emulator"`` runs the CUDA implementation on NumPy arrays, so that
``@conv2d.implementation("cuda")`` serves both. Nothing falls back, and nothing is moved between devices: a backend
that cannot run raises and says why.

Letters in declarations are bound over all arrays of a call, so ``b=floats("K")`` must be as long as ``w`` has
filters. The notation is the same everywhere: ``N`` batch, ``C`` channels in, ``K`` channels out, ``H W`` input,
``OH OW`` output, ``R S`` filter, ``G`` groups.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import Any

import numpy as np

from minifcn_kernels.cuda import device
from minifcn_kernels.cuda.emulator import build
from minifcn_kernels.jit import Array

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
BACKENDS = ("numba", "numpy", "emulator")  # of NumPy arrays
ALGORITHMS = ("auto", "loops", "direct", "winograd")


@dataclass(frozen=True, slots=True)
class Policy:
    """How kernels run: captured by every differentiable op in its forward, so that its backward runs the same way."""

    backend: str = "numba"
    algorithm: str = "auto"
    allow_tf32: bool = False


def _check_backend(name: str, source: str) -> str:
    if name == "cuda":
        raise ValueError(f"{source}: 'cuda' is not chosen but follows from the arrays: move them by .to('cuda')")
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    return name


_DEFAULT = Policy(_check_backend(os.environ.get("MINIFCN_BACKEND", "numba"), "MINIFCN_BACKEND"))
_policy = ContextVar("policy", default=_DEFAULT)


def current_policy() -> Policy:
    """Return the policy in force here."""
    return _policy.get()


@contextmanager
def use_policy(policy: Policy) -> Iterator[None]:
    """Run the body of a ``with`` under ``policy``."""
    token = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(token)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run NumPy arrays through backend ``name``.

    ``"numba"`` is the default, ``"numpy"`` the reference, ``"emulator"`` the CUDA kernels on the CPU. The choice
    belongs to the current thread or task; the environment variable ``MINIFCN_BACKEND`` sets the default.

    Raises:
        ValueError: no backend has that name.
    """
    with use_policy(replace(current_policy(), backend=_check_backend(name, "backend"))):
        yield


@contextmanager
def use_algorithm(name: str) -> Iterator[None]:
    """Let the backend ``"numba"`` compute convolutions by algorithm ``name`` inside a ``with``.

    ``"loops"`` is the plain nest of loops, ``"direct"`` the register tile. ``"winograd"`` is Winograd's F(4×4, 3×3) for
    all float32 convolutions in which it saves multiplications (on a GPU 3×3 filters without stride or dilation; on the
    CPU others, too, but no input gradient with a stride), and the register tile for the rest. ``"auto"`` (the default)
    chooses for every convolution by its geometry, never by timing; float64 never gets Winograd. The choice belongs to
    the current thread or task.

    Raises:
        ValueError: no algorithm has that name.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(map(repr, ALGORITHMS))}, got {name!r}")
    with use_policy(replace(current_policy(), algorithm=name)):
        yield


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Allow CUDA kernels inside a ``with`` to multiply float32 numbers in TF32, on tensor cores.

    TF32 keeps 10 of float32's 23 bits of mantissa, so products have a relative error up to 2⁻¹¹ in each factor; sums
    stay float32. Never the default. Backends without TF32 are not concerned.

    Raises:
        TypeError: ``allowed`` is no bool.
        RuntimeError: by kernels that have a TF32 version, on a device below compute capability 8.0.
    """
    if not isinstance(allowed, bool):
        raise TypeError(f"allow_tf32 takes True or False, got {allowed!r}")
    with use_policy(replace(current_policy(), allow_tf32=allowed)):
        yield


def backends() -> dict[str, str]:
    """Return every backend's name with ``"available"``, or the reason why it is not."""
    reasons = {"numba": None, "numpy": None, "emulator": build.missing(), "cuda": device.missing()}
    return {name: reason or "available" for name, reason in reasons.items()}


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """What a kernel's array argument must be: its axes by name and the kind of its elements."""

    axes: tuple[str, ...]
    integer: bool

    def __str__(self) -> str:
        return f"({', '.join(self.axes)})"


def floats(axes: str) -> ArraySpec:
    """Declare a float32 or float64 array with these axes; all float arrays of a call share one dtype."""
    return ArraySpec(tuple(axes.split()), integer=False)


def integers(axes: str) -> ArraySpec:
    """Declare an array of any integer dtype with these axes."""
    return ArraySpec(tuple(axes.split()), integer=True)


class Kernel:
    """A contract with its NumPy reference and its implementations; calling it runs the one the policy names."""

    def __init__(self, reference: Callable[..., Any], specs: dict[str, ArraySpec]) -> None:
        self.name = reference.__name__
        self.specs = specs
        parameters = inspect.signature(reference).parameters
        self._optional = {name for name in specs if parameters[name].default is None}
        self._positional = [name for name, p in parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        self._implementations = {"numpy": reference}
        update_wrapper(self, reference)

    def implementation(self, backend: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate the function that computes this kernel on ``backend``; it takes the reference's arguments.

        That of ``"cuda"`` is given CuPy arrays, or NumPy arrays for the emulator, and returns the same.
        """

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self._implementations[backend] = function
            return function

        return register

    def __call__(self, *positional: Any, **options: Any) -> Any:
        """Check the arrays and run the implementation that the policy names."""
        if len(positional) > len(self._positional):
            raise TypeError(
                f"{self.name}: takes at most {len(self._positional)} positional arguments "
                f"({', '.join(self._positional)}), got {len(positional)}; pass the others by name"
            )
        arguments = dict(zip(self._positional, positional, strict=False))
        for name in options.keys() & arguments.keys():
            raise TypeError(f"{self.name}: {name} is given twice, by position and by name")
        arguments.update(options)
        on_gpu = self._check_arrays(arguments)
        backend = "cuda" if on_gpu else _policy.get().backend
        implementation = self._implementations.get("cuda" if backend == "emulator" else backend)
        if implementation is None:
            raise NotImplementedError(f"{self.name}: has no implementation for backend {backend!r}")
        try:
            return implementation(**arguments)
        except MemoryError as error:
            sizes = ", ".join(
                f"{n} {tuple(a.shape)}" for n, a in arguments.items() if n in self.specs and a is not None
            )
            raise MemoryError(f"{self.name} of {sizes}: {error}") from error

    def _check_arrays(self, arguments: dict[str, Any]) -> bool:
        """Check every declared array and replace it by a C-contiguous one; return whether they are on a GPU."""
        given: list[tuple[str, Any]] = []
        sizes: dict[str, tuple[int, str]] = {}
        floating: tuple[str, Any] | None = None
        for name, spec in self.specs.items():
            array = arguments.get(name)
            if array is None:
                if name not in self._optional:
                    raise TypeError(f"{self.name}: {name} is missing; expected an array with axes {spec}")
                continue
            if not device.is_array(array):
                raise TypeError(
                    f"{self.name}: {name} must be a NumPy array with axes {spec}, got {type(array).__name__}"
                )
            given.append((name, array))
            if spec.integer:
                if array.dtype.kind not in "iu":
                    raise TypeError(f"{self.name}: {name} must hold integers, got {array.dtype}")
            elif array.dtype not in FLOATS:
                raise TypeError(f"{self.name}: {name} must be float32 or float64, got {array.dtype}")
            elif floating is None:
                floating = name, array.dtype
            elif array.dtype != floating[1]:
                raise TypeError(
                    f"{self.name}: {floating[0]} is {floating[1]} but {name} is {array.dtype}; convert one of them"
                )
            self._bind_axes(name, spec, array, sizes)
            arguments[name] = device.module_of(array).ascontiguousarray(array)
        device.check_same(self.name, given)
        return device.is_cupy(given[0][1])

    def _bind_axes(self, name: str, spec: ArraySpec, array: Array, sizes: dict[str, tuple[int, str]]) -> None:
        if array.ndim != len(spec.axes):
            raise ValueError(f"{self.name}: {name} must have the axes {spec}, got shape {array.shape}")
        for axis, size in zip(spec.axes, array.shape, strict=True):
            bound, owner = sizes.setdefault(axis, (size, name))
            if size != bound:
                raise ValueError(
                    f"{self.name}: {name} with axes {spec} has shape {array.shape}, "
                    f"but {owner} says that {axis} is {bound}"
                )
            if size == 0 and axis != "N":
                raise ValueError(f"{self.name}: {name} has no elements along {axis}: shape {array.shape}")


def kernel(**specs: ArraySpec) -> Callable[[Callable[..., Any]], Kernel]:
    """Turn a contract (docstring plus NumPy reference) into a `Kernel`; ``specs`` declare its array arguments."""

    def wrap(reference: Callable[..., Any]) -> Kernel:
        return Kernel(reference, specs)

    return wrap


def check_shape(kernel: str, name: str, shape: Sequence[int], expected: Sequence[int]) -> None:
    """Raise a ValueError that names ``kernel`` and argument ``name`` unless the two shapes are equal."""
    if tuple(shape) != tuple(expected):
        raise ValueError(f"{kernel}: {name} must have shape {tuple(expected)}, got {tuple(shape)}")
