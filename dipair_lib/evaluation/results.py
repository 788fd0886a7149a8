"""A results folder: rows and their logits, saved and loaded, and the teachers among them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dipair_lib.evaluation import schema
from dipair_lib.evaluation.schema import Logits, Result
from dipair_lib.system import contents, disk
from dipair_lib.system.disk import ResultError

if TYPE_CHECKING:
    from dipair_lib.data.task import Task

FIRST = (
    "`dipair run notebooks/suites/demo.yaml`, or in a cell of a notebook: "
    "from dipair_lib import run_suite; run_suite('suites/demo.yaml')"
)


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

    The logits are written first: a row that exists has its logits. The hashes of both, and of the model that
    lies beside them, are noted.

    Args:
        folder: the suite's results folder, e.g. ``results/demo``.
        logits: [n, outputs].
        labels: [n].
        groups: int [n].
        gains: [n] or None.

    Returns:
        The row's folder, ``<folder>/rows/<run_id>``.
    """
    logits, labels, groups = np.asarray(logits, np.float32), np.asarray(labels), np.asarray(groups, np.int64)
    schema.check_logits(result.run_id, Logits(logits, labels, groups, result.split, gains), result.n_examples)
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
    disk.write_atomic(sums, contents.sums_text(either))  # a kill in between leaves none that is wrong
    for name, data in written.items():
        disk.write_atomic(target / name, data)
    if either != hashes:
        disk.write_atomic(sums, contents.sums_text(hashes))
    return target


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
    known = schema.field_types()
    for version, added in schema.ADDED.items():
        if values.get("schema") == version - 1:
            values = {**dict.fromkeys(added), **values, "schema": version}
    if values.get("schema") != schema.SCHEMA:
        raise ResultError(f"{where}: schema: expected {schema.SCHEMA}, but got {values.get('schema')!r}")
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
    """The row of one run. Raises ResultError naming file and field; ``as_noted`` also where its bytes have
    another hash than was noted.
    """
    path = row_folder(folder, run_id) / "row.json"
    result = parse_result(read_text(path), str(path))
    if result.run_id != run_id:
        raise ResultError(f"{path}: run_id: expected {run_id} (the folder's name), but got {result.run_id}")
    if as_noted:
        require_as_noted(path, path.parent / contents.SUMS)
    return result


def require_as_noted(path: Path, sums: Path) -> None:
    """Raise unless a file is the one that was written, by the hash that was noted; all is well where none
    was.
    """
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

    A folder with ``rows.jsonl`` and no ``rows/`` (what is committed under results/reference) is read from
    that file. A row folder without row.json is a run that was interrupted: not a row yet.

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
    """The raw logits of one row. Raises ResultError where the file is missing, cut off or of the wrong shape;
    shapes are looked at before anything is unpacked.
    """
    path = row_folder(folder, run_id) / "logits.npz"
    n_examples = None
    with contextlib.suppress(ResultError):  # a damaged row is told of where it is read
        n_examples = load_result(folder, run_id).n_examples
    try:
        schema.check_shapes(contents.array_shapes(path), n_examples)
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
    schema.check_logits(str(path), stored, None)
    return stored


def update_result(folder: Path | str, run_id: str, **speed_fields: Any) -> Result:
    """Fill or replace fields of the speed group of a stored row (the clocks run after the training) and
    return it.

    Raises:
        ResultError: a field outside the speed group: what was measured once is not overwritten.
    """
    foreign = speed_fields.keys() - schema.SPEED_FIELDS
    if foreign:
        raise ResultError(
            f"{run_id}: only fields of the speed group can be filled later, but got {', '.join(sorted(foreign))}"
        )
    result = dataclasses.replace(load_result(folder, run_id), **speed_fields)
    target = row_folder(folder, run_id)
    disk.write_hashed(target / "row.json", (result.to_json() + "\n").encode("utf8"), target / contents.SUMS)
    return result


def write_rows(folder: Path | str) -> Path:
    """Write ``rows.jsonl``, every loadable row of the folder, one per line: the form to share or commit."""
    rows = load_results(folder, damaged="warn")
    return disk.write_hashed(
        Path(folder) / "rows.jsonl", "".join(f"{row.to_json()}\n" for row in rows).encode("utf8")
    )


# Trust


def find_teacher(
    folder: Path | str, task: Task | str, split: str = "test", among: Collection[str] = ()
) -> Result:
    """The first of ``find_teachers``."""
    return find_teachers(folder, task, split=split, among=among)[0]


def find_teachers(
    folder: Path | str,
    task: Task | str,
    n: int | None = 1,
    split: str = "test",
    among: Collection[str] = (),
) -> list[Result]:
    """The rows of the teachers for this task, in the order of their seeds: cross-encoders and scores that
    have no teacher themselves.

    Of those trained here with one seed the newest; of those brought along, or read from the data, every run
    is one, the newest of a seed first.

    Args:
        task: the Task, or the sha256 of its data.
        n: teachers wanted; None takes all.
        among: keys of runs: their teachers, where they made any, and no others. A suite names those that it
            made.

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
    teachers = [row for row in teachers if row.run_id.split(".")[0] in among] or teachers
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

    With ``one`` the students' spread is that of students, given their teacher; with ``same`` the teacher's
    own spread is in it.

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


def slug(name: str) -> str:
    """A model's display name as part of a run_id: "DiPair-FFNN k=8" -> "dipair-ffnn-k8"."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower().replace("=", "")).strip("-.")
