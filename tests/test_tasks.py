"""Tasks from files: exact splits, labels and fingerprints; every fault named by file, row and column."""

import csv
import gzip
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dipair_lib.data.files import TaskError
from dipair_lib.data.loading import load_task, load_unlabelled
from dipair_lib.data.sources import glue, marco, products, pydocs
from dipair_lib.data.tables import read_table
from dipair_lib.data.task import Task
from dipair_lib.system.machine import cache_folder

ROWS = [
    ("how do bees find home", "They remember landmarks and the sun.", 1),
    ("how do bees find home", "Bread is baked in an oven.", 0),
    ("why is the sea salty", "Rivers carry minerals into it.", 1),
    ("why is the sea salty", "A violin has four strings.", 0),
]


def write(path: Path, rows=ROWS, header=("query", "text", "label"), separator="\t") -> Path:
    lines = [separator.join(map(str, row)) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def folder(tmp_path: Path, train=ROWS, dev=None, test=None, header=("query", "text", "label")) -> Path:
    """Three files of distinct texts: the words of dev and test rows carry the split's name."""
    here = tmp_path / "own"
    here.mkdir(exist_ok=True)
    for split, rows in (("train", train), ("dev", dev), ("test", test)):
        if rows is None:
            rows = [(f"{q} {split}", f"{t} {split}", y) for q, t, y in ROWS]
        write(here / f"{split}.tsv", rows, header)
    return here


def quietly(*args, **kwargs) -> Task:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_task(*args, **kwargs)


def many(n: int) -> list[tuple[str, str, int]]:
    return [(f"question number {i // 2}", f"answer number {i}", i % 2) for i in range(n)]


def test_folder_gives_columns_classes_and_metrics(tmp_path):
    task = load_task(folder(tmp_path))
    assert (task.fields, task.kind, task.classes) == (("query", "text"), "classes", ("0", "1"))
    assert (task.metrics, task.outputs) == (("auc", "accuracy", "f1"), 2)
    assert list(task.train.columns) == ["query", "text", "label", "group"]
    assert task.train["label"].tolist() == [1, 0, 1, 0]
    assert task.train["label"].dtype == "int64" and task.test["group"].dtype == "int64"
    assert task.test["text"][1] == "Bread is baked in an oven. test"
    assert task.notes["rows"] == {"train": 4, "dev": 4, "test": 4}
    assert not task.grouped
    groups = [*task.train["group"], *task.dev["group"], *task.test["group"]]
    assert len(set(groups)) == 6  # two rows of each query: intervals draw them together
    assert "rows of one 'query' are drawn together in every interval" in task.notes["groups"]
    alone = load_task(folder(tmp_path), group="rows")
    assert len({*alone.train["group"], *alone.dev["group"], *alone.test["group"]}) == 12
    assert "groups" not in alone.notes and alone.metrics == task.metrics


def test_group_column_gives_one_code_per_query(tmp_path):
    task = load_task(folder(tmp_path), group="query")
    assert task.grouped
    assert task.train["group"].tolist() == [0, 0, 1, 1]
    assert not set(task.train["group"]) & set(task.test["group"])


@pytest.mark.parametrize(
    "suffix", ["tsv", "csv", "jsonl", "parquet", "tsv.gz", "csv.gz", "jsonl.gz", "parquet.gz"]
)
def test_every_format_gives_the_same_task(tmp_path, suffix):
    rows = [(f"q, {i}", f'says "{i}", twice', i % 2) for i in range(200)]
    frame = pd.DataFrame(rows, columns=["query", "text", "label"])
    reference = load_task(write(tmp_path / "reference.tsv", rows))
    path = tmp_path / f"pairs.{suffix}"
    plain = path.with_suffix("") if suffix.endswith(".gz") else path
    match suffix.removesuffix(".gz"):
        case "tsv":
            write(plain, rows)
        case "csv":
            frame.to_csv(plain, index=False)
        case "jsonl":
            frame.to_json(plain, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(plain)
    if suffix.endswith(".gz"):
        path.write_bytes(gzip.compress(plain.read_bytes()))
    assert load_task(path).fingerprint == reference.fingerprint


def test_csv_row_and_line_are_told_apart_when_a_cell_spans_lines(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('query,text,label\na,"two\nlines",1\nb,,0\n', encoding="utf-8")
    with pytest.raises(TaskError, match=r"pairs\.csv, column 'text': row 2 \(line 4\): empty"):
        load_task(path)


class TestLabels:
    def test_names_map_by_sorted_name_not_by_order_in_the_file(self, tmp_path):
        def rows(tag):
            return [(f"{tag} {y}", f"{tag} text", y) for y in ("neutral", "entailment", "contradiction")]

        task = load_task(folder(tmp_path, rows("a"), rows("b"), rows("c")))
        assert task.classes == ("contradiction", "entailment", "neutral")
        assert task.train["label"].tolist() == [2, 1, 0]
        assert task.metrics == ("accuracy", "macro_f1")

    def test_numeric_classes_sort_as_numbers(self, tmp_path):
        def rows(tag):
            return [(f"{tag} {y}", f"{tag} text", y) for y in (10, 9, -1)]

        task = load_task(folder(tmp_path, rows("a"), rows("b"), rows("c")))
        assert task.classes == ("-1", "9", "10")

    def test_whole_floats_are_classes_and_fractions_are_scores(self, tmp_path):
        def rows(tag, labels):
            return [(f"{tag} {y}", f"{tag} text", y) for y in labels]

        whole = load_task(folder(tmp_path, *(rows(tag, ("0.0", "1.0")) for tag in "abc")))
        assert whole.classes == ("0", "1")
        score = load_task(folder(tmp_path, *(rows(tag, ("2.5", "1")) for tag in "abc")))
        assert (score.kind, score.classes, score.metrics, score.outputs) == (
            "score",
            (),
            ("pearson", "spearman"),
            1,
        )
        assert score.train["label"].dtype == "float32" and score.train["label"].tolist() == [2.5, 1.0]

    def test_kind_can_be_said(self, tmp_path):
        task = load_task(folder(tmp_path), kind="score")
        assert task.kind == "score" and task.train["label"].tolist() == [1.0, 0.0, 1.0, 0.0]
        with pytest.raises(TaskError, match="kind is 'rank'"):
            load_task(folder(tmp_path), kind="rank")

    def test_many_whole_numbers_must_be_said(self, tmp_path):
        path = write(tmp_path / "p.tsv", [(f"q{i}", f"t{i}", i) for i in range(40)])
        with pytest.raises(
            TaskError, match=r"'label': 40 different whole numbers.*kind='classes' or kind='score'"
        ):
            load_task(path)
        assert load_task(path, kind="score").kind == "score"

    @pytest.mark.parametrize("missing", ["", "NaN", "null"])
    def test_missing_label(self, tmp_path, missing):
        rows = [*ROWS[:2], ("q", "t", missing), ROWS[3]]
        with pytest.raises(TaskError, match=r"train\.tsv, column 'label': row 3 \(line 4\): no label"):
            load_task(folder(tmp_path, rows))

    def test_nan_label_in_parquet(self, tmp_path):
        pd.DataFrame({"text": ["a", "b"], "label": [1.0, float("nan")]}).to_parquet(tmp_path / "p.parquet")
        with pytest.raises(TaskError, match=r"p\.parquet, column 'label': row 2: no label"):
            load_task(tmp_path / "p.parquet")

    def test_a_slip_among_numbers_is_no_class(self, tmp_path):
        rows = [*many(30)[:-1], ("q", "t", "O")]
        with pytest.raises(TaskError, match=r"row 30 \(line 31\): 'O' is not a finite number"):
            load_task(write(tmp_path / "p.tsv", rows))

    def test_infinite_score(self, tmp_path):
        rows = [("a", "b", 0.5), ("c", "d", "inf")]
        with pytest.raises(TaskError, match=r"row 2 \(line 3\): 'inf' is not a finite number"):
            load_task(write(tmp_path / "p.tsv", rows))

    @pytest.mark.parametrize("score", ["1e39", "1e400"])
    def test_a_score_too_large_for_float32(self, tmp_path, score):
        rows = [("a", "b", 0.5), ("c", "d", score)]
        with pytest.raises(TaskError, match=rf"row 2 \(line 3\): '{score}' is not a finite number"):
            load_task(write(tmp_path / "p.tsv", rows))

    @pytest.mark.parametrize(
        "names", [("1_0", "1_1"), ("9007199254740992", "9007199254740993"), ("--1", "1"), ("9" * 5000, "1")]
    )
    def test_classes_that_only_look_like_numbers_keep_their_names(self, tmp_path, names):
        rows = [(q, t, names[y]) for q, t, y in ROWS]
        test = [(f"{q} test", t, y) for q, t, y in rows]
        dev = [(f"{q} dev", t, y) for q, t, y in rows]
        task = load_task(folder(tmp_path, rows, dev, test), kind="classes")
        assert sorted(task.classes) == sorted(names)

    @pytest.mark.parametrize("label", [[1], {"a": 1}])
    def test_a_nested_label(self, tmp_path, label):
        (tmp_path / "p.jsonl").write_text(json.dumps({"text": "a", "label": label}) + "\n")
        with pytest.raises(TaskError, match=r"column 'label': row 1 \(line 1\): (list|dict), not a label"):
            load_task(tmp_path / "p.jsonl")

    def test_label_unknown_to_train(self, tmp_path):
        other = [("a", "b", 1), ("c", "d", 2)]
        with pytest.raises(
            TaskError, match=r"test\.tsv, column 'label': row 2 \(line 3\): label '2' does not occur"
        ):
            load_task(folder(tmp_path, test=other))

    def test_one_class_only(self, tmp_path):
        with pytest.raises(TaskError, match=r"dev\.tsv, column 'label': all 2 rows of dev have the label 1"):
            load_task(folder(tmp_path, dev=[("a", "b", 1), ("c", "d", 1)]))


class TestColumns:
    def test_missing_column_lists_what_is_there_and_the_closest(self, tmp_path):
        with pytest.raises(
            TaskError, match=r"no column 'querry'; there are query, text, label; did you mean 'query'"
        ):
            load_task(folder(tmp_path), fields=["querry", "text"])

    def test_column_missing_in_one_file_names_that_file(self, tmp_path):
        here = folder(tmp_path)
        write(here / "test.tsv", ROWS, header=("query", "body", "label"))
        with pytest.raises(TaskError, match=r"test\.tsv: no column 'text'"):
            load_task(here)

    def test_ids_and_numbers_are_not_guessed_as_texts(self, tmp_path):
        header = ("qid", "product_uid", "price", "query", "text", "label")
        rows = [(i, i, 9.5, *row) for i, row in enumerate(many(200))]
        assert load_task(write(tmp_path / "p.tsv", rows, header)).fields == ("query", "text")

    def test_three_texts_must_be_said(self, tmp_path):
        rows = [(f"a{i}", f"b{i}", f"c{i}", i % 2) for i in range(200)]
        path = write(tmp_path / "p.tsv", rows, ("a", "b", "c", "label"))
        with pytest.raises(
            TaskError, match=r"3 columns may be texts; say fields=\[\.\.\.\] \(columns: a, b, c, label\)"
        ):
            load_task(path)
        assert load_task(path, fields=["c", "a", "b"]).fields == ("c", "a", "b")

    def test_label_must_be_said_when_none_or_two_may_be_it(self, tmp_path):
        two = write(tmp_path / "two.tsv", [("a", 1, 2)], ("text", "score", "grade"))
        with pytest.raises(TaskError, match="several columns may be the label; say label="):
            load_task(two)
        none = write(tmp_path / "none.tsv", [("a", 1)], ("text", "stars"))
        with pytest.raises(TaskError, match="no column that is clearly the label; say label="):
            load_task(none)

    def test_wrong_separator_is_hinted_at(self, tmp_path):
        path = write(tmp_path / "p.csv", separator="~")
        with pytest.raises(TaskError, match="is the separator another one"):
            load_task(path)

    def test_label_among_fields(self, tmp_path):
        with pytest.raises(TaskError, match="'text' is given as label and among the fields"):
            load_task(folder(tmp_path), fields=["text"], label="text")

    def test_column_twice_in_the_header(self, tmp_path):
        with pytest.raises(TaskError, match="column 'text' occurs twice in the header"):
            load_task(write(tmp_path / "p.tsv", ROWS, ("text", "text", "label")))


class TestFaultyFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(TaskError, match=r"nothing\.csv: no such file or folder, and not a built-in task"):
            load_task(tmp_path / "nothing.csv")

    def test_unknown_format(self, tmp_path):
        with pytest.raises(TaskError, match=r"p\.xlsx: unknown format; expected one of \.tsv, \.csv"):
            load_task(write(tmp_path / "p.xlsx"))

    @pytest.mark.parametrize("content", [b"", b"\n\n"])
    def test_empty(self, tmp_path, content):
        (tmp_path / "p.csv").write_bytes(content)
        with pytest.raises(TaskError, match=r"p\.csv: the file is empty"):
            load_task(tmp_path / "p.csv")

    def test_header_only(self, tmp_path):
        with pytest.raises(TaskError, match=r"p\.tsv: a header line \(query, text, label\) but no rows"):
            load_task(write(tmp_path / "p.tsv", []))

    @pytest.mark.parametrize("name, separator", [("p.tsv", "\t"), ("p.csv", ",")])
    def test_ragged_row(self, tmp_path, name, separator):
        path = write(tmp_path / name, [ROWS[0], ("only", "two"), ROWS[1]], separator=separator)
        with pytest.raises(
            TaskError, match=rf"{name}, row 2 \(line 3\): malformed, 2 cells where the header has 3"
        ):
            load_task(path)

    def test_blank_lines_at_the_end_are_none(self, tmp_path):
        path = write(tmp_path / "p.csv", many(200), separator=",")
        with path.open("a", encoding="utf-8") as file:
            file.write("\n\n")
        task = load_task(path)
        assert sum(task.notes["rows"].values()) == 200 and "reading" not in task.notes

    @pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.tsv"])
    def test_a_cell_of_any_length_is_read_and_the_limit_of_other_readers_stays(self, tmp_path, name):
        before = csv.field_size_limit()
        long, sep = "far too many words " * 20_000, "\t" if ".tsv" in name else ","
        text = sep.join(["a", "b"]) + "\n" + sep.join([long, "x"]) + "\n"
        data = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
        (tmp_path / name).write_bytes(data)
        assert read_table(tmp_path / name).columns == {"a": [long], "b": ["x"]}
        (tmp_path / "p.csv").write_text(f'a,b\n{long},x\n{long},"y\n')
        with pytest.raises(TaskError, match=r"row starting at line 3: malformed \(unexpected end of data\)"):
            read_table(tmp_path / "p.csv")
        assert csv.field_size_limit() == before

    def test_quote_never_closed(self, tmp_path):
        (tmp_path / "p.csv").write_text('query,text,label\na,b,1\nc,"d,0\ne,f,1\n', encoding="utf-8")
        with pytest.raises(TaskError, match=r"p\.csv, row starting at line 3: malformed"):
            load_task(tmp_path / "p.csv")

    def test_tsv_reads_quotes_as_characters(self, tmp_path):
        rows = [(f'"open {i}', f'5" screen {i}', i % 2) for i in range(200)]
        task = load_task(write(tmp_path / "p.tsv", rows))
        assert sorted(pd.concat([task.train, task.dev, task.test])["query"])[0] == '"open 0'

    def test_bad_json_line(self, tmp_path):
        (tmp_path / "p.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", \n', encoding="utf-8")
        with pytest.raises(TaskError, match=r"p\.jsonl, line 2: malformed JSON"):
            load_task(tmp_path / "p.jsonl")

    def test_json_key_missing_in_one_row(self, tmp_path):
        lines = [json.dumps({"text": f"t{i}", "label": i % 2} if i != 2 else {"label": 1}) for i in range(5)]
        (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(TaskError, match=r"column 'text': row 3 \(line 3\): empty"):
            load_task(tmp_path / "p.jsonl")

    def test_wrong_encoding_names_line_and_byte(self, tmp_path):
        (tmp_path / "p.csv").write_bytes("query,text,label\na,b,1\ncafé,d,0\n".encode("latin-1"))
        with pytest.raises(TaskError, match=r"p\.csv, line 3: byte 26 \(0xe9\) is not UTF-8; re-encode"):
            load_task(tmp_path / "p.csv")

    def test_a_nul_character_in_utf8(self, tmp_path):
        (tmp_path / "p.csv").write_bytes(b"query,text,label\na,\0b,1\n")
        with pytest.raises(TaskError, match="line 2: NUL byte"):
            load_task(tmp_path / "p.csv")

    def test_byte_order_mark_is_not_part_of_the_first_name(self, tmp_path):
        path = write(tmp_path / "p.csv", many(200), separator=",")
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert load_task(path).fields == ("query", "text")

    def test_mojibake_and_odd_line_separators_inside_a_text_load(self, tmp_path):
        odd = "donâ\x80\x99t\x85stop \u2028here \x0b"
        rows = [(f"{odd}{i}", f"text {i}", i % 2) for i in range(200)]
        task = load_task(write(tmp_path / "p.tsv", rows))
        assert sum(task.notes["rows"].values()) == 200
        assert task.train["query"][0].startswith("donâ\x80\x99t\x85stop \u2028here")

    @pytest.mark.parametrize("blank", ["", "   ", "\u00a0", "\u200b", "\x01"])
    def test_text_without_a_visible_character(self, tmp_path, blank):
        rows = [ROWS[0], ("q", blank, 1), *[(f"q{i}", blank, 0) for i in range(4)]]
        with pytest.raises(
            TaskError, match=r"'text': row 2 \(line 3\): empty; .*5 such rows in all; fill in or remove"
        ):
            load_task(write(tmp_path / "p.tsv", rows))

    def test_truncated_gzip_and_parquet(self, tmp_path):
        whole = gzip.compress(write(tmp_path / "p.tsv", many(400)).read_bytes())
        (tmp_path / "p.tsv.gz").write_bytes(whole[:-20])
        with pytest.raises(TaskError, match=r"p\.tsv\.gz: cannot be read"):
            load_task(tmp_path / "p.tsv.gz")
        pd.DataFrame(many(9), columns=["q", "t", "label"]).to_parquet(tmp_path / "p.parquet")
        (tmp_path / "p.parquet").write_bytes((tmp_path / "p.parquet").read_bytes()[:-9])
        with pytest.raises(TaskError, match=r"p\.parquet: not a readable Parquet file"):
            load_task(tmp_path / "p.parquet")

    def test_a_spoiled_byte_within_gzip_and_parquet(self, tmp_path):
        packed = bytearray(gzip.compress(write(tmp_path / "p.tsv", many(400)).read_bytes()))
        packed[len(packed) // 2] ^= 0xFF
        (tmp_path / "p.tsv.gz").write_bytes(packed)
        with pytest.raises(TaskError, match=r"p\.tsv\.gz: cannot be read"):
            load_task(tmp_path / "p.tsv.gz")
        pd.DataFrame(many(9), columns=["q", "t", "label"]).to_parquet(tmp_path / "p.parquet")
        (tmp_path / "p.parquet").write_bytes(b"\0" + (tmp_path / "p.parquet").read_bytes())
        with pytest.raises(TaskError, match=r"p\.parquet: not a readable Parquet file"):
            load_task(tmp_path / "p.parquet")

    def test_a_column_twice_in_parquet(self, tmp_path):
        table = pa.table([["a", "b"], [0, 1], [1, 0]], names=["text", "label", "label"])
        pq.write_table(table, tmp_path / "p.parquet")
        with pytest.raises(TaskError, match=r"p\.parquet: column 'label' occurs twice"):
            load_task(tmp_path / "p.parquet")

    @pytest.mark.parametrize(
        "cell",
        ["[" * 100_000, "9" * 5000, '"\\ud800"', '"a\\uDFFFb"'],
        ids=["deep", "long", "half", "other half"],
    )
    def test_json_that_cannot_be_held(self, tmp_path, cell):
        (tmp_path / "p.jsonl").write_text(f'{{"text": "a", "label": 1}}\n{{"text": {cell}, "label": 1}}\n')
        with pytest.raises(TaskError, match=r"p\.jsonl, line 2: malformed JSON"):
            load_task(tmp_path / "p.jsonl")

    @pytest.mark.parametrize("name", ["~no-such-user/p.csv", "p" * 100_000, "p\udcff.csv"])
    def test_a_path_that_cannot_be(self, name):
        with pytest.raises(TaskError, match="neither a name nor a path that can be used"):
            load_task(name)

    def test_nested_value_is_no_text(self, tmp_path):
        (tmp_path / "p.jsonl").write_text('{"text": ["a"], "other": "b", "label": 1}\n', encoding="utf-8")
        with pytest.raises(TaskError, match=r"column 'text': row 1 \(line 1\): list, not text"):
            load_task(tmp_path / "p.jsonl", fields=["text"])


class TestFolders:
    def test_no_test_file(self, tmp_path):
        here = folder(tmp_path)
        (here / "test.tsv").unlink()
        with pytest.raises(TaskError, match=r"own: no test file .* there is dev\.tsv, train\.tsv"):
            load_task(here)

    def test_two_files_for_one_split(self, tmp_path):
        here = folder(tmp_path)
        write(here / "validation.tsv")
        with pytest.raises(TaskError, match=r"two files for dev, dev\.tsv and validation\.tsv"):
            load_task(here)

    def test_foreign_files_are_left_alone_and_named(self, tmp_path):
        here = folder(tmp_path)
        (here / "README.md").write_text("about", encoding="utf-8")
        write(here / "unlabelled.tsv")
        assert load_task(here).notes["ignored_files"] == ["README.md", "unlabelled.tsv"]

    def test_missing_dev_is_cut_from_train_by_group(self, tmp_path):
        here = folder(tmp_path, many(400))
        (here / "dev.tsv").unlink()
        task = load_task(here, group="query")
        assert len(task.train) + len(task.dev) == 400 and 20 < len(task.dev) < 80
        assert not set(task.train["query"]) & set(task.dev["query"])
        assert len(task.test) == 4


class TestRepeats:
    def test_duplicates_overlap_and_conflicts_are_dropped_counted_and_said(self, tmp_path):
        train = [
            ("a", "b", 1),
            ("a", " b ", 1),  # the same text but for spaces: duplicate
            ("a", "b", 0),  # conflicting label: the first row stays
            ("in", "dev", 0),
            ("in", "test", 0),
            ("c", "d", 0),
        ]
        dev = [("in", "dev", 1), ("in", "test", 1), ("e", "f", 0)]
        test = [("in", "test", 1), ("g", "h", 0)]
        here = folder(tmp_path, train, dev, test)
        with pytest.warns(UserWarning, match=r"1 duplicate rows dropped.*3 also in later split rows dropped"):
            task = load_task(here)
        assert task.train[["query", "label"]].values.tolist() == [["a", 1], ["c", 0]]
        assert task.dev["query"].tolist() == ["in", "e"]
        assert len(task.test) == 2
        assert task.notes["dropped"] == {
            "duplicate": {"train": 1, "dev": 0, "test": 0},
            "conflicting_label": {"train": 1, "dev": 0, "test": 0},
            "also_in_later_split": {"train": 2, "dev": 1, "test": 0},
        }

    def test_a_pair_and_its_mirror_are_two_examples(self, tmp_path):
        task = load_task(folder(tmp_path, [("a", "b", 1), ("b", "a", 0)]))
        assert len(task.train) == 2

    def test_groups_shared_by_given_splits_are_said(self, tmp_path):
        test = [(ROWS[0][0], "another answer", 1), ("new", "answer", 0)]
        with pytest.warns(UserWarning, match="1 test groups also in train or dev"):
            task = load_task(folder(tmp_path, test=test), group="query")
        assert task.notes["test_groups_also_in_train_or_dev"] == 1


class TestSplits:
    def test_whole_groups_and_about_the_shares(self, tmp_path):
        task = load_task(write(tmp_path / "p.tsv", many(2000)), group="query")
        queries = [set(frame["query"]) for frame in (task.train, task.dev, task.test)]
        assert sum(len(q) for q in queries) == len(set.union(*queries)) == 1000
        assert 760 < len(queries[0]) < 840 and 70 < len(queries[1]) < 130

    def test_without_group_rows_of_one_first_text_stay_together(self, tmp_path):
        task = load_task(write(tmp_path / "p.tsv", many(400)))
        assert not set(task.train["query"]) & set(task.test["query"]) and not task.grouped

    def test_more_rows_move_no_other_row(self, tmp_path):
        small = load_task(write(tmp_path / "small.tsv", many(300)))
        large = load_task(write(tmp_path / "large.tsv", many(600)[::-1]))
        for split in ("train", "dev", "test"):
            assert set(getattr(small, split)["text"]) <= set(getattr(large, split)["text"])

    def test_seed_and_shares_change_the_cut(self, tmp_path):
        path = write(tmp_path / "p.tsv", many(400))
        assert set(load_task(path).test["text"]) != set(load_task(path, seed=1).test["text"])
        assert len(load_task(path, splits=(0.5, 0.1, 0.4)).test) > 2 * len(load_task(path).test)
        with pytest.raises(TaskError, match="expected three positive shares"):
            load_task(path, splits=(0.5, 0.5, 0.5))

    def test_too_few_groups_for_three_splits(self, tmp_path):
        with pytest.raises(TaskError, match="split has no rows; give more groups"):
            load_task(write(tmp_path / "p.tsv", ROWS))

    def test_max_train_keeps_whole_groups_and_the_test_rows(self, tmp_path):
        path = write(tmp_path / "p.tsv", many(400))
        whole, some = load_task(path, group="query"), load_task(path, group="query", max_train=101)
        assert len(some.train) == 100 and some.train.groupby("group").size().eq(2).all()
        assert set(some.train["text"]) < set(whole.train["text"])
        assert some.test.equals(whole.test)
        assert some.fingerprint != whole.fingerprint
        assert load_task(path, group="query", max_train=9999).fingerprint == whole.fingerprint
        with pytest.raises(TaskError, match="max_train is -1"):
            load_task(path, max_train=-1)


class TestFingerprint:
    def test_depends_on_content_not_on_name_place_or_format(self, tmp_path):
        first = load_task(folder(tmp_path))
        elsewhere = tmp_path / "elsewhere"
        folder(tmp_path).rename(elsewhere)
        assert load_task(elsewhere).fingerprint == first.fingerprint

    @pytest.mark.parametrize("change", ["text", "label", "order", "split", "group", "kind", "fields"])
    def test_changes_with_anything_that_matters(self, tmp_path, change):
        first = load_task(folder(tmp_path)).fingerprint
        options: dict[str, Any] = {}
        train = list(ROWS)
        if change == "text":
            train[0] = (train[0][0], train[0][1] + "!", 1)
        elif change == "label":
            train[0] = (*train[0][:2], 0)
        elif change == "order":
            train.reverse()
        elif change == "split":
            train.pop()
        else:
            options = {change: {"group": "rows", "kind": "score", "fields": ["text"]}[change]}
        assert quietly(folder(tmp_path, train), **options).fingerprint != first


def test_large_file_loads_in_seconds(tmp_path):
    import time

    path = write(
        tmp_path / "p.tsv",
        [(f"query {i // 3}", f"some longer text of row {i}", i % 2) for i in range(75_000)],
    )
    started = time.process_time()
    assert sum(load_task(path, group="query").notes["rows"].values()) == 75_000
    assert time.process_time() - started < 10


def test_built_in_tasks_refuse_other_columns():
    with pytest.raises(TaskError, match=r"pydocs has fields = \('query', 'passage'\)"):
        load_task("pydocs", fields=["text"])


def test_cache_folder_order(tmp_path, monkeypatch):
    monkeypatch.setenv("DIPAIR_CACHE", os.fspath(tmp_path / "env"))
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    assert cache_folder() == tmp_path / "env"
    monkeypatch.delenv("DIPAIR_CACHE")
    assert cache_folder().parts[-2:] in (("data", "cache"), (".cache", "dipair-lab"))


class TestUnlabelled:
    def task(self, tmp_path: Path) -> Task:
        rows = [(f"q{i % 41}", f"p{i}", i % 2) for i in range(240)]
        frame = pd.DataFrame(rows, columns=["query", "text", "label"])
        frame.to_csv(tmp_path / "pairs.csv", index=False)
        return load_task(tmp_path / "pairs.csv", fields=["query", "text"], label="label", group="query")

    def test_nothing_that_is_measured_on_is_learned_from(self, tmp_path: Path) -> None:
        task = self.task(tmp_path)
        known, measured = task.train.iloc[0], task.test.iloc[0]
        rows = [
            ("new", "one"), ("new", "one"), ("new", "two"), (known["query"], known["text"]), (known["query"], "other"),
            (measured["query"], "other"),
        ]  # fmt: skip
        pd.DataFrame(rows, columns=["query", "text"]).to_csv(tmp_path / "more.csv", index=False)
        found = load_unlabelled(tmp_path / "more.csv", task)
        assert found[["query", "text"]].values.tolist() == [
            ["new", "one"],
            ["new", "two"],
            [known["query"], "other"],
        ]
        assert found["group"].tolist() == [0, 0, 1]

    def test_bad_files_are_named(self, tmp_path: Path) -> None:
        task = self.task(tmp_path)
        pd.DataFrame({"query": ["a"], "txt": ["b"]}).to_csv(tmp_path / "more.csv", index=False)
        with pytest.raises(TaskError, match=r"more.csv: no column 'text'.*did you mean 'txt'"):
            load_unlabelled(tmp_path / "more.csv", task)
        task.train[["query", "text"]].to_csv(tmp_path / "more.csv", index=False)
        with pytest.raises(TaskError, match=r"no row is left: all .* are the task's own"):
            load_unlabelled(tmp_path / "more.csv", task)


class TestGains:
    def test_a_column_called_grade_beside_two_classes_is_the_gain(self, tmp_path: Path) -> None:
        rows = [(f"q{i % 41}", f"p{i}", i % 4, int(i % 4 >= 2)) for i in range(240)]
        frame = pd.DataFrame(rows, columns=["query", "text", "grade", "label"])
        frame.to_csv(tmp_path / "pairs.csv", index=False)
        task = load_task(tmp_path / "pairs.csv", fields=["query", "text"], label="label", group="query")
        assert list(task.test.columns) == ["query", "text", "label", "group", "gain"]
        assert ((task.test["gain"] >= 2).astype(int) == task.test["label"]).all()
        assert task.metrics == ("auc", "accuracy", "f1", "mrr@10", "ndcg@10")
        frame["grade"] = frame["grade"].astype(object)
        frame.loc[3, "grade"] = "high"
        frame.to_csv(tmp_path / "pairs.csv", index=False)
        with pytest.raises(
            TaskError, match=r"column 'grade': row 4 \(line 5\): 'high' is not a number of 0 or more"
        ):
            load_task(tmp_path / "pairs.csv", fields=["query", "text"], label="label", group="query")


def test_each_loader_names_the_terms_that_the_readme_of_the_data_states() -> None:
    page = (Path(__file__).parents[1] / "data" / "README.md").read_text(encoding="utf8")
    told = {known.folder: known.terms for known in glue.SETS.values()}
    told |= {"MS MARCO passage ranking": marco.TERMS, "Amazon ESCI": products.TERMS["esci"]}
    told |= {"Wayfair WANDS": products.TERMS["wands"], "Home Depot": products.TERMS["home-depot"]}
    for name, terms in told.items():
        assert re.search(rf"^\| {name}.*\| {re.escape(terms)} \|$", page, re.M), name
    assert pydocs.TERMS["terms"] in " ".join(page.split())
