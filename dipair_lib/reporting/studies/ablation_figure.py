"""The grid of cells, the paired gains, and how they grow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dipair_lib.evaluation import paired
from dipair_lib.reporting import wording
from dipair_lib.reporting.figures import fonts, style
from dipair_lib.reporting.studies import ablation
from dipair_lib.reporting.studies.ablation import Cell, Study

LOSSES = {"hard": ("labels", "#e69f00", "s"), "logits": ("teacher's logits", "#0072b2", "o")}


def save_pictures(folder: Path | str, out: Path | str) -> list[Path]:
    """Write the figure of each task that has a comparison as ``ablation.png`` (of several tasks: with their names) into ``out``."""
    return paired.save_pictures(out, "ablation", ablation.tasks_of(folder), lambda task: figure(folder, task))


# --- the figure -------------------------------------------------------------------------------------------------------------------


def figure(folder: Path | str, task: str, n_boot: int = ablation.N_BOOT) -> Figure:
    """The answer at a glance: the grid of cells, the paired gains, and the gain against synthetic and real rows where there are several."""
    study = ablation.load(folder, task, n_boot)
    rounds, shares = by_rounds(study), by_share(study)
    more = [(plot_rounds, rounds)] * bool(rounds) + [(plot_shares, shares)] * bool(shares)
    drawn = Figure(figsize=(10.4, 4.6 + 3.3 * bool(more)), dpi=110, layout="constrained")
    rows: Any = drawn.subfigures(1 + bool(more), 1, height_ratios=[4.6, 3.3][: 1 + bool(more)], squeeze=False)
    above, *below = rows[:, 0]
    plot_cells(study, above.add_subplot(1, 2, 1))
    plot_gains(study, above.add_subplot(1, 2, 2))
    for number, (plot, lines) in enumerate(more, 1):
        plot(study, lines, below[0].add_subplot(1, len(more), number))
    return drawn


def plot_cells(study: Study, ax: Axes) -> None:
    """Quality of labels and logits, by the rule that made the synthetic rows."""
    style.style_axes(ax)
    if not study.quality:
        return style.say_in(ax, "no student of 02_bilstm yet")
    base = study.base()
    rounds = ablation.rounds_of(study, base)
    rules = [r for r in ablation.RULES if any(c.augment == r for c in study.within(base))]
    for loss, (name, colour, marker) in LOSSES.items():
        shift = -0.12 if loss == "hard" else 0.12
        label: str | None = name
        for place, rule in enumerate(rules):
            n_iter = rounds if rule != "none" else 0
            kept = "source" if loss == "hard" and n_iter else ""
            cell = base.like(loss=loss, augment=rule, n_iter=n_iter, labels=kept)
            if cell not in study.quality:
                continue
            value, low, high = study.mean(cell)
            ax.errorbar(
                value,
                place + shift,
                xerr=[[max(0, value - low)], [max(0, high - value)]],
                fmt=marker,
                color=colour,
                ms=7,
                mec=style.INK,
                mew=0.6,
                capsize=2.5,
                lw=1.4,
                label=label,
                zorder=3,
            )
            seen = list(study.quality[cell].values())
            ax.plot(
                seen, [place + shift] * len(seen), ls="", marker="|", ms=9, color=colour, alpha=0.9, zorder=2
            )
            label = None
    if study.teacher and study.teacher.quality is not None:
        ax.axvline(study.teacher.quality, color="#d55e00", lw=1.4, ls=(0, (5, 2)), label="teacher", zorder=1)
    ax.set(
        yticks=range(len(rules)),
        yticklabels=[ablation.RULE_NAMES[r] for r in rules],
        xlabel=wording.metric_name(study.metric),
    )
    ax.set_ylim(len(rules) - 0.5, -0.5)
    ax.set_title(
        f"{fonts.drawable(wording.plain(study.task, 40))}: what the students reach",
        loc="left",
        fontsize=10.5,
        color=style.INK,
        pad=24,
    )
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=8.5, borderaxespad=0.2
    )


def plot_gains(study: Study, ax: Axes) -> None:
    """The paired gains in points, grouped by what changed."""
    style.style_axes(ax)
    base = study.base()
    found = ablation.comparisons(study, base)
    if not found:
        return style.say_in(ax, "needs students with labels and with logits")
    for place, contrast in enumerate(found.values()):
        value, low, high = (100 * v for v in study.contrast(contrast))
        sure = low > 0 or high < 0
        ax.errorbar(
            value,
            place,
            xerr=[[max(0, value - low)], [max(0, high - value)]],
            fmt="D",
            ms=5.5,
            capsize=2.5,
            lw=1.4,
            color=style.INK,
            mfc=style.INK if sure else style.CARD,
            zorder=3,
        )
        ax.annotate(
            f"{value:+.1f}",
            (value, place),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=style.INK,
        )
    ax.axvline(0, color=style.MUTED, lw=1)
    ax.set(
        yticks=range(len(found)),
        yticklabels=list(found),
        xlabel="gain in points (hollow: may be nothing)",
    )
    ax.set_ylim(len(found) - 0.4, -0.6)
    students = study.compared().get(base, "")
    title = "What each part brings" + (f" ({students})" if students else "")
    ax.set_title(title, loc="left", fontsize=10.5, color=style.INK)


Lines = dict[str, list[tuple[float, Cell]]]


def by_rounds(study: Study) -> Lines:
    """Loss -> (synthetic rows per row, cell) for all three rules, at the share of rows where most numbers of rounds were tried."""
    tried = {
        base: sorted({c.n_iter for c in study.within(base) if c.augment == "all"})
        for base in sorted(study.beside(), key=lambda s: s.share)
    }
    lines: Lines = {}
    for loss in LOSSES if tried else ():
        base = max(tried, key=lambda s: len(tried[s]))
        made = {"augment": "all", "labels": "source" if loss == "hard" else ""}
        cells = [base.like(loss=loss, n_iter=n, **made) for n in tried[base]]
        points = [(float(c.n_iter), c) for c in cells if c in study.quality]
        if len(points) > 1:
            lines[loss] = [(0.0, base.like(loss=loss)), *points]
    return lines


def by_share(study: Study) -> Lines:
    """Training choice -> (share of the rows, cell), where more than one share was tried."""
    rounds = ablation.rounds_of(study, study.base())
    choices = {
        "labels": ("hard", {}),
        "teacher's logits": ("logits", {}),
        "logits and synthetic rows": ("logits", {"augment": "all", "n_iter": rounds}),
    }
    lines: Lines = {}
    for name, (loss, made) in choices.items():
        cells = [base.like(loss=loss, **made) for base in study.beside()]
        points = sorted((c.share, c) for c in cells if c in study.quality)
        if len(points) > 1:
            lines[name] = points
    return lines


def plot_rounds(study: Study, lines: Lines, ax: Axes) -> None:
    """Quality against synthetic rows per training row."""
    style.style_axes(ax)
    for loss, points in lines.items():
        name, colour, marker = LOSSES[loss]
        draw_line(study, ax, [(x, c) for x, c in points if c in study.quality], name, colour, marker)
    ax.set(
        xlabel="synthetic rows per training row (all three rules)", ylabel=wording.metric_name(study.metric)
    )
    ax.set_xscale("symlog", linthresh=1)
    ticks = sorted({int(x) for points in lines.values() for x, _ in points})
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    first = next(iter(lines.values()))[-1][1]
    ax.set_title(
        f"More synthetic rows ({study.n_train[first]:,} real ones)",
        loc="left",
        fontsize=10.5,
        color=style.INK,
    )
    ax.legend(frameon=False, fontsize=8.5)


def plot_shares(study: Study, lines: Lines, ax: Axes) -> None:
    """Quality against the number of real training rows."""
    style.style_axes(ax)
    styles: Sequence[tuple[str, str]] = (("#e69f00", "s"), ("#0072b2", "o"), ("#009e73", "^"))
    for (name, points), (colour, marker) in zip(lines.items(), styles, strict=False):
        draw_line(study, ax, [(study.n_train[c], c) for _, c in points], name, colour, marker)
    ax.set_xscale("log")
    epochs = {study.n_train[c]: c.epochs for points in lines.values() for _, c in points}
    apart = len(set(epochs.values())) > 1
    ax.set_xticks(list(epochs), [f"{n:,}" + (f"\n{e:g} epochs" if apart else "") for n, e in epochs.items()])
    ax.minorticks_off()
    ax.set(
        xlabel="real training rows (the teacher saw all)",
        ylabel=wording.metric_name(study.metric),
    )
    ax.set_title("More real rows", loc="left", fontsize=10.5, color=style.INK)
    ax.legend(frameon=False, fontsize=8.5)


def draw_line(
    study: Study, ax: Axes, points: Iterable[tuple[float, Cell]], name: str, colour: str, marker: str
) -> None:
    """One line of means with their intervals."""
    xs, cells = zip(*points, strict=True)
    values = np.array([study.mean(cell) for cell in cells])
    low, high = values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]
    bars = np.maximum(0, np.stack([low, high]))
    ax.errorbar(
        xs,
        values[:, 0],
        yerr=bars,
        marker=marker,
        color=colour,
        mec=style.INK,
        mew=0.6,
        ms=6.5,
        lw=1.5,
        capsize=2.5,
        label=name,
    )
