"""Runs convolutions on arrays that lie against pages which may not be touched.

The compiled kernels check no index. To read one number beyond an array seldom shows: there is nearly always more
memory. Here there is none, and the process ends with a segmentation fault. As a program, ``python guarded.py SEED
CASES``, it says what it is about to run.
"""

import ctypes
import mmap
import sys
from contextlib import contextmanager
from math import prod

import numpy as np

import minifcn_kernels as kernels
from minifcn.random import stream
from minifcn_kernels.conv2d.contract import conv_geometry

_libc = ctypes.CDLL(None, use_errno=True)
_maps = []  # as long as they are here, no array loses its memory
_empty = np.empty


def guarded(shape, dtype, at_end):
    """Return an array with a forbidden page right behind it, or right before it."""
    size, page = prod(shape) * np.dtype(dtype).itemsize, mmap.PAGESIZE
    if size == 0:
        return _empty(shape, dtype)
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for forbidden in (0, (pages + 1) * page):
        if _libc.mprotect(ctypes.c_void_p(address + forbidden), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    _maps.append(memory)
    first = page + (pages * page - size if at_end else 0)
    return np.frombuffer(memory, dtype, prod(shape), first).reshape(shape)


@contextmanager
def results_guarded(at_end):
    """Give what implementations allocate such neighbours, too."""
    zeros = np.zeros

    def guarded_zeros(shape, dtype=float):
        array = guarded(np.atleast_1d(shape).tolist(), dtype, at_end)
        array[...] = 0
        return array

    np.empty = lambda shape, dtype=float: guarded(np.atleast_1d(shape).tolist(), dtype, at_end)
    np.zeros = guarded_zeros
    try:
        yield
    finally:
        np.empty, np.zeros = _empty, zeros


def draw(random):
    """Return the shapes of x and w, and options: half of them 3×3 or 1×1 filters, as fast ways exist for these."""
    groups = int(random.choice([1, 1, 1, 2, 3]))
    C, K = (groups * int(random.choice([1, 2, 3, 5, 8, 17, 25, 64])) for _ in range(2))
    if random.random() < 0.15:
        groups = C = K = int(random.choice([3, 8]))
    window = tuple(random.integers(1, 8, 2).tolist())
    window = [window, window, (3, 3), (1, 1)][random.integers(4)]
    options = {
        "stride": tuple(random.integers(1, 5, 2).tolist()) if random.random() < 0.5 else (1, 1),
        "padding": tuple(random.integers(0, 4, 2).tolist()) if random.random() < 0.5 else (0, 0),
        "dilation": tuple(random.integers(1, 3, 2).tolist()),
        "groups": groups,
    }
    images, size = int(random.choice([1, 1, 2, 5])), random.integers(1, 40, 2).tolist()
    return (images, C, *size), (K, C // groups, *window), options


def run(random):
    """Run one convolution and its gradients, unless its filter is larger than the input."""
    x_shape, w_shape, options = draw(random)
    dtype, at_end = random.choice(["float32", "float64"]), bool(random.integers(2))
    algorithm = str(random.choice(["auto", "auto", "direct", "winograd"]))
    try:
        y_shape = conv_geometry(x_shape, w_shape, *options.values()).y_shape
    except ValueError:
        return
    sys.stdout.write(f"{algorithm} {dtype} {at_end=} {x_shape} {w_shape} {options}\n")
    sys.stdout.flush()
    x, w, b, gy = (guarded(shape, dtype, at_end) for shape in (x_shape, w_shape, w_shape[:1], y_shape))
    for array in (x, w, b, gy):
        array[...] = random.standard_normal(array.shape)
    calls = (
        (kernels.conv2d, x, w, b),
        (kernels.conv2d_grad_input, gy, w, x_shape),
        (kernels.conv2d_grad_weight, x, gy, w_shape),
    )
    for kernel, *arguments in calls:
        try:
            with kernels.use_algorithm(algorithm):
                kernel(*arguments, **options)  # Numba compiles here, and would not know the np.empty below
                with results_guarded(at_end):
                    kernel(*arguments, **options)
        except ValueError as error:
            if "winograd" not in str(error):  # which does not apply to every geometry
                raise


if __name__ == "__main__":
    seed, cases = map(int, sys.argv[1:])
    for case in range(cases):
        run(stream(seed, "guarded", case))
        _maps.clear()
