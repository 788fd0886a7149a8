"""What people would use instead, on the same pairs, labels, threads and machine, in turns: sentence-transformers, ONNX Runtime, OpenVINO,
FAISS, static vectors. Needs the extra ``peers``; everything is made from the teacher and the backbone at hand, nothing is downloaded.

Only pairs whose texts no system truncates take part: all then read the same word pieces, and whatever scores the teacher's pairs must
give the teacher's logits.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA

from . import collection, models, progress, quality, results, scoring, speed, tradeoff, training
from .models import offline
from .models.backbone import load_backbone, load_tokenizer, locate, quiet_transformers
from .models.tokens import length_sorted, tokenize
from .training import encoder_dtype, in_dtype

NEEDS = (
    "sentence_transformers",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "nncf",
    "faiss",
    "model2vec",
)
BATCH = 32  # pairs or texts a library is given at once, where it does not choose itself
TOP = 10
MEMORY_PAIRS = 64
CALIBRATED = 128  # training pairs that int8 is calibrated on


class Setting(NamedTuple):
    """Where everything is: the results folder, the run of the teacher, a folder for what is made of it, threads."""

    out: str
    teacher: str
    made: str
    threads: int


@dataclass(frozen=True)
class Peer:
    """One system, ready to run.

    Attributes:
        score: texts of both sides, aligned -> scores [pairs]; every step from raw text on. encode: texts of the right side -> their
            vectors; None where nothing is done once per text. search: distinct texts of both sides -> a call that finds the ``TOP`` best
            right texts of each left one among encoded texts, and the bytes a text takes.
    """

    score: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    encode: Callable[[Sequence[str]], np.ndarray] | None = None
    search: Callable[[Sequence[str], Sequence[str]], tuple[Callable[[], Any], float]] | None = None


@dataclass(frozen=True)
class Entry:
    """A peer by name: what a person would call it, its family (see ``tradeoff.FAMILIES``), the dtype it computes in, what builds it, and
    for which of our students."""

    system: str
    family: str
    dtype: str
    build: str
    library: str
    run: str = ""


def missing() -> list[str]:
    """Packages of the extra that are not installed."""
    return [name for name in NEEDS if importlib.util.find_spec(name) is None]


def entries(out: Path | str, run: str) -> list[Entry]:
    """Everyone who takes part: the teacher by four libraries, vectors by two, and our students: the one asked for and, beside it, the
    cosines of the same teacher's folder, frozen and trained."""
    st, faiss = (f"{name} {version(name)}" for name in ("sentence-transformers", "faiss-cpu"))
    ort, ov = f"ONNX Runtime {version('onnxruntime')}", f"OpenVINO {version('openvino').split('-')[0]}"
    found = [
        Entry("teacher", "cross-encoder", dtype, build, library)
        for build, library, dtypes in (
            ("own_teacher", "dipair-lab", ("float32", "bfloat16")),
            ("st_teacher", st, ("float32", "bfloat16")),
            ("ort_teacher", ort, ("float32", "int8")),
            ("ov_teacher", ov, ("bfloat16", "int8")),
        )
        for dtype in dtypes
    ]
    found.append(Entry("backbone's cosine", "dual-encoder", "float32", "st_vectors", f"{st} + {faiss} flat"))
    found.append(
        Entry(
            "static vectors",
            "static",
            "float32",
            "static_vectors",
            f"model2vec {version('model2vec')} + {faiss} flat",
        )
    )
    own = results.load_result(out, run)
    cosines = {
        row.model: row
        for row in reversed(results.load_results(out, damaged="warn"))
        if row.teacher_run == own.teacher_run and row.head == "cosine"
        if (results.row_folder(out, row.run_id) / "model").is_dir()
    }
    for row in {own.run_id: own, **{row.run_id: row for row in cosines.values()}}.values():
        found.append(Entry(row.model, row.family, encoder_dtype(), "own_student", "dipair-lab", row.run_id))
    return found


