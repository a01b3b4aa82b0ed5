"""The gradient of every layer, with its parameters, at geometries of every kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import nn
from minifcn.random import stream
from minifcn.testing import GradientError, check_gradients, strategies
from minifcn.testing.data import distinct


def conv2d(case):
    options = case.options | {"bias": case.bias, "rng": stream(case.seed)}
    return nn.Conv2d(case.C, case.K, (case.R, case.S), **options), case.arrays()[0]


def conv_transpose2d(case):
    options = case.options | {"bias": case.bias, "rng": stream(case.seed)}
    return nn.ConvTranspose2d(case.C, case.K, (case.R, case.S), **options), case.arrays()[0]


def max_pool2d(case):
    return nn.MaxPool2d(**case.max_options), case.array()


def avg_pool2d(case):
    return nn.AvgPool2d(**case.avg_options), case.array()


def local_response_norm(case):
    return nn.LocalResponseNorm(**case.options), case.array()


@st.composite
def linear(draw):
    x, seed = draw(strategies.arrays(strategies.shapes(2))), draw(strategies.seeds())
    return nn.Linear(x.shape[1], draw(strategies.sizes()), draw(st.booleans()), rng=stream(seed)), x


# In these two only the layers that see the input have kinks; its numbers, distinct and not 0, are clear of them.


def sequential(case):
    mix = nn.Conv2d(case.C, 2, 1, rng=stream(case.seed))
    return nn.Sequential(max_pool2d(case)[0], mix, nn.LocalResponseNorm(3)), case.array()


def parallel(x):
    rng, C = stream(x.size), x.shape[1]
    return nn.Parallel(
        nn.Conv2d(C, 2, 1, rng=rng),
        nn.ReLU(),
        nn.Sequential(nn.ReLU(), nn.Conv2d(C, 2, 3, padding=1, rng=rng)),
    ), x


# For each layer a strategy that draws one, and an input for it.
LAYERS = {
    nn.Conv2d: strategies.convolutions().map(conv2d),
    nn.ConvTranspose2d: strategies.transposed_convolutions().map(conv_transpose2d),
    nn.MaxPool2d: strategies.poolings().map(max_pool2d),
    nn.AvgPool2d: strategies.poolings(dilated=False).map(avg_pool2d),
    nn.ReLU: strategies.arrays().map(lambda x: (nn.ReLU(), x)),
    nn.Dropout: st.tuples(st.builds(nn.Dropout, st.floats(0, 0.9)), strategies.arrays()),
    nn.LocalResponseNorm: strategies.normalisations().map(local_response_norm),
    nn.Flatten: strategies.arrays().map(lambda x: (nn.Flatten(x.shape[1:]), x)),
    nn.Linear: linear(),
    nn.Sequential: strategies.poolings().map(sequential),
    nn.Parallel: strategies.arrays().map(parallel),
}


def test_every_layer_has_a_row():
    public = [getattr(nn, name) for name in nn.__all__]
    layers = {c for c in public if isinstance(c, type) and issubclass(c, nn.Module)} - {nn.Module}
    assert LAYERS.keys() == layers, "give every layer a row in LAYERS: a strategy that draws one, and an input for it"


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_the_gradient_of_a_layer(kind, data):
    layer, x = data.draw(LAYERS[kind])
    assert type(layer) is kind
    with nn.random_state(0):
        check_gradients(layer, x, mode="directional")


def test_a_layer_that_draws_its_own_random_numbers_is_found(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr("minifcn.nn.dropout.stream", lambda *moment: rng)
    with nn.random_state(0), pytest.raises(GradientError, match="The same point gives the same bits"):
        check_gradients(nn.Dropout(0.5), distinct((3, 4)))
