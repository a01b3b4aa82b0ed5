"""The doctor: a net that learns, and seven ways to keep it from learning. What does `diagnose` say of each?

On the command line it is ``minifcn doctor RUN``, which looks at the net, the data and the settings of a run.
"""

from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
from experiment import Effort, chosen_effort, classifier, report, scenes, segmenter, settings, train

from minifcn import fcn, models, training
from minifcn.data import VOID, Example, View
from minifcn.data.digits import CLASSES


@dataclass(frozen=True)
class Misread(View):
    """Scenes in which the label ``was`` is read as ``read``."""

    was: int
    read: int

    def example(self, index, epoch=0):
        example = super().example(index, epoch)
        label = np.where(example.label == self.was, np.uint8(self.read), example.label)
        return Example(example.image, label, example.name)


def main(effort: Effort) -> None:
    sound, data, config = segmenter(classifier(effort)), scenes("train"), settings(effort.steps)
    train("a sound net", sound, data, config)

    silent = deepcopy(sound)
    silent.backbone["conv3_1"].weight.data[...] = 0
    lazy = deepcopy(sound)
    lazy.score["stride32"].bias.data[0] = 1000  # background, whatever is seen
    untrained = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(len(CLASSES))), len(CLASSES), stride=8)
    cases = {
        "nothing": (sound, data, config),
        "a layer of zeros": (silent, data, config),
        "background everywhere": (lazy, data, config),
        "no classifier's weights": (untrained, data, config),
        "void read as digit 9": (sound, Misread(data, VOID, len(CLASSES) - 1), config),
        "a class too many": (sound, Misread(data, 1, len(CLASSES)), config),
        "lr of a summed loss": (sound, data, replace(config, lr=1e-10)),
        "lr of a mean loss": (sound, data, replace(config, reduction="sum")),
    }
    rows = []
    for wrong, (net, dataset, how) in cases.items():
        findings = training.diagnose(net, dataset, config=how)
        rows.append((wrong, "; ".join(finding.seen for finding in findings) or "nothing"))
    report("doctor", ("what is wrong", "what the doctor sees"), rows)


if __name__ == "__main__":
    main(chosen_effort())
