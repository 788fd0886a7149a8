"""Facts about training: what is stored is used, what is frozen stays, a student learns its teacher, batches are whole groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import inference, models, training
from dipair_lib.data.task import Task
from dipair_lib.evaluation import metrics, results, schema
from dipair_lib.inference import encoder_dtype
from dipair_lib.models.tokens import read
from dipair_lib.system import disk
from dipair_lib.training import Data, TrainConfig, losses

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
        loss = training.loss_of(self.logits, self.data([1, 0], 2), np.arange(2), TrainConfig(loss="logits"))
        assert float(loss) == pytest.approx((1 + 4) / 2)

    def test_the_squared_error_is_summed_over_classes(self) -> None:
        """The paper's squared distance of logits, a mean over rows only: (1 + 4 + 9) and (0 + 1 + 0)."""
        data = Data(None, np.zeros(2), np.arange(2), 3, np.array([[0, 1, 2], [3, 0, 0]], np.float32))  # type: ignore[arg-type]
        logits = torch.tensor([[1.0, 3.0, -1.0], [3.0, 1.0, 0.0]])
        loss = training.loss_of(logits, data, np.arange(2), TrainConfig(loss="logits"))
        assert float(loss) == pytest.approx((14 + 1) / 2)

    def test_two_logits_weigh_half_as_much_as_their_log_odds(self) -> None:
        """What the docstring says of two classes: (d0^2 + d1^2) = (d1 - d0)^2 / 2 + (d0 + d1)^2 / 2 of the errors d of two logits."""
        student, teacher = torch.tensor([[0.5, -1.0], [2.0, 1.5]]), torch.tensor([[-1.0, 3.0], [1.0, 1.0]])
        config = TrainConfig(loss="logits")
        two = float(losses.soft_loss(student, teacher, config))
        odds = float(losses.soft_loss(student.diff(dim=1), teacher.diff(dim=1), config))
        of_sums = float(losses.soft_loss(student.sum(1, keepdim=True), teacher.sum(1, keepdim=True), config))
        assert two == pytest.approx(odds / 2 + of_sums / 2)
        centred = float(
            losses.soft_loss(student - student.mean(1, True), teacher - teacher.mean(1, True), config)
        )
        assert centred == pytest.approx(odds / 2)

    def test_cross_entropy_of_the_log_odds_by_hand(self) -> None:
        loss = training.loss_of(self.logits, self.data([1, 0], 2), np.arange(2), TrainConfig(loss="hard"))
        assert float(loss) == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(3))) / 2)

    @pytest.mark.parametrize("name", ["logits", "soft", "kl"])
    def test_alpha_weighs_the_labels(self, name: str) -> None:
        def loss(**settings: Any) -> float:
            return float(
                training.loss_of(self.logits, self.data([1, 0], 2), np.arange(2), TrainConfig(**settings))
            )

        both = 0.25 * loss(loss="hard") + 0.75 * loss(loss=name)
        assert loss(loss=name, alpha=0.25) == pytest.approx(both)

    def test_soft_cross_entropy_of_the_log_odds_by_hand(self) -> None:
        # Teacher's probabilities of class 1 at T = 2: 1/2 and 1 / (1 + e^-1/2); the student's 1 / (1 + e^-1/2) and 1 / (1 + e^-3/2).
        target, own = 1 / (1 + np.exp([0, -0.5])), 1 / (1 + np.exp([-0.5, -1.5]))
        expected = 4 * np.mean(-target * np.log(own) - (1 - target) * np.log(1 - own))
        config = TrainConfig(loss="soft", temperature=2)
        loss = training.loss_of(self.logits, self.data([1, 0], 2), np.arange(2), config)
        assert float(loss) == pytest.approx(expected)

    def test_kl_is_zero_at_the_teacher_and_has_the_gradient_of_soft(self) -> None:
        data = Data(None, np.zeros(2), np.arange(2), 3, np.array([[0, 1, 2], [3, 0, 0]], np.float32))  # type: ignore[arg-type]
        gradients = {}
        for name in ("soft", "kl"):
            logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]], requires_grad=True)
            training.loss_of(logits, data, np.arange(2), TrainConfig(loss=name, temperature=3)).backward()
            gradients[name] = logits.grad
            at_teacher = training.loss_of(
                torch.from_numpy(data.teacher), data, np.arange(2), TrainConfig(loss=name)
            )  # type: ignore[arg-type]
            assert (float(at_teacher) == pytest.approx(0, abs=1e-6)) == (name == "kl")
        torch.testing.assert_close(gradients["soft"], gradients["kl"])

    def test_probabilities_of_scores_are_refused(self, data: Data) -> None:
        scores = replace(data, classes=0)
        with pytest.raises(ValueError, match="loss 'kl' compares probabilities of classes"):
            training.fit(None, scores, TrainConfig(loss="kl"))  # type: ignore[arg-type]

    def test_scores_by_squared_error(self) -> None:
        loss = training.loss_of(self.logits, self.data([0.5, 3.0], 0), np.arange(2), TrainConfig(loss="hard"))
        assert float(loss) == pytest.approx(0.125)

    def test_several_classes(self) -> None:
        logits = torch.tensor([[2.0, 0.0, 0.0]])
        loss = training.hard_loss(logits, torch.tensor([0]), 3)
        assert float(loss) == pytest.approx(-np.log(np.exp(2) / (np.exp(2) + 2)))


