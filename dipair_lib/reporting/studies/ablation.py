"""Is it the distillation or the augmentation? The comparison Tang et al. 2019 leave open, drawn from the rows of `02_bilstm`.

A *cell* is one choice of all that decides what is trained, its rows differ by seed only. Cells that differ in loss and synthetic rows
only are one *set*; of several sets (other epochs, sizes, an earlier teacher) each is compared within itself. A *gain* is the difference of
two cells of a set on the same test rows and the same seeds; its interval is over test groups and seeds (``paired.ends``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dipair_lib.evaluation import paired, results, schema
from dipair_lib.reporting import identity, wording
from dipair_lib.system import disk

RULES = ("none", "mask", "pos", "ngram", "all")
RULE_NAMES = {
    "none": "no synthetic rows",
    "mask": "masked words",
    "pos": "replaced words (POS)",
    "ngram": "n-grams",
    "all": "all three rules",
}
N_BOOT = paired.N_BOOT
# Parameters with a field of their own in a cell.
NAMED = {"share", "loss", "alpha", "augment", "n_iter", "synthetic_labels", "epochs"}
# What a parameter was in rows that do not name it: they are from before it could be chosen.
DEFAULTS = {"tagger": "pattern", "teacher_score": "", "teacher_seed": "one", "pairs": [], "budget": 1.0}


@dataclass(frozen=True, order=True)
class Cell:
    """What a student was trained with; the fields are parameters of 02_bilstm.

    Attributes:
        n_iter: 0 without augmentation. labels: of synthetic rows, where the loss looks at them.
        teacher: newer ones of its seed that taught others here (see ``paired.teacher_ages``); 0 where nothing of a teacher is learned.
        other: the remaining parameters that choose what is trained, as canonical JSON.
    """

    loss: str = "hard"
    augment: str = "none"
    n_iter: int = 0
    share: float = 1.0
    alpha: float = 0.0
    labels: str = ""
    epochs: float = 0.0
    teacher: int = 0
    other: str = ""

    @classmethod
    def of(cls, parameters: Mapping[str, Any], teacher: int = 0) -> Cell:
        """The cell of a run's parameters."""
        p = {**DEFAULTS, **parameters}
        made = p["augment"] != "none" and p["n_iter"] > 0
        looks = p["loss"] == "hard" or p["alpha"] > 0
        cell = cls(
            p["loss"],
            p["augment"] if made else "none",
            p["n_iter"] if made else 0,
            float(p["share"]),
            float(p["alpha"]) if p["loss"] != "hard" else 0.0,
            p["synthetic_labels"] if made and looks else "",
            float(p["epochs"]),
            teacher,
            disk.canonical_json({k: v for k, v in p.items() if k not in NAMED | identity.NO_CHOICE}),
        )
        return cell.own()

    def own(self) -> Cell:
        """Without a teacher where nothing of one is learned."""
        return self if self.loss != "hard" or self.labels == "teacher" else replace(self, teacher=0)

    def of_set(self) -> Cell:
        """What the cells of a set share, as its cell of labels and nothing synthetic."""
        return Cell(share=self.share, epochs=self.epochs, teacher=self.teacher, other=self.other)

    def like(self, **changes: Any) -> Cell:
        """The cell of its set with these choices, of labels and nothing synthetic in all else."""
        return replace(self.of_set(), **changes).own()


def name_of(parameters: Mapping[str, Any]) -> str:
    """Display name of a student by what sets it apart: "BiLSTM 150 (logits, all x5, 25 % of rows)"."""
    cell = Cell.of(parameters)
    parts = [cell.loss if not cell.alpha else f"{cell.loss} + {cell.alpha:g} labels"]
    if parameters["temperature"] != 1 and cell.loss in {"soft", "kl"}:
        parts[0] += f" T={parameters['temperature']:g}"
    if cell.n_iter:
        parts.append(f"{cell.augment} x{cell.n_iter}")
    if cell.labels == "teacher":
        parts.append("teacher's classes")
    if cell.share < 1:
        parts.append(f"{100 * cell.share:g} % of rows")
    if parameters.get("teacher_seed") == "same":
        parts.append("a teacher per seed")
    if parameters["vectors"] != "backbone":
        parts.append(f"{Path(parameters['vectors']).name} vectors")
    return f"BiLSTM {parameters['hidden']} ({', '.join(parts)})"


@dataclass
class Study(paired.Students[Cell]):
    """The cells of one task.

    Attributes:
        n_train, n_synthetic: rows by cell. teachers: run ids of those that taught.
    """

    n_synthetic: dict[Cell, int] = field(default_factory=dict)
    n_train: dict[Cell, int] = field(default_factory=dict)
    teachers: set[str] = field(default_factory=set)

    def sets(self) -> list[Cell]:
        """The sets of cells, that where most rules were tried first; then that of most rows, of the newest teacher, of most epochs."""
        rules: dict[Cell, set[str]] = {}
        for cell in self.quality:
            rules.setdefault(cell.of_set(), set()).add(cell.augment)
        return sorted(rules, key=lambda s: (-len(rules[s]), -s.share, s.teacher, -s.epochs, s.other))

    def within(self, base: Cell) -> list[Cell]:
        """The cells of a set, those that learn nothing of a teacher whoever that was."""
        return [cell for cell in self.quality if cell.of_set() in {base, base.own()}]

    def base(self) -> Cell:
        """The first set with a gain, or the first: what is drawn, and what the sentence tells of."""
        return next((s for s in self.sets() if comparisons(self, s)), next(iter(self.sets()), Cell()))

    def beside(self) -> list[Cell]:
        """The first set's own at each share of rows: all but share and epochs are the same; of several at a share the first."""
        base, found = self.base(), dict[float, Cell]()
        for one in self.sets():
            if (one.teacher, one.other) == (base.teacher, base.other):
                found.setdefault(one.share, one)
        return list(found.values())

    def compared(self) -> dict[Cell, str]:
        """The sets at the first one's share that have a gain -> what tells each from the others, in words; nothing where there is one."""
        found = [s for s in self.sets() if s.share == self.base().share and comparisons(self, s)]
        said = [
            {
                "epochs": f"{s.epochs:g}",
                "teacher": paired.generation(s.teacher),
                **json.loads(s.other or "{}"),
            }
            for s in found
        ]
        differ = [
            n for n in dict.fromkeys(k for one in said for k in one) if len({str(o.get(n)) for o in said}) > 1
        ]
        return {
            s: ", ".join(
                wording.plain(str(one.get(n)) if n == "teacher" else f"{n} {one.get(n)}", 40) for n in differ
            )
            for s, one in zip(found, said, strict=True)
        }


def load(folder: Path | str, task: str, n_boot: int = N_BOOT) -> Study:
    """The students that `02_bilstm` left in a results folder for one task, with their bootstrap draws.

    Where a folder holds several builds of the data, the test rows that most students were measured on count; of a student that was trained
    twice the newer row does.
    """
    rows = [r for r in results.load_results(folder, damaged="warn") if r.task == task]
    students = [
        r for r in rows if r.notebook == "02_bilstm" and '"augment":' in r.parameters
    ]  # an earlier notebook had no grid
    drawn = paired.bootstrap_rows(folder, students, n_boot)
    tests = Counter((drawn[r.run_id].test, r.metric) for r in students)
    if not tests:
        return Study(task, "")
    counted = tests.most_common(1)[0][0]
    students = [r for r in students if (drawn[r.run_id].test, r.metric) == counted]
    study, ages = Study(task, counted[1]), paired.teacher_ages(students, rows)
    by_id, seen = {r.run_id: r for r in rows}, dict[tuple[Cell, int], schema.Result]()
    for row in sorted(students, key=lambda r: r.created_utc):
        cell, seed = Cell.of(json.loads(row.parameters), ages[row.teacher_run or ""]), int(row.seed or 0)
        if (cell, seed) in seen:
            paired.say_replaced(seen[cell, seed], row)
        seen[cell, seed] = row
        study.quality.setdefault(cell, {})[seed] = float(row.quality or 0.0)
        study.draws.setdefault(cell, {})[seed] = drawn[row.run_id].draws
        study.n_synthetic[cell], study.n_train[cell] = int(row.n_synthetic or 0), int(row.n_train or 0)
        study.teachers.add(row.teacher_run or "")
        study.n_test = int(row.n_examples or 0)
    taught = Counter(r.teacher_run or "" for r in students if not ages[r.teacher_run or ""])
    study.teacher = by_id.get(taught.most_common(1)[0][0])
    return study


# --- the gains --------------------------------------------------------------------------------------------------------------------


