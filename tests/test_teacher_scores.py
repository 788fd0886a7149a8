# mypy: disable-error-code="arg-type,no-untyped-def,index"
"""Facts about a teacher that is a column of the data, and about rows of several forms of teachers: read with its rows, learned as logits
worked out by hand, clocked by the number given, and really distilled by the notebooks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_brought import checkpoint
from test_notebooks import FOLDER

from dipair_lib import inference, models, training
from dipair_lib.data.files import TaskError
from dipair_lib.data.loading import load_task
from dipair_lib.data.task import Task
from dipair_lib.evaluation import clocks, results, schema, verification
from dipair_lib.models.folders import DoesNotApply
from dipair_lib.runner import suite
from dipair_lib.system import disk

GIVEN: dict[str, Any] = {"fields": ["query", "passage"], "label": "label"}


def score_of(text: str) -> float:
    """A score that is known from its row's text: a probability, different for nearly every text."""
    return round((sum(map(ord, text)) % 97 + 1) / 99, 4)


@pytest.fixture
def scored(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs, each with the score of its passage."""
    return pairs.assign(llm=pairs["passage"].map(score_of))


def written(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def rows_of(task: Task, split: str) -> pd.DataFrame:
    return getattr(task, split).assign(score=task.teacher_scores[split][:, 0])


class TestReading:
    def test_each_row_keeps_its_own_score(self, scored: pd.DataFrame, tmp_path: Path) -> None:
        """Through shuffled splits, repeats that are dropped and a limit on the training rows."""
        repeats = pd.concat([scored, scored[:30].assign(llm=0.5)])
        path = written(repeats, tmp_path / "pairs.csv")
        with pytest.warns(UserWarning, match="duplicate rows dropped"):
            task = load_task(path, **GIVEN, teacher_score="llm", max_train=50)
        assert len(task.train) <= 50 and {s: len(v) for s, v in task.teacher_scores.items()} == {
            s: len(getattr(task, s)) for s in ("train", "dev", "test")
        }
        for split in ("train", "dev", "test"):
            rows = rows_of(task, split)
            np.testing.assert_allclose(rows["score"], rows["passage"].map(score_of), rtol=1e-6)
        assert list(task.train.columns) == ["query", "passage", "label", "group"]
        assert task.notes["teacher_score"] == ["llm"]

    def test_the_data_are_the_same_and_the_run_is_another(self, scored: pd.DataFrame, tmp_path: Path) -> None:
        path = written(scored, tmp_path / "pairs.csv")
        plain, first = load_task(path, **GIVEN), load_task(path, **GIVEN, teacher_score="llm")
        scored.loc[7, "llm"] += 0.001
        other = load_task(written(scored, path), **GIVEN, teacher_score="llm")
        assert plain.fingerprint == first.fingerprint == other.fingerprint
        assert len({plain.identity, first.identity, other.identity}) == 3
        assert plain.identity == plain.fingerprint

    @pytest.mark.parametrize("bad", ["", "high", "nan", "inf", "1e39"])
    def test_a_score_that_is_no_number_is_named(self, bad: str, scored: pd.DataFrame, tmp_path: Path) -> None:
        scored = scored.astype({"llm": object})
        scored.loc[4, "llm"] = bad
        path = written(scored, tmp_path / "pairs.csv")
        with pytest.raises(TaskError, match=r"column 'llm': row 5 \(line 6\): .* is not a finite number"):
            load_task(path, **GIVEN, teacher_score="llm")

    def test_it_is_no_label_and_no_text(self, scored: pd.DataFrame, tmp_path: Path) -> None:
        frame = scored.rename(columns={"label": "relevance", "llm": "score"}).drop(columns="group")
        path = written(frame, tmp_path / "pairs.csv")
        with pytest.raises(TaskError, match="several columns may be the label"):
            load_task(path)
        assert load_task(path, teacher_score="score").fields == ("query", "passage")
        with pytest.raises(TaskError, match="labels are needed too"):
            load_task(written(frame.drop(columns="relevance"), path), teacher_score="score")
        with pytest.raises(TaskError, match="'score' is given as teacher_score and as something else"):
            load_task(written(frame, path), label="score", teacher_score="score")

    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            ("p_yes, p_no, p_maybe", ["p_maybe", "p_no", "p_yes"]),  # by name, in the order of the classes
            ("a,b,c", ["a", "b", "c"]),  # none is named by a class: as given
            (["c", "b", "a"], ["c", "b", "a"]),
        ],
    )
    def test_a_column_for_each_class(
        self, columns: Any, expected: list[str], pairs: pd.DataFrame, tmp_path: Path
    ) -> None:
        random = np.random.default_rng(0)
        frame = pairs.assign(label=random.choice(["yes", "no", "maybe"], len(pairs)))
        for name in ("p_yes", "p_no", "p_maybe", "a", "b", "c"):
            frame[name] = random.normal(size=len(pairs)).round(4)
        path = written(frame, tmp_path / "pairs.csv")
        task = load_task(path, **GIVEN, teacher_score=columns)
        assert task.classes == ("maybe", "no", "yes") and task.notes["teacher_score"] == expected
        together = task.test.merge(frame, on=["query", "passage"])
        np.testing.assert_allclose(task.teacher_scores["test"], together[expected], rtol=1e-6)
        with pytest.raises(TaskError, match="some names are those of the classes maybe, no, yes"):
            load_task(path, **GIVEN, teacher_score="p_yes,p_no,a")
        with pytest.raises(TaskError, match="expected one for each of the classes maybe, no, yes, but got a"):
            load_task(path, **GIVEN, teacher_score="a")
        with pytest.raises(TaskError, match=r"no column 'p_yess'.*did you mean 'p_yes'"):
            load_task(path, **GIVEN, teacher_score="p_yess,b,c")

    @pytest.mark.parametrize("name", ["pydocs", "glue/sst2", "q2p", "p2t/esci"])
    def test_tasks_of_this_library_have_none(self, name: str, no_network: None) -> None:
        with pytest.raises(TaskError, match=f"{name} has no teacher's scores"):
            load_task(name, teacher_score="llm")


def task_with(scores: list[Any], classes: tuple[str, ...], kind: str = "classes") -> Task:
    array = np.array(scores, np.float32).reshape(len(scores), -1)
    empty = np.zeros((0, array.shape[1]), np.float32)
    frame = pd.DataFrame()
    return Task(
        "t", ("a",), kind, classes, ("auc",), frame, frame, frame, False, "f",
        {"teacher_score": [f"s{i}" for i in range(array.shape[1])]}, {"train": array, "dev": empty, "test": empty},
    )  # fmt: skip


class TestLogits:
    def test_probabilities_of_two_classes_become_log_odds(self) -> None:
        found, said = training.score_logits(task_with([0.5, 0.8, 0.2, 1.0, 0.0], ("no", "yes")))
        expected = [[0], [np.log(4)], [-np.log(4)], [np.log(99_999)], [-np.log(99_999)]]
        np.testing.assert_allclose(found["train"], expected, rtol=1e-5, atol=1e-6)
        assert "log-odds, 2 of 5 cut at 1e-05" in said

    def test_other_numbers_are_logits_as_they_are(self) -> None:
        found, said = training.score_logits(task_with([0.5, 0.8, 1.2], ("no", "yes")))
        np.testing.assert_allclose(found["train"][:, 0], [0.5, 0.8, 1.2], rtol=1e-6)
        assert "logits as they are" in said

    def test_two_columns_are_one_output(self) -> None:
        found, _ = training.score_logits(task_with([[0.25, 0.75], [0.5, 0.5]], ("no", "yes")))
        np.testing.assert_allclose(found["train"], [[np.log(3)], [0]], rtol=1e-5, atol=1e-6)
        found, said = training.score_logits(task_with([[0.25, 0.9], [2, -1]], ("no", "yes")))
        np.testing.assert_allclose(found["train"], [[0.65], [-3]], rtol=1e-5)
        assert "difference of two logits" in said

    def test_three_classes(self) -> None:
        p = np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
        found, said = training.score_logits(task_with(p.tolist(), ("a", "b", "c")))
        softmax = np.exp(found["train"]) / np.exp(found["train"]).sum(1, keepdims=True)
        np.testing.assert_allclose(softmax, p, rtol=1e-5)
        assert "logarithms" in said
        found, _ = training.score_logits(task_with([[0.2, 0.3, 0.9]], ("a", "b", "c")))
        np.testing.assert_allclose(found["train"], [[0.2, 0.3, 0.9]], rtol=1e-6)

    def test_scores_of_scores_stay(self) -> None:
        found, _ = training.score_logits(task_with([0.1, 0.9], (), "score"))
        np.testing.assert_allclose(found["train"], [[0.1], [0.9]], rtol=1e-6)


def teacher(model: str, kind: str | None, seed: int, second: int, run: str = "") -> schema.Result:
    run_id = f"01_teacher-{run or model.replace(' ', '')}.teacher"
    return schema.Result(
        run_id=run_id, created_utc=f"2026-01-01T00:00:{second:02d}+00:00", notebook="01_teacher", suite="s", task="t", split="test",
        data_sha256="d" * 64, model=model, family="scores" if kind == "scores" else "cross-encoder", metric="auc", teacher_run=run_id,
        teacher_kind=kind, seed=seed,
    )  # fmt: skip


class TestSeveralForms:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = [
            teacher("trained", None, 1, 0), teacher("trained again", "trained", 1, 9), teacher("one", "brought", 0, 3),
            teacher("two", "brought", 0, 5), teacher("llm", "scores", 0, 4), teacher("late", "scores", 2, 1),
        ]  # fmt: skip
        for row in rows:
            at = results.row_folder(tmp_path, row.run_id)
            at.mkdir(parents=True)
            (at / "row.json").write_text(row.to_json())
        return tmp_path

    def test_every_run_of_those_brought_along_is_one(self, folder: Path) -> None:
        found = results.find_teachers(folder, "d" * 64, 5)
        assert [row.model for row in found] == ["two", "llm", "one", "trained again", "late"]
        with pytest.raises(disk.ResultError, match="expected 1 to 5"):
            results.find_teachers(folder, "d" * 64, 6)

    @pytest.mark.parametrize("asked", [{"pool": 10}, {"unlabelled": "more.csv"}, {"augment": "all"}])
    def test_a_column_scores_no_further_rows(self, asked: dict[str, Any]) -> None:
        rows = [teacher("trained", None, 0, 0), teacher("llm", "scores", 1, 0)]
        with pytest.raises(DoesNotApply, match=f"^{next(iter(asked))}: llm has no model"):
            training.require_model(rows, asked)
        training.require_model([teacher("one", "brought", 0, 0)], asked)
        training.require_model(rows, {"pool": 0, "unlabelled": "", "augment": "none"})

    @pytest.mark.parametrize("kind", ["brought", "scores"])
    def test_only_a_teacher_trained_here_is_started_from(self, kind: str) -> None:
        asked = {"start": "teacher"}
        with pytest.raises(DoesNotApply, match=r"^start: other was not trained here"):
            training.require_model([teacher("other", kind, 0, 0)], asked)
        training.require_model([teacher("own", "trained", 0, 0)], asked)

    def test_the_clock_that_is_given(self) -> None:
        assert clocks.given(25) == {
            "teacher_s_per_pair": 0.04, "teacher_fastest_s_per_pair": 0.04, "teacher_fastest_dtype": "given",
        }  # fmt: skip
        assert clocks.given(0) == {}
        with pytest.raises(ValueError, match="teacher_pairs_per_s: expected a positive number"):
            clocks.given(-1)


SUITE = """
name: forms
defaults: {{task: {task}, fields: [query, passage], label: label, teacher_score: llm, backbone: {backbone}, clock: none, keep: [4],
  projection: [16], cosine_pairs: 0, stage1_epochs: 1.0}}
stages:
  - required: true
    runs:
{teachers}
  - runs:
{students}
  - runs:
      - {{notebook: 04_tradeoff, parameters: {{clock: all}}}}
"""


def run_forms(
    tmp_path: Path, scored: pd.DataFrame, backbone: str, teachers: list[Any], students: list[Any]
) -> dict[str, schema.Result]:
    """A suite over teachers and students, run and verified; its rows by name."""
    many = pd.concat([scored.assign(query=scored["query"] + f" {word}") for word in ("red", "old")])
    many["llm"] = 0.3 + 0.4 * many["label"] + 0.2 * many["llm"]
    task = written(many[["query", "passage", "label", "llm"]], tmp_path / "pairs.csv")
    lists = [
        "\n".join(f"      - {json.dumps({'notebook': n, **p})}" for n, p in runs)
        for runs in (teachers, students)
    ]
    (tmp_path / "forms.yaml").write_text(
        SUITE.format(task=task, backbone=backbone, teachers=lists[0], students=lists[1])
    )
    out = tmp_path / "mine"
    status = suite.run_suite(
        tmp_path / "forms.yaml", jobs=2, out=out, notebooks_dir=FOLDER, stream=io.StringIO()
    )
    assert status == 0, [p.name for p in (out / "notebooks").glob("*.failed.ipynb")]
    assert verification.verify(out) == []
    assert (out / "report.html").exists()
    return {row.model: row for row in results.load_results(out)}


class TestNotebooks:
    """01_teacher with what a person already has, and its students, really executed."""

    def test_a_column_of_scores_and_a_checkpoint_averaged(
        self, scored: pd.DataFrame, tiny_backbone: str, tmp_path: Path
    ) -> None:
        own = checkpoint("bert", 1, tmp_path / "my-ce", tiny_backbone)
        rows = run_forms(
            tmp_path, scored, tiny_backbone,
            [("01_teacher", {"parameters": {"teacher_pairs_per_s": 25.0}}),
             ("01_teacher", {"parameters": {"teacher": str(own), "seed": 1}})],
            [("03_dipair", {"parameters": {"teachers": 2}, "grid": {"pool": [0, 64]}}),
             ("01_teacher", {"parameters": {"role": "student", "epochs": 1.0}})],
        )  # fmt: skip
        scores, brought = rows["teacher scores llm"], rows["teacher my-ce"]
        assert (scores.family, scores.teacher_kind, scores.quality) == ("scores", "scores", 1.0)
        assert scores.training_notes and "probabilities" in scores.training_notes
        assert (brought.family, brought.teacher_kind, brought.backbone) == (
            "cross-encoder",
            "brought",
            "my-ce",
        )
        assert brought.combine_s_per_pair is not None and brought.steps == 0
        out = tmp_path / "mine"
        logits = {row.run_id: training.load_teacher_logits(training.teacher_file(out, row.run_id), scores.data_sha256)
                  for row in (scores, brought)}  # fmt: skip
        mean = training.taught_logits(out, [scores, brought], scores.data_sha256)
        np.testing.assert_allclose(mean["train"], sum(x["train"] for x in logits.values()) / 2, atol=1e-6)
        students = [row for row in rows.values() if row.family == "dipair"]
        assert len(students) == 1, "further pairs cannot be scored: that run is left out, the other not"
        cheaper = next(row for row in rows.values() if row.model.startswith("cross-encoder "))
        for student in (*students, cheaper):
            assert student.teacher_run == scores.run_id
            assert student.teacher_s_per_pair == student.teacher_fastest_s_per_pair == 0.04
            assert student.teacher_fastest_dtype == "given"

    def test_a_checkpoint_as_it_is_and_fine_tuned_scores_further_pairs(
        self, scored: pd.DataFrame, tiny_backbone: str, tmp_path: Path
    ) -> None:
        own = checkpoint("bert", 2, tmp_path / "my-ce", tiny_backbone)
        rows = run_forms(
            tmp_path, scored, tiny_backbone,
            [("01_teacher", {"parameters": {"teacher": str(own)}}),
             ("01_teacher", {"parameters": {"teacher": str(own), "teacher_epochs": 1.0, "seed": 1, "device": "cpu"}})],
            [("03_dipair", {"parameters": {"teachers": 2, "pool": 64}})],
        )  # fmt: skip
        as_it_is, tuned = rows["teacher my-ce"], rows["teacher my-ce, fine-tuned"]
        assert (as_it_is.steps, as_it_is.loss) == (0, None)
        assert tuned.steps and tuned.loss == "hard" and tuned.learning_rate
        student = next(row for row in rows.values() if row.family == "dipair")
        assert student.n_synthetic == 64 and student.teacher_run == as_it_is.run_id
        assert student.teacher_s_per_pair == as_it_is.combine_s_per_pair
        task = load_task(tmp_path / "pairs.csv", **GIVEN)
        plain = models.bring(str(own), 2, task.classes)
        texts = training.read_rows(task, task.test, plain.tokenizer, plain.read_lengths).texts
        stored = results.load_logits(tmp_path / "mine", as_it_is.run_id).logits
        np.testing.assert_allclose(stored, inference.predict(plain, texts, device="cpu"), atol=1e-4)
