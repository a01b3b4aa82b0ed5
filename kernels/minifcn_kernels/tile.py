"""The register tile: a small matrix product that never leaves the processor's registers.

Every fast convolution here is a sum of products  c[m, v] += Σ_d a[m, d] · b[d, v],  and the processor can multiply
faster than it can load. The remedy is to keep a tile of c in registers while d runs: each step loads one column of
a (`ROWS` numbers) and one row of b (`VECTORS` vectors) and does ROWS · VECTORS multiply-adds with them.

How large? A step of R rows and V vectors needs R·V registers for c, V for b and 1 for the number of a that is being
multiplied. V = 3 keeps enough independent sums in flight to hide a multiply-add's latency, and R is the largest
power of two that fits: 4 in 16 registers (AVX2), 8 in 32 (AVX-512, NEON).

There are two of them. `tile` is the one just described; `dot_tile` multiplies vectors by vectors, for a product whose
long sum runs along the memory. Two helpers bring what they read into place: `move_vector` and `interleave`.

No compiler makes this from loops reliably, so this file, and this file alone, writes LLVM's intermediate code.
"""

import platform
from collections.abc import Mapping
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


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


@intrinsic  # type: ignore[untyped-decorator]  # Numba ships no types
def tile(
    typing_context: Any,
    depth: Any,
    rows: Any,
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
) -> Any:
    """Add a product to a tile of ``c``, ``c[m, v] += Σ_d a[m, d] · b[d, v]``, whose operands lie scattered in memory::

        c[c_first + m·c_step + v·lanes + l] += Σ_d  a[a_first + m·a_step + a_offsets[d]]
                                                  · b[b_starts[first_start + v] + b_offsets[d] + l]

    over 0 ≤ d < depth, for m < `ROWS`, v < `VECTORS`, l < lanes = `VECTOR_BYTES` / itemsize. So every vector of b's
    row comes from a place of its own. The arrays are flat: a, b and c of one float dtype, starts and offsets int64.

    ``depth`` and ``rows`` are at least 1. If ``rows`` is below `ROWS`, the rows of a from there on are not read, and
    those rows of c receive numbers without meaning: c always needs room for a whole tile. Nothing is checked.
    """
    signature = types.void(
        depth, rows, a, a_first, a_step, a_offsets, b, b_starts, first_start, b_offsets, c, c_first, c_step
    )
    integer = ir.IntType(64)

    def constant(value: int) -> ir.Constant:
        return ir.Constant(integer, value)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        def pointer(position: int) -> Any:
            array = context.make_array(signature.args[position])(context, builder, arguments[position])
            return array.data

        element = context.get_data_type(signature.args[2].dtype)
        item_bytes = context.get_abi_sizeof(element)
        lanes = VECTOR_BYTES // item_bytes
        vector = ir.VectorType(element, lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        first_lane_everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        depth, rows, _, a_first, a_step, _, _, _, first_start, _, _, c_first, c_step = arguments

        def advance(base: Any, count: Any) -> Any:
            return builder.gep(base, [count], source_etype=element)

        def integer_at(base: Any, index: Any) -> Any:
            return builder.load(builder.gep(base, [index], source_etype=integer), typ=integer)

        def vector_at(base: Any, v: int) -> Any:
            return builder.bitcast(advance(base, constant(v * lanes)), vector.as_pointer())

        # Where the rows of a and of c begin. Rows of a beyond the last repeat the last.
        last_row = builder.sub(rows, constant(1))
        a_rows, c_rows = [], []
        for m in range(ROWS):
            inside = builder.icmp_signed("<", constant(m), last_row)
            row = builder.select(inside, constant(m), last_row)
            a_rows.append(advance(pointer(2), builder.add(a_first, builder.mul(row, a_step))))
            c_rows.append(advance(pointer(10), builder.add(c_first, builder.mul(constant(m), c_step))))
        a_offsets, b_offsets = pointer(5), pointer(9)
        b_starts = [
            advance(pointer(6), integer_at(pointer(7), builder.add(first_start, constant(v)))) for v in range(VECTORS)
        ]
        tile_positions = [(m, v) for m in range(ROWS) for v in range(VECTORS)]
        start = [builder.load(vector_at(c_rows[m], v), typ=vector, align=item_bytes) for m, v in tile_positions]

        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        d = builder.phi(integer)
        d.add_incoming(constant(0), before)
        sums = [builder.phi(vector) for _ in tile_positions]
        for total, first in zip(sums, start, strict=True):
            total.add_incoming(first, before)

        a_offset, b_offset = integer_at(a_offsets, d), integer_at(b_offsets, d)
        b_vectors = [
            builder.load(vector_at(advance(start, b_offset), 0), typ=vector, align=item_bytes) for start in b_starts
        ]
        new_sums = []
        for m in range(ROWS):
            number = builder.load(advance(a_rows[m], a_offset), typ=element)
            alone = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
            everywhere = builder.shuffle_vector(alone, undefined, first_lane_everywhere)
            for v in range(VECTORS):
                # "contract" makes one fused multiply-add of the two, and allows nothing else.
                product = builder.fmul(everywhere, b_vectors[v], flags=("contract",))
                new_sums.append(builder.fadd(product, sums[m * VECTORS + v], flags=("contract",)))
        next_d = builder.add(d, constant(1))
        d.add_incoming(next_d, loop)
        for total, new in zip(sums, new_sums, strict=True):
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", next_d, depth), loop, after)

        builder.position_at_end(after)
        for (m, v), new in zip(tile_positions, new_sums, strict=True):
            builder.store(new, vector_at(c_rows[m], v), align=item_bytes)
        return context.get_dummy_value()

    return signature, generate


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
    """
    signature = types.void(depth, a, a_first, a_step, b, b_starts, first_start, b_offsets, c, c_first, c_step)
    integer = ir.IntType(64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        depth, a, a_first, a_step, b, starts, first_start, offsets, c, c_first, c_step = arguments
        _, a_type, _, _, b_type, starts_type, _, offsets_type, c_type, _, _ = signature.args

        def constant(value: int) -> ir.Constant:
            return ir.Constant(integer, value)

        def vector_at(array_type: Any, array: Any, index: Any) -> Any:
            place, vector, item_bytes = _place(context, builder, array_type, array, index)
            return builder.load(place, typ=vector, align=item_bytes)

        def integer_at(array_type: Any, array: Any, index: Any) -> Any:
            data = context.make_array(array_type)(context, builder, array).data
            return builder.load(builder.gep(data, [index], source_etype=integer), typ=integer)

        element = context.get_data_type(a_type.dtype)
        lanes = VECTOR_BYTES // context.get_abi_sizeof(element)
        vector = ir.VectorType(element, lanes)
        zero = ir.Constant(vector, [0.0] * lanes)
        a_rows = [builder.add(a_first, builder.mul(constant(m), a_step)) for m in range(ROWS)]
        b_starts = [integer_at(starts_type, starts, builder.add(first_start, constant(v))) for v in range(VECTORS)]

        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        d = builder.phi(integer)
        d.add_incoming(constant(0), before)
        sums = [builder.phi(vector) for _ in range(ROWS * VECTORS)]
        for total in sums:
            total.add_incoming(zero, before)
        b_offset, a_offset = integer_at(offsets_type, offsets, d), builder.mul(d, constant(lanes))
        b_vectors = [vector_at(b_type, b, builder.add(start, b_offset)) for start in b_starts]
        new_sums = []
        for m in range(ROWS):
            a_vector = vector_at(a_type, a, builder.add(a_rows[m], a_offset))
            for v in range(VECTORS):
                product = builder.fmul(a_vector, b_vectors[v], flags=("contract",))
                new_sums.append(builder.fadd(product, sums[m * VECTORS + v], flags=("contract",)))
        next_d = builder.add(d, constant(1))
        d.add_incoming(next_d, loop)
        for total, new in zip(sums, new_sums, strict=True):
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", next_d, depth), loop, after)

        builder.position_at_end(after)
        c_data = context.make_array(c_type)(context, builder, c).data
        for m in range(ROWS):
            row = builder.add(c_first, builder.mul(constant(m), c_step))
            for v in range(VECTORS):
                place = builder.gep(c_data, [builder.add(row, constant(v))], source_etype=element)
                total = _sum_of_lanes(builder, new_sums[m * VECTORS + v])
                builder.store(builder.fadd(builder.load(place, typ=element), total), place)
        return context.get_dummy_value()

    return signature, generate


def _sum_of_lanes(builder: ir.IRBuilder, vector: Any) -> Any:
    """Add the upper half of a vector to the lower until a single number is left."""
    index = ir.IntType(32)
    while vector.type.count > 1:
        half = vector.type.count // 2
        lower, upper = (
            builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(index, half), list(lanes)))
            for lanes in (range(half), range(half, 2 * half))
        )
        vector = builder.fadd(lower, upper)
    return builder.extract_element(vector, ir.Constant(index, 0))


@intrinsic  # type: ignore[untyped-decorator]
def move_vector(typing_context: Any, target: Any, to: Any, source: Any, first: Any) -> Any:
    """target[to + l] = source[first + l] for l < lanes, of two flat arrays of one float dtype. Nothing is checked."""
    signature = types.void(target, to, source, first)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, to, _, first = arguments
        target, vector, item_bytes = _place(context, builder, signature.args[0], arguments[0], to)
        source, _, _ = _place(context, builder, signature.args[2], arguments[2], first)
        builder.store(builder.load(source, typ=vector, align=item_bytes), target, align=item_bytes)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def interleave(typing_context: Any, target: Any, to: Any, source: Any, first: Any, step: Any) -> Any:
    """target[to + l·ROWS + m] = source[first + m·step + l] for l < lanes, m < `ROWS`: columns of a tile's left side.

    Two flat arrays of one float dtype. Nothing is checked.
    """
    signature = types.void(target, to, source, first, step)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, to, _, first, step = arguments
        rows = []
        for m in range(ROWS):
            row = builder.add(first, builder.mul(ir.Constant(ir.IntType(64), m), step))
            place, vector, item_bytes = _place(context, builder, signature.args[2], arguments[2], row)
            rows.append(builder.load(place, typ=vector, align=item_bytes))
        # Shuffle like a deck of cards, half with half, until a single vector as long as all is left.
        while len(rows) > 1:
            half, length = len(rows) // 2, rows[0].type.count
            order = [card for first in range(length) for card in (first, length + first)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), 2 * length), order)
            rows = [builder.shuffle_vector(rows[m], rows[m + half], mask) for m in range(half)]
        place, _, item_bytes = _place(context, builder, signature.args[0], arguments[0], to)
        builder.store(rows[0], builder.bitcast(place, rows[0].type.as_pointer()), align=item_bytes)
        return context.get_dummy_value()

    return signature, generate


def _place(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any) -> tuple[Any, Any, int]:
    """Return a pointer to the vector that begins at ``array[index]``, that vector's type and the bytes of a number."""
    element = context.get_data_type(array_type.dtype)
    item_bytes = context.get_abi_sizeof(element)
    vector = ir.VectorType(element, VECTOR_BYTES // item_bytes)
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index], source_etype=element), vector.as_pointer()), vector, item_bytes
