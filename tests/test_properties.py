"""Whatever a file holds, it is read as a plain reading reads it, or refused by an error of ours that names it: never another exception.

The examples are the same in every run (``derandomize``), so that a failure is a change of the code and not of the weather.
"""

from __future__ import annotations

import bz2
import copy
import csv
import gzip
import io
import json
import lzma
import math
import re
import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dipair_lib import models
from dipair_lib.data import loading, tables
from dipair_lib.data.files import TaskError
from dipair_lib.data.labels import DOUBTFUL_LABELS, MISSING_LABELS
from dipair_lib.evaluation import results, verification
from dipair_lib.evaluation.schema import Result
from dipair_lib.reporting import derived, overview, selection, wording
from dipair_lib.runner import notebook_files, suite_file
from dipair_lib.runner.suite_file import SuiteError
from dipair_lib.scoring import encoding, execution, job_parts, jobs, manifest
from dipair_lib.scoring.collection import Collection
from dipair_lib.scoring.manifest import CollectionError
from dipair_lib.system import disk
from dipair_lib.system.disk import ResultError

steady = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
DEEP = "[" * 100_000
WORDS = ["", "x", "1_0", "--1", "nan", "1e400", "1e39", "-1", "9" * 5000, "9007199254740993", "\u202e"]
WORDS += [
    "\x1b[2Jred",
    "\0",
    "\ud800",
    "\u2028",
    "\x85",
    "../../up",
    "/etc/passwd",
    "<script>alert(1)</script>",
    "w" * 100_000,
]
NUMBERS = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**53 + 1,
    2**63,
    10**400,
    0.5,
    -0.0,
    1e39,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
]
VALUES = st.sampled_from([*WORDS, *NUMBERS, [], {}, [[0]], [1, 2], {"a": None}, b"\xff"])

NOTHING = st.sampled_from(["-", "?", "NA", "", " ", "\u200b", "-1", "None", "null"])


# --- how files are spoiled --------------------------------------------------------------------------------------------------------


