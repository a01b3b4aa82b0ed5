"""Small odd launches that reach every CUDA kernel and every way through it, compared with the reference in float64.

They run under the backend (or "cuda") and the emulation in force. A list for each op; a run raises if its result is
wrong.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import minifcn_kernels as kernels
from geometry import distinct, normal
from minifcn.random import stream
from minifcn_kernels.cuda.compilation import sources
from minifcn_kernels.cuda.device import to_device
from minifcn_kernels.dispatch import current_policy, use_policy

SOURCES = sources()
SINGLE, DOUBLE = np.float32, np.float64
# Relative to the largest output. TF32 has 10 bits of mantissa; Winograd's transforms enlarge rounding errors.
TOLERANCES = {"single": 1e-5, "double": 1e-12, "tf32": 2e-3, "winograd": 1e-4}


def compare(kernel, arguments, options, tolerance):
    """Run a kernel of `minifcn_kernels` and its reference, in float64, and compare all outputs."""

    def here(value):
        on_gpu = current_policy().backend == "cuda" and isinstance(value, np.ndarray)
        return to_device(value, "cuda") if on_gpu else value

    def in_float64(value):
        return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    def run(change):
        changed = {name: change(option) for name, option in options.items()}
        outputs = getattr(kernels, kernel)(*map(change, arguments), **changed)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    actual = run(here)
    with kernels.use_backend("numpy"):
        expected = run(in_float64)
    for a, e in zip(actual, expected, strict=True):
        a = to_device(a, "cpu")
        finite = np.isfinite(e)
        assert np.array_equal(a[~finite], e[~finite], equal_nan=True), f"{kernel}: infinite and NaN elements differ"
        off = np.abs(a[finite] - e[finite]).max(initial=0)
        limit = tolerance * np.abs(e[finite]).max(initial=0)
        assert off <= limit, f"{kernel}: off by {off:.3g}, more than {limit:.3g}"


def convolution(kernel, x_shape, w_shape, dtype=SINGLE, *, algorithm="direct", tf32=False, infinite=False, **options):
    """Run one of the three sums of a convolution by ``algorithm``; ``infinite`` makes one weight infinite."""
    x, w, b = (normal(i, shape, dtype) for i, shape in enumerate((x_shape, w_shape, w_shape[:1])))
    with kernels.use_backend("numpy"):
        gy = normal(3, kernels.conv2d(x, w, **options).shape, dtype)
    if infinite:  # times zero it would be NaN: nothing may be multiplied by what lies behind the end of a sum
        x, w = np.abs(x) + 1, np.abs(w) + 1
        w[0, 0, 0, 0] = np.inf
    arguments = {
        "conv2d": (x, w, b),
        "conv2d_grad_input": (gy, w, x_shape),
        "conv2d_grad_weight": (x, gy, w_shape),
    }
    kind = "tf32" if tf32 else algorithm if algorithm == "winograd" else "double" if dtype == DOUBLE else "single"
    with use_policy(replace(current_policy(), algorithm=algorithm, allow_tf32=tf32)):
        compare(kernel, arguments[kernel], options, TOLERANCES[kind])


def three_sums(*case, **options) -> Iterator[Callable[[], None]]:
    """Yield a run for each of the three sums of a convolution."""
    for kernel in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight"):
        yield partial(convolution, kernel, *case, **options)


PAIRS = {"stride": (2, 3), "padding": (1, 2), "dilation": (3, 2), "groups": 2}
PRODUCTS = [
    # Two groups of 5 filters; no size is a multiple of a stride.
    *three_sums((2, 6, 11, 13), (10, 3, 3, 2), **PAIRS),
    *three_sums((2, 6, 11, 13), (10, 3, 3, 2), DOUBLE, **PAIRS),
    *three_sums((1, 3, 9, 8), (4, 3, 3, 2), stride=4, dilation=2),  # half of the phases have no taps
    *three_sums((1, 40, 7, 6), (37, 40, 3, 3), padding=1),  # 64 rows of a tile
    *three_sums((1, 66, 5, 4), (70, 66, 1, 1)),  # 128; the map is read as it lies, 4 pixels at a time
    *three_sums((1, 9, 6, 6), (40, 9, 1, 1)),
    *three_sums((1, 9, 6, 6), (20, 9, 1, 1)),
    *three_sums((1, 70, 5, 5), (66, 70, 3, 3)),  # 128, pixel by pixel
    *three_sums((1, 610, 3, 5), (6, 610, 1, 1)),  # sums long enough to be cut into parts, the last one shorter
    *three_sums((1, 6, 3, 5), (610, 6, 1, 1)),
    *three_sums((0, 610, 3, 5), (6, 610, 1, 1)),  # as many parts, of no outputs
    *three_sums((1, 5, 26, 26), (6, 5, 3, 3), padding=1),
    partial(convolution, "conv2d", (1, 3, 5, 5), (4, 3, 2, 2), infinite=True),
    *three_sums((1, 610, 3, 5), (6, 610, 1, 1), DOUBLE),
    *three_sums((1, 6, 2, 2), (4, 6, 1, 1), tf32=True),
    *three_sums((1, 6, 5, 5), (9, 6, 3, 3), tf32=True, padding=1),
    *three_sums((1, 40, 5, 4), (70, 40, 3, 3), tf32=True, stride=2),
    *three_sums((1, 70, 4, 4), (70, 70, 1, 1), tf32=True),
]
SINGLY = [
    run
    for dtype in (SINGLE, DOUBLE)
    for run in (
        *three_sums((2, 6, 11, 13), (4, 3, 3, 2), dtype, algorithm="loops", **PAIRS),
        *three_sums((1, 3, 9, 8), (4, 3, 3, 2), dtype, algorithm="loops", stride=4, dilation=2),
        *three_sums((1, 2, 11, 12), (3, 2, 9, 8), dtype, algorithm="loops", padding=1),  # 72 taps
        # 27·26 pixels are four parts of 141 and one of 138, behind whose end nothing may be read. The padding makes
        # windows reach over all four edges.
        *three_sums((1, 3, 27, 26), (3, 1, 3, 3), dtype, algorithm="loops", groups=3, padding=1),
    )
]
WINOGRAD = [
    *three_sums((2, 3, 7, 10), (5, 3, 3, 3), algorithm="winograd", padding=1),
    *three_sums((1, 2, 4, 3), (3, 2, 3, 3), algorithm="winograd", padding=(3, 0)),
    *three_sums((1, 4, 5, 9), (6, 2, 3, 3), algorithm="winograd", groups=2),
]


def pooling(kernel, dtype, x_shape, index_dtype=np.int32, **options):
    x = distinct(0, x_shape, dtype) - 50  # of both signs
    if kernel == "max_pool2d":
        x[0, 0, 2, 3] = x[1, 2, 6, 39] = np.nan
    with kernels.use_backend("numpy"):
        forward = getattr(kernels, kernel.removesuffix("_grad"))(x, **options)
    y, *index = forward if isinstance(forward, tuple) else (forward,)
    gy = normal(1, y.shape, dtype)
    index = [i.astype(index_dtype) for i in index]
    arguments = (gy, *index, x_shape) if kernel.endswith("_grad") else (x,)
    compare(kernel, arguments, options, TOLERANCES["single" if dtype == SINGLE else "double"])


def poolings() -> Iterator[Callable[[], None]]:
    for dtype in (SINGLE, DOUBLE):
        for stride in (1, 2, (3, 2)):
            shape, options = (2, 3, 7, 40), {"kernel_size": 3, "stride": stride, "padding": 1, "ceil_mode": True}
            for kernel in ("max_pool2d", "max_pool2d_grad", "avg_pool2d", "avg_pool2d_grad"):
                yield partial(pooling, kernel, dtype, shape, **options)
            yield partial(pooling, "avg_pool2d", dtype, shape, count_include_pad=False, **options)
            yield partial(pooling, "avg_pool2d_grad", dtype, shape, count_include_pad=False, **options)
            yield partial(pooling, "max_pool2d_grad", dtype, shape, np.int64, dilation=2, **options)
            yield partial(pooling, "max_pool2d", dtype, shape, dilation=2, **options)


def refused(kernel, arguments, message, **options):
    """Run a kernel on arguments whose values are wrong."""
    with pytest.raises(ValueError, match=message):
        getattr(kernels, kernel)(*arguments, **options)


def bad_indices() -> Iterator[Callable[[], None]]:
    for bad in (-1, 20):  # in a plane of 4 × 5
        index = np.array([0, 2, 10, bad]).reshape(1, 1, 2, 2)
        for dtype in (np.int32, np.int64):
            arguments = np.zeros((1, 1, 2, 2)), index.astype(dtype), (1, 1, 4, 5), 2
            yield partial(refused, "max_pool2d_grad", arguments, "index must lie in")


def crops() -> Iterator[Callable[[], None]]:
    for dtype in (SINGLE, DOUBLE):
        whole, part = normal(0, (2, 3, 9, 40), dtype), normal(1, (2, 3, 5, 35), dtype)
        tolerance = TOLERANCES["single" if dtype == SINGLE else "double"]
        yield partial(compare, "crop", (whole, (3, 2), (5, 35)), {}, tolerance)
        yield partial(compare, "crop_grad", (part, (3, 2), whole.shape), {}, tolerance)
        yield partial(compare, "fuse", (part, whole, (3, 2)), {}, tolerance)


def losses() -> Iterator[Callable[[], None]]:
    for dtype in (SINGLE, DOUBLE):
        shape = 2, 5, 9, 37
        logits, target = normal(0, shape, dtype), stream(1).integers(0, 6, (2, 9, 37))
        logits[0, 2, 3, 4], logits[1, 1, 1, 1] = np.nan, np.inf
        target[0, 3, 4], target[1, 1, 1] = 2, 1  # both count, so that the loss shows them
        logits[0, 0, 5, 5], target[0, 5, 5] = np.nan, 5  # and this one does not
        options = {
            "ignore_index": 5,
            "weight": np.abs(normal(2, (5,), dtype)),
            "mask": np.abs(normal(3, (2, 9, 37), dtype)),
        }
        tolerance = TOLERANCES["single" if dtype == SINGLE else "double"]
        gy = normal(4, (2, 9, 37), dtype)
        yield partial(compare, "softmax_cross_entropy", (logits, target), options | {"reduction": "none"}, tolerance)
        yield partial(
            compare, "softmax_cross_entropy_grad", (gy, logits, target), options | {"reduction": "none"}, tolerance
        )
        below_zero = np.where(target == 5, -100, target), options | {"ignore_index": -100}
        yield partial(compare, "softmax_cross_entropy", (logits, below_zero[0]), below_zero[1], tolerance)
        for bad in (-1, 5):
            yield partial(refused, "softmax_cross_entropy", (logits, np.full_like(target, bad)), "neither a class")
        # More pixels than a block of `sum_stretches` adds.
        many, of_many = normal(5, (1, 2, 65, 70), dtype), stream(6).integers(0, 2, (1, 65, 70))
        for reduction in ("sum", "mean"):
            yield partial(compare, "softmax_cross_entropy", (many, of_many), {"reduction": reduction}, tolerance)
            one = (np.asarray(0.5, dtype), many, of_many)
            yield partial(compare, "softmax_cross_entropy_grad", one, {"reduction": reduction}, tolerance)


def norms() -> Iterator[Callable[[], None]]:
    for dtype in (SINGLE, DOUBLE):
        x, gy = normal(0, (2, 7, 5, 13), dtype), normal(1, (2, 7, 5, 13), dtype)
        tolerance = TOLERANCES["single" if dtype == SINGLE else "double"]
        for size in (1, 4, 5, 20):
            yield partial(compare, "local_response_norm", (x, size, 0.5, 0.75, 2.0), {}, tolerance)
            yield partial(compare, "local_response_norm_grad", (gy, x, size, 0.5, 0.75, 2.0), {}, tolerance)


RUNS = {
    "conv2d.cu": PRODUCTS,
    "direct.cu": SINGLY,
    "winograd.cu": WINOGRAD,
    "pool2d.cu": [*poolings(), *bad_indices()],
    "crop.cu": [*crops()],
    "cross_entropy.cu": [*losses()],
    "local_response_norm.cu": [*norms()],
}
