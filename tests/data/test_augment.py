"""Augmentation moves image and label alike, and is a function of (seed, epoch, index)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn.data.augment import Augmented, mirrored, shifted
from minifcn.data.dataset import VOID, Example


def coded(height=5, width=7):
    """Return an example whose image tells each pixel's label, so that one cannot move without the other."""
    label = np.arange(1, 1 + height * width, dtype=np.uint8).reshape(height, width)
    return Example(np.stack([label, 2 * label, 3 * label]).astype(np.float32), label, "coded")


class Coded:
    classes = tuple(map(str, range(36)))
    channels = 3

    def __len__(self):
        return 100

    def example(self, index, epoch=0):
        return coded()


def same(one, other):
    return np.array_equal(one.image, other.image) and np.array_equal(one.label, other.label) and one.name == other.name


def test_mirroring_exchanges_left_and_right():
    np.testing.assert_array_equal(mirrored(coded()).label[0], [7, 6, 5, 4, 3, 2, 1])


def test_mirroring_twice_changes_nothing():
    assert same(mirrored(mirrored(coded())), coded())


@given(down=st.integers(-9, 9), right=st.integers(-9, 9))
def test_shifting_moves_every_pixel_and_voids_the_rest(down, right):
    before, after = coded(), shifted(coded(), down, right)
    height, width = before.label.shape
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                assert after.label[i, j] == before.label[i - down, j - right]
                np.testing.assert_array_equal(after.image[:, i, j], before.image[:, i - down, j - right])
            else:
                assert after.label[i, j] == VOID
                np.testing.assert_array_equal(after.image[:, i, j], 0)


@given(index=st.integers(0, 99), epoch=st.integers(0, 1000), mirror=st.booleans(), jitter=st.integers(0, 32))
def test_image_and_label_move_alike(index, epoch, mirror, jitter):
    example = Augmented(Coded(), 0, mirror, jitter).example(index, epoch)
    known = example.label != VOID
    np.testing.assert_array_equal(example.image[:, known], np.outer([1, 2, 3], example.label[known]))
    np.testing.assert_array_equal(example.image[:, ~known], 0)
    assert example.image.flags.c_contiguous
    assert example.label.flags.c_contiguous


def test_every_shift_up_to_the_jitter_and_both_sides_occur():
    augmented = Augmented(Coded(), 0, jitter=1)
    labels = {augmented.example(index, epoch).label.tobytes() for index in range(100) for epoch in range(3)}
    sides = [coded(), mirrored(coded())]
    assert labels == {shifted(one, i, j).label.tobytes() for one in sides for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_without_mirror_and_jitter_nothing_changes():
    augmented = Augmented(Coded(), 0, mirror=False, jitter=0)
    assert all(same(augmented.example(index), coded()) for index in range(10))


def test_mirroring_does_not_change_the_jitter():
    plain, mirroring = Augmented(Coded(), 5, mirror=False, jitter=3), Augmented(Coded(), 5, jitter=3)
    for index in range(20):
        void, other = plain.example(index).label == VOID, mirroring.example(index).label == VOID
        np.testing.assert_array_equal(void, other)


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    augmented = Augmented(Coded(), 3, jitter=4)
    forwards = [augmented.example(index, epoch) for epoch in range(2) for index in range(10)]
    backwards = [augmented.example(index, epoch) for epoch in (1, 0) for index in reversed(range(10))]
    assert all(same(one, other) for one, other in zip(forwards, reversed(backwards), strict=True))
    assert len({example.label.tobytes() for example in forwards}) > 15
    assert not same(augmented.example(0), Augmented(Coded(), 4, jitter=4).example(0))


def test_the_data_set_behind_shines_through():
    augmented = Augmented(Coded(), 0)
    assert (len(augmented), augmented.channels, augmented.classes) == (100, 3, Coded.classes)


@pytest.mark.parametrize("change", [mirrored, lambda example: shifted(example, 1, -2)])
def test_the_original_stays_as_it_was(change):
    example = coded()
    changed = change(example)
    assert same(example, coded())
    assert not np.shares_memory(changed.image, example.image)
    assert not np.shares_memory(changed.label, example.label)
