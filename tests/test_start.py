"""Facts about where students start: at the backbone's cosine, at their targets' mean, at their teacher's rate; about stage 1's steps and
looks at dev."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import inference, models, training
from dipair_lib.evaluation import metrics, schema
from dipair_lib.models.tokens import read
from dipair_lib.runner import notebook_files
from dipair_lib.training import Data, TrainConfig
from dipair_lib.training.stages import steps_of

LENGTHS = (10, 14)


@pytest.fixture(scope="module")
def data(tiny_backbone: str, pairs: pd.DataFrame) -> Data:
    texts = read(models.load_tokenizer(tiny_backbone), pairs, ["query", "passage"], LENGTHS)
    teacher = np.where(pairs["label"] == 1, 2.0, -1.0).astype(np.float32)[:, None]
    return Data(texts, pairs["label"].to_numpy(), pairs["group"].to_numpy(), 2, teacher)


def student(backbone: str, **settings: Any) -> models.DualEncoder:
    torch.manual_seed(0)
    return models.DualEncoder(backbone, LENGTHS, **{"keep": (4, 4), "projection": 16, **settings})


def unit(n: int, width: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, width, generator=random), dim=1)


class TestPairsOfTheCosineStart:
    def test_nearest_by_hand(self) -> None:
        left = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        right = torch.tensor([[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]])
        assert training.nearest(left, right, 2)[0].tolist() == [1, 0]
        assert training.nearest(left, right, 1)[1].tolist() == [0]

    def test_chunks_change_nothing(self) -> None:
        left, right = unit(30, 8, 0), unit(50, 8, 1)
        whole = training.nearest(left, right, 5)
        np.testing.assert_array_equal(training.nearest(left, right, 5, scores=1), whole)

    def test_half_are_near_and_half_are_random(self) -> None:
        left, right = unit(100, 16, 0), unit(500, 16, 1)
        index = training.draw_pairs(left, right, 4001, seed=3)
        assert index.shape == (4001, 2) and index.dtype == np.int32
        near = (training.nearest(left, right, 50)[index[:, 0]] == index[:, 1:]).any(1)
        # All of one half, and of the other what chance gives: 50 of 500.
        assert near.mean() == pytest.approx(0.5 + 0.5 * 0.1, abs=0.02)
        # In random order: the first tenth is as the whole.
        assert near[:400].mean() == pytest.approx(0.55, abs=0.08)
        assert len(np.unique(index[:, 0])) == 100
        assert len(np.unique(index[~near, 1])) > 450

    def test_a_seed_names_the_pairs(self) -> None:
        sides = unit(20, 8, 0), unit(30, 8, 1)
        one, same, other = (training.draw_pairs(*sides, 100, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)


class TestCosineStart:
    @pytest.mark.parametrize(
        ("settings", "least"),
        [
            ({}, 0.35),
            ({"head": "transformer", "select": "learned", "pooled": True}, 0.2),
            ({"keep": (0, 0), "pooled": True}, 0.7),
        ],
    )
    def test_a_head_learns_the_backbones_cosine_and_nothing_else_changes(
        self, settings: dict[str, Any], least: float, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone, **settings)
        cosine = student(tiny_backbone, head="cosine", pooled=True, keep=(0, 0), projection=0)
        expected = inference.predict(cosine, data.texts)[:, 0]
        before = {name: p.clone() for name, p in model.encoder.named_parameters()}
        stored, _ = inference.stored_outputs(model, data.texts, tmp_path)
        agree = [correlation(model, data, expected)]
        fitted = training.cosine_start(model, stored, data.texts, tmp_path, 40_000, device="cpu")
        agree.append(correlation(model, data, expected))
        assert abs(agree[0]) < 0.2 <= least < agree[1]
        assert fitted.loss < 3.7  # a constant's is 4, the targets' variance
        assert all(torch.equal(p, before[name]) for name, p in model.encoder.named_parameters())
        assert fitted.notes == "cosine start: 40,000 pairs"
        assert (fitted.steps, fitted.pairs, fitted.device) == (157, 0, "cpu")

    @pytest.mark.parametrize(
        ("settings", "takes"),
        [
            ({}, True),
            ({"head": "transformer"}, True),
            ({"keep": (0, 0), "pooled": True}, True),
            ({"pooled": True, "residual": "cosine"}, False),
            ({"residual": "maxsim"}, False),
            ({"head": "cosine", "pooled": True}, False),
            ({"head": "maxsim"}, False),
            ({"outputs": 3}, False),
        ],
    )
    def test_heads_that_need_one(self, settings: dict[str, Any], takes: bool, tiny_backbone: str) -> None:
        assert training.takes_cosine_start(student(tiny_backbone, **settings)) == takes

    @pytest.mark.parametrize("fields", [1, 3])
    def test_single_texts_and_three_fields_take_none(self, fields: int, tiny_backbone: str) -> None:
        model = models.DualEncoder(tiny_backbone, [8] * fields, (4,), projection=16)
        assert not training.takes_cosine_start(model)

    def test_an_encoder_at_random_takes_none(self, tiny_backbone: str) -> None:
        model = student(tiny_backbone)
        training.start_encoder(model, "random", seed=1)
        assert not training.takes_cosine_start(model)

    @pytest.mark.parametrize("epochs", [0, 1])
    def test_its_time_counts_and_its_pairs_do_not(
        self, epochs: int, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        second = TrainConfig(epochs=1, batch_size=60, device="cpu", dtype="float32")
        first = replace(second, batch_size=40) if epochs else None
        one, two, _ = training.fit_stages(
            student(tiny_backbone), data, first, second, tmp_path, cosine_pairs=512
        )
        begun, other = (one, two) if epochs else (two, one)
        assert begun is not None and begun.notes == "cosine start: 512 pairs"
        assert begun.steps == (2 + 3 if epochs else 2 + 2)
        if one:
            assert other is not None and other.notes == ""
            assert (one.pairs, one.passes, one.learning_rate) == (120, 1.0, second.learning_rate)
        row = training.training_fields(second, one, two)
        assert row["training_notes"] == "cosine start: 512 pairs"
        assert row["stages"] == ("1+2" if epochs else "2")

    def test_a_head_that_takes_none_is_trained_as_without(
        self, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        made = []
        for pairs in (0, 512):
            model = student(tiny_backbone, pooled=True, residual="cosine")
            one, _, _ = training.fit_stages(
                model, data, TrainConfig(device="cpu"), None, tmp_path, cosine_pairs=pairs
            )
            assert one is not None and one.notes == ""
            made.append(inference.predict(model, data.texts))
        np.testing.assert_array_equal(made[0], made[1])

    def test_a_row_is_named_by_what_departs_from_the_default(self) -> None:
        notebook = Path(__file__).parents[1] / "notebooks" / "03_dipair.ipynb"
        default = notebook_files.notebook_parameters(notebook)
        assert default["cosine_pairs"] == training.COSINE_PAIRS
        none, few = default | {"cosine_pairs": 0}, default | {"cosine_pairs": 20_000}
        assert [training.training_name(p, True) for p in (default, none, few)] == [
            "", " (no cosine start)", " (20,000 cosine pairs)",
        ]  # fmt: skip
        assert [training.training_name(p) for p in (default, none, few)] == ["", "", ""]


def correlation(model: models.DualEncoder, data: Data, expected: np.ndarray) -> float:
    return float(np.corrcoef(inference.predict(model, data.texts)[:, 0], expected)[0, 1])


class TestBias:
    def test_shifts_by_hand(self, data: Data) -> None:
        rows, hard = np.arange(3), TrainConfig(loss="hard")
        logits = torch.tensor([[1.0], [1.0], [1.0]])
        taught = replace(data, teacher=np.array([[2.0], [4.0], [6.0]], np.float32))
        assert training.start.shift_to_targets(logits, taught, rows, TrainConfig()).tolist() == [3.0]
        # 40 of 120 labels are 1: the log-odds of equal logits are log(1/2) after it.
        found = training.start.shift_to_targets(logits, data, rows, hard)
        assert float(found) == pytest.approx(np.log(0.5) - 1, abs=1e-4)
        scores = replace(data, classes=0, labels=np.array([1.0, 2.0, 6.0]))
        assert training.start.shift_to_targets(logits, scores, rows, hard).tolist() == [2.0]

    def test_a_fresh_head_of_classes_starts_at_the_teachers_mean_logits(
        self, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        teacher = np.random.default_rng(0).normal([3.0, -1.0, 0.5], 1.0, (120, 3)).astype(np.float32)
        three = replace(data, classes=3, teacher=teacher)
        model = student(tiny_backbone, outputs=3)
        stored, _ = inference.stored_outputs(model, data.texts, tmp_path)
        training.start_head(model, stored, three, TrainConfig())
        found = inference.predict(model, data.texts, stored=tmp_path)
        np.testing.assert_allclose(found.mean(0), teacher.mean(0), atol=1e-5)


class TestStepsOfStage1:
    def test_single_rows_in_random_order_each_once_a_pass(self, tiny_backbone: str, data: Data) -> None:
        batches, passes = steps_of(student(tiny_backbone), data, TrainConfig(epochs=2, batch_size=30))
        assert (passes, [len(b) for b in batches]) == (2.0, [30] * 8)
        for half in (batches[:4], batches[4:]):
            assert sorted(np.concatenate(half).tolist()) == list(range(120))
        assert all(len(np.unique(data.groups[b])) > 12 for b in batches)  # whole groups of three would be 10

    def test_a_budget_in_pairs_takes_the_place_of_passes(self, tiny_backbone: str, data: Data) -> None:
        batches, passes = steps_of(student(tiny_backbone), data, TrainConfig(pairs=150, batch_size=100))
        assert ([len(b) for b in batches], passes) == ([100, 50], 1.25)

    def test_a_loss_within_groups_keeps_them_whole(self, tiny_backbone: str, data: Data) -> None:
        batches, passes = steps_of(student(tiny_backbone), data, TrainConfig(loss="margin", batch_size=30))
        assert passes == 1.0
        assert all(len(np.unique(data.groups[b])) == 10 for b in batches)


class TestLooks:
    def test_the_best_is_kept_and_of_equal_ones_the_latest(self) -> None:
        weight = torch.nn.Parameter(torch.zeros(1))
        looks = training.Looks([weight], 8, 4)
        assert looks.steps == [0, 2, 4, 6, 8]
        for step, value in zip(looks.steps, [0.5, 0.9, 0.9, None, 0.7], strict=True):
            weight.data.fill_(float(step))
            looks.note(step, value)
        looks.restore()
        assert (weight.item(), looks.best_at, looks.rising) == (4.0, 0.5, False)

    @pytest.mark.parametrize(
        ("seen", "rising"),
        [([0.5, 0.6, 0.61], True), ([0.5, 0.6, 0.6004], False), ([0.5, 0.6, 0.59], False), ([0.5, 0.6], None)],
    )  # fmt: skip
    def test_still_rising(self, seen: list[float], rising: bool | None) -> None:
        looks = training.Looks([], 2, 2)
        for step, value in enumerate(seen):
            looks.note(step, value)
        assert looks.rising is rising

    def test_stage_1_ends_at_its_best_look(self, tiny_backbone: str, data: Data, tmp_path: Path) -> None:
        """At an absurd rate the head gets worse: what is kept is the best of what was seen."""
        model = student(tiny_backbone)
        config = TrainConfig(learning_rate=0.3, epochs=3, batch_size=20, looks=2, device="cpu")
        one, _, _ = training.fit_stages(model, data, config, None, tmp_path, dev=data, metric="auc")
        assert one is not None and len(one.dev) == 7
        found = inference.predict(model, data.texts, stored=tmp_path)
        assert metrics.evaluate(["auc"], data.labels, found)["auc"] == pytest.approx(max(one.dev), abs=1e-3)
        assert one.best_at is not None and one.rising is not None
        assert (one.pairs, one.passes, one.device, one.learning_rate) == (360, 3.0, "cpu", 0.3)


class TestRatesOfAStudent:
    ROW = schema.Result(
        run_id="01_teacher-0.teacher", created_utc="", notebook="01_teacher", suite="s", task="t", split="test", model="teacher",
        family="cross-encoder", metric="auc", learning_rate=3e-5,
    )  # fmt: skip

    def test_none_means_the_teachers_own(self) -> None:
        assert training.rates_of([], self.ROW) == [3e-5]
        assert training.rates_of([1e-4, 2e-4], self.ROW) == [1e-4, 2e-4]
        assert training.rates_of([1e-4], None) == [1e-4]
        assert training.rates_of(["5e-5"], None) == [5e-5]  # type: ignore[list-item]

    def test_a_teacher_gets_a_real_trial(self) -> None:
        assert training.rates_of([], None) == [5e-5, 1e-4]
        assert training.rates_of([], replace(self.ROW, learning_rate=None)) == [5e-5]


def test_a_transformer_heads_positions_and_sides_start_at_the_tokens_scale() -> None:
    model: Any = models.DualEncoder("embedded", LENGTHS, (4, 4), head="transformer")
    found = models.load_tokenizer("embedded")(
        ["Return the number of rows of a table.", "Sort a list in place, the largest first."],
        return_tensors="pt", padding=True,
    )  # fmt: skip
    with torch.no_grad():
        kept = model.encode(found["input_ids"], found["attention_mask"].bool(), 0)
    tokens = float(kept.vectors.std())
    for begun in (*model.head.position, model.head.segment):
        assert 0.67 < float(begun.detach().std()) / tokens < 1.5
