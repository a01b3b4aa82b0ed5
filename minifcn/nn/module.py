"""Modules: trees of layers that own parameters, and the parameters themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from minifcn.nn.state import check_state
from minifcn.nn.window import Geometry
from minifcn.tensor import Tensor
from minifcn_kernels.cuda.device import to_device
from minifcn_kernels.jit import Array


class Parameter(Tensor):
    """A tensor that is trained.

    Args:
        data: the first values.
        lr_multiplier: times the learning rate (FCN §4.3 doubles it for biases); 0 fixes the parameter, which then
            requires no gradient.
        decay_multiplier: times the weight decay (0 for biases in the released nets).
    """

    __slots__ = ("decay_multiplier", "lr_multiplier")

    def __init__(self, data: Any, *, lr_multiplier: float = 1.0, decay_multiplier: float = 1.0) -> None:
        super().__init__(data, requires_grad=lr_multiplier != 0)
        self.lr_multiplier = lr_multiplier
        self.decay_multiplier = decay_multiplier

    def copy_from(self, values: Array) -> None:
        """Take over ``values``, of whatever device and float dtype."""
        self.data[...] = to_device(values, self.device)
        self.mark_changed()

    def move_to(self, device: str) -> None:
        """Move the values and the gradient; see `Module.to`."""
        if device != self.device:
            self._data = to_device(self._data, device)
            self.grad = None if self.grad is None else to_device(self.grad, device)
            self.mark_changed()


class Module:
    """A layer or a net: parameters and modules are whatever is assigned to its attributes, in that order.

    A subclass defines ``forward(...)``, and ``window()`` if it is to take part in geometry: in `inspect`,
    `fcn.convolutionalize`, `fcn.FCN`.

    Attributes:
        training: whether layers that differ in training (dropout) should do what they do there; see `train`.
        path: the module's place in the tree that it was last assigned to, such as ``"features.conv1"``.
    """

    training: bool = True
    path: str = ""

    def forward(self, *inputs: Any) -> Any:
        """Compute the output."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *inputs: Any) -> Any:
        """Run `forward`."""
        return self.forward(*inputs)

    def window(self) -> Geometry:
        """Return what the module does to space: `Window`, `Chain` or `Fork`; ``Window()`` for element-wise layers."""
        raise TypeError(
            f"{type(self).__name__} has no window(): define one that returns nn.Window(kernel, stride, padding, …), "
            f"or nn.Window() if an output pixel depends on the input pixel at its own place only"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        inside = value.values() if isinstance(value, dict) else value
        if isinstance(value, list | tuple | dict) and any(isinstance(v, Module | Parameter) for v in inside):
            raise TypeError(
                f"{type(self).__name__}.{name}: modules in a {type(value).__name__} would be neither found nor "
                f"trained; use nn.Sequential, or one attribute each"
            )
        super().__setattr__(name, value)
        if isinstance(value, Module):
            value._place(f"{self.path}.{name}" if self.path else name)

    def _place(self, path: str) -> None:
        object.__setattr__(self, "path", path)
        for name, child in self.named_children():
            child._place(f"{path}.{name}")

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the modules directly below this one, with their names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all below it, parents first, with their paths from here."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield every parameter of this module and all below it once, with its path from here."""
        seen: set[Parameter] = set()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and value not in seen:
                    seen.add(value)
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> Iterator[Parameter]:
        """Yield every parameter of this module and all below it once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(self) -> dict[str, Array]:
        """Return every parameter's array (not a copy) by its path."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy arrays, of whatever device, into the parameters of the same paths.

        Raises:
            ValueError: paths are missing or unknown, or shapes differ; all are named, and nothing is loaded.
        """
        parameters = dict(self.named_parameters())
        check_state({name: parameter.shape for name, parameter in parameters.items()}, state)
        for name, parameter in parameters.items():
            parameter.copy_from(state[name])

    def train(self, mode: bool = True) -> Self:
        """Set ``training`` here and below; returns the module."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Unset ``training`` here and below; returns the module."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def to(self, device: str) -> Self:
        """Move every parameter, with its gradient, to ``"cpu"`` or ``"cuda"``; returns the module.

        An optimizer's velocities stay behind: make it afterwards.

        Raises:
            ValueError: no device has that name.
            DeviceError: there is no GPU; says why.
        """
        for parameter in self.parameters():
            parameter.move_to(device)
        return self

    def _describe(self) -> str:
        """Return what `repr` shows between the parentheses of a module without children: its options and shapes."""
        shown = {name: value for name, value in vars(self).items() if name not in ("path", "training")}
        return ", ".join(f"{n}={v.shape if isinstance(v, Parameter) else v}" for n, v in shown.items())

    def __repr__(self) -> str:
        children = [f"  {name}: {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        inside = "\n" + "\n".join(children) + "\n" if children else self._describe()
        return f"{type(self).__name__}({inside})"


@contextmanager
def evaluating(net: Module) -> Iterator[None]:
    """Put a net in evaluation mode and each of its modules back in its own, which need not all be the same."""
    modes = [(module, module.training) for _, module in net.named_modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(module: Module) -> str:
    """Return where a module's parameters are: ``"cpu"``, also if there are none, or ``"cuda"``."""
    return next((parameter.device for parameter in module.parameters()), "cpu")


def parameter_count(module: Module) -> int:
    """Return how many numbers a module's parameters hold."""
    return int(sum(np.prod(parameter.shape) for parameter in module.parameters()))
