"""JSON to a table, however its objects are laid out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cells import cells_table, counted
from .files import TaskError
from .table import Table


def json_table(path: Path, text: str, asked: Sequence[str], said: list[str]) -> Table:
    """A table of one object per row: a line each, one after the other, or in an array; also of lists of cells, and of pandas' columns."""
    values, lines, blank = json_values(path, text)
    said = said + counted(blank, "empty line")
    rows: list[Any] = values
    at: list[int] | None = lines
    if len(values) == 1 and isinstance(values[0], list):
        rows, at = values[0], None
    elif len(values) == 1 and isinstance(values[0], dict):
        inner = values[0]
        lists = [value for value in inner.values() if isinstance(value, list)]
        tables = [value for value in lists if value and all(isinstance(row, dict) for row in value)]
        if len(lists) == len(inner) > 1 and not tables and len({len(one) for one in lists}) == 1:
            return Table(
                path, {str(name): list(column) for name, column in inner.items()}, None, said=tuple(said)
            )
        if len(tables) == 1 and (len(inner) == 1 or len(tables[0]) > 1):
            rows, at = tables[0], None
        elif len(tables) > 1:
            raise TaskError(
                f"{path}: an object of several lists ({', '.join(inner)}); write each into a file of its own"
            )
        elif (
            len(inner) > 1
            and all(isinstance(v, dict) for v in inner.values())
            and len({tuple(v) for v in inner.values()}) == 1
            and all(key.isdigit() for v in inner.values() for key in v)
        ):
            columns = {name: list(column.values()) for name, column in inner.items()}
            return Table(path, columns, None, said=tuple(said))
    if not rows:
        raise TaskError(f"{path}: no rows")
    if all(isinstance(row, list) for row in rows):
        return cells_table(path, zip(at or range(1, len(rows) + 1), rows, strict=True), said, asked)
    for number_, row in enumerate(rows):
        if not isinstance(row, dict):
            where = f"line {at[number_]}" if at else f"row {number_ + 1}"
            raise TaskError(f"{path}, {where}: expected a JSON object, got {type(row).__name__}")
    empty = [place for place, row in enumerate(rows) if not row]
    if empty and len(empty) < len(rows):
        said += counted(len(empty), "empty object")
        at = [line for line, row in zip(at, rows, strict=True) if row] if at else None
        rows = [row for row in rows if row]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(path, {name: [row.get(name) for row in rows] for name in names}, at, said=tuple(said))


def json_values(path: Path, text: str) -> tuple[list[Any], list[int], int]:
    """JSON values one after the other, each beginning a line; the line of each, and how many lines between them are empty."""
    decoder, between = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
    halves = "\\ud" in text or "\\uD" in text  # half a character has no UTF-8: no tokenizer could read it
    values: list[Any] = []
    lines: list[int] = []
    at, line, blank = 0, 1, 0
    while True:
        start = between.match(text, at).end()  # type: ignore[union-attr]
        breaks = text.count("\n", at, start)
        line += breaks
        if start == len(text):
            return values, lines, blank
        try:
            if values and not breaks:
                raise ValueError("more behind the value")
            value, end = decoder.raw_decode(text, start)
            if halves:
                json.dumps(value, ensure_ascii=False).encode("utf8")
        except (ValueError, RecursionError) as error:
            raise TaskError(
                f"{path}, line {line}: malformed JSON ({error}); expected one object per line"
            ) from error
        blank += max(0, breaks - 1) if values else breaks
        values.append(value)
        lines.append(line)
        line += text.count("\n", start, end)
        at = end
