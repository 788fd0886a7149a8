"""Is it the distillation or the augmentation? The comparison Tang et al. 2019 leave open, drawn from the rows
of `02_bilstm`.

Students that differ in loss and synthetic rows only are one *set*; of several sets (other epochs, sizes, an
earlier teacher) each is compared within itself. A *gain* is the difference of two students of a set on the
same test rows and the same seeds; its interval is over test groups and seeds (``bootstrap.ends``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dipair_lib.evaluation import bootstrap
from dipair_lib.reporting import identity, wording
from dipair_lib.reporting.studies import students
from dipair_lib.reporting.studies.students import Settings, Students
from dipair_lib.system import disk

RULES = {
    "none": "no synthetic rows", "mask": "masked words", "pos": "replaced words (POS)", "ngram": "n-grams", "all": "all three rules",
}  # fmt: skip
# What a parameter was in rows that do not name it: they are from before it could be chosen.
DEFAULTS = {"tagger": "pattern", "teacher_score": "", "teacher_seed": "one", "pairs": [], "budget": 1.0}
# What is chosen within a set, and its student of labels and nothing synthetic.
PLAIN = {"loss": "hard", "alpha": 0, "augment": "none", "n_iter": 0, "synthetic_labels": "source"}

ALONE, BOTH = "distillation alone: logits, not labels", "both together: what the paper reports"
ROWS, ON_TOP = "augmentation alone: ", "on top of distillation: "
SAID = {
    ALONE: "learning the teacher's logits instead of labels",
    ROWS + RULES["all"]: "synthetic rows alone, with labels,",
    ON_TOP + RULES["all"]: "synthetic rows on top of the logits",
    BOTH: "both together",
}


# --- students and sets ------------------------------------------------------------------------------------------------------------


def settings_of(parameters: Mapping[str, Any], n_train: int | None = None, teacher_age: int = 0) -> Settings:
    """What was trained, of a run's parameters; nothing of an earlier notebook, which had no grid.
    ``teacher_age``: see ``identity.teacher_ages``.
    """
    settings = students.read(parameters, DEFAULTS)
    if "augment" not in settings:
        return Settings()
    if settings["augment"] == "none" or not settings["n_iter"]:
        settings |= {"augment": "none", "n_iter": 0}
    return counted({**settings, "teacher_age": teacher_age})


def counted(settings: dict[str, Any]) -> Settings:
    """Settings in which what does not count is nothing: labels of synthetic rows that nobody looks at, a
    teacher nobody learns from.
    """
    alpha = settings["alpha"] if settings["loss"] != "hard" else 0
    looked_at = settings["n_iter"] and (settings["loss"] == "hard" or alpha)
    labels = settings["synthetic_labels"] if looked_at else ""
    settings = {**settings, "alpha": alpha, "synthetic_labels": labels}
    return Settings({**settings, "teacher_age": settings.get("teacher_age", 0) * students.learns(settings)})


def set_of(settings: Mapping[str, Any]) -> Settings:
    """What the students of a set share."""
    return Settings({name: value for name, value in settings.items() if name not in PLAIN})


def like(base: Settings, **changes: Any) -> Settings:
    """The student of a set with these choices, of labels and nothing synthetic in all else."""
    return counted({**base, **PLAIN, **changes})


def name_of(parameters: Mapping[str, Any]) -> str:
    """Display name of a student by what sets it apart: "BiLSTM 150 (logits, all x5, 25 % of rows)"."""
    own = settings_of(parameters)
    loss, alpha, share, vectors = own["loss"], own["alpha"], own["share"], own["vectors"]
    heated = own["temperature"] != 1 and loss in {"soft", "kl"}
    parts = [
        f"{loss} + {alpha:g} labels" if alpha else loss + (f" T={own['temperature']:g}" if heated else ""),
        f"{own['augment']} x{own['n_iter']}" if own["n_iter"] else "",
        "teacher's classes" if own["synthetic_labels"] == "teacher" else "",
        f"{100 * share:g} % of rows" if share < 1 else "",
        "a teacher per seed" if own["teacher_seed"] == "same" else "",
        f"{Path(vectors).name} vectors" if vectors != "backbone" else "",
    ]
    return f"BiLSTM {own['hidden']} ({', '.join(part for part in parts if part)})"


def load(folder: Path | str, task: str, n_boot: int = bootstrap.N_BOOT) -> Students:
    """The students that `02_bilstm` left in a results folder for one task."""
    return students.load(folder, task, "02_bilstm", settings_of, n_boot)


def sets_of(study: Students) -> list[Settings]:
    """The sets, that where most rules were tried first; then that of most rows, of the newest teacher, of
    most epochs.
    """
    rules: dict[Settings, set[str]] = {}
    for own in study.quality:
        rules.setdefault(set_of(own), set()).add(own["augment"])

    def rank(one: Settings) -> tuple[Any, ...]:
        return -len(rules[one]), -one["share"], one["teacher_age"], -one["epochs"], disk.canonical_json(one)

    return sorted(rules, key=rank)


def within(study: Students, base: Settings) -> list[Settings]:
    """The students of a set, those that learn nothing of a teacher whoever that was."""
    return [own for own in study.quality if set_of(own) in (base, {**base, "teacher_age": 0})]


def first_of(study: Students) -> Settings:
    """The first set with a gain, or the first: what is drawn, and what the sentence tells of."""
    sets = [*sets_of(study), Settings()]
    return next((one for one in sets if comparisons(study, one)), sets[0])


def beside(study: Students) -> list[Settings]:
    """The first set's own at each share of rows: all but share and epochs are the same; of several at a share
    the first.
    """
    base, found = first_of(study), dict[float, Settings]()
    for one in sets_of(study):
        if one == {**base, "share": one["share"], "epochs": one["epochs"]}:
            found.setdefault(one["share"], one)
    return list(found.values())


def compared(study: Students) -> dict[Settings, str]:
    """The sets at the first one's share that have a gain -> what tells each from the others, in words;
    nothing where there is one.
    """
    share = first_of(study).get("share")
    found = [one for one in sets_of(study) if one["share"] == share and comparisons(study, one)]
    names = dict.fromkeys(["epochs", "teacher_age", *(name for one in found for name in one)])
    differ = [name for name in names if len({str(one.get(name)) for one in found}) > 1]

    def said(name: str, value: Any) -> str:
        value = list(value) if isinstance(value, tuple) else value
        return wording.plain(identity.generation(value) if name == "teacher_age" else f"{name} {value}", 40)

    return {one: ", ".join(said(name, one.get(name)) for name in differ) for one in found}


# --- the gains --------------------------------------------------------------------------------------------------------------------


def rounds_of(study: Students, base: Settings) -> int:
    """The number of rounds at which most rules of a set were tried."""
    rounds = [own["n_iter"] for own in within(study, base) if own["n_iter"]]
    return max(sorted(set(rounds)), key=rounds.count, default=0)


def grid(study: Students, base: Settings, loss: str, **others: Any) -> dict[str, Settings]:
    """Rule -> the student of a set with this loss, at the set's number of rounds, whether or not it was
    trained.
    """
    rounds = rounds_of(study, base)
    return {
        rule: like(base, loss=loss, augment=rule, n_iter=rounds * (rule != "none"), **others)
        for rule in RULES
    }


def comparisons(study: Students, base: Settings) -> dict[str, dict[Settings, float]]:
    """Name of each gain that can be computed within a set, and its contrast: what changed (+1) against what
    it is compared with (-1).
    """
    hard, logits = grid(study, base, "hard"), grid(study, base, "logits")
    classes = grid(study, base, "hard", synthetic_labels="teacher")
    rules = {rule: name for rule, name in RULES.items() if rule != "none"}
    wanted = {
        ALONE: (logits["none"], hard["none"]),
        **{ROWS + name: (hard[rule], hard["none"]) for rule, name in rules.items()},
        **{ON_TOP + name: (logits[rule], logits["none"]) for rule, name in rules.items()},
        "the teacher's classes for synthetic rows": (classes["all"], hard["all"]),
        "logits, not labels, with all three rules": (logits["all"], hard["all"]),
        BOTH: (logits["all"], hard["none"]),
    }
    return {
        name: {new: 1, old: -1}
        for name, (new, old) in wanted.items()
        if base.get("teacher_age") in {new["teacher_age"], old["teacher_age"]} and study.seeds([new, old])
    }


def gains(folder: Path | str, task: str, n_boot: int = bootstrap.N_BOOT) -> pd.DataFrame:
    """One line per gain: its value in points (hundredths of the metric), its 95 % interval, and the seeds it
    is a mean of; of several sets also what tells the students apart.
    """
    study = load(folder, task, n_boot)
    lines = [
        (name, said, *(round(100 * v, 2) for v in study.contrast(contrast)), len(study.seeds(contrast)))
        for base, said in compared(study).items()
        for name, contrast in comparisons(study, base).items()
    ]
    table = pd.DataFrame(lines, columns=["gain", "students", "points", "low", "high", "seeds"])
    return table if table["students"].any() else table.drop(columns="students")


def sentence(folder: Path | str, task: str) -> str:
    """What was seen, in words, for whoever reads no table; empty without the comparison."""
    study = load(folder, task)
    table = gains(folder, task).set_index("gain")
    sets = [] if "students" not in table else list(dict.fromkeys(table["students"]))
    table = table[table["students"] == sets[0]] if sets else table
    parts = []
    for name, words in SAID.items():
        if name in table.index:
            points, low, high = table.loc[name, ["points", "low", "high"]]
            sure = "" if wording.significant(low, high) else f", {wording.NOT_SIGNIFICANT}"
            parts.append(f"{words} changed it by {points:+.1f} points ({low:+.1f} to {high:+.1f}{sure})")
    if not parts:
        return ""
    share, seeds = first_of(study)["share"], int(table["seeds"].min())
    rows = max(study.row(own).n_train or 0 for own in study.quality if own["share"] == share)
    teachers = {row.teacher_run for seeds_ in study.rows.values() for row in seeds_.values()}
    given = " given this teacher" if seeds > 1 and len(teachers) == 1 else ""
    said = (
        f"Mean {wording.metric_name(study.metric)} on {study.n_test:,} test rows over {seeds} seeds{given}, "
    )
    said += f"{rows:,} training rows, every student with the same number of steps"
    said += f"{f' ({sets[0]})' if sets else ''}: {'; '.join(parts)}."
    others = f" Other students here have {'; '.join(sets[1:])}: the table holds their gains."
    return said + (others if sets else "")


def tasks_of(folder: Path | str) -> list[str]:
    """Tasks of a results folder, with its raw logits, for which there is a comparison."""
    return students.tasks_of(folder, "02_bilstm", lambda task: sentence(folder, task))
