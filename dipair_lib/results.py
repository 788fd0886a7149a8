"""One flat row per measured model: save, load, verify. Nothing here draws, trains or times.

On disk, under one folder per suite run::

    rows/<run_id>/row.json      a `Result`: flat JSON, missing is null, never NaN and never 0
    rows/<run_id>/logits.npz    what every quality number can be recomputed from
    rows/<run_id>/model/        safetensors and config.json, where the model has weights
    rows/<run_id>/SHA256SUMS    of all these; ``verify`` compares

Raw numbers are stored and everything else (pairs per second, speed-up, cost, the Pareto front) is derived later.
Every file is written to a temporary name in its own folder and then renamed, so whoever reads sees the old file or
the new one, never half of one.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import time
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dipair_lib import contents, machine

if TYPE_CHECKING:
    from dipair_lib.tasks import Task

SCHEMA = 5
# Fields that a version brought: rows of an earlier one read as None there.
ADDED = {
    2: ("n_synthetic", "quality_dtype"),
    3: ("pairing",),
    4: (
        "teacher_kind", "learning_rate", "pairs_seen", "passes", "best_at", "dev_rising", "train_device", "training_notes",
    ),
    5: ("threshold",),
}  # fmt: skip
FAMILIES = (
    "constant",
    "lexical",
    "static",
    "cross-encoder",
    "scores",
    "bilstm",
    "dual-encoder",
    "dipair",
    "published",
)
# Where a run writes and how fast it is allowed to be do not change what it computes: not part of its identity.
NOT_IDENTITY = frozenset({"out", "clock", "threads", "device"})
# Parameters that may name a model's folder or a file of rows or vectors, and names that never mean one.
OF_CONTENT = frozenset({"backbone", "teacher", "vectors", "unlabelled", "warm_on"})
NAMES = frozenset({"", "embedded", "backbone", "random"})
# No count, time or rate of ours is outside; far beyond them sums and ratios overflow.
SMALLEST, LARGEST = 1e-18, 1e18
MOST_DRAWS = 100_000  # of a bootstrap, which ``verify`` draws again
# What a results folder may hold; anything else is named by `verify`.
KNOWN_FILES = frozenset(
    {
        "rows",
        "notebooks",
        "teacher",
        "encoded",
        "scale",
        "unfinished",
        "replaced",
        "architectures.json",
        "architectures.json.sha256",
        "report.html",
        "rows.jsonl",
        "rows.jsonl.sha256",
        ".dipair",
        ".lock",
        ".lock.holder",
        ".pid",
        "README.md",
    }
)
FIRST = (
    "`dipair run notebooks/suites/demo.yaml`, or in a cell of a notebook: "
    "from dipair_lib import suite; suite.run_suite('suites/demo.yaml')"
)


class ResultError(ValueError):
    """A row, its logits or a results folder is not what it should be; the message names file and field."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback: the message, which says what to do."""
        return [str(self)]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured (or published) model on one split. Schema 4; None means not measured.

    Units: seconds, bytes, FLOPs (multiply and add counted as two), rates per second. ``_q1`` and ``_q3`` are quartiles,
    ``_low`` and ``_high`` the ends of a 95 % interval. A cross-encoder does everything per pair: its tokenisation and
    forward pass are ``combine_s_per_pair`` and its ``encode_s_per_text`` is None.
    """

    # identity
    schema: int = SCHEMA
    run_id: str
    created_utc: str
    notebook: str
    suite: str
    git_commit: str | None = None
    git_dirty: bool | None = None
    parameters: str = "{}"  # canonical JSON
    # task
    task: str
    split: str
    data_sha256: str | None = None
    n_examples: int | None = None
    n_groups: int | None = None
    n_train: int | None = None
    data_notes: str | None = None  # canonical JSON: sources, counts, what was dropped and why
    # model
    model: str  # display name, e.g. "DiPair-FFNN k=8"
    family: str  # one of FAMILIES
    backbone: str | None = None
    head: str | None = None
    keep: int | str | None = None  # kept tokens per field; "8+16" where fields differ
    read_lengths: str | None = None  # word pieces read per field, e.g. "32+96"
    projection: int | str | None = None  # width of a kept token; "64+128" where fields differ
    stages: str | None = None
    params_total: int | None = None
    params_embedding: int | None = None
    params_per_pair: int | None = None
    flops_per_text: float | None = None
    flops_per_pair: float | None = None
    bytes_per_text: float | None = None
    # training
    teacher_run: str | None = None
    teacher_kind: str | None = (
        None  # of a teacher's row: "trained" here, "brought" along, or "scores" of the data
    )
    loss: str | None = None
    alpha: float | None = None
    augmentation: str | None = None  # rules and rounds, e.g. "all x20"; "none" where there could be some
    n_synthetic: int | None = None  # synthetic rows beside n_train
    seed: int | None = None
    learning_rate: float | None = None  # of the last stage that ran
    steps: int | None = None
    pairs_seen: int | None = None  # rows that were learned from, each time counted, over all stages
    passes: float | None = None  # the same in passes over the rows of the last stage that ran
    best_at: float | None = (
        None  # share of the last stage's steps after which dev was best: those weights are kept
    )
    dev_rising: bool | None = None  # whether dev was still rising when the budget ended
    train_device: str | None = None  # "cpu", "cuda", "mps"
    train_seconds: float | None = None
    training_notes: str | None = None  # what went wrong and was mended, in words
    # quality
    metric: str
    quality: float | None = None
    quality_low: float | None = None
    quality_high: float | None = None
    retained: float | None = None  # quality / the teacher's, same examples
    retained_low: float | None = None
    retained_high: float | None = None
    n_boot: int | None = None
    quality_dtype: str | None = (
        None  # of the encoder's arithmetic behind the logits; `dtype` is that of the clock
    )
    metrics: str | None = None  # canonical JSON of the task's other metrics
    threshold: float | None = (
        None  # of two classes: the score from which class 1 is meant in those, chosen on dev
    )
    # speed
    device: str | None = None
    device_name: str | None = None
    threads: int | None = None
    dtype: str | None = None
    batch_size: int | None = None
    pairing: str | None = (
        None  # of combine: "tile", a block of texts with each of another; "list", any pairs (and None)
    )
    tokenize_s_per_text: float | None = None
    tokenize_s_per_text_q1: float | None = None
    tokenize_s_per_text_q3: float | None = None
    encode_s_per_text: float | None = None
    encode_s_per_text_q1: float | None = None
    encode_s_per_text_q3: float | None = None
    combine_s_per_pair: float | None = None
    combine_s_per_pair_q1: float | None = None
    combine_s_per_pair_q3: float | None = None
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    latency_p99_s: float | None = None
    request_candidates: int | None = None
    repeats: int | None = None
    noisy: bool | None = None
    clock_id: str | None = None  # rows with the same clock_id were timed interleaved and may be compared
    teacher_s_per_pair: float | None = None
    teacher_fastest_s_per_pair: float | None = None
    teacher_fastest_dtype: str | None = None
    peak_gflops: float | None = None
    copy_gb_per_s: float | None = None
    # environment
    python: str | None = None
    torch: str | None = None
    transformers: str | None = None
    platform: str | None = None
    hardware: str | None = None
    # published rows only
    source: str | None = None

    def __post_init__(self) -> None:
        for name, expected in field_types().items():
            object.__setattr__(self, name, checked(name, getattr(self, name), expected))
        if self.schema != SCHEMA:
            raise ResultError(
                f"schema: expected {SCHEMA}, but got {self.schema}; this version cannot read it"
            )
        if self.family not in FAMILIES:
            raise ResultError(f"family: expected one of {', '.join(FAMILIES)}, but got {self.family!r}")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", self.run_id):
            raise ResultError(
                f"run_id: expected letters, digits and . _ + - (it names a folder), but got {self.run_id!r}"
            )
        for name in ("parameters", "data_notes", "metrics"):
            check_object(name, getattr(self, name))
        for name in ("keep", "projection", "read_lengths"):
            value = getattr(self, name)
            if isinstance(value, str) and not re.fullmatch(r"\d{1,9}(\+\d{1,9})*", value, re.ASCII):
                raise ResultError(
                    f"{name}: expected numbers joined by +, one per field, but got {value!r:.80}"
                )
        if (self.n_boot or 0) > MOST_DRAWS:
            raise ResultError(f"n_boot: expected at most {MOST_DRAWS:,}, but got {self.n_boot}")
        if self.family == "published" and not self.source:
            raise ResultError("source: expected where a published number was read, but it is missing")

    def to_json(self) -> str:
        """One line of JSON with every field of the schema, in its order."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)


