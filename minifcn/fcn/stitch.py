"""Answers for every pixel without upsampling: shift-and-stitch, and the rarefied net that equals it (FCN §3.2).

A net of stride f answers for every f-th patch of the image. Two ways to have all of them:

- **Shift and stitch.** Run the net on f² copies of the image, each cropped by another (i, j), 0 ≤ i, j < f, and
  interlace their outputs::

      y[f·a + i, f·b + j] = net(x[i:, j:])[a, b]

- **Rarefy.** Let the strided layer keep every position, and the layers behind it look where they used to look,
  at every s-th of them: their filters get zeros in between. With S, the product of all strides so far::

      f'[r, q] = f[r/S, q/S] where S divides r and q, else 0       this is dilation by S

Both give the net's answer for every patch: the paper's trick and its explanation. Both cost more than the strided
net, and the answers are finer, but each sees as much of the image as before. The paper's final nets upsample instead.
"""

from collections.abc import Iterator
from copy import deepcopy
from itertools import product

import numpy as np

from minifcn import nn, ops
from minifcn.nn.window import Chain, Fork, Geometry
from minifcn.tensor import Tensor, no_grad
from minifcn_kernels.cuda.device import module_of
from minifcn_kernels.spatial import Pair


def shift_and_stitch(net: nn.Module, x: Tensor) -> Tensor:
    """Return the net's answer for every patch of the image, from runs on shifted copies.

    The copies are crops, so every output sees pixels of the image only. (Shifting zeros in would change the answers
    at the borders.) No graph is recorded: this is a way to use a net, not to train it.

    Args:
        net: unpadded, of strides (f, g); any modules that answer ``window()``.
        x: images (N, C, H, W).

    Returns:
        (N, K, H − R + 1, W − S + 1), where R×S is the net's receptive field. The output at (i, j) is that of the
        patch whose top left pixel is (i, j); its centre is (R − 1)/2 rows and (S − 1)/2 columns further on.

    Raises:
        TypeError: a layer has no ``window()``.
        ValueError: a layer pads, rounds its size up or upsamples; dropout is on; the image is smaller than R×S.
    """
    _check_windows("shift_and_stitch", net)
    _check_dropout_is_off(net)
    f, g = _stride(net.window())
    H, W = x.shape[2:]
    R, S = net.window().receptive_field().size
    if H < R or W < S:
        raise ValueError(f"shift_and_stitch: the net sees patches of {R}×{S}, the image has only {H}×{W} pixels")
    rows, columns = H - R + 1, W - S + 1
    y: np.ndarray | None = None
    with no_grad():
        # A copy shifted by more than rows − 1 would hold no whole patch.
        for i, j in product(range(min(f, rows)), range(min(g, columns))):
            part = net(x[:, :, i:, j:]).data
            if y is None:
                y = module_of(part).empty((*part.shape[:2], rows, columns), part.dtype)
            y[:, :, i::f, j::g] = part
    return Tensor(y)


def rarefy(net: nn.Module) -> nn.Module:
    """Return the net of stride 1 that answers for every patch of an image what ``net`` answers for its own.

    All strides become 1; each window behind a stride of S is dilated by S. Average pooling, which has no dilation,
    becomes the convolution that it is: for each channel alone, a filter of 1/(k·l). Names stay, weights are copies;
    taps go, since there is one stride only.

    Args:
        net: `nn.Sequential` and `nn.Parallel`, nested at will, of unpadded convolutions, poolings and layers that
            work element by element.

    Raises:
        TypeError: a layer is of another kind.
        ValueError: a layer pads or rounds its size up.
    """
    _check_windows("rarefy", net)
    return _rarefied(net, "", (1, 1))[0]


