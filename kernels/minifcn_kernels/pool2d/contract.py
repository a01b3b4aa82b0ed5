"""What the four pooling kernels compute.

Notation, here and in every implementation::

    N batch   C channels   H W input size   OH OW output size   R S window size
    i j output position    r s position within the window

Output position (i, j) looks through a window at the input positions

    h = i·stride_h + r·dilation_h − padding_h        w = j·stride_w + s·dilation_w − padding_w

with 0 ≤ r < R and 0 ≤ s < S, one channel at a time. Positions outside 0 ≤ h < H, 0 ≤ w < W are padding:
they never win a maximum, and they add nothing to a sum.

``ceil_mode`` admits a last window that reaches over the padding's far edge, so that no input pixel is left out.
It must start within the input or the padding before it; a window that would start behind the input is dropped.
"""

from dataclasses import dataclass

import numpy as np

from minifcn_kernels.dispatch import check_shape, floats, integers, kernel
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair, Pair, check_map_shape, output_size, pair

# Half the size of int64, and a plane of 2³¹ pixels is one of 8 GB.
INDEX = np.dtype(np.int32)


@dataclass(frozen=True, slots=True)
class PoolGeometry:
    """The checked sizes of one pooling, under the names of the notation above."""

    N: int
    C: int
    H: int
    W: int
    OH: int
    OW: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return self.N, self.C, self.H, self.W

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        """(N, C, OH, OW)."""
        return self.N, self.C, self.OH, self.OW


def pool_geometry(
    x_shape: tuple[int, ...],
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    dilation: IntOrPair,
    ceil_mode: bool,
) -> PoolGeometry:
    """Check a pooling's shape and options against each other and return them, with the output's size.

    Raises:
        TypeError: an option is not an int or a pair of ints.
        ValueError: a kernel size, stride or dilation below 1, a padding that is negative or more than half the kernel,
            a window larger than the padded input, or a window that would see nothing but padding.
    """
    check_map_shape("pool2d", "x", x_shape)
    N, C, H, W = x_shape
    most = np.iinfo(INDEX).max
    if most < H * W:
        raise ValueError(f"pool2d: a plane may have at most {most} pixels, got {H}×{W}")
    kernel = pair("kernel_size", kernel_size, minimum=1)
    stride = kernel if stride is None else pair("stride", stride, minimum=1)
    padding = pair("padding", padding, minimum=0)
    dilation = pair("dilation", dilation, minimum=1)
    if padding[0] > kernel[0] // 2 or padding[1] > kernel[1] // 2:
        raise ValueError(f"pool2d: padding must be at most half the kernel_size {kernel}, got {padding}")
    OH, OW = (_outputs((H, W)[a], kernel[a], stride[a], padding[a], dilation[a], ceil_mode) for a in (0, 1))
    if OH < 1 or OW < 1:
        reach = dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1
        raise ValueError(
            f"pool2d: the window reaches over {reach[0]}×{reach[1]} pixels, more than the padded input has "
            f"({H + 2 * padding[0]}×{W + 2 * padding[1]}); use a larger input or a smaller window"
        )
    for size, step, before, gap in zip((H, W), stride, padding, dilation, strict=True):
        if _jumps_over(size, step, before, gap):
            raise ValueError(
                f"pool2d: with dilation {dilation} and padding {padding} a window jumps over the input of "
                f"{H}×{W} pixels and sees only padding; use a larger input or no padding"
            )
    return PoolGeometry(N, C, H, W, OH, OW, kernel, stride, padding, dilation)


