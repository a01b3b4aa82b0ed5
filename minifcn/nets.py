"""Nets by description: what a checkpoint has to say of a net so that a run's folder is enough to use it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from minifcn import models, nn
from minifcn.fcn import FCN, convolutionalize
from minifcn.training import CheckpointError, checkpoint
from minifcn.training.trainer import MODEL

Net: TypeAlias = nn.Sequential | FCN

CLASSIFIERS: dict[str, Callable[..., nn.Sequential]] = {"lenet": models.lenet, "tiny_vgg": models.tiny_vgg}


@dataclass(frozen=True, kw_only=True)
class NetSpec:
    """What a net is built from.

    Attributes:
        classifier: a name of `CLASSIFIERS`: the net itself, or what its backbone was.
        num_classes: scores per image, or per pixel.
        channels: of the image.
        stride: of an FCN's finest score layer; None for the classifier.
        upsampling, padding: see `FCN`.
    """

    classifier: str
    num_classes: int
    channels: int
    stride: int | None = None
    upsampling: Literal["fixed", "learned"] = "fixed"
    padding: int | None = None

    def build(self, seed: int = 0) -> Net:
        """Return the net with its first weights, which ``seed`` names."""
        if self.classifier not in CLASSIFIERS:
            raise ValueError(f"there is no net {self.classifier!r}; choose one of {', '.join(CLASSIFIERS)}")
        classifier = CLASSIFIERS[self.classifier](self.num_classes, self.channels, seed=seed)
        if self.stride is None:
            return classifier
        backbone = convolutionalize(classifier)
        return FCN(backbone, self.num_classes, stride=self.stride, upsampling=self.upsampling, padding=self.padding)


@dataclass(frozen=True)
class TrainedNet:
    """A net out of a checkpoint, with what was written beside it.

    ``messages`` tell the user which damaged checkpoints were passed over; ``meta`` is the checkpoint's.
    """

    net: Net
    spec: NetSpec
    classes: tuple[str, ...]
    meta: dict[str, Any]
    messages: list[str]


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
