"""The mutants of a file: one small change each, made by cosmic-ray's operators, or of an instruction of the tile's.

Not every change that the operators make says something about the tests. Left out by rule:

* annotations and aliases of types: nothing reads them when the code runs;
* decorators and their arguments: they decide how a function is stored or compiled, not what it computes;
* the ``strict`` of ``zip``: it guards what the code around it makes sure of;
* ``is`` for ``==`` and the like: the same for the None, strings and small numbers that they compare here;
* the ``*`` before arguments that have to be named: it is no product;
* an arithmetic operator for one of another kind: ``a << b`` fails on floats whatever the test, and would only flatter.
"""

import ast
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from itertools import islice
from pathlib import Path

import parso  # noqa: F401  before cosmic_ray, whose own order of imports fails
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

# An operator may become another of its kind. A power is none to become: of two sizes it takes all memory there is.
KINDS = [
    {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod"},
    {"BitAnd", "BitOr", "BitXor"},
    {"LShift", "RShift"},
]
IDENTITY = {frozenset({"Eq", "Is"}), frozenset({"NotEq", "IsNot"})}

# Instructions in LLVM's intermediate code, as the tile writes them, and what each is mistaken for.
INSTRUCTIONS = [
    ("builder.add(", "builder.sub("),
    ("builder.sub(", "builder.add("),
    ("builder.mul(", "builder.add("),
    ("builder.fmul(", "builder.fadd("),
    ("builder.fadd(", "builder.fsub("),
    ("builder.fadd(", "builder.fmul("),
    ('icmp_signed("<"', 'icmp_signed("<="'),
    ('icmp_signed("<"', 'icmp_signed(">"'),
    ("loop, after)", "after, loop)"),
    ("add_incoming(new, loop)", "add_incoming(total, loop)"),
    ("add_incoming(next_d, loop)", "add_incoming(d, loop)"),
    ("source_etype=element", "source_etype=integer"),
    ("source_etype=integer", "source_etype=element"),
    ("align=item_bytes", "align=VECTOR_BYTES"),
    ("b[v]", "b[0]"),
    ("a_places[m // ROW_GROUP]", "a_places[0]"),
    ("a_distances[m % ROW_GROUP]", "a_distances[0]"),
    ("len(decks) // 2", "1"),
    ("vector_at(c_rows[m], v)", "vector_at(c_rows[m], 0)"),
    ("vector_at(c_rows[m], v)", "vector_at(c_rows[0], v)"),
    ('flags=("contract",)', 'flags=("fast",)'),
]

Place = tuple[int, int]


@dataclass(frozen=True)
class Mutant:
    """One change: the file, the number of its line, and the line before and after."""

    file: str
    number: int
    before: str
    after: str
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}\n    - {self.before}\n    + {self.after}"


def sample(root: Path, files: list[str], size: int, seed: int) -> list[Mutant]:
    """Draw about ``size`` mutants, from every file its share of them."""
    sources = {file: (root / file).read_text(encoding="utf-8") for file in files}
    everything = {file: list(changes(file, source)) for file, source in sources.items()}
    total = sum(map(len, everything.values()))
    drawn = []
    for file, possible in everything.items():
        random.Random(f"{seed} {file}").shuffle(possible)
        mutants = filter(None, (_mutant(file, sources[file], make()) for make in possible))
        drawn += islice(mutants, -(-size * len(possible) // total))
    return drawn


def changes(file: str, source: str) -> Iterator[Callable[[], str]]:
    """Yield all changes to a file, those left out by rule excepted: functions that return the changed source."""
    without = list(_left_out(source))
    nodes = list(ast_nodes(get_ast(source)))
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments() or not _informative(name.partition("/")[2]):
            continue
        places = [(node, *place) for node in nodes for place in operator().mutation_positions(node)]
        for occurrence, (node, start, end) in enumerate(places):
            a_star = node.type == "operator" and node.parent.type == "parameters"
            if not a_star and not any(first <= start and end <= last for first, last in without):
                yield partial(mutate_code, source, operator(), occurrence)
    if file.endswith(("/tile.py", "/moves.py", "/emit.py")):
        for before, after in INSTRUCTIONS:
            for match in re.finditer(re.escape(before), source):
                yield partial(str.join, after, (source[: match.start()], source[match.end() :]))


def _informative(operator: str) -> bool:
    """Say whether the rules admit an operator of cosmic-ray's, by its name."""
    name, *swap = operator.split("_")
    if name == "ReplaceBinaryOperator":
        before, after = swap
        return any(after in kind and (before in kind or (before == "Pow" and "Add" in kind)) for kind in KINDS)
    if name == "ReplaceComparisonOperator":
        return frozenset(swap) not in IDENTITY
    return name != "RemoveDecorator"


def _left_out(source: str) -> Iterator[tuple[Place, Place]]:
    """Yield the stretches of a source that are left out by rule."""
    lines = source.splitlines()

    def place(line: int, byte: int) -> Place:
        return line, len(lines[line - 1].encode()[:byte].decode())  # Python counts bytes, parso characters

    for node in ast.walk(ast.parse(source)):
        for child in _insignificant(node):
            yield place(child.lineno, child.col_offset), place(child.end_lineno, child.end_col_offset)


def _insignificant(node: ast.AST) -> list[ast.AST]:
    match node:
        case ast.FunctionDef(decorator_list=decorators, returns=returns):
            return [*decorators, *([returns] if returns else [])]
        case ast.ClassDef(decorator_list=decorators):
            return decorators
        case ast.arg(annotation=ast.expr() as annotation):
            return [annotation]
        case ast.AnnAssign(annotation=ast.Name("TypeAlias")):
            return [node]
        case ast.AnnAssign(annotation=annotation):
            return [annotation]
        case ast.keyword(arg="strict"):
            return [node]
    return []


def _mutant(file: str, source: str, code: str) -> Mutant | None:
    """Return a mutant, or None if it is no Python."""
    try:
        ast.parse(code)
    except SyntaxError:
        return None
    before, after = source.splitlines(), code.splitlines()
    opcodes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    start, end, new_start, new_end = next(places for tag, *places in opcodes if tag != "equal")
    return Mutant(file, start + 1, _one_line(before[start:end]), _one_line(after[new_start:new_end]), code)


def _one_line(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)
