"""Run many notebooks from one YAML file, resume what was interrupted, and leave rows, executed notebooks and a report.

A suite::

    name: demo
    out: results/demo                 # from the project folder; default results/<name>
    defaults: {task: pydocs, seed: 0} # for every notebook that has such a parameter
    stages:                           # one after the other; the runs of a stage may run side by side (--jobs)
      - required: true                # a failure here ends the suite; every later run depends on these
        runs:
          - notebook: 01_teacher
            parameters: {epochs: 1}
      - runs:
          - notebook: 03_dipair
            grid: {head: [ffnn, transformer], keep: [4, 8]}

Everything in it is checked before a kernel starts, unknown parameters included (papermill would only warn). Each run
is a process of its own. A grid (or a notebook's default) may hold values that a task's texts do not allow, such as more
kept tokens than they have: such a run is left out and named, and is no failure; a value that was asked for alone is one.
A notebook whose parameter ``clock`` is not "none" measures time, so it runs alone; it and the last stage depend on all
earlier runs. A run is finished when its executed notebook is in place and its rows load;
started again, a suite does only what is not finished, or what depends on something that was done anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import difflib
import itertools
import json
import math
import os
import re
import reprlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO

import filelock
import yaml

from dipair_lib import results, results_folder, safe_yaml, suite_checks
from dipair_lib.suite_checks import SuiteError

if TYPE_CHECKING:
    from dipair_lib.tasks import Task

    from .on_ray import Cluster

PATH_PARAMETERS = (
    "task",
    "backbone",
    "teacher",
    "vectors",
    "unlabelled",
    "warm_on",
)  # a name, or a file or folder of the user's
MOST_RUNS = 10_000  # of one entry's grid
STARTS = 3  # kernels started together can race for a port: that many attempts
KERNEL_DID_NOT_START = re.compile(r"Address already in use|Kernel died before replying|Kernel didn't respond")
KERNEL_KILLED = 138  # what papermill ends with then
LIKELY = "most likely because memory ran out: fewer --jobs, or a smaller batch_size or model, need less"
NOT_APPLICABLE = re.compile(r"DoesNotApply: (\w+): ")  # the error of a run, and the parameter it names
FINISHED, FAILED, KEPT, LEFT_OUT, NOT_RUN = "finished", "failed", "kept", "left out", "not run"


@dataclass(frozen=True)
class Planned:
    """One run as it will be made.

    Attributes:
        parameters: of the notebook, defaults included.
        label: the notebook and what sets this run apart, for people.
        stage: counted from 0.
        alone: it measures time.
        asked: names of the parameters set for this run itself, by its ``parameters`` or an override, not by a grid or a default.
    """

    notebook: str
    path: Path
    parameters: dict[str, Any]
    label: str
    stage: int
    required: bool
    alone: bool
    asked: frozenset[str] = frozenset()
    key: str = ""

    def left_out(self, error: str) -> bool:
        """Whether an error says only that a value nobody asked of this run alone does not suit the data."""
        found = NOT_APPLICABLE.match(error)
        return found is not None and not self.required and found[1] not in self.asked


@dataclass(frozen=True)
class Suite:
    """A checked and expanded suite."""

    name: str
    out: Path
    notebooks: Path
    runs: list[Planned] = field(default_factory=list)
    fingerprints: Mapping[str, str] = field(default_factory=dict)  # of the data, by ``task_of``


# Reading and checking


def read_suite(
    path: Path | str,
    overrides: Mapping[str, str] | None = None,
    out: Path | str | None = None,
    notebooks_dir: Path | str | None = None,
) -> Suite:
    """Read, check and expand a suite; no data is loaded and no kernel started.

    Args:
        path: the YAML file.
        overrides: parameter name to value as typed on a command line (YAML), for every notebook that has it.
        out: results folder in place of the suite's own.
        notebooks_dir: default the nearest folder with notebooks at or above the YAML file.

    Raises:
        SuiteError: naming file, run and parameter, with the close matches of an unknown name.
        ResultError: a notebook without a proper parameters cell.
    """
    path, overrides = Path(path), dict(overrides or {})
    try:
        content = safe_yaml.load(path.read_text(encoding="utf8"))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.yaml")], n=3, cutoff=0.3
        )
        raise SuiteError(f"{path}: no such suite{did_you_mean(near)}") from error
    except Exception as error:  # PyYAML lets through what its readers of dates and numbers raise
        raise SuiteError(f"{path}: could not be read as YAML: {error}") from error
    where = str(path)
    suite = mapping(content, where, {"name", "out", "defaults", "stages"}, needed={"name", "stages"})
    if not isinstance(suite["name"], str) or not re.fullmatch(r"\w[\w.-]*", suite["name"]):
        raise SuiteError(f"{where}: name: expected a word, but got {reprlib.repr(suite['name'])}")
    if not isinstance(suite.get("out") or "", str) or not can_be_noted(suite.get("out")):
        raise SuiteError(f"{where}: out: expected a folder, but got {reprlib.repr(suite['out'])}")
    notebooks = Path(notebooks_dir) if notebooks_dir else notebooks_folder(path)
    known = {p.stem: results.notebook_parameters(p) for p in sorted(notebooks.glob("*.ipynb"))}
    if not out and suite.get("out"):
        check_inside(suite["out"], where)
    folder = Path(out) if out else notebooks.parent / (suite.get("out") or f"results/{suite['name']}")
    if notebooks.resolve().is_relative_to(folder.resolve()):
        raise SuiteError(f"{where}: out: {folder} holds the notebooks themselves: name a folder for results")
    defaults = mapping(suite.get("defaults") or {}, f"{where}: defaults")
    used: set[str] = set()
    runs: list[Planned] = []
    for number, stage in enumerate(sequence(suite["stages"], f"{where}: stages"), start=1):
        at = f"{where}: stage {number}"
        stage = mapping(stage, at, {"runs", "required"}, needed={"runs"})
        if not isinstance(stage.get("required", False), bool):
            raise SuiteError(
                f"{at}: required: expected true or false, but got {reprlib.repr(stage['required'])}"
            )
        for position, entry in enumerate(sequence(stage["runs"], f"{at}: runs"), start=1):
            here = f"{at}, run {position}"
            entry = mapping(entry, here, {"notebook", "parameters", "grid"}, needed={"notebook"})
            name = entry["notebook"]
            if not isinstance(name, str) or name not in known:
                near = difflib.get_close_matches(reprlib.repr(name), list(known), n=3, cutoff=0.4)
                raise SuiteError(
                    f"{here}: no notebook {reprlib.repr(name)} in {notebooks}{did_you_mean(near)}"
                )
            used.add(name)
            for own in expand(entry, here):
                parameters = with_values(known[name], defaults, own, overrides, f"{here} ({name})")
                if "out" in parameters:
                    parameters["out"] = relative(folder, notebooks)
                for key in PATH_PARAMETERS:
                    if key in parameters:
                        base = Path() if key in overrides else notebooks.parent
                        parameters[key] = own_path(parameters[key], base, notebooks)
                told = {k: v for k, v in {**own, **overrides}.items() if k in known[name] and k in own}
                label = " ".join([name, *(f"{k}={parameters[k]}" for k in told)])
                alone = parameters.get("clock", "none") != "none"
                runs.append(
                    Planned(
                        name,
                        notebooks / f"{name}.ipynb",
                        parameters,
                        label,
                        number - 1,
                        bool(stage.get("required")),
                        alone,
                        frozenset(entry.get("parameters") or {}) | frozenset(overrides),
                    )
                )
    here_known = {name: known[name] for name in used}
    check_known(defaults, here_known, f"{where}: defaults")
    check_known(overrides, here_known, "-p")
    return Suite(suite["name"], folder, notebooks, without_duplicates(runs, where, overrides))


def check_inside(out: str, where: str) -> None:
    """SuiteError unless a folder that a suite names itself lies in the project: only who starts it says where else results go."""
    lexical = os.path.normpath(out)  # a link that somebody made inside the project may lead anywhere
    absolute = Path(out).is_absolute() or PureWindowsPath(out).drive or out.startswith(("/", "\\", "~"))
    if absolute or lexical.split(os.sep)[0] == "..":
        raise SuiteError(
            f"{where}: out: expected a folder in the project, such as results/mine, but got {out!r}: name it with --out instead"
        )


def notebooks_folder(path: Path) -> Path:
    """The nearest folder with notebooks, at or above a suite's file."""
    for folder in list(path.resolve().parents)[:3]:
        if any(folder.glob("*.ipynb")):
            return folder
    raise SuiteError(f"{path}: expected notebooks beside it or in the folder above, but there are none")


