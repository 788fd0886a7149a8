"""How the figures of the studies draw students: points with their intervals, a tick per seed, the teacher as
a line.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dipair_lib.evaluation.bootstrap import Interval
from dipair_lib.reporting.figures import fonts, style
from dipair_lib.reporting.studies.students import Settings, Students
from dipair_lib.reporting.wording import plain

Look = tuple[str, str]  # colour and marker
# Okabe-Ito without the vermilion of the teacher, and a marker for whoever sees no colour.
ORANGE, BLUE, GREEN = ("#e69f00", "s"), ("#0072b2", "o"), ("#009e73", "^")
LOOKS = (BLUE, ORANGE, GREEN, ("#cc79a7", "D"), ("#56b4e9", "v"), ("#8c8c8c", "P"), ("#1b1f24", "X"))
TEACHER: dict[str, Any] = {"color": "#d55e00", "ls": (0, (5, 2)), "lw": 1.3, "label": "teacher"}


def draw(
    ax: Axes, place: float, interval: Interval, look: Look, *, sure: bool = True, upright: bool = False
) -> None:
    """A point with its 95 % interval; hollow where it is not sure.

    Args:
        place: on the axis that is not the interval's.
        upright: the interval is drawn upwards.
    """
    value, low, high = interval
    bars: dict[str, Any] = {
        "yerr" if upright else "xerr": [[max(0.0, value - low)], [max(0.0, high - value)]]
    }
    x, y = (place, value) if upright else (value, place)
    ax.errorbar(x, y, **bars, fmt=look[1], capsize=2.2, lw=1.3, zorder=3, **filled(look, sure))


def filled(look: Look, sure: bool = True) -> dict[str, Any]:
    """The look of a point, hollow or not."""
    edge = {"mec": style.INK, "mew": 0.6} if sure else {"mec": look[0], "mew": 1.3}
    return {"color": look[0], "mfc": look[0] if sure else style.CARD, "ms": 6, **edge}


def draw_seeds(
    study: Students, key: Settings, ax: Axes, place: float, look: Look, *, sure: bool = True
) -> None:
    """The mean of a student with its interval, and a tick per seed."""
    draw(ax, place, study.mean(key), look, sure=sure)
    seen = list(study.quality[key].values())
    ax.plot(seen, [place] * len(seen), ls="", marker="|", ms=8, color=look[0], zorder=2)


def draw_line(study: Students, ax: Axes, points: list[tuple[float, Settings]], look: Look) -> None:
    """Means with their intervals, joined."""
    means = [study.mean(key) for _, key in points]
    ax.plot([x for x, _ in points], [mean[0] for mean in means], color=look[0], lw=1.4, zorder=2)
    for (x, _), mean in zip(points, means, strict=True):
        draw(ax, x, mean, look, upright=True)


def handle(look: Look, label: str) -> Line2D:
    """What a point of this look is, for a legend."""
    return Line2D([], [], ls="", marker=look[1], label=label, **filled(look))


def safe(text: str) -> str:
    """Text in which a dollar sign begins no formula, and of which each character can be drawn."""
    return fonts.drawable(plain(text, 40)).replace("$", r"\$")
