"""What is to be proved: a function of its leaves, which are the inputs and, in a module, the parameters too."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minifcn.nn import Module, Parameter
from minifcn.tensor import Tensor, no_grad
from minifcn_kernels.dispatch import FLOATS
from minifcn_kernels.jit import Array


class Subject:
    """A function of tensors, or a module, together with the point where it is looked at.

    A module is copied, with its parameters in the precision asked for, so that the user's own is never touched.

    Attributes:
        name: how the function calls itself.
        leaves: the names of all leaves, ``"input 0"`` … and ``"parameter conv.weight"`` …
        point: their values.
        inputs: how many of the leaves are inputs.
    """

    def __init__(
        self, f: Callable[..., Any], inputs: Sequence[Any], dtype: type[np.floating[Any]] = np.float64
    ) -> None:
        self.name = type(f).__name__ if isinstance(f, Module) else getattr(f, "__name__", type(f).__name__)
        self._given = f
        self.f = _in_precision(f, dtype) if isinstance(f, Module) else f
        named = [*self.f.named_parameters()] if isinstance(self.f, Module) else []
        trained = [(name, p) for name, p in named if p.requires_grad]
        self._parameters = [p for _, p in trained]
        self.inputs = len(inputs)
        self.leaves = [f"input {i}" for i in range(len(inputs))] + [f"parameter {name}" for name, _ in trained]
        self.point = [_values(i, x, dtype) for i, x in enumerate(inputs)] + [p.data for p in self._parameters]
        if not self.leaves:
            raise ValueError(f"{self.name} has neither inputs nor parameters: there is no gradient to check")

    def tensors(self, values: Sequence[Array], wanted: Sequence[bool] | None = None) -> list[Tensor]:
        """Make the leaves: fresh inputs and the module's parameters, holding ``values``.

        ``wanted`` says which of them require a gradient; all do unless told.
        """
        inputs = [Tensor(value) for value in values[: self.inputs]]
        for parameter, value in zip(self._parameters, values[self.inputs :], strict=True):
            parameter.data = value
            parameter.zero_grad()
        leaves = [*inputs, *self._parameters]
        for leaf, want in zip(leaves, wanted or [True] * len(leaves), strict=True):
            leaf.requires_grad = want
        return leaves

    def apply(self, leaves: Sequence[Tensor]) -> Tensor:
        """Run the function on leaves that `tensors` made."""
        y = self.f(*leaves[: self.inputs])
        if not isinstance(y, Tensor):
            raise TypeError(f"{self.name} must return one Tensor, got {type(y).__name__}")
        return y

    def apply_elsewhere(self, leaves: Sequence[Tensor]) -> None:
        """Make a call beside the one that uses ``leaves``: with other inputs, the same parameters.

        The inputs are smaller by a quarter and in reverse order, so that signs and maxima move, too. That is a place
        which a function ought to allow; if it comes out infinite there, it is no matter.
        """
        others = [Tensor(0.75 * np.flip(leaf.data), requires_grad=True) for leaf in leaves[: self.inputs]]
        with np.errstate(all="ignore"):
            self.apply([*others, *leaves[self.inputs :]])

    def forward(self, values: Sequence[Array]) -> Array:
        """Return the output for ``values``, without recording anything."""
        with no_grad():
            return self.apply(self.tensors(values)).data

    def at(self, point: Sequence[Array]) -> "Subject":
        """Return the same function elsewhere."""
        moved = copy.copy(self)
        moved.point = list(point)
        return moved

    def in_single_precision(self) -> "Subject":
        """Return the same function at the same point in float32."""
        return Subject(self._given, self.point[: self.inputs], np.float32)

    def interchangeable_inputs(self) -> tuple[int, int] | None:
        """Return the first two inputs of one shape, if there are any."""
        shapes = [value.shape for value in self.point[: self.inputs]]
        return next(((shapes.index(shape), j) for j, shape in enumerate(shapes) if shape in shapes[:j]), None)

    def shares(self) -> list[list[bool]]:
        """Return what to want gradients of, each in turn: every input alone, then all parameters."""
        total = len(self.leaves)
        shares = [[i == j for j in range(total)] for i in range(self.inputs)]
        return [*shares, [j >= self.inputs for j in range(total)]] if self._parameters else shares


def copies(arrays: Sequence[Array]) -> list[Array]:
    """Copy every array."""
    return [array.copy() for array in arrays]


def pull(output: Tensor, cotangent: Array, leaves: Sequence[Tensor]) -> list[Array]:
    """Run backward and return every leaf's gradient; zeros where none arrived."""
    if output.requires_grad:
        output.backward(cotangent)
    return [np.zeros_like(leaf.data) if leaf.grad is None else leaf.grad for leaf in leaves]


def _values(i: int, x: Any, dtype: type[np.floating[Any]]) -> Array:
    """Copy an input's numbers in the precision asked for."""
    array = x.data if isinstance(x, Tensor) else np.asarray(x)
    if array.dtype not in FLOATS:
        raise TypeError(
            f"input {i} must be a float32 or float64 array or tensor, got {array.dtype}; what has no gradient, "
            f"such as class labels, belongs into the function: check_gradients(lambda x: f(x, labels), x)"
        )
    return array.astype(dtype, order="C")


def _in_precision(module: Module, dtype: type[np.floating[Any]]) -> Module:
    """Copy a module; its parameters become ones of ``dtype`` in the copy, wherever they are referred to."""
    replaced = {
        id(p): Parameter(p.data.astype(dtype), lr_multiplier=p.lr_multiplier, decay_multiplier=p.decay_multiplier)
        for p in module.parameters()
    }
    return copy.deepcopy(module, replaced)
