"""FCN §5, SIFT Flow: one net with two heads against two nets.

Every pixel of a digit has two labels: which digit it is, and what the digit is drawn with (loops, curves, lines). The
paper found one net with two heads to do both as well as a net for each, at the cost of one.
"""

import time

import numpy as np
from experiment import FULL, PADDING, Effort, classifier, folder_of, percent, report, scenes, settings
from tqdm import tqdm

from minifcn import Tensor, fcn, nn, ops, pictures
from minifcn.data import PALETTE, Example, View, to_picture
from minifcn.data.digits import CLASSES, FORMS, forms
from minifcn.training import SGD, evaluate, metrics, predict
from minifcn.training.batches import microbatches

HEADS = {"digits": len(CLASSES), "forms": len(FORMS)}
LABELS = {"digits": lambda label: label, "forms": forms}


class Forms(View):
    """Scenes with the second set of labels."""

    classes = FORMS

    def example(self, index, epoch=0):
        example = super().example(index, epoch)
        return Example(example.image, forms(example.label), example.name)


def train(net, tasks, steps):
    """Train a net by the sum of its heads' losses; the loop is all that `Trainer` does, but for checkpoints."""
    config, data = settings(steps), scenes("train")
    optimizer = SGD(net, config.lr, config.momentum, config.weight_decay, config.clip_norm)
    net.train()
    for step in tqdm(range(steps), f"training {' and '.join(tasks)}", unit="step"):
        (batch,) = microbatches(data, config.seed, step, config.batch_size, 1)
        with nn.random_state(config.seed, step):
            scores = net(Tensor(batch.images))
        losses = [ops.cross_entropy(scores[task], LABELS[task](batch.labels)) for task in tasks]
        optimizer.zero_grad()
        sum(losses[1:], losses[0]).backward()
        optimizer.lr = config.lr_at(step)
        optimizer.step()


def main(effort: Effort = FULL) -> None:
    start = classifier(effort)
    test = {"digits": scenes("test", effort.test_scenes)}
    test["forms"] = Forms(test["digits"])
    rows, nets = [], {}
    for tasks in (["digits"], ["forms"], ["digits", "forms"]):
        net = fcn.MultiTask(fcn.convolutionalize(start), {t: HEADS[t] for t in tasks}, stride=8, padding=PADDING)
        begun = time.perf_counter()
        train(net, tasks, effort.steps)
        seconds = time.perf_counter() - begun
        scores = {task: metrics.scores(evaluate(net.head(task), test[task], progress=True)) for task in tasks}
        cells = [f"{percent(s.pixel_accuracy)} / {percent(s.mean_iu)}" for s in scores.values()]
        by_task = dict(zip(tasks, cells, strict=True))
        heads = "two heads" if len(tasks) == 2 else f"{tasks[0]} only"
        rows.append(
            (heads, by_task.get("digits", ""), by_task.get("forms", ""), f"{1000 * seconds / effort.steps:.0f}")
        )
        nets[heads] = net
    draw(nets["two heads"], test)
    header = ("net", "digits: pixel acc. / mean IU", "forms: pixel acc. / mean IU", "ms a training step")
    report("two_heads", header, rows)


def draw(net, test):
    rows = []
    for index in range(min(3, len(test["digits"]))):
        image = test["digits"].example(index).image
        row = [to_picture(image)]
        for task in HEADS:
            row += [PALETTE[predict(net.head(task), image)], PALETTE[test[task].example(index).label]]
        rows.append([np.ascontiguousarray(picture) for picture in row])
    titles = ["image", "digits", "truth", "forms", "truth"]
    pictures.grid(rows, titles).save(folder_of("two_heads") / "predictions.png")


if __name__ == "__main__":
    main()
