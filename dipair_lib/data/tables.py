"""One reader of tables as people have them: a file told by its content, or a folder of shards, to named
columns of raw cells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dipair_lib.data import delimited, files
from dipair_lib.data.cells import cells_table
from dipair_lib.data.delimited import Row, is_blank
from dipair_lib.data.files import TaskError
from dipair_lib.data.objects import json_table
from dipair_lib.data.shards import shards_of
from dipair_lib.data.table import Table, refuse_twice


def read_table(path: Path, malformed: list[int] | None = None, asked: Sequence[str] = ()) -> Table:
    """Read one file of `files.FORMATS`, packed or not, or a folder of shards.

    Args:
        path: told by its content where its name says another thing.
        malformed: a list to put the lines of rows into that have a wrong number of cells; they are then left
            out, and the quotes of tab-separated text are characters. Without a list such a row is an error.
        asked: names of columns that are looked for: a first line that holds them is a header.

    Raises:
        TaskError: a file that is missing, empty, without rows, malformed, of no text encoding, or no table.
    """
    if path.is_dir():
        return joined(path, [read_table(shard, malformed, asked) for shard in shards_of(path)])
    data, suffix = files.contents(path)
    if data.startswith(b"PAR1") or suffix == ".parquet":
        return parquet_table(path, data)
    if data.startswith((b"ARROW1\0\0", b"\xff\xff\xff\xff")):
        return arrow_table(path, data)
    if data.startswith(files.WORKBOOK):
        return cells_table(path, *workbook_rows(path, data), asked)
    named = suffix not in ("", *files.BINARY)
    if not named and path.suffix not in ("", *files.PACKED):
        raise TaskError(
            f"{path}: unknown format; expected one of {', '.join(files.FORMATS)}, each also with {' or '.join(files.PACKED)}"
        )
    text, encoding = files.decode(path, data)
    said = [f"read as {encoding}"] if encoding else []
    begins = text.lstrip()[:200]
    if suffix in files.JSON or re.match(r'\{\s*"|\[\s*[\[{]', begins):
        return json_table(path, text, asked, said)
    lines = delimited.read(path, text, suffix, literal=malformed is not None)
    return cells_table(path, lines.rows, said + lines.said, asked, malformed, suffix)


def joined(path: Path, tables: Sequence[Table]) -> Table:
    """The tables of a file's parts as one."""
    first = tables[0]
    if len(tables) == 1:
        return first
    starts, start = [], 0
    for table in tables:
        if set(table.columns) != set(first.columns):
            other = ", ".join(sorted(set(table.columns) ^ set(first.columns)))
            raise TaskError(
                f"{table.path}: other columns than {first.path.name} ({other}), of which it should be a part"
            )
        starts.append((table.path, start))
        start += len(table)
    columns = {name: [cell for table in tables for cell in table.columns[name]] for name in first.columns}
    every = [table.lines for table in tables]
    lines = (
        [line for part in every for line in part or ()] if all(part is not None for part in every) else None
    )
    said = [f"{table.path.name}: {one}" for table in tables for one in table.said]
    said = [f"{len(tables)} files read as one, {first.path.name} to {tables[-1].path.name}", *said]
    return Table(path, columns, lines, header=first.header, said=tuple(said), shards=tuple(starts))


def chunks(path: Path, rows: int, asked: Sequence[str] = (), only: Sequence[str] = ()) -> Iterator[Table]:
    """A file's rows as tables: Parquet that many at a time, a folder's part files one by one, others whole.

    Args:
        asked: columns that the caller names.
        only: columns to read of Parquet, where it has them; () reads all.

    Raises:
        TaskError: as `read_table`.
    """
    import pyarrow
    import pyarrow.parquet

    first = 0
    for shard in shards_of(path) if path.is_dir() else [path]:
        try:
            with shard.open("rb") as file:
                parquet = file.read(4) == b"PAR1"
                for batch in parquet_batches(shard, file, rows, only) if parquet else ():
                    yield Table(shard, arrow_columns(batch), None, first)
                    first += batch.num_rows
        except (pyarrow.ArrowException, OSError, UnicodeError) as error:
            raise TaskError(
                f"{shard}: cannot be read ({error}); check the path, or write it again"
            ) from error
        if not parquet:
            table = read_table(shard, asked=asked)
            yield dataclasses.replace(table, first=first)
            first += len(table)


