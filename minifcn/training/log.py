"""The run's diary, ``metrics.jsonl``: one JSON object per line and step, to be read by people and programs alike.

::

    {"step": 20, "loss": 0.81, "gradient_norm": 2.3, "images_per_second": 61.5}
    {"step": 20, "pixel_accuracy": 0.9, "mean_accuracy": 0.6, "mean_iu": 0.5, "frequency_weighted_iu": 0.8}

The first kind is written after every step, the second after every evaluation. A training that was stopped and
resumed leaves the file that it would have left without the stop, but for what depends on the clock
(``images_per_second``).
"""

import json
import os
from pathlib import Path
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]


def append(path: Path, record: Record) -> None:
    """Add one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[Record]:
    """Return the records of the file, none if there is no file; a line cut off by a power failure is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def rewind(path: Path, step: int) -> list[Record]:
    """Cut the file back to what it held after ``step`` steps, at one stroke, and return its records.

    Raises:
        ValueError: the file holds something else; it is left alone.
    """
    records = read(path)
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ValueError(f"{path}: holds {record!r}, which no training wrote; move the file away")
    records = [record for record in records if record["step"] <= step]
    unfinished = path.with_name("metrics.unfinished")
    unfinished.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    os.replace(unfinished, path)
    return records


def sync(path: Path) -> None:
    """Force the file to the disk, before a checkpoint that relies on its lines."""
    with path.open("a") as file:
        os.fsync(file.fileno())
