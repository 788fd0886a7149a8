"""Fields to type texts into, and the pairs on which student and teacher differ, in a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd

from dipair_lib.reporting import disagreement, tryout
from dipair_lib.reporting.explorer_widgets import choose
from dipair_lib.reporting.wording import plain
from dipair_lib.system import progress

# --- widgets ----------------------------------------------------------------------------------------------------------------------


class TryOut(widgets.VBox):
    """Texts to type or to take from the test split, and what the chosen models say of them."""

    def __init__(
        self,
        folder: Path | str,
        data: pd.DataFrame,
        runs: Sequence[str],
        given: Sequence[str],
        candidates: Sequence[str],
        device: str = "auto",
    ) -> None:
        self.folder, self.data, self.device, self.turn = folder, data, device, 0
        wide = {"description_width": "9em"}
        full = widgets.Layout(width="100%")
        names = [(plain(data.loc[run, "model"], 60), run) for run in tryout.with_weights(folder, data)]
        self.models = widgets.SelectMultiple(
            options=names, value=tuple(runs), description="models", rows=6, style=wide, layout=full
        )
        self.given = [
            widgets.Text(
                value=text,
                description="query" if len(given) == 1 else f"text {n + 1}",
                style=wide,
                layout=full,
            )
            for n, text in enumerate(given)
        ]
        self.candidates = widgets.Textarea(
            value="\n".join(candidates), description="texts, one a line", rows=5, style=wide, layout=full
        )
        self.go = widgets.Button(description="Score", button_style="primary")
        self.pick = widgets.Button(description="Take a test query")
        self.said, self.maps = widgets.HTML(), widgets.VBox()
        self.go.on_click(self.score)
        self.pick.on_click(self.take)
        buttons = widgets.HBox([self.go, self.pick])
        super().__init__([self.models, *self.given, self.candidates, buttons, self.said, self.maps])

    def score(self, _: Any = None) -> None:
        """Show what the chosen models say of the texts."""
        given = [box.value for box in self.given]
        candidates = [line for line in self.candidates.value.splitlines() if line.strip()]
        runs = list(self.models.value)
        self.said.value = tryout.shown(self.folder, runs, given, candidates, self.device)
        maps = tryout.heat_maps(self.folder, runs, [*given, *candidates[:1]], self.device)
        self.maps.children = [
            widgets.HTML(
                f"<p>Attention in the head of {html.escape(plain(name))}</p>"
                + str(progress.image(png, f"attention between the kept tokens of {plain(name)}").data)
            )
            for name, png in maps.items()
        ]

    def take(self, _: Any = None) -> None:
        """Fill in the next query of the test split with its own candidates."""
        first = self.data.dropna(subset=["data_sha256"]).iloc[0]
        try:
            texts = disagreement.test_texts(first["parameters"], first["data_sha256"])
        except ValueError as error:
            self.said.value = tryout.line(error)
            return
        *others, last = texts.columns
        keys = texts[others].drop_duplicates() if others else texts[:1]
        key = keys.iloc[self.turn % len(keys)]
        self.turn += 1
        for box, name in zip(self.given, others, strict=True):
            box.value = key[name]
        rows = (texts[others] == key[others]).all(axis=1) if others else texts.index < 20
        self.candidates.value = "\n".join(" ".join(text.split()) for text in texts.loc[rows, last])
        self.score()


class Disagreement(widgets.VBox):
    """A student to choose, and a button: texts are shown when they are asked for, so that none stand in a
    notebook that was only run.
    """

    def __init__(self, folder: Path | str, data: pd.DataFrame, run: str = "") -> None:
        self.folder = folder
        students = data[data["teacher_run"].notna() & ~data["teacher"]]
        names = [(plain(model, 60), one) for one, model in students["model"].items()]
        self.student = choose(
            "student", names, run if run in students.index else names[0][1] if names else None
        )
        self.button = widgets.Button(description="Show the pairs", button_style="primary", disabled=not names)
        self.said = widgets.HTML()
        self.button.on_click(self.show)
        super().__init__([self.student, self.button, self.said])

    def show(self, _: Any = None) -> None:
        """Show where the chosen student and its teacher disagree."""
        self.said.value = disagreement.disagreement_shown(self.folder, self.student.value)
