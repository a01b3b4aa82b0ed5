"""What holds for all kernels alike: what they do to their inputs, memory layouts, dtypes, threads and backends."""

import inspect

import numba
import numpy as np
import pytest

import minifcn_kernels as kernels
from backends import EMULATOR, backends
from geometry import normal, whole
from minifcn.random import stream
from minifcn.testing.data import strided
from minifcn_kernels.dispatch import Kernel

# Rows of 37 hold whole vectors and a rest.
N, C, H, W = 3, 4, 9, 37
POOL = {"stride": 2, "padding": 1}
CONV = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
CONSTANTS = (3, 0.5, 0.75, 2.0)
W_SHAPE = (6, 2, 3, 3)


def cases(dtype, N=N):
    """Return for every kernel, by name, the positional arguments and options of one call."""

    def array(seed, *shape):
        return normal(seed, shape, dtype)

    x = array(0, N, C, H, W)
    conv_gy, pool_gy = array(1, N, 6, 5, 37), array(2, N, C, 5, 19)
    index = oracle_index(N)
    target = stream(3).integers(0, C, (N, H, W)).astype(np.uint8)
    loss = {"weight": np.abs(array(4, C)), "mask": np.abs(array(5, N, H, W))}
    return {
        "conv2d": ((x, array(6, *W_SHAPE), array(7, 6)), CONV),
        "conv2d_grad_input": ((conv_gy, array(6, *W_SHAPE), x.shape), CONV),
        "conv2d_grad_weight": ((x, conv_gy, W_SHAPE), CONV),
        "max_pool2d": ((x, 3), POOL),
        "max_pool2d_grad": ((pool_gy, index, x.shape, 3), POOL),
        "avg_pool2d": ((x, 3), POOL),
        "avg_pool2d_grad": ((pool_gy, x.shape, 3), POOL),
        "crop": ((x, (1, 2), (7, 33)), {}),
        "crop_grad": ((array(1, N, C, 7, 33), (1, 2), x.shape), {}),
        "fuse": ((array(1, N, C, 7, 33), x, (1, 2)), {}),
        "softmax_cross_entropy": ((x, target), loss),
        "softmax_cross_entropy_grad": ((np.asarray(1.5, dtype), x, target), loss),
        "local_response_norm": ((x, *CONSTANTS), {}),
        "local_response_norm_grad": ((array(1, N, C, H, W), x, *CONSTANTS), {}),
    }


def oracle_index(N):
    """Return an index that max_pool2d with POOL may return: the centre of each window."""
    rows, columns = np.arange(5) * 2, np.arange(19) * 2
    return np.broadcast_to(rows[:, None] * W + columns, (N, C, 5, 19)).astype(np.int32)


NAMES = tuple(cases(np.float32))
every_kernel = pytest.mark.parametrize("name", NAMES)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def run(name, arguments, options):
    """Return a kernel's results, as a tuple."""
    result = getattr(kernels, name)(*arguments, **options)
    return result if isinstance(result, tuple) else (result,)


def replace_arrays(change, arguments, options):
    """Return a call whose arrays (of one axis or more) are changed."""

    def changed(value):
        return change(value) if isinstance(value, np.ndarray) and value.ndim else value

    return tuple(changed(a) for a in arguments), {name: changed(value) for name, value in options.items()}


def test_the_table_names_every_kernel():
    public = {name for name in kernels.__all__ if isinstance(getattr(kernels, name), Kernel)}
    assert set(NAMES) == public


@every_kernel
def test_every_implementation_has_the_arguments_and_defaults_of_the_contract(name):
    reference, *others = getattr(kernels, name)._implementations.values()
    for implementation in others:
        for argument in inspect.signature(reference).parameters.values():
            assert inspect.signature(implementation).parameters[argument.name].default == argument.default


@every_kernel
@backends
def test_inputs_are_left_as_they_were_and_share_no_memory_with_results(name, backend):
    arguments, options = cases(np.float64)[name]
    arrays = [a for a in (*arguments, *options.values()) if isinstance(a, np.ndarray)]
    before = [a.copy() for a in arrays]
    with kernels.use_backend(backend):
        results = run(name, arguments, options)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert not any(np.shares_memory(array, result) for result in results)


@every_kernel
@backends
@pytest.mark.parametrize("layout", ["strided", "read-only"])
def test_memory_layout_does_not_matter(name, backend, layout):
    def frozen(array):
        array = array.copy()
        array.flags.writeable = False
        return array

    arguments, options = cases(np.float64)[name]
    with kernels.use_backend(backend):
        expected = run(name, arguments, options)
        actual = run(name, *replace_arrays(strided if layout == "strided" else frozen, arguments, options))
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


@every_kernel
@backends
@dtypes
def test_results_have_the_dtype_of_the_inputs(name, backend, dtype):
    with kernels.use_backend(backend):
        first, *index = run(name, *cases(dtype)[name])
    assert first.dtype == dtype
    assert all(i.dtype == np.int32 for i in index)


@every_kernel
@backends
def test_float32_differs_from_float64_by_rounding_alone(name, backend):
    single, double = cases(np.float32)[name], cases(np.float64)[name]
    with kernels.use_backend(backend):
        for s, d in zip(run(name, *single), run(name, *double), strict=True):
            # Sums of up to 3·37·5 products of numbers around 1, rounded to 6e-8 each.
            np.testing.assert_allclose(s, d, rtol=1e-5, atol=5e-5)


@every_kernel
@pytest.mark.parametrize("backend", ["numba", EMULATOR])
@dtypes
def test_backends_agree_with_the_reference(name, backend, dtype):
    case = cases(dtype)[name]
    with kernels.use_backend("numpy"):
        expected = run(name, *case)
    with kernels.use_backend(backend):
        actual = run(name, *case)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == np.float64 else {"rtol": 1e-5, "atol": 5e-5}
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, **tolerance)
        assert a.dtype == e.dtype


@every_kernel
@backends
def test_a_batch_of_zero_gives_a_result_of_the_right_shape(name, backend):
    with kernels.use_backend(backend):
        empty, full = run(name, *cases(np.float64, N=0)[name]), run(name, *cases(np.float64)[name])
    for e, f in zip(empty, full, strict=True):
        assert e.shape == tuple(
            0 if size == N and f.ndim == 4 and axis == 0 else size for axis, size in enumerate(f.shape)
        )
        assert not e.any()


@every_kernel
@dtypes
def test_one_thread_and_two_give_the_same_bits(name, dtype):
    case = cases(dtype)[name]
    threads = numba.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            numba.set_num_threads(count)
            results.append(run(name, *case))
    finally:
        numba.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert one.tobytes() == two.tobytes()


def test_whole_numbers_tie_and_distinct_ones_do_not():
    """The data of the tests above is what it says."""
    assert len(np.unique(whole(0, (50,)))) == 7
