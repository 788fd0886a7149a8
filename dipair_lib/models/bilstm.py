"""The BiLSTM student of Tang et al. 2019, behind the same seam as the dual encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .backbone import EMBEDDED, load_backbone
from .heads import CompareHead, Kept, Prepared


class BiLSTM(nn.Module):
    """Single-layer BiLSTM, last forward and backward states, no attention, no layer norm (Tang et al. 2019, section 3.1).

    Two channels of word vectors, one frozen, one trained (as in the paper). Here the vectors are the backbone's own word-piece embeddings,
    reduced to ``width`` by PCA, instead of the paper's word2vec, so that nothing has to be downloaded.

    Args:
        vocabulary: word-piece ids that have a vector of their own (those of the training split); all others share one.
        backbone: whose tokenizer and embeddings are used.
        read_lengths: word pieces read of each field.
        width: of a word vector. hidden: of one direction's state. fc: of the layer after it (paper: 150 or 300, and 200 or 400).
        outputs: logits per pair.
        vectors: load the backbone's embeddings; False leaves them to be loaded from a file.
    """

    kind = "bilstm"
    position: torch.Tensor

    def __init__(
        self,
        vocabulary: Sequence[int],
        backbone: str = EMBEDDED,
        read_lengths: Sequence[int] = (32, 128),
        width: int = 300,
        hidden: int = 150,
        fc: int = 200,
        outputs: int = 1,
        vectors: bool = True,
    ) -> None:
        super().__init__()
        self.settings = {
            "vocabulary": [int(v) for v in vocabulary],
            "backbone": backbone,
            "read_lengths": list(read_lengths),
            "width": width,
            "hidden": hidden,
            "fc": fc,
            "outputs": outputs,
        }
        table = torch.randn(len(vocabulary) + 2, width) * 0.1
        if vectors:
            table[2:] = reduced_embeddings(backbone, self.settings["vocabulary"], width)  # type: ignore[arg-type]
        table[0] = 0
        self.frozen = nn.Embedding.from_pretrained(table.clone(), freeze=True)
        self.trained = nn.Embedding.from_pretrained(table, freeze=False)
        self.register_buffer("position", positions(self.settings["vocabulary"]), persistent=False)  # type: ignore[arg-type]
        self.ahead = nn.LSTM(2 * width, hidden, batch_first=True)
        self.back = nn.LSTM(2 * width, hidden, batch_first=True)
        self.head = CompareHead(2 * hidden, len(read_lengths), fc, outputs)

    @property
    def config(self) -> dict[str, Any]:
        """Everything that builds this architecture again, as JSON values."""
        return {**self.settings, "vectors": False}

    @property
    def read_lengths(self) -> list[int]:
        return self.settings["read_lengths"]  # type: ignore[return-value]

    @property
    def final_bias(self) -> nn.Parameter:
        """The shift of the logits [outputs]."""
        return self.head.output.bias

    def encode(self, ids: torch.Tensor, mask: torch.Tensor, field: int) -> Kept:
        """Once per text: ids, mask [texts, tokens] -> the last states of both directions as Kept [texts, 1, 2 * hidden].

        Each direction runs over the padded batch and is read at the text's own last token; the backward direction reads each text
        reversed within its own length. So padding never enters a state that is read, and the fast padded kernel can be used.
        """
        known = self.position[ids.clamp(max=len(self.position) - 1)] * mask
        x = torch.cat([self.frozen(known), self.trained(known)], dim=-1)
        lengths = mask.sum(1)
        steps = torch.arange(ids.shape[1], device=ids.device)[None, :]
        reverse = (lengths[:, None] - 1 - steps).clamp(min=0)
        last = (lengths - 1).clamp(min=0)
        rows = torch.arange(len(ids), device=ids.device)
        forward = self.ahead(x)[0][rows, last]
        backward = self.back(x[rows[:, None], reverse])[0][rows, last]
        state = torch.cat([forward, backward], dim=-1)[:, None]
        return Kept(state, torch.ones(state.shape[:2], dtype=torch.bool, device=ids.device))

    def prepare(self, kept: Kept, field: int) -> Prepared:
        return self.head.prepare(kept, field)

    def combine(self, *prepared: Prepared) -> torch.Tensor:
        return self.head.combine(*prepared)

    def score(self, *kept: Kept) -> torch.Tensor:
        """Logits [pairs, outputs] of aligned texts."""
        return self.combine(*(self.prepare(k, field) for field, k in enumerate(kept)))


def positions(vocabulary: Sequence[int]) -> torch.Tensor:
    """int64 [largest id + 2]: row of each word piece in the tables; 0 is padding, 1 any other word piece."""
    table = torch.ones(max(vocabulary, default=0) + 2, dtype=torch.int64)
    table[torch.as_tensor(vocabulary, dtype=torch.int64)] = torch.arange(2, len(vocabulary) + 2)
    return table


def reduced_embeddings(backbone: str, vocabulary: Sequence[int], width: int) -> torch.Tensor:
    """The backbone's word-piece embeddings of a vocabulary, centred and reduced to ``width`` by PCA, scaled to unit variance overall."""
    model: Any = load_backbone(backbone)
    table = (
        model.get_input_embeddings().weight.detach()[torch.as_tensor(vocabulary, dtype=torch.int64)].float()
    )
    table = table - table.mean(0)
    _, axes = torch.linalg.eigh(table.T @ table)
    reduced = table @ axes.flip(1)[:, :width]
    if reduced.shape[1] < width:  # a backbone narrower than asked for: the rest stays zero
        reduced = nn.functional.pad(reduced, (0, width - reduced.shape[1]))
    return reduced / reduced.std().clamp(min=1e-6)
