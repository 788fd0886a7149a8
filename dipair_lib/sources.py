"""Ids and texts of a person's file, checked: Parquet a chunk at a time, others whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from . import ids as naming
from . import tasks
from .manifest import CollectionError

CHUNK = 8192  # rows of a source read at a time


def rows_of(path: Path, text: str, id: str, kind: type) -> Iterator[tuple[list[Any], list[str]]]:
    """Chunks of checked ids and texts of a file. All of its ids are checked first.

    Args:
        kind: ``int`` or ``str``, as the collection's ids are; another type where it has none yet.
    """
    if path.suffix.lower() == ".parquet" and path.is_file():  # others come whole
        name = id or ("id" if "id" in columns_of(path) else "")
        for table in tables_of(path, [name]) if name else ():
            ids_in(table, name, kind)
    for table in tables_of(path):
        name = id or ("id" if "id" in table.columns else "")
        yield ids_in(table, name, kind), tasks.texts_of(table, text or guess(table))


def ids_in(table: tasks.Table, name: str, kind: type) -> list[Any]:
    """Ids of a column, or row numbers where none is named, of a collection's kind.

    Raises:
        CollectionError: an id is of another kind.
    """
    rows = range(table.first, table.first + len(table))
    ids = naming.as_kind(tasks.ids_of(table, name) if name else rows, kind)
    if kind is int:
        bad = next((n for n, one in enumerate(ids) if type(one) is not int), None)
        if bad is not None:
            raise CollectionError(
                f"{table.path}, row {table.first + bad + 1}: id {ids[bad]!r} is a text, but the collection's ids are whole numbers: "
                "use those"
            )
    return ids


def columns_of(path: Path) -> list[str]:
    """The columns of a Parquet file; TaskError where it is none, or one of its columns occurs twice."""
    refuse_pointer(path)
    try:
        names: list[str] = pq.ParquetFile(path).schema_arrow.names  # type: ignore[no-untyped-call]
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise tasks.TaskError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise tasks.TaskError(f"{path}: column {twice!r} occurs twice; rename one")
    return names


def tables_of(path: Path, columns: list[str] | None = None) -> Iterator[tasks.Table]:
    """A file's rows: Parquet a chunk at a time, others whole. ``columns``: only these of a Parquet file."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        refuse_pointer(path)
        yield tasks.read_table(path)
        return
    names, first = columns_of(path), 0
    try:
        chosen = None if columns is None else [name for name in columns if name in names]
        for batch in pq.ParquetFile(path).iter_batches(CHUNK, columns=chosen):  # type: ignore[no-untyped-call]
            yield tasks.Table(path, {str(k): v for k, v in batch.to_pydict().items()}, None, first)
            first += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise tasks.TaskError(f"{path}: not a readable Parquet file ({error}); write it again") from error


def refuse_pointer(path: Path) -> None:
    """Raise for what Git LFS leaves in a file's place until it is fetched."""
    if os.path.isfile(path):
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise tasks.TaskError(
                    f"{path}: a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
                )


POINTER = b"version https://git-lfs.github.com/spec/"


def guess(table: tasks.Table) -> str:
    """The text column where none was named: ``text``, or the only one that is not ``id``."""
    others = [name for name in table.columns if name != "id"]
    if "text" in others:
        return "text"
    if len(others) != 1:
        raise CollectionError(
            f"{table.path}: which column holds the texts? --text one of {', '.join(others)}"
        )
    if len(table.columns) == 1 and (sign := next((one for one in ";,|\t" if one in others[0]), "")):
        raise CollectionError(
            f"{table.path}: one column, named {others[0]!r}: is it separated by {sign!r}? Write it with commas (.csv) or tabs (.tsv), or "
            "name the column with --text"
        )
    return others[0]