def mapping(
    value: Any, where: str, allowed: set[str] | None = None, needed: Sequence[str] | set[str] = ()
) -> dict:
    """The value, or SuiteError unless it is a mapping of words with only allowed and all needed keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise SuiteError(f"{where}: expected `name: value` lines, but got {reprlib.repr(value)}")
    for key in value:
        if allowed is not None and key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=2, cutoff=0.5)
            raise SuiteError(f"{where}: unknown key {key!r}{did_you_mean(near, allowed)}")
    for key in needed:
        if key not in value:
            raise SuiteError(f"{where}: {key} is missing")
    return value


def sequence(value: Any, where: str) -> list:
    """The value, or SuiteError unless it is a list with something in it."""
    if not isinstance(value, list) or not value:
        raise SuiteError(f"{where}: expected a list with at least one entry, but got {reprlib.repr(value)}")
    return value


def did_you_mean(near: Sequence[str], known: Collection[str] = ()) -> str:
    """The end of a message: the close matches, or all that is known where nothing is close."""
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def expand(entry: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """The parameter sets of one entry: its ``parameters`` with every combination of its ``grid``."""
    fixed = mapping(entry.get("parameters") or {}, f"{where}: parameters")
    grid = mapping(entry.get("grid") or {}, f"{where}: grid")
    for name, values in grid.items():
        sequence(values, f"{where}: grid: {name}")
        if name in fixed:
            raise SuiteError(f"{where}: {name} stands in parameters and in grid; keep one")
    if math.prod(map(len, grid.values())) > MOST_RUNS:
        raise SuiteError(f"{where}: grid: expected at most {MOST_RUNS:,} combinations; take some values out")
    for combination in itertools.product(*grid.values()):
        yield {**fixed, **dict(zip(grid, combination, strict=True))}


def with_values(
    known: Mapping[str, Any],
    defaults: Mapping[str, Any],
    own: Mapping[str, Any],
    overrides: Mapping[str, str],
    where: str,
) -> dict[str, Any]:
    """A notebook's parameters with the suite's defaults, the run's own values and the overrides put in, in that order."""
    check_known(own, {where: known}, where)
    values = dict(known)
    for name in known:
        if name in defaults:
            values[name] = of_type(defaults[name], known[name], f"{where}: defaults: {name}")
        if name in own:
            values[name] = of_type(own[name], known[name], f"{where}: {name}")
        if name in overrides:
            values[name] = of_type(
                from_text(overrides[name], known[name]), known[name], f"-p {name}, for {where}"
            )
    return values


