"""The seam as classes: what is computed once per text, and what per pair.

    model.encode(ids, mask, field) -> Kept      once per text, costly, cacheable
    head.prepare(kept, field)      -> Prepared  once per text, cheap: everything that needs only one side
    head.combine(*prepared)        -> logits    per pair: only what truly needs both sides

``PairModel`` is a network with the seam (dual encoders, the BiLSTM), ``Head`` what it computes of a pair.
``BaseModel`` is what these share with cross-encoders and baselines, which have no seam.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from dipair_lib.models import costs, offline
from dipair_lib.models.backbone import load_tokenizer, stored_tokenizer
from dipair_lib.models.tokens import Texts, Tokenizer

Prepared = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Kept:
    """What an encoder hands on of one field's texts.

    Attributes:
        vectors: [texts, k, width], the first k outputs, projected; zero where masked.
        mask: bool [texts, k], False where the text has fewer than k word pieces.
        pooled: [texts, encoder width], the mean of all outputs, unprojected; None if the model does not keep
            it.
    """

    vectors: torch.Tensor
    mask: torch.Tensor
    pooled: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Kept:
        """The same on another device."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return Kept(self.vectors.to(device), self.mask.to(device), pooled)


class BaseModel(nn.Module, ABC):
    """What can be asked of every model; the answers here are those of one without a transformer and without
    words of its own.

    Attributes:
        kind: its name in a stored ``config.json``.
        settings: what builds it, as JSON values.
        per_pair: everything is computed per pair (a cross-encoder).
        reads_texts: reads texts, not their ids (a baseline).
        needs_weights: reads its transformers' attention weights, which only attention's plain form gives.
        notes: what a reader of the row should know of how a checkpoint was taken.
        start: what the encoder's weights started from, where it was not the backbone: see
            ``training.start_encoder``.
        tokenizer_folder: of a model that was saved with a tokenizer of its own.
    """

    kind: str
    settings: dict[str, Any]
    per_pair: bool = False
    reads_texts: bool = False
    needs_weights = False
    notes = ""
    start = ""
    tokenizer_folder: Path | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Everything that builds this architecture again, as JSON values."""
        return self.settings

    @property
    def read_lengths(self) -> list[int]:
        """Word pieces or words read of each field."""
        return self.settings["read_lengths"]  # type: ignore[no-any-return]

    @property
    def outputs(self) -> int:
        """Logits per row."""
        return int(self.settings["outputs"])

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns texts into the ids it reads: its own, where it was saved with one, or its backbone's."""
        if self.tokenizer_folder:
            return stored_tokenizer(self.tokenizer_folder)
        with offline.only():
            return load_tokenizer(str(self.settings["backbone"]))

    @property
    def encoders(self) -> list[Any]:
        """Its transformers: one, one for each field, or none."""
        return []

    @property
    def sparse_tables(self) -> list[nn.Embedding]:
        """Word vectors that can have sparse gradients."""
        return []

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The model group of a result row: display name, family, backbone, head, keep, read_lengths,
        projection.
        """

    @abstractmethod
    def costs(self, texts: Texts, sample: int = 8) -> dict[str, Any]:
        """What it costs by arithmetic, not by clock, on some rows' own texts without padding.

        Returns:
            params_total, params_embedding (word tables), params_per_pair (those that take part in
            ``combine``), flops_per_text and flops_per_pair (multiplications and additions of matrix products,
            the mean of the sample), bytes_per_text (float32 ``Prepared``, mean over the fields). None where
            it has no such part.
        """

    def tensors(self, frozen_encoder: bool = False) -> dict[str, torch.Tensor]:
        """What goes into the weights file, by name; without an encoder's weights that were never trained."""
        skip, seen, found = "encoder." if frozen_encoder else "\0", set(), {}
        for name, value in self.state_dict().items():
            if not name.startswith(skip):
                # Tied embeddings (T5, BART) are written under each of their names: safetensors shares none.
                found[name] = value.clone() if value.data_ptr() in seen else value.contiguous()
                seen.add(value.data_ptr())
        return found

    def save_beside(self, folder: Path) -> dict[str, Any]:
        """Write what belongs into its folder beside config and weights; what the config has to name of it."""
        return {}


