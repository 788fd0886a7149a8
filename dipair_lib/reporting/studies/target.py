"""The target: how much of the teacher's quality a student keeps, and how fast it is."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from dipair_lib.evaluation import bootstrap, results, schema
from dipair_lib.reporting import caveats, guard, wording
from dipair_lib.reporting.studies import questions, settings

RETAINED, FASTER = (
    0.995,
    10_000.0,
)  # the target: the share of the teacher's quality, at so many times its speed
PAID = 1_000.0  # and at so many times its speed with the encoding of every text paid for
TARGET = f"{100 * RETAINED:g} % at {FASTER:,.0f}x"
NUMBERS = "retained low high points points_low points_high faster paid_from".split()
COLUMNS = (
    "student retained low high seeds points points_low points_high faster paid_from reached sure run "
    "clocked speed_given rising given beside failed"
).split()


def targets(folder: Path | str, task: str, n_boot: int = bootstrap.N_BOOT) -> pd.DataFrame:
    """One line per student whose texts are encoded once, best first: the share of the teacher's quality it
    keeps, the difference to the trained DE-Cos in points, its pairs/s as a multiple of the teacher's at the
    same dtype, how many pairs must share a text for it to be 1,000 times as fast with the encoding paid for
    (``paid_from``), and whether it reaches the target.

    ``reached`` is None where the student is not clocked, or its teacher is not surely above the floor
    (``failed``, see ``guard.guards``); ``sure`` asks the lower end of the share's interval too.
    """
    study = questions.load(folder, task, n_boot)
    rows = [r for r in results.load_results(folder, damaged="warn") if r.task == task] if study.rows else []
    guards = guard.guards(rows, folder)
    usual, cosine = questions.usual_of(study), questions.cosine_of(study)
    lines = []
    for key in study.quality:
        kept, row = study.retained(key), study.row(key)
        if kept is None or row.family not in {"dipair", "dual-encoder"}:
            continue
        points, beside = (study.difference(key, cosine) if cosine else None) or (None, None, None), ""
        if cosine and points[0]:
            worse = cosine if points[0] > 0 else key
            beside = caveats.budgets(study.rising(worse), row.pairs_seen, study.row(cosine).pairs_seen)
        faster = None
        if row.teacher_s_per_pair and row.combine_s_per_pair:
            faster = row.teacher_s_per_pair / row.combine_s_per_pair
        judged = guards.get(row.teacher_run or "")
        failed = judged is not None and not judged.sure
        unknown = failed or faster is None
        reached, sure = (None if unknown else faster >= FASTER and share >= RETAINED for share in kept[:2])  # type: ignore[operator]
        own = (settings.name_of(key, usual), *kept, len(study.quality[key]), *points)
        of_clock = bool(row.combine_s_per_pair), row.teacher_fastest_dtype == "given"
        said = study.rising(key), study.given(key), beside, failed
        lines.append((*own, faster, paid_from(row), reached, sure, row.run_id, *of_clock, *said))
    made = pd.DataFrame(lines, columns=COLUMNS)
    made = made.astype({**dict.fromkeys(NUMBERS, float), "reached": object, "sure": object, "failed": bool})
    made.attrs["metric"] = study.metric
    return made.sort_values(["retained", "low"], ascending=False, kind="stable", ignore_index=True)


def paid_from(row: schema.Result) -> float | None:
    """Pairs per text from which a student is ``PAID`` times as fast as the teacher (same dtype) although each
    text is tokenised and encoded for it: texts' price / (teacher's price of a pair / PAID - own price of a
    pair). None where something is not clocked, infinite where the pair alone costs too much.
    """
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
    """The table of ``targets`` for people."""
    said = {None: wording.DASH, False: "no", True: "yes"}
    shown = [
        (
            p.student,
            wording.DASH if p.failed else wording.percent_within(p.retained, p.low, p.high),
            wording.points(p.points, p.points_low, p.points_high) + p.beside,
            wording.times(p.faster) + (" at the speed given" if p.speed_given else ""),
            pairs_per_text(p.paid_from) if wording.known(p.paid_from) else wording.DASH,
            p.seeds,
            said[p.reached] + (", for sure" if p.sure else ""),
        )
        for p in lines.itertuples()
    ]
    speeds = ["speed-up, same dtype", f"{PAID:,.0f}x with encoding, from pairs per text"]
    columns = ["student", "of the teacher", "points against DE-Cos", *speeds, "seeds", TARGET]
    return pd.DataFrame(shown, columns=columns)


def sentence(folder: Path | str, task: str, n_boot: int = bootstrap.N_BOOT) -> str:
    """The best student that is fast enough and how far it is from the target, in words; empty without a
    student to judge.
    """
    lines = targets(folder, task, n_boot)
    if not len(lines):
        return ""
    if lines["failed"].all():
        return f"No student is compared with the target ({TARGET}): the teacher is not surely above the untrained rows."
    lines = lines[~lines["failed"]]
    clocked = lines[lines["faster"].notna()]
    if not len(clocked) and lines["clocked"].any():
        return f"The teacher has no clock: whether a student keeps {TARGET} the teacher's speed cannot be said until its speed is given."
    if not len(clocked):
        return f"No student is clocked yet: whether one keeps {TARGET} the teacher's speed cannot be said."
    fast = clocked[clocked["faster"] >= FASTER]
    best = (fast if len(fast) else clocked.sort_values("faster", ascending=False, kind="stable")).iloc[0]
    kept = wording.percent_within(best["retained"], best["low"], best["high"])
    seeds = settings.plural(int(best["seeds"]), "seed") + (" given this teacher" if best["given"] else "")
    speed = wording.times(best["faster"]) + " its pairs per second"
    speed += " (at the speed given)" if best["speed_given"] else ""
    what = (
        f"keeps {kept} of the teacher's {wording.metric_name(lines.attrs['metric'])} over {seeds} at {speed}"
    )
    rising = " Its dev metric was still rising when its budget ended: train longer." if best["rising"] else ""
    if not len(fast):
        slow = f"No student is {FASTER:,.0f} times as fast as the teacher: the fastest, {best['student']}, {what}"
        return f"{slow}; the target is {TARGET}.{rising}"
    if wording.known(best["points"]) and best["points"]:
        points = wording.points(best["points"], best["points_low"], best["points_high"])
        what += f", {points} points against DE-Cos{best['beside']}"
    if best["reached"]:
        verdict = "reached, " + (
            "by its whole interval" if best["sure"] else "but its interval reaches below"
        )
    else:
        where = "within" if best["high"] >= RETAINED else "outside"
        verdict = f"{100 * (RETAINED - best['retained']):.1f} points away, {where} its interval"
    said = f"{best['student']} {what}: the best of {settings.plural(len(fast), 'student')} that fast, chosen on these test rows."
    said += f" The target ({TARGET}) is {verdict}.{rising}"
    if wording.known(best["paid_from"]) and not math.isinf(best["paid_from"]):
        paid = pairs_per_text(best["paid_from"])
        said += f" With the encoding of every text paid for it is {PAID:,.0f} times as fast from {paid} pairs per text on."
    unclocked = len(lines) - len(clocked)
    return said + (f" {unclocked} more are not clocked." if unclocked else "")
