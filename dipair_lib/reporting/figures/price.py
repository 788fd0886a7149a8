"""What a text and a pair cost, as bars."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from dipair_lib.reporting import identity, wording
from dipair_lib.reporting.figures import fonts, style


def plot_price(data: pd.DataFrame, axes: Iterable[Axes]) -> None:
    """Four panels of bars on log axes, one bar per row: once per text, per pair, cache per text, parameters. Of many rows, see ``few``.

    A dash stands for what was not measured; "0" for what costs nothing (a cross-encoder does nothing once per text).
    """
    identity.require_one_task(data)
    rows = style.few(data[data["family"] != "published"]).sort_values(
        "quality", kind="stable", na_position="first"
    )
    places = np.arange(len(rows))
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
        values = rows[column]
        positive = values[values > 0]
        ax.set_ylim(-0.7, len(rows) - 0.3)
        ax.set_yticks(
            places,
            [
                fonts.drawable(wording.plain(name, style.NAME_WIDTH)).replace("$", r"\$")
                for name in rows["model"]
            ]
            if i == 0
            else [],
        )
        ax.tick_params(axis="y", length=0, labelcolor=style.INK)
        ax.set_xscale("log")
        low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 10.0)
        left = 10 ** math.floor(math.log10(low) - 0.3)
        # Room to the right of the longest bar for its number: about four tenths of the panel.
        ax.set_xlim(left, left * (high / left) ** 1.75)
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: wording.si(value, unit)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.tick_params(axis="x", labelsize=7.5)
        for place, (run, row) in zip(places, rows.iterrows(), strict=True):
            value = row[column]
            end = left
            if wording.known(value) and value > 0:
                family = style.FAMILIES.get(row["family"], style.FAMILIES["constant"])
                ax.barh(
                    place,
                    value - left,
                    left=left,
                    height=0.62,
                    color=family.colour,
                    edgecolor=style.INK,
                    linewidth=0.5,
                    gid=f"row:{column}:{run}",
                )[0].set_gid(f"row:{column}:{run}")
                end = value
            text = ("0" if value == 0 else wording.si(value, unit)) if wording.known(value) else wording.DASH
            ax.annotate(
                text,
                (end, place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=style.INK,
                parse_math=False,
            )