PIECES = st.sampled_from(
    [
        b"\0",
        b"\xff",
        b'"',
        b'""',
        b"\r",
        b"\n",
        b"\r\n",
        b",",
        b"\t",
        b"\xef\xbb\xbf",
        b"{",
        b"}",
        b"\\ud800",
        b"NaN",
        b"1e400",
    ]
    + [
        b"9" * 5000,
        b"[" * 100_000,
        "\u2028".encode(),
        "\x85".encode(),
        b"- *a",
        b"&a ",
        b"2020-13-45",
        b"!!python/object/apply:os.system [x]",
        b": ",
    ]
) | st.binary(max_size=4)


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes cut, with something put in or taken out, up to three times."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["cut", "insert", "insert", "overwrite", "drop"]))
        if how == "cut":
            data = data[:at]
        elif how == "drop":
            data = data[:at] + data[at + draw(st.integers(1, 8)) :]
        else:
            piece = draw(PIECES)
            data = data[:at] + piece + data[at + (len(piece) if how == "overwrite" else 0) :]
    return data


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in nested lists and mappings."""
    yield at
    for key, value in (
        tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    ):
        yield from places(value, (*at, key))


@st.composite
def mutated(draw: st.DrawFn, tree: Any) -> Any:
    """A tree with up to three of its values replaced, removed, renamed or joined by others."""
    tree = {"": copy.deepcopy(tree)}
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([p for p in places(tree) if p]))
        inside: Any = tree
        for key in parents:
            inside = inside[key]
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if how == "replace" or inside is tree:
            inside[last] = copy.deepcopy(draw(VALUES))
        elif how == "remove":
            del inside[last]
        elif isinstance(inside, dict):
            inside[draw(st.sampled_from(["x", "../../up", "__class__", "\x1b[2J"]))] = copy.deepcopy(
                draw(VALUES)
            )
        else:
            inside.append(copy.deepcopy(draw(VALUES)))
    return tree[""]


def as_json(tree: Any) -> bytes:
    return json.dumps(tree, default=repr).encode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoiled")


# --- texts and labels -------------------------------------------------------------------------------------------------------------


def table(labels: list[Any]) -> list[dict[str, Any]]:
    return [
        {"query": f"red car {i}", "passage": f'a "warm", old house {i % 7}', "label": label}
        for i, label in enumerate(labels)
    ]


def arrow(values: list[Any]) -> pa.Array:
    """A column, of texts where its values have no type in common."""
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeError, OverflowError):
        return pa.array([ascii(value) for value in values])


def written(rows: list[dict[str, Any]], suffix: str) -> bytes:
    if suffix == ".parquet":
        columns = {name: arrow([row[name] for row in rows]) for name in rows[0]}
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)  # type: ignore[no-untyped-call]
        return buffer.getvalue()
    if suffix == ".jsonl":
        return "".join(json.dumps(row, default=repr) + "\n" for row in rows).encode()
    cells = [
        ["query", "passage", "label"],
        *(["" if v is None else str(v) for v in row.values()] for row in rows),
    ]
    lines = io.StringIO()
    if suffix == ".csv":
        csv.writer(lines, lineterminator="\n").writerows(cells)
    else:
        lines.write("".join("\t".join(cell.replace("\t", " ") for cell in row) + "\n" for row in cells))
    return lines.getvalue().encode("utf8", "surrogatepass")


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file's name and content: sound, with odd cells, or spoiled before or after it was packed."""
    suffix = draw(st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
    kinds: list[list[Any]] = [[0, 1], ["no", "yes"], [0.5, 1.25], ["1.0", "2"], ["1_0", "1_1"], ["-1", "1"]]
    kinds += [["Yes", "no", "yes", "No"], [0, 1, -1]]
    rows = table(draw(st.sampled_from(kinds)) * 30)
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.integers(0, len(rows) - 1))
        rows[row][draw(st.sampled_from(["query", "passage", "label", "label"]))] = draw(VALUES | NOTHING)
    data = written(rows, suffix)
    packed = draw(st.booleans())
    if draw(st.booleans()):
        data = draw(spoiled(data))
    if packed:
        data = gzip.compress(data, mtime=0)
        if draw(st.booleans()):
            data = draw(spoiled(data))
    return f"pairs{suffix}{'.gz' * packed}", data


def plainly(name: str, data: bytes) -> pd.DataFrame:
    """The shortest program that reads a format: names without surrounding space, no empty lines, no empty cells behind the last column."""
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    if data.startswith(b"PAR1") or ".parquet" in name:
        return pd.DataFrame(pq.read_table(io.BytesIO(data)).to_pydict(), dtype=object)  # type: ignore[no-untyped-call]
    text = data.decode("utf-8-sig").rstrip("\r\n")
    if ".jsonl" in name:
        values, at = [], 0
        while at < len(text.rstrip()):
            at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n"))
            value, at = json.JSONDecoder().raw_decode(text, at)
            values.append(value)
        return pd.DataFrame([value for value in values if value], dtype=object)
    if ".tsv" in name:
        rows = [line.removesuffix("\r").split("\t") for line in text.split("\n")]
    else:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    header, *rows = [row for row in rows if any(cell.strip() for cell in row)]
    names = [cell.strip() for cell in header]
    while not names[-1]:
        names.pop()
    kept = [row[: len(names)] for row in rows if [cell.strip() for cell in row] != names]
    return pd.DataFrame(kept, columns=names, dtype=object)


def is_nothing(value: Any) -> bool:
    """A text or label that is left out where few are like it."""
    text = "" if value is None or value != value else str(value).strip()
    known = (*MISSING_LABELS, *DOUBTFUL_LABELS, "none", "-1", "-1.0")
    return text.lower() in known or not any(c.isprintable() and not c.isspace() for c in text)


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def label_of(value: Any) -> Any:
    """A label as what it says: an exact number, else its text."""
    value = str(float(value)) if isinstance(value, bool) else str(value).strip()
    return Decimal(value) if NUMBER.fullmatch(value) else value


def is_plain(text: str) -> bool:
    """Not empty, and between quotes no row of its own: that has two readings, and quotes are then characters."""
    return bool(text.strip()) and not 0 < 2 * text.count("\n") == text.count("\t")


