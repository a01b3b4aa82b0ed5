"""Hypothesis strategies for arrays and geometries: valid by construction, and shrinking towards 1×1.

No example is drawn and thrown away: whatever depends on something else, such as the smallest input for a filter, is
drawn from the range that is left. Sizes are drawn as they are written in a case, last those that depend on the
others; so Hypothesis can lower each of them alone, and what it reports is a smallest case. Arrays come from seeds,
never number by number.

    @given(case=strategies.convolutions())
    def test_my_convolution(case):
        check_gradients(lambda x, w: my_convolution(x, w, **case.options), *case.arrays())
"""

from typing import Literal

from minifcn.testing import data
from minifcn.testing.cases import ConvCase, ConvTransposeCase, CropCase, LabelCase, NormCase, PoolCase
from minifcn_kernels.jit import Array
from minifcn_kernels.spatial import Pair

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("minifcn.testing.strategies needs Hypothesis: pip install 'minifcn[testing]'") from error

Values = Literal["distinct", "normal", "tied", "whole"]

# Large enough for several windows that overlap and for something left over at the edge; small enough to be quick.
_LARGEST_MAP = 7


def seeds() -> st.SearchStrategy[int]:
    """Draw the seed of an array."""
    return st.integers(0, 2**16)


def sizes(largest: int = 3) -> st.SearchStrategy[int]:
    """Draw a size from 1 to ``largest``."""
    return st.integers(1, largest)


def shapes(axes: int = 4, largest: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw a shape of so many axes; by default that of a batch of maps, (N, C, H, W)."""
    return st.tuples(*[sizes(largest)] * axes)


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
    *,
    values: Values = "distinct",
    strided: bool = False,
) -> Array:
    """Draw a float64 array.

    Args:
        draw: Hypothesis's own.
        shape: or a strategy for it; `shapes` if None.
        values: ``"distinct"`` keeps away from the kinks of ReLU and maxima, ``"tied"`` goes looking for them,
            ``"normal"`` and ``"whole"`` are what they say (see `minifcn.testing.data`).
        strided: lay it out backwards and with gaps.
    """
    if not isinstance(shape, tuple):
        shape = draw(shapes() if shape is None else shape)
    array: Array = getattr(data, values)(shape, draw(seeds()))
    return data.strided(array) if strided else array


def _pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def _reach(kernel: Pair, dilation: Pair) -> Pair:
    """Return how many pixels a filter spans."""
    return dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1


def _map_at_least(draw: st.DrawFn, smallest: Pair) -> Pair:
    """Draw a map's height and width."""
    H, W = (draw(st.integers(max(1, size), max(1, size) + _LARGEST_MAP - 1)) for size in smallest)
    return H, W


@st.composite
def convolutions(draw: st.DrawFn) -> ConvCase:
    """Draw a convolution; see `ConvCase`."""
    groups = draw(sizes())
    C, K = groups * draw(sizes(2)), groups * draw(sizes(2))
    kernel, stride, dilation, padding = draw(_pairs(1, 3)), draw(_pairs(1, 3)), draw(_pairs(1, 3)), draw(_pairs(0, 2))
    reach = _reach(kernel, dilation)
    H, W = _map_at_least(draw, (reach[0] - 2 * padding[0], reach[1] - 2 * padding[1]))
    N, bias, seed = draw(sizes(2)), draw(st.booleans()), draw(seeds())
    return ConvCase(N, C, K, H, W, *kernel, stride, padding, dilation, groups, bias, seed)


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> ConvTransposeCase:
    """Draw a transposed convolution; see `ConvTransposeCase`."""
    groups = draw(sizes())
    C, K = groups * draw(sizes(2)), groups * draw(sizes(2))
    kernel, stride, dilation = draw(_pairs(1, 3)), draw(_pairs(1, 3)), draw(_pairs(1, 3))
    H, W = draw(sizes(4)), draw(sizes(4))
    output_padding = draw(st.integers(0, stride[0] - 1)), draw(st.integers(0, stride[1] - 1))
    reach = _reach(kernel, dilation)
    # Padding cuts rows off both ends of the output; one must be left.
    height, width = ((n - 1) * stride[i] + reach[i] + output_padding[i] for i, n in enumerate((H, W)))
    padding = draw(st.integers(0, min(2, (height - 1) // 2))), draw(st.integers(0, min(2, (width - 1) // 2)))
    N, bias, seed = draw(sizes(2)), draw(st.booleans()), draw(seeds())
    return ConvTransposeCase(N, C, K, H, W, *kernel, stride, padding, output_padding, dilation, groups, bias, seed)


@st.composite
def poolings(draw: st.DrawFn, *, dilated: bool = True, ties: bool = False) -> PoolCase:
    """Draw a pooling; see `PoolCase`. Average pooling has no dilation: it needs ``dilated=False``."""
    kernel, stride = draw(_pairs(1, 3)), draw(_pairs(1, 3))
    dilation = draw(_pairs(1, 3)) if dilated else (1, 1)
    padding = draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))
    ceil_mode, count_include_pad = draw(st.booleans()), draw(st.booleans())
    smallest = []
    for reach, step, before, gap in zip(_reach(kernel, dilation), stride, padding, dilation, strict=True):
        # With ceil_mode the last window may lack less than one stride; a window that starts in the padding must not
        # jump over the map.
        fits = reach - 2 * before - (step - 1 if ceil_mode else 0)
        smallest.append(max(fits, gap if before else 1))
    H, W = _map_at_least(draw, (smallest[0], smallest[1]))
    N, C, seed = draw(sizes(2)), draw(sizes(2)), draw(seeds())
    return PoolCase(N, C, H, W, *kernel, stride, padding, dilation, ceil_mode, count_include_pad, ties, seed)


@st.composite
def crops(draw: st.DrawFn) -> CropCase:
    """Draw a map and a rectangle in it; see `CropCase`."""
    offset, size = draw(_pairs(0, 3)), draw(_pairs(1, 4))
    H, W = _map_at_least(draw, (offset[0] + size[0], offset[1] + size[1]))
    return CropCase(draw(sizes(2)), draw(sizes(2)), H, W, offset, size, draw(seeds()))


@st.composite
def label_maps(draw: st.DrawFn) -> LabelCase:
    """Draw logits and labels; see `LabelCase`."""
    N, C, H, W = draw(sizes(2)), draw(sizes(4)), draw(sizes(4)), draw(sizes(4))
    ignore, weight, mask = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    reduction = draw(st.sampled_from(["mean", "sum", "none"]))
    return LabelCase(N, C, H, W, ignore, weight, mask, reduction, draw(seeds()))


@st.composite
def normalisations(draw: st.DrawFn) -> NormCase:
    """Draw a local response normalisation; see `NormCase`."""
    N, C, H, W = draw(sizes(2)), draw(sizes(6)), draw(sizes(3)), draw(sizes(3))
    return NormCase(N, C, H, W, size=draw(sizes(5)), seed=draw(seeds()))
