"""FCN §4.1: the table of the three classifiers made dense, from the nets themselves.

Only 907 differs: the receptive field of GoogLeNet *with* its 7×7 average pool, which the paper's dense net drops.
"""

from experiment import report

from minifcn import fcn, models, nn

PAPER = {"AlexNet": (8, 57, 355, 32), "VGG16": (16, 134, 404, 32), "GoogLeNet": (22, 6, 907, 32)}
CLASSES = 21  # PASCAL VOC's


def main() -> None:
    rows = []
    for name, (conv_layers, millions, receptive_field, max_stride) in PAPER.items():
        with nn.init.blank():  # nothing is computed: draw no weights
            classifier = getattr(models, name.lower())(1000)
            dense = fcn.summarize(fcn.FCN(fcn.convolutionalize(classifier), CLASSES))
        rows += [
            (name, "conv. layers", conv_layers, dense.conv_layers),
            (name, "parameters", f"{millions} M", f"{dense.parameters / 1e6:.1f} M"),
            (name, "receptive field", receptive_field, dense.receptive_field[0]),
            (name, "max stride", max_stride, dense.max_stride[0]),
        ]
    with_pool, _ = fcn.summarize(classifier).receptive_field
    print(f"GoogLeNet, its average pool counted, has a receptive field of {with_pool}: {rows[-2][3]} + 6·32")
    report("classifiers", ("net", "", "paper", "here"), rows)


if __name__ == "__main__":
    main()