def parquet_batches(path: Path, file: Any, rows: int, only: Sequence[str]) -> Iterator[Any]:
    """Record batches of an open Parquet file."""
    import pyarrow.parquet

    opened = pyarrow.parquet.ParquetFile(file)
    names = opened.schema_arrow.names
    refuse_twice(str(path), names)
    return opened.iter_batches(rows, columns=[name for name in names if name in only] if only else None)


def parquet_table(path: Path, data: bytes) -> Table:
    """A Parquet file; texts that it holds as bytes are decoded."""
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(data)).read()
        columns = arrow_columns(table)
    except Exception as error:  # what Arrow raises for a damaged file has no base class in common
        raise TaskError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    refuse_twice(str(path), table.column_names)
    if not table.num_rows:
        raise TaskError(f"{path}: columns {', '.join(table.column_names)} but no rows")
    return Table(path, columns, None)


def arrow_table(path: Path, data: bytes) -> Table:
    """An Arrow file or stream, as ``save_to_disk`` of Hugging Face's datasets writes it."""
    import pyarrow.ipc

    try:
        opened = pyarrow.ipc.open_file if data.startswith(b"ARROW1") else pyarrow.ipc.open_stream
        table = opened(pyarrow.BufferReader(data)).read_all()
        columns = arrow_columns(table)
    except Exception as error:
        raise TaskError(f"{path}: not a readable Arrow file ({error}); write it again") from error
    refuse_twice(str(path), table.column_names)
    if not table.num_rows:
        raise TaskError(f"{path}: columns {', '.join(table.column_names)} but no rows")
    return Table(path, columns, None)


def arrow_columns(table: Any) -> dict[str, list[Any]]:
    """The columns of an Arrow table or batch as lists; of bytes as texts where they are UTF-8."""
    import pyarrow

    columns = {}
    for place, name in enumerate(table.column_names):
        column = table.column(place)
        kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
        if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            with contextlib.suppress(pyarrow.ArrowException):  # no text: refused where it is taken for one
                column = column.cast(pyarrow.string())
        columns[name] = column.to_pylist()
    return columns


def workbook_rows(path: Path, data: bytes) -> tuple[list[Row], list[str]]:
    """The rows of an Excel workbook's only sheet that holds any, by pandas and openpyxl."""
    if importlib.util.find_spec("openpyxl") is None:
        raise TaskError(
            f"{path}: an Excel workbook; install openpyxl (pip install openpyxl), or save the sheet as CSV UTF-8"
        )
    try:
        sheets = pd.read_excel(
            io.BytesIO(data),
            sheet_name=None,
            header=None,
            dtype=object,
            keep_default_na=False,
            engine="openpyxl",
        )
    except Exception as error:  # openpyxl passes on whatever its readers of zip and XML raise
        raise TaskError(
            f"{path}: not a readable Excel workbook ({error}); save it again, or as CSV UTF-8"
        ) from error
    full = {
        title: rows
        for title, sheet in sheets.items()
        if not all(map(is_blank, rows := sheet.values.tolist()))
    }
    if len(full) != 1:
        held = f"{len(full)} sheets hold something ({', '.join(full)})" if full else "no sheet holds anything"
        raise TaskError(f"{path}: {held}; save the one with texts and labels as a file of its own")
    title, rows = next(iter(full.items()))
    while is_blank(rows[-1]):
        rows.pop()
    return list(enumerate(rows, 1)), [f"read from the sheet {title!r}"]
