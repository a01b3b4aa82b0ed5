"""Thirteen kinds of mistakes, planted into everything they apply to; the library's files stay as they are.

``OP_BUGS`` are planted into a `Function` or into a kernel on all backends: `check_gradients` (for ties `check_ties`)
must find them. ``KERNEL_BUGS`` are planted into a kernel's Numba implementation alone: `check_backends` must find them.
A bug is a kind, the subject's or kernel's name, a variant, and a function that plants it with pytest's monkeypatch:
see `into_functions` and `into_kernels`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import minifcn_kernels as kernels
from minifcn import tensor
from minifcn.ops import activation, basic, conv, movement, reduction
from planted import faulty
from planted import into_functions as wrong
from planted.into_functions import change_gradient, in_another_order, replace, set_backward
from planted.into_kernels import (
    CROP_FAULTS,
    NUMBA,
    change_result,
    crop_elsewhere,
    faulty_kernel,
    forget_argument,
    plant_kernel,
    spoil_an_input,
    sum_for_mean,
    view_of_the_map,
)
from planted.subjects import SUBJECTS

KINDS = (
    "sign",
    "factor",
    "wrong axis",
    "overwritten",
    "padding off by one",
    "spatial axes swapped",
    "stale saved array",
    "broadcast not summed back",
    "dilation ignored",
    "mask or ignore label ignored",
    "wrong normaliser",
    "ties",
    "aliased output",
)


@dataclass(frozen=True)
class Bug:
    kind: str
    subject: str
    variant: str
    plant: Callable[[Any], None]

    def __str__(self):
        return f"{self.kind} | {self.subject} | {self.variant}"


# --- into every Function ---------------------------------------------------------------------------------------


def _every_gradient():
    """Each subject's name, Function, and the gradients that mistakes are planted into."""
    for name, subject in SUBJECTS.items():
        for i in range(len(subject.inputs)):
            yield name, subject, i


def _simple():
    for name, subject, i in _every_gradient():
        yield Bug("sign", name, f"gradient {i}", change_gradient(subject.function, i, np.negative))
        for k in (2.0, 0.5):
            times_k = change_gradient(subject.function, i, partial(np.multiply, k))
            yield Bug("factor", name, f"gradient {i} × {k}", times_k)
        if sum(size > 1 for size in subject.inputs[i].shape) > 1:
            yield Bug("wrong axis", name, f"gradient {i}", change_gradient(subject.function, i, in_another_order))


# What these keep for backward is computed from their inputs; the others keep shapes, indices or constants.
KEEPS_ARRAYS = (
    "mul", "div", "pow", "exp", "log", "sqrt", "matmul", "max", "relu", "softmax", "log_softmax", "conv2d",
    "conv_transpose2d", "linear", "max_pool2d", "local_response_norm", "cross_entropy",
)  # fmt: skip


def _ownership():
    for name in KEEPS_ARRAYS:
        function = SUBJECTS[name].function
        yield Bug("stale saved array", name, "kept on the class", wrong.keep_on_the_class(function))
        yield Bug("stale saved array", name, "kept from the first call", wrong.keep_the_first(function))
    for name, subject in SUBJECTS.items():
        # In a mean the sum is only passed on; in a linear layer, the first op's gradient is.
        if name != "mean":
            yield Bug("aliased output", name, "output reused", wrong.reuse_the_output(subject.function))
        if name not in ("mean", "linear"):
            yield Bug("aliased output", name, "gradient reused", wrong.reuse_the_gradient(subject.function, 0))
            yield Bug("aliased output", name, "cotangent written to", wrong.write_to_the_cotangent(subject.function))
        yield Bug("aliased output", name, "input written to", wrong.write_to_the_input(subject.function))
    for name in ("add", "fuse"):
        given_away = replace(SUBJECTS[name].function, "fresh_gradients", True)
        yield Bug("aliased output", name, "one array for both inputs, given away as fresh", given_away)


# --- one of its kind -------------------------------------------------------------------------------------------


