"""A column of labels to classes or scores: what is missing is dropped and counted, spellings of one class are
one, doubt is asked.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dipair_lib.data.files import TaskError
from dipair_lib.data.names import GAIN_NAME
from dipair_lib.data.table import MOST_EMPTY, Table, complain, is_missing, need_column, number, show

Tables = dict[str, Table]
Frames = dict[str, pd.DataFrame]

DROP = "\0drop"  # the column of a frame that says why a row is left out, "" where it stays
SCORE = "\0teacher score "  # begins the name of a column of a teacher's scores while a task is loaded: no column of a file has it
MISSING_LABELS = ("", "nan", "null", "<na>", "n/a")
DOUBTFUL_LABELS = (
    "-",
    "--",
    "?",
    "??",
    ".",
    "na",
    "#n/a",
    "#na",
    "nil",
    "missing",
    "unlabeled",
    "unlabelled",
)
LARGEST = float(np.finfo(np.float32).max)  # scores are float32
EXACT = 2.0**53  # from here on whole numbers are no longer told apart as floats
MOST_INTEGER_CLASSES = 20  # more distinct integers than this may be classes or scores: the user has to say
MOST_CLASSES = (
    200  # more names than this are asked for, as are more than MOST_INTEGER_CLASSES with few rows each
)
FEWEST_ROWS = 10  # of a class, in the mean


@dataclass
class Labels:
    """What a column of labels turned out to be: "classes" or "score", and what was done, in words."""

    kind: str
    said: list[str] = field(default_factory=list)


def without_hidden_test(tables: Tables, label: str) -> tuple[Tables, str]:
    """The tables without a test split whose labels are hidden (missing, or -1 where train has none): dev is
    then the test split.

    Returns:
        The tables, and what was done in words; the latter "" where nothing was.
    """
    if "test" not in tables or "train" not in tables or label not in tables["train"].columns:
        return tables, ""
    test = tables["test"].columns.get(label)
    train = tables["train"].columns[label]
    if test is None:
        hidden = "there is no such column"
    elif all(map(is_unlabelled, test)):
        hidden = "none is given"
    elif all(number(value) == -1 for value in test) and not any(number(value) == -1 for value in train):
        hidden = "all are -1"
    else:
        return tables, ""
    others = [split for split in tables if split not in ("train", "dev", "test")]
    named = tables["dev"].path.name if "dev" in tables else ""
    if "dev" in tables and label in tables["dev"].columns:
        kept = {"train": tables["train"], "test": tables["dev"]}
        use = f"dev ({named}) is the test split in its place, and dev is cut from train"
    else:
        kept, use = {"all": tables["train"]}, "it is left out, and train is cut into train, dev and test"
    return kept | {
        split: tables[split] for split in others
    }, f"the test split's labels are hidden ({hidden}): {use}"


def is_unlabelled(value: Any) -> bool:
    """Whether a cell is no label at all."""
    return is_missing(value) or str(value).strip().lower() in MISSING_LABELS


def read_labels(tables: Tables, frames: Frames, label: str, kind: str) -> Labels:
    """Decide the kind over all files; leaves float scores or class names in the frames' label columns, and a
    reason in `DROP` where a row has no label.

    Raises:
        TaskError: labels that are missing in too many rows, are none, or leave a doubt; with the row.
    """
    found = Labels(kind)
    drop_missing(tables, frames, label, found)
    numbers = numbers_of(tables, frames, label, found)
    everything = [x for values in numbers.values() for x in values]
    numeric = [x for x in everything if x is not None]
    if kind == "score" or (not kind and everything and len(numeric) >= 0.9 * len(everything)):
        for split, table in tables.items():
            bad = [
                (int(row), f"{show(table.columns[label][row])} is not a finite number")
                for row, x in zip(live(frames[split]), numbers[split], strict=True)
                if x is None or not abs(x) <= LARGEST
            ]
            complain(table, label, bad, "correct these labels" + ("" if kind else ", or say kind='classes'"))
        if not kind and any(x != int(x) for x in numeric):
            found.kind = "score"
        elif not kind and len(set(numeric)) > MOST_INTEGER_CLASSES:
            raise TaskError(
                f"{first_path(tables)}, column {label!r}: {len(set(numeric))} different whole numbers may be classes or a score; say "
                "kind='classes' or kind='score' (-p kind=score)"
            )
    found.kind = found.kind or "classes"
    whole = len(numeric) == len(everything) and all(abs(x) < EXACT and x == int(x) for x in numeric)
    raw = {
        split: [tables[split].columns[label][row] for row in live(frame)] for split, frame in frames.items()
    }
    if found.kind == "classes" and not whole:
        one = spellings(str(value).strip() for values in raw.values() for value in values)
        tell_spellings(one, found)
        names = Counter(one[str(value).strip()] for values in raw.values() for value in values)
        if not kind:
            refuse_free_text(first_path(tables), label, names)
    for split, frame in frames.items():
        values: list[Any]
        if found.kind == "score":
            values = list(numbers[split])
        elif whole:
            values = [str(int(x)) for x in numbers[split] if x is not None]
        else:
            values = [one[str(value).strip()] for value in raw[split]]
        column = pd.Series([None] * len(frame), dtype=object)
        column[live(frame)] = values
        frame["label"] = column.astype("float32") if found.kind == "score" else column
    return found


def live(frame: pd.DataFrame) -> np.ndarray:
    """The rows that stay, int64."""
    return np.flatnonzero((frame[DROP] == "").to_numpy())


def first_path(tables: Tables) -> Path:
    return next(iter(tables.values())).path


# ------------------------------------------------------------------------------------------------- missing labels


def drop_missing(tables: Tables, frames: Frames, label: str, found: Labels) -> None:
    """Mark the rows without a label: those of no value, of a rare sign such as "-" or "?", and a rare -1
    among numbers from 0 on.

    Raises:
        TaskError: so many that it is no slip; a sign that may be a class; another thing than a label.
    """
    for split, table in tables.items():
        raw, rows = table.columns[label], live(frames[split])
        bad = [
            (int(row), f"{type(raw[row]).__name__}, not a label")
            for row in rows
            if isinstance(raw[row], list | dict | bytes)
        ]
        complain(table, label, bad, "label or remove these rows")
        missing = [int(row) for row in rows if is_unlabelled(raw[row])]
        if len(missing) >= MOST_EMPTY * len(raw):
            complain(table, label, [(row, "no label") for row in missing], "label or remove these rows")
        frames[split].loc[missing, DROP] = "missing_label"
    cells = {
        split: {int(row): str(tables[split].columns[label][row]).strip() for row in live(frame)}
        for split, frame in frames.items()
    }
    counts = Counter(cell for rows in cells.values() for cell in rows.values())
    signs = [name for name in counts if name.lower() in DOUBTFUL_LABELS or name == "None"]
    numbers = {name: number(name) for name in counts}
    minus = [name for name, x in numbers.items() if x == -1]
    others = [x for name, x in numbers.items() if x != -1 and name not in signs]
    known = [x for x in others if x is not None]
    scores = any(x != int(x) for x in known if math.isfinite(x))
    if minus and 2 <= len(known) == len(others) and min(known) >= 0 and (scores or min(known) == 0):
        signs += minus
    if len(counts) - len(signs) < 2:
        return
    for sign in signs:
        share = counts[sign] / sum(counts.values())
        told = f"label {sign!r} ({counts[sign]:,} row{'s' * (counts[sign] > 1)}, {100 * share:.2g} %)"
        may_be_class = sign in minus and set(known) == {0, 1}  # -1, 0, 1: against, neutral, for
        if found.kind == "classes" or (
            share >= MOST_EMPTY and (may_be_class or (sign in minus and found.kind))
        ):
            found.said.append(
                f"{told} taken as {'a score' if found.kind == 'score' else 'a class of its own'}"
            )
        elif share < MOST_EMPTY:
            found.said.append(
                f"{told} taken as missing" + ("" if scores else " (-p kind=classes makes it a class)")
            )
            for split, inside in cells.items():
                signed = [row for row, cell in inside.items() if cell == sign]
                frames[split].loc[signed, DROP] = "missing_label"
        else:
            kind, what = (
                ("score", "a score") if scores and sign in minus else ("classes", "a class of its own")
            )
            raise TaskError(
                f"{first_path(tables)}, column {label!r}: {told} may mean that there is none: remove these rows, or say kind={kind!r} "
                f"(-p kind={kind}) to take it as {what}"
            )


# ------------------------------------------------------------------------------------------------- numbers


DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


def written_otherwise(value: Any) -> tuple[float | None, str]:
    """A number as people write it, and how: "0,25" with a decimal comma, "85 %" in percent, a minus sign that
    is none of ASCII's.
    """
    text = value.strip().replace("\u2212", "-") if isinstance(value, str) else ""
    percent = text.endswith("%")
    text = text.removesuffix("%").rstrip()
    comma = bool(DECIMAL_COMMA.fullmatch(text))
    found = number(text.replace(",", ".") if comma else text)
    how = "decimal comma" if comma else "percent" if percent else "another minus sign"
    return (found / 100 if percent and found is not None else found), how


def numbers_of(tables: Tables, frames: Frames, column: str, found: Labels) -> dict[str, list[float | None]]:
    """A column as numbers by split, of the rows that stay; None for what is none. "0,25", "25 %" are numbers
    where nearly all cells are.

    Raises:
        TaskError: "1,250" may be a thousand or one and a quarter.
    """
    raw = {
        split: [tables[split].columns[column][row] for row in live(frame)] for split, frame in frames.items()
    }
    plain = {split: [number(value) for value in values] for split, values in raw.items()}
    odd = [
        value
        for split, values in raw.items()
        for value, x in zip(values, plain[split], strict=True)
        if x is None
    ]
    readable = [value for value in odd if written_otherwise(value)[0] is not None]
    if not readable or len(odd) - len(readable) > 0.1 * sum(map(len, raw.values())):
        return plain
    commas = [value.strip() for value in readable if DECIMAL_COMMA.fullmatch(value.strip())]
    if commas and all(map(THOUSANDS.fullmatch, commas)):
        raise TaskError(
            f"{first_path(tables)}, column {column!r}: {commas[0]!r} may be {commas[0].replace(',', '')} or {commas[0].replace(',', '.')}; "
            "write it with a point, or without the comma"
        )
    ways = Counter(written_otherwise(value)[1] for value in readable)
    told = ", ".join(f"{way} in {count:,} cells" for way, count in ways.items())
    found.said.append(f"numbers of column {column!r} read as people write them: {told}")
    return {
        split: [
            written_otherwise(value)[0] if x is None else x
            for value, x in zip(values, plain[split], strict=True)
        ]
        for split, values in raw.items()
    }


# ------------------------------------------------------------------------------------------------- class names


def spellings(names: Iterable[str]) -> dict[str, str]:
    """For each name the one that stands for all that differ from it in case, white space or composition only:
    the most frequent.
    """
    counts = Counter(names)
    best: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        best.setdefault(folded(name), name)
    return {name: best[folded(name)] for name in counts}


def folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def tell_spellings(one: dict[str, str], found: Labels) -> None:
    """Say which spellings were made one class."""
    merged: dict[str, list[str]] = {}
    for name, its in one.items():
        if name != its:
            merged.setdefault(its, []).append(name)
    found.said += [
        f"labels {', '.join(map(repr, [its, *names]))} are one class, {its!r}"
        for its, names in merged.items()
    ]


def refuse_free_text(path: Path, label: str, names: Counter[str]) -> None:
    """Raise where there are so many classes, or so few rows of each, that the column is more likely free
    text.
    """
    rows = names.total()
    if len(names) > MOST_CLASSES or (len(names) > MOST_INTEGER_CLASSES and rows < FEWEST_ROWS * len(names)):
        shown = ", ".join(show(name) for name, _ in names.most_common(3))
        raise TaskError(
            f"{path}, column {label!r}: {len(names)} different labels in {rows:,} rows ({shown}, ...) may be free text; name another "
            "column with label=..., or say kind='classes' (-p kind=classes)"
        )


def classes_of(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names in sorted order; as numbers if all are whole numbers."""
    names = set(labels)
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(sorted(names))


