"""The teacher, and the floors that it has to be above."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import quality
from ..models import Constant, DualEncoder, Model, TfIdf
from ..tasks import Task
from .loop import fit
from .outputs import stored_outputs, text_vectors
from .predict import predict
from .rows import Data, outputs_for
from .settings import TrainConfig
from .start import start_residual


def choose_learning_rate(
    build: Callable[[], Any],
    data: Data,
    dev: Data,
    metric: str,
    config: TrainConfig,
    rates: Sequence[float],
    share: float = 0.15,
    keep: Path | None = None,
) -> tuple[float, dict[float, float | None]]:
    """The learning rate that is best on dev after a share of an epoch (one rate is returned as it is, untried).

    Args:
        keep: of ``fit``.

    Returns:
        The rate, and each tried rate's dev metric.
    """
    if not rates:
        raise ValueError("learning_rates: expected at least one, but got none")
    if len(rates) == 1:
        return rates[0], {}
    tried: dict[float, float | None] = {}
    for rate in rates:
        model = build()
        fit(
            model,
            data,
            replace(config, learning_rate=rate, epochs=share),
            what=f"trying learning rate {rate:g}",
            keep=keep,
        )
        tried[rate] = quality.evaluate([metric], dev.labels, predict(model, dev.texts, what="dev"))[metric]
    return max(tried, key=lambda rate: (tried[rate] if tried[rate] is not None else -np.inf, -rate)), tried


def frozen_cosine(backbone: str, read_lengths: Sequence[int], train: Data, folder: Path) -> DualEncoder:
    """The floor for pairs: the cosine of the untrained encoder's means, with scale and shift fitted on the training labels."""
    keep = [0] * len(read_lengths)
    model = DualEncoder(backbone, read_lengths, keep, True, 0, "cosine", outputs=outputs_for(train.classes))
    stored, _ = stored_outputs(model, train.texts, folder)
    start_residual(model, stored, train, TrainConfig(loss="hard"))
    return model.eval()


def cosine_targets(
    backbone: str, read_lengths: Sequence[int], data: Data, folder: Path, spread: float = 2.0
) -> np.ndarray:
    """The untrained encoder's cosine of each pair as logits, float32 [rows, 1]: mean 0, this standard deviation. Needs no label.

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


def floors(
    task: Task, train: Data, backbone: str, read_lengths: Sequence[int], folder: Path
) -> dict[str, Model]:
    """The baselines that every suite holds, by display name: constant, TF-IDF (up to two fields), frozen cosine (pairs)."""
    classes = len(task.classes)
    found: dict[str, Model] = {"constant": Constant.fit(train.labels, classes)}
    if len(task.fields) <= 2:
        found["TF-IDF"] = TfIdf.fit(train.texts, train.labels, classes)
    if len(task.fields) == 2 and classes in (0, 2):
        found["frozen cosine"] = frozen_cosine(backbone, read_lengths, train, folder)
    return found
