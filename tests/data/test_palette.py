"""Labels as colours."""

import numpy as np
import pytest
from PIL import Image

from minifcn.data.palette import PALETTE, overlay, save_label
from minifcn.data.pictures import load_label, to_input


@pytest.mark.parametrize(
    ("label", "colour"),
    [
        (0, (0, 0, 0)),  # background
        (1, (128, 0, 0)),  # aeroplane
        (2, (0, 128, 0)),  # bicycle
        (7, (128, 128, 128)),  # car
        (8, (64, 0, 0)),  # cat
        (15, (192, 128, 128)),  # person
        (20, (0, 64, 128)),  # television
        (255, (224, 224, 192)),  # void
    ],
)
def test_labels_have_the_colours_of_pascal_voc(label, colour):
    assert tuple(PALETTE[label]) == colour


def test_no_two_labels_share_a_colour():
    assert len(np.unique(PALETTE, axis=0)) == 256


def test_an_overlay_mixes_objects_with_their_colour_and_leaves_the_background():
    picture = np.full((1, 3, 3), 100, np.uint8)
    mixed = overlay(to_input(picture), np.array([[0, 1, 255]], np.uint8))
    assert mixed.dtype == np.uint8
    assert mixed.tolist() == [[[100, 100, 100], [114, 50, 50], [162, 162, 146]]]


def test_an_overlay_needs_a_label_of_the_images_size():
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(3, 2\)"):
        overlay(np.zeros((3, 2, 3), np.float32), np.zeros((3, 2), np.uint8))


def test_a_saved_label_is_a_palette_png_that_reads_back(tmp_path):
    label = np.arange(256, dtype=np.int64).reshape(16, 16).T
    save_label(tmp_path / "label.png", label)
    with Image.open(tmp_path / "label.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.array(picture.convert("RGB")), PALETTE[label])
    np.testing.assert_array_equal(load_label(tmp_path / "label.png"), label)
