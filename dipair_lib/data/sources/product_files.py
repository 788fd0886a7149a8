"""Files of the product sets: Parquet, tab-separated tables, compressed or not."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from dipair_lib.data import delimited
from dipair_lib.data.files import TaskError
from dipair_lib.data.table import Table, check_columns, complain, show

REPOSITORY = "tasksource/esci"
# The last commit on the page of the repository. This code has read local files in its layout, but not yet the
# hub itself.
REVISION = "8113b17a5d4099e20243282c926f1bc1a08a4d13"
EXAMPLES, PRODUCTS = "shopping_queries_dataset_examples.parquet", "shopping_queries_dataset_products.parquet"
ENCODINGS = (
    "utf-8-sig",
    "cp1252",
    "latin-1",
)  # tried in this order: the file of the competition is Windows-1252

Tables = dict[str, Table]  # by split, or one under "all"; columns term, title, label, group


def graded(table: Table, column: str, grades: dict[str, float], names: Sequence[str]) -> list[float]:
    """The scores of a column of label names."""
    found = [grades.get(str(value).strip()) for value in table.columns[column]]
    bad = [
        (row, f"{show(table.columns[column][row])} is not one of {', '.join(names)}")
        for row, grade in enumerate(found)
        if grade is None
    ]
    complain(table, column, bad, "correct or remove these rows")
    return [grade for grade in found if grade is not None]


def refuse_missing(path: Path, what: str, ids: Iterable[Any], there: Any, file: str) -> None:
    """Raise if ids that a file uses are not in another one."""
    missing = list(dict.fromkeys(key for key in ids if key not in there))
    if missing:
        first = ", ".join(" ".join(key) if isinstance(key, tuple) else str(key) for key in missing[:3])
        more = ", ..." if len(missing) > 3 else ""
        raise TaskError(
            f"{path}: {len(missing)} {what} are not in {file} ({first}{more}); are the files of one version?"
        )


def copy_files(root: Path) -> dict[str, list[Path]]:
    """Parquet files by split of a copy of the hub's repository."""
    return {split: sorted((root / "data").glob(f"{split}-*.parquet")) for split in ("train", "test")}


def gather(
    batches: Iterable[dict[str, list[Any]]], columns: Sequence[str], locale: str
) -> dict[str, list[Any]]:
    """The rows of the locale and the small version."""
    kept: dict[str, list[Any]] = {column: [] for column in columns}
    for batch in batches:
        pairs = zip(batch["product_locale"], batch["small_version"], strict=True)
        rows = [row for row, (its, mark) in enumerate(pairs) if its == locale and mark == 1]
        for column, values in kept.items():
            values += [batch[column][row] for row in rows]
    return kept


def parquet_batches(paths: Sequence[Path], columns: list[str], locale: str) -> Iterator[dict[str, list[Any]]]:
    """Some columns of Parquet files, 20,000 rows at a time, without those of another locale."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    for path in paths:
        try:
            file = pyarrow.parquet.ParquetFile(path)
            check_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_size=20_000, columns=columns):
                of_locale = pyarrow.compute.equal(batch.column("product_locale"), locale)
                yield batch.filter(of_locale).to_pydict()
        except (pyarrow.ArrowException, OSError) as error:
            raise TaskError(f"{path}: not a readable Parquet file ({error}); download it again") from error


def hub_batches(split: str, columns: list[str]) -> Iterator[dict[str, list[Any]]]:
    """Some columns of one split of the hub's repository, 20,000 rows at a time."""
    try:
        import datasets
    except ImportError as error:
        raise TaskError(
            f"p2t/esci: reading {REPOSITORY} needs the extra `hub` (pip install 'dipair-lab[hub]'); or set DIPAIR_ESCI to a folder "
            f"that holds {EXAMPLES} and {PRODUCTS}"
        ) from error
    try:
        found = datasets.load_dataset(REPOSITORY, split=split, revision=REVISION)
    except (OSError, ValueError) as error:
        raise TaskError(
            f"{REPOSITORY}, {split}: cannot be read ({error}); is there a network? Without one, set DIPAIR_ESCI to a folder that holds "
            f"{EXAMPLES} and {PRODUCTS}, or a copy of the repository"
        ) from error
    check_columns(Path(f"{REPOSITORY}/{split}"), found.column_names, columns)
    yield from found.select_columns(columns).iter(batch_size=20_000)


def names_by_id(path: Path, key: str, name: str, needed: set[str]) -> dict[str, str]:
    """One column by id, of the ids needed; the first of each."""
    found: dict[str, str] = {}
    for _, cells in tab_rows(path, (key, name)):
        if cells[0] in needed:
            found.setdefault(cells[0], cells[1])
    return found


def opened(path: Path) -> BinaryIO:
    """A file for reading, also compressed."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def tab_table(path: Path, columns: Sequence[str]) -> Table:
    """Some columns of a tab-separated file as a table."""
    rows = list(tab_rows(path, columns))
    if not rows:
        raise TaskError(f"{path}: a header line but no rows")
    values = {name: [cells[at] for _, cells in rows] for at, name in enumerate(columns)}
    return Table(path, values, [line for line, _ in rows])


def tab_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, cells of the columns) of a tab-separated file with a header; a cell in quotes may hold tabs and
    line breaks.
    """
    try:
        with opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            header = [name.strip() for name in next(reader, [])]
            check_columns(path, header, columns)
            at = [header.index(name) for name in columns]
            start = reader.line_num + 1
            for cells in delimited.whole_cells(reader):
                if len(cells) != len(header) and cells:
                    raise TaskError(
                        f"{path}, row starting at line {start}: malformed, {len(cells)} cells where the header has {len(header)} "
                        f"({', '.join(header)}); download the file again"
                    )
                if cells:
                    yield start, [cells[i].strip() for i in at]
                start = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 ({error}); download the file again") from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise TaskError(
            f"{path}: cannot be read ({error}); check the path, or download the file again"
        ) from error


def header_of(path: Path) -> list[str]:
    """The column names of a .csv or .tsv, also .gz; [] if it cannot be read."""
    try:
        with opened(path) as file:
            line = file.readline(10_000).decode("latin-1").strip().removeprefix("\u00ef\u00bb\u00bf")
    except (OSError, EOFError, zlib.error):
        return []
    return [name.strip(' "') for name in line.split("\t" if ".tsv" in path.name else ",")]


def decoded(data: bytes) -> tuple[str, str]:
    """Text and the encoding that reads it."""
    for encoding in ENCODINGS:
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 reads every byte")
