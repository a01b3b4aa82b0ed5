"""Scenes of real handwriting: the 1,797 scanned digits that ship inside scikit-learn.

They are the test set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998: 8×8 pixels, 0 (paper) … 16 (ink). A digit belongs to one split for good, so validation
and test scenes show digits that no training has seen.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from minifcn.data.dataset import VOID, Split, check_split, split_names
from minifcn.data.scenes import OUTLINE, Crops, Glyph, Glyphs, Scenes

CLASSES = ("background", *(f"digit {digit}" for digit in range(10)))

FORMS = ("background", "loops", "curves", "lines")
"""A second set of labels, for nets with two heads: what a digit is drawn with, loops (0 6 8 9), open curves (2 3 5) or
lines (1 4 7)."""

_FORM_OF_DIGIT = (1, 3, 2, 2, 3, 2, 1, 3, 1, 1)
_FORM_OF_LABEL = np.full(256, VOID, np.uint8)
_FORM_OF_LABEL[: len(CLASSES)] = (0, *_FORM_OF_DIGIT)


def forms(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return for labels of digit scenes, of any shape, those of `FORMS`; void stays void."""
    return _FORM_OF_LABEL[label]


@cache
def glyphs(split: Split) -> Glyphs:
    """Return the digits of ``split`` as objects to draw; digit d has label d + 1.

    Raises:
        ImportError: scikit-learn is missing; the message says what to install.
    """
    check_split(split)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'the scanned digits come with scikit-learn: pip install "minifcn[demo]", or use the shapes, '
            "which need nothing"
        ) from error
    scans = load_digits()
    chosen = [int(name) for name in split_names(f"{index:04d}" for index in range(len(scans.images)))[split]]
    return Glyphs(
        kind="digits",
        classes=CLASSES,
        objects=tuple(Glyph(_smooth(scans.images[index]), int(scans.target[index]) + 1) for index in chosen),
    )


def _smooth(scan: npt.NDArray[np.float64]) -> Image.Image:
    """Enlarge a scan (8, 8) tenfold and smoothly, and cut it to what will be labelled.

    Alpha is the ink times 1.5, so the outline runs where a third of a pixel is ink: at one half the strokes would be
    so thin that labels of stride 8 could hardly follow them, at less the holes of 8 and 9 would fill up.
    """
    margin = 1  # of paper, for the strokes that touch the edge of a scan
    side = 10 * (8 + 2 * margin)
    ink = Image.fromarray((np.pad(scan, margin) * (255 / 16)).astype(np.uint8))
    alpha = ink.resize((side, side), Image.Resampling.BICUBIC).point([min(grey * 3 // 2, 255) for grey in range(256)])
    return alpha.crop(alpha.point([grey >= OUTLINE for grey in range(256)]).getbbox())


class DigitScenes(Scenes):
    """``count`` scenes of scanned digits, 36 to 64 pixels high; see ``Scenes``."""

    def __init__(self, split: Split, size: int | tuple[int, int] = 128, *, count: int = 256, seed: int = 0) -> None:
        super().__init__(glyphs(split), split, size, count=count, seed=seed)


def digit_crops(split: Split, size: int = 64, *, count: int = 4096, seed: int = 0) -> Crops:
    """Return ``count`` windows of digit scenes for a classifier; see ``Crops``."""
    return Crops(glyphs(split), split, size, count=count, seed=seed)
