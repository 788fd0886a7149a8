"""Parts of a job: what each unit left, whether it is whole, and the check of a finished job."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from dipair_lib.models.folders import sha256_of
from dipair_lib.scoring import jobs, manifest
from dipair_lib.scoring.collection import Collection
from dipair_lib.scoring.manifest import CollectionError

# --- parts ------------------------------------------------------------------------------------------------------------------------


def part_of(out: Path, number: int) -> Path:
    """Where a unit's part is; its note lies beside it."""
    return out / f"part-{number:05d}.parquet"


def is_noted(out: Path, number: int) -> bool:
    """Whether a unit's part was written, by its note alone."""
    return part_of(out, number).with_suffix(".json").exists()


def read_part(out: Path, number: int) -> dict[str, Any]:
    """What is noted of a unit's part: rows, pairs, sha256."""
    path = part_of(out, number).with_suffix(".json")
    try:
        noted: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        if not (
            manifest.count(noted["rows"])
            and manifest.count(noted["pairs"])
            and manifest.text(noted["sha256"])
        ):
            raise ValueError("expected rows, pairs and sha256")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CollectionError(f"{path}: not a whole note ({error}): score again") from None
    return noted


def wrong_with(out: Path, noted: dict[str, Any], number: int, trust: bool = False) -> str:
    """What is wrong with a unit's part, or nothing.

    Args:
        trust: do not read it whole for its sha256.
    """
    path, (first, last) = part_of(out, number), noted["units"][number]
    if not is_noted(out, number):
        return f"{path}: not scored yet: the same `dipair score` goes on"
    if not path.exists():
        return f"{path}: missing: the same `dipair score` makes it again"
    try:
        note = read_part(out, number)
        rows = pq.read_metadata(path).num_rows  # type: ignore[no-untyped-call]
    except CollectionError as error:
        return str(error)
    except Exception:  # what Arrow raises for a damaged file has no base class in common
        note, rows = {}, -1
    pairs = (
        (last - first) * (1 if noted["job"]["pairs"] else noted["texts"][1])
        if "texts" in noted
        else note.get("pairs")
    )
    if (
        note.get("rows") != rows
        or note.get("pairs") != pairs
        or not (trust or sha256_of(path) == note["sha256"])
    ):
        return f"{path}: damaged: it is not what its note says: the same `dipair score` makes it again"
    return ""


def unmade(out: Path, units: Sequence[int], trust: bool = False) -> list[int]:
    """Those of some units that have no whole part. What is there of a damaged one is removed: it is scored
    again.
    """
    noted = jobs.read_job(out)
    left = [number for number in units if wrong_with(out, noted, number, trust)]
    for number in left:
        for path in (part_of(out, number).with_suffix(".json"), part_of(out, number)):
            path.unlink(missing_ok=True)
    return left


def counts(out: Path, units: Sequence[int], before: int) -> dict[str, int]:
    """What some finished units hold together."""
    parts = [read_part(out, number) for number in units]
    summed = {name: sum(part[name] for part in parts) for name in ("rows", "pairs")}
    return {"units": len(units), "done_before": before, **summed}


@contextlib.contextmanager
def half(target: Path) -> Iterator[Path]:
    """The name of a file that becomes ``target`` once the block is through. It is locked until then: so
    ``clear`` tells what is being written, by whoever works on the same folder, from what a killed process
    left.

    Raises:
        CollectionError: it could not be written; what was there before is whole.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")  # process numbers are not unique
    try:
        with open(temporary, "xb") as file:
            locked(file)
            yield temporary
            os.fsync(file.fileno())
            if os.name == "nt":  # where nothing that is open is renamed, or removed
                file.close()
            os.replace(temporary, target)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        advice = ": free some space and run the same command again" if full else ""
        raise CollectionError(
            f"{target}: could not be written ({error.strerror or error}); nothing was lost{advice}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def locked(file: BinaryIO) -> bool | None:
    """Take a file's lock; False where another process has it, None where the file system has none."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def clear(out: Path) -> None:
    """Remove the halves of parts that killed processes left, and no other's."""
    for path in out.glob(".part-*.tmp"):
        with contextlib.suppress(OSError), open(path, "r+b") as file:
            if locked(file):
                path.unlink(missing_ok=True)


# --- verification -----------------------------------------------------------------------------------------------------------------


def verify(out: Path | str) -> list[str]:
    """One line for each unit of a job that has no part, or another one than was noted, for each of its own
    files that is damaged, and for each damaged file of the collections beneath. A collection that is not
    there any more, or has grown, is a warning.
    """
    out = Path(out)
    noted = jobs.read_job(out, old=True)
    problems = []
    for name, digest in noted.get("files", {}).items():
        path = out / name
        if not path.exists():
            problems.append(f"{path}: missing: delete the folder and score anew")
        elif sha256_of(path) != digest:
            problems.append(f"{path}: damaged: its sha256 is not the job's: delete the folder and score anew")
    if not problems and "files" in noted:
        try:
            jobs.require_all(out, noted, noted["texts"], jobs.places_in(out, noted))
        except CollectionError as error:
            problems.append(str(error))
    problems += filter(None, (wrong_with(out, noted, number) for number in range(len(noted["units"]))))
    return problems + beneath(noted)


def beneath(noted: dict[str, Any]) -> list[str]:
    """One line for each damaged file of a job's collections."""
    problems = []
    for number, side in enumerate(jobs.SIDES):
        folder = Path(noted["job"][side])
        if not os.path.isfile(folder / "manifest.json"):
            warnings.warn(f"{folder}: not there any more: the scores were looked at alone", stacklevel=3)
            continue
        try:
            found = Collection(folder, manifest.read_manifest(folder))
            changed = jobs.manifest_hash(folder) != noted["identity"][side]
        except CollectionError as error:
            problems.append(str(error))
            continue
        problems += found.verify()
        if changed:
            warnings.warn(f"{folder}: changed since: these are scores of what it was", stacklevel=3)
        elif "texts" in noted and len(found) != noted["texts"][number]:
            problems.append(
                f"{folder}: has {len(found):,} texts, but the job says {noted['texts'][number]:,}"
            )
    return problems
