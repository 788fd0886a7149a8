"""What a source built once: tables as Parquet, and notes with their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from dipair_lib.data.files import TaskError
from dipair_lib.system import disk, machine

Say = Callable[[str], None]  # told one line of progress


def snapshot(
    folder: Path, name: str, key: str, which: str, build: Callable[[], None], kept: str = "kept"
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One of the tables under a key, and the notes; of several that ask at once one builds them, only if they
    are not there.

    Args:
        build: calls ``write`` with the same folder, name and key.
        kept: how it would have been stored, for the message.

    Raises:
        TaskError: the folder cannot be written, or gives back something else.
    """
    try:
        with machine.locked(folder / name):
            found = read(folder, name, key, which)
            if found is None:
                build()
                found = read(folder, name, key, which)
    except OSError as error:
        raise TaskError(
            f"{folder}: {name} cannot be {kept} ({error}); set DIPAIR_CACHE to a writable folder"
        ) from error
    if found is None:
        raise TaskError(f"{folder}: {name} cannot be read back after building; is the disk full or failing?")
    return found


def write(folder: Path, name: str, key: str, tables: dict[str, pd.DataFrame], notes: dict[str, Any]) -> None:
    """The tables, each with its hash in the notes, and last the notes, which make them valid."""
    sums = {}
    for which, table in tables.items():
        with disk.replacing(folder / f"{name}-{key}.{which}.parquet") as part:
            table.to_parquet(part, index=False)
            sums[which] = hashlib.sha256(part.read_bytes()).hexdigest()
    with disk.replacing(folder / f"{name}-{key}.json") as part:
        text = json.dumps(notes | {"sha256": sums}, indent=1, ensure_ascii=False)
        part.write_text(text, encoding="utf-8")


def read(folder: Path, name: str, key: str, which: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Table and notes, or None if they are not there or not what was written."""
    table, notes_path = folder / f"{name}-{key}.{which}.parquet", folder / f"{name}-{key}.json"
    if not (table.is_file() and notes_path.is_file()):
        return None
    try:
        notes = json.loads(notes_path.read_text(encoding="utf-8"))
        if hashlib.sha256(table.read_bytes()).hexdigest() != notes.pop("sha256")[which]:
            return None
        return pd.read_parquet(table), notes
    except (ValueError, KeyError):
        return None
