"""One student as a folder that needs nothing else: weights, config, tokenizer, a model card, and if asked its graphs as ONNX.

config.json, model.safetensors    as ``models.save`` writes them, the encoder's weights among them; the config with its own sha256
tokenizer/                        of the backbone, each file's sha256 in config.json
README.md                         the model card
onnx/                             ``encoder-<field>.onnx``: word pieces -> what the head caches of a text; ``head.onnx``: the pair's logits
"""

from __future__ import annotations

import html
import inspect
import itertools
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors import SafetensorError

from . import collection, jobs, models, report, results, safe_yaml, scoring, tradeoff, training
from .models.backbone import EMBEDDED, EMBEDDED_PACKAGE, quiet_transformers, sealed, sha256_of
from .results import Result
from .scoring import Scorer
from .training.device import encoder_dtype

TOLERANCE = 1e-4  # largest difference of a number between ONNX Runtime and torch
EXTRA = '--onnx needs the extra `peers`: pip install -c constraints.txt -e ".[peers]"'
PROBES = (
    "a short text",
    "one word",
    "Żółć, 東京 and [SEP] emoji 🙂 in one line, with 3.14 and punctuation: -- ?!",
    "a long text that no read length holds " * 64,
)


class ExportError(ValueError):
    """A student that cannot be exported, or a folder that is not to be overwritten."""


def export(run: Path | str, out: Path | str, *, onnx: bool = False) -> Path:
    """Write a run's student to a folder that ``Scorer.load`` reads alone, after both were seen to give the same scores.

    Args:
        run: ``results/demo/rows/<run>``, with its row. out: a new folder, an empty one, or an earlier export, which is replaced.
        onnx: also write its graphs, after ONNX Runtime was seen to give torch's numbers within ``TOLERANCE``.

    Raises:
        ExportError: what is here cannot be exported, or something else lies in ``out``.
        ModelError, ResultError: the run's files are missing or damaged.
        ImportError: ``onnx`` without the extra ``peers``.
    """
    run, out = Path(run).resolve(), Path(out)
    if onnx:
        require_onnx()
    row = results.load_result(run.parent.parent, run.name)
    refuse_foreign(out)
    if row.family not in {"dual-encoder", "dipair", "bilstm"}:
        raise ExportError(
            f"{run}: a {tradeoff.plain(row.model)} is no student that encodes each text once: export one of the students (the report of "
            "its folder says which)"
        )
    scorer = Scorer.load(run)
    if onnx and isinstance(scorer.model, models.BiLSTM):
        raise ExportError(
            f"{run}: a BiLSTM steps through a text word by word, which torch's exporter does not follow: export it without --onnx"
        )
    licence, rounding = backbone_licence(scorer.model), rounding_of(scorer.model)
    with replaced(out) as made:
        save_student(scorer, made, row)
        require_same(scorer, Scorer.load(made), run)
        error = save_graphs(scorer.model, made / "onnx") if onnx else None
        page = card(row, run.parent.parent, scorer, licence, error, rounding)
        results.write_atomic(made / "README.md", page.encode("utf8"))
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
    """A new folder beside ``out`` that takes its place once the block is through; what was there before stays until then. One process at a
    time; what one that was killed left beside it is put back in its place, or removed.

    Raises:
        ExportError: a file could not be written (a full disk, a folder that is read-only), or another process exports to this folder.
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
    """Put what an export was taking the place of back where there is no folder now, and remove what else lies half made beside it."""
    ours = re.compile(re.escape(f".{out.name}.") + r"\d+\.(tmp|old)")
    for left in sorted(path for path in out.parent.iterdir() if ours.fullmatch(path.name)):
        if left.suffix == ".old" and not out.exists():
            os.replace(left, out)
        else:
            shutil.rmtree(left, ignore_errors=True)


def save_student(scorer: Scorer, folder: Path, row: results.Result) -> None:
    """Weights, config and tokenizer; of where they lay on this machine only the last name is kept."""
    model = scorer.model
    further: dict[str, Any] = {"exported": row.run_id, "threshold": row.threshold}
    if isinstance(model, models.DualEncoder):
        try:
            with quiet_transformers():
                scorer.tokenizer.save_pretrained(folder / "tokenizer")
        except Exception as error:  # tokenizers raises nothing more precise where a disk is full
            raise ExportError(f"{folder / 'tokenizer'}: could not be written ({error})") from error
        further["tokenizer"] = {path.name: sha256_of(path) for path in (folder / "tokenizer").iterdir()}
        model.settings["backbone"] = Path(model.settings["backbone"]).name
        for field in range(len(model.read_lengths)):
            model.encoder_of(field).config._name_or_path = ""
    try:
        models.save(model, folder, **further)
    except models.ModelError as error:  # the folder it names is a temporary one
        raise ExportError(f"the weights could not be written ({error.__cause__ or error})") from error
    config = sealed(models.read_config(folder), models.SEAL)
    results.write_atomic(folder / "config.json", json.dumps(config).encode())


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


# --- ONNX -------------------------------------------------------------------------------------------------------------------------


def require_onnx() -> None:
    """ImportError unless what ``--onnx`` needs is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(EXTRA) from error


