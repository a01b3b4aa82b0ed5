"""The register tile: a small matrix product that never leaves the processor's registers.

Every fast convolution here is a sum of products  c[m, v] += Σ_d a[m, d] · b[d, v],  and the processor can multiply
faster than it can load. The remedy is to keep a tile of c in registers while d runs: each step loads one column of
a (`ROWS` numbers) and one row of b (`VECTORS` vectors) and does ROWS · VECTORS multiply-adds with them.

How large? A step of R rows and V vectors needs R·V registers for c, V for b and 1 for the number of a that is being
multiplied. V = 3 keeps enough independent sums in flight to hide a multiply-add's latency, and R is the largest
power of two that fits: 4 in 16 registers (AVX2), 8 in 32 (AVX-512, NEON).

No compiler makes this from loops reliably, so this file, and this file alone, writes LLVM's intermediate code.
"""

import platform
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


def _vector_unit() -> tuple[int, int]:
    """Return the bytes in a vector register and the number of such registers."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return 16, 32  # NEON
    # A CPU named by NUMBA_CPU_NAME is taken to have AVX2; what it lacks, LLVM puts together from smaller vectors.
    host = not numba.config.CPU_NAME
    if host and llvmlite.binding.get_host_cpu_features().get("avx512f"):
        return 64, 32
    return 32, 16  # AVX2


VECTOR_BYTES, _REGISTERS = _vector_unit()
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
