"""Models ready to be timed: the same work for each, at its best batch size."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipair_lib import inference, models
from dipair_lib.evaluation import schema
from dipair_lib.inference.device import encoder_dtype, moved, placed_on, ready, synchronize
from dipair_lib.inference.inputs import taking
from dipair_lib.models import Constant, CrossEncoder, PairModel, TfIdf, Tokenizer
from dipair_lib.models.tokens import Texts, length_sorted, read

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
CANDIDATES = 20
LEAST = 96  # rows, or texts of a field, that a timed call processes at least


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
class Benchmark:
    """One model at one dtype on the clock.

    Attributes:
        run_id: its row.
        dtype: of the encoder and the head.
        parts: name of a part (``tokenize``, ``encode``, ``combine``) to the call and how many texts or pairs
            one call processes.
        request: one request of the single scenario, given its number.
        batch_size: pairs per call of ``combine``.
        pairing: "tile" or "list", see ``schema.Result``.
        device: where it computes.
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


def make_benchmarks(
    folder: Path, row: schema.Result, frame: Any, pool: Any, is_teacher: bool, device: torch.device
) -> list[Benchmark]:
    """A row's contenders: itself in float32, and a teacher also in bfloat16 where the device gains by it.

    Args:
        frame: rows whose texts are cached and asked for.
        pool: rows from which batches of like length are taken.
    """
    model, gains = (
        models.load(folder / "rows" / row.run_id / "model"),
        encoder_dtype(device=device) == "bfloat16",
    )
    fields = list(json.loads(row.parameters).get("fields") or []) or [
        c for c in frame.columns if c not in {"label", "group", "gain"}
    ]
    if model.reads_texts:
        return [baseline(row.run_id, model, [frame[f].tolist() for f in fields])]
    tokenizer = model.tokenizer
    texts = read(tokenizer, frame, fields, model.read_lengths)
    of_pool = read(tokenizer, pool, fields, model.read_lengths)
    words = [frame[f].tolist() for f in fields]
    if model.per_pair:
        dtypes = ("float32", "bfloat16") if is_teacher and gains else ("float32",)
        words = [pool[f].tolist() for f in fields]
        return [
            cross_encoder(row.run_id, ready(model, device, d), d, tokenizer, words, of_pool) for d in dtypes
        ]
    return [dual(row.run_id, ready(model, device, "float32"), tokenizer, words, texts, of_pool)]


def bulk_batches(
    lengths: np.ndarray, size: int, device: torch.device = CPU, largest: int = 0
) -> list[np.ndarray]:
    """Batches as a long job has them, which sorts by length: each of neighbours in length, so that next to
    nothing is padding, at lengths spread evenly over all. On a GPU all of them, over and over until they fill
    its largest batch.

    Returns:
        Positions of each batch; on a CPU ``LEAST`` in all or a little more, and two batches at least where
        there are enough rows.
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
    """How many rows of average length some batches are: a pass takes time about in proportion to its word
    pieces.
    """
    return float(sum(lengths[batch].sum() for batch in batches) / lengths.mean())


def tokenize_call(tokenizer: Tokenizer, words: list[list[str]], lengths: Sequence[int]) -> Callable[[], Any]:
    """Tokenise the sample of every field."""
    return lambda: [tokenizer(w, truncation=True, max_length=n) for w, n in zip(words, lengths, strict=True)]


def cross_encoder(
    run_id: str, model: CrossEncoder, dtype: str, tokenizer: Tokenizer, words: list[list[str]], texts: Texts
) -> Benchmark:
    """A cross-encoder on the clock: tokenisation (on a CPU) and the whole pass are per pair."""
    device, n, candidates = placed_on(model), len(texts), CANDIDATES if len(words) > 1 else 1
    sizes, on_cpu = BATCH_SIZES[device.type]["cross-encoder"], device.type == "cpu"
    lengths, inputs = model.pair_lengths(texts), inference.Inputs(model, texts, device)
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

    return Benchmark(
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
    model: PairModel,
    tokenizer: Tokenizer,
    words: list[list[str]],
    texts: Texts,
    pool: Texts | None = None,
) -> Benchmark:
    """A student behind the seam: tokenise and encode per text, gather and combine per pair.

    Args:
        texts: cached for pairs and requests.
        pool: encoded in batches of like length; None takes ``texts``.
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
                model.encode_and_prepare(*batch, number)

    with torch.inference_mode():
        size = best_size(sizes["encode"], encode_all, device, units)
        prepared = [
            inference.prepare_all(model, tokens, number) for number, tokens in enumerate(texts.tokens)
        ]
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
        asked = model.encode_and_prepare(ids, torch.ones_like(ids, dtype=torch.bool), 0)
        rows = [(number + np.arange(CANDIDATES)) % len(t) for t in texts.tokens]
        found = [inference.gather(p, r) for p, r in zip(prepared[1:], rows[1:], strict=True)]
        model.combine(asked, *found).cpu()

    parts = {
        "tokenize": (tokenize_call(tokenizer, words, lengths), sum(len(w) for w in words)),
        "encode": (lambda: encode_all(size), units[size]),
        "combine": (lambda: combine(batch), pairs),
    }
    pairing = "tile" if len(prepared) == 2 else "list"
    candidates = CANDIDATES if len(words) > 1 else 1
    return Benchmark(
        run_id, "float32", parts, request, batch, pairing=pairing, device=device, candidates=candidates
    )


def combine_tiles(model: PairModel, prepared: Sequence[models.Prepared], units: int) -> Callable[[int], None]:
    """Score so many pairs in tiles of a number of pairs each, every left text of a block with every right
    one: how two collections meet, and one query its candidates. Each tile takes its texts from all over the
    cache, and its logits are made.
    """
    random = np.random.default_rng(0)

    def combine(batch: int) -> None:
        m = n = math.isqrt(batch)
        for _ in range(units // (m * n)):
            left, right = (
                inference.gather(p, random.integers(0, len(p[0]), size))
                for p, size in zip(prepared, (m, n), strict=True)
            )
            model.combine(tuple(t[:, None] for t in left), tuple(t[None] for t in right))

    return combine


def combine_list(model: PairModel, prepared: Sequence[models.Prepared], units: int) -> Callable[[int], None]:
    """Score so many tuples of any texts (or single texts) in batches."""
    random = np.random.default_rng(0)
    rows = [random.integers(0, len(p[0]), units) for p in prepared]

    def combine(batch: int) -> None:
        for i in range(0, units, batch):
            model.combine(
                *(inference.gather(p, r[i : i + batch]) for p, r in zip(prepared, rows, strict=True))
            )

    return combine


def baseline(run_id: str, model: Constant | TfIdf, words: list[list[str]]) -> Benchmark:
    """A baseline on the clock; TF-IDF's sparse vectors are its encoding, their dot product its combine."""
    n = len(words[0])
    if isinstance(model, Constant):
        index = np.zeros((n, len(words)), np.int64)
        texts = Texts((), index, ())
        return Benchmark(
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
    return Benchmark(run_id, "float32", parts, request, 2048, candidates=CANDIDATES if len(words) > 1 else 1)


def best_size(
    sizes: Sequence[int],
    call: Callable[[int], Any],
    device: torch.device = CPU,
    units: Mapping[int, float] | None = None,
) -> int:
    """The batch size with the least time for the same work, after one call of warm-up each; of rising ones
    those a GPU has room for.

    Args:
        units: how much each size's call processes, where it is not the same.
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
