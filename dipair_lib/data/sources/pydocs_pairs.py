"""From docstrings to rows: repeats dropped, splits by module, near passages as negatives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dipair_lib.data.files import TaskError
from dipair_lib.data.sources import docstrings, installed
from dipair_lib.data.sources.installed import Item

ITEMS_PER_PACKAGE = 1000
ITEMS = 12_000
NEAR_DUPLICATE = 0.9  # TF-IDF cosine of two passages from which one is dropped
SAME_QUESTION = 0.8  # TF-IDF cosine of two summaries from which one's passage is no negative for the other
RANKS = 20  # a negative is one of this many nearest of some 1,200 passages
TOPICS = 8


def fold_of(module: str) -> int:
    """The tenth (0 to 9) a whole module falls into, by hash."""
    return int(installed.hash_of("split", module)[:8], 16) % 10


def split_of(module: str) -> str:
    """The split of a whole module: eight tenths train, one dev, one test."""
    return {8: "dev", 9: "test"}.get(fold_of(module), "train")


def distinct(items: Iterable[Item], dropped: Counter[str]) -> list[Item]:
    """Items without repeated summaries and (near-)repeated passages, at most ITEMS_PER_PACKAGE of a package
    and ITEMS in all.

    Order is by hash of the place, so which copy stays depends on no path and no order of reading. What is
    dropped is counted in `dropped`, near-duplicates across splits apart from those within one.
    """
    ordered = sorted(items, key=lambda item: installed.hash_of(item.module, item.name, item.summary))
    seen: set[str] = set()
    first: list[Item] = []
    for item in ordered:
        keys = {
            "s" + " ".join(docstrings.WORD.findall(item.summary.lower())),
            "p" + " ".join(docstrings.WORD.findall(item.passage.lower())),
        }
        if keys & seen:
            dropped["duplicate summary or passage"] += 1
        else:
            first.append(item)
        seen |= keys
    per_package: Counter[str] = Counter()
    kept: list[Item] = []
    copies = near_copies([item.passage for item in first]) if first else []
    for item, copy_of in zip(first, copies, strict=True):
        if copy_of is not None:
            across = split_of(item.module) != split_of(first[copy_of].module)
            dropped["near-duplicate passage, " + ("across splits" if across else "same split")] += 1
        elif per_package[item.package] >= ITEMS_PER_PACKAGE:
            dropped["over the limit per package"] += 1
        elif len(kept) >= ITEMS:
            dropped["over the limit in all"] += 1
        else:
            per_package[item.package] += 1
            kept.append(item)
    return sorted(kept)


def near_copies(texts: list[str]) -> list[int | None]:
    """For each text the first earlier one it nearly equals (TF-IDF cosine above NEAR_DUPLICATE), or None."""
    vectors = tfidf(texts).transform(texts).tocsr()
    copies: list[int | None] = []
    for start in range(0, len(texts), 1000):
        block = vectors[start : start + 1000]
        near = (block @ vectors[: start + 1000].T).tocoo()
        keep = (near.data > NEAR_DUPLICATE) & (near.col < near.row + start)
        earliest: dict[int, int] = {}
        for row, col in zip(near.row[keep].tolist(), near.col[keep].tolist(), strict=True):
            earliest[row] = min(col, earliest.get(row, col))
        copies += [earliest.get(row) for row in range(block.shape[0])]
    return copies


def tfidf(texts: Sequence[str]) -> Any:
    """A fitted TF-IDF of English words without stop words, unit rows; the lexical retriever and the duplicate
    test.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, stop_words="english", dtype=np.float32).fit(texts)


