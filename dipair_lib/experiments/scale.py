"""How fast a student scores tiles on this machine, how near that is to what the machine can do, and whether
what was scored is right.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from dipair_lib.data import loading
from dipair_lib.evaluation import benchmarks, clocks, results, schema
from dipair_lib.models import Prepared, costs
from dipair_lib.models.heads import FFNNHead
from dipair_lib.reporting import criteria, derived, guard, selection, wording
from dipair_lib.scoring import block_search, collection, encoding, jobs, manifest, top_k
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.scoring.tiles import gpu
from dipair_lib.system import disk, progress

SIDE = 1024  # texts of a clocked tile's sides
GPU_SIDES = jobs.LEFT, 65_536  # on a GPU, which a smaller tile leaves idle
TURNS = 7


def student_of(out: Path | str, run: str = "", least: float = 0.9) -> schema.Result:
    """The row of a student to score with: by its run id, or else what ``selection.select`` chooses among
    those that encode the texts of a pair once and are clocked; where none keeps this share of the teacher's
    quality, the nearest. A student of a teacher that is not surely above the untrained rows comes with a
    warning that says so.

    Raises:
        ResultError: no such row, none that could score, or rows of several tasks and no run id.
    """
    rows = {row.run_id: row for row in results.load_results(out, damaged="warn")}
    if run:
        if run not in rows:
            raise disk.ResultError(
                f"{out}: no row {run!r}: expected the name of a folder in {Path(out) / 'rows'}"
            )
        return warned(out, rows[run])
    able = [
        row
        for row in rows.values()
        if row.family in {"dipair", "dual-encoder", "bilstm"}
        and row.combine_s_per_pair
        and "+" in (row.read_lengths or "")
        and (results.row_folder(out, row.run_id) / "model").is_dir()
    ]
    if not able:
        raise disk.ResultError(
            f"{out}: no clocked student for pairs here: run a suite first: {results.FIRST}"
        )
    if len({row.task for row in able}) > 1:
        raise disk.ResultError(f"{out}: holds students of several tasks: name one by its run id")
    data = derived.frame(rows.values(), folder=out)
    choice = selection.select(
        data.loc[data.index.intersection([row.run_id for row in able])], criteria.Limits(min_retained=least)
    )
    return warned(out, rows[choice.winner or choice.nearest or able[0].run_id])


def warned(out: Path | str, row: schema.Result) -> schema.Result:
    """The row, with a warning where its teacher's guard tripped."""
    if said := guard.guard_of(row, out):
        warnings.warn(f"{out}: {said} {row.model} is taken all the same, for its speed.", stacklevel=3)
    return row


def introduced(out: Path | str, row: schema.Result) -> str:
    """A student in a line: its quality, and its share of the teacher's where that is one to speak of."""
    share = (
        f"{100 * row.retained:.1f} % of its teacher's"
        if row.retained
        else "its share of the teacher's unknown"
    )
    if guard.guard_of(row, out):
        share = "no share: its teacher is not surely above the untrained rows"
    quality = "undefined" if row.quality is None else f"{row.quality:.3f}"
    return f"{row.model} on {row.task}: {row.metric} {quality}, {share}"


def collections(
    out: Path | str, row: schema.Result, most: int = 0, device: str = "auto"
) -> tuple[collection.Collection, collection.Collection, pd.DataFrame]:
    """Encode the distinct texts of the task that a student was measured on, each side its own collection in
    ``scale/`` beside the rows.

    Args:
        most: texts of a side at most; 0 takes all.
        device: where they are encoded.

    Returns:
        Both collections, and per side: texts, seconds (None where nothing was left to encode), bytes on disk.
    """
    task = loading.load_run_task(json.loads(row.parameters))
    student = results.row_folder(out, row.run_id) / "model"
    folder = Path(out) / "scale" / row.run_id
    made, lines = [], []
    for side, name in enumerate(task.fields):
        texts = pd.concat([task.train[name], task.dev[name], task.test[name]]).drop_duplicates()[
            : most or None
        ]
        source = folder / f"{side}-{len(texts)}.parquet"
        frame = pd.DataFrame({"id": range(len(texts)), "text": texts.to_numpy()})
        disk.write_atomic(source, encoding.parquet(pa.Table.from_pandas(frame, preserve_index=False)))
        target = folder / f"{side}-{len(texts)}"
        known = (target / "manifest.json").exists()
        begun = time.perf_counter()
        found = encoding.encode(student, source, side, target, device=device)
        seconds = None if known else time.perf_counter() - begun
        kept = sum(path.stat().st_size for path in target.iterdir())
        lines.append({"side": name, "texts": len(found), "seconds": seconds, "bytes": kept})
        made.append(found)
    return made[0], made[1], pd.DataFrame(lines)


