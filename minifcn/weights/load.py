"""Giving a net the weights of a file, under the names that others use."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from minifcn import nn
from minifcn.fcn import FCN
from minifcn.nn.state import check_state
from minifcn.weights.files import WeightsError, read
from minifcn.weights.pixels import CAFFE, TORCHVISION, Pixels
from minifcn_kernels.jit import Array


def load(net: FCN | nn.Sequential, path: str | Path) -> Pixels:
    """Load the weights of a safetensors or NPZ file into ``net``, and return how it has to be given its pixels.

    Into an `FCN` go the weights of the common PyTorch port of the released nets; into a classifier (`models.vgg16`, or
    `models.alexnet` with one tower) those of torchvision. The names are derived from the net's own: a score layer is
    called after the layer it scores (``score_pool4``; the coarsest is ``score_fr``), an upsampling by its factor
    (``upscore2``, ``upscore8``) or by the layer to whose scores it leads (``upscore_pool4``), in a net of one stride
    just ``upscore``. The file must have these names and no others.

    Upsampling filters of the file are (C, C, k, k). Where only their channel diagonal is not zero, as in bilinear
    interpolation, the net keeps it in C groups, at a C-th of the cost; otherwise the layer is given all C² filters.

    Build the net inside ``with nn.init.blank():``, for its first weights are overwritten.

    Args:
        net: with as many classes as the file's.
        path: of the file; see `read`.

    Raises:
        WeightsError: the file cannot be read, or names are missing, unexpected or of another shape: all are named, and
            nothing is loaded.
        TypeError: no names are known for this kind of net.
    """
    names = _port_names(net) if isinstance(net, FCN) else _torchvision_names(net)
    parameters = dict(net.named_parameters())
    expected = {theirs: parameters[ours].shape for theirs, ours in names.items()}
    if isinstance(net, FCN):
        square = {theirs for theirs, ours in names.items() if ours.startswith("upsample.")}
        expected |= {name: (net.num_classes, net.num_classes, *expected[name][2:]) for name in square}
    arrays = read(path)
    try:
        check_state(expected, arrays)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}{_hint(net, arrays)}") from error
    for theirs, ours in names.items():
        if ours.startswith("upsample."):
            _set_upsampling(net, ours, arrays[theirs])
        else:
            parameters[ours].data[...] = arrays[theirs]
            parameters[ours].mark_changed()
    return CAFFE if isinstance(net, FCN) else TORCHVISION


def _port_names(net: FCN) -> dict[str, str]:
    """Return the port's name of every parameter of ``net``, with ours."""
    names = {}
    coarsest, finest = max(net.taps), min(net.taps)
    following = dict(pairwise(net.taps))
    for ours, _ in net.named_parameters():
        part, _, rest = ours.partition(".")
        layer, _, kind = rest.rpartition(".")
        if part == "backbone":
            theirs = layer
        elif part == "score":
            stride = int(layer.removeprefix("stride"))
            theirs = "score_fr" if stride == coarsest else f"score_{net.taps[stride]}"
        elif layer == "final":
            theirs = "upscore" if finest == coarsest else f"upscore{finest}"
        else:
            stride = int(layer.removeprefix("stride"))
            factor = stride // following[stride]
            theirs = f"upscore{factor}" if stride == coarsest else f"upscore_{net.taps[stride]}"
        names[f"{theirs}.{kind}"] = ours
    return names


def _torchvision_names(net: nn.Sequential) -> dict[str, str]:
    """Return torchvision's name of every parameter of a classifier, with ours: layers count from 0 in two sequences."""
    layers = list(net.named_children()) if isinstance(net, nn.Sequential) else []
    flattens = [i for i, (_, layer) in enumerate(layers) if isinstance(layer, nn.Flatten)]
    if len(flattens) != 1 or any(list(layer.named_children()) for _, layer in layers):
        raise TypeError(
            "weights.load: needs an FCN, or a classifier that is one row of layers around one Flatten (models.vgg16, "
            f"models.alexnet with towers=1); no file's names are known for this {type(net).__name__}"
        )
    (flatten,) = flattens
    names = {}
    for i, (layer, module) in enumerate(layers):
        for kind, _ in module.named_parameters():
            theirs = f"features.{i}" if i < flatten else f"classifier.{i - flatten - 1}"
            names[f"{theirs}.{kind}"] = f"{layer}.{kind}"
    return names


def _hint(net: nn.Module, arrays: dict[str, Array]) -> str:
    """Return what to do where the file is known to be of the other family."""
    if isinstance(net, FCN) and "features.0.weight" in arrays:
        return (
            ". These are the weights of a torchvision classifier: load them into models.vgg16(1000) or "
            "models.alexnet(1000, towers=1), and make an FCN of that by fcn.convolutionalize"
        )
    if not isinstance(net, FCN) and "score_fr.weight" in arrays:
        return ". These are the weights of an FCN: load them into fcn.FCN(...)"
    return ""


def _set_upsampling(net: nn.Module, name: str, filters: Array) -> None:
    """Give filters (C, C, k, k) to the upsampling layer that owns the parameter ``name``.

    A layer in C groups stays so if the filters are zero off the channel diagonal.
    """
    layer = dict(net.named_modules())[name.rpartition(".")[0]]
    assert isinstance(layer, nn.ConvTranspose2d)
    C = len(filters)
    if filters[~np.eye(C, dtype=bool)].any():
        layer.groups = 1
    weight = filters if layer.groups == 1 else filters[range(C), range(C)][:, None]  # (C, k, k) → (C, 1, k, k)
    layer.weight = nn.Parameter(np.array(weight, np.float32), lr_multiplier=layer.weight.lr_multiplier)
