"""Product-to-term relevance, graded: the public neighbours of DiPair's P2T-REL, from a folder or, where its terms allow, the hub.

    load_task("p2t/esci")           Amazon's Shopping Queries: DIPAIR_ESCI=folder, or the hub without it
    load_task("p2t/wands")          Wayfair's WANDS: DIPAIR_WANDS=folder
    load_task("p2t/home-depot")     Home Depot (Kaggle): DIPAIR_HOME_DEPOT=file or folder
    load_task("folder")             one of these folders by its path

One row is a search term, a product title and a score. ESCI: exact 3, substitute 2, complement 1, irrelevant 0; its authors' gains for nDCG
are others (1.0, 0.1, 0.01, 0.0), which squeeze three of four grades together and so are no scores to learn. WANDS: exact 2, partial 1,
irrelevant 0. Home Depot: the mean of its raters, 1 to 3. Large files are read by column and by row, never whole.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from dipair_lib import glue, tasks
from dipair_lib.data import checks, delimited, splits
from dipair_lib.data.cells import cells_table
from dipair_lib.data.table import complain, need_column, number, show
from dipair_lib.tasks import Table, Task, TaskError

REPOSITORY = "tasksource/esci"
# The last commit on the page of the repository. This code has read local files in its layout, but not yet the hub itself.
REVISION = "8113b17a5d4099e20243282c926f1bc1a08a4d13"
FIELDS = ("term", "title")
LOCALE = "us"
VARIABLES = {"esci": "DIPAIR_ESCI", "wands": "DIPAIR_WANDS", "home-depot": "DIPAIR_HOME_DEPOT"}
TERMS = {  # as data/README.md has them
    "esci": "Apache-2.0",
    "wands": "MIT",
    "home-depot": "Kaggle competition, research, not to be passed on",
}
NAMES = tuple(f"p2t/{name}" for name in VARIABLES)
ESCI_LABELS = {
    "E": 3.0,
    "S": 2.0,
    "C": 1.0,
    "I": 0.0,
    "Exact": 3.0,
    "Substitute": 2.0,
    "Complement": 1.0,
    "Irrelevant": 0.0,
}
WANDS_LABELS = {"Exact": 2.0, "Partial": 1.0, "Irrelevant": 0.0}
EXAMPLES, PRODUCTS = "shopping_queries_dataset_examples.parquet", "shopping_queries_dataset_products.parquet"
EXAMPLE_COLUMNS = (
    "example_id",
    "query",
    "query_id",
    "product_id",
    "product_locale",
    "esci_label",
    "small_version",
)
HOME_DEPOT_COLUMNS = ("product_uid", "product_title", "search_term", "relevance")
HOME_DEPOT_FILES = ("train.csv", "train.csv.gz", "train.tsv", "train.tsv.gz")
ENCODINGS = (
    "utf-8-sig",
    "cp1252",
    "latin-1",
)  # tried in this order: the file of the competition is Windows-1252

Say = Callable[[str], None]
Tables = dict[str, Table]  # by split, or one under "all"; columns term, title, label, group


def name_of_folder(path: Path) -> str:
    """The task whose files a folder holds ("esci", "wands", "home-depot"), or ""."""
    if not path.is_dir():
        return ""
    if esci_folder(path) or has_esci_label(path):
        return "esci"
    if all(wands_file(wands_folder(path), name).is_file() for name in ("query", "product", "label")):
        return "wands"
    file = home_depot_file(path)
    if file is None or not set(HOME_DEPOT_COLUMNS) <= set(header_of(file)):
        return ""
    # The competition's test file has no labels; one that has them is a split of somebody's own, read as it is.
    return "" if any("relevance" in header_of(test) for test in path.glob("test.*")) else "home-depot"


def load(
    name: str,
    root: Path | None = None,
    max_train: int = 0,
    given: tuple[tuple[str, ...], str, str, str] = ((), "", "", ""),
    shares: tuple[float, ...] = (0.8, 0.1, 0.1),
    seed: int = 0,
    say: Say | None = None,
    locale: str = LOCALE,
    small: bool = True,
) -> Task:
    """One of `NAMES`.

    Args:
        name: without "p2t/". root: its folder (of Home Depot also the file); None: the folder of its variable, or the hub for ESCI.
        max_train, shares, seed, say: as in `tasks.load_task`. ESCI has train and test of its own: only its dev is cut, out of train.
        given: fields, label, group and kind as asked for, only the task's own or empty.
        locale, small: which of ESCI's three shops, and whether only its harder small version (that of its ranking task).

    Raises:
        TaskError: an unknown name, a file, column, label or id that cannot be used, the hub out of reach, the extra not installed.
    """
    if name not in VARIABLES:
        raise TaskError(f"p2t/{name}: unknown; there are {', '.join(NAMES)}")
    tasks._refuse_own(f"p2t/{name}", (FIELDS, "label", "term", "score"), given)
    splits.check_shares(shares)
    folder = os.environ.get(VARIABLES[name])
    root = root or (Path(folder).expanduser() if folder else None)
    notes: dict[str, Any] = {"terms": TERMS[name]}
    if name == "esci":
        tables = esci(root, locale, small, notes, say or (lambda line: None))
    elif root is None:
        raise TaskError(
            f"p2t/{name}: set {VARIABLES[name]} to the folder that holds it (data/README.md says where to get it), or give its path"
        )
    else:
        tables = wands(root, notes) if name == "wands" else home_depot(root, notes)
    return build(name, tables, notes, shares, seed, max_train)


def build(
    name: str, tables: Tables, notes: dict[str, Any], shares: tuple[float, ...], seed: int, max_train: int
) -> Task:
    """The task of tables (term, title, label, group), cut by group where there is only one."""
    dropped = {}
    for split, table in tables.items():
        tables[split], dropped[split] = glue.without_empty_texts(table, FIELDS)
    if any(dropped.values()):
        notes["rows_with_an_empty_text_dropped"] = dropped
    frames = {
        split: checks.frame_of(table, FIELDS, "label", "group", most_empty=0)
        for split, table in tables.items()
    }
    train, dev, _ = shares
    if "all" in frames:
        frames = splits.cut(frames["all"], "group", dict(zip(tasks.SPLITS, shares, strict=True)), seed)
        notes["splits"] = f"cut by hash of the query, shares {list(shares)}, seed {seed}"
    else:
        frames |= splits.cut(
            frames["train"], "group", {"train": train / (train + dev), "dev": dev / (train + dev)}, seed
        )
        notes["splits"] = f"train and test as given, dev cut from train by hash of the query, seed {seed}"
    frames = {split: frames[split] for split in tasks.SPLITS}
    notes["rows_read"] = {split: len(frame) for split, frame in frames.items()}
    frames, notes["dropped"] = checks.drop_repeats(frames, FIELDS)
    first = next(iter(tables.values()))
    checks.tell(first.path, notes)
    for split, frame in frames.items():
        checks.check_split(tables.get(split, first), split, frame, "label", "score", ())
    return tasks._finish(f"p2t/{name}", FIELDS, "score", (), frames, True, max_train, notes)


def graded(table: Table, column: str, grades: dict[str, float], names: Sequence[str]) -> list[float]:
    """The scores of a column of label names."""
    found = [grades.get(str(value).strip()) for value in table.columns[column]]
    bad = [
        (row, f"{show(table.columns[column][row])} is not one of {', '.join(names)}")
        for row, grade in enumerate(found)
        if grade is None
    ]
    complain(table, column, bad, "correct or remove these rows")
    return [grade for grade in found if grade is not None]


def refuse_missing(path: Path, what: str, ids: Iterable[Any], there: Any, file: str) -> None:
    """Raise if ids that a file uses are not in another one."""
    missing = list(dict.fromkeys(key for key in ids if key not in there))
    if missing:
        first = ", ".join(" ".join(key) if isinstance(key, tuple) else str(key) for key in missing[:3])
        more = ", ..." if len(missing) > 3 else ""
        raise TaskError(
            f"{path}: {len(missing)} {what} are not in {file} ({first}{more}); are the files of one version?"
        )


# --- ESCI -------------------------------------------------------------------------------------------------------------------------


def esci(root: Path | None, locale: str, small: bool, notes: dict[str, Any], tell: Say) -> Tables:
    """Train and test of ESCI, one locale, from the official files, a copy of the hub's repository, or the hub."""
    notes |= {"locale": locale, "version": "small" if small else "large"}
    if root is not None and (folder := esci_folder(root)):
        notes["source"] = f"official files {EXAMPLES}, {PRODUCTS}"
        return official_esci(folder, locale, small, tell)
    columns = [*EXAMPLE_COLUMNS, "product_title"]
    if root is None:
        notes["source"] = f"{REPOSITORY} at {REVISION[:12]}"
        batches = {split: hub_batches(split, columns) for split in ("train", "test")}
    else:
        notes["source"] = f"local copy of {REPOSITORY}"
        files = copy_files(root)
        if not all(files.values()):
            raise TaskError(
                f"{root}: expected {EXAMPLES} and {PRODUCTS} (official), or data/train-*.parquet and data/test-*.parquet of {REPOSITORY}"
            )
        batches = {split: parquet_batches(paths, columns, locale) for split, paths in files.items()}
    tables = {}
    for split, found in batches.items():
        kept = gather(found, columns, locale, small)
        tables[split] = esci_table(Path(f"{root or REPOSITORY}/{split}"), kept, kept["product_title"], locale)
        tell(f"p2t/esci: {len(tables[split]):,} rows of {split}")
    return tables


