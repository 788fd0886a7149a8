"""Columns told by name, labels as people write them, and what splits must not share: the right value of each kind, said."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dipair_lib.data import labels
from dipair_lib.data.files import TaskError
from dipair_lib.data.loading import load_task
from dipair_lib.data.task import Task


def frame(values: list[Any], **more: Any) -> pd.DataFrame:
    n = len(values)
    return pd.DataFrame(
        {
            "query": [f"question {i}" for i in range(n)],
            "text": [f"answer {i}" for i in range(n)],
            "label": values,
            **more,
        }
    )


def load(data: pd.DataFrame | dict[str, pd.DataFrame], place: Path, **given: Any) -> tuple[Task, str]:
    """The task of a file, or of a file for each split, and all that was said."""
    path = place / "p.csv"
    if isinstance(data, pd.DataFrame):
        data.to_csv(path, index=False)
    else:
        path = place
        for split, rows in data.items():
            rows.to_csv(place / f"{split}.csv", index=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = load_task(path, **given)
    assert all(json.loads(json.dumps(task.notes)))
    return task, "; ".join(str(one.message) for one in caught)


def every(task: Task) -> pd.DataFrame:
    return pd.concat([task.train, task.dev, task.test])


class TestMissing:
    @pytest.mark.parametrize("sign", ["-", "?", "NA", "None", "#N/A", "", "NaN", "null"])
    def test_rare_signs_are_dropped_counted_and_said(self, sign: str, tmp_path: Path) -> None:
        task, said = load(frame(["no", "yes"] * 49 + [sign, sign]), tmp_path)
        assert task.classes == ("no", "yes") and sum(task.notes["rows"].values()) == 98
        assert (
            sum(task.notes["dropped"]["missing_label"].values()) == 2
            and "2 missing label rows dropped" in said
        )

    def test_they_go_from_the_split_they_stand_in(self, tmp_path: Path) -> None:
        data = frame(["no", "yes"] * 60)
        parts = {
            "train": data[:80],
            "dev": data[80:100],
            "test": data[100:].assign(label=["-"] + ["no", "yes"] * 9 + ["no"]),
        }
        task, _ = load(parts, tmp_path)
        assert task.notes["dropped"]["missing_label"] == {"train": 0, "dev": 0, "test": 1}
        assert "question 100" not in set(task.test["query"])

    def test_many_are_asked_and_kept_by_name(self, tmp_path: Path) -> None:
        data = frame(["no", "yes", "NA"] * 33)
        with pytest.raises(
            TaskError,
            match=r"label 'NA' \(33 rows, 33 %\) may mean .*-p kind=classes\) to take it as a class",
        ):
            load(data, tmp_path)
        assert load(data, tmp_path, kind="classes")[0].classes == ("NA", "no", "yes")
        with pytest.raises(TaskError, match=r"row 5 \(line 6\): no label; row 10 .*20 such rows in all"):
            load(frame(["a", "b", "a", "b", ""] * 20), tmp_path)

    @pytest.mark.parametrize("sign", ["-", "?", "NA", ""])
    def test_among_scores(self, sign: str, tmp_path: Path) -> None:
        task, _ = load(frame([0.5, 1.25] * 49 + [sign]), tmp_path)
        assert task.kind == "score" and set(every(task)["label"]) == {0.5, 1.25}

    def test_a_rare_minus_one_beside_numbers_from_0_on(self, tmp_path: Path) -> None:
        task, said = load(frame([0, 1, 2] * 40 + [-1] * 3), tmp_path)
        assert task.classes == ("0", "1", "2") and "label '-1' (3 rows, 2.4 %) taken as missing" in said
        assert load(frame([0, 1, 2] * 40 + [-1] * 3), tmp_path, kind="classes")[0].classes == (
            "-1",
            "0",
            "1",
            "2",
        )
        assert load(frame([0.5, 1.5] * 100 + [-1.0]), tmp_path)[0].train["label"].min() == 0.5

    @pytest.mark.parametrize(("values", "kind"), [([0, 1, 2, -1], "classes"), ([0.5, 4.25, -1.0], "score")])
    def test_a_frequent_minus_one_beside_more_is_asked(
        self, values: list[float], kind: str, tmp_path: Path
    ) -> None:
        with pytest.raises(
            TaskError, match=rf"label '-1.*may mean that there is none: .*-p kind={kind}\) to take it"
        ):
            load(frame(values * 40), tmp_path)
        assert load(frame(values * 40), tmp_path, kind=kind)[0].kind == kind

    def test_a_frequent_minus_one_is_a_class_and_said(self, tmp_path: Path) -> None:
        task, said = load(frame([-1, 0, 1] * 40), tmp_path)
        assert task.classes == ("-1", "0", "1") and "'-1' (40 rows, 33 %) taken as a class of its own" in said
        task, said = load(frame([-1, 1] * 100), tmp_path)
        assert task.classes == ("-1", "1") and not said


class TestValues:
    def test_spellings_of_one_class_are_one(self, tmp_path: Path) -> None:
        task, said = load(frame(["Yes", "no"] * 100 + ["yes", "YES ", "No"]), tmp_path)
        assert task.classes == ("Yes", "no") and task.notes["labels"]["train"].keys() == {"Yes", "no"}
        assert "labels 'Yes', 'yes', 'YES' are one class, 'Yes'" in said
        data = frame(["TRUE", "FALSE"] * 60)
        parts = {
            "train": data[:80],
            "dev": data[80:100].replace({"TRUE": "True"}),
            "test": data[100:].replace({"FALSE": "False"}),
        }
        assert load(parts, tmp_path)[0].classes == ("FALSE", "TRUE")

    def test_decimal_commas_are_scores(self, tmp_path: Path) -> None:
        task, said = load(frame(["0,25", "0,5", "1", "0,75"] * 20), tmp_path)
        assert task.kind == "score" and set(every(task)["label"]) == {0.25, 0.5, 1.0, 0.75}
        assert "decimal comma in 60 cells" in said
        task, _ = load(frame(["87.5 %", "12,5%", "25%"] * 40), tmp_path)
        assert task.kind == "score" and set(every(task)["label"]) == {0.875, 0.125, 0.25}
        assert load(frame(["\u22121", "1"] * 100), tmp_path)[0].classes == ("-1", "1")
        with pytest.raises(TaskError, match=r"'1,250' may be 1250 or 1\.250"):
            load(frame(["1,250", "2,500"] * 20), tmp_path)

    def test_decimal_commas_of_a_teacher(self, tmp_path: Path) -> None:
        data = frame([0, 1] * 100, llm=["0,25", "0,75"] * 100)
        task, _ = load(data, tmp_path, fields=["query", "text"], teacher_score="llm")
        assert task.teacher_scores["train"][:, 0].tolist() == [
            0.75 if y else 0.25 for y in task.train["label"]
        ]

    def test_scores_stay_with_their_rows_where_others_are_dropped(self, tmp_path: Path) -> None:
        data = frame(["no", "yes"] * 100 + ["-"], llm=[i / 100 for i in range(200)] + ["none"])
        data.loc[7, "text"] = "\u200b"
        data["llm"] = data["llm"].astype(object)
        data.loc[7, "llm"] = "none"
        task, _ = load(data, tmp_path, fields=["query", "text"], teacher_score="llm")
        number = task.train["query"].str.removeprefix("question ").astype(int)
        assert task.teacher_scores["train"][:, 0] == pytest.approx(number / 100) and len(every(task)) == 199

    def test_free_text_as_classes_is_asked(self, tmp_path: Path) -> None:
        data = frame([f"an answer of its own, {i}" for i in range(400)])
        with pytest.raises(
            TaskError, match=r"400 different labels in 400 rows .*may be free text; name another column"
        ):
            load(data, tmp_path)
        intents = frame([f"intent_{'abcdefghij'[i % 10]}{'xyz'[i % 3]}" for i in range(600)])
        assert len(load(intents, tmp_path)[0].classes) == 30

    def test_empty_texts_are_dropped_up_to_a_share(self, tmp_path: Path) -> None:
        data = frame([0, 1] * 100)
        data.loc[3, "query"], data.loc[50, "text"], data.loc[51, "text"] = None, None, " \u200b"
        task, said = load(data, tmp_path)
        assert len(every(task)) == 197 and "3 empty text rows dropped" in said
        data.loc[:9, "text"] = None
        with pytest.raises(
            TaskError, match=r"row 1 \(line 2\): empty; .*fewer than 5 % are left out, here it is 12 of 200"
        ):
            load(data, tmp_path)


class TestColumns:
    @pytest.mark.parametrize(
        ("names", "label", "fields"),
        [
            ("id qid1 qid2 question1 question2 is_duplicate", "is_duplicate", ("question1", "question2")),
            ("Quality,#1 ID,#2 ID,#1 String,#2 String", "Quality", ("#1 String", "#2 String")),
            ("query passage gold_label", "gold_label", ("query", "passage")),
            (
                "ltable_id rtable_id left_title right_title is_match",
                "is_match",
                ("left_title", "right_title"),
            ),
            ("sentence1 sentence2 relatedness_score", "relatedness_score", ("sentence1", "sentence2")),
            ("text y", "y", ("text",)),
            ("text label label_text", "label", ("text",)),
            (
                "url sentence1 sentence1_parse sentence2 sentence2_parse label",
                "label",
                ("sentence1", "sentence2"),
            ),
        ],
    )
    def test_guesses_where_one_candidate_fits(
        self, names: str, label: str, fields: tuple[str, ...], tmp_path: Path
    ) -> None:
        columns = names.split("," if "," in names else " ")
        values = {
            name: [
                i % 2 if name == label else i if "id" in name.lower() else f"{name} of {i}" for i in range(60)
            ]
            for name in columns
        }
        values |= {
            name: ["yes" if i % 2 else "no" for i in range(60)] for name in columns if name == "label_text"
        }
        task, said = load(pd.DataFrame(values), tmp_path)
        assert task.fields == fields and task.notes["columns"]["label"] == label
        assert (f"column {label!r} taken as label" in said) == (
            label not in labels.__dict__ and label not in ("label", "is_duplicate")
        )

    def test_two_candidates_are_asked_with_what_to_paste(self, tmp_path: Path) -> None:
        data = pd.DataFrame({
            "pair_ID": range(60), "sentence_A": [f"a {i}" for i in range(60)], "sentence_B": [f"b {i}" for i in range(60)],
            "relatedness_score": [1.5, 2.5] * 30, "entailment_judgment": ["NEUTRAL", "ENTAILMENT"] * 30,
        })  # fmt: skip
        with pytest.raises(TaskError, match="-p label=relatedness_score, -p label=entailment_judgment"):
            load(data, tmp_path)
        assert load(data, tmp_path, label="relatedness_score")[0].fields == ("sentence_A", "sentence_B")

    def test_names_that_yaml_takes_for_other_things(self, tmp_path: Path) -> None:
        from dipair_lib.runner import suite_file as suite

        def parse(text: str) -> Any:
            return suite.names_from_text(text, [])

        assert (
            parse("[on,off]") == ["on", "off"]
            and parse("query, text") == ["query", "text"]
            and parse("[]") == []
        )
        assert parse("[#1 String,#2 String]") == ["#1 String", "#2 String"] and parse("[title: en,b]") == [
            "title: en",
            "b",
        ]
        assert parse("""["a, b", 'it''s', 1]""") == ["a, b", "it's", "1"]
        data = frame([0, 1] * 100).rename(columns={"query": "on", "text": "off"})
        assert load(data, tmp_path, fields=parse("[on,off]"))[0].fields == ("on", "off")
        with pytest.raises(TaskError, match="True is no name of a column; put the name in quotes"):
            load(data, tmp_path, fields=[True, False])

    def test_a_folder_needs_no_slash_and_a_built_in_name_stays_one(self, tmp_path: Path) -> None:
        from dipair_lib.runner import suite_file as suite

        for name in ("mine", "pydocs"):
            (tmp_path / name).mkdir()
        assert suite.own_path("mine", tmp_path, tmp_path / "notebooks", "task") == "../mine"
        assert suite.own_path("pydocs", tmp_path, tmp_path / "notebooks", "task") == "pydocs"


class TestAcrossSplits:
    def parts(
        self, train: list[tuple[str, str, int]], test: list[tuple[str, str, int]], names: tuple[str, str]
    ) -> dict[str, pd.DataFrame]:
        def table(rows: list[tuple[str, str, int]], tag: str) -> pd.DataFrame:
            return pd.DataFrame(
                [*rows, (f"{tag} a", f"{tag} b", 0), (f"{tag} c", f"{tag} d", 1)], columns=[*names, "label"]
            )

        return {"train": table(train, "train"), "dev": table([], "dev"), "test": table(test, "test")}

    @pytest.mark.parametrize("copy", ["CAF\u00c9 One", "cafe\u0301 one", " caf\u00e9  one"])
    def test_near_copies_are_dropped_from_the_earlier_split(self, copy: str, tmp_path: Path) -> None:
        parts = self.parts([(copy, "x", 1), ("b", "y", 0)], [("Caf\u00e9 one", "X", 1)], ("query", "text"))
        task, _ = load(parts, tmp_path)
        assert (
            len(task.train) == 3
            and len(task.test) == 3
            and sum(task.notes["dropped"]["near_copy_in_later_split"].values()) == 1
        )

    def test_within_a_split_case_makes_another_row(self, tmp_path: Path) -> None:
        task, _ = load(self.parts([("A", "x", 1), ("a", "x", 0)], [], ("query", "text")), tmp_path)
        assert len(task.train) == 4

    def test_mirrors_go_where_the_task_is_symmetrical(self, tmp_path: Path) -> None:
        train, test = [("one", "two", 1), ("three", "four", 0)], [("Two", "one", 1), ("four", "three", 0)]
        task, said = load(self.parts(train, test, ("question1", "question2")), tmp_path)
        assert (
            task.notes["dropped"]["mirror_in_later_split"] == {"train": 2, "dev": 0, "test": 0}
            and len(task.train) == 2
        )
        task, said = load(self.parts(train, test, ("query", "passage")), tmp_path)
        assert (
            len(task.train) == 4
            and task.notes["mirrors_across_splits"] == 2
            and "2 pairs that a later split has turned round" in said
        )
        against = [(a, b, 1 - y) for a, b, y in test]
        assert len(load(self.parts(train, against, ("sentence1", "sentence2")), tmp_path)[0].train) == 4

    def test_many_mirrors_that_agree_tell_it_too(self, tmp_path: Path) -> None:
        train = [(f"a{i}", f"b{i}", i % 2) for i in range(12)]
        task, _ = load(self.parts(train, [(b, a, y) for a, b, y in train], ("query", "passage")), tmp_path)
        assert len(task.train) == 2

    def test_texts_of_test_that_train_has_are_counted(self, tmp_path: Path) -> None:
        parts = self.parts(
            [("q1", "Shared text", 1)],
            [("q2", "shared text", 1), ("q3", "shared  text", 0)],
            ("query", "text"),
        )
        task, said = load(parts, tmp_path)
        assert (
            task.notes["test_texts_also_in_train_or_dev"] == {"text": 2}
            and "2 test rows have a text of 'text'" in said
        )

    def test_queries_that_differ_in_case_are_one_group(self, tmp_path: Path) -> None:
        data = pd.DataFrame(
            [(("Q %d" if j else "q %d") % i, f"t {i} {j}", j) for i in range(50) for j in range(2)],
            columns=["query", "text", "label"],
        )
        task, _ = load(data, tmp_path, group="query")
        assert every(task)["group"].nunique() == 50 and not set(task.train["group"]) & set(task.test["group"])
        ids = data.assign(
            qid=[f"{'aA'[j]}{i}" for i in range(50) for j in range(2)], query=data["text"] + "?"
        )
        assert (
            every(load(ids, tmp_path, fields=["query", "text"], group="qid", kind="score")[0])[
                "group"
            ].nunique()
            == 100
        )
