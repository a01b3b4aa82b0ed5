"""Where a skip net's crop offsets come from, step by step, as text."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Protocol

from minifcn import nn
from minifcn.fcn.geometry.layers import Maps, path_between, running_windows, then
from minifcn.fcn.geometry.skips import SkipPlan, minimum_padding
from minifcn.nn.coordinates import CoordinateMap
from minifcn.nn.window import AXES, Crop, Geometry, Window
from minifcn_kernels.spatial import IntOrPair, Pair, pair

_INTRODUCTION = """\
Along each axis, pixel x of the image lies at a·x + b of a layer's output. Kernel k, stride s, padding p:
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
        TypeError, ValueError: size is not an int or a pair of ints, or below 1; the net cannot take such an image.
    """
    image = pair("size", size, minimum=1)
    last = net.plan.offset
    final = tuple(int(side[0]) for side in net.plan.final_size((image[0], image[1])))
    sections = [_INTRODUCTION, *_layers(net, image), *_skips(net)]
    upscored = then(_before_the_last_upsampling(net), net.plan.upsample.coordinate_map())
    sections.append(
        f"The scores, enlarged from stride {min(net.taps)} to the image's {image[0]}×{image[1]}\n"
        f"  {'upsampling':<{_LABEL}}{_describe(net.plan.upsample)}\n"
        f"  {'image → scores':<{_LABEL}}{_both(upscored)}\n"
        f"  pixel 0 lies at {_both_numbers(last)}: crop there, {image[0]}×{image[1]} of {final[0]}×{final[1]}"
    )
    sections.append(
        f"Padding: {_first_window(net)} pads the image. The smallest padding with which images of every size get all "
        f"their scores is {minimum_padding(net)}."
    )
    return "\n\n".join(sections)


def _layers(net: SkipNet, image: Pair) -> Iterator[str]:
    """Yield the table of the backbone's layers that have a window."""
    windows = running_windows(net.backbone)
    taps = {name: stride for stride, name in net.taps.items()}
    lines = [("layer", "window", "output", "image → output", "")]
    for name, layer in net.backbone.named_children():
        if layer.window() != Window() or name in taps:
            height, width = windows[name].output_size(image)
            note = f"scored, stride {taps[name]}" if name in taps else ""
            path = _both(windows[name].coordinate_map())
            lines.append((name, _describe(layer.window()), f"{height}×{width}", path, note))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    yield "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[4]]).rstrip()
        for line in lines
    )


def _skips(net: SkipNet) -> Iterator[str]:
    """Yield how each finer map is laid over the scores so far."""
    scores = _tap(net.plan.taps, max(net.taps))
    for fusion in net.plan.fusions:
        scores = then(scores, fusion.upsample.coordinate_map())
        fine = _tap(net.plan.taps, fusion.stride)
        name = net.taps[fusion.stride]
        to, between = f"image → {name}", f"scores → {name}"
        crops = [
            f"crop {what} at {_both_numbers(offset)}"
            for what, offset in (("the upsampled scores", fusion.coarse_offset), (name, fusion.fine_offset))
            if offset != (0, 0)
        ]
        yield (
            f"Skip: add the scores of {name}, of stride {fusion.stride}\n"
            f"  {'upsampling':<{_LABEL}}{_describe(fusion.upsample)}\n"
            f"  {'image → scores':<{_LABEL}}{_both(scores)}\n"
            f"  {to:<{_LABEL}}{_both(fine)}\n"
            f"  {between:<{_LABEL}}{_both(path_between(scores, fine))}: {', '.join(crops) or 'nothing to crop'}"
        )
        scores = then(scores, Crop(fusion.coarse_offset).coordinate_map())


def _before_the_last_upsampling(net: SkipNet) -> Maps:
    scores = _tap(net.plan.taps, max(net.taps))
    for fusion in net.plan.fusions:
        scores = then(then(scores, fusion.upsample.coordinate_map()), Crop(fusion.coarse_offset).coordinate_map())
    return scores


def _tap(taps: Mapping[int, Geometry], stride: int) -> Maps:
    return taps[stride].coordinate_map()


def _first_window(net: SkipNet) -> str:
    layers = net.backbone.named_children()
    name, window = next((name, layer.window()) for name, layer in layers if layer.window() != Window())
    assert isinstance(window, Window)  # `FCN` pads a convolution
    return f"{name} (p = {_both_numbers(window.padding)})"


def _describe(window: Geometry) -> str:
    if not isinstance(window, Window):
        return "branches"
    if window == Window():
        return "none"
    values = [("k", window.kernel, None), ("s", window.stride, (1, 1)), ("p", window.padding, (0, 0))]
    return " ".join(f"{letter}={_both_numbers(value)}" for letter, value, default in values if value != default)


def _both(maps: Maps) -> str:
    texts = [_affine(axis_map) for axis_map in maps]
    if texts[0] == texts[1]:
        return texts[0]
    return ", ".join(f"{axis} {text}" for axis, text in zip(AXES, texts, strict=True))


def _both_numbers(values: Pair) -> str:
    return str(values[0]) if values[0] == values[1] else f"{values[0]}×{values[1]}"


def _affine(axis_map: CoordinateMap) -> str:
    """Return a map as one writes it: x/16 + 13/32."""
    top, bottom = axis_map.scale.numerator, axis_map.scale.denominator
    scaled = ("x" if top == 1 else f"{top}x") + ("" if bottom == 1 else f"/{bottom}")
    shift: Fraction = axis_map.shift
    return scaled if shift == 0 else f"{scaled} {'+' if shift > 0 else '−'} {abs(shift)}"
