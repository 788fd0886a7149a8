"""Tasks: texts, labels and splits, from files of your own or from the docstrings of this environment.

    load_task("pydocs")                                   built in: summary line against passage, two classes
    load_task("pydocs-fields")                            built in: three texts, two classes
    load_task("pydocs-topic")                             built in: one sentence, several classes
    load_task("glue/sst2")                                SST-2, QQP or MNLI, from the hub or a local folder: see `glue`
    load_task("q2p")                                      MS MARCO, query and passage, from the same or `ir_datasets`: see `marco`
    load_task("p2t/esci")                                 ESCI, WANDS or Home Depot, search term and product: see `products`
    load_task("pairs.csv", fields=["query", "text"], label="label", group="query")
    load_task("pairs.csv", teacher_score="llm")           with a column of a teacher's scores, for students to learn from
    load_task("folder-with-train-dev-test/")              tsv, csv, jsonl, parquet, each also .gz

Whatever is wrong with a file is a `TaskError` that names file, row and column before any model starts. What is merely
untidy (duplicates, the same text in two splits, one text with two labels) is dropped, warned of and counted in `notes`.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import json
import math
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SPLITS = ("train", "dev", "test")
FORMATS = (".tsv", ".csv", ".jsonl", ".parquet")
SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "test": "test",
}
SCORE = "\0teacher score "  # begins the name of a column of a teacher's scores while a task is loaded: no column of a file has it
GAIN_NAME = "grade"  # a column of this name beside a two-class label holds the gains of nDCG
LABEL_NAMES = ("label", "score", "relevance", "grade", "similarity", "class", "target", "is_duplicate")
ID_NAMES = ("id", "qid", "docid", "pid", "uid", "idx", "index", "group", "split")
MISSING_LABELS = ("", "nan", "null", "<na>", "n/a")
LARGEST = float(np.finfo(np.float32).max)  # scores are float32
EXACT = 2.0**53  # from here on whole numbers are no longer told apart as floats
MOST_INTEGER_CLASSES = 20  # more distinct integers than this may be classes or scores: the user has to say


class TaskError(ValueError):
    """The data cannot be used as it is; the message names file, row, column and what to do."""


@dataclass(frozen=True, eq=False)
class Task:
    """One data set: `fields` texts per example (1 = sentence, 2 = pair, n = tuple), a label, a group.

    `train`, `dev` and `test` have one str column per field, `label` (int64 index into `classes`, or float32 score) and
    `group` (int64 code: rows that share a query, to be kept together in splits and in the bootstrap; a code of its own
    for every row when there is no group column). A float32 column `gain` is there where the file grades what the two
    classes only tell apart (see `GAIN_NAME`): nDCG reads it. `metrics` has the headline metric first. `fingerprint` is
    the sha256 of the content of all splits in their order, so results that depend on row order can be stored under it.
    `teacher_scores` are what a file holds of a teacher's scores for the rows of each split, float32 [rows, columns], in the
    order of the classes where there is a column for each; {} where none were asked for. They are no part of the fingerprint:
    the rows and labels are the same data, whoever teaches.
    """

    name: str
    fields: tuple[str, ...]
    kind: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    train: pd.DataFrame
    dev: pd.DataFrame
    test: pd.DataFrame
    grouped: bool
    fingerprint: str
    notes: dict[str, Any] = field(default_factory=dict)
    teacher_scores: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The fingerprint, and with it the teacher's scores where there are some: what a run that reads them depends on."""
        if not self.teacher_scores:
            return self.fingerprint
        digest = hashlib.sha256(self.fingerprint.encode())
        for split in SPLITS:
            digest.update(self.teacher_scores[split].tobytes())
        return digest.hexdigest()

    @property
    def outputs(self) -> int:
        """Logits per example: one for each class, or one for a score."""
        return len(self.classes) if self.kind == "classes" else 1


