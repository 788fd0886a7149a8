"""One run of one notebook: who it is by its key, where it writes, what it works on."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dipair_lib import inference, models, training
from dipair_lib.data import loading
from dipair_lib.data.task import Task
from dipair_lib.evaluation import bootstrap, provenance, results, results_folder
from dipair_lib.evaluation.schema import Result
from dipair_lib.models import Model
from dipair_lib.runner import notebook_files
from dipair_lib.system import disk
from dipair_lib.system.disk import ResultError
from dipair_lib.training import Taught


@dataclass(frozen=True)
class Run:
    """One run of one notebook: who it is, where it writes, what it works on.

    Attributes:
        key: notebook and hash; the run_id of a row is this key, a dot and the model's name.
        out: results folder of the suite.
        parameters: values of the notebook's parameters.
        inputs: keys of the runs that a suite made for it.
    """

    notebook: str
    key: str
    out: Path
    suite: str
    parameters: dict[str, Any]
    task: Task
    inputs: tuple[str, ...] = ()

    def teacher(self, seed: int | None = None, how: str = "one", mean_of: int = 1) -> Taught:
        """Whom a student learns from, with their logits: of all teachers of the task the one of its seed, or
        the mean of the first.

        Args:
            seed: of the student, for whom ``results.teacher_for_seed`` chooses ``how``; None takes the first.
            mean_of: teachers whose logits are averaged, without a seed.

        Raises:
            ResultError: there is no such teacher.
            DoesNotApply: the parameters ask of it what it cannot give.
        """
        found = results.find_teachers(
            self.out, self.task, mean_of if seed is None else None, among=self.inputs
        )
        rows = found if seed is None else [results.teacher_for_seed(found, seed, how)]
        training.require_model(rows, self.parameters)
        return training.taught_by(self.out, rows, self.task.fingerprint)

    def scored(self, taught: Taught, rows: pd.DataFrame) -> np.ndarray:
        """What the teachers say of further rows, [rows, outputs]; computed once and stored."""
        return training.synthetic_logits(self.out, taught.rows, self.task, rows)

    def record(
        self,
        network: Model | None,
        logits: Mapping[str, np.ndarray],
        taught: Taught | None,
        /,
        *,
        save_model: bool = True,
        frozen_encoder: bool = False,
        **fields: Any,
    ) -> Result:
        """Measure a model on test, save it, and then its row.

        Args:
            network: the model; None of a column of scores.
            logits: raw logits [rows, outputs] of ``test`` and ``dev``; of a teacher also of ``train``: all
                are stored for its students.
            taught: what it is compared with; None: it is the teacher.
            save_model: whether the model itself is saved.
            frozen_encoder: without its encoder's weights, which were not trained.
            fields: other fields of `Result`, in place of what the model says of itself.
        """
        compared = taught.own["test"] if taught else logits["test"]
        shape: dict[str, Any] = bootstrap.row_fields(self.task, logits["test"], compared, dev=logits["dev"])
        if network is not None:
            device = str(self.parameters.get("device", "auto"))
            shape |= network.describe() | {"quality_dtype": inference.dtype_of(network, device)}
        shape |= fields
        row = self.result(teacher_run=taught.row.run_id if taught else self.row_id(shape["model"]), **shape)
        if network is not None and save_model:
            models.save(network, self.folder(row) / "model", frozen_encoder=frozen_encoder)
        if taught is None:
            path = training.teacher_file(self.out, row.run_id)
            training.save_teacher_logits(path, self.task.fingerprint, dict(logits))
        self.save(row, logits["test"])
        return row

    def row_id(self, model: str) -> str:
        """The run_id of this run's row for one model, by its display name."""
        return f"{self.key}.{results.slug(model)}"

    def result(self, *, model: str, family: str, **fields: Any) -> Result:
        """A row with identity, task and environment filled in.

        Args:
            model: display name, e.g. "DiPair-FFNN k=8"; unique within the run.
            fields: other fields of `Result`; a dict for ``metrics`` or ``data_notes`` becomes canonical JSON.
        """
        for name in ("metrics", "data_notes"):
            if isinstance(fields.get(name), Mapping):
                fields[name] = disk.canonical_json(fields[name])
        test = self.task.test
        filled: dict[str, Any] = {
            "run_id": self.row_id(model),
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "notebook": self.notebook,
            "suite": self.suite,
            **provenance.git_state(),
            # `out` is where, not what: a row must read the same wherever the project lies.
            "parameters": disk.canonical_json({k: v for k, v in self.parameters.items() if k != "out"}),
            "task": self.task.name,
            "split": "test",
            "data_sha256": self.task.fingerprint,
            "n_examples": len(test),
            "n_groups": int(test["group"].nunique()),
            "n_train": len(self.task.train),
            "data_notes": disk.canonical_json(self.task.notes),
            "metric": self.task.metrics[0],
            "seed": self.parameters.get("seed"),
            "device_name": provenance.device_name(str(self.parameters.get("device", "auto"))),
            **provenance.environment(),
        }
        return Result(model=model, family=family, **{**filled, **fields})

    def folder(self, result: Result) -> Path:
        """Where the row's files lie; a model is saved in its ``model`` folder before the row."""
        return results.row_folder(self.out, result.run_id)

    @property
    def unfinished(self) -> Path:
        """Where this run's trainings keep what they have reached, until a row is saved."""
        return self.out / "unfinished" / self.key

    def save(self, result: Result, logits: np.ndarray) -> Path:
        """Store the row with its logits [n, outputs] on the task's test split."""
        test = self.task.test
        gains = test["gain"].to_numpy() if "gain" in test else None
        path = results.save_result(
            self.out, result, logits, test["label"].to_numpy(), test["group"].to_numpy(), gains
        )
        shutil.rmtree(self.unfinished, ignore_errors=True)
        with contextlib.suppress(OSError):  # others are under way
            self.unfinished.parent.rmdir()
        return path


def open_run(notebook: str, namespace: Mapping[str, Any]) -> Run:
    """Begin a notebook's run; its second cell says ``run = notebook_run.open_run("03_dipair", globals())``.

    The names of the parameters are read from the notebook's tagged cell, their values from the namespace (so
    a value that papermill, a suite or a person changed counts), the task is loaded and the folders are made.

    Raises:
        ResultError: the notebook is not found, a parameter has no value, or the results folder cannot be
            written.
        TaskError: the data cannot be used.
    """
    defaults = notebook_files.notebook_parameters(notebook_files.find_notebook(notebook))
    missing = [name for name in ("task", "out") if name not in defaults] or [
        n for n in defaults if n not in namespace
    ]
    if missing:
        raise ResultError(
            f"{notebook}: parameter {', '.join(missing)} has no value; run the parameters cell first"
        )
    parameters = {name: namespace[name] for name in defaults}
    task = loading.load_run_task(parameters)
    out = notebook_files.from_notebook(notebook, parameters["out"])
    results_folder.mark_ours(out)
    try:
        (out / "rows").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(
            f"{out}: cannot be written ({error.strerror or error}): set `out` to another folder"
        ) from error
    # Under a suite the key is the one it planned with: what it looks for afterwards is what was written.
    device = provenance.device_name(str(parameters.get("device", "auto")))
    key = os.environ.get("DIPAIR_RUN") or notebook_files.run_key(notebook, parameters, task.identity, device)
    suite, inputs = os.environ.get("DIPAIR_SUITE"), os.environ.get("DIPAIR_INPUTS", "").split()
    return Run(notebook, key, out, suite or out.resolve().name, parameters, task, tuple(inputs))
