"""The target: how much of the teacher the students keep, and how fast they are."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from dipair_lib.evaluation import results, schema
from dipair_lib.reporting import caveats, guard, wording
from dipair_lib.reporting.studies import configurations, study, terms

RETAINED, FASTER = 0.995, 10_000.0  # the bar: the share of the teacher's quality, at so many times its speed
PAID = 1_000.0  # and at so many times its speed with the encoding of every text paid for


# --- the bar ----------------------------------------------------------------------------------------------------------------------


def targets(folder: Path | str, task: str, n_boot: int = configurations.N_BOOT) -> pd.DataFrame:
    """One line per student whose texts are encoded once, best first: the share of the teacher's quality it keeps, the difference to the
    trained DE-Cos in points, its pairs/s as a multiple of the teacher's at the same dtype, how many pairs must share a text for it to be
    1,000 times as fast with the encoding paid for (``paid_from``), and whether it reaches the bar.

    ``reached`` is None where the student is not clocked, or its teacher is not surely above the floor (``failed``, see
    ``guard.guards``); ``sure`` asks the lower end of the share's interval too.
    """
    study = configurations.load(folder, task, n_boot)
    rows = [r for r in results.load_results(folder, damaged="warn") if r.task == task] if study.rows else []
    guards = guard.guards(rows, folder)
    usual, cosine = study.usual(), study.cosine()
    lines = []
    for key, settings in study.settings.items():
        kept = study.retained(key)
        row = study.row(key)
        if kept is None or row.family not in {"dipair", "dual-encoder"}:
            continue
        points = (study.difference(key, cosine) if cosine else None) or (None, None, None)
        clocked = row.teacher_s_per_pair and row.combine_s_per_pair
        faster = row.teacher_s_per_pair / row.combine_s_per_pair if clocked else None  # type: ignore[operator]
        judged_teacher = guards.get(row.teacher_run or "")
        failed = judged_teacher is not None and not judged_teacher.sure
        judged = None if failed else faster
        beside = (
            caveats.budgets(
                study.rising(cosine if (points[0] or 0) > 0 else key),
                row.pairs_seen,
                study.row(cosine).pairs_seen,
            )
            if cosine and points[0]
            else ""
        )
        lines.append(
            {
                "student": terms.name_of(settings, usual),
                "retained": kept[0],
                "low": kept[1],
                "high": kept[2],
                "seeds": len(study.quality[key]),
                "points": points[0],
                "points_low": points[1],
                "points_high": points[2],
                "faster": faster,
                "paid_from": paid_from(row),
                "reached": None if judged is None else judged >= FASTER and kept[0] >= RETAINED,
                "sure": None if judged is None else judged >= FASTER and kept[1] >= RETAINED,
                "run": row.run_id,
                "clocked": bool(row.combine_s_per_pair),
                "speed_given": row.teacher_fastest_dtype == "given",
                "rising": study.rising(key),
                "given": study.given(key),
                "beside": beside,
                "failed": failed,
            }
        )
    columns = "student retained low high seeds points points_low points_high faster paid_from reached sure run".split()
    made = pd.DataFrame(lines, columns=[*columns, *"clocked speed_given rising given beside failed".split()])
    numbers = "retained low high points points_low points_high faster paid_from".split()
    made = made.astype({**dict.fromkeys(numbers, float), "reached": object, "sure": object, "failed": bool})
    return made.sort_values(["retained", "low"], ascending=False, kind="stable", ignore_index=True)


def paid_from(row: schema.Result) -> float | None:
    """Pairs per text from which a student is ``PAID`` times as fast as the teacher (same dtype) although each text is tokenised and encoded
    for it: texts' price / (teacher's price of a pair / PAID - own price of a pair). None where something is not clocked, infinite where
    the pair alone costs too much."""
    if not (row.teacher_s_per_pair and row.combine_s_per_pair and row.encode_s_per_text):
        return None
    fields = len((row.read_lengths or "+").split("+"))
    texts = fields * (row.encode_s_per_text + (row.tokenize_s_per_text or 0.0))
    left = row.teacher_s_per_pair / PAID - row.combine_s_per_pair
    return max(1.0, texts / left) if left > 0 else math.inf


def pairs_per_text(number: float) -> str:
    """Rounded up to two digits, so that it still suffices."""
    if math.isinf(number):
        return "never"
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / step - 1e-9) * step:,}"


def targets_shown(lines: pd.DataFrame) -> pd.DataFrame:
    """The bar's table for people."""
    pairs = list(lines.itertuples())
    said = {None: wording.DASH, False: "no", True: "yes"}
    return pd.DataFrame(
        {
            "student": lines["student"],
            "of the teacher": [
                wording.DASH if p.failed else wording.percent_within(p.retained, p.low, p.high) for p in pairs
            ],
            "points against DE-Cos": [
                study.points_within(p.points, p.points_low, p.points_high) + p.beside for p in pairs
            ],
            "speed-up, same dtype": [
                wording.times(p.faster) + (" at the speed given" if p.speed_given else "") for p in pairs
            ],
            f"{PAID:,.0f}x with encoding, from pairs per text": [
                pairs_per_text(p.paid_from) if wording.known(p.paid_from) else wording.DASH for p in pairs
            ],
            "seeds": lines["seeds"],
            TARGET: [said[p.reached] + (", for sure" if p.sure else "") for p in pairs],
        }
    )


