"""Scoring: a student over texts in memory, over explicit pairs of two encoded collections, or over all of them, tile by tile.

What is scored together is a job (see ``jobs``), and each of its units leaves a part. A unit needs nothing but the job's folder and its own
number, so one process, many, or many machines can share a job, and whatever is killed, only what has no part yet is done again, to the same
bytes.

One pair, one score: with the encoder in float32 a pair's score does not depend on what else is scored with it, but for the last bits that
sums of another order leave (1e-6 of the score, or of 1 where it is smaller; a test holds it). Where bfloat16 is the faster arithmetic
(``auto``) an encoder's outputs round to it, and what a text's batch looks like decides some of these roundings: the same pair may then
score some thousandths apart. An export measures on its card what bfloat16 changes. ``dtype="float32"`` of ``Scorer``, and ``encode
--encoder-dtype float32``, avoid it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from . import collection, gpu, ids, jobs, manifest, models, native, progress, results, training
from .collection import Collection, CollectionError
from .jobs import Job, begin
from .jobs import verify as verify
from .models import Prepared
from .models.backbone import sha256_of
from .models.tokens import tokenize
from .training.device import device_of, encoder_dtype, ready

LINES = 32  # left texts of its pieces, at least: a right text's tokens are read once for all of them
BUCKET = 65_536  # texts of each side that explicit pairs are looked up in together
SAFETY = 4.0  # times the largest error seen of fast scores is taken as the largest there is
RESCORED = 16_384  # pairs that are scored again in float32 together


class Scorer:
    """A student that scores texts, in five lines: load, ``prepare`` each side once, ``score`` pairs, ``rank`` candidates.

    Scores are the student's logits: for two classes the log-odds of the second, for graded labels the grade. Texts are encoded on
    ``device``, and what was prepared of them lies in the computer's memory; pairs are scored on the CPU, except by ``fast_tile`` where the
    head has a kernel for the GPU.

    Args:
        dtype: of the encoder's arithmetic: ``auto`` takes bfloat16 where it is faster; with ``float32`` a pair's score is its own to 1e-6
            (see the module), whatever it is scored with. Heads compute in float32 in either case.

    Raises:
        ModelError: the student does not encode each text once, or has several scores. ValueError: no such device or dtype.
    """

    def __init__(self, model: Any, device: str | torch.device = "auto", dtype: str = "auto") -> None:
        if not hasattr(model, "prepare") or not hasattr(model, "read_lengths"):
            raise models.ModelError(
                f"{models.describe(model)['model']}: expected a student that encodes each text once"
            )
        if model.settings["outputs"] != 1:
            raise models.ModelError(
                f"expected a student with one score, but it has {model.settings['outputs']} classes"
            )
        self.model, self.device = model, device_of(device)
        self.encoder = ready(model, self.device, encoder_dtype(dtype, self.device))
        self.compiled: Any = (gpu.Tile.of(model) if str(device) != "cpu" else None) or native.Tile.of(model)
        self.tokenizer = models.tokenizer_of(model)

    @classmethod
    def load(cls, run: Path | str, device: str | torch.device = "auto", dtype: str = "auto") -> Scorer:
        """A run's student (``results/demo/rows/<run>``) or an exported folder."""
        return cls(models.load(manifest.student_folder(run)), device, dtype)

    @property
    def where(self) -> str:
        """Where pairs are scored, in words; with a GPU that does not score them, why."""
        if isinstance(self.compiled, gpu.Tile):
            return f"the best found by a kernel on {results.device_name(str(self.device))}, then scored on the CPU"
        why = native.missing(self.model)
        cpu = f"scored on the CPU, {results.device_name('cpu')}" + (
            f", without compiled tiles ({why})" if why else ""
        )
        if self.device.type == "cpu":
            return cpu
        return f"{cpu}: {gpu.why_not() or 'this head has no kernel for the GPU'}"

    def prepare(self, texts: Sequence[str], field: int) -> Prepared:
        """Encode texts of a field, everything that is done once per text: tensors [texts, ...].

        Raises:
            ValueError: no texts, or what is no list of texts.
        """
        if isinstance(texts, str):
            raise ValueError(
                f"expected a list of texts of field {field}, but got the text {texts!r:.80}: [text]"
            )
        foreign = [one for one in texts if not isinstance(one, str)]
        if foreign:
            raise ValueError(f"expected texts of field {field}, but got {foreign[0]!r:.80}")
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


def score(
    job: Job, out: Path | str, part: tuple[int, int] = (0, 1), device: str = "auto", *, trust: bool = False
) -> dict[str, int]:
    """Do every unit of a job that has no whole part yet, here, one after the other.

    Args:
        part: (i, n) does only units i, i + n, i + 2n ...: n processes, on as many machines as see the folder, share a job. They may run
            beside one that does them all.
        device: of ``Scorer``; ``cpu`` leaves a GPU's kernel aside.
        trust: believe that the collections' files, and parts from before, are as their sha256 says; without it each is read once for that.

    Returns:
        Counts of those units: units, done_before, rows (written), pairs (of texts, scored).

    Raises:
        CollectionError: the folder holds another job or another process writes there, a collection changed, is damaged or empty, an id is
            unknown.
    """
    out = Path(out)
    if part == (0, 1):
        with collection.writing(out):
            jobs.clear(out)
            return do(out, range(begin(job, out, trust)), device, trust)
    with collection.writing(out, unless=out / "job.json"):
        units = begin(job, out, trust)
    return do(out, range(units)[part[0] :: part[1]], device, trust)


