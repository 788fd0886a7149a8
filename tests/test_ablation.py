"""The comparison of 02_bilstm's students: cells by what was trained, gains by hand, intervals that hold seeds and test rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipair_lib.evaluation import results, schema
from dipair_lib.reporting import identity, report
from dipair_lib.reporting.studies import ablation, ablation_figure
from dipair_lib.runner import notebook_files

PARAMETERS = {
    "task": "t", "out": "x", "share": 1.0, "vectors": "backbone", "loss": "hard", "alpha": 0.0, "temperature": 1.0, "augment": "none",
    "n_iter": 1, "synthetic_labels": "source", "hidden": 150, "epochs": 4.0, "seed": 0, "n_seeds": 2, "clock": "none", "threads": 0,
}  # fmt: skip
N = 200


def student(folder: Path, seed: int, right: float, run: str = "", **parameters: Any) -> str:
    """Store a student of which the first ``right`` share of its test rows, shifted by the seed, is classified correctly; fields of the row
    begin with ``row_``, ``run`` tells runs apart whose students have one name."""
    fields = {k.removeprefix("row_"): parameters.pop(k) for k in list(parameters) if k.startswith("row_")}
    p = {**PARAMETERS, **parameters}
    name = ablation.name_of(p)
    labels = np.arange(N) % 2
    correct = (np.arange(N) + 7 * seed) % N < right * N
    logits = np.where(correct == (labels == 1), 1.0, -1.0)[:, None]
    row = schema.Result(
        run_id=f"02_bilstm-{results.slug(name)}{run}.s{seed}", notebook="02_bilstm", suite="s", task=p["task"], split="test",
        n_examples=N, n_train=50, n_synthetic=0, model=name, family="bilstm", metric="accuracy", quality=right, seed=seed,
        parameters=json.dumps(p), data_sha256="d", **{"created_utc": "", **fields},
    )  # fmt: skip
    results.save_result(folder, row, logits, labels, np.arange(N))
    return row.run_id


def teacher(folder: Path, run: str, created: str, seed: int = 0) -> str:
    """Store a teacher that is right in 9 of 10 test rows."""
    labels = np.arange(N) % 2
    logits = np.where((np.arange(N) < 0.9 * N) == (labels == 1), 1.0, -1.0)[:, None]
    row = schema.Result(
        run_id=run, created_utc=created, notebook="01_teacher", suite="s", task="t", split="test", n_examples=N, model="teacher",
        family="cross-encoder", metric="accuracy", quality=0.9, seed=seed, data_sha256="d", teacher_run=run,
    )  # fmt: skip
    results.save_result(folder, row, logits, labels, np.arange(N))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in (0, 1):
        student(tmp_path, seed, 0.6)
        student(tmp_path, seed, 0.7 + 0.1 * seed, loss="logits")
        student(tmp_path, seed, 0.65, augment="all")
        student(tmp_path, seed, 0.85, augment="all", loss="logits")
    return tmp_path


class TestCells:
    def test_what_does_not_change_the_student_does_not_part_cells(self) -> None:
        plain = ablation.settings_of(PARAMETERS)
        assert plain == ablation.settings_of(
            {**PARAMETERS, "n_iter": 9, "alpha": 0.5, "threads": 3, "synthetic_labels": "teacher", "seed": 4}
        )
        assert plain != ablation.settings_of({**PARAMETERS, "hidden": 300})
        assert ablation.settings_of({**PARAMETERS, "augment": "all"}) != ablation.settings_of(
            {**PARAMETERS, "augment": "all", "synthetic_labels": "teacher"}
        )

    def test_names_tell_cells_apart(self) -> None:
        def name(**changes: Any) -> str:
            return ablation.name_of({**PARAMETERS, **changes})

        assert name() == "BiLSTM 150 (hard)"
        assert (
            name(loss="logits", augment="all", n_iter=20, share=0.05)
            == "BiLSTM 150 (logits, all x20, 5 % of rows)"
        )
        assert name(loss="logits", alpha=0.5) == "BiLSTM 150 (logits + 0.5 labels)"
        assert (
            name(augment="pos", synthetic_labels="teacher") == "BiLSTM 150 (hard, pos x1, teacher's classes)"
        )
        assert (
            name(loss="kl", temperature=3.0, vectors="/data/glove.6B.300d.txt")
            == "BiLSTM 150 (kl T=3, glove.6B.300d.txt vectors)"
        )


class TestNothingIsOverwritten:
    """Whatever else differs makes other cells, compared among themselves and named by what differs."""

    def test_epochs_part_cells(self, folder: Path) -> None:
        for seed in (0, 1):
            student(folder, seed, 0.62, run="long", epochs=9.0)
            student(folder, seed, 0.92, run="long", epochs=9.0, loss="logits")
        loaded = ablation.load(folder, "t", n_boot=10)
        plain = {
            own["epochs"]: seeds
            for own, seeds in loaded.quality.items()
            if own == ablation.like(ablation.set_of(own))
        }
        assert plain == {4.0: {0: 0.6, 1: 0.6}, 9.0: {0: 0.62, 1: 0.62}}
        table = ablation.gains(folder, "t", n_boot=50)
        alone = table[table["gain"] == "distillation alone: logits, not labels"]
        assert dict(zip(alone["students"], alone["points"], strict=True)) == pytest.approx(
            {"epochs 4": 15.0, "epochs 9": 30.0}
        )
        said = ablation.sentence(folder, "t")
        assert (
            "the same number of steps (epochs 4): learning the teacher's logits instead of labels changed it by +15.0"
            in said
        )
        assert said.endswith("Other students here have epochs 9: the table holds their gains.")
        titles = [ax.get_title(loc="left") for ax in ablation_figure.figure(folder, "t", n_boot=20).axes]
        assert "What each part brings (epochs 4)" in titles

    @pytest.mark.parametrize(
        "changes", [{"hidden": 300}, {"batch_size": 9}, {"teacher_seed": "same"}, {"brand_new": 1}]
    )
    def test_so_does_every_parameter_that_chooses_what_is_trained(
        self, folder: Path, changes: dict[str, Any]
    ) -> None:
        before = ablation.load(folder, "t", n_boot=10).quality
        student(folder, 0, 0.99, run="other", **changes)
        after = ablation.load(folder, "t", n_boot=10).quality
        assert len(after) == len(before) + 1
        assert {cell: after[cell] for cell in before} == before

    def test_a_parameter_that_committed_rows_lack_has_a_value_for_them(self) -> None:
        """One that the table lacks would part old rows from new ones."""
        root = Path(__file__).parents[1]
        rows = results.load_results(root / "results" / "reference" / "tang2019" / "sst2")
        named = set.intersection(*(set(json.loads(r.parameters)) for r in rows if r.notebook == "02_bilstm"))
        notebook = notebook_files.notebook_parameters(root / "notebooks" / "02_bilstm.ipynb")
        assert notebook.keys() - named - identity.NO_CHOICE - ablation.DEFAULTS.keys() == set(), (
            "for ablation.DEFAULTS"
        )
        assert ablation.settings_of(PARAMETERS) == ablation.settings_of({**PARAMETERS, **ablation.DEFAULTS})

    def test_students_of_an_earlier_teacher_are_a_set_of_their_own(self, tmp_path: Path) -> None:
        for day, run in enumerate(("old", "new"), 1):
            teacher(tmp_path, run, f"2026-01-0{day}")
            for augment in ("none", "all"):
                student(
                    tmp_path, 0, 0.5 + 0.1 * day, run=run, loss="logits", augment=augment, row_teacher_run=run
                )
        student(
            tmp_path, 0, 0.5, row_teacher_run="old"
        )  # learns from labels: either teacher's students are compared with it
        table = ablation.gains(tmp_path, "t", n_boot=20)
        alone = table[table["gain"] == "distillation alone: logits, not labels"]
        assert dict(zip(alone["students"], alone["points"], strict=True)) == pytest.approx(
            {"newest teacher": 20.0, "teacher 1 before the newest": 10.0}
        )
        loaded = ablation.load(tmp_path, "t", n_boot=10)
        assert ablation.first_of(loaded)["teacher_age"] == 0
        assert loaded.teacher is not None and loaded.teacher.run_id == "new"

    def test_a_teacher_per_seed_is_one_cell(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            run = teacher(tmp_path, f"taught{seed}", f"2026-01-0{seed + 1}", seed)
            student(tmp_path, seed, 0.7, loss="logits", teacher_seed="same", row_teacher_run=run)
        (cell,) = ablation.load(tmp_path, "t", n_boot=10).quality.values()
        assert cell == {0: 0.7, 1: 0.7}

    def test_of_a_student_that_was_trained_twice_the_newer_row_counts_and_it_is_said(
        self, tmp_path: Path
    ) -> None:
        new = student(tmp_path, 0, 0.8, run="a", row_created_utc="2026-01-02")
        old = student(tmp_path, 0, 0.6, run="b", n_seeds=3, row_created_utc="2026-01-01")
        with pytest.warns(
            UserWarning, match=f"row left out: {old}: the same student was trained again as {new}"
        ):
            loaded = ablation.load(tmp_path, "t", n_boot=10)
        assert list(loaded.quality.values()) == [{0: 0.8}]

    def test_rows_of_another_build_of_the_data_are_not_mixed_in(self, folder: Path) -> None:
        before = ablation.load(folder, "t", n_boot=10).quality
        run_id = student(folder, 5, 0.9, run="other")
        row, stored = results.load_result(folder, run_id), results.load_logits(folder, run_id)
        results.save_result(folder, row, stored.logits, 1 - stored.labels, stored.groups)
        assert ablation.load(folder, "t", n_boot=10).quality == before


class TestGains:
    def test_by_hand(self, folder: Path) -> None:
        table = ablation.gains(folder, "t", n_boot=200).set_index("gain")
        assert table.loc["distillation alone: logits, not labels", "points"] == pytest.approx(
            15.0
        )  # mean of 10 and 20
        assert table.loc["augmentation alone: all three rules", "points"] == pytest.approx(5.0)
        assert table.loc["on top of distillation: all three rules", "points"] == pytest.approx(10.0)
        assert table.loc["both together: what the paper reports", "points"] == pytest.approx(25.0)
        assert (table["seeds"] == 2).all()
        assert (table["low"] <= table["points"]).all()
        assert (table["points"] <= table["high"]).all()
        assert "augmentation alone: masked words" not in table.index

    def test_a_gain_of_the_same_rows_has_a_narrower_interval_than_its_parts(self, folder: Path) -> None:
        study = ablation.load(folder, "t", n_boot=500)
        plain, more = ablation.settings_of(PARAMETERS), ablation.settings_of({**PARAMETERS, "augment": "all"})
        _, low, high = study.contrast({more: 1, plain: -1})
        _, own_low, own_high = study.mean(plain)
        assert 0 < high - low < own_high - own_low

    def test_seeds_widen_the_interval(self, folder: Path) -> None:
        """Qualities .7 and .8 of two seeds: the interval of their mean is wider than that of two equal seeds."""
        study = ablation.load(folder, "t", n_boot=500)
        apart, alike = (
            study.mean(ablation.settings_of({**PARAMETERS, "loss": "logits", "augment": a}))
            for a in ("none", "all")
        )
        assert apart[2] - apart[1] > alike[2] - alike[1]

    def test_a_cell_against_itself_is_nothing(self, folder: Path) -> None:
        study = ablation.load(folder, "t", n_boot=50)
        cell = ablation.settings_of(PARAMETERS)
        same = ablation.settings_of({**PARAMETERS, "augment": "all"})
        study.quality[same], study.draws[same] = study.quality[cell], study.draws[cell]
        assert study.contrast({same: 1, cell: -1}) == (0.0, 0.0, 0.0)

    def test_the_sentence_says_what_was_seen(self, folder: Path) -> None:
        said = ablation.sentence(folder, "t")
        assert "200 test rows over 2 seeds given this teacher, 50 training rows" in said
        assert "learning the teacher's logits instead of labels changed it by +15.0 points" in said

    def test_without_a_comparison_it_says_nothing(self, tmp_path: Path) -> None:
        student(tmp_path, 0, 0.5)
        assert ablation.sentence(tmp_path, "t") == ""
        assert len(ablation.gains(tmp_path, "t")) == 0
        assert ablation_figure.figure(tmp_path, "t", n_boot=20).axes

    def test_no_student_at_all_is_an_empty_figure(self, tmp_path: Path) -> None:
        (tmp_path / "rows").mkdir()
        assert ablation_figure.figure(tmp_path, "t").axes


def test_the_figure_shows_every_cell_and_the_lines(folder: Path) -> None:
    for seed in (0, 1):
        student(folder, seed, 0.8, augment="all", loss="logits", n_iter=5)
        student(folder, seed, 0.5, share=0.25)
    figure = ablation_figure.figure(folder, "t", n_boot=50)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        "t: what the students reach",
        "What each part brings",
        "More synthetic rows (50 real ones)",
        "More real rows",
    ]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "no synthetic rows",
        "all three rules",
    ]


def test_the_report_tells_it_with_its_figure_and_table(folder: Path) -> None:
    page = report.write(folder).read_text(encoding="utf8")
    assert "Distillation or augmentation?" in page
    assert "learning the teacher&#39;s logits instead of labels changed it by +15.0 points" in page
    assert page.count("<td>distillation alone: logits, not labels</td>") == 1
    assert 'aria-label="t: distillation or augmentation; the table below holds the gains"' in page


def test_a_task_with_script_in_its_name_is_escaped_in_the_report(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m"
    for loss in ("hard", "logits"):
        student(tmp_path, 0, 0.6, loss=loss, task=hostile)
    page = report.write(tmp_path).read_text(encoding="utf8")
    assert "Distillation or augmentation?" in page
    assert "<script" not in page and "\x1b" not in page


def test_without_raw_logits_there_is_no_such_section(folder: Path, tmp_path: Path) -> None:
    """A committed folder of rows alone still has a report."""
    (tmp_path / "rows-alone").mkdir()
    lines = [(f / "row.json").read_text() for f in sorted((folder / "rows").iterdir())]
    (tmp_path / "rows-alone" / "rows.jsonl").write_text(
        "\n".join(json.dumps(json.loads(x)) for x in lines) + "\n"
    )
    page = report.write(tmp_path / "rows-alone").read_text(encoding="utf8")
    assert "Distillation or augmentation?" not in page


def test_its_picture_is_written_for_each_task_that_has_a_comparison(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    student(folder, 0, 0.6, task="alone")
    (written,) = ablation_figure.save_pictures(folder, out)
    assert written == out / "ablation.png"
    assert written.read_bytes().startswith(b"\x89PNG")
    student(folder, 0, 0.7, task="alone", loss="logits")
    assert [p.name for p in ablation_figure.save_pictures(folder, out)] == [
        "ablation-alone.png",
        "ablation-t.png",
    ]
