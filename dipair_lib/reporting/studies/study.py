"""What matters in DiPair: studies in which one choice differs and everything else stays, drawn from the rows
of `03_dipair`.

A *question* is one choice (a parameter, or a few that mean one thing), a *series* a set of students in which
only that choice differs; a student's rows differ by seed only. A difference is taken on the same test rows
and the same seeds; its interval is over test groups and seeds.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dipair_lib.evaluation import bootstrap
from dipair_lib.reporting import caveats, wording
from dipair_lib.reporting.studies import questions, settings, students

TEXTS = "question series value against seeds rising given".split()
COLUMNS = (
    "question series value quality low high against points points_low points_high seeds "
    "params_per_pair flops_per_pair pairs_seen rising given"
).split()


def table(folder: Path | str, task: str, n_boot: int = bootstrap.N_BOOT) -> pd.DataFrame:
    """One line per question, series and value: quality with its 95 % interval, the difference in points to
    the reference with its own, the seeds, what a pair costs, the pairs seen in training, whether dev was
    still rising, and whether the seeds share one teacher.
    """
    study = questions.load(folder, task, n_boot)
    lines = []
    for question, found in questions.questions_of(study).items():
        for series in found:
            reference, against = series.keys[series.reference], question.say(*series.reference)
            for value, key in series.keys.items():
                row, points = study.row(key), study.difference(key, reference) or (None, None, None)
                own = (question.title, series.label, question.say(*value), *study.mean(key))
                costs = row.params_per_pair, row.flops_per_pair, row.pairs_seen
                beside = len(study.quality[key]), *costs, study.rising(key), study.given(key)
                lines.append((*own, against, *points, *beside))
    made = pd.DataFrame(lines, columns=COLUMNS)
    return made.astype({column: float for column in COLUMNS if column not in TEXTS})


def claims(lines: pd.DataFrame) -> list[str]:
    """One sentence per question from the lines of ``table``: the best value of its longest series against the
    reference, with the interval.

    The best was picked on the same test rows: an interval that excludes 0 speaks for the choice, not for the
    size of the gain. Of the one that is worse it is said if it was still rising when its budget ended, and of
    both if they saw different numbers of pairs.
    """
    said = []
    for question, asked in lines.groupby("question", sort=False):
        series = asked[asked["series"] == asked["series"].iloc[0]]
        against = series["against"].iloc[0]
        others = series[(series["value"] != against) & series["points"].notna()]
        if others.empty:
            continue
        best = others.loc[others["points"].idxmax()]
        other = series[series["value"] == against].iloc[0]
        interval = best["points"], best["points_low"], best["points_high"]
        gain = f"{wording.points(*interval)} points"
        if not wording.significant(*interval[1:]):
            gain += f", {wording.NOT_SIGNIFICANT}"
        if best["points"] > 0:
            text = f"{best['value']} in place of {against} brings {gain}"
        else:
            text = f"nothing tried beats {against}; {best['value']} comes nearest, {gain}"
        loser = other if best["points"] > 0 else best
        beside = caveats.budgets(loser.get("rising"), best.get("pairs_seen"), other.get("pairs_seen"))
        seeds = settings.plural(int(series["seeds"].min()), "seed")
        said.append(f"{question} ({best['series']}, {seeds}): {text}{beside}.")
    return said


def shown(lines: pd.DataFrame) -> pd.DataFrame:
    """The table for people: intervals beside their numbers, units, a dash for what is not known."""
    pairs = list(lines.itertuples())
    return lines[["question", "series", "value"]].assign(
        quality=[wording.within(p.quality, p.low, p.high) for p in pairs],
        points=[wording.points(p.points, p.points_low, p.points_high) for p in pairs],
        seeds=lines["seeds"],
        **{
            "parameters per pair": [wording.si(p.params_per_pair) for p in pairs],
            "FLOP per pair": [wording.si(p.flops_per_pair) for p in pairs],
        },
    )


def tasks_of(folder: Path | str) -> list[str]:
    """Tasks of a results folder, with its raw logits, for which there is a series."""
    return students.tasks_of(
        folder, "03_dipair", lambda task: questions.questions_of(questions.load(folder, task))
    )
