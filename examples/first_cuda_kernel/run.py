"""Launch the kernels of docs/first-cuda-kernel.md: ``python examples/first_cuda_kernel/run.py [kernel ...]``."""

import sys
from pathlib import Path

import numpy as np

import minifcn_kernels as kernels
from minifcn_kernels.cuda.launch import CudaSource, empty

source = CudaSource(Path(__file__).with_name("convolution.cu"), ["naive", "tiled", "gemm<0>", "gemm<1>"])


def convolve(kernel, x, w):
    """Return the convolution of x (C, H, W) with w (K, C, R, S) by one of the kernels."""
    (C, H, W), (K, _, R, S) = x.shape, w.shape
    OH, OW = H - R + 1, W - S + 1
    y = empty((K, OH, OW), like=x)
    if kernel.startswith("gemm"):
        grid, block = (ceil_div(OH * OW, 32), ceil_div(K, 32)), (32, 8)
    else:
        grid, block = (ceil_div(OW, 16), ceil_div(OH, 16), K), (16, 16)
    source.launch(kernel, grid, block, x, w, y, C, H, W, K, R, S)
    return y


def ceil_div(a, b):
    """Return ⌈a / b⌉: how many blocks of b cover a."""
    return -(-a // b)


def main(names):
    """Run the kernels of these names, or all, and compare them with `minifcn_kernels.conv2d`."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 18, 35), dtype=np.float32)
    w = rng.standard_normal((5, 3, 3, 3), dtype=np.float32)
    with kernels.use_backend("numpy"):
        expected = kernels.conv2d(x[None], w)[0]
    for kernel in names or source.kernels:
        np.testing.assert_allclose(convolve(kernel, x, w), expected, atol=1e-5)
        print(f"{kernel:<8} agrees with conv2d")


if __name__ == "__main__":
    main(sys.argv[1:])
