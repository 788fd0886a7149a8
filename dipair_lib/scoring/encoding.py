"""Encode the texts of a file into a collection, shard by shard; what a killed process lost is one shard."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dipair_lib import inference, models
from dipair_lib.inference.device import device_of, encoder_dtype, ready
from dipair_lib.models.folders import sealed, sha256_of
from dipair_lib.models.tokens import tokenize
from dipair_lib.scoring import collection
from dipair_lib.scoring.collection import Collection
from dipair_lib.scoring.manifest import (
    DTYPES,
    FORMAT,
    CollectionError,
    read_manifest,
    student_folder,
    student_hash,
)
from dipair_lib.scoring.sources import rows_of
from dipair_lib.system import disk

SHARD_TEXTS = 16_384  # texts a shard holds at most: what a killed process loses
SHARD_BYTES = 256 << 20  # and at most so many bytes of float32
PATIENCE = 600.0  # seconds that another process may take to begin a job, where only a file tells that it does


# --- encoding ---------------------------------------------------------------------------------------------------------------------


def encode(
    student: Path | str,
    source: Path | str,
    side: int,
    out: Path | str,
    *,
    text: str = "",
    id: str = "",
    dtype: str = "float32",
    shard_texts: int = SHARD_TEXTS,
    device: str | torch.device = "auto",
    encoder: str = "auto",
) -> Collection:
    """Encode the texts of a file, or go on where that was interrupted; texts and ids that the collection
    already has are passed over. All ids are checked (see ``ids``) before anything is encoded.

    Args:
        student: see ``student_folder``.
        source: a Parquet (streamed), CSV, TSV or JSONL file.
        side: which of the student's fields.
        text, id: columns; where there is no ``id`` column ids are row numbers from 0.
        dtype: of what is kept: float32, float16, bfloat16, or int8 with a scale for each text and tensor.
        device: where the texts are encoded (to the same bytes on the same kind).
        encoder: dtype of the encoder's arithmetic: ``auto`` (bfloat16 where it is faster; a collection stays
            with what it began with), ``float32`` or ``bfloat16``. With float32 what is kept of a text depends
            on no other text.

    Raises:
        CollectionError: the folder belongs to another student, field or dtype; an id came twice with
            different texts, or is of another kind than the collection's; the file is not what its name says.
        TaskError: an empty text, a missing id or column, an id that is neither text nor whole number.
    """
    if dtype not in DTYPES:
        raise CollectionError(f"--dtype: expected one of {', '.join(DTYPES)}, but got {dtype!r}")
    folder, source, out, there = student_folder(student), Path(source), Path(out), device_of(device)
    model = models.load(folder)
    if not isinstance(model, models.PairModel):
        raise CollectionError(f"{folder}: a {model.describe()['model']} has nothing to encode once per text")
    if not 0 <= side < len(model.read_lengths):
        raise CollectionError(f"--field: expected 0 to {len(model.read_lengths) - 1}, but got {side}")
    made = {
        "format": FORMAT,
        "student": student_hash(folder),
        "model": model.describe()["model"],
        "field": side,
        "read_length": model.read_lengths[side],
        "dtype": dtype,
    }
    with writing(out):
        manifest = begin_manifest(out, made, there, encoder)
        writer = Writer(out, manifest, ready(model, there, manifest["encoder_dtype"]), shard_texts)
        writer.add(source, text, id)
    return Collection(out, manifest)


@contextlib.contextmanager
def writing(out: Path | str, *, unless: Path | None = None) -> Iterator[None]:
    """Hold a folder's lock: a second writer is refused, and what one that was killed left half written is
    removed.

    Args:
        unless: wait for the lock in place of that, until this file is there, behind which nothing is left to
            lock.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock, begun = filelock.FileLock(out / ".lock"), time.monotonic()
        while not (unless and unless.exists()):
            try:
                lock.acquire(timeout=1 if unless else 0)
                break
            except filelock.Timeout:  # a lock that is a file may be one that nobody holds
                if not unless or (soft(lock) and time.monotonic() - begun > PATIENCE):
                    raise
        # Halves of a job's parts may be another process's: ``job_parts.clear`` tells.
        for half in () if unless else set(out.glob(".*.tmp")) - set(out.glob(".part-*.tmp")):
            half.unlink()
    except filelock.Timeout:
        none = " (if there is none, delete .lock: this file system keeps it)" if soft(lock) else ""
        raise CollectionError(
            f"{out}: another process is writing here: wait for it, or name another folder{none}"
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter from a file system without any kind of lock
        said = getattr(error, "strerror", None) or error
        raise CollectionError(f"{out}: cannot be written ({said}): name a folder that can be") from error
    try:
        yield
    finally:
        lock.release()


def soft(lock: Any) -> bool:
    """Whether a lock is a file's existence, where the file system has none of its own."""
    return isinstance(lock, filelock.SoftFileLock)


def begin_manifest(
    out: Path, made: dict[str, Any], device: torch.device, encoder: str = "auto"
) -> dict[str, Any]:
    """The manifest in the folder if it is of the same student, field and dtype; else a new one, whose encoder
    runs in the dtype that was asked for or is faster on the device, and stays with it.
    """
    if not (out / "manifest.json").exists():
        dtype = encoder_dtype(encoder, device)
        return {**made, "encoder_dtype": dtype, "tensors": [], "shards": [], "sources": []}
    manifest = read_manifest(out)
    asked = {} if encoder == "auto" else {"encoder_dtype": encoder}
    for name, value in {**made, **asked}.items():
        if manifest[name] != value:
            raise CollectionError(
                f"{out}: holds {name} {str(manifest[name])[:40]!r}, but {str(value)[:40]!r} was asked for: name another folder"
            )
    return manifest


class Writer:
    """Adds texts to a collection, shard by shard."""

    def __init__(
        self, out: Path, manifest: dict[str, Any], model: models.PairModel, shard_texts: int
    ) -> None:
        self.out, self.manifest, self.model = out, manifest, model
        self.tokenizer = model.tokenizer
        self.most = max(1, min(shard_texts, SHARD_BYTES // self.bytes_of_text()))
        self.known: dict[bytes, int] = {}
        self.ids: dict[Any, int] = {}
        collection = Collection(out, manifest)
        for number, shard in enumerate(manifest["shards"]):
            for digest in collection.mapped(f"{number:05d}.hash.npy", (shard["texts"], 16), "u1"):
                self.known[digest.tobytes()] = len(self.known)
        if manifest["shards"]:
            frame = collection.ids()
            self.ids = dict(zip(frame["id"].tolist(), frame["text"].tolist(), strict=True))
        self.texts: list[str] = []
        self.pending: list[tuple[Any, int]] = []

    def bytes_of_text(self) -> int:
        """What a text takes in float32."""
        side = self.manifest["field"]
        tokens = tokenize(self.tokenizer, ["a"], self.manifest["read_length"])
        with torch.inference_mode():
            return sum(4 * t.numel() for t in inference.prepare_all(self.model, tokens, side, what=""))

    def add(self, source: Path, text: str, id: str) -> None:
        """Encode what is new in a source and write whole shards as they fill."""
        digest = sha256_of(source) if source.is_file() else ""
        noted = next((s for s in self.manifest["sources"] if s["sha256"] == digest), None)
        if noted is None:
            noted = {"name": source.name, "sha256": digest, "rows": 0, "done": False}
            self.manifest["sources"].append(noted)
        if noted["done"]:
            return
        row = 0
        for ids, texts in rows_of(source, text, id, type(next(iter(self.ids), None))):
            for one, words in zip(ids, texts, strict=True):
                row += 1
                self.take(one, words, f"{source}, row {row}")  # passes over what is in shards from before
                if len(self.texts) == self.most:
                    noted["rows"] = row
                    self.write_shard()
        noted["rows"], noted["done"] = row, True
        self.write_shard()

    def take(self, one: Any, words: str, where: str) -> None:
        """Note an id and its text."""
        digest = hash_of(words)
        place = self.known.get(digest)
        if place is None:
            place = self.known[digest] = len(self.known)
            self.texts.append(words)
        if one not in self.ids:
            self.ids[one] = place
            self.pending.append((one, place))
        elif self.ids[one] != place:
            raise CollectionError(f"{where}: id {one!r} came before with another text: make the ids distinct")

    def write_shard(self) -> None:
        """Encode the pending texts and write them as the next shard, then the manifest."""
        if self.texts or self.pending:
            number = len(self.manifest["shards"])
            arrays = self.arrays(f"encoding shard {number + 1}")
            arrays["hash"] = np.frombuffer(b"".join(map(hash_of, self.texts)), np.uint8).reshape(-1, 16)
            ids, places = zip(*self.pending, strict=True) if self.pending else ((), ())
            table = pa.table({"id": pa.array(ids), "text": pa.array(places, pa.int64())})
            written = {f"{number:05d}.{name}.npy": npy(array) for name, array in arrays.items()}
            written[f"{number:05d}.ids.parquet"] = parquet(table)
            for name, data in written.items():
                disk.write_atomic(self.out / name, data)
            files = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
            self.manifest["shards"].append({"texts": len(self.texts), "files": files})
            self.texts, self.pending = [], []
        disk.write_atomic(
            self.out / "manifest.json", (json.dumps(sealed(self.manifest), indent=1) + "\n").encode()
        )

    def arrays(self, what: str) -> dict[str, np.ndarray]:
        """The pending texts' prepared tensors as they are kept, by the middle of their file's name."""
        if not self.texts:
            return {name: np.zeros((0, *shape), kind) for name, shape, kind in self.layout()}
        field = self.manifest["field"]
        tokens = tokenize(self.tokenizer, self.texts, self.manifest["read_length"])
        with torch.inference_mode():
            prepared = [t.cpu() for t in inference.prepare_all(self.model, tokens, field, what=what)]
        if not self.manifest["tensors"]:
            self.manifest["tensors"] = [
                {"shape": list(t.shape[1:]), "mask": t.dtype == torch.bool} for t in prepared
            ]
        made: dict[str, np.ndarray] = {}
        for place, tensor in enumerate(prepared):
            for name, array in collection.kept(tensor, self.manifest["dtype"]).items():
                made[f"{place}{name}"] = array
        return made

    def layout(self) -> Iterator[tuple[str, list[int], str]]:
        """The middle of each array's file name, the shape of one text's part and the dtype on disk."""
        for place, tensor in enumerate(self.manifest["tensors"]):
            kind = "?" if tensor["mask"] else collection.KINDS[self.manifest["dtype"]]
            yield str(place), tensor["shape"], kind
            if kind == "i1":
                yield f"{place}.scale", [], "f4"


def hash_of(text: str) -> bytes:
    """The content hash of a text, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def npy(array: np.ndarray) -> bytes:
    """An array as the bytes of an .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()
