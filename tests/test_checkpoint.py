"""A training that is stopped and begun again ends at the very weights of one that was not."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import models, training
from dipair_lib.models import words
from dipair_lib.system import progress
from dipair_lib.training import Data, TrainConfig, checkpoint, loop
from dipair_lib.training.checkpoint import CheckpointError

LENGTHS = [10, 12]
PLAIN = TrainConfig(epochs=3, batch_size=16, dtype="float32", learning_rate=1e-3)


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """As in a terminal: a shell starts what runs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def rows(tiny_backbone: str, pairs: pd.DataFrame) -> Data:
    task: Any = SimpleNamespace(fields=("query", "passage"), classes=("0", "1"))
    data = training.read_rows(task, pairs, tiny_backbone, LENGTHS)
    random = np.random.default_rng(0)
    return replace(
        data,
        teacher=random.normal(size=(len(pairs), 1)).astype(np.float32),
    )


def student(backbone: str) -> Any:
    torch.manual_seed(5)
    return models.DualEncoder(backbone, LENGTHS, [2, 2], False, 8, "ffnn", [8])


def teacher(backbone: str) -> Any:
    torch.manual_seed(5)
    return models.CrossEncoder(backbone, LENGTHS)


def at_step(number: int, do: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call something within the n-th step from now on."""
    plain, calls = training.smooth, []

    def smooth(running: float, value: float) -> float:
        calls.append(value)
        if len(calls) == number:
            do()
        return plain(running, value)

    monkeypatch.setattr(loop, "smooth", smooth)


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


CASES = {
    "student": (student, PLAIN),
    "cross-encoder with dropout": (teacher, replace(PLAIN, loss="hard")),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [1, 11, 17])
def test_interrupted_and_begun_again_it_ends_the_same(
    name: str, step: int, tiny_backbone: str, rows: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, config = CASES[name]
    whole = build(tiny_backbone)
    expected = training.fit(whole, rows, config, dev=rows, metric="auc")
    at_step(step, lambda: signal.raise_signal(signal.SIGINT), monkeypatch)
    with pytest.raises(progress.Stopped, match=f"stopped after step {step} of .* Run this cell again"):
        training.fit(build(tiny_backbone), rows, config, dev=rows, metric="auc", checkpoint_dir=tmp_path)
    again = build(tiny_backbone)
    found = training.fit(again, rows, config, dev=rows, metric="auc", checkpoint_dir=tmp_path)
    assert same(whole, again)
    assert (found.steps, found.loss, found.dev) == (expected.steps, expected.loss, expected.dev)


def test_a_bilstm_and_its_adadelta_go_on_too(
    pairs: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = words.vocabulary_of(text for field in ("query", "passage") for text in pairs[field])
    table = np.random.default_rng(0).normal(size=(len(vocabulary), 5)).astype(np.float32)
    task: Any = SimpleNamespace(fields=("query", "passage"), classes=("0", "1"))
    data = training.read_rows(task, pairs, models.WordTokenizer(vocabulary), LENGTHS)
    config = TrainConfig(optimizer="adadelta", learning_rate=1.0, epochs=3, batch_size=16, loss="hard")

    def build() -> Any:
        torch.manual_seed(1)
        return models.BiLSTM(vocabulary, LENGTHS, 5, 4, 6, 1, torch.from_numpy(table))

    whole, again = build(), build()
    training.fit(whole, data, config, dev=data, metric="auc")
    at_step(9, lambda: signal.raise_signal(signal.SIGINT), monkeypatch)
    with pytest.raises(progress.Stopped):
        training.fit(build(), data, config, dev=data, metric="auc", checkpoint_dir=tmp_path)
    training.fit(again, data, config, dev=data, metric="auc", checkpoint_dir=tmp_path)
    assert same(whole, again)


def test_what_dies_without_a_word_goes_on_from_the_last_file(
    tiny_backbone: str, rows: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, again = student(tiny_backbone), student(tiny_backbone)
    training.fit(whole, rows, PLAIN)
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)

    def die() -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        at_step(8, die, patched)
        with pytest.raises(MemoryError):
            training.fit(student(tiny_backbone), rows, PLAIN, checkpoint_dir=tmp_path)
    left = []
    with monkeypatch.context() as patched:
        at_step(1, lambda: left.append(True), patched)
        training.fit(again, rows, PLAIN, checkpoint_dir=tmp_path)
    assert left and same(whole, again)
    calls: list[bool] = []
    at_step(1, lambda: calls.append(True), monkeypatch)
    third = student(tiny_backbone)
    training.fit(third, rows, PLAIN, checkpoint_dir=tmp_path)
    assert not calls and same(whole, third), "a training that was finished is not done again"


def test_another_training_does_not_take_it(
    tiny_backbone: str, rows: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    training.fit(student(tiny_backbone), rows, PLAIN, checkpoint_dir=tmp_path)
    others = [
        (student(tiny_backbone), rows, replace(PLAIN, seed=1)),
        (student(tiny_backbone), replace(rows, labels=1 - rows.labels), PLAIN),
        (student(tiny_backbone), replace(rows, teacher=-rows.teacher), PLAIN),  # type: ignore[operator]
        (teacher(tiny_backbone), rows, PLAIN),
    ]
    for number, (model, data, config) in enumerate(others, 2):
        training.fit(model, data, config, checkpoint_dir=tmp_path)
        assert len(list(tmp_path.glob("*.safetensors"))) == number


def test_a_damaged_file_is_named(
    tiny_backbone: str, rows: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    training.fit(student(tiny_backbone), rows, PLAIN, checkpoint_dir=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{path.name}.*delete it, and the training begins anew"):
        training.fit(student(tiny_backbone), rows, PLAIN, checkpoint_dir=tmp_path)


def test_a_short_training_leaves_nothing(tiny_backbone: str, rows: Data, tmp_path: Path) -> None:
    training.fit(student(tiny_backbone), rows, PLAIN, checkpoint_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pressed_twice_it_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), progress.interruptible() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_first_rows_bring_their_texts_alone(rows: Data) -> None:
    few = rows.first(7)
    for field in range(2):
        for row in range(7):
            for data in (rows, few):
                text = data.texts.index[row, field]
                ids, _ = data.texts.tokens[field].take(np.array([text]))
                assert (
                    data.texts.distinct[field][text]
                    == rows.texts.distinct[field][rows.texts.index[row, field]]
                )
            assert torch.equal(ids, rows.texts.tokens[field].take(rows.texts.index[row : row + 1, field])[0])
        assert len(few.texts.tokens[field]) == len(few.texts.distinct[field]) <= 7
