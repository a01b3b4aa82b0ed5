"""Modules: parameters, layers, containers, and the geometry that every layer answers."""

from minifcn.nn import init
from minifcn.nn.containers import Parallel, Sequential
from minifcn.nn.dropout import Dropout, random_state
from minifcn.nn.layers import (
    AvgPool2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    ReLU,
)
from minifcn.nn.module import Module, Parameter, evaluating, parameter_count
from minifcn.nn.window import Chain, Fork, Window

__all__ = [
    "AvgPool2d",
    "Chain",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "Fork",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Module",
    "Parallel",
    "Parameter",
    "ReLU",
    "Sequential",
    "Window",
    "evaluating",
    "init",
    "parameter_count",
    "random_state",
]
