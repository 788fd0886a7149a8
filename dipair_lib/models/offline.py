"""Stored models ask no network: a hub's model that one was made from is read from this machine's cache, or it
is an error at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Whether a hub name is looked up on this machine alone: a file named it, not the person who runs this.
ONLY: ContextVar[bool] = ContextVar("ONLY", default=False)


@contextmanager
def only() -> Iterator[None]:
    """Within it no hub is asked."""
    before = ONLY.set(True)
    try:
        yield
    finally:
        ONLY.reset(before)
