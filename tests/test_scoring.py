"""Facts about encoded collections and scores: they are the student's own, what is killed ends in the same bytes, damage is named."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import cli, models
from dipair_lib.data.files import TaskError
from dipair_lib.evaluation import provenance
from dipair_lib.models import heads
from dipair_lib.models.tokens import tokenize
from dipair_lib.scoring import (
    block_search,
    collection,
    encoding,
    execution,
    job_parts,
    jobs,
    manifest,
    on_ray,
    scorer,
)
from dipair_lib.scoring.collection import Collection
from dipair_lib.scoring.jobs import Job
from dipair_lib.scoring.manifest import CollectionError
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.scoring.tiles import compilation, native, torch_tile
from dipair_lib.scoring.top_k import TopK
from dipair_lib.system import disk

HEADS: dict[str, dict[str, Any]] = {
    "cosine": {"head": "cosine", "keep": (0, 0), "pooled": True, "projection": 0},
    "ffnn": {"keep": (3, 2), "pooled": True, "residual": "cosine", "hidden": (8, 4)},
    "transformer": {"head": "transformer", "keep": (3, 2)},
    "maxsim": {"head": "maxsim", "keep": (3, 4)},
}


def save_student(backbone: str, folder: Path, seed: int = 0, **settings: Any) -> models.DualEncoder:
    torch.manual_seed(seed)
    model = models.DualEncoder(backbone, (10, 14), **{"keep": (3, 3), "projection": 8, **settings})
    models.save(model.eval(), folder)
    return model


@pytest.fixture(autouse=True)
def encoder_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (encoding, scorer):
        monkeypatch.setattr(module, "encoder_dtype", lambda *_: "float32")


@pytest.fixture
def source(tmp_path: Path, pairs: pd.DataFrame) -> Path:
    texts = pairs["query"].drop_duplicates().tolist()
    frame = pd.DataFrame(
        {"id": [f"q{i}" for i in range(len(texts) + 2)], "text": [*texts, texts[3], texts[0]]}
    )
    frame.to_parquet(tmp_path / "texts.parquet")
    return tmp_path / "texts.parquet"


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


class TestContent:
    @pytest.mark.parametrize("head", HEADS)
    def test_it_holds_what_the_student_prepares(
        self, head: str, tiny_backbone: str, tmp_path: Path, source: Path
    ) -> None:
        model = save_student(tiny_backbone, tmp_path / "s", **HEADS[head])
        found = encoding.encode(tmp_path / "s", source, 0, tmp_path / "c", shard_texts=7)
        texts = pd.read_parquet(source)["text"].drop_duplicates().tolist()
        assert len(found) == len(texts)
        tokens = tokenize(model.tokenizer, texts, 10)
        with torch.no_grad():
            expected = model.prepare(model.encode(*tokens.take(np.arange(len(texts))), 0), 0)
        again = Collection.open(tmp_path / "c", manifest.student_hash(tmp_path / "s"), 0)
        for want, got in zip(expected, again.block(0, len(texts)), strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        for want, got in zip(expected, again.block(5, 9), strict=True):  # over the edge of a shard
            torch.testing.assert_close(got, want[5:9], atol=1e-5, rtol=1e-5)

    def test_a_text_is_encoded_once_whatever_its_ids(
        self, tiny_backbone: str, tmp_path: Path, source: Path
    ) -> None:
        save_student(tiny_backbone, tmp_path / "s")
        found = encoding.encode(tmp_path / "s", source, 0, tmp_path / "c", shard_texts=7)
        ids = found.ids().set_index("id")["text"]
        n = len(found)
        assert ids[f"q{n}"] == ids["q3"] == 3
        assert ids[f"q{n + 1}"] == ids["q0"] == 0
        assert ids.tolist()[:n] == list(range(n))

    @pytest.mark.parametrize(("dtype", "step"), [("float16", 2**-11), ("bfloat16", 2**-8), ("int8", None)])
    def test_shorter_numbers_are_off_by_at_most_half_a_step(
        self, dtype: str, step: float | None, tiny_backbone: str, tmp_path: Path, source: Path
    ) -> None:
        save_student(tiny_backbone, tmp_path / "s", **HEADS["ffnn"])
        whole, short = (
            encoding.encode(tmp_path / "s", source, 0, tmp_path / name, dtype=name)
            for name in ("float32", dtype)
        )
        for want, got in zip(whole.block(0, 9), short.block(0, 9), strict=True):
            most = want.abs() * step + 1e-7 if step else want.abs().amax(1, keepdim=True) / 254 * 1.001
            assert ((got - want).abs() <= most).all()
            assert (got != want).any()

    def test_files_do_not_stay_mapped(
        self, tiny_backbone: str, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_student(tiny_backbone, tmp_path / "s")
        found = encoding.encode(tmp_path / "s", source, 0, tmp_path / "c", shard_texts=7)
        (whole,) = found.block(0, len(found))[:1]
        again = Collection.open(tmp_path / "c")
        monkeypatch.setattr(collection, "MAPPED", 1000)
        torch.testing.assert_close(again.block(0, len(found))[0], whole)
        torch.testing.assert_close(again.take(np.arange(len(found)))[0], whole)
        assert len(again.maps) < len(found.maps)

    def test_more_texts_are_added_and_known_ones_passed_over(
        self, tiny_backbone: str, tmp_path: Path, source: Path
    ) -> None:
        save_student(tiny_backbone, tmp_path / "s")
        first = encoding.encode(tmp_path / "s", source, 0, tmp_path / "c")
        before, n = files(tmp_path / "c"), len(first)
        more = pd.read_parquet(source)
        more.loc[len(more)] = ["new", "a text that was not there before"]
        more.to_csv(tmp_path / "more.csv", index=False)
        second = encoding.encode(tmp_path / "s", tmp_path / "more.csv", 0, tmp_path / "c")
        assert len(second) == n + 1
        assert second.ids().iloc[-1].tolist() == ["new", n]
        after = files(tmp_path / "c")
        assert all(after[name] == data for name, data in before.items() if name != "manifest.json")
        manifest = after["manifest.json"]
        encoding.encode(tmp_path / "s", source, 0, tmp_path / "c")
        assert files(tmp_path / "c")["manifest.json"] == manifest


class TestInterruption:
    def test_killed_at_any_write_it_ends_in_the_same_bytes(
        self, tiny_backbone: str, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_student(tiny_backbone, tmp_path / "s")

        def run(out: Path) -> None:
            encoding.encode(tmp_path / "s", source, 0, out, shard_texts=7)

        run(tmp_path / "whole")
        expected, real, writes = files(tmp_path / "whole"), disk.write_atomic, 0

        def dies(path: Path, data: bytes) -> Path:
            nonlocal writes
            writes += 1
            if writes == stop:
                raise KeyboardInterrupt
            return real(path, data)

        monkeypatch.setattr(disk, "write_atomic", dies)
        for stop in range(1, 100):
            writes, out = 0, tmp_path / f"c{stop}"
            try:
                run(out)
            except KeyboardInterrupt:
                writes = -1000
                run(out)
            else:
                assert stop > 10, "it was never interrupted"
                return
            assert files(out) == expected
        pytest.fail("it never came to an end")

    def test_after_a_bad_row_the_mended_file_goes_on(
        self, tiny_backbone: str, tmp_path: Path, source: Path
    ) -> None:
        save_student(tiny_backbone, tmp_path / "s")
        frame = pd.read_parquet(source)
        bad, good = tmp_path / "bad.parquet", tmp_path / "good.parquet"
        frame.to_parquet(good)
        frame.loc[len(frame) - 3, "id"] = "q0"  # two shards are whole before it is met
        frame.to_parquet(bad)
        with pytest.raises(CollectionError, match="id 'q0' came before with another text"):
            encoding.encode(tmp_path / "s", bad, 0, tmp_path / "c", shard_texts=7)
        before = files(tmp_path / "c")
        whole = sum(shard["texts"] for shard in json.loads(before["manifest.json"])["shards"])
        assert whole >= 14
        found = encoding.encode(tmp_path / "s", good, 0, tmp_path / "c", shard_texts=7)
        assert found.ids()["id"].tolist() == pd.read_parquet(good)["id"].tolist()
        after = files(tmp_path / "c")
        assert all(after[name] == data for name, data in before.items() if name != "manifest.json")

    def test_ids_are_of_one_kind(self, tiny_backbone: str, tmp_path: Path) -> None:
        save_student(tiny_backbone, tmp_path / "s")

        def encode(name: str, content: str) -> Collection:
            (tmp_path / name).write_text(content)
            return encoding.encode(tmp_path / "s", tmp_path / name, 0, tmp_path / "c")

        encode("first.jsonl", '{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n')
        assert encode("more.csv", "id,text\n2,two\n3,three\n").ids()["id"].tolist() == [1, 2, 3]
        with pytest.raises(
            CollectionError, match=r"words.csv, row 1: id 'x' is a text, but the collection's ids are"
        ):
            encode("words.csv", "id,text\nx,four\n")
        with pytest.raises(TaskError, match=r"row 2 .*'b', a text among whole numbers"):
            encode("mixed.jsonl", '{"id": 7, "text": "one"}\n{"id": "b", "text": "two"}\n')
        assert len(Collection.open(tmp_path / "c").ids()) == 3


class TestRefusals:
    @pytest.fixture
    def made(self, tiny_backbone: str, tmp_path: Path, source: Path) -> Path:
        save_student(tiny_backbone, tmp_path / "s")
        encoding.encode(tmp_path / "s", source, 0, tmp_path / "c", shard_texts=7)
        return tmp_path / "c"

    def test_another_student_field_or_dtype(
        self, made: Path, tiny_backbone: str, tmp_path: Path, source: Path
    ) -> None:
        save_student(tiny_backbone, tmp_path / "other", seed=1)
        with pytest.raises(CollectionError, match="c: encoded by another student"):
            Collection.open(made, manifest.student_hash(tmp_path / "other"))
        with pytest.raises(CollectionError, match="holds student"):
            encoding.encode(tmp_path / "other", source, 0, made)
        with pytest.raises(CollectionError, match="holds texts of field 0, but field 1 was asked for"):
            Collection.open(made, side=1)
        with pytest.raises(CollectionError, match="holds dtype 'float32', but 'int8' was asked for"):
            encoding.encode(tmp_path / "s", source, 0, made, dtype="int8")
        with pytest.raises(CollectionError, match="--field: expected 0 to 1, but got 2"):
            encoding.encode(tmp_path / "s", source, 2, made)
        with pytest.raises(
            CollectionError, match="--dtype: expected one of float32, float16, bfloat16, int8, but got 'int4'"
        ):
            encoding.encode(tmp_path / "s", source, 0, made, dtype="int4")
        with pytest.raises(models.ModelError, match="no student here"):
            encoding.encode(made, source, 0, made)

    def test_a_damaged_shard_is_named(self, made: Path) -> None:
        assert Collection.open(made).verify() == []
        path = made / "00001.0.npy"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        assert Collection.open(made).verify() == [f"{path}: damaged: its sha256 is not the manifest's"]
        with pytest.raises(CollectionError, match=r"00001\.0\.npy: damaged: its sha256"):
            Collection.open(made).take(np.array([9]))
        assert Collection.open(made).block(0, 7)  # the shard before it
        np.save(path, np.full_like(np.load(path), np.nan))
        with pytest.raises(CollectionError, match=r"00001\.0\.npy, text 2: not a finite number"):
            Collection.open(made, trust=True).block(9, 10)
        path.write_bytes(data[:-4])
        with pytest.raises(CollectionError, match=r"00001\.0\.npy: (cannot be read|expected shape)"):
            Collection.open(made, trust=True).block(9, 10)
        path.unlink()
        assert Collection.open(made).verify() == [f"{path}: missing"]

    def test_ids_and_texts(self, tiny_backbone: str, tmp_path: Path) -> None:
        save_student(tiny_backbone, tmp_path / "s")

        def encode(content: str) -> None:
            (tmp_path / "t.csv").write_text(content)
            encoding.encode(tmp_path / "s", tmp_path / "t.csv", 0, tmp_path / "new")

        with pytest.raises(CollectionError, match=r"t\.csv, row 3: id 'a' came before with another text"):
            encode("id,text\na,one\nb,two\na,three\n")
        with pytest.raises(TaskError, match=r"t\.csv, column 'id': row 2 \(line 3\): no id"):
            encode("id,text\na,one\n,two\n")
        with pytest.raises(TaskError, match=r"t\.csv, column 'text': row 1 \(line 2\): empty"):
            encode("id,text\na, \nb,two\n")
        with pytest.raises(CollectionError, match="which column holds the texts"):
            encode("id,title,body\na,b,c\n")
        assert not (tmp_path / "new" / "manifest.json").exists()

    def test_texts_that_no_one_expects(self, tiny_backbone: str, tmp_path: Path) -> None:
        """Control characters, direction marks, 10^5 words: encoded as the student reads them. A null byte is refused."""
        save_student(tiny_backbone, tmp_path / "s")
        texts = ["\x1b[31mred car\u202e", "red " * 100_000, "\N{AUTOMOBILE} red", "red\x00car"]
        pd.DataFrame({"id": range(4), "text": texts}).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(TaskError, match=r"t\.parquet, column 'text': row 4: holds a NUL character"):
            encoding.encode(tmp_path / "s", tmp_path / "t.parquet", 0, tmp_path / "c")
        pd.DataFrame({"id": range(3), "text": texts[:3]}).to_parquet(tmp_path / "t.parquet")
        found = encoding.encode(tmp_path / "s", tmp_path / "t.parquet", 0, tmp_path / "c")
        want = Scorer.load(tmp_path / "s").prepare([texts[0], "red " * 50, texts[2]], 0)
        for own, other in zip(found.block(0, 3), want, strict=True):
            torch.testing.assert_close(own, other)

    def test_no_texts_at_all(self, made: Path, tmp_path: Path) -> None:
        (tmp_path / "none.csv").write_text("id,text\n")
        with pytest.raises(TaskError, match=r"none\.csv: a header line \(id, text\) but no rows"):
            encoding.encode(tmp_path / "s", tmp_path / "none.csv", 1, tmp_path / "none")
        pd.DataFrame({"id": ["a"], "text": ["red"]})[:0].to_parquet(tmp_path / "none.parquet")
        with pytest.raises((TaskError, CollectionError), match=r"none"):
            empty = encoding.encode(tmp_path / "s", tmp_path / "none.parquet", 1, tmp_path / "none")
            assert len(empty) == 0
            execution.score(Job(str(tmp_path / "s"), str(made), str(tmp_path / "none")), tmp_path / "out")

    def test_where_nothing_can_be_written(self, made: Path, tmp_path: Path, source: Path) -> None:
        with pytest.raises(
            CollectionError, match=r"c/manifest\.json/new: cannot be written \(Not a directory"
        ):
            encoding.encode(tmp_path / "s", source, 0, made / "manifest.json" / "new")

    def test_two_writers(self, made: Path, tmp_path: Path, source: Path) -> None:
        with (
            encoding.writing(made),
            pytest.raises(CollectionError, match="another process is writing here"),
        ):
            encoding.encode(tmp_path / "s", source, 0, made)

    def test_a_foreign_manifest(self, tmp_path: Path) -> None:
        for content, message in (
            ("{", "not whole JSON"),
            (json.dumps({"format": 9}), "not a collection of this version"),
        ):
            (tmp_path / "manifest.json").write_text(content)
            with pytest.raises(CollectionError, match=message):
                Collection.open(tmp_path)
        with pytest.raises(CollectionError, match="expected a folder that `dipair encode` wrote"):
            Collection.open(tmp_path / "nowhere")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"shards": [{"texts": 1, "files": {"../../up.npy": "0"}}]},
                r"shard 0: expected files of its own .* but got '../../up",
            ),
            ({"shards": [{"texts": 1, "files": {"00001.0.npy": "0"}}]}, "shard 0: expected files of its own"),
            ({"shards": [{"texts": -1, "files": {}}]}, "shards: not what"),
            ({"tensors": [{"shape": [-4], "mask": False}]}, "tensors: not what"),
            ({"tensors": []}, "shard 0: expected files of its own"),
            ({"dtype": "float64"}, "dtype: not what .* but 'float64'"),
            ({"field": True}, "field: not what"),
        ],
    )
    def test_a_manifest_with_a_wrong_value(self, made: Path, change: dict[str, Any], message: str) -> None:
        path = made / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(CollectionError, match=rf"manifest\.json: {message}"):
            Collection.open(made)


# --- scores ------------------------------------------------------------------------------------------------------------------------

LEFT, RIGHT = 11, 23


def texts(pairs: pd.DataFrame, column: str, n: int) -> list[str]:
    return [f"{text} {i}" for i, text in enumerate(pairs[column].tolist()[:n])]


@pytest.fixture
def sides(tiny_backbone: str, tmp_path: Path, pairs: pd.DataFrame) -> Path:
    """A student in s, its encoded collections in a and b, whose ids are numbers and names."""
    save_student(tiny_backbone, tmp_path / "s", **HEADS["ffnn"])
    for side, (name, column, n) in enumerate((("a", "query", LEFT), ("b", "passage", RIGHT))):
        ids = range(100, 100 + n) if side == 0 else [f"p{i}" for i in range(n)]
        pd.DataFrame({"id": ids, "text": texts(pairs, column, n)}).to_parquet(tmp_path / f"{name}.parquet")
        encoding.encode(tmp_path / "s", tmp_path / f"{name}.parquet", side, tmp_path / name, shard_texts=5)
    return tmp_path


def job(folder: Path, **settings: Any) -> Job:
    paths = {name: str(folder / name[0]) for name in ("student",)}
    return Job(**{**paths, "left": str(folder / "a"), "right": str(folder / "b"), "tile": (4, 6), **settings})


def scored(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(p) for p in sorted(folder.glob("part-*.parquet"))], ignore_index=True)


def expected(folder: Path, pairs: pd.DataFrame) -> np.ndarray:
    """Each pair by itself, [left, right]."""
    scorer = Scorer.load(folder / "s")
    left, right = texts(pairs, "query", LEFT), texts(pairs, "passage", RIGHT)
    return np.stack([scorer.score([one] * RIGHT, right) for one in left])


class TestScorer:
    @pytest.mark.parametrize("head", HEADS)
    def test_a_tile_holds_the_score_of_each_pair(
        self, head: str, tiny_backbone: str, pairs: pd.DataFrame, tmp_path: Path
    ) -> None:
        model = save_student(tiny_backbone, tmp_path / "s", **HEADS[head])
        scorer = Scorer.load(tmp_path / "s")
        left, right = texts(pairs, "query", 5), texts(pairs, "passage", 7)
        a, b = scorer.prepare(left, 0), scorer.prepare(right, 1)
        apart = np.stack([scorer.score([one] * 7, right) for one in left])
        for size in (1, 3, 10, 4096):
            np.testing.assert_allclose(torch_tile.tile(model, a, b, size).detach(), apart, atol=1e-5)
        np.testing.assert_allclose(
            scorer.score(a, tuple(t[:5] for t in b)), apart[range(5), range(5)], atol=1e-5
        )
        ranked = scorer.rank(left[0], b)
        assert ranked["place"].tolist() == np.argsort(-apart[0], kind="stable").tolist()
        assert scorer.rank(left[0], right, top=2).equals(ranked[:2])

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_bilstm_scores_too(self, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
        """It has no encoder to run in a shorter dtype."""
        monkeypatch.setattr(scorer, "encoder_dtype", lambda *_: dtype)
        model = models.BiLSTM(["red", "blue", "car"], (8, 12), width=12, hidden=10, fc=6).eval()
        own = Scorer(model)
        left, right = ["red car", "blue"], ["car", "red red blue", "blue car"]
        tile = own.tile(own.prepare(left, 0), own.prepare(right, 1)).numpy()
        for i, one in enumerate(left):
            np.testing.assert_allclose(own.score([one] * 3, right), tile[i], atol=1e-6)

    def test_sides_that_do_not_fit(self, tiny_backbone: str, tmp_path: Path) -> None:
        save_student(tiny_backbone, tmp_path / "s")
        scorer = Scorer.load(tmp_path / "s")
        with pytest.raises(ValueError, match=r"expected 2 sides of as many texts each, but got \[1, 2\]"):
            scorer.score(["a"], ["b", "c"])
        with pytest.raises(ValueError, match=r"but got \[1\]"):
            scorer.score(["a"])


class TestBest:
    @pytest.mark.parametrize("k", [1, 3, 17])
    @pytest.mark.parametrize("width", [1, 5, 17])
    def test_ties_go_to_the_lower_place_whatever_the_tiles(self, k: int, width: int) -> None:
        values = torch.tensor([-3.5, -1.0, -0.0, 0.0, 1e-30, 2.0, 7.25])
        scores = values[torch.randint(7, (40, 17), generator=torch.Generator().manual_seed(0))]
        best = TopK(40, k)
        for start in range(0, 17, width):
            best.add(scores[:, start : start + width], torch.arange(17)[start : start + width])
        places, highest = best.sorted()
        order = np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(places, order)
        np.testing.assert_array_equal(highest, np.take_along_axis(scores.numpy(), order, 1) + 0.0)


class TestJobs:
    def test_all_pairs(self, sides: Path, pairs: pd.DataFrame) -> None:
        counts = execution.score(job(sides), sides / "out")
        assert counts == {"units": 3, "done_before": 0, "rows": LEFT * RIGHT, "pairs": LEFT * RIGHT}
        found = scored(sides / "out").pivot(index="left", columns="right", values="score")
        want = expected(sides, pairs)
        np.testing.assert_allclose(found[[f"p{i}" for i in range(RIGHT)]].to_numpy(), want, atol=1e-5)
        assert found.index.tolist() == list(range(100, 100 + LEFT))
        assert job_parts.verify(sides / "out") == []

    @pytest.mark.parametrize("top", [1, 4, 99])
    def test_the_best_of_each_left_text(self, sides: Path, pairs: pd.DataFrame, top: int) -> None:
        execution.score(job(sides, top=top), sides / "out")
        found, want = scored(sides / "out"), expected(sides, pairs)
        for i, (left, rows) in enumerate(found.groupby("left")):
            assert left == 100 + i
            assert rows["right"].tolist() == [f"p{j}" for j in np.argsort(-want[i], kind="stable")[:top]]
            np.testing.assert_allclose(rows["score"], np.sort(want[i])[::-1][:top], atol=1e-5)

    @pytest.mark.parametrize("top", [0, 2])
    def test_scores_from_a_threshold_on(self, sides: Path, pairs: pd.DataFrame, top: int) -> None:
        want = expected(sides, pairs)
        least = float(np.quantile(want, 0.7))
        counts = execution.score(job(sides, threshold=least, top=top), sides / "out")
        kept = [np.sort(row)[::-1][: top or RIGHT] for row in want]
        assert counts["rows"] == len(scored(sides / "out")) == sum(int((row >= least).sum()) for row in kept)
        assert scored(sides / "out")["score"].min() >= least
        none = execution.score(job(sides, threshold=1e9, top=top), sides / "none")
        assert (none["rows"], len(scored(sides / "none"))) == (0, 0)

    def test_explicit_pairs(self, sides: Path, pairs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(block_search, "BUCKET", 4)
        monkeypatch.setattr(jobs, "UNIT_PAIRS", 3)
        random = np.random.default_rng(0)
        i, j = random.integers(0, LEFT, 50), random.integers(0, RIGHT, 50)
        asked = pd.DataFrame({"left": 100 + i, "right": [f"p{n}" for n in j]})
        asked.to_csv(sides / "pairs.csv", index=False)
        counts = execution.score(job(sides, pairs=str(sides / "pairs.csv")), sides / "out")
        assert counts["pairs"] == 50
        found = scored(sides / "out").sort_values("row", ignore_index=True)
        assert found["row"].tolist() == list(range(50))
        assert found[["left", "right"]].equals(asked.astype({"right": found["right"].dtype}))
        np.testing.assert_allclose(found["score"], expected(sides, pairs)[i, j], atol=1e-5)

    def test_killed_at_any_unit_it_ends_in_the_same_bytes(
        self, sides: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        execution.score(job(sides, top=3), sides / "whole")
        real = block_search.finite
        for stop in range(1, 13):
            calls = 0

            def dies(scores: torch.Tensor, stop: int = stop) -> torch.Tensor:
                nonlocal calls
                calls += 1
                if calls == stop:
                    raise KeyboardInterrupt
                return real(scores)

            monkeypatch.setattr(block_search, "finite", dies)
            with pytest.raises(KeyboardInterrupt):
                execution.score(job(sides, top=3), sides / "out")
            monkeypatch.setattr(block_search, "finite", real)
            assert (job_parts.verify(sides / "out") != []) and not list((sides / "out").glob("*.tmp"))
            counts = execution.score(job(sides, top=3), sides / "out")
            assert counts["done_before"] == (stop - 1) // 4
            assert files(sides / "out") == files(sides / "whole")
            for path in (sides / "out").iterdir():
                path.unlink()

    def test_what_is_not_there_is_named(self, sides: Path) -> None:
        with pytest.raises(CollectionError, match=r"nowhere/manifest\.json: no such file"):
            execution.score(job(sides, left=str(sides / "nowhere")), sides / "new")
        with pytest.raises(CollectionError, match=r"none\.csv: no such file: expected pairs of ids"):
            execution.score(job(sides, pairs=str(sides / "none.csv")), sides / "new")
        with pytest.raises(ValueError, match="expected at least one text of field 1, but got none"):
            Scorer.load(sides / "s").rank("a query", [])

    def test_what_it_refuses(self, sides: Path, tiny_backbone: str) -> None:
        execution.score(job(sides, top=3), sides / "out")
        with pytest.raises(CollectionError, match="holds another job, of another top"):
            execution.score(job(sides, top=4), sides / "out")
        with pytest.raises(CollectionError, match="b: holds texts of field 1, but field 0 was asked for"):
            execution.score(job(sides, left=str(sides / "b")), sides / "new")
        (sides / "pairs.csv").write_text("left,right\n100,p1\n100,p77\n")
        with pytest.raises(
            CollectionError, match=r"pairs\.csv, row 2: right id 'p77' is not in .*b: encode that"
        ):
            execution.score(job(sides, pairs=str(sides / "pairs.csv")), sides / "new2")
        save_student(tiny_backbone, sides / "s", seed=3)
        with pytest.raises(CollectionError, match="holds another job, of another student"):
            execution.score(job(sides, top=3), sides / "out")
        with pytest.raises(CollectionError, match="a: encoded by another student"):
            execution.score(job(sides, top=3), sides / "new3")

    def test_a_collection_that_changes_underneath(self, sides: Path) -> None:
        execution.score(job(sides, top=3), sides / "out")
        (sides / "out" / "part-00001.json").unlink()
        (sides / "more.csv").write_text("id,text\np-new,one more passage\n")
        encoding.encode(sides / "s", sides / "more.csv", 1, sides / "b")
        with pytest.raises(CollectionError, match="holds another job, of another right"):
            execution.score(job(sides, top=3), sides / "out")
        with pytest.raises(CollectionError, match="b: changed"):
            execution.run_unit(sides / "out", 1)

    def test_a_folder_used_again_is_another_job(self, sides: Path) -> None:
        execution.score(job(sides, top=3), sides / "out")
        for path in (sides / "out").iterdir():
            path.unlink()
        execution.score(job(sides, top=1), sides / "out")
        assert len(scored(sides / "out")) == LEFT

    @pytest.mark.parametrize("units", [[[0, 99]], [[0, 4], [8, 11]], [[-4, 4]], [[4, 0]], [], [["../up", 4]]])
    def test_a_job_of_other_units_is_refused_by_name(self, sides: Path, units: list[Any]) -> None:
        jobs.create_job(job(sides), sides / "out")
        path = sides / "out" / "job.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"units": units}))
        with pytest.raises(CollectionError, match=r"job\.json: .*units"):
            execution.run_unit(sides / "out", 0)

    def test_damaged_parts_are_named(self, sides: Path) -> None:
        execution.score(job(sides), sides / "out")
        path = sides / "out" / "part-00002.parquet"
        path.write_bytes(path.read_bytes() + b"x")
        (sides / "out" / "part-00000.parquet").unlink()
        (sides / "out" / "part-00001.json").unlink()
        said = job_parts.verify(sides / "out")
        assert [line.partition(": ")[2].split(":")[0] for line in said] == [
            "missing",
            "not scored yet",
            "damaged",
        ]

    def test_a_score_that_is_not_finite_stops(self, sides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            torch_tile, "tile", lambda _, a, b: torch.full((len(a[0]), len(b[0])), float("nan"))
        )
        with pytest.raises(CollectionError, match="a score is not a finite number"):
            execution.score(job(sides), sides / "out")
        assert not list((sides / "out").glob("part*"))


WHY_NOT = compilation.unavailable_reason()
needs_code = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it can be used")
both_ways = pytest.mark.parametrize("way", ["tiles", "vectors"], indirect=True)


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A way of multiplying; that in tiles goes through software where the processor has no AMX."""
    if request.param not in compilation.backends():
        code = tiles_in_software()
        monkeypatch.setattr(compilation, "library", lambda: code)
    return str(request.param)


