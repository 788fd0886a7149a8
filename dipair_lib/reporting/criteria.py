"""What a user can live with, and which rows break it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from dipair_lib.reporting import derived, wording

SCENARIOS = ("offline", "single")
BILLION = 1e9


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a user can live with; None is no limit."""

    min_retained: float | None = 0.95  # share of the teacher's quality
    min_gap: float | None = None  # share of the gap between the best untrained row and the teacher
    sure: bool = False  # also the lower end of each interval must reach its limit
    min_pairs_per_s: float | None = None  # encoding included, at `reuse`
    reuse: float = derived.REUSE  # pairs that share a text
    max_p95_s: float | None = None  # 95th percentile of one request, seconds
    max_cache_bytes: float | None = None  # for n_texts cached texts
    n_texts: float = 1.0
    max_params: float | None = None
    scenario: str = "offline"  # what is fast: "offline", pairs/s at `reuse`; "single", the p95 of one request
    price_per_hour: float | None = None  # of one machine, in your money
    max_price: float | None = None  # of a billion pairs at `reuse`, on machines of that price

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"scenario: expected one of {', '.join(SCENARIOS)}, but got {self.scenario!r}")
        if self.max_price is not None and self.price_per_hour is None:
            raise ValueError("max_price: expected price_per_hour beside it, but it is missing")

    def price(self, pairs: float, speed: float) -> float:
        """What so many pairs cost at so many pairs/s."""
        return pairs / speed / 3600 * (self.price_per_hour or 0.0)

    def __str__(self) -> str:
        parts = [
            self.min_retained is not None
            and f"keeps at least {100 * self.min_retained:g} % of the teacher{' for sure' if self.sure else ''}",
            self.min_gap is not None
            and f"closes at least {100 * self.min_gap:g} % of the gap to the teacher{' for sure' if self.sure else ''}",
            self.min_pairs_per_s is not None
            and f"scores at least {wording.si(self.min_pairs_per_s)} pairs/s",
            self.max_p95_s is not None
            and f"answers 95 % of requests within {wording.si(self.max_p95_s, 's')}",
            self.max_cache_bytes is not None
            and f"caches {wording.si(self.n_texts)} text{'s' if self.n_texts != 1 else ''} in {wording.si(self.max_cache_bytes, 'B')}",
            self.max_params is not None and f"has at most {wording.si(self.max_params)} parameters",
            self.max_price is not None
            and f"scores a billion pairs for at most {wording.money(self.max_price)}",
        ]
        return " and ".join(part for part in parts if part) or "is clocked"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What `select` found, as run ids of the frame it was given."""

    sentence: str
    winner: str | None
    alternatives: tuple[str, ...]  # the other rows within the limits, best first
    nearest: str | None  # when nothing is within the limits
    excluded: Mapping[str, str]  # run_id -> why
    speed: pd.Series  # pairs/s at the limits' reuse


# The columns that a row is judged by.
JUDGED = [
    "family",
    "teacher",
    "guard",
    "retained",
    "retained_low",
    "gap",
    "gap_low",
    "latency_p95_s",
    "bytes_per_text",
    "params_total",
]


def no_student_reason(row: Mapping[str, Any]) -> str:
    """Why a row is not among the students, or nothing."""
    if row["family"] == "published":
        return "a published number, measured elsewhere"
    if row["family"] == "constant":
        return "a sanity row that looks at no text"
    return "the teacher itself" if row["teacher"] else ""


def broken_limits(row: Mapping[str, Any], speed: float, limits: Limits) -> list[str]:
    """Each limit a row breaks, in words; a value that is missing breaks the limit on it."""
    why = []
    if not wording.known(speed):
        why.append("not clocked")
    elif limits.scenario == "single" and limits.max_p95_s is None and not wording.known(row["latency_p95_s"]):
        why.append("p95 of one request not measured")
    if not wording.known(row["retained"]):
        why.append("its share of the teacher's quality is not known")
    elif limits.min_retained is not None:
        low = row["retained_low"]
        if row["retained"] < limits.min_retained:
            why.append(
                f"keeps {wording.percent(row['retained'])} of the teacher, below {100 * limits.min_retained:g} %"
            )
        elif limits.sure and not (wording.known(low) and low >= limits.min_retained):
            why.append(
                f"its interval starts at {wording.percent(low)}, below {100 * limits.min_retained:g} %"
            )
    if limits.min_gap is not None and not wording.known(row["gap"]):
        why.append("what it closes of the gap to the teacher is not known")
    elif limits.min_gap is not None and row["gap"] < limits.min_gap:
        why.append(
            f"closes {wording.percent(row['gap'])} of the gap to the teacher, below {100 * limits.min_gap:g} %"
        )
    elif limits.min_gap is not None and limits.sure and not row["gap_low"] >= limits.min_gap:
        why.append(f"the interval of its gap closed starts at {wording.percent(row['gap_low'])}")
    if limits.min_pairs_per_s is not None and wording.known(speed) and speed < limits.min_pairs_per_s:
        why.append(f"{wording.si(speed)} pairs/s, below {wording.si(limits.min_pairs_per_s)}")
    if (
        limits.max_price is not None
        and wording.known(speed)
        and limits.price(BILLION, speed) > limits.max_price
    ):
        why.append(
            f"a billion pairs cost {wording.money(limits.price(BILLION, speed))}, above {wording.money(limits.max_price)}"
        )
    for column, limit, factor, unit, what in (
        ("latency_p95_s", limits.max_p95_s, 1.0, "s", "p95 of one request"),
        ("bytes_per_text", limits.max_cache_bytes, limits.n_texts, "B", "cache"),
        ("params_total", limits.max_params, 1.0, "", "parameters"),
    ):
        if limit is None:
            continue
        if not wording.known(row[column]):
            why.append(f"{what} not measured")
        elif row[column] * factor > limit:
            why.append(f"{what} {wording.si(row[column] * factor, unit)}, above {wording.si(limit, unit)}")
    return why
