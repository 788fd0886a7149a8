"""Results folders compared with each other: two machines, two tasks, before and after.

Models of one name on the same test data are compared in pairs, from raw logits. Other test data under one
task's name is said to be other data and compared with nothing. Clocks are stated with their machine and never
divided: no two folders were clocked in turns.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dipair_lib.evaluation import bootstrap, results
from dipair_lib.evaluation.schema import Result
from dipair_lib.reporting import caveats, derived, identity, published, wording
from dipair_lib.reporting.figures import style
from dipair_lib.reporting.wording import known, plain
from dipair_lib.system import disk

MOST_DRAWN = 30  # differences a figure shows, so that it fits a printed page; the table has all


@dataclass(frozen=True)
class Opened:
    """A results folder as it is reported: its rows, their frame with published numbers beside them, what
    could not be read.
    """

    folder: Path
    name: str
    rows: list[Result]
    data: pd.DataFrame
    damaged: list[str]

    def of(self, task: str) -> pd.DataFrame:
        """The frame of one task's measured rows."""
        return self.data[(self.data["task"] == task) & (self.data["family"] != "published")]


def opened(folder: Path | str, name: str = "") -> Opened:
    """Read a results folder, leaving out what is damaged.

    Args:
        name: what it is called beside others; its own name if not given.

    Raises:
        ResultError: it holds no readable row.
    """
    folder = Path(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = results.load_results(folder, damaged="warn")
    if not rows:
        raise disk.ResultError(
            f"{folder}: no result row to report: run a suite first (dipair run notebooks/suites/demo.yaml)"
        )
    quoted = published.rows(sorted({row.task for row in rows}))
    data = derived.frame([*rows, *quoted], folder=folder)
    return Opened(folder, name or folder.resolve().name, rows, data, [str(w.message) for w in caught])


def names_of(folders: Sequence[Path]) -> list[str]:
    """As much of each path's end as tells them apart.

    Raises:
        ResultError: a folder is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise disk.ResultError(f"{path}: named twice: name each folder once")
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = [os.sep.join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return [plain(name, 80) for name in names]


def tasks_of(sides: Sequence[Opened]) -> list[str]:
    """Names of all tasks that were measured, in order of appearance."""
    return list(dict.fromkeys(row.task for side in sides for row in side.rows if row.family != "published"))


def machine_of(row: Mapping[str, Any] | pd.Series) -> str:
    """Where a row was clocked; nothing where it was not."""
    if not known(row["pairs_per_s"]):
        return ""
    threads = f", {row['threads']:.0f} threads" if known(row["threads"]) else ""
    return plain(f"{row['device_name'] or 'unknown processor'} ({row['device'] or 'cpu'}{threads})")


def machines(sides: Sequence[Opened]) -> dict[str, int]:
    """Number of each machine that clocked a row, from 1."""
    found = dict.fromkeys(machine_of(row) for side in sides for _, row in side.data.iterrows())
    return {machine: number for number, machine in enumerate((name for name in found if name), 1)}


def same_data(before: pd.DataFrame, after: pd.DataFrame) -> bool:
    """Whether two frames of one task were measured on the same data, as far as their rows say."""
    hashes = [set(data["data_sha256"].dropna()) for data in (before, after)]
    return len(hashes[0]) == 1 and hashes[0] == hashes[1]


def lines(before: Opened, after: Opened, task: str) -> pd.DataFrame:
    """The models that both folders have of a task, by name, one line each, best quality of ``after`` first.

    Columns: model, family; quality, quality_low, quality_high, pairs_per_s, pairs_seen, rising and machine,
    each with ``_before`` and ``_after``; difference, difference_low, difference_high (``after`` less
    ``before``, NaN where it cannot be paired); differs.
    """
    sides = [side.of(task).drop_duplicates("model").set_index("model") for side in (before, after)]
    both = [name for name in sides[1].sort_values("quality", ascending=False).index if name in sides[0].index]
    draws = [
        drawn_of(side.folder, side.rows, [run for name in both for run in data.at[name, "runs"]])
        for side, data in zip((before, after), sides, strict=True)
    ]
    found = []
    for name in both:
        rows = [data.loc[name] for data in sides]
        line: dict[str, Any] = {"model": plain(name), "family": rows[1]["family"]}
        for row, when in zip(rows, ("before", "after"), strict=True):
            line |= {f"{column}_{when}": row[column] for column in COMPARED}
            line[f"machine_{when}"] = machine_of(row)
        drawn = [[of.get(run) for run in row["runs"]] for of, row in zip(draws, rows, strict=True)]
        line |= dict(zip(DIFFERENCE, difference(rows, drawn), strict=True))
        line["differs"] = differs(*rows)
        found.append(line)
    return pd.DataFrame(found)


COMPARED = (*identity.QUALITY, "pairs_per_s", "pairs_seen", "rising")
DIFFERENCE = ["difference", "difference_low", "difference_high"]


def drawn_of(folder: Path, rows: Sequence[Result], runs: Sequence[str]) -> dict[str, bootstrap.Drawn]:
    """The bootstrap of those of the runs whose raw logits are at hand."""
    wanted = set(runs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be read is not paired
        return bootstrap.draw_rows(folder, [row for row in rows if row.run_id in wanted])


def difference(
    rows: Sequence[pd.Series], drawn: Sequence[Sequence[bootstrap.Drawn | None]]
) -> tuple[float, float, float]:
    """The second row's quality less the first one's, with a 95 % interval that draws the same test groups for
    both, and seeds; NaN unless each of their seeds has logits on the same test rows and they share the
    metric.
    """
    ends = bootstrap.difference(*drawn)
    if ends is None or rows[0]["metric"] != rows[1]["metric"]:
        return float("nan"), float("nan"), float("nan")
    low, high = (float("nan") if end is None else end for end in ends)
    return float(rows[1]["quality"] - rows[0]["quality"]), low, high


def differs(before: pd.Series, after: pd.Series) -> str:
    """What two rows of one name were trained with that is not the same, in words."""
    own, other = (identity.parameters_of(row["parameters"]) for row in (before, after))
    said = [
        f"{name} {own[name]} → {other[name]}" for name in own if name in other and own[name] != other[name]
    ]
    seeds = [len(row["runs"]) for row in (before, after)]
    if seeds[0] != seeds[1]:
        said.append(f"seeds {seeds[0]} → {seeds[1]}")
    return plain("; ".join(said)) or wording.DASH


def sure(found: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Flags of the lines whose whole interval is above 0, and of those below."""
    return found["difference_low"] > 0, found["difference_high"] < 0


def sentence(before: Opened, after: Opened, task: str, found: pd.DataFrame) -> str:
    """The comparison in words."""
    own, other = (set(side.of(task)["model"]) for side in (before, after))
    alone = [
        f"{len(names)} model{'s are' if len(names) > 1 else ' is'} in {side.name} only."
        for side, names in ((before, own - other), (after, other - own))
        if names
    ]
    if not len(found):
        return " ".join([f"No model has the same name in {before.name} and {after.name}.", *alone])
    up, down = sure(found)
    unpaired = int(found["difference"].isna().sum())
    said = []
    if n := len(found) - unpaired:
        better, less = int(up.sum()), int(down.sum())
        said.append(
            f"Of {n} models compared in pairs, {better} {'is' if better == 1 else 'are'} surely better in {after.name} and {less} surely "
            f"worse; the other {n - better - less} may be the same. If nothing had changed, about one in twenty would still look sure."
        )
    rising = int((up & found["rising_before"]).sum() + (down & found["rising_after"]).sum())
    if rising:
        said.append(
            f"Of those that are surely worse {rising} {'was' if rising == 1 else 'were'} still rising: train longer."
        )
    if unpaired:
        said.append(
            f"{unpaired} cannot be paired, because raw logits are not at hand in both folders or are of other test rows: their intervals "
            "stand side by side."
        )
    return " ".join([*said, *alone])


def table(before: Opened, after: Opened, found: pd.DataFrame, numbers: Mapping[str, int]) -> pd.DataFrame:
    """The lines as text for people."""
    shown = []
    for _, line in found.iterrows():
        texts = {"model": line["model"]}
        for side, when in ((before, "before"), (after, "after")):
            texts[f"quality, {side.name}"] = wording.within(*(line[f"{c}_{when}"] for c in identity.QUALITY))
        texts["difference"] = wording.signed(*(line[c] for c in DIFFERENCE)) + worse(line)
        for side, when in ((before, "before"), (after, "after")):
            speed = wording.si(line[f"pairs_per_s_{when}"])
            machine = line[f"machine_{when}"]
            texts[f"pairs/s, {side.name}"] = (
                f"{speed}, machine {numbers[machine]}" if machine else wording.DASH
            )
        texts["trained differently"] = line["differs"]
        shown.append(texts)
    return pd.DataFrame(shown)


def worse(line: pd.Series) -> str:
    """What stands beside a difference of which one side is surely the worse: whether that one was still
    rising, and whether both saw as many pairs (``after``'s stand first).
    """
    loser = "after" if line["difference_high"] < 0 else "before" if line["difference_low"] > 0 else ""
    pairs = line["pairs_seen_after"], line["pairs_seen_before"]
    return caveats.budgets(line[f"rising_{loser}"], *pairs) if loser else ""


def figure(before: Opened, after: Opened, found: pd.DataFrame) -> Figure | None:
    """The paired differences with their intervals, largest gain first; hollow where it is not significant:
    the interval includes 0. None if no line is paired.
    """
    lines = found[found["difference"].notna()]
    most = lines["difference"].abs().sort_values(ascending=False).index[:MOST_DRAWN]
    lines = lines.loc[lines.index.isin(most)].sort_values("difference", kind="stable")
    if lines.empty:
        return None
    up, down = sure(lines)
    drawn = Figure(figsize=(9.2, 1.3 + 0.27 * max(len(lines), 2)), dpi=110, layout="constrained")
    ax = drawn.subplots()
    style.style_axes(ax)
    ax.grid(False, axis="y")
    ax.axvline(0, color=style.MUTED, lw=1)
    for place, (number, line) in enumerate(lines.iterrows()):
        family = style.FAMILIES.get(line["family"], style.FAMILIES["constant"])
        ax.plot(
            [line["difference_low"], line["difference_high"]],
            [place] * 2,
            color=style.INK,
            lw=0.9,
            zorder=3,
        )
        ax.plot(
            [line["difference"]], [place], ls="", marker=family.marker, ms=8, zorder=4, mec=style.INK, mew=0.6,
            mfc=family.colour if up[number] or down[number] else style.CARD, gid=f"row:difference:{number}",
        )  # fmt: skip
    ax.set_ylim(-0.7, len(lines) - 0.3)
    ax.set_yticks(range(len(lines)), [plain(name, 56).replace("$", r"\$") for name in lines["model"]])
    ax.tick_params(axis="y", length=0, labelcolor=style.INK)
    ax.set_xlabel(f"quality in {after.name} less quality in {before.name}".replace("$", r"\$"))
    return drawn


def hovers(found: pd.DataFrame) -> dict[str, str]:
    """What each point of the figure says."""

    def said(line: pd.Series) -> str:
        now, then = (
            wording.within(*(line[f"{c}_{w}"] for c in identity.QUALITY)) for w in ("after", "before")
        )
        return f"{line['model']}: {wording.signed(*(line[c] for c in DIFFERENCE))}{worse(line)}; {now}, before {then}"

    return {str(number): said(line) for number, line in found.iterrows()}
