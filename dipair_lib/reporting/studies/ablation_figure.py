"""The grid of students, the paired gains, and how they grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dipair_lib.evaluation import bootstrap
from dipair_lib.reporting import wording
from dipair_lib.reporting.figures import fonts, style
from dipair_lib.reporting.studies import ablation, points, students
from dipair_lib.reporting.studies.students import Settings, Students

LOSSES = {"hard": "labels", "logits": "teacher's logits"}
BOTH = "logits and synthetic rows"
LOOKS = {"labels": points.ORANGE, "teacher's logits": points.BLUE, BOTH: points.GREEN}
Lines = dict[str, list[tuple[float, Settings]]]


def save_pictures(folder: Path | str, out: Path | str) -> list[Path]:
    """Write the figure of each task that has a comparison as ``ablation.png`` (of several tasks: with their
    names) into ``out``.
    """
    return students.save_pictures(
        out, "ablation", ablation.tasks_of(folder), lambda task: figure(folder, task)
    )


def figure(folder: Path | str, task: str, n_boot: int = bootstrap.N_BOOT) -> Figure:
    """The grid of students, the paired gains, and lines against synthetic and real rows where several numbers
    of them were tried.
    """
    study = ablation.load(folder, task, n_boot)
    rounds, shares = by_rounds(study), by_share(study)
    more = [(plot_rounds, rounds)] * bool(rounds) + [(plot_shares, shares)] * bool(shares)
    drawn = Figure(figsize=(10.4, 4.6 + 3.3 * bool(more)), dpi=110, layout="constrained")
    rows: Any = drawn.subfigures(1 + bool(more), 1, height_ratios=[4.6, 3.3][: 1 + bool(more)], squeeze=False)
    above, *below = rows[:, 0]
    plot_students(study, above.add_subplot(1, 2, 1))
    plot_gains(study, above.add_subplot(1, 2, 2))
    for number, (plot, lines) in enumerate(more, 1):
        plot(study, lines, below[0].add_subplot(1, len(more), number))
    return drawn


def plot_students(study: Students, ax: Axes) -> None:
    """Quality of labels and logits, by the rule that made the synthetic rows."""
    style.style_axes(ax)
    if not study.quality:
        return style.say_in(ax, "no student of 02_bilstm yet")
    base = ablation.first_of(study)
    tried = {own["augment"] for own in ablation.within(study, base)}
    rules = [rule for rule in ablation.RULES if rule in tried]
    handles = []
    if study.teacher and study.teacher.quality is not None:
        ax.axvline(study.teacher.quality, zorder=1, **points.TEACHER)
        handles.append(Line2D([], [], **points.TEACHER))
    for shift, (loss, name) in zip((-0.12, 0.12), LOSSES.items(), strict=True):
        of_loss = ablation.grid(study, base, loss)
        keys = [of_loss[rule] for rule in rules]
        for place, key in enumerate(keys):
            if key in study.quality:
                points.draw_seeds(study, key, ax, place + shift, LOOKS[name])
        if not study.quality.keys().isdisjoint(keys):
            handles.append(points.handle(LOOKS[name], name))
    ax.set_yticks(range(len(rules)), [ablation.RULES[rule] for rule in rules])
    ax.set(xlabel=wording.metric_name(study.metric), ylim=(len(rules) - 0.5, -0.5))
    title(ax, f"{fonts.drawable(wording.plain(study.task, 40))}: what the students reach", pad=24)
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
    ax.legend(handles=handles, **where, ncols=3, frameon=False, fontsize=8.5)


def title(ax: Axes, text: str, **others: Any) -> None:
    """A panel's title."""
    ax.set_title(text, loc="left", fontsize=10.5, color=style.INK, **others)


