"""What one result row holds: every field with its type and unit, and the raw logits beside it. Knows no file."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dipair_lib.system import contents
from dipair_lib.system.disk import ResultError

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
# No count, time or rate of ours is outside; far beyond them sums and ratios overflow.
SMALLEST, LARGEST = 1e-18, 1e18
MOST_DRAWS = 100_000  # of a bootstrap, which ``verify`` draws again


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured (or published) model on one split. Schema 4; None means not measured.

    Units: seconds, bytes, FLOPs (multiply and add counted as two), rates per second. ``_q1`` and ``_q3`` are
    quartiles, ``_low`` and ``_high`` the ends of a 95 % interval. A cross-encoder does everything per pair:
    its tokenisation and forward pass are ``combine_s_per_pair`` and its ``encode_s_per_text`` is None.
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
            raise ResultError(f"{name}: expected text, but got an unpaired surrogate ({error})") from error
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
