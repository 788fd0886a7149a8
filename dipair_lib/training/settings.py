"""Settings of a training, and what is told of one that is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dipair_lib.inference.device import device_of

LOSSES = ("hard", "logits", "soft", "kl", "margin", "listwise")
COSINE_PAIRS = 300_000  # of the cosine start of 03_dipair, where nothing else is asked for


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run.

    Attributes:
        learning_rate: peak, after a linear warm-up; it falls linearly to 0.
        batch_size: pairs per step.
        epochs: passes over the rows. A fraction (0.5) reads that part of the groups.
        epoch_rows: rows of one epoch; 0 means all. With augmented data it is the number of original rows, so
            that runs with more and fewer synthetic rows take the same number of steps.
        loss: ``hard`` (labels), or what is compared with the teacher: ``logits`` (MSE on raw logits: Tang et al. 2019, section 3.3,
            found it best), ``soft`` (cross-entropy to the teacher's softened probabilities) or ``kl`` (their divergence; the same
            gradient, but 0 where the student agrees); ``margin`` (MSE of the differences between the rows of a group, Hofstätter et al.
            2020) and ``listwise`` (KL of the softmax over a group's rows) look at the order within a query only.
        alpha: weight of the hard loss beside it: alpha * CE + (1 - alpha) * distance to the teacher. The
            paper found 0 best.
        temperature: of ``soft``, ``kl`` and ``listwise``; their loss is multiplied by its square, so that
            gradients keep their size.
        pairs: budget in pairs seen; it takes the place of ``epochs`` where it is more than 0.
        looks: how often per pass dev is looked at (where there are dev rows); 0 looks after each of several
            epochs.
        patience: looks without a better dev metric after which the training ends before its budget; 0 never
            does.
        head_rate: learning rate of everything but the encoder; 0 takes ``learning_rate`` for all.
        dropout: share of a transformer's activations dropped while it trains (BERT: 0.1). On a CPU its random
            numbers cost half the time.
        train_words: also train a transformer's word-piece embeddings. They are half of MiniLM's weights, most
            rows get no gradient in a short run, and updating them costs a tenth of each step on a CPU.
        device: where it is trained: see ``device.device_of``.
        optimizer: ``adamw``, or ``adadelta`` (Tang et al.: learning rate 1.0, rho 0.95, no warm-up).
        warmup: share of the steps.
        weight_decay: of adamw.
        dtype: of the encoder's arithmetic: ``auto`` takes what is fastest on this machine (weights stay
            float32).
        seed: of initialisation and order.
    """

    learning_rate: float = 1e-4
    batch_size: int = 32
    epochs: float = 1
    epoch_rows: int = 0
    loss: str = "logits"
    alpha: float = 0.0
    temperature: float = 1.0
    pairs: int = 0
    looks: float = 0.0
    patience: int = 0
    head_rate: float = 0.0
    dropout: float = 0.0
    train_words: bool = False
    device: str = "auto"
    optimizer: str = "adamw"
    warmup: float = 0.1
    weight_decay: float = 0.01
    dtype: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, but got {self.loss!r}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha: expected 0 to 1, but got {self.alpha}")
        if self.optimizer not in {"adamw", "adadelta"}:
            raise ValueError(f"optimizer: expected adamw or adadelta, but got {self.optimizer!r}")
        if self.epoch_rows < 0:
            raise ValueError(f"epoch_rows: expected 0 (all) or more, but got {self.epoch_rows}")
        for name in ("pairs", "looks", "patience", "head_rate", "dropout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, but got {getattr(self, name)}")
        for name in ("learning_rate", "batch_size", "epochs", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, but got {getattr(self, name)}")


@dataclass(frozen=True)
class Fitted:
    """What a training cost and where it ended.

    Attributes:
        steps: of the optimiser.
        seconds: of wall clock.
        loss: last running mean.
        dtype: of the encoder's arithmetic.
        dev: the dev metric at each look, where there was one; the weights kept are those of the best.
        pairs: rows seen, each time counted.
        passes: the same in passes over the rows.
        best_at: share of the steps after which dev was best.
        rising: whether dev was still rising when the budget ended.
        device: where it was trained.
        learning_rate: its peak.
        notes: what went wrong and was mended, in words.
    """

    steps: int
    seconds: float
    loss: float
    dtype: str
    dev: tuple[float, ...] = ()
    pairs: int = 0
    passes: float = 0.0
    best_at: float | None = None
    rising: bool | None = None
    device: str = "cpu"
    learning_rate: float | None = None
    notes: str = ""


def budget_of(pairs: Sequence[int], device: Any = "auto", budget: float = 1.0) -> int:
    """Pairs to see in one training on a device; 0 where none are given.

    Args:
        pairs: two numbers, for a CPU and for an accelerator; [] gives none.
        device: see ``device_of``.
        budget: times them.
    """
    if budget <= 0:
        raise ValueError(f"budget: expected more than 0, but got {budget}")
    if not pairs:
        return 0
    if len(pairs) != 2 or min(pairs) < 1:
        raise ValueError(
            f"pairs: expected two numbers of at least 1, for a CPU and for an accelerator, but got {list(pairs)}"
        )
    return max(1, round(pairs[device_of(device).type != "cpu"] * budget))


def training_fields(config: TrainConfig, *fits: Fitted | None) -> dict[str, Any]:
    """The training group of a row: loss, alpha, and steps, pairs and seconds over all stages (a stage not run
    is None); the rest is the last stage's.
    """
    done = [fit for fit in fits if fit]
    last = done[-1] if done else None
    return {
        "loss": config.loss,
        "alpha": config.alpha if config.loss != "hard" else 1.0,
        "steps": sum(fit.steps for fit in done),
        "pairs_seen": sum(fit.pairs for fit in done),
        "train_seconds": sum(fit.seconds for fit in done),
        "learning_rate": last and last.learning_rate,
        "passes": last and last.passes,
        "best_at": last and last.best_at,
        "dev_rising": last and last.rising,
        "train_device": last and last.device,
        "training_notes": " ".join(fit.notes for fit in done if fit.notes) or None,
        "stages": "+".join(str(number) for number, fit in enumerate(fits, 1) if fit)
        if len(fits) > 1
        else None,
    }


def fitted_table(*fits: Fitted | None) -> pd.DataFrame:
    """What came of trainings, or of the stages of one, as text for people: a line each; a stage not run has
    none.
    """
    lines = {
        number: {
            "steps": f"{fit.steps:,}",
            "pairs seen": f"{fit.pairs:,}",
            "passes": f"{fit.passes:.2g}",
            "time": f"{fit.seconds:,.0f} s",
            "loss": f"{fit.loss:.4f}",
            "best on dev": f"{max(fit.dev):.4f}" if fit.dev else "not looked at",
            "dev still rising": {True: "yes", False: "no", None: ""}[fit.rising],
            "on": f"{fit.device}, {fit.dtype}",
        }
        for number, fit in enumerate(fits, 1)
        if fit
    }
    return pd.DataFrame(lines.values(), index=[f"stage {n}" if len(fits) > 1 else "" for n in lines])


def training_name(parameters: Mapping[str, Any], cosine: bool = False) -> str:
    """What sets the training of 03_dipair apart from the plain one, for the display name: " (stage 1, from
    the teacher)"; "" if nothing.

    Args:
        cosine: whether the head takes a cosine start: see ``takes_cosine_start``.
    """
    p = parameters
    parts = []
    if cosine and p["cosine_pairs"] != COSINE_PAIRS:
        parts.append(f"{p['cosine_pairs']:,} cosine pairs" if p["cosine_pairs"] else "no cosine start")
    if not p["stage2_epochs"]:
        parts.append("stage 1")
    elif not p["stage1_epochs"]:
        parts.append("one stage")
    parts += {"pretrained": [], "teacher": ["from the teacher"], "random": ["random start"]}[p["start"]]
    parts += [p["loss"]] if p["loss"] != "logits" else []
    parts += [f"+ {p['alpha']:g} labels"] if p["alpha"] else []
    parts += [f"{p['teachers']} teachers"] if p["teachers"] > 1 else []
    parts += ["unlabelled"] if p["unlabelled"] else []
    parts += [f"{p['pool']:,} {p['pool_kind']} pairs"] if p["pool"] else []
    parts += [f"frozen for {p['stage1_epochs']:g} epochs"] if p["stage1_epochs"] not in {0.0, 3.0} else []
    parts += [f"{p['stage2_epochs']:g} epochs"] if p["stage2_epochs"] > 1 else []
    return f" ({', '.join(parts)})" if parts else ""
