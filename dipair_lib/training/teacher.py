"""The teacher, and the baselines that it has to be above."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipair_lib.data.task import Task
from dipair_lib.inference.device import device_of
from dipair_lib.inference.outputs import stored_outputs, text_vectors
from dipair_lib.models import Constant, DualEncoder, Model, TfIdf
from dipair_lib.training.best import dev_metric
from dipair_lib.training.loop import fit
from dipair_lib.training.rows import Data, outputs_for
from dipair_lib.training.settings import Fitted, TrainConfig, budget_of
from dipair_lib.training.start import start_residual

PAIRS = {"cpu": 24_000, "mps": 100_000, "cuda": 200_000}  # seen by a teacher in one training, by device
PASSES = 4.0  # over its rows at most: more only overfitted wherever it was tried
LOWER = 3.0  # a training that failed is made again at a rate lower by this
LOWEST = 1e-6  # and not below this one
MARGIN = 1e-3  # of the dev metric: how far above the baselines a training has to end


def teacher_config(
    rows: int,
    device: str | torch.device = "auto",
    budget: float = 1.0,
    *,
    passes: float = 0.0,
    pairs: Sequence[int] = (),
    **further: Any,
) -> TrainConfig:
    """Settings of a cross-encoder's training that need no tuning: a budget in pairs seen, dev looked at twice
    a pass, the best look kept.

    Small sets get ``PASSES`` passes, large ones what the device can do in some minutes. No dropout and frozen
    word embeddings: with them a step takes twice as long on a CPU, and on no set that was tried did they
    bring anything (see ``results/reference/teachers``).

    Args:
        rows: of the training split.
        budget: times the pairs or passes.
        passes: over the rows; 0 takes as many as the pairs allow.
        pairs: seen in one training, on a CPU and on an accelerator.
        further: fields of ``TrainConfig``.
    """
    there = device_of(device)
    most = budget_of(pairs, there, budget) or PAIRS[there.type] * budget
    seen = passes * rows * budget if passes else min(most, PASSES * rows)
    given = {"loss": "hard", "pairs": max(1, round(seen)), "looks": 2.0, "patience": 4, "device": there.type}
    return TrainConfig(**{**given, **further})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trained:
    """A training that was chosen among several.

    Attributes:
        fitted: of the one whose weights are kept.
        tried: the best dev metric of each learning rate, in the order of their trials.
    """

    fitted: Fitted
    tried: dict[float, float]


def train_best(
    build: Callable[[], Any],
    data: Data,
    dev: Data,
    metric: str,
    config: TrainConfig,
    rates: Sequence[float],
    *,
    floor: float = -np.inf,
    what: str = "training",
    checkpoint_dir: Path | None = None,
) -> tuple[Any, Trained]:
    """Train at each learning rate in turn, each with its whole schedule (as Tang et al. do), and keep what is
    best on dev.

    A rate that is behind the best so far at the same look, twice running, is given up there: a real trial
    that seldom costs a second training. If none ends above the floor, the lowest rate was still too high, or
    the seed failed: the training is made again at a third of it, twice at most, and ``Fitted.notes`` says so.

    Args:
        build: makes the untrained network, the same every time.
        rates: the most likely one first.
        floor: the dev metric that a constant or an untrained row reaches on the same rows.
        checkpoint_dir: of ``fit``.

    Returns:
        The network with the best weights, and what was tried.
    """
    if not rates:
        raise ValueError("learning_rates: expected at least one, but got none")
    best_model, best, tried = None, None, {}
    failed: list[str] = []
    lowered = 0
    queue = list(rates)
    while queue:
        rate = queue.pop(0)
        model = build()
        said = f"{what}, learning rate {rate:g}" if len(rates) > 1 or failed else what
        plan = replace(config, learning_rate=rate, looks=config.looks or 2.0)
        against = best.dev if best else ()
        try:
            found = fit(
                model,
                data,
                plan,
                what=said,
                dev=dev,
                metric=metric,
                checkpoint_dir=checkpoint_dir,
                against=against,
            )
            tried[rate] = max(found.dev)
        except FloatingPointError:  # a loss that is not finite: the rate is far too high
            tried[rate] = -np.inf
        if tried[rate] > (max(best.dev) if best else -np.inf):
            best_model, best = model, found
        below = best is None or max(best.dev) <= floor + MARGIN
        if not queue and below and lowered < 2 and min(tried) / LOWER >= LOWEST:
            failed, lowered = [f"{rate:g}" for rate in tried], lowered + 1
            queue.append(min(tried) / LOWER)
    if best is None:
        raise FloatingPointError(
            f"{what}: the loss is not finite at any learning rate of {', '.join(f'{rate:g}' for rate in tried)}: look at the data"
        )
    notes = ""
    if failed:
        ended = "above" if max(best.dev) > floor + MARGIN else "still not above"
        notes = (
            f"Dev ended no better than the untrained rows at learning rate {', '.join(failed)}; "
            f"trained again at {min(tried):g}: {ended} them."
        )
    return best_model, Trained(replace(best, notes=notes), tried)


def dev_floor(baselines: Mapping[str, Model], dev: Data, metric: str) -> float:
    """The best dev metric of the rows that nobody trained; -inf without any."""
    return max((dev_metric(model, dev, metric) for model in baselines.values()), default=-np.inf)


def frozen_cosine(backbone: str, read_lengths: Sequence[int], train: Data, folder: Path) -> DualEncoder:
    """The floor for pairs: the cosine of the untrained encoder's means, with scale and shift fitted on the
    training labels.
    """
    keep = [0] * len(read_lengths)
    model = DualEncoder(backbone, read_lengths, keep, True, 0, "cosine", outputs=outputs_for(train.classes))
    stored, _ = stored_outputs(model, train.texts, folder)
    start_residual(model, stored, train, TrainConfig(loss="hard"))
    return model.eval()


def cosine_targets(
    backbone: str, read_lengths: Sequence[int], data: Data, folder: Path, spread: float = 2.0
) -> np.ndarray:
    """The untrained encoder's cosine of each pair as logits, float32 [rows, 1]: mean 0, this standard
    deviation. Needs no label.

    What a cross-encoder learns first when it is warmed up (not in the papers).
    """
    if len(data.texts.tokens) != 2 or data.classes > 2:
        raise ValueError(
            f"warm: a cosine is of two fields and one score, but the task has {len(data.texts.tokens)} fields and {data.classes} classes: "
            "leave warm at 0"
        )
    vectors = text_vectors(backbone, read_lengths, data.texts, folder)
    cosine = (vectors[0][data.texts.index[:, 0]] * vectors[1][data.texts.index[:, 1]]).sum(1, keepdims=True)
    return spread * (cosine - cosine.mean()) / max(float(cosine.std()), 1e-12)


def baselines(
    task: Task, train: Data, backbone: str, read_lengths: Sequence[int], folder: Path
) -> dict[str, Model]:
    """The baselines that every suite holds, by display name: constant, TF-IDF (up to two fields), frozen
    cosine (pairs).
    """
    classes = len(task.classes)
    found: dict[str, Model] = {"constant": Constant.fit(train.labels, classes)}
    if len(task.fields) <= 2:
        found["TF-IDF"] = TfIdf.fit(train.texts, train.labels, classes)
    if len(task.fields) == 2 and classes in (0, 2):
        found["frozen cosine"] = frozen_cosine(backbone, read_lengths, train, folder)
    return found
