"""The paper's ways to train, as named settings, and how to convert numbers from one to another (FCN §4.3, PAMI 2017).

Three regimes see the same images and differ in how many make a step and how long a gradient goes on to act:

    accumulated    20 images a step, momentum 0.9
    online          1 image a step,  momentum 0.9
    heavy           1 image a step,  momentum 0.99

Why 0.99? A gradient's influence fades by the momentum p with every step, so with k images a step by p^(1/k) from one
image to the next. 20 images at 0.9 fade like single images at 0.9^(1/20) = 0.9947: heavy momentum is a batch spread out
in time.

The loss is summed over pixels, not averaged, so that every pixel of every image counts the same. Sums are large: the
released nets' learning rate of 1e-10 looks as if nothing could move, but times 500·500 pixels it is 2.5e-5 for a mean
loss.
"""

from typing import Any

from minifcn.training.config import TrainConfig


def accumulated(images: int, lr: float, **settings: Any) -> TrainConfig:
    """Train on ``images`` images, 20 a step with momentum 0.9; ``lr`` is for the summed loss."""
    return _regime(images, lr, 20, 0.9, settings)


def online(images: int, lr: float, **settings: Any) -> TrainConfig:
    """Train on ``images`` images, one a step with momentum 0.9; ``lr`` is for the summed loss."""
    return _regime(images, lr, 1, 0.9, settings)


def heavy(images: int, lr: float, **settings: Any) -> TrainConfig:
    """Train on ``images`` images, one a step with momentum 0.99; ``lr`` is for the summed loss."""
    return _regime(images, lr, 1, 0.99, settings)


def _regime(images: int, lr: float, per_step: int, momentum: float, settings: dict[str, Any]) -> TrainConfig:
    if images < 1 or images % per_step:
        raise ValueError(f"images must be a multiple of the {per_step} of a step, got {images}")
    return TrainConfig(
        **settings,
        steps=images // per_step,
        lr=lr,
        momentum=momentum,
        batch_size=1,  # micro-batches of one, so that images may differ in size
        accumulate=per_step,
        reduction="sum",
    )


def equal_momentum(momentum: float, images: int, new_images: int) -> float:
    """Return the momentum at ``new_images`` a step under which gradients fade from image to image as before.

    With p at k images, p' = p^(k'/k) at k', since p^(1/k) = p'^(1/k').
    """
    return momentum ** (new_images / images)


def equal_lr(lr: float, momentum: float, images: int, new_images: int) -> float:
    """Return the learning rate for a *summed* loss at ``new_images`` a step that goes with `equal_momentum`.

    Over time an image's gradient moves the weights by lr · (1 + p + p² + …) = lr / (1 − p), with k images a step as
    with one. To keep it, lr' = lr · (1 − p') / (1 − p).
    """
    return lr * (1 - equal_momentum(momentum, images, new_images)) / (1 - momentum)


def lr_of_mean(lr_of_sum: float, pixels: int) -> float:
    """Return the learning rate for the mean loss that moves the weights as ``lr_of_sum`` does for the summed loss.

    ``pixels`` are the labelled ones of a step. Weight decay does not scale with the loss: what the one has to be to
    match the other is weight_decay · lr_of_sum / lr_of_mean.
    """
    return lr_of_sum * pixels


def lr_of_sum(lr_of_mean: float, pixels: int) -> float:
    """Return the learning rate for the summed loss that moves the weights as ``lr_of_mean`` does for the mean loss."""
    return lr_of_mean / pixels
