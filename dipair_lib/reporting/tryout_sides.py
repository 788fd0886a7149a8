"""What a model reads and keeps of a text, and what its head attends to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from dipair_lib import models
from dipair_lib.inference.device import moved, placed_on
from dipair_lib.models import DualEncoder
from dipair_lib.models.heads import join
from dipair_lib.models.tokens import Tokens, tokenize
from dipair_lib.reporting.wording import plain


class Loaded(NamedTuple):
    """A model of a results folder, ready to score."""

    name: str
    model: models.Network
    tokenizer: models.Tokenizer


# --- what is kept -----------------------------------------------------------------------------------------------------------------


class Side(NamedTuple):
    """A text as a model reads it.

    Attributes:
        pieces: what is read, special ones included.
        kept: places of those whose outputs are kept.
        note: what else is kept, or how.
    """

    pieces: list[str]
    kept: list[int]
    note: str


def sides(one: Loaded, texts: Sequence[str]) -> list[Side]:
    """What a model reads and keeps of each field's text."""
    return [side(one, text, field) for field, text in enumerate(texts)]


def side(one: Loaded, text: str, field: int) -> Side:
    """What a model reads and keeps of one text."""
    tokens = tokenize(one.tokenizer, [text], one.model.read_lengths[field])
    pieces = pieces_of(one.tokenizer, tokens)
    if one.model.per_pair:
        return Side(pieces, [], "read together with the other side")
    if not isinstance(one.model, DualEncoder):
        return Side(pieces, [], "the last state of each direction")
    mean = f"the mean of all {len(pieces)}" if one.model.pooled else ""
    learned = "the pieces that the learned queries weigh most" if one.model.select == "learned" else ""
    return Side(pieces, kept_places(one.model, tokens, field), " and ".join(n for n in (learned, mean) if n))


def pieces_of(tokenizer: models.Tokenizer, tokens: Tokens) -> list[str]:
    """Word pieces, or of a BiLSTM words, as text."""
    return [str(piece) for piece in tokenizer.convert_ids_to_tokens(tokens.ids.tolist())]


def kept_places(model: DualEncoder, tokens: Tokens, field: int) -> list[int]:
    """Which outputs of one text a student keeps; of learned queries, for each the piece it weighs most."""
    k = min(model.keep[field], len(tokens.ids))
    if model.select == "first" or k == 0:
        return list(range(k))
    with torch.inference_mode():
        ids, mask = moved(tokens.take(np.array([0])), placed_on(model))
        found = model.outputs_of(ids, mask, field)
        if model.select == "learned":
            return (model.queries[field] @ found.hidden[0].T).argmax(1).tolist()
        return model.places(found.hidden, found.mask, found.received, k)[0].tolist()


def attention(one: Loaded, texts: Sequence[str]) -> pd.DataFrame | None:
    """What the tokens a transformer head kept attend to in its last layer, mean over its attention heads: a
    line per token, columns alike, each line adds up to one. The first line is what the score is read from.
    ``attrs["sides"]`` counts the tokens of each side. None for other heads.
    """
    model = one.model
    if not isinstance(model, DualEncoder) or not model.head.inner.attends:
        return None
    prepared, names, ends = [], [], []
    with torch.inference_mode():
        for field, text in enumerate(texts):
            tokens = tokenize(one.tokenizer, [text], model.read_lengths[field])
            ids, mask = moved(tokens.take(np.array([0])), placed_on(model))
            prepared.append(model.encode_and_prepare(ids, mask, field))
            pieces = pieces_of(one.tokenizer, tokens)
            kept = [pieces[place] for place in kept_places(model, tokens, field)]
            if model.select == "learned":
                kept = [f"query {number}" for number in range(model.keep[field])]
            names += [*(["[mean]"] if model.pooled else []), *kept]
            ends.append(len(names))
        own = model.head.parts(prepared)[0]
        real = join([tensors[-1] for tensors in own])[0]
        weights = model.head.inner.attention(*own)[0].mean(0)[real][:, real].cpu()
    found = pd.DataFrame(weights.numpy(), index=names, columns=names)
    found.attrs["sides"] = np.diff(ends, prepend=0).tolist()
    return found


def heat_map(weights: pd.DataFrame) -> Figure:
    """Attention as a small picture, a line where one side ends and the next begins."""
    size = 1.6 + 0.26 * len(weights)
    figure = Figure(figsize=(size + 1.0, size), dpi=90, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights.to_numpy(), cmap="Blues", vmin=0)
    for end in np.cumsum(weights.attrs["sides"])[:-1] - 0.5:
        axes.axhline(end, color="#d55e00", linewidth=1.2)
        axes.axvline(end, color="#d55e00", linewidth=1.2)
    names = [plain(name, 14).replace("$", r"\$") for name in weights.index]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("attended to (lines part the two texts)", fontsize=8)
    axes.set_ylabel("from (the score is read from the first)", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.7).ax.tick_params(labelsize=7)
    return figure
