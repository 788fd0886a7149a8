"""What students of `03_dipair` were trained with, as settings that can be compared, and their rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dipair_lib.evaluation import paired, results, schema
from dipair_lib.system import disk

N_BOOT = paired.N_BOOT
LIST = ("keep", "projection", "hidden", "read_lengths")
IGNORED = frozenset({"task", "out", "clock", "threads", "device", "seed", "n_seeds"})
# What a parameter was in rows that do not name it: they are from before it could be chosen.
DEFAULTS: dict[str, Any] = {
    "fields": [], "label": "", "group": "", "kind": "", "max_train": 0, "teacher_score": "", "backbone": "embedded", "read_lengths": [],
    "head": "ffnn", "keep": [8], "select": "first", "pooled": False, "residual": "", "projection": [128], "hidden": [256, 128],
    "head_layers": 1, "head_ffn": 256, "layers": 0, "start": "pretrained", "shared": True, "loss": "logits", "alpha": 0.0,
    "match": 0.0, "average": 0.0, "pool": 0, "pool_kind": "near", "teachers": 1, "teacher_seed": "one", "unlabelled": "",
    "stage1_epochs": 3.0, "stage2_epochs": 0.25, "stage1_rate": 1e-3, "stage2_rate": 1e-4, "batch_size": 64, "cosine_pairs": 0,
    "head_rate": 0, "stage2_pairs": [], "budget": 1.0,
}  # fmt: skip

Settings = dict[str, Any]
Value = tuple[Any, ...]


# --- configurations ---------------------------------------------------------------------------------------------------------------


def settings_of(parameters: Mapping[str, Any], n_train: int | None = None, teacher_age: int = 0) -> Settings:
    """What was trained, of a run's parameters: hashable, equal numbers and equal lists alike.

    Args:
        n_train: training rows there were, in place of the limit on them.
        teacher_age: of its teacher, see ``paired.teacher_ages``; it does not count where nothing of a teacher is learned.
    """
    settings = {k: plain(v) for k, v in {**DEFAULTS, **parameters}.items() if k not in IGNORED}
    settings["residual"] = {True: "cosine", False: ""}.get(settings["residual"], settings["residual"])
    for name in LIST:
        value = settings[name] if isinstance(settings[name], tuple) else (settings[name],)
        one = name != "hidden" and len(set(value)) == 1  # one number for all fields
        settings[name] = value[:1] if one else value
    if n_train:
        settings["max_train"] = n_train
    taught = settings["loss"] != "hard" or settings["start"] == "teacher" or settings["match"]
    settings["teacher_age"] = teacher_age if taught else 0
    return dict(sorted(settings.items()))


def plain(value: Any) -> Any:
    """Lists as tuples, whole numbers as int."""
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def irrelevant_parameters(settings: Settings) -> set[str]:
    """Parameters that change nothing beside the others."""
    names: set[str] = set()
    if settings["head"] != "ffnn":
        names |= {"hidden"}
    if settings["head"] != "transformer":
        names |= {"head_layers", "head_ffn"}
    if not any(settings["keep"]):
        names |= {"select", "projection"}
    if settings["loss"] == "hard":
        names |= {"alpha"}
    if not settings["stage1_epochs"]:
        names |= {"stage1_rate"}
    if not settings["stage2_epochs"]:
        names |= {"stage2_rate", "head_rate", "stage2_pairs"}
    if (
        settings["head"] not in {"ffnn", "transformer"}
        or settings["residual"]
        or settings["start"] == "random"
    ):
        names |= {"cosine_pairs"}
    if not settings["pool"]:
        names |= {"pool_kind"}
    return names


def key_of(settings: Settings) -> str:
    """Settings as canonical JSON: equal settings, equal text."""
    return disk.canonical_json(settings)


@dataclass
class Study(paired.Students[str]):
    """The configurations of one task, by the canonical JSON of their settings.

    Attributes:
        settings: of each configuration. rows: configuration -> seed -> its row. taught: run_id of a teacher -> its quality and draws.
    """

    settings: dict[str, Settings] = field(default_factory=dict)
    rows: dict[str, dict[int, schema.Result]] = field(default_factory=dict)
    taught: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)

    def usual(self) -> Settings:
        """Each parameter's value in most configurations: what the others depart from."""
        counts: dict[str, Counter[Any]] = {}
        for settings in self.settings.values():
            for name in settings.keys() - irrelevant_parameters(settings):
                counts.setdefault(name, Counter())[settings[name]] += 1
        return {name: sorted(c.items(), key=lambda item: -item[1])[0][0] for name, c in counts.items()}

    def row(self, key: str) -> schema.Result:
        """The row that speaks for a configuration: the first seed with a clock, or the first."""
        rows = [row for _, row in sorted(self.rows[key].items())]
        return next((row for row in rows if row.combine_s_per_pair), rows[0])

    def rising(self, key: str) -> bool:
        """Whether dev was still rising when a seed's budget ended."""
        return any(row.dev_rising for row in self.rows[key].values())

    def given(self, key: str) -> bool:
        """Whether its seeds are students of one teacher, so that an interval over them is given this teacher."""
        return len(self.rows[key]) > 1 and len({row.teacher_run for row in self.rows[key].values()}) == 1

    def difference(self, key: str, other: str) -> paired.Interval | None:
        """In points (hundredths of the metric), on the seeds both have; None where they share none."""
        if key == other:
            return 0.0, 0.0, 0.0
        if not self.seeds(key, other):
            return None
        value, low, high = self.contrast({key: 1.0, other: -1.0})
        return 100 * value, 100 * low, 100 * high

    def retained(self, key: str) -> paired.Interval | None:
        """Share of the teacher's quality, drawn on the same test groups; None without the teacher."""
        seeds = self.seeds(key)
        taught = [self.taught.get(self.rows[key][seed].teacher_run or "") for seed in seeds]
        if None in taught:
            return None
        known = [one for one in taught if one]
        return paired.share_over_seeds(
            [self.quality[key][s] for s in seeds], [self.draws[key][s] for s in seeds], known
        )

    def cosine(self) -> str | None:
        """The trained DE-Cos whose training is most like that of the others; of several the best."""
        usual = self.usual()

        def rank(key: str) -> tuple[int, float]:
            unlike = sum(value != usual.get(name) for name, value in self.settings[key].items())
            return unlike, -float(np.mean(list(self.quality[key].values())))

        found = [k for k, s in self.settings.items() if s["head"] == "cosine" and s["stage2_epochs"]]
        return min(found, key=rank, default=None)


