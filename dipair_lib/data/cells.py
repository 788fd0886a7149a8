"""Rows of cells to a table: the header told from the rows, what is empty or twice left out and counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dipair_lib.data.delimited import Row, is_blank, without_tail
from dipair_lib.data.files import TaskError
from dipair_lib.data.names import is_known_name
from dipair_lib.data.table import Table, number, refuse_twice

HEADER_SAMPLE = 2000  # rows that tell whether the first names the columns


def cells_table(
    path: Path,
    rows: Iterable[Row],
    said: Sequence[str] = (),
    asked: Sequence[str] = (),
    malformed: list[int] | None = None,
    suffix: str = "",
) -> Table:
    """Rows of cells as a table: empty rows and columns left out, the header told, each row as long as it."""
    every = list(rows)
    whole = [(line, cells) for line, cells in every if not is_blank(cells)]
    said = [*said, *counted(len(every) - len(whole), "empty row")]
    comments = 0
    while (
        len(whole) - comments > 1 and is_comment(whole[comments][1]) and len(without_tail(whole[-1][1])) > 1
    ):
        comments += 1
    whole = whole[comments:]
    said += counted(comments, "comment line in front of the header", "comment lines in front of the header")
    if not whole:
        raise TaskError(f"{path}: the file is empty")
    header = has_header(whole, asked, suffix)
    names = stripped(whole[0][1]) if header else []
    body = whole[1:] if header else whole
    if header and len(names) > 1 and malformed is None:
        before = len(body)
        body = [
            (line, cells)
            for line, cells in body
            if str(cells[0]).strip() != names[0] or stripped(cells) != names
        ]
        said += counted(before - len(body), "row that repeats the header", "rows that repeat the header")
    given = len(names) if header else max(len(cells) for _, cells in body)
    width = len(without_tail(names)) if header else max(len(without_tail(cells)) for _, cells in body)
    if header and any(len(without_tail(cells)) > width for _, cells in body):
        width = given  # a column without a name holds something
    said += counted(given - width, "empty column without a name", "empty columns without a name")
    names = names[:width] if header else [str(place) for place in range(width)]
    shown = ", ".join(names)
    lines: list[int] = []
    kept: list[list[Any]] = []
    tails = 0
    for line, cells in body:
        if len(cells) > width and len(without_tail(cells)) <= width:
            tails, cells = tails + (len(cells) > given), cells[:width]
        if len(cells) != width and malformed is not None:
            malformed.append(line)
        elif len(cells) != width:
            there = f"the header has {width} ({shown})" if header else f"others have {width}"
            raise TaskError(
                f"{path}, row {len(lines) + 1} (line {line}): malformed, {len(cells)} cells where {there}"
            )
        else:
            lines.append(line)
            kept.append(cells)
    if not kept:
        raise TaskError(f"{path}: a header line ({shown}) but no rows")
    if tails:
        said.append(f"empty cells behind the last column left out in {tails:,} row{'s' * (tails > 1)}")
    columns = [list(column) for column in zip(*kept, strict=True)]
    empty = [place for place, name in enumerate(names) if not name and is_blank(columns[place])]
    said += counted(len(empty), "empty column without a name", "empty columns without a name")
    found = [
        (name, column)
        for place, (name, column) in enumerate(zip(names, columns, strict=True))
        if place not in empty
    ]
    refuse_twice(f"{path}, line {whole[0][0]}", [name for name, _ in found])
    return Table(path, dict(found), lines, header=header, said=tuple(said))


def stripped(cells: Sequence[Any]) -> list[str]:
    """Cells as names: texts without surrounding space."""
    return ["" if cell is None else str(cell).strip() for cell in cells]


def is_comment(cells: Sequence[Any]) -> bool:
    """Whether a row is a single cell that begins with "#"."""
    return len(without_tail(cells)) == 1 and str(cells[0]).lstrip().startswith("#")


def counted(number: int, one: str, several: str = "") -> list[str]:
    """ "3 empty rows left out", or nothing for none."""
    return [f"{number:,} {one if number == 1 else several or one + 's'} left out"] if number else []


def has_header(rows: Sequence[Row], asked: Sequence[str], suffix: str) -> bool:
    """Whether the first row names the columns: it holds a name that is asked for, or one that columns usually
    have, or nothing that speaks against it, as a number does and a value that its column has again and again.
    """
    first = stripped(rows[0][1])
    if asked and all(name in first for name in asked):
        return True
    if any(name in first for name in asked if not name.isdigit()):
        return True
    if first == [str(place) for place in range(len(first))]:
        return True  # as pandas writes columns without names
    sample = [stripped(cells) for _, cells in rows[1:HEADER_SAMPLE]]
    whole = sample.count(first)
    again = [
        sum(cells[place : place + 1] == [name] for cells in sample)
        for place, name in enumerate(first)
        if name
    ]
    if any(count > whole + 0.02 * len(sample) for count in again):
        return False
    if any(map(is_known_name, first)):
        return True
    return not any(number(name) is not None for name in first if name) and (
        len(first) > 1 or suffix != ".txt"
    )
