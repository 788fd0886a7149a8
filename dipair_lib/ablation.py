"""Is it the distillation or the augmentation? The comparison Tang et al. 2019 leave open, drawn from the rows of `02_bilstm`.

A *cell* is one choice of all that decides what is trained, its rows differ by seed only. Cells that differ in loss and synthetic rows
only are one *set*; of several sets (other epochs, sizes, an earlier teacher) each is compared within itself. A *gain* is the difference of
two cells of a set on the same test rows and the same seeds; its interval is over test groups and seeds (``paired.ends``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import fonts, paired, results, tradeoff

RULES = ("none", "mask", "pos", "ngram", "all")
RULE_NAMES = {
    "none": "no synthetic rows",
    "mask": "masked words",
    "pos": "replaced words (POS)",
    "ngram": "n-grams",
    "all": "all three rules",
}
LOSSES = {"hard": ("labels", "#e69f00", "s"), "logits": ("teacher's logits", "#0072b2", "o")}
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
            results.canonical_json({k: v for k, v in p.items() if k not in NAMED | tradeoff.NO_CHOICE}),
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
                tradeoff.plain(str(one.get(n)) if n == "teacher" else f"{n} {one.get(n)}", 40) for n in differ
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
    drawn = paired.bootstrap(folder, students, n_boot)
    tests = Counter((drawn[r.run_id].test, r.metric) for r in students)
    if not tests:
        return Study(task, "")
    counted = tests.most_common(1)[0][0]
    students = [r for r in students if (drawn[r.run_id].test, r.metric) == counted]
    study, ages = Study(task, counted[1]), paired.teacher_ages(students, rows)
    by_id, seen = {r.run_id: r for r in rows}, dict[tuple[Cell, int], results.Result]()
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
        f"Mean {tradeoff.metric_name(study.metric)} on {study.n_test:,} test rows over {int(table['seeds'].min())} seeds{given}, "
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


def save_pictures(folder: Path | str, out: Path | str) -> list[Path]:
    """Write the figure of each task that has a comparison as ``ablation.png`` (of several tasks: with their names) into ``out``."""
    return paired.save_pictures(out, "ablation", tasks_of(folder), lambda task: figure(folder, task))


# --- the figure -------------------------------------------------------------------------------------------------------------------


def figure(folder: Path | str, task: str, n_boot: int = N_BOOT) -> Figure:
    """The answer at a glance: the grid of cells, the paired gains, and the gain against synthetic and real rows where there are several."""
    study = load(folder, task, n_boot)
    rounds, shares = by_rounds(study), by_share(study)
    more = [(plot_rounds, rounds)] * bool(rounds) + [(plot_shares, shares)] * bool(shares)
    drawn = Figure(figsize=(10.4, 4.6 + 3.3 * bool(more)), dpi=110, layout="constrained")
    rows: Any = drawn.subfigures(1 + bool(more), 1, height_ratios=[4.6, 3.3][: 1 + bool(more)], squeeze=False)
    above, *below = rows[:, 0]
    plot_cells(study, above.add_subplot(1, 2, 1))
    plot_gains(study, above.add_subplot(1, 2, 2))
    for number, (plot, lines) in enumerate(more, 1):
        plot(study, lines, below[0].add_subplot(1, len(more), number))
    return drawn


def plot_cells(study: Study, ax: Axes) -> None:
    """Quality of labels and logits, by the rule that made the synthetic rows."""
    tradeoff._style(ax)
    if not study.quality:
        return tradeoff._say(ax, "no student of 02_bilstm yet")
    base = study.base()
    rounds = rounds_of(study, base)
    rules = [r for r in RULES if any(c.augment == r for c in study.within(base))]
    for loss, (name, colour, marker) in LOSSES.items():
        shift = -0.12 if loss == "hard" else 0.12
        label: str | None = name
        for place, rule in enumerate(rules):
            n_iter = rounds if rule != "none" else 0
            kept = "source" if loss == "hard" and n_iter else ""
            cell = base.like(loss=loss, augment=rule, n_iter=n_iter, labels=kept)
            if cell not in study.quality:
                continue
            value, low, high = study.mean(cell)
            ax.errorbar(
                value,
                place + shift,
                xerr=[[max(0, value - low)], [max(0, high - value)]],
                fmt=marker,
                color=colour,
                ms=7,
                mec=tradeoff.INK,
                mew=0.6,
                capsize=2.5,
                lw=1.4,
                label=label,
                zorder=3,
            )
            seen = list(study.quality[cell].values())
            ax.plot(
                seen, [place + shift] * len(seen), ls="", marker="|", ms=9, color=colour, alpha=0.9, zorder=2
            )
            label = None
    if study.teacher and study.teacher.quality is not None:
        ax.axvline(study.teacher.quality, color="#d55e00", lw=1.4, ls=(0, (5, 2)), label="teacher", zorder=1)
    ax.set(
        yticks=range(len(rules)),
        yticklabels=[RULE_NAMES[r] for r in rules],
        xlabel=tradeoff.metric_name(study.metric),
    )
    ax.set_ylim(len(rules) - 0.5, -0.5)
    ax.set_title(
        f"{fonts.drawable(tradeoff.plain(study.task, 40))}: what the students reach",
        loc="left",
        fontsize=10.5,
        color=tradeoff.INK,
        pad=24,
    )
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=8.5, borderaxespad=0.2
    )


def plot_gains(study: Study, ax: Axes) -> None:
    """The paired gains in points, grouped by what changed."""
    tradeoff._style(ax)
    base = study.base()
    found = comparisons(study, base)
    if not found:
        return tradeoff._say(ax, "needs students with labels and with logits")
    for place, contrast in enumerate(found.values()):
        value, low, high = (100 * v for v in study.contrast(contrast))
        sure = low > 0 or high < 0
        ax.errorbar(
            value,
            place,
            xerr=[[max(0, value - low)], [max(0, high - value)]],
            fmt="D",
            ms=5.5,
            capsize=2.5,
            lw=1.4,
            color=tradeoff.INK,
            mfc=tradeoff.INK if sure else tradeoff.CARD,
            zorder=3,
        )
        ax.annotate(
            f"{value:+.1f}",
            (value, place),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=tradeoff.INK,
        )
    ax.axvline(0, color=tradeoff.MUTED, lw=1)
    ax.set(
        yticks=range(len(found)),
        yticklabels=list(found),
        xlabel="gain in points (hollow: may be nothing)",
    )
    ax.set_ylim(len(found) - 0.4, -0.6)
    students = study.compared().get(base, "")
    title = "What each part brings" + (f" ({students})" if students else "")
    ax.set_title(title, loc="left", fontsize=10.5, color=tradeoff.INK)


Lines = dict[str, list[tuple[float, Cell]]]


def by_rounds(study: Study) -> Lines:
    """Loss -> (synthetic rows per row, cell) for all three rules, at the share of rows where most numbers of rounds were tried."""
    tried = {
        base: sorted({c.n_iter for c in study.within(base) if c.augment == "all"})
        for base in sorted(study.beside(), key=lambda s: s.share)
    }
    lines: Lines = {}
    for loss in LOSSES if tried else ():
        base = max(tried, key=lambda s: len(tried[s]))
        made = {"augment": "all", "labels": "source" if loss == "hard" else ""}
        cells = [base.like(loss=loss, n_iter=n, **made) for n in tried[base]]
        points = [(float(c.n_iter), c) for c in cells if c in study.quality]
        if len(points) > 1:
            lines[loss] = [(0.0, base.like(loss=loss)), *points]
    return lines


def by_share(study: Study) -> Lines:
    """Training choice -> (share of the rows, cell), where more than one share was tried."""
    rounds = rounds_of(study, study.base())
    choices = {
        "labels": ("hard", {}),
        "teacher's logits": ("logits", {}),
        "logits and synthetic rows": ("logits", {"augment": "all", "n_iter": rounds}),
    }
    lines: Lines = {}
    for name, (loss, made) in choices.items():
        cells = [base.like(loss=loss, **made) for base in study.beside()]
        points = sorted((c.share, c) for c in cells if c in study.quality)
        if len(points) > 1:
            lines[name] = points
    return lines


def plot_rounds(study: Study, lines: Lines, ax: Axes) -> None:
    """Quality against synthetic rows per training row."""
    tradeoff._style(ax)
    for loss, points in lines.items():
        name, colour, marker = LOSSES[loss]
        draw_line(study, ax, [(x, c) for x, c in points if c in study.quality], name, colour, marker)
    ax.set(
        xlabel="synthetic rows per training row (all three rules)", ylabel=tradeoff.metric_name(study.metric)
    )
    ax.set_xscale("symlog", linthresh=1)
    ticks = sorted({int(x) for points in lines.values() for x, _ in points})
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    first = next(iter(lines.values()))[-1][1]
    ax.set_title(
        f"More synthetic rows ({study.n_train[first]:,} real ones)",
        loc="left",
        fontsize=10.5,
        color=tradeoff.INK,
    )
    ax.legend(frameon=False, fontsize=8.5)


def plot_shares(study: Study, lines: Lines, ax: Axes) -> None:
    """Quality against the number of real training rows."""
    tradeoff._style(ax)
    styles: Sequence[tuple[str, str]] = (("#e69f00", "s"), ("#0072b2", "o"), ("#009e73", "^"))
    for (name, points), (colour, marker) in zip(lines.items(), styles, strict=False):
        draw_line(study, ax, [(study.n_train[c], c) for _, c in points], name, colour, marker)
    ax.set_xscale("log")
    epochs = {study.n_train[c]: c.epochs for points in lines.values() for _, c in points}
    apart = len(set(epochs.values())) > 1
    ax.set_xticks(list(epochs), [f"{n:,}" + (f"\n{e:g} epochs" if apart else "") for n, e in epochs.items()])
    ax.minorticks_off()
    ax.set(
        xlabel="real training rows (the teacher saw all)",
        ylabel=tradeoff.metric_name(study.metric),
    )
    ax.set_title("More real rows", loc="left", fontsize=10.5, color=tradeoff.INK)
    ax.legend(frameon=False, fontsize=8.5)


def draw_line(
    study: Study, ax: Axes, points: Iterable[tuple[float, Cell]], name: str, colour: str, marker: str
) -> None:
    """One line of means with their intervals."""
    xs, cells = zip(*points, strict=True)
    values = np.array([study.mean(cell) for cell in cells])
    low, high = values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]
    bars = np.maximum(0, np.stack([low, high]))
    ax.errorbar(
        xs,
        values[:, 0],
        yerr=bars,
        marker=marker,
        color=colour,
        mec=tradeoff.INK,
        mew=0.6,
        ms=6.5,
        lw=1.5,
        capsize=2.5,
        label=name,
    )
