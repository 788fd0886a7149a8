"""A job of scoring as a folder: what is scored, in which units, and which of them have their part.

    job.json             what is scored, its units, and the sha256 of the job's own files and of itself
    pairs.npy            explicit pairs as int64 [pairs, (left, right)], ids by their order in the collections
    ids-left.parquet     columns id and first, where rows stand under the first id of a text only; also ids-right.parquet
    part-00000.parquet   rows of unit 0, and in part-00000.json how many, for how many pairs, and their sha256

``job.json`` is written behind the job's own files and a part's note behind the part, so whatever ends a
process, what is named is whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dipair_lib.data import table, task
from dipair_lib.data.tables import chunks
from dipair_lib.models import folders
from dipair_lib.models.folders import sha256_of
from dipair_lib.scoring import encoding, ids, manifest, sources
from dipair_lib.scoring.collection import Collection
from dipair_lib.scoring.manifest import CollectionError
from dipair_lib.system import disk

FORMAT = "dipair job 2"
LEFT, RIGHT = 2048, 2048  # texts of a tile's sides
CHOSEN = ("top", "threshold", "tile", "ids")  # of a job, what its result depends on beside files
UNIT_PAIRS = 4_000_000  # explicit pairs of a unit at most
IDS = ("every", "first")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Job:
    """What is scored. Paths are as given; everything that the result depends on stands in ``identity``.

    Attributes:
        student: a run's folder.
        left, right: collections of its fields 0 and 1.
        pairs: a file of explicit pairs of ids (columns ``left`` and ``right``), or nothing: all pairs.
        top: keep the K best right texts of each left one; 0 keeps all.
        threshold: keep scores of at least this.
        tile: texts of a tile's sides, left and right.
        ids: where ids share a text, ``every`` writes a row for each of them, ``first`` one under the first,
            and tables that say which id stands for which. Explicit pairs come back under the ids that were
            asked for.

    Raises:
        CollectionError: a value is none of these.
    """

    student: str
    left: str
    right: str
    pairs: str = ""
    top: int = 0
    threshold: float | None = None
    tile: tuple[int, int] = (LEFT, RIGHT)
    ids: str = "every"

    def __post_init__(self) -> None:
        for name in ("student", "left", "right", "pairs"):
            path = getattr(self, name)
            if not isinstance(path, str) or "\0" in path or not (path or name == "pairs"):
                raise CollectionError(f"{name}: expected a path, but got {path!r:.80}")
        if type(self.top) is not int or not 0 <= self.top < 1 << 32:
            raise CollectionError(
                f"top: expected a whole number from 0 to 2^32 - 1, but got {self.top!r:.80}"
            )
        if len(self.tile) != 2 or not all(manifest.count(size) and size for size in self.tile):
            raise CollectionError(f"tile: expected two whole numbers from 1 on, but got {self.tile!r:.80}")
        least = self.threshold
        most = float(np.finfo(np.float32).max)
        if least is not None and not (type(least) in (int, float) and -most <= least <= most):
            raise CollectionError(
                f"threshold: expected a number that float32 holds (up to {most:.3g}), but got {least!r:.80}"
            )
        if self.ids not in IDS:
            raise CollectionError(f"ids: expected {' or '.join(IDS)}, but got {self.ids!r:.80}")
        if self.pairs and (self.top or self.ids != "every"):
            raise CollectionError(
                "top, ids: explicit pairs are all scored, and come back under their own ids"
            )

    def identity(self) -> dict[str, Any]:
        """What tells jobs apart, by content."""
        sides = {side: manifest_hash(getattr(self, side)) for side in SIDES}
        if self.pairs and not os.path.isfile(self.pairs):
            raise CollectionError(
                f"{self.pairs}: no such file: expected pairs of ids in columns left and right"
            )
        return {
            "student": manifest.student_hash(manifest.student_folder(self.student)),
            "pairs": sha256_of(Path(self.pairs)) if self.pairs else "",
            **sides,
            **{name: getattr(self, name) for name in CHOSEN},
        }


def manifest_hash(folder: Path | str) -> str:
    """What tells a collection from what it was before: the hash of its manifest, which names those of its
    files.
    """
    manifest.read_manifest(Path(folder))
    return sha256_of(Path(folder) / "manifest.json")


def create_job(job: Job, out: Path | str, trust: bool = False) -> int:
    """Write ``job.json``, or check that the folder's is the same job; look up the ids of explicit pairs once.
    Returns the number of units.

    Args:
        trust: take the collections' files as they are, unread.
    """
    out = Path(out)
    identity = job.identity()
    if (out / "job.json").exists():
        noted = read_job(out)
        different = [name for name, value in identity.items() if noted["identity"].get(name) != plain(value)]
        if different:
            raise CollectionError(
                f"{out}: holds another job, of another {', '.join(different)}: name another folder, or delete this one"
            )
        return len(noted["units"])
    sides = opened_sides(job, identity, trust)
    named = [side.named() for side in sides]
    if job.pairs:
        files, units = listed(job, out, named)
    else:
        files, units = tables(job, out, named), blocks(len(sides[0]), job.tile[0])
    paths = {name: str(Path(getattr(job, name)).absolute()) for name in ("student", *SIDES)}
    content = {
        "format": FORMAT, "job": {**asdict(job), **paths}, "identity": identity, "texts": [len(side) for side in sides],
        "ids": [len(one) for one in named], "units": units, "files": files,
    }  # fmt: skip
    disk.write_atomic(out / "job.json", (json.dumps(folders.sealed(content), indent=1) + "\n").encode())
    return len(units)


def plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def blocks(texts: int, size: int) -> list[list[int]]:
    """Units of so many texts, or pairs: [first, behind the last]."""
    return [[start, min(start + size, texts)] for start in range(0, texts, size)]


def opened_sides(job: Job, identity: dict[str, Any], trust: bool = False) -> tuple[Collection, Collection]:
    """Both collections, as they were when the job began."""
    sides = []
    for number, side in enumerate(SIDES):
        path = getattr(job, side)
        if manifest_hash(path) != identity[side]:
            raise CollectionError(f"{path}: changed since the job began: score into another folder")
        found = Collection.open(path, identity["student"], number, trust)
        if not len(found):
            raise CollectionError(f"{path}: holds no texts")
        sides.append(found)
    return sides[0], sides[1]


def tables(job: Job, out: Path, named: Sequence[ids.Ids]) -> dict[str, str]:
    """Write what is needed beside the parts to find every id, and give the sha256 of each file."""
    if job.ids == "every":
        wide = math.prod(int(one.counts.max()) for one in named)
        if wide > ids.ROWS_OF_PAIR:
            raise CollectionError(
                f"{job.left}, {job.right}: one pair of texts stands for {wide:,} pairs of ids: too many rows, use --ids first"
            )
        return {}
    written = {
        f"ids-{side}.parquet": encoding.parquet(one.table()) for side, one in zip(SIDES, named, strict=True)
    }
    for name, data in written.items():
        disk.write_atomic(out / name, data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}


def listed(job: Job, out: Path, named: Sequence[ids.Ids]) -> tuple[dict[str, str], list[list[int]]]:
    """Write the pairs that were asked for to ``pairs.npy``. Returns its sha256 by name, and the units:
    consecutive pairs.

    Raises:
        CollectionError: an id that a collection does not have, with its row.
    """
    indexes = [pd.Index(one.names.to_numpy(zero_copy_only=False)) for one in named]
    found = [
        np.stack(
            [places_of(table, job, side, index) for side, index in zip(SIDES, indexes, strict=True)], axis=1
        )
        for table in chunks(Path(job.pairs), sources.CHUNK)
    ]
    if not found:
        raise CollectionError(f"{job.pairs}: no rows: expected pairs of ids in columns left and right")
    data = encoding.npy(np.concatenate(found))
    disk.write_atomic(out / "pairs.npy", data)
    return {"pairs.npy": hashlib.sha256(data).hexdigest()}, blocks(sum(map(len, found)), UNIT_PAIRS)


def places_of(table: table.Table, job: Job, side: str, index: pd.Index) -> np.ndarray:
    """int64 places of a column's ids among those of a collection."""
    asked = task.ids_of(table, side)
    found = index.get_indexer(pd.Index(ids.as_kind(asked, int if index.dtype == np.int64 else str)))
    if (found < 0).any():
        row = int((found < 0).argmax())
        raise CollectionError(
            f"{table.path}, row {table.first + row + 1}: {side} id {asked[row]!r} is not in {getattr(job, side)}: encode that text first"
        )
    return found.astype(np.int64)