# ------------------------------------------------------------------------------------------------- gains and a teacher's scores


def read_gains(tables: Tables, frames: Frames) -> None:
    """Put a float column ``gain`` into the frames where every file has one of that name (see
    `names.GAIN_NAME`).
    """
    if not all(GAIN_NAME in table.columns for table in tables.values()):
        return
    for split, table in tables.items():
        numbers = [number(value) for value in table.columns[GAIN_NAME]]
        bad = [
            (int(row), f"{show(table.columns[GAIN_NAME][row])} is not a number of 0 or more")
            for row in live(frames[split])
            if (x := numbers[row]) is None or not 0 <= x <= LARGEST
        ]
        complain(table, GAIN_NAME, bad, "correct these grades, or rename the column to leave it out")
        frames[split]["gain"] = pd.Series(numbers, dtype="float32")


def read_scores(tables: Tables, frames: Frames, scores: Sequence[str], found: Labels) -> None:
    """Put a teacher's scores into the frames, a float column for each."""
    for table in tables.values():
        for name in scores:
            need_column(table, name)
    for name in scores:
        numbers = numbers_of(tables, frames, name, found)
        for split, table in tables.items():
            rows = live(frames[split])
            bad = [
                (int(row), f"{show(table.columns[name][row])} is not a finite number")
                for row, x in zip(rows, numbers[split], strict=True)
                if x is None or not abs(x) <= LARGEST
            ]
            complain(table, name, bad, "fill in or correct these scores, or remove the rows")
            column = pd.Series(np.nan, index=range(len(table)), dtype="float32")
            column[rows] = np.array(numbers[split], np.float32)
            frames[split][SCORE + name] = column


