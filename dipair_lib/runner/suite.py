"""Run many notebooks from one YAML file, resume what was interrupted, and leave rows, executed notebooks and
a report.

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

Everything in it is checked before a kernel starts, unknown parameters included (papermill would only warn).
Each run is a process of its own. A grid (or a notebook's default) may hold values that a task's texts do not
allow, such as more kept tokens than they have: such a run is left out and named, and is no failure; a value
that was asked for alone is one. A notebook whose parameter ``clock`` is not "none" measures time, so it runs
alone; it and the last stage depend on all earlier runs. A run is finished when its executed notebook is in
place and its rows load; started again, a suite does only what is not finished, or what depends on something
that was done anew.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import filelock

from dipair_lib.evaluation import results, results_folder
from dipair_lib.runner.suite_checks import refuse_changed_data, with_keys
from dipair_lib.runner.suite_display import Display, Seen, minutes, runs_so_far
from dipair_lib.runner.suite_file import Planned, Suite, SuiteError, read_suite
from dipair_lib.runner.suite_runs import Active, finish, input_state, is_finished, record, start, stop
from dipair_lib.system import disk, machine

if TYPE_CHECKING:
    from dipair_lib.scoring.on_ray import Cluster

__all__ = ["SuiteError", "read_suite", "run_suite", "with_keys"]
STARTS = 3  # kernels started together can race for a port: that many attempts
KERNEL_DID_NOT_START = re.compile(r"Address already in use|Kernel died before replying|Kernel didn't respond")
FINISHED, FAILED, KEPT, LEFT_OUT, NOT_RUN = "finished", "failed", "kept", "left out", "not run"


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold the folder: a second suite on it is refused. The system lets go of the lock however this process
    ends.
    """
    lock, pid = machine.lock(out / ".lock"), out / ".pid"
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
        disk.write_atomic(pid, f"{os.getpid()}\n".encode())
        yield
    finally:
        pid.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """A polite kill or a closed terminal ends a suite as Ctrl-C does; what was ignored when it started
    (``nohup``) stays so.
    """

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
        jobs: runs side by side; each gets its share of the processors. Runs that measure time are always
            alone.
        fresh: begin anew; what the folder holds from earlier runs is moved beside it, and removed once there
            is a new row.
        ray: spread the runs over Ray: "" on this machine, or a cluster's address. What measures time stays
            here, alone.
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
        report_error = write_outputs(suite, display)
        print_summary(suite, display, states, errors)
        tell_aside(suite, display)
        return 1 if errors or report_error else 0


@contextlib.contextmanager
def clustered(ray: str | None) -> Iterator[Cluster | None]:
    """A cluster to run on, None for this machine's own processes."""
    if ray is None:
        yield None
        return
    from dipair_lib.scoring import on_ray

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
    """Run the stages one after the other, filling state and error by key; in each, what measures time comes
    last and alone.
    """
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
    """Run these, ``jobs`` at a time; a failed one does not stop the others. Whatever ends this, its processes
    end too.
    """
    waiting = list(runs)
    active: list[Active] = []
    threads = cluster.threads(max(1, jobs)) if cluster else max(1, machine.cores() // max(1, jobs))
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
    """Now that a run is finished, remove what it has replaced; with the first that has rows, also what
    --fresh had set aside.
    """
    results_folder.drop_replaced(out, key)
    if (record(out, key) or {}).get("rows"):
        for gone in results_folder.drop_aside(out):
            display.line(f"removed  {gone}, the results from before --fresh")


def tell_aside(suite: Suite, display: Display) -> None:
    """Say at the end where earlier results still are, where --fresh moved them and no run has a row yet."""
    for aside in results_folder.aside_of(suite.out):
        display.line(f"note: there is no new row yet: the results from before --fresh are still in {aside}")


def write_outputs(suite: Suite, display: Display) -> str:
    """Write rows.jsonl and report.html from what there is. Returns the error in one line, empty if all went
    well.
    """
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
        from dipair_lib.reporting import guard, report

        for said in guard.failed_in(suite.out):
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


def print_summary(
    suite: Suite, display: Display, states: Mapping[str, str], errors: Mapping[str, str]
) -> None:
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
