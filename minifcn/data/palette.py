"""Labels as colours: PASCAL VOC's colour map, pictures with labels laid over them, and label files."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from minifcn.data.pictures import to_picture


def _voc_palette() -> npt.NDArray[np.uint8]:
    """Deal the bits of a label to red, green, blue, red, … from its lowest bit on, each colour from its highest.

    Labels near each other get colours far apart: 0 is black, 1 dark red (128, 0, 0), 2 dark green (0, 128, 0),
    3 their mixture, …, and void (255) a pale yellow (224, 224, 192).
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= ((labels >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette


PALETTE = _voc_palette()
"""The colour of every label, uint8 (256, 3): the colour map of the PASCAL VOC development kit."""

# fmt: off
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
"""What the labels 0 … 20 of PASCAL VOC mean, by the names of its development kit."""


def overlay(image: npt.NDArray[np.float32], label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the image (3, H, W) as a picture (H, W, 3) in which each pixel is half its label's colour.

    The background (label 0) stays as it is, so that the eye finds the objects.
    """
    if label.shape != image.shape[1:]:
        raise ValueError(f"label must have the image's height and width {image.shape[1:]}, got {label.shape}")
    picture = to_picture(image)
    objects = label != 0
    picture[objects] = picture[objects] // 2 + PALETTE[label[objects]] // 2
    return picture


def save_label(path: str | Path, label: npt.NDArray[np.uint8]) -> None:
    """Write label (H, W) as a PNG file whose pixels are the labels and whose palette is VOC's."""
    picture = Image.fromarray(np.ascontiguousarray(label, np.uint8))
    picture.putpalette(PALETTE.tobytes())
    picture.save(path, "PNG")
