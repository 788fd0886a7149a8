"""Ids and texts of a person's file, checked: Parquet a chunk at a time, others whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dipair_lib.data import task
from dipair_lib.data.table import Table, texts_of
from dipair_lib.data.tables import chunks
from dipair_lib.scoring import ids as naming
from dipair_lib.scoring.manifest import CollectionError

CHUNK = 8192  # rows of a source read at a time


def rows_of(path: Path, text: str, id: str, kind: type) -> Iterator[tuple[list[Any], list[str]]]:
    """Chunks of checked ids and texts of a file. All ids of a Parquet file are checked first; others come
    whole.

    Args:
        kind: ``int`` or ``str``, as the collection's ids are; another type where it has none yet.
    """
    by_chunks = path.is_dir() or path.suffix.lower() == ".parquet"
    for table in chunks(path, CHUNK, only=[id or "id"]) if by_chunks else ():
        if id or "id" in table.columns:
            ids_in(table, id or "id", kind)
    for table in chunks(path, CHUNK):
        for said in table.said:
            warnings.warn(f"{table.path}: {said}", stacklevel=2)
        name = id or ("id" if "id" in table.columns else "")
        yield ids_in(table, name, kind), texts_of(table, text or guess(table))


def ids_in(table: Table, name: str, kind: type) -> list[Any]:
    """Ids of a column, or row numbers where none is named, of a collection's kind.

    Raises:
        CollectionError: an id is of another kind.
    """
    rows = range(table.first, table.first + len(table))
    ids = naming.as_kind(task.ids_of(table, name) if name else rows, kind)
    if kind is int:
        bad = next((n for n, one in enumerate(ids) if type(one) is not int), None)
        if bad is not None:
            raise CollectionError(
                f"{table.path}, row {table.first + bad + 1}: id {ids[bad]!r} is a text, but the collection's ids are whole numbers: "
                "use those"
            )
    return ids


def guess(table: Table) -> str:
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
