"""Students of one notebook on the same test rows, by what they were trained with: what two studies share that
vary one choice at a time.
"""

from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dipair_lib.evaluation import bootstrap, results, schema
from dipair_lib.evaluation.bootstrap import Interval
from dipair_lib.reporting import identity
from dipair_lib.system import disk

IGNORED = identity.NO_CHOICE | {"task"}
Value = tuple[Any, ...]


class Settings(dict[str, Any]):
    """What a student was trained with, parameter -> value: a key for its rows, so never changed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def read(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that choose what is trained, hashable, equal numbers and lists alike; ``defaults`` for
    those a row does not name.
    """
    return {k: plain(v) for k, v in sorted({**defaults, **parameters}.items()) if k not in IGNORED}


def plain(value: Any) -> Any:
    """Lists as tuples, whole numbers as int."""
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def learns(settings: Mapping[str, Any]) -> bool:
    """Whether anything of a teacher is learned: if not, it does not count which teacher it was."""
    of_labels = settings["loss"] == "hard" and settings.get("synthetic_labels") != "teacher"
    return not of_labels or settings.get("start") == "teacher" or bool(settings.get("match"))


@dataclass
class Students:
    """The students of one task, several seeds each.

    Attributes:
        metric: headline metric.
        n_test: test rows.
        quality: settings -> seed -> quality.
        draws: its bootstrap draws [n_boot], the same test groups for all.
        rows: its row.
        teacher: the row of the one most learned from, or None.
        taught: run_id of a teacher -> its quality and draws.
    """

    task: str
    metric: str = ""
    n_test: int = 0
    quality: dict[Settings, dict[int, float]] = field(default_factory=dict)
    draws: dict[Settings, dict[int, np.ndarray]] = field(default_factory=dict)
    rows: dict[Settings, dict[int, schema.Result]] = field(default_factory=dict)
    teacher: schema.Result | None = None
    taught: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)

    def seeds(self, keys: Iterable[Settings]) -> list[int]:
        """Seeds that all the keys have."""
        return sorted(set.intersection(*(set(self.quality.get(key, {})) for key in keys)))

    def mean(self, key: Settings) -> Interval:
        """Mean over the seeds, with a 95 % interval over test groups and seeds."""
        return self.contrast({key: 1.0})

    def contrast(self, weights: Mapping[Settings, float]) -> Interval:
        """A weighted sum of qualities, with a 95 % interval: each draw takes the same test groups and seeds
        for every key.
        """
        seeds = self.seeds(weights)
        values = [sum(w * self.quality[k][s] for k, w in weights.items()) for s in seeds]
        draws = [np.sum([w * self.draws[k][s] for k, w in weights.items()], axis=0) for s in seeds]
        return bootstrap.mean_over_seeds(values, draws)

    def difference(self, key: Settings, other: Settings) -> Interval | None:
        """In points (hundredths of the metric), on the seeds both have; None where they share none."""
        if key == other:
            return 0.0, 0.0, 0.0
        if not self.seeds([key, other]):
            return None
        value, low, high = self.contrast({key: 1.0, other: -1.0})
        return 100 * value, 100 * low, 100 * high

    def retained(self, key: Settings) -> Interval | None:
        """Share of the teacher's quality, drawn on the same test groups; None without the teacher."""
        seeds = self.seeds([key])
        taught = [self.taught.get(self.rows[key][seed].teacher_run or "") for seed in seeds]
        known = [one for one in taught if one]
        values, draws = [self.quality[key][s] for s in seeds], [self.draws[key][s] for s in seeds]
        return bootstrap.share_over_seeds(values, draws, known) if len(known) == len(seeds) else None

    def row(self, key: Settings) -> schema.Result:
        """The row that speaks for a student: the first seed with a clock, or the first."""
        rows = [row for _, row in sorted(self.rows[key].items())]
        return next((row for row in rows if row.combine_s_per_pair), rows[0])

    def rising(self, key: Settings) -> bool:
        """Whether dev was still rising when a seed's budget ended."""
        return any(row.dev_rising for row in self.rows[key].values())

    def given(self, key: Settings) -> bool:
        """Whether its seeds are students of one teacher, so that an interval over them is given this teacher."""
        return len(self.rows[key]) > 1 and len({row.teacher_run for row in self.rows[key].values()}) == 1


def load(
    folder: Path | str,
    task: str,
    notebook: str,
    settings_of: Callable[[dict[str, Any], int | None, int], Settings],
    n_boot: int,
) -> Students:
    """The students that a notebook left in a results folder for one task, with their bootstrap draws.

    Where a folder holds several builds of the data, the test rows that most students were measured on count;
    students of an earlier teacher have other settings; of a student that was trained twice the newer row
    counts.

    Args:
        settings_of: of a run's parameters, its training rows, and its teacher's age (see
            ``identity.teacher_ages``); none of a run that is left out.
    """
    rows = [
        r for r in results.load_results(folder, damaged="warn") if r.task == task and r.quality is not None
    ]
    own = [r for r in rows if r.notebook == notebook]
    ages = identity.teacher_ages(own, rows)
    found = {
        r.run_id: settings_of(json.loads(r.parameters), r.n_train, ages[r.teacher_run or ""]) for r in own
    }
    own = [r for r in own if found[r.run_id]]
    named = {r.teacher_run for r in own}
    teachers = [r for r in rows if r.run_id in named]
    drawn = bootstrap.draw_rows(folder, [*own, *teachers], n_boot, missing="warn")
    tests = Counter((drawn[r.run_id].test, r.metric) for r in own if r.run_id in drawn)
    if not tests:
        return Students(task)
    counted = tests.most_common(1)[0][0]
    students, learned = Students(task, str(counted[1])), Counter[str | None]()
    for row in sorted((*own, *teachers), key=lambda r: r.created_utc):
        if row.run_id not in drawn or (drawn[row.run_id].test, row.metric) != counted:
            continue
        value, draws = float(row.quality or 0.0), drawn[row.run_id].draws
        if row.run_id in named:
            students.taught[row.run_id] = value, draws
            continue
        settings, seed = found[row.run_id], int(row.seed or 0)
        if old := students.rows.get(settings, {}).get(seed):
            said = f"row left out: {old.run_id}: the same student was trained again as {row.run_id}"
            warnings.warn(said, stacklevel=3)
        students.quality.setdefault(settings, {})[seed] = value
        students.draws.setdefault(settings, {})[seed] = draws
        students.rows.setdefault(settings, {})[seed] = row
        students.n_test = int(row.n_examples or 0)
        learned[row.teacher_run] += learns(settings)
    able = [r for r in teachers if r.run_id in students.taught]
    students.teacher = max(able, key=lambda r: (learned[r.run_id], r.created_utc), default=None)
    return students


def tasks_of(folder: Path | str, notebook: str, told: Callable[[str], Any]) -> list[str]:
    """Tasks of a results folder, with its raw logits, of which there is something to tell."""
    rows = results.load_results(folder, damaged="warn") if (Path(folder) / "rows").is_dir() else []
    return [task for task in sorted({r.task for r in rows if r.notebook == notebook}) if told(task)]


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
