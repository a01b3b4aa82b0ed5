"""The metrics against naive loops, exact fractions, and the properties that the paper's formulas have."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn.training.metrics import (
    Scores,
    confusion_matrix,
    frequency_weighted_iu,
    mean_accuracy,
    mean_iu,
    per_class_iu,
    pixel_accuracy,
    scores,
    upper_bound,
)

METRICS = [pixel_accuracy, mean_accuracy, per_class_iu, mean_iu, frequency_weighted_iu, scores]
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(0, 13)
class_counts = st.integers(1, 6)


def random_labels(rng, shape, num_classes):
    """Labels with void of both signs and the first number that is no class, in an odd memory layout."""
    numbers = [*range(num_classes), *range(num_classes), num_classes, -1, 99]
    return rng.choice(numbers, shape[::-1]).astype(np.int16).T


def random_confusion(rng, num_classes):
    """Counts of which about half are zero, so that classes are often absent from one side or both."""
    return rng.integers(0, 20, (num_classes, num_classes)) * rng.integers(0, 2, (num_classes, num_classes))


def naive_confusion(label, prediction, num_classes):
    counts = np.zeros((num_classes, num_classes), np.int64)
    for i, j in zip(label.ravel(), prediction.ravel(), strict=True):
        if 0 <= i < num_classes:
            counts[i, j] += 1
    return counts


def naive_scores(confusion):
    """The formulas of FCN §5 in exact arithmetic, class by class."""
    n = confusion.tolist()
    classes = range(len(n))
    truth = [sum(n[i][j] for j in classes) for i in classes]
    union = [truth[i] + sum(n[j][i] for j in classes) - n[i][i] for i in classes]
    accuracy = [Fraction(n[i][i], truth[i]) for i in classes if truth[i]]
    iu = {i: Fraction(n[i][i], union[i]) for i in classes if union[i]}
    total = sum(truth)
    return Scores(
        pixel_accuracy=float(Fraction(sum(n[i][i] for i in classes), total)) if total else math.nan,
        mean_accuracy=float(sum(accuracy) / len(accuracy)) if accuracy else math.nan,
        mean_iu=float(sum(iu.values()) / len(iu)) if iu else math.nan,
        frequency_weighted_iu=float(sum(truth[i] * iu[i] for i in iu) / total) if total else math.nan,
    )


def naive_subsampled(label, factor, num_classes):
    """Each pixel's prediction: a search of its cell for the labelled pixel nearest to the centre."""
    H, W = label.shape
    prediction = np.zeros((H, W), np.int64)
    for y in range(H):
        for x in range(W):
            top, left = y // factor * factor, x // factor * factor
            centre = (top + Fraction(factor - 1, 2), left + Fraction(factor - 1, 2))
            candidates = [
                ((r - centre[0]) ** 2 + (c - centre[1]) ** 2, r, c)
                for r in range(top, min(top + factor, H))
                for c in range(left, min(left + factor, W))
                if 0 <= label[r, c] < num_classes
            ]
            if candidates:
                _, r, c = min(candidates)
                prediction[y, x] = label[r, c]
    return prediction


def assert_same_scores(actual, expected):
    for metric in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        assert getattr(actual, metric) == pytest.approx(getattr(expected, metric), rel=1e-14, nan_ok=True)


@given(st.lists(sides, min_size=0, max_size=3), class_counts, seeds)
def test_counts_agree_with_a_loop_over_the_pixels(shape, num_classes, seed):
    rng = np.random.default_rng(seed)
    label = random_labels(rng, shape, num_classes)
    prediction = rng.integers(0, num_classes, shape, dtype=np.uint8)
    confusion = confusion_matrix(label, prediction, num_classes)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, naive_confusion(label, prediction, num_classes))


@pytest.mark.parametrize("label_dtype", [np.uint8, np.int8, np.int32, np.uint64])
@pytest.mark.parametrize("prediction_dtype", [np.uint8, np.int64, np.uint64])
def test_any_integer_dtype_counts_the_same(label_dtype, prediction_dtype):
    label = np.array([0, 1, 1, 2, 100], label_dtype)
    prediction = np.array([0, 2, 1, 2, 0], prediction_dtype)
    np.testing.assert_array_equal(confusion_matrix(label, prediction, 3), [[1, 0, 0], [0, 1, 1], [0, 0, 1]])


