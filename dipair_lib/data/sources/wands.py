"""WANDS (Chen et al. 2022): queries and products of a furniture shop, in three grades."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dipair_lib.data.files import TaskError
from dipair_lib.data.sources import product_files
from dipair_lib.data.sources.product_files import Tables
from dipair_lib.data.table import Table

WANDS_LABELS = {"Exact": 2.0, "Partial": 1.0, "Irrelevant": 0.0}


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
    labels = product_files.tab_table(paths["label"], ("query_id", "product_id", "label"))
    grades = product_files.graded(labels, "label", WANDS_LABELS, list(WANDS_LABELS))
    terms = product_files.names_by_id(paths["query"], "query_id", "query", set(labels.columns["query_id"]))
    titles = product_files.names_by_id(
        paths["product"], "product_id", "product_name", set(labels.columns["product_id"])
    )
    product_files.refuse_missing(
        paths["label"], "queries", labels.columns["query_id"], terms, paths["query"].name
    )
    product_files.refuse_missing(
        paths["label"], "products", labels.columns["product_id"], titles, paths["product"].name
    )
    notes["source"] = "WANDS, query.csv, product.csv and label.csv"
    columns: dict[str, list[Any]] = {
        "term": [terms[key] for key in labels.columns["query_id"]],
        "title": [titles[key] for key in labels.columns["product_id"]],
        "label": grades,
        "group": labels.columns["query_id"],
    }
    return {"all": Table(paths["label"], columns, labels.lines)}
