"""One run of a suite: whether it is finished, and its process, from the start until its executed notebook is
in place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from dipair_lib.evaluation import results
from dipair_lib.runner import notebook_files
from dipair_lib.runner.suite_file import Planned, Suite
from dipair_lib.system import disk, machine

if TYPE_CHECKING:
    from dipair_lib.scoring.on_ray import Cluster

KERNEL_KILLED = 138  # what papermill ends with then
LIKELY = "most likely because memory ran out: fewer --jobs, or a smaller batch_size or model, need less"


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
    """What was noted in the executed notebook when its run finished (created, seconds, rows, inputs); None if
    it did not.
    """
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
    except (disk.ResultError, KeyError, TypeError):
        return False
    return True


def input_runs(run: Planned, suite: Suite) -> list[Planned]:
    """The runs that this one reads: the required ones of earlier stages, and all before it where it measures
    or comes last.
    """
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


def start(
    run: Planned, suite: Suite, threads: int, scratch: Path, attempt: int = 1, cluster: Cluster | None = None
) -> Active:
    """Start papermill on one run in a process (group) of its own, here or somewhere on a cluster."""
    folder = Path(tempfile.mkdtemp(prefix=f"{run.key}-", dir=scratch))
    defaults = notebook_files.notebook_parameters(run.path)
    changed = {name: value for name, value in run.parameters.items() if value != defaults[name]}
    (folder / "parameters.yaml").write_text(yaml.safe_dump(changed, allow_unicode=True), encoding="utf8")
    inputs = input_state(run, suite)
    library = str(Path(__file__).parents[2])
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
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),  # a home may not be writable
        "JUPYTER_PATH": os.pathsep.join(
            filter(None, [str(folder / "jupyter"), os.environ.get("JUPYTER_PATH")])
        ),
    }
    if threads < (os.cpu_count() or 1) or cluster:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(threads)
    use_this_python(folder / "jupyter")
    # papermill fills in what stands in braces.
    paths = [
        str(p).replace("{", "{{").replace("}", "}}")
        for p in (run.path.resolve(), folder / f"{run.key}.ipynb")
    ]
    command = [sys.executable, "-m", "papermill", *paths]
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
                preexec_fn=machine.die_with_parent if sys.platform == "linux" else None,
            )
    return Active(run, process, time.monotonic(), folder, threads, inputs, attempt)


def use_this_python(folder: Path) -> None:
    """Write the kernel ``python3`` that this interpreter is, in a folder that Jupyter looks into first: what
    a machine has under this name may be any Python.
    """
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
            disk.write_atomic(target, text.encode("utf8"))
    except disk.ResultError as problem:
        error = error or str(problem)
    return error


def error_line(notebook: Mapping[str, Any] | None, log: Path, status: int = 1) -> str:
    """The exception that ended a run, in one line: from the notebook's outputs, else who was killed, else the
    last line papermill wrote.
    """
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
