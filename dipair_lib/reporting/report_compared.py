"""Several results folders on one page, compared with the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dipair_lib.reporting import comparison, criteria, guard, report_details, selection, wording
from dipair_lib.reporting.figures import inline


def compared(sides: Sequence[comparison.Opened]) -> dict[str, Any]:
    """What the page says of several folders together: each task's choices in each folder, and the later ones
    compared with the first.
    """
    numbers = comparison.machines(sides)
    return {
        "machines": [(f"machine {number}", name) for name, number in numbers.items()],
        "tasks": [task_compared(sides, task, numbers) for task in comparison.tasks_of(sides)],
    }


def task_compared(
    sides: Sequence[comparison.Opened], task: str, numbers: Mapping[str, int]
) -> dict[str, Any]:
    """Choices and pairs of one task."""
    having = [side for side in sides if len(side.of(task))]
    data = {side.name: side.data[side.data["task"] == task] for side in having}
    choices = {
        name: [selection.select(rows, limits) for limits in report_details.LIMITS]
        for name, rows in data.items()
    }
    failed = {name: guard.failed(rows) for name, rows in data.items()}
    pairs, other = [], []
    first = having[0]
    for side in having[1:]:
        if comparison.same_data(first.of(task), side.of(task)):
            pairs.append(pair(first, side, task, numbers))
        else:
            hashes = [
                ", ".join(sorted({str(h)[:12] for h in s.of(task)["data_sha256"].dropna()}))
                for s in (first, side)
            ]
            other.append(
                f"{first.name} and {side.name} hold different data under this name (fingerprints {hashes[0] or 'unknown'} and "
                f"{hashes[1] or 'unknown'}): qualities on different test rows are not compared."
            )
    return {
        "name": wording.plain(task),
        "alone": first.name if len(having) == 1 else "",
        "guards": [(name, " ".join(said)) for name, said in failed.items() if said],
        "choices": [
            {
                "limit": str(limits),
                "found": [
                    (name, machine_said(data[name], of[i], numbers), of[i].sentence)
                    for name, of in choices.items()
                    if not stopped(of[i], failed[name])
                ],
            }
            for i, limits in enumerate(report_details.LIMITS)
            if not all(stopped(of[i], failed[name]) for name, of in choices.items())
        ],
        "pairs": pairs,
        "other": other,
    }


def stopped(choice: criteria.Choice, failed: Sequence[str]) -> bool:
    """Whether nothing can be chosen because no teacher of the students is surely above the floor: the card
    before the choices says so.
    """
    return bool(failed) and choice.winner is None and choice.nearest is None


def machine_said(data: pd.DataFrame, choice: criteria.Choice, numbers: Mapping[str, int]) -> str:
    """The machine that a choice was clocked on."""
    run = choice.winner or choice.nearest
    name = comparison.machine_of(data.loc[run]) if run else ""
    return f"machine {numbers[name]}" if name else "not clocked"


def pair(
    before: comparison.Opened, after: comparison.Opened, task: str, numbers: Mapping[str, int]
) -> dict[str, Any]:
    """One folder compared with the first one."""
    found = comparison.lines(before, after, task)
    drawn = comparison.figure(before, after, found) if len(found) else None
    label = f"paired differences of quality, {after.name} less {before.name}; the table below holds the same numbers"
    return {
        "title": f"{after.name} against {before.name}",
        "said": comparison.sentence(before, after, task, found),
        "most": comparison.MOST_DRAWN,
        "svg": inline.inline(drawn, label, f"{before.name} {after.name} {task}", comparison.hovers(found))
        if drawn
        else None,
        "table": report_details.cells(comparison.table(before, after, found, numbers))
        if len(found)
        else None,
    }