def load(folder: Path | str, task: str, n_boot: int = N_BOOT) -> Study:
    """The students that `03_dipair` left in a results folder for one task, with their bootstrap draws.

    Where a folder holds several builds of the data, the test rows that most students were measured on count; students of an earlier teacher
    are other configurations; of a student that was trained twice the newer row counts.
    """
    rows = [r for r in results.load_results(folder, damaged="warn") if r.task == task]
    students = [r for r in rows if r.notebook == "03_dipair" and r.quality is not None]
    named = Counter(r.teacher_run for r in students if r.teacher_run)
    teachers = [r for r in rows if r.run_id in named and r.quality]
    drawn = paired.bootstrap_rows(folder, [*students, *teachers], n_boot, damaged="warn")
    tests = Counter((drawn[r.run_id].test, r.metric) for r in students if r.run_id in drawn)
    if not tests:
        return Study(task, "")
    counted = tests.most_common(1)[0][0]
    study, ages = Study(task, counted[1]), paired.teacher_ages(students, rows)
    for row in sorted(students + teachers, key=lambda r: r.created_utc):
        if row.run_id not in drawn or (drawn[row.run_id].test, row.metric) != counted:
            continue
        draws, value = drawn[row.run_id].draws, float(row.quality or 0.0)
        if row.run_id in named:
            study.taught[row.run_id] = value, draws
            usual = study.teacher is None or named[row.run_id] >= named[study.teacher.run_id]
            study.teacher = row if usual else study.teacher
            continue
        settings = settings_of(json.loads(row.parameters), row.n_train, ages[row.teacher_run or ""])
        key, seed = key_of(settings), int(row.seed or 0)
        if seed in study.rows.get(key, {}):
            paired.say_replaced(study.rows[key][seed], row)
        study.settings[key] = settings
        study.quality.setdefault(key, {})[seed] = value
        study.draws.setdefault(key, {})[seed] = draws
        study.rows.setdefault(key, {})[seed] = row
        study.n_test = int(row.n_examples or 0)
    return study
