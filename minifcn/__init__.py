"""minifcn: fully convolutional networks from the inside."""

from minifcn import nn, ops
from minifcn.anomaly import detect_anomaly
from minifcn.tensor import Function, Tensor, no_grad
from minifcn.trace import trace

__all__ = ["Function", "Tensor", "detect_anomaly", "nn", "no_grad", "ops", "trace"]