SPEED_FIELDS = frozenset(
    field.name
    for field in dataclasses.fields(Result)
    if re.match(
        r"device|threads$|dtype$|batch_size$|pairing$|tokenize_s|encode_s|combine_s|latency_|request_|repeats$|noisy$|clock_id$"
        r"|teacher_s_|teacher_fastest|peak_|copy_|flops_|bytes_",
        field.name,
    )
)


@functools.cache
def field_types() -> dict[str, tuple[type, ...]]:
    """Field name to the Python types it may hold, NoneType among them where it may be missing."""
    hints = typing.get_type_hints(Result)
    return {
        name: typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for name, hint in hints.items()
    }


def checked(name: str, value: Any, expected: tuple[type, ...]) -> Any:
    """The value as the schema holds it (NumPy numbers become Python's, NaN becomes None), or ResultError."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value) and types.NoneType in expected:
        return None
    if isinstance(value, bool):
        ok = bool in expected
    elif isinstance(value, int) and int not in expected and float in expected:
        value, ok = (float(value) if abs(value) <= LARGEST else math.inf), True
    else:
        ok = isinstance(value, expected)
    if not ok:
        wanted = " or ".join("null" if one is types.NoneType else one.__name__ for one in expected)
        raise ResultError(f"{name}: expected {wanted}, but got {value!r:.80}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ResultError(f"{name}: expected a finite number, but got {value}")
    if isinstance(value, int | float):
        least = SMALLEST if name in SPEED_FIELDS else 0 if name.startswith(COUNTED) else -LARGEST
        if not least <= value <= LARGEST and not isinstance(value, bool):
            raise ResultError(
                f"{name}: expected a number from {least:g} to {LARGEST:g}, but got {value!r:.80}"
            )
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf8")
        except UnicodeEncodeError as error:
            raise ResultError(f"{name}: expected text, but got half a character ({error})") from error
    return value


COUNTED = ("n_", "keep", "projection", "params_", "steps", "pairs_seen", "passes", "train_seconds")


def check_object(name: str, text: str | None) -> None:
    """ResultError unless the text is a JSON object; that of ``metrics`` holds numbers."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ResultError(f"{name}: expected a JSON object as text, but got {text!r:.80}")
    for key, value in found.items() if name == "metrics" else ():
        checked(f"metrics, {key}", value, (float, types.NoneType))


