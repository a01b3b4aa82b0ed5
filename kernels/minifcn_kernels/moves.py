"""Numbers on the move: vectors of them copied, taken apart and put together, where loops become something slower.

These helpers bring into place what the register tile reads, and take away what it wrote. Loops that did the same were
compiled to tests of which places overlap, to calls of ``memset``, or to gathered vectors. Arrays are flat and of one
float dtype; nothing is checked.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from minifcn_kernels.emit import array_data, ask_for, integer, interleaved, pieces, shuffle
from minifcn_kernels.tile import ROWS, vector_place, vector_type


@intrinsic  # type: ignore[untyped-decorator]
def move_vector(typing_context: Any, target: Any, to: Any, source: Any, first: Any) -> Any:
    """target[to + l] = source[first + l] for l < lanes."""
    signature = types.void(target, to, source, first)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, to, _, first = arguments
        target, vector, item_bytes = vector_place(context, builder, signature.args[0], arguments[0], to)
        source, _, _ = vector_place(context, builder, signature.args[2], arguments[2], first)
        builder.store(builder.load(source, typ=vector, align=item_bytes), target, align=item_bytes)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def clear_vector(typing_context: Any, target: Any, to: Any) -> Any:
    """target[to + l] = 0 for l < lanes."""
    signature = types.void(target, to)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        place, vector, item_bytes = vector_place(context, builder, signature.args[0], *arguments)
        builder.store(ir.Constant(vector, [0.0] * vector.count), place, align=item_bytes)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def move_few(typing_context: Any, target: Any, to: Any, source: Any, first: Any, count: Any) -> Any:
    """target[to + l] = source[first + l] for l < count < lanes, as `move_vector`.

    As two parts of a vector, the longest that ``count`` has room for, which may overlap: one at the begin, one at the
    end.
    """
    signature = types.void(target, to, source, first, count)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, to, source, first, count = arguments
        element, lanes, _, item_bytes = vector_type(context, signature.args[0])
        sources = array_data(context, builder, signature.args[2], source)
        targets = array_data(context, builder, signature.args[0], target)

        def part_at(data: Any, begin: Any, length: int) -> Any:
            place = builder.gep(data, [begin], source_etype=element)
            return builder.bitcast(place, ir.VectorType(element, length).as_pointer())

        def move(length: int) -> None:
            part, begins = ir.VectorType(element, length), (integer(0), builder.sub(count, integer(length)))
            places = [part_at(sources, builder.add(first, begin), length) for begin in begins]
            parts = [builder.load(place, typ=part, align=item_bytes) for place in places]
            for moved, begin in zip(parts, begins, strict=True):
                builder.store(moved, part_at(targets, builder.add(to, begin), length), align=item_bytes)

        def move_longest(length: int) -> None:
            with builder.if_else(builder.icmp_signed(">=", count, integer(length))) as (fits, not_yet):
                with fits:
                    move(length)
                with not_yet:
                    if length > 1:
                        move_longest(length // 2)

        move_longest(lanes // 2)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def interleave_two(typing_context: Any, target: Any, to: Any, source: Any, first: Any, other: Any) -> Any:
    """target[to + 2·l] = source[first + l] and target[to + 2·l + 1] = source[other + l] for l < lanes."""
    signature = types.void(target, to, source, first, other)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, to, _, first, other = arguments
        pair = []
        for begin in (first, other):
            place, vector, item_bytes = vector_place(context, builder, signature.args[2], arguments[2], begin)
            pair.append(builder.load(place, typ=vector, align=item_bytes))
        for half, mixed in enumerate(interleaved(builder, pair)):
            index = builder.add(to, integer(half * vector.count))
            place, _, _ = vector_place(context, builder, signature.args[0], arguments[0], index)
            builder.store(mixed, place, align=item_bytes)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def move_number(typing_context: Any, target: Any, to: Any, source: Any, first: Any) -> Any:
    """target[to] = source[first], and never as part of a vector.

    Where numbers lie apart, LLVM gathers and scatters vectors of them if there are instructions for that (AVX-512), and
    processors may take several times as long for one as for its numbers one by one. It leaves atomic loads alone.
    """
    signature = types.void(target, to, source, first)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, to, source, first = arguments
        element, _, _, item_bytes = vector_type(context, signature.args[0])
        target, source = (
            builder.gep(array_data(context, builder, signature.args[n], array), [index], source_etype=element)
            for n, array, index in ((0, target, to), (2, source, first))
        )
        builder.store(builder.load_atomic(source, "unordered", item_bytes, typ=element), target)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def move_every_second(typing_context: Any, target: Any, to: Any, source: Any, first: Any) -> Any:
    """target[to + l] = source[first + 2·l] for l < lanes, as `move_vector`. What follows the last is not read."""
    signature = types.void(target, to, source, first)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, to, _, first = arguments
        target, vector, item_bytes = vector_place(context, builder, signature.args[0], arguments[0], to)
        # Two vectors that overlap by one number: of the first the even lanes, of the second the odd ones.
        places = [
            vector_place(context, builder, signature.args[2], arguments[2], builder.add(first, integer(step)))[0]
            for step in (0, vector.count - 1)
        ]
        one, other = (builder.load(place, typ=vector, align=item_bytes) for place in places)
        order = [*range(0, vector.count, 2), *range(vector.count + 1, 2 * vector.count, 2)]
        builder.store(shuffle(builder, one, other, order), target, align=item_bytes)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def interleave(
    typing_context: Any, target: Any, to: Any, to_step: Any, source: Any, first: Any, step: Any, rows: Any
) -> Any:
    """target[to + l·to_step + m] = source[first + m·step + l] for l < lanes, m < `group_of`: turns rows into columns.

    Rows of the source from ``rows`` on are not read, and what is written for them has no meaning.
    """
    signature = types.void(target, to, to_step, source, first, step, rows)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, to, to_step, _, first, step, rows = arguments
        group, last = _group(context, signature.args[0]), builder.sub(rows, integer(1))
        vectors = []
        for m in range(group):
            row = builder.select(builder.icmp_signed("<", integer(m), last), integer(m), last)
            index = builder.add(first, builder.mul(row, step))
            place, vector, item_bytes = vector_place(context, builder, signature.args[3], arguments[3], index)
            vectors.append(builder.load(place, typ=vector, align=item_bytes))
        for column, numbers in enumerate(pieces(builder, interleaved(builder, vectors), group)):
            index = builder.add(to, builder.mul(integer(column), to_step))
            place, _, item_bytes = vector_place(context, builder, signature.args[0], arguments[0], index)
            builder.store(numbers, builder.bitcast(place, numbers.type.as_pointer()), align=item_bytes)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def group_of(typing_context: Any, array: Any) -> Any:
    """How many rows are turned together: as many as a tile has, but no more than a vector has numbers.

    So it divides a tile's rows, and its columns, too.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return integer(_group(context, signature.args[0]))

    return types.int64(array), generate


def _group(context: Any, array_type: Any) -> int:
    return min(ROWS, vector_type(context, array_type)[1])


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: Any, source: Any, index: Any) -> Any:
    """Ask for the cache line of ``source[index]``, and do not wait for it. The index may be any."""
    signature = types.void(source, index)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        place, _, _ = vector_place(context, builder, signature.args[0], arguments[0], arguments[1])
        ask_for(builder, place)
        return context.get_dummy_value()

    return signature, generate
