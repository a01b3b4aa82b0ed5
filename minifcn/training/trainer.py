"""The training loop: steps, evaluations and checkpoints, in one order, that a stop at any moment cannot change.

After every step the loop stands at a boundary. What is due there (an evaluation, then a checkpoint) depends on the
number of steps done alone, and what the next step computes depends on that number, the seed, the weights and the
velocities alone: its samples, their augmentation and the dropout masks are functions of it. So a checkpoint holds
the whole state, and a training that was stopped and resumed ends with the bits of one that was not::

    trainer = Trainer(net, train_set, TrainConfig(steps=300, lr=0.05), "runs/digits", validation=val_set)
    result = trainer.run(progress=True)
"""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minifcn import nn, ops
from minifcn.data.dataset import Dataset
from minifcn.nn.module import device_of
from minifcn.tensor import Tensor
from minifcn.training import checkpoint, log, metrics
from minifcn.training.batches import microbatches, sampled, total_weight
from minifcn.training.checkpoint import Checkpoint, CheckpointError
from minifcn.training.config import TrainConfig
from minifcn.training.evaluation import check_class_count, evaluate
from minifcn.training.sgd import SGD
from minifcn_kernels.cuda.device import to_device
from minifcn_kernels.jit import Array

_METRICS = "metrics.jsonl"
MODEL, _OPTIMIZER = "model/", "optimizer/"  # what the names of a checkpoint's arrays begin with


