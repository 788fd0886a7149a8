"""SST-2, QQP and MNLI of the GLUE benchmark, from the hub or from a local folder, with labels by name.

    load_task("glue/sst2"), load_task("glue/qqp"), load_task("glue/mnli"), load_task("glue/mnli-mm")      from the hub
    DIPAIR_GLUE=folder                                          the same names, from a folder that holds SST-2, QQP or MNLI
    load_task("folder/SST-2")                                                      one official folder by its path

GLUE hides the labels of its test sets. Where they are hidden its dev set is our test set and dev is cut out
of train; the notes, and so each result row, say which it was.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dipair_lib.data import checks, names, splits, tables, task
from dipair_lib.data.files import TaskError
from dipair_lib.data.table import Table, need_column
from dipair_lib.data.task import Task

REPOSITORY = "nyu-mll/glue"
REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
# Of the training texts, by hash, where GLUE's own dev set has to serve as test: a share, but so many texts of
# a small copy.
DEV_SHARE, DEV_TEXTS = 0.02, 50


@dataclass(frozen=True)
class Set:
    """One GLUE task as both sources write it.

    Attributes:
        folder: of the official download.
        subset: on the hub.
        fields: text columns there and here;
        official: the same in the files.
        label: label column of the files.
        classes: names, in GLUE's order.
        metrics: headline first, as GLUE reports them.
        terms: of use, as data/README.md has them.
        dev, test: split names, of files (.tsv) and of the hub.
    """

    folder: str
    subset: str
    fields: tuple[str, ...]
    official: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    terms: str
    dev: tuple[str, str] = ("dev", "validation")
    test: tuple[str, str] = ("test", "test")


PAIR = ("question1", "question2")
MATCHED = Set(
    "MNLI", "mnli", ("premise", "hypothesis"), ("sentence1", "sentence2"), "gold_label",
    ("entailment", "neutral", "contradiction"), ("accuracy", "macro_f1"),
    "mixed free licences", ("dev_matched", "validation_matched"), ("test_matched", "test_matched"),
)  # fmt: skip
MISMATCHED = replace(
    MATCHED, dev=("dev_mismatched", "validation_mismatched"), test=("test_mismatched", "test_mismatched")
)
SETS = {
    "sst2": Set(
        "SST-2", "sst2", ("sentence",), ("sentence",), "label", ("negative", "positive"), ("accuracy", "auc", "f1"), "none stated, research"
    ),
    "qqp": Set(
        "QQP", "qqp", PAIR, PAIR, "is_duplicate", ("not_duplicate", "duplicate"), ("f1", "accuracy", "auc"), "Quora, non-commercial"
    ),
    "mnli": MATCHED,
    "mnli-mm": MISMATCHED,
}  # fmt: skip


def name_of_folder(path: Path) -> str:
    """The GLUE task whose official folder a path is ("sst2" for .../SST-2 with a train file), or ""."""
    names = [name for name, known in SETS.items() if known.folder == path.name]
    return names[0] if names and path.is_dir() and find_file(path, "train") else ""


def load(
    name: str,
    root: Path | None,
    max_train: int = 0,
    given: tuple[tuple[str, ...], str, str, str] = ((), "", "", ""),
) -> Task:
    """A GLUE task.

    Args:
        name: one of ``SETS``.
        root: a folder that holds the official folders; None: $DIPAIR_GLUE, or the hub without it.
        max_train: as in `loading.load_task`.
        given: its fields, label, group and kind, which may only be GLUE's own or empty.

    Raises:
        TaskError: an unknown name, a file, column or label that is not GLUE's, the hub out of reach, the
            extra not installed.
    """
    if name not in SETS:
        raise TaskError(f"glue/{name}: unknown; there are {', '.join(f'glue/{known}' for known in SETS)}")
    known = SETS[name]
    task.refuse_own_columns(f"glue/{name}", (known.fields, "label", "", "classes"), given)
    folder = os.environ.get("DIPAIR_GLUE")
    root = root or (Path(folder).expanduser() if folder else None)
    notes: dict[str, Any] = {"source": f"{REPOSITORY} at {REVISION[:12]}", "terms": known.terms}
    if root is None:
        tables = read_hub(known, REPOSITORY, REVISION)
    elif (root / known.folder).is_dir():
        notes["source"] = f"official folder {known.folder}"
        tables, malformed = read_folder(known, root / known.folder)
        notes |= {"malformed_rows_dropped": malformed} if malformed else {}
    elif (root / known.subset).is_dir():
        notes["source"] = f"local copy of {REPOSITORY}"
        tables = read_hub(known, str(root), None)
    else:
        raise TaskError(
            f"{root}: expected a folder {known.folder} (official) or {known.subset} (of the hub) in it"
        )
    return build(name, known, tables, notes, max_train)


def build(name: str, known: Set, tables: dict[str, Table], notes: dict[str, Any], max_train: int) -> Task:
    """The task of tables whose columns are the fields and ``label`` (class names; None where hidden)."""
    where = Path(f"glue/{name}")
    if all(label is None for label in tables["test"].columns["label"]):
        share = max(DEV_SHARE, min(0.2, DEV_TEXTS / len(tables["train"])))
        dev, _ = known.dev if "official" in notes["source"] else reversed(known.dev)
        notes["splits"] = (
            f"GLUE hides the labels of its test set: what is called test here is GLUE's dev set ({dev}), and dev is cut from train "
            f"({100 * share:.2g} % by hash of {known.fields[0]!r})"
        )
        tables = {"train": tables["train"], "test": tables["dev"]}
    else:
        notes["splits"] = "as given; the test labels are those of the file"
    dropped = {}
    for split, table in tables.items():
        tables[split], dropped[split] = without_empty_texts(table, known.fields)
    if any(dropped.values()):
        notes["rows_with_an_empty_text_dropped"] = dropped
    frames = {
        split: checks.frame_of(table, known.fields, "label", "", most_empty=0)
        for split, table in tables.items()
    }
    if "dev" not in frames:
        frames |= splits.cut(frames["train"], known.fields[0], {"train": 1 - share, "dev": share}, 0)
        tables["dev"] = tables["train"]
    notes["rows_read"] = {split: len(frames[split]) for split in names.SPLITS}
    frames, notes["dropped"] = checks.drop_repeats({s: frames[s] for s in names.SPLITS}, known.fields)
    checks.tell(where, notes)
    for split, frame in frames.items():
        checks.check_split(tables[split], split, frame, "label", "classes", known.classes)
    index = {label: number for number, label in enumerate(known.classes)}
    frames = {split: frame.assign(label=frame["label"].map(index)) for split, frame in frames.items()}
    return task.finish_task(
        f"glue/{name}", known.fields, "classes", known.classes, frames, False, max_train, notes, known.metrics
    )


def without_empty_texts(table: Table, fields: Sequence[str]) -> tuple[Table, int]:
    """The table without rows in which a text is missing (QQP has a few), and how many they were."""
    texts = zip(*(table.columns[field] for field in fields), strict=True)
    keep = [all(text is not None and str(text).strip() for text in row) for row in texts]
    if all(keep):
        return table, 0
    columns = {name: select(values, keep) for name, values in table.columns.items()}
    lines = select(table.lines, keep) if table.lines else None
    return Table(table.path, columns, lines), len(keep) - sum(keep)


def select(values: Sequence[Any], keep: Sequence[bool]) -> list[Any]:
    """The values that are kept."""
    return [value for value, kept in zip(values, keep, strict=True) if kept]


# --- the official files -----------------------------------------------------------------------------------------------------------


def find_file(folder: Path, stem: str) -> Path | None:
    """A split's file, also compressed."""
    found = [folder / f"{stem}.tsv{end}" for end in ("", ".gz")]
    return next((path for path in found if path.is_file()), None)


