"""Scoring: a student over texts in memory, over explicit pairs of two encoded collections, or over all of them, tile by tile.

A *job* is a folder: ``job.json`` says what is scored, and each of its *units* leaves ``part-00000.parquet`` and, once that is whole,
``part-00000.json`` with its rows and sha256. A unit needs nothing but the job's folder and its own number, so one process, many, or many
machines can share a job, and whatever is killed, only what has no part yet is done again, to the same bytes.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from . import collection, gpu, models, native, progress, results, tasks, training
from .collection import Collection, CollectionError
from .models import Prepared
from .models.backbone import sha256_of
from .models.tokens import tokenize
from .training.device import device_of, encoder_dtype, ready

LEFT, RIGHT = 2048, 2048  # texts of a tile's sides
LINES = 32  # left texts of its pieces, at least: a right text's tokens are read once for all of them
BUCKET = 65_536  # texts of each side that explicit pairs are looked up in together
SAFETY = 4.0  # times the largest error seen of fast scores is taken as the largest there is
RESCORED = 16_384  # pairs that are scored again in float32 together
CHOSEN = ("top", "threshold", "tile")  # of a job, what its result depends on beside files
UNIT_PAIRS = 4_000_000  # explicit pairs of a unit at most


class Scorer:
    """A student that scores texts, in five lines: load, ``prepare`` each side once, ``score`` pairs, ``rank`` candidates.

    Scores are the student's logits: for two classes the log-odds of the second, for graded labels the grade. Texts are encoded on
    ``device``, and what was prepared of them lies in the computer's memory; pairs are scored on the CPU, except by ``fast_tile`` where the
    head has a kernel for the GPU.
    """

    def __init__(self, model: Any, device: str | torch.device = "auto") -> None:
        if not hasattr(model, "prepare") or not hasattr(model, "read_lengths"):
            raise models.ModelError(
                f"{models.describe(model)['model']}: expected a student that encodes each text once"
            )
        if model.settings["outputs"] != 1:
            raise models.ModelError(
                f"expected a student with one score, but it has {model.settings['outputs']} classes"
            )
        self.model, self.device = model, device_of(device)
        self.encoder = ready(model, self.device, encoder_dtype("auto", self.device))
        self.compiled: Any = (gpu.Tile.of(model) if str(device) != "cpu" else None) or native.Tile.of(model)
        self.tokenizer = models.tokenizer_of(model)

    @classmethod
    def load(cls, run: Path | str, device: str | torch.device = "auto") -> Scorer:
        """A run's student (``results/demo/rows/<run>``) or an exported folder."""
        return cls(models.load(collection.student_folder(run)), device)

    @property
    def where(self) -> str:
        """Where pairs are scored, in words; with a GPU that does not score them, why."""
        if isinstance(self.compiled, gpu.Tile):
            return f"the best found by a kernel on {results.device_name(str(self.device))}, then scored on the CPU"
        cpu = f"scored on the CPU, {results.device_name('cpu')}"
        if self.device.type == "cpu":
            return cpu
        return f"{cpu}: {gpu.why_not() or 'this head has no kernel for the GPU'}"

    def prepare(self, texts: Sequence[str], field: int) -> Prepared:
        """Encode texts of a field, everything that is done once per text: tensors [texts, ...]."""
        if not len(texts):
            raise ValueError(f"prepare: expected at least one text of field {field}, but got none")
        tokens = tokenize(self.tokenizer, list(texts), self.model.read_lengths[field])
        with torch.inference_mode():
            return tuple(t.cpu() for t in training.prepare_all(self.encoder, tokens, field, what=""))

    def score(self, *sides: Sequence[str] | Prepared) -> np.ndarray:
        """Scores float32 [pairs] of aligned texts: one sequence of texts, or what ``prepare`` gave of them, for each field."""
        prepared = [self.prepared(side, field) for field, side in enumerate(sides)]
        counts = [len(p[0]) for p in prepared]
        if len(set(counts)) != 1 or len(counts) != len(self.model.read_lengths):
            raise ValueError(
                f"score: expected {len(self.model.read_lengths)} sides of as many texts each, but got {counts}"
            )
        with torch.inference_mode():
            parts = [
                self.model.combine(*(tuple(t[i : i + 2048] for t in p) for p in prepared))[:, 0]
                for i in range(0, counts[0], 2048)
            ]
        return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)

    def tile(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """Scores float32 [m, n]: each of m left texts with each of n right ones."""
        with torch.inference_mode():
            return tile(self.model, left, right)

    def fast_tile(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """As ``tile``, off by the rounding of a bfloat16 product where there is compiled code for the head."""
        if self.compiled is None:
            return self.tile(left, right)
        with torch.inference_mode():
            return self.compiled(self.model, left, right)

    def rank(self, query: str, candidates: Sequence[str] | Prepared, top: int = 0) -> pd.DataFrame:
        """Candidates by falling score, ties in their own order: columns place (in ``candidates``) and score; ``top`` of them, 0 for all."""
        scores = self.tile(self.prepare([query], 0), self.prepared(candidates, 1))[0].numpy()
        order = np.argsort(-scores, kind="stable")[: top or None]
        return pd.DataFrame({"place": order, "score": scores[order]})

    def prepared(self, side: Sequence[str] | Prepared, field: int) -> Prepared:
        """Texts are encoded; what was is passed through."""
        if isinstance(side, tuple) and side and isinstance(side[0], torch.Tensor):
            return side
        return self.prepare(side, field)  # type: ignore[arg-type]


def tile(model: Any, left: Prepared, right: Prepared, pairs: int = 0) -> torch.Tensor:
    """``model.combine`` of each left with each right text, float32 [m, n], in pieces of so many pairs; 0 for ``piece_of``.

    A piece has at least 32 left texts if there are as many.
    """
    m, n, pairs = len(left[0]), len(right[0]), pairs or piece_of(model)
    columns = max(1, min(n, pairs // (min(m, LINES) or 1)))
    lines = max(1, pairs // columns)
    found = torch.empty(m, n)
    for i in range(0, m, lines):
        one = tuple(t[i : i + lines, None] for t in left)
        for j in range(0, n, columns):
            other = tuple(t[None, j : j + columns] for t in right)
            found[i : i + lines, j : j + columns] = model.combine(one, other)[..., 0]
    return found


def piece_of(model: Any) -> int:
    """Pairs of a tile computed together, few enough that what the head makes of them stays in the caches.

    Measured on a Xeon with 2 MB of second-level cache per core, where four times as many or as few cost up to twice the time. By head and
    size alone: pieces of other sizes would round otherwise, and a job that goes on must end in the same bytes.
    """
    settings = model.settings
    head, keep = settings.get("head"), settings.get("keep", [])
    if head == "transformer":
        return max(32, 4096 // (sum(keep) + 2 * settings["pooled"]))
    if head == "ffnn":
        return max(64, 196_608 // settings["hidden"][0])
    if head in {"maxsim", "cosine+maxsim"}:
        return max(64, (1 << 20) // math.prod(keep))
    return 65_536 if head == "cosine" else 256  # a BiLSTM's head makes two vectors of each pair


# --- the best of many -------------------------------------------------------------------------------------------------------------


class Best:
    """The K highest scores of each left text over tiles that come one after the other; of equal scores the lower right text wins.

    Exact whatever the tiles: scores and places are compared as one whole number.
    """

    def __init__(self, rows: int, k: int, device: str = "cpu") -> None:
        self.keys = torch.full((rows, k), torch.iinfo(torch.int64).min, device=device)

    def add(self, scores: torch.Tensor, places: torch.Tensor) -> None:
        """Scores float32 [rows, n] of right texts at ``places``, int64 [n] or [rows, n]."""
        n, floors = scores.shape[1], self.floors()
        hits = places_of_true(scores >= floors[:, None])
        # The floors are low yet: this tile's own K-th best are better ones. What ties with the K-th stays too.
        if len(hits) > 4 * self.keys.numel():
            least = scores.topk(min(self.keys.shape[1], n), dim=1).values[:, -1]
            hits = places_of_true(scores >= torch.maximum(floors, least)[:, None])
        at = places[hits % n] if places.dim() == 1 else places.flatten()[hits]
        self.merge(hits // n, scores.flatten()[hits], at)

    def merge(self, rows: torch.Tensor, scores: torch.Tensor, places: torch.Tensor) -> None:
        """Some pairs: left texts in rising order int64, scores float32 and places of right texts int64, each [pairs]."""
        if not len(rows):
            return
        lines, line, counts = rows.unique_consecutive(return_inverse=True, return_counts=True)
        within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[line]
        keys = self.keys.new_full((len(lines), int(counts.max())), torch.iinfo(torch.int64).min)
        keys[line, within] = keys_of(scores, places)
        self.keys[lines] = torch.cat([self.keys[lines], keys], dim=1).topk(self.keys.shape[1], dim=1).values

    def floors(self) -> torch.Tensor:
        """Each left text's K-th best score float32 [rows], -infinity before there are K: what is lower changes nothing."""
        return score_of(self.keys.amin(1))

    def sorted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Right texts int64 and scores float32, [rows, k], best first."""
        keys = self.keys.sort(dim=1, descending=True).values
        return LAST - (keys & LAST), score_of(keys)


def places_of_true(mask: torch.Tensor) -> torch.Tensor:
    """int64 places in the flattened mask; NumPy finds them twenty times as fast as torch does."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


LAST = 0xFFFFFFFF


def keys_of(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """int64 that order as (score, then lower place first): the score's bits, made monotone, above the place counted from the end."""
    bits = (scores + 0.0).view(torch.int32)  # + 0: there is one zero
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits.long() << 32) | (LAST - places)


def score_of(keys: torch.Tensor) -> torch.Tensor:
    """The scores that ``keys_of`` packed; the lowest key is -infinity."""
    bits = (keys >> 32).int()
    scores = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores.masked_fill(keys == torch.iinfo(torch.int64).min, float("-inf"))


# --- jobs -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What is scored. Paths are as given; everything that the result depends on stands in ``identity``.

    Attributes:
        student: a run's folder. left, right: collections of its fields 0 and 1.
        pairs: a file of explicit pairs of ids (columns ``left`` and ``right``), or nothing: all pairs.
        top: keep the K best right texts of each left one; 0 keeps all. threshold: keep scores of at least this.
        tile: texts of a tile's sides, left and right.
    """

    student: str
    left: str
    right: str
    pairs: str = ""
    top: int = 0
    threshold: float | None = None
    tile: tuple[int, int] = (LEFT, RIGHT)

    def identity(self) -> dict[str, Any]:
        """What tells jobs apart, by content."""
        sides = {side: manifest_hash(path) for side, path in (("left", self.left), ("right", self.right))}
        if self.pairs and not Path(self.pairs).is_file():
            raise CollectionError(
                f"{self.pairs}: no such file: expected pairs of ids in columns left and right"
            )
        return {
            "student": collection.student_hash(collection.student_folder(self.student)),
            "pairs": sha256_of(Path(self.pairs)) if self.pairs else "",
            **sides,
            **{name: getattr(self, name) for name in CHOSEN},
        }


def manifest_hash(folder: Path | str) -> str:
    """What tells a collection from what it was before: the hash of its manifest, which names those of its files."""
    collection.read_manifest(Path(folder))
    return sha256_of(Path(folder) / "manifest.json")


def score(job: Job, out: Path | str, part: tuple[int, int] = (0, 1), device: str = "auto") -> dict[str, int]:
    """Do every unit of a job that has no part yet, here, one after the other.

    Args:
        part: (i, n) does only units i, i + n, i + 2n ...: n processes, on as many machines as see the folder, share a job.
        device: of ``Scorer``; ``cpu`` leaves a GPU's kernel aside.

    Returns:
        Counts of those units: units, done_before, rows (written), pairs (scored).

    Raises:
        CollectionError: the folder holds another job or another process writes there, a collection changed or is empty, an id is unknown.
    """
    out = Path(out)
    if part == (0, 1):
        with collection.writing(out):
            return do(out, range(begin(job, out)), device)
    with collection.writing(out, shared=True):
        units = begin(job, out)
    return do(out, range(units)[part[0] :: part[1]], device)


def do(out: Path, units: Sequence[int], device: str = "auto") -> dict[str, int]:
    """Do those of some units that have no part yet."""
    left = [number for number in units if not is_whole(out, number)]
    for number in progress.track(left, "scoring"):
        run_unit(out, number, device)
    return counts(out, units, len(units) - len(left))


def counts(out: Path, units: Sequence[int], before: int) -> dict[str, int]:
    """What some finished units hold together."""
    parts = [read_part(out, number) for number in units]
    summed = {name: sum(part[name] for part in parts) for name in ("rows", "pairs")}
    return {"units": len(units), "done_before": before, **summed}


def begin(job: Job, out: Path | str) -> int:
    """Write ``job.json``, or check that the folder's is the same job; bucket explicit pairs once. Returns the number of units."""
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
    sides = opened_sides(job, identity)
    units = bucketed(job, out, sides) if job.pairs else blocks(sides[0], job.tile[0])
    paths = {name: str(Path(getattr(job, name)).absolute()) for name in ("student", "left", "right")}
    content = {"job": {**asdict(job), **paths}, "identity": identity, "units": units}
    results.write_atomic(out / "job.json", (json.dumps(content, indent=1) + "\n").encode())
    return len(units)


def plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def read_job(out: Path) -> dict[str, Any]:
    """The checked ``job.json`` of a folder."""
    path = Path(out) / "job.json"
    try:
        noted: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        check(Job(**noted["job"]), noted["identity"], noted["units"])
    except FileNotFoundError:
        raise CollectionError(f"{path}: no such file: expected a folder that `dipair score` wrote") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CollectionError(
            f"{path}: not a whole job ({error}): delete the folder and score anew"
        ) from None
    return noted


def check(job: Job, identity: Any, units: Any) -> None:
    """ValueError unless a noted job's values are of their kinds, and its units follow each other."""
    count = collection.count
    for name in ("student", "left", "right", "pairs"):
        path = getattr(job, name)
        if not isinstance(path, str) or "\0" in path or not (path or name == "pairs"):
            raise ValueError(f"{name}: expected a path")
    if not count(job.top) or len(job.tile) != 2 or not all(count(size) and size for size in job.tile):
        raise ValueError("top, tile: expected whole numbers")
    if job.threshold is not None and not (
        type(job.threshold) in (int, float) and math.isfinite(job.threshold)
    ):
        raise ValueError("threshold: expected a number")
    known = isinstance(identity, dict) and all(
        isinstance(identity.get(name), str) for name in ("student", "left", "right")
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


def opened_sides(job: Job, identity: dict[str, Any]) -> tuple[Collection, Collection]:
    """Both collections, as they were when the job began."""
    sides = []
    for number, (side, path) in enumerate((("left", job.left), ("right", job.right))):
        if manifest_hash(path) != identity[side]:
            raise CollectionError(f"{path}: changed since the job began: score into another folder")
        found = Collection.open(path, identity["student"], number)
        if not len(found):
            raise CollectionError(f"{path}: holds no texts")
        sides.append(found)
    return sides[0], sides[1]


def blocks(side: Collection, size: int) -> list[list[int]]:
    """Units of all pairs: [first, behind the last] left text."""
    return [[start, min(start + size, len(side))] for start in range(0, len(side), size)]


def is_whole(out: Path, number: int) -> bool:
    """Whether a unit's part is in place."""
    return (out / f"part-{number:05d}.json").exists()


def read_part(out: Path, number: int) -> dict[str, Any]:
    """What is noted of a unit's part: rows, pairs, sha256."""
    path = out / f"part-{number:05d}.json"
    try:
        noted: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        if not (
            collection.count(noted["rows"])
            and collection.count(noted["pairs"])
            and collection.text(noted["sha256"])
        ):
            raise ValueError("expected rows, pairs and sha256")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CollectionError(f"{path}: not a whole note ({error}): delete it and score again") from None
    return noted


class Work:
    """What a process keeps open for a job."""

    def __init__(self, out: Path, device: str = "auto") -> None:
        noted = read_job(out)
        self.out, self.units, self.identity = out, noted["units"], noted["identity"]
        job = Job(**noted["job"])
        self.job = replace(job, tile=(job.tile[0], job.tile[1]))
        self.left, self.right = opened_sides(self.job, self.identity)
        self.scorer = Scorer.load(self.job.student, device)
        self.names = [names_of(side) for side in (self.left, self.right)]
        self.pairs = places_in(out / "pairs.npy") if self.job.pairs else None
        last, n = self.units[-1][1] if self.units else 0, len(self.left if self.pairs is None else self.pairs)
        if last != n:
            raise CollectionError(
                f"{out / 'job.json'}: its units end at {last:,}, but there are {n:,}: delete the folder and score anew"
            )
        self.error = self.largest_error()

    @functools.cached_property
    def held(self) -> gpu.Held | None:
        """The right texts as the GPU's kernel reads them; None where the CPU scores."""
        return (
            gpu.Held(self.scorer.compiled, self.right) if isinstance(self.scorer.compiled, gpu.Tile) else None
        )

    def largest_error(self, texts: int = 128) -> float:
        """How far a fast score may be from float32: ``SAFETY`` times the largest difference among some thousand pairs spread over both
        collections; 0 where there is no faster code than float32's."""
        if self.scorer.compiled is None:
            return 0.0
        left, right = (
            side.take(np.linspace(0, len(side) - 1, min(texts, len(side))).astype(np.int64))
            for side in (self.left, self.right)
        )
        difference = finite(self.scorer.fast_tile(left, right)) - finite(self.scorer.tile(left, right))
        return SAFETY * float(difference.abs().max())


def places_in(path: Path) -> np.ndarray:
    """The places of explicit pairs, a read-only map int64 [pairs, (row, left, right)]."""
    try:
        pairs = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # what NumPy raises for a damaged header has no base class in common
        raise CollectionError(
            f"{path}: cannot be read ({error}): delete the folder and score anew"
        ) from error
    if pairs.dtype != np.int64 or pairs.ndim != 2 or pairs.shape[1] != 3:
        raise CollectionError(
            f"{path}: expected int64 [pairs, 3], but got {pairs.dtype} {pairs.shape}: delete the folder and score anew"
        )
    return pairs


def names_of(side: Collection) -> pa.Array:
    """The first id of each text, by place."""
    frame = side.ids().drop_duplicates("text").sort_values("text")
    return pa.array(frame["id"].to_numpy())


@functools.lru_cache(maxsize=1)
def work_of(out: Path, digest: str, device: str = "auto") -> Work:
    """One job stays open in a process, by the hash of its ``job.json``."""
    return Work(out, device)


def where(out: Path | str, device: str = "auto") -> str:
    """Where this process scores the job in a folder, in words."""
    out = Path(out)
    return work_of(out, sha256_of(out / "job.json"), device).scorer.where


def run_unit(out: Path | str, number: int, device: str = "auto") -> dict[str, Any]:
    """Score one unit of the job in a folder and write its part. Needs nothing else, and may be done twice: it gives the same bytes.

    Returns:
        What is noted of the part: rows, pairs, sha256.
    """
    out = Path(out)
    work = work_of(out, sha256_of(out / "job.json"), device)
    for side, path in (("left", work.job.left), ("right", work.job.right)):
        if manifest_hash(path) != work.identity[side]:
            raise CollectionError(f"{path}: changed while it was scored: score into another folder")
    find = of_pairs if work.job.pairs else of_block
    counted = {"pairs": 0, "rows": 0}
    target = work.out / f"part-{number:05d}.parquet"
    temporary = target.with_name(
        f".{target.name}.{uuid.uuid4().hex}.tmp"
    )  # other machines have the same process numbers
    try:
        with torch.inference_mode(), Part(temporary, work.names, row=bool(work.job.pairs)) as part:
            for found in find(work, *work.units[number]):
                part.add(found)
                counted["pairs"] += found.pairs
                counted["rows"] += len(found.score)
        os.replace(temporary, target)
    except OSError as error:
        raise CollectionError(
            f"{target}: could not be written ({error.strerror or error}): nothing was lost, free some space and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    noted = {**counted, "sha256": sha256_of(target)}
    results.write_atomic(target.with_suffix(".json"), (json.dumps(noted) + "\n").encode())
    return noted


class Part:
    """A part being written: a row group for each table, ids in place of places."""

    def __init__(self, path: Path, names: Sequence[pa.Array], *, row: bool) -> None:
        left, right = (one.type for one in names)
        columns = [("left", left), ("right", right), ("score", pa.float32())]
        self.names = names
        self.schema = pa.schema([("row", pa.int64()), *columns] if row else columns)
        self.writer: Any = pq.ParquetWriter(path, self.schema)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Part:
        return self

    def add(self, found: Found) -> None:
        """Add what was found."""
        left, right = (
            names.take(pa.array(places)) for names, places in zip(self.names, found[:2], strict=True)
        )
        columns = {"row": found.row, "left": left, "right": right, "score": found.score}
        self.writer.write_table(pa.table({name: columns[name] for name in self.schema.names}, self.schema))

    def __exit__(self, *_: object) -> None:
        self.writer.close()


class Found(NamedTuple):
    """Pairs to write: places of texts, scores, their rows in the file of explicit pairs; and how many were scored for them."""

    left: np.ndarray
    right: np.ndarray
    score: np.ndarray
    pairs: int
    row: np.ndarray | None = None


def of_block(work: Work, first: int, last: int) -> Iterator[Found]:
    """Left texts ``first`` to ``last`` with every right one.

    The best, and what is above a threshold, are found by the fast tile, which may be off by ``work.error``, and then scored in float32.
    """
    left, least = work.left.block(first, last), work.job.threshold
    if work.job.top:
        yield best_of_block(work, left, first)
    elif least is None:
        for places in right_blocks(work):
            right = work.right.block(int(places[0]), int(places[-1]) + 1)
            scores = finite(work.scorer.tile(left, right))
            i, j = np.indices(scores.shape).reshape(2, -1)
            yield Found(first + i, int(places[0]) + j, scores.numpy().ravel(), scores.numel())
    else:
        floors = torch.full((last - first,), least - work.error)
        for found in above(work, left, lambda: floors):
            i, j, exact = in_float32(work, left, found)
            keep = exact >= least
            yield Found(first + i[keep], j[keep], exact[keep], found.pairs)


def above(work: Work, left: Prepared, floors: Callable[[], torch.Tensor]) -> Iterator[gpu.Above]:
    """Pairs whose fast score reaches the floor of their left text (float32 [left], asked for each block of right texts), there where the
    tile was scored; raises where a score is not finite."""
    if work.held:
        tile = work.scorer.compiled
        for found in tile.likely(
            tile.side(left), work.held.block, len(work.right), lambda: floors().to(tile.device)
        ):
            finite(found.score)
            yield found
        return
    for places in right_blocks(work):
        right = work.right.block(int(places[0]), int(places[-1]) + 1)
        scores = finite(work.scorer.fast_tile(left, right))
        hits, n = places_of_true(scores >= floors()[:, None]), len(places)
        yield gpu.Above(hits // n, places[hits % n], scores.flatten()[hits], scores.numel())


def right_blocks(work: Work) -> Iterator[torch.Tensor]:
    """Places of the right texts of one tile after the other."""
    return iter(torch.arange(len(work.right)).split(work.job.tile[1]))


def best_of_block(work: Work, left: Prepared, first: int) -> Found:
    """The best right texts of each left one.

    Twice as many and some more are short-listed by the fast tile and scored in float32. A left text whose short list might lack one of the
    best (its last score is within ``work.error`` of the K-th best) is searched again.
    """
    rows, k = len(left[0]), min(work.job.top, len(work.right))
    wide = min(2 * k + 16, len(work.right)) if work.scorer.compiled else k
    places, scores = short_list(work, left, wide).sorted()
    if work.scorer.compiled:
        lines = torch.arange(rows).repeat_interleave(wide)
        exact = torch.from_numpy(in_float32(work, left, gpu.Above(lines, places.flatten(), scores, 0))[2])
        best = Best(rows, k)
        best.add(exact.reshape(rows, wide), places)
        error = max(work.error, SAFETY * float((exact.reshape(rows, wide) - scores).abs().max()))
        unsure = (scores[:, -1] + error >= best.floors()).nonzero()[:, 0]
        if wide < len(work.right) and len(unsure):
            few, floors = training.gather(left, unsure.numpy()), best.floors()[unsure] - error
            best.keys[unsure] = searched_again(work, few, k, floors).keys
        places, scores = best.sorted()
    least = -math.inf if work.job.threshold is None else work.job.threshold
    i, j = (t.numpy() for t in (scores >= least).nonzero(as_tuple=True))
    return Found(first + i, places.numpy()[i, j], scores.numpy()[i, j], rows * len(work.right))


def short_list(work: Work, left: Prepared, wide: int) -> Best:
    """So many right texts of each left one, the best by the fast tile."""
    if work.held:
        best = Best(len(left[0]), wide, work.scorer.compiled.device)
        for found in above(work, left, best.floors):
            best.merge(found.left, found.score, found.right)
        best.keys = best.keys.cpu()
        return best
    best = Best(len(left[0]), wide)
    for places in right_blocks(work):
        right = work.right.block(int(places[0]), int(places[-1]) + 1)
        best.add(finite(work.scorer.fast_tile(left, right)), places)
    return best


def searched_again(work: Work, left: Prepared, k: int, floors: torch.Tensor) -> Best:
    """The best right texts of each left one in float32, among those whose fast score reaches ``floors``: as low as one of the best may come
    out."""
    best = Best(len(left[0]), k)
    for found in above(work, left, lambda: floors):
        i, j, exact = in_float32(work, left, found)
        best.merge(torch.from_numpy(i), torch.from_numpy(exact), torch.from_numpy(j))
    return best


def in_float32(work: Work, left: Prepared, found: gpu.Above) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of left texts of a block with right ones, and their scores in float32, [pairs] each; so many at a time that their tensors stay
    small."""
    i, j = found.left.cpu().numpy(), found.right.cpu().numpy()
    parts = [np.zeros(0, np.float32)]
    for n in range(0, len(i), RESCORED):
        some = slice(n, n + RESCORED)
        parts.append(work.scorer.score(training.gather(left, i[some]), work.right.take(j[some])))
    return i, j, np.concatenate(parts)


def finite(scores: torch.Tensor) -> torch.Tensor:
    """The scores; raises for NaN or infinite ones, which have no rank."""
    if scores.numel() and not bool(torch.stack(torch.aminmax(scores)).isfinite().all()):
        raise CollectionError(
            "a score is not a finite number: the student or a collection is damaged: run `dipair verify` on both"
        )
    return scores


def of_pairs(work: Work, first: int, last: int) -> Iterator[Found]:
    """Explicit pairs ``first`` to ``last``, all of one bucket."""
    assert work.pairs is not None
    pairs = np.array(work.pairs[first:last])
    if (pairs < 0).any() or (pairs[:, 1:] >= (len(work.left), len(work.right))).any():
        raise CollectionError(
            f"{work.out / 'pairs.npy'}: names texts that the collections do not have: delete the folder and score anew"
        )
    starts = pairs[0, 1:] // BUCKET * BUCKET
    sides = [
        side.block(int(start), min(int(start) + BUCKET, len(side)))
        for side, start in zip((work.left, work.right), starts, strict=True)
    ]
    least = -math.inf if work.job.threshold is None else work.job.threshold
    for some in np.array_split(pairs, max(1, len(pairs) // BUCKET)):
        scores = work.scorer.score(
            *(training.gather(p, at) for p, at in zip(sides, (some[:, 1:] - starts).T, strict=True))
        )
        finite(torch.from_numpy(scores))
        keep = scores >= least
        row, left, right = some[keep].T
        yield Found(left, right, scores[keep], len(scores), row)


def bucketed(job: Job, out: Path, sides: Sequence[Collection]) -> list[list[int]]:
    """Write the pairs as places of texts, int64 [pairs, (row, left, right)] in ``pairs.npy``, those of a bucket (a block of left texts and
    one of right texts) together. Returns the units: [first, behind the last] pair, of one bucket each.

    Raises:
        CollectionError: an id that a collection does not have, with its row.
    """
    frames = [side.ids() for side in sides]
    indexes = [pd.Series(frame["text"].to_numpy(), index=frame["id"]) for frame in frames]
    found = []
    for table in collection.tables_of(Path(job.pairs)):
        places = [
            places_of(table, side, index, getattr(job, side))
            for side, index in zip(("left", "right"), indexes, strict=True)
        ]
        rows = np.arange(table.first, table.first + len(table))
        found.append(np.stack([rows, *places], axis=1))
    pairs = np.concatenate(found)
    tile_of = pairs[:, 1] // BUCKET * (len(sides[1]) // BUCKET + 1) + pairs[:, 2] // BUCKET
    order = np.argsort(tile_of, kind="stable")
    results.write_atomic(out / "pairs.npy", collection.npy(pairs[order]))
    edges = [*np.flatnonzero(np.diff(tile_of[order], prepend=-1)).tolist(), len(pairs)]
    return [
        [i, min(i + UNIT_PAIRS, b)] for a, b in itertools.pairwise(edges) for i in range(a, b, UNIT_PAIRS)
    ]


def places_of(table: tasks.Table, side: str, index: pd.Series, where: str) -> np.ndarray:
    """int64 places of a column's ids in a collection."""
    ids = collection.alike(tasks.ids_of(table, side), index.index)
    found = index.reindex(ids)
    unknown = found.isna().to_numpy()
    if unknown.any():
        row = int(unknown.argmax())
        raise CollectionError(
            f"{table.path}, row {table.first + row + 1}: {side} id {ids[row]!r} is not in {where}: encode that text first"
        )
    return found.to_numpy().astype(np.int64)


def verify(out: Path | str) -> list[str]:
    """One line for each unit of a job that has no part, or another one than was noted."""
    out = Path(out)
    problems = []
    for number in range(len(read_job(out)["units"])):
        path = out / f"part-{number:05d}.parquet"
        if not is_whole(out, number):
            problems.append(f"{path}: not scored yet: the same `dipair score` goes on")
        elif not path.exists():
            problems.append(f"{path}: missing: delete {path.with_suffix('.json').name} and score again")
        elif sha256_of(path) != read_part(out, number)["sha256"]:
            problems.append(
                f"{path}: damaged: delete it and {path.with_suffix('.json').name} and score again"
            )
    return problems
