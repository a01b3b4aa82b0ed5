"""Scales for training all strides at once (FCN §4.2, journal version).

Let x be the features of a stride at some cell, w the filter that scores them there, s = w·x. With the loss's gradient
g = ∂loss/∂s, a step of learning rate λ moves the filter by −λ·g·x, and through it the score by

    Δs = −λ·g·‖x‖²

So at one learning rate a stride whose features have r times the norm learns r² times as fast. Norms grow towards the
fine strides (sums of unnormalised features, not yet through fc6 and fc7), and those would learn first, although the
coarse one is to lead. Staged training holds the fine strides back by a learning rate a hundred times smaller for each.
At once, the same is done inside the net: x is multiplied by

    a = mean ‖x_coarsest‖ / mean ‖x‖

after which all strides have one norm, and learn equally fast. The released net has the constants 0.01 for pool4 and
0.0001 for pool3: powers of ten for the VGG16 and the pixels (0 … 255 less their mean) that it starts from. Another
backbone has others; `feature_scales` measures them.
"""

from collections.abc import Iterable

import numpy as np

from minifcn import nn
from minifcn.fcn.skip import FCN
from minifcn.tensor import Tensor, no_grad


def feature_scales(net: FCN, images: Iterable[Tensor]) -> dict[int, float]:
    """Return for each stride but the coarsest by what to multiply its features, so that all strides have one norm.

    A stride's norm is the mean over all cells of all images of ‖x‖, x being the C features of a cell. Build the net
    with the answer, ``FCN(..., scales=scales)``, or assign it to ``net.scales`` before training.

    Args:
        net: the net before training, as its backbone comes from the classifier; its present scales do not matter.
        images: batches (N, C, H, W), as the net is trained on; a few images are enough.

    Raises:
        ValueError: there are no images, or the features of a stride are zero everywhere.
    """
    sums = dict.fromkeys(net.taps, 0.0)
    cells = dict.fromkeys(net.taps, 0)
    with no_grad(), nn.evaluating(net):
        for batch in images:
            for stride, features in net.tapped_maps(batch).items():
                norms = np.sqrt(np.square(features.data, dtype=np.float64).sum(axis=1))  # (N, C, H, W) → (N, H, W)
                sums[stride] += float(norms.sum()) / net.scales.get(stride, 1.0)
                cells[stride] += norms.size
    silent = [stride for stride, total in sums.items() if total == 0]
    if silent:
        raise ValueError(f"feature_scales: the features of stride {silent[0]} are zero, or there are no images")
    coarsest = max(net.taps)
    mean = {stride: sums[stride] / cells[stride] for stride in sums}
    return {stride: mean[coarsest] / mean[stride] for stride in sums if stride != coarsest}
