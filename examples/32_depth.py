"""FCN §5, NYUDv2: colour and depth, fused early or late.

A coarse and noisy depth camera sees that an object stands out, where the colour camera cannot tell objects from clutter
at once. All nets start from the same classifier of colours: one for colour alone; one for depth alone, its filters
those of the colours added up; one with depth as a fourth channel of the image, which weighs nothing at first (early
fusion). Then the first two side by side, their scores added (late fusion): as they are, and trained on as one net.
"""

from copy import deepcopy

import numpy as np
from experiment import (
    Effort,
    chosen_effort,
    classifier,
    folder_of,
    in_percent,
    measure,
    report,
    scenes,
    segmenter,
    settings,
    train,
)

from minifcn import fcn, models, pictures
from minifcn.data import PALETTE, Example, View, WithDepth, to_picture
from minifcn.data.digits import CLASSES
from minifcn.training import predict

PAPER = {"colour": 29.2, "late": 32.8}


class DepthAlone(View):
    """Scenes with depth, without their colours."""

    channels = 1

    def example(self, index, epoch=0):
        example = super().example(index, epoch)
        return Example(example.image[3:], example.label, example.name)


def with_first_layer(start, weight):
    """Return the classifier with other filters in its first layer, for images of as many channels as they have."""
    net = models.tiny_vgg(len(CLASSES), weight.shape[1])
    net.load_state_dict({**start.state_dict(), "conv1_1.weight": weight})
    return net


def main(effort: Effort) -> None:
    colours = classifier(effort)
    filters = colours["conv1_1"].weight.data
    of_depth = with_first_layer(colours, filters.sum(axis=1, keepdims=True))
    of_both = with_first_layer(colours, np.concatenate([filters, np.zeros_like(filters[:, :1])], axis=1))
    nets = {"colour": segmenter(colours), "depth": segmenter(of_depth), "early": segmenter(of_both)}
    views = {"colour": lambda data: data, "depth": lambda data: DepthAlone(WithDepth(data, seed=0))}
    test = scenes("test", effort.test_scenes)
    rows = []

    def seen_by(name, data):
        return views[name](data) if name in views else WithDepth(data, seed=0)

    def add_row(name, net, steps):
        scores = in_percent(measure(net, seen_by(name, test)))
        rows.append((name, steps, *scores, PAPER.get(name, "")))

    for name, net in nets.items():
        train(name, net, seen_by(name, scenes("train")), settings(effort.steps))
        add_row(name, net, effort.steps)
    nets["late"] = fcn.LateFusion(deepcopy(nets["colour"]), deepcopy(nets["depth"]), channels=3)
    add_row("late, untrained", nets["late"], "")
    more = settings(effort.steps // 2)
    train("late", nets["late"], seen_by("late", scenes("train")), more)
    add_row("late", nets["late"], f"+ {more.steps}")
    draw(nets, seen_by, test)
    header = ("net", "steps", "pixel acc.", "mean acc.", "mean IU", "f.w. IU", "paper's mean IU (NYUDv2)")
    report("depth", header, rows)


def draw(nets, seen_by, test):
    rows = []
    for index in range(min(3, len(test))):
        example = test.example(index)
        depth = seen_by("depth", test).example(index).image[0]
        guesses = [PALETTE[predict(net, seen_by(name, test).example(index).image)] for name, net in nets.items()]
        measured = pictures.heat((depth + 1) / 2, depth.shape)
        rows.append([to_picture(example.image), measured, *guesses, PALETTE[example.label]])
    titles = ["colour", "depth", *nets, "ground truth"]
    pictures.grid(rows, titles).save(folder_of("depth") / "predictions.png")


if __name__ == "__main__":
    main(chosen_effort())
