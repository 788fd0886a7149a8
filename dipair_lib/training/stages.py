"""Two-stage training (Chen et al. 2020, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dipair_lib.evaluation import metrics
from dipair_lib.inference.device import device_of, moved, placed_on
from dipair_lib.inference.outputs import Stored, stored_outputs
from dipair_lib.models import DualEncoder
from dipair_lib.training.batches import epochs_of
from dipair_lib.training.cosine import cosine_start, takes_cosine_start
from dipair_lib.training.frozen import cut_all, descend, head_parameters, logits_on, prepared_rows
from dipair_lib.training.loop import RISING, fit
from dipair_lib.training.losses import Targets, loss_to, require_targets, targets_of
from dipair_lib.training.rows import Data
from dipair_lib.training.settings import Fitted, TrainConfig
from dipair_lib.training.start import start_head


def fit_head(
    model: DualEncoder,
    stored: Sequence[Stored],
    data: Data,
    config: TrainConfig,
    *,
    dev: Data | None = None,
    dev_stored: Sequence[Stored] = (),
    metric: str = "",
    what: str = "stage 1",
) -> Fitted:
    """Stage 1 (Chen et al. 2020): projection and head are trained while the encoder is frozen, on its outputs
    computed once.

    The model is left on the device where it was.

    Args:
        model: its encoder is not run and not changed.
        stored: one per field, the encoder's outputs for the distinct texts of ``data.texts`` in the same
            order;
        dev_stored: of ``dev``'s.
        dev: rows to look at, ``config.looks`` times per pass (0: after each) and before the first step; the
            best weights by ``metric`` are kept. None keeps the last.
    """
    require_targets(data, config)
    torch.manual_seed(config.seed)
    start_head(model, stored, data, config)
    device, there = device_of(config.device), placed_on(model)
    kept = cut_all(model, stored, device)
    model.to(device).train()
    batches, passes = steps_of(model, data, config)
    weights = list(head_parameters(model))
    looks = Looks(weights, len(batches) if dev else 0, config.looks * passes or passes)
    dev_kept = cut_all(model, dev_stored, device) if dev else []

    def loss_at(rows: np.ndarray) -> torch.Tensor:
        prepared = prepared_rows(model, kept, data.texts.index[rows])
        targets = Targets(*moved(targets_of(data, rows), device))
        return loss_to(model.combine(*prepared), targets, data.classes, config)

    def look(step: int) -> None:
        if dev and step in looks.steps:
            found = metrics.evaluate(
                [metric], dev.labels, logits_on(model, dev_kept, dev.texts.index), dev.groups
            )
            looks.note(step, found[metric])

    look(0)
    seconds, loss = descend(loss_at, batches, weights, config, device, what, look)
    looks.restore()
    model.to(there).eval()
    return Fitted(
        len(batches), seconds, loss, str(stored[0].hidden.dtype).removeprefix("torch."), tuple(looks.seen),
        sum(len(rows) for rows in batches), passes, looks.best_at, looks.rising, device.type, config.learning_rate,
    )  # fmt: skip


def steps_of(model: DualEncoder, data: Data, config: TrainConfig) -> tuple[list[np.ndarray], float]:
    """The rows of each step of stage 1, and how many passes they are. Single rows in random order, each once
    a pass: no text is encoded, so nothing is saved by whole groups, and steps of few groups learn worse.
    Losses within a group keep it whole.
    """
    if config.loss in {"margin", "listwise"}:
        batches = [rows for epoch in epochs_of(model, data, config) for rows in epoch]
        return batches, sum(len(rows) for rows in batches) / len(data.labels)
    n = len(data.labels)
    total = config.pairs or max(1, round(config.epochs * (config.epoch_rows or n)))
    random = np.random.default_rng(config.seed)
    order = np.concatenate([random.permutation(n) for _ in range(math.ceil(total / n))])[:total]
    return np.split(order, np.arange(config.batch_size, total, config.batch_size)), total / n


class Looks:
    """Looks at dev during a training of so many steps (0: there is no dev), and the weights of the best: of
    equal ones the latest.

    Attributes:
        steps: after which dev is looked at; 0 is the start. seen: the metric at each look; undefined counts
            as the worst.
    """

    def __init__(self, weights: Sequence[nn.Parameter], total: int, wanted: float) -> None:
        self.weights, self.total = weights, total
        spaced = np.linspace(0, self.total, max(1, round(wanted)) + 1)
        self.steps = [int(step) for step in np.unique(spaced.round())] if self.total else []
        self.seen: list[float] = []
        self.kept: list[torch.Tensor] = []

    def note(self, step: int, value: float | None) -> None:
        """Take in the metric after a step."""
        self.seen.append(-np.inf if value is None else value)
        if self.seen[-1] == max(self.seen):
            self.best, self.kept = step, [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back."""
        for weight, kept in zip(self.weights, self.kept, strict=bool(self.kept)):
            weight.copy_(kept)

    @property
    def best_at(self) -> float | None:
        """Share of the steps after which dev was best."""
        return self.best / self.total if self.kept else None

    @property
    def rising(self) -> bool | None:
        """Whether the last look was surely better than all before; None where the training itself had fewer
        than two.
        """
        return bool(self.seen[-1] > max(self.seen[:-1]) + RISING) if len(self.seen) > 2 else None


