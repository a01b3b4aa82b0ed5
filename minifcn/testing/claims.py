"""What is claimed of every differentiable function besides the values of its gradient: a few lines each.

A claim is a function of a `Trial` that returns None, or the place where it does not hold; its docstring is the claim.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from minifcn.nn import Module
from minifcn.tensor import Tensor
from minifcn.testing.data import normal, strided
from minifcn.testing.failure import Mismatch, first_mismatch
from minifcn.testing.subject import Subject, copies, pull
from minifcn_kernels.jit import Array

# Two ways of computing the same differ by the order of their sums only: some hundred roundings of 10⁻¹⁶, and room.
ROUNDING = 1e-9
# Where terms of size 1 cancel, their roundings are all that is left, and nothing beside the result is small.
CANCELLED = 1e-12


class Trial:
    """A subject, a random cotangent, and what one forward and backward with it give.

    Attributes:
        subject: the function and its point.
        seed: names all that is drawn.
        cotangent: ∂loss/∂output, normally distributed.
        output: the output at the point.
        grads: the gradient of every leaf there.
        gradients: how to call them: ``"gradient of input 0"`` …
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.seed = seed
        self.gradients = [f"gradient of {leaf}" for leaf in subject.leaves]
        # A first call elsewhere: a function that keeps something of it for good betrays itself at the point.
        subject.apply_elsewhere(subject.tensors(copies(subject.point)))
        # Copies, here and below: whether the function leaves its inputs alone is a claim yet to be checked.
        self.output = subject.forward(copies(subject.point)).copy()
        self.cotangent = normal(self.output.shape, seed).astype(self.output.dtype)
        self.grads = self.run(copies(subject.point), cotangent=self.cotangent.copy())[1]

    def run(
        self, values: list[Array], wanted: list[bool] | None = None, cotangent: Array | None = None
    ) -> tuple[Tensor, list[Array]]:
        """Run forward and backward once; return the output and the gradients."""
        leaves = self.subject.tensors(values, wanted)
        y = self.subject.apply(leaves)
        return y, pull(y, self.cotangent if cotangent is None else cotangent, leaves)

    def differ(self, grads: list[Array], expected: list[Array], relative: float = ROUNDING) -> Mismatch | None:
        """Compare gradients."""
        absolute = CANCELLED if relative else 0.0
        return first_mismatch(self.gradients, grads, expected, relative=relative, absolute=absolute)


@dataclass(frozen=True)
class Claim:
    """A check, its docstring as the sentence that errors show, and what is usually wrong if it fails."""

    sentence: str
    check: Callable[[Trial], Mismatch | None]
    cause: str

    def __call__(self, trial: Trial) -> Mismatch | None:
        """Return where the claim does not hold, with its usual cause."""
        mismatch = self.check(trial)
        return mismatch and replace(mismatch, causes=(*mismatch.causes, self.cause))


def claim(cause: str) -> Callable[[Callable[[Trial], Mismatch | None]], Claim]:
    """Turn a check into a `Claim`: its docstring is the claim, ``cause`` what is usually wrong if it fails."""
    return lambda check: Claim(inspect.getdoc(check) or "", check, cause)


@claim(cause="an operation in place (`+=`, `out=`, `x[...] =`) on an array that belongs to the caller")
def leaves_inputs_alone(trial: Trial) -> Mismatch | None:
    """Inputs and cotangent stay as they were."""
    values, cotangent = copies(trial.subject.point), trial.cotangent.copy()
    trial.run(values, cotangent=cotangent)
    names = [*trial.subject.leaves, "the cotangent"]
    return first_mismatch(names, [*values, cotangent], [*trial.subject.point, trial.cotangent])


@claim(cause="something random or leftover decides; a dropout mask belongs to the function's arguments or random_state")
def is_deterministic(trial: Trial) -> Mismatch | None:
    """The same point gives the same bits."""
    output, grads = trial.run(trial.subject.point)
    return first_mismatch(["output"], [output.data], [trial.output]) or trial.differ(grads, trial.grads, relative=0)


@claim(cause="a gradient is overwritten (`=`) where it must be accumulated (`+=`)")
def accumulates(trial: Trial) -> Mismatch | None:
    """A second backward adds to .grad."""
    leaves = trial.subject.tensors(trial.subject.point)
    for _ in range(2):
        grads = pull(trial.subject.apply(leaves), trial.cotangent, leaves)
    return trial.differ(grads, [2 * grad for grad in trial.grads])


@claim(cause="where two paths meet, one gradient replaces the other, or two calls share something")
def adds_up_where_paths_meet(trial: Trial) -> Mismatch | None:
    """The gradient of f(x) + f(x) is twice that of f(x)."""
    leaves = trial.subject.tensors(trial.subject.point)
    twice = trial.subject.apply(leaves) + trial.subject.apply(leaves)
    return trial.differ(pull(twice, trial.cotangent, leaves), [2 * grad for grad in trial.grads])


