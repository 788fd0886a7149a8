"""Quality and speed against the number of kept tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dipair_lib.reporting import identity, wording
from dipair_lib.reporting.figures import fonts, style

HEADS: tuple[tuple[str, Any], ...] = (
    ("o", "-"),
    ("*", (0, (6, 1.5, 1, 1.5))),
    ("p", (0, (1, 1))),
    ("h", (0, (8, 2))),
)


class Line(NamedTuple):
    """One head over its numbers of tokens: its name, its rows with a column ``tokens``, its look."""

    name: str
    rows: pd.DataFrame
    look: dict[str, Any]


def plot_kept(data: pd.DataFrame, quality_ax: Axes, speed_ax: Axes) -> None:
    """Quality (upper) and pairs/s (lower) against the tokens kept over all fields, one line per head and
    number of stages.

    The contrast is the teacher reading a truncated input: there, fewer tokens are tokens that were never
    read. A line passes through the median where several rows share a head and a number of tokens; every row
    is drawn.
    """
    identity.require_one_task(data)
    data = data[data["family"] != "published"]
    teacher = identity.teacher_of(data)
    lines = [*lines_of_heads(data), *line_of_teacher(data, teacher)]
    metric = wording.metric_name(wording.plain(data["metric"].iloc[0])) if len(data) else ""
    quality_ax.set_ylabel(metric or "quality on the test split")
    if start_panel(quality_ax, lines, "quality", "no row keeps a number of tokens"):
        style.teacher_band(quality_ax, teacher)
        draw_lines(quality_ax, lines, "quality")
    speed_ax.set_ylabel(wording.label_of("pairs_per_s", data))
    if start_panel(speed_ax, lines, "pairs_per_s", "no row here is clocked yet"):
        speed_ax.set_yscale("log")
        style.log_ticks(speed_ax.yaxis)
        draw_lines(speed_ax, lines, "pairs_per_s")
    handles = [Line2D([], [], lw=1.6, mec=style.INK, mew=0.6, label=one.name, **one.look) for one in lines]
    if handles:
        place: dict[str, Any] = dict(loc="outside upper center", ncols=4, frameon=False, fontsize=8.5)
        quality_ax.figure.legend(handles=handles, **place)


def lines_of_heads(data: pd.DataFrame) -> list[Line]:
    """A line per head, after stage 1 and after stage 2; where there are such lines, lone points are left out.

    A colour is a family, here as in every figure; the head is in the marker and the dashes.
    """
    heads = data[data["family"].isin(["dipair", "dual-encoder"]) & data["kept_tokens"].notna()]
    heads = heads.assign(line=heads["head"] + heads["stages"].map({"1": " (stage 1)"}).fillna(""))
    several = heads.groupby("line")["kept_tokens"].transform("nunique") > 1
    heads = heads[several] if several.any() else heads
    lines = []
    for i, ((family, head), part) in enumerate(heads.groupby(["family", "line"])):
        marker, dashes = HEADS[i % len(HEADS)]
        drawn = style.FAMILIES[str(family)]
        look = {"color": drawn.colour, "marker": marker, "ls": dashes, "ms": 9 if marker == "*" else 7}
        name = f"{drawn.label}, {fonts.drawable(wording.plain(head, 32))}"
        lines.append(Line(name, part.assign(tokens=part["kept_tokens"]), look))
    return lines


def line_of_teacher(data: pd.DataFrame, teacher: pd.Series | None) -> list[Line]:
    """The teacher with its input truncated, where there are such rows."""
    if teacher is None:
        return []
    same = (data["family"] == "cross-encoder") & (data["params_total"] == teacher["params_total"])
    part = data[(same | data["teacher"]) & data["read_tokens"].notna()]
    look = {"color": style.FAMILIES["cross-encoder"].colour, "marker": "D", "ls": (0, (4, 2)), "ms": 7}
    return (
        [Line("teacher, input truncated", part.assign(tokens=part["read_tokens"]), look)] if len(part) else []
    )


def start_panel(ax: Axes, lines: list[Line], column: str, empty: str) -> bool:
    """Set up a panel over tokens; False where it has nothing to draw, and says why."""
    style.style_axes(ax)
    ax.set_xlabel("tokens kept (or, truncated, read) over all fields")
    if not any(one.rows[column].notna().any() for one in lines):
        style.say_in(ax, empty)
        return False
    ax.set_xscale("log", base=2)
    return True


def draw_lines(ax: Axes, lines: list[Line], column: str) -> None:
    """Draw each line through its medians, each row as a point, and a tick per number of tokens."""
    for one in lines:
        part, look = one.rows[one.rows[column].notna()], one.look
        middle = part.groupby("tokens")[column].median()
        ax.plot(middle.index, middle, color=look["color"], lw=1.6, ls=look["ls"], zorder=2)
        for run, row in part.iterrows():
            x = row["tokens"]
            if column == "quality" and wording.known(row["quality_low"]):
                ends = [row["quality_low"], row["quality_high"]]
                ax.plot([x, x], ends, color=look["color"], lw=0.9, alpha=0.6, zorder=2)
            hollow = column == "pairs_per_s" and row["noisy"]
            ax.plot(
                [x], [row[column]], ls="", marker=look["marker"], ms=look["ms"], mec=style.INK, mew=0.6, zorder=4,
                mfc=style.CARD if hollow else look["color"], gid=f"row:kept-{column}:{run}",
            )  # fmt: skip
    ticks = sorted({float(token) for one in lines for token in one.rows["tokens"]})
    ax.xaxis.set_major_locator(FixedLocator(thinned(ticks)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def thinned(ticks: list[float], ratio: float = 1.25) -> list[float]:
    """Ticks thinned so that neighbours on a log axis stay `ratio` apart."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= ratio * kept[-1]:
            kept.append(tick)
    return kept
