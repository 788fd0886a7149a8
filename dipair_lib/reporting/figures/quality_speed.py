"""Quality against speed, with intervals and the front."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dipair_lib.reporting import derived, identity, wording
from dipair_lib.reporting.figures import fonts, labels, style

MOST_NAMED = 12  # models of one family that are all named in a plot
Bar = tuple[float, float, float, float]  # x and y of both ends of a line that no name may cover


def plot_quality_speed(
    data: pd.DataFrame, ax: Axes, speed: str = "pairs_per_s", highlight: Iterable[str] = ()
) -> None:
    """Quality against pairs per second (log axis), intervals on both, the front, the teacher with its band.

    Rows without a clock are left to the table. A constant is drawn at the lower edge, so that it does not
    squeeze the others.

    Args:
        speed: the column of the horizontal axis.
        highlight: run ids to ring (a choice and its alternatives).
    """
    identity.require_one_task(data)
    rows = data[(data["family"] != "published") & data[speed].notna() & data["quality"].notna()]
    label_axes(ax, data, speed)
    if rows.empty:
        style.say_in(ax, "no row is clocked yet")
        return
    # A column of scores has no point here, but a line that has to be seen.
    teacher = identity.teacher_of(data)
    others = rows[rows["family"] != "constant"]
    scale_axes(ax, rows, others if teacher is None else pd.concat([others, teacher.to_frame().T]), speed)
    bars = draw_teacher(ax, teacher)
    front = others[derived.pareto(others, speed)].sort_values(speed)
    if len(front):
        ax.plot(front[speed], front["quality"], color=style.MUTED, lw=1.2, zorder=2, label="Pareto front")
    ringed = set(highlight)
    for run, row in rows.iterrows():
        bars += draw_row(ax, str(run), row, speed, run in ringed)
    draw_legend(ax, rows["family"], noisy=bool(rows["noisy"].any()))
    name_points(ax, rows, speed, ringed, bars)


def label_axes(ax: Axes, data: pd.DataFrame, speed: str) -> None:
    """Name both axes; the unit of the speed stands at its ticks."""
    style.style_axes(ax)
    metric = wording.plain(data["metric"].dropna().iloc[0]) if data["metric"].notna().any() else "quality"
    ax.set_xlabel(wording.label_of(speed, data))
    ax.set_ylabel(f"{wording.metric_name(metric)} on the test split")


def scale_axes(ax: Axes, rows: pd.DataFrame, drawn: pd.DataFrame, speed: str) -> None:
    """Set both ranges: of ``rows`` every speed, of ``drawn`` every quality with its interval."""
    ax.set_xscale("log")
    heights = pd.concat(
        [drawn[name].astype(float) for name in ("quality", "quality_low", "quality_high")]
    ).dropna()
    if len(heights):
        margin = max(0.08 * (heights.max() - heights.min()), 1e-3)
        ax.set_ylim(heights.min() - margin, heights.max() + margin)
    lows = rows["pairs_per_s_low"] if speed == "pairs_per_s" else rows[speed]
    highs = rows["pairs_per_s_high"] if speed == "pairs_per_s" else rows[speed]
    ax.set_xlim(
        0.35 * np.nanmin([lows.min(), rows[speed].min()]), 2.8 * np.nanmax([highs.max(), rows[speed].max()])
    )
    style.log_ticks(ax.xaxis, wording.AXES[speed].unit)


def draw_teacher(ax: Axes, teacher: pd.Series | None) -> list[Bar]:
    """Draw the teacher's quality across the panel. Returns the line, which no name may cover."""
    if teacher is None:
        return []
    ax.axhline(
        teacher["quality"], color=style.FAMILIES["cross-encoder"].colour, lw=1, ls=(0, (5, 3)), zorder=1,
        label="teacher's quality, with its interval",
    )  # fmt: skip
    style.teacher_band(ax, teacher)
    return [(ax.get_xlim()[0], teacher["quality"], ax.get_xlim()[1], teacher["quality"])]


def draw_row(ax: Axes, run: str, row: pd.Series, speed: str, ringed: bool) -> list[Bar]:
    """Draw one row with both intervals, and a ring if it is chosen. Returns the bar of its quality."""
    x, y, bars = row[speed], max(row["quality"], ax.get_ylim()[0]), []
    low, high = (
        (row["pairs_per_s_low"], row["pairs_per_s_high"]) if speed == "pairs_per_s" else (np.nan, np.nan)
    )
    if wording.known(low) and wording.known(high):
        ax.plot([low, high], [y, y], color=style.INK, lw=0.9, zorder=3)
    if wording.known(row["quality_low"]) and row["family"] != "constant":
        ends = row["quality_low"], row["quality_high"]
        ax.plot([x, x], ends, color=style.INK, lw=0.9, alpha=0.45, zorder=3)
        bars.append((x, ends[0], x, ends[1]))
    style.draw_point(ax, x, y, row, f"row:speed:{run}")
    if ringed:
        ring: dict[str, Any] = dict(ls="", marker="o", ms=15, mfc="none", mec=style.INK, mew=1.4)
        ax.plot([x], [y], zorder=5, clip_on=False, **ring)
    return bars


def name_points(ax: Axes, rows: pd.DataFrame, speed: str, ringed: set[str], bars: list[Bar]) -> None:
    """Write the names of points; of a family of many only the best, the rest have hover texts and the table."""
    floor = ax.get_ylim()[0]
    names = [
        fonts.drawable(wording.plain(row["model"], style.NAME_WIDTH))
        + (f": {row['quality']:.3f}, below this axis" if row["quality"] < floor else "")
        for _, row in rows.iterrows()
    ]
    marked = rows["pareto"] | rows["teacher"] | rows.index.isin(ringed)
    family = rows.groupby("family")["quality"]
    few = family.transform("size") <= MOST_NAMED
    wanted = (marked | few | (family.rank(ascending=False) <= 3)).to_numpy()
    places = rows[speed].to_numpy(), np.maximum(rows["quality"].to_numpy(), floor)
    labels.label_points(ax, *places, names, wanted, bars)


def draw_legend(ax: Axes, families: pd.Series, noisy: bool) -> None:
    """Draw the legend above the panel: the families that are here, hollow points, the lines."""
    common: dict[str, Any] = dict(ls="", ms=8, mec=style.INK)
    handles = [
        Line2D([], [], **common, mew=0.6, marker=one.marker, mfc=one.colour, label=one.label)
        for name, one in style.FAMILIES.items()
        if name in set(families)
    ]
    if noisy:
        hollow = Line2D([], [], **common, mew=1.6, marker="o", mfc=style.CARD, label="hollow: noisy clock")
        handles.append(hollow)
    handles += [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    ax.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=min(5, max(1, len(handles))),
        frameon=False, fontsize=8.5, columnspacing=1.4, handletextpad=0.4,
    )  # fmt: skip
