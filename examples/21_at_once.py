"""FCN §4.2, journal version: all strides of FCN-8s trained at once, instead of 32s, then 16s, then 8s.

All begin with the same classifier and take the same number of steps. At once, all score layers learn from the first
step, with the features of each stride scaled to one norm (`fcn.feature_scales`), or as they are.
"""

from experiment import (
    PADDING,
    Effort,
    chosen_effort,
    classifier,
    folder_of,
    in_percent,
    measure,
    plot,
    report,
    scenes,
    segmenter,
    settings,
    train,
)

from minifcn import Tensor, fcn
from minifcn.data.digits import CLASSES


def main(effort: Effort) -> None:
    start = classifier(effort)
    test, validation = scenes("test", effort.test_scenes), scenes("val", effort.test_scenes // 2)
    steps = 3 * (effort.steps // 4)

    def at_once(**options):
        net = fcn.FCN(fcn.convolutionalize(start), len(CLASSES), stride=8, padding=PADDING, **options)
        return net.start_from(segmenter(start, stride=32))

    def learn(name, net, steps):
        config = settings(steps, evaluate_every=max(1, steps // 4))
        records = [r for r in train(name, net, scenes("train"), config, validation=validation) if "mean_iu" in r]
        return [r["step"] for r in records], [r["mean_iu"] for r in records]

    images = [Tensor(scenes("train").example(i).image[None]) for i in range(4)]
    scales = fcn.feature_scales(at_once(), images)
    told = ", ".join(f"{scale:.2g} at stride {stride}" for stride, scale in sorted(scales.items(), reverse=True))
    print(f"scales measured: {told}")
    curves, nets = {}, {}

    staged, x, y = None, [], []
    for stride in (32, 16, 8):
        net = segmenter(start, stride=stride)
        staged = net if staged is None else net.start_from(staged)
        more_x, more_y = learn(f"FCN-{stride}s, in stages", staged, steps // 3)
        done = x[-1] if x else 0
        x, y = x + [done + step for step in more_x], y + more_y
    curves["in stages"], nets["in stages"] = (x, y), staged
    ways = {
        "at once, features scaled": at_once(scales=scales),
        "at once, features as they are": at_once(),
    }
    for name, net in ways.items():
        curves[name], nets[name] = learn(name, net, steps), net
    plot(folder_of("at_once") / "convergence.png", {"steps": curves}, "mean IU on validation scenes")
    paper = {"in stages": 65.5, "at once, features scaled": 65.4}
    rows = [(name, *in_percent(measure(net, test)), paper.get(name, "")) for name, net in nets.items()]
    report("at_once", ("FCN-8s", "pixel acc.", "mean acc.", "mean IU", "f.w. IU", "the paper's mean IU, on VOC"), rows)


if __name__ == "__main__":
    main(chosen_effort())