def read_folder(known: Set, folder: Path) -> tuple[dict[str, Table], dict[str, int]]:
    """Tables of train, dev and test, and how many malformed rows each file had (QQP's train.tsv has some):
    they are dropped.
    """
    found, malformed = {}, {}
    for split, stem in (("train", "train"), ("dev", known.dev[0]), ("test", known.test[0])):
        path = find_file(folder, stem)
        if path is None and split == "test":
            found["test"] = hidden(known)  # many copies leave out what cannot be scored
            continue
        if path is None:
            raise TaskError(f"{folder}: expected {stem}.tsv (or .tsv.gz), but there is none")
        bad: list[int] = []
        table = tables.read_table(path, malformed=bad)
        if bad:
            malformed[path.name] = len(bad)
            lines = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            warnings.warn(f"{path}: {len(bad)} malformed rows dropped (line {lines})", stacklevel=2)
        found[split] = rename(known, table, split)
    return found, malformed


def rename(known: Set, table: Table, split: str) -> Table:
    """A file's table with our column names and labels as class names; without a label column, or as -1, those
    of test are hidden.
    """
    for column in known.official:
        need_column(table, column)
    columns = {ours: table.columns[its] for ours, its in zip(known.fields, known.official, strict=True)}
    if split == "test" and known.label not in table.columns:
        return Table(table.path, columns | {"label": [None] * len(table)}, table.lines)
    need_column(table, known.label)
    names: dict[str, str | None] = (
        {} if known.folder == "MNLI" else dict(zip("01", known.classes, strict=True))
    )
    names |= {"-1": None} if split == "test" else {}
    labels = [names.get(str(label).strip(), str(label)) for label in table.columns[known.label]]
    return Table(table.path, columns | {"label": labels}, table.lines)


