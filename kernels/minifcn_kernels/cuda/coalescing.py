"""What a profiler would say of a kernel's memory accesses, from what the emulator saw block 0 do.

The lanes of a warp access memory together. **Global memory** comes in sectors of 32 bytes: 32 neighbouring floats are
4 sectors, 32 floats that lie far apart are 32. **Shared memory** has 32 banks, each 4 bytes wide, and each serves one
word at a time: lanes that want different words of one bank wait for each other. Accesses of 8 or 16 bytes a lane are
served in 2 or 4 turns, of half or a quarter of the warp each.

Caches are not modelled, nor is the compiler, which may join accesses or keep a value in a register.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minifcn_kernels.cuda.emulator.library import line_at

WARP = 32
SECTOR = 32  # bytes
BANKS = 32
WORD = 4  # bytes, of a bank


@dataclass(frozen=True, slots=True)
class Line:
    """What the warps of a block asked of memory in one line of a kernel's source.

    ``cost`` is the mean number of sectors, or of turns of the banks, that a request took; ``least`` is what the same
    bytes would have taken side by side.
    """

    place: str
    shared: bool
    write: bool
    requests: int
    cost: float
    least: float

    def __str__(self) -> str:
        memory, unit = ("shared", "turns") if self.shared else ("global", "sectors")
        does = "write" if self.write else "read"
        verdict = f"{self.cost / self.least:.1f} times the least" if self.cost > 1.05 * self.least else "fine"
        return (
            f"{self.place:<22} {memory} {does:<5} {self.requests:>6} requests of "
            f"{self.cost:>5.1f} {unit:<7} (least {self.least:>4.1f})  {verdict}"
        )


def report(library: str, accesses: NDArray[Any]) -> list[Line]:
    """Sum up the accesses of a launch, as `emulation` hands them to its ``trace``, line by line."""
    costs: dict[tuple[str, bool, bool], list[tuple[int, int]]] = defaultdict(list)
    for code in np.unique(accesses["code"]):
        here = accesses[accesses["code"] == code]
        size, shared, write = int(here["size"][0]), bool(here["shared"][0]), bool(here["write"][0])
        count = _turns if shared else _sectors
        costs[line_at(library, int(code)), shared, write] += [count(a, size) for a in _requests(here)]
    return [
        Line(*key, len(both), *(float(np.mean(column)) for column in zip(*both, strict=True)))
        for key, both in sorted(costs.items(), key=lambda item: _by_number(item[0]))
    ]


def _by_number(key: tuple[str, bool, bool]) -> tuple[str, int, bool, bool]:
    file, _, line = key[0].rpartition(":")
    return file, int(line), *key[1:]


def _requests(here: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield what each warp accessed at once: the addresses of its lanes' n-th time at this instruction, by lane."""
    visits: dict[int, int] = defaultdict(int)
    together: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for thread, address in zip(here["thread"].tolist(), here["address"].tolist(), strict=True):
        together[thread // WARP, visits[thread]].append((thread % WARP, address))
        visits[thread] += 1
    for lanes in together.values():
        yield np.array([address for _, address in sorted(lanes)])


def _sectors(addresses: NDArray[Any], size: int) -> tuple[int, int]:
    """Return how many sectors the lanes touch, and how few would hold as many bytes."""
    touched = _pieces(addresses, size, SECTOR)
    return len(touched), -(-len(np.unique(addresses)) * size // SECTOR)


def _turns(addresses: NDArray[Any], size: int) -> tuple[int, int]:
    """Return how many turns the banks need: in each part of the warp, as many as the most wanted bank has words."""
    lanes = WARP * WORD // max(size, WORD)
    parts = [addresses[i : i + lanes] for i in range(0, len(addresses), lanes)]
    return sum(int(np.bincount(_pieces(part, size, WORD) % BANKS).max()) for part in parts), len(parts)


def _pieces(addresses: NDArray[Any], size: int, piece: int) -> NDArray[Any]:
    """Return the numbers of the pieces of memory that the accesses touch, each once."""
    first, last = addresses // piece, (addresses + size - 1) // piece
    steps = np.arange(int((last - first).max()) + 1)
    return np.unique(np.minimum(first[:, None] + steps, last[:, None]))
