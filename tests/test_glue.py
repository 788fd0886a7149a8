"""GLUE from official files and from a copy of the hub's repository: labels by name, hidden labels never scored."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dipair_lib.data.files import TaskError
from dipair_lib.data.loading import load_task
from dipair_lib.data.sources import glue
from dipair_lib.data.task import Task

SENTENCES = [
    (f"a {mood} film number {i}", int(mood == "fine")) for i in range(200) for mood in ("fine", "dull")
]


def quietly(name: str | Path, **options) -> Task:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_task(name, **options)


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf8")
    return path


@pytest.fixture
def sst2(tmp_path: Path) -> Path:
    """The official folder, test labels hidden."""
    folder = tmp_path / "GLUE" / "SST-2"
    write(folder / "train.tsv", "sentence\tlabel", [f"{text}\t{label}" for text, label in SENTENCES])
    write(folder / "dev.tsv", "sentence\tlabel", ["a dev film\t1", "another dev film\t0", 'a "third\t1'])
    write(folder / "test.tsv", "index\tsentence", ["0\ta test film", "1\tanother test film"])
    return folder


def pair_row(number: int, one: str, two: str, label: int) -> str:
    return f"{number}\t{2 * number}\t{2 * number + 1}\t{one}\t{two}\t{label}"


QQP_HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"


@pytest.fixture
def qqp(tmp_path: Path) -> Path:
    folder = tmp_path / "GLUE" / "QQP"
    rows = [pair_row(i, f"question {i} ?", f"query {i} ?", i % 2) for i in range(300)]
    broken = ["7\tonly three\tcells", pair_row(901, "a question without another", "", 0)]
    write(folder / "train.tsv", QQP_HEADER, rows[:5] + broken + rows[5:])
    write(folder / "dev.tsv", QQP_HEADER, [pair_row(i, f"dev {i} ?", "what ?", i % 2) for i in range(20)])
    return folder


class TestOfficialFiles:
    def test_hidden_test_labels_make_dev_the_test_split(self, sst2: Path) -> None:
        task = load_task(sst2)
        assert (task.name, task.fields, task.classes) == (
            "glue/sst2",
            ("sentence",),
            ("negative", "positive"),
        )
        assert task.metrics == ("accuracy", "auc", "f1")
        assert task.test["sentence"].tolist() == ["a dev film", "another dev film", 'a "third']
        assert task.test["label"].tolist() == [1, 0, 1]
        assert len(task.train) + len(task.dev) == 400
        assert 30 < len(task.dev) < 70  # about 50, as the copy is small
        assert (
            "GLUE hides the labels of its test set: what is called test here is GLUE's dev set (dev)"
            in task.notes["splits"]
        )
        both = pd.concat([task.train, task.dev])
        assert dict(zip(both.sentence, both.label, strict=True)) == dict(SENTENCES)

    def test_labels_that_a_copy_has_are_used(self, sst2: Path) -> None:
        write(sst2 / "test.tsv", "sentence\tlabel", ["a test film\t0", "another test film\t1"])
        task = load_task(sst2)
        assert task.test["sentence"].tolist() == ["a test film", "another test film"]
        assert task.dev["sentence"].tolist()[0] == "a dev film"
        assert task.notes["splits"] == "as given; the test labels are those of the file"
        assert task.notes["terms"] == glue.SETS["sst2"].terms

    def test_the_name_reads_from_the_folder_that_is_named(
        self, sst2: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DIPAIR_GLUE", str(sst2.parent))
        assert load_task("glue/sst2").fingerprint == load_task(sst2).fingerprint
        with pytest.raises(TaskError, match=r"expected a folder QQP \(official\) or qqp \(of the hub\)"):
            load_task("glue/qqp")

    def test_rows_that_cannot_be_used_are_dropped_and_counted(self, qqp: Path) -> None:
        """The official train.tsv of QQP has both kinds: a wrong number of cells, an empty question."""
        with pytest.warns(UserWarning, match=r"train\.tsv: 1 malformed rows dropped \(line 7\)"):
            task = load_task(qqp)
        assert task.notes["malformed_rows_dropped"] == {"train.tsv": 1}
        assert task.notes["rows_with_an_empty_text_dropped"] == {"train": 1, "test": 0}
        assert len(task.train) + len(task.dev) == 300

    def test_qqp_reports_f1_of_duplicate_and_accuracy(self, qqp: Path) -> None:
        task = quietly(qqp)
        assert task.classes == ("not_duplicate", "duplicate")
        assert task.metrics[:2] == ("f1", "accuracy")
        assert task.test["label"].tolist() == [i % 2 for i in range(20)]

    @pytest.mark.parametrize("name", ["mnli", "mnli-mm"])
    def test_mnli_matched_and_mismatched(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        header, names = "index\tsentence1\tsentence2\tgold_label", ["neutral", "contradiction", "entailment"]
        rows = [f"{i}\tpremise {i}\thypothesis {i}\t{names[i % 3]}" for i in range(900)]
        write(tmp_path / "MNLI" / "train.tsv", header, rows)
        for kind in ("matched", "mismatched"):
            dev = [f"{i}\t{kind} {i}\tthat {i}\t{names[i % 3]}" for i in range(6)]
            write(tmp_path / "MNLI" / f"dev_{kind}.tsv", header, dev)
        monkeypatch.setenv("DIPAIR_GLUE", str(tmp_path))
        task = load_task(f"glue/{name}")
        assert task.classes == ("entailment", "neutral", "contradiction")
        assert task.test["label"].tolist() == [1, 2, 0, 1, 2, 0]
        kind = "mismatched" if name == "mnli-mm" else "matched"
        assert task.test["premise"][0] == f"{kind} 0"
        assert f"(dev_{kind})" in task.notes["splits"]
        assert task.metrics[0] == "accuracy"

    def test_what_is_wrong_is_named_by_file_row_and_column(self, sst2: Path) -> None:
        with (sst2 / "train.tsv").open("a") as file:
            file.write("a strange film\t7\n")
        with pytest.raises(
            TaskError, match=r"train\.tsv, column 'label': row 401 \(line 402\): label '7' does not occur"
        ):
            load_task(sst2)
        write(sst2 / "train.tsv", "text\tlabel", ["a film\t1"])
        with pytest.raises(TaskError, match=r"train\.tsv: no column 'sentence'"):
            load_task(sst2)
        (sst2 / "dev.tsv").unlink()
        write(sst2 / "train.tsv", "sentence\tlabel", ["a film\t1"])
        with pytest.raises(TaskError, match=r"expected dev\.tsv"):
            load_task(sst2)

    def test_its_columns_are_its_own(self, sst2: Path) -> None:
        with pytest.raises(TaskError, match="leave fields empty"):
            load_task(sst2, fields=["text"])
        with pytest.raises(TaskError, match="glue/sst2 has kind = 'classes', not 'score': leave kind empty"):
            load_task(sst2, kind="score")
        assert load_task(sst2, fields=["sentence"], kind="classes").kind == "classes"

    def test_labels_written_as_minus_one_are_hidden(self, sst2: Path) -> None:
        without_labels = load_task(sst2)
        write(sst2 / "test.tsv", "sentence\tlabel", ["a test film\t-1", "another test film\t-1"])
        assert load_task(sst2).fingerprint == without_labels.fingerprint
        write(sst2 / "test.tsv", "sentence\tlabel", ["a test film\t1", "another test film\t-1"])
        with pytest.raises(
            TaskError, match=r"test\.tsv, column 'label': row 2 \(line 3\): label None does not"
        ):
            load_task(sst2)

    def test_max_train_leaves_dev_and_test_as_they_are(self, sst2: Path) -> None:
        whole, some = load_task(sst2), load_task(sst2, max_train=100)
        assert len(some.train) == 100 and set(some.train.sentence) < set(whole.train.sentence)
        assert some.dev.equals(whole.dev) and some.test.equals(whole.test)

    def test_a_folder_called_glue_hides_no_name(self, sst2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = load_task(sst2).fingerprint
        monkeypatch.chdir(sst2.parent.rename(sst2.parents[1] / "glue").parent)
        assert load_task("glue/SST-2").fingerprint == expected
        with pytest.raises(TaskError, match="glue/cola: unknown"):
            load_task("glue/cola")

    def test_an_unknown_name_lists_those_there_are(self) -> None:
        with pytest.raises(
            TaskError, match="glue/cola: unknown; there are glue/sst2, glue/qqp, glue/mnli, glue/mnli-mm"
        ):
            load_task("glue/cola")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the hub's repository: Parquet files by subset and split, named in README.md. Its class list is in another order."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    features = datasets.Features(
        sentence=datasets.Value("string"),
        label=datasets.ClassLabel(names=["positive", "negative"]),
        idx=datasets.Value("int32"),
    )
    splits = {
        "train": [(text, 1 - label) for text, label in SENTENCES],
        "validation": [("a dev film", 0), ("another dev film", 1)],
        "test": [("a test film", -1), ("another test film", -1)],
    }
    lines = []
    for split, rows in splits.items():
        data = {
            "sentence": [r[0] for r in rows],
            "label": [r[1] for r in rows],
            "idx": list(range(len(rows))),
        }
        path = tmp_path / "copy" / "sst2" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(data, features=features).to_parquet(path)
        lines.append(f"  - split: {split}\n    path: sst2/{split}-*")
    config = "\n".join(["---", "configs:", "- config_name: sst2", "  data_files:", *lines, "---", ""])
    (tmp_path / "copy" / "README.md").write_text(config)
    return tmp_path / "copy"


def hub_mnli(words: str, names: list[str], rows: int, hide: bool = False) -> Any:
    """One split as the hub has it: class numbers by `names`, -1 where hidden."""
    import datasets

    features = datasets.Features(
        premise=datasets.Value("string"),
        hypothesis=datasets.Value("string"),
        label=datasets.ClassLabel(names=names),
    )
    data = {
        "premise": [f"{words} {i}" for i in range(rows)],
        "hypothesis": [f"so {i}" for i in range(rows)],
        "label": [-1 if hide else i % 3 for i in range(rows)],
    }
    return datasets.Dataset.from_dict(data, features=features)


class TestHub:
    def test_labels_go_by_name_not_by_number(self, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DIPAIR_GLUE", str(hub))
        task = load_task("glue/sst2")
        assert (
            dict(zip(task.train.sentence, task.train.label, strict=True)).items() <= dict(SENTENCES).items()
        )
        assert task.test["sentence"].tolist() == ["a dev film", "another dev film"]
        assert task.test["label"].tolist() == [1, 0]
        assert "GLUE's dev set (validation)" in task.notes["splits"]

    def test_mismatched_reads_its_own_splits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        names = ["contradiction", "entailment", "neutral"]
        found = {"train": hub_mnli("train", names, 900)}
        for kind in ("matched", "mismatched"):
            found[f"validation_{kind}"] = hub_mnli(kind, names, 6)
            found[f"test_{kind}"] = hub_mnli(f"test {kind}", names, 6, hide=True)
        monkeypatch.delenv("DIPAIR_GLUE", raising=False)
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: found)
        for name, kind in (("mnli", "matched"), ("mnli-mm", "mismatched")):
            task = load_task(f"glue/{name}")
            assert task.test["premise"].tolist() == [f"{kind} {i}" for i in range(6)]
            assert task.classes == ("entailment", "neutral", "contradiction")
            assert task.test["label"].tolist() == [2, 0, 1, 2, 0, 1]
            assert f"GLUE's dev set (validation_{kind})" in task.notes["splits"]

    def test_numbers_without_names_a_missing_column_and_a_strange_class(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        good = datasets.load_dataset(str(hub), "sst2")
        monkeypatch.delenv("DIPAIR_GLUE", raising=False)
        faults = {
            r"sst2/train, column 'label': expected a ClassLabel.*got int64": good.cast_column(
                "label", datasets.Value("int64")
            ),
            r"sst2/train: no column 'sentence'; there are text": good.rename_column("sentence", "text"),
            r"sst2/train, column 'label': row 2: label 'good' does not occur": good.cast_column(
                "label", datasets.ClassLabel(names=["bad", "good"])
            ),
        }
        for message, data in faults.items():
            monkeypatch.setattr(datasets, "load_dataset", lambda *_, data=data, **__: data)
            with pytest.raises(TaskError, match=message):
                load_task("glue/sst2")

    def test_a_test_set_that_is_hidden_in_part_is_not_replaced(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        data = datasets.load_dataset(str(hub), "sst2")
        data["test"] = data["test"].map(lambda row: {"label": row["idx"] - 1})
        monkeypatch.delenv("DIPAIR_GLUE", raising=False)
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
        with pytest.raises(TaskError, match=r"sst2/test, column 'label': row 1: label None does not occur"):
            load_task("glue/sst2")

    def test_the_revision_is_pinned_and_both_sources_give_the_same_data(
        self, hub: Path, sst2: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        load, asked = datasets.load_dataset, []

        def from_copy(name: str, subset: str, revision: str | None = None) -> object:
            asked.append((name, subset, revision))
            return load(str(hub), subset)

        monkeypatch.delenv("DIPAIR_GLUE", raising=False)
        monkeypatch.setattr(datasets, "load_dataset", from_copy)
        write(sst2 / "dev.tsv", "sentence\tlabel", ["a dev film\t1", "another dev film\t0"])
        task = load_task("glue/sst2")
        assert asked == [("nyu-mll/glue", "sst2", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")]
        assert task.notes["source"] == "nyu-mll/glue at bcdcba79d07b"
        assert task.fingerprint == load_task(sst2).fingerprint

    def test_out_of_reach_it_says_what_else_there_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        def unreachable(*_: object, **__: object) -> None:
            raise ConnectionError("no route")

        monkeypatch.delenv("DIPAIR_GLUE", raising=False)
        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(TaskError, match=r"cannot be read \(no route\).*set DIPAIR_GLUE to a folder"):
            load_task("glue/mnli")

    def test_without_the_extra_it_names_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DIPAIR_GLUE", raising=False)
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(TaskError, match=r"pip install 'dipair-lab\[hub\]'"):
            load_task("glue/sst2")


def test_a_folder_of_another_name_is_read_as_any_other(sst2: Path) -> None:
    own = sst2.rename(sst2.parent / "reviews")
    write(own / "test.tsv", "sentence\tlabel", ["a test film\t0", "another test film\t1"])
    assert load_task(own).classes == ("0", "1")
    assert glue.name_of_folder(own) == ""
