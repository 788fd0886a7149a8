"""The page a decision is made on: the controls are your limits, the answer is a sentence, a picture and a
table.

``view`` is the pure function behind it; ``Explorer`` puts widgets in front, ``static`` is what is seen where
no widget can be. The picture is drawn once for a task and a scenario; what a control changes are the rings
beneath it.
"""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dipair_lib.evaluation import results
from dipair_lib.reporting import derived, overview, report_details, selection
from dipair_lib.reporting.criteria import Choice, Limits
from dipair_lib.system import disk

COLUMNS = [
    "model",
    "quality",
    "of the teacher",
    "gap closed",
    overview.CACHED,
    "speed-up, same dtype",
    "once per text",
    "cache per text",
    "p95 of a request",
]
TEXTS = 1e6  # cached, where a limit is set on their bytes
SPEED = {"offline": "pairs_per_s", "single": "latency_p95_s"}  # the picture's axis, by scenario
# Limits that only one scenario knows, by the name of their parameter.
ONLY_IN = {
    "min_pairs_per_s": "offline",
    "reuse": "offline",
    "max_price": "offline",
    "max_p95_s": "single",
}


# --- pure functions ---------------------------------------------------------------------------------------------------------------


def frames(folder: Path | str) -> dict[str, pd.DataFrame]:
    """The rows of a results folder by task, each as a frame."""
    data = derived.frame(results.load_results(folder, damaged="warn"), folder=folder)
    data = data[data["family"] != "published"]
    names = data["task"].dropna().unique().tolist()
    if not names:
        raise disk.ResultError(
            f"{folder}: no rows yet: run the notebooks 01 to 03 first, or a suite: {results.FIRST}"
        )
    return {name: data[data["task"] == name] for name in names}


def load(folder: Path | str, task: str = "") -> pd.DataFrame:
    """The rows of one task of a results folder as a frame; of several tasks the first, unless one is named."""
    found = frames(folder)
    return found[named(found, task)]


def named(found: Mapping[str, pd.DataFrame], task: str) -> str:
    """The task that was asked for, or the first."""
    if task and task not in found:
        raise disk.ResultError(f"task: expected one of {', '.join(found)}, but got {task!r}")
    return task or next(iter(found))


def limits(
    scenario: str = "offline",
    min_retained: float = 0.95,
    sure: bool = False,
    min_pairs_per_s: float = 0.0,
    reuse: float = derived.REUSE,
    max_p95_s: float = 0.0,
    max_cache_bytes: float = 0.0,
    price_per_hour: float = 0.0,
    max_price: float = 0.0,
    min_gap: float = 0.0,
) -> Limits:
    """Limits from the notebook's parameters: 0 is no limit, and one that belongs to the other scenario counts
    for nothing.
    """
    numbers = {
        "min_retained": min_retained,
        "min_pairs_per_s": min_pairs_per_s,
        "max_p95_s": max_p95_s,
        "max_cache_bytes": max_cache_bytes,
        "price_per_hour": price_per_hour,
        "max_price": max_price,
        "min_gap": min_gap,
    }
    asked: dict[str, Any] = {
        name: value or None for name, value in numbers.items() if ONLY_IN.get(name, scenario) == scenario
    }
    offline = {"reuse": reuse} if scenario == "offline" else {}
    return Limits(scenario=scenario, sure=sure, n_texts=TEXTS, **offline, **asked)


def parameters(asked: Limits) -> dict[str, Any]:
    """The notebook's parameters that give these limits again."""
    return {
        "scenario": asked.scenario,
        "min_retained": asked.min_retained or 0.0,
        "sure": asked.sure,
        "min_pairs_per_s": asked.min_pairs_per_s or 0.0,
        "reuse": asked.reuse,
        "max_p95_s": asked.max_p95_s or 0.0,
        "max_cache_bytes": asked.max_cache_bytes or 0.0,
        "price_per_hour": asked.price_per_hour or 0.0,
        "max_price": asked.max_price or 0.0,
        "min_gap": asked.min_gap or 0.0,
    }


def view(data: pd.DataFrame, asked: Limits, lines: pd.DataFrame | None = None) -> tuple[Choice, pd.DataFrame]:
    """The choice under limits, and the table beneath it: what is within them first, then why each other model
    is not.

    Args:
        lines: ``overview.table`` of the same rows, where it is at hand.
    """
    choice = selection.select(data, asked)
    lines = overview.table(data) if lines is None else lines
    within = [run for run in (choice.winner, *choice.alternatives) if run]
    table = lines.loc[
        within + [run for run in lines.index if run not in within], overview.columns_here(COLUMNS, lines)
    ]
    verdicts = {run: "within the limits" for run in within} | {str(choice.winner): "the choice"}
    table.insert(1, "verdict", [verdicts.get(run) or choice.excluded.get(run, "") for run in table.index])
    return choice, table


def export(folder: Path | str, data: pd.DataFrame, asked: Limits) -> str:
    """A view as text: the parameters that give it again, the ids of the rows within the limits, the commands
    that make the choice again.
    """
    choice = selection.select(data, asked)
    known = {"only": str(data["task"].iloc[0]), "out": Path(folder).as_posix(), **parameters(asked)}
    parts = [
        "# This view: the parameters of 05_explorer",
        *(f"{name} = {value!r}" for name, value in known.items()),
        "\n# Rows within these limits, the choice first",
        *([run for run in (choice.winner, *choice.alternatives) if run] or ["# none"]),
    ]
    if choice.winner:
        row = data.loc[choice.winner]
        parts += ["\n# Every row again", report_details.command(row)]
        parts += ["\n# The choice alone, its teacher being in the same folder", command(folder, row)]
    return "\n".join(parts)


def command(folder: Path | str, row: pd.Series) -> str:
    """The line that runs one row's notebook again, with every parameter it had, from the project's folder."""
    values = {**json.loads(row["parameters"] or "{}"), "out": Path(folder).as_posix()}
    words = ["papermill", f"notebooks/{row['notebook']}.ipynb", f"{row['notebook']}.again.ipynb"]
    return shlex.join([*words, "--cwd", "notebooks", "-y", json.dumps(values)])


def static(data: pd.DataFrame, asked: Limits | None = None) -> str:
    """Sentence and table as HTML, everything escaped."""
    choice, table = view(data, asked or Limits())
    return f"<p><b>{html.escape(choice.sentence)}</b></p>" + as_html(table)


def as_html(table: pd.DataFrame) -> str:
    """A table, escaped."""
    return str(table.to_html(index=False, escape=True, border=0, classes="dipair", justify="left"))
