"""What makes a folder a results folder, and how nothing in it is lost: its mark, what ``--fresh`` sets aside,
what a run replaces.

A results folder carries the file ``.dipair``. Only what lies in a marked folder is ever moved or removed as a
whole, and only after it was set aside: by ``--fresh`` to a sibling folder until the new suite has its first
row, by a run that is made anew to ``replaced/<run>`` until it is finished.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import time
import warnings
from pathlib import Path

from dipair_lib.evaluation import results, verification
from dipair_lib.system import disk

MARK = ".dipair"
SAYS = "A results folder of dipair-lab: `dipair run --fresh` may take away what it holds."
ASIDE = "Set aside by `dipair run --fresh` from the folder {name!r} beside it; removed once that has its first new row."
STAYS = frozenset({MARK, ".lock", ".lock.holder", ".pid", "README.md"})  # when everything else is moved
# What earlier versions left in folders that a person might have too.
NAMES = {
    "notebooks": re.compile(r"\..*|.+-[0-9a-f]{10}(\.failed)?\.(ipynb|html)"),
    "teacher": re.compile(r"[\w.+-]+-[0-9a-f]{10}\.[\w.+-]+"),
    "encoded": re.compile(r"[0-9a-f]{16}\..+"),
}


def is_marked(folder: Path) -> bool:
    """Whether a folder carries our mark."""
    return said_in(folder).startswith(SAYS)


def said_in(folder: Path) -> str:
    """What a folder's mark says; nothing where it has none."""
    try:
        with open(folder / MARK, encoding="utf8", errors="replace") as file:
            return file.read(10_000)
    except OSError:
        return ""


def entries(folder: Path) -> list[str]:
    """What a folder holds beside what stays; [] where there is no such folder."""
    return sorted(set(os.listdir(folder)) - STAYS) if folder.is_dir() else []


def holds_rows(folder: Path) -> bool:
    """Whether results of an earlier version, which made no mark, lie in a folder: a row, a measurement, or a
    suite that was stopped before its first row.
    """
    from dipair_lib.evaluation import architecture_rows

    if (folder / ".lock").is_file() and (folder / "rows").is_dir() and (folder / "notebooks").is_dir():
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if results.load_results(folder, damaged="warn"):
                return True
        except disk.ResultError:
            pass
    try:
        return bool(architecture_rows.load(folder))
    except disk.ResultError:
        return False


def only_ours(folder: Path) -> bool:
    """Whether an earlier version's folder holds, under the names that we use, only what we write."""
    return all(
        pattern.fullmatch(entry)
        for name, pattern in NAMES.items()
        for entry in (os.listdir(folder / name) if (folder / name).is_dir() else [])
    )


def mark_ours(folder: Path) -> bool:
    """Mark a folder that is new, empty, or holds results of an earlier version and nothing else under our
    names. Returns whether it may be written to: also one of results that is not marked because it holds more.
    """
    if is_marked(folder):
        return True
    ours = bool(entries(folder))
    if ours and not holds_rows(folder):
        return False
    if not ours or only_ours(folder):
        disk.write_atomic(folder / MARK, f"{SAYS}\n".encode())
    return True


def check(folder: Path, fresh: bool) -> None:
    """Refuse a folder that a suite must not write to, or that ``--fresh`` must not take from. Nothing is
    changed.

    Raises:
        ResultError: it is a file, or holds something else than results; or ``fresh``, and it carries no mark.
    """
    if folder.exists() and not folder.is_dir():
        raise disk.ResultError(f"{folder}: is a file: name a folder for results")
    held = entries(folder)
    if not held or is_marked(folder):
        return
    if not holds_rows(folder):
        shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise disk.ResultError(
            f"{folder}: is no results folder: it holds {shown}, which no suite wrote. Name a new or an empty folder with --out, or move "
            "these files away"
        )
    if fresh:
        how = (
            "the same command without --fresh marks it (stop it with Ctrl-C once it has started)"
            if only_ours(folder)
            else "it also holds files of other names than ours, which would go too"
        )
        raise disk.ResultError(
            f"{folder}: --fresh takes away only what a folder with the mark {MARK} holds, and this one, of an earlier version, has none: "
            f"{how}. Or move the folder away yourself, or name another with --out"
        )


