"""Pictures and arrays: the one place where picture files are opened, and the one convention for pixel values.

A *picture* is uint8 (H, W, 3), as files and screens have it; an *image* is float32 (3, H, W), as a net takes it.

Files come from strangers. A PNG of 24 KB can hold 200 million pixels, so the size in the header is checked before
any pixel is decoded, and whatever is wrong with a file is told as a one-line ``DataError`` that names it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from minifcn.data.dataset import VOID, DataError, listed

MAX_PIXELS = 2**26
"""The most pixels a file may hold, 8192 × 8192: 0.8 GB as a float32 image, and below the limit of Pillow's own."""


def to_input(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return picture (H, W, 3), 0 … 255, as an image (3, H, W): (pixel − 127.5) / 127.5, so mid-grey is 0."""
    image = np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)
    image -= 127.5
    image /= 127.5
    return image


def to_picture(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return image (3, H, W) as a picture (H, W, 3): the inverse of ``to_input``, rounded and clipped to 0 … 255."""
    pixels = np.rint(image.transpose(1, 2, 0) * 127.5 + 127.5)
    return np.clip(pixels, 0, 255).astype(np.uint8)


class Header(NamedTuple):
    """What a file tells of its picture before it is decoded."""

    width: int
    height: int
    mode: str
    """Pillow's name for the kind of pixels: "L" is 8-bit grey, "P" indices into a palette, "RGB" colours."""
    orientation: int
    """EXIF's: 1 where the pixels are stored upright, 2 … 8 where they are to be turned or mirrored first."""


def read_header(path: Path) -> Header:
    """Read the header of the PNG or JPEG file ``path``; raises DataError as ``load_image`` does."""
    with _opened(path) as picture:
        return Header(*picture.size, picture.mode, _orientation(picture))


def load_image(path: str | Path, max_side: int | None = None) -> npt.NDArray[np.float32]:
    """Read a PNG or JPEG file as an image float32 (3, H, W), turned upright as its EXIF orientation says.

    ``max_side``: a picture with a longer side is reduced to that many pixels (antialiased), its shape kept.
    Grey pictures become three equal channels; transparency is dropped.

    Raises:
        DataError: the file is missing, no PNG or JPEG, damaged, of 16-bit pixels or of more than ``MAX_PIXELS``.
        ValueError: ``max_side`` is below 1.
    """
    path = Path(path)
    with _opened(path) as picture:
        if picture.mode.startswith("I"):
            raise DataError(f"{path}: has 16-bit pixels; expected 8 bits a channel, save it as such")
        # A palette may hold transparency, which RGBA can take over and RGB cannot.
        colours = picture.convert("RGBA") if picture.mode == "P" else picture
        pixels = colours.convert("RGB")
        orientation = _orientation(picture)
    pixels = pixels.resize(_fit(pixels.size, max_side), Image.Resampling.BILINEAR)
    if orientation != 1:
        pixels = pixels.transpose(_UPRIGHT[orientation])
    return to_input(np.asarray(pixels))


def load_label(path: Path, classes: Sequence[str] | None = None, max_side: int | None = None) -> npt.NDArray[np.uint8]:
    """Read a mask: a PNG file in palette, 8-bit grey or 1-bit mode, as labels uint8 (H, W).

    A palette's indices *are* the labels; its colours are for the eye only. ``max_side`` as in ``load_image``, but
    every new pixel is the nearest old one: a mixture of two labels would be a third.

    Raises:
        DataError: as ``load_image`` does; the mask is in colours; ``classes`` is given and the mask holds a label that
            is neither one of them nor ``VOID``.
    """
    with _opened(path) as picture:
        check_mask_mode(path, picture.mode)
        label = np.array(picture, np.uint8)
    if classes is not None:
        unknown = [value for value in values_of(label) if value >= len(classes) and value != VOID]
        if unknown:
            known = listed([f"{value} {name}" for value, name in enumerate(classes)])
            raise DataError(
                f"{path}: holds the unknown label{'s'[: len(unknown) > 1]} {listed(unknown)}; known are {known} and "
                f"{VOID} for void; name the class in classes.txt or mend the mask"
            )
    height, width = label.shape
    size = _fit((width, height), max_side)
    return np.array(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))


def check_mask_mode(path: Path, mode: str) -> None:
    """Raise DataError unless pixels of ``mode`` are labels: indices of a palette, or 8-bit or 1-bit grey."""
    if mode not in ("P", "L", "1"):
        raise DataError(
            f"{path}: is a mask of mode {mode}; expected a PNG with one label a pixel, in palette (P) or 8-bit "
            "grey (L) mode; turn each colour into its class's number"
        )


def values_of(label: npt.NDArray[np.uint8]) -> list[int]:
    """Return the values that occur in ``label``, ascending."""
    found: list[int] = np.flatnonzero(np.bincount(label.reshape(-1))).tolist()
    return found


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    """Yield the file's picture, header read and pixels not decoded; turn what goes wrong within into DataErrors."""
    try:
        with path.open("rb") as file:
            signature = file.read(3)
            file.seek(0)
            # Not Image.open: it knows many formats more, and its limit on the size warns before it refuses.
            if signature == b"\x89PN":
                picture: ImageFile = PngImageFile(file)
            elif signature == b"\xff\xd8\xff":
                picture = JpegImageFile(file)
            else:
                raise DataError(f"{path}: is neither a PNG nor a JPEG file; convert it to one of them")
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(
                    f"{path}: has {width} × {height} pixels; at most {MAX_PIXELS:,} are read, make it smaller"
                )
            yield picture
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError) as error:  # all that Pillow raises for what it cannot decode
        raise DataError(f"{path}: cannot be read ({error}); the file is damaged, save it again") from error


# What EXIF's orientations ask for, by Pillow's names; ImageOps.exif_transpose does the same, but it also writes the
# EXIF data anew and fails where a camera wrote some of it wrongly.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(picture: ImageFile) -> int:
    """Return EXIF's orientation as the header tells it, 1 where it does not."""
    # Not picture.getexif(): for a PNG it would decode the pixels, to look for EXIF data behind them.
    orientation = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in _UPRIGHT else 1


def _fit(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Return ``size`` (width, height) reduced so that its longer side is at most ``max_side``."""
    longer = max(size)
    if max_side is None or longer <= max_side:
        return size
    if max_side < 1:
        raise ValueError(f"max_side must be at least 1, got {max_side}")
    width, height = (max(1, round(side * max_side / longer)) for side in size)
    return width, height
