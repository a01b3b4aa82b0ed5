"""Where a net's outputs lie over the image: receptive fields, crops and the padding they need. FCN §3, §4.2.

A fully convolutional net pads the image, shrinks it, enlarges the scores again and crops them to the image.
Every crop offset follows from the coordinate maps of the layers (`minifcn.nn.coordinates`), because two maps
can be added, or compared with the image, only where their pixel centres coincide:

    path = target of the crop → cropped layer        its scale is 1: both have one resolution
    offset = shift of the path                       a whole number ≥ 0, or no crop aligns the two

The paper's net on VGG16 (conv1_1 pads 100, fc6 is 7×7, the last upsampling has kernel 64 and stride 32) has
the path x ↦ x + 19 from its input to its upsampled scores: the score of image pixel 0 is at 19, so the crop
begins there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from minifcn.nn.coordinates import CoordinateMap
from minifcn.nn.window import AXES, Chain, Crop, Geometry, IntArray, ReceptiveField, Window
from minifcn_kernels.spatial import Pair

Maps: TypeAlias = tuple[CoordinateMap, CoordinateMap]  # (vertical, horizontal)
Sides: TypeAlias = int | IntArray

_IMAGE: Maps = (CoordinateMap(), CoordinateMap())


class HasWindow(Protocol):
    """What all functions here take: a module, or a geometry itself."""

    def window(self) -> Geometry:
        """Return the geometry of the layer or net."""


class GeometryError(ValueError):
    """Layers that no crop can align."""


def coordinate_map(net: HasWindow) -> Maps:
    """Return the (vertical, horizontal) coordinate maps from the input of ``net`` to its output.

    Raises:
        TypeError: ``net`` has no ``window()``.
    """
    return _geometry(net).coordinate_map()


def receptive_field(net: HasWindow) -> ReceptiveField:
    """Return the rectangle of input cells that each output cell of ``net`` sees. FCN §3.

    Raises:
        TypeError: ``net`` has no ``window()``.
        ValueError: an upsampling in it leaves gaps, see `minifcn.nn.window.Window.input_span`.
    """
    return _geometry(net).receptive_field()


def crop_offset(path: HasWindow | Maps) -> Pair:
    """Return the (top, left) at which to crop a layer so that the crop lies over its target.

    ``path`` leads from the target to the cropped layer. From a net's input to its upsampled scores that is the
    net itself. A path that runs backwards through some layers, as from upsampled scores back to pool4, is given
    as a pair of maps, ``a.inverse().then(b)`` per axis: a leads from the input to the target, b from the input
    to the cropped layer.

    Raises:
        TypeError: ``path`` is a module without ``window()``.
        GeometryError: target and layer differ in resolution or are a fraction of a pixel apart, or the layer
            begins inside the target.
    """
    maps = path if isinstance(path, tuple) else coordinate_map(path)
    offset = _whole_shifts(maps, "the crop")
    _check_begins_outside(offset)
    return offset


@dataclass(frozen=True)
class Fusion:
    """One skip: ``upsample`` the scores so far, crop both maps at their offset (top, left), and add. FCN §4.2.

    ``stride`` is that of the finer map, whose scores are added. Along each axis one of the offsets is 0. Both
    crops have one size: what is left of the smaller map.
    """

    stride: int
    upsample: Window
    coarse_offset: Pair
    fine_offset: Pair


@dataclass(frozen=True)
class SkipPlan:
    """All that a skip net has to know about space, for images of any size.

    ``taps`` are the backbone's geometries up to each map it scores, by stride, from coarse to fine. The
    ``fusions`` follow one another in that order (none for a net of one stride); then ``upsample`` enlarges the
    sum to the image's resolution, and the crop at ``offset`` (top, left), as large as the image, lies over it.
    """

    taps: Mapping[int, Geometry]
    fusions: tuple[Fusion, ...]
    upsample: Window
    offset: Pair

    def final_size(self, size: Sides | tuple[Sides, Sides]) -> tuple[IntArray, IntArray]:
        """Return the (height, width) of the last upsampled map, before its crop, for images of ``size``.

        ``size`` is (height, width), or one side that stands for both. A side is an integer array, to ask for
        many images at once; an int counts as an array of one. The answer is 0 where some map, or what a crop
        leaves of it, would be smaller than 1×1.
        """
        h, w = _side_arrays(size)
        sizes = {stride: tap.output_size((h, w)) for stride, tap in self.taps.items()}
        heights, widths = ({stride: size[axis] for stride, size in sizes.items()} for axis in (0, 1))
        return self._final_side(heights, 0), self._final_side(widths, 1)

    def covers(self, size: Sides | tuple[Sides, Sides]) -> npt.NDArray[np.bool_]:
        """Return for which images of ``size``, as in `final_size`, every pixel gets a score."""
        h, w = _side_arrays(size)
        final_h, final_w = self.final_size((h, w))
        top, left = self.offset
        return (final_h - top >= h) & (final_w - left >= w)

    def _final_side(self, sides: Mapping[int, IntArray], axis: int) -> IntArray:
        side = sides[max(sides)]
        for fusion in self.fusions:
            coarse = fusion.upsample.output_side(side, axis) - fusion.coarse_offset[axis]
            fine = sides[fusion.stride] - fusion.fine_offset[axis]
            side = np.minimum(coarse, fine)
        return self.upsample.output_side(side, axis)


def plan_skips(taps: Mapping[int, HasWindow], upsampling: Mapping[int, Window] | None = None) -> SkipPlan:
    """Return how to upsample, crop and add the scores of ``taps``, so that they end up over the image. FCN §4.2.

    ``taps`` are the backbone's geometries, ``{stride: geometry up to the map of that stride}``: of stride 32 for
    an FCN-32s; 32 and 16 for an FCN-16s; 32, 16 and 8 for an FCN-8s.

    ``upsampling[stride]`` is the transposed window that enlarges the scores of that stride to the next finer one
    (those of the finest to the image). Where it is not given, the kernel for a factor f is 2f or 2f − 1. One
    of them aligns behind convolutions and poolings, whose windows have their centres on pixels or half way
    between: a kernel smaller by one moves the enlarged map by half a pixel. 2f suits VGG16, 2f − 1 AlexNet.

    The enlarged scores and the finer map are aligned by cropping the map that begins further outside. In the
    paper's nets this is always the finer map, since fc6 shrinks the coarsest one. Where fc6 pads instead, the
    enlarged map begins outside, and is cropped itself.

    Raises:
        TypeError: a tap has no ``window()``.
        ValueError: no taps; a tap of another stride than its key says; a stride that is no multiple of the next
            finer; an upsampling for a stride without a tap, or by another factor.
        GeometryError: a fusion or the final crop needs a fraction of a pixel, or the final map begins inside the
            image: the backbone pads too little (see `minimum_padding`).
    """
    plan = _derive_plan(_checked_taps(taps), upsampling or {})
    _check_begins_outside(plan.offset)
    return plan


def minimum_padding(
    taps: Mapping[int, HasWindow],
    upsampling: Mapping[int, Window] | None = None,
    *,
    sizes: Sequence[int] = range(1, 1200),
) -> int:
    """Return the smallest padding of the backbone's first window with which every image gets all its scores.

    Every image: each height and width in ``sizes``. All its scores: the final map covers it, and no layer is
    smaller than 1×1. ``taps`` and ``upsampling`` are those of `plan_skips`; the padding that the first window
    has in ``taps`` does not matter. 97 for the paper's nets on VGG16, which pad by 100.

    Raises:
        TypeError, ValueError, GeometryError: as `plan_skips`, but for a final map that begins inside the image.
        ValueError: ``sizes`` is empty or holds a side below 1; the taps do not begin with one and the same
            `Window`, or with a transposed one.
    """
    if len(sizes) == 0 or min(sizes) < 1:
        raise ValueError(f"sizes must be sides of at least 1 pixel, got {sizes!r}")
    geometries = _checked_taps(taps)
    sides = np.array(sizes)

    def plan(padding: int) -> SkipPlan:
        return _derive_plan(_with_padding(geometries, padding), upsampling or {})

    # One more cell of padding moves the beginning of the final map, and in the mean its end too, one pixel
    # outwards. So the offset without padding tells the first candidate, and the search ends soon after it.
    first = max(0, *(-start for start in plan(0).offset))
    return next(padding for padding in count(first) if plan(padding).covers(sides).all())


def _derive_plan(taps: Mapping[int, Geometry], upsampling: Mapping[int, Window]) -> SkipPlan:
    """Do the work of `plan_skips` on taps from coarse to fine, but let the final offset be negative."""
    _check_upsampling(upsampling, list(taps))
    scores = taps[max(taps)].coordinate_map()  # image → the scores so far
    fusions = []
    for coarse, fine in pairwise(taps):
        fine_map = taps[fine].coordinate_map()
        upsample = upsampling.get(coarse) or _bilinear_window(coarse // fine, scores, fine_map)
        scores = _then(scores, upsample.coordinate_map())
        top, left = _whole_shifts(_path(scores, fine_map), f"the crop of the skip from stride {coarse} to {fine}")
        fine_offset = max(top, 0), max(left, 0)
        coarse_offset = max(-top, 0), max(-left, 0)
        scores = _then(scores, Crop(coarse_offset).coordinate_map())
        fusions.append(Fusion(fine, upsample, coarse_offset, fine_offset))

    finest = min(taps)
    upsample = upsampling.get(finest) or _bilinear_window(finest, scores, _IMAGE)
    offset = _whole_shifts(_then(scores, upsample.coordinate_map()), "the final crop")
    return SkipPlan(taps, tuple(fusions), upsample, offset)


def _bilinear_window(factor: int, scores: Maps, target: Maps) -> Window:
    """Return the transposed window of kernel 2f − 1 along each axis where it aligns with ``target``, else 2f."""
    odd = Window(2 * factor - 1, factor, transposed=True)
    enlarged = _then(scores, odd.coordinate_map())
    vertical, horizontal = (
        2 * factor - 1 if path.shift.denominator == 1 else 2 * factor for path in _path(enlarged, target)
    )
    return Window((vertical, horizontal), factor, transposed=True)


def _then(earlier: Maps, later: Maps) -> Maps:
    return earlier[0].then(later[0]), earlier[1].then(later[1])


def _path(target: Maps, layer: Maps) -> Maps:
    """Return the maps from ``target`` to ``layer``, both given from the image."""
    return _then((target[0].inverse(), target[1].inverse()), layer)


def _whole_shifts(path: Maps, crop: str) -> Pair:
    """Return the shifts of a path between maps of one resolution, whole numbers, or raise `GeometryError`."""
    for axis_map, axis in zip(path, AXES, strict=True):
        scale, shift = axis_map.scale, axis_map.shift
        if scale != 1:
            raise GeometryError(
                f"{crop} joins maps of different resolution: along the {axis} one cell of the target is {scale} "
                f"cells of the cropped layer; upsample the coarser one by the factor {max(scale, 1 / scale)} first"
            )
        if shift.denominator != 1:
            raise GeometryError(
                f"{crop} would start at {shift} = {float(shift):g} along the {axis}, and pixels cannot be split: "
                "change a kernel or a padding. An upsampling kernel smaller by one moves the start by 1/2 "
                "(AlexNet's 64 would need 18.5; its 63 fits, with 18)"
            )
    return int(path[0].shift), int(path[1].shift)


def _check_begins_outside(offset: Pair) -> None:
    for start, axis in zip(offset, AXES, strict=True):
        if start < 0:
            raise GeometryError(
                f"the crop would start at {start} along the {axis}: the layer begins {-start} cells inside its "
                f"target; pad the first layer by {-start} more (`minimum_padding` tells what every size needs), "
                "or crop the target instead"
            )


def _geometry(net: HasWindow) -> Geometry:
    kind = type(net).__name__
    if not callable(getattr(net, "window", None)):
        raise TypeError(
            f"{kind} has no window(), so nothing is known about its geometry: give it a method window() that "
            "returns its Window(kernel, stride, padding, …), or Window() if it works element by element"
        )
    geometry = net.window()
    if not isinstance(geometry, Geometry):
        raise TypeError(f"{kind}.window() must return a Window, Chain or Fork, got {geometry!r}")
    return geometry


def _checked_taps(taps: Mapping[int, HasWindow]) -> dict[int, Geometry]:
    """Return the geometries of ``taps`` from coarse to fine, each of the stride that its key says."""
    if not taps:
        raise ValueError("taps is empty: a net needs at least its coarsest map, {32: geometry}")
    geometries = {stride: _geometry(taps[stride]) for stride in sorted(taps, reverse=True)}
    for stride, geometry in geometries.items():
        vertical, horizontal = (1 / axis_map.scale for axis_map in geometry.coordinate_map())
        if not vertical == horizontal == stride:
            raise ValueError(
                f"taps[{stride}] must be a map of stride {stride}, but its layers have stride {vertical} "
                f"vertically and {horizontal} horizontally"
            )
    for coarse, fine in pairwise(geometries):
        if coarse % fine:
            raise ValueError(f"taps: stride {coarse} must be a multiple of the next finer one, {fine}")
    return geometries


def _check_upsampling(upsampling: Mapping[int, Window], strides: list[int]) -> None:
    for coarse, fine in pairwise([*strides, 1]):
        window, factor = upsampling.get(coarse), coarse // fine
        if window is not None and not (window.transposed and window.stride == (factor, factor)):
            raise ValueError(f"upsampling[{coarse}] must be transposed and of stride {factor}, got {window}")
    unknown = sorted(upsampling.keys() - set(strides))
    if unknown:
        raise ValueError(f"upsampling has strides {unknown} that are not in taps {strides}")


def _with_padding(taps: Mapping[int, Geometry], padding: int) -> dict[int, Geometry]:
    """Return ``taps`` with another padding in the window that all of them begin with."""
    chains = {stride: Chain([tap]).parts for stride, tap in taps.items()}
    beginnings = {parts[0] if parts else None for parts in chains.values()}
    first = beginnings.pop()
    if beginnings or not isinstance(first, Window) or first.transposed:
        raise ValueError(
            f"taps must begin with one and the same Window, the layer that gets the padding, got {[first, *beginnings]}"
        )
    padded = replace(first, padding=(padding, padding))
    return {stride: Chain([padded, *parts[1:]]) for stride, parts in chains.items()}


def _side_arrays(size: Sides | tuple[Sides, Sides]) -> tuple[IntArray, IntArray]:
    h, w = size if isinstance(size, tuple) else (size, size)
    return np.atleast_1d(h), np.atleast_1d(w)
