"""A tile of scores by torch alone, for every head."""

from __future__ import annotations

import math

import torch

from dipair_lib.models import PairModel, Prepared

LINES = 32  # left texts of its pieces, at least: a right text's tokens are read once for all of them


def tile(model: PairModel, left: Prepared, right: Prepared, pairs: int = 0) -> torch.Tensor:
    """``model.combine`` of each left with each right text, float32 [m, n], in pieces of so many pairs; 0 for
    ``piece_of``.

    A piece has at least 32 left texts if there are as many.
    """
    m, n, pairs = len(left[0]), len(right[0]), pairs or piece_of(model)
    columns = max(1, min(n, pairs // (min(m, LINES) or 1)))
    lines = max(1, pairs // columns)
    found = torch.empty(m, n)
    for i in range(0, m, lines):
        one = tuple(t[i : i + lines, None] for t in left)
        for j in range(0, n, columns):
            other = tuple(t[None, j : j + columns] for t in right)
            found[i : i + lines, j : j + columns] = model.combine(one, other)[..., 0]
    return found


def piece_of(model: PairModel) -> int:
    """Pairs of a tile computed together, few enough that what the head makes of them stays in the caches.

    Measured on a Xeon with 2 MB of second-level cache per core, where four times as many or as few cost up to
    twice the time. By head and size alone: pieces of other sizes would round otherwise, and a job that goes
    on must end in the same bytes.
    """
    settings = model.settings
    head, keep = settings.get("head"), settings.get("keep", [])
    if head == "transformer":
        return max(32, 4096 // (sum(keep) + 2 * settings["pooled"]))
    if head == "ffnn":
        return max(64, 196_608 // settings["hidden"][0])
    if head in {"maxsim", "cosine+maxsim"}:
        return max(64, (1 << 20) // math.prod(keep))
    return 65_536 if head == "cosine" else 256  # a BiLSTM's head makes two vectors of each pair
