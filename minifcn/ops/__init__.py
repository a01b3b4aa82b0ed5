"""Differentiable operations: each is the algebra of one function and its gradient, over arrays or over kernels."""

from minifcn.ops.activation import dropout, log_softmax, relu, softmax
from minifcn.ops.basic import exp, log, matmul, sqrt
from minifcn.ops.conv import conv2d, conv_transpose2d, linear
from minifcn.ops.movement import cat, pad
from minifcn.ops.reduction import max, mean, sum

__all__ = [
    "cat",
    "conv2d",
    "conv_transpose2d",
    "dropout",
    "exp",
    "linear",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "mean",
    "pad",
    "relu",
    "softmax",
    "sqrt",
    "sum",
]
