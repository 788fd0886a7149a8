"""Product-to-term relevance from ESCI, WANDS and Home Depot files: exact rows, scores by name, faults by file and row."""

from __future__ import annotations

import gzip
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dipair_lib.data.files import TaskError
from dipair_lib.data.loading import load_task
from dipair_lib.data.sources import esci as reader
from dipair_lib.data.sources import product_files, products
from dipair_lib.data.task import Task

N = 40  # queries


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in products.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


def everything(task: Task) -> pd.DataFrame:
    return pd.concat([task.train, task.dev, task.test])


def rows_of(task: Task) -> dict[tuple[str, str], float]:
    rows = everything(task)
    return dict(zip(zip(rows["term"], rows["title"], strict=True), rows["label"].tolist(), strict=True))


# ----------------------------------------------------------------------------------------- ESCI


def example(number: int, query: int, product: str, label: str, /, **other: Any) -> dict[str, Any]:
    row = {"example_id": number, "query": f"query {query}", "query_id": query, "product_id": product}
    split = "test" if query % 4 == 3 else "train"
    row |= {
        "product_locale": "us",
        "esci_label": label,
        "small_version": 1,
        "large_version": 1,
        "split": split,
    }
    return row | other


EXAMPLES = [
    example(4 * q + k, q, f"B{4 * q + k}", label) for q in range(N) for k, label in enumerate("ESCI")
] + [
    example(900, 2, "B8", "I", product_locale="es", query="consulta", query_id=900),
    example(901, 2, "B901", "E", small_version=0),
]
PRODUCTS = [
    {
        "product_id": f"B{k}",
        "product_locale": "us",
        "product_title": f"title {k}",
        "product_description": "long",
    }
    for k in [*range(4 * N), 901, 902]
] + [{"product_id": "B8", "product_locale": "es", "product_title": "otro", "product_description": None}]
GRADES = {(f"query {q}", f"title {4 * q + k}"): 3.0 - k for q in range(N) for k in range(4)}


