"""What this process may use of the machine: processors, locks on files, a folder for what is built once."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import getpass
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock

# What file systems without locks answer (Lustre without its option, some NFS).
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def cores(root: Path = Path("/")) -> int:
    """Processors that this process may use: those it is bound to (``taskset``, Slurm), and no more than its
    cgroup's quota pays for (``docker --cpus``, Kubernetes), rounded down.

    Args:
        root: of the file system, for tests.
    """
    return max(1, int(min(cores_bound(), quota(root))))


def settle() -> None:
    """What a command does first: a home and a name for libraries that ask for them, where the user has none;
    and threads of numerical libraries, unless somebody set them, no more than a quota pays for.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(own_temporary())
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    if quota() < cores_bound():
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, str(cores()))


def cores_bound() -> int:
    """Processors that this process is bound to."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(root: Path = Path("/")) -> float:
    """Processors that the cgroups of this process pay for, the least of all of them; infinite where none has
    a limit.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf8").splitlines()
    except OSError:
        return float("inf")
    least = float("inf")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        first = controllers.split(",")[0]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for name in (controllers, first, "cpu", "") if controllers else ("",):
            base = root / "sys/fs/cgroup" / name
            # A container sees its own group as the root, whatever the path says.
            for folder in (base, *(base / Path(*parts) for parts in above(path))):
                least = min(least, limit_of(folder))
    return least


def above(path: str) -> list[tuple[str, ...]]:
    """A cgroup's path and those above it, as parts."""
    parts = [part for part in path.split("/") if part not in {"", ".."}]
    return [tuple(parts[: n + 1]) for n in range(len(parts))]


def limit_of(folder: Path) -> float:
    """Processors that one cgroup pays for (version 2, or 1); infinite without a limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        given, period = (folder / "cpu.max").read_text(encoding="utf8").split()
        return float("inf") if given == "max" else int(given) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        micros = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf8"))
        period = (folder / "cpu.cfs_period_us").read_text(encoding="utf8")
        return float("inf") if micros <= 0 else micros / int(period)
    return float("inf")


def lock(path: Path | str) -> filelock.BaseFileLock:
    """A lock that ends with the process that holds it. Where the file system has no locks, one that names its
    holder in a file of its own: a file that an earlier run left behind, or one of a holder that is gone, is
    no lock.
    """
    return (
        filelock.FileLock(path) if has_locks(Path(path).parent) else filelock.SoftFileLock(f"{path}.holder")
    )


@functools.cache
def has_locks(folder: Path) -> bool:
    """Whether files of a folder can be locked; Windows has locks of its own."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            warnings.warn(
                f"{folder}: its file system has no locks: files name their holders instead", stacklevel=3
            )
            return False
    return True


def writable(folder: Path | None = None) -> Path:
    """A folder for what is built once: the one given, else ``~/.cache/dipair-lab``; where it cannot be
    written, or there is no home (a user without a name), one among the temporary files that is this user's
    alone.
    """
    with contextlib.suppress(RuntimeError):
        chosen = folder or Path.home() / ".cache" / "dipair-lab"
        there = next(path for path in (chosen, *chosen.parents) if path.exists())
        if os.access(there, os.W_OK | os.X_OK):
            return chosen
    return own_temporary()


@functools.cache
def own_temporary() -> Path:
    """A folder of temporary files that belongs to this user and that nobody else can write; code is loaded
    from it.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    chosen = Path(tempfile.gettempdir()) / f"dipair-lab-{user}"
    with contextlib.suppress(OSError):
        chosen.mkdir(mode=0o700, exist_ok=True)
        found = chosen.lstat()
        if chosen.is_dir() and not chosen.is_symlink() and found.st_uid == user and not found.st_mode & 0o022:
            return chosen
    return Path(tempfile.mkdtemp(prefix="dipair-lab-"))


@contextlib.contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Hold the lock of a file, so that of two runs that need it one makes it; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with lock(f"{path}.lock"):
        yield


def die_with_parent() -> None:
    """In a child, on Linux: be killed when its parent is, even by kill -9. Its kernel notices the same way
    and ends itself.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 = PR_SET_PDEATHSIG


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """The folder of built data: the argument, else $DIPAIR_CACHE, else data/cache of the checkout, else
    ~/.cache.
    """
    chosen = cache or os.environ.get("DIPAIR_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file() and (root / "data").is_dir():
        return writable(root / "data" / "cache")
    return writable()
