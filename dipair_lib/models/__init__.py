"""Models, and how they are written to disk and read back: ``config.json`` beside ``model.safetensors``, nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dipair_lib.models import offline
from dipair_lib.models.backbone import load_backbone, load_tokenizer, stored_tokenizer
from dipair_lib.models.baselines import Constant, TfIdf
from dipair_lib.models.bilstm import BiLSTM
from dipair_lib.models.brought import bring
from dipair_lib.models.cross_encoder import CrossEncoder
from dipair_lib.models.dipair import DualEncoder
from dipair_lib.models.folders import EMBEDDED, BackboneError, refuse_remote_code, sealed, sha256_of
from dipair_lib.models.heads import Kept, Prepared
from dipair_lib.models.sequence_classifier import WHOLE, SequenceClassifier
from dipair_lib.models.tokens import Texts, Tokens
from dipair_lib.models.words import WordTokenizer
from dipair_lib.system import contents, disk

__all__ = [
    "EMBEDDED", "BackboneError", "BiLSTM", "Constant", "CrossEncoder", "DualEncoder", "Kept", "Model", "ModelError", "Prepared",
    "SequenceClassifier", "Texts", "TfIdf", "Tokens", "WordTokenizer", "bring", "describe", "load",
    "load_backbone", "load_tokenizer", "save", "tokenizer_of",
]  # fmt: skip

Model = CrossEncoder | DualEncoder | BiLSTM | Constant | TfIdf
NETWORKS: dict[str, Any] = {
    model.kind: model for model in (CrossEncoder, SequenceClassifier, DualEncoder, BiLSTM)
}

SEAL = "config_sha256"  # of an exported student's config; "sha256" in it is the weights'


class ModelError(ValueError):
    """A model folder that cannot be loaded: missing, damaged or foreign files."""


def describe(model: Model) -> dict[str, Any]:
    """The model group of a result row: display name, family, backbone, head, keep, read_lengths, projection."""
    if isinstance(model, Constant):
        return {"model": "constant", "family": "constant"}
    if isinstance(model, TfIdf):
        return {"model": "TF-IDF", "family": "lexical"}
    settings: dict[str, Any] = model.settings
    if isinstance(model, SequenceClassifier):
        brought = Path(settings["backbone"]).name
        whole = WHOLE in settings["read_lengths"]
        read = {} if whole else {"read_lengths": "+".join(str(n) for n in settings["read_lengths"])}
        return {"model": f"teacher {brought}", "family": "cross-encoder", "backbone": brought, **read}
    lengths = {"read_lengths": "+".join(str(n) for n in settings["read_lengths"])}
    if isinstance(model, BiLSTM):
        return {"model": f"BiLSTM {settings['hidden']}", "family": "bilstm", "head": "compare", **lengths}
    common = {"backbone": Path(settings["backbone"]).name, **lengths}
    if isinstance(model, CrossEncoder):
        name = f"cross-encoder {settings['layers']} layers" if settings["layers"] else "teacher"
        return {"model": name, "family": "cross-encoder", **common}
    common |= {
        "backbone": common["backbone"] + (f" {settings['layers']} layers" if settings["layers"] else "")
    }
    keep, head = settings["keep"], settings["head"]
    encoder = [f"{settings['layers']} encoder layers"] if settings["layers"] else []
    encoder += [] if settings["shared"] else ["separate encoders"]
    if head == "cosine":
        return {
            "model": ", ".join(["DE-Cos", *encoder]),
            "family": "dual-encoder",
            "head": "cosine",
            **common,
        }
    plus = f" + {settings['residual']}" if settings["residual"] else ""
    sizes = (
        [f"h={'-'.join(map(str, settings['hidden']))}"]
        if head == "ffnn" and settings["hidden"] != [256, 128]
        else []
    )
    if not any(keep):
        name = " ".join(["DE-FFNN", *sizes])
        return {
            "model": ", ".join([name + plus, *encoder]),
            "family": "dual-encoder",
            "head": "ffnn",
            **common,
        }
    tokens = {"keep": joined(keep), "projection": joined(settings["projection"]) or None}
    short = {"ffnn": "DiPair-FFNN", "transformer": "DiPair-TSF", "maxsim": "MaxSim"}.get(
        head, "cosine + MaxSim"
    )
    sizes += [f"w={tokens['projection'] or 'full'}"] if tokens["projection"] != 128 else []
    if head == "transformer":
        sizes += [f"{settings['head_layers']} layers"] if settings["head_layers"] != 1 else []
        sizes += [f"ffn={settings['head_ffn']}"] if settings["head_ffn"] != 256 else []
    sizes += [settings["select"]] if settings["select"] != "first" else []
    extra = (" + pooled" if settings["pooled"] and head != "cosine+maxsim" else "") + plus
    # Rows of one head differ in the tokens they keep, and in nothing else of the head.
    label = " ".join([head + ("+pooled" if settings["pooled"] and head != "cosine+maxsim" else ""), *sizes])
    name = " ".join([f"{short} k={tokens['keep']}", *sizes]) + extra
    shape = {"model": ", ".join([name, *encoder]), "family": "dipair", "head": label}
    return {**shape, **tokens, **common}


def joined(numbers: list[int]) -> int | str:
    """One number where all fields have the same, else "4+16"."""
    return numbers[0] if len(set(numbers)) == 1 else "+".join(map(str, numbers))


def tokenizer_of(model: CrossEncoder | DualEncoder | BiLSTM) -> Any:
    """What turns texts into the ids a network reads: its backbone's tokenizer, an exported student's own, a
    checkpoint's own (of single fields), or a BiLSTM's words."""
    if isinstance(model, BiLSTM | SequenceClassifier):
        return model.tokenizer
    if isinstance(model, DualEncoder) and model.tokenizer_folder:
        return stored_tokenizer(model.tokenizer_folder)
    with offline.only():
        return load_tokenizer(str(model.settings["backbone"]))


def save(model: Model, folder: Path, *, frozen_encoder: bool = False, **further: Any) -> Path:
    """Write a model: weights as safetensors first, the config that names their hash last.

    Args:
        model: any of this package's models.
        folder: made if need be.
        frozen_encoder: the encoder was never trained: leave its weights out, they are the backbone's (whose hash is noted).
        further: what else the config names, such as the hashes of an exported student's tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, SequenceClassifier):
        further["tokenizer"] = model.save_tokenizer(folder / "tokenizer")
    config: dict[str, Any] = {
        "kind": model.kind, "frozen_encoder": frozen_encoder, "settings": model.config, **further,
    }  # fmt: skip
    tensors = tensors_of(model, frozen_encoder)
    if tensors:
        with put_in_place(folder / "model.safetensors") as temporary:
            save_file(tensors, temporary)
        config["sha256"] = sha256_of(folder / "model.safetensors")
    with put_in_place(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config), encoding="utf8")
    return folder


