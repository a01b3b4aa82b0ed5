"""The paper's own nets at the paper's size: 500×500 pixels, random weights, forward, and FCN-8s backward.

Weights that others trained come in by `minifcn.weights`, see 34_foreign_weights.py; they change no time.
"""

import resource
import sys
import time

import numpy as np
from experiment import Effort, chosen_effort, report

from minifcn import Tensor, nets, nn, ops
from minifcn.random import stream

CLASSES = 21
PAPER = {"fcn32s-alexnet": "0.05", "fcn32s-vgg16": "0.21"}  # seconds forward on an NVIDIA Tesla K40c, FCN §4.1


def timed(function):
    start = time.perf_counter()
    result = function()
    return result, f"{time.perf_counter() - start:.1f}"


def main(effort: Effort) -> None:
    x = Tensor(stream(0, "image").standard_normal((1, 3, effort.side, effort.side)).astype(np.float32))
    target = stream(0, "target").integers(0, CLASSES, (1, effort.side, effort.side))
    rows = []
    for name in ("fcn32s-alexnet", "fcn32s-vgg16", "fcn8s-vgg16"):
        net = nets.spec_of(name, CLASSES).build()
        for _, score in net.score.named_children():  # zero at first, which would give the backbone no gradient
            score.weight.data = nn.init.he_normal(score.weight.shape, stream(0, "score"))
        with nn.random_state(0):
            net(Tensor(x.data[:, :, :32, :32].copy()))  # compiles, and loads what it needs
            scores, forward = timed(lambda net=net: net(x))
        backward = ""
        if name == "fcn8s-vgg16":
            _, backward = timed(ops.cross_entropy(scores, target).backward)
            assert all(np.isfinite(p.grad).all() and p.grad.any() for p in net.parameters() if p.requires_grad)
        rows.append((name, f"{nn.parameter_count(net) / 1e6:.1f} M", forward, backward, PAPER.get(name, "")))
    print(f"peak memory: {peak_memory():.1f} GB")
    report("full_size", ("net", "parameters", "s forward", "s backward", "the paper's s forward, on a GPU"), rows)


def peak_memory():
    """Return the most memory that this process has held, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes, where others count kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


if __name__ == "__main__":
    main(chosen_effort())
