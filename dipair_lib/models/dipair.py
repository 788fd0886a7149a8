"""Dual encoders: DE-Cos, DE-FFNN, and DiPair (Chen et al. 2020, section 3).

Encode once per text, keep, project; only the head runs per pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from dipair_lib.models.backbone import build_backbone, config_as_dict, load_backbone, positions_of
from dipair_lib.models.cross_encoder import mean_of
from dipair_lib.models.folders import EMBEDDED, DoesNotApply
from dipair_lib.models.heads import HEADS
from dipair_lib.models.pair_model import Head, Kept, PairModel, joined
from dipair_lib.models.similarities import SIMILARITIES, ResidualHead, SimilarityHead

SELECT = ("first", "even", "norm", "attention", "learned")
RESIDUAL = ("", *SIMILARITIES)


class Outputs(NamedTuple):
    """What an encoder gives of a batch of texts.

    Attributes:
        hidden: [texts, tokens, encoder width].
        mask: bool [texts, tokens].
        received: [texts, tokens], the attention each token receives in the last layer, mean over heads and
            real tokens; None unless the model selects by it.
    """

    hidden: torch.Tensor
    mask: torch.Tensor
    received: torch.Tensor | None = None


class DualEncoder(PairModel):
    """An encoder; of each text k of its outputs, projected, and/or the mean of all outputs; a head over both
    sides.

    Args:
        backbone: ``embedded``, a directory or a hub name.
        read_lengths: word pieces read of each field, [CLS] and [SEP] included. The input is read whole; the
            *output* is truncated.
        keep: outputs kept of each field, or one number for all; 0 keeps none, then ``pooled`` must be set.
        pooled: keep the mean of all outputs too (DE-Cos and DE-FFNN keep only that; DiPair as published keeps
            only first tokens). The transformer head reads it as one more token, in front.
        projection: width the kept tokens are projected to, one or one for each field (section 3.2 and the
            patent allow both); 0 leaves the encoder's. Fields of one width share one projection where they
            share the encoder.
        head: ``ffnn``, ``transformer``, or a similarity: ``cosine`` of the means, ``maxsim`` of the kept
            tokens, ``cosine+maxsim``.
        hidden: hidden widths of the FFNN head.
        residual: the similarity that the FFNN or transformer head corrects, or nothing.
        head_layers, head_ffn: layers of the transformer head and hidden width of their feed-forward part.
        outputs: logits per pair.
        layers: first layers kept of the backbone; 0 keeps all.
        select: which k outputs are kept: the ``first`` (the paper), ``even``ly spaced ones, those of largest
            ``norm``, those that receive most ``attention`` in the last layer, or k ``learned`` queries'
            attention over all of them (Humeau et al. 2020, Poly-encoders). Chosen tokens stay in the order of
            the text.
        shared: one encoder for all fields; else one each, of the same start.
        backbone_config: builds the architecture without weights.
    """

    kind = "dual_encoder"
    # What a person chooses of an architecture: names of arguments here and of parameters of 03_dipair.
    CHOICES = (
        "backbone", "layers", "shared", "head", "keep", "select", "pooled", "residual", "projection", "hidden", "head_layers", "head_ffn",
    )  # fmt: skip

    def __init__(
        self,
        backbone: str = EMBEDDED,
        read_lengths: Sequence[int] = (32, 128),
        keep: Sequence[int] = (8, 8),
        pooled: bool = False,
        projection: int | Sequence[int] = 128,
        head: str = "ffnn",
        hidden: Sequence[int] = (256, 128),
        residual: str = "",
        head_layers: int = 1,
        head_ffn: int = 256,
        outputs: int = 1,
        layers: int = 0,
        select: str = "first",
        shared: bool = True,
        backbone_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        fields = len(read_lengths)
        widths = [projection] if isinstance(projection, int) else list(projection)
        widths = widths * fields if len(widths) == 1 else widths
        keep = list(keep) * fields if len(keep) == 1 else list(keep)
        self.settings: dict[str, Any] = {
            "backbone": backbone,
            "read_lengths": list(read_lengths),
            "keep": keep,
            "pooled": pooled,
            "projection": widths,
            "head": head,
            "hidden": list(hidden),
            "residual": residual,
            "head_layers": head_layers,
            "head_ffn": head_ffn,
            "outputs": outputs,
            "layers": layers,
            "select": select,
            "shared": shared,
        }
        check_settings(self.settings)

        def encoder() -> Any:
            if backbone_config:
                return build_backbone(backbone_config, layers=layers)
            return load_backbone(backbone, layers=layers)

        self.encoder: Any = encoder() if shared else nn.ModuleList(encoder() for _ in range(fields))
        self.notes = getattr(self.encoder_of(0), "notes", "")
        width: int = self.encoder_of(0).config.hidden_size
        most = positions_of(self.encoder_of(0))
        if not backbone_config and 0 < most < max(read_lengths):
            raise DoesNotApply(
                f"read_lengths: expected at most {most} word pieces, as many as {backbone} has positions, but got {max(read_lengths)}"
            )
        if max(widths) > width:
            raise DoesNotApply(
                f"projection: expected at most the encoder's width {width}, but got {max(widths)}"
            )
        self.pooled, self.keep, self.select = pooled, keep, select
        self.needs_weights = select == "attention"
        out = [w or width for w in widths]
        one = shared and len(set(widths)) == 1
        self.projection: Any = nn.ModuleList(
            nn.Linear(width, w) if w and any(keep) else nn.Identity() for w in (widths[:1] if one else widths)
        )
        queries = [torch.randn(k, width) * width**-0.5 for k in keep] if select == "learned" else []
        self.queries = nn.ParameterList(nn.Parameter(q) for q in queries)
        self.head = build_head(self.settings, out, width)

    def encoder_of(self, field: int) -> Any:
        """The encoder that reads a field."""
        return self.encoders[0 if self.settings["shared"] else field]

    @property
    def config(self) -> dict[str, Any]:
        """Everything that builds this architecture again, as JSON values."""
        return {**self.settings, "backbone_config": config_as_dict(self.encoder_of(0))}

    @property
    def encoders(self) -> list[Any]:
        return list(self.encoder) if isinstance(self.encoder, nn.ModuleList) else [self.encoder]

    def describe(self) -> dict[str, Any]:
        settings, keep, head = self.settings, self.keep, self.settings["head"]
        layers = f"{settings['layers']} layers" if settings["layers"] else ""
        backbone = " ".join(filter(None, [Path(settings["backbone"]).name, layers]))
        common = {"backbone": backbone, "read_lengths": "+".join(map(str, self.read_lengths))}
        encoder = [f"{settings['layers']} encoder layers"] if layers else []
        encoder += [] if settings["shared"] else ["separate encoders"]
        plus = f" + {settings['residual']}" if settings["residual"] else ""
        inner, tokens = self.head.inner, head != "cosine" and any(keep)
        if not tokens:
            name = " ".join([inner.name(tokens), *inner.sizes([])]) + plus
            return {"model": ", ".join([name, *encoder]), "family": "dual-encoder", "head": head, **common}
        kept = {"keep": joined(keep), "projection": joined(settings["projection"]) or None}
        sizes = inner.sizes([f"w={kept['projection'] or 'full'}"] if kept["projection"] != 128 else [])
        sizes += [self.select] if self.select != "first" else []
        pooled = self.pooled and not head.startswith("cosine")  # which reads the mean anyway
        # Rows of one head differ in the tokens they keep, and in nothing else of the head.
        label = " ".join([head + ("+pooled" if pooled else ""), *sizes])
        name = " ".join([f"{inner.name(tokens)} k={kept['keep']}", *sizes])
        name += (" + pooled" if pooled else "") + plus
        return {"model": ", ".join([name, *encoder]), "family": "dipair", "head": label, **kept, **common}

    def outputs_of(self, ids: torch.Tensor, mask: torch.Tensor, field: int) -> Outputs:
        """What the encoder gives, in the head's dtype (the encoder may run in a shorter one)."""
        dtype = self.final_bias.dtype
        asked = {"output_attentions": True} if self.needs_weights else {}
        found = self.encoder_of(field)(input_ids=ids, attention_mask=mask, **asked)
        received = None
        if asked:
            if not found.attentions or found.attentions[-1].shape[-2:] != (ids.shape[1], ids.shape[1]):
                kind = type(self.encoder_of(field)).__name__
                raise DoesNotApply(
                    f"select: attention needs each token's weight on each, which {kind} does not give"
                )
            attention = found.attentions[-1].to(dtype).mean(1)  # [texts, from, to]
            received = mean_of(attention, mask)
        return Outputs(found.last_hidden_state.to(dtype), mask, received)

    def cut(self, outputs: Outputs, field: int) -> Kept:
        """What training needs of the outputs, unprojected: the k selected ones [texts, k, encoder width]
        (zero where the text is shorter), their mask, the pooled vector or None. Learned queries need all
        outputs.
        """
        hidden, mask, received = outputs
        pooled = mean_of(hidden, mask) if self.pooled else None
        if self.select == "learned":
            return Kept(hidden, mask, pooled)
        k = self.keep[field]
        missing = max(0, k - hidden.shape[1])
        if self.select == "first" or k == 0:
            first, kept_mask = hidden[:, :k], mask[:, :k]
        else:
            places = self.places(hidden, mask, received, min(k, hidden.shape[1]))
            first = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
            kept_mask = torch.arange(places.shape[1], device=mask.device) < mask.sum(1, keepdim=True)
        first = F.pad(first, (0, 0, 0, missing))
        kept_mask = F.pad(kept_mask, (0, missing))
        return Kept(first * kept_mask[..., None].to(hidden.dtype), kept_mask, pooled)

    def places(
        self, hidden: torch.Tensor, mask: torch.Tensor, received: torch.Tensor | None, k: int
    ) -> torch.Tensor:
        """int64 [texts, k]: positions to keep in ascending order; a text shorter than k keeps all of its
        tokens, in front.
        """
        lengths, first = mask.sum(1, keepdim=True), torch.arange(k, device=mask.device)
        if self.select == "even":
            step = (lengths - 1).clamp(min=0) / max(1, k - 1)
            return torch.where(lengths > k, (first * step).round().long(), first)
        weight = hidden.detach().norm(dim=-1) if self.select == "norm" else received
        assert weight is not None
        best = weight.masked_fill(~mask, float("-inf")).topk(k, dim=1).indices
        return torch.where(lengths > k, best.sort(dim=1).values, first)

    def project(self, kept: Kept, field: int) -> Kept:
        """Project what was cut (``learned``: attend to it first); padded tokens stay zero."""
        projection = self.projection[field if len(self.projection) > 1 else 0]
        vectors, mask = kept.vectors, kept.mask
        if self.select == "learned":
            scores = (self.queries[field] @ vectors.transpose(1, 2)) * vectors.shape[2] ** -0.5
            vectors = scores.masked_fill(~mask[:, None], float("-inf")).softmax(-1) @ vectors
            mask = mask.any(1, keepdim=True).expand(-1, vectors.shape[1])
        vectors = projection(vectors) * mask[..., None].to(vectors.dtype)
        if self.head.inner.reads_mean and kept.pooled is not None:
            token = projection(10 * F.normalize(kept.pooled, dim=-1))[:, None]
            vectors = torch.cat([token, vectors], dim=1)
            mask = F.pad(mask, (1, 0), value=True)
        return Kept(vectors, mask, kept.pooled)

    def encode(self, ids: torch.Tensor, mask: torch.Tensor, field: int) -> Kept:
        """Once per text: ids, mask [texts, tokens] -> Kept. Costly, cacheable."""
        return self.project(self.cut(self.outputs_of(ids, mask, field), field), field)


