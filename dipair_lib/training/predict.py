"""Raw logits of rows: each distinct text encoded once, in length-sorted batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import progress
from ..models import Constant, CrossEncoder, DualEncoder, Model, TfIdf
from ..models.heads import Prepared
from ..models.tokens import BATCH_TOKENS, Texts, Tokens, in_batches
from .device import encoder_dtype, in_dtype
from .outputs import prepare_stored, stored_outputs


def predict(
    model: Model,
    texts: Texts,
    *,
    dtype: str = "auto",
    batch_tokens: int = BATCH_TOKENS,
    what: str = "scoring",
    stored: Path | None = None,
) -> np.ndarray:
    """Raw logits of rows, float32 [rows, outputs]. Distinct texts are encoded once, in length-sorted batches.

    Args:
        stored: folder of a frozen encoder's outputs: for a dual encoder whose own was never trained, they come from there.
    """
    if stored and isinstance(model, DualEncoder):
        outputs, _ = stored_outputs(model, texts, stored)
        with torch.inference_mode():
            prepared = [prepare_stored(model, one, field) for field, one in enumerate(outputs)]
            return combine_all(model, prepared, texts)
    if isinstance(model, Constant | TfIdf):
        return model.predict(texts)
    chosen = dtype_of(model) if dtype == "auto" else dtype
    fast = in_dtype(model, chosen)
    with torch.inference_mode():
        if isinstance(fast, CrossEncoder):
            logits = np.zeros((len(texts), len(fast.final_bias)), np.float32)
            for rows in progress.track(in_batches(fast.pair_lengths(texts), batch_tokens), what):
                logits[rows] = fast(*fast.batch(texts, rows)).float().numpy()
            return logits
        prepared = [
            prepare_all(fast, tokens, field, batch_tokens, what) for field, tokens in enumerate(texts.tokens)
        ]
        return combine_all(fast, prepared, texts)


def combine_all(model: Any, prepared: Sequence[Prepared], texts: Texts, chunk: int = 2048) -> np.ndarray:
    """Logits float32 [rows, outputs] of every row, from its texts' prepared tensors."""
    parts = np.array_split(np.arange(len(texts)), max(1, len(texts) // chunk))
    found = [
        model.combine(*(gather(p, texts.index[rows, f]) for f, p in enumerate(prepared))) for rows in parts
    ]
    return torch.cat(found).float().numpy()


def teacher_features(teacher: CrossEncoder, texts: Texts) -> np.ndarray:
    """What the teacher's last layer reads of each row, float32 [rows, width], centred and scaled to unit spread: targets of
    ``TrainConfig.match``."""
    fast = in_dtype(teacher, encoder_dtype("auto"))
    found = np.zeros((len(texts), teacher.output.in_features), np.float32)
    with torch.inference_mode():
        for rows in progress.track(in_batches(fast.pair_lengths(texts)), "teacher's features"):
            found[rows] = fast.features(*fast.batch(texts, rows)).float().numpy()
    found -= found.mean(axis=0)
    return found / max(float(found.std()), 1e-12)


def dtype_of(model: Model) -> str:
    """The dtype of the arithmetic that ``predict`` uses for a model, weights aside."""
    return encoder_dtype("auto") if hasattr(model, "encoder") else "float32"


def prepare_all(
    model: Any, tokens: Tokens, field: int, batch_tokens: int = BATCH_TOKENS, what: str = "encoding"
) -> Prepared:
    """Encode and prepare every text of a field, length-sorted; tensors [texts, ...] in the texts' own order."""
    batches = in_batches(tokens.lengths, batch_tokens)
    return prepare_batches(model, tokens, field, batches, progress.track(batches, what))


def prepare_batches(
    model: Any,
    tokens: Tokens,
    field: int,
    batches: list[np.ndarray],
    steps: Iterable[np.ndarray] | None = None,
) -> Prepared:
    """Encode and prepare texts batch by batch; tensors [texts, ...] in ascending order of the texts' positions.

    Args:
        batches: positions of texts. steps: the same batches behind a progress bar.
    """
    done = [model.prepare(model.encode(*tokens.take(rows), field), field) for rows in steps or batches]
    back = torch.from_numpy(np.argsort(np.concatenate(batches)))
    return tuple(torch.cat(parts)[back] for parts in zip(*done, strict=True))


def gather(prepared: Prepared, places: np.ndarray) -> Prepared:
    """The prepared tensors of some texts, aligned with pairs."""
    index = torch.from_numpy(np.ascontiguousarray(places))
    return tuple(t[index] for t in prepared)
