"""What matters in DiPair: studies in which one choice differs and everything else stays, drawn from the rows of `03_dipair`.

A *configuration* is a set of notebook parameters; its rows differ by seed only. A *question* is one choice (a parameter, or a few
that mean one thing), a *series* a set of configurations in which only that choice differs. A difference is taken on the same test rows
and the same seeds; its interval is over test groups and seeds. And the bar: how much of the teacher the students keep, how fast.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from . import fonts, paired, results, tradeoff

N_BOOT = paired.N_BOOT
RETAINED, FASTER = 0.995, 10_000.0  # the bar: the share of the teacher's quality, at so many times its speed
PAID = 1_000.0  # and at so many times its speed with the encoding of every text paid for
MOST_SERIES = 5
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
# Okabe-Ito without the vermilion of the teacher, and a marker for whoever sees no colour.
STYLES = (
    ("#0072b2", "o"),
    ("#e69f00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#56b4e9", "v"),
    ("#8c8c8c", "P"),
    ("#1b1f24", "X"),
)

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


def inert(settings: Settings) -> set[str]:
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
    return results.canonical_json(settings)


@dataclass
class Study(paired.Students[str]):
    """The configurations of one task, by the canonical JSON of their settings.

    Attributes:
        settings: of each configuration. rows: configuration -> seed -> its row. taught: run_id of a teacher -> its quality and draws.
    """

    settings: dict[str, Settings] = field(default_factory=dict)
    rows: dict[str, dict[int, results.Result]] = field(default_factory=dict)
    taught: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)

    def usual(self) -> Settings:
        """Each parameter's value in most configurations: what the others depart from."""
        counts: dict[str, Counter[Any]] = {}
        for settings in self.settings.values():
            for name in settings.keys() - inert(settings):
                counts.setdefault(name, Counter())[settings[name]] += 1
        return {name: sorted(c.items(), key=lambda item: -item[1])[0][0] for name, c in counts.items()}

    def row(self, key: str) -> results.Result:
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
    drawn = paired.bootstrap(folder, [*students, *teachers], n_boot, damaged="warn")
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


# --- names ------------------------------------------------------------------------------------------------------------------------

HEADS = {
    "ffnn": "FFNN",
    "transformer": "transformer",
    "maxsim": "MaxSim",
    "cosine+maxsim": "cosine + MaxSim",
    "cosine": "DE-Cos",
}
SELECTED = {
    "first": "first",
    "even": "evenly spaced",
    "norm": "largest norm",
    "attention": "most attended",
    "learned": "learned",
}
STARTS = {"pretrained": "pre-trained", "teacher": "the teacher's", "random": "random"}
LOSSES = {"hard": "labels"}


def plural(number: int, noun: str) -> str:
    """3, "seed" -> "3 seeds"."""
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def joined(value: Value, sign: str = "+") -> str:
    """(4, 16) -> "4+16"."""
    return sign.join(f"{v:,}" if isinstance(v, int) and v > 9999 else str(v) for v in value) or "none"


# What sets a configuration apart, in a few words.
TERMS: dict[str, Callable[[Any], str]] = {
    "keep": lambda v: f"k={joined(v)}",
    "select": lambda v: f"{SELECTED.get(v, v)} tokens",
    "projection": lambda v: f"width {joined(v)}" if any(v) else "no projection",
    "hidden": lambda v: f"hidden {joined(v, '-')}",
    "head_layers": lambda v: f"{v}-layer head",
    "head_ffn": lambda v: f"head FFN {v}",
    "layers": lambda v: plural(v, "encoder layer") if v else "all encoder layers",
    "start": lambda v: f"start: {STARTS.get(v, v)}",
    "shared": lambda v: "one encoder" if v else "an encoder per field",
    "loss": lambda v: "learns labels" if v == "hard" else f"{v} loss",
    "alpha": lambda v: f"{v:g} labels",
    "match": lambda v: f"match {v:g}" if v else "no match",
    "average": lambda v: f"last {100 * v:g} % averaged" if v else "last weights",
    "pool": lambda v: f"{v:,} unlabelled",
    "pool_kind": lambda v: f"{v} pairs",
    "unlabelled": lambda v: f"pairs of {Path(v).name}" if v else "no file of pairs",
    "teachers": lambda v: plural(v, "teacher"),
    "teacher_age": paired.generation,
    "teacher_seed": lambda v: "a teacher per seed" if v == "same" else "one teacher for all seeds",
    "max_train": lambda v: f"{v:,} rows" if v else "all rows",
    "stage1_epochs": lambda v: f"stage 1: {v:g}" if v else "no stage 1",
    "stage2_epochs": lambda v: f"stage 2: {v:g}" if v else "encoder frozen",
    "cosine_pairs": lambda v: f"{count(v)} cosine pairs" if v else "no cosine start",
    "stage1_rate": lambda v: f"stage 1 at {v:g}",
    "stage2_rate": lambda v: f"stage 2 at {v:g}",
    "head_rate": lambda v: f"head at {v:g}" if v else "one rate",
    "batch_size": lambda v: f"batches of {v}",
    "read_lengths": lambda v: f"reads {joined(v)}" if v else "reads as the teacher",
    "backbone": lambda v: Path(str(v)).name,
}


