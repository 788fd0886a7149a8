"""Every quality number of a results folder recomputed from the stored logits, and every file compared with
its hash.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dipair_lib.evaluation import results, schema
from dipair_lib.evaluation.schema import Logits, Result
from dipair_lib.system import contents
from dipair_lib.system.disk import ResultError

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


def verify(folder: Path | str) -> list[str]:
    """Recompute every quality number of a results folder from the stored raw logits, and compare every file
    that is read back (rows, logits, weights, configurations, tokenizers, the teacher's logits, encoder
    outputs, unfinished trainings) with the hash that was noted when it was written.

    Returns:
        One line per problem, naming file and field; empty if all is well. Looks for: rows and logits that are
        cut off, changed bytes, foreign or unfinished files, a run_id that is not its folder's name, quality,
        interval, other metrics and share retained that are not what the logits give, model files whose
        safetensors header does not hold or that are not those of their config, and an architectures.json that
        cannot be read. Files of earlier versions have no hash: ``hashed_files`` counts.
    """
    from dipair_lib.evaluation import architecture_rows, bootstrap, metrics

    folder = Path(folder)
    if not folder.is_dir():
        raise ResultError(f"{folder}: no such results folder")
    problems = foreign_files(folder)
    for sums in sums_in(folder):
        problems += contents.changed_files(sums)
    if (folder / architecture_rows.FILE).exists():
        try:
            architecture_rows.load(folder)
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
            row = rows[path.name] = results.load_result(folder, path.name, as_noted=False)  # told of above
            if row.family == "published":
                continue
            logits = results.load_logits(folder, path.name)
            schema.check_logits(str(path / "logits.npz"), logits, row.n_examples)
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
        where = str(results.row_folder(folder, run_id) / "row.json")
        try:
            others = json.loads(row.metrics or "{}")
            found = metrics.evaluate(
                list(others), logits.labels, logits.logits, logits.groups, logits.gains, row.threshold or 0.0
            )
            problems += different(where, others, found)
            teacher = teacher_logits(folder, row, rows, stored)
            expected = bootstrap.interval(
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
        teacher_run = row.teacher_run or results.find_teacher(folder, row.data_sha256 or "", row.split).run_id
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
    """One line per safetensors file of a model folder that is cut off, or is not the one that its config
    names.
    """
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
    """How many files of a results folder that are read back have a hash noted, and how many (of earlier
    versions) have none.
    """
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
