"""Whether a teacher is surely above the best row that nothing trained; what is to be read first if not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dipair_lib.evaluation import bootstrap, gap
from dipair_lib.evaluation.results import load_results
from dipair_lib.evaluation.schema import Result
from dipair_lib.reporting import identity, wording
from dipair_lib.system.disk import canonical_json


def sanity(table: pd.DataFrame) -> pd.DataFrame:
    """The order that must hold before any claim: constant < lexical < frozen cosine < teacher, for one task.

    Returns one line per step (step, model, quality, holds); `holds` compares with the last step before of
    which there is a row, and is None for the first and wherever a row is missing.
    """
    identity.require_one_task(table)
    cosine = (table["family"] == "dual-encoder") & (table["head"].astype(str).str.startswith("cos"))
    frozen = cosine & pd.Series([gap.untrained(row) for _, row in table.iterrows()], table.index, dtype=bool)
    steps = {
        "constant": table["family"] == "constant",
        "lexical": table["family"] == "lexical",
        "frozen cosine": frozen,
        "teacher": table["teacher"],
    }
    lines: list[dict[str, Any]] = []
    before: float | None = None
    for step, mask in steps.items():
        rows = table[mask & table["quality"].notna()].sort_values("quality", kind="stable")
        quality = float(rows["quality"].iloc[-1]) if len(rows) else None
        holds = quality > before if quality is not None and before is not None else None
        model = wording.plain(rows["model"].iloc[-1]) if len(rows) else None
        lines.append({"step": step, "model": model, "quality": quality, "holds": holds})
        before = before if quality is None else quality
    return pd.DataFrame(lines).astype({"holds": object})


class Guard(NamedTuple):
    """Whether a teacher is surely above the best row that nothing trained, and that in words.

    Attributes:
        sure: the whole 95 % interval of the difference, teacher less floor, is above 0.
    """

    sure: bool
    said: str


WHAT_TO_DO = {  # by the kind of teacher, where it is not surely above the floor
    "trained": "train longer (-p budget=4), look at its dev metric, try other learning rates, bring a teacher of your own "
    "(-p teacher=folder), or check labels and fields",
    "brought": "check that it was made for this task and reads these fields in this order, fine-tune it on these rows, train one here "
    "instead, or check labels and fields",
    "scores": "check that a higher score stands for a higher label and that scores and rows belong together, train a teacher here instead, "
    "or check labels and fields",
}
NO_FLOOR = (
    "Whether a teacher learned anything cannot be said: no constant, TF-IDF or cosine of an untrained encoder stands beside it; "
    "01_teacher makes them."
)


def guard(folder: Path | str, task: str = "") -> str:
    """What is to be read first of a results folder: whether each teacher (of one task, where one is named) is
    surely above the best row that nothing trained. A line per teacher, those that failed first, with what to
    do.
    """
    rows = [row for row in load_results(folder, damaged="warn") if task in {"", row.task}]
    return "\n".join(one.said for one in sorted(set(guards(rows, folder).values()))) or NO_FLOOR


def failed_in(folder: Path | str) -> list[str]:
    """The sentence of each teacher of a results folder that is not surely above the floor, with its task
    before it.
    """
    rows = load_results(folder, damaged="warn")
    tasks = {row.run_id: row.task for row in rows}
    found = guards(rows, folder)
    return list(
        dict.fromkeys(
            f"{wording.plain(tasks[run])}: {one.said}" for run, one in found.items() if not one.sure
        )
    )


def failed(table: pd.DataFrame) -> list[str]:
    """The sentences of the teachers that are not surely above the floor, of the rows of a frame."""
    return [said for said in table["guard"].unique() if said]


def guards(rows: Iterable[Result], folder: Path | str | None = None) -> dict[str, Guard]:
    """Run id of each teacher -> its guard; seeds of one teacher are judged together, by their mean.

    The floor is the best, by its quality, of the rows of the same test data that learned nothing by gradient.
    The difference is paired: teacher and floor on the same draws of test groups. Without raw logits its
    interval is made of the two rows' own (Zou and Donner 2008, without their correlation, which is positive
    on the same test rows: so it is the wider one), which the sentence says. A teacher beside which there is
    no such row has no guard.

    Args:
        folder: results folder with the raw logits of the rows.
    """
    rows = list(rows)
    floors = gap.floors_of(rows)
    taught: dict[tuple[Any, ...], list[Result]] = {}
    for row in identity.teachers(rows):
        key = row.model, canonical_json(identity.parameters_of(row.parameters))
        taught.setdefault((*gap.test_of(row), *key), []).append(row)
    here = Counter(gap.test_of(seeds[0]) for seeds in taught.values())
    found: dict[str, Guard] = {}
    for seeds in taught.values():
        floor = floors.get(gap.test_of(seeds[0]))
        if floor:
            run = seeds[0].run_id.split(".")[0]
            name = f"The teacher of {run}" if here[gap.test_of(seeds[0])] > 1 else "The teacher"
            one = judge(name, seeds, floor, folder)
            found |= dict.fromkeys((row.run_id for row in seeds), one)
    return found


def judge(name: str, seeds: list[Result], floor: Result, folder: Path | str | None) -> Guard:
    """One teacher compared with its floor."""
    metric = wording.metric_name(wording.plain(floor.metric))
    advice = WHAT_TO_DO.get(seeds[0].teacher_kind or "trained", WHAT_TO_DO["trained"])
    no_share = "No student is recommended by its share of it. What to do:"
    values = [row.quality for row in seeds if row.quality is not None]
    if len(values) < len(seeds):
        undefined = f"its {metric} is not defined, as where a model says the same of every row"
        return Guard(False, f"{name} failed: {undefined}. {no_share} {advice}.")
    own = float(np.mean(values)), *outer_ends(seeds)
    best = float(floor.quality or 0.0), *outer_ends([floor])
    difference = own[0] - best[0]
    drawn = bootstrap.draw_rows(folder, [*seeds, floor])
    ends = bootstrap.difference([drawn.get(floor.run_id)], [drawn.get(row.run_id) for row in seeds])
    low, high = ends or unpaired_interval(own, best)
    sure = low is not None and low > 0
    against = f"{wording.plain(floor.model)}, {wording.within(*best)}"
    text = f"difference {wording.signed(difference, low, high)}."
    if ends is None:
        text += (
            " That interval is made of the two rows' own, because raw logits are not at hand: a paired one would be narrower."
            if low is not None
            else " Their intervals are not known."
        )
    if sure:
        return Guard(
            True,
            f"{name} is surely above the best untrained row: {metric} {wording.within(*own)} against {against}; {text}",
        )
    if difference > 0:
        said = f"{name} may have failed: {metric} {wording.within(*own)} is not surely above the untrained {against}"
        return Guard(False, f"{said}; {text} {no_share} {advice}, or test on more rows.")
    said = f"{name} failed: {metric} {wording.within(*own)} is not above the untrained {against}"
    return Guard(False, f"{said}; {text} {no_share} {advice}.")


def outer_ends(rows: list[Result]) -> tuple[float | None, float | None]:
    """The lowest and the highest end of the rows' own intervals; None where one has none."""
    lows, highs = [row.quality_low for row in rows], [row.quality_high for row in rows]
    if None in lows or None in highs:
        return None, None
    return min(low for low in lows if low is not None), max(high for high in highs if high is not None)


