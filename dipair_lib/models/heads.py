"""Heads: what is computed of a pair from what each side keeps.

Each head splits its work at the seam: ``prepare`` does once per text everything that needs only one side,
``combine`` does per pair what truly needs both. ``combine(prepare(a), prepare(b))`` is an exact rewriting of
the textbook form, not an approximation. Prepared tensors broadcast: [m, 1, ...] with [1, n, ...] scores a
tile of m x n pairs.

A head with one field is a classifier of single texts; any number of fields works, except for the cosine and
MaxSim, which are for pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dipair_lib.models.pair_model import Head, Kept, Prepared
from dipair_lib.models.similarities import SIMILARITIES, ResidualHead, SimilarityHead, require_tokens

__all__ = [
    "HEADS",
    "CompareHead",
    "FFNNHead",
    "Kept",
    "Prepared",
    "ResidualHead",
    "SimilarityHead",
    "TransformerHead",
]


class FFNNHead(Head):
    """Feed-forward net over the concatenation of everything kept of all fields (DiPair-FFNN; DE-FFNN where
    only the pooled vector is kept).

    The first layer is linear in the concatenation, so each field's share of it is computed once per text; per
    pair remain an addition, ReLU and the later, small layers.

    Args:
        inputs: width of what each field hands over, flattened: k * width, plus the pooled width where that is
            kept.
        hidden: widths of the hidden layers; the first one is what is cached per text.
        outputs: logits per pair.
    """

    def __init__(self, inputs: Sequence[int], hidden: Sequence[int] = (256, 128), outputs: int = 1) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden: expected at least one hidden width, but got none")
        first = [nn.Linear(width, hidden[0], bias=field == 0) for field, width in enumerate(inputs)]
        for (
            layer
        ) in first:  # each field's share is a slice of one wide layer: initialise it as that layer would be
            bound = sum(inputs) ** -0.5
            nn.init.uniform_(layer.weight, -bound, bound)
        rest = [nn.Linear(a, b) for a, b in itertools.pairwise([*hidden, outputs])]
        self.first: Any = nn.ModuleList(first)
        self.rest: Any = nn.ModuleList(rest)

    @classmethod
    def of(cls, settings: dict[str, Any], widths: Sequence[int], encoder_width: int) -> FFNNHead:
        mean = encoder_width if settings["pooled"] else 0
        inputs = [k * w + mean for k, w in zip(settings["keep"], widths, strict=True)]
        return cls(inputs, settings["hidden"], settings["outputs"])

    def name(self, tokens: bool) -> str:
        return "DiPair-FFNN" if tokens else "DE-FFNN"

    def sizes(self, width: list[str]) -> list[str]:
        hidden = [layer.in_features for layer in self.rest]
        return [*([f"h={'-'.join(map(str, hidden))}"] if hidden != [256, 128] else []), *width]

    @property
    def last(self) -> nn.Linear:
        return self.rest[-1]  # type: ignore[no-any-return]

    @property
    def final_bias(self) -> nn.Parameter:
        return self.last.bias

    def prepare(self, kept: Kept, field: int) -> Prepared:
        """This field's share of the first layer, [texts, hidden]."""
        return (self.first[field](flatten(kept)),)

    def features(self, *prepared: Prepared) -> torch.Tensor:
        """What the last layer reads: [pairs, last hidden width]."""
        x = prepared[0][0]
        for other in prepared[1:]:
            x = x + other[0]
        for layer in self.rest[:-1]:
            x = layer(F.relu(x))
        return F.relu(x)

    def combine(self, *prepared: Prepared) -> torch.Tensor:
        """Logits [pairs, outputs]."""
        return self.last(self.features(*prepared))


def flatten(kept: Kept) -> torch.Tensor:
    """Everything kept of a text in one row: [texts, (pooled width +) k * width].

    The pooled vector gets length 10, about that of a token's.
    """
    tokens = kept.vectors.flatten(1)
    return (
        tokens if kept.pooled is None else torch.cat([10 * F.normalize(kept.pooled, dim=-1), tokens], dim=1)
    )


