"""The page a decision is made on: the controls are your limits, the answer is a sentence, a picture and a table.

``view`` is the pure function behind it; ``show`` puts widgets in front, ``static`` is what is seen where no widget can be.
"""

from __future__ import annotations

import html
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from dipair_lib import results, tradeoff
from dipair_lib.tradeoff import Choice, Limits

COLUMNS = [
    "model",
    "quality",
    "of the teacher",
    "pairs/s, cached",
    "speed-up, same dtype",
    "once per text",
    "cache per text",
    "p95 of a request",
]


def load(folder: Path | str, task: str = "") -> pd.DataFrame:
    """The rows of one task of a results folder as a frame; of several tasks the first, unless one is named."""
    data = tradeoff.frame(results.load_results(folder, damaged="warn"), folder=folder)
    data = data[data["family"] != "published"]
    names = data["task"].dropna().unique().tolist()
    if not names:
        raise results.ResultError(
            f"{folder}: no rows yet: run `dipair run notebooks/suites/demo.yaml` or the notebooks 01 to 03 first"
        )
    if task and task not in names:
        raise results.ResultError(f"task: expected one of {', '.join(names)}, but got {task!r}")
    return data[data["task"] == (task or names[0])]


def view(data: pd.DataFrame, limits: Limits) -> tuple[Choice, pd.DataFrame]:
    """The choice under limits, and the table beneath it: what is within them first, then why each other model is not."""
    choice = tradeoff.select(data, limits)
    within = [run for run in (choice.winner, *choice.alternatives) if run]
    others = [run for run in data.sort_values("quality", ascending=False).index if run not in within]
    table = tradeoff.table(data.loc[within + others])[COLUMNS]
    order = data.loc[within + others].sort_values("quality", ascending=False, kind="stable").index
    table.index = pd.Index(order)
    table.insert(
        1,
        "verdict",
        ["within the limits" if run in within else choice.excluded.get(str(run), "") for run in order],
    )
    return choice, table.loc[within + others]


def static(data: pd.DataFrame, limits: Limits | None = None) -> str:
    """Sentence and table as HTML, everything escaped."""
    choice, table = view(data, limits or Limits())
    return f"<p><b>{html.escape(choice.sentence)}</b></p>" + table.to_html(index=False, escape=True, border=0)


def picture(data: pd.DataFrame, choice: Choice, dpi: int = 80) -> bytes:
    """The trade-off as PNG, the winner and the nearest alternatives ringed."""
    ringed = [run for run in (choice.winner, *choice.alternatives[:2]) if run]
    buffer = io.BytesIO()
    tradeoff.draw("quality_speed", data, ringed).savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save_picture(folder: Path | str, out: Path | str, task: str = "") -> Path:
    """Write the trade-off of a results folder to ``quality_speed.png`` in another one, at the default limits."""
    data = load(folder, task)
    return results.write_atomic(
        Path(out) / "quality_speed.png", picture(data, tradeoff.select(data), dpi=110)
    )


def show(folder: Path | str, task: str = "", limits: Limits | None = None) -> Any:
    """Controls for the limits over sentence, picture and table.

    Args:
        folder: a suite's results. task: which, where there are several. limits: to begin with.
    """
    import ipywidgets as widgets

    data, start = load(folder, task), limits or Limits()
    wide = {"description_width": "17em"}
    layout = widgets.Layout(width="36em")

    def slider(text: str, values: list[tuple[str, float]], value: float | None) -> Any:
        nearest = min((v for _, v in values), key=lambda v: abs(v - (value or 0.0)))
        return widgets.SelectionSlider(
            options=values,
            value=nearest,
            description=text,
            style=wide,
            layout=layout,
            continuous_update=False,
        )

    kept = [(f"{p:g} %", p / 100) for p in (50, 80, 90, 92, 94, 95, 96, 97, 98, 99, 99.5, 100)]
    speeds: list[tuple[str, float]] = [
        ("any", 0.0),
        *((tradeoff.si(10.0**n), 10.0**n) for n in range(1, 8)),
    ]
    waits: list[tuple[str, float]] = [
        ("any", 0.0),
        *((tradeoff.si(s, "s"), s) for s in (0.5, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001)),
    ]
    caches: list[tuple[str, float]] = [
        ("any", 0.0),
        *((tradeoff.si(10.0**n, "B"), 10.0**n) for n in range(7, 14)),
    ]
    reuses = [(f"{n:,}", float(n)) for n in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000)]
    controls = {
        "min_retained": slider("quality kept, at least", kept, start.min_retained),
        "sure": widgets.Checkbox(
            value=start.sure, description="with its whole interval", style=wide, layout=layout
        ),
        "min_pairs_per_s": slider("pairs per second, at least", speeds, start.min_pairs_per_s),
        "reuse": slider("pairs that share a text", reuses, start.reuse),
        "max_p95_s": slider("95 % of requests within", waits, start.max_p95_s),
        "max_cache_bytes": slider("cache for a million texts, at most", caches, start.max_cache_bytes),
    }
    sentence, image, table = (
        widgets.HTML(),
        widgets.Image(format="png", layout=widgets.Layout(width="736px", height="480px")),
        widgets.HTML(),
    )

    def refresh(**values: Any) -> None:
        wanted: dict[str, Any] = {name: value or None for name, value in values.items()} | {
            "sure": values["sure"]
        }
        choice, lines = view(data, replace(start, n_texts=1e6, **wanted))
        sentence.value = f"<b>{html.escape(choice.sentence)}</b>"
        image.value = picture(data, choice)
        table.value = lines.to_html(index=False, escape=True, border=0)

    shown = widgets.interactive_output(refresh, controls)
    return widgets.VBox([*controls.values(), sentence, image, table, shown])