class TestTraining:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_cross_encoder_learns_its_rows(self, dtype: str, tiny_backbone: str, data: Data) -> None:
        torch.manual_seed(0)
        model = models.CrossEncoder(tiny_backbone, LENGTHS)
        config = TrainConfig(learning_rate=3e-3, epochs=25, loss="hard", batch_size=16, dtype=dtype)
        fitted = training.fit(model, data, config)
        assert fitted.dtype == dtype
        assert fitted.steps == 25 * 8
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert metrics.evaluate(["auc"], data.labels, inference.predict(model, data.texts))["auc"] > 0.9  # type: ignore[operator]

    def test_both_stages_bring_a_student_nearer_its_teacher(
        self, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone, pooled=True)
        distance = [squared(model, data)]
        stored, _ = inference.stored_outputs(model, data.texts, tmp_path)
        training.fit_head(model, stored, data, TrainConfig(learning_rate=3e-3, epochs=20))
        distance.append(squared(model, data))
        training.fit(model, data, TrainConfig(learning_rate=1e-3, epochs=20))
        distance.append(squared(model, data))
        assert distance[2] < 0.5 * distance[1] < 0.5 * distance[0]

    def test_bfloat16_gradients_are_those_of_float32_rounded(self, tiny_backbone: str, data: Data) -> None:
        model = student(tiny_backbone)
        grads = {}
        for dtype in ("float32", "bfloat16"):
            model.zero_grad()
            inputs = inference.Inputs(model, data.texts, torch.device("cpu"))
            batch = training.Step(model).batch(inputs, np.arange(12))
            training.outputs_in(model, batch, dtype).square().sum().backward()
            grads[dtype] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert float(torch.cosine_similarity(grads["float32"], grads["bfloat16"], dim=0)) > 0.99

    def test_the_same_seed_gives_the_same_student(self, tiny_backbone: str, data: Data) -> None:
        made = []
        for seed in (0, 0, 1):
            model = student(tiny_backbone)
            training.fit(model, data, TrainConfig(epochs=1, seed=seed, dtype="float32"))
            made.append(inference.predict(model, data.texts, dtype="float32"))
        np.testing.assert_array_equal(made[0], made[1])
        assert not np.array_equal(made[0], made[2])

    def test_word_piece_embeddings_of_a_transformer_stay(self, tiny_backbone: str, data: Data) -> None:
        model = student(tiny_backbone)
        before = model.encoder.get_input_embeddings().weight.clone()
        training.fit(model, data, TrainConfig(epochs=1))
        assert torch.equal(model.encoder.get_input_embeddings().weight, before)

    def test_a_loss_that_is_not_finite_stops(self, tiny_backbone: str, data: Data) -> None:
        broken = replace(data, teacher=np.full_like(data.teacher, np.inf))
        with pytest.raises(FloatingPointError, match="lower the learning rate"):
            training.fit(student(tiny_backbone), broken, TrainConfig())

    def test_distilling_without_a_teacher_is_refused(self, tiny_backbone: str, data: Data) -> None:
        with pytest.raises(ValueError, match="run 01_teacher first"):
            training.fit(student(tiny_backbone), replace(data, teacher=None), TrainConfig())

    def test_the_rate_that_is_best_on_dev_is_chosen(self, tiny_backbone: str, data: Data) -> None:
        def build() -> models.CrossEncoder:
            torch.manual_seed(0)
            return models.CrossEncoder(tiny_backbone, LENGTHS)

        config = TrainConfig(loss="hard", batch_size=16, epochs=10)
        model, found = training.train_best(build, data, data, "auc", config, [1e-9, 3e-3])
        assert found.fitted.learning_rate == 3e-3
        assert found.tried[3e-3] > found.tried[1e-9]
        auc = metrics.evaluate(["auc"], data.labels, inference.predict(model, data.texts))["auc"]
        assert auc == pytest.approx(max(found.fitted.dev), abs=1e-6)

    def test_a_rate_that_is_behind_twice_running_is_given_up(self, tiny_backbone: str, data: Data) -> None:
        def build() -> models.CrossEncoder:
            torch.manual_seed(0)
            return models.CrossEncoder(tiny_backbone, LENGTHS)

        config = TrainConfig(loss="hard", batch_size=16, epochs=10)
        _, found = training.train_best(build, data, data, "auc", config, [3e-3])
        behind = training.fit(
            build(),
            data,
            replace(config, learning_rate=1e-9, looks=2),
            dev=data,
            metric="auc",
            against=found.fitted.dev,
        )
        assert len(behind.dev) == 2 < len(found.fitted.dev)
        assert behind.pairs < found.fitted.pairs

    def test_a_training_below_the_floor_is_made_again_at_a_lower_rate(
        self, tiny_backbone: str, data: Data
    ) -> None:
        config = TrainConfig(loss="hard", batch_size=16, epochs=2)
        build = lambda: models.CrossEncoder(tiny_backbone, LENGTHS)  # noqa: E731
        _, found = training.train_best(build, data, data, "auc", config, [3e-3], floor=2.0)
        assert list(found.tried) == pytest.approx([3e-3, 1e-3, 1e-3 / 3])
        assert "trained again" in found.fitted.notes and "still not above" in found.fitted.notes
        _, found = training.train_best(build, data, data, "auc", config, [3e-3], floor=0.0)
        assert list(found.tried) == [3e-3] and not found.fitted.notes


