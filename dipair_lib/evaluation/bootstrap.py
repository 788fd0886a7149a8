"""Every interval: of one model, paired with its teacher's, of a difference, over seeds. All draw whole groups
of test rows.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from dipair_lib.data.task import Task
from dipair_lib.evaluation import metrics, results, schema
from dipair_lib.system import disk, progress

Interval = tuple[float, float, float]  # value, low, high

N_BOOT = 1000  # draws
CHUNK = 100  # of them at a time
MANY = 30  # rows whose draws take more than a second or so: a bar says how long


# --- draws ------------------------------------------------------------------------------------------------------------------------


def draw_groups(groups: np.ndarray, n_boot: int, seed: int, chunk: int = CHUNK) -> Iterator[np.ndarray]:
    """Yield weights [chunk, n]: how often each example's group was drawn, as many groups as there are, with
    replacement.
    """
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


# --- one model --------------------------------------------------------------------------------------------------------------------


def interval(
    metric: str,
    labels: np.ndarray,
    logits: np.ndarray,
    groups: np.ndarray,
    *,
    teacher_logits: np.ndarray | None = None,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> dict[str, Any]:
    """The headline metric with its 95 % percentile interval from a bootstrap over groups, and its ratio to
    the teacher's, paired.

    Groups (queries), never pairs that share one, are what is drawn: pairs of one query are not independent.
    In each draw student and teacher are evaluated on the same groups, so what both find hard cancels out of
    ``retained``.

    Args:
        metric: one name from ``METRICS``.
        labels: [n].
        logits: [n, outputs].
        groups: int [n].
        teacher_logits: [n, outputs] on the same examples in the same order, or None.
        n_boot: draws.
        seed: of the draws; the same seed draws the same groups for every model.

    Returns:
        quality, quality_low, quality_high, retained, retained_low, retained_high (None without a teacher),
        n_boot.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    sides = [np.asarray(side, np.float64) for side in (logits, teacher_logits) if side is not None]
    for side in sides:
        metrics.check(metric, labels, side)
    if metric not in metrics.METRICS:
        raise ValueError(
            f"metric: expected one of {', '.join(metrics.METRICS)} for an interval, but got {metric!r}"
        )
    if len(groups) != len(labels):
        raise ValueError(f"groups: expected {len(labels)}, one per example, but got {len(groups)}")
    found: list[list[np.ndarray]] = [[] for _ in sides]
    for weights in itertools.chain([np.ones((1, len(labels)))], draw_groups(groups, n_boot, seed)):
        for side, values in zip(sides, found, strict=True):
            values.append(metrics.METRICS[metric](labels, side, weights))
    own, *taught = (np.concatenate(values) for values in found)  # [1 + n_boot]: all rows, then the draws
    result: dict[str, Any] = dict.fromkeys(["retained", "retained_low", "retained_high"]) | {"n_boot": n_boot}
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = [own / teacher for teacher in taught]
    for name, values in zip(("quality", "retained"), (own, *shares), strict=False):
        low, high = bounds(values[1:])
        result |= {name: metrics.number(values[0]), f"{name}_low": low, f"{name}_high": high}
    return result


def row_fields(
    task: Task,
    logits: np.ndarray,
    teacher_logits: np.ndarray | None = None,
    n_boot: int = N_BOOT,
    *,
    dev: np.ndarray | None = None,
) -> dict[str, Any]:
    """The quality group of a result row: headline metric with interval and share of the teacher's, every
    other metric beside it. A headline that looks at classes has its threshold at 0, as GLUE's; others have
    that of dev.

    Args:
        task: whose test split was scored.
        logits, teacher_logits: [rows of test, outputs].
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


# --- several models on the same test rows -----------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """A row's bootstrap: its draws [n_boot], and a digest of the test rows they were taken from."""

    draws: np.ndarray
    test: str


# By logits file and its time: a page asks for the same rows several times.
_KNOWN: dict[tuple[object, ...], Drawn] = {}


