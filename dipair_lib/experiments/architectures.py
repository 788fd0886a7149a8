"""How fast the systems of Tang et al. 2019 are on this machine, at the paper's sizes and without any quality:
random weights, no download.

What a weight is worth does not change how long it takes to multiply by it, so nothing is trained and nothing
is said about quality; the numbers stay out of every comparison that has one. Sentences have the lengths of
SST-2's training phrases. Everything is clocked in turns in one session, kept in ``architectures.json`` beside
the rows of a results folder, and shown beside the paper's Table 2.
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
import torch

from dipair_lib.evaluation import clocks, provenance, results_folder
from dipair_lib.evaluation.architecture_rows import FILE, SCHEMA, load
from dipair_lib.experiments import paper_systems
from dipair_lib.experiments.paper_systems import Batch
from dipair_lib.models import BiLSTM
from dipair_lib.models.elmo import ELMo
from dipair_lib.models.lstm_ways import COMPILED, head, packed, ways_of
from dipair_lib.reporting.architecture_table import BASE
from dipair_lib.system import disk, progress

HOPELESS = 5.0  # times as long in bfloat16, without warm-up: a processor without such arithmetic
FIRST, PASS_S = 128, 3.0  # sentences to begin with, and about how many seconds one pass over them may take


@dataclass
class Entry:
    """One system on one device in one dtype.

    Attributes:
        batches: ids and mask.
        looked_up: what ``look_up`` makes of each.
        times: seconds per sentence, ``whole`` and ``rest``, per turn.
    """

    name: str
    device: str
    dtype: str
    model: paper_systems.System
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
            (i.to(self.device), m.to(self.device))
            for i, m in paper_systems.batches_of(self.model, lengths, batch_size)
        ]
        self.looked_up = []
        self.looked_up = [paper_systems.look_up(self.model, *batch) for batch in self.batches]

    def seconds(self, part: str) -> float:
        """Seconds of one pass over all sentences."""
        calls: list[Callable[[], Any]] = (
            [partial(paper_systems.whole, self.model, *batch) for batch in self.batches]
            if part == "whole"
            else [
                partial(paper_systems.rest, self.model, x, mask)
                for x, (_, mask) in zip(self.looked_up, self.batches, strict=True)
            ]
        )
        return passed(calls, self.device)

    def fields(self, peaks: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """What is stored of it: seconds are per sentence, FLOPs those without padding."""
        total, tables = paper_systems.parameters_of(self.model)
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

    It gets as many sentences, in doublings from 128 (ELMo: 256, see ``batches_of``), as one pass of some
    seconds can take.
    """
    model = paper_systems.build(name, size)
    if isinstance(model, BiLSTM):
        model.gates()  # once per vocabulary: part of no sentence
    entry = Entry(name, device, "float32", model, paper_systems.flops_of(model))
    model.to(device)
    n = min(2 * FIRST if isinstance(model, ELMo) else FIRST, sentences)
    entry.load(paper_systems.lengths_like_sst2(n), batch_size)
    entry.seconds("whole")
    half = Entry(name, device, "bfloat16", copy.deepcopy(model).bfloat16(), entry.flops)
    half.load(paper_systems.lengths_like_sst2(n), batch_size)
    if (ratio := half.seconds("whole") / entry.seconds("whole")) > HOPELESS:
        return [entry], {"system": name, "device": device, "dtype": "bfloat16", "ratio": ratio}
    while (pass_s := entry.seconds("whole")) < PASS_S / 2 and n < sentences:
        n = min(2 * n, sentences)
        entry.load(paper_systems.lengths_like_sst2(n), batch_size)
    half.load(paper_systems.lengths_like_sst2(n), batch_size)
    half.seconds("whole")
    ratio = half.seconds("whole") / pass_s
    if ratio < 1:
        return [entry, half], None
    return [entry], {"system": name, "device": device, "dtype": "bfloat16", "ratio": ratio}


def measure(
    out: str | Path,
    clock: str = "missing",
    *,
    systems: Sequence[str] = tuple(paper_systems.SIZES),
    sentences: int = 8192,
    batch_size: int = 512,
    repeats: int = 5,
    threads: int = 0,
    fuse: bool = True,
    sizes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Clock the systems in turns and keep the numbers in ``architectures.json`` of a results folder; nothing
    else may run meanwhile.

    Args:
        clock: ``missing`` takes what is stored if it was measured so on this machine, ``all`` measures anew,
            ``none`` only reads.
        systems: of ``SIZES``.
        sentences, batch_size: at most so many; how many each system got is stored.
        repeats: turns.
        threads: for torch; 0 leaves its own choice.
        fuse: clock torch.compile's BiLSTM too, whose compilation takes the better part of a minute.
        sizes: in place of the paper's, for a trial.

    Returns:
        machine, systems (one dict per system, device and dtype), slower (what bfloat16 did not make faster),
        parts (seconds per sentence of the parts of the smallest BiLSTM), ways (of computing it on a CPU).
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
    here = {
        **provenance.environment(),
        "device_name": provenance.device_name(),
        "threads": torch.get_num_threads(),
    }
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
    disk.write_hashed(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode("utf8"))
    return content


def peak_of(device: str) -> dict[str, float]:
    """Measured matrix product in GFLOP/s by dtype."""
    found = clocks.ceiling(device=device)
    return {dtype: found[f"peak_gflops_{dtype}"] for dtype in ("float32", "bfloat16")}


def parts_and_ways(entry: Entry, repeats: int, fuse: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Where the BiLSTM's time goes, and how else it can be computed: median seconds per sentence, in turns.

    Before logits are compared they are scaled to a standard deviation of 3, about that of a trained
    student's: random weights give small ones, and differences with them.
    """
    model: Any = entry.model
    logits = torch.cat([packed(model, *batch) for batch in entry.batches])
    model.head.output.weight *= 3 / logits.std()
    states = [model.states(x, m.sum(1)) for x, (_, m) in zip(entry.looked_up, entry.batches, strict=True)]
    parts: dict[str, list[Callable[[], Any]]] = {
        "look-up": [partial(paper_systems.look_up, model, *batch) for batch in entry.batches],
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
    for contender in calls.values():
        passed(contender)
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
