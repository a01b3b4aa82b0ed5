"""The layers of the table: convolutions of the paper's nets and of small ones, then what memory alone limits."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from pairs import Pair
from torch.nn import functional

import minifcn_kernels as kernels
from minifcn import Tensor, nn, ops, training


class Row(NamedTuple):
    """One convolution: the input (N, C, size, size), square filters of ``taps``, K channels out, and the options.

    With ``transposed`` it is the convolution whose forward is the other's input gradient (FCN §3.3).
    """

    N: int
    C: int
    K: int
    size: int
    taps: int = 3
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    groups: int = 1
    transposed: bool = False


ROWS = {
    # FCN-VGG16 on a 500×500 image, padded by 100 (FCN §4.1)
    "conv1_1": Row(1, 3, 64, 500, padding=100),
    "conv1_2": Row(1, 64, 64, 698),
    "conv2_1": Row(1, 64, 128, 349),
    "conv2_2": Row(1, 128, 128, 349),
    "conv3_1": Row(1, 128, 256, 175),
    "conv3_2": Row(1, 256, 256, 175),
    "conv4_1": Row(1, 256, 512, 88),
    "conv4_2": Row(1, 512, 512, 88),
    "conv5": Row(1, 512, 512, 44),
    "fc6": Row(1, 512, 4096, 22, taps=7, padding=0),
    "fc7": Row(1, 4096, 4096, 16, taps=1, padding=0),
    "score": Row(1, 4096, 21, 16, taps=1, padding=0),
    "score_pool4": Row(1, 512, 21, 44, taps=1, padding=0),
    "up2": Row(1, 21, 21, 16, taps=4, stride=2, padding=0, groups=21, transposed=True),
    "up8": Row(1, 21, 21, 70, taps=16, stride=8, padding=0, groups=21, transposed=True),
    "up32": Row(1, 21, 21, 16, taps=64, stride=32, padding=0, groups=21, transposed=True),
    "up2 learned": Row(1, 21, 21, 16, taps=4, stride=2, padding=0, transposed=True),
    # VGG16 as a classifier
    "vgg14": Row(1, 512, 512, 14),
    # FCN-AlexNet's first two
    "alex1": Row(1, 3, 96, 500, taps=11, stride=4, padding=100),
    "alex2": Row(1, 96, 256, 86, taps=5, padding=2, groups=2),
    # A small net on a batch
    "toy1": Row(8, 3, 16, 128),
    "toy2": Row(8, 16, 32, 64),
    "toy3": Row(8, 32, 64, 32),
    "toy4": Row(8, 64, 64, 16),
    "toy5": Row(8, 64, 64, 8),
    # One of each kind
    "dilated": Row(4, 64, 64, 64, padding=2, dilation=2),
    "strided": Row(4, 64, 128, 56, stride=2),
    "depthwise": Row(4, 128, 128, 56, groups=128),
    "pointwise": Row(4, 256, 64, 56, taps=1, padding=0),
}


# Puts an array where it is to be computed on: once for us, once for PyTorch.
Place: TypeAlias = Callable[[Any], tuple[Any, Any]]


def on_cpu(array: Any) -> tuple[Any, Any]:
    """Leave the array where it is, and let PyTorch use the same memory."""
    return array, torch.from_numpy(array)


def convolution(row: Row, place: Place = on_cpu) -> list[Pair]:
    """Return ``row``'s forward, input gradient and weight gradient; 2 FLOPs for each weight that a pixel meets."""
    random = np.random.default_rng(0)
    ins, outs = (row.C, row.K)
    w_shape = (ins, outs // row.groups) if row.transposed else (outs, ins // row.groups)
    x, tx = place(random.standard_normal((row.N, ins, row.size, row.size), np.float32))
    w, tw = place(random.standard_normal((*w_shape, row.taps, row.taps), np.float32))
    options: dict[str, Any] = {name: getattr(row, name) for name in ("stride", "padding", "dilation", "groups")}

    if row.transposed:
        ty = functional.conv_transpose2d(tx, tw, **options)
        gy, tgy = place(random.standard_normal(ty.shape, np.float32))
        ours: list[Callable[[], Any]] = [
            lambda: kernels.conv2d_grad_input(x, w, gy.shape, **options),
            lambda: kernels.conv2d(gy, w, **options),
            lambda: kernels.conv2d_grad_weight(gy, x, w.shape, **options),
        ]
        forward: Callable[[], Any] = lambda: functional.conv_transpose2d(tx, tw, **options)  # noqa: E731
    else:
        b, tb = place(random.standard_normal(outs, np.float32))
        ty = functional.conv2d(tx, tw, tb, **options)
        gy, tgy = place(random.standard_normal(ty.shape, np.float32))
        ours = [
            lambda: kernels.conv2d(x, w, b, **options),
            lambda: kernels.conv2d_grad_input(gy, w, x.shape, **options),
            lambda: kernels.conv2d_grad_weight(x, gy, w.shape, **options),
        ]
        forward = lambda: functional.conv2d(tx, tw, tb, **options)  # noqa: E731

    def backward(wanted: int) -> Any:
        stride, padding, dilation = ([options[name]] * 2 for name in ("stride", "padding", "dilation"))
        gradients = torch.ops.aten.convolution_backward(
            tgy,
            tx,
            tw,
            None,
            stride,
            padding,
            dilation,
            row.transposed,
            [0, 0],
            row.groups,
            [wanted == 0, wanted == 1, False],
        )
        return gradients[wanted]

    theirs = [forward, lambda: backward(0), lambda: backward(1)]
    flops = 2.0 * w[0].size * (x.size if row.transposed else gy.size)
    names = ("forward", "grad_input", "grad_weight")
    return [Pair(name, a, b, flops) for name, a, b in zip(names, ours, theirs, strict=True)]


def memory_bound(place: Place = on_cpu, size: int = 698) -> Iterator[Pair]:
    """Yield the layers whose limit is memory; the work is the bytes that must be read or written at least once."""
    random = np.random.default_rng(0)
    x, tx = place(random.standard_normal((1, 64, size, size), np.float32))
    y, index = kernels.max_pool2d(x, 2)
    ty, tindex = functional.max_pool2d(tx, 2, return_indices=True)
    pool = [2, 2], [2, 2], [0, 0], [1, 1], False
    yield Pair(
        "max pool",
        lambda: kernels.max_pool2d(x, 2)[0],
        lambda: functional.max_pool2d(tx, 2, return_indices=True)[0],
        x.nbytes + y.nbytes + index.nbytes,
    )
    yield Pair(
        "max pool, gradient",
        lambda: kernels.max_pool2d_grad(y, index, x.shape, 2),
        lambda: torch.ops.aten.max_pool2d_with_indices_backward(ty, tx, *pool, tindex),
        x.nbytes + y.nbytes + index.nbytes,
    )

    gx = place(random.standard_normal(x.shape, np.float32))
    yield differentiable("ReLU", lambda x: ops.relu(x), torch.relu, (x, tx), gx, passes=5)

    logits = place(random.standard_normal((1, 21, 500, 500), np.float32))
    target, ttarget = place(random.integers(0, 21, (1, 500, 500)))
    one = place(np.ones((), np.float32))
    # Forward reads the logits; backward reads them once more and writes the gradient.
    yield differentiable(
        "cross-entropy",
        lambda x: ops.cross_entropy(x, target),
        lambda x: functional.cross_entropy(x, ttarget),
        logits,
        one,
        passes=3,
    )

    values, tvalues = place(random.standard_normal(10_000_000, np.float32))
    gradient, tgradient = place(random.standard_normal(10_000_000, np.float32))
    weights, tweights = nn.Parameter(values), torch.nn.Parameter(tvalues.clone())
    weights.grad, tweights.grad = gradient, tgradient.clone()
    solver = training.SGD([weights], lr=1e-3, momentum=0.9, weight_decay=5e-4)
    tsolver = torch.optim.SGD([tweights], lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def step() -> Any:
        solver.step()
        return weights.data

    def tstep() -> Any:
        tsolver.step()
        return tweights

    # Reads weight, gradient and velocity, writes weight and velocity.
    yield Pair("SGD, 10 M weights", step, tstep, 5.0 * weights.data.nbytes)


def differentiable(
    name: str, ours: Callable[[Any], Any], theirs: Callable[[Any], Any], xs: Any, cotangents: Any, passes: int
) -> Pair:
    """Pair forward and backward of a function of x, which move ``passes`` arrays of x's size."""
    (x, tx), (cotangent, tcotangent) = xs, cotangents

    def run_ours() -> Any:
        leaf = Tensor(x, requires_grad=True)
        ours(leaf).backward(cotangent)
        return leaf.grad

    def run_theirs() -> Any:
        leaf = tx.detach().requires_grad_()
        leaf.grad = None
        theirs(leaf).backward(tcotangent)
        return leaf.grad

    return Pair(f"{name}, forward and backward", run_ours, run_theirs, float(passes * x.nbytes))
