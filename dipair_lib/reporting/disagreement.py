"""The test pairs on which a student and its teacher differ most."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from dipair_lib.data import loading
from dipair_lib.evaluation import results
from dipair_lib.reporting import tryout
from dipair_lib.reporting.explorer import as_html
from dipair_lib.reporting.explorer_widgets import STYLE
from dipair_lib.reporting.wording import plain
from dipair_lib.system import disk

WORST = 20


# --- where they disagree ----------------------------------------------------------------------------------------------------------


def disagreement(folder: Path | str, run: str) -> pd.DataFrame:
    """A student beside its teacher on every test row: ``label``, ``teacher`` and ``student`` (see ``said``),
    ``difference``: of their raw scores, absolute; with three classes or more the mean over the classes, each
    row's logits centred.

    Raises:
        ResultError: one of the two has no logits here, or they are of other rows.
    """
    row = results.load_result(folder, run)
    if not row.teacher_run:
        raise disk.ResultError(f"{run}: expected a student, but it names no teacher")
    own, other = (results.load_logits(folder, one) for one in (run, row.teacher_run))
    if not np.array_equal(own.labels, other.labels):
        raise disk.ResultError(f"{row.teacher_run}: was measured on other examples than {run}")
    a, b = (
        (tryout.said(x)[:, None] if x.shape[1] <= 2 else x - x.mean(1, keepdims=True))
        for x in (own.logits, other.logits)
    )
    return pd.DataFrame(
        {
            "label": own.labels,
            "teacher": tryout.said(other.logits),
            "student": tryout.said(own.logits),
            "difference": np.abs(a - b).mean(1),
        }
    )


@functools.lru_cache(maxsize=2)
def test_texts(parameters: str, sha256: str) -> pd.DataFrame:
    """The texts of a row's test split, a column per field, from its task, which is loaded again.

    Raises:
        ResultError: the task's data is no longer what was measured. TaskError: it cannot be loaded.
    """
    task = loading.load_run_task(json.loads(parameters))
    if task.fingerprint != sha256:
        raise disk.ResultError(
            f"{task.name}: its texts have changed since this was measured (expected sha256 {sha256[:12]}, but got "
            f"{task.fingerprint[:12]}): texts are left out"
        )
    return task.test[list(task.fields)]


def summary(pairs: pd.DataFrame, by: pd.Series, name: str) -> pd.DataFrame:
    """Test rows, mean absolute difference, and how far the student is above the teacher, by a property of the
    rows.
    """
    grouped = pairs.assign(above=pairs["student"] - pairs["teacher"]).groupby(by, observed=True)
    table = grouped.agg(
        rows=("difference", "size"), difference=("difference", "mean"), above=("above", "mean")
    )
    return table.rename_axis(name).reset_index()


def by_label(pairs: pd.DataFrame) -> pd.DataFrame:
    """``summary`` by label; of graded ones with many values by their quartiles."""
    label = pairs["label"]
    return summary(pairs, label if label.nunique() <= 12 else quartiles(label), "label")


def by_length(pairs: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """``summary`` by quartiles of the words of all fields together."""
    words = texts.map(lambda text: len(text.split())).sum(axis=1).reset_index(drop=True)
    return summary(pairs, quartiles(words), "words")


def quartiles(values: pd.Series) -> pd.Series:
    """The quarter of the rows that each value belongs to, named by its least and largest: "11 to 25"."""
    quarter = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values)
    names = {n: f"{part.min():g} to {part.max():g}" for n, part in values.groupby(quarter)}
    named = [names[n] for n in quarter]
    return pd.Series(pd.Categorical(named, list(names.values()), ordered=True), index=values.index)


def worst(pairs: pd.DataFrame, texts: pd.DataFrame, n: int = WORST) -> pd.DataFrame:
    """The rows that differ most, both scores and the beginnings of their texts beside them."""
    first = pairs.sort_values("difference", ascending=False, kind="stable")[:n]
    said = {name: [plain(text, tryout.SHORT) for text in texts[name].iloc[first.index]] for name in texts}
    return pd.concat([first.round(2), pd.DataFrame(said, index=first.index).add_prefix("text: ")], axis=1)


def disagreement_shown(folder: Path | str, run: str, texts: bool = True) -> str:
    """Where a student and its teacher disagree, as HTML, everything escaped.

    Args:
        texts: whether to load the task's texts, for the lengths and the rows that differ most; without,
            nothing but numbers is shown.
    """
    try:
        pairs = disagreement(folder, run)
        parts = [STYLE, "<p><b>By label</b></p>", as_html(by_label(pairs).round(2))]
    except ValueError as error:
        return tryout.line(error)
    if texts:
        try:
            row = results.load_result(folder, run)
            own = test_texts(row.parameters, row.data_sha256 or "")
            parts += ["<p><b>By words of a row's texts</b></p>", as_html(by_length(pairs, own).round(2))]
            parts += [f"<p><b>The {WORST} rows that differ most</b></p>", as_html(worst(pairs, own))]
        except ValueError as error:
            parts.append(tryout.line(error))
    return "".join(parts)
