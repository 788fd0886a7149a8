"""Progress of long work: a bar for the person who waits, and a small file for the suite that runs many notebooks at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
FILE_VARIABLE = (
    "DIPAIR_PROGRESS"  # the suite names a file here: bars would stand still in an executed notebook
)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items and show how many are done and how long the rest will take; without a name (``what``) nothing is shown.

    Under a suite (``DIPAIR_PROGRESS`` names a file) no bar is drawn; the file holds ``{"what", "done", "total", "eta_s"}`` instead.
    """
    if not what:
        yield from items
        return
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if not os.environ.get(FILE_VARIABLE):
        yield from tqdm(items, desc=what, total=total, leave=False, mininterval=0.5)
        return
    start = last = time.monotonic()
    say(what, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last > 0.5:
            last = now
            say(what, done, total, None if not total else (now - start) / done * (total - done))


def say(what: str, done: int = 0, total: int | None = None, eta_s: float | None = None) -> None:
    """Write one state for the suite's display; nothing happens outside a suite."""
    path = os.environ.get(FILE_VARIABLE)
    if not path:
        return
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        temporary.write_text(
            json.dumps({"what": what, "done": done, "total": total, "eta_s": eta_s}), encoding="utf8"
        )
        os.replace(temporary, path)
    except OSError:  # a display that cannot be written must not stop a training
        return
