"""The register tile: a small matrix product that never leaves the processor's registers.

Every fast convolution here is a sum of products  c[m, v] += Σ_d a[m, d] · b[d, v],  and the processor can multiply
faster than it can load. The remedy is to keep a tile of c in registers while d runs: each step loads one column of
a (`ROWS` numbers) and one row of b (`VECTORS` vectors) and does ROWS · VECTORS multiply-adds with them.

How large? A step of R rows and V vectors needs R·V registers for c, V for b and 1 for the number of a that is being
multiplied. V = 3 keeps enough independent sums in flight to hide a multiply-add's latency, and R is the largest
power of two that fits: 4 in 16 registers (AVX2), 8 in 32 (AVX-512, NEON).

There are three of them. `tile` is the one just described; `part_tile` is the same with fewer vectors to a row, for what
makes no whole tile at the end; `dot_tile` multiplies vectors by vectors, for a product whose long sum runs along the
memory. What they read is brought into place by the helpers in ``moves.py``.

No compiler makes this from loops reliably, so this file writes LLVM's intermediate code, as do ``moves.py``, Winograd's
transforms (``conv2d/vectors.py``) and ``threads.py``.
"""

import platform
from collections.abc import Callable, Mapping
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from minifcn_kernels.emit import (
    array_data,
    ask_for,
    either,
    integer,
    integer_at,
    interleaved,
    not_unrolled,
    pieces,
    sums_of_lanes,
)


def vector_unit(machine: str, cpu_name: str | None, features: Mapping[str, bool]) -> tuple[int, int]:
    """Return the bytes in a vector register and the number of such registers.

    Args:
        machine: as `platform.machine` names it.
        cpu_name: a CPU that Numba is told to compile for (``NUMBA_CPU_NAME``), if it is.
        features: of the host's CPU, as LLVM names them.
    """
    if machine.lower() in ("aarch64", "arm64"):
        return 16, 32  # NEON
    # A CPU named by NUMBA_CPU_NAME is taken to have AVX2; what it lacks, LLVM puts together from smaller vectors.
    if not cpu_name and features.get("avx512f"):
        return 64, 32
    return 32, 16  # AVX2


