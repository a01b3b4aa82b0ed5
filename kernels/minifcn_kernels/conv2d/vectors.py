"""Winograd's transforms on whole vectors: what a compiler should make of their loops, and does not.

A transform makes a few numbers of a few others, and it does so for very many tiles: with a tile in each lane of a
vector, every addition serves them all. Written as a loop over tiles, with six places to read from and six to write to,
it was compiled to a mix of vectors and single numbers, after tests of which places overlap. So `on_vectors` calls a
transform, which is an ordinary Python function, on objects that write down each addition and multiplication in LLVM's
intermediate code.

The rows of an image are taken as *quads*, four neighbours each: the outputs of one tile. `deal` and `collect` go back
and forth between quads and vectors that hold the same number of several tiles.

All arrays here are flat, of float32. Nothing is checked.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from minifcn_kernels.emit import joined, shuffle
from minifcn_kernels.tile import VECTOR_BYTES

_ITEM_BYTES = np.dtype(np.float32).itemsize
LANES = VECTOR_BYTES // _ITEM_BYTES
QUAD = 4

_INDEX, _NUMBER = ir.IntType(64), ir.FloatType()
_VECTOR, _QUAD = ir.VectorType(_NUMBER, LANES), ir.VectorType(_NUMBER, QUAD)


class _Vector:
    """A vector in a function that is being written: arithmetic with it adds instructions."""

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: "_Vector") -> "_Vector":
        # "contract" lets a product and a sum become one fused multiply-add, and allows nothing else.
        return _Vector(self.builder, self.builder.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: "_Vector") -> "_Vector":
        return _Vector(self.builder, self.builder.fsub(self.value, other.value, flags=("contract",)))

    def __neg__(self) -> "_Vector":
        return _Vector(self.builder, self.builder.fneg(self.value))

    def __rmul__(self, number: float) -> "_Vector":
        factor = ir.Constant(_VECTOR, [float(np.float32(number))] * LANES)
        return _Vector(self.builder, self.builder.fmul(factor, self.value, flags=("contract",)))


def on_vectors(function: Callable[..., tuple[Any, ...]], planes: int | None = None) -> Any:
    """Make of ``function``, from n numbers to a few others, an intrinsic that does it for a vector of each::

        apply(target, to, to_step, source, first, step)
        target[to + i·to_step + l] = function(source[first + l], …, source[first + (n − 1)·step + l])[i]    l < LANES

    If there are only so many ``planes`` to read from, the numbers behind the last are the first ones of the next tile:
    number j is source[first + j % planes·step + j // planes + l].
    """
    count = len(inspect.signature(function).parameters)

    @intrinsic  # type: ignore[untyped-decorator]  # Numba ships no types
    def apply(typing_context: Any, target: Any, to: Any, to_step: Any, source: Any, first: Any, step: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            target_at, source_at = _places(context, builder, signature, *arguments)
            numbers = []
            for j in range(count):
                tile, plane = divmod(j, planes or count)
                numbers.append(_Vector(builder, _load(builder, source_at(plane, tile), _VECTOR)))
            for i, result in enumerate(function(*numbers)):
                _store(builder, result.value, target_at(i, 0))
            return context.get_dummy_value()

        return types.void(target, to, to_step, source, first, step), generate

    return apply


@intrinsic  # type: ignore[untyped-decorator]
def deal(typing_context: Any, target: Any, to: Any, to_step: Any, source: Any, first: Any, step: Any) -> Any:
    """Deal quads out to four vectors: target[to + j·to_step + l] = source[first + l·step + j], j < QUAD, l < LANES."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target_at, source_at = _places(context, builder, signature, *arguments)
        quads = [_load(builder, source_at(lane, 0), _QUAD) for lane in range(LANES)]
        for j, vector in enumerate(_turn(builder, [joined(builder, quads[row::QUAD]) for row in range(QUAD)])):
            _store(builder, vector, target_at(j, 0))
        return context.get_dummy_value()

    return types.void(target, to, to_step, source, first, step), generate


@intrinsic  # type: ignore[untyped-decorator]
def collect(typing_context: Any, target: Any, to: Any, to_step: Any, source: Any, first: Any, step: Any) -> Any:
    """Collect quads from four vectors: target[to + l·to_step + j] = source[first + j·step + l], j < QUAD, l < LANES."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target_at, source_at = _places(context, builder, signature, *arguments)
        turned = _turn(builder, [_load(builder, source_at(j, 0), _VECTOR) for j in range(QUAD)])
        for lane in range(LANES):
            row, first_lane = turned[lane % QUAD], lane // QUAD * QUAD
            quad = shuffle(builder, row, row, range(first_lane, first_lane + QUAD))
            _store(builder, quad, target_at(lane, 0))
        return context.get_dummy_value()

    return types.void(target, to, to_step, source, first, step), generate


@intrinsic  # type: ignore[untyped-decorator]
def move_row(
    typing_context: Any, target: Any, to: Any, source: Any, first: Any, begin: Any, end: Any, count: Any
) -> Any:
    """target[to + z] = source[first + z] where begin ≤ z < end, and 0 elsewhere, for z < count, up to a whole vector.

    Nothing else of the source is read, so that the row may begin before it and end behind it.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, to, source, first, begin, end, count = arguments
        integer, none = ir.IntType(32), ir.Constant(_INDEX, 0)  # masks as wide as the numbers
        lanes = ir.Constant(ir.VectorType(integer, LANES), list(range(LANES)))
        begin, end = (_everywhere(builder, builder.trunc(number, integer)) for number in (begin, end))
        with cgutils.for_range_slice(builder, none, count, ir.Constant(_INDEX, LANES)) as (z, _):
            source_at = _along(context, builder, signature.args[2], source, builder.add(first, z), none)
            target_at = _along(context, builder, signature.args[0], target, builder.add(to, z), none)
            column = builder.add(_everywhere(builder, builder.trunc(z, integer)), lanes)
            inside = builder.and_(builder.icmp_signed("<=", begin, column), builder.icmp_signed("<", column, end))
            zeros = ir.Constant(_VECTOR, [0.0] * LANES)
            operands = source_at(0, 0), ir.Constant(integer, _ITEM_BYTES), inside, zeros
            load = ir.FunctionType(_VECTOR, [operand.type for operand in operands])
            masked_load = cgutils.get_or_insert_function(builder.module, load, f"llvm.masked.load.v{LANES}f32.p0")
            _store(builder, builder.call(masked_load, operands), target_at(0, 0))
        return context.get_dummy_value()

    return types.void(target, to, source, first, begin, end, count), generate


def _places(
    context: Any,
    builder: ir.IRBuilder,
    signature: Any,
    target: Any,
    to: Any,
    to_step: Any,
    source: Any,
    first: Any,
    step: Any,
) -> tuple[Callable[[int, int], Any], Callable[[int, int], Any]]:
    """Return `_along` the target and `_along` the source, of the six arguments that these intrinsics have."""
    target_type, _, _, source_type, _, _ = signature.args
    return (
        _along(context, builder, target_type, target, to, to_step),
        _along(context, builder, source_type, source, first, step),
    )


def _along(
    context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, first: Any, step: Any
) -> Callable[[int, int], Any]:
    """Return a function of (count, more) that points to ``array[first + count·step + more]``."""
    data = context.make_array(array_type)(context, builder, array).data

    def at(count: int, more: int) -> Any:
        index = builder.add(first, builder.mul(ir.Constant(_INDEX, count), step))
        return builder.gep(data, [builder.add(index, ir.Constant(_INDEX, more))], source_etype=_NUMBER)

    return at


def _load(builder: ir.IRBuilder, place: Any, vector: ir.VectorType) -> Any:
    return builder.load(builder.bitcast(place, vector.as_pointer()), typ=vector, align=_ITEM_BYTES)


def _store(builder: ir.IRBuilder, value: Any, place: Any) -> None:
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=_ITEM_BYTES)