def _overwritten():
    yield Bug("overwritten", "mul", "the leaf's .grad", replace(tensor.Tensor, "_receive", wrong.leaf_overwrites))
    yield Bug("overwritten", "mul", "the last of two functions wins", wrong.walk(wrong.last_function_wins))
    yield Bug("overwritten", "mul", "the last of two inputs wins", wrong.walk(wrong.last_input_wins))
    once = set_backward(movement.GetItem, wrong.getitem_overwrites)
    yield Bug("overwritten", "getitem", "an element taken twice", once)


def _geometry_of_pad():
    yield Bug("padding off by one", "pad", "columns", set_backward(movement.Pad, wrong.pad_moved))
    yield Bug("spatial axes swapped", "pad", "top and left", set_backward(movement.Pad, wrong.pad_swapped))


def _broadcast():
    kind = "broadcast not summed back"
    for name in SUBJECTS:
        if name.endswith("broadcast"):
            yield Bug(kind, name, "first slice taken", replace(basic, "_sum_to", wrong.first_slice))
            yield Bug(kind, name, "left as it is", replace(basic, "_sum_to", lambda grad, shape: grad))
    first_image = replace(conv, "_sum_over_pixels", lambda grad: grad[0].sum(axis=(1, 2)))
    for name in ("conv2d", "conv_transpose2d", "linear"):
        yield Bug(kind, name, "the bias sees the first image only", first_image)


def _masks_and_normalisers():
    masks, normaliser = "mask or ignore label ignored", "wrong normaliser"
    dropout, cross_entropy = activation.Dropout, SUBJECTS["cross_entropy"].function
    yield Bug(masks, "relu", "mask", set_backward(activation.ReLU, lambda self, g: (g.copy(),)))
    yield Bug(masks, "dropout", "mask", set_backward(dropout, lambda self, g: (2 * g,)))
    yield Bug(normaliser, "dropout", "1/(1 − p)", set_backward(dropout, lambda self, g: (g * (self.saved[0] > 0),)))
    yield Bug(masks, "cross_entropy", "mask", wrong.forget_option(cross_entropy, "mask"))
    yield Bug(masks, "cross_entropy", "weight", wrong.forget_option(cross_entropy, "weight"))
    yield Bug(masks, "cross_entropy", "ignored label", set_backward(cross_entropy, wrong.ignored_as_class_0))
    all_pixels = set_backward(cross_entropy, wrong.cross_entropy_over_all_pixels)
    yield Bug(normaliser, "cross_entropy", "all pixels counted", all_pixels)
    whole_alpha = set_backward(SUBJECTS["local_response_norm"].function, wrong.norm_by_one)
    yield Bug(normaliser, "local_response_norm", "alpha not divided by the size", whole_alpha)
    yield Bug(normaliser, "mean", "not divided", set_backward(basic.Div, lambda self, g: (g, None)))
    numerator = set_backward(activation.Softmax, lambda self, g: (self.saved[0] * g,))
    yield Bug(normaliser, "softmax", "the denominator's gradient", numerator)
    without_the_sum = set_backward(activation.LogSoftmax, lambda self, g: (g,))
    yield Bug(normaliser, "log_softmax", "the sum's gradient", without_the_sum)
    yield Bug(normaliser, "avg_pool2d", "padding counted", faulty_kernel("avg_pool2d_grad", "padding counted"))


def _ties():
    yield Bug("ties", "relu", "slope 1 at 0", wrong.relu_of_0_counts)
    yield Bug("ties", "max", "all maxima", set_backward(reduction.Max, wrong.max_all))
    yield Bug("ties", "max", "the last maximum", set_backward(reduction.Max, wrong.max_last))
    yield Bug("ties", "max_pool2d", "the last maximum", faulty_kernel("max_pool2d", "last maximum wins"))


# --- into a kernel ---------------------------------------------------------------------------------------------

