"""The training loop: what a step sees and computes, what it writes down, and when it refuses to go on."""

import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, nn, ops
from minifcn.data.dataset import VOID, Example
from minifcn.data.shapes import CLASSES, shape_crops
from minifcn.random import stream
from minifcn.training import CheckpointError, TrainConfig, Trainer, checkpoint, evaluate, metrics
from minifcn.training.batches import samples
from tiny_training import CONFIG, Patches, log_lines, outcome, tiny_net, tiny_trainer


class Changed:
    """Patches with their examples changed by ``change(example, index)``; remembers which were asked for."""

    classes = CLASSES
    channels = 3

    def __init__(self, change=lambda example, index: example, count=6):
        self.patches, self.change, self.asked = Patches(count=count), change, []

    def __len__(self):
        return len(self.patches)

    def example(self, index, epoch=0):
        self.asked.append((epoch, index))
        return self.change(self.patches.example(index, epoch), index)


def cut(example, index):
    """Make every image as high as its index asks for."""
    rows = 20 + 2 * index
    return Example(example.image[:, :rows], example.label[:rows], example.name)


def unlabelled(example, index):
    return Example(example.image, np.full_like(example.label, VOID), example.name)


def mostly_unlabelled(example, index):
    """Leave as many labelled rows as the index asks for, so that micro-batches weigh differently."""
    label = example.label.copy()
    label[1 + 4 * index :] = VOID
    return Example(example.image, label, example.name)


class Fixed:
    """The first examples of ``dataset``, the same in each epoch."""

    classes = CLASSES
    channels = 3

    def __init__(self, dataset, count):
        self.examples = [dataset.example(index) for index in range(count)]

    def __len__(self):
        return len(self.examples)

    def example(self, index, epoch=0):
        return self.examples[index]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.lists(st.integers(1, 30), max_size=5))
def test_samples_do_not_depend_on_how_the_training_is_cut_into_steps(seed, size, lengths):
    pieces, start = [], 0
    for length in lengths:
        pieces += samples(seed, size, start, start + length)
        start += length
    assert pieces == list(samples(seed, size, 0, start))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4))
