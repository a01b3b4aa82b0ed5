"""FCN §4.2: how much padding does a net need? Less than 100, and much less if no image is small.

Paddings up to 104 are tried on every side from 1 to 1199 pixels: how many sides leave pixels without a score? The
smallest padding that leaves none is what `fcn.geometry.minimum_padding` derives.
"""

import numpy as np
from experiment import folder_of, plot, report

from minifcn import fcn, models, nn

NETS = {
    "FCN-32s, VGG16": (models.vgg16, 32),
    "FCN-16s, VGG16": (models.vgg16, 16),
    "FCN-8s, VGG16": (models.vgg16, 8),
    "FCN-32s, AlexNet": (models.alexnet, 32),
}
SIDES = np.arange(1, 1200)
PADDINGS = range(64, 105)
LARGE = np.arange(300, 501)  # of PASCAL VOC's images, nearly all


def main() -> None:
    rows, curves = [], {}
    for name, (classifier, stride) in NETS.items():
        with nn.init.blank():  # draw no weights
            backbone = fcn.convolutionalize(classifier(10))
        uncovered = {}
        for padding in PADDINGS:
            try:
                plan = fcn.FCN(backbone, 1, stride=stride, padding=padding).plan
            except fcn.geometry.GeometryError:  # the scores begin inside of the image, whatever its size
                uncovered[padding] = SIDES
            else:
                uncovered[padding] = SIDES[~plan.covers(SIDES)]
        enough = min(padding for padding, sides in uncovered.items() if not len(sides))
        for_large = min(padding for padding, sides in uncovered.items() if not np.isin(sides, LARGE).any())
        net = fcn.FCN(backbone, 1, stride=stride)
        derived = [fcn.geometry.minimum_padding(net, sides) for sides in (SIDES, LARGE)]
        rows.append((name, enough, derived[0], for_large, derived[1]))
        aligned = {padding: len(sides) for padding, sides in uncovered.items() if len(sides) < len(SIDES)}
        curves[name] = list(aligned), list(aligned.values())
    plot(folder_of("minimum_padding") / "sides.png", {"padding": curves}, "sides from 1 to 1199 left without scores")
    header = ("net", "smallest padding, tried", "derived", "for sides 300 … 500, tried", "derived")
    report("minimum_padding", header, rows)


if __name__ == "__main__":
    main()
