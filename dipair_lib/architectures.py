"""How fast the systems of Tang et al. 2019 are on this machine, at the paper's sizes and without any quality: random weights, no download.

What a weight is worth does not change how long it takes to multiply by it, so nothing is trained and nothing is said about quality;
the numbers stay out of every comparison that has one. Sentences have the lengths of SST-2's training phrases. Everything is clocked in
turns in one session, kept in ``architectures.json`` beside the rows of a results folder, and shown beside the paper's Table 2.
"""

from __future__ import annotations

import copy
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import BertConfig, OpenAIGPTConfig

from . import progress, published, results, results_folder, speed
from .architecture_table import BASE, FILE, SCHEMA, load
from .models import BiLSTM, CrossEncoder
from .models.cross_encoder import mean_of
from .models.elmo import ELMo
from .models.lstm_ways import COMPILED, head, packed, packed_states, vectors_of, ways_of

VOCABULARY = 15_000  # words of SST-2
# Words of an SST-2 training phrase, of its longest, word pieces per word.
MEAN, LONGEST, PIECES = 9.4, 52, 1.2
HOPELESS = 5.0  # times as long in bfloat16, without warm-up: a processor without such arithmetic
FIRST, PASS_S = 128, 3.0  # sentences to begin with, and about how many seconds one pass over them may take
SIZES: dict[str, Callable[[], Any]] = {
    "BERT-large": lambda: BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "BERT-base": BertConfig,
    "OpenAI GPT": OpenAIGPTConfig,
    "ELMo": lambda: None,
    "BiLSTM 300": lambda: {"hidden": 300, "fc": 400},
    "BiLSTM 150": lambda: {"hidden": 150, "fc": 200},
}
Batch = tuple[torch.Tensor, torch.Tensor]


# ------------------------------------------------------------------------------------------------ systems


def build(name: str, size: Any = None) -> nn.Module:
    """A system of the paper with random weights, in float32 and evaluation mode.

    Args:
        name: one of ``SIZES``. size: in place of the paper's: a transformers config, or a dict of arguments for ELMo and BiLSTM.
    """
    if name not in SIZES:
        raise ValueError(f"systems: expected some of {', '.join(SIZES)}, but got {name!r}")
    size = size or SIZES[name]()
    model: nn.Module
    if name == "ELMo":
        model = ELMo(**(size or {}))
    elif name.startswith("BiLSTM"):
        words = [f"w{i}" for i in range(size.pop("words", VOCABULARY))]
        model = BiLSTM(words, (LONGEST,), outputs=2, **size)
    else:
        model = CrossEncoder(backbone_config=size.to_dict(), outputs=2)
    return model.eval().requires_grad_(False)


def lengths_like_sst2(n: int) -> np.ndarray:
    """int64 [n], longest first: words per sentence, the geometric distribution with mean 9.4 cut at 52.

    Quantiles, not draws: every n has the same distribution, that of SST-2's 67,350 training phrases (theirs: 1, 3, 7, 13, 21, 26 words at
    5, 25, 50, 75, 90, 95 %; here 1, 3, 7, 13, 21, 27).
    """
    share = (np.arange(n) + 0.5) / n
    words = np.ceil(np.log1p(-share) / np.log1p(-1 / MEAN))
    return np.clip(words, 1, LONGEST).astype(np.int64)[::-1].copy()


def zipf(generator: torch.Generator, vocabulary: int, shape: tuple[int, ...]) -> torch.Tensor:
    """int64 ids under ``vocabulary``, the first ones the most frequent, about as words are."""
    return (vocabulary ** torch.rand(shape, generator=generator)).long() % vocabulary