class Way(NamedTuple):
    """How a tile can be scored: ``call`` does, left and right texts, bytes of a left and of a right text and
    of what is kept of a pair.
    """

    dtype: str
    call: Callable[[], Any]
    texts: tuple[int, int]
    bytes: tuple[float, float, float]
    device: str = "cpu"


def ways_of(scorer: Scorer, left: Prepared, right: Prepared) -> dict[str, Way]:
    """The ways in which this machine can score a tile of those texts, by name."""
    a, b = (tuple(t[:SIDE] for t in side) for side in (left, right))
    texts, read = (len(a[0]), len(b[0])), (of_text(a), of_text(b), 4.0)
    ways = {"torch": Way("float32", lambda: scorer.tile(a, b), texts, read)}
    if isinstance(tile := scorer.compiled, gpu.Tile):
        texts = GPU_SIDES
        one, other = (
            tile.side(tuple(t[torch.arange(n) % len(t)] for t in side))
            for n, side in zip(texts, (a, b), strict=True)
        )
        thresholds = torch.full((texts[0],), math.inf, device=tile.device)
        kept = 0.0 if tile.scale is None else 8.0  # a cosine is written and read once
        # How many reached their floor is read at the end: the clock waits for the GPU.
        ways["fused"] = Way(
            "bfloat16", lambda: tile.above(one, other, thresholds), texts, (of_text(one), of_text(other), kept), tile.device
        )  # fmt: skip
    elif tile is not None:
        ways["compiled"] = Way("bfloat16", lambda: scorer.fast_tile(a, b), texts, read)
    return ways


def of_text(side: Prepared) -> float:
    """Bytes of one prepared text."""
    return float(sum(t[0].numel() * t.element_size() for t in side))


def roofline(scorer: Scorer, left: Prepared, right: Prepared, turns: int = TURNS) -> pd.DataFrame:
    """Clock each way in which this machine can score a tile, in turns with the machine's own matrix product
    and memory copy.

    Args:
        left, right: prepared texts; up to ``SIDE`` of each make the tile, repeated to ``GPU_SIDES`` on a GPU.

    Returns:
        One line per way: ``way`` (``fused`` is the GPU's, beside the GPU's own product and copy), ``dtype``
        of its matrix products, ``pairs`` per call, ``pairs_per_s`` (median; ``_low``, ``_high`` from
        quartiles), ``flops_per_pair`` (matrix and dot products), ``bytes_per_pair`` (the texts' share and the
        score), ``gflops`` and ``peak_gflops`` (measured here, same dtype), ``of_peak``, ``gb_per_s``,
        ``copy_gb_per_s``, ``of_copy``.
    """
    ways = ways_of(scorer, left, right)
    times: dict[str, list[float]] = {name: [] for name in ways}
    ceilings: dict[str, list[dict[str, float]]] = {way.device: [] for way in ways.values()}
    for _ in progress.track(range(turns + 1), "clocking tiles"):  # the first turn is the warm-up
        for name, way in ways.items():
            times[name].append(benchmarks.timed(way.call))
        for device, found in ceilings.items():
            found.append(clocks.ceiling(0.1, device))
    flops = flops_per_pair(scorer, left, right)
    lines = []
    for name, way in ways.items():
        m, n = way.texts
        low, middle, high = (m * n / q for q in np.quantile(times[name][1:], (0.75, 0.5, 0.25)))
        seen = ceilings[way.device][1:]
        limit, copy = (
            float(np.median([one[what] for one in seen]))
            for what in (f"peak_gflops_{way.dtype}", "copy_gb_per_s")
        )
        moved = way.bytes[0] / n + way.bytes[1] / m + way.bytes[2]
        lines.append(
            {
                "way": name,
                "dtype": way.dtype,
                "pairs": m * n,
                "pairs_per_s": middle,
                "pairs_per_s_low": low,
                "pairs_per_s_high": high,
                "flops_per_pair": flops,
                "bytes_per_pair": moved,
                "gflops": flops * middle / 1e9,
                "peak_gflops": limit,
                "of_peak": flops * middle / 1e9 / limit,
                "gb_per_s": moved * middle / 1e9,
                "copy_gb_per_s": copy,
                "of_copy": moved * middle / 1e9 / copy,
            }
        )
    return pd.DataFrame(lines)