@dataclass(frozen=True)
class Logits:
    """The raw material of one row's quality.

    Attributes:
        logits: float32 [n, outputs], as the model gave them: no softmax, no sigmoid.
        labels: [n], int64 class index or float32 score.
        groups: int64 [n], the query or document each example belongs to: what the bootstrap draws.
        split: the split the examples are from.
        gains: float32 [n], graded judgements beside a two-class label, or None.
    """

    logits: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    split: str
    gains: np.ndarray | None = None


# Files


def write_atomic(path: Path, data: bytes | memoryview) -> Path:
    """Write bytes under a temporary name in the same folder, then rename: the file is the old one or the new one.

    Raises:
        ResultError: it could not be written (disk full, no permission); the temporary is gone, the old file is whole.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ResultError(
                f"{path}: the disk is full ({len(data):,} bytes were to be written). Nothing was lost: free some "
                "space and run the same command again"
            ) from error
        raise ResultError(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # such as a file where a folder was expected: said above
            temporary.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def hashed(path: Path, digest: str, sums: Path | None = None) -> Iterator[None]:
    """Within it a file is put in place whose SHA-256 is this one; noted for ``verify`` before and after, so that a kill at any moment
    leaves a hash that fits.

    Args:
        sums: where it is noted; default ``<name>.sha256`` beside the file.
    """
    alone, sums = sums is None, sums or path.with_name(f"{path.name}.sha256")
    name = path.relative_to(sums.parent).as_posix()
    known = contents.read_sums(sums)
    if alone:  # what else it says is damage
        known = {one: digests for one, digests in known.items() if one == name}
    if name not in known and path.is_file():  # of an earlier version
        known[name] = {contents.read_digest(path)}
    write_atomic(sums, contents.sums_text({**known, name: {digest, *known.get(name, ())}}))
    yield
    if known.get(name, {digest}) != {digest}:
        write_atomic(sums, contents.sums_text({**known, name: {digest}}))


def write_hashed(path: Path, data: bytes | memoryview, sums: Path | None = None) -> Path:
    """``write_atomic`` of a file that is read back later, its hash noted by ``hashed``."""
    with hashed(path, hashlib.sha256(data).hexdigest(), sums):
        return write_atomic(path, data)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=plain
    )


def plain(value: Any) -> Any:
    """What JSON cannot hold, as what it can: NumPy numbers and arrays, tuples within, paths."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"expected something JSON can hold, but got {type(value).__name__}")


CONTROL = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]+"
)


def printable(text: str) -> str:
    """Text that may come from data, safe on a terminal: no control characters but line breaks, none that turn its direction."""
    return CONTROL.sub(" ", text)


def row_folder(folder: Path | str, run_id: str) -> Path:
    """Where one row, its logits and its model lie."""
    return Path(folder) / "rows" / run_id


def save_result(
    folder: Path | str,
    result: Result,
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    gains: np.ndarray | None = None,
) -> Path:
    """Store one row and its raw logits; a row of the same run_id is replaced.

    The logits are written first: a row that exists has its logits. The hashes of both, and of the model that lies beside them, are noted.

    Args:
        folder: the suite's results folder, e.g. ``results/demo``.
        logits: [n, outputs]. labels: [n]. groups: int [n]. gains: [n] or None.

    Returns:
        The row's folder, ``<folder>/rows/<run_id>``.
    """
    logits, labels, groups = np.asarray(logits, np.float32), np.asarray(labels), np.asarray(groups, np.int64)
    check_logits(result.run_id, Logits(logits, labels, groups, result.split, gains), result.n_examples)
    target = row_folder(folder, result.run_id)
    buffer = io.BytesIO()
    graded = {} if gains is None else {"gains": np.asarray(gains, np.float32)}
    arrays: Any = {
        "logits": logits,
        "labels": labels,
        "groups": groups,
        "split": np.array(result.split),
        **graded,
    }
    np.savez_compressed(buffer, **arrays)
    written = {"logits.npz": buffer.getvalue(), "row.json": (result.to_json() + "\n").encode("utf8")}
    hashes = {name: {hashlib.sha256(data).hexdigest()} for name, data in written.items()}
    for path in sorted((target / "model").rglob("*")):
        if path.is_file():
            hashes[path.relative_to(target).as_posix()] = {contents.read_digest(path)}
    sums = target / contents.SUMS
    known = contents.read_sums(sums)
    either = {name: digests | known.get(name, set()) for name, digests in hashes.items()}
    write_atomic(sums, contents.sums_text(either))  # a kill in between leaves none that is wrong
    for name, data in written.items():
        write_atomic(target / name, data)
    if either != hashes:
        write_atomic(sums, contents.sums_text(hashes))
    return target


