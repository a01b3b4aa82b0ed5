"""Reading files of named arrays: safetensors and NPZ. Nothing is ever unpickled, so a file cannot run code.

A safetensors file is a header and, behind it, the arrays' bytes::

    8 bytes                 n, the length of the header, little-endian
    n bytes                 JSON: {"conv1.weight": {"dtype": "F32", "shape": [64, 3, 3, 3],
                                                    "data_offsets": [begin, end]}, …, "__metadata__": {…}}
    the rest                data; offsets count from its first byte

The arrays are views of the file, mapped into memory: a page is read when it is looked at. The format has no checksum;
a file that was altered on the way is recognised only where its structure suffers.
"""

import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from minifcn_kernels.jit import Array

_DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
_LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
_CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    'save_file({k: v.contiguous() for k, v in torch.load(sys.argv[1], weights_only=True).items()}, sys.argv[2])" '
    "weights.pth weights.safetensors"
)


class WeightsError(ValueError):
    """A file of weights cannot be read, or is of another net; the message names the file and the remedy."""


def read(path: str | Path) -> dict[str, Array]:
    """Return the arrays of a safetensors or NPZ file by name, read-only or not, in the precision they are stored in.

    The first bytes tell the format, whatever the file is called.

    Raises:
        WeightsError: the file is missing, damaged, of another format (a pickle, say), or holds something that is no
            array of floats.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            beginning = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if beginning.startswith(b"PK"):
        return _read_npz(path)
    if beginning[8:] == b"{":
        return _read_safetensors(path)
    raise WeightsError(
        f"{path}: is neither safetensors nor NPZ. Pickled weights (.pth, .pt, .pkl) are not read, since a pickle may "
        f"run any code; where you trust them, convert them: {_CONVERT}"
    )


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            foreign = [name for name in archive.namelist() if not name.endswith(".npy")]
            if foreign:
                raise WeightsError(
                    f"{path}: is a zip that holds {foreign[0]}, which is no array; PyTorch's own files are such zips, "
                    f"with a pickle inside, and are not read; where you trust them, convert them: {_CONVERT}"
                )
            arrays = {}
            for name in archive.namelist():
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    except WeightsError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError, MemoryError) as error:
        raise WeightsError(f"{path}: is damaged or holds no plain arrays ({error}); save or get it again") from error
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise WeightsError(f"{path}: {name} must hold floats, got {array.dtype}; save weights only")
    return arrays


def _read_safetensors(path: Path) -> dict[str, Array]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _LARGEST_HEADER):
            raise WeightsError(f"{path}: is cut off or damaged, its header should have {length} bytes; get it again")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or brackets within brackets without end
            raise WeightsError(f"{path}: has a damaged header ({error}); get it again") from error
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.zeros(0, np.uint8)
    header.pop("__metadata__", None)
    return {name: _view(path, name, entry, data) for name, entry in header.items()}


def _view(path: Path, name: str, entry: Any, data: Array) -> Array:
    """Return one array as a view of the file's ``data``, after checking what the header says of it."""
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if all(
            isinstance(side, int) and side >= 0 for side in shape
        ):
            pass
        case _:
            raise WeightsError(f"{path}: the header's entry {name} is damaged: {entry!r}; get the file again")
    if kind not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise WeightsError(f"{path}: {name} is of dtype {kind}; only {known} are read, convert it (`.float()`)")
    dtype = np.dtype(_DTYPES[kind])
    if not (0 <= begin <= end <= data.size and end - begin == math.prod(shape) * dtype.itemsize):
        raise WeightsError(
            f"{path}: {name}, of shape {tuple(shape)} and dtype {kind}, does not fit the bytes {begin} … {end} of "
            f"{data.size}; the file is cut off or damaged, get it again"
        )
    # The format is little-endian; it does not align what it holds, NumPy's views need not be aligned either.
    return np.ndarray(tuple(shape), dtype.newbyteorder("<"), data[begin:end].data)
