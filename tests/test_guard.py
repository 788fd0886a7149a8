"""Facts about the guard: a teacher that is not surely above the untrained rows recommends nothing, and every output says so first."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_study import student
from test_tradeoff import TEACHER, floor, row, saved, teacher

from dipair_lib import cli, models
from dipair_lib.evaluation import bootstrap, metrics, results
from dipair_lib.evaluation.schema import Result
from dipair_lib.experiments import scale
from dipair_lib.reporting import (
    card,
    caveats,
    comparison,
    derived,
    explorer,
    explorer_widgets,
    guard,
    overview,
    report,
    report_details,
    selection,
    wording,
)
from dipair_lib.reporting.criteria import Limits
from dipair_lib.reporting.figures import tradeoff
from dipair_lib.reporting.studies import study, target
from dipair_lib.runner import suite, suite_display, suite_file
from dipair_lib.scoring.scorer import Scorer

N_GROUPS = 60
LABELS = np.tile([0, 0, 1, 1], N_GROUPS)
GROUPS = np.repeat(np.arange(N_GROUPS), 4)
NOISE = np.random.default_rng(0).normal(size=(4, len(LABELS)))


def logits_of(signal: float, draw: int) -> np.ndarray:
    """[240, 1]: the label times a signal, and noise."""
    return (signal * LABELS + NOISE[draw])[:, None].astype(np.float32)


def measured(folder: Path, one: Result, logits: np.ndarray, taught: np.ndarray) -> Result:
    """A row stored with its logits, its quality and its share of the teacher's what they give."""
    found = bootstrap.interval("auc", LABELS, logits, GROUPS, teacher_logits=taught)
    one = dataclasses.replace(one, n_examples=len(LABELS), **found)
    results.save_result(folder, one, logits, LABELS, GROUPS)
    return one


