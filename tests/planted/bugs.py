"""Thirteen kinds of mistakes, planted into everything they apply to; the library's files stay as they are.

``OP_BUGS`` are planted into a `Function` or into a kernel on all backends: `check_gradients` (for ties `check_ties`)
must find them. ``KERNEL_BUGS`` are planted into a kernel's Numba implementation alone: `check_backends` must find them.
A bug is a kind, the subject's or kernel's name, a variant, and a function that plants it with pytest's monkeypatch.
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


# --- into the backward of a Function ---------------------------------------------------------------------------


def change_gradient(function, i, change):
    """Plant into backward: its gradient of input ``i`` goes through ``change``."""

    def plant(patch):
        right = function.backward

        def wrong(self, grad):
            grads = list(right(self, grad))
            if grads[i] is not None:
                grads[i] = change(grads[i])
            return tuple(grads)

        patch.setattr(function, "backward", wrong)

    return plant


def read_in_another_order(grad):
    """The numbers of the transpose, in the shape of the gradient."""
    return grad.T.reshape(grad.shape)


def _every_gradient():
    """Each subject's name, Function, and the gradients that mistakes are planted into."""
    for name, subject in SUBJECTS.items():
        for i in range(len(subject.inputs)):
            yield name, subject, i


def _simple():
    for name, subject, i in _every_gradient():
        yield Bug("sign", name, f"gradient {i}", change_gradient(subject.function, i, np.negative))
        for k in (2.0, 0.5):
            yield Bug(
                "factor", name, f"gradient {i} × {k}", change_gradient(subject.function, i, partial(np.multiply, k))
            )
        if sum(size > 1 for size in subject.inputs[i].shape) > 1:
            yield Bug("wrong axis", name, f"gradient {i}", change_gradient(subject.function, i, read_in_another_order))


# --- what forward keeps, and who owns what ---------------------------------------------------------------------

# What these keep for backward is computed from their inputs; the others keep shapes, indices or constants.
KEEPS_ARRAYS = (
    "mul", "div", "pow", "exp", "log", "sqrt", "matmul", "max", "relu", "softmax", "log_softmax", "conv2d",
    "conv_transpose2d", "linear", "max_pool2d", "local_response_norm", "cross_entropy",
)  # fmt: skip


def keep_on_the_class(function):
    def plant(patch):
        patch.setattr(function, "saved", ())
        patch.setattr(function, "save", lambda self, *arrays: setattr(function, "saved", arrays))

    return plant


def keep_the_first(function):
    """What the first call saved is used by all: a cache that nothing invalidates."""

    def plant(patch):
        first = []
        patch.setattr(function, "save", lambda self, *arrays: (first.append(arrays), setattr(self, "saved", first[0])))

    return plant


def reuse_the_output(function):
    """All outputs of one shape are written to the same array."""

    def plant(patch):
        right, buffers = function.forward, {}

        def wrong(self, *arrays, **options):
            y = np.asarray(right(self, *arrays, **options))
            buffer = buffers.setdefault((y.shape, y.dtype), np.empty_like(y))
            buffer[...] = y
            return buffer

        patch.setattr(function, "forward", wrong)

    return plant


def reuse_the_gradient(function, i):
    """All gradients of one shape are written to the same array, and given away as fresh."""

    def plant(patch):
        buffers = {}

        def into_buffer(grad):
            buffer = buffers.setdefault((grad.shape, grad.dtype), np.empty(grad.shape, grad.dtype))
            buffer[...] = grad
            return buffer

        change_gradient(function, i, into_buffer)(patch)
        patch.setattr(function, "fresh_gradients", True)

    return plant


def write_to_the_input(function):
    def plant(patch):
        right = function.forward

        def wrong(self, *arrays, **options):
            y = right(self, *arrays, **options)
            arrays[0][...] *= 0.5
            return y

        patch.setattr(function, "forward", wrong)

    return plant


def write_to_the_cotangent(function):
    def plant(patch):
        right = function.backward

        def wrong(self, grad):
            grads = tuple(None if g is None else g.copy() for g in right(self, grad))
            grad *= 0.5
            return grads

        patch.setattr(function, "backward", wrong)

    return plant


def _ownership():
    for name in KEEPS_ARRAYS:
        function = SUBJECTS[name].function
        yield Bug("stale saved array", name, "kept on the class", keep_on_the_class(function))
        yield Bug("stale saved array", name, "kept from the first call", keep_the_first(function))
    for name, subject in SUBJECTS.items():
        # In a mean the sum is only passed on; in a linear layer, the first op's gradient is.
        if name != "mean":
            yield Bug("aliased output", name, "output reused", reuse_the_output(subject.function))
        if name not in ("mean", "linear"):
            yield Bug("aliased output", name, "gradient reused", reuse_the_gradient(subject.function, 0))
            yield Bug("aliased output", name, "cotangent written to", write_to_the_cotangent(subject.function))
        yield Bug("aliased output", name, "input written to", write_to_the_input(subject.function))
    for name in ("add", "fuse"):
        plant = partial(lambda f, patch: patch.setattr(f, "fresh_gradients", True), SUBJECTS[name].function)
        yield Bug("aliased output", name, "one array for both inputs, given away as fresh", plant)


