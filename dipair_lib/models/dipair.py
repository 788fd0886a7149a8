"""Dual encoders: DE-Cos, DE-FFNN, and DiPair (Chen et al. 2020, section 3).

Encode once per text, keep, project; only the head runs per pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .backbone import EMBEDDED, build_backbone, config_as_dict, load_backbone
from .cross_encoder import mean_of
from .heads import CosineHead, FFNNHead, Kept, Prepared, TransformerHead

HEADS = ("cosine", "ffnn", "transformer")


class DualEncoder(nn.Module):
    """One shared encoder; of each text the first k outputs, projected, and/or the mean of all outputs; a head over both sides.

    Args:
        backbone: ``embedded``, a directory or a hub name.
        read_lengths: word pieces read of each field, [CLS] and [SEP] included. The input is read whole; the *output* is truncated.
        keep: outputs kept of each field; 0 keeps none, then ``pooled`` must be set.
        pooled: keep the mean of all outputs too (DE-Cos and DE-FFNN keep only that; DiPair as published keeps only first tokens).
        projection: width the kept tokens are projected to; 0 leaves the encoder's.
        head: ``cosine``, ``ffnn`` or ``transformer``.
        hidden: hidden widths of the FFNN head.
        residual: FFNN head corrects the cosine (see ``FFNNHead``).
        head_layers: layers of the transformer head.
        outputs: logits per pair.
        layers: first layers kept of the backbone; 0 keeps all.
        backbone_config: builds the architecture without weights.
    """

    kind = "dual_encoder"

    def __init__(
        self,
        backbone: str = EMBEDDED,
        read_lengths: Sequence[int] = (32, 128),
        keep: Sequence[int] = (8, 8),
        pooled: bool = False,
        projection: int = 128,
        head: str = "ffnn",
        hidden: Sequence[int] = (256, 128),
        residual: bool = False,
        head_layers: int = 1,
        outputs: int = 1,
        layers: int = 0,
        backbone_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_settings(read_lengths, keep, pooled, head)
        encoder: Any = (
            build_backbone(backbone_config, layers=layers)
            if backbone_config
            else load_backbone(backbone, layers=layers)
        )
        self.encoder = encoder
        encoder_width: int = encoder.config.hidden_size
        if projection > encoder_width:
            raise ValueError(
                f"projection: expected at most the encoder's width {encoder_width}, but got {projection}"
            )
        width = projection or encoder_width
        self.projection = nn.Linear(encoder_width, width) if projection and any(keep) else nn.Identity()
        self.pooled = pooled
        self.keep = list(keep)
        self.head: nn.Module
        if head == "cosine":
            self.head = CosineHead(outputs)
        elif head == "ffnn":
            flat = [k * width + (encoder_width if pooled else 0) for k in keep]
            self.head = FFNNHead(flat, hidden, outputs, residual)
        else:
            self.head = TransformerHead(keep, width, outputs, layers=head_layers)
        self.settings = {
            "backbone": backbone,
            "read_lengths": list(read_lengths),
            "keep": list(keep),
            "pooled": pooled,
            "projection": projection,
            "head": head,
            "hidden": list(hidden),
            "residual": residual,
            "head_layers": head_layers,
            "outputs": outputs,
            "layers": layers,
        }

    @property
    def config(self) -> dict[str, Any]:
        """Everything that builds this architecture again, as JSON values."""
        return {**self.settings, "backbone_config": config_as_dict(self.encoder)}

    @property
    def read_lengths(self) -> list[int]:
        return self.settings["read_lengths"]  # type: ignore[return-value]

    def outputs_of(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The encoder's outputs [texts, tokens, encoder width], in the head's dtype (the encoder may run in a shorter one)."""
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.to(self.final_bias.dtype)

    @property
    def final_bias(self) -> nn.Parameter:
        """The shift of the logits [outputs]."""
        return self.head.final_bias  # type: ignore[return-value]

    def cut(
        self, hidden: torch.Tensor, mask: torch.Tensor, field: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Keep the first k outputs [texts, k, encoder width] (zero where the text is shorter), their mask, the pooled vector or None."""
        k = self.keep[field]
        missing = max(0, k - hidden.shape[1])
        kept_mask = nn.functional.pad(mask[:, :k], (0, missing))
        first = nn.functional.pad(hidden[:, :k], (0, 0, 0, missing)) * kept_mask[..., None].to(hidden.dtype)
        return first, kept_mask, mean_of(hidden, mask) if self.pooled else None

    def project(self, first: torch.Tensor, mask: torch.Tensor, pooled: torch.Tensor | None) -> Kept:
        """Project what was cut; padded tokens stay zero."""
        return Kept(self.projection(first) * mask[..., None].to(first.dtype), mask, pooled)

    def encode(self, ids: torch.Tensor, mask: torch.Tensor, field: int) -> Kept:
        """Once per text: ids, mask [texts, tokens] -> Kept. Costly, cacheable."""
        return self.project(*self.cut(self.outputs_of(ids, mask), mask, field))

    def prepare(self, kept: Kept, field: int) -> Prepared:
        return self.head.prepare(kept, field)  # type: ignore[operator, no-any-return]

    def combine(self, *prepared: Prepared) -> torch.Tensor:
        return self.head.combine(*prepared)  # type: ignore[operator, no-any-return]

    def score(self, *kept: Kept) -> torch.Tensor:
        """Logits [pairs, outputs] of aligned texts, the seam in one line."""
        return self.combine(*(self.prepare(k, field) for field, k in enumerate(kept)))


def check_settings(read_lengths: Sequence[int], keep: Sequence[int], pooled: bool, head: str) -> None:
    """Raise for settings that could only give a wrong or empty model."""
    if head not in HEADS:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}, but got {head!r}")
    if len(keep) != len(read_lengths):
        raise ValueError(
            f"keep: expected one number for each of {len(read_lengths)} fields, but got {list(keep)}"
        )
    for k, length in zip(keep, read_lengths, strict=True):
        if k < 0 or k > length:
            raise ValueError(f"keep: expected 0 to the read length {length}, but got {k}")
    if head == "cosine" and (not pooled or len(keep) != 2):
        raise ValueError(
            f"head cosine: expected pooled=true and two fields, but got pooled={pooled} and {len(keep)} fields"
        )
    if head == "transformer" and (pooled or not all(keep)):
        raise ValueError(
            f"head transformer: expected at least one token of each field and pooled=false, but got keep={list(keep)}"
        )
    if not pooled and not all(keep):
        raise ValueError(
            f"keep: with pooled=false each field must keep at least one token, but got {list(keep)}"
        )
