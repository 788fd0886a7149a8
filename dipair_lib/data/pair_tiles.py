"""Pairs without labels for a teacher to score: tiles of left and right texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dipair_lib.system import progress

# --- tiles: more pairs of the texts there are -----------------------------------------------------------------------------------

TILE = (4, 16)  # left and right texts of a tile: 20 texts encoded for 64 pairs
NEAR = 50  # a right text of a near tile is one of so many nearest to a left one


def tiles(
    texts: Sequence[Sequence[str]],
    vectors: Sequence[np.ndarray],
    fields: Sequence[str],
    n: int,
    kind: str = "near",
    seed: int = 0,
) -> pd.DataFrame:
    """Unlabelled pairs for the teacher to score: every left with every right text of a tile, so that encoding
    few texts teaches many pairs.

    Neither paper has this. ``near`` tiles hold left texts close to each other and right texts close to one of
    them (as a retriever would give); ``random`` ones hold any.

    Args:
        texts: distinct left and right texts.
        vectors: unit vectors of each, float32 [texts, width].
        fields: names of the two columns.
        n: pairs, about; whole tiles.
        seed: of the choice.

    Returns:
        One row per pair: the fields, ``group`` (its tile) and ``round`` 0.

    Raises:
        ValueError: other than two fields, a negative number, an unknown kind.
    """
    if len(fields) != 2:
        raise ValueError(f"pool: tiles are of two fields, but the task has {len(fields)}: leave pool at 0")
    if n < 0 or kind not in {"near", "random"}:
        raise ValueError(f"pool: expected 0 or more pairs, near or random, but got {n} and {kind!r}")
    left, right = (min(size, len(t)) for size, t in zip(TILE, texts, strict=True))
    random = np.random.default_rng(seed)
    rows = []
    for number, first in enumerate(
        progress.track(begin_tiles(len(texts[0]), n // (left * right), random), "tiles")
    ):
        if kind == "near":
            a = nearest(vectors[0] @ vectors[0][first], left)
            close = [nearest(vectors[1] @ vectors[0][i], min(NEAR, len(texts[1]))) for i in a]
            b = pick_each(close, right, random)
        else:
            a = random.choice(len(texts[0]), left, replace=False)
            b = random.choice(len(texts[1]), right, replace=False)
        rows.append(
            np.stack([np.repeat(a, len(b)), np.tile(b, len(a)), np.full(len(a) * len(b), number)], axis=1)
        )
    found = np.concatenate(rows) if rows else np.zeros((0, 3), np.int64)
    named = {
        f: np.asarray(t, dtype=object)[found[:, i]]
        for i, (f, t) in enumerate(zip(fields, texts, strict=True))
    }
    return pd.DataFrame({**named, "group": found[:, 2], "round": 0})


def begin_tiles(texts: int, n: int, random: np.random.Generator) -> np.ndarray:
    """The left text that each of n tiles is built around: all in random order before any comes again."""
    return np.concatenate(
        [np.zeros(0, np.int64), *(random.permutation(texts) for _ in range(-(-n // texts)))]
    )[:n].astype(np.int64)


def nearest(scores: np.ndarray, n: int) -> np.ndarray:
    """Positions of the n highest scores, the highest first."""
    some = np.argpartition(-scores, n - 1)[:n]
    return some[np.argsort(-scores[some], kind="stable")]


def pick_each(close: Sequence[np.ndarray], n: int, random: np.random.Generator) -> np.ndarray:
    """n different positions, each list in turn giving one at random."""
    queues = [iter(random.permutation(c)) for c in close]
    picked: dict[int, None] = {}
    while len(picked) < n and queues:
        for queue in list(queues):
            new = next((int(i) for i in queue if int(i) not in picked), None)
            if new is None:
                queues.remove(queue)
            elif len(picked) < n:
                picked[new] = None
    return np.array(list(picked), np.int64)