# --- one of its kind -------------------------------------------------------------------------------------------


def set_backward(function, backward):
    return lambda patch: patch.setattr(function, "backward", backward)


def overwrite_leaf(self, grad, *, owned):
    self.grad = grad.copy()


def walk(combine):
    """Make a walk through the graph in which ``combine`` puts a function's gradients with those that came before."""

    def backpropagate(root, grad):
        pending = {root: grad}
        for function in reversed(tensor.topological_order(root)):
            combine(pending, function._run_backward(pending.pop(function)))
            function._release()
        for leaf, total in pending.items():
            leaf._receive(total, owned=False)

    return lambda patch: patch.setattr(tensor, "_backpropagate", backpropagate)


def last_function_wins(pending, grads):
    """Two inputs of one function add up, two functions do not."""
    together = {}
    for source, grad in grads:
        together[source] = together.get(source, 0) + grad
    pending.update(together)


def last_input_wins(pending, grads):
    """Two functions add up, two inputs of one function do not."""
    for source, grad in dict(grads).items():
        pending[source] = pending.get(source, 0) + grad


def getitem_overwrites(self, grad):
    shape, index = self.saved
    grad_a = np.zeros(shape, grad.dtype)
    grad_a[index] = grad
    return (grad_a,)


def pad_moved(self, grad):
    ((left, right, top, bottom),) = self.saved
    return (np.roll(grad, 1, axis=-1)[..., top : grad.shape[-2] - bottom, left : grad.shape[-1] - right],)


def pad_swapped(self, grad):
    ((left, right, top, bottom),) = self.saved
    H, W = grad.shape[-2] - top - bottom, grad.shape[-1] - left - right
    return (np.pad(grad, ((0, 3), (0, 3)))[..., left : left + H, top : top + W],)


def first_slice(grad, shape):
    """What `_sum_to` gives, but without the sum."""
    if grad.shape == shape:
        return grad
    grad = grad[(0,) * (grad.ndim - len(shape))]
    return grad[tuple(slice(0, size) for size in shape)]


def max_all(self, grad):
    a, axes = self.saved
    return ((a == a.max(axis=axes, keepdims=True)) * np.expand_dims(grad, axes),)


def max_last(self, grad):
    a, (axis,) = self.saved
    last = a.shape[axis] - 1 - np.flip(a, axis).argmax(axis=axis, keepdims=True)
    grad_a = np.zeros_like(a)
    np.put_along_axis(grad_a, last, np.expand_dims(grad, axis), axis=axis)
    return (grad_a,)


def relu_of_0_counts(patch):
    patch.setattr(activation.ReLU, "forward", lambda self, a: (self.save(a), np.maximum(a, 0))[1])
    patch.setattr(activation.ReLU, "backward", lambda self, grad: (grad * (self.saved[0] >= 0),))


def option(function, name, value):
    """Plant into backward: an option that forward saved is forgotten."""

    def plant(patch):
        right = function.backward

        def wrong(self, grad):
            *arrays, options = self.saved
            self.saved = (*arrays, options | {name: value})
            return right(self, grad)

        patch.setattr(function, "backward", wrong)

    return plant


def norm_by_one(self, grad):
    x, size, alpha, beta, k = self.saved
    return (kernels.local_response_norm_grad(grad, x, size, alpha * size, beta, k),)


def cross_entropy_over_all_pixels(self, grad):
    logits, options = self.saved
    g = kernels.softmax_cross_entropy_grad(np.asarray(grad), logits, **(options | {"reduction": "sum"}))
    return (g / options["target"].size,)


def ignored_as_class_0(self, grad):
    logits, options = self.saved
    target = np.where(options["target"] == 255, 0, options["target"])
    return (kernels.softmax_cross_entropy_grad(grad, logits, **(options | {"target": target})),)