def measured_folder(folder: Path, signal: float, **fields: Any) -> dict[str, Result]:
    """A teacher of so much signal (and other fields), TF-IDF of 1.0, a constant, and a clocked student of 1.2."""
    taught = logits_of(signal, 0)
    rows = {
        "teacher": (teacher(**fields), taught),
        "tf-idf": (floor("TF-IDF", "lexical", 0.0), logits_of(1.0, 1)),
        "constant": (floor("constant", "constant", 0.0), np.zeros_like(taught)),
        "student": (row("student"), logits_of(1.2, 2)),
    }
    return {name: measured(folder, one, logits, taught) for name, (one, logits) in rows.items()}


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder whose teacher is not above TF-IDF."""
    measured_folder(tmp_path / "bad", 0.0)
    return tmp_path / "bad"


@pytest.fixture
def rows() -> dict[str, Result]:
    """Rows without logits: a teacher of .9 and floors of .5, .6, .7, each with an interval of .02 to either side."""
    return {
        "teacher": teacher(),
        "constant": floor("constant", "constant", 0.5),
        "lexical": floor("TF-IDF", "lexical", 0.6),
        "cosine": floor("frozen cosine", "dual-encoder", 0.7, head="cosine"),
        "student": row("student"),
    }


def of(rows: Mapping[str, Result], **changes: Any) -> guard.Guard:
    """The guard of rows whose teacher is changed."""
    own = [dataclasses.replace(one, **changes) if name == "teacher" else one for name, one in rows.items()]
    return guard.guards(own)[TEACHER]


class TestDifference:
    def test_it_is_the_paired_bootstraps_on_the_logits(self, tmp_path: Path) -> None:
        rows = measured_folder(tmp_path, 1.5)
        drawn = [
            np.concatenate(
                [metrics.auc(LABELS, logits, w) for w in bootstrap.draw_groups(GROUPS, 1000, seed=0)]
            )
            for logits in (logits_of(1.5, 0), logits_of(1.0, 1))
        ]
        low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
        value = (rows["teacher"].quality or 0) - (rows["tf-idf"].quality or 0)
        said = guard.guards(rows.values(), tmp_path)[TEACHER].said
        assert f"difference {value:+.3f} ({low:+.3f} to {high:+.3f})." in said
        assert "raw logits" not in said

    def test_pairs_tell_apart_what_two_intervals_do_not(self, tmp_path: Path) -> None:
        """The teacher is TF-IDF's scores and a little more: their intervals overlap, and in every draw it is above."""
        taught = logits_of(1.0, 1) + 0.4 * logits_of(1.0, 0)
        own = measured(tmp_path, teacher(), taught, taught)
        other = measured(tmp_path, floor("TF-IDF", "lexical", 0.0), logits_of(1.0, 1), taught)
        assert (own.quality_low or 0) < (other.quality_high or 0)
        assert guard.guards([own, other], tmp_path)[TEACHER].sure
        assert not guard.guards([own, other])[TEACHER].sure

    def test_without_logits_the_two_intervals_by_hand(self, rows: dict[str, Result]) -> None:
        found = of(rows)
        assert found.sure
        # .9 - .7, less and more the root of .02^2 + .02^2
        assert (
            "difference +0.200 (+0.172 to +0.228). That interval is made of the two rows' own" in found.said
        )

    @pytest.mark.parametrize(("value", "sure"), [(0.727, False), (0.729, True)])
    def test_surely_means_the_whole_interval(self, rows: dict[str, Result], value: float, sure: bool) -> None:
        changes = {"quality": value, "quality_low": value - 0.02, "quality_high": value + 0.02}
        assert of(rows, **changes).sure is sure

    def test_the_best_floor_counts_and_is_named(self, rows: dict[str, Result]) -> None:
        assert "against frozen cosine, 0.700" in of(rows).said
        trained = dataclasses.replace(rows["cosine"], steps=10, train_seconds=1.0)
        assert "against TF-IDF, 0.600" in of({**rows, "cosine": trained}).said

    def test_a_floor_of_other_data_is_none(self, rows: dict[str, Result]) -> None:
        other = {name: dataclasses.replace(one, data_sha256="1" * 64) for name, one in rows.items()}
        assert guard.guards([*list(other.values())[1:], rows["teacher"]]) == {}

    def test_seeds_of_a_teacher_are_judged_by_their_mean(self, tmp_path: Path) -> None:
        """Of three seeds one failed: the mean is far above, but not in one of forty draws of the seeds."""
        taught = [logits_of(signal, seed) for seed, signal in enumerate((3.0, 3.0, 0.0))]
        seeds = [
            measured(tmp_path, teacher(run_id=f"01_teacher-{seed}.teacher", seed=seed), one, one)
            for seed, one in enumerate(taught)
        ]
        lexical = measured(tmp_path, floor("TF-IDF", "lexical", 0.0), logits_of(1.0, 3), taught[0])
        found = guard.guards([*seeds, lexical], tmp_path)
        assert list(found) == [one.run_id for one in seeds] and len(set(found.values())) == 1
        assert found[TEACHER].said.startswith("The teacher may have failed")
        assert guard.guards([*seeds[:2], lexical], tmp_path)[TEACHER].sure

    def test_a_quality_that_is_not_defined_has_failed(self, rows: dict[str, Result]) -> None:
        found = of(rows, quality=None, quality_low=None, quality_high=None)
        assert not found.sure and "its AUC-ROC is not defined" in found.said

    def test_without_intervals_nothing_is_sure(self, rows: dict[str, Result]) -> None:
        found = of(rows, quality_low=None, quality_high=None)
        assert not found.sure and "Their intervals are not known." in found.said


