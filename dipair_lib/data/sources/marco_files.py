"""MS MARCO as people have it: the official files, `ir_datasets`, Parquet copies, the hub."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dipair_lib.data.files import TaskError
from dipair_lib.data.names import SPLITS
from dipair_lib.data.sources.snapshots import Say
from dipair_lib.data.table import check_columns, show

REPOSITORY, SUBSET = "microsoft/ms_marco", "v1.1"
# The last commit on the page of the repository. This code has read local files in its layout, but not yet the
# hub itself.
REVISION = "a47ee7aae8d7d466ba15f9f0bfac3b3681087b3a"
IR_DATASET = "msmarco-passage/train"
COLUMNS = ("query", "query_id", "passages")
EVERY = 1_000_000  # lines between two words of progress
AT_ONCE = 10_000  # passages looked up together


class Source(NamedTuple):
    """A collection by ids. Each function reads anew.

    Attributes:
        name: for messages and notes.
        queries: yields (query id, text).
        matches: yields (query id, passage id) judged to match.
        retrieved: for {query id: text} yields (query id, passage id or "", passage or ""); None where there
            is no such list.
        passages: {passage id: text} of the ids asked for, without those it lacks.
    """

    name: str
    queries: Callable[[], Iterator[tuple[str, str]]]
    matches: Callable[[], Iterator[tuple[str, str]]]
    retrieved: Callable[[Mapping[str, str]], Iterator[tuple[str, str, str]]] | None
    passages: Callable[[set[str]], dict[str, str]]


def visible(text: str) -> bool:
    """Whether a text has anything that a tokenizer would see."""
    return any(c.isprintable() and not c.isspace() for c in text)


def without_nul(text: str, counts: Counter[str]) -> str:
    counts["texts_with_nul_replaced"] += "\0" in text
    return text.replace("\0", "\ufffd")


# --- the official files -----------------------------------------------------------------------------------------------------------


def official_files(root: Path) -> dict[str, Path]:
    """Paths of collection, queries, qrels (of train, or else of another part that is there) and, if any,
    retrieved; {} without them.
    """
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
    """Text of bytes that should be UTF-8; what is not is replaced and counted. Mis-decoded characters stay as
    they are.
    """
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
            check_columns(path, file.schema_arrow.names, COLUMNS)
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
        check_columns(Path(f"{REPOSITORY}/{SUBSET}/{name}"), found[name].column_names, COLUMNS)
    return {split: rows(found[name]) for split, name in names.items()}