# What --fresh takes away


def set_aside(folder: Path) -> Path | None:
    """Move what a marked folder holds of earlier results to a new folder beside it; None where there is
    nothing.

    Raises:
        ResultError: it cannot be moved; what was moved is back in its place.
    """
    names = sorted(name for name in verification.KNOWN_FILES - STAYS if os.path.lexists(folder / name))
    if not any(not (folder / name).is_dir() or any((folder / name).iterdir()) for name in names):
        return None
    home = folder.resolve()
    taken = [
        home.with_name(f"{home.name}.before{number}") for number in ("", *(f"-{n}" for n in range(2, 1000)))
    ]
    aside = next(path for path in taken if not os.path.lexists(path))
    moved = []
    try:
        said = ASIDE.format(name=home.name)
        disk.write_atomic(aside / MARK, f"{SAYS}\n{said}\n".encode())
        for name in names:
            os.rename(home / name, aside / name)
            moved.append(name)
    except (OSError, disk.ResultError) as error:
        for name in moved:
            os.rename(aside / name, home / name)
        with contextlib.suppress(OSError):
            (aside / MARK).unlink(missing_ok=True)
            aside.rmdir()
        raise disk.ResultError(
            f"{folder}: its earlier results could not be moved to {aside} ({error}): move them yourself, or name another folder with --out"
        ) from error
    return aside


def aside_of(folder: Path) -> list[Path]:
    """The folders to which ``set_aside`` moved this one's earlier results and which are still there under
    their names.
    """
    home = folder.resolve()
    said = ASIDE.format(name=home.name)
    name = re.compile(re.escape(home.name) + r"\.before(-\d+)?")
    return [
        path for path in sorted(home.parent.iterdir()) if name.fullmatch(path.name) and said in said_in(path)
    ]


def drop_aside(folder: Path) -> list[Path]:
    """Remove the earlier results that were set aside, now that there are new ones; their mark goes last, so
    that a kill in between leaves nothing that is not removed the next time. Returns what was removed.
    """
    gone = aside_of(folder)
    for aside in gone:
        for name in verification.KNOWN_FILES - {MARK}:
            remove(aside / name)
        (aside / MARK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody put something else there
            aside.rmdir()
    return gone


def remove(path: Path) -> None:
    """Take away a file or folder, if it is there.

    A process that was killed may still end a write there: a folder that is not empty is tried again for a second.
    """
    for pause in (0.1, 0.3, 0.6, None):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or pause is None:
                raise
            time.sleep(pause)


# What a run replaces


def replaced(out: Path, key: str) -> Path:
    """Where an earlier result of a run is kept until its replacement is finished: its rows, and its executed
    notebook.
    """
    return out / "replaced" / key


def make_way(out: Path, key: str, finished: bool) -> None:
    """Before a run is made anew: what it finished earlier moves to ``replaced``, what it left unfinished
    goes.

    The notebook moves last: started again after a kill, the rest follows.
    """
    kept, notebook = replaced(out, key), f"{key}.ipynb"
    rows = sorted((out / "rows").glob(f"{glob.escape(key)}.*"))
    if finished:
        if (
            kept / notebook
        ).exists():  # of a replacement that was finished before its predecessor was taken away
            shutil.rmtree(kept)
        (kept / "rows").mkdir(parents=True, exist_ok=True)
        for row in rows:
            remove(kept / "rows" / row.name)
            os.replace(row, kept / "rows" / row.name)
        os.replace(out / "notebooks" / notebook, kept / notebook)
    for left in (*rows, *(out / "notebooks").glob(f"{glob.escape(key)}.*")):
        remove(left)


def drop_replaced(out: Path, key: str) -> None:
    """Remove what a run has replaced."""
    remove(replaced(out, key))
    with contextlib.suppress(OSError):  # others are under way
        (out / "replaced").rmdir()
