"""ELMo (Peters et al. 2018) at its published size, to be clocked: random weights, no training here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from dipair_lib.models.bilstm import reversed_within

FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))  # width in characters, number


class ELMo(nn.Module):
    """Characters -> convolutions, two highway layers, projection -> two-layer language models both ways ->
    mixed layers -> logits.

    Different from the original: torch's LSTM has a second bias (65,536 parameters more over the four) and
    does not clip its states; a sentence is the mean over its words of the three layers, mixed, and one linear
    layer reads it (ELMo itself ends at the layers).

    Args:
        filters: (width, number) of each convolution.
        char_width: of a character's vector.
        width: of a word's vector and of one direction's output.
        cells: of one direction's LSTM, projected to ``width``.
        outputs: logits per sentence.
    """

    CHARACTERS = 262  # bytes and the marks of a word's begin, end and padding

    def __init__(
        self,
        filters: Sequence[tuple[int, int]] = FILTERS,
        char_width: int = 16,
        width: int = 512,
        cells: int = 4096,
        outputs: int = 2,
    ) -> None:
        super().__init__()
        both = sum(number for _, number in filters)
        self.characters = nn.Embedding(self.CHARACTERS, char_width)
        self.convolutions = nn.ModuleList(nn.Conv1d(char_width, number, size) for size, number in filters)
        self.highways = nn.ModuleList(nn.Linear(both, 2 * both) for _ in range(2))
        self.projection = nn.Linear(both, width)
        self.lstms = nn.ModuleList(
            nn.LSTM(width, cells, proj_size=width, batch_first=True) for _ in range(4)
        )  # forward first and second layer, backward first and second
        self.mix = nn.Parameter(torch.zeros(3))
        self.output = nn.Linear(2 * width, outputs)

    def look_up_parameters(self) -> list[nn.Parameter]:
        """Those that make a word's vector out of its characters."""
        parts = (self.characters, *self.convolutions, *self.highways, self.projection)
        return [p for part in parts for p in part.parameters()]

    def look_up(self, characters: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """characters int64 [sentences, words, 50], mask [sentences, words] -> word vectors [sentences, words,
        width], 0 where padded.
        """
        x = self.characters(characters[mask]).transpose(1, 2)
        x = torch.cat([convolution(x).amax(-1) for convolution in self.convolutions], dim=-1).relu()
        for highway in self.highways:
            change, gate = highway(x).chunk(2, dim=-1)
            gate = gate.sigmoid()
            x = gate * x + (1 - gate) * change.relu()
        words = x.new_zeros(*mask.shape, self.projection.out_features)
        words[mask] = self.projection(x)
        return words

    def read(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Word vectors [sentences, words, width] -> logits [sentences, outputs]; only words are computed, no
        padding.

        The backward model reads each sentence reversed; its outputs stay reversed, which a mean over the
        words does not see.
        """
        lengths = mask.sum(1)
        rows = torch.arange(len(words), device=words.device)[:, None]
        backward = words[rows, reversed_within(lengths, mask.shape[1])]
        sides = []
        for x, (first, second) in ((words, self.lstms[:2]), (backward, self.lstms[2:])):
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            low = first(packed)[0]
            high = second(low)[0]
            high = high._replace(data=high.data + low.data)
            sides.append([mean_of_words(layer, lengths) for layer in (packed, low, high)])
        layers = torch.stack([torch.cat(both, dim=-1) for both in zip(*sides, strict=True)])
        return self.output(torch.tensordot(self.mix.softmax(0), layers, 1))  # type: ignore[no-any-return]

    def forward(self, characters: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """characters int64 [sentences, words, 50], mask [sentences, words] -> logits [sentences, outputs]."""
        return self.read(self.look_up(characters, mask), mask)


def mean_of_words(layer: PackedSequence, lengths: torch.Tensor) -> torch.Tensor:
    """[sentences, width] of packed outputs."""
    return pad_packed_sequence(layer, batch_first=True)[0].sum(1) / lengths[:, None]
