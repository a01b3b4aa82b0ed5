"""Scenes: objects drawn on clutter, with the label of every pixel known; digits and shapes supply the objects.

A scene is what a segmentation data set is made of, small enough to train on in minutes: a canvas of uneven colour
with strokes and fragments of objects that mean nothing, and on it whole objects at random places, in random sizes
and colours. Labels follow PASCAL VOC: 0 is background, the pixels of an object have its class, and a band of two
pixels around it is ``VOID``, since where an object ends is a matter of taste.

A crop is what a window of a scene shows, drawn by the same means: it teaches the classifier that becomes a dense
net (FCN §3.1).
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from minifcn.data.dataset import VOID, DataError, Example, Split, check_split
from minifcn.data.pictures import to_input
from minifcn.random import stream

Array8 = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels; right and bottom lie outside

SMALLEST, LARGEST = 36, 64
"""The side of an object in pixels: the longer one of its bounding box."""

OUTLINE = 128
"""The alpha from which on a pixel belongs to an object."""

BAND = 2
"""The width of the void band around each object in pixels."""

_AREA = 64 * 64  # so many pixels hold _OBJECTS tries to place an object and _CLUTTER pieces of clutter, on average
_OBJECTS, _CLUTTER = 1.5, 3.5
_PLACES = 20  # tried for each object before it is left out
_BACKGROUND_SHARE = 0.25  # of the crops: most windows of a scene have no object in the middle
# Outputs of a net of stride 32 lie 32 pixels apart, so an object's middle is within 16 of some output's window's.
_OFF_CENTRE = 16


class Glyph(NamedTuple):
    """An object to draw.

    ``alpha`` is its picture, mode "L", cut to its bounding box: 0 lets the canvas through, 255 covers it. Pixels of
    ``OUTLINE`` and above have the label ``label``.
    """

    alpha: Image.Image
    label: int


@dataclass(frozen=True)
class Glyphs:
    """A collection of objects: its name, the names of its labels (the background's first), the objects."""

    kind: str
    classes: tuple[str, ...]
    objects: tuple[Glyph, ...]

    def any(self, rng: np.random.Generator) -> Glyph:
        """Return a random object."""
        return self.objects[rng.integers(len(self.objects))]

    def sized(self, rng: np.random.Generator) -> Glyph:
        """Return a random object in a random size."""
        alpha, label = self.any(rng)
        scale = rng.integers(SMALLEST, LARGEST, endpoint=True) / max(alpha.size)
        width, height = (max(1, round(side * scale)) for side in alpha.size)
        return Glyph(alpha.resize((width, height), Image.Resampling.BILINEAR), label)


@cache
def _scribbles() -> tuple[Image.Image, ...]:
    """Return 64 arcs, thin and soft-edged, as alphas to be drawn at any size."""
    rng = stream(0, "scribbles")
    alphas = []
    for _ in range(64):
        picture = Image.new("L", (256, 256))
        start, sweep = rng.uniform(0, 360), rng.uniform(40, 200)
        ImageDraw.Draw(picture).arc((8, 8, 248, 248), start, start + sweep, 255, int(rng.integers(12, 28)))
        alphas.append(picture.reduce(4))
    return tuple(alphas)


class _Canvas:
    """A picture in the making: clutter first, then objects, grain over all when it is finished."""

    def __init__(self, rng: np.random.Generator, glyphs: Glyphs, height: int, width: int) -> None:
        self.rng = rng
        self.base = rng.uniform(90, 165, 3).tolist()
        cells = rng.uniform(-25, 25, (height // 32 + 2, width // 32 + 2, 3)) + self.base
        self.picture = Image.fromarray(cells.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        for _ in range(rng.poisson(_CLUTTER * height * width / _AREA)):
            piece = self._scribble() if rng.random() < 0.6 else self._fragment(glyphs)
            x, y = rng.integers(0, (width, height)).tolist()
            self.paste(piece, x - piece.width // 2, y - piece.height // 2)

    def paste(self, alpha: Image.Image, left: int, top: int) -> None:
        """Draw ``alpha`` in a random colour; what lies outside of the canvas is cut off.

        The colour is lighter than the canvas, by 35 or more in each channel where the canvas itself varies by 25. So
        everything can be seen, and no colour tells an object from the clutter.
        """
        contrast, *hue = self.rng.random(4).tolist()
        step = 65 + 50 * contrast
        red, green, blue = (
            min(round(base + step + 60 * (h - 0.5)), 255) for base, h in zip(self.base, hue, strict=True)
        )
        self.picture.paste((red, green, blue), (left, top), alpha)

    def finished(self) -> Array8:
        """Return the picture (H, W, 3) with uniform grain over it, of up to ±12 of 255."""
        pixels = np.array(self.picture, np.int16)
        grain = self.rng.integers(-128, 128, pixels.shape, np.int8)
        pixels += grain * self.rng.integers(13, dtype=np.int16) >> 7
        return np.clip(pixels, 0, 255).astype(np.uint8)

    def _scribble(self) -> Image.Image:
        """Return a stroke, thinner than an object's."""
        width, height = self.rng.integers(12, 64, 2).tolist()
        alpha = _scribbles()[self.rng.integers(len(_scribbles()))]
        return alpha.resize((width, height), Image.Resampling.BILINEAR)

    def _fragment(self, glyphs: Glyphs) -> Image.Image:
        """Return half of an object, smaller than whole ones are."""
        alpha = glyphs.any(self.rng).alpha
        width, height = alpha.size
        halves = (
            (0, 0, width // 2, height),
            (width // 2, 0, width, height),
            (0, 0, width, height // 2),
            (0, height // 2, width, height),
        )
        left, top, right, bottom = halves[self.rng.integers(4)]
        scale = self.rng.uniform(16, 32) / max(alpha.size)
        size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
        return alpha.resize(size, Image.Resampling.BILINEAR, (left, top, right, bottom))


def _grown(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """Return ``mask`` with every pixel that has a true one at most ``by`` rows and ``by`` columns away."""
    rows = mask.copy()
    for step in range(1, by + 1):
        rows[step:] |= mask[:-step]
        rows[:-step] |= mask[step:]
    grown = rows.copy()
    for step in range(1, by + 1):
        grown[:, step:] |= rows[:, :-step]
        grown[:, :-step] |= rows[:, step:]
    return grown


def draw_scene(rng: np.random.Generator, glyphs: Glyphs, height: int, width: int) -> tuple[Array8, Array8]:
    """Draw a scene of at least one object; objects lie wholly inside and apart from each other.

    Returns its picture (height, width, 3) and its labels (height, width).
    """
    canvas = _Canvas(rng, glyphs, height, width)
    label = np.zeros((height, width), np.uint8)
    for _ in range(1 + rng.poisson(_OBJECTS * height * width / _AREA)):
        alpha, value = glyphs.sized(rng)
        rows, columns = alpha.height + 2 * BAND, alpha.width + 2 * BAND
        places = rng.integers(0, (height - rows, width - columns), (_PLACES, 2), endpoint=True).tolist()
        for top, left in places:
            region = label[top : top + rows, left : left + columns]
            if not region.any():
                inside = np.zeros((rows, columns), np.bool_)
                inside[BAND:-BAND, BAND:-BAND] = np.asarray(alpha) >= OUTLINE
                region[_grown(inside, BAND)] = VOID
                region[inside] = value
                canvas.paste(alpha, left + BAND, top + BAND)
                break
    return canvas.finished(), label


def draw_crop(rng: np.random.Generator, glyphs: Glyphs, side: int) -> tuple[Array8, int]:
    """Draw the window of a scene around an object, or around none; parts of other objects may look in.

    Returns its picture (side, side, 3) and its class.
    """
    canvas = _Canvas(rng, glyphs, side, side)
    middle = side // 2
    value = 0
    box: Box = (middle - _OFF_CENTRE, middle - _OFF_CENTRE, middle + _OFF_CENTRE, middle + _OFF_CENTRE)
    if rng.random() >= _BACKGROUND_SHARE:
        alpha, value = glyphs.sized(rng)
        x, y = (middle + rng.integers(-_OFF_CENTRE, _OFF_CENTRE, 2, endpoint=True)).tolist()
        left, top = x - alpha.width // 2, y - alpha.height // 2
        box = (left, top, left + alpha.width, top + alpha.height)
        canvas.paste(alpha, left, top)
    for _ in range(rng.poisson(_OBJECTS)):
        _paste_beside(canvas, glyphs, box)
    return canvas.finished(), value


def _paste_beside(canvas: _Canvas, glyphs: Glyphs, box: Box) -> None:
    """Draw an object left of, right of, above or below ``box``, near enough to look into a crop now and then."""
    rng = canvas.rng
    alpha, _ = glyphs.sized(rng)
    gap = int(rng.integers(2 * BAND, 24))
    x = int(rng.integers(box[0] - alpha.width, box[2]))
    y = int(rng.integers(box[1] - alpha.height, box[3]))
    places = (
        (box[0] - gap - alpha.width, y),
        (box[2] + gap, y),
        (x, box[1] - gap - alpha.height),
        (x, box[3] + gap),
    )
    canvas.paste(alpha, *places[rng.integers(4)])


class _Drawn:
    """A data set that draws its examples when asked: which random stream draws which example."""

    channels = 3
    _what: str  # names the stream, so that scenes and crops of one seed have nothing to do with each other

    def __init__(self, glyphs: Glyphs, split: Split, count: int, seed: int) -> None:
        check_split(split)
        self.classes = glyphs.classes
        self._glyphs, self._split, self._count, self._seed = glyphs, split, count, seed

    def __len__(self) -> int:
        return self._count

    def _named_stream(self, index: int, epoch: int) -> tuple[str, np.random.Generator]:
        """Return the name of an example and the generator that draws it: for training, new ones each epoch."""
        if not 0 <= index < self._count:
            raise IndexError(f"index must lie in 0 … {self._count - 1}, got {index}")
        if self._split != "train":
            epoch = 0
        name = f"{self._glyphs.kind}-{self._split}-{self._what}"
        return f"{name}-{epoch}-{index:05d}", stream(self._seed, name, epoch, index)


class Scenes(_Drawn):
    """``count`` scenes with a label for every pixel: drawn anew each epoch for training, fixed for "val" and "test".

    ``size`` is a scene's side or its (height, width) in pixels.
    """

    _what = "scene"

    def __init__(self, glyphs: Glyphs, split: Split, size: int | tuple[int, int], *, count: int, seed: int) -> None:
        super().__init__(glyphs, split, count, seed)
        self.size = (size, size) if isinstance(size, int) else size
        if min(self.size) < LARGEST + 2 * BAND:
            raise DataError(
                f"size must be at least {LARGEST + 2 * BAND} pixels, which the largest object takes, got {size}"
            )

    def example(self, index: int, epoch: int = 0) -> Example:
        """Draw scene ``index``: image (3, H, W), label (H, W)."""
        name, rng = self._named_stream(index, epoch)
        picture, label = draw_scene(rng, self._glyphs, *self.size)
        return Example(to_input(picture), label, name)


class Crops(_Drawn):
    """``count`` windows of scenes, each with one class: 0 where no object is in the middle."""

    _what = "crop"

    def __init__(self, glyphs: Glyphs, split: Split, size: int, *, count: int, seed: int) -> None:
        super().__init__(glyphs, split, count, seed)
        self.size = size

    def example(self, index: int, epoch: int = 0) -> Example:
        """Draw crop ``index``: image (3, size, size), label ()."""
        name, rng = self._named_stream(index, epoch)
        picture, value = draw_crop(rng, self._glyphs, self.size)
        return Example(to_input(picture), np.array(value, np.uint8), name)