def term(name: str, value: Any) -> str:
    """A parameter's value in a few words; one without words of its own by its name."""
    words = TERMS.get(name, lambda v: f"{name} {v}")
    try:
        return tradeoff.plain(words(value), 40)
    except (TypeError, ValueError):
        return tradeoff.plain(f"{name} {value}", 40)


def head_of(settings: Settings) -> str:
    """The head with what it sees: "FFNN + pooled + cosine"; parameters that are left out are not said."""
    head = tradeoff.plain(HEADS.get(settings["head"], settings["head"]), 30)
    if settings["head"] == "cosine":
        return head
    bare = "keep" in settings and not any(settings["keep"])
    parts = ["DE-" + head if bare else head, "pooled" if settings.get("pooled") and not bare else ""]
    return " + ".join(p for p in (*parts, tradeoff.plain(settings.get("residual") or "", 20)) if p)


def name_of(settings: Settings, usual: Settings) -> str:
    """Display name of a configuration: head, kept tokens, and what departs from the usual: "FFNN k=8, learned tokens"."""
    head = head_of(settings)
    said = inert(settings) | {"head", "pooled", "residual", "keep"}
    others = [n for n in order_of(settings) if n not in said and settings[n] != usual.get(n)]
    k = f" {term('keep', settings['keep'])}" if any(settings["keep"]) else ""
    return ", ".join([head + k, *(term(n, settings[n]) for n in others)])


def order_of(settings: Mapping[str, Any]) -> list[str]:
    """The names of settings, those with words of their own first, in that order."""
    return sorted(settings, key=lambda n: (list(TERMS).index(n) if n in TERMS else len(TERMS), n))