def esci_folder(root: Path) -> Path | None:
    """The folder with the official files: their repository keeps them in `shopping_queries_dataset`."""
    folders = (root, root / "shopping_queries_dataset")
    return next((folder for folder in folders if (folder / EXAMPLES).is_file()), None)


def copy_files(root: Path) -> dict[str, list[Path]]:
    """Parquet files by split of a copy of the hub's repository."""
    return {split: sorted((root / "data").glob(f"{split}-*.parquet")) for split in ("train", "test")}


def has_esci_label(root: Path) -> bool:
    """Whether a folder is such a copy, by its first file."""
    first = copy_files(root)["train"][:1]
    if not first:
        return False
    import pyarrow
    import pyarrow.parquet

    try:
        return any("esci_label" in pyarrow.parquet.read_schema(path).names for path in first)
    except (pyarrow.ArrowException, OSError):
        return False


def official_esci(folder: Path, locale: str, small: bool, tell: Say) -> Tables:
    """The two official files joined on locale and product: an id means another product in another shop."""
    path, products = folder / EXAMPLES, folder / PRODUCTS
    if not products.is_file():
        raise TaskError(f"{folder}: expected {PRODUCTS} beside {EXAMPLES}, but there is none")
    columns = [*EXAMPLE_COLUMNS, "split"]
    kept = gather(parquet_batches([path], columns, locale), columns, locale, small)
    tell(f"p2t/esci: {len(kept['query']):,} rows of {locale}")
    if strange := [split for split in kept["split"] if split not in ("train", "test")]:
        raise TaskError(
            f"{path}, column 'split': expected train or test, got {show(strange[0])} in {len(strange)} rows; download it again"
        )
    needed = set(kept["product_id"])
    titles: dict[str, str | None] = {}
    for batch in parquet_batches([products], ["product_id", "product_locale", "product_title"], locale):
        rows = zip(batch["product_id"], batch["product_title"], strict=True)
        titles |= {product: title for product, title in rows if product in needed}
    refuse_missing(path, f"products of {locale!r}", kept["product_id"], titles, PRODUCTS)
    tell(f"p2t/esci: titles of {len(titles):,} products")
    tables = {}
    for split in ("train", "test"):
        at = [row for row, its in enumerate(kept["split"]) if its == split]
        part = {column: [values[row] for row in at] for column, values in kept.items()}
        its_titles = [titles[product] for product in part["product_id"]]
        tables[split] = esci_table(path, part, its_titles, locale)
    return tables


