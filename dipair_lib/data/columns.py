"""Which columns are texts, label and group: as given, by name or by place, or guessed where the columns leave
no choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dipair_lib.data.files import TaskError
from dipair_lib.data.names import ID_NAMES, LABEL_NAMES, MORE_LABEL_NAMES, SPLIT_NAMES, TEXT_NAMES
from dipair_lib.data.table import Table, is_missing, need_column, number

RESERVED = {"label", "group", "gain", "row"}
LABEL_WORDS = {
    "label", "labels", "score", "scores", "relevance", "grade", "similarity", "class", "target", "duplicate", "match",
    "judgment", "judgement", "gold", "entailment", "rating", "sentiment",
}  # fmt: skip
LABEL_TIERS = ("label",), LABEL_NAMES, MORE_LABEL_NAMES


@dataclass(frozen=True)
class Columns:
    """The columns of a task: ``fields`` texts, ``label``, ``group`` ("" = none), ``scores`` of a teacher;
    what was guessed, in words.
    """

    fields: tuple[str, ...]
    label: str
    group: str
    scores: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


def names_given(fields: Sequence[object], label: object, group: object) -> tuple[tuple[str, ...], str, str]:
    """Names as texts: a place such as 0 becomes "0".

    Raises:
        TaskError: one that YAML read as another thing, such as yes or no.
    """
    for name in (*fields, label, group):
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise TaskError(
                f"fields, label or group: {name!r} is no name of a column; put the name in quotes"
            )
    return tuple(str(name) for name in fields), str(label), str(group)


def choose(
    table: Table, fields: tuple[str, ...], label: str, group: str, scores: tuple[str, ...] = ()
) -> Columns:
    """The columns as given or guessed.

    Raises:
        TaskError: one that is not there, or more than one choice; with what can be pasted.
    """
    missing = [name for name in (*fields, label) if name and name not in table.columns]
    if not table.header and (missing or not (fields and label)):
        raise TaskError(no_header(table))
    fields = tuple(placed(table, name) for name in fields)
    label, group = placed(table, label), placed(table, group)
    scores = tuple(placed(table, name) for name in scores)
    for name in scores:
        if name in (*fields, label, group) or scores.count(name) > 1:
            raise TaskError(
                f"{table.path}: column {name!r} is given as teacher_score and as something else, or twice"
            )
    columns = [name for name in table.columns if name not in scores]
    said: list[str] = []
    if not label:
        label = guess_label(table, columns, fields, bool(scores), said)
    if not fields:
        fields = guess_fields(
            table, [name for name in columns if name not in (label, group)], columns, label, group, said
        )
    if label in fields:
        raise TaskError(f"{table.path}: column {label!r} is given as label and among the fields")
    if len(set(fields)) != len(fields):
        raise TaskError(f"{table.path}: fields {list(fields)} names a column twice")
    if reserved := RESERVED & set(fields):
        raise TaskError(
            f"{table.path}: a text column cannot be called {sorted(reserved)[0]!r}; rename it in the file"
        )
    parts = [name for name in columns if name not in (*fields, label, group) and names_splits(table, name)]
    if parts:
        said.append(
            f"column {parts[0]!r} seems to name splits: it is not used (a file for each split, train, dev and test, is)"
        )
    return Columns(fields, label, group, scores, tuple(said))


def placed(table: Table, name: str) -> str:
    """A column's name: as given, or that of the column at a place counted from 0."""
    if name and name not in table.columns and name.isdecimal() and int(name) < len(table.columns):
        return list(table.columns)[int(name)]
    if name:
        need_column(table, name)
    return name


def no_header(table: Table) -> str:
    """What to say of a table without names, with parameters to paste."""
    first = ", ".join(str(column[0])[:40] for column in table.columns.values())
    names = list(table.columns)
    if len(names) == 1:
        return f"{table.path}: one column only ({first}); expected texts and labels, with tabs, commas or semicolons between them"
    few = [name for name in names if is_few(table, name)]
    label = [names[-1], *(name for name in names if is_label(table, name)), *few][-1]
    texts = [name for name in names if name != label and looks_like_text(table, name)] or names[:1]
    texts = sorted(sorted(texts, key=lambda name: (is_few(table, name), -length(table, name)))[:2], key=int)
    return (
        f"{table.path}: no header, its first line reads as a row ({first}): say which columns are the texts and which the label, by their "
        f'places counted from 0, for example -p "fields=[{",".join(texts)}]" -p label={label}; if it is a header, by their names'
    )


# ------------------------------------------------------------------------------------------------- guesses


