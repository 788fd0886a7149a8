"""The page a decision is made on: the controls are your limits, the answer is a sentence, a picture and a table.

``view`` is the pure function behind it; ``Explorer`` puts widgets in front, ``static`` is what is seen where no widget can be. The
picture is drawn once for a task and a scenario; what a control changes are the rings beneath it.
"""

from __future__ import annotations

import html
import io
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets
import pandas as pd

from dipair_lib import report, results, tradeoff
from dipair_lib.tradeoff import Choice, Limits

COLUMNS = [
    "model",
    "quality",
    "of the teacher",
    "gap closed",
    tradeoff.CACHED,
    "speed-up, same dtype",
    "once per text",
    "cache per text",
    "p95 of a request",
]
TEXTS = 1e6  # cached, where a limit is set on their bytes
SPEED = {"offline": "pairs_per_s", "single": "latency_p95_s"}  # the picture's axis, by scenario
# Limits that only one scenario knows, by the name of their parameter.
ONLY_IN = {
    "min_pairs_per_s": "offline",
    "reuse": "offline",
    "max_price": "offline",
    "max_p95_s": "single",
}


# --- pure functions ---------------------------------------------------------------------------------------------------------------


def frames(folder: Path | str) -> dict[str, pd.DataFrame]:
    """The rows of a results folder by task, each as a frame."""
    data = tradeoff.frame(results.load_results(folder, damaged="warn"), folder=folder)
    data = data[data["family"] != "published"]
    names = data["task"].dropna().unique().tolist()
    if not names:
        raise results.ResultError(
            f"{folder}: no rows yet: run the notebooks 01 to 03 first, or a suite: {results.FIRST}"
        )
    return {name: data[data["task"] == name] for name in names}


def load(folder: Path | str, task: str = "") -> pd.DataFrame:
    """The rows of one task of a results folder as a frame; of several tasks the first, unless one is named."""
    found = frames(folder)
    return found[named(found, task)]


def named(found: Mapping[str, pd.DataFrame], task: str) -> str:
    """The task that was asked for, or the first."""
    if task and task not in found:
        raise results.ResultError(f"task: expected one of {', '.join(found)}, but got {task!r}")
    return task or next(iter(found))


def limits(
    scenario: str = "offline",
    min_retained: float = 0.95,
    sure: bool = False,
    min_pairs_per_s: float = 0.0,
    reuse: float = tradeoff.REUSE,
    max_p95_s: float = 0.0,
    max_cache_bytes: float = 0.0,
    price_per_hour: float = 0.0,
    max_price: float = 0.0,
    min_gap: float = 0.0,
) -> Limits:
    """Limits from the notebook's parameters: 0 is no limit, and one that belongs to the other scenario counts for nothing."""
    numbers = {
        "min_retained": min_retained,
        "min_pairs_per_s": min_pairs_per_s,
        "max_p95_s": max_p95_s,
        "max_cache_bytes": max_cache_bytes,
        "price_per_hour": price_per_hour,
        "max_price": max_price,
        "min_gap": min_gap,
    }
    asked: dict[str, Any] = {
        name: value or None for name, value in numbers.items() if ONLY_IN.get(name, scenario) == scenario
    }
    offline = {"reuse": reuse} if scenario == "offline" else {}
    return Limits(scenario=scenario, sure=sure, n_texts=TEXTS, **offline, **asked)


def parameters(asked: Limits) -> dict[str, Any]:
    """The notebook's parameters that give these limits again."""
    return {
        "scenario": asked.scenario,
        "min_retained": asked.min_retained or 0.0,
        "sure": asked.sure,
        "min_pairs_per_s": asked.min_pairs_per_s or 0.0,
        "reuse": asked.reuse,
        "max_p95_s": asked.max_p95_s or 0.0,
        "max_cache_bytes": asked.max_cache_bytes or 0.0,
        "price_per_hour": asked.price_per_hour or 0.0,
        "max_price": asked.max_price or 0.0,
        "min_gap": asked.min_gap or 0.0,
    }


