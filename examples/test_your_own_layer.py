"""Two layers written outside of minifcn, and the few lines that prove their gradients.

Run it with ``pytest examples/test_your_own_layer.py``; docs/proving-gradients.md explains it step by step.
"""

import numpy as np
from hypothesis import given

from minifcn import Function, nn, ops
from minifcn.testing import check_gradients, strategies

TAPS = (0.25, 0.5, 0.25)  # the smallest Gaussian: a row of Pascal's triangle, 1 2 1, divided by its sum


class BlurPool(Function):
    """Blur, then keep every second pixel: y[i, j] = Σ_r Σ_s TAPS[r] · TAPS[s] · x[2i + r − 1, 2j + s − 1].

    Subsampling without the blur aliases (Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019).
    """

    def forward(self, x):
        N, C, H, W = x.shape
        self.save(x.shape)
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        y = np.zeros((N, C, (H + 1) // 2, (W + 1) // 2), x.dtype)
        for r in range(3):
            for s in range(3):
                y += TAPS[r] * TAPS[s] * padded[:, :, r : r + H : 2, s : s + W : 2]
        return y

    def backward(self, grad):
        N, C, H, W = self.saved[0]
        padded = np.zeros((N, C, H + 2, W + 2), grad.dtype)
        for r in range(3):
            for s in range(3):
                padded[:, :, r : r + H : 2, s : s + W : 2] += TAPS[r] * TAPS[s] * grad
        return (padded[:, :, 1:-1, 1:-1],)


class DepthwiseSeparable(nn.Module):
    """A 3×3 filter for each channel alone, then 1×1 filters that mix the channels.

    Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017, §3.1.
    """

    def __init__(self, in_channels, out_channels, rng=None):
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, rng=rng)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, rng=rng)

    def forward(self, x):
        return self.pointwise(ops.relu(self.depthwise(x)))


@given(x=strategies.arrays())
def test_blur_pool(x):
    """A function: the gradient of its input."""
    check_gradients(BlurPool.apply, x)


@given(x=strategies.arrays(strategies.shapes()), seed=strategies.seeds())
def test_depthwise_separable(x, seed):
    """A module: the gradients of its input and its parameters."""
    layer = DepthwiseSeparable(x.shape[1], 2, np.random.default_rng(seed))
    check_gradients(layer, x, mode="directional", seed=seed)
