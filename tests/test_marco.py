"""Query-passage match: exact pairs from official files, a copy of the hub's repository, the hub and `ir_datasets`."""

from __future__ import annotations

import gzip
import json
import sys
import types
import warnings
from collections import Counter, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dipair_lib.data.files import TaskError
from dipair_lib.data.loading import load_task
from dipair_lib.data.sources import marco, marco_files
from dipair_lib.data.sources.marco import Query, Settings
from dipair_lib.data.task import Task

EVERY = Settings((0.8, 0.1, 0.1), 0, 10_000, 4, 2)
N = 60  # queries; query i has the passages 10 i (a match) to 10 i + 5 (retrieved)


def words(passage: int) -> str:
    return f"passage {passage} about topic {passage // 10}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPAIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIPAIR_MSMARCO", raising=False)


def write(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{row}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """The official files; query 999 has no judged passage, passage 7 is nobody's."""
    folder = tmp_path / "msmarco"
    write(folder / "collection.tsv", [f"{p}\t{words(p)}" for p in range(10 * N) if p % 10 < 8])
    write(
        folder / "queries.train.tsv",
        [f"{i}\tquestion {i} ?" for i in range(N)] + ["999\tquestion without answer ?"],
    )
    write(folder / "qrels.train.tsv", [f"{i}\t0\t{10 * i}\t1" for i in range(N)])
    triples = [f"{i}\t{10 * i}\t{10 * i + k}" for k in range(1, 6) for i in range(N)]
    write(folder / "qidpidtriples.train.full.2.tsv.gz", triples)
    return folder


def everything(task: Task) -> pd.DataFrame:
    return pd.concat([task.train, task.dev, task.test])


def topic(text: str) -> str:
    return text.split()[-1] if text.startswith("passage") else text.split()[1]


def same_topic(rows: pd.DataFrame) -> np.ndarray:
    pairs = zip(rows["query"], rows["passage"], strict=True)
    return np.array([topic(query) == topic(passage) for query, passage in pairs])


class TestPairs:
    def test_positives_then_retrieved_then_random_of_the_same_split(self) -> None:
        parts = {
            "train": [Query("1", "q1", ["p1", "p1b"], ["n1"]), Query("2", "q2", ["p2"], [])],
            "dev": [Query("3", "q3", ["p3"], ["n3"]), Query("4", "q4", ["p4"], ["n4"])],
        }
        table = marco.pairs(parts, Settings((0.8, 0.1, 0.1), 0, 10, 4, 1))
        rows = table.drop(columns="group").values.tolist()
        assert rows[:4] == [
            ["train", "q1", "p1", "yes", "positive"],
            ["train", "q1", "p1b", "yes", "positive"],
            ["train", "q1", "n1", "no", "retrieved"],
            ["train", "q1", "p2", "no", "random"],
        ]
        assert rows[4] == ["train", "q2", "p2", "yes", "positive"]
        assert rows[5][2] in ("p1", "p1b") and rows[5][4] == "random"
        assert [row[1:] for row in rows[6:]] == [
            ["q3", "p3", "yes", "positive"],
            ["q3", "n3", "no", "retrieved"],
            ["q3", "p4", "no", "random"],
            ["q4", "p4", "yes", "positive"],
            ["q4", "n4", "no", "retrieved"],
            ["q4", "p3", "no", "random"],
        ]
        assert table["group"].tolist() == ["1"] * 4 + ["2"] * 2 + ["3"] * 3 + ["4"] * 3

    def test_no_random_negative_is_a_passage_of_the_query_or_of_its_twin(self) -> None:
        queries = [
            Query("1", "same", ["a"], ["d"]),
            Query("2", "same", ["b"], []),
            Query("3", "other", ["a", "c", "d"], []),
        ]
        pool = [(query.text, passage) for query in queries for passage in query.positives]
        assert marco.random_negatives(pool, queries[0], EVERY) == ["c"]
        assert sorted(marco.random_negatives(pool, queries[2], EVERY)) == ["b"]

    def test_the_smallest_shares_are_kept_once_and_in_order(self) -> None:
        heap: list[tuple[float, str]] = []
        kept: dict[str, int] = {}
        for value, (key, share) in enumerate([("a", 0.5), ("b", 0.1), ("a", 0.5), ("c", 0.3), ("a", 0.5)]):
            marco.offer(heap, kept, key, value, share, 2)
        assert list(marco.in_order(heap, kept).items()) == [("b", 1), ("c", 3)]


class TestOfficialFiles:
    def test_every_row_is_what_the_files_say(self, official: Path) -> None:
        said: list[str] = []
        task = load_task(official, say=said.append)
        assert (task.name, task.fields, task.classes) == ("q2p", ("query", "passage"), ("no", "yes"))
        assert (task.kind, task.grouped) == ("classes", True)
        rows = everything(task)
        assert len(rows) == N * (1 + 4 + 2)
        own = rows[same_topic(rows)]
        assert len(own) == N * 5
        assert own.loc[own["label"] == 1, "passage"].tolist() == [
            words(10 * int(topic(q))) for q in own.loc[own["label"] == 1, "query"]
        ]
        retrieved = {words(10 * i + k) for i in range(N) for k in range(1, 6)}
        assert set(own.loc[own["label"] == 0, "passage"]) < retrieved
        for frame in (task.train, task.dev, task.test):
            matches = set(frame.loc[frame["label"] == 1, "passage"])
            others = frame[~same_topic(frame)]
            assert set(others["passage"]) <= matches and (others["label"] == 0).all()
            assert frame.groupby("query")["group"].nunique().eq(1).all()
        assert not set(task.train["query"]) & set(task.test["query"])
        assert task.notes["pairs"] == {"positive": N, "retrieved": 4 * N, "random": 2 * N}
        assert task.notes["counts"] == {"queries_read": N + 1, "queries_without_positive": 1}
        assert task.notes["queries_with_one_label"] == {"train": 0, "dev": 0, "test": 0}
        assert "collection.tsv" in task.notes["source"] and "qidpidtriples.train" in task.notes["source"]
        assert task.notes["terms"] == marco.TERMS
        assert any("60 of 61 queries chosen" in line for line in said)

    def test_the_collection_is_read_once_and_only_wanted_passages_are_held(
        self, official: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: Counter[str] = Counter()
        held: list[set[str]] = []
        lines, collect = marco_files.lines, marco_files.read_collection

        def counted(path: Path, tell: Any) -> Any:
            read[path.name] += 1
            return lines(path, tell)

        def watched(path: Path, wanted: set[str], *rest: Any) -> dict[str, str]:
            found = collect(path, wanted, *rest)
            held.append(set(found))
            return found

        monkeypatch.setattr(marco_files, "lines", counted)
        monkeypatch.setattr(marco_files, "read_collection", watched)
        monkeypatch.setattr(marco, "QUERIES", 30)
        task = load_task(official)
        assert read["collection.tsv"] == read["qidpidtriples.train.full.2.tsv.gz"] == 1
        assert len(held) == 1 and len(held[0]) == 30 * 5
        assert everything(task)["query"].nunique() == 30

    def test_another_order_of_the_files_gives_the_same_task_another_seed_another(
        self, official: Path
    ) -> None:
        first, other = load_task(official), load_task(official, seed=1)
        assert other.fingerprint != first.fingerprint
        assert set(other.test["query"]) != set(first.test["query"])
        assert len(load_task(official, splits=(0.5, 0.2, 0.3)).test) > len(first.test)
        for name in ("collection.tsv", "queries.train.tsv", "qrels.train.tsv"):
            path = official / name
            path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))
        assert load_task(official).fingerprint == first.fingerprint

    def test_what_is_compressed_or_separated_by_spaces_is_the_same(
        self, official: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = load_task(official)
        for name in ("collection.tsv", "queries.train.tsv", "qrels.train.tsv"):
            data = (official / name).read_bytes()
            (official / name).unlink()
            data = data.replace(b"\t", b" ") if name.startswith("qrels") else data
            (official / f"{name}.gz").write_bytes(gzip.compress(data))
        monkeypatch.setenv("DIPAIR_MSMARCO", str(official))
        assert load_task("q2p").fingerprint == first.fingerprint

    def test_max_train_and_fields(self, official: Path) -> None:
        some = load_task(official, max_train=70)
        assert len(some.train) == 70 and some.train.groupby("group").size().eq(7).all()
        assert load_task(official, fields=["query", "passage"], kind="classes").fields == ("query", "passage")
        with pytest.raises(TaskError, match=r"q2p has fields = \('query', 'passage'\).*leave fields empty"):
            load_task(official, fields=["text"])

    @pytest.mark.parametrize(
        "name, row",
        [
            ("top1000.train.txt", "{i}\t{p}\tquestion {i} ?\t{words}"),
            ("triples.train.small.tsv", "question {i} ?\tpassage {m} about topic {i}\t{words}"),
        ],
    )
    def test_other_lists_of_retrieved_passages(self, official: Path, name: str, row: str) -> None:
        ids = [p for i in range(N) for p in range(10 * i + 1, 10 * i + 5)]
        expected = {words(p) for p in ids}
        (official / "qidpidtriples.train.full.2.tsv.gz").unlink()
        write(official / name, [row.format(i=p // 10, p=p, m=10 * (p // 10), words=words(p)) for p in ids])
        task = load_task(official)
        rows = everything(task)
        near = same_topic(rows)
        assert set(rows.loc[near & (rows["label"] == 0), "passage"]) == expected
        assert name in task.notes["source"]

    def test_without_such_a_list_there_are_random_negatives_only(self, official: Path) -> None:
        (official / "qidpidtriples.train.full.2.tsv.gz").unlink()
        task = load_task(official)
        assert task.notes["pairs"] == {"positive": N, "retrieved": 0, "random": 2 * N}
        assert task.notes["counts"]["queries_without_retrieved"] == N

    def test_all_positives_count_and_a_retrieved_one_is_no_negative(self, official: Path) -> None:
        with (official / "qrels.train.tsv").open("a") as file:
            file.write("3\t0\t31\t1\n3\t0\t31\t1\n4\t0\t41\t0\n")
        rows = everything(load_task(official))
        own = rows[rows["query"] == "question 3 ?"]
        assert sorted(own.loc[own["label"] == 1, "passage"]) == [words(30), words(31)]
        fourth = rows[rows["query"] == "question 4 ?"]
        assert fourth.loc[fourth["label"] == 1, "passage"].tolist() == [words(40)]

    def test_dirty_texts_are_kept_replaced_or_counted(self, official: Path) -> None:
        path = official / "collection.tsv"
        dirty = {
            10: "donâ\x80\x99t\x85stop \u2028here".encode(),
            20: b"caf\xe9 open",
            30: b"  ",
            40: " ".join(["word"] * 10_000).encode(),
            50: b"a\ttab and a \0",
        }
        lines = [
            dirty_line(line, dirty.get(int(line.split(b"\t")[0]))) for line in path.read_bytes().splitlines()
        ]
        path.write_bytes(b"\n".join([b"", *lines, b""]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task = load_task(official)
        rows = everything(task)
        matches = dict(rows.loc[rows["label"] == 1, ["query", "passage"]].values.tolist())
        assert matches["question 1 ?"] == "donâ\x80\x99t\x85stop \u2028here"
        assert matches["question 2 ?"] == "caf\ufffd open"
        assert "question 3 ?" not in matches
        assert len(matches["question 4 ?"].split()) == 10_000
        assert matches["question 5 ?"] == "a\ttab and a \ufffd"
        assert task.notes["counts"] == {
            "passages_not_found": 1,
            "passages_without_text": 1,
            "queries_read": N + 1,
            "queries_whose_positives_are_missing": 1,
            "queries_without_positive": 1,
            "texts_with_invalid_bytes_replaced": 1,
            "texts_with_nul_replaced": 1,
        }

    def test_one_text_under_two_ids_is_a_conflict_and_the_match_stays(self, official: Path) -> None:
        text = (official / "collection.tsv").read_text()
        same = text
        for k in range(1, 6):
            same = same.replace(f"\n{70 + k}\t{words(70 + k)}\n", f"\n{70 + k}\t{words(70)}\n")
        (official / "collection.tsv").write_text(same)
        with pytest.warns(UserWarning, match="4 conflicting label rows dropped"):
            task = load_task(official)
        rows = everything(task)
        seventh = rows[rows["query"] == "question 7 ?"]
        assert seventh.loc[
            [topic(p) == "7" for p in seventh["passage"]], ["passage", "label"]
        ].values.tolist() == [[words(70), 1]]
        assert sum(task.notes["dropped"]["conflicting_label"].values()) == 4

    def test_another_part_where_there_is_no_train(self, official: Path) -> None:
        for start, end in (("queries", "tsv"), ("qrels", "tsv")):
            (official / f"{start}.train.{end}").rename(official / f"{start}.dev.small.{end}")
        assert "queries.dev.small.tsv" in load_task(official).notes["source"]

    @pytest.mark.parametrize(
        "name, line, message",
        [
            ("collection.tsv", "no tab", r"collection\.tsv, line 1: expected passage id TAB passage, got 'no tab'"),
            ("queries.train.tsv", "1 no tab", r"queries\.train\.tsv, line 1: expected query id TAB query"),
            ("qrels.train.tsv", "1\t0\t10", r"qrels\.train\.tsv, line 1: expected 'query id, 0, passage id, grade'"),
            ("qrels.train.tsv", "1\t0\t10\tyes", r"qrels\.train\.tsv, line 1: .*got '1\\t0\\t10\\tyes'"),
            ("top1000.train.txt", "1\t11", r"top1000\.train\.txt, line 1: expected query id TAB passage id TAB query"),
        ],
    )  # fmt: skip
    def test_a_line_that_cannot_be_read_is_named(
        self, official: Path, name: str, line: str, message: str
    ) -> None:
        path = official / name
        if name.startswith("top1000"):
            (official / "qidpidtriples.train.full.2.tsv.gz").unlink()
        path.write_text(line + "\n" + (path.read_text() if path.exists() else ""))
        with pytest.raises(TaskError, match=message):
            load_task(official)

    def test_files_that_do_not_belong_together(self, official: Path) -> None:
        write(official / "qrels.train.tsv", [f"{i + 5000}\t0\t{10 * i}\t1" for i in range(N)])
        with pytest.raises(
            TaskError, match=r"none of the 61 queries has a judged passage \(60 others have\)"
        ):
            load_task(official)
        write(official / "qrels.train.tsv", [f"{i}\t0\t{10 * i + 5000}\t1" for i in range(N)])
        with pytest.raises(TaskError, match="no query has a passage that matches it"):
            load_task(official)

    def test_a_damaged_file_is_named(self, official: Path) -> None:
        path = official / "qidpidtriples.train.full.2.tsv.gz"
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(TaskError, match=r"qidpidtriples.*cannot be read .*download the file again"):
            load_task(official)

    def test_settings_are_checked(self, official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(TaskError, match="expected three positive shares"):
            load_task(official, splits=(0.5, 0.6))
        monkeypatch.setattr(marco, "QUERIES", 2)
        with pytest.raises(TaskError, match=r"q2p: the (dev|test) split has no rows"):
            load_task(official)

    def test_a_folder_without_them_says_what_is_expected(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not marco.is_folder(tmp_path)
        monkeypatch.setenv("DIPAIR_MSMARCO", str(tmp_path))
        with pytest.raises(
            TaskError, match=r"expected the official collection\.tsv.*or a copy of microsoft/ms_marco"
        ):
            load_task("q2p")


def dirty_line(line: bytes, text: bytes | None) -> bytes:
    return line if text is None else line.split(b"\t")[0] + b"\t" + text


class TestSnapshot:
    def test_the_second_time_nothing_but_the_snapshot_is_read(
        self, official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = load_task(official)
        monkeypatch.setattr(marco_files, "lines", lambda *_: pytest.fail("read again"))
        again = load_task(official)
        assert again.fingerprint == first.fingerprint and again.notes == first.notes
        assert json.loads(json.dumps(first.notes)) == first.notes
        assert not list((tmp_path / "cache").glob(".*.tmp"))

    def test_another_file_or_setting_is_built_anew(self, official: Path, tmp_path: Path) -> None:
        load_task(official)
        load_task(official, seed=1)
        with (official / "queries.train.tsv").open("a") as file:
            file.write("1000\tone more ?\n")
        assert load_task(official).notes["counts"]["queries_read"] == N + 2
        assert len(list((tmp_path / "cache").glob("q2p-*.parquet"))) == 3

    @pytest.mark.parametrize("end", ["parquet", "json"])
    def test_a_damaged_one_is_built_anew(self, official: Path, tmp_path: Path, end: str) -> None:
        first = load_task(official)
        path = next((tmp_path / "cache").glob(f"q2p-*.{end}"))
        path.write_bytes(path.read_bytes()[:-9])
        assert load_task(official).fingerprint == first.fingerprint

    def test_an_unwritable_folder_is_named(self, official: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(TaskError, match=r"file/cache: q2p cannot be kept .*DIPAIR_CACHE"):
            load_task(official, cache=tmp_path / "file" / "cache")


def hub_row(split: str, i: int, positive: bool = True) -> dict[str, Any]:
    texts = [f"{split} passage {i} {k}" for k in range(6)]
    marks = [int(positive and k == 2) for k in range(6)]
    return {
        "query": f"{split} question {i}",
        "query_id": i,
        "passages": {"is_selected": marks, "passage_text": texts, "url": ["https://a.example"] * 6},
    }


HUB = {
    split: [hub_row(split, i) for i in range(n)] + [hub_row(split, 999, positive=False)]
    for split, n in (("train", 30), ("validation", 5), ("test", 6))
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the hub's repository."""
    (tmp_path / "copy" / "v1.1").mkdir(parents=True)
    for split, rows in HUB.items():
        pd.DataFrame(rows).to_parquet(tmp_path / "copy" / "v1.1" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "copy"


class TestHub:
    def test_its_splits_and_marks_are_used(self, copy: Path) -> None:
        task = load_task(copy)
        assert task.notes["splits"] == "those of the hub"
        assert task.notes["pairs"] == {"positive": 41, "retrieved": 41 * 4, "random": 41 * 2}
        assert task.notes["counts"] == {"queries_read": 44, "queries_without_positive": 3}
        assert task.dev["query"].str.startswith("validation").all() and task.dev["query"].nunique() == 5
        test = task.test[task.test["label"] == 1]
        assert sorted(test.values[:, :2].tolist()) == [
            [f"test question {i}", f"test passage {i} 2"] for i in range(6)
        ]
        one = task.test[task.test["query"] == "test question 3"]
        assert len(one) == 7 and sum(p.startswith("test passage 3") for p in one["passage"]) == 5

    def test_queries_are_shared_out_over_its_splits(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(marco, "QUERIES", 20)
        task = load_task(copy)
        assert [f["query"].nunique() for f in (task.train, task.dev, task.test)] == [16, 2, 2]

    def test_the_hub_gives_the_same_at_a_pinned_revision(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        asked = []

        def from_memory(*given: str, revision: str) -> dict[str, Any]:
            asked.append((*given, revision))
            return {split: datasets.Dataset.from_list(rows) for split, rows in HUB.items()}

        monkeypatch.setattr(datasets, "load_dataset", from_memory)
        task = load_task("q2p")
        assert asked == [("microsoft/ms_marco", "v1.1", "a47ee7aae8d7d466ba15f9f0bfac3b3681087b3a")]
        assert task.notes["source"] == "microsoft/ms_marco, v1.1 at a47ee7aae8d7"
        assert task.fingerprint == load_task(copy).fingerprint
        monkeypatch.setitem(sys.modules, "datasets", None)
        assert load_task("q2p").fingerprint == task.fingerprint  # from the snapshot

    def test_out_of_reach_or_without_the_extra_it_says_what_else_there_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        def unreachable(*_: object, **__: object) -> None:
            raise ConnectionError("no route")

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(TaskError, match=r"cannot be read \(no route\).*set DIPAIR_MSMARCO to a folder"):
            load_task("q2p")
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(TaskError, match=r"pip install 'dipair-lab\[hub\]'"):
            load_task("q2p")

    def test_a_column_or_split_that_is_missing(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = copy / "v1.1" / "test-00000-of-00001.parquet"
        pd.read_parquet(path).rename(columns={"query_id": "id"}).to_parquet(path)
        with pytest.raises(
            TaskError, match=r"test-.*parquet: no column 'query_id'; there are query, id, passages"
        ):
            load_task(copy)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(TaskError, match=r"test-.*parquet: not a readable Parquet file"):
            load_task(copy)
        path.unlink()
        with pytest.raises(TaskError, match=r"there is no test\*\.parquet"):
            load_task(copy)

    def test_marks_that_do_not_fit_the_passages(self, copy: Path) -> None:
        rows = [hub_row("train", i) for i in range(3)]
        rows[1]["passages"]["is_selected"] = [1]
        pd.DataFrame(rows).to_parquet(copy / "v1.1" / "train-00000-of-00001.parquet")
        with pytest.raises(TaskError, match="train, row 2: 1 marks `is_selected` for 6 passages"):
            load_task(copy)


def fake_ir(official: Path, **lists: Any) -> types.ModuleType:
    """A module like `ir_datasets` over the official files."""

    def cells(name: str) -> list[list[str]]:
        return [line.split("\t") for line in (official / name).read_text().splitlines()]

    query = namedtuple("query", "query_id text")
    doc = namedtuple("doc", "doc_id text")
    qrel = namedtuple("qrel", "query_id doc_id relevance iteration")
    store = types.SimpleNamespace(
        get_many=lambda ids: {p: doc(p, text) for p, text in cells("collection.tsv") if p in set(ids)}
    )
    data = types.SimpleNamespace(
        queries_iter=lambda: (query(*row) for row in cells("queries.train.tsv")),
        qrels_iter=lambda: (qrel(q, p, int(grade), zero) for q, zero, p, grade in cells("qrels.train.tsv")),
        docs_store=lambda: store,
        **lists,
    )
    module = types.ModuleType("ir_datasets")
    module.load = {"msmarco-passage/train": data}.__getitem__  # type: ignore[attr-defined]
    return module


class TestIrDatasets:
    @pytest.mark.parametrize("kind", ["docpairs", "scoreddocs"])
    def test_the_same_rows_as_from_the_files(
        self, official: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pair = namedtuple("pair", "query_id doc_id_a doc_id_b")
        scored = namedtuple("scored", "query_id doc_id score")
        ids = [(str(i), str(10 * i), str(10 * i + k)) for i in range(N) for k in range(1, 6)]
        lists: dict[str, dict[str, Any]] = {
            "docpairs": {"docpairs_iter": lambda: (pair(*row) for row in ids)},
            "scoreddocs": {"scoreddocs_iter": lambda: (scored(q, p, 0.0) for q, _, p in ids)},
        }
        monkeypatch.setitem(sys.modules, "ir_datasets", fake_ir(official, **lists[kind]))
        monkeypatch.setattr(marco_files, "AT_ONCE", 7)
        expected = load_task(official)
        monkeypatch.setenv("DIPAIR_MSMARCO", "ir_datasets")
        task = load_task("q2p")
        assert task.fingerprint == expected.fingerprint
        assert task.notes["source"] == "ir_datasets, msmarco-passage/train"

    def test_without_the_extra_it_names_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DIPAIR_MSMARCO", "ir_datasets")
        monkeypatch.setitem(sys.modules, "ir_datasets", None)
        with pytest.raises(TaskError, match=r"needs the extra `ir` \(pip install 'dipair-lab\[ir\]'\)"):
            load_task("q2p")

    def test_out_of_reach(self, official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused() -> Any:
            raise ConnectionError("no route")
            yield

        module = fake_ir(official)
        module.load("msmarco-passage/train").qrels_iter = refused
        monkeypatch.setitem(sys.modules, "ir_datasets", module)
        monkeypatch.setenv("DIPAIR_MSMARCO", "ir_datasets")
        with pytest.raises(TaskError, match=r"msmarco-passage/train: cannot be read \(no route\)"):
            load_task("q2p")


def test_the_error_for_an_unknown_name_lists_it() -> None:
    with pytest.raises(
        TaskError, match=r"not a built-in task \(pydocs.*q2p, p2t/esci, p2t/wands, p2t/home-depot\)"
    ):
        load_task("q2q")
