"""The built-in tasks: docstrings of the installed packages of this environment and of the standard library.

Real English by thousands of people that lies on every machine after installation. Source files are parsed, never
imported. `pydocs` asks whether a passage (the prose of a docstring) belongs to a query (its summary line); the wrong
passages are near ones, one by TF-IDF and one by embedding, as a pool of two retrievers would give them.
`pydocs-fields` asks the same of three texts: the qualified name of what is documented stands beside the query.
`pydocs-topic` asks from which library a summary line is.

Built once per set of package versions and kept as Parquet with notes beside it; nothing is downloaded.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dipair_lib import machine
from dipair_lib.tasks import SPLITS, TaskError

BUILD = 2  # raise when the same sources would give other pairs, so that older caches are not used
FILES_PER_PACKAGE = 250
ITEMS_PER_PACKAGE = 1000
ITEMS = 12_000
QUERY_WORDS = (3, 16)  # fewer is dropped, more is cut
PASSAGE_WORDS = (8, 28)
NEAR_DUPLICATE = 0.9  # TF-IDF cosine of two passages from which one is dropped
SAME_QUESTION = 0.8  # TF-IDF cosine of two summaries from which one's passage is no negative for the other
RANKS = 20  # a negative is one of this many nearest of some 1,200 passages
TOPICS = 8
TERMS = {"terms": "under the packages' own licences"}  # as data/README.md has them
STDLIB = "python"  # the standard library's name among the packages

Say = Callable[[str], None]
Frames = dict[str, pd.DataFrame]


class Source(NamedTuple):
    """One file to read: the package it counts for, its dotted module name, its path."""

    package: str
    module: str
    path: str


class Item(NamedTuple):
    """One usable docstring: where it stands, its summary and the prose that follows."""

    package: str
    module: str
    name: str
    summary: str
    passage: str


# ------------------------------------------------------------------------------------------------- where to read

# Folders whose docstrings are tests, copies of another package, or not English prose.
SKIPPED_FOLDERS = {
    "test", "tests", "testing", "_testing", "conftest", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages",
    "_vendor", "vendor", "vendored", "_vendored", "extern", "externals", "third_party", "thirdparty", "_pydevd_bundle",
    "pydevd", "benchmarks", "examples", "node_modules", "__pycache__", "typeshed",
}  # fmt: skip
SKIPPED_PACKAGES = {"pip", "setuptools", "dipair-lab", "debugpy"}  # vendored or generated for the most part


def environment(path: Sequence[str] | None = None) -> dict[str, importlib.metadata.Distribution]:
    """Distributions to read, by normalised name: what dipair-lab needs, or all of `path` when it is not installed."""
    found = importlib.metadata.distributions(path=list(path)) if path else importlib.metadata.distributions()
    every: dict[str, importlib.metadata.Distribution] = {}
    for dist in found:
        if dist.metadata["Name"]:
            every.setdefault(_normal(dist.metadata["Name"]), dist)
    wanted = _closure("dipair-lab", every) if "dipair-lab" in every else set(every)
    return {name: every[name] for name in sorted(wanted & set(every) - SKIPPED_PACKAGES)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


EXTRAS = {
    "",
    "hub",
    "ir",
    "spacy",
    "dev",
}  # of dipair-lab, whose packages are read; a new extra changes no one's data


def _closure(root: str, every: dict[str, importlib.metadata.Distribution]) -> set[str]:
    """The installed distributions `root` needs, itself with its ``EXTRAS``, the others with those asked for."""
    from packaging.requirements import Requirement

    todo = [(root, EXTRAS)]
    done: dict[str, set[str]] = defaultdict(set)
    while todo:
        name, extras = todo.pop()
        if name not in every or extras <= done[name]:
            continue
        done[name] |= extras
        for line in every[name].requires or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append((_normal(need.name), {"", *need.extras}))
    return {name for name, extras in done.items() if extras}


def sources(dists: dict[str, importlib.metadata.Distribution], stdlib: str | None = None) -> list[Source]:
    """Python files to read, at most FILES_PER_PACKAGE of each package, chosen by a hash of the module name."""
    by_package: dict[str, list[Source]] = defaultdict(list)
    for name, dist in dists.items():
        for file in dist.files or []:
            if _readable(str(file)):
                by_package[name].append(Source(name, _module(str(file)), str(dist.locate_file(file))))
    root = stdlib or sysconfig.get_paths()["stdlib"]
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
        for name in names:
            relative = os.path.relpath(os.path.join(folder, name), root)
            if _readable(relative):
                by_package[STDLIB].append(Source(STDLIB, _module(relative), os.path.join(folder, name)))
    chosen: list[Source] = []
    for package in sorted(by_package):
        files = sorted(by_package[package], key=lambda source: _hash(source.module))
        chosen += sorted(files[:FILES_PER_PACKAGE])
    return chosen


def _readable(path: str) -> bool:
    *folders, name = path.replace("\\", "/").split("/")
    if not name.endswith(".py") or name.startswith(("test_", "conftest")) or ".." in folders:
        return False
    return not any(f in SKIPPED_FOLDERS or f.endswith((".dist-info", ".data")) for f in folders)


def _module(path: str) -> str:
    return path.replace("\\", "/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


# ------------------------------------------------------------------------------------------------- docstring to texts

HEADING = re.compile(r"^[=\-~^*#\"'+.`_]{3,}(\s+[=\-]{3,})*$")
GOOGLE = re.compile(
    r"^(args?|arguments?|parameters?|params?|returns?|yields?|raises?|attributes?|examples?|example usages?|usage|"
    r"references?|see also|methods|keyword args|keyword arguments|other parameters|inputs?|outputs?|shape|warns|"
    r"options|properties|todo|call arguments|functions|classes|exceptions|variables|constants)\s*:\s*\S*$",
    re.IGNORECASE,
)
NUMPY_KEPT = {
    "notes",
    "note",
    "warnings",
    "description",
    "details",
    "extended summary",
    "overview",
    "introduction",
}
FIELD = re.compile(r"^\s*(:[\w ]+[^:`]*:(\s|$)|@\w+)")
BULLET = re.compile(r"^\s*([-*+\u2022]|\(?\d+[.)]|\(?[a-z]\))\s")
ROLE = re.compile(r":[\w:+.-]+:`([^`]*)`")
URL = re.compile(r"<?\b(?:https?|ftp)://[^\s>)\]]+>?|\bwww\.[^\s>)\]]+|\bdoi:\s*\S+")
CITATION = re.compile(r"\s*\[(?:#?\w{0,20}\d+\w?|#)\]_?")
LEFTOVER = re.compile(r">>>|\.\. |::|[{}|\\]|\$|%\(|=>|->|\]\(|[=~^_#*+-]{3,}|&\w+;")
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bcf\.)(?<!\bvs\.)\s+(?=[\"'(A-Z])")
WORD = re.compile(r"[^\W_]+")


def summary_and_passage(docstring: str) -> tuple[str, str] | str:
    """(summary, passage) of a docstring, or the reason why it has none.

    The summary is the first sentence of the first paragraph; the passage is the rest of the prose, without doctests,
    parameter tables, code, lists, directives, headings and addresses, markup reduced to its text.
    """
    paragraphs = list(prose(docstring))
    if not paragraphs:
        return "no prose"
    summary, *rest = SENTENCE_END.split(paragraphs[0], maxsplit=1)
    # a short line without a full stop is a heading
    passage = " ".join(
        rest + [p for p in paragraphs[1:] if len(p.split()) > 3 or p.endswith((".", "!", "?"))]
    )
    summary_words, passage_words = summary.split(), passage.split()
    if not QUERY_WORDS[0] <= len(summary_words) <= 40:
        return "summary too short or too long"
    if len(passage_words) < PASSAGE_WORDS[0]:
        return "no passage"
    summary = _cut(summary_words, QUERY_WORDS[1])
    passage = _cut(passage_words, PASSAGE_WORDS[1])
    if LEFTOVER.search(summary) or LEFTOVER.search(passage):
        return "markup or formula left"
    for text in (summary, passage):
        letters = sum(c.isascii() and c.isalpha() for c in text)
        if letters < 0.75 * sum(not c.isspace() for c in text):
            return "mostly not letters"
    inside = set(WORD.findall(summary.lower()))
    words = set(WORD.findall(passage.lower()))
    if len(words - inside) < 6 or len(inside & words) > 0.85 * len(inside):
        return "passage repeats the summary"
    return summary, passage


def _cut(words: list[str], most: int) -> str:
    """The first `most` words; back to the last sentence end if that keeps two thirds of them."""
    if len(words) <= most:
        return " ".join(words)
    ends = [i for i in range(2 * most // 3, most) if words[i].endswith((".", "!", "?"))]
    return " ".join(words[: ends[-1] + 1 if ends else most])


def prose(docstring: str) -> Iterator[str]:
    """The paragraphs of a docstring that are prose, each on one line and free of markup."""
    skip_section = False  # inside a numpy section or a google block that is a table
    kept_section = False  # an indented block here is prose
    skip_below = -1  # drop deeper-indented paragraphs: what follows "::", a directive or a field
    fenced = False
    for paragraph in _paragraphs(cleandoc(docstring)):
        if any(line.strip().startswith(("```", "~~~")) for line in paragraph):
            fences = sum(line.strip().startswith(("```", "~~~")) for line in paragraph)
            fenced ^= fences % 2 == 1
            continue
        if fenced:
            continue
        indent = len(paragraph[0]) - len(paragraph[0].lstrip())
        first = paragraph[0].strip()
        if len(paragraph) > 1 and HEADING.match(paragraph[1].strip()):
            kept_section = first.lower().rstrip(":") in NUMPY_KEPT
            skip_section = not kept_section and not _is_title(docstring, first)
            skip_below = -1
            paragraph = paragraph[2:]
            if not paragraph or skip_section:
                continue
            first = paragraph[0].strip()
        elif indent == 0 and GOOGLE.match(first):
            skip_section, kept_section, skip_below = False, False, 0
            continue
        elif indent == 0 and first.lower().rstrip(":") in NUMPY_KEPT and first.endswith(":"):
            skip_section, kept_section, skip_below = False, True, -1
            paragraph = paragraph[1:]
            if not paragraph:
                continue
            first = paragraph[0].strip()
        if skip_section or (skip_below >= 0 and indent > skip_below):
            continue
        skip_below = -1
        if first.startswith("..") or FIELD.match(first) or BULLET.match(first):
            skip_below = indent
            continue
        if indent > 0 and not kept_section:
            continue
        lines = _prose_lines(paragraph)
        if lines and lines[-1].endswith(":"):  # announces a list, a formula or code that is not kept
            skip_below = indent
        sentences = SENTENCE_END.split(plain(" ".join(lines)))
        if sentences[-1].endswith(":"):
            sentences.pop()
        if sentences and sentences[0]:
            yield " ".join(sentences)


def _is_title(docstring: str, line: str) -> bool:
    """Whether an underlined line opens the docstring (a title, prose follows) rather than a section."""
    return docstring.strip().startswith(line)


def _paragraphs(text: str) -> Iterator[list[str]]:
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def _prose_lines(paragraph: list[str]) -> list[str]:
    """The lines of a paragraph up to where a table, a list, a field or a doctest begins; none if it is a table."""
    kept: list[str] = []
    base = len(paragraph[0]) - len(paragraph[0].lstrip())
    for number, line in enumerate(paragraph):
        bare = line.strip()
        stops = bare.startswith((">>>", "..", "|", "+--", "$ ", "#", "\\")) or HEADING.match(bare)
        if stops or FIELD.match(line) or BULLET.match(line) or GOOGLE.match(bare):
            break
        if number and len(line) - len(line.lstrip()) > base + 1:
            break
        kept.append(bare)
    return kept


def plain(text: str) -> str:
    """One line of prose with roles, links, emphasis, backticks, citations and addresses reduced to their text."""
    text = ROLE.sub(lambda m: _target(m[1]), text)
    text = re.sub(r"\[`?([^\[\]`]+)`?\]\([^()\s]*\)", r"\1", text)  # markdown link
    text = re.sub(r"\[`([^`]*)`\]", lambda m: _target(m[1]), text)
    text = re.sub(r"``([^`]*)``", r"\1", text)
    text = re.sub(r"`([^`]*)`_{0,2}", lambda m: _target(m[1]), text)
    text = URL.sub("", text)
    text = CITATION.sub("", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"\1", text)
    text = re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?!\w)", r"\1", text)
    text = re.sub(r"</?[A-Za-z][\w-]*/?>", "", text)
    text = re.sub(r"::\s*$", ":", text)
    text = re.sub(r"\s+([.,;:)])(?=\s|$)", r"\1", text)
    return " ".join(text.replace("`", "").split())


def _target(text: str) -> str:
    """What a reader sees of a role's or link's content: the title before <target>, the last part of ~a.b.c."""
    text = re.sub(r"\s*<[^<>]*>$", "", text) or text.strip("<>")
    text = text.strip()
    return text[1:].split(".")[-1] if text.startswith("~") else text.lstrip("!")


def read_file(source: Source) -> tuple[list[Item], dict[str, int]]:
    """Items of one source file, and how many docstrings were dropped for which reason."""
    items: list[Item] = []
    dropped: Counter[str] = Counter()
    try:
        code = Path(source.path).read_bytes()
        if b'"""' not in code and b"'''" not in code:
            return items, dropped
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(code)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return items, Counter({"file not readable": 1})
    for name, docstring in _docstrings(tree, ""):
        found = summary_and_passage(docstring)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            items.append(Item(source.package, source.module, name, *found))
    return items, dropped


