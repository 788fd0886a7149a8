"""One unit of a job: all pairs of a block, the best of each left text, or listed pairs; scored fast, decided
in float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dipair_lib import inference
from dipair_lib.models import Prepared
from dipair_lib.scoring import jobs, manifest, top_k
from dipair_lib.scoring.collection import Collection
from dipair_lib.scoring.jobs import Job
from dipair_lib.scoring.manifest import CollectionError
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.scoring.tiles import gpu
from dipair_lib.scoring.top_k import TopK

BUCKET = 65_536  # texts of each side that explicit pairs are looked up in together
SAFETY = 4.0  # times the largest error seen of fast scores is taken as the largest there is
RESCORED = 16_384  # pairs that are scored again in float32 together


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
    def held(self) -> gpu.ResidentCollection | None:
        """The right texts as the GPU's kernel reads them; None where the CPU scores."""
        return (
            gpu.ResidentCollection(self.scorer.compiled, self.right)
            if isinstance(self.scorer.compiled, gpu.Tile)
            else None
        )

    def largest_error(self, texts: int = 128) -> float:
        """How far a fast score may be from float32: ``SAFETY`` times the largest difference among some
        thousand pairs spread over both collections; 0 where there is no faster code than float32's.
        """
        if self.scorer.compiled is None:
            return 0.0
        left, right = (
            side.take(np.linspace(0, len(side) - 1, min(texts, len(side))).astype(np.int64))
            for side in (self.left, self.right)
        )
        difference = finite(self.scorer.fast_tile(left, right)) - finite(self.scorer.tile(left, right))
        return SAFETY * float(difference.abs().max())


class Found(NamedTuple):
    """Pairs to write: places of texts (of explicit pairs: of ids), scores, how many were scored for them;
    rows in the file of explicit pairs.
    """

    left: np.ndarray
    right: np.ndarray
    score: np.ndarray
    pairs: int
    row: np.ndarray | None = None


def of_block(work: Work, first: int, last: int) -> Iterator[Found]:
    """Left texts ``first`` to ``last`` with every right one.

    The best, and what is above a threshold, are found by the fast tile, which may be off by ``work.error``,
    and then scored in float32.
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
        thresholds = torch.full((last - first,), least - work.error)
        for found in above(work, left, lambda: thresholds):
            i, j, exact = in_float32(work, left, found)
            keep = exact >= least
            yield Found(first + i[keep], j[keep], exact[keep], found.pairs)


def above(work: Work, left: Prepared, thresholds: Callable[[], torch.Tensor]) -> Iterator[gpu.Candidates]:
    """Pairs whose fast score reaches the floor of their left text (float32 [left], asked for each block of
    right texts), there where the tile was scored; raises where a score is not finite.
    """
    if work.held:
        tile = work.scorer.compiled
        for found in tile.candidates(
            tile.side(left), work.held.block, len(work.right), lambda: thresholds().to(tile.device)
        ):
            finite(found.score)
            yield found
        return
    for places in right_blocks(work):
        right = work.right.block(int(places[0]), int(places[-1]) + 1)
        scores = finite(work.scorer.fast_tile(left, right))
        hits, n = top_k.places_of_true(scores >= thresholds()[:, None]), len(places)
        yield gpu.Candidates(hits // n, places[hits % n], scores.flatten()[hits], scores.numel())


def right_blocks(work: Work) -> Iterator[torch.Tensor]:
    """Places of the right texts of one tile after the other."""
    return iter(torch.arange(len(work.right)).split(work.job.tile[1]))


def best_of_block(work: Work, left: Prepared, first: int) -> Found:
    """The best right texts of each left one.

    Twice as many and some more are short-listed by the fast tile and scored in float32. A left text whose
    short list might lack one of the best (its last score is within ``work.error`` of the K-th best) is
    searched again.
    """
    rows, k = len(left[0]), min(work.job.top, len(work.right))
    wide = min(2 * k + 16, len(work.right)) if work.scorer.compiled else k
    places, scores = short_list(work, left, wide).sorted()
    if work.scorer.compiled:
        lines = torch.arange(rows).repeat_interleave(wide)
        exact = torch.from_numpy(
            in_float32(work, left, gpu.Candidates(lines, places.flatten(), scores, 0))[2]
        )
        best = TopK(rows, k)
        best.add(exact.reshape(rows, wide), places)
        error = max(work.error, SAFETY * float((exact.reshape(rows, wide) - scores).abs().max()))
        unsure = (scores[:, -1] + error >= best.thresholds()).nonzero()[:, 0]
        if wide < len(work.right) and len(unsure):
            few, thresholds = inference.gather(left, unsure.numpy()), best.thresholds()[unsure] - error
            best.keys[unsure] = searched_again(work, few, k, thresholds).keys
        places, scores = best.sorted()
    least = -math.inf if work.job.threshold is None else work.job.threshold
    i, j = (t.numpy() for t in (scores >= least).nonzero(as_tuple=True))
    return Found(first + i, places.numpy()[i, j], scores.numpy()[i, j], rows * len(work.right))


def short_list(work: Work, left: Prepared, wide: int) -> TopK:
    """So many right texts of each left one, the best by the fast tile."""
    if work.held:
        best = TopK(len(left[0]), wide, work.scorer.compiled.device)
        for found in above(work, left, best.thresholds):
            best.merge(found.left, found.score, found.right)
        best.keys = best.keys.cpu()
        return best
    best = TopK(len(left[0]), wide)
    for places in right_blocks(work):
        right = work.right.block(int(places[0]), int(places[-1]) + 1)
        best.add(finite(work.scorer.fast_tile(left, right)), places)
    return best


def searched_again(work: Work, left: Prepared, k: int, thresholds: torch.Tensor) -> TopK:
    """The best right texts of each left one in float32, among those whose fast score reaches ``thresholds``:
    as low as one of the best may come out.
    """
    best = TopK(len(left[0]), k)
    for found in above(work, left, lambda: thresholds):
        i, j, exact = in_float32(work, left, found)
        best.merge(torch.from_numpy(i), torch.from_numpy(exact), torch.from_numpy(j))
    return best


def in_float32(
    work: Work, left: Prepared, found: gpu.Candidates
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of left texts of a block with right ones, and their scores in float32, [pairs] each; so many at a
    time that their tensors stay small.
    """
    i, j = found.left.cpu().numpy(), found.right.cpu().numpy()
    parts = [np.zeros(0, np.float32)]
    for n in range(0, len(i), RESCORED):
        some = slice(n, n + RESCORED)
        parts.append(work.scorer.score(inference.gather(left, i[some]), work.right.take(j[some])))
    return i, j, np.concatenate(parts)


def finite(scores: torch.Tensor) -> torch.Tensor:
    """The scores; raises for NaN or infinite ones, which have no rank."""
    if scores.numel() and not bool(torch.stack(torch.aminmax(scores)).isfinite().all()):
        raise CollectionError(
            "a score is not a finite number: the student or a collection is damaged: run `dipair verify` on both"
        )
    return scores


class Nearby:
    """Texts of a collection by place; where many of one bucket are wanted, it is read whole and kept for the
    next.
    """

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
        return inference.gather(self.block, places - low)


def of_pairs(work: Work, first: int, last: int) -> Iterator[Found]:
    """Explicit pairs ``first`` to ``last``, in the order in which they were asked for; scored bucket by
    bucket of both sides.
    """
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
