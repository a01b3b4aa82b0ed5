"""What every data set promises: the order of an epoch and the split of names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn.data.dataset import DataError, check_split, listed, order, split_names

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=3, max_size=12, unique=True)


@given(seed=st.integers(0, 2**64), epoch=st.integers(0, 2**32), size=st.integers(0, 50))
def test_an_epoch_visits_every_index_once_in_an_order_of_its_own_name(seed, epoch, size):
    visited = order(seed, epoch, size)
    assert sorted(visited.tolist()) == list(range(size))
    np.testing.assert_array_equal(visited, order(seed, epoch, size))


def test_seeds_and_epochs_have_different_orders():
    orders = {tuple(order(seed, epoch, 50).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(names=NAMES)
def test_every_name_lies_in_one_split_and_no_split_is_empty(names):
    splits = split_names(names)
    assert sorted(name for split in splits.values() for name in split) == sorted(names)
    assert all(splits.values())


@given(names=NAMES, seed=st.integers(0, 2**32))
def test_the_split_does_not_depend_on_the_order_of_the_names(names, seed):
    shuffled = [names[index] for index in order(seed, 0, len(names))]
    assert split_names(shuffled) == split_names(names)


def test_names_keep_their_split_when_others_are_added():
    few, many = split_names(map(str, range(100))), split_names(map(str, range(1000)))
    for split, names in few.items():
        assert set(names) <= set(many[split])


def test_splits_hold_about_70_15_and_15_percent():
    sizes = {split: len(names) for split, names in split_names(map(str, range(10_000))).items()}
    # A binomial count's deviation is at most √(10,000 · ¼) = 50; four of them are 200.
    assert sizes == {split: pytest.approx(size, abs=200) for split, size in zip(sizes, (7000, 1500, 1500), strict=True)}


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b"]])
def test_fewer_than_three_names_cannot_be_split(names):
    with pytest.raises(DataError, match=f"{len(names)} examples cannot be split .* at least 3"):
        split_names(names)


@pytest.mark.parametrize("split", ["validation", "", None, 0])
def test_a_strange_split_is_named(split):
    with pytest.raises(DataError, match=f"got {split!r}"):
        check_split(split)


def test_a_message_lists_a_few_values_and_counts_the_rest():
    assert listed([1, 2, 3]) == "1, 2, 3"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"
