"""Delimited text to rows of cells: the separator and the quoting are told from the text, and said."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dipair_lib.data.files import SEPARATORS, TaskError
from dipair_lib.data.names import is_known_name

NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "vertical bars"}
SAMPLE = 200  # lines from which the separator is told
Row = tuple[int, list[Any]]  # the line it starts at, counted from 1, and its cells


@dataclass
class Lines:
    """Rows as they stand in a file, and how they were read, in words."""

    rows: list[Row]
    said: list[str] = field(default_factory=list)


def read(path: Path, text: str, suffix: str, literal: bool = False) -> Lines:
    """The rows of delimited text; ``literal``: tabs separate and quotes are ordinary characters, whatever
    they look like.

    Raises:
        TaskError: a quote that is never closed, and the like, with the line.
    """
    if "\n" not in text and "\r" in text:
        text = text.replace("\r", "\n")
    text = text.rstrip("\r\n")
    if literal and SEPARATORS.get(suffix) == "\t":
        return Lines(list(tab_rows(text)))
    first = 0
    told = re.match(r'"?sep=(.|\\t)"?[\t,;| ]*\r?\n', text, re.I)
    if told:
        separator = "\t" if told[1] == "\\t" else told[1]
        text, first = text[told.end() :], 1
    else:
        separator = separator_of(text, suffix)
    found = tab_lines(path, text) if separator == "\t" else quoted_lines(path, text, separator, first)
    if separator != SEPARATORS.get(suffix, "\t"):
        found.said.insert(0, f"cells separated by {NAMES.get(separator, repr(separator))}")
    found.rows = [(line + first, cells) for line, cells in found.rows] if first else found.rows
    return found


# ------------------------------------------------------------------------------------------------- the separator


def separator_of(text: str, suffix: str) -> str:
    """The suffix's own where every row of a sample agrees with it, else the one that all agree with."""
    usual = SEPARATORS.get(suffix, "\t")
    fits = {separator: fit(text, separator) for separator in dict.fromkeys([usual, *NAMES])}
    if suffix in (".txt", "") and fits["\t"][0] == 1 and not has_known_name(first_cells(text, ",;|")):
        return usual  # one text a line: its commas are its own
    if fits[usual][0] > 1 and fits[usual][1] == 1:
        return usual
    for least in (1.0, 0.9):
        for separator, (cells, share) in fits.items():
            if cells > 1 and share >= least and (least == 1 or fits[usual][0] == 1):
                return separator
    return usual


def fit(text: str, separator: str) -> tuple[int, float]:
    """How many cells a sample's first row has, and the share of rows with as many."""
    lines = text.split("\n", SAMPLE)
    sample = "\n".join(lines[:SAMPLE]) + "\n"
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
    readings = (
        [[cells for _, cells in tab_rows(sample)]] if separator == "\t" else []
    )  # quotes may be characters
    with contextlib.suppress(csv.Error):
        readings.append(list(whole_cells(reader)))
    best = (1, 0.0)
    for cells in readings:
        rows = [row for row in cells if not is_blank(row)]
        if len(lines) > SAMPLE and len(rows) > 1:
            rows.pop()  # it may go on
        if rows:
            width = len(without_tail(rows[0]))
            same = sum(len(row) == len(rows[0]) or len(without_tail(row)) == width for row in rows)
            best = max(best, (width, same / len(rows)), key=lambda one: (one[0] > 1, one[1]))
    return best


def first_cells(text: str, separators: str) -> list[str]:
    return re.split(f"[{re.escape(separators)}]", text.split("\n", 1)[0])


def has_known_name(cells: Iterable[Any]) -> bool:
    """Whether a cell is what people call a column of labels, ids or texts."""
    return any(is_known_name(str(cell)) for cell in cells)


# ------------------------------------------------------------------------------------------------- tabs


def tab_rows(text: str) -> Iterator[Row]:
    """Rows of tab-separated cells in which quotes are characters."""
    # Only "\n" ends a row: str.splitlines would also break at U+0085 and U+2028, which mis-decoded texts
    # hold.
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), 1):
        yield number, line.removesuffix("\r").split("\t")


QUOTED = re.compile(r'"(?:[^"]|"")*+"')
QUOTED_CELL = re.compile(r'(?:^|(?<=[\t\n]))"(?:[^"]|"")*+"(?=\t|\r?\n|\r?$)')


def tab_lines(path: Path, text: str) -> Lines:
    """Rows of tab-separated text as pandas and Excel write it (a cell with a quote, a tab or a break stands
    in quotes), or as GLUE's files are, where quotes are characters: whichever the whole column agrees with.
    """
    rows = list(tab_rows(text))
    if '"' not in text:
        return Lines(rows)
    widths = {len(cells) for _, cells in rows if not is_blank(cells)}
    found = QUOTED_CELL.findall(text)
    if '"' not in QUOTED_CELL.sub("", text):  # no quote stands anywhere but around cells, or doubled within
        quoted = Lines(
            list(csv_rows(path, text, "\t")),
            ["quotes around cells taken off: every quote of the file opens, closes or is doubled"],
        )
        if len(widths) > 1:
            return quoted
        # Rows as lines fit, too: two characters that only look like quotes would enclose whole rows, a cell
        # that was quoted need not.
        width = max(widths)
        fits = all(len(cells) == width for _, cells in quoted.rows if not is_blank(cells))
        if fits and any(not looks_like_rows(cell, width) for cell in found):
            return quoted
    return unquoted_columns(rows) if len(widths) == 1 else Lines(rows)


