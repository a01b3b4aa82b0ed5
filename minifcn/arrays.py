"""What tensors hold: NumPy arrays on the CPU, CuPy arrays on a GPU; never both in one op.

NumPy's functions take CuPy arrays, too, and leave them where they are: ``np.exp(a)`` runs on the GPU if ``a`` is there.
So ops are written once. Only where an array is made of something that is none, it has to be told where to be.
"""

from typing import Any

import numpy as np

from minifcn_kernels.cuda.device import is_array, is_cupy, module_of
from minifcn_kernels.dispatch import FLOATS
from minifcn_kernels.jit import Array
from minifcn_kernels.memory import empty


def as_array(value: Any) -> Array:
    """Return a CuPy array as it is, and of all else what NumPy makes of it."""
    if type(value) is np.ndarray:  # the usual case: asked several times in every op, it has to be quick
        return value
    return value if is_cupy(value) else np.asarray(value)


def empty_like(array: Array) -> Array:
    """Return a C-contiguous array of the same shape and dtype beside ``array``, whose values mean nothing."""
    make = module_of(array).empty if is_cupy(array) else empty
    return make(array.shape, array.dtype)


def tensor_data(data: Any) -> Array:
    """Return what a new tensor holds: float32 and float64 arrays themselves, all else as float32.

    Raises:
        TypeError: not numbers.
    """
    array = as_array(data)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"Tensor(data): data must be numbers, got {array.dtype}")
    keep = (is_array(data) or isinstance(data, np.generic)) and array.dtype in FLOATS
    return array if keep else array.astype(np.float32)


def constant(op: str, value: Any, like: Array | None) -> Any:
    """Make an op's constant operand an array beside ``like``, its first tensor's, and of the same dtype.

    Nothing that is not a tensor changes the dtype of a result. Without any tensor, constants become what tensors are.

    Raises:
        TypeError: ``value`` is an array of another float dtype than ``like``.
        ValueError: ``value`` is an array on another device than ``like``.
    """
    if value is None:
        return None
    if like is None:
        return tensor_data(value)
    if is_array(value):
        if value.dtype.kind == "f" and value.dtype != like.dtype:
            raise TypeError(f"{op}: mixes a {like.dtype} tensor and a {value.dtype} array; convert one of them")
        check_device(op, value, like)
    return module_of(like).asarray(value, like.dtype)


def check_device(op: str, array: Array, like: Array) -> None:
    """Raise a ValueError that names ``op`` unless both arrays are on the CPU, or both on a GPU."""
    if type(array) is not type(like) and is_cupy(array) is not is_cupy(like):
        raise ValueError(f"{op}: mixes arrays on the CPU and on a GPU; move one of them by .to()")


def check_cotangent(grad: Any, data: Array) -> None:
    """Raise a TypeError or ValueError unless ``grad`` can be the cotangent of ``data``."""
    if not is_array(grad):
        raise TypeError(f"backward: grad must be an array, got {type(grad).__name__}")
    if grad.shape != data.shape or grad.dtype != data.dtype:
        raise ValueError(
            f"backward: grad must have shape {data.shape} and dtype {data.dtype}, got {grad.shape} and {grad.dtype}"
        )
    check_device("backward", grad, data)