@functools.cache
def tiles_in_software() -> ctypes.CDLL:
    """The compiled code with AMX's instructions as functions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiles.so"
        header = Path(__file__).with_name("amx.h")
        command = [
            compilation.compiler() or "g++",
            "-O2",
            "-march=native",
            "-shared",
            "-fPIC",
            "-include",
            str(header),
        ]
        subprocess.run([*command, "-o", str(path), str(compilation.SOURCE)], check=True)
        return ctypes.CDLL(str(path))


def transformer_sides(
    m: int, n: int, k: tuple[int, int], width: int, heads_: int, ffn: int
) -> tuple[heads.TransformerHead, heads.Prepared, heads.Prepared]:
    """A head that attends sharply, and what it prepared of m and n texts of 1 to k tokens, some with a gap."""
    torch.manual_seed(m + n)
    head = heads.TransformerHead(k, width, heads=heads_, ffn=ffn)
    for p in head.parameters():
        torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5)
    torch.nn.init.normal_(head.layers[0].before_attention.weight, std=1.0)
    torch.nn.init.normal_(head.layers[0].before_ffn.weight, std=1.0)
    torch.nn.init.normal_(head.leave.weight, std=1.0)
    sides = []
    for field, (texts, most) in enumerate(zip((m, n), k, strict=True)):
        mask = torch.arange(most) < torch.randint(1, most + 1, (texts, 1))
        mask[:, 1:] &= torch.rand(texts, most - 1) < 0.9
        kept = heads.Kept(3 * torch.randn(texts, most, width) * mask[..., None], mask)
        sides.append(tuple(t.detach() for t in head.prepare(kept, field)))
    return head, sides[0], sides[1]


def transformer_rounded(
    head: heads.TransformerHead, left: heads.Prepared, right: heads.Prepared, nudge: float = 0.0
) -> torch.Tensor:
    """The head in float64, with its matrix products' inputs rounded to bfloat16 as compiled code does, [m, n]. ``nudge``: of what is
    computed before it is rounded, as a share of it: what lies on an edge of bfloat16 goes to the other side."""
    layer = head.layers[0]

    def by_head(t: torch.Tensor) -> torch.Tensor:
        return t.double().unflatten(-1, (layer.heads, -1))

    def short(t: torch.Tensor) -> torch.Tensor:
        return t.detach().bfloat16().double()

    def product(x: torch.Tensor, linear: torch.nn.Linear) -> torch.Tensor:
        return short((1 + nudge) * x) @ short(linear.weight).T + linear.bias.double()

    (x, q, k, v, mask), (_, _, others, values, real) = left, right
    own = torch.einsum("mhd,mthd->mht", by_head(q[:, 0]), by_head(k)).masked_fill(~mask[:, None], -torch.inf)
    their = torch.einsum("mhd,nthd->mnht", by_head(short(q[:, 0])), by_head(short(others)))
    their = their.masked_fill(~real[:, None], -torch.inf)
    scores = torch.cat([own[:, None].expand(-1, len(real), -1, -1), their], dim=-1)
    share = (scores * (q.shape[-1] // layer.heads) ** -0.5).softmax(-1)
    most = k.shape[1]
    mixed = torch.einsum("mnht,mthd->mnhd", share[..., :most], by_head(v))
    mixed = (mixed + torch.einsum("mnht,nthd->mnhd", share[..., most:], by_head(values))).flatten(-2)
    stream = x[:, :1].double() + product(mixed, layer.attended)
    norm = layer.before_ffn.double()(stream)
    layer.before_ffn.float()
    stream = stream + product(torch.nn.functional.gelu(product(norm, layer.up)), layer.down)
    found = head.output.double()(head.leave.double()(stream))[..., 0].detach()
    head.float()
    return found


class TestFastTiles:
    @pytest.mark.parametrize("asked", [{"top": 1}, {"top": 3}, {"threshold": 0.0}])
    @pytest.mark.parametrize("off", [1e-4, 0.3])
    def test_the_best_are_exact_although_the_tile_is_not(
        self,
        sides: Path,
        pairs: pd.DataFrame,
        monkeypatch: pytest.MonkeyPatch,
        asked: dict[str, Any],
        off: float,
    ) -> None:
        """Noise that is as large as the differences between candidates changes nothing but the work."""
        monkeypatch.setattr(block_search, "RESCORED", 5)
        want = expected(sides, pairs)
        asked = {
            name: float(np.median(want)) if name == "threshold" else value for name, value in asked.items()
        }
        monkeypatch.setattr(native.Tile, "of", lambda _: object())
        random = torch.Generator().manual_seed(0)
        monkeypatch.setattr(
            Scorer,
            "fast_tile",
            lambda self, a, b: (t := self.tile(a, b)) + off * (torch.rand(t.shape, generator=random) - 0.5),
        )
        execution.score(job(sides, **asked), sides / "out")
        found = scored(sides / "out")
        for i, (_, rows) in enumerate(found.groupby("left")):
            order = np.argsort(-want[i], kind="stable")
            right = order[: asked["top"]] if "top" in asked else np.flatnonzero(want[i] >= asked["threshold"])
            assert rows["right"].tolist() == [f"p{j}" for j in right]
            np.testing.assert_allclose(rows["score"], want[i][right], atol=1e-5)

    @pytest.mark.parametrize("head", [*HEADS, "transformer that corrects", "bilstm"])
    def test_each_head_finds_the_best_that_float32_finds(
        self, head: str, tiny_backbone: str, tmp_path: Path, pairs: pd.DataFrame
    ) -> None:
        torch.manual_seed(0)
        if head == "bilstm":
            words = sorted({w for text in pairs["query"] for w in text.lower().split()})
            model: Any = models.BiLSTM(words, (8, 12), width=12, hidden=10, fc=6)
            models.save(model.eval(), tmp_path / "s")
        elif head in HEADS:
            save_student(tiny_backbone, tmp_path / "s", **HEADS[head])
        else:
            corrects = {"pooled": True, "residual": "cosine", **HEADS["transformer"]}
            save_student(tiny_backbone, tmp_path / "s", **corrects)
        for side, (name, column, n) in enumerate((("a", "query", LEFT), ("b", "passage", RIGHT))):
            frame = pd.DataFrame({"id": range(n), "text": texts(pairs, column, n)})
            frame.to_parquet(tmp_path / f"{name}.parquet")
            encoding.encode(tmp_path / "s", tmp_path / f"{name}.parquet", side, tmp_path / name)
        assert (Scorer.load(tmp_path / "s").compiled is None) == (
            head == "cosine" or bool(compilation.unavailable_reason())
        )
        execution.score(job(tmp_path, top=2, tile=(4, 40)), tmp_path / "out")
        want = expected(tmp_path, pairs)
        for i, (_, rows) in enumerate(scored(tmp_path / "out").groupby("left")):
            np.testing.assert_allclose(rows["score"], np.sort(want[i])[:-3:-1], atol=1e-5)
            np.testing.assert_allclose(want[i][rows["right"]], rows["score"], atol=1e-5)

    @needs_code
    @both_ways
    @pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 31), (5, 32), (2, 97)])
    @pytest.mark.parametrize("hidden", [(256, 128), (40, 7), (64, 32), (1056, 33)])
    def test_the_compiled_tile_is_the_head_in_float64(
        self, way: str, m: int, n: int, hidden: tuple[int, int]
    ) -> None:
        torch.manual_seed(0)
        head = heads.FFNNHead([6, 6], hidden)
        for p in head.parameters():
            torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5)
        a, b = torch.randn(m, hidden[0]), torch.randn(n, hidden[0])
        a[0, 0] = -1e4  # cut at zero whatever is added
        found = native.FFNNTile(head, way)((a,), (b,))
        second, last = head.rest
        x = torch.relu(a[:, None] + b[None]).bfloat16().double()
        x = torch.relu(x @ second.weight.bfloat16().double().T + second.bias.double())
        want = (x @ last.weight.double().T + last.bias.double())[..., 0]
        torch.testing.assert_close(found.double(), want, atol=1e-5, rtol=1e-5)
        plain = head.combine((a[:, None],), (b[None],))[..., 0].detach()
        assert (found - plain).abs().max() < 0.02 * max(1.0, float(plain.abs().max()))

    @needs_code
    @both_ways
    @pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 31), (33, 32), (5, 97)])
    @pytest.mark.parametrize(
        ("k", "width"), [((1, 1), 32), ((3, 8), 8), ((8, 32), 64), ((20, 5), 40), ((32, 48), 128)]
    )
    @pytest.mark.parametrize("kind", ["maxsim", "cosine+maxsim"])
    def test_compiled_maxsim_is_the_textbook_form(
        self, way: str, m: int, n: int, k: tuple[int, int], width: int, kind: str
    ) -> None:
        random = torch.Generator().manual_seed(m + n)
        head = heads.SimilarityHead(kind)
        torch.nn.init.constant_(head.shift, -0.25)
        sides = []
        for texts, most in zip((m, n), k, strict=True):
            real = torch.randint(1, most + 1, (texts, 1), generator=random)
            mask = torch.arange(most) < real
            vectors = torch.randn(texts, most, width, generator=random) * mask[..., None]
            kept = heads.Kept(vectors, mask, torch.randn(texts, 6, generator=random))
            sides.append(head.prepare(kept, 0))
        found = native.MaxSimTile(head, way)(*sides)
        (a, inside), (b, real) = sides[0][:2], sides[1][:2]
        weight = head.scale.detach()[0]
        for i in range(m):
            for j in range(n):
                dots = a[i][inside[i]].bfloat16().double() @ b[j][real[j]].bfloat16().double().T
                want = float(weight[-1]) * float(dots.amax(1).mean()) - 0.25
                if kind == "cosine+maxsim":
                    want += float(weight[0]) * float(sides[0][2][i] @ sides[1][2][j])
                assert float(found[i, j]) == pytest.approx(want, abs=2e-5)

    @needs_code
    @both_ways
    @pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 31), (33, 40)])
    @pytest.mark.parametrize(
        ("k", "width", "heads_", "ffn"),
        [((8, 8), 128, 4, 256), ((3, 2), 8, 4, 24), ((1, 9), 64, 2, 70), ((20, 33), 96, 1, 32), ((2, 48), 160, 4, 64)],
    )  # fmt: skip
    def test_the_compiled_transformer_is_the_head_in_float64(
        self, way: str, m: int, n: int, k: tuple[int, int], width: int, heads_: int, ffn: int
    ) -> None:
        """Written out with the same roundings. Where float32 and float64 fall on two sides of an edge of bfloat16, one input of a product
        differs in its last place: there the head whose inputs are a little larger or smaller is the one to equal."""
        head, left, right = transformer_sides(m, n, k, width, heads_, ffn)
        found = native.TransformerTile(head, way)(left, right)
        nudges = (0.0, 1e-7, -1e-7, 3e-7, -3e-7, 1e-6, -1e-6)
        off = torch.stack([(found - transformer_rounded(head, left, right, nudge)).abs() for nudge in nudges])
        assert float((off[0] < 2e-6).double().mean()) > 0.9
        assert float((off.amin(0) < 2e-6).double().mean()) > 0.95 and float(off.amin(0).max()) < 5e-4
        one, other = tuple(t[:, None] for t in left), tuple(t[None] for t in right)
        torch.testing.assert_close(found, head.combine(one, other)[..., 0].detach(), atol=0.03, rtol=0)

    @needs_code
    @both_ways
    def test_a_transformers_padding_changes_nothing(self, way: str) -> None:
        """Not the tokens that a text lacks, whatever lies there, and not the texts beside it."""
        head, left, right = transformer_sides(5, 37, (4, 6), 32, 4, 32)
        plain = native.TransformerTile(head, way)(left, right)

        def longer(side: heads.Prepared, by: int) -> heads.Prepared:
            return tuple(
                torch.nn.functional.pad(t, (0, by) if t.dtype == torch.bool else (0, 0, 0, by), value=0 if t.dtype == torch.bool else 1e3)
                for t in side
            )  # fmt: skip

        found = native.TransformerTile(head, way)(longer(left, 3), longer(right, 13))
        torch.testing.assert_close(found, plain, atol=1e-6, rtol=0)
        some = native.TransformerTile(head, way)(tuple(t[3:4] for t in left), tuple(t[30:35] for t in right))
        assert torch.equal(some, plain[3:4, 30:35])

    @needs_code
    def test_gelu_is_exact_to_single_places(self) -> None:
        bump = native.gelu_bump().double()
        x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
        place = (x.abs() * native.BUMPS).clamp(max=15.49)
        whole = place.round()
        lacking = sum(bump[term][whole.long()] * (place - whole) ** (4 - term) for term in range(5))
        assert float((x.relu() - lacking - torch.nn.functional.gelu(x)).abs().max()) < 5e-7

    @needs_code
    @both_ways
    @pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 31), (5, 97)])
    @pytest.mark.parametrize(("width", "hidden"), [(300, 200), (20, 6), (7, 33), (16, 32)])
    def test_the_compiled_comparison_is_the_head_in_float64(
        self, way: str, m: int, n: int, width: int, hidden: int
    ) -> None:
        torch.manual_seed(0)
        head = heads.CompareHead(width, 2, hidden)
        sides = [head.prepare(heads.Kept(torch.randn(c, 1, width), torch.ones(c, 1).bool()), i) for i, c in enumerate((m, n))]  # fmt: skip
        (a, p), (b, q) = ([t.detach() for t in side] for side in sides)
        found = native.CompareTile(head, way)((a, p), (b, q))
        assert head.both is not None
        x = torch.cat([a[:, None] * b[None], (a[:, None] - b[None]).abs()], dim=-1).bfloat16().double()
        x = x @ head.both.weight.bfloat16().double().T + p[:, None].double() + q[None].double()
        want = (torch.relu(x) @ head.output.weight.double().T + head.output.bias.double())[..., 0]
        torch.testing.assert_close(found.double(), want, atol=1e-5, rtol=1e-5)

    @needs_code
    @pytest.mark.parametrize(
        ("head", "residual"),
        [("cosine+maxsim", ""), ("ffnn", "cosine"), ("ffnn", "cosine+maxsim"), ("transformer", "cosine"), ("transformer", "maxsim")],
    )  # fmt: skip
    def test_compiled_parts_of_a_model_add_up(
        self, tiny_backbone: str, pairs: pd.DataFrame, head: str, residual: str
    ) -> None:
        torch.manual_seed(0)
        model = models.DualEncoder(
            tiny_backbone,
            (10, 14),
            (3, 3),
            pooled=residual != "maxsim",
            projection=8,
            head=head,
            hidden=(32, 16),
            residual=residual,
        ).eval()
        for p in model.head.parameters():
            torch.nn.init.normal_(p, std=0.3)
        scorer = Scorer(model)
        assert scorer.compiled is not None
        left = scorer.prepare(pairs["query"].unique()[:5].tolist(), 0)
        right = scorer.prepare(pairs["passage"].unique()[:40].tolist(), 1)
        torch.testing.assert_close(scorer.fast_tile(left, right), scorer.tile(left, right), atol=0.03, rtol=0)

    @needs_code
    def test_heads_of_other_shapes_stay_with_torch(self) -> None:
        assert native.compiled(heads.TransformerHead((2, 2), 8, layers=2)) is None
        assert native.compiled(heads.TransformerHead((2, 2), 8, outputs=3)) is None
        assert native.compiled(heads.TransformerHead((2, 2, 2), 8)) is None
        assert native.compiled(heads.FFNNHead([6, 6], (8, 8, 8))) is None
        assert native.compiled(heads.FFNNHead([6, 6, 6], (8, 8))) is None
        assert native.compiled(heads.CompareHead(8, 1)) is None
        assert native.compiled(heads.SimilarityHead("cosine")) is None

    @needs_code
    @both_ways
    def test_a_number_that_is_none_is_not_hidden(self, way: str) -> None:
        head = heads.FFNNHead([6, 6], (32, 32))
        a, b = torch.randn(3, 32), torch.randn(40, 32)
        a[1, 5] = float("nan")
        found = native.FFNNTile(head, way)((a,), (b,))
        assert found[1].isnan().all() and found[[0, 2]].isfinite().all()

    @needs_code
    @both_ways
    @pytest.mark.parametrize("token", [0, 1, 2])
    @pytest.mark.parametrize("side", [0, 1])
    def test_nor_is_it_hidden_by_a_maximum(self, way: str, side: int, token: int) -> None:
        head = heads.SimilarityHead("maxsim")
        sides = [(torch.randn(texts, 3, 32), torch.ones(texts, 3).bool()) for texts in (4, 40)]
        sides[side][0][1, token, 7] = float("nan")
        broken = native.MaxSimTile(head, way)(*sides).isnan()
        assert broken.any() and broken.movedim(side, 0)[1].all() and broken.sum() == (40, 4)[side]

    @needs_code
    @both_ways
    @pytest.mark.parametrize("tensor", [1, 2, 3])
    @pytest.mark.parametrize("side", [0, 1])
    def test_nor_by_a_softmax(self, way: str, side: int, tensor: int) -> None:
        head, *sides = transformer_sides(4, 40, (3, 5), 32, 4, 32)
        sides[side][tensor][1, 0, 7] = float("nan")
        broken = native.TransformerTile(head, way)(sides[0], sides[1]).isnan()
        read = side == 0 or tensor > 1  # the right text's queries are not
        assert broken.movedim(side, 0)[1].all() == read and broken.sum() == read * (40, 4)[side]

    @needs_code
    @both_ways
    @pytest.mark.parametrize("tensor", [0, 1])
    def test_nor_by_a_comparison(self, way: str, tensor: int) -> None:
        head = heads.CompareHead(20, 2, 6)
        sides = [(torch.randn(texts, 20), torch.randn(texts, 6)) for texts in (4, 40)]
        sides[1][tensor][35, 3] = float("nan")
        broken = native.CompareTile(head, way)(sides[0], sides[1]).isnan()
        assert broken[:, 35].all() and broken.sum() == 4

    def test_why_it_cannot_be_used_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compilation, "flags", lambda: frozenset({"avx2", "avx512f"}))
        monkeypatch.setattr(compilation.platform, "system", lambda: "Linux")
        assert compilation.unavailable_reason() == "the processor does not multiply bfloat16 (AVX512_BF16)"
        monkeypatch.setattr(compilation, "flags", lambda: frozenset(compilation.NEEDED))
        monkeypatch.setattr(compilation, "compiler", lambda: None)
        assert compilation.unavailable_reason() == "there is no C++ compiler (g++ or clang++)"
        monkeypatch.setattr(compilation.platform, "system", lambda: "Darwin")
        assert compilation.unavailable_reason() == "it is for Linux"

    def test_without_it_torch_computes(self, sides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        execution.score(job(sides, top=3), sides / "fast")
        monkeypatch.setenv("DIPAIR_NATIVE", "0")
        assert "switches it off" in compilation.unavailable_reason()
        assert Scorer.load(sides / "s").compiled is None
        execution.score(job(sides, top=3), sides / "slow")
        fast, slow = scored(sides / "fast"), scored(sides / "slow")
        assert fast["right"].equals(slow["right"])
        np.testing.assert_allclose(fast["score"], slow["score"], atol=1e-6)


# Runs in a process of its own, which loads the library once and forks a child for each attempt. Prints how many were killed.
KILLS = """
import functools, json, os, random, shutil, signal, sys, time
from pathlib import Path