def view(data: pd.DataFrame, asked: Limits, lines: pd.DataFrame | None = None) -> tuple[Choice, pd.DataFrame]:
    """The choice under limits, and the table beneath it: what is within them first, then why each other model is not.

    Args:
        lines: ``tradeoff.table`` of the same rows, where it is at hand.
    """
    choice = tradeoff.select(data, asked)
    lines = tradeoff.table(data) if lines is None else lines
    within = [run for run in (choice.winner, *choice.alternatives) if run]
    table = lines.loc[
        within + [run for run in lines.index if run not in within], tradeoff.columns_here(COLUMNS, lines)
    ]
    verdicts = {run: "within the limits" for run in within} | {str(choice.winner): "the choice"}
    table.insert(1, "verdict", [verdicts.get(run) or choice.excluded.get(run, "") for run in table.index])
    return choice, table


def export(folder: Path | str, data: pd.DataFrame, asked: Limits) -> str:
    """A view as text: the parameters that give it again, the ids of the rows within the limits, the commands that make the choice again."""
    choice = tradeoff.select(data, asked)
    known = {"only": str(data["task"].iloc[0]), "out": Path(folder).as_posix(), **parameters(asked)}
    parts = [
        "# This view: the parameters of 05_explorer",
        *(f"{name} = {value!r}" for name, value in known.items()),
        "\n# Rows within these limits, the choice first",
        *([run for run in (choice.winner, *choice.alternatives) if run] or ["# none"]),
    ]
    if choice.winner:
        row = data.loc[choice.winner]
        parts += ["\n# Every row again", report.command(row)]
        parts += ["\n# The choice alone, its teacher being in the same folder", command(folder, row)]
    return "\n".join(parts)


def command(folder: Path | str, row: pd.Series) -> str:
    """The line that runs one row's notebook again, with every parameter it had, from the project's folder."""
    values = {**json.loads(row["parameters"] or "{}"), "out": Path(folder).as_posix()}
    words = ["papermill", f"notebooks/{row['notebook']}.ipynb", f"{row['notebook']}.again.ipynb"]
    return shlex.join([*words, "--cwd", "notebooks", "-y", json.dumps(values)])


def static(data: pd.DataFrame, asked: Limits | None = None) -> str:
    """Sentence and table as HTML, everything escaped."""
    choice, table = view(data, asked or Limits())
    return f"<p><b>{html.escape(choice.sentence)}</b></p>" + as_html(table)


def as_html(table: pd.DataFrame) -> str:
    """A table, escaped."""
    return str(table.to_html(index=False, escape=True, border=0, classes="dipair", justify="left"))


def picture(data: pd.DataFrame, choice: Choice, dpi: int = 80, scenario: str = "offline") -> bytes:
    """The trade-off as PNG, the winner and the nearest alternatives ringed."""
    figure = tradeoff.draw("quality_speed", data, ringed(choice), SPEED[scenario])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def ringed(choice: Choice) -> list[str]:
    """The winner (or, where nothing is within the limits, what is nearest to them) and the next two."""
    return [run for run in (choice.winner or choice.nearest, *choice.alternatives[:2]) if run]


def save_picture(folder: Path | str, out: Path | str, task: str = "") -> Path:
    """Write the trade-off of a results folder to ``quality_speed.png`` in another one, at the default limits."""
    data = load(folder, task)
    return results.write_atomic(
        Path(out) / "quality_speed.png", picture(data, tradeoff.select(data), dpi=110)
    )


# --- the picture, and the rings beneath it ----------------------------------------------------------------------------------------


class Picture(NamedTuple):
    """A drawn trade-off.

    Attributes:
        svg: transparent, with hover texts. places: run_id -> x, y of its point, in the SVG's units, y downwards. size: width, height.
    """

    svg: str
    places: dict[str, tuple[float, float]]
    size: tuple[float, float]


