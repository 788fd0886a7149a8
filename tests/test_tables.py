"""Files as people have them: each kind gives the rows that its writer meant, and what was left out or read another way is said."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from dipair_lib.data import tables
from dipair_lib.data.files import TaskError
from dipair_lib.data.loading import load_task, load_unlabelled
from dipair_lib.data.table import Table
from dipair_lib.data.tables import read_table
from dipair_lib.data.task import Task

COLUMNS = ["query", "text", "label"]
ROWS = [
    ["bees, home", 'They "see" the sun.', "1"],
    ["bees, home", "Bread is baked.", "0"],
    ["salty sea", "Rivers\tcarry it.", "1"],
]
PLAIN = [[cell.replace("\t", " ").replace('"', "'").replace(",", "") for cell in row] for row in ROWS]


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def cells(table: Table) -> list[list[Any]]:
    return [list(row) for row in zip(*table.columns.values(), strict=True)]


def lines(rows: list[list[str]], separator: str = ",", end: str = "\n") -> str:
    return "".join(separator.join(row) + end for row in rows)


def many(n: int, tag: str = "") -> pd.DataFrame:
    return pd.DataFrame(
        [(f"question {tag}{i // 2}", f"answer {tag}{i}", i % 2) for i in range(n)], columns=COLUMNS
    )


def load(path: Path, **given: Any) -> tuple[Task, str]:
    """The task and all that was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = load_task(path, **given)
    return task, "; ".join(str(one.message) for one in caught)


