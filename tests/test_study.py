"""One-factor studies of DiPair: what is one student, what is one series, means and differences by hand, the target, the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dipair_lib.evaluation import results, schema
from dipair_lib.reporting import report
from dipair_lib.reporting.studies import questions, settings, students, study, study_figure, target
from dipair_lib.reporting.studies.students import Settings
from dipair_lib.runner import notebook_files

N = 200
TEACHER = "01_teacher-0.teacher"
PARAMETERS = {
    **settings.DEFAULTS, "task": "t", "out": "x", "pooled": True, "residual": "cosine",
    "seed": 0, "n_seeds": 2, "clock": "none", "threads": 0,
}  # fmt: skip
PLAIN = {"pooled": False, "residual": ""}


def store(folder: Path, run_id: str, right: float, seed: int, **fields: Any) -> schema.Result:
    """Store a row of which the first ``right`` share of its test rows, shifted by the seed, is classified correctly."""
    labels = np.arange(N) % 2
    correct = (np.arange(N) + 7 * seed) % N < right * N
    logits = np.where(correct == (labels == 1), 1.0, -1.0)[:, None]
    row = schema.Result(
        run_id=run_id, suite="s", split="test", n_examples=N, metric="accuracy", quality=right, seed=seed, data_sha256="d",
        **{"created_utc": "", "task": "t", "n_train": 50, "teacher_run": TEACHER, **fields},
    )  # fmt: skip
    results.save_result(folder, row, logits, labels, np.arange(N))
    return row


def student(folder: Path, right: float, seed: int = 0, old: Any = (), **changes: Any) -> str:
    """Store a student of 03_dipair with changed parameters, without those called ``old``; fields of the row begin with ``row_``."""
    fields = {k.removeprefix("row_"): changes.pop(k) for k in list(changes) if k.startswith("row_")}
    p = {k: v for k, v in {**PARAMETERS, **changes, "seed": seed}.items() if k not in old}
    known = {"model": "student", "family": "dipair", "notebook": "03_dipair", "parameters": json.dumps(p)}
    run_id = notebook_files.run_key("03_dipair", p, "d", "x") + ".student"
    store(folder, run_id, right, seed, **{**known, "task": p["task"], **fields})
    return run_id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher of .9, DE-Cos of .7, and students that differ in kept tokens, in what is kept, and in the layers of the encoder."""
    store(tmp_path, TEACHER, 0.9, 0, model="teacher", family="cross-encoder", notebook="01_teacher")
    clock = {
        "row_dtype": "float32",
        "row_teacher_s_per_pair": 1e-2,
        "row_encode_s_per_text": 3e-3,
        "row_tokenize_s_per_text": 1e-4,
    }
    for seed in (0, 1):
        first: dict[str, Any] = clock if seed == 0 else {}
        cosine = {
            "head": "cosine",
            "keep": [0],
            "projection": [0],
            "residual": "",
            "row_family": "dual-encoder",
        }
        student(tmp_path, 0.7, seed, **cosine)
        student(
            tmp_path, 0.8 + 0.05 * seed, seed, **first, **({"row_combine_s_per_pair": 8e-7} if first else {})
        )
        student(tmp_path, 0.75, seed, keep=[2])
        student(tmp_path, 0.72, seed, keep=[0], projection=[0])
        student(tmp_path, 0.78, seed, keep=[2, 4])
        student(tmp_path, 0.6, seed, **PLAIN)
        student(tmp_path, 0.55, seed, keep=[2], **PLAIN)
        student(
            tmp_path,
            0.9,
            seed,
            select="learned",
            **first,
            **({"row_combine_s_per_pair": 5e-6} if first else {}),
        )
        student(tmp_path, 0.65, seed, layers=2, row_params_per_pair=10, row_flops_per_pair=20.0)
    return tmp_path


