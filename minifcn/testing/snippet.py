"""Code to paste that shows a failure again."""

from collections.abc import Callable

import numpy as np

from minifcn.nn import Module
from minifcn.testing.data import distinct
from minifcn.testing.subject import Subject
from minifcn_kernels.jit import Array

# Up to this many numbers are printed.
_PRINTABLE = 48


def snippet(check: str, subject: Subject, options: str, fails: Callable[[list[Array]], bool]) -> str:
    """Write code that fails likewise: with inputs drawn from seeds if these do, else with those at hand."""
    inputs = subject.point[: subject.inputs]
    names = [f"x{i}" for i in range(len(inputs))]
    drawn = [distinct(value.shape, i) for i, value in enumerate(inputs)]
    lines = ["from minifcn import testing"]
    if inputs and _still(fails, drawn):
        lines += [
            f"{x} = testing.data.distinct({v.shape}, seed={i})"
            for i, (x, v) in enumerate(zip(names, inputs, strict=True))
        ]
    elif sum(value.size for value in inputs) <= _PRINTABLE:
        lines.insert(0, "import numpy as np")
        lines += [f"{x} = np.array({value.tolist()})" for x, value in zip(names, inputs, strict=True)]
    else:
        lines.append(
            f"{', '.join(names)} = ...  # the inputs at hand: others do not fail, and they are too many to print"
        )
    f = "module" if isinstance(subject.f, Module) else subject.name if subject.name.isidentifier() else "f"
    lines.append(f"testing.{check}({', '.join([f, *names, options])})")
    return "\n".join(lines)


def _still(fails: Callable[[list[Array]], bool], inputs: list[Array]) -> bool:
    """Say whether the check fails at other inputs too; where the function is not smooth or finite it does not."""
    with np.errstate(all="ignore"):
        try:
            return fails(inputs)
        except ValueError:
            return False
