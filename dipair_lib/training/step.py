"""One step of a network: from rows to a batch, from a batch to logits, in a dtype; and how its output starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dipair_lib.inference.device import M, placed_on
from dipair_lib.inference.inputs import Inputs
from dipair_lib.inference.predict import gather
from dipair_lib.models import Network
from dipair_lib.models.tokens import length_sorted
from dipair_lib.training.rows import Data
from dipair_lib.training.settings import TrainConfig

# Texts that are encoded together within a step: few enough to be of like length, enough to fill what
# computes.
SUB_BATCH = {"cpu": 32, "cuda": 1024, "mps": 128}
LSTM_SUB_BATCH = {"cpu": 128, "cuda": 1024, "mps": 512}  # the same for an LSTM, whose steps are small
WIDTHS = (
    8  # a GPU's batches are as wide as a multiple of this: its recorded steps are few, its kernels like it
)


class Step(nn.Module):
    """A model's forward pass from a batch to logits, as a module, so that its parameters can be swapped for
    shorter ones.
    """

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model

    def batch(self, inputs: Inputs, rows: np.ndarray) -> list[Any]:
        """What ``forward`` reads of some rows: a cross-encoder's joined input, or per field the batches of
        its distinct texts, each beside others of about its length, and where each row finds its text.
        """
        if self.model.per_pair:
            return inputs.rows(rows)
        size = (SUB_BATCH if self.model.encoders else LSTM_SUB_BATCH)[inputs.device.type]
        fields = []
        for field, tokens in enumerate(inputs.texts.tokens):
            distinct, place = np.unique(inputs.texts.index[rows, field], return_inverse=True)
            parts = length_sorted(tokens.lengths[distinct], size)
            back = np.argsort(np.concatenate(parts))
            fields.append(
                [[inputs.take(field, distinct[part]) for part in parts], torch.from_numpy(back[place])]
            )
        return fields

    def forward(self, batch: Any) -> torch.Tensor:
        """Logits [rows, outputs]; each distinct text of the batch is encoded once."""
        if self.model.per_pair:
            return self.model(*batch)  # type: ignore[no-any-return]
        prepared = []
        for field, (parts, place) in enumerate(batch):
            done = [self.model.encode_and_prepare(ids, mask, field) for ids, mask in parts]
            prepared.append(gather(tuple(torch.cat(t) for t in zip(*done, strict=True)), place))
        return self.model.combine(*prepared)


def outputs_in(model: Network, batch: Any, dtype: str) -> torch.Tensor:
    """float32 logits of a batch from ``Step.batch``, with the encoder's arithmetic in ``dtype`` and its
    weights, and their gradients, in float32.

    The encoder's parameters are cast for the pass; the cast is differentiable, so gradients arrive at the
    float32 ones. On two cores this is a third faster than autocast, which casts at each operation and keeps
    layer norms in float32.
    """
    step = Step(model)
    if dtype == "float32":
        return step(batch)  # type: ignore[no-any-return]
    if not model.encoders:  # an LSTM's kernel wants one dtype: autocast sees to that
        with torch.autocast(placed_on(model).type, getattr(torch, dtype)):
            return step(batch).float()  # type: ignore[no-any-return]
    short = getattr(torch, dtype)
    cast = {
        f"model.{name}": p.to(short) for name, p in model.named_parameters() if name.startswith("encoder.")
    }
    return torch.func.functional_call(step, cast, (batch,)).float()  # type: ignore[no-any-return]


@contextlib.contextmanager
def with_dropout(model: M, share: float) -> Iterator[M]:
    """Within it, a transformer drops that share of its activations and of its attention while it trains."""
    layers = [m for encoder in model.encoders for m in encoder.modules() if isinstance(m, nn.Dropout)]
    before = [layer.p for layer in layers]
    for layer in layers:
        layer.p = share
    try:
        yield model
    finally:
        for layer, p in zip(layers, before, strict=True):
            layer.p = p


def start_bias(model: Network, data: Data, config: TrainConfig, *, sample: int = 256) -> None:
    """Shift the model's outputs so that what it says on average is what its targets are on average, on a
    sample of the rows: the mean of scores and of a teacher's logits, the shares of classes. With a small
    learning rate it would take much of a run to get there. What is right already (after stage 1, of a trained
    checkpoint) stays. Tang et al. start at zero: so do classes with their AdaDelta.
    """
    if data.classes and config.optimizer == "adadelta":
        return
    rows = np.unique(np.linspace(0, len(data.labels) - 1, sample).astype(np.int64))
    with torch.no_grad():
        inputs = Inputs(model, data.texts, placed_on(model))
        found = Step(model.eval())(Step(model).batch(inputs, rows)).float().cpu()
    with torch.no_grad():
        model.final_bias.add_(shift_to_targets(found, data, rows, config).to(model.final_bias.device))


def shift_to_targets(logits: torch.Tensor, data: Data, rows: np.ndarray, config: TrainConfig) -> torch.Tensor:
    """What to add to the logits [rows, outputs] of some rows so that they are on average what their targets
    are: the teacher's mean logits; for labels alone the mean of scores, the shares of classes among all rows.
    """
    if config.loss != "hard":
        assert data.teacher is not None
        return torch.from_numpy(data.teacher[rows]).mean(0) - logits.mean(0)
    if not data.classes:
        return float(np.mean(data.labels)) - logits.mean(0)
    return shift_to_shares(logits, np.bincount(data.labels, minlength=data.classes) / len(data.labels))


def shift_to_shares(logits: torch.Tensor, shares: np.ndarray, rounds: int = 50) -> torch.Tensor:
    """What to add to logits [rows, outputs] so that the mean of their probabilities is these shares of the
    classes.

    A class that does not occur gets no shift of its own.
    """
    log_odds = logits.shape[1] == 1  # [z] as log-odds is the same as the two logits [0, z]
    start = F.pad(logits, (1, 0)) if log_odds else logits
    wanted = torch.from_numpy(shares).float()
    shift = torch.zeros(start.shape[1])
    there = wanted > 0
    for _ in range(rounds):
        found = (start + shift).softmax(1).mean(0)
        shift[there] += (wanted[there] / found[there].clamp(min=1e-9)).log()
    return shift[1:] - shift[0] if log_odds else shift
