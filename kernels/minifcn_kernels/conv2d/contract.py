"""What the three convolution kernels compute.

Notation, here and in every implementation::

    N batch   C channels in   K channels out   G groups
    H W input size   OH OW output size   R S filter size
    i j output position   r s filter tap

An output position (i, j) meets tap (r, s) at the input position

    h = i·stride_h + r·dilation_h − padding_h        w = j·stride_w + s·dilation_w − padding_w

and the input is zero outside 0 ≤ h < H, 0 ≤ w < W. Channels fall into G groups: output channel k sees only
the C/G input channels of its own group.

The three sums run over the same pairs (h, w) ↔ (i, j); they differ only in what is summed over and what is
left. That is why `conv2d_grad_input` is at once the gradient of a convolution and the forward pass of a
transposed one (FCN §3.3: "upsampling is backwards strided convolution").
"""

from dataclasses import dataclass

import numpy as np

from minifcn_kernels.dispatch import check_shape, floats, kernel
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import IntOrPair, Pair, check_map_shape, output_size, pair


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """The checked sizes of one convolution, under the names of the notation above."""

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    OH: int
    OW: int
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return self.N, self.C, self.H, self.W

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """(K, C/G, R, S)."""
        return self.K, self.C // self.groups, self.R, self.S

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        """(N, K, OH, OW)."""
        return self.N, self.K, self.OH, self.OW


def conv_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
    groups: int,
) -> ConvGeometry:
    """Check a convolution's shapes and options against each other and return them, with the output's size.

    Raises:
        TypeError: an option is not an int or a pair of ints.
        ValueError: a stride or dilation below 1, a negative padding, groups that do not divide the channels,
            a filter of another number of channels, or a filter larger than the padded input.
    """
    check_map_shape("conv2d", "x", x_shape)
    check_map_shape("conv2d", "w", w_shape)
    N, C, H, W = x_shape
    K, C_per_group, R, S = w_shape
    stride = pair("stride", stride, minimum=1)
    padding = pair("padding", padding, minimum=0)
    dilation = pair("dilation", dilation, minimum=1)
    if not isinstance(groups, int | np.integer):
        raise TypeError(f"conv2d: groups must be an int, got {groups!r}")
    if groups < 1 or C % groups or K % groups:
        raise ValueError(f"conv2d: groups must divide the {C} input and {K} output channels, got {groups}")
    if C_per_group * groups != C:
        raise ValueError(
            f"conv2d: w of shape {tuple(w_shape)} takes {C_per_group} × {groups} groups = "
            f"{C_per_group * groups} input channels, but x of shape {tuple(x_shape)} has {C}"
        )
    OH = output_size(H, R, stride[0], padding[0], dilation[0])
    OW = output_size(W, S, stride[1], padding[1], dilation[1])
    if OH < 1 or OW < 1:
        reach = dilation[0] * (R - 1) + 1, dilation[1] * (S - 1) + 1
        raise ValueError(
            f"conv2d: the filter reaches over {reach[0]}×{reach[1]} pixels, more than the padded input has "
            f"({H + 2 * padding[0]}×{W + 2 * padding[1]}); use a larger input or more padding"
        )
    return ConvGeometry(N, C, H, W, K, R, S, OH, OW, stride, padding, dilation, groups)


def backwards(g: ConvGeometry) -> ConvGeometry:
    """Return the geometry of the convolution by which ``gy`` becomes ``gx``, where the stride is 1.

    Its padding may be negative, if the convolution was padded by more than its filter reaches.
    """
    reach = g.dilation[0] * (g.R - 1), g.dilation[1] * (g.S - 1)
    padding = reach[0] - g.padding[0], reach[1] - g.padding[1]
    return ConvGeometry(g.N, g.K, g.OH, g.OW, g.C, g.R, g.S, g.H, g.W, g.stride, padding, g.dilation, g.groups)


@kernel(x=floats("N C H W"), w=floats("K C/G R S"), b=floats("K"))
def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """Convolve ``x`` with ``w`` (a cross-correlation, as everywhere in this field)::

        y[n, k, i, j] = b[k] + Σ_c Σ_r Σ_s  w[k, c, r, s] · x[n, c, h, w]

    with h, w as in the notation above and c over the channels of k's group.

    Args:
        x: (N, C, H, W).
        w: (K, C/G, R, S).
        b: (K,) or None for no bias.
        stride: step between output positions, in input pixels.
        padding: zeros added on each side.
        dilation: distance between taps, in input pixels.
        groups: G.

    Returns:
        (N, K, OH, OW), of the dtype of ``x``.

    Raises:
        TypeError, ValueError: see `conv_geometry`.
    """
    g = conv_geometry(x.shape, w.shape, stride, padding, dilation, groups)
    y: Array = np.einsum("ngcijrs,gkcrs->ngkij", _windows(x, g), _by_group(w, g)).reshape(g.y_shape)
    return y if b is None else y + b[:, None, None]


