"""FCN-32s, 16s, 8s: combining what a net saw at several strides (FCN §4.2)."""

import math
from collections.abc import Mapping
from copy import copy
from typing import Literal, Self

import numpy as np

from minifcn import nn, ops
from minifcn.fcn.geometry import Fusion, minimum_padding, plan_skips, running_windows
from minifcn.fcn.upsample import bilinear_upsampling
from minifcn.nn.module import device_of
from minifcn.nn.window import Chain, Crop, Geometry, Window
from minifcn.tensor import Tensor
from minifcn_kernels.spatial import Pair


class FCN(nn.Module):
    """A fully convolutional net: one score per class for every pixel of an image of any size.

    ::

        image → backbone → map of stride 32 → score ─ upsample 2× ─┐
                        └→ map of stride 16 → score ────── crop ─ add ─ upsample 2× ─┐
                        └→ map of stride  8 → score ──────────────────────── crop ─ add ─ upsample 8× ─ crop → scores

    Each tapped map is scored by a 1×1 convolution, zero at first, so that a skip added to a trained net changes
    nothing until it has learned something. Upsampling starts as bilinear interpolation. All crops are derived from
    the geometry of the layers, see `geometry.plan_skips`.

    Args:
        backbone: a `convolutionalize`\\ d classifier, or any `nn.Sequential` that declares its ``taps``. It is used,
            not copied, up to its coarsest tap; only its first convolution is given a new padding.
        num_classes: scores per pixel.
        stride: of the finest map that is scored: 32, 16, 8 or another one of the taps.
        upsampling: ``"fixed"`` keeps all upsampling bilinear; ``"learned"`` trains the intermediate ones, and the
            final one stays bilinear (FCN §3.3).
        padding: of the first convolution; by default the smallest with which images of every size get all their
            scores. Less will do if no image is small.
        scales: what the features of a stride are multiplied by before they are scored, ``{16: 0.01, 8: 0.0001}`` in
            the released net that trains all strides at once; 1 where nothing is said. See `feature_scales`.

    Raises:
        TypeError: the backbone does not follow the protocol.
        ValueError: there are no classes, no tap has the stride, scales are for other strides or no positive numbers,
            or the geometry cannot align (`geometry.GeometryError`).
    """

    def __init__(
        self,
        backbone: nn.Sequential,
        num_classes: int,
        *,
        stride: int = 32,
        upsampling: Literal["fixed", "learned"] = "fixed",
        padding: int | None = None,
        scales: Mapping[int, float] | None = None,
    ) -> None:
        if upsampling not in ("fixed", "learned"):
            raise ValueError(f"FCN: upsampling must be 'fixed' or 'learned', got {upsampling!r}")
        if num_classes < 1:
            raise ValueError(f"FCN: num_classes must be at least 1, got {num_classes}")
        taps = _chosen_taps(backbone, stride)
        padded_layer = _layer_that_pads(backbone)
        self.scales = dict(scales or {})
        if unknown := sorted(self.scales.keys() - taps.keys()):
            raise ValueError(f"FCN: scales are for strides {sorted(taps)}, got {unknown}")
        if not all(0 < scale < math.inf for scale in self.scales.values()):
            raise ValueError(f"FCN: scales must be finite and above 0, got {self.scales}")
        if padding is None:
            padding = minimum_padding(_tap_windows(backbone, taps))
        self.backbone = _padded(backbone, taps, padded_layer, padding)
        self.taps = {stride: name for stride, (name, _) in taps.items()}
        self.plan = plan_skips(_tap_windows(self.backbone, taps))
        self.num_classes = num_classes
        self.score = nn.Sequential(
            {f"stride{s}": _score_layer(channels, num_classes) for s, (_, channels) in taps.items()}
        )
        coarse = list(taps)[:-1]
        learned = upsampling == "learned"
        upsample = {
            f"stride{s}": _upsampling(num_classes, fusion.upsample, learned=learned)
            for s, fusion in zip(coarse, self.plan.fusions, strict=True)
        }
        self.upsample = nn.Sequential(upsample | {"final": _upsampling(num_classes, self.plan.upsample, learned=False)})
        self.to(device_of(backbone))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (N, num_classes, H, W) of images x (N, C, H, W)."""
        if x.ndim != 4:
            raise ValueError(f"FCN: needs images (N, C, H, W), got shape {x.shape}")
        H, W = x.shape[2:]
        self.plan.check_covers((H, W))
        maps = self.tapped_maps(x)
        coarsest, *_ = self.taps
        scores = self.score[f"stride{coarsest}"](maps[coarsest])
        for coarse, fusion in zip(self.taps, self.plan.fusions, strict=False):
            up = self.upsample[f"stride{coarse}"](scores)
            fine = self.score[f"stride{fusion.stride}"](maps[fusion.stride])
            size = _common_size(up.shape[2:], fusion.coarse_offset, fine.shape[2:], fusion.fine_offset)
            if size != up.shape[2:]:
                up = ops.crop(up, fusion.coarse_offset, size)
            scores = self.fuse(up, fine, fusion)
        return ops.crop(self.upsample["final"](scores), self.plan.offset, (H, W))

    def fuse(self, coarse: Tensor, fine: Tensor, fusion: Fusion) -> Tensor:
        """Return the sum of the upsampled scores and, cropped to their size, the finer ones.

        The paper tried the maximum in place of the sum and gave it up (FCN §4.2); a subclass can try others.
        """
        return ops.fuse(coarse, fine, fusion.fine_offset)

    def start_from(self, coarser: "FCN") -> Self:
        """Copy the parameters that ``coarser`` has, too: the backbone, its scores and intermediate upsampling.

        What is new here, the finer score layer, keeps its zeros; so the net starts where the coarser one ended,
        but for the interpolation. Returns the net.

        Raises:
            ValueError: ``coarser`` has another backbone or number of classes, or is finer than this net.
        """
        if min(coarser.taps) < min(self.taps):
            raise ValueError(f"start_from: the other net's finest stride, {min(coarser.taps)}, must not be finer")
        mine = dict(self.named_parameters())
        theirs = {n: p for n, p in coarser.named_parameters() if not n.startswith("upsample.final")}
        unknown = [n for n, p in theirs.items() if n not in mine or mine[n].shape != p.shape]
        if unknown:
            raise ValueError(f"start_from: the coarser net's {', '.join(unknown[:5])} have no place in this one")
        for name, parameter in theirs.items():
            mine[name].copy_from(parameter.data)
        return self

    def tapped_maps(self, x: Tensor) -> dict[int, Tensor]:
        """Return the backbone's features of images x that are scored, by stride from fine to coarse."""
        strides = {name: stride for stride, name in self.taps.items()}
        maps = {}
        for name, layer in self.backbone.named_children():
            x = layer(x)
            if name in strides:
                stride = strides[name]
                maps[stride] = x * self.scales[stride] if stride in self.scales else x
        return maps

    def paths(self) -> dict[str, Geometry]:
        """Return for every layer, by its path in the net, what lies between the image and its output."""
        backbone = running_windows(self.backbone)
        paths: dict[str, Geometry] = {f"backbone.{name}": window for name, window in backbone.items()}
        paths |= {f"score.stride{stride}": backbone[name] for stride, name in self.taps.items()}
        so_far = backbone[self.taps[max(self.taps)]]
        for stride, fusion in zip(self.taps, self.plan.fusions, strict=False):
            so_far = Chain([so_far, fusion.upsample])
            paths[f"upsample.stride{stride}"] = so_far
            so_far = Chain([so_far, Crop(fusion.coarse_offset)])
        paths["upsample.final"] = Chain([so_far, self.plan.upsample])
        return paths

    def window(self) -> Window:
        """Return the identity: whatever happens inside, each score lies over its pixel."""
        return Window()