TEXTS = st.text(st.sampled_from("ab é你\" ',;|\t\n\u2028\x85\u200b\\#[{-1"), min_size=1, max_size=12).filter(
    is_plain
)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, bytes, list[list[str]]]:
    """A file's name and content in a layout that people's programs write, and its rows."""
    header = ["query", "passage", "label"]
    rows = [[draw(TEXTS).strip(), draw(TEXTS).strip(), str(i % 2)] for i in range(draw(st.integers(2, 6)))]
    kind = draw(
        st.sampled_from(
            [
                "csv",
                "semicolons",
                "excel",
                "tsv",
                "all",
                "spark",
                "sep",
                "jsonl",
                "array",
                "pretty",
                "parquet",
            ]
        )
    )
    lines = io.StringIO()
    name = "pairs.csv"
    if kind in ("jsonl", "array", "pretty"):
        objects = [dict(zip(header, row, strict=True)) for row in rows]
        name = draw(st.sampled_from(["pairs.jsonl", "pairs.json", "pairs.ndjson"]))
        each = [
            json.dumps(one, indent=2 if kind == "pretty" else None, ensure_ascii=draw(st.booleans()))
            for one in objects
        ]
        lines.write(f"[{','.join(each)}]" if kind == "array" else "\n\n".join(each) + "\n")
    elif kind == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.table(dict(zip(header, zip(*rows, strict=True), strict=True))), buffer)  # type: ignore[no-untyped-call]
        return draw(st.sampled_from(["pairs.parquet", "pairs.csv"])), buffer.getvalue(), rows
    else:
        separator = {"semicolons": ";", "sep": ";", "tsv": "\t", "all": "\t"}.get(kind, ",")
        quoting: Any = csv.QUOTE_ALL if kind in ("all", "spark") else csv.QUOTE_MINIMAL
        if separator == "\t":
            name = draw(st.sampled_from(["pairs.tsv", "pairs.txt"]))
        lines.write("sep=;\r\n" if kind == "sep" else "")
        spark: Any = {"doublequote": False, "escapechar": "\\"} if kind == "spark" else {}
        if kind == "spark":
            rows = [['say "hi", you', *row[1:]] if not i else row for i, row in enumerate(rows)]
        writer = csv.writer(
            lines,
            delimiter=separator,
            quoting=quoting,
            lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
            **spark,
        )
        for row in [header, *rows]:
            writer.writerow([*row, "", ""] if kind == "excel" else row)
        lines.write(",,,,\n" * 2 if kind == "excel" else "")
    data = lines.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))
    pack: Any = draw(st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress]))
    return name, pack(data), rows


class TestLoader:
    @settings(steady, max_examples=150)
    @given(file=files())
    def test_a_file_is_read_as_a_plain_reading_or_refused_by_name(
        self, place: Path, file: tuple[str, bytes]
    ) -> None:
        name, data = file
        path = place / name
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is untidy is told of
                task = loading.load_task(path, fields=["query", "passage"], label="label")
        except TaskError as error:
            assert str(path) in str(error)
            return
        expected: dict[Any, list[Any]] = {}
        nothing = set()
        frame = plainly(name, data)
        for query, passage, label in zip(frame["query"], frame["passage"], frame["label"], strict=True):
            key = (" ".join(str(query).split()), " ".join(str(passage).split()))
            expected.setdefault(key, []).append(label)
            if is_nothing(query) or is_nothing(passage) or is_nothing(label):
                nothing.add(key)
        found = {}
        for split in (task.train, task.dev, task.test):
            for query, passage, label in zip(split["query"], split["passage"], split["label"], strict=True):
                found[" ".join(query.split()), " ".join(passage.split())] = label
        assert found.keys() <= expected.keys()
        near = {tuple(text.casefold() for text in key) for key in found}
        assert all(
            key in nothing or tuple(t.casefold() for t in key) in near
            for key in expected.keys() - found.keys()
        )
        for key, label in found.items():
            its = next((one for one in expected[key] if not is_nothing(one)), expected[key][0])
            if task.kind == "classes":
                assert label_of(task.classes[label].casefold()) == label_of(
                    str(its).casefold() if isinstance(its, str) else its
                )
            else:
                assert label == np.float32(float(its)) and math.isfinite(label)

    @settings(steady, max_examples=60)
    @given(file=layouts())
    def test_a_layout_changes_no_cell(self, place: Path, file: tuple[str, bytes, list[list[str]]]) -> None:
        name, data, rows = file
        (place / name).write_bytes(data)
        table = tables.read_table(place / name, asked=["query", "passage", "label"])
        kept = [[str(cell) for cell in row] for row in zip(*table.columns.values(), strict=True)]
        assert list(table.columns) == ["query", "passage", "label"]
        assert kept == rows


