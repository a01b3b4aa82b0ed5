"""Windows, chains and forks against plain enumeration: every oracle here walks over single cells."""

from dataclasses import replace
from fractions import Fraction
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn.nn.coordinates import CoordinateMap
from minifcn.nn.window import Chain, Fork, ReceptiveField, Window

# --- oracles: one axis of a window, cell by cell ---------------------------------------------------------------


def along(window: Window, axis: int) -> tuple[int, int, int, int]:
    return window.kernel[axis], window.stride[axis], window.padding[axis], window.dilation[axis]


def count_outputs(window: Window, n: int, axis: int) -> int:
    """Slide the window over n cells and count (transposed: spread each cell and measure the canvas)."""
    k, s, p, d = along(window, axis)
    if window.transposed:
        touched = {j * s + r * d for j in range(n) for r in range(k)}
        return max(max(touched) + 1 - 2 * p + window.output_padding[axis], 0)
    windows, first_cell, end = 0, -p, n + p
    if window.ceil:
        end += s - 1  # so far may the last window hang over
    while first_cell + (k - 1) * d < end and (first_cell < n or not window.ceil):
        windows, first_cell = windows + 1, first_cell + s
    return windows


def seen_by(windows: list[Window], output: int, axis: int) -> set[int]:
    """Walk back from one output to all input cells it touches, padding included."""
    cells = {output}
    for window in reversed(windows):
        k, s, p, d = along(window, axis)
        if window.transposed:
            spread = {cell + p - r * d for cell in cells for r in range(k)}
            cells = {position // s for position in spread if position % s == 0}
        else:
            cells = {cell * s - p + r * d for cell in cells for r in range(k)}
    return cells


def reached_from(windows: list[Window], cell: int, axis: int) -> set[int]:
    """Walk forward from one input cell through transposed windows to all outputs it touches."""
    cells = {cell}
    for window in windows:
        k, s, p, d = along(window, axis)
        cells = {cell * s - p + r * d for cell in cells for r in range(k)}
    return cells


def middle(cells: set[int]) -> Fraction:
    return Fraction(min(cells) + max(cells), 2)


# --- strategies: valid by construction ---------------------------------------------------------------------------


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw: st.DrawFn) -> Window:
    return Window(draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(0, 4)), draw(pairs(1, 3)), ceil=draw(st.booleans()))


@st.composite
def transposed_windows(draw: st.DrawFn) -> Window:
    h, w = draw(pairs(1, 3))
    extra = draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1))
    options = {"transposed": True, "output_padding": extra}
    return Window(draw(pairs(1, 5)), (h, w), draw(pairs(0, 4)), draw(pairs(1, 3)), **options)


@st.composite
def gapless_transposed_windows(draw: st.DrawFn) -> Window:
    (h, w), (more_h, more_w) = draw(pairs(1, 3)), draw(pairs(0, 3))
    return Window((h + more_h, w + more_w), (h, w), draw(pairs(0, 3)), transposed=True)


def lists(*windows: st.SearchStrategy[Window], most: int) -> st.SearchStrategy[list[Window]]:
    return st.lists(st.one_of(*windows), max_size=most)


axes = st.sampled_from([0, 1])
fractions = st.fractions(-9, 9, max_denominator=12)
scales = st.builds(Fraction, st.integers(1, 9), st.integers(1, 9))
maps = st.builds(CoordinateMap, scale=scales, shift=fractions)


# --- output size -------------------------------------------------------------------------------------------------


@given(st.one_of(convolutions(), transposed_windows()))
def test_output_size_counts_the_windows_that_fit(window):
    sides = np.arange(1, 25)
    heights, widths = window.output_size(sides)

    assert heights.tolist() == [count_outputs(window, n, 0) for n in range(1, 25)]
    assert widths.tolist() == [count_outputs(window, n, 1) for n in range(1, 25)]


@given(st.one_of(convolutions(), transposed_windows()), st.integers(1, 12), st.integers(1, 12))
def test_one_size_is_answered_like_an_array_of_sizes_or_refused_where_that_says_0(window, h, w):
    expected = count_outputs(window, h, 0), count_outputs(window, w, 1)
    if 0 in expected:
        with pytest.raises(ValueError, match=r"does not fit|trims all"):
            window.output_size((h, w))
    else:
        assert window.output_size((h, w)) == expected
        assert all(type(side) is int for side in window.output_size((h, w)))