def plot_gains(study: Students, ax: Axes) -> None:
    """The paired gains in points, grouped by what changed."""
    style.style_axes(ax)
    base = ablation.first_of(study)
    found = ablation.comparisons(study, base)
    if not found:
        return style.say_in(ax, "needs students with labels and with logits")
    for place, contrast in enumerate(found.values()):
        value, low, high = (100 * v for v in study.contrast(contrast))
        sure = wording.significant(low, high)
        points.draw(ax, place, (value, low, high), (style.INK, "D"), sure=sure)
        near: dict[str, Any] = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center"}
        ax.annotate(f"{value:+.1f}", (value, place), **near, fontsize=8, color=style.INK)
    ax.axvline(0, color=style.MUTED, lw=1)
    ax.set_yticks(range(len(found)), list(found))
    ax.set(xlabel="gain in points (hollow: not significant)", ylim=(len(found) - 0.4, -0.6))
    said = ablation.compared(study).get(base, "")
    title(ax, "What each part brings" + (f" ({said})" if said else ""))


def by_rounds(study: Students) -> Lines:
    """Loss -> (synthetic rows per row, student) for all three rules, at the share of rows where most numbers
    of rounds were tried.
    """
    tried = {
        base: sorted({own["n_iter"] for own in ablation.within(study, base) if own["augment"] == "all"})
        for base in sorted(ablation.beside(study), key=lambda one: one["share"])
    }
    base = max(tried, key=lambda one: len(tried[one]), default=Settings())
    lines: Lines = {}
    for loss, name in LOSSES.items():
        keys = [ablation.like(base, loss=loss, augment="all", n_iter=n) for n in tried.get(base, [])]
        found = [(float(key["n_iter"]), key) for key in keys if key in study.quality]
        if len(found) > 1:
            lines[name] = [(0.0, ablation.like(base, loss=loss)), *found]
    return lines


def by_share(study: Students) -> Lines:
    """Training choice -> (training rows, student), where more than one share was tried."""
    rounds = ablation.rounds_of(study, ablation.first_of(study))
    choices: dict[str, dict[str, Any]] = {name: {"loss": loss} for loss, name in LOSSES.items()}
    choices[BOTH] = {"loss": "logits", "augment": "all", "n_iter": rounds}
    lines: Lines = {}
    for name, chosen in choices.items():
        keys = [ablation.like(base, **chosen) for base in ablation.beside(study)]
        found = sorted((key for key in keys if key in study.quality), key=lambda key: key["share"])
        if len(found) > 1:
            lines[name] = [(study.row(key).n_train or 0, key) for key in found]
    return lines


def plot_rounds(study: Students, lines: Lines, ax: Axes) -> None:
    """Quality against synthetic rows per training row."""
    plot_lines(study, lines, ax)
    ax.set_xlabel("synthetic rows per training row (all three rules)")
    ax.set_xscale("symlog", linthresh=1)
    ticks = sorted({int(x) for found in lines.values() for x, _ in found})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    first = next(iter(lines.values()))[-1][1]
    title(ax, f"More synthetic rows ({study.row(first).n_train or 0:,} real ones)")


def plot_shares(study: Students, lines: Lines, ax: Axes) -> None:
    """Quality against the number of real training rows."""
    plot_lines(study, lines, ax)
    ax.set_xlabel("real training rows (the teacher saw all)")
    ax.set_xscale("log")
    epochs = {x: key["epochs"] for found in lines.values() for x, key in found}
    apart = len(set(epochs.values())) > 1
    ax.set_xticks(list(epochs), [f"{n:,}" + (f"\n{e:g} epochs" if apart else "") for n, e in epochs.items()])
    ax.minorticks_off()
    title(ax, "More real rows")


def plot_lines(study: Students, lines: Lines, ax: Axes) -> None:
    """A line per training choice."""
    style.style_axes(ax)
    for name, found in lines.items():
        points.draw_line(study, ax, [(x, key) for x, key in found if key in study.quality], LOOKS[name])
    ax.set_ylabel(wording.metric_name(study.metric))
    ax.legend(handles=[points.handle(LOOKS[name], name) for name in lines], frameon=False, fontsize=8.5)
