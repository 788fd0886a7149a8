"""What people would use instead, on the same pairs, labels, threads and machine, in turns:
sentence-transformers, ONNX Runtime, OpenVINO, FAISS, static vectors. Needs the extra ``peers``; everything is
made from the teacher and the backbone at hand, nothing is downloaded.

Only pairs whose texts no system truncates take part: all then read the same word pieces, and whatever scores
the teacher's pairs must give the teacher's logits.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dipair_lib import inference, models, training
from dipair_lib.data import loading
from dipair_lib.evaluation import benchmarks, bootstrap, clocks, provenance, results, schema
from dipair_lib.experiments import peer_files, peer_systems
from dipair_lib.experiments.peer_files import Setting
from dipair_lib.experiments.peer_systems import Entry, Peer
from dipair_lib.inference import encoder_dtype, in_dtype
from dipair_lib.models import offline
from dipair_lib.models.backbone import load_tokenizer
from dipair_lib.models.tokens import tokenize
from dipair_lib.reporting import derived, wording
from dipair_lib.system import disk, progress

MEMORY_PAIRS = 64


def compare(
    out: Path | str,
    run: str,
    *,
    pairs: int = 1500,
    clocked: int = 256,
    side: int = 4096,
    turns: int = 5,
) -> pd.DataFrame:
    """Quality, speed and memory of every peer, one line each, as ``derived.frame`` gives them, further
    columns: ``system``, ``library``, ``encode_per_s`` (texts of the right side, raw text to vectors),
    ``peak_bytes`` (resident memory of a fresh process that loads the system and scores some pairs) and
    ``off`` (largest difference from the teacher's float32 logits, of who scores with the teacher).

    Args:
        run: a student of the results folder.
        pairs: labelled test pairs for quality, whole groups.
        clocked: of them on the clock.
        side: texts of each side that are searched.
        turns: on the clock, after one of warm-up.

    A cross-encoder's clock counts every step from two raw texts to a score. The others' is the search for the
    ``TOP`` best right texts of each left one, all vectors at hand, as pairs per second.

    Raises:
        ValueError: packages are missing, or the task is not one of pairs with one score.
    """
    if peer_systems.missing():
        raise ValueError(f"comparing needs {', '.join(peer_systems.missing())}: pip install -e '.[peers]'")
    row = results.load_result(out, results.load_result(out, run).teacher_run or "")
    if row.teacher_kind in {"brought", "scores"}:
        raise ValueError(
            f"{row.model}: expected a teacher that was trained here: of another's head no second library has a copy: leave compare at False"
        )
    task = loading.load_run_task(json.loads(row.parameters))
    if len(task.fields) != 2 or training.outputs_for(len(task.classes)) != 1:
        raise ValueError(
            f"{row.task}: expected pairs with two classes or a grade, but it has {len(task.fields)} fields and {len(task.classes)} classes"
        )
    frame = whole(task.test, task.fields, row, pairs)
    texts = [frame[name].tolist() for name in task.fields]
    labels, groups = frame["label"].to_numpy(), frame["group"].to_numpy()
    every = pd.concat([task.test, task.dev, task.train])
    sides = [
        untruncated(every[f].drop_duplicates(), row, n).tolist()[:side] for n, f in enumerate(task.fields)
    ]
    setting = Setting(str(out), row.run_id, str(Path(out) / "scale" / "peers"), torch.get_num_threads())
    known = peer_systems.entries(out, run)
    others = whole(task.train, task.fields, row, peer_files.CALIBRATED)  # never test pairs
    peer_files.make_all(setting, [others[name].tolist() for name in task.fields])
    built = [peer_systems.build(entry, setting) for entry in progress.track(known, "loading")]
    scores = [peer.score(*texts) for peer in progress.track(built, "quality")]
    found = clock(built, [t[:clocked] for t in texts], sides, turns)
    teacher = found[0]["combine"]
    lines, extra = [], []
    for entry, score, times in zip(known, scores, found, strict=True):
        measured = bootstrap.interval(
            task.metrics[0], labels, logits_of(score), groups, teacher_logits=logits_of(scores[0])
        )
        lines.append(
            as_row(entry, row, measured, times, teacher, len(frame), len(np.unique(groups)), setting)
        )
        extra.append(
            {
                "system": entry.system,
                "library": entry.library,
                "encode_per_s": 1 / times["encode"][1] if "encode" in times else math.nan,
                "off": float(np.abs(score - scores[0]).max()) if entry.system == "teacher" else math.nan,
                "peak_bytes": peak_bytes(entry, setting, [t[:MEMORY_PAIRS] for t in texts]),
            }
        )
    data = derived.frame(lines)
    return data.join(pd.DataFrame(extra, index=[line.run_id for line in lines]))


def whole(frame: pd.DataFrame, fields: Sequence[str], row: schema.Result, most: int) -> pd.DataFrame:
    """Rows whose texts are read whole, group by group until there are so many."""
    for number, name in enumerate(fields):
        frame = frame[frame[name].isin(set(untruncated(frame[name].drop_duplicates(), row, number)))]
    ends = frame.groupby("group", sort=False).size().cumsum()
    return frame[frame["group"].isin(ends.index[: max(2, int((ends <= most).sum()))])].reset_index(drop=True)


@offline.only()
def untruncated(texts: pd.Series, row: schema.Result, field: int) -> pd.Series:
    """Texts that a field's read length does not cut."""
    tokenizer = load_tokenizer(row.backbone or "embedded")
    length = training.lengths_of(row)[field]
    counted = tokenizer(texts.tolist(), truncation=True, max_length=length + 1)["input_ids"]
    return texts[[len(ids) <= length for ids in counted]]


def logits_of(scores: np.ndarray) -> np.ndarray:
    """[pairs] -> [pairs, 1]."""
    return np.asarray(scores, np.float64).reshape(len(scores), -1)


def clock(
    peers: Sequence[Peer], pairs: Sequence[Sequence[str]], sides: Sequence[Sequence[str]], turns: int
) -> list[dict[str, Any]]:
    """Of each peer the quartiles of its seconds: ``combine`` per pair, ``encode`` per text where it encodes;
    ``bytes`` of a text.
    """
    calls: list[dict[str, tuple[Callable[[], Any], int]]] = []
    found: list[dict[str, Any]] = []
    some = sides[1][: len(pairs[0])]
    for peer in progress.track(peers, "encoding what is searched"):
        calls.append({"combine": (partial(peer.score, *pairs), len(pairs[0]))})
        found.append({})
        if peer.search and peer.encode:
            search, found[-1]["bytes"] = peer.search(*sides)
            calls[-1] = {
                "combine": (search, len(sides[0]) * len(sides[1])),
                "encode": (partial(peer.encode, some), len(some)),
            }
    times: list[dict[str, list[float]]] = [{name: [] for name in one} for one in calls]
    for _ in progress.track(range(turns + 1), "clocking"):
        for one, seen in zip(calls, times, strict=True):
            for name, (call, units) in one.items():
                seen[name].append(benchmarks.timed(call) / units)
    for known, seen in zip(found, times, strict=True):
        known |= {name: np.quantile(seconds[1:], (0.25, 0.5, 0.75)) for name, seconds in seen.items()}
    return found


def as_row(
    entry: Entry, row: schema.Result, measured: dict[str, Any], times: dict[str, Any], teacher: np.ndarray, n: int, n_groups: int,
    setting: Setting,
) -> schema.Result:  # fmt: skip
    """A peer's line in the schema of every result."""
    q1, middle, q3 = (float(v) for v in times["combine"])
    own = entry.build == "own_teacher" and entry.dtype == "float32"
    run_id = (
        row.run_id
        if own
        else results.slug(f"06_scale-{entry.system}-{entry.library}-{entry.dtype}-{entry.run}")
    )
    encode = [float(v) for v in times["encode"]] if "encode" in times else [None] * 3
    known: dict[str, Any] = {**asdict(row), **provenance.environment(), **provenance.git_state(), **measured}
    dropped = (
        "params",
        "flops",
        "latency",
        "tokenize",
        "encode",
        "peak",
        "copy",
        "teacher_fastest",
        "loss",
        "seed",
        "steps",
        "train_seconds",
    )
    known = {name: None if name.startswith(dropped) else value for name, value in known.items()}
    return schema.Result(
        **{
            **known, "run_id": run_id, "notebook": "06_scale", "model": label(entry),
            "family": entry.family, "n_examples": n, "n_groups": n_groups, "teacher_run": row.run_id, "quality_dtype": entry.dtype,
            "dtype": entry.dtype, "threads": setting.threads, "device": "cpu", "device_name": provenance.device_name("cpu"),
            "metrics": None,
            "combine_s_per_pair": middle, "combine_s_per_pair_q1": q1, "combine_s_per_pair_q3": q3,
            "noisy": (q3 - q1) / middle > clocks.NOISY, "encode_s_per_text": encode[1], "encode_s_per_text_q1": encode[0],
            "encode_s_per_text_q3": encode[2], "bytes_per_text": times.get("bytes"), "teacher_s_per_pair": float(teacher[1]),
            "head": None, "keep": None, "projection": None,
        }
    )  # fmt: skip


def encoding(out: Path | str, run: str, n: int = 512, turns: int = 5) -> pd.DataFrame:
    """Raw texts to vectors, in turns: sentence-transformers in float32, and a cosine student with the same
    untrained encoder in float32 and in the dtype that is faster here. One line each: ``by``, ``dtype``,
    ``texts_per_s`` (median; ``_low``, ``_high`` from quartiles), ``least_cosine`` with sentence-transformers'
    vectors.

    Args:
        run: any student; what is clocked is the frozen cosine of its teacher's run.
        n: texts of the right side.

    Raises:
        ResultError: there is no such row.
    """
    asked = results.load_result(out, run)
    beside = [r for r in results.load_results(out, "warn") if r.teacher_run == asked.teacher_run]
    row = next((r for r in beside if r.notebook == "01_teacher" and r.head == "cosine"), None)
    if row is None:
        raise disk.ResultError(f"{out}: expected the frozen cosine of {asked.task}: run 01_teacher first")
    task = loading.load_run_task(json.loads(row.parameters))
    texts = untruncated(task.train[task.fields[1]].drop_duplicates(), row, 1).tolist()[:n]
    setting = Setting(str(out), row.teacher_run or "", "", torch.get_num_threads())
    theirs = peer_systems.build(Entry("", "", "float32", "st_vectors", ""), setting).encode
    model: Any = models.load(results.row_folder(out, row.run_id) / "model")
    ways: dict[tuple[str, str], Callable[[Sequence[str]], np.ndarray]] = {}
    if theirs:
        ways["sentence-transformers", "float32"] = theirs
    for dtype in dict.fromkeys(("float32", encoder_dtype("auto"))):
        ways["dipair-lab", dtype] = partial(vectors_of, in_dtype(model, dtype))
    vectors = [call(texts) for call in ways.values()]
    times: list[list[float]] = [[] for _ in ways]
    for _ in progress.track(range(turns), "clocking encoders"):
        for call, seen in zip(ways.values(), times, strict=True):
            seen.append(benchmarks.timed(partial(call, texts)))
    lines = []
    for (by, dtype), seen, own in zip(ways, times, vectors, strict=True):
        high, middle, low = (len(texts) / seconds for seconds in np.quantile(seen, (0.25, 0.5, 0.75)))
        least = float(np.einsum("nd,nd->n", own, vectors[0]).min())
        lines.append((by, dtype, middle, low, high, least))
    return pd.DataFrame(
        lines, columns=["by", "dtype", "texts_per_s", "texts_per_s_low", "texts_per_s_high", "least_cosine"]
    )


def vectors_of(model: models.PairModel, texts: Sequence[str]) -> np.ndarray:
    """Unit vectors float32 [texts, width] of the right field's texts by a cosine student."""
    tokens = tokenize(model.tokenizer, list(texts), model.read_lengths[1])
    with torch.inference_mode():
        return inference.prepare_all(model, tokens, 1, what="")[0].numpy()


def label(entry: Entry) -> str:
    """A peer's name in a picture: of the teacher, which all of one kind are, what differs; versions stand in
    the table.
    """
    by = re.sub(r" [\d.]+", "", entry.library)
    return (
        f"{by}, {entry.dtype}"
        if entry.system == "teacher"
        else f"{entry.system}{' (FAISS)' if 'faiss' in by else ''}"
    )


def shown(data: pd.DataFrame) -> pd.DataFrame:
    """The comparison for people."""
    return pd.DataFrame(
        {
            "system": data["system"].to_numpy(),
            "by": data["library"].to_numpy(),
            "dtype": data["dtype"].to_numpy(),
            "quality": [wording.within(r.quality, r.quality_low, r.quality_high) for r in data.itertuples()],
            "pairs/s": [wording.si(v) for v in data["pairs_per_s"]],
            "of the teacher's speed": [wording.times(v) for v in data["speedup"]],
            "texts encoded/s": [wording.si(v) for v in data["encode_per_s"]],
            "bytes per text": [wording.si(v, "B") for v in data["bytes_per_text"]],
            "peak memory": [wording.si(v, "B") for v in data["peak_bytes"]],
            "off the teacher's logits": [
                f"{v:.1e}" if wording.known(v) else wording.DASH for v in data["off"]
            ],
        }
    )


# --- memory -----------------------------------------------------------------------------------------------------------------------


def peak_bytes(entry: Entry, setting: Setting, texts: Sequence[Sequence[str]]) -> float:
    """Resident memory at its peak of a fresh process that loads a system and scores some pairs; NaN where the
    system does not say (not Linux).
    """
    asked = json.dumps({"entry": asdict(entry), "setting": setting, "texts": texts})
    command = [
        sys.executable,
        "-c",
        "import sys; from dipair_lib.experiments import peers; peers.measure_memory(sys.stdin.read())",
    ]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{entry.system} by {entry.library}: failed in a process of its own: {done.stderr[-500:]}"
        )
    return float(done.stdout.split()[-1])


def measure_memory(asked: str) -> None:
    """Build, score, and print the process's peak: the other end of ``peak_bytes``."""
    given = json.loads(asked)
    setting = Setting(*given["setting"])
    torch.set_num_threads(setting.threads)
    peer_systems.build(Entry(**given["entry"]), setting).score(*given["texts"])
    status = Path("/proc/self/status")
    kept = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    print(int(kept[1]) * 1024 if kept else math.nan)
