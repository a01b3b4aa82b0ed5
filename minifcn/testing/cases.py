"""Geometries to test with: plain records whose repr can be pasted, and the arrays that belong to them.

A case stores what a user would write, sizes and options, and a seed; the arrays follow from these. The strategies
of `minifcn.testing.strategies` draw cases that are valid by construction.

Notation: ``N`` batch, ``C`` channels in, ``K`` channels out, ``H W`` map, ``R S`` filter or window.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from minifcn.random import stream
from minifcn.testing.data import distinct, normal, tied
from minifcn_kernels.conv2d.contract import ConvGeometry, conv_geometry
from minifcn_kernels.dispatch import use_backend
from minifcn_kernels.jit import Array
from minifcn_kernels.pool2d.contract import max_pool2d, pool_geometry
from minifcn_kernels.spatial import Pair

Arguments = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Shown:
    """A record whose repr leaves out what has its default value."""

    def __repr__(self) -> str:
        changed = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Let Hypothesis, which asks for this, print the same."""
        printer.text(repr(self))


def _arrays(shapes: list[tuple[int, ...]], seed: int) -> list[Array]:
    """Draw an array for every shape, from seeds one apart."""
    return [normal(shape, seed + i) for i, shape in enumerate(shapes)]


@dataclass(frozen=True, repr=False)
class ConvCase(Shown):
    """A convolution of x (N, C, H, W) with w (K, C/groups, R, S), and b (K,) if ``bias``."""

    N: int = 1
    C: int = 1
    K: int = 1
    H: int = 1
    W: int = 1
    R: int = 1
    S: int = 1
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False
    seed: int = 0

    @property
    def geometry(self) -> ConvGeometry:
        """The checked geometry, with the output's size; raises ValueError if the case is not valid."""
        x, w = (self.N, self.C, self.H, self.W), (self.K, self.C // self.groups, self.R, self.S)
        return conv_geometry(x, w, self.stride, self.padding, self.dilation, self.groups)

    @property
    def options(self) -> Arguments:
        """The keyword arguments of `ops.conv2d`."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def arrays(self) -> list[Array]:
        """Return x, w and, if there is one, b."""
        g = self.geometry
        shapes: list[tuple[int, ...]] = [g.x_shape, g.w_shape, (g.K,)]
        return _arrays(shapes if self.bias else shapes[:2], self.seed)

    def arguments(self, kernel: str) -> Arguments:
        """Return the arguments of `conv2d`, `conv2d_grad_input` or `conv2d_grad_weight`."""
        g = self.geometry
        x, w, *b = self.arrays()
        gy = normal(g.y_shape, self.seed + 3)
        arrays: dict[str, Arguments] = {
            "conv2d": {"x": x, "w": w, "b": b[0] if b else None},
            "conv2d_grad_input": {"gy": gy, "w": w, "x_shape": g.x_shape},
            "conv2d_grad_weight": {"x": x, "gy": gy, "w_shape": g.w_shape},
        }
        return arrays[kernel] | self.options

    def roundings(self, kernel: str) -> int:
        """Return 2n for sums of n products, and one more for the bias."""
        g = self.geometry
        products = {
            "conv2d": g.C // g.groups * g.R * g.S,
            "conv2d_grad_input": g.K // g.groups * g.R * g.S,
            "conv2d_grad_weight": g.N * g.OH * g.OW,
        }
        return 2 * products[kernel] + 1


@dataclass(frozen=True, repr=False)
class ConvTransposeCase(Shown):
    """A transposed convolution of x (N, C, H, W) with w (C, K/groups, R, S), and b (K,) if ``bias``."""

    N: int = 1
    C: int = 1
    K: int = 1
    H: int = 1
    W: int = 1
    R: int = 1
    S: int = 1
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False
    seed: int = 0

    @property
    def options(self) -> Arguments:
        """The keyword arguments of `ops.conv_transpose2d`."""
        names = ("stride", "padding", "output_padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def arrays(self) -> list[Array]:
        """Return x, w and, if there is one, b."""
        shapes: list[tuple[int, ...]] = [
            (self.N, self.C, self.H, self.W),
            (self.C, self.K // self.groups, self.R, self.S),
            (self.K,),
        ]
        return _arrays(shapes if self.bias else shapes[:2], self.seed)


@dataclass(frozen=True, repr=False)
class PoolCase(Shown):
    """A pooling of x (N, C, H, W) with windows of (R, S); ``ties`` fills x with equal maxima.

    Max pooling has the dilation, average pooling ``count_include_pad``; each ignores the other's option.
    """

    N: int = 1
    C: int = 1
    H: int = 1
    W: int = 1
    R: int = 1
    S: int = 1
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = True
    ties: bool = False
    seed: int = 0

    @property
    def max_options(self) -> Arguments:
        """The arguments of `ops.max_pool2d`."""
        shared = {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}
        return {"kernel_size": (self.R, self.S), "dilation": self.dilation} | shared

    @property
    def avg_options(self) -> Arguments:
        """The arguments of `ops.avg_pool2d`."""
        options = self.max_options | {"count_include_pad": self.count_include_pad}
        return {name: value for name, value in options.items() if name != "dilation"}

    def array(self) -> Array:
        """Return x."""
        shape = (self.N, self.C, self.H, self.W)
        return tied(shape, self.seed) if self.ties else distinct(shape, self.seed)

    def arguments(self, kernel: str) -> Arguments:
        """Return the arguments of `max_pool2d`, `avg_pool2d` or their gradients."""
        options = self.max_options if kernel.startswith("max") else self.avg_options
        x = self.array()
        if not kernel.endswith("_grad"):
            return {"x": x} | options
        dilation = options.get("dilation", 1)
        g = pool_geometry(x.shape, options["kernel_size"], self.stride, self.padding, dilation, self.ceil_mode)
        cotangent = {"gy": normal(g.y_shape, self.seed + 1), "x_shape": x.shape}
        if kernel.startswith("avg"):
            return cotangent | options
        with use_backend("numpy"):
            _, index = max_pool2d(x, **options)
        return cotangent | {"index": index} | options

    def roundings(self, kernel: str) -> int:
        """Return 0 for the maximum, n additions for all else, and a division."""
        return 0 if kernel == "max_pool2d" else self.R * self.S + 2


@dataclass(frozen=True, repr=False)
class CropCase(Shown):
    """A rectangle of ``size`` at ``offset`` in a map (N, C, H, W)."""

    N: int = 1
    C: int = 1
    H: int = 1
    W: int = 1
    offset: Pair = (0, 0)
    size: Pair = (1, 1)
    seed: int = 0

    def arrays(self) -> list[Array]:
        """Return the map, and one of the rectangle's size."""
        return _arrays([(self.N, self.C, self.H, self.W), (self.N, self.C, *self.size)], self.seed)

    def arguments(self, kernel: str) -> Arguments:
        """Return the arguments of `crop`, `crop_grad` or `fuse`."""
        whole_map, rectangle = self.arrays()
        arguments: dict[str, Arguments] = {
            "crop": {"x": whole_map, "size": self.size},
            "crop_grad": {"gy": rectangle, "x_shape": whole_map.shape},
            "fuse": {"coarse": rectangle, "fine": whole_map},
        }
        return arguments[kernel] | {"offset": self.offset}

    def roundings(self, kernel: str) -> int:
        """Return 1 for the sum of `fuse`, else 0: what is only moved is not rounded."""
        return 1 if kernel == "fuse" else 0


@dataclass(frozen=True, repr=False)
class LabelCase(Shown):
    """Logits (N, C, H, W) and a label map (N, H, W), a quarter of it ignored if ``ignore``."""

    N: int = 1
    C: int = 1
    H: int = 1
    W: int = 1
    ignore: bool = False
    weight: bool = False
    mask: bool = False
    reduction: str = "mean"
    seed: int = 0

    def logits(self) -> Array:
        """Return the logits."""
        return normal((self.N, self.C, self.H, self.W), self.seed)

    @property
    def options(self) -> Arguments:
        """The other arguments of `ops.cross_entropy`; weight and mask are float64."""
        rng, shape = stream(self.seed, "labels"), (self.N, self.H, self.W)
        target = rng.integers(0, self.C, shape)
        target[rng.random(shape) < (0.25 if self.ignore else 0)] = 255
        return {
            "target": target,
            "weight": rng.uniform(0.5, 2, self.C) if self.weight else None,
            "mask": rng.integers(0, 2, shape).astype(np.float64) if self.mask else None,
            "reduction": self.reduction,
        }

    def arguments(self, kernel: str) -> Arguments:
        """Return the arguments of `softmax_cross_entropy` or its gradient."""
        arguments = {"logits": self.logits()} | self.options
        if not kernel.endswith("_grad"):
            return arguments
        shape = (self.N, self.H, self.W) if self.reduction == "none" else ()
        return {"gy": np.asarray(normal(shape, self.seed + 1))} | arguments

    def roundings(self, kernel: str) -> int:
        """Return 4 for each exponential, one for each pixel that is added up, and a few for logarithm and weights."""
        return 4 * self.C + self.N * self.H * self.W + 8


@dataclass(frozen=True, repr=False)
class NormCase(Shown):
    """Local response normalisation of x (N, C, H, W) over ``size`` channels; alpha is large, so that they matter."""

    N: int = 1
    C: int = 1
    H: int = 1
    W: int = 1
    size: int = 1
    alpha: float = 0.5
    beta: float = 0.75
    k: float = 1.0
    seed: int = 0

    @property
    def options(self) -> Arguments:
        """The other arguments of `ops.local_response_norm`."""
        return {"size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}

    def array(self) -> Array:
        """Return x."""
        return normal((self.N, self.C, self.H, self.W), self.seed)

    def arguments(self, kernel: str) -> Arguments:
        """Return the arguments of `local_response_norm` or its gradient."""
        x = self.array()
        cotangent = {"gy": normal(x.shape, self.seed + 1)} if kernel.endswith("_grad") else {}
        return cotangent | {"x": x} | self.options

    def roundings(self, kernel: str) -> int:
        """Return two sums of squares over the window, and 16 for two powers (4 each) and the products around them."""
        return 4 * self.size + 16