class Encoder(torch.nn.Module):
    """What is computed once per text of a field: ids int64, mask bool [texts, tokens] -> tensors [texts, ...]."""

    def __init__(self, model: Any, field: int) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> models.Prepared:
        return self.model.prepare(self.model.encode(ids, mask, self.field), self.field)  # type: ignore[no-any-return]


class Head(torch.nn.Module):
    """What is computed per pair: each field's tensors, one after the other, [pairs, ...] -> logits [pairs, outputs]."""

    def __init__(self, model: Any, tensors: int) -> None:
        super().__init__()
        self.model, self.tensors = model, tensors

    def forward(self, *prepared: torch.Tensor) -> torch.Tensor:
        n = self.tensors
        return self.model.combine(*(prepared[i : i + n] for i in range(0, len(prepared), n)))  # type: ignore[no-any-return]


def save_graphs(model: Any, folder: Path) -> float:
    """Write a graph of each field's encoder and one of the head. Returns the largest difference between ONNX Runtime and torch.

    Raises:
        ExportError: torch cannot export the architecture, or the difference is over ``TOLERANCE``.
    """
    folder.mkdir()
    fields = range(len(model.read_lengths))
    model = model.eval()
    most = getattr(model.encoder_of(0).config, "max_position_embeddings", None)
    with torch.inference_mode():
        prepared = [Encoder(model, field)(*some_pieces(model, field, 3, seed=0)) for field in fields]
    texts, pairs = torch.export.Dim("texts"), torch.export.Dim("pairs")
    for field in fields:
        tokens = torch.export.Dim("tokens", min=shortest(model, field), max=most)
        graph = Encoder(model, field)
        save_graph(
            graph,
            some_pieces(model, field, 3, seed=0),
            ({0: texts, 1: tokens},) * 2,
            ["ids", "mask"],
            names_of(field, len(prepared[field])),
            folder / f"encoder-{field}.onnx",
        )
    flat = tuple(tensor for side in prepared for tensor in side)
    inputs = [name for field in fields for name in names_of(field, len(prepared[field]))]
    head = Head(model, len(prepared[0]))
    save_graph(head, flat, (tuple({0: pairs} for _ in flat),), inputs, ["logits"], folder / "head.onnx")
    error = largest_difference(model, folder)
    if error > TOLERANCE:
        raise ExportError(
            f"ONNX Runtime and torch differ by {error:.2g}, over {TOLERANCE:g}: export it without --onnx"
        )
    return error


def names_of(field: int, tensors: int) -> list[str]:
    """Names of what is cached of a field's text."""
    return [f"field{field}_{i}" for i in range(tensors)]


