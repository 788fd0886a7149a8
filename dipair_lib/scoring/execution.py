"""The units of a job, run one after the other; each writes its part."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dipair_lib.models.folders import sha256_of
from dipair_lib.scoring import block_search, encoding, ids, job_parts, jobs
from dipair_lib.scoring.block_search import Found, Work
from dipair_lib.scoring.jobs import Job, create_job
from dipair_lib.scoring.manifest import CollectionError
from dipair_lib.system import progress

# --- jobs -------------------------------------------------------------------------------------------------------------------------


def score(
    job: Job, out: Path | str, part: tuple[int, int] = (0, 1), device: str = "auto", *, trust: bool = False
) -> dict[str, int]:
    """Do every unit of a job that has no whole part yet, here, one after the other.

    Args:
        part: (i, n) does only units i, i + n, i + 2n ...: n processes, on as many machines as see the folder,
            share a job. They may run beside one that does them all.
        device: of ``Scorer``; ``cpu`` leaves a GPU's kernel aside.
        trust: believe that the collections' files, and parts from before, are as their sha256 says; without
            it each is read once for that.

    Returns:
        Counts of those units: units, done_before, rows (written), pairs (of texts, scored).

    Raises:
        CollectionError: the folder holds another job or another process writes there, a collection changed,
            is damaged or empty, an id is unknown.
    """
    out = Path(out)
    if part == (0, 1):
        with encoding.writing(out):
            job_parts.clear(out)
            return run_units(out, range(create_job(job, out, trust)), device, trust)
    with encoding.writing(out, unless=out / "job.json"):
        units = create_job(job, out, trust)
    return run_units(out, range(units)[part[0] :: part[1]], device, trust)


def run_units(out: Path, units: Sequence[int], device: str = "auto", trust: bool = False) -> dict[str, int]:
    """Do those of some units that have no whole part yet."""
    left = job_parts.unmade(out, units, trust)
    for number in progress.track(left, "scoring"):
        if not job_parts.is_noted(out, number):  # nor by a process beside this one
            run_unit(out, number, device, trust)
    return job_parts.counts(out, units, len(units) - len(left))


@functools.lru_cache(maxsize=1)
def open_job(out: Path, digest: str, device: str = "auto", trust: bool = False) -> Work:
    """One job stays open in a process, by the hash of its ``job.json``."""
    return Work(out, device, trust)


def where(out: Path | str, device: str = "auto", trust: bool = False) -> str:
    """Where this process scores the job in a folder, in words."""
    out = Path(out)
    return open_job(out, sha256_of(out / "job.json"), device, trust).scorer.where


def run_unit(out: Path | str, number: int, device: str = "auto", trust: bool = False) -> dict[str, Any]:
    """Score one unit of the job in a folder and write its part. Needs nothing else, and may be done twice: it
    gives the same bytes.

    Returns:
        What is noted of the part: pairs, rows, sha256.
    """
    out = Path(out)
    work = open_job(out, sha256_of(out / "job.json"), device, trust)
    for side in jobs.SIDES:
        folder = getattr(work.job, side)
        if jobs.manifest_hash(folder) != work.identity[side]:
            raise CollectionError(f"{folder}: changed while it was scored: score into another folder")
    find = block_search.of_pairs if work.job.pairs else block_search.of_block
    counted = {"pairs": 0, "rows": 0}
    target = job_parts.part_of(work.out, number)
    with job_parts.half(target) as path:
        with torch.inference_mode(), Part(path, work) as part:
            for found in find(work, *work.units[number]):
                counted["pairs"] += found.pairs
                counted["rows"] += part.add(found)
        noted = {**counted, "sha256": sha256_of(path)}
    with job_parts.half(target.with_suffix(".json")) as path:
        path.write_text(json.dumps(noted) + "\n", encoding="utf8")
    return noted


class Part:
    """A part being written: row groups, ids in place of places."""

    def __init__(self, path: Path, work: Work) -> None:
        self.ids, self.job = work.ids, work.job
        left, right = (one.names.type for one in self.ids)
        columns = [("left", left), ("right", right), ("score", pa.float32())]
        self.schema = pa.schema([("row", pa.int64()), *columns] if self.job.pairs else columns)
        self.writer: Any = pq.ParquetWriter(path, self.schema)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Part:
        return self

    def add(self, found: Found) -> int:
        """Add what was found, and give the number of rows."""
        if found.row is not None:
            return self.write(found.left, found.right, found.score, found.row)
        if self.job.ids == "every":
            pieces = ids.every(*self.ids, (found.left, found.right))
            return sum(self.write(left, right, found.score[pair]) for pair, left, right in pieces)
        left, right = (one.first()[places] for one, places in zip(self.ids, found[:2], strict=True))
        return self.write(left, right, found.score)

    def write(
        self, left: np.ndarray, right: np.ndarray, score: np.ndarray, row: np.ndarray | None = None
    ) -> int:
        """Write rows of ids, by their places among the collections' ids."""
        named = [
            one.names.take(pa.array(places)) for one, places in zip(self.ids, (left, right), strict=True)
        ]
        columns = {"row": row, "left": named[0], "right": named[1], "score": score}
        self.writer.write_table(pa.table({name: columns[name] for name in self.schema.names}, self.schema))
        return len(score)

    def __exit__(self, *_: object) -> None:
        self.writer.close()
