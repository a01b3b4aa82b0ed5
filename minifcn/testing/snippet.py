"""Code to paste that shows a failure again."""

from collections.abc import Callable

import numpy as np

from minifcn.nn import Module
from minifcn.testing.subject import Subject
from minifcn_kernels.jit import Array

# Up to this many numbers are written out.
_PRINTABLE = 48


def snippet(
    check: str,
    subject: Subject,
    options: str,
    draw: Callable[[tuple[int, ...], int], Array],
    fails: Callable[[list[Array]], bool],
) -> str:
    """Write code that calls ``check`` and fails likewise.

    The inputs come from ``draw``, one of `minifcn.testing.data`, if it still fails with these: that has been tried.
    Else they are written out.
    """
    inputs = subject.point[: subject.inputs]
    names = [f"x{i}" for i in range(len(inputs))]
    if inputs and _still(fails, [draw(value.shape, i) for i, value in enumerate(inputs)]):
        values = [f"testing.data.{draw.__name__}({value.shape}, seed={i})" for i, value in enumerate(inputs)]
    elif sum(value.size for value in inputs) <= _PRINTABLE:
        values = [f"np.array({value.tolist()})" for value in inputs]
    else:
        values = [f"...  # the {value.shape} at hand: it takes its very numbers to fail" for value in inputs]
    lines = ["import numpy as np"] if any(value.startswith("np.") for value in values) else []
    lines += ["from minifcn import testing"]
    lines += [f"{name} = {value}" for name, value in zip(names, values, strict=True)]
    f = "module" if isinstance(subject.f, Module) else subject.name if subject.name.isidentifier() else "f"
    return "\n".join([*lines, f"testing.{check}({', '.join([f, *names, options])})"])


def _still(fails: Callable[[list[Array]], bool], inputs: list[Array]) -> bool:
    """Say whether the check fails at other inputs too; where the function is not smooth or finite it does not."""
    with np.errstate(all="ignore"):
        try:
            return fails(inputs)
        except ValueError:
            return False
