"""Where one layer lies over another, or over the image, and where to crop it so that they coincide. FCN §3."""

from typing import Protocol, TypeAlias

from minifcn import nn
from minifcn.nn.coordinates import CoordinateMap
from minifcn.nn.window import AXES, Chain, Geometry, ReceptiveField
from minifcn_kernels.spatial import Pair

Maps: TypeAlias = tuple[CoordinateMap, CoordinateMap]  # (vertical, horizontal)


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
    return geometry_of(net).coordinate_map()


def receptive_field(net: HasWindow) -> ReceptiveField:
    """Return the rectangle of input cells that each output cell of ``net`` sees. FCN §3.

    Raises:
        TypeError: ``net`` has no ``window()``.
        ValueError: an upsampling in it leaves gaps, see `minifcn.nn.window.Window.input_span`.
    """
    return geometry_of(net).receptive_field()


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
    offset = whole_shifts(maps, "the crop")
    for start, axis in zip(offset, AXES, strict=True):
        if start < 0:
            raise GeometryError(
                f"the crop would start at {start} along the {axis}: the layer begins {-start} cells inside its "
                f"target; pad the first layer by {-start} more, or crop the target instead"
            )
    return offset


def then(earlier: Maps, later: Maps) -> Maps:
    """Return the maps that apply ``earlier`` first."""
    return earlier[0].then(later[0]), earlier[1].then(later[1])


def path_between(target: Maps, layer: Maps) -> Maps:
    """Return the maps from ``target`` to ``layer``, both given from the image."""
    return then((target[0].inverse(), target[1].inverse()), layer)


def running_windows(net: nn.Module, before: Geometry | None = None) -> dict[str, Geometry]:
    """Return for each layer below ``net``, by its path, what lies between the net's input and the layer's output.

    ``before`` is what lies before the net. Of modules in a container of another kind than `nn.Sequential` and
    `nn.Parallel`, whose order nobody knows, nothing is told.
    """
    so_far = Chain([]) if before is None else before
    windows: dict[str, Geometry] = {}
    if isinstance(net, nn.Sequential | nn.Parallel):
        for name, layer in net.named_children():
            inside = running_windows(layer, so_far)
            windows |= {f"{name}.{path}": window for path, window in inside.items()}
            windows[name] = Chain([so_far, layer.window()])
            if isinstance(net, nn.Sequential):
                so_far = windows[name]
    return windows


def whole_shifts(path: Maps, crop: str) -> Pair:
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
                "change a kernel. An upsampling kernel smaller by one moves the start by 1/2 (AlexNet's 64 would need "
                "18.5; its 63 fits, with 18); no padding of the first layer helps, it moves all by whole pixels"
            )
    return int(path[0].shift), int(path[1].shift)


def geometry_of(net: HasWindow) -> Geometry:
    """Return what ``net.window()`` answers, or raise ``TypeError`` if that is no geometry."""
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