@kernel(gy=floats("N K OH OW"), w=floats("K C/G R S"))
def conv2d_grad_input(
    gy: Array,
    w: Array,
    x_shape: tuple[int, int, int, int],
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """Pull a cotangent of `conv2d`'s output back to its input; also the forward pass of a transposed convolution::

        gx[n, c, h, w] = Σ_k Σ_r Σ_s  w[k, c, r, s] · gy[n, k, i, j]

    over the k of c's group and those (r, s) for which an (i, j) of the output exists with
    h = i·stride + r·dilation − padding (the same for w).

    Args:
        gy: (N, K, OH, OW).
        w: (K, C/G, R, S).
        x_shape: (N, C, H, W). It has to be told: with a stride, several input sizes give one output size.
        stride, padding, dilation, groups: those of the convolution.

    Returns:
        (N, C, H, W); zero where no window reached.

    Raises:
        TypeError, ValueError: see `conv_geometry`; also if ``gy`` is not what ``x_shape`` convolves to.
    """
    g = conv_geometry(x_shape, w.shape, stride, padding, dilation, groups)
    check_shape("conv2d_grad_input", "gy", gy.shape, g.y_shape)
    gy, w = gy.reshape(g.N, g.groups, g.K // g.groups, g.OH, g.OW), _by_group(w, g)
    (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = g.stride, g.padding, g.dilation
    padded = np.zeros((g.N, g.groups, g.C // g.groups, g.H + 2 * pad_h, g.W + 2 * pad_w), gy.dtype)
    for r in range(g.R):
        for s in range(g.S):
            rows = slice(r * dilation_h, r * dilation_h + stride_h * (g.OH - 1) + 1, stride_h)
            columns = slice(s * dilation_w, s * dilation_w + stride_w * (g.OW - 1) + 1, stride_w)
            padded[..., rows, columns] += np.einsum("ngkij,gkc->ngcij", gy, w[..., r, s])
    return padded[..., pad_h : pad_h + g.H, pad_w : pad_w + g.W].reshape(g.x_shape)


@kernel(x=floats("N C H W"), gy=floats("N K OH OW"))
def conv2d_grad_weight(
    x: Array,
    gy: Array,
    w_shape: tuple[int, int, int, int],
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """Pull a cotangent of `conv2d`'s output back to its filters::

        gw[k, c, r, s] = Σ_n Σ_i Σ_j  gy[n, k, i, j] · x[n, c, h, w]

    with h, w as in the notation above.

    Args:
        x: (N, C, H, W).
        gy: (N, K, OH, OW).
        w_shape: (K, C/G, R, S).
        stride, padding, dilation, groups: those of the convolution.

    Returns:
        (K, C/G, R, S).

    Raises:
        TypeError, ValueError: see `conv_geometry`; also if ``gy`` is not what ``x`` convolves to.
    """
    g = conv_geometry(x.shape, w_shape, stride, padding, dilation, groups)
    check_shape("conv2d_grad_weight", "gy", gy.shape, g.y_shape)
    gy = gy.reshape(g.N, g.groups, g.K // g.groups, g.OH, g.OW)
    gw: Array = np.einsum("ngcijrs,ngkij->gkcrs", _windows(x, g), gy).reshape(g.w_shape)
    return gw


def _by_group(w: Array, g: ConvGeometry) -> Array:
    """(K, C/G, R, S) → (G, K/G, C/G, R, S)."""
    return w.reshape(g.groups, -1, *g.w_shape[1:])


def _windows(x: Array, g: ConvGeometry) -> Array:
    """Return a view of the padded input, (N, G, C/G, OH, OW, R, S): what each output position meets at each tap."""
    (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = g.stride, g.padding, g.dilation
    padded = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    reach = dilation_h * (g.R - 1) + 1, dilation_w * (g.S - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, ::stride_h, ::stride_w, ::dilation_h, ::dilation_w]
    return windows.reshape(g.N, g.groups, g.C // g.groups, *windows.shape[2:])
