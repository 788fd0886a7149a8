"""Which rows make a step, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dipair_lib.models import Network
from dipair_lib.training.rows import Data
from dipair_lib.training.settings import TrainConfig


def epochs_of(model: Network, data: Data, config: TrainConfig) -> Iterator[list[np.ndarray]]:
    """The rows of each step, pass by pass: all in random order, each once before any comes again.

    Where a batch encodes its distinct texts once, rows that share them stay together (``pieces_of``). A
    cross-encoder reads rows one by one, texts of similar length together; so does a BiLSTM single texts.
    """
    random = np.random.default_rng(config.seed)
    alone = [np.array([i]) for i in range(len(data.groups))]
    members = alone if model.per_pair else pieces_of(data)
    of_all = len(members) * (config.epoch_rows / len(data.groups) if config.epoch_rows else 1)
    of_batch = texts_per_row(data) if model.encoders else np.ones(len(data.groups))
    left = config.pairs / len(data.groups) if config.pairs else config.epochs
    queue = np.empty(0, np.int64)
    while left > 1e-9:
        wanted = max(1, round(min(1.0, left) * of_all))
        while len(queue) < wanted:
            queue = np.concatenate([queue, random.permutation(len(members))])
        rows = np.concatenate([members[i] for i in queue[:wanted]])
        queue = queue[wanted:] if config.epoch_rows else queue[:0]
        if model.per_pair:
            yield list(similar_lengths(model.pair_lengths(data.texts), rows, config.batch_size, random))
        elif not model.encoders and len(data.texts.tokens) == 1:
            lengths = data.texts.tokens[0].lengths[data.texts.index[:, 0]]
            yield list(similar_lengths(lengths, rows, config.batch_size, random))
        else:
            share = np.cumsum(of_batch[rows])
            yield np.split(
                rows,
                np.searchsorted(share, np.arange(config.batch_size, share[-1], config.batch_size) + 1e-6),
            )
        left -= 1


PIECE = 8  # rows of one query that stay together: their query is encoded once for them, and a step still sees several queries


def pieces_of(data: Data) -> list[np.ndarray]:
    """Rows that stay in one batch: a tile of few texts whole, of other groups pieces of at most ``PIECE``
    rows, in order of the groups.
    """
    order = np.argsort(data.groups, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(data.groups[order])) + 1)
    tile = texts_per_row(data)
    return [
        piece
        for rows in groups
        for piece in ([rows] if tile[rows[0]] < 0.5 else np.array_split(rows, -(-len(rows) // PIECE)))
    ]


def texts_per_row(data: Data) -> np.ndarray:
    """float [rows]: how much of a batch's texts a row brings, where its group is encoded once: 1 where every
    row has a text of its own, 1/m in a tile of m texts with n others.
    """
    codes = np.unique(data.groups, return_inverse=True)[1].astype(np.int64)
    size = np.bincount(codes)
    texts = np.ones(len(size), np.int64)
    for field in range(data.texts.index.shape[1]):
        span = int(data.texts.index[:, field].max()) + 1
        distinct = np.unique(codes * span + data.texts.index[:, field])
        texts = np.maximum(texts, np.bincount(distinct // span, minlength=len(size)))
    return (texts / size)[codes]


def similar_lengths(
    lengths: np.ndarray, rows: np.ndarray, batch_size: int, random: np.random.Generator, pool: int = 50
) -> Iterator[np.ndarray]:
    """Batches of similar length: sort within pools of batches, then shuffle each pool's. Else about 45 % of
    the slots would be padding.
    """
    for start in range(0, len(rows), batch_size * pool):
        part = rows[start : start + batch_size * pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        yield from (batches[i] for i in random.permutation(len(batches)))