def check_known(given: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """SuiteError for a parameter that no notebook of ``known`` has, with the close matches."""
    names = sorted({name for parameters in known.values() for name in parameters})
    for name in given:
        if name == "out":
            raise SuiteError(f"{where}: out is set for the whole suite: `out:` in its file, or --out")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            raise SuiteError(f"{where}: unknown parameter {name!r}{did_you_mean(near, names)}")


def from_text(text: str, default: Any) -> Any:
    """A value typed on a command line: as it stands for a text parameter, else YAML; "a,b" is a list where one belongs."""
    if isinstance(default, str):
        return text
    try:
        value = safe_yaml.load(text)
    except Exception as error:
        raise SuiteError(f"-p: {text!r} could not be read as YAML: {error}") from error
    if isinstance(default, list) and not isinstance(value, list):
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]
    return value


def of_type(value: Any, default: Any, where: str) -> Any:
    """The value in the type of the notebook's literal, or SuiteError. A whole number is a float where one is expected."""
    if isinstance(default, float) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-4 as a word.
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            value = float(value)
    fits = default is None or type(value) is type(default)
    if fits and all(map(can_be_noted, value if isinstance(value, list) else [value])):
        return value
    raise SuiteError(
        f"{where}: expected {type(default).__name__} (like {default!r}), but got {reprlib.repr(value)}"
    )


def can_be_noted(value: Any) -> bool:
    """Whether a row can hold a value among its parameters: a text, a finite number, yes or no."""
    if isinstance(value, str):
        return not re.search("[\0\ud800-\udfff]", value)
    return (
        value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    )


def relative(path: Path, start: Path) -> str:
    """The path as seen from the notebooks: rows and notebooks then read the same wherever the project lies."""
    try:
        return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()


def own_path(value: Any, base: Path, notebooks: Path) -> Any:
    """A file or folder as seen from the notebooks; a name stays a name."""
    with contextlib.suppress(OSError):  # too long for a path: left to the task's own error
        if isinstance(value, str) and value and (base / value).exists():
            looks_like_path = "/" in value or os.sep in value or "." in value
            if looks_like_path or (base / value).is_file():
                return relative(base / value, notebooks)
    return value


