"""Home Depot product search relevance (Kaggle 2016): search terms and products, graded from 1 to 3."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

from dipair_lib.data import delimited
from dipair_lib.data.cells import cells_table
from dipair_lib.data.files import TaskError
from dipair_lib.data.sources import product_files
from dipair_lib.data.sources.product_files import Tables
from dipair_lib.data.table import Table, complain, need_column, number, show

HOME_DEPOT_COLUMNS = ("product_uid", "product_title", "search_term", "relevance")
HOME_DEPOT_FILES = ("train.csv", "train.csv.gz", "train.tsv", "train.tsv.gz")


# --- Home Depot -------------------------------------------------------------------------------------------------------------------


def home_depot_file(root: Path) -> Path | None:
    """The labelled file of a folder."""
    return next((root / name for name in HOME_DEPOT_FILES if (root / name).is_file()), None)


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
    text, encoding = product_files.decoded(data)
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
