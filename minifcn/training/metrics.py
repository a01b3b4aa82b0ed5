"""The four metrics of the paper, all read from one confusion matrix. FCN §5.

Notation: n_ij is the number of pixels of class i predicted as class j, t_i = Σ_j n_ij the number of pixels
of class i, and u_i = t_i + Σ_j n_ji − n_ii the union: pixels that are of class i, predicted as i, or both.

    pixel accuracy           Σ n_ii / Σ t_i
    mean accuracy            mean of n_ii / t_i       over the classes that the ground truth has (t_i > 0)
    mean IU                  mean of n_ii / u_i       over the classes that either of the two has (u_i > 0)
    frequency weighted IU    Σ t_i (n_ii / u_i) / Σ t_i

The paper divides both means by the number of classes; a class that never occurs would make its term 0/0,
so it is left out. A matrix without a single pixel measures nothing: every metric of it is NaN.

Counts add up: score a data set by summing the matrices of its images and taking the metrics *once*. The
mean of per-image scores is another number, which lets a class of three pixels in one image outweigh the rest.

A net that answers "background" everywhere betrays itself. With a background share of a and C classes it
scores pixel accuracy a, mean accuracy 1/C, mean IU a/C and frequency weighted IU a².
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_VOID = -1


@dataclass(frozen=True)
class Scores:
    """The four metrics of FCN §5, as fractions of 1; NaN where there was no pixel to measure."""

    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float


def confusion_matrix(
    label: npt.NDArray[np.integer], prediction: npt.NDArray[np.integer], num_classes: int
) -> npt.NDArray[np.int64]:
    """Count the pixels of class i that are predicted as class j: n_ij, an int64 array (C, C).

    ``label`` and ``prediction`` are integer arrays of one shape, any shape. A label outside 0 … C−1 (VOC's
    void is 255) is no class: its pixels are not counted. A prediction outside is an error, on void too.

    Raises ``TypeError`` for arrays that are not integer, ``ValueError`` for shapes that differ or for a
    prediction outside 0 … C−1.
    """
    _check_integer("label", label)
    _check_integer("prediction", prediction)
    C = num_classes
    if C < 1:
        raise ValueError(f"num_classes must be at least 1, got {C}")
    if label.shape != prediction.shape:
        raise ValueError(f"label {label.shape} and prediction {prediction.shape} must have one shape")
    if prediction.size and not 0 <= prediction.min() <= prediction.max() < C:
        raise ValueError(
            f"prediction must lie in 0 … {C - 1} (num_classes={C}), "
            f"got {prediction.min()} … {prediction.max()}: take the argmax over {C} channels"
        )
    # Void pixels are counted in a row of their own, C, which is then cut off.
    pair = _replace_void(label, C, by=C) * C + prediction.astype(np.int64)
    counts = np.bincount(pair.ravel(), minlength=(C + 1) * C)
    return counts.reshape(C + 1, C)[:C].astype(np.int64)


def pixel_accuracy(confusion: npt.NDArray[np.integer]) -> float:
    """Return Σ n_ii / Σ t_i, the share of labelled pixels that are right, for ``confusion`` (C, C)."""
    hits, truth, _ = _counts(confusion)
    return float(_ratio(hits.sum(), truth.sum()))


def mean_accuracy(confusion: npt.NDArray[np.integer]) -> float:
    """Return the mean of n_ii / t_i over the classes of the ground truth, for ``confusion`` (C, C)."""
    hits, truth, _ = _counts(confusion)
    return _mean_of_known(_ratio(hits, truth))


def per_class_iu(confusion: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return n_ii / u_i, intersection over union, as (C,); NaN for a class in neither of the two."""
    hits, _, union = _counts(confusion)
    return _ratio(hits, union)


def mean_iu(confusion: npt.NDArray[np.integer]) -> float:
    """Return the mean of n_ii / u_i over the classes in truth or prediction, for ``confusion`` (C, C)."""
    return _mean_of_known(per_class_iu(confusion))


