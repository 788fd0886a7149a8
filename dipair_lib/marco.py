"""Query-passage match on MS MARCO passage ranking, the public neighbour of DiPair's Q2P-MAT.

    load_task("q2p")                                          from the hub: microsoft/ms_marco, v1.1
    DIPAIR_MSMARCO=folder                                     the same name, from a folder with the official files or a copy of the hub's
    DIPAIR_MSMARCO=ir_datasets                                the same name, through `ir_datasets` (extra `ir`)
    load_task("folder")                                       such a folder by its path

Chen et al. 2020 (DiPair) cut queries at 32 and passages at 128 tokens; their data are not public and how they drew the pairs is not
known, so numbers on `q2p` are no reproduction of theirs. Here a query has all passages that were judged to match (label "yes"), some
that a retriever found for it and nobody marked ("retrieved", label "no"; part of them would match if somebody looked), and some that
match another query of the same split ("random", label "no"). Which queries and which negatives is decided by hashes with a seed, so the
order of the files plays no part. What was built is kept as Parquet and read from there the next time.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dipair_lib import machine, tasks
from dipair_lib.data import checks, splits
from dipair_lib.data.table import need_column, show
from dipair_lib.tasks import SPLITS, Table, Task, TaskError

REPOSITORY, SUBSET = "microsoft/ms_marco", "v1.1"
# The last commit on the page of the repository. This code has read local files in its layout, but not yet the hub itself.
REVISION = "a47ee7aae8d7d466ba15f9f0bfac3b3681087b3a"
IR_DATASET = "msmarco-passage/train"
BUILD = 1  # raise when the same files would give other rows, so that older snapshots are not used
QUERIES = 10_000
RETRIEVED, RANDOM = 4, 2  # negatives of each kind per query, at most
FIELDS, CLASSES = ("query", "passage"), ("no", "yes")
COLUMNS = ("query", "query_id", "passages")
TERMS = "MS MARCO, non-commercial research"  # as data/README.md has them
EVERY = 1_000_000  # lines between two words of progress
AT_ONCE = 10_000  # passages looked up together

Say = Callable[[str], None]


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


class Source(NamedTuple):
    """A collection by ids. Each function reads anew.

    Attributes:
        name: for messages and notes.
        queries: yields (query id, text). matches: yields (query id, passage id) judged to match.
        retrieved: for {query id: text} yields (query id, passage id or "", passage or ""); None where there is no such list.
        passages: {passage id: text} of the ids asked for, without those it lacks.
    """

    name: str
    queries: Callable[[], Iterator[tuple[str, str]]]
    matches: Callable[[], Iterator[tuple[str, str]]]
    retrieved: Callable[[Mapping[str, str]], Iterator[tuple[str, str, str]]] | None
    passages: Callable[[set[str]], dict[str, str]]


def is_folder(path: Path) -> bool:
    """Whether a path holds the official files or a copy of the hub's repository."""
    return path.is_dir() and bool(official_files(path) or any((path / SUBSET).glob("train*.parquet")))


def load(
    root: Path | None = None,
    max_train: int = 0,
    given: tuple[tuple[str, ...], str, str, str] = ((), "", "", ""),
    shares: tuple[float, ...] = (0.8, 0.1, 0.1),
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    say: Say | None = None,
    queries: int = QUERIES,
    retrieved: int = RETRIEVED,
    random: int = RANDOM,
) -> Task:
    """The task `q2p`.

    Args:
        root: a folder; None: $DIPAIR_MSMARCO, or the hub without it.
        max_train, seed, cache, say: as in `tasks.load_task`. given: its fields, label, group and kind, only the task's own or empty.
        shares: of train, dev and test. The hub has splits of its own: there they say how many queries are taken from each.
        queries: at most so many, chosen by hash among those with a match. retrieved, random: negatives of each, at most so many.

    Raises:
        TaskError: a file, line, column or number that cannot be used, the hub out of reach, an extra not installed.
    """
    tasks._refuse_own("q2p", (FIELDS, "label", "query", "classes"), given)
    splits.check_shares(shares)
    if queries < 1 or min(retrieved, random) < 0 or retrieved + random < 1:
        raise TaskError(
            f"q2p: queries={queries}, retrieved={retrieved}, random={random}: expected at least one query, and one negative for it"
        )
    settings, tell = Settings(tuple(shares), seed, queries, retrieved, random), say or (lambda line: None)
    counts: Counter[str] = Counter()
    about, split_how, files, read = source_of(root, settings, counts, tell)

    def build() -> tuple[pd.DataFrame, dict[str, Any]]:
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
        return table, notes

    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(json.dumps([BUILD, about, REVISION, stamps, settings]).encode())
    table, notes = snapshot(tasks.cache_folder(cache), digest.hexdigest()[:10], build, tell)
    return finish(table, notes, max_train)


