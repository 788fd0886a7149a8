"""Texts of one side, encoded once by one student and kept on disk: memory-mapped shards of what its head needs of each text.

    manifest.json       the student, the field, the dtype, every whole shard with the sha256 of its files, and its own sha256
    00000.0.npy         tensor 0 of ``head.prepare`` for the shard's texts (bfloat16 as its bits; beside int8 a file of scales)
    00000.hash.npy      uint8 [texts, 16], the content hash of each text
    00000.ids.parquet   id and text: which text each id has; ids may share a text, which is encoded once

A shard is named in the manifest only once all of its files are in place, so whatever ends the process, the next one goes on behind the
last whole shard and writes the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from . import ids as naming
from . import models, results, training
from .manifest import (
    DTYPES,
    FORMAT,
    CollectionError,
    digest_of,
    read_manifest,
    sealed,
    student_folder,
    student_hash,
)  # fmt: skip
from .models.backbone import sha256_of
from .models.tokens import tokenize
from .sources import rows_of
from .training.device import device_of, encoder_dtype, ready

SHARD_TEXTS = 16_384  # texts a shard holds at most: what a killed process loses
SHARD_BYTES = 256 << 20  # and at most so many bytes of float32
PATIENCE = 600.0  # seconds that another process may take to begin a job, where only a file tells that it does
MAPPED = 512 << 20  # bytes of files kept mapped, which count as this process's memory once they were read


@dataclass
class Collection:
    """An encoded collection on disk.

    Attributes:
        manifest: ``student`` (hash of its config and weights), ``field``, ``read_length``, ``dtype``, ``shards``, ``sources``.
        trust: take files as they are. Otherwise each is compared with its sha256 when it is first used, once per process for as long as
            its size and time of change stay.
    """

    folder: Path
    manifest: dict[str, Any]
    trust: bool = False
    maps: dict[Path, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls, folder: Path | str, student: str = "", side: int | None = None, trust: bool = False
    ) -> Collection:
        """Read the manifest, and see that there are files for as many texts as it names.

        Args:
            student: refuse a collection that another student made. side: and one of another field. trust: see the class.
        """
        folder = Path(folder)
        found = cls(folder, read_manifest(folder), trust)
        found.require_texts()
        if student and found.manifest["student"] != student:
            raise CollectionError(
                f"{folder}: encoded by another student (expected {student[:12]}, but got {found.manifest['student'][:12]}): encode the "
                "texts with this one"
            )
        if side is not None and found.manifest["field"] != side:
            raise CollectionError(
                f"{folder}: holds texts of field {found.manifest['field']}, but field {side} was asked for: encode them with --field {side}"
            )
        return found

    def require_texts(self) -> None:
        """Raise unless each shard's file of hashes has room for as many texts as the manifest claims, and for no more."""
        for number, shard in enumerate(self.manifest["shards"]):
            path = self.folder / f"{number:05d}.hash.npy"
            try:
                spare = path.stat().st_size - 16 * shard["texts"]
            except OSError as error:
                raise CollectionError(f"{path}: cannot be read ({error.strerror}): encode anew") from error
            if not 0 < spare <= 4096:  # the header
                raise CollectionError(
                    f"{path}: of another size than {shard['texts']:,} texts have, as the manifest says: encode anew"
                )

    @property
    def starts(self) -> np.ndarray:
        """int64 [shards + 1]: the first text of each shard, and the number of texts."""
        return np.cumsum([0, *(shard["texts"] for shard in self.manifest["shards"])], dtype=np.int64)

    def __len__(self) -> int:
        """Distinct texts."""
        return int(self.starts[-1])

    def block(self, start: int, stop: int) -> models.Prepared:
        """What the head needs of texts ``start`` to ``stop``: tensors [texts, ...], float32 (masks bool), in memory.

        Raises:
            CollectionError: a number is not finite, or a file is missing or of another shape.
        """
        starts, parts = self.starts, []
        for number, shard in enumerate(self.manifest["shards"]):
            low, high = max(start, int(starts[number])), min(stop, int(starts[number + 1]))
            if low < high:
                inside = slice(low - int(starts[number]), high - int(starts[number]))
                parts.append(self.read(number, shard, inside))
        if not parts:
            raise CollectionError(
                f"{self.folder}: no texts {start} to {stop}: the collection has {len(self):,}"
            )
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def take(self, places: np.ndarray) -> models.Prepared:
        """As ``block``, of any texts by place, each read once."""
        wanted, back = np.unique(places, return_inverse=True)
        shards = np.searchsorted(self.starts, wanted, side="right") - 1
        parts = [
            self.read(int(n), self.manifest["shards"][n], wanted[shards == n] - self.starts[n])
            for n in np.unique(shards)
        ]
        return tuple(torch.cat(tensors)[back] for tensors in zip(*parts, strict=True))

    def read(self, number: int, shard: dict[str, Any], inside: slice | np.ndarray) -> models.Prepared:
        """Some texts of one shard."""
        tensors = []
        for place, shape in enumerate(self.manifest["tensors"]):
            stem = f"{number:05d}.{place}"
            kind = "?" if shape["mask"] else KINDS[self.manifest["dtype"]]
            values = self.mapped(f"{stem}.npy", (shard["texts"], *shape["shape"]), kind)[inside]
            tensor = torch.from_numpy(np.array(values))
            if not shape["mask"]:
                if self.manifest["dtype"] == "bfloat16":
                    tensor = tensor.view(torch.bfloat16)
                tensor = tensor.float()
                if self.manifest["dtype"] == "int8":
                    scale = np.array(self.mapped(f"{stem}.scale.npy", (shard["texts"],), "f4")[inside])
                    tensor *= torch.from_numpy(scale).reshape(-1, *[1] * (tensor.dim() - 1))
                self.require_finite(tensor, stem, np.arange(shard["texts"])[inside])
            tensors.append(tensor)
        return tuple(tensors)

    def require_finite(self, tensor: torch.Tensor, stem: str, texts: np.ndarray) -> None:
        """Raise for NaN or infinite numbers, naming the first text that holds one."""
        bad = ~tensor.flatten(1).isfinite().all(1)
        if bad.any():
            raise CollectionError(
                f"{self.folder / stem}.npy, text {texts[int(bad.nonzero()[0])]}: not a finite number: the file is damaged, encode anew"
            )

    def sound(self, name: str) -> Path:
        """A file's path; raises where it is not what the manifest says."""
        path = self.folder / name
        expected = self.manifest["shards"][int(name.partition(".")[0])]["files"][name]
        try:
            found = expected if self.trust else digest_of(path)
        except OSError as error:
            raise CollectionError(
                f"{path}: cannot be read ({error.strerror or error}): encode anew"
            ) from error
        if found != expected:
            raise CollectionError(f"{path}: damaged: its sha256 is not the manifest's: encode anew")
        return path

    def mapped(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A file as a read-only memory map."""
        path = self.folder / name
        if path not in self.maps:
            self.sound(name)
            try:
                found = np.lib.format.open_memmap(path, mode="r")
            except Exception as error:  # what NumPy raises for a damaged header has no base class in common
                raise CollectionError(f"{path}: cannot be read ({error}): encode anew") from error
            if found.shape != shape or found.dtype != dtype:
                raise CollectionError(
                    f"{path}: expected {np.dtype(dtype)} of shape {shape}, but got {found.dtype} of {found.shape}: encode anew"
                )
            self.maps[path] = found  # the oldest go: what is read next is the next shard
            while sum(kept.nbytes for kept in self.maps.values()) > MAPPED and len(self.maps) > 1:
                del self.maps[next(iter(self.maps))]
        return self.maps[path]

    def ids(self) -> pd.DataFrame:
        """Columns id and text (its place), in the order they were read."""
        parts = []
        for n in range(len(self.manifest["shards"])):
            path = self.sound(f"{n:05d}.ids.parquet")
            try:
                parts.append(pq.read_table(path, columns=["id", "text"]))  # type: ignore[no-untyped-call]
                places = parts[-1]["text"].to_numpy()
            except Exception as error:  # what Arrow raises for a damaged file has no base class in common
                raise CollectionError(f"{path}: cannot be read ({error}): encode anew") from error
            if len(places) and not 0 <= places.min() <= places.max() < len(self):
                raise CollectionError(f"{path}: names texts that the collection does not have: encode anew")
        frame: pd.DataFrame = pa.concat_tables(parts).to_pandas()
        return frame

    def named(self) -> naming.Ids:
        """The ids, and which of them share a text."""
        found = naming.Ids(self.ids(), len(self))
        if not found.counts.all():
            raise CollectionError(f"{self.folder}: some of its texts have no id: encode anew")
        return found

    def verify(self) -> list[str]:
        """One line for each file that is missing or not what the manifest says."""
        problems = []
        for shard in self.manifest["shards"]:
            for name, digest in shard["files"].items():
                path = self.folder / name
                if not path.exists():
                    problems.append(f"{path}: missing")
                elif sha256_of(path) != digest:
                    problems.append(f"{path}: damaged: its sha256 is not the manifest's")
        return problems


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
    """Encode the texts of a file, or go on where that was interrupted; texts and ids that the collection already has are passed over. All
    ids are checked (see ``ids``) before anything is encoded.

    Args:
        student: see ``student_folder``. source: a Parquet (streamed), CSV, TSV or JSONL file. side: which of the student's fields.
        text, id: columns; where there is no ``id`` column ids are row numbers from 0.
        dtype: of what is kept: float32, float16, bfloat16, or int8 with a scale for each text and tensor.
        device: where the texts are encoded (to the same bytes on the same kind).
        encoder: dtype of the encoder's arithmetic: ``auto`` (bfloat16 where it is faster; a collection stays with what it began with),
            ``float32`` or ``bfloat16``. With float32 what is kept of a text depends on no other text.

    Raises:
        CollectionError: the folder belongs to another student, field or dtype; an id came twice with different texts, or is of another kind
            than the collection's; the file is not what its name says.
        TaskError: an empty text, a missing id or column, an id that is neither text nor whole number.
    """
    if dtype not in DTYPES:
        raise CollectionError(f"--dtype: expected one of {', '.join(DTYPES)}, but got {dtype!r}")
    folder, source, out, there = student_folder(student), Path(source), Path(out), device_of(device)
    model: Any = models.load(folder)
    if not hasattr(model, "prepare") or not hasattr(model, "read_lengths"):
        raise CollectionError(
            f"{folder}: a {models.describe(model)['model']} has nothing to encode once per text"
        )
    if not 0 <= side < len(model.read_lengths):
        raise CollectionError(f"--field: expected 0 to {len(model.read_lengths) - 1}, but got {side}")
    made = {
        "format": FORMAT,
        "student": student_hash(folder),
        "model": models.describe(model)["model"],
        "field": side,
        "read_length": model.read_lengths[side],
        "dtype": dtype,
    }
    with writing(out):
        manifest = begin(out, made, there, encoder)
        writer = Writer(out, manifest, ready(model, there, manifest["encoder_dtype"]), shard_texts)
        writer.add(source, text, id)
    return Collection(out, manifest)


@contextlib.contextmanager
def writing(out: Path | str, *, unless: Path | None = None) -> Iterator[None]:
    """Hold a folder's lock: a second writer is refused, and what one that was killed left half written is removed.

    Args:
        unless: wait for the lock in place of that, until this file is there, behind which nothing is left to lock.
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
        # Halves of a job's parts may be another process's: ``jobs.clear`` tells.
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


def begin(out: Path, made: dict[str, Any], device: torch.device, encoder: str = "auto") -> dict[str, Any]:
    """The manifest in the folder if it is of the same student, field and dtype; else a new one, whose encoder runs in the dtype that was
    asked for or is faster on the device, and stays with it."""
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

    def __init__(self, out: Path, manifest: dict[str, Any], model: Any, shard_texts: int) -> None:
        self.out, self.manifest, self.model = out, manifest, model
        self.tokenizer = models.tokenizer_of(model)
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
            return sum(4 * t.numel() for t in training.prepare_all(self.model, tokens, side, what=""))

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
                results.write_atomic(self.out / name, data)
            files = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
            self.manifest["shards"].append({"texts": len(self.texts), "files": files})
            self.texts, self.pending = [], []
        results.write_atomic(
            self.out / "manifest.json", (json.dumps(sealed(self.manifest), indent=1) + "\n").encode()
        )

    def arrays(self, what: str) -> dict[str, np.ndarray]:
        """The pending texts' prepared tensors as they are kept, by the middle of their file's name."""
        if not self.texts:
            return {name: np.zeros((0, *shape), kind) for name, shape, kind in self.layout()}
        field = self.manifest["field"]
        tokens = tokenize(self.tokenizer, self.texts, self.manifest["read_length"])
        with torch.inference_mode():
            prepared = [t.cpu() for t in training.prepare_all(self.model, tokens, field, what=what)]
        if not self.manifest["tensors"]:
            self.manifest["tensors"] = [
                {"shape": list(t.shape[1:]), "mask": t.dtype == torch.bool} for t in prepared
            ]
        made: dict[str, np.ndarray] = {}
        for place, tensor in enumerate(prepared):
            for name, array in kept(tensor, self.manifest["dtype"]).items():
                made[f"{place}{name}"] = array
        return made

    def layout(self) -> Iterator[tuple[str, list[int], str]]:
        """The middle of each array's file name, the shape of one text's part and the dtype on disk."""
        for place, tensor in enumerate(self.manifest["tensors"]):
            kind = "?" if tensor["mask"] else KINDS[self.manifest["dtype"]]
            yield str(place), tensor["shape"], kind
            if kind == "i1":
                yield f"{place}.scale", [], "f4"


def kept(tensor: torch.Tensor, dtype: str) -> dict[str, np.ndarray]:
    """A tensor as it is stored, by the ending of its name: masks as they are; bfloat16 as its bits; int8 with a scale per text, half a
    step of which (1/254 of the text's largest number) is the largest error.

    Raises:
        CollectionError: not finite, or too large for float16.
    """
    if tensor.dtype == torch.bool:
        return {"": tensor.numpy()}
    tensor = tensor.float()
    scales = {}
    if dtype == "int8":
        scale = tensor.flatten(1).abs().amax(1).clamp(min=1e-30) / 127
        tensor = (tensor / scale.reshape(-1, *[1] * (tensor.dim() - 1))).round()
        scales = {".scale": scale.numpy()}
    stored = tensor.to(getattr(torch, dtype))
    if not tensor.isfinite().all() or (stored.is_floating_point() and not stored.isfinite().all()):
        raise CollectionError(
            f"--dtype {dtype}: a text's numbers are not finite in it (largest {float(tensor.abs().max()):.3g}): use float32 or bfloat16"
        )
    return {"": (stored.view(torch.uint16) if dtype == "bfloat16" else stored).numpy(), **scales}


KINDS = {"float32": "f4", "float16": "f2", "bfloat16": "u2", "int8": "i1"}


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
