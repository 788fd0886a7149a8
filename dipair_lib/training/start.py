"""Where a student starts from, before its first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression

from dipair_lib import models
from dipair_lib.evaluation.schema import Result
from dipair_lib.inference.outputs import Stored, hash_of, prepare_stored
from dipair_lib.inference.predict import gather
from dipair_lib.models import CrossEncoder, DualEncoder
from dipair_lib.models.backbone import build_backbone
from dipair_lib.models.pair_model import Head
from dipair_lib.models.tokens import Texts
from dipair_lib.training.rows import Data
from dipair_lib.training.settings import TrainConfig
from dipair_lib.training.step import shift_to_targets

RATES = (5e-5, 1e-4)  # learning rates of a cross-encoder, the one that fails least often first
STARTS = ("pretrained", "teacher", "random")


def start_encoder(model: DualEncoder, start: str, teacher: CrossEncoder | None = None, seed: int = 0) -> None:
    """Where a student's encoder starts from: the ``pretrained`` backbone, the ``teacher``'s weights, or
    ``random`` ones (whose word-piece embeddings are trained, too: see ``trainable``). Sets ``model.start``,
    by which stored outputs are told apart.
    """
    if start not in STARTS:
        raise ValueError(f"start: expected one of {', '.join(STARTS)}, but got {start!r}")
    if start == "teacher":
        if teacher is None or teacher.settings["backbone"] != model.settings["backbone"]:
            raise ValueError(
                f"start teacher: expected a teacher of the backbone {model.settings['backbone']!r}, but its own is "
                f"{teacher.settings['backbone'] if teacher else None!r}"
            )
        weights = teacher.encoder.state_dict()
        for encoder in model.encoders:
            encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
        model.start = f"teacher {hash_of(*(w.cpu().numpy() for w in weights.values()))}"
    elif start == "random":
        torch.manual_seed(seed)
        for encoder in model.encoders:
            fresh = build_backbone(models.backbone.config_as_dict(encoder), layers=model.settings["layers"])
            encoder.load_state_dict(fresh.state_dict())
        model.start = f"random {seed}"


def start_head(model: DualEncoder, stored: Sequence[Stored], data: Data, config: TrainConfig) -> None:
    """Put a head where its targets are: a similarity on its line (``start_residual``), any other by its final
    bias, so that its mean on the rows is that of their targets. Otherwise the first thing a training does is
    to get there.
    """
    if model.head.line is not None:
        start_residual(model, stored, data, config)
        return
    rows = some_rows(data, 2_000)
    found = torch.from_numpy(of_rows(model, stored, data.texts, rows, model.head, model.combine))
    with torch.no_grad():
        model.final_bias.add_(shift_to_targets(found, data, rows, config).to(model.final_bias))


def start_residual(model: DualEncoder, stored: Sequence[Stored], data: Data, config: TrainConfig) -> None:
    """Where a head is or holds a cosine or MaxSim, start its scale and shift on the line that fits the
    targets best.

    With any other line the first thing a training would do is to bend the encoder towards the targets' mean
    and spread.
    """
    start = model.head.line
    if start is None:
        return
    some = some_rows(data, 20_000)
    x = of_rows(model, stored, data.texts, some, start, start.similarity)
    line: Any = LogisticRegression(C=100.0) if config.loss == "hard" and data.classes else LinearRegression()
    line.fit(x, data.labels[some] if config.loss == "hard" else data.teacher[some])  # type: ignore[index]
    with torch.no_grad():
        start.scale.copy_(torch.from_numpy(np.atleast_2d(line.coef_)))
        start.shift.copy_(torch.from_numpy(np.ravel(line.intercept_)))


def some_rows(data: Data, n: int) -> np.ndarray:
    """At most so many rows, the same each time."""
    return np.random.default_rng(0).permutation(len(data.labels))[:n]


def of_rows(
    model: DualEncoder,
    stored: Sequence[Stored],
    texts: Texts,
    rows: np.ndarray,
    head: Head,
    combine: Callable[..., torch.Tensor],
    chunk: int = 2048,
) -> np.ndarray:
    """What ``combine`` gives of some rows, [rows, ...], from their stored outputs prepared by ``head``."""
    distinct = [np.unique(texts.index[rows, field], return_inverse=True) for field in range(len(stored))]
    with torch.no_grad():
        prepared = [
            prepare_stored(model, one, field, head, which)
            for field, (one, (which, _)) in enumerate(zip(stored, distinct, strict=True))
        ]
        places = [place for _, place in distinct]
        parts = np.array_split(np.arange(len(rows)), max(1, len(rows) // chunk))
        found = [
            combine(*(gather(p, i[part]) for p, i in zip(prepared, places, strict=True))) for part in parts
        ]
    return torch.cat(found).cpu().numpy()


def rates_of(rates: Sequence[float], teacher: Result | None) -> list[float]:
    """The learning rates that 01_teacher tries: those asked for; else a student's teacher's own, from whose
    weights it starts, or from a part of the same backbone; else ``RATES``, of which a student whose teacher
    names none takes the first.

    Args:
        teacher: the row of a student's teacher, None where the teacher itself is trained.
    """
    if rates:
        return [float(rate) for rate in rates]  # YAML reads 5e-5, without a point, as text
    if teacher is None:
        return list(RATES)
    return [teacher.learning_rate or RATES[0]]