def do(out: Path, units: Sequence[int], device: str = "auto", trust: bool = False) -> dict[str, int]:
    """Do those of some units that have no whole part yet."""
    left = jobs.unmade(out, units, trust)
    for number in progress.track(left, "scoring"):
        if not jobs.is_noted(out, number):  # nor by a process beside this one
            run_unit(out, number, device, trust)
    return jobs.counts(out, units, len(units) - len(left))


class Work:
    """What a process keeps open for a job."""

    def __init__(self, out: Path, device: str = "auto", trust: bool = False) -> None:
        noted = jobs.read_job(out)
        self.out, self.units, self.identity = out, noted["units"], noted["identity"]
        job = Job(**noted["job"])
        self.job = replace(job, tile=(job.tile[0], job.tile[1]))
        if manifest.student_hash(manifest.student_folder(job.student)) != self.identity["student"]:
            raise CollectionError(f"{job.student}: another student than the job's: score into another folder")
        self.left, self.right = sides = jobs.opened_sides(self.job, self.identity, trust)
        self.scorer = Scorer.load(self.job.student, device)
        self.ids = self.left.named(), self.right.named()
        self.pairs = jobs.places_in(out, noted, trust)
        jobs.require_all(out, noted, [len(side) for side in sides], self.pairs)
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


@functools.lru_cache(maxsize=1)
def work_of(out: Path, digest: str, device: str = "auto", trust: bool = False) -> Work:
    """One job stays open in a process, by the hash of its ``job.json``."""
    return Work(out, device, trust)


def where(out: Path | str, device: str = "auto", trust: bool = False) -> str:
    """Where this process scores the job in a folder, in words."""
    out = Path(out)
    return work_of(out, sha256_of(out / "job.json"), device, trust).scorer.where


def run_unit(out: Path | str, number: int, device: str = "auto", trust: bool = False) -> dict[str, Any]:
    """Score one unit of the job in a folder and write its part. Needs nothing else, and may be done twice: it gives the same bytes.

    Returns:
        What is noted of the part: pairs, rows, sha256.
    """
    out = Path(out)
    work = work_of(out, sha256_of(out / "job.json"), device, trust)
    for side in jobs.SIDES:
        folder = getattr(work.job, side)
        if jobs.manifest_hash(folder) != work.identity[side]:
            raise CollectionError(f"{folder}: changed while it was scored: score into another folder")
    find = of_pairs if work.job.pairs else of_block
    counted = {"pairs": 0, "rows": 0}
    target = jobs.part_of(work.out, number)
    with jobs.half(target) as path:
        with torch.inference_mode(), Part(path, work) as part:
            for found in find(work, *work.units[number]):
                counted["pairs"] += found.pairs
                counted["rows"] += part.add(found)
        noted = {**counted, "sha256": sha256_of(path)}
    with jobs.half(target.with_suffix(".json")) as path:
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


class Found(NamedTuple):
    """Pairs to write: places of texts (of explicit pairs: of ids), scores, how many were scored for them; rows in the file of explicit
    pairs."""

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


class Nearby:
    """Texts of a collection by place; where many of one bucket are wanted, it is read whole and kept for the next."""

    def __init__(self, side: Collection) -> None:
        self.side, self.span = side, (0, 0)
        self.block: Prepared = ()

    def take(self, places: np.ndarray) -> Prepared:
        """Tensors [places, ...]."""
        low = int(places.min()) // BUCKET * BUCKET
        high = min(int(places.max()) // BUCKET * BUCKET + BUCKET, len(self.side))
        if high - low > 4 * len(places):
            return self.side.take(places)
        if self.span != (low, high):
            self.span, self.block = (low, high), self.side.block(low, high)
        return training.gather(self.block, places - low)


def of_pairs(work: Work, first: int, last: int) -> Iterator[Found]:
    """Explicit pairs ``first`` to ``last``, in the order in which they were asked for; scored bucket by bucket of both sides."""
    assert work.pairs is not None
    asked = np.array(work.pairs[first:last])
    if (asked < 0).any() or (asked >= [len(one) for one in work.ids]).any():
        raise CollectionError(
            f"{work.out / 'pairs.npy'}: names ids that the collections do not have: delete the folder and score anew"
        )
    left, right = (one.text[places] for one, places in zip(work.ids, asked.T, strict=True))
    order = np.lexsort((right // BUCKET, left // BUCKET))
    scores, sides = np.empty(len(asked), np.float32), (Nearby(work.left), Nearby(work.right))
    for some in np.array_split(order, -(-len(order) // BUCKET)):
        scores[some] = work.scorer.score(
            *(side.take(places[some]) for side, places in zip(sides, (left, right), strict=True))
        )
    finite(torch.from_numpy(scores))
    kept = np.flatnonzero(scores >= (-math.inf if work.job.threshold is None else work.job.threshold))
    yield Found(asked[kept, 0], asked[kept, 1], scores[kept], len(asked), first + kept)