def hidden(known: Set) -> Table:
    """A test split of which nothing can be used."""
    return Table(Path("test"), {field: [""] for field in known.fields} | {"label": [None]}, None)


# --- the hub ----------------------------------------------------------------------------------------------------------------------


def read_hub(known: Set, repository: str, revision: str | None) -> dict[str, Table]:
    """Tables of train, dev and test of the hub's repository, or of a local copy of it. Label numbers become
    names by its own list.
    """
    try:
        import datasets
    except ImportError as error:
        raise TaskError(
            f"glue: reading {repository} needs the extra `hub` (pip install 'dipair-lab[hub]'); or set DIPAIR_GLUE to a folder "
            f"that holds the official {known.folder}"
        ) from error
    try:
        found = datasets.load_dataset(repository, known.subset, revision=revision)
    except (OSError, ValueError) as error:
        raise TaskError(
            f"{repository}, {known.subset}: cannot be read ({error}); is there a network? Without one, set DIPAIR_GLUE to a folder "
            f"that holds the official {known.folder}, or a copy of the repository"
        ) from error
    names = {"train": "train", "dev": known.dev[1], "test": known.test[1]}
    missing = [name for name in names.values() if name not in found]
    if missing:
        raise TaskError(
            f"{repository}, {known.subset}: no split {missing[0]!r}; there are {', '.join(found)}"
        )
    return {
        split: hub_table(known, f"{repository}/{known.subset}/{its}", found[its])
        for split, its in names.items()
    }


def hub_table(known: Set, where: str, data: Any) -> Table:
    """One split of the hub; -1 is a hidden label."""
    frame: pd.DataFrame = data.to_pandas()
    table = Table(Path(where), {name: frame[name].tolist() for name in frame}, None)
    for column in (*known.fields, "label"):
        need_column(table, column)
    names = getattr(data.features["label"], "names", None)
    if not names:
        raise TaskError(
            f"{table.path}, column 'label': expected a ClassLabel, whose names say what the numbers mean, got "
            f"{data.features['label'].dtype}; copy the repository with its README.md, which holds them"
        )
    listed: Mapping[int, str] = dict(enumerate(names))
    labels = [None if label == -1 else listed.get(label, str(label)) for label in table.columns["label"]]
    return Table(
        table.path, {field: table.columns[field] for field in known.fields} | {"label": labels}, None
    )
