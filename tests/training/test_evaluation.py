"""Predicting and scoring: against nets whose answers are known, and without leaving a trace on the net."""

import numpy as np
import pytest

from minifcn import Tensor, nn
from minifcn.data.dataset import VOID, Example
from minifcn.training import evaluate, metrics, predict


class Listed:
    """A data set of the given (image, label) pairs."""

    channels = 3

    def __init__(self, pairs, classes=("background", "cat", "dog")):
        self.pairs, self.classes = pairs, classes

    def __len__(self):
        return len(self.pairs)

    def example(self, index, epoch=0):
        image, label = self.pairs[index]
        return Example(np.asarray(image, np.float32), np.asarray(label, np.uint8), f"image {index}")


class Identity(nn.Module):
    """Takes the image's channels for scores; keeps the mode that it ran in, and whether anything was recorded."""

    def __init__(self):
        self.scale = nn.Parameter(np.ones((), np.float32))
        self.dropout = nn.Dropout(0.5)  # outside of random_state it raises, unless in evaluation mode

    def forward(self, x):
        y = self.dropout(x * self.scale)
        self.saw = self.training, y.requires_grad
        return y


class Failing(nn.Module):
    def forward(self, x):
        raise ValueError("out of order")


def scored(labels):
    """An image (3, H, W) whose highest scores are at ``labels``."""
    return np.moveaxis(np.eye(3)[np.asarray(labels)], -1, 0)


def random_pairs(seed):
    """Images of different sizes, predictions and labels at random, some labels void."""
    rng = np.random.default_rng(seed)
    for H, W in [(2, 5), (4, 4), (1, 3)]:
        prediction = rng.integers(0, 3, (H, W))
        yield scored(prediction), rng.choice([0, 1, 2, VOID], (H, W)), prediction


def test_every_pixel_gets_the_class_of_its_highest_score():
    labels = np.array([[0, 2, 1], [2, 2, 0]])
    prediction = predict(Identity(), scored(labels).astype(np.float32))
    np.testing.assert_array_equal(prediction, labels)


def test_the_lowest_of_equal_classes_wins():
    image = np.array([0, 7, 7], np.float32).reshape(3, 1, 1)
    assert predict(Identity(), image) == [[1]]


def test_a_classifier_gives_one_class_for_the_image():
    net = nn.Sequential(Identity(), nn.Flatten((3, 1, 1)))
    prediction = predict(net, scored([[2]]).astype(np.float32))
    assert (prediction.shape, prediction.dtype, prediction.item()) == ((), np.int64, 2)


def test_all_images_are_counted_in_one_matrix_and_void_is_not():
    cases = list(random_pairs(0))
    expected = np.zeros((3, 3), np.int64)
    for _, label, prediction in cases:
        for i, j in zip(label.flat, prediction.flat, strict=True):
            if i != VOID:
                expected[i, j] += 1
    confusion = evaluate(Identity(), Listed([case[:2] for case in cases]))
    np.testing.assert_array_equal(confusion, expected)
    assert metrics.pixel_accuracy(confusion) == np.trace(expected) / expected.sum()


def test_a_classifier_is_scored_by_its_images():
    net = nn.Sequential(Identity(), nn.Flatten((3, 1, 1)))
    confusion = evaluate(net, Listed([(scored([[2]]), 2), (scored([[0]]), 1), (scored([[0]]), 0)]))
    np.testing.assert_array_equal(confusion, [[1, 0, 0], [1, 0, 0], [0, 0, 1]])


def test_the_net_runs_in_evaluation_mode_and_records_nothing():
    net = Identity()
    predict(net, scored([[1]]).astype(np.float32))
    assert net.saw == (False, False)


@pytest.mark.parametrize("training", [True, False])
def test_every_module_is_put_back_in_its_own_mode(training):
    net = nn.Sequential(Identity(), nn.ReLU())
    net[0].dropout.eval()
    net[1].train(training)
    before = [module.training for _, module in net.named_modules()]
    evaluate(net, Listed([(scored([[1]]), [[1]])]))
    assert [module.training for _, module in net.named_modules()] == before


def test_the_modes_are_put_back_after_an_error_too():
    net = Failing()
    with pytest.raises(ValueError, match="out of order"):
        predict(net, np.zeros((3, 1, 1), np.float32))
    assert net.training


@pytest.mark.parametrize("pairs", [[], [(scored([[1, 2]]), [[VOID, VOID]])]], ids=["empty", "all void"])
def test_a_data_set_without_a_labelled_pixel_is_refused(pairs):
    with pytest.raises(ValueError, match=f"none of the {len(pairs)} examples has a labelled pixel"):
        evaluate(Identity(), Listed(pairs))


def test_a_net_for_other_classes_is_refused_even_if_it_never_predicts_them():
    pairs = [(scored([[0]]), [[0]])]
    with pytest.raises(ValueError, match=r"the net scores 3 classes, but the data set has 2 \(land, sea\)"):
        evaluate(Identity(), Listed(pairs, classes=("land", "sea")))


def test_a_bar_is_shown_on_stderr_when_asked_for(capsys):
    data = Listed([(scored([[1]]), [[1]])])
    evaluate(Identity(), data)
    assert capsys.readouterr() == ("", "")
    evaluate(Identity(), data, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "evaluating" in err


def test_the_image_is_not_changed():
    image = scored([[1, 0]]).astype(np.float32)
    before = image.copy()
    predict(nn.Sequential(nn.ReLU()), image)
    np.testing.assert_array_equal(image, before)
    assert not isinstance(predict(Identity(), image), Tensor)
