"""Whole nets against PyTorch's, each measurement in its own process: ``python benchmarks/nets.py NAME [--threads N]``.

A process prints one line of JSON. PyTorch computes the same nets: `twin.Twin` walks the layers of ours.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def small_net() -> Any:
    """Return FCN-8s over `models.tiny_vgg`, whose convolutions have 16, 32, 64, 64 and 64 channels."""
    from minifcn import fcn, models

    return fcn.FCN(fcn.convolutionalize(models.tiny_vgg(11)), 11, stride=8)


def full_net() -> Any:
    """Return FCN-8s over VGG16 for 21 classes, padded by 100 as the released net is (FCN §4.1)."""
    from minifcn import fcn, models

    return fcn.FCN(fcn.convolutionalize(models.vgg16(1000)), 21, stride=8, padding=100)


class Task:
    """A net with one batch: random images and labels, and no layer idle."""

    def __init__(self, net: Any, shape: tuple[int, int, int, int]) -> None:
        from minifcn import nn
        from minifcn.random import stream

        for name, layer in net.score.named_children():  # zero at first, which would hide the skips from both
            layer.weight.data = nn.init.he_normal(layer.weight.shape, stream(0, name))
        random = np.random.default_rng(0)
        self.net = net.eval()
        self.x = random.standard_normal(shape, np.float32)
        self.target = random.integers(0, net.num_classes, (shape[0], *shape[2:]))

    def forward(self) -> np.ndarray:
        """Compute the scores, keeping nothing for a backward."""
        from minifcn import Tensor, no_grad

        with no_grad():
            return self.net(Tensor(self.x)).data

    def backward(self) -> np.ndarray:
        """Run forward and backward; return the loss."""
        from minifcn import Tensor, ops

        self.net.zero_grad()
        loss = ops.cross_entropy(self.net(Tensor(self.x)), self.target)
        loss.backward()
        return loss.data


class TwinTask:
    """The same in PyTorch."""

    def __init__(self, task: Task) -> None:
        import torch
        from twin import Twin

        self.torch = torch
        self.net = Twin(task.net).eval()
        self.x, self.target = torch.from_numpy(task.x), torch.from_numpy(task.target)

    def forward(self) -> Any:
        """Compute the scores, keeping nothing for a backward."""
        with self.torch.no_grad():
            return self.net(self.x)

    def backward(self) -> Any:
        """Run forward and backward; return the loss."""
        self.net.zero_grad()
        loss = self.torch.nn.functional.cross_entropy(self.net(self.x), self.target)
        loss.backward()
        return loss


def training_step(task: Any, solver: Any) -> Callable[[], Any]:
    """Return a function that takes one whole step, the solver's update included."""

    def step() -> Any:
        loss = task.backward()
        solver.step()
        return loss

    return step


def compare_small() -> dict[str, Any]:
    """Time training steps of the small net on 8 images of 128×128."""
    import torch
    from pairs import Pair, compare

    from minifcn import training

    task = Task(small_net(), (8, 3, 128, 128))
    twin = TwinTask(task)
    trained = [p for p in twin.net.parameters() if p.requires_grad]
    options = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}
    ours = training_step(task, training.SGD(task.net, **options))
    theirs = training_step(twin, torch.optim.SGD(trained, **options))
    return compare(Pair("training step", ours, theirs, 0.0))._asdict()


def compare_full(pass_: str) -> dict[str, Any]:
    """Time FCN-8s of VGG16 on an image of 500×500: ``pass_`` is "forward" or "backward", which is both passes."""
    from pairs import Pair, compare

    task = Task(full_net(), (1, 3, 500, 500))
    twin = TwinTask(task)
    return compare(Pair(pass_, getattr(task, pass_), getattr(twin, pass_), 0.0))._asdict()


def peak_memory(pass_: str, twin: bool) -> dict[str, Any]:
    """Run a pass of FCN-8s of VGG16 twice; return the most memory that the process held meanwhile (Linux only)."""
    task: Any = Task(full_net(), (1, 3, 500, 500))
    if twin:
        task = TwinTask(task)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the net; proc(5)
    for _ in range(2):
        getattr(task, pass_)()
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {"bytes": int(status["VmHWM"].removesuffix("kB")) * 1024}


def engine_overhead() -> dict[str, Any]:
    """Time forward plus backward of the sum of two tensors of one number, and NumPy's own sum."""
    from minifcn import Tensor

    one = np.ones(1, np.float32)
    a, b = Tensor(one.copy(), requires_grad=True), Tensor(one.copy(), requires_grad=True)

    def ours() -> None:
        (a + b).backward(one)
        a.grad = b.grad = None

    def best(function: Callable[[], Any], calls: int = 1000) -> float:
        def once() -> float:
            start = time.perf_counter()
            for _ in range(calls):
                function()
            return (time.perf_counter() - start) / calls

        return min(once() for _ in range(100))

    return {"ours": best(ours), "numpy": best(lambda: one + one)}


def import_time() -> dict[str, Any]:
    """Time a new process that imports the package, Python's own start included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import minifcn"], check=True)
    return {"seconds": time.perf_counter() - start}


def first_step() -> dict[str, Any]:
    """Take one training step of the small net, and time it from the start of the process."""
    from minifcn import training

    task = Task(small_net(), (8, 3, 128, 128))
    training_step(task, training.SGD(task.net, lr=1e-3))()
    return {"seconds": time.clock_gettime(time.CLOCK_BOOTTIME) - process_start()}


def process_start() -> float:
    """Return when this process began, in seconds since the system's start (Linux only)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22, starttime; proc(5)


MEASUREMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "small": compare_small,
    "full forward": lambda: compare_full("forward"),
    "full backward": lambda: compare_full("backward"),
    "peak forward": lambda: peak_memory("forward", twin=False),
    "peak forward twin": lambda: peak_memory("forward", twin=True),
    "peak backward": lambda: peak_memory("backward", twin=False),
    "peak backward twin": lambda: peak_memory("backward", twin=True),
    "overhead": engine_overhead,
    "import": import_time,
    "first step": first_step,
}


def main() -> None:
    """Take one measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MEASUREMENTS)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        from pairs import set_threads

        set_threads(arguments.threads)
    json.dump(MEASUREMENTS[arguments.name](), sys.stdout)


if __name__ == "__main__":
    main()
