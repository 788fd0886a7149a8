"""What can be said of a run's parameters without running it: files that are there, columns that they have, values that are known."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipair_lib import results

if TYPE_CHECKING:
    from dipair_lib.tasks import Task


class SuiteError(ValueError):
    """A suite or an override is not what it should be, or the folder is taken; nothing was started."""


NOTEBOOKS = re.compile(
    r"0[1-7]_(teacher|bilstm|dipair|tradeoff|explorer|scale|architectures)"
)  # ours: others mean what they mean
# Parameters whose values are of a closed set: here, or in the library, where it is looked up only if a notebook has them.
SETS = {
    "role": ("teacher", "student"),
    "clock": ("none", "missing", "all"),
    "pool_kind": ("near", "random"),
    "synthetic_labels": ("teacher", "source"),
    "teacher_seed": results.TEACHER_SEEDS,
}
CLOSED = {*SETS, "head", "select", "residual", "start", "augment"}
NUMBERS = {
    "loss",
    "alpha",
    "temperature",
    "match",
    "average",
    "batch_size",
    "head_rate",
}  # fields of a ``TrainConfig``
FILES = {"unlabelled", "warm_on"}  # with the task's fields as columns
WORDS = {"", "backbone", "random"}  # what ``vectors`` may be beside a file


def check(
    notebook: str,
    parameters: Mapping[str, Any],
    label: str,
    notebooks: Path,
    task: Task | None,
    checked: set[str],
) -> None:
    """Refuse a run whose parameters name what is not there.

    Args:
        notebook: its name. label: of the run, begins every message. notebooks: what relative paths start from. task: its data, loaded.
        checked: what was found well before, so that a file is read once for all runs; added to.

    Raises:
        SuiteError: naming run and parameter.
    """
    for name, value in parameters.items() if NOTEBOOKS.fullmatch(notebook) else ():
        known = results.canonical_json([name, value, task.fingerprint if task and name in FILES else ""])
        if known in checked:
            continue
        try:
            with contextlib.chdir(notebooks):
                check_one(name, value, task)
        except (ValueError, OSError) as error:
            said = str(error) if name in str(error) else f"{name}: {error}"
            raise SuiteError(f"{label}: {said}") from error
        checked.add(known)


def check_one(name: str, value: Any, task: Task | None) -> None:
    """One parameter, seen from the notebooks' folder. Raises ValueError, or what the library raises for it."""
    if name in CLOSED and value not in (allowed := values_of(name)):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, but got {value!r:.80}")
    if name in NUMBERS:
        from dipair_lib.training import TrainConfig

        TrainConfig(**{name: value})
    elif name == "device":
        from dipair_lib.training.device import device_of

        device_of(value)
    elif name in {"backbone", "teacher"} and isinstance(value, str) and value not in results.NAMES:
        check_model(name, value)
    elif name == "vectors" and value not in WORDS and not Path(value).expanduser().is_file():
        raise ValueError(
            f"vectors: expected backbone, random or a file of word vectors, but got {value!r:.80}"
        )
    elif name in FILES and value and task is not None:
        from dipair_lib.tasks import load_unlabelled

        load_unlabelled(value, task)


def check_model(name: str, value: str) -> None:
    """A model's folder holds what is needed; a hub name is not asked for here."""
    from dipair_lib.models.backbone import locate
    from dipair_lib.models.checkpoint_files import read_checkpoint

    if name == "teacher" and Path(value).expanduser().is_dir():
        read_checkpoint(Path(value).expanduser())
    else:
        locate(value)


def values_of(name: str) -> Collection[Any]:
    """What a parameter of a closed set may be."""
    if name in SETS:
        return SETS[name]
    if name == "augment":
        from dipair_lib.augment import RULES

        return tuple(RULES)
    if name == "start":
        from dipair_lib.training import STARTS

        return STARTS
    from dipair_lib.models import dipair

    return {"head": dipair.HEADS, "select": dipair.SELECT, "residual": dipair.RESIDUAL}[name]
