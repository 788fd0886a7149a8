"""JSON to a table, however its objects are laid out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dipair_lib.data.cells import cells_table, counted
from dipair_lib.data.files import TaskError
from dipair_lib.data.table import Table


def json_table(path: Path, text: str, asked: Sequence[str], said: list[str]) -> Table:
    """A table of one object per row: a line each, one after the other, or in an array; also of lists of
    cells, and of pandas' columns.
    """
    values, lines, blank = json_values(path, text)
    said = said + counted(blank, "empty line")
    rows: list[Any] = values
    at: list[int] | None = lines
    if len(values) == 1 and (inside := rows_within(path, values[0])) is not None:
        rows, at = inside, None
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


def rows_within(path: Path, value: Any) -> list[Any] | None:
    """The rows of a file that is one value: an array, an object around one, or what pandas writes; None where
    the value is a row itself.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    inner = list(value.values())
    lists = [one for one in inner if isinstance(one, list)]
    objects = [one for one in lists if one and all(isinstance(row, dict) for row in one)]
    if {"columns", "data"} <= value.keys() and len(lists) == len(inner):  # orient="split"
        return [value["columns"], *value["data"]]
    if len(objects) > 1:
        raise TaskError(
            f"{path}: an object of several lists ({', '.join(value)}); write each into a file of its own"
        )
    if objects and (len(inner) == 1 or len(objects[0]) > 1):
        return objects[0]
    if len(lists) == len(inner) > 1 and len({len(one) for one in lists}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
    maps = [one for one in inner if isinstance(one, dict)]
    if len(maps) == len(inner) > 1 and len({tuple(one) for one in maps}) == 1:
        if all(key.isdigit() for key in maps[0]):  # orient="columns"
            return [
                dict(zip(value, row, strict=True))
                for row in zip(*(one.values() for one in maps), strict=True)
            ]
        if all(key.isdigit() for key in value):  # orient="index"
            return maps
    return None


def json_values(path: Path, text: str) -> tuple[list[Any], list[int], int]:
    """JSON values one after the other, each beginning a line; the line of each, and how many lines between
    them are empty.
    """
    decoder, between = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
    halves = (
        "\\ud" in text or "\\uD" in text
    )  # an unpaired surrogate has no UTF-8: no tokenizer could read it
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
