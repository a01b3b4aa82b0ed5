"""The paper's regimes, and conversions that are checked by training with both sides of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minifcn import Tensor, fcn, nn
from minifcn.random import stream
from minifcn.training import SGD, regimes
from minifcn.training.batches import microbatches
from tiny_training import CONFIG, Patches, tiny_net, tiny_trainer


def test_the_regimes_are_the_papers():
    for regime, images_a_step, momentum in (
        (regimes.accumulated, 20, 0.9),
        (regimes.online, 1, 0.9),
        (regimes.heavy, 1, 0.99),
    ):
        config = regime(100, 1e-10, weight_decay=5e-4)
        assert (config.batch_size, config.accumulate, config.momentum) == (1, images_a_step, momentum)
        assert (config.steps * images_a_step, config.lr, config.reduction) == (100, 1e-10, "sum")
        assert config.weight_decay == 5e-4


def test_images_that_fill_no_step_are_refused():
    with pytest.raises(ValueError, match="images must be a multiple of the 20 of a step, got 30"):
        regimes.accumulated(30, 1e-10)


def test_the_papers_numbers():
    assert regimes.equal_momentum(0.9, 20, 1) == pytest.approx(0.9947, abs=5e-5)
    assert regimes.lr_of_mean(1e-10, 500 * 500) == pytest.approx(2.5e-5)


def moved(lr, momentum, gradients):
    """Where a parameter of one number ends that is trained by `SGD` with these gradients, one a step."""
    parameter = nn.Parameter(np.zeros(1))
    optimizer = SGD([parameter], lr, momentum)
    for gradient in gradients:
        parameter.grad = np.array([float(gradient)])
        optimizer.step()
    return parameter.data[0]


@given(momentum=st.floats(0.1, 0.95), images=st.integers(1, 6), new_images=st.integers(1, 6))
def test_equal_momentum_fades_alike_and_equal_lr_ends_alike(momentum, images, new_images):
    """One image's gradient, then none: after any number of images the same part of its effect is still to come."""
    p, lr = regimes.equal_momentum(momentum, images, new_images), regimes.equal_lr(0.1, momentum, images, new_images)
    # 3 · images · new_images images are 3·new_images steps of the one and 3·images of the other.
    old = moved(0.1, momentum, [1, *[0] * (3 * new_images - 1)])
    new = moved(lr, p, [1, *[0] * (3 * images - 1)])
    done = 1 - momentum ** (3 * new_images)
    assert old == pytest.approx(-0.1 / (1 - momentum) * done, rel=1e-9)
    assert new == pytest.approx(old, rel=1e-9)


@given(
    lr=st.floats(1e-4, 1),
    momentum=st.floats(0, 0.99),
    pixels=st.integers(1, 10**6),
    gradients=st.lists(st.floats(-10, 10), min_size=1, max_size=6),
)
def test_a_summed_loss_moves_weights_as_its_mean_does_at_the_converted_learning_rate(lr, momentum, pixels, gradients):
    expected = moved(lr, momentum, gradients)
    summed = [pixels * gradient for gradient in gradients]
    assert moved(regimes.lr_of_sum(lr, pixels), momentum, summed) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert regimes.lr_of_mean(regimes.lr_of_sum(lr, pixels), pixels) == pytest.approx(lr, rel=1e-12)


def test_on_a_bowl_the_converted_regime_follows_the_path_of_the_accumulated_one():
    """(w − 1)²/2 per image, 20 images a step or one."""

    def path(lr, momentum, per_step):
        parameter, points = nn.Parameter(np.zeros(1)), []
        optimizer = SGD([parameter], lr, momentum)
        for step in range(400 // per_step):
            parameter.grad = per_step * (parameter.data - 1)  # a sum over the step's images
            optimizer.step()
            if (step + 1) * per_step % 20 == 0:
                points.append(parameter.data[0])
        return np.array(points)

    lr, momentum = 1e-4, 0.9
    accumulated = path(lr, momentum, 20)
    converted = path(regimes.equal_lr(lr, momentum, 20, 1), regimes.equal_momentum(momentum, 20, 1), 1)
    unconverted = path(lr, momentum, 1)
    assert accumulated[-1] > 0.2
    assert np.abs(converted - accumulated).max() < 0.02
    assert np.abs(unconverted - accumulated).max() > 0.02


def test_mean_and_sum_train_alike_with_converted_learning_rates(tmp_path):
    pixels = 4 * 32 * 32  # every pixel of the tiny training's 4 images is labelled, see below
    train_set = Patches()
    train_set.example = labelled(train_set.example)

    def weights(folder, **settings):
        options = {"clip_norm": None, "weight_decay": 0.0, "steps": 4, **settings}
        trainer = tiny_trainer(tmp_path / folder, net=tiny_net(dropout=0), train_set=train_set, **options)
        trainer.run()
        return trainer.net.state_dict()

    mean = weights("mean", lr=0.05)
    for name, lr in (("sum", regimes.lr_of_sum(0.05, pixels)), ("wrong", 2 * regimes.lr_of_sum(0.05, pixels))):
        summed = weights(name, lr=lr, reduction="sum")
        close = [np.allclose(mean[path], summed[path], rtol=1e-3, atol=1e-5) for path in mean]
        assert all(close) == (name == "sum")
    assert regimes.lr_of_mean(regimes.lr_of_sum(0.05, pixels), pixels) == pytest.approx(0.05)


def labelled(example):
    """Return the same examples with background for void."""

    def without_void(index, epoch=0):
        found = example(index, epoch)
        return type(found)(found.image, np.where(found.label == 255, 0, found.label).astype(np.uint8), found.name)

    return without_void


@pytest.mark.parametrize("keep", [0.5, (0.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)])
def test_a_training_that_samples_its_loss_sees_the_cells_that_sample_labels_keeps(tmp_path, keep):
    trainer = tiny_trainer(tmp_path, net=tiny_net(dropout=0), keep=keep, steps=1, accumulate=1)
    (batch,) = microbatches(trainer.train_set, 0, 0, CONFIG["batch_size"], 1)
    expected = fcn.sample_loss(
        tiny_net(dropout=0)(Tensor(batch.images)), batch.labels, keep, stream(0, "sampling", 0, 0)
    )
    assert trainer.run().losses == [pytest.approx(expected.item(), rel=1e-5)]


def test_a_training_that_samples_draws_anew_each_step_and_micro_batch(tmp_path):
    class Same(Patches):
        def example(self, index, epoch=0):
            return super().example(0, 0)

    trainer = tiny_trainer(tmp_path, net=tiny_net(dropout=0), train_set=Same(), keep=0.02, lr=0.0, steps=4)
    assert len(set(trainer.run().losses)) == 4