# --- questions --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One choice.

    Attributes:
        axis: label of its axis, of categories the end of the panel's title. names: parameters that make it.
        reference: the value the others are compared with, where it was tried; otherwise the usual value; None is the last one.
        kind: "log2", "log10" (numbers to scale), "ordered" (evenly spaced) or "category".
        say: a value as a tick label. order: sorts values. number: a value as a number, None for one that stands apart.
        alike: how many members of a series must agree in all else; beside them stand those for which some of that does not count.
    """

    title: str
    axis: str
    names: tuple[str, ...]
    reference: Value | None
    kind: str
    say: Callable[..., str]
    order: Callable[..., Any] = lambda *v: v
    number: Callable[..., float | None] = lambda *v: None
    alike: int = 1

    def value(self, settings: Settings) -> Value | None:
        """Its value in a configuration, None where it has no part in it."""
        idle = inert(settings)
        if all(name in idle for name in self.names):
            return None
        return tuple(None if name in idle else settings[name] for name in self.names)


def place_in(names: Iterable[str]) -> Callable[..., Any]:
    """Sorts by a list of names, unknown ones last."""
    known = list(names)
    return lambda first, *rest: (known.index(first) if first in known else len(known), str(first), *rest)


def one_number(value: Value) -> float | None:
    """The number of a list with one; None for numbers that differ by field."""
    return float(value[0]) if len(value) == 1 else None


def say_stages(first: float, second: float) -> str:
    """Passes with the encoder frozen, and with everything trained."""
    if not first:
        return f"one stage: {second:g}"
    return f"{first:g} frozen, {second:g} all" if second else f"{first:g} frozen"


def say_seen(pooled: bool, residual: str) -> str:
    """What the head sees beside the kept tokens, and what it corrects."""
    return (
        " ".join(f"+ {p}" for p in ("pooled" if pooled else "", tradeoff.plain(residual, 20)) if p)
        or "kept tokens only"
    )


def say_pool(pool: int, file: str) -> str:
    """Pairs built of the texts there are, and the name of a file of others."""
    parts = [count(pool)] * bool(pool or not file) + [tradeoff.plain(Path(file).name, 20)] * bool(file)
    return " + ".join(parts)


def say_loss(loss: str, alpha: float | None) -> str:
    """What it learns: "logits", "logits + 0.5 labels"."""
    return tradeoff.plain(LOSSES.get(loss, loss), 20) + (f" + {alpha:g} labels" if alpha else "")


QUESTIONS = (
    Question(
        "Kept tokens", "outputs kept of each field", ("keep",), ((8,),), "log2",
        say=joined, order=lambda v: (len(v) > 1, v), number=one_number, alike=2,
    ),
    Question(
        "Projection", "width of a kept output", ("projection",), ((128,),), "log2",
        say=lambda v: joined(v) if any(v) else "none",
        order=lambda v: (len(v) > 1, not any(v), v), number=lambda v: one_number(v) or None,
    ),
    Question(
        "FFNN head", "hidden layers", ("hidden",), ((256, 128),), "category",
        say=lambda v: joined(v, "-"), order=lambda v: (len(v), v),
    ),
    Question(
        "Transformer head", "layers, inner width", ("head_layers", "head_ffn"), (1, 256), "category",
        say=lambda layers, ffn: f"{plural(layers, 'layer')}, {ffn}",
    ),
    Question(
        "Which outputs are kept", "", ("select",), ("first",), "category",
        say=lambda v: SELECTED.get(v, tradeoff.plain(v, 20)), order=place_in(SELECTED),
    ),
    Question(
        "One stage or two", "passes over the data", ("stage1_epochs", "stage2_epochs"), (), "category", say=say_stages,
    ),
    Question(
        "Cosine start", "pairs on which the head first learns the cosine", ("cosine_pairs",), (0,), "log10",
        say=lambda v: count(v) if v else "none", number=lambda v: float(v) if v else None,
    ),
    Question(
        "What the encoder starts from", "", ("start",), ("pretrained",), "category",
        say=lambda v: STARTS.get(v, tradeoff.plain(v, 20)), order=place_in(STARTS),
    ),
    Question(
        "Encoder layers", "first layers of the encoder", ("layers",), (0,), "ordered",
        say=lambda v: str(v or "all"), order=lambda v: v or math.inf,
    ),
    Question(
        "One encoder or one per field", "", ("shared",), (True,), "category",
        say=lambda v: "shared" if v else "separate", order=lambda v: not v,
    ),
    Question(
        "What the head sees and corrects", "", ("pooled", "residual"), (False, ""), "category", say=say_seen,
    ),
    Question(
        "Loss", "", ("loss", "alpha"), ("logits", 0), "category",
        say=say_loss, order=lambda loss, alpha: (place_in(["logits"])(loss), alpha or 0),
    ),
    Question(
        "Matching the teacher's features", "weight in the loss", ("match",), (0,), "ordered",
        say=lambda v: f"{v:g}",
    ),
    Question(
        "Averaged weights", "share of the last steps that is averaged", ("average",), (0,), "ordered", say=lambda v: f"{v:g}",
    ),
    Question(
        "Unlabelled pairs", "further pairs that the teacher scored", ("pool", "unlabelled"), (0, ""), "log10", say=say_pool,
        order=lambda pool, file: (file != "", pool, file), number=lambda pool, file: None if file else float(pool),
    ),
    Question(
        "Teachers", "teachers whose logits are averaged", ("teachers",), (1,), "ordered", say=str,
    ),
    Question(
        "Training rows", "labelled rows", ("max_train",), None, "log10", say=lambda v: count(v) if v else "all",
        order=lambda v: v or math.inf, number=lambda v: float(v) if v else None,
    ),
)  # fmt: skip


def count(number: float) -> str:
    """15000 -> "15 k"."""
    return tradeoff.si(number) if number >= 10_000 else f"{number:,}"


@dataclass(frozen=True)
class Series:
    """Configurations in which only one choice differs.

    Attributes:
        keys: value -> configuration, in order. reference: the value the others are compared with. fixed: what they share.
    """

    label: str
    keys: dict[Value, str]
    reference: Value
    fixed: Settings


def series_of(study: Study, question: Question) -> list[Series]:
    """The series that answer a question, those with most points first, at most MOST_SERIES."""
    values = {key: value for key, s in study.settings.items() if (value := question.value(s)) is not None}
    groups: dict[frozenset[str], tuple[Settings, dict[Value, str]]] = {}
    # Whoever has most parameters that count comes first, and gathers those for which some of them do not.
    for key in sorted(values, key=lambda k: (len(inert(study.settings[k])), k)):
        fixed = {n: v for n, v in study.settings[key].items() if n not in question.names}
        chosen: dict[Value, tuple[int, str]] = {}
        for other, value in values.items():
            unlike = unlikeness(fixed, study.settings[other])
            if unlike is not None and (value not in chosen or (unlike, other) < chosen[value]):
                chosen[value] = unlike, other
        keys = {v: chosen[v][1] for v in sorted(chosen, key=lambda v: question.order(*v))}
        members = frozenset(keys.values())
        alike = sum(unlike == 0 for unlike, _ in chosen.values())
        if len(keys) > 1 and alike >= question.alike and not any(members <= larger for larger in groups):
            groups[members] = {n: v for n, v in fixed.items() if n not in inert(study.settings[key])}, keys
    usual = tuple(study.usual().get(name) for name in question.names)
    wanted = [] if question.reference is None else [question.reference, usual]
    found = [
        (fixed, keys, next((v for v in wanted if v in keys), list(keys)[-1]))
        for fixed, keys in groups.values()
    ]
    rows = {id(keys): sum(len(study.quality[k]) for k in keys.values()) for _, keys, _ in found}
    found = sorted(found, key=lambda f: (-len(f[1]), -rows[id(f[1])], results.canonical_json(f[0])))
    found = found[:MOST_SERIES]
    labels = labels_of([fixed for fixed, _, _ in found], study.usual())
    return [
        Series(label, keys, reference, fixed)
        for label, (fixed, keys, reference) in zip(labels, found, strict=True)
    ]


def unlikeness(fixed: Settings, settings: Settings) -> int | None:
    """How many parameters differ that do not count in ``settings``; None where one differs that does."""
    differ = {name for name in fixed.keys() | settings.keys() if fixed.get(name) != settings.get(name)}
    differ = {name for name in differ if name in fixed}
    return len(differ) if differ <= inert(settings) else None


ALWAYS = {"keep", "pool_kind"}  # said wherever sets differ in it, even where it has its usual value


def labels_of(fixed: Sequence[Settings], usual: Settings) -> list[str]:
    """What tells sets apart: the head, and where that is not enough what departs from the usual in which sets of that head differ."""
    heads = [head_of(f) for f in fixed]
    labels = []
    for own, head in zip(fixed, heads, strict=True):
        same = [f for f, h in zip(fixed, heads, strict=True) if h == head]
        names = {n for n in own for o in same if n in o and o[n] != own[n]}
        said = [n for n in order_of(own) if n in names and (n in ALWAYS or own[n] != usual.get(n))]
        labels.append(", ".join([head, *(term(n, own[n]) for n in said)]))
    return labels


def questions_of(study: Study) -> dict[Question, list[Series]]:
    """The questions that the rows answer, in their order."""
    found = {question: series_of(study, question) for question in QUESTIONS}
    return {question: series for question, series in found.items() if series}


def table(folder: Path | str, task: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """One line per question, series and value: quality with its 95 % interval, the difference in points to the reference with its own,
    the seeds, what a pair costs, the pairs seen in training, whether dev was still rising, and whether the seeds share one teacher."""
    study = load(folder, task, n_boot)
    lines = []
    for question, found in questions_of(study).items():
        for series in found:
            for value, key in series.keys.items():
                mean, low, high = study.mean(key)
                points = study.difference(key, series.keys[series.reference]) or (None, None, None)
                row = study.row(key)
                lines.append(
                    {
                        "question": question.title,
                        "series": series.label,
                        "value": question.say(*value),
                        "quality": mean,
                        "low": low,
                        "high": high,
                        "against": question.say(*series.reference),
                        "points": points[0],
                        "points_low": points[1],
                        "points_high": points[2],
                        "seeds": len(study.quality[key]),
                        "params_per_pair": row.params_per_pair,
                        "flops_per_pair": row.flops_per_pair,
                        "pairs_seen": row.pairs_seen,
                        "rising": study.rising(key),
                        "given": study.given(key),
                    }
                )
    columns = "question series value quality low high against points points_low points_high seeds".split()
    costs = ["params_per_pair", "flops_per_pair", "pairs_seen"]
    made = pd.DataFrame(lines, columns=[*columns, *costs, "rising", "given"])
    texts = {"question", "series", "value", "against", "seeds", "rising", "given"}
    numbers = [c for c in made.columns if c not in texts]
    return made.astype(dict.fromkeys(numbers, float))


def claims(lines: pd.DataFrame) -> list[str]:
    """One sentence per question from the lines of ``table``: the best value of its longest series against the reference, with the interval.

    The best was picked on the same test rows: an interval that excludes 0 speaks for the choice, not for the size of the gain. Of the one
    that is worse it is said if it was still rising when its budget ended, and of both if they saw different numbers of pairs.
    """
    said = []
    for question, asked in lines.groupby("question", sort=False):
        series = asked[asked["series"] == asked["series"].iloc[0]]
        others = series[(series["value"] != series["against"]) & series["points"].notna()]
        if others.empty:
            continue
        best = others.loc[others["points"].idxmax()]
        gain = points_within(best["points"], best["points_low"], best["points_high"])
        against = series["against"].iloc[0]
        sure = best["points_low"] > 0 or best["points_high"] < 0
        other = series[series["value"] == against].iloc[0]
        loser = other if best["points"] > 0 else best
        beside = tradeoff.budgets(loser.get("rising"), best.get("pairs_seen"), other.get("pairs_seen"))
        if best["points"] > 0:
            text = f"{best['value']} in place of {against} brings {gain} points" + (
                "" if sure else ", which may be nothing"
            )
        else:
            text = f"nothing tried beats {against}; {best['value']} comes nearest, {gain} points" + (
                "" if sure else ", which may be no difference"
            )
        seeds = plural(int(series["seeds"].min()), "seed")
        said.append(f"{question} ({best['series']}, {seeds}): {text}{beside}.")
    return said


def shown(lines: pd.DataFrame) -> pd.DataFrame:
    """The table for people: intervals beside their numbers, units, a dash for what is not known."""
    pairs = list(lines.itertuples())
    return pd.DataFrame(
        {
            "question": lines["question"],
            "series": lines["series"],
            "value": lines["value"],
            "quality": [tradeoff.within(p.quality, p.low, p.high) for p in pairs],
            "points": [points_within(p.points, p.points_low, p.points_high) for p in pairs],
            "seeds": lines["seeds"],
            "parameters per pair": [tradeoff.si(p.params_per_pair) for p in pairs],
            "FLOP per pair": [tradeoff.si(p.flops_per_pair) for p in pairs],
        }
    )


def points_within(value: float | None, low: float | None, high: float | None) -> str:
    """A difference with its interval: "+1.2 (-0.1 to +2.5)"; of what is its own reference that it is."""
    if value == low == high == 0:
        return "reference"
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})" if tradeoff.known(value) else tradeoff.DASH


# --- the bar ----------------------------------------------------------------------------------------------------------------------


def bar(folder: Path | str, task: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """One line per student whose texts are encoded once, best first: the share of the teacher's quality it keeps, the difference to the
    trained DE-Cos in points, its pairs/s as a multiple of the teacher's at the same dtype, how many pairs must share a text for it to be
    1,000 times as fast with the encoding paid for (``paid_from``), and whether it reaches the bar.

    ``reached`` is None where the student is not clocked, or its teacher is not surely above the floor (``failed``, see
    ``tradeoff.guards``); ``sure`` asks the lower end of the share's interval too.
    """
    study = load(folder, task, n_boot)
    rows = [r for r in results.load_results(folder, damaged="warn") if r.task == task] if study.rows else []
    guards = tradeoff.guards(rows, folder)
    usual, cosine = study.usual(), study.cosine()
    lines = []
    for key, settings in study.settings.items():
        kept = study.retained(key)
        row = study.row(key)
        if kept is None or row.family not in {"dipair", "dual-encoder"}:
            continue
        points = (study.difference(key, cosine) if cosine else None) or (None, None, None)
        clocked = row.teacher_s_per_pair and row.combine_s_per_pair
        faster = row.teacher_s_per_pair / row.combine_s_per_pair if clocked else None  # type: ignore[operator]
        guard = guards.get(row.teacher_run or "")
        failed = guard is not None and not guard.sure
        judged = None if failed else faster
        beside = (
            tradeoff.budgets(
                study.rising(cosine if (points[0] or 0) > 0 else key),
                row.pairs_seen,
                study.row(cosine).pairs_seen,
            )
            if cosine and points[0]
            else ""
        )
        lines.append(
            {
                "student": name_of(settings, usual),
                "retained": kept[0],
                "low": kept[1],
                "high": kept[2],
                "seeds": len(study.quality[key]),
                "points": points[0],
                "points_low": points[1],
                "points_high": points[2],
                "faster": faster,
                "paid_from": paid_from(row),
                "reached": None if judged is None else judged >= FASTER and kept[0] >= RETAINED,
                "sure": None if judged is None else judged >= FASTER and kept[1] >= RETAINED,
                "run": row.run_id,
                "clocked": bool(row.combine_s_per_pair),
                "speed_given": row.teacher_fastest_dtype == "given",
                "rising": study.rising(key),
                "given": study.given(key),
                "beside": beside,
                "failed": failed,
            }
        )
    columns = "student retained low high seeds points points_low points_high faster paid_from reached sure run".split()
    made = pd.DataFrame(lines, columns=[*columns, *"clocked speed_given rising given beside failed".split()])
    numbers = "retained low high points points_low points_high faster paid_from".split()
    made = made.astype({**dict.fromkeys(numbers, float), "reached": object, "sure": object, "failed": bool})
    return made.sort_values(["retained", "low"], ascending=False, kind="stable", ignore_index=True)


def paid_from(row: results.Result) -> float | None:
    """Pairs per text from which a student is ``PAID`` times as fast as the teacher (same dtype) although each text is tokenised and encoded
    for it: texts' price / (teacher's price of a pair / PAID - own price of a pair). None where something is not clocked, infinite where
    the pair alone costs too much."""
    if not (row.teacher_s_per_pair and row.combine_s_per_pair and row.encode_s_per_text):
        return None
    fields = len((row.read_lengths or "+").split("+"))
    texts = fields * (row.encode_s_per_text + (row.tokenize_s_per_text or 0.0))
    left = row.teacher_s_per_pair / PAID - row.combine_s_per_pair
    return max(1.0, texts / left) if left > 0 else math.inf


def pairs_per_text(number: float) -> str:
    """Rounded up to two digits, so that it still suffices."""
    if math.isinf(number):
        return "never"
    step = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / step - 1e-9) * step:,}"


def bar_shown(lines: pd.DataFrame) -> pd.DataFrame:
    """The bar's table for people."""
    pairs = list(lines.itertuples())
    said = {None: tradeoff.DASH, False: "no", True: "yes"}
    return pd.DataFrame(
        {
            "student": lines["student"],
            "of the teacher": [
                tradeoff.DASH if p.failed else tradeoff.percent_within(p.retained, p.low, p.high)
                for p in pairs
            ],
            "points against DE-Cos": [
                points_within(p.points, p.points_low, p.points_high) + p.beside for p in pairs
            ],
            "speed-up, same dtype": [
                tradeoff.times(p.faster) + (" at the speed given" if p.speed_given else "") for p in pairs
            ],
            f"{PAID:,.0f}x with encoding, from pairs per text": [
                pairs_per_text(p.paid_from) if tradeoff.known(p.paid_from) else tradeoff.DASH for p in pairs
            ],
            "seeds": lines["seeds"],
            BAR: [said[p.reached] + (", for sure" if p.sure else "") for p in pairs],
        }
    )