def source_of(
    root: Path | None, settings: Settings, counts: Counter[str], tell: Say
) -> tuple[str, str, list[Path], Callable[[], dict[str, list[Query]]]]:
    """What is to be read, by argument and variable: its name, how it is split, its files, and the function that reads it."""
    setting = os.environ.get("DIPAIR_MSMARCO", "")
    if root is None and setting not in ("", "ir_datasets"):
        root = Path(setting).expanduser()
    cut = f"cut by hash of the query's text, shares {list(settings.shares)}, seed {settings.seed}"
    given = "those of the hub"
    if root is not None and (official := official_files(root)):
        files = list(official.values())
        about = "official files " + ", ".join(path.name for path in files)
        return (
            about,
            cut,
            files,
            lambda: by_ids(official_source(official, counts, tell), settings, counts, tell),
        )
    if root is not None:
        copy = copy_files(root)
        files = [path for paths in copy.values() for path in paths]
        rows = {split: parquet_rows(paths) for split, paths in copy.items()}
        about = f"local copy of {REPOSITORY}, {SUBSET}"
        return about, given, files, lambda: by_rows(rows, settings, counts, tell)
    if setting:
        about = f"ir_datasets, {IR_DATASET}"
        return about, cut, [], lambda: by_ids(ir_source(counts, tell), settings, counts, tell)
    about = f"{REPOSITORY}, {SUBSET} at {REVISION[:12]}"
    return about, given, [], lambda: by_rows(hub_rows(), settings, counts, tell)


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
    return tasks._finish("q2p", FIELDS, "classes", CLASSES, frames, True, max_train, notes)


# --- queries to pairs -------------------------------------------------------------------------------------------------------------


def pairs(parts: Mapping[str, Sequence[Query]], settings: Settings) -> pd.DataFrame:
    """Rows (split, query, passage, label, group, kind): of each query its positives, then retrieved, then random negatives."""
    rows: list[tuple[str, ...]] = []
    for split, queries in parts.items():
        pool = [(query.text, passage) for query in queries for passage in query.positives]
        for query in queries:
            named = {
                "positive": query.positives,
                "retrieved": query.retrieved,
                "random": strangers(pool, query, settings),
            }
            for kind, passages in named.items():
                label = CLASSES[kind == "positive"]
                rows += [(split, query.text, passage, label, query.id, kind) for passage in passages]
    return pd.DataFrame(rows, columns=["split", "query", "passage", "label", "group", "kind"])


def strangers(pool: Sequence[tuple[str, str]], query: Query, settings: Settings) -> list[str]:
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
    """Keep a key if its share is among the `most` smallest. What has fallen out stays out, so a key that comes again counts once."""
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
        elif not visible(text):
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
    """For each query the retrieved passages to use, by hash: {id: False} or, where the list has no ids, {text: True}."""
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
                    f"{REPOSITORY}, {split}, row {at}: {len(passages['is_selected'])} marks `is_selected` for "
                    f"{len(passages['passage_text'])} passages; download the file again"
                )
            if 1 not in passages["is_selected"]:
                counts["queries_without_positive"] += 1
            elif not visible(row["query"] or ""):
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
        if not visible(text or ""):
            counts["passages_without_text"] += 1
        elif mark == 1:
            positives.append(without_nul(text, counts).strip())
        elif settings.retrieved:
            text = without_nul(text, counts).strip()
            offer(heap, kept, text, None, splits.share(f"{number} {text}", settings.seed), settings.retrieved)
    counts["queries_whose_positives_are_missing"] += not positives
    counts["queries_without_retrieved"] += not kept
    return Query(number, without_nul(row["query"], counts).strip(), positives, list(in_order(heap, kept)))


