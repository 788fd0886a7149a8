"""A disk that is full, a folder that is read-only, a clock that jumps back, a lock that is not to be had, memory that runs out."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from .attempts import SIGNALS, Attempt, Ended, attempt
from .kills import undisturbed, went_on
from .table import Table
from .world import Command, World, different

Start = Callable[[], int]
DAY_S = 86_400


def every(world: World, command: Command, times: int, random: Random, table: Table) -> None:
    """Each of them, so many times where it has moments or amounts."""
    for what in (full_disk, read_only, clock_back, lock_held, no_locks, memory):
        if table.left() <= 0:
            return
        what(world, command, times, random, table)


def note(
    world: World,
    command: Command,
    expected: dict[str, Any],
    ended: Ended,
    fault: str,
    table: Table,
    wrong: str = "",
) -> None:
    """Look at what an attempt under a fault came to, then start again without it."""
    if not wrong and ended.status == 0:
        wrong = different(command.content(), expected)
    elif not wrong and not (ended.status in {1, 2} and ended.in_words):
        shown = [line for line in ended.said.strip().splitlines() if line.strip()][-1:]
        wrong = f"no answer in words, exit {ended.status}: {' '.join(shown)[:300]}"
    wrong = wrong or went_on(world, command, expected, lambda: attempt(command.run))
    table.note(fault, command.name, wrong, "done all the same" if ended.status == 0 else "refused in words")


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of so many bytes on a folder; False where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def on_disk(command: Command) -> int:
    """Bytes that a command's files take on a disk of whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in command.now.rglob("*") if path.is_file())


def full_disk(world: World, command: Command, times: int, random: Random, table: Table) -> None:
    """Room for a random share of what the command writes; then it is made."""
    expected, _ = undisturbed(command)
    need, name = on_disk(command), "full disk"
    with small_disk(command.now, 64 << 20) as mounted:
        for _ in range(times):
            if not mounted:
                limited_files(world, command, expected, random, table)
                continue
            command.fill()
            ballast, free = command.now / ".ballast", int(need * random.random())
            size = os.statvfs(command.now).f_bavail * 4096 - free
            with open(ballast, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(4096, size))
            ended = attempt(command.run)
            ballast.unlink()
            note(world, command, expected, ended, name, table)
    command.clear()


def limited_files(
    world: World, command: Command, expected: dict[str, Any], random: Random, table: Table
) -> None:
    """Where nothing may be mounted, files of a random size at most."""
    largest = max(path.stat().st_size for path in command.now.rglob("*") if path.is_file())
    command.clear()

    def limited() -> int:
        most = int(largest * random.random())
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return command.run()

    note(world, command, expected, attempt(limited), "full disk (limit of a file's size)", table)


def read_only(world: World, command: Command, times: int, random: Random, table: Table) -> None:
    """Its folder cannot be written: from the start, and after it was interrupted."""
    expected, took = undisturbed(command)
    with small_disk(command.now, 64 << 20) as mounted:
        if not mounted:
            table.skip("read-only folder", command.name, "no file system may be mounted here")
            return
        for begun in (False, True):
            command.fill()
            if begun:
                attempt(command.run, took * random.random(), "SIGKILL")
            subprocess.run(["mount", "-o", "remount,ro", str(command.now)], check=True)
            ended = attempt(command.run)
            subprocess.run(["mount", "-o", "remount,rw", str(command.now)], check=True)
            note(world, command, expected, ended, "read-only folder", table)
    command.clear()


def clock_back(world: World, command: Command, times: int, random: Random, table: Table) -> None:
    """Killed at a random moment; its files are of tomorrow when it is started again, and its clock goes on falling."""
    expected, took = undisturbed(command)

    def falling() -> int:
        first, true = time.time(), time.monotonic()

        def now() -> float:
            return first - DAY_S - 10 * (time.monotonic() - true)

        time.time, time.time_ns = now, lambda: int(now() * 1e9)  # type: ignore[assignment]

        class Falling(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
                return cls.fromtimestamp(now(), tz)

        from dipair_lib.runner import notebook_run, suite_runs

        notebook_run.datetime = suite_runs.datetime = Falling  # type: ignore
        return command.run()

    for _ in range(times):
        command.clear()
        attempt(command.run, took * random.random(), "SIGKILL")
        tomorrow = time.time() + DAY_S
        for path in command.now.rglob("*"):
            os.utime(path, (tomorrow, tomorrow))
        ended = attempt(falling)
        wrong = f"not done: {ended.last}" if ended.status else ""
        note(world, command, expected, ended, "clock jumping back", table, wrong)


def lock_held(world: World, command: Command, times: int, random: Random, table: Table) -> None:
    """Another process holds the folder's lock: refused in words, or, where processes share a folder, waited for."""
    expected, _ = undisturbed(command)
    fault, lock = "lock held by another process", command.lock
    command.clear()
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = Attempt(command.run)
        waits = not process.wait_until(5)
        fcntl.flock(file, fcntl.LOCK_UN)
    process.wait_until(60)
    ended = process.end()
    wrong = "" if ended.status or waits else "it worked beside the one that holds the lock"
    note(world, command, expected, ended, fault, table, wrong)


def no_locks(world: World, command: Command, times: int, random: Random, table: Table) -> None:
    """A file system without locks, as some network's: they fail at once."""
    expected, _ = undisturbed(command)
    for number in (errno.ENOLCK, errno.ENOSYS):

        def without(number: int = number) -> int:
            def refuse(*_: Any) -> None:
                raise OSError(number, os.strerror(number))

            fcntl.flock = refuse
            return command.run()

        command.clear()
        note(world, command, expected, attempt(without), "no locks on the file system", table)


def memory(world: World, command: Command, times: int, random: Random, table: Table) -> None:
    """Address space for a random amount beyond what the process has at its start."""
    expected, _ = undisturbed(command)
    fault = "memory limit"
    for _ in range(times):
        most = int((1 << 10) ** (2 + random.random()) / 32)  # 32 KB to 32 MB, each order of size as likely

        def limited(most: int = most) -> int:
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + most, held + most))
            return command.run()

        command.clear()
        ended = attempt(limited)
        system = ended.status < 0 and -ended.status not in [
            getattr(__import__("signal"), name) for name in SIGNALS
        ]
        if system:  # the C++ below Python gives up by itself: no words, but nothing wrong
            wrong = went_on(world, command, expected, lambda: attempt(command.run))
            table.note(fault, command.name, wrong, f"ended by the system (signal {-ended.status})")
        else:
            note(world, command, expected, ended, fault, table)
