"""What the person who waits for a suite sees, and how long it will still take."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from dipair_lib.runner import notebook_files
from dipair_lib.runner.suite_file import Planned, Suite
from dipair_lib.runner.suite_runs import Active, read_notebook, record
from dipair_lib.system import disk


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
        text = disk.printable(text)
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
            self.stream.write(f"\r\x1b[K{' '.join(disk.printable(text[:width]).split())}")
            self.stream.flush()
        else:
            self.line(text)

    def left(self, active: Sequence[Active], waiting: Sequence[Planned]) -> float | None:
        """Seconds until the end, from how long runs of like parameters took; None while most notebooks that
        wait were never seen.
        """
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
        """Seconds that runs of this notebook took, those whose parameters are most like its own; None if none
        was seen.
        """
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
    defaults = {run.notebook: notebook_files.notebook_parameters(run.path) for run in suite.runs}
    seen = []
    for path in (suite.out / "notebooks").glob("*.ipynb"):
        name, noted = path.stem.rpartition("-")[0], record(suite.out, path.stem)
        if name in defaults and noted and isinstance(noted.get("seconds"), int | float):
            given = (read_notebook(path) or {})["metadata"].get("papermill", {}).get("parameters", {})
            seen.append(Seen(name, {**defaults[name], **given}, noted["seconds"]))
    return seen
