import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, fcn, models, nn, no_grad
from minifcn.random import stream


def image(*shape, seed=0):
    return Tensor(stream(seed, "image").standard_normal(shape).astype(np.float32))


def patch_scores(classifier, x, patch, stride):
    """Run ``classifier`` on every patch of the stride's grid, one at a time."""
    H, W = x.shape[2:]
    rows = []
    for top in range(0, H - patch + 1, stride):
        lefts = range(0, W - patch + 1, stride)
        rows.append([classifier(Tensor(x.data[:, :, top : top + patch, left : left + patch])).data for left in lefts])
    return np.array(rows).transpose(2, 3, 0, 1)  # (i, j, N, K) → (N, K, i, j)


@given(height=st.integers(32, 47), width=st.integers(32, 47), seed=st.integers(0, 2**32))
def test_the_dense_net_answers_on_every_patch_what_the_classifier_answers(height, width, seed):
    classifier = models.lenet(10, seed=seed)  # no padding, so the patches are seen alike
    x = image(1, 1, height, width, seed=seed)
    with no_grad():
        dense = fcn.convolutionalize(classifier)(x).data
        expected = patch_scores(classifier, x, patch=32, stride=4)
    assert dense.shape == expected.shape
    np.testing.assert_allclose(dense, expected, rtol=1e-4, atol=1e-4)


def test_a_padded_classifier_is_answered_exactly_on_an_image_of_its_own_size():
    classifier = models.tiny_vgg(7).eval()
    x = image(2, 3, 64, 64)
    with no_grad():
        dense = fcn.convolutionalize(classifier).eval()(x)
        np.testing.assert_allclose(dense.data[:, :, 0, 0], classifier(x).data, rtol=1e-4, atol=1e-5)


def test_weights_are_copies_and_taps_stay():
    classifier = models.tiny_vgg(7)
    dense = fcn.convolutionalize(classifier)
    assert dense.taps == classifier.taps
    assert dense["fc6"].weight.shape == (128, 64, 2, 2)
    assert dense["fc7"].weight.shape == (128, 128, 1, 1)
    for name, parameter in classifier.named_parameters():
        assert not np.shares_memory(parameter.data, dict(dense.named_parameters())[name].data)


def test_what_cannot_be_convolutionalized_is_refused_by_name():
    class Mystery(nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(TypeError, match=r"Mystery has no window\(\)"):
        fcn.convolutionalize(nn.Sequential(Mystery()))
    with pytest.raises(TypeError, match=r"nn\.Sequential"):
        fcn.convolutionalize(nn.ReLU())
    with pytest.raises(ValueError, match="fc takes 10 features, but the Flatten before it gives 2×3×3"):
        fcn.convolutionalize(nn.Sequential({"flatten": nn.Flatten((2, 3, 3)), "fc": nn.Linear(10, 2)}))
