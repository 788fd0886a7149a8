"""The questions asked of DiPair, and the series of students of `03_dipair` that answer each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipair_lib.evaluation import bootstrap
from dipair_lib.reporting import wording
from dipair_lib.reporting.studies import settings, students
from dipair_lib.reporting.studies.students import Settings, Students, Value
from dipair_lib.system import disk

MOST_SERIES = 5


# --- questions --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One choice.

    Attributes:
        axis: label of its axis, of categories the end of the panel's title.
        names: parameters that make it.
        reference: the value the others are compared with, where it was tried; otherwise the usual value; None
            is the last one.
        kind: "log2", "log10" (numbers to scale), "ordered" (evenly spaced) or "category".
        say: a value as a tick label.
        order: sorts values.
        number: a value as a number, None for one that stands apart.
        alike: how many members of a series must agree in all else; beside them stand those for which some of
            that does not count.
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

    def value(self, own: Settings) -> Value | None:
        """Its value in a student's settings, None where it has no part in them."""
        idle = settings.irrelevant_parameters(own)
        value = tuple(None if name in idle else own[name] for name in self.names)
        return None if idle.issuperset(self.names) else value


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
        " ".join(f"+ {p}" for p in ("pooled" if pooled else "", wording.plain(residual, 20)) if p)
        or "kept tokens only"
    )


def say_pool(pool: int, file: str) -> str:
    """Pairs built of the texts there are, and the name of a file of others."""
    parts = [settings.count(pool)] * bool(pool or not file) + [wording.plain(Path(file).name, 20)] * bool(
        file
    )
    return " + ".join(parts)


def say_loss(loss: str, alpha: float | None) -> str:
    """What it learns: "logits", "logits + 0.5 labels"."""
    return wording.plain(settings.LOSSES.get(loss, loss), 20) + (f" + {alpha:g} labels" if alpha else "")


