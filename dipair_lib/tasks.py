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

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import machine
from .data import checks, columns, labels, splits
from .data.files import FORMATS, TaskError
from .data.labels import SCORE
from .data.names import GAIN_NAME, SPLIT_NAMES, SPLITS
from .data.table import Table, complain, need_column, show, texts_of
from .data.tables import read_table

__all__ = [
    "BUILT_IN", "FORMATS", "SPLITS", "SPLIT_NAMES", "Table", "Task", "TaskError", "cache_folder", "fingerprint", "ids_of", "load_task",
    "load_unlabelled", "read_table", "texts_of",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Task:
    """One data set: `fields` texts per example (1 = sentence, 2 = pair, n = tuple), a label, a group.

    `train`, `dev` and `test` have one str column per field, `label` (int64 index into `classes`, or float32 score) and
    `group` (int64 code: rows that share a query, to be kept together in splits and in the bootstrap; a code of its own
    for every row of one field when there is no group column). A float32 column `gain` is there where the file grades what the two
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

    fields     text columns, in order, by name or by place from 0; () = guess, an error if the columns leave a choice
    label      label column, likewise; "" = guess
    group      column whose equal values stay in one split and are resampled together; "" takes the first of several fields' texts,
               "rows" takes each row by itself
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
    fields, label, group = columns.names_given(fields, label, group)
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
        return _built_in(name, fields, label, group, kind, max_train, cache, say)
    try:
        path = Path(name).expanduser()
        path.exists(), name.encode("utf8")
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        raise TaskError(f"task {show(name)}: neither a name nor a path that can be used ({error})") from error
    given = (fields, label, group, kind)
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
    return _load_path(path, fields, label, group, kind, tuple(splits), seed, max_train, scores)


def load_unlabelled(path: str | os.PathLike[str], task: Task) -> pd.DataFrame:
    """Pairs without labels for a teacher to score, from a file with the task's fields as columns.

    Left out are repeats, pairs that the task holds in any split, and pairs whose first text is one of dev's or test's: nothing that is
    measured on may be learned from.

    Returns:
        One row per pair: the fields, ``group`` (a number for each first text) and ``round`` 0.

    Raises:
        TaskError: as `load_task`, or when nothing is left.
    """
    table = read_table(Path(path).expanduser(), asked=task.fields)
    frame, empty = checks.texts_frame(table, task.fields)
    if empty:
        warnings.warn(f"{path}: {empty} rows with an empty text left out", stacklevel=2)
    frame = frame.drop_duplicates(ignore_index=True)
    near = frame.map(splits.near)
    measured = pd.concat([task.dev, task.test])[list(task.fields)].map(splits.near)
    held = pd.MultiIndex.from_frame(pd.concat([task.train[list(task.fields)].map(splits.near), measured]))
    ours = near[task.fields[0]].isin(measured[task.fields[0]])
    ours |= pd.MultiIndex.from_frame(near).isin(held)
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
        return machine.writable(root / "data" / "cache")
    return machine.writable()


# ------------------------------------------------------------------------------------------------- built-in tasks

ROWS = "rows"  # as `group`: every row by itself
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
    """A task of files of your own: read, understood, cut, freed of what is twice, checked."""
    splits.check_shares(shares)
    notes: dict[str, Any] = {"source": path.name}
    asked = [name for name in (*fields, label, group, *scores) if name and name != ROWS]
    if path.is_dir():
        tables, ignored = splits.read_folder(path, asked)
        if ignored:
            notes["ignored_files"] = ignored
    else:
        tables = {"all": read_table(path, asked=asked)}
    first = next(iter(tables.values()))
    said = [
        f"{split}: {one}" if len(tables) > 1 else one for split, table in tables.items() for one in table.said
    ]
    by_rows = group == ROWS and ROWS not in first.columns
    group = "" if by_rows else group
    chosen = columns.choose(first, fields, label, group, scores)
    fields, label, group, scores = chosen.fields, chosen.label, chosen.group, chosen.scores
    notes["columns"] = {"fields": list(fields), "label": label, "group": group}
    tables, hidden = labels.without_hidden_test(tables, label)
    said += [*chosen.said, *([hidden] if hidden else [])]
    frames = {split: checks.frame_of(table, fields, label, group) for split, table in tables.items()}
    found = labels.read_labels(tables, frames, label, kind)
    kind = found.kind
    if group and kind == "classes" and GAIN_NAME not in (*fields, label, group):
        labels.read_gains(tables, frames)
    labels.read_scores(tables, frames, scores, found)
    said += found.said
    if said:
        notes["reading"] = said

    key = "group" if group else fields[0]
    if group in fields:  # texts that differ in case or composition only are one query
        one = splits.agreed(text for frame in frames.values() for text in frame["group"].unique())
        frames = {split: frame.assign(group=frame["group"].map(one)) for split, frame in frames.items()}
    alike = not group or group in fields
    if "all" in frames:
        frames = splits.cut(frames["all"], key, dict(zip(SPLITS, shares, strict=True)), seed, alike)
        notes["splits"] = f"cut by hash of {group or fields[0]!r}, shares {list(shares)}, seed {seed}"
    elif "dev" not in frames:
        train, dev, _ = shares
        parts = {"train": train / (train + dev), "dev": dev / (train + dev)}
        frames |= splits.cut(frames["train"], key, parts, seed, alike)
        tables["dev"] = tables["train"]
        notes["splits"] = f"no dev file: cut from train by hash of {group or fields[0]!r}, seed {seed}"
    else:
        notes["splits"] = "as given"
    frames = {split: frames[split] for split in SPLITS}
    notes["rows_read"] = {split: len(frame) for split, frame in frames.items()}

    frames, marked = checks.drop_marked(frames)
    symmetrical, mirrored = checks.mirrors(frames, fields)
    frames, repeated = checks.drop_repeats(frames, fields, alike=True, mirrored=symmetrical)
    notes["dropped"] = repeated | marked
    if mirrored and not symmetrical:
        notes["mirrors_across_splits"] = mirrored
    if shared := checks.shared_texts(frames, fields):
        notes["test_texts_also_in_train_or_dev"] = shared
    if group:
        both = set(frames["test"]["group"]) & (set(frames["train"]["group"]) | set(frames["dev"]["group"]))
        if both:
            notes["test_groups_also_in_train_or_dev"] = len(both)
    checks.tell(path, notes)

    classes = labels.classes_of(frames["train"]["label"]) if kind == "classes" else ()
    for split, frame in frames.items():
        checks.check_split(tables.get(split, first), split, frame, label, kind, classes)
    if kind == "classes":
        index = {name: i for i, name in enumerate(classes)}
        frames = {s: f.assign(label=f["label"].map(index).astype("int64")) for s, f in frames.items()}
    if scores:
        scores = labels.order_scores(first, scores, classes)
        notes["teacher_score"] = list(scores)
    together = not group and not by_rows and len(fields) > 1
    if together:
        frames = {split: frame.assign(group=frame[fields[0]]) for split, frame in frames.items()}
        if frames["test"]["group"].duplicated().any():
            notes["groups"] = (
                f"no group column: rows of one {fields[0]!r} are drawn together in every interval (group={ROWS} draws them one by one)"
            )
    return _finish(
        path.name,
        fields,
        kind,
        classes,
        frames,
        bool(group),
        max_train,
        notes,
        scores=scores,
        together=together,
    )


def _keep_some(train: pd.DataFrame, max_train: int) -> pd.DataFrame:
    """At most `max_train` rows: whole groups in hash order while they fit, rows in their old order."""
    sizes = train["group"].value_counts()
    order = sorted(sizes.index, key=lambda g: splits.share(str(g), 0))
    kept, total = set(), 0
    for code in order:
        if total + sizes[code] <= max_train:
            kept.add(code)
            total += int(sizes[code])
    return train[train["group"].isin(kept)].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------- ids


def ids_of(table: Table, column: str) -> list[Any]:
    """A column's ids as they are, all texts or all whole numbers of 64 bits with a sign; TaskError naming rows without one, or with another
    (a decimal, a UUID, a date: written as texts they are ids)."""
    need_column(table, column)
    ids = table.columns[column]
    bad = [(row, why) for row, one in enumerate(ids) if (why := _no_id(one))]
    if not bad and len({type(one) for one in ids}) > 1:
        mixed = (row for row, one in enumerate(ids) if isinstance(one, str))
        bad = [(row, f"{ids[row]!r}, a text among whole numbers") for row in mixed]
    complain(table, column, bad, "fill in, mend or remove these rows, or write the whole column as text")
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
    together: bool = False,
) -> Task:
    """Group codes, column types, the cut to `max_train`, counts, fingerprint; `metrics` by default those of the kind; `scores` are the
    columns of a teacher's, which leave the frames; `together`: there are groups, which nobody named, so they are no queries to rank in."""
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
