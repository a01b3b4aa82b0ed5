"""A kernel's parameters, read from its C++ text.

A launch hands bytes to C++, which believes that they are what it declared: a Python int given for a ``float``, or a
float64 array for a ``float*``, computes nonsense without a word. So arguments are cast and checked by what the source
says. Parameters may be pointers to numbers, numbers, and structs of numbers; a template's type parameters are filled
in. The emulator's compiler confirms that the text was read well.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

NUMBERS = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "unsigned char": np.uint8,
    "signed char": np.int8,
    "short": np.int16,
    "unsigned short": np.uint16,
    "bool": np.bool_,
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel: ``type`` in C++, and the dtype of the number, struct or array element."""

    name: str
    type: str
    dtype: np.dtype[Any]
    pointer: bool
    const: bool

    def cast(self, value: Any) -> Any:
        """Return a number or struct as NumPy has it in memory.

        Raises:
            TypeError: not a number of this kind, or not a mapping that holds exactly the struct's fields.
            ValueError: an integer that the C++ type cannot hold.
        """
        if self.dtype.names is None:
            return _number(self.name, self.type, self.dtype, value)
        if not isinstance(value, Mapping) or value.keys() != set(self.dtype.names):
            given = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise TypeError(f"{self.name} is a {self.type}: expected a dict of {sorted(self.dtype.names)}, got {given}")
        return _struct_of(self, tuple(value[field] for field in self.dtype.names))


@lru_cache(maxsize=1024)  # a net's layers have the same sizes step after step, and this takes longer than a launch
def _struct_of(parameter: Parameter, values: tuple[Any, ...]) -> Any:
    fields = zip(parameter.dtype.names or (), values, strict=True)
    checked = [_number(f"{parameter.name}.{field}", "int", np.dtype(np.int32), value) for field, value in fields]
    return np.array(tuple(checked), parameter.dtype)


def _number(name: str, type: str, dtype: np.dtype[Any], value: Any) -> Any:
    is_number = isinstance(value, int | float | np.number | np.bool_)
    if not is_number or (dtype.kind in "iub" and isinstance(value, float | np.floating)):
        raise TypeError(f"{name} is {type}, got {value!r}")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise ValueError(f"{name} is {type}, which cannot hold {value}")
    return dtype.type(value)


def parameters(text: str, kernel: str) -> tuple[Parameter, ...]:
    """Return the parameters of ``kernel``, a name or an instantiation such as ``"conv2d<float, 64>"``, in ``text``.

    Raises:
        ValueError: no such kernel, a template without its arguments, or a parameter of another kind than those above.
    """
    text = _without_comments(text)
    name, _, given = kernel.partition("<")
    found = re.search(rf"(?:template\s*<([^>]*)>\s*)?[^;{{}}>]*__global__[^;{{}}]*?\b{name}\s*\(([^)]*)\)", text)
    if found is None:
        raise ValueError(f"there is no `__global__ void {name}(…)`")
    template, declared = found.groups()
    if template is not None and "<" not in kernel:
        raise ValueError(
            f"it is a template; name an instantiation, such as `{name}<float>` for `template <typename T>`"
        )
    types = _type_arguments(template, given.rstrip("> "))
    return tuple(_parameter(text, p.strip(), types) for p in declared.split(",") if p.strip())


def _without_comments(text: str) -> str:
    """Blank out comments, so that every other character stays where it is."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda comment: re.sub(r"[^\n]", " ", comment[0]), text, flags=re.DOTALL)


def _type_arguments(template: str | None, given: str) -> dict[str, str]:
    """Return what the type parameters of ``template`` stand for: ``typename T, int M`` and ``float, 8``: T = float."""
    if template is None:
        return {}
    types = {}
    for parameter, argument in zip(template.split(","), given.split(","), strict=False):
        kind, *name = parameter.split()
        if kind in ("typename", "class"):
            types[name[0]] = argument.strip()
    return types


def _parameter(text: str, declared: str, types: dict[str, str]) -> Parameter:
    tokens = re.findall(r"\w+|\S", declared)
    *tokens, name = [t for t in tokens if t not in ("__restrict__", "__restrict")]
    pointer, const = "*" in tokens, "const" in tokens
    base = " ".join(types.get(t, t) for t in tokens if t not in ("const", "*"))
    if base in NUMBERS:
        dtype = np.dtype(NUMBERS[base])
    elif not pointer and (struct := re.search(rf"struct\s+{re.escape(base)}\s*{{([^}}]*)}}", text)):
        dtype = _struct(base, struct[1])
    else:
        raise ValueError(f"parameter `{declared}`: expected a number, a pointer to numbers or a struct of ints")
    spelled = f"{'const ' if const else ''}{base}*" if pointer else base
    return Parameter(name, spelled, dtype, pointer, const)


def _struct(name: str, body: str) -> np.dtype[Any]:
    """Return the dtype of ``struct name { int a, b; int c; }``: ints lie one behind the other."""
    fields = []
    for line in filter(None, map(str.strip, body.split(";"))):
        if not line.startswith("int "):
            raise ValueError(f"struct {name}: `{line}`: a struct that is passed to a kernel may hold ints only")
        fields += [field.strip() for field in line.removeprefix("int ").split(",")]
    return np.dtype([(field, np.int32) for field in fields])
