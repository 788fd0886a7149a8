"""Training: the teacher, its stored logits, the losses, and the two stages of a student.

What is expensive is done once: each distinct text of a batch is encoded once, the outputs of a frozen encoder are stored and shared by
every head that is trained on them, the teacher's logits are computed once per (teacher, data, read lengths, dtype).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn
from torch.nn import functional as F

from . import progress, quality
from .models import Constant, CrossEncoder, DualEncoder, Model, TfIdf, load_tokenizer
from .models.heads import CosineHead, Prepared
from .models.tokens import Texts, Tokens, length_sorted, read, tokenize
from .results import Result
from .tasks import Task

LOSSES = ("hard", "logits", "mixed")
SUB_BATCH = 32  # texts encoded together within a training step: few enough to be of like length, enough to fill a core


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run.

    Attributes:
        learning_rate: peak, after a linear warm-up; it falls linearly to 0.
        batch_size: pairs per step.
        epochs: passes over the rows. A fraction (0.5) reads that part of the groups.
        loss: ``hard`` (labels), ``logits`` (MSE to the teacher's raw logits: Tang et al. 2019, section 3.3, found it best), or ``mixed``.
        alpha: weight of the hard loss in ``mixed``: alpha * CE + (1 - alpha) * MSE.
        optimizer: ``adamw``, or ``adadelta`` (Tang et al.: learning rate 1.0, rho 0.95, no warm-up).
        warmup: share of the steps. weight_decay: of adamw.
        dtype: of the encoder's arithmetic: ``auto`` takes what is fastest on this machine (weights stay float32).
        seed: of initialisation and order.
    """

    learning_rate: float = 1e-4
    batch_size: int = 32
    epochs: float = 1
    loss: str = "logits"
    alpha: float = 0.0
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
        for name in ("learning_rate", "batch_size", "epochs"):
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
    """

    texts: Texts
    labels: np.ndarray
    groups: np.ndarray
    classes: int
    teacher: np.ndarray | None = None


def read_splits(
    task: Task, backbone: str, read_lengths: Sequence[int], teacher: dict[str, np.ndarray] | None = None
) -> dict[str, Data]:
    """Tokenise a task's train, dev and test rows for a backbone, with the teacher's logits beside them if there are any.

    Args:
        read_lengths: word pieces read of each field, [CLS] and [SEP] included.
        teacher: from ``load_teacher_logits``.
    """
    tokenizer = load_tokenizer(backbone)
    splits = {}
    for split in ("train", "dev", "test"):
        frame = getattr(task, split)
        texts = read(tokenizer, frame, task.fields, read_lengths)
        logits = teacher[split] if teacher else None
        if logits is not None and len(logits) != len(frame):
            raise TeacherError(
                f"teacher logits of {split}: expected {len(frame)} rows, but got {len(logits)}: run 01_teacher again"
            )
        splits[split] = Data(
            texts, frame["label"].to_numpy(), frame["group"].to_numpy(), len(task.classes), logits
        )
    return splits


def choose_read_lengths(
    task: Task, backbone: str, asked: Sequence[int] = (), most: int = 128, sample: int = 2000
) -> list[int]:
    """Word pieces to read of each field: as asked (one number is for all), or enough to read 95 % of the texts whole, at most ``most``."""
    if asked:
        asked = list(asked) * len(task.fields) if len(asked) == 1 else asked
        if len(asked) != len(task.fields):
            raise ValueError(
                f"read_lengths: expected one number for each field {list(task.fields)}, but got {list(asked)}"
            )
        return [int(n) for n in asked]
    tokenizer = load_tokenizer(backbone)
    frame = task.train.sample(min(sample, len(task.train)), random_state=0)
    return [
        int(np.ceil(np.quantile(tokenize(tokenizer, frame[f].tolist(), most).lengths, 0.95)))
        for f in task.fields
    ]


def lengths_of(row: Result) -> list[int]:
    """The read lengths of a row, as numbers: "16+32" -> [16, 32]."""
    return [int(n) for n in (row.read_lengths or "").split("+") if n]


def vocabulary_of(texts: Texts) -> list[int]:
    """The word pieces that occur in any field, sorted."""
    return np.unique(np.concatenate([t.ids for t in texts.tokens])).tolist()  # type: ignore[no-any-return]


def training_fields(config: TrainConfig, *fits: Fitted | None) -> dict[str, Any]:
    """The training group of a row: loss, alpha, and steps and seconds over all stages (a stage not run is None)."""
    done = [fit for fit in fits if fit]
    return {
        "loss": config.loss,
        "alpha": {"hard": 1.0, "logits": 0.0, "mixed": config.alpha}[config.loss],
        "steps": sum(fit.steps for fit in done),
        "train_seconds": sum(fit.seconds for fit in done),
        "stages": "+".join(str(number) for number, fit in enumerate(fits, 1) if fit)
        if len(fits) > 1
        else None,
    }


@dataclass(frozen=True)
class Fitted:
    """What a training cost and where it ended: optimiser steps, seconds of wall clock, last running loss, dtype of the encoder."""

    steps: int
    seconds: float
    loss: float
    dtype: str


def outputs_for(classes: int) -> int:
    """Logits per row: one for a score and for two classes (the log-odds), else one per class."""
    return 1 if classes in (0, 2) else classes


def fit(model: Any, data: Data, config: TrainConfig, *, what: str = "training") -> Fitted:
    """Train a network on rows, all of its parameters except the word-piece embeddings of a transformer (they are half of MiniLM's
    weights, most rows get no gradient in a short run, and updating them costs a tenth of each step).

    Ctrl-C during training raises KeyboardInterrupt after the weights reached so far were left in ``model``.
    """
    require_targets(data, config)
    torch.manual_seed(config.seed)
    dtype = encoder_dtype(config.dtype)
    parameters = trainable(model)
    start_bias(model, data, config)
    batches = list(batches_of(model, data, config))
    optimizer, schedule = optimizer_of(parameters, config, len(batches))
    begun, running = time.perf_counter(), float("nan")
    model.train()
    for rows in progress.track(batches, what):
        logits = logits_in(model, data.texts, rows, dtype)
        loss = loss_of(logits, data, rows, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        running = smooth(running, float(loss.detach()))
    model.eval()
    return Fitted(len(batches), time.perf_counter() - begun, running, dtype)


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
    start_bias(model, data, config)
    start_cosine(model, stored, data, config)
    batches = list(batches_of(model, data, config))
    optimizer, schedule = optimizer_of(parameters, config, len(batches))
    begun, running = time.perf_counter(), float("nan")
    model.train()
    for rows in progress.track(batches, what):
        prepared = []
        for field, one in enumerate(stored):
            distinct, place = np.unique(data.texts.index[rows, field], return_inverse=True)
            read_to = None if model.pooled else model.keep[field]
            cut = model.cut(one.hidden[distinct, :read_to].float(), one.mask[distinct, :read_to], field)
            prepared.append(gather(model.prepare(model.project(*cut), field), place))
        loss = loss_of(model.combine(*prepared), data, rows, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        running = smooth(running, float(loss.detach()))
    model.eval()
    return Fitted(
        len(batches), time.perf_counter() - begun, running, str(stored[0].hidden.dtype).removeprefix("torch.")
    )


def choose_learning_rate(
    build: Callable[[], Any],
    data: Data,
    dev: Data,
    metric: str,
    config: TrainConfig,
    rates: Sequence[float],
    share: float = 0.15,
) -> tuple[float, dict[float, float | None]]:
    """The learning rate that is best on dev after a share of an epoch (one rate is returned as it is, untried).

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
        )
        tried[rate] = quality.evaluate([metric], dev.labels, predict(model, dev.texts, what="dev"))[metric]
    return max(tried, key=lambda rate: (tried[rate] if tried[rate] is not None else -np.inf, -rate)), tried


