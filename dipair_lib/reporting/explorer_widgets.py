"""Controls for the limits over sentence, picture and table."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd

from dipair_lib.reporting import explorer, explorer_picture, overview, wording
from dipair_lib.reporting.criteria import Limits
from dipair_lib.reporting.explorer_picture import Picture

# --- widgets ----------------------------------------------------------------------------------------------------------------------

ANY = ("any", 0.0)
OPTIONS: dict[str, list[tuple[str, float]]] = {
    "min_retained": [
        ANY,
        *((f"{p:g} %", p / 100) for p in (50, 80, 90, 92, 94, 95, 96, 97, 98, 99, 99.5, 100)),
    ],
    "min_gap": [ANY, *((f"{p:g} %", p / 100) for p in (10, 25, 40, 50, 60, 75, 80, 90, 95, 100))],
    "min_pairs_per_s": [ANY, *((wording.si(10.0**n), 10.0**n) for n in range(1, 8))],
    "reuse": [(f"{10**n:,}", 10.0**n) for n in range(7)],
    "max_p95_s": [
        ANY,
        *((wording.si(s, "s"), s) for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)),
    ],
    "max_cache_bytes": [ANY, *((wording.si(10.0**n, "B"), 10.0**n) for n in range(7, 14))],
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
        controls: by the name of their parameter; ``task`` where there are several. sentence, rings, table:
            what a change sets.
    """

    def __init__(self, folder: Path | str, task: str = "", asked: Limits | None = None) -> None:
        self.folder, self.frames = folder, explorer.frames(folder)
        self.drawn: dict[tuple[str, str], Picture] = {}
        self.lines: dict[str, pd.DataFrame] = {}
        self.controls = controls_of(
            self.frames, explorer.named(self.frames, task), explorer.parameters(asked or explorer.limits())
        )
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
        return explorer.limits(
            **values | {"max_price": values["max_price"] if values["price_per_hour"] else 0.0}
        )

    def refresh(self, _: Any = None) -> None:
        """Set sentence, rings and table to what the controls say; nothing is drawn that was drawn before."""
        asked = self.limits()
        for name, scenario in explorer.ONLY_IN.items():
            self.controls[name].layout.display = None if scenario == asked.scenario else "none"
        self.controls["max_price"].disabled = not asked.price_per_hour
        if self.task not in self.lines:
            self.lines[self.task] = overview.table(self.data)
            self.drawn |= {
                (self.task, scenario): explorer_picture.draw(self.data, scenario)
                for scenario in explorer.SPEED
            }
        choice, table = explorer.view(self.data, asked, self.lines[self.task])
        drawn = self.drawn[self.task, asked.scenario]
        # The element itself is new each time, and readers announce new ones only of this role; it waits for
        # its turn: polite.
        self.sentence.value = (
            '<div role="alert" aria-live="polite" style="line-height:1.45;max-width:60em">'
            f"<b>{html.escape(choice.sentence)}</b></div>"
        )
        self.picture.value = drawn.svg
        self.rings.value = explorer_picture.rings(drawn, self.data, choice)
        self.table.value = f"{STYLE}<p>{html.escape(explorer_picture.caption(self.data, choice))}</p>{explorer.as_html(table)}"
        if self.text.layout.display != "none":
            self.show_text()

    def show_text(self, _: Any = None) -> None:
        """Show what ``export`` says of the view."""
        self.text.value = explorer.export(self.folder, self.data, self.limits())
        self.text.layout.display = None


def controls_of(found: Mapping[str, pd.DataFrame], task: str, start: Mapping[str, Any]) -> dict[str, Any]:
    """One control per parameter, at its value, which is among the options whatever it is."""
    made: dict[str, Any] = {}
    if len(found) > 1:
        made["task"] = choose("task", [(wording.plain(name), name) for name in found], task)
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
        else wording.si(value, UNITS.get(name, ""))
    )
