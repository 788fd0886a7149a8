"""Which student to deploy under some limits."""

from __future__ import annotations

import pandas as pd

from dipair_lib.reporting import answer, caveats, criteria, derived, identity, wording
from dipair_lib.reporting.criteria import Choice, Limits

TIE = 0.10  # speeds this close to the fastest are one speed: quality decides between them


def select(table: pd.DataFrame, limits: Limits | None = None) -> Choice:
    """The student to deploy under `limits`, out of the rows of one task.

    The rule: among the students within every limit, the fastest: at the stated reuse, or (scenario "single")
    at one request. Students within 10 % of that speed count as equally fast (clocks do not tell them apart),
    and of these the best quality wins. The teacher, the constant and published rows are no students; a row
    without a clock cannot be called fast. Where the fastest of them is no faster than the teacher itself (few
    pairs share a text), the teacher is kept, if it is within the limits. A share of a teacher that is not
    surely above the floor recommends nothing: where no other student is left, there is no winner and the
    sentence is that teacher's (see ``guards``).
    """
    limits = limits or Limits()
    identity.require_one_task(table)
    speed = derived.pairs_per_s_at(table, limits.reuse)
    rate = speed if limits.scenario == "offline" else 1 / table["latency_p95_s"]
    excluded: dict[str, list[str]] = {str(run): [] for run in table.index}
    foreign = caveats.clocked_elsewhere(table)
    students: list[str] = []
    broken: dict[str, int] = {}
    for run, row in (
        table[criteria.JUDGED].to_dict("index").items()
    ):  # a tenth of the time that whole rows take
        kind = criteria.no_student_reason(row)
        if kind:
            excluded[run] = [kind]
            continue
        excluded[run] = criteria.broken_limits(row, float(speed[run]), limits)
        if run in foreign:
            excluded[run].append(foreign[run])
        if row["guard"]:
            excluded[run].insert(0, "its teacher is not surely above the untrained rows")
        elif wording.known(rate[run]) and wording.known(row["retained"]):
            students.append(run)
            broken[run] = len(excluded[run])
    within_limits = [run for run in students if not excluded[run]]
    ranked = rank(table, rate, within_limits)
    nearest = None
    if not ranked and students:
        nearest = min(students, key=lambda run: (broken[run], -table.at[run, "retained"]))
    kept = teacher_to_keep(table, limits, ranked[0], speed) if ranked else None
    if kept:
        ranked.insert(0, kept)
        del excluded[kept]
    winner = ranked[0] if ranked else None
    return Choice(
        sentence=answer.teacher_sentence(table, limits, speed, ranked)
        if kept
        else answer.answer_sentence(table, limits, speed, winner, nearest, excluded),
        winner=winner,
        alternatives=tuple(ranked[1:]),
        nearest=nearest,
        excluded={run: "; ".join(why) for run, why in excluded.items() if why},
        speed=speed,
    )


def rank(table: pd.DataFrame, speed: pd.Series, runs: list[str]) -> list[str]:
    """Fastest first; whoever is within TIE of the fastest left is ranked by quality."""
    left = sorted(runs, key=lambda run: -speed[run])
    ranked: list[str] = []
    while left:
        tied = [run for run in left if speed[run] >= (1 - TIE) * speed[left[0]]]
        best = max(tied, key=lambda run: (table.at[run, "quality"], speed[run]))
        ranked.append(best)
        left.remove(best)
    return ranked


def teacher_to_keep(table: pd.DataFrame, limits: Limits, best: str, speed: pd.Series) -> str | None:
    """The teacher's run, where it is within the limits and the best student is no faster than it for this
    job; else None.
    """
    least = answer.pairs_to_pay(table.loc[best])
    teacher = identity.teacher_of(table)
    if (
        limits.scenario != "offline"
        or least is None
        or least <= limits.reuse
        or teacher is None
        or teacher["guard"]
    ):
        return None
    run = str(teacher.name)
    return run if not criteria.broken_limits(teacher, float(speed[run]), limits) else None
