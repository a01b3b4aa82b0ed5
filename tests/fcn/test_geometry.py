"""The paper's crops, paddings and receptive fields, and nets that are laid out cell by cell to check them."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minifcn.fcn.geometry import (
    GeometryError,
    SkipPlan,
    coordinate_map,
    crop_offset,
    minimum_padding,
    plan_skips,
    receptive_field,
)
from minifcn.nn.coordinates import CoordinateMap
from minifcn.nn.window import Chain, Fork, Window

CONV, POOL2, POOL3 = Window(3, padding=1), Window(2, 2, ceil=True), Window(3, 2, ceil=True)

# --- nets: the windows of a backbone, and at which of them it is tapped ------------------------------------------


@dataclass(frozen=True)
class Net:
    """``windows`` one after another; ``ends[stride]`` of them lead to the map of that stride."""

    windows: tuple[Window, ...]
    ends: dict[int, int]

    def taps(self, finest: int = 1) -> dict[int, Chain]:
        return {stride: Chain(self.windows[:end]) for stride, end in self.ends.items() if stride >= finest}

    def padded(self, padding: int) -> "Net":
        first, *others = self.windows
        return Net((Window(first.kernel, first.stride, padding), *others), self.ends)


def vgg_like(convs: Iterable[int], *, padding: int, fc6: Window) -> Net:
    windows, ends = [Window(3, padding=padding)], {}
    for block, convs_in_block in enumerate(convs, start=1):
        windows += [CONV] * (convs_in_block - (block == 1)) + [POOL2]
        ends[2**block] = len(windows)
    return Net((*windows, fc6), ends | {32: len(windows) + 1})


def vgg16(padding: int = 100, fc6_padding: int = 0) -> Net:
    return vgg_like([2, 2, 3, 3, 3], padding=padding, fc6=Window(7, padding=fc6_padding))


def tiny_vgg(padding: int = 1) -> Net:
    return vgg_like([1, 1, 1, 1, 1], padding=padding, fc6=Window(2))


def alexnet(padding: int = 100) -> Net:
    windows = (Window(11, 4, padding), POOL3, Window(5, padding=2), POOL3, CONV, CONV, CONV, POOL3, Window(6))
    return Net(windows, {32: len(windows)})


# --- oracle: a map as a row of cells, each with its place over the image ------------------------------------------


@dataclass(frozen=True)
class Row:
    """``cells`` cells, the first centred at ``first`` in image pixels, the next ones ``step`` pixels apart."""

    first: Fraction
    step: Fraction
    cells: int

    def at(self, cell: int) -> Fraction:
        return self.first + cell * self.step

    def slide(self, window: Window, axis: int) -> "Row":
        """Lay the windows out one by one; each has its output in the middle of the cells it spans."""
        k, s, p = window.kernel[axis], window.stride[axis], window.padding[axis]
        begins = []
        end = self.cells + p + (s - 1 if window.ceil else 0)
        begin = -p
        while begin + k <= end and not (window.ceil and begin >= self.cells):
            begins.append(begin)
            begin += s
        middle = (self.at(-p) + self.at(k - 1 - p)) / 2
        return Row(middle, self.step * s, len(begins))

    def spread(self, window: Window, axis: int) -> "Row":
        """Lay k finer cells around each cell, and trim the padding."""
        k, s, p = window.kernel[axis], window.stride[axis], window.padding[axis]
        step = self.step / s
        canvas = max(j * s + r for j in range(self.cells) for r in range(k)) + 1
        return Row(self.first - Fraction(k - 1, 2) * step + p * step, step, canvas - 2 * p)

    def crop(self, offset: int) -> "Row":
        assert offset >= 0
        return Row(self.at(offset), self.step, self.cells - offset)


@cache
def _rows(windows: tuple[Window, ...], side: int, axis: int) -> list[Row]:
    rows = [Row(Fraction(0), Fraction(1), side)]
    for window in windows:
        rows.append(rows[-1].slide(window, axis))
    return rows


def final_row(net: Net, plan: SkipPlan, side: int, axis: int) -> Row | None:
    """Run a skip net along one axis as the plan says; None where a map vanishes. Fused cells must coincide."""
    rows = _rows(net.windows, side, axis)
    tapped = {stride: rows[net.ends[stride]] for stride in plan.taps}
    if min(row.cells for row in rows[: max(net.ends[stride] for stride in plan.taps) + 1]) < 1:
        return None
    scores = tapped[max(tapped)]
    for fusion in plan.fusions:
        coarse = scores.spread(fusion.upsample, axis).crop(fusion.coarse_offset[axis])
        fine = tapped[fusion.stride].crop(fusion.fine_offset[axis])
        assert (coarse.first, coarse.step) == (fine.first, fine.step)
        scores = Row(coarse.first, coarse.step, min(coarse.cells, fine.cells))
        if scores.cells < 1:
            return None
    final = scores.spread(plan.upsample, axis).crop(plan.offset[axis])
    assert (final.first, final.step) == (0, 1)
    return final


def is_covered(net: Net, plan: SkipPlan, side: int) -> bool:
    finals = [final_row(net, plan, side, axis) for axis in (0, 1)]
    return all(final is not None and final.cells >= side for final in finals)


# --- the paper's numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "finest", "fine_offsets", "kernels", "offset"),
    [
        (vgg16(), 32, [], [64], 19),
        (vgg16(), 16, [5], [4, 32], 27),
        (vgg16(), 8, [5, 9], [4, 4, 16], 31),
        (vgg16(97), 8, [5, 9], [4, 4, 16], 28),
        (alexnet(), 32, [], [63], 18),
    ],
)
def test_the_crops_and_kernels_of_the_reference_nets(net, finest, fine_offsets, kernels, offset):
    plan = plan_skips(net.taps(finest))

    assert [fusion.fine_offset for fusion in plan.fusions] == [(crop, crop) for crop in fine_offsets]
    assert [fusion.coarse_offset for fusion in plan.fusions] == [(0, 0) for _ in fine_offsets]
    assert [window.kernel[0] for window in (*(f.upsample for f in plan.fusions), plan.upsample)] == kernels
    assert plan.offset == (offset, offset)


@pytest.mark.parametrize(("finest", "less"), [(32, 81), (16, 73), (8, 69)])
@pytest.mark.parametrize("padding", [81, 90, 100, 131])
def test_the_final_crop_is_the_padding_less_a_constant(finest, less, padding):
    plan = plan_skips(vgg16(padding).taps(finest))

    assert plan.offset == (padding - less, padding - less)
    assert [fusion.fine_offset[0] for fusion in plan.fusions] == [5, 9][: len(plan.fusions)]


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_padding_97_is_the_smallest_for_vgg16(finest):
    assert minimum_padding(vgg16().taps(finest)) == 97


INCEPTION = Fork([Window(1), CONV, Window(5, padding=2), CONV])  # 1×1, 3×3, 5×5 and a 3×3 pooling, side by side
STEM = [Window(7, 2, 3), POOL3, CONV, POOL3]
GOOGLENET = Chain([*STEM, *[INCEPTION] * 2, POOL3, *[INCEPTION] * 5, POOL3, *[INCEPTION] * 2])


@pytest.mark.parametrize(
    ("net", "size"),
    [
        (Chain(vgg16().windows), 404),
        (Chain(alexnet().windows), 355),
        (Chain([GOOGLENET, Window(7)]), 907),
        (GOOGLENET, 715),
    ],
)
def test_receptive_fields_of_the_paper(net, size):
    field = receptive_field(net)
    assert field.size == (size, size)
    assert field.stride == (32, 32)


def test_an_upsampled_score_sees_two_coarse_cells():
    # Kernel 64 is twice its stride of 32, so two neighbours, 32 pixels apart, meet in each output.
    net = Chain([*vgg16().windows, Window(64, 32, transposed=True)])
    assert receptive_field(net).size == (404 + 32, 404 + 32)


def test_a_module_is_asked_for_its_window():
    upscored = Chain([*vgg16().windows, Window(64, 32, transposed=True)])
    module = SimpleNamespace(window=lambda: upscored)

    assert crop_offset(module) == (19, 19)
    assert coordinate_map(module) == (CoordinateMap(Fraction(1), Fraction(19)),) * 2
    assert receptive_field(module) == upscored.receptive_field()
    assert plan_skips({1: module}).offset == (19, 19)


def test_a_path_through_layers_backwards_is_a_pair_of_maps():
    taps = vgg16().taps()
    upscored = Chain([taps[32], Window(4, 2, transposed=True)])
    path = tuple(a.inverse().then(b) for a, b in zip(coordinate_map(upscored), coordinate_map(taps[16]), strict=True))

    assert crop_offset(path) == (5, 5)


# --- plans ---------------------------------------------------------------------------------------------------------

NETS = {
    "VGG16 with padding 97": (vgg16(97), [32, 16, 8]),
    "VGG16 that keeps its size": (vgg16(1, fc6_padding=3), [32, 16, 8, 4, 2]),
    "TinyVGG with padding 17": (tiny_vgg(17), [32, 16, 8, 4, 2]),
    "AlexNet with padding 99": (alexnet(99), [32]),
}


@pytest.mark.parametrize("name", NETS)
def test_every_pixel_gets_a_score_for_every_side_from_1_to_200(name):
    net, finests = NETS[name]
    for finest in finests:
        plan = plan_skips(net.taps(finest))
        assert all(is_covered(net, plan, side) for side in range(1, 201))
        assert plan.covers(np.arange(1, 201)).all()


@pytest.mark.parametrize("net", [vgg16(), tiny_vgg(), vgg16(1, fc6_padding=3), alexnet()])
def test_the_minimum_padding_is_enough_and_one_less_is_not(net):
    sides, padding = np.arange(1, 1200), minimum_padding(net.taps())

    assert plan_skips(net.padded(padding).taps()).covers(sides).all()
    assert not plan_skips(net.padded(padding - 1).taps()).covers(sides).all()


def test_where_fc6_pads_the_upsampled_map_is_cropped_instead():
    plan = plan_skips(vgg16(1, fc6_padding=3).taps(8))

    assert [fusion.coarse_offset for fusion in plan.fusions] == [(1, 1), (1, 1)]
    assert [fusion.fine_offset for fusion in plan.fusions] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("fc6", [(7, 10), (10, 7)])
def test_each_axis_has_its_own_crops_and_sizes(fc6):
    def plan(kernel: int | tuple[int, int]) -> SkipPlan:
        return plan_skips(vgg_like([2, 2, 3, 3, 3], padding=130, fc6=Window(kernel)).taps(8))

    tall, wide, both = plan(fc6[0]), plan(fc6[1]), plan(fc6)
    assert both.offset == (tall.offset[0], wide.offset[1])
    for fusion, in_tall, in_wide in zip(both.fusions, tall.fusions, wide.fusions, strict=True):
        assert fusion.fine_offset == (in_tall.fine_offset[0], in_wide.fine_offset[1])
        assert fusion.coarse_offset == (in_tall.coarse_offset[0], in_wide.coarse_offset[1])

    h, w = np.arange(1, 90), np.arange(90, 1, -1)
    heights, widths = both.final_size((h, w))
    assert heights.tolist() == tall.final_size(h)[0].tolist()
    assert widths.tolist() == wide.final_size(w)[1].tolist()
    assert both.covers((h, w)).tolist() == (tall.covers(h) & wide.covers(w)).tolist()
    assert tall.covers(h).all() != wide.covers(w).all()  # padding 130 is enough for 7, but not for 10


def test_each_axis_has_the_upsampling_kernel_that_aligns():
    plan = plan_skips({2: Window((2, 3), 2, padding=1)})
    assert plan.upsample == Window((4, 3), 2, transposed=True)
    assert plan.offset == (2, 1)
    assert [side.tolist() for side in plan.final_size(6)] == [[10], [7]]  # 4 cells by kernel 4, 3 cells by kernel 3


def test_both_sides_of_an_image_have_to_be_covered():
    # Of 7 pixels 4 make one cell; kernel 8 enlarges it to 8, of which the first 2 lie outside.
    plan = plan_skips({4: Window(4, 4)})
    assert plan.offset == (2, 2)
    heights, widths = np.array([7, 8, 8]), np.array([8, 7, 8])
    assert plan.covers((heights, widths)).tolist() == [False, False, True]


def test_an_int_counts_as_an_array_of_one_size():
    plan = plan_skips(vgg16().taps(32))
    assert [side.tolist() for side in plan.final_size(500)] == [[544], [544]]
    assert plan.covers((375, 500)).tolist() == [True]


def test_a_map_that_vanishes_covers_nothing():
    plan = plan_skips({32: Chain([*vgg16(1, fc6_padding=3).windows, Window(9), Window(1, padding=4)])})
    heights, _ = plan.final_size(np.array([256, 257]))  # 8 and 9 coarse cells under the 9×9
    assert heights[0] == 0
    assert heights[1] > 257
    assert plan.covers(np.array([256, 257])).tolist() == [False, True]


def test_given_upsampling_windows_are_used():
    taps = vgg16().taps(16)
    plan = plan_skips(taps, {32: Window(2, 2, transposed=True)})

    assert plan.fusions[0].upsample == Window(2, 2, transposed=True)
    assert plan.upsample == Window(32, 16, transposed=True)
    # A kernel smaller by 2 moves the upsampled map one cell, so pool4's crop begins one cell later than at 5 …
    assert plan.fusions[0].fine_offset == (6, 6)
    # … and the final one 16 pixels earlier than at 27.
    assert plan.offset == (11, 11)


@st.composite
def random_nets(draw: st.DrawFn) -> Net:
    """A backbone of a few windows, tapped at the last map of each of some of its strides."""
    stride = draw(st.integers(1, 2))
    windows, ends = [Window(draw(st.integers(2, 5)), stride)], {stride: 1}
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            pool = Window(draw(st.integers(2, 4)), draw(st.sampled_from([2, 4])), ceil=draw(st.booleans()))
            windows.append(pool)
            stride *= pool.stride[0]
        else:
            windows.append(Window(draw(st.integers(1, 4)), padding=draw(st.integers(0, 2))))
        ends[stride] = len(windows)
    kept = draw(st.sets(st.sampled_from(sorted(ends)))) | {stride}
    return Net(tuple(windows), {tap: end for tap, end in ends.items() if tap in kept})


@settings(max_examples=60)
@given(random_nets(), st.integers(0, 3))
@example(Net((Window(3), Window(4, 4, ceil=True), Window(3)), {1: 1, 4: 3}), 0)  # the finer map ends first
def test_a_plan_tells_the_final_size_and_which_images_are_covered(net, spare):
    net = net.padded(minimum_padding(net.taps(), sizes=[1]) + spare)
    plan = plan_skips(net.taps())
    finals = [final_row(net, plan, side, axis=0) for side in range(1, 25)]

    sides = np.arange(1, 25)
    cropped = [0 if final is None else final.cells for final in finals]
    assert np.maximum(plan.final_size(sides)[0] - plan.offset[0], 0).tolist() == cropped
    assert plan.covers(sides).tolist() == [cells >= side for cells, side in zip(cropped, sides, strict=True)]


@settings(max_examples=40)
@given(random_nets(), st.lists(st.integers(1, 16), min_size=1, max_size=8))
def test_no_padding_below_the_minimum_covers_all_sides(net, sides):
    def covers_all(padding: int) -> bool:
        padded = net.padded(padding)
        try:
            plan = plan_skips(padded.taps())
        except GeometryError:  # begins inside the image
            return False
        return all(is_covered(padded, plan, side) for side in sides)

    assert minimum_padding(net.taps(), sizes=sides) == next(padding for padding in count() if covers_all(padding))


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_crop_by_half_a_pixel_is_refused_with_the_fraction_and_the_remedy():
    even = Window(64, 32, transposed=True)
    for refused in (
        lambda: crop_offset(Chain([*alexnet().windows, even])),
        lambda: plan_skips(alexnet().taps(), {32: even}),
        lambda: minimum_padding(alexnet().taps(), upsampling={32: even}),
    ):
        with pytest.raises(
            GeometryError, match=r"/2 = .*along the height.*change a kernel.*smaller by one.*no padding"
        ):
            refused()
    with pytest.raises(GeometryError, match=r"37/2 = 18\.5"):
        crop_offset(Chain([*alexnet().windows, even]))


def test_a_crop_by_half_a_pixel_along_the_width_alone_is_refused():
    with pytest.raises(GeometryError, match=r"1/2 = 0\.5 along the width"):
        crop_offset(Window((1, 2), transposed=True))


def test_a_skip_by_half_a_pixel_is_refused_and_named():
    with pytest.raises(GeometryError, match=r"the skip from stride 32 to 16 would start at 11/2 = 5\.5"):
        plan_skips(vgg16().taps(16), {32: Window(3, 2, transposed=True)})


def test_a_crop_between_resolutions_is_refused():
    with pytest.raises(GeometryError, match=r"one cell of the target is 1/32 cells .* by the factor 32 first"):
        crop_offset(Chain(vgg16().windows))


def test_a_layer_that_begins_inside_its_target_is_refused_with_the_missing_padding():
    with pytest.raises(GeometryError, match=r"start at -80 .* pad the first layer by 80 more, or by 97 in all"):
        plan_skips(vgg16(1).taps(32))
    with pytest.raises(GeometryError, match=r"start at -1 along the height.* pad the first layer by 1 more"):
        crop_offset(Window(3))
    assert crop_offset(Window(3, padding=1)) == (0, 0)


def test_a_geometry_error_is_a_value_error():
    assert issubclass(GeometryError, ValueError)


class Blur:
    pass


@pytest.mark.parametrize("function", [coordinate_map, receptive_field, crop_offset, lambda net: plan_skips({32: net})])
def test_a_module_without_a_window_is_refused_by_name(function):
    with pytest.raises(TypeError, match=r"Blur has no window\(\).*give it a method window\(\)"):
        function(Blur())


def test_a_window_method_that_returns_no_geometry_is_refused():
    with pytest.raises(TypeError, match=r"SimpleNamespace\.window\(\) must return .*, got \(3, 1\)"):
        coordinate_map(SimpleNamespace(window=lambda: (3, 1)))


@pytest.mark.parametrize(
    ("taps", "upsampling", "message"),
    [
        ({}, None, "taps is empty"),
        ({8: Window(16, 16)}, None, r"taps\[8\] must be a map of stride 8, .*stride 16 vertically and 16"),
        ({4: Window(4, (4, 2))}, None, r"taps\[4\] .*4 vertically and 2 horizontally"),
        ({4: Window(4, (2, 4))}, None, r"taps\[4\] .*2 vertically and 4 horizontally"),
        ({6: Window(6, 6), 4: Window(4, 4)}, None, "stride 6 must be a multiple of the next finer one, 4"),
        ({4: Window(4, 4)}, {4: Window(4, 2, transposed=True)}, r"upsampling\[4\] must be .*stride 4, got Window"),
        ({4: Window(4, 4)}, {4: Window(4, 4)}, r"upsampling\[4\] must be transposed"),
        ({4: Window(4, 4)}, {8: Window(4, 4, transposed=True)}, r"strides \[8\] that are not in taps \[4\]"),
    ],
)
def test_taps_and_upsampling_that_do_not_fit_are_refused(taps, upsampling, message):
    for refused in (lambda: plan_skips(taps, upsampling), lambda: minimum_padding(taps, upsampling=upsampling)):
        with pytest.raises(ValueError, match=message):
            refused()


@pytest.mark.parametrize("sizes", [[], [0, 1], range(-1, 5)])
def test_sizes_without_a_pixel_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be sides of at least 1 pixel"):
        minimum_padding(vgg16().taps(), sizes=sizes)


@pytest.mark.parametrize(
    "taps",
    [
        {4: Window(4, 4), 2: Window(2, 2)},
        {1: Window()},
        {1: Fork([CONV, Window(5, padding=2)])},
        {1: Chain([Window(2, 2, transposed=True), POOL2])},
        {2: Window(2, 2, ceil=True)},  # no padding behind the image would ever be seen
    ],
)
def test_taps_without_a_common_first_window_to_pad_are_refused(taps):
    with pytest.raises(ValueError, match="taps must begin with one and the same Window"):
        minimum_padding(taps)
