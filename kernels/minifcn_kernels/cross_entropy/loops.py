"""The cross-entropy kernels in Numba: one thread owns one row of pixels and goes through it class by class.

Neighbours in a row lie side by side in memory, the classes of one pixel lie a whole plane apart. So each pass over
the classes runs along the row and keeps one running value per pixel: the maximum, then the sum of exponentials. A row
of 500 pixels and 21 classes stays in the second-level cache meanwhile, so memory is gone through once.
"""

from math import prod

import numpy as np
from numba import get_num_threads, get_thread_id

from minifcn_kernels.cross_entropy.contract import (
    Reduction,
    label_and_cotangent,
    label_and_weight,
    reduce,
    softmax_cross_entropy,
    softmax_cross_entropy_grad,
)
from minifcn_kernels.cross_entropy.exponential import exponentials
from minifcn_kernels.jit import Array, compiled, inlined
from minifcn_kernels.memory import empty, odd_lines, scratch_memory


@softmax_cross_entropy.implementation("numba")
def softmax_cross_entropy_loops(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Array:
    """`softmax_cross_entropy`: a loss per pixel, compiled; their sum, in NumPy."""
    label, v = label_and_weight(logits, target, weight, mask, ignore_index)
    loss = empty(label.shape, logits.dtype)
    (scratch,) = scratch_memory(logits.dtype, (get_num_threads(), 3, odd_lines(logits.itemsize, logits.shape[3])))
    _pixel_losses.over(prod(label.shape[:2]), loss, scratch, logits, label, v)
    return reduce(loss, v, reduction)


@compiled
def _pixel_losses(first: int, last: int, out: Array, scratch: Array, logits: Array, label: Array, v: Array) -> None:
    _, C, H, W = logits.shape
    rows = scratch[get_thread_id()]
    largest, sums, powers = rows[0][:W], rows[1][:W], rows[2][:W]
    for row in range(first, last):
        n = row // H
        h = row % H
        z = logits[n]
        largest_logits(largest, z, h)
        for w in range(W):
            # How far the target lies below the winner: exact, or nearly, however large both are. It is stored before
            # the logarithm is known, or else the compiler, which may reorder sums, would add that to the winner first.
            out[n, h, w] = largest[w] - z[label[n, h, w], h, w]
        sums[:] = 0
        for c in range(C):
            exponentials(powers, z[c, h], largest)
            for w in range(W):
                sums[w] += powers[w]
        for w in range(W):
            out[n, h, w] = 0 if v[n, h, w] == 0 else v[n, h, w] * (np.log(sums[w]) + out[n, h, w])


@softmax_cross_entropy_grad.implementation("numba")
def softmax_cross_entropy_grad_loops(
    gy: Array,
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    mask: Array | None = None,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
) -> Array:
    """`softmax_cross_entropy_grad`: the exponentials are written where the gradient will be."""
    label, u = label_and_cotangent(gy, logits, target, weight, mask, ignore_index, reduction)
    g = empty(logits.shape, logits.dtype)
    (scratch,) = scratch_memory(logits.dtype, (get_num_threads(), 3, odd_lines(logits.itemsize, logits.shape[3])))
    _logit_gradients.over(prod(label.shape[:2]), g, scratch, logits, label, u)
    return g


@compiled
def _logit_gradients(first: int, last: int, out: Array, scratch: Array, logits: Array, label: Array, u: Array) -> None:
    _, C, H, W = logits.shape
    rows = scratch[get_thread_id()]
    largest, sums, scale = rows[0][:W], rows[1][:W], rows[2][:W]
    for row in range(first, last):
        n = row // H
        h = row % H
        z, g = logits[n], out[n]
        largest_logits(largest, z, h)
        sums[:] = 0
        for c in range(C):
            exponentials(g[c, h], z[c, h], largest)
            for w in range(W):
                sums[w] += g[c, h, w]
        for w in range(W):
            scale[w] = u[n, h, w] / sums[w]
        for c in range(C):
            for w in range(W):
                g[c, h, w] = 0 if u[n, h, w] == 0 else g[c, h, w] * scale[w]
        for w in range(W):
            g[label[n, h, w], h, w] -= u[n, h, w]


@inlined
def largest_logits(largest: Array, z: Array, h: int) -> None:
    """Write the largest logit of each pixel of row h, (W,), given an image's logits, (C, H, W).

    NaN may get lost here; its exponential brings it back.
    """
    for w in range(len(largest)):
        largest[w] = z[0, h, w]
    # Two classes at a time: of a choice between what is there and something else the compiler makes a masked store,
    # which takes AMD's processors three times as long.
    for c in range(1, len(z), 2):
        after = min(c + 1, len(z) - 1)
        for w in range(len(largest)):
            larger = max(largest[w], z[c, h, w])
            largest[w] = max(larger, z[after, h, w])