def test_more_classes_than_a_byte_can_number_are_counted():
    label = np.array([255, 7], np.uint8)
    confusion = confusion_matrix(label, np.array([299, 7]), 300)
    assert (confusion[255, 299], confusion[7, 7], confusion.sum()) == (1, 1, 2)


def test_a_hand_worked_example_scores_as_on_paper():
    # Truth: 6 pixels of class 0 and 2 of class 1; one pixel of each is mistaken for the other.
    confusion = np.array([[5, 1], [1, 1]])
    np.testing.assert_allclose(per_class_iu(confusion), [5 / 7, 1 / 3])
    assert pixel_accuracy(confusion) == pytest.approx(6 / 8)
    assert mean_accuracy(confusion) == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert mean_iu(confusion) == pytest.approx((5 / 7 + 1 / 3) / 2)
    assert frequency_weighted_iu(confusion) == pytest.approx((6 * 5 / 7 + 2 * 1 / 3) / 8)


@given(class_counts, seeds)
def test_scores_agree_with_the_formulas_in_exact_fractions(num_classes, seed):
    confusion = random_confusion(np.random.default_rng(seed), num_classes)
    assert_same_scores(scores(confusion), naive_scores(confusion))


@given(st.integers(1, 1000), st.lists(st.integers(1, 1000), max_size=20))
def test_an_all_background_net_leaves_its_fingerprint(background, others):
    pixels = np.array([background, *others])
    C, a = pixels.size, background / pixels.sum()
    confusion = np.zeros((C, C), np.int64)
    confusion[:, 0] = pixels
    assert_same_scores(scores(confusion), Scores(a, 1 / C, a / C, a**2))


@given(class_counts, seeds)
def test_renumbering_the_classes_changes_no_score(num_classes, seed):
    rng = np.random.default_rng(seed)
    confusion = random_confusion(rng, num_classes)
    order = rng.permutation(num_classes)
    renumbered = confusion[np.ix_(order, order)]
    assert_same_scores(scores(renumbered), scores(confusion))
    np.testing.assert_array_equal(per_class_iu(renumbered), per_class_iu(confusion)[order])


@given(st.integers(1, 40), class_counts, seeds)
def test_a_perfect_prediction_scores_one_in_everything(pixels, num_classes, seed):
    label = np.random.default_rng(seed).integers(0, num_classes, pixels)
    assert_same_scores(scores(confusion_matrix(label, label, num_classes)), Scores(1, 1, 1, 1))


@given(sides, sides, class_counts, seeds)
def test_matrices_of_images_add_up_to_the_matrix_of_the_set(first, second, num_classes, seed):
    rng = np.random.default_rng(seed)
    label = random_labels(rng, (first + second,), num_classes)
    prediction = rng.integers(0, num_classes, label.shape)
    parts = [confusion_matrix(label[s], prediction[s], num_classes) for s in (np.s_[:first], np.s_[first:])]
    np.testing.assert_array_equal(sum(parts), confusion_matrix(label, prediction, num_classes))


def test_the_score_of_a_set_is_not_the_mean_of_its_images_scores():
    big, small = np.array([[90, 0], [0, 10]]), np.array([[0, 1], [0, 1]])
    mean_over_images = (mean_iu(big) + mean_iu(small)) / 2
    assert mean_iu(big + small) == pytest.approx((90 / 91 + 11 / 12) / 2)
    assert mean_over_images == pytest.approx((1 + 1 / 4) / 2)


def test_a_class_in_neither_truth_nor_prediction_is_left_out_of_the_means():
    confusion = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    assert_same_scores(scores(confusion), scores(confusion[:2, :2]))
    np.testing.assert_array_equal(np.isnan(per_class_iu(confusion)), [False, False, True])


def test_a_class_that_is_only_predicted_has_an_iu_of_zero_and_no_accuracy():
    confusion = np.array([[3, 1], [0, 0]])
    assert mean_accuracy(confusion) == 3 / 4
    assert mean_iu(confusion) == (3 / 4 + 0) / 2


