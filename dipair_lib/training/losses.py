"""Losses: labels, and distances to the teacher."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from dipair_lib.training.rows import Data
from dipair_lib.training.settings import TrainConfig


def require_targets(data: Data, config: TrainConfig) -> None:
    """Raise if the loss needs what the data does not have."""
    if config.loss != "hard" and data.teacher is None:
        raise ValueError(
            f"loss {config.loss!r} needs teacher logits, but there are none: run 01_teacher first, or use loss 'hard'"
        )
    if config.loss in {"margin", "listwise"}:
        if data.teacher is not None and data.teacher.shape[1] != 1:
            raise ValueError(
                f"loss {config.loss!r} orders rows by one score, but this task has {data.teacher.shape[1]} outputs: use 'logits'"
            )
        if len(np.unique(data.groups)) == len(data.groups):
            raise ValueError(
                f"loss {config.loss!r} compares the rows of a group, but no two rows share one: name the `group` column"
            )
    if config.loss in {"soft", "kl"} and data.classes == 0:
        raise ValueError(
            f"loss {config.loss!r} compares probabilities of classes, but this task's labels are scores: use 'logits'"
        )
    if len(data.texts) == 0:
        raise ValueError("training: expected rows, but there are none")


class Targets(NamedTuple):
    """What the rows of a step are to meet.

    Attributes:
        labels: [rows].
        groups: int64 [rows].
        teacher: float32 [rows, outputs] or [].
    """

    labels: torch.Tensor
    groups: torch.Tensor
    teacher: torch.Tensor


def targets_of(data: Data, rows: np.ndarray) -> list[torch.Tensor]:
    """The fields of ``Targets`` of some rows, on the CPU."""
    given = [np.asarray(data.labels), data.groups, data.teacher]
    return [torch.from_numpy(np.zeros(0, np.float32) if array is None else array[rows]) for array in given]


def loss_of(logits: torch.Tensor, data: Data, rows: np.ndarray, config: TrainConfig) -> torch.Tensor:
    """``loss_to`` the targets of some rows."""
    targets = Targets(*(t.to(logits.device) for t in targets_of(data, rows)))
    return loss_to(logits, targets, data.classes, config)


def loss_to(logits: torch.Tensor, targets: Targets, classes: int, config: TrainConfig) -> torch.Tensor:
    """alpha * hard + (1 - alpha) * distance to the teacher (Tang et al. 2019, equation 4); a mean over the
    rows.
    """
    alpha = 1.0 if config.loss == "hard" else config.alpha
    loss = logits.new_zeros(())
    if alpha > 0:
        loss = loss + alpha * hard_loss(logits, targets.labels, classes)
    if alpha < 1:
        if config.loss in {"margin", "listwise"}:
            distance = order_loss(logits, targets.teacher, targets.groups, config)
        else:
            distance = soft_loss(logits, targets.teacher, config)
        loss = loss + (1 - alpha) * distance
    return loss


def order_loss(
    logits: torch.Tensor, teacher: torch.Tensor, groups: torch.Tensor, config: TrainConfig
) -> torch.Tensor:
    """Distance to the teacher's order within groups; logits, teacher [rows, 1], groups [rows]. A group of one
    row says nothing: 0.

    ``margin``: mean over a group's pairs of rows of the squared difference of margins, which is twice the
    variance of the difference to the teacher; ``listwise``: KL of the softmax over the group's rows at a
    temperature. Each a mean over the groups of two rows or more.
    """
    place = torch.unique(groups, return_inverse=True)[1]
    count = torch.bincount(place).to(logits.dtype)
    several = (count > 1).to(logits.dtype)
    student, taught = logits[:, 0], teacher[:, 0]
    if config.loss == "margin":
        apart = student - taught
        mean = sums(apart, place, len(count)) / count
        each = 2 * sums((apart - mean[place]) ** 2, place, len(count)) / (count - 1).clamp(min=1)
    else:
        t = config.temperature
        target, found = (x / t - log_sums(x / t, place, len(count))[place] for x in (taught, student))
        each = t * t * sums(target.exp() * (target - found), place, len(count))
    return (each * several).sum() / several.sum().clamp(min=1)


def sums(values: torch.Tensor, place: torch.Tensor, n: int) -> torch.Tensor:
    """Sum of values [rows] per group [n]."""
    return values.new_zeros(n).index_add(0, place, values)


def log_sums(values: torch.Tensor, place: torch.Tensor, n: int) -> torch.Tensor:
    """Log of the sum of exponentials of values [rows] per group [n]."""
    high = values.new_full((n,), float("-inf")).scatter_reduce(0, place, values.detach(), "amax")
    return high + sums((values - high[place]).exp(), place, n).log()


def soft_loss(logits: torch.Tensor, teacher: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Distance of logits [rows, outputs] to the teacher's, a mean over the rows: ``logits``, the squared
    error summed over the outputs (Tang et al. 2019, equation 3), or cross-entropy or KL of probabilities at a
    temperature.

    One logit is the log-odds of two classes: its probabilities are a sigmoid's. Tang et al. have two logits
    there; their sum of squares is half the square of the log-odds, but for a part that moves no probability
    (the error of the two logits' sum). So ``logits`` weighs twice as much here for two classes: to an alpha
    of theirs belongs ours with twice the alpha / (1 - alpha). AdaDelta and AdamW go by ratios of gradients:
    without labels beside it a factor of the loss hardly changes a step.
    """
    if config.loss == "logits":
        return F.mse_loss(logits, teacher, reduction="none").sum(1).mean()
    t = config.temperature
    if logits.shape[1] == 1:  # [z] as log-odds is the same as the two logits [0, z]
        logits, teacher = F.pad(logits, (1, 0)), F.pad(teacher, (1, 0))
    target = F.softmax(teacher / t, dim=1)
    loss = F.cross_entropy(logits / t, target)
    if config.loss == "kl":
        loss = loss - torch.special.entr(target).sum(1).mean()
    return t * t * loss


def hard_loss(logits: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Cross-entropy on labels (of the log-odds for two classes), squared error on scores."""
    if classes == 0:
        return F.mse_loss(logits[:, 0], labels.float())
    if classes == 2:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    return F.cross_entropy(logits, labels)