TOKEN_SPREAD = 0.2  # standard deviation of a token of the embedded backbone, projected


class TransformerHead(Head):
    """DiPair-TSF: a small transformer over the kept tokens of all fields, with position and segment
    embeddings.

    The first token's output is the pair.

    Pre-norm layers. The first layer's queries, keys and values depend on one side only and are computed once
    per text; in the last layer only the first token's output is computed, because nothing else is read.

    So one layer is one query, the first left token's, over all tokens: the other left tokens never meet the
    right side. From two layers on every token does, at the price of a whole layer per pair.

    Args:
        keep: tokens kept of each field.
        width: of the kept vectors.
        outputs: logits per pair.
        heads, layers, ffn: attention heads, layers, and hidden width of the feed-forward part (the paper's
            values are not known).
    """

    attends = True
    reads_mean = True

    def __init__(
        self,
        keep: Sequence[int],
        width: int,
        outputs: int = 1,
        heads: int = 4,
        layers: int = 1,
        ffn: int = 256,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"projection: expected a multiple of the head's {heads} attention heads, but got {width}"
            )
        # Begun at BERT's 0.02, where it came from and which side it is of would hardly show beside what a
        # token says.
        self.position = nn.ParameterList(nn.Parameter(torch.randn(k, width) * TOKEN_SPREAD) for k in keep)
        self.segment = nn.Parameter(torch.randn(len(keep), width) * TOKEN_SPREAD)
        self.enter = nn.LayerNorm(width)
        self.layers: Any = nn.ModuleList(Layer(width, heads, ffn) for _ in range(layers))
        self.leave = nn.LayerNorm(width)
        self.output = nn.Linear(width, outputs)

    @classmethod
    def of(cls, settings: dict[str, Any], widths: Sequence[int], encoder_width: int) -> TransformerHead:
        tokens = [k + int(settings["pooled"]) for k in settings["keep"]]
        layers, ffn = settings["head_layers"], settings["head_ffn"]
        return cls(tokens, widths[0], settings["outputs"], layers=layers, ffn=ffn)

    @classmethod
    def check(cls, settings: dict[str, Any], name: str = "head") -> None:
        if settings["residual"].endswith("maxsim") and settings["pooled"]:
            raise ValueError(
                f"residual {settings['residual']}: expected pooled=false with the transformer head, where the mean would count as a token"
            )
        require_tokens(settings, "head transformer")

    def name(self, tokens: bool) -> str:
        return "DiPair-TSF"

    def sizes(self, width: list[str]) -> list[str]:
        layers, ffn = len(self.layers), self.layers[0].up.out_features
        return [
            *width,
            *([f"{layers} layers"] if layers != 1 else []),
            *([f"ffn={ffn}"] if ffn != 256 else []),
        ]

    @property
    def last(self) -> nn.Linear:
        return self.output

    @property
    def final_bias(self) -> nn.Parameter:
        return self.output.bias

    def prepare(self, kept: Kept, field: int) -> Prepared:
        """Embedded tokens x and the first layer's q, k, v, each [texts, k, width], and the mask [texts, k]."""
        x = self.enter(kept.vectors + self.position[field][: kept.vectors.shape[1]] + self.segment[field])
        return (x, *self.layers[0].qkv(x), kept.mask)

    def features(self, *prepared: Prepared) -> torch.Tensor:
        """The first token's output, [pairs, width]."""
        x, q, k, v, mask = (join(parts) for parts in zip(*prepared, strict=True))
        for number, layer in enumerate(self.layers):
            last = number == len(self.layers) - 1
            if number:
                q, k, v = layer.qkv(x)
            if last:
                x, q = x[..., :1, :], q[..., :1, :]
            x = layer(x, q, k, v, mask)
        return self.leave(x[..., 0, :])

    def combine(self, *prepared: Prepared) -> torch.Tensor:
        """Logits [pairs, outputs]."""
        return self.output(self.features(*prepared))

    def attention(self, *prepared: Prepared) -> torch.Tensor:
        """What the last layer's tokens attend to, [pairs, heads, tokens, tokens]; only the first token's line
        reaches the logits.
        """
        x, q, k, v, mask = (join(parts) for parts in zip(*prepared, strict=True))
        for number, layer in enumerate(self.layers[:-1]):
            x = layer(x, *(layer.qkv(x) if number else (q, k, v)), mask)
        last = self.layers[-1]
        q, k, _ = last.qkv(x) if len(self.layers) > 1 else (q, k, v)
        return last.weights(q, k, mask)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One pre-norm transformer layer whose attention inputs may come from elsewhere."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.before_ffn = nn.LayerNorm(width)
        self.up = nn.Linear(width, ffn)
        self.down = nn.Linear(ffn, width)

    def qkv(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values of tokens x, each shaped as x."""
        return self.project(self.before_attention(x)).chunk(3, dim=-1)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """[..., tokens, width] -> [..., heads, tokens, width of a head]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def weights(self, q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Attention [..., heads, queries, tokens]; masked tokens get -inf before the softmax."""
        scores = self.split(q) @ self.split(k).transpose(-1, -2) * (q.shape[-1] // self.heads) ** -0.5
        return scores.masked_fill(~mask[..., None, None, :], float("-inf")).softmax(-1)

    def forward(
        self, x: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """x [..., queries, width]; q like x; k, v [..., tokens, width]; mask [..., tokens]."""
        heads = self.weights(q, k, mask) @ self.split(v)
        x = x + self.attended(heads.transpose(-2, -3).flatten(-2))
        return x + self.down(F.gelu(self.up(self.before_ffn(x))))


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate the fields' tokens; leading axes (pairs, or a tile's m x n) are broadcast first."""
    trailing = 2 if parts[0].dtype != torch.bool else 1
    lead = torch.broadcast_shapes(*(part.shape[:-trailing] for part in parts))
    return torch.cat([part.expand(*lead, *part.shape[-trailing:]) for part in parts], dim=-trailing)


class CompareHead(Head):
    """Tang et al. 2019, section 3.2: [h1, h2, h1 * h2, |h1 - h2|] -> linear, ReLU -> logits; for one sentence
    h -> linear, ReLU -> logits.

    Per text: its own share of the first layer. Per pair: the product, the difference and their share.
    """

    def __init__(self, width: int, fields: int, hidden: int = 200, outputs: int = 1) -> None:
        super().__init__()
        if fields > 2:
            raise ValueError(
                f"the BiLSTM of Tang et al. compares two sentences or reads one, but the task has {fields} fields"
            )
        self.own = nn.ModuleList(nn.Linear(width, hidden, bias=field == 0) for field in range(fields))
        self.both = nn.Linear(2 * width, hidden, bias=False) if fields == 2 else None
        self.output = nn.Linear(hidden, outputs)

    @property
    def final_bias(self) -> nn.Parameter:
        return self.output.bias

    def prepare(self, kept: Kept, field: int) -> Prepared:
        """The state h [texts, width] and its share of the first layer [texts, hidden]."""
        h = kept.vectors[:, 0]
        return h, self.own[field](h)

    def combine(self, *prepared: Prepared) -> torch.Tensor:
        """Logits [pairs, outputs]."""
        x = prepared[0][1]
        if self.both is not None:
            (left, _), (right, share) = prepared
            x = x + share + self.both(torch.cat([left * right, (left - right).abs()], dim=-1))
        return self.output(F.relu(x))


# A dual encoder's heads by the name that its settings and 03_dipair's parameter have for them.
HEADS: dict[str, type[Head]] = {
    **dict.fromkeys(SIMILARITIES, SimilarityHead),
    "ffnn": FFNNHead,
    "transformer": TransformerHead,
}