def predict(
    model: Model, texts: Texts, *, dtype: str = "auto", batch_size: int = 64, what: str = "scoring"
) -> np.ndarray:
    """Raw logits of rows, float32 [rows, outputs]. Distinct texts are encoded once, in length-sorted batches."""
    if isinstance(model, Constant | TfIdf):
        return model.predict(texts)
    chosen = encoder_dtype(dtype) if hasattr(model, "encoder") else "float32"
    fast = in_dtype(model, chosen)
    with torch.inference_mode():
        if isinstance(fast, CrossEncoder):
            logits = np.zeros((len(texts), len(fast.final_bias)), np.float32)
            for rows in progress.track(length_sorted(fast.pair_lengths(texts), batch_size), what):
                logits[rows] = fast(*fast.batch(texts, rows)).float().numpy()
            return logits
        prepared = [
            prepare_all(fast, tokens, field, batch_size, what) for field, tokens in enumerate(texts.tokens)
        ]
        parts = np.array_split(np.arange(len(texts)), max(1, len(texts) // 2048))
        return np.concatenate(
            [
                fast.combine(*(gather(p, texts.index[rows, f]) for f, p in enumerate(prepared)))
                .float()
                .numpy()
                for rows in parts
            ]
        )


def prepare_all(
    model: Any, tokens: Tokens, field: int, batch_size: int = 64, what: str = "encoding"
) -> Prepared:
    """Encode and prepare every text of a field, length-sorted; tensors [texts, ...] in the texts' own order."""
    batches = length_sorted(tokens.lengths, batch_size)
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


# --- the frozen encoder's outputs, stored ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """Outputs of a frozen encoder for a field's distinct texts: hidden [texts, tokens, width] in half precision, mask [texts, tokens]."""

    hidden: torch.Tensor
    mask: torch.Tensor


def stored_outputs(
    model: DualEncoder, texts: Texts, folder: Path, *, batch_size: int = 64
) -> tuple[list[Stored], dict[str, int]]:
    """The encoder's outputs for the distinct texts of each field, read from ``folder`` where they were computed before.

    Files are named by a hash of the backbone, its depth and the word pieces, so another backbone or text never meets them.

    Returns:
        One ``Stored`` per field, and counts: ``encoded`` and ``from_store`` texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = encoder_dtype("auto")
    fast = in_dtype(model, dtype)
    counts = {"encoded": 0, "from_store": 0}
    stored = []
    for tokens, length in zip(texts.tokens, model.read_lengths, strict=True):
        name = f"{hash_of(model.settings['backbone'], model.settings['layers'], length, dtype, tokens.ids, tokens.offsets)}.npy"
        path = folder / name
        with FileLock(str(path) + ".lock"):
            if path.exists():
                counts["from_store"] += len(tokens)
            else:
                write_outputs(fast, tokens, length, path, batch_size)
                counts["encoded"] += len(tokens)
        hidden = torch.from_numpy(np.load(path, mmap_mode="c"))
        mask = torch.arange(length)[None, :] < torch.from_numpy(tokens.lengths)[:, None]
        if hidden.shape[:2] != mask.shape:
            raise ValueError(
                f"{path}: expected shape {list(mask.shape)}, but got {list(hidden.shape[:2])}: delete the file and run again"
            )
        stored.append(Stored(hidden, mask))
    return stored, counts


def write_outputs(model: DualEncoder, tokens: Tokens, length: int, path: Path, batch_size: int) -> None:
    """Encode every text and write float16 [texts, length, width] to a temporary name, then rename; the caller holds the file's lock."""
    for left in path.parent.glob(f"{path.stem}.*.tmp"):  # by a run that was killed while it wrote
        left.unlink()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    width = model.encoder.config.hidden_size
    try:
        out = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float16, shape=(len(tokens), length, width)
        )
        with torch.inference_mode():
            for rows in progress.track(length_sorted(tokens.lengths, batch_size), "encoding once"):
                ids, mask = tokens.take(rows)
                out[rows, : ids.shape[1]] = (model.outputs_of(ids, mask) * mask[..., None]).half().numpy()
        out.flush()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def hash_of(*parts: Any) -> str:
    """A short hash of names and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part).encode())
    return digest.hexdigest()[:16]


def frozen_cosine(backbone: str, read_lengths: Sequence[int], train: Data, folder: Path) -> DualEncoder:
    """The floor for pairs: the cosine of the untrained encoder's means, with scale and shift fitted on the training labels."""
    keep = [0] * len(read_lengths)
    model = DualEncoder(backbone, read_lengths, keep, True, 0, "cosine", outputs=outputs_for(train.classes))
    stored, _ = stored_outputs(model, train.texts, folder)
    start_cosine(model, stored, train, TrainConfig(loss="hard"))
    return model.eval()


def start_cosine(model: DualEncoder, stored: Sequence[Stored], data: Data, config: TrainConfig) -> None:
    """Where a head holds a cosine, start its scale and shift on the line that fits the targets best.

    With any other line the first thing a training would do is to bend the encoder towards the targets' mean and spread.
    """
    cosine = next((m for m in model.head.modules() if isinstance(m, CosineHead)), None)
    if cosine is None:
        return
    places = data.texts.index
    unit = [prepare_stored(model, s, f, cosine)[0][places[:, f]] for f, s in enumerate(stored)]
    x = (unit[0] * unit[1]).sum(1, keepdim=True).numpy()
    line: Any = LogisticRegression(C=100.0) if config.loss == "hard" and data.classes else LinearRegression()
    line.fit(x, data.labels if config.loss == "hard" else data.teacher)
    with torch.no_grad():
        cosine.scale.copy_(torch.from_numpy(np.ravel(line.coef_)))
        cosine.shift.copy_(torch.from_numpy(np.ravel(line.intercept_)))


def prepare_stored(
    model: DualEncoder, stored: Stored, field: int, head: Any = None, chunk: int = 1024
) -> Prepared:
    """Prepare every text of a field from its stored outputs, for the model's head or a part of it: tensors [texts, ...]."""
    head = head or model.head
    parts = []
    with torch.no_grad():
        for start in range(0, len(stored.hidden), chunk):
            mask = stored.mask[start : start + chunk]
            cut = model.cut(stored.hidden[start : start + chunk].float(), mask, field)
            parts.append(head.prepare(model.project(*cut), field))
    return tuple(torch.cat(p) for p in zip(*parts, strict=True))


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


# --- the teacher's logits, stored -----------------------------------------------------------------------------------------------


class TeacherError(ValueError):
    """Stored teacher logits that are missing, damaged, or of other data."""


def teacher_file(out: Path, run_id: str) -> Path:
    """Where the logits of a teacher's run are stored."""
    return Path(out) / "teacher" / f"{run_id}.npz"


def store_teacher_logits(path: Path, fingerprint: str, logits: dict[str, np.ndarray]) -> Path:
    """Write the teacher's raw logits of each split, float32 [rows, outputs], with the fingerprint of the data they belong to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            arrays: dict[str, Any] = {k: np.asarray(v, np.float32) for k, v in logits.items()}
            np.savez(file, fingerprint=np.array(fingerprint), **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_teacher_logits(path: Path, fingerprint: str) -> dict[str, np.ndarray]:
    """Stored logits per split.

    Raises:
        TeacherError: no such file, not a whole file, or logits of other data.
    """
    if not path.exists():
        raise TeacherError(
            f"{path}: no stored teacher logits: run 01_teacher with the same `out` and task first"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            logits = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise TeacherError(f"{path}: damaged ({error}): run 01_teacher again") from None
    except Exception as error:  # zipfile.BadZipFile and zlib.error share no base class
        raise TeacherError(
            f"{path}: damaged ({type(error).__name__}: {error}): run 01_teacher again"
        ) from None
    found = str(logits.pop("fingerprint", ""))
    if found != fingerprint:
        raise TeacherError(
            f"{path}: logits of other data (expected fingerprint {fingerprint[:12]}, but got {found[:12]}): run 01_teacher again"
        )
    return logits


# --- pieces of a step -----------------------------------------------------------------------------------------------------------


def require_targets(data: Data, config: TrainConfig) -> None:
    """Raise if the loss needs what the data does not have."""
    if config.loss != "hard" and data.teacher is None:
        raise ValueError(
            f"loss {config.loss!r} needs teacher logits, but there are none: run 01_teacher first, or use loss 'hard'"
        )
    if len(data.texts) == 0:
        raise ValueError("training: expected rows, but there are none")


def loss_of(logits: torch.Tensor, data: Data, rows: np.ndarray, config: TrainConfig) -> torch.Tensor:
    """alpha * hard + (1 - alpha) * MSE on raw logits (Tang et al. 2019, equation 4); a mean over the rows."""
    alpha = {"hard": 1.0, "logits": 0.0, "mixed": config.alpha}[config.loss]
    loss = torch.zeros(())
    if alpha > 0:
        loss = loss + alpha * hard_loss(logits, torch.from_numpy(np.asarray(data.labels[rows])), data.classes)
    if alpha < 1:
        assert data.teacher is not None
        loss = loss + (1 - alpha) * F.mse_loss(logits, torch.from_numpy(data.teacher[rows]))
    return loss


def hard_loss(logits: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Cross-entropy on labels (of the log-odds for two classes), squared error on scores."""
    if classes == 0:
        return F.mse_loss(logits[:, 0], labels.float())
    if classes == 2:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    return F.cross_entropy(logits, labels)


def start_bias(model: Any, data: Data, config: TrainConfig) -> None:
    """For scores, start the model's shift at the mean target: with a small learning rate it would take most of the run to get there."""
    if data.classes == 0:
        target = data.labels.mean() if config.loss == "hard" else data.teacher.mean()  # type: ignore[union-attr]
        with torch.no_grad():
            model.final_bias.fill_(float(target))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """All parameters that need gradients; a transformer's word-piece embeddings are switched off."""
    if hasattr(model, "encoder"):
        model.encoder.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[operator, union-attr]
    return [p for p in model.parameters() if p.requires_grad]


def optimizer_of(parameters: list[nn.Parameter], config: TrainConfig, steps: int) -> tuple[Any, Any]:
    """The optimiser and its schedule: warm-up then linear decay for AdamW, constant for AdaDelta."""
    if config.optimizer == "adadelta":
        optimizer: Any = torch.optim.Adadelta(parameters, lr=config.learning_rate, rho=0.95)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    warm = max(1, round(config.warmup * steps))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, max(0.0, (steps - s) / max(1, steps - warm)))
    )


