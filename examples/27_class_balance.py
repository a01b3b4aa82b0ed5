"""FCN §4.3: what weighting classes does, and that sampling them does the same in expectation.

Most pixels are background. Three trainings from the same start: all pixels alike; background weighted by w; background
pixels kept with probability q = w. Weighting finds more of the digits (recall) and takes more background for digits.
"""

import numpy as np
from experiment import (
    Effort,
    chosen_effort,
    classifier,
    draw_predictions,
    in_percent,
    percent,
    report,
    scenes,
    segmenter,
    settings,
    train,
)

from minifcn.data.digits import CLASSES
from minifcn.training import evaluate, metrics

BACKGROUND = 0.2  # about what makes it as common as all digits together


def main(effort: Effort) -> None:
    start = classifier(effort)
    balance = (BACKGROUND, *[1.0] * (len(CLASSES) - 1))
    test = scenes("test", effort.test_scenes)
    nets, rows = [], []
    for name, change in (
        ("as they are", {}),
        (f"background weighted by {BACKGROUND}", {"class_weight": balance}),
        (f"background kept with q = {BACKGROUND}", {"keep": balance}),
    ):
        net = segmenter(start)
        nets.append(net)
        train(name, net, scenes("train"), settings(effort.steps, **change))
        confusion = evaluate(net, test, progress=True)
        both = confusion[1:, 1:].sum()  # pixels of digits that are called digits, whichever
        found, right = both / max(1, confusion[1:].sum()), both / max(1, confusion[:, 1:].sum())
        rows.append((name, percent(found), percent(right), *in_percent(metrics.scores(confusion))))
    share = background_share(test)
    titles = ("as they are", "weighted", "sampled")
    draw_predictions("class_balance", dict(zip(titles, nets, strict=True)), test)
    print(f"background: {percent(share)} % of the labelled pixels")
    header = (
        "classes",
        "digit pixels found",
        "of those called digit, are",
        "pixel acc.",
        "mean acc.",
        "mean IU",
        "f.w. IU",
    )
    report("class_balance", header, rows)


def background_share(dataset):
    labels = np.stack([dataset.example(i).label for i in range(len(dataset))])
    return (labels == 0).sum() / (labels != 255).sum()


if __name__ == "__main__":
    main(chosen_effort())