@contextmanager
def put_in_place(path: Path) -> Iterator[Path]:
    """A temporary name for a file that takes its place once the block is through.

    Raises:
        ModelError: it could not be written (disk full, no permission); the temporary is gone, an old file is whole.
    """
    try:
        with disk.replacing(path) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:  # safetensors has the system's errors as text only
        raise ModelError(
            f"{path}: could not be written ({error}): free some space, or name another folder, and run the same command again"
        ) from error


def tensors_of(model: Model, frozen_encoder: bool) -> dict[str, torch.Tensor]:
    """What goes into the weights file, by name."""
    if isinstance(model, Constant):
        return {}
    if isinstance(model, TfIdf):
        return model.tensors()
    skip, seen, found = "encoder." if frozen_encoder else "\0", set(), {}
    for name, value in model.state_dict().items():
        if not name.startswith(skip):
            # Tied embeddings (T5, BART) are written under each of their names: safetensors shares none.
            found[name] = value.clone() if value.data_ptr() in seen else value.contiguous()
            seen.add(value.data_ptr())
    return found


def load(folder: str | Path) -> Model:
    """Read a model that ``save`` wrote, in float32 and evaluation mode.

    Raises:
        ModelError: a file is missing, is not JSON or safetensors, has another hash than its config names, or does not fit the architecture.
        BackboneError: its config or tokenizer asks for remote code, or for a backbone that is not on this machine.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        with offline.only():
            return build(folder, config, config["settings"])
    except (ModelError, BackboneError):
        raise
    except Exception as error:  # a foreign config can fail at any line of an architecture
        raise ModelError(
            f"{folder / 'config.json'}: its settings make no {config['kind']} ({type(error).__name__}: {error})"
        ) from error


def build(folder: Path, config: dict[str, Any], settings: dict[str, Any]) -> Model:
    """The model of a checked config with its weights."""
    if config["kind"] == Constant.kind:
        return Constant(**settings)
    tensors = read_tensors(folder, config)
    if config["kind"] == TfIdf.kind:
        return TfIdf(weights={name: value.numpy() for name, value in tensors.items()}, **settings)
    if config["frozen_encoder"]:
        settings = {**settings, "backbone_config": None}
    model: Any = NETWORKS[config["kind"]](**settings)
    own = isinstance(model, DualEncoder) and ("exported" in config or (folder / "tokenizer").exists())
    if own and "tokenizer" not in config:
        raise ModelError(
            f"{folder / 'config.json'}: names no sha256 of the student's own tokenizer, and another one would give other scores: "
            "the folder is damaged or foreign: export the student again"
        )
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not (config["frozen_encoder"] and name.startswith("encoder."))]
    if missing or unexpected:
        raise ModelError(
            f"{folder / 'model.safetensors'}: does not fit its config: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    if "tokenizer" in config:
        model.tokenizer_folder = check_tokenizer(folder / "tokenizer", config["tokenizer"])
    if SEAL in config and sealed(config, SEAL) != config:
        raise ModelError(
            f"{folder / 'config.json'}: damaged: its sha256 is not that of what it says: export the student again"
        )
    return model.eval()  # type: ignore[no-any-return]


def read_config(folder: Path) -> dict[str, Any]:
    """The checked ``config.json`` of a saved model."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path}: no such file: expected a folder that dipair-lab saved a model to"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not whole JSON ({error}): run the training again") from None
    if not isinstance(config, dict) or not {"kind", "frozen_encoder", "settings"} <= set(config):
        raise ModelError(
            f"{path}: not a config of dipair-lab: expected the keys kind, frozen_encoder, settings"
        )
    if not isinstance(config["settings"], dict):
        raise ModelError(f"{path}: settings: expected a mapping, but got {config['settings']!r:.80}")
    for part in (config, config["settings"]):
        refuse_remote_code(part, str(path))
    if config["kind"] not in [*NETWORKS, Constant.kind, TfIdf.kind]:
        raise ModelError(
            f"{path}: unknown kind {config['kind']!r:.80}: expected one of {', '.join([*NETWORKS, Constant.kind, TfIdf.kind])}"
        )
    sums = folder.parent / contents.SUMS  # of a run's row
    if not contents.is_as_noted(path, sums):
        raise ModelError(
            f"{path}: its sha256 is not the one in {sums}: it was changed or damaged after it was written; run its notebook again"
        )
    return config


