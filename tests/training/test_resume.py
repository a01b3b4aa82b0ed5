"""A training that was stopped, however rudely, and resumed ends with the bits of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minifcn.training import CheckpointError, Interrupted, checkpoint
from tiny_training import Patches, log_lines, outcome, tiny_net, tiny_trainer


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the tiny training leaves if nobody stops it."""
    trainer = tiny_trainer(tmp_path_factory.mktemp("undisturbed"))
    trainer.run()
    return outcome(trainer)


def finish(folder, **options):
    """Resume the training in ``folder`` and return the trainer and the messages."""
    trainer = tiny_trainer(folder, **options)
    messages = trainer.resume()
    trainer.run()
    return trainer, messages


def checkpoint_names(folder):
    return [path.name for path in checkpoint.checkpoints(folder)]


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


class Alarmed:
    """Patches, but when the example number ``alarm`` is asked for, Ctrl-C is pressed."""

    def __init__(self, patches, alarm):
        self.patches, self.alarm, self.asked = patches, alarm, 0
        self.classes, self.channels = patches.classes, patches.channels

    def __len__(self):
        return len(self.patches)

    def example(self, index, epoch=0):
        self.asked += 1
        if self.asked == self.alarm:
            press_ctrl_c()
        return self.patches.example(index, epoch)


def train_until_stopped(trainer, step):
    with pytest.raises(Interrupted) as caught:
        trainer.run()
    message = f"stopped after step {step} of 12, saved in {trainer.folder}: resume to go on"
    assert str(caught.value) == message
    assert checkpoint_names(trainer.folder)[0] == f"checkpoint-{step:08d}.npz"


@pytest.mark.parametrize(
    ("sample", "step"), [(1, 0), (2, 0), (4 * 3 + 1, 3), (4 * 6 + 3, 6), (4 * 7 + 4, 7)], ids=lambda n: str(n)
)
def test_ctrl_c_within_a_step_saves_the_steps_before_it(tmp_path, sample, step):
    train_until_stopped(tiny_trainer(tmp_path, train_set=Alarmed(Patches(), sample)), step)
    straight = tiny_trainer(tmp_path / "straight", train_set=Patches())
    straight.run()
    assert outcome(finish(tmp_path, train_set=Patches())[0]) == outcome(straight)


def test_a_training_that_samples_its_loss_goes_on_with_the_same_draws(tmp_path):
    straight = tiny_trainer(tmp_path / "straight", keep=0.3)
    straight.run()
    train_until_stopped(tiny_trainer(tmp_path, train_set=Alarmed(straight.train_set, 4 * 7 + 1), keep=0.3), 7)
    assert outcome(finish(tmp_path, keep=0.3)[0]) == outcome(straight)


@pytest.mark.parametrize(("image", "step"), [(1, 5), (2, 5), (4, 10), (6, 12)])
def test_ctrl_c_within_an_evaluation_saves_and_the_evaluation_is_made_up_for(tmp_path, undisturbed, image, step):
    train_until_stopped(tiny_trainer(tmp_path, validation=Alarmed(Patches("val", 2), image)), step)
    assert log_lines(tmp_path)[-1].keys() >= {"loss"}
    assert outcome(finish(tmp_path)[0]) == undisturbed


def test_ctrl_c_between_two_changes_of_a_step_waits_for_the_step(tmp_path, monkeypatch, undisturbed):
    trainer = tiny_trainer(tmp_path)
    move, moved = trainer.optimizer._move, []

    def move_and_press(*arguments):
        move(*arguments)
        moved.append(arguments)
        if len(moved) == 4 * 6 + 2:  # the second of the four parameters, in step 7
            press_ctrl_c()

    monkeypatch.setattr(trainer.optimizer, "_move", move_and_press)
    train_until_stopped(trainer, 7)
    assert len(moved) == 4 * 7
    assert outcome(finish(tmp_path)[0]) == undisturbed


def test_ctrl_c_while_saving_waits_for_the_checkpoint(tmp_path, monkeypatch, undisturbed):
    replace = os.replace

    def press_and_replace(source, target):
        if Path(target).name == "checkpoint-00000006.npz":
            press_ctrl_c()
        replace(source, target)

    monkeypatch.setattr(os, "replace", press_and_replace)
    train_until_stopped(tiny_trainer(tmp_path), 6)
    monkeypatch.undo()
    assert outcome(finish(tmp_path)[0]) == undisturbed