QUESTIONS = (
    Question(
        "Kept tokens", "outputs kept of each field", ("keep",), ((8,),), "log2",
        say=settings.joined, order=lambda v: (len(v) > 1, v), number=one_number, alike=2,
    ),
    Question(
        "Projection", "width of a kept output", ("projection",), ((128,),), "log2",
        say=lambda v: settings.joined(v) if any(v) else "none",
        order=lambda v: (len(v) > 1, not any(v), v), number=lambda v: one_number(v) or None,
    ),
    Question(
        "FFNN head", "hidden layers", ("hidden",), ((256, 128),), "category",
        say=lambda v: settings.joined(v, "-"), order=lambda v: (len(v), v),
    ),
    Question(
        "Transformer head", "layers, inner width", ("head_layers", "head_ffn"), (1, 256), "category",
        say=lambda layers, ffn: f"{settings.plural(layers, 'layer')}, {ffn}",
    ),
    Question(
        "Which outputs are kept", "", ("select",), ("first",), "category",
        say=lambda v: settings.SELECTED.get(v, wording.plain(v, 20)), order=place_in(settings.SELECTED),
    ),
    Question(
        "One stage or two", "passes over the data", ("stage1_epochs", "stage2_epochs"), (), "category", say=say_stages,
    ),
    Question(
        "Cosine start", "pairs on which the head first learns the cosine", ("cosine_pairs",), (0,), "log10",
        say=lambda v: settings.count(v) if v else "none", number=lambda v: float(v) if v else None,
    ),
    Question(
        "What the encoder starts from", "", ("start",), ("pretrained",), "category",
        say=lambda v: settings.STARTS.get(v, wording.plain(v, 20)), order=place_in(settings.STARTS),
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
        "Training rows", "labelled rows", ("max_train",), None, "log10", say=lambda v: settings.count(v) if v else "all",
        order=lambda v: v or math.inf, number=lambda v: float(v) if v else None,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Students in which only one choice differs.

    Attributes:
        keys: value -> student, in order.
        reference: the value the others are compared with.
    """

    label: str
    keys: dict[Value, Settings]
    reference: Value


def load(folder: Path | str, task: str, n_boot: int = bootstrap.N_BOOT) -> Students:
    """The students that `03_dipair` left in a results folder for one task."""
    return students.load(folder, task, "03_dipair", settings.settings_of, n_boot)


def usual_of(study: Students) -> Settings:
    """Each parameter's value in most students: what the others depart from."""
    counts: dict[str, Counter[Any]] = {}
    for own in study.quality:
        for name in own.keys() - settings.irrelevant_parameters(own):
            counts.setdefault(name, Counter())[own[name]] += 1
    return Settings({name: count.most_common(1)[0][0] for name, count in counts.items()})


def cosine_of(study: Students) -> Settings | None:
    """The trained DE-Cos whose training is most like that of the others; of several the best."""
    usual = usual_of(study)

    def rank(own: Settings) -> tuple[int, float]:
        unlike = sum(value != usual.get(name) for name, value in own.items())
        return unlike, -float(np.mean(list(study.quality[own].values())))

    found = [own for own in study.quality if own["head"] == "cosine" and own["stage2_epochs"]]
    return min(found, key=rank, default=None)


def series_of(study: Students, question: Question) -> list[Series]:
    """The series that answer a question, those with most points first, at most MOST_SERIES."""
    values = {own: value for own in study.quality if (value := question.value(own)) is not None}
    text = {own: disk.canonical_json(own) for own in values}
    groups: dict[frozenset[Settings], tuple[Settings, dict[Value, Settings]]] = {}
    # Whoever has most parameters that count comes first, and gathers those for which some of them do not.
    for own in sorted(values, key=lambda s: (len(settings.irrelevant_parameters(s)), text[s])):
        fixed = Settings({n: v for n, v in own.items() if n not in question.names})
        nearest: dict[Value, tuple[float, str, Settings]] = {}
        for other, value in values.items():
            unlike = distance(fixed, other)
            if unlike is not None and (unlike, text[other]) < nearest.get(value, (math.inf, ""))[:2]:
                nearest[value] = unlike, text[other], other
        keys = {v: nearest[v][2] for v in sorted(nearest, key=lambda v: question.order(*v))}
        members = frozenset(keys.values())
        alike = sum(unlike == 0 for unlike, *_ in nearest.values())
        if len(keys) > 1 and alike >= question.alike and not any(members <= larger for larger in groups):
            idle = settings.irrelevant_parameters(own)
            groups[members] = Settings({n: v for n, v in fixed.items() if n not in idle}), keys
    usual = usual_of(study)
    wanted = [question.reference, tuple(usual.get(name) for name in question.names)]
    wanted = [] if question.reference is None else wanted

    def rank(one: tuple[Settings, dict[Value, Settings]]) -> tuple[int, int, str]:
        return -len(one[1]), -sum(len(study.quality[k]) for k in one[1].values()), disk.canonical_json(one[0])

    found = sorted(groups.values(), key=rank)[:MOST_SERIES]
    labels = labels_of([fixed for fixed, _ in found], usual)
    return [
        Series(label, keys, next((v for v in wanted if v in keys), list(keys)[-1]))
        for label, (_, keys) in zip(labels, found, strict=True)
    ]


def distance(fixed: Settings, own: Settings) -> int | None:
    """How many parameters differ that do not count in ``own``; None where one differs that does."""
    differ = {name for name, value in fixed.items() if own.get(name) != value}
    return len(differ) if differ <= settings.irrelevant_parameters(own) else None


ALWAYS = {"keep", "pool_kind"}  # said wherever sets differ in it, even where it has its usual value


def labels_of(fixed: Sequence[Settings], usual: Settings) -> list[str]:
    """What tells sets apart: the head, and where that is not enough what departs from the usual in which sets
    of that head differ.
    """
    heads = [settings.head_of(f) for f in fixed]
    labels = []
    for own, head in zip(fixed, heads, strict=True):
        same = [f for f, h in zip(fixed, heads, strict=True) if h == head]
        names = {n for n in own for o in same if n in o and o[n] != own[n]}
        said = [n for n in settings.order_of(own) if n in names and (n in ALWAYS or own[n] != usual.get(n))]
        labels.append(", ".join([head, *(settings.term(n, own[n]) for n in said)]))
    return labels


def questions_of(study: Students) -> dict[Question, list[Series]]:
    """The questions that the rows answer, in their order."""
    found = {question: series_of(study, question) for question in QUESTIONS}
    return {question: series for question, series in found.items() if series}
