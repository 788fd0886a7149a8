"""The forward pass of the BiLSTM in other forms, to be clocked against its own: the textbook's, torch's
kernel, compiled, bfloat16.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.utils.rnn import pack_padded_sequence

from dipair_lib.models.bilstm import BiLSTM, reversed_within

COMPILED = "gate tables, torch.compile"
Way = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # ids, mask [n, words] -> logits [n, outputs]


def head(model: BiLSTM, states: torch.Tensor) -> torch.Tensor:
    """Last states [n, 2 * hidden] -> logits [n, 2]."""
    return model.head.output(model.head.own[0](states).relu())  # type: ignore[no-any-return]


def vectors_of(model: BiLSTM, ids: torch.Tensor) -> torch.Tensor:
    """Both channels [n, words, 2 * width]."""
    return torch.cat([model.frozen(ids), model.trained(ids)], dim=-1)


def packed_states(model: BiLSTM, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The textbook form: ``nn.LSTM`` over packed sequences -> last states [n, 2 * hidden]."""
    last = model.lstm(pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False))[1][0]
    return last.transpose(0, 1).flatten(1)


def packed(model: BiLSTM, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``nn.LSTM``, packed sequences."""
    return head(model, packed_states(model, vectors_of(model, ids), mask.sum(1)))


def padded(model: BiLSTM, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``nn.LSTM``'s own kernel over a padded batch, each direction from its begin; the states behind the last
    word are dropped.
    """
    lengths, rows = mask.sum(1), torch.arange(len(ids), device=ids.device)
    sides = []
    for words, weights in zip(
        (ids, ids[rows[:, None], reversed_within(lengths, ids.shape[1])]), model.directions(), strict=True
    ):
        x = vectors_of(model, words)
        begin = x.new_zeros(1, len(ids), model.settings["hidden"])
        out = torch.lstm(x, (begin, begin), list(weights), True, 1, 0.0, False, False, True)[0]
        sides.append(out[rows, lengths - 1])
    return head(model, torch.cat(sides, dim=-1))


def cell(
    gates: torch.Tensor, h: torch.Tensor, c: torch.Tensor, recurrent: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of both directions: gates [2, n, 4 * hidden], h and c [2, n, hidden], recurrent [2, hidden, 4
    * hidden] -> h, c.
    """
    i, f, g, o = torch.baddbmm(gates, h, recurrent).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def compiled(
    step: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    model: BiLSTM,
    ids: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Folded gate tables with a step that torch.compile fused; every sentence of a batch takes part to the
    end of the longest.
    """
    lengths = mask.sum(1)
    gates = model.look_up(ids, mask)
    recurrent = torch.stack([weights[1].T for weights in model.directions()])
    h = c = gates.new_zeros(2, len(ids), model.settings["hidden"])
    for number in range(gates.shape[1]):
        alive = (lengths > number)[None, :, None]
        new_h, new_c = step(gates[:, number], h, c, recurrent)
        h, c = torch.where(alive, new_h, h), torch.where(alive, new_c, c)
    return head(model, torch.cat([h[0], h[1]], dim=-1))


def gate_tables(model: BiLSTM, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As the model itself does it: the input's share of the gates from tables, then its own loop."""
    return head(model, model.states(model.look_up(ids, mask), mask.sum(1)))


def ways_of(
    model: BiLSTM, ids: torch.Tensor, mask: torch.Tensor, fuse: bool = True
) -> tuple[dict[str, Way], str]:
    """Every way on a CPU by name, the textbook's first; and why torch.compile's is not among them, or "".

    Args:
        ids, mask: [n, words], a batch to compile with.
        fuse: try torch.compile at all.
    """
    half = copy.deepcopy(model).bfloat16()
    ways: dict[str, Way] = {
        "nn.LSTM, packed (textbook)": partial(packed, model),
        "nn.LSTM, padded": partial(padded, model),
        "nn.LSTM, padded, bfloat16": partial(padded, half),
        "gate tables": partial(gate_tables, model),
        "gate tables, bfloat16": partial(gate_tables, half),
    }
    if not fuse:
        return ways, "not asked for"
    try:  # it needs a C++ compiler
        step = torch.compile(cell, dynamic=True)
        with torch.inference_mode():
            compiled(step, model, ids, mask)
    except Exception as error:
        return ways, f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    return {**ways, COMPILED: partial(compiled, step, model)}, ""
