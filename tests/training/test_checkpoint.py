"""Checkpoints: what is saved comes back, what is damaged is recognised, and a kill loses nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn.nn.state import check_state
from minifcn.training import checkpoint
from minifcn.training.checkpoint import CheckpointError

META = {"epoch": 3, "net": {"name": "fcn", "stride": 8}, "classes": ["background", "çöp"], "lr": 0.1}
SMALL = {"model/score.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "optimizer/step": np.array(7)}
DTYPES = ["<f4", "<f8", ">f4", "f2", "i8", "u1", "?"]


def random_array(rng, dtype, shape):
    return rng.integers(0, 100, shape).astype(dtype)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def flip_a_bit(path, position=1000):
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1
    path.write_bytes(data)


def assert_equal_arrays(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(actual[name], array)


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4))), st.integers(0, 99))
def test_what_is_saved_is_loaded(tmp_path_factory, kinds, seed):
    rng = np.random.default_rng(seed)
    arrays = {f"model/{i}.weight": random_array(rng, *kind) for i, kind in enumerate(kinds)}
    path = checkpoint.save(tmp_path_factory.mktemp("run"), 123, arrays, META)
    loaded = checkpoint.load(path)
    assert_equal_arrays(loaded.arrays, arrays)
    assert (loaded.meta, loaded.path, path.name) == (META, path, "checkpoint-00000123.npz")


@pytest.mark.parametrize(
    "view",
    [lambda a: a.T, lambda a: a[::2, ::-1], lambda a: np.broadcast_to(a[0], a.shape), lambda a: a[1:, 2:]],
    ids=["transposed", "strided and reversed", "broadcast", "sliced"],
)
def test_an_array_that_is_not_contiguous_is_saved_right(tmp_path, view):
    array = view(np.arange(42.0).reshape(6, 7))
    loaded = checkpoint.load(checkpoint.save(tmp_path, 0, {"a": array}, {}))
    np.testing.assert_array_equal(loaded.arrays["a"], array)


def test_special_values_keep_their_bits(tmp_path):
    array = np.array([np.nan, -0.0, np.inf, 1e-45], np.float32)
    loaded = checkpoint.load(checkpoint.save(tmp_path, 0, {"a": array}, {}))
    assert loaded.arrays["a"].tobytes() == array.tobytes()


def test_numpy_alone_can_read_a_checkpoint(tmp_path):
    with np.load(checkpoint.save(tmp_path, 0, SMALL, META), allow_pickle=False) as archive:
        assert_equal_arrays({name: archive[name] for name in SMALL}, SMALL)
        assert json.loads(archive["meta.json"]) == META


def test_equal_content_gives_equal_bytes(tmp_path, monkeypatch):
    first = checkpoint.save(tmp_path / "a", 1, SMALL, META)
    monkeypatch.setattr(time, "time", lambda: 2e9)  # another day
    reordered = {name: np.asarray(SMALL[name], order="F") for name in reversed(SMALL)}
    second = checkpoint.save(tmp_path / "b", 1, reordered, dict(reversed(META.items())))
    assert first.read_bytes() == second.read_bytes()


def test_a_flipped_bit_anywhere_is_recognised(tmp_path):
    path = checkpoint.save(tmp_path, 0, SMALL, META)
    good = path.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="checksum"):
            checkpoint.load(path)


def test_a_file_cut_off_anywhere_is_recognised(tmp_path):
    path = checkpoint.save(tmp_path, 0, SMALL, META)
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(CheckpointError, match="checksum"):
            checkpoint.load(path)


def test_bytes_appended_to_a_file_are_recognised(tmp_path):
    path = checkpoint.save(tmp_path, 0, SMALL, META)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(path)


def test_an_npz_of_numpys_own_is_no_checkpoint(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"weights\.npz is damaged or no checkpoint"):
        checkpoint.load(tmp_path / "weights.npz")


@pytest.mark.parametrize(
    ("name", "reason"), [("absent.npz", "No such file"), (".", "Is a directory")], ids=["absent", "folder"]
)
def test_a_path_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, reason):
    with pytest.raises(CheckpointError, match=f"cannot be read .{reason}.*check the path") as caught:
        checkpoint.load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_the_last_two_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        checkpoint.save(tmp_path, step, SMALL, {"step": step})
    assert names(tmp_path) == ["checkpoint-00000015.npz", "checkpoint-00000020.npz"]


def test_newest_means_the_highest_number_not_the_last_name(tmp_path):
    for step in (99_999_999, 100_000_000):
        checkpoint.save(tmp_path, step, SMALL, {"step": step})
    newest, _ = checkpoint.latest(tmp_path)
    assert newest.meta["step"] == 100_000_000


def test_saving_a_step_again_replaces_it(tmp_path):
    for attempt in ("first", "second"):
        checkpoint.save(tmp_path, 5, SMALL, {"attempt": attempt})
    assert checkpoint.latest(tmp_path)[0].meta == {"attempt": "second"}
    assert names(tmp_path) == ["checkpoint-00000005.npz"]


def test_a_run_rolled_back_does_not_lose_what_it_saves(tmp_path):
    """Resumed from 10 because 20 was damaged, and saving at other steps than before."""
    for step in (10, 20):
        path = checkpoint.save(tmp_path, step, SMALL, {"step": step})
    flip_a_bit(path)
    for step in (12, 14):
        checkpoint.save(tmp_path, step, SMALL, {"step": step})
    assert [path.name[-6:-4] for path in checkpoint.checkpoints(tmp_path)] == ["20", "14", "12"]
    assert checkpoint.latest(tmp_path)[0].meta == {"step": 14}


def test_files_of_other_names_are_left_alone(tmp_path):
    for name in ("checkpoint-1.npz", "best.npz", "checkpoint-00000001.npz.old.npz", "metrics.jsonl"):
        (tmp_path / name).write_text("mine")
    for step in range(4):
        checkpoint.save(tmp_path, step, SMALL, {"step": step})
    assert len(names(tmp_path)) == 4 + 2
    assert checkpoint.latest(tmp_path)[0].meta == {"step": 3}


def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(tmp_path):
    paths = [checkpoint.save(tmp_path, step, SMALL, {"step": step}) for step in (1, 2)]
    flip_a_bit(paths[1])
    found, messages = checkpoint.latest(tmp_path)
    assert found.path == paths[0]
    assert found.meta == {"step": 1}
    assert len(messages) == 1
    assert messages[0].startswith(f"skipped: {paths[1]} is damaged")


def test_a_sound_newest_has_nothing_to_say(tmp_path):
    checkpoint.save(tmp_path, 1, SMALL, {})
    assert checkpoint.latest(tmp_path)[1] == []


def test_if_all_are_damaged_the_error_names_every_one(tmp_path):
    paths = [checkpoint.save(tmp_path, step, SMALL, {}) for step in (1, 2)]
    for path in paths:
        flip_a_bit(path)
    with pytest.raises(CheckpointError, match="no sound checkpoint left, train again") as caught:
        checkpoint.latest(tmp_path)
    assert all(str(path) in str(caught.value) for path in paths)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["", "absent"])
def test_a_folder_without_checkpoints_is_named_with_what_to_do(tmp_path, folder):
    assert checkpoint.checkpoints(tmp_path / folder) == []
    with pytest.raises(CheckpointError, match=r"holds no checkpoint-.*train first") as caught:
        checkpoint.latest(tmp_path / folder)
    assert str(tmp_path / folder) in str(caught.value)


def test_the_name_is_given_only_to_a_file_that_is_safe_on_the_disk(tmp_path, monkeypatch):
    """What a power cut would show and a kill does not: the order of the calls that force things to disk."""
    calls = []

    def record(name, real):
        def recorded(*args, **kwargs):
            if not calls:
                checkpoint.load(tmp_path / "checkpoint.unfinished")  # whole before it is forced to the disk
            calls.append(name)
            return real(*args, **kwargs)

        return recorded

    checkpoint.save(tmp_path, 1, SMALL, {}, keep=1)
    monkeypatch.setattr(os, "fsync", record("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", record("replace", os.replace))
    monkeypatch.setattr(Path, "unlink", record("unlink", Path.unlink))
    checkpoint.save(tmp_path, 2, SMALL, {}, keep=1)
    # The file, its name, the leftover that is not there, the folder; only then the old checkpoint goes.
    assert calls == ["fsync", "replace", "unlink", "fsync", "unlink"]


def test_what_a_killed_save_left_is_ignored_and_overwritten(tmp_path):
    checkpoint.save(tmp_path, 1, SMALL, {"step": 1})
    (tmp_path / "checkpoint.unfinished").write_bytes(bytes(100_000))
    assert checkpoint.latest(tmp_path)[0].meta == {"step": 1}
    checkpoint.save(tmp_path, 2, SMALL, {"step": 2})
    assert checkpoint.latest(tmp_path)[0].meta == {"step": 2}
    assert names(tmp_path) == ["checkpoint-00000001.npz", "checkpoint-00000002.npz"]


def test_a_full_disk_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    checkpoint.save(tmp_path, 1, SMALL, {"step": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, 2, SMALL, {"step": 2})
    assert names(tmp_path) == ["checkpoint-00000001.npz"]


@pytest.mark.parametrize(
    ("step", "arrays", "meta", "keep", "error", "message"),
    [
        (-1, SMALL, {}, 2, ValueError, "step must not be negative, got -1"),
        (1, SMALL, {}, 0, ValueError, "keep must be at least 1 .* got 0"),
        (1, {"model/a": np.array([None])}, {}, 2, TypeError, r"arrays\['model/a'\] has dtype object"),
        (1, SMALL, {"iu": np.float32(0.5)}, 2, TypeError, "meta must be plain JSON.* float32"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, step, arrays, meta, keep, error, message):
    with pytest.raises(error, match=message):
        checkpoint.save(tmp_path / "run", step, arrays, meta, keep)
    assert names(tmp_path) == []


# A process that forks a saver for each line it reads: importing once makes fifteen kills cheap. The saver
# starts at the step on its line and saves without a pause, so that nearly every kill falls into a save.
SAVERS = """
import os, sys
import numpy as np
from minifcn.training import checkpoint

