"""The whole engine: tensors, differentiable functions, and the walk back through the graph.

A `Function` maps arrays to an array and knows how to pull a cotangent back. Applying one to tensors leaves a
trace, edges that point from an output to the function that made it and on to where its inputs came from::

    x = Tensor([1.0, 2.0], requires_grad=True)            x  (leaf)
    y = x * x                                            ⇡ ⇡
    z = y.sum()                                          Mul ⇠ Sum ⇠ z
    z.backward()

``x`` is used twice, so two gradients reach it and are added: x.grad = 1·x + 1·x. So it is where paths meet::

          ⇠ Exp ⇠
    x                Add ⇠ loss           x.grad = via Exp + via Log
          ⇠ Log ⇠

`Tensor.backward` visits the functions in an order in which everything that uses an output comes before the
function that made it, so that each function sees the whole cotangent of its output, once.

Edges never point from an input to what was made of it, and they hold functions, not tensors: there are no cycles, and
a value is freed as soon as no variable and no backward needs it. What backward needs is freed while it runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, TypeAlias

import numpy as np

from minifcn import anomaly
from minifcn.arrays import as_array, check_cotangent, check_device, constant, tensor_data
from minifcn_kernels.cuda.device import device_of, is_cupy, module_of, to_device
from minifcn_kernels.dispatch import Policy, current_policy, use_policy
from minifcn_kernels.jit import Array

Scalar: TypeAlias = float | int | np.floating[Any] | np.integer[Any]
# Where a gradient goes on to: the function that made an input, or a leaf that collects it.
Node: TypeAlias = "Function | Tensor"

_recording = ContextVar("recording", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing inside this ``with``: outputs do not require gradients, and nothing is kept for a backward."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


class Function:
    """One differentiable operation; one instance per call.

    A subclass gives two methods, both on plain arrays::

        forward(*arrays, **options) -> array
        backward(grad) -> tuple of arrays or None, one for each positional input

    If forward computes y = f(x₁, …, xₙ) and ``grad`` is the cotangent ∂loss/∂y, then backward returns
    ∂loss/∂xᵢ = (∂y/∂xᵢ)ᵀ · grad, in the shape of xᵢ. `save` keeps arrays that backward needs, ``needs[i]`` tells
    whether anybody wants the gradient of input i (return None where not).
    """

    # Backward's arrays are always freshly allocated and given away: then a leaf may keep one without a copy.
    fresh_gradients: ClassVar[bool] = False

    needs: tuple[bool, ...] = ()
    saved: tuple[Any, ...] = ()

    # The engine's own notes, for the walk back and for `trace`. `_release` clears them.
    inputs: Sequence[Node | None] = ()  # where the gradient of each input goes on to; None if nobody wants it
    released: bool = False
    _shapes: list[tuple[int, ...] | None]  # of the inputs; None for one left out
    _shape: tuple[int, ...]  # of the output
    _dtype: np.dtype[Any]
    _versions: list[tuple[list[int], int]]  # of inputs and output: the cell, and what it held in forward
    _policy: Policy
    _line: str = "a line outside detect_anomaly()"
    _retaining: weakref.ref[Tensor] | None = None

    def forward(self, *arrays: Any, **options: Any) -> Array:
        """Compute the output array."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        """Pull the output's cotangent back to the inputs."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward")

    def save(self, *arrays: Any) -> None:
        """Keep ``arrays`` for backward, as ``self.saved``."""
        self.saved = arrays

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Tensor:
        """Run forward on the arrays of ``inputs`` and record the call where a gradient may be asked for.

        Inputs are tensors of one dtype and device, or constants: arrays of both, None, or scalars, which take them.
        """
        function, name, recording = cls(), cls.__name__, _recording.get()
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        first = tensors[0]._data if tensors else None
        dtype = None if first is None else first.dtype
        arrays, nodes, versions = [], [], []
        for x in inputs:
            if isinstance(x, Tensor):
                if x._data.dtype != dtype:
                    raise TypeError(f"{name}: mixes {dtype} and {x._data.dtype} tensors; convert one of them")
                check_device(name, x._data, tensors[0]._data)
                arrays.append(x._data)
                nodes.append(x._creator or x if recording and x.requires_grad else None)
                versions.append((x._version, x._version[0]))
            else:
                arrays.append(constant(name, x, first))
                nodes.append(None)
        function.needs = tuple([node is not None for node in nodes])
        try:
            data = as_array(function.forward(*arrays, **options))  # NumPy reduces to scalars; a tensor holds arrays
        except MemoryError as error:
            raise MemoryError(f"{name}: {error}") from error
        if dtype is not None and data.dtype != dtype:
            raise TypeError(f"{name}.forward must return the dtype of its inputs, {dtype}, got {data.dtype}")
        if anomaly.detecting():
            function._line = anomaly.user_line()
            anomaly.check(name, function._line, "the output", data, arrays)
        output = Tensor._wrap(data, version=[0])
        memory = data if data.base is None else data.base
        for x in tensors:
            if x._data is memory or x._data.base is memory:
                output._version = x._version  # a view changes whenever the input does
        if True in function.needs:
            output.requires_grad = True
            output._creator = function
            function.inputs = nodes
            function._shapes = [None if array is None else array.shape for array in arrays]
            function._shape, function._dtype = data.shape, data.dtype
            function._versions = [*versions, (output._version, output._version[0])]
            function._policy = current_policy()
        return output

    def _run_backward(self, grad: Array) -> list[tuple[Node, Array]]:
        """Run backward as forward ran; return its gradients, checked, each with the node that it goes on to."""
        name = type(self).__name__
        for cell, version in self._versions:
            if cell[0] != version:
                raise RuntimeError(
                    f"{name}: an input or the output was changed after forward (by an optimizer step, load_state_dict "
                    f"or an assignment to .data); run backward before the change, or the forward again"
                )
        if self._policy is current_policy():
            grads = self.backward(grad)
        else:
            with use_policy(self._policy):
                grads = self.backward(grad)
        if not isinstance(grads, tuple) or len(grads) != len(self.inputs):
            raise TypeError(
                f"{name}.backward must return a tuple of {len(self.inputs)} gradients (an array or None), got {grads!r}"
            )
        wanted, detecting = [], anomaly.detecting()
        for i, node in enumerate(self.inputs):
            if node is None or grads[i] is None:
                continue
            g = as_array(grads[i])
            if g.shape != self._shapes[i] or g.dtype != self._dtype:
                raise ValueError(
                    f"{name}.backward returned a gradient of shape {g.shape} and dtype {g.dtype} for input {i}, "
                    f"which has shape {self._shapes[i]} and dtype {self._dtype}"
                )
            if detecting:
                anomaly.check(name, self._line, f"the gradient of input {i}", g, [grad])
            wanted.append((node, g))
        return wanted

    def _release(self) -> None:
        """Let go of everything kept for backward, the user's own attributes included."""
        self.__dict__.clear()
        self.released = True


