"""`trace`: the graph behind a tensor as a table, to see what backward will walk through."""

import sys
from collections.abc import Mapping

from minifcn.tensor import Function, Node, Tensor, topological_order


def trace(tensor: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """Write the graph that ``tensor`` was made by to the standard output, and return the same text.

    Every leaf and every function is a line: its name, the shape and the dtype of its output, and the lines that its
    inputs come from. ``trace((x * w + x).sum(), {"x": x, "w": w})`` shows::

        1  leaf x  (3,)  float32
        2  leaf w  (3,)  float32
        3  Mul     (3,)  float32  ← 1, 2
        4  Add     (3,)  float32  ← 3, 1
        5  Sum     ()    float32  ← 4

    A function stands below everything it uses; backward visits the lines from the last to the first. An input that
    no gradient flows to is no line, only ``constant`` and its shape. Of a function that backward has walked through
    nothing is left but its name.

    Args:
        tensor: usually a loss.
        names: what to call leaves, such as ``dict(net.named_parameters())``.
    """
    leaf_names = {leaf: name for name, leaf in (names or {}).items()}
    root: Node = tensor._creator or tensor
    lines: dict[Node, int] = {}
    for function in topological_order(root):
        for node in (*function.inputs, function):
            if node is not None:
                lines.setdefault(node, len(lines) + 1)
    lines.setdefault(root, 1)  # a leaf has no function above it

    rows = []
    for node, line in lines.items():
        if isinstance(node, Function):
            rows.append((str(line), type(node).__name__, *_function_cells(node, lines)))
        else:
            leaf = f"leaf {leaf_names.get(node, '')}".rstrip()
            rows.append((str(line), leaf, str(node.shape), str(node.dtype), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )
    sys.stdout.write(text)
    return text


def _function_cells(function: Function, lines: Mapping[Node, int]) -> tuple[str, str, str]:
    """Return output shape, dtype and where the inputs come from."""
    if function.released:
        return "freed by backward", "", ""
    sources = [
        f"constant {shape}" if node is None else str(lines[node])
        for node, shape in zip(function.inputs, function._shapes, strict=True)
        if shape is not None  # an input left out, such as a bias
    ]
    return str(function._shape), str(function._dtype), f"← {', '.join(sources)}"
