"""Random streams that are functions of what they are for, not of what was drawn before.

A training that stops and resumes, or runs on another number of threads, must see the same samples, the
same augmentation and the same dropout masks. So nothing here has state: a stream is named by the seed and
up to three words (an epoch and a sample, or a step, a micro-batch and a layer), and the same name always
gives the same numbers. Philox is a counter-based generator made for this: the seed is its key, the words
fill its counter, and the counter's lowest word is left free for the draws within the stream.

Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

import hashlib

import numpy as np

_WORD = 1 << 64


def word(name: str) -> int:
    """Return a 64-bit word for ``name``: the same in every process, unlike Python's own ``hash``."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def stream(seed: int, *words: int | str) -> np.random.Generator:
    """Return the generator named by ``seed`` (0 ≤ seed < 2¹²⁸) and up to three ``words`` (0 ≤ word < 2⁶⁴, or text)."""
    if not 0 <= seed < _WORD * _WORD:
        raise ValueError(f"seed must lie in 0 … 2**128 - 1, got {seed}")
    if len(words) > 3:
        raise ValueError(f"a stream is named by at most three words, got {len(words)}: {words}")
    numbers = [word(w) if isinstance(w, str) else int(w) for w in words]
    for number in numbers:
        if not 0 <= number < _WORD:
            raise ValueError(f"a stream's words must lie in 0 … 2**64 - 1, got {number}")
    counter = [0, *numbers, *[0] * (3 - len(numbers))]
    key = [seed % _WORD, seed // _WORD]
    return np.random.Generator(np.random.Philox(counter=np.array(counter, np.uint64), key=np.array(key, np.uint64)))
