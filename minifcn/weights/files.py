"""Reading files of named arrays: safetensors and NPZ. Nothing is ever unpickled, so a file cannot run code.

Both formats are read by those who keep them: NPZ by NumPy, safetensors by the package of that name, which needs no
other one and checks all that a file's header claims. The latter has no checksum; a file that was altered on the way is
recognised only where its structure suffers.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from minifcn_kernels.jit import Array

_FLOATS = ("F16", "F32", "F64")  # as safetensors calls what NumPy has, too
_CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    'save_file({k: v.contiguous() for k, v in torch.load(sys.argv[1], weights_only=True).items()}, sys.argv[2])" '
    "weights.pth weights.safetensors"
)


class WeightsError(ValueError):
    """A file of weights cannot be read, or is of another net; the message names the file and the remedy."""


def read(path: str | Path) -> dict[str, Array]:
    """Return the arrays of a safetensors or NPZ file by name, in the precision they are stored in.

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
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  # the file is no mapping
                kind = file.get_slice(name).get_dtype()
                if kind not in _FLOATS:
                    known = ", ".join(_FLOATS)
                    raise WeightsError(
                        f"{path}: {name} is of dtype {kind}; only {known} are read, convert it (`.float()`)"
                    )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path}: is cut off or damaged ({error}); get it again") from error