class TestWords:
    def test_below_it_has_failed_and_what_to_do_is_said(self, rows: dict[str, Result]) -> None:
        said = of(rows, quality=0.65, quality_low=0.63, quality_high=0.67).said
        assert said.startswith(
            "The teacher failed: AUC-ROC 0.650 (0.630 to 0.670) is not above the untrained frozen cosine, 0.700 (0.680 to 0.720); "
            "difference -0.050 (-0.078 to -0.022)."
        )
        assert "No student is recommended by its share of it. What to do: train longer (-p budget=4)" in said

    def test_above_but_not_surely_more_rows_may_tell(self, rows: dict[str, Result]) -> None:
        said = of(rows, quality=0.71, quality_low=0.69, quality_high=0.73).said
        assert said.startswith("The teacher may have failed: AUC-ROC 0.710") and said.endswith(
            "or test on more rows."
        )

    @pytest.mark.parametrize(
        ("kind", "advice"), [("scores", "a higher score stands for"), ("brought", "made for this task")]
    )
    def test_what_to_do_depends_on_the_teacher(self, rows: dict[str, Result], kind: str, advice: str) -> None:
        assert advice in of(rows, quality=0.65, teacher_kind=kind).said

    def test_a_folder_says_the_failed_first_and_which_one_it_is(
        self, rows: dict[str, Result], tmp_path: Path
    ) -> None:
        longer = dataclasses.replace(
            rows["teacher"],
            run_id="01_teacher-1.teacher",
            quality=0.6,
            parameters=json.dumps({"task": "toy", "epochs": 4}),
        )
        other = dataclasses.replace(longer, run_id="01_teacher-2.teacher", task="other")
        said = guard.guard(saved(tmp_path, [*rows.values(), longer, other]), "toy").split("\n")
        assert [line.split(":")[0] for line in said] == [
            "The teacher of 01_teacher-1 failed",
            "The teacher of 01_teacher-0 is surely above the best untrained row",
        ]

    def test_without_a_floor_nothing_can_be_said(self, tmp_path: Path) -> None:
        assert guard.guard(saved(tmp_path, [teacher(), row("student")])) == guard.NO_FLOOR