def check_logits(where: str, stored: Logits, n_examples: int | None) -> None:
    """ResultError unless logits, labels and groups are one per example and the logits are finite."""
    if stored.logits.ndim != 2 or not stored.logits.shape[1]:
        raise ResultError(
            f"{where}: logits: expected shape [n, outputs], but got {list(stored.logits.shape)}"
        )
    for name, kinds in (("logits", "f"), ("labels", "iuf"), ("groups", "iu"), ("gains", "iuf")):
        array = getattr(stored, name)
        if array is not None and (array.dtype.kind not in kinds or (name != "logits" and array.ndim != 1)):
            raise ResultError(
                f"{where}: {name}: expected a number for each example, but got {array.dtype} {list(array.shape)}"
            )
    n = len(stored.logits) if n_examples is None else n_examples
    for name in ("logits", "labels", "groups", "gains"):
        array = getattr(stored, name)
        if array is not None and len(array) != n:
            raise ResultError(f"{where}: {name}: expected {n} rows, one per example, but got {len(array)}")
    for name in ("labels", "gains"):
        array = getattr(stored, name)
        if array is not None and not np.isfinite(array).all():
            raise ResultError(f"{where}: {name}: expected finite numbers, but some are not")
    bad = np.flatnonzero(~np.isfinite(stored.logits).all(axis=1))
    if len(bad):
        raise ResultError(
            f"{where}: logits: {len(bad)} of {n} rows are not finite, the first is row {bad[0]}: "
            "the model diverged (try a smaller learning rate)"
        )


def parse_result(text: str, where: str) -> Result:
    """One row from its JSON; ``where`` (file, or file and line) begins every message.

    Raises:
        ResultError: not JSON, cut off, a field missing, unknown, of the wrong type, or not finite.
    """

    def refuse(constant: str) -> None:
        raise ResultError(f"{where}: {constant} is not a number this file may hold; missing is null")

    try:
        values = json.loads(text, parse_constant=refuse)
    except ResultError:
        raise
    except (ValueError, RecursionError) as error:
        raise ResultError(
            f"{where}: is cut off or not JSON ({error}). Delete it and run its notebook again"
        ) from error
    if not isinstance(values, dict):
        raise ResultError(f"{where}: expected one JSON object, but got {type(values).__name__}")
    known = field_types()
    for version, added in ADDED.items():
        if values.get("schema") == version - 1:
            values = {**dict.fromkeys(added), **values, "schema": version}
    if values.get("schema") != SCHEMA:
        raise ResultError(f"{where}: schema: expected {SCHEMA}, but got {values.get('schema')!r}")
    for problem, names in (
        ("missing", known.keys() - values.keys()),
        ("unknown", values.keys() - known.keys()),
    ):
        if names:
            raise ResultError(f"{where}: {problem} field {', '.join(sorted(names))}")
    try:
        return Result(**values)
    except ResultError as error:
        raise ResultError(f"{where}: {error}") from error


def load_result(folder: Path | str, run_id: str, *, as_noted: bool = True) -> Result:
    """The row of one run. Raises ResultError naming file and field; ``as_noted`` also where its bytes have another hash than was noted."""
    path = row_folder(folder, run_id) / "row.json"
    result = parse_result(read_text(path), str(path))
    if result.run_id != run_id:
        raise ResultError(f"{path}: run_id: expected {run_id} (the folder's name), but got {result.run_id}")
    if as_noted:
        require_as_noted(path, path.parent / contents.SUMS)
    return result


def require_as_noted(path: Path, sums: Path) -> None:
    """Raise unless a file is the one that was written, by the hash that was noted; all is well where none was."""
    try:
        fits = contents.is_as_noted(path, sums)
    except OSError as error:
        raise ResultError(f"{path}: could not be read ({error.strerror or error})") from error
    if not fits:
        raise ResultError(
            f"{path}: its sha256 is not the one in {sums.name}: it was changed or damaged after it was written; run its notebook again"
        )