def batches_of(model: Any, data: Data, config: TrainConfig) -> Iterator[np.ndarray]:
    """Rows of each step: groups in random order; pairs of similar length together for a cross-encoder, whole groups together otherwise."""
    random = np.random.default_rng(config.seed)
    members = np.split(
        np.argsort(data.groups, kind="stable"),
        np.flatnonzero(np.diff(np.sort(data.groups, kind="stable"))) + 1,
    )
    left = config.epochs
    while left > 1e-9:
        order = random.permutation(len(members))[: max(1, round(min(1.0, left) * len(members)))]
        rows = np.concatenate([members[i] for i in order])
        if isinstance(model, CrossEncoder):
            yield from similar_lengths(
                model.pair_lengths(data.texts), random.permutation(rows), config.batch_size, random
            )
        else:
            yield from (rows[i : i + config.batch_size] for i in range(0, len(rows), config.batch_size))
        left -= 1


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

    def forward(self, texts: Texts, rows: np.ndarray) -> torch.Tensor:
        """Logits [rows, outputs]; each distinct text of the batch is encoded once, beside others of about its length."""
        if isinstance(self.model, CrossEncoder):
            return self.model(*self.model.batch(texts, rows))
        prepared = []
        for field, tokens in enumerate(texts.tokens):
            distinct, place = np.unique(texts.index[rows, field], return_inverse=True)
            batches = [distinct[part] for part in length_sorted(tokens.lengths[distinct], SUB_BATCH)]
            prepared.append(gather(prepare_batches(self.model, tokens, field, batches), place))
        return self.model.combine(*prepared)


