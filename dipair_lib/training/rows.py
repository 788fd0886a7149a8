"""Rows to learn from: texts in word pieces, labels, and what the teacher says of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dipair_lib.data.loading import load_unlabelled
from dipair_lib.data.task import Task
from dipair_lib.evaluation import metrics
from dipair_lib.evaluation.schema import Result
from dipair_lib.models import load_tokenizer
from dipair_lib.models.backbone import positions_of_backbone
from dipair_lib.models.folders import BackboneError
from dipair_lib.models.tokens import Texts, Tokenizer, read, tokenize, unknown_in

MOST_UNKNOWN = 0.2  # of a field's word pieces: from there on a model reads too little of the texts
MULTILINGUAL = "intfloat/multilingual-e5-small"


class TeacherError(ValueError):
    """Stored teacher logits that are missing, damaged, or of other data."""


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

    def first(self, n: int) -> Data:
        """The first n rows."""
        teacher = None if self.teacher is None else self.teacher[:n]
        return Data(self.texts.first(n), self.labels[:n], self.groups[:n], self.classes, teacher)


def read_splits(
    task: Task,
    tokenizer: Tokenizer | str,
    read_lengths: Sequence[int],
    teacher: dict[str, np.ndarray] | None = None,
) -> dict[str, Data]:
    """Tokenise a task's train, dev and test rows, with the teacher's logits beside them if there are any.

    Word pieces that the tokenizer does not know are counted by field, in the task's notes.

    Args:
        tokenizer: a backbone's name, or a tokenizer.
        read_lengths: word pieces (special ones included) or words read of each field.
        teacher: from ``load_teacher_logits``.

    Raises:
        BackboneError: a fifth of a field's word pieces or more are unknown.
    """
    name = tokenizer if isinstance(tokenizer, str) else "the model"
    tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    splits = {}
    for split in ("train", "dev", "test"):
        frame = getattr(task, split)
        logits = teacher[split] if teacher else None
        if logits is not None:
            check_teacher(task, split, frame, logits)
        splits[split] = read_rows(task, frame, tokenizer, read_lengths, logits)
    tell_unknown(task, name, tokenizer, [data.texts for data in splits.values()])
    return splits


def tell_unknown(task: Task, name: str, tokenizer: Tokenizer, splits: Sequence[Texts]) -> None:
    """Put the share of unknown word pieces of each field into the task's notes; warn from 1 % on, raise from
    ``MOST_UNKNOWN`` on.
    """
    shares = {}
    for number, field in enumerate(task.fields):
        unknown, every = np.sum([unknown_in(tokenizer, texts.tokens[number]) for texts in splits], axis=0)
        shares[field] = unknown / max(1, every)
        if shares[field] >= MOST_UNKNOWN:
            raise BackboneError(
                f"{task.name}: {shares[field]:.0%} of the word pieces of {field} are unknown to the tokenizer of {name}, as in "
                f"{splits[0].distinct[number][0]!r:.60}: name a backbone of the language, or one of many languages, such as "
                f"-p backbone={MULTILINGUAL}"
            )
    if any(shares.values()):
        said = ", ".join(f"{field} {share:.2%}" for field, share in shares.items())
        task.notes["word_pieces_unknown_to_the_tokenizer"] = said
        if max(shares.values()) >= 0.01:
            warnings.warn(
                f"{task.name}: word pieces unknown to the tokenizer of {name}: {said}", stacklevel=3
            )


def read_rows(
    task: Task,
    frame: pd.DataFrame,
    tokenizer: Tokenizer | str,
    read_lengths: Sequence[int],
    logits: np.ndarray | None = None,
) -> Data:
    """Tokenise some rows of a task (or synthetic ones), with the teacher's logits [rows, outputs] beside
    them.
    """
    tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    texts = read(tokenizer, frame, task.fields, read_lengths)
    return Data(texts, frame["label"].to_numpy(), frame["group"].to_numpy(), len(task.classes), logits)


def check_teacher(task: Task, split: str, frame: pd.DataFrame, logits: np.ndarray) -> None:
    """Raise unless the teacher's logits are of as many rows and of the same labels as the student is to
    learn.
    """
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
    task: Task, tokenizer: Tokenizer | str, asked: Sequence[int] = (), most: int = 128, sample: int = 2000
) -> list[int]:
    """Word pieces (or words) to read of each field: as asked (one number is for all), or enough to read 95 %
    of the texts whole; then no more of all fields together than the backbone has positions, which the task's
    notes say.

    Args:
        tokenizer: a backbone's name, or a tokenizer.
        most: upper limit.
        sample: texts looked at.
    """
    if asked:
        asked = list(asked) * len(task.fields) if len(asked) == 1 else asked
        if len(asked) != len(task.fields):
            raise ValueError(
                f"read_lengths: expected one number for each field {list(task.fields)}, but got {list(asked)}"
            )
        return [int(n) for n in asked]
    name = tokenizer if isinstance(tokenizer, str) else ""
    tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    frame = task.train.sample(min(sample, len(task.train)), random_state=0)
    wanted = [  # 3 is the least that `tokenize` takes; texts of two words are read whole with it too
        max(3, int(np.ceil(np.quantile(tokenize(tokenizer, frame[f].tolist(), most).lengths, 0.95))))
        for f in task.fields
    ]
    positions = positions_of_backbone(name) if name else 0
    found = fitted(wanted, positions) if positions else wanted
    if found != wanted:
        task.notes["read_lengths"] = (
            f"{'+'.join(map(str, found))} word pieces in place of {'+'.join(map(str, wanted))}: {name} has {positions} positions"
        )
        warnings.warn(f"{task.name}: reads {task.notes['read_lengths']}", stacklevel=2)
    return found


def fitted(lengths: Sequence[int], positions: int) -> list[int]:
    """Read lengths of fields that joined, one [CLS] in front, fit into so many positions: the longest give
    way.
    """
    lengths = list(lengths)
    while sum(lengths) - len(lengths) + 1 > positions and max(lengths) > 3:
        lengths[lengths.index(max(lengths))] -= 1
    return lengths


def lengths_of(row: Result) -> list[int]:
    """The read lengths of a row, as numbers: "16+32" -> [16, 32]."""
    return [int(n) for n in (row.read_lengths or "").split("+") if n]


def outputs_for(classes: int) -> int:
    """Logits per row: one for a score and for two classes (the log-odds), else one per class."""
    return 1 if classes in (0, 2) else classes


def some(data: Data, n: int) -> Data:
    """At most n rows, spread evenly over all, and the texts they need."""
    if len(data.labels) <= n:
        return data
    rows = np.linspace(0, len(data.labels) - 1, n).astype(np.int64)
    index, tokens, distinct = [], [], []
    for field, every in enumerate(data.texts.tokens):
        which, place = np.unique(data.texts.index[rows, field], return_inverse=True)
        index.append(place)
        tokens.append(every.select(which))
        distinct.append([data.texts.distinct[field][i] for i in which])
    texts = Texts(tuple(tokens), np.stack(index, axis=1), tuple(distinct))
    teacher = None if data.teacher is None else data.teacher[rows]
    return Data(texts, data.labels[rows], data.groups[rows], data.classes, teacher)


def part_of(frame: pd.DataFrame, share: float) -> np.ndarray:
    """Positions of about that share of rows, whole groups; a smaller share's rows are among a larger one's."""
    if not 0 < share <= 1:
        raise ValueError(f"share: expected more than 0 and at most 1, but got {share}")
    codes = np.unique(frame["group"], return_inverse=True)[1]
    place = np.random.default_rng(0).permutation(codes.max() + 1)[codes]
    order = np.argsort(place, kind="stable")
    wanted = max(1, round(share * len(frame)))
    return np.flatnonzero(place <= place[order[wanted - 1]])


def with_synthetic(
    frame: pd.DataFrame,
    logits: np.ndarray,
    synthetic: pd.DataFrame,
    made: np.ndarray,
    labels: str = "teacher",
) -> tuple[pd.DataFrame, np.ndarray]:
    """Original and synthetic rows together, and the teacher's logits of both.

    Args:
        frame, logits: the original rows.
        synthetic, made: from ``augmentation.synthesize`` and ``synthetic_logits``.
        labels: of synthetic or unlabelled rows: ``teacher`` takes the class it finds most likely (Tang et al.
            2019, section 3.3; its score where labels are scores), ``source`` keeps the label of the row each
            was made of: no teacher is needed then.
    """
    if labels not in {"teacher", "source"}:
        raise ValueError(f"synthetic_labels: expected teacher or source, but got {labels!r}")
    columns = [c for c in frame.columns if c != "gain"]
    added = synthetic.reindex(columns=columns, fill_value=0)
    if labels == "teacher" and len(added):
        found = made[:, 0] if frame["label"].dtype.kind == "f" else metrics.predicted_class(made)
        added["label"] = found.astype(frame["label"].dtype)
    # A round's rows of one group stay together, apart from the other rounds'.
    span = int(max(frame["group"].max(), synthetic["group"].max() if len(synthetic) else 0)) + 1
    added["group"] = added["group"].astype("int64") + span * (1 + synthetic["round"].astype("int64"))
    together = pd.concat([frame[columns], added.astype(frame[columns].dtypes)], ignore_index=True)
    return together, np.concatenate([logits, made])


def with_unlabelled(task: Task, path: str) -> pd.DataFrame:
    """A task's training rows and those of a file without labels (label 0, which nobody may read); without a
    path the former alone.
    """
    if not path:
        return task.train
    more = load_unlabelled(path, task)
    return with_synthetic(task.train, np.zeros((len(task.train), 1)), more, np.zeros((len(more), 1)))[0]
