"""Texts of one side, encoded once by one student and kept on disk: memory-mapped shards of what its head
needs of each text.

    manifest.json       the student, the field, the dtype, every whole shard with the sha256 of its files, and its own sha256
    00000.0.npy         tensor 0 of ``head.prepare`` for the shard's texts (bfloat16 as its bits; beside int8 a file of scales)
    00000.hash.npy      uint8 [texts, 16], the content hash of each text
    00000.ids.parquet   id and text: which text each id has; ids may share a text, which is encoded once

A shard is named in the manifest only once all of its files are in place, so whatever ends the process, the
next one goes on behind the last whole shard and writes the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dipair_lib import models
from dipair_lib.models.folders import sha256_of
from dipair_lib.scoring import ids as naming
from dipair_lib.scoring.manifest import CollectionError, digest_of, read_manifest

MAPPED = 512 << 20  # bytes of files kept mapped, which count as this process's memory once they were read


@dataclass
class Collection:
    """An encoded collection on disk.

    Attributes:
        manifest: ``student`` (hash of its config and weights), ``field``, ``read_length``, ``dtype``,
            ``shards``, ``sources``.
        trust: take files as they are. Otherwise each is compared with its sha256 when it is first used, once
            per process for as long as its size and time of change stay.
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
            student: refuse a collection that another student made.
            side: and one of another field.
            trust: see the class.
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
        """Raise unless each shard's file of hashes has room for as many texts as the manifest claims, and for
        no more.
        """
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
        """What the head needs of texts ``start`` to ``stop``: tensors [texts, ...], float32 (masks bool), in
        memory.

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


def kept(tensor: torch.Tensor, dtype: str) -> dict[str, np.ndarray]:
    """A tensor as it is stored, by the ending of its name: masks as they are; bfloat16 as its bits; int8 with
    a scale per text, half a step of which (1/254 of the text's largest number) is the largest error.

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
