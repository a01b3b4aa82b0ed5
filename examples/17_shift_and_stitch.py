"""FCN §3.2: three ways to an answer for every pixel, and what each costs.

A LeNet, which has no padding, learns digits on windows of scenes. It has stride 4. On a large scene it runs
- as it is, its answers enlarged bilinearly: what the paper's final nets do;
- 16 times, on shifted crops, the answers interlaced: shift-and-stitch;
- once, with stride 1 and dilated filters: the rarefied net.
The last two give the same numbers, to rounding.
"""

import time

import numpy as np
from experiment import Effort, chosen_effort, folder_of, report, train

from minifcn import Tensor, fcn, models, no_grad, ops, pictures
from minifcn.data import DigitScenes, Example, View, digit_crops, to_picture
from minifcn.data.digits import CLASSES
from minifcn.training import TrainConfig


class Halved(View):
    """A data set at half its resolution, each pixel the mean of four: LeNet takes 32×32, the crops are 64×64."""

    def example(self, index, epoch=0):
        example = super().example(index, epoch)
        C, H, W = example.image.shape
        image = example.image.reshape(C, H // 2, 2, W // 2, 2).mean(axis=(2, 4))
        return Example(image, example.label, example.name)


def timed(run):
    run()  # compiles, and warms the caches
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def main(effort: Effort) -> None:
    net = models.lenet(len(CLASSES), 3)
    steps = effort.classifier_steps
    config = TrainConfig(steps=steps, lr=0.05, clip_norm=1.0, cooldown=steps // 4, batch_size=32)
    train("LeNet on windows of 32×32", net, Halved(digit_crops("train")), config)
    dense = fcn.convolutionalize(net)
    rarefied = fcn.rarefy(dense)
    scene = Halved(DigitScenes("val", (512, 512), count=1)).example(0)
    x = Tensor(scene.image[None])

    with no_grad():
        upsampling = fcn.bilinear_upsampling(len(CLASSES), 2 * 4 - 1, 4)
        coarse, coarse_time = timed(lambda: dense(x))
        enlarged, enlarged_time = timed(lambda: upsampling(dense(x)))
        stitched, stitched_time = timed(lambda: fcn.shift_and_stitch(dense, x))
        rare, rare_time = timed(lambda: rarefied(x))
    # The first and last 3 pixels of the enlarged map have no second neighbour; what is left lies over the fine map.
    enlarged = enlarged.data[:, :, 3:-3, 3:-3]
    fine = stitched.data[:, :, : enlarged.shape[2], : enlarged.shape[3]]

    def operations(net, runs=1):
        rows = fcn.inspect(net, scene.image.shape[1:], 3)
        return f"{runs * sum(row.flops for row in rows) / 1e9:.2f}"

    def row(name, y, gigaflops, seconds, difference):
        return name, f"{y.shape[2]}×{y.shape[3]}", gigaflops, f"{1000 * seconds:.0f}", f"{difference:.1e}"

    difference = np.abs(rare.data - stitched.data).max()
    draw(scene, coarse, enlarged, rare, folder_of("shift_and_stitch"))
    report(
        "shift_and_stitch",
        ("way", "answers", "GFLOP", "ms", "largest difference from shift-and-stitch"),
        [
            row("the net as it is, stride 4", coarse, operations(dense), coarse_time, 0),
            row("… upsampled 4× bilinearly", enlarged, operations(dense), enlarged_time, np.abs(enlarged - fine).max()),
            row("shift-and-stitch, 16 runs", stitched, operations(dense, 16), stitched_time, 0),
            row("the rarefied net, 1 run", rare, operations(rarefied), rare_time, difference),
        ],
    )


def draw(scene, coarse, enlarged, rare, folder):
    """Draw the scene beside the probability that a digit is in the patch around each pixel."""
    with no_grad():
        maps = [1 - ops.softmax(Tensor(np.asarray(y)), dim=1).data[0, 0] for y in (coarse.data, enlarged, rare.data)]
    size = scene.image.shape[1:]
    heats = [pictures.heat(np.pad(values, 15 // step), size) for values, step in zip(maps, (4, 1, 1), strict=True)]
    titles = ["scene", "stride 4", "upsampled", "rarefied: stride 1"]
    pictures.grid([[to_picture(scene.image), *heats]], titles).save(folder / "answers.png")


if __name__ == "__main__":
    main(chosen_effort())