BAR = f"{100 * RETAINED:g} % at {FASTER:,.0f}x"


def sentence(folder: Path | str, task: str, n_boot: int = N_BOOT) -> str:
    """The best student that is fast enough and how far it is from the bar, in words; empty without a student to judge."""
    lines = bar(folder, task, n_boot)
    if not len(lines):
        return ""
    if lines["failed"].all():
        return (
            f"No student is held against the bar ({BAR}): the teacher is not surely above the untrained rows."
        )
    lines = lines[~lines["failed"]]
    clocked = lines[lines["faster"].notna()]
    if not len(clocked) and lines["clocked"].any():
        return f"The teacher has no clock: whether a student keeps {BAR} the teacher's speed cannot be said until its speed is given."
    if not len(clocked):
        return f"No student is clocked yet: whether one keeps {BAR} the teacher's speed cannot be said."
    fast = clocked[clocked["faster"] >= FASTER]
    best = (fast if len(fast) else clocked.sort_values("faster", ascending=False, kind="stable")).iloc[0]
    kept = tradeoff.percent_within(best["retained"], best["low"], best["high"])
    metric = tradeoff.metric_name(load(folder, task, n_boot).metric)
    what = f"keeps {kept} of the teacher's {metric} over {plural(int(best['seeds']), 'seed')}"
    what += " given this teacher" if best["given"] else ""
    speed = f"at {tradeoff.times(best['faster'])} its pairs per second"
    speed += " (at the speed given)" if best["speed_given"] else ""
    rising = " Its dev metric was still rising when its budget ended: train longer." if best["rising"] else ""
    if not len(fast):
        return (
            f"No student is {FASTER:,.0f} times as fast as the teacher: the fastest, {best['student']}, {what} {speed}; "
            f"the bar is {BAR}.{rising}"
        )
    against = (
        f", {points_within(best['points'], best['points_low'], best['points_high'])} points against DE-Cos{best['beside']}"
        if tradeoff.known(best["points"]) and best["points"]
        else ""
    )
    gap = 100 * (RETAINED - best["retained"])
    if best["sure"]:
        verdict = "is reached, by its whole interval"
    elif best["reached"]:
        verdict = "is reached, but its interval reaches below"
    else:
        verdict = (
            f"is {gap:.1f} points away, "
            + ("within" if best["high"] >= RETAINED else "outside")
            + " its interval"
        )
    unclocked = len(lines) - len(clocked)
    paid = best["paid_from"]
    encoded = (
        f" With the encoding of every text paid for it is {PAID:,.0f} times as fast from {pairs_per_text(paid)} pairs per text on."
        if tradeoff.known(paid) and not math.isinf(paid)
        else ""
    )
    return (
        f"{best['student']} {what} {speed}{against}: the best of {plural(len(fast), 'student')} that fast, "
        f"chosen on these test rows. The bar ({BAR}) {verdict}."
        + rising
        + encoded
        + (f" {unclocked} more are not clocked." if unclocked else "")
    )