def squared(model: Any, data: Data) -> float:
    """Mean squared distance of a student's logits from its teacher's."""
    return float(((inference.predict(model, data.texts) - data.teacher) ** 2).mean())


class TestOrderLosses:
    """Losses within a query, against the textbook's loop over pairs or lists."""

    groups = np.array([0, 1, 0, 1, 0, 2])
    teacher = np.array([[1.0], [0.5], [-2.0], [3.0], [0.0], [9.0]], np.float32)
    logits = torch.tensor([[0.3], [1.0], [1.5], [-1.0], [2.0], [-7.0]])

    def loss(self, **settings: Any) -> float:
        data = Data(None, np.zeros(6), self.groups, 2, self.teacher)  # type: ignore[arg-type]
        return float(training.loss_of(self.logits, data, np.arange(6), TrainConfig(**settings)))

    def test_margin_is_the_mean_over_the_pairs_of_a_query(self) -> None:
        per_query = []
        for query in (0, 1):  # query 2 has one row: no margin
            rows = np.flatnonzero(self.groups == query)
            s, t = self.logits[rows, 0].numpy(), self.teacher[rows, 0]
            pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
            per_query.append(np.mean([((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in pairs]))
        assert self.loss(loss="margin") == pytest.approx(np.mean(per_query), rel=1e-5)

    def test_listwise_is_the_kl_of_the_softmax_over_a_query(self) -> None:
        per_query = []
        for query in (0, 1):
            rows = np.flatnonzero(self.groups == query)
            target = torch.from_numpy(self.teacher[rows, 0] / 2).softmax(0)
            own = (self.logits[rows, 0] / 2).log_softmax(0)
            per_query.append(4 * float((target * (target.log() - own)).sum()))
        assert self.loss(loss="listwise", temperature=2) == pytest.approx(np.mean(per_query), rel=1e-5)

    def test_a_shift_of_a_whole_query_costs_nothing(self) -> None:
        data = Data(None, np.zeros(6), self.groups, 2, self.teacher)  # type: ignore[arg-type]
        shifted = torch.from_numpy(self.teacher + self.groups[:, None].astype(np.float32))
        for name in ("margin", "listwise"):
            loss = training.loss_of(shifted, data, np.arange(6), TrainConfig(loss=name))
            assert float(loss) == pytest.approx(0, abs=1e-6)

    def test_without_groups_they_are_refused(self, data: Data) -> None:
        alone = replace(data, groups=np.arange(len(data.groups)))
        with pytest.raises(ValueError, match="no two rows share one: name the `group` column"):
            training.fit(None, alone, TrainConfig(loss="margin"))  # type: ignore[arg-type]
        several = replace(data, teacher=np.zeros((len(data.labels), 3), np.float32), classes=3)
        with pytest.raises(ValueError, match="orders rows by one score, but this task has 3 outputs"):
            training.fit(None, several, TrainConfig(loss="listwise"))  # type: ignore[arg-type]


class TestBeyondThePaper:
    def test_an_encoder_starts_from_the_teacher_or_at_random(self, tiny_backbone: str, data: Data) -> None:
        torch.manual_seed(5)
        teacher = models.CrossEncoder(tiny_backbone, LENGTHS)
        training.fit(teacher, data, TrainConfig(loss="hard", learning_rate=1e-3))
        made = {}
        for start in ("pretrained", "teacher", "random"):
            model = made[start] = student(tiny_backbone, shared=False)
            training.start_encoder(model, start, teacher, seed=3)
            assert (model.start == "") == (start == "pretrained")
        weight = "layer.1.output.dense.weight"
        for encoder in made["teacher"].encoder:
            expected = dict(teacher.encoder.encoder.named_parameters())[weight]
            assert torch.equal(dict(encoder.encoder.named_parameters())[weight], expected)
        random = [dict(e.encoder.named_parameters())[weight] for e in made["random"].encoder]
        assert not torch.equal(random[0], dict(made["teacher"].encoder[0].encoder.named_parameters())[weight])
        # Random word-piece embeddings have to be learned, pre-trained ones stay.
        before = made["random"].encoder[0].get_input_embeddings().weight.clone()
        training.fit(made["random"], data, TrainConfig(learning_rate=1e-3))
        assert not torch.equal(made["random"].encoder[0].get_input_embeddings().weight, before)
        with pytest.raises(ValueError, match="start: expected one of pretrained, teacher, random"):
            training.start_encoder(made["random"], "best")
        with pytest.raises(ValueError, match="start teacher: expected a teacher of the backbone"):
            training.start_encoder(made["random"], "teacher")

    def test_another_start_does_not_meet_a_store(
        self, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        inference.stored_outputs(student(tiny_backbone), data.texts, tmp_path)
        other = student(tiny_backbone)
        training.start_encoder(other, "random", seed=1)
        assert inference.stored_outputs(other, data.texts, tmp_path)[1]["from_store"] == 0

    @pytest.mark.parametrize("select", ["first", "even", "norm", "attention", "learned"])
    def test_stored_outputs_score_as_the_encoder_does(
        self, select: str, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone, select=select, pooled=True, residual="cosine")
        for norm in model.encoder.modules():
            if isinstance(norm, torch.nn.LayerNorm):
                torch.nn.init.normal_(norm.weight, 1.0, 0.3)
        model.start = "perturbed"
        stored, _ = inference.stored_outputs(model, data.texts, tmp_path)
        training.fit_head(model, stored, data, TrainConfig(learning_rate=3e-3, epochs=5))
        expected = inference.predict(model, data.texts)
        found = inference.predict(model, data.texts, stored=tmp_path)
        # Half precision of the store; a selection may flip between two tokens of nearly the same weight.
        assert np.median(np.abs(found - expected)) < 0.05
        assert np.corrcoef(found[:, 0], expected[:, 0])[0, 1] > 0.97

    def test_targets_of_the_warm_up_are_the_untrained_cosine(
        self, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        found = training.cosine_targets(tiny_backbone, LENGTHS, data, tmp_path)
        assert found.mean() == pytest.approx(0, abs=1e-5)
        assert found.std() == pytest.approx(2, abs=1e-4)
        model = student(tiny_backbone, head="cosine", pooled=True, keep=(0, 0), projection=0)
        plain = inference.predict(model, data.texts)
        assert np.corrcoef(found[:, 0], plain[:, 0])[0, 1] > 0.99
        with pytest.raises(ValueError, match="warm: a cosine is of two fields and one score"):
            training.cosine_targets(tiny_backbone, LENGTHS, replace(data, classes=3), tmp_path)

    def test_logits_of_several_teachers_are_averaged(self, tmp_path: Path) -> None:
        rows = []
        for seed in (0, 1):
            row = schema.Result(
                run_id=f"01_teacher-{seed}.teacher", created_utc="", notebook="01_teacher", suite="s", task="t", split="test",
                model="teacher", family="cross-encoder", metric="auc", seed=seed, data_sha256="f",
            )  # fmt: skip
            rows.append(row)
            path = training.teacher_file(tmp_path, row.run_id)
            training.save_teacher_logits(path, "f", {"test": np.full((3, 1), 1.0 + 2 * seed)})
            results.save_result(tmp_path, row, np.zeros((2, 1)), np.zeros(2), np.arange(2))
        assert training.taught_logits(tmp_path, rows, "f")["test"].tolist() == [[2.0]] * 3
        assert [r.seed for r in results.find_teachers(tmp_path, "f", 2)] == [0, 1]
        assert results.find_teacher(tmp_path, "f").seed == 0
        with pytest.raises(disk.ResultError, match="teachers: expected 1 to 2"):
            results.find_teachers(tmp_path, "f", 3)


class TestStages:
    def test_stage_1_leaves_the_encoder_untouched_and_encodes_nothing(
        self, tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone)
        stored, _ = inference.stored_outputs(model, data.texts, tmp_path)
        before = {name: p.clone() for name, p in model.encoder.named_parameters()}
        model.encoder.forward = None  # any call would raise
        training.fit_head(model, stored, data, TrainConfig(learning_rate=1e-2))
        assert all(torch.equal(p, before[name]) for name, p in model.encoder.named_parameters())

    @pytest.mark.parametrize(
        "settings", [{"head": "cosine", "pooled": True}, {"pooled": True, "residual": "cosine"}, {}]
    )
    def test_stage_2_of_scores_begins_where_stage_1_ended(
        self, settings: dict[str, Any], tiny_backbone: str, data: Data, tmp_path: Path
    ) -> None:
        assert data.teacher is not None
        scores = replace(data, classes=0, labels=data.labels.astype(np.float32), teacher=data.teacher + 7)
        model = student(tiny_backbone, **settings)
        config = TrainConfig(learning_rate=3e-3, epochs=10)
        training.fit_stages(model, scores, config, None, tmp_path)
        before = inference.predict(model, data.texts, dtype="float32")
        training.fit(model, scores, TrainConfig(learning_rate=1e-9, dtype="float32"))
        after = inference.predict(model, data.texts, dtype="float32")
        np.testing.assert_allclose(after - after.mean(), before - before.mean(), atol=1e-4)
        assert scores.teacher is not None
        assert abs(after.mean() - scores.teacher.mean()) < 0.5
        assert abs(after.mean() - before.mean()) < 0.5

    def test_a_fresh_model_of_scores_starts_at_their_mean(self, tiny_backbone: str, data: Data) -> None:
        scores = replace(data, classes=0, labels=data.labels.astype(np.float32) + 7)
        torch.manual_seed(0)
        model = models.CrossEncoder(tiny_backbone, LENGTHS)
        training.fit(model, scores, TrainConfig(learning_rate=1e-9, loss="hard", dtype="float32"))
        assert inference.predict(model, data.texts).mean() == pytest.approx(scores.labels.mean(), abs=0.05)


class TestBatches:
    def test_every_row_once_an_epoch_and_groups_together(self, tiny_backbone: str, data: Data) -> None:
        (batches,) = training.epochs_of(student(tiny_backbone), data, TrainConfig(batch_size=30))
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(data.labels)))
        assert all(len(np.unique(data.groups[b])) == 10 for b in batches)

    def test_a_batch_counts_the_texts_it_encodes(self, tiny_backbone: str, data: Data) -> None:
        """Four tiles of 3 x 5 pairs: a batch of 10 texts holds two tiles, 30 pairs."""
        tile = np.stack([np.repeat(np.arange(3), 5), np.tile(np.arange(5), 3)], axis=1)
        index = np.concatenate([tile + 5 * np.array([n, n]) for n in range(4)])
        tiles = replace(
            data,
            texts=replace(data.texts, index=index),
            groups=np.repeat(np.arange(4), 15),
            labels=np.zeros(60),
            teacher=np.zeros((60, 1), np.float32),
        )
        (batches,) = training.epochs_of(student(tiny_backbone), tiles, TrainConfig(batch_size=10))
        assert [len(b) for b in batches] == [30, 30]
        assert [len(np.unique(tiles.groups[b])) for b in batches] == [2, 2]

    def test_half_an_epoch_is_half_of_the_groups(self, tiny_backbone: str, data: Data) -> None:
        (batches,) = training.epochs_of(student(tiny_backbone), data, TrainConfig(epochs=0.5))
        rows = np.concatenate(batches)
        assert len(np.unique(data.groups[rows])) == len(np.unique(data.groups)) // 2

    def test_epoch_rows_fix_the_steps_and_every_row_comes_before_any_comes_again(
        self, tiny_backbone: str, data: Data
    ) -> None:
        config = TrainConfig(epochs=6, epoch_rows=20, batch_size=10)
        epochs = [
            np.concatenate(batches) for batches in training.epochs_of(student(tiny_backbone), data, config)
        ]
        assert [len(rows) for rows in epochs] == [21] * 6  # groups of 3: 20 rows are 6.67 groups, taken as 7
        seen = np.concatenate(epochs)
        assert len(np.unique(seen[:120])) == 120

    def test_prediction_does_not_depend_on_the_batch_size(self, tiny_backbone: str, data: Data) -> None:
        for model in (student(tiny_backbone), models.CrossEncoder(tiny_backbone, LENGTHS)):
            one, many = (
                inference.predict(model, data.texts, dtype="float32", batch_tokens=n) for n in (30, 1000)
            )
            np.testing.assert_allclose(one, many, atol=1e-5)


class TestConfig:
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"loss": "mse"}, "loss: expected one of hard, logits, soft, kl"),
            ({"temperature": 0}, "temperature: expected more than 0"),
            ({"epoch_rows": -1}, "epoch_rows: expected 0"),
            ({"alpha": -0.1}, "alpha: expected 0 to 1"),
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
            encoder_dtype("fp8")


