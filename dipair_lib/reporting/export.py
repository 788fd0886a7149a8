"""One student as a folder that needs nothing else: weights, config, tokenizer, a model card, and if asked its
graphs as ONNX.

config.json, model.safetensors    as ``models.save`` writes them, the encoder's weights among them; the config with its own sha256
tokenizer/                        of the backbone, each file's sha256 in config.json
README.md                         the model card
onnx/                             ``encoder-<field>.onnx``: word pieces -> what the head caches of a text; ``head.onnx``: the pair's logits
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from safetensors import SafetensorError

from dipair_lib import inference, models
from dipair_lib.evaluation import results, schema
from dipair_lib.inference.device import encoder_dtype
from dipair_lib.models.backbone import quiet_transformers
from dipair_lib.models.folders import sealed, sha256_of
from dipair_lib.reporting import card, export_onnx, wording
from dipair_lib.reporting.export_onnx import ExportError
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.system import disk

# Modules whose docstrings are sentences enough for ``rounding_of``.
SPOKEN = [
    f"dipair_lib.{name}"
    for name in (
        "models.heads models.dipair models.backbone evaluation.results evaluation.schema reporting.derived reporting.guard "
        "reporting.overview scoring.collection scoring.jobs scoring.job_parts scoring.scorer scoring.block_search"
    ).split()
]
PROBES = (
    "a short text",
    "one word",
    "Żółć, 東京 and [SEP] emoji 🙂 in one line, with 3.14 and punctuation: -- ?!",
    "a long text that no read length holds " * 64,
)


def export(run: Path | str, out: Path | str, *, onnx: bool = False) -> Path:
    """Write a run's student to a folder that ``Scorer.load`` reads alone, after both were seen to give the
    same scores.

    Args:
        run: ``results/demo/rows/<run>``, with its row.
        out: a new folder, an empty one, or an earlier export, which is replaced.
        onnx: also write its graphs, after ONNX Runtime was seen to give torch's numbers within ``TOLERANCE``.

    Raises:
        ExportError: what is here cannot be exported, or something else lies in ``out``.
        ModelError, ResultError: the run's files are missing or damaged.
        ImportError: ``onnx`` without the extra ``peers``.
    """
    run, out = Path(run).resolve(), Path(out)
    if onnx:
        export_onnx.require_onnx()
    row = results.load_result(run.parent.parent, run.name)
    refuse_foreign(out)
    if row.family not in {"dual-encoder", "dipair", "bilstm"}:
        raise ExportError(
            f"{run}: a {wording.plain(row.model)} is no student that encodes each text once: export one of the students (the report of "
            "its folder says which)"
        )
    scorer = Scorer.load(run)
    if onnx and not scorer.model.encoders:
        raise ExportError(
            f"{run}: a BiLSTM steps through a text word by word, which torch's exporter does not follow: export it without --onnx"
        )
    licence, rounding = card.backbone_licence(scorer.model), rounding_of(scorer.model)
    with replaced(out) as made:
        save_student(scorer, made, row)
        require_same(scorer, Scorer.load(made), run)
        error = export_onnx.save_graphs(scorer.model, made / "onnx") if onnx else None
        page = card.card(row, run.parent.parent, scorer, licence, error, rounding)
        disk.write_atomic(made / "README.md", page.encode("utf8"))
    return out


def refuse_foreign(out: Path) -> None:
    """ExportError unless a folder may be written: it does not exist, is empty, or is an export."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out}: is a file: name a folder")
    if any(out.iterdir()):
        try:
            if "exported" in models.read_config(out):
                return
        except models.ModelError:
            pass
        raise ExportError(f"{out}: holds something other than an export: name another folder")


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its place once the block is through; what was there before stays
    until then. One process at a time; what one that was killed left beside it is put back in its place, or
    removed.

    Raises:
        ExportError: a file could not be written (a full disk, a folder that is read-only), or another process
            exports to this folder.
    """
    made, before = (out.with_name(f".{out.name}.{os.getpid()}.{what}") for what in ("tmp", "old"))
    lock = filelock.FileLock(out.with_name(f".{out.name}.lock"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        put_back(out)
        made.mkdir()
        yield made
        if out.exists():
            os.replace(out, before)
        os.replace(made, out)
    except filelock.Timeout:
        raise ExportError(
            f"{out}: another process exports to it: wait for it, or name another folder (if there is none, delete {lock.lock_file})"
        ) from None
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise ExportError(f"{out}: could not be written ({said}): what was there before is whole") from error
    finally:
        if lock.is_locked:
            with suppress(OSError):  # the next export does it
                put_back(out)
            with suppress(
                OSError
            ):  # while it is held: who opens it now sees that it is gone, and makes a new one
                os.unlink(lock.lock_file)
            lock.release()


def put_back(out: Path) -> None:
    """Put what an export was taking the place of back where there is no folder now, and remove what else lies
    half made beside it.
    """
    ours = re.compile(re.escape(f".{out.name}.") + r"\d+\.(tmp|old)")
    for left in sorted(path for path in out.parent.iterdir() if ours.fullmatch(path.name)):
        if left.suffix == ".old" and not out.exists():
            os.replace(left, out)
        else:
            shutil.rmtree(left, ignore_errors=True)


def save_student(scorer: Scorer, folder: Path, row: schema.Result) -> None:
    """Weights, config and tokenizer; of where they lay on this machine only the last name is kept."""
    model = scorer.model
    further: dict[str, Any] = {"exported": row.run_id, "threshold": row.threshold}
    if model.encoders:
        tokenizer: Any = scorer.tokenizer
        try:
            with quiet_transformers():
                tokenizer.save_pretrained(folder / "tokenizer")
        except Exception as error:  # tokenizers raises nothing more precise where a disk is full
            raise ExportError(f"{folder / 'tokenizer'}: could not be written ({error})") from error
        further["tokenizer"] = {path.name: sha256_of(path) for path in (folder / "tokenizer").iterdir()}
        model.settings["backbone"] = Path(model.settings["backbone"]).name
        for encoder in model.encoders:
            encoder.config._name_or_path = ""
    try:
        models.save(model, folder, **further)
    except models.ModelError as error:  # the folder it names is a temporary one
        raise ExportError(f"the weights could not be written ({error.__cause__ or error})") from error
    config = sealed(models.read_config(folder), models.SEAL)
    disk.write_atomic(folder / "config.json", json.dumps(config).encode())


def require_same(of_run: Scorer, exported: Scorer, run: Path) -> None:
    """ExportError unless both give the same scores, bit by bit."""
    sides = [
        list(texts)
        for texts in zip(*itertools.product(PROBES, repeat=len(of_run.model.read_lengths)), strict=True)
    ]
    expected, found = of_run.score(*sides), exported.score(*sides)
    if not np.array_equal(expected, found):
        raise ExportError(
            f"{run}: the exported student gives other scores (by up to {np.abs(expected - found).max():.2g}): its tokenizer or weights do "
            "not survive being saved; nothing was written"
        )


# --- bfloat16 ---------------------------------------------------------------------------------------------------------------------


def rounding_of(model: models.PairModel, texts: int = 48, pairs: int = 2048) -> dict[str, float] | None:
    """What an encoder in bfloat16 changes of the scores of random pairs of sentences, on this machine's CPU:
    ``largest``, ``rms``, beside the ``spread`` (standard deviation) of the scores and the number of
    ``pairs``. None where there is no encoder.

    The sentences are this package's own docstrings: English of many lengths that is always at hand.
    """
    if not model.encoders:
        return None
    modules = [importlib.import_module(name) for name in SPOKEN]
    found = [inspect.getdoc(one) for module in modules for one in vars(module).values() if callable(one)]
    said = sorted({" ".join(text.split()) for text in found if text}) or list(PROBES)
    random = np.random.default_rng(0)
    texts = (
        texts if encoder_dtype() == "bfloat16" else texts // 4
    )  # elsewhere a product takes up to a hundred times as long
    some = [[said[i] for i in random.integers(0, len(said), texts)] for _ in model.read_lengths]
    places = [random.integers(0, texts, pairs) for _ in model.read_lengths]
    scores = []
    for dtype in ("float32", "bfloat16"):
        scorer = Scorer(model, "cpu", dtype)
        sides = [scorer.prepare(one, field) for field, one in enumerate(some)]
        scores.append(scorer.score(*(inference.gather(p, at) for p, at in zip(sides, places, strict=True))))
    off = np.abs(scores[1] - scores[0]).astype(np.float64)
    return {
        "largest": float(off.max()),
        "rms": float(np.sqrt((off**2).mean())),
        "spread": float(scores[0].std()),
        "pairs": pairs,
    }
