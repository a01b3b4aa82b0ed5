"""Streams: the same name, the same numbers; another name, others."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn.random import stream, word

SEED = st.integers(0, 2**128 - 1)
WORD = st.integers(0, 2**64 - 1)


@given(SEED, st.lists(st.one_of(WORD, st.text(max_size=8)), max_size=3))
def test_a_name_always_gives_the_same_numbers(seed, words):
    first = stream(seed, *words).random(5)
    stream(seed).random(100)  # what is drawn elsewhere does not matter
    assert (stream(seed, *words).random(5) == first).all()


NAMES = [
    (0,),
    (1,),
    (2**64,),
    (2**127,),
    (0, 1),
    (0, 0, 1),
    (0, 0, 0, 1),
    (0, 1, 1),
    (0, 2**64 - 1),
    (0, 2**63, 0, 0),
    (0, "conv1"),
    (0, "conv2"),
    (0, "conv1", 1),
    (0, 1, "conv1"),
]


def test_different_names_give_different_numbers():
    drawn = {tuple(stream(*name).integers(0, 2**63, 4)) for name in NAMES}
    assert len(drawn) == len(NAMES)


def test_streams_of_neighbouring_words_do_not_run_into_each_other():
    first, second = (stream(7, 0, 0, last).integers(0, 2**63, 10_000) for last in (0, 1))
    assert not set(first.tolist()) & set(second.tolist())


def test_zeros_name_the_same_stream_as_words_left_out():
    assert (stream(3).random(4) == stream(3, 0, 0, 0).random(4)).all()


# Recorded once: training that is resumed by a later version must see the numbers it would have seen.
RECORDED = "[546, 193, 324, 982, 814, 309]"


def test_the_numbers_are_the_same_in_another_process_and_for_ever():
    code = "from minifcn.random import stream; print(stream(2024, 'conv1', 3, 4).integers(0, 1000, 6).tolist())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str(stream(2024, "conv1", 3, 4).integers(0, 1000, 6).tolist()) == RECORDED


def test_the_numbers_are_uniform():
    draws = stream(5, "layer").random(100_000)
    # The mean of n uniform numbers has a standard deviation of 1/√(12 n); four of them.
    assert abs(draws.mean() - 0.5) < 4 / np.sqrt(12 * len(draws))


def test_a_word_fills_its_64_bits():
    words = [word(f"layer{i}") for i in range(200)]
    assert len(set(words)) == 200
    assert all(0 <= w < 2**64 for w in words)
    assert max(words) > 2**63


@pytest.mark.parametrize("seed", [-1, 2**128])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=rf"seed must lie in 0 … 2\*\*128 - 1, got {seed}"):
        stream(seed)


@pytest.mark.parametrize("bad", [-1, 2**64])
def test_a_word_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=rf"words must lie in 0 … 2\*\*64 - 1, got {bad}"):
        stream(0, 1, bad)


def test_a_fourth_word_is_refused():
    with pytest.raises(ValueError, match=r"at most three words, got 4: \(1, 2, 3, 4\)"):
        stream(0, 1, 2, 3, 4)
