"""Rows to frames, and what must not be twice: repeats within a split, copies and mirrors across splits;
counted and said.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dipair_lib.data.files import TaskError
from dipair_lib.data.labels import DROP, Frames
from dipair_lib.data.names import SPLITS
from dipair_lib.data.splits import near
from dipair_lib.data.table import MOST_EMPTY, Table, complain, need_column, show, texts_and_gaps, texts_of

MIRRORS = 10  # so many mirrored pairs tell from their labels whether a task is symmetrical
REASONS = ("duplicate", "conflicting_label", "also_in_later_split")
NEAR, MIRROR = "near_copy_in_later_split", "mirror_in_later_split"


def frame_of(
    table: Table, fields: Sequence[str], label: str, group: str, most_empty: float = MOST_EMPTY
) -> pd.DataFrame:
    """Columns: fields (stripped str), raw label, group (str), row (0-based row of the file), `DROP` for rows
    with an empty text.

    Raises:
        TaskError: texts that are none, or so many empty ones that it is no slip.
    """
    for name in (*fields, label, *([group] if group else [])):
        need_column(table, name)
    read, gaps = gaps_of(table, fields, most_empty)
    columns: dict[str, Any] = dict(read)
    columns["label"] = table.columns[label]
    if group:
        columns["group"] = columns[group] if group in columns else texts_of(table, group)
    else:
        columns["group"] = [str(i) for i in range(len(table))]
    columns["row"] = range(len(table))
    columns[DROP] = ["empty_text" if row in gaps else "" for row in range(len(table))]
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def texts_frame(table: Table, fields: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """The texts of some columns, without the rows in which one is empty, and how many those are.

    Raises:
        TaskError: texts that are none, or so many empty ones that it is no slip.
    """
    read, gaps = gaps_of(table, fields, MOST_EMPTY)
    frame = pd.DataFrame({name: texts for name, texts in read.items()}, dtype=object)
    return frame.drop(index=sorted(gaps)).reset_index(drop=True), len(gaps)


def gaps_of(table: Table, fields: Sequence[str], most_empty: float) -> tuple[dict[str, list[str]], set[int]]:
    """Columns of texts, and the rows in which one is empty; TaskError from a share of ``most_empty`` on."""
    read = {name: texts_and_gaps(table, name) for name in fields}
    gaps = {row for _, empty in read.values() for row in empty}
    if gaps and len(gaps) >= most_empty * len(table):
        advice = "fill in or remove these rows"
        if most_empty:
            advice += f" (fewer than {100 * most_empty:.0f} % are left out, here it is {len(gaps):,} of {len(table):,})"
        name = max(read, key=lambda name: len(read[name][1]))
        complain(table, name, [(row, "empty") for row in read[name][1]], advice)
    return {name: texts for name, (texts, _) in read.items()}, gaps


def drop_marked(frames: Frames) -> tuple[Frames, dict[str, dict[str, int]]]:
    """Frames without the rows that are marked in `DROP`, and how many of each split they were, by reason."""
    dropped: dict[str, dict[str, int]] = {}
    for split, frame in frames.items():
        for reason, count in frame[DROP].value_counts().items():
            if reason:
                dropped.setdefault(str(reason), dict.fromkeys(SPLITS, 0))[split] = int(count)
    kept = {
        split: frame[frame[DROP] == ""].drop(columns=DROP).reset_index(drop=True)
        for split, frame in frames.items()
    }
    return kept, dropped


def drop_repeats(
    frames: Frames, fields: Sequence[str], alike: bool = False, mirrored: bool = False
) -> tuple[Frames, dict[str, dict[str, int]]]:
    """Keep the first row of each text tuple: test before dev before train. Spaces do not make a text another
    one.

    Args:
        frames: of the three splits.
        fields: their text columns.
        alike: rows whose texts are `near` those of a later split go, too.
        mirrored: and pairs that a later split has turned round.
    """
    seen: dict[tuple[str, ...], tuple[str, Any]] = {}
    dropped = {reason: dict.fromkeys(SPLITS, 0) for reason in (*REASONS, NEAR, MIRROR)}
    later: set[tuple[str, ...]] = set()
    kept = {}
    for split in reversed(SPLITS):
        frame = frames[split]
        keep = []
        mine = []
        texts = zip(*(frame[name] for name in fields), strict=True)
        for row, label in zip(texts, frame["label"], strict=True):
            key = tuple(" ".join(text.split()) for text in row)
            first_split, first_label = seen.setdefault(key, (split, None))
            new = first_label is None
            if new:
                seen[key] = (split, label)
                folded = tuple(map(near, row)) if alike else ()
                if alike and folded in later:
                    dropped[NEAR][split] += 1
                    new = False
                elif mirrored and folded[::-1] in later:
                    dropped[MIRROR][split] += 1
                    new = False
                elif alike:
                    mine.append(folded)
            elif first_split != split:
                dropped["also_in_later_split"][split] += 1
            else:
                dropped["duplicate" if first_label == label else "conflicting_label"][split] += 1
            keep.append(new)
        later.update(mine)
        kept[split] = frame[np.array(keep, dtype=bool)].reset_index(drop=True)
    told = {reason: counts for reason, counts in dropped.items() if reason in REASONS or any(counts.values())}
    return {split: kept[split] for split in SPLITS}, told


def mirrors(frames: Frames, fields: Sequence[str]) -> tuple[bool, int]:
    """Whether a task of pairs is symmetrical, and how many rows of train and dev a later split holds turned
    round.

    Symmetrical are fields of one name ("question1", "question2") unless their mirrors disagree, and others
    where enough mirrors agree: the same label, of a score up to a tenth of the range.
    """
    if len(fields) != 2:
        return False, 0
    latest: dict[tuple[str, str], tuple[int, Any]] = {}
    rows: list[tuple[tuple[str, str], int]] = []
    for at, split in enumerate(SPLITS):
        keys = zip(frames[split][fields[0]].map(near), frames[split][fields[1]].map(near), strict=True)
        for key, label in zip(keys, frames[split]["label"].tolist(), strict=True):
            latest[key] = (at, label)
            rows.append((key, at))
    turned = {key: latest[key[::-1]] for key in latest if key[0] != key[1] and key[::-1] in latest}
    if not turned:
        return False, 0
    labels = [(latest[key][1], its) for key, (_, its) in turned.items()]
    if frames["train"]["label"].dtype.kind == "f":
        span = max(label for _, label in latest.values()) - min(label for _, label in latest.values())
        same = sum(abs(mine - its) <= 0.1 * span for mine, its in labels)
    else:
        same = sum(mine == its for mine, its in labels)
    stems = [
        re.sub(r"[\W_]*(\d|a|b|left|right)$|^(left|right|\d)[\W_]*", "", name.lower()) for name in fields
    ]
    alike = same >= 0.95 * len(labels) and (stems[0] == stems[1] or len(labels) >= 2 * MIRRORS)
    return alike, sum(key in turned and turned[key][0] > at for key, at in rows)


def shared_texts(frames: Frames, fields: Sequence[str]) -> dict[str, int]:
    """For each field the rows of test one of whose texts train or dev has too, where there are some."""
    found = {}
    for name in fields:
        known = set(frames["train"][name].map(near)) | set(frames["dev"][name].map(near))
        count = sum(near(text) in known for text in frames["test"][name])
        if count:
            found[name] = count
    return found


def tell(path: Path, notes: dict[str, Any], stacklevel: int = 4) -> None:
    """Warn of what the notes say was dropped, is shared by splits, or was read another way than it stands."""
    said = [
        f"{sum(counts.values())} {reason.replace('_', ' ')} rows dropped ({', '.join(f'{s} {n}' for s, n in counts.items())})"
        for reason, counts in notes["dropped"].items()
        if any(counts.values())
    ]
    shared = notes.get("test_groups_also_in_train_or_dev")
    if shared:
        said.append(f"{shared} test groups also in train or dev (kept: the given splits share them)")
    if mirrored := notes.get("mirrors_across_splits"):
        said.append(
            f"{mirrored} pairs that a later split has turned round (kept: their labels or the fields' names say that order matters)"
        )
    for name, count in notes.get("test_texts_also_in_train_or_dev", {}).items():
        said.append(f"{count} test rows have a text of {name!r} that train or dev has too (kept)")
    said = [*notes.get("reading", ()), *said]
    if said:
        warnings.warn(f"{path}: " + "; ".join(said), stacklevel=stacklevel)


def check_split(
    table: Table, split: str, frame: pd.DataFrame, label: str, kind: str, classes: tuple[str, ...]
) -> None:
    """Raise for a split without rows, with a label that train lacks, or with one label only."""
    if frame.empty:
        raise TaskError(
            f"{table.path}: the {split} split has no rows; give more groups, other shares, or own splits"
        )
    if kind == "classes":
        bad = [
            (int(row), f"label {show(name)} does not occur in train, which has {', '.join(classes[:20])}")
            for row, name in zip(frame["row"], frame["label"], strict=True)
            if name not in classes
        ]
        complain(
            table, label, bad, "hidden test labels (-1) cannot be scored: use the labelled dev file as test"
        )
    if frame["label"].nunique() < 2:
        only = frame["label"].iloc[0]
        raise TaskError(
            f"{table.path}, column {label!r}: all {len(frame)} rows of {split} have the label {only}; at least two different labels are "
            "needed in every split"
        )
