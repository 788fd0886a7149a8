"""Query-passage match on MS MARCO passage ranking, the public neighbour of DiPair's Q2P-MAT.

    load_task("q2p")                                          from the hub: microsoft/ms_marco, v1.1
    DIPAIR_MSMARCO=folder                                     the same name, from a folder with the official files or a copy of the hub's
    DIPAIR_MSMARCO=ir_datasets                                the same name, through `ir_datasets` (extra `ir`)
    load_task("folder")                                       such a folder by its path

Chen et al. 2020 (DiPair) cut queries at 32 and passages at 128 tokens; their data are not public and how they
drew the pairs is not known, so numbers on `q2p` are no reproduction of theirs. Here a query has all passages
that were judged to match (label "yes"), some that a retriever found for it and nobody marked ("retrieved",
label "no"; part of them would match if somebody looked), and some that match another query of the same split
("random", label "no"). Which queries and which negatives is decided by hashes with a seed, so the order of
the files plays no part. What was built is kept as Parquet and read from there the next time.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dipair_lib.data import checks, splits, task
from dipair_lib.data.files import TaskError
from dipair_lib.data.names import SPLITS
from dipair_lib.data.sources import marco_files, snapshots
from dipair_lib.data.sources.marco_files import Source
from dipair_lib.data.sources.snapshots import Say
from dipair_lib.data.table import Table
from dipair_lib.data.task import Task
from dipair_lib.system import machine

BUILD = 1  # raise when the same files would give other rows, so that older snapshots are not used
QUERIES = 10_000  # at most, chosen by hash among those with a match
RETRIEVED, RANDOM = 4, 2  # negatives of each kind per query, at most
FIELDS, CLASSES = ("query", "passage"), ("no", "yes")
TERMS = "MS MARCO, non-commercial research"  # as data/README.md has them


class Settings(NamedTuple):
    """What decides the rows, beside the files."""

    shares: tuple[float, ...]
    seed: int
    queries: int
    retrieved: int
    random: int


class Query(NamedTuple):
    """A query with the texts of its passages."""

    id: str
    text: str
    positives: list[str]
    retrieved: list[str]


def is_folder(path: Path) -> bool:
    """Whether a path holds the official files or a copy of the hub's repository."""
    return path.is_dir() and bool(
        marco_files.official_files(path) or any((path / marco_files.SUBSET).glob("train*.parquet"))
    )


def load(
    root: Path | None = None,
    max_train: int = 0,
    given: tuple[tuple[str, ...], str, str, str] = ((), "", "", ""),
    shares: tuple[float, ...] = (0.8, 0.1, 0.1),
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    say: Say | None = None,
) -> Task:
    """The task `q2p`.

    Args:
        root: a folder; None: $DIPAIR_MSMARCO, or the hub without it.
        max_train, seed, cache, say: as in `loading.load_task`.
        given: its fields, label, group and kind, only the task's own or empty.
        shares: of train, dev and test. The hub has splits of its own: there they say how many queries are
            taken from each.

    Raises:
        TaskError: a file, line, column or number that cannot be used, the hub out of reach, an extra not
            installed.
    """
    task.refuse_own_columns("q2p", (FIELDS, "label", "query", "classes"), given)
    splits.check_shares(shares)
    settings, tell = Settings(tuple(shares), seed, QUERIES, RETRIEVED, RANDOM), say or (lambda line: None)
    counts: Counter[str] = Counter()
    about, split_how, files, read = source_of(root, settings, counts, tell)

    def build() -> None:
        table = pairs(read(), settings)
        if table.empty:
            raise TaskError(
                f"{about}: no query has a passage that matches it; do the ids of the files belong together?"
            )
        kinds = table["kind"].value_counts()
        notes = {
            "source": about,
            "splits": split_how,
            "settings": settings._asdict(),
            "build": BUILD,
            "pairs": {kind: int(kinds.get(kind, 0)) for kind in ("positive", "retrieved", "random")},
            "counts": {what: int(n) for what, n in sorted(counts.items()) if n},
        }
        snapshots.write(folder, "q2p", key, {"pairs": table}, notes)
        tell(f"q2p: {len(table):,} pairs, kept in {folder}")

    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(json.dumps([BUILD, about, marco_files.REVISION, stamps, settings]).encode())
    folder, key = machine.cache_folder(cache), digest.hexdigest()[:10]
    return finish(*snapshots.snapshot(folder, "q2p", key, "pairs", build), max_train)


