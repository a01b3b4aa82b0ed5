"""PAMI 2017: how good could a net of stride f be at most?

The ground truth itself is subsampled by f and enlarged again. What it keeps of its own mean IU bounds what a net with
one answer for every f pixels can reach, and shows why coarse nets score well: most of a picture is inside of things.
"""

import numpy as np
from experiment import Effort, chosen_effort, folder_of, percent, report

from minifcn import pictures
from minifcn.data import PALETTE, DigitScenes, ShapeScenes, to_picture
from minifcn.training import metrics

PAPER = {128: 50.9, 64: 73.3, 32: 86.1, 16: 92.8, 8: 96.4, 4: 98.5}  # PASCAL VOC, whose objects are larger


def main(effort: Effort) -> None:
    size, count = 256, effort.test_scenes // 2
    kinds = {"digits": DigitScenes("test", size, count=count), "shapes": ShapeScenes("test", size, count=count)}
    labels = {name: np.stack([data.example(i).label for i in range(count)]) for name, data in kinds.items()}
    rows = []
    for factor, paper in PAPER.items():
        bounds = {n: metrics.mean_iu(metrics.upper_bound(labels[n], factor, len(kinds[n].classes))) for n in kinds}
        rows.append((factor, *(percent(bound) for bound in bounds.values()), paper))
    draw(kinds["digits"].example(0), folder_of("upper_bounds"))
    report("upper_bounds", ("factor", "digits", "shapes", "paper (PASCAL VOC)"), rows)


def draw(example, folder):
    """Draw a scene's labels as they are, and as they come back from each factor."""
    columns = [to_picture(example.image), PALETTE[example.label]]
    for factor in (8, 16, 32):
        cells = example.label[factor // 2 :: factor, factor // 2 :: factor]  # sampled at the cells' centres
        columns.append(PALETTE[cells.repeat(factor, axis=0).repeat(factor, axis=1)])
    pictures.grid([columns], ["scene", "labels", "by 8", "by 16", "by 32"]).save(folder / "labels.png")


if __name__ == "__main__":
    main(chosen_effort())
