"""The loop that trains a network on rows: resumable, interruptible, the best point by dev kept."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import progress, quality
from ..models import BiLSTM, CrossEncoder
from ..models.tokens import Texts, length_sorted
from .batches import epochs_of
from .checkpoint import Checkpoint, State
from .device import encoder_dtype
from .losses import loss_of, match_loss, matcher_of, require_targets
from .optimizers import optimizer_of, trainable
from .outputs import hash_of
from .predict import gather, predict, prepare_batches
from .rows import Data
from .settings import Fitted, TrainConfig

LOOKED_AT = 512  # dev rows scored for a training's curve


SUB_BATCH = 32  # texts a transformer encodes together within a training step: few enough to be of like length, enough to fill a core


LSTM_SUB_BATCH = 128  # the same for an LSTM, whose steps are small


def fit(
    model: Any,
    data: Data,
    config: TrainConfig,
    *,
    what: str = "training",
    dev: Data | None = None,
    metric: str = "",
    keep: Path | None = None,
) -> Fitted:
    """Train a network on rows, all of its parameters except the word-piece embeddings of a transformer (they are half of MiniLM's
    weights, most rows get no gradient in a short run, and updating them costs a tenth of each step).

    Args:
        dev: rows to look at after each of several epochs; the weights of the best by ``metric`` are kept. None keeps the last.
        keep: folder for what a training of minutes has reached: begun again, it goes on from there, to the same weights.

    Raises:
        Stopped: Ctrl-C, after the step under way. ``model`` holds the best weights so far.
    """
    require_targets(data, config)
    torch.manual_seed(config.seed)
    dtype = encoder_dtype(config.dtype)
    parameters = trainable(model, config)
    start_bias(model, data, config)
    epochs = list(epochs_of(model, data, config))
    batches = [rows for epoch in epochs for rows in epoch]
    ends = set(np.cumsum([len(epoch) for epoch in epochs]).tolist())
    matcher = matcher_of(model, data, config)
    weights = [*parameters, *matcher.parameters()]
    optimizer, schedule = optimizer_of(weights, config, len(batches))
    name = identity(data, dev, metric, config, weights) if keep else ""
    checkpoint = Checkpoint(keep, name, weights, optimizer, schedule)
    state, others = checkpoint.load()
    best = Best(metric, dev if len(epochs) > 1 else None, state.seen, others)
    mean = Mean(parameters, config.average, len(batches), state.averaged, others)
    curves = progress.Curves(what, len(batches), metric if dev else "")
    begun = time.perf_counter() - state.seconds
    model.train()
    with progress.interruptible() as interrupted:
        for step, rows in enumerate(progress.track(batches[state.step :], what), state.step + 1):
            logits, features = outputs_in(model, data.texts, rows, dtype, config.match > 0)
            loss = loss_of(logits, data, rows, config) + match_loss(features, data, rows, config, matcher)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.optimizer == "adamw":
                nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            mean.look(step)
            running = smooth(state.loss, float(loss.detach()))
            if step in ends:
                best.look(model.eval())
            if dev and step in curves.looks:
                curves.dev.append((step, dev_metric(model.eval(), dev.first(LOOKED_AT), metric)))
            model.train()
            curves.add(step, running, len(rows))
            state = State(step, running, time.perf_counter() - begun, best.seen, mean.seen)
            if interrupted() or checkpoint.due(step == len(batches)):
                checkpoint.save(state, {**best.tensors(), **mean.tensors()})
            if interrupted():
                best.restore(model.eval())
                raise progress.Stopped(what, step, len(batches), goes_on=keep is not None)
    curves.end()
    mean.restore()
    if mean.seen:
        best.look(model.eval())  # the mean is one more candidate beside the epochs
    best.restore(model)
    model.eval()
    return Fitted(len(batches), state.seconds, state.loss, dtype, tuple(best.seen))


def identity(
    data: Data, dev: Data | None, metric: str, config: TrainConfig, weights: Sequence[torch.Tensor]
) -> str:
    """A hash of all that a training begins with: its rows, those it is judged by, its settings and weights, and the version of torch."""
    arrays = []
    for rows in (data, dev) if dev else (data,):
        pieces = [array for tokens in rows.texts.tokens for array in (tokens.ids, tokens.offsets)]
        arrays += [*pieces, rows.texts.index, rows.labels, rows.groups]
    given = [array for array in (data.teacher, data.features) if array is not None]
    return hash_of(
        asdict(config), metric, torch.__version__, *arrays, *given, *(w.detach().numpy() for w in weights)
    )


class Mean:
    """The mean of the weights over the last steps of a training; with a share of 0 it does nothing.

    Args:
        seen, others: of a training that goes on: how many were summed up, and the sums, from ``tensors``.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        share: float,
        steps: int,
        seen: int,
        others: Mapping[str, torch.Tensor],
    ) -> None:
        self.parameters, self.begin, self.seen = parameters, steps - round(share * steps), seen
        known = [others.get(f"sum {i}") for i in range(len(parameters))]
        zeros = [torch.zeros_like(p) for p in parameters] if share else []
        self.sums = [zero if sum is None else sum for zero, sum in zip(zeros, known, strict=False)]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        return {f"sum {i}": total for i, total in enumerate(self.sums)} if self.seen else {}

    @torch.no_grad()
    def look(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        if self.sums and step > self.begin:
            torch._foreach_add_(self.sums, list(self.parameters))
            self.seen += 1

    @torch.no_grad()
    def restore(self) -> None:
        """Put the mean in place of the last weights."""
        if self.seen:
            for parameter, total in zip(self.parameters, self.sums, strict=True):
                parameter.copy_(total / self.seen)


class Best:
    """The weights of the best epoch by a dev metric (higher is better); without dev rows it does nothing.

    Args:
        seen, others: of a training that goes on: the metric after its epochs, and the best weights, from ``tensors``.
    """

    def __init__(
        self,
        metric: str,
        dev: Data | None,
        seen: Sequence[float],
        others: Mapping[str, torch.Tensor],
    ) -> None:
        self.metric, self.dev = metric, dev
        self.seen = list(seen)
        self.weights = {n.removeprefix("best "): w for n, w in others.items() if n.startswith("best ")}

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        return {f"best {name}": weight for name, weight in self.weights.items()}

    def look(self, model: Any) -> None:
        """Score dev and remember the weights if no earlier epoch was better. An undefined metric counts as the worst."""
        if self.dev is None:
            return
        value = dev_metric(model, self.dev, self.metric)
        if not self.seen or value > max(self.seen):
            self.weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self.seen.append(value)

    def restore(self, model: Any) -> None:
        """Put the remembered weights back."""
        if self.weights:
            model.load_state_dict(self.weights)


def dev_metric(model: Any, dev: Data, metric: str) -> float:
    """A metric of a model in evaluation mode on dev rows; -inf where it is undefined."""
    found = quality.evaluate([metric], dev.labels, predict(model, dev.texts, what=""))[metric]
    return -np.inf if found is None else found


def start_bias(model: Any, data: Data, config: TrainConfig, *, sample: int = 256) -> None:
    """For scores, shift the model so that the mean of its scores is that of its targets, on a sample of the rows: with a small learning
    rate it would take most of the run to get there. What is right already (after stage 1, or from the teacher's weights) stays."""
    if data.classes:
        return
    rows = np.unique(np.linspace(0, len(data.labels) - 1, sample).astype(np.int64))
    target = data.labels[rows] if config.loss == "hard" else data.teacher[rows]  # type: ignore[index]
    with torch.no_grad():
        found, _ = Step(model.eval())(data.texts, rows)
        model.final_bias.add_(float(np.mean(target)) - float(found.mean()))


class Step(nn.Module):
    """A model's forward pass from rows of texts to logits, as a module, so that its parameters can be swapped for shorter ones."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, texts: Texts, rows: np.ndarray, features: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [rows, outputs], and the head's features if asked; each distinct text of the batch is encoded once, beside others of
        about its length."""
        if isinstance(self.model, CrossEncoder):
            return self.model(*self.model.batch(texts, rows)), None
        prepared = []
        for field, tokens in enumerate(texts.tokens):
            distinct, place = np.unique(texts.index[rows, field], return_inverse=True)
            size = LSTM_SUB_BATCH if isinstance(self.model, BiLSTM) else SUB_BATCH
            batches = [distinct[part] for part in length_sorted(tokens.lengths[distinct], size)]
            prepared.append(gather(prepare_batches(self.model, tokens, field, batches), place))
        return self.model.combine(*prepared), self.model.features(*prepared) if features else None


def outputs_in(
    model: Any, texts: Texts, rows: np.ndarray, dtype: str, features: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """float32 logits (and the head's features) with the encoder's arithmetic in ``dtype`` and its weights, and their gradients, in float32.

    The encoder's parameters are cast for the pass; the cast is differentiable, so gradients arrive at the float32 ones. On two
    cores this is a third faster than autocast, which casts at each operation and keeps layer norms in float32.
    """
    step = Step(model)
    if dtype == "float32":
        return step(texts, rows, features)  # type: ignore[no-any-return]
    if not hasattr(model, "encoder"):  # an LSTM's kernel wants one dtype: autocast sees to that
        with torch.autocast("cpu", getattr(torch, dtype)):
            logits, _ = step(texts, rows)
            return logits.float(), None
    short = getattr(torch, dtype)
    cast = {
        f"model.{name}": p.to(short) for name, p in model.named_parameters() if name.startswith("encoder.")
    }
    logits, found = torch.func.functional_call(step, cast, (texts, rows, features))
    return logits.float(), None if found is None else found.float()


def smooth(running: float, value: float) -> float:
    """Exponential running mean. A loss that is not finite stops the training: it can only give wrong numbers."""
    if not np.isfinite(value):
        raise FloatingPointError(f"training diverged: the loss is {value}: lower the learning rate")
    return value if np.isnan(running) else 0.98 * running + 0.02 * value
