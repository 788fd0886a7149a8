"""What a file or a model's folder holds, as a hash: a name says where weights or rows lie, not which."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

MODEL_FILES = {".safetensors", ".json", ".txt", ".model"}  # weights, configuration, tokenizer


def digest_of(path: Path) -> str | None:
    """The SHA-256 of what a local path holds: a file's bytes; of a model's folder (one with a ``config.json``) the names and bytes of its
    weights, configuration and tokenizer, those in its own folders included. None where nothing of either kind is there.

    A file is read once per process, until its size or its time of change is another.

    Raises:
        OSError: a file cannot be read.
    """
    if path.is_file():
        return file_digest(path)
    if not (path / "config.json").is_file():
        return None
    files = sorted(p for p in (*path.glob("*"), *path.glob("*/*")) if p.suffix in MODEL_FILES and p.is_file())
    held = "".join(f"{p.relative_to(path).as_posix()} {file_digest(p)}\n" for p in files)
    return hashlib.sha256(held.encode("utf8", "surrogateescape")).hexdigest()


def file_digest(path: Path) -> str:
    """The hex SHA-256 of a file."""
    known = path.stat()
    return digest_at(path.resolve(), known.st_size, known.st_mtime_ns)


@functools.cache
def digest_at(path: Path, size: int, changed_ns: int) -> str:
    """The hex SHA-256 of a file as it was at a size and a time of change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