def check_tokenizer(folder: Path, hashes: dict[str, str]) -> Path:
    """An exported student's tokenizer, once each of its files was compared with the hash that the student's config names."""
    if not isinstance(hashes, dict) or not hashes or any(Path(name).name != name for name in hashes):
        raise ModelError(f"{folder}: expected names of files in this folder, but its config says {hashes!r}")
    found = {path.name: sha256_of(path) for path in sorted(folder.glob("*")) if path.is_file()}
    different = [name for name in {**hashes, **found} if hashes.get(name) != found.get(name)]
    if different:
        raise ModelError(
            f"{folder / different[0]}: expected sha256 {hashes.get(different[0], 'of no such file')}, but got "
            f"{found.get(different[0], 'no file')}: the folder is damaged or foreign: export the student again"
        )
    return folder


def read_tensors(folder: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights, after their hash was compared with the config's."""
    path = folder / "model.safetensors"
    if not path.exists():
        others = sorted(
            p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
        )
        hint = f" (found {', '.join(others)}: pickled weights are never loaded)" if others else ""
        raise ModelError(f"{path}: no such file{hint}")
    found = sha256_of(path)
    if found != config.get("sha256"):
        raise ModelError(
            f"{path}: expected sha256 {config.get('sha256')}, but got {found}: the file is damaged or foreign"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from None
