"""FCN §3.4, figure 5: does training on sampled patches converge faster than training on whole images?

Keeping each pixel's loss with probability p makes batches more various, and costs 1/p as many images for a batch of the
same size. Three trainings from the same start: every pixel, every second, every fourth.
"""

import numpy as np
from experiment import (
    Effort,
    chosen_effort,
    classifier,
    folder_of,
    percent,
    plot,
    report,
    scenes,
    segmenter,
    settings,
    train,
)

from minifcn import fcn

WHOLE = 2  # images in a batch of which every pixel is kept


def main(effort: Effort) -> None:
    start = classifier(effort)
    steps = effort.steps // 2
    curves, rows = {}, []
    for p in (1.0, 0.5, 0.25):
        images = fcn.images_per_batch(WHOLE, p)
        name = f"{p:.0%}, {images} images"
        config = settings(
            steps,
            batch_size=1,
            accumulate=images,
            keep=None if p == 1 else p,
            evaluate_every=max(1, steps // 6),
        )
        validation = scenes("val", effort.test_scenes // 2)
        records = train(name, segmenter(start), scenes("train"), config, validation=validation)
        curves[name], seconds = curve(records, images)
        rows.append((f"{p:.0%}", images, steps, percent(curves[name]["step"][1][-1]), f"{seconds:.0f}"))
    panels = {"steps": {n: c["step"] for n, c in curves.items()}, "seconds": {n: c["time"] for n, c in curves.items()}}
    plot(folder_of("loss_sampling") / "convergence.png", panels, "mean IU on validation scenes")
    report("loss_sampling", ("pixels kept", "images a batch", "steps", "mean IU", "seconds of training"), rows)


def curve(records, images):
    """Return the mean IU over the steps and over the seconds spent on them, and all those seconds."""
    seconds = np.cumsum([images / r["images_per_second"] for r in records if "loss" in r])
    evaluations = [r for r in records if "mean_iu" in r]
    steps, mean_iu = [r["step"] for r in evaluations], [r["mean_iu"] for r in evaluations]
    return {"step": (steps, mean_iu), "time": ([seconds[s - 1] for s in steps], mean_iu)}, seconds[-1]


if __name__ == "__main__":
    main(chosen_effort())