def read_text(path: Path) -> str:
    """The text of a file; ResultError naming it where it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf8")
    except FileNotFoundError as error:
        raise ResultError(f"{path}: not found") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: could not be read as UTF-8 text: {error}") from error


def load_results(folder: Path | str, damaged: str = "raise") -> list[Result]:
    """Every row of a results folder, sorted by run_id.

    A folder with ``rows.jsonl`` and no ``rows/`` (what is committed under results/reference) is read from that file.
    A row folder without row.json is a run that was interrupted: not a row yet.

    Args:
        damaged: "raise" at the first damaged row, or "warn" of each, naming it, and go on without it.
    """
    if damaged not in {"raise", "warn"}:
        raise ValueError(f"damaged: expected 'raise' or 'warn', but got {damaged!r}")
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultError(f"{folder}: no such results folder; run a suite first: {FIRST}")
    rows: list[Result] = []

    def take(read: Callable[[], Result]) -> None:
        try:
            rows.append(read())
        except ResultError as error:
            if damaged == "raise":
                raise
            warnings.warn(f"row left out: {error}", stacklevel=3)

    lines = folder / "rows.jsonl"
    if not (folder / "rows").is_dir() and lines.is_file():
        require_as_noted(lines, lines.with_name(f"{lines.name}.sha256"))
        # Only "\n" ends a row: str.splitlines would also break at U+0085 and U+2028, which names may hold.
        for number, line in enumerate(read_text(lines).removesuffix("\n").split("\n"), start=1):
            take(functools.partial(parse_result, line, f"{lines}: line {number}"))
    else:
        for path in sorted((folder / "rows").glob("*/row.json")):
            take(functools.partial(load_result, folder, path.parent.name))
    return sorted(rows, key=lambda row: row.run_id)


def load_logits(folder: Path | str, run_id: str) -> Logits:
    """The raw logits of one row. Raises ResultError where the file is missing, cut off or of the wrong shape; shapes are looked at before
    anything is unpacked."""
    path = row_folder(folder, run_id) / "logits.npz"
    n_examples = None
    with contextlib.suppress(ResultError):  # a damaged row is told of where it is read
        n_examples = load_result(folder, run_id).n_examples
    try:
        check_shapes(contents.array_shapes(path), n_examples)
        # From memory: NumPy leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            gains = file.get("gains")
            stored = Logits(file["logits"], file["labels"], file["groups"], str(file["split"]), gains)
    except FileNotFoundError as error:
        raise ResultError(f"{path}: not found; run the notebook of {run_id} again") from error
    except (
        Exception
    ) as error:  # what NumPy, zipfile and zlib raise for a damaged file has no base class in common
        raise ResultError(
            f"{path}: is cut off or not a logits file ({error}). Delete it and run its notebook again"
        ) from error
    check_logits(str(path), stored, None)
    return stored


def check_shapes(shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], n_examples: int | None) -> None:
    """ValueError where arrays are not one entry per example of a row, or are larger than any logits."""
    if (size := contents.unpacked_bytes(shapes)) > contents.MOST_UNPACKED:
        raise ValueError(
            f"it unpacks to {size:,} bytes, more than the {contents.MOST_UNPACKED:,} that any logits have"
        )
    for name in {"logits", "labels", "groups", "gains"} & shapes.keys():
        shape = shapes[name][0]
        if n_examples is not None and shape[:1] != (n_examples,):
            raise ValueError(
                f"{name}: expected {n_examples} rows, one per example, but got shape {list(shape)}"
            )


def update_result(folder: Path | str, run_id: str, **speed_fields: Any) -> Result:
    """Fill or replace fields of the speed group of a stored row (the clocks run after the training) and return it.

    Raises:
        ResultError: a field outside the speed group: what was measured once is not overwritten.
    """
    foreign = speed_fields.keys() - SPEED_FIELDS
    if foreign:
        raise ResultError(
            f"{run_id}: only fields of the speed group can be filled later, but got {', '.join(sorted(foreign))}"
        )
    result = dataclasses.replace(load_result(folder, run_id), **speed_fields)
    target = row_folder(folder, run_id)
    write_hashed(target / "row.json", (result.to_json() + "\n").encode("utf8"), target / contents.SUMS)
    return result


def write_rows(folder: Path | str) -> Path:
    """Write ``rows.jsonl``, every loadable row of the folder, one per line: the form to share or commit."""
    rows = load_results(folder, damaged="warn")
    return write_hashed(
        Path(folder) / "rows.jsonl", "".join(f"{row.to_json()}\n" for row in rows).encode("utf8")
    )


# Trust


def find_teacher(folder: Path | str, task: Task | str, split: str = "test") -> Result:
    """The first of ``find_teachers``."""
    return find_teachers(folder, task, split=split)[0]


def find_teachers(
    folder: Path | str, task: Task | str, n: int | None = 1, split: str = "test"
) -> list[Result]:
    """The rows of the teachers for this task, in the order of their seeds: cross-encoders and scores that have no teacher themselves.

    Of those trained here with one seed the newest; of those brought along, or read from the data, every run is one, the newest of a seed
    first. Under a suite those that this suite made.

    Args:
        task: the Task, or the sha256 of its data. n: teachers wanted; None takes all.

    Raises:
        ResultError: there are fewer.
    """
    sha256 = task if isinstance(task, str) else task.fingerprint
    rows = load_results(folder, damaged="warn") if Path(folder).is_dir() else []
    teachers = [
        row
        for row in rows
        if row.family in {"cross-encoder", "scores"}
        and row.teacher_run in {None, row.run_id}
        and row.data_sha256 == sha256
        and row.split == split
    ]
    inputs = os.environ.get("DIPAIR_INPUTS", "").split()
    teachers = [row for row in teachers if row.run_id.split(".")[0] in inputs] or teachers
    found: dict[Any, Result] = {}
    for row in sorted(teachers, key=lambda row: row.created_utc, reverse=True):
        brought = row.teacher_kind in {"brought", "scores"}
        found.setdefault(row.run_id if brought else row.seed or 0, row)
    if not found:
        raise ResultError(
            f"{folder}: no teacher for this task yet: run 01_teacher with the same `task` and `out` first, or a suite, which does: {FIRST}"
        )
    if n is not None and not 1 <= n <= len(found):
        raise ResultError(
            f"{folder}: teachers: expected 1 to {len(found)}, as many as were trained with different seeds or brought along, but got {n}: "
            "run 01_teacher with further seeds first, in a suite at an earlier stage that is `required`"
        )
    return sorted(found.values(), key=lambda row: row.seed or 0)[:n]


TEACHER_SEEDS = ("one", "same")


def teacher_for_seed(teachers: Sequence[Result], seed: int, how: str = "one") -> Result:
    """The teacher that a student of some seed learns from.

    With ``one`` the students' spread is that of students, given their teacher; with ``same`` the teacher's own spread is in it.

    Args:
        teachers: all there are, from ``find_teachers``.
        how: ``one`` takes the first for every seed, ``same`` the one of the student's seed.

    Raises:
        ResultError: there is no teacher of that seed. ValueError: another ``how``.
    """
    if how not in TEACHER_SEEDS:
        raise ValueError(f"teacher_seed: expected {' or '.join(TEACHER_SEEDS)}, but got {how!r}")
    if how == "one":
        return teachers[0]
    for teacher in teachers:
        if (teacher.seed or 0) == seed:
            return teacher
    there = ", ".join(str(teacher.seed or 0) for teacher in teachers)
    raise ResultError(
        f"teacher_seed 'same': expected a teacher of seed {seed} for the student of that seed, but those there are have seed {there}: "
        "run 01_teacher with each student's seed first (in a suite `grid: {seed: [0, 1, 2]}`, in a stage that is `required`), "
        "or leave teacher_seed at 'one'"
    )


def verify(folder: Path | str) -> list[str]:
    """Recompute every quality number of a results folder from the stored raw logits, and compare every file that is read back (rows,
    logits, weights, configurations, tokenizers, the teacher's logits, encoder outputs, unfinished trainings) with the hash that was noted
    when it was written.

    Returns:
        One line per problem, naming file and field; empty if all is well. Looks for: rows and logits that are cut off,
        changed bytes, foreign or unfinished files, a run_id that is not its folder's name, quality, interval, other metrics and share
        retained that are not what the logits give, model files whose safetensors header does not hold or that are not those of their
        config, and an architectures.json that cannot be read. Files of earlier versions have no hash: ``hashed_files`` counts.
    """
    from dipair_lib import architecture_table, quality

    folder = Path(folder)
    if not folder.is_dir():
        raise ResultError(f"{folder}: no such results folder")
    problems = foreign_files(folder)
    for sums in sums_in(folder):
        problems += contents.changed_files(sums)
    if (folder / architecture_table.FILE).exists():
        try:
            architecture_table.load(folder)
        except ResultError as error:
            problems.append(str(error))
    rows: dict[str, Result] = {}
    stored: dict[str, Logits] = {}
    for path in sorted((folder / "rows").glob("*")):
        if not path.is_dir():
            continue
        if not (path / "row.json").exists():
            problems.append(f"{path}: no row.json: its run was interrupted or failed; run the suite again")
            continue
        try:
            row = rows[path.name] = load_result(folder, path.name, as_noted=False)  # told of above
            if row.family == "published":
                continue
            logits = load_logits(folder, path.name)
            check_logits(str(path / "logits.npz"), logits, row.n_examples)
            if logits.split != row.split:
                raise ResultError(f"{path}/logits.npz: split: expected {row.split}, but got {logits.split}")
            stored[path.name] = logits
        except ResultError as error:
            problems.append(str(error))
        problems += damaged_weights(path / "model")
    if not rows:
        problems.append(f"{folder}: no rows")
    for run_id, logits in stored.items():
        row = rows[run_id]
        where = str(row_folder(folder, run_id) / "row.json")
        try:
            others = json.loads(row.metrics or "{}")
            found = quality.evaluate(
                list(others), logits.labels, logits.logits, logits.groups, logits.gains, row.threshold or 0.0
            )
            problems += different(where, others, found)
            teacher = teacher_logits(folder, row, rows, stored)
            expected = quality.interval(
                row.metric,
                logits.labels,
                logits.logits,
                logits.groups,
                teacher_logits=teacher,
                n_boot=row.n_boot or 1000,
            )
            given = {name: getattr(row, name) for name in expected if row.n_boot or name == "quality"}
            problems += different(where, given, expected)
        except (ResultError, ValueError) as error:
            problems.append(f"{where}: {error}")
    return problems


def teacher_logits(
    folder: Path, row: Result, rows: Mapping[str, Result], stored: Mapping[str, Logits]
) -> np.ndarray | None:
    """[n, outputs] of the teacher that ``row.retained`` is measured against, None where nothing was compared."""
    if row.retained is None:
        return None
    with warnings.catch_warnings():  # of damaged rows, which are told of by `verify` itself
        warnings.simplefilter("ignore")
        teacher_run = row.teacher_run or find_teacher(folder, row.data_sha256 or "", row.split).run_id
    if teacher_run not in stored:
        raise ResultError(
            f"teacher_run: expected the row of {teacher_run} with its logits, but it is not there or damaged"
        )
    if not np.array_equal(stored[teacher_run].labels, stored[row.run_id].labels):
        raise ResultError(f"teacher_run: {teacher_run} was measured on other examples than {row.run_id}")
    return stored[teacher_run].logits


def different(
    where: str, given: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float = 1e-6
) -> list[str]:
    """One line per field whose stored number is not the recomputed one."""
    lines = []
    for name, value in given.items():
        recomputed = expected[name]
        if value is None or recomputed is None:
            same = value is recomputed
        else:
            same = abs(value - recomputed) <= tolerance
        if not same:
            lines.append(f"{where}: {name}: the row says {value}, its logits give {recomputed}")
    return lines


def foreign_files(folder: Path) -> list[str]:
    """One line per file that no run of ours leaves in a results folder, or that an interrupted run left."""
    lines = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.name.endswith(".tmp"):
            lines.append(f"{path}: left by an interrupted write; run the suite again or delete it")
        elif len(parts) == 1 and parts[0] not in KNOWN_FILES:
            lines.append(f"{path}: a foreign file in a results folder; move it elsewhere")
        elif len(parts) == 2 and parts[0] == "rows" and not path.is_dir():
            lines.append(f"{path}: a foreign file among the rows; move it elsewhere")
        elif (
            len(parts) == 3
            and parts[0] == "rows"
            and parts[2] not in {"row.json", "logits.npz", "model", contents.SUMS}
        ):
            lines.append(f"{path}: a foreign file in a row's folder; move it elsewhere")
    return lines


def damaged_weights(folder: Path) -> list[str]:
    """One line per safetensors file of a model folder that is cut off, or is not the one that its config names."""
    from safetensors import SafetensorError, safe_open

    lines = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            lines.append(f"{path}: is cut off or not a safetensors file ({error})")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf8"))
        named = {"model.safetensors": config["sha256"]} if config.get("sha256") else {}
        named |= {f"tokenizer/{name}": digest for name, digest in (config.get("tokenizer") or {}).items()}
        for name, digest in named.items():
            path = folder / name
            found = contents.read_digest(path) if path.is_file() else "no file"
            if found != digest:
                lines.append(f"{path}: expected sha256 {digest}, as config.json says, but got {found}")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        lines.append(f"{folder / 'config.json'}: is cut off or not a model's config ({error})")
    return lines


def sums_in(folder: Path) -> list[Path]:
    """The files of hashes in a results folder."""
    return sorted([*folder.rglob(contents.SUMS), *folder.rglob("*.sha256")])


def hashed_files(folder: Path) -> tuple[int, int]:
    """How many files of a results folder that are read back have a hash noted, and how many (of earlier versions) have none."""
    named = {sums.parent / name for sums in sums_in(folder) for name in contents.read_sums(sums)}
    kinds = (
        "rows/*/row.json",
        "rows/*/logits.npz",
        "rows/*/model/**/*",
        "teacher/**/*.npz",
        "encoded/*.npy",
        "unfinished/*/*.safetensors",
    )
    found = {path for kind in kinds for path in folder.glob(kind) if path.is_file()}
    found |= {folder / name for name in ("rows.jsonl", "architectures.json") if (folder / name).is_file()}
    return len(found & named), len(found - named)


# Identity


def run_key(
    notebook: str, parameters: Mapping[str, Any], data_sha256: str, device: str, folder: Path | str = "."
) -> str:
    """Name of a run: the notebook and ten digits that change with whatever changes its outcome.

    Args:
        parameters: of the notebook; where it writes, its threads, clock and ``device`` do not count; a local file or model's folder counts
            by what it holds. A hub name counts as a name: what the hub has under it may change unseen.
        data_sha256: fingerprint of the task's data.
        device: name of the processor it runs on, from `device_name` of that parameter.
        folder: what relative paths start from: the notebook's own.

    Raises:
        ResultError: a file that counts cannot be read.
    """
    counted = {
        name: held(value, Path(folder)) if name in OF_CONTENT else value
        for name, value in parameters.items()
        if name not in NOT_IDENTITY
    }
    text = canonical_json([notebook, counted, data_sha256, device])
    return f"{notebook}-{hashlib.sha256(text.encode('utf8')).hexdigest()[:10]}"


def held(value: Any, folder: Path) -> Any:
    """The hash of what a local file or model's folder holds, in place of its path; any other value as it is."""
    if not isinstance(value, str) or value in NAMES:
        return value
    try:
        digest = contents.digest_of(folder / Path(value).expanduser())
    except RuntimeError:  # "~name" of nobody: no path
        return value
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no path either
            return value
        raise ResultError(
            f"{value}: cannot be read ({error.strerror}): its content tells runs apart; check its permissions"
        ) from error
    return f"sha256 {digest}" if digest else value


def slug(name: str) -> str:
    """A model's display name as part of a run_id: "DiPair-FFNN k=8" -> "dipair-ffnn-k8"."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower().replace("=", "")).strip("-.")


@functools.cache
def device_name(device: str = "auto") -> str:
    """The processor that models run on here, by a parameter ``device``: the CUDA GPU's name if it is one, else the CPU model's."""
    import torch

    if device.startswith(("auto", "cuda")) and torch.cuda.is_available():
        return torch.cuda.get_device_name(None if device == "auto" else device)
    return cpu_info().get("model name") or platform.processor() or platform.machine() or "unknown"


@functools.cache
def cpu_info() -> dict[str, str]:
    """Keys and values of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def environment() -> dict[str, str | None]:
    """The environment group of a row: python, torch, transformers, platform, hardware."""
    flags = set(cpu_info().get("flags", "").split())
    told = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8") if name in flags]
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
        "platform": platform.platform(),
        "hardware": " ".join([f"{machine.cores()} cores", *told]),
    }


