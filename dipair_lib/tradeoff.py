"""From result rows to a decision: derived columns, the Pareto front, plots, and the choice under limits.

A row (`results.Result`) stores only what was measured. Everything here is derived from rows and never written back:
pairs per second, speed-ups, the share of the machine's matrix peak, Pareto flags. Plots are pure functions from a
frame to given Axes; they keep no pyplot state, and every drawn point carries the gid `row:<panel>:<run_id>`, which
`report` turns into a hover text. A published number is shown apart and never stands beside a clock.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from dipair_lib import fonts, gap, paired
from dipair_lib.results import Result, canonical_json, load_results, printable, row_folder

REUSE = 1000.0  # pairs that share a text, where an end-to-end price is stated without another number
TIE = 0.10  # speeds this close to the fastest are one speed: quality decides between them
MOST_NAMED = 12  # models of one family that are all named in a plot
fonts.use()
DASH = "–"  # what stands for "not measured"; never 0


@dataclasses.dataclass(frozen=True)
class Axis:
    """How one column is drawn and compared."""

    label: str
    better: str  # "higher" or "lower"
    log: bool = False
    unit: str = ""

    @property
    def title(self) -> str:
        """Axis label with the unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


AXES: dict[str, Axis] = {
    "quality": Axis("quality", "higher"),
    "retained": Axis("share of the teacher's quality", "higher"),
    "pairs_per_s": Axis("pairs per second, texts cached", "higher", log=True),
    "pairs_per_s_reuse": Axis("pairs per second, encoding included at the stated reuse", "higher", log=True),
    "pairs_per_s_once": Axis("pairs per second, every text encoded for one pair", "higher", log=True),
    "text_s": Axis("once per text", "lower", log=True, unit="s"),
    "combine_s_per_pair": Axis("per pair", "lower", log=True, unit="s"),
    "latency_p95_s": Axis("95th percentile of one request", "lower", log=True, unit="s"),
    "bytes_per_text": Axis("cache per text", "lower", log=True, unit="B"),
    "params_total": Axis("parameters", "lower", log=True),
    "flops_per_pair": Axis("FLOP per pair", "lower", log=True),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """How one family of models is drawn: a colour (Okabe-Ito) and, for whoever sees no colour, a marker."""

    label: str
    colour: str
    marker: str


FAMILIES: dict[str, Family] = {
    "cross-encoder": Family("cross-encoder", "#d55e00", "D"),
    "scores": Family("column of scores", "#d55e00", "d"),
    "dipair": Family("DiPair", "#0072b2", "o"),
    "dual-encoder": Family("dual encoder", "#56b4e9", "v"),
    "bilstm": Family("BiLSTM", "#009e73", "^"),
    "static": Family("static vectors", "#cc79a7", "P"),
    "lexical": Family("lexical", "#e69f00", "s"),
    "constant": Family("constant", "#8c8c8c", "X"),
}
INK, MUTED, GRID, CARD = "#1b1f24", "#5b6470", "#dfe3e8", "#ffffff"

NAME_WIDTH = 34  # characters of a model's name that fit beside a point


# ---------------------------------------------------------------------------------------------------- numbers


def plain(text: object, width: int = 200) -> str:
    """Text from data, safe to draw or print on one line: no control or direction characters, at most `width` long."""
    flat = printable(str(text)).replace("\n", " ")
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def known(value: object) -> bool:
    """Whether a cell holds something: not None, NaN or NA."""
    return value is not None and not bool(pd.isna(value))  # type: ignore[call-overload]


def si(value: float | None, unit: str = "", digits: int = 3) -> str:
    """Three significant digits with an SI prefix: 1234567 -> "1.23 M", 0.00042 with unit "s" -> "420 µs"."""
    if not known(value):
        return DASH
    number = float(value)  # type: ignore[arg-type]
    if number == 0 or not math.isfinite(number):
        return f"{number:g} {unit}".strip()
    power = math.floor(math.log10(abs(float(f"{number:.{digits - 1}e}"))) / 3)
    power = max(-4, min(5, power if unit == "s" or abs(number) >= 1 else 0))
    if unit == "s" and power > 0:
        power = 0
    scaled = number / 1000.0**power
    whole = len(str(int(abs(scaled)))) if abs(scaled) >= 1 else 1
    text = f"{scaled:.{max(0, digits - whole)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text and abs(scaled) >= 1 else text
    prefix = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}[power]
    return f"{text} {prefix}{unit}".strip()


def percent(value: float | None, digits: int = 1) -> str:
    """0.9876 -> "98.8 %"."""
    return f"{round(100 * value, digits) + 0:.{digits}f} %" if known(value) else DASH  # type: ignore[operator]


def money(value: float) -> str:
    """An amount: 1234.5 -> "1,234.50"; below a hundredth with two significant digits."""
    return f"{value:,.2f}" if value == 0 or value >= 0.01 else f"{value:.2g}"


def times(value: float | None) -> str:
    """A speed-up: 6161.2 -> "6,160x", 1.234 -> "1.23x"."""
    if not known(value):
        return DASH
    number = float(f"{value:.2e}")
    return f"{number:,.0f}x" if number >= 100 else f"{number:.3g}x"


