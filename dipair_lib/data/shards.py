"""A folder as one table, as Spark and others write it: which files are its parts, and whether one is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dipair_lib.data import files
from dipair_lib.data.files import TaskError

HELPERS = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "config.json",
    "metadata.json",
)


def natural(path: Path) -> list[Any]:
    """A key by which train_10 comes after train_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name.lower())]


def is_data_file(path: Path) -> bool:
    """Whether a file is a table by its name, and no helper beside one."""
    return (
        path.is_file()
        and not path.name.startswith((".", "_"))
        and path.name.lower() not in HELPERS
        and (
            bool(files.suffix_of(path.name)) or path.name.startswith("part-") or path.suffix.lower() == ".zip"
        )
    )


def is_sharded(path: Path) -> bool:
    """Whether a folder is one table as Spark and others write it: part files, a mark of success, or a suffix
    of a table's.
    """
    return path.is_dir() and (
        bool(files.suffix_of(path.name)) or (path / "_SUCCESS").exists() or any(path.glob("part-*"))
    )


def shards_of(folder: Path) -> list[Path]:
    """The files of one table in a folder, in the order of their numbers.

    Raises:
        TaskError: none, files of several formats, partitions, or a number that is missing.
    """
    entries = list(folder.iterdir())
    partitions = [path.name for path in entries if path.is_dir() and "=" in path.name]
    if partitions:
        raise TaskError(
            f"{folder}: partitioned ({partitions[0]}, ...): columns in folders' names would be lost; write it unpartitioned"
        )
    found = sorted(filter(is_data_file, entries), key=natural)
    formats = dict.fromkeys(files.suffix_of(path.name) for path in found)
    if len(formats) != 1:
        what = f"files of several formats ({', '.join(formats)})" if formats else "no file of a table"
        raise TaskError(f"{folder}: {what} in it; expected the parts of one")
    check_whole(found)
    return found


def check_whole(paths: Sequence[Path]) -> None:
    """Raise if of files named ``...-00000-of-00002`` one is missing or there twice."""
    numbers: dict[int, list[int]] = {}
    for path in paths:
        told = re.search(r"(\d+)-of-(\d+)", path.name)
        if told:
            numbers.setdefault(int(told[2]), []).append(int(told[1]))
    for total, there in numbers.items():
        missing = sorted(set(range(total)) - set(there))
        if missing and sorted(there) != list(range(1, total + 1)):
            raise TaskError(
                f"{paths[0].parent}: of {total} parts like {paths[0].name}, number {missing[0]} is missing; fetch it, too"
            )
