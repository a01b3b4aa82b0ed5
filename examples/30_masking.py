"""PAMI 2017, table 8: does the net look at the things themselves, or at what is around them?

One net learns whole images and is tested with a part of them masked. Others learn and are tested on a part only. The
score is the mean IU without the background class, as in the paper.
"""

import numpy as np
from experiment import Effort, chosen_effort, classifier, folder_of, percent, report, scenes, segmenter, settings, train

from minifcn import pictures
from minifcn.data import PALETTE, Masked, to_picture
from minifcn.training import evaluate, metrics, predict

# (name, masked while training, masked in the test, the paper's mean IU on PASCAL VOC)
ROWS = (
    ("reference", None, None, 84.8),
    ("reference, background masked", None, "background", 81.0),
    ("reference, foreground masked", None, "foreground", 19.8),
    ("foreground only", "background", "background", 76.1),
    ("background only", "foreground", "foreground", 37.8),
    ("shape only", "both", "both", 29.1),
)


def main(effort: Effort) -> None:
    start = classifier(effort)
    nets, rows, columns = {}, [], []
    for name, learned, tested, paper in ROWS:
        if learned not in nets:
            nets[learned] = segmenter(start)
            train(name, nets[learned], masked(scenes("train"), learned), settings(effort.steps))
        test = masked(scenes("test", effort.test_scenes), tested)
        iu = metrics.per_class_iu(evaluate(nets[learned], test, progress=True))
        rows.append((name, learned or "nothing", tested or "nothing", percent(np.nanmean(iu[1:])), paper))
        example = test.example(0)
        columns.append([to_picture(example.image), PALETTE[predict(nets[learned], example.image)]])
    draw(columns)
    report("masking", ("net", "masked in training", "masked in the test", "mean IU of digits", "paper"), rows)


def masked(dataset, part):
    return dataset if part is None else Masked(dataset, part)


def draw(columns):
    titles = ["whole", "no background", "no foreground", "foreground net", "background net", "shape net"]
    pictures.grid(list(zip(*columns, strict=True)), titles).save(folder_of("masking") / "seen.png")


if __name__ == "__main__":
    main(chosen_effort())
