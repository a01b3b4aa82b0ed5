"""Ways to plant a mistake into a kernel: another implementation of it, until pytest's monkeypatch is undone."""

from functools import partial

import numpy as np

import minifcn_kernels as kernels
from planted import faulty

NUMBA = ("numba",)
EVERY_BACKEND = ("numba", "numpy")


def plant_kernel(name, implementation, backends=EVERY_BACKEND):
    """Plant another implementation of a kernel."""

    def plant(patch):
        for backend in backends:
            patch.setitem(getattr(kernels, name)._implementations, backend, implementation)

    return plant


def faulty_kernel(name, fault, backends=EVERY_BACKEND):
    """Plant one of the kernels of `planted.faulty`."""
    return plant_kernel(name, partial(getattr(faulty, name), fault=fault), backends)


CROP_FAULTS = {
    "padding off by one": lambda offset: (offset[0] + 1, offset[1]),
    "spatial axes swapped": lambda offset: offset[::-1],
}


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


def view_of_the_map(x, offset, size):
    """A crop that is no copy."""
    return x[:, :, offset[0] :, offset[1] :][:, :, : size[0], : size[1]]


# --- into the Numba implementation alone -----------------------------------------------------------------------


def change_result(name, change):
    """Its first result goes through ``change``, which sees the arguments, too."""
    right = getattr(kernels, name)._implementations["numba"]

    def wrong(**arguments):
        result = right(**arguments)
        return (change(result[0], arguments), *result[1:]) if isinstance(result, tuple) else change(result, arguments)

    return plant_kernel(name, wrong, NUMBA)


def spoil_an_input(result, arguments):
    """A change of the result that leaves it alone, and empties the first array among the arguments."""
    next(value for value in arguments.values() if isinstance(value, np.ndarray) and value.ndim)[...] = 0
    return result


def forget_argument(name, argument):
    """It never sees one of its arguments."""
    right = getattr(kernels, name)._implementations["numba"]
    return plant_kernel(name, lambda **arguments: right(**(arguments | {argument: None})), NUMBA)


def sum_for_mean(name):
    """Its mean is the sum over the number of all pixels, the ignored among them."""
    right = getattr(kernels, name)._implementations["numba"]

    def wrong(**arguments):
        if arguments["reduction"] != "mean":
            return right(**arguments)
        total = right(**(arguments | {"reduction": "sum"}))
        return total / total.dtype.type(arguments["target"].size)

    return plant_kernel(name, wrong, NUMBA)
