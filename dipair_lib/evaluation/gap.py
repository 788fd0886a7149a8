"""How much of the way from the best untrained row to the teacher a model has gone: what "keeps x % of the
teacher" hides where a constant keeps 60 %.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dipair_lib.evaluation import bootstrap
from dipair_lib.evaluation.schema import Result


class Closed(NamedTuple):
    """A model's gap closed.

    Attributes:
        share: (quality - floor) / (teacher - floor) with its 95 % interval; 0 is the floor, 1 the teacher.
            NaN where it is not defined.
        floor: the untrained row's name and quality.
    """

    share: tuple[float, float, float]
    floor: str


UNDEFINED = Closed((np.nan, np.nan, np.nan), "")


def untrained(row: Result | pd.Series) -> bool:
    """Whether a row learned nothing by gradient: a constant, words in common, or a dual encoder without a
    step of training.
    """
    if row.family == "dual-encoder":
        return not any(pd.notna(done) and done for done in (row.steps, row.train_seconds))
    return row.family in {"constant", "lexical"}


def test_of(row: Result) -> tuple[Any, ...]:
    """What two rows share whose qualities may be compared."""
    return row.task, row.data_sha256, row.split, row.metric


def floors_of(rows: Iterable[Result]) -> dict[tuple[Any, ...], Result]:
    """The best untrained row of each test split (``test_of``), by its quality."""
    floors = [row for row in rows if untrained(row) and row.quality is not None]
    return {test_of(row): row for row in sorted(floors, key=lambda row: row.quality or 0.0)}


def closed(
    models: Sequence[Sequence[Result]],
    rows: Iterable[Result],
    sure: Collection[str],
    folder: Path | str | None = None,
) -> list[Closed]:
    """The gap that each model closes, paired: model, floor and teacher on the same draws of test groups,
    seeds drawn with them.

    Not defined where the teacher is not surely above the floor: then there is no gap to speak of. Without raw
    logits there is a share and no interval.

    Args:
        models: the seeds of each.
        sure: run ids of the teachers that are surely above their floor.
        folder: with the rows' raw logits.
    """
    rows = list(rows)
    by_run, floors = {row.run_id: row for row in rows}, floors_of(rows)
    found: list[tuple[Sequence[Result], list[Result], Result] | None] = []
    for seeds in models:
        teachers = [by_run.get(row.teacher_run or row.run_id) for row in seeds]
        floor = floors.get(test_of(seeds[0])) if seeds else None
        able = floor and all(row.quality is not None and test_of(row) == test_of(seeds[0]) for row in seeds)
        taught = [teacher for teacher in teachers if teacher and teacher.run_id in sure]
        found.append((seeds, taught, floor) if floor and able and len(taught) == len(seeds) else None)
    named = {row.run_id: row for one in found if one for row in (*one[0], *one[1], one[2])}
    drawn = bootstrap.draw_rows(folder, named.values())
    return [_closed(*one, drawn) if one else UNDEFINED for one in found]


def _closed(
    seeds: Sequence[Result], teachers: Sequence[Result], floor: Result, drawn: dict[str, bootstrap.Drawn]
) -> Closed:
    """One model's."""
    least = float(floor.quality or 0.0)
    values = [
        (float(row.quality or 0.0) - least) / (float(teacher.quality or 0.0) - least)
        for row, teacher in zip(seeds, teachers, strict=True)
    ]
    said = f"{floor.model} ({least:.3f})"
    needed = {row.run_id for row in (*seeds, *teachers, floor)}
    if not needed <= set(drawn) or len({drawn[run].test for run in needed}) != 1:
        return Closed((float(np.mean(values)), np.nan, np.nan), said)
    below = drawn[floor.run_id].draws
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = [
            (drawn[row.run_id].draws - below) / (drawn[teacher.run_id].draws - below)
            for row, teacher in zip(seeds, teachers, strict=True)
        ]
    mean = float(np.mean(values))
    low, high = (np.nan if end is None else end for end in bootstrap.ends(mean, [draws]))
    return Closed((mean, low, high), said)
