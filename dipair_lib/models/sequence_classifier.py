"""A cross-encoder with a head of its own: a sequence-classification checkpoint, read as the library reads it
that wrote it.

How a checkpoint becomes one is in ``brought``; here is what it computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from dipair_lib.models.backbone import build_backbone, prepare_config, stored_tokenizer
from dipair_lib.models.cross_encoder import Batch, CrossEncoder, mean_of
from dipair_lib.models.folders import refuse_remote_code, sha256_of
from dipair_lib.models.tokens import Texts

WHOLE = 2**20  # word pieces: a field is read whole, and only the joined input is cut
ACTIVATIONS: dict[str, type[nn.Module]] = {
    one.__name__: one for one in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid)
}
POOLINGS = ("cls", "mean", "max", "lasttoken")


class SequenceClassifier(CrossEncoder):
    """Texts joined as the checkpoint's tokenizer joins them -> its transformer and head -> its logits, in the
    order of the task's classes.

    The logits are raw: the activation that a library puts behind them (sentence-transformers: a sigmoid for
    one output) is left away, since students learn raw logits. Order, AUC and every ranking metric are the
    same with it or without; a cut of probabilities at 0.5 is the cut of logits at 0; Pearson's correlation is
    another one.

    A pair that is too long is cut as ``longest_first`` does it: word pieces of the longer text go, until both
    are of one length. Padding is on the right, whatever side the tokenizer prefers: a pair's logits are those
    of the pair alone, in any batch.

    Args:
        backbone: the checkpoint's folder or hub name.
        read_lengths: word pieces read of each field before they are joined, two special ones included;
            ``WHOLE`` reads all.
        outputs: logits per row: 1 for scores and two classes, else one per class.
        layers: 0; a checkpoint with a head is used whole.
        readout: [outputs][logits of the checkpoint], entries 0, 1 and -1: what of its logits makes which
            output.
        max_length: word pieces of the joined input, special ones included.
        joined: what stands around the fields, see ``brought.joining_of``.
        truncate_left: cut texts at their beginning.
        token_types: tell the transformer which text a piece is of.
        pad: id of padding.
        prompt: put before every first text.
        pooling: [] where the transformer has its head; else how outputs are pooled (of ``POOLINGS``, side by
            side) for ``dense``.
        dense: layers after pooling: ``in``, ``out``, ``bias``, ``activation`` (of ``ACTIVATIONS``).
        backbone_config: builds the architecture without weights.
        encoder: in its place, with weights.
    """

    kind = "sequence_classifier"
    joins_itself = True

    def __init__(
        self,
        backbone: str,
        read_lengths: Sequence[int],
        outputs: int,
        readout: Sequence[Sequence[int]],
        max_length: int,
        joined: dict[str, Any],
        layers: int = 0,
        truncate_left: bool = False,
        token_types: bool = False,
        pad: int = 0,
        prompt: str = "",
        pooling: Sequence[str] = (),
        dense: Sequence[dict[str, Any]] = (),
        backbone_config: dict[str, Any] | None = None,
        encoder: nn.Module | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.settings = {
            "backbone": backbone, "read_lengths": list(read_lengths), "outputs": outputs, "layers": layers,
            "readout": [list(row) for row in readout], "max_length": max_length, "joined": joined, "truncate_left": truncate_left,
            "token_types": token_types, "pad": pad, "prompt": prompt, "pooling": list(pooling), "dense": list(dense),
        }  # fmt: skip
        built: Any = encoder
        if built is None:
            assert backbone_config is not None
            built = (
                Pooled(build_backbone(backbone_config), pooling, dense)
                if pooling
                else build_classifier(backbone_config)
            )
        self.encoder = built
        self.register_buffer("readout", torch.tensor(readout, dtype=torch.float32), persistent=False)
        # Added to the outputs: zero as the checkpoint comes; a training for scores begins by shifting it.
        self._shift = nn.Parameter(torch.zeros(outputs))
        self.own_tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def final_bias(self) -> nn.Parameter:
        """A shift of the outputs [outputs], zero as the checkpoint comes."""
        return self._shift

    @property
    def tokenizer(self) -> FieldTokenizer:
        """The checkpoint's tokenizer, of single fields without special tokens."""
        if self.own_tokenizer is None:
            assert self.tokenizer_folder is not None
            self.own_tokenizer = stored_tokenizer(self.tokenizer_folder)
        return FieldTokenizer(self.own_tokenizer, self.settings["prompt"])

    def save_beside(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer; each file's name and sha256."""
        folder = folder / "tokenizer"
        self.tokenizer.tokenizer.save_pretrained(folder)
        return {"tokenizer": {path.name: sha256_of(path) for path in sorted(folder.iterdir())}}

    def describe(self) -> dict[str, Any]:
        backbone, lengths = Path(self.settings["backbone"]).name, self.read_lengths
        known = {"model": f"teacher {backbone}", "family": "cross-encoder", "backbone": backbone}
        return known if WHOLE in lengths else {**known, "read_lengths": "+".join(map(str, lengths))}

    def features(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """What another's head reads is not known: ``match`` needs a teacher trained here."""
        raise ValueError(
            f"match: the head of {self.settings['backbone']} is its own, and what it reads is not known: leave match at 0, or train the "
            "teacher here (`teacher` empty)"
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """ids, mask, types [pairs, tokens] -> logits [pairs, outputs]."""
        extra = {"token_type_ids": types} if self.settings["token_types"] else {}
        # Decoders find a text's end by its padding, whoever padded.
        ids = ids.masked_fill(~mask, self.settings["pad"])
        logits = self.encoder(input_ids=ids, attention_mask=mask, **extra).logits.float()
        weights: Any = self.readout
        return (logits[:, None, :] * weights).sum(2) + self._shift

    @property
    def special(self) -> int:
        """Special tokens of a joined input."""
        joined: dict[str, list[Any]] = self.settings["joined"]
        return len(joined["before"]) + len(joined["between"]) + len(joined["after"])

    def pair_lengths(self, texts: Texts) -> np.ndarray:
        """int64 [rows]: word pieces of each row's joined input."""
        return self.lengths_kept(texts, np.arange(len(texts))).sum(1) + self.special

    def lengths_kept(self, texts: Texts, rows: np.ndarray) -> np.ndarray:
        """int64 [n, fields]: word pieces of each field that fit into the joined input."""
        lengths = [tokens.lengths[texts.index[rows, field]] for field, tokens in enumerate(texts.tokens)]
        return longest_first(np.stack(lengths, axis=1), self.settings["max_length"] - self.special)

    def batch(self, texts: Texts, rows: np.ndarray) -> Batch:
        """ids, mask, types [n, tokens] of some rows: the fields (of bare word pieces) joined, and the special
        tokens around them.
        """
        joined, n, every = self.settings["joined"], len(rows), np.arange(len(rows))
        kept = self.lengths_kept(texts, rows)
        between = [joined["before"], *[joined["between"]] * (kept.shape[1] - 1), joined["after"]]
        lengths = kept.sum(1) + self.special
        width = int(lengths.max(initial=1))
        column = np.arange(width)[None, :]
        ids = np.full((n, width), self.settings["pad"], np.int64)
        types = np.zeros((n, width), np.int64)
        start = np.zeros(n, np.int64)
        for field, special in enumerate(between):
            for token, kind in special:
                ids[every, start], types[every, start] = token, kind
                start = start + 1
            if field == kept.shape[1]:
                break
            tokens, which, length = texts.tokens[field], texts.index[rows, field], kept[:, field]
            first = tokens.offsets[which]
            if self.settings["truncate_left"]:
                first = first + tokens.lengths[which] - length
            inside = (column >= start[:, None]) & (column < (start + length)[:, None])
            ids[inside] = tokens.ids[(first[:, None] + column - start[:, None])[inside]]
            types[inside] = joined["types"][field]
            start = start + length
        return torch.from_numpy(ids), torch.from_numpy(column < lengths[:, None]), torch.from_numpy(types)


def longest_first(lengths: np.ndarray, room: int) -> np.ndarray:
    """Word pieces kept of each field, int64 [rows, fields]: one field up to ``room``; of two the longer is
    cut to what the shorter leaves, at least to the shorter's length, and if that is still too much both get
    half (an odd piece goes to the longer, of equal ones to the second). The rule of the ``tokenizers``
    library.
    """
    if lengths.shape[1] == 1:
        return np.minimum(lengths, room)
    short, long = lengths.min(1), lengths.max(1)
    cut = np.maximum(short, room - short)
    both = short + cut > room
    fits = short + long <= room
    new_short = np.where(fits | ~both, short, room // 2)
    new_long = np.where(fits, long, np.where(both, room // 2 + room % 2, cut))
    first_is_long = lengths[:, 0] > lengths[:, 1]
    kept = [np.where(first_is_long, new_long, new_short), np.where(first_is_long, new_short, new_long)]
    return np.stack(kept, axis=1).astype(np.int64)


class FieldTokenizer:
    """A tokenizer as ``tokens.read`` uses it, of which a text's word pieces come without special tokens:
    those belong to the pair.

    Args:
        prompt: what ``tokens.read`` puts before every first text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: str = "") -> None:
        self.tokenizer, self.prompt = tokenizer, prompt

    def __call__(
        self, texts: Sequence[str], truncation: bool = True, max_length: int = WHOLE, **_: Any
    ) -> dict[str, list[list[int]]]:
        """``input_ids`` of each text, at most ``max_length`` with the two special tokens that are not there."""
        encoded = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=truncation, max_length=max_length - 2,
            return_attention_mask=False, return_token_type_ids=False,
        )  # fmt: skip
        return {"input_ids": encoded["input_ids"]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Word pieces as text."""
        return list(self.tokenizer.convert_ids_to_tokens(ids))


class Float32Linear(nn.Linear):
    """A linear layer that computes and returns float32, whatever its input and weights are in: logits of
    bfloat16 would hold three digits, and tie.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """input [..., in] -> float32 [..., out]."""
        bias = None if self.bias is None else self.bias.float()
        return F.linear(input.float(), self.weight.float(), bias)


class Pooled(nn.Module):
    """A transformer without a head, pooling, dense layers: what sentence-transformers' CrossEncoder makes of
    modules of one's own.

    Args:
        transformer: from ``load_backbone``.
        pooling, dense: see ``SequenceClassifier``.
    """

    def __init__(
        self, transformer: nn.Module, pooling: Sequence[str], dense: Sequence[dict[str, Any]]
    ) -> None:
        super().__init__()
        self.transformer, self.pooling = transformer, list(pooling)
        layers: list[nn.Module] = []
        for one in dense:
            layers += [
                Float32Linear(one["in"], one["out"], bias=one["bias"]),
                ACTIVATIONS[one["activation"]](),
            ]
        self.dense = nn.Sequential(*layers)

    @property
    def config(self) -> Any:
        return self.transformer.config

    def get_input_embeddings(self) -> nn.Module:
        """The word-piece embeddings."""
        transformer: Any = self.transformer
        return transformer.get_input_embeddings()  # type: ignore[no-any-return]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **extra: torch.Tensor
    ) -> SimpleNamespace:
        """input_ids, attention_mask [n, tokens] -> an object with ``logits`` [n, out]; padding on the right."""
        hidden = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, **extra
        ).last_hidden_state
        hidden = hidden.float()
        parts = [POOLED[name](hidden, attention_mask) for name in self.pooling]
        return SimpleNamespace(logits=self.dense(torch.cat(parts, dim=-1)))


def max_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The largest of the unmasked outputs, per dimension."""
    return hidden.masked_fill(~mask[..., None], float("-inf")).amax(1)


def last_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The last unmasked output."""
    last = mask.sum(1) - 1
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]


POOLED = {"cls": lambda hidden, _: hidden[:, 0], "mean": mean_of, "max": max_of, "lasttoken": last_of}


def build_classifier(config: dict[str, Any]) -> nn.Module:
    """A transformer with its head, of a stored configuration, weights still to be loaded."""
    where = "the model's config.json"
    settings = {k: v for k, v in config.items() if k not in {"transformers_version", "dtype", "torch_dtype"}}
    refuse_remote_code(settings, where)
    prepared = prepare_config(config, where, AutoConfig.for_model(settings.pop("model_type"), **settings))
    model = AutoModelForSequenceClassification.from_config(
        prepared, attn_implementation="eager", trust_remote_code=False
    )
    return with_float32_head(model.float())


def with_float32_head(model: Any) -> nn.Module:
    """The same transformer, the last layer of its head a ``Float32Linear``."""
    body = model.base_model_prefix + "."
    heads = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and not name.startswith(body)
        and layer.out_features == model.config.num_labels
    ]
    if heads:
        heads[-1].__class__ = Float32Linear
    return model  # type: ignore[no-any-return]
