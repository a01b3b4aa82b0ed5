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


@st.composite
def random_classifiers(draw):
    """A classifier without padding: convolutions (in groups, too), pools, branches and norms, then linear layers.

    With it come the side of its patches and its stride.
    """
    rng = stream(draw(st.integers(0, 2**32)), "classifier")
    channels, layers, side, patch, stride = 2, [], draw(st.integers(1, 3)), None, 1
    kinds = draw(st.lists(st.sampled_from(["conv", "grouped", "max", "average", "branches", "norm"]), max_size=4))
    spatial = []  # (kernel, stride) of each layer, to work out the patch that makes a map of side × side
    for kind in kinds:
        kernel, step = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        if kind in ("conv", "grouped"):
            groups = 2 if kind == "grouped" else 1
            layers += [nn.Conv2d(channels, 4, kernel, stride=step, groups=groups, rng=rng), nn.ReLU()]
            channels = 4
        elif kind == "max":
            layers.append(nn.MaxPool2d(kernel, stride=step))
        elif kind == "average":
            layers.append(nn.AvgPool2d(kernel, stride=step))
        elif kind == "branches":
            one, two = (nn.Conv2d(channels, 2, kernel, stride=step, rng=rng) for _ in range(2))
            layers.append(nn.Parallel(nn.Sequential(one, nn.ReLU()), two))
            channels = 4
        else:
            layers.append(nn.LocalResponseNorm(3, alpha=0.5))
            kernel = step = 1
        spatial.append((kernel, step))
    patch = side
    for kernel, step in reversed(spatial):
        patch = (patch - 1) * step + kernel
        stride *= step
    head = [nn.Flatten((channels, side, side)), nn.Linear(channels * side**2, 5, rng=rng), nn.ReLU()]
    return nn.Sequential(*layers, *head, nn.Linear(5, 3, rng=rng)), patch, stride


@given(random_classifiers(), st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**32))
def test_any_dense_net_answers_on_every_patch_what_its_classifier_answers(built, more_rows, more_columns, seed):
    classifier, patch, stride = built
    x = image(2, 2, patch + more_rows, patch + more_columns, seed=seed)
    with no_grad():
        dense = fcn.convolutionalize(classifier)(x).data
        expected = patch_scores(classifier, x, patch, stride)
    assert dense.shape == expected.shape
    np.testing.assert_allclose(dense, expected, rtol=1e-4, atol=1e-4)


def without_padding(net):
    """The same layers, but for the zeros that they put around their maps."""
    for _, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
    return net


@pytest.mark.parametrize(
    ("make", "patch"),
    [
        (models.alexnet, 355),  # the receptive field: without padding, a patch is what its one score sees
        pytest.param(models.vgg16, 404, marks=pytest.mark.slow),
    ],
)
def test_the_large_dense_nets_answer_on_every_patch_what_the_classifiers_answer(make, patch):
    classifier = without_padding(make(4)).eval()
    x = image(1, 3, patch + 32, patch + 32)  # 2×2 patches
    with no_grad():
        expected = patch_scores(classifier, x, patch, stride=32)
        dense = fcn.convolutionalize(classifier).eval()(x).data
    assert dense.shape == (1, 4, 2, 2)
    np.testing.assert_allclose(dense, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("make", "head", "side", "size"),
    [
        (models.googlenet, "pool5", 7, (256, 288)),
        (models.tiny_vgg, "flatten", 2, (96, 128)),
        pytest.param(models.vgg16, "flatten", 7, (256, 288), marks=pytest.mark.slow),
    ],
)
def test_where_a_net_pads_its_head_slides_over_the_map_of_the_whole_image(make, head, side, size):
    """The head answers exactly on every side × side cells; the trunk sees neighbours where a patch has zeros."""
    classifier = make(4).eval()
    names = [name for name, _ in classifier.named_children()]
    trunk, rest = (
        nn.Sequential({name: classifier[name] for name in part})
        for part in (names[: names.index(head)], names[names.index(head) :])
    )
    x = image(1, 3, *size)
    with no_grad():
        dense = fcn.convolutionalize(classifier).eval()(x).data
        expected = patch_scores(rest, trunk(x), side, stride=1)
    assert dense.shape == (1, 4, 2, 3)
    np.testing.assert_allclose(dense, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


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