class TestAdadelta:
    def test_sparse_rows_move_as_torchs_dense_ones_do(self) -> None:
        """A row missed for some steps has decayed by as many when it is met again."""
        torch.manual_seed(0)
        dense = torch.nn.Embedding(12, 3)
        sparse = torch.nn.Embedding(12, 3, sparse=True)
        sparse.load_state_dict(dense.state_dict())
        optimizers = (
            torch.optim.Adadelta(dense.parameters(), lr=1.0, rho=0.95),
            training.Adadelta(sparse.parameters()),
        )
        for step in range(60):
            rows = torch.randint(0, 12, (3,)) if step % 9 else torch.tensor([1, 1, 2])
            for table, optimizer in zip((dense, sparse), optimizers, strict=True):
                optimizer.zero_grad()
                (table(rows) ** 2).sum().backward()
                optimizer.step()
        torch.testing.assert_close(dense.weight, sparse.weight, atol=1e-6, rtol=1e-5)

    def test_dense_parameters_as_torch(self) -> None:
        torch.manual_seed(0)
        one, two = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        two.load_state_dict(one.state_dict())
        optimizers = (
            torch.optim.Adadelta(one.parameters(), lr=0.5, rho=0.95),
            training.Adadelta(two.parameters(), lr=0.5),
        )
        for _ in range(20):
            x = torch.randn(5, 4)
            for layer, optimizer in zip((one, two), optimizers, strict=True):
                optimizer.zero_grad()
                layer(x).square().sum().backward()
                optimizer.step()
        torch.testing.assert_close(one.weight, two.weight)


