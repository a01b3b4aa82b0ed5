"""FCN §4.3: does it help to mirror the training images, and to move them by up to 32 pixels? The paper saw no gain.

The training set is small here, 32 scenes that stay the same in every epoch, so that there is something to gain. The
objects are shapes, since a mirrored digit is no digit. The nets start from the classifier of digits.
"""

from experiment import (
    PADDING,
    SCENE,
    Effort,
    chosen_effort,
    classifier,
    draw_predictions,
    in_percent,
    measure,
    report,
    settings,
    train,
)

from minifcn import fcn
from minifcn.data import Augmented, ShapeScenes, View
from minifcn.data.shapes import CLASSES

WAYS = {
    "none": {"mirror": False, "jitter": 0},
    "mirroring": {"mirror": True, "jitter": 0},
    "jitter": {"mirror": False, "jitter": 32},
    "both": {"mirror": True, "jitter": 32},
}


class Few(View):
    """Scenes that are not drawn anew each epoch."""

    def example(self, index, epoch=0):
        return super().example(index)


def main(effort: Effort) -> None:
    start = classifier(effort)
    few = Few(ShapeScenes("train", SCENE, count=32))
    test = ShapeScenes("test", SCENE, count=effort.test_scenes)
    nets, rows = {}, []
    for name, way in WAYS.items():
        net = nets[name] = fcn.FCN(fcn.convolutionalize(start), len(CLASSES), stride=8, padding=PADDING)
        train(name, net, Augmented(few, seed=0, **way), settings(effort.steps))
        rows.append((name, *(in_percent(measure(net, scenes))[2] for scenes in (few, test))))
    draw_predictions("augmentation", nets, test)
    report("augmentation", ("augmentation", "mean IU of training scenes", "of test scenes"), rows)


if __name__ == "__main__":
    main(chosen_effort())
