"""The dispatcher: which implementation runs, what it checks before, and how its errors name what is wrong."""

import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import minifcn_kernels as kernels
from minifcn_kernels.cuda import device
from minifcn_kernels.cuda.emulator import build
from minifcn_kernels.dispatch import check_shape, current_policy, floats, integers, kernel


@kernel(x=floats("N C"), w=floats("C K"), b=floats("K"), label=integers("N"))
def toy(x, w, b=None, label=None, *, scale=1):
    """A kernel that says who ran and what it was given."""
    return "numpy", x, w, b, label, scale


@toy.implementation("numba")
def toy_numba(x, w, b=None, label=None, *, scale=1):
    return "numba", x, w, b, label, scale


X, W = np.zeros((2, 3)), np.zeros((3, 4))


def ran():
    return toy(X, W)[0]


def test_numba_is_the_default():
    assert ran() == "numba"
    assert current_policy().backend == "numba"


def test_use_backend_holds_inside_the_with_and_nests():
    with kernels.use_backend("numpy"):
        assert ran() == "numpy"
        with kernels.use_backend("numba"):
            assert ran() == "numba"
        assert ran() == "numpy"
    assert ran() == "numba"


def test_use_backend_is_undone_by_an_error():
    with pytest.raises(KeyError), kernels.use_backend("numpy"):
        raise KeyError
    assert ran() == "numba"


def test_use_backend_belongs_to_its_own_thread():
    seen = []
    with kernels.use_backend("numpy"):
        thread = threading.Thread(target=lambda: seen.append(ran()))
        thread.start()
        thread.join()
    assert seen == ["numba"]


def test_use_backend_keeps_the_rest_of_the_policy():
    with kernels.use_algorithm("loops"), kernels.use_backend("numpy"):
        assert current_policy().algorithm == "loops"


def test_an_unknown_backend_is_refused_by_name():
    message = re.escape("backend must be one of 'numba', 'numpy', 'emulator', got 'torch'")
    with pytest.raises(ValueError, match=message), kernels.use_backend("torch"):
        pass


def test_cuda_is_chosen_by_moving_the_data_and_by_nothing_else():
    message = re.escape("backend: 'cuda' is not chosen but follows from the arrays: move them by .to('cuda')")
    with pytest.raises(ValueError, match=message), kernels.use_backend("cuda"):
        pass


def test_a_backend_without_an_implementation_says_so_and_falls_back_to_nothing():
    message = re.escape("toy: has no implementation for backend 'emulator'")
    with pytest.raises(NotImplementedError, match=message), kernels.use_backend("emulator"):
        ran()


def test_every_backend_is_listed_with_what_it_lacks():
    listed = kernels.backends()
    assert list(listed) == ["numba", "numpy", "emulator", "cuda"]
    assert listed["numba"] == listed["numpy"] == "available"
    assert listed["emulator"] == (build.missing() or "available")
    assert listed["cuda"] == (device.missing() or "available")


def test_allow_tf32_is_off_unless_asked_for():
    assert current_policy().allow_tf32 is False
    with kernels.allow_tf32(True):
        assert current_policy().allow_tf32 is True
        with kernels.allow_tf32(False):
            assert current_policy().allow_tf32 is False
    with pytest.raises(TypeError, match="allow_tf32 takes True or False, got 1"), kernels.allow_tf32(1):
        pass


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_the_environment_chooses_the_backend():
    code = "from minifcn_kernels.dispatch import current_policy; print(current_policy().backend)"
    assert run_python(code, MINIFCN_BACKEND="numpy").stdout == "numpy\n"


def test_an_unknown_backend_in_the_environment_is_refused_by_name():
    process = run_python("import minifcn_kernels", MINIFCN_BACKEND="torch")
    assert process.returncode == 1
    last_line = process.stderr.splitlines()[-1]
    assert last_line == "ValueError: MINIFCN_BACKEND must be one of 'numba', 'numpy', 'emulator', got 'torch'"


def test_implementations_get_contiguous_arrays_and_all_options():
    x = np.arange(6.0).reshape(3, 2).T
    _, got, _, b, label, scale = toy(x, w=W, label=np.arange(4, dtype=np.uint8)[::2], scale=7)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, x)
    assert b is None
    assert label.flags.c_contiguous
    assert scale == 7


def test_a_contiguous_array_is_not_copied():
    assert toy(X, W)[1] is X


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X.tolist(), W), {}, TypeError, "toy: x must be a NumPy array with axes (N, C), got list"),
        ((X.astype(int), W), {}, TypeError, "toy: x must be float32 or float64, got int64"),
        ((X.astype(np.float16), W), {}, TypeError, "toy: x must be float32 or float64, got float16"),
        ((X.astype(">f8"), W), {}, TypeError, "toy: x must be float32 or float64, got >f8"),
        ((X, W.astype(np.float32)), {}, TypeError, "toy: x is float64 but w is float32; convert one of them"),
        ((X, W, None, X[:, 0]), {}, TypeError, "toy: label must hold integers, got float64"),
        ((X, W, None, X[:, 0] > 0), {}, TypeError, "toy: label must hold integers, got bool"),
        ((X[None], W), {}, ValueError, "toy: x must have the axes (N, C), got shape (1, 2, 3)"),
        ((X, W.T), {}, ValueError, "toy: w with axes (C, K) has shape (4, 3), but x says that C is 3"),
        ((X, W, np.zeros(3)), {}, ValueError, "toy: b with axes (K) has shape (3,), but w says that K is 4"),
        ((X[:, :0], W), {}, ValueError, "toy: x has no elements along C: shape (2, 0)"),
        ((X,), {}, TypeError, "toy: w is missing; expected an array with axes (C, K)"),
        ((X, None), {}, TypeError, "toy: w is missing; expected an array with axes (C, K)"),
        ((X, W), {"x": X}, TypeError, "toy: x is given twice, by position and by name"),
        ((X, W, None, None, 2), {}, TypeError, "toy: takes at most 4 positional arguments (x, w, b, label), got 5"),
        ((X, W), {"scales": 2}, TypeError, "unexpected keyword argument 'scales'"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        toy(*arguments, **options)


def test_a_batch_of_zero_is_let_through():
    assert toy(X[:0], W)[1].shape == (0, 3)


def test_a_kernel_has_the_name_and_the_docstring_of_its_contract():
    assert kernels.conv2d.__name__ == "conv2d"
    assert kernels.conv2d.__doc__.startswith("Convolve")


def test_check_shape_names_kernel_argument_and_both_shapes():
    check_shape("toy", "x", [2, 3], (2, 3))
    with pytest.raises(ValueError, match=re.escape("toy: x must have shape (2, 3), got (3, 2)")):
        check_shape("toy", "x", (3, 2), (2, 3))