def _turn(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Transpose the 4×4 numbers that quad q of four vectors make, for each q.

    In two steps that processors have instructions for: take turns between two vectors' lower or upper halves of each
    quad, first number by number, then pair by pair.
    """

    def turns(a: Any, b: Any, order: tuple[int, ...]) -> Any:
        """Choose by ``order`` from the quad of a, 0 to 3, and that of b, 4 to 7."""
        return shuffle(
            builder, a, b, [q + lane % QUAD + lane // QUAD * LANES for q in range(0, LANES, QUAD) for lane in order]
        )

    a, b, c, d = rows
    lower, upper, lower_pairs, upper_pairs = (0, 4, 1, 5), (2, 6, 3, 7), (0, 1, 4, 5), (2, 3, 6, 7)
    ab, cd = turns(a, b, lower), turns(c, d, lower)
    ab_upper, cd_upper = turns(a, b, upper), turns(c, d, upper)
    return [
        *(turns(ab, cd, lower_pairs), turns(ab, cd, upper_pairs)),
        *(turns(ab_upper, cd_upper, lower_pairs), turns(ab_upper, cd_upper, upper_pairs)),
    ]


def _everywhere(builder: ir.IRBuilder, number: Any) -> Any:
    """Return a vector with ``number`` in all lanes."""
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    alone = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return shuffle(builder, alone, undefined, [0] * LANES)