def _special():
    cross_entropy = SUBJECTS["cross_entropy"].function
    yield Bug("overwritten", "mul", "the leaf's .grad", lambda p: p.setattr(tensor.Tensor, "_receive", overwrite_leaf))
    yield Bug("overwritten", "mul", "the last of two functions wins", walk(last_function_wins))
    yield Bug("overwritten", "mul", "the last of two inputs wins", walk(last_input_wins))
    yield Bug("overwritten", "getitem", "an element taken twice", set_backward(movement.GetItem, getitem_overwrites))
    yield Bug("padding off by one", "pad", "columns", set_backward(movement.Pad, pad_moved))
    yield Bug("spatial axes swapped", "pad", "top and left", set_backward(movement.Pad, pad_swapped))
    for name in SUBJECTS:
        if name.endswith("broadcast"):
            plant = partial(lambda patch: patch.setattr(basic, "_sum_to", first_slice))
            yield Bug("broadcast not summed back", name, "first slice taken", plant)
            plant = partial(lambda patch: patch.setattr(basic, "_sum_to", lambda grad, shape: grad))
            yield Bug("broadcast not summed back", name, "left as it is", plant)
    for name in ("conv2d", "conv_transpose2d", "linear"):
        plant = partial(lambda patch: patch.setattr(conv, "_sum_over_pixels", lambda grad: grad[0].sum(axis=(1, 2))))
        yield Bug("broadcast not summed back", name, "the bias sees the first image only", plant)
    yield Bug(
        "mask or ignore label ignored", "relu", "mask", set_backward(activation.ReLU, lambda self, g: (g.copy(),))
    )
    yield Bug(
        "mask or ignore label ignored", "dropout", "mask", set_backward(activation.Dropout, lambda self, g: (2 * g,))
    )
    yield Bug(
        "wrong normaliser",
        "dropout",
        "1/(1 − p)",
        set_backward(activation.Dropout, lambda s, g: (g * (s.saved[0] > 0),)),
    )
    yield Bug("mask or ignore label ignored", "cross_entropy", "mask", option(cross_entropy, "mask", None))
    yield Bug("mask or ignore label ignored", "cross_entropy", "weight", option(cross_entropy, "weight", None))
    plant = set_backward(cross_entropy, ignored_as_class_0)
    yield Bug("mask or ignore label ignored", "cross_entropy", "ignored label", plant)
    plant = set_backward(cross_entropy, cross_entropy_over_all_pixels)
    yield Bug("wrong normaliser", "cross_entropy", "all pixels counted", plant)
    plant = set_backward(SUBJECTS["local_response_norm"].function, norm_by_one)
    yield Bug("wrong normaliser", "local_response_norm", "alpha not divided by the size", plant)
    yield Bug(
        "wrong normaliser",
        "mean",
        "not divided",
        lambda patch: patch.setattr(basic.Div, "backward", lambda s, g: (g, None)),
    )
    softmax = lambda self, g: (self.saved[0] * g,)  # noqa: E731
    yield Bug("wrong normaliser", "softmax", "the denominator's gradient", set_backward(activation.Softmax, softmax))
    yield Bug(
        "wrong normaliser", "log_softmax", "the sum's gradient", set_backward(activation.LogSoftmax, lambda s, g: (g,))
    )
    yield Bug("wrong normaliser", "avg_pool2d", "padding counted", faulty_kernel("avg_pool2d_grad", "padding counted"))
    yield Bug(
        "ties", "relu", "slope 1 at 0", set_backward(activation.ReLU, lambda self, g: (g * (self.saved[0] >= 0),))
    )
    yield Bug("ties", "max", "all maxima", set_backward(reduction.Max, max_all))
    yield Bug("ties", "max", "the last maximum", set_backward(reduction.Max, max_last))
    yield Bug("ties", "max_pool2d", "the last maximum", faulty_kernel("max_pool2d", "last maximum wins"))


# --- into a kernel ---------------------------------------------------------------------------------------------


def plant_kernel(name, implementation, backends=("numba", "numpy")):
    """Plant another implementation of a kernel."""

    def plant(patch):
        for backend in backends:
            patch.setitem(getattr(kernels, name)._implementations, backend, implementation)

    return plant


def faulty_kernel(name, fault, backends=("numba", "numpy")):
    return plant_kernel(name, partial(getattr(faulty, name), fault=fault), backends)


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

CONVOLUTIONS = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")


def convolution_faults():
    """Yield each mistake that one of the three convolution kernels can have."""
    for kernel in CONVOLUTIONS:
        for fault in KIND_OF_FAULT:
            if fault != "overwritten" or kernel != "conv2d":
                yield kernel, fault


def _windowed(subjects):
    for kernel, fault in convolution_faults():
        for name in subjects:
            yield Bug(KIND_OF_FAULT[fault], name, f"{kernel}: {fault}", faulty_kernel(kernel, fault))


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


