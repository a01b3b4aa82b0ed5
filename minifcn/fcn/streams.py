"""Several label sets from one net, and one label set from several nets (FCN §5).

::

    SIFT Flow                       ┌─ score ─ upsample → 33 semantic classes
        image → backbone ───────────┤
                                    └─ score ─ upsample →  3 geometric classes

    NYUDv2   early: colour and depth are the channels of one image
             late:  colour → net ─┐
                                  add → scores
                    depth  → net ─┘
"""

from collections.abc import Mapping
from typing import Any

from minifcn import nn
from minifcn.fcn.skip import FCN
from minifcn.nn.window import Window
from minifcn.tensor import Tensor


class MultiTask(nn.Module):
    """One backbone that answers several questions about each pixel, by a head of scores for each.

    A head is a 1×1 score layer on every tapped map, with fixed upsampling of each channel alone. So heads side by side
    are one `FCN` whose score channels are split, and a second head costs its few channels, not a second net.

    Args:
        backbone, stride, padding: see `FCN`.
        heads: the number of classes of each label set, by its name: ``{"semantic": 33, "geometric": 3}``.

    Raises:
        ValueError: there are no heads, or one without classes.
        TypeError, ValueError: as from `FCN`.
    """

    def __init__(
        self, backbone: nn.Sequential, heads: Mapping[str, int], *, stride: int = 32, padding: int | None = None
    ) -> None:
        if not heads or min(heads.values()) < 1:
            raise ValueError(f"MultiTask: heads must name one label set or more, of one class or more, got {heads}")
        self.heads = dict(heads)
        self.fcn = FCN(backbone, sum(heads.values()), stride=stride, padding=padding)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return each head's scores (N, classes, H, W) of images x (N, C, H, W)."""
        scores = self.fcn(x)
        by_head, start = {}, 0
        for name, classes in self.heads.items():
            by_head[name] = scores[:, start : start + classes]
            start += classes
        return by_head

    def head(self, name: str) -> nn.Module:
        """Return the net that answers as one head does, with the same parameters: to evaluate, to predict.

        Raises:
            ValueError: there is no such head.
        """
        if name not in self.heads:
            raise ValueError(f"MultiTask: there is no head {name!r}; choose one of {', '.join(self.heads)}")
        return _Head(self, name)

    def window(self) -> Window:
        """Return the identity, see `FCN.window`."""
        return Window()


class _Head(nn.Module):
    """One head of a `MultiTask` net."""

    def __init__(self, net: MultiTask, name: str) -> None:
        self.net, self.name = net, name

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)[self.name]
        return scores

    def window(self) -> Window:
        return Window()


class LateFusion(nn.Module):
    """Two nets, each over channels of its own, whose scores are added.

    Trained as one: each net learns what the other one does not know already. (Early fusion needs no class: a net whose
    first layer has a channel more.)

    Args:
        first: takes the first ``channels`` channels of an image.
        second: takes the others; gives scores of the same shape.
        channels: how many channels are the first net's.

    Raises:
        ValueError: in use, if an image has no channel left for the second net.
    """

    def __init__(self, first: nn.Module, second: nn.Module, channels: int) -> None:
        self.first, self.second, self.channels = first, second, channels

    def forward(self, x: Tensor) -> Any:
        """Return the scores (N, classes, H, W) of images x (N, C, H, W)."""
        if not 0 < self.channels < x.shape[1]:
            raise ValueError(
                f"LateFusion: the first net takes {self.channels} channels, and an image of {x.shape[1]} channels "
                f"leaves none for the other; give both nets some"
            )
        return self.first(x[:, : self.channels]) + self.second(x[:, self.channels :])

    def window(self) -> Window:
        """Return the identity, see `FCN.window`."""
        return Window()
