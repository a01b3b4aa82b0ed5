"""A real training, small enough to run many times in a test: a net of two layers on patches of shape scenes."""

import json

import numpy as np

from minifcn import nn
from minifcn.data.augment import Augmented
from minifcn.data.dataset import Example
from minifcn.data.shapes import CLASSES, ShapeScenes
from minifcn.training import TrainConfig, Trainer

CONFIG = {
    "steps": 12,
    "lr": 0.05,
    "weight_decay": 1e-3,
    "clip_norm": 1.0,
    "batch_size": 2,
    "accumulate": 2,
    "evaluate_every": 5,
    "checkpoint_every": 3,
}
"""Not every evaluation meets a checkpoint, nor the last step an evaluation; 4 samples a step straddle epochs of 6."""


class Patches:
    """Windows of 32×32 pixels in the middle of shape scenes."""

    classes = CLASSES
    channels = 3

    def __init__(self, split="train", count=6):
        self.scenes = ShapeScenes(split, 72, count=count)

    def __len__(self):
        return len(self.scenes)

    def example(self, index, epoch=0):
        scene = self.scenes.example(index, epoch)
        return Example(scene.image[:, 20:52, 20:52], scene.label[20:52, 20:52], scene.name)


def tiny_net(width=4, dropout=0.2):
    rng = np.random.default_rng(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(width, len(CLASSES), 1, rng=rng),
    )


def tiny_trainer(folder, *, net=None, train_set=None, validation=None, meta=None, **settings):
    return Trainer(
        tiny_net() if net is None else net,
        Augmented(Patches(), seed=1, jitter=4) if train_set is None else train_set,
        TrainConfig(**{**CONFIG, **settings}),
        folder,
        validation=Patches("val", 2) if validation is None else validation,
        meta=meta,
    )


def outcome(trainer):
    """All that a training leaves, but for what depends on the clock: weights, velocities and the lines of its log."""
    arrays = {**trainer.net.state_dict(), **{f"v {k}": v for k, v in trainer.optimizer.state_dict().items()}}
    return {name: array.tobytes() for name, array in arrays.items()}, log_lines(trainer.folder)


def log_lines(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in r.items() if name != "images_per_second"} for r in records]
