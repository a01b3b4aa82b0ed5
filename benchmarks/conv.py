"""Convolutions side by side with PyTorch: ``python benchmarks/conv.py [--threads N] [--rows toy1,toy2]``.

Both run in turn (A B A B …) in one process, on the same arrays and as many threads; the table shows the medians, and
the median of the ratios pair by pair: above 1, minifcn is faster. FLOPs are counted as 2 for each weight that an output
meets, padding included. Needs the extra ``bench``.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# PyTorch's threads keep spinning after their work and would slow down what follows. Read when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numba
import numpy as np
import torch

import minifcn_kernels as kernels


class Row(NamedTuple):
    """One convolution: the input (N, C, size, size), filters (K, C/groups, taps, taps) and the options."""

    N: int
    C: int
    K: int
    size: int
    taps: int = 3
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    groups: int = 1


ROWS = {
    # The first and the heaviest layers of FCN-VGG16 on a 500×500 image, padded by 100 (FCN §4.1)
    "conv1_1": Row(1, 3, 64, 500, padding=100),
    "conv1_2": Row(1, 64, 64, 698),
    "conv2_2": Row(1, 128, 128, 349),
    "conv3_2": Row(1, 256, 256, 175),
    "conv4_2": Row(1, 512, 512, 88),
    "conv5": Row(1, 512, 512, 44),
    "fc6": Row(1, 512, 4096, 22, taps=7, padding=0),
    "fc7": Row(1, 4096, 4096, 16, taps=1, padding=0),
    "score": Row(1, 4096, 21, 16, taps=1, padding=0),
    "score_pool4": Row(1, 512, 21, 44, taps=1, padding=0),
    "vgg14": Row(1, 512, 512, 14),
    # AlexNet's first two
    "alex1": Row(1, 3, 96, 500, taps=11, stride=4, padding=100),
    "alex2": Row(1, 96, 256, 86, taps=5, padding=2, groups=2),
    # A small net on a batch
    "toy1": Row(8, 3, 16, 128),
    "toy2": Row(8, 16, 32, 64),
    "toy3": Row(8, 32, 64, 32),
    "toy4": Row(8, 64, 64, 16),
    "toy5": Row(8, 64, 64, 8),
    # One of each kind
    "dilated": Row(4, 64, 64, 64, padding=2, dilation=2),
    "strided": Row(4, 64, 128, 56, stride=2),
    "depthwise": Row(4, 128, 128, 56, groups=128),
    "pointwise": Row(4, 256, 64, 56, taps=1, padding=0),
}
SECONDS = 1.0  # to spend on each pair, after the warm-up


def pairs(row: Row) -> tuple[float, dict[str, tuple[Callable[[], Any], Callable[[], Any]]]]:
    """Return the FLOPs of one sum, and for each of the three sums our function and PyTorch's."""
    random = np.random.default_rng(0)
    x = random.standard_normal((row.N, row.C, row.size, row.size), np.float32)
    w = random.standard_normal((row.K, row.C // row.groups, row.taps, row.taps), np.float32)
    b = random.standard_normal(row.K, np.float32)
    options = {name: getattr(row, name) for name in ("stride", "padding", "dilation", "groups")}
    y = kernels.conv2d(x, w, b, **options)
    gy = random.standard_normal(y.shape, np.float32)
    theirs = [torch.from_numpy(array) for array in (x, w, b, gy)]

    def backward(wanted: int) -> Any:
        mask = [i == wanted for i in range(3)]
        stride, padding, dilation = ([options[name]] * 2 for name in ("stride", "padding", "dilation"))
        tx, tw, _, tgy = theirs
        gradients = torch.ops.aten.convolution_backward(
            tgy, tx, tw, None, stride, padding, dilation, False, [0, 0], row.groups, mask
        )
        return gradients[wanted]

    return 2.0 * y.size * w[0].size, {
        "forward": (
            lambda: kernels.conv2d(x, w, b, **options),
            lambda: torch.nn.functional.conv2d(*theirs[:3], **options),
        ),
        "grad_input": (lambda: kernels.conv2d_grad_input(gy, w, x.shape, **options), lambda: backward(0)),
        "grad_weight": (lambda: kernels.conv2d_grad_weight(x, gy, w.shape, **options), lambda: backward(1)),
    }


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float, float]:
    """Check that both agree, then return both medians in seconds and the median ratio."""
    expected = theirs().numpy()
    np.testing.assert_allclose(ours(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    times = []
    until = time.perf_counter() + SECONDS
    while len(times) < 3 or time.perf_counter() < until:
        times.append((seconds(ours), seconds(theirs)))
    a, b = zip(*times, strict=True)
    return statistics.median(a), statistics.median(b), statistics.median(t / s for s, t in times)


def main() -> None:
    """Measure the chosen rows and print the table, then the geometric mean of each sum's ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=numba.config.NUMBA_NUM_THREADS)
    parser.add_argument("--rows", default=",".join(ROWS), help="names, separated by commas")
    arguments = parser.parse_args()
    numba.set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, PyTorch {torch.__version__}\n")
    print("| row | sum | ms | GFLOP/s | PyTorch ms | GFLOP/s | ratio |")
    print("|---|---|--:|--:|--:|--:|--:|")
    ratios: dict[str, list[float]] = {}
    for name in arguments.rows.split(","):
        flops, sums = pairs(ROWS[name])
        for kind, (ours, theirs) in sums.items():
            a, b, ratio = measure(ours, theirs)
            ratios.setdefault(kind, []).append(ratio)
            figures = f"{a * 1e3:.2f} | {flops / a / 1e9:.0f} | {b * 1e3:.2f} | {flops / b / 1e9:.0f} | {ratio:.2f}"
            print(f"| {name} | {kind} | {figures} |", flush=True)
    print()
    for kind, values in ratios.items():
        print(f"{kind}: geometric mean {statistics.geometric_mean(values):.2f}, least {min(values):.2f}")


if __name__ == "__main__":
    main()
