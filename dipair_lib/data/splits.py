"""Which files are train, dev and test, and the cut of a single file by a hash."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dipair_lib.data import files, tables
from dipair_lib.data.files import TaskError
from dipair_lib.data.names import SPLIT_NAMES, SPLITS
from dipair_lib.data.shards import check_whole, is_data_file, is_sharded, natural, shards_of
from dipair_lib.data.table import Table

FIRST_FORMATS = (".tsv", ".csv", ".jsonl", ".parquet")  # of one name in several formats, these are read


ABOUT = {
    "readme", "license", "licence", "notes", "about", "requirements", "citation", "config", "args", "info", "infos", "schema", "stats",
    "metadata", "results", "metrics", "log", "vocab",
}  # fmt: skip


@dataclass
class Found:
    """Files of each split, or of "all" where no name tells one; and the names of what is left alone."""

    files: dict[str, list[Path]]
    ignored: list[str] = field(default_factory=list)


def read_folder(path: Path, asked: Sequence[str] = ()) -> tuple[dict[str, Table], list[str]]:
    """Tables by split of a folder (of ``all`` where it has none), and the names of the other files of the
    folder, which are left alone.

    Raises:
        TaskError: no train or test file, or names that leave a doubt.
    """
    if is_sharded(path):
        return {"all": tables.read_table(path, asked=asked)}, []
    found = find(path)
    read = {
        split: tables.joined(path, [tables.read_table(one, asked=asked) for one in parts])
        for split, parts in found.files.items()
    }
    return read, found.ignored


def find(folder: Path) -> Found:
    """Which files of a folder, or of its only folder with some, are train, dev and test."""
    found = here(folder)
    if "train" not in found.files:
        below = {
            path: here(path)
            for path in sorted(folder.iterdir())
            if path.is_dir() and path.name[0] not in "._"
        }
        below = {path: one for path, one in below.items() if "train" in one.files}
        if len(below) > 1:
            asked = " or ".join(f"-p task={path.as_posix()}" for path in list(below)[:4])
            raise TaskError(
                f"{folder}: {len(below)} folders in it have train files; name the one that is meant: {asked}"
            )
        if below:
            inner, found = next(iter(below.items()))
            found.ignored += [path.name for path in sorted(folder.iterdir()) if path != inner]
    there = ", ".join(path.name for path in sorted(folder.iterdir())) or "nothing"
    if not found.files:
        parts = [
            path
            for path in sorted(folder.iterdir(), key=natural)
            if is_data_file(path) and not is_about(path)
        ]
        if parts and len({shape(path) for path in parts}) == 1 and is_series(parts):
            check_whole(parts)
            return Found(
                {"all": parts}, [name for name in found.ignored if name not in {path.name for path in parts}]
            )
    if list(found.files) == ["train"]:
        return Found({"all": found.files["train"]}, found.ignored)
    for split in ("train", "test"):
        if split not in found.files:
            raise TaskError(
                f"{folder}: no {split} file (expected {split}{files.FORMATS[0]}, {', '.join(files.FORMATS[1:])}, or packed; or a name "
                f"with the word {split}); there is {there}. To have one file split, give its own path instead of the folder's"
                + "; to measure on the dev file, call it test, and dev is cut from train"
                * (split == "test" and "dev" in found.files)
            )
    return found


def here(folder: Path) -> Found:
    """The files of each split that lie in a folder itself; a folder named as a split holds its parts."""
    exact: dict[str, list[Path]] = {}
    loose: dict[str, list[Path]] = {}
    torn: list[Path] = []  # named by two splits
    entries = sorted(folder.iterdir(), key=natural)
    for path in entries:
        if not (is_data_file(path) or (path.is_dir() and holds_parts(path))):
            continue
        stem = path.name.split(".")[0].lower()
        named = {SPLIT_NAMES[word] for word in words_of(path) if word in SPLIT_NAMES}
        if stem in SPLIT_NAMES:
            exact.setdefault(SPLIT_NAMES[stem], []).append(path)
        elif len(named) == 1 and not is_about(path):
            loose.setdefault(named.pop(), []).append(path)
        elif len(named) > 1:
            torn.append(path)
    found = {split: one_of(folder, split, exact[split]) for split in SPLITS if split in exact}
    for split in SPLITS:
        if split not in found and split in loose:
            found[split] = shards(folder, split, loose[split])
    doubtful = [
        path.name for path in torn if {SPLIT_NAMES.get(word) for word in words_of(path)} - set(found) - {None}
    ]
    if doubtful and "train" in found | loose:
        raise TaskError(
            f"{folder}: {doubtful[0]} is named by two splits; rename it to train, dev or test, or move it away"
        )
    used = {path for parts in found.values() for path in parts}
    ignored = [
        path.name for path in sorted(folder.iterdir()) if path not in used and not used & set(path.glob("*"))
    ]
    return Found(found, ignored)


def words_of(path: Path) -> list[str]:
    """The words of a file's name, in lower case, without what is behind its first suffix of a table's."""
    name = path.name.lower()
    suffix = files.suffix_of(name)
    return re.split(r"[^a-z]+", name[: name.rindex(suffix)] if suffix else name)


def is_about(path: Path) -> bool:
    """Whether a file is about the data, not the data."""
    return bool(ABOUT & set(words_of(path)))


def holds_parts(folder: Path) -> bool:
    """Whether a folder is named as a split, or written as one table, and holds files of one."""
    named = folder.name.lower() in SPLIT_NAMES or bool(files.suffix_of(folder.name))
    return named and any(is_data_file(path) for path in folder.iterdir())


def one_of(folder: Path, split: str, paths: list[Path]) -> list[Path]:
    """The one file that bears a split's very name; of one name in several formats that which was always read."""
    if len(paths) > 1 and len({path.name.split(".")[0] for path in paths}) == 1:
        paths = [path for path in paths if files.suffix_of(path.name) in FIRST_FORMATS] or paths
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        raise TaskError(f"{folder}: two files for {split}, {names}; remove one")
    return [paths[0]] if paths[0].is_file() else shards_of(paths[0])


