"""Files written whole or not at all, their hashes noted, and text and JSON that are safe to write."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dipair_lib.system import contents


class ResultError(ValueError):
    """A row, its logits or a results folder is not what it should be; the message names file and field."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback: the message, which says what to do."""
        return [str(self)]


# Files


@contextlib.contextmanager
def replacing(path: Path, noted: bool = False) -> Iterator[Path]:
    """A temporary name in the same folder, of a file that takes its place once the block is through; after an
    error it is gone, and the old file is whole.

    Args:
        noted: its hash by ``hashed``.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # process numbers are not unique
    try:
        yield temporary
        with hashed(path, contents.read_digest(temporary)) if noted else contextlib.nullcontext():
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # such as a file where a folder was expected: said by the caller
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | memoryview) -> Path:
    """Write bytes under a temporary name in the same folder, then rename: the file is the old one or the new
    one.

    Raises:
        ResultError: it could not be written (disk full, no permission); the temporary is gone, the old file
            is whole.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ResultError(
                f"{path}: the disk is full ({len(data):,} bytes were to be written). Nothing was lost: free some "
                "space and run the same command again"
            ) from error
        raise ResultError(f"{path}: could not be written: {error.strerror or error}") from error
    return path


@contextlib.contextmanager
def hashed(path: Path, digest: str, sums: Path | None = None) -> Iterator[None]:
    """Within it a file is put in place whose SHA-256 is this one; noted for ``verify`` before and after, so
    that a kill at any moment leaves a hash that fits.

    Args:
        sums: where it is noted; default ``<name>.sha256`` beside the file.
    """
    alone, sums = sums is None, sums or path.with_name(f"{path.name}.sha256")
    name = path.relative_to(sums.parent).as_posix()
    known = contents.read_sums(sums)
    if alone:  # what else it says is damage
        known = {one: digests for one, digests in known.items() if one == name}
    if name not in known and path.is_file():  # of an earlier version
        known[name] = {contents.read_digest(path)}
    write_atomic(sums, contents.sums_text({**known, name: {digest, *known.get(name, ())}}))
    yield
    if known.get(name, {digest}) != {digest}:
        write_atomic(sums, contents.sums_text({**known, name: {digest}}))


def write_hashed(path: Path, data: bytes | memoryview, sums: Path | None = None) -> Path:
    """``write_atomic`` of a file that is read back later, its hash noted by ``hashed``."""
    with hashed(path, hashlib.sha256(data).hexdigest(), sums):
        return write_atomic(path, data)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=plain
    )


def plain(value: Any) -> Any:
    """What JSON cannot hold, as what it can: NumPy numbers and arrays, tuples within, paths."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"expected something JSON can hold, but got {type(value).__name__}")


CONTROL = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]+"
)


def printable(text: str) -> str:
    """Text that may come from data, safe on a terminal: no control characters but line breaks, none that turn
    its direction.
    """
    return CONTROL.sub(" ", text)