def comparisons(study: Study, base: Cell) -> dict[str, dict[Cell, float]]:
    """Name of each gain that can be computed within a set, and its contrast: what changed (+1) against what it is compared with (-1)."""
    rounds = rounds_of(study, base)

    def cell(loss: str, augment: str = "none", labels: str = "source") -> Cell:
        n_iter = rounds if augment != "none" else 0
        kept = labels if loss == "hard" and n_iter else ""
        return base.like(loss=loss, augment=augment, n_iter=n_iter, labels=kept)

    hard, logits = cell("hard"), cell("logits")
    wanted: dict[str, dict[Cell, float]] = {"distillation alone: logits, not labels": {logits: 1, hard: -1}}
    for rule in RULES[1:]:
        wanted[f"augmentation alone: {RULE_NAMES[rule]}"] = {cell("hard", rule): 1, hard: -1}
    for rule in RULES[1:]:
        wanted[f"on top of distillation: {RULE_NAMES[rule]}"] = {cell("logits", rule): 1, logits: -1}
    every, taught = cell("hard", "all"), cell("logits", "all")
    wanted["the teacher's classes for synthetic rows"] = {cell("hard", "all", "teacher"): 1, every: -1}
    wanted["logits, not labels, with all three rules"] = {taught: 1, every: -1}
    wanted["both together: what the paper reports"] = {taught: 1, hard: -1}
    own = {name: c for name, c in wanted.items() if any(one.teacher == base.teacher for one in c)}
    return {name: contrast for name, contrast in own.items() if study.seeds(*contrast)}


def rounds_of(study: Study, base: Cell) -> int:
    """The number of rounds at which most rules of a set were tried."""
    rounds = [cell.n_iter for cell in study.within(base) if cell.n_iter]
    return max(sorted(set(rounds)), key=rounds.count) if rounds else 0


def gains(folder: Path | str, task: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """One line per gain: its value in points (hundredths of the metric), its 95 % interval, and the seeds it is a mean of; of several sets
    also what tells the students apart."""
    study = load(folder, task, n_boot)
    lines = []
    for base, students in study.compared().items():
        for name, contrast in comparisons(study, base).items():
            value, low, high = (round(100 * v, 2) for v in study.contrast(contrast))
            seeds = len(study.seeds(*contrast))
            lines.append(
                {
                    "gain": name,
                    "students": students,
                    "points": value,
                    "low": low,
                    "high": high,
                    "seeds": seeds,
                }
            )
    table = pd.DataFrame(lines, columns=["gain", "students", "points", "low", "high", "seeds"])
    return table if table["students"].any() else table.drop(columns="students")


def sentence(folder: Path | str, task: str) -> str:
    """What was seen, in words, for whoever reads no table; empty without the comparison."""
    table = gains(folder, task).set_index("gain")
    students = [] if "students" not in table else list(dict.fromkeys(table["students"]))
    table = table[table["students"] == students[0]] if students else table
    parts = []
    for name, words in (
        ("distillation alone: logits, not labels", "learning the teacher's logits instead of labels"),
        ("augmentation alone: all three rules", "synthetic rows alone, with labels,"),
        ("on top of distillation: all three rules", "synthetic rows on top of the logits"),
        ("both together: what the paper reports", "both together"),
    ):
        if name in table.index:
            gain = table.loc[name]
            sure = "" if gain["low"] > 0 or gain["high"] < 0 else ", which may be nothing"
            parts.append(
                f"{words} changed it by {gain['points']:+.1f} points ({gain['low']:+.1f} to {gain['high']:+.1f}{sure})"
            )
    if not parts:
        return ""
    study = load(folder, task, n_boot=1)
    rows = max(n for cell, n in study.n_train.items() if cell.share == study.base().share)
    given = " given this teacher" if table["seeds"].min() > 1 and len(study.teachers) == 1 else ""
    return (
        f"Mean {wording.metric_name(study.metric)} on {study.n_test:,} test rows over {int(table['seeds'].min())} seeds{given}, "
        f"{rows:,} training rows, every student with the same number of steps{f' ({students[0]})' if students else ''}: "
        + "; ".join(parts)
        + "."
        + (
            f" Other students here have {'; '.join(students[1:])}: the table holds their gains."
            if students
            else ""
        )
    )


def tasks_of(folder: Path | str) -> list[str]:
    """Tasks of a results folder, with its raw logits, for which there is a comparison."""
    rows = results.load_results(folder, damaged="warn") if (Path(folder) / "rows").is_dir() else []
    return [t for t in sorted({r.task for r in rows if r.notebook == "02_bilstm"}) if sentence(folder, t)]
