"""Two-stage training (Chen et al. 2020, section 3.4), and where a student starts from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn

from .. import models, progress
from ..models import CrossEncoder, DualEncoder
from ..models.backbone import build_backbone
from ..models.heads import SimilarityHead
from .batches import epochs_of
from .loop import fit, smooth
from .losses import Targets, loss_of, match_loss, matcher_of, require_targets, targets_of
from .optimizers import optimizer_of
from .outputs import Stored, cut_stored, hash_of, prepare_stored, stored_outputs, take
from .predict import gather
from .rows import Data
from .settings import Fitted, TrainConfig

STARTS = ("pretrained", "teacher", "random")


def fit_head(
    model: DualEncoder, stored: Sequence[Stored], data: Data, config: TrainConfig, *, what: str = "stage 1"
) -> Fitted:
    """Stage 1 (Chen et al. 2020): projection and head are trained while the encoder is frozen, on its outputs computed once.

    Args:
        model: its encoder is not run and not changed.
        stored: one per field, the encoder's outputs for the distinct texts of ``data.texts`` in the same order.
    """
    require_targets(data, config)
    torch.manual_seed(config.seed)
    parameters = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    if not data.classes:
        target = data.labels if config.loss == "hard" else data.teacher
        nn.init.constant_(model.final_bias, float(np.mean(target)))  # type: ignore[arg-type]
    start_residual(model, stored, data, config)
    cut = [cut_stored(model, one, field) for field, one in enumerate(stored)]
    batches = [rows for epoch in epochs_of(model, data, config) for rows in epoch]
    matcher = matcher_of(model, data, config)
    optimizer, schedule = optimizer_of([*parameters, *matcher.parameters()], config, len(batches))
    curves = progress.Curves(what, len(batches))
    begun, running = time.perf_counter(), float("nan")
    model.train()
    for step, rows in enumerate(progress.track(batches, what), 1):
        prepared = []
        for field, one in enumerate(cut):
            distinct, place = np.unique(data.texts.index[rows, field], return_inverse=True)
            kept = take(one, distinct, trim=model.select == "learned")
            prepared.append(gather(model.prepare(model.project(kept, field), field), place))
        features = model.features(*prepared) if config.match else None
        loss = loss_of(model.combine(*prepared), data, rows, config)
        loss = loss + match_loss(features, Targets(*targets_of(data, rows)), config, matcher)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        running = smooth(running, float(loss.detach()))
        curves.add(step, running, len(rows))
    curves.end()
    model.eval()
    return Fitted(
        len(batches), time.perf_counter() - begun, running, str(stored[0].hidden.dtype).removeprefix("torch.")
    )


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
    keep: Path | None = None,
) -> tuple[Fitted | None, Fitted | None, dict[str, int]]:
    """Two-stage training (Chen et al. 2020, section 3.4): ``fit_head``, then ``fit``; None leaves a stage out.

    Without stage 1, a cosine or MaxSim in the head still starts on its line (see ``start_residual``).

    Args:
        folder: where the outputs of frozen encoders are stored. seed: of both stages. dev, metric, keep: of ``fit``.

    Returns:
        What each stage cost, and how many texts were encoded for stage 1 and how many came from the store.
    """
    one = two = None
    counts = {"encoded": 0, "from_store": 0}
    if first or any(isinstance(m, SimilarityHead) for m in model.head.modules()):
        stored, counts = stored_outputs(model, data.texts, folder)
        if first:
            one = fit_head(model, stored, data, replace(first, seed=seed), what=f"{what} stage 1")
        elif second:
            start_residual(model, stored, data, second)
    if second:
        plan = replace(second, seed=seed)
        two = fit(model, data, plan, what=f"{what} stage 2", dev=dev, metric=metric, keep=keep)
    return one, two, counts


def start_encoder(model: DualEncoder, start: str, teacher: CrossEncoder | None = None, seed: int = 0) -> None:
    """Where a student's encoder starts from: the ``pretrained`` backbone, the ``teacher``'s weights, or ``random`` ones (whose word-piece
    embeddings are trained, too: see ``trainable``). Sets ``model.start``, by which stored outputs are told apart."""
    if start not in STARTS:
        raise ValueError(f"start: expected one of {', '.join(STARTS)}, but got {start!r}")
    encoders = model.encoder if isinstance(model.encoder, nn.ModuleList) else [model.encoder]
    if start == "teacher":
        if teacher is None or teacher.settings["backbone"] != model.settings["backbone"]:
            raise ValueError(
                f"start teacher: expected a teacher of the backbone {model.settings['backbone']!r}, but its own is "
                f"{teacher.settings['backbone'] if teacher else None!r}"
            )
        weights = teacher.encoder.state_dict()
        for encoder in encoders:
            encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
        model.start = f"teacher {hash_of(*(w.numpy() for w in weights.values()))}"
    elif start == "random":
        torch.manual_seed(seed)
        for encoder in encoders:
            fresh = build_backbone(models.backbone.config_as_dict(encoder), layers=model.settings["layers"])
            encoder.load_state_dict(fresh.state_dict())
        model.start = f"random {seed}"


def start_residual(model: DualEncoder, stored: Sequence[Stored], data: Data, config: TrainConfig) -> None:
    """Where a head is or holds a cosine or MaxSim, start its scale and shift on the line that fits the targets best.

    With any other line the first thing a training would do is to bend the encoder towards the targets' mean and spread.
    """
    start: Any = next((m for m in model.head.modules() if isinstance(m, SimilarityHead)), None)
    if start is None:
        return
    some = np.random.default_rng(0).permutation(len(data.labels))[:20_000]
    distinct = [np.unique(data.texts.index[some, field], return_inverse=True) for field in range(len(stored))]
    with torch.no_grad():
        prepared = [
            prepare_stored(model, one, field, start, texts)
            for field, (one, (texts, _)) in enumerate(zip(stored, distinct, strict=True))
        ]
        parts = [rows for rows in np.array_split(np.arange(len(some)), max(1, len(some) // 2048))]
        places = [place for _, place in distinct]
        x = torch.cat(
            [
                start.similarity(*(gather(p, i[rows]) for p, i in zip(prepared, places, strict=True)))
                for rows in parts
            ]
        ).numpy()
    line: Any = LogisticRegression(C=100.0) if config.loss == "hard" and data.classes else LinearRegression()
    line.fit(x, data.labels[some] if config.loss == "hard" else data.teacher[some])  # type: ignore[index]
    with torch.no_grad():
        start.scale.copy_(torch.from_numpy(np.atleast_2d(line.coef_)))
        start.shift.copy_(torch.from_numpy(np.ravel(line.intercept_)))
