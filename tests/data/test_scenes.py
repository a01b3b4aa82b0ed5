"""Scenes and crops of digits and of shapes."""

import hashlib
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from minifcn.data import DataError, digits, shapes
from minifcn.data.dataset import VOID
from minifcn.data.scenes import Glyph, Glyphs, Scenes

SOURCES = {
    "digits": (digits.glyphs, digits.DigitScenes, digits.digit_crops),
    "shapes": (shapes.glyphs, shapes.ShapeScenes, shapes.shape_crops),
}
GLYPHS = pytest.mark.parametrize("glyphs", [source[0] for source in SOURCES.values()], ids=SOURCES)
SCENES = pytest.mark.parametrize("scenes", [source[1] for source in SOURCES.values()], ids=SOURCES)
CROPS = pytest.mark.parametrize("crops", [source[2] for source in SOURCES.values()], ids=SOURCES)
BOTH = pytest.mark.parametrize("dataset", [draw for source in SOURCES.values() for draw in source[1:]])

SQUARE = Glyphs("squares", ("background", "square"), (Glyph(Image.new("L", (64, 64), 255), 1),))

FINGERPRINTS = """
import hashlib, sys
from minifcn.data import DigitScenes, ShapeScenes, digit_crops, shape_crops
for dataset in (DigitScenes, digit_crops, ShapeScenes, shape_crops):
    example = dataset("train", count=10, seed=6).example(7, 8)
    print(hashlib.sha256(example.image.tobytes() + example.label.tobytes()).hexdigest())
"""


def fingerprint(example):
    return hashlib.sha256(example.image.tobytes() + example.label.tobytes()).hexdigest()


# Which example is drawn


def test_another_process_draws_the_same_bits():
    result = subprocess.run([sys.executable, "-c", FINGERPRINTS], capture_output=True, text=True, check=True)
    here = [
        fingerprint(dataset("train", count=10, seed=6).example(7, 8))
        for dataset in (digits.DigitScenes, digits.digit_crops, shapes.ShapeScenes, shapes.shape_crops)
    ]
    assert result.stdout.split() == here


@BOTH
def test_an_example_does_not_depend_on_those_drawn_before(dataset):
    forwards = [fingerprint(dataset("train", count=5).example(index)) for index in range(5)]
    backwards = [fingerprint(dataset("train", count=5).example(index)) for index in reversed(range(5))]
    assert forwards == backwards[::-1]


@BOTH
def test_training_examples_are_new_in_each_epoch_and_others_stay(dataset):
    for split, different in (("train", 3), ("val", 1), ("test", 1)):
        examples = [dataset(split, count=1).example(0, epoch) for epoch in range(3)]
        assert len({fingerprint(example) for example in examples}) == different
        assert len({example.name for example in examples}) == different


@BOTH
def test_seeds_splits_and_indices_draw_different_examples(dataset):
    examples = [
        dataset(split, count=3, seed=seed).example(index)
        for split in ("train", "val", "test")
        for seed in range(2)
        for index in range(3)
    ]
    assert len({fingerprint(example) for example in examples}) == len(examples)


def test_splits_differ_in_more_than_their_objects():
    """Or a net could learn the test scenes' canvases from the training scenes of the same seed."""
    labels = {Scenes(SQUARE, split, 128, count=1, seed=0).example(0).label.tobytes() for split in ("val", "test")}
    assert len(labels) == 2


@BOTH
def test_the_count_does_not_change_the_examples(dataset):
    assert fingerprint(dataset("val", count=3).example(2)) == fingerprint(dataset("val", count=30).example(2))


def test_no_two_splits_share_a_digit():
    pictures = [{glyph.alpha.tobytes() for glyph in digits.glyphs(split).objects} for split in ("train", "val", "test")]
    assert all(one.isdisjoint(other) for one, other in combinations(pictures, 2))


def test_the_splits_hold_all_1797_digits_and_each_of_the_ten():
    labels = [[glyph.label for glyph in digits.glyphs(split).objects] for split in ("train", "val", "test")]
    assert sum(map(len, labels)) == 1797
    assert all(set(some) == set(range(1, 11)) for some in labels)


@BOTH
def test_what_is_not_there_is_named(dataset):
    with pytest.raises(IndexError, match=r"index must lie in 0 … 9, got 10"):
        dataset("train", count=10).example(10)
    with pytest.raises(DataError, match=r"split must be .* got 'training'"):
        dataset("training")


# What a scene shows


@SCENES
@pytest.mark.parametrize("size", [128, (68, 100)])
def test_an_example_fits_together(scenes, size):
    dataset = scenes("train", size, count=20)
    height, width = (size, size) if isinstance(size, int) else size
    seen = set()
    for index in range(len(dataset)):
        example = dataset.example(index)
        assert (example.image.dtype, example.label.dtype) == (np.float32, np.uint8)
        assert (example.image.shape, example.label.shape) == ((dataset.channels, height, width), (height, width))
        assert np.abs(example.image).max() <= 1
        objects = set(np.unique(example.label).tolist()) - {0, VOID}
        assert objects
        seen |= objects
    assert seen <= set(range(1, len(dataset.classes)))
    assert len(seen) > 3


