"""The softmax cross-entropy by the definition, pixel by pixel, in Python's own float64."""

import math

import numpy as np


def softmax(logits):
    largest = max(logits)
    exponentials = [math.exp(z - largest) for z in logits]
    return [e / math.fsum(exponentials) for e in exponentials]


def pixels(logits, target, weight, mask, ignore_index):
    """Yield every pixel that counts: its position, its class, and its weight."""
    for n, h, w in np.ndindex(*target.shape):
        t = int(target[n, h, w])
        if t != ignore_index:
            yield (
                (n, h, w),
                t,
                (1 if weight is None else float(weight[t])) * (1 if mask is None else float(mask[n, h, w])),
            )


def softmax_cross_entropy(logits, target, *, weight=None, mask=None, ignore_index=255, reduction="mean"):
    losses, total = np.zeros(target.shape), 0.0
    for (n, h, w), t, v in pixels(logits, target, weight, mask, ignore_index):
        z = [float(value) for value in logits[n, :, h, w]]
        largest = max(z)
        losses[n, h, w] = v * (largest - z[t] + math.log(math.fsum(math.exp(value - largest) for value in z)))
        total += v
    if reduction == "none":
        return losses
    if reduction == "sum":
        return math.fsum(losses.ravel())
    return math.fsum(losses.ravel()) / total if total else 0.0


def softmax_cross_entropy_grad(gy, logits, target, *, weight=None, mask=None, ignore_index=255, reduction="mean"):
    gradient = np.zeros(logits.shape)
    total = math.fsum(v for _, _, v in pixels(logits, target, weight, mask, ignore_index))
    for (n, h, w), t, v in pixels(logits, target, weight, mask, ignore_index):
        u = v * float(gy[n, h, w] if reduction == "none" else gy)
        if reduction == "mean":
            u = u / total if total else 0.0
        for c, p in enumerate(softmax([float(value) for value in logits[n, :, h, w]])):
            gradient[n, c, h, w] = u * (p - (c == t))
    return gradient