class Head(nn.Module, ABC):
    """What a pair model computes of a pair: ``prepare`` once per text, ``combine`` per pair; together exactly
    its textbook form.

    A new one for dual encoders has ``of``, ``prepare``, ``combine`` and ``final_bias``, and an entry in
    ``heads.HEADS``; the rest it may leave as it is. With ``last`` and ``features`` it can correct a
    similarity and match a teacher's features.

    Prepared tensors broadcast: [m, 1, ...] with [1, n, ...] scores a tile of m x n pairs.

    Attributes:
        attends: has ``attention``. reads_mean: the pooled vector is one more token to it, in front of the
            kept ones.
    """

    attends = False
    reads_mean = False

    @classmethod
    def of(cls, settings: dict[str, Any], widths: list[int], encoder_width: int) -> Head:
        """The head of a dual encoder's settings over kept vectors of these widths, one per field."""
        raise TypeError(f"{cls.__name__}: is of no dual encoder")

    @classmethod
    def check(cls, settings: dict[str, Any], name: str = "head") -> None:
        """Raise for settings of a dual encoder that it cannot be built with; ``name`` is the one that asks
        for it.
        """

    def name(self, tokens: bool) -> str:
        """What a model with it is called; ``tokens``: keeps any beside the mean."""
        return type(self).__name__

    def sizes(self, width: list[str]) -> list[str]:
        """In a model's name: the width of its tokens, where that is not the usual one, and what else of its
        sizes is not.
        """
        return width

    @property
    def inner(self) -> Head:
        """Itself, without a similarity that it corrects."""
        return self

    @property
    def line(self) -> Any:
        """The ``SimilarityHead`` that it is or corrects, whose scale and shift are a line; None without."""
        return None

    @property
    def last(self) -> nn.Linear | None:
        """The last layer, which reads ``features``; None without."""
        return None

    @property
    def final_bias(self) -> nn.Parameter:
        """The shift of the logits [outputs]."""
        raise TypeError(f"{type(self).__name__}: has no final bias")

    @abstractmethod
    def prepare(self, kept: Kept, field: int) -> Prepared:
        """Once per text: everything that needs only one side, tensors [texts, ...]."""

    def parts(self, prepared: Sequence[Prepared]) -> tuple[list[Prepared], list[Prepared]]:
        """Each field's tensors of ``inner``, and of the similarity that is corrected."""
        return list(prepared), []

    def features(self, *prepared: Prepared) -> torch.Tensor:
        """What the last layer reads of each pair, [pairs, width]."""
        raise TypeError(f"{type(self).__name__}: has no features")

    @abstractmethod
    def combine(self, *prepared: Prepared) -> torch.Tensor:
        """Per pair: logits [pairs, outputs]."""

    def attention(self, *prepared: Prepared) -> torch.Tensor:
        """What the last layer's tokens attend to, [pairs, heads, tokens, tokens]."""
        raise TypeError(f"{type(self).__name__}: has no attention")

    def dot_flops(self, prepared: Prepared) -> float:
        """Operations of a pair's dot products, which are no matrix product to the counter."""
        return 0.0


class PairModel(BaseModel):
    """A network that encodes each text once; only its head runs per pair."""

    per_pair: Literal[False] = False
    reads_texts: Literal[False] = False
    head: Head

    @property
    def final_bias(self) -> nn.Parameter:
        """The shift of the logits [outputs]: a training starts it at the mean of its targets."""
        return self.head.final_bias

    @abstractmethod
    def encode(self, ids: torch.Tensor, mask: torch.Tensor, field: int) -> Kept:
        """Once per text: ids, mask [texts, tokens] -> Kept. Costly, cacheable."""

    def prepare(self, kept: Kept, field: int) -> Prepared:
        """Once per text, cheap: what the head needs of one side."""
        return self.head.prepare(kept, field)

    def encode_and_prepare(self, ids: torch.Tensor, mask: torch.Tensor, field: int) -> Prepared:
        """Everything that is done once per text."""
        return self.prepare(self.encode(ids, mask, field), field)

    def combine(self, *prepared: Prepared) -> torch.Tensor:
        """Per pair: logits [pairs, outputs]."""
        return self.head.combine(*prepared)

    def features(self, *prepared: Prepared) -> torch.Tensor:
        """What the head's last layer reads of each pair, [pairs, width]; the cosine and MaxSim have none."""
        return self.head.features(*prepared)

    def score(self, *kept: Kept) -> torch.Tensor:
        """Logits [pairs, outputs] of aligned texts, the seam in one line."""
        return self.combine(*(self.prepare(k, field) for field, k in enumerate(kept)))

    def costs(self, texts: Texts, sample: int = 8) -> dict[str, Any]:
        rows = np.linspace(0, len(texts) - 1, min(sample, len(texts))).astype(np.int64)
        per_text, prepared = [], []
        for field, tokens in enumerate(texts.tokens):
            which = texts.index[rows, field]
            for i in which:
                batch = tokens.take(np.array([i]))
                per_text.append(costs.count_flops(partial(self.encode_and_prepare, *batch, field)))
            with torch.no_grad():
                prepared.append(self.encode_and_prepare(*tokens.take(which), field))
        bytes_per_field = [sum(t[0].numel() * t.element_size() for t in p) for p in prepared]
        flops = costs.count_flops(lambda: self.combine(*prepared)) / len(rows)
        return {
            **costs.count_parameters(self),
            "params_per_pair": self.params_in_combine(prepared),
            "flops_per_text": float(np.mean(per_text)),
            "flops_per_pair": flops + self.head.dot_flops(prepared[0]),
            "bytes_per_text": float(np.mean(bytes_per_field)),
        }

    def params_in_combine(self, prepared: Sequence[Prepared]) -> int:
        """Parameters that get a gradient when only ``combine`` runs."""
        with torch.enable_grad():
            self.zero_grad(set_to_none=True)
            self.combine(*prepared).sum().backward()
        used = sum(p.numel() for p in self.parameters() if p.grad is not None)
        self.zero_grad(set_to_none=True)
        return used


def joined(numbers: list[int]) -> int | str:
    """One number where all fields have the same, else "4+16"."""
    return numbers[0] if len(set(numbers)) == 1 else "+".join(map(str, numbers))
