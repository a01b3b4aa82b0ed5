"""All that a skip net has to know about space: how to upsample, crop and add the scores of its taps. FCN §4.2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from minifcn.fcn.geometry.layers import GeometryError, HasWindow, Maps, geometry_of, path_between, then, whole_shifts
from minifcn.nn.coordinates import CoordinateMap
from minifcn.nn.window import AXES, Chain, Crop, Geometry, IntArray, Window
from minifcn_kernels.spatial import Pair

Sides: TypeAlias = int | IntArray

_IMAGE: Maps = (CoordinateMap(), CoordinateMap())


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

    def check_covers(self, size: Pair) -> None:
        """Raise `GeometryError` where an image of ``size`` (height, width) has no pixels, or some get no score."""
        if min(size) < 1:
            raise GeometryError(f"images must be of at least 1×1 pixels, got {size[0]}×{size[1]}")
        if not self.covers(size).all():
            raise GeometryError(
                f"images of {size[0]}×{size[1]} leave pixels without a score at this padding; use larger images, or "
                f"build the net with padding={minimum_padding(self.taps, upsampling=self.upsampling())}, the smallest "
                "that is enough for every size"
            )

    def upsampling(self) -> dict[int, Window]:
        """Return the windows that enlarge the scores of each stride, as `plan_skips` takes them."""
        coarse = sorted(self.taps, reverse=True)
        windows = [*(fusion.upsample for fusion in self.fusions), self.upsample]
        return dict(zip(coarse, windows, strict=True))

    def _final_side(self, sides: Mapping[int, IntArray], axis: int) -> IntArray:
        side = sides[max(sides)]
        for fusion in self.fusions:
            coarse = fusion.upsample.output_side(side, axis) - fusion.coarse_offset[axis]
            fine = sides[fusion.stride] - fusion.fine_offset[axis]
            side = np.minimum(coarse, fine)
        return self.upsample.output_side(side, axis)


class HasPlan(Protocol):
    """A skip net, such as `minifcn.fcn.FCN`."""

    plan: SkipPlan


def plan_of(net: HasPlan) -> SkipPlan:
    """Return the plan of a skip net, or raise ``TypeError`` if ``net`` is none."""
    plan = getattr(net, "plan", None)
    if not isinstance(plan, SkipPlan):
        raise TypeError(f"{type(net).__name__} has no plan of skips and crops: give an fcn.FCN(backbone, num_classes)")
    return plan


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
    for start, axis in zip(plan.offset, AXES, strict=True):
        if start < 0:
            raise GeometryError(
                f"the final crop would start at {start} along the {axis}: the upsampled scores begin {-start} pixels "
                f"inside the image, because the backbone pads it too little; pad the first layer by {-start} more, "
                f"or by {minimum_padding(taps, upsampling=upsampling)} in all, the smallest padding with which "
                "images of every size get all their scores"
            )
    return plan


def minimum_padding(
    net: HasPlan | Mapping[int, HasWindow],
    sizes: Sequence[int] = range(1, 1200),
    *,
    upsampling: Mapping[int, Window] | None = None,
) -> int:
    """Return the smallest padding of the net's first window with which every image gets all its scores.

    Every image: each height and width in ``sizes``. All its scores: the final map covers it, and no layer is
    smaller than 1×1. ``net`` is an `FCN`, or the taps of a backbone with the ``upsampling``, as in `plan_skips`; the
    padding that the first window has now does not matter. 97 for the paper's nets on VGG16, which pad by 100.

    Raises:
        TypeError, ValueError, GeometryError: as `plan_skips`, but for a final map that begins inside the image.
        TypeError: ``net`` is neither.
        ValueError: ``sizes`` is empty or holds a side below 1; the taps do not begin with one and the same
            `Window`, or with one that cannot pad the image: a transposed one, or a pool in ceil mode.
    """
    if len(sizes) == 0 or min(sizes) < 1:
        raise ValueError(f"sizes must be sides of at least 1 pixel, got {sizes!r}")
    if isinstance(net, Mapping):
        geometries = _checked_taps(net)
    else:
        own = plan_of(net)
        geometries, upsampling = _checked_taps(own.taps), own.upsampling()
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
        scores = then(scores, upsample.coordinate_map())
        top, left = whole_shifts(path_between(scores, fine_map), f"the crop of the skip from stride {coarse} to {fine}")
        fine_offset = max(top, 0), max(left, 0)
        coarse_offset = max(-top, 0), max(-left, 0)
        scores = then(scores, Crop(coarse_offset).coordinate_map())
        fusions.append(Fusion(fine, upsample, coarse_offset, fine_offset))

    finest = min(taps)
    upsample = upsampling.get(finest) or _bilinear_window(finest, scores, _IMAGE)
    offset = whole_shifts(then(scores, upsample.coordinate_map()), "the final crop")
    return SkipPlan(taps, tuple(fusions), upsample, offset)


def _bilinear_window(factor: int, scores: Maps, target: Maps) -> Window:
    """Return the transposed window of kernel 2f − 1 along each axis where it aligns with ``target``, else 2f."""
    odd = Window(2 * factor - 1, factor, transposed=True)
    enlarged = then(scores, odd.coordinate_map())
    vertical, horizontal = (
        2 * factor - 1 if path.shift.denominator == 1 else 2 * factor for path in path_between(enlarged, target)
    )
    return Window((vertical, horizontal), factor, transposed=True)


def _checked_taps(taps: Mapping[int, HasWindow]) -> dict[int, Geometry]:
    """Return the geometries of ``taps`` from coarse to fine, each of the stride that its key says."""
    if not taps:
        raise ValueError("taps is empty: a net needs at least its coarsest map, {32: geometry}")
    geometries = {stride: geometry_of(taps[stride]) for stride in sorted(taps, reverse=True)}
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
    # In ceil mode no window begins in the padding behind the image, so more padding there would change nothing.
    if beginnings or not isinstance(first, Window) or first.transposed or first.ceil:
        raise ValueError(
            "taps must begin with one and the same Window, the layer that gets the padding (a convolution's: neither "
            f"transposed nor in ceil mode), got {[first, *beginnings]}"
        )
    padded = replace(first, padding=(padding, padding))
    return {stride: Chain([padded, *parts[1:]]) for stride, parts in chains.items()}


def _side_arrays(size: Sides | tuple[Sides, Sides]) -> tuple[IntArray, IntArray]:
    h, w = size if isinstance(size, tuple) else (size, size)
    return np.atleast_1d(h), np.atleast_1d(w)
