"""The settings of a training, which are written into its checkpoints."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    A step's loss is one number over all labelled pixels of its batch_size · accumulate images, pixel for pixel a
    minibatch of receptive fields (FCN §3): the mean of the pixels' cross-entropies, weighted by their classes', or
    the sum. ``accumulate`` only decides how many images are in memory together. Up to rounding (and dropout masks)
    4 images twice give the gradient of 8 at once, however the labelled pixels are spread over them.

    Attributes:
        steps: how many steps to take, evaluations and checkpoints not counted.
        lr, momentum, weight_decay, clip_norm: see `SGD`.
        cooldown: over how many of the last steps the learning rate falls evenly towards 0. The paper's trainings are
            long enough to keep it fixed (FCN §4.3); one of minutes ends in the middle of its swings without.
        batch_size: images in a micro-batch, which must have one size; 1 where images differ.
        accumulate: micro-batches in a step.
        reduction: "mean" or "sum". A sum over 250,000 pixels wants a learning rate smaller by as much.
        class_weight: what a pixel of each class counts; 1 if None.
        keep: with what probability a pixel counts in a step at all, one number or one per class; all do if None. A step
            then has fewer pixels; more images make up for it (FCN §3.4, see `fcn.sample_labels`).
        seed: names the order of the samples and the dropout masks.
        evaluate_every: steps between evaluations on the validation set; the last step is followed by one, too.
        checkpoint_every: steps between checkpoints; the last step is followed by one, too.

    Raises:
        ValueError: a count is out of range; `SGD` checks its own numbers.
    """

    steps: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float | None = None
    cooldown: int = 0
    batch_size: int = 1
    accumulate: int = 1
    reduction: Literal["mean", "sum"] = "mean"
    class_weight: tuple[float, ...] | None = None
    keep: float | tuple[float, ...] | None = None
    seed: int = 0
    evaluate_every: int = 100
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.cooldown <= self.steps:
            raise ValueError(f"TrainConfig: cooldown must lie in 0 … steps = {self.steps}, got {self.cooldown}")
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f'TrainConfig: reduction must be "mean" or "sum", got {self.reduction!r}')

    def lr_at(self, step: int) -> float:
        """Return the learning rate of step ``step``, counted from 0."""
        left = self.steps - step
        return self.lr * left / self.cooldown if left < self.cooldown else self.lr