# --- rows -------------------------------------------------------------------------------------------------------------------------

LABELS, GROUPS = np.array([0, 1, 0, 1, 1, 0]), np.array([0, 0, 1, 1, 2, 2])
LOGITS = np.array([[0.1], [0.4], [0.5], [0.3], [2.0], [-1.0]], np.float32)
RUN = "03_dipair-0123456789.ffnn"
ROW = Result(
    run_id=RUN, created_utc="2026-01-02T03:04:05+00:00", notebook="03_dipair", suite="demo", task="pairs", split="test", n_examples=6,
    parameters='{"task":"pairs.csv","seed":1}', data_notes='{"source":"pairs.csv"}', data_sha256="d" * 64, model="FFNN k=8",
    family="dipair", head="ffnn", keep="4+16", read_lengths="16+32", metric="auc", quality=8 / 9, quality_low=0.5, quality_high=1.0,
    n_boot=20, metrics='{"accuracy":0.5}', bytes_per_text=128.0, tokenize_s_per_text=1e-5, encode_s_per_text=1e-3, combine_s_per_pair=1e-6,
    latency_p95_s=0.01, params_total=1000, flops_per_text=1e6, teacher_s_per_pair=1e-2, seed=1, dtype="float32", clock_id="c", threads=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one row."""
    folder = tmp_path_factory.mktemp("rows")
    results.save_result(folder, ROW, LOGITS, LABELS, GROUPS)
    return folder


@st.composite
def arrays(draw: st.DrawFn) -> bytes:
    """Logits of one row: an array of another kind or shape, pickled, left out, or the file spoiled."""
    content: dict[str, Any] = {
        "logits": LOGITS,
        "labels": LABELS,
        "groups": GROUPS,
        "split": np.array("test"),
    }
    name = draw(st.sampled_from(["logits", "labels", "groups", "split", "gains"]))
    array = np.asarray(content.get(name, LABELS))
    n = len(LABELS)
    changed = [
        array, np.resize(array, 3), np.resize(array, 0), array[..., None], array.astype(str), array.astype(object), np.array(1.0),
        array.astype(str).astype("S"), np.full(n, np.nan), np.full(n, np.inf, np.float16), np.full((n, 1), 1e300), np.ones((n, 0)),
        np.ones(n, bool), np.ones(n, complex), np.arange(n) - 9, np.full(n, 2**63, np.uint64), np.array([{}] * n),
    ]  # fmt: skip
    how = draw(st.integers(-1, len(changed) - 1))
    if how < 0:
        content.pop(name, None)
    else:
        content[name] = changed[how]
    buffer = io.BytesIO()
    if draw(st.integers(0, 7)) == 0:
        np.save(buffer, array, allow_pickle=True)
    else:
        draw(st.sampled_from([np.savez, np.savez_compressed]))(buffer, **content)
    data = buffer.getvalue()
    return draw(spoiled(data)) if draw(st.booleans()) else data


class TestRows:
    @settings(steady, max_examples=150)
    @given(data=mutated(json.loads(ROW.to_json())).map(as_json) | spoiled(ROW.to_json().encode()))
    def test_a_row_says_what_its_json_says_or_is_refused_by_name(self, rows: Path, data: bytes) -> None:
        path = results.row_folder(rows, RUN) / "row.json"
        path.write_bytes(data)
        try:
            row = results.load_result(rows, RUN)
        except ResultError as error:
            assert str(path) in str(error)
            return
        said = json.loads(data)
        assert said.pop("schema") in (1, 2, 3, 4, 5)
        for name, value in said.items():
            found = getattr(row, name)
            assert found == (float(value) if isinstance(found, float) else value), name
        # What was let in does no harm further on.
        assert results.parse_result(row.to_json(), "") == row
        assert isinstance(verification.verify(rows), list)
        frame = derived.frame([row])
        if row.family != "published":
            assert overview.table(frame)["model"].tolist() == [wording.plain(frame["model"].iloc[0])]
            assert selection.select(frame).sentence and overview.hover(frame.iloc[0])

    @settings(steady, max_examples=150)
    @given(data=arrays())
    def test_logits_are_those_of_the_file_or_refused_by_name(self, rows: Path, data: bytes) -> None:
        disk.write_atomic(results.row_folder(rows, RUN) / "row.json", ROW.to_json().encode())
        path = results.row_folder(rows, RUN) / "logits.npz"
        path.write_bytes(data)
        try:
            stored = results.load_logits(rows, RUN)
        except ResultError as error:
            assert str(path) in str(error)
        else:
            with np.load(io.BytesIO(data), allow_pickle=False) as plain:
                for name in ("logits", "labels", "groups"):
                    assert np.array_equal(getattr(stored, name), plain[name])
            assert np.isfinite(stored.logits).all()
        problems = verification.verify(rows)
        same = not problems and all(
            np.array_equal(getattr(stored, n), v) for n, v in (("logits", LOGITS), ("labels", LABELS))
        )
        assert problems or same or stored.logits.shape[1] > 1, "what is verified gives the row's own numbers"


# --- collections and jobs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: str) -> Path:
    """A student in s, its collections of both fields in a and b, and finished scores of all pairs in out."""
    folder = tmp_path_factory.mktemp("encoded")
    torch.manual_seed(0)
    student = models.DualEncoder(tiny_backbone, (6, 6), keep=(1, 1), projection=4, hidden=(4, 4))
    models.save(student.eval(), folder / "s")
    for side, name in enumerate("ab"):
        pd.DataFrame({"id": range(5), "text": [f"red car {i}" for i in range(5)]}).to_csv(
            folder / f"{name}.csv", index=False
        )
        encoding.encode(folder / "s", folder / f"{name}.csv", side, folder / name, shard_texts=3)
    job = jobs.Job(str(folder / "s"), str(folder / "a"), str(folder / "b"), tile=(2, 6))
    execution.score(job, folder / "out")
    return folder


def loaded(folder: Path) -> tuple[list[Any], list[Any]]:
    found = Collection.open(folder)
    return [t.tolist() for t in found.block(0, len(found))], found.ids().to_numpy().tolist()


class TestCollections:
    @settings(steady, max_examples=150)
    @given(data=st.data())
    def test_a_manifest_is_whole_or_refused_by_name(self, encoded: Path, data: st.DataObject) -> None:
        path = encoded / "a" / "manifest.json"
        sound = path.read_bytes()
        expected = loaded(encoded / "a")
        changed = data.draw(mutated(json.loads(sound)).map(as_json) | spoiled(sound))
        path.write_bytes(changed)
        try:
            try:
                problems = Collection.open(encoded / "a").verify()
                found = loaded(encoded / "a")
            except CollectionError as error:
                assert str(encoded / "a") in str(error)
                return
            listed = json.loads(changed)
            assert [len(shard["files"]) for shard in listed["shards"]] or problems == []
            assert (
                found == expected
                or listed["shards"] != json.loads(sound)["shards"]
                or listed["dtype"] != "float32"
                or problems
            )
        finally:
            path.write_bytes(sound)

    @settings(steady, max_examples=100)
    @given(data=st.data())
    def test_a_shard_is_its_own_or_refused_by_name(self, encoded: Path, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted((encoded / "a").glob("0000*"))))
        sound, expected = path.read_bytes(), loaded(encoded / "a")
        changed = data.draw(spoiled(sound))
        path.write_bytes(changed)
        try:
            noted = manifest.read_manifest(encoded / "a")
            assert (Collection(encoded / "a", noted).verify() == []) == (changed == sound)
            # The hashes of texts are read for more texts only, and when those are added.
            read = path.suffix != ".npy" or "hash" not in path.name
            try:
                assert loaded(encoded / "a") == expected and (changed == sound or not read)
            except CollectionError as error:
                assert str(path) in str(error) and changed != sound
        finally:
            path.write_bytes(sound)

    @settings(steady, max_examples=150)
    @given(data=st.data())
    def test_a_job_is_the_same_or_refused_by_name(self, encoded: Path, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(["job.json", "job.json", "job.json", "part-00001.json"]))
        path = encoded / "out" / name
        sound = path.read_bytes()
        parts = {p.name: p.read_bytes() for p in (encoded / "out").glob("part-*.parquet")}
        job = jobs.Job(str(encoded / "s"), str(encoded / "a"), str(encoded / "b"), tile=(2, 6))
        counts = {"units": 3, "done_before": 3, "rows": 25, "pairs": 25}
        changed = data.draw(mutated(json.loads(sound)).map(as_json) | spoiled(sound))
        path.write_bytes(changed)
        try:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a collection's path may be another now
                    job_parts.verify(encoded / "out")
                found = execution.score(job, encoded / "out")
                execution.run_unit(encoded / "out", 0)
            except (CollectionError, models.ModelError) as error:
                assert str(encoded) in str(error) or "/" in str(error), str(error)
                return
            assert found == counts or (path.name != "job.json" and found == {**counts, "done_before": 2})
            assert {p.name: p.read_bytes() for p in (encoded / "out").glob("part-*.parquet")} == parts
            assert {p.name for p in encoded.iterdir()} == {"s", "a", "b", "a.csv", "b.csv", "out"}, (
                "nothing is written elsewhere"
            )
        finally:
            path.write_bytes(sound)
            for part in (encoded / "out").glob("part-0000[3-9]*"):
                part.unlink()


# --- suites -----------------------------------------------------------------------------------------------------------------------

SUITE = {
    "name": "s",
    "out": "results/s",
    "defaults": {"seed": 1},
    "stages": [
        {"required": True, "runs": [{"notebook": "01_a", "parameters": {"rate": 0.5, "word": "x"}}]},
        {"runs": [{"notebook": "01_a", "grid": {"seed": [2, 3], "names": [["a"], []]}}]},
    ],
}
PARAMETERS = "seed = 0\nrate = 1.0\nword = 'w'\nnames = []\nflag = False\nout = '../results/x'\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with one notebook."""
    folder = tmp_path_factory.mktemp("project")
    cell: dict[str, Any] = {
        "cell_type": "code",
        "metadata": {"tags": ["parameters"]},
        "source": PARAMETERS,
        "outputs": [],
        "execution_count": None,
    }
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "01_a.ipynb").write_text(
        json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    return folder


def as_yaml(tree: Any) -> bytes:
    return yaml.dump(tree, allow_unicode=True).encode("utf8", "surrogatepass")


class TestSuites:
    @settings(steady, max_examples=150)
    @given(data=mutated(SUITE).map(as_yaml) | spoiled(as_yaml(SUITE)))
    def test_a_suite_has_the_runs_its_yaml_lists_or_is_refused_by_name(
        self, project: Path, data: bytes
    ) -> None:
        path = project / "notebooks" / "s.yaml"
        path.write_bytes(data)
        try:
            read = suite_file.read_suite(path)
        except (SuiteError, ResultError) as error:
            assert str(path) in str(error)
            return
        content = yaml.safe_load(data)
        entries = [entry for stage in content["stages"] for entry in stage["runs"]]
        grids = [list((entry.get("grid") or {}).values()) for entry in entries]
        assert len(read.runs) == sum(math.prod(map(len, grid)) for grid in grids)
        for run in read.runs:
            defaults = notebook_files.notebook_parameters(run.path)
            assert {n: type(v) for n, v in run.parameters.items()} == {
                n: type(v) for n, v in defaults.items()
            }
            assert notebook_files.run_key(run.notebook, run.parameters, "", "").startswith("01_a-")
        assert not (project / "notebooks").is_relative_to(read.out.resolve())
