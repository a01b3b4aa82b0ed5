"""What local response normalisation and its gradient compute.

Notation, here and in every implementation::

    N batch   C channels   H W map size   size: number of neighbouring channels

    scale[n, c, h, w] = k + alpha / size · Σ_d x[n, d, h, w]²

where d runs over the window of channel c, the channels c − ⌊size/2⌋ … c + ⌊(size − 1)/2⌋ as far as they exist (for
an even size it leans to the lower channels, as in PyTorch). ``scale`` does not depend on how many of them exist:
missing channels count as zeros.

Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012, §3.3.
There alpha is not divided by the size; here it is, as in Caffe and PyTorch.
"""

import numpy as np

from minifcn_kernels.dispatch import floats, kernel
from minifcn_kernels.jit import Array


def check_constants(size: int, alpha: float, k: float) -> None:
    """Raise an error unless ``size`` is a count and ``scale`` positive whatever the input."""
    if not isinstance(size, int):
        raise TypeError(f"local_response_norm: size must be an int, got {size!r}")
    if size < 1:
        raise ValueError(f"local_response_norm: size must be at least 1, got {size}")
    if not alpha >= 0:
        raise ValueError(f"local_response_norm: alpha must not be negative, got {alpha}")
    if not k > 0:
        raise ValueError(f"local_response_norm: k must be positive, got {k}")


@kernel(x=floats("N C H W"))
def local_response_norm(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Divide each activation by the activity of the channels around it::

        y = x · scale^(−beta)

    with ``scale`` as in the notation above.

    Args:
        x: (N, C, H, W).
        size: number of channels in a window, the channel itself included.
        alpha: how much the neighbours' squares count, not negative.
        beta: the exponent.
        k: the scale where all is zero, positive.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError: a size that is not an int.
        ValueError: a size below 1, an alpha below 0, or a k that is not positive.
    """
    check_constants(size, alpha, k)
    scale = k + alpha / size * _sum_over_channels(x * x, size // 2, (size - 1) // 2)
    y: Array = x * scale**-beta
    return y


@kernel(gy=floats("N C H W"), x=floats("N C H W"))
def local_response_norm_grad(gy: Array, x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Pull a cotangent of `local_response_norm`'s output back to its input::

        gx_c = gy_c · scale_c^(−beta) − 2·alpha·beta/size · x_c · Σ_e gy_e · x_e · scale_e^(−beta − 1)

    at each n, h, w. Here e runs over the channels that have c in their window, c − ⌊(size − 1)/2⌋ … c + ⌊size/2⌋.

    Args:
        gy: (N, C, H, W).
        x: (N, C, H, W), the input of the forward pass.
        size, alpha, beta, k: those of the forward pass.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError, ValueError: see `local_response_norm`.
    """
    check_constants(size, alpha, k)
    scale = k + alpha / size * _sum_over_channels(x * x, size // 2, (size - 1) // 2)
    through_scale = _sum_over_channels(gy * x * scale ** (-beta - 1), (size - 1) // 2, size // 2)
    gx: Array = gy * scale**-beta - 2 * alpha * beta / size * x * through_scale
    return gx


def _sum_over_channels(x: Array, below: int, above: int) -> Array:
    """Sum each channel with the ``below`` channels before it and the ``above`` channels after it."""
    padded = np.pad(x, ((0, 0), (below, above), (0, 0), (0, 0)))
    sums: Array = np.lib.stride_tricks.sliding_window_view(padded, below + 1 + above, axis=1).sum(axis=-1)
    return sums