@pytest.mark.parametrize(
    ("window", "size", "expected"),
    [
        (Window(7, 2, 3), 224, 112),  # ResNet's first convolution
        (Window(3, 2, ceil=True), 112, 56),
        (Window(2, 2), 7, 3),
        (Window(2, 2, ceil=True), 7, 4),
        (Window(2, 2, ceil=True), 1, 1),  # hangs over by one cell, and is allowed to
        (Window(2, 3, ceil=True), 3, 1),  # a second window would start at 3, behind the input
        (Window(3, 2, 1, ceil=True), 4, 3),  # the third starts at 3, inside
        (Window(3, 2, 1, transposed=True), 6, 11),
        (Window(3, 2, 1, transposed=True, output_padding=1), 6, 12),
        (Window(64, 32, transposed=True), 16, 544),  # FCN-32s's upsampling, to be cropped to 500
    ],
)
def test_known_output_sizes(window, size, expected):
    assert window.output_size(size) == (expected, expected)


@given(lists(convolutions(), transposed_windows(), most=4))
def test_a_chain_has_the_size_of_its_layers_one_after_another(windows):
    def run(n: int) -> int:
        for window in windows:
            n = count_outputs(window, n, 0) if n > 0 else 0
        return n

    heights, _ = Chain(windows).output_size(np.arange(1, 20))
    assert heights.tolist() == [run(n) for n in range(1, 20)]


def test_a_map_that_vanished_stays_0_through_padded_layers():
    net = Chain([Window(5), Window(3, padding=9)])
    sides = np.array([-3, 0, 4, 5])

    assert net.output_size(sides)[0].tolist() == [0, 0, 0, 17]
    assert Chain([]).output_size(sides)[0].tolist() == [0, 0, 4, 5]


def test_small_unsigned_sizes_do_not_wrap_around():
    heights, _ = Window(9, padding=1).output_size(np.array([3, 250], dtype=np.uint8))
    assert heights.tolist() == [0, 244]


def test_height_and_width_may_be_arrays_of_different_length():
    heights, widths = Window((3, 1)).output_size((np.array([3, 4]), np.array([7])))
    assert (heights.tolist(), widths.tolist()) == ([1, 2], [7])


# --- coordinate map ----------------------------------------------------------------------------------------------


@given(maps, maps, fractions)
def test_then_applies_one_map_after_the_other(earlier, later, x):
    assert earlier.then(later)(x) == later(earlier(x))


@given(maps, fractions)
def test_the_inverse_goes_back(axis_map, x):
    assert axis_map.inverse()(axis_map(x)) == x
    assert axis_map.then(axis_map.inverse()) == CoordinateMap()


@given(lists(convolutions(), most=4), st.integers(-5, 5), axes)
def test_an_output_lies_over_the_middle_of_the_inputs_it_sees(windows, output, axis):
    to_output = Chain(windows).coordinate_map()[axis]
    assert to_output(middle(seen_by(windows, output, axis))) == output


@given(lists(transposed_windows(), most=3), st.integers(-5, 5), axes)
def test_an_input_lies_under_the_middle_of_the_outputs_it_reaches(windows, cell, axis):
    to_output = Chain(windows).coordinate_map()[axis]
    assert to_output(cell) == middle(reached_from(windows, cell, axis))


@given(lists(convolutions(), most=3), lists(gapless_transposed_windows(), most=2), axes)
def test_behind_upsampling_outputs_lie_in_the_mean_over_what_they_see(shrinking, enlarging, axis):
    windows = shrinking + enlarging
    to_output = Chain(windows).coordinate_map()[axis]
    outputs = range(prod(window.stride[axis] for window in enlarging))  # then the pattern repeats

    assert sum(to_output(middle(seen_by(windows, i, axis))) for i in outputs) == sum(outputs)


@given(lists(convolutions(), transposed_windows(), most=4), fractions, axes)
def test_a_chain_maps_layer_by_layer(windows, x, axis):
    expected = x
    for window in windows:
        expected = window.coordinate_map()[axis](expected)
    assert Chain(windows).coordinate_map()[axis](x) == expected


# --- receptive field ---------------------------------------------------------------------------------------------