def visible(text: str) -> bool:
    """Whether a text has anything that a tokenizer would see."""
    return any(c.isprintable() and not c.isspace() for c in text)


def without_nul(text: str, counts: Counter[str]) -> str:
    counts["texts_with_nul_replaced"] += "\0" in text
    return text.replace("\0", "\ufffd")


# --- the official files -----------------------------------------------------------------------------------------------------------


def official_files(root: Path) -> dict[str, Path]:
    """Paths of collection, queries, qrels (of train, or else of another part that is there) and, if any, retrieved; {} without them."""
    if not root.is_dir():
        return {}
    names = {
        path.name.removesuffix(".gz"): path for path in sorted(root.iterdir(), reverse=True) if path.is_file()
    }
    parts = [
        name[len("queries.") : -len(".tsv")]
        for name in names
        if name.startswith("queries.") and name.endswith(".tsv")
    ]
    parts = sorted(
        (part for part in parts if f"qrels.{part}.tsv" in names), key=lambda part: (part != "train", part)
    )
    if "collection.tsv" not in names or not parts:
        return {}
    files = {name: names[f"{name}.{parts[0]}.tsv"] for name in ("queries", "qrels")}
    files = {"collection": names["collection.tsv"]} | files
    for start in ("qidpidtriples", "top1000", "triples"):
        lists = [name for name in sorted(names) if name.startswith(f"{start}.{parts[0].split('.')[0]}")]
        lists = [name for name in lists if not name.endswith(".tar")]
        if lists:
            return files | {"retrieved": names[lists[0]]}
    return files


