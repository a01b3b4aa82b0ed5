"""Why does a net predict only background? Why does its loss not move? What to look at, and what it means.

A net that calls every pixel background has the fingerprint (a, 1/C, a/C, a²): with a background share of a and C
classes these are its pixel accuracy, mean accuracy, mean IU and frequency weighted IU. A net whose scores are equal
has the loss ln C: 3.0445 for the 21 classes of PASCAL VOC, 2.3979 for 11. Both are where every training begins. To
*stay* there has few causes, and each leaves a trace.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minifcn import nn
from minifcn.data.dataset import VOID, Dataset
from minifcn.nn.module import device_of, evaluating
from minifcn.tensor import Tensor, no_grad
from minifcn.training import metrics
from minifcn.training.config import TrainConfig
from minifcn.training.evaluation import check_class_count
from minifcn_kernels.jit import Array

# Learning rates of a mean loss beyond these do not train a net: it stands still, or is thrown about. The paper's are
# 5e-5 to 1e-3 (FCN §4.3), the demo's are 0.05 and 0.1.
_SLOWEST, _FASTEST = 1e-7, 10.0
_TELLING = 1000  # weights: of fewer, trained ones can look as if just drawn
_BAND = 5  # pixels: the width of PASCAL VOC's void borders


@dataclass(frozen=True)
class Finding:
    """Something that is not as in a net that learns: what was seen, and what to do about it."""

    seen: str
    remedy: str


def diagnose(
    net: nn.Module, dataset: Dataset, *, config: TrainConfig | None = None, examples: int = 8
) -> list[Finding]:
    """Return what is wrong with a net, its data, or the settings it is trained with; an empty list if nothing is seen.

    Args:
        net: gives the scores (N, C, H, W).
        dataset: what it is trained on; the first ``examples`` of it are looked at.
        config: how it is trained, if that is to be looked at, too.
        examples: how many.

    Raises:
        ValueError: the net scores another number of classes than the data set has; ``examples`` is below 1, or the
            data set is empty.
    """
    count = min(examples, len(dataset))
    if count < 1:
        raise ValueError(f"diagnose: needs at least one example, got {examples} of a data set of {len(dataset)}")
    shown = [dataset.example(index) for index in range(count)]
    labels = [example.label for example in shown]
    with evaluating(net), no_grad():
        images = [Tensor(example.image[None]).to(device_of(net)) for example in shown]
        scores = [net(image).to("cpu").numpy()[0] for image in images]
    check_class_count(len(scores[0]), dataset)
    findings = [
        *_look_at_scores(scores, labels, dataset.classes),
        *_look_at_weights(net),
        *_look_at_labels(labels, dataset.classes),
    ]
    if config is not None:
        pixels = labels[0].size * config.batch_size * config.accumulate
        findings += _look_at_learning_rate(config, pixels)
    return findings


def _look_at_scores(
    scores: list[Array], labels: list[npt.NDArray[np.uint8]], classes: tuple[str, ...]
) -> Iterator[Finding]:
    C = len(classes)
    if all((s == s[:1]).all() for s in scores):
        yield Finding(
            f"all classes have the same score at every pixel, so the loss is ln {C} = {math.log(C):.4f}",
            "this is how training begins, from score layers of zeros. If it stays so, the learning rate is far too "
            "small, or no gradient arrives: see what else is found",
        )
        return
    confusion = sum(
        metrics.confusion_matrix(label, np.asarray(s.argmax(axis=0)), C)
        for s, label in zip(scores, labels, strict=True)
    )
    assert isinstance(confusion, np.ndarray)
    predicted = np.flatnonzero(confusion.sum(axis=0))
    present = np.flatnonzero(confusion.sum(axis=1))
    if len(predicted) == 1 and len(present) > 1:
        a, n, found = metrics.pixel_accuracy(confusion), len(present), metrics.scores(confusion)
        yield Finding(
            f"every pixel is called {classes[predicted[0]]}: pixel accuracy a = {100 * a:.1f}, mean accuracy 1/{n} = "
            f"{100 * found.mean_accuracy:.1f}, mean IU a/{n} = {100 * found.mean_iu:.1f}, f.w. IU a² = "
            f"{100 * found.frequency_weighted_iu:.1f}",
            f"the net has learned how common {classes[predicted[0]]} is and nothing else yet. Most trainings pass "
            "through this; train longer, start from a trained classifier, or weight the rare classes (class_weight)",
        )


def _look_at_weights(net: nn.Module) -> Iterator[Finding]:
    weights = {name: p.data for name, p in net.named_parameters() if p.requires_grad and p.ndim > 1}
    zero = [name for name, w in weights.items() if not w.any()]
    if zero:
        yield Finding(
            f"all weights are zero in {', '.join(zero)}",
            "a score layer begins so and learns at once; any other layer gives no gradient to what is before it and "
            "never learns: draw its weights (nn.init.he_normal), or load them",
        )
    moments = [_moments(w) for w in weights.values() if w.size >= _TELLING]
    # A score layer that began at zero and has hardly moved tells nothing about the others.
    moments = [(square, fourth, n) for square, fourth, n in moments if square > 0.01]
    if moments and all(_looks_drawn(*layer) for layer in moments):
        yield Finding(
            f"the weights of all {len(moments)} large layers are distributed as they are drawn before any training",
            "an FCN is made from a trained classifier (FCN §4.1), and hardly learns without. Load the classifier's "
            "weights before fcn.convolutionalize, or check that loading them did what it should",
        )


def _moments(w: Array) -> tuple[float, float, int]:
    """Return the mean square and fourth power of weights in units of what `nn.init.he_normal` draws; their number."""
    z = w.astype(np.float64).ravel() * math.sqrt(math.prod(w.shape[1:]) / 2)
    return float((z**2).mean()), float((z**4).mean()), w.size


def _looks_drawn(square: float, fourth: float, n: int) -> bool:
    """Return whether moments are those of n normal numbers: of variance 1, to 4 standard deviations of each."""
    # The mean square of n normal numbers has a standard deviation of √(2/n), their mean fourth power one of √(96/n).
    return abs(square - 1) < 4 * math.sqrt(2 / n) and abs(fourth - 3) < 4 * math.sqrt(96 / n)


def _look_at_labels(labels: list[npt.NDArray[np.uint8]], classes: tuple[str, ...]) -> Iterator[Finding]:
    C = len(classes)
    outside = sorted({int(v) for label in labels for v in np.unique(label) if v >= C and v != VOID})
    if outside:
        yield Finding(
            f"the labels hold {', '.join(map(str, outside))}, but there are {C} classes, 0 … {C - 1}",
            f"a pixel without a class is {VOID}; number the classes from 0, or tell how many there are",
        )
    if not any(((label > 0) & (label < C)).any() for label in labels):
        yield Finding(
            f"the {len(labels)} labels looked at hold nothing but {classes[0]} and void",
            "masks may have been read as pictures, or scaled: palette PNGs hold class numbers, not colours",
        )
    pixels = np.array([sum(int((label == k).sum()) for label in labels) for k in range(C)])
    between = [sum(_between_others(label, k) for label in labels) for k in range(C)]
    shares = between / np.maximum(pixels, 1)
    k = int(shares.argmax())  # only the worst: thin objects inside of such a band are between others, too
    if shares[k] > 0.5:
        yield Finding(
            f"{classes[k]} (class {k}) is a thin band between other classes nearly everywhere",
            f"it looks like the void border of PASCAL VOC: write {VOID} for it, which counts neither in the loss "
            "nor in the metrics",
        )


def _between_others(label: npt.NDArray[np.uint8], k: int) -> int:
    """Return how many pixels of class ``k`` have pixels of two other classes within the width of a void band."""
    H, W = label.shape
    padded = np.pad(label, _BAND, mode="edge")
    low, high = np.full((H, W), VOID, np.uint8), np.zeros((H, W), np.uint8)
    for row in range(2 * _BAND + 1):
        for column in range(2 * _BAND + 1):
            seen = padded[row : row + H, column : column + W]
            other = (seen != k) & (seen != VOID)
            low = np.where(other, np.minimum(low, seen), low)
            high = np.where(other, np.maximum(high, seen), high)
    return int(((label == k) & (low < high)).sum())


def _look_at_learning_rate(config: TrainConfig, pixels: int) -> list[Finding]:
    summed = config.reduction == "sum"
    of_mean = config.lr * pixels if summed else config.lr
    says = f"lr {config.lr:g} with the {'summed' if summed else 'mean'} loss"
    says += f" of {pixels:,} pixels is {of_mean:g} with the mean loss" if summed else ""
    if of_mean < _SLOWEST:
        remedy = (
            "that moves nothing. Learning rates such as 1e-10 in the released nets' settings are for a summed loss: "
            "use reduction='sum', or regimes.lr_of_mean(lr, pixels)"
        )
    elif of_mean > _FASTEST:
        remedy = "that throws the weights about. A summed loss wants regimes.lr_of_sum(lr, pixels)"
    else:
        return []
    return [Finding(says, remedy)]
