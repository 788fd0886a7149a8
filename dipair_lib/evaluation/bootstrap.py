"""Intervals of one model: draws of whole groups, percentiles, and a row's fields of quality."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dipair_lib.data.task import Task
from dipair_lib.evaluation import metrics


def interval(
    metric: str,
    labels: np.ndarray,
    logits: np.ndarray,
    groups: np.ndarray,
    *,
    teacher_logits: np.ndarray | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The headline metric with its 95 % percentile interval from a bootstrap over groups, and its ratio to the teacher's, paired.

    Groups (queries), never pairs that share one, are what is drawn: pairs of one query are not independent. In each draw student and
    teacher are evaluated on the same groups, so what both find hard cancels out of ``retained``.

    Args:
        metric: one name from ``METRICS``.
        labels: [n]. logits: [n, outputs]. groups: int [n].
        teacher_logits: [n, outputs] on the same examples in the same order, or None.
        n_boot: draws. seed: of the draws; the same seed draws the same groups for every model.

    Returns:
        quality, quality_low, quality_high, retained, retained_low, retained_high (None without a teacher), n_boot.
    """
    labels, logits, groups = np.asarray(labels), np.asarray(logits, np.float64), np.asarray(groups)
    metrics.check(metric, labels, logits)
    if metric not in metrics.METRICS:
        raise ValueError(
            f"metric: expected one of {', '.join(metrics.METRICS)} for an interval, but got {metric!r}"
        )
    if len(groups) != len(labels):
        raise ValueError(f"groups: expected {len(labels)}, one per example, but got {len(groups)}")
    one = np.ones((1, len(labels)))
    quality = metrics.METRICS[metric](labels, logits, one)
    teacher = None
    if teacher_logits is not None:
        teacher_logits = np.asarray(teacher_logits, np.float64)
        metrics.check(metric, labels, teacher_logits)
        teacher = metrics.METRICS[metric](labels, teacher_logits, one)
    draws, teacher_draws = [], []
    for weights in draw_groups(groups, n_boot, seed):
        draws.append(metrics.METRICS[metric](labels, logits, weights))
        if teacher_logits is not None:
            teacher_draws.append(metrics.METRICS[metric](labels, teacher_logits, weights))
    drawn = np.concatenate(draws)
    low, high = bounds(drawn)
    result: dict[str, Any] = {
        "quality": metrics.number(quality[0]),
        "quality_low": low,
        "quality_high": high,
        "retained": None,
        "retained_low": None,
        "retained_high": None,
        "n_boot": n_boot,
    }
    if teacher is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            result["retained"] = metrics.number(quality[0] / teacher[0])
            result["retained_low"], result["retained_high"] = bounds(drawn / np.concatenate(teacher_draws))
    return result


CHUNK = 100  # draws at a time


def draw_groups(groups: np.ndarray, n_boot: int, seed: int, chunk: int = CHUNK) -> Iterator[np.ndarray]:
    """Yield weights [chunk, n]: how often each example's group was drawn, as many groups as there are, with replacement."""
    codes = np.unique(groups, return_inverse=True)[1]
    n_groups = int(codes.max()) + 1
    random = np.random.default_rng(seed)
    for start in range(0, n_boot, chunk):
        drawn = random.integers(0, n_groups, (min(chunk, n_boot - start), n_groups))
        yield np.stack([np.bincount(row, minlength=n_groups) for row in drawn]).astype(np.float64)[:, codes]


def bounds(draws: np.ndarray) -> tuple[float | None, float | None]:
    """The 2.5 and 97.5 percentiles of the draws in which the metric was defined; None if it never was."""
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def row_fields(
    task: Task,
    logits: np.ndarray,
    teacher_logits: np.ndarray | None = None,
    n_boot: int = 1000,
    *,
    dev: np.ndarray | None = None,
) -> dict[str, Any]:
    """The quality group of a result row: headline metric with interval and share of the teacher's, every other metric beside it. A headline
    that looks at classes has its threshold at 0, as GLUE's; others have that of dev.

    Args:
        task: whose test split was scored. logits, teacher_logits: [rows of test, outputs].
        dev: [rows of dev, outputs], on which the threshold of two classes is chosen; None leaves it at 0.
    """
    labels, groups = task.test["label"].to_numpy(), task.test["group"].to_numpy()
    gains = task.test["gain"].to_numpy() if "gain" in task.test else None
    headline = interval(task.metrics[0], labels, logits, groups, teacher_logits=teacher_logits, n_boot=n_boot)
    threshold = None
    if dev is not None and len(task.classes) == 2 and np.isfinite(dev).all():
        threshold = metrics.threshold_of(task.dev["label"].to_numpy(), dev)
    others = metrics.evaluate(task.metrics[1:], labels, logits, groups, gains, threshold or 0.0)
    return {"metric": task.metrics[0], **headline, "metrics": others, "threshold": threshold}
