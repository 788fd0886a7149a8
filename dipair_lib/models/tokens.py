"""Texts in word pieces: each distinct text tokenised once, batches padded to their own longest text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase


class Tokenizer(Protocol):
    """What turns texts into the ids a network reads: a transformers tokenizer, one of single fields, or a
    BiLSTM's of words.
    """

    def __call__(self, *texts: Any, **asked: Any) -> Any: ...

    def convert_ids_to_tokens(self, ids: list[int], /) -> Any: ...


@dataclass(frozen=True)
class Tokens:
    """Ragged word pieces of texts.

    Attributes:
        ids: int32 [all word pieces], the texts one after the other.
        offsets: int64 [texts + 1]; text i is ``ids[offsets[i]:offsets[i + 1]]``.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 [texts]: word pieces per text, [CLS] and [SEP] included."""
        return np.diff(self.offsets)

    def select(self, rows: np.ndarray) -> Tokens:
        """Some of the texts, in the order given."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Tokens(self.ids[places], offsets)

    def take(self, rows: np.ndarray, length: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad a batch.

        Args:
            rows: int [n] positions of texts.
            length: pad to this many; 0 pads to the longest of the batch.

        Returns:
            ids int64 [n, tokens] (0 where padded) and mask bool [n, tokens].
        """
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        width = max(length, int(lengths.max(initial=1)))
        mask = np.arange(width)[None, :] < lengths[:, None]
        positions = np.minimum(
            self.offsets[rows][:, None] + np.arange(width)[None, :], max(len(self.ids) - 1, 0)
        )
        ids = np.where(mask, self.ids[positions], 0)
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(mask)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Tokens:
    """Word pieces of texts, [CLS] and [SEP] included, cut to at most ``length``.

    A tokenizer that does not put one token before and one behind every text (GPT's puts none) gets its
    ``separator`` in both places.
    """
    if length < 3:
        raise ValueError(
            f"read length: expected at least 3 word pieces ([CLS], one, [SEP]), but got {length}"
        )
    if len(texts) == 0:
        return Tokens(np.zeros(0, np.int32), np.zeros(1, np.int64))
    asked: dict[str, Any] = {"truncation": True, "return_attention_mask": False}
    if is_bare(tokenizer):
        mark = separator(tokenizer)
        pieces = tokenizer(list(texts), add_special_tokens=False, max_length=length - 2, **asked)["input_ids"]
        encoded = [[mark, *ids, mark] for ids in pieces]
    else:
        encoded = tokenizer(list(texts), max_length=length, **asked)["input_ids"]
    offsets = np.cumsum([0, *(len(e) for e in encoded)], dtype=np.int64)
    ids = np.fromiter((i for e in encoded for i in e), dtype=np.int32, count=int(offsets[-1]))
    return Tokens(ids, offsets)


def is_bare(tokenizer: Tokenizer) -> TypeGuard[PreTrainedTokenizerBase]:
    """Whether a tokenizer puts anything else than one token before and one behind a text: GPT's puts none,
    T5's and Qwen's one, XLNet's two behind. A BiLSTM's words are no pieces: nothing stands around them.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return False
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return not (len(mask) > 2 and mask[0] == mask[-1] == 1 == 3 - sum(mask))


def unknown_in(tokenizer: Tokenizer, tokens: Tokens) -> tuple[int, int]:
    """Word pieces of texts that a backbone's tokenizer does not know ([UNK]), and all of them, special ones
    left out; (0, 0) of words.
    """
    whole = isinstance(tokenizer, PreTrainedTokenizerBase)
    # Of single fields there are no special tokens.
    own: Any = tokenizer if whole else getattr(tokenizer, "tokenizer", None)
    if own is None:
        return 0, 0
    around = 2 * len(tokens) if whole else 0
    unknown = int(np.count_nonzero(tokens.ids == (-1 if own.unk_token_id is None else own.unk_token_id)))
    # GPT-2 names the token that parts texts as unknown, too, and never gives it.
    same = around if whole and is_bare(own) and separator(own) == own.unk_token_id else 0
    return unknown - same, len(tokens.ids) - around


def separator(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that begins, parts and ends texts where a tokenizer has no [CLS] and [SEP].

    GPT (Radford et al. 2018) adds three untrained tokens: start, delimiter, extract. Here one token that the
    checkpoint knows takes their places: its own separator or end of text, else a line break, else a full stop
    (the first GPT's tokenizer drops line breaks).
    """
    for known in (tokenizer.sep_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id):
        if known is not None:
            return int(known)
    for sign in ("\n", "."):
        ids = tokenizer(sign, add_special_tokens=False)["input_ids"]
        if ids and ids[-1] != tokenizer.unk_token_id:
            return int(ids[-1])
    raise ValueError(
        f"{type(tokenizer).__name__}: expected a separator, end-of-text token, line break or full stop to part two texts with, but it "
        "has none: set eos_token in its tokenizer_config.json"
    )


@dataclass(frozen=True)
class Texts:
    """The texts of some rows, each distinct text of a field once.

    Attributes:
        tokens: one ``Tokens`` per field, its distinct texts in order of first appearance.
        index: int64 [rows, fields]: which distinct text each row has in each field.
        distinct: the texts themselves, per field (for models that read words, such as TF-IDF).
    """

    tokens: tuple[Tokens, ...]
    index: np.ndarray
    distinct: tuple[list[str], ...]

    def __len__(self) -> int:
        return len(self.index)

    def first(self, n: int) -> Texts:
        """The first n rows and the texts they need, which stand first."""
        index = self.index[:n]
        counts = index.max(axis=0, initial=-1) + 1
        tokens = [
            Tokens(t.ids[: t.offsets[m]], t.offsets[: m + 1])
            for t, m in zip(self.tokens, counts, strict=True)
        ]
        distinct = (texts[:m] for texts, m in zip(self.distinct, counts, strict=True))
        return Texts(tuple(tokens), index, tuple(distinct))


def read(tokenizer: Tokenizer, frame: pd.DataFrame, fields: Sequence[str], lengths: Sequence[int]) -> Texts:
    """Tokenise the rows of a task's split.

    Args:
        frame: one row per pair, with a text column for each field.
        fields: the text columns.
        lengths: word pieces read of each field (DiPair: 32 for the query, 128 for the passage).
    """
    if len(lengths) != len(fields):
        raise ValueError(
            f"read_lengths: expected {len(fields)} numbers, one for each of the fields {list(fields)}, but got {list(lengths)}"
        )
    codes, distinct = zip(*(pd.factorize(frame[field]) for field in fields), strict=True)
    words = tuple([str(text) for text in texts] for texts in distinct)
    prompt = getattr(tokenizer, "prompt", "")  # of a checkpoint that has one: before every first text
    given = [[prompt + text for text in words[0]], *words[1:]] if prompt else words
    tokens = tuple(tokenize(tokenizer, texts, length) for texts, length in zip(given, lengths, strict=True))
    return Texts(tokens, np.stack(codes, axis=1).astype(np.int64), words)


def length_sorted(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of positions, longest texts first, so that little of a batch is padding (and memory peaks at
    once, not late).
    """
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


BATCH_TOKENS = (
    1536  # a layer's activations then stay in a core's caches; at 64 texts of 128 word pieces they do not
)


def in_batches(lengths: np.ndarray, tokens: int = BATCH_TOKENS) -> list[np.ndarray]:
    """As ``length_sorted``, but each batch holds at most so many word pieces, padding counted: few long texts
    or many short ones.
    """
    order, batches, start = np.argsort(-lengths, kind="stable"), [], 0
    while start < len(order):
        size = max(1, tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches
