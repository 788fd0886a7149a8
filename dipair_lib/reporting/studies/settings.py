"""Parameters of `03_dipair`: what they were in old rows, which of them change nothing, and their values in a
few words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dipair_lib.reporting import identity, wording
from dipair_lib.reporting.studies import students
from dipair_lib.reporting.studies.students import Settings, Value

LIST = ("keep", "projection", "hidden", "read_lengths")
# What a parameter was in rows that do not name it: they are from before it could be chosen.
DEFAULTS: dict[str, Any] = {
    "fields": [], "label": "", "group": "", "kind": "", "max_train": 0, "teacher_score": "", "backbone": "embedded", "read_lengths": [],
    "head": "ffnn", "keep": [8], "select": "first", "pooled": False, "residual": "", "projection": [128], "hidden": [256, 128],
    "head_layers": 1, "head_ffn": 256, "layers": 0, "start": "pretrained", "shared": True, "loss": "logits", "alpha": 0.0,
    "match": 0.0, "average": 0.0, "pool": 0, "pool_kind": "near", "teachers": 1, "teacher_seed": "one", "unlabelled": "",
    "stage1_epochs": 3.0, "stage2_epochs": 0.25, "stage1_rate": 1e-3, "stage2_rate": 1e-4, "batch_size": 64, "cosine_pairs": 0,
    "head_rate": 0, "stage2_pairs": [], "budget": 1.0,
}  # fmt: skip


def settings_of(parameters: Mapping[str, Any], n_train: int | None = None, teacher_age: int = 0) -> Settings:
    """What was trained, of a run's parameters.

    Args:
        n_train: training rows there were, in place of the limit on them.
        teacher_age: of its teacher, see ``identity.teacher_ages``; it does not count where nothing of a
            teacher is learned.
    """
    settings = students.read(parameters, DEFAULTS)
    settings["residual"] = {True: "cosine", False: ""}.get(settings["residual"], settings["residual"])
    for name in LIST:
        value = settings[name] if isinstance(settings[name], tuple) else (settings[name],)
        one = name != "hidden" and len(set(value)) == 1  # one number for all fields
        settings[name] = value[:1] if one else value
    settings["max_train"] = n_train or settings["max_train"]
    settings["teacher_age"] = teacher_age if students.learns(settings) else 0
    return Settings(settings)


# When a parameter changes nothing beside the others.
IRRELEVANT: tuple[tuple[Callable[[Settings], Any], set[str]], ...] = (
    (lambda s: s["head"] != "ffnn", {"hidden"}),
    (lambda s: s["head"] != "transformer", {"head_layers", "head_ffn"}),
    (lambda s: not any(s["keep"]), {"select", "projection"}),
    (lambda s: s["loss"] == "hard", {"alpha"}),
    (lambda s: not s["stage1_epochs"], {"stage1_rate"}),
    (lambda s: not s["stage2_epochs"], {"stage2_rate", "head_rate", "stage2_pairs"}),
    (lambda s: s["head"] not in {"ffnn", "transformer"} or s["residual"] or s["start"] == "random", {"cosine_pairs"}),
    (lambda s: not s["pool"], {"pool_kind"}),
)  # fmt: skip


def irrelevant_parameters(settings: Settings) -> set[str]:
    """Parameters that change nothing beside the others."""
    return {name for idle, names in IRRELEVANT if idle(settings) for name in names}


# --- names ------------------------------------------------------------------------------------------------------------------------

HEADS = {
    "ffnn": "FFNN", "transformer": "transformer", "maxsim": "MaxSim", "cosine+maxsim": "cosine + MaxSim", "cosine": "DE-Cos",
}  # fmt: skip
SELECTED = {
    "first": "first", "even": "evenly spaced", "norm": "largest norm", "attention": "most attended", "learned": "learned",
}  # fmt: skip
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
    "teacher_age": identity.generation,
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
        return wording.plain(words(value), 40)
    except (TypeError, ValueError):
        return wording.plain(f"{name} {value}", 40)


def head_of(settings: Settings) -> str:
    """The head with what it sees: "FFNN + pooled + cosine"; parameters that are left out are not said."""
    head = wording.plain(HEADS.get(settings["head"], settings["head"]), 30)
    if settings["head"] == "cosine":
        return head
    bare = "keep" in settings and not any(settings["keep"])
    parts = ["DE-" + head if bare else head, "pooled" if settings.get("pooled") and not bare else ""]
    return " + ".join(p for p in (*parts, wording.plain(settings.get("residual") or "", 20)) if p)


def name_of(settings: Settings, usual: Settings) -> str:
    """Display name of a configuration: head, kept tokens, and what departs from the usual: "FFNN k=8, learned
    tokens".
    """
    head = head_of(settings)
    said = irrelevant_parameters(settings) | {"head", "pooled", "residual", "keep"}
    others = [n for n in order_of(settings) if n not in said and settings[n] != usual.get(n)]
    k = f" {term('keep', settings['keep'])}" if any(settings["keep"]) else ""
    return ", ".join([head + k, *(term(n, settings[n]) for n in others)])


def order_of(settings: Mapping[str, Any]) -> list[str]:
    """The names of settings, those with words of their own first, in that order."""
    return sorted(settings, key=lambda n: (list(TERMS).index(n) if n in TERMS else len(TERMS), n))


def count(number: float) -> str:
    """15000 -> "15 k"."""
    return wording.si(number) if number >= 10_000 else f"{number:,}"
