"""FCN §4.2: skips that take the maximum of two scores in place of their sum. The paper found them not to learn.

A sum lets a fine score layer of zeros change nothing, and gives both sides the gradient of the result. A maximum passes
it to the larger side only; and a fine layer of zeros cuts all negative scores off at once.
"""

from experiment import (
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

from minifcn import fcn, ops


class MaxFusion(fcn.FCN):
    """An FCN whose skips take maxima."""

    def fuse(self, coarse, fine, fusion):
        fine = ops.crop(fine, fusion.fine_offset, coarse.shape[2:])
        return coarse + ops.relu(fine - coarse)  # max(coarse, fine)


def main(effort: Effort) -> None:
    start = classifier(effort)
    test = scenes("test", effort.test_scenes)
    nets, rows = {}, []
    for name, kind in (("sum", fcn.FCN), ("maximum", MaxFusion)):
        net = nets[name] = segmenter(start, kind=kind)
        before = measure(net, test)
        train(name, net, scenes("train"), settings(effort.steps))
        rows.append((name, f"{100 * before.mean_iu:.1f}", *in_percent(measure(net, test))))
    draw_predictions("max_fusion", nets, test)
    header = ("fusion", "mean IU before training", "pixel acc.", "mean acc.", "mean IU", "f.w. IU")
    report("max_fusion", header, rows)


if __name__ == "__main__":
    main(chosen_effort())