def logits_in(model: Any, texts: Texts, rows: np.ndarray, dtype: str) -> torch.Tensor:
    """float32 logits with the encoder's arithmetic in ``dtype`` and its weights, and their gradients, in float32.

    The encoder's parameters are cast for the pass; the cast is differentiable, so gradients arrive at the float32 ones. On two
    cores this is a third faster than autocast, which casts at each operation and keeps layer norms in float32.
    """
    step = Step(model)
    if dtype == "float32":
        return step(texts, rows)
    if not hasattr(
        model, "encoder"
    ):  # an LSTM's kernel wants input and weights in one dtype: autocast sees to that
        with torch.autocast("cpu", getattr(torch, dtype)):
            return step(texts, rows).float()
    short = getattr(torch, dtype)
    cast = {
        f"model.{name}": p.to(short) for name, p in model.named_parameters() if name.startswith("encoder.")
    }
    return torch.func.functional_call(step, cast, (texts, rows)).float()


def gather(prepared: Prepared, places: np.ndarray) -> Prepared:
    """The prepared tensors of some texts, aligned with pairs."""
    index = torch.from_numpy(np.ascontiguousarray(places))
    return tuple(t[index] for t in prepared)


def in_dtype(model: Any, dtype: str) -> Any:
    """The model with its encoder in another dtype, a copy; the model itself in float32."""
    if dtype == "float32":
        return model.eval()
    fast = copy.copy(model)
    fast._modules = dict(model._modules)
    fast.encoder = copy.deepcopy(model.encoder).to(getattr(torch, dtype))
    return fast.eval()