def order_scores(table: Table, scores: tuple[str, ...], classes: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of a teacher's scores in the order of the classes: by their names, or as given where no
    name is a class's.
    """
    wanted = {1, 2} if len(classes) == 2 else {len(classes) or 1}
    if len(scores) not in wanted:
        expected = f"one for each of the classes {', '.join(classes[:20])}" if classes else "one column"
        expected += ", or one for two classes" if len(classes) == 2 else ""
        raise TaskError(f"{table.path}: teacher_score: expected {expected}, but got {', '.join(scores)}")
    if len(scores) == 1:
        return scores
    found = {one: [name for name in scores if names_class(name, one)] for one in classes}
    matches = [names[0] for names in found.values() if len(names) == 1]
    if not any(found.values()):
        return scores
    if len(set(matches)) != len(classes):
        raise TaskError(
            f"{table.path}: teacher_score {', '.join(scores)}: some names are those of the classes {', '.join(classes[:20])} and some are "
            "not: name each column by its class, or none"
        )
    return tuple(matches)


def names_class(column: str, name: str) -> bool:
    """Whether a column is named by a class: "entailment", "p_entailment", "score entailment"."""
    column, name = column.lower(), name.lower()
    return column == name or (column.endswith(name) and column[-len(name) - 1] in "_-. :")