def esci_table(path: Path, kept: dict[str, list[Any]], titles: list[Any], locale: str) -> Table:
    if not kept["query"]:
        raise TaskError(f"{path}: no rows of product_locale {locale!r}; ESCI has us, es and jp")
    found = [ESCI_LABELS.get(str(label)) for label in kept["esci_label"]]
    bad = [example for example, grade in zip(kept["example_id"], found, strict=True) if grade is None]
    if bad:
        label = kept["esci_label"][kept["example_id"].index(bad[0])]
        raise TaskError(
            f"{path}, column 'esci_label': example_id {bad[0]}: {show(label)} is not one of E, S, C, I (or Exact, Substitute, "
            f"Complement, Irrelevant); {len(bad)} such rows in all; correct or remove them"
        )
    groups = [str(query) for query in kept["query_id"]]
    return Table(path, {"term": kept["query"], "title": titles, "label": found, "group": groups}, None)


def gather(
    batches: Iterable[dict[str, list[Any]]], columns: Sequence[str], locale: str, small: bool
) -> dict[str, list[Any]]:
    """The rows of the locale and the version."""
    kept: dict[str, list[Any]] = {column: [] for column in columns}
    for batch in batches:
        pairs = zip(batch["product_locale"], batch["small_version"], strict=True)
        rows = [row for row, (its, mark) in enumerate(pairs) if its == locale and (mark == 1 or not small)]
        for column, values in kept.items():
            values += [batch[column][row] for row in rows]
    return kept