def shortest(model: Any, field: int) -> int:
    """Tokens a batch has at least: shorter texts are padded to the k outputs that are kept, mask False."""
    return max(2, model.settings["keep"][field])


def some_pieces(model: Any, field: int, texts: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids, mask [texts, tokens] of random word pieces: the first text as long as is read, the others of any length."""
    random = np.random.default_rng(seed)
    longest = model.read_lengths[field]
    lengths = np.array([longest, *random.integers(3, longest + 1, texts - 1)])
    ids = random.integers(0, model.encoder_of(field).config.vocab_size, (texts, longest))
    mask = np.arange(longest)[None, :] < lengths[:, None]
    return torch.from_numpy(np.where(mask, ids, 0)), torch.from_numpy(mask)


def save_graph(
    graph: torch.nn.Module, sample: Any, shapes: Any, inputs: list[str], outputs: list[str], path: Path
) -> None:
    """One module as ONNX, any number of rows."""
    noise = logging.getLogger("torch.onnx")
    level = noise.level
    try:
        noise.setLevel(logging.ERROR)
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of axes that it merges
            program: Any = torch.onnx.export(
                graph.eval(), sample, dynamo=True, dynamic_shapes=shapes, input_names=inputs, output_names=outputs, verbose=False
            )  # fmt: skip
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"{path.name}: torch cannot export this architecture ({str(error).strip().splitlines()[0][:200]}): export it without --onnx"
        ) from error
    finally:
        noise.setLevel(level)
    del program.model_proto.graph.value_info[:]  # shapes that ONNX Runtime's own inference contradicts
    program.save(path)


def largest_difference(model: Any, folder: Path) -> float:
    """Between ONNX Runtime and torch, over what is cached of texts and over pairs' logits, at other numbers of texts than were exported."""
    import onnxruntime

    def runs(name: str) -> Any:
        return onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])

    encoders, head = (
        [runs(f"encoder-{field}.onnx") for field in range(len(model.read_lengths))],
        runs("head.onnx"),
    )
    differences = []
    for seed, texts in enumerate((1, 2, 7), start=1):
        expected: list[models.Prepared] = []
        fed: dict[str, np.ndarray] = {}
        for field, encoder in enumerate(encoders):
            ids, mask = some_pieces(model, field, texts, seed)
            with torch.inference_mode():
                expected.append(Encoder(model, field)(ids, mask))
            found = encoder.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})
            fed |= dict(zip(names_of(field, len(found)), found, strict=True))
            differences += [
                np.abs(e.float().numpy() - f).max() for e, f in zip(expected[-1], found, strict=True)
            ]
        with torch.inference_mode():
            logits = model.combine(*expected).numpy()
        asked = {one.name for one in head.get_inputs()}  # the exporter drops what the head does not read
        (found_logits,) = head.run(None, {name: value for name, value in fed.items() if name in asked})
        differences.append(np.abs(logits - found_logits).max())
    return float(max(differences))


# --- bfloat16 ---------------------------------------------------------------------------------------------------------------------


def rounding_of(model: Any, texts: int = 48, pairs: int = 2048) -> dict[str, float] | None:
    """What an encoder in bfloat16 changes of the scores of random pairs of sentences, on this machine's CPU: ``largest``, ``rms``, beside
    the ``spread`` (standard deviation) of the scores and the number of ``pairs``. None where there is no encoder.

    The sentences are this package's own docstrings: English of many lengths that is always at hand.
    """
    if not hasattr(model, "encoder"):
        return None
    modules = (models, report, results, tradeoff, scoring, collection, jobs)
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
        scores.append(scorer.score(*(training.gather(p, at) for p, at in zip(sides, places, strict=True))))
    off = np.abs(scores[1] - scores[0]).astype(np.float64)
    return {
        "largest": float(off.max()),
        "rms": float(np.sqrt((off**2).mean())),
        "spread": float(scores[0].std()),
        "pairs": pairs,
    }


