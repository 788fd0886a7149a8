"""The trade-off as a picture whose winner can be ringed without drawing it anew."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dipair_lib.reporting import explorer, report, selection, wording
from dipair_lib.reporting.criteria import Choice
from dipair_lib.reporting.figures import style, tradeoff
from dipair_lib.system import disk


def picture(data: pd.DataFrame, choice: Choice, dpi: int = 80, scenario: str = "offline") -> bytes:
    """The trade-off as PNG, the winner and the nearest alternatives ringed."""
    figure = tradeoff.draw("quality_speed", data, ringed(choice), explorer.SPEED[scenario])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def ringed(choice: Choice) -> list[str]:
    """The winner (or, where nothing is within the limits, what is nearest to them) and the next two."""
    return [run for run in (choice.winner or choice.nearest, *choice.alternatives[:2]) if run]


def save_picture(folder: Path | str, out: Path | str, task: str = "") -> Path:
    """Write the trade-off of a results folder to ``quality_speed.png`` in another one, at the default limits."""
    data = explorer.load(folder, task)
    return disk.write_atomic(Path(out) / "quality_speed.png", picture(data, selection.select(data), dpi=110))


# --- the picture, and the rings beneath it ----------------------------------------------------------------------------------------


class Picture(NamedTuple):
    """A drawn trade-off.

    Attributes:
        svg: transparent, with hover texts.
        places: run_id -> x, y of its point, in the SVG's units, y downwards.
        size: width, height.
    """

    svg: str
    places: dict[str, tuple[float, float]]
    size: tuple[float, float]


def draw(data: pd.DataFrame, scenario: str = "offline") -> Picture:
    """The trade-off of one task, nothing ringed."""
    figure = tradeoff.draw("quality_speed", data, speed=explorer.SPEED[scenario])
    figure.set_dpi(72)  # one pixel is then one unit of an SVG
    svg = report.svg(figure, data, "quality_speed")
    width, height = (float(72 * inches) for inches in figure.get_size_inches())
    places = {}
    for line in figure.axes[0].lines:
        kind, _, run = str(line.get_gid()).partition(":speed:")
        if kind == "row":
            x, y = figure.axes[0].transData.transform(line.get_xydata())[0]
            places[run] = (float(x), height - float(y))
    return Picture(svg, places, (width, height))


def rings(drawn: Picture, data: pd.DataFrame, choice: Choice) -> str:
    """An SVG of the picture's size that lies beneath it: a ring for the choice, dashed ones for the nearest
    to it.
    """
    shown = [run for run in ringed(choice) if run in drawn.places]
    circles = [
        f'<circle cx="{drawn.places[run][0]:.2f}" cy="{drawn.places[run][1]:.2f}" r="11" fill="none" stroke="{style.INK}" '
        + (
            'stroke-width="2.4"/>'
            if run == choice.winner
            else 'stroke-width="1.4" stroke-dasharray="3 2.5"/>'
        )
        for run in shown
    ]
    label = html.escape(caption(data, choice), quote=True)
    width, height = drawn.size
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}" style="display:block;width:100%;background:'
        f'{style.CARD}">{"".join(circles)}</svg>'
    )


def caption(data: pd.DataFrame, choice: Choice) -> str:
    """Which models are ringed, in words."""
    names = [wording.plain(data.loc[run, "model"]) for run in ringed(choice)]
    if choice.winner is None:
        return f"Dashed ring: {names[0]}, the nearest to these limits." if names else "Nothing is ringed."
    others = f" Dashed: {' and '.join(names[1:])}, next within the limits." if names[1:] else ""
    return f"Ring: {names[0]}, the choice.{others}"
