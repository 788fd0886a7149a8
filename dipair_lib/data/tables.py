"""A file as people have it, or a folder of shards, to named columns of raw cells; what was left out or taken another way is said."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import delimited, files
from .delimited import Row, is_blank, without_tail
from .files import TaskError
from .names import is_known_name

HEADER_SAMPLE = 2000  # rows that tell whether the first names the columns
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


def read_table(path: Path, malformed: list[int] | None = None, asked: Sequence[str] = ()) -> Table:
    """Read one file of `files.FORMATS`, packed or not, or a folder of shards.

    Args:
        path: told by its content where its name says another thing.
        malformed: a list to put the lines of rows into that have a wrong number of cells; they are then left out, and the quotes of
            tab-separated text are characters. Without a list such a row is an error.
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


# ------------------------------------------------------------------------------------------------- rows of cells


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
    """Whether the first row names the columns: it holds a name that is asked for, or one that columns usually have, or nothing that
    speaks against it, as a number does and a value that its column has again and again."""
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


def refuse_twice(where: str, names: Sequence[str]) -> None:
    """Raise if two columns have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TaskError(f"{where}: column {twice[0]!r} occurs twice in the header; rename one")


# ------------------------------------------------------------------------------------------------- JSON


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


# ------------------------------------------------------------------------------------------------- binary formats


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
    """The rows of an Excel workbook's only sheet that holds any, by openpyxl."""
    if importlib.util.find_spec("openpyxl") is None:
        raise TaskError(
            f"{path}: an Excel workbook; install openpyxl (pip install openpyxl), or save the sheet as CSV UTF-8"
        )
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        sheets = {
            sheet.title: [list(cells) for cells in sheet.iter_rows(values_only=True)]
            for sheet in book.worksheets
        }
    except Exception as error:  # openpyxl passes on whatever its readers of zip and XML raise
        raise TaskError(
            f"{path}: not a readable Excel workbook ({error}); save it again, or as CSV UTF-8"
        ) from error
    full = {title: rows for title, rows in sheets.items() if not all(map(is_blank, rows))}
    if len(full) != 1:
        held = f"{len(full)} sheets hold something ({', '.join(full)})" if full else "no sheet holds anything"
        raise TaskError(f"{path}: {held}; save the one with texts and labels as a file of its own")
    title, rows = next(iter(full.items()))
    width = max(len(without_tail(cells)) for cells in rows)
    while is_blank(rows[-1]):
        rows.pop()
    return [(line, cells[:width]) for line, cells in enumerate(rows, 1)], [f"read from the sheet {title!r}"]


# ------------------------------------------------------------------------------------------------- shards


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
    """Whether a folder is one table as Spark and others write it: part files, a mark of success, or a suffix of a table's."""
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


# ------------------------------------------------------------------------------------------------- cells


def need_column(table: Table, name: str) -> None:
    """Raise, with what is there and the closest, if a column is missing."""
    if name not in table.columns:
        close = difflib.get_close_matches(name, table.columns, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TaskError(f"{table.path}: no column {name!r}; there are {', '.join(table.columns)}{hint}")


def texts_of(table: Table, column: str) -> list[str]:
    """A column's texts without surrounding space; TaskError naming rows that hold none, a NUL character or no text at all."""
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


def chunks(path: Path, rows: int, asked: Sequence[str] = ()) -> Iterator[Table]:
    """A file's rows as tables: Parquet that many at a time, a folder's part files one by one, others whole.

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
                batches = pyarrow.parquet.ParquetFile(file).iter_batches(rows) if parquet else ()
                for batch in batches:
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
