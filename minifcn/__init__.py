"""minifcn: fully convolutional networks from the inside."""

from minifcn import data, fcn, models, nn, ops, testing, training
from minifcn.anomaly import detect_anomaly
from minifcn.tensor import Function, Tensor, no_grad
from minifcn.trace import trace

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
]
