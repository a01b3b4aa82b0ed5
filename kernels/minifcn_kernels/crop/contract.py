"""What the three cropping kernels compute.

Notation, here and in every implementation::

    N batch   C channels   H W size of the full map   OH OW size of the crop
    (top, left) offset: the position in the full map of the crop's first element

An FCN crops wherever two maps of different sizes meet: the padded net's output to the image, and a finer layer's
scores to those of the coarser layer that they refine (FCN §4.2).
"""

import numpy as np

from minifcn_kernels.dispatch import check_shape, floats, kernel
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair, Pair, check_map_shape, pair


def crop_window(x_shape: tuple[int, ...], offset: IntOrPair, size: IntOrPair) -> tuple[Pair, Pair]:
    """Check that a crop lies within a map of shape ``x_shape`` and return ``offset`` and ``size`` as pairs.

    Raises:
        TypeError: not an int or a pair of ints.
        ValueError: a negative offset, a size below 1, or a crop that reaches over the map's edge.
    """
    check_map_shape("crop", "the map", x_shape)
    H, W = x_shape[2:]
    top, left = pair("offset", offset, minimum=0)
    OH, OW = pair("size", size, minimum=1)
    if top + OH > H or left + OW > W:
        raise ValueError(
            f"crop: offset {(top, left)} and size {(OH, OW)} reach to row {top + OH} and column {left + OW}, "
            f"but the map has {H}×{W}"
        )
    return (top, left), (OH, OW)


@kernel(x=floats("N C H W"))
def crop(x: Array, offset: IntOrPair, size: IntOrPair) -> Array:
    """Cut a rectangle out of a map::

        y[n, c, i, j] = x[n, c, top + i, left + j]

    Args:
        x: (N, C, H, W).
        offset: (top, left).
        size: (OH, OW).

    Returns:
        (N, C, OH, OW), a copy.

    Raises:
        TypeError, ValueError: see `crop_window`.
    """
    (top, left), (OH, OW) = crop_window(x.shape, offset, size)
    return x[:, :, top : top + OH, left : left + OW].copy()


@kernel(gy=floats("N C OH OW"))
def crop_grad(gy: Array, offset: IntOrPair, x_shape: tuple[int, int, int, int]) -> Array:
    """Pull a cotangent of `crop`'s output back to its input: put it back where it was cut out::

        gx[n, c, top + i, left + j] = gy[n, c, i, j]        and zero elsewhere

    Args:
        gy: (N, C, OH, OW).
        offset: (top, left).
        x_shape: (N, C, H, W).

    Returns:
        (N, C, H, W).

    Raises:
        TypeError, ValueError: see `crop_window`; also if ``gy`` and ``x_shape`` differ in N or C.
    """
    (top, left), (OH, OW) = crop_window(x_shape, offset, gy.shape[2:])
    check_shape("crop_grad", "gy", gy.shape, (*x_shape[:2], OH, OW))
    gx = np.zeros(x_shape, gy.dtype)
    gx[:, :, top : top + OH, left : left + OW] = gy
    return gx


@kernel(coarse=floats("N C OH OW"), fine=floats("N C H W"))
def fuse(coarse: Array, fine: Array, offset: IntOrPair) -> Array:
    """Add to a map of coarse scores the finer scores of the same place, in one pass (FCN §4.2)::

        y[n, c, i, j] = coarse[n, c, i, j] + fine[n, c, top + i, left + j]

    It is linear in both; the gradient of ``coarse`` is the cotangent itself, that of ``fine`` its `crop_grad`.

    Args:
        coarse: (N, C, OH, OW), the upsampled scores.
        fine: (N, C, H, W), at least as large as offset and ``coarse`` together.
        offset: (top, left) of ``coarse`` in ``fine``.

    Returns:
        (N, C, OH, OW).

    Raises:
        TypeError, ValueError: see `crop_window`.
    """
    (top, left), (OH, OW) = crop_window(fine.shape, offset, coarse.shape[2:])
    y: Array = coarse + fine[:, :, top : top + OH, left : left + OW]
    return y
