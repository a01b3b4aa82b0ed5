"""The toolkit says nothing about clean code, whatever the geometry: 10,000 examples in the thorough profile."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minifcn_kernels as kernels
from minifcn import nn, ops
from minifcn.testing import check_adjoint, check_backends, check_gradients, check_ties, strategies
from minifcn.testing.data import distinct, whole

ELEMENTWISE = {
    "relu": ops.relu,
    "exp": ops.exp,
    "softmax": lambda x: ops.softmax(x, 1),
    "log_softmax": lambda x: ops.log_softmax(x, 0),
    "max": lambda x: ops.max(x, (1, 3)),
    "mean": lambda x: ops.mean(x, 2),
    "a sum that cancels": ops.sum,
    "a tensor times itself": lambda x: x * x,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@given(x=strategies.arrays())
def test_element_wise(name, x):
    check_gradients(ELEMENTWISE[name], x, mode="directional")


@given(x=strategies.arrays(strided=True))
def test_inputs_that_lie_backwards_and_with_gaps(x):
    check_gradients(lambda x: ops.sum(x, (0, 2)), x, mode="directional")


@given(case=strategies.convolutions())
def test_convolution(case):
    check_gradients(lambda *a: ops.conv2d(*a, **case.options), *case.arrays(), mode="directional")


@given(case=strategies.transposed_convolutions())
def test_transposed_convolution(case):
    check_gradients(lambda *a: ops.conv_transpose2d(*a, **case.options), *case.arrays(), mode="directional")


@given(case=strategies.poolings())
def test_max_pooling(case):
    check_gradients(lambda x: ops.max_pool2d(x, **case.max_options), case.array(), mode="directional")


@given(case=strategies.poolings(ties=True))
def test_ties_in_max_pooling(case):
    check_ties(lambda x: ops.max_pool2d(x, **case.max_options), case.array())


@given(case=strategies.poolings(dilated=False))
def test_average_pooling(case):
    check_gradients(lambda x: ops.avg_pool2d(x, **case.avg_options), case.array(), mode="directional")


@given(case=strategies.crops())
def test_fuse(case):
    fine, coarse = case.arrays()
    check_gradients(lambda a, b: ops.fuse(a, b, case.offset), coarse, fine, mode="directional")


@given(case=strategies.label_maps())
def test_cross_entropy(case):
    check_gradients(lambda z: ops.cross_entropy(z, **case.options), case.logits(), mode="directional")


@given(case=strategies.normalisations())
def test_local_response_norm(case):
    check_gradients(lambda x: ops.local_response_norm(x, **case.options), case.array(), mode="directional")


@given(seed=strategies.seeds(), size=st.integers(4, 8))
def test_a_net_with_kinks_nearby(seed, size):
    rng = np.random.default_rng(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(3, 2, 4, stride=2, rng=rng),
    )
    check_gradients(net, distinct((1, 2, size, size), seed), mode="directional", seed=seed)


@given(case=strategies.convolutions())
def test_the_adjoint_of_convolution(case):
    g = case.geometry
    w = whole(g.w_shape, case.seed)
    check_adjoint(
        lambda x: kernels.conv2d(x, w, **case.options),
        lambda gy: kernels.conv2d_grad_input(gy, w, g.x_shape, **case.options),
        g.x_shape,
    )


CASES = {
    "conv2d": strategies.convolutions(),
    "max_pool2d": strategies.poolings() | strategies.poolings(ties=True),
    "avg_pool2d": strategies.poolings(dilated=False),
    "crop": strategies.crops(),
    "fuse": strategies.crops(),
    "softmax_cross_entropy": strategies.label_maps(),
    "local_response_norm": strategies.normalisations(),
}
KERNELS = [name for name in kernels.__all__ if isinstance(getattr(kernels, name), type(kernels.conv2d))]


@pytest.mark.parametrize("name", KERNELS)
@given(data=st.data())
def test_backends(name, data):
    case = data.draw(next(cases for prefix, cases in CASES.items() if name.startswith(prefix)))
    check_backends(getattr(kernels, name), case)
