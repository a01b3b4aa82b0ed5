"""Local response normalisation in CUDA C++: a thread for every element."""

from pathlib import Path

from minifcn_kernels.cuda.grid import check_countable, number, over_elements
from minifcn_kernels.cuda.launch import CudaSource, empty
from minifcn_kernels.jit import Array
from minifcn_kernels.local_response_norm.contract import (
    check_constants,
    local_response_norm,
    local_response_norm_grad,
)

source = CudaSource(
    Path(__file__).with_name("local_response_norm.cu"),
    [
        f"{kernel}<{T}>"
        for kernel in ("local_response_norm", "local_response_norm_scales", "local_response_norm_grad")
        for T in ("float", "double")
    ],
)


@local_response_norm.implementation("cuda")
def local_response_norm_cuda(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """`local_response_norm`, element by element."""
    check_constants(size, alpha, k)
    check_countable("local_response_norm", x=x.shape)
    y = empty(x.shape, like=x)
    constants = float(alpha / size), float(beta), float(k)
    kernel = f"local_response_norm<{number(x)}>"
    source.launch(kernel, *over_elements(x.size), x, y, _fields(x, size), *constants)
    return y


@local_response_norm_grad.implementation("cuda")
def local_response_norm_grad_cuda(gy: Array, x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """`local_response_norm_grad` in two passes: the powers once for each element, then their sums over channels."""
    check_constants(size, alpha, k)
    check_countable("local_response_norm_grad", x=x.shape)
    direct, through, gx = (empty(x.shape, like=x) for _ in range(3))
    threads, fields = over_elements(x.size), _fields(x, size)
    constants = float(alpha / size), float(beta), float(k)
    kernel = f"local_response_norm_scales<{number(x)}>"
    source.launch(kernel, *threads, gy, x, direct, through, fields, *constants)
    factor = float(2 * alpha * beta / size)
    kernel = f"local_response_norm_grad<{number(x)}>"
    source.launch(kernel, *threads, direct, through, x, gx, fields, factor)
    return gx


def _fields(x: Array, size: int) -> dict[str, int]:
    """Return the fields of the C++ struct ``Norm``."""
    N, C, H, W = x.shape
    # A window that reaches over all channels on both sides reaches as far as a larger one.
    return {"N": N, "C": C, "plane": H * W, "size": min(size, 2 * C + 1)}
