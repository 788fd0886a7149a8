"""Metrics of stored logits against labels, each over all rows or over many bootstrap draws at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def binary_score(logits: np.ndarray) -> np.ndarray:
    """float64 [n]: the log-odds of class 1, from one logit or from two."""
    logits = np.asarray(logits, dtype=np.float64)
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def predicted_class(logits: np.ndarray) -> np.ndarray:
    """int64 [n]: argmax, or for one logit whether it is above 0 (``evaluate`` takes another threshold off
    first, never one of test).
    """
    return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(1)


def auc(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: P(a positive scores above a negative), ties half. [draws]."""
    score = binary_score(logits)
    negative, positive = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    negative = negative[np.argsort(score[negative], kind="stable")]
    # Examples first: a row of draws is then read and added as a whole, three times as fast as column by
    # column.
    weights = np.ascontiguousarray(weights.T)
    below = np.zeros((len(negative) + 1, weights.shape[1]))  # of the n lowest negatives, together
    np.cumsum(weights[negative], axis=0, out=below[1:])
    left, right = (np.searchsorted(score[negative], score[positive], side=s) for s in ("left", "right"))
    won = np.einsum("nd,nd->d", weights[positive], below[left] + below[right]) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return won / (weights[positive].sum(0) * below[-1])


def accuracy(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of examples whose predicted class is the label. [draws]."""
    return weights @ (predicted_class(logits) == labels) / weights.sum(1)


def f1_of(label: int, labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """F1 of one class, 0 where the class is neither present nor predicted. [draws]."""
    hit = weights @ ((predicted == label) & (labels == label))
    total = weights @ (predicted == label) + weights @ (labels == label)
    return np.divide(2 * hit, total, out=np.zeros_like(hit, dtype=np.float64), where=total > 0)


def f1(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """F1 of class 1. [draws]."""
    return f1_of(1, labels, predicted_class(logits), weights)


def macro_f1(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes present or predicted. [draws]."""
    predicted = predicted_class(logits)
    present = np.union1d(labels, predicted)
    return np.mean([f1_of(int(c), labels, predicted, weights) for c in present], axis=0)


def correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation of x and y, each [n] or [draws, n]. [draws]."""
    share = weights / weights.sum(1, keepdims=True)
    x = x - (share * x).sum(1, keepdims=True)
    y = y - (share * y).sum(1, keepdims=True)
    spread = np.sqrt((share * x * x).sum(1) * (share * y * y).sum(1))
    covariance = (share * x * y).sum(1)
    return np.divide(covariance, spread, out=np.full_like(covariance, np.nan), where=spread > 1e-12)


def pearson(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson correlation of score and label. [draws]; NaN where either is constant."""
    return correlation(
        np.asarray(labels, np.float64)[None], np.asarray(logits, np.float64)[None, :, 0], weights
    )


def spearman(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman correlation: Pearson of the mid-ranks, ranks taken anew in each draw. [draws]."""
    return correlation(mid_ranks(np.asarray(labels), weights), mid_ranks(logits[:, 0], weights), weights)


def mid_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks of values in a sample where value i stands weights[d, i] times. [draws, n]."""
    _, tie = np.unique(values, return_inverse=True)
    per_value = np.zeros((len(weights), tie.max() + 1))
    for draw, row in enumerate(weights):
        per_value[draw] = np.bincount(tie, row, minlength=per_value.shape[1])
    return (np.cumsum(per_value, axis=1) - per_value / 2)[:, tie]


METRICS: dict[str, Metric] = {
    "auc": auc,
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "pearson": pearson,
    "spearman": spearman,
}


OF_CLASSES = ("accuracy", "f1", "macro_f1")


def threshold_of(labels: np.ndarray, logits: np.ndarray) -> float:
    """The score above which class 1 is meant, with the best F1 on these rows, which must not be test:
    half-way between two neighbours, of equally good ones the lowest. Where few rows are of class 1 the best
    one is seldom 0; where none is, it is 0.

    Args:
        labels: [n], 0 or 1.
        logits: [n, 1].
    """
    if not np.any(labels):
        return 0.0
    score = np.asarray(logits, np.float64)[:, 0]
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(np.asarray(labels)[order])
    f1s = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
    ends = np.append(np.diff(score[order]) < 0, True)  # equal scores are on one side together
    last = int(np.flatnonzero(ends & (f1s == f1s[ends].max()))[-1])
    following = score[order][last + 1] if last + 1 < len(order) else score[order][last] - 1
    return float((score[order][last] + following) / 2)


# --- per query --------------------------------------------------------------------------------------------------------------------

DEPTH = 10


Blocks = Sequence[
    np.ndarray
]  # gains of one query's texts, a block for each score, best first: within a block any order is as likely


def reciprocal_rank(blocks: Blocks) -> float:
    """Expected 1 / rank of the first relevant text (gain above 0), 0 beyond DEPTH."""
    before = 0
    for gains in blocks:
        n, relevant = len(gains), int((gains > 0).sum())
        if relevant:
            value, ahead = 0.0, 1.0  # ahead: chance that none of the block's first i texts is relevant
            for i in range(min(n - relevant + 1, DEPTH - before)):
                value += ahead * relevant / (n - i) / (before + i + 1)
                ahead *= 1 - relevant / (n - i)
            return value
        before += n
        if before >= DEPTH:
            break
    return 0.0


def discounted_gain(blocks: Blocks) -> float:
    """Expected sum of gain / log2(1 + rank) over the first DEPTH texts. Gains are linear, as in trec_eval."""
    places = np.repeat([gains.mean() for gains in blocks], [len(gains) for gains in blocks])[:DEPTH]
    return float((places / np.log2(np.arange(2, 2 + len(places)))).sum())


def normalised_gain(blocks: Blocks) -> float:
    """Discounted gain divided by that of the best order."""
    best = np.sort(np.concatenate(blocks))[::-1]
    return discounted_gain(blocks) / discounted_gain(np.split(best, len(best)))


RANKING: dict[str, Callable[[Blocks], float]] = {
    f"mrr@{DEPTH}": reciprocal_rank,
    f"ndcg@{DEPTH}": normalised_gain,
}


def ranking(
    metric: str, labels: np.ndarray, logits: np.ndarray, groups: np.ndarray, gains: np.ndarray | None = None
) -> float:
    """Mean of a ranking metric over the queries that have a relevant text; NaN if none has. Ties count as the
    mean over their orders.

    Args:
        labels: [n], 0 or 1, or scores: their distance to the smallest one is the gain.
        logits: [n, outputs].
        groups: int [n], the query.
        gains: [n], which nDCG reads in place of the labels (graded judgements beside two classes).
    """
    scores = binary_score(logits)
    graded = gains is not None and metric.startswith("ndcg")
    gains = np.asarray(gains if graded else labels - labels.min(), np.float64)
    order = np.lexsort((-scores, groups))
    values = []
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if gains[rows].any():
            values.append(RANKING[metric](np.split(gains[rows], np.flatnonzero(np.diff(scores[rows])) + 1)))
    return float(np.mean(values)) if values else float("nan")


def check(metric: str, labels: np.ndarray, logits: np.ndarray) -> None:
    """Raise a clear error where a metric would give a wrong or meaningless number."""
    if metric not in METRICS and metric not in RANKING:
        raise ValueError(f"metric: expected one of {', '.join([*METRICS, *RANKING])}, but got {metric!r}")
    if logits.ndim != 2 or len(logits) != len(labels):
        raise ValueError(f"logits: expected shape [{len(labels)}, outputs], but got {list(logits.shape)}")
    bad = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(bad):
        raise ValueError(
            f"logits: {len(bad)} rows are not finite, the first is row {bad[0]}: the model diverged or the file is damaged"
        )
    if metric in {"auc", "f1"} and set(np.unique(labels)) != {0, 1}:
        raise ValueError(
            f"{metric}: expected labels of both classes 0 and 1, but got {np.unique(labels)[:5].tolist()}"
        )
    if metric in {"pearson", "spearman"} and len(np.unique(labels)) < 2:
        raise ValueError(
            f"{metric}: expected labels that differ, but all are {labels[0] if len(labels) else 'missing'}"
        )


def evaluate(
    metrics: Sequence[str],
    labels: np.ndarray,
    logits: np.ndarray,
    groups: np.ndarray | None = None,
    gains: np.ndarray | None = None,
    threshold: float = 0.0,
) -> dict[str, float | None]:
    """Each metric on all examples.

    Args:
        metrics: names from ``METRICS`` and ``RANKING``; the latter need ``groups`` and read ``gains``, see
            ``ranking``.
        labels: [n], class index or score.
        logits: [n, outputs], raw; read as float64, so half-precision scores are ranked without further
            rounding.
        threshold: of one logit: above it class 1 is meant, where a metric looks at classes. See
            ``threshold_of``.

    Returns:
        Metric name to value; None where it is undefined (a constant score has no correlation).
    """
    labels, logits = np.asarray(labels), np.asarray(logits, np.float64)
    weights = np.ones((1, len(labels)))
    values = {}
    for metric in metrics:
        check(metric, labels, logits)
        if metric in RANKING:
            if groups is None:
                raise ValueError(f"{metric}: expected the query of each row (groups), but got none")
            value = ranking(metric, labels, logits, np.asarray(groups), gains)
        else:
            least = threshold if metric in OF_CLASSES and logits.shape[1] == 1 else 0.0
            value = float(METRICS[metric](labels, logits - least, weights)[0])
        values[metric] = None if np.isnan(value) else value
    return values


def number(value: float) -> float | None:
    """A float, or None for what is not a number: missing is null, never 0."""
    return float(value) if np.isfinite(value) else None
