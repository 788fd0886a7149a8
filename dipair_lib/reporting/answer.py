"""The choice in words, every number with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from dipair_lib.reporting import caveats, criteria, guard, identity, wording
from dipair_lib.reporting.criteria import Limits


def answer_sentence(
    table: pd.DataFrame,
    limits: Limits,
    speed: pd.Series,
    winner: str | None,
    nearest: str | None,
    excluded: Mapping[str, list[str]],
) -> str:
    """The answer in words, every number with its interval."""
    if winner is None and nearest is None:
        if failures := guard.failed(table):
            return " ".join(failures)
        if not table["pairs_per_s"].notna().any():
            return "No row is clocked yet, so no student can be called fast: measure the clocks first."
        return "No student here has both a clock and a share of the teacher's quality: train one first."
    if winner is None:
        row = table.loc[nearest]
        return (
            f"No model here {limits}. The nearest is {wording.plain(row['model'])} ({'; '.join(excluded[str(nearest)])}): "
            f"it keeps {wording.percent_within(row['retained'], row['retained_low'], row['retained_high'])} of the teacher"
            + f"{said_of_gap(row)}.{caveats.said_of_training(row)}"
        )
    row = table.loc[winner]
    teacher = identity.teacher_of(table)
    # The student's own teacher: where there are several, the row of the teacher is their mean.
    against = f", its teacher {row['quality'] / row['retained']:.3f}" if row["retained"] > 0 else ""
    single = limits.scenario == "single"
    said = said_single(row, teacher, limits) if single else said_offline(row, speed[winner], limits)
    text = (
        f"{wording.plain(row['model'])} is the fastest model here{' for one request' if single else ''} that {limits}: it keeps "
        f"{wording.percent_within(row['retained'], row['retained_low'], row['retained_high'])}, "
        f"{wording.metric_name(wording.plain(row['metric']))} "
        f"{wording.within(row['quality'], row['quality_low'], row['quality_high'])}{against}{said_of_gap(row)}. {said}"
    )
    if row["n_fields"] > 1:
        cache = (
            f" and {wording.si(row['bytes_per_text'], 'B')} of cache"
            if wording.known(row["bytes_per_text"])
            else ""
        )
        text += f" A text costs {wording.si(row['text_s'], 's')} once{cache}."
        text += "" if single else said_of_teacher(row)
    low = row["retained_low"]
    if limits.min_retained is not None and not (wording.known(low) and low >= limits.min_retained):
        text += f" Not certain: the interval reaches below {100 * limits.min_retained:g} %."
    if row["noisy"]:
        text += " Its clock was noisy: measure it again before relying on the speed."
    text += caveats.said_of_sessions(table)
    return text + caveats.said_of_training(row)


def said_of_gap(row: pd.Series) -> str:
    """Beside the share, which a constant has a large one of: how much of the way from the best untrained row
    to the teacher was gone.
    """
    if not wording.known(row["gap"]):
        return ""
    floor = f"the untrained {wording.plain(row['floor'])}"
    closed = wording.gap_shown(row)
    return (
        f", which is below {floor}"
        if closed == wording.BELOW
        else f", and closes {closed} of the gap between {floor} and the teacher"
    )


def said_of_teacher(row: pd.Series) -> str:
    """Below how many pairs per text the teacher itself, at its fastest, is no slower."""
    least = pairs_to_pay(row)
    if least is None or least <= 1:
        return ""
    if math.isinf(least):
        return " The teacher at its fastest is no slower at any number of pairs per text."
    return f" Below {least:,.0f} pairs per text keep the teacher: it is no slower there."


def teacher_sentence(table: pd.DataFrame, limits: Limits, speed: pd.Series, ranked: list[str]) -> str:
    """The answer where the teacher, first of the ranked, is kept."""
    teacher, student = table.loc[ranked[0]], table.loc[ranked[1]]
    least = pairs_to_pay(student) or math.inf
    pairs = f"{limits.reuse:,.0f} pair{'s' if limits.reuse != 1 else ''} per text"
    later = "at any number of them" if math.isinf(least) else f"below {least:,.0f} pairs per text"
    return (
        f"Keep the teacher: at {pairs} no student here that {limits} is faster than it. The nearest is "
        f"{wording.plain(student['model'])} with {wording.si(speed[ranked[1]])} pairs/s, encoding included"
        f"{speedups(student, speed[ranked[1]])}; the teacher "
        f"({wording.metric_name(wording.plain(teacher['metric']))} {wording.within(*teacher[identity.QUALITY])}) is no slower {later}."
    )


def pairs_to_pay(row: pd.Series) -> float | None:
    """From how many pairs per text a row is faster than its teacher at the teacher's fastest, encoding
    included: whole, at least 1; infinite where never; None where a clock is missing. The teacher takes T per
    pair, the row t once per text of each of F fields and c per pair: faster where c + F t / n < T.
    """
    fastest = [
        row[name] for name in ("teacher_fastest_s_per_pair", "teacher_s_per_pair") if wording.known(row[name])
    ]
    if not fastest or not wording.known(row["pairs_per_s"]) or row["n_fields"] < 2:
        return None
    left = min(fastest) - 1 / row["pairs_per_s"]
    return max(1.0, math.floor(row["n_fields"] * row["text_s"] / left) + 1.0) if left > 0 else math.inf


def said_offline(row: pd.Series, speed: float, limits: Limits) -> str:
    """The winner's rates in bulk, and what they cost."""
    if row["n_fields"] == 1:
        text = f"It scores {wording.si(speed)} texts/s, encoding included{speedups(row, speed)}."
        if limits.price_per_hour is not None:
            million, billion = (
                wording.money(limits.price(texts, speed)) for texts in (1e6, criteria.BILLION)
            )
            text += f" At {wording.money(limits.price_per_hour)} an hour a million texts cost {million}, a billion {billion}."
        return text
    text = (
        f"With texts cached it scores {wording.si(row['pairs_per_s'])} pairs/s{speedups(row, row['pairs_per_s'])}; with every text encoded "
        f"for {limits.reuse:,.0f} pair{'s' if limits.reuse != 1 else ''}, {wording.si(speed)} pairs/s{speedups(row, speed)}."
    )
    if limits.price_per_hour is not None:
        million, billion = (wording.money(limits.price(pairs, speed)) for pairs in (1e6, criteria.BILLION))
        text += f" At {wording.money(limits.price_per_hour)} an hour a million such pairs cost {million}, a billion {billion}."
    return text


