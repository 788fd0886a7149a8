"""What 10^9 or 10^12 pairs cost on machines like this, from rates of whole jobs measured here."""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dipair_lib import inference
from dipair_lib.evaluation import benchmarks, schema
from dipair_lib.models.folders import sha256_of
from dipair_lib.reporting import wording
from dipair_lib.scoring import collection, execution, jobs
from dipair_lib.system import disk


def opened(job: jobs.Job, out: Path, device: str, trust: bool = False) -> int:
    """Create a job and open what it reads, which is done once whatever the number of pairs: no rate holds it.
    Returns its units.
    """
    units = jobs.create_job(job, out, trust)
    execution.open_job(out, sha256_of(out / "job.json"), device, trust)
    return units


def timed_job(job: jobs.Job, out: Path, device: str = "auto") -> dict[str, Any]:
    """Score a job, or what of it is left; beside its folder stays how fast a whole one went.

    Returns:
        The counts of ``execution.score`` and ``pairs_per_s`` of the whole job, the best kept and files
        written. Where all or some parts are from before and no rate was noted, one part is scored again
        elsewhere for it.
    """
    noted = out.with_name(f"{out.name}-rate.json")
    opened(job, out, device)
    begun = time.perf_counter()
    counts: dict[str, Any] = dict(execution.score(job, out, device=device))
    if not counts["done_before"]:
        rate = counts["pairs"] / (time.perf_counter() - begun)
        disk.write_atomic(noted, json.dumps({"pairs_per_s": rate}).encode())
    try:
        return counts | {"pairs_per_s": float(json.loads(noted.read_text())["pairs_per_s"])}
    except (OSError, ValueError, KeyError, TypeError):
        pairs, seconds = timed_part(job, device)
        return counts | {"pairs_per_s": pairs / seconds}


def timed_part(job: jobs.Job, device: str = "auto") -> tuple[int, float]:
    """Pairs of a job's first part, and its seconds, in a folder that does not stay."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores"
        units = opened(job, out, device, trust=True)
        begun = time.perf_counter()
        counts = execution.score(job, out, (0, units), device, trust=True)
        return counts["pairs"], time.perf_counter() - begun


LISTED = (
    50_000,
    3_200_000,
)  # pairs whose ids are listed, at first and at most, to measure how fast those are scored
LEAST_S = 0.5  # seconds of that measurement


def listed_pairs_per_s(job: jobs.Job, candidates: float, device: str = "auto", seed: int = 0) -> float:
    """Pairs per second where the ids of each left text's candidates are listed (``dipair score --pairs``): no
    tile shares their texts, so this is slower than all pairs of two blocks. Measured on random candidates,
    files included.
    """
    left, right = (collection.Collection.open(Path(side)).ids()["id"] for side in (job.left, job.right))
    each = int(min(max(candidates, 1), len(right)))
    random, n = np.random.default_rng(seed), LISTED[0]
    while True:
        some = np.resize(
            random.permutation(len(left)), max(1, n // each)
        )  # again from the first where they are few
        pairs = pd.DataFrame(
            {
                "left": left.iloc[np.repeat(some, each)].to_numpy(),
                "right": right.iloc[random.integers(0, len(right), len(some) * each)].to_numpy(),
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "pairs.parquet"
            pairs.to_parquet(source)
            scored, seconds = timed_part(jobs.Job(job.student, job.left, job.right, str(source)), device)
        if seconds >= LEAST_S or n >= LISTED[1]:
            return scored / seconds
        n *= 8


def cosine_pairs_per_s(
    width: int = 384, side: int = 4096, seconds: float = 0.5, device: str = "auto", candidates: float = 100
) -> float:
    """How many pairs of vectors of MiniLM's width this machine compares per second, by float32 matrix
    products, the best so many of each row taken: what an exact search for candidates can reach.
    """
    there = inference.device_of(device)
    a = torch.randn(side, width, device=there)
    kept = int(min(max(candidates, 1), side))

    def compare() -> None:
        (a @ a.T).topk(kept)
        inference.synchronize(there)

    return side * side / benchmarks.median_of(compare, seconds)


def rates(job_pairs_per_s: float, encoded: pd.DataFrame, row: schema.Result) -> dict[str, float]:
    """What ``estimate`` wants to know: the pairs/s of a whole job (``timed_job``), not of a tile alone, and a
    text's seconds (where the collections were not encoded just now, by the row's own clock) and bytes.
    """
    seconds = (row.encode_s_per_text or 0.0) + (row.tokenize_s_per_text or 0.0)
    if encoded["seconds"].notna().all():
        seconds = encoded["seconds"].sum() / encoded["texts"].sum()
    return {
        "pairs_per_s": float(job_pairs_per_s),
        "text_s": float(seconds),
        "bytes_per_text": float(encoded["bytes"].sum() / encoded["texts"].sum()),
    }


def estimate(
    n_left: float,
    n_right: float,
    *,
    pairs_per_s: float,
    text_s: float,
    bytes_per_text: float,
    candidates: float = 0.0,
    candidates_per_s: float = math.inf,
    listed_per_s: float | None = None,
    price_per_hour: float = 0.0,
    hours_at_most: float = 24.0,
) -> pd.DataFrame:
    """What it takes to score each left text with each right one, or with its best candidates.

    Args:
        pairs_per_s, text_s: measured, of one machine: a whole job of all pairs, and tokenising and encoding
            one text.
        candidates: right texts per left one that the student scores; 0 scores all.
        candidates_per_s: how many pairs per second the cheaper student that finds them compares.
        listed_per_s: of the pairs that it leaves, whose ids are listed; ``pairs_per_s`` if not given.
        price_per_hour: of one machine.
        hours_at_most: for how many machines are counted.

    Returns:
        Lines encode, find candidates, score, together: count (texts or pairs), hours of one machine, machines
        for ``hours_at_most``, money, bytes kept.
    """
    if min(n_left, n_right, pairs_per_s, text_s, bytes_per_text, candidates_per_s, hours_at_most) <= 0:
        raise ValueError("estimate: expected numbers above 0 for texts, rates and hours")
    every = n_left * n_right
    scored = n_left * min(candidates, n_right) if candidates else every
    steps = [("encode", n_left + n_right, (n_left + n_right) * text_s, (n_left + n_right) * bytes_per_text)]
    if candidates:
        steps.append(("find candidates", every, every / candidates_per_s, 0.0))
    rate = (listed_per_s or pairs_per_s) if candidates else pairs_per_s
    steps.append(("score", scored, scored / rate, 0.0))
    lines = pd.DataFrame(steps, columns=["step", "count", "seconds", "bytes"])
    total = pd.DataFrame(
        [("together", math.nan, lines["seconds"].sum(), lines["bytes"].sum())], columns=lines.columns
    )
    lines = pd.concat([lines, total], ignore_index=True)
    lines["hours"] = lines.pop("seconds") / 3600
    lines["machines"] = np.ceil(lines["hours"] / hours_at_most).astype(int)
    lines["money"] = lines["hours"] * price_per_hour
    return lines


def shown(lines: pd.DataFrame) -> pd.DataFrame:
    """The estimate for people."""
    return pd.DataFrame(
        {
            "step": lines["step"],
            "texts or pairs": [wording.si(v) if wording.known(v) else "" for v in lines["count"]],
            "hours of one machine": [f"{v:,.2f}" for v in lines["hours"]],
            "machines for a day": lines["machines"],
            "money": [f"{v:,.2f}" for v in lines["money"]],
            "kept": [wording.si(v, "B") if v else "" for v in lines["bytes"]],
        }
    )
