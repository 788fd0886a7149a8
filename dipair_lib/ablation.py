"""Is it the distillation or the augmentation? The comparison Tang et al. 2019 leave open, drawn from the rows of `02_bilstm`.

A *cell* is one set of training choices (loss, synthetic rows, share of the training rows), its rows differ by seed only. A *gain*
is the difference of two cells on the same test rows and the same seeds; its interval draws test groups and seeds together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import paired, results, tradeoff

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


@dataclass(frozen=True, order=True)
class Cell:
    """What a student was trained with; the fields are parameters of 02_bilstm.

    Attributes:
        n_iter: 0 without augmentation. labels: of synthetic rows, where the loss looks at them.
    """

    loss: str = "hard"
    augment: str = "none"
    n_iter: int = 0
    share: float = 1.0
    alpha: float = 0.0
    labels: str = ""
    other: str = ""  # the remaining parameters, as canonical JSON

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Cell:
        """The cell of a run's parameters."""
        p = dict(parameters)
        made = p["augment"] != "none" and p["n_iter"] > 0
        looks = p["loss"] == "hard" or p["alpha"] > 0
        ignored = {
            "out",
            "clock",
            "threads",
            "seed",
            "n_seeds",
            "share",
            "loss",
            "alpha",
            "augment",
            "n_iter",
            "synthetic_labels",
            "epochs",
        }
        return cls(
            p["loss"],
            p["augment"] if made else "none",
            p["n_iter"] if made else 0,
            float(p["share"]),
            float(p["alpha"]) if p["loss"] != "hard" else 0.0,
            p["synthetic_labels"] if made and looks else "",
            results.canonical_json({k: v for k, v in p.items() if k not in ignored}),
        )


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
        n_train, n_synthetic: rows by cell.
    """

    n_synthetic: dict[Cell, int] = field(default_factory=dict)
    n_train: dict[Cell, int] = field(default_factory=dict)

    def base(self) -> Cell:
        """Labels, nothing synthetic, at the share of rows where most rules were tried: what the others are compared with."""
        rules: dict[float, set[str]] = {}
        for cell in self.quality:
            rules.setdefault(cell.share, set()).add(cell.augment)
        share = max(sorted(rules, reverse=True), key=lambda s: len(rules[s]), default=1.0)
        return next((c for c in self.quality if c == self.like(c, share=share)), Cell(share=share))

    def like(self, cell: Cell, **changes: Any) -> Cell:
        """The plain cell (labels, nothing synthetic) of another one's remaining parameters, with changes."""
        values = {
            "loss": "hard",
            "augment": "none",
            "n_iter": 0,
            "share": cell.share,
            "alpha": 0.0,
            "labels": "",
        }
        return Cell(**{**values, "other": cell.other, **changes})


def load(folder: Path | str, task: str, n_boot: int = N_BOOT) -> Study:
    """The students that `02_bilstm` left in a results folder for one task, with their bootstrap draws."""
    rows = [r for r in results.load_results(folder, damaged="warn") if r.task == task]
    students = [
        r for r in rows if r.notebook == "02_bilstm" and '"augment":' in r.parameters
    ]  # an earlier notebook had no grid
    study = Study(task, students[0].metric if students else "")
    by_id = {r.run_id: r for r in rows}
    drawn = paired.bootstrap(folder, students, n_boot)
    for row in students:
        cell, seed = Cell.of(json.loads(row.parameters)), int(row.seed or 0)
        study.quality.setdefault(cell, {})[seed] = float(row.quality or 0.0)
        study.draws.setdefault(cell, {})[seed] = drawn[row.run_id].draws
        study.n_synthetic[cell], study.n_train[cell] = int(row.n_synthetic or 0), int(row.n_train or 0)
        study.teacher = by_id.get(row.teacher_run or "")
        study.n_test = int(row.n_examples or 0)
    return study


# --- the gains --------------------------------------------------------------------------------------------------------------------


def comparisons(study: Study) -> dict[str, dict[Cell, float]]:
    """Name of each gain that can be computed, and its contrast: what changed (+1) against what it is compared with (-1)."""
    plain = study.base()
    rounds = study_rounds(study, plain.share)

    def cell(loss: str, augment: str = "none", labels: str = "source") -> Cell:
        n_iter = rounds if augment != "none" else 0
        kept = labels if loss == "hard" and n_iter else ""
        return study.like(plain, loss=loss, augment=augment, n_iter=n_iter, labels=kept)

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
    return {name: contrast for name, contrast in wanted.items() if study.seeds(*contrast)}