def without_duplicates(runs: list[Planned], where: str, overrides: Mapping[str, str]) -> list[Planned]:
    """Each run once. Equal runs are an error, except where an override made them equal."""
    unique: dict[str, Planned] = {}
    for run in runs:
        identity = results.canonical_json([run.notebook, run.parameters])
        if identity in unique and not overrides:
            raise SuiteError(
                f"{where}: {run.label} stands twice (stages {unique[identity].stage + 1} and {run.stage + 1})"
            )
        unique.setdefault(identity, run)
    return list(unique.values())


def with_keys(suite: Suite, say: Callable[[str], None]) -> Suite:
    """The suite with the key of every run and the fingerprint of its data; loads each task once, so that what has to be built is built
    before the start, and checks what can be checked of every run."""
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
        suite_checks.check(run.notebook, run.parameters, run.label, suite.notebooks, task, checked)
        device = results.device_name(str(run.parameters.get("device", "auto")))
        key = results.run_key(run.notebook, run.parameters, identity, device, suite.notebooks)
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
    """What names a task among a run's parameters; one that is empty is as one that is missing, as rows of older notebooks have it."""
    return results.canonical_json([parameters.get(name) or None for name in results.TASK_PARAMETERS])


def refuse_changed_data(out: Path, fingerprints: Mapping[str, str]) -> None:
    """SuiteError where the folder holds rows of the same task parameters on other data: it changed underneath, and rows of both would be
    compared with each other."""
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
        task = results.load_run_task(parameters, say)
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        say(f"note: {line}")
    say(
        f"task {task.name}: {len(task.train)} + {len(task.dev)} + {len(task.test)} examples to train, tune and test on"
    )
    return task


# What is finished


def executed(out: Path, key: str) -> Path:
    """The executed notebook of a finished run."""
    return out / "notebooks" / f"{key}.ipynb"


def read_notebook(path: Path) -> dict[str, Any] | None:
    """The notebook's JSON, or None where there is none or it is damaged."""
    try:
        notebook = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return notebook if isinstance(notebook, dict) else None


def record(out: Path, key: str) -> dict[str, Any] | None:
    """What was noted in the executed notebook when its run finished (created, seconds, rows, inputs); None if it did not."""
    notebook = read_notebook(executed(out, key))
    noted = (notebook or {}).get("metadata", {}).get("dipair")
    return noted if isinstance(noted, dict) else None


def is_finished(out: Path, key: str, inputs: Mapping[str, str]) -> bool:
    """Whether the run's notebook is in place, its rows and logits load, and it was made from these inputs."""
    noted = record(out, key)
    if noted is None or noted.get("inputs") != inputs:
        return False
    try:
        for run_id in noted["rows"]:
            results.load_result(out, run_id)
            results.load_logits(out, run_id)
    except (results.ResultError, KeyError, TypeError):
        return False
    return True


def input_runs(run: Planned, suite: Suite) -> list[Planned]:
    """The runs that this one reads: the required ones of earlier stages, and all before it where it measures or comes last."""
    if run.alone:
        return [r for r in suite.runs if r.stage < run.stage or (r.stage == run.stage and not r.alone)]
    last = run.stage == suite.runs[-1].stage
    return [r for r in suite.runs if r.stage < run.stage and (r.required or last)]


def input_state(run: Planned, suite: Suite) -> dict[str, str]:
    """Key of each finished input to when it was made."""
    noted = {other.key: record(suite.out, other.key) for other in input_runs(run, suite)}
    return {key: values["created"] for key, values in noted.items() if values}


# Running


class Process(Protocol):
    """A run's process, here or on a cluster."""

    @property
    def returncode(self) -> int | Any | None: ...
    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self) -> int | None: ...


@dataclass
class Active:
    """A run whose process lives."""

    run: Planned
    process: Process
    started: float
    folder: Path
    threads: int
    inputs: dict[str, str]
    attempt: int = 1

    @property
    def output(self) -> Path:
        return self.folder / f"{self.run.key}.ipynb"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def doing(self) -> tuple[str, float | None]:
        """What the library says it is doing, and how many seconds of that are left if it knows."""
        try:
            state = json.loads((self.folder / "progress.json").read_text(encoding="utf8"))
            share = f" {100 * state['done'] / state['total']:.0f} %" if state.get("total") else ""
            return f"{state['what']}{share}", state.get("eta_s")
        except (OSError, ValueError, KeyError, TypeError):
            return "starting", None


