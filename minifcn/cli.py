"""The door: ``minifcn demo | train | evaluate | predict | doctor | inspect | explain``."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minifcn import demo, nets, nn
from minifcn.data import augment, palette
from minifcn.data.dataset import DataError, Dataset, Split
from minifcn.data.pictures import load_image, to_picture
from minifcn.fcn import FCN, geometry, inspect, summarize
from minifcn.training import Interrupted, TrainConfig, Trainer, diagnose, evaluate, metrics, predict
from minifcn_kernels.cuda.device import DeviceError

DEFAULT_RUN = Path("runs/demo/FCN-8s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the process's exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    # Threads that spin while they wait slow everything down, themselves too, as soon as a core has other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except Interrupted as stop:
        print(f"\n{stop}\nto go on: {_again(arguments, options.out)}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        resumable = hasattr(options, "resume")
        print(f"\nstopped\nto go on: {_again(arguments, options.out)}" if resumable else "\nstopped", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, OSError, ImportError, MemoryError, DeviceError) as error:
        print(f"minifcn {options.name}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minifcn",
        description="Fully convolutional networks (Long, Shelhamer, Darrell) from the inside: train them, look inside.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(
        commands,
        "demo",
        _demo,
        "the paper's story on real digits, in minutes",
        "Trains a classifier on digits, makes it fully convolutional, and refines it from FCN-32s over 16s to 8s. "
        "Leaves the paper's table 2 and figure 4, made from test scenes, with all weights. Needs the extra `demo`.",
    )
    _add_device_option(command)
    command.add_argument(
        "--out", type=Path, help="folder for all results (default: runs/demo, or runs/demo-2, … if taken)"
    )
    command.add_argument("--seed", type=int, default=0, help="names all random numbers (default: 0)")
    command.add_argument("--resume", action="store_true", help="go on with the run in --out, where it was stopped")

    command = _command(
        commands,
        "train",
        _train,
        "train an FCN on digits, shapes, or a folder of your own images",
        "A folder holds images/ and masks/ of the same names (PNG or JPEG, masks as palette or grey PNG whose pixel "
        "values are classes, 255 for void), or is a PASCAL VOC one. classes.txt may name the classes, one a line.",
    )
    _add_device_option(command)
    command.add_argument("source", nargs="?", choices=["digits", "shapes"], help="scenes that are drawn while training")
    _add_data_options(command)
    command.add_argument(
        "--stride", type=int, default=8, choices=[32, 16, 8, 4, 2], help="finest map to score (default: 8)"
    )
    command.add_argument("--steps", type=_positive, default=1000, help="updates of the weights (default: 1000)")
    command.add_argument(
        "--batch-size", type=_positive, help="images computed together, of one size (default: 8; folders: 1)"
    )
    command.add_argument("--accumulate", type=_positive, help="batches summed into a step (default: 1; folders: 8)")
    command.add_argument("--lr", type=float, default=0.05, help="learning rate, for the mean loss (default: 0.05)")
    command.add_argument("--momentum", type=float, default=0.9, help="share of the last step kept (default: 0.9)")
    command.add_argument(
        "--weight-decay", type=float, default=5e-4, help="pull of weights to 0 (default: 5e-4, FCN §4.3)"
    )
    command.add_argument(
        "--clip-norm", type=float, default=1.0, help="scale longer gradients down to this norm (default: 1; inf: never)"
    )
    command.add_argument(
        "--augment", action="store_true", help="shift training images, and mirror all but digits (FCN §4.3)"
    )
    command.add_argument("--start-from", type=Path, metavar="RUN", help="begin with the weights of a coarser run")
    command.add_argument("--seed", type=int, default=0, help="names all random numbers (default: 0)")
    command.add_argument("--out", type=Path, help="folder for the run (default: runs/SOURCE-fcnSTRIDEs)")
    command.add_argument("--resume", action="store_true", help="go on with the run in --out, where it was stopped")

    command = _command(
        commands,
        "evaluate",
        _evaluate,
        "the paper's four metrics of a trained net",
        "Scores a run on a split of the data it was trained on, or on another folder (FCN §5). "
        "IU is intersection over union, of a class over the whole data set.",
    )
    _add_device_option(command)
    command.add_argument("run", type=Path, help="a run's folder, or a checkpoint file")
    command.add_argument(
        "--split", default="test", choices=["train", "val", "test"], help="which images (default: test)"
    )
    _add_data_options(command)

    command = _command(
        commands,
        "predict",
        _predict,
        "label every pixel of your images",
        "Writes for each image NAME-overlay.png, to look at, and NAME-label.png, whose pixel values are the classes.",
    )
    _add_device_option(command)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG or JPEG files")
    command.add_argument("--run", type=Path, default=DEFAULT_RUN, help=f"the trained net (default: {DEFAULT_RUN})")
    command.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="instead of a run: safetensors or NPZ of the PyTorch port of the released FCNs, for the net --net",
    )
    command.add_argument("--net", default="fcn8s-vgg16", help="the net of --weights (default: fcn8s-vgg16)")
    command.add_argument("--classes", type=_positive, default=21, help="its scores per pixel (default: 21, VOC's)")
    command.add_argument("--out", type=Path, default=Path("."), help="folder for the results (default: here)")
    command.add_argument("--max-side", type=_positive, help="reduce larger images to this many pixels first")

    command = _command(
        commands,
        "doctor",
        _doctor,
        "why a run does not learn: only background, a loss that does not move",
        "Looks at a run's net, the images it is trained on and its settings, and says what is not as it should be.",
    )
    command.add_argument("run", type=Path, help="a run's folder, or a checkpoint file")
    _add_data_options(command)

    command = _command(
        commands,
        "inspect",
        _inspect,
        "a net, layer by layer: sizes, strides, receptive fields, parameters, FLOPs",
        "offset is where the centre of a layer's first output lies in the image; a receptive field is the part of the "
        "image that one output depends on; a multiply-add counts as two FLOPs.",
    )
    _add_net_options(command)

    command = _command(
        commands,
        "explain",
        _explain,
        "where an FCN's crops come from, step by step",
        "Follows the image's pixels through every layer as exact fractions, to the offset of each crop (FCN §4.2).",
    )
    _add_net_options(command)
    return parser


def _add_net_options(command: argparse.ArgumentParser) -> None:
    named = f"{', '.join(nets.CLASSIFIERS)}, fcn32s, fcn16s, fcn8s, an FCN over one of them such as fcn8s-vgg16"
    command.add_argument("net", help=f"{named}, or a run's folder")
    command.add_argument(
        "--size", type=_positive, nargs="+", help="height and width, or both in one (default: the net's own)"
    )
    command.add_argument(
        "--classes", type=_positive, help="scores per pixel (default: 21, as PASCAL VOC; a run has its own)"
    )


def _command(commands: Any, name: str, function: Any, summary: str, description: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description)
    command.set_defaults(command=function, name=name)
    return command


def _positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _add_data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, metavar="FOLDER", help="a folder of your own images and masks")
    command.add_argument(
        "--max-side", type=_positive, help="reduce larger images (and masks, nearest) to this many pixels"
    )


def _add_device_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where to compute: cuda is a GPU (default: cpu)"
    )


def _demo(options: argparse.Namespace) -> None:
    if options.resume and options.out is None:
        options.out = _last_demo()
    folder = options.out = options.out or _free_folder(Path("runs/demo"))
    if options.resume and not folder.exists():
        raise ValueError(f"--resume: there is no run in {folder}; leave --resume away to begin one")
    demo.run(folder, seed=options.seed, resume=options.resume, say=print, device=options.device)


def _free_folder(path: Path) -> Path:
    """Return ``path``, or path-2, path-3, … if there is something already."""
    number = 1
    folder = path
    while folder.exists():
        number += 1
        folder = path.with_name(f"{path.name}-{number}")
    return folder


def _last_demo() -> Path:
    """Return the folder of the newest demo: the last number that is taken."""
    folder, following = Path("runs/demo"), _free_folder(Path("runs/demo"))
    number = following.name.removeprefix("demo-")
    return folder if not number.isdigit() or number == "2" else folder.with_name(f"demo-{int(number) - 1}")


def _open(source: dict[str, Any], split: Split, classes: tuple[str, ...] | None = None) -> Dataset:
    """Open a split of the data set that ``source``, out of a checkpoint or from the command line, describes.

    ``classes`` are the names for a folder that has none of its own.
    """
    from minifcn.data import digits, folder, shapes

    if source["kind"] == "digits":
        return digits.DigitScenes(split, count=source["count"][split], seed=source["seed"])
    if source["kind"] == "shapes":
        return shapes.ShapeScenes(split, count=source["count"][split], seed=source["seed"])
    named = (Path(source["folder"]) / "classes.txt").exists()
    return folder.open_folder(source["folder"], split, max_side=source["max_side"], classes=None if named else classes)


def _source(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Describe the data set that the command line names."""
    kind = getattr(options, "source", None)
    if options.data is None and options.max_side is not None:
        raise DataError("--max-side is for the images of --data FOLDER: name the folder, too; scenes have one size")
    if (kind is None) == (options.data is None):
        raise DataError("name what to train on: digits, shapes, or --data FOLDER (one of them)")
    if options.data is not None:
        return {"kind": "folder", "folder": str(options.data.resolve()), "max_side": options.max_side}
    return {"kind": kind, "seed": seed, "count": {"train": 256, "val": 40, "test": 200}}


