"""Scenes of geometric shapes: the same as scenes of digits, with nothing to install."""

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from minifcn.data.dataset import Split, check_split
from minifcn.data.scenes import Crops, Glyph, Glyphs, Scenes
from minifcn.random import stream

CLASSES = ("background", "circle", "square", "triangle", "star", "ring", "cross")

_VARIANTS = 32  # of each shape in a split
_SIDE = 256  # drawn in hard edges at this size, then reduced fourfold, which makes them soft


@cache
def glyphs(split: Split) -> Glyphs:
    """Return the shapes as objects to draw, each turned by ``_VARIANTS`` random angles of the split's own."""
    check_split(split)
    objects: list[Glyph] = []
    for value, name in enumerate(CLASSES[1:], start=1):
        angles = stream(0, f"shapes {split} {name}").uniform(0, 2 * np.pi, _VARIANTS)
        objects += [Glyph(drawn(name, angle), value) for angle in angles]
    return Glyphs(kind="shapes", classes=CLASSES, objects=tuple(objects))


def _corners(name: str) -> npt.NDArray[np.float64]:
    """Return the corners (n, 2) of a shape that fits into the unit circle."""
    if name == "cross":  # arms two fifths as wide as long, 0.37² + 0.92² ≈ 1
        a, b = 0.37, 0.92
        quarter = np.array([(a, a), (a, b), (-a, b)])
        turn = np.array([(0, 1), (-1, 0)])
        return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])
    radii = {"square": (1.0,) * 4, "triangle": (1.0,) * 3, "star": (1.0, 0.5) * 5}[name]
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.array(radii)[:, None]


def drawn(name: str, angle: float) -> Image.Image:
    """Draw a shape turned by ``angle`` (radians), cut to its bounding box."""
    centre, radius = _SIDE / 2, _SIDE / 2 - 4
    picture = Image.new("L", (_SIDE, _SIDE))
    draw = ImageDraw.Draw(picture)
    if name in ("circle", "ring"):
        draw.circle((centre, centre), radius, 255)
        if name == "ring":
            draw.circle((centre, centre), 0.45 * radius, 0)
    else:
        turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
        corners = centre + radius * _corners(name) @ turn
        draw.polygon([(x, y) for x, y in corners.tolist()], 255)
    return picture.crop(picture.getbbox()).reduce(4)


class ShapeScenes(Scenes):
    """``count`` scenes of shapes, 36 to 64 pixels on their longer side; see ``Scenes``."""

    def __init__(self, split: Split, size: int | tuple[int, int] = 128, *, count: int = 256, seed: int = 0) -> None:
        super().__init__(glyphs(split), split, size, count=count, seed=seed)


def shape_crops(split: Split, size: int = 64, *, count: int = 4096, seed: int = 0) -> Crops:
    """Return ``count`` windows of shape scenes for a classifier; see ``Crops``."""
    return Crops(glyphs(split), split, size, count=count, seed=seed)