def die_with_parent() -> None:
    """In a child, on Linux: be killed when the suite is, even by kill -9. Its kernel notices the same way and ends itself."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 = PR_SET_PDEATHSIG


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start(
    run: Planned, suite: Suite, threads: int, scratch: Path, attempt: int = 1, cluster: Cluster | None = None
) -> Active:
    """Start papermill on one run in a process (group) of its own, here or somewhere on a cluster."""
    folder = Path(tempfile.mkdtemp(prefix=f"{run.key}-", dir=scratch))
    defaults = results.notebook_parameters(run.path)
    changed = {name: value for name, value in run.parameters.items() if value != defaults[name]}
    (folder / "parameters.yaml").write_text(yaml.safe_dump(changed, allow_unicode=True), encoding="utf8")
    inputs = input_state(run, suite)
    library = str(Path(__file__).parents[1])
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")])),
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DIPAIR_RUN": run.key,
        "DIPAIR_SUITE": suite.name,
        "DIPAIR_INPUTS": " ".join(inputs),
        "DIPAIR_PROGRESS": str(folder / "progress.json"),
        "DIPAIR_THREADS": str(threads),
        "JUPYTER_PATH": os.pathsep.join(
            filter(None, [str(folder / "jupyter"), os.environ.get("JUPYTER_PATH")])
        ),
    }
    if threads < cores() or cluster:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(threads)
    use_this_python(folder / "jupyter")
    command = [sys.executable, "-m", "papermill", str(run.path.resolve()), str(folder / f"{run.key}.ipynb")]
    command += [
        "-f",
        str(folder / "parameters.yaml"),
        "--cwd",
        str(suite.notebooks.resolve()),
        "-k",
        "python3",
    ]
    command += ["--no-progress-bar", "--no-request-save-on-cell-execute", "--autosave-cell-every", "0"]
    process: Process
    if cluster:
        process = cluster.start(command, environment, folder / "log.txt", threads)
    else:
        with open(folder / "log.txt", "wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )
    return Active(run, process, time.monotonic(), folder, threads, inputs, attempt)


def use_this_python(folder: Path) -> None:
    """Write the kernel ``python3`` that this interpreter is, in a folder that X    this name may be any Python."""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    path = folder / "kernels" / "python3" / "kernel.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))


def stop(active: Sequence[Active]) -> None:
    """End processes and their kernels: ask, wait five seconds, then kill."""

    def send(one: Active, name: str) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if isinstance(one.process, subprocess.Popen) and hasattr(os, "killpg"):
                os.killpg(one.process.pid, getattr(signal, name))
            elif name == "SIGTERM":
                one.process.terminate()
            else:
                one.process.kill()

    for one in active:
        send(one, "SIGTERM")
    until = time.monotonic() + 5
    while time.monotonic() < until and any(one.process.poll() is None for one in active):
        time.sleep(0.1)
    for one in active:
        if one.process.poll() is None:
            send(one, "SIGKILL")
            one.process.wait()


def finish(one: Active, out: Path) -> str:
    """Put a run's executed notebook in place. Returns its error in one line, empty if it succeeded."""
    run = one.run
    notebook = read_notebook(one.output)
    error = ""
    if one.process.returncode != 0 or notebook is None:
        error = error_line(notebook, one.log, one.process.returncode or 0)
    rows = sorted(path.name for path in (out / "rows").glob(f"{run.key}.*") if (path / "row.json").exists())
    try:
        if not error:
            for run_id in rows:
                results.load_result(out, run_id)
                results.load_logits(out, run_id)
        if notebook is not None:
            metadata = notebook.setdefault("metadata", {})
            metadata.setdefault("papermill", {}).update(input_path=run.path.name, output_path=one.output.name)
            if not error:
                metadata["dipair"] = {
                    "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "seconds": round(time.monotonic() - one.started, 1),
                    "inputs": one.inputs,
                    "rows": rows,
                }
            target = out / "notebooks" / f"{run.key}.failed.ipynb" if error else executed(out, run.key)
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            results.write_atomic(target, text.encode("utf8"))
    except results.ResultError as problem:
        error = error or str(problem)
    return error


def error_line(notebook: Mapping[str, Any] | None, log: Path, status: int = 1) -> str:
    """The exception that ended a run, in one line: from the notebook's outputs, else who was killed, else the last line papermill wrote."""
    for cell in (notebook or {}).get("cells", []):
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                text = f"{output.get('ename')}: {output.get('evalue')}"
                return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    lines = log.read_text(encoding="utf8", errors="replace").strip().splitlines() if log.exists() else []
    if status == KERNEL_KILLED or "DeadKernelError" in (lines[-1] if lines else ""):
        return f"its kernel was killed from outside, {LIKELY}"
    if status < 0 or not lines:
        by = f" by signal {-status}" if status < 0 else ""
        return f"it was killed{by} from outside, {LIKELY}"
    return lines[-1].strip()