for line in sys.stdin:
    saver = os.fork()
    if saver == 0:
        step = int(line)
        while True:
            weights = {f"model/{i}": np.full((256, 256), step + i, np.float32) for i in range(8)}
            checkpoint.save(sys.argv[1], step, weights, {"step": step})
            step += 1
    print(saver, flush=True)
    os.waitpid(saver, 0)
    print("gone", flush=True)
"""


def test_a_process_killed_at_any_moment_leaves_a_complete_checkpoint(tmp_path):
    moments = random.Random(0)
    kills_while_saving = 0
    checkpoint.save(tmp_path, 0, {f"model/{i}": np.full(1, i) for i in range(8)}, {"step": 0})
    step = 0
    command = [sys.executable, "-c", SAVERS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as savers:
        for _ in range(15):
            savers.stdin.write(f"{step + 1}\n")
            savers.stdin.flush()
            saver = int(savers.stdout.readline())
            time.sleep(moments.uniform(0, 0.1))
            os.kill(saver, signal.SIGKILL)
            assert savers.stdout.readline() == "gone\n"

            kills_while_saving += (tmp_path / "checkpoint.unfinished").exists()
            found, damaged = checkpoint.latest(tmp_path)
            assert damaged == []
            assert found.meta["step"] >= step
            step = found.meta["step"]
            assert found.path.name == f"checkpoint-{step:08d}.npz"
            assert len(found.arrays) == 8
            for i in range(8):
                assert np.all(found.arrays[f"model/{i}"] == step + i)
            assert len(checkpoint.checkpoints(tmp_path)) <= 3  # two, and a third killed before its removal
        savers.stdin.close()
    assert step > 0
    assert kills_while_saving > 0
    checkpoint.save(tmp_path, step + 1, SMALL, {})
    assert names(tmp_path) == [f"checkpoint-{s:08d}.npz" for s in (step, step + 1)]


FITTING = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "scale": ()}


def state(shapes):
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_a_state_with_the_same_names_and_shapes_fits_in_any_order():
    check_state(FITTING, state(dict(reversed(FITTING.items()))))


def test_all_that_differs_is_told_at_once():
    given_state = state({"conv.weight": (4, 1, 3, 3), "scale": (1,), "fc.weight": (2, 2), "fc.bias": (2,)})
    with pytest.raises(ValueError, match="the state is of another net") as caught:
        check_state(FITTING, given_state)
    assert (
        "missing: conv.bias; unexpected: fc.bias, fc.weight; of another shape: "
        "conv.weight (given (4, 1, 3, 3), expected (4, 3, 3, 3)), scale (given (1,), expected ())"
    ) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_very_many_differences_are_all_named():
    with pytest.raises(ValueError, match=r"missing: w0, w1, w2, w3, w4, w5, w6, w7\."):
        check_state({f"w{i}": () for i in range(8)}, {})