@dataclass(frozen=True)
class TrainResult:
    """What a finished training leaves, beside the trained net: ``losses[i]`` of step i + 1, the last evaluation."""

    step: int
    losses: list[float]
    scores: metrics.Scores | None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped a training; the message names the checkpoint that holds all that was done."""


class Trainer:
    """Trains ``net`` on ``train_set``; everything it leaves is in ``folder``: checkpoints and `log`'s metrics.jsonl.

    A training is begun by `run`, or continued by `resume` and then `run`.

    Args:
        net: scores classes by logits (N, K, H, W), or a classifier by (N, K). It is trained in place, on the device
            that it is on.
        train_set: what to train on: scenes with a label for every pixel, or crops with one class each.
        config: how.
        folder: the run's folder, made if absent.
        validation: what to evaluate on, or None.
        loss: ``loss(output, labels, class_weight)`` of what ``net`` returns for a micro-batch, summed over its labels;
            their cross-entropy unless told. For a net with several heads, say, the sum of what each costs. (With the
            mean loss the trainer divides by what the labels of the step weigh.)
        meta: what it takes to build the net again and what else identifies the training, as plain JSON. It goes into
            each checkpoint beside "step", "config" and "classes", and must be the same when the training is resumed.

    Attributes:
        step: how many steps are done.

    Raises:
        ValueError: a data set is empty, the two differ in their classes, or ``config`` does not fit them.
    """

    def __init__(
        self,
        net: nn.Module,
        train_set: Dataset,
        config: TrainConfig,
        folder: Path | str,
        *,
        validation: Dataset | None = None,
        loss: Callable[[Any, Array, Array | None], Tensor] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        _check_data(train_set, validation, config)
        self.net = net
        self.train_set = train_set
        self.config = config
        self.folder = Path(folder)
        self.validation = validation
        self.loss = loss or self._cross_entropy
        # Through JSON and back, so that tuples are the lists that a checkpoint gives back.
        settings = {**(meta or {}), "config": asdict(config), "classes": train_set.classes}
        self.meta: dict[str, Any] = json.loads(json.dumps(settings))
        self.optimizer = SGD(net, config.lr, config.momentum, config.weight_decay, config.clip_norm)
        self.step = 0
        self.device = device_of(net)
        self._class_weight = None if config.class_weight is None else np.array(config.class_weight, np.float32)
        self._metrics = self.folder / _METRICS
        self._records: list[log.Record] = []  # what metrics.jsonl holds
        self._begun = False
        self._saved_step: int | None = None

    def resume(self) -> list[str]:
        """Go back to the newest sound checkpoint in the folder.

        Returns:
            Messages for the user: which damaged checkpoints were passed over, what metrics.jsonl lacks.

        Raises:
            CheckpointError: there is no sound checkpoint, or it is of another net or of a training with other
                settings. (``steps`` may be raised, unless there is a cooldown: that changes no step done.) Then
                nothing is changed.
        """
        newest, messages = checkpoint.latest(self.folder)
        self._check_same_training(newest)
        self._load(newest)
        self.step = self._saved_step = newest.meta["step"]
        self._records = log.rewind(self._metrics, self.step)
        self._begun = True
        logged = len(self._losses())
        if logged < self.step:
            messages.append(f"{self._metrics} lacks {self.step - logged} of the {self.step} steps done so far")
        return messages

    def run(self, *, progress: bool = False) -> TrainResult:
        """Train until ``config.steps`` are done. ``progress`` shows a bar on stderr.

        Raises:
            CheckpointError: the folder holds a training that was not resumed.
            FloatingPointError: a loss or a gradient is NaN or infinite; no checkpoint holds weights made from it.
            Interrupted: Ctrl-C was pressed; the steps done are saved.
            ValueError: images of a batch differ in size, or net and data set in their classes.
        """
        if not self._begun:
            self._begin()
        self.net.train()
        with tqdm(total=self.config.steps, initial=self.step, unit="step", disable=not progress) as bar:
            try:
                self._at_boundary(progress)
                while self.step < self.config.steps:
                    record = self._step()
                    bar.set_postfix_str(
                        f"loss {record['loss']:.4f}, {record['images_per_second']:.1f} images/s", refresh=False
                    )
                    bar.update()
                    self._at_boundary(progress)
            except KeyboardInterrupt:
                self._save()
                raise Interrupted(
                    f"stopped after step {self.step} of {self.config.steps}, saved in {self.folder}: resume to go on"
                ) from None
        return TrainResult(self.step, self._losses(), self._last_scores())

    def _begin(self) -> None:
        if found := checkpoint.checkpoints(self.folder):
            raise CheckpointError(f"{found[0]} is of an earlier training: resume it, or choose another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        log.rewind(self._metrics, 0)  # a training that was killed before its first checkpoint may have left one
        self._begun = True

    def _at_boundary(self, progress: bool) -> None:
        """Do what is due after the steps done so far, unless it was done before the training was stopped here."""
        if self.validation is not None and self._due(self.config.evaluate_every) and not self._is_evaluated():
            confusion = evaluate(self.net, self.validation, progress=progress)
            with _uninterrupted():
                self._log({"step": self.step, **asdict(metrics.scores(confusion))})
        if self._due(self.config.checkpoint_every):
            self._save()

    def _due(self, every: int) -> bool:
        return self.step == self.config.steps or (self.step > 0 and self.step % every == 0)

    def _step(self) -> log.Record:
        """Take one step and record it. Ctrl-C or a NaN before its last moment leaves the weights as they were."""
        started = time.perf_counter()
        try:
            loss = self._gradient()
            with _uninterrupted():
                self.optimizer.lr = self.config.lr_at(self.step)
                norm = self.optimizer.step()
                self.step += 1
                speed = self.config.batch_size * self.config.accumulate / (time.perf_counter() - started)
                record = {"step": self.step, "loss": loss, "gradient_norm": norm, "images_per_second": speed}
                self._log(record)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"step {self.step + 1}: {error}; train with lr below {self.config.lr:g} or a clip_norm, or inside "
                f"minifcn.detect_anomaly() to find the op that made it. {self._last_checkpoint()}"
            ) from error
        return record

    def _last_checkpoint(self) -> str:
        if self._saved_step is None:
            return "There is no checkpoint yet"
        return f"The checkpoint of step {self._saved_step} is sound"

    def _gradient(self) -> float:
        """Add up the gradient of the next step's loss over its micro-batches, in their order; return the loss."""
        config = self.config
        batches = microbatches(self.train_set, config.seed, self.step, config.batch_size, config.accumulate)
        if config.keep is not None:
            batches = sampled(batches, config.keep, config.seed, self.step)
        # The mean's divisor is of all the step's pixels. (A step without any has loss 0, whatever divides it.)
        divisor = (total_weight(batches, self._class_weight) or 1.0) if config.reduction == "mean" else 1.0
        weight = None if self._class_weight is None else self._moved(self._class_weight)
        loss = 0.0
        self.optimizer.zero_grad()
        for microbatch, (images, labels) in enumerate(batches):
            with nn.random_state(config.seed, self.step, microbatch):
                output = self.net(Tensor(images).to(self.device))
            part = self.loss(output, self._moved(labels), weight) / divisor
            loss += part.item()
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss}")
            part.backward()
        return loss

    def _cross_entropy(self, logits: Tensor, labels: Array, class_weight: Array | None) -> Tensor:
        check_class_count(logits.shape[1], self.train_set)
        return ops.cross_entropy(logits, labels, weight=class_weight, reduction="sum")

    def _moved(self, array: Array) -> Array:
        return to_device(array, self.device)

    def _log(self, record: log.Record) -> None:
        self._records.append(record)
        log.append(self._metrics, record)

    def _is_evaluated(self) -> bool:
        return bool(self._records) and self._records[-1]["step"] == self.step and "mean_iu" in self._records[-1]

    def _losses(self) -> list[float]:
        return [record["loss"] for record in self._records if "loss" in record]

    def _last_scores(self) -> metrics.Scores | None:
        for record in reversed(self._records):
            if "mean_iu" in record:
                return metrics.Scores(**{field.name: record[field.name] for field in fields(metrics.Scores)})
        return None

    def _save(self) -> None:
        if self._saved_step == self.step:
            return
        arrays = {
            **{f"{MODEL}{name}": array for name, array in self.net.state_dict().items()},
            **{f"{_OPTIMIZER}{name}": array for name, array in self.optimizer.state_dict().items()},
        }
        with _uninterrupted():
            log.sync(self._metrics)
            # A checkpoint knows no devices: it can be loaded on any.
            saved = {name: to_device(array, "cpu") for name, array in arrays.items()}
            checkpoint.save(self.folder, self.step, saved, {**self.meta, "step": self.step})
            self._saved_step = self.step

    def _load(self, saved: Checkpoint) -> None:
        model, optimizer = (
            {name.removeprefix(kind): array for name, array in saved.arrays.items() if name.startswith(kind)}
            for kind in (MODEL, _OPTIMIZER)
        )
        try:
            self.optimizer.load_state_dict(optimizer)
            self.net.load_state_dict(model)
        except ValueError as error:
            raise CheckpointError(f"{saved.path}: {error}") from error

    def _check_same_training(self, saved: Checkpoint) -> None:
        """Raise a CheckpointError that names every setting in which this training differs from the saved one."""
        then, now = _settings(saved.meta), _settings(self.meta)
        differences = [
            f"{name} was {then.get(name)!r} and is {now.get(name)!r}"
            for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)
        ]
        if saved.meta.get("step", 0) > self.config.steps:
            differences.append(f"it has done {saved.meta['step']} steps and steps is {self.config.steps}")
        if differences:
            raise CheckpointError(
                f"{saved.path} is of another training: {'; '.join(differences)}; "
                f"resume with the settings it was begun with, or choose another folder"
            )