class Seen(NamedTuple):
    """A finished run: how long it took with these parameters, defaults included."""

    notebook: str
    parameters: Mapping[str, Any]
    seconds: float


class Display:
    """What the person who waits sees: one line drawn again and again on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, stream: TextIO, seen: Sequence[Seen] = ()) -> None:
        self.total = total
        self.stream = stream
        self.live = stream.isatty()
        self.seen = list(seen)
        self.began = time.monotonic()
        self.drawn = 0.0

    def line(self, text: str) -> None:
        """Print a line that stays."""
        text = results.printable(text)
        self.stream.write(f"\r\x1b[K{text}\n" if self.live else f"{text}\n")
        self.stream.flush()

    def draw(self, active: Sequence[Active], waiting: Sequence[Planned], done: int) -> None:
        """Draw the state anew: every second on a terminal, every 30 s elsewhere."""
        now = time.monotonic()
        if now - self.drawn < (1 if self.live else 30):
            return
        self.drawn = now
        doing = [f"{one.run.label}: {one.doing()[0]}" for one in active]
        left = self.left(active, waiting)
        clock = f"{minutes(now - self.began)}{f', about {minutes(left)} left' if left is not None else ''}"
        text = f"[{done}/{self.total}] {clock} | {' | '.join(doing)}"
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\x1b[K{' '.join(results.printable(text[:width]).split())}")
            self.stream.flush()
        else:
            self.line(text)

    def left(self, active: Sequence[Active], waiting: Sequence[Planned]) -> float | None:
        """Seconds until the end, from how long runs of like parameters took; None while most notebooks that wait were never seen."""
        runs = [*(one.run for one in active), *waiting]
        known = {run.key: took for run in runs if (took := self.usual(run)) is not None}
        if not known or len(known) < len(runs) / 2:
            return None
        other = sum(known.values()) / len(known)
        now, running = time.monotonic(), 0.0
        for one in active:
            rest = one.doing()[1] or 0.0
            running = max(running, rest, known.get(one.run.key, other) - (now - one.started))
        alone = sum(known.get(run.key, other) for run in waiting if run.alone)
        beside = sum(known.get(run.key, other) for run in waiting if not run.alone)
        return running + alone + beside / max(1, len(active))

    def usual(self, run: Planned) -> float | None:
        """Seconds that runs of this notebook took, those whose parameters are most like its own; None if none was seen."""
        differ = [
            (sum(run.parameters.get(name) != value for name, value in parameters.items()), seconds)
            for notebook, parameters, seconds in self.seen
            if notebook == run.notebook
        ]
        like = [seconds for number, seconds in differ if number == min(differ)[0]]
        return sum(like) / len(like) if like else None


def minutes(seconds: float) -> str:
    """Seconds as people read them: 48 s, 3:05 min."""
    whole = round(max(0.0, seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02d} min"


def runs_so_far(suite: Suite) -> list[Seen]:
    """The finished runs in the suite's folder, of notebooks that it runs."""
    defaults = {run.notebook: results.notebook_parameters(run.path) for run in suite.runs}
    seen = []
    for path in (suite.out / "notebooks").glob("*.ipynb"):
        name, noted = path.stem.rpartition("-")[0], record(suite.out, path.stem)
        if name in defaults and noted and isinstance(noted.get("seconds"), int | float):
            given = (read_notebook(path) or {})["metadata"].get("papermill", {}).get("parameters", {})
            seen.append(Seen(name, {**defaults[name], **given}, noted["seconds"]))
    return seen


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold the folder: a second suite on it is refused. The system lets go of the lock however this process ends."""
    lock, pid = filelock.FileLock(out / ".lock"), out / ".pid"
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except OSError as error:
        if isinstance(error, filelock.Timeout):
            holder = pid.read_text(encoding="utf8").strip() if pid.exists() else "unknown"
            said = f"another suite (process {holder}) is running in this folder; wait for it or use --out"
        else:
            said = f"cannot be written ({error.strerror or error}): name another folder with --out"
        raise SuiteError(f"{out}: {said}") from error
    try:
        results.write_atomic(pid, f"{os.getpid()}\n".encode())
        yield
    finally:
        pid.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """A polite kill or a closed terminal ends a suite as Ctrl-C does; what was ignored when it started (``nohup``) stays so."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heard = [name for name in names if signal.getsignal(name) is not signal.SIG_IGN]
    before = {name: signal.signal(name, interrupt) for name in heard}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def run_suite(
    path: Path | str,
    overrides: Mapping[str, str] | None = None,
    *,
    jobs: int = 1,
    out: Path | str | None = None,
    fresh: bool = False,
    ray: str | None = None,
    notebooks_dir: Path | str | None = None,
    stream: TextIO | None = None,
) -> int:
    """Run what is not finished of a suite, then write rows.jsonl and report.html.

    Args:
        path, overrides, out, notebooks_dir: as in `read_suite`.
        jobs: runs side by side; each gets its share of the processors. Runs that measure time are always alone.
        fresh: begin anew; what the folder holds from earlier runs is moved beside it, and removed once there is a new row.
        ray: spread the runs over Ray: "" on this machine, or a cluster's address. What measures time stays here, alone.
        stream: where progress is shown; default standard error.

    Returns:
        Exit status: 0, 1 if a run or the report failed, 130 after Ctrl-C.

    Raises:
        SuiteError, ResultError, TaskError: before anything was started.
    """
    stream = stream or sys.stderr
    if jobs < 1:
        raise SuiteError(f"--jobs: expected 1 or more, but got {jobs}")
    suite = read_suite(path, overrides, out, notebooks_dir)
    results_folder.check(suite.out, fresh)
    display = Display(len(suite.runs), stream, runs_so_far(suite))
    suite = with_keys(suite, display.line)
    with only_one(suite.out):
        results_folder.mark_ours(suite.out)
        if not fresh:
            refuse_changed_data(suite.out, suite.fingerprints)
        elif aside := results_folder.set_aside(suite.out):
            display.line(f"moved    the earlier results to {aside}: removed once there is a new row")
        for name in ("rows", "notebooks"):
            (suite.out / name).mkdir(exist_ok=True)
        for half in (*suite.out.glob(".*.tmp"), *(suite.out / "notebooks").glob(".*.tmp")):
            half.unlink()  # by a suite that was killed while it wrote
        for scratch in suite.out.glob(".dipair-*"):
            shutil.rmtree(scratch)
        states: dict[str, str] = {}
        errors: dict[str, str] = {}
        try:
            with signals_as_interrupt(), clustered(ray) as cluster:
                run_stages(suite, jobs, display, states, errors, cluster)
        except KeyboardInterrupt:
            done = sum(state in {FINISHED, KEPT} for state in states.values())
            display.line(
                f"Stopped. {done} of {len(suite.runs)} runs are finished and kept: the same command goes on from there"
                + (" (without --fresh)." if fresh else ".")
            )
            tell_aside(suite, display)
            return 130
        report_error = conclude(suite, display)
        tell(suite, display, states, errors)
        tell_aside(suite, display)
        return 1 if errors or report_error else 0