def draw_rows(
    folder: Path | str | None, rows: Iterable[schema.Result], n_boot: int = N_BOOT, *, missing: str = "skip"
) -> dict[str, Drawn]:
    """run_id -> its draws of the headline metric. Rows of the same test split share the same draws of its
    groups.

    A row whose logits cannot be read is left out, with a warning.

    Args:
        folder: of the rows' logits; without one nothing is drawn.
        missing: "skip" rows that have no logits, or "warn" of them too.
    """
    keys: dict[str, tuple[object, ...]] = {}
    waiting: dict[str, list[tuple[schema.Result, schema.Logits]]] = {}
    for row in rows if folder else ():
        path = results.row_folder(str(folder), row.run_id) / "logits.npz"
        stored_at = path.stat().st_mtime_ns if path.is_file() else 0
        keys[row.run_id] = key = (str(path.resolve()), stored_at, row.metric, n_boot)
        if key in _KNOWN or (missing == "skip" and not stored_at):
            continue
        try:
            stored = results.load_logits(str(folder), row.run_id)
        except disk.ResultError as error:
            warnings.warn(f"row left out: {error}", stacklevel=2)
            continue
        test = hashlib.sha256(stored.labels.tobytes() + stored.groups.tobytes()).hexdigest()
        waiting.setdefault(test, []).append((row, stored))
    for test, together in waiting.items():
        found: dict[str, list[np.ndarray]] = {row.run_id: [] for row, _ in together}
        draws = draw_groups(together[0][1].groups, n_boot, seed=0)
        what = "intervals" if len(together) >= MANY else ""
        for weights in progress.track(draws, what, total=math.ceil(n_boot / CHUNK)):
            for row, stored in together:
                drawn = metrics.METRICS[row.metric](stored.labels, stored.logits, weights)
                found[row.run_id].append(drawn)
        for row, _ in together:
            _KNOWN[keys[row.run_id]] = Drawn(np.concatenate(found[row.run_id]), test)
    return {run_id: _KNOWN[key] for run_id, key in keys.items() if key in _KNOWN}


def mean_over_seeds(values: Sequence[float], draws: Sequence[np.ndarray]) -> Interval:
    """The mean of one value per seed, with a 95 % interval over test groups (each seed's draws [n_boot]) and
    seeds: see ``ends``.
    """
    mean = float(np.mean(values))
    low, high = ends(mean, [draws])
    return mean, float(low or 0.0), float(high or 0.0)


def share_over_seeds(
    values: Sequence[float], draws: Sequence[np.ndarray], taught: Sequence[tuple[float, np.ndarray]]
) -> Interval:
    """The mean share of each seed's teacher (its value and draws), drawn on the same test groups."""
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = [own / teacher for own, (_, teacher) in zip(draws, taught, strict=True)]
    return mean_over_seeds(
        [value / teacher for value, (teacher, _) in zip(values, taught, strict=True)], drawn
    )


def difference(
    first: Sequence[Drawn | None], second: Sequence[Drawn | None]
) -> tuple[float | None, float | None] | None:
    """95 % interval of the second's mean over its seeds less the first's, on the same draws of test groups,
    and of seeds; None unless every seed was drawn on the same test rows.
    """
    tests = {one.test if one else None for one in (*first, *second)}
    if len(tests) != 1 or None in tests:
        return None
    before, after = ([one.draws for one in seeds if one] for seeds in (first, second))
    return ends(float(np.nanmean(after) - np.nanmean(before)), [after, before])


def ends(mean: float, sides: Sequence[Sequence[np.ndarray]]) -> tuple[float | None, float | None]:
    """95 % interval of a mean over seeds, or of one less another, over test groups and seeds.

    The groups' part is what the percentiles of the mean's draws lie away from it. The seeds' part is
    Student's t times the standard error of a mean over so few of them (percentiles of seeds drawn again are
    too narrow: they lack a factor S / (S - 1) of the variance). The two are independent: their squares add
    up. A single seed has the groups' part alone.

    Args:
        sides: draws [n_boot] of each seed, on the same test groups; a second side is what is taken off.
    """
    means = [np.mean(np.stack(seeds), axis=0) for seeds in sides]
    low, high = bounds(means[0] - means[1] if len(means) > 1 else means[0])
    if low is None or high is None:
        return None, None
    of_seeds = math.hypot(*(_half_of_seeds(np.stack(seeds)) for seeds in sides))
    return mean - math.hypot(mean - low, of_seeds), mean + math.hypot(high - mean, of_seeds)


def _half_of_seeds(stacked: np.ndarray) -> float:
    """Half the 95 % interval of a mean over seeds, of [seeds, draws], by Student's t; 0 of a single one."""
    if len(stacked) < 2:
        return 0.0
    spread = float(np.nanmean(stacked, axis=1).std(ddof=1))
    return float(student_t.ppf(0.975, len(stacked) - 1)) * spread / math.sqrt(len(stacked))
