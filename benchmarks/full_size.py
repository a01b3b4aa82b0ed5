"""The full-size nets beside PyTorch's, from one file of random weights: ``python benchmarks/full_size.py [NET …]``.

For each net PyTorch draws weights, saves them as safetensors under the names of the common port (or of torchvision),
minifcn loads that file, and both compute images of several sizes. They agree if max |Δ| ≤ 10⁻³ · max |y|, and every
pixel gets the same class wherever its two best scores differ by more than that. Then a process of its own measures the
memory that FCN-8s takes forward and backward. Exits with 1 where something does not hold. Needs the extra ``bench``.
"""

import argparse
import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# PyTorch's threads keep spinning after their work and would slow down what follows. Read when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

TOLERANCE = 1e-3  # of the largest score
MEMORY = 6.0  # GB that FCN-8s may take
CLASSES = 21
SIZES = {
    "fcn8s-vgg16": [(500, 500), (375, 499), (97, 33), (1, 1)],
    "fcn16s-vgg16": [(500, 500), (333, 251)],
    "fcn32s-vgg16": [(500, 500), (333, 251)],
    "fcn32s-alexnet": [(500, 500), (375, 499), (97, 33), (1, 1)],
    "vgg16": [(224, 224)],
    "alexnet-1": [(224, 224)],
}
VGG_BLOCKS = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]


def vgg_shapes(stride: int) -> dict[str, tuple[int, ...]]:
    """Return the parameters of FCN-VGG16 by the port's names; those without a bias are the upsampling."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (width, convolutions) in enumerate(VGG_BLOCKS, start=1):
        for i in range(1, convolutions + 1):
            shapes[f"conv{block}_{i}"] = (width, channels, 3, 3)
            channels = width
    shapes |= {"fc6": (4096, 512, 7, 7), "fc7": (4096, 4096, 1, 1), "score_fr": (CLASSES, 4096, 1, 1)}
    upsampling = {32: {"upscore": 64}, 16: {"upscore2": 4, "upscore16": 32}}
    upsampling[8] = {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16}
    skips = {16: {"score_pool4": 512}, 8: {"score_pool4": 512, "score_pool3": 256}}
    shapes |= {name: (CLASSES, c, 1, 1) for name, c in skips.get(stride, {}).items()}
    return shapes | {name: (CLASSES, CLASSES, k, k) for name, k in upsampling[stride].items()}


def alexnet_shapes() -> dict[str, tuple[int, ...]]:
    """Return the parameters of FCN-AlexNet by the released net's names."""
    return {
        "conv1": (96, 3, 11, 11),
        "conv2": (256, 48, 5, 5),
        "conv3": (384, 256, 3, 3),
        "conv4": (384, 192, 3, 3),
        "conv5": (256, 192, 3, 3),
        "fc6": (4096, 256, 6, 6),
        "fc7": (4096, 4096, 1, 1),
        "score_fr": (CLASSES, 4096, 1, 1),
        "upscore": (CLASSES, CLASSES, 63, 63),
    }