@contextlib.contextmanager
def clustered(ray: str | None) -> Iterator[Cluster | None]:
    """A cluster to run on, None for this machine's own processes."""
    if ray is None:
        yield None
        return
    from . import on_ray

    with on_ray.joined(ray) as joined:
        yield on_ray.Cluster(joined)


def run_stages(
    suite: Suite,
    jobs: int,
    display: Display,
    states: dict[str, str],
    errors: dict[str, str],
    cluster: Cluster | None = None,
) -> None:
    """Run the stages one after the other, filling state and error by key; in each, what measures time comes last and alone."""
    for stage in sorted({run.stage for run in suite.runs}):
        runs = [run for run in suite.runs if run.stage == stage]
        later = [run for run in suite.runs if run.stage > stage]
        for batch in ([run for run in runs if not run.alone], *([run] for run in runs if run.alone)):
            waiting = []
            for run in batch:
                if is_finished(suite.out, run.key, input_state(run, suite)):
                    states[run.key] = KEPT
                    display.line(f"kept     {run.label}")
                    take_place(suite.out, run.key, display)
                else:
                    waiting.append(run)
            where = None if batch and batch[0].alone else cluster
            run_batch(suite, waiting, min(jobs, len(waiting)), later, display, states, errors, where)
        if any(run.required and run.key in errors for run in runs):
            states.update({run.key: NOT_RUN for run in later})
            return