def official_source(files: Mapping[str, Path], counts: Counter[str], tell: Say) -> Source:
    """The official files as a source; ids and texts are separated by tabs, those of qrels by tabs or spaces."""

    def queries() -> Iterator[tuple[str, str]]:
        for number, line in lines(files["queries"], tell):
            query, text = split_line(files["queries"], number, line, ("query id", "query"))
            yield query.decode(errors="replace"), decoded(text, counts)

    def matches() -> Iterator[tuple[str, str]]:
        path = files["qrels"]
        for number, line in lines(path, tell):
            cells = line.decode(errors="replace").split()
            if len(cells) != 4 or not cells[3].lstrip("-").isdecimal():
                raise TaskError(
                    f"{path}, line {number}: expected 'query id, 0, passage id, grade', got {shown(line)}; download it again"
                )
            if int(cells[3]) > 0:
                yield cells[0], cells[2]

    def retrieved(texts: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
        path = files["retrieved"]
        ids = {number.encode(): number for number in texts}
        by_text = {text.encode(): number for number, text in texts.items()}
        for at, line in lines(path, tell):
            if path.name.startswith("triples"):
                query, _, text = split_line(
                    path, at, line, ("query", "passage that matches", "passage that does not")
                )
                if (number := by_text.get(query.strip())) and visible(passage := decoded(text, counts)):
                    yield number, "", passage.strip()
            elif path.name.startswith("top1000"):
                cells = split_line(path, at, line, ("query id", "passage id", "query", "passage"))
                if cells[0] in ids:
                    yield ids[cells[0]], cells[1].decode(errors="replace"), ""
            else:
                cells = split_line(path, at, line, ("query id", "passage id", "other passage's id"))
                if cells[0] in ids:
                    yield ids[cells[0]], cells[2].decode(errors="replace"), ""

    return Source(
        str(files["queries"].parent),
        queries,
        matches,
        retrieved if "retrieved" in files else None,
        lambda wanted: read_collection(files["collection"], wanted, counts, tell),
    )


def read_collection(path: Path, wanted: set[str], counts: Counter[str], tell: Say) -> dict[str, str]:
    """The wanted passages, in one pass that holds nothing else."""
    left = {passage.encode() for passage in wanted}
    found = {}
    for number, line in lines(path, tell):
        passage, text = split_line(path, number, line, ("passage id", "passage"))
        if passage in left:
            left.remove(passage)
            if visible(words := decoded(text, counts)):
                found[passage.decode()] = words.strip()
            else:
                counts["passages_without_text"] += 1
        if not left:
            break
    return found


def lines(path: Path, tell: Say) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a file, also compressed, one at a time; blank ones are left out."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number % EVERY == 0:
                    tell(f"q2p: {path.name}, {number:,} lines read")
                if line.strip():
                    yield number, line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(
            f"{path}: cannot be read ({error}); check the path, or download the file again"
        ) from error


def split_line(path: Path, number: int, line: bytes, names: Sequence[str]) -> list[bytes]:
    """The cells of a line; the last may hold tabs."""
    cells = line.split(b"\t", len(names) - 1)
    if len(cells) != len(names):
        raise TaskError(
            f"{path}, line {number}: expected {' TAB '.join(names)}, got {shown(line)}; is it the official file?"
        )
    return cells


def shown(line: bytes) -> str:
    return show(line.decode(errors="replace"))


def decoded(data: bytes, counts: Counter[str]) -> str:
    """Text of bytes that should be UTF-8; what is not is replaced and counted. Mis-decoded characters stay as they are."""
    try:
        return without_nul(data.decode(), counts)
    except UnicodeDecodeError:
        counts["texts_with_invalid_bytes_replaced"] += 1
        return without_nul(data.decode(errors="replace"), counts)


# --- ir_datasets ------------------------------------------------------------------------------------------------------------------


def ir_source(counts: Counter[str], tell: Say) -> Source:
    """`ir_datasets` as a source. It downloads on first use, and asks to have the terms of MS MARCO confirmed."""
    try:
        import ir_datasets
    except ImportError as error:
        raise TaskError(
            "q2p: DIPAIR_MSMARCO=ir_datasets needs the extra `ir` (pip install 'dipair-lab[ir]'); or set DIPAIR_MSMARCO to a folder"
        ) from error

    def unreachable(error: Exception) -> TaskError:
        return TaskError(
            f"ir_datasets, {IR_DATASET}: cannot be read ({error}); is there a network? Without one, set DIPAIR_MSMARCO to a folder"
        )

    def guarded(rows: Callable[[], Iterable[Any]], what: str) -> Iterator[Any]:
        try:
            for number, row in enumerate(rows(), 1):
                if number % EVERY == 0:
                    tell(f"q2p: {number:,} {what} read")
                yield row
        except (OSError, RuntimeError) as error:
            raise unreachable(error) from error

    try:
        known = ir_datasets.load(IR_DATASET)
    except (OSError, KeyError, RuntimeError) as error:
        raise unreachable(error) from error

    def queries() -> Iterator[tuple[str, str]]:
        for row in guarded(known.queries_iter, "queries"):
            yield row.query_id, without_nul(row.text, counts)

    def matches() -> Iterator[tuple[str, str]]:
        for row in guarded(known.qrels_iter, "judgements"):
            if row.relevance > 0:
                yield row.query_id, row.doc_id

    def retrieved(texts: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
        if hasattr(known, "docpairs_iter"):
            for row in guarded(known.docpairs_iter, "triples"):
                if row.query_id in texts:
                    yield row.query_id, row.doc_id_b, ""
        else:
            for row in guarded(known.scoreddocs_iter, "retrieved passages"):
                if row.query_id in texts:
                    yield row.query_id, row.doc_id, ""

    def look_up(ids: list[str]) -> Iterable[Any]:
        return known.docs_store().get_many(ids).values()

    def passages(wanted: set[str]) -> dict[str, str]:
        ids, found = sorted(wanted), {}
        for start in range(0, len(ids), AT_ONCE):
            for one in guarded(partial(look_up, ids[start : start + AT_ONCE]), "passages"):
                if visible(one.text):
                    found[one.doc_id] = without_nul(one.text, counts).strip()
                else:
                    counts["passages_without_text"] += 1
        return found

    has = hasattr(known, "docpairs_iter") or hasattr(known, "scoreddocs_iter")
    return Source(f"ir_datasets, {IR_DATASET}", queries, matches, retrieved if has else None, passages)


# --- the hub ----------------------------------------------------------------------------------------------------------------------


def copy_files(root: Path) -> dict[str, list[Path]]:
    """Parquet files by split of a copy of the hub's repository."""
    names = {"train": "train", "dev": "validation", "test": "test"}
    files = {split: sorted((root / SUBSET).glob(f"{name}*.parquet")) for split, name in names.items()}
    missing = [names[split] for split in SPLITS if not files[split]]
    if missing:
        raise TaskError(
            f"{root}: expected the official collection.tsv, queries.train.tsv and qrels.train.tsv (also .gz), or a copy of {REPOSITORY} "
            f"with {SUBSET}/train*, validation* and test*.parquet (there is no {missing[0]}*.parquet)"
        )
    return files


def parquet_rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The rows of Parquet files in the hub's layout, a thousand at a time and only the columns needed."""
    import pyarrow
    import pyarrow.parquet

    for path in paths:
        try:
            file = pyarrow.parquet.ParquetFile(path)
            check_columns(path, file.schema_arrow.names)
            wanted = ["query", "query_id", "passages.is_selected", "passages.passage_text"]
            for batch in file.iter_batches(batch_size=1000, columns=wanted):
                yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise TaskError(f"{path}: not a readable Parquet file ({error}); download it again") from error


def hub_rows() -> dict[str, Iterator[dict[str, Any]]]:
    """The rows of each split of the hub's repository."""
    try:
        import datasets
    except ImportError as error:
        raise TaskError(
            f"q2p: reading {REPOSITORY} needs the extra `hub` (pip install 'dipair-lab[hub]'); or set DIPAIR_MSMARCO to a folder"
        ) from error
    try:
        found = datasets.load_dataset(REPOSITORY, SUBSET, revision=REVISION)
    except (OSError, ValueError) as error:
        raise TaskError(
            f"{REPOSITORY}, {SUBSET}: cannot be read ({error}); is there a network? Without one, set DIPAIR_MSMARCO to a folder with "
            "the official files or a copy of the repository, or to ir_datasets"
        ) from error

    def rows(data: Any) -> Iterator[dict[str, Any]]:
        for batch in data.select_columns(list(COLUMNS)).iter(batch_size=1000):
            for values in zip(*(batch[name] for name in COLUMNS), strict=True):
                yield dict(zip(COLUMNS, values, strict=True))

    names = {"train": "train", "dev": "validation", "test": "test"}
    for name in names.values():
        if name not in found:
            raise TaskError(f"{REPOSITORY}, {SUBSET}: no split {name!r}; there are {', '.join(found)}")
        check_columns(Path(f"{REPOSITORY}/{SUBSET}/{name}"), found[name].column_names)
    return {split: rows(found[name]) for split, name in names.items()}


def check_columns(path: Path, there: Iterable[str]) -> None:
    for name in COLUMNS:
        need_column(Table(path, {column: [] for column in there}, None), name)


# --- snapshot ---------------------------------------------------------------------------------------------------------------------


def snapshot(
    folder: Path, key: str, build: Callable[[], tuple[pd.DataFrame, dict[str, Any]]], tell: Say
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and notes under a key, built only if they are not there; the notes are written last and make the rows valid."""
    table_path, notes_path = folder / f"q2p-{key}.parquet", folder / f"q2p-{key}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with machine.lock(folder / "q2p.lock"):
            found = read_snapshot(table_path, notes_path)
            if found is None:
                table, notes = build()
                part = table_path.with_name(table_path.name + ".part")
                table.to_parquet(part, index=False)
                notes = notes | {"sha256": hashlib.sha256(part.read_bytes()).hexdigest()}
                os.replace(part, table_path)
                part = notes_path.with_name(notes_path.name + ".part")
                part.write_text(json.dumps(notes, indent=1, ensure_ascii=False), encoding="utf-8")
                os.replace(part, notes_path)
                tell(f"q2p: {len(table):,} pairs, kept in {folder}")
                found = read_snapshot(table_path, notes_path)
    except OSError as error:
        raise TaskError(
            f"{folder}: q2p cannot be kept ({error}); set DIPAIR_CACHE to a writable folder"
        ) from error
    if found is None:
        raise TaskError(f"{folder}: q2p cannot be read back after building; is the disk full or failing?")
    return found


def read_snapshot(table_path: Path, notes_path: Path) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Rows and notes, or None if they are not there or not what was written."""
    if not (table_path.is_file() and notes_path.is_file()):
        return None
    try:
        notes = json.loads(notes_path.read_text(encoding="utf-8"))
        if hashlib.sha256(table_path.read_bytes()).hexdigest() != notes.pop("sha256"):
            return None
        return pd.read_parquet(table_path), notes
    except (ValueError, KeyError):
        return None