def guess_label(
    table: Table, columns: Sequence[str], fields: Sequence[str], scored: bool, said: list[str]
) -> str:
    """The only column that its name makes the label, by the most usual names first."""
    free = [name for name in columns if name not in fields]
    tiers = [[name for name in free if name.strip().lower() in tier] for tier in LABEL_TIERS]
    by_words = [name for name in free if LABEL_WORDS & set(words(name)) and is_label(table, name)]
    likely = next(filter(None, [*tiers, by_words]), [])
    listing = f"columns: {', '.join(columns[:40])}{', ...' * (len(columns) > 40)}"
    if len(likely) == 1:
        if likely[0].lower() not in LABEL_NAMES:
            said.append(f"column {likely[0]!r} taken as label, by its name")
        return likely[0]
    found = "no column that is clearly the label"
    hint = "; is the separator another one?" if len(columns) == 1 else ""
    if likely:
        found = "several columns may be the label"
        hint = ", ".join(f"-p {quoted(f'label={name}')}" for name in likely[:4])
        hint = f": {hint}"
    elif scored:
        hint = "; beside a teacher's scores labels are needed too: they are what its students are measured on"
    few = [name for name in free if is_few(table, name)]
    if not (likely or hint) and few:
        hint = f", for example -p {quoted(f'label={few[-1]}')}"
    raise TaskError(f"{table.path}: {found}; say label=... ({listing}){hint}")


def guess_fields(
    table: Table, free: Sequence[str], columns: Sequence[str], label: str, group: str, said: list[str]
) -> tuple[str, ...]:
    """One or two columns that hold texts; of more the only pair whose names say so ("sentence1" and
    "sentence2").
    """
    texts = tuple(name for name in columns if name != label and looks_like_text(table, name))
    if len(texts) in (1, 2):
        return texts
    pairs = [(a, b) for a in texts for b in texts if is_pair(a, b)]
    few = tuple(name for name in texts if not is_few(table, name, least=1) and name != group)
    likely = pairs[0] if len(pairs) == 1 else few
    if len(likely) in (1, 2):
        left = ", ".join(name for name in texts if name not in likely)
        said.append(
            f"columns {', '.join(map(repr, likely))} taken as texts, by name and content (not {left})"
        )
        return likely
    example = list(likely or free)[:2]
    nested = [
        name for name in free if any(isinstance(value, list | dict) for value in table.columns[name][:200])
    ]
    if nested and not texts:
        raise TaskError(
            f"{table.path}: no column of texts; {nested[0]!r} holds lists or objects: write each text into a column of its own"
        )
    paste = f"-p {quoted('fields=[' + ','.join(example) + ']')}"
    raise TaskError(
        f"{table.path}: {len(texts)} columns may be texts; say fields=[...] (columns: {', '.join(columns)}), for example {paste}"
    )


def quoted(parameter: str) -> str:
    """A parameter as a shell takes it."""
    return parameter if re.fullmatch(r"[\w=.-]+", parameter) else f'"{parameter}"'


def words(name: str) -> list[str]:
    """The words of a column's name, in lower case."""
    return re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())


def looks_like_text(table: Table, column: str) -> bool:
    """Whether a column may hold texts: by its name no id and no label, and something in it is no number."""
    lower = column.lower()
    if (
        lower in ID_NAMES
        or lower in LABEL_NAMES
        or lower.endswith(("_id", "_uid"))
        or "label" in words(column)
    ):
        return False
    values = [value for value in table.columns[column][:200] if value not in (None, "")]
    return any(isinstance(value, str) and number(value) is None for value in values)


def is_pair(one: str, other: str) -> bool:
    """Whether two columns are called the two texts of a pair: a usual name of a text with 1 and 2, A and B,
    or left and right.
    """
    for first, second in (("1", "2"), ("a", "b"), ("left", "right"), ("l", "r"), ("0", "1")):
        plain, its = (re.sub(r"[\W_]+", "", name.lower()) for name in (one, other))
        for stem in (*TEXT_NAMES, "s", "q", ""):
            if {plain} == {stem + first} and {its} == {stem + second} and (stem or len(first) > 1):
                return True
            if {plain} == {first + stem} and {its} == {second + stem} and (stem or len(first) > 1):
                return True
    known = (
        ("premise", "hypothesis"),
        ("query", "passage"),
        ("query", "document"),
        ("query", "text"),
        ("question", "answer"),
        ("anchor", "positive"),
    )
    return (one.lower(), other.lower()) in known


def is_few(table: Table, column: str, least: int = 2) -> bool:
    """Whether a column has a few values again and again, as classes and sources have."""
    values = [str(value) for value in table.columns[column] if not is_missing(value)]
    return least <= len(set(values)) <= 20 and len(values) >= 3 * len(set(values))


def is_label(table: Table, column: str) -> bool:
    """Whether a column may be a label: numbers, or a few values."""
    values = [value for value in table.columns[column] if not is_missing(value)][:1000]
    numbers = [number(str(value).replace(",", ".")) for value in values]
    return bool(values) and (
        sum(x is not None for x in numbers) >= 0.9 * len(values) or is_few(table, column)
    )


def length(table: Table, column: str) -> float:
    """The mean length of a column's first cells."""
    cells = [len(str(value)) for value in table.columns[column][:200]]
    return sum(cells) / max(1, len(cells))


def names_splits(table: Table, column: str) -> bool:
    """Whether every value of a column is the name of a split."""
    values = {str(value).strip().lower() for value in table.columns[column]}
    return len(values) > 1 and values <= set(SPLIT_NAMES)
