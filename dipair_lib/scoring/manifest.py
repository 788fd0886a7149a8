"""What a collection's manifest says, checked before it is believed, and the hashes by which files are known."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dipair_lib import models
from dipair_lib.evaluation import results
from dipair_lib.models.folders import sealed, sha256_of
from dipair_lib.system import disk

FORMAT = "dipair collection 1"
DTYPES = ("float32", "float16", "bfloat16", "int8")
RECENT = 2.0  # seconds within which two changes may have one time


class CollectionError(ValueError):
    """A collection that cannot be read, or was made by another student."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a collection."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise CollectionError(f"{path}: no such file: expected a folder that `dipair encode` wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CollectionError(f"{path}: not whole JSON ({error}): encode anew") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CollectionError(
            f"{path}: not a collection of this version: expected format {FORMAT!r}: encode anew"
        )
    for name, fits in MANIFEST.items():
        if name not in manifest or not fits(manifest[name]):
            raise CollectionError(
                f"{path}: {name}: not what `dipair encode` writes, but {str(manifest.get(name))!r:.80}: encode anew"
            )
    ends = {"hash.npy", "ids.parquet"}
    for place, tensor in enumerate(manifest["tensors"]):
        scaled = manifest["dtype"] == "int8" and not tensor["mask"]
        ends |= {f"{place}.npy", *([f"{place}.scale.npy"] if scaled else [])}
    for number, shard in enumerate(manifest["shards"]):
        # Names are ours alone: what a manifest lists must not lead out of its folder.
        if shard["files"].keys() != {f"{number:05d}.{end}" for end in ends}:
            raise CollectionError(
                f"{path}: shard {number}: expected files of its own ({', '.join(sorted(ends))}), but got "
                f"{', '.join(sorted(shard['files']))!r:.80}: encode anew"
            )
    if (
        "sha256" in manifest and sealed(manifest) != manifest
    ):  # an older one has none: each file's stands in it all the same
        raise CollectionError(f"{path}: damaged: its sha256 is not that of what it says: encode anew")
    return manifest


def count(value: Any) -> bool:
    """Whether a value of a manifest is a whole number from 0 on, of a size that there can be."""
    return type(value) is int and 0 <= value < 1 << 48


def listed(value: Any, **fits: Callable[[Any], bool]) -> bool:
    """Whether a value of a manifest is a list of mappings with such entries and no others."""
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and one.keys() == fits.keys()
        and all(fit(one[name]) for name, fit in fits.items())
        for one in value
    )


def text(value: Any) -> bool:
    """Whether a value of a manifest is text."""
    return isinstance(value, str)


MANIFEST: dict[str, Callable[[Any], bool]] = {
    "student": text,
    "model": text,
    "field": count,
    "read_length": count,
    "dtype": lambda value: value in DTYPES,
    "encoder_dtype": lambda value: value in ("float32", "bfloat16"),
    "tensors": lambda value: listed(
        value,
        shape=lambda shape: isinstance(shape, list) and all(map(count, shape)),
        mask=lambda mask: isinstance(mask, bool),
    ),
    "shards": lambda value: listed(
        value,
        texts=count,
        files=lambda files: isinstance(files, dict) and all(map(text, files.values())),
    ),
    "sources": lambda value: listed(
        value, name=text, sha256=text, rows=count, done=lambda done: isinstance(done, bool)
    ),
}


def digest_of(path: Path) -> str:
    """The sha256 of a file, computed once per process for as long as its size and time of change stay. A file
    that changed a moment ago is read each time: what changes it again may leave the same time.
    """
    seen = path.stat()
    if time.time() - seen.st_mtime < RECENT:
        return sha256_of(path)
    return _digest(path.absolute(), seen.st_size, seen.st_mtime_ns)


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def student_folder(path: Path | str) -> Path:
    """The model folder of a run (``results/demo/rows/<run>``) or the folder itself."""
    path = Path(path)
    for folder in (path, path / "model"):
        if os.path.isfile(folder / "config.json"):  # also says no of what can be no path
            return folder
    raise models.ModelError(
        f"{path}: no student here: expected a run's folder, such as results/demo/rows/<run>, or an exported one with config.json"
    )


def threshold_of(path: Path | str) -> float:
    """The score from which a student means the second of two classes, chosen on dev
    (``metrics.threshold_of``): of a run, or of an export.

    Raises:
        ModelError: it has none.
    """
    folder = Path(path)
    if (folder / "row.json").is_file():
        found = results.load_result(folder.parent.parent, folder.resolve().name).threshold
    else:
        found = models.read_config(student_folder(folder)).get("threshold")
    if type(found) is not float:
        raise models.ModelError(
            f"{path}: has no threshold of its own, as students of graded labels and of earlier versions: give --threshold a number"
        )
    return found


def student_hash(folder: Path) -> str:
    """What tells students apart: a hash of the config, which names the hash of the weights."""
    config = models.read_config(folder)
    return hashlib.sha256(disk.canonical_json(config).encode()).hexdigest()