def draw(data: pd.DataFrame, scenario: str = "offline") -> Picture:
    """The trade-off of one task, nothing ringed."""
    figure = tradeoff.draw("quality_speed", data, speed=SPEED[scenario])
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
    """An SVG of the picture's size that lies beneath it: a ring for the choice, dashed ones for the nearest to it."""
    shown = [run for run in ringed(choice) if run in drawn.places]
    circles = [
        f'<circle cx="{drawn.places[run][0]:.2f}" cy="{drawn.places[run][1]:.2f}" r="11" fill="none" stroke="{tradeoff.INK}" '
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
        f'{tradeoff.CARD}">{"".join(circles)}</svg>'
    )


def caption(data: pd.DataFrame, choice: Choice) -> str:
    """Which models are ringed, in words."""
    names = [tradeoff.plain(data.loc[run, "model"]) for run in ringed(choice)]
    if choice.winner is None:
        return f"Dashed ring: {names[0]}, the nearest to these limits." if names else "Nothing is ringed."
    others = f" Dashed: {' and '.join(names[1:])}, next within the limits." if names[1:] else ""
    return f"Ring: {names[0]}, the choice.{others}"


# --- widgets ----------------------------------------------------------------------------------------------------------------------

ANY = ("any", 0.0)
OPTIONS: dict[str, list[tuple[str, float]]] = {
    "min_retained": [
        ANY,
        *((f"{p:g} %", p / 100) for p in (50, 80, 90, 92, 94, 95, 96, 97, 98, 99, 99.5, 100)),
    ],
    "min_gap": [ANY, *((f"{p:g} %", p / 100) for p in (10, 25, 40, 50, 60, 75, 80, 90, 95, 100))],
    "min_pairs_per_s": [ANY, *((tradeoff.si(10.0**n), 10.0**n) for n in range(1, 8))],
    "reuse": [(f"{10**n:,}", 10.0**n) for n in range(7)],
    "max_p95_s": [
        ANY,
        *((tradeoff.si(s, "s"), s) for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)),
    ],
    "max_cache_bytes": [ANY, *((tradeoff.si(10.0**n, "B"), 10.0**n) for n in range(7, 14))],
    "max_price": [ANY, *((f"{10.0**n:g}", 10.0**n) for n in range(-2, 5))],
}
LABELS = {
    "min_retained": "quality kept, at least",
    "min_gap": "gap closed, at least",
    "sure": "with their whole intervals",
    "min_pairs_per_s": "pairs per second, at least",
    "reuse": "pairs that share a text",
    "max_p95_s": "95 % of requests within",
    "max_cache_bytes": "cache of a million texts, at most",
    "price_per_hour": "a machine's price per hour",
    "max_price": "a billion pairs for at most",
}
UNITS = {"min_pairs_per_s": "", "max_p95_s": "s", "max_cache_bytes": "B"}
STYLE = (
    "<style>table.dipair{border-collapse:collapse;font-size:13px;line-height:1.4}table.dipair :is(td,th){padding:3px 14px 3px 0;"
    "text-align:left!important;vertical-align:top}table.dipair tr{border-bottom:1px solid #8884}</style>"
)


def choose(text: str, options: list[tuple[str, Any]], value: Any) -> widgets.Dropdown:
    """A labelled list of options: a native one, which keyboards and screen readers know."""
    return widgets.Dropdown(
        options=options, value=value, description=text, style=WIDE, layout=widgets.Layout(width="auto")
    )


WIDE = {"description_width": "17em"}