@pytest.mark.parametrize("metric", [pixel_accuracy, mean_accuracy, mean_iu, frequency_weighted_iu])
def test_a_matrix_without_a_pixel_measures_nothing(metric):
    assert math.isnan(metric(np.zeros((3, 3), np.int64)))


@given(sides, sides, st.integers(1, 7), class_counts, seeds)
def test_the_upper_bound_agrees_with_a_search_through_every_cell(H, W, factor, num_classes, seed):
    label = random_labels(np.random.default_rng(seed), (H, W), num_classes)
    expected = naive_confusion(label, naive_subsampled(label, factor, num_classes), num_classes)
    np.testing.assert_array_equal(upper_bound(label, factor, num_classes), expected)


@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), seeds)
def test_the_upper_bound_of_a_batch_is_the_sum_over_its_images(N, H, W, factor, seed):
    labels = random_labels(np.random.default_rng(seed), (N, H, W), 3)
    expected = sum((upper_bound(label, factor, 3) for label in labels), np.zeros((3, 3), np.int64))
    np.testing.assert_array_equal(upper_bound(labels, factor, 3), expected)


def test_the_upper_bound_samples_each_cell_at_its_centre():
    label = np.zeros((6, 3), np.uint8)
    label[1, 1] = 1  # the centre of the upper cell, so all nine pixels are predicted as class 1
    label[3, 0] = 1  # a corner of the lower cell, so it is lost
    np.testing.assert_array_equal(upper_bound(label, 3, 2), [[8, 8], [1, 1]])


def test_a_void_centre_takes_the_nearest_label_of_its_cell():
    label = np.array([[1, 0, 1], [1, 255, 1], [1, 1, 1]], np.uint8)
    np.testing.assert_array_equal(upper_bound(label, 3, 2), [[1, 0], [7, 0]])


def test_subsampling_by_one_loses_nothing():
    label = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
    np.testing.assert_array_equal(upper_bound(label, 1, 3), np.diag([2, 1, 2]))


def test_an_image_of_void_alone_has_no_upper_bound():
    assert upper_bound(np.full((5, 5), 255, np.uint8), 2, 3).sum() == 0


def test_the_upper_bound_leaves_its_label_as_it_was():
    label = np.array([[255, 0], [1, 255]])
    upper_bound(label, 2, 2)
    np.testing.assert_array_equal(label, [[255, 0], [1, 255]])


INTEGERS = np.zeros((4, 4), np.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: confusion_matrix(INTEGERS * 1.0, INTEGERS, 3), TypeError, "label .* float64"),
        (lambda: confusion_matrix(INTEGERS, INTEGERS > 0, 3), TypeError, "prediction .* bool"),
        (lambda: confusion_matrix(INTEGERS, INTEGERS[:2], 3), ValueError, r"\(4, 4\) and prediction \(2, 4\)"),
        (lambda: confusion_matrix(INTEGERS, INTEGERS + 3, 3), ValueError, r"prediction must lie in 0 … 2 .* 3 … 3"),
        (lambda: confusion_matrix(INTEGERS, INTEGERS - 1, 3), ValueError, "prediction must lie in .* -1 … -1"),
        (lambda: confusion_matrix(INTEGERS + 255, INTEGERS + 255, 3), ValueError, "prediction must lie in"),
        (lambda: confusion_matrix(INTEGERS, INTEGERS, 0), ValueError, "num_classes must be at least 1, got 0"),
        (lambda: upper_bound(INTEGERS * 1.0, 2, 3), TypeError, "label .* float64"),
        (lambda: upper_bound(INTEGERS, 0, 3), ValueError, "factor must be at least 1, got 0"),
        (lambda: upper_bound(INTEGERS[0], 2, 3), ValueError, r"label must have the shape \(…, H, W\), got \(4,\)"),
        (lambda: upper_bound(INTEGERS, 2, 0), ValueError, "num_classes must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named_with_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
def test_a_matrix_that_is_not_square_is_refused(metric, shape):
    with pytest.raises(ValueError, match="confusion must be a square matrix"):
        metric(np.ones(shape, np.int64))
