"""Which files of a folder are train, dev and test, read in order; what leaves a doubt is asked, never guessed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dipair_lib.data import splits
from dipair_lib.data.files import TaskError
from dipair_lib.data.loading import load_task
from dipair_lib.data.task import Task


def rows(n: int, tag: str) -> pd.DataFrame:
    return pd.DataFrame(
        [(f"question {tag} {i // 2}", f"answer {tag} {i}", i % 2) for i in range(n)],
        columns=["query", "text", "label"],
    )


def put(path: Path, n: int = 20, tag: str = "") -> None:
    """A file of distinct rows in the format its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame, name = rows(n, tag or path.as_posix()), path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif name.endswith((".jsonl", ".json", ".ndjson")):
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if name.endswith((".tsv", ".txt")) else ",")


def load(path: Path, **given: Any) -> tuple[Task, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = load_task(path, **given)
    return task, "; ".join(str(one.message) for one in caught)


class TestNames:
    @pytest.mark.parametrize(
        "names",
        [
            (
                "data/train-00000-of-00001.parquet",
                "data/validation-00000-of-00001.parquet",
                "data/test-00000-of-00001.parquet",
            ),
            ("snli_1.0_train.jsonl", "snli_1.0_dev.jsonl", "snli_1.0_test.jsonl"),
            ("my-train.csv", "my-valid.csv", "my-test.csv"),
            ("train.txt", "valid.txt", "test.txt"),
            ("SICK_train.txt", "SICK_trial.txt", "SICK_test_annotated.txt"),
            ("Train.csv", "DEV.csv", "Test.CSV"),
            ("train.ndjson", "val.ndjson.gz", "test.json"),
            ("default/train.parquet", "default/dev.parquet", "default/test.parquet"),
            ("train/0.parquet", "validation/0.parquet", "test/0.parquet"),
            ("trainset.tsv", "devset.tsv", "testset.tsv"),
            ("train.parquet/part-0.parquet", "dev.parquet/part-0.parquet", "test.parquet/part-0.parquet"),
            ("my_train.csv/part-0.csv", "my_dev.csv/part-0.csv", "my_test.csv/part-0.csv"),
            (
                "data/train-00000-of-00001-1cf07042ea29aad8.parquet",
                "data/validation-00000-of-00001-00d1c6a5a12b3c4d.parquet",
                "data/test-00000-of-00001-a0b1c2d3e4f50617.parquet",
            ),
        ],
    )
    def test_one_file_for_each(self, names: tuple[str, ...], tmp_path: Path) -> None:
        for name, n in zip(names, (30, 20, 10), strict=True):
            put(tmp_path / name, n)
        others = (
            "README.md",
            "dataset_infos.json",
            "LICENSE.txt",
            "train_config.json",
            "test_results.json",
            ".gitattributes",
            "train.log",
        )
        for other in others:
            (tmp_path / other).write_text("{}")
        task, _ = load(tmp_path)
        assert (
            task.notes["rows"] == {"train": 30, "dev": 20, "test": 10} and task.notes["splits"] == "as given"
        )
        assert "README.md" in task.notes["ignored_files"]

    def test_shards_are_read_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        for i in range(11):
            put(tmp_path / f"train_{i}.jsonl", 4, f"part {i}")
        for split in ("dev", "test"):
            put(tmp_path / f"{split}.jsonl")
        task, said = load(tmp_path)
        assert task.train["text"].tolist() == [f"answer part {i} {j}" for i in range(11) for j in range(4)]
        assert "11 files read as one, train_0.jsonl to train_10.jsonl" in said and any(
            "11 files" in one for one in task.notes["reading"]
        )

    def test_a_shard_that_is_missing_is_named(self, tmp_path: Path) -> None:
        for name in (
            "train-00000-of-00003.parquet",
            "train-00002-of-00003.parquet",
            "test-00000-of-00001.parquet",
        ):
            put(tmp_path / "data" / name)
        with pytest.raises(
            TaskError, match=r"of 3 parts like train-00000-of-00003.parquet, number 1 is missing"
        ):
            load_task(tmp_path)

    @pytest.mark.parametrize(
        "names",
        [
            ("train_small.csv", "train_large.csv"),
            ("train_1k.csv", "train_10k.csv"),
            ("train_2016.csv", "train_2017.csv"),
            ("train_v1.0.csv", "train_v1.1.csv"),
            ("train_10.csv", "train_100.csv"),
            ("a_train.csv", "b_train.csv"),
        ],
    )
    def test_other_names_are_asked(self, names: tuple[str, str], tmp_path: Path) -> None:
        for name in (*names, "dev.csv", "test.csv"):
            put(tmp_path / name)
        with pytest.raises(
            TaskError, match=f"several files may be train: .*{names[0]}.*name the one that is meant train.csv"
        ):
            load_task(tmp_path)

    def test_a_name_of_two_splits_is_asked_unless_both_are_there(self, tmp_path: Path) -> None:
        for name in ("my_train.csv", "my_train_dev.csv", "my_test.csv"):
            put(tmp_path / name)
        with pytest.raises(TaskError, match=r"my_train_dev.csv is named by two splits"):
            load_task(tmp_path)
        put(tmp_path / "dev.csv")
        assert "my_train_dev.csv" in load(tmp_path)[0].notes["ignored_files"]

    def test_the_split_s_very_name_comes_first(self, tmp_path: Path) -> None:
        for name in ("train.tsv", "train_old.tsv", "dev.tsv", "test.tsv", "test.txt"):
            put(tmp_path / name)
        assert load(tmp_path)[0].notes["ignored_files"] == ["test.txt", "train_old.tsv"]

    def test_one_data_set_in_two_formats_is_read_once(self, tmp_path: Path) -> None:
        for split in ("train", "dev", "test"):
            for suffix in ("txt", "jsonl"):
                put(tmp_path / f"snli_1.0_{split}.{suffix}", 20, split)
        found = splits.find(tmp_path)
        assert [path.name for path in found.files["train"]] == ["snli_1.0_train.jsonl"] and len(
            found.ignored
        ) == 3

    def test_two_folders_of_splits_are_asked(self, tmp_path: Path) -> None:
        for folder in ("v1.1", "v2.1"):
            for split in ("train", "dev", "test"):
                put(tmp_path / folder / f"{split}.csv")
        with pytest.raises(
            TaskError, match=r"2 folders in it have train files; .*-p task=.*/v1.1 or -p task=.*/v2.1"
        ):
            load_task(tmp_path)


class TestWithoutSplits:
    def test_train_alone_and_parts_alone_are_cut_as_one_file(self, tmp_path: Path) -> None:
        put(tmp_path / "whole.csv", 200, "x")
        expected = load(tmp_path / "whole.csv")[0].fingerprint
        frame = rows(200, "x")
        for kind in ("train", "part"):
            folder = tmp_path / kind
            folder.mkdir()
            (
                frame[:90].to_csv(folder / f"{kind}-0.csv", index=False),
                frame[90:].to_csv(folder / f"{kind}-1.csv", index=False),
            )
            (folder / "README.md").write_text("about")
            assert load(folder)[0].fingerprint == expected

    def test_nothing_that_tells_splits(self, tmp_path: Path) -> None:
        for name in ("a.csv", "b.csv"):
            put(tmp_path / name)
        with pytest.raises(
            TaskError,
            match=r"no train file .*there is a.csv, b.csv. To have one file split, give its own path",
        ):
            load_task(tmp_path)

    def test_hidden_test_labels_make_dev_the_test_split(self, tmp_path: Path) -> None:
        for split, n in (("train", 100), ("dev", 40), ("test", 30)):
            put(tmp_path / f"{split}.csv", n, split)
        test = pd.read_csv(tmp_path / "test.csv")
        expected = set(rows(40, "dev")["text"])
        for hidden in (test.assign(label=-1), test.assign(label=None), test.drop(columns="label")):
            hidden.to_csv(tmp_path / "test.csv", index=False)
            task, said = load(tmp_path)
            assert set(task.test["text"]) == expected and len(task.train) + len(task.dev) == 100
            assert (
                task.classes == ("0", "1") and "test split's labels are hidden" in said and "dev.csv" in said
            )
        (tmp_path / "dev.csv").unlink()
        task, said = load(tmp_path)
        assert sum(task.notes["rows"].values()) == 100 and "train is cut into train, dev and test" in said

    def test_a_column_that_names_splits_is_said(self, tmp_path: Path) -> None:
        frame = rows(90, "x").assign(SemEval_set=["TRAIN", "TRIAL", "TEST"] * 30)
        frame.to_csv(tmp_path / "p.csv", index=False)
        assert (
            "column 'SemEval_set' seems to name splits"
            in load(tmp_path / "p.csv", fields=["query", "text"])[1]
        )


class TestCut:
    def test_texts_that_differ_in_case_and_composition_go_together(self) -> None:
        names = [f"Caf\u00e9 number {i}" for i in range(40)]
        others = [name.replace("\u00e9", "e\u0301").upper() + " " for name in names]
        frame = pd.DataFrame({"text": names + others})
        parts = splits.cut(frame, "text", {"train": 0.5, "test": 0.5}, 0, alike=True)
        keys = [set(part["text"].map(splits.near)) for part in parts.values()]
        assert not keys[0] & keys[1] and len(keys[0] | keys[1]) == 40
        apart = splits.cut(frame, "text", {"train": 0.5, "test": 0.5}, 0)
        assert set(apart["train"]["text"].map(splits.near)) & set(apart["test"]["text"].map(splits.near))

    def test_others_stay_where_they_were(self) -> None:
        frame = pd.DataFrame({"text": [f"Text Number {i}" for i in range(100)]})
        parts = [
            splits.cut(frame, "text", {"train": 0.5, "test": 0.5}, 0, alike)["train"]
            for alike in (False, True)
        ]
        assert parts[0].equals(parts[1])