def shards(folder: Path, split: str, paths: list[Path]) -> list[Path]:
    """The parts of a split, in the order of their numbers; TaskError where the names differ in more than such
    a number.
    """
    shapes = list(dict.fromkeys(map(shape, paths)))
    if len({name for name, _ in shapes}) == 1 and len(shapes) > 1:  # the same in several formats
        order = [*FIRST_FORMATS[::-1], *files.FORMATS, ""]
        shapes = sorted(shapes, key=lambda one: order.index(one[1]))[:1]
        paths = [path for path in paths if shape(path) == shapes[0]]
    if len(shapes) > 1 or not is_series(paths):
        names = ", ".join(path.name for path in paths[:6])
        raise TaskError(
            f"{folder}: several files may be {split}: {names}; name the one that is meant {split}{files.suffix_of(paths[0].name)}, "
            "move the others away, or number the parts of one from 0"
        )
    check_whole(paths)
    return paths


def shape(path: Path) -> tuple[str, str]:
    """A file's name without its numbers (but "1.0" and "10k", which are no parts' numbers), and its suffix."""
    suffix = files.suffix_of(path.name)
    name = path.name.lower()
    name = name[: name.rindex(suffix)] if suffix else name
    if re.match(r"part-\d", name):
        return "part", suffix
    kept = re.compile(r"[0-9a-f]{8,}|\d+\.\d+|\d+[a-z]+|\d+")
    return kept.sub(lambda found: "#" if found[0].isdigit() or len(found[0]) > 7 else found[0], name), suffix


def is_series(paths: list[Path]) -> bool:
    """Whether files of one shape are numbered as parts are: "0-of-2", or one number that counts from 0 or 1
    (not sizes, not years).
    """
    if len(paths) == 1 or all(re.search(r"\d-of-\d|^part-\d", path.name) for path in paths):
        return True
    numbers = [list(map(int, re.findall(r"\d+", path.name))) for path in paths]
    varying = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
    return len(varying) == 1 and sorted(varying[0]) in (
        list(range(len(paths))),
        list(range(1, len(paths) + 1)),
    )


# ------------------------------------------------------------------------------------------------- the cut of one file


def check_shares(shares: tuple[float, ...]) -> None:
    """Raise unless these are three positive shares with sum 1."""
    if len(shares) != 3 or min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise TaskError(f"splits is {shares}: expected three positive shares of train, dev, test with sum 1")


def share(value: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the value and the seed."""
    digest = hashlib.sha256(f"{seed}:{value}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def near(text: str) -> str:
    """A text as it is compared with others: composed (NFC), without case, single spaces."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).casefold().split())


def agreed(values: Iterable[str]) -> dict[str, str]:
    """For each text the one that stands for all that are `near` it: the first in sorted order, with single
    spaces.
    """
    first: dict[str, str] = {}
    values = list(values)
    for value in values:
        plain, key = " ".join(value.split()), near(value)
        first[key] = min(plain, first.get(key, plain))
    return {value: first[near(value)] for value in values}


def cut(
    frame: pd.DataFrame, key: str, shares: dict[str, float], seed: int, alike: bool = False
) -> dict[str, pd.DataFrame]:
    """Frames by split, cut by a hash of the column ``key``; ``alike``: texts that are `near` each other go
    together.
    """
    values = frame[key].unique()
    plain = agreed(values) if alike else {value: " ".join(value.split()) for value in values}
    place = {value: share(plain[value], seed) for value in values}
    at = frame[key].map(place).to_numpy(dtype=float)
    ends = np.cumsum(list(shares.values()))[:-1]
    which = np.searchsorted(ends, at, side="right")
    return {split: frame[which == i].reset_index(drop=True) for i, split in enumerate(shares)}