@given(lists(convolutions(), most=4), st.integers(-5, 5), axes)
def test_each_output_sees_exactly_its_receptive_field(windows, output, axis):
    field = Chain(windows).receptive_field()
    first = field.offset[axis] + field.stride[axis] * output
    seen = seen_by(windows, output, axis)

    assert (min(seen), max(seen)) == (first, first + field.size[axis] - 1)


@given(lists(convolutions(), gapless_transposed_windows(), most=3), axes)
def test_behind_upsampling_the_receptive_field_is_the_largest_that_an_output_sees(windows, axis):
    field = Chain(windows).receptive_field()
    period = prod(window.stride[axis] for window in windows if window.transposed)
    seen = [seen_by(windows, i, axis) for i in range(period + 1)]

    assert field.size[axis] == max(max(cells) - min(cells) + 1 for cells in seen)
    assert field.offset[axis] == min(seen[0])
    assert field.stride[axis] * period == min(seen[period]) - min(seen[0])


@given(convolutions(), convolutions())
def test_two_windows_compose_by_the_rule_of_the_paper(earlier, later):
    field = Chain([earlier, later]).receptive_field()
    for axis in (0, 1):
        k, k_later = earlier.effective_kernel(axis), later.effective_kernel(axis)
        s, s_later = earlier.stride[axis], later.stride[axis]
        assert field.size[axis] == k + (k_later - 1) * s
        assert field.stride[axis] == s * s_later


def test_a_dilated_transposed_window_of_stride_1_is_a_convolution_in_reverse():
    window = Window(3, padding=1, dilation=2, transposed=True)
    assert window.receptive_field() == ReceptiveField((5, 5), (1, 1), (min(seen_by([window], 0, 0)),) * 2)


@pytest.mark.parametrize("gaps", [{"kernel": 2, "stride": 3}, {"kernel": (3, 4), "stride": 2, "dilation": (1, 3)}])
def test_a_transposed_window_with_gaps_has_no_receptive_field(gaps):
    with pytest.raises(ValueError, match=r"Window\(.*transposed=True\) has no receptive field.*kernel at least"):
        Chain([Window(3), Window(**gaps, transposed=True)]).receptive_field()


# --- chains and forks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [Window(), Chain([]), Chain([Window(), Chain([Window()])]), Fork([Window()])])
def test_identities_change_nothing(identity):
    assert identity.output_size((3, 8)) == (3, 8)
    assert identity.coordinate_map() == (CoordinateMap(), CoordinateMap())
    assert identity.receptive_field() == ReceptiveField((1, 1), (1, 1), (0, 0))


def test_a_chain_keeps_no_identities_and_no_nested_chains():
    conv, pool = Window(3, padding=1), Window(2, 2)
    assert Chain([conv, Window(), Chain([pool, Chain([conv])])]).parts == (conv, pool, conv)


def test_every_geometry_is_its_own_window():
    for geometry in (Window(3), Chain([Window(3)]), Fork([Window(3)])):
        assert geometry.window() is geometry


@st.composite
def same_size_branches(draw: st.DrawFn) -> list[list[Window]]:
    """Branches of odd kernels that keep the size, in front of one pooling each."""

    def keeping_size(half: int, dilation: int) -> Window:
        return Window(2 * half + 1, padding=half * dilation, dilation=dilation)

    windows = st.builds(keeping_size, st.integers(0, 3), st.integers(1, 2))
    return [[*branch, Window(2, 2)] for branch in draw(st.lists(st.lists(windows, max_size=2), min_size=1, max_size=3))]


@given(same_size_branches(), st.integers(-3, 3))
def test_a_fork_sees_all_that_its_branches_see(branches, output):
    fork = Fork(Chain(branch) for branch in branches)
    seen = set().union(*(seen_by(branch, output, 0) for branch in branches))
    field = fork.receptive_field()
    first = field.offset[0] + field.stride[0] * output

    assert (min(seen), max(seen)) == (first, first + field.size[0] - 1)
    assert fork.output_size(9) == (4, 4)
    assert fork.coordinate_map() == Chain(branches[0]).coordinate_map()


