"""A file as read, and its cells as texts and numbers; what is wrong with one is named by file, row and
column.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipair_lib.data.files import TaskError

MOST_EMPTY = 0.05  # from this share of rows without a text or label on, it is no slip but the file


@dataclass(frozen=True)
class Table:
    """A file as read: columns of raw cells, and the line each row started at (None for Parquet).

    In messages rows count from 1 without the header, lines from 1 with it.

    Attributes:
        first: rows of the file in front of these, where it is read a part at a time.
        header: whether the columns have names; else they are called by their place: "0", "1".
        said: how it was read and what was left out, in words.
        shards: file and first row of each part, where several files make one table.
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: list[int] | None
    first: int = 0
    header: bool = True
    said: tuple[str, ...] = ()
    shards: tuple[tuple[Path, int], ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def place(self, row: int) -> str:
        """Where a row (from 0) stands, for messages."""
        line = f" (line {self.lines[row]})" if self.lines else ""
        inside = [(path, start) for path, start in self.shards if start <= row]
        if inside:
            path, start = inside[-1]
            return f"{path.name} row {row - start + 1}{line}"
        return f"row {self.first + row + 1}{line}"


def refuse_twice(where: str, names: Sequence[str]) -> None:
    """Raise if two columns have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TaskError(f"{where}: column {twice[0]!r} occurs twice in the header; rename one")


def need_column(table: Table, name: str) -> None:
    """Raise, with what is there and the closest, if a column is missing."""
    if name not in table.columns:
        close = difflib.get_close_matches(name, table.columns, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        if not table.header:
            hint = "; its first line reads as a row, so columns are called by their places, counted from 0"
        raise TaskError(f"{table.path}: no column {name!r}; there are {', '.join(table.columns)}{hint}")


def check_columns(path: Path, there: Iterable[str], columns: Iterable[str]) -> None:
    """Raise, as `need_column`, if a file without one of the columns is read."""
    for column in columns:
        need_column(Table(path, {name: [] for name in there}, None), column)


def texts_of(table: Table, column: str) -> list[str]:
    """A column's texts without surrounding space; TaskError naming rows that hold none, a NUL character or no
    text at all.
    """
    texts, empty = texts_and_gaps(table, column)
    complain(table, column, [(row, "empty") for row in empty], "fill in or remove these rows")
    return texts


def texts_and_gaps(table: Table, column: str) -> tuple[list[str], list[int]]:
    """A column's texts without surrounding space, "" where there is none, and the rows (from 0) of those.

    Raises:
        TaskError: naming rows that hold a NUL character or another thing than text.
    """
    need_column(table, column)
    bad: list[tuple[int, str]] = []
    empty: list[int] = []
    texts: list[str] = []
    for row, value in enumerate(table.columns[column]):
        text = ""
        if is_missing(value):
            empty.append(row)
        elif isinstance(value, bool | list | dict | bytes):
            bad.append((row, f"{type(value).__name__}, not text"))
        else:
            text = str(value).strip()
            # A text of nothing but spaces and invisible characters is empty to every tokenizer.
            if not any(c.isprintable() and not c.isspace() for c in text):
                empty.append(row)
                text = ""
            elif "\0" in text:
                bad.append((row, "holds a NUL character"))
        texts.append(text)
    complain(table, column, bad, "fill in or remove these rows")
    return texts, empty


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, or what is not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def complain(table: Table, column: str, bad: list[tuple[int, str]], advice: str) -> None:
    """Raise for bad (row, what is wrong with its cell) entries: the first three by name, and how many."""
    if bad:
        shown = "; ".join(f"{table.place(row)}: {why}" for row, why in bad[:3])
        more = f"; {len(bad)} such rows in all" if len(bad) > 3 else ""
        raise TaskError(f"{table.path}, column {column!r}: {shown}{more}; {advice}")


def number(value: Any) -> float | None:
    """A cell as a number, None if it is none."""
    if isinstance(value, bytes) or (isinstance(value, str) and "_" in value):  # Python reads "1_0" as ten
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def show(value: Any) -> str:
    """A cell for a message."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