class TestNothingIsRecommended:
    def test_select(self, bad: Path) -> None:
        data = explorer.load(bad)
        for limits in (Limits(), Limits(min_retained=None), Limits(scenario="single")):
            choice = selection.select(data, limits)
            assert (choice.winner, choice.nearest, choice.alternatives) == (None, None, ())
            assert choice.sentence == guard.guard(bad)
        assert choice.excluded["run.student"].startswith("its teacher is not surely above")

    def test_a_healthy_teachers_students_are_chosen_beside_a_failed_one(
        self, rows: dict[str, Result]
    ) -> None:
        failed = teacher(run_id="01_teacher-1.teacher", quality=0.6, parameters='{"task":"toy","epochs":9}')
        worse = row("bold", teacher_run=failed.run_id, retained=1.3, combine_s_per_pair=1e-9)
        data = derived.frame([*rows.values(), failed, worse])
        choice = selection.select(data, Limits(min_retained=0.8))
        assert choice.winner == "run.student"
        assert "run.bold" in choice.excluded and "run.bold" not in choice.alternatives

    def test_a_row_that_names_no_teacher_counts_with_the_tasks(self, rows: dict[str, Result]) -> None:
        rows["teacher"] = dataclasses.replace(rows["teacher"], quality=0.6)
        rows["student"] = dataclasses.replace(rows["student"], teacher_run=None)
        assert selection.select(derived.frame(rows.values())).winner is None

    def test_the_explorer_shows_its_table_and_its_picture(self, bad: Path) -> None:
        page = explorer_widgets.Explorer(bad)
        assert "The teacher failed: AUC-ROC" in page.sentence.value
        assert "<svg" in page.picture.value and "<circle" not in page.rings.value
        assert "Nothing is ringed." in page.table.value and "student" in page.table.value
        assert "# none" in explorer.export(bad, page.data, Limits())
        assert html.escape(guard.guard(bad)) in explorer.static(page.data)

    def test_the_first_card_of_the_report(self, bad: Path) -> None:
        page = report.write(bad).read_text(encoding="utf8")
        first = page.index('<div class="card')
        assert page.index('<div class="card guard"><h3>First: the teacher</h3>') == first
        assert page.index("The teacher failed: AUC-ROC") < page.index("<svg")
        assert "If it keeps" not in page and "is the fastest model here" not in page
        assert not re.search(r"[Kk]eeps [\d.]+ %|<td>[\d.]+ % \(", page)
        assert "Sanity order does not hold" in page

    def test_a_healthy_report_has_no_such_card(self, tmp_path: Path) -> None:
        measured_folder(tmp_path, 3.0)
        page = report.write(tmp_path).read_text(encoding="utf8")
        assert "First: the teacher" not in page and "If it keeps" in page

    def test_a_comparison_names_the_folder_and_chooses_in_the_other(self, bad: Path, tmp_path: Path) -> None:
        measured_folder(tmp_path / "good", 3.0)
        page = report.compare([bad, tmp_path / "good"]).read_text(encoding="utf8")
        top = page[: page.index('<h2 class="part">')]
        assert "<p><b>bad</b>: The teacher failed" in top
        assert "<p><b>good</b> (" in top and "<p><b>bad</b> (" not in top

    def test_text_from_data_is_escaped(self, tmp_path: Path) -> None:
        evil = "<script>alert(1)</script>\x1b[31m\u202e"
        named = [
            dataclasses.replace(one, model=f"{evil}{one.model}", run_id=f"run.{number}", family=family)
            for number, (one, family) in enumerate([(floor("x", "lexical", 0.95), "lexical")])
        ]
        page = report.write(saved(tmp_path, [teacher(), row("student"), *named])).read_text(encoding="utf8")
        assert "First: the teacher" in page and "&lt;script&gt;" in page
        assert "<script" not in page and "\x1b" not in page and "\u202e" not in page

    def test_the_bar(self, tmp_path: Path) -> None:
        run = student(tmp_path, 0.8, row_teacher_s_per_pair=1e-2, row_combine_s_per_pair=1e-7)
        like = dataclasses.replace(results.load_result(tmp_path, run), parameters="{}")
        stored = results.load_logits(tmp_path, run)
        for name, family, right in (("teacher", "cross-encoder", 0.6), ("TF-IDF", "lexical", 0.9)):
            correct = np.arange(200) < right * 200
            logits = np.where(correct == (stored.labels == 1), 1.0, -1.0)[:, None]
            run_id = f"01_teacher-0.{results.slug(name)}"
            made = dataclasses.replace(
                like,
                run_id=run_id,
                model=name,
                family=family,
                notebook="01_teacher",
                quality=right,
                steps=None,
            )
            results.save_result(tmp_path, made, logits, stored.labels, stored.groups)
        lines = target.targets(tmp_path, "t", n_boot=100)
        assert lines["retained"].tolist() == [pytest.approx(0.8 / 0.6)]
        assert lines["reached"].tolist() == lines["sure"].tolist() == [None]
        said = target.sentence(tmp_path, "t", n_boot=100)
        assert said == (
            "No student is compared with the target (99.5 % at 10,000x): the teacher is not surely above the untrained rows."
        )

    def test_the_end_of_a_suite_and_the_report_command(
        self, bad: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown = io.StringIO()
        made = suite_file.Suite("toy", bad, Path("notebooks"))
        assert suite.write_outputs(made, suite_display.Display(0, shown)) == ""
        lines = shown.getvalue().splitlines()
        guard = next(
            number for number, line in enumerate(lines) if line.startswith("teacher  toy: The teacher failed")
        )
        assert guard < next(number for number, line in enumerate(lines) if line.startswith("report   "))
        assert cli.main(["report", str(bad)]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"{bad / 'report.html'}\n"
        assert f"{bad}: toy: The teacher failed" in printed.err


class TestStillRising:
    def test_the_chosen_one_and_the_table_say_so(self, rows: dict[str, Result]) -> None:
        notes = "failed at 0.0001, trained again at 5e-05"
        rows["student"] = dataclasses.replace(
            rows["student"], dev_rising=True, pairs_seen=29_900, training_notes=notes
        )
        data = derived.frame(rows.values())
        said = selection.select(data, Limits(min_retained=0.8)).sentence
        assert said.endswith(
            f"Its dev metric was still rising when its budget ended: train longer. Of its training: {notes}."
        )
        nearest = selection.select(
            data.drop(["run.TF-IDF", "run.frozen-cosine"]), Limits(min_retained=0.999)
        ).sentence
        assert "The nearest is student" in nearest and "still rising" in nearest
        line = overview.table(data).loc["run.student"]
        assert line["pairs seen"] == "29.9 k"
        assert line["remarks"] == f"on the front, still rising: train longer, {notes}"
        assert overview.table(data).loc[TEACHER, "pairs seen"] == wording.DASH

    def test_one_rising_seed_is_enough(self) -> None:
        seeds = [row("many", run_id=f"run.many-{seed}", seed=seed, dev_rising=seed == 2) for seed in range(3)]
        assert derived.frame([teacher(), *seeds]).loc["run.many-0", "rising"]

    @pytest.mark.parametrize(
        ("rising", "first", "second", "said"),
        [
            (True, 100, 100, " (still rising: train longer)"),
            (False, 110, 100, ""),
            (None, 111, 100, " (different budgets: 111 against 100 pairs seen)"),
            (False, 1000, 5000, " (different budgets: 1,000 against 5,000 pairs seen)"),
            (True, 5000, 1000, " (still rising: train longer; different budgets: 5,000 against 1,000 pairs seen)"),
            (False, None, 100, ""),
            (float("nan"), float("nan"), 100, ""),
        ],
    )  # fmt: skip
    def test_beside_worse(self, rising: Any, first: float | None, second: float | None, said: str) -> None:
        assert caveats.budgets(rising, first, second) == said

    def test_a_claim_names_the_losers_budget(self) -> None:
        common = {"question": "Kept tokens", "series": "FFNN", "against": "8", "seeds": 3}
        lines = [("8", 0.0, True, 1000), ("16", 1.5, False, 4000)]
        made = pd.DataFrame(
            [
                {
                    **common, "value": value, "points": points, "points_low": points - 0.5 * (points > 0),
                    "points_high": points, "rising": rising, "pairs_seen": seen,
                }
                for value, points, rising, seen in lines
            ]
        )  # fmt: skip
        assert study.claims(made)[0].endswith(
            "points (still rising: train longer; different budgets: 4,000 against 1,000 pairs seen)."
        )
        made["points"] = -made["points"]
        made["pairs_seen"] = 1000
        made["points_low"] = made["points_high"] = made["points"]
        assert study.claims(made)[0].endswith(
            "16 comes nearest, -1.5 (-1.5 to -1.5) points."
        )  # 16 is not rising

    def test_the_studys_table_has_what_the_rows_say(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            student(tmp_path, 0.8, seed, row_dev_rising=seed == 1, row_pairs_seen=2000)
            student(tmp_path, 0.9, seed, keep=[16], row_dev_rising=False, row_pairs_seen=4000)
        lines = study.table(tmp_path, "t", n_boot=50).set_index("value")
        assert lines["rising"].to_dict() == {"8": True, "16": False}
        assert lines["given"].all()
        (claim,) = study.claims(lines.reset_index())
        assert "different budgets: 4,000 against 2,000 pairs seen" in claim and "still rising" in claim

    def test_folders_held_against_each_other_name_it(self, tmp_path: Path) -> None:
        for side, signal, rising in (("before", 3.0, False), ("after", 0.3, True)):
            own = row("student", dev_rising=rising, pairs_seen=1000 if rising else 3000)
            measured(tmp_path / side, own, logits_of(signal, 0), logits_of(3.0, 1))
        before, after = (comparison.opened(tmp_path / side) for side in ("before", "after"))
        found = comparison.lines(before, after, "toy")
        table = comparison.table(before, after, found, comparison.machines([before, after]))
        beside = " (still rising: train longer; different budgets: 1,000 against 3,000 pairs seen)"
        assert str(table.loc[0, "difference"]).endswith(beside)
        assert beside in comparison.hovers(found)["0"]
        assert "Of those that are surely worse 1 was still rising: train longer." in comparison.sentence(
            before, after, "toy", found
        )


class TestOrigin:
    """Where a teacher is from, and what follows for speed-ups."""

    @pytest.fixture
    def scored(self, rows: dict[str, Result]) -> dict[str, Result]:
        """A column of scores in the teacher's place: no model, no clock."""
        none: dict[str, Any] = dict.fromkeys(
            "combine_s_per_pair combine_s_per_pair_q1 combine_s_per_pair_q3 params_total flops_per_pair dtype latency_p95_s backbone "
            "teacher_s_per_pair teacher_fastest_s_per_pair teacher_fastest_dtype read_lengths steps train_seconds".split()
        )
        made = dataclasses.replace(
            rows["teacher"], family="scores", teacher_kind="scores", model="score of vendor", **none
        )
        clock: dict[str, Any] = dict.fromkeys(
            ("teacher_s_per_pair", "teacher_fastest_s_per_pair", "teacher_fastest_dtype")
        )
        others = {name: dataclasses.replace(one, **clock) for name, one in rows.items() if name != "teacher"}
        return {"teacher": made, **others}

    def given(self, rows: dict[str, Result]) -> list[Result]:
        """The same at 100 pairs/s, as a person said."""
        clock: dict[str, Any] = {"teacher_s_per_pair": 0.01, "teacher_fastest_dtype": "given"}
        return [
            one if name == "teacher" else dataclasses.replace(one, **clock, teacher_fastest_s_per_pair=0.01)
            for name, one in rows.items()
        ]

    def test_without_a_clock_nothing_is_said_of_a_speed_up(self, scored: dict[str, Result]) -> None:
        data = derived.frame(scored.values())
        assert data.loc[TEACHER, "teacher"]
        said = selection.select(data, Limits(min_retained=0.8)).sentence
        assert (
            said.startswith("student is the fastest") and "the teacher at" not in said and "x the" not in said
        )
        single = selection.select(data, Limits(min_retained=0.8, scenario="single")).sentence
        assert "the teacher takes" not in single
        assert (overview.table(data)["speed-up, same dtype"] == wording.DASH).all()
        assert "the teacher" not in overview.hover(data.loc["run.student"]).split("of the teacher")[1]
        assert dict(report_details.machine(data))["teacher"] == (
            "a column of scores of the data; its speed is not known, so nothing is said of a speed-up"
        )

    def test_a_speed_that_was_given_is_said_to_be(self, scored: dict[str, Result]) -> None:
        data = derived.frame(self.given(scored))
        said = selection.select(data, Limits(min_retained=0.8)).sentence
        assert "1 M pairs/s, 10,000x the teacher at the speed given;" in said
        assert "fastest (given)" not in said and "same float32" not in said
        line = overview.table(data).loc["run.student"]
        assert line["speed-up, same dtype"] == "10,000x at the speed given"
        assert "10,000x the teacher at the speed given" in overview.hover(data.loc["run.student"])
        assert dict(report_details.machine(data))["teacher"] == (
            "a column of scores of the data; its speed is the one given, 100 pairs/s"
        )

    @pytest.mark.parametrize("name", ["quality_speed", "kept", "price"])
    def test_it_stands_on_no_axis_of_speed_and_its_quality_is_drawn(
        self, scored: dict[str, Result], name: str
    ) -> None:
        data = derived.frame(scored.values())
        figure = tradeoff.draw(name, data)
        figure.draw_without_rendering()
        drawn = [str(line.get_gid()) for line in figure.axes[0].lines]
        assert f"row:speed:{TEACHER}" not in drawn
        if name == "quality_speed":
            levels = [
                np.asarray(line.get_ydata()).tolist()
                for line in figure.axes[0].lines
                if "quality" in str(line.get_label())
            ]
            assert levels == [[0.9, 0.9]]

    def test_the_pages_of_such_a_folder(self, scored: dict[str, Result], tmp_path: Path) -> None:
        page = report.write(saved(tmp_path, list(scored.values()))).read_text(encoding="utf8")
        assert "<dd>a column of scores of the data; its speed is not known" in page
        shown = explorer_widgets.Explorer(tmp_path)
        shown.controls["scenario"].value = "single"
        assert "No model here keeps at least 95 %" in shown.sentence.value

    def test_the_bar_has_no_speed_without_one(self, tmp_path: Path) -> None:
        run = student(tmp_path, 0.8, row_combine_s_per_pair=1e-7)
        stored = results.load_logits(tmp_path, run)
        made = dataclasses.replace(
            results.load_result(tmp_path, run), run_id=TEACHER, model="scores", family="scores", teacher_kind="scores",
            notebook="01_teacher", quality=0.9, parameters="{}", combine_s_per_pair=None,
        )  # fmt: skip
        results.save_result(tmp_path, made, stored.logits, stored.labels, stored.groups)
        assert target.sentence(tmp_path, "t", n_boot=20).startswith("The teacher has no clock")
        results.update_result(tmp_path, run, teacher_s_per_pair=0.01, teacher_fastest_dtype="given")
        assert "at 100,000x its pairs per second (at the speed given)" in target.sentence(
            tmp_path, "t", n_boot=20
        )

    def test_trained_here_or_brought(self, rows: dict[str, Result]) -> None:
        def said(**fields: Any) -> str:
            return caveats.origin(derived.frame([dataclasses.replace(rows["teacher"], **fields)]))

        assert (
            said(backbone="embedded") == "trained here (embedded)"
        )  # also of rows from before there were kinds
        assert said(backbone="ms-marco", teacher_kind="brought") == "brought along (ms-marco)"


class TestSmallPrint:
    @pytest.mark.parametrize("backbone", ["embedded", "sentence-transformers/all-MiniLM-L6-v2"])
    def test_what_favours_the_cosine(self, rows: dict[str, Result], tmp_path: Path, backbone: str) -> None:
        rows["student"] = dataclasses.replace(rows["student"], backbone=backbone)
        page = report.write(saved(tmp_path, list(rows.values()))).read_text(encoding="utf8")
        assert (
            page.count("about 10^9 pairs, which favours DE-Cos") == 2
        )  # under the answer, and in the method
        assert page.index("about 10^9 pairs") < page.index("<svg")

    def test_whom_the_negatives_work_against(self, rows: dict[str, Result], tmp_path: Path) -> None:
        notes = '{"negatives":"one of the 20 nearest by TF-IDF, one of the 20 nearest by embedding"}'
        of_pydocs = {name: dataclasses.replace(one, data_notes=notes) for name, one in rows.items()}
        page = report.write(saved(tmp_path, list(of_pydocs.values()))).read_text(encoding="utf8")
        assert page.index("both of these baselines stand lower") < page.index("<svg")
        other = report.write(saved(tmp_path, list(rows.values()))).read_text(encoding="utf8")
        assert "stand lower" not in other

    def test_of_another_backbone_nothing_is_said(self, rows: dict[str, Result], tmp_path: Path) -> None:
        rows = {name: dataclasses.replace(one, backbone="bert-base") for name, one in rows.items()}
        assert "10^9" not in report.write(saved(tmp_path, list(rows.values()))).read_text(encoding="utf8")

    @pytest.mark.parametrize("own_teachers", [False, True])
    def test_means_over_seeds_are_given_their_one_teacher(self, tmp_path: Path, own_teachers: bool) -> None:
        taught = logits_of(3.0, 0)
        for seed in range(2):
            run = f"01_teacher-{seed if own_teachers else 0}.teacher"
            measured(tmp_path, teacher(run_id=run, seed=seed, teacher_run=run), taught, taught)
            many = row("many", run_id=f"run.many-{seed}", seed=seed, teacher_run=run)
            measured(tmp_path, many, logits_of(1.0, seed), taught)
        page = report.write(tmp_path).read_text(encoding="utf8")
        assert ("are given this teacher" in page) is not own_teachers


def test_a_card_and_a_chosen_student_say_that_the_teacher_failed(
    bad: Path, tmp_path: Path, tiny_backbone: str
) -> None:
    """In place of a share of it, which would read as a recommendation."""
    model = models.DualEncoder(tiny_backbone, (8, 12), (2, 2), projection=8, hidden=(8, 4)).eval()
    one = dataclasses.replace(
        results.load_result(bad, row("student").run_id), read_lengths="8+12", retained=0.987, head="ffnn"
    )
    logits = results.load_logits(bad, one.run_id)
    results.save_result(bad, one, logits.logits, logits.labels, logits.groups)
    models.save(model, results.row_folder(bad, one.run_id) / "model")
    page = card.card(one, bad, Scorer(model, "cpu"), "none", None, None)
    assert "The teacher failed" in page and "98.7" not in page
    assert "| of the teacher | no share: its teacher is not surely above the untrained rows |" in page
    with pytest.warns(UserWarning, match="The teacher failed.* is taken all the same, for its speed"):
        assert scale.student_of(bad).run_id == one.run_id
    said = scale.introduced(bad, one)
    assert (
        said.endswith("no share: its teacher is not surely above the untrained rows") and "98.7" not in said
    )
    measured_folder(tmp_path / "good", 3.0)
    good = results.load_result(tmp_path / "good", one.run_id)
    page = card.card(good, tmp_path / "good", Scorer(model, "cpu"), "none", None, None)
    assert "no share" not in page and "| of the teacher | " in page
    assert scale.introduced(tmp_path / "good", good).endswith(" % of its teacher's")