def tasks_of(folder: Path | str) -> list[str]:
    """Tasks of a results folder, with its raw logits, for which there is a series."""
    rows = results.load_results(folder, damaged="warn") if (Path(folder) / "rows").is_dir() else []
    tasks = sorted({r.task for r in rows if r.notebook == "03_dipair"})
    return [task for task in tasks if questions_of(load(folder, task))]


def save_pictures(folder: Path | str, out: Path | str) -> list[Path]:
    """Write the figure of each task that has a series as ``study.png`` (of several tasks: with their names) into ``out``."""
    return paired.save_pictures(out, "study", tasks_of(folder), lambda task: figure(folder, task))


# --- the figure -------------------------------------------------------------------------------------------------------------------


def figure(folder: Path | str, task: str, n_boot: int = N_BOOT) -> Figure:
    """A panel per question: numbers as lines, other choices as rows of points; the teacher and the trained DE-Cos as lines to hold
    against."""
    study = load(folder, task, n_boot)
    found = questions_of(study)
    if not found:
        drawn = Figure(figsize=(6, 2.4), dpi=110, layout="constrained")
        tradeoff._say(drawn.add_subplot(), "no two students that differ in one thing only")
        return drawn
    columns = min(3, len(found))
    chunks = [list(found.items())[i : i + columns] for i in range(0, len(found), columns)]
    heights = [max(height_of(q, s) for q, s in chunk) for chunk in chunks]
    # A single panel is as wide as two: the legend below needs that, and a page stretches every figure to its width.
    drawn = Figure(figsize=(4.3 * max(2, columns), sum(heights) + 0.5), dpi=110, layout="constrained")
    axes = drawn.subplots(len(chunks), columns, squeeze=False, height_ratios=heights)
    styles = styles_of(list(found.values()))
    for line, chunk in zip(axes, chunks, strict=True):
        for ax, (question, series) in zip(line, chunk, strict=False):
            (plot_rows if question.kind == "category" else plot_line)(study, question, series, styles, ax)
        for ax in line[len(chunk) :]:
            ax.set_axis_off()
    drawn.legend(handles=handles_of(study), loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    return drawn


def height_of(question: Question, found: Sequence[Series]) -> float:
    """Inches for a panel: a category needs room for its values, every panel for the names of its series."""
    values = len({v for series in found for v in series.keys})
    body = 0.75 + 0.2 * values + 0.11 * values * len(found) if question.kind == "category" else 2.1
    return max(body, 1.6) + 0.45 + 0.16 * len(found)


def styles_of(panels: Sequence[Sequence[Series]]) -> dict[str, tuple[str, str]]:
    """Label -> colour and marker: the same in every panel, different within one."""
    styles: dict[str, tuple[str, str]] = {}
    for label in dict.fromkeys(series.label for panel in panels for series in panel):
        beside = {
            other.label for panel in panels for other in panel if label in {series.label for series in panel}
        }
        taken = [styles[other] for other in beside if other in styles]
        uses = Counter(styles.values())
        styles[label] = min(STYLES, key=lambda s: (s in taken, uses[s]))
    return styles


def handles_of(study: Study) -> list[Line2D]:
    """What every panel's lines and hollow points mean."""
    handles = [Line2D([], [], lw=1.3, label=name, **look) for name, _, look in lines_of(study)]
    point: dict[str, Any] = {"ls": "", "marker": "o", "ms": 6, "color": tradeoff.INK}
    handles.append(
        Line2D([], [], **{**point, "ms": 11, "mfc": "none", "mew": 0.8}, label="ringed: reference")
    )
    return [*handles, Line2D([], [], **point, mfc=tradeoff.CARD, label="hollow: may be no different from it")]


def lines_of(study: Study) -> list[tuple[str, float, dict[str, Any]]]:
    """Name, quality and look of what the students are held against: the teacher and the trained DE-Cos, where they are."""
    cosine = study.cosine()
    lines: list[tuple[str, float, dict[str, Any]]] = []
    if study.teacher and study.teacher.quality is not None:
        lines.append(("teacher", study.teacher.quality, {"color": "#d55e00", "ls": (0, (5, 2))}))
    if cosine:
        trained = float(np.mean(list(study.quality[cosine].values())))
        lines.append(("DE-Cos, trained", trained, {"color": tradeoff.MUTED, "ls": (0, (1, 1.5))}))
    return lines


def plot_line(
    study: Study, question: Question, found: Sequence[Series], styles: Mapping[str, tuple[str, str]], ax: Axes
) -> None:
    """Quality against a number, a line per series; values that are no number stand apart on the right."""
    places = places_of(question, found)
    first, last = min(places.values()), max(places.values())
    reach = last - first
    for number, series in enumerate(found):
        shift = 0.015 * reach * (number - (len(found) - 1) / 2)
        means = {value: study.mean(key) for value, key in series.keys.items()}
        joins = [v for v in means if question.kind == "ordered" or question.number(*v) is not None]
        xs = [places[v] + shift for v in joins]
        ax.plot(xs, [means[v][0] for v in joins], color=styles[series.label][0], lw=1.4, zorder=2)
        for value, mean in means.items():
            x, y, bars = places[value] + shift, mean[0], bars_of(mean)
            ax.errorbar(x, y, yerr=bars, **look_of(study, series, value, styles))
            if value == series.reference:
                ax.plot(x, y, **RING)
    for _, level, look in lines_of(study):
        ax.axhline(level, lw=1.3, zorder=1, **look)
    ax.autoscale_view(scalex=False)  # room beside the lines too
    tradeoff._style(ax)
    ax.set_xlim(first - 0.08 * reach, last + 0.08 * reach)
    ticks = sorted(places, key=lambda v: places[v])
    texts = apart([places[v] for v in ticks], [safe(question.say(*v)) for v in ticks])
    ax.set_xticks([places[v] for v in ticks], texts)
    ax.set(xlabel=question.axis, ylabel=tradeoff.metric_name(study.metric))
    finish(question, found, styles, ax)


def plot_rows(
    study: Study, question: Question, found: Sequence[Series], styles: Mapping[str, tuple[str, str]], ax: Axes
) -> None:
    """A row of points per value, a point per series, a tick per seed."""
    values = ordered(question, found)
    for number, series in enumerate(found):
        shift = 0.6 / max(len(found), 2) * (number - (len(found) - 1) / 2)
        for value, key in series.keys.items():
            mean, place = study.mean(key), values.index(value) + shift
            look = look_of(study, series, value, styles)
            ax.errorbar(mean[0], place, xerr=bars_of(mean), **look)
            seen = list(study.quality[key].values())
            ax.plot(seen, [place] * len(seen), ls="", marker="|", ms=8, color=look["color"], zorder=2)
            if value == series.reference:
                ax.plot(mean[0], place, **RING)
    for _, level, look in lines_of(study):
        ax.axvline(level, lw=1.3, zorder=1, **look)
    ax.autoscale_view(scaley=False)  # room beside the lines too
    tradeoff._style(ax)
    ax.set_yticks(range(len(values)), [safe(question.say(*v)) for v in values])
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set(xlabel=tradeoff.metric_name(study.metric))
    finish(question, found, styles, ax)


RING: dict[str, Any] = {
    "ls": "",
    "marker": "o",
    "ms": 12,
    "mfc": "none",
    "mec": tradeoff.INK,
    "mew": 0.8,
    "zorder": 4,
}


def look_of(
    study: Study, series: Series, value: Value, styles: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """How a point is drawn: hollow where the difference to the reference may be nothing."""
    colour, marker = styles[series.label]
    points = study.difference(series.keys[value], series.keys[series.reference])
    sure = value == series.reference or (points is not None and (points[1] > 0 or points[2] < 0))
    look: dict[str, Any] = {"fmt": marker, "color": colour, "mfc": colour if sure else tradeoff.CARD}
    return {
        **look,
        "mec": tradeoff.INK if sure else colour,
        "mew": 0.6 if sure else 1.3,
        "ms": 6,
        "capsize": 2.2,
        "lw": 1.3,
        "zorder": 3,
    }


def bars_of(mean: paired.Interval) -> list[list[float]]:
    """An interval as the lengths of its two error bars."""
    return [[max(0.0, mean[0] - mean[1])], [max(0.0, mean[2] - mean[0])]]


def ordered(question: Question, found: Sequence[Series]) -> list[Value]:
    """Every value of a question's series, in its order."""
    return sorted({v for series in found for v in series.keys}, key=lambda v: question.order(*v))


def places_of(question: Question, found: Sequence[Series]) -> dict[Value, float]:
    """Where each value stands on the axis: by its logarithm, 0 a step left of the smallest, what is no number to the right; or in
    even steps."""
    values = ordered(question, found)
    if question.kind == "ordered":
        return {value: float(place) for place, value in enumerate(values)}
    numbers = {value: question.number(*value) for value in values}
    log = math.log2 if question.kind == "log2" else math.log10
    places = {value: log(number) for value, number in numbers.items() if number}
    least, most = min(places.values(), default=0.0), max(places.values(), default=0.0)
    step = 1.3 if question.kind == "log2" else max(0.3, (most - least) / 4)
    places |= {value: least - step for value, number in numbers.items() if number == 0}
    others = [value for value, number in numbers.items() if number is None]
    return places | {value: most + step * (1 + i) for i, value in enumerate(others)}


def apart(places: Sequence[float], texts: Sequence[str], inches: float = 2.8) -> list[str]:
    """Tick labels, empty where one would touch the last that is shown."""
    scale = inches / ((places[-1] - places[0]) * 1.16 or 1.0)
    shown_, end = [], -math.inf
    for place, text in zip(places, texts, strict=True):
        half = 0.036 * len(text) + 0.03
        fits = place * scale - half >= end
        end = place * scale + half if fits else end
        shown_.append(text if fits else "")
    return shown_


def safe(text: str) -> str:
    """Text in which a dollar sign begins no formula, and of which each character can be drawn."""
    return fonts.drawable(tradeoff.plain(text, 40)).replace("$", r"\$")


def finish(
    question: Question, found: Sequence[Series], styles: Mapping[str, tuple[str, str]], ax: Axes
) -> None:
    """Title, and beneath it what the series are."""
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=styles[s.label][1],
            ms=6,
            mec=tradeoff.INK,
            mew=0.6,
            mfc=styles[s.label][0],
            label=safe(s.label),
        )
        for s in found
    ]
    what = f": {question.axis}" if question.kind == "category" and question.axis else ""
    title = question.title + what
    ax.set_title(title, loc="left", fontsize=10, color=tradeoff.INK, pad=6 + 11.5 * len(found))
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        frameon=False,
        fontsize=8,
        borderaxespad=0.1,
        handletextpad=0.2,
        labelspacing=0.25,
    )
