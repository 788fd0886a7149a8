"""How figures look: colours and markers of the families, quiet axes, which rows are drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from dipair_lib.reporting import wording
from dipair_lib.reporting.figures import fonts

fonts.use()


@dataclasses.dataclass(frozen=True)
class Family:
    """How one family of models is drawn: a colour (Okabe-Ito) and, for whoever sees no colour, a marker."""

    label: str
    colour: str
    marker: str


FAMILIES: dict[str, Family] = {
    "cross-encoder": Family("cross-encoder", "#d55e00", "D"),
    "scores": Family("column of scores", "#d55e00", "d"),
    "dipair": Family("DiPair", "#0072b2", "o"),
    "dual-encoder": Family("dual encoder", "#56b4e9", "v"),
    "bilstm": Family("BiLSTM", "#009e73", "^"),
    "static": Family("static vectors", "#cc79a7", "P"),
    "lexical": Family("lexical", "#e69f00", "s"),
    "constant": Family("constant", "#8c8c8c", "X"),
}
INK, MUTED, GRID, CARD = "#1b1f24", "#5b6470", "#dfe3e8", "#ffffff"

NAME_WIDTH = 34  # characters of a model's name that fit beside a point
MOST_BARS = 24


def few(rows: pd.DataFrame) -> pd.DataFrame:
    """At most MOST_BARS rows: the teacher, what nothing beats on quality and speed, the best of each family
    and head, then by quality.
    """
    if len(rows) <= MOST_BARS:
        return rows
    best = rows["quality"].eq(rows.groupby(["family", "head"], dropna=False)["quality"].transform("max"))
    rank = (
        pd.DataFrame({"first": rows["teacher"] | rows["pareto"], "best": best, "quality": rows["quality"]})
        .sort_values(["first", "best", "quality"], ascending=False, kind="stable")
        .index[:MOST_BARS]
    )
    return rows.loc[rows.index.isin(rank)]


def style_axes(ax: Axes) -> None:
    """Quiet axes: two spines, a light grid, muted numbers."""
    ax.set_facecolor("none")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(colors=MUTED, labelsize=8.5)
    ax.xaxis.label.set(color=INK, fontsize=9.5)
    ax.yaxis.label.set(color=INK, fontsize=9.5)
    ax.grid(True, color=GRID, lw=0.6, zorder=0)
    ax.set_axisbelow(True)


def log_ticks(axis: Any, unit: str = "") -> None:
    """Name the powers of ten of a log axis with their SI prefix and unit."""
    axis.set_major_locator(LogLocator(numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: wording.si(value, unit)))
    axis.set_minor_locator(NullLocator())


def say_in(ax: Axes, text: str) -> None:
    """An empty panel says why it is empty."""
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=MUTED, fontsize=10)


def teacher_band(ax: Axes, teacher: pd.Series | None) -> None:
    """Shade the interval of the teacher's quality, where it has one."""
    if teacher is not None and wording.known(teacher["quality_low"]):
        low, high = teacher["quality_low"], teacher["quality_high"]
        ax.axhspan(low, high, color=FAMILIES["cross-encoder"].colour, alpha=0.10, lw=0, zorder=0)


def draw_point(ax: Axes, x: float, y: float, row: pd.Series, gid: str) -> None:
    """One row; hollow where its clock was noisy."""
    family = FAMILIES.get(row["family"], FAMILIES["constant"])
    ax.plot(
        [x],
        [y],
        ls="",
        marker=family.marker,
        ms=8,
        mec=family.colour if row["noisy"] else INK,
        mew=1.6 if row["noisy"] else 0.6,
        mfc=CARD if row["noisy"] else family.colour,
        zorder=4,
        gid=gid,
        clip_on=False,
    )
