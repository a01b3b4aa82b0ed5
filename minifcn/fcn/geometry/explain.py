"""Where a skip net's crop offsets come from, step by step, as text."""

from typing import Protocol

from minifcn import nn
from minifcn.fcn.geometry.layers import Maps, path_between, running_windows, then
from minifcn.fcn.geometry.skips import Fusion, SkipPlan, minimum_padding, plan_of
from minifcn.nn.coordinates import CoordinateMap
from minifcn.nn.window import Crop, Geometry, Window
from minifcn_kernels.spatial import IntOrPair, Pair, pair

_INTRODUCTION = """\
Along each axis, pixel x of the image lies at a·x + b of a layer's output. Kernel k, stride s, padding p
(with dilation d, k stands for d(k − 1) + 1):
  convolution, pooling    a = 1/s    b = (p − (k − 1)/2)/s
  transposed              a = s      b = (k − 1)/2 − p
  one after another       a = a₂·a₁  b = a₂·b₁ + b₂
Two maps of equal a can be added where their b differ by a whole number: that is the crop."""

_LABEL = 24  # columns


class SkipNet(Protocol):
    """What is to be explained: an `minifcn.fcn.FCN`."""

    backbone: nn.Sequential
    taps: dict[int, str]
    plan: SkipPlan


def explain(net: SkipNet, size: IntOrPair) -> str:
    """Return as text, layer by layer, where the maps of ``net`` lie over an image of ``size`` and how it crops them.

    With the paper's FCN-8s on VGG16 it ends with the crops 5, 9 and 31.

    Args:
        net: an `FCN`.
        size: height and width of the image.

    Raises:
        TypeError, ValueError: size is not an int or a pair of ints, or below 1; ``net`` is no FCN.
        GeometryError: at its padding the net leaves pixels of such an image without a score.
    """
    H, W = pair("size", size, minimum=1)
    plan = plan_of(net)
    plan.check_covers((H, W))
    scores = plan.taps[max(net.taps)].coordinate_map()  # image → the scores so far
    skips = []
    for fusion in plan.fusions:
        scores = then(scores, fusion.upsample.coordinate_map())
        skips.append(_skip(net.taps[fusion.stride], scores, plan.taps[fusion.stride].coordinate_map(), fusion))
        scores = then(scores, Crop(fusion.coarse_offset).coordinate_map())
    final_H, final_W = (int(side[0]) for side in plan.final_size((H, W)))
    final = (
        f"The scores, enlarged from stride {min(net.taps)} to the image's {H}×{W}\n"
        f"  {'upsampling':<{_LABEL}}{_window(plan.upsample)}\n"
        f"  {'image → scores':<{_LABEL}}{_maps(then(scores, plan.upsample.coordinate_map()))}\n"
        f"  pixel 0 lies at {_pair(plan.offset)}: crop there, {H}×{W} of {final_H}×{final_W}"
    )
    return "\n\n".join([_INTRODUCTION, _layers(net, (H, W)), *skips, final, _padding(net)])


def _layers(net: SkipNet, image: Pair) -> str:
    """Return the table of the backbone's layers that have a window or are scored."""
    paths = running_windows(net.backbone)
    strides = {name: stride for stride, name in net.taps.items()}
    lines = [("layer", "window", "output", "image → output", "")]
    for name, layer in net.backbone.named_children():
        if layer.window() != Window() or name in strides:
            H, W = paths[name].output_size(image)
            scored = f"scored, stride {strides[name]}" if name in strides else ""
            lines.append((name, _window(layer.window()), f"{H}×{W}", _maps(paths[name].coordinate_map()), scored))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _skip(name: str, scores: Maps, fine: Maps, fusion: Fusion) -> str:
    """Return how the scores of layer ``name`` are laid over the upsampled scores so far."""
    to, between = f"image → {name}", f"scores → {name}"
    offsets = {"the upsampled scores": fusion.coarse_offset, name: fusion.fine_offset}
    crops = [f"crop {what} at {_pair(offset)}" for what, offset in offsets.items() if offset != (0, 0)]
    return (
        f"Skip: add the scores of {name}, of stride {fusion.stride}\n"
        f"  {'upsampling':<{_LABEL}}{_window(fusion.upsample)}\n"
        f"  {'image → scores':<{_LABEL}}{_maps(scores)}\n"
        f"  {to:<{_LABEL}}{_maps(fine)}\n"
        f"  {between:<{_LABEL}}{_maps(path_between(scores, fine))}: {', '.join(crops) or 'nothing to crop'}"
    )


def _padding(net: SkipNet) -> str:
    layers = net.backbone.named_children()
    name, window = next((name, layer.window()) for name, layer in layers if layer.window() != Window())
    assert isinstance(window, Window)  # `FCN` pads a convolution
    return (
        f"Padding: {name} (p = {_pair(window.padding)}) pads the image. The smallest padding with which images of "
        f"every size get all their scores is {minimum_padding(net)}."
    )


def _window(window: Geometry) -> str:
    if not isinstance(window, Window):
        return "branches"
    if window == Window():
        return "none"
    values = {"k": window.kernel, "s": window.stride, "p": window.padding, "d": window.dilation}
    usual = {"s": (1, 1), "p": (0, 0), "d": (1, 1)}
    return " ".join(f"{letter}={_pair(value)}" for letter, value in values.items() if value != usual.get(letter))


def _pair(values: Pair) -> str:
    return str(values[0]) if values[0] == values[1] else f"{values[0]}×{values[1]}"


def _maps(maps: Maps) -> str:
    vertical, horizontal = (_affine(axis_map) for axis_map in maps)
    return vertical if vertical == horizontal else f"height {vertical}, width {horizontal}"


def _affine(axis_map: CoordinateMap) -> str:
    """Return a map as one writes it: x/16 + 13/32."""
    top, bottom = axis_map.scale.numerator, axis_map.scale.denominator
    scaled = ("x" if top == 1 else f"{top}x") + ("" if bottom == 1 else f"/{bottom}")
    shift = axis_map.shift
    return scaled if shift == 0 else f"{scaled} {'+' if shift > 0 else '−'} {abs(shift)}"