VECTOR_BYTES, _REGISTERS = vector_unit(
    platform.machine(), numba.config.CPU_NAME, llvmlite.binding.get_host_cpu_features()
)
VECTORS = 3
# The largest power of two with ROWS · VECTORS + VECTORS + 1 ≤ registers.
ROWS: int = 1 << ((_REGISTERS - VECTORS - 1) // VECTORS).bit_length() - 1
# Rows of a that are addressed from the first of them; it divides ROWS.
ROW_GROUP = 4


@intrinsic  # type: ignore[untyped-decorator]  # Numba ships no types
def tile(
    typing_context: Any,
    depth: Any,
    a: Any,
    a_first: Any,
    a_step: Any,
    a_offsets: Any,
    b: Any,
    b_starts: Any,
    first_start: Any,
    b_offsets: Any,
    c: Any,
    c_first: Any,
    c_step: Any,
    fresh: Any = None,
    bias: Any = None,
    bias_first: Any = None,
) -> Any:
    """Add the product ``c[m, v] += Σ_d a[m, d] · b[d, v]`` to a tile of ``c``; its operands lie scattered in memory::

        c[c_first + m·c_step + v·lanes + l] += Σ_d  a[a_first + m·a_step + a_offsets[d]]
                                                  · b[b_starts[first_start + v] + b_offsets[d] + l]

    over 0 ≤ d < depth, for m < `ROWS`, v < `VECTORS`, l < lanes = `VECTOR_BYTES` / itemsize. So every vector of b's row
    comes from a place of its own. The arrays are flat: a, b and c of one float dtype, starts and offsets int64.

    ``depth`` is at least 1, and there is always a whole tile of everything. Nothing is checked.

    ``a_first`` may also be a table, of int64. Then every group of `ROW_GROUP` rows of a begins at a place of its own,
    and row m at ``a_first[m // ROW_GROUP] + m % ROW_GROUP · a_step``.

    The last three arguments may be left out. If they are there and ``fresh`` is True, c is not read: row m becomes
    ``bias[bias_first + m]`` plus its sums.

    The sums begin at zero, and what was there is added at the end. So a long sum, taken tile by tile, is a sum of short
    ones, and that is more exact: n random products add up to an error that grows like √((depth + n / depth) / 2), in
    place of √(n / 2).
    """
    starts = _start_types(fresh, bias, bias_first)
    signature = types.void(
        *(depth, a, a_first, a_step, a_offsets, b, b_starts, first_start, b_offsets, c, c_first, c_step), *starts
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _multiply(context, builder, signature.args, arguments, VECTORS)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def part_tile(
    typing_context: Any,
    vectors: Any,
    depth: Any,
    a: Any,
    a_first: Any,
    a_step: Any,
    a_offsets: Any,
    b: Any,
    b_starts: Any,
    first_start: Any,
    b_offsets: Any,
    c: Any,
    c_first: Any,
    c_step: Any,
    fresh: Any = None,
    bias: Any = None,
    bias_first: Any = None,
) -> Any:
    """`tile` with so many ``vectors`` to a row: 1 to `VECTORS`, as `next_vectors` says."""
    starts = _start_types(fresh, bias, bias_first)
    signature = types.void(
        *(vectors, depth, a, a_first, a_step, a_offsets, b, b_starts, first_start, b_offsets, c, c_first, c_step),
        *starts,
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        after = builder.append_basic_block()
        cases = [builder.append_basic_block() for _ in range(VECTORS)]
        choice = builder.switch(arguments[0], cases[-1])
        for count, case in enumerate(cases, start=1):
            choice.add_case(integer(count), case)
            builder.position_at_end(case)
            _multiply(context, builder, signature.args[1:], arguments[1:], count)
            builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def next_vectors(typing_context: Any, left: Any) -> Any:
    """How many of the vectors that are ``left`` the next tile takes: `VECTORS`, or two if one would be left alone.

    A tile with two vectors to a row multiplies nearly as fast as one with three. With a single one, a number of a
    serves one multiply-add, and loads take longer than the arithmetic: 0.7 times the speed with AVX-512.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        (left,) = arguments

        def at_most(most: int) -> Any:
            return builder.select(builder.icmp_signed("<", left, integer(most)), left, integer(most))

        one_alone = builder.icmp_signed("==", left, integer(VECTORS + 1))
        return builder.select(one_alone, integer(2), at_most(VECTORS))

    return types.int64(left), generate


def _start_types(fresh: Any, bias: Any, bias_first: Any) -> tuple[Any, Any, Any]:
    return (types.none, types.none, types.none) if fresh is None else (fresh, bias, bias_first)


def _multiply(context: Any, builder: ir.IRBuilder, argument_types: Any, arguments: Any, vectors: int) -> None:
    """Emit a tile with so many vectors to a row, of the types and the values of `tile`'s arguments."""

    def pointer(position: int) -> Any:
        return array_data(context, builder, argument_types[position], arguments[position])

    element, lanes, vector, item_bytes = vector_type(context, argument_types[1])
    depth, _, a_first, a_step, _, _, _, first_start, _, _, c_first, c_step, fresh, _, bias_first = arguments

    def advance(base: Any, count: Any) -> Any:
        return builder.gep(base, [count], source_etype=element)

    def vector_at(base: Any, v: int) -> Any:
        return builder.bitcast(advance(base, integer(v * lanes)), vector.as_pointer())

    def everywhere(place: Any) -> Any:
        """Load a number into all lanes of a vector."""
        undefined = ir.Constant(vector, ir.Undefined)
        alone = builder.insert_element(undefined, builder.load(place, typ=element), ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(alone, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))

    c_rows = [advance(pointer(9), builder.add(c_first, builder.mul(integer(m), c_step))) for m in range(ROWS)]
    # Of a, the first row of each group, and the distances from there. They are the same in all groups, so that eight
    # rows need five registers.
    if isinstance(argument_types[2], types.Array):
        firsts = [integer_at(builder, pointer(2), integer(group)) for group in range(ROWS // ROW_GROUP)]
    else:
        firsts = [builder.add(a_first, builder.mul(integer(m), a_step)) for m in range(0, ROWS, ROW_GROUP)]
    a_groups = [advance(pointer(1), first) for first in firsts]
    a_distances = [builder.mul(integer(m), a_step) for m in range(ROW_GROUP)]
    a_offsets, b_offsets = pointer(4), pointer(8)
    b_starts = [
        advance(pointer(5), integer_at(builder, pointer(6), builder.add(first_start, integer(v))))
        for v in range(vectors)
    ]

    c_places = [vector_at(c_rows[m], v) for m in range(ROWS) for v in range(vectors)]

    def old_sums() -> list[Any]:
        return [builder.load(place, typ=vector, align=item_bytes) for place in c_places]

    def biases() -> list[Any]:
        of_rows = [everywhere(advance(pointer(13), builder.add(bias_first, integer(m)))) for m in range(ROWS)]
        return [of_rows[m] for m in range(ROWS) for _ in range(vectors)]

    def operands(d: Any) -> tuple[Callable[[int], Any], list[Any]]:
        a_offset, b_offset = integer_at(builder, a_offsets, d), integer_at(builder, b_offsets, d)
        places = [vector_at(advance(start, b_offset), 0) for start in b_starts]
        b_vectors = [builder.load(place, typ=vector, align=item_bytes) for place in places]
        a_places = [advance(group, a_offset) for group in a_groups]
        return lambda m: everywhere(advance(a_places[m // ROW_GROUP], a_distances[m % ROW_GROUP])), b_vectors

    for place in c_places:  # c may lie further away than the panels: it is on its way while d runs
        ask_for(builder, place)
    may_be_fresh = argument_types[12] is not types.none
    sums = _accumulate(builder, depth, vector, vectors, operands)
    before = either(builder, fresh, biases, old_sums) if may_be_fresh else old_sums()
    for place, first, total in zip(c_places, before, sums, strict=True):
        builder.store(builder.fadd(first, total), place, align=item_bytes)


@intrinsic  # type: ignore[untyped-decorator]
def dot_tile(
    typing_context: Any,
    depth: Any,
    a: Any,
    a_first: Any,
    a_step: Any,
    b: Any,
    b_starts: Any,
    first_start: Any,
    b_offsets: Any,
    c: Any,
    c_first: Any,
    c_step: Any,
) -> Any:
    """Add dot products to a tile of ``c``: the same products as in `tile`, but with the vectors along the sum::

        c[c_first + m·c_step + v] += Σ_d Σ_l  a[a_first + m·a_step + d·lanes + l]
                                            · b[b_starts[first_start + v] + b_offsets[d] + l]

    over 0 ≤ d < depth and l < lanes, for m < `ROWS`, v < `VECTORS`. Each of the tile's sums is a vector of partial
    sums, one for each lane, until all is added up. Arrays are those of `tile`; depth is at least 1; nothing is checked.
    Of c, the number behind each row of the tile is loaded and stored as well, unchanged.
    """
    signature = types.void(depth, a, a_first, a_step, b, b_starts, first_start, b_offsets, c, c_first, c_step)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        depth, a, a_first, a_step, b, starts, first_start, offsets, c, c_first, c_step = arguments
        _, a_type, _, _, b_type, starts_type, _, offsets_type, c_type, _, _ = signature.args

        def vector_at(array_type: Any, array: Any, index: Any) -> Any:
            place, vector, item_bytes = vector_place(context, builder, array_type, array, index)
            return builder.load(place, typ=vector, align=item_bytes)

        element, lanes, vector, item_bytes = vector_type(context, a_type)
        a_rows = [builder.add(a_first, builder.mul(integer(m), a_step)) for m in range(ROWS)]
        starts, offsets = (
            array_data(context, builder, *table) for table in ((starts_type, starts), (offsets_type, offsets))
        )
        b_starts = [integer_at(builder, starts, builder.add(first_start, integer(v))) for v in range(VECTORS)]

        def operands(d: Any) -> tuple[Callable[[int], Any], list[Any]]:
            a_offset, b_offset = builder.mul(d, integer(lanes)), integer_at(builder, offsets, d)
            b_vectors = [vector_at(b_type, b, builder.add(start, b_offset)) for start in b_starts]
            return lambda m: vector_at(a_type, a, builder.add(a_rows[m], a_offset)), b_vectors

        sums = _accumulate(builder, depth, vector, VECTORS, operands)
        c_data = array_data(context, builder, c_type, c)
        # Rows of the tile's sums, filled up with zeros to a power of two.
        length = 1 << (VECTORS - 1).bit_length()
        columns = [sums_of_lanes(builder, sums[v::VECTORS]) for v in range(VECTORS)]
        nothing = ir.Constant(columns[0].type, [0.0] * ROWS)
        for m, row in enumerate(
            pieces(builder, interleaved(builder, columns + [nothing] * (length - VECTORS)), length)
        ):
            index = builder.add(c_first, builder.mul(integer(m), c_step))
            place = builder.bitcast(builder.gep(c_data, [index], source_etype=element), row.type.as_pointer())
            builder.store(
                builder.fadd(builder.load(place, typ=row.type, align=item_bytes), row), place, align=item_bytes
            )
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def lanes_of(typing_context: Any, array: Any) -> Any:
    """How many numbers of an array a vector has, ``VECTOR_BYTES // array.itemsize``.

    But known to the compiler, which takes an array's item size for something to be looked up and divided by.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return integer(vector_type(context, signature.args[0])[1])

    return types.int64(array), generate


def _accumulate(
    builder: ir.IRBuilder,
    depth: Any,
    vector: ir.VectorType,
    vectors: int,
    operands: Callable[[Any], tuple[Callable[[int], Any], list[Any]]],
) -> list[Any]:
    """Emit the loop ``for d in range(depth): sums[m, v] += a[m] · b[v]`` from zero, and return the sums, row by row.

    Args:
        vector: the type of a sum.
        vectors: so many to a row.
        operands: emits what step d loads; returns a function that emits row m of a, and the vectors of b.
    """
    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    d = builder.phi(ir.IntType(64))
    d.add_incoming(integer(0), before)
    sums = [builder.phi(vector) for _ in range(ROWS * vectors)]
    for total in sums:
        total.add_incoming(ir.Constant(vector, [0.0] * vector.count), before)

    a, b = operands(d)
    new_sums = []
    for m in range(ROWS):
        a_row = a(m)
        for v in range(vectors):
            # "contract" makes one fused multiply-add of the two, and allows nothing else.
            product = builder.fmul(a_row, b[v], flags=("contract",))
            new_sums.append(builder.fadd(product, sums[m * vectors + v], flags=("contract",)))
    next_d = builder.add(d, integer(1))
    d.add_incoming(next_d, loop)
    for total, new in zip(sums, new_sums, strict=True):
        total.add_incoming(new, loop)
    again = builder.cbranch(builder.icmp_signed("<", next_d, depth), loop, after)
    again.set_metadata("llvm.loop", not_unrolled(builder.module))
    builder.position_at_end(after)
    return new_sums


def vector_type(context: Any, array_type: Any) -> tuple[Any, int, Any, int]:
    """Return the type of an array's numbers, how many of them a vector has, its type, and the bytes of a number."""
    element = context.get_data_type(array_type.dtype)
    item_bytes = context.get_abi_sizeof(element)
    lanes = VECTOR_BYTES // item_bytes
    return element, lanes, ir.VectorType(element, lanes), item_bytes


def vector_place(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any) -> tuple[Any, Any, int]:
    """Return a pointer to the vector that begins at ``array[index]``, that vector's type and the bytes of a number."""
    element, _, vector, item_bytes = vector_type(context, array_type)
    place = builder.gep(array_data(context, builder, array_type, array), [index], source_etype=element)
    return builder.bitcast(place, vector.as_pointer()), vector, item_bytes