def frequency_weighted_iu(confusion: npt.NDArray[np.integer]) -> float:
    """Return Σ t_i (n_ii / u_i) / Σ t_i, IU weighted by how common a class is, for ``confusion`` (C, C)."""
    _, truth, union = _counts(confusion)
    iu = per_class_iu(confusion)
    return float(_ratio((truth * iu)[union > 0].sum(), truth.sum()))


def scores(confusion: npt.NDArray[np.integer]) -> Scores:
    """Return the four metrics of ``confusion`` (C, C)."""
    return Scores(
        pixel_accuracy=pixel_accuracy(confusion),
        mean_accuracy=mean_accuracy(confusion),
        mean_iu=mean_iu(confusion),
        frequency_weighted_iu=frequency_weighted_iu(confusion),
    )


def upper_bound(label: npt.NDArray[np.integer], factor: int, num_classes: int) -> npt.NDArray[np.int64]:
    """Confuse the ground truth with itself, subsampled and upsampled again: what a stride can keep at all.

    ``label`` (…, H, W) is cut into cells of ``factor`` × ``factor`` pixels from the top left corner. A cell
    is sampled at its centre, and all its pixels are predicted as that sample (nearest neighbour). Where
    there is no label at the centre (void, or beyond the border of the image), the labelled pixel of the
    cell nearest to the centre is the sample; among equally near ones, the first in reading order.

    Returns the confusion matrix (C, C), to be summed over a data set as any other. Its scores are upper
    bounds in the sense of the paper's journal version (PAMI 2017), for one output cell per ``factor``
    pixels: a yardstick, not a theorem, for bilinear upsampling may draw a border more finely than cells.

    Raises as :func:`confusion_matrix` does, and ``ValueError`` for a factor below 1 or fewer than two axes.
    """
    _check_integer("label", label)
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    if label.ndim < 2:
        raise ValueError(f"label must have the shape (…, H, W), got {label.shape}")
    *batch, H, W = label.shape
    border = [(0, 0)] * len(batch) + [(0, -H % factor), (0, -W % factor)]  # up to whole cells
    known = np.pad(_replace_void(label, num_classes, by=_VOID), border, constant_values=_VOID)
    rows, columns = known.shape[-2] // factor, known.shape[-1] // factor

    # (…, rows·f, columns·f) -> (…, rows, columns, f²): each cell's pixels on the last axis, nearest first.
    cells = known.reshape(*batch, rows, factor, columns, factor).swapaxes(-3, -2)
    cells = cells.reshape(*batch, rows, columns, factor * factor)[..., _nearest_first(factor)]
    nearest = (cells != _VOID).argmax(axis=-1, keepdims=True)
    sample = np.take_along_axis(cells, nearest, axis=-1)[..., 0]
    sample[sample == _VOID] = 0  # a cell without any label: none of its pixels will be counted

    prediction = sample.repeat(factor, axis=-2).repeat(factor, axis=-1)[..., :H, :W]
    return confusion_matrix(label, prediction, num_classes)


def _nearest_first(factor: int) -> npt.NDArray[np.intp]:
    """Return the f² pixels of a cell, numbered in reading order, sorted by their distance from its centre."""
    from_centre = 2 * np.arange(factor) - (factor - 1)  # doubled, because an even cell's centre is a half
    squared = from_centre[:, None] ** 2 + from_centre**2
    return np.argsort(squared, axis=None, kind="stable")


def _replace_void(label: npt.NDArray[np.integer], num_classes: int, by: int) -> npt.NDArray[np.int64]:
    return np.where((label >= 0) & (label < num_classes), label.astype(np.int64), by)


def _check_integer(name: str, array: npt.NDArray[np.integer]) -> None:
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must hold class numbers in an integer array, got dtype {array.dtype}")


def _counts(
    confusion: npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Return n_ii, t_i and u_i, each (C,)."""
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion must be a square matrix (C, C), got shape {confusion.shape}")
    hits, truth = confusion.diagonal(), confusion.sum(axis=1)
    return hits, truth, truth + confusion.sum(axis=0) - hits


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return part / whole, with 0/0 = NaN: of nothing, no share is known."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.true_divide(part, whole))


def _mean_of_known(values: npt.NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(_ratio(known.sum(), known.size))
