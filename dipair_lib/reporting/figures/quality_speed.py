"""Quality against speed, with intervals and the front."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dipair_lib.reporting import derived, identity, wording
from dipair_lib.reporting.figures import fonts, labels, style

MOST_NAMED = 12  # models of one family that are all named in a plot


def plot_quality_speed(
    data: pd.DataFrame, ax: Axes, speed: str = "pairs_per_s", highlight: Iterable[str] = ()
) -> None:
    """Quality against pairs per second (log axis), intervals on both, the front, the teacher with its band.

    Rows without a clock are left to the table. A constant is drawn at the lower edge, so that it does not squeeze the
    others. `highlight` names run ids to ring (a choice and its alternatives).
    """
    identity.require_one_task(data)
    rows = data[(data["family"] != "published") & data[speed].notna() & data["quality"].notna()]
    style.style_axes(ax)
    metric = wording.plain(data["metric"].dropna().iloc[0]) if data["metric"].notna().any() else "quality"
    ax.set_xlabel(wording.label_of(speed, data))  # the unit stands at its ticks
    ax.set_ylabel(f"{wording.metric_name(metric)} on the test split")
    if rows.empty:
        style.say_in(ax, "no row is clocked yet")
        return
    ax.set_xscale("log")
    others = rows[rows["family"] != "constant"]
    teacher = identity.teacher_of(
        data
    )  # a column of scores has no point here, but a line that has to be seen
    drawn = others if teacher is None else pd.concat([others, teacher.to_frame().T])
    heights = pd.concat(
        [drawn[name].astype(float) for name in ("quality", "quality_low", "quality_high")]
    ).dropna()
    if len(heights):
        margin = max(0.08 * (heights.max() - heights.min()), 1e-3)
        ax.set_ylim(heights.min() - margin, heights.max() + margin)
    floor = ax.get_ylim()[0]
    lows = rows["pairs_per_s_low"] if speed == "pairs_per_s" else rows[speed]
    highs = rows["pairs_per_s_high"] if speed == "pairs_per_s" else rows[speed]
    ax.set_xlim(
        0.35 * np.nanmin([lows.min(), rows[speed].min()]), 2.8 * np.nanmax([highs.max(), rows[speed].max()])
    )
    style.log_ticks(ax.xaxis, wording.AXES[speed].unit)

    if teacher is not None:
        ax.axhline(
            teacher["quality"],
            color=style.FAMILIES["cross-encoder"].colour,
            lw=1,
            ls=(0, (5, 3)),
            zorder=1,
            label="teacher's quality, with its interval",
        )
        if wording.known(teacher["quality_low"]):
            ax.axhspan(
                teacher["quality_low"],
                teacher["quality_high"],
                color=style.FAMILIES["cross-encoder"].colour,
                alpha=0.10,
                lw=0,
                zorder=0,
            )
    front = others[derived.pareto(others, speed)].sort_values(speed)
    if len(front):
        ax.plot(front[speed], front["quality"], color=style.MUTED, lw=1.2, zorder=2, label="Pareto front")

    ringed = set(highlight)
    names, bars = [], []
    if teacher is not None:
        bars.append((ax.get_xlim()[0], teacher["quality"], ax.get_xlim()[1], teacher["quality"]))
    for run, row in rows.iterrows():
        y = max(row["quality"], floor)
        low, high = (
            (row["pairs_per_s_low"], row["pairs_per_s_high"]) if speed == "pairs_per_s" else (np.nan, np.nan)
        )
        if wording.known(low) and wording.known(high):
            ax.plot([low, high], [y, y], color=style.INK, lw=0.9, zorder=3)
        if wording.known(row["quality_low"]) and row["family"] != "constant":
            ax.plot(
                [row[speed]] * 2,
                [row["quality_low"], row["quality_high"]],
                color=style.INK,
                lw=0.9,
                alpha=0.45,
                zorder=3,
            )
            bars.append((row[speed], row["quality_low"], row[speed], row["quality_high"]))
        style.draw_point(ax, row[speed], y, row, f"row:speed:{run}")
        if run in ringed:
            ax.plot(
                [row[speed]],
                [y],
                ls="",
                marker="o",
                ms=15,
                mfc="none",
                mec=style.INK,
                mew=1.4,
                zorder=5,
                clip_on=False,
            )
        name = fonts.drawable(wording.plain(row["model"], style.NAME_WIDTH))
        names.append(f"{name}: {row['quality']:.3f}, below this axis" if row["quality"] < floor else name)
    draw_legend(ax, rows["family"], noisy=bool(rows["noisy"].any()))
    marked = rows["pareto"] | rows["teacher"] | rows.index.isin(ringed)
    # Of a family of many only the best are named; the rest have their hover texts and the table.
    family = rows.groupby("family")["quality"]
    few = family.transform("size") <= MOST_NAMED
    wanted = (marked | few | (family.rank(ascending=False) <= 3)).to_numpy()
    labels.label_points(
        ax, rows[speed].to_numpy(), np.maximum(rows["quality"].to_numpy(), floor), names, wanted, bars
    )


def draw_legend(ax: Axes, families: pd.Series, noisy: bool) -> None:
    here = [name for name in style.FAMILIES if name in set(families)]
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=style.FAMILIES[name].marker,
            ms=8,
            mec=style.INK,
            mew=0.6,
            mfc=style.FAMILIES[name].colour,
            label=style.FAMILIES[name].label,
        )
        for name in here
    ]
    if noisy:
        handles.append(
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                ms=8,
                mec=style.INK,
                mew=1.6,
                mfc=style.CARD,
                label="hollow: noisy clock",
            )
        )
    handles += [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    ax.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.01),
        ncols=min(5, max(1, len(handles))),
        frameon=False,
        fontsize=8.5,
        columnspacing=1.4,
        handletextpad=0.4,
    )