def write_esci(folder: Path, examples: list[dict] = EXAMPLES, items: list[dict] = PRODUCTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(examples).to_parquet(folder / product_files.EXAMPLES)
    pd.DataFrame(items).to_parquet(folder / product_files.PRODUCTS)
    return folder


@pytest.fixture
def esci(tmp_path: Path) -> Path:
    return write_esci(tmp_path / "esci")


class TestEsci:
    def test_labels_are_3_to_0_and_the_split_is_the_given_one(self, esci: Path) -> None:
        said: list[str] = []
        task = load_task(esci, say=said.append)
        assert (task.name, task.fields, task.kind) == ("p2t/esci", ("term", "title"), "score")
        assert task.grouped and task.metrics[:2] == ("pearson", "spearman")
        assert rows_of(task) == GRADES
        assert set(task.test["term"]) == {f"query {q}" for q in range(N) if q % 4 == 3}
        assert not set(task.train["term"]) & set(task.dev["term"])
        assert task.dev["term"].nunique() > 0
        assert everything(task).groupby("term")["group"].nunique().eq(1).all()
        assert task.notes["locale"] == "us" and task.notes["version"] == "small"
        assert task.notes["terms"] == "Apache-2.0"
        assert "dev cut from train" in task.notes["splits"]
        assert task.notes["queries_with_one_label"] == {"train": 0, "dev": 0, "test": 0}
        assert "titles of 160 products" in said[-1]

    def test_the_name_reads_the_folder_of_its_variable_also_the_repository(
        self, esci: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = load_task(esci).fingerprint
        esci.rename(tmp_path / "shopping_queries_dataset")
        monkeypatch.setenv("DIPAIR_ESCI", str(tmp_path))
        assert load_task("p2t/esci").fingerprint == expected
        assert load_task("p2t/esci", seed=1).fingerprint != expected
        assert len(load_task("p2t/esci", max_train=40).train) == 40

    def test_another_shop(self, esci: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reader, "LOCALE", "jp")
        with pytest.raises(TaskError, match=r"no rows of product_locale 'jp'; ESCI has us, es and jp"):
            load_task(esci)
        spanish = [row | {"product_locale": "es"} for row in EXAMPLES[: 4 * N]]
        items = [
            row | {"product_locale": "es", "product_title": f"otro {row['product_id']}"} for row in PRODUCTS
        ]
        write_esci(esci, [*EXAMPLES, *spanish], [*PRODUCTS, *items[:-1]])
        monkeypatch.setattr(reader, "LOCALE", "es")
        task = load_task(esci)
        assert everything(task)["title"].str.startswith("otro").all()
        assert len(everything(task)) == 4 * N + 1

    def test_only_the_columns_and_the_shop_that_are_needed_are_read(
        self, esci: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[str, list[str], set[str]]] = []
        batches = product_files.parquet_batches

        def watched(paths: list[Path], columns: list[str], locale: str) -> Any:
            for batch in batches(paths, columns, locale):
                seen.append((paths[0].name, list(batch), set(batch["product_locale"])))
                yield batch

        monkeypatch.setattr(product_files, "parquet_batches", watched)
        load_task(esci)
        assert [name for name, *_ in seen] == [product_files.EXAMPLES, product_files.PRODUCTS]
        assert seen[1][1:] == (["product_id", "product_locale", "product_title"], {"us"})
        assert "product_description" not in seen[0][1] and seen[0][2] == {"us"}

    def test_a_pair_with_two_labels_keeps_the_first_and_a_missing_title_drops_the_row(
        self, esci: Path
    ) -> None:
        twice = example(950, 0, "B0", "I")
        items = [row if row["product_id"] != "B5" else row | {"product_title": None} for row in PRODUCTS]
        write_esci(esci, [*EXAMPLES, twice], items)
        with pytest.warns(UserWarning, match="1 conflicting label rows dropped"):
            task = load_task(esci)
        assert rows_of(task) == {pair: grade for pair, grade in GRADES.items() if pair[1] != "title 5"}
        assert task.notes["rows_with_an_empty_text_dropped"] == {"train": 1, "test": 0}

    def test_products_that_are_missing_are_refused_by_name(self, esci: Path) -> None:
        write_esci(esci, items=[row for row in PRODUCTS if row["product_id"] not in ("B3", "B9")])
        with pytest.raises(
            TaskError,
            match=r"examples\.parquet: 2 products of 'us' are not in .*products\.parquet \(B3, B9\)",
        ):
            load_task(esci)
        (esci / product_files.PRODUCTS).unlink()
        with pytest.raises(TaskError, match=r"expected shopping_queries_dataset_products\.parquet beside"):
            load_task(esci)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"esci_label": "X"}, r"'esci_label': example_id 5: 'X' is not one of E, S, C, I .*1 such rows"),
            ({"esci_label": None}, r"'esci_label': example_id 5: None is not one of E, S, C, I"),
            ({"split": "private"}, r"'split': expected train or test, got 'private' in 1 rows"),
            ({"query": None}, None),
        ],
    )
    def test_a_strange_label_or_split_is_named(
        self, esci: Path, change: dict[str, Any], message: str | None
    ) -> None:
        write_esci(esci, [row | change if row["example_id"] == 5 else row for row in EXAMPLES])
        if message is None:
            assert load_task(esci).notes["rows_with_an_empty_text_dropped"]["train"] == 1
            return
        with pytest.raises(TaskError, match=message):
            load_task(esci)

    def test_a_column_that_is_missing_and_a_broken_file(self, esci: Path) -> None:
        write_esci(esci, [{k: v for k, v in row.items() if k != "small_version"} for row in EXAMPLES])
        with pytest.raises(
            TaskError, match=r"examples\.parquet: no column 'small_version'; there are example_id"
        ):
            load_task(esci)
        write_esci(esci)
        path = esci / product_files.PRODUCTS
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(TaskError, match=r"products\.parquet: not a readable Parquet file"):
            load_task(esci)

    def test_its_columns_are_its_own(self, esci: Path) -> None:
        assert load_task(esci, fields=["term", "title"], kind="score", group="term").kind == "score"
        with pytest.raises(TaskError, match="p2t/esci has kind = 'score', not 'classes': leave kind empty"):
            load_task(esci, kind="classes")
        with pytest.raises(TaskError, match="expected three positive shares"):
            load_task(esci, splits=(1, 0, 0))


WORDS = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}


def hub_frame(split: str) -> pd.DataFrame:
    """One split as the hub's repository has it: labels in words, the product in the row."""
    titles = {(row["product_locale"], row["product_id"]): row["product_title"] for row in PRODUCTS}
    rows = [
        row
        | {
            "esci_label": WORDS[row["esci_label"]],
            "product_title": titles[row["product_locale"], row["product_id"]],
        }
        for row in EXAMPLES
        if row["split"] == split
    ]
    return pd.DataFrame(rows).drop(columns="split").assign(product_description="long")


