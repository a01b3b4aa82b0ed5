"""Nets by description: what a checkpoint has to say of a net so that a run's folder is enough to use it.

And nets by name: ``vgg16`` is a classifier, ``fcn8s-vgg16`` the FCN-8s over it, ``fcn8s`` the one over tiny_vgg.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from minifcn import models, nn, weights
from minifcn.data.palette import VOC_CLASSES
from minifcn.fcn import FCN, convolutionalize
from minifcn.training import CheckpointError, checkpoint
from minifcn.training.trainer import MODEL

Net: TypeAlias = nn.Sequential | FCN

CLASSIFIERS: dict[str, Callable[..., nn.Sequential]] = {
    "lenet": models.lenet,
    "tiny_vgg": models.tiny_vgg,
    "alexnet": models.alexnet,
    "vgg16": models.vgg16,
    "googlenet": models.googlenet,
}
IMAGE_SIDE = {"lenet": 32, "tiny_vgg": 64, "alexnet": 227, "vgg16": 224, "googlenet": 224}
"""The height and width of the images that a classifier takes."""

_RELEASED_PADDING = {"alexnet": 100, "vgg16": 100}  # of the FCNs that the paper's authors released


@dataclass(frozen=True, kw_only=True)
class NetSpec:
    """What a net is built from.

    Attributes:
        classifier: a name of `CLASSIFIERS`: the net itself, or what its backbone was.
        num_classes: scores per image, or per pixel.
        channels: of the image.
        stride: of an FCN's finest score layer; None for the classifier.
        upsampling, padding, scales: see `FCN`; scales as pairs (stride, scale).
    """

    classifier: str
    num_classes: int
    channels: int
    stride: int | None = None
    upsampling: Literal["fixed", "learned"] = "fixed"
    padding: int | None = None
    scales: tuple[tuple[int, float], ...] = ()

    def build(self, seed: int = 0) -> Net:
        """Return the net with its first weights, which ``seed`` names."""
        if self.classifier not in CLASSIFIERS:
            raise ValueError(f"there is no net {self.classifier!r}; choose one of {', '.join(CLASSIFIERS)}")
        classifier = CLASSIFIERS[self.classifier](self.num_classes, self.channels, seed=seed)
        if self.stride is None:
            return classifier
        return FCN(
            convolutionalize(classifier),
            self.num_classes,
            stride=self.stride,
            upsampling=self.upsampling,
            padding=self.padding,
            scales=dict(self.scales),
        )


@dataclass(frozen=True)
class TrainedNet:
    """A net out of a checkpoint, with what was written beside it.

    ``messages`` tell the user which damaged checkpoints were passed over; ``meta`` is the checkpoint's. ``pixels`` say
    how the net takes its images where that is not the way of `minifcn.data`.
    """

    net: Net
    spec: NetSpec
    classes: tuple[str, ...]
    meta: dict[str, Any]
    messages: list[str]
    pixels: weights.Pixels | None = None


def is_name(name: str) -> bool:
    """Say whether `spec_of` knows a net of this name."""
    classifier = "|".join(CLASSIFIERS)
    return re.fullmatch(rf"(fcn[1-9]\d*s-)?({classifier})|fcn[1-9]\d*s", name) is not None


def spec_of(name: str, num_classes: int) -> NetSpec:
    """Return the description of a net by its name; over VGG16 and AlexNet, FCNs pad as the released ones.

    Raises:
        ValueError: nothing is called so, or the classifier has no map of that stride.
    """
    if not is_name(name):
        raise ValueError(
            f"there is no net {name!r}; choose one of {', '.join(CLASSIFIERS)}, or an FCN over it such as fcn8s-vgg16 "
            "(fcn32s, fcn16s and fcn8s alone stand on tiny_vgg)"
        )
    fcn, _, over = name.partition("-")
    stride = int(fcn[3:-1]) if fcn.startswith("fcn") else None
    classifier = (over or "tiny_vgg") if stride else name
    channels = 1 if classifier == "lenet" else 3
    if stride is None:
        return NetSpec(classifier=classifier, num_classes=num_classes, channels=channels)
    padding = _RELEASED_PADDING.get(classifier)
    return NetSpec(classifier=classifier, num_classes=num_classes, channels=channels, stride=stride, padding=padding)


def pretrained(name: str, file: Path | str, num_classes: int) -> TrainedNet:
    """Return the FCN called ``name`` with the weights of ``file``, see `weights.load`.

    Raises:
        ValueError: no FCN is called so.
        WeightsError: the file cannot be read or is of another net.
    """
    spec = spec_of(name, num_classes)
    with nn.init.blank():
        net = spec.build()
    if not isinstance(net, FCN):
        raise ValueError(f"{name} is a classifier, which labels no pixels; name an FCN such as fcn8s-vgg16")
    pixels = weights.load(net, file)
    numbered = tuple(f"class {label}" for label in range(num_classes))
    return TrainedNet(net, spec, VOC_CLASSES if num_classes == len(VOC_CLASSES) else numbered, {}, [], pixels)


def meta_of(spec: NetSpec, **more: Any) -> dict[str, Any]:
    """Return the part of a checkpoint's meta from which `load` builds the net again."""
    return {"net": asdict(spec), **more}


def load(run: Path | str) -> TrainedNet:
    """Load a trained net from a run's folder (its newest sound checkpoint), or from one checkpoint file.

    Raises:
        CheckpointError: there is no sound checkpoint, or it does not say what net it is of.
    """
    path = Path(run)
    found, messages = (checkpoint.load(path), []) if path.is_file() else checkpoint.latest(path)
    try:
        spec = NetSpec(**found.meta["net"])
        net = spec.build()
        net.load_state_dict({n.removeprefix(MODEL): a for n, a in found.arrays.items() if n.startswith(MODEL)})
        return TrainedNet(net, spec, tuple(found.meta["classes"]), found.meta, messages)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{found.path}: holds no net that this command can build ({error})") from error
