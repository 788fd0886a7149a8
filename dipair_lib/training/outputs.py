"""Outputs of a frozen encoder, computed once and stored."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from .. import progress
from ..models import DualEncoder
from ..models.cross_encoder import mean_of
from ..models.dipair import Outputs
from ..models.heads import Kept, Prepared, SimilarityHead
from ..models.tokens import Texts, Tokens, in_batches
from .device import encoder_dtype, in_dtype


@dataclass(frozen=True)
class Stored:
    """Outputs of a frozen encoder for a field's distinct texts, in half precision: see ``models.dipair.Outputs``."""

    hidden: torch.Tensor
    mask: torch.Tensor
    received: torch.Tensor | None = None

    def outputs(self, texts: Any) -> Outputs:
        """Those of some texts (a slice or positions), as wide as the longest of them, in float32."""
        mask = self.mask[texts]
        n = int(mask.sum(1).max()) if len(mask) else 0
        received = None if self.received is None else self.received[:, :n][texts].float()
        return Outputs(self.hidden[:, :n][texts].float(), mask[:, :n], received)


def stored_outputs(model: DualEncoder, texts: Texts, folder: Path) -> tuple[list[Stored], dict[str, int]]:
    """The encoder's outputs for the distinct texts of each field, read from ``folder`` where they were computed before.

    Files are named by a hash of the encoder's weights (the backbone's name and depth, or where else it started from) and the word pieces,
    so another encoder or text never meets them.

    Returns:
        One ``Stored`` per field, and counts: ``encoded`` and ``from_store`` texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = encoder_dtype("auto")
    fast = in_dtype(model, dtype)
    counts = {"encoded": 0, "from_store": 0}
    stored = []
    for field, (tokens, length) in enumerate(zip(texts.tokens, model.read_lengths, strict=True)):
        identity = [
            model.settings["backbone"],
            model.settings["layers"],
            *([model.start] if model.start else []),
        ]
        path = folder / f"{hash_of(*identity, length, dtype, tokens.ids, tokens.offsets)}.npy"
        wanted = [path, *([path.with_suffix(".received.npy")] if model.select == "attention" else [])]
        with FileLock(str(path) + ".lock"):
            if all(file.exists() for file in wanted):
                counts["from_store"] += len(tokens)
            else:
                write_outputs(fast, tokens, length, field, wanted)
                counts["encoded"] += len(tokens)
        hidden, *received = (torch.from_numpy(np.load(file, mmap_mode="c")) for file in wanted)
        mask = torch.arange(length)[None, :] < torch.from_numpy(tokens.lengths)[:, None]
        if hidden.shape[:2] != mask.shape:
            raise ValueError(
                f"{path}: expected shape {list(mask.shape)}, but got {list(hidden.shape[:2])}: delete the file and run again"
            )
        stored.append(Stored(hidden, mask, *received))
    return stored, counts


def write_outputs(model: DualEncoder, tokens: Tokens, length: int, field: int, paths: Sequence[Path]) -> None:
    """Encode every text and write float16 [texts, length, width] (and, to a second path, the attention received [texts, length]) to
    temporary names, then rename; the caller holds the first file's lock."""
    for left in paths[0].parent.glob(f"{paths[0].stem}.*.tmp"):  # by a run that was killed while it wrote
        left.unlink()
    temporary = [path.with_suffix(f".{os.getpid()}.tmp") for path in paths]
    shapes = [(len(tokens), length, model.encoder_of(field).config.hidden_size), (len(tokens), length)]
    try:
        files = [
            np.lib.format.open_memmap(name, mode="w+", dtype=np.float16, shape=shape)
            for name, shape in zip(temporary, shapes, strict=False)
        ]
        with torch.inference_mode():
            for rows in progress.track(in_batches(tokens.lengths), "encoding once"):
                found = model.outputs_of(*tokens.take(rows), field)
                wide = found.mask.shape[1]
                files[0][rows, :wide] = (found.hidden * found.mask[..., None]).half().numpy()
                if found.received is not None:
                    files[1][rows, :wide] = (found.received * found.mask).half().numpy()
        for file, name, path in zip(files, temporary, paths, strict=True):
            file.flush()
            os.replace(name, path)
    finally:
        for name in temporary:
            name.unlink(missing_ok=True)


def cut_stored(model: DualEncoder, stored: Stored, field: int, chunk: int = 1024) -> Kept:
    """What stage 1 reads of every text, in half precision: tensors [texts, ...]. Cut once, not once per step."""
    if model.select == "learned":  # reads all outputs: they stay where they are, on disk
        starts = range(0, len(stored.mask), chunk) if model.pooled else ()
        means = [mean_of(stored.hidden[i : i + chunk].float(), stored.mask[i : i + chunk]) for i in starts]
        return Kept(stored.hidden, stored.mask, torch.cat(means) if means else None)
    parts = []
    with torch.no_grad():
        for start in range(0, len(stored.mask), chunk):
            piece = model.cut(stored.outputs(slice(start, start + chunk)), field)
            parts.append(replace(piece, vectors=piece.vectors.half()))
    pooled = [p.pooled for p in parts if p.pooled is not None]
    return Kept(
        torch.cat([p.vectors for p in parts]),
        torch.cat([p.mask for p in parts]),
        torch.cat(pooled) if pooled else None,
    )


def take(kept: Kept, texts: np.ndarray, *, trim: bool = False) -> Kept:
    """Some texts of what was kept, in float32; trimmed to the longest of them where whole texts were kept."""
    mask = kept.mask[texts]
    n = int(mask.sum(1).max()) if trim else mask.shape[1]
    pooled = None if kept.pooled is None else kept.pooled[texts]
    return Kept(kept.vectors[:, :n][texts].float(), mask[:, :n], pooled)


def prepare_stored(
    model: DualEncoder,
    stored: Stored,
    field: int,
    head: Any = None,
    texts: np.ndarray | None = None,
    chunk: int = 1024,
) -> Prepared:
    """Prepare some or all texts of a field from their stored outputs, for the model's head or a part of it: tensors [texts, ...]."""
    head = head or model.head
    texts = np.arange(len(stored.mask)) if texts is None else texts
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), chunk):
            kept = model.cut(stored.outputs(texts[start : start + chunk]), field)
            parts.append(head.prepare(model.project(kept, field), field))
    return tuple(torch.cat(p) for p in zip(*parts, strict=True))


def text_vectors(backbone: str, read_lengths: Sequence[int], texts: Texts, folder: Path) -> list[np.ndarray]:
    """Unit vectors of each field's distinct texts, float32 [texts, width]: the frozen encoder's means. For building tiles."""
    model = DualEncoder(backbone, read_lengths, [0] * len(read_lengths), True, 0, "ffnn", (1,))
    stored, _ = stored_outputs(model, texts, folder)
    return [
        prepare_stored(model, one, f, SimilarityHead("cosine"))[0].numpy() for f, one in enumerate(stored)
    ]


def hash_of(*parts: Any) -> str:
    """A short hash of names and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part).encode() + b"\n")
    return digest.hexdigest()[:16]