def test_ctrl_c_works_as_before_once_the_training_is_over(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    tiny_trainer(tmp_path, steps=1).run()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_dropout_masks_after_a_stop_are_those_of_their_step(tmp_path):
    """One image and a learning rate of 0: nothing but its masks makes one step differ from another."""
    image = Patches("val", count=1)  # scenes for validation are the same in every epoch
    still = {"lr": 0.0, "batch_size": 1, "accumulate": 1}
    straight = tiny_trainer(tmp_path / "straight", train_set=image, **still).run().losses
    assert len(set(straight)) == 12
    train_until_stopped(tiny_trainer(tmp_path, train_set=Alarmed(image, 8), **still), 7)
    trainer = tiny_trainer(tmp_path, train_set=image, **still)
    trainer.resume()
    assert trainer.run().losses == straight


def test_a_finished_training_has_nothing_left_to_do(tmp_path, undisturbed):
    tiny_trainer(tmp_path).run()
    before = {path: path.stat().st_mtime_ns for path in checkpoint.checkpoints(tmp_path)}
    trainer, messages = finish(tmp_path)
    assert messages == []
    assert outcome(trainer) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in checkpoint.checkpoints(tmp_path)} == before


def test_a_resumed_training_returns_the_losses_and_scores_of_all_its_steps(tmp_path):
    straight = tiny_trainer(tmp_path / "straight").run()
    trainer = tiny_trainer(tmp_path)
    with pytest.raises(Interrupted):
        tiny_trainer(tmp_path, validation=Alarmed(Patches("val", 2), 3)).run()
    trainer.resume()
    assert trainer.run() == straight
    trainer = tiny_trainer(tmp_path)
    trainer.resume()
    assert trainer.run() == straight


def test_a_training_may_be_made_longer(tmp_path):
    tiny_trainer(tmp_path, steps=6).run()
    longer, _ = finish(tmp_path, steps=12)
    straight = tiny_trainer(tmp_path / "straight", steps=12)
    straight.run()
    assert outcome(longer)[0] == outcome(straight)[0]


def test_a_damaged_checkpoint_is_passed_over_and_told(tmp_path, undisturbed):
    tiny_trainer(tmp_path).run()
    newest = tmp_path / "checkpoint-00000012.npz"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    trainer = tiny_trainer(tmp_path)
    (message,) = trainer.resume()
    assert message.startswith(f"skipped: {newest} is damaged")
    assert trainer.step == 9
    assert log_lines(tmp_path)[-1]["step"] == 9
    trainer.run()
    assert outcome(trainer) == undisturbed
    assert checkpoint.load(newest).meta["step"] == 12


def test_a_torn_line_is_dropped(tmp_path, undisturbed):
    tiny_trainer(tmp_path).run()
    (tmp_path / "checkpoint-00000012.npz").unlink()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-30] + bytes(5))
    trainer, messages = finish(tmp_path)
    assert messages == []
    assert outcome(trainer) == undisturbed


