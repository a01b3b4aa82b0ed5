"""Which thread computes what: the few shapes of launches that the kernels share."""

from minifcn_kernels.cuda.launch import Array

# Threads to a block: eight warps hide each other's waiting, and small enough blocks leave no multiprocessor half empty.
THREADS = 256
WARP = 32


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

    In the kernel: ``i = (blockIdx.x * blockDim.x + threadIdx.x) / 32``.
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
