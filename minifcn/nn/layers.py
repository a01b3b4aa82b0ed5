"""Layers: an op together with its options and parameters. Names and arguments are PyTorch's; layout is NCHW."""

import numpy as np

from minifcn import ops
from minifcn.nn import init
from minifcn.nn.module import Module, Parameter
from minifcn.nn.window import Window
from minifcn.tensor import Tensor
from minifcn_kernels.spatial import IntOrPair, pair


def _bias(channels: int) -> Parameter:
    """Make a bias as FCN §4.3 trains them: at twice the learning rate and (in the released nets) without decay."""
    return Parameter(np.zeros(channels, np.float32), lr_multiplier=2.0, decay_multiplier=0.0)


def _check_groups(layer: str, in_channels: int, out_channels: int, groups: int) -> None:
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{layer}: groups must divide in_channels = {in_channels} and out_channels = {out_channels}, got {groups}"
        )


class Conv2d(Module):
    """Convolution, see `ops.conv2d`. Weights (K, C/G, R, S) are drawn by `init.he_normal` from ``rng``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: np.random.Generator | None = None,
    ) -> None:
        _check_groups("Conv2d", in_channels, out_channels, groups)
        self.stride = pair("stride", stride, minimum=1)
        self.padding = pair("padding", padding, minimum=0)
        self.dilation = pair("dilation", dilation, minimum=1)
        self.groups = groups
        self.kernel_size = pair("kernel_size", kernel_size, minimum=1)
        self.weight = Parameter(init.he_normal((out_channels, in_channels // groups, *self.kernel_size), rng))
        self.bias = _bias(out_channels) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def window(self) -> Window:
        return Window(self.kernel_size, self.stride, self.padding, self.dilation)


class ConvTranspose2d(Module):
    """Transposed convolution, see `ops.conv_transpose2d`. Weights (C, K/G, R, S) are drawn by `init.he_normal`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
        *,
        rng: np.random.Generator | None = None,
    ) -> None:
        _check_groups("ConvTranspose2d", in_channels, out_channels, groups)
        self.stride = pair("stride", stride, minimum=1)
        self.padding = pair("padding", padding, minimum=0)
        self.output_padding = pair("output_padding", output_padding, minimum=0)
        self.dilation = pair("dilation", dilation, minimum=1)
        self.groups = groups
        self.kernel_size = pair("kernel_size", kernel_size, minimum=1)
        self.weight = Parameter(init.he_normal((in_channels, out_channels // groups, *self.kernel_size), rng))
        self.bias = _bias(out_channels) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def window(self) -> Window:
        return Window(
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            transposed=True,
            output_padding=self.output_padding,
        )


class MaxPool2d(Module):
    """Max pooling, see `ops.max_pool2d`."""

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        *,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = pair("kernel_size", kernel_size, minimum=1)
        self.stride = self.kernel_size if stride is None else pair("stride", stride, minimum=1)
        self.padding = pair("padding", padding, minimum=0)
        self.dilation = pair("dilation", dilation, minimum=1)
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        return ops.max_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )

    def window(self) -> Window:
        return Window(self.kernel_size, self.stride, self.padding, self.dilation, ceil=self.ceil_mode)


class AvgPool2d(Module):
    """Average pooling, see `ops.avg_pool2d`."""

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size = pair("kernel_size", kernel_size, minimum=1)
        self.stride = self.kernel_size if stride is None else pair("stride", stride, minimum=1)
        self.padding = pair("padding", padding, minimum=0)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        return ops.avg_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )

    def window(self) -> Window:
        return Window(self.kernel_size, self.stride, self.padding, ceil=self.ceil_mode)


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)

    def window(self) -> Window:
        return Window()


class LocalResponseNorm(Module):
    """Normalisation over neighbouring channels, see `ops.local_response_norm`. AlexNet's."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        return ops.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def window(self) -> Window:
        return Window()


class Flatten(Module):
    """(N, C, H, W) → (N, C·H·W), for maps of exactly ``shape`` = (C, H, W).

    The shape is written down because it is what turns the linear layer behind into a convolution:
    a filter that covers the whole H×W map (FCN §3.1).
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        C, H, W = shape
        self.shape = (C, H, W)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"Flatten{self.shape}: got maps of shape {x.shape[1:]}; a classifier takes one input size "
                f"(fcn.convolutionalize makes it take any)"
            )
        return x.reshape(x.shape[0], int(np.prod(self.shape)))

    def window(self) -> Window:
        return Window(self.shape[1:])


class Linear(Module):
    """y = x·wᵀ + b for x (N, C), see `ops.linear`. Weights (K, C) are drawn by `init.he_normal` from ``rng``."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rng: np.random.Generator | None = None
    ) -> None:
        self.weight = Parameter(init.he_normal((out_features, in_features), rng))
        self.bias = _bias(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)

    def window(self) -> Window:
        return Window()
