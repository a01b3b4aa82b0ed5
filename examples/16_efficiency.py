"""FCN §3.1: one dense pass over an image against a classifier on each of its patches.

AlexNet answers on 227×227 patches. Made fully convolutional, it takes 500×500 pixels at once and gives a 10×10 grid of
answers, for patches 32 pixels apart. Neighbouring patches share most of their pixels, and the dense net computes shared
features once. The answers near the edges of a patch differ a little: the trunk pads, and sees zeros around a patch
where the dense net sees the patch's neighbours.
"""

import time

import numpy as np
from experiment import Effort, chosen_effort, folder_of, report

from minifcn import Tensor, fcn, models, no_grad
from minifcn.random import stream

PATCH, STRIDE = 227, 32
BATCH = 10  # patches computed together

# Milliseconds on an NVIDIA Tesla K40c, FCN §3.1: 100 patches at 1.2 (alone: 5.4) forward and 2.4 backward.
PAPER = {"dense": (22, 37), "patches": (120, 240), "alone": (540, None)}


def run(net, x):
    """Run forward, then backward from all answers alike; return the seconds of both."""
    net.zero_grad()
    begun = time.perf_counter()
    y = net(x)
    half = time.perf_counter()
    y.backward(np.ones_like(y.data))
    return half - begun, time.perf_counter() - half


def main(effort: Effort) -> None:
    classifier = models.alexnet(1000).eval()
    dense = fcn.convolutionalize(classifier).eval()
    grid, _ = dense.window().output_size((effort.side, effort.side))  # 10 answers along 500 pixels
    # The grid's last patches end up to a stride behind the image, where the ceil of AlexNet's pools lets it end.
    side = PATCH + STRIDE * (grid - 1)
    canvas = stream(0, "canvas").standard_normal((1, 3, side, side)).astype(np.float32)
    places = [(STRIDE * i, STRIDE * j) for i in range(grid) for j in range(grid)]
    patches = np.concatenate([canvas[:, :, top : top + PATCH, left : left + PATCH] for top, left in places])
    image = canvas[:, :, : effort.side, : effort.side].copy()
    for net, x in ((dense, image), (classifier, patches[:BATCH])):
        run(net, Tensor(x))  # compiles, and warms the caches

    times = {"dense": run(dense, Tensor(image))}
    batches = [Tensor(patches[i : i + BATCH]) for i in range(0, len(patches), BATCH)]
    times["patches"] = tuple(np.sum([run(classifier, batch) for batch in batches], axis=0))
    begun = time.perf_counter()
    with no_grad():
        for patch in patches:
            classifier(Tensor(patch[None]))
    times["alone"] = (time.perf_counter() - begun, None)

    names = {
        "dense": f"one dense pass, {grid}×{grid} answers",
        "patches": f"{grid**2} patches, {BATCH} at a time",
        "alone": f"{grid**2} patches, one by one",
    }
    rows = []
    for way, name in names.items():
        for direction, which in enumerate(("forward", "backward")):
            if times[way][direction] is not None:
                ratio = times[way][direction] / times["dense"][direction]
                paper, base = PAPER[way][direction], PAPER["dense"][direction]
                cells = (f"{1000 * times[way][direction]:.0f}", f"{ratio:.1f}", paper, f"{paper / base:.1f}")
                rows.append((which, name, *cells))
    rows.sort(key=lambda row: row[0] == "backward")
    work = [operations(dense, image.shape[2]), len(patches) * operations(classifier, PATCH)]
    print(f"operations forward: {work[0] / 1e9:.0f} G dense, {work[1] / 1e9:.0f} G patch by patch")
    draw(rows, folder_of("efficiency") / "efficiency.png")
    report("efficiency", ("pass", "way", "ms", "times the dense pass", "the paper's ms", "the paper's ratio"), rows)


def operations(net, side):
    """Return the floating point operations of one image forward."""
    return sum(row.flops for row in fcn.inspect(net, (side, side), 3))


def draw(rows, path):
    """Draw how many times a dense pass each way takes, beside the paper's."""
    import matplotlib as mpl

    mpl.use("agg")  # into a file; needs no screen
    from matplotlib import pyplot as plt

    compared = [row for row in rows if "dense" not in row[1]]
    places = np.arange(len(compared))
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.barh(places + 0.2, [float(row[3]) for row in compared], 0.4, label="here")
    axes.barh(places - 0.2, [float(row[5]) for row in compared], 0.4, label="FCN §3.1, on a GPU of 2015")
    axes.set_yticks(places, [f"{row[0]}\n{row[1]}" for row in compared])
    axes.set(xlabel="times as long as one dense pass")
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(chosen_effort())
