"""Each cause is planted, and found; a net that has learned is left in peace."""

from dataclasses import replace

import numpy as np
import pytest

from minifcn import fcn, models, nn
from minifcn.data import Example
from minifcn.training import Finding, TrainConfig, diagnose

CONFIG = TrainConfig(steps=1, lr=0.05)
CLASSES = tuple(f"class {k}" for k in range(21))


class Halves:
    """Images whose left half is class 1 and dark, the right half background and bright, void in between."""

    classes = CLASSES
    channels = 1

    def __init__(self, change=lambda label: label):
        self.change = change

    def __len__(self):
        return 3

    def example(self, index, epoch=0):
        label = np.zeros((40, 40), np.uint8)
        label[:, :10], label[:, 10:13] = 1, 255
        image = np.where(label == 1, -1.0, 1.0).astype(np.float32)
        return Example(image[None], self.change(label), f"{index}")


def learned():
    """A net of one layer that is right: class 0 where it is bright, class 1 where it is dark."""
    net = nn.Sequential({"score": nn.Conv2d(1, 21, 1)})
    net["score"].weight.data[:, 0, 0, 0] = [9, -9, *[0] * 19]
    return net


def seen(net, dataset=None, config=None):
    return [finding.seen for finding in diagnose(net, dataset or Halves(), config=config)]


def test_a_net_that_has_learned_is_left_in_peace():
    assert diagnose(learned(), Halves(), config=CONFIG) == []


def test_equal_scores_have_the_loss_ln_21():
    net = learned()
    net["score"].weight.data[...] = 0
    equal, zero = seen(net)
    assert equal == "all classes have the same score at every pixel, so the loss is ln 21 = 3.0445"
    assert zero == "all weights are zero in score.weight"


def test_all_background_has_its_fingerprint():
    net = learned()
    net["score"].bias.data[0] = 100
    (finding,) = diagnose(net, Halves())
    # 27 of the 37 labelled columns are background, and two classes occur: a = 73.0, 1/2, a/2, a².
    assert finding.seen == (
        "every pixel is called class 0: pixel accuracy a = 73.0, mean accuracy 1/2 = 50.0, mean IU a/2 = 36.5, "
        "f.w. IU a² = 53.3"
    )
    assert "class_weight" in finding.remedy


def test_weights_that_were_only_drawn_are_told_from_trained_ones():
    net = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(21, 1)), 21, padding=1).eval()
    *_, drawn = seen(net)
    assert drawn == "the weights of all 6 large layers are distributed as they are drawn before any training"
    net.backbone["conv3_1"].weight.data *= 1.1
    assert not any("as they are drawn" in text for text in seen(net))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda label: np.where(label == 1, 38, label).astype(np.uint8),
            "the labels hold 38, but there are 21 classes",
        ),
        (lambda label: np.where(label == 1, 0, label).astype(np.uint8), "hold nothing but class 0 and void"),
        (
            lambda label: np.where(label == 255, 20, label).astype(np.uint8),
            "class 20 (class 20) is a thin band between other classes nearly everywhere",
        ),
    ],
)
def test_labels_that_are_mixed_up_are_found(change, message):
    assert any(message in text for text in seen(learned(), Halves(change)))


def strokes(label):
    """Class 1 as a stroke of eight pixels in a border of two: thin as a digit's."""
    label[...] = 0
    label[10:22] = 20
    label[12:20] = 1
    return label


def test_thin_objects_inside_of_a_border_are_not_taken_for_one():
    assert [text for text in seen(learned(), Halves(strokes)) if "thin band" in text] == [
        "class 20 (class 20) is a thin band between other classes nearly everywhere"
    ]


@pytest.mark.parametrize(
    ("changes", "message", "remedy"),
    [
        ({"lr": 1e-10}, "lr 1e-10 with the mean loss", "lr_of_mean"),
        (
            {"lr": 0.05, "reduction": "sum"},
            "lr 0.05 with the summed loss of 1,600 pixels is 80 with the mean",
            "lr_of_sum",
        ),
        ({"lr": 0.05, "reduction": "sum", "accumulate": 2}, "of 3,200 pixels is 160", "lr_of_sum"),
    ],
)
def test_a_learning_rate_of_the_other_reduction_is_found(changes, message, remedy):
    (finding,) = diagnose(learned(), Halves(), config=replace(CONFIG, **changes))
    assert message in finding.seen
    assert remedy in finding.remedy


def test_the_released_nets_learning_rate_is_right_for_their_summed_loss():
    net, large = learned(), Halves()
    large.example = lambda index, epoch=0: Example(
        np.ones((1, 500, 500), np.float32), np.ones((500, 500), np.uint8), "large"
    )
    config = TrainConfig(steps=1, lr=1e-10, reduction="sum")
    assert not any("lr" in finding.seen for finding in diagnose(net, large, config=config, examples=1))


def test_modes_are_put_back_and_a_finding_is_text():
    net = learned().train()
    net["score"].weight.data[...] = 0
    finding = diagnose(net, Halves())[0]
    assert isinstance(finding, Finding)
    assert net.training
    assert finding.seen[0].islower()
    assert finding.remedy


def test_nothing_to_look_at_is_refused():
    with pytest.raises(ValueError, match="needs at least one example, got 0 of a data set of 3"):
        diagnose(learned(), Halves(), examples=0)