import torch

from dipair_lib import models
from dipair_lib.scoring import encoding, execution, jobs, scorer

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
student = folder / "s"
models.load = functools.cache(models.load)  # here, once: most of a short run would be loading
scorer.Scorer.load(student)


def work(to):
    for side, name in enumerate("ab"):
        encoding.encode(student, folder / f"{name}.parquet", side, to / name, shard_texts=3)
    execution.score(jobs.Job(str(student), str(to / "a"), str(to / "b"), top=3, tile=(2, 6)), to / "out")


def attempt(to, seconds):
    child = os.fork()
    if not child:
        sys.stderr = open(os.devnull, "w")
        work(to)
        os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (done := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.001)
    if not done[0]:
        os.kill(child, signal.SIGKILL)
        done = os.waitpid(child, 0)
    return done[1]


def content(to):
    return {p.relative_to(to): p.read_bytes() for p in sorted(to.rglob("*")) if p.is_file() and p.suffix != ".lock" and p.name != ".lock"}


begun = time.monotonic()
assert attempt(folder / "whole", 600) == 0
whole, took = content(folder / "whole"), time.monotonic() - begun
paths = {p.name: p for p in (folder / "whole", folder / "torn")}
random.seed(0)
killed = ended = 0
while killed < kills or not ended:
    status = attempt(folder / "torn", random.uniform(0, took) if killed < kills else 600)
    killed += status == signal.SIGKILL
    assert status in (0, signal.SIGKILL), status
    if status == 0:
        ended += 1
        torn = content(folder / "torn")
        assert torn.keys() == whole.keys(), torn.keys() ^ whole.keys()
        for name, data in whole.items():
            if name.name == "job.json":  # it names its collections, and has a hash over that
                one, other = (json.loads(text) for text in (torn[name].replace(b"torn", b"whole"), data))
                assert one.pop("sha256") != other.pop("sha256") and one == other
            else:
                assert torn[name] == data, name
        shutil.rmtree(folder / "torn")
