"""Tasks by name or path, from built-in sources or a person's own files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dipair_lib.data import checks, columns, labels, splits, task
from dipair_lib.data.files import TaskError
from dipair_lib.data.names import GAIN_NAME, SPLITS
from dipair_lib.data.table import Table, show
from dipair_lib.data.tables import read_table
from dipair_lib.data.task import Task
from dipair_lib.system import machine


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
    cache      folder for built data, default `machine.cache_folder()`
    say        called with one line of progress when something slow is built

    A folder with its own train, dev (or validation, valid, val) and test files is used as it is split; when
    only dev is missing, it is cut out of train. Labels are mapped by name: classes are the train labels,
    sorted (numerically if they are numbers). Of several rows with the same texts the first is kept; test wins
    over dev, dev over train.

    Raises TaskError when anything cannot be used.
    """
    fields, label, group = columns.names_given(fields, label, group)
    if max_train < 0:
        raise TaskError(f"max_train is {max_train}: give 0 for all training rows or a positive number")
    if kind not in ("", "classes", "score"):
        raise TaskError(f"kind is {kind!r}: give 'classes', 'score' or '' (guess)")
    from dipair_lib.data.sources import glue, marco, products

    scores = teacher_score.split(",") if isinstance(teacher_score, str) else teacher_score
    scores = tuple(one.strip() for one in scores if one.strip())
    name = os.fspath(name_or_path)
    if name in BUILT_IN:
        refuse_own_scores(name, scores)
        return load_built_in(name, fields, label, group, kind, max_train, cache, say)
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
        refuse_own_scores(name, scores)
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
    return load_path(path, fields, label, group, kind, tuple(splits), seed, max_train, scores)


# Those of a notebook's parameters that name its task.
TASK_PARAMETERS = ("task", "fields", "label", "group", "kind", "max_train", "teacher_score")


def load_run_task(parameters: Mapping[str, Any], say: Callable[[str], None] | None = None) -> Task:
    """The task a set of notebook parameters names by those of TASK_PARAMETERS it has; ``say`` is told of slow
    work.
    """
    known = {name: parameters[name] for name in TASK_PARAMETERS[2:] if name in parameters}
    return load_task(parameters["task"], fields=tuple(parameters.get("fields") or ()), say=say, **known)