def within(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A number with its interval: "0.852 (0.840 to 0.863)"."""
    if not known(value):
        return DASH
    interval = f" ({low:.{digits}f} to {high:.{digits}f})" if known(low) and known(high) else ""
    return f"{value:.{digits}f}{interval}"


def signed(value: float | None, low: float | None, high: float | None) -> str:
    """A difference with its interval: "+0.012 (+0.004 to +0.020)"."""
    if not known(value):
        return DASH
    return f"{value:+.3f}" + (f" ({low:+.3f} to {high:+.3f})" if known(low) and known(high) else "")


def percent_within(value: float | None, low: float | None, high: float | None, digits: int = 1) -> str:
    """A share with its interval: "98.9 % (97.0 to 100.9)"."""
    if not known(value):
        return DASH
    interval = f" ({100 * low:.{digits}f} to {100 * high:.{digits}f})" if known(low) and known(high) else ""  # type: ignore[operator]
    return percent(value, digits) + interval


# ------------------------------------------------------------------------------------------- derived columns


def frame(rows: Iterable[Result], reuse: float = REUSE, folder: Path | str | None = None) -> pd.DataFrame:
    """Rows with their derived columns, indexed by run_id, in the order given. A model trained with several seeds has one line, `seeds`
    says how many there are: the first clocked one's, with the mean quality over the seeds where their raw logits are at hand
    (`averaged`); elsewhere its own, which is no better than the others but by chance.

    Args:
        folder: results folder with the raw logits of the rows, from which the intervals of means over seeds are drawn.

    Derived: `pairs_per_s` (texts cached; `_low`, `_high` from the quartiles of the clock), `pairs_per_s_reuse` (each
    text encoded once for `reuse` pairs), `pairs_per_s_once` (for one pair), `text_s` (tokenise and encode one text),
    `speedup` (against the teacher at this row's dtype, in this row's clock session), `speedup_vs_fastest` (against the
    teacher at its fastest dtype), the same two with `_reuse`, `peak_fraction` (of the measured matrix peak),
    `kept_tokens` (over all fields), `seeds` (how many seeds of this model are here), `runs` (those whose quality the line is), `given`
    (their mean is that of one teacher's students), `teacher`, `guard` (why no share of its teacher counts, or nothing: see ``guards``),
    `rising` (a seed's dev metric was still rising when its budget ended), `training_notes` (of all its seeds), `pareto`; `gap` (share of
    the way from the best untrained row, `floor`, to the teacher that a row's quality has gone; `_low`, `_high`: see ``gap.closed``).

    Single texts (`n_fields` 1) are encoded for one answer each: nothing is cached, `pairs_per_s` counts texts and holds their encoding,
    and `reuse` is 1.

    Raises ValueError when two rows share a run_id.
    """
    rows = list(rows)
    table = pd.DataFrame(
        [dataclasses.asdict(row) for row in rows],
        columns=[field.name for field in dataclasses.fields(Result)],
    )
    twice = table["run_id"][table["run_id"].duplicated()]
    if len(twice):
        raise ValueError(f"every row needs a run_id of its own, but {twice.iloc[0]!r} comes more than once")
    for field in dataclasses.fields(Result):
        kind = str(field.type)
        if "str" not in kind and ("float" in kind or "int" in kind):
            table[field.name] = pd.to_numeric(table[field.name]).astype(float)
    table.index = pd.Index(table["run_id"], name=None)

    measured = table["family"] != "published"
    combine = table["combine_s_per_pair"].where(measured & (table["combine_s_per_pair"] > 0))
    # An encode clock of null beside a combine clock says that nothing is done once per text (a cross-encoder).
    encode = table["encode_s_per_text"]
    table["text_s"] = (encode + table["tokenize_s_per_text"].fillna(0)).where(encode.notna(), 0.0)
    table["text_s"] = table["text_s"].where(combine.notna())
    fields_here = table["read_lengths"].map(lambda text: str(text).count("+") + 1 if known(text) else 0)
    table["n_fields"] = fields_here.groupby(table["task"]).transform("max").where(lambda n: n > 0, 2)
    alone = table["n_fields"] == 1
    with_text = table["text_s"].where(alone, 0.0)
    table["pairs_per_s"] = 1 / (combine + with_text)
    table["pairs_per_s_low"] = 1 / (table["combine_s_per_pair_q3"].where(combine.notna()) + with_text)
    table["pairs_per_s_high"] = 1 / (table["combine_s_per_pair_q1"].where(combine.notna()) + with_text)
    table["bytes_per_text"] = table["bytes_per_text"].mask(alone & table["bytes_per_text"].notna(), 0.0)
    # A cross-encoder keeps nothing of a text.
    table["bytes_per_text"] = table["bytes_per_text"].mask(table["family"].eq("cross-encoder"), 0.0)
    table["pairs_per_s_reuse"] = pairs_per_s_at(table, reuse)
    table["pairs_per_s_once"] = pairs_per_s_at(table, 1)
    for name, price in (
        ("teacher_s_per_pair", "speedup"),
        ("teacher_fastest_s_per_pair", "speedup_vs_fastest"),
    ):
        table[price] = table[name] * table["pairs_per_s"]
        table[price.replace("speedup", "speedup_reuse")] = table[name] * table["pairs_per_s_reuse"]
    table["peak_fraction"] = table["flops_per_pair"] * table["pairs_per_s"] / (table["peak_gflops"] * 1e9)
    table["kept_tokens"] = [_kept(keep, n) for keep, n in zip(table["keep"], table["n_fields"], strict=True)]
    table["read_tokens"] = [_kept(length, 1) for length in table["read_lengths"]]
    tell_apart(table, paired.teacher_ages((row for row in rows if row.teacher_run != row.run_id), rows))
    same = table.groupby(ONE_MODEL, dropna=False)["seed"]
    table["seeds"] = same.transform("nunique")
    table["averaged"] = False
    first = table.assign(unclocked=combine.isna()).sort_values(["unclocked", "seed"], kind="stable")
    chosen = first[(first["seeds"] <= 1) | ~first.duplicated(ONE_MODEL)].index
    if folder is not None:
        average(table, [run for run in chosen if table.loc[run, "seeds"] > 1], rows, folder)
    number = table.groupby(ONE_MODEL, dropna=False).ngroup()
    by_run = {row.run_id: row for row in rows}
    judged = guards(rows, folder)
    table["guard"] = _failed_of(rows, judged)
    table["guard"] = table["guard"].groupby(number).transform("max")
    table["rising"] = table["dev_rising"].eq(True).groupby(number).transform("any")
    notes = table["training_notes"].groupby(number).agg(lambda said: "; ".join(dict.fromkeys(said.dropna())))
    table["training_notes"] = number.map(notes)
    table["given"] = table["averaged"] & table["teacher_run"].groupby(number).transform("nunique").eq(1)
    seeds = table["run_id"].groupby(number).agg(tuple)
    table["runs"] = [
        seeds[n] if mean else (run,)
        for run, n, mean in zip(table.index, number, table["averaged"], strict=True)
    ]
    table = table[table.index.isin(chosen)].copy()
    sure = {run for run, one in judged.items() if one.sure}
    closed = gap.closed([[by_run[one] for one in runs] for runs in table["runs"]], rows, sure, folder)
    table[GAP] = np.array([one.share for one in closed], float).reshape(-1, 3)
    table["floor"] = [one.floor for one in closed]
    combine, measured = combine[table.index], measured[table.index]
    table["noisy"] = table["noisy"].eq(True) & combine.notna()
    table["teacher"] = table.index.isin([row.run_id for row in teachers(rows)])
    table["pareto"] = False
    for _, part in table[measured & (table["family"] != "constant")].groupby("task"):
        table.loc[part.index, "pareto"] = pareto(part)
    table.attrs["reuse"] = float(reuse)
    return table


ONE_MODEL = ["task", "data_sha256", "model"]  # what rows of one model share, its seeds apart
NO_CHOICE = {"seed", "n_seeds", "clock", "threads", "device", "out"}  # parameters that make no other model


def tell_apart(table: pd.DataFrame, ages: Mapping[str, int]) -> None:
    """Name what was trained differently and is called the same: "DE-Cos" becomes "DE-Cos, stage2_epochs 1", or "DE-Cos, teacher 1
    before the newest".

    Args:
        ages: of the teachers, see ``paired.teacher_ages``.
    """
    for _, rows in table[table["family"] != "published"].groupby(ONE_MODEL, dropna=False):
        chosen = [parameters_of(text) for text in rows["parameters"]]
        differ = [
            name
            for name in dict.fromkeys(itertools.chain(*chosen))
            if len({str(c.get(name)) for c in chosen}) > 1
        ]
        old = [ages.get(str(run), 0) for run in rows["teacher_run"]]
        for run, one, age in zip(rows.index, chosen, old, strict=True):
            said = [plain(f"{name} {one[name]}", 40) for name in differ if name in one]
            said += [paired.generation(age)] if age and len(set(old)) > 1 else []
            table.loc[run, "model"] = ", ".join([str(table.loc[run, "model"]), *said])


def parameters_of(text: object) -> dict[str, Any]:
    """A row's parameters, as far as they choose what is trained; none where they cannot be read."""
    try:
        found = json.loads(str(text))
    except ValueError:
        return {}
    return {k: v for k, v in found.items() if k not in NO_CHOICE} if isinstance(found, dict) else {}


def average(table: pd.DataFrame, chosen: list[str], rows: list[Result], folder: Path | str) -> None:
    """Put means over the seeds in place of the chosen rows' own quality and share of the teacher, with 95 % intervals over test groups
    and seeds. A model keeps its own where a seed's logits cannot be read or belong to other test rows."""
    by_run = {row.run_id: row for row in rows}
    number = table.groupby(ONE_MODEL, dropna=False).ngroup()
    together = {run: [by_run[one] for one in table.index[number == number[run]]] for run in chosen}
    named = {row.run_id: row for seeds in together.values() for row in seeds if row.quality is not None}
    named |= {row.teacher_run: by_run[row.teacher_run] for row in named.values() if row.teacher_run in by_run}
    stored = [row for row in named.values() if (row_folder(folder, row.run_id) / "logits.npz").exists()]
    drawn = paired.bootstrap(folder, stored, damaged="warn")
    for run, seeds in together.items():
        test = drawn[run].test if run in drawn else ""
        if not all(row.run_id in drawn and drawn[row.run_id].test == test for row in seeds):
            continue
        values = [float(row.quality or 0.0) for row in seeds]
        draws = [drawn[row.run_id].draws for row in seeds]
        table.loc[run, QUALITY] = paired.mean_over_seeds(values, draws)
        table.loc[run, "averaged"] = True
        teachers = [row.teacher_run or "" for row in seeds]
        if all(one in drawn and drawn[one].test == test for one in teachers):
            taught = [(float(by_run[one].quality or 0.0), drawn[one].draws) for one in teachers]
            table.loc[run, RETAINED] = paired.share_over_seeds(values, draws, taught)


QUALITY = ["quality", "quality_low", "quality_high"]
GAP = ["gap", "gap_low", "gap_high"]
RETAINED = ["retained", "retained_low", "retained_high"]


def pairs_per_s_at(table: pd.DataFrame, reuse: float) -> pd.Series:
    """Pairs per second, encoding included, when every text takes part in `reuse` pairs; NaN where not clocked."""
    if not reuse >= 1:
        raise ValueError(f"reuse is the number of pairs that share a text, at least 1, but got {reuse}")
    texts = table["n_fields"].where(
        table["n_fields"] > 1, 0
    )  # a single text's encoding is in its rate already
    return 1 / (1 / table["pairs_per_s"] + texts * table["text_s"] / reuse)


def pareto(table: pd.DataFrame, x: str = "pairs_per_s", y: str = "quality") -> pd.Series:
    """Flags of the rows that no other row beats on both axes; directions from AXES, rows with a null are never on it."""
    signs = [1.0 if AXES[name].better == "higher" else -1.0 for name in (x, y)]
    points = table[[x, y]].to_numpy(dtype=float) * signs
    flags = np.isfinite(points).all(axis=1)
    for i in np.flatnonzero(flags):
        others = points[np.isfinite(points).all(axis=1)]
        flags[i] = not ((others >= points[i]).all(axis=1) & (others > points[i]).any(axis=1)).any()
    return pd.Series(flags, index=table.index)


def _kept(keep: object, n_fields: float) -> float:
    """Tokens over all fields: 8 with two fields -> 16, "8+16" -> 24, null or unreadable -> NaN."""
    if not known(keep):
        return float("nan")
    parts = re.findall(r"\d+", str(keep) if isinstance(keep, str) else str(int(keep)))  # type: ignore[call-overload]
    if not parts:
        return float("nan")
    return float(sum(map(int, parts)) * (1 if len(parts) > 1 else int(n_fields)))


def teachers(rows: Iterable[Result]) -> list[Result]:
    """The rows the others name as their teacher, or that say what kind of teacher they are; of older rows also the one called so."""
    rows = [row for row in rows if row.family != "published"]
    named = {row.teacher_run for row in rows}
    return [
        row
        for row in rows
        if row.run_id in named
        or row.teacher_kind
        or (row.family == "cross-encoder" and row.model.lower() == "teacher")
    ]


def teacher_of(table: pd.DataFrame) -> pd.Series | None:
    """The teacher's line (the last one if a folder holds several), or None."""
    rows = table[table["teacher"] & table["quality"].notna()]
    return rows.iloc[-1] if len(rows) else None


def sanity(table: pd.DataFrame) -> pd.DataFrame:
    """The order that must hold before any claim: constant < lexical < frozen cosine < teacher, for one task.

    Returns one line per step (step, model, quality, holds); `holds` compares with the last step before of which there is
    a row, and is None for the first and wherever a row is missing.
    """
    _one_task(table)
    cosine = (table["family"] == "dual-encoder") & (table["head"].astype(str).str.startswith("cos"))
    frozen = cosine & pd.Series([gap.untrained(row) for _, row in table.iterrows()], table.index, dtype=bool)
    steps = {
        "constant": table["family"] == "constant",
        "lexical": table["family"] == "lexical",
        "frozen cosine": frozen,
        "teacher": table["teacher"],
    }
    lines: list[dict[str, Any]] = []
    before: float | None = None
    for step, mask in steps.items():
        rows = table[mask & table["quality"].notna()].sort_values("quality", kind="stable")
        quality = float(rows["quality"].iloc[-1]) if len(rows) else None
        holds = quality > before if quality is not None and before is not None else None
        model = plain(rows["model"].iloc[-1]) if len(rows) else None
        lines.append({"step": step, "model": model, "quality": quality, "holds": holds})
        before = before if quality is None else quality
    return pd.DataFrame(lines).astype({"holds": object})


# ------------------------------------------------------------------------------------------------- the guard


class Guard(NamedTuple):
    """Whether a teacher is surely above the best row that nothing trained, and that in words.

    Attributes:
        sure: the whole 95 % interval of the difference, teacher less floor, is above 0.
    """

    sure: bool
    said: str


WHAT_TO_DO = {  # by the kind of teacher, where it is not surely above the floor
    "trained": "train longer (-p budget=4), look at its dev metric, try other learning rates, bring a teacher of your own "
    "(-p teacher=folder), or check labels and fields",
    "brought": "check that it was made for this task and reads these fields in this order, fine-tune it on these rows, train one here "
    "instead, or check labels and fields",
    "scores": "check that a higher score stands for a higher label and that scores and rows belong together, train a teacher here instead, "
    "or check labels and fields",
}
NO_FLOOR = (
    "Whether a teacher learned anything cannot be said: no constant, TF-IDF or cosine of an untrained encoder stands beside it; "
    "01_teacher makes them."
)


def guard(folder: Path | str, task: str = "") -> str:
    """What is to be read first of a results folder: whether each teacher (of one task, where one is named) is surely above the best row
    that nothing trained. A line per teacher, those that failed first, with what to do."""
    rows = [row for row in load_results(folder, damaged="warn") if task in {"", row.task}]
    return "\n".join(one.said for one in sorted(set(guards(rows, folder).values()))) or NO_FLOOR


def failed_in(folder: Path | str) -> list[str]:
    """The sentence of each teacher of a results folder that is not surely above the floor, with its task before it."""
    rows = load_results(folder, damaged="warn")
    tasks = {row.run_id: row.task for row in rows}
    found = guards(rows, folder)
    return list(
        dict.fromkeys(f"{plain(tasks[run])}: {one.said}" for run, one in found.items() if not one.sure)
    )


def failed(table: pd.DataFrame) -> list[str]:
    """The sentences of the teachers that are not surely above the floor, of the rows of a frame."""
    return [said for said in table["guard"].unique() if said]


def guards(rows: Iterable[Result], folder: Path | str | None = None) -> dict[str, Guard]:
    """Run id of each teacher -> its guard; seeds of one teacher are judged together, by their mean.

    The floor is the best, by its quality, of the rows of the same test data that learned nothing by gradient. The difference is paired:
    teacher and floor on the same draws of test groups. Without raw logits its interval is made of the two rows' own (Zou and Donner
    2008, without their correlation, which is positive on the same test rows: so it is the wider one), which the sentence says. A teacher
    beside which there is no such row has no guard.

    Args:
        folder: results folder with the raw logits of the rows.
    """
    rows = list(rows)
    floors = gap.floors_of(rows)
    taught: dict[tuple[Any, ...], list[Result]] = {}
    for row in teachers(rows):
        key = row.model, canonical_json(parameters_of(row.parameters))
        taught.setdefault((*gap.test_of(row), *key), []).append(row)
    here = Counter(gap.test_of(seeds[0]) for seeds in taught.values())
    found: dict[str, Guard] = {}
    for seeds in taught.values():
        floor = floors.get(gap.test_of(seeds[0]))
        if floor:
            run = seeds[0].run_id.split(".")[0]
            name = f"The teacher of {run}" if here[gap.test_of(seeds[0])] > 1 else "The teacher"
            one = _judged(name, seeds, floor, folder)
            found |= dict.fromkeys((row.run_id for row in seeds), one)
    return found


def _judged(name: str, seeds: list[Result], floor: Result, folder: Path | str | None) -> Guard:
    """One teacher held against its floor."""
    metric = metric_name(plain(floor.metric))
    advice = WHAT_TO_DO.get(seeds[0].teacher_kind or "trained", WHAT_TO_DO["trained"])
    no_share = "No student is recommended by its share of it. What to do:"
    values = [row.quality for row in seeds if row.quality is not None]
    if len(values) < len(seeds):
        undefined = f"its {metric} is not defined, as where a model says the same of every row"
        return Guard(False, f"{name} failed: {undefined}. {no_share} {advice}.")
    own = float(np.mean(values)), *_ends(seeds)
    best = float(floor.quality or 0.0), *_ends([floor])
    difference = own[0] - best[0]
    stored = [
        row for row in (*seeds, floor) if folder and (row_folder(folder, row.run_id) / "logits.npz").exists()
    ]
    drawn = paired.bootstrap(folder, stored, damaged="warn") if folder else {}
    ends = paired.difference([drawn.get(floor.run_id)], [drawn.get(row.run_id) for row in seeds])
    low, high = ends or _unpaired(own, best)
    sure = low is not None and low > 0
    against = f"{plain(floor.model)}, {within(*best)}"
    text = f"difference {signed(difference, low, high)}."
    if ends is None:
        text += (
            " That interval is made of the two rows' own, because raw logits are not at hand: a paired one would be narrower."
            if low is not None
            else " Their intervals are not known."
        )
    if sure:
        return Guard(
            True,
            f"{name} is surely above the best untrained row: {metric} {within(*own)} against {against}; {text}",
        )
    if difference > 0:
        said = f"{name} may have failed: {metric} {within(*own)} is not surely above the untrained {against}"
        return Guard(False, f"{said}; {text} {no_share} {advice}, or test on more rows.")
    said = f"{name} failed: {metric} {within(*own)} is not above the untrained {against}"
    return Guard(False, f"{said}; {text} {no_share} {advice}.")


def _ends(rows: list[Result]) -> tuple[float | None, float | None]:
    """The lowest and the highest end of the rows' own intervals; None where one has none."""
    lows, highs = [row.quality_low for row in rows], [row.quality_high for row in rows]
    if None in lows or None in highs:
        return None, None
    return min(low for low in lows if low is not None), max(high for high in highs if high is not None)


def _unpaired(
    own: tuple[float, float | None, float | None], floor: tuple[float, float | None, float | None]
) -> tuple[float | None, float | None]:
    """95 % interval of a difference from two intervals as if they were independent; None where one is missing."""
    (value, low, high), (least, floor_low, floor_high) = own, floor
    if low is None or high is None or floor_low is None or floor_high is None:
        return None, None
    return (
        value - least - math.hypot(value - low, floor_high - least),
        value - least + math.hypot(high - value, least - floor_low),
    )


def _failed_of(rows: list[Result], judged: Mapping[str, Guard]) -> list[str]:
    """For each row the sentence of its teacher, where that one failed; of a row that names none, of a teacher on its test data."""
    why = {run: one.said for run, one in judged.items() if not one.sure}
    some = {gap.test_of(row): why[row.run_id] for row in rows if row.run_id in why}
    return [
        why.get(row.teacher_run or row.run_id, "" if row.teacher_run else some.get(gap.test_of(row), ""))
        for row in rows
    ]


def guard_of(row: Result, folder: Path | str) -> str:
    """Why a row's share of its teacher says nothing, or nothing: the sentence of that teacher, where it failed (see ``guards``)."""
    rows = load_results(folder, damaged="warn")
    said = _failed_of(rows, guards(rows, folder))
    return dict(zip((one.run_id for one in rows), said, strict=True)).get(row.run_id, "")


# ----------------------------------------------------------------------------------------- budgets and origins


def budgets(rising: object, first: float | None, second: float | None) -> str:
    """What stands beside "worse": " (still rising: train longer; different budgets: 30,000 against 15,000 pairs seen)", as far as it is so.

    Args:
        rising: of the worse one. first, second: pairs seen by the two, in the order in which they are named.
    """
    said = ["still rising: train longer"] if known(rising) and rising else []
    if known(first) and known(second) and abs(first - second) > 0.1 * min(first, second):  # type: ignore[operator, type-var]
        said.append(f"different budgets: {first:,.0f} against {second:,.0f} pairs seen")
    return f" ({'; '.join(said)})" if said else ""


def origin(data: pd.DataFrame) -> str:
    """Where the teachers are from: trained here, brought along, or a column of scores, and then whether its speed is known."""
    said = []
    for _, row in data[data["teacher"]].iterrows():
        kind = row["teacher_kind"] if known(row["teacher_kind"]) else "trained"
        backbone = f" ({plain(row['backbone'])})" if known(row["backbone"]) else ""
        if kind != "scores":
            said.append({"brought": "brought along"}.get(str(kind), "trained here") + backbone)
            continue
        own = data[data["teacher_run"].isin(row["runs"]) & speed_given(data)]
        speed = (
            f"its speed is the one given, {si(1 / own['teacher_s_per_pair'].iloc[0])} pairs/s"
            if len(own)
            else "its speed is not known, so nothing is said of a speed-up"
        )
        said.append(f"a column of scores of the data; {speed}")
    return "; ".join(dict.fromkeys(said))


def speed_given(data: pd.DataFrame) -> pd.Series:
    """Flags of the rows whose teacher's speed a person gave."""
    return data["teacher_fastest_dtype"].eq("given") & data["teacher_s_per_pair"].gt(0)


def known_biases(data: pd.DataFrame) -> str:
    """What must stand beside every comparison: whom the embedded backbone favours, and whom the negatives of a task work against; nothing
    where there is neither."""
    said = []
    names = {str(name).rstrip("/").rsplit("/", 1)[-1] for name in data["backbone"].dropna()}
    if names & {"embedded", "all-MiniLM-L6-v2"}:
        said.append(
            "The mean cosine of this backbone (all-MiniLM-L6-v2) was trained on about 10^9 pairs, which favours DE-Cos and every head that "
            "corrects the cosine; a backbone not trained on pairs may rank them otherwise."
        )
    if any('"negatives":"one of the 20 nearest by TF-IDF' in text for text in data["data_notes"].dropna()):
        said.append(
            "The negatives of this task are among the nearest by TF-IDF and by this backbone's own cosine: both of these "
            "baselines stand lower here than on negatives chosen in another way, so every student's gap closed is to be read with that."
        )
    return " ".join(said)


# --------------------------------------------------------------------------------------------------- limits


SCENARIOS = ("offline", "single")
BILLION = 1e9


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a user can live with; None is no limit."""

    min_retained: float | None = 0.95  # share of the teacher's quality
    min_gap: float | None = None  # share of the gap between the best untrained row and the teacher
    sure: bool = False  # also the lower end of each interval must reach its limit
    min_pairs_per_s: float | None = None  # encoding included, at `reuse`
    reuse: float = REUSE  # pairs that share a text
    max_p95_s: float | None = None  # 95th percentile of one request, seconds
    max_cache_bytes: float | None = None  # for n_texts cached texts
    n_texts: float = 1.0
    max_params: float | None = None
    scenario: str = "offline"  # what is fast: "offline", pairs/s at `reuse`; "single", the p95 of one request
    price_per_hour: float | None = None  # of one machine, in your money
    max_price: float | None = None  # of a billion pairs at `reuse`, on machines of that price

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"scenario: expected one of {', '.join(SCENARIOS)}, but got {self.scenario!r}")
        if self.max_price is not None and self.price_per_hour is None:
            raise ValueError("max_price: expected price_per_hour beside it, but it is missing")

    def price(self, pairs: float, speed: float) -> float:
        """What so many pairs cost at so many pairs/s."""
        return pairs / speed / 3600 * (self.price_per_hour or 0.0)

    def __str__(self) -> str:
        parts = [
            self.min_retained is not None
            and f"keeps at least {100 * self.min_retained:g} % of the teacher{' for sure' if self.sure else ''}",
            self.min_gap is not None
            and f"closes at least {100 * self.min_gap:g} % of the gap to the teacher{' for sure' if self.sure else ''}",
            self.min_pairs_per_s is not None and f"scores at least {si(self.min_pairs_per_s)} pairs/s",
            self.max_p95_s is not None and f"answers 95 % of requests within {si(self.max_p95_s, 's')}",
            self.max_cache_bytes is not None
            and f"caches {si(self.n_texts)} text{'s' if self.n_texts != 1 else ''} in {si(self.max_cache_bytes, 'B')}",
            self.max_params is not None and f"has at most {si(self.max_params)} parameters",
            self.max_price is not None and f"scores a billion pairs for at most {money(self.max_price)}",
        ]
        return " and ".join(part for part in parts if part) or "is clocked"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What `select` found, as run ids of the frame it was given."""

    sentence: str
    winner: str | None
    alternatives: tuple[str, ...]  # the other rows within the limits, best first
    nearest: str | None  # when nothing is within the limits
    excluded: Mapping[str, str]  # run_id -> why
    speed: pd.Series  # pairs/s at the limits' reuse


def select(table: pd.DataFrame, limits: Limits | None = None) -> Choice:
    """The student to deploy under `limits`, out of the rows of one task.

    The rule: among the students within every limit, the fastest: at the stated reuse, or (scenario "single") at one
    request. Students within 10 % of that speed count as equally fast (clocks do not tell them apart), and of these the
    best quality wins. The teacher, the constant and published rows are no students; a row without a clock cannot be
    called fast. Where the fastest of them is no faster than the teacher itself (few pairs share a text), the teacher is kept, if it is
    within the limits. A share of a teacher that is not surely above the floor recommends nothing: where no other student is
    left, there is no winner and the sentence is that teacher's (see ``guards``).
    """
    limits = limits or Limits()
    _one_task(table)
    speed = pairs_per_s_at(table, limits.reuse)
    rate = speed if limits.scenario == "offline" else 1 / table["latency_p95_s"]
    excluded: dict[str, list[str]] = {str(run): [] for run in table.index}
    foreign = _elsewhere(table)
    students: list[str] = []
    broken: dict[str, int] = {}
    for run, row in table[JUDGED].to_dict("index").items():  # a tenth of the time that whole rows take
        kind = _no_student(row)
        if kind:
            excluded[run] = [kind]
            continue
        excluded[run] = _broken_limits(row, float(speed[run]), limits)
        if run in foreign:
            excluded[run].append(foreign[run])
        if row["guard"]:
            excluded[run].insert(0, "its teacher is not surely above the untrained rows")
        elif known(rate[run]) and known(row["retained"]):
            students.append(run)
            broken[run] = len(excluded[run])
    within_limits = [run for run in students if not excluded[run]]
    ranked = _rank(table, rate, within_limits)
    nearest = None
    if not ranked and students:
        nearest = min(students, key=lambda run: (broken[run], -table.at[run, "retained"]))
    kept = _teacher_to_keep(table, limits, ranked[0], speed) if ranked else None
    if kept:
        ranked.insert(0, kept)
        del excluded[kept]
    winner = ranked[0] if ranked else None
    return Choice(
        sentence=_sentence_of_teacher(table, limits, speed, ranked)
        if kept
        else _sentence(table, limits, speed, winner, nearest, excluded),
        winner=winner,
        alternatives=tuple(ranked[1:]),
        nearest=nearest,
        excluded={run: "; ".join(why) for run, why in excluded.items() if why},
        speed=speed,
    )


# The columns that a row is judged by.
JUDGED = [
    "family",
    "teacher",
    "guard",
    "retained",
    "retained_low",
    "gap",
    "gap_low",
    "latency_p95_s",
    "bytes_per_text",
    "params_total",
]


def _no_student(row: Mapping[str, Any]) -> str:
    """Why a row is not among the students, or nothing."""
    if row["family"] == "published":
        return "a published number, measured elsewhere"
    if row["family"] == "constant":
        return "a sanity row that looks at no text"
    return "the teacher itself" if row["teacher"] else ""


def _broken_limits(row: Mapping[str, Any], speed: float, limits: Limits) -> list[str]:
    """Each limit a row breaks, in words; a value that is missing breaks the limit on it."""
    why = []
    if not known(speed):
        why.append("not clocked")
    elif limits.scenario == "single" and limits.max_p95_s is None and not known(row["latency_p95_s"]):
        why.append("p95 of one request not measured")
    if not known(row["retained"]):
        why.append("its share of the teacher's quality is not known")
    elif limits.min_retained is not None:
        low = row["retained_low"]
        if row["retained"] < limits.min_retained:
            why.append(
                f"keeps {percent(row['retained'])} of the teacher, below {100 * limits.min_retained:g} %"
            )
        elif limits.sure and not (known(low) and low >= limits.min_retained):
            why.append(f"its interval starts at {percent(low)}, below {100 * limits.min_retained:g} %")
    if limits.min_gap is not None and not known(row["gap"]):
        why.append("what it closes of the gap to the teacher is not known")
    elif limits.min_gap is not None and row["gap"] < limits.min_gap:
        why.append(
            f"closes {percent(row['gap'])} of the gap to the teacher, below {100 * limits.min_gap:g} %"
        )
    elif limits.min_gap is not None and limits.sure and not row["gap_low"] >= limits.min_gap:
        why.append(f"the interval of its gap closed starts at {percent(row['gap_low'])}")
    if limits.min_pairs_per_s is not None and known(speed) and speed < limits.min_pairs_per_s:
        why.append(f"{si(speed)} pairs/s, below {si(limits.min_pairs_per_s)}")
    if limits.max_price is not None and known(speed) and limits.price(BILLION, speed) > limits.max_price:
        why.append(
            f"a billion pairs cost {money(limits.price(BILLION, speed))}, above {money(limits.max_price)}"
        )
    for column, limit, factor, unit, what in (
        ("latency_p95_s", limits.max_p95_s, 1.0, "s", "p95 of one request"),
        ("bytes_per_text", limits.max_cache_bytes, limits.n_texts, "B", "cache"),
        ("params_total", limits.max_params, 1.0, "", "parameters"),
    ):
        if limit is None:
            continue
        if not known(row[column]):
            why.append(f"{what} not measured")
        elif row[column] * factor > limit:
            why.append(f"{what} {si(row[column] * factor, unit)}, above {si(limit, unit)}")
    return why


def _rank(table: pd.DataFrame, speed: pd.Series, runs: list[str]) -> list[str]:
    """Fastest first; whoever is within TIE of the fastest left is ranked by quality."""
    left = sorted(runs, key=lambda run: -speed[run])
    ranked: list[str] = []
    while left:
        tied = [run for run in left if speed[run] >= (1 - TIE) * speed[left[0]]]
        best = max(tied, key=lambda run: (table.at[run, "quality"], speed[run]))
        ranked.append(best)
        left.remove(best)
    return ranked


def _sentence(
    table: pd.DataFrame,
    limits: Limits,
    speed: pd.Series,
    winner: str | None,
    nearest: str | None,
    excluded: Mapping[str, list[str]],
) -> str:
    """The answer in words, every number with its interval."""
    if winner is None and nearest is None:
        if failures := failed(table):
            return " ".join(failures)
        if not table["pairs_per_s"].notna().any():
            return "No row is clocked yet, so no student can be called fast: measure the clocks first."
        return "No student here has both a clock and a share of the teacher's quality: train one first."
    if winner is None:
        row = table.loc[nearest]
        return (
            f"No model here {limits}. The nearest is {plain(row['model'])} ({'; '.join(excluded[str(nearest)])}): "
            f"it keeps {percent_within(row['retained'], row['retained_low'], row['retained_high'])} of the teacher"
            + f"{_said_of_gap(row)}.{_said_of_training(row)}"
        )
    row = table.loc[winner]
    teacher = teacher_of(table)
    # The student's own teacher: where there are several, the row of the teacher is their mean.
    against = f", its teacher {row['quality'] / row['retained']:.3f}" if row["retained"] > 0 else ""
    single = limits.scenario == "single"
    said = _said_single(row, teacher, limits) if single else _said_offline(row, speed[winner], limits)
    text = (
        f"{plain(row['model'])} is the fastest model here{' for one request' if single else ''} that {limits}: it keeps "
        f"{percent_within(row['retained'], row['retained_low'], row['retained_high'])}, {metric_name(plain(row['metric']))} "
        f"{within(row['quality'], row['quality_low'], row['quality_high'])}{against}{_said_of_gap(row)}. {said}"
    )
    if row["n_fields"] > 1:
        cache = f" and {si(row['bytes_per_text'], 'B')} of cache" if known(row["bytes_per_text"]) else ""
        text += f" A text costs {si(row['text_s'], 's')} once{cache}."
        text += "" if single else _said_of_teacher(row)
    low = row["retained_low"]
    if limits.min_retained is not None and not (known(low) and low >= limits.min_retained):
        text += f" Not certain: the interval reaches below {100 * limits.min_retained:g} %."
    if row["noisy"]:
        text += " Its clock was noisy: measure it again before relying on the speed."
    text += _said_of_sessions(table)
    return text + _said_of_training(row)


def _elsewhere(table: pd.DataFrame) -> dict[str, str]:
    """Run id of each row whose clock is of another machine, device or number of threads than the teacher's (than most, without one), and
    that in words: such speeds are never compared."""
    clocked = table[table["pairs_per_s"].notna() & (table["family"] != "published")]
    named = clocked[["device", "device_name", "threads"]].itertuples(index=False)
    machines = pd.Series([str(tuple(one)) for one in named], clocked.index, dtype=object)
    if machines.nunique() < 2:
        return {}
    teachers = machines[clocked["teacher"]]
    own = teachers.iloc[-1] if len(teachers) else machines.mode().iloc[0]
    others = clocked[machines != own]
    said = "clocked elsewhere ({}, {} threads), not beside the others"
    return {
        str(run): said.format(plain(name), f"{threads:.0f}" if known(threads) else "unknown")
        for run, name, threads in zip(others.index, others["device_name"], others["threads"], strict=True)
    }


def _said_of_sessions(table: pd.DataFrame) -> str:
    """That clocks of several sessions stand beside each other, between which a machine may have changed its pace."""
    sessions = table.loc[table["pairs_per_s"].notna(), "clock_id"].nunique()
    if sessions < 2:
        return ""
    advice = "small differences of speed may be the machine's (04_tradeoff with clock=all takes all in turns)"
    return f" The clocks are of {sessions} sessions: {advice}."


def _said_of_training(row: pd.Series) -> str:
    """What a reader must know of how a student was trained; nothing where all went well."""
    text = " Its dev metric was still rising when its budget ended: train longer." if row["rising"] else ""
    return text + (f" Of its training: {plain(row['training_notes'])}." if row["training_notes"] else "")


def _said_of_gap(row: pd.Series) -> str:
    """Beside the share, which a constant has a large one of: how much of the way from the best untrained row to the teacher was gone."""
    if not known(row["gap"]):
        return ""
    floor = f"the untrained {plain(row['floor'])}"
    closed = gap_shown(row)
    return (
        f", which is below {floor}"
        if closed == BELOW
        else f", and closes {closed} of the gap between {floor} and the teacher"
    )


BELOW = "below it"


def gap_shown(row: pd.Series) -> str:
    """A row's gap closed with its interval; "below it" where it is surely no better than the best untrained row."""
    ends = row["gap"], row["gap_low"], row["gap_high"]
    below = row["gap"] < 0 and not row["gap_high"] >= 0
    return BELOW if below else percent_within(*ends, 0)


def _said_of_teacher(row: pd.Series) -> str:
    """Below how many pairs per text the teacher itself, at its fastest, is no slower."""
    least = pairs_to_pay(row)
    if least is None or least <= 1:
        return ""
    if math.isinf(least):
        return " The teacher at its fastest is no slower at any number of pairs per text."
    return f" Below {least:,.0f} pairs per text keep the teacher: it is no slower there."


def _teacher_to_keep(table: pd.DataFrame, limits: Limits, best: str, speed: pd.Series) -> str | None:
    """The teacher's run, where it is within the limits and the best student is no faster than it for this job; else None."""
    least = pairs_to_pay(table.loc[best])
    teacher = teacher_of(table)
    if (
        limits.scenario != "offline"
        or least is None
        or least <= limits.reuse
        or teacher is None
        or teacher["guard"]
    ):
        return None
    run = str(teacher.name)
    return run if not _broken_limits(teacher, float(speed[run]), limits) else None


def _sentence_of_teacher(table: pd.DataFrame, limits: Limits, speed: pd.Series, ranked: list[str]) -> str:
    """The answer where the teacher, first of the ranked, is kept."""
    teacher, student = table.loc[ranked[0]], table.loc[ranked[1]]
    least = pairs_to_pay(student) or math.inf
    pairs = f"{limits.reuse:,.0f} pair{'s' if limits.reuse != 1 else ''} per text"
    later = "at any number of them" if math.isinf(least) else f"below {least:,.0f} pairs per text"
    return (
        f"Keep the teacher: at {pairs} no student here that {limits} is faster than it. The nearest is {plain(student['model'])} with "
        f"{si(speed[ranked[1]])} pairs/s, encoding included{_speedups(student, speed[ranked[1]])}; the teacher "
        f"({metric_name(plain(teacher['metric']))} {within(*teacher[QUALITY])}) is no slower {later}."
    )


def pairs_to_pay(row: pd.Series) -> float | None:
    """From how many pairs per text a row is faster than its teacher at the teacher's fastest, encoding included: whole, at least 1;
    infinite where never; None where a clock is missing. The teacher takes T per pair, the row t once per text of each of F fields and c per
    pair: faster where c + F t / n < T."""
    fastest = [row[name] for name in ("teacher_fastest_s_per_pair", "teacher_s_per_pair") if known(row[name])]
    if not fastest or not known(row["pairs_per_s"]) or row["n_fields"] < 2:
        return None
    left = min(fastest) - 1 / row["pairs_per_s"]
    return max(1.0, math.floor(row["n_fields"] * row["text_s"] / left) + 1.0) if left > 0 else math.inf


def _said_offline(row: pd.Series, speed: float, limits: Limits) -> str:
    """The winner's rates in bulk, and what they cost."""
    if row["n_fields"] == 1:
        text = f"It scores {si(speed)} texts/s, encoding included{_speedups(row, speed)}."
        if limits.price_per_hour is not None:
            million, billion = (money(limits.price(texts, speed)) for texts in (1e6, BILLION))
            text += f" At {money(limits.price_per_hour)} an hour a million texts cost {million}, a billion {billion}."
        return text
    text = (
        f"With texts cached it scores {si(row['pairs_per_s'])} pairs/s{_speedups(row, row['pairs_per_s'])}; with every text encoded "
        f"for {limits.reuse:,.0f} pair{'s' if limits.reuse != 1 else ''}, {si(speed)} pairs/s{_speedups(row, speed)}."
    )
    if limits.price_per_hour is not None:
        million, billion = (money(limits.price(pairs, speed)) for pairs in (1e6, BILLION))
        text += f" At {money(limits.price_per_hour)} an hour a million such pairs cost {million}, a billion {billion}."
    return text


def _said_single(row: pd.Series, teacher: pd.Series | None, limits: Limits) -> str:
    """What one request waits for, and what requests cost one after the other."""
    size = f" of {row['request_candidates']:.0f} candidates" if known(row["request_candidates"]) else ""
    text = f"It answers 95 % of requests{size} within {si(row['latency_p95_s'], 's')}"
    text += f", half of them within {si(row['latency_p50_s'], 's')}" if known(row["latency_p50_s"]) else ""
    if teacher is not None and known(teacher["latency_p95_s"]):
        text += f"; the teacher takes {si(teacher['latency_p95_s'], 's')}"
    if limits.price_per_hour is not None and known(row["latency_p50_s"]):
        price = money(limits.price(1e6, 1 / row["latency_p50_s"]))
        text += f". At {money(limits.price_per_hour)} an hour a million requests, one after the other, cost {price}"
    return text + "."


def _speedups(row: pd.Series, speed: float) -> str:
    """ ", 3,100x the teacher at float32 and 800x the teacher at its fastest (bfloat16)", as far as clocked; of a teacher whose speed a
    person gave ", 500x the teacher at the speed given"."""
    if row["teacher_fastest_dtype"] == "given":
        given = known(row["teacher_s_per_pair"])
        return f", {times(speed * row['teacher_s_per_pair'])} the teacher at the speed given" if given else ""
    parts = []
    if known(row["teacher_s_per_pair"]):
        parts.append(
            f"{times(speed * row['teacher_s_per_pair'])} the teacher at the same {plain(row['dtype'])}"
        )
    if known(row["teacher_fastest_s_per_pair"]):
        fastest = speed * row["teacher_fastest_s_per_pair"]
        parts.append(f"{times(fastest)} the teacher at its fastest ({plain(row['teacher_fastest_dtype'])})")
    return (", " + " and ".join(parts)) if parts else ", the teacher's own speed being unknown"


def _one_task(table: pd.DataFrame) -> None:
    """Plots and choices never mix tasks: their qualities are on different scales."""
    tasks = table["task"].dropna().unique()
    if len(tasks) > 1:
        raise ValueError(
            f"expected the rows of one task, but got {', '.join(map(str, tasks))}: take one, e.g. "
            f"frame[frame['task'] == {str(tasks[0])!r}]"
        )


# ---------------------------------------------------------------------------------------------------- tables


def table(data: pd.DataFrame) -> pd.DataFrame:
    """Every measured row as text for people, best quality first, by run_id; a dash where nothing was measured, and for a
    share of a teacher that is not surely above the floor."""
    data = data[data["family"] != "published"].sort_values("quality", ascending=False, kind="stable")
    reuse = data.attrs.get("reuse", REUSE)
    lines = []
    for _, row in data.iterrows():
        marks = [
            row["pareto"] and "on the front",
            row["noisy"] and "noisy clock",
            row["teacher"] and "teacher",
            row["seeds"] > 1 and f"{'mean' if row['averaged'] else 'one'} of {row['seeds']:.0f} seeds",
            row["rising"] and "still rising: train longer",
            plain(row["training_notes"]),
        ]
        given = " at the speed given" if row["teacher_fastest_dtype"] == "given" else ""
        faster = {
            price: times(row[price]) + (given if known(row[price]) else "")
            for price in ("speedup", "speedup_vs_fastest", "speedup_reuse")
        }
        lines.append(
            {
                "model": plain(row["model"]),
                "family": plain(row["family"]),
                "metric": plain(row["metric"]),
                "quality": within(row["quality"], row["quality_low"], row["quality_high"]),
                "of the teacher": DASH
                if row["guard"]
                else percent_within(row["retained"], row["retained_low"], row["retained_high"]),
                "gap closed": gap_shown(row),
                "pairs/s, cached": si(row["pairs_per_s"]),
                "speed-up, same dtype": faster["speedup"],
                "speed-up, teacher's fastest": faster["speedup_vs_fastest"],
                f"pairs/s at {reuse:,.0f} pairs per text": si(row["pairs_per_s_reuse"]),
                "speed-up at that reuse": faster["speedup_reuse"],
                "pairs/s at 1 pair per text": si(row["pairs_per_s_once"]),
                "once per text": si(row["text_s"], "s"),
                "per pair": si(row["combine_s_per_pair"], "s"),
                "p95 of a request": si(row["latency_p95_s"], "s"),
                "cache per text": si(row["bytes_per_text"], "B"),
                "parameters": si(row["params_total"]),
                "FLOP per pair": si(row["flops_per_pair"]),
                "of matrix peak": percent(row["peak_fraction"]),
                "dtype": plain(row["dtype"]) if known(row["dtype"]) else DASH,
                "tokens kept": plain(row["keep"]) if known(row["keep"]) else DASH,
                "tokens read": plain(row["read_lengths"]) if known(row["read_lengths"]) else DASH,
                "seed": f"{row['seed']:.0f}" if known(row["seed"]) else DASH,
                "pairs seen": si(row["pairs_seen"]),
                "remarks": ", ".join(mark for mark in marks if mark) or DASH,
            }
        )
    shown = pd.DataFrame(lines, index=data.index)
    return of_single_texts(shown) if len(data) and data["n_fields"].max() == 1 else shown


CACHED = "pairs/s, cached"


def of_single_texts(shown: pd.DataFrame) -> pd.DataFrame:
    """The table of tasks of one field: texts in place of pairs, and nothing of reuse or of a cache."""
    shown = shown.drop(columns=[name for name in shown if re.search("reuse|pairs? per text|cache per", name)])
    return shown.rename(columns=ALONE)


# The columns of tasks of one field, by their name where texts stand in pairs.
ALONE = {
    CACHED: "texts/s",
    "once per text": "encoding",
    "per pair": "after it",
    "FLOP per pair": "FLOP after it",
}


def columns_here(wanted: Iterable[str], shown: pd.DataFrame) -> list[str]:
    """Those columns of a ``table``, by the names they have there."""
    return [
        name if name in shown else ALONE[name] for name in wanted if name in shown or ALONE.get(name) in shown
    ]


def published(data: pd.DataFrame) -> pd.DataFrame:
    """Published numbers with their sources; they carry no clock of ours and stand beside none."""
    rows = data[data["family"] == "published"]
    columns = {"model": "model", "task": "task", "metric": "metric", "quality": "quality", "source": "source"}
    shown = [
        {name: plain(row[column], 400) if known(row[column]) else DASH for column, name in columns.items()}
        for _, row in rows.iterrows()
    ]
    return pd.DataFrame(shown, columns=list(columns.values()))


def hover(row: pd.Series) -> str:
    """One row in one line: what a point says when it is pointed at or read aloud."""
    given = " at the speed given" if row["teacher_fastest_dtype"] == "given" else ""
    parts = [
        f"{plain(row['model'])}: {plain(row['metric'])} "
        f"{within(row['quality'], row['quality_low'], row['quality_high'])}",
        f"keeps {percent_within(row['retained'], row['retained_low'], row['retained_high'])} of the teacher"
        if known(row["retained"]) and not row["guard"]
        else "",
        f"of the gap closed: {gap_shown(row)}" if known(row["gap"]) else "",
        f"{si(row['pairs_per_s'])} {'texts/s' if row['n_fields'] == 1 else 'pairs/s cached'}"
        + (f", {times(row['speedup'])} the teacher{given}" if known(row["speedup"]) else "")
        if known(row["pairs_per_s"])
        else "not clocked",
        f"{si(row['text_s'], 's')} once per text, {si(row['combine_s_per_pair'], 's')} per pair"
        if known(row["pairs_per_s"]) and row["n_fields"] > 1
        else "",
        f"95 % of requests within {si(row['latency_p95_s'], 's')}" if known(row["latency_p95_s"]) else "",
        "noisy clock" if row["noisy"] else "",
        "still rising: train longer" if row["rising"] else "",
    ]
    return "; ".join(part for part in parts if part)


# ----------------------------------------------------------------------------------------------------- plots


def plot_quality_speed(
    data: pd.DataFrame, ax: Axes, speed: str = "pairs_per_s", highlight: Iterable[str] = ()
) -> None:
    """Quality against pairs per second (log axis), intervals on both, the front, the teacher with its band.

    Rows without a clock are left to the table. A constant is drawn at the lower edge, so that it does not squeeze the
    others. `highlight` names run ids to ring (a choice and its alternatives).
    """
    _one_task(data)
    rows = data[(data["family"] != "published") & data[speed].notna() & data["quality"].notna()]
    _style(ax)
    metric = plain(data["metric"].dropna().iloc[0]) if data["metric"].notna().any() else "quality"
    ax.set_xlabel(label_of(speed, data))  # the unit stands at its ticks
    ax.set_ylabel(f"{metric_name(metric)} on the test split")
    if rows.empty:
        _say(ax, "no row is clocked yet")
        return
    ax.set_xscale("log")
    others = rows[rows["family"] != "constant"]
    teacher = teacher_of(data)  # a column of scores has no point here, but a line that has to be seen
    drawn = others if teacher is None else pd.concat([others, teacher.to_frame().T])
    heights = pd.concat(
        [drawn[name].astype(float) for name in ("quality", "quality_low", "quality_high")]
    ).dropna()
    if len(heights):
        margin = max(0.08 * (heights.max() - heights.min()), 1e-3)
        ax.set_ylim(heights.min() - margin, heights.max() + margin)
    floor = ax.get_ylim()[0]
    lows = rows["pairs_per_s_low"] if speed == "pairs_per_s" else rows[speed]
    highs = rows["pairs_per_s_high"] if speed == "pairs_per_s" else rows[speed]
    ax.set_xlim(
        0.35 * np.nanmin([lows.min(), rows[speed].min()]), 2.8 * np.nanmax([highs.max(), rows[speed].max()])
    )
    _log_ticks(ax.xaxis, AXES[speed].unit)

    if teacher is not None:
        ax.axhline(
            teacher["quality"],
            color=FAMILIES["cross-encoder"].colour,
            lw=1,
            ls=(0, (5, 3)),
            zorder=1,
            label="teacher's quality, with its interval",
        )
        if known(teacher["quality_low"]):
            ax.axhspan(
                teacher["quality_low"],
                teacher["quality_high"],
                color=FAMILIES["cross-encoder"].colour,
                alpha=0.10,
                lw=0,
                zorder=0,
            )
    front = others[pareto(others, speed)].sort_values(speed)
    if len(front):
        ax.plot(front[speed], front["quality"], color=MUTED, lw=1.2, zorder=2, label="Pareto front")

    ringed = set(highlight)
    names, bars = [], []
    if teacher is not None:
        bars.append((ax.get_xlim()[0], teacher["quality"], ax.get_xlim()[1], teacher["quality"]))
    for run, row in rows.iterrows():
        y = max(row["quality"], floor)
        low, high = (
            (row["pairs_per_s_low"], row["pairs_per_s_high"]) if speed == "pairs_per_s" else (np.nan, np.nan)
        )
        if known(low) and known(high):
            ax.plot([low, high], [y, y], color=INK, lw=0.9, zorder=3)
        if known(row["quality_low"]) and row["family"] != "constant":
            ax.plot(
                [row[speed]] * 2,
                [row["quality_low"], row["quality_high"]],
                color=INK,
                lw=0.9,
                alpha=0.45,
                zorder=3,
            )
            bars.append((row[speed], row["quality_low"], row[speed], row["quality_high"]))
        _point(ax, row[speed], y, row, f"row:speed:{run}")
        if run in ringed:
            ax.plot(
                [row[speed]],
                [y],
                ls="",
                marker="o",
                ms=15,
                mfc="none",
                mec=INK,
                mew=1.4,
                zorder=5,
                clip_on=False,
            )
        name = fonts.drawable(plain(row["model"], NAME_WIDTH))
        names.append(f"{name}: {row['quality']:.3f}, below this axis" if row["quality"] < floor else name)
    _legend(ax, rows["family"], noisy=bool(rows["noisy"].any()))
    marked = rows["pareto"] | rows["teacher"] | rows.index.isin(ringed)
    # Of a family of many only the best are named; the rest have their hover texts and the table.
    family = rows.groupby("family")["quality"]
    few = family.transform("size") <= MOST_NAMED
    wanted = (marked | few | (family.rank(ascending=False) <= 3)).to_numpy()
    label_points(
        ax, rows[speed].to_numpy(), np.maximum(rows["quality"].to_numpy(), floor), names, wanted, bars
    )


def label_of(column: str, data: pd.DataFrame) -> str:
    """The name of an axis; where texts stand alone, a rate counts texts and holds their encoding."""
    if column.startswith("pairs_per_s") and len(data) and data["n_fields"].max() == 1:
        return "texts per second, encoding included"
    return AXES[column].label


def plot_kept(data: pd.DataFrame, quality_ax: Axes, speed_ax: Axes) -> None:
    """Quality (upper) and pairs/s (lower) against the tokens kept over all fields, one line per head and number of stages.

    The contrast is the teacher reading a truncated input: there, fewer tokens are tokens that were never read. A line
    passes through the median where several rows share a head and a number of tokens; every row is drawn.
    """
    _one_task(data)
    data = data[data["family"] != "published"]
    teacher = teacher_of(data)
    heads = data[data["family"].isin(["dipair", "dual-encoder"]) & data["kept_tokens"].notna()]
    # A head is a line of its own after stage 1 and after stage 2; where there are such lines, lone points are left out.
    heads = heads.assign(line=heads["head"] + heads["stages"].map({"1": " (stage 1)"}).fillna(""))
    several = heads.groupby("line")["kept_tokens"].transform("nunique") > 1
    heads = heads[several] if several.any() else heads
    lines: list[tuple[str, pd.DataFrame, dict[str, Any]]] = []
    for i, ((family, head), part) in enumerate(heads.groupby(["family", "line"])):
        # A colour is a family, here as in every figure; the head is in the marker and the dashes.
        marker, dashes = _HEADS[i % len(_HEADS)]
        look = {
            "color": FAMILIES[str(family)].colour,
            "marker": marker,
            "ls": dashes,
            "ms": 9 if marker == "*" else 7,
        }
        name = f"{FAMILIES[str(family)].label}, {fonts.drawable(plain(head, 32))}"
        lines.append((name, part.assign(tokens=part["kept_tokens"]), look))
    if teacher is not None:
        same = (data["family"] == "cross-encoder") & (data["params_total"] == teacher["params_total"])
        part = data[(same | data["teacher"]) & data["read_tokens"].notna()]
        look = {"color": FAMILIES["cross-encoder"].colour, "marker": "D", "ls": (0, (4, 2)), "ms": 7}
        if len(part):
            lines.append(("teacher, input truncated", part.assign(tokens=part["read_tokens"]), look))
    for ax, column, title in (
        (quality_ax, "quality", "quality on the test split"),
        (speed_ax, "pairs_per_s", label_of("pairs_per_s", data)),
    ):
        _style(ax)
        ax.set_xlabel("tokens kept (or, truncated, read) over all fields")
        ax.set_ylabel(
            metric_name(plain(data["metric"].iloc[0])) if column == "quality" and len(data) else title
        )
        if not any(part[column].notna().any() for _, part, _ in lines):
            _say(
                ax,
                "no row here is clocked yet"
                if column == "pairs_per_s"
                else "no row keeps a number of tokens",
            )
            continue
        ax.set_xscale("log", base=2)
        if column == "pairs_per_s":
            ax.set_yscale("log")
            _log_ticks(ax.yaxis)
        elif teacher is not None and known(teacher["quality_low"]):
            ax.axhspan(
                teacher["quality_low"],
                teacher["quality_high"],
                alpha=0.10,
                lw=0,
                color=FAMILIES["cross-encoder"].colour,
                zorder=0,
            )
        for _, part, look in lines:
            part = part[part[column].notna()]
            middle = part.groupby("tokens")[column].median()
            ax.plot(middle.index, middle, color=look["color"], lw=1.6, ls=look["ls"], zorder=2)
            for run, row in part.iterrows():
                if column == "quality" and known(row["quality_low"]):
                    ax.plot(
                        [row["tokens"]] * 2,
                        [row["quality_low"], row["quality_high"]],
                        color=look["color"],
                        lw=0.9,
                        alpha=0.6,
                        zorder=2,
                    )
                hollow = column == "pairs_per_s" and row["noisy"]
                ax.plot(
                    [row["tokens"]],
                    [row[column]],
                    ls="",
                    marker=look["marker"],
                    ms=look["ms"],
                    mec=INK,
                    mew=0.6,
                    zorder=4,
                    mfc=CARD if hollow else look["color"],
                    gid=f"row:kept-{column}:{run}",
                )
        ticks = sorted({float(token) for _, part, _ in lines for token in part["tokens"]})
        ax.xaxis.set_major_locator(FixedLocator(_apart(ticks)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    handles = [Line2D([], [], lw=1.6, mec=INK, mew=0.6, label=name, **look) for name, _, look in lines]
    if handles:
        quality_ax.figure.legend(
            handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8.5
        )


def plot_price(data: pd.DataFrame, axes: Iterable[Axes]) -> None:
    """Four panels of bars on log axes, one bar per row: once per text, per pair, cache per text, parameters. Of many rows, see ``few``.

    A dash stands for what was not measured; "0" for what costs nothing (a cross-encoder does nothing once per text).
    """
    _one_task(data)
    rows = few(data[data["family"] != "published"]).sort_values("quality", kind="stable", na_position="first")
    places = np.arange(len(rows))
    alone = bool(len(rows)) and rows["n_fields"].max() == 1
    rows = rows.assign(text_s_all=1 / rows["pairs_per_s"])
    panels = (
        ("text_s", "encoding a text" if alone else "once per text", "s"),
        ("combine_s_per_pair", "after it" if alone else "per pair", "s"),
        ("text_s_all", "a text, in all", "s") if alone else ("bytes_per_text", "cache per text", "B"),
        ("params_total", "parameters", ""),
    )
    for i, (ax, (column, title, unit)) in enumerate(zip(axes, panels, strict=True)):
        _style(ax)
        ax.grid(False, axis="y")
        ax.set_title(title, loc="left", fontsize=9.5, color=INK)
        values = rows[column]
        positive = values[values > 0]
        ax.set_ylim(-0.7, len(rows) - 0.3)
        ax.set_yticks(
            places,
            [fonts.drawable(plain(name, NAME_WIDTH)).replace("$", r"\$") for name in rows["model"]]
            if i == 0
            else [],
        )
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.set_xscale("log")
        low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 10.0)
        left = 10 ** math.floor(math.log10(low) - 0.3)
        # Room to the right of the longest bar for its number: about four tenths of the panel.
        ax.set_xlim(left, left * (high / left) ** 1.75)
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: si(value, unit)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.tick_params(axis="x", labelsize=7.5)
        for place, (run, row) in zip(places, rows.iterrows(), strict=True):
            value = row[column]
            end = left
            if known(value) and value > 0:
                family = FAMILIES.get(row["family"], FAMILIES["constant"])
                ax.barh(
                    place,
                    value - left,
                    left=left,
                    height=0.62,
                    color=family.colour,
                    edgecolor=INK,
                    linewidth=0.5,
                    gid=f"row:{column}:{run}",
                )[0].set_gid(f"row:{column}:{run}")
                end = value
            text = ("0" if value == 0 else si(value, unit)) if known(value) else DASH
            ax.annotate(
                text,
                (end, place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=INK,
                parse_math=False,
            )


MOST_BARS = 24


def few(rows: pd.DataFrame) -> pd.DataFrame:
    """At most MOST_BARS rows: the teacher, what nothing beats on quality and speed, the best of each family and head, then by quality."""
    if len(rows) <= MOST_BARS:
        return rows
    best = rows["quality"].eq(rows.groupby(["family", "head"], dropna=False)["quality"].transform("max"))
    rank = (
        pd.DataFrame({"first": rows["teacher"] | rows["pareto"], "best": best, "quality": rows["quality"]})
        .sort_values(["first", "best", "quality"], ascending=False, kind="stable")
        .index[:MOST_BARS]
    )
    return rows.loc[rows.index.isin(rank)]


def draw(name: str, data: pd.DataFrame, highlight: Iterable[str] = (), speed: str = "pairs_per_s") -> Figure:
    """A figure of its own for one of "quality_speed" (against which `speed`), "kept", "price", drawn from the rows of one task."""
    if name == "quality_speed":
        figure = Figure(figsize=(9.2, 6.0), dpi=110, layout="constrained")
        plot_quality_speed(data, figure.subplots(), speed, highlight)
    elif name == "kept":
        figure = Figure(figsize=(9.2, 4.2), dpi=110, layout="constrained")
        plot_kept(data, *figure.subplots(1, 2))
    elif name == "price":
        n = len(few(data[data["family"] != "published"]))
        figure = Figure(figsize=(9.2, 1.0 + 0.27 * max(n, 3)), dpi=110, layout="constrained")
        plot_price(data, figure.subplots(1, 4))
    else:
        raise ValueError(f"unknown figure {name!r}: expected one of quality_speed, kept, price")
    return figure


# ------------------------------------------------------------------------------------- the plots' own helpers

_HEADS: tuple[tuple[str, Any], ...] = (
    ("o", "-"),
    ("*", (0, (6, 1.5, 1, 1.5))),
    ("p", (0, (1, 1))),
    ("h", (0, (8, 2))),
)
METRIC_NAMES = {
    "auc": "AUC-ROC",
    "f1": "F1",
    "macro_f1": "macro F1",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
}


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return METRIC_NAMES.get(metric, metric)


def _style(ax: Axes) -> None:
    """Quiet axes: two spines, a light grid, muted numbers."""
    ax.set_facecolor("none")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(colors=MUTED, labelsize=8.5)
    ax.xaxis.label.set(color=INK, fontsize=9.5)
    ax.yaxis.label.set(color=INK, fontsize=9.5)
    ax.grid(True, color=GRID, lw=0.6, zorder=0)
    ax.set_axisbelow(True)


def _log_ticks(axis: Any, unit: str = "") -> None:
    axis.set_major_locator(LogLocator(numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: si(value, unit)))
    axis.set_minor_locator(NullLocator())


def _say(ax: Axes, text: str) -> None:
    """An empty panel says why it is empty."""
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=MUTED, fontsize=10)


def _point(ax: Axes, x: float, y: float, row: pd.Series, gid: str) -> None:
    """One row; hollow where its clock was noisy."""
    family = FAMILIES.get(row["family"], FAMILIES["constant"])
    ax.plot(
        [x],
        [y],
        ls="",
        marker=family.marker,
        ms=8,
        mec=family.colour if row["noisy"] else INK,
        mew=1.6 if row["noisy"] else 0.6,
        mfc=CARD if row["noisy"] else family.colour,
        zorder=4,
        gid=gid,
        clip_on=False,
    )


def _legend(ax: Axes, families: pd.Series, noisy: bool) -> None:
    here = [name for name in FAMILIES if name in set(families)]
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=FAMILIES[name].marker,
            ms=8,
            mec=INK,
            mew=0.6,
            mfc=FAMILIES[name].colour,
            label=FAMILIES[name].label,
        )
        for name in here
    ]
    if noisy:
        handles.append(
            Line2D([], [], ls="", marker="o", ms=8, mec=INK, mew=1.6, mfc=CARD, label="hollow: noisy clock")
        )
    handles += [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    ax.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.01),
        ncols=min(5, max(1, len(handles))),
        frameon=False,
        fontsize=8.5,
        columnspacing=1.4,
        handletextpad=0.4,
    )


def _apart(ticks: list[float], ratio: float = 1.25) -> list[float]:
    """Ticks thinned so that neighbours on a log axis stay `ratio` apart."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= ratio * kept[-1]:
            kept.append(tick)
    return kept


def label_points(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    names: list[str],
    wanted: np.ndarray | None = None,
    avoid: Iterable[tuple[float, float, float, float]] = (),
    size: float = 8.5,
) -> list[Annotation]:
    """Name points so that no label covers another label or a point; a thin line leads where a label stands away.

    Greedy over places around each point, then improved twice. x, y: [points] in data units; wanted: [points] bool; avoid: lines
    (x0, y0, x1, y1) in data units that labels should rather not cross.
    """
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # settles the layout the labels are placed in
    points = (
        ax.transData.transform(np.column_stack([x, y])) * 72 / ax.figure.dpi
    )  # [points, 2], in typographic points
    frame_box = np.asarray(ax.get_window_extent().extents) * 72 / ax.figure.dpi
    font = FontProperties(size=size)
    chosen = np.flatnonzero(wanted if wanted is not None else np.ones(len(names), bool)).tolist()
    markers = np.column_stack([points - 6, points + 6])
    lines = np.array(list(avoid), dtype=float).reshape(-1, 2)
    lines = (ax.transData.transform(lines) * 72 / ax.figure.dpi).reshape(-1, 4) + (-1, -1, 1, 1)
    offsets = np.array(
        [
            (radius * math.cos(angle), radius * math.sin(angle))
            for radius in (9.0, 15.0, 24.0, 36.0, 50.0, 66.0)
            for angle in np.linspace(0, 2 * math.pi, 16, endpoint=False)
        ]
    )
    places: dict[int, np.ndarray] = {}
    shifts: dict[int, np.ndarray] = {}
    for _ in range(3):
        for i in chosen:
            width, height, _descent = text_to_path.get_text_width_height_descent(names[i], font, ismath=False)
            # Anchor the side of the label that faces the point.
            side = np.clip(offsets[:, 0] / 9.0, -1, 1)
            corner = (
                points[i]
                + offsets
                + np.column_stack([(side - 1) / 2 * width, np.full(len(offsets), -height / 2)])
            )
            boxes = np.column_stack([corner, corner + (width, height)])
            others = [box for j, box in places.items() if j != i]
            cost = 0.4 * np.hypot(*offsets.T) + 8 * _overlap(boxes, markers).sum(axis=1)
            cost += 0.4 * _overlap(boxes, lines).sum(axis=1)
            if others:
                cost += 12 * _overlap(boxes, np.array(others)).sum(axis=1)
            outside = np.maximum(0, frame_box[:2] - boxes[:, :2]) + np.maximum(
                0, boxes[:, 2:] - frame_box[2:]
            )
            cost += 200 * outside.sum(axis=1)
            best = int(np.argmin(cost))
            places[i], shifts[i] = boxes[best], boxes[best, :2] - points[i]
    notes = []
    for i in chosen:
        box = places[i]
        nearest = np.clip(points[i], box[:2], box[2:])
        far = np.hypot(*(nearest - points[i])) > 13
        note = ax.annotate(
            names[i],
            (x[i], y[i]),
            xytext=tuple(shifts[i]),
            textcoords="offset points",
            fontsize=size,
            color=INK,
            ha="left",
            va="bottom",
            zorder=6,
            annotation_clip=False,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 5}
            if far
            else None,
        )
        note.set_in_layout(False)
        notes.append(note)
    return notes


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Overlap areas [boxes, others] of boxes given as x0, y0, x1, y1."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.prod(np.maximum(0, high - low), axis=2)
