"""Dropout, and where its randomness comes from.

A mask is a function of (seed, step, micro-batch, layer path): no generator lives in the layer, so a training that
is stopped and resumed draws the masks it would have drawn. Whoever runs the training names the moment::

    with nn.random_state(seed, step, microbatch):
        loss = net(x)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from minifcn import ops
from minifcn.nn.module import Module
from minifcn.nn.window import Window
from minifcn.random import stream
from minifcn.tensor import Tensor
from minifcn_kernels.cuda.device import to_device

_moment: ContextVar[tuple[int, int, int] | None] = ContextVar("moment", default=None)


@contextmanager
def random_state(seed: int, step: int = 0, microbatch: int = 0) -> Iterator[None]:
    """Name the moment of a training inside this ``with``; layers that draw random numbers draw those of the moment."""
    token = _moment.set((seed, step, microbatch))
    try:
        yield
    finally:
        _moment.reset(token)


class Dropout(Module):
    """In training, set each number to 0 with probability p and scale the others by 1/(1 − p); else do nothing.

    Raises:
        ValueError: p is outside 0 ≤ p < 1.
        RuntimeError: run in training mode outside of `random_state`.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p must satisfy 0 <= p < 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        moment = _moment.get()
        if moment is None:
            raise RuntimeError(
                "Dropout: a training forward must run inside `with nn.random_state(seed, step):`, "
                "which names the random numbers; call eval() on the net if you are not training"
            )
        seed, step, microbatch = moment
        draw = stream(seed, self.path, microbatch, step).random(x.shape, dtype="float32")
        # Drawn on the CPU, so that a GPU drops the same.
        return ops.dropout(x, self.p, mask=to_device(draw >= self.p, x.device))

    def window(self) -> Window:
        return Window()
