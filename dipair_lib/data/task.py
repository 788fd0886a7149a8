"""A task: texts with labels in three splits, the checks they have passed, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dipair_lib.data import splits
from dipair_lib.data.files import TaskError
from dipair_lib.data.labels import SCORE
from dipair_lib.data.names import SPLITS
from dipair_lib.data.table import Table, complain, need_column


@dataclass(frozen=True, eq=False)
class Task:
    """One data set: `fields` texts per example (1 = sentence, 2 = pair, n = tuple), a label, a group.

    `train`, `dev` and `test` have one str column per field, `label` (int64 index into `classes`, or float32
    score) and `group` (int64 code: rows that share a query, to be kept together in splits and in the
    bootstrap; a code of its own for every row of one field when there is no group column). A float32 column
    `gain` is there where the file grades what the two classes only tell apart (see `GAIN_NAME`): nDCG reads
    it. `metrics` has the headline metric first. `fingerprint` is the sha256 of the content of all splits in
    their order, so results that depend on row order can be stored under it. `teacher_scores` are what a file
    holds of a teacher's scores for the rows of each split, float32 [rows, columns], in the order of the
    classes where there is a column for each; {} where none were asked for. They are no part of the
    fingerprint: the rows and labels are the same data, whoever teaches.
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
        """The fingerprint, and with it the teacher's scores where there are some: what a run that reads them
        depends on.
        """
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


ROWS = "rows"  # as `group`: every row by itself


def refuse_own_columns(name: str, own: Sequence[Any], given: Sequence[Any]) -> None:
    """Raise if other fields, label, group or kind are given than the task's own."""
    for what, its, asked in zip(("fields", "label", "group", "kind"), own, given, strict=True):
        if asked and asked != its:
            raise TaskError(f"{name} has {what} = {its!r}, not {asked!r}: leave {what} empty")


def cut_train(train: pd.DataFrame, max_train: int) -> pd.DataFrame:
    """At most `max_train` rows: whole groups in hash order while they fit, rows in their old order."""
    sizes = train["group"].value_counts()
    order = sorted(sizes.index, key=lambda g: splits.share(str(g), 0))
    kept, total = set(), 0
    for code in order:
        if total + sizes[code] <= max_train:
            kept.add(code)
            total += int(sizes[code])
    return train[train["group"].isin(kept)].reset_index(drop=True)


def ids_of(table: Table, column: str) -> list[Any]:
    """A column's ids as they are, all texts or all whole numbers of 64 bits with a sign; TaskError naming
    rows without one, or with another (a decimal, a UUID, a date: written as texts they are ids).
    """
    need_column(table, column)
    ids = table.columns[column]
    bad = [(row, why) for row, one in enumerate(ids) if (why := no_id_reason(one))]
    if not bad and len({type(one) for one in ids}) > 1:
        mixed = (row for row, one in enumerate(ids) if isinstance(one, str))
        bad = [(row, f"{ids[row]!r}, a text among whole numbers") for row in mixed]
    complain(table, column, bad, "fill in, mend or remove these rows, or write the whole column as text")
    return ids


def no_id_reason(one: Any) -> str:
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


def finish_task(
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
    together: bool = False,
) -> Task:
    """Group codes, column types, the cut to `max_train`, counts, fingerprint; `metrics` by default those of
    the kind; `scores` are the columns of a teacher's, which leave the frames; `together`: there are groups,
    which nobody named, so they are no queries to rank in.
    """
    columns = [SCORE + one for one in scores]
    if grouped or together:
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
        final["train"] = cut_train(final["train"], max_train)
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
    """sha256 hex over fields, kind, classes and every row of every split, in order; paths and dates play no
    part.
    """
    digest = hashlib.sha256(json.dumps([list(fields), kind, list(classes)]).encode())
    for split in SPLITS:
        frame = frames[split]
        digest.update(f"\n{split} {len(frame)}\n".encode())
        columns = (*fields, "label", "group", *(("gain",) if "gain" in frame else ()))
        for row in zip(*(frame[c].tolist() for c in columns), strict=True):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()
