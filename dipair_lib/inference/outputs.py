"""Outputs of a frozen encoder, computed once and stored."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipair_lib.inference.device import device_of, encoder_dtype, placed_on, ready
from dipair_lib.inference.inputs import taking
from dipair_lib.models import DualEncoder
from dipair_lib.models.backbone import config_as_dict
from dipair_lib.models.cross_encoder import mean_of
from dipair_lib.models.dipair import Outputs
from dipair_lib.models.pair_model import Head, Kept, Prepared
from dipair_lib.models.similarities import SimilarityHead
from dipair_lib.models.tokens import BATCH_TOKENS, Texts, Tokens, in_batches
from dipair_lib.system import contents, machine, progress
from dipair_lib.system.disk import hashed

GPU_TOKENS = 65_536  # of a batch: what a GPU computes while the batch before is written to disk
# Of a backbone's configuration, what changes no output: where it lies, who saved it, and what is said or done
# besides.
NO_OUTPUT = (
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "_attn_implementation", "id2label", "label2id",
    "problem_type", "use_cache", "output_attentions", "output_hidden_states", "return_dict", "num_labels",
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """Outputs of a frozen encoder for a field's distinct texts, in half precision: see
    ``models.dipair.Outputs``.
    """

    hidden: torch.Tensor
    mask: torch.Tensor
    received: torch.Tensor | None = None

    def outputs(self, texts: Any, device: str | torch.device = "cpu") -> Outputs:
        """Those of some texts (a slice or positions), as wide as the longest of them, in float32, on a
        device.
        """
        mask = self.mask[texts]
        n = int(mask.sum(1).max()) if len(mask) else 0
        received = None if self.received is None else self.received[:, :n][texts].to(device).float()
        return Outputs(self.hidden[:, :n][texts].to(device).float(), mask[:, :n].to(device), received)


def stored_outputs(
    model: DualEncoder, texts: Texts, folder: Path, device: str | torch.device = "auto"
) -> tuple[list[Stored], dict[str, int]]:
    """The encoder's outputs for the distinct texts of each field, read from ``folder`` where they were
    computed before.

    Files are named by a hash of the encoder's weights and configuration, its dtype and the word pieces, so
    another encoder or text never meets them, whatever the backbone's folder is called.

    Args:
        device: where they are computed; the model stays where it is.

    Returns:
        One ``Stored`` per field, and counts: ``encoded`` and ``from_store`` texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = device_of(device)
    dtype = encoder_dtype("auto", there)
    fast = None
    names = [encoder_hash(encoder) for encoder in model.encoders]
    counts = {"encoded": 0, "from_store": 0}
    stored = []
    for field, (tokens, length) in enumerate(zip(texts.tokens, model.read_lengths, strict=True)):
        name = names[field if len(names) > 1 else 0]
        path = folder / f"{hash_of(name, length, dtype, tokens.ids, tokens.offsets)}.npy"
        wanted = [path, *([path.with_suffix(".received.npy")] if model.needs_weights else [])]
        with machine.lock(f"{path}.lock"):
            if all(is_whole(file) for file in wanted):
                counts["from_store"] += len(tokens)
            else:
                fast = fast or ready(model, there, dtype)
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


def is_whole(path: Path) -> bool:
    """Whether stored outputs are there, as they were written; read for that once per process."""
    return path.exists() and contents.is_as_noted(
        path, path.with_name(f"{path.name}.sha256"), contents.file_digest
    )


def encoder_hash(encoder: torch.nn.Module) -> str:
    """The sha256 of an encoder's weights (name, dtype, shape, bytes) and of what its configuration has for
    its outputs; a tenth of a second for MiniLM.
    """
    config = {name: value for name, value in config_as_dict(encoder).items() if name not in NO_OUTPUT}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, weight in encoder.state_dict().items():
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_outputs(model: DualEncoder, tokens: Tokens, length: int, field: int, paths: Sequence[Path]) -> None:
    """Encode every text and write float16 [texts, length, width] (and, to a second path, the attention
    received [texts, length]) to temporary names, then rename; the caller holds the first file's lock.
    """
    for left in paths[0].parent.glob(f"{paths[0].stem}.*.tmp"):  # by a run that was killed while it wrote
        left.unlink()
    temporary = [path.with_suffix(f".{os.getpid()}.tmp") for path in paths]
    shapes = [(len(tokens), length, model.encoder_of(field).config.hidden_size), (len(tokens), length)]
    try:
        files = [
            np.lib.format.open_memmap(name, mode="w+", dtype=np.float16, shape=shape)
            for name, shape in zip(temporary, shapes, strict=False)
        ]
        device = placed_on(model)
        batches = in_batches(tokens.lengths, BATCH_TOKENS if device.type == "cpu" else GPU_TOKENS)
        built = map(taking(tokens, device), progress.track(batches, "encoding once"))
        with torch.inference_mode():
            computed = (halves_of(model.outputs_of(ids, mask, field)) for ids, mask in built)
            for rows, arrays in zip(batches, in_memory(computed, device), strict=True):
                for file, array in zip(files, arrays, strict=True):
                    wide = min(length, array.shape[1])  # a GPU's batches may be wider than any text
                    file[rows, :wide] = array[:, :wide]
        for file, name, path in zip(files, temporary, paths, strict=True):
            file.flush()
            with hashed(path, contents.read_digest(name)):
                os.replace(name, path)
    finally:
        for name in temporary:
            name.unlink(missing_ok=True)