def smooth(running: float, value: float) -> float:
    """Exponential running mean. A loss that is not finite stops the training: it can only give wrong numbers."""
    if not np.isfinite(value):
        raise FloatingPointError(f"training diverged: the loss is {value}: lower the learning rate")
    return value if np.isnan(running) else 0.98 * running + 0.02 * value


_PROBED: dict[str, str] = {}


def encoder_dtype(asked: str = "auto") -> str:
    """``float32`` or ``bfloat16``: what was asked for, or for ``auto`` the one whose matrix product is faster on this machine.

    The probe takes some milliseconds, once per process. Only chips with bfloat16 arithmetic gain; elsewhere it is several times slower.
    """
    if asked != "auto":
        if asked not in {"float32", "bfloat16"}:
            raise ValueError(f"dtype: expected auto, float32 or bfloat16, but got {asked!r}")
        return asked
    if not _PROBED:
        times = {name: product_seconds(getattr(torch, name)) for name in ("float32", "bfloat16")}
        _PROBED["auto"] = "bfloat16" if times["bfloat16"] * 1.5 < times["float32"] else "float32"
    return _PROBED["auto"]


def product_seconds(dtype: torch.dtype, size: int = 512) -> float:
    """Best of five matrix products."""
    a = torch.randn(size, size).to(dtype)
    times = []
    for _ in range(6):
        begun = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begun)
    return min(times[1:])