print(killed, ended)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_fifty_moments_the_files_are_those_of_an_undisturbed_run(sides: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(sides), "50"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed, ended = map(int, done.stdout.split())
    assert killed == 50 and ended >= 1


class TestFullDisk:
    """The system itself refuses files beyond a size, as a full disk would: what is whole stays, and the same command goes on."""

    def run(self, limit: int, *command: object) -> subprocess.CompletedProcess[str]:
        def full() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.run(
            [sys.executable, "-m", "dipair_lib.cli", *map(str, command)],
            capture_output=True,
            text=True,
            preexec_fn=full,
            check=False,
        )

    def test_encode_and_score(self, sides: Path) -> None:
        encode = (
            "encode",
            "--student",
            sides / "s",
            "--texts",
            sides / "a.parquet",
            "--field",
            0,
            "--out",
            sides / "new",
        )
        stopped = self.run(1000, *encode)
        assert stopped.returncode not in {0, -signal.SIGXFSZ}
        assert "new" in stopped.stderr and "Traceback" not in stopped.stderr
        assert not (sides / "new" / "manifest.json").exists()  # it would name a shard that is not whole
        assert self.run(1 << 30, *encode).returncode == 0
        assert Collection.open(sides / "new").verify() == []
        score = (
            "score",
            "--student",
            sides / "s",
            "--left",
            sides / "a",
            "--right",
            sides / "b",
            "--all",
            "--out",
        )
        stopped = self.run(1000, *score, sides / "out")
        assert stopped.returncode not in {0, -signal.SIGXFSZ}
        assert "could not be written" in stopped.stderr and "Traceback" not in stopped.stderr
        assert not list((sides / "out").glob("part-*"))
        assert self.run(1 << 30, *score, sides / "out").returncode == 0
        assert self.run(1 << 30, *score, sides / "undisturbed").returncode == 0
        assert {n: d for n, d in files(sides / "out").items() if "part" in n} == {
            n: d for n, d in files(sides / "undisturbed").items() if "part" in n
        }


class TestManyProcesses:
    def test_parts_of_a_job_make_the_whole(self, sides: Path) -> None:
        execution.score(job(sides, top=3), sides / "whole")
        for i in (2, 0, 1):
            execution.score(job(sides, top=3), sides / "out", part=(i, 3))
            assert len(job_parts.verify(sides / "out")) == {2: 2, 0: 1, 1: 0}[i]
        assert files(sides / "out") == files(sides / "whole")

    def test_a_second_one_that_wants_all_of_it_is_refused(self, sides: Path) -> None:
        with (
            encoding.writing(sides / "out"),
            pytest.raises(CollectionError, match="another process is writing here"),
        ):
            execution.score(job(sides, top=3), sides / "out")

    def test_on_ray_with_a_worker_killed_in_the_middle(
        self, sides: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ray = pytest.importorskip("ray")
        execution.score(job(sides, top=3, tile=(2, 6)), sides / "whole")
        marker = sides / "killed"

        class Dying(on_ray.Units):
            """The first actor to get its second unit dies of it, as if the machine had."""

            def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
                self.calls = getattr(self, "calls", 0) + 1
                if self.calls == 2 and not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), 9)
                return super().__call__(batch)

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        monkeypatch.setattr(on_ray, "Units", Dying)
        counts = on_ray.score(job(sides, top=3, tile=(2, 6)), sides / "out", workers=2)
        assert marker.exists()
        assert counts == {"units": 6, "done_before": 0, "rows": LEFT * 3, "pairs": LEFT * RIGHT}
        # The workers' encoder runs in the dtype of this machine, but nothing was left to encode.
        assert files(sides / "out") == files(sides / "whole")
        assert on_ray.score(job(sides, top=3, tile=(2, 6)), sides / "out")["done_before"] == 6