@claim(cause="backward returns one array for two inputs and it is added to itself (is fresh_gradients true?)")
def takes_one_tensor_twice(trial: Trial) -> Mismatch | None:
    """One tensor in two places gets the sum of both places' gradients."""
    pair = trial.subject.interchangeable_inputs()
    if pair is None:
        return None
    i, j = pair
    values = list(trial.subject.point)
    values[j] = values[i]
    with np.errstate(all="ignore"):  # f(x, x) may lie where f is infinite; then it is so both times
        apart = trial.run(values)[1]
        leaves = trial.subject.tensors(values)
        leaves[j] = leaves[i]
        together = pull(trial.subject.apply(leaves), trial.cotangent, leaves)
        apart[i] = apart[j] = apart[i] + apart[j]
        return trial.differ(together, apart)


@claim(cause="`self.needs[i]` is asked for another input than the one whose gradient it guards")
def asks_the_right_needs(trial: Trial) -> Mismatch | None:
    """A gradient does not depend on which other gradients are wanted."""
    for wanted in trial.subject.shares():
        grads = trial.run(trial.subject.point, wanted)[1]
        expected = [grad if want else np.zeros_like(grad) for grad, want in zip(trial.grads, wanted, strict=True)]
        mismatch = trial.differ(grads, expected)
        if mismatch:
            return mismatch
    return None


@claim(cause="the code relies on C-contiguous arrays (`.data` pointers, `reshape` to get a view, `ravel` and write)")
def takes_strided_arrays(trial: Trial) -> Mismatch | None:
    """It makes no difference how inputs and cotangent lie in memory."""
    output, grads = trial.run([strided(value) for value in trial.subject.point], cotangent=strided(trial.cotangent))
    mismatch = first_mismatch(["output"], [output.data], [trial.output], relative=ROUNDING, absolute=CANCELLED)
    return mismatch or trial.differ(grads, trial.grads)


@claim(
    cause="what forward saved is kept on the class or in a buffer that is used again, so it is stale in backward; "
    "keep it with self.save(...)"
)
def calls_share_nothing(trial: Trial) -> Mismatch | None:
    """Calls do not disturb each other: forward, forward elsewhere, backward of the first."""
    leaves = trial.subject.tensors(trial.subject.point)
    y = trial.subject.apply(leaves)
    trial.subject.apply_elsewhere(leaves)
    changed = first_mismatch(["output, after another call,"], [y.data], [trial.output])
    return changed or trial.differ(pull(y, trial.cotangent, leaves), trial.grads)


@claim(cause="backward hands out an array that somebody else holds although fresh_gradients is true; copy it")
def owns_its_gradients(trial: Trial) -> Mismatch | None:
    """Gradients share memory with nothing."""
    leaves = trial.subject.tensors(trial.subject.point)
    y = trial.subject.apply(leaves)
    grads = pull(y, trial.cotangent, leaves)
    others = {"the cotangent": trial.cotangent, "the output": y.data}
    others |= {f"an earlier {name}": grad for name, grad in zip(trial.gradients, trial.grads, strict=True)}
    for name, leaf, grad in zip(trial.subject.leaves, leaves, grads, strict=True):
        for other, array in others.items():
            if np.shares_memory(grad, array):
                return Mismatch(f"gradient of {name}", f"the memory of {other}", "memory of its own")
        others |= {name: leaf.data, f"the gradient of {name}": grad}
    return None


@claim(cause="a float64 constant or an `astype` decides the dtype; let it follow the input's")
def keeps_the_dtype(trial: Trial) -> Mismatch | None:
    """Float32 in gives float32 out."""
    single = trial.subject.in_single_precision()
    try:
        output = single.forward(single.point)
    except TypeError as error:
        # A plain function may hold float64 constants, which do not mix with float32: then there is nothing to check.
        # A module has to take it: its parameters are float32.
        if isinstance(single.f, Module) or "convert one of them" not in str(error):
            raise
        return None
    return None if output.dtype == np.float32 else Mismatch("dtype of the output", output.dtype, "float32")


CLAIMS_BEFORE = (leaves_inputs_alone, is_deterministic)
# The first comes first: what shares memory would make the others fail, too, for a reason that is harder to see.
CLAIMS_AFTER = (
    owns_its_gradients,
    accumulates,
    adds_up_where_paths_meet,
    takes_one_tensor_twice,
    asks_the_right_needs,
    takes_strided_arrays,
    calls_share_nothing,
    keeps_the_dtype,
)
