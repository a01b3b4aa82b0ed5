"""Results as pictures: scenes beside what nets make of them, heat maps, training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]  # (H, W, 3)

_GAP = 6
_TITLE = 22


def grid(rows: Sequence[Sequence[Picture]], titles: Sequence[str]) -> Image.Image:
    """Return pictures of one size in rows and columns, each column under its title: the form of FCN figure 4."""
    H, W = rows[0][0].shape[:2]
    sheet = Image.new("RGB", (len(titles) * (W + _GAP) - _GAP, _TITLE + len(rows) * (H + _GAP) - _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for column, title in enumerate(titles):
        draw.text((column * (W + _GAP) + W / 2, _TITLE / 2), title, "black", font, anchor="mm")
        for row, pictures in enumerate(rows):
            sheet.paste(Image.fromarray(pictures[column]), (column * (W + _GAP), _TITLE + row * (H + _GAP)))
    return sheet


def heat(values: npt.NDArray[np.floating[Any]], size: tuple[int, int]) -> Picture:
    """Return a map of numbers from 0 to 1 as colours from black over red and yellow to white, enlarged to (H, W)."""
    thirds = 3 * np.clip(values, 0, 1)[..., None] - np.arange(3)  # red fills the first third, green the second, …
    colours = (255 * np.clip(thirds, 0, 1)).astype(np.uint8)
    H, W = size
    return np.array(Image.fromarray(colours).resize((W, H), Image.Resampling.NEAREST))


def curves(path: Path, losses: Mapping[str, Sequence[float]], mean_iu: Mapping[str, Mapping[int, float]]) -> None:
    """Draw the loss of every stage step by step, and the mean IU on the validation set where it was measured."""
    import matplotlib as mpl

    mpl.use("agg")  # into a file; needs no screen
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, values in losses.items():
        window = min(20, len(values))  # steps: a running mean, since single steps jump about
        smooth = np.convolve(values, np.full(window, 1 / window), "valid")
        left.plot(np.arange(window, len(values) + 1), smooth, label=name)
    for name, points in mean_iu.items():
        right.plot(list(points), list(points.values()), "o-", label=name)
    left.set(xlabel="step", ylabel="loss (mean of the last 20 steps)", yscale="log")
    right.set(xlabel="step", ylabel="mean IU on validation scenes")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
