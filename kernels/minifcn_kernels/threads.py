"""A loop's units of work, shared out among Numba's threads.

Numba's own way is ``prange``. It makes a function of the loop's body, wraps that in three others, and gives all of them
to LLVM with a copy of the body in each: the largest kernel here took 15 seconds to compile so. Here a kernel is an
ordinary function, a loop over the units from ``first`` to ``last``, which is compiled once and called by its address.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.callconv import errcode_t, excinfo_ptr_t
from numba.extending import intrinsic

INT, INT32 = ir.IntType(64), ir.IntType(32)
INTS = INT.as_pointer()
POINTER = ir.IntType(8).as_pointer()
POINTERS = POINTER.as_pointer()
# What a thread pool of Numba's calls, for a range of what there is to do: with args[0] + steps[0] · first of the range,
# its length in dimensions[0], steps as they are, and data (see numba/np/ufunc/parallel.py).
SHARE = ir.FunctionType(ir.VoidType(), [POINTERS, INTS, INTS, POINTER])
# The pool itself: a SHARE, args, dimensions, steps, data, how many inner dimensions, how many args, how many threads.
POOL = ir.FunctionType(ir.VoidType(), [SHARE.as_pointer(), POINTERS, INTS, INTS, POINTER, INT, INT, INT32])
# What a compiled function says of an exception: 0, or a code and a description.
ERROR = ir.LiteralStructType([errcode_t, excinfo_ptr_t])


@intrinsic  # type: ignore[untyped-decorator]  # Numba ships no types
def share_out(typing_context: Any, work: Any, units: Any, threads: Any, arguments: Any) -> Any:
    """Call ``work(first, last, *arguments)`` in each of the threads, side by side, for equal shares of the units.

    Args:
        work: address of a compiled function that returns nothing.
        units: so many; thread t gets those from ⌊units·t/threads⌋ to ⌊units·(t + 1)/threads⌋.
        threads: as many as Numba is set to use; the pool would set it to another number.
        arguments: a tuple.

    Raises:
        Exception: one that ``work`` raised.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        error = cgutils.alloca_once(builder, ERROR)
        builder.store(ERROR(None), error)
        told = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [*values, error]))
        share = _write_share(context, builder.module, signature.args[-1].types, told.type)
        threads = values[2]

        # To the pool there are as many things to do as threads; what is at args[0] only counts them.
        count, dimensions, steps = (
            cgutils.alloca_once_value(builder, value) for value in (POINTER(None), threads, INT(1))
        )
        pool = cgutils.get_or_insert_function(builder.module, POOL, "numba_parallel_for")
        data, inner, args = builder.bitcast(told, POINTER), INT(0), INT(1)
        builder.call(pool, [share, count, dimensions, steps, data, inner, args, builder.trunc(threads, INT32)])

        code, description = cgutils.unpack_tuple(builder, builder.load(error))
        with cgutils.if_unlikely(builder, cgutils.is_not_null(builder, code)):
            status = context.call_conv._get_return_status(builder, code, description)
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(work, units, threads, arguments), generate


def _write_share(context: Any, module: Any, argument_types: Any, told_type: Any) -> Any:
    """Write the SHARE function: it finds the range of units, and the rest at ``data``, and calls ``work``."""
    share = ir.Function(module, SHARE, module.get_unique_name("share"))
    share.linkage = "internal"
    args, dimensions, _, data = share.args
    builder = ir.IRBuilder(share.append_basic_block())
    told = builder.load(builder.bitcast(data, told_type))
    work, units, threads, arguments, error = cgutils.unpack_tuple(builder, told)

    part = builder.ptrtoint(builder.load(args), INT)
    next_part = builder.add(part, builder.load(dimensions))
    first, last = (builder.sdiv(builder.mul(units, t), threads) for t in (part, next_part))
    all_types = (types.int64, types.int64, *argument_types)
    function = builder.inttoptr(work, context.call_conv.get_function_type(types.void, all_types).as_pointer())
    all_arguments = (first, last, *cgutils.unpack_tuple(builder, arguments, len(argument_types)))
    status, _ = context.call_conv.call_function(builder, function, types.void, all_types, all_arguments)

    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(cgutils.pack_struct(builder, [status.code, status.excinfoptr]), error)
    builder.ret_void()
    return share
