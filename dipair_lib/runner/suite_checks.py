"""What can be said of a suite's runs without running them: data that loads, files that are there, columns
that they have, values that are known. It ends with the key of every run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipair_lib.data import loading
from dipair_lib.evaluation import provenance, results
from dipair_lib.runner import notebook_files
from dipair_lib.runner.suite_file import Suite, SuiteError
from dipair_lib.system import disk

if TYPE_CHECKING:
    from dipair_lib.data.task import Task

NOTEBOOKS = re.compile(
    r"0[1-7]_(teacher|bilstm|dipair|tradeoff|explorer|scale|architectures)"
)  # ours: others mean what they mean
# Parameters whose values are of a closed set: here, or in the library, where it is looked up only if a
# notebook has them.
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
        notebook: its name.
        label: of the run, begins every message.
        notebooks: what relative paths start from.
        task: its data, loaded.
        checked: what was found well before, so that a file is read once for all runs; added to.

    Raises:
        SuiteError: naming run and parameter.
    """
    for name, value in parameters.items() if NOTEBOOKS.fullmatch(notebook) else ():
        known = disk.canonical_json([name, value, task.fingerprint if task and name in FILES else ""])
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
        from dipair_lib.inference.device import device_of

        device_of(value)
    elif name in {"backbone", "teacher"} and isinstance(value, str) and value not in notebook_files.NAMES:
        check_model(name, value)
    elif name == "vectors" and value not in WORDS and not Path(value).expanduser().is_file():
        raise ValueError(
            f"vectors: expected backbone, random or a file of word vectors, but got {value!r:.80}"
        )
    elif name in FILES and value and task is not None:
        from dipair_lib.data.loading import load_unlabelled

        load_unlabelled(value, task)


def check_model(name: str, value: str) -> None:
    """A model's folder holds what is needed; a hub name is not asked for here."""
    from dipair_lib.models.checkpoint_files import read_checkpoint
    from dipair_lib.models.folders import locate

    if name == "teacher" and Path(value).expanduser().is_dir():
        read_checkpoint(Path(value).expanduser())
    else:
        locate(value)


def values_of(name: str) -> Collection[Any]:
    """What a parameter of a closed set may be."""
    if name in SETS:
        return SETS[name]
    if name == "augment":
        from dipair_lib.data.augmentation import RULES

        return tuple(RULES)
    if name == "start":
        from dipair_lib.training import STARTS

        return STARTS
    from dipair_lib.models import dipair

    return {"head": tuple(dipair.HEADS), "select": dipair.SELECT, "residual": dipair.RESIDUAL}[name]


def with_keys(suite: Suite, say: Callable[[str], None]) -> Suite:
    """The suite with the key of every run and the fingerprint of its data; loads each task once, so that what
    has to be built is built before the start, and checks what can be checked of every run.
    """
    tasks: dict[str, Task] = {}
    checked: set[str] = set()
    runs = []
    for run in suite.runs:
        identity = ""
        if "task" in run.parameters:
            at = task_of(run.parameters)
            if at not in tasks:
                tasks[at] = loaded(run.parameters, suite.notebooks, say)
            identity = tasks[at].identity
        task = tasks.get(task_of(run.parameters))
        check(run.notebook, run.parameters, run.label, suite.notebooks, task, checked)
        device = provenance.device_name(str(run.parameters.get("device", "auto")))
        key = notebook_files.run_key(run.notebook, run.parameters, identity, device, suite.notebooks)
        runs.append(dataclasses.replace(run, key=key))
    keys = [run.key for run in runs]
    for run in runs:
        if keys.count(run.key) > 1:
            raise SuiteError(
                f"{run.label}: two runs of the suite differ only in where or how fast they run: {run.key}"
            )
    return dataclasses.replace(
        suite, runs=runs, fingerprints={at: task.fingerprint for at, task in tasks.items()}
    )


def task_of(parameters: Mapping[str, Any]) -> str:
    """What names a task among a run's parameters; one that is empty is as one that is missing, as rows of
    older notebooks have it.
    """
    return disk.canonical_json([parameters.get(name) or None for name in loading.TASK_PARAMETERS])


def refuse_changed_data(out: Path, fingerprints: Mapping[str, str]) -> None:
    """SuiteError where the folder holds rows of the same task parameters on other data: it changed
    underneath, and rows of both would be compared with each other.
    """
    if not (out / "rows").is_dir():
        return
    with warnings.catch_warnings():  # a damaged row is told of where its run is looked at
        warnings.simplefilter("ignore")
        rows = results.load_results(out, damaged="warn")
    for row in rows:
        parameters = json.loads(row.parameters)
        at = task_of(parameters)
        now = fingerprints.get(at)
        if now and row.data_sha256 and row.data_sha256 != now:
            raise SuiteError(
                f"{out}: the data of task {row.task} changed: {row.run_id} was measured on fingerprint {row.data_sha256[:12]}, the data "
                f"now has {now[:12]}. Bring the old data back, name another folder with --out, or begin anew with --fresh"
            )


def loaded(parameters: Mapping[str, Any], notebooks: Path, say: Callable[[str], None]) -> Task:
    """The data a run will load, seen from the notebooks; what was dropped from it is said once."""
    with contextlib.chdir(notebooks), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = loading.load_run_task(parameters, say)
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        say(f"note: {line}")
    say(
        f"task {task.name}: {len(task.train)} + {len(task.dev)} + {len(task.test)} examples to train, tune and test on"
    )
    return task