def test_a_lost_log_is_told_and_does_not_stop_the_training(tmp_path, undisturbed):
    tiny_trainer(tmp_path).run()
    for name in ("checkpoint-00000012.npz", "metrics.jsonl"):
        (tmp_path / name).unlink()
    trainer, messages = finish(tmp_path)
    assert messages == [f"{tmp_path / 'metrics.jsonl'} lacks 9 of the 9 steps done so far"]
    assert outcome(trainer)[0] == undisturbed[0]
    assert [line["step"] for line in log_lines(tmp_path)] == [10, 10, 11, 12, 12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.1}, "lr was 0.05 and is 0.1;"),
        ({"seed": 1, "batch_size": 4}, "batch_size was 2 and is 4; seed was 0 and is 1;"),
        ({"class_weight": (1.0,) * 7}, r"class_weight was None and is \[1.0, 1.0"),
        ({"meta": {"net": "wide"}}, "net was None and is 'wide';"),
        ({"steps": 8}, "it has done 12 steps and steps is 8;"),
        ({"net": tiny_net(width=5)}, r"another net; of another shape: 0.bias \(given \(4,\), expected \(5,\)\)"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_and_nothing_is_loaded(tmp_path, changes, message):
    tiny_trainer(tmp_path).run()
    log = (tmp_path / "metrics.jsonl").read_bytes()
    trainer = tiny_trainer(tmp_path, **changes)
    before = {name: array.copy() for name, array in trainer.net.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        trainer.resume()
    assert "checkpoint-00000012.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert trainer.step == 0
    for name, array in trainer.net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


def test_a_checkpoint_of_other_classes_is_refused(tmp_path):
    tiny_trainer(tmp_path, steps=1).run()
    train_set, validation = Patches(), Patches("val", 2)
    train_set.classes = validation.classes = tuple("abcdefg")
    with pytest.raises(CheckpointError, match=r"classes was \['background', .* and is \['a', 'b'"):
        tiny_trainer(tmp_path, train_set=train_set, validation=validation).resume()


def test_a_folder_without_a_checkpoint_cannot_be_resumed(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no checkpoint-\*.npz"):
        tiny_trainer(tmp_path).resume()


# Reads lines "folder threads", forks a process that begins or resumes the training there, and says how it ended.
# Importing once makes many lives cheap; this process itself never runs a kernel, so that forking it is safe.
TRAINERS = """
import os, sys
import numba
from minifcn.training import checkpoint
from pathlib import Path
from tiny_training import tiny_trainer

for line in sys.stdin:
    folder, threads = line.split()
    child = os.fork()
    if child == 0:
        numba.set_num_threads(int(threads))
        trainer = tiny_trainer(Path(folder), steps=50, checkpoint_every=2, evaluate_every=7)
        if checkpoint.checkpoints(folder):
            assert trainer.resume() == []
        trainer.run()
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Lives:
    """Trainings in processes of their own, one after the other."""

    def __enter__(self):
        paths = [str(Path(__file__).parents[1]), *sys.path]
        environment = {
            **os.environ,
            "NUMBA_NUM_THREADS": "2",
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow down a busy machine sevenfold
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def begin(self, folder, threads):
        """Begin or resume the training in ``folder``; return its process id."""
        self.process.stdin.write(f"{folder} {threads}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self):
        """Wait for the end: 0, or the number of the signal that killed it."""
        return int(self.process.stdout.readline())

    def whole(self, folder, threads):
        self.begin(folder, threads)
        assert self.status() == 0


def final(folder):
    saved, skipped = checkpoint.latest(folder)
    assert (saved.meta["step"], skipped) == (50, [])
    return {name: array.tobytes() for name, array in saved.arrays.items()}, log_lines(folder)


def line_count(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(condition, process):
    while not condition():
        os.kill(process, 0)  # fails if the process has ended
        time.sleep(1e-4)


def test_killed_at_ten_moments_and_resumed_it_ends_as_if_never_stopped_on_one_thread_or_two(tmp_path):
    moments = random.Random(0)
    killed = tmp_path / "killed"
    log, unfinished = killed / "metrics.jsonl", killed / "checkpoint.unfinished"
    killed_while_saving = 0
    with Lives() as lives:
        lives.whole(tmp_path / "one", threads=1)
        lives.whole(tmp_path / "two", threads=2)
        for life in range(10):
            process = lives.begin(killed, threads=1 + life % 2)
            lines = line_count(log) + moments.randint(1, 4)
            wait_until(lambda lines=lines: line_count(log) >= lines, process)
            if life % 3 == 0:
                wait_until(unfinished.exists, process)
            time.sleep(moments.uniform(0, 2e-3))
            os.kill(process, signal.SIGKILL)
            assert lives.status() == signal.SIGKILL
            killed_while_saving += unfinished.exists()
        lives.whole(killed, threads=1)
    assert killed_while_saving > 0
    assert final(tmp_path / "one") == final(tmp_path / "two")
    assert final(killed) == final(tmp_path / "one")


def test_a_training_with_a_cooldown_is_not_prolonged(tmp_path):
    tiny_trainer(tmp_path, steps=6, cooldown=2).run()
    with pytest.raises(CheckpointError, match="steps was 6 and is 8"):
        tiny_trainer(tmp_path, steps=8, cooldown=2).resume()
