"""FCN §5, SIFT Flow: one net with two heads against two nets.

Every pixel of a digit has two labels: which digit it is, and what the digit is drawn with (loops, curves, lines). The
paper found one net with two heads to do both as well as a net for each, at the cost of one.
"""

import time

import numpy as np
from experiment import PADDING, Effort, chosen_effort, classifier, folder_of, percent, report, scenes, settings, train

from minifcn import fcn, ops, pictures
from minifcn.data import PALETTE, Example, View, to_picture
from minifcn.data.digits import CLASSES, FORMS, forms
from minifcn.training import evaluate, metrics, predict

HEADS = {"digits": len(CLASSES), "forms": len(FORMS)}
LABELS = {"digits": lambda label: label, "forms": forms}


class Forms(View):
    """Scenes with the second set of labels."""

    classes = FORMS

    def example(self, index, epoch=0):
        example = super().example(index, epoch)
        return Example(example.image, forms(example.label), example.name)


def loss_of(tasks):
    """Return what a net with these heads is trained by: the sum of what each head costs."""

    def loss(scores, labels, class_weight):
        costs = [ops.cross_entropy(scores[task], LABELS[task](labels), reduction="sum") for task in tasks]
        return sum(costs[1:], costs[0])

    return loss


def main(effort: Effort) -> None:
    start = classifier(effort)
    test = {"digits": scenes("test", effort.test_scenes)}
    test["forms"] = Forms(test["digits"])
    rows, nets = [], {}
    for tasks in (["digits"], ["forms"], ["digits", "forms"]):
        net = fcn.MultiTask(fcn.convolutionalize(start), {t: HEADS[t] for t in tasks}, stride=8, padding=PADDING)
        name = "two heads" if len(tasks) == 2 else f"{tasks[0]} only"
        begun = time.perf_counter()
        train(name, net, scenes("train"), settings(effort.steps), loss=loss_of(tasks))
        seconds = time.perf_counter() - begun
        scores = {task: metrics.scores(evaluate(net.head(task), test[task], progress=True)) for task in tasks}
        cells = [f"{percent(s.pixel_accuracy)} / {percent(s.mean_iu)}" for s in scores.values()]
        by_task = dict(zip(tasks, cells, strict=True))
        speed = f"{1000 * seconds / effort.steps:.0f}"
        rows.append((name, by_task.get("digits", ""), by_task.get("forms", ""), speed))
        nets[name] = net
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
    main(chosen_effort())
