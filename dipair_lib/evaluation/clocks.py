"""The clocks: what a text costs once, what a pair costs each time, what one request waits for; and the
machine's own ceiling beside them.

Rules (shared by every contender): warm-up first; contenders take turns within each repeat (A B A B), so that
a machine that slows down slows everyone; medians with quartiles; batches as a long job has them, of
neighbours in length, at lengths spread over the test split; each at its own best batch size of
``BATCH_SIZES``; a run whose quartiles spread more than ``NOISY`` is marked, never averaged away. Two
scenarios: offline (seconds per text and per pair in bulk; pairs in tiles: each text of a block with each of
another) and single (one request: a new query against stored candidates; of single texts, one text).

On a GPU models, inputs and cached texts lie there, every timed call ends when it has done its work, and the
sample is repeated until it fills the largest batch. Two things differ: batches are cut out of word pieces
lying there, as in use, and a cross-encoder's tokenisation, which many cores do ahead of it, is not in its
price per pair, so that the speed-up of a student comes out too small rather than too large. A request's
scores are back in the computer's memory at its end.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipair_lib import models
from dipair_lib.data import loading, task
from dipair_lib.evaluation import benchmarks, provenance, results, schema
from dipair_lib.evaluation.benchmarks import Benchmark
from dipair_lib.inference.device import device_of, encoder_dtype, synchronize
from dipair_lib.system import disk, progress

NOISY = 0.25
POOL = 2_000  # test rows from whose lengths batches are taken
MOST_REQUESTS, REQUEST_SECONDS = 1_000, 2.0  # a model answers as many requests as this time allows
P99_FROM = 1_000  # requests; below, the 99th percentile is all but the slowest one


def ceiling(seconds: float = 0.3, device: str = "cpu") -> dict[str, float]:
    """What this machine can do at the threads in force, or its GPU (``cuda``, ``mps``): matrix products in
    GFLOP/s by dtype, the faster of two sizes, and memory copy in GB/s; medians.
    """
    there, on_gpu, found = torch.device(device), device != "cpu", {}

    def waited(call: Callable[[], Any]) -> None:
        call()
        synchronize(there)  # a GPU has only been told what to do

    for dtype in (torch.float32, torch.bfloat16):
        rates = []
        slow = (
            dtype is torch.bfloat16 and encoder_dtype(device=device) != "bfloat16"
        )  # by up to a hundred times
        for n in (256, 512) if slow else (4096, 8192) if on_gpu else (1024, 2048):
            a = torch.randn(n, n, device=device).to(dtype)
            once = benchmarks.median_of(partial(waited, partial(torch.matmul, a, a)), seconds / 2)
            rates.append(2 * n**3 / once / 1e9)
        found[f"peak_gflops_{str(dtype).removeprefix('torch.')}"] = max(rates)
    source = torch.zeros((256 if on_gpu else 32) * 2**20, device=device)
    target = torch.empty_like(source)
    once = benchmarks.median_of(partial(waited, lambda: target.copy_(source)), seconds)
    found["copy_gb_per_s"] = 2 * source.nbytes / once / 1e9
    return found


def clock_rows(
    folder: str | Path,
    which: str = "missing",
    *,
    threads: int = 0,
    repeats: int = 5,
    requests: int = 24,
    sample: int = 40,
    device: str | torch.device = "auto",
) -> list[str]:
    """Clock the models of a results folder against their teacher, in turns, and fill the speed group of their
    rows.

    Args:
        folder: a suite's results.
        which: ``missing`` clocks rows that have no clock on this device yet (their teacher runs along),
            ``all`` every row, ``none`` nothing. Only rows with a saved model have one: of several seeds the
            first. Rows of one architecture share a clock (``clocked_for``).
        threads: for torch; 0 leaves torch's own choice.
        repeats: turns of the offline scenario.
        requests: of the single scenario at least; a model answers up to ``MOST_REQUESTS`` within
            ``REQUEST_SECONDS``.
        sample: texts of each field that are cached for pairs and requests.
        device: of all networks in the session; baselines compute on the CPU beside it.

    Returns:
        The run ids that were clocked. Nothing else may run on the machine meanwhile: the suite sees to that.
    """
    if which not in {"none", "missing", "all"}:
        raise ValueError(f"clock: expected none, missing or all, but got {which!r}")
    if which == "none":
        return []
    there = device_of(device)
    if threads:
        torch.set_num_threads(threads)
    rows = results.load_results(Path(folder), damaged="warn")
    rows = [r for r in rows if (results.row_folder(folder, r.run_id) / "model" / "config.json").exists()]
    clocked: list[str] = []
    for data in dict.fromkeys(r.data_sha256 for r in rows):
        of_data = [r for r in rows if r.data_sha256 == data]
        clocked += clock_task(Path(folder), of_data, which, repeats, requests, sample, there)
    return clocked


def clock_task(
    folder: Path,
    rows: list[schema.Result],
    which: str,
    repeats: int,
    requests: int,
    sample: int,
    device: torch.device,
) -> list[str]:
    """Clock the rows of one task in one session."""
    teachers = {r.run_id for r in rows if r.teacher_run == r.run_id}
    wanted = [r for r in rows if which == "all" or r.combine_s_per_pair is None or r.device != device.type]
    along = [r for r in rows if r.run_id in {w.teacher_run for w in wanted} and r not in wanted]
    if not wanted:
        return []
    test = task_of(wanted[0]).test
    frame, pool = (evenly(test, n) for n in (sample, POOL))
    clocked = clocked_for(folder, [*wanted, *along], teachers)
    todo = [row for row in [*wanted, *along] if clocked[row.run_id] == row.run_id]
    tracked = progress.track(todo, "warm-up and batch sizes")
    entered = [
        e
        for row in tracked
        for e in benchmarks.make_benchmarks(folder, row, frame, pool, row.run_id in teachers, device)
    ]
    with torch.inference_mode():
        for _ in progress.track(range(repeats), "offline clocks"):
            for contender in entered:
                contender.measure()
        latencies = clock_requests([c for c in entered if c.dtype == "float32"], requests)
    session = shared_fields(repeats, device) | {"request_candidates": max(c.candidates for c in entered)}
    for row in wanted:
        found = clock_fields(clocked[row.run_id], clocked.get(row.teacher_run or "", ""), entered, latencies)
        results.update_result(
            folder, row.run_id, **session, **{**found, **given_clock(folder, row.teacher_run)}
        )
    return [row.run_id for row in wanted]


def evenly(frame: Any, n: int) -> Any:
    """At most n rows, evenly spread over a frame."""
    return frame.iloc[np.linspace(0, len(frame) - 1, min(n, len(frame))).astype(int)].reset_index(drop=True)


def clock_requests(contenders: Sequence[Benchmark], least: int) -> dict[int, list[float]]:
    """Seconds of each request, by ``id`` of the contender: all in turns, each until ``MOST_REQUESTS`` are
    answered or ``REQUEST_SECONDS`` are over, but at least so many. The first is warm-up and does not count.
    """
    seconds: dict[int, list[float]] = {id(c): [] for c in contenders}
    most = max(least, MOST_REQUESTS) + 1 if least > 1 else least + 1
    left = list(contenders)
    for number in progress.track(range(most), "request clocks"):
        for contender in left:
            call = partial(contender.request, number)
            seconds[id(contender)].append(benchmarks.timed(call, contender.device))
        left = [c for c in left if number < least or sum(seconds[id(c)]) < REQUEST_SECONDS]
        if not left:
            break
    return {key: times[1:] for key, times in seconds.items()}


def clocked_for(folder: Path, rows: Sequence[schema.Result], teachers: set[str]) -> dict[str, str]:
    """Run id to the run id whose clock it gets. Models of one architecture differ in their weights only,
    which cost the same: one of them is clocked for all, a teacher where there is one (it is clocked at two
    dtypes).
    """
    first: dict[str, str] = {}
    found = {}
    for row in sorted(rows, key=lambda row: row.run_id not in teachers):
        config = models.read_config(results.row_folder(folder, row.run_id) / "model")
        own = config["kind"] in models.NETWORKS
        key = disk.canonical_json([config["kind"], config["settings"]]) if own else row.run_id
        found[row.run_id] = first.setdefault(key, row.run_id)
    return found


def task_of(row: schema.Result) -> task.Task:
    """The task a row was made on, loaded again."""
    return loading.load_run_task(json.loads(row.parameters))


def given(pairs_per_s: float) -> dict[str, Any]:
    """The clock of a teacher that is a column of scores, as a person gives it: fields of its row; none for 0
    (unknown).
    """
    if not 0 <= pairs_per_s <= schema.LARGEST:
        raise ValueError(
            f"teacher_pairs_per_s: expected a positive number, or 0 for unknown, but got {pairs_per_s}"
        )
    names = ("teacher_s_per_pair", "teacher_fastest_s_per_pair")
    return {**dict.fromkeys(names, 1 / pairs_per_s), "teacher_fastest_dtype": "given"} if pairs_per_s else {}


def given_clock(folder: Path, teacher_run: str | None) -> dict[str, Any]:
    """The same fields for the rows that learned from such a teacher; none where the teacher is a model, or
    its clock unknown.
    """
    if not teacher_run or not (results.row_folder(folder, teacher_run) / "row.json").exists():
        return {}
    teacher = results.load_result(folder, teacher_run)
    if teacher.teacher_kind != "scores" or not teacher.teacher_s_per_pair:
        return {}
    return given(1 / teacher.teacher_s_per_pair)


def shared_fields(repeats: int, device: torch.device) -> dict[str, Any]:
    """Fields that are the same for every row of a session."""
    found = ceiling(device=device.type)
    return {
        "clock_id": uuid.uuid4().hex[:12],
        "device": device.type,
        "device_name": provenance.device_name(str(device)),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "peak_gflops": found["peak_gflops_float32"],
        "copy_gb_per_s": found["copy_gb_per_s"],
    }


def clock_fields(
    run_id: str, teacher_run: str, entered: list[Benchmark], latencies: dict[int, list[float]]
) -> dict[str, Any]:
    """The speed group of one row from its float32 contender and its teacher's at every dtype."""
    own = next(c for c in entered if c.run_id == run_id and c.dtype == "float32")
    fields: dict[str, Any] = {"dtype": own.dtype, "batch_size": own.batch_size, "pairing": own.pairing}
    noisy = False
    for part, column in (
        ("tokenize", "tokenize_s_per_text"),
        ("encode", "encode_s_per_text"),
        ("combine", "combine_s_per_pair"),
    ):
        times = own.times.get(part)
        fields |= dict.fromkeys((column, f"{column}_q1", f"{column}_q3"))
        if times:
            low, middle, high = np.percentile(times, [25, 50, 75]).tolist()
            fields |= {column: middle, f"{column}_q1": low, f"{column}_q3": high}
            noisy |= (high - low) / middle > NOISY
    waited = latencies[id(own)]
    p50, p95, p99 = np.percentile(waited, [50, 95, 99]).tolist()
    teacher = {c.dtype: c.per_unit("combine") for c in entered if c.run_id == teacher_run}
    fastest = min(teacher, key=lambda d: teacher[d] or np.inf, default=None)
    return {
        **fields,
        "noisy": noisy,
        "latency_p50_s": p50,
        "latency_p95_s": p95,
        "latency_p99_s": p99 if len(waited) >= P99_FROM else None,
        "teacher_s_per_pair": teacher.get(own.dtype),
        "teacher_fastest_s_per_pair": teacher[fastest] if fastest else None,
        "teacher_fastest_dtype": fastest,
    }