def study_rounds(study: Study, share: float) -> int:
    """The number of rounds at which most rules were tried."""
    rounds = [c.n_iter for c in study.quality if c.n_iter and c.share == share]
    return max(sorted(set(rounds)), key=rounds.count) if rounds else 0


def gains(folder: Path | str, task: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """One line per gain: its value in points (hundredths of the metric), its 95 % interval, and the seeds it is a mean of."""
    study = load(folder, task, n_boot)
    lines = []
    for name, contrast in comparisons(study).items():
        value, low, high = (100 * v for v in study.contrast(contrast))
        seeds = len(study.seeds(*contrast))
        lines.append(
            {
                "gain": name,
                "points": round(value, 2),
                "low": round(low, 2),
                "high": round(high, 2),
                "seeds": seeds,
            }
        )
    return pd.DataFrame(lines, columns=["gain", "points", "low", "high", "seeds"])


def sentence(folder: Path | str, task: str) -> str:
    """What was seen, in words, for whoever reads no table; empty without the comparison."""
    table = gains(folder, task).set_index("gain")
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
    return (
        f"Mean {tradeoff._metric_name(study.metric)} on {study.n_test:,} test rows over {int(table['seeds'].min())} seeds, "
        f"{study.n_train[study.base()]:,} training rows, every student with the same number of steps: "
        + "; ".join(parts)
        + "."
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
    rounds = study_rounds(study, base.share)
    rules = [r for r in RULES if any(c.augment == r and c.share == base.share for c in study.quality)]
    for loss, (name, colour, marker) in LOSSES.items():
        shift = -0.12 if loss == "hard" else 0.12
        label: str | None = name
        for place, rule in enumerate(rules):
            n_iter = rounds if rule != "none" else 0
            kept = "source" if loss == "hard" and n_iter else ""
            cell = study.like(base, loss=loss, augment=rule, n_iter=n_iter, labels=kept)
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
        xlabel=tradeoff._metric_name(study.metric),
    )
    ax.set_ylim(len(rules) - 0.5, -0.5)
    ax.set_title(
        f"{tradeoff.plain(study.task, 40)}: what the students reach",
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
    found = comparisons(study)
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
    ax.set_title("What each part brings", loc="left", fontsize=10.5, color=tradeoff.INK)


Lines = dict[str, list[tuple[float, Cell]]]


def by_rounds(study: Study) -> Lines:
    """Loss -> (synthetic rows per row, cell) for all three rules, at the share of rows where most numbers of rounds were tried."""
    base = study.base()
    tried = {(c.share, c.n_iter) for c in study.quality if c.augment == "all"}
    shares = [share for share, _ in sorted(tried)]
    if not shares:
        return {}
    base = study.like(base, share=max(shares, key=shares.count))
    lines: Lines = {}
    for loss in LOSSES:
        cells = [
            c
            for c in study.quality
            if c.loss == loss and c.share == base.share and c.other == base.other and not c.alpha
        ]
        points = sorted((c.n_iter, c) for c in cells if c.augment == "all" and c.labels in {"", "source"})
        if len(points) > 1:
            lines[loss] = [(0, study.like(base, loss=loss)), *points]
    return lines


def by_share(study: Study) -> Lines:
    """Training choice -> (share of the rows, cell), where more than one share was tried."""
    base = study.base()
    rounds = study_rounds(study, base.share)
    choices = {
        "labels": ("hard", "none"),
        "teacher's logits": ("logits", "none"),
        "logits and synthetic rows": ("logits", "all"),
    }
    lines: Lines = {}
    for name, (loss, rule) in choices.items():
        cells = [
            c
            for c in study.quality
            if c.loss == loss and c.augment == rule and c.other == base.other and not c.alpha
        ]
        points = sorted((c.share, c) for c in cells if c.n_iter in {0, rounds} and c.labels in {"", "source"})
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
        xlabel="synthetic rows per training row (all three rules)", ylabel=tradeoff._metric_name(study.metric)
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
    ticks = sorted({study.n_train[c] for points in lines.values() for _, c in points})
    ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
    ax.minorticks_off()
    ax.set(
        xlabel="real training rows (the teacher saw all)",
        ylabel=tradeoff._metric_name(study.metric),
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
