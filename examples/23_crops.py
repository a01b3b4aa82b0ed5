"""FCN §4.2: the six crop offsets of the released nets, derived from their layers, and where the maps' cells lie.

Each layer moves the pixels of the image by a known map, x → a·x + b, in exact fractions. Cells of two maps can be added
where they lie over the same pixels; the crop is how many cells lie before the first such pair.
"""

import numpy as np
from experiment import folder_of, report

from minifcn import fcn, models, nn

RELEASED = {
    ("FCN-32s", "VGG16"): [19],
    ("FCN-16s", "VGG16"): [5, 27],
    ("FCN-8s", "VGG16"): [5, 9, 31],
    ("FCN-32s", "AlexNet"): [18],
}


def main() -> None:
    rows = []
    for (name, classifier), released in RELEASED.items():
        stride = int(name.removeprefix("FCN-").removesuffix("s"))
        with nn.init.blank():  # draw no weights
            backbone = fcn.convolutionalize(getattr(models, classifier.lower())(1000))
            net = fcn.FCN(backbone, 21, stride=stride, padding=100)
        derived = [*(fusion.fine_offset[0] for fusion in net.plan.fusions), net.plan.offset[0]]
        kernel = net.plan.upsample.kernel[0]
        rows.append(
            (f"{name}, {classifier}", listed(released), listed(derived), f"{kernel}/{net.plan.upsample.stride[0]}")
        )
        if name == "FCN-8s":
            print(fcn.geometry.explain(net, 500))
            draw(net)
    try:
        fcn.geometry.plan_skips(net.plan.taps, {32: nn.Window(64, 32, transposed=True)})
    except fcn.geometry.GeometryError as error:
        print(f"\nAlexNet with a kernel of 64: {error}")
    header = ("net", "crops of the released net", "derived", "last upsampling")
    report("crops", header, rows)


def listed(numbers):
    return ", ".join(map(str, numbers))


def draw(net):
    """Draw, around the image's left edge, where cells of FCN-8s lie, and which of them are the first to be added."""
    import matplotlib as mpl

    mpl.use("agg")  # into a file; needs no screen
    from matplotlib import pyplot as plt

    paths = net.paths()
    after_pool4, after_pool3 = (fusion.fine_offset[1] for fusion in net.plan.fusions)
    maps = {
        "scores of fc7": (paths["score.stride32"], None),
        "… upsampled 2×": (paths["upsample.stride32"], 0),
        "pool4": (paths["score.stride16"], after_pool4),
        "sum, upsampled 2×": (paths["upsample.stride16"], 0),
        "pool3": (paths["score.stride8"], after_pool3),
        "sum, upsampled 8×": (paths["upsample.final"], net.plan.offset[1]),
    }
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    axes.axvspan(-0.5, 90, color="0.9")
    axes.text(2, 0.55, "image", va="center")
    for row, (path, first) in enumerate(maps.values()):
        _, horizontal = path.coordinate_map()
        centres = [float(horizontal.inverse()(cell)) for cell in range(200)]
        inside = [x for x in centres if x < 90]
        axes.plot(inside, np.full(len(inside), -row), "|", color="tab:blue", markersize=8)
        if first is not None:
            axes.plot(centres[first], -row, "o", color="tab:red")
            axes.annotate(
                f"cell {first}", (centres[first], -row), xytext=(4, 5), textcoords="offset points", fontsize=8
            )
    axes.set_yticks(-np.arange(len(maps)), list(maps))
    axes.set(xlabel="pixels from the left edge of the image", xlim=(-100, 90), ylim=(-len(maps) + 0.4, 0.9))
    figure.savefig(folder_of("crops") / "cells.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
