"""Which thread computes what: the few shapes of launches that the kernels share."""

from collections.abc import Sequence
from math import prod

from minifcn_kernels.cuda.launch import Array

# Threads to a block: eight warps hide each other's waiting, and small enough blocks leave no multiprocessor half empty.
THREADS = 256
WARP = 32
# Kernels count elements in int.
INDICES = 2**31


def ceil_div(a: int, b: int) -> int:
    """Return ⌈a / b⌉."""
    return -(-a // b)


def over_elements(count: int) -> tuple[int, int]:
    """Return grid and block for one thread to each of ``count`` elements.

    In the kernel: ``i = blockIdx.x * blockDim.x + threadIdx.x``.
    """
    return ceil_div(count, THREADS), THREADS


def over_warps(count: int) -> tuple[int, int]:
    """Return grid and block for one warp to each of ``count`` elements.

    In the kernel: ``i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32``. Of elements there are fewer than 2³¹, but
    32 times as many threads would be more than an unsigned int can count.
    """
    return ceil_div(count, THREADS // WARP), THREADS


def over_rows(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return grid and block for one thread to each element of ``rows`` rows, which need not divide to find its column.

    In the kernel: ``row = blockIdx.x * blockDim.y + threadIdx.y``, ``column = blockIdx.y * blockDim.x + threadIdx.x``.
    """
    across = min(ceil_div(columns, WARP) * WARP, THREADS // 2)  # whole warps lie along a row
    down = THREADS // across
    return (ceil_div(rows, down), ceil_div(columns, across)), (across, down)


def number(x: Array) -> str:
    """Return what C++ calls the dtype of ``x``: a template's argument."""
    return {"float32": "float", "float64": "double"}[x.dtype.name]


def check_countable(kernel: str, **shapes: Sequence[int]) -> None:
    """Raise a ValueError unless every element of arrays of these ``shapes`` has an index below 2³¹."""
    for name, shape in shapes.items():
        if prod(shape) >= INDICES:
            raise ValueError(
                f"{kernel}: {name} of shape {tuple(shape)} has 2³¹ elements or more, and CUDA kernels count them in "
                f"int; use a smaller batch or map"
            )