def words_student(frame: pd.DataFrame) -> tuple[models.BiLSTM, Any]:
    torch.manual_seed(0)
    vocabulary = sorted({w for text in frame["query"] for w in text.split()})
    return models.BiLSTM(vocabulary, (30,), width=8, hidden=12, fc=10), models.WordTokenizer(vocabulary)


def sentences(pairs: pd.DataFrame, split: slice) -> tuple[pd.DataFrame, Task]:
    """Single texts: is "red" in it?"""
    frame = pd.DataFrame(
        {"query": [f"{q} {p}" for q, p in zip(pairs["query"], pairs["passage"], strict=True)][split]}
    )
    frame["label"] = frame["query"].str.contains("red").astype("int64")
    frame["group"] = np.arange(len(frame))
    return frame, Task(
        "t", ("query",), "classes", ("no", "yes"), ("accuracy",), frame, frame, frame, False, "f" * 64
    )


class TestBestEpoch:
    def test_the_weights_of_the_best_epoch_on_dev_are_kept(self, pairs: pd.DataFrame) -> None:
        frame, task = sentences(pairs, slice(None))
        model, tokenizer = words_student(frame)
        data = training.read_rows(task, frame[:80], tokenizer, [30])
        dev = training.read_rows(task, frame[80:], tokenizer, [30])
        config = TrainConfig(optimizer="adadelta", learning_rate=1.0, epochs=30, batch_size=10, loss="hard")
        fitted = training.fit(model, data, config, dev=dev, metric="accuracy")
        assert len(fitted.dev) == 30
        assert min(fitted.dev) < max(fitted.dev)
        found = metrics.evaluate(["accuracy"], dev.labels, inference.predict(model, dev.texts))["accuracy"]
        assert found == pytest.approx(max(fitted.dev))

    def test_one_epoch_needs_no_look_at_dev(self, pairs: pd.DataFrame) -> None:
        frame, task = sentences(pairs, slice(30))
        model, tokenizer = words_student(frame)
        data = training.read_rows(task, frame, tokenizer, [9])
        config = TrainConfig(optimizer="adamw", learning_rate=1e-2, epochs=1, loss="hard")
        assert training.fit(model, data, config, dev=data, metric="accuracy").dev == ()