def series(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Question -> series -> its values."""
    found = questions.questions_of(questions.load(folder, "t", n_boot=10))
    return {q.title: {s.label: [q.say(*v) for v in s.keys] for s in some} for q, some in found.items()}


class TestSettings:
    def test_equal_choices_are_one_configuration_however_they_are_written(self) -> None:
        told = settings.settings_of(
            {**PARAMETERS, "keep": [8, 8], "projection": 128, "stage1_epochs": 3, "threads": 9, "seed": 4}
        )
        assert told == settings.settings_of({**PARAMETERS, "residual": True})
        assert told != settings.settings_of({**PARAMETERS, "keep": [4, 8]})
        assert told != settings.settings_of({**PARAMETERS, "hidden": [128]})

    def test_equal_hidden_layers_stay_two(self) -> None:
        assert settings.settings_of({**PARAMETERS, "hidden": [64, 64]})["hidden"] == (64, 64)

    def test_a_parameter_that_an_old_row_lacks_is_what_it_was_then(self) -> None:
        old = {
            k: v
            for k, v in PARAMETERS.items()
            if k not in {"select", "start", "loss", "pool", "teachers", "n_seeds", "hidden"}
        }
        assert settings.settings_of({**old, "residual": True}) == settings.settings_of(PARAMETERS)

    def test_names_tell_what_departs_from_the_usual(self) -> None:
        usual = settings.settings_of(PARAMETERS)

        def name(**changes: Any) -> str:
            return settings.name_of(settings.settings_of({**PARAMETERS, **changes}), usual)

        assert name() == "FFNN + pooled + cosine k=8"
        assert (
            name(keep=[4, 16], select="learned", layers=1)
            == "FFNN + pooled + cosine k=4+16, learned tokens, 1 encoder layer"
        )
        assert name(head="transformer", **PLAIN, head_layers=2) == "transformer k=8, 2-layer head"
        assert name(keep=[0], residual="") == "DE-FFNN"
        assert name(head="cosine", keep=[0], residual="", projection=[0]) == "DE-Cos"
        assert (
            name(loss="hard", start="teacher")
            == "FFNN + pooled + cosine k=8, start: the teacher's, learns labels"
        )
        assert name(brand_new=[1]) == "FFNN + pooled + cosine k=8, brand_new (1,)"

    def test_every_parameter_of_the_notebook_is_known_here(self) -> None:
        """A parameter that the table lacks would part old rows from new ones."""
        notebook = notebook_files.notebook_parameters(
            Path(__file__).parents[1] / "notebooks" / "03_dipair.ipynb"
        )
        assert set(notebook) <= set(settings.DEFAULTS) | students.IGNORED


class TestSeries:
    def test_only_one_choice_differs_within_one(self, folder: Path) -> None:
        assert series(folder) == {
            "Kept tokens": {"FFNN + pooled + cosine": ["0", "2", "8", "2+4"], "FFNN": ["2", "8"]},
            "Which outputs are kept": {"FFNN + pooled + cosine": ["first", "learned"]},
            "Encoder layers": {"FFNN + pooled + cosine": ["2", "all"]},
            "What the head sees and corrects": {
                "FFNN, k=2": ["kept tokens only", "+ pooled + cosine"],
                "FFNN, k=8": ["kept tokens only", "+ pooled + cosine"],
            },
        }

    def test_rows_from_before_the_parameters_stand_beside_new_ones(self, folder: Path) -> None:
        """With the seed 2 only an old row: it is the same configuration."""
        student(folder, 0.8, 2, old=("select", "layers", "start", "loss", "shared", "teachers"))
        loaded = questions.load(folder, "t", n_boot=10)
        assert sorted(loaded.quality[settings.settings_of(PARAMETERS, 50)]) == [
            0,
            1,
            2,
        ]

    def test_what_two_things_part_is_no_series(self, tmp_path: Path) -> None:
        student(tmp_path, 0.6)
        student(tmp_path, 0.7, keep=[4], layers=2)
        assert questions.questions_of(questions.load(tmp_path, "t", n_boot=10)) == {}
        assert study.tasks_of(tmp_path) == []
        assert len(study.table(tmp_path, "t")) == 0
        assert study_figure.figure(tmp_path, "t").axes

    def test_the_rate_of_a_stage_that_is_skipped_does_not_part(self, tmp_path: Path) -> None:
        student(tmp_path, 0.6)
        student(tmp_path, 0.7, stage1_epochs=0.0, stage1_rate=1e-2)
        student(tmp_path, 0.5, stage2_epochs=0.0, stage2_rate=1e-2)
        assert series(tmp_path) == {
            "One stage or two": {
                "FFNN + pooled + cosine": ["one stage: 0.25", "3 frozen", "3 frozen, 0.25 all"]
            }
        }

    def test_unlabelled_pairs_start_from_the_same_student_without(self, tmp_path: Path) -> None:
        student(tmp_path, 0.6)
        for kind in ("near", "random"):
            for pool in (5000, 20000):
                student(tmp_path, 0.7, pool=pool, pool_kind=kind)
        found = series(tmp_path)["Unlabelled pairs"]
        assert found == {
            "FFNN + pooled + cosine, near pairs": ["0", "5,000", "20 k"],
            "FFNN + pooled + cosine, random pairs": ["0", "5,000", "20 k"],
        }

    def test_a_file_of_pairs_stands_apart_from_numbers(self, tmp_path: Path) -> None:
        student(tmp_path, 0.6)
        student(tmp_path, 0.7, pool=5000)
        student(tmp_path, 0.8, unlabelled="/data/more.csv")
        student(tmp_path, 0.8, pool=5000, unlabelled="/data/more.csv")
        assert list(series(tmp_path)["Unlabelled pairs"].values()) == [
            ["0", "5,000", "more.csv", "5,000 + more.csv"]
        ]

    def test_kept_tokens_need_two_students_alike_beside_the_one_without(self, tmp_path: Path) -> None:
        """Without a kept token nothing is selected: that student alone beside each way of selecting would say nothing new."""
        student(tmp_path, 0.6, keep=[0])
        student(tmp_path, 0.7)
        student(tmp_path, 0.8, select="learned")
        assert series(tmp_path)["Kept tokens"] == {"FFNN + pooled + cosine": ["0", "8"]}

    def test_training_rows_are_those_there_were(self, tmp_path: Path) -> None:
        student(tmp_path, 0.6, row_n_train=1200)
        student(tmp_path, 0.5, row_n_train=300, max_train=300)
        (found,) = questions.questions_of(questions.load(tmp_path, "t", n_boot=10)).values()
        assert list(found[0].keys) == [(300,), (1200,)]
        assert found[0].reference == (1200,)

    def test_students_of_an_earlier_teacher_are_other_configurations(self, tmp_path: Path) -> None:
        """Two teachers of one seed: k = 4 learned from both, and neither row is lost; labels are learned whoever taught."""
        for day, run in enumerate(("old", "new"), 1):
            told: dict[str, Any] = {"row_teacher_run": run, "row_created_utc": f"2026-01-0{day}"}
            store(
                tmp_path, run, 0.9, 0, model="teacher", family="cross-encoder", notebook="01_teacher", created_utc=f"2026-01-0{day}"
            )  # fmt: skip
            student(tmp_path, 0.5 + 0.1 * day, keep=[4], n_seeds=day, **told)
        student(tmp_path, 0.8, row_teacher_run="new")
        student(tmp_path, 0.65, keep=[4], loss="hard", row_teacher_run="old")
        loaded = questions.load(tmp_path, "t", n_boot=10)
        usual = questions.usual_of(loaded)
        named = {settings.name_of(s, usual): s["teacher_age"] for s in loaded.quality}
        assert named == {
            "FFNN + pooled + cosine k=4": 0,
            "FFNN + pooled + cosine k=4, teacher 1 before the newest": 1,
            "FFNN + pooled + cosine k=8": 0,
            "FFNN + pooled + cosine k=4, learns labels": 0,
        }
        (found,) = [s for q, s in questions.questions_of(loaded).items() if q.title == "Kept tokens"]
        assert [loaded.mean(key)[0] for key in found[0].keys.values()] == pytest.approx([0.7, 0.8])

    def test_of_a_student_that_was_trained_twice_the_newer_row_counts_and_it_is_said(
        self, tmp_path: Path
    ) -> None:
        new = student(tmp_path, 0.8, row_created_utc="2026-01-02")
        old = student(tmp_path, 0.6, n_seeds=3, row_created_utc="2026-01-01")
        with pytest.warns(
            UserWarning, match=f"row left out: {old}: the same student was trained again as {new}"
        ):
            loaded = questions.load(tmp_path, "t", n_boot=10)
        assert [list(seeds.values()) for seeds in loaded.quality.values()] == [[0.8]]

    def test_at_most_five_the_longest_first(self, tmp_path: Path) -> None:
        for i in range(7):
            for k in range(1, 3 + (i == 6)):
                student(tmp_path, 0.5, keep=[k], batch_size=10 + i)
        kept = series(tmp_path)["Kept tokens"]
        assert len(kept) == questions.MOST_SERIES
        assert next(iter(kept.values())) == ["1", "2", "3"]
        assert len(set(kept)) == 5

    def test_test_rows_of_another_build_of_the_data_are_left_out(self, folder: Path) -> None:
        run = student(folder, 0.5, keep=[16])
        row = results.load_result(folder, run)
        labels = (np.arange(N) + 1) % 2
        results.save_result(folder, row, np.zeros((N, 1)), labels, np.arange(N))
        assert "16" not in series(folder)["Kept tokens"]["FFNN + pooled + cosine"]


class TestNumbers:
    def test_by_hand(self, folder: Path) -> None:
        lines = study.table(folder, "t", n_boot=200).set_index(["question", "series", "value"]).sort_index()
        kept = lines.loc["Kept tokens", "FFNN + pooled + cosine"]
        assert kept["quality"].to_dict() == pytest.approx({"0": 0.72, "2": 0.75, "8": 0.825, "2+4": 0.78})
        assert kept["points"].to_dict() == pytest.approx({"0": -10.5, "2": -7.5, "8": 0.0, "2+4": -4.5})
        assert set(kept["against"]) == {"8"}
        assert (kept["seeds"] == 2).all()
        assert ((kept["low"] < kept["quality"]) & (kept["quality"] < kept["high"])).all()
        assert ((kept["points_low"] <= kept["points"]) & (kept["points"] <= kept["points_high"])).all()
        assert lines.loc[
            ("Which outputs are kept", "FFNN + pooled + cosine", "learned"), "points"
        ] == pytest.approx(7.5)
        seen = lines.loc["What the head sees and corrects", "FFNN, k=2"]
        assert seen.loc["+ pooled + cosine", "points"] == pytest.approx(20.0)
        layers = lines.loc[("Encoder layers", "FFNN + pooled + cosine", "2")]
        assert layers[["params_per_pair", "flops_per_pair"]].tolist() == [10, 20]
        assert layers["points"] == pytest.approx(-17.5)

    def test_a_difference_of_the_same_rows_is_surer_than_its_parts(self, folder: Path) -> None:
        lines = study.table(folder, "t", n_boot=500).set_index(["question", "series", "value"]).sort_index()
        line = lines.loc[("Kept tokens", "FFNN", "2")]
        assert line["points_high"] - line["points_low"] < 100 * (line["high"] - line["low"])

    def test_students_without_a_seed_in_common_have_no_difference(self, tmp_path: Path) -> None:
        student(tmp_path, 0.6, 0)
        student(tmp_path, 0.7, 1, keep=[4])
        lines = study.table(tmp_path, "t", n_boot=20).set_index("value")
        assert pd.isna(lines.loc["4", "points"])
        assert study.shown(lines.reset_index())["points"].tolist() == ["–", "reference"]
        assert study_figure.figure(tmp_path, "t", n_boot=20).axes

    def test_a_row_without_its_logits_is_named_and_left_out(self, folder: Path) -> None:
        run = student(folder, 0.5, keep=[16])
        (results.row_folder(folder, run) / "logits.npz").unlink()
        with pytest.warns(UserWarning, match=re.escape(run)):
            assert "16" not in study.table(folder, "t", n_boot=10)["value"].tolist()


class TestClaims:
    @staticmethod
    def lines(*values: tuple[str, float | None, float, float]) -> pd.DataFrame:
        common = {"question": "Kept tokens", "series": "FFNN", "against": "8", "seeds": 3}
        rows = [
            {**common, "value": v, "points": p, "points_low": low, "points_high": high}
            for v, p, low, high in values
        ]
        return pd.DataFrame(rows)

    def test_the_best_is_named_with_its_interval(self) -> None:
        said = study.claims(self.lines(("4", -1.0, -2.0, -0.5), ("8", 0.0, 0.0, 0.0), ("16", 1.5, 0.5, 2.5)))
        assert said == ["Kept tokens (FFNN, 3 seeds): 16 in place of 8 brings +1.5 (+0.5 to +2.5) points."]

    def test_what_is_not_significant_is_called_so(self) -> None:
        (said,) = study.claims(self.lines(("8", 0.0, 0.0, 0.0), ("16", 0.5, -0.5, 1.5)))
        assert said.endswith("points, not significant: the interval includes 0.")
        (said,) = study.claims(self.lines(("8", 0.0, 0.0, 0.0), ("4", -0.5, -1.5, 0.5)))
        assert "nothing tried beats 8; 4 comes nearest" in said
        assert said.endswith("not significant: the interval includes 0.")

    def test_without_a_difference_nothing_is_said(self) -> None:
        assert study.claims(self.lines(("8", 0.0, 0.0, 0.0))) == []


class TestTarget:
    def test_by_hand(self, folder: Path) -> None:
        lines = target.targets(folder, "t", n_boot=300)
        assert lines["student"].tolist()[0] == "FFNN + pooled + cosine k=8, learned tokens"
        assert lines["retained"].is_monotonic_decreasing
        lines = lines.set_index("student")
        assert len(lines) == 9
        best, base, cosine = (
            lines.loc[name]
            for name in ("FFNN + pooled + cosine k=8, learned tokens", "FFNN + pooled + cosine k=8", "DE-Cos")
        )
        assert base["retained"] == pytest.approx(0.825 / 0.9)
        assert base["low"] < base["retained"] < base["high"]
        assert base["points"] == pytest.approx(12.5)
        assert base["faster"] == pytest.approx(12_500)
        assert (base["reached"], base["sure"]) == (False, False)
        # two texts of 3.1 ms each, shared by the pairs that may cost 10 us and cost .8 us (best: 5 us) by themselves
        assert base["paid_from"] == pytest.approx(2 * 3.1e-3 / (10e-6 - 0.8e-6))
        assert best["paid_from"] == pytest.approx(2 * 3.1e-3 / (10e-6 - 5e-6))
        assert best["retained"] == pytest.approx(1.0)
        assert best["faster"] == pytest.approx(2_000)
        assert best["reached"] is False
        assert pd.isna(cosine["paid_from"])
        assert (cosine["retained"], cosine["points"]) == (pytest.approx(7 / 9), 0.0)
        assert cosine["reached"] is None and pd.isna(cosine["faster"])

    def test_reached_for_sure_only_where_the_whole_interval_is(self, folder: Path) -> None:
        """The teacher's own mistakes, so its share is 1 in every draw; then as many, of other rows."""
        fast = {"row_teacher_s_per_pair": 1e-2, "row_combine_s_per_pair": 9e-7}
        student(folder, 0.9, 0, match=0.5, **fast)
        student(folder, 0.9, 4, match=0.7, **fast)
        lines = target.targets(folder, "t", n_boot=300).set_index("student")
        same, other = (lines.loc[f"FFNN + pooled + cosine k=8, match {w}"] for w in (0.5, 0.7))
        assert (same["low"], same["high"]) == (1.0, 1.0)
        assert (same["reached"], same["sure"]) == (True, True)
        assert (other["reached"], other["sure"]) == (True, False)
        assert "is reached, by its whole interval" in target.sentence(folder, "t", n_boot=300)

    def test_the_sentence_names_the_best_that_is_fast_enough(self, folder: Path) -> None:
        said = target.sentence(folder, "t", n_boot=200)
        assert said.startswith("FFNN + pooled + cosine k=8 keeps 91.7 % (")
        assert "over 2 seeds given this teacher at 12,500x its pairs per second, +12.5 (" in said
        assert "the best of 1 student that fast" in said
        assert "The target (99.5 % at 10,000x) is 7.8 points away" in said
        assert "it is 1,000 times as fast from 680 pairs per text on." in said
        assert said.endswith("7 more are not clocked.")

    def test_pairs_that_cost_too_much_are_never_fast_enough(self, tmp_path: Path) -> None:
        store(tmp_path, TEACHER, 0.9, 0, model="teacher", family="cross-encoder", notebook="01_teacher")
        slow: dict[str, Any] = {
            "row_teacher_s_per_pair": 1e-2,
            "row_combine_s_per_pair": 2e-5,
            "row_encode_s_per_text": 1e-3,
        }
        student(tmp_path, 0.8, **slow)
        lines = target.targets(tmp_path, "t", n_boot=10)
        assert lines["paid_from"].tolist() == [float("inf")]
        assert target.targets_shown(lines).iloc[0, 4] == "never"

    def test_pairs_per_text_round_up(self) -> None:
        assert [target.pairs_per_text(n) for n in (1.0, 10.0, 673.9, 1240.0, 98_001.0)] == [
            "1", "10", "680", "1,300", "99,000",
        ]  # fmt: skip

    def test_too_slow_or_not_clocked_is_said(self, tmp_path: Path) -> None:
        store(tmp_path, TEACHER, 0.9, 0, model="teacher", family="cross-encoder", notebook="01_teacher")
        assert target.sentence(tmp_path, "t") == ""
        student(tmp_path, 0.8)
        assert target.sentence(tmp_path, "t", n_boot=20).startswith("No student is clocked yet")
        student(tmp_path, 0.7, keep=[4], row_teacher_s_per_pair=1e-3, row_combine_s_per_pair=1e-6)
        said = target.sentence(tmp_path, "t", n_boot=20)
        assert said.startswith(
            "No student is 10,000 times as fast as the teacher: the fastest, FFNN + pooled + cosine k=4, keeps 77.8 %"
        )

    def test_without_the_teacher_there_is_no_target(self, tmp_path: Path) -> None:
        student(tmp_path, 0.8)
        assert len(target.targets(tmp_path, "t", n_boot=10)) == 0
        assert len(target.targets_shown(target.targets(tmp_path, "t", n_boot=10))) == 0
        assert target.sentence(tmp_path, "t", n_boot=10) == ""

    def test_of_several_cosines_the_one_trained_like_the_others(self, folder: Path) -> None:
        student(folder, 0.85, head="cosine", keep=[0], projection=[0], residual="", start="teacher")
        student(folder, 0.86, head="cosine", keep=[0], projection=[0], residual="", stage2_epochs=0.0)
        loaded = questions.load(folder, "t", n_boot=10)
        cosine = questions.cosine_of(loaded)
        assert cosine and loaded.mean(cosine)[0] == pytest.approx(0.7)


class TestPicture:
    def test_a_panel_for_each_question(self, folder: Path) -> None:
        figure = study_figure.figure(folder, "t", n_boot=50)
        titles = [title for ax in figure.axes if (title := ax.get_title(loc="left"))]
        assert titles == list(series(folder))
        kept, chosen = figure.axes[:2]
        assert [t.get_text() for t in kept.get_xticklabels()] == ["0", "2", "8", "2+4"]
        assert [t.get_text() for t in chosen.get_yticklabels()] == ["first", "learned"]
        assert [t.get_text() for t in figure.legends[0].get_texts()][:2] == ["teacher", "DE-Cos, trained"]
        legend = kept.get_legend()
        assert legend and [t.get_text() for t in legend.get_texts()] == ["FFNN + pooled + cosine", "FFNN"]
        figure.draw_without_rendering()

    def test_the_legend_of_a_single_panel_is_not_cut(self, tmp_path: Path) -> None:
        student(tmp_path, 0.6)
        student(tmp_path, 0.7, keep=[4])
        student(tmp_path, 0.8, head="cosine", keep=[0], projection=[0], residual="")
        figure = study_figure.figure(tmp_path, "t", n_boot=10)
        assert [ax.get_title(loc="left") for ax in figure.axes if ax.axison] == ["Kept tokens"]
        figure.draw_without_rendering()
        drawn = figure.legends[0].get_window_extent()
        assert drawn.x0 >= 0 and drawn.x1 <= figure.bbox.width

    def test_numbers_stand_to_scale_and_what_is_none_apart(self) -> None:
        question = questions.QUESTIONS[0]
        keys = {((k,),): Settings() for k in (0, 2, 4, 16)} | {((4, 16),): Settings()}
        places = study_figure.places_of(question, [questions.Series("", keys, ((4,),))])
        assert [places[((k,),)] for k in (2, 4, 16)] == [1, 2, 4]
        assert places[((0,),)] < 1 and places[((4, 16),)] > 4

    def test_tick_labels_never_touch(self) -> None:
        assert study_figure.apart([0.0, 0.01, 1.0], ["15 k", "16 k", "80 k"]) == ["15 k", "", "80 k"]
        assert study_figure.apart([0.0, 1.0], ["a", "b"]) == ["a", "b"]

    def test_series_keep_their_look_in_every_panel_and_differ_within_one(self) -> None:
        panels = [
            [questions.Series(label, {}, ()) for label in labels] for labels in ("abcde", "ab", "fgh", "ah")
        ]
        styles = study_figure.styles_of(panels)
        for panel in panels:
            assert len({styles[s.label] for s in panel}) == len(panel)

    def test_it_is_written_for_each_task_that_has_a_series(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        student(folder, 0.6, task="alone")
        (written,) = study_figure.save_pictures(folder, out)
        assert written == out / "study.png"
        assert written.read_bytes().startswith(b"\x89PNG")


class TestPage:
    def test_the_report_tells_it(self, folder: Path) -> None:
        page = report.write(folder).read_text(encoding="utf8")
        assert page.count("What matters in DiPair") == 1
        assert "FFNN + pooled + cosine k=8 keeps 91.7 %" in page
        assert "If none of the 8 differences here were real" in page
        assert "<td>Kept tokens</td>" in page
        assert "<td>FFNN + pooled + cosine k=8, learned tokens</td>" in page

    def test_a_folder_without_series_has_no_such_section(self, tmp_path: Path) -> None:
        student(tmp_path, 0.6)
        assert "What matters in DiPair" not in report.write(tmp_path).read_text(encoding="utf8")

    def test_rows_alone_have_no_such_section(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "alone").mkdir()
        results.write_rows(folder).rename(tmp_path / "alone" / "rows.jsonl")
        assert "What matters in DiPair" not in report.write(tmp_path / "alone").read_text(encoding="utf8")

    def test_text_from_parameters_is_escaped(self, tmp_path: Path) -> None:
        hostile = "<script>alert(1)</script>\x1b[31m $x_"
        for keep in ([4], [8]):
            student(tmp_path, 0.6, keep=keep, task=hostile, head=hostile, select=hostile)
            student(tmp_path, 0.7, keep=keep, task=hostile, backbone=hostile)
            student(
                tmp_path,
                0.7,
                keep=keep,
                task=hostile,
                loss=hostile,
                residual=hostile,
                pool=9,
                unlabelled=hostile,
            )
        page = report.write(tmp_path).read_text(encoding="utf8")
        assert "What matters in DiPair" in page
        assert "<script" not in page and "\x1b" not in page
