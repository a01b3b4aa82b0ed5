"""Does a state fit a net? All that differs is told at once, and nothing is loaded before."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def check_state(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Raise ``ValueError`` unless ``given`` has exactly the names and shapes of ``expected``.

    ``expected`` maps a name to its shape, ``given`` a name to its array. One message names all
    missing, unexpected and misshapen entries, each kind sorted.
    """
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    misshapen = [
        f"{name} (given {given[name].shape}, expected {expected[name]})"
        for name in sorted(expected.keys() & given.keys())
        if given[name].shape != expected[name]
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    problems = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise ValueError(
            f"the state is of another net; {'; '.join(problems)}. "
            "Nothing was loaded: build the net that the state was saved from"
        )
