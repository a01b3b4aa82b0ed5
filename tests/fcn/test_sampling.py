"""Loss sampling is patchwise training: the same gradients, the classes' shares, and what q_c is in expectation."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, fcn, models, nn
from minifcn.random import stream
from minifcn.testing import strategies
from whole_nets import in_float64

VOID = 255
CLASSES = 4


class Chosen:
    """In place of a generator: numbers that keep exactly the cells of ``mask``, whatever their probability below 1."""

    def __init__(self, mask):
        self.mask = mask

    def random(self, shape):
        return np.where(np.reshape(self.mask, shape), 0.0, np.nextafter(1, 0))


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in net.named_parameters()}


def assert_close(actual, expected):
    assert actual.keys() == expected.keys()
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-9, atol=1e-11, err_msg=name)


@given(
    size=st.tuples(st.integers(32, 47), st.integers(32, 47)),
    p=st.sampled_from([0.1, 0.4, 0.9]),
    reduction=st.sampled_from(["sum", "mean"]),
    seed=strategies.seeds(),
)
def test_the_masked_gradient_of_whole_images_is_the_gradient_of_the_kept_patches(size, p, reduction, seed):
    """LeNet's cells see patches of 32×32, 4 pixels apart. Train on the images, and on the patches cut out of them."""
    net = in_float64(fcn.convolutionalize(models.lenet(CLASSES, seed=seed)))
    images = stream(seed, "images").standard_normal((2, 1, *size))
    labels = stream(seed, "labels").integers(0, CLASSES, (2, *((side - 32) // 4 + 1 for side in size)))
    labels[1, -1, -1] = VOID

    scores = net(Tensor(images))
    whole = fcn.sample_loss(scores, labels, p, stream(seed, "sample"), reduction=reduction)
    on_images = gradients(net, whole)

    kept = fcn.sample_labels(labels, p, stream(seed, "sample"))
    cells = np.argwhere(kept != VOID)
    assert len(cells) < kept.size
    patches = [images[n, :, 4 * i : 4 * i + 32, 4 * j : 4 * j + 32] for n, i, j in cells]
    patch_scores = net(Tensor(np.reshape(patches, (-1, 1, 32, 32))))
    assert patch_scores.shape == (len(cells), CLASSES, 1, 1)
    # p = 1 keeps every patch: an ordinary minibatch.
    batch = fcn.sample_loss(patch_scores, kept[kept != VOID].reshape(-1, 1, 1), 1, stream(0), reduction=reduction)
    assert whole.item() == pytest.approx(batch.item(), rel=1e-12)
    assert_close(on_images, gradients(net, batch))


def expected_gradient(net, x, labels, q):
    """The mean over all 2ⁿ draws of the gradient of the sampled loss, each weighted by its probability."""
    total = {name: np.zeros(p.shape) for name, p in net.named_parameters()}
    for mask in itertools.product([False, True], repeat=labels.size):
        mask = np.array(mask)
        probability = np.prod(np.where(mask, q[labels.ravel()], 1 - q[labels.ravel()]))
        loss = fcn.sample_loss(net(Tensor(x)), labels, q, Chosen(mask), reduction="sum")
        for name, grad in gradients(net, loss).items():
            total[name] += probability * grad
    return total


@given(q=st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.9]), min_size=CLASSES, max_size=CLASSES), seed=strategies.seeds())
def test_sampling_a_class_with_q_equals_weighting_it_by_q_in_expectation(q, seed):
    net = in_float64(nn.Sequential(nn.Conv2d(2, CLASSES, 1, rng=stream(seed, "net"))))
    x = stream(seed, "x").standard_normal((1, 2, 2, 3))
    labels = stream(seed, "labels").integers(0, CLASSES, (1, 2, 3))
    weighted = fcn.sample_loss(net(Tensor(x)), labels, 1, stream(0), weight=np.array(q), reduction="sum")
    assert_close(expected_gradient(net, x, labels, np.array(q)), gradients(net, weighted))


SHARES = st.lists(st.integers(1, 20), min_size=CLASSES, max_size=CLASSES).map(
    lambda parts: np.divide(parts, sum(parts))
)


@given(shares=SHARES, p=st.sampled_from([0.1, 0.25, 0.5, 0.9]), seed=strategies.seeds())
def test_uniform_sampling_leaves_the_balance_of_the_classes_and_class_wise_sampling_does_not(shares, p, seed):
    labels = stream(seed, "labels").choice(CLASSES, (100, 100, 5), p=shares)
    before = np.bincount(labels.ravel(), minlength=CLASSES)
    balancing = before.min() / before  # the rarest class is kept whole, and all others as often
    for keep, expected in (p, p * before), (balancing, np.full(CLASSES, before.min())):
        kept = fcn.sample_labels(labels, keep, stream(seed, "draw"))
        counts = np.bincount(kept[kept != VOID], minlength=CLASSES)
        # Counts are binomial; 6 standard deviations are exceeded once in 500 million draws.
        assert (np.abs(counts - expected) <= 6 * np.sqrt(expected * (1 - np.broadcast_to(keep, CLASSES)))).all()


def test_cells_are_kept_independently_of_each_other():
    kept = fcn.sample_labels(np.zeros((200, 1, 1000), np.uint8), 0.5, stream(0)) == 0
    neighbours = np.mean(kept[:, :, 1:] == kept[:, :, :-1]), np.mean(kept[1:] == kept[:-1])
    np.testing.assert_allclose(neighbours, 0.5, atol=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_void_stays_void_and_the_labels_given_stay_as_they_are(dtype):
    labels = np.array([[0, 1, VOID, 3]], dtype)[:, ::-1]
    before = labels.copy()
    kept = fcn.sample_labels(labels, [0.5, 0.5, 0.5, 1], stream(0))
    np.testing.assert_array_equal(labels, before)
    assert kept.dtype == dtype
    assert (kept[0, 0], kept[0, 1]) == (3, VOID)
    np.testing.assert_array_equal(fcn.sample_labels(labels, 1, stream(0)), labels)


def test_a_draw_that_keeps_nothing_has_loss_and_gradient_zero():
    logits = Tensor(np.ones((1, 2, 1, 1), np.float32), requires_grad=True)
    loss = fcn.sample_loss(logits, np.zeros((1, 1, 1), np.uint8), 0.5, Chosen(False))
    loss.backward()
    assert (loss.item(), logits.grad.any()) == (0, False)


def test_an_empty_batch_is_sampled_to_nothing():
    assert fcn.sample_labels(np.zeros((0, 3, 3), np.uint8), 0.5, stream(0)).shape == (0, 3, 3)


@pytest.mark.parametrize(("size", "keep", "images"), [(20, 1, 20), (20, 0.5, 40), (20, 0.25, 80), (1, 0.3, 4)])
def test_images_per_batch_rise_by_one_over_p(size, keep, images):
    assert fcn.images_per_batch(size, keep) == images


@pytest.mark.parametrize("keep", [0, 1.5, -0.1, float("nan"), [0.5, 0], [[0.5]]])
def test_what_is_no_probability_is_refused(keep):
    with pytest.raises(ValueError, match=re.escape("0 < p <= 1")):
        fcn.sample_labels(np.zeros((1, 2, 2), np.uint8), keep, stream(0))


def test_a_class_without_a_probability_is_named():
    with pytest.raises(ValueError, match="probabilities for the classes 0 … 1, but target holds 7"):
        fcn.sample_labels(np.array([[[0, 7, VOID]]]), [0.5, 0.5], stream(0))


def test_images_per_batch_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="0 < keep <= 1, got 0"):
        fcn.images_per_batch(20, 0)