def _train(options: argparse.Namespace) -> None:
    source = _source(options, options.seed)
    drawn = source["kind"] != "folder"
    train_set, validation = _open(source, "train"), _open(source, "val")
    if options.augment:
        # A mirrored digit is no digit.
        train_set = augment.Augmented(train_set, options.seed, mirror=source["kind"] != "digits")
    spec = nets.NetSpec(
        classifier="tiny_vgg", num_classes=len(train_set.classes), channels=train_set.channels, stride=options.stride
    )
    net = spec.build(options.seed)
    assert isinstance(net, FCN)
    if options.start_from is not None:
        _, coarser = _loaded_fcn(options.start_from)
        net.start_from(coarser)
    config = TrainConfig(
        steps=options.steps,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
        # Images of a folder may differ in size, so they are computed one by one.
        batch_size=options.batch_size or (8 if drawn else 1),
        accumulate=options.accumulate or (1 if drawn else 8),
        seed=options.seed,
    )
    name = source["kind"] if drawn else options.data.resolve().name
    options.out = options.out or Path("runs") / f"{name}-fcn{options.stride}s"
    net.to(options.device)
    trainer = Trainer(net, train_set, config, options.out, validation=validation, meta=nets.meta_of(spec, data=source))
    if options.resume:
        for message in trainer.resume():
            print(message, file=sys.stderr)
    result = trainer.run(progress=True)
    print(f"done: {result.step} steps, weights and metrics.jsonl in {options.out}")
    if result.scores is not None:
        _print_scores("validation", result.scores)
    print(f"to label images: minifcn predict IMAGE --run {options.out}")