@functools.cache
def git_state() -> dict[str, Any]:
    """git_commit and git_dirty of the working tree the library lies in; both None outside a git repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        # An installed package may lie inside somebody else's repository: only a tracked file speaks for this one.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}


# One run of one notebook


def notebook_parameters(path: Path | str) -> dict[str, Any]:
    """Names and default values of a notebook's cell tagged "parameters", in its order.

    Raises:
        ResultError: no notebook, not exactly one such cell, or something in it that is not ``name = literal``.
    """
    path = Path(path)
    for _ in range(25):  # JupyterLab empties the file of the notebook that runs before it writes it anew
        if (text := read_text(path)).strip():
            break
        time.sleep(0.2)
    try:
        cells = json.loads(text)["cells"]
        tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{path}: is not a notebook ({error})") from error
    if len(tagged) != 1:
        raise ResultError(f'{path}: expected one cell tagged "parameters", but got {len(tagged)}')
    values: dict[str, Any] = {}
    try:
        for statement in ast.parse("".join(tagged[0]["source"])).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    values[name] = ast.literal_eval(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    values[name] = ast.literal_eval(value)
                case _:
                    raise ResultError(
                        f"{path}: parameters cell, line {statement.lineno}: expected `name = literal`, "
                        f"but got `{ast.unparse(statement)}`"
                    )
    except (SyntaxError, ValueError) as error:
        raise ResultError(
            f"{path}: parameters cell: expected only `name = literal` lines ({error})"
        ) from error
    return values


def find_notebook(notebook: str) -> Path:
    """The notebook's file, seen from the notebooks' folder or from the project's."""
    for folder in (Path(), Path("notebooks")):
        path = folder / f"{notebook}.ipynb"
        if path.is_file():
            return path
    raise ResultError(
        f"{notebook}.ipynb: not found in {Path.cwd()} or in notebooks/ below it; start from the project folder"
    )


