"""Projection and head on a frozen encoder's stored outputs: what stage 1 and the cosine start share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from dipair_lib.inference.device import synchronize
from dipair_lib.inference.outputs import Stored, cut_stored, take
from dipair_lib.inference.predict import gather
from dipair_lib.models import DualEncoder
from dipair_lib.models.pair_model import Kept, Prepared
from dipair_lib.system import progress
from dipair_lib.training.loop import READ_EVERY, Pending
from dipair_lib.training.optimizers import optimizer_of
from dipair_lib.training.settings import TrainConfig

REUSED = 0.9  # a step's texts are prepared once each where that leaves at most this share of them


def head_parameters(model: DualEncoder) -> list[nn.Parameter]:
    """What is trained while the encoder is frozen."""
    return [p for name, p in model.named_parameters() if not name.startswith("encoder.")]


def cut_all(model: DualEncoder, stored: Sequence[Stored], device: torch.device) -> list[Kept]:
    """What the head reads of every text of each field, unprojected, whole on the device."""
    return [cut_stored(model, one, field).to(device) for field, one in enumerate(stored)]


def prepared_rows(model: DualEncoder, kept: Sequence[Kept], index: np.ndarray) -> list[Prepared]:
    """The prepared tensors [rows, ...] of each field; index [rows, fields] names the rows' texts."""
    found = []
    for field, one in enumerate(kept):
        texts = index[:, field].astype(np.int64)
        distinct, place = np.unique(texts, return_inverse=True)
        once = len(distinct) <= REUSED * len(texts)
        some = take(one, distinct if once else texts, trim=model.select == "learned")
        prepared = model.prepare(model.project(some, field), field)
        found.append(gather(prepared, place) if once else prepared)
    return found


def logits_on(model: DualEncoder, kept: Sequence[Kept], index: np.ndarray, chunk: int = 2048) -> np.ndarray:
    """Raw logits of rows, float32 [rows, outputs]."""
    parts = np.array_split(index, max(1, len(index) // chunk))
    with torch.no_grad():
        return torch.cat([model.combine(*prepared_rows(model, kept, part)) for part in parts]).cpu().numpy()


def descend(
    loss_at: Callable[[np.ndarray], torch.Tensor],
    batches: Sequence[np.ndarray],
    weights: Iterable[nn.Parameter],
    config: TrainConfig,
    device: torch.device,
    what: str,
    after: Callable[[int], None] = lambda step: None,
) -> tuple[float, float]:
    """Train weights, a step for each batch of rows.

    Args:
        loss_at: the loss of some rows.
        after: called with the number of each step that is done.

    Returns:
        Seconds, and the running mean of the loss, which is read at every step on a CPU and now and then
        elsewhere, where reading waits.
    """
    optimizer, schedule = optimizer_of(list(weights), config, len(batches))
    curves = progress.Curves(what, len(batches))
    begun = time.perf_counter()
    pending = Pending(float("nan"), 1 if device.type == "cpu" else READ_EVERY)
    for step, rows in enumerate(progress.track(batches, what), 1):
        loss = loss_at(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        pending.add(loss.detach())
        curves.add(step, pending.running, len(rows))
        after(step)
    curves.end()
    loss_seen = pending.read()
    synchronize(device)
    return time.perf_counter() - begun, loss_seen