def _evaluate(options: argparse.Namespace) -> None:
    trained, net = _loaded_fcn(options.run)
    dataset = _data_of(trained, options, options.split)
    confusion = evaluate(net.to(options.device), dataset, progress=True)
    _print_scores(f"{options.split} ({len(dataset)} images)", metrics.scores(confusion))
    for name, iu in zip(trained.classes, metrics.per_class_iu(confusion), strict=True):
        print(f"  IU {name:<16}{100 * iu:6.1f}")


def _data_of(trained: nets.TrainedNet, options: argparse.Namespace, split: Split) -> Dataset:
    """Open a split of what a run was trained on, or of the folder that the command line names."""
    source = trained.meta.get("data")
    if options.data is not None or options.max_side is not None:
        source = _source(options, 0)
    if not isinstance(source, dict):
        raise DataError(f"{options.run} does not say what it was trained on; name a folder by --data")
    dataset = _open(source, split, trained.classes)
    if dataset.classes != trained.classes:
        raise DataError(
            f"the classes of the data ({', '.join(dataset.classes)}) are not those of {options.run} "
            f"({', '.join(trained.classes)}); evaluate on a data set of the same"
        )
    return dataset


def _doctor(options: argparse.Namespace) -> None:
    trained, net = _loaded_fcn(options.run)
    config = TrainConfig(**trained.meta["config"])
    findings = diagnose(net, _data_of(trained, options, "train"), config=config)
    for finding in findings:
        print(f"- {finding.seen}\n  {finding.remedy}")
    if not findings:
        print(f"{options.run}: nothing is wrong that can be seen from here")


def _print_scores(what: str, scores: metrics.Scores) -> None:
    print(
        f"{what}: pixel acc. {100 * scores.pixel_accuracy:.1f}, mean acc. {100 * scores.mean_accuracy:.1f}, "
        f"mean IU {100 * scores.mean_iu:.1f}, f.w. IU {100 * scores.frequency_weighted_iu:.1f}"
    )