def unpaired_interval(
    own: tuple[float, float | None, float | None], floor: tuple[float, float | None, float | None]
) -> tuple[float | None, float | None]:
    """95 % interval of a difference from two intervals as if they were independent; None where one is
    missing.
    """
    (value, low, high), (least, floor_low, floor_high) = own, floor
    if low is None or high is None or floor_low is None or floor_high is None:
        return None, None
    return (
        value - least - math.hypot(value - low, floor_high - least),
        value - least + math.hypot(high - value, least - floor_low),
    )


def failed_teachers(rows: list[Result], judged: Mapping[str, Guard]) -> list[str]:
    """For each row the sentence of its teacher, where that one failed; of a row that names none, of a teacher
    on its test data.
    """
    why = {run: one.said for run, one in judged.items() if not one.sure}
    some = {gap.test_of(row): why[row.run_id] for row in rows if row.run_id in why}
    return [
        why.get(row.teacher_run or row.run_id, "" if row.teacher_run else some.get(gap.test_of(row), ""))
        for row in rows
    ]


def guard_of(row: Result, folder: Path | str) -> str:
    """Why a row's share of its teacher says nothing, or nothing: the sentence of that teacher, where it
    failed (see ``guards``).
    """
    rows = load_results(folder, damaged="warn")
    said = failed_teachers(rows, guards(rows, folder))
    return dict(zip((one.run_id for one in rows), said, strict=True)).get(row.run_id, "")