def source_of(
    root: Path | None, settings: Settings, counts: Counter[str], tell: Say
) -> tuple[str, str, list[Path], Callable[[], dict[str, list[Query]]]]:
    """What is to be read, by argument and variable: its name, how it is split, its files, and the function
    that reads it.
    """
    setting = os.environ.get("DIPAIR_MSMARCO", "")
    if root is None and setting not in ("", "ir_datasets"):
        root = Path(setting).expanduser()
    cut = f"cut by hash of the query's text, shares {list(settings.shares)}, seed {settings.seed}"
    given = "those of the hub"
    if root is not None and (official := marco_files.official_files(root)):
        files = list(official.values())
        about = "official files " + ", ".join(path.name for path in files)
        return (
            about,
            cut,
            files,
            lambda: by_ids(marco_files.official_source(official, counts, tell), settings, counts, tell),
        )
    if root is not None:
        copy = marco_files.copy_files(root)
        files = [path for paths in copy.values() for path in paths]
        rows = {split: marco_files.parquet_rows(paths) for split, paths in copy.items()}
        about = f"local copy of {marco_files.REPOSITORY}, {marco_files.SUBSET}"
        return about, given, files, lambda: by_rows(rows, settings, counts, tell)
    if setting:
        about = f"ir_datasets, {marco_files.IR_DATASET}"
        return about, cut, [], lambda: by_ids(marco_files.ir_source(counts, tell), settings, counts, tell)
    about = f"{marco_files.REPOSITORY}, {marco_files.SUBSET} at {marco_files.REVISION[:12]}"
    return about, given, [], lambda: by_rows(marco_files.hub_rows(), settings, counts, tell)


def finish(table: pd.DataFrame, notes: dict[str, Any], max_train: int) -> Task:
    """The task of the rows (split, query, passage, label = class name, group = query id)."""
    where = Path("q2p")
    frames = {split: table[table["split"] == split].reset_index(drop=True) for split in SPLITS}
    notes = notes | {"terms": TERMS, "rows_read": {split: len(frame) for split, frame in frames.items()}}
    frames, notes["dropped"] = checks.drop_repeats(frames, FIELDS)
    checks.tell(where, notes)
    index = {name: number for number, name in enumerate(CLASSES)}
    for split, frame in frames.items():
        frame["row"] = range(len(frame))
        checks.check_split(Table(where, {}, None), split, frame, "label", "classes", CLASSES)
        frame["label"] = frame["label"].map(index)
    return task.finish_task("q2p", FIELDS, "classes", CLASSES, frames, True, max_train, notes)


# --- queries to pairs -------------------------------------------------------------------------------------------------------------


def pairs(parts: Mapping[str, Sequence[Query]], settings: Settings) -> pd.DataFrame:
    """Rows (split, query, passage, label, group, kind): of each query its positives, then retrieved, then
    random negatives.
    """
    rows: list[tuple[str, ...]] = []
    for split, queries in parts.items():
        pool = [(query.text, passage) for query in queries for passage in query.positives]
        for query in queries:
            named = {
                "positive": query.positives,
                "retrieved": query.retrieved,
                "random": random_negatives(pool, query, settings),
            }
            for kind, passages in named.items():
                label = CLASSES[kind == "positive"]
                rows += [(split, query.text, passage, label, query.id, kind) for passage in passages]
    return pd.DataFrame(rows, columns=["split", "query", "passage", "label", "group", "kind"])


def random_negatives(pool: Sequence[tuple[str, str]], query: Query, settings: Settings) -> list[str]:
    """Passages that match other queries, from a place in the pool that the query's id and the seed decide."""
    taken: list[str] = []
    own = {*query.positives, *query.retrieved}
    start = int(splits.share(f"random {query.id}", settings.seed) * len(pool))
    for step in range(len(pool)):
        if len(taken) == settings.random:
            break
        text, passage = pool[(start + step) % len(pool)]
        if text != query.text and passage not in own:
            taken.append(passage)
            own.add(passage)
    return taken


def offer(
    heap: list[tuple[float, str]], kept: dict[str, Any], key: str, value: Any, share: float, most: int
) -> None:
    """Keep a key if its share is among the `most` smallest. What has fallen out stays out, so a key that
    comes again counts once.
    """
    if key in kept or (len(heap) >= most and -share <= heap[0][0]):
        return
    kept[key] = value
    heapq.heappush(heap, (-share, key))
    if len(heap) > most:
        del kept[heapq.heappop(heap)[1]]


