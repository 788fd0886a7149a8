"""A panel per question: numbers as lines, other choices as rows of points."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dipair_lib.evaluation import paired
from dipair_lib.reporting import wording
from dipair_lib.reporting.figures import fonts, style
from dipair_lib.reporting.studies import configurations, questions, study
from dipair_lib.reporting.studies.configurations import Study, Value
from dipair_lib.reporting.studies.questions import Question, Series

# Okabe-Ito without the vermilion of the teacher, and a marker for whoever sees no colour.
STYLES = (
    ("#0072b2", "o"),
    ("#e69f00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#56b4e9", "v"),
    ("#8c8c8c", "P"),
    ("#1b1f24", "X"),
)


def save_pictures(folder: Path | str, out: Path | str) -> list[Path]:
    """Write the figure of each task that has a series as ``study.png`` (of several tasks: with their names) into ``out``."""
    return paired.save_pictures(out, "study", study.tasks_of(folder), lambda task: figure(folder, task))


# --- the figure -------------------------------------------------------------------------------------------------------------------


def figure(folder: Path | str, task: str, n_boot: int = configurations.N_BOOT) -> Figure:
    """A panel per question: numbers as lines, other choices as rows of points; the teacher and the trained DE-Cos as lines to hold
    against."""
    study = configurations.load(folder, task, n_boot)
    found = questions.questions_of(study)
    if not found:
        drawn = Figure(figsize=(6, 2.4), dpi=110, layout="constrained")
        style.say_in(drawn.add_subplot(), "no two students that differ in one thing only")
        return drawn
    columns = min(3, len(found))
    chunks = [list(found.items())[i : i + columns] for i in range(0, len(found), columns)]
    heights = [max(height_of(q, s) for q, s in chunk) for chunk in chunks]
    # A single panel is as wide as two: the legend below needs that, and a page stretches every figure to its width.
    drawn = Figure(figsize=(4.3 * max(2, columns), sum(heights) + 0.5), dpi=110, layout="constrained")
    axes = drawn.subplots(len(chunks), columns, squeeze=False, height_ratios=heights)
    styles = styles_of(list(found.values()))
    for line, chunk in zip(axes, chunks, strict=True):
        for ax, (question, series) in zip(line, chunk, strict=False):
            (plot_rows if question.kind == "category" else plot_line)(study, question, series, styles, ax)
        for ax in line[len(chunk) :]:
            ax.set_axis_off()
    drawn.legend(handles=handles_of(study), loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    return drawn


def height_of(question: Question, found: Sequence[Series]) -> float:
    """Inches for a panel: a category needs room for its values, every panel for the names of its series."""
    values = len({v for series in found for v in series.keys})
    body = 0.75 + 0.2 * values + 0.11 * values * len(found) if question.kind == "category" else 2.1
    return max(body, 1.6) + 0.45 + 0.16 * len(found)


def styles_of(panels: Sequence[Sequence[Series]]) -> dict[str, tuple[str, str]]:
    """Label -> colour and marker: the same in every panel, different within one."""
    styles: dict[str, tuple[str, str]] = {}
    for label in dict.fromkeys(series.label for panel in panels for series in panel):
        beside = {
            other.label for panel in panels for other in panel if label in {series.label for series in panel}
        }
        taken = [styles[other] for other in beside if other in styles]
        uses = Counter(styles.values())
        styles[label] = min(STYLES, key=lambda s: (s in taken, uses[s]))
    return styles


def handles_of(study: Study) -> list[Line2D]:
    """What every panel's lines and hollow points mean."""
    handles = [Line2D([], [], lw=1.3, label=name, **look) for name, _, look in lines_of(study)]
    point: dict[str, Any] = {"ls": "", "marker": "o", "ms": 6, "color": style.INK}
    handles.append(
        Line2D([], [], **{**point, "ms": 11, "mfc": "none", "mew": 0.8}, label="ringed: reference")
    )
    return [*handles, Line2D([], [], **point, mfc=style.CARD, label="hollow: may be no different from it")]


def lines_of(study: Study) -> list[tuple[str, float, dict[str, Any]]]:
    """Name, quality and look of what the students are held against: the teacher and the trained DE-Cos, where they are."""
    cosine = study.cosine()
    lines: list[tuple[str, float, dict[str, Any]]] = []
    if study.teacher and study.teacher.quality is not None:
        lines.append(("teacher", study.teacher.quality, {"color": "#d55e00", "ls": (0, (5, 2))}))
    if cosine:
        trained = float(np.mean(list(study.quality[cosine].values())))
        lines.append(("DE-Cos, trained", trained, {"color": style.MUTED, "ls": (0, (1, 1.5))}))
    return lines


def plot_line(
    study: Study, question: Question, found: Sequence[Series], styles: Mapping[str, tuple[str, str]], ax: Axes
) -> None:
    """Quality against a number, a line per series; values that are no number stand apart on the right."""
    places = places_of(question, found)
    first, last = min(places.values()), max(places.values())
    reach = last - first
    for number, series in enumerate(found):
        shift = 0.015 * reach * (number - (len(found) - 1) / 2)
        means = {value: study.mean(key) for value, key in series.keys.items()}
        joins = [v for v in means if question.kind == "ordered" or question.number(*v) is not None]
        xs = [places[v] + shift for v in joins]
        ax.plot(xs, [means[v][0] for v in joins], color=styles[series.label][0], lw=1.4, zorder=2)
        for value, mean in means.items():
            x, y, bars = places[value] + shift, mean[0], bars_of(mean)
            ax.errorbar(x, y, yerr=bars, **look_of(study, series, value, styles))
            if value == series.reference:
                ax.plot(x, y, **RING)
    for _, level, look in lines_of(study):
        ax.axhline(level, lw=1.3, zorder=1, **look)
    ax.autoscale_view(scalex=False)  # room beside the lines too
    style.style_axes(ax)
    ax.set_xlim(first - 0.08 * reach, last + 0.08 * reach)
    ticks = sorted(places, key=lambda v: places[v])
    texts = apart([places[v] for v in ticks], [safe(question.say(*v)) for v in ticks])
    ax.set_xticks([places[v] for v in ticks], texts)
    ax.set(xlabel=question.axis, ylabel=wording.metric_name(study.metric))
    finish(question, found, styles, ax)