def _predict(options: argparse.Namespace) -> None:
    if options.weights is not None:
        trained = nets.pretrained(options.net, options.weights, options.classes)
        print(f"{options.net}, {trained.pixels}")
    else:
        trained, _ = _loaded_fcn(options.run)
    stems = [path.stem for path in options.images]
    if twins := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(
            f"several images are named {', '.join(twins)}, and so would be their results; label them apart"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    trained.net.to(options.device)
    for path in options.images:
        image = load_image(path, options.max_side)
        seen_by_net = image if trained.pixels is None else trained.pixels.image(to_picture(image))
        label = predict(trained.net, seen_by_net).astype(np.uint8)
        overlay_path, label_path = (options.out / f"{path.stem}-{kind}.png" for kind in ("overlay", "label"))
        Image.fromarray(palette.overlay(image, label)).save(overlay_path)
        palette.save_label(label_path, label)
        shares = np.bincount(label.ravel(), minlength=len(trained.classes)) / label.size
        seen = [f"{trained.classes[c]} {shares[c]:.0%}" for c in np.argsort(-shares) if shares[c] > 0]
        print(f"{path}: {', '.join(seen)} → {overlay_path}, {label_path}")


def _loaded(run: Path) -> nets.TrainedNet:
    trained = nets.load(run)
    for message in trained.messages:
        print(message, file=sys.stderr)
    return trained


def _loaded_fcn(run: Path) -> tuple[nets.TrainedNet, FCN]:
    trained = _loaded(run)
    if not isinstance(trained.net, FCN):
        raise ValueError(f"{run} holds a classifier, which labels no pixels; name the run of an FCN")
    return trained, trained.net


def _inspect(options: argparse.Namespace) -> None:
    net, spec, size = _net_to_look_at(options)
    rows = inspect(net, size, spec.channels)
    header = ("layer", "kind", "output", "stride", "offset", "receptive field", "parameters", "MFLOPs")
    table: list[tuple[str, ...]] = [header]
    for row in rows:
        spatial = [_both(values) for values in (row.stride, row.offset, row.receptive_field)]
        shape = "×".join(map(str, row.output))
        table.append((row.name, row.kind, shape, *spatial, f"{row.parameters:,}", f"{row.flops / 1e6:,.1f}"))
    total = ("total", "", "", "", "", "", f"{sum(r.parameters for r in rows):,}")
    table.append((*total, f"{sum(r.flops for r in rows) / 1e6:,.1f}"))
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    for line in table:
        texts = [t.ljust(w) if i < 2 else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))]
        print("  ".join(texts).rstrip())

    summary = summarize(net)
    print(
        f"\nconvolution layers {summary.conv_layers}, parameters {summary.parameters / 1e6:.1f} M, "
        f"receptive field {_both(summary.receptive_field)}, maximum stride {_both(summary.max_stride)}"
    )


def _explain(options: argparse.Namespace) -> None:
    net, _, size = _net_to_look_at(options)
    if not isinstance(net, FCN):
        raise ValueError(f"{options.net} is a classifier, which crops nothing; name an FCN such as fcn8s-vgg16")
    print(geometry.explain(net, size))


def _net_to_look_at(options: argparse.Namespace) -> tuple[nets.Net, nets.NetSpec, tuple[int, int]]:
    """Return the net that the command line names, its description, and the size of image to show it with."""
    if len(options.size or []) > 2:
        raise ValueError(f"--size: give the height and the width, got {' '.join(map(str, options.size))}")
    if not nets.is_name(options.net) and Path(options.net).exists():
        if options.classes is not None:
            raise ValueError(f"--classes is for nets by name; the run {options.net} has its own")
        trained = _loaded(Path(options.net))
        net, spec = trained.net, trained.spec
    else:
        spec = nets.spec_of(options.net, options.classes or 21)
        with nn.init.blank():  # only shapes are looked at
            net = spec.build()
    own_side = 500 if isinstance(net, FCN) else nets.IMAGE_SIDE[spec.classifier]
    height, width = ((options.size or [own_side]) * 2)[:2]
    return net, spec, (height, width)


def _both(values: tuple[Any, Any]) -> str:
    """Return one number where height and width have the same, else both."""
    numbers = [f"{float(value):g}" for value in values]
    return numbers[0] if numbers[0] == numbers[1] else "×".join(numbers)


def _again(arguments: Sequence[str], out: Path) -> str:
    """Return the command that goes on with an interrupted one."""
    words = [word for word in arguments if word != "--resume"]
    if not any(word.startswith("--out") for word in words):
        words += ["--out", str(out)]
    return shlex.join(["minifcn", *words, "--resume"])


if __name__ == "__main__":
    sys.exit(main())
