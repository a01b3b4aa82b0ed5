"""PAMI 2017: 20 images a step, one image a step, one image a step with heavy momentum.

All see the same number of images, with the loss summed over pixels and the same learning rate. A fourth training is the
heavy one converted to 4 images a step: momentum 0.99⁴, and the learning rate with which each image moves the weights as
far in the end. It should come out like the heavy one. (Not 20: converted, these steps are so long that they diverge.)
The learning rate cools down over the last steps: a training of a minute would end in the middle of its swings.
"""

from dataclasses import replace

from experiment import (
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
    smooth,
    train,
)

from minifcn.training import regimes

PIXELS = 128 * 128
LR = regimes.lr_of_sum(0.0003, PIXELS)


def main(effort: Effort) -> None:
    start = classifier(effort)
    images = 2 * effort.steps
    momentum, lr = regimes.equal_momentum(0.99, 1, 4), regimes.equal_lr(LR, 0.99, 1, 4)
    configs = {
        "accumulated": regimes.accumulated(images, LR),
        "online": regimes.online(images, LR),
        "heavy": regimes.heavy(images, LR),
        "heavy, 4 images a step": replace(
            regimes.heavy(images, lr), steps=images // 4, accumulate=4, momentum=momentum
        ),
    }
    rows, curves = [], {}
    for name, config in configs.items():
        net = segmenter(start)
        records = train(name, net, scenes("train"), replace(config, cooldown=2 * config.steps // 5))
        per_step = config.accumulate
        losses = [record["loss"] / (per_step * PIXELS) for record in records]
        means = smooth(losses, max(1, 100 // per_step))
        curves[name] = [per_step * (len(losses) - len(means) + 1 + i) for i in range(len(means))], means
        scores = in_percent(measure(net, scenes("test", effort.test_scenes)))
        rows.append((name, per_step, f"{config.momentum:.3g}", f"{config.lr:.2g}", *scores))
    plot(folder_of("regimes") / "losses.png", {"images": curves}, "loss per pixel, mean of the last 100 images")
    header = ("regime", "images a step", "momentum", "learning rate", "pixel acc.", "mean acc.", "mean IU", "f.w. IU")
    report("regimes", header, rows)


if __name__ == "__main__":
    main(chosen_effort())