class TestSyntheticRows:
    def source(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        frame = pd.DataFrame({"query": ["a b", "c d"], "label": [1, 0], "group": [4, 7]})
        made = pd.DataFrame(
            {
                "query": ["a [MASK]", "c", "b"],
                "label": [1, 0, 1],
                "group": [4, 7, 4],
                "source": [0, 1, 0],
                "round": [0, 0, 1],
            }
        )
        return frame, made

    @pytest.mark.parametrize(
        ("labels", "expected"), [("teacher", [1, 0, 0, 1, 0]), ("source", [1, 0, 1, 0, 1])]
    )
    def test_joined_with_the_originals(self, labels: str, expected: list[int]) -> None:
        frame, made = self.source()
        own, new = np.array([[3.0], [-3.0]], np.float32), np.array([[-0.1], [0.1], [-2.0]], np.float32)
        rows, logits = training.with_synthetic(frame, own, made, new, labels)
        assert rows["query"].tolist() == ["a b", "c d", "a [MASK]", "c", "b"]
        assert rows["label"].tolist() == expected
        assert rows["group"].tolist() == [
            4,
            7,
            12,
            15,
            20,
        ]  # a round's rows of one group stay apart from the other rounds'
        np.testing.assert_array_equal(logits, np.concatenate([own, new]))

    def test_several_classes_take_the_largest_logit_and_scores_the_value(self) -> None:
        frame, made = self.source()
        three = np.array([[0, 2, 1], [1, 0, 0], [0, 0, 3]], np.float32)
        rows, _ = training.with_synthetic(frame, np.zeros((2, 3), np.float32), made, three)
        assert rows["label"].tolist() == [1, 0, 1, 0, 2]
        scores, _ = training.with_synthetic(
            frame.astype({"label": "float32"}), np.zeros((2, 1), np.float32), made, three[:, 1:2]
        )
        assert scores["label"].tolist() == [1, 0, 2, 0, 0]

    def test_unknown_labels_are_refused(self) -> None:
        frame, made = self.source()
        with pytest.raises(ValueError, match="synthetic_labels: expected teacher or source, but got 'none'"):
            training.with_synthetic(frame, np.zeros((2, 1)), made, np.zeros((3, 1)), "none")

    def test_the_teacher_labels_a_round_once(
        self, tiny_backbone: str, tmp_path: Path, pairs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frame, task = sentences(pairs, slice(12))
        torch.manual_seed(0)
        teacher = models.CrossEncoder(tiny_backbone, (9,))
        row = schema.Result(
            run_id="01_teacher-1.teacher", created_utc="", notebook="01_teacher", suite="s", task="t", split="test",
            model="teacher", family="cross-encoder", metric="accuracy",
        )  # fmt: skip
        models.save(teacher, results.row_folder(tmp_path, row.run_id) / "model")
        made = pd.concat([frame.assign(round=0), frame[:5].assign(round=1)], ignore_index=True)
        load = mock.Mock(wraps=models.load)
        monkeypatch.setattr(models, "load", load)
        first = training.synthetic_logits(tmp_path, [row], task, made)
        load.assert_called_once()  # for both rounds
        data = training.read_rows(task, made, tiny_backbone, [9])
        np.testing.assert_allclose(first, inference.predict(teacher, data.texts), atol=1e-5)
        monkeypatch.setattr(models, "load", lambda *_: pytest.fail("computed again"))
        np.testing.assert_array_equal(training.synthetic_logits(tmp_path, [row], task, made), first)
        np.testing.assert_array_equal(training.synthetic_logits(tmp_path, [row], task, made[:12]), first[:12])

    def test_a_smaller_share_is_part_of_a_larger_one(self, pairs: pd.DataFrame) -> None:
        small, large, whole = (set(training.part_of(pairs, s).tolist()) for s in (0.1, 0.5, 1.0))
        assert small < large < whole == set(range(len(pairs)))
        assert len(small) == 12
        assert pairs.loc[sorted(small), "group"].value_counts().eq(3).all()  # whole groups
        with pytest.raises(ValueError, match="share: expected more than 0 and at most 1, but got 0"):
            training.part_of(pairs, 0)

    def test_a_teacher_of_other_labels_is_refused(self, tiny_backbone: str, pairs: pd.DataFrame) -> None:
        _, task = sentences(pairs, slice(12))
        logits = dict.fromkeys(("train", "dev", "test"), np.zeros((12, 3), np.float32))
        with pytest.raises(
            training.TeacherError,
            match="expected 1 per row for the labels no, yes, but got 3: the teacher has other",
        ):
            training.read_splits(task, tiny_backbone, [9], logits)
