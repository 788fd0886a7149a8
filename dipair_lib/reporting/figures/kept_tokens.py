"""Quality and speed against the number of kept tokens."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dipair_lib.reporting import identity, wording
from dipair_lib.reporting.figures import fonts, style


def plot_kept(data: pd.DataFrame, quality_ax: Axes, speed_ax: Axes) -> None:
    """Quality (upper) and pairs/s (lower) against the tokens kept over all fields, one line per head and number of stages.

    The contrast is the teacher reading a truncated input: there, fewer tokens are tokens that were never read. A line
    passes through the median where several rows share a head and a number of tokens; every row is drawn.
    """
    identity.require_one_task(data)
    data = data[data["family"] != "published"]
    teacher = identity.teacher_of(data)
    heads = data[data["family"].isin(["dipair", "dual-encoder"]) & data["kept_tokens"].notna()]
    # A head is a line of its own after stage 1 and after stage 2; where there are such lines, lone points are left out.
    heads = heads.assign(line=heads["head"] + heads["stages"].map({"1": " (stage 1)"}).fillna(""))
    several = heads.groupby("line")["kept_tokens"].transform("nunique") > 1
    heads = heads[several] if several.any() else heads
    lines: list[tuple[str, pd.DataFrame, dict[str, Any]]] = []
    for i, ((family, head), part) in enumerate(heads.groupby(["family", "line"])):
        # A colour is a family, here as in every figure; the head is in the marker and the dashes.
        marker, dashes = HEADS[i % len(HEADS)]
        look = {
            "color": style.FAMILIES[str(family)].colour,
            "marker": marker,
            "ls": dashes,
            "ms": 9 if marker == "*" else 7,
        }
        name = f"{style.FAMILIES[str(family)].label}, {fonts.drawable(wording.plain(head, 32))}"
        lines.append((name, part.assign(tokens=part["kept_tokens"]), look))
    if teacher is not None:
        same = (data["family"] == "cross-encoder") & (data["params_total"] == teacher["params_total"])
        part = data[(same | data["teacher"]) & data["read_tokens"].notna()]
        look = {"color": style.FAMILIES["cross-encoder"].colour, "marker": "D", "ls": (0, (4, 2)), "ms": 7}
        if len(part):
            lines.append(("teacher, input truncated", part.assign(tokens=part["read_tokens"]), look))
    for ax, column, title in (
        (quality_ax, "quality", "quality on the test split"),
        (speed_ax, "pairs_per_s", wording.label_of("pairs_per_s", data)),
    ):
        style.style_axes(ax)
        ax.set_xlabel("tokens kept (or, truncated, read) over all fields")
        ax.set_ylabel(
            wording.metric_name(wording.plain(data["metric"].iloc[0]))
            if column == "quality" and len(data)
            else title
        )
        if not any(part[column].notna().any() for _, part, _ in lines):
            style.say_in(
                ax,
                "no row here is clocked yet"
                if column == "pairs_per_s"
                else "no row keeps a number of tokens",
            )
            continue
        ax.set_xscale("log", base=2)
        if column == "pairs_per_s":
            ax.set_yscale("log")
            style.log_ticks(ax.yaxis)
        elif teacher is not None and wording.known(teacher["quality_low"]):
            ax.axhspan(
                teacher["quality_low"],
                teacher["quality_high"],
                alpha=0.10,
                lw=0,
                color=style.FAMILIES["cross-encoder"].colour,
                zorder=0,
            )
        for _, part, look in lines:
            part = part[part[column].notna()]
            middle = part.groupby("tokens")[column].median()
            ax.plot(middle.index, middle, color=look["color"], lw=1.6, ls=look["ls"], zorder=2)
            for run, row in part.iterrows():
                if column == "quality" and wording.known(row["quality_low"]):
                    ax.plot(
                        [row["tokens"]] * 2,
                        [row["quality_low"], row["quality_high"]],
                        color=look["color"],
                        lw=0.9,
                        alpha=0.6,
                        zorder=2,
                    )
                hollow = column == "pairs_per_s" and row["noisy"]
                ax.plot(
                    [row["tokens"]],
                    [row[column]],
                    ls="",
                    marker=look["marker"],
                    ms=look["ms"],
                    mec=style.INK,
                    mew=0.6,
                    zorder=4,
                    mfc=style.CARD if hollow else look["color"],
                    gid=f"row:kept-{column}:{run}",
                )
        ticks = sorted({float(token) for _, part, _ in lines for token in part["tokens"]})
        ax.xaxis.set_major_locator(FixedLocator(thinned(ticks)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    handles = [Line2D([], [], lw=1.6, mec=style.INK, mew=0.6, label=name, **look) for name, _, look in lines]
    if handles:
        quality_ax.figure.legend(
            handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8.5
        )


HEADS: tuple[tuple[str, Any], ...] = (
    ("o", "-"),
    ("*", (0, (6, 1.5, 1, 1.5))),
    ("p", (0, (1, 1))),
    ("h", (0, (8, 2))),
)


def thinned(ticks: list[float], ratio: float = 1.25) -> list[float]:
    """Ticks thinned so that neighbours on a log axis stay `ratio` apart."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= ratio * kept[-1]:
            kept.append(tick)
    return kept