def compare(
    out: Path | str,
    run: str,
    *,
    pairs: int = 1500,
    clocked: int = 256,
    side: int = 4096,
    turns: int = 5,
) -> pd.DataFrame:
    """Quality, speed and memory of every peer, one line each, as ``tradeoff.frame`` gives them, further columns: ``system``, ``library``,
    ``encode_per_s`` (texts of the right side, raw text to vectors), ``peak_bytes`` (resident memory of a fresh process that loads the
    system and scores some pairs) and ``off`` (largest difference from the teacher's float32 logits, of who scores with the teacher).

    Args:
        run: a student of the results folder. pairs: labelled test pairs for quality, whole groups. clocked: of them on the clock.
        side: texts of each side that are searched. turns: on the clock, after one of warm-up.

    A cross-encoder's clock counts every step from two raw texts to a score. The others' is the search for the ``TOP`` best right texts of
    each left one, all vectors at hand, as pairs per second.

    Raises:
        ValueError: packages are missing, or the task is not one of pairs with one score.
    """
    if missing():
        raise ValueError(f"comparing needs {', '.join(missing())}: pip install -e '.[peers]'")
    row = results.load_result(out, results.load_result(out, run).teacher_run or "")
    if row.teacher_kind in {"brought", "scores"}:
        raise ValueError(
            f"{row.model}: expected a teacher that was trained here: of another's head no second library has a copy: leave compare at False"
        )
    task = results.load_run_task(json.loads(row.parameters))
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
    known = entries(out, run)
    others = whole(task.train, task.fields, row, CALIBRATED)  # never test pairs
    make_all(setting, [others[name].tolist() for name in task.fields])
    built = [build(entry, setting) for entry in progress.track(known, "loading")]
    scores = [peer.score(*texts) for peer in progress.track(built, "quality")]
    found = clock(built, [t[:clocked] for t in texts], sides, turns)
    teacher = found[0]["combine"]
    lines, extra = [], []
    for entry, score, times in zip(known, scores, found, strict=True):
        measured = quality.interval(
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
    data = tradeoff.frame(lines)
    return data.join(pd.DataFrame(extra, index=[line.run_id for line in lines]))


def whole(frame: pd.DataFrame, fields: Sequence[str], row: results.Result, most: int) -> pd.DataFrame:
    """Rows whose texts are read whole, group by group until there are so many."""
    for number, name in enumerate(fields):
        frame = frame[frame[name].isin(set(untruncated(frame[name].drop_duplicates(), row, number)))]
    ends = frame.groupby("group", sort=False).size().cumsum()
    return frame[frame["group"].isin(ends.index[: max(2, int((ends <= most).sum()))])].reset_index(drop=True)


@offline.only()
def untruncated(texts: pd.Series, row: results.Result, field: int) -> pd.Series:
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
    """Of each peer the quartiles of its seconds: ``combine`` per pair, ``encode`` per text where it encodes; ``bytes`` of a text."""
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
                seen[name].append(speed.timed(call) / units)
    for known, seen in zip(found, times, strict=True):
        known |= {name: np.quantile(seconds[1:], (0.25, 0.5, 0.75)) for name, seconds in seen.items()}
    return found


def as_row(
    entry: Entry, row: results.Result, measured: dict[str, Any], times: dict[str, Any], teacher: np.ndarray, n: int, n_groups: int,
    setting: Setting,
) -> results.Result:  # fmt: skip
    """A peer's line in the schema of every result."""
    q1, middle, q3 = (float(v) for v in times["combine"])
    own = entry.build == "own_teacher" and entry.dtype == "float32"
    run_id = (
        row.run_id
        if own
        else results.slug(f"06_scale-{entry.system}-{entry.library}-{entry.dtype}-{entry.run}")
    )
    encode = [float(v) for v in times["encode"]] if "encode" in times else [None] * 3
    known: dict[str, Any] = {**asdict(row), **results.environment(), **results.git_state(), **measured}
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
    return results.Result(
        **{
            **known, "run_id": run_id, "notebook": "06_scale", "model": label(entry),
            "family": entry.family, "n_examples": n, "n_groups": n_groups, "teacher_run": row.run_id, "quality_dtype": entry.dtype,
            "dtype": entry.dtype, "threads": setting.threads, "device": "cpu", "device_name": results.device_name("cpu"), "metrics": None,
            "combine_s_per_pair": middle, "combine_s_per_pair_q1": q1, "combine_s_per_pair_q3": q3,
            "noisy": (q3 - q1) / middle > speed.NOISY, "encode_s_per_text": encode[1], "encode_s_per_text_q1": encode[0],
            "encode_s_per_text_q3": encode[2], "bytes_per_text": times.get("bytes"), "teacher_s_per_pair": float(teacher[1]),
            "head": None, "keep": None, "projection": None,
        }
    )  # fmt: skip


def encoding(out: Path | str, run: str, n: int = 512, turns: int = 5) -> pd.DataFrame:
    """Raw texts to vectors, in turns: sentence-transformers in float32, and a cosine student with the same untrained encoder in float32 and
    in the dtype that is faster here. One line each: ``by``, ``dtype``, ``texts_per_s`` (median; ``_low``, ``_high`` from quartiles),
    ``least_cosine`` with sentence-transformers' vectors.

    Args:
        run: any student; what is clocked is the frozen cosine of its teacher's run. n: texts of the right side.

    Raises:
        ResultError: there is no such row.
    """
    asked = results.load_result(out, run)
    beside = [r for r in results.load_results(out, "warn") if r.teacher_run == asked.teacher_run]
    row = next((r for r in beside if r.notebook == "01_teacher" and r.head == "cosine"), None)
    if row is None:
        raise results.ResultError(f"{out}: expected the frozen cosine of {asked.task}: run 01_teacher first")
    task = results.load_run_task(json.loads(row.parameters))
    texts = untruncated(task.train[task.fields[1]].drop_duplicates(), row, 1).tolist()[:n]
    setting = Setting(str(out), row.teacher_run or "", "", torch.get_num_threads())
    theirs = build(Entry("", "", "float32", "st_vectors", ""), setting).encode
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
            seen.append(speed.timed(partial(call, texts)))
    lines = []
    for (by, dtype), seen, own in zip(ways, times, vectors, strict=True):
        high, middle, low = (len(texts) / seconds for seconds in np.quantile(seen, (0.25, 0.5, 0.75)))
        least = float(np.einsum("nd,nd->n", own, vectors[0]).min())
        lines.append((by, dtype, middle, low, high, least))
    return pd.DataFrame(
        lines, columns=["by", "dtype", "texts_per_s", "texts_per_s_low", "texts_per_s_high", "least_cosine"]
    )


def vectors_of(model: Any, texts: Sequence[str]) -> np.ndarray:
    """Unit vectors float32 [texts, width] of the right field's texts by a cosine student."""
    tokens = tokenize(models.tokenizer_of(model), list(texts), model.read_lengths[1])
    with torch.inference_mode():
        return training.prepare_all(model, tokens, 1, what="")[0].numpy()


def label(entry: Entry) -> str:
    """A peer's name in a picture: of the teacher, which all of one kind are, what differs; versions stand in the table."""
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
            "quality": [tradeoff.within(r.quality, r.quality_low, r.quality_high) for r in data.itertuples()],
            "pairs/s": [tradeoff.si(v) for v in data["pairs_per_s"]],
            "of the teacher's speed": [tradeoff.times(v) for v in data["speedup"]],
            "texts encoded/s": [tradeoff.si(v) for v in data["encode_per_s"]],
            "bytes per text": [tradeoff.si(v, "B") for v in data["bytes_per_text"]],
            "peak memory": [tradeoff.si(v, "B") for v in data["peak_bytes"]],
            "off the teacher's logits": [
                f"{v:.1e}" if tradeoff.known(v) else tradeoff.DASH for v in data["off"]
            ],
        }
    )