# --- reading a job ----------------------------------------------------------------------------------------------------------------


def read_job(out: Path, *, old: bool = False) -> dict[str, Any]:
    """The checked ``job.json`` of a folder.

    Args:
        old: also one of an earlier version, which names neither its format nor the hashes of its files: what
            was scored stays readable, but nothing is added to it, because its rows carry the first id of a
            text in place of each.
    """
    path = Path(out) / "job.json"
    try:
        noted: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        if not {"format", "texts", "ids", "files"} & noted.keys():
            kind = "every" if noted["job"]["pairs"] else "first"
            noted |= {name: {**noted[name], "ids": kind} for name in ("job", "identity")}
        elif noted["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT!r}, but got {noted['format']!r:.80}")
        check(Job(**noted["job"]), noted)
        if "format" in noted and folders.sealed(noted) != noted:
            raise ValueError("its sha256 is not that of what it says")
    except FileNotFoundError:
        raise CollectionError(f"{path}: no such file: expected a folder that `dipair score` wrote") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CollectionError(
            f"{path}: not a whole job ({error}): delete the folder and score anew"
        ) from None
    if "format" not in noted and not old:
        raise CollectionError(
            f"{out}: scored by an earlier version, which wrote repeated texts under their first id: score into another folder"
        )
    return noted