def load_task(
    name_or_path: str | os.PathLike[str],
    *,
    fields: Sequence[str] = (),
    label: str = "",
    group: str = "",
    kind: str = "",
    splits: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    max_train: int = 0,
    teacher_score: str | Sequence[str] = (),
    cache: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> Task:
    """Load a built-in task by name, or a file or folder by path.

    fields     text columns, in order; () = guess, an error if the columns leave a choice
    label      label column; "" = guess
    group      column whose equal values stay in one split and are resampled together; "" = none
    kind       "classes", "score" or "" = guess: numbers that are not whole are scores, all else classes
    splits     shares of train, dev, test of a single file, cut by a hash of the group value (of the first field's text
               when there is no group), so that rows added later move no other row
    seed       of that cut
    max_train  keep at most that many training rows, whole groups, chosen by hash; 0 = all
    teacher_score  column of a teacher's scores (an API's, a large model's), or one for each class, in the order of the
               classes or named by them; a text names several with commas. Only files of your own have some
    cache      folder for built data, default `cache_folder()`
    say        called with one line of progress when something slow is built

    A folder with its own train, dev (or validation, valid, val) and test files is used as it is split; when only dev is
    missing, it is cut out of train. Labels are mapped by name: classes are the train labels, sorted (numerically if they
    are numbers). Of several rows with the same texts the first is kept; test wins over dev, dev over train.

    Raises TaskError when anything cannot be used.
    """
    if max_train < 0:
        raise TaskError(f"max_train is {max_train}: give 0 for all training rows or a positive number")
    if kind not in ("", "classes", "score"):
        raise TaskError(f"kind is {kind!r}: give 'classes', 'score' or '' (guess)")
    from dipair_lib import glue, marco, products

    scores = teacher_score.split(",") if isinstance(teacher_score, str) else teacher_score
    scores = tuple(one.strip() for one in scores if one.strip())
    name = os.fspath(name_or_path)
    if name in BUILT_IN:
        _refuse_scores(name, scores)
        return _built_in(name, tuple(fields), label, group, kind, max_train, cache, say)
    try:
        path = Path(name).expanduser()
        path.exists(), name.encode("utf8")
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        raise TaskError(
            f"task {_show(name)}: neither a name nor a path that can be used ({error})"
        ) from error
    given = (tuple(fields), label, group, kind)
    cut = (tuple(splits), seed)
    known = name == "q2p" or (name.startswith(("p2t/", "glue/")) and not path.exists())
    if scores and (
        known or marco.is_folder(path) or products.name_of_folder(path) or glue.name_of_folder(path)
    ):
        _refuse_scores(name, scores)
    if name == "q2p" or marco.is_folder(path):
        return marco.load(None if name == "q2p" else path, max_train, given, *cut, cache, say)
    if name in products.NAMES or (name.startswith("p2t/") and not path.exists()):
        return products.load(name.removeprefix("p2t/"), None, max_train, given, *cut, say)
    if product := products.name_of_folder(path):
        return products.load(product, path, max_train, given, *cut, say)
    benchmark = name.removeprefix("glue/") if name.startswith("glue/") else ""
    if benchmark in glue.SETS or (benchmark and not path.exists()):
        return glue.load(benchmark, None, max_train, given)
    if benchmark := glue.name_of_folder(path):
        return glue.load(benchmark, path.parent, max_train, given)
    if not path.exists():
        there = (*BUILT_IN, *(f"glue/{benchmark}" for benchmark in glue.SETS), "q2p", *products.NAMES)
        raise TaskError(f"{name}: no such file or folder, and not a built-in task ({', '.join(there)})")
    return _load_path(path, tuple(fields), label, group, kind, tuple(splits), seed, max_train, scores)


def load_unlabelled(path: str | os.PathLike[str], task: Task) -> pd.DataFrame:
    """Pairs without labels for a teacher to score, from a file with the task's fields as columns.

    Left out are repeats, pairs that the task holds in any split, and pairs whose first text is one of dev's or test's: nothing that is
    measured on may be learned from.

    Returns:
        One row per pair: the fields, ``group`` (a number for each first text) and ``round`` 0.

    Raises:
        TaskError: as `load_task`, or when nothing is left.
    """
    table = read_table(Path(path).expanduser())
    columns: dict[str, Any] = {}
    for name in task.fields:
        _need_column(table, name)
        columns[name] = texts_of(table, name)
    frame = pd.DataFrame(columns).drop_duplicates(ignore_index=True)
    measured = pd.concat([task.dev, task.test])
    held = pd.MultiIndex.from_frame(pd.concat([task.train, measured])[list(task.fields)])
    ours = frame[task.fields[0]].isin(measured[task.fields[0]])
    ours |= pd.MultiIndex.from_frame(frame[list(task.fields)]).isin(held)
    frame = frame[~ours].reset_index(drop=True)
    if frame.empty:
        raise TaskError(
            f"{path}: no row is left: all {len(ours)} are the task's own, or of texts it measures on"
        )
    return frame.assign(group=pd.factorize(frame[task.fields[0]])[0].astype("int64"), round=0)


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """The folder of built data: the argument, else $DIPAIR_CACHE, else data/cache of the checkout, else ~/.cache."""
    chosen = cache or os.environ.get("DIPAIR_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    root = Path(__file__).resolve().parent.parent
    if (root / "pyproject.toml").is_file() and (root / "data").is_dir():
        return root / "data" / "cache"
    return Path.home() / ".cache" / "dipair-lab"


# ------------------------------------------------------------------------------------------------- built-in tasks

BUILT_IN: dict[str, tuple[tuple[str, ...], str, str]] = {  # name: fields, label, group
    "pydocs": (("query", "passage"), "label", "query"),
    "pydocs-fields": (("name", "summary", "passage"), "label", "summary"),
    "pydocs-topic": (("summary",), "label", ""),
}


def _refuse_own(name: str, own: Sequence[Any], given: Sequence[Any]) -> None:
    """Raise if other fields, label, group or kind are given than the task's own."""
    for what, its, asked in zip(("fields", "label", "group", "kind"), own, given, strict=True):
        if asked and asked != its:
            raise TaskError(f"{name} has {what} = {its!r}, not {asked!r}: leave {what} empty")


def _refuse_scores(name: str, scores: tuple[str, ...]) -> None:
    if scores:
        raise TaskError(
            f"{name} has no teacher's scores, but teacher_score asks for {', '.join(scores)}: they are read from a file of your own; write "
            "texts, label and scores into one"
        )


def _built_in(
    name: str,
    fields: tuple[str, ...],
    label: str,
    group: str,
    kind: str,
    max_train: int,
    cache: str | os.PathLike[str] | None,
    say: Callable[[str], None] | None,
) -> Task:
    from dipair_lib import pydocs

    _refuse_own(name, (*BUILT_IN[name], "classes"), (fields, label, group, kind))
    loads = {"pydocs-fields": pydocs.load_fields, "pydocs-topic": pydocs.load_topics}
    frames, classes, notes = loads.get(name, pydocs.load_pairs)(cache_folder(cache), say)
    texts, _, its_group = BUILT_IN[name]
    return _finish(name, texts, "classes", classes, frames, bool(its_group), max_train, notes)


# ------------------------------------------------------------------------------------------------- reading files


@dataclass(frozen=True)
class Table:
    """A file as read: columns of raw cells, and the line each row started at (None for Parquet).

    In messages rows count from 1 without the header, lines from 1 with it.
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: list[int] | None
    first: int = 0  # rows of the file in front of these, where it is read a part at a time

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def read_table(path: Path, malformed: list[int] | None = None) -> Table:
    """Read one .tsv (no quoting), .csv (standard quoting), .jsonl or .parquet file, each also with .gz.

    A row with a wrong number of cells is an error, unless there is a list to put its line number into: then it is left out.

    Raises TaskError for a file that is missing, empty, without rows, malformed, or not UTF-8.
    """
    suffix = _format(path)
    if not suffix:
        raise TaskError(f"{path}: unknown format; expected one of {', '.join(FORMATS)}, each also with .gz")
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(
            f"{path}: cannot be read ({error}); check the path, or download the file again"
        ) from error
    if not data.strip():
        raise TaskError(f"{path}: the file is empty")
    if suffix == ".parquet":
        return _read_parquet(path, data)
    text = _decode(path, data)
    if suffix == ".jsonl":
        return _read_jsonl(path, text)
    rows = _tsv_rows(text) if suffix == ".tsv" else _csv_rows(path, text)
    return _read_cells(path, rows, malformed)


def _format(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def _decode(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaskError(
            f"{path}, line {line}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; re-encode the file, e.g. "
            f"iconv -f WINDOWS-1252 -t UTF-8 (or -f UTF-16) {path.name} > new{_format(path)}"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TaskError(
            f"{path}, line {line}: NUL byte; a text file has none: re-encode it as UTF-8 (is it UTF-16?)"
        )
    return text


def _tsv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    # Only "\n" ends a row: str.splitlines would also break at U+0085 and U+2028, which mis-decoded texts hold.
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), 1):
        yield number, line.removesuffix("\r").split("\t")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text.rstrip("\r\n") + "\n", newline=""), strict=True)
    start = 1
    try:
        for cells in whole_cells(reader):
            yield start, cells or [""]
            start = reader.line_num + 1
    except csv.Error as error:
        raise TaskError(
            f"{path}, row starting at line {start}: malformed ({error}); quote a cell that holds a comma, a quote or a "
            'line break, and double the quotes inside it ("")'
        ) from error


def whole_cells(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows of a csv.reader whatever the length of a cell: the module's limit of 131,072 characters is for all readers of the process,
    so it is lifted only while a row is read."""
    while True:
        before = csv.field_size_limit(2**31 - 1)  # the most that every platform takes
        try:
            cells = next(reader, None)
        finally:
            csv.field_size_limit(before)
        if cells is None:
            return
        yield cells


def _read_cells(
    path: Path, rows: Iterable[tuple[int, list[str]]], malformed: list[int] | None = None
) -> Table:
    rows = iter(rows)
    header = [name.strip() for name in next(rows)[1]]
    _refuse_twice(f"{path}, line 1", header)
    lines: list[int] = []
    table: list[list[str]] = []
    for line, cells in rows:
        if len(cells) != len(header) and malformed is not None:
            malformed.append(line)
            continue
        if len(cells) != len(header):
            raise TaskError(
                f"{path}, row {len(lines) + 1} (line {line}): malformed, {len(cells)} cells where the header has "
                f"{len(header)} ({', '.join(header)})"
            )
        lines.append(line)
        table.append(cells)
    if not table:
        raise TaskError(f"{path}: a header line ({', '.join(header)}) but no rows")
    return Table(
        path,
        {name: list(column) for name, column in zip(header, zip(*table, strict=True), strict=True)},
        lines,
    )


def _read_jsonl(path: Path, text: str) -> Table:
    rows: list[dict[str, Any]] = []
    for line, content in enumerate(text.rstrip().split("\n"), 1):
        try:
            row = json.loads(content)
            if "\\ud" in content.lower():  # half a character has no UTF-8: no tokenizer could read it
                json.dumps(row, ensure_ascii=False).encode("utf8")
        except (ValueError, RecursionError) as error:
            raise TaskError(
                f"{path}, line {line}: malformed JSON ({error}); expected one object per line"
            ) from error
        if not isinstance(row, dict):
            raise TaskError(f"{path}, line {line}: expected a JSON object, got {type(row).__name__}")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(
        path, {name: [row.get(name) for row in rows] for name in names}, list(range(1, len(rows) + 1))
    )


def _read_parquet(path: Path, data: bytes) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(data)).read()
        columns = {name: table.column(i).to_pylist() for i, name in enumerate(table.column_names)}
    except Exception as error:  # what Arrow raises for a damaged file has no base class in common
        raise TaskError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    _refuse_twice(str(path), table.column_names)
    if not table.num_rows:
        raise TaskError(f"{path}: columns {', '.join(table.column_names)} but no rows")
    return Table(path, columns, None)


def _refuse_twice(where: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TaskError(f"{where}: column {twice[0]!r} occurs twice in the header; rename one")


# ------------------------------------------------------------------------------------------------- folders and columns


def _load_path(
    path: Path,
    fields: tuple[str, ...],
    label: str,
    group: str,
    kind: str,
    shares: tuple[float, ...],
    seed: int,
    max_train: int,
    scores: tuple[str, ...] = (),
) -> Task:
    _check_shares(shares)
    notes: dict[str, Any] = {"source": path.name}
    if path.is_dir():
        tables, ignored = _read_folder(path)
        if ignored:
            notes["ignored_files"] = ignored
    else:
        tables = {"all": read_table(path)}
    first = next(iter(tables.values()))
    fields, label = _choose_columns(first, fields, label, group, scores)
    notes["columns"] = {"fields": list(fields), "label": label, "group": group}
    frames = {split: _frame(table, fields, label, group) for split, table in tables.items()}
    kind = _read_labels(tables, frames, label, kind)
    if group and kind == "classes" and GAIN_NAME not in (*fields, label, group):
        _read_gains(tables, frames)
    _read_scores(tables, frames, scores)

    key = "group" if group else fields[0]
    if "all" in frames:
        frames = _cut(frames["all"], key, dict(zip(SPLITS, shares, strict=True)), seed)
        notes["splits"] = f"cut by hash of {group or fields[0]!r}, shares {list(shares)}, seed {seed}"
    elif "dev" not in frames:
        train, dev, _ = shares
        frames |= _cut(
            frames["train"], key, {"train": train / (train + dev), "dev": dev / (train + dev)}, seed
        )
        tables["dev"] = tables["train"]
        notes["splits"] = f"no dev file: cut from train by hash of {group or fields[0]!r}, seed {seed}"
    else:
        notes["splits"] = "as given"
    frames = {split: frames[split] for split in SPLITS}
    notes["rows_read"] = {split: len(frame) for split, frame in frames.items()}

    frames, dropped = _drop_repeats(frames, fields)
    notes["dropped"] = dropped
    if group:
        shared = set(frames["test"]["group"]) & (set(frames["train"]["group"]) | set(frames["dev"]["group"]))
        if shared:
            notes["test_groups_also_in_train_or_dev"] = len(shared)
    _tell(path, notes)

    classes = _classes(frames["train"]["label"]) if kind == "classes" else ()
    for split, frame in frames.items():
        _check_split(tables.get(split, first), split, frame, label, kind, classes)
    if kind == "classes":
        index = {name: i for i, name in enumerate(classes)}
        frames = {s: f.assign(label=f["label"].map(index).astype("int64")) for s, f in frames.items()}
    if scores:
        scores = _order_scores(first, scores, kind, classes)
        notes["teacher_score"] = list(scores)
    return _finish(path.name, fields, kind, classes, frames, bool(group), max_train, notes, scores=scores)


def _read_folder(folder: Path) -> tuple[dict[str, Table], list[str]]:
    """Tables by split, and the names of the other files of the folder, which are left alone."""
    found: dict[str, Path] = {}
    ignored = []
    for path in sorted(folder.iterdir()):
        split = (
            SPLIT_NAMES.get(path.name.split(".")[0].lower(), "") if _format(path) and path.is_file() else ""
        )
        if not split:
            ignored.append(path.name)
        elif split in found:
            raise TaskError(
                f"{folder}: two files for {split}, {found[split].name} and {path.name}; remove one"
            )
        else:
            found[split] = path
    for split in ("train", "test"):
        if split not in found:
            there = ", ".join(p.name for p in sorted(folder.iterdir())) or "nothing"
            raise TaskError(
                f"{folder}: no {split} file (expected {split}{FORMATS[0]}, {', '.join(FORMATS[1:])}, or with .gz); there "
                f"is {there}. To have one file split, give its own path instead of the folder's"
            )
    return {split: read_table(found[split]) for split in SPLITS if split in found}, ignored


def _choose_columns(
    table: Table, fields: tuple[str, ...], label: str, group: str, scores: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], str]:
    """Fields and label as given, or guessed where the columns leave no choice; a teacher's scores are neither."""
    for name in (*fields, *([label] if label else []), *([group] if group else []), *scores):
        _need_column(table, name)
    for name in scores:
        if name in (*fields, label, group) or scores.count(name) > 1:
            raise TaskError(
                f"{table.path}: column {name!r} is given as teacher_score and as something else, or twice"
            )
    columns = [name for name in table.columns if name not in scores]
    listing = f"columns: {', '.join(columns)}"
    if not label:
        likely = [c for c in columns if c.lower() in LABEL_NAMES and c not in fields]
        likely = [c for c in likely if c.lower() == "label"] or likely
        if len(likely) != 1:
            found = "several columns may be the label" if likely else "no column that is clearly the label"
            hint = "; is the separator another one?" if len(columns) == 1 else ""
            if scores and not likely:
                hint = "; beside a teacher's scores labels are needed too: they are what its students are measured on"
            raise TaskError(f"{table.path}: {found}; say label=... ({listing}){hint}")
        label = likely[0]
    if not fields:
        fields = tuple(c for c in columns if c != label and _looks_like_text(table, c))
        if len(fields) not in (1, 2):
            raise TaskError(f"{table.path}: {len(fields)} columns may be texts; say fields=[...] ({listing})")
    if label in fields:
        raise TaskError(f"{table.path}: column {label!r} is given as label and among the fields")
    if len(set(fields)) != len(fields):
        raise TaskError(f"{table.path}: fields {list(fields)} names a column twice")
    reserved = {"label", "group", "gain", "row"} & set(fields)
    if reserved:
        raise TaskError(
            f"{table.path}: a text column cannot be called {sorted(reserved)[0]!r}; rename it in the file"
        )
    return fields, label


def _looks_like_text(table: Table, column: str) -> bool:
    lower = column.lower()
    if lower in ID_NAMES or lower in LABEL_NAMES or lower.endswith(("_id", "_uid")):
        return False
    values = [v for v in table.columns[column][:200] if v not in (None, "")]
    return any(isinstance(v, str) and _number(v) is None for v in values)


def _need_column(table: Table, name: str) -> None:
    if name not in table.columns:
        close = difflib.get_close_matches(name, table.columns, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TaskError(f"{table.path}: no column {name!r}; there are {', '.join(table.columns)}{hint}")


# ------------------------------------------------------------------------------------------------- texts and labels


def _frame(table: Table, fields: tuple[str, ...], label: str, group: str) -> pd.DataFrame:
    """Columns: fields (checked, stripped str), raw label, group (str), row (0-based row of the file)."""
    for name in (*fields, label, *([group] if group else [])):
        _need_column(table, name)
    columns: dict[str, Any] = {name: texts_of(table, name) for name in fields}
    columns["label"] = table.columns[label]
    columns["group"] = texts_of(table, group) if group else [str(i) for i in range(len(table))]
    columns["row"] = range(len(table))
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def texts_of(table: Table, column: str) -> list[str]:
    """A column's texts without surrounding space; TaskError naming rows that hold none, a NUL character or no text at all."""
    _need_column(table, column)
    bad: list[tuple[int, str]] = []
    texts = []
    for row, value in enumerate(table.columns[column]):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            bad.append((row, "empty"))
            continue
        if isinstance(value, bool | list | dict | bytes):
            bad.append((row, f"{type(value).__name__}, not text"))
            continue
        text = str(value).strip()
        # A text of nothing but spaces and invisible characters is empty to every tokenizer.
        if not any(c.isprintable() and not c.isspace() for c in text):
            bad.append((row, "empty"))
        elif "\0" in text:
            bad.append((row, "holds a NUL character"))
        texts.append(text)
    _complain(table, column, bad, "fill in or remove these rows")
    return texts


def ids_of(table: Table, column: str) -> list[Any]:
    """A column's ids as they are, all texts or all whole numbers of 64 bits with a sign; TaskError naming rows without one, or with another
    (a decimal, a UUID, a date: written as texts they are ids)."""
    _need_column(table, column)
    ids = table.columns[column]
    bad = [(row, why) for row, one in enumerate(ids) if (why := _no_id(one))]
    if not bad and len({type(one) for one in ids}) > 1:
        mixed = (row for row, one in enumerate(ids) if isinstance(one, str))
        bad = [(row, f"{ids[row]!r}, a text among whole numbers") for row in mixed]
    _complain(table, column, bad, "fill in, mend or remove these rows, or write the whole column as text")
    return ids


def _no_id(one: Any) -> str:
    """Why a cell is no id, or nothing."""
    if type(one) is str:
        return "" if one else "no id"
    if type(one) is int:
        return (
            "" if -(2**63) <= one < 2**63 else f"{one!s:.40}, a whole number of more than 64 bits with a sign"
        )
    if one is None or (type(one) is float and math.isnan(one)):
        return "no id"
    return f"{one!r:.60}, not a text or whole number"


def _complain(table: Table, column: str, bad: list[tuple[int, str]], advice: str) -> None:
    """Raise for bad (row, what is wrong with its cell) entries: the first three by name, and how many."""
    if bad:
        shown = "; ".join(f"row {table.first + row + 1}{_line(table, row)}: {why}" for row, why in bad[:3])
        more = f"; {len(bad)} such rows in all" if len(bad) > 3 else ""
        raise TaskError(f"{table.path}, column {column!r}: {shown}{more}; {advice}")


def _line(table: Table, row: int) -> str:
    return f" (line {table.lines[row]})" if table.lines else ""


def _number(value: Any) -> float | None:
    if isinstance(value, bytes) or (isinstance(value, str) and "_" in value):  # Python reads "1_0" as ten
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _read_labels(tables: dict[str, Table], frames: dict[str, pd.DataFrame], label: str, kind: str) -> str:
    """Decide the kind over all files; leaves float scores or class names in the frames' label columns."""
    numbers: dict[str, list[float | None]] = {}
    for split, table in tables.items():
        raw = table.columns[label]
        numbers[split] = values = [_number(v) for v in raw]
        bad = [
            (row, "no label")
            for row, (v, x) in enumerate(zip(raw, values, strict=True))
            if v is None or str(v).strip().lower() in MISSING_LABELS or (x is not None and math.isnan(x))
        ]
        bad += [
            (row, f"{type(v).__name__}, not a label")
            for row, v in enumerate(raw)
            if isinstance(v, list | dict | bytes)
        ]
        _complain(table, label, bad, "label or remove these rows")

    everything = [x for values in numbers.values() for x in values]
    numeric = [x for x in everything if x is not None]
    if kind == "score" or (not kind and len(numeric) >= 0.9 * len(everything)):
        for split, table in tables.items():
            bad = [
                (row, f"{_show(table.columns[label][row])} is not a finite number")
                for row, x in enumerate(numbers[split])
                if x is None or not abs(x) <= LARGEST
            ]
            _complain(table, label, bad, "correct these labels" + ("" if kind else ", or say kind='classes'"))
        if not kind and any(x != int(x) for x in numeric):
            kind = "score"
        elif not kind and len(set(numeric)) > MOST_INTEGER_CLASSES:
            raise TaskError(
                f"{next(iter(tables.values())).path}, column {label!r}: {len(set(numeric))} different whole numbers may "
                "be classes or a score; say kind='classes' or kind='score'"
            )
    whole = len(numeric) == len(everything) and all(abs(x) < EXACT and x == int(x) for x in numeric)
    for split, frame in frames.items():
        if kind == "score":
            frame["label"] = pd.Series(numbers[split], dtype="float32")
        elif whole:
            frame["label"] = [str(int(x)) for x in numbers[split] if x is not None]
        else:
            frame["label"] = [str(v).strip() for v in tables[split].columns[label]]
    return kind or "classes"


def _read_gains(tables: dict[str, Table], frames: dict[str, pd.DataFrame]) -> None:
    """Put a float column `gain` into the frames where every file has one of that name (see GAIN_NAME)."""
    if not all(GAIN_NAME in table.columns for table in tables.values()):
        return
    for split, table in tables.items():
        numbers = [_number(value) for value in table.columns[GAIN_NAME]]
        bad = [
            (row, f"{_show(table.columns[GAIN_NAME][row])} is not a number of 0 or more")
            for row, x in enumerate(numbers)
            if x is None or not 0 <= x <= LARGEST
        ]
        _complain(table, GAIN_NAME, bad, "correct these grades, or rename the column to leave it out")
        frames[split]["gain"] = pd.Series(numbers, dtype="float32")


def _read_scores(tables: dict[str, Table], frames: dict[str, pd.DataFrame], scores: tuple[str, ...]) -> None:
    """Put a teacher's scores into the frames, a float column for each."""
    for split, table in tables.items():
        for name in scores:
            _need_column(table, name)
            numbers = [_number(value) for value in table.columns[name]]
            bad = [
                (row, f"{_show(table.columns[name][row])} is not a finite number")
                for row, x in enumerate(numbers)
                if x is None or not abs(x) <= LARGEST
            ]
            _complain(table, name, bad, "fill in or correct these scores, or remove the rows")
            frames[split][SCORE + name] = pd.Series(numbers, dtype="float32")


def _order_scores(
    table: Table, scores: tuple[str, ...], kind: str, classes: tuple[str, ...]
) -> tuple[str, ...]:
    """The columns of a teacher's scores in the order of the classes: by their names, or as given where no name is a class's."""
    wanted = {1, 2} if len(classes) == 2 else {len(classes) or 1}
    if len(scores) not in wanted:
        expected = f"one for each of the classes {', '.join(classes[:20])}" if classes else "one column"
        expected += ", or one for two classes" if len(classes) == 2 else ""
        raise TaskError(f"{table.path}: teacher_score: expected {expected}, but got {', '.join(scores)}")
    if len(scores) == 1:
        return scores
    found = {one: [name for name in scores if _names_class(name, one)] for one in classes}
    matches = [names[0] for names in found.values() if len(names) == 1]
    if not any(found.values()):
        return scores
    if len(set(matches)) != len(classes):
        raise TaskError(
            f"{table.path}: teacher_score {', '.join(scores)}: some names are those of the classes {', '.join(classes[:20])} and some are "
            "not: name each column by its class, or none"
        )
    return tuple(matches)


def _names_class(column: str, name: str) -> bool:
    """Whether a column is named by a class: "entailment", "p_entailment", "score entailment"."""
    column, name = column.lower(), name.lower()
    return column == name or (column.endswith(name) and column[-len(name) - 1] in "_-. :")


def _classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names in sorted order; as numbers if all are whole numbers."""
    names = set(labels)
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(sorted(names))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _check_split(
    table: Table, split: str, frame: pd.DataFrame, label: str, kind: str, classes: tuple[str, ...]
) -> None:
    if frame.empty:
        raise TaskError(
            f"{table.path}: the {split} split has no rows; give more groups, other shares, or own splits"
        )
    if kind == "classes":
        bad = [
            (int(row), f"label {_show(name)} does not occur in train, which has {', '.join(classes[:20])}")
            for row, name in zip(frame["row"], frame["label"], strict=True)
            if name not in classes
        ]
        _complain(
            table, label, bad, "hidden test labels (-1) cannot be scored: use the labelled dev file as test"
        )
    if frame["label"].nunique() < 2:
        only = frame["label"].iloc[0]
        raise TaskError(
            f"{table.path}, column {label!r}: all {len(frame)} rows of {split} have the label {only}; at least two "
            "different labels are needed in every split"
        )


# ------------------------------------------------------------------------------------------------- splits and repeats


def _check_shares(shares: tuple[float, ...]) -> None:
    if len(shares) != 3 or min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise TaskError(f"splits is {shares}: expected three positive shares of train, dev, test with sum 1")


def _share(value: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the value and the seed."""
    digest = hashlib.sha256(f"{seed}:{value}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _cut(frame: pd.DataFrame, key: str, shares: dict[str, float], seed: int) -> dict[str, pd.DataFrame]:
    place = {value: _share(" ".join(value.split()), seed) for value in frame[key].unique()}
    at = frame[key].map(place).to_numpy(dtype=float)
    ends = np.cumsum(list(shares.values()))[:-1]
    which = np.searchsorted(ends, at, side="right")
    return {split: frame[which == i].reset_index(drop=True) for i, split in enumerate(shares)}


def _drop_repeats(
    frames: dict[str, pd.DataFrame], fields: tuple[str, ...]
) -> tuple[dict[str, pd.DataFrame], dict]:
    """Keep the first row of each text tuple: test before dev before train. Spaces do not make a text another one."""
    seen: dict[tuple[str, ...], tuple[str, Any]] = {}
    dropped = {
        reason: dict.fromkeys(SPLITS, 0)
        for reason in ("duplicate", "conflicting_label", "also_in_later_split")
    }
    kept = {}
    for split in reversed(SPLITS):
        frame = frames[split]
        keep = []
        texts = zip(*(frame[name] for name in fields), strict=True)
        for row, label in zip(texts, frame["label"], strict=True):
            key = tuple(" ".join(text.split()) for text in row)
            first_split, first_label = seen.setdefault(key, (split, None))
            keep.append(first_label is None)
            if first_label is None:
                seen[key] = (split, label)
            elif first_split != split:
                dropped["also_in_later_split"][split] += 1
            else:
                dropped["duplicate" if first_label == label else "conflicting_label"][split] += 1
        kept[split] = frame[np.array(keep, dtype=bool)].reset_index(drop=True)
    return {split: kept[split] for split in SPLITS}, dropped


def _tell(path: Path, notes: dict[str, Any]) -> None:
    said = [
        f"{sum(counts.values())} {reason.replace('_', ' ')} rows dropped ({', '.join(f'{s} {n}' for s, n in counts.items())})"
        for reason, counts in notes["dropped"].items()
        if any(counts.values())
    ]
    shared = notes.get("test_groups_also_in_train_or_dev")
    if shared:
        said.append(f"{shared} test groups also in train or dev (kept: the given splits share them)")
    if said:
        warnings.warn(f"{path}: " + "; ".join(said), stacklevel=4)


def _keep_some(train: pd.DataFrame, max_train: int) -> pd.DataFrame:
    """At most `max_train` rows: whole groups in hash order while they fit, rows in their old order."""
    sizes = train["group"].value_counts()
    order = sorted(sizes.index, key=lambda g: _share(str(g), 0))
    kept, total = set(), 0
    for code in order:
        if total + sizes[code] <= max_train:
            kept.add(code)
            total += int(sizes[code])
    return train[train["group"].isin(kept)].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------- the finished task


def _finish(
    name: str,
    fields: tuple[str, ...],
    kind: str,
    classes: tuple[str, ...],
    frames: dict[str, pd.DataFrame],
    grouped: bool,
    max_train: int,
    notes: dict[str, Any],
    metrics: tuple[str, ...] = (),
    scores: tuple[str, ...] = (),
) -> Task:
    """Group codes, column types, the cut to `max_train`, counts, fingerprint; `metrics` by default those of the kind; `scores` are the
    columns of a teacher's, which leave the frames."""
    columns = [SCORE + one for one in scores]
    if grouped:
        codes, _ = pd.factorize(pd.concat([frames[s]["group"] for s in SPLITS], ignore_index=True))
    else:
        codes = np.arange(sum(len(frames[s]) for s in SPLITS))
    start = 0
    final: dict[str, pd.DataFrame] = {}
    for split in SPLITS:
        graded = kind == "classes" and len(classes) == 2 and "gain" in frames[split]
        frame = frames[split][[*fields, "label", *(["gain"] if graded else []), *columns]].copy()
        frame["label"] = frame["label"].astype("int64" if kind == "classes" else "float32")
        frame.insert(len(fields) + 1, "group", np.asarray(codes[start : start + len(frame)], dtype="int64"))
        start += len(frame)
        final[split] = frame.reset_index(drop=True)
    if 0 < max_train < len(final["train"]):
        final["train"] = _keep_some(final["train"], max_train)
        if final["train"]["label"].nunique() < 2:
            raise TaskError(
                f"max_train={max_train} leaves {name} with fewer than two different training labels"
            )
    taught = {s: final[s][columns].to_numpy(np.float32) for s in SPLITS} if scores else {}
    final = {split: frame.drop(columns=columns) for split, frame in final.items()}
    notes = notes | {"rows": {split: len(frame) for split, frame in final.items()}}
    if grouped:
        notes["queries_with_one_label"] = {
            split: int((frame.groupby("group")["label"].nunique() < 2).sum())
            for split, frame in final.items()
        }
    if kind == "score":
        usual: tuple[str, ...] = ("pearson", "spearman", *(("ndcg@10",) if grouped else ()))
    else:
        usual = ("auc", "accuracy", "f1") if len(classes) == 2 else ("accuracy", "macro_f1")
        usual += ("mrr@10", "ndcg@10") if grouped and len(classes) == 2 else ()
        notes["labels"] = {
            split: {classes[i]: int(n) for i, n in sorted(frame["label"].value_counts().items())}
            for split, frame in final.items()
        }
    return Task(
        name=name,
        fields=fields,
        kind=kind,
        classes=classes,
        metrics=metrics or usual,
        train=final["train"],
        dev=final["dev"],
        test=final["test"],
        grouped=grouped,
        fingerprint=fingerprint(fields, kind, classes, final),
        notes=notes,
        teacher_scores=taught,
    )


def fingerprint(
    fields: Sequence[str], kind: str, classes: Sequence[str], frames: dict[str, pd.DataFrame]
) -> str:
    """sha256 hex over fields, kind, classes and every row of every split, in order; paths and dates play no part."""
    digest = hashlib.sha256(json.dumps([list(fields), kind, list(classes)]).encode())
    for split in SPLITS:
        frame = frames[split]
        digest.update(f"\n{split} {len(frame)}\n".encode())
        columns = (*fields, "label", "group", *(("gain",) if "gain" in frame else ()))
        for row in zip(*(frame[c].tolist() for c in columns), strict=True):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()