# --- memory -----------------------------------------------------------------------------------------------------------------------


def peak_bytes(entry: Entry, setting: Setting, texts: Sequence[Sequence[str]]) -> float:
    """Resident memory at its peak of a fresh process that loads a system and scores some pairs; NaN where the system does not say (not
    Linux)."""
    asked = json.dumps({"entry": asdict(entry), "setting": setting, "texts": texts})
    command = [
        sys.executable,
        "-c",
        "import sys; from dipair_lib import peers; peers.measure_memory(sys.stdin.read())",
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
    build(Entry(**given["entry"]), setting).score(*given["texts"])
    status = Path("/proc/self/status")
    kept = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    print(int(kept[1]) * 1024 if kept else math.nan)


# --- the systems ------------------------------------------------------------------------------------------------------------------


def build(entry: Entry, setting: Setting) -> Peer:
    """Load a system."""
    with quiet_transformers(), torch.inference_mode():
        peer: Peer = BUILDERS[entry.build](entry, setting)
    return peer


def teacher_of(setting: Setting) -> Any:
    """The teacher, float32."""
    return models.load(results.row_folder(setting.out, setting.teacher) / "model")


def own_teacher(entry: Entry, setting: Setting) -> Peer:
    """The teacher as this project runs it."""
    model = in_dtype(teacher_of(setting), entry.dtype)
    return Peer(lambda left, right: scored(model, left, right))


def scored(model: Any, *sides: Sequence[str]) -> np.ndarray:
    """Scores [pairs] of raw texts by one of our models in its own dtype."""
    frame = pd.DataFrame({str(n): list(texts) for n, texts in enumerate(sides)})
    tokenizer = models.tokenizer_of(model)
    texts = models.tokens.read(tokenizer, frame, list(frame), model.read_lengths)
    dtype = str(next(model.encoder.parameters()).dtype).removeprefix("torch.")
    return training.predict(model, texts, dtype=dtype, device="cpu", what="")[:, 0]


def st_teacher(entry: Entry, setting: Setting) -> Peer:
    """The teacher as a sentence-transformers CrossEncoder: its encoder, the mean, its output layer."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    teacher = teacher_of(setting)
    width, outputs = teacher.output.in_features, teacher.output.out_features
    dense = Dense(width, outputs, activation_function=torch.nn.Identity(), module_output_name="scores")
    dense.linear.load_state_dict(teacher.output.state_dict())
    encoder: Any = Transformer(str(Path(setting.made) / "encoder"))
    encoder.tokenizer.model_input_names = list(INPUTS)  # the teacher reads which text a word piece is of
    model: Any = CrossEncoder(modules=[encoder, Pooling(width, "mean"), dense], device="cpu")
    model.max_seq_length = sum(teacher.read_lengths)
    model.to(getattr(torch, entry.dtype))

    def score(left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        pairs = list(zip(left, right, strict=True))
        given = {"batch_size": BATCH, "show_progress_bar": False, "activation_fn": torch.nn.Identity()}
        return np.asarray(model.predict(pairs, convert_to_tensor=True, **given).float()).ravel()

    return Peer(score)


def joined(setting: Setting, run: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Peer:
    """The teacher's graph: pairs tokenised together, in batches sorted by length."""
    tokenizer: Any = models.tokenizer_of(teacher_of(setting))

    def score(left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        encoded = tokenizer(list(left), list(right), return_token_type_ids=True)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        scores = np.zeros(len(lengths), np.float32)
        for rows in length_sorted(lengths, BATCH):
            batch = tokenizer.pad({k: [v[i] for i in rows] for k, v in encoded.items()}, return_tensors="np")
            scores[rows] = run({name: batch[name] for name in INPUTS})[:, 0]
        return scores

    return Peer(score)


INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def ort_teacher(entry: Entry, setting: Setting) -> Peer:
    """The teacher's graph in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    path = Path(setting.made) / f"teacher.{entry.dtype}.onnx"
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return joined(setting, lambda batch: session.run(None, batch)[0])


def ov_teacher(entry: Entry, setting: Setting) -> Peer:
    """The teacher's graph in OpenVINO: bfloat16 as its own choice on chips that have it, int8 calibrated."""
    import openvino

    core = openvino.Core()
    name = "teacher.openvino.int8.xml" if entry.dtype == "int8" else "teacher.float32.onnx"
    hint = {} if entry.dtype == "int8" else {"INFERENCE_PRECISION_HINT": {"bfloat16": "bf16"}[entry.dtype]}
    path = Path(setting.made) / name
    compiled = core.compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": setting.threads, **hint})
    return joined(setting, lambda batch: compiled(batch)[0])


def flat_search(encode: Callable[[Sequence[str]], np.ndarray], threads: int) -> Peer:
    """Unit vectors compared by FAISS, exactly."""
    import faiss

    def search(left: Sequence[str], right: Sequence[str]) -> tuple[Callable[[], Any], float]:
        faiss.omp_set_num_threads(threads)
        asked, kept = encode(left), encode(right)
        index = faiss.IndexFlatIP(kept.shape[1])
        index.add(kept)
        return lambda: index.search(asked, TOP), float(kept[0].nbytes)

    def score(left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        sides = []
        for texts in (left, right):
            distinct = list(dict.fromkeys(texts))
            places = {text: i for i, text in enumerate(distinct)}
            sides.append(encode(distinct)[[places[text] for text in texts]])
        return np.einsum("nd,nd->n", *sides)

    return Peer(score, encode, search)


@offline.only()
def st_vectors(entry: Entry, setting: Setting) -> Peer:
    """The backbone's mean vectors by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    teacher = teacher_of(setting)
    encoder = Transformer(locate(teacher.settings["backbone"]))
    pooling = Pooling(teacher.output.in_features, "mean")
    model: Any = SentenceTransformer(modules=[encoder, pooling, Normalize()], device="cpu")
    model.max_seq_length = max(teacher.read_lengths)
    return flat_search(
        lambda texts: model.encode(list(texts), batch_size=BATCH, show_progress_bar=False), setting.threads
    )


def static_vectors(entry: Entry, setting: Setting) -> Peer:
    """One vector for each word piece, its mean for a text: what model2vec makes of the backbone without training."""
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(Path(setting.made) / "static", normalize=True)
    return flat_search(
        lambda texts: np.ascontiguousarray(
            model.encode(list(texts), max_length=None, use_multiprocessing=False), np.float32
        ),
        setting.threads,
    )


def own_student(entry: Entry, setting: Setting) -> Peer:
    """A student of this project: `dipair encode`, then what `dipair score --top` does of each block."""
    student = results.row_folder(setting.out, entry.run)
    scorer = scoring.Scorer.load(student, "cpu")

    def search(left: Sequence[str], right: Sequence[str]) -> tuple[Callable[[], Any], float]:
        folder = Path(tempfile.mkdtemp(dir=setting.made, prefix="search-"))
        for side, texts in enumerate((left, right)):
            source = folder / f"{side}.parquet"
            pd.DataFrame({"id": range(len(texts)), "text": list(texts)}).to_parquet(source)
            collection.encode(student, source, side, folder / str(side), device="cpu")
        job = scoring.Job(str(student), str(folder / "0"), str(folder / "1"), top=TOP)
        scoring.begin(job, folder / "scores")
        work = scoring.Work(folder / "scores", "cpu")

        def call() -> None:
            with torch.inference_mode():
                for first, last in work.units:
                    scoring.best_of_block(work, work.left.block(first, last), first)

        kept = sum(t[0].numel() * t.element_size() for t in work.right.block(0, 1))
        return call, float(kept)

    return Peer(
        lambda left, right: scored(scorer.model, left, right),
        lambda texts: scorer.prepare(texts, 1)[0].numpy(),
        search,
    )


BUILDERS: dict[str, Callable[[Entry, Setting], Peer]] = {
    one.__name__: one
    for one in (own_teacher, st_teacher, ort_teacher, ov_teacher, st_vectors, static_vectors, own_student)
}


# --- what they read ---------------------------------------------------------------------------------------------------------------


def make_all(setting: Setting, texts: Sequence[Sequence[str]]) -> None:
    """Write once what the libraries read: the encoder in their layout, the teacher's graph, that in int8, the static vectors.

    Args:
        texts: both sides of some training pairs, on which int8 is calibrated.
    """
    steps: dict[str, Callable[[Path], None]] = {
        "encoder": lambda path: save_encoder(setting, path),
        "teacher.float32.onnx": lambda path: save_graph(setting, path, texts),
        "teacher.int8.onnx": lambda path: quantize_graph(setting, path),
        "teacher.openvino.int8.xml": lambda path: calibrate_graph(setting, path, texts),
        "static": lambda path: save_static(setting, path),
    }
    folder = Path(setting.made)
    noted = folder / "teacher.txt"
    made_of = f"{setting.teacher}, calibrated on training pairs"
    if folder.exists() and (not noted.exists() or noted.read_text() != made_of):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results.write_atomic(noted, made_of.encode())
    for stray in folder.glob("search-*"):
        shutil.rmtree(stray)
    for name, write in progress.track(list(steps.items()), "preparing the libraries' files"):
        if not (folder / name).exists():
            with tempfile.TemporaryDirectory(dir=folder) as temporary, quiet_transformers():
                write(Path(temporary) / name)
                for made in Path(temporary).iterdir():
                    os.replace(made, folder / made.name)


def save_encoder(setting: Setting, path: Path) -> None:
    """The teacher's encoder and tokenizer in the layout of Hugging Face."""
    teacher = teacher_of(setting)
    teacher.encoder.save_pretrained(path)
    models.tokenizer_of(teacher).save_pretrained(path)


class Graph(torch.nn.Module):
    """The teacher with the inputs that exported cross-encoders have."""

    def __init__(self, teacher: Any) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        logits: torch.Tensor = self.teacher(input_ids, attention_mask.bool(), token_type_ids)
        return logits


def save_graph(setting: Setting, path: Path, texts: Sequence[Sequence[str]]) -> None:
    """The teacher as ONNX, any number of pairs of any length."""
    teacher = teacher_of(setting)
    tokenizer: Any = models.tokenizer_of(teacher)
    sample = tokenizer(
        *(list(side[:3]) for side in texts), padding=True, return_token_type_ids=True, return_tensors="pt"
    )
    free = {
        0: torch.export.Dim("pairs"),
        1: torch.export.Dim("tokens", max=teacher.encoder.config.max_position_embeddings),
    }
    program: Any = torch.onnx.export(
        Graph(teacher).eval(), tuple(sample[name] for name in INPUTS), dynamo=True, dynamic_shapes=(free,) * 3, input_names=list(INPUTS),
        output_names=["logits"], verbose=False,
    )  # fmt: skip
    del program.model_proto.graph.value_info[:]
    program.save(path)


def quantize_graph(setting: Setting, path: Path) -> None:
    """Weights in int8, activations quantised as they come: ONNX Runtime's way without calibration."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_name("plain.onnx")
    model = onnx.load(Path(setting.made) / "teacher.float32.onnx")
    del model.graph.value_info[:]  # shapes that its own inference contradicts
    onnx.save(model, plain)
    quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=True)
    plain.unlink()


def calibrate_graph(
    setting: Setting, path: Path, texts: Sequence[Sequence[str]], n: int = CALIBRATED
) -> None:
    """Weights and activations in int8, calibrated on some training pairs (without labels): OpenVINO's way."""
    import nncf
    import openvino

    tokenizer: Any = models.tokenizer_of(teacher_of(setting))

    def batch(i: int) -> dict[str, np.ndarray]:
        encoded = tokenizer([texts[0][i]], [texts[1][i]], return_token_type_ids=True, return_tensors="np")
        return {name: encoded[name] for name in INPUTS}

    model = openvino.Core().read_model(Path(setting.made) / "teacher.float32.onnx")
    chosen = np.linspace(0, len(texts[0]) - 1, min(n, len(texts[0]))).astype(int).tolist()
    made = nncf.quantize(
        model, nncf.Dataset(chosen, batch), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(chosen)
    )
    openvino.save_model(made, path, compress_to_fp16=False)


@offline.only()
def save_static(setting: Setting, path: Path, width: int = 256, rare: float = 1e-4) -> None:
    """A vector for each word piece, model2vec's way: the mean of the backbone's outputs for the piece alone, its first principal
    components, rare pieces weighing more (Arora et al. 2017, with frequencies by Zipf's law from the order of the vocabulary)."""
    from model2vec import StaticModel

    name = teacher_of(setting).settings["backbone"]
    backbone, tokenizer = load_backbone(name).eval(), load_tokenizer(name)
    pieces = torch.arange(len(tokenizer))
    begin, end = (
        torch.full_like(pieces, int(one)) for one in (tokenizer.cls_token_id, tokenizer.sep_token_id)
    )
    inputs = torch.stack([begin, pieces, end], dim=1)
    with torch.inference_mode():
        chunks = [
            backbone(input_ids=some).last_hidden_state.mean(1)
            for some in progress.track(inputs.split(512), "static vectors")
        ]
    vectors = torch.cat(chunks).numpy()
    vectors = PCA(min(width, *vectors.shape), random_state=0).fit_transform(vectors)
    frequency = 1 / np.arange(2, len(vectors) + 2)
    vectors *= (rare / (rare + frequency / frequency.sum()))[:, None]
    StaticModel(vectors.astype(np.float32), tokenizer.backend_tokenizer, normalize=True).save_pretrained(path)
