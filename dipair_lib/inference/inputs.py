"""What a network reads of some rows or texts, built where the network is.

On a GPU the word pieces of all texts are copied there once, and each batch is cut out of them there: a small
step would otherwise wait longer for its batch than it computes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from dipair_lib.inference.device import moved
from dipair_lib.models import Network
from dipair_lib.models.cross_encoder import joined_lengths
from dipair_lib.models.tokens import Texts, Tokens

WIDTHS = 8  # a GPU's batches are as wide as a multiple of this: few shapes to record, and its attention kernels ask for it


class Inputs:
    """Batches of one set of texts for one network.

    Args:
        model: a cross-encoder or what encodes each field alone.
        texts: of the rows.
        device: where the batches are wanted.
    """

    def __init__(self, model: Network, texts: Texts, device: torch.device) -> None:
        self.model, self.texts, self.device = model, texts, device
        self.fields = [OnDevice(tokens, device) for tokens in texts.tokens] if device.type != "cpu" else []

    def rows(self, rows: np.ndarray) -> list[torch.Tensor]:
        """A cross-encoder's joined input of some rows: what ``CrossEncoder.batch`` gives, wider where padding
        helps.
        """
        assert self.model.per_pair
        if not self.fields:
            return list(self.model.batch(self.texts, rows))
        if self.model.joins_itself:
            return [wider(tensor) for tensor in moved(list(self.model.batch(self.texts, rows)), self.device)]
        lengths = joined_lengths(self.texts, rows)
        width = up(int(lengths.max(initial=1)))
        ids = torch.zeros(len(rows), width, dtype=torch.long, device=self.device)
        types = torch.zeros_like(ids)
        start = torch.zeros(len(rows), 1, dtype=torch.long, device=self.device)
        column = torch.arange(width, device=self.device)
        for field, there in enumerate(self.fields):
            found, inside = there.cut(self.texts.index[rows, field], column - start, skip=int(field > 0))
            ids = torch.where(inside, found, ids)
            types = torch.where(inside, min(field, 1), types)
            start = start + inside.sum(1, keepdim=True)
        return [ids, column < start, types]

    def take(self, field: int, texts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of one field's texts: what ``Tokens.take`` gives, wider where padding helps."""
        if not self.fields:
            return self.texts.tokens[field].take(texts)
        return self.fields[field].take(texts)


class OnDevice:
    """One field's word pieces on a device."""

    def __init__(self, tokens: Tokens, device: torch.device) -> None:
        self.lengths = tokens.lengths
        self.ids = torch.from_numpy(tokens.ids).to(device)
        self.offsets = torch.from_numpy(tokens.offsets).to(device)

    def cut(
        self, texts: np.ndarray, column: torch.Tensor, skip: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ids int64 [n, columns] and whether there is one: each text's word pieces at these columns, counted
        behind the first ``skip``.

        Args:
            texts: int [n].
            column: int64 [columns] or [n, columns]; outside of the text there is none.
        """
        which = torch.from_numpy(texts.astype(np.int64)).to(self.ids.device, non_blocking=True)
        begin = self.offsets[which][:, None] + skip
        place = begin + column
        inside = (column >= 0) & (place < self.offsets[which + 1][:, None])
        return self.ids[place.clamp(0, max(len(self.ids) - 1, 0))].long(), inside

    def take(self, texts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """ids int64 [n, tokens] (0 where padded) and mask bool [n, tokens]."""
        column = torch.arange(up(int(self.lengths[texts].max(initial=1))), device=self.ids.device)
        ids, inside = self.cut(texts, column)
        return ids * inside, inside


def taking(tokens: Tokens, device: torch.device) -> Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor]]:
    """From positions of one field's texts to their batch on the device: ids [n, tokens] and mask."""
    return tokens.take if device.type == "cpu" else OnDevice(tokens, device).take


def up(width: int) -> int:
    """The next multiple of ``WIDTHS``."""
    return -(-width // WIDTHS) * WIDTHS


def wider(tensor: torch.Tensor) -> torch.Tensor:
    """Padded to the next of ``WIDTHS``, where it has more than one axis."""
    return F.pad(tensor, (0, up(tensor.shape[1]) - tensor.shape[1])) if tensor.dim() > 1 else tensor