def test_every_epoch_visits_every_example_once(seed, size, epochs):
    visited = list(samples(seed, size, 0, size * epochs))
    assert sorted(visited) == [(epoch, index) for epoch in range(epochs) for index in range(size)]
    assert [epoch for epoch, _ in visited] == sorted(epoch for epoch, _ in visited)


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    orders = [[i for _, i in samples(seed, 20, start, start + 20)] for seed in (0, 1) for start in (0, 20)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_step_takes_the_next_examples_and_may_begin_in_one_epoch_and_end_in_the_next(tmp_path):
    train_set = Changed()
    tiny_trainer(tmp_path, train_set=train_set, steps=5, seed=7).run()
    assert train_set.asked == list(samples(7, 6, 0, 5 * 4))
    assert {epoch for epoch, _ in train_set.asked[4:8]} == {0, 1}


def test_training_fits_the_images(tmp_path):
    net = tiny_net(width=16, dropout=0)
    trainer = tiny_trainer(tmp_path, net=net, train_set=Fixed(Patches(), 2), steps=60, lr=0.1, accumulate=1)
    losses = trainer.run().losses
    assert losses[0] > 1.5
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("class_weight", [None, (0.1, 1, 2, 1, 3, 1, 1)])
def test_two_micro_batches_give_the_gradient_of_one_batch_of_all(tmp_path, reduction, class_weight):
    def train(folder, batch_size, accumulate):
        trainer = tiny_trainer(
            tmp_path / folder,
            net=tiny_net(dropout=0),
            train_set=Changed(mostly_unlabelled, count=8),
            batch_size=batch_size,
            accumulate=accumulate,
            reduction=reduction,
            class_weight=class_weight,
            lr=0.05 if reduction == "mean" else 1e-5,
            clip_norm=None,
            steps=3,
        )
        return trainer.run().losses, trainer.net.state_dict()

    losses, weights = train("accumulated", 4, 2)
    losses_at_once, weights_at_once = train("at once", 8, 1)
    np.testing.assert_allclose(losses, losses_at_once, rtol=1e-5)
    start = tiny_net().state_dict()
    for name, array in weights.items():
        moved, moved_at_once = array - start[name], weights_at_once[name] - start[name]
        assert np.abs(moved).max() > 1e-4
        np.testing.assert_allclose(moved, moved_at_once, rtol=1e-3, atol=1e-4 * np.abs(moved).max())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("class_weight", [None, (0.1, 1, 2, 1, 3, 1, 1)])
def test_the_loss_is_the_cross_entropy_over_all_pixels_of_the_step(tmp_path, reduction, class_weight):
    trainer = tiny_trainer(tmp_path, net=tiny_net(dropout=0), reduction=reduction, class_weight=class_weight, steps=1)
    examples = [trainer.train_set.example(index, epoch) for epoch, index in samples(0, 6, 0, 4)]
    expected = ops.cross_entropy(
        tiny_net(dropout=0)(Tensor(np.stack([e.image for e in examples]))),
        np.stack([e.label for e in examples]),
        weight=None if class_weight is None else np.array(class_weight, np.float32),
        reduction=reduction,
    )
    assert trainer.run().losses == [pytest.approx(expected.item(), rel=1e-5)]


class TwoHeads(nn.Module):
    """A net with two answers for each pixel."""

    def __init__(self):
        self.first, self.second = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
        for number, parameter in enumerate(self.second.parameters()):
            parameter.data = stream(number).standard_normal(parameter.shape).astype(np.float32)

    def forward(self, x):
        return {"first": self.first(x), "second": self.second(x)}


def both_heads(scores, labels, class_weight):
    return sum(
        (ops.cross_entropy(scores[head], labels, weight=class_weight, reduction="sum") for head in ("first", "second")),
        Tensor(np.float32(0)),
    )


@pytest.mark.parametrize("class_weight", [None, tuple(1.0 + k for k in range(len(CLASSES)))])
def test_a_net_with_several_heads_trains_by_the_loss_that_it_is_given(tmp_path, class_weight):
    """Each head as a net of its own, by the usual loss, since they share nothing here."""
    settings = {**CONFIG, "clip_norm": None, "class_weight": class_weight}
    both = TwoHeads()
    alone = TwoHeads()
    result = Trainer(both, Patches(), TrainConfig(**settings), tmp_path / "both", loss=both_heads).run()
    one, two = (
        Trainer(net, Patches(), TrainConfig(**settings), tmp_path / name).run()
        for name, net in (("first", alone.first), ("second", alone.second))
    )
    np.testing.assert_allclose(result.losses, np.add(one.losses, two.losses), rtol=1e-5)
    for mine, theirs in zip(both.parameters(), alone.parameters(), strict=True):
        np.testing.assert_allclose(mine.data, theirs.data, rtol=1e-3, atol=1e-6)


def test_a_classifier_trains_on_crops_by_the_same_loop(tmp_path):
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.AvgPool2d(16), nn.Flatten((3, 4, 4)), nn.Dropout(0.1), nn.Linear(48, len(CLASSES), rng=rng))
    train_set, validation = Fixed(shape_crops("train"), 4), shape_crops("val", count=4)
    config = TrainConfig(steps=30, lr=0.05, batch_size=4)
    result = Trainer(net, train_set, config, tmp_path, validation=validation).run()
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert result.scores == metrics.scores(evaluate(net, validation))


def test_images_of_different_sizes_train_one_by_one(tmp_path):
    result = tiny_trainer(tmp_path, train_set=Changed(cut), batch_size=1, accumulate=4, steps=2).run()
    assert len(result.losses) == 2


def test_images_of_different_sizes_in_one_batch_are_refused_with_the_remedy(tmp_path):
    trainer = tiny_trainer(tmp_path, train_set=Changed(cut), batch_size=3)
    message = r"one size, but shapes-\S+ is \(3, \d+, 32\) and shapes-\S+ is .* batch_size=1 and accumulate=6"
    with pytest.raises(ValueError, match=message):
        trainer.run()


def test_a_step_without_a_labelled_pixel_has_no_loss_and_moves_nothing(tmp_path):
    net = tiny_net()
    result = tiny_trainer(tmp_path, net=net, train_set=Changed(unlabelled), steps=1, weight_decay=0).run()
    assert result.losses == [0]
    for name, array in tiny_net().state_dict().items():
        np.testing.assert_array_equal(net.state_dict()[name], array)