# --- the card ---------------------------------------------------------------------------------------------------------------------


def card(
    row: Result,
    folder: Path,
    scorer: Scorer,
    licence: str,
    onnx_error: float | None,
    rounding: dict[str, float] | None,
) -> str:
    """The model card, Markdown: all of it from the row, its teacher's row and the packages installed here; text from data is escaped.

    Args:
        folder: results folder of the row. onnx_error: largest difference of the graphs, None where there are none. rounding: see
            ``rounding_of``.
    """
    environment = Environment(
        loader=PackageLoader("dipair_lib", "."), undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["md"] = markdown
    model, notes = scorer.model, report.notes(row.data_notes)
    return environment.get_template("card.md.j2").render(
        row=row,
        line=tradeoff.frame([row]).iloc[0],
        quality=tradeoff.within(row.quality, row.quality_low, row.quality_high),
        retained=tradeoff.percent_within(row.retained, row.retained_low, row.retained_high),
        metrics=json.loads(row.metrics or "{}"),
        teacher=teacher_of(row, folder),
        guard=tradeoff.guard_of(row, folder),
        rounding=rounding,
        notes=notes,
        parameters=said_parameters(row),
        data_licence=data_licence(notes),
        backbone_licence=licence,
        lengths=model.read_lengths,
        words=len(model.settings["words"]) if isinstance(model, models.BiLSTM) else 0,
        onnx_error=onnx_error,
        shortest=[] if onnx_error is None else [shortest(model, f) for f in range(len(model.read_lengths))],
        si=tradeoff.si,
        times=tradeoff.times,
        dash=tradeoff.DASH,
    )


def markdown(value: Any) -> str:
    """Text from data on one line of Markdown that shows it as it is: neither HTML, nor a link, nor the end of a cell."""
    text = html.escape(tradeoff.plain(value, 1200), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~#!])", r"\\\1", text)


def said_parameters(row: Result) -> str:
    """The notebook's parameters that were set to something; of a path on this machine only its last name."""
    values = tradeoff.parameters_of(row.parameters)
    said = {
        name: Path(v).name if isinstance(v, str) and Path(v).is_absolute() else v
        for name, v in values.items()
    }
    return "; ".join(f"{name} {value}" for name, value in said.items() if value not in ("", [], None))


def teacher_of(row: Result, folder: Path) -> Result | None:
    """The row of its teacher, where that is still there."""
    try:
        return results.load_result(folder, row.teacher_run) if row.teacher_run else None
    except results.ResultError:
        return None


def data_licence(notes: list[tuple[str, str]]) -> str:
    """What the data's notes say of licence or terms; else that it is unknown."""
    told = [f"{name}: {value}" for name, value in notes if re.search(r"licen[cs]e|terms", name, re.I)]
    return "; ".join(told) or "unknown: the data's notes do not say; ask its source, above"


def backbone_licence(model: Any) -> str:
    """What the backbone's package or directory says of its licence; else that it is unknown."""
    backbone = model.settings.get("backbone")
    if backbone is None:
        return "no backbone: a BiLSTM over words"
    if backbone == EMBEDDED:
        told: Any = metadata.metadata(EMBEDDED_PACKAGE)
        named = told.get("License-Expression") or told.get("License")
        return f"{named or 'unknown'}, says the package {told['Name']} {told['Version']}"
    front = re.match(r"---\n(.*?)\n---", readme(Path(backbone).expanduser()), re.S)
    try:
        named = (safe_yaml.load(front[1]) or {}).get("license") if front else None
    except (yaml.YAMLError, AttributeError, ValueError):
        named = None
    name = Path(backbone).name
    return f"{named}, says the README of {name}" if named else f"unknown: {name} does not say; ask its source"


def readme(directory: Path) -> str:
    """The README of a backbone's directory, or nothing."""
    path = directory / "README.md"
    return path.read_text(encoding="utf8", errors="replace") if path.is_file() else ""
