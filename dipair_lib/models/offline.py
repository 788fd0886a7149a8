"""Stored models ask no network: a hub's model that one was made from is read from this machine's cache, or it is an error at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

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


def snapshot(name: str) -> str:
    """The folder in which the hub's cache on this machine has a model.

    Raises:
        BackboneError: it has none.
    """
    from huggingface_hub import try_to_load_from_cache

    from .folders import BackboneError

    found = try_to_load_from_cache(name, "config.json")
    if not isinstance(found, str):
        raise BackboneError(
            f"backbone {name!r}: neither a folder nor a model in this machine's cache of the hub; a stored model asks no network. If it is "
            f"to be had from the hub, fetch it once (hf download {name}), or make the model again here"
        )
    return str(Path(found).parent)
