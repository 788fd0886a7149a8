"""The report's small print: commits, machine, notes, the order that must hold."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from dipair_lib.reporting import caveats, criteria, guard, wording

LIMITS = (
    criteria.Limits(min_retained=0.99),
    criteria.Limits(min_retained=0.95),
    criteria.Limits(min_retained=0.90),
)


def commits(data: pd.DataFrame) -> list[str]:
    """The commits that made the rows, and of how many rows the code had changes that were not committed."""
    known = data[data["git_commit"].notna()]
    dirty = known["git_dirty"].eq(True).groupby(known["git_commit"].str[:12]).sum()
    return [
        f"{commit} ({n} row{'s' if n != 1 else ''} with changes that were not committed)"
        if n
        else str(commit)
        for commit, n in dirty.items()
    ]


def cells(table: pd.DataFrame) -> dict[str, Any]:
    """A table as plain lists for the template."""
    return {"head": [str(c) for c in table.columns], "rows": table.astype(str).to_numpy().tolist()}


def sanity(data: pd.DataFrame) -> dict[str, Any]:
    """The order constant < lexical < frozen cosine < teacher: its steps, and whether it holds."""
    steps = guard.sanity(data)
    found = steps["holds"].dropna().tolist()
    said = (
        "holds"
        if found and all(found)
        else "does not hold"
        if False in found
        else "cannot be checked: rows are missing"
    )
    known = [f"{s.step} {s.quality:.3f}" for s in steps.itertuples() if pd.notna(s.quality)]
    return {"said": said, "steps": " < ".join(known) if said == "holds" else ", ".join(known)}


def notes(text: str | None) -> list[tuple[str, str]]:
    """The task's notes as pairs of name and one line of text; a long mapping (packages) is counted and its
    largest named.
    """
    try:
        values: Mapping[str, Any] = json.loads(text or "{}")
    except ValueError:
        return []
    return [(wording.plain(name), wording.plain(one_line(value), 600)) for name, value in values.items()]


def one_line(value: Any) -> str:
    """A note's value for people."""
    if not isinstance(value, Mapping):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if len(value) <= 12:
        return "; ".join(f"{k}: {one_line(v)}" for k, v in value.items())
    largest = sorted(
        value.items(), key=lambda item: -max((n for n in as_list(item[1]) if isinstance(n, int)), default=0)
    )[:12]
    return f"{len(value)} in all, the largest: " + "; ".join(
        f"{k} {' '.join(map(str, as_list(v)))}" for k, v in largest
    )


def as_list(value: Any) -> list[Any]:
    """The parts of a note: of a list, of a mapping, or the value alone."""
    return (
        list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    )


def machine(data: pd.DataFrame) -> list[tuple[str, str]]:
    """Where the teacher is from and where all ran: each property with every value found in the rows."""
    names = {
        "device_name": "processor", "hardware": "instructions", "quality_dtype": "encoder arithmetic behind quality",
        "threads": "threads on the clock", "device": "device on the clock",
        "peak_gflops": "matrix product, float32, GFLOP/s", "copy_gb_per_s": "memory copy, GB/s", "repeats": "turns on the clock",
        "request_candidates": "candidates in one request", "python": "Python", "torch": "torch", "transformers": "transformers",
        "platform": "platform",
    }  # fmt: skip
    origin = caveats.origin(data)
    found = [("teacher", origin)] if origin else []
    for column, name in names.items():
        values = data[column].dropna().unique().tolist()
        if values:
            found.append(
                (name, ", ".join(f"{v:,.4g}" if isinstance(v, float) else wording.plain(v) for v in values))
            )
    return found


def command(row: pd.Series) -> str:
    """The line that makes these rows again."""
    try:
        parameters = json.loads(row["parameters"] or "{}")
    except ValueError:
        parameters = {}
    words = ["dipair", "run", f"notebooks/suites/{row['suite']}.yaml"]
    for name in ("task", "fields", "label", "group", "kind"):
        value = parameters.get(name)
        if value and value != "pydocs":
            words += ["-p", f"{name}={json.dumps(value) if isinstance(value, list) else value}"]
    return wording.plain(shlex.join(words), 1000)


def number(value: Any) -> str:
    """A count with thousands separators, or a dash."""
    return f"{value:,.0f}" if wording.known(value) else wording.DASH
