"""Facts about the explorer: what its controls say is what ``select`` says, rings lie on their points, a view is given by its parameters."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from test_tradeoff import HOSTILE, TEACHER, row, saved, teacher

from dipair_lib.evaluation.schema import Result
from dipair_lib.reporting import derived, explorer, explorer_picture, explorer_widgets, selection
from dipair_lib.reporting.criteria import Limits
from dipair_lib.reporting.figures import tradeoff
from dipair_lib.runner import notebook_files
from dipair_lib.system import disk

NAMES = list(explorer.parameters(Limits()))


def student(name: str, retained: float, seconds: float, p95: float, **fields: Any) -> Result:
    return row(
        name,
        quality=0.9 * retained,
        retained=retained,
        combine_s_per_pair=seconds,
        latency_p95_s=p95,
        latency_p50_s=p95 / 2,
        request_candidates=20,
        **fields,
    )


def of_one_task() -> list[Result]:
    return [
        teacher(latency_p95_s=0.2),
        student("bulk", 0.96, 1e-7, 0.02, bytes_per_text=4096.0),
        student("quick", 0.97, 1e-4, 0.005),
        student("good", 0.99, 1e-3, 0.02, parameters=json.dumps({"task": "toy", "keep": [8], "seed": 3})),
        student("rough", 0.7, 1e-8, 0.001),
    ]


@pytest.fixture
def rows() -> list[Result]:
    return of_one_task()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> explorer_widgets.Explorer:
    """Two tasks. Drawing is what takes time: one page serves every test."""
    more = [
        teacher(run_id="other.teacher", task="another", quality=0.5),
        row("lone", task="another", run_id="other.lone", teacher_run="other.teacher", retained=0.98),
    ]
    return explorer_widgets.Explorer(saved(tmp_path_factory.mktemp("opened"), [*of_one_task(), *more]), "toy")


@pytest.fixture
def page(opened: explorer_widgets.Explorer) -> explorer_widgets.Explorer:
    """At its beginning."""
    set_all(opened, {"task": "toy", **explorer.parameters(explorer.limits())})
    opened.text.layout.display = "none"
    return opened


def set_all(page: explorer_widgets.Explorer, values: dict[str, Any]) -> None:
    for name, value in values.items():
        page.controls[name].value = value


def html_of(text: str) -> str:
    return text.replace("&#x27;", "'").replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")


CHANGES: list[dict[str, Any]] = [
    {"min_retained": 0.98},
    {"min_retained": 0.0, "min_gap": 0.5},
    {"min_gap": 1.0, "sure": True},
    {"min_retained": 1.0},
    {"min_retained": 0.5, "reuse": 1.0},
    {"min_retained": 0.0, "min_pairs_per_s": 1e5},
    {"max_cache_bytes": 1e9},
    {"price_per_hour": 2.5, "max_price": 1.0},
    {"sure": True},
    {"scenario": "single"},
    {"scenario": "single", "max_p95_s": 0.002, "min_retained": 0.5},
]


class TestControls:
    @pytest.mark.parametrize("change", CHANGES)
    def test_what_they_say_is_what_select_says(
        self, page: explorer_widgets.Explorer, change: dict[str, Any]
    ) -> None:
        set_all(page, change)
        asked = explorer.limits(**change)
        assert page.limits() == asked
        choice = selection.select(page.data, asked)
        assert html_of(re.sub("<[^>]+>", "", page.sentence.value)) == choice.sentence
        lines = [html_of(line) for line in re.findall(r"<tr[^>]*>\s*<td>([^<]*)", page.table.value)]
        within = [run for run in (choice.winner, *choice.alternatives) if run]
        assert lines[: len(within)] == page.data.loc[within, "model"].tolist()
        assert len(lines) == len(page.data)

    def test_each_scenario_has_its_own_limits_and_winner(self, page: explorer_widgets.Explorer) -> None:
        assert "bulk is the fastest model here that" in page.sentence.value
        assert page.controls["max_p95_s"].layout.display == "none"
        page.controls["scenario"].value = "single"
        assert "quick is the fastest model here for one request" in page.sentence.value
        assert (
            "95 % of requests of 20 candidates within 5 ms, half of them within 2.5 ms" in page.sentence.value
        )
        assert page.controls["max_p95_s"].layout.display is None
        assert page.controls["min_pairs_per_s"].layout.display == "none"

    def test_another_task_has_its_own_rows_and_picture(self, page: explorer_widgets.Explorer) -> None:
        before = page.picture.value
        page.controls["task"].value = "another"
        assert "lone is the fastest" in page.sentence.value
        assert page.picture.value != before
        page.controls["task"].value = "toy"
        assert page.picture.value == before

    def test_a_change_of_limits_draws_nothing(
        self, page: explorer_widgets.Explorer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rings = page.rings.value
        monkeypatch.setattr(tradeoff, "draw", None)
        for change in CHANGES:
            set_all(page, change)
        assert page.rings.value != rings

    def test_each_is_labelled_and_the_sentence_is_read_aloud(self, page: explorer_widgets.Explorer) -> None:
        labels = [control.description for control in page.controls.values()]
        assert all(labels) and len(set(labels)) == len(labels)
        assert len({control.layout.model_id for control in page.controls.values()}) == len(labels)
        assert 'aria-live="polite"' in page.sentence.value
        assert 'role="img" aria-label="' in page.picture.value

    def test_a_value_between_the_options_is_kept(self, rows: list[Result], tmp_path: Path) -> None:
        asked = explorer.limits(min_retained=0.963, reuse=7.0, max_cache_bytes=1.5e9)
        page = explorer_widgets.Explorer(saved(tmp_path, rows), asked=asked)
        assert page.limits() == asked
        assert page.controls["min_retained"].label == "96.3 %"
        assert "task" not in page.controls


class TestPrice:
    def test_what_pairs_cost(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        sentence = selection.select(data, explorer.limits(price_per_hour=3.6, min_retained=0.98)).sentence
        # good: a millisecond per pair, and two texts of a millisecond each for a thousand pairs: 1,002 s for a million pairs
        assert "At 3.60 an hour a million such pairs cost 1.00, a billion 1,002.00." in sentence

    def test_a_limit_in_money_excludes(self, rows: list[Result]) -> None:
        asked = explorer.limits(price_per_hour=3.6, min_retained=0.5, max_price=10.0)
        choice = selection.select(derived.frame(rows), asked)
        assert choice.excluded["run.good"] == "a billion pairs cost 1,002.00, above 10.00"
        assert choice.winner == "run.bulk"
        with pytest.raises(ValueError, match="expected price_per_hour"):
            Limits(max_price=1.0)


class TestRings:
    def test_they_lie_on_the_points_of_the_choice_and_the_next_two(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        drawn = explorer_picture.draw(data)
        choice = selection.select(data, Limits(min_retained=0.5))
        circles = re.findall(
            r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*?( stroke-dasharray)?(?:="[^"]*")?/>',
            explorer_picture.rings(drawn, data, choice),
        )
        assert [bool(dashed) for *_, dashed in circles] == [False, True, True]
        for run, (x, y, _) in zip([choice.winner, *choice.alternatives[:2]], circles, strict=True):
            # where the SVG itself has that row's marker
            point = re.search(rf'id="row:speed:{run}".*?<use [^>]*x="([\d.]+)" y="([\d.]+)"', drawn.svg, re.S)
            assert point is not None
            assert (float(x), float(y)) == pytest.approx([float(v) for v in point.groups()], abs=0.1)

    def test_a_picture_of_requests_has_their_seconds(self, rows: list[Result]) -> None:
        places = explorer_picture.draw(derived.frame(rows), "single").places
        order = sorted(places, key=lambda run: places[run][0])
        assert order[0] == "run.rough" and order[-1] == TEACHER

    def test_what_is_nearest_is_dashed_where_nothing_is_within(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        choice = selection.select(data, Limits(min_retained=1.0))
        assert explorer_picture.caption(data, choice) == "Dashed ring: good, the nearest to these limits."
        assert (
            explorer_picture.rings(explorer_picture.draw(data), data, choice).count("stroke-dasharray") == 1
        )


class TestSharing:
    @pytest.mark.parametrize("change", CHANGES)
    def test_parameters_give_the_limits_again(self, change: dict[str, Any]) -> None:
        asked = explorer.limits(**change)
        assert explorer.limits(**explorer.parameters(asked)) == asked

    def test_they_are_the_notebooks(self) -> None:
        notebook = Path(__file__).parents[1] / "notebooks" / "05_explorer.ipynb"
        assert set(NAMES) <= set(notebook_files.notebook_parameters(notebook))

    def test_an_export_is_the_view_its_rows_and_the_command(self, page: explorer_widgets.Explorer) -> None:
        set_all(page, {"min_retained": 0.98, "price_per_hour": 2.0})
        page.button.click()
        assert page.text.layout.display is None
        values = dict(re.findall(r"(?m)^(\w+) = (.+)$", page.text.value))
        given = {name: ast.literal_eval(value) for name, value in values.items()}
        assert explorer.limits(**{name: given[name] for name in NAMES}) == page.limits()
        assert given["only"] == "toy"
        assert re.findall(r"(?m)^run\..+$", page.text.value) == ["run.good"]
        page.controls["min_retained"].value = 0.5  # an open text follows the controls
        assert re.findall(r"(?m)^run\..+$", page.text.value) == [
            "run.bulk", "run.rough", "run.quick", "run.good",
        ]  # fmt: skip

    def test_the_command_names_the_rows_parameters(self, rows: list[Result]) -> None:
        words = shlex.split(explorer.command("../results/own", derived.frame(rows).loc["run.good"]))
        assert words[:2] == ["papermill", "notebooks/03_dipair.ipynb"]
        values = json.loads(words[words.index("-y") + 1])
        assert values == {"task": "toy", "keep": [8], "seed": 3, "out": "../results/own"}


class TestStatic:
    def test_the_table_tells_why(self, rows: list[Result]) -> None:
        choice, table = explorer.view(derived.frame(rows), Limits(min_retained=0.95))
        assert table.index[0] == choice.winner == "run.bulk"
        assert table["verdict"].tolist()[:3] == ["the choice", "within the limits", "within the limits"]
        assert table.loc["run.rough", "verdict"] == "keeps 70.0 % of the teacher, below 95 %"

    def test_text_from_data_is_escaped(self, rows: list[Result], tmp_path: Path) -> None:
        hostile = student(HOSTILE, 0.98, 1e-9, 1e-3, run_id="run.hostile")
        page = explorer_widgets.Explorer(saved(tmp_path, [*rows, hostile]))
        page.show_text()
        shown = [page.sentence.value, page.rings.value, page.picture.value, page.table.value]
        for text in [*shown, explorer.static(page.data)]:
            assert not re.search("<script|<img", text)
            assert "\x1b" not in text and "\u202e" not in text
            assert "&lt;script&gt;" in text
        assert "run.hostile" in page.text.value

    def test_no_rows_says_what_to_run_in_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(disk.ResultError, match="dipair run") as caught:
            explorer.load(tmp_path)
        assert caught.value._render_traceback_() == [str(caught.value)]

    def test_an_unknown_task_is_refused(self, rows: list[Result], tmp_path: Path) -> None:
        with pytest.raises(disk.ResultError, match="expected one of toy, but got 'elsewhere'"):
            explorer.load(saved(tmp_path, rows), "elsewhere")

    def test_pictures_are_png(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        assert explorer_picture.picture(data, selection.select(data)).startswith(b"\x89PNG")