def check(job: Job, noted: dict[str, Any]) -> None:
    """ValueError unless a noted job's values are of their kinds, and its units follow each other to the end."""
    count, identity, units = manifest.count, noted["identity"], noted["units"]
    known = isinstance(identity, dict) and all(
        isinstance(identity.get(name), str) for name in ("student", "pairs", *SIDES)
    )
    if known and [plain(getattr(job, name)) for name in CHOSEN] != [identity.get(name) for name in CHOSEN]:
        raise ValueError(f"the job's {', '.join(CHOSEN)} are not those of its identity")
    if not known or not isinstance(units, list):
        raise ValueError("expected the hashes of student, left and right as identity, and a list of units")
    last = 0
    for unit in units:
        if not (
            isinstance(unit, list) and len(unit) == 2 and all(map(count, unit)) and last == unit[0] < unit[1]
        ):
            raise ValueError(f"units: expected [first, behind the last] from {last} on, but got {unit!r:.80}")
        last = unit[1]
    if "format" not in noted:
        return
    for name in ("texts", "ids"):
        if not (isinstance(noted[name], list) and len(noted[name]) == 2 and all(map(count, noted[name]))):
            raise ValueError(f"{name}: expected a number of each side, but got {noted[name]!r:.80}")
    files, wanted = noted["files"], {"pairs.npy"} if job.pairs else set()
    wanted |= {f"ids-{side}.parquet" for side in SIDES} if job.ids == "first" else set()
    if not isinstance(files, dict) or files.keys() != wanted or not all(map(manifest.text, files.values())):
        raise ValueError(f"files: expected the sha256 of {', '.join(sorted(wanted)) or 'none'}")
    if not job.pairs and last != noted["texts"][0]:
        raise ValueError(f"its units end at {last:,}, but there are {noted['texts'][0]:,} left texts")


def require_all(out: Path, noted: dict[str, Any], texts: Sequence[int], pairs: np.ndarray | None) -> None:
    """Raise unless a job's units end where its pairs, or the left ones of its texts, do."""
    last = noted["units"][-1][1] if noted["units"] else 0
    n = texts[0] if pairs is None else len(pairs)
    if last != n or noted.get("texts", list(texts)) != list(texts):
        raise CollectionError(
            f"{out / 'job.json'}: its units end at {last:,}, but there are {n:,}: delete the folder and score anew"
        )


def places_in(out: Path, noted: dict[str, Any], trust: bool = False) -> np.ndarray | None:
    """The explicit pairs of a job, a read-only map int64 [pairs, (left, right)] of ids' places; None where
    there are none.
    """
    if not noted["job"]["pairs"]:
        return None
    path = out / "pairs.npy"
    try:
        damaged = not trust and manifest.digest_of(path) != noted["files"]["pairs.npy"]
        pairs = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # what NumPy raises for a damaged header has no base class in common
        raise CollectionError(
            f"{path}: cannot be read ({error}): delete the folder and score anew"
        ) from error
    if damaged or pairs.dtype != np.int64 or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise CollectionError(
            f"{path}: damaged: its sha256 is not the job's: delete the folder and score anew"
        )
    return pairs


def repeated(out: Path | str) -> list[str]:
    """In words, for each side of a job of all pairs in which ids share texts: how they are written."""
    noted = read_job(Path(out))
    job = Job(**noted["job"])
    counted = ", K counts texts" if job.top else ""
    said = {
        "every": f"each id has rows of its own{counted} (--ids first writes one row for all of a text's)",
        "first": "rows stand under a text's first id, and ids-{side}.parquet says for which others (--ids every writes each)",
    }
    return [
        f"{getattr(job, side)}: {ids:,} ids of {texts:,} texts: {said[job.ids].format(side=side)}"
        for side, ids, texts in zip(SIDES, noted["ids"], noted["texts"], strict=True)
        if ids != texts and not job.pairs
    ]
