"""Which rows are one model, and which are the teachers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from dipair_lib.evaluation.schema import Result

ONE_MODEL = ["task", "data_sha256", "model"]  # what rows of one model share, its seeds apart
NO_CHOICE = {"seed", "n_seeds", "clock", "threads", "device", "out"}  # parameters that make no other model


def parameters_of(text: object) -> dict[str, Any]:
    """A row's parameters, as far as they choose what is trained; none where they cannot be read."""
    try:
        found = json.loads(str(text))
    except ValueError:
        return {}
    return {k: v for k, v in found.items() if k not in NO_CHOICE} if isinstance(found, dict) else {}


QUALITY = ["quality", "quality_low", "quality_high"]


def teachers(rows: Iterable[Result]) -> list[Result]:
    """The rows the others name as their teacher, or that say what kind of teacher they are; of older rows
    also the one called so.
    """
    rows = [row for row in rows if row.family != "published"]
    named = {row.teacher_run for row in rows}
    return [
        row
        for row in rows
        if row.run_id in named
        or row.teacher_kind
        or (row.family == "cross-encoder" and row.model.lower() == "teacher")
    ]


def teacher_of(table: pd.DataFrame) -> pd.Series | None:
    """The teacher's line (the last one if a folder holds several), or None."""
    rows = table[table["teacher"] & table["quality"].notna()]
    return rows.iloc[-1] if len(rows) else None


def require_one_task(table: pd.DataFrame) -> None:
    """Plots and choices never mix tasks: their qualities are on different scales."""
    tasks = table["task"].dropna().unique()
    if len(tasks) > 1:
        raise ValueError(
            f"expected the rows of one task, but got {', '.join(map(str, tasks))}: take one, e.g. "
            f"frame[frame['task'] == {str(tasks[0])!r}]"
        )


def teacher_ages(students: Iterable[Result], rows: Iterable[Result]) -> dict[str, int]:
    """run_id of each teacher that students learned from -> how many newer ones of the same data and seed
    taught some too; 0 for the newest.

    Students of a teacher and of the one that took its place are not compared as if nothing but their own
    training differed.
    """
    by_id = {row.run_id: row for row in rows}
    known: dict[tuple[str | None, int], dict[str, str]] = {}
    for student in students:
        run = student.teacher_run or ""
        seed, made = (by_id[run].seed or 0, by_id[run].created_utc) if run in by_id else (0, "")
        known.setdefault((student.data_sha256, seed), {})[run] = made
    return {
        run: age
        for made in known.values()
        for age, run in enumerate(sorted(made, key=lambda one: (made[one], one), reverse=True))
    }


def generation(age: int) -> str:
    """A teacher's age in words."""
    return f"teacher {age} before the newest" if age else "newest teacher"
