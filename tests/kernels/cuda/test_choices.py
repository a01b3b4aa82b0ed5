"""Which CUDA kernel computes a convolution, how its sums are cut, and that no choice shows but in the last bits."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minifcn_kernels as kernels
from backends import needs_emulator
from geometry import normal
from minifcn_kernels.conv2d import gpu
from minifcn_kernels.conv2d.contract import conv_geometry
from minifcn_kernels.cuda import grid
from minifcn_kernels.cuda.emulator import emulation
from minifcn_kernels.cuda.grid import THREADS, over_rows
from minifcn_kernels.cuda.samples import KERNELS, samples
from minifcn_kernels.dispatch import Policy, use_policy


def geometry(x_shape, w_shape, padding=1, groups=1, stride=1):
    return conv_geometry(x_shape, w_shape, stride, padding, 1, groups)


def chosen(dtype, *case, **options):
    g = geometry(*case, **options)
    return gpu.choose(np.empty(0, dtype), g, g.K // g.groups)


@given(st.integers(0, 10**7), st.integers(0, 1000), st.integers(0, 10**7))
def test_parts_cover_a_sum_and_none_is_empty(length, blocks, outputs):
    parts, part_length = gpu.cut(length, blocks, outputs)
    assert parts * part_length >= length
    assert (parts - 1) * part_length < max(1, length)
    assert parts == 1 or (parts * blocks <= gpu.WAVE and part_length >= gpu.LEAST_PART and parts * outputs < 2**31)


@given(st.integers(0, 2**31 - 1), st.integers(1, 2**20))
def test_grids_of_rows_reach_every_element(rows, columns):
    (down, across), (x, y) = over_rows(rows, columns)
    assert down * y >= rows
    assert across * x >= columns
    assert x * y <= THREADS


def test_winograd_is_chosen_for_the_heavy_layers_of_vgg16_in_float32():
    assert chosen(np.float32, (1, 64, 698, 698), (64, 64, 3, 3)) == "winograd"
    assert chosen(np.float32, (1, 512, 44, 44), (512, 512, 3, 3)) == "winograd"
    assert chosen(np.float64, (1, 512, 44, 44), (512, 512, 3, 3)) == "direct"
    assert chosen(np.float32, (1, 3, 500, 500), (64, 3, 3, 3)) == "direct"  # too few channels
    assert chosen(np.float32, (1, 64, 8, 8), (64, 64, 3, 3)) == "direct"  # too small
    assert chosen(np.float32, (1, 512, 44, 44), (512, 512, 3, 3), stride=2) == "direct"
    with kernels.allow_tf32(True):
        assert chosen(np.float32, (1, 512, 44, 44), (512, 512, 3, 3)) == "direct"


def test_what_has_few_filters_to_a_group_is_computed_output_by_output():
    assert chosen(np.float32, (4, 128, 56, 56), (128, 1, 3, 3), groups=128) == "loops"
    assert chosen(np.float32, (4, 128, 56, 56), (5, 128, 3, 3)) == "direct"


def test_what_has_elements_that_an_int_cannot_count_is_refused():
    grid.check_countable("fuse", coarse=(1, 1, 1, 1), fine=(1, 32, 8192, 8191))
    with pytest.raises(ValueError, match=re.escape("fuse: fine of shape (1, 32, 8192, 8192) has 2³¹ elements or more")):
        grid.check_countable("fuse", coarse=(1, 1, 1, 1), fine=(1, 32, 8192, 8192))


@needs_emulator
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_counts_its_elements_before_it_runs(name, monkeypatch):
    call, *_ = samples(name)
    largest = max(array.size for array in (*call.arguments, *call.run("numpy")) if isinstance(array, np.ndarray))
    monkeypatch.setattr(grid, "INDICES", largest + 1)
    call.run("emulator")
    monkeypatch.setattr(grid, "INDICES", largest)
    with pytest.raises(ValueError, match=f"{name}: .* elements or more"):
        call.run("emulator")


def test_winograd_is_not_chosen_where_it_would_have_more_elements_than_an_int_can_count():
    heavy = (1, 2048, 512, 512), (2048, 2048, 3, 3)
    assert chosen(np.float32, *heavy) == "winograd"
    assert chosen(np.float32, (1, 7800, 32, 32), (7800, 7800, 3, 3)) == "direct"  # transformed filters: 36·7800²
    assert chosen(np.float32, (1, 2048, 900, 900), (2048, 2048, 3, 3)) == "direct"  # their gradient in 28 chunks


@needs_emulator
def test_winograd_may_go_through_the_tiles_in_chunks(monkeypatch):
    x, w, b = (normal(i, shape, np.float32) for i, shape in enumerate([(1, 3, 9, 14), (5, 3, 3, 3), (5,)]))
    g = geometry(x.shape, w.shape)
    with kernels.use_backend("emulator"):
        at_once = gpu.winograd_forward(x, w, b, g, turned=False), gpu.winograd_grad_weight(x, at_least_one(g), g)
        monkeypatch.setattr(gpu, "WORKSPACE", 36 * 8 * 4)  # of 4 tiles at a time
        assert len(gpu.chunks_of_tiles(g)) == 3
        in_chunks = gpu.winograd_forward(x, w, b, g, turned=False), gpu.winograd_grad_weight(x, at_least_one(g), g)
    for a, e in zip(in_chunks, at_once, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-4)


def at_least_one(g):
    return 1 + np.abs(normal(3, g.y_shape, np.float32))


@needs_emulator
def test_winograd_never_multiplies_in_tf32():
    x, w, gy = (normal(i, shape, np.float32) for i, shape in enumerate([(1, 3, 8, 8), (5, 3, 3, 3), (1, 5, 8, 8)]))
    results = []
    for allowed in (False, True):
        with use_policy(Policy("emulator", "winograd", allow_tf32=allowed)):
            y = kernels.conv2d(x, w, padding=1)
            gx = kernels.conv2d_grad_input(gy, w, x.shape, padding=1)
            results.append((y, gx, kernels.conv2d_grad_weight(x, gy, w.shape, padding=1)))
    for without, allowed in zip(*results, strict=True):
        np.testing.assert_array_equal(without, allowed)


@needs_emulator
def test_a_map_that_begins_between_vectors_is_copied_number_by_number():
    memory = normal(0, (1 + 8 * 16,), np.float32)
    memory = memory[1:] if memory.ctypes.data % 16 == 0 else memory[:-1]
    x, w = memory.reshape(1, 8, 4, 4), normal(1, (8, 8, 1, 1), np.float32)
    assert not gpu.is_aligned(x)
    with kernels.use_backend("emulator"):
        np.testing.assert_array_equal(kernels.conv2d(x, w), kernels.conv2d(x.copy(), w))


@needs_emulator
@pytest.mark.parametrize("algorithm", ["loops", "direct"])
def test_sums_in_parts_are_the_same_bits_in_every_order_of_threads(algorithm):
    x, gy = normal(0, (1, 3, 40, 40), np.float32), normal(1, (1, 4, 40, 40), np.float32)
    results = set()
    for order in range(4):
        with kernels.use_backend("emulator"), kernels.use_algorithm(algorithm), emulation("fast", order=order):
            results.add(kernels.conv2d_grad_weight(x, gy, (4, 3, 3, 3), padding=1).tobytes())
    assert len(results) == 1


@pytest.mark.slow
@needs_emulator
def test_there_may_be_more_groups_than_a_grid_is_high():
    groups = 65536  # a grid's y and z end at 65535
    x, w = normal(0, (1, groups, 1, 1), np.float32), normal(1, (groups, 1, 1, 1), np.float32)
    with kernels.use_backend("emulator"), kernels.use_algorithm("direct"):
        y = kernels.conv2d(x, w, groups=groups)
    np.testing.assert_array_equal(y.ravel(), x.ravel() * w.ravel())