def plot_rows(
    study: Study, question: Question, found: Sequence[Series], styles: Mapping[str, tuple[str, str]], ax: Axes
) -> None:
    """A row of points per value, a point per series, a tick per seed."""
    values = ordered(question, found)
    for number, series in enumerate(found):
        shift = 0.6 / max(len(found), 2) * (number - (len(found) - 1) / 2)
        for value, key in series.keys.items():
            mean, place = study.mean(key), values.index(value) + shift
            look = look_of(study, series, value, styles)
            ax.errorbar(mean[0], place, xerr=bars_of(mean), **look)
            seen = list(study.quality[key].values())
            ax.plot(seen, [place] * len(seen), ls="", marker="|", ms=8, color=look["color"], zorder=2)
            if value == series.reference:
                ax.plot(mean[0], place, **RING)
    for _, level, look in lines_of(study):
        ax.axvline(level, lw=1.3, zorder=1, **look)
    ax.autoscale_view(scaley=False)  # room beside the lines too
    style.style_axes(ax)
    ax.set_yticks(range(len(values)), [safe(question.say(*v)) for v in values])
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set(xlabel=wording.metric_name(study.metric))
    finish(question, found, styles, ax)


RING: dict[str, Any] = {
    "ls": "",
    "marker": "o",
    "ms": 12,
    "mfc": "none",
    "mec": style.INK,
    "mew": 0.8,
    "zorder": 4,
}


def look_of(
    study: Study, series: Series, value: Value, styles: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """How a point is drawn: hollow where the difference to the reference may be nothing."""
    colour, marker = styles[series.label]
    points = study.difference(series.keys[value], series.keys[series.reference])
    sure = value == series.reference or (points is not None and (points[1] > 0 or points[2] < 0))
    look: dict[str, Any] = {"fmt": marker, "color": colour, "mfc": colour if sure else style.CARD}
    return {
        **look,
        "mec": style.INK if sure else colour,
        "mew": 0.6 if sure else 1.3,
        "ms": 6,
        "capsize": 2.2,
        "lw": 1.3,
        "zorder": 3,
    }


def bars_of(mean: paired.Interval) -> list[list[float]]:
    """An interval as the lengths of its two error bars."""
    return [[max(0.0, mean[0] - mean[1])], [max(0.0, mean[2] - mean[0])]]


def ordered(question: Question, found: Sequence[Series]) -> list[Value]:
    """Every value of a question's series, in its order."""
    return sorted({v for series in found for v in series.keys}, key=lambda v: question.order(*v))


def places_of(question: Question, found: Sequence[Series]) -> dict[Value, float]:
    """Where each value stands on the axis: by its logarithm, 0 a step left of the smallest, what is no number to the right; or in
    even steps."""
    values = ordered(question, found)
    if question.kind == "ordered":
        return {value: float(place) for place, value in enumerate(values)}
    numbers = {value: question.number(*value) for value in values}
    log = math.log2 if question.kind == "log2" else math.log10
    places = {value: log(number) for value, number in numbers.items() if number}
    least, most = min(places.values(), default=0.0), max(places.values(), default=0.0)
    step = 1.3 if question.kind == "log2" else max(0.3, (most - least) / 4)
    places |= {value: least - step for value, number in numbers.items() if number == 0}
    others = [value for value, number in numbers.items() if number is None]
    return places | {value: most + step * (1 + i) for i, value in enumerate(others)}


def apart(places: Sequence[float], texts: Sequence[str], inches: float = 2.8) -> list[str]:
    """Tick labels, empty where one would touch the last that is shown."""
    scale = inches / ((places[-1] - places[0]) * 1.16 or 1.0)
    shown_, end = [], -math.inf
    for place, text in zip(places, texts, strict=True):
        half = 0.036 * len(text) + 0.03
        fits = place * scale - half >= end
        end = place * scale + half if fits else end
        shown_.append(text if fits else "")
    return shown_


def safe(text: str) -> str:
    """Text in which a dollar sign begins no formula, and of which each character can be drawn."""
    return fonts.drawable(wording.plain(text, 40)).replace("$", r"\$")


def finish(
    question: Question, found: Sequence[Series], styles: Mapping[str, tuple[str, str]], ax: Axes
) -> None:
    """Title, and beneath it what the series are."""
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=styles[s.label][1],
            ms=6,
            mec=style.INK,
            mew=0.6,
            mfc=styles[s.label][0],
            label=safe(s.label),
        )
        for s in found
    ]
    what = f": {question.axis}" if question.kind == "category" and question.axis else ""
    title = question.title + what
    ax.set_title(title, loc="left", fontsize=10, color=style.INK, pad=6 + 11.5 * len(found))
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        frameon=False,
        fontsize=8,
        borderaxespad=0.1,
        handletextpad=0.2,
        labelspacing=0.25,
    )
