"""The teacher's logits, computed once and stored."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dipair_lib import models
from dipair_lib.data.task import Task
from dipair_lib.evaluation.results import row_folder
from dipair_lib.evaluation.schema import Result
from dipair_lib.inference.outputs import hash_of
from dipair_lib.inference.predict import predict
from dipair_lib.models import CrossEncoder
from dipair_lib.models.folders import DoesNotApply
from dipair_lib.models.tokens import Texts
from dipair_lib.system import contents, machine
from dipair_lib.system.disk import write_hashed
from dipair_lib.training.rows import TeacherError, outputs_for, read_rows


def teacher_file(out: Path, run_id: str) -> Path:
    """Where the logits of a teacher's run are stored."""
    return Path(out) / "teacher" / f"{run_id}.npz"


def save_teacher_logits(path: Path, fingerprint: str, logits: dict[str, np.ndarray]) -> Path:
    """Write the teacher's raw logits of each split, float32 [rows, outputs], with the fingerprint of the data
    they belong to.
    """
    arrays: dict[str, Any] = {k: np.asarray(v, np.float32) for k, v in logits.items()}
    buffer = io.BytesIO()
    np.savez(buffer, fingerprint=np.array(fingerprint), **arrays)
    return write_hashed(path, buffer.getbuffer())


def load_teacher_logits(path: Path, fingerprint: str) -> dict[str, np.ndarray]:
    """Stored logits per split.

    Raises:
        TeacherError: no such file, not a whole file, or logits of other data.
    """
    if not path.exists():
        raise TeacherError(
            f"{path}: no stored teacher logits: run 01_teacher with the same `out` and task first"
        )
    try:
        unpacked, packed = contents.unpacked_bytes(contents.array_shapes(path)), path.stat().st_size
        if unpacked > packed:  # they are never written compressed
            raise ValueError(f"its {packed:,} bytes unpack to {unpacked:,}")
        with np.load(path, allow_pickle=False) as stored:
            logits = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise TeacherError(f"{path}: damaged ({error}): run 01_teacher again") from None
    except Exception as error:  # zipfile.BadZipFile and zlib.error share no base class
        raise TeacherError(
            f"{path}: damaged ({type(error).__name__}: {error}): run 01_teacher again"
        ) from None
    found = str(logits.pop("fingerprint", ""))
    if found != fingerprint:
        raise TeacherError(
            f"{path}: logits of other data (expected fingerprint {fingerprint[:12]}, but got {found[:12]}): run 01_teacher again"
        )
    return logits


@dataclass(frozen=True)
class Taught:
    """Whom a student learns from, and what they say.

    Attributes:
        rows: of the teachers; the first is the one a student is compared with.
        logits: raw logits [rows, outputs] per split, the mean over the teachers: what is learned.
        own: those of the first.
    """

    rows: list[Result]
    logits: dict[str, np.ndarray]
    own: dict[str, np.ndarray]

    @property
    def row(self) -> Result:
        """The first teacher's."""
        return self.rows[0]


def taught_by(out: Path, teachers: Sequence[Result], fingerprint: str) -> Taught:
    """What stored teachers say of a task's splits."""
    own = load_teacher_logits(teacher_file(out, teachers[0].run_id), fingerprint)
    return Taught(list(teachers), taught_logits(out, teachers, fingerprint), own)


def taught_logits(out: Path, teachers: Sequence[Result], fingerprint: str) -> dict[str, np.ndarray]:
    """Stored logits per split, the mean over the teachers."""
    each = [load_teacher_logits(teacher_file(out, row.run_id), fingerprint) for row in teachers]
    return {split: np.mean([logits[split] for logits in each], axis=0) for split in each[0]}


LEAST = 1e-5  # probabilities are kept this far from 0 and 1: log-odds of at most 11.5