def _chosen_taps(backbone: nn.Sequential, finest: int) -> dict[int, tuple[str, int]]:
    """Return the taps from the coarsest to stride ``finest``."""
    if not isinstance(backbone, nn.Sequential) or not backbone.taps:
        raise TypeError(
            f"FCN: the backbone must be an nn.Sequential with taps={{stride: (layer name, channels)}}, "
            f"got {type(backbone).__name__}"
        )
    for name, layer in backbone.named_children():
        if isinstance(layer, nn.Linear | nn.Flatten):
            raise TypeError(f"FCN: the backbone's {name} takes one size only; pass fcn.convolutionalize(backbone)")
    if finest not in backbone.taps:
        raise ValueError(f"FCN: stride must be one of the backbone's taps {sorted(backbone.taps)}, got {finest}")
    return {s: backbone.taps[s] for s in sorted(backbone.taps, reverse=True) if s >= finest}


def _tap_windows(backbone: nn.Sequential, taps: dict[int, tuple[str, int]]) -> dict[int, Geometry]:
    """Return what the backbone does to space up to each tapped layer."""
    windows = running_windows(backbone)
    return {stride: windows[name] for stride, (name, _) in taps.items()}


def _layer_that_pads(backbone: nn.Sequential) -> str:
    """Return the name of the first layer with a window."""
    windows = ((name, layer) for name, layer in backbone.named_children() if layer.window() != Window())
    name, layer = next(windows, ("none", None))
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(
            "FCN: the backbone's first layer with a window of more than 1×1 must be an nn.Conv2d, which can pad the "
            f"image, got {name}: {type(layer).__name__}"
        )
    return name


def _padded(backbone: nn.Sequential, taps: dict[int, tuple[str, int]], first: str, padding: int) -> nn.Sequential:
    """Return the backbone up to its coarsest tap, the same layers but for the padding of the layer ``first``."""
    coarsest, _ = taps[max(taps)]
    layers: dict[str, nn.Module] = {}
    for name, layer in backbone.named_children():
        if name == first:
            layer = copy(layer)
            layer.padding = (padding, padding)
        layers[name] = layer
        if name == coarsest:
            break
    return nn.Sequential(layers, taps=taps)


def _score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, num_classes, 1)
    layer.weight.data[...] = 0
    return layer


def _upsampling(num_classes: int, window: Window, *, learned: bool) -> nn.ConvTranspose2d:
    return bilinear_upsampling(num_classes, window.kernel, window.stride, learned=learned)


def _common_size(coarse: tuple[int, ...], coarse_offset: Pair, fine: tuple[int, ...], fine_offset: Pair) -> Pair:
    """Return the size of what two maps share when each begins at its offset."""
    left_over = np.minimum(np.subtract(coarse, coarse_offset), np.subtract(fine, fine_offset))
    return int(left_over[0]), int(left_over[1])