def from_notebook(notebook: str, out: Path | str) -> Path:
    """A results folder as it is meant: from the notebook's own folder. Jupyter and suites start it there, papermill wherever the person is,
    such as in the project's folder. The path stays where the notebook is not found, and absolute ones do."""
    if not (Path("notebooks") / f"{notebook}.ipynb").is_file() or Path(f"{notebook}.ipynb").is_file():
        return Path(out)
    return Path(os.path.abspath(Path("notebooks") / out))


TASK_PARAMETERS = ("task", "fields", "label", "group", "kind", "max_train", "teacher_score")


def load_run_task(parameters: Mapping[str, Any], say: Callable[[str], None] | None = None) -> Task:
    """The task a set of notebook parameters names by those of TASK_PARAMETERS it has; ``say`` is told of slow work."""
    from dipair_lib import tasks

    known = {name: parameters[name] for name in TASK_PARAMETERS[2:] if name in parameters}
    return tasks.load_task(parameters["task"], fields=tuple(parameters.get("fields") or ()), say=say, **known)


@dataclass(frozen=True)
class Run:
    """One run of one notebook: who it is, where it writes, what it works on.

    Attributes:
        key: notebook and hash; the run_id of a row is this key, a dot and the model's name.
        out: results folder of the suite.
        parameters: values of the notebook's parameters.
    """

    notebook: str
    key: str
    out: Path
    suite: str
    parameters: dict[str, Any]
    task: Task

    def row_id(self, model: str) -> str:
        """The run_id of this run's row for one model, by its display name."""
        return f"{self.key}.{slug(model)}"

    def result(self, *, model: str, family: str, **fields: Any) -> Result:
        """A row with identity, task and environment filled in.

        Args:
            model: display name, e.g. "DiPair-FFNN k=8"; unique within the run.
            fields: other fields of `Result`; a dict for ``metrics`` or ``data_notes`` becomes canonical JSON.
        """
        for name in ("metrics", "data_notes"):
            if isinstance(fields.get(name), Mapping):
                fields[name] = canonical_json(fields[name])
        test = self.task.test
        filled: dict[str, Any] = {
            "run_id": self.row_id(model),
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "notebook": self.notebook,
            "suite": self.suite,
            **git_state(),
            # `out` is where, not what: a row must read the same wherever the project lies.
            "parameters": canonical_json({k: v for k, v in self.parameters.items() if k != "out"}),
            "task": self.task.name,
            "split": "test",
            "data_sha256": self.task.fingerprint,
            "n_examples": len(test),
            "n_groups": int(test["group"].nunique()),
            "n_train": len(self.task.train),
            "data_notes": canonical_json(self.task.notes),
            "metric": self.task.metrics[0],
            "seed": self.parameters.get("seed"),
            "device_name": device_name(str(self.parameters.get("device", "auto"))),
            **environment(),
        }
        return Result(model=model, family=family, **{**filled, **fields})

    def folder(self, result: Result) -> Path:
        """Where the row's files lie; a model is saved in its ``model`` folder before the row."""
        return row_folder(self.out, result.run_id)

    @property
    def unfinished(self) -> Path:
        """Where this run's trainings keep what they have reached, until a row is saved."""
        return self.out / "unfinished" / self.key

    def save(self, result: Result, logits: np.ndarray) -> Path:
        """Store the row with its logits [n, outputs] on the task's test split."""
        test = self.task.test
        gains = test["gain"].to_numpy() if "gain" in test else None
        path = save_result(
            self.out, result, logits, test["label"].to_numpy(), test["group"].to_numpy(), gains
        )
        shutil.rmtree(self.unfinished, ignore_errors=True)
        with contextlib.suppress(OSError):  # others are under way
            self.unfinished.parent.rmdir()
        return path


