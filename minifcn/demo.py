"""The paper's story on real digits, in five trainings that each start from the one before.

A classifier learns digits on 64×64 crops. Convolutionalized, it answers on every patch of a scene: a heat map
(FCN §3.1, figure 2). With a score layer and upsampling it becomes a segmenter, first with all but the score layer
fixed, then trained as a whole (FCN-32s), then with skips from finer maps (16s, 8s; FCN §4.2, table 2, figure 4).
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minifcn import nn, ops, pictures
from minifcn.data import palette
from minifcn.data.dataset import Dataset
from minifcn.data.digits import DigitScenes, digit_crops
from minifcn.data.pictures import to_picture
from minifcn.fcn import FCN, convolutionalize
from minifcn.nets import NetSpec, meta_of
from minifcn.nn.module import device_of
from minifcn.tensor import Tensor, no_grad
from minifcn.training import TrainConfig, Trainer, TrainResult, checkpoint, evaluate, log, metrics, predict

SCENE = 128  # pixels; every scene is a square
# Enough for images of at least 33 pixels, which these are: more would only add empty pixels to compute on.
PADDING = 1
VALIDATION_SCENES = 40
TEST_SCENES = 200
FIGURE_SCENES = 5


@dataclass(frozen=True)
class Stage:
    """One training of an FCN. ``frozen``: only the score layers are trained."""

    name: str
    stride: int
    config: TrainConfig
    frozen: bool = False


def classifier_config(seed: int) -> TrainConfig:
    """Return how the classifier is trained, on crops."""
    return _config(400, 0.1, batch_size=32, seed=seed)


def stages(seed: int) -> list[Stage]:
    """Return the four trainings of FCN table 2."""
    return [
        Stage("FCN-32s-fixed", 32, _config(100, 0.05, batch_size=8, seed=seed), frozen=True),
        Stage("FCN-32s", 32, _config(200, 0.1, batch_size=8, seed=seed)),
        Stage("FCN-16s", 16, _config(250, 0.1, batch_size=8, seed=seed)),
        Stage("FCN-8s", 8, _config(350, 0.1, batch_size=8, seed=seed)),
    ]


def _config(steps: int, lr: float, *, batch_size: int, seed: int) -> TrainConfig:
    """Return settings that were chosen on validation scenes, for two cores and three minutes."""
    return TrainConfig(
        steps=steps,
        lr=lr,
        weight_decay=5e-4,  # FCN §4.3
        clip_norm=1.0,
        cooldown=2 * steps // 5,
        batch_size=batch_size,
        seed=seed,
    )


def run(folder: Path, *, seed: int, resume: bool, say: Callable[[str], None], device: str = "cpu") -> None:
    """Train all stages, evaluate each on test scenes, and leave tables and pictures in ``folder``.

    With ``resume``, stages that are done are loaded and the one that was stopped goes on.

    Raises:
        Interrupted: Ctrl-C was pressed; what was done is saved.
    """
    source = {"kind": "digits", "seed": seed, "count": {"train": 256, "val": VALIDATION_SCENES, "test": TEST_SCENES}}
    crops, scenes = digit_crops("train", seed=seed), DigitScenes("train", SCENE, count=256, seed=seed)
    validation = DigitScenes("val", SCENE, count=VALIDATION_SCENES, seed=seed)
    test = DigitScenes("test", SCENE, count=TEST_SCENES, seed=seed)
    classes = len(scenes.classes)
    results: dict[str, TrainResult] = {}

    def train(name: str, net: nn.Module, data: Dataset, val: Dataset, config: TrainConfig, spec: NetSpec) -> None:
        say(f"\n{name}: {config.steps} steps")
        stage_folder = folder / name
        trainer = Trainer(net, data, config, stage_folder, validation=val, meta=meta_of(spec, data=source))
        if resume and checkpoint.checkpoints(stage_folder):
            for message in trainer.resume():
                say(message)
        results[name] = trainer.run(progress=True)

    spec = NetSpec(classifier="tiny_vgg", num_classes=classes, channels=scenes.channels)
    classifier = spec.build(seed).to(device)
    val_crops = digit_crops("val", count=200, seed=seed)
    train("classifier", classifier, crops, val_crops, classifier_config(seed), spec)
    scores = results["classifier"].scores
    assert scores is not None
    assert isinstance(classifier, nn.Sequential)
    say(f"classifier: {scores.pixel_accuracy:.1%} of validation crops right")
    dense = convolutionalize(classifier)
    _draw_heat_map(dense, folder / "heatmap.png", seed)
    say(f"convolutionalized: {folder / 'heatmap.png'}")

    nets: dict[str, FCN] = {}
    rows: list[tuple[str, metrics.Scores]] = []
    for stage in stages(seed):
        spec = NetSpec(
            classifier="tiny_vgg", num_classes=classes, channels=scenes.channels, stride=stage.stride, padding=PADDING
        )
        net = FCN(convolutionalize(classifier), classes, stride=stage.stride, padding=PADDING)
        if nets:
            net.start_from(list(nets.values())[-1])
        if stage.frozen:
            for parameter in net.backbone.parameters():
                parameter.requires_grad = False
        train(stage.name, net, scenes, validation, stage.config, spec)
        nets[stage.name] = net
        rows.append((stage.name, metrics.scores(evaluate(net, test, progress=True))))
        say(f"{stage.name}: mean IU {rows[-1][1].mean_iu:.3f} on {TEST_SCENES} test scenes")

    bounds = {stride: _upper_bound(test, stride) for stride in (32, 16, 8)}
    table = _table(rows, bounds, {stage.name: stage.stride for stage in stages(seed)})
    (folder / "table.md").write_text(table, encoding="utf-8")
    (folder / "scores.json").write_text(_as_json(rows, bounds, seed), encoding="utf-8")
    _draw_figure(nets, test, folder / "figure.png")
    pictures.curves(
        folder / "curves.png",
        {name: result.losses for name, result in results.items()},
        {name: _validation_iu(folder / name / "metrics.jsonl") for name in nets},
    )
    say(f"\n{table}\nPictures, curves and weights are in {folder}: figure.png, heatmap.png, curves.png, table.md")


def _upper_bound(dataset: Dataset, factor: int) -> float:
    """Return the mean IU of the ground truth itself, subsampled by ``factor`` and upsampled."""
    classes = len(dataset.classes)
    labels = [dataset.example(i).label for i in range(len(dataset))]
    return metrics.mean_iu(metrics.upper_bound(np.stack(labels), factor, classes))


def _table(rows: list[tuple[str, metrics.Scores]], bounds: dict[int, float], strides: dict[str, int]) -> str:
    """Return the scores in the form of FCN table 2, with the mean IU that each stride could reach at most."""
    lines = [
        "| | pixel acc. | mean acc. | mean IU | f.w. IU | upper bound of mean IU |",
        "|---|---|---|---|---|---|",
    ]
    for name, s in rows:
        values = (s.pixel_accuracy, s.mean_accuracy, s.mean_iu, s.frequency_weighted_iu, bounds[strides[name]])
        lines.append(f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in values) + " |")
    return "\n".join(lines) + "\n"


def _as_json(rows: list[tuple[str, metrics.Scores]], bounds: dict[int, float], seed: int) -> str:
    scores = {name: asdict(s) for name, s in rows}
    return json.dumps({"seed": seed, "scores": scores, "upper_bound_of_mean_iu": bounds}, indent=2) + "\n"


def _validation_iu(path: Path) -> dict[int, float]:
    return {record["step"]: record["mean_iu"] for record in log.read(path) if "mean_iu" in record}


def _draw_heat_map(dense: nn.Sequential, path: Path, seed: int) -> None:
    """Draw a large scene beside the probability, patch by patch, that a digit is in it (FCN figure 2)."""
    scene = DigitScenes("val", (256, 384), count=1, seed=seed).example(0)
    dense.eval()
    with no_grad():
        scores = dense(Tensor(scene.image[None]).to(device_of(dense))).to("cpu")
        probability = ops.softmax(scores, dim=1).numpy()[0]  # (K, i, j)
    is_digit = 1 - probability[0]
    size = scene.image.shape[1], scene.image.shape[2]
    columns = [to_picture(scene.image), pictures.heat(is_digit, size)]
    pictures.grid([columns], ["scene", "a digit here? (one answer per patch)"]).save(path)


def _draw_figure(nets: dict[str, FCN], test: Dataset, path: Path) -> None:
    """Draw test scenes, what each net makes of them, and the truth: FCN figure 4."""
    shown = ["FCN-32s", "FCN-16s", "FCN-8s"]
    rows = []
    for index in range(FIGURE_SCENES):
        example = test.example(index)
        predictions = [palette.PALETTE[predict(nets[name], example.image)] for name in shown]
        rows.append([to_picture(example.image), *predictions, palette.PALETTE[example.label]])
    pictures.grid(rows, ["image", *shown, "ground truth"]).save(path)
