"""Cross-encoder: one pass over all fields of a pair together. Right, and slow: everything it costs, it costs
per pair.

The teacher is one with all layers; a cheaper one is the backbone's first two, distilled (never pre-trained
so; BERT-Tiny, which was, is a backbone by name); the truncated-input teacher is one that reads only the first
word pieces of each field, [CLS] and [SEP] among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from dipair_lib.models import costs
from dipair_lib.models.backbone import build_backbone, config_as_dict, load_backbone, positions_of
from dipair_lib.models.folders import EMBEDDED, DoesNotApply
from dipair_lib.models.pair_model import BaseModel
from dipair_lib.models.tokens import Texts

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class CrossEncoder(BaseModel):
    """[CLS] a [SEP] b [SEP] -> encoder -> mean of the outputs -> logits.

    The mean is read, not [CLS], because the embedded backbone was trained with mean pooling and has no
    trained [CLS] (the papers' BERT has; with it the first output would be the natural choice). Of GPT, too,
    the mean is read, where its paper reads the last output: there one token stands for [CLS] and [SEP]
    (``tokens.separator``), each output has seen all before it, and none sees the padding behind it.

    Args:
        backbone: ``embedded``, a directory or a hub name.
        read_lengths: word pieces read of each field, [CLS] and [SEP] included.
        outputs: logits per pair.
        layers: first layers kept of the backbone; 0 keeps all.
        backbone_config: builds the architecture without weights (they follow from a file).
    """

    kind = "cross_encoder"
    per_pair: Literal[True] = True
    reads_texts: Literal[False] = False
    joins_itself = False  # in another way than ``joined_lengths`` says

    def __init__(
        self,
        backbone: str = EMBEDDED,
        read_lengths: Sequence[int] = (32, 128),
        outputs: int = 1,
        layers: int = 0,
        backbone_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        encoder: Any = (
            build_backbone(backbone_config, layers=layers)
            if backbone_config
            else load_backbone(backbone, layers=layers)
        )
        self.encoder = encoder
        self.notes = getattr(encoder, "notes", "")
        joined, most = sum(read_lengths) - len(read_lengths) + 1, positions_of(encoder)
        if not backbone_config and 0 < most < joined:
            raise DoesNotApply(
                f"read_lengths: expected at most {most} word pieces together, as many as {backbone} has positions, but got {joined} of "
                f"{list(read_lengths)}: read fewer"
            )
        self.output = nn.Linear(encoder.config.hidden_size, outputs)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)
        self.settings = {
            "backbone": backbone,
            "read_lengths": list(read_lengths),
            "outputs": outputs,
            "layers": layers,
        }

    @property
    def config(self) -> dict[str, Any]:
        """Everything that builds this architecture again, as JSON values."""
        return {**self.settings, "backbone_config": config_as_dict(self.encoder)}

    @property
    def encoders(self) -> list[Any]:
        return [self.encoder]

    def describe(self) -> dict[str, Any]:
        settings = self.settings
        name = f"cross-encoder {settings['layers']} layers" if settings["layers"] else "teacher"
        backbone, lengths = Path(settings["backbone"]).name, "+".join(map(str, self.read_lengths))
        return {"model": name, "family": "cross-encoder", "backbone": backbone, "read_lengths": lengths}

    def costs(self, texts: Texts, sample: int = 8) -> dict[str, Any]:
        known = costs.count_parameters(self)
        rows = np.linspace(0, len(texts) - 1, min(sample, len(texts))).astype(np.int64)
        flops = [costs.count_flops(partial(self, *self.batch(texts, np.array([row])))) for row in rows]
        return {
            **known,
            "params_per_pair": known["params_total"],
            "flops_per_text": None,
            "flops_per_pair": float(np.mean(flops)),
            "bytes_per_text": None,
        }

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """ids, mask, types [pairs, tokens] -> logits [pairs, outputs]."""
        return self.output(self.features(ids, mask, types))

    def features(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """What the output layer reads: the mean of the outputs, [pairs, width]."""
        extra = {"token_type_ids": types} if getattr(self.encoder.config, "type_vocab_size", 0) > 1 else {}
        hidden = self.encoder(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
        return mean_of(hidden.to(self.output.weight.dtype), mask)

    @property
    def final_bias(self) -> nn.Parameter:
        """The shift of the logits [outputs]: a training starts it at the mean of its targets."""
        return self.output.bias

    def pair_lengths(self, texts: Texts) -> np.ndarray:
        """int64 [rows]: word pieces of each row's joined input."""
        return joined_lengths(texts)

    def batch(self, texts: Texts, rows: np.ndarray) -> Batch:
        """ids, mask, types [n, tokens] of some rows: the fields joined, each later one without its [CLS]."""
        lengths = joined_lengths(texts, rows)
        width = int(lengths.max(initial=1))
        ids = np.zeros((len(rows), width), np.int64)
        types = np.zeros((len(rows), width), np.int64)
        column = np.arange(width)[None, :]
        start = np.zeros(len(rows), np.int64)
        for field, tokens in enumerate(texts.tokens):
            which = texts.index[rows, field]
            skip = int(field > 0)
            n = tokens.lengths[which] - skip
            inside = (column >= start[:, None]) & (column < (start + n)[:, None])
            source = tokens.offsets[which][:, None] + skip + column - start[:, None]
            ids[inside] = tokens.ids[source[inside]]
            types[inside] = min(field, 1)
            start = start + n
        return torch.from_numpy(ids), torch.from_numpy(column < lengths[:, None]), torch.from_numpy(types)


def joined_lengths(texts: Texts, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """int64 [rows]: word pieces of all fields together, one [CLS] at the front."""
    index = texts.index[rows]
    total = np.zeros(len(index), np.int64)
    for field, tokens in enumerate(texts.tokens):
        which = index[:, field]
        total += tokens.offsets[which + 1] - tokens.offsets[which] - int(field > 0)
    return total


def mean_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the unmasked outputs: hidden [n, tokens, width], mask bool [n, tokens] -> [n, width], in the
    dtype of hidden.
    """
    weights = mask.to(hidden.dtype)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    return (weights[:, None, :] @ hidden)[:, 0]