def _docstrings(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of a module, its classes and functions, down to methods."""
    body = getattr(node, "body", [])
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
        first = body[0]
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            yield prefix, first.value.value
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{prefix}.{child.name}" if prefix else child.name)


def _read_apart(files: Sequence[Source], workers: int) -> list[tuple[list[Item], dict[str, int]]] | None:
    """read_file over shares of the files, each in an interpreter of its own; None if one of them fails.

    Not multiprocessing: its fresh processes run the caller's main script again (which may well ask for this very task), and its forked
    ones copy the threads' locks.
    """
    code = "from dipair_lib.pydocs import _read_share; _read_share()"
    roots = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(roots)}
    shares = [files[i::workers] for i in range(workers)]

    def read(share: Sequence[Source]) -> str:
        given = json.dumps(share)
        run = subprocess.run(
            [sys.executable, "-c", code],
            input=given,
            capture_output=True,
            text=True,
            encoding="utf8",
            env=environment,
        )
        return run.stdout if run.returncode == 0 else "null"

    try:
        with ThreadPoolExecutor(workers) as pool:
            found = [json.loads(text) for text in pool.map(read, shares)]
    except (OSError, ValueError):
        return None
    if None in found:
        return None
    results: list[Any] = [None] * len(files)
    for i, share in enumerate(found):
        results[i::workers] = [([Item(*item) for item in items], dropped) for items, dropped in share]
    return results


def _read_share() -> None:
    """Entry of such an interpreter: files as JSON on standard input, results as JSON on standard output."""
    files = [Source(*source) for source in json.load(sys.stdin)]
    json.dump([read_file(source) for source in files], sys.stdout)


def read_files(files: Sequence[Source], workers: int = 2) -> tuple[list[Item], Counter[str]]:
    """Items of all files in order; two processes halve the time, this one alone is the fallback where none can be started."""
    results = None
    if workers > 1 and len(files) > 200:
        results = _read_apart(files, workers)
    if results is None:
        results = [read_file(source) for source in files]
    dropped: Counter[str] = Counter()
    for _, counts in results:
        dropped.update(counts)
    return [item for items, _ in results for item in items], dropped


# ------------------------------------------------------------------------------------------------- items to pairs


def tenth_of(module: str) -> int:
    """The tenth (0 to 9) a whole module falls into, by hash."""
    return int(_hash("split", module)[:8], 16) % 10


def split_of(module: str) -> str:
    """The split of a whole module: eight tenths train, one dev, one test."""
    return {8: "dev", 9: "test"}.get(tenth_of(module), "train")


def distinct(items: Iterable[Item], dropped: Counter[str]) -> list[Item]:
    """Items without repeated summaries and (near-)repeated passages, at most ITEMS_PER_PACKAGE of a package and ITEMS in all.

    Order is by hash of the place, so which copy stays depends on no path and no order of reading. What is dropped is
    counted in `dropped`, near-duplicates across splits apart from those within one.
    """
    ordered = sorted(items, key=lambda item: _hash(item.module, item.name, item.summary))
    seen: set[str] = set()
    first: list[Item] = []
    for item in ordered:
        keys = {
            "s" + " ".join(WORD.findall(item.summary.lower())),
            "p" + " ".join(WORD.findall(item.passage.lower())),
        }
        if keys & seen:
            dropped["duplicate summary or passage"] += 1
        else:
            first.append(item)
        seen |= keys
    per_package: Counter[str] = Counter()
    kept: list[Item] = []
    copies = _near_copies([item.passage for item in first]) if first else []
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


def _near_copies(texts: list[str]) -> list[int | None]:
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
    """A fitted TF-IDF of English words without stop words, unit rows; the lexical retriever and the duplicate test."""
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

    Negatives are other passages of the same tenth of the modules, drawn from the RANKS nearest to the query; since every
    split consists of such tenths, negatives are equally hard in all of them. A passage whose own summary nearly repeats
    the query is not taken: it might be right. Columns: split, query, passage, label, group, kind, module.
    """
    rows: list[tuple[str, str, str, int, int, str, str]] = []
    for tenth in range(10):
        part = [item for item in items if tenth_of(item.module) == tenth]
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
    """Rows (group, query, name) of the groups of `pairs`, in its order; the qualified name is that of what the query sums up."""
    ordered = [item for tenth in range(10) for item in items if tenth_of(item.module) == tenth]
    full = [f"{item.module}.{item.name}" if item.name else item.module for item in ordered]
    queries = [item.summary for item in ordered]
    return pd.DataFrame({"group": range(len(full)), "query": queries, "name": full})


def topics(items: list[Item]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows (split, summary, label = package name) of the TOPICS largest packages, equally many of each, and notes.

    A package's own name would give the answer away: the names of all classes become "library" wherever they stand.
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
            (i for i in items if i.package == name), key=lambda i: _hash(i.module, i.name, i.summary)
        )[:most]
        for item in own:
            summary, n = giveaway.subn("library", item.summary)
            hidden += n > 0
            rows.append((split_of(item.module), summary, name))
    notes = {"classes": sorted(names), "most_per_class": most, "names_replaced_by_library": hidden}
    return pd.DataFrame(rows, columns=["split", "summary", "label"]), notes


# ------------------------------------------------------------------------------------------------- embeddings


@dataclass(frozen=True)
class Embedder:
    """Mean-pooled unit vectors of the embedded backbone, and the dtype it runs in."""

    tokenizer: Any
    model: Any
    dtype: str

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[n] texts -> float32 [n, 384]; at most 64 word pieces are read, batches are sorted by length."""
        import torch

        pieces = [
            ids[:63] + ids[-1:] if len(ids) > 64 else ids for ids in self.tokenizer(list(texts))["input_ids"]
        ]
        vectors = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(pieces[i]))
        with torch.inference_mode():
            for start in range(0, len(order), 64):
                batch = order[start : start + 64]
                longest = len(pieces[batch[-1]])
                ids = torch.tensor([pieces[i] + [0] * (longest - len(pieces[i])) for i in batch])
                mask = torch.tensor([[1] * len(pieces[i]) + [0] * (longest - len(pieces[i])) for i in batch])
                out = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
                mean = (out * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
                vectors[batch] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors


def embedder() -> Embedder:
    """The embedded backbone, in bfloat16 where the processor multiplies it in hardware, else in float32."""
    import torch

    from dipair_lib.models.backbone import load_backbone, load_tokenizer

    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    dtype = torch.bfloat16 if fast else torch.float32
    model: Any = load_backbone().to(dtype).eval()
    model.set_attn_implementation("sdpa")  # a third faster than eager without gradients
    return Embedder(load_tokenizer(), model, str(dtype).removeprefix("torch."))


# ------------------------------------------------------------------------------------------------- build and cache


def load_pairs(folder: Path, say: Say | None = None) -> tuple[Frames, tuple[str, ...], dict[str, Any]]:
    """Frames (query, passage, label, group) by split, classes and notes of `pydocs`, built if the cache lacks them."""
    table, notes = _cached(folder, "pairs", say)
    return (
        _by_split(table, ["query", "passage", "label", "group"]),
        ("0", "1"),
        notes["common"] | notes["pairs"] | TERMS,
    )


def load_fields(folder: Path, say: Say | None = None) -> tuple[Frames, tuple[str, ...], dict[str, Any]]:
    """Frames (name, summary, passage, label, group) by split, classes and notes of `pydocs-fields`: the rows of `pydocs`, with names."""
    names, notes = _cached(folder, "names", say)
    table, _ = _cached(folder, "pairs", say)
    table["name"] = table["group"].map(dict(zip(names["group"], names["name"], strict=True)))
    table = table.rename(columns={"query": "summary"})
    return (
        _by_split(table, ["name", "summary", "passage", "label", "group"]),
        ("0", "1"),
        notes["common"] | notes["pairs"] | TERMS,
    )


def load_topics(folder: Path, say: Say | None = None) -> tuple[Frames, tuple[str, ...], dict[str, Any]]:
    """Frames (summary, label, group) by split, classes and notes of `pydocs-topic`, built if the cache lacks them."""
    table, notes = _cached(folder, "topics", say)
    classes = tuple(notes["topics"]["classes"])
    table["label"] = table["label"].map({name: i for i, name in enumerate(classes)})
    table["group"] = range(len(table))
    return _by_split(table, ["summary", "label", "group"]), classes, notes["common"] | notes["topics"] | TERMS


def _by_split(table: pd.DataFrame, columns: list[str]) -> Frames:
    return {split: table.loc[table["split"] == split, columns].reset_index(drop=True) for split in SPLITS}


def _cached(folder: Path, which: str, say: Say | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One of the three tables and the notes, from the cache of these package versions; builds all under a lock."""
    from dipair_lib.models.backbone import EMBEDDED_SHA256

    dists = environment()
    versions = {name: dist.version for name, dist in dists.items()} | {STDLIB: platform.python_version()}
    key = _hash(json.dumps([BUILD, sorted(versions.items()), EMBEDDED_SHA256]))[:10]
    tell = say or (lambda line: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with machine.lock(folder / "pydocs.lock"):
            found = _read_cache(folder, key, which)
            if found is None and which == "names":
                add_names(folder, key, dists, tell)
                found = _read_cache(folder, key, which)
            if found is None:
                if list(folder.glob("pydocs-*.json")):
                    tell(
                        "pydocs: the cache was made from other package versions or is damaged, building again"
                    )
                build(folder, key, dists, versions, tell)
                found = _read_cache(folder, key, which)
    except OSError as error:
        raise TaskError(
            f"{folder}: pydocs cannot be cached ({error}); set DIPAIR_CACHE to a writable folder"
        ) from error
    if found is None:
        raise TaskError(
            f"{folder}: the pydocs cache cannot be read back after building; is the disk full or failing?"
        )
    return found


def _read_cache(folder: Path, key: str, which: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Table and notes, or None if they are not there or not what was written."""
    notes_path, table_path = folder / f"pydocs-{key}.json", folder / f"pydocs-{key}.{which}.parquet"
    if not (notes_path.is_file() and table_path.is_file()):
        return None
    try:
        notes = json.loads(notes_path.read_text(encoding="utf-8"))
        if hashlib.sha256(table_path.read_bytes()).hexdigest() != notes["sha256"][which]:
            return None
        return pd.read_parquet(table_path), notes
    except (ValueError, KeyError):
        return None


def _write_cache(folder: Path, key: str, tables: dict[str, pd.DataFrame], notes: dict[str, Any]) -> None:
    """The tables, each with its hash in the notes, and last the notes, which make them valid."""
    for which, table in tables.items():
        path = folder / f"pydocs-{key}.{which}.parquet"
        part = path.with_name(path.name + ".part")
        table.to_parquet(part, index=False)
        notes["sha256"][which] = hashlib.sha256(part.read_bytes()).hexdigest()
        os.replace(part, path)
    part = folder / f"pydocs-{key}.json.part"
    part.write_text(json.dumps(notes, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(part, folder / f"pydocs-{key}.json")


def add_names(folder: Path, key: str, dists: dict[str, importlib.metadata.Distribution], say: Say) -> None:
    """Add the names to a cache that was made before there were any, and leave its pairs alone.

    Building all anew might decide a near tie of two embeddings otherwise, and so make another `pydocs` of the same versions.
    """
    found = _read_cache(folder, key, "pairs")
    if found is None:
        return
    table, notes = found
    say("pydocs: reading the docstrings again for the names (once, about a minute)")
    items, dropped = read_files(sources(dists))
    added = names(distinct(items, dropped))
    if added["query"].tolist() == table.loc[table["label"] == 1, "query"].tolist():
        _write_cache(folder, key, {"names": added}, notes)


def build(
    folder: Path,
    key: str,
    dists: dict[str, importlib.metadata.Distribution],
    versions: dict[str, str],
    say: Say,
    stdlib: str | None = None,
    embed: Callable[[Sequence[str]], np.ndarray] | None = None,
) -> None:
    """Read, clean, deduplicate, pair; write pairs, names, topics and, last, the notes that make them valid."""
    started = time.perf_counter()
    files = sources(dists, stdlib)
    say(
        f"pydocs: reading the docstrings of {len(files)} source files of {len(dists) + 1} packages (once, about a minute)"
    )
    read, dropped = read_files(files)
    items = distinct(read, dropped)
    seconds_read = time.perf_counter() - started
    say(f"pydocs: {len(items)} summaries with passages, looking for near passages as negatives")
    embed = embed or embedder()
    tables = {"pairs": pairs(items, embed), "names": names(items)}
    tables["topics"], topic_notes = topics(items)
    counts = Counter(item.package for item in items)
    common = {
        "source": "docstrings of installed packages and the standard library",
        "items": len(items),
        "items_by_split": dict(Counter(split_of(item.module) for item in items)),
        "packages": {name: [versions[name], n] for name, n in sorted(counts.items())},
        "files": len(files),
        "dropped": dict(sorted(dropped.items())),
        "embedding": {"model": "all-MiniLM-L6-v2", "dtype": getattr(embed, "dtype", "float32")},
        "build": BUILD,
        "seconds_reading": round(seconds_read, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    notes: dict[str, Any] = {
        "common": common,
        "pairs": {
            "negatives": "one of the 20 nearest by TF-IDF, one of the 20 nearest by embedding, same tenth of the modules"
        },
        "topics": topic_notes,
        "sha256": {},
    }
    _write_cache(folder, key, tables, notes)
    say(
        f"pydocs: {len(items)} queries, {len(tables['pairs'])} pairs, {common['seconds']} s, kept in {folder}"
    )