def classifier_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the parameters of a torchvision classifier."""
    if name == "alexnet-1":
        features = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3)}
        features[10] = (256, 256, 3, 3)
        wide = {1: (4096, 256 * 6 * 6), 4: (4096, 4096), 6: (1000, 4096)}
    else:
        features, position, channels = {}, 0, 3
        for width, convolutions in VGG_BLOCKS:
            for _ in range(convolutions):
                features[position] = (width, channels, 3, 3)
                channels = width
                position += 2  # a ReLU behind each
            position += 1  # the pool
        wide = {0: (4096, 512 * 7 * 7), 3: (4096, 4096), 6: (1000, 4096)}
    return {f"features.{i}": s for i, s in features.items()} | {f"classifier.{i}": s for i, s in wide.items()}


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict:
    """Draw every parameter: weights that keep the size of what passes through, biases that are seen, upsampling too."""
    import torch

    torch.manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.startswith("upscore"):
            state[f"{name}.weight"] = torch.randn(shape) / 16
            continue
        fan_in = int(np.prod(shape[1:]))
        state[f"{name}.weight"] = torch.randn(shape) * (2 / fan_in) ** 0.5
        state[f"{name}.bias"] = torch.randn(shape[0]) / 10
    return state


def torch_vgg(state: dict, x, stride: int):
    """Run FCN-32s, 16s or 8s on VGG16 as it was released: padding 100, crops 19; 5 and 27; 5, 9 and 31."""
    from torch.nn import functional as F

    def conv(name: str, x, padding: int = 0):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def up(name: str, x, factor: int):
        return F.conv_transpose2d(x, state[f"{name}.weight"], stride=factor)

    def crop(x, offset: int, like):
        H, W = like.shape[2:]
        return x[:, :, offset : offset + H, offset : offset + W]

    image, pools = x, {}
    for block, (_, convolutions) in enumerate(VGG_BLOCKS, start=1):
        for i in range(1, convolutions + 1):
            x = F.relu(conv(f"conv{block}_{i}", x, padding=100 if (block, i) == (1, 1) else 1))
        x = pools[block] = F.max_pool2d(x, 2, 2, ceil_mode=True)
    x = F.relu(conv("fc6", x))
    x = conv("score_fr", F.relu(conv("fc7", x)))
    if stride == 32:
        return crop(up("upscore", x, 32), 19, image)
    x = up("upscore2", x, 2)
    x = x + crop(conv("score_pool4", pools[4]), 5, x)
    if stride == 16:
        return crop(up("upscore16", x, 16), 27, image)
    x = up("upscore_pool4", x, 2)
    x = x + crop(conv("score_pool3", pools[3]), 9, x)
    return crop(up("upscore8", x, 8), 31, image)


def torch_alexnet(state: dict, x):
    """Run FCN-32s on AlexNet as it was released: padding 100, pool before normalisation, kernel 63, crop 18."""
    from torch.nn import functional as F

    def conv(number: int, x, **options: int):
        return F.relu(F.conv2d(x, state[f"conv{number}.weight"], state[f"conv{number}.bias"], **options))

    def pool(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    H, W = x.shape[2:]
    x = F.local_response_norm(pool(conv(1, x, stride=4, padding=100)), 5)
    x = F.local_response_norm(pool(conv(2, x, padding=2, groups=2)), 5)
    x = conv(5, conv(4, conv(3, x, padding=1), padding=1, groups=2), padding=1, groups=2)
    x = F.relu(F.conv2d(pool(x), state["fc6.weight"], state["fc6.bias"]))
    x = F.relu(F.conv2d(x, state["fc7.weight"], state["fc7.bias"]))
    x = F.conv2d(x, state["score_fr.weight"], state["score_fr.bias"])
    return F.conv_transpose2d(x, state["upscore.weight"], stride=32)[:, :, 18 : 18 + H, 18 : 18 + W]


def torch_classifier(state: dict, x, name: str):
    """Run torchvision's VGG16 or AlexNet on 224×224 images, where its adaptive pool does nothing."""
    from torch.nn import functional as F

    convolutions = sorted(int(key.split(".")[1]) for key in state if key.startswith("features") and "weight" in key)
    for i in convolutions:
        first = {"stride": 4, "padding": 2} if name == "alexnet-1" and i == 0 else {}
        weight = state[f"features.{i}.weight"]
        options = first or {"padding": weight.shape[2] // 2}
        x = F.relu(F.conv2d(x, weight, state[f"features.{i}.bias"], **options))
        if i + 2 not in convolutions:  # a ReLU follows at i + 1, and then a pool
            x = F.max_pool2d(x, 3 if name == "alexnet-1" else 2, 2)
    x = x.flatten(1)
    for i in sorted(int(key.split(".")[1]) for key in state if key.startswith("classifier") and "weight" in key):
        x = F.linear(x, state[f"classifier.{i}.weight"], state[f"classifier.{i}.bias"])
        x = x if i == 6 else F.relu(x)
    return x


def build(name: str):
    """Return our net, its weights not drawn."""
    from minifcn import models, nets, nn

    with nn.init.blank():
        if name == "alexnet-1":
            return models.alexnet(1000, towers=1)
        return nets.spec_of(name, 1000 if name == "vgg16" else CLASSES).build()


def reference(name: str) -> tuple[dict, Callable]:
    """Return the weights of PyTorch's net and the function (state, x) that runs it."""
    if name in ("vgg16", "alexnet-1"):
        return random_state(classifier_shapes(name)), lambda state, x: torch_classifier(state, x, name)
    if name == "fcn32s-alexnet":
        return random_state(alexnet_shapes()), torch_alexnet
    stride = int(name.removeprefix("fcn").partition("s")[0])
    return random_state(vgg_shapes(stride)), lambda state, x: torch_vgg(state, x, stride)


def compare(name: str, folder: Path) -> bool:
    """Print a row for each size; return whether all agree."""
    import torch
    from safetensors.torch import save_file

    from minifcn import Tensor, no_grad, weights

    state, run = reference(name)
    path = folder / f"{name}.safetensors"
    save_file(state, path)
    net = build(name).eval()
    weights.load(net, path)
    agree = True
    for size in SIZES[name]:
        x = np.random.default_rng(0).standard_normal((1, 3, *size), np.float32)
        start = time.perf_counter()
        with torch.no_grad():
            theirs = run(state, torch.from_numpy(x)).numpy()
        middle = time.perf_counter()
        with no_grad():
            ours = net(Tensor(x)).data
        seconds = time.perf_counter() - middle
        bound = TOLERANCE * np.abs(theirs).max()
        error = np.abs(ours - theirs).max()
        best = np.sort(theirs, axis=1)
        clear = best[:, -1] - best[:, -2] > bound
        other = int((ours.argmax(axis=1) != theirs.argmax(axis=1))[clear].sum())
        sound = ours.shape == theirs.shape and error <= bound and other == 0
        agree &= bool(sound)
        print(
            f"| {name} | {size[0]}×{size[1]} | {error / np.abs(theirs).max():.1e} | {other} of {clear.sum()} "
            f"| {seconds:.1f} | {middle - start:.1f} | {'yes' if sound else 'NO'} |",
            flush=True,
        )
    path.unlink()
    return agree


def measure_memory() -> None:
    """Run FCN-8s on VGG16 forward and backward on a 500×500 image; print the process's peak memory in GB."""
    from minifcn import Tensor, nn, ops

    net = build("fcn8s-vgg16").train()
    for number, parameter in enumerate(p for p in net.parameters() if p.requires_grad):
        parameter.data = np.random.default_rng(number).standard_normal(parameter.shape, np.float32) / 50
    random = np.random.default_rng(0)
    x, target = random.standard_normal((1, 3, 500, 500), np.float32), random.integers(0, CLASSES, (1, 500, 500))
    start = time.perf_counter()
    with nn.random_state(0):
        loss = ops.cross_entropy(net(Tensor(x)), target)
    middle = time.perf_counter()
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{peak:.2f} {middle - start:.1f} {time.perf_counter() - middle:.1f}")


def main() -> int:
    """Compare the chosen nets, measure FCN-8s, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"of {', '.join(SIZES)} (default: all)")
    parser.add_argument("--memory", action="store_true", help="measure the memory of FCN-8s only")
    options = parser.parse_args()
    if unknown := set(options.nets) - SIZES.keys():
        parser.error(f"no such net: {', '.join(sorted(unknown))}")
    if options.memory:
        measure_memory()
        return 0
    sound = True
    print("| net | image | max abs. difference / max abs. score | other class | s | PyTorch s | agrees |")
    print("|---|---|--:|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.nets or SIZES:
            sound &= compare(name, Path(folder))
            gc.collect()
    if not options.nets:
        command = [sys.executable, __file__, "--memory"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peak, forward, backward = map(float, shown.split())
        print(f"\nFCN-8s on VGG16 at 500×500: forward {forward} s, backward {backward} s, peak memory {peak} GB")
        sound &= peak <= MEMORY
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