def in_order(heap: Iterable[tuple[float, str]], kept: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept, by rising share: the same for every order of the file."""
    return {key: kept[key] for _, key in sorted(heap, reverse=True)}


def choose(
    rows: Iterable[tuple[str, str]], judged: set[str], settings: Settings, counts: Counter[str]
) -> dict[str, str]:
    """{id: text} of the queries to use, by hash; those without a match or a text are counted."""
    heap: list[tuple[float, str]] = []
    kept: dict[str, str] = {}
    for number, text in rows:
        counts["queries_read"] += 1
        if number not in judged:
            counts["queries_without_positive"] += 1
        elif not marco_files.visible(text):
            counts["queries_without_text"] += 1
        else:
            offer(heap, kept, number, text.strip(), splits.share(number, settings.seed), settings.queries)
    return in_order(heap, kept)


def by_ids(source: Source, settings: Settings, counts: Counter[str], tell: Say) -> dict[str, list[Query]]:
    """Queries by split: choose them, collect the ids of their passages, then look these up, all at once."""
    judged = {query for query, _ in source.matches()}
    texts = choose(source.queries(), judged, settings, counts)
    if not texts:
        raise TaskError(
            f"{source.name}: none of the {counts['queries_read']:,} queries has a judged passage ({len(judged):,} others have); "
            "do queries and qrels belong together?"
        )
    tell(f"q2p: {len(texts):,} of {counts['queries_read']:,} queries chosen")
    matches: dict[str, dict[str, None]] = {number: {} for number in texts}
    for number, passage in source.matches():
        if number in matches:
            matches[number][passage] = None
    near = nearby(source, texts, matches, settings, counts)
    known = {text: text for group in near.values() for text, is_text in group.items() if is_text}
    wanted = {passage for group in matches.values() for passage in group}
    wanted |= {passage for group in near.values() for passage, is_text in group.items() if not is_text}
    found = source.passages(wanted)
    tell(f"q2p: {len(found):,} of {len(wanted):,} passages found")
    counts["passages_not_found"] += len(wanted) - len(found)
    texts_of = found | known
    queries = []
    for number, text in texts.items():
        positives = [texts_of[passage] for passage in matches[number] if passage in texts_of]
        if positives:
            retrieved = [texts_of[passage] for passage in near[number] if passage in texts_of]
            counts["queries_without_retrieved"] += not retrieved
            queries.append(Query(number, text, positives, retrieved))
        else:
            counts["queries_whose_positives_are_missing"] += 1
    frame = pd.DataFrame({"query": [query.text for query in queries], "at": range(len(queries))})
    shares = dict(zip(SPLITS, settings.shares, strict=True))
    cut = splits.cut(frame, "query", shares, settings.seed) if queries else {}
    return {split: [queries[i] for i in part["at"]] for split, part in cut.items()}


def nearby(
    source: Source,
    texts: Mapping[str, str],
    matches: Mapping[str, Mapping[str, None]],
    settings: Settings,
    counts: Counter[str],
) -> dict[str, dict[str, bool]]:
    """For each query the retrieved passages to use, by hash: {id: False} or, where the list has no ids,
    {text: True}.
    """
    heaps: dict[str, list[tuple[float, str]]] = {number: [] for number in texts}
    kept: dict[str, dict[str, bool]] = {number: {} for number in texts}
    if source.retrieved is not None and settings.retrieved:
        for number, passage, text in source.retrieved(texts):
            key = passage or text
            if number in heaps and key not in matches[number]:
                share = splits.share(f"{number} {key}", settings.seed)
                offer(heaps[number], kept[number], key, not passage, share, settings.retrieved)
    return {number: in_order(heaps[number], kept[number]) for number in texts}


def by_rows(
    rows: Mapping[str, Iterable[dict[str, Any]]], settings: Settings, counts: Counter[str], tell: Say
) -> dict[str, list[Query]]:
    """Queries by split, of the hub's rows: each is a query with the passages that were shown to its judge."""
    parts = {}
    for split, share in zip(SPLITS, settings.shares, strict=True):
        heap: list[tuple[float, str]] = []
        kept: dict[str, Any] = {}
        for at, row in enumerate(rows[split], 1):
            counts["queries_read"] += 1
            passages = row["passages"]
            if len(passages["is_selected"]) != len(passages["passage_text"]):
                raise TaskError(
                    f"{marco_files.REPOSITORY}, {split}, row {at}: {len(passages['is_selected'])} marks `is_selected` for "
                    f"{len(passages['passage_text'])} passages; download the file again"
                )
            if 1 not in passages["is_selected"]:
                counts["queries_without_positive"] += 1
            elif not marco_files.visible(row["query"] or ""):
                counts["queries_without_text"] += 1
            else:
                number = str(row["query_id"])
                most = max(1, round(settings.queries * share))
                offer(heap, kept, number, row, splits.share(number, settings.seed), most)
        parts[split] = [query_of(row, settings, counts) for row in in_order(heap, kept).values()]
        parts[split] = [query for query in parts[split] if query.positives]
        tell(f"q2p: {len(parts[split]):,} queries of {split} chosen")
    return parts


def query_of(row: Mapping[str, Any], settings: Settings, counts: Counter[str]) -> Query:
    """A row of the hub as a query; of its unmarked passages those with the smallest hashes."""
    number = str(row["query_id"])
    heap: list[tuple[float, str]] = []
    kept: dict[str, Any] = {}
    positives = []
    for mark, text in zip(row["passages"]["is_selected"], row["passages"]["passage_text"], strict=True):
        if not marco_files.visible(text or ""):
            counts["passages_without_text"] += 1
        elif mark == 1:
            positives.append(marco_files.without_nul(text, counts).strip())
        elif settings.retrieved:
            text = marco_files.without_nul(text, counts).strip()
            offer(heap, kept, text, None, splits.share(f"{number} {text}", settings.seed), settings.retrieved)
    counts["queries_whose_positives_are_missing"] += not positives
    counts["queries_without_retrieved"] += not kept
    return Query(
        number, marco_files.without_nul(row["query"], counts).strip(), positives, list(in_order(heap, kept))
    )
