"""A net as a table: for every layer its output, stride, offset, receptive field, parameters and FLOPs.

And as one row of the paper's table of classifiers (FCN §4.1): `summarize`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from minifcn import nn
from minifcn.fcn.geometry import running_windows
from minifcn.fcn.skip import FCN
from minifcn.nn.window import Geometry
from minifcn.tensor import Tensor, no_grad


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of the table. Spatial values are (vertical, horizontal), in pixels of the image.

    Attributes:
        name: the layer's path in the net.
        kind: its class.
        output: shape of its output without the batch: (C, H, W), or (C,) behind a Flatten.
        stride: the distance between the centres of neighbouring outputs; below 1 where the image was enlarged.
        offset: where the centre of its first output lies in the image.
        receptive_field: how large a rectangle of the image an output depends on.
        parameters: how many numbers it has to learn, without those of layers that have a row of their own.
        flops: floating point operations for one image; a multiply-add counts as two, and only convolutions and
            linear layers, which all others vanish beside.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    stride: tuple[Fraction, Fraction]
    offset: tuple[Fraction, Fraction]
    receptive_field: tuple[int, int]
    parameters: int
    flops: int


def inspect(net: nn.Sequential | FCN, size: tuple[int, int], in_channels: int) -> list[LayerRow]:
    """Return a row for every layer of ``net``, in the order they run, for one image of ``size`` (H, W).

    Branches side by side (`nn.Parallel`) have a row for each of their layers and one for what they give together. The
    net is run once on an empty batch, so that every shape is what it is and not what somebody computed.

    Raises:
        TypeError: a layer has no ``window()``.
        ValueError: the net cannot take an image of this size.
    """
    paths = net.paths() if isinstance(net, FCN) else running_windows(net)
    modules = dict(net.named_modules())
    # A sequence inside of another net does what its last layer does.
    listed = [path for path in paths if not isinstance(modules[path], nn.Sequential)]
    with no_grad(), nn.evaluating(net), _shapes_of(net, listed) as shapes:
        net(Tensor(np.zeros((0, in_channels, *size), np.float32)))
    return [_row(name, modules[name], paths[name], *shapes[name]) for name in shapes]


@dataclass(frozen=True, slots=True)
class Summary:
    """A net in the paper's table of classifiers made dense (FCN §4.1).

    Attributes:
        conv_layers: convolutions, linear layers among them, on the longest way through the net, upsampling not counted.
        parameters: how many numbers they hold, those of fixed upsampling among them.
        receptive_field: of a score at the coarsest stride, (vertical, horizontal).
        max_stride: the coarsest stride, (vertical, horizontal).
    """

    conv_layers: int
    parameters: int
    receptive_field: tuple[int, int]
    max_stride: tuple[int, int]


def summarize(net: nn.Sequential | FCN) -> Summary:
    """Return what the paper's table tells of a net; of an `FCN` up to its coarsest scores.

    Raises:
        TypeError: a layer has no ``window()``.
    """
    if isinstance(net, FCN):
        path, conv_layers = net.plan.taps[max(net.taps)], _depth(net.backbone) + 1  # the score layer
    else:
        path, conv_layers = net.window(), _depth(net)
    field = path.receptive_field()
    vertical, horizontal = field.stride
    return Summary(conv_layers, nn.parameter_count(net), field.size, (int(vertical), int(horizontal)))


def _depth(net: nn.Module) -> int:
    """Return how many convolutions the longest way through ``net`` has."""
    below = [_depth(layer) for _, layer in net.named_children()]
    if isinstance(net, nn.Parallel):
        return max(below)
    return sum(below) + isinstance(net, nn.Conv2d | nn.Linear)


def _row(name: str, layer: nn.Module, path: Geometry, x: tuple[int, ...], y: tuple[int, ...]) -> LayerRow:
    vertical, horizontal = (axis_map.inverse() for axis_map in path.coordinate_map())
    return LayerRow(
        name=name,
        kind=type(layer).__name__,
        output=y,
        stride=(vertical.scale, horizontal.scale),
        offset=(vertical(0), horizontal(0)),
        receptive_field=path.receptive_field().size,
        parameters=0 if isinstance(layer, nn.Parallel) else nn.parameter_count(layer),
        flops=_flops(layer, x, y),
    )


def _flops(layer: nn.Module, x: tuple[int, ...], y: tuple[int, ...]) -> int:
    """Return two for each multiply-add: every weight meets every position of the map on its strided side once."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        positions = y[1:]
    elif isinstance(layer, nn.ConvTranspose2d):
        positions = x[1:]
    else:
        return 0
    return 2 * int(np.prod(layer.weight.shape)) * int(np.prod(positions))


@contextmanager
def _shapes_of(net: nn.Module, names: list[str]) -> Iterator[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Collect, in the order in which the named layers run, their input and output shapes without the batch."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    modules = {name: module for name, module in net.named_modules() if name in names}

    def listening(name: str, forward: Any) -> Any:
        def run(x: Tensor) -> Tensor:
            y: Tensor = forward(x)
            shapes[name] = x.shape[1:], y.shape[1:]
            return y

        return run

    for name, module in modules.items():
        module.forward = listening(name, module.forward)  # type: ignore[method-assign]
    try:
        yield shapes
    finally:
        for module in modules.values():
            del module.forward  # uncovers the class's own
