import numpy as np
import pytest

from minifcn.data import VOID, DataError, DigitScenes, Example, Masked, ShapeScenes, WithDepth, digits


class OneScene:
    """A background with an object of class 2 in it, a void band around that, and no two pixels of one colour."""

    classes = ("background", "cat", "dog")
    channels = 3

    def __len__(self):
        return 1

    def example(self, index, epoch=0):
        label = np.zeros((21, 18), np.uint8)
        label[2:13, 1:14] = VOID
        label[4:11, 3:12] = 2
        return Example(np.linspace(-1, 1, 3 * label.size, dtype=np.float32).reshape(3, *label.shape) + 2, label, "one")


@pytest.mark.parametrize(("part", "kept"), [("foreground", [0]), ("background", [1, 2])])
def test_a_masked_part_is_grey_and_the_other_as_it_was(part, kept):
    scene, masked = OneScene().example(0), Masked(OneScene(), part).example(0)
    shown = np.isin(scene.label, kept)
    np.testing.assert_array_equal(masked.image[:, shown], scene.image[:, shown])
    assert not masked.image[:, ~shown].any()
    assert masked.image.dtype == np.float32
    np.testing.assert_array_equal(masked.label, scene.label)


def test_with_both_parts_masked_only_the_shape_is_left():
    scene, masked = OneScene().example(0), Masked(OneScene(), "both").example(0)
    np.testing.assert_array_equal(masked.image, np.stack([(scene.label == 2).astype(np.float32)] * 3))


def test_another_part_is_refused():
    with pytest.raises(DataError, match='must be "foreground", "background" or "both", got \'void\''):
        Masked(OneScene(), "void")


def test_depth_is_how_much_of_each_cell_is_near():
    scene, seen = OneScene().example(0), WithDepth(OneScene(), seed=0, cell=4, noise=0.0).example(0)
    np.testing.assert_array_equal(seen.image[:3], scene.image)
    measured = 0
    for top in range(0, 21, 4):
        for left in range(0, 18, 4):
            cell = seen.image[3, top : top + 4, left : left + 4]
            near = (scene.label[top : top + 4, left : left + 4] == 2).sum() / 16
            assert (cell == cell[0, 0]).all()
            assert cell[0, 0] in (pytest.approx(2 * near - 1), 0)
            measured += cell[0, 0] == pytest.approx(2 * near - 1)
    assert 20 <= measured <= 30


def test_depth_is_a_function_of_seed_epoch_and_index():
    scenes = ShapeScenes("train", 72, count=4)
    first, again, other = (WithDepth(scenes, seed).example(1, 2).image[3] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != WithDepth(scenes, 0).example(1, 3).image[3]).any()


def test_views_tell_of_the_data_set_that_they_show():
    scenes = DigitScenes("val", 72, count=4)
    for view, channels in ((Masked(scenes, "background"), 3), (WithDepth(scenes, 0), 4)):
        assert (view.classes, view.channels, len(view)) == (scenes.classes, channels, 4)
        assert view.example(3).image.shape == (channels, 72, 72)
        assert view.example(3).name == scenes.example(3).name


def test_forms_are_those_of_the_digits():
    label = np.array([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, VOID]], np.uint8)
    names = [[digits.FORMS[form] if form != VOID else "void" for form in row] for row in digits.forms(label)]
    assert names == [
        ["background", "loops", "lines", "curves", "curves", "lines"],
        ["curves", "loops", "lines", "loops", "loops", "void"],
    ]