def test_a_line_is_written_for_every_step_and_every_evaluation(tmp_path):
    trainer = tiny_trainer(tmp_path)
    result = trainer.run()
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "mean_iu" in line] == [5, 10, 12]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert result.losses == [line["loss"] for line in lines if "loss" in line]
    assert {"step": 12, **vars(result.scores)} == lines[-1]
    assert result.scores == metrics.scores(evaluate(trainer.net, trainer.validation))
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert set(first) == {"step", "loss", "gradient_norm", "images_per_second"}


def test_checkpoints_hold_the_state_and_what_it_takes_to_use_it(tmp_path):
    trainer = tiny_trainer(tmp_path, meta={"net": {"name": "tiny", "width": 4}})
    trainer.run()
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "checkpoint-00000012.npz",
        "checkpoint-00000009.npz",
    ]
    saved, _ = checkpoint.latest(tmp_path)
    assert saved.meta["net"] == {"name": "tiny", "width": 4}
    assert saved.meta["classes"] == list(CLASSES)
    assert saved.meta["step"] == 12
    assert saved.meta["config"].items() >= CONFIG.items()
    for kind, state in (("model", trainer.net.state_dict()), ("optimizer", trainer.optimizer.state_dict())):
        for name, array in state.items():
            np.testing.assert_array_equal(saved.arrays[f"{kind}/{name}"], array)


def test_the_log_is_on_the_disk_before_the_checkpoint_that_relies_on_it(tmp_path, monkeypatch):
    fsync, forced = os.fsync, []

    def noted(descriptor):
        forced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    tiny_trainer(tmp_path, steps=1).run()
    log, saved = ((tmp_path / name).stat().st_ino for name in ("metrics.jsonl", "checkpoint-00000001.npz"))
    assert forced.index(log) < forced.index(saved)


def test_evaluating_and_saving_change_nothing_of_what_is_trained(tmp_path):
    quiet = tiny_trainer(tmp_path / "quiet", evaluate_every=100, checkpoint_every=100)
    quiet.run()
    busy = tiny_trainer(tmp_path / "busy", evaluate_every=1, checkpoint_every=1)
    busy.run()
    assert outcome(quiet)[0] == outcome(busy)[0]


def test_without_a_validation_set_nothing_is_scored(tmp_path):
    trainer = Trainer(tiny_net(), Patches(), TrainConfig(**{**CONFIG, "steps": 5}), tmp_path)
    assert trainer.run().scores is None
    assert all("loss" in line for line in log_lines(tmp_path))


def test_dropout_masks_differ_by_seed_step_and_micro_batch(tmp_path):
    """One image and a learning rate of 0: nothing but its masks makes one loss differ from another."""

    def losses(folder, **settings):
        trainer = tiny_trainer(
            tmp_path / folder, train_set=Fixed(Patches(), 1), lr=0.0, batch_size=1, steps=2, **settings
        )
        return trainer.run().losses

    first = losses("one", accumulate=1)
    assert first[0] != first[1]
    assert first == losses("the same", accumulate=1)
    assert first[0] != losses("other seed", accumulate=1, seed=1)[0]
    # With one mask for both micro-batches, the image taken twice would have the loss of the image taken once.
    assert losses("twice", accumulate=2)[0] != pytest.approx(first[0], rel=1e-5)


def test_a_net_left_in_evaluation_mode_is_trained_in_training_mode(tmp_path):
    trainers = [
        tiny_trainer(tmp_path / str(i), net=net, steps=2) for i, net in enumerate([tiny_net(), tiny_net().eval()])
    ]
    assert trainers[0].run().losses == trainers[1].run().losses


def test_a_diverging_loss_stops_the_training_and_leaves_sound_checkpoints(tmp_path):
    trainer = tiny_trainer(tmp_path, net=tiny_net(dropout=0), clip_norm=None, lr=1e15, checkpoint_every=1)
    with pytest.raises(
        FloatingPointError, match=r"step \d+: the loss is (nan|inf); train with lr below 1e\+15"
    ) as caught:
        trainer.run()
    newest, skipped = checkpoint.latest(tmp_path)
    assert skipped == []
    assert f"The checkpoint of step {newest.meta['step']} is sound" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert trainer.step == newest.meta["step"] == log_lines(tmp_path)[-1]["step"]
    assert all(np.isfinite(array).all() for array in newest.arrays.values())


class Root(nn.Module):
    """√scale · scores: at scale = 0 the loss is finite and its gradient is not."""

    def __init__(self):
        self.net = tiny_net()
        self.scale = nn.Parameter(np.zeros((), np.float32))

    def forward(self, x):
        return self.net(x) * self.scale.sqrt()