def score_logits(task: Task) -> tuple[dict[str, np.ndarray], str]:
    """A column of a teacher's scores, or one per class, as the raw logits that students learn: float32 [rows,
    outputs] of each split.

    Scores of classes that all lie between 0 and 1 (and, of a column per class, add up to 1 in each row) are
    probabilities: of two classes the log-odds of the second, of more the logarithms, cut where they are
    nearer than ``LEAST`` to 0 or 1. All others are logits as they are; of two columns their difference. Of
    scores (no classes) nothing is changed.

    Returns:
        The logits, and what was done in words.
    """
    raw = {split: scores.astype(np.float64) for split, scores in task.teacher_scores.items()}
    together = np.concatenate(list(raw.values()))
    names = ", ".join(task.notes["teacher_score"])
    if not task.classes:
        return dict(task.teacher_scores), f"{names}: scores as they are"
    one, two = together.shape[1] == 1, len(task.classes) == 2
    within = bool(((together >= 0) & (together <= 1)).all())
    probabilities = within and (one or bool(np.allclose(together.sum(1), 1, atol=0.01)))
    order = "" if one else f" (of {', '.join(task.classes)})"
    if not probabilities:
        logits = {s: z[:, 1:] - z[:, :1] if two and not one else z for s, z in raw.items()}
        how = "the difference of two logits" if two and not one else "logits as they are"
        return {s: z.astype(np.float32) for s, z in logits.items()}, f"{names}{order}: {how}"
    cut = int(((together < LEAST) | (together > 1 - LEAST)).sum())
    clipped = {s: np.clip(p, LEAST, 1 - LEAST) for s, p in raw.items()}
    if two:
        pairs = {s: (p[:, :1], 1 - p[:, :1]) if one else (p[:, 1:], p[:, :1]) for s, p in clipped.items()}
        logits = {s: np.log(yes) - np.log(no) for s, (yes, no) in pairs.items()}
    else:
        logits = {s: np.log(p) for s, p in clipped.items()}
    said = (
        f"{names}{order}: between 0 and 1, so probabilities; learned as {'log-odds' if two else 'logarithms'}"
    )
    said += f", {cut:,} of {together.size:,} cut at {LEAST:g} from 0 or 1" if cut else ""
    return {s: z.astype(np.float32) for s, z in logits.items()}, said


NEEDS_A_MODEL = {
    "unlabelled": "",
    "pool": 0,
    "augment": "none",
}  # rows that only a teacher's model can score, and the value without


def require_model(teachers: Sequence[Result], parameters: Mapping[str, Any]) -> None:
    """Raise if a student's parameters ask of its teachers what a column of scores, or a checkpoint with its
    own head, cannot give.

    Raises:
        DoesNotApply: further rows are to be scored, but a teacher is a column of scores; or the student is to
            start from a teacher that was not trained here.
    """
    scores = [row.model for row in teachers if row.teacher_kind == "scores"]
    foreign = [row.model for row in teachers[:1] if row.teacher_kind in {"brought", "scores"}]
    for name, without in NEEDS_A_MODEL.items():
        if scores and parameters.get(name, without) != without:
            raise DoesNotApply(
                f"{name}: {scores[0]} has no model that could score further rows: leave {name} at {without!r}, or put the rows with their "
                "scores into the data"
            )
    if foreign and parameters.get("start") == "teacher":
        raise DoesNotApply(
            f"start: {foreign[0]} was not trained here, so its encoder cannot be used: leave start at its default, or train the "
            "teacher here"
        )


def synthetic_logits(
    out: Path, teachers: Sequence[Result], task: Task, synthetic: pd.DataFrame
) -> np.ndarray:
    """The teachers' mean raw logits on synthetic or unlabelled rows, float32 [rows, outputs]; computed once
    per teacher and round and stored beside its others.
    """
    require_model(teachers, {"pool": len(synthetic)})
    loaded = [loader_of(out, teacher) for teacher in teachers]
    parts = [np.zeros((0, outputs_for(len(task.classes))), np.float32)]
    for number, rows in synthetic.groupby("round", sort=False):
        compute = functools.partial(predict, what=f"teacher on synthetic rows, round {number + 1}")
        each = [
            stored_of_teacher(out, teacher, load, task, rows, compute)
            for teacher, load in zip(teachers, loaded, strict=True)
        ]
        parts.append(np.mean(each, axis=0))
    return np.concatenate(parts)


def loader_of(out: Path, teacher: Result) -> Callable[[], Any]:
    """Gives a run's model: loaded when first asked for, and once."""
    return functools.cache(lambda: models.load(row_folder(out, teacher.run_id) / "model"))


def stored_of_teacher(
    out: Path,
    teacher: Result,
    load: Callable[[], CrossEncoder],
    task: Task,
    rows: pd.DataFrame,
    compute: Callable[[CrossEncoder, Texts], np.ndarray],
) -> np.ndarray:
    """A teacher's logits of some rows: read where it was computed for the same texts before, else computed
    and stored.
    """
    digest = hash_of(*(text for field in task.fields for text in rows[field]))
    path = teacher_file(out, teacher.run_id).with_suffix("") / f"{digest}.npz"
    with machine.locked(path):
        if not path.exists():
            model = load()
            data = read_rows(task, rows.assign(label=0), model.tokenizer, model.read_lengths)
            save_teacher_logits(path, digest, {"train": compute(model, data.texts)})
        return load_teacher_logits(path, digest)["train"]