def run_batch(
    suite: Suite,
    runs: Sequence[Planned],
    jobs: int,
    later: Sequence[Planned],
    display: Display,
    states: dict[str, str],
    errors: dict[str, str],
    cluster: Cluster | None = None,
) -> None:
    """Run these, ``jobs`` at a time; a failed one does not stop the others. Whatever ends this, its processes end too."""
    waiting = list(runs)
    active: list[Active] = []
    threads = cluster.threads(max(1, jobs)) if cluster else max(1, cores() // max(1, jobs))
    folder = suite.out.resolve() if cluster else None  # which every machine sees
    with tempfile.TemporaryDirectory(prefix=".dipair-", dir=folder, ignore_cleanup_errors=True) as scratch:
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    run = waiting.pop(0)
                    results_folder.make_way(suite.out, run.key, record(suite.out, run.key) is not None)
                    active.append(start(run, suite, threads, Path(scratch), cluster=cluster))
                    if not display.live:
                        display.line(f"start    {run.label}")
                for one in [one for one in active if one.process.poll() is not None]:
                    active.remove(one)
                    log = one.log.read_text(encoding="utf8", errors="replace")
                    if one.process.returncode and one.attempt < STARTS and KERNEL_DID_NOT_START.search(log):
                        again = start(one.run, suite, threads, Path(scratch), one.attempt + 1, cluster)
                        active.append(again)
                        continue
                    error = finish(one, suite.out)
                    states[one.run.key] = FAILED if error else FINISHED
                    took = time.monotonic() - one.started
                    if one.run.left_out(error):
                        states[one.run.key] = LEFT_OUT
                        display.line(f"left out {one.run.label}: {error}")
                    elif error:
                        errors[one.run.key] = error
                        display.line(f"FAILED   {one.run.label} ({minutes(took)}): {error}")
                        if (kept := results_folder.replaced(suite.out, one.run.key)).exists():
                            display.line(f"         what it was to replace is kept in {kept}")
                    else:
                        display.seen.append(Seen(one.run.notebook, one.run.parameters, took))
                        display.line(f"finished {one.run.label} ({minutes(took)})")
                        take_place(suite.out, one.run.key, display)
                display.draw(active, [*waiting, *later], len(states))
                time.sleep(0.1)
        finally:
            stop(active)


def take_place(out: Path, key: str, display: Display) -> None:
    """Now that a run is finished, remove what it has replaced; with the first that has rows, also what --fresh had set aside."""
    results_folder.drop_replaced(out, key)
    if (record(out, key) or {}).get("rows"):
        for gone in results_folder.drop_aside(out):
            display.line(f"removed  {gone}, the results from before --fresh")


def tell_aside(suite: Suite, display: Display) -> None:
    """Say at the end where earlier results still are, where --fresh moved them and no run has a row yet."""
    for aside in results_folder.aside_of(suite.out):
        display.line(f"note: there is no new row yet: the results from before --fresh are still in {aside}")


def conclude(suite: Suite, display: Display) -> str:
    """Write rows.jsonl and report.html from what there is. Returns the error in one line, empty if all went well."""
    if not any((suite.out / "rows").glob("*/row.json")):
        return ""
    try:
        rows = results.load_results(suite.out, damaged="warn")
        results.write_rows(suite.out)
        keys = {run.key for run in suite.runs}
        others = sorted({row.run_id.split(".")[0] for row in rows} - keys)
        if others:
            display.line(
                f"note: {suite.out} also holds rows of {len(others)} runs that are not in this suite as it is now "
                f"({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}); --fresh would begin without them"
            )
        from dipair_lib import report, tradeoff

        for said in tradeoff.failed_in(suite.out):
            display.line(f"teacher  {said}")
        display.line(f"report   {report.write(suite.out)}")
    except (
        Exception
    ) as error:  # rows took hours and a report takes seconds: whatever ails it must not lose them
        line = f"{type(error).__name__}: {error}"
        display.line(
            f"FAILED   the report: {line}\n         The rows are kept; try again with: dipair report {suite.out}"
        )
        return line
    return ""


def tell(suite: Suite, display: Display, states: Mapping[str, str], errors: Mapping[str, str]) -> None:
    """Say at the end what happened, each failed run with its notebook."""
    counts = {
        name: sum(state == name for state in states.values())
        for name in (FINISHED, KEPT, LEFT_OUT, FAILED, NOT_RUN)
    }
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    display.line(f"{suite.name}: {told}, in {minutes(time.monotonic() - display.began)}")
    for run in suite.runs:
        if run.key in errors:
            notebook = suite.out / "notebooks" / f"{run.key}.failed.ipynb"
            display.line(
                f"failed: {run.label}\n  {errors[run.key]}\n  {notebook if notebook.exists() else run.path}"
            )
