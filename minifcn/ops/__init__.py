"""Differentiable operations: each is the algebra of one function and its gradient, over arrays or over kernels."""

from minifcn.ops.activation import dropout, log_softmax, relu, softmax
from minifcn.ops.basic import exp, log, matmul, sqrt
from minifcn.ops.conv import conv2d, conv_transpose2d, linear
from minifcn.ops.crop import crop, fuse
from minifcn.ops.loss import cross_entropy
from minifcn.ops.movement import cat, pad, permute, reshape, to, transpose
from minifcn.ops.norm import local_response_norm
from minifcn.ops.pool import avg_pool2d, max_pool2d
from minifcn.ops.reduction import max, mean, sum

__all__ = [
    "avg_pool2d",
    "cat",
    "conv2d",
    "conv_transpose2d",
    "crop",
    "cross_entropy",
    "dropout",
    "exp",
    "fuse",
    "linear",
    "local_response_norm",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "max_pool2d",
    "mean",
    "pad",
    "permute",
    "relu",
    "reshape",
    "softmax",
    "sqrt",
    "sum",
    "to",
    "transpose",
]