@pytest.mark.usefixtures("no_network")
class TestCommandLine:
    def test_from_texts_to_checked_scores(self, sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def dipair(*words: str) -> int:
            return cli.main([word.replace("@", f"{sides}/") for word in words])

        for side, name in enumerate("ab"):
            source = f"--student @s --texts @{name}.parquet --field {side} --dtype float16 --out @new/{name}"
            assert dipair("encode", *source.split()) == 0
        on = provenance.device_name()
        assert f"a: 11 distinct texts in 1 shards, float16, on {on}" in capsys.readouterr().out
        asked = ["score", *"--student @s --left @new/a --right @new/b".split()]
        best = [*asked, *"--all --top 2 --device cpu --out @out".split()]
        where = f"; {scorer.Scorer.load(sides / 's', 'cpu').where}"
        assert dipair(*best) == dipair(*best) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{sides}/out: 253 pairs scored, 22 rows in 1 parts{where}",
            f"{sides}/out: 253 pairs scored, 22 rows in 1 parts, 1 of them from before{where}",
        ]
        assert dipair("verify", "@new/a") == dipair("verify", "@out") == 0
        (sides / "out" / "part-00000.parquet").unlink()
        assert dipair("verify", "@out") == 1
        assert "part-00000.parquet: missing" in capsys.readouterr().out
        assert dipair(*asked, *"--pairs @x.csv --top 3 --out @z".split()) == 2
        assert "--top: expected a whole number from 1 on, and --all" in capsys.readouterr().err
        assert dipair(*asked, *"--all --device cpu --ray --out @z".split()) == 2
        assert "--device: on a Ray cluster each machine takes what it has" in capsys.readouterr().err
        assert dipair(*asked, *"--all --part 2/2 --out @z".split()) == 2
        assert (
            "--part: expected I/N with I from 0 to N - 1, such as 0/4, but got 2/2" in capsys.readouterr().err
        )