def nearest(similarity: np.ndarray, barred: np.ndarray) -> np.ndarray:
    """The RANKS nearest of n passages to each of n queries, best first: [n, RANKS]; fewer where n is small.

    similarity   [n, n], query by passage
    barred       bool [n, n], passages never to be taken for a query (its own, and those that might be right)
    """
    masked = np.where(barred, -np.inf, similarity.astype(np.float32))
    return np.argsort(-masked, axis=1, kind="stable")[:, : min(RANKS, max(2, len(masked) // 4))]


def pairs(items: list[Item], embed: Callable[[Sequence[str]], np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Three rows per item: its own passage (label 1), one near by TF-IDF and one near by embedding (label 0).

    Negatives are other passages of the same tenth of the modules, drawn from the RANKS nearest to the query;
    since every split consists of such tenths, negatives are equally hard in all of them. A passage whose own
    summary nearly repeats the query is not taken: it might be right. Columns: split, query, passage, label,
    group, kind, module.
    """
    rows: list[tuple[str, str, str, int, int, str, str]] = []
    for tenth in range(10):
        part = [item for item in items if fold_of(item.module) == tenth]
        if len(part) < 8:
            raise TaskError(
                f"pydocs: only {len(part)} usable docstrings in tenth {tenth} of the modules, at least 8 are needed; "
                "install dipair-lab with its requirements into the environment that runs this"
            )
        summaries, passages = [i.summary for i in part], [i.passage for i in part]
        words = tfidf(summaries + passages)
        lexical_q, lexical_p = words.transform(summaries), words.transform(passages)
        barred = (lexical_q @ lexical_q.T).toarray() > SAME_QUESTION
        np.fill_diagonal(barred, True)
        by_words = nearest((lexical_q @ lexical_p.T).toarray(), barred)
        by_meaning = nearest(embed(summaries) @ embed(passages).T, barred)
        rng = np.random.default_rng([seed, tenth])
        for i, item in enumerate(part):
            first = int(rng.choice(by_words[i]))
            second = int(rng.choice([j for j in by_meaning[i].tolist() if j != first]))
            for passage, label, kind in (
                (item.passage, 1, "own"),
                (passages[first], 0, "tf-idf"),
                (passages[second], 0, "embedding"),
            ):
                rows.append(
                    (split_of(item.module), item.summary, passage, label, len(rows) // 3, kind, item.module)
                )
    return pd.DataFrame(rows, columns=["split", "query", "passage", "label", "group", "kind", "module"])


def names(items: list[Item]) -> pd.DataFrame:
    """Rows (group, query, name) of the groups of `pairs`, in its order; the qualified name is that of what
    the query sums up.
    """
    ordered = [item for tenth in range(10) for item in items if fold_of(item.module) == tenth]
    full = [f"{item.module}.{item.name}" if item.name else item.module for item in ordered]
    queries = [item.summary for item in ordered]
    return pd.DataFrame({"group": range(len(full)), "query": queries, "name": full})


def topics(items: list[Item]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows (split, summary, label = package name) of the TOPICS largest packages, equally many of each, and
    notes.

    A package's own name would give the answer away: the names of all classes become "library" wherever they
    stand.
    """
    counts = Counter(item.package for item in items)
    names = [name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:TOPICS]]
    if len(names) < 2:
        raise TaskError(
            f"pydocs-topic: docstrings of only {len(names)} package(s) found, at least 2 are needed"
        )
    most = counts[names[-1]]
    aliases = {"scikit-learn": ["sklearn", "scikit"], "torch": ["pytorch"], "python": ["cpython", "stdlib"]}
    words = sorted(
        {w for n in names for w in (n, n.replace("-", "_"), *aliases.get(n, []))}, key=lambda w: (-len(w), w)
    )
    giveaway = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\w*", re.IGNORECASE)
    rows: list[tuple[str, str, str]] = []
    hidden = 0
    for name in sorted(names):
        own = sorted(
            (i for i in items if i.package == name),
            key=lambda i: installed.hash_of(i.module, i.name, i.summary),
        )[:most]
        for item in own:
            summary, n = giveaway.subn("library", item.summary)
            hidden += n > 0
            rows.append((split_of(item.module), summary, name))
    notes = {"classes": sorted(names), "most_per_class": most, "names_replaced_by_library": hidden}
    return pd.DataFrame(rows, columns=["split", "summary", "label"]), notes