def parquet_batches(paths: Sequence[Path], columns: list[str], locale: str) -> Iterator[dict[str, list[Any]]]:
    """Some columns of Parquet files, 20,000 rows at a time, without those of another locale."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    for path in paths:
        try:
            file = pyarrow.parquet.ParquetFile(path)
            check_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_size=20_000, columns=columns):
                of_locale = pyarrow.compute.equal(batch.column("product_locale"), locale)
                yield batch.filter(of_locale).to_pydict()
        except (pyarrow.ArrowException, OSError) as error:
            raise TaskError(f"{path}: not a readable Parquet file ({error}); download it again") from error


def hub_batches(split: str, columns: list[str]) -> Iterator[dict[str, list[Any]]]:
    """Some columns of one split of the hub's repository, 20,000 rows at a time."""
    try:
        import datasets
    except ImportError as error:
        raise TaskError(
            f"p2t/esci: reading {REPOSITORY} needs the extra `hub` (pip install 'dipair-lab[hub]'); or set DIPAIR_ESCI to a folder "
            f"that holds {EXAMPLES} and {PRODUCTS}"
        ) from error
    try:
        found = datasets.load_dataset(REPOSITORY, split=split, revision=REVISION)
    except (OSError, ValueError) as error:
        raise TaskError(
            f"{REPOSITORY}, {split}: cannot be read ({error}); is there a network? Without one, set DIPAIR_ESCI to a folder that holds "
            f"{EXAMPLES} and {PRODUCTS}, or a copy of the repository"
        ) from error
    check_columns(Path(f"{REPOSITORY}/{split}"), found.column_names, columns)
    yield from found.select_columns(columns).iter(batch_size=20_000)


def check_columns(path: Path, there: Iterable[str], columns: Iterable[str]) -> None:
    for column in columns:
        need_column(Table(path, {name: [] for name in there}, None), column)


# --- WANDS ------------------------------------------------------------------------------------------------------------------------


def wands_folder(root: Path) -> Path:
    """The folder with the files: the repository keeps them in `dataset`."""
    return root / "dataset" if wands_file(root / "dataset", "label").is_file() else root


def wands_file(folder: Path, name: str) -> Path:
    plain = folder / f"{name}.csv"
    return plain if plain.is_file() else plain.with_name(f"{name}.csv.gz")


def wands(root: Path, notes: dict[str, Any]) -> Tables:
    """The three tab-separated files joined on query and product."""
    folder = wands_folder(root)
    paths = {name: wands_file(folder, name) for name in ("query", "product", "label")}
    for name, path in paths.items():
        if not path.is_file():
            raise TaskError(
                f"{folder}: expected query.csv, product.csv and label.csv of WANDS (or .csv.gz), but there is no {name}.csv"
            )
    labels = tab_table(paths["label"], ("query_id", "product_id", "label"))
    grades = graded(labels, "label", WANDS_LABELS, list(WANDS_LABELS))
    terms = names_by_id(paths["query"], "query_id", "query", set(labels.columns["query_id"]))
    titles = names_by_id(paths["product"], "product_id", "product_name", set(labels.columns["product_id"]))
    refuse_missing(paths["label"], "queries", labels.columns["query_id"], terms, paths["query"].name)
    refuse_missing(paths["label"], "products", labels.columns["product_id"], titles, paths["product"].name)
    notes["source"] = "WANDS, query.csv, product.csv and label.csv"
    columns: dict[str, list[Any]] = {
        "term": [terms[key] for key in labels.columns["query_id"]],
        "title": [titles[key] for key in labels.columns["product_id"]],
        "label": grades,
        "group": labels.columns["query_id"],
    }
    return {"all": Table(paths["label"], columns, labels.lines)}


