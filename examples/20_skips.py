"""FCN §4.2, table 2: from FCN-32s-fixed to 8s, and two steps further than the paper went, to 4s and 2s.

Each net starts from the one before it. Its new score layer is zero, so it begins where that one ended.
"""

from experiment import (
    PADDING,
    Effort,
    chosen_effort,
    classifier,
    draw_predictions,
    in_percent,
    measure,
    report,
    scenes,
    segmenter,
    settings,
    train,
)

from minifcn import fcn
from minifcn.data.digits import CLASSES

PAPER = {
    "FCN-32s-fixed": (83.0, 59.7, 45.4, 72.0),
    "FCN-32s": (89.1, 73.3, 59.4, 81.4),
    "FCN-16s": (90.0, 75.7, 62.4, 83.0),
    "FCN-8s": (90.3, 75.9, 62.7, 83.2),
}


def main(effort: Effort) -> None:
    start = classifier(effort)
    test = scenes("test", effort.test_scenes)
    nets, rows = {}, []
    for name, stride in [("FCN-32s-fixed", 32), *((f"FCN-{s}s", s) for s in (32, 16, 8, 4, 2))]:
        if not nets:
            net = segmenter(start, stride=stride)
        else:
            backbone = fcn.convolutionalize(start)
            net = fcn.FCN(backbone, len(CLASSES), stride=stride, padding=PADDING).start_from(list(nets.values())[-1])
        for parameter in net.backbone.parameters():
            parameter.requires_grad = name != "FCN-32s-fixed"
        train(name, net, scenes("train"), settings(effort.steps // 4))
        nets[name] = net
        rows.append((name, *in_percent(measure(net, test)), " / ".join(map(str, PAPER.get(name, ())))))
    draw_predictions("skips", {name: net for name, net in nets.items() if name != "FCN-32s-fixed"}, test)
    report("skips", ("net", "pixel acc.", "mean acc.", "mean IU", "f.w. IU", "the paper's, on VOC"), rows)


if __name__ == "__main__":
    main(chosen_effort())
