"""The clocks: what a text costs once, what a pair costs each time, what one request waits for; and the machine's own ceiling beside them.

Rules (shared by every contestant): warm-up first; contestants take turns within each repeat (A B A B), so that a machine that slows down
slows everyone; medians with quartiles; batches as a long job has them, of neighbours in length, at lengths spread over the test split;
each at its own best batch size of ``BATCH_SIZES``; a run whose quartiles spread more than ``NOISY`` is marked, never averaged away. Two
scenarios: offline (seconds per text and per pair in bulk; pairs in tiles: each text of a block with each of another) and single (one
request: a new query against stored candidates; of single texts, one text).

On a GPU models, inputs and cached texts lie there, every timed call ends when it has done its work, and the sample is repeated until it
fills the largest batch. Two things differ: batches are cut out of word pieces lying there, as in use, and a cross-encoder's tokenisation,
which many cores do ahead of it, is not in its price per pair, so that the speed-up of a student comes out too small rather than too large.
A request's scores are back in the computer's memory at its end.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from . import models, progress, results, tasks, training
from .models import BiLSTM, Constant, CrossEncoder, DualEncoder, TfIdf
from .models.heads import SimilarityHead
from .models.tokens import Texts, length_sorted, read
from .training.device import device_of, encoder_dtype, moved, placed_on, ready, synchronize
from .training.inputs import taking

BATCH_SIZES = {
    "cpu": {"cross-encoder": (16, 48), "encode": (16, 48), "combine": (256, 1024, 4096)},
    "cuda": {
        "cross-encoder": (256, 1024, 4096),
        "encode": (256, 1024),
        "combine": (1 << 16, 1 << 18, 1 << 20),
    },
    "mps": {"cross-encoder": (64, 256), "encode": (64, 256), "combine": (1 << 12, 1 << 14, 1 << 16)},
}
CPU = torch.device("cpu")
NOISY = 0.25
CANDIDATES = 20
POOL = 2_000  # test rows from whose lengths batches are taken
LEAST = 96  # rows, or texts of a field, that a timed call works off at least
MOST_REQUESTS, REQUEST_SECONDS = 1_000, 2.0  # a model answers as many requests as this time allows
P99_FROM = 1_000  # requests; below, the 99th percentile is all but the slowest one


def costs(model: Any, texts: Texts, sample: int = 8) -> dict[str, Any]:
    """What a model costs by arithmetic, not by clock, on some rows' own texts without padding.

    Returns:
        params_total, params_embedding (word tables), params_per_pair (those that take part in ``combine``), flops_per_text and
        flops_per_pair (multiplications and additions of matrix products, the mean of the sample), bytes_per_text (float32 ``Prepared``,
        mean over the fields). None where a model has no such part.
    """
    rows = np.linspace(0, len(texts) - 1, min(sample, len(texts))).astype(np.int64)
    if isinstance(model, Constant | TfIdf):
        return baseline_costs(model, texts)
    total = sum(p.numel() for p in model.parameters())
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    known = {"params_total": total, "params_embedding": sum(t.weight.numel() for t in tables)}
    if isinstance(model, CrossEncoder):
        flops = float(
            np.mean([count_flops(partial(model, *model.batch(texts, np.array([r])))) for r in rows])
        )
        return {
            **known,
            "params_per_pair": total,
            "flops_per_text": None,
            "flops_per_pair": flops,
            "bytes_per_text": None,
        }
    per_text, prepared = [], []
    if isinstance(model, BiLSTM):
        model.gates()  # computed once per vocabulary: not part of any text
    for number, tokens in enumerate(texts.tokens):
        which = texts.index[rows, number]
        for i in which:
            batch = tokens.take(np.array([i]))
            per_text.append(count_flops(partial(encode_and_prepare, model, batch, number)))
        with torch.no_grad():
            prepared.append(model.prepare(model.encode(*tokens.take(which), number), number))
    bytes_per_field = [sum(t[0].numel() * t.element_size() for t in p) for p in prepared]
    return {
        **known,
        "params_per_pair": params_in_combine(model, prepared),
        "flops_per_text": float(np.mean(per_text)),
        "flops_per_pair": count_flops(lambda: model.combine(*prepared)) / len(rows)
        + dot_flops(model, prepared),
        "bytes_per_text": float(np.mean(bytes_per_field)),
    }


def baseline_costs(model: Constant | TfIdf, texts: Texts) -> dict[str, Any]:
    """Costs of a baseline; a sparse vector's bytes are its stored entries (8 bytes of value, 4 of index)."""
    empty = dict.fromkeys(
        ("params_embedding", "params_per_pair", "flops_per_text", "flops_per_pair", "bytes_per_text")
    )
    if isinstance(model, Constant):
        return {**empty, "params_total": len(model.config["logits"])}
    entries = [model.prepare(t[:500]).nnz / min(500, len(t)) for t in texts.distinct]
    return {
        **empty,
        "params_total": sum(w.size for w in model.weights.values()),
        "bytes_per_text": float(np.mean(entries)) * 12,
    }