def batches_of(model: Any, lengths: np.ndarray, batch_size: int) -> list[Batch]:
    """ids [n, tokens] (ELMo: characters [n, words, 50]) and mask of sentences of these lengths, longest first.

    A batch holds at most ``batch_size`` sentences, and at most an eighth of all tokens, so that little of it is padding. ELMo computes no
    padding and reads large weights at every step: its batches are full.
    """
    if isinstance(model, CrossEncoder):
        ends = 2 * (model.encoder.config.model_type == "bert")  # [CLS] and [SEP]
        lengths = np.rint(PIECES * lengths).astype(np.int64) + ends
    generator = torch.Generator().manual_seed(0)
    found: list[Batch] = []
    start = 0
    while start < len(lengths):
        width = int(lengths[start])
        n = batch_size if isinstance(model, ELMo) else int(np.clip(lengths.sum() / 8 // width, 1, batch_size))
        mask = torch.arange(width)[None, :] < torch.from_numpy(lengths[start : start + n])[:, None]
        if isinstance(model, ELMo):
            ids = torch.randint(1, ELMo.CHARACTERS, (*mask.shape, 50), generator=generator)
        elif isinstance(model, BiLSTM):
            ids = 2 + zipf(generator, len(model.settings["words"]), tuple(mask.shape))
        else:
            ids = zipf(generator, model.encoder.config.vocab_size, tuple(mask.shape))
        found.append((ids, mask))
        start += n
    return found


def look_up(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What a system fetches for each word on its own: vectors, of ELMo the character network's, of the BiLSTM on a CPU its gates."""
    if isinstance(model, ELMo):
        return model.look_up(ids, mask)
    if isinstance(model, BiLSTM):
        return model.look_up(ids, mask) if ids.device.type == "cpu" else vectors_of(model, ids)
    return model.encoder.get_input_embeddings()(ids)  # type: ignore[no-any-return]


def rest(model: Any, looked_up: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The logits [n, 2] from what was looked up."""
    if isinstance(model, ELMo):
        return model.read(looked_up, mask)
    if isinstance(model, BiLSTM):
        if looked_up.device.type == "cpu":
            return head(model, model.states(looked_up, mask.sum(1)))
        return head(model, packed_states(model, looked_up, mask.sum(1)))
    hidden = model.encoder(inputs_embeds=looked_up, attention_mask=mask).last_hidden_state
    return model.output(mean_of(hidden, mask))  # type: ignore[no-any-return]


def whole(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The logits [n, 2] from ids."""
    return rest(model, look_up(model, ids, mask), mask)


def parameters_of(model: Any) -> tuple[int, int]:
    """All parameters, and those of them that only ``look_up`` reads (with a transformer's positions and types)."""
    tables: list[Any]
    if isinstance(model, ELMo):
        tables = model.look_up_parameters()
    else:
        tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in tables)


def count_parameters(systems: Sequence[str] = tuple(SIZES)) -> pd.DataFrame:
    """Parameters of systems, in all and without those of the look-up; no weight is made."""
    lines = []
    for name in systems:
        with torch.device("meta"):
            total, tables = parameters_of(build(name))
        paper = published.TABLE_2.get(name)
        stated = f"{paper.parameters:g} M" if paper else "–"
        lines.append(
            {"system": name, "parameters": total, "without look-up": total - tables, "published": stated}
        )
    return pd.DataFrame(lines)


def flops_of(model: nn.Module) -> tuple[float, float]:
    """FLOPs per sentence of matrix products, whole and without look-up: mean of 8 sentences of the distribution, without padding."""
    counts = []
    for length in lengths_like_sst2(8):
        ids, mask = batches_of(model, np.array([length]), 1)[0]
        found = look_up(model, ids, mask)
        counts.append(
            (
                speed.count_flops(partial(whole, model, ids, mask)),
                speed.count_flops(partial(rest, model, found, mask)),
            )
        )
    everything, without = np.mean(counts, axis=0).tolist()
    return everything, without


# ------------------------------------------------------------------------------------------------ the clock


@dataclass
class Entry:
    """One system on one device in one dtype.

    Attributes:
        batches: ids and mask. looked_up: what ``look_up`` makes of each. times: seconds per sentence, ``whole`` and ``rest``, per turn.
    """

    name: str
    device: str
    dtype: str
    model: Any
    flops: tuple[float, float]
    batches: list[Batch] = field(default_factory=list)
    looked_up: list[torch.Tensor] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=lambda: {"whole": [], "rest": []})

    @property
    def sentences(self) -> int:
        return sum(len(mask) for _, mask in self.batches)

    def load(self, lengths: np.ndarray, batch_size: int) -> None:
        """Take sentences of these lengths and look them up; the first pass is warm-up."""
        self.batches = [
            (i.to(self.device), m.to(self.device)) for i, m in batches_of(self.model, lengths, batch_size)
        ]
        self.looked_up = []
        self.looked_up = [look_up(self.model, *batch) for batch in self.batches]

    def seconds(self, part: str) -> float:
        """Seconds of one pass over all sentences."""
        calls: list[Callable[[], Any]] = (
            [partial(whole, self.model, *batch) for batch in self.batches]
            if part == "whole"
            else [
                partial(rest, self.model, x, mask)
                for x, (_, mask) in zip(self.looked_up, self.batches, strict=True)
            ]
        )
        return passed(calls, self.device)

    def fields(self, peaks: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """What is stored of it: seconds are per sentence, FLOPs those without padding."""
        total, tables = parameters_of(self.model)
        tokens, places = (sum(int(f(m)) for _, m in self.batches) for f in (torch.sum, torch.numel))
        found: dict[str, Any] = {
            "system": self.name,
            "device": self.device,
            "dtype": self.dtype,
            "sentences": self.sentences,
            "batch_size": max(len(m) for _, m in self.batches),
            "padding": 0.0 if isinstance(self.model, ELMo) else 1 - tokens / places,
            "params_total": total,
            "params_look_up": tables,
            "flops": self.flops[0],
            "flops_rest": self.flops[1],
        }
        for part, name in (("whole", "seconds"), ("rest", "rest_seconds")):
            found |= quartiles(self.times[part], name)
        found["peak_fraction"] = self.flops[0] / found["seconds"] / 1e9 / peaks[self.device][self.dtype]
        return found


@torch.inference_mode()
def passed(calls: Iterable[Callable[[], Any]], device: str = "cpu") -> float:
    """Seconds until all calls are done."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    wait()
    begun = time.perf_counter()
    for call in calls:
        call()
    wait()
    return time.perf_counter() - begun


def quartiles(times: Sequence[float], name: str) -> dict[str, float]:
    """Median, first and third quartile as ``name``, ``name_q1``, ``name_q3``."""
    low, middle, high = np.percentile(times, [25, 50, 75]).tolist()
    return {name: middle, f"{name}_q1": low, f"{name}_q3": high}


def enter(
    name: str, sentences: int, batch_size: int, device: str, size: Any = None
) -> tuple[list[Entry], dict[str, Any] | None]:
    """A system in float32, and in bfloat16 where that is faster; else how much slower it was.

    It gets as many sentences, in doublings from 128 (ELMo: 256, see ``batches_of``), as one pass of some seconds can take.
    """
    model: Any = build(name, size)
    if isinstance(model, BiLSTM):
        model.gates()  # once per vocabulary: part of no sentence
    entry = Entry(name, device, "float32", model, flops_of(model))
    model.to(device)
    n = min(2 * FIRST if isinstance(model, ELMo) else FIRST, sentences)
    entry.load(lengths_like_sst2(n), batch_size)
    entry.seconds("whole")
    half = Entry(name, device, "bfloat16", copy.deepcopy(model).bfloat16(), entry.flops)
    half.load(lengths_like_sst2(n), batch_size)
    if (ratio := half.seconds("whole") / entry.seconds("whole")) > HOPELESS:
        return [entry], {"system": name, "device": device, "dtype": "bfloat16", "ratio": ratio}
    while (pass_s := entry.seconds("whole")) < PASS_S / 2 and n < sentences:
        n = min(2 * n, sentences)
        entry.load(lengths_like_sst2(n), batch_size)
    half.load(lengths_like_sst2(n), batch_size)
    half.seconds("whole")
    ratio = half.seconds("whole") / pass_s
    if ratio < 1:
        return [entry, half], None
    return [entry], {"system": name, "device": device, "dtype": "bfloat16", "ratio": ratio}


def measure(
    out: str | Path,
    clock: str = "missing",
    *,
    systems: Sequence[str] = tuple(SIZES),
    sentences: int = 8192,
    batch_size: int = 512,
    repeats: int = 5,
    threads: int = 0,
    fuse: bool = True,
    sizes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Clock the systems in turns and keep the numbers in ``architectures.json`` of a results folder; nothing else may run meanwhile.

    Args:
        clock: ``missing`` takes what is stored if it was measured so on this machine, ``all`` measures anew, ``none`` only reads.
        systems: of ``SIZES``. sentences, batch_size: at most so many; how many each system got is stored. repeats: turns.
        threads: for torch; 0 leaves its own choice. fuse: clock torch.compile's BiLSTM too, whose compilation takes the better part of a
            minute. sizes: in place of the paper's, for a trial.

    Returns:
        machine, systems (one dict per system, device and dtype), slower (what bfloat16 did not make faster), parts (seconds per sentence of
        the parts of the smallest BiLSTM), ways (of computing it on a CPU).
    """
    if clock not in {"none", "missing", "all"}:
        raise ValueError(f"clock: expected none, missing or all, but got {clock!r}")
    if threads:
        torch.set_num_threads(threads)
    given = {
        "systems": list(systems),
        "sentences": sentences,
        "batch_size": batch_size,
        "repeats": repeats,
        "fuse": fuse,
    }
    here = {**results.environment(), "device_name": results.device_name(), "threads": torch.get_num_threads()}
    path = Path(out) / FILE
    if clock == "none" or (clock == "missing" and path.exists()):
        stored = load(out)
        same = stored["parameters"] == given and here.items() <= stored["machine"].items()
        if clock == "none" or same:
            return stored
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with torch.no_grad():
        peaks = {device: peak_of(device) for device in devices}
        entries, slower = [], []
        for name in progress.track(systems, "building and warming up"):
            for device in devices:
                found, slow = enter(
                    name, sentences, batch_size, device, copy.deepcopy((sizes or {}).get(name))
                )
                entries += found
                slower += [slow] if slow else []
        for entry in progress.track(entries * repeats, "architectures in turns"):
            for part, times in entry.times.items():
                times.append(entry.seconds(part) / entry.sentences)
        base = next((e for e in entries if (e.name, e.device, e.dtype) == (BASE, "cpu", "float32")), None)
        parts, ways = parts_and_ways(base, repeats, fuse) if base else ({}, [])
    rows = [{**entry.fields(peaks), "repeats": repeats} for entry in entries]
    machine = {**here, "clock_id": uuid.uuid4().hex[:12], "peak_gflops": peaks}
    content = {
        "schema": SCHEMA, "created_utc": datetime.now(UTC).isoformat(timespec="seconds"), "parameters": given, "machine": machine,
        "systems": rows, "slower": slower, "parts": parts, "ways": ways,
    }  # fmt: skip
    results_folder.mark_ours(Path(out))
    results.write_hashed(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode("utf8"))
    return content


def peak_of(device: str) -> dict[str, float]:
    """Measured matrix product in GFLOP/s by dtype."""
    found = speed.ceiling(device=device)
    return {dtype: found[f"peak_gflops_{dtype}"] for dtype in ("float32", "bfloat16")}


def parts_and_ways(entry: Entry, repeats: int, fuse: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Where the BiLSTM's time goes, and how else it can be computed: median seconds per sentence, in turns.

    Before logits are compared they are scaled to a standard deviation of 3, about that of a trained student's: random weights give small
    ones, and differences with them.
    """
    model: Any = entry.model
    logits = torch.cat([packed(model, *batch) for batch in entry.batches])
    model.head.output.weight *= 3 / logits.std()
    states = [model.states(x, m.sum(1)) for x, (_, m) in zip(entry.looked_up, entry.batches, strict=True)]
    parts: dict[str, list[Callable[[], Any]]] = {
        "look-up": [partial(look_up, model, *batch) for batch in entry.batches],
        "recurrence": [
            partial(model.states, x, m.sum(1))
            for x, (_, m) in zip(entry.looked_up, entry.batches, strict=True)
        ],
        "head": [partial(head, model, s) for s in states],
    }
    ways, problem = ways_of(model, *entry.batches[0], fuse)
    calls: dict[str, list[Callable[[], Any]]] = {
        **parts,
        **{name: [partial(way, *b) for b in entry.batches] for name, way in ways.items()},
    }
    for contestant in calls.values():
        passed(contestant)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name in progress.track(list(calls) * repeats, "ways of the BiLSTM in turns"):
        times[name].append(passed(calls[name]) / entry.sentences)
    textbook = next(iter(ways))
    expected = torch.cat([packed(model, *batch) for batch in entry.batches])
    rows = [
        {
            "way": name,
            **quartiles(times[name], "seconds"),
            "speedup": float(np.median(times[textbook]) / np.median(times[name])),
            "difference": float((torch.cat([way(*b) for b in entry.batches]).float() - expected).abs().max()),
            "problem": "",
        }
        for name, way in ways.items()
    ]
    if problem:
        nothing = dict.fromkeys(("seconds", "seconds_q1", "seconds_q3", "speedup", "difference"))
        rows.append({"way": COMPILED, **nothing, "problem": problem})
    return {name: float(np.median(times[name])) for name in parts}, rows
