"""Upsampling is backwards strided convolution (FCN §3.3).

Bilinear interpolation by f, in the paper's form for one axis::

    y[i] = Σ_{α ∈ {0, 1}} |1 − α − {i/f}| · x[⌊i/f⌋ + α]            {·} is the fractional part

gives every input pixel a triangle of influence that reaches f pixels to each side. A transposed convolution of stride
f does just that: each input pixel adds a copy of the filter, here the triangle, to the output. Which filter?

    kernel 2f − 1    the triangle's peak is a pixel of the filter: the formula, output i at x = i/f
    kernel 2f        the peak lies between two pixels: the formula at (i + ½)/f − ½, half an output pixel aside

(i counts from the output pixel over the first input pixel; for 2f, from f/2 − ½ pixels before it.) Both hold in the
interior. Within f pixels of the border the second neighbour is missing and counts as 0: constants fade out there, which
is why an FCN crops.
"""

from minifcn import nn
from minifcn_kernels.spatial import IntOrPair, pair


def bilinear_upsampling(
    channels: int, kernel_size: IntOrPair, factor: IntOrPair, *, learned: bool = False
) -> nn.ConvTranspose2d:
    """Return a transposed convolution that enlarges maps of ``channels`` by ``factor``, bilinearly at first.

    Fixed, it is grouped: each channel is a group of its own, and upsampling C channels takes C filters. Learned, it has
    all C² filters, those between different channels zero at first, and training may mix the channels.

    Args:
        channels: of the map, C.
        kernel_size: 2·factor − 1 or 2·factor, along each axis.
        factor: how many times as high and wide the map becomes, f.
        learned: whether the filters are trained.

    Raises:
        ValueError: ``channels`` is below 1, or another kernel: its triangles would not add up to 1, and a constant map
            would come out rippled.
    """
    if channels < 1:
        raise ValueError(f"bilinear_upsampling: channels must be at least 1, got {channels}")
    kernels, factors = pair("kernel_size", kernel_size, minimum=1), pair("factor", factor, minimum=1)
    for k, f in zip(kernels, factors, strict=True):
        if k not in (2 * f - 1, 2 * f):
            raise ValueError(
                f"bilinear_upsampling: kernel_size for a factor of {f} must be {2 * f - 1} or {2 * f}, got {k}"
            )
    groups = 1 if learned else channels
    layer = nn.ConvTranspose2d(channels, channels, kernels, factors, groups=groups, bias=False)
    weights = nn.init.bilinear(channels, kernels, groups=groups)
    layer.weight = nn.Parameter(weights, lr_multiplier=1.0 if learned else 0.0)
    return layer
