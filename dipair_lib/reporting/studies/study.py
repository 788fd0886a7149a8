"""What matters in DiPair: studies in which one choice differs and everything else stays, drawn from the rows of `03_dipair`.

A *configuration* is a set of notebook parameters; its rows differ by seed only. A *question* is one choice (a parameter, or a few
that mean one thing), a *series* a set of configurations in which only that choice differs. A difference is taken on the same test rows
and the same seeds; its interval is over test groups and seeds. And the bar: how much of the teacher the students keep, how fast.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dipair_lib.evaluation import results
from dipair_lib.reporting import caveats, wording
from dipair_lib.reporting.studies import configurations, questions, terms


def table(folder: Path | str, task: str, n_boot: int = configurations.N_BOOT) -> pd.DataFrame:
    """One line per question, series and value: quality with its 95 % interval, the difference in points to the reference with its own,
    the seeds, what a pair costs, the pairs seen in training, whether dev was still rising, and whether the seeds share one teacher."""
    study = configurations.load(folder, task, n_boot)
    lines = []
    for question, found in questions.questions_of(study).items():
        for series in found:
            for value, key in series.keys.items():
                mean, low, high = study.mean(key)
                points = study.difference(key, series.keys[series.reference]) or (None, None, None)
                row = study.row(key)
                lines.append(
                    {
                        "question": question.title,
                        "series": series.label,
                        "value": question.say(*value),
                        "quality": mean,
                        "low": low,
                        "high": high,
                        "against": question.say(*series.reference),
                        "points": points[0],
                        "points_low": points[1],
                        "points_high": points[2],
                        "seeds": len(study.quality[key]),
                        "params_per_pair": row.params_per_pair,
                        "flops_per_pair": row.flops_per_pair,
                        "pairs_seen": row.pairs_seen,
                        "rising": study.rising(key),
                        "given": study.given(key),
                    }
                )
    columns = "question series value quality low high against points points_low points_high seeds".split()
    costs = ["params_per_pair", "flops_per_pair", "pairs_seen"]
    made = pd.DataFrame(lines, columns=[*columns, *costs, "rising", "given"])
    texts = {"question", "series", "value", "against", "seeds", "rising", "given"}
    numbers = [c for c in made.columns if c not in texts]
    return made.astype(dict.fromkeys(numbers, float))


def claims(lines: pd.DataFrame) -> list[str]:
    """One sentence per question from the lines of ``table``: the best value of its longest series against the reference, with the interval.

    The best was picked on the same test rows: an interval that excludes 0 speaks for the choice, not for the size of the gain. Of the one
    that is worse it is said if it was still rising when its budget ended, and of both if they saw different numbers of pairs.
    """
    said = []
    for question, asked in lines.groupby("question", sort=False):
        series = asked[asked["series"] == asked["series"].iloc[0]]
        others = series[(series["value"] != series["against"]) & series["points"].notna()]
        if others.empty:
            continue
        best = others.loc[others["points"].idxmax()]
        gain = points_within(best["points"], best["points_low"], best["points_high"])
        against = series["against"].iloc[0]
        sure = best["points_low"] > 0 or best["points_high"] < 0
        other = series[series["value"] == against].iloc[0]
        loser = other if best["points"] > 0 else best
        beside = caveats.budgets(loser.get("rising"), best.get("pairs_seen"), other.get("pairs_seen"))
        if best["points"] > 0:
            text = f"{best['value']} in place of {against} brings {gain} points" + (
                "" if sure else ", which may be nothing"
            )
        else:
            text = f"nothing tried beats {against}; {best['value']} comes nearest, {gain} points" + (
                "" if sure else ", which may be no difference"
            )
        seeds = terms.plural(int(series["seeds"].min()), "seed")
        said.append(f"{question} ({best['series']}, {seeds}): {text}{beside}.")
    return said


def shown(lines: pd.DataFrame) -> pd.DataFrame:
    """The table for people: intervals beside their numbers, units, a dash for what is not known."""
    pairs = list(lines.itertuples())
    return pd.DataFrame(
        {
            "question": lines["question"],
            "series": lines["series"],
            "value": lines["value"],
            "quality": [wording.within(p.quality, p.low, p.high) for p in pairs],
            "points": [points_within(p.points, p.points_low, p.points_high) for p in pairs],
            "seeds": lines["seeds"],
            "parameters per pair": [wording.si(p.params_per_pair) for p in pairs],
            "FLOP per pair": [wording.si(p.flops_per_pair) for p in pairs],
        }
    )


def points_within(value: float | None, low: float | None, high: float | None) -> str:
    """A difference with its interval: "+1.2 (-0.1 to +2.5)"; of what is its own reference that it is."""
    if value == low == high == 0:
        return "reference"
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})" if wording.known(value) else wording.DASH


def tasks_of(folder: Path | str) -> list[str]:
    """Tasks of a results folder, with its raw logits, for which there is a series."""
    rows = results.load_results(folder, damaged="warn") if (Path(folder) / "rows").is_dir() else []
    tasks = sorted({r.task for r in rows if r.notebook == "03_dipair"})
    return [task for task in tasks if questions.questions_of(configurations.load(folder, task))]
