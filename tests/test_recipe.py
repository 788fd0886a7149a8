"""Facts about a training's budget, its looks at dev, its start and its batches, by numbers worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import models, training
from dipair_lib.inference.inputs import Inputs, OnDevice
from dipair_lib.models.tokens import read
from dipair_lib.training import Data, TrainConfig
from dipair_lib.training.batches import pieces_of
from dipair_lib.training.best import BestCheckpoint
from dipair_lib.training.loop import looked_rows, looks_of
from dipair_lib.training.rows import some
from dipair_lib.training.step import shift_to_shares

LENGTHS = (10, 14)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tiny_backbone: str, pairs: pd.DataFrame) -> Data:
    texts = read(models.load_tokenizer(tiny_backbone), pairs, ["query", "passage"], LENGTHS)
    return Data(texts, pairs["label"].to_numpy(), pairs["group"].to_numpy(), 2)


class TestBudgets:
    def test_small_sets_get_four_passes_and_large_ones_the_devices_pairs(self) -> None:
        assert training.teacher_config(1000, "cpu").pairs == 4000
        assert training.teacher_config(100_000, "cpu").pairs == 24_000

    def test_a_budget_multiplies_pairs_and_passes(self) -> None:
        assert training.teacher_config(100_000, "cpu", 2).pairs == 48_000
        assert training.teacher_config(1000, "cpu", 0.5, passes=2).pairs == 1000
        assert training.teacher_config(100_000, "cpu", pairs=[500, 9]).pairs == 500

    @pytest.mark.parametrize(
        ("asked", "message"),
        [({"pairs": [1]}, "pairs: expected two numbers"), ({"budget": 0}, "budget: expected more than 0")],
    )
    def test_what_makes_no_budget_is_refused(self, asked: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            training.teacher_config(10, "cpu", **asked)

    def test_as_many_pairs_are_seen_as_the_budget_says(self, tiny_backbone: str, data: Data) -> None:
        torch.manual_seed(0)
        model = models.CrossEncoder(tiny_backbone, LENGTHS)
        fitted = training.fit(model, data, TrainConfig(loss="hard", pairs=180, batch_size=16))
        assert fitted.pairs == 180 and fitted.passes == 1.5


class TestLooks:
    def test_twice_a_pass_and_never_fewer_than_four_times(self) -> None:
        assert looks_of([10, 10, 10], TrainConfig(looks=2)) == [5, 10, 15, 20, 25, 30]
        assert looks_of([8], TrainConfig(looks=2)) == [2, 4, 6, 8]
        assert looks_of([2], TrainConfig(looks=2)) == [1, 2]

    def test_without_looks_the_ends_of_several_epochs(self) -> None:
        assert looks_of([3, 4], TrainConfig()) == [3, 7] and looks_of([3], TrainConfig()) == []

    def test_all_looks_together_take_a_quarter_of_the_time_at_most(self) -> None:
        # 0.25 of 24,000 pairs of three units each, at 8 looks of one unit a row
        assert looked_rows(24_000, 8) == 0.25 * 24_000 * 3 / 8

    def test_patience_and_a_better_training_end_one(self) -> None:
        def ended(seen: list[float], **how: Any) -> bool:
            return BestCheckpoint("auc", None, seen, {}, **how).ended

        assert not ended([0.5, 0.6, 0.55, 0.5], patience=3) and ended([0.6, 0.55, 0.5, 0.5], patience=3)
        assert ended([0.5, 0.6], against=[0.6, 0.7, 0.8]) and not ended([0.5, 0.8], against=[0.6, 0.7, 0.8])
        assert not ended([0.5], against=[0.6])

    def test_rising_is_a_last_look_above_all_before(self) -> None:
        assert BestCheckpoint("auc", None, [0.5, 0.6], {}).rising(0.01)
        assert not BestCheckpoint("auc", None, [0.5, 0.6, 0.605], {}).rising(0.01)
        assert not BestCheckpoint("auc", None, [0.6], {}).rising(0.01)

    def test_some_rows_are_the_same_texts(self, data: Data) -> None:
        few = some(data, 7)
        rows = np.linspace(0, len(data.labels) - 1, 7).astype(int)
        assert few.labels.tolist() == data.labels[rows].tolist()
        for field in (0, 1):
            ids, mask = few.texts.tokens[field].take(few.texts.index[:, field])
            want, inside = data.texts.tokens[field].take(data.texts.index[rows, field])
            assert torch.equal(ids, want) and torch.equal(mask, inside)
            assert len(few.texts.tokens[field]) == len(np.unique(data.texts.index[rows, field]))


class TestStart:
    def test_one_in_ten_positive_is_the_log_odds(self) -> None:
        shift = shift_to_shares(torch.zeros(4, 1), np.array([0.9, 0.1]))
        assert float(shift) == pytest.approx(np.log(0.1 / 0.9), abs=1e-4)

    def test_the_mean_probability_becomes_the_share_of_each_class(self) -> None:
        logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5], [3.0, 0.0, 0.0]])
        shares = np.array([0.2, 0.5, 0.3])
        found = (logits + shift_to_shares(logits, shares)).softmax(1).mean(0)
        np.testing.assert_allclose(found.numpy(), shares, atol=1e-4)

    def test_what_is_right_already_stays(self) -> None:
        logits = torch.tensor([[4.0], [-4.0]])
        assert float(shift_to_shares(logits, np.array([0.5, 0.5]))) == pytest.approx(0, abs=1e-5)


class TestBatches:
    def test_a_query_of_many_rows_is_cut_and_a_tile_is_not(self, data: Data) -> None:
        assert max(map(len, pieces_of(data))) == 3  # the fixture's queries have three rows
        n = len(data.labels)
        one = Data(data.texts, data.labels, np.zeros(n, np.int64), 2)
        assert sum(map(len, pieces_of(one))) == n and max(map(len, pieces_of(one))) <= 8
        left, right = np.repeat(np.arange(6), 6), np.tile(np.arange(6), 6)
        tile = training.replace(
            one, texts=training.replace(data.texts, index=np.stack([left, right], 1)), labels=np.zeros(36, int),
            groups=np.zeros(36, np.int64),
        )  # fmt: skip
        assert [len(piece) for piece in pieces_of(tile)] == [36]

    def test_batches_cut_out_on_a_device_are_those_of_the_plain_form(
        self, tiny_backbone: str, data: Data
    ) -> None:
        model = models.CrossEncoder(tiny_backbone, LENGTHS)
        inputs = Inputs(model, data.texts, CPU)
        inputs.fields = [OnDevice(tokens, CPU) for tokens in data.texts.tokens]
        rows = np.array([5, 0, 117, 44, 5])
        plain = model.batch(data.texts, rows)
        width = plain[0].shape[1]
        for found, want in zip(inputs.rows(rows), plain, strict=True):
            assert found.shape[1] % 8 == 0 and found.dtype == want.dtype
            assert torch.equal(found[:, :width], want) and not found[:, width:].any()
        some_texts = np.array([3, 0, 9])
        for found, want in zip(
            inputs.take(1, some_texts), data.texts.tokens[1].take(some_texts), strict=True
        ):
            assert torch.equal(found[:, : want.shape[1]], want) and not found[:, want.shape[1] :].any()
