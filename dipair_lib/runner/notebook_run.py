"""One run of one notebook: who it is by its key, where it writes, what it works on."""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dipair_lib.data import loading
from dipair_lib.evaluation import provenance, results
from dipair_lib.evaluation.schema import Result
from dipair_lib.system import contents, disk
from dipair_lib.system.disk import ResultError

if TYPE_CHECKING:
    from dipair_lib.data.task import Task

# Where a run writes and how fast it is allowed to be do not change what it computes: not part of its identity.
NOT_IDENTITY = frozenset({"out", "clock", "threads", "device"})
# Parameters that may name a model's folder or a file of rows or vectors, and names that never mean one.
OF_CONTENT = frozenset({"backbone", "teacher", "vectors", "unlabelled", "warm_on"})
NAMES = frozenset({"", "embedded", "backbone", "random"})


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
    text = disk.canonical_json([notebook, counted, data_sha256, device])
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


# One run of one notebook


def notebook_parameters(path: Path | str) -> dict[str, Any]:
    """Names and default values of a notebook's cell tagged "parameters", in its order.

    Raises:
        ResultError: no notebook, not exactly one such cell, or something in it that is not ``name = literal``.
    """
    path = Path(path)
    for _ in range(25):  # JupyterLab empties the file of the notebook that runs before it writes it anew
        if (text := results.read_text(path)).strip():
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

    The names of the parameters are read from the notebook's tagged cell, their values from the namespace (so a value that
    papermill, a suite or a person changed counts), the task is loaded and the folders are made.

    Raises:
        ResultError: the notebook is not found, a parameter has no value, or the results folder cannot be written.
        TaskError: the data cannot be used.
    """
    from dipair_lib.evaluation import results_folder

    defaults = notebook_parameters(find_notebook(notebook))
    missing = [name for name in ("task", "out") if name not in defaults] or [
        n for n in defaults if n not in namespace
    ]
    if missing:
        raise ResultError(
            f"{notebook}: parameter {', '.join(missing)} has no value; run the parameters cell first"
        )
    parameters = {name: namespace[name] for name in defaults}
    task = loading.load_run_task(parameters)
    out = from_notebook(notebook, parameters["out"])
    results_folder.mark_ours(out)
    try:
        (out / "rows").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(
            f"{out}: cannot be written ({error.strerror or error}): set `out` to another folder"
        ) from error
    # Under a suite the key is the one it planned with: what it looks for afterwards is what was written.
    device = provenance.device_name(str(parameters.get("device", "auto")))
    key = os.environ.get("DIPAIR_RUN") or run_key(notebook, parameters, task.identity, device)
    return Run(notebook, key, out, os.environ.get("DIPAIR_SUITE") or out.resolve().name, parameters, task)
