"""What was tried and what held, as a table."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dipair_lib.evaluation import provenance

ROOT = Path(__file__).parents[2]


@dataclass
class Line:
    """One kind of fault against one command. What was tried is what came about: a signal that came too late does not count."""

    tried: int = 0
    held: int = 0
    remarks: dict[str, int] = field(default_factory=dict)
    skipped: str = ""


@dataclass
class Table:
    """Lines by kind of fault and command.

    Attributes:
        until: when to stop, by ``time.monotonic``. failures: what did not hold, in words.
    """

    until: float
    lines: dict[tuple[str, str], Line] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def line(self, fault: str, command: str) -> Line:
        """The line of a fault and a command."""
        return self.lines.setdefault((fault, command), Line())

    def note(self, fault: str, command: str, wrong: str = "", remark: str = "", count: int = 1) -> None:
        """Count what was tried: held unless something is wrong."""
        line = self.line(fault, command)
        line.tried += count
        line.held += 0 if wrong else count
        if remark:
            line.remarks[remark] = line.remarks.get(remark, 0) + count
        if wrong:
            self.failures.append(f"{fault}, {command}: {wrong}")

    def skip(self, fault: str, command: str, why: str) -> None:
        """Say that something was not tried."""
        self.line(fault, command).skipped = why

    def left(self) -> float:
        """Seconds that are left."""
        return self.until - time.monotonic()

    def markdown(self, seed: int, took: float) -> str:
        """The table with where it was made."""
        kills = sum(line.tried for (fault, _), line in self.lines.items() if fault.startswith("signal"))
        flips = sum(line.tried for (fault, _), line in self.lines.items() if "byte" in fault)
        tried, held = (sum(getattr(line, name) for line in self.lines.values()) for name in ("tried", "held"))
        said = [
            "# Faults",
            "",
            "`make test-faults`: after each fault the command is started again, and what it leaves is compared with an undisturbed run: "
            "same files, bytes, rows and weights; of rows and executed notebooks the times are their own.",
            "",
            f"- {tried:,} faults tried, {held:,} held: {kills:,} processes ended by signals, {flips:,} changed bytes",
            f"- {datetime.now(UTC):%Y-%m-%d}, commit {commit()}, seed {seed}, {took / 60:.0f} minutes",
            f"- {provenance.device_name('cpu')}, {os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, "
            f"Python {platform.python_version()}",
            "",
            "*Forked*: a process forked from one that has its imports, one thread: every moment lies in the work itself. Its suites run "
            "the notebooks' cells without kernels. *New process*: the command as it is typed, kernels and all. Shards, tiles and the time "
            "between a training's files are small everywhere.",
            "",
            "| fault | command | tried | held | |",
            "|---|---|---:|---:|---|",
        ]
        for (fault, command), line in self.lines.items():
            if not (line.tried or line.skipped):
                continue
            remarks = [f"{count} {remark}" for remark, count in sorted(line.remarks.items())]
            remarks += [f"not tried: {line.skipped}"] if line.skipped else []
            said.append(f"| {fault} | `{command}` | {line.tried} | {line.held} | {'; '.join(remarks)} |")
        if self.failures:
            said += ["", "What did not hold:", "", *(f"- {wrong}" for wrong in self.failures)]
        return "\n".join(said) + "\n"


def commit() -> str:
    """The commit of this project, with a word where files were changed since."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "dipair_lib", "tests")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