def load_unlabelled(path: str | os.PathLike[str], task: Task) -> pd.DataFrame:
    """Pairs without labels for a teacher to score, from a file with the task's fields as columns.

    Left out are repeats, pairs that the task holds in any split, and pairs whose first text is one of dev's
    or test's: nothing that is measured on may be learned from.

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


BUILT_IN: dict[str, tuple[tuple[str, ...], str, str]] = {  # name: fields, label, group
    "pydocs": (("query", "passage"), "label", "query"),
    "pydocs-fields": (("name", "summary", "passage"), "label", "summary"),
    "pydocs-topic": (("summary",), "label", ""),
}


def refuse_own_scores(name: str, scores: tuple[str, ...]) -> None:
    if scores:
        raise TaskError(
            f"{name} has no teacher's scores, but teacher_score asks for {', '.join(scores)}: they are read from a file of your own; write "
            "texts, label and scores into one"
        )


def load_built_in(
    name: str,
    fields: tuple[str, ...],
    label: str,
    group: str,
    kind: str,
    max_train: int,
    cache: str | os.PathLike[str] | None,
    say: Callable[[str], None] | None,
) -> Task:
    from dipair_lib.data.sources import pydocs

    task.refuse_own_columns(name, (*BUILT_IN[name], "classes"), (fields, label, group, kind))
    loads = {"pydocs-fields": pydocs.load_fields, "pydocs-topic": pydocs.load_topics}
    frames, classes, notes = loads.get(name, pydocs.load_pairs)(machine.cache_folder(cache), say)
    texts, _, its_group = BUILT_IN[name]
    return task.finish_task(name, texts, "classes", classes, frames, bool(its_group), max_train, notes)


def load_path(
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
    asked = [name for name in (*fields, label, group, *scores) if name and name != task.ROWS]
    tables = read_tables(path, asked, notes)
    first = next(iter(tables.values()))
    by_rows = group == task.ROWS and task.ROWS not in first.columns
    chosen = columns.choose(first, fields, label, "" if by_rows else group, scores)
    fields, label, group = chosen.fields, chosen.label, chosen.group
    notes["columns"] = {"fields": list(fields), "label": label, "group": group}
    tables, frames, kind = understand(tables, chosen, kind, notes)
    frames = cut_splits(frames, chosen, shares, seed, notes)
    frames = without_repeats(frames, fields, group, notes)
    checks.tell(path, notes)

    classes = labels.classes_of(frames["train"]["label"]) if kind == "classes" else ()
    for split, frame in frames.items():  # a dev that was cut is of the train file
        table = tables.get(split, tables.get("train", first))
        checks.check_split(table, split, frame, label, kind, classes)
    if kind == "classes":
        index = {name: i for i, name in enumerate(classes)}
        frames = {s: f.assign(label=f["label"].map(index).astype("int64")) for s, f in frames.items()}
    scores = chosen.scores
    if scores:
        scores = labels.order_scores(first, scores, classes)
        notes["teacher_score"] = list(scores)
    together = not group and not by_rows and len(fields) > 1
    if together:
        frames = {split: frame.assign(group=frame[fields[0]]) for split, frame in frames.items()}
        if frames["test"]["group"].duplicated().any():
            notes["groups"] = (
                f"no group column: rows of one {fields[0]!r} are drawn together in every interval (group={task.ROWS} draws them one by one)"
            )
    about = (path.name, fields, kind, classes, frames, bool(group), max_train, notes)
    return task.finish_task(*about, scores=scores, together=together)


def read_tables(path: Path, asked: list[str], notes: dict[str, Any]) -> dict[str, Table]:
    """The tables of a folder by split, or of one file under "all"; files that were passed over are noted."""
    if not path.is_dir():
        return {"all": read_table(path, asked=asked)}
    tables, ignored = splits.read_folder(path, asked)
    if ignored:
        notes["ignored_files"] = ignored
    return tables


def understand(
    tables: dict[str, Table], chosen: columns.Columns, kind: str, notes: dict[str, Any]
) -> tuple[dict[str, Table], dict[str, pd.DataFrame], str]:
    """The tables without a hidden test, their frames with labels, gains and scores read, and the kind; what
    was guessed is noted.
    """
    fields, label, group = chosen.fields, chosen.label, chosen.group
    said = [
        f"{split}: {one}" if len(tables) > 1 else one for split, table in tables.items() for one in table.said
    ]
    tables, hidden = labels.without_hidden_test(tables, label)
    frames = {split: checks.frame_of(table, fields, label, group) for split, table in tables.items()}
    found = labels.read_labels(tables, frames, label, kind)
    if group and found.kind == "classes" and GAIN_NAME not in (*fields, label, group):
        labels.read_gains(tables, frames)
    labels.read_scores(tables, frames, chosen.scores, found)
    if said := [*said, *chosen.said, *([hidden] if hidden else []), *found.said]:
        notes["reading"] = said
    return tables, frames, found.kind


def cut_splits(
    frames: dict[str, pd.DataFrame],
    chosen: columns.Columns,
    shares: tuple[float, ...],
    seed: int,
    notes: dict[str, Any],
) -> dict[str, pd.DataFrame]:
    """Train, dev and test as given, or what is missing of them cut by hash; how, and how many rows, is noted."""
    fields, group = chosen.fields, chosen.group
    key, by = "group" if group else fields[0], group or fields[0]
    if group in fields:  # texts that differ in case or composition only are one query
        one = splits.agreed(text for frame in frames.values() for text in frame["group"].unique())
        frames = {split: frame.assign(group=frame["group"].map(one)) for split, frame in frames.items()}
    alike = not group or group in fields
    if "all" in frames:
        frames = splits.cut(frames["all"], key, dict(zip(SPLITS, shares, strict=True)), seed, alike)
        notes["splits"] = f"cut by hash of {by!r}, shares {list(shares)}, seed {seed}"
    elif "dev" not in frames:
        train, dev, _ = shares
        parts = {"train": train / (train + dev), "dev": dev / (train + dev)}
        frames = frames | splits.cut(frames["train"], key, parts, seed, alike)
        notes["splits"] = f"no dev file: cut from train by hash of {by!r}, seed {seed}"
    else:
        notes["splits"] = "as given"
    notes["rows_read"] = {split: len(frames[split]) for split in SPLITS}
    return {split: frames[split] for split in SPLITS}


def without_repeats(
    frames: dict[str, pd.DataFrame], fields: tuple[str, ...], group: str, notes: dict[str, Any]
) -> dict[str, pd.DataFrame]:
    """The frames without marked and repeated rows; what was dropped, and what two splits share, is noted."""
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
    return frames
