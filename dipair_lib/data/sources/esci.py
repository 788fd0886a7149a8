"""ESCI (Reddy et al. 2022): queries of a shop and products, in four grades."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dipair_lib.data.files import TaskError
from dipair_lib.data.sources import product_files
from dipair_lib.data.sources.product_files import Tables
from dipair_lib.data.sources.snapshots import Say
from dipair_lib.data.table import Table, show

LOCALE = "us"  # one of its three shops; of its small version, the harder one (that of its ranking task)
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
EXAMPLE_COLUMNS = (
    "example_id",
    "query",
    "query_id",
    "product_id",
    "product_locale",
    "esci_label",
    "small_version",
)


# --- ESCI -------------------------------------------------------------------------------------------------------------------------


def esci(root: Path | None, notes: dict[str, Any], tell: Say) -> Tables:
    """Train and test of ESCI, one locale in its small version, from the official files, a copy of the hub's
    repository, or the hub.
    """
    notes |= {"locale": LOCALE, "version": "small"}
    if root is not None and (folder := esci_folder(root)):
        notes["source"] = f"official files {product_files.EXAMPLES}, {product_files.PRODUCTS}"
        return official_esci(folder, tell)
    columns = [*EXAMPLE_COLUMNS, "product_title"]
    if root is None:
        notes["source"] = f"{product_files.REPOSITORY} at {product_files.REVISION[:12]}"
        batches = {split: product_files.hub_batches(split, columns) for split in ("train", "test")}
    else:
        notes["source"] = f"local copy of {product_files.REPOSITORY}"
        files = product_files.copy_files(root)
        if not all(files.values()):
            raise TaskError(
                f"{root}: expected {product_files.EXAMPLES} and {product_files.PRODUCTS} (official), "
                f"or data/train-*.parquet and data/test-*.parquet of {product_files.REPOSITORY}"
            )
        batches = {
            split: product_files.parquet_batches(paths, columns, LOCALE) for split, paths in files.items()
        }
    tables = {}
    for split, found in batches.items():
        kept = product_files.gather(found, columns, LOCALE)
        tables[split] = esci_table(
            Path(f"{root or product_files.REPOSITORY}/{split}"), kept, kept["product_title"]
        )
        tell(f"p2t/esci: {len(tables[split]):,} rows of {split}")
    return tables


def esci_folder(root: Path) -> Path | None:
    """The folder with the official files: their repository keeps them in `shopping_queries_dataset`."""
    folders = (root, root / "shopping_queries_dataset")
    return next((folder for folder in folders if (folder / product_files.EXAMPLES).is_file()), None)


def has_esci_label(root: Path) -> bool:
    """Whether a folder is such a copy, by its first file."""
    first = product_files.copy_files(root)["train"][:1]
    if not first:
        return False
    import pyarrow
    import pyarrow.parquet

    try:
        return any("esci_label" in pyarrow.parquet.read_schema(path).names for path in first)
    except (pyarrow.ArrowException, OSError):
        return False


def official_esci(folder: Path, tell: Say) -> Tables:
    """The two official files joined on locale and product: an id means another product in another shop."""
    path, products = folder / product_files.EXAMPLES, folder / product_files.PRODUCTS
    if not products.is_file():
        raise TaskError(
            f"{folder}: expected {product_files.PRODUCTS} beside {product_files.EXAMPLES}, but there is none"
        )
    columns = [*EXAMPLE_COLUMNS, "split"]
    kept = product_files.gather(product_files.parquet_batches([path], columns, LOCALE), columns, LOCALE)
    tell(f"p2t/esci: {len(kept['query']):,} rows of {LOCALE}")
    if strange := [split for split in kept["split"] if split not in ("train", "test")]:
        raise TaskError(
            f"{path}, column 'split': expected train or test, got {show(strange[0])} in {len(strange)} rows; download it again"
        )
    needed = set(kept["product_id"])
    titles: dict[str, str | None] = {}
    for batch in product_files.parquet_batches(
        [products], ["product_id", "product_locale", "product_title"], LOCALE
    ):
        rows = zip(batch["product_id"], batch["product_title"], strict=True)
        titles |= {product: title for product, title in rows if product in needed}
    product_files.refuse_missing(
        path, f"products of {LOCALE!r}", kept["product_id"], titles, product_files.PRODUCTS
    )
    tell(f"p2t/esci: titles of {len(titles):,} products")
    tables = {}
    for split in ("train", "test"):
        at = [row for row, its in enumerate(kept["split"]) if its == split]
        part = {column: [values[row] for row in at] for column, values in kept.items()}
        its_titles = [titles[product] for product in part["product_id"]]
        tables[split] = esci_table(path, part, its_titles)
    return tables


def esci_table(path: Path, kept: dict[str, list[Any]], titles: list[Any]) -> Table:
    if not kept["query"]:
        raise TaskError(f"{path}: no rows of product_locale {LOCALE!r}; ESCI has us, es and jp")
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