class Tensor:
    """An array that remembers how it was made.

    Args:
        data: anything NumPy can make an array of, or a CuPy array. Those of float32 and float64 stay so, not copied;
            all else (numbers, lists, integer arrays) becomes float32. Class labels are no tensors: pass plain arrays.
        requires_grad: whether `backward` should leave a gradient in ``grad``.

    Attributes:
        grad: ∂loss/∂data after `backward`, an array that shares memory with nothing, or None. It is added to.
        requires_grad: whether gradients flow to or through this tensor.
    """

    __slots__ = ("__weakref__", "_creator", "_data", "_version", "grad", "requires_grad")

    # Makes `array * tensor` ask the tensor, instead of multiplying element by element into an object array.
    __array_ufunc__ = None

    def __init__(self, data: Any, *, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise TypeError("Tensor(data): data is a Tensor already; use it as it is, or .detach() it")
        self._data: Array = tensor_data(data)
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self._creator: Function | None = None
        self._version = [0]  # a cell, so that a function can watch it without holding on to the data

    @classmethod
    def _wrap(cls, data: Array, version: list[int]) -> Tensor:
        """Make a tensor without history; skips the conversions of the constructor."""
        tensor = Tensor.__new__(Tensor)
        tensor._data = data
        tensor.grad = None
        tensor.requires_grad = False
        tensor._creator = None
        tensor._version = version
        return tensor

    @property
    def data(self) -> Array:
        """The array itself. ``p.data -= lr * p.grad`` counts as a change, ``p.data[0] = 1`` needs `mark_changed`."""
        return self._data

    @data.setter
    def data(self, array: Array) -> None:
        array = as_array(array)
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(
                f"data must keep shape {self.shape} and dtype {self.dtype}, got {array.shape} and {array.dtype}"
            )
        check_device("data", array, self._data)
        self._data = array
        self.mark_changed()

    def mark_changed(self) -> None:
        """Say that the array was written to in place, so that a backward that relied on the old values raises."""
        self._version[0] += 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every axis."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._data.dtype

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda"``."""
        return device_of(self._data)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._data.ndim

    def backward(self, grad: Array | None = None) -> None:
        """Add ∂loss/∂leaf to ``grad`` of every leaf that this tensor was made from and that requires a gradient.

        Args:
            grad: the cotangent ∂loss/∂self. May be left out for a single number, which then is the loss (grad = 1).

        Raises:
            RuntimeError: nothing here requires a gradient, or backward already ran through part of the graph.
            TypeError, ValueError: ``grad`` is missing, no array, or differs from the tensor in shape or dtype.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor was made from nothing that requires a gradient")
        if grad is None:
            if self._data.size != 1:
                raise ValueError(f"backward: pass grad, the cotangent; only one number has a default, not {self.shape}")
            grad = module_of(self._data).ones(self.shape, self.dtype)
        check_cotangent(grad, self._data)
        _backpropagate(self._creator or self, grad)

    def _receive(self, grad: Array, *, owned: bool) -> None:
        """Add to ``self.grad``; it shares memory with nothing, so an array that others may see is copied."""
        if self.grad is None:
            self.grad = grad if owned else grad.copy()
        else:
            self.grad += grad

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def detach(self) -> Tensor:
        """Return a tensor with the same array and no history."""
        return Tensor._wrap(self._data, self._version)

    def retain_grad(self) -> None:
        """Ask for ``grad`` on a tensor that is no leaf, too."""
        if self._creator is not None:
            self._creator._retaining = weakref.ref(self)

    def item(self) -> float:
        """Return the only element as a Python number."""
        return float(self._data.item())

    def numpy(self) -> Array:
        """Return the array (not a copy). On a GPU this raises a TypeError: nothing is moved without being asked to."""
        if is_cupy(self._data):
            raise TypeError('numpy: this tensor is on a GPU; write .to("cpu").numpy()')
        return self._data

    def __repr__(self) -> str:
        op = "leaf" if self._creator is None else type(self._creator).__name__
        values = np.array2string(to_device(self._data, "cpu"), threshold=20, precision=4, separator=", ")
        device = f", device={self.device}" if is_cupy(self._data) else ""
        grad = ", requires_grad" if self.requires_grad and self._creator is None else ""
        return f"Tensor({values}, shape={self.shape}, dtype={self.dtype}{device}, op={op}{grad})"

    def __add__(self, other: Tensor | Array | Scalar) -> Tensor:
        return basic.add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Tensor | Array | Scalar) -> Tensor:
        return basic.sub(self, other)

    def __rsub__(self, other: Array | Scalar) -> Tensor:
        return basic.sub(other, self)

    def __mul__(self, other: Tensor | Array | Scalar) -> Tensor:
        return basic.mul(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Tensor | Array | Scalar) -> Tensor:
        return basic.div(self, other)

    def __rtruediv__(self, other: Array | Scalar) -> Tensor:
        return basic.div(other, self)

    def __pow__(self, exponent: Scalar) -> Tensor:
        return basic.pow(self, exponent)

    def __matmul__(self, other: Tensor | Array) -> Tensor:
        return basic.matmul(self, other)

    def __rmatmul__(self, other: Array) -> Tensor:
        return basic.matmul(other, self)

    def __neg__(self) -> Tensor:
        return basic.neg(self)

    def __getitem__(self, index: Any) -> Tensor:
        return movement.getitem(self, index)

    def sum(self, dim: reduction.Dim = None, keepdim: bool = False) -> Tensor:
        """See `ops.sum`."""
        return reduction.sum(self, dim, keepdim)

    def mean(self, dim: reduction.Dim = None, keepdim: bool = False) -> Tensor:
        """See `ops.mean`."""
        return reduction.mean(self, dim, keepdim)

    def max(self, dim: reduction.Dim = None, keepdim: bool = False) -> Tensor:
        """See `ops.max`."""
        return reduction.max(self, dim, keepdim)

    def reshape(self, *shape: int) -> Tensor:
        """See `ops.reshape`."""
        return movement.reshape(self, *shape)

    def to(self, device: str) -> Tensor:
        """See `ops.to`."""
        return movement.to(self, device)

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """See `ops.transpose`."""
        return movement.transpose(self, dim0, dim1)

    def exp(self) -> Tensor:
        """See `ops.exp`."""
        return basic.exp(self)

    def log(self) -> Tensor:
        """See `ops.log`."""
        return basic.log(self)

    def sqrt(self) -> Tensor:
        """See `ops.sqrt`."""
        return basic.sqrt(self)


def _backpropagate(root: Node, grad: Array) -> None:
    """Walk from ``root`` to the leaves, adding up the cotangents that reach a node before they go on from it."""
    order = topological_order(root)
    for function in order:
        if function.released:
            raise RuntimeError(
                "backward: part of this graph was already walked by an earlier backward, which freed what it kept; "
                "run the forward again, or add the losses and call backward once"
            )
    pending: dict[Node, Array] = {root: grad}
    owned: set[Node] = set()  # nodes whose pending array nobody else can see, so that it may be added to in place
    while order:
        function = order.pop()
        cotangent = pending.pop(function, None)
        if cotangent is not None:  # None: every function that used this output returned None for it
            if function._retaining is not None and (tensor := function._retaining()) is not None:
                tensor._receive(cotangent, owned=False)
            for node, g in function._run_backward(cotangent):
                if node not in pending:
                    pending[node] = g
                    if function.fresh_gradients:
                        owned.add(node)
                elif node in owned:
                    pending[node] += g
                else:
                    pending[node] = as_array(pending[node] + g)
                    owned.add(node)
        function._release()
    for leaf, total in pending.items():
        assert isinstance(leaf, Tensor)
        leaf._receive(total, owned=leaf in owned)


def topological_order(root: Node) -> list[Function]:
    """Return the functions that ``root`` was made by, each behind all that its own inputs were made by.

    Depth first with a stack of our own: a chain of 10,000 functions is deeper than Python's recursion.
    """
    if isinstance(root, Tensor):
        return []
    order: list[Function] = []
    seen: set[Node] = {root}
    stack = [(root, iter(root.inputs))]
    while stack:
        function, nodes = stack[-1]
        for node in nodes:
            if isinstance(node, Function) and node not in seen:
                seen.add(node)
                stack.append((node, iter(node.inputs)))
                break
        else:  # everything behind this function is in order already
            order.append(function)
            stack.pop()
    return order


# The operators' algebra stands on the classes above, so it comes last: the one import of this house that runs upwards.
from minifcn.ops import basic, movement, reduction  # noqa: E402