def said_single(row: pd.Series, teacher: pd.Series | None, limits: Limits) -> str:
    """What one request waits for, and what requests cost one after the other."""
    size = (
        f" of {row['request_candidates']:.0f} candidates" if wording.known(row["request_candidates"]) else ""
    )
    text = f"It answers 95 % of requests{size} within {wording.si(row['latency_p95_s'], 's')}"
    text += (
        f", half of them within {wording.si(row['latency_p50_s'], 's')}"
        if wording.known(row["latency_p50_s"])
        else ""
    )
    if teacher is not None and wording.known(teacher["latency_p95_s"]):
        text += f"; the teacher takes {wording.si(teacher['latency_p95_s'], 's')}"
    if limits.price_per_hour is not None and wording.known(row["latency_p50_s"]):
        price = wording.money(limits.price(1e6, 1 / row["latency_p50_s"]))
        text += f". At {wording.money(limits.price_per_hour)} an hour a million requests, one after the other, cost {price}"
    return text + "."


def speedups(row: pd.Series, speed: float) -> str:
    """ ", 3,100x the teacher at float32 and 800x the teacher at its fastest (bfloat16)", as far as clocked; of
    a teacher whose speed a person gave ", 500x the teacher at the speed given".
    """
    if row["teacher_fastest_dtype"] == "given":
        given = wording.known(row["teacher_s_per_pair"])
        return (
            f", {wording.times(speed * row['teacher_s_per_pair'])} the teacher at the speed given"
            if given
            else ""
        )
    parts = []
    if wording.known(row["teacher_s_per_pair"]):
        parts.append(
            f"{wording.times(speed * row['teacher_s_per_pair'])} the teacher at the same {wording.plain(row['dtype'])}"
        )
    if wording.known(row["teacher_fastest_s_per_pair"]):
        fastest = speed * row["teacher_fastest_s_per_pair"]
        parts.append(
            f"{wording.times(fastest)} the teacher at its fastest ({wording.plain(row['teacher_fastest_dtype'])})"
        )
    return (", " + " and ".join(parts)) if parts else ", the teacher's own speed being unknown"
