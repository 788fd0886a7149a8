"""The loop that trains a network on rows: resumable, interruptible, the best point by dev kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dipair_lib.inference.device import device_of, encoder_dtype, moved, place, placed_on
from dipair_lib.inference.inputs import Inputs
from dipair_lib.inference.outputs import hash_of
from dipair_lib.models import Network
from dipair_lib.system import progress
from dipair_lib.training.batches import epochs_of
from dipair_lib.training.best import BestCheckpoint, dev_metric
from dipair_lib.training.checkpoint import Checkpoint, State
from dipair_lib.training.graphs import GraphedBackward
from dipair_lib.training.losses import Targets, loss_to, require_targets, targets_of
from dipair_lib.training.optimizers import optimizer_of, trainable
from dipair_lib.training.rows import Data, some
from dipair_lib.training.settings import Fitted, TrainConfig
from dipair_lib.training.step import Step, outputs_in, start_bias, with_dropout

DEV_CURVE_SAMPLE = 512  # dev rows scored for a training's curve
READ_EVERY = (
    25  # steps whose losses are fetched from a GPU together: reading one waits for all that was ordered
)
LOOKS = 4  # at dev in the shortest training that is looked at
OF_THE_TIME = 0.25  # that looks at dev may take, a third of a step's work for each row: more dev rows than that are sampled
RISING = 5e-4  # a last look that is better than all before by more than this was still rising


def fit(
    model: Network,
    data: Data,
    config: TrainConfig,
    *,
    what: str = "training",
    dev: Data | None = None,
    metric: str = "",
    checkpoint_dir: Path | None = None,
    against: Sequence[float] = (),
) -> Fitted:
    """Train a network on rows: what ``optimizers.trainable`` says, on ``config.device``; afterwards it lies
    where it lay before.

    Args:
        dev: rows to look at (``config.looks``); the weights of the best look by ``metric`` are kept. None
            keeps the last.
        checkpoint_dir: folder for what a training of minutes has reached: begun again, it goes on from there,
            to the same weights (on a GPU to nearly the same: its sums come in any order).
        against: the dev metric of another training at the same looks: two looks running behind it end this
            one.

    Raises:
        Stopped: Ctrl-C, after the step under way. ``model`` holds the best weights so far.
    """
    require_targets(data, config)
    torch.manual_seed(config.seed)
    home, device = placed_on(model), device_of(config.device)
    try:
        with with_dropout(place(model, device), config.dropout):
            return fit_there(model, data, config, what, dev, metric, checkpoint_dir, against)
    finally:
        model.zero_grad(set_to_none=True)
        place(model, home).eval()


def fit_there(
    model: Network,
    data: Data,
    config: TrainConfig,
    what: str,
    dev: Data | None,
    metric: str,
    checkpoint_dir: Path | None,
    against: Sequence[float],
) -> Fitted:
    """``fit`` of a model that lies where it is trained."""
    device = placed_on(model)
    dtype = encoder_dtype(config.dtype, device)
    parameters = trainable(model, config)
    start_bias(model, data, config)
    epochs = list(epochs_of(model, data, config))
    batches = [rows for epoch in epochs for rows in epoch]
    looks = looks_of([len(epoch) for epoch in epochs], config) if dev else []
    ours = {id(p) for name, p in model.named_parameters() if name.startswith("encoder.")}
    optimizer, schedule = optimizer_of(
        [p for p in parameters if id(p) in ours],
        config,
        len(batches),
        [p for p in parameters if id(p) not in ours],
    )
    name = identity(data, dev, metric, config, parameters) if checkpoint_dir else ""
    checkpoint = Checkpoint(checkpoint_dir, name, parameters, optimizer, schedule)
    state, others = checkpoint.load()
    seen_rows = np.cumsum([len(rows) for rows in batches])
    looked = some(dev, looked_rows(int(seen_rows[-1]), len(looks))) if dev and looks else None
    best = BestCheckpoint(metric, looked, state.seen, others, config.patience, against)
    curves = progress.Curves(what, len(batches), metric if dev else "")
    pending = Pending(state.loss, READ_EVERY if device.type != "cpu" else 1)
    backward = backward_of(model, data, config, dtype, parameters)
    begun = time.perf_counter() - state.seconds
    step, ended = state.step, best.ended
    model.train()
    tracked = [] if ended else progress.track(batches[state.step :], what)
    with progress.interruptible() as interrupted:
        for step, (rows, batch) in enumerate(built_batches(model, data, tracked, device), state.step + 1):
            pending.add(backward(batch))
            if config.optimizer == "adamw":
                nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if step in looks:
                best.update(model.eval())
            if dev and step in curves.looks:
                curves.dev.append((step, dev_metric(model.eval(), dev.first(DEV_CURVE_SAMPLE), metric)))
            model.train()
            curves.add(step, pending.running, rows)
            ended = best.ended
            stopping = interrupted() or checkpoint.due(ended or step == len(batches))
            if stopping:
                state = State(step, pending.read(), time.perf_counter() - begun, best.seen)
                checkpoint.save(state, best.tensors())
            if interrupted():
                best.restore(model.eval())
                raise progress.Stopped(what, step, len(batches), goes_on=checkpoint_dir is not None)
            if ended:
                break
    curves.end()
    loss = pending.read()
    best.restore(model)
    pairs = int(seen_rows[step - 1]) if step else 0
    return Fitted(
        steps=step,
        seconds=time.perf_counter() - begun,
        loss=loss,
        dtype=dtype,
        dev=tuple(best.seen),
        pairs=pairs,
        passes=pairs / len(data.labels),
        best_at=looks[int(np.argmax(best.seen))] / len(batches) if best.seen else None,
        rising=best.rising(RISING) if best.seen and step == len(batches) else None,
        device=device.type,
        learning_rate=config.learning_rate,
    )


def looks_of(steps: Sequence[int], config: TrainConfig) -> list[int]:
    """Steps, counted from 1, after which dev is looked at: the ends of several epochs, or ``config.looks``
    times per pass, at least ``LOOKS`` times in all and always at the end.

    Args:
        steps: of each epoch.
    """
    ends = np.cumsum(steps).tolist()
    if not config.looks:
        return ends if len(ends) > 1 else []
    n = max(LOOKS, round(config.looks * ends[-1] / max(steps)))
    return sorted({max(1, round(ends[-1] * (i + 1) / n)) for i in range(n)})


def looked_rows(pairs: int, looks: int) -> int:
    """Dev rows of one look, such that all looks together take no more than ``OF_THE_TIME``."""
    return max(256, round(3 * OF_THE_TIME * pairs / max(1, looks)))


@dataclass
class Pending:
    """Losses that were computed, and perhaps not read yet; their running mean.

    Attributes:
        running: mean over what was read.
        every: losses read together.
    """

    running: float
    every: int
    losses: list[torch.Tensor] = field(default_factory=list)

    def add(self, loss: torch.Tensor) -> None:
        """One more."""
        self.losses.append(loss)
        if len(self.losses) >= self.every:
            self.read()

    def read(self) -> float:
        """Take in all there are."""
        if self.losses:
            for value in torch.stack(self.losses).tolist():
                self.running = smooth(self.running, value)
            self.losses.clear()
        return self.running


def smooth(running: float, value: float) -> float:
    """Exponential running mean. A loss that is not finite stops the training: it can only give wrong numbers."""
    if not np.isfinite(value):
        raise FloatingPointError(f"training diverged: the loss is {value}: lower the learning rate")
    return value if np.isnan(running) else 0.98 * running + 0.02 * value


def built_batches(model: Network, data: Data, batches: Any, device: torch.device) -> Any:
    """Of each step the number of its rows and (inputs, targets) on the device."""
    step, inputs = Step(model), Inputs(model, data.texts, device)
    for rows in batches:
        yield len(rows), [step.batch(inputs, rows), moved(targets_of(data, rows), device)]


def backward_of(
    model: Network,
    data: Data,
    config: TrainConfig,
    dtype: str,
    weights: Sequence[nn.Parameter],
) -> Any:
    """A function from (inputs, targets) to the loss, which leaves its gradients in the weights; on a GPU
    recorded where that can be.
    """

    def loss_at(inputs: Any, targets: Any) -> torch.Tensor:
        return loss_to(outputs_in(model, inputs, dtype), Targets(*targets), data.classes, config)

    plain_loss = config.loss not in {"margin", "listwise"}
    if placed_on(model).type == "cuda" and model.per_pair and plain_loss:
        graphed = GraphedBackward(
            lambda *given: loss_at(given[: -len(Targets._fields)], given[-len(Targets._fields) :]), weights
        )
        return lambda batch: graphed([*batch[0], *batch[1]])
    return partial(plain_backward, loss_at, weights)


def plain_backward(loss_at: Any, weights: Sequence[nn.Parameter], batch: Any) -> torch.Tensor:
    """The loss of a batch, its gradients left in the weights."""
    for weight in weights:
        weight.grad = None
    loss = loss_at(*batch)
    loss.backward()
    return loss.detach()  # type: ignore[no-any-return]


def identity(
    data: Data, dev: Data | None, metric: str, config: TrainConfig, weights: Sequence[torch.Tensor]
) -> str:
    """A hash of all that a training begins with: its rows, those it is judged by, its settings and weights,
    and the version of torch.
    """
    arrays = []
    for rows in (data, dev) if dev else (data,):
        pieces = [array for tokens in rows.texts.tokens for array in (tokens.ids, tokens.offsets)]
        arrays += [*pieces, rows.texts.index, rows.labels, rows.groups]
    given = [] if data.teacher is None else [data.teacher]
    return hash_of(
        asdict(config),
        metric,
        torch.__version__,
        *arrays,
        *given,
        *(w.detach().cpu().numpy() for w in weights),
    )