TARGET = f"{100 * RETAINED:g} % at {FASTER:,.0f}x"


def sentence(folder: Path | str, task: str, n_boot: int = configurations.N_BOOT) -> str:
    """The best student that is fast enough and how far it is from the bar, in words; empty without a student to judge."""
    lines = targets(folder, task, n_boot)
    if not len(lines):
        return ""
    if lines["failed"].all():
        return f"No student is held against the bar ({TARGET}): the teacher is not surely above the untrained rows."
    lines = lines[~lines["failed"]]
    clocked = lines[lines["faster"].notna()]
    if not len(clocked) and lines["clocked"].any():
        return f"The teacher has no clock: whether a student keeps {TARGET} the teacher's speed cannot be said until its speed is given."
    if not len(clocked):
        return f"No student is clocked yet: whether one keeps {TARGET} the teacher's speed cannot be said."
    fast = clocked[clocked["faster"] >= FASTER]
    best = (fast if len(fast) else clocked.sort_values("faster", ascending=False, kind="stable")).iloc[0]
    kept = wording.percent_within(best["retained"], best["low"], best["high"])
    metric = wording.metric_name(configurations.load(folder, task, n_boot).metric)
    what = f"keeps {kept} of the teacher's {metric} over {terms.plural(int(best['seeds']), 'seed')}"
    what += " given this teacher" if best["given"] else ""
    speed = f"at {wording.times(best['faster'])} its pairs per second"
    speed += " (at the speed given)" if best["speed_given"] else ""
    rising = " Its dev metric was still rising when its budget ended: train longer." if best["rising"] else ""
    if not len(fast):
        return (
            f"No student is {FASTER:,.0f} times as fast as the teacher: the fastest, {best['student']}, {what} {speed}; "
            f"the bar is {TARGET}.{rising}"
        )
    against = (
        f", {study.points_within(best['points'], best['points_low'], best['points_high'])} points against DE-Cos{best['beside']}"
        if wording.known(best["points"]) and best["points"]
        else ""
    )
    gap = 100 * (RETAINED - best["retained"])
    if best["sure"]:
        verdict = "is reached, by its whole interval"
    elif best["reached"]:
        verdict = "is reached, but its interval reaches below"
    else:
        verdict = (
            f"is {gap:.1f} points away, "
            + ("within" if best["high"] >= RETAINED else "outside")
            + " its interval"
        )
    unclocked = len(lines) - len(clocked)
    paid = best["paid_from"]
    encoded = (
        f" With the encoding of every text paid for it is {PAID:,.0f} times as fast from {pairs_per_text(paid)} pairs per text on."
        if wording.known(paid) and not math.isinf(paid)
        else ""
    )
    return (
        f"{best['student']} {what} {speed}{against}: the best of {terms.plural(len(fast), 'student')} that fast, "
        f"chosen on these test rows. The bar ({TARGET}) {verdict}."
        + rising
        + encoded
        + (f" {unclocked} more are not clocked." if unclocked else "")
    )