def build_head(settings: dict[str, Any], widths: list[int], encoder_width: int) -> Head:
    """The head of a model's settings over kept vectors of these widths, one per field."""
    head = HEADS[settings["head"]].of(settings, widths, encoder_width)
    residual = settings["residual"]
    return ResidualHead(head, SimilarityHead(residual, settings["outputs"])) if residual else head


def check_settings(settings: dict[str, Any]) -> None:
    """Raise for settings that could only give a wrong or empty model."""
    keep, pooled, head = settings["keep"], settings["pooled"], settings["head"]
    fields = len(settings["read_lengths"])
    for name, known in (("head", HEADS), ("select", SELECT), ("residual", RESIDUAL)):
        if settings[name] not in known:
            raise ValueError(
                f"{name}: expected one of {', '.join(map(repr, known))}, but got {settings[name]!r}"
            )
    for name in ("keep", "projection"):
        if len(settings[name]) != fields:
            raise ValueError(
                f"{name}: expected one number for each of {fields} fields, but got {settings[name]}"
            )
    for k, length in zip(keep, settings["read_lengths"], strict=True):
        if k < 0 or k > length:
            kind = ValueError if k < 0 else DoesNotApply
            raise kind(
                f"keep: expected 0 to the read length {length}, but got {k}: keep fewer, or set read_lengths to read more"
            )
    if min(settings["projection"]) < 0:
        raise ValueError(f"projection: expected 0 (none) or a width, but got {min(settings['projection'])}")
    if not pooled and not all(keep):
        raise ValueError(f"keep: with pooled=false each field must keep at least one token, but got {keep}")
    if settings["residual"]:
        SimilarityHead.check(settings, "residual")
        correcting = [name for name, kind in HEADS.items() if kind.last is not Head.last]
        if head not in correcting:
            said = " or ".join(correcting)
            raise ValueError(f"residual: expected head {said}, which correct it, but got head {head}")
    HEADS[head].check(settings)