class TestEsciOfTheHub:
    def test_a_copy_of_its_repository_gives_the_same_task(self, esci: Path, tmp_path: Path) -> None:
        (tmp_path / "copy" / "data").mkdir(parents=True)
        for split in ("train", "test"):
            frame = hub_frame(split)
            for part in (0, 1):
                path = tmp_path / "copy" / "data" / f"{split}-0000{part}-of-00002-abc.parquet"
                frame.iloc[part * 30 : 30 if part == 0 else None].to_parquet(path)
        task = load_task(tmp_path / "copy")
        assert task.name == "p2t/esci" and task.fingerprint == load_task(esci).fingerprint

    def test_the_hub_at_a_pinned_revision(self, esci: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        asked = []

        def from_memory(name: str, split: str, revision: str) -> Any:
            asked.append((name, split, revision))
            return datasets.Dataset.from_pandas(hub_frame(split), preserve_index=False)

        monkeypatch.setattr(datasets, "load_dataset", from_memory)
        task = load_task("p2t/esci")
        assert asked == [
            ("tasksource/esci", split, "8113b17a5d4099e20243282c926f1bc1a08a4d13")
            for split in ("train", "test")
        ]
        assert task.fingerprint == load_task(esci).fingerprint
        assert task.notes["source"] == "tasksource/esci at 8113b17a5d40"

    def test_out_of_reach_or_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        def unreachable(*_: object, **__: object) -> None:
            raise ConnectionError("no route")

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(TaskError, match=r"cannot be read \(no route\).*set DIPAIR_ESCI to a folder"):
            load_task("p2t/esci")
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(TaskError, match=r"pip install 'dipair-lab\[hub\]'"):
            load_task("p2t/esci")

    def test_a_folder_with_neither(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DIPAIR_ESCI", str(tmp_path))
        with pytest.raises(
            TaskError, match=r"expected shopping_queries_dataset_examples\.parquet.*data/train-\*"
        ):
            load_task("p2t/esci")


# ----------------------------------------------------------------------------------------- WANDS

WANDS_GRADES = {(f"chair {q}", f"product {3 * q + k}"): 2.0 - k for q in range(N) for k in range(3)}


@pytest.fixture
def wands(tmp_path: Path) -> Path:
    folder = tmp_path / "wands"
    folder.mkdir()
    lines = ["query_id\tquery\tquery_class", *(f"{q}\tchair {q}\tChairs" for q in range(N))]
    (folder / "query.csv").write_text("\n".join(lines) + "\n")
    lines = ["product_id\tproduct_name\tproduct_class\tproduct_description"]
    lines += [f'{p}\tproduct {p}\tSofas\t"two\nlines, a ""quote"" and\ta tab"' for p in range(3 * N)]
    (folder / "product.csv").write_text("\n".join(lines) + "\n")
    labels = enumerate(("Exact", "Partial", "Irrelevant"))
    rows = [(q, 3 * q + k, label) for k, label in labels for q in range(N)]
    lines = ["id\tquery_id\tproduct_id\tlabel", *(f"{i}\t{q}\t{p}\t{y}" for i, (q, p, y) in enumerate(rows))]
    (folder / "label.csv").write_text("\n".join(lines) + "\n")
    return folder


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


class TestWands:
    def test_labels_are_2_to_0_and_queries_stay_together(self, wands: Path) -> None:
        task = load_task(wands)
        assert (task.name, task.kind, task.grouped) == ("p2t/wands", "score", True)
        assert rows_of(task) == WANDS_GRADES
        for one, other in ((task.train, task.dev), (task.train, task.test), (task.dev, task.test)):
            assert not set(one["term"]) & set(other["term"])
        assert everything(task).groupby("term").size().eq(3).all()
        assert set(load_task(wands, seed=1).test["term"]) != set(task.test["term"])
        assert len(load_task(wands, splits=(0.4, 0.2, 0.4)).test) > len(task.test)

    def test_the_repository_and_compressed_files(
        self, wands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = load_task(wands).fingerprint
        (tmp_path / "repository").mkdir()
        folder = wands.rename(tmp_path / "repository" / "dataset")
        for name in ("label", "product"):
            (folder / f"{name}.csv.gz").write_bytes(gzip.compress((folder / f"{name}.csv").read_bytes()))
            (folder / f"{name}.csv").unlink()
        monkeypatch.setenv("DIPAIR_WANDS", str(tmp_path / "repository"))
        assert load_task("p2t/wands").fingerprint == expected
        assert load_task(tmp_path / "repository").fingerprint == expected

    @pytest.mark.parametrize(
        "name, old, new, message",
        [
            ("label", "\tPartial", "\tpartly", r"label\.csv, column 'label': row 41 \(line 42\): 'partly' is not one of Exact, Partial"),
            ("label", "\tproduct_id", "\tproduct", r"label\.csv: no column 'product_id'; there are id, query_id, product"),
            ("label", "0\t0\t0\tExact", "0\t0\t0", r"label\.csv, row starting at line 2: malformed, 3 cells where the header has 4"),
            ("product", "\n4\tproduct", "\n4000\tproduct", r"label\.csv: 1 products are not in product\.csv \(4\)"),
            ("query", "\n7\tchair", "\n7000\tchair", r"label\.csv: 1 queries are not in query\.csv \(7\)"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(self, wands: Path, name: str, old: str, new: str, message: str) -> None:
        replace(wands / f"{name}.csv", old, new)
        with pytest.raises(TaskError, match=message):
            load_task(wands)

    def test_a_file_that_is_missing_empty_or_of_another_encoding(
        self, wands: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DIPAIR_WANDS", str(wands))
        (wands / "query.csv").write_bytes("query_id\tquery\n1\tcaf\u00e9\n".encode("latin-1"))
        with pytest.raises(TaskError, match=r"query\.csv: not UTF-8"):
            load_task("p2t/wands")
        (wands / "label.csv").write_text("id\tquery_id\tproduct_id\tlabel\n")
        with pytest.raises(TaskError, match=r"label\.csv: a header line but no rows"):
            load_task("p2t/wands")
        (wands / "product.csv").unlink()
        with pytest.raises(
            TaskError, match=r"expected query\.csv, product\.csv and label\.csv .*no product\.csv"
        ):
            load_task("p2t/wands")

    def test_queries_with_one_label_are_counted_and_no_error(self, wands: Path) -> None:
        path = wands / "label.csv"
        lines = path.read_text().splitlines()
        path.write_text(
            "\n".join(line for line in lines if line.split("\t")[1] != "5" or "Exact" in line) + "\n"
        )
        assert sum(load_task(wands).notes["queries_with_one_label"].values()) == 1


# ----------------------------------------------------------------------------------------- Home Depot

HEADER = ["id", "product_uid", "product_title", "search_term", "relevance"]
HOME_DEPOT = [
    (i, 100 + i // 2, f'{i} in. pipe, 5" caf\u00e9 \u2122', f"pipe {i // 3}", 1 + i % 3 * 0.67)
    for i in range(90)
]


def write_home_depot(path: Path, rows: list[tuple] = HOME_DEPOT, encoding: str = "cp1252") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows, columns=HEADER)
    if ".tsv" in path.name:
        text = "\n".join("\t".join(map(str, row)) for row in [HEADER, *rows]) + "\n"
    else:
        text = frame.to_csv(index=False)
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


class TestHomeDepot:
    def test_rows_of_the_competition_s_file(self, tmp_path: Path) -> None:
        write_home_depot(tmp_path / "train.csv")
        (tmp_path / "test.csv").write_text("id,product_uid,product_title,search_term\n1,1,a,b\n")
        task = load_task(tmp_path)
        assert (task.name, task.kind, task.grouped) == ("p2t/home-depot", "score", True)
        found = rows_of(task)
        assert found.keys() == {(term, title) for _, _, title, term, _ in HOME_DEPOT}
        assert all(abs(found[term, title] - score) < 1e-6 for _, _, title, term, score in HOME_DEPOT)
        assert not set(task.train["term"]) & set(task.test["term"])
        assert task.notes["encoding"] == "cp1252"

    @pytest.mark.parametrize(
        "name, encoding",
        [
            ("train.csv.gz", "cp1252"),
            ("train.tsv", "utf-8"),
            ("train.tsv.gz", "cp1252"),
            ("train.csv", "utf-8-sig"),
        ],
    )
    def test_copies_of_it_give_the_same_task(
        self, tmp_path: Path, name: str, encoding: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = load_task(write_home_depot(tmp_path / "first" / "train.csv").parent).fingerprint
        path = write_home_depot(tmp_path / "second" / name, encoding=encoding)
        assert load_task(path.parent).fingerprint == expected
        for place in (path, path.parent):
            monkeypatch.setenv("DIPAIR_HOME_DEPOT", str(place))
            assert load_task("p2t/home-depot").fingerprint == expected

    def test_bytes_that_windows_1252_does_not_have(self, tmp_path: Path) -> None:
        path = write_home_depot(tmp_path / "train.csv")
        path.write_bytes(path.read_bytes().replace(b"0 in. pipe", b"0 in.\x81 pipe", 1))
        assert load_task(tmp_path).notes["encoding"] == "latin-1"

    def test_repeats_are_dropped_and_counted(self, tmp_path: Path) -> None:
        more = [
            (900, 1, HOME_DEPOT[4][2], HOME_DEPOT[4][3], 1.0),
            (901, 1, HOME_DEPOT[5][2], HOME_DEPOT[5][3], 2.34),
        ]
        write_home_depot(tmp_path / "train.csv", [*HOME_DEPOT, *more])
        with pytest.warns(UserWarning, match="1 duplicate rows dropped.*1 conflicting label rows dropped"):
            task = load_task(tmp_path)
        assert rows_of(task)[HOME_DEPOT[4][3], HOME_DEPOT[4][2]] == pytest.approx(1.67)
        assert len(everything(task)) == 90

    @pytest.mark.parametrize(
        "row, message",
        [
            ((7, 1, "a", "b", 3.5), r"train\.csv, column 'relevance': row 91 \(line 92\): '3\.5' is not a number from 1 to 3"),
            ((7, 1, "a", "b", "high"), r"column 'relevance': row 91 \(line 92\): 'high' is not a number"),
            ((7, 1, "a", "b", "nan"), r"column 'relevance': row 91 \(line 92\): 'nan' is not a number"),
        ],
    )  # fmt: skip
    def test_a_strange_relevance_is_named(self, tmp_path: Path, row: tuple, message: str) -> None:
        write_home_depot(tmp_path / "train.csv", [*HOME_DEPOT, row])
        with pytest.raises(TaskError, match=message):
            load_task(tmp_path)

    def test_a_missing_column_file_or_variable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(
            TaskError, match="p2t/home-depot: set DIPAIR_HOME_DEPOT to the folder that holds it"
        ):
            load_task("p2t/home-depot")
        monkeypatch.setenv("DIPAIR_HOME_DEPOT", str(tmp_path))
        with pytest.raises(TaskError, match=r"expected Home Depot's train\.csv .*but there is none"):
            load_task("p2t/home-depot")
        (tmp_path / "train.csv").write_text("id,product_uid,product_title,relevance\n1,2,a,3\n")
        with pytest.raises(
            TaskError, match=r"train\.csv: no column 'search_term'; there are id, product_uid"
        ):
            load_task("p2t/home-depot")
        (tmp_path / "train.csv").write_text("")
        with pytest.raises(TaskError, match=r"train\.csv: the file is empty"):
            load_task("p2t/home-depot")
        (tmp_path / "train.csv").unlink()
        (tmp_path / "train.csv.gz").write_bytes(gzip.compress(b"id,product_uid\n" * 50)[:-9])
        with pytest.raises(TaskError, match=r"train\.csv\.gz: cannot be read"):
            load_task("p2t/home-depot")


def test_a_folder_with_labelled_splits_of_ones_own_is_read_as_it_is(tmp_path: Path) -> None:
    parts = {"train": HOME_DEPOT[:60], "dev": HOME_DEPOT[60:75], "test": HOME_DEPOT[75:]}
    for split, rows in parts.items():
        write_home_depot(tmp_path / f"{split}.csv", rows, "utf-8")
    task = load_task(tmp_path, fields=["search_term", "product_title"], label="relevance")
    assert len(task.test) == 15 and task.notes["splits"] == "as given"


def test_names(tmp_path: Path) -> None:
    with pytest.raises(
        TaskError, match=r"p2t/nothing: unknown; there are p2t/esci, p2t/wands, p2t/home-depot"
    ):
        load_task("p2t/nothing")
    assert products.name_of_folder(tmp_path) == ""
    write_home_depot(tmp_path / "train.csv")
    assert products.name_of_folder(tmp_path) == "home-depot"
    shutil.copy(tmp_path / "train.csv", tmp_path / "own.csv")
    (tmp_path / "train.csv").write_text("query,text,label\na,b,1\n")
    assert products.name_of_folder(tmp_path) == ""


@pytest.fixture(autouse=True)
def loud() -> Any:
    """Nothing is dropped but where a test says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