def looks_like_rows(cell: str, width: int) -> bool:
    """Whether a quoted cell may be the end of one row of ``width`` cells, whole rows, and the beginning of
    another, none of them empty.
    """
    pieces = re.split(r"[\t\n]", cell[1:-1])
    return cell.count("\t") == cell.count("\n") * (width - 1) and all(piece.strip() for piece in pieces)


def unquoted_columns(rows: list[Row]) -> Lines:
    """Quotes taken off the columns all of whose cells stand in quotes, or whose every quote opens, closes or
    is doubled within.
    """
    off, kept, left = [], [], 0
    header = rows[0][1]
    names = {
        at: repr(plain_cell(header[at]) if at < len(header) else at)
        for at in range(max(len(cells) for _, cells in rows))
    }
    for at in names:
        cells = [cells[at] for _, cells in rows[1:] if at < len(cells) and cells[at]]
        marked = [cell for cell in cells if '"' in cell]
        regular = [cell for cell in marked if QUOTED.fullmatch(cell)]
        doubled = any('""' in cell[1:-1] for cell in marked)
        if marked and len(regular) == len(marked) and (len(marked) == len(cells) or doubled):
            off.append(at)
        elif regular:
            kept.append(at)
            left += len(regular)
    if off or all(QUOTED.fullmatch(cell) for cell in header):
        rows = [
            (line, [plain_cell(cell) if at in off or not number else cell for at, cell in enumerate(cells)])
            for number, (line, cells) in enumerate(rows)
        ]
    said = (
        [f"quotes around the cells of column {', '.join(names[at] for at in off)} taken off"] if off else []
    )
    if kept:
        s = "s" * (left > 1)
        said.append(
            f"{left} cell{s} of column {', '.join(names[at] for at in kept)} in quotes kept with them: there quotes are characters"
        )
    return Lines(rows, said)


def plain_cell(cell: str) -> str:
    """A cell without its quotes, if it stands in some."""
    return cell[1:-1].replace('""', '"') if QUOTED.fullmatch(cell) else cell


# ------------------------------------------------------------------------------------------------- commas and others


def quoted_lines(path: Path, text: str, separator: str, first: int = 0) -> Lines:
    """Rows with standard quoting, or with what Spark (backslashes) or a space behind each separator make of
    it.
    """
    if f'{separator} "' in text and (found := spaced(text, separator)):
        return found
    try:
        return Lines(list(csv_rows(path, text, separator, first)))
    except TaskError:
        if '\\"' not in text:
            raise
    cell = re.compile(
        rf'(?:^|(?<=[{re.escape(separator)}\n]))"((?:[^"\\]|\\.|"")*+)"(?={re.escape(separator)}|\r?\n|\r?$)',
        re.S,
    )
    escaped = re.compile(r'\\(["\\])')

    def doubled(found: re.Match[str]) -> str:
        return '"' + escaped.sub(lambda one: '""' if one[1] == '"' else "\\", found[1]) + '"'

    plain = cell.sub(doubled, text)
    return Lines(
        list(csv_rows(path, plain, separator, first)),
        ["quotes within cells escaped by backslashes, as Spark writes them"],
    )


def spaced(text: str, separator: str) -> Lines | None:
    """Rows of text with a space between separator and quote, where without it cells would keep their quotes
    or be torn.
    """
    try:
        plain = list(strict(text, separator))
    except csv.Error:
        plain = []
    torn = len({len(cells) for _, cells in plain if not is_blank(cells)}) != 1
    if not torn:
        columns = zip(*(cells for _, cells in plain[1:] if not is_blank(cells)), strict=True)
        torn = any(
            all(QUOTED.fullmatch(c.strip()) and c[:1] == " " for c in column if c.strip())
            and any(c.strip() for c in column)
            for column in columns
        )
    if not torn:
        return None
    try:
        rows = list(strict(text, separator, skipinitialspace=True))
    except csv.Error:
        return None
    whole = len({len(cells) for _, cells in rows if not is_blank(cells)}) == 1
    return Lines(rows, ["spaces between separators and quotes left out"]) if whole else None


def strict(text: str, separator: str, **options: Any) -> Iterator[Row]:
    """What Python's reader of CSV makes of text, strictly; csv.Error (what is wrong, the row's line) where it
    is malformed.
    """
    reader = csv.reader(
        io.StringIO(text.rstrip("\r\n") + "\n", newline=""), strict=True, delimiter=separator, **options
    )
    start = 1
    try:
        for cells in whole_cells(reader):
            yield start, cells or [""]
            start = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(str(error), start) from error


def csv_rows(path: Path, text: str, separator: str = ",", first: int = 0) -> Iterator[Row]:
    """Rows with standard quoting; TaskError naming the line where one is malformed."""
    try:
        yield from strict(text, separator)
    except csv.Error as error:
        what, start = error.args
        mark = "comma" if separator == "," else "separator"
        raise TaskError(
            f"{path}, row starting at line {start + first}: malformed ({what}); quote a cell that holds a {mark}, a quote or a "
            'line break, and double the quotes inside it ("")'
        ) from error


def whole_cells(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows of a csv.reader whatever the length of a cell: the module's limit of 131,072 characters is for
    all readers of the process, so it is lifted only while a row is read.
    """
    while True:
        before = csv.field_size_limit(2**31 - 1)  # the most that every platform takes
        try:
            cells = next(reader, None)
        finally:
            csv.field_size_limit(before)
        if cells is None:
            return
        yield cells


def is_blank(cells: Sequence[Any]) -> bool:
    """Whether no cell holds anything."""
    return all(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells)


def without_tail(cells: Sequence[Any]) -> Sequence[Any]:
    """The cells up to the last that holds something."""
    end = len(cells)
    while end and is_blank(cells[end - 1 : end]):
        end -= 1
    return cells[:end]
