"""Similarities of two texts, the cosine and MaxSim, as heads of their own and as what another head corrects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dipair_lib.models.pair_model import Head, Kept, Prepared


def cosine_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Dot products of unit vectors, [pairs, 1]; of a tile ([m, 1, width] with [1, n, width]) by one matrix
    product, [m, n, 1].
    """
    if a.dim() == b.dim() == 3 and a.shape[1] == b.shape[0] == 1:
        return (a[:, 0] @ b[0].T)[..., None]
    return (a * b).sum(-1, keepdim=True)


def maxsim_of(a: torch.Tensor, inside: torch.Tensor, b: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Mean over the real tokens of a of their best dot product with a real token of b, [pairs, 1]; unit
    tokens, bool masks. Of a tile ([m, 1, k, width] with [1, n, k, width]) by one matrix product, [m, n, 1].
    """
    if a.dim() == b.dim() == 4 and a.shape[1] == b.shape[0] == 1:
        m, n, k = len(a), b.shape[1], a.shape[2]
        # A right text's tokens are rows, so that its maximum is of whole rows; what masks them is where the
        # product's sum starts.
        start = b.new_zeros(b[0, ..., 0].shape).masked_fill(~real[0], float("-inf"))
        scores = torch.addmm(start.view(-1, 1), b.flatten(0, 2), a.flatten(0, 2).T)  # [n x k, m x k]
        best = scores.view(n, -1, m * k).amax(1).view(n, m, k).transpose(0, 1)
    else:
        best = (a @ b.transpose(-1, -2)).masked_fill(~real[..., None, :], float("-inf")).amax(-1)
    weights = inside.to(best.dtype)
    return (best * weights).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp(min=1)


# What a model with it as its head is called.
SIMILARITIES = {"cosine": "DE-Cos", "maxsim": "MaxSim", "cosine+maxsim": "cosine + MaxSim"}


class SimilarityHead(Head):
    """A line of one or two similarities of two texts: scale * similarity + shift. What needs one side only is
    done in ``prepare``.

    ``cosine`` is DE-Cos, of the pooled vectors: per pair one dot product. ``maxsim`` is late interaction
    (Khattab and Zaharia 2020, ColBERT): the mean over the left tokens of their best cosine on the right; the
    mean in place of ColBERT's sum, so that left texts of different lengths stay comparable. ``cosine+maxsim``
    is a weighted sum of both (in neither paper).

    Args:
        kind: one of ``SIMILARITIES``.
        outputs: logits per pair.
        scale: of one similarity at the start; two share it.
    """

    def __init__(self, kind: str = "cosine", outputs: int = 1, scale: float = 10.0) -> None:
        super().__init__()
        self.kind = kind
        self.cosine, self.maxsim = kind.startswith("cosine"), kind.endswith("maxsim")
        similarities = self.cosine + self.maxsim
        self.scale = nn.Parameter(torch.full((outputs, similarities), scale / similarities))
        self.shift = nn.Parameter(torch.zeros(outputs))

    @classmethod
    def of(cls, settings: dict[str, Any], widths: Sequence[int], encoder_width: int) -> SimilarityHead:
        return cls(settings["head"], settings["outputs"])

    @classmethod
    def check(cls, settings: dict[str, Any], name: str = "head") -> None:
        kind, fields = settings[name], len(settings["read_lengths"])
        if fields != 2:
            raise ValueError(f"{name} {kind}: compares two fields, but the task has {fields}")
        if kind.startswith("cosine") and not settings["pooled"]:
            raise ValueError(
                f"{name} {kind}: expected pooled=true, whose means it compares, but got pooled=false"
            )
        if kind.endswith("maxsim"):
            require_tokens(settings, f"{name} {kind}")

    def name(self, tokens: bool) -> str:
        return SIMILARITIES[self.kind]

    @property
    def line(self) -> SimilarityHead:
        return self

    @property
    def final_bias(self) -> nn.Parameter:
        return self.shift

    @property
    def tensors(self) -> int:
        """How many ``prepare`` gives."""
        return 2 * self.maxsim + self.cosine

    def prepare(self, kept: Kept, field: int) -> Prepared:
        """For MaxSim the unit tokens [texts, k, width] (zero where masked) and the mask [texts, k]; for the
        cosine, last, the unit mean [texts, encoder width].
        """
        prepared: Prepared = ()
        if self.maxsim:
            prepared = F.normalize(kept.vectors, dim=-1), kept.mask
        if self.cosine:
            assert kept.pooled is not None
            prepared = (*prepared, F.normalize(kept.pooled, dim=-1))
        return prepared

    def similarity(self, left: Prepared, right: Prepared) -> torch.Tensor:
        """[pairs, similarities], each between -1 and 1."""
        if not self.maxsim:
            return cosine_of(left[0], right[0])
        best = maxsim_of(*left[:2], *right[:2])
        return torch.cat([cosine_of(left[2], right[2]), best], dim=-1) if self.cosine else best

    def combine(self, *prepared: Prepared) -> torch.Tensor:
        """Logits [pairs, outputs]."""
        found = self.similarity(*prepared)
        if found.shape[-1] == 1:
            return found * self.scale[:, 0] + self.shift
        return F.linear(found, self.scale, self.shift)

    def dot_flops(self, prepared: Prepared) -> float:
        """The cosine's: 2 x width."""
        return 2.0 * prepared[-1].shape[-1] if self.cosine else 0.0


class ResidualHead(Head):
    """A head that corrects a simpler one: logits = start + head, where the head's last layer begins at zero
    (not in the paper).

    So an untrained student scores as its start does: the frozen encoder's cosine, MaxSim, or both.
    """

    def __init__(self, head: Head, start: SimilarityHead) -> None:
        super().__init__()
        assert head.last is not None
        nn.init.zeros_(head.last.weight)
        nn.init.zeros_(head.last.bias)
        self.head, self.start = head, start

    @property
    def inner(self) -> Head:
        return self.head

    @property
    def line(self) -> SimilarityHead:
        return self.start

    @property
    def final_bias(self) -> nn.Parameter:
        return self.start.final_bias

    def prepare(self, kept: Kept, field: int) -> Prepared:
        """The head's tensors, then the start's."""
        return (*self.head.prepare(kept, field), *self.start.prepare(kept, field))

    def parts(self, prepared: Sequence[Prepared]) -> tuple[list[Prepared], list[Prepared]]:
        """The tensors of each, per field."""
        n = self.start.tensors
        return [p[:-n] for p in prepared], [p[-n:] for p in prepared]

    def features(self, *prepared: Prepared) -> torch.Tensor:
        """What the correction's last layer reads, [pairs, width]."""
        return self.head.features(*self.parts(prepared)[0])

    def combine(self, *prepared: Prepared) -> torch.Tensor:
        """Logits [pairs, outputs]."""
        own, start = self.parts(prepared)
        return self.head.combine(*own) + self.start.combine(*start)

    def dot_flops(self, prepared: Prepared) -> float:
        """The start's."""
        return self.start.dot_flops(prepared)


def require_tokens(settings: dict[str, Any], said: str) -> None:
    """Raise unless each field keeps tokens, all of one width."""
    if not all(settings["keep"]) or len(set(settings["projection"])) > 1:
        raise ValueError(
            f"{said}: expected at least one token of each field and one projection width, but got keep={settings['keep']} and "
            f"projection={settings['projection']}"
        )
