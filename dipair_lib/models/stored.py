"""How models are written to disk and read back: ``config.json`` beside ``model.safetensors``, nothing
pickled.
"""

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
from dipair_lib.models.baselines import Constant, TfIdf
from dipair_lib.models.bilstm import BiLSTM
from dipair_lib.models.cross_encoder import CrossEncoder
from dipair_lib.models.dipair import DualEncoder
from dipair_lib.models.folders import BackboneError, refuse_remote_code, sealed, sha256_of
from dipair_lib.models.pair_model import BaseModel, PairModel
from dipair_lib.models.sequence_classifier import SequenceClassifier
from dipair_lib.system import contents, disk

Network = CrossEncoder | PairModel
Model = Network | Constant | TfIdf
NETWORKS: dict[str, type[CrossEncoder | DualEncoder | BiLSTM]] = {
    model.kind: model for model in (CrossEncoder, SequenceClassifier, DualEncoder, BiLSTM)
}

SEAL = "config_sha256"  # of an exported student's config; "sha256" in it is the weights'


class ModelError(ValueError):
    """A model folder that cannot be loaded: missing, damaged or foreign files."""


def save(model: BaseModel, folder: Path, *, frozen_encoder: bool = False, **further: Any) -> Path:
    """Write a model: weights as safetensors first, the config that names their hash last.

    Args:
        model: any of this package's models.
        folder: made if need be.
        frozen_encoder: the encoder was never trained: leave its weights out, they are the backbone's (whose
            hash is noted).
        further: what else the config names, such as the hashes of an exported student's tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    further |= model.save_beside(folder)
    config: dict[str, Any] = {
        "kind": model.kind, "frozen_encoder": frozen_encoder, "settings": model.config, **further,
    }  # fmt: skip
    tensors = model.tensors(frozen_encoder)
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
        ModelError: it could not be written (disk full, no permission); the temporary is gone, an old file is
            whole.
    """
    try:
        with disk.replacing(path) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:  # safetensors has the system's errors as text only
        raise ModelError(
            f"{path}: could not be written ({error}): free some space, or name another folder, and run the same command again"
        ) from error


def load(folder: str | Path) -> Model:
    """Read a model that ``save`` wrote, in float32 and evaluation mode.

    Raises:
        ModelError: a file is missing, is not JSON or safetensors, has another hash than its config names, or
            does not fit the architecture.
        BackboneError: its config or tokenizer asks for remote code, or for a backbone that is not on this
            machine.
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
    model = NETWORKS[config["kind"]](**settings)
    own = model.kind == DualEncoder.kind and ("exported" in config or (folder / "tokenizer").exists())
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
    return model.eval()


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
    """An exported student's tokenizer, once each of its files was compared with the hash that the student's
    config names.
    """
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
