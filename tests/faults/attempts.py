"""One attempt at a command: in a process forked from this one, or in a new one; ended by a signal or left alone."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipair_lib.reporting import report
from dipair_lib.runner import suite_runs
from dipair_lib.system import disk, machine

report_write = report.write  # what `dipair report` does
LIMIT_S = 300.0  # of an attempt that nothing ends: it hangs
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
INTERRUPTED = 130  # what a command that was asked to end gives back
CLI = "import sys; from faults.world import make_small; make_small(); from dipair_lib import cli; sys.exit(cli.main(sys.argv[1:]))"


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: its exit status (minus the signal that killed it), what it said, the seconds it took, the signal sent."""

    status: int
    said: str
    took: float
    sent: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether the signal that was sent ended it."""
        return bool(self.sent) and self.status in {-getattr(signal, self.sent), INTERRUPTED}

    @property
    def in_words(self) -> bool:
        """Whether a person got an answer in place of a traceback."""
        return bool(self.said.strip()) and "Traceback" not in self.said

    @property
    def last(self) -> str:
        """The last lines it said."""
        lines = [line.strip() for line in self.said.strip().splitlines() if line.strip()]
        return f"exit {self.status}: {' | '.join(lines[-3:])[-400:] or 'nothing said'}"


def adopt_orphans() -> None:
    """Processes whose parent was killed become this one's, so that it can wait for their end, as a person does who starts again."""
    ctypes.CDLL(None).prctl(36, 1)  # 36 = PR_SET_CHILD_SUBREAPER


class Attempt:
    """A process under way.

    Args:
        work: what it does; gives its exit status. Forked from this process.
        command: or a command line for a new one.
    """

    def __init__(
        self,
        work: Callable[[], int] | None = None,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.begun, self.sent = time.monotonic(), ""
        self.status: int | None = None
        if work is None:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
            self.pid = process.pid
            process.returncode = 0  # waited for below
            return
        sys.stdout.flush()
        late = {getattr(signal, name) for name in SIGNALS[1:]}  # while Python itself sees to a fork
        signal.pthread_sigmask(signal.SIG_BLOCK, late)
        self.pid = os.fork()
        if not self.pid:
            forked(work, self.log.fileno())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, late)

    def poll(self, how: int = os.WNOHANG) -> int | None:
        """The exit status, None while it lives."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.status, self.took = os.waitstatus_to_exitcode(status), time.monotonic() - self.begun
        return self.status

    def wait_until(self, seconds: float) -> bool:
        """Whether it ended within so many seconds of its start."""
        while self.poll() is None:
            left = self.begun + seconds - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(0.001, left))
        return True

    def signal(self, name: str) -> None:
        """Send a signal to it."""
        if self.poll() is None:
            self.sent = name
            os.kill(self.pid, getattr(signal, name))

    def end(self, after: float = LIMIT_S, name: str = "") -> Ended:
        """Send the signal after so many seconds, and wait for the end of it and of whatever it started."""
        if not self.wait_until(after) and name:
            self.signal(name)
        if not self.wait_until(after + 60):
            os.kill(self.pid, signal.SIGKILL)
            self.poll(0)
            self.status = 1000  # it hung: nobody's exit status
        reap()
        self.log.seek(0)
        said = self.log.read().decode("utf8", "replace")
        self.log.close()
        return Ended(self.status or 0, said, self.took, self.sent)


def reap() -> None:
    """Wait for orphans that became ours; those of a killed suite are killed with it."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.001)
        except ChildProcessError:
            return
    raise RuntimeError("a process outlives the command that started it by more than 20 seconds")


def forked(work: Callable[[], int], log: int) -> None:
    """In the child: do the work and end, whatever comes."""
    status = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(fd), "w", buffering=1) for fd in (1, 2))
        for name in SIGNALS[1:]:
            signal.signal(
                getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            )
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {getattr(signal, name) for name in SIGNALS[1:]})
        except KeyboardInterrupt:  # before the work begins
            os._exit(INTERRUPTED)
        status = work()
    except BaseException:  # as an interpreter ends
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def attempt(work: Callable[[], int], after: float = LIMIT_S, name: str = "") -> Ended:
    """One attempt in a forked process."""
    return Attempt(work).end(after, name)


def new_process(arguments: Sequence[str], after: float = LIMIT_S, name: str = "") -> Ended:
    """One attempt in a process of its own, as a person types it but with small shards and tiles."""
    tests, root = Path(__file__).parents[1], Path(__file__).parents[2]
    environment = {"PYTHONPATH": os.pathsep.join([str(tests), str(root)]), "OMP_NUM_THREADS": "1"}
    return Attempt(command=[sys.executable, "-c", CLI, *arguments], environment=environment).end(after, name)


# A suite's runs without kernels


class Forked:
    """A run's process, forked from the suite's and killed with it."""

    def __init__(self, work: Callable[[], None], log: Path) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            pass

            os.setsid()
            machine.die_with_parent()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)

            def done() -> int:
                work()
                return 0

            forked(done, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))

    def poll(self, how: int = os.WNOHANG) -> int | None:
        if self.returncode is None and (done := os.waitpid(self.pid, how))[0]:
            self.returncode = os.waitstatus_to_exitcode(done[1])
        return self.returncode

    def wait(self) -> int | None:
        return self.poll(0)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def start(run: Any, made: Any, threads: int, scratch: Path, attempt: int = 1, cluster: Any = None) -> Any:
    """In place of a suite's own: the notebook's cells one after the other in a forked process."""
    from dipair_lib.runner import suite_runs

    folder, inputs = Path(tempfile.mkdtemp(dir=scratch)), suite_runs.input_state(run, made)

    def work() -> None:
        os.environ |= {
            "DIPAIR_RUN": run.key,
            "DIPAIR_SUITE": made.name,
            "DIPAIR_PROGRESS": str(folder / "p.json"),
        }
        os.chdir(made.notebooks)
        content, names = json.loads(run.path.read_text(encoding="utf8")), dict(run.parameters)
        sources = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
        for source in sources[1:]:
            exec(source.replace("%matplotlib inline", ""), names)
        (folder / f"{run.key}.ipynb").write_text(json.dumps(content), encoding="utf8")

    process = Forked(work, folder / "log.txt")
    return suite_runs.Active(run, process, time.monotonic(), folder, threads, inputs, attempt)


def without_kernels() -> None:
    """Suites of this process and those forked from it fork their runs; their report is a file."""
    suite_runs.start = start  # type: ignore[assignment]
    report.write = lambda folder: disk.write_atomic(folder / "report.html", b"page")  # type: ignore


def remove(path: Path) -> None:
    """Take a file or folder away."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