def names_by_id(path: Path, key: str, name: str, needed: set[str]) -> dict[str, str]:
    """One column by id, of the ids needed; the first of each."""
    found: dict[str, str] = {}
    for _, cells in tab_rows(path, (key, name)):
        if cells[0] in needed:
            found.setdefault(cells[0], cells[1])
    return found


def opened(path: Path) -> BinaryIO:
    """A file for reading, also compressed."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def tab_table(path: Path, columns: Sequence[str]) -> Table:
    """Some columns of a tab-separated file as a table."""
    rows = list(tab_rows(path, columns))
    if not rows:
        raise TaskError(f"{path}: a header line but no rows")
    values = {name: [cells[at] for _, cells in rows] for at, name in enumerate(columns)}
    return Table(path, values, [line for line, _ in rows])


def tab_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, cells of the columns) of a tab-separated file with a header; a cell in quotes may hold tabs and line breaks."""
    try:
        with opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            header = [name.strip() for name in next(reader, [])]
            check_columns(path, header, columns)
            at = [header.index(name) for name in columns]
            start = reader.line_num + 1
            for cells in delimited.whole_cells(reader):
                if len(cells) != len(header) and cells:
                    raise TaskError(
                        f"{path}, row starting at line {start}: malformed, {len(cells)} cells where the header has {len(header)} "
                        f"({', '.join(header)}); download the file again"
                    )
                if cells:
                    yield start, [cells[i].strip() for i in at]
                start = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 ({error}); download the file again") from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise TaskError(
            f"{path}: cannot be read ({error}); check the path, or download the file again"
        ) from error


# --- Home Depot -------------------------------------------------------------------------------------------------------------------


def home_depot_file(root: Path) -> Path | None:
    """The labelled file of a folder."""
    return next((root / name for name in HOME_DEPOT_FILES if (root / name).is_file()), None)


def header_of(path: Path) -> list[str]:
    """The column names of a .csv or .tsv, also .gz; [] if it cannot be read."""
    try:
        with opened(path) as file:
            line = file.readline(10_000).decode("latin-1").strip().removeprefix("\u00ef\u00bb\u00bf")
    except (OSError, EOFError, zlib.error):
        return []
    return [name.strip(' "') for name in line.split("\t" if ".tsv" in path.name else ",")]


def home_depot(root: Path, notes: dict[str, Any]) -> Tables:
    """The labelled file of the competition: commas and standard quoting, or a copy with tabs and no quoting."""
    path = root if root.is_file() else home_depot_file(root)
    if path is None:
        raise TaskError(
            f"{root}: expected Home Depot's train.csv (or .tsv, each also with .gz), or the path of that file, but there is none"
        )
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(
            f"{path}: cannot be read ({error}); check the path, or download the file again"
        ) from error
    if not data.strip():
        raise TaskError(f"{path}: the file is empty")
    text, encoding = decoded(data)
    rows = delimited.tab_rows(text) if ".tsv" in path.suffixes else delimited.csv_rows(path, text)
    table = cells_table(path, rows)
    for column in HOME_DEPOT_COLUMNS:
        need_column(table, column)
    scores = [number(value) for value in table.columns["relevance"]]
    bad = [
        (row, f"{show(table.columns['relevance'][row])} is not a number from 1 to 3")
        for row, score in enumerate(scores)
        if score is None or not 1 <= score <= 3
    ]
    complain(table, "relevance", bad, "correct or remove these rows")
    notes |= {"source": f"Home Depot, {path.name}", "encoding": encoding}
    terms = table.columns["search_term"]
    groups = [" ".join(term.split()) for term in terms]
    columns = {"term": terms, "title": table.columns["product_title"], "label": scores, "group": groups}
    return {"all": Table(path, columns, table.lines)}


def decoded(data: bytes) -> tuple[str, str]:
    """Text and the encoding that reads it."""
    for encoding in ENCODINGS:
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 reads every byte")
