"""Raw logits of rows: each distinct text encoded once, in length-sorted batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from dipair_lib.inference.device import device_of, encoder_dtype, placed_on, ready
from dipair_lib.inference.inputs import Inputs, taking
from dipair_lib.inference.outputs import prepare_stored, stored_outputs
from dipair_lib.models import CrossEncoder, DualEncoder, Model, PairModel, Prepared
from dipair_lib.models.tokens import BATCH_TOKENS, Texts, Tokens, in_batches
from dipair_lib.system import progress

GPU_TOKENS = 262_144  # of a batch, padding counted: enough to fill a GPU's cores


def predict(
    model: Model,
    texts: Texts,
    *,
    dtype: str = "auto",
    device: str | torch.device = "auto",
    batch_tokens: int = 0,
    what: str = "scoring",
    stored: Path | None = None,
) -> np.ndarray:
    """Raw logits of rows, float32 [rows, outputs]. Distinct texts are encoded once, in length-sorted batches.

    Args:
        device: where; the model stays where it is.
        batch_tokens: word pieces of a batch, padding counted; 0 takes what the device likes.
        stored: folder of a frozen encoder's outputs: for a dual encoder whose own was never trained, they
            come from there.
    """
    if stored and isinstance(model, DualEncoder):
        outputs, _ = stored_outputs(model, texts, stored, device)
        with torch.inference_mode():
            prepared = [prepare_stored(model, one, field) for field, one in enumerate(outputs)]
            return combine_all(model, prepared, texts)
    if model.reads_texts:
        return model.predict(texts)
    there = device_of(device)
    fast = ready(model, there, dtype_of(model, there) if dtype == "auto" else dtype)
    with torch.inference_mode():
        if fast.per_pair:
            return score_rows(fast, texts, fast, batch_tokens, what)
        prepared = [
            prepare_all(fast, tokens, field, batch_tokens, what) for field, tokens in enumerate(texts.tokens)
        ]
        return combine_all(fast, prepared, texts)


def score_rows(
    model: CrossEncoder,
    texts: Texts,
    read: Callable[..., torch.Tensor],
    batch_tokens: int = 0,
    what: str = "",
) -> np.ndarray:
    """What ``read`` gives of every row's joined input (the cross-encoder itself: its logits), float32 [rows,
    ...], where the model is.
    """
    device = placed_on(model)
    batches = batches_for(model.pair_lengths(texts), device, batch_tokens)
    inputs = Inputs(model, texts, device)
    parts = [read(*inputs.rows(rows)).float() for rows in progress.track(batches, what)]
    found = torch.cat(parts).cpu().numpy()
    result = np.empty_like(found)
    result[np.concatenate(batches)] = found
    return result


def batches_for(lengths: np.ndarray, device: torch.device, batch_tokens: int = 0) -> list[np.ndarray]:
    """Length-sorted batches of the size that a device likes, or of so many word pieces."""
    return in_batches(lengths, batch_tokens or (BATCH_TOKENS if device.type == "cpu" else GPU_TOKENS))


def combine_all(model: PairModel, prepared: Sequence[Prepared], texts: Texts, chunk: int = 0) -> np.ndarray:
    """Logits float32 [rows, outputs] of every row, from its texts' prepared tensors, so many rows at a time."""
    chunk = chunk or (2048 if prepared[0][0].device.type == "cpu" else 65_536)
    parts = np.array_split(np.arange(len(texts)), max(1, len(texts) // chunk))
    found = [
        model.combine(*(gather(p, texts.index[rows, f]) for f, p in enumerate(prepared))) for rows in parts
    ]
    return torch.cat(found).float().cpu().numpy()


def dtype_of(model: Model, device: str | torch.device = "auto") -> str:
    """The dtype of the arithmetic that ``predict`` uses for a model on a device, weights aside."""
    return encoder_dtype("auto", device_of(device)) if model.encoders else "float32"


def prepare_all(
    model: PairModel, tokens: Tokens, field: int, batch_tokens: int = 0, what: str = "encoding"
) -> Prepared:
    """Encode and prepare every text of a field, length-sorted; tensors [texts, ...] in the texts' own order,
    where the model is.
    """
    device = placed_on(model)
    take = taking(tokens, device)
    batches = batches_for(tokens.lengths, device, batch_tokens)
    tracked = progress.track(batches, what)
    return in_order([model.encode_and_prepare(*take(texts), field) for texts in tracked], batches)


def in_order(parts: Sequence[Prepared], batches: Sequence[np.ndarray]) -> Prepared:
    """The prepared tensors of batches of texts, [texts, ...] in ascending order of the texts' positions."""
    back = torch.from_numpy(np.argsort(np.concatenate(batches)))
    return tuple(torch.cat(tensors)[back.to(tensors[0].device)] for tensors in zip(*parts, strict=True))


def gather(prepared: Prepared, places: np.ndarray | torch.Tensor) -> Prepared:
    """The prepared tensors of some texts, aligned with pairs."""
    index = places if isinstance(places, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(places))
    index = index.to(prepared[0].device, non_blocking=True)
    return tuple(t[index] for t in prepared)
