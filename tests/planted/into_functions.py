"""Ways to plant a mistake into a `Function` or into the engine, until pytest's monkeypatch is undone.

A plant is a function of the monkeypatch. Below them stand backwards and walks through the graph that are wrong.
"""

import numpy as np

import minifcn_kernels as kernels
from minifcn import tensor
from minifcn.ops import activation

# --- gradients -------------------------------------------------------------------------------------------------


def replace(owner, name, value):
    """Plant another attribute into a class or a module."""
    return lambda patch: patch.setattr(owner, name, value)


def set_backward(function, backward):
    """Plant another backward."""
    return replace(function, "backward", backward)


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


def in_another_order(grad):
    """The numbers of the transpose, in the shape of the gradient."""
    return grad.T.reshape(grad.shape)


def forget_option(function, name):
    """Plant into backward: an option that forward saved is as if not given."""

    def plant(patch):
        right = function.backward

        def wrong(self, grad):
            *arrays, options = self.saved
            self.saved = (*arrays, options | {name: None})
            return right(self, grad)

        patch.setattr(function, "backward", wrong)

    return plant


# --- what forward keeps, and who owns what ---------------------------------------------------------------------


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


# --- walks through the graph -----------------------------------------------------------------------------------


def leaf_overwrites(self, grad, *, owned):
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


# --- wrong backwards -------------------------------------------------------------------------------------------


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
    """The slope at 0 is 1. Forward has to keep its input for that: its output is 0 on the negative side, too."""
    patch.setattr(activation.ReLU, "forward", lambda self, a: (self.save(a), np.maximum(a, 0))[1])
    patch.setattr(activation.ReLU, "backward", lambda self, grad: (grad * (self.saved[0] >= 0),))


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
