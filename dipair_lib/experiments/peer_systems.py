"""The systems compared: each loads and scores the same pairs."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dipair_lib import inference, models
from dipair_lib.evaluation import results
from dipair_lib.experiments import peer_files
from dipair_lib.experiments.peer_files import Setting
from dipair_lib.inference import encoder_dtype, in_dtype
from dipair_lib.models import offline
from dipair_lib.models.backbone import quiet_transformers
from dipair_lib.models.folders import locate
from dipair_lib.models.tokens import length_sorted
from dipair_lib.scoring import block_search, encoding, jobs, scorer

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


@dataclass(frozen=True)
class Peer:
    """One system, ready to run.

    Attributes:
        score: texts of both sides, aligned -> scores [pairs]; every step from raw text on.
        encode: texts of the right side -> their vectors; None where nothing is done once per text.
        search: distinct texts of both sides -> a call that finds the ``TOP`` best right texts of each left
            one among encoded texts, and the bytes a text takes.
    """

    score: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    encode: Callable[[Sequence[str]], np.ndarray] | None = None
    search: Callable[[Sequence[str], Sequence[str]], tuple[Callable[[], Any], float]] | None = None


@dataclass(frozen=True)
class Entry:
    """A peer by name: what a person would call it, its family (see ``style.FAMILIES``), the dtype it computes
    in, what builds it, and for which of our students.
    """

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
    """Everyone who takes part: the teacher by four libraries, vectors by two, and our students: the one asked
    for and, beside it, the cosines of the same teacher's folder, frozen and trained.
    """
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


# --- the systems ------------------------------------------------------------------------------------------------------------------


def build(entry: Entry, setting: Setting) -> Peer:
    """Load a system."""
    with quiet_transformers(), torch.inference_mode():
        peer: Peer = BUILDERS[entry.build](entry, setting)
    return peer


def own_teacher(entry: Entry, setting: Setting) -> Peer:
    """The teacher as this project runs it."""
    model = in_dtype(peer_files.teacher_of(setting), entry.dtype)
    return Peer(lambda left, right: scored(model, left, right))


def scored(model: models.Network, *sides: Sequence[str]) -> np.ndarray:
    """Scores [pairs] of raw texts by one of our models in its own dtype."""
    frame = pd.DataFrame({str(n): list(texts) for n, texts in enumerate(sides)})
    texts = models.tokens.read(model.tokenizer, frame, list(frame), model.read_lengths)
    dtype = str(next(model.encoders[0].parameters()).dtype).removeprefix("torch.")
    return inference.predict(model, texts, dtype=dtype, device="cpu", what="")[:, 0]


def st_teacher(entry: Entry, setting: Setting) -> Peer:
    """The teacher as a sentence-transformers CrossEncoder: its encoder, the mean, its output layer."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    teacher = peer_files.teacher_of(setting)
    width, outputs = teacher.output.in_features, teacher.output.out_features
    dense = Dense(width, outputs, activation_function=torch.nn.Identity(), module_output_name="scores")
    dense.linear.load_state_dict(teacher.output.state_dict())
    encoder: Any = Transformer(str(Path(setting.made) / "encoder"))
    encoder.tokenizer.model_input_names = list(
        peer_files.INPUTS
    )  # the teacher reads which text a word piece is of
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
    tokenizer: Any = peer_files.teacher_of(setting).tokenizer

    def score(left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        encoded = tokenizer(list(left), list(right), return_token_type_ids=True)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        scores = np.zeros(len(lengths), np.float32)
        for rows in length_sorted(lengths, BATCH):
            batch = tokenizer.pad({k: [v[i] for i in rows] for k, v in encoded.items()}, return_tensors="np")
            scores[rows] = run({name: batch[name] for name in peer_files.INPUTS})[:, 0]
        return scores

    return Peer(score)


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

    teacher = peer_files.teacher_of(setting)
    encoder = Transformer(locate(teacher.settings["backbone"]))
    pooling = Pooling(teacher.output.in_features, "mean")
    model: Any = SentenceTransformer(modules=[encoder, pooling, Normalize()], device="cpu")
    model.max_seq_length = max(teacher.read_lengths)
    return flat_search(
        lambda texts: model.encode(list(texts), batch_size=BATCH, show_progress_bar=False), setting.threads
    )


def static_vectors(entry: Entry, setting: Setting) -> Peer:
    """One vector for each word piece, its mean for a text: what model2vec makes of the backbone without
    training.
    """
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
    own = scorer.Scorer.load(student, "cpu")

    def search(left: Sequence[str], right: Sequence[str]) -> tuple[Callable[[], Any], float]:
        folder = Path(tempfile.mkdtemp(dir=setting.made, prefix="search-"))
        for side, texts in enumerate((left, right)):
            source = folder / f"{side}.parquet"
            pd.DataFrame({"id": range(len(texts)), "text": list(texts)}).to_parquet(source)
            encoding.encode(student, source, side, folder / str(side), device="cpu")
        job = jobs.Job(str(student), str(folder / "0"), str(folder / "1"), top=TOP)
        jobs.create_job(job, folder / "scores")
        work = block_search.Work(folder / "scores", "cpu")

        def call() -> None:
            with torch.inference_mode():
                for first, last in work.units:
                    block_search.best_of_block(work, work.left.block(first, last), first)

        kept = sum(t[0].numel() * t.element_size() for t in work.right.block(0, 1))
        return call, float(kept)

    return Peer(
        lambda left, right: scored(own.model, left, right),
        lambda texts: own.prepare(texts, 1)[0].numpy(),
        search,
    )


BUILDERS: dict[str, Callable[[Entry, Setting], Peer]] = {
    one.__name__: one
    for one in (own_teacher, st_teacher, ort_teacher, ov_teacher, st_vectors, static_vectors, own_student)
}