def fused_rate(
    m: int = 100_000,
    n: int = 1_000_000,
    hidden: tuple[int, int] = (256, 128),
    top: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """How fast the GPU finds the best of n right texts for each of m left ones: a random FFNN head over
    random shares, no files.

    Returns:
        ``device``, ``pairs``, ``seconds``, ``pairs_per_s``, ``gflops``, ``peak_gflops`` (the GPU's own
        bfloat16 product, just before), ``of_peak``; ``missing``, of the best of three left texts, those that
        torch finds in float32 and the kernel does not (above what bfloat16 may change), and ``difference``,
        the largest between the scores.

    Raises:
        RuntimeError: the kernel cannot run here.
    """
    if gpu.unavailable_reason():
        raise RuntimeError(gpu.unavailable_reason())
    torch.manual_seed(seed)
    head = FFNNHead([1, 1], hidden)
    with torch.inference_mode():
        tile = gpu.Tile(head)
        left, right = (torch.randn(texts, hidden[0], device=tile.device).bfloat16() for texts in (m, n))
        peak = clocks.ceiling(device=tile.device)["peak_gflops_bfloat16"]

        def best_of(few: torch.Tensor) -> top_k.TopK:
            best = top_k.TopK(len(few), min(top, n), tile.device)
            for found in tile.candidates(
                (few,), lambda start, stop: (right[start:stop],), n, best.thresholds
            ):
                best.merge(found.left, block_search.finite(found.score), found.right)
            return best

        best_of(left[: jobs.LEFT])  # the first call compiles
        begun = time.perf_counter()
        found = [best_of(few).keys.cpu() for few in progress.track(left.split(jobs.LEFT), "scoring")]
        seconds = time.perf_counter() - begun
        head.to(tile.device)
        missing, difference = 0, 0.0
        for i in torch.linspace(0, m - 1, min(m, 3)).long().tolist():
            one = left[i].float()[None, None]
            parts = [head.combine((one,), (part.float()[None],)) for part in right.split(65_536)]
            scores = torch.cat(parts, dim=1)[0, :, 0].cpu()
            keys = found[i // jobs.LEFT][i % jobs.LEFT]
            kept = scores[top_k.LAST - (keys & top_k.LAST)]
            off = float((top_k.score_of(keys) - kept).abs().max())
            sure = kept.min() + 2 * off  # what scores more cannot have come out lower than what was kept
            missing += int((scores > sure).sum() - (kept > sure).sum())
            difference = max(difference, off)
    flops = 2 * hidden[0] * hidden[1] + 2 * hidden[1]
    rate = m * n / seconds
    return {
        "device": torch.cuda.get_device_name() if tile.device == "cuda" else "Triton's interpreter",
        "pairs": m * n,
        "seconds": seconds,
        "pairs_per_s": rate,
        "gflops": flops * rate / 1e9,
        "peak_gflops": peak,
        "of_peak": flops * rate / 1e9 / peak,
        "missing": missing,
        "difference": difference,
    }


def flops_per_pair(scorer: Scorer, left: Prepared, right: Prepared, size: int = 32) -> float:
    """Multiplications and additions of the matrix and dot products of a pair within a tile."""
    a, b = (tuple(t[:size] for t in side) for side in (left, right))
    m, n = len(a[0]), len(b[0])
    one, other = tuple(t[:, None] for t in a), tuple(t[None] for t in b)
    return costs.count_flops(lambda: scorer.model.combine(one, other)) / (m * n)


def shown(lines: pd.DataFrame) -> pd.DataFrame:
    """The roofline for people."""
    return pd.DataFrame(
        {
            "way": lines["way"] + ", " + lines["dtype"],
            "pairs/s": [
                f"{wording.si(p.pairs_per_s)} ({wording.si(p.pairs_per_s_low)} to {wording.si(p.pairs_per_s_high)})"
                for p in lines.itertuples()
            ],
            "FLOP per pair": lines["flops_per_pair"].map(lambda v: f"{v:,.0f}"),
            "bytes per pair": lines["bytes_per_pair"].map(lambda v: f"{v:,.1f}"),
            "GFLOP/s of the machine's": [
                f"{p.gflops:,.0f} of {p.peak_gflops:,.0f}" for p in lines.itertuples()
            ],
            "of the matrix peak": lines["of_peak"].map(lambda v: f"{100 * v:.0f} %"),
            "of the memory copy": lines["of_copy"].map(lambda v: f"{100 * v:.1f} %"),
        }
    )


# --- what was scored is right -----------------------------------------------------------------------------------------------------


def recheck(out: Path | str, n: int = 20, seed: int = 0) -> pd.DataFrame:
    """Score some left texts of a finished job anew, in float32 by torch alone, each with every right text,
    and compare with its parts.

    Returns:
        One line per left text: ``left`` (its place), ``kept`` (rows in the parts), ``missing`` (rows of the
        float32 ranking that the part lacks, by more than 1e-5 in score), ``difference`` (the largest between
        a part's score and the new one).
    """
    work = block_search.Work(Path(out), "cpu")
    if work.job.pairs:
        raise manifest.CollectionError(
            f"{out}: scored explicit pairs: only jobs of all pairs can be re-scored in float32"
        )
    random = np.random.default_rng(seed)
    places = np.sort(random.choice(len(work.left), min(n, len(work.left)), replace=False))
    lines = []
    for place in progress.track(places.tolist(), "scoring a sample anew"):
        left = work.left.take(np.array([place]))
        scores = torch.cat(
            [
                work.scorer.tile(left, work.right.block(int(p[0]), int(p[-1]) + 1))[0]
                for p in block_search.right_blocks(work)
            ]
        ).numpy()
        part = kept_of(work, place)
        want = np.sort(scores)[::-1][: work.job.top or None]
        want = want[want >= (-math.inf if work.job.threshold is None else work.job.threshold)]
        found = np.sort(part["score"].to_numpy())[::-1]
        short = len(want) - len(found)
        off = np.abs(found[: len(want)] - want[: len(found)])
        again = scores[part["place"].to_numpy()]
        lines.append(
            {
                "left": place,
                "kept": len(part),
                "missing": max(0, short) + int((off > 1e-5).sum()),
                "difference": float(np.abs(again - part["score"].to_numpy()).max(initial=0.0)),
            }
        )
    return pd.DataFrame(lines)


def kept_of(work: block_search.Work, place: int) -> pd.DataFrame:
    """The rows of one left text in a job's parts, under the first of its ids, with the places of their right
    texts, each once.
    """
    number = next(n for n, (first, last) in enumerate(work.units) if first <= place < last)
    left, right = work.ids
    name = left.names[int(left.first()[place])].as_py()
    frame = pd.read_parquet(work.out / f"part-{number:05d}.parquet", filters=[("left", "==", name)])
    index = pd.Series(right.text, index=right.names.to_pandas())
    return frame.assign(place=index.loc[frame["right"]].to_numpy()).drop_duplicates("place")
