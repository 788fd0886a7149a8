"""Facts about jobs on disk: every id comes back, what is damaged is noticed, what cannot be is refused before anything is written."""

from __future__ import annotations

import datetime
import decimal
import importlib
import json
import os
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dipair_lib import cli, models
from dipair_lib.data import files
from dipair_lib.experiments import scale
from dipair_lib.models import folders
from dipair_lib.scoring import block_search, collection, encoding, execution, ids, job_parts, jobs, sources
from dipair_lib.scoring import manifest as manifest_file
from dipair_lib.scoring.collection import Collection
from dipair_lib.scoring.jobs import Job
from dipair_lib.scoring.manifest import CollectionError
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.scoring.tiles import compilation
from dipair_lib.system import machine

LEFT = {7: "red car", 8: "blue house", 9: "red car", 12: "old river", 10: "red car"}
RIGHT = {
    "p0": "a car",
    "p1": "green tree",
    "p2": "a car",
    "01": "the old river",
    "p4": "green tree",
    "p5": "cold",
}


@pytest.fixture(scope="module")
def made(tiny_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student in s; collections a and b in which ids share texts: 5 ids of 3 texts, whole numbers, and 6 ids of 4, names."""
    folder = tmp_path_factory.mktemp("jobs")
    torch.manual_seed(0)
    student = models.DualEncoder(tiny_backbone, (6, 6), keep=(2, 2), projection=8, hidden=(8, 4))
    for parameter in student.head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    models.save(student.eval(), folder / "s")
    given: tuple[tuple[str, dict[Any, str]], ...] = (("a", LEFT), ("b", RIGHT))
    for side, (name, rows) in enumerate(given):
        pd.DataFrame({"id": list(rows), "text": list(rows.values())}).to_parquet(folder / f"{name}.parquet")
        encoding.encode(
            folder / "s", folder / f"{name}.parquet", side, folder / name, shard_texts=2, encoder="float32"
        )
    return folder


@pytest.fixture
def sides(made: Path, tmp_path: Path) -> Path:
    """A copy to harm."""
    return Path(shutil.copytree(made, tmp_path / "jobs"))


def job(folder: Path, **settings: Any) -> Job:
    paths: dict[str, Any] = {
        name: str(folder / at) for name, at in (("student", "s"), ("left", "a"), ("right", "b"))
    }
    return Job(**paths, **{"tile": (2, 3), **settings})


def scored(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(p) for p in sorted(folder.glob("part-*.parquet"))], ignore_index=True)


def expected(folder: Path) -> dict[tuple[Any, str], float]:
    """The score of every pair of ids, each scored with its own texts."""
    scorer = Scorer.load(folder / "s", "cpu", "float32")
    pairs = [(left, right) for left in LEFT for right in RIGHT]
    scores = scorer.score([LEFT[left] for left, _ in pairs], [RIGHT[right] for _, right in pairs])
    return dict(zip(pairs, scores.tolist(), strict=True))


def by_pair(frame: pd.DataFrame) -> dict[tuple[Any, str], float]:
    return {(row.left, row.right): row.score for row in frame.itertuples()}


class TestIds:
    @pytest.mark.parametrize("text", ["7", "0", "-5", str(2**63 - 1), str(-(2**63))])
    def test_plain_digits_are_a_whole_number(self, text: str) -> None:
        assert ids.number_of(text) == int(text) and str(ids.number_of(text)) == text

    @pytest.mark.parametrize(
        "text", ["007", "01000", "--5", "-0", "+7", "7.0", " 7", "1_0", "²", "٣", "", str(2**63), "9" * 5000]
    )
    def test_what_another_text_would_say_stays_a_text(self, text: str) -> None:
        assert ids.number_of(text) == text

    def test_pairs_come_back_as_they_were_asked_for(
        self, sides: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In their order, under their own ids, whatever buckets and units they are scored in."""
        monkeypatch.setattr(block_search, "BUCKET", 2)
        monkeypatch.setattr(jobs, "UNIT_PAIRS", 7)
        random = np.random.default_rng(0)
        asked = pd.DataFrame({"left": random.choice(list(LEFT), 40), "right": random.choice(list(RIGHT), 40)})
        asked.to_csv(sides / "pairs.csv", index=False)
        execution.score(job(sides, pairs=str(sides / "pairs.csv")), sides / "out")
        found, want = scored(sides / "out"), expected(sides)
        assert found["row"].tolist() == list(range(40))
        assert found[["left", "right"]].to_numpy().tolist() == asked.to_numpy().tolist()
        pairs = zip(asked["left"], asked["right"], strict=True)
        np.testing.assert_allclose(found["score"], [want[pair] for pair in pairs], atol=1e-5)

    def test_every_id_has_its_rows(self, sides: Path) -> None:
        counts = execution.score(job(sides), sides / "out")
        assert counts["rows"] == len(LEFT) * len(RIGHT) and counts["pairs"] == 3 * 4
        found, want = scored(sides / "out"), expected(sides)
        assert len(found) == len(LEFT) * len(RIGHT)
        assert by_pair(found) == pytest.approx(want, abs=1e-5)

    @pytest.mark.parametrize("threshold", [None, 0.0])
    def test_the_best_texts_under_every_id(self, sides: Path, threshold: float | None) -> None:
        execution.score(job(sides, top=2, threshold=threshold), sides / "out")
        found, want = scored(sides / "out"), expected(sides)
        assert set(found["left"]) == set(LEFT) or threshold is not None
        for left, rows in found.groupby("left"):
            distinct = {text: want[left, right] for right, text in RIGHT.items()}
            best = sorted(distinct, key=lambda text: -distinct[text])[:2]
            best = [text for text in best if threshold is None or distinct[text] >= threshold]
            assert sorted(rows["right"]) == sorted(right for right, text in RIGHT.items() if text in best)
            assert rows["score"].is_monotonic_decreasing
            assert (np.diff(rows.index) == 1).all()  # together

    def test_first_ids_and_a_table_make_every_id(self, sides: Path) -> None:
        execution.score(job(sides), sides / "every")
        execution.score(job(sides, ids="first"), sides / "first")
        rows = scored(sides / "first")
        assert set(rows["left"]) == {7, 8, 12} and set(rows["right"]) == {"p0", "p1", "01", "p5"}
        for side in ("left", "right"):
            table = pd.read_parquet(sides / "first" / f"ids-{side}.parquet")
            rows = rows.merge(table, left_on=side, right_on="first").drop(columns=[side, "first"])
            rows = rows.rename(columns={"id": side})
        assert by_pair(rows) == pytest.approx(by_pair(scored(sides / "every")), abs=1e-6)
        with pytest.raises(CollectionError, match="holds another job, of another ids"):
            execution.score(job(sides), sides / "first")

    def test_pieces_of_rows_are_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        left, right = (
            ids.Ids(pd.DataFrame({"id": range(n), "text": places}), texts)
            for n, places, texts in ((4, [0, 1, 0, 1], 2), (3, [0, 0, 1], 2))
        )
        pairs = np.array([0, 0, 1]), np.array([1, 0, 0])
        want = [(0, 0, 2), (1, 0, 0), (1, 0, 1), (0, 2, 2), (1, 2, 0), (1, 2, 1), (2, 1, 0), (2, 1, 1), (2, 3, 0), (2, 3, 1)]  # fmt: skip
        for most in (1, 5, 100):
            monkeypatch.setattr(ids, "ROWS", most)
            found = [
                row for piece in ids.every(left, right, pairs) for row in zip(*map(np.ndarray.tolist, piece), strict=True)
            ]  # fmt: skip
            assert (found if most == 100 else sorted(found)) == (want if most == 100 else sorted(want))

    def test_a_text_of_too_many_ids_is_refused(self, sides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ids, "ROWS_OF_PAIR", 5)
        with pytest.raises(
            CollectionError, match=r"one pair of texts stands for 6 pairs of ids: .*--ids first"
        ):
            execution.score(job(sides), sides / "out")
        assert execution.score(job(sides, ids="first"), sides / "out")["rows"] == 12

    def test_what_repeated_texts_mean_is_said(self, sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
        asked = ["score", "--student", "s", "--left", "a", "--right", "b", "--all", "--out", "out"]
        asked = [str(sides / word) if word in {"s", "a", "b", "out"} else word for word in asked]
        assert cli.main(asked) == 0
        said = capsys.readouterr().out.splitlines()[1:]
        assert [line.partition(": ")[2].partition(" (")[0] for line in said] == [
            "5 ids of 3 texts: each id has rows of its own",
            "6 ids of 4 texts: each id has rows of its own",
        ]
        assert cli.main([*asked[:-1], str(sides / "first"), "--ids", "first"]) == 0
        assert "6 ids of 4 texts: rows stand under a text's first id, and ids-right.parquet says" in (
            capsys.readouterr().out
        )

    @pytest.mark.parametrize("one", ["007", "--5", "²", "9" * 5000])
    def test_another_spelling_is_no_id(self, sides: Path, one: str) -> None:
        (sides / "pairs.csv").write_text(f"left,right\n8,p0\n{one},p0\n")
        with pytest.raises(CollectionError, match=r"pairs\.csv, row 2: left id '.*' is not in .*a: encode"):
            execution.score(job(sides, pairs=str(sides / "pairs.csv")), sides / "out")
        (sides / "right.csv").write_text("left,right\n8,1\n")  # "01" is an id, 1 is none
        with pytest.raises(CollectionError, match=r"right\.csv, row 1: right id '1' is not in"):
            execution.score(job(sides, pairs=str(sides / "right.csv")), sides / "out")

    @pytest.mark.parametrize(
        "column",
        [
            pa.array([1, 2, 2**63], pa.uint64()),
            pa.array([decimal.Decimal(n) for n in (1, 2, 3)]),
            pa.array([datetime.date(2026, 1, n) for n in (1, 2, 3)]),
            pa.array([uuid.UUID(int=n).bytes for n in range(3)], pa.binary(16)),
            pa.array([1.0, 2.0, 3.0]),
            pa.array(["a", "b", ""]),
        ],
        ids=["uint64", "decimal", "date", "uuid", "float", "empty"],
    )
    def test_other_ids_are_refused_before_anything_is_encoded(
        self, sides: Path, column: pa.Array, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "CHUNK", 1)
        monkeypatch.setattr(encoding.Writer, "arrays", lambda *_: pytest.fail("it was encoded"))
        pq.write_table(pa.table({"id": column, "text": ["one", "two", "three"]}), sides / "new.parquet")
        with pytest.raises(files.TaskError, match=r"new\.parquet, column 'id': row [13]: .*as text"):
            encoding.encode(sides / "s", sides / "new.parquet", 0, sides / "new", shard_texts=1)
        assert not (sides / "new" / "manifest.json").exists()

    def test_unsigned_ids_of_63_bits_are_kept(self, sides: Path) -> None:
        column = pa.array([1, 2**63 - 1], pa.uint64())
        pq.write_table(pa.table({"id": column, "text": ["one", "two"]}), sides / "new.parquet")
        found = encoding.encode(sides / "s", sides / "new.parquet", 0, sides / "new")
        assert found.ids()["id"].tolist() == [1, 2**63 - 1]

    def test_ids_of_the_other_kind_are_refused_before_anything_is_added(self, sides: Path) -> None:
        before = (sides / "a" / "manifest.json").read_bytes()
        (sides / "new.csv").write_text("id,text\n20,one\n21,two\n22,three\n007,four\n")
        with pytest.raises(
            CollectionError, match=r"new\.csv, row 4: id '007' is a text, but the collection's"
        ):
            encoding.encode(sides / "s", sides / "new.csv", 0, sides / "a", shard_texts=1)
        assert (sides / "a" / "manifest.json").read_bytes() == before

    def test_a_source_noted_too_far_is_read_from_its_beginning(self, sides: Path) -> None:
        """Its rows in the manifest are for people: a wrong number there loses no id."""
        path = sides / "a" / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["sha256"]  # as an older version wrote it
        manifest["shards"] = manifest["shards"][:1]
        manifest["sources"][0] |= {"rows": 4, "done": False}
        path.write_text(json.dumps(manifest))
        encoding.encode(sides / "s", sides / "a.parquet", 0, sides / "a", shard_texts=2)
        assert Collection.open(sides / "a").ids()["id"].tolist() == list(LEFT)


def flipped(path: Path, at: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)


def anew() -> None:
    """As if this were another process."""
    execution.open_job.cache_clear()
    manifest_file._digest.cache_clear()


@pytest.mark.parametrize("kind", ["every", "first"])
def test_a_sample_scored_anew_agrees(sides: Path, kind: str) -> None:
    execution.score(job(sides, top=2, ids=kind), sides / "out")
    lines = scale.recheck(sides / "out")
    assert lines["left"].tolist() == [0, 1, 2] and lines["kept"].eq(2).all()
    assert lines["missing"].eq(0).all() and lines["difference"].max() < 1e-5


class TestDamage:
    def test_a_changed_byte_is_refused_or_made_again(self, sides: Path) -> None:
        """In every kind of file that is read: never another number or name, and ``verify`` sees it."""
        asked = job(sides, ids="first")
        execution.score(asked, sides / "out")
        names = ["a/00000.0.npy", "b/00001.0.npy", "a/00001.ids.parquet", "a/manifest.json", "b/00000.hash.npy"]  # fmt: skip
        names += ["out/job.json", "out/part-00000.parquet", "out/part-00001.json", "out/ids-left.parquet"]
        sound = {p: p.read_bytes() for p in sides.rglob("*") if p.is_file() and p.name != ".lock"}
        random = np.random.default_rng(0)
        for name in names:
            path = sides / name
            for at in random.integers(0, len(sound[path]), 6):
                for kept, data in sound.items():
                    if not kept.exists() or kept.read_bytes() != data:
                        kept.write_bytes(data)
                flipped(path, int(at))
                anew()
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    try:
                        problems = job_parts.verify(sides / "out")
                    except CollectionError as error:
                        problems = [str(error)]
                noticed = [*problems, *(str(one.message) for one in said)]
                assert any(str(path) in line or str(path.parent) in line for line in noticed), (name, at)
                (sides / "out" / "part-00000.json").unlink(
                    missing_ok=True
                )  # a unit to do, with all that is beneath
                try:
                    execution.score(asked, sides / "out")
                except (CollectionError, models.ModelError):
                    continue
                parts = {p: p.read_bytes() for p in (sides / "out").glob("part-*")}
                assert parts == {p: data for p, data in sound.items() if p.name.startswith("part-")}, (
                    name,
                    at,
                )

    def test_explicit_pairs_are_the_ones_that_were_listed(self, sides: Path) -> None:
        (sides / "pairs.csv").write_text("left,right\n7,p0\n9,p2\n")
        asked = job(sides, pairs=str(sides / "pairs.csv"))
        execution.score(asked, sides / "out")
        flipped(sides / "out" / "pairs.npy", -16)  # names another id that there is
        (sides / "out" / "part-00000.json").unlink()
        anew()
        with pytest.raises(CollectionError, match=r"pairs\.npy: damaged: its sha256 is not the job's"):
            execution.score(asked, sides / "out")
        assert any("pairs.npy: damaged" in line for line in job_parts.verify(sides / "out"))

    def test_who_trusts_reads_on(self, sides: Path) -> None:
        flipped(sides / "a" / "00000.0.npy", -2)
        anew()
        with pytest.raises(
            CollectionError, match=r"00000\.0\.npy: damaged: its sha256 is not the manifest's"
        ):
            execution.score(job(sides), sides / "out")
        assert execution.score(job(sides), sides / "out", trust=True)["rows"] == 30

    def test_a_file_is_read_once_per_process_for_its_hash(
        self, sides: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[Path] = []

        def reading(path: Path) -> str:
            read.append(path)
            return "x"

        monkeypatch.setattr(manifest_file, "sha256_of", reading)
        path = sides / "a" / "00000.0.npy"
        os.utime(path, (1e9, 1e9))
        assert [manifest_file.digest_of(path) for _ in range(3)] == ["x"] * 3 and len(read) == 1
        os.utime(path, (2e9, 2e9))  # as if changed a moment ago, or by a clock that is ahead
        assert [manifest_file.digest_of(path) for _ in range(3)] == ["x"] * 3 and len(read) == 4

    def test_what_lies_beneath_scores_is_looked_at(self, sides: Path) -> None:
        execution.score(job(sides), sides / "out")
        assert job_parts.verify(sides / "out") == []
        flipped(sides / "b" / "00001.0.npy", -1)
        assert [line.partition(": ")[2] for line in job_parts.verify(sides / "out")] == [
            "damaged: its sha256 is not the manifest's"
        ]
        flipped(sides / "b" / "00001.0.npy", -1)
        (sides / "more.csv").write_text("id,text\n99,one more\n")
        encoding.encode(sides / "s", sides / "more.csv", 0, sides / "a")
        with pytest.warns(UserWarning, match="a: changed since: these are scores of what it was"):
            assert job_parts.verify(sides / "out") == []
        shutil.rmtree(sides / "a")
        with pytest.warns(UserWarning, match="a: not there any more"):
            assert job_parts.verify(sides / "out") == []

    @pytest.mark.parametrize("harm", ["gone", "damaged", "note", "another unit's"])
    def test_a_part_that_is_not_whole_is_made_again(self, sides: Path, harm: str) -> None:
        execution.score(job(sides), sides / "out")
        path, sound = job_parts.part_of(sides / "out", 1), job_parts.part_of(sides / "out", 1).read_bytes()
        if harm == "gone":
            path.unlink()
        elif harm == "damaged":
            flipped(path, 20)
        elif harm == "note":
            path.with_suffix(".json").write_text("{")
        else:
            shutil.copy(job_parts.part_of(sides / "out", 0), path)
        assert len(job_parts.verify(sides / "out")) == 1
        assert execution.score(job(sides), sides / "out") == {
            "units": 2,
            "done_before": 1,
            "rows": 30,
            "pairs": 12,
        }
        assert path.read_bytes() == sound and job_parts.verify(sides / "out") == []

    def test_a_job_of_fewer_units_is_refused(self, sides: Path) -> None:
        execution.score(job(sides), sides / "out")
        path = sides / "out" / "job.json"
        noted = json.loads(path.read_text())
        path.write_text(json.dumps(noted | {"units": noted["units"][:1]}))
        for call in (
            lambda: job_parts.verify(sides / "out"),
            lambda: execution.score(job(sides), sides / "out"),
        ):
            with pytest.raises(CollectionError, match=r"job\.json: .*units end at 2, but there are 3"):
                call()
        fewer = noted | {"units": noted["units"][:1], "texts": [2, 4]}
        path.write_text(json.dumps(fewer))
        with pytest.raises(CollectionError, match=r"job\.json: .*its sha256 is not that of what it says"):
            job_parts.verify(sides / "out")
        path.write_text(json.dumps(folders.sealed(fewer)))
        assert any("has 3 texts, but the job says 2" in line for line in job_parts.verify(sides / "out"))

    def test_a_manifest_of_more_texts_than_its_files_hold_is_refused_at_once(self, sides: Path) -> None:
        path = sides / "a" / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["shards"][0]["texts"] = 1 << 36
        path.write_text(json.dumps(manifest))
        with pytest.raises(CollectionError, match=r"manifest\.json: damaged: its sha256 is not that of what"):
            execution.score(job(sides), sides / "out")
        path.write_text(json.dumps(folders.sealed(manifest)))
        with pytest.raises(CollectionError, match=r"hash\.npy: of another size than 68,719,476,736 texts"):
            execution.score(job(sides), sides / "out")

    def test_scores_of_an_earlier_version_are_still_verified_and_not_added_to(self, sides: Path) -> None:
        execution.score(job(sides, ids="first"), sides / "out")
        path = sides / "out" / "job.json"
        noted = json.loads(path.read_text())
        for part in (noted["job"], noted["identity"]):
            del part["ids"]
        path.write_text(json.dumps({name: noted[name] for name in ("job", "identity", "units")}))
        assert job_parts.verify(sides / "out") == []
        with pytest.raises(CollectionError, match="out: scored by an earlier version"):
            execution.score(job(sides, ids="first"), sides / "out")
        flipped(job_parts.part_of(sides / "out", 0), 20)
        assert len(job_parts.verify(sides / "out")) == 1

    def test_a_student_that_changed_since_is_refused(self, sides: Path) -> None:
        jobs.create_job(job(sides), sides / "out")
        config = json.loads((sides / "s" / "config.json").read_text())
        (sides / "s" / "config.json").write_text(json.dumps(config | {"note": 1}))
        with pytest.raises(CollectionError, match="s: another student than the job's"):
            execution.run_unit(sides / "out", 0)


class TestRefusedBeforeAnythingIsWritten:
    @pytest.mark.parametrize(
        "asked",
        [{"threshold": float("nan")}, {"threshold": 1e39}, {"threshold": -1e39}, {"threshold": float("inf")}, {"top": 1 << 60}, {"top": -1},
         {"ids": "some"}, {"tile": (0, 4)}],
    )  # fmt: skip
    def test_what_no_job_can_be(self, sides: Path, asked: dict[str, Any]) -> None:
        with pytest.raises(CollectionError, match=rf"^{next(iter(asked))}: expected .* but got"):
            job(sides, **asked)

    @pytest.mark.parametrize(
        "asked", ["--threshold nan", "--threshold 1e39", f"--top {1 << 60}", "--part ²/³", "--part 0/0"]
    )
    def test_on_the_command_line(self, sides: Path, asked: str, capsys: pytest.CaptureFixture[str]) -> None:
        where = f"--student {sides}/s --left {sides}/a --right {sides}/b --out {sides}/out --all {asked}"
        assert cli.main(["score", *where.split()]) == 2
        assert "expected" in capsys.readouterr().err and not (sides / "out").exists()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
                "a Git LFS pointer",
            ),
        ],
    )
    def test_a_file_that_is_not_what_its_name_says(self, sides: Path, content: str, said: str) -> None:
        (sides / "t.csv").write_text(content)
        with pytest.raises(ValueError, match=rf"t\.csv: {said}"):
            encoding.encode(sides / "s", sides / "t.csv", 0, sides / "new")
        assert not (sides / "new" / "manifest.json").exists()

    def test_semicolons_are_read_and_said(self, sides: Path) -> None:
        """One column to a reader of commas: the texts would be "1;hello world"."""
        (sides / "t.csv").write_text("id;text\n7;hello world\n8;the car\n")
        with pytest.warns(UserWarning, match=r"t\.csv: cells separated by semicolons"):
            encoding.encode(sides / "s", sides / "t.csv", 0, sides / "new")
        assert collection.Collection.open(sides / "new").ids()["id"].tolist() == ["7", "8"]

    def test_a_text_is_no_list_of_letters(self, sides: Path) -> None:
        scorer = Scorer.load(sides / "s")
        for call in (
            lambda: scorer.score("a query", "passage"),
            lambda: scorer.score(["a query"], "p"),
            lambda: scorer.rank("a query", "passage"),
            lambda: scorer.prepare("passage", 1),
        ):
            with pytest.raises(ValueError, match=r"expected a list of texts of field [01], but got the text"):
                call()
        with pytest.raises(ValueError, match="expected texts of field 1, but got None"):
            scorer.score(["a"], [None])  # type: ignore[list-item]

    def test_an_export_without_its_tokenizers_hashes(self, sides: Path, tiny_backbone: str) -> None:
        """Whose weights would then be read with the tokenizer of whatever its backbone is called."""
        path = sides / "s" / "config.json"
        config = json.loads(path.read_text())
        for further in ({"exported": "run"}, {"exported": "run", "tokenizer": {}}):
            path.write_text(json.dumps(config | further))
            with pytest.raises(models.ModelError, match="tokenizer"):
                Scorer.load(sides / "s")
        path.write_text(json.dumps(config))
        shutil.copytree(tiny_backbone, sides / "s" / "tokenizer")
        with pytest.raises(models.ModelError, match="names no sha256 of the student's own tokenizer"):
            Scorer.load(sides / "s")

    def test_a_folder_that_is_read_only_is_said(self, sides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
        with pytest.raises(CollectionError, match=r"out: cannot be written \(Read-only file system\)"):
            execution.score(job(sides), sides / "out")


class TestSideBySide:
    def test_what_another_process_is_writing_is_left_to_it(self, sides: Path) -> None:
        """A whole `score` beside `--part` on one folder."""
        execution.score(job(sides), sides / "out")
        target = job_parts.part_of(sides / "out", 0)
        left = target.with_name(f".{target.name}.dead.tmp")
        left.write_bytes(b"what a killed process left")
        with job_parts.half(target) as path:
            path.write_bytes(b"half")
            target.with_suffix(".json").unlink()
            execution.score(job(sides), sides / "out")
            assert path.exists() and not left.exists()
            path.write_bytes(target.read_bytes())
        assert job_parts.verify(sides / "out") == [] and not list((sides / "out").glob(".*.tmp"))

    def test_a_part_goes_on_beside_one_that_does_all(self, sides: Path) -> None:
        jobs.create_job(job(sides), sides / "out")
        with encoding.writing(sides / "out"):
            assert execution.score(job(sides), sides / "out", part=(1, 2))["units"] == 1
            with pytest.raises(CollectionError, match="another process is writing here"):
                execution.score(job(sides), sides / "out")
        assert execution.score(job(sides), sides / "out")["done_before"] == 1

    @pytest.mark.parametrize("part", [(0, 1), (0, 2)])
    def test_a_lock_that_is_only_a_file_is_waited_for_so_long(
        self, sides: Path, monkeypatch: pytest.MonkeyPatch, part: tuple[int, int]
    ) -> None:
        monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
        monkeypatch.setattr(encoding, "PATIENCE", 0.1)
        (sides / "out").mkdir()
        (sides / "out" / ".lock").touch()
        with pytest.raises(CollectionError, match=r"another process is writing here: .*delete \.lock"):
            execution.score(job(sides), sides / "out", part)

    def test_only_a_full_disk_is_said_to_need_space(self, tmp_path: Path) -> None:
        for number, said in ((28, r"nothing was lost: free some space"), (2, r"nothing was lost$")):
            with (
                pytest.raises(CollectionError, match=rf"part: could not be written \(.*\); {said}"),
                job_parts.half(tmp_path / "part"),
            ):
                raise OSError(number, os.strerror(number))
            assert list(tmp_path.iterdir()) == []

    def test_a_lock_that_an_earlier_run_left_stops_nobody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the file system has no locks, its file alone is one."""
        monkeypatch.setattr(compilation, "PATIENCE", 0.05)
        monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
        monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path)
        monkeypatch.setattr(compilation, "compile_to", lambda path, _: path.write_text("compiled"))
        monkeypatch.setattr(compilation.ctypes, "CDLL", lambda path: Path(path).read_text())
        monkeypatch.setattr(compilation, "compiler", lambda: "c++")
        monkeypatch.setattr(compilation, "flags", frozenset)
        load = compilation.library.__wrapped__
        assert load() == "compiled"
        (made,) = (tmp_path / "native").glob("*.so")
        made.unlink()
        Path(f"{made}.lock").touch()
        assert load() == "compiled"


HEADS: dict[str, dict[str, Any]] = {
    "cosine": {"head": "cosine", "keep": (0, 0), "pooled": True, "projection": 0},
    "ffnn": {"keep": (3, 2), "pooled": True, "residual": "cosine", "hidden": (8, 4), "projection": 8},
    "transformer": {"head": "transformer", "keep": (3, 2), "projection": 8},
    "maxsim": {"head": "maxsim", "keep": (3, 4), "projection": 8},
}


class TestOneScore:
    @pytest.mark.parametrize("head", HEADS)
    def test_in_float32_a_pair_has_one_score_whatever_it_is_scored_with(
        self, head: str, tiny_backbone: str, pairs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Alone, among longer texts that pad it, in batches of another size, in a tile: to 1e-6."""
        torch.manual_seed(0)
        model = models.DualEncoder(tiny_backbone, (20, 20), **HEADS[head]).eval()
        scorer = Scorer(model, "cpu", "float32")
        left, right = pairs["query"].tolist()[:24], pairs["passage"].tolist()[:24]
        right[3] = "red " * 18
        together = scorer.score(left, right)
        alone = np.concatenate([scorer.score([a], [b]) for a, b in zip(left, right, strict=True)])
        np.testing.assert_allclose(alone, together, atol=1e-6, rtol=1e-6)
        tile = scorer.tile(scorer.prepare(left, 0), scorer.prepare(right, 1)).diagonal()
        np.testing.assert_allclose(tile, together, atol=1e-6, rtol=1e-6)
        monkeypatch.setattr(importlib.import_module("dipair_lib.inference.predict"), "BATCH_TOKENS", 40)
        np.testing.assert_allclose(scorer.score(left, right), together, atol=1e-6, rtol=1e-6)
        assert together.std() > 1e-4

    def test_the_dtype_is_the_one_that_was_asked_for(self, sides: Path) -> None:
        for dtype in ("float32", "bfloat16"):
            scorer = Scorer.load(sides / "s", "cpu", dtype)
            assert next(scorer.encoder.encoders[0].parameters()).dtype == getattr(torch, dtype)
            assert scorer.prepare(["red"], 0)[0].dtype == torch.float32
        with pytest.raises(ValueError, match="dtype: expected auto, float32 or bfloat16, but got 'int8'"):
            Scorer.load(sides / "s", "cpu", "int8")
        assert Collection.open(sides / "a").manifest["encoder_dtype"] == "float32"
        with pytest.raises(CollectionError, match="holds encoder_dtype 'float32', but 'bfloat16' was asked"):
            encoding.encode(sides / "s", sides / "a.parquet", 0, sides / "a", encoder="bfloat16")
        asked = f"encode --student {sides}/s --texts {sides}/a.parquet --field 0 --out {sides}/c --encoder-dtype bfloat16"
        assert cli.main(asked.split()) == 0
        assert Collection.open(sides / "c").manifest["encoder_dtype"] == "bfloat16"
