"""Modules made of modules: one after another, or side by side."""

from collections.abc import Mapping
from typing import Any

from minifcn import ops
from minifcn.nn.module import Module
from minifcn.nn.window import Chain, Fork, Geometry


def _adopt(parent: Module, modules: tuple[Module | Mapping[str, Module], ...]) -> None:
    """Make ``modules`` the children of ``parent``: one mapping gives them names, otherwise they are numbered."""
    if len(modules) == 1 and isinstance(modules[0], Mapping):
        named = dict(modules[0])
    else:
        named = {str(i): module for i, module in enumerate(modules)}  # type: ignore[misc]  # checked below
    for name, module in named.items():
        if not isinstance(module, Module):
            raise TypeError(f"{type(parent).__name__}: {name} must be a Module, got {type(module).__name__}")
        if not name or "." in name or hasattr(parent, name):
            raise ValueError(
                f"{type(parent).__name__}: {name!r} cannot name a layer; take a name without dots that is free"
            )
        setattr(parent, name, module)


class Sequential(Module):
    """Modules one after another: ``Sequential(a, b)`` or, with names, ``Sequential({"conv1": a, "relu1": b})``.

    Indexing by number or by name gives a layer.

    Args:
        modules: the layers, in order.
        taps: for a net that is to become the backbone of an FCN, which layer's output represents each stride, and
            how many channels it has: ``{32: ("drop7", 128), 16: ("pool4", 64)}``.
    """

    def __init__(
        self, *modules: Module | Mapping[str, Module], taps: Mapping[int, tuple[str, int]] | None = None
    ) -> None:
        _adopt(self, modules)
        self.taps = dict(taps or {})
        for stride, (name, _) in self.taps.items():
            if not isinstance(vars(self).get(name), Module):
                raise ValueError(f"Sequential: taps[{stride}] names {name!r}, which is none of its layers")

    def forward(self, x: Any) -> Any:
        for _, module in self.named_children():
            x = module(x)
        return x

    def window(self) -> Geometry:
        return Chain(module.window() for _, module in self.named_children())

    def __getitem__(self, key: int | str) -> Module:
        children = dict(self.named_children())
        return children[key] if isinstance(key, str) else list(children.values())[key]

    def __len__(self) -> int:
        return len(list(self.named_children()))


class Parallel(Module):
    """Modules side by side over one input, their outputs joined along the channels (GoogLeNet's inception)."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        _adopt(self, modules)

    def forward(self, x: Any) -> Any:
        return ops.cat([module(x) for _, module in self.named_children()], dim=1)

    def window(self) -> Geometry:
        return Fork(module.window() for _, module in self.named_children())
