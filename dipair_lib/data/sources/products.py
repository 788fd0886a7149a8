"""Product-to-term relevance, graded: the public neighbours of DiPair's P2T-REL, from a folder or, where its
terms allow, the hub.

    load_task("p2t/esci")           Amazon's Shopping Queries: DIPAIR_ESCI=folder, or the hub without it
    load_task("p2t/wands")          Wayfair's WANDS: DIPAIR_WANDS=folder
    load_task("p2t/home-depot")     Home Depot (Kaggle): DIPAIR_HOME_DEPOT=file or folder
    load_task("folder")             one of these folders by its path

One row is a search term, a product title and a score. ESCI: exact 3, substitute 2, complement 1, irrelevant
0; its authors' gains for nDCG are others (1.0, 0.1, 0.01, 0.0), which squeeze three of four grades together
and so are no scores to learn. WANDS: exact 2, partial 1, irrelevant 0. Home Depot: the mean of its raters, 1
to 3. Large files are read by column and by row, never whole.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dipair_lib.data import checks, names, splits, task
from dipair_lib.data.files import TaskError
from dipair_lib.data.sources import esci, glue, home_depot, product_files, wands
from dipair_lib.data.sources.product_files import Tables
from dipair_lib.data.sources.snapshots import Say
from dipair_lib.data.task import Task

FIELDS = ("term", "title")
VARIABLES = {"esci": "DIPAIR_ESCI", "wands": "DIPAIR_WANDS", "home-depot": "DIPAIR_HOME_DEPOT"}
TERMS = {  # as data/README.md has them
    "esci": "Apache-2.0",
    "wands": "MIT",
    "home-depot": "Kaggle competition, research, not to be passed on",
}
NAMES = tuple(f"p2t/{name}" for name in VARIABLES)


def name_of_folder(path: Path) -> str:
    """The task whose files a folder holds ("esci", "wands", "home-depot"), or ""."""
    if not path.is_dir():
        return ""
    if esci.esci_folder(path) or esci.has_esci_label(path):
        return "esci"
    if all(
        wands.wands_file(wands.wands_folder(path), name).is_file() for name in ("query", "product", "label")
    ):
        return "wands"
    file = home_depot.home_depot_file(path)
    if file is None or not set(home_depot.HOME_DEPOT_COLUMNS) <= set(product_files.header_of(file)):
        return ""
    # The competition's test file has no labels; one that has them is a split of somebody's own, read as it
    # is.
    return (
        ""
        if any("relevance" in product_files.header_of(test) for test in path.glob("test.*"))
        else "home-depot"
    )


def load(
    name: str,
    root: Path | None = None,
    max_train: int = 0,
    given: tuple[tuple[str, ...], str, str, str] = ((), "", "", ""),
    shares: tuple[float, ...] = (0.8, 0.1, 0.1),
    seed: int = 0,
    say: Say | None = None,
) -> Task:
    """One of `NAMES`.

    Args:
        name: without "p2t/".
        root: its folder (of Home Depot also the file); None: the folder of its variable, or the hub for ESCI.
        max_train, shares, seed, say: as in `loading.load_task`. ESCI has train and test of its own: only its
            dev is cut, out of train.
        given: fields, label, group and kind as asked for, only the task's own or empty.

    Raises:
        TaskError: an unknown name, a file, column, label or id that cannot be used, the hub out of reach, the
            extra not installed.
    """
    if name not in VARIABLES:
        raise TaskError(f"p2t/{name}: unknown; there are {', '.join(NAMES)}")
    task.refuse_own_columns(f"p2t/{name}", (FIELDS, "label", "term", "score"), given)
    splits.check_shares(shares)
    folder = os.environ.get(VARIABLES[name])
    root = root or (Path(folder).expanduser() if folder else None)
    notes: dict[str, Any] = {"terms": TERMS[name]}
    if name == "esci":
        tables = esci.esci(root, notes, say or (lambda line: None))
    elif root is None:
        raise TaskError(
            f"p2t/{name}: set {VARIABLES[name]} to the folder that holds it (data/README.md says where to get it), or give its path"
        )
    else:
        tables = wands.wands(root, notes) if name == "wands" else home_depot.home_depot(root, notes)
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
        frames = splits.cut(frames["all"], "group", dict(zip(names.SPLITS, shares, strict=True)), seed)
        notes["splits"] = f"cut by hash of the query, shares {list(shares)}, seed {seed}"
    else:
        frames |= splits.cut(
            frames["train"], "group", {"train": train / (train + dev), "dev": dev / (train + dev)}, seed
        )
        notes["splits"] = f"train and test as given, dev cut from train by hash of the query, seed {seed}"
    frames = {split: frames[split] for split in names.SPLITS}
    notes["rows_read"] = {split: len(frame) for split, frame in frames.items()}
    frames, notes["dropped"] = checks.drop_repeats(frames, FIELDS)
    first = next(iter(tables.values()))
    checks.tell(first.path, notes)
    for split, frame in frames.items():
        checks.check_split(tables.get(split, first), split, frame, "label", "score", ())
    return task.finish_task(f"p2t/{name}", FIELDS, "score", (), frames, True, max_train, notes)