KIND_OF_FAULT = {
    "padding one more": "padding off by one",
    "padding one less": "padding off by one",
    "stride swapped": "spatial axes swapped",
    "padding swapped": "spatial axes swapped",
    "dilation swapped": "spatial axes swapped",
    "dilation ignored": "dilation ignored",
    "filter turned round": "wrong axis",
    "overwritten": "overwritten",
}


def _convolution_faults():
    """Yield each mistake that one of the three convolution kernels can have."""
    for kernel in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight"):
        for fault in KIND_OF_FAULT:
            if fault != "overwritten" or kernel != "conv2d":
                yield kernel, fault


def _pooling_faults():
    """Yield each mistake of geometry that the pooling kernels can have; the maximum's gradient knows no geometry."""
    for fault in KIND_OF_FAULT:
        if fault in faulty.GEOMETRY:
            yield "max_pool2d", fault
            if "dilation" not in fault:
                yield "avg_pool2d", fault
                yield "avg_pool2d_grad", fault
    yield "avg_pool2d_grad", "overwritten"
    yield "max_pool2d_grad", "overwritten"


def _op_kernels():
    for kernel, fault in _convolution_faults():
        for name in ("conv2d", "conv_transpose2d"):
            yield Bug(KIND_OF_FAULT[fault], name, f"{kernel}: {fault}", faulty_kernel(kernel, fault))
    for kernel, fault in _pooling_faults():
        # A maximum that is looked for in the wrong place is a function of its own, with the right gradient:
        # only the reference knows. Its mistakes are among KERNEL_BUGS.
        if kernel != "max_pool2d":
            name = kernel.removesuffix("_grad")
            yield Bug(KIND_OF_FAULT[fault], name, f"{kernel}: {fault}", faulty_kernel(kernel, fault))
    for kind, change in CROP_FAULTS.items():
        for name in ("crop", "fuse"):
            yield Bug(kind, name, "crop_grad", plant_kernel("crop_grad", crop_elsewhere("crop_grad", change)))


OP_BUGS = [
    *_simple(),
    *_ownership(),
    *_overwritten(),
    *_geometry_of_pad(),
    *_broadcast(),
    *_masks_and_normalisers(),
    *_ties(),
    *_op_kernels(),
]


# --- into one implementation of a kernel ------------------------------------------------------------------------

KERNELS = [name for name in kernels.__all__ if isinstance(getattr(kernels, name), type(kernels.conv2d))]


def _kernel_bugs():
    for name in KERNELS:
        yield Bug("sign", name, "", change_result(name, lambda y, _: -y))
        yield Bug("factor", name, "", change_result(name, lambda y, _: 2 * y))
        yield Bug("aliased output", name, "an input written to", change_result(name, spoil_an_input))
        if not name.endswith("cross_entropy"):
            yield Bug("wrong axis", name, "", change_result(name, lambda y, _: in_another_order(y)))
    for kernel, fault in (*_convolution_faults(), *_pooling_faults()):
        yield Bug(KIND_OF_FAULT[fault], kernel, fault, faulty_kernel(kernel, fault, NUMBA))
    for kernel in ("avg_pool2d", "avg_pool2d_grad"):
        yield Bug("wrong normaliser", kernel, "padding counted", faulty_kernel(kernel, "padding counted", NUMBA))
    yield Bug("ties", "max_pool2d", "the last maximum", faulty_kernel("max_pool2d", "last maximum wins", NUMBA))
    for kernel in ("crop", "crop_grad", "fuse"):
        for kind, change in CROP_FAULTS.items():
            yield Bug(kind, kernel, "", plant_kernel(kernel, crop_elsewhere(kernel, change), NUMBA))
    yield Bug("aliased output", "crop", "a view of the map", plant_kernel("crop", view_of_the_map, NUMBA))
    for kernel in ("softmax_cross_entropy", "softmax_cross_entropy_grad"):
        for argument in ("mask", "weight"):
            yield Bug("mask or ignore label ignored", kernel, argument, forget_argument(kernel, argument))
        yield Bug("wrong normaliser", kernel, "sum for mean", sum_for_mean(kernel))


KERNEL_BUGS = list(_kernel_bugs())