def crop_elsewhere(kernel, change):
    """A crop whose offset is another, as far as the map allows."""
    right = getattr(kernels, kernel)._implementations["numpy"]

    def wrong(**arguments):
        full = arguments.get("x_shape") or arguments.get("x", arguments.get("fine")).shape
        part = arguments.get("size") or arguments.get("gy", arguments.get("coarse")).shape[2:]
        offset = change(arguments["offset"])
        offset = tuple(max(0, min(o, f - p)) for o, f, p in zip(offset, full[2:], part, strict=True))
        return right(**(arguments | {"offset": offset}))

    return wrong


CROP_FAULTS = {
    "padding off by one": lambda offset: (offset[0] + 1, offset[1]),
    "spatial axes swapped": lambda offset: offset[::-1],
}


def _op_kernels():
    yield from _windowed(["conv2d", "conv_transpose2d"])
    for kernel, fault in _pooling_faults():
        # A maximum that is looked for in the wrong place is a function of its own, with the right gradient:
        # only the reference knows. Its mistakes are among KERNEL_BUGS.
        if kernel != "max_pool2d":
            yield Bug(
                KIND_OF_FAULT[fault], kernel.removesuffix("_grad"), f"{kernel}: {fault}", faulty_kernel(kernel, fault)
            )
    for kind, change in CROP_FAULTS.items():
        for subject in ("crop", "fuse"):
            yield Bug(kind, subject, "crop_grad", plant_kernel("crop_grad", crop_elsewhere("crop_grad", change)))


OP_BUGS = [*_simple(), *_ownership(), *_special(), *_op_kernels()]


# --- into one implementation of a kernel ------------------------------------------------------------------------

KERNELS = [name for name in kernels.__all__ if isinstance(getattr(kernels, name), type(kernels.conv2d))]


def change_result(name, change):
    """Plant into the Numba implementation: its first result goes through ``change``."""
    right = getattr(kernels, name)._implementations["numba"]

    def wrong(**arguments):
        result = right(**arguments)
        return (change(result[0], arguments), *result[1:]) if isinstance(result, tuple) else change(result, arguments)

    return plant_kernel(name, wrong, ["numba"])


def spoil_an_input(result, arguments):
    next(value for value in arguments.values() if isinstance(value, np.ndarray) and value.ndim)[...] = 0
    return result


def forgetful(name, argument, value=None):
    """Plant into the Numba implementation: it never sees one of its arguments."""
    right = getattr(kernels, name)._implementations["numba"]
    return plant_kernel(name, lambda **arguments: right(**(arguments | {argument: value})), ["numba"])


def _kernel_bugs():
    for name in KERNELS:
        yield Bug("sign", name, "", change_result(name, lambda y, _: -y))
        yield Bug("factor", name, "", change_result(name, lambda y, _: 2 * y))
        yield Bug("aliased output", name, "an input written to", change_result(name, spoil_an_input))
        if not name.endswith("cross_entropy"):
            yield Bug("wrong axis", name, "", change_result(name, lambda y, _: y.T.reshape(y.shape)))
    for kernel, fault in convolution_faults():
        yield Bug(KIND_OF_FAULT[fault], kernel, fault, faulty_kernel(kernel, fault, ["numba"]))
    for kernel, fault in _pooling_faults():
        yield Bug(KIND_OF_FAULT[fault], kernel, fault, faulty_kernel(kernel, fault, ["numba"]))
    for kernel in ("avg_pool2d", "avg_pool2d_grad"):
        yield Bug("wrong normaliser", kernel, "padding counted", faulty_kernel(kernel, "padding counted", ["numba"]))
    yield Bug("ties", "max_pool2d", "the last maximum", faulty_kernel("max_pool2d", "last maximum wins", ["numba"]))
    for kernel in ("crop", "crop_grad", "fuse"):
        for kind, change in CROP_FAULTS.items():
            yield Bug(kind, kernel, "", plant_kernel(kernel, crop_elsewhere(kernel, change), ["numba"]))
    plant = plant_kernel(
        "crop", lambda x, offset, size: x[:, :, offset[0] :, offset[1] :][:, :, : size[0], : size[1]], ["numba"]
    )
    yield Bug("aliased output", "crop", "a view of the map", plant)
    for kernel in ("softmax_cross_entropy", "softmax_cross_entropy_grad"):
        for argument in ("mask", "weight"):
            yield Bug("mask or ignore label ignored", kernel, argument, forgetful(kernel, argument))
        yield Bug("wrong normaliser", kernel, "sum for mean", _sum_for_mean(kernel))


def _sum_for_mean(name):
    right = getattr(kernels, name)._implementations["numba"]

    def wrong(**arguments):
        mean = arguments["reduction"] == "mean"
        result = right(**(arguments | ({"reduction": "sum"} if mean else {})))
        return (
            result / arguments["target"].dtype.type(arguments["target"].size).astype(result.dtype) if mean else result
        )

    return plant_kernel(name, wrong, ["numba"])


KERNEL_BUGS = list(_kernel_bugs())
