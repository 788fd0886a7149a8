"""The files of a cross-encoder that somebody else trained: which there are, and what they say, checked before
anything is loaded.

Two layouts: a sequence-classification checkpoint of ``transformers`` (also what sentence-transformers before
version 5 saves of a CrossEncoder), and sentence-transformers' list of modules (``modules.json``): a
transformer with its head, or a transformer, pooling and dense layers. Weights come from safetensors only.
What a file names is compared with the names that are known here, never imported.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dipair_lib.models.folders import BackboneError, locate, refuse_remote_code
from dipair_lib.models.sequence_classifier import ACTIVATIONS, POOLINGS

FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # of a hub's repository: nothing that could hold code
MODULE = re.compile(r"sentence_transformers\.(?:\w+\.)*(\w+)")
ADVICE = "score your rows with it and give the column as `teacher_score`"


@dataclass
class Checkpoint:
    """What a folder holds.

    Attributes:
        transformer: folder of transformer and tokenizer.
        pooling, dense: see ``SequenceClassifier``.
        weights: of each dense layer.
        max_length: word pieces of an input, 0 where the tokenizer says.
        lower: texts are put in lower case.
        prompt: before every first text.
        activation: what its library puts behind the logits ("" for none).
    """

    transformer: Path
    pooling: list[str] = field(default_factory=list)
    dense: list[dict[str, Any]] = field(default_factory=list)
    weights: list[dict[str, torch.Tensor]] = field(default_factory=list)
    max_length: int = 0
    lower: bool = False
    prompt: str = ""
    activation: str = ""


def folder_of(name: str) -> Path:
    """The checkpoint's folder; of a hub name its snapshot, of which only configuration, tokenizer and
    safetensors are fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    location = locate(name)  # raises for a path that is not there
    if location != name:
        return Path(location)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=FILES, ignore_patterns=["onnx/*", "openvino/*"]))
    except Exception as error:  # the hub's errors and the network's share no base class
        raise BackboneError(
            f"teacher {name!r}: no such folder, and the hub gives no model of this name ({type(error).__name__}: {error!s:.200})"
        ) from error


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file of a checkpoint, checked for remote code; empty where there is no such file."""
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{path}: not a file of a checkpoint ({error})") from error
    if not isinstance(content, kind):
        raise BackboneError(f"{path}: expected a JSON {kind.__name__}, but got {type(content).__name__}")
    for part in [content, *(content if isinstance(content, list) else [])]:
        if isinstance(part, dict):
            refuse_remote_code(part, str(path))
    return content


def read_checkpoint(folder: Path) -> Checkpoint:
    """What a folder's files say, each checked before anything is loaded."""
    modules = read_json(folder / "modules.json", list)
    settings = read_json(folder / "config_sentence_transformers.json")
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    found = Checkpoint(folder, prompt=str(prompts.get(default) or "") if default else "")
    if modules:
        read_modules(found, modules, str(settings.get("model_type", "")))
    locate(str(found.transformer.resolve()))  # a config, safetensors, nothing foreign
    own = read_json(found.transformer / "config.json")
    if own.get("quantization_config"):
        raise BackboneError(f"{folder}: its weights are quantised: bring the checkpoint from before that")
    said = settings.get("activation_fn") or (own.get("sentence_transformers") or {}).get("activation_fn")
    said = said or own.get("sbert_ce_default_activation_function")
    if not said and (modules or "sentence_transformers" in own):
        said = "Sigmoid" if outputs_said(own, found) == 1 else "Identity"
    found.activation = str(said or "").rpartition(".")[2]
    return found


def outputs_said(config: dict[str, Any], found: Checkpoint) -> int:
    """Outputs of a checkpoint by its files."""
    return int(found.dense[-1]["out"]) if found.dense else len(config.get("id2label") or (0, 1))