def test_a_fork_sees_the_largest_union_over_the_period_of_all_its_branches():
    # The second branch shrinks and enlarges again, so that it sees less at even outputs than at odd ones.
    branches = [[Window(3, padding=1)], [Window(5, 2, padding=2), Window(3, 2, padding=1, transposed=True)]]
    fork = Fork(Chain(branch) for branch in branches)
    even, odd = (set().union(*(seen_by(branch, i, 0) for branch in branches)) for i in (0, 1))

    assert (len(even), len(odd)) == (5, 7)
    assert fork.receptive_field().size == (7, 7)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": 0}, "kernel must be at least 1, got 0"),
        ({"stride": (1, 0)}, r"stride must be at least 1, got \(1, 0\)"),
        ({"padding": -1}, "padding must be at least 0, got -1"),
        ({"dilation": 0}, "dilation must be at least 1, got 0"),
        ({"output_padding": -1, "transposed": True}, "output_padding must be at least 0, got -1"),
        ({"output_padding": 1, "stride": 2}, "output_padding belongs to a transposed window"),
        ({"output_padding": (1, 2), "stride": 2, "transposed": True}, r"smaller than the stride, got \(1, 2\)"),
        ({"ceil": True, "transposed": True}, "ceil=True is a rule of pooling"),
    ],
)
def test_impossible_windows_are_refused_by_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        Window(**arguments)


@pytest.mark.parametrize("kernel", [2.0, "3", None, (3,), (3, 3, 3), (3, 0.5)])
def test_a_kernel_that_is_no_int_or_pair_is_refused(kernel):
    with pytest.raises(TypeError, match=r"kernel must be an int or a pair of ints \(h, w\)"):
        Window(kernel=kernel)


def test_a_kernel_larger_than_the_padded_input_is_refused_with_numbers():
    net = Chain([Window(2, 2), Window((3, 7), padding=1, dilation=(1, 2))])
    with pytest.raises(ValueError, match=r"kernel=\(3, 7\).*spans 13 cells.*width is 10 \+ 2·1 = 12"):
        net.output_size((8, 20))


def test_a_transposed_window_that_trims_all_away_is_refused():
    with pytest.raises(ValueError, match="trims all of its output away at input height 1"):
        Window(4, 2, padding=2, transposed=True).output_size(1)


@pytest.mark.parametrize("size", [0, (5, -1)])
def test_a_size_below_1_is_refused(size):
    with pytest.raises(ValueError, match="size must be at least 1, got"):
        Chain([]).output_size(size)


@pytest.mark.parametrize("size", [7.0, "7", np.array([7.0])])
def test_a_size_that_is_no_integer_is_refused(size):
    with pytest.raises(TypeError, match="size must"):
        Window().output_size(size)


def test_branches_over_different_cells_are_refused_with_both():
    with pytest.raises(ValueError, match=r"Window\(kernel=3, padding=1\) maps by .*Window\(kernel=2\) by .*-1, 2"):
        Fork([Window(3, padding=1), Window(2)])


@pytest.mark.parametrize("size", [7, np.arange(4, 9)])
def test_branches_of_different_size_are_refused_with_both(size):
    fork = Fork([Window(2, 2), Window(2, 2, ceil=True)])
    assert fork.output_size(8) == (4, 4)
    with pytest.raises(ValueError, match=r"height [57] becomes [23] in Window\(.*\) and [34] in Window\(.*ceil=True\)"):
        fork.output_size(size)


def test_a_fork_without_branches_is_refused():
    with pytest.raises(ValueError, match="at least one branch"):
        Fork([])


@pytest.mark.parametrize("kind", [Chain, Fork])
def test_what_is_no_geometry_is_refused(kind):
    with pytest.raises(TypeError, match=rf"a {kind.__name__} is made of geometries, got 'conv' of type str"):
        kind([Window(3), "conv"])


# --- a window is a value -----------------------------------------------------------------------------------------


@given(st.one_of(convolutions(), transposed_windows()))
def test_the_repr_of_a_window_makes_it_again(window):
    assert eval(repr(window)) == window


def test_the_repr_tells_only_what_differs_from_the_identity():
    assert repr(Window((4, 2), 2, transposed=True)) == "Window(kernel=(4, 2), stride=2, transposed=True)"


def test_a_window_keeps_pairs_and_can_be_replaced_by_field():
    assert Window(3, padding=(1, 2)).kernel == (3, 3)
    assert replace(Window(3, padding=1), padding=(9, 9)) == Window(3, padding=9)
