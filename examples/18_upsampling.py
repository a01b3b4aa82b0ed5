"""FCN §3.3: upsampling is backwards strided convolution.

For several factors: how far a transposed convolution with a bilinear filter is from interpolation, for odd kernels and
even ones, and what fixed upsampling of 21 classes costs with a filter per class and with all 21².
"""

import time

import numpy as np
from experiment import Effort, chosen_effort, folder_of, plot, report

from minifcn import Tensor, fcn, no_grad
from minifcn.random import stream

CLASSES = 21


def distance_from_formula(kernel: int, factor: int) -> float:
    """Upsample one row of random numbers; return the largest difference from np.interp in the interior."""
    x = stream(0, kernel).standard_normal(12)
    column = fcn.bilinear_upsampling(1, (1, kernel), (1, factor))
    with no_grad():
        y = column(Tensor(x[None, None, None].astype(np.float32))).data[0, 0, 0]
    # Output i lies at (i − (k − 1)/2) / f; for k = 2f − 1 whole pixels fall on whole pixels.
    at = (np.arange(len(y)) - (kernel - 1) / 2) / factor
    inside = (at >= 0) & (at <= len(x) - 1)
    return float(np.abs(y - np.interp(at, np.arange(len(x)), x))[inside].max())


def milliseconds(factor: int, side: int, *, learned: bool) -> float:
    layer = fcn.bilinear_upsampling(CLASSES, 2 * factor, factor, learned=learned)
    x = Tensor(stream(0).standard_normal((1, CLASSES, side, side)).astype(np.float32))
    with no_grad():
        layer(x)  # compiles
        start = time.perf_counter()
        layer(x)
    return 1000 * (time.perf_counter() - start)


def main(effort: Effort) -> None:
    rows = []
    for factor in (2, 8, 32):
        fixed, learned = (milliseconds(factor, effort.side // factor, learned=learned) for learned in (False, True))
        rows.append(
            (
                factor,
                f"{distance_from_formula(2 * factor - 1, factor):.1e}",
                f"{distance_from_formula(2 * factor, factor):.1e}",
                f"{fixed:.0f}",
                f"{learned:.0f}",
            )
        )
    kernels = {f"kernel {k}": fcn.bilinear_upsampling(1, (1, k), (1, 4)).weight.data[0, 0, 0] for k in (7, 8)}
    curves = {name: (np.arange(len(w)) - (len(w) - 1) / 2, w) for name, w in kernels.items()}
    plot(folder_of("upsampling") / "filters.png", {"output pixels from the input pixel": curves}, "weight, factor 4")
    report(
        "upsampling",
        ("factor f", "kernel 2f − 1: error", "kernel 2f: error", f"{CLASSES} filters, ms", f"{CLASSES}² filters, ms"),
        rows,
    )


if __name__ == "__main__":
    main(chosen_effort())
