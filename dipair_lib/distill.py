"""Training: the teacher, the losses, and the two stages of a student.

What is expensive is done once: each distinct text of a batch is encoded once; a frozen encoder's outputs and the teacher's logits come from
``store``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn
from torch.nn import functional as F

from . import models, progress, quality
from .checkpoint import Checkpoint, State
from .models import BiLSTM, Constant, CrossEncoder, DualEncoder, Model, TfIdf, load_tokenizer
from .models.backbone import build_backbone, encoder_dtype, in_dtype
from .models.heads import Prepared, SimilarityHead
from .models.tokens import BATCH_TOKENS, Texts, Tokens, in_batches, length_sorted, read, tokenize
from .results import Result, row_folder
from .store import (
    Stored,
    TeacherError,
    cut_stored,
    hash_of,
    load_teacher_logits,
    locked,
    prepare_stored,
    save_teacher_logits,
    stored_outputs,
    take,
    teacher_file,
)
from .tasks import Task, load_unlabelled

LOSSES = ("hard", "logits", "soft", "kl", "margin", "listwise")
STARTS = ("pretrained", "teacher", "random")
SUB_BATCH = 32  # texts a transformer encodes together within a training step: few enough to be of like length, enough to fill a core
LOOKED_AT = 512  # dev rows scored for a training's curve
LSTM_SUB_BATCH = 128  # the same for an LSTM, whose steps are small


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run.

    Attributes:
        learning_rate: peak, after a linear warm-up; it falls linearly to 0.
        batch_size: pairs per step.
        epochs: passes over the rows. A fraction (0.5) reads that part of the groups.
        epoch_rows: rows of one epoch; 0 means all. With augmented data it is the number of original rows, so that runs with more and
            fewer synthetic rows take the same number of steps.
        loss: ``hard`` (labels), or what is compared with the teacher: ``logits`` (MSE on raw logits: Tang et al. 2019, section 3.3,
            found it best), ``soft`` (cross-entropy to the teacher's softened probabilities) or ``kl`` (their divergence; the same
            gradient, but 0 where the student agrees); ``margin`` (MSE of the differences between the rows of a group, Hofstätter et al.
            2020) and ``listwise`` (KL of the softmax over a group's rows) look at the order within a query only.
        alpha: weight of the hard loss beside it: alpha * CE + (1 - alpha) * distance to the teacher. The paper found 0 best.
        temperature: of ``soft``, ``kl`` and ``listwise``; their loss is multiplied by its square, so that gradients keep their size.
        match: weight of a second loss: a linear map of what the head's last layer reads is to meet what the teacher's reads (MSE, the
            teacher's features scaled to unit spread); needs ``Data.features``. Not in the papers.
        average: share of the last steps whose weights are averaged; 0 keeps the last step's (Izmailov et al. 2018, SWA).
        optimizer: ``adamw``, or ``adadelta`` (Tang et al.: learning rate 1.0, rho 0.95, no warm-up).
        warmup: share of the steps. weight_decay: of adamw.
        dtype: of the encoder's arithmetic: ``auto`` takes what is fastest on this machine (weights stay float32).
        seed: of initialisation and order.
    """

    learning_rate: float = 1e-4
    batch_size: int = 32
    epochs: float = 1
    epoch_rows: int = 0
    loss: str = "logits"
    alpha: float = 0.0
    temperature: float = 1.0
    match: float = 0.0
    average: float = 0.0
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
        if not 0 <= self.average < 1:
            raise ValueError(f"average: expected 0 to less than 1, but got {self.average}")
        if self.match < 0:
            raise ValueError(f"match: expected 0 or more, but got {self.match}")
        if self.optimizer not in {"adamw", "adadelta"}:
            raise ValueError(f"optimizer: expected adamw or adadelta, but got {self.optimizer!r}")
        if self.epoch_rows < 0:
            raise ValueError(f"epoch_rows: expected 0 (all) or more, but got {self.epoch_rows}")
        for name in ("learning_rate", "batch_size", "epochs", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, but got {getattr(self, name)}")


@dataclass(frozen=True)
class Data:
    """Rows to learn from.

    Attributes:
        texts: the rows' texts in word pieces.
        labels: [rows], class index (int64) or score (float32).
        groups: int64 [rows]; rows of one group stay in one batch, so that a query is encoded once.
        classes: number of classes, 0 for scores.
        teacher: float32 [rows, outputs] raw logits, or None.
        features: float32 [rows, width], what the teacher's last layer reads of each row, or None.
    """

    texts: Texts
    labels: np.ndarray
    groups: np.ndarray
    classes: int
    teacher: np.ndarray | None = None
    features: np.ndarray | None = None

    def first(self, n: int) -> Data:
        """The first n rows."""
        targets = (None if array is None else array[:n] for array in (self.teacher, self.features))
        return Data(self.texts.first(n), self.labels[:n], self.groups[:n], self.classes, *targets)


def read_splits(
    task: Task, tokenizer: Any, read_lengths: Sequence[int], teacher: dict[str, np.ndarray] | None = None
) -> dict[str, Data]:
    """Tokenise a task's train, dev and test rows, with the teacher's logits beside them if there are any.

    Args:
        tokenizer: a backbone's name, or a tokenizer.
        read_lengths: word pieces (special ones included) or words read of each field.
        teacher: from ``load_teacher_logits``.
    """
    splits = {}
    for split in ("train", "dev", "test"):
        frame = getattr(task, split)
        logits = teacher[split] if teacher else None
        if logits is not None:
            check_teacher(task, split, frame, logits)
        splits[split] = read_rows(task, frame, tokenizer, read_lengths, logits)
    return splits


def read_rows(
    task: Task,
    frame: pd.DataFrame,
    tokenizer: Any,
    read_lengths: Sequence[int],
    logits: np.ndarray | None = None,
) -> Data:
    """Tokenise some rows of a task (or synthetic ones), with the teacher's logits [rows, outputs] beside them."""
    tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    texts = read(tokenizer, frame, task.fields, read_lengths)
    return Data(texts, frame["label"].to_numpy(), frame["group"].to_numpy(), len(task.classes), logits)


def check_teacher(task: Task, split: str, frame: pd.DataFrame, logits: np.ndarray) -> None:
    """Raise unless the teacher's logits are of as many rows and of the same labels as the student is to learn."""
    outputs = outputs_for(len(task.classes))
    if len(logits) != len(frame):
        raise TeacherError(
            f"teacher logits of {split}: expected {len(frame)} rows, but got {len(logits)}: run 01_teacher again"
        )
    if logits.shape[1] != outputs:
        raise TeacherError(
            f"teacher logits of {split}: expected {outputs} per row for the labels "
            f"{', '.join(task.classes) or 'of a score'}, but got {logits.shape[1]}: the teacher has other labels; train it on this task"
        )


def choose_read_lengths(
    task: Task, tokenizer: Any, asked: Sequence[int] = (), most: int = 128, sample: int = 2000
) -> list[int]:
    """Word pieces (or words) to read of each field: as asked (one number is for all), or enough to read 95 % of the texts whole.

    Args:
        tokenizer: a backbone's name, or a tokenizer. most: upper limit. sample: texts looked at.
    """
    if asked:
        asked = list(asked) * len(task.fields) if len(asked) == 1 else asked
        if len(asked) != len(task.fields):
            raise ValueError(
                f"read_lengths: expected one number for each field {list(task.fields)}, but got {list(asked)}"
            )
        return [int(n) for n in asked]
    tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    frame = task.train.sample(min(sample, len(task.train)), random_state=0)
    return [  # 3 is the least that `tokenize` takes; texts of two words are read whole with it too
        max(3, int(np.ceil(np.quantile(tokenize(tokenizer, frame[f].tolist(), most).lengths, 0.95))))
        for f in task.fields
    ]


def lengths_of(row: Result) -> list[int]:
    """The read lengths of a row, as numbers: "16+32" -> [16, 32]."""
    return [int(n) for n in (row.read_lengths or "").split("+") if n]


def training_fields(config: TrainConfig, *fits: Fitted | None) -> dict[str, Any]:
    """The training group of a row: loss, alpha, and steps and seconds over all stages (a stage not run is None)."""
    done = [fit for fit in fits if fit]
    return {
        "loss": config.loss,
        "alpha": config.alpha if config.loss != "hard" else 1.0,
        "steps": sum(fit.steps for fit in done),
        "train_seconds": sum(fit.seconds for fit in done),
        "stages": "+".join(str(number) for number, fit in enumerate(fits, 1) if fit)
        if len(fits) > 1
        else None,
    }


def training_name(parameters: Mapping[str, Any]) -> str:
    """What sets the training of 03_dipair apart from the plain one, for the display name: " (stage 1, from the teacher)"; "" if nothing."""
    p = parameters
    parts = []
    if not p["stage2_epochs"]:
        parts.append("stage 1")
    elif not p["stage1_epochs"]:
        parts.append("one stage")
    parts += {"pretrained": [], "teacher": ["from the teacher"], "random": ["random start"]}[p["start"]]
    parts += [p["loss"]] if p["loss"] != "logits" else []
    parts += [f"+ {p['alpha']:g} labels"] if p["alpha"] else []
    parts += [f"match {p['match']:g}"] if p["match"] else []
    parts += [f"average {p['average']:g}"] if p["average"] else []
    parts += [f"{p['teachers']} teachers"] if p["teachers"] > 1 else []
    parts += ["unlabelled"] if p["unlabelled"] else []
    parts += [f"{p['pool']:,} {p['pool_kind']} pairs"] if p["pool"] else []
    parts += [f"frozen for {p['stage1_epochs']:g} epochs"] if p["stage1_epochs"] not in {0.0, 3.0} else []
    parts += [f"{p['stage2_epochs']:g} epochs"] if p["stage2_epochs"] > 1 else []
    return f" ({', '.join(parts)})" if parts else ""


@dataclass(frozen=True)
class Fitted:
    """What a training cost and where it ended.

    Attributes:
        steps: of the optimiser. seconds: of wall clock. loss: last running mean. dtype: of the encoder's arithmetic.
        dev: the dev metric after each epoch, where there was one to look at; the weights kept are those of the best.
    """

    steps: int
    seconds: float
    loss: float
    dtype: str
    dev: tuple[float, ...] = ()


def outputs_for(classes: int) -> int:
    """Logits per row: one for a score and for two classes (the log-odds), else one per class."""
    return 1 if classes in (0, 2) else classes


def fit(
    model: Any,
    data: Data,
    config: TrainConfig,
    *,
    what: str = "training",
    dev: Data | None = None,
    metric: str = "",
    keep: Path | None = None,
) -> Fitted:
    """Train a network on rows, all of its parameters except the word-piece embeddings of a transformer (they are half of MiniLM's
    weights, most rows get no gradient in a short run, and updating them costs a tenth of each step).

    Args:
        dev: rows to look at after each of several epochs; the weights of the best by ``metric`` are kept. None keeps the last.
        keep: folder for what a training of minutes has reached: begun again, it goes on from there, to the same weights.

    Raises:
        Stopped: Ctrl-C, after the step under way. ``model`` holds the best weights so far.
    """
    require_targets(data, config)
    torch.manual_seed(config.seed)
    dtype = encoder_dtype(config.dtype)
    parameters = trainable(model, config)
    start_bias(model, data, config)
    epochs = list(epochs_of(model, data, config))
    batches = [rows for epoch in epochs for rows in epoch]
    ends = set(np.cumsum([len(epoch) for epoch in epochs]).tolist())
    matcher = matcher_of(model, data, config)
    weights = [*parameters, *matcher.parameters()]
    optimizer, schedule = optimizer_of(weights, config, len(batches))
    name = identity(data, dev, metric, config, weights) if keep else ""
    checkpoint = Checkpoint(keep, name, weights, optimizer, schedule)
    state, others = checkpoint.load()
    best = Best(metric, dev if len(epochs) > 1 else None, state.seen, others)
    mean = Mean(parameters, config.average, len(batches), state.averaged, others)
    curves = progress.Curves(what, len(batches), metric if dev else "")
    begun = time.perf_counter() - state.seconds
    model.train()
    with progress.interruptible() as interrupted:
        for step, rows in enumerate(progress.track(batches[state.step :], what), state.step + 1):
            logits, features = outputs_in(model, data.texts, rows, dtype, config.match > 0)
            loss = loss_of(logits, data, rows, config) + match_loss(features, data, rows, config, matcher)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.optimizer == "adamw":
                nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            mean.look(step)
            running = smooth(state.loss, float(loss.detach()))
            if step in ends:
                best.look(model.eval())
            if dev and step in curves.looks:
                curves.dev.append((step, dev_metric(model.eval(), dev.first(LOOKED_AT), metric)))
            model.train()
            curves.add(step, running, len(rows))
            state = State(step, running, time.perf_counter() - begun, best.seen, mean.seen)
            if interrupted() or checkpoint.due(step == len(batches)):
                checkpoint.save(state, {**best.tensors(), **mean.tensors()})
            if interrupted():
                best.restore(model.eval())
                raise progress.Stopped(what, step, len(batches), goes_on=keep is not None)
    curves.end()
    mean.restore()
    if mean.seen:
        best.look(model.eval())  # the mean is one more candidate beside the epochs
    best.restore(model)
    model.eval()
    return Fitted(len(batches), state.seconds, state.loss, dtype, tuple(best.seen))


def identity(
    data: Data, dev: Data | None, metric: str, config: TrainConfig, weights: Sequence[torch.Tensor]
) -> str:
    """A hash of all that a training begins with: its rows, those it is judged by, its settings and weights, and the version of torch."""
    arrays = []
    for rows in (data, dev) if dev else (data,):
        pieces = [array for tokens in rows.texts.tokens for array in (tokens.ids, tokens.offsets)]
        arrays += [*pieces, rows.texts.index, rows.labels, rows.groups]
    given = [array for array in (data.teacher, data.features) if array is not None]
    return hash_of(
        asdict(config), metric, torch.__version__, *arrays, *given, *(w.detach().numpy() for w in weights)
    )


class Mean:
    """The mean of the weights over the last steps of a training; with a share of 0 it does nothing.

    Args:
        seen, others: of a training that goes on: how many were summed up, and the sums, from ``tensors``.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        share: float,
        steps: int,
        seen: int,
        others: Mapping[str, torch.Tensor],
    ) -> None:
        self.parameters, self.begin, self.seen = parameters, steps - round(share * steps), seen
        known = [others.get(f"sum {i}") for i in range(len(parameters))]
        zeros = [torch.zeros_like(p) for p in parameters] if share else []
        self.sums = [zero if sum is None else sum for zero, sum in zip(zeros, known, strict=False)]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        return {f"sum {i}": total for i, total in enumerate(self.sums)} if self.seen else {}

    @torch.no_grad()
    def look(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        if self.sums and step > self.begin:
            torch._foreach_add_(self.sums, list(self.parameters))
            self.seen += 1

    @torch.no_grad()
    def restore(self) -> None:
        """Put the mean in place of the last weights."""
        if self.seen:
            for parameter, total in zip(self.parameters, self.sums, strict=True):
                parameter.copy_(total / self.seen)


class Best:
    """The weights of the best epoch by a dev metric (higher is better); without dev rows it does nothing.

    Args:
        seen, others: of a training that goes on: the metric after its epochs, and the best weights, from ``tensors``.
    """

    def __init__(
        self,
        metric: str,
        dev: Data | None,
        seen: Sequence[float],
        others: Mapping[str, torch.Tensor],
    ) -> None:
        self.metric, self.dev = metric, dev
        self.seen = list(seen)
        self.weights = {n.removeprefix("best "): w for n, w in others.items() if n.startswith("best ")}

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        return {f"best {name}": weight for name, weight in self.weights.items()}

    def look(self, model: Any) -> None:
        """Score dev and remember the weights if no earlier epoch was better. An undefined metric counts as the worst."""
        if self.dev is None:
            return
        value = dev_metric(model, self.dev, self.metric)
        if not self.seen or value > max(self.seen):
            self.weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self.seen.append(value)

    def restore(self, model: Any) -> None:
        """Put the remembered weights back."""
        if self.weights:
            model.load_state_dict(self.weights)


def dev_metric(model: Any, dev: Data, metric: str) -> float:
    """A metric of a model in evaluation mode on dev rows; -inf where it is undefined."""
    found = quality.evaluate([metric], dev.labels, predict(model, dev.texts, what=""))[metric]
    return -np.inf if found is None else found


def fit_head(
    model: DualEncoder, stored: Sequence[Stored], data: Data, config: TrainConfig, *, what: str = "stage 1"
) -> Fitted:
    """Stage 1 (Chen et al. 2020): projection and head are trained while the encoder is frozen, on its outputs computed once.

    Args:
        model: its encoder is not run and not changed.
        stored: one per field, the encoder's outputs for the distinct texts of ``data.texts`` in the same order.
    """
    require_targets(data, config)
    torch.manual_seed(config.seed)
    parameters = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    if not data.classes:
        target = data.labels if config.loss == "hard" else data.teacher
        nn.init.constant_(model.final_bias, float(np.mean(target)))  # type: ignore[arg-type]
    start_residual(model, stored, data, config)
    cut = [cut_stored(model, one, field) for field, one in enumerate(stored)]
    batches = [rows for epoch in epochs_of(model, data, config) for rows in epoch]
    matcher = matcher_of(model, data, config)
    optimizer, schedule = optimizer_of([*parameters, *matcher.parameters()], config, len(batches))
    curves = progress.Curves(what, len(batches))
    begun, running = time.perf_counter(), float("nan")
    model.train()
    for step, rows in enumerate(progress.track(batches, what), 1):
        prepared = []
        for field, one in enumerate(cut):
            distinct, place = np.unique(data.texts.index[rows, field], return_inverse=True)
            kept = take(one, distinct, trim=model.select == "learned")
            prepared.append(gather(model.prepare(model.project(kept, field), field), place))
        features = model.features(*prepared) if config.match else None
        loss = loss_of(model.combine(*prepared), data, rows, config)
        loss = loss + match_loss(features, data, rows, config, matcher)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        running = smooth(running, float(loss.detach()))
        curves.add(step, running, len(rows))
    curves.end()
    model.eval()
    return Fitted(
        len(batches), time.perf_counter() - begun, running, str(stored[0].hidden.dtype).removeprefix("torch.")
    )


def fit_stages(
    model: DualEncoder,
    data: Data,
    first: TrainConfig | None,
    second: TrainConfig | None,
    folder: Path,
    *,
    seed: int = 0,
    what: str = "",
    dev: Data | None = None,
    metric: str = "",
    keep: Path | None = None,
) -> tuple[Fitted | None, Fitted | None, dict[str, int]]:
    """Two-stage training (Chen et al. 2020, section 3.4): ``fit_head``, then ``fit``; None leaves a stage out.

    Without stage 1, a cosine or MaxSim in the head still starts on its line (see ``start_residual``).

    Args:
        folder: where the outputs of frozen encoders are stored. seed: of both stages. dev, metric, keep: of ``fit``.

    Returns:
        What each stage cost, and how many texts were encoded for stage 1 and how many came from the store.
    """
    one = two = None
    counts = {"encoded": 0, "from_store": 0}
    if first or any(isinstance(m, SimilarityHead) for m in model.head.modules()):
        stored, counts = stored_outputs(model, data.texts, folder)
        if first:
            one = fit_head(model, stored, data, replace(first, seed=seed), what=f"{what} stage 1")
        elif second:
            start_residual(model, stored, data, second)
    if second:
        plan = replace(second, seed=seed)
        two = fit(model, data, plan, what=f"{what} stage 2", dev=dev, metric=metric, keep=keep)
    return one, two, counts


def choose_learning_rate(
    build: Callable[[], Any],
    data: Data,
    dev: Data,
    metric: str,
    config: TrainConfig,
    rates: Sequence[float],
    share: float = 0.15,
    keep: Path | None = None,
) -> tuple[float, dict[float, float | None]]:
    """The learning rate that is best on dev after a share of an epoch (one rate is returned as it is, untried).

    Args:
        keep: of ``fit``.

    Returns:
        The rate, and each tried rate's dev metric.
    """
    if not rates:
        raise ValueError("learning_rates: expected at least one, but got none")
    if len(rates) == 1:
        return rates[0], {}
    tried: dict[float, float | None] = {}
    for rate in rates:
        model = build()
        fit(
            model,
            data,
            replace(config, learning_rate=rate, epochs=share),
            what=f"trying learning rate {rate:g}",
            keep=keep,
        )
        tried[rate] = quality.evaluate([metric], dev.labels, predict(model, dev.texts, what="dev"))[metric]
    return max(tried, key=lambda rate: (tried[rate] if tried[rate] is not None else -np.inf, -rate)), tried


def predict(
    model: Model,
    texts: Texts,
    *,
    dtype: str = "auto",
    batch_tokens: int = BATCH_TOKENS,
    what: str = "scoring",
    stored: Path | None = None,
) -> np.ndarray:
    """Raw logits of rows, float32 [rows, outputs]. Distinct texts are encoded once, in length-sorted batches.

    Args:
        stored: folder of a frozen encoder's outputs: for a dual encoder whose own was never trained, they come from there.
    """
    if stored and isinstance(model, DualEncoder):
        outputs, _ = stored_outputs(model, texts, stored)
        with torch.inference_mode():
            prepared = [prepare_stored(model, one, field) for field, one in enumerate(outputs)]
            return combine_all(model, prepared, texts)
    if isinstance(model, Constant | TfIdf):
        return model.predict(texts)
    chosen = dtype_of(model) if dtype == "auto" else dtype
    fast = in_dtype(model, chosen)
    with torch.inference_mode():
        if isinstance(fast, CrossEncoder):
            logits = np.zeros((len(texts), len(fast.final_bias)), np.float32)
            for rows in progress.track(in_batches(fast.pair_lengths(texts), batch_tokens), what):
                logits[rows] = fast(*fast.batch(texts, rows)).float().numpy()
            return logits
        prepared = [
            prepare_all(fast, tokens, field, batch_tokens, what) for field, tokens in enumerate(texts.tokens)
        ]
        return combine_all(fast, prepared, texts)


def combine_all(model: Any, prepared: Sequence[Prepared], texts: Texts, chunk: int = 2048) -> np.ndarray:
    """Logits float32 [rows, outputs] of every row, from its texts' prepared tensors."""
    parts = np.array_split(np.arange(len(texts)), max(1, len(texts) // chunk))
    found = [
        model.combine(*(gather(p, texts.index[rows, f]) for f, p in enumerate(prepared))) for rows in parts
    ]
    return torch.cat(found).float().numpy()


def teacher_features(teacher: CrossEncoder, texts: Texts) -> np.ndarray:
    """What the teacher's last layer reads of each row, float32 [rows, width], centred and scaled to unit spread: targets of
    ``TrainConfig.match``."""
    fast = in_dtype(teacher, encoder_dtype("auto"))
    found = np.zeros((len(texts), teacher.output.in_features), np.float32)
    with torch.inference_mode():
        for rows in progress.track(in_batches(fast.pair_lengths(texts)), "teacher's features"):
            found[rows] = fast.features(*fast.batch(texts, rows)).float().numpy()
    found -= found.mean(axis=0)
    return found / max(float(found.std()), 1e-12)


def dtype_of(model: Model) -> str:
    """The dtype of the arithmetic that ``predict`` uses for a model, weights aside."""
    return encoder_dtype("auto") if hasattr(model, "encoder") else "float32"


def prepare_all(
    model: Any, tokens: Tokens, field: int, batch_tokens: int = BATCH_TOKENS, what: str = "encoding"
) -> Prepared:
    """Encode and prepare every text of a field, length-sorted; tensors [texts, ...] in the texts' own order."""
    batches = in_batches(tokens.lengths, batch_tokens)
    return prepare_batches(model, tokens, field, batches, progress.track(batches, what))


def prepare_batches(
    model: Any,
    tokens: Tokens,
    field: int,
    batches: list[np.ndarray],
    steps: Iterable[np.ndarray] | None = None,
) -> Prepared:
    """Encode and prepare texts batch by batch; tensors [texts, ...] in ascending order of the texts' positions.

    Args:
        batches: positions of texts. steps: the same batches behind a progress bar.
    """
    done = [model.prepare(model.encode(*tokens.take(rows), field), field) for rows in steps or batches]
    back = torch.from_numpy(np.argsort(np.concatenate(batches)))
    return tuple(torch.cat(parts)[back] for parts in zip(*done, strict=True))


# --- floors, starts -------------------------------------------------------------------------------------------------------------


def frozen_cosine(backbone: str, read_lengths: Sequence[int], train: Data, folder: Path) -> DualEncoder:
    """The floor for pairs: the cosine of the untrained encoder's means, with scale and shift fitted on the training labels."""
    keep = [0] * len(read_lengths)
    model = DualEncoder(backbone, read_lengths, keep, True, 0, "cosine", outputs=outputs_for(train.classes))
    stored, _ = stored_outputs(model, train.texts, folder)
    start_residual(model, stored, train, TrainConfig(loss="hard"))
    return model.eval()


def cosine_targets(
    backbone: str, read_lengths: Sequence[int], data: Data, folder: Path, spread: float = 2.0
) -> np.ndarray:
    """The untrained encoder's cosine of each pair as logits, float32 [rows, 1]: mean 0, this standard deviation. Needs no label.

    What a cross-encoder learns first when it is warmed up (not in the papers).
    """
    if len(data.texts.tokens) != 2 or data.classes > 2:
        raise ValueError(
            f"warm: a cosine is of two fields and one score, but the task has {len(data.texts.tokens)} fields and {data.classes} classes: "
            "leave warm at 0"
        )
    vectors = text_vectors(backbone, read_lengths, data.texts, folder)
    cosine = (vectors[0][data.texts.index[:, 0]] * vectors[1][data.texts.index[:, 1]]).sum(1, keepdims=True)
    return spread * (cosine - cosine.mean()) / max(float(cosine.std()), 1e-12)


def start_encoder(model: DualEncoder, start: str, teacher: CrossEncoder | None = None, seed: int = 0) -> None:
    """Where a student's encoder starts from: the ``pretrained`` backbone, the ``teacher``'s weights, or ``random`` ones (whose word-piece
    embeddings are trained, too: see ``trainable``). Sets ``model.start``, by which stored outputs are told apart."""
    if start not in STARTS:
        raise ValueError(f"start: expected one of {', '.join(STARTS)}, but got {start!r}")
    encoders = model.encoder if isinstance(model.encoder, nn.ModuleList) else [model.encoder]
    if start == "teacher":
        if teacher is None or teacher.settings["backbone"] != model.settings["backbone"]:
            raise ValueError(
                f"start teacher: expected a teacher of the backbone {model.settings['backbone']!r}, but its own is "
                f"{teacher.settings['backbone'] if teacher else None!r}"
            )
        weights = teacher.encoder.state_dict()
        for encoder in encoders:
            encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
        model.start = f"teacher {hash_of(*(w.numpy() for w in weights.values()))}"
    elif start == "random":
        torch.manual_seed(seed)
        for encoder in encoders:
            fresh = build_backbone(models.backbone.config_as_dict(encoder), layers=model.settings["layers"])
            encoder.load_state_dict(fresh.state_dict())
        model.start = f"random {seed}"


def start_residual(model: DualEncoder, stored: Sequence[Stored], data: Data, config: TrainConfig) -> None:
    """Where a head is or holds a cosine or MaxSim, start its scale and shift on the line that fits the targets best.

    With any other line the first thing a training would do is to bend the encoder towards the targets' mean and spread.
    """
    start: Any = next((m for m in model.head.modules() if isinstance(m, SimilarityHead)), None)
    if start is None:
        return
    some = np.random.default_rng(0).permutation(len(data.labels))[:20_000]
    distinct = [np.unique(data.texts.index[some, field], return_inverse=True) for field in range(len(stored))]
    with torch.no_grad():
        prepared = [
            prepare_stored(model, one, field, start, texts)
            for field, (one, (texts, _)) in enumerate(zip(stored, distinct, strict=True))
        ]
        parts = [rows for rows in np.array_split(np.arange(len(some)), max(1, len(some) // 2048))]
        places = [place for _, place in distinct]
        x = torch.cat(
            [
                start.similarity(*(gather(p, i[rows]) for p, i in zip(prepared, places, strict=True)))
                for rows in parts
            ]
        ).numpy()
    line: Any = LogisticRegression(C=100.0) if config.loss == "hard" and data.classes else LinearRegression()
    line.fit(x, data.labels[some] if config.loss == "hard" else data.teacher[some])  # type: ignore[index]
    with torch.no_grad():
        start.scale.copy_(torch.from_numpy(np.atleast_2d(line.coef_)))
        start.shift.copy_(torch.from_numpy(np.ravel(line.intercept_)))


def floors(
    task: Task, train: Data, backbone: str, read_lengths: Sequence[int], folder: Path
) -> dict[str, Model]:
    """The baselines that every suite holds, by display name: constant, TF-IDF (up to two fields), frozen cosine (pairs)."""
    classes = len(task.classes)
    found: dict[str, Model] = {"constant": Constant.fit(train.labels, classes)}
    if len(task.fields) <= 2:
        found["TF-IDF"] = TfIdf.fit(train.texts, train.labels, classes)
    if len(task.fields) == 2 and classes in (0, 2):
        found["frozen cosine"] = frozen_cosine(backbone, read_lengths, train, folder)
    return found


# --- what the teacher says of more rows ----------------------------------------------------------------------------------------


def part_of(frame: pd.DataFrame, share: float) -> np.ndarray:
    """Positions of about that share of rows, whole groups; a smaller share's rows are among a larger one's."""
    if not 0 < share <= 1:
        raise ValueError(f"share: expected more than 0 and at most 1, but got {share}")
    codes = np.unique(frame["group"], return_inverse=True)[1]
    place = np.random.default_rng(0).permutation(codes.max() + 1)[codes]
    order = np.argsort(place, kind="stable")
    wanted = max(1, round(share * len(frame)))
    return np.flatnonzero(place <= place[order[wanted - 1]])


def synthetic_logits(
    out: Path, teachers: Sequence[Result], task: Task, synthetic: pd.DataFrame
) -> np.ndarray:
    """The teachers' mean raw logits on synthetic or unlabelled rows, float32 [rows, outputs]; computed once per teacher and round and
    stored beside its others."""
    loaded = [loader_of(out, teacher) for teacher in teachers]
    parts = [np.zeros((0, outputs_for(len(task.classes))), np.float32)]
    for number, rows in synthetic.groupby("round", sort=False):
        compute = functools.partial(predict, what=f"teacher on synthetic rows, round {number + 1}")
        each = [
            stored_of_teacher(out, teacher, load, task, rows, "logits", compute)
            for teacher, load in zip(teachers, loaded, strict=True)
        ]
        parts.append(np.mean(each, axis=0))
    return np.concatenate(parts)


def loader_of(out: Path, teacher: Result) -> Callable[[], Any]:
    """Gives a run's model: loaded when first asked for, and once."""
    return functools.cache(lambda: models.load(row_folder(out, teacher.run_id) / "model"))


def matched_features(out: Path, teacher: Result, task: Task, rows: pd.DataFrame) -> np.ndarray:
    """``teacher_features`` of some rows, stored beside the teacher's logits."""
    return stored_of_teacher(out, teacher, loader_of(out, teacher), task, rows, "features", teacher_features)


def stored_of_teacher(
    out: Path,
    teacher: Result,
    load: Callable[[], CrossEncoder],
    task: Task,
    rows: pd.DataFrame,
    kind: str,
    compute: Callable[[CrossEncoder, Texts], np.ndarray],
) -> np.ndarray:
    """An array of a teacher for some rows: read where it was computed for the same texts before, else computed and stored."""
    digest = hash_of(*(text for field in task.fields for text in rows[field]))
    name = digest if kind == "logits" else f"{digest}.{kind}"
    path = teacher_file(out, teacher.run_id).with_suffix("") / f"{name}.npz"
    with locked(path):
        if not path.exists():
            model: Any = load()
            data = read_rows(task, rows.assign(label=0), models.tokenizer_of(model), model.read_lengths)
            save_teacher_logits(path, digest, {"train": compute(model, data.texts)})
        return load_teacher_logits(path, digest)["train"]


def text_vectors(backbone: str, read_lengths: Sequence[int], texts: Texts, folder: Path) -> list[np.ndarray]:
    """Unit vectors of each field's distinct texts, float32 [texts, width]: the frozen encoder's means. For building tiles."""
    model = DualEncoder(backbone, read_lengths, [0] * len(read_lengths), True, 0, "ffnn", (1,))
    stored, _ = stored_outputs(model, texts, folder)
    return [
        prepare_stored(model, one, f, SimilarityHead("cosine"))[0].numpy() for f, one in enumerate(stored)
    ]


def with_synthetic(
    frame: pd.DataFrame,
    logits: np.ndarray,
    synthetic: pd.DataFrame,
    made: np.ndarray,
    labels: str = "teacher",
) -> tuple[pd.DataFrame, np.ndarray]:
    """Original and synthetic rows together, and the teacher's logits of both.

    Args:
        frame, logits: the original rows. synthetic, made: from ``augment.synthesize`` and ``synthetic_logits``.
        labels: of synthetic or unlabelled rows: ``teacher`` takes the class it finds most likely (Tang et al. 2019, section 3.3; its
            score where labels are scores), ``source`` keeps the label of the row each was made of: no teacher is needed then.
    """
    if labels not in {"teacher", "source"}:
        raise ValueError(f"synthetic_labels: expected teacher or source, but got {labels!r}")
    columns = [c for c in frame.columns if c != "gain"]
    added = synthetic.reindex(columns=columns, fill_value=0)
    if labels == "teacher" and len(added):
        found = made[:, 0] if frame["label"].dtype.kind == "f" else quality.predicted_class(made)
        added["label"] = found.astype(frame["label"].dtype)
    # A round's rows of one group stay together, apart from the other rounds'.
    span = int(max(frame["group"].max(), synthetic["group"].max() if len(synthetic) else 0)) + 1
    added["group"] = added["group"].astype("int64") + span * (1 + synthetic["round"].astype("int64"))
    together = pd.concat([frame[columns], added.astype(frame[columns].dtypes)], ignore_index=True)
    return together, np.concatenate([logits, made])


def with_unlabelled(task: Task, path: str) -> pd.DataFrame:
    """A task's training rows and those of a file without labels (label 0, which nobody may read); without a path the former alone."""
    if not path:
        return task.train
    more = load_unlabelled(path, task)
    return with_synthetic(task.train, np.zeros((len(task.train), 1)), more, np.zeros((len(more), 1)))[0]


# --- pieces of a step -----------------------------------------------------------------------------------------------------------


def require_targets(data: Data, config: TrainConfig) -> None:
    """Raise if the loss needs what the data does not have."""
    if config.loss != "hard" and data.teacher is None:
        raise ValueError(
            f"loss {config.loss!r} needs teacher logits, but there are none: run 01_teacher first, or use loss 'hard'"
        )
    if config.loss in {"margin", "listwise"}:
        if data.teacher is not None and data.teacher.shape[1] != 1:
            raise ValueError(
                f"loss {config.loss!r} orders rows by one score, but this task has {data.teacher.shape[1]} outputs: use 'logits'"
            )
        if len(np.unique(data.groups)) == len(data.groups):
            raise ValueError(
                f"loss {config.loss!r} compares the rows of a group, but no two rows share one: name the `group` column"
            )
    if config.loss in {"soft", "kl"} and data.classes == 0:
        raise ValueError(
            f"loss {config.loss!r} compares probabilities of classes, but this task's labels are scores: use 'logits'"
        )
    if len(data.texts) == 0:
        raise ValueError("training: expected rows, but there are none")


def loss_of(logits: torch.Tensor, data: Data, rows: np.ndarray, config: TrainConfig) -> torch.Tensor:
    """alpha * hard + (1 - alpha) * distance to the teacher (Tang et al. 2019, equation 4); a mean over the rows."""
    alpha = 1.0 if config.loss == "hard" else config.alpha
    loss = torch.zeros(())
    if alpha > 0:
        loss = loss + alpha * hard_loss(logits, torch.from_numpy(np.asarray(data.labels[rows])), data.classes)
    if alpha < 1:
        assert data.teacher is not None
        teacher = torch.from_numpy(data.teacher[rows])
        if config.loss in {"margin", "listwise"}:
            distance = order_loss(logits, teacher, torch.from_numpy(data.groups[rows]), config)
        else:
            distance = soft_loss(logits, teacher, config)
        loss = loss + (1 - alpha) * distance
    return loss


def order_loss(
    logits: torch.Tensor, teacher: torch.Tensor, groups: torch.Tensor, config: TrainConfig
) -> torch.Tensor:
    """Distance to the teacher's order within groups; logits, teacher [rows, 1], groups [rows]. A group of one row says nothing: 0.

    ``margin``: mean over a group's pairs of rows of the squared difference of margins, which is twice the variance of the difference to the
    teacher; ``listwise``: KL of the softmax over the group's rows at a temperature. Each a mean over the groups of two rows or more.
    """
    place = torch.unique(groups, return_inverse=True)[1]
    count = torch.bincount(place).to(logits.dtype)
    several = (count > 1).to(logits.dtype)
    student, taught = logits[:, 0], teacher[:, 0]
    if config.loss == "margin":
        apart = student - taught
        mean = sums(apart, place, len(count)) / count
        each = 2 * sums((apart - mean[place]) ** 2, place, len(count)) / (count - 1).clamp(min=1)
    else:
        t = config.temperature
        target, found = (x / t - log_sums(x / t, place, len(count))[place] for x in (taught, student))
        each = t * t * sums(target.exp() * (target - found), place, len(count))
    return (each * several).sum() / several.sum().clamp(min=1)


def sums(values: torch.Tensor, place: torch.Tensor, n: int) -> torch.Tensor:
    """Sum of values [rows] per group [n]."""
    return torch.zeros(n, dtype=values.dtype).index_add(0, place, values)


def log_sums(values: torch.Tensor, place: torch.Tensor, n: int) -> torch.Tensor:
    """Log of the sum of exponentials of values [rows] per group [n]."""
    high = torch.full((n,), float("-inf")).scatter_reduce(0, place, values.detach(), "amax")
    return high + sums((values - high[place]).exp(), place, n).log()


def matcher_of(model: Any, data: Data, config: TrainConfig) -> nn.Module:
    """The linear map of ``TrainConfig.match`` from the head's features to the teacher's; without it, a module of no parameters."""
    if not config.match:
        return nn.Identity()
    if data.features is None or not hasattr(model, "features"):
        raise ValueError(
            "match: expected the teacher's features and a student whose head has features, but one is missing"
        )
    last = getattr(model.head, "head", model.head)
    if not hasattr(last, "last"):
        raise ValueError(
            "match: expected head ffnn or transformer: the cosine and MaxSim have no features to match"
        )
    return nn.Linear(last.last.in_features, data.features.shape[1])


def match_loss(
    features: torch.Tensor | None, data: Data, rows: np.ndarray, config: TrainConfig, matcher: nn.Module
) -> torch.Tensor:
    """Weighted MSE between the mapped features of a step's rows and the teacher's; 0 where nothing is matched."""
    if features is None or data.features is None:
        return torch.zeros(())
    return config.match * F.mse_loss(matcher(features), torch.from_numpy(data.features[rows]))


def soft_loss(logits: torch.Tensor, teacher: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Distance of logits [rows, outputs] to the teacher's: MSE on raw logits, or cross-entropy or KL of probabilities at a temperature.

    One logit is the log-odds of two classes: its probabilities are a sigmoid's.
    """
    if config.loss == "logits":
        return F.mse_loss(logits, teacher)
    t = config.temperature
    if logits.shape[1] == 1:  # [z] as log-odds is the same as the two logits [0, z]
        logits, teacher = F.pad(logits, (1, 0)), F.pad(teacher, (1, 0))
    target = F.softmax(teacher / t, dim=1)
    loss = F.cross_entropy(logits / t, target)
    if config.loss == "kl":
        loss = loss - torch.special.entr(target).sum(1).mean()
    return t * t * loss


def hard_loss(logits: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Cross-entropy on labels (of the log-odds for two classes), squared error on scores."""
    if classes == 0:
        return F.mse_loss(logits[:, 0], labels.float())
    if classes == 2:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    return F.cross_entropy(logits, labels)


def start_bias(model: Any, data: Data, config: TrainConfig, *, sample: int = 256) -> None:
    """For scores, shift the model so that the mean of its scores is that of its targets, on a sample of the rows: with a small learning
    rate it would take most of the run to get there. What is right already (after stage 1, or from the teacher's weights) stays."""
    if data.classes:
        return
    rows = np.unique(np.linspace(0, len(data.labels) - 1, sample).astype(np.int64))
    target = data.labels[rows] if config.loss == "hard" else data.teacher[rows]  # type: ignore[index]
    with torch.no_grad():
        found, _ = Step(model.eval())(data.texts, rows)
        model.final_bias.add_(float(np.mean(target)) - float(found.mean()))


def trainable(model: nn.Module, config: TrainConfig) -> list[nn.Parameter]:
    """All parameters that need gradients; a transformer's word-piece embeddings are switched off, unless they are random."""
    if hasattr(model, "encoder") and not getattr(model, "start", "").startswith("random"):
        encoder: Any = model.encoder
        several: Any = encoder if isinstance(encoder, nn.ModuleList) else [encoder]
        for one in several:
            one.get_input_embeddings().weight.requires_grad_(False)
    if isinstance(model, BiLSTM):
        model.trained.sparse = config.optimizer == "adadelta"  # AdamW takes dense gradients only
    return [p for p in model.parameters() if p.requires_grad]


def optimizer_of(parameters: list[nn.Parameter], config: TrainConfig, steps: int) -> tuple[Any, Any]:
    """The optimiser and its schedule: warm-up then linear decay for AdamW, constant for AdaDelta."""
    if config.optimizer == "adadelta":
        optimizer: Any = Adadelta(parameters, lr=config.learning_rate, rho=0.95)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    warm = max(1, round(config.warmup * steps))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, max(0.0, (steps - s) / max(1, steps - warm)))
    )


class Adadelta(torch.optim.Optimizer):
    """AdaDelta (Zeiler 2012) that also takes sparse gradients, with the same result as torch's on the dense ones.

    A word vector's row without a gradient only decays its two running means, by rho per step, and does not move. So a row's missed steps
    are made up, exactly, when it is met again: a step costs what the batch's words cost, not what the vocabulary costs.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 1.0, rho: float = 0.95, eps: float = 1e-6
    ) -> None:
        super().__init__(parameters, {"lr": lr, "rho": rho, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, group["lr"], group["rho"], group["eps"])

    def update(self, p: torch.Tensor, grad: torch.Tensor, lr: float, rho: float, eps: float) -> None:
        """Move one parameter, or the rows of it that a sparse gradient names."""
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["square"], state["moved"] = torch.zeros_like(p), torch.zeros_like(p)
            state["met"] = torch.zeros(len(p), dtype=torch.int64, device=p.device) if grad.is_sparse else None
        state["step"] += 1
        if not grad.is_sparse:
            state["square"].mul_(rho).addcmul_(grad, grad, value=1 - rho)
            delta = (state["moved"] + eps).sqrt_().div_((state["square"] + eps).sqrt_()).mul_(grad)
            state["moved"].mul_(rho).addcmul_(delta, delta, value=1 - rho)
            p.sub_(delta, alpha=lr)
            return
        grad = grad.coalesce()
        rows, g = grad.indices()[0], grad.values()
        missed = (state["step"] - 1 - state["met"][rows]).to(p.dtype)[:, None]
        state["met"][rows] = state["step"]
        square = state["square"][rows] * rho ** (missed + 1) + (1 - rho) * g * g
        moved = state["moved"][rows] * rho**missed
        delta = g * ((moved + eps) / (square + eps)).sqrt()
        state["square"][rows] = square
        state["moved"][rows] = rho * moved + (1 - rho) * delta * delta
        p.index_add_(0, rows, delta, alpha=-lr)


def epochs_of(model: Any, data: Data, config: TrainConfig) -> Iterator[list[np.ndarray]]:
    """The rows of each step, epoch by epoch: groups in random order, each once before any comes again.

    Texts of similar length come together for a cross-encoder and for single texts in a BiLSTM; else whole groups do.
    """
    random = np.random.default_rng(config.seed)
    members = np.split(
        np.argsort(data.groups, kind="stable"),
        np.flatnonzero(np.diff(np.sort(data.groups, kind="stable"))) + 1,
    )
    of_all = len(members) * (config.epoch_rows / len(data.groups) if config.epoch_rows else 1)
    of_batch = texts_per_row(data) if isinstance(model, DualEncoder) else np.ones(len(data.groups))
    left, queue = config.epochs, np.empty(0, np.int64)
    while left > 1e-9:
        wanted = max(1, round(min(1.0, left) * of_all))
        while len(queue) < wanted:
            queue = np.concatenate([queue, random.permutation(len(members))])
        rows = np.concatenate([members[i] for i in queue[:wanted]])
        queue = queue[wanted:] if config.epoch_rows else queue[:0]
        if isinstance(model, CrossEncoder):
            lengths = model.pair_lengths(data.texts)
            yield list(similar_lengths(lengths, random.permutation(rows), config.batch_size, random))
        elif isinstance(model, BiLSTM) and len(data.texts.tokens) == 1:
            lengths = data.texts.tokens[0].lengths[data.texts.index[:, 0]]
            yield list(similar_lengths(lengths, rows, config.batch_size, random))
        else:
            share = np.cumsum(of_batch[rows])
            yield np.split(
                rows,
                np.searchsorted(share, np.arange(config.batch_size, share[-1], config.batch_size) + 1e-6),
            )
        left -= 1


def texts_per_row(data: Data) -> np.ndarray:
    """float [rows]: how much of a batch's texts a row brings, where its group is encoded once: 1 where every row has a text of its own,
    1/m in a tile of m texts with n others."""
    codes = np.unique(data.groups, return_inverse=True)[1].astype(np.int64)
    size = np.bincount(codes)
    texts = np.ones(len(size), np.int64)
    for field in range(data.texts.index.shape[1]):
        span = int(data.texts.index[:, field].max()) + 1
        distinct = np.unique(codes * span + data.texts.index[:, field])
        texts = np.maximum(texts, np.bincount(distinct // span, minlength=len(size)))
    return (texts / size)[codes]


def similar_lengths(
    lengths: np.ndarray, rows: np.ndarray, batch_size: int, random: np.random.Generator, pool: int = 50
) -> Iterator[np.ndarray]:
    """Batches of similar length: sort within pools of batches, then shuffle each pool's. Else about 45 % of the slots would be padding."""
    for start in range(0, len(rows), batch_size * pool):
        part = rows[start : start + batch_size * pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        yield from (batches[i] for i in random.permutation(len(batches)))


class Step(nn.Module):
    """A model's forward pass from rows of texts to logits, as a module, so that its parameters can be swapped for shorter ones."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, texts: Texts, rows: np.ndarray, features: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [rows, outputs], and the head's features if asked; each distinct text of the batch is encoded once, beside others of
        about its length."""
        if isinstance(self.model, CrossEncoder):
            return self.model(*self.model.batch(texts, rows)), None
        prepared = []
        for field, tokens in enumerate(texts.tokens):
            distinct, place = np.unique(texts.index[rows, field], return_inverse=True)
            size = LSTM_SUB_BATCH if isinstance(self.model, BiLSTM) else SUB_BATCH
            batches = [distinct[part] for part in length_sorted(tokens.lengths[distinct], size)]
            prepared.append(gather(prepare_batches(self.model, tokens, field, batches), place))
        return self.model.combine(*prepared), self.model.features(*prepared) if features else None


def outputs_in(
    model: Any, texts: Texts, rows: np.ndarray, dtype: str, features: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """float32 logits (and the head's features) with the encoder's arithmetic in ``dtype`` and its weights, and their gradients, in float32.

    The encoder's parameters are cast for the pass; the cast is differentiable, so gradients arrive at the float32 ones. On two
    cores this is a third faster than autocast, which casts at each operation and keeps layer norms in float32.
    """
    step = Step(model)
    if dtype == "float32":
        return step(texts, rows, features)  # type: ignore[no-any-return]
    if not hasattr(model, "encoder"):  # an LSTM's kernel wants one dtype: autocast sees to that
        with torch.autocast("cpu", getattr(torch, dtype)):
            logits, _ = step(texts, rows)
            return logits.float(), None
    short = getattr(torch, dtype)
    cast = {
        f"model.{name}": p.to(short) for name, p in model.named_parameters() if name.startswith("encoder.")
    }
    logits, found = torch.func.functional_call(step, cast, (texts, rows, features))
    return logits.float(), None if found is None else found.float()


def gather(prepared: Prepared, places: np.ndarray) -> Prepared:
    """The prepared tensors of some texts, aligned with pairs."""
    index = torch.from_numpy(np.ascontiguousarray(places))
    return tuple(t[index] for t in prepared)


def smooth(running: float, value: float) -> float:
    """Exponential running mean. A loss that is not finite stops the training: it can only give wrong numbers."""
    if not np.isfinite(value):
        raise FloatingPointError(f"training diverged: the loss is {value}: lower the learning rate")
    return value if np.isnan(running) else 0.98 * running + 0.02 * value
