"""What a text and a pair cost, as bars."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from dipair_lib.reporting import identity, wording
from dipair_lib.reporting.figures import fonts, style


def plot_price(data: pd.DataFrame, axes: Iterable[Axes]) -> None:
    """Four panels of bars on log axes, one bar per row: once per text, per pair, cache per text, parameters.
    Of many rows, see ``few``.

    A dash stands for what was not measured; "0" for what costs nothing (a cross-encoder does nothing once per
    text).
    """
    identity.require_one_task(data)
    rows = style.few(data[data["family"] != "published"]).sort_values(
        "quality", kind="stable", na_position="first"
    )
    alone = bool(len(rows)) and rows["n_fields"].max() == 1
    rows = rows.assign(text_s_all=1 / rows["pairs_per_s"])
    panels = (
        ("text_s", "encoding a text" if alone else "once per text", "s"),
        ("combine_s_per_pair", "after it" if alone else "per pair", "s"),
        ("text_s_all", "a text, in all", "s") if alone else ("bytes_per_text", "cache per text", "B"),
        ("params_total", "parameters", ""),
    )
    for i, (ax, (column, title, unit)) in enumerate(zip(axes, panels, strict=True)):
        style.style_axes(ax)
        ax.grid(False, axis="y")
        ax.set_title(title, loc="left", fontsize=9.5, color=style.INK)
        name_bars(ax, rows["model"], named=i == 0)
        left = scale_bars(ax, rows[column], unit)
        for place, (run, row) in enumerate(rows.iterrows()):
            draw_bar(ax, place, row, column, unit, left, f"row:{column}:{run}")


def name_bars(ax: Axes, models: pd.Series, named: bool) -> None:
    """Give every bar its place, and in the first panel its name."""
    names = [fonts.drawable(wording.plain(one, style.NAME_WIDTH)).replace("$", r"\$") for one in models]
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.set_yticks(np.arange(len(names)), names if named else [])
    ax.tick_params(axis="y", length=0, labelcolor=style.INK)


def scale_bars(ax: Axes, values: pd.Series, unit: str) -> float:
    """Set the log axis, with room to the right of the longest bar for its number. Returns where bars begin."""
    positive = values[values > 0]
    ax.set_xscale("log")
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 10.0)
    left = 10 ** math.floor(math.log10(low) - 0.3)
    ax.set_xlim(left, left * (high / left) ** 1.75)  # about four tenths of the panel
    ax.xaxis.set_major_locator(LogLocator(numticks=4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.si(value, unit)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="x", labelsize=7.5)
    return left


def draw_bar(ax: Axes, place: int, row: pd.Series, column: str, unit: str, left: float, gid: str) -> None:
    """Draw one bar and its number."""
    value, end = row[column], left
    if wording.known(value) and value > 0:
        family = style.FAMILIES.get(row["family"], style.FAMILIES["constant"])
        look: dict[str, Any] = dict(height=0.62, color=family.colour, edgecolor=style.INK, linewidth=0.5)
        ax.barh(place, value - left, left=left, **look)[0].set_gid(gid)
        end = value
    text = ("0" if value == 0 else wording.si(value, unit)) if wording.known(value) else wording.DASH
    ax.annotate(
        text, (end, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5,
        color=style.INK, parse_math=False,
    )  # fmt: skip