def read_modules(found: Checkpoint, modules: list[Any], kind: str) -> None:
    """The modules of sentence-transformers, of the kinds that a cross-encoder of texts is made of."""
    folder = found.transformer
    where = folder / "modules.json"
    named: list[tuple[str, Path]] = []
    for module in modules:
        module = module if isinstance(module, dict) else {}
        match, path = MODULE.fullmatch(str(module.get("type"))), str(module.get("path", ""))
        if not match or match[1] not in {"Transformer", "Pooling", "Dense", "Dropout"}:
            raise BackboneError(
                f"{where}: names {module.get('type')!r:.80}: expected sentence-transformers' Transformer alone, or with Pooling and Dense; "
                f"nothing else is loaded: {ADVICE}"
            )
        if re.search(r"[/\\\0]", path) or path in {".", ".."}:
            raise BackboneError(f"{where}: names {path!r:.80}, which does not lie beside it: never followed")
        if match[1] != "Dropout":
            named.append((match[1], folder / path))
    order = " ".join(name for name, _ in named)
    if not re.fullmatch(r"Transformer( Pooling( Dense)+)?", order) or kind == "SentenceTransformer":
        raise BackboneError(
            f"{where}: expected the modules of a CrossEncoder (Transformer, or Transformer, Pooling, Dense), but got {order}"
            + (f" of a {kind}" if kind else "")
            + ": a model of sentence vectors is no teacher of pairs; give it as `backbone`, and a teacher is fine-tuned from it"
        )
    found.transformer = named[0][1]
    read_transformer(found, own_head=len(named) == 1)
    for module_name, at in named[1:]:
        (read_pooling if module_name == "Pooling" else read_dense)(found, at)
    if found.dense and found.dense[-1]["to"] != "scores":
        raise BackboneError(
            f"{where}: its last Dense gives {found.dense[-1]['to']!r:.80}, where a CrossEncoder's gives 'scores'"
        )
    for layer in found.dense:
        layer.pop("to")


def read_transformer(found: Checkpoint, own_head: bool) -> None:
    """Length, case and task of the transformer module."""
    path = found.transformer / "sentence_bert_config.json"
    said = read_json(path)
    task = said.get("transformer_task", "feature-extraction")
    expected = "sequence-classification" if own_head else "feature-extraction"
    if task != expected or "message" in (said.get("modality_config") or {}) or said.get("processing_kwargs"):
        raise BackboneError(
            f"{path}: expected the task {expected} on plain texts, but got {task!r:.80} with {sorted(said)}: {ADVICE}"
        )
    found.max_length, found.lower = int(said.get("max_seq_length") or 0), bool(said.get("do_lower_case"))


def read_pooling(found: Checkpoint, folder: Path) -> None:
    """How outputs are pooled; older versions name each way in a flag of its own."""
    said = read_json(folder / "config.json")
    flags = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "lasttoken": "lasttoken"}
    on = [
        k.removeprefix("pooling_mode_")
        for k, v in said.items()
        if k.startswith("pooling_mode_") and v is True
    ]
    older = [mode for flag, mode in flags.items() if flag in on] + [flag for flag in on if flag not in flags]
    modes = said.get("pooling_mode", older or ["mean"])
    found.pooling = [modes] if isinstance(modes, str) else list(modes)
    strange = [mode for mode in found.pooling if mode not in POOLINGS]
    if strange or not found.pooling or (found.prompt and said.get("include_prompt") is False):
        raise BackboneError(
            f"{folder / 'config.json'}: expected pooling by {', '.join(POOLINGS)}, prompts included, but got {said}: {ADVICE}"
        )


def read_dense(found: Checkpoint, folder: Path) -> None:
    """A dense layer's shape and weights."""
    path = folder / "config.json"
    said = read_json(path)
    activation = str(said.get("activation_function", "Tanh"))
    name = activation.rpartition(".")[2]
    source = found.dense[-1]["to"] if found.dense else "sentence_embedding"
    reads = said.get("module_input_name", "sentence_embedding")
    if name not in ACTIVATIONS or said.get("use_residual") or reads != source:
        raise BackboneError(
            f"{path}: expected a layer on {source!r:.80} with one of {', '.join(ACTIVATIONS)} and no residual, but got {said}: {ADVICE}"
        )
    layer = {
        "in": int(said["in_features"]),
        "out": int(said["out_features"]),
        "bias": bool(said.get("bias", True)),
    }
    found.dense.append({**layer, "activation": name, "to": said.get("module_output_name") or reads})
    file = folder / "model.safetensors"
    if not file.is_file():
        raise BackboneError(
            f"{file}: no such file: pickled weights are never loaded; save the model again as safetensors"
        )
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise BackboneError(f"{file}: not a safetensors file ({error})") from error
    found.weights.append({key.removeprefix("linear."): value.float() for key, value in weights.items()})