def halves_of(found: Outputs) -> list[torch.Tensor]:
    """Outputs (and the attention received) as they are stored: half precision, zero where masked."""
    hidden = (found.hidden * found.mask[..., None]).half()
    return [hidden] if found.received is None else [hidden, (found.received * found.mask).half()]


def in_memory(batches: Iterable[Sequence[torch.Tensor]], device: torch.device) -> Iterator[list[np.ndarray]]:
    """Each batch's tensors in the computer's memory; a GPU's are copied while it computes the next batch."""
    waiting: tuple[list[torch.Tensor], Any] | None = None
    for batch in batches:
        if device.type != "cuda":
            yield [tensor.cpu().numpy() for tensor in batch]
            continue
        copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in batch]
        for copy, tensor in zip(copies, batch, strict=True):
            copy.copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(device))
        if waiting:
            waiting[1].synchronize()
            yield [tensor.numpy() for tensor in waiting[0]]
        waiting = copies, copied
    if waiting:
        waiting[1].synchronize()
        yield [tensor.numpy() for tensor in waiting[0]]


def cut_stored(model: DualEncoder, stored: Stored, field: int, chunk: int = 1024) -> Kept:
    """What stage 1 reads of every text, in half precision: tensors [texts, ...] in the computer's memory, for
    ``Kept.to`` to bring to a GPU whole. Cut once, not once per step.
    """
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


def take(kept: Kept, texts: np.ndarray | torch.Tensor, *, trim: bool = False) -> Kept:
    """Some texts of what was kept, in float32, where it lies; trimmed to the longest of them where whole
    texts were kept (not on a GPU, which would be waited for to learn how long that is).
    """
    rows = torch.as_tensor(texts, device=kept.mask.device)
    mask = kept.mask[rows]
    n = int(mask.sum(1).max()) if trim and mask.device.type == "cpu" else mask.shape[1]
    pooled = None if kept.pooled is None else kept.pooled[rows]
    return Kept(kept.vectors[:, :n][rows].float(), mask[:, :n], pooled)


def prepare_stored(
    model: DualEncoder,
    stored: Stored,
    field: int,
    head: Head | None = None,
    texts: np.ndarray | None = None,
    chunk: int = 1024,
) -> Prepared:
    """Prepare some or all texts of a field from their stored outputs, for the model's head or a part of it:
    tensors [texts, ...] where the model is.
    """
    head, device = head or model.head, placed_on(model)
    texts = np.arange(len(stored.mask)) if texts is None else texts
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), chunk):
            kept = model.cut(stored.outputs(texts[start : start + chunk], device), field)
            parts.append(head.prepare(model.project(kept, field), field))
    return tuple(torch.cat(p) for p in zip(*parts, strict=True))


def text_vectors(
    backbone: str,
    read_lengths: Sequence[int],
    texts: Texts,
    folder: Path,
    device: str | torch.device = "auto",
) -> list[np.ndarray]:
    """Unit vectors of each field's distinct texts, float32 [texts, width]: the frozen encoder's means. For
    building tiles.
    """
    model = DualEncoder(backbone, read_lengths, [0] * len(read_lengths), True, 0, "ffnn", (1,))
    stored, _ = stored_outputs(model, texts, folder, device)
    return [
        prepare_stored(model, one, f, SimilarityHead("cosine"))[0].numpy() for f, one in enumerate(stored)
    ]


def hash_of(*parts: Any) -> str:
    """A short hash of names and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part).encode() + b"\n")
    return digest.hexdigest()[:16]