def _settings(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same for a training to be continued: all but how far it is and how far it is to go.

    With a cooldown, how far it is to go decides what is done before.
    """
    settings = {**meta, **meta.get("config", {})}
    free = {"config", "step"} if settings.get("cooldown") else {"config", "step", "steps"}
    return {name: value for name, value in settings.items() if name not in free}


def _check_data(train_set: Dataset, validation: Dataset | None, config: TrainConfig) -> None:
    for name, dataset in (("train_set", train_set), ("validation", validation)):
        if dataset is not None and len(dataset) == 0:
            raise ValueError(f"Trainer: {name} is empty; give it at least one example")
    if validation is not None and validation.classes != train_set.classes:
        raise ValueError(
            f"Trainer: the classes of validation, {validation.classes}, are not those of train_set, "
            f"{train_set.classes}: use splits of one data set"
        )
    for name in ("class_weight", "keep"):
        values = getattr(config, name)
        if isinstance(values, tuple) and len(values) != len(train_set.classes):
            raise ValueError(
                f"Trainer: {name} has {len(values)} numbers for {len(train_set.classes)} classes "
                f"({', '.join(train_set.classes)}); give one each"
            )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the end of this ``with``: what is inside happens as a whole, or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    held = False

    def hold(number: int, frame: object) -> None:
        nonlocal held
        held = True

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)