def _rarefied(module: nn.Module, path: str, stride: Pair) -> tuple[nn.Module, Pair]:
    """Return ``module`` rarefied for an input that a net of ``stride`` would have skipped over, and its own stride."""
    inside = f"{path}." if path else ""
    if isinstance(module, nn.Sequential):
        layers: dict[str, nn.Module] = {}
        for name, child in module.named_children():
            layers[name], stride = _rarefied(child, inside + name, stride)
        return nn.Sequential(layers), stride
    if isinstance(module, nn.Parallel):
        branches = {name: _rarefied(child, inside + name, stride) for name, child in module.named_children()}
        behind = next(iter(branches.values()))[1]  # that of each: a Fork's branches have one coordinate map
        return nn.Parallel({name: branch for name, (branch, _) in branches.items()}), behind
    if isinstance(module, nn.Conv2d | nn.MaxPool2d):
        layer = deepcopy(module)
        layer.stride, layer.dilation = (1, 1), _times(module.dilation, stride)
        return layer, _times(module.stride, stride)
    if isinstance(module, nn.AvgPool2d):
        return _MeanOfWindow(module.kernel_size, stride), _times(module.stride, stride)
    if module.window() == nn.Window() and not list(module.named_children()):
        return deepcopy(module), stride
    raise TypeError(
        f"rarefy: nothing is known about how to dilate {path or 'the net'}, a {type(module).__name__}; it takes "
        f"nn.Sequential and nn.Parallel of nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d and element-wise layers "
        f"(fcn.convolutionalize turns a classifier into one)"
    )


class _MeanOfWindow(nn.Module):
    """Average pooling of stride 1 with dilation, as a convolution of each channel alone."""

    def __init__(self, kernel_size: Pair, dilation: Pair) -> None:
        self.kernel_size, self.dilation = kernel_size, dilation

    def forward(self, x: Tensor) -> Tensor:
        C, (R, S) = x.shape[1], self.kernel_size
        mean = Tensor(np.full((C, 1, R, S), 1 / (R * S), x.dtype)).to(x.device)
        return ops.conv2d(x, mean, dilation=self.dilation, groups=C)

    def window(self) -> nn.Window:
        return nn.Window(self.kernel_size, dilation=self.dilation)


def _check_windows(what: str, net: nn.Module) -> None:
    """Raise a ValueError that names the first layer for which an output would not be that of a patch of the image.

    A net without any stride may pad: it answers for every pixel already, and there is one copy to run.
    """
    windows = {path: list(_windows(layer.window())) for path, layer in _leaves(net)}
    strided = any(window.stride != (1, 1) for parts in windows.values() for window in parts)
    for path, layer in _leaves(net):
        name = f"{path or 'the net'}, a {type(layer).__name__},"
        for window in windows[path]:
            if window.transposed:
                raise ValueError(f"{what}: {name} upsamples; leave upsampling away, the result is dense without it")
            if strided and window.padding != (0, 0):
                raise ValueError(
                    f"{what}: {name} pads by {window.padding} within a net that strides, and a shifted copy would get "
                    f"its zeros where the image still has pixels: its answers would not be those of the image's "
                    f"patches; use padding=0, and pad the image itself if its borders are wanted"
                )
            if strided and window.ceil:
                raise ValueError(
                    f"{what}: {name} rounds its size up (ceil_mode), so its last window hangs over the edge at some "
                    f"shifts and not at others; use ceil_mode=False"
                )


def _check_dropout_is_off(net: nn.Module) -> None:
    for path, layer in _leaves(net):
        if isinstance(layer, nn.Dropout) and layer.training and layer.p > 0:
            raise ValueError(
                f"shift_and_stitch: {path or 'the net'}, a Dropout, would draw another mask for each shift; "
                f"call eval() on the net first"
            )


def _leaves(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((path, module) for path, module in net.named_modules() if not list(module.named_children()))


def _windows(geometry: Geometry) -> Iterator[nn.Window]:
    """Yield every window that a layer's geometry is made of."""
    if isinstance(geometry, nn.Window):
        yield geometry
    for part in geometry.parts if isinstance(geometry, Chain) else ():
        yield from _windows(part)
    for branch in geometry.branches if isinstance(geometry, Fork) else ():
        yield from _windows(branch)


def _stride(geometry: Geometry) -> Pair:
    vertical, horizontal = (1 / axis_map.scale for axis_map in geometry.coordinate_map())
    return int(vertical), int(horizontal)


def _times(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0], a[1] * b[1]