def test_an_infinite_gradient_under_a_finite_loss_stops_the_training_before_the_weights_change(tmp_path):
    trainer = tiny_trainer(tmp_path, net=Root())
    with (
        np.errstate(divide="ignore", invalid="ignore"),
        pytest.raises(FloatingPointError, match=r"step 1: the norm of the gradient is .* There is no checkpoint yet"),
    ):
        trainer.run()
    assert trainer.step == 0
    assert trainer.net.scale.data == 0
    assert log_lines(tmp_path) == []


def test_a_folder_with_a_training_in_it_is_refused(tmp_path):
    tiny_trainer(tmp_path, steps=1).run()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"checkpoint-00000001.npz .* resume it, or choose another folder"):
        tiny_trainer(tmp_path, steps=2).run()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_what_a_training_left_that_was_killed_before_its_first_checkpoint_is_replaced(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 77}\n{"step": 2, "lo')
    tiny_trainer(tmp_path, steps=1).run()
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 1]
    assert log_lines(tmp_path)[0]["loss"] < 10


def test_a_bar_with_loss_and_speed_is_shown_on_stderr_when_asked_for(tmp_path, capsys):
    tiny_trainer(tmp_path / "quiet", steps=2).run()
    assert capsys.readouterr() == ("", "")
    tiny_trainer(tmp_path / "shown", steps=2).run(progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "loss " in err
    assert "images/s" in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "TrainConfig: steps must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"reduction": "none"}, 'reduction must be "mean" or "sum", got \'none\''),
        ({"lr": math.inf}, "lr must satisfy 0 <= lr, got inf"),
        ({"seed": -1}, "seed must lie in 0"),
        ({"class_weight": (1.0, 2.0)}, r"class_weight has 2 numbers for 7 classes \(background, circle"),
        ({"keep": (0.5, 0.5)}, r"keep has 2 numbers for 7 classes \(background, circle"),
        ({"keep": 0.0}, "keep must hold probabilities, 0 < p <= 1"),
        ({"train_set": Patches(count=0)}, "train_set is empty"),
        ({"validation": Patches("val", count=0)}, "validation is empty"),
    ],
)
def test_bad_settings_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_trainer(tmp_path, **settings).run()
    assert checkpoint.checkpoints(tmp_path) == []


def test_a_validation_set_of_other_classes_is_refused(tmp_path):
    validation = Patches("val")
    validation.classes = ("land", "sea")
    with pytest.raises(ValueError, match=r"classes of validation, \('land', 'sea'\), are not those of train_set"):
        tiny_trainer(tmp_path, validation=validation)


def test_a_net_for_another_number_of_classes_is_refused(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 21, 1))
    with pytest.raises(ValueError, match=r"the net scores 21 classes, but the data set has 7 \(.*num_classes=7"):
        tiny_trainer(tmp_path, net=net).run()
    assert log_lines(tmp_path) == []


def test_meta_that_cannot_be_saved_is_refused_before_the_training(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        tiny_trainer(tmp_path, meta={"net": tiny_net()})


def test_the_learning_rate_falls_evenly_over_the_cooldown():
    config = TrainConfig(steps=10, lr=0.8, cooldown=4)
    np.testing.assert_allclose([config.lr_at(step) for step in range(10)], [0.8] * 7 + [0.6, 0.4, 0.2])
    assert [TrainConfig(steps=3, lr=0.5).lr_at(step) for step in range(3)] == [0.5] * 3
    with pytest.raises(ValueError, match="cooldown must lie in 0 … steps = 10, got 11"):
        TrainConfig(steps=10, lr=0.8, cooldown=11)


def test_every_step_is_taken_with_its_learning_rate(tmp_path):
    trainer = tiny_trainer(tmp_path, steps=6, cooldown=3)
    taken = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: taken.append(trainer.optimizer.lr) or step()
    trainer.run()
    assert taken == [trainer.config.lr_at(i) for i in range(6)]


@pytest.mark.parametrize("line", ['{"a": 1}', "[1, 2]", '"step"', '{"step": "1"}'])
def test_a_file_of_somebody_else_in_the_place_of_the_log_is_left_alone(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: holds .*, which no training wrote"):
        tiny_trainer(tmp_path).run()
    assert file.read_text() == f"{line}\n"
