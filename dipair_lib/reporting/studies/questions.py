"""The questions asked of DiPair, and the series of configurations that answer each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipair_lib.reporting import wording
from dipair_lib.reporting.studies import configurations, terms
from dipair_lib.reporting.studies.configurations import Settings, Study, Value
from dipair_lib.system import disk

MOST_SERIES = 5


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
        idle = configurations.irrelevant_parameters(settings)
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
        " ".join(f"+ {p}" for p in ("pooled" if pooled else "", wording.plain(residual, 20)) if p)
        or "kept tokens only"
    )


def say_pool(pool: int, file: str) -> str:
    """Pairs built of the texts there are, and the name of a file of others."""
    parts = [terms.count(pool)] * bool(pool or not file) + [wording.plain(Path(file).name, 20)] * bool(file)
    return " + ".join(parts)


def say_loss(loss: str, alpha: float | None) -> str:
    """What it learns: "logits", "logits + 0.5 labels"."""
    return wording.plain(terms.LOSSES.get(loss, loss), 20) + (f" + {alpha:g} labels" if alpha else "")


QUESTIONS = (
    Question(
        "Kept tokens", "outputs kept of each field", ("keep",), ((8,),), "log2",
        say=terms.joined, order=lambda v: (len(v) > 1, v), number=one_number, alike=2,
    ),
    Question(
        "Projection", "width of a kept output", ("projection",), ((128,),), "log2",
        say=lambda v: terms.joined(v) if any(v) else "none",
        order=lambda v: (len(v) > 1, not any(v), v), number=lambda v: one_number(v) or None,
    ),
    Question(
        "FFNN head", "hidden layers", ("hidden",), ((256, 128),), "category",
        say=lambda v: terms.joined(v, "-"), order=lambda v: (len(v), v),
    ),
    Question(
        "Transformer head", "layers, inner width", ("head_layers", "head_ffn"), (1, 256), "category",
        say=lambda layers, ffn: f"{terms.plural(layers, 'layer')}, {ffn}",
    ),
    Question(
        "Which outputs are kept", "", ("select",), ("first",), "category",
        say=lambda v: terms.SELECTED.get(v, wording.plain(v, 20)), order=place_in(terms.SELECTED),
    ),
    Question(
        "One stage or two", "passes over the data", ("stage1_epochs", "stage2_epochs"), (), "category", say=say_stages,
    ),
    Question(
        "Cosine start", "pairs on which the head first learns the cosine", ("cosine_pairs",), (0,), "log10",
        say=lambda v: terms.count(v) if v else "none", number=lambda v: float(v) if v else None,
    ),
    Question(
        "What the encoder starts from", "", ("start",), ("pretrained",), "category",
        say=lambda v: terms.STARTS.get(v, wording.plain(v, 20)), order=place_in(terms.STARTS),
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
        "Training rows", "labelled rows", ("max_train",), None, "log10", say=lambda v: terms.count(v) if v else "all",
        order=lambda v: v or math.inf, number=lambda v: float(v) if v else None,
    ),
)  # fmt: skip


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
    for key in sorted(
        values, key=lambda k: (len(configurations.irrelevant_parameters(study.settings[k])), k)
    ):
        fixed = {n: v for n, v in study.settings[key].items() if n not in question.names}
        chosen: dict[Value, tuple[int, str]] = {}
        for other, value in values.items():
            unlike = distance(fixed, study.settings[other])
            if unlike is not None and (value not in chosen or (unlike, other) < chosen[value]):
                chosen[value] = unlike, other
        keys = {v: chosen[v][1] for v in sorted(chosen, key=lambda v: question.order(*v))}
        members = frozenset(keys.values())
        alike = sum(unlike == 0 for unlike, _ in chosen.values())
        if len(keys) > 1 and alike >= question.alike and not any(members <= larger for larger in groups):
            groups[members] = (
                {
                    n: v
                    for n, v in fixed.items()
                    if n not in configurations.irrelevant_parameters(study.settings[key])
                },
                keys,
            )
    usual = tuple(study.usual().get(name) for name in question.names)
    wanted = [] if question.reference is None else [question.reference, usual]
    found = [
        (fixed, keys, next((v for v in wanted if v in keys), list(keys)[-1]))
        for fixed, keys in groups.values()
    ]
    rows = {id(keys): sum(len(study.quality[k]) for k in keys.values()) for _, keys, _ in found}
    found = sorted(found, key=lambda f: (-len(f[1]), -rows[id(f[1])], disk.canonical_json(f[0])))
    found = found[:MOST_SERIES]
    labels = labels_of([fixed for fixed, _, _ in found], study.usual())
    return [
        Series(label, keys, reference, fixed)
        for label, (fixed, keys, reference) in zip(labels, found, strict=True)
    ]


def distance(fixed: Settings, settings: Settings) -> int | None:
    """How many parameters differ that do not count in ``settings``; None where one differs that does."""
    differ = {name for name in fixed.keys() | settings.keys() if fixed.get(name) != settings.get(name)}
    differ = {name for name in differ if name in fixed}
    return len(differ) if differ <= configurations.irrelevant_parameters(settings) else None


ALWAYS = {"keep", "pool_kind"}  # said wherever sets differ in it, even where it has its usual value


def labels_of(fixed: Sequence[Settings], usual: Settings) -> list[str]:
    """What tells sets apart: the head, and where that is not enough what departs from the usual in which sets of that head differ."""
    heads = [terms.head_of(f) for f in fixed]
    labels = []
    for own, head in zip(fixed, heads, strict=True):
        same = [f for f, h in zip(fixed, heads, strict=True) if h == head]
        names = {n for n in own for o in same if n in o and o[n] != own[n]}
        said = [n for n in terms.order_of(own) if n in names and (n in ALWAYS or own[n] != usual.get(n))]
        labels.append(", ".join([head, *(terms.term(n, own[n]) for n in said)]))
    return labels


def questions_of(study: Study) -> dict[Question, list[Series]]:
    """The questions that the rows answer, in their order."""
    found = {question: series_of(study, question) for question in QUESTIONS}
    return {question: series for question, series in found.items() if series}
