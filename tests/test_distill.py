"""Facts about training: what is stored is used, what is frozen stays, a student learns its teacher, batches are whole groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import distill, models, quality
from dipair_lib.distill import Data, TrainConfig
from dipair_lib.models.tokens import read

LENGTHS = (10, 14)


@pytest.fixture(scope="module")
def data(tiny_backbone: str, pairs: pd.DataFrame) -> Data:
    texts = read(models.load_tokenizer(tiny_backbone), pairs, ["query", "passage"], LENGTHS)
    teacher = np.where(pairs["label"] == 1, 2.0, -2.0).astype(np.float32)[:, None]
    return Data(texts, pairs["label"].to_numpy(), pairs["group"].to_numpy(), 2, teacher)


def student(backbone: str, **settings: Any) -> models.DualEncoder:
    torch.manual_seed(0)
    return models.DualEncoder(backbone, LENGTHS, **{"keep": (4, 4), "projection": 16, **settings})


class TestLosses:
    logits = torch.tensor([[1.0], [3.0]])

    def data(self, labels: list[float], classes: int) -> Data:
        return Data(None, np.array(labels), np.arange(2), classes, np.array([[0.0], [1.0]], np.float32))  # type: ignore[arg-type]

    def test_mse_on_raw_logits_by_hand(self) -> None:
        # (1 - 0)^2 and (3 - 1)^2
        loss = distill.loss_of(self.logits, self.data([1, 0], 2), np.arange(2), TrainConfig(loss="logits"))
        assert float(loss) == pytest.approx((1 + 4) / 2)

    def test_cross_entropy_of_the_log_odds_by_hand(self) -> None:
        loss = distill.loss_of(self.logits, self.data([1, 0], 2), np.arange(2), TrainConfig(loss="hard"))
        assert float(loss) == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(3))) / 2)

    def test_mixed_weighs_the_labels_by_alpha(self) -> None:
        one, two, both = (
            float(
                distill.loss_of(
                    self.logits, self.data([1, 0], 2), np.arange(2), TrainConfig(loss=name, alpha=0.25)
                )
            )
            for name in ("hard", "logits", "mixed")
        )
        assert both == pytest.approx(0.25 * one + 0.75 * two)

    def test_scores_by_squared_error(self) -> None:
        loss = distill.loss_of(self.logits, self.data([0.5, 3.0], 0), np.arange(2), TrainConfig(loss="hard"))
        assert float(loss) == pytest.approx(0.125)

    def test_several_classes(self) -> None:
        logits = torch.tensor([[2.0, 0.0, 0.0]])
        loss = distill.hard_loss(logits, torch.tensor([0]), 3)
        assert float(loss) == pytest.approx(-np.log(np.exp(2) / (np.exp(2) + 2)))


class TestTraining:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_cross_encoder_learns_its_rows(self, dtype: str, tiny_backbone: str, data: Data) -> None:
        torch.manual_seed(0)
        model = models.CrossEncoder(tiny_backbone, LENGTHS)
        config = TrainConfig(learning_rate=3e-3, epochs=25, loss="hard", batch_size=16, dtype=dtype)
        fitted = distill.fit(model, data, config)
        assert fitted.dtype == dtype
        assert fitted.steps == 25 * 8
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert quality.evaluate(["auc"], data.labels, distill.predict(model, data.texts))["auc"] > 0.9  # type: ignore[operator]

    def test_both_stages_bring_a_student_nearer_its_teacher(
        self, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone, pooled=True)
        distance = [squared(model, data)]
        stored, _ = distill.stored_outputs(model, data.texts, tmp_path)
        distill.fit_head(model, stored, data, TrainConfig(learning_rate=3e-3, epochs=20))
        distance.append(squared(model, data))
        distill.fit(model, data, TrainConfig(learning_rate=1e-3, epochs=20))
        distance.append(squared(model, data))
        assert distance[2] < 0.5 * distance[1] < 0.5 * distance[0]

    def test_bfloat16_gradients_are_those_of_float32_rounded(self, tiny_backbone: str, data: Data) -> None:
        model = student(tiny_backbone)
        grads = {}
        for dtype in ("float32", "bfloat16"):
            model.zero_grad()
            distill.logits_in(model, data.texts, np.arange(12), dtype).square().sum().backward()
            grads[dtype] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert float(torch.cosine_similarity(grads["float32"], grads["bfloat16"], dim=0)) > 0.99

    def test_the_same_seed_gives_the_same_student(self, tiny_backbone: str, data: Data) -> None:
        made = []
        for seed in (0, 0, 1):
            model = student(tiny_backbone)
            distill.fit(model, data, TrainConfig(epochs=1, seed=seed, dtype="float32"))
            made.append(distill.predict(model, data.texts, dtype="float32"))
        np.testing.assert_array_equal(made[0], made[1])
        assert not np.array_equal(made[0], made[2])

    def test_word_piece_embeddings_of_a_transformer_stay(self, tiny_backbone: str, data: Data) -> None:
        model = student(tiny_backbone)
        before = model.encoder.get_input_embeddings().weight.clone()
        distill.fit(model, data, TrainConfig(epochs=1))
        assert torch.equal(model.encoder.get_input_embeddings().weight, before)

    def test_a_loss_that_is_not_finite_stops(self, tiny_backbone: str, data: Data) -> None:
        broken = replace(data, teacher=np.full_like(data.teacher, np.inf))
        with pytest.raises(FloatingPointError, match="lower the learning rate"):
            distill.fit(student(tiny_backbone), broken, TrainConfig())

    def test_distilling_without_a_teacher_is_refused(self, tiny_backbone: str, data: Data) -> None:
        with pytest.raises(ValueError, match="run 01_teacher first"):
            distill.fit(student(tiny_backbone), replace(data, teacher=None), TrainConfig())

    def test_the_rate_that_is_best_on_dev_is_chosen(self, tiny_backbone: str, data: Data) -> None:
        def build() -> models.CrossEncoder:
            torch.manual_seed(0)
            return models.CrossEncoder(tiny_backbone, LENGTHS)

        config = TrainConfig(loss="hard", batch_size=16)
        rate, tried = distill.choose_learning_rate(build, data, data, "auc", config, [1e-9, 3e-3], share=10)
        assert rate == 3e-3
        assert tried[3e-3] > tried[1e-9]  # type: ignore[operator]


def squared(model: Any, data: Data) -> float:
    """Mean squared distance of a student's logits from its teacher's."""
    return float(((distill.predict(model, data.texts) - data.teacher) ** 2).mean())


class TestStages:
    def test_stage_1_leaves_the_encoder_untouched_and_encodes_nothing(
        self, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone)
        stored, _ = distill.stored_outputs(model, data.texts, tmp_path)
        before = {name: p.clone() for name, p in model.encoder.named_parameters()}
        model.encoder.forward = None  # any call would raise
        distill.fit_head(model, stored, data, TrainConfig(learning_rate=1e-2))
        assert all(torch.equal(p, before[name]) for name, p in model.encoder.named_parameters())

    def test_stored_outputs_are_those_of_the_encoder(
        self, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone, pooled=True)
        stored, counts = distill.stored_outputs(model, data.texts, tmp_path)
        n = sum(len(t) for t in data.texts.tokens)
        assert counts == {"encoded": n, "from_store": 0}
        rows = np.arange(len(data.texts.tokens[1]))
        with torch.no_grad():
            fresh = model.prepare(model.encode(*data.texts.tokens[1].take(rows), 1), 1)
        torch.testing.assert_close(distill.prepare_stored(model, stored[1], 1), fresh, atol=0.05, rtol=0.05)
        assert distill.stored_outputs(model, data.texts, tmp_path)[1] == {"encoded": 0, "from_store": n}

    def test_what_a_killed_run_left_is_removed(self, tiny_backbone: str, data: Data, tmp_path: Path) -> None:
        model = student(tiny_backbone)
        distill.stored_outputs(model, data.texts, tmp_path)
        whole = sorted(p.name for p in tmp_path.iterdir())
        for path in tmp_path.glob("*.npy"):
            path.rename(path.with_suffix(".123.tmp"))
        distill.stored_outputs(model, data.texts, tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == whole

    def test_other_texts_do_not_meet_a_store(
        self, tiny_backbone: str, data: Data, tmp_path: Path, pairs: pd.DataFrame
    ) -> None:
        model = student(tiny_backbone)
        distill.stored_outputs(model, data.texts, tmp_path)
        other = read(models.load_tokenizer(tiny_backbone), pairs[:30], ["query", "passage"], LENGTHS)
        assert distill.stored_outputs(model, other, tmp_path)[1]["from_store"] == 0


class TestBatches:
    def test_every_row_once_an_epoch_and_groups_together(self, tiny_backbone: str, data: Data) -> None:
        batches = list(distill.batches_of(student(tiny_backbone), data, TrainConfig(batch_size=30)))
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(data.labels)))
        assert all(len(np.unique(data.groups[b])) == 10 for b in batches)

    def test_half_an_epoch_is_half_of_the_groups(self, tiny_backbone: str, data: Data) -> None:
        rows = np.concatenate(list(distill.batches_of(student(tiny_backbone), data, TrainConfig(epochs=0.5))))
        assert len(np.unique(data.groups[rows])) == len(np.unique(data.groups)) // 2

    def test_prediction_does_not_depend_on_the_batch_size(self, tiny_backbone: str, data: Data) -> None:
        for model in (student(tiny_backbone), models.CrossEncoder(tiny_backbone, LENGTHS)):
            one, many = (distill.predict(model, data.texts, dtype="float32", batch_size=n) for n in (3, 64))
            np.testing.assert_allclose(one, many, atol=1e-5)


class TestTeacherLogits:
    def test_read_back_as_written(self, tmp_path: Path) -> None:
        logits = {"train": np.array([[1.5]], np.float32), "test": np.array([[2.0], [3.0]], np.float32)}
        distill.store_teacher_logits(tmp_path / "t" / "a.npz", "abc", logits)
        again = distill.load_teacher_logits(tmp_path / "t" / "a.npz", "abc")
        assert {k: v.tolist() for k, v in again.items()} == {k: v.tolist() for k, v in logits.items()}
        assert [p.name for p in (tmp_path / "t").iterdir()] == ["a.npz"]

    def test_what_cannot_be_used_is_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        with pytest.raises(distill.TeacherError, match="run 01_teacher"):
            distill.load_teacher_logits(path, "abc")
        distill.store_teacher_logits(path, "abc", {"train": np.ones((100, 1))})
        with pytest.raises(distill.TeacherError, match="logits of other data"):
            distill.load_teacher_logits(path, "xyz")
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(distill.TeacherError, match=r"a\.npz: damaged"):
            distill.load_teacher_logits(path, "abc")


class TestConfig:
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"loss": "kl"}, "loss: expected one of hard, logits, mixed"),
            ({"alpha": 1.5}, "alpha: expected 0 to 1"),
            ({"epochs": 0}, "epochs: expected more than 0"),
            ({"optimizer": "sgd"}, "optimizer: expected adamw or adadelta"),
        ],
    )
    def test_refused(self, setting: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TrainConfig(**setting)

    def test_an_unknown_dtype_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected auto, float32 or bfloat16, but got 'fp8'"):
            distill.encoder_dtype("fp8")