def _outputs(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    if not ceil_mode:
        return output_size(size, kernel, stride, padding, dilation)
    outputs = output_size(size + stride - 1, kernel, stride, padding, dilation)
    # Rounding up may have added one window too many, never two: it starts less than a stride behind the last
    # one that fits, and since padding ≤ kernel/2 that one starts inside the input.
    return outputs - 1 if (outputs - 1) * stride >= size + padding else outputs


def _jumps_over(size: int, stride: int, padding: int, dilation: int) -> bool:
    """Say whether some window has a position before the input, the next one behind it, and none inside.

    Only a window that starts in the padding before the input can; since padding ≤ kernel/2 it ends at 0 or later,
    and its first position that is not negative is its start modulo the dilation.
    """
    return any(start % dilation >= size for start in range(-padding, 0, stride))


@kernel(x=floats("N C H W"))
def max_pool2d(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """Take the largest element in each window, and note where it was::

        y[n, c, i, j]     = max over r, s of x[n, c, h, w]
        index[n, c, i, j] = h·W + w of the element that won

    with h, w as in the notation above. Of equal elements the first in row-major order wins. NaN is larger than
    everything: if a window holds any, the first NaN wins.

    Args:
        x: (N, C, H, W).
        kernel_size: R and S.
        stride: step between windows, in input pixels; the kernel size if None.
        padding: positions added on each side, at most half the kernel size; they never win.
        dilation: distance between neighbouring positions of a window, in input pixels.
        ceil_mode: admit a last window that reaches over the far edge.

    Returns:
        y, (N, C, OH, OW), of the dtype of ``x``; and index, of the same shape, int32. An index always points
        into the input, never into the padding.

    Raises:
        TypeError, ValueError: see `pool_geometry`.
    """
    g = pool_geometry(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    values = _windows(x, g, fill=-np.inf)  # (N, C, OH, OW, R·S)
    positions = _windows(np.arange(g.H * g.W, dtype=INDEX).reshape(1, 1, g.H, g.W), g, fill=-1)  # (1, 1, OH, OW, R·S)
    largest = values.max(axis=-1, keepdims=True)
    # The position decides that padding does not win against an element that is −∞ itself.
    wins = (positions >= 0) & ((values == largest) | np.isnan(values))
    first = wins.argmax(axis=-1, keepdims=True)
    y = np.take_along_axis(values, first, axis=-1)[..., 0]
    index = np.take_along_axis(np.broadcast_to(positions, values.shape), first, axis=-1)[..., 0]
    return y, index


@kernel(gy=floats("N C OH OW"), index=integers("N C OH OW"))
def max_pool2d_grad(
    gy: Array,
    index: Array,
    x_shape: tuple[int, int, int, int],
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> Array:
    """Pull a cotangent of `max_pool2d`'s output back to its input: each goes to the element that won::

        gx[n, c, h, w] = Σ gy[n, c, i, j]  over the (i, j) with index[n, c, i, j] = h·W + w

    Args:
        gy: (N, C, OH, OW).
        index: the index that `max_pool2d` returned, (N, C, OH, OW).
        x_shape: (N, C, H, W).
        kernel_size, stride, padding, dilation, ceil_mode: those of the forward pass. They tell which windows can have
            chosen an element, so that an implementation may gather instead of scattering.

    Returns:
        (N, C, H, W); zero where an element won no window.

    Raises:
        TypeError, ValueError: see `pool_geometry`; also if ``gy`` is not what ``x_shape`` is pooled to, or an index
            lies outside 0 … H·W − 1.
    """
    g = pool_geometry(x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    check_shape("max_pool2d_grad", "gy", gy.shape, g.y_shape)
    check_index(index, g)
    gx = np.zeros((g.N, g.C, g.H * g.W), gy.dtype)
    n, c = np.ogrid[: g.N, : g.C]
    np.add.at(gx, (n[..., None, None], c[..., None, None], index), gy)
    return gx.reshape(g.x_shape)


@kernel(x=floats("N C H W"))
def avg_pool2d(
    x: Array,
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Average over each window::

        y[n, c, i, j] = 1 / divisor[i, j] · Σ_r Σ_s x[n, c, h, w]

    with h, w as in the notation above, without dilation. The divisor is the number of the window's positions that
    lie in the padded input, or with ``count_include_pad=False`` in the input itself. What a last window in
    ``ceil_mode`` reaches beyond the padding is never counted.

    Args:
        x: (N, C, H, W).
        kernel_size: R and S.
        stride: step between windows, in input pixels; the kernel size if None.
        padding: zeros added on each side, at most half the kernel size.
        ceil_mode: admit a last window that reaches over the far edge.
        count_include_pad: whether the divisor counts padding.

    Returns:
        (N, C, OH, OW), of the dtype of ``x``.

    Raises:
        TypeError, ValueError: see `pool_geometry`.
    """
    g = pool_geometry(x.shape, kernel_size, stride, padding, 1, ceil_mode)
    rows, columns = window_counts(g, count_include_pad, x.dtype)
    y: Array = _windows(x, g, fill=0).sum(axis=-1) / (rows[:, None] * columns)
    return y


@kernel(gy=floats("N C OH OW"))
def avg_pool2d_grad(
    gy: Array,
    x_shape: tuple[int, int, int, int],
    kernel_size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Pull a cotangent of `avg_pool2d`'s output back to its input::

        gx[n, c, h, w] = Σ gy[n, c, i, j] / divisor[i, j]  over the windows (i, j) that contain (h, w)

    Args:
        gy: (N, C, OH, OW).
        x_shape: (N, C, H, W).
        kernel_size, stride, padding, ceil_mode, count_include_pad: those of the forward pass.

    Returns:
        (N, C, H, W); zero where no window reached.

    Raises:
        TypeError, ValueError: see `pool_geometry`; also if ``gy`` is not what ``x_shape`` is pooled to.
    """
    g = pool_geometry(x_shape, kernel_size, stride, padding, 1, ceil_mode)
    check_shape("avg_pool2d_grad", "gy", gy.shape, g.y_shape)
    rows, columns = window_counts(g, count_include_pad, gy.dtype)
    share = gy / (rows[:, None] * columns)
    (stride_h, stride_w), (pad_h, pad_w) = g.stride, g.padding
    behind_h, behind_w = _behind(g)
    padded = np.zeros((g.N, g.C, pad_h + g.H + behind_h, pad_w + g.W + behind_w), gy.dtype)
    for r in range(g.kernel[0]):
        for s in range(g.kernel[1]):
            rows_met = slice(r, r + stride_h * (g.OH - 1) + 1, stride_h)
            columns_met = slice(s, s + stride_w * (g.OW - 1) + 1, stride_w)
            padded[:, :, rows_met, columns_met] += share
    return padded[:, :, pad_h : pad_h + g.H, pad_w : pad_w + g.W].copy()


def check_index(index: Array, g: PoolGeometry) -> None:
    """Raise a ValueError unless every index points into a plane of the input."""
    if index.size and (index.min() < 0 or index.max() >= g.H * g.W):
        raise ValueError(
            f"max_pool2d_grad: index must lie in 0 … {g.H * g.W - 1} (a plane of {g.H}×{g.W}), "
            f"got {index.min()} … {index.max()}; pass the index that max_pool2d returned for this input"
        )


def window_counts(g: PoolGeometry, include_pad: bool, dtype: np.dtype[np.floating]) -> tuple[Array, Array]:
    """Return the counted rows of each window, (OH,), and its counted columns, (OW,); their product is the divisor."""
    counts = []
    for axis, (size, outputs) in enumerate(((g.H, g.OH), (g.W, g.OW))):
        first = np.arange(outputs) * g.stride[axis] - g.padding[axis]
        end = np.minimum(first + g.kernel[axis], size + g.padding[axis])
        if not include_pad:
            first, end = np.maximum(first, 0), np.minimum(end, size)
        counts.append((end - first).astype(dtype))
    return counts[0], counts[1]


def _behind(g: PoolGeometry) -> Pair:
    """Return how many rows and columns to put behind the input, so that all windows fit: the padding or more."""
    reach_h, reach_w = (g.dilation[a] * (g.kernel[a] - 1) + 1 for a in (0, 1))
    end_h, end_w = (g.OH - 1) * g.stride[0] + reach_h, (g.OW - 1) * g.stride[1] + reach_w
    return max(g.padding[0], end_h - g.padding[0] - g.H), max(g.padding[1], end_w - g.padding[1] - g.W)


def _windows(x: Array, g: PoolGeometry, fill: float) -> Array:
    """Return what each window sees, in row-major order: (N, C, H, W) → (N, C, OH, OW, R·S)."""
    behind_h, behind_w = _behind(g)
    around = (0, 0), (0, 0), (g.padding[0], behind_h), (g.padding[1], behind_w)
    padded = np.pad(x, around, constant_values=fill)
    reach = g.dilation[0] * (g.kernel[0] - 1) + 1, g.dilation[1] * (g.kernel[1] - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: g.stride[0], :: g.stride[1], :: g.dilation[0], :: g.dilation[1]]
    return windows.reshape(*windows.shape[:4], g.kernel[0] * g.kernel[1])
