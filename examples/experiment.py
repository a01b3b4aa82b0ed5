"""What the experiments share: a classifier to start from, short trainings, tables beside the paper's, curves.

Every experiment is a script, ``python examples/NUMBER_NAME.py``, that prints its table and leaves table and picture in
``runs/NAME``. With ``--full`` it has the settings behind docs/results.md and takes minutes; without, less than one on
two cores. Most start from one classifier of digits, which the first of them trains (half of its minute) and keeps in
``runs/classifier``.
Seeds are 0 throughout: the same machine gives the same numbers.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from minifcn import fcn, models, nn, pictures
from minifcn.data import PALETTE, to_picture
from minifcn.data.digits import CLASSES, DigitScenes, digit_crops
from minifcn.training import TrainConfig, Trainer, checkpoint, evaluate, log, metrics, predict

RUNS = Path("runs")
SCENE = 128  # pixels
# Enough for scenes of 128 pixels, see `fcn.FCN`; the default is for images of any size, and adds empty pixels.
PADDING = 1


@dataclass(frozen=True)
class Effort:
    """How much to compute: steps of the classifier, steps of one training of an FCN, scenes to score, pixels a side."""

    classifier_steps: int
    steps: int
    test_scenes: int
    side: int = 500  # of the one image in measurements of time; 500 is the paper's


QUICK = Effort(classifier_steps=400, steps=200, test_scenes=30)
FULL = Effort(classifier_steps=400, steps=600, test_scenes=100)


def chosen_effort() -> Effort:
    """Return how much the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="the settings behind docs/results.md; takes minutes")
    return FULL if parser.parse_args().full else QUICK


def classifier(effort: Effort) -> nn.Sequential:
    """Return TinyVGG trained on digits, as the demo trains it, from ``runs/classifier`` if it is there."""
    net = models.tiny_vgg(len(CLASSES))
    steps = effort.classifier_steps
    config = TrainConfig(steps=steps, lr=0.1, weight_decay=5e-4, clip_norm=1.0, cooldown=2 * steps // 5, batch_size=32)
    trainer = Trainer(net, digit_crops("train"), config, RUNS / "classifier")
    if checkpoint.checkpoints(RUNS / "classifier"):
        trainer.resume()
    else:
        print("training the classifier that all experiments start from")
    trainer.run(progress=True)
    return net


def scenes(split: str, count: int = 256) -> DigitScenes:
    """Return scenes of digits; those of "train" are drawn anew each epoch."""
    return DigitScenes(split, SCENE, count=count)


def segmenter(start: nn.Sequential, kind: type[fcn.FCN] = fcn.FCN, *, stride: int = 8) -> fcn.FCN:
    """Return an FCN that begins as ``start``'s heat map, upsampled.

    The classifier's own last layer becomes the coarsest score layer. The paper throws it away and begins with zeros;
    this saves the short trainings here a few hundred steps.
    """
    net = kind(fcn.convolutionalize(start), len(CLASSES), stride=stride, padding=PADDING)
    last, score = start["score"], net.score["stride32"]
    score.weight.data[...] = last.weight.data[:, :, None, None]
    score.bias.data[...] = last.bias.data
    return net


def settings(steps: int, **changes: object) -> TrainConfig:
    """Return how an FCN is trained here: chosen on validation scenes for half a minute on one core."""
    usual = {"lr": 0.05, "weight_decay": 5e-4, "clip_norm": 1.0, "cooldown": 2 * steps // 5, "batch_size": 2}
    return TrainConfig(steps=steps, **{**usual, **changes})


def train(name: str, net: nn.Module, dataset: object, config: TrainConfig, **options: object) -> list[dict]:
    """Train ``net`` in place and return the records of `minifcn.training.log`; no checkpoints are kept.

    ``options`` are those of `Trainer`: a validation set, a loss.
    """
    print(f"training {name}")
    with TemporaryDirectory() as folder:
        Trainer(net, dataset, config, folder, **options).run(progress=True)
        return log.read(Path(folder) / "metrics.jsonl")


def measure(net: nn.Module, dataset: object) -> metrics.Scores:
    """Return the paper's four metrics."""
    return metrics.scores(evaluate(net, dataset, progress=True))


def percent(value: float) -> str:
    """Return a share as the paper prints it."""
    return f"{100 * value:.1f}"


def in_percent(scores: metrics.Scores) -> list[str]:
    """Return the four metrics in the paper's order."""
    values = (scores.pixel_accuracy, scores.mean_accuracy, scores.mean_iu, scores.frequency_weighted_iu)
    return [percent(value) for value in values]


def report(name: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """Print a table, write it to ``runs/name/table.md``, and return that folder."""
    lines = [header, ["---"] * len(header), *rows]
    table = "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
    folder = RUNS / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(table, encoding="utf-8")
    print(f"\n{table}\nin {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return folder


def folder_of(name: str) -> Path:
    """Return ``runs/name``, made if absent."""
    (RUNS / name).mkdir(parents=True, exist_ok=True)
    return RUNS / name


def draw_predictions(name: str, nets: Mapping[str, nn.Module], test: DigitScenes) -> None:
    """Draw the first scenes, what each net makes of them under its title, and the truth, in the form of figure 4."""
    rows = []
    for index in range(min(3, len(test))):
        example = test.example(index)
        guesses = [PALETTE[predict(net, example.image)] for net in nets.values()]
        rows.append([to_picture(example.image), *guesses, PALETTE[example.label]])
    pictures.grid(rows, ["image", *nets, "ground truth"]).save(folder_of(name) / "predictions.png")


Curve = tuple[Sequence[float], Sequence[float]]


def plot(path: Path, panels: Mapping[str, Mapping[str, Curve]], ylabel: str) -> None:
    """Draw a panel for each x label, with a curve (x, y) for each name."""
    import matplotlib as mpl

    mpl.use("agg")  # into a file; needs no screen
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4), layout="constrained", squeeze=False)
    for panel, (xlabel, curves) in zip(axes[0], panels.items(), strict=True):
        for name, (x, y) in curves.items():
            panel.plot(x, y, "o-" if len(x) < 50 else "-", markersize=3, label=name)
        panel.set(xlabel=xlabel, ylabel=ylabel)
        panel.legend()
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Return the running mean over ``window`` values, or over all if they are fewer."""
    window = min(window, len(values))
    return np.convolve(values, np.full(window, 1 / window), "valid")
