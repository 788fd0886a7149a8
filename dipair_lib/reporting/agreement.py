"""The task's other metrics beside its headline, and what a person needs who deploys scores and not ranks: how
far a model says what its teacher says, and how far its scores are probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dipair_lib.evaluation import metrics, results
from dipair_lib.evaluation.schema import Logits, Result
from dipair_lib.reporting import wording
from dipair_lib.system import disk

BINS = 15  # of equal width, as in Guo et al. 2017
SAME_ORDER, SAME_CLASS = "same order (Spearman)", "same class"  # as the teacher: the table's name says so
CALIBRATION = "calibration error"


def calibration_error(labels: np.ndarray, logits: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, section 2): rows are put into bins by the probability of
    the class that is predicted; in each, how far the mean of that probability is from the share of rows that
    are right; the mean over rows.

    Args:
        labels: int [n].
        logits: [n, outputs]: one is the log-odds of class 1, several are the input of a softmax.
        bins: of equal width over 0 to 1.
    """
    logits = np.asarray(logits, np.float64)
    both = np.hstack([np.zeros_like(logits), logits]) if logits.shape[1] == 1 else logits
    odds = np.exp(both - both.max(1, keepdims=True))
    sure = (odds / odds.sum(1, keepdims=True)).max(1)
    right = metrics.predicted_class(logits) == labels
    where = np.minimum((sure * bins).astype(int), bins - 1)
    off = np.bincount(where, sure, bins) - np.bincount(where, right, bins)
    return float(np.abs(off).sum() / len(labels))


def same_order(logits: np.ndarray, teacher: np.ndarray) -> float | None:
    """Spearman correlation with the teacher's scores, both [n, 1 or 2]; None for more classes, or where one
    says the same of all rows.
    """
    if logits.shape[1] > 2 or teacher.shape[1] > 2:
        return None
    one = np.ones((1, len(logits)))
    return metrics.number(
        metrics.spearman(metrics.binary_score(teacher), metrics.binary_score(logits)[:, None], one)[0]
    )


def classes(row: Result, logits: np.ndarray) -> np.ndarray:
    """int [n]: what a row's model predicts, at its own threshold where it has one."""
    return metrics.predicted_class(logits - (row.threshold or 0.0) if logits.shape[1] == 1 else logits)


def measured(
    row: Result, found: Logits, teacher: Result | None, taught: Logits | None
) -> dict[str, float | None]:
    """One row's other metrics, its calibration and, where the same test rows are at hand for it, its
    agreement with its teacher.
    """
    of_classes = row.metric not in {"pearson", "spearman"}
    values = {CALIBRATION: calibration_error(found.labels, found.logits) if of_classes else None}
    if teacher is None or taught is None or teacher is row or not np.array_equal(found.labels, taught.labels):
        return values
    values[SAME_ORDER] = same_order(found.logits, taught.logits)
    if of_classes:
        values[SAME_CLASS] = float(np.mean(classes(row, found.logits) == classes(teacher, taught.logits)))
    return values


def read(folder: Path, row: Result | None) -> Logits | None:
    """A row's raw logits; None where they are not at hand or damaged (``dipair verify`` says how)."""
    if row is None or not (results.row_folder(folder, row.run_id) / "logits.npz").exists():
        return None
    try:
        return results.load_logits(folder, row.run_id)
    except disk.ResultError:
        return None


def of_seeds(
    seeds: Sequence[Result], by_run: Mapping[str, Result], stored: Mapping[str, Logits | None]
) -> dict[str, float | None]:
    """The means over a model's seeds; None where a seed lacks a value."""
    all_of: dict[str, list[float | None]] = {}
    for row in seeds:
        values = {wording.metric_name(name): value for name, value in json.loads(row.metrics or "{}").items()}
        if (found := stored.get(row.run_id)) is not None:
            teacher = by_run.get(row.teacher_run or "")
            values |= measured(row, found, teacher, stored.get(row.teacher_run or ""))
        for name, value in values.items():
            all_of.setdefault(name, []).append(value)
    return {
        name: float(np.mean([value for value in values if value is not None]))
        if len(values) == len(seeds) and None not in values
        else None
        for name, values in all_of.items()
    }


def table(data: pd.DataFrame, rows: Iterable[Result], folder: Path | str) -> pd.DataFrame:
    """One line per model of one task, best headline first: other metrics, agreement with its teacher,
    calibration; means over seeds.

    Args:
        data: of ``derived.frame``, one task.
        rows: all of the folder.
        folder: with their raw logits.

    Returns:
        Text for people; without a column that no model has a value of. A dash where one has none.
    """
    by_run = {row.run_id: row for row in rows}
    shown = data[data["family"] != "published"].sort_values("quality", ascending=False, kind="stable")
    named = {run for runs in shown["runs"] for run in runs if run in by_run}
    named |= {by_run[run].teacher_run or "" for run in named}
    stored = {run: read(Path(folder), by_run.get(run)) for run in named}
    lines = []
    for _, line in shown.iterrows():
        values = of_seeds([by_run[run] for run in line["runs"] if run in by_run], by_run, stored)
        lines.append({"model": wording.plain(line["model"]), **values})
    found = pd.DataFrame(lines).dropna(axis=1, how="all")
    for column in found.columns.drop("model", errors="ignore"):
        words = wording.percent if column == SAME_CLASS else "{:.3f}".format
        found[column] = [words(v) if pd.notna(v) else wording.DASH for v in found[column]]
    names = [wording.metric_name(one) for one in (*metrics.METRICS, *metrics.RANKING)]
    order = [c for c in (*names, SAME_ORDER, SAME_CLASS, CALIBRATION) if c in found]
    return found[["model", *order]] if len(found) else found