class TestText:
    @pytest.mark.parametrize(
        ("separator", "said"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")]
    )
    def test_another_separator_than_the_suffix_says(self, separator: str, said: str, tmp_path: Path) -> None:
        path = tmp_path / "p.csv"
        pd.DataFrame(ROWS, columns=COLUMNS).to_csv(path, sep=separator, index=False)
        table = read_table(path)
        assert list(table.columns) == COLUMNS and cells(table) == ROWS
        assert said in table.said[0]
        assert cells(read_table(put(tmp_path / "p.tsv", lines([COLUMNS, *PLAIN])))) == PLAIN

    def test_tabs_under_the_name_of_commas_with_quotes_as_characters(self, tmp_path: Path) -> None:
        rows = [['"open, here', '5" wide', "1"], ["so", 'close"', "0"]]
        assert cells(read_table(put(tmp_path / "p.csv", lines([COLUMNS, *rows], "\t")))) == rows

    def test_a_first_line_that_names_the_separator(self, tmp_path: Path) -> None:
        table = read_table(put(tmp_path / "p.csv", "sep=;\r\n" + lines([COLUMNS, *PLAIN], ";", "\r\n")))
        assert cells(table) == PLAIN and table.lines == [3, 4, 5]
        with pytest.raises(TaskError, match=r"row 2 \(line 4\): malformed, 2 cells"):
            read_table(put(tmp_path / "q.csv", "sep=;\n" + lines([COLUMNS, PLAIN[0], ["a", "b"]], ";")))

    def test_commas_stay_where_semicolons_are_only_in_texts(self, tmp_path: Path) -> None:
        table = read_table(put(tmp_path / "p.csv", 'text,label\na; b,1\n"c, d; e",0\n'))
        assert cells(table) == [["a; b", "1"], ["c, d; e", "0"]] and not table.said

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
    def test_unicode_of_every_width(self, encoding: str, tmp_path: Path) -> None:
        rows = [["où 你好", "ｔｅｘｔ", "1"], ["b", "c", "0"]]
        table = read_table(put(tmp_path / "p.csv", lines([COLUMNS, *rows]).encode(encoding)))
        assert list(table.columns) == COLUMNS and cells(table) == rows

    def test_one_zero_in_utf8_makes_no_utf16(self, tmp_path: Path) -> None:
        with pytest.raises(TaskError, match="line 2: NUL byte"):
            read_table(put(tmp_path / "p.csv", "query,label\n\0a,1\nb,00\n"))

    def test_other_encodings_are_asked_to_be_saved_anew(self, tmp_path: Path) -> None:
        with pytest.raises(
            TaskError, match=r"line 2: byte 11 \(0xe9\) is not UTF-8; re-encode the file: save it as UTF-8"
        ):
            read_table(put(tmp_path / "p.csv", "text,label\né,1\n".encode("latin-1")))

    def test_empty_rows_and_columns_are_left_out_and_counted(self, tmp_path: Path) -> None:
        text = "query,text,label,,\r\na,b,1,,\n\n,,,,\r\nc,d,0,,\n \n"
        table = read_table(put(tmp_path / "p.csv", text))
        assert list(table.columns) == COLUMNS and cells(table) == [["a", "b", "1"], ["c", "d", "0"]]
        assert table.lines == [2, 5]
        assert table.said == ("3 empty rows left out", "2 empty columns without a name left out")

    def test_one_separator_more_than_the_header(self, tmp_path: Path) -> None:
        table = read_table(put(tmp_path / "p.tsv", "query\ttext\tlabel\na\tb\t1\t\nc\td\t0\t\n"))
        assert cells(table) == [["a", "b", "1"], ["c", "d", "0"]]
        assert table.said == ("empty cells behind the last column left out in 2 rows",)
        with pytest.raises(TaskError, match="malformed, 4 cells where the header has 3"):
            read_table(put(tmp_path / "p.tsv", "query\ttext\tlabel\na\tb\t1\tmore\n"))

    def test_an_unnamed_column_that_holds_something_stays(self, tmp_path: Path) -> None:
        many(200).to_csv(tmp_path / "p.csv")  # with pandas' index
        table = read_table(tmp_path / "p.csv")
        assert list(table.columns) == ["", *COLUMNS]
        assert load(tmp_path / "p.csv")[0].fields == ("query", "text")

    def test_header_repeated_by_cat(self, tmp_path: Path) -> None:
        part = lines([COLUMNS, *PLAIN])
        table = read_table(put(tmp_path / "p.csv", part + part))
        assert cells(table) == PLAIN * 2 and table.said == ("1 row that repeats the header left out",)

    def test_comments_in_front_of_the_header(self, tmp_path: Path) -> None:
        table = read_table(
            put(
                tmp_path / "p.csv",
                "# made by hand\n##\n" + lines([["#id", *COLUMNS], ["#1", *PLAIN[0]], ["#2", *PLAIN[1]]]),
            )
        )
        assert (
            list(table.columns) == ["#id", *COLUMNS]
            and table.columns["#id"] == ["#1", "#2"]
            and table.lines == [4, 5]
        )

    def test_line_ends_of_old_macs(self, tmp_path: Path) -> None:
        assert cells(read_table(put(tmp_path / "p.csv", lines([COLUMNS, *PLAIN], end="\r")))) == PLAIN


class TestQuotes:
    @pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    def test_tabs_as_pandas_and_excel_write_them(self, quoting: Any, tmp_path: Path) -> None:
        rows = [*ROWS, ["two\nlines", 'ends "so"', "0"]]
        frame = pd.DataFrame(rows, columns=COLUMNS).astype({"label": int})
        frame.to_csv(tmp_path / "p.tsv", sep="\t", index=False, quoting=quoting)
        table = read_table(tmp_path / "p.tsv")
        assert list(table.columns) == COLUMNS and cells(table) == rows
        assert "quotes around cells taken off" in table.said[0]

    def test_quotes_doubled_in_one_line_cells(self, tmp_path: Path) -> None:
        text = 'query\tlabel\n"he said ""hi"""\t1\nplain\t0\n'
        table = read_table(put(tmp_path / "p.tsv", text))
        assert (
            table.columns["query"] == ['he said "hi"', "plain"]
            and "column 'query' taken off" in table.said[0]
        )

    def test_each_column_is_decided_by_all_of_its_cells(self, tmp_path: Path) -> None:
        text = '"query"\t"text"\tlabel\n"a"\t5" wide\t1\n"b"\t"c"\t0\n'
        table = read_table(put(tmp_path / "p.tsv", text))
        assert cells(table) == [["a", '5" wide', "1"], ["b", '"c"', "0"]]
        assert (
            "query" in table.columns
            and "'query' taken off" in table.said[0]
            and "1 cell of column" in table.said[1]
        )

    def test_quotes_are_characters_in_files_like_those_of_glue(self, tmp_path: Path) -> None:
        rows = [['"open', "a", "1"], ['so "x" and', 'close"', "0"], ['"whole"', "b", "1"]]
        table = read_table(put(tmp_path / "p.tsv", lines([COLUMNS, *rows], "\t")))
        assert cells(table) == rows
        assert read_table(put(tmp_path / "p.tsv", 'a\tlabel\n"x ""y"""\t1\n'), malformed=[]).columns["a"] == [
            '"x ""y"""'
        ]

    @pytest.mark.parametrize(
        "rows", [[['"starts', "b", "1"], ["c", 'ends"', "0"]], [['"starts', "b", "1"], ['ends"', "c", "0"]]]
    )
    def test_two_open_quotes_swallow_no_rows(self, rows: list[list[str]], tmp_path: Path) -> None:
        assert cells(read_table(put(tmp_path / "p.tsv", lines([COLUMNS, *rows], "\t")))) == rows

    def test_quoted_tabs_and_breaks_that_look_like_rows(self, tmp_path: Path) -> None:
        table = read_table(put(tmp_path / "p.tsv", 'query\ttext\tlabel\n"1\t1"\t"1\n\t1"\t0\n1\t1\t1\n'))
        assert cells(table) == [["1\t1", "1\n\t1", "0"], ["1", "1", "1"]]
        table = read_table(put(tmp_path / "p.tsv", 'query\ttext\tlabel\na\t"1\t\n\t1"\t1\n'))
        assert cells(table) == [["a", "1\t\n\t1", "1"]]

    def test_spark_escapes_quotes_by_backslashes(self, tmp_path: Path) -> None:
        text = 'query,text,label\n"say \\"hi\\", you",C:\\new,1\n"a, \\\\ b",plain,0\n"ends \\"so\\"",x,1\n'
        table = read_table(put(tmp_path / "p.csv", text))
        assert table.columns["query"] == ['say "hi", you', "a, \\ b", 'ends "so"']
        assert table.columns["text"] == ["C:\\new", "plain", "x"] and "Spark" in table.said[0]

    def test_a_backslash_before_a_closing_quote_is_a_character(self, tmp_path: Path) -> None:
        assert cells(read_table(put(tmp_path / "p.csv", 'query,label\n"C:\\",1\n'))) == [["C:\\", "1"]]

    def test_a_space_between_comma_and_quote(self, tmp_path: Path) -> None:
        table = read_table(put(tmp_path / "p.csv", 'query, text, label\n"a, b", "c, d", 1\n"e", "f", 0\n'))
        assert cells(table) == [["a, b", "c, d", "1"], ["e", "f", "0"]] and "spaces" in table.said[0]


class TestNoHeader:
    ROWS = [
        ["COL title VAL red car", "COL title VAL blue car", "0"],
        ["a long text", "another one", "1"],
    ] * 40

    def test_it_is_asked_for_with_parameters_to_paste(self, tmp_path: Path) -> None:
        path = put(tmp_path / "train.txt", lines(self.ROWS, "\t"))
        with pytest.raises(TaskError, match=r'no header, .* -p "fields=\[0,1\]" -p label=2'):
            load_task(path)
        with pytest.raises(TaskError, match=r"no header, .*if it is a header, by their names"):
            load_task(path, fields=["left", "right"], label="label")
        assert cells(read_table(path)) == self.ROWS

    @pytest.mark.parametrize("given", [{"fields": [0, 1], "label": 2}, {"fields": ["0", "1"], "label": "2"}])
    def test_places_name_columns(self, given: dict[str, Any], tmp_path: Path) -> None:
        rows = [[f"left text {i}", f"right text {i}", str(i % 2)] for i in range(60)]
        task, _ = load(put(tmp_path / "p.csv", lines(rows)), **given)
        assert task.fields == ("0", "1") and sum(task.notes["rows"].values()) == 60
        many(60).to_csv(tmp_path / "q.csv", index=False)
        task, _ = load(tmp_path / "q.csv", **given)
        assert task.fields == ("query", "text") and sum(task.notes["rows"].values()) == 60

    def test_a_class_in_the_first_line(self, tmp_path: Path) -> None:
        rows = [[f"some text {i}", "spam" if i % 3 else "ham"] for i in range(60)]
        with pytest.raises(TaskError, match=r'no header.*-p "fields=\[0\]" -p label=1'):
            load_task(put(tmp_path / "p.csv", lines(rows)))
        task, _ = load(put(tmp_path / "p.csv", lines(rows)), fields=["0"], label="1")
        assert task.classes == ("ham", "spam") and sum(task.notes["rows"].values()) == 60

    def test_names_that_are_numbers(self, tmp_path: Path) -> None:
        rows = [["1", "2", "3"], *([f"left {i}", f"right {i}", str(i % 2)] for i in range(60))]
        task, _ = load(put(tmp_path / "p.csv", lines(rows)), fields=[1, 2], label="3")
        assert task.fields == ("1", "2") and sum(task.notes["rows"].values()) == 60

    def test_one_text_a_line(self, tmp_path: Path) -> None:
        table = read_table(put(tmp_path / "p.txt", "a, b\none more text\n"))
        assert table.columns == {"0": ["a, b", "one more text"]} and not table.header
        assert read_table(put(tmp_path / "p.txt", "one text\ntwo\n")).columns == {"0": ["one text", "two"]}
        assert read_table(put(tmp_path / "p.txt", "passage\ntwo\n")).columns == {"passage": ["two"]}

    def test_lists_of_cells_in_json(self, tmp_path: Path) -> None:
        table = read_table(put(tmp_path / "p.jsonl", '["a", "b", 1]\n["c", "d", 0]\n'))
        assert not table.header and cells(table) == [["a", "b", 1], ["c", "d", 0]]
        table = read_table(put(tmp_path / "p.json", '[["query", "label"], ["c", 0]]'))
        assert table.columns == {"query": ["c"], "label": [0]}


class TestJson:
    OBJECTS: list[dict[str, Any]] = [{"query": "a", "label": 1}, {"query": "b\n\u2028", "label": None}]

    @pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.ndjson", "p.txt"])
    @pytest.mark.parametrize(
        "written",
        ["lines", "array", "indented", "blank lines", "pandas", "pandas index", "pandas split", "within"],
    )
    def test_objects_however_they_are_laid_out(self, written: str, name: str, tmp_path: Path) -> None:
        texts = [json.dumps(one, ensure_ascii=False) for one in self.OBJECTS]
        frame = {"query": {"0": "a", "1": "b\n\u2028"}, "label": {"0": 1, "1": None}}
        content = {
            "lines": "\n".join(texts),
            "array": f"[{', '.join(texts)}]",
            "indented": "\n".join(json.dumps(one, indent=2) for one in self.OBJECTS),
            "blank lines": "\r\n\n".join(texts) + "\n\n",
            "pandas": json.dumps(frame),
            "pandas index": json.dumps({str(i): one for i, one in enumerate(self.OBJECTS)}),
            "pandas split": json.dumps(
                {
                    "columns": ["query", "label"],
                    "index": [0, 1],
                    "data": [[*o.values()] for o in self.OBJECTS],
                }
            ),
            "within": f'{{"version": 1, "data": [{",".join(texts)}]}}',
        }[written]
        table = read_table(put(tmp_path / name, content))
        assert table.columns == {"query": ["a", "b\n\u2028"], "label": [1, None]}
        assert table.said == (("1 empty line left out",) if written == "blank lines" else ())

    def test_two_values_in_a_line_are_no_jsonl(self, tmp_path: Path) -> None:
        with pytest.raises(TaskError, match="line 2: malformed JSON"):
            read_table(put(tmp_path / "p.jsonl", '{"a": 1}\n{"a": 2} {"a": 3}\n'))

    def test_splits_in_one_object_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(TaskError, match=r"several lists \(train, test\)"):
            read_table(put(tmp_path / "p.json", '{"train": [{"a": 1}], "test": [{"a": 2}]}'))


class TestBytes:
    """What a file is says its first bytes, whatever it is called."""

    @pytest.mark.parametrize(
        "pack",
        [gzip.compress, bz2.compress, lzma.compress, lambda data: pa.compress(data, "zstd", asbytes=True)],
    )
    @pytest.mark.parametrize("name", ["p.csv", "p.csv.gz"])
    def test_packed(self, pack: Any, name: str, tmp_path: Path) -> None:
        assert cells(read_table(put(tmp_path / name, pack(lines([COLUMNS, *PLAIN]).encode())))) == PLAIN

    def test_plain_text_that_is_called_gz(self, tmp_path: Path) -> None:
        assert cells(read_table(put(tmp_path / "p.csv.gz", lines([COLUMNS, *PLAIN])))) == PLAIN

    def test_zip_with_one_table(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            archive.writestr("folder/pairs.tsv", lines([COLUMNS, *PLAIN], "\t"))
            archive.writestr("__MACOSX/folder/._pairs.tsv", "x")
        assert cells(read_table(tmp_path / "p.zip")) == PLAIN
        with zipfile.ZipFile(tmp_path / "p.zip", "a") as archive:
            archive.writestr("other.csv", "a")
        with pytest.raises(
            TaskError, match=r"zip archive with 2 files \(folder/pairs.tsv, other.csv\); unpack it"
        ):
            read_table(tmp_path / "p.zip")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
                "a Git LFS pointer.*git lfs pull",
            ),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "an old Office file"),
            (b"<!DOCTYPE html>\n<html><body>log in</body></html>", "a web page"),
            (b"%PDF-1.7\n", "a PDF"),
            (b"SQLite format 3\0" + b"\0" * 99, "an SQLite database"),
            (b"\x80\x04\x95" + b"\0" * 99, "a Python pickle"),
            (b"\0" * 257 + b"ustar" + b"\0" * 99, "a tar archive"),
        ],
    )
    @pytest.mark.parametrize("name", ["p.csv", "p.parquet", "p.jsonl.gz"])
    def test_no_table_is_named_for_what_it_is(
        self, content: bytes, said: str, name: str, tmp_path: Path
    ) -> None:
        if name.endswith(".gz"):
            content = gzip.compress(content)
        if name == "p.parquet" and b"lfs" not in content and b"<" not in content:
            name = "p.data.csv"
        with pytest.raises(TaskError, match=said):
            read_table(put(tmp_path / name, content))

    def test_parquet_of_bytes_under_any_name(self, tmp_path: Path) -> None:
        table = pa.table(
            {"query": pa.array([b"a", "é".encode()]), "label": [1, 0], "raw": pa.array([b"\xff", b""])}
        )
        pq.write_table(table, tmp_path / "p.csv")
        found = read_table(tmp_path / "p.csv")
        assert found.columns["query"] == ["a", "é"] and found.columns["raw"] == [b"\xff", b""]

    def test_arrow_as_save_to_disk_writes_it(self, tmp_path: Path) -> None:
        for split, n in (("train", 40), ("validation", 20), ("test", 20)):
            (tmp_path / split).mkdir()
            with pa.OSFile(str(tmp_path / split / "data-00000-of-00001.arrow"), "wb") as file:
                table = pa.Table.from_pandas(many(n, split))
                with pyarrow.ipc.new_stream(file, table.schema) as writer:
                    writer.write_table(table)
            put(tmp_path / split / "state.json", "{}")
        put(tmp_path / "dataset_dict.json", '{"splits": []}')
        assert load(tmp_path)[0].notes["rows"] == {"train": 40, "dev": 20, "test": 20}

    def test_excel_is_read_where_openpyxl_is_installed_else_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with zipfile.ZipFile(tmp_path / "p.xlsx", "w") as archive:
            archive.writestr("xl/workbook.xml", "<workbook/>")
        monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(
            TaskError, match=r"an Excel workbook; install openpyxl .*or save the sheet as CSV UTF-8"
        ):
            read_table(tmp_path / "p.xlsx")

        rows = [["query", "label", ""], ["a", 1, ""], ["", "", ""], ["b", 0.5, ""], ["", "", ""]]
        sheets = {"Pairs": pd.DataFrame(rows, dtype=object), "Sheet2": pd.DataFrame()}
        monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: True)
        monkeypatch.setattr(tables.pd, "read_excel", lambda *args, **options: sheets)
        found = read_table(tmp_path / "p.xlsx")
        assert found.columns == {"query": ["a", "b"], "label": [1, 0.5]} and found.lines == [2, 4]
        sheets["Sheet2"] = pd.DataFrame([["more"]])
        with pytest.raises(TaskError, match=r"2 sheets hold something \(Pairs, Sheet2\)"):
            read_table(tmp_path / "p.xlsx")

    def test_a_real_workbook(self, tmp_path: Path) -> None:
        pytest.importorskip("openpyxl")
        rows = pd.DataFrame([["a", 1], [None, None], ["NA, \u4f60", 0]], columns=["query", "label"])
        rows.to_excel(tmp_path / "p.xlsx", index=False)
        found = read_table(tmp_path / "p.xlsx")
        assert found.columns == {"query": ["a", "NA, \u4f60"], "label": [1, 0]} and found.lines == [2, 4]