def fit_stages(
    model: DualEncoder,
    data: Data,
    first: TrainConfig | None,
    second: TrainConfig | None,
    folder: Path,
    *,
    seed: int = 0,
    what: str = "",
    dev: Data | None = None,
    metric: str = "",
    checkpoint_dir: Path | None = None,
    cosine_pairs: int = 0,
) -> tuple[Fitted | None, Fitted | None, dict[str, int]]:
    """Two-stage training (Chen et al. 2020, section 3.4): ``fit_head``, then ``fit``; None leaves a stage
    out.

    Without stage 1, a cosine or MaxSim in the head still starts on its line (see ``start_residual``).

    Args:
        folder: where the outputs of frozen encoders are stored.
        seed: of both stages.
        dev, metric: of both.
        checkpoint_dir: of ``fit``.
        cosine_pairs: of the ``cosine_start`` before them; 0, and heads that take none, begin at random as in
            the paper.

    Returns:
        What each stage cost (the first one that ran also what the cosine start did), and how many texts were
        encoded for stage 1 and how many came from the store.
    """
    one = two = begun = None
    counts = {"encoded": 0, "from_store": 0}
    cosine = cosine_pairs if takes_cosine_start(model) else 0
    if first or cosine or model.head.line:
        device = (first or second or TrainConfig()).device
        stored, counts = stored_outputs(model, data.texts, folder, device)
        if cosine:
            begun = cosine_start(
                model,
                stored,
                data.texts,
                folder,
                cosine,
                seed=seed,
                device=device,
                what=f"{what} cosine start",
            )
        if first:
            dev_stored, more = stored_outputs(model, dev.texts, folder, device) if dev else ([], {})
            counts = {name: n + more.get(name, 0) for name, n in counts.items()}
            one = fit_head(
                model, stored, data, replace(first, seed=seed), dev=dev, dev_stored=dev_stored, metric=metric, what=f"{what} stage 1",
            )  # fmt: skip
        elif second:
            require_targets(data, second)
            start_head(model, stored, data, second)
    if second:
        plan = replace(second, seed=seed)
        two = fit(
            model, data, plan, what=f"{what} stage 2", dev=dev, metric=metric, checkpoint_dir=checkpoint_dir
        )
    if one or not two:
        return with_start(one, begun), two, counts
    return one, with_start(two, begun), counts


def with_start(stage: Fitted | None, start: Fitted | None) -> Fitted | None:
    """What a stage and the cosine start before it cost together; its pairs are none of the stage's, which the
    teacher has scored.
    """
    if stage is None or start is None:
        return stage or start
    notes = f"{start.notes}; {stage.notes}" if stage.notes else start.notes
    return replace(stage, steps=stage.steps + start.steps, seconds=stage.seconds + start.seconds, notes=notes)
