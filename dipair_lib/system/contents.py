"""What a file or a model's folder holds, as a hash: a name says where weights or rows lie, not which."""

from __future__ import annotations

import functools
import hashlib
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

MODEL_FILES = {".safetensors", ".json", ".txt", ".model"}  # weights, configuration, tokenizer


def digest_of(path: Path) -> str | None:
    """The SHA-256 of what a local path holds: a file's bytes; of a model's folder (one with a
    ``config.json``) the names and bytes of its weights, configuration and tokenizer, those in its own folders
    included. None where nothing of either kind is there.

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


# What was written, so that a changed byte is noticed


SUMS = "SHA256SUMS"  # of what one row's folder holds; of any other file ``<its name>.sha256``; both as ``sha256sum`` writes and reads them
MOST_UNPACKED = 1 << 30  # bytes of a file of logits


def read_sums(path: Path) -> dict[str, set[str]]:
    """Name to the hashes that it may have: two while a file is being replaced, so that a kill in between
    leaves none that is wrong. Empty without the file; a line that is none of ``sha256sum``'s has a name that
    no file has.
    """
    found: dict[str, set[str]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf8", errors="replace").removesuffix("\n").split("\n"):
            digest, _, name = line.partition("  ")
            found.setdefault(name, set()).add(digest)
    return found


def sums_text(sums: Mapping[str, Iterable[str]]) -> bytes:
    """The content of a file of hashes."""
    return "".join(f"{d}  {name}\n" for name in sorted(sums) for d in sorted(sums[name])).encode("utf8")


def read_digest(path: Path) -> str:
    """The hex SHA-256 of a file, read now: a changed byte may leave size and time as they were."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_as_noted(path: Path, sums: Path, digest: Callable[[Path], str] = read_digest) -> bool:
    """Whether a file's bytes are some whose hash was noted for it, or none was; looked at twice, as it may be
    replaced meanwhile.
    """
    name = path.relative_to(sums.parent).as_posix()
    return any(not (known := read_sums(sums).get(name)) or digest(path) in known for _ in range(2))


def changed_files(sums: Path) -> list[str]:
    """One line per file whose bytes are not those that a file of hashes names. A single file that is gone is
    nobody's damage.
    """
    lines = []
    for name, known in read_sums(sums).items():
        path = sums.parent / name
        if not name or ".." in Path(name).parts or Path(name).is_absolute():
            lines.append(f"{sums}: is damaged: expected the hash of a file beside it, but got {name!r:.80}")
        elif not path.is_file():
            if sums.name == SUMS:
                lines.append(f"{path}: is gone, but {sums.name} names it; run its notebook again")
            elif path.name != sums.name.removesuffix(".sha256"):
                lines.append(f"{sums}: is damaged: expected the hash of one file, but got {name!r:.80}")
        elif (found := read_digest(path)) not in known:
            lines.append(
                f"{path}: expected sha256 {' or '.join(sorted(known))}, but got {found}: it was changed or damaged after it was written; "
                "run its notebook again"
            )
    return lines


def array_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Name to shape and dtype of each array of a ``.npz`` file, from the headers alone: a few bytes may
    unpack to gigabytes.

    Raises:
        ValueError: it holds something else, or an array's bytes are not as many as its header says. What
            ``zipfile`` raises for damage.
    """
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            with archive.open(part) as file:
                version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
                if version not in {(1, 0), (2, 0)}:
                    raise ValueError(f"{part.filename}: of version {version}")
                of_version = f"read_array_header_{version[0]}_0"
                shape, _, dtype = getattr(np.lib.format, of_version)(file)
                if dtype.hasobject:
                    raise ValueError(f"{part.filename}: holds pickled objects, which are never read")
                if file.tell() + math.prod(shape) * dtype.itemsize != part.file_size:
                    raise ValueError(
                        f"{part.filename}: is not of the shape {list(shape)} that its header says"
                    )
            shapes[part.filename.removesuffix(".npy")] = (shape, dtype)
    return shapes


def unpacked_bytes(shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> int:
    """Bytes of the arrays that ``array_shapes`` found, once they are read."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values())