class TestShards:
    def test_a_folder_as_spark_writes_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "pairs.parquet"
        folder.mkdir()
        for i in range(12):
            many(20, f"{i} ").to_parquet(folder / f"part-{i:05d}-ab12.snappy.parquet")
        put(folder / "_SUCCESS", ""), put(folder / ".part-00000-ab12.snappy.parquet.crc", "x")
        whole = tmp_path / "pairs.csv"
        pd.concat([many(20, f"{i} ") for i in range(12)]).to_csv(whole, index=False)
        assert load(folder)[0].fingerprint == load(whole)[0].fingerprint
        firsts = [(table.first, len(table)) for table in tables.chunks(folder, 15)]
        assert firsts[:3] == [(0, 15), (15, 5), (20, 15)] and firsts[-1] == (235, 5)

    def test_rows_of_shards_are_named_by_their_file(self, tmp_path: Path) -> None:
        for i in range(2):
            put(tmp_path / "x.csv" / f"part-{i}.csv", lines([COLUMNS, ["a", "" if i else "b", "1"]]))
        with pytest.raises(TaskError, match=r"column 'text': part-1.csv row 1 \(line 2\): empty"):
            load_task(tmp_path / "x.csv")
        put(tmp_path / "x.csv" / "part-1.csv", lines([["query", "other", "label"], ["a", "b", "1"]]))
        with pytest.raises(TaskError, match=r"part-1.csv: other columns than part-0.csv \(other, text\)"):
            load_task(tmp_path / "x.csv")

    def test_partitions_are_refused(self, tmp_path: Path) -> None:
        put(tmp_path / "x.parquet" / "label=0" / "part-0.parquet", "x")
        with pytest.raises(TaskError, match="partitioned"):
            read_table(tmp_path / "x.parquet")


class TestUnlabelled:
    def test_a_few_empty_texts_and_near_copies_are_left_out(self, tmp_path: Path) -> None:
        many(240).to_csv(tmp_path / "p.csv", index=False)
        task = load_task(tmp_path / "p.csv", group="query")
        measured = task.test["query"].iloc[0]
        rows = [(f"new {i}", f"text {i}") for i in range(60)] + [(measured.upper(), "a text"), ("new", "")]
        pd.DataFrame(rows, columns=COLUMNS[:2]).to_csv(tmp_path / "more.csv", index=False)
        with pytest.warns(UserWarning, match="1 rows with an empty text left out"):
            assert len(load_unlabelled(tmp_path / "more.csv", task)) == 60
