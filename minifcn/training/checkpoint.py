"""Checkpoints that are either whole or recognised as not whole, and are never lost on the way.

A checkpoint is an NPZ file (a zip of .npy arrays, readable with ``numpy.load``) plus ``meta.json``:

    checkpoint-00000123.npz
        model/conv1.weight.npy ...      one member per array
        meta.json                       epoch, step, description of the net, ...
        zip comment                     SHA-256 of every byte before it, in hexadecimal

The comment is the end of a zip file, so the checksum covers all else: headers, names, lengths and data.

It is written beside its place, forced to the disk, and only then given its name, which a POSIX file system
does at one stroke. A process killed at any moment leaves the old file or the new one, never half of one.

Nothing is compressed. Trained weights are noise to a compressor: deflate makes them 7 % smaller at about
20 MB/s, where a disk takes hundreds. Nothing is pickled either: a checkpoint from a stranger runs no code.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_META = "meta.json"
_NAME = re.compile(r"checkpoint-(\d{8,})\.npz")
_UNFINISHED = "checkpoint.unfinished"  # one name for all steps, so that a save overwrites what a kill left
_DIGEST_SIZE = 2 * hashlib.sha256().digest_size  # two hexadecimal digits per byte
_CHUNK = 1 << 20


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another training; the message names the file and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`save` was given, and the file that it came from."""

    arrays: dict[str, Array]
    meta: dict[str, Any]
    path: Path


def save(folder: Path | str, step: int, arrays: Mapping[str, Array], meta: Mapping[str, Any], keep: int = 2) -> Path:
    """Write ``checkpoint-<step>.npz`` into ``folder`` (made if absent) and return its path.

    ``arrays`` maps names to arrays of any shape, layout and dtype but object; ``meta`` is anything JSON can
    hold (tuples come back as lists). Equal content gives equal bytes, whatever the order of the names.

    Once the new file is safe, of it and the earlier steps only the last ``keep`` stay. Files of later steps
    are not touched: they belong to a run that was rolled back, and saving their step again replaces them.
    One training at a time may write into a folder.

    Raises ``ValueError`` for a negative step or ``keep`` below 1, ``TypeError`` for an object array or a
    ``meta`` that is not JSON, ``OSError`` if the disk is full or read-only; then the folder is as it was.
    """
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    if keep < 1:
        raise ValueError(f"keep must be at least 1 (the checkpoint just saved), got {keep}")
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"arrays[{name!r}] has dtype {array.dtype}, which only pickle could save")
    try:
        encoded_meta = json.dumps(meta, sort_keys=True)
    except TypeError as error:
        raise TypeError(f"meta must be plain JSON, no arrays or NumPy scalars: {error}") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, unfinished = folder / f"checkpoint-{step:08d}.npz", folder / _UNFINISHED
    try:
        with unfinished.open("w+b") as file:
            _write(file, arrays, encoded_meta)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)  # after an error; once it is renamed there is nothing to remove
    _fsync_folder(folder)
    earlier = [old for old in checkpoints(folder) if _step(old) <= step]
    for old in earlier[keep:]:
        old.unlink()
    return path


def load(path: Path | str) -> Checkpoint:
    """Read one checkpoint and verify its checksum, before anything in it is interpreted.

    Raises :class:`CheckpointError` if the file cannot be read, is damaged, or is no checkpoint at all.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = max(0, file.seek(0, os.SEEK_END) - _DIGEST_SIZE)
            if _sha256(file, length) != file.read():
                raise CheckpointError(
                    f"{path} is damaged or no checkpoint (its checksum is wrong): "
                    "use an earlier checkpoint, or train again"
                )
            return Checkpoint(*_read(file), path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): check the path and its permissions"
        ) from error


def latest(folder: Path | str) -> tuple[Checkpoint, list[str]]:
    """Return the newest sound checkpoint of ``folder``, and a message for every newer one that is damaged.

    The caller owns the terminal and should print the messages: the training goes on from an earlier step
    than its user believes. Raises :class:`CheckpointError` if there is no sound checkpoint.
    """
    skipped: list[str] = []
    for path in checkpoints(folder):
        try:
            return load(path), skipped
        except CheckpointError as error:
            skipped.append(f"skipped: {error}")
    if skipped:
        raise CheckpointError(f"{folder} has no sound checkpoint left, train again: {'; '.join(skipped)}")
    raise CheckpointError(f"{folder} holds no checkpoint-*.npz: name a training's folder, or train first")


def checkpoints(folder: Path | str) -> list[Path]:
    """Return the checkpoint files of ``folder``, the newest step first; none if the folder is absent."""
    found = [path for path in Path(folder).glob("*.npz") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("checkpoint-"))


def _write(file: BinaryIO, arrays: Mapping[str, Array], meta: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in sorted(arrays.items()):
            # ZipInfo without a date means 1980: no clock in the bytes. Zip64 admits arrays above 2 GiB.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                # order="C", because equal arrays must give equal bytes; ascontiguousarray would make 0-d 1-d.
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
        archive.writestr(zipfile.ZipInfo(_META), meta)
        archive.comment = b"0" * _DIGEST_SIZE  # reserves the place of the checksum
    length = file.tell() - _DIGEST_SIZE
    checksum = _sha256(file, length)
    file.seek(length)
    file.write(checksum)


def _read(file: BinaryIO) -> tuple[dict[str, Array], dict[str, Any]]:
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name != _META:
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
        return arrays, json.loads(archive.read(_META))


def _sha256(file: BinaryIO, length: int) -> bytes:
    """Return the checksum of the first ``length`` bytes in hexadecimal, and leave the file at their end."""
    checksum = hashlib.sha256()
    file.seek(0)
    while length > 0 and (chunk := file.read(min(length, _CHUNK))):
        checksum.update(chunk)
        length -= len(chunk)
    return checksum.hexdigest().encode()


def _fsync_folder(folder: Path) -> None:
    """Force the new name itself to the disk: a file's own fsync does not cover the folder that lists it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
