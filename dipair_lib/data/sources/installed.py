"""Source files of installed packages, and the docstrings they hold. Files are parsed, never imported."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dipair_lib.data.sources import docstrings

FILES_PER_PACKAGE = 250
STDLIB = "python"  # the standard library's name among the packages


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


# Folders whose docstrings are tests, copies of another package, or not English prose.
SKIPPED_FOLDERS = {
    "test", "tests", "testing", "_testing", "conftest", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages",
    "_vendor", "vendor", "vendored", "_vendored", "extern", "externals", "third_party", "thirdparty", "_pydevd_bundle",
    "pydevd", "benchmarks", "examples", "node_modules", "__pycache__", "typeshed",
}  # fmt: skip
SKIPPED_PACKAGES = {"pip", "setuptools", "dipair-lab", "debugpy"}  # vendored or generated for the most part


def environment(path: Sequence[str] | None = None) -> dict[str, importlib.metadata.Distribution]:
    """Distributions to read, by normalised name: what dipair-lab needs, or all of `path` when it is not
    installed.
    """
    found = importlib.metadata.distributions(path=list(path)) if path else importlib.metadata.distributions()
    every: dict[str, importlib.metadata.Distribution] = {}
    for dist in found:
        if dist.metadata["Name"]:
            every.setdefault(canonicalize_name(dist.metadata["Name"]), dist)
    wanted = closure("dipair-lab", every) if "dipair-lab" in every else set(every)
    return {name: every[name] for name in sorted(wanted & set(every) - SKIPPED_PACKAGES)}


# Of dipair-lab, whose packages are read; a new extra changes no one's data.
EXTRAS = {"", "hub", "ir", "spacy", "dev"}


def closure(root: str, every: dict[str, importlib.metadata.Distribution]) -> set[str]:
    """The installed distributions `root` needs, itself with its ``EXTRAS``, the others with those asked for."""
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
                todo.append((canonicalize_name(need.name), {"", *need.extras}))
    return {name for name, extras in done.items() if extras}


def sources(dists: dict[str, importlib.metadata.Distribution], stdlib: str | None = None) -> list[Source]:
    """Python files to read, at most FILES_PER_PACKAGE of each package, chosen by a hash of the module name."""
    by_package: dict[str, list[Source]] = defaultdict(list)
    for name, dist in dists.items():
        for file in dist.files or []:
            if readable(str(file)):
                by_package[name].append(Source(name, module(str(file)), str(dist.locate_file(file))))
    root = stdlib or sysconfig.get_paths()["stdlib"]
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
        for name in names:
            relative = os.path.relpath(os.path.join(folder, name), root)
            if readable(relative):
                by_package[STDLIB].append(Source(STDLIB, module(relative), os.path.join(folder, name)))
    chosen: list[Source] = []
    for package in sorted(by_package):
        files = sorted(by_package[package], key=lambda source: hash_of(source.module))
        chosen += sorted(files[:FILES_PER_PACKAGE])
    return chosen


def readable(path: str) -> bool:
    *folders, name = path.replace("\\", "/").split("/")
    if not name.endswith(".py") or name.startswith(("test_", "conftest")) or ".." in folders:
        return False
    return not any(f in SKIPPED_FOLDERS or f.endswith((".dist-info", ".data")) for f in folders)


def module(path: str) -> str:
    return path.replace("\\", "/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def hash_of(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


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
    for name, docstring in docstrings_of(tree, ""):
        found = docstrings.summary_and_passage(docstring)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            items.append(Item(source.package, source.module, name, *found))
    return items, dropped


def docstrings_of(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
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
            yield from docstrings_of(child, f"{prefix}.{child.name}" if prefix else child.name)


def read_apart(files: Sequence[Source], workers: int) -> list[tuple[list[Item], dict[str, int]]] | None:
    """read_file over shares of the files, each in an interpreter of its own; None if one of them fails.

    Not multiprocessing: its fresh processes run the caller's main script again (which may well ask for this
    very task), and its forked ones copy the threads' locks.
    """
    code = "from dipair_lib.data.sources import installed; installed.read_share()"
    roots = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
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


def read_share() -> None:
    """Entry of such an interpreter: files as JSON on standard input, results as JSON on standard output."""
    files = [Source(*source) for source in json.load(sys.stdin)]
    json.dump([read_file(source) for source in files], sys.stdout)


def read_files(files: Sequence[Source], workers: int = 2) -> tuple[list[Item], Counter[str]]:
    """Items of all files in order; two processes halve the time, this one alone is the fallback where none
    can be started.
    """
    results = None
    if workers > 1 and len(files) > 200:
        results = read_apart(files, workers)
    if results is None:
        results = [read_file(source) for source in files]
    dropped: Counter[str] = Counter()
    for _, counts in results:
        dropped.update(counts)
    return [item for items, _ in results for item in items], dropped
