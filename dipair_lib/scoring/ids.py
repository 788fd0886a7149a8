"""What names a text: one rule for ids, and what to write where several ids share a text.

An id is a text, or a whole number of 64 bits with a sign, and is kept as it was given; ``task.ids_of``
refuses all else where it is read. A collection's ids are of one of both kinds, fixed before anything is
encoded. A file that only knows texts (CSV) names a whole number by plain digits: "7" is 7, while "007", "+7"
and "7.0" are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")
ROWS = 1 << 22  # written at a time at most, where ids share texts
ROWS_OF_PAIR = 1 << 24  # of one pair of texts, which are made at once


def number_of(one: Any) -> Any:
    """A text of plain digits as the whole number it is, if that has 64 bits; anything else as it is."""
    if isinstance(one, str) and NUMBER.fullmatch(one) and -(2**63) <= int(one) < 2**63:
        return int(one)
    return one


def as_kind(ids: Sequence[Any], kind: type | None) -> list[Any]:
    """Ids as a collection's are, ``int`` or ``str``, where that changes nothing of what they say; others stay
    as they are.
    """
    if kind is int:
        return [number_of(one) for one in ids]
    return [str(one) for one in ids] if kind is str else list(ids)


class Ids:
    """A collection's ids in the order they were read, and the texts they name.

    Attributes:
        names: the ids. text: int64 [ids], the place of each one's text. order: int64 [ids], the ids by text,
            then as they were read: those of text t are ``order[starts[t]:starts[t] + counts[t]]``.
    """

    def __init__(self, frame: pd.DataFrame, texts: int) -> None:
        self.names = pa.array(frame["id"].to_numpy())
        self.text = frame["text"].to_numpy(np.int64)
        self.order = np.argsort(self.text, kind="stable")
        self.counts = np.bincount(self.text, minlength=texts)
        self.starts = np.cumsum(self.counts) - self.counts

    def __len__(self) -> int:
        return len(self.text)

    @property
    def repeated(self) -> bool:
        """Whether some ids share a text."""
        return len(self) != len(self.counts)

    def first(self) -> np.ndarray:
        """int64 [texts]: the first id of each text."""
        return self.order[self.starts]

    def table(self) -> pa.Table:
        """Columns id and first: the id that stands for it, the first one of its text."""
        first = self.names.take(pa.array(self.first()[self.text]))
        return pa.table({"id": self.names, "first": first})


def every(left: Ids, right: Ids, pairs: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Pairs of texts as all pairs of their ids, some at a time: which pair, left id, right id, int64 [rows]
    each.

    Args:
        pairs: places of left texts, in rising order, and of right texts, int64 [pairs]. The rows of a left id
            come together, in the order of its text's pairs.
    """
    one, other = pairs
    if not (left.repeated or right.repeated):
        yield np.arange(len(one)), left.order[one], right.order[other]
        return
    each = left.counts[one] * right.counts[other]
    ends, start = np.cumsum(each), 0
    while start < len(each):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + ROWS, side="right")))
        n = each[start:stop]
        pair = np.repeat(np.arange(start, stop), n)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(n) - n, n)
        wide = right.counts[other[pair]]
        a, b = left.starts[one[pair]] + within // wide, right.starts[other[pair]] + within % wide
        by = np.argsort(a, kind="stable")
        yield pair[by], left.order[a[by]], right.order[b[by]]
        start = stop