def open_run(notebook: str, namespace: Mapping[str, Any]) -> Run:
    """Begin a notebook's run; its second cell says ``run = results.open_run("03_dipair", globals())``.

    The names of the parameters are read from the notebook's tagged cell, their values from the namespace (so a value that
    papermill, a suite or a person changed counts), the task is loaded and the folders are made.

    Raises:
        ResultError: the notebook is not found, a parameter has no value, or the results folder cannot be written.
        TaskError: the data cannot be used.
    """
    from dipair_lib import results_folder

    defaults = notebook_parameters(find_notebook(notebook))
    missing = [name for name in ("task", "out") if name not in defaults] or [
        n for n in defaults if n not in namespace
    ]
    if missing:
        raise ResultError(
            f"{notebook}: parameter {', '.join(missing)} has no value; run the parameters cell first"
        )
    parameters = {name: namespace[name] for name in defaults}
    task = load_run_task(parameters)
    out = from_notebook(notebook, parameters["out"])
    results_folder.mark_ours(out)
    try:
        (out / "rows").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(
            f"{out}: cannot be written ({error.strerror or error}): set `out` to another folder"
        ) from error
    # Under a suite the key is the one it planned with: what it looks for afterwards is what was written.
    device = device_name(str(parameters.get("device", "auto")))
    key = os.environ.get("DIPAIR_RUN") or run_key(notebook, parameters, task.identity, device)
    return Run(notebook, key, out, os.environ.get("DIPAIR_SUITE") or out.resolve().name, parameters, task)
