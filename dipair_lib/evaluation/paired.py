"""Students compared on the same test rows: means over seeds and their differences, with intervals that hold groups and seeds.

Shared by `tradeoff`, `ablation` and `study`, which differ in what tells one student from another. Nothing here trains, times or draws a
picture.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from dipair_lib.evaluation import bootstrap, metrics, results, schema
from dipair_lib.system import disk, progress

Key = TypeVar("Key", bound=Hashable)
Interval = tuple[float, float, float]  # value, low, high


class Drawn(NamedTuple):
    """A row's bootstrap: its draws [n_boot], and a digest of the test rows they were taken from."""

    draws: np.ndarray
    test: str


N_BOOT = 1000
MANY = 30  # rows whose draws take more than a second or so: a bar says how long

_KNOWN: dict[
    tuple[object, ...], Drawn
] = {}  # by logits file and its time: a page asks for the same rows several times


def bootstrap_rows(
    folder: Path | str, rows: Iterable[schema.Result], n_boot: int = N_BOOT, damaged: str = "raise"
) -> dict[str, Drawn]:
    """run_id -> its draws of the headline metric. Rows of the same test split share the same draws of its groups.

    Args:
        damaged: "raise" at logits that cannot be read, or "warn" and leave the row out.
    """
    keys: dict[str, tuple[object, ...]] = {}
    waiting: dict[str, list[tuple[schema.Result, schema.Logits]]] = {}
    for row in rows:
        path = results.row_folder(folder, row.run_id) / "logits.npz"
        stamp = path.stat().st_mtime_ns if path.is_file() else 0
        keys[row.run_id] = key = (str(path.resolve()), stamp, row.metric, n_boot)
        if key in _KNOWN:
            continue
        try:
            stored = results.load_logits(folder, row.run_id)
        except disk.ResultError as error:
            if damaged == "raise":
                raise
            warnings.warn(f"row left out: {error}", stacklevel=2)
            continue
        test = hashlib.sha256(stored.labels.tobytes() + stored.groups.tobytes()).hexdigest()
        waiting.setdefault(test, []).append((row, stored))
    for test, together in waiting.items():
        found: dict[str, list[np.ndarray]] = {row.run_id: [] for row, _ in together}
        draws = bootstrap.draw_groups(together[0][1].groups, n_boot, seed=0)
        what = "intervals" if len(together) >= MANY else ""
        for weights in progress.track(draws, what, total=math.ceil(n_boot / bootstrap.CHUNK)):
            for row, stored in together:
                drawn = metrics.METRICS[row.metric](stored.labels, stored.logits, weights)
                found[row.run_id].append(drawn)
        for row, _ in together:
            _KNOWN[keys[row.run_id]] = Drawn(np.concatenate(found[row.run_id]), test)
    return {run_id: _KNOWN[key] for run_id, key in keys.items() if key in _KNOWN}


@dataclass
class Students(Generic[Key]):
    """The students of one task, by what was trained; several seeds each.

    Attributes:
        metric: headline metric. quality: key -> seed -> quality. draws: key -> seed -> its bootstrap draws [n_boot], the same test
            groups for every key. teacher: its row, or None. n_test: test rows.
    """

    task: str
    metric: str
    quality: dict[Key, dict[int, float]] = field(default_factory=dict)
    draws: dict[Key, dict[int, np.ndarray]] = field(default_factory=dict)
    teacher: schema.Result | None = None
    n_test: int = 0

    def seeds(self, *keys: Key) -> list[int]:
        """Seeds that all the keys have."""
        return sorted(set.intersection(*(set(self.quality.get(key, {})) for key in keys)))

    def mean(self, key: Key) -> Interval:
        """Mean over the seeds, with a 95 % interval over test groups and seeds."""
        return self.contrast({key: 1.0})

    def contrast(self, weights: Mapping[Key, float]) -> Interval:
        """A weighted sum of qualities, with a 95 % interval: each draw takes test groups and seeds with replacement, the same ones
        for every key."""
        seeds = self.seeds(*weights)
        values = [sum(w * self.quality[k][s] for k, w in weights.items()) for s in seeds]
        draws = [np.sum([w * self.draws[k][s] for k, w in weights.items()], axis=0) for s in seeds]
        return mean_over_seeds(values, draws)


def teacher_ages(students: Iterable[schema.Result], rows: Iterable[schema.Result]) -> dict[str, int]:
    """run_id of each teacher that students learned from -> how many newer ones of the same data and seed taught some too; 0 for the newest.

    Students of a teacher and of the one that took its place are not compared as if nothing but their own training differed.
    """
    by_id = {row.run_id: row for row in rows}
    known: dict[tuple[str | None, int], dict[str, str]] = {}
    for student in students:
        run = student.teacher_run or ""
        seed, made = (by_id[run].seed or 0, by_id[run].created_utc) if run in by_id else (0, "")
        known.setdefault((student.data_sha256, seed), {})[run] = made
    return {
        run: age
        for made in known.values()
        for age, run in enumerate(sorted(made, key=lambda one: (made[one], one), reverse=True))
    }


def generation(age: int) -> str:
    """A teacher's age in words."""
    return f"teacher {age} before the newest" if age else "newest teacher"


def say_replaced(old: schema.Result, new: schema.Result) -> None:
    """Warn that a row does not count, since the same student was trained again."""
    warnings.warn(
        f"row left out: {old.run_id}: the same student was trained again as {new.run_id}", stacklevel=3
    )


def mean_over_seeds(values: Sequence[float], draws: Sequence[np.ndarray]) -> Interval:
    """The mean of one value per seed, with a 95 % interval over test groups (each seed's draws [n_boot]) and seeds: see ``ends``."""
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
    """95 % interval of the second's mean over its seeds less the first's, on the same draws of test groups, and of seeds; None unless
    every seed was drawn on the same test rows."""
    tests = {one.test if one else None for one in (*first, *second)}
    if len(tests) != 1 or None in tests:
        return None
    before, after = ([one.draws for one in seeds if one] for seeds in (first, second))
    return ends(float(np.nanmean(after) - np.nanmean(before)), [after, before])


def ends(mean: float, sides: Sequence[Sequence[np.ndarray]]) -> tuple[float | None, float | None]:
    """95 % interval of a mean over seeds, or of one less another, over test groups and seeds.

    The groups' part is what the percentiles of the mean's draws lie away from it. The seeds' part is Student's t times the standard error
    of a mean over so few of them (percentiles of seeds drawn again are too narrow: they lack a factor S / (S - 1) of the variance).
    The two are independent: their squares add up. A single seed has the groups' part alone.

    Args:
        sides: draws [n_boot] of each seed, on the same test groups; a second side is what is taken off.
    """
    means = [np.mean(np.stack(seeds), axis=0) for seeds in sides]
    low, high = bootstrap.bounds(means[0] - means[1] if len(means) > 1 else means[0])
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


def save_pictures(
    out: Path | str, stem: str, tasks: Sequence[str], figure: Callable[[str], Figure]
) -> list[Path]:
    """Write the figure of each task as ``<stem>.png`` (of several tasks: with their names) into ``out``."""
    written = []
    for task in tasks:
        name = f"{stem}-{results.slug(task)}.png" if len(tasks) > 1 else f"{stem}.png"
        buffer = io.BytesIO()
        figure(task).savefig(buffer, format="png", facecolor="white")
        written.append(disk.write_atomic(Path(out) / name, buffer.getvalue()))
    return written