@SCENES
def test_void_is_exactly_what_lies_within_two_pixels_of_an_object(scenes):
    dataset = scenes("train", (72, 96), count=3)
    for index in range(len(dataset)):
        label = dataset.example(index).label
        height, width = label.shape
        for i in range(height):
            for j in range(width):
                if label[i, j] in (0, VOID):
                    near = label[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
                    assert (label[i, j] == VOID) == bool(((near != 0) & (near != VOID)).any())


@SCENES
def test_no_object_touches_another_or_the_border(scenes):
    """Regions that grow by one pixel at a time until nothing changes keep one label, and stay two pixels inside."""
    dataset = scenes("train", count=5)
    for index in range(len(dataset)):
        label = dataset.example(index).label
        solid = (label != 0) & (label != VOID)
        assert not solid[:2].any()
        assert not solid[-2:].any()
        assert not solid[:, :2].any()
        assert not solid[:, -2:].any()
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            moved = np.roll(label, (down, right), (0, 1))
            both = solid & np.roll(solid, (down, right), (0, 1))
            np.testing.assert_array_equal(label[both], moved[both])


def test_labels_lie_where_objects_are_drawn():
    """A square has one colour, but for the grain of up to 12 each way; half of a canvas would not pass for it."""
    for index in range(20):
        example = Scenes(SQUARE, "train", 68, count=20, seed=0).example(index)
        square = example.image[:, example.label == 1] * 127.5
        assert np.ptp(square, axis=1).max() <= 24.5


@SCENES
def test_objects_stand_out_from_what_surrounds_them(scenes):
    """By a third of what colours are drawn apart, in the mean over an object's pixels and over the background."""
    dataset = scenes("val", count=20)
    for index in range(len(dataset)):
        example = dataset.example(index)
        background = example.image[:, example.label == 0].mean(1)
        for value in set(np.unique(example.label).tolist()) - {0, VOID}:
            difference = np.abs(example.image[:, example.label == value].mean(0) - background.mean())
            assert difference.mean() * 127.5 > 20


@SCENES
def test_about_seven_tenths_are_background(scenes):
    """PASCAL VOC has about three quarters. FCN §4.3."""
    labels = [scenes("train", count=100).example(index).label for index in range(100)]
    assert 0.65 < np.mean(np.array(labels) == 0) < 0.8


def upper_bound(labels, stride, classes):
    """Return the mean IU of labels that are sampled at the middles of blocks and repeated over the blocks."""
    confusion = np.zeros((classes, classes))
    for label in labels:
        middles = label[stride // 2 :: stride, stride // 2 :: stride]
        coarse = np.kron(np.where(middles == VOID, 0, middles), np.ones((stride, stride), np.uint8))
        known = label != VOID
        np.add.at(confusion, (label[known], coarse[known]), 1)
    right = confusion.diagonal()
    return np.mean(right / (confusion.sum(0) + confusion.sum(1) - right))


@SCENES
def test_finer_strides_have_something_to_gain(scenes):
    """Labels of stride 32 must miss what those of stride 8 can show, or skips would teach nothing. FCN §4.2."""
    dataset = scenes("test", count=60)
    labels = [dataset.example(index).label for index in range(len(dataset))]
    bounds = [upper_bound(labels, stride, len(dataset.classes)) for stride in (32, 16, 8)]
    assert bounds[0] < 0.55
    assert bounds[0] + 0.15 < bounds[1] < bounds[2] - 0.1
    assert bounds[2] > 0.78


@SCENES
def test_a_scene_that_cannot_hold_the_largest_object_is_refused(scenes):
    with pytest.raises(DataError, match=r"size must be at least 68 pixels.* got \(67, 200\)"):
        scenes("train", (67, 200))


# What a crop shows


@CROPS
def test_a_crop_has_one_class_and_a_quarter_are_background(crops):
    dataset = crops("train", count=800)
    labels = [dataset.example(index).label for index in range(len(dataset))]
    assert all((label.dtype, label.shape) == (np.uint8, ()) for label in labels)
    shares = np.bincount(labels, minlength=len(dataset.classes)) / len(labels)
    # A binomial share's deviation is √(¼ · ¾ / 800) = 0.015; four of them are 0.06.
    assert shares[0] == pytest.approx(0.25, abs=0.06)
    assert shares[1:].min() > 0.02
    assert dataset.example(0).image.shape == (3, 64, 64)


# Objects


@GLYPHS
def test_an_object_is_cut_to_its_outline_and_drawn_36_to_64_pixels_large(glyphs):
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(300):
        alpha, label = glyphs("train").sized(rng)
        sides.append(max(alpha.size))
        assert 0 < label < len(glyphs("train").classes)
        inside = np.asarray(alpha) >= 128
        # Reduced, an outline's tip may fade below the threshold.
        assert max(np.ptp(np.nonzero(inside)[0]), np.ptp(np.nonzero(inside)[1])) + 1 >= sides[-1] - 3
    assert (min(sides), max(sides)) == (36, 64)


def test_shapes_differ_from_each_other():
    """Turned alike, no shape covers what another one covers."""
    masks = [np.asarray(shapes.drawn(name, 0.3).resize((64, 64))) >= 128 for name in shapes.CLASSES[1:]]
    for one, other in combinations(masks, 2):
        assert (one ^ other).mean() > 0.05


# scikit-learn


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "minifcn\[demo\]"'):
        digits.glyphs.__wrapped__("train")


def test_scikit_learn_is_imported_only_when_digits_are_asked_for():
    code = "import sys, minifcn.data; minifcn.data.ShapeScenes('val').example(0); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