def count_flops(call: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products within a call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def encode_and_prepare(model: Any, batch: tuple[torch.Tensor, torch.Tensor], field: int) -> models.Prepared:
    """Everything that is done once per text."""
    prepared: models.Prepared = model.prepare(model.encode(*batch, field), field)
    return prepared


def dot_flops(model: Any, prepared: Sequence[models.Prepared]) -> float:
    """The cosine's dot product, which is no matrix product to the counter: 2 x width, wherever a head has one."""
    has_cosine = any(isinstance(m, SimilarityHead) and m.cosine for m in model.modules())
    return 2.0 * prepared[0][-1].shape[-1] if has_cosine else 0.0


def params_in_combine(model: Any, prepared: Sequence[models.Prepared]) -> int:
    """Parameters that get a gradient when only ``combine`` runs."""
    with torch.enable_grad():
        model.zero_grad(set_to_none=True)
        model.combine(*prepared).sum().backward()
    used = sum(p.numel() for p in model.parameters() if p.grad is not None)
    model.zero_grad(set_to_none=True)
    return used


def ceiling(seconds: float = 0.3, device: str = "cpu") -> dict[str, float]:
    """What this machine can do at the threads in force, or its GPU (``cuda``, ``mps``): matrix products in GFLOP/s by dtype, the faster of
    two sizes, and memory copy in GB/s; medians."""
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
            once = median_of(partial(waited, partial(torch.matmul, a, a)), seconds / 2)
            rates.append(2 * n**3 / once / 1e9)
        found[f"peak_gflops_{str(dtype).removeprefix('torch.')}"] = max(rates)
    source = torch.zeros((256 if on_gpu else 32) * 2**20, device=device)
    target = torch.empty_like(source)
    once = median_of(partial(waited, lambda: target.copy_(source)), seconds)
    found["copy_gb_per_s"] = 2 * source.nbytes / once / 1e9
    return found


def median_of(call: Callable[[], Any], seconds: float) -> float:
    """Median seconds of a call repeated for a while, after one call of warm-up."""
    call()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        times.append(timed(call))
    return float(np.median(times))


def timed(call: Callable[[], Any], device: torch.device = CPU) -> float:
    """Wall-clock seconds of one call, until the device has done what it was told in it."""
    synchronize(device)
    begun = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - begun


@dataclass
class Contestant:
    """One model at one dtype on the clock.

    Attributes:
        run_id: its row. dtype: of the encoder and the head.
        parts: name of a part (``tokenize``, ``encode``, ``combine``) to the call and how many texts or pairs one call works off.
        request: one request of the single scenario, given its number.
        batch_size: pairs per call of ``combine``. pairing: "tile" or "list", see ``results.Result``. device: where it computes.
        candidates: pairs of one request, 1 of single texts.
        times: seconds per unit, per part, one entry per repeat.
    """

    run_id: str
    dtype: str
    parts: dict[str, tuple[Callable[[], Any], float]]
    request: Callable[[int], Any]
    batch_size: int
    pairing: str = "list"
    device: torch.device = CPU
    candidates: int = CANDIDATES
    times: dict[str, list[float]] = field(default_factory=dict)

    def measure(self) -> None:
        """One turn: each part once."""
        for name, (call, units) in self.parts.items():
            self.times.setdefault(name, []).append(timed(call, self.device) / units)

    def per_unit(self, part: str) -> float | None:
        """Median seconds per text or pair, None for a part it does not have."""
        return float(np.median(self.times[part])) if part in self.times else None


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
    """Clock the models of a results folder against their teacher, in turns, and fill the speed group of their rows.

    Args:
        folder: a suite's results.
        which: ``missing`` clocks rows that have no clock on this device yet (their teacher runs along), ``all`` every row, ``none``
            nothing. Only rows with a saved model have one: of several seeds the first. Rows of one architecture share a clock
            (``clocked_for``).
        threads: for torch; 0 leaves torch's own choice.
        repeats: turns of the offline scenario. requests: of the single scenario at least; a model answers up to ``MOST_REQUESTS`` within
            ``REQUEST_SECONDS``. sample: texts of each field that are cached for pairs and requests.
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
    rows: list[results.Result],
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
    entered = [e for row in tracked for e in enter(folder, row, frame, pool, row.run_id in teachers, device)]
    with torch.inference_mode():
        for _ in progress.track(range(repeats), "offline clocks"):
            for contestant in entered:
                contestant.measure()
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


def clock_requests(contestants: Sequence[Contestant], least: int) -> dict[int, list[float]]:
    """Seconds of each request, by ``id`` of the contestant: all in turns, each until ``MOST_REQUESTS`` are answered or
    ``REQUEST_SECONDS`` are over, but at least so many. The first is warm-up and does not count."""
    seconds: dict[int, list[float]] = {id(c): [] for c in contestants}
    most = max(least, MOST_REQUESTS) + 1 if least > 1 else least + 1
    left = list(contestants)
    for number in progress.track(range(most), "request clocks"):
        for contestant in left:
            call = partial(contestant.request, number)
            seconds[id(contestant)].append(timed(call, contestant.device))
        left = [c for c in left if number < least or sum(seconds[id(c)]) < REQUEST_SECONDS]
        if not left:
            break
    return {key: times[1:] for key, times in seconds.items()}


def clocked_for(folder: Path, rows: Sequence[results.Result], teachers: set[str]) -> dict[str, str]:
    """Run id to the run id whose clock it gets. Models of one architecture differ in their weights only, which cost the same: one of them
    is clocked for all, a teacher where there is one (it is clocked at two dtypes)."""
    first: dict[str, str] = {}
    found = {}
    for row in sorted(rows, key=lambda row: row.run_id not in teachers):
        config = models.read_config(results.row_folder(folder, row.run_id) / "model")
        own = config["kind"] in models.NETWORKS
        key = results.canonical_json([config["kind"], config["settings"]]) if own else row.run_id
        found[row.run_id] = first.setdefault(key, row.run_id)
    return found


def task_of(row: results.Result) -> tasks.Task:
    """The task a row was made on, loaded again."""
    return results.load_run_task(json.loads(row.parameters))


def given(pairs_per_s: float) -> dict[str, Any]:
    """The clock of a teacher that is a column of scores, as a person gives it: fields of its row; none for 0 (unknown)."""
    if not 0 <= pairs_per_s <= results.LARGEST:
        raise ValueError(
            f"teacher_pairs_per_s: expected a positive number, or 0 for unknown, but got {pairs_per_s}"
        )
    names = ("teacher_s_per_pair", "teacher_fastest_s_per_pair")
    return {**dict.fromkeys(names, 1 / pairs_per_s), "teacher_fastest_dtype": "given"} if pairs_per_s else {}


def given_clock(folder: Path, teacher_run: str | None) -> dict[str, Any]:
    """The same fields for the rows that learned from such a teacher; none where the teacher is a model, or its clock unknown."""
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
        "device_name": results.device_name(str(device)),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "peak_gflops": found["peak_gflops_float32"],
        "copy_gb_per_s": found["copy_gb_per_s"],
    }


def clock_fields(
    run_id: str, teacher_run: str, entered: list[Contestant], latencies: dict[int, list[float]]
) -> dict[str, Any]:
    """The speed group of one row from its float32 contestant and its teacher's at every dtype."""
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


def enter(
    folder: Path, row: results.Result, frame: Any, pool: Any, is_teacher: bool, device: torch.device
) -> list[Contestant]:
    """A row's contestants: itself in float32, and a teacher also in bfloat16 where the device gains by it.

    Args:
        frame: rows whose texts are cached and asked for. pool: rows from which batches of like length are taken.
    """
    model, gains = (
        models.load(folder / "rows" / row.run_id / "model"),
        encoder_dtype(device=device) == "bfloat16",
    )
    fields = list(json.loads(row.parameters).get("fields") or []) or [
        c for c in frame.columns if c not in {"label", "group", "gain"}
    ]
    if isinstance(model, Constant | TfIdf):
        return [baseline(row.run_id, model, [frame[f].tolist() for f in fields])]
    tokenizer = models.tokenizer_of(model)
    texts = read(tokenizer, frame, fields, model.read_lengths)
    of_pool = read(tokenizer, pool, fields, model.read_lengths)
    words = [frame[f].tolist() for f in fields]
    if isinstance(model, CrossEncoder):
        dtypes = ("float32", "bfloat16") if is_teacher and gains else ("float32",)
        words = [pool[f].tolist() for f in fields]
        return [
            cross_encoder(row.run_id, ready(model, device, d), d, tokenizer, words, of_pool) for d in dtypes
        ]
    return [dual(row.run_id, ready(model, device, "float32"), tokenizer, words, texts, of_pool)]


def bulk_batches(
    lengths: np.ndarray, size: int, device: torch.device = CPU, largest: int = 0
) -> list[np.ndarray]:
    """Batches as a long job has them, which sorts by length: each of neighbours in length, so that next to nothing is padding, at lengths
    spread evenly over all. On a GPU all of them, over and over until they fill its largest batch.

    Returns:
        Positions of each batch; on a CPU ``LEAST`` in all or a little more, and two batches at least where there are enough rows.
    """
    if device.type != "cpu":
        rows = filled(len(lengths), largest)
        return [rows[part] for part in length_sorted(lengths[rows], size)]
    order = np.argsort(-lengths, kind="stable")
    if len(order) <= max(size, LEAST):
        return [order[start : start + size] for start in range(0, len(order), size)]
    starts = np.linspace(0, len(order) - size, max(2, -(-LEAST // size))).astype(int)
    return [order[start : start + size] for start in starts]


def average_rows(lengths: np.ndarray, batches: Sequence[np.ndarray]) -> float:
    """How many rows of average length some batches are: a pass takes time about in proportion to its word pieces."""
    return float(sum(lengths[batch].sum() for batch in batches) / lengths.mean())


def tokenize_call(tokenizer: Any, words: list[list[str]], lengths: Sequence[int]) -> Callable[[], Any]:
    """Tokenise the sample of every field."""
    return lambda: [tokenizer(w, truncation=True, max_length=n) for w, n in zip(words, lengths, strict=True)]


def cross_encoder(
    run_id: str, model: CrossEncoder, dtype: str, tokenizer: Any, words: list[list[str]], texts: Texts
) -> Contestant:
    """A cross-encoder on the clock: tokenisation (on a CPU) and the whole pass are per pair."""
    device, n, candidates = placed_on(model), len(texts), CANDIDATES if len(words) > 1 else 1
    sizes, on_cpu = BATCH_SIZES[device.type]["cross-encoder"], device.type == "cpu"
    lengths, inputs = model.pair_lengths(texts), training.Inputs(model, texts, device)
    planned = {size: bulk_batches(lengths, size, device, max(sizes)) for size in sizes}
    units: dict[int, float] = {size: average_rows(lengths, batches) for size, batches in planned.items()}

    def score_all(size: int) -> None:
        for batch in map(inputs.rows, planned[size]):
            model(*batch)

    size = best_size(sizes, score_all, device, units)

    def request(number: int) -> None:
        asked = (number + np.arange(candidates)) % n
        tokenizer([words[0][asked[0]]], truncation=True, max_length=model.read_lengths[0])
        model(*moved(model.batch(texts, asked), device)).cpu()

    rows = np.concatenate(planned[size])
    tokenise = tokenize_call(tokenizer, [[w[i] for i in rows] for w in words], model.read_lengths)

    def combine() -> None:
        if on_cpu:
            tokenise()
        score_all(size)

    return Contestant(
        run_id,
        dtype,
        {"combine": (combine, units[size])},
        request,
        size,
        device=device,
        candidates=candidates,
    )


def filled(n: int, most: int) -> np.ndarray:
    """int64: the positions 0 to n - 1, over and over until there are ``most``."""
    return np.resize(np.arange(n), max(n, most))


def dual(
    run_id: str,
    model: DualEncoder | BiLSTM,
    tokenizer: Any,
    words: list[list[str]],
    texts: Texts,
    pool: Texts | None = None,
) -> Contestant:
    """A student behind the seam: tokenise and encode per text, gather and combine per pair.

    Args:
        texts: cached for pairs and requests. pool: encoded in batches of like length; None takes ``texts``.
    """
    lengths, device, pool = model.read_lengths, placed_on(model), pool or texts
    sizes = BATCH_SIZES[device.type]
    take = [taking(tokens, device) for tokens in pool.tokens]
    largest = 4 * max(sizes["encode"])
    planned = {
        size: [bulk_batches(tokens.lengths, size, device, largest) for tokens in pool.tokens]
        for size in sizes["encode"]
    }
    units: dict[int, float] = {
        size: sum(average_rows(tokens.lengths, part) for tokens, part in zip(pool.tokens, parts, strict=True))
        for size, parts in planned.items()
    }

    def encode_all(size: int) -> None:
        for number, batches in enumerate(planned[size]):
            for batch in map(take[number], batches):
                encode_and_prepare(model, batch, number)

    with torch.inference_mode():
        size = best_size(sizes["encode"], encode_all, device, units)
        prepared = [training.prepare_all(model, tokens, number) for number, tokens in enumerate(texts.tokens)]
        pairs = max(sizes["combine"])
        combine = (
            combine_tiles(model, prepared, pairs)
            if len(prepared) == 2
            else combine_list(model, prepared, pairs)
        )
        batch = best_size(sizes["combine"], combine, device)

    def request(number: int) -> None:
        query = words[0][number % len(words[0])]
        encoded = tokenizer([query], truncation=True, max_length=lengths[0])["input_ids"]
        ids = torch.tensor(encoded).to(device)
        asked = model.prepare(model.encode(ids, torch.ones_like(ids, dtype=torch.bool), 0), 0)
        rows = [(number + np.arange(CANDIDATES)) % len(t) for t in texts.tokens]
        found = [training.gather(p, r) for p, r in zip(prepared[1:], rows[1:], strict=True)]
        model.combine(asked, *found).cpu()

    parts = {
        "tokenize": (tokenize_call(tokenizer, words, lengths), sum(len(w) for w in words)),
        "encode": (lambda: encode_all(size), units[size]),
        "combine": (lambda: combine(batch), pairs),
    }
    pairing = "tile" if len(prepared) == 2 else "list"
    candidates = CANDIDATES if len(words) > 1 else 1
    return Contestant(
        run_id, "float32", parts, request, batch, pairing=pairing, device=device, candidates=candidates
    )


def combine_tiles(model: Any, prepared: Sequence[models.Prepared], units: int) -> Callable[[int], None]:
    """Score so many pairs in tiles of a number of pairs each, every left text of a block with every right one: how two collections meet,
    and one query its candidates. Each tile takes its texts from all over the cache, and its logits are made."""
    random = np.random.default_rng(0)

    def combine(batch: int) -> None:
        m = n = math.isqrt(batch)
        for _ in range(units // (m * n)):
            left, right = (
                training.gather(p, random.integers(0, len(p[0]), size))
                for p, size in zip(prepared, (m, n), strict=True)
            )
            model.combine(tuple(t[:, None] for t in left), tuple(t[None] for t in right))

    return combine


def combine_list(model: Any, prepared: Sequence[models.Prepared], units: int) -> Callable[[int], None]:
    """Score so many tuples of any texts (or single texts) in batches."""
    random = np.random.default_rng(0)
    rows = [random.integers(0, len(p[0]), units) for p in prepared]

    def combine(batch: int) -> None:
        for i in range(0, units, batch):
            model.combine(
                *(training.gather(p, r[i : i + batch]) for p, r in zip(prepared, rows, strict=True))
            )

    return combine


def baseline(run_id: str, model: Constant | TfIdf, words: list[list[str]]) -> Contestant:
    """A baseline on the clock; TF-IDF's sparse vectors are its encoding, their dot product its combine."""
    n = len(words[0])
    if isinstance(model, Constant):
        index = np.zeros((n, len(words)), np.int64)
        texts = Texts((), index, ())
        return Contestant(
            run_id,
            "float32",
            {"combine": (lambda: model.predict(texts), n)},
            lambda _: model.predict(texts),
            n,
            candidates=CANDIDATES if len(words) > 1 else 1,
        )
    vectors = [model.prepare(w) for w in words]
    random = np.random.default_rng(0)
    pairs = [random.integers(0, n, 2048) for _ in words]

    def request(number: int) -> None:
        asked = (
            model.prepare([words[0][number % n]] * CANDIDATES)
            if len(words) > 1
            else model.prepare([words[0][number % n]])
        )
        model.combine(asked, *(v[(number + np.arange(CANDIDATES)) % n] for v in vectors[1:]))

    parts: dict[str, tuple[Callable[[], Any], float]] = {
        "encode": (lambda: [model.prepare(w) for w in words], n * len(words)),
        "combine": (lambda: model.combine(*(v[rows] for v, rows in zip(vectors, pairs, strict=True))), 2048),
    }
    return Contestant(run_id, "float32", parts, request, 2048, candidates=CANDIDATES if len(words) > 1 else 1)


def best_size(
    sizes: Sequence[int],
    call: Callable[[int], Any],
    device: torch.device = CPU,
    units: Mapping[int, float] | None = None,
) -> int:
    """The batch size with the least time for the same work, after one call of warm-up each; of rising ones those a GPU has room for.

    Args:
        units: how much each size's call works off, where it is not the same.
    """
    times: dict[int, float] = {}
    for size in sizes:
        try:
            call(size)
            times[size] = timed(partial(call, size), device) / (units[size] if units else 1)
        except torch.OutOfMemoryError:
            if not times:
                raise
            torch.cuda.empty_cache()
            break
    return min(times, key=times.__getitem__)
