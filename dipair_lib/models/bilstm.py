"""The BiLSTM student of Tang et al. 2019, behind the same seam as the dual encoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dipair_lib.models.heads import CompareHead
from dipair_lib.models.pair_model import Kept, PairModel
from dipair_lib.models.tokens import Texts
from dipair_lib.models.words import FIRST, SPREAD, WIDTH, WordTokenizer

WORDS_ROUNDED_TO = 128


class BiLSTM(PairModel):
    """Single-layer BiLSTM over words, last forward and backward states, no attention, no layer norm (Tang et
    al. 2019, section 3.1).

    Two channels of word vectors, one frozen, one trained. One text goes to the fully connected layer as it
    is, several are compared as [h1, h2, h1*h2, |h1-h2|] (siamese: one LSTM for all fields). Different from
    the paper: two classes have one logit, their log-odds.

    Args:
        words: the vocabulary, lower case; every other word shares one vector with [MASK].
        read_lengths: words read of each field.
        width: of a word vector.
        hidden: of one direction's state.
        fc: of the layer after it (paper: 150 or 300, and 200 or 400).
        outputs: logits per row.
        table: float32 [words, width], vectors to start both channels from; None starts at random (or leaves
            them to be loaded).
    """

    kind = "bilstm"
    head: CompareHead

    def __init__(
        self,
        words: Sequence[str],
        read_lengths: Sequence[int] = (64,),
        width: int = WIDTH,
        hidden: int = 150,
        fc: int = 200,
        outputs: int = 1,
        table: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if table is not None and tuple(table.shape) != (len(words), width):
            raise ValueError(
                f"table: expected shape [{len(words)}, {width}] (words, width), but got {list(table.shape)}"
            )
        self.settings = {
            "words": list(words),
            "read_lengths": list(read_lengths),
            "width": width,
            "hidden": hidden,
            "fc": fc,
            "outputs": outputs,
        }
        vectors = SPREAD * torch.randn(len(words) + FIRST, width)
        vectors[0] = 0
        if table is not None:
            vectors[FIRST:] = table
        self.frozen = nn.Embedding.from_pretrained(vectors.clone(), freeze=True)
        self.trained = nn.Embedding.from_pretrained(vectors, freeze=False, sparse=True)
        self.lstm = nn.LSTM(2 * width, hidden, batch_first=True, bidirectional=True)
        self.head = CompareHead(2 * hidden, len(read_lengths), fc, outputs)
        self.folded: tuple[list[int], torch.Tensor, torch.Tensor] = ([], torch.empty(0), torch.empty(0))

    @property
    def tokenizer(self) -> WordTokenizer:
        """Texts to the ids of this model's words."""
        return WordTokenizer(self.settings["words"])

    @property
    def sparse_tables(self) -> list[nn.Embedding]:
        return [self.trained]

    def describe(self) -> dict[str, Any]:
        name, lengths = f"BiLSTM {self.settings['hidden']}", "+".join(map(str, self.read_lengths))
        return {"model": name, "family": "bilstm", "head": "compare", "read_lengths": lengths}

    def costs(self, texts: Texts, sample: int = 8) -> dict[str, Any]:
        self.gates()  # computed once per vocabulary: not part of any text
        return super().costs(texts, sample)

    def encode(self, ids: torch.Tensor, mask: torch.Tensor, field: int) -> Kept:
        """Once per text: ids, mask [texts, words] -> the last states of both directions as Kept [texts, 1, 2
        * hidden].
        """
        if self.training or torch.is_grad_enabled():
            state = self.trained_states(ids, mask)
        else:
            state = self.states(self.look_up(ids, mask), mask.sum(1))
        return Kept(state[:, None], torch.ones((len(ids), 1), dtype=torch.bool, device=ids.device))

    def trained_states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """ids, mask [texts, words] -> last states [texts, 2 * hidden], with gradients.

        Only words are computed, no padding: texts are taken longest first and their words lie step by step,
        as in torch's packed sequences. The backward direction reads each text reversed within its own length,
        so both run side by side.
        """
        lengths = mask.sum(1)
        order = torch.argsort(lengths, descending=True, stable=True)
        ordered, steps = lengths[order], torch.arange(ids.shape[1], device=ids.device)
        step, row = (steps[:, None] < ordered[None, :]).nonzero(as_tuple=True)
        counts = torch.bincount(step).tolist()
        places = order[row] * ids.shape[1]
        mirrored = torch.empty(ids.numel(), dtype=torch.int64, device=ids.device)
        mirrored[places + step] = torch.arange(len(step), device=ids.device)
        mirrored = mirrored[places + ordered[row] - 1 - step]
        # A matrix product of a new shape costs more than many of a known one: the number of words is rounded
        # up for it.
        words = functional.pad(ids.flatten()[places + step], (0, -len(step) % WORDS_ROUNDED_TO))
        x = torch.cat([self.frozen(words), self.trained(words)], dim=-1)
        ahead, back = (functional.linear(x, w, b + c)[: len(step)] for w, _, b, c in self.directions())
        gates = torch.stack([ahead, back.index_select(0, mirrored)])
        recurrent = torch.stack([weights[1].T for weights in self.directions()])
        with torch.autocast(ids.device.type, enabled=False):
            h = Recurrence.apply(gates.to(recurrent.dtype), recurrent, counts, len(ids))
        return torch.cat([h[0], h[1]], dim=-1)[torch.argsort(order)]

    def directions(self) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """The LSTM's weights [w_ih, w_hh, b_ih, b_hh] forward and backward, in torch's gate order: input,
        forget, cell, output.
        """
        ahead, back = self.lstm.all_weights
        return ahead, back

    def look_up(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Inference only: ids, mask [texts, words] -> the input's share of all gates, [2, words, texts, 4 *
        hidden].

        A word's input product does not depend on its place, so it is computed once per word of the
        vocabulary, not once per word of a text: exact, and it takes four fifths of the LSTM's arithmetic out
        of every text. The backward direction reads reversed texts.
        """
        table = self.gates(ids)
        lengths = mask.sum(1)
        rows = torch.arange(len(ids), device=ids.device)
        back = ids[rows[:, None], reversed_within(lengths, ids.shape[1])]
        both = torch.stack([ids.T, back.T + table.shape[1]])
        return functional.embedding(both, table.flatten(0, 1))

    def states(self, gates: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Inference only: gates from ``look_up``, lengths int64 [texts] -> last states [texts, 2 * hidden].

        Texts are taken longest first and leave the batch after their last word: no step is spent on padding.
        """
        hidden = self.settings["hidden"]
        order = torch.argsort(lengths, descending=True, stable=True)
        alive = (lengths[:, None] > torch.arange(gates.shape[1], device=lengths.device)).sum(0).tolist()
        recurrent = torch.stack([weights[1].T for weights in self.directions()])
        gates = gates if bool((order[1:] > order[:-1]).all()) else gates[:, :, order]
        h, c = gates.new_zeros(2, 2, len(lengths), hidden)
        for step, n in enumerate(alive):
            if n == 0:
                break
            a = torch.baddbmm(gates[:, step, :n], h[:, :n], recurrent)
            keep, cell, out = a[..., : 2 * hidden], a[..., 2 * hidden : 3 * hidden], a[..., 3 * hidden :]
            keep.sigmoid_()
            c[:, :n] = torch.addcmul(keep[..., hidden:] * c[:, :n], keep[..., :hidden], cell.tanh_())
            h[:, :n] = out.sigmoid_() * torch.tanh(c[:, :n])
        last = torch.empty(len(lengths), 2 * hidden, dtype=h.dtype, device=h.device)
        last[order] = torch.cat([h[0], h[1]], dim=-1)
        return last

    def gates(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        """[2, words + 2, 4 * hidden]: word vectors through the input weights and biases of both directions,
        of these ids (None: of all).

        Each word's is computed when it is first asked for and kept until the weights change; other words'
        places hold nothing. A GPU computes all of them at once: to learn which are new it would be waited for
        at every batch.
        """
        parts = [self.frozen.weight, self.trained.weight, *(w for d in self.directions() for w in d)]
        versions = [number for p in parts for number in (p._version, p.data_ptr())]
        with torch.inference_mode(False), torch.no_grad():
            weight = self.frozen.weight
            outdated = self.folded[0] != versions
            if outdated:
                known = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
                self.folded = (versions, weight.new_empty(2, len(weight), 4 * self.settings["hidden"]), known)
            _, table, known = self.folded
            if weight.device.type != "cpu":
                if not outdated:
                    return table
                ids = None
            asked = torch.arange(len(known), device=known.device) if ids is None else ids.flatten()
            new = asked[~known[asked]].unique()
            if len(new):
                x = torch.cat([self.frozen.weight[new], self.trained.weight[new]], dim=-1)
                for number, (w, _, b, c) in enumerate(self.directions()):
                    table[number, new] = x @ w.T + (b + c)
                known[new] = True
        return table


class Recurrence(torch.autograd.Function):
    """Both directions of an LSTM over packed words, and their gradient: a few operations per step, the rest
    for all steps at once.

    Same result as `torch.lstm`, whose CPU training takes the directions one after the other, gate by gate.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: torch.Tensor, recurrent: torch.Tensor, counts: list[int], texts: int
    ) -> torch.Tensor:
        """gates [2, words, 4 * hidden] (input, forget, cell, output), recurrent [2, hidden, 4 * hidden] ->
        last states [2, texts, hidden].

        Words lie step by step; ``counts`` is how many texts, longest first, still have a word at each step.
        """
        hidden = recurrent.shape[1]
        h, c = gates.new_zeros(2, 2, texts, hidden)
        before = gates.new_empty(
            3, 2, gates.shape[1], hidden
        )  # h and c as each step finds them, tanh(c) as it leaves them
        acts = torch.empty_like(gates)
        for part, n in parts(counts):
            before[0][:, part], before[1][:, part] = h[:, :n], c[:, :n]
            a = acts[:, part]
            a.copy_(torch.baddbmm(gates[:, part], h[:, :n], recurrent))
            a[..., : 2 * hidden].sigmoid_()
            a[..., 2 * hidden : 3 * hidden].tanh_()
            a[..., 3 * hidden :].sigmoid_()
            i, f, g, o = a.chunk(4, dim=-1)
            c[:, :n] = torch.addcmul(f * c[:, :n], i, g)
            before[2][:, part] = torch.tanh(c[:, :n])
            h[:, :n] = o * before[2][:, part]
        ctx.save_for_backward(recurrent, before, acts)
        ctx.counts = counts
        return h

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        """Gradient of the last states [2, texts, hidden] -> of the gates and of the recurrent weights."""
        recurrent, (h, c, tanh_c), acts = ctx.saved_tensors
        hidden = recurrent.shape[1]
        i, f, g, o = acts.chunk(4, dim=-1)
        # What a gate's input changes in c (for o: in h); times the gradient of c (of h), step by step, it is
        # the gates' gradient.
        d_gates = torch.cat([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)], dim=-1)
        h_to_c = o * (1 - tanh_c * tanh_c)
        turned = recurrent.transpose(1, 2).contiguous()
        d_h, d_c = grad.clone(), torch.zeros_like(grad)
        for part, n in reversed(parts(ctx.counts)):
            d = d_gates[:, part]
            d_c[:, :n].addcmul_(d_h[:, :n], h_to_c[:, part])
            d[..., : 3 * hidden].unflatten(-1, (3, hidden)).mul_(d_c[:, :n, None])
            d[..., 3 * hidden :].mul_(d_h[:, :n])
            d_c[:, :n].mul_(f[:, part])
            d_h[:, :n] = torch.bmm(d, turned)
        return d_gates, torch.bmm(h.transpose(1, 2), d_gates), None, None


def parts(counts: list[int]) -> list[tuple[slice, int]]:
    """Where the words of each step lie, and how many they are."""
    ends = list(accumulate(counts))
    return [(slice(end - n, end), n) for end, n in zip(ends, counts, strict=True)]


def reversed_within(lengths: torch.Tensor, width: int) -> torch.Tensor:
    """int64 [texts, width]: position of each text's words from last to first; what lies past its length
    repeats the first.
    """
    steps = torch.arange(width, device=lengths.device)[None, :]
    return (lengths[:, None] - 1 - steps).clamp(min=0)