class Explorer(widgets.VBox):
    """Controls for the limits over sentence, picture and table.

    Attributes:
        controls: by the name of their parameter; ``task`` where there are several. sentence, rings, table: what a change sets.
    """

    def __init__(self, folder: Path | str, task: str = "", asked: Limits | None = None) -> None:
        self.folder, self.frames = folder, frames(folder)
        self.drawn: dict[tuple[str, str], Picture] = {}
        self.lines: dict[str, pd.DataFrame] = {}
        self.controls = controls_of(self.frames, named(self.frames, task), parameters(asked or limits()))
        over = widgets.Layout(grid_area="1 / 1", width="100%", margin="0")
        self.sentence, self.table = widgets.HTML(), widgets.HTML()
        self.rings, self.picture = widgets.HTML(layout=over), widgets.HTML(layout=over)
        self.text = widgets.Textarea(
            description="this view as text", style=WIDE, layout=widgets.Layout(width="100%", height="18em")
        )
        self.button = widgets.Button(description="Export this view", layout=widgets.Layout(width="17em"))
        self.text.layout.display = "none"
        self.button.on_click(self.show_text)
        columns = widgets.Layout(
            grid_template_columns="repeat(auto-fit, minmax(25em, 1fr))", grid_gap="2px 2em"
        )
        stacked = widgets.GridBox([self.rings, self.picture], layout=widgets.Layout(max_width="860px"))
        for control in self.controls.values():
            control.observe(self.refresh, "value")
        self.refresh()
        super().__init__(
            [
                widgets.GridBox(list(self.controls.values()), layout=columns),
                self.sentence,
                stacked,
                self.table,
                self.button,
                self.text,
            ]
        )

    @property
    def task(self) -> str:
        return str(self.controls["task"].value) if "task" in self.controls else next(iter(self.frames))

    @property
    def data(self) -> pd.DataFrame:
        """The rows of the task that is shown."""
        return self.frames[self.task]

    def limits(self) -> Limits:
        """What the controls say."""
        values = {name: control.value for name, control in self.controls.items() if name != "task"}
        return limits(**values | {"max_price": values["max_price"] if values["price_per_hour"] else 0.0})

    def refresh(self, _: Any = None) -> None:
        """Set sentence, rings and table to what the controls say; nothing is drawn that was drawn before."""
        asked = self.limits()
        for name, scenario in ONLY_IN.items():
            self.controls[name].layout.display = None if scenario == asked.scenario else "none"
        self.controls["max_price"].disabled = not asked.price_per_hour
        if self.task not in self.lines:
            self.lines[self.task] = tradeoff.table(self.data)
            self.drawn |= {(self.task, scenario): draw(self.data, scenario) for scenario in SPEED}
        choice, table = view(self.data, asked, self.lines[self.task])
        drawn = self.drawn[self.task, asked.scenario]
        # The element itself is new each time, and readers announce new ones only of this role; it waits for its turn: polite.
        self.sentence.value = (
            '<div role="alert" aria-live="polite" style="line-height:1.45;max-width:60em">'
            f"<b>{html.escape(choice.sentence)}</b></div>"
        )
        self.picture.value = drawn.svg
        self.rings.value = rings(drawn, self.data, choice)
        self.table.value = f"{STYLE}<p>{html.escape(caption(self.data, choice))}</p>{as_html(table)}"
        if self.text.layout.display != "none":
            self.show_text()

    def show_text(self, _: Any = None) -> None:
        """Show what ``export`` says of the view."""
        self.text.value = export(self.folder, self.data, self.limits())
        self.text.layout.display = None


def controls_of(found: Mapping[str, pd.DataFrame], task: str, start: Mapping[str, Any]) -> dict[str, Any]:
    """One control per parameter, at its value, which is among the options whatever it is."""
    made: dict[str, Any] = {}
    if len(found) > 1:
        made["task"] = choose("task", [(tradeoff.plain(name), name) for name in found], task)
    made["scenario"] = choose(
        "scenario",
        [("many pairs, in bulk", "offline"), ("one request at a time", "single")],
        start["scenario"],
    )
    for name, text in LABELS.items():
        value = start[name]
        if name == "sure":
            made[name] = widgets.Checkbox(
                value=value, description=text, style=WIDE, layout=widgets.Layout(width="auto")
            )
        elif name == "price_per_hour":
            made[name] = widgets.BoundedFloatText(
                value=value,
                min=0,
                max=1e9,
                step=0.1,
                description=text,
                style=WIDE,
                layout=widgets.Layout(width="auto"),
            )
        else:
            options = OPTIONS[name]
            if value not in [number for _, number in options]:
                options = sorted([*options, (as_option(name, value), value)], key=lambda option: option[1])
            made[name] = choose(text, options, value)
    return made


def as_option(name: str, value: float) -> str:
    """A value that is not among the usual ones."""
    return (
        f"{100 * value:g} %"
        if name in {"min_retained", "min_gap"}
        else tradeoff.si(value, UNITS.get(name, ""))
    )
