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

from dipair_lib.evaluation import bootstrap
from dipair_lib.reporting import wording
from dipair_lib.reporting.figures import style
from dipair_lib.reporting.studies import points, questions, students, study
from dipair_lib.reporting.studies.points import Look
from dipair_lib.reporting.studies.questions import Question, Series
from dipair_lib.reporting.studies.students import Students, Value

RING: dict[str, Any] = {
    "ls": "",
    "marker": "o",
    "ms": 12,
    "mfc": "none",
    "mec": style.INK,
    "mew": 0.8,
    "zorder": 4,
}


def save_pictures(folder: Path | str, out: Path | str) -> list[Path]:
    """Write the figure of each task that has a series as ``study.png`` (of several tasks: with their names)
    into ``out``.
    """
    return students.save_pictures(out, "study", study.tasks_of(folder), lambda task: figure(folder, task))


def figure(folder: Path | str, task: str, n_boot: int = bootstrap.N_BOOT) -> Figure:
    """A panel per question: numbers as lines, other choices as rows of points; the teacher and the trained
    DE-Cos as lines to compare with.
    """
    study = questions.load(folder, task, n_boot)
    found = questions.questions_of(study)
    if not found:
        drawn = Figure(figsize=(6, 2.4), dpi=110, layout="constrained")
        style.say_in(drawn.add_subplot(), "no two students that differ in one thing only")
        return drawn
    columns = min(3, len(found))
    chunks = [list(found.items())[i : i + columns] for i in range(0, len(found), columns)]
    heights = [max(height_of(q, s) for q, s in chunk) for chunk in chunks]
    # A single panel is as wide as two: the legend below needs that, and a page stretches every figure to its
    # width.
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


def styles_of(panels: Sequence[Sequence[Series]]) -> dict[str, Look]:
    """Label -> its look: the same in every panel, different within one."""
    styles: dict[str, Look] = {}
    labels = [{series.label for series in panel} for panel in panels]
    for label in dict.fromkeys(series.label for panel in panels for series in panel):
        taken = [styles[other] for beside in labels if label in beside for other in beside if other in styles]
        uses = Counter(styles.values())
        styles[label] = min(points.LOOKS, key=lambda look: (look in taken, uses[look]))
    return styles


def handles_of(study: Students) -> list[Line2D]:
    """What every panel's lines and hollow points mean."""
    point: dict[str, Any] = {"ls": "", "marker": "o", "color": style.INK}
    return [
        *(Line2D([], [], **look) for _, look in lines_of(study)),
        Line2D([], [], **point, ms=11, mfc="none", mew=0.8, label="ringed: reference"),
        Line2D([], [], **point, ms=6, mfc=style.CARD, label="hollow: difference to it not significant"),
    ]


def lines_of(study: Students) -> list[tuple[float, dict[str, Any]]]:
    """Quality and look of what the students are compared with: the teacher and the trained DE-Cos, where they
    are.
    """
    lines = []
    if study.teacher and study.teacher.quality is not None:
        lines.append((study.teacher.quality, points.TEACHER))
    if cosine := questions.cosine_of(study):
        trained = float(np.mean(list(study.quality[cosine].values())))
        dotted = {"color": style.MUTED, "ls": (0, (1, 1.5)), "lw": 1.3, "label": "DE-Cos, trained"}
        lines.append((trained, dotted))
    return lines


def plot_line(
    study: Students, question: Question, found: Sequence[Series], styles: Mapping[str, Look], ax: Axes
) -> None:
    """Quality against a number, a line per series; values that are no number stand apart on the right."""
    places = places_of(question, found)
    first, last = min(places.values()), max(places.values())
    reach = last - first
    for number, series in enumerate(found):
        shift = 0.015 * reach * (number - (len(found) - 1) / 2)
        means = {value: study.mean(key) for value, key in series.keys.items()}
        joins = [v for v in means if question.kind == "ordered" or question.number(*v) is not None]
        xs, ys = [places[v] + shift for v in joins], [means[v][0] for v in joins]
        ax.plot(xs, ys, color=styles[series.label][0], lw=1.4, zorder=2)
        for value, mean in means.items():
            sure, place = is_sure(study, series, value), places[value] + shift
            points.draw(ax, place, mean, styles[series.label], sure=sure, upright=True)
            if value == series.reference:
                ax.plot(place, mean[0], **RING)
    for level, look in lines_of(study):
        ax.axhline(level, zorder=1, **look)
    ax.autoscale_view(scalex=False)  # room beside the lines too
    style.style_axes(ax)
    ax.set_xlim(first - 0.08 * reach, last + 0.08 * reach)
    ticks = sorted(places, key=lambda v: places[v])
    texts = apart([places[v] for v in ticks], [points.safe(question.say(*v)) for v in ticks])
    ax.set_xticks([places[v] for v in ticks], texts)
    ax.set(xlabel=question.axis, ylabel=wording.metric_name(study.metric))
    finish(question, found, styles, ax)


def plot_rows(
    study: Students, question: Question, found: Sequence[Series], styles: Mapping[str, Look], ax: Axes
) -> None:
    """A row of points per value, a point per series, a tick per seed."""
    values = ordered(question, found)
    for number, series in enumerate(found):
        shift = 0.6 / max(len(found), 2) * (number - (len(found) - 1) / 2)
        for value, key in series.keys.items():
            sure, place = is_sure(study, series, value), values.index(value) + shift
            points.draw_seeds(study, key, ax, place, styles[series.label], sure=sure)
            if value == series.reference:
                ax.plot(study.mean(key)[0], place, **RING)
    for level, look in lines_of(study):
        ax.axvline(level, zorder=1, **look)
    ax.autoscale_view(scaley=False)  # room beside the lines too
    style.style_axes(ax)
    ax.set_yticks(range(len(values)), [points.safe(question.say(*v)) for v in values])
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set(xlabel=wording.metric_name(study.metric))
    finish(question, found, styles, ax)


def is_sure(study: Students, series: Series, value: Value) -> bool:
    """Whether a value differs from the reference, or is it: not surely where they share no seed."""
    difference = study.difference(series.keys[value], series.keys[series.reference])
    return value == series.reference or (difference is not None and wording.significant(*difference[1:]))


def ordered(question: Question, found: Sequence[Series]) -> list[Value]:
    """Every value of a question's series, in its order."""
    return sorted({v for series in found for v in series.keys}, key=lambda v: question.order(*v))


def places_of(question: Question, found: Sequence[Series]) -> dict[Value, float]:
    """Where each value stands on the axis: by its logarithm, 0 a step left of the smallest, what is no number
    to the right; or in even steps.
    """
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


def finish(question: Question, found: Sequence[Series], styles: Mapping[str, Look], ax: Axes) -> None:
    """Title, and beneath it what the series are."""
    what = f": {question.axis}" if question.kind == "category" and question.axis else ""
    pad = 6 + 11.5 * len(found)
    ax.set_title(question.title + what, loc="left", fontsize=10, color=style.INK, pad=pad)
    handles = [points.handle(styles[s.label], points.safe(s.label)) for s in found]
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.1}
    ax.legend(handles=handles, **where, frameon=False, fontsize=8, handletextpad=0.2, labelspacing=0.25)
