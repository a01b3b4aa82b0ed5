"""Pieces of LLVM's intermediate code that `tile` and its kin are put together from: shuffles, choices, prefetches.

Each function writes some instructions with a builder and returns their value. None of them depends on how long the
processor's vectors are.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils


def not_unrolled(module: ir.Module) -> Any:
    """Return what tells LLVM to leave a loop as it is. Two steps at a time need more registers than there are."""
    wish = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    # LLVM knows a loop by a list that begins with itself.
    loop = ir.MDValue(module, [wish], name=str(len(module.metadata)))
    loop.operands = (loop, wish)
    return loop


def either(builder: ir.IRBuilder, condition: Any, one: Callable[[], Any], other: Callable[[], Any]) -> list[Any]:
    """Emit ``one() if condition else other()`` for two that emit lists of values."""
    with builder.if_else(condition) as (then, otherwise):
        with then:
            ones, one_block = one(), builder.block
        with otherwise:
            others, other_block = other(), builder.block
    values = [builder.phi(value.type) for value in ones]
    for value, from_one, from_other in zip(values, ones, others, strict=True):
        value.add_incoming(from_one, one_block)
        value.add_incoming(from_other, other_block)
    return values


def sums_of_lanes(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    """Add up the lanes of each of a power of two of vectors, and return the sums in one vector.

    The halves of one vector are added in the same instruction as those of another, into the halves of a single vector;
    and so on with the halves of the halves. For four vectors of eight lanes that takes half the instructions.
    """
    block = vectors[0].type.count  # so many neighbours are parts of one sum
    while block > 1:
        lanes, half, apart = vectors[0].type.count, block // 2, (len(vectors) + 1) // 2
        sides = (0, lanes) if len(vectors) > 1 else (0,)
        lower = [first + side + lane for first in range(0, lanes, block) for side in sides for lane in range(half)]
        upper = [lane + half for lane in lower]
        vectors = [
            builder.fadd(shuffle(builder, one, other, lower), shuffle(builder, one, other, upper))
            for one, other in zip(vectors[:apart], vectors[-apart:], strict=True)
        ]
        block = half
    return joined(builder, interleaved(builder, vectors))


def ask_for(builder: ir.IRBuilder, place: Any) -> None:
    """Emit a prefetch of the cache line at ``place``."""
    small, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
    ask = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer, small, small, small]), "llvm.prefetch.p0"
    )
    # To read (0), into the first-level cache (3), of data (1).
    builder.call(ask, [builder.bitcast(place, pointer), *(ir.Constant(small, flag) for flag in (0, 3, 1))])


def integer(value: int) -> ir.Constant:
    """Return a constant."""
    return ir.Constant(ir.IntType(64), value)


def integer_at(builder: ir.IRBuilder, data: Any, index: Any) -> Any:
    """Load ``data[index]``, of integers."""
    integer = ir.IntType(64)
    return builder.load(builder.gep(data, [index], source_etype=integer), typ=integer)


def interleaved(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Take turns between a power of two of vectors: the first number of each, then the second of each, and so on.

    In as many vectors as were given. A single long one would say the same, but LLVM makes twice as many instructions of
    it.
    """
    decks = [[row] for row in rows]
    while len(decks) > 1:  # shuffle like a deck of cards, half with half
        half = len(decks) // 2
        pairs = [zip(decks[m], decks[m + half], strict=True) for m in range(half)]
        decks = [[mixed for pair in deck for mixed in _riffle(builder, *pair)] for deck in pairs]
    return decks[0]


def _riffle(builder: ir.IRBuilder, one: Any, other: Any) -> list[Any]:
    """Take turns between two vectors; return the lower half of the result, and the upper."""
    lanes = one.type.count
    order = [card for lane in range(lanes) for card in (lane, lanes + lane)]
    return [shuffle(builder, one, other, order[begin : begin + lanes]) for begin in (0, lanes)]


def pieces(builder: ir.IRBuilder, vectors: list[Any], length: int) -> list[Any]:
    """Cut vectors into vectors of so many numbers, which divides their own."""
    return [
        shuffle(builder, vector, vector, range(begin, begin + length))
        for vector in vectors
        for begin in range(0, vector.type.count, length)
    ]


def joined(builder: ir.IRBuilder, parts: list[Any]) -> Any:
    """Put a power of two of vectors one behind the other."""
    while len(parts) > 1:
        lanes = range(2 * parts[0].type.count)
        parts = [shuffle(builder, *pair, lanes) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def shuffle(builder: ir.IRBuilder, one: Any, other: Any, order: Sequence[int]) -> Any:
    """Make a vector of the numbers of two, of which the second's are counted on from the first's."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order)))


def array_data(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any) -> Any:
    """Return a pointer to an array's first number."""
    return context.make_array(array_type)(context, builder, array).data
