"""Facts about the metrics: small numbers by hand, equality with scikit-learn, intervals that draw groups and compare in pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from dipair_lib.evaluation import bootstrap, metrics


def one(values: list[float]) -> np.ndarray:
    return np.array(values, np.float64)[:, None]


class TestByHand:
    def test_auc_counts_ties_as_half(self) -> None:
        # positives .9 and .5, negatives .5 and .1: won 1 + 1 + 1, tied 1 -> 3.5 of 4
        assert metrics.evaluate(["auc"], np.array([1, 1, 0, 0]), one([0.9, 0.5, 0.5, 0.1]))["auc"] == 3.5 / 4

    def test_the_threshold_of_one_logit_is_zero(self) -> None:
        assert metrics.evaluate(["accuracy", "f1"], np.array([1, 0, 1, 0]), one([0.1, 0.2, -0.1, -3])) == {
            "accuracy": 0.5,
            "f1": 0.5,
        }

    def test_two_logits_score_by_their_difference(self) -> None:
        two = np.array([[5.0, 6.0], [9.0, 1.0], [0.0, 0.5], [1.0, 1.2]])
        labels = np.array([1, 0, 1, 0])
        assert metrics.evaluate(["auc"], labels, two) == metrics.evaluate(
            ["auc"], labels, one([1, -8, 0.5, 0.2])
        )

    def test_a_constant_score_has_no_correlation(self) -> None:
        assert metrics.evaluate(["pearson", "spearman"], np.array([1.0, 2.0, 3.0]), one([7, 7, 7])) == {
            "pearson": None,
            "spearman": None,
        }


class TestAgainstLibraries:
    @pytest.fixture
    def random(self) -> np.random.Generator:
        return np.random.default_rng(5)

    def test_binary(self, random: np.random.Generator) -> None:
        labels = random.integers(0, 2, 300)
        logits = one((labels * 0.7 + random.normal(size=300)).round(1).tolist())
        found = metrics.evaluate(["auc", "accuracy", "f1"], labels, logits)
        predicted = logits[:, 0] > 0
        assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, logits[:, 0]))
        assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
        assert found["f1"] == pytest.approx(sk.f1_score(labels, predicted))

    def test_classes(self, random: np.random.Generator) -> None:
        labels, logits = random.integers(0, 4, 200), random.normal(size=(200, 4))
        found = metrics.evaluate(["accuracy", "macro_f1"], labels, logits)
        assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, logits.argmax(1), average="macro"))
        assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, logits.argmax(1)))

    def test_scores(self, random: np.random.Generator) -> None:
        labels = random.integers(0, 5, 200).astype(np.float32)
        logits = one((labels + random.normal(size=200)).round(0).tolist())
        found = metrics.evaluate(["pearson", "spearman"], labels, logits)
        assert found["pearson"] == pytest.approx(stats.pearsonr(labels, logits[:, 0])[0])
        assert found["spearman"] == pytest.approx(stats.spearmanr(labels, logits[:, 0])[0])

    @pytest.mark.parametrize("metric", ["auc", "accuracy", "f1", "pearson", "spearman"])
    def test_a_weight_of_two_is_the_row_twice(self, metric: str, random: np.random.Generator) -> None:
        labels, logits = random.integers(0, 2, 60), one(random.normal(size=60).round(1).tolist())
        weights = random.integers(0, 3, 60)
        repeated = np.repeat(np.arange(60), weights)
        weighted = metrics.METRICS[metric](labels, logits, weights[None].astype(float))[0]
        assert weighted == pytest.approx(
            metrics.evaluate([metric], labels[repeated], logits[repeated])[metric]
        )


class TestIntervals:
    def test_groups_are_drawn_not_rows(self) -> None:
        """Ten groups of one hundred equal rows each: the interval is that of ten observations, not of a thousand."""
        labels = np.repeat(np.arange(10) % 2, 100)
        logits = one(np.repeat([1, 1, -1, 1, -1, 1, -1, -1, -1, 1], 100).tolist())
        groups = np.repeat(np.arange(10), 100)
        drawn = bootstrap.interval("accuracy", labels, logits, groups)
        rows = bootstrap.interval("accuracy", labels, logits, np.arange(1000))
        width = [r["quality_high"] - r["quality_low"] for r in (drawn, rows)]
        assert width[0] > 5 * width[1]

    def test_a_student_equal_to_its_teacher_keeps_exactly_everything(self) -> None:
        random = np.random.default_rng(0)
        labels, logits = random.integers(0, 2, 80), random.normal(size=(80, 1))
        found = bootstrap.interval("auc", labels, logits, np.arange(80), teacher_logits=logits)
        assert [found[k] for k in ("retained", "retained_low", "retained_high")] == [1.0, 1.0, 1.0]

    def test_pairing_makes_the_comparison_narrower_than_the_metric(self) -> None:
        random = np.random.default_rng(0)
        labels = random.integers(0, 2, 400)
        teacher = one((labels + random.normal(size=400)).tolist())
        student = teacher + random.normal(size=(400, 1)) * 0.05
        found = bootstrap.interval("auc", labels, student, np.arange(400), teacher_logits=teacher)
        assert (
            found["retained_high"] - found["retained_low"]
            < (found["quality_high"] - found["quality_low"]) / 3
        )

    def test_the_interval_covers_the_truth_about_as_often_as_it_says(self) -> None:
        truth, hits = 0.7, 0
        for seed in range(200):
            random = np.random.default_rng(seed)
            right = random.random(150) < truth
            found = bootstrap.interval(
                "accuracy",
                np.ones(150, int),
                one(np.where(right, 1, -1).tolist()),
                np.arange(150),
                n_boot=200,
            )
            hits += found["quality_low"] <= truth <= found["quality_high"]
        assert 0.88 <= hits / 200 <= 0.99

    def test_a_draw_without_both_classes_is_left_out(self) -> None:
        found = bootstrap.interval("auc", np.array([1, 0, 0]), one([1, 0, 2]), np.arange(3))
        assert found["quality"] == 0.5
        assert found["quality_low"] is not None


class TestBadInput:
    @pytest.mark.parametrize(
        ("metric", "labels", "logits", "message"),
        [
            ("auc", [1, 1], [[0.0], [1.0]], "both classes 0 and 1"),
            ("auc", [1, 0], [[0.0], [np.nan]], "not finite, the first is row 1"),
            ("auc", [1, 0], [[0.0]], r"expected shape \[2, outputs\]"),
            ("pearson", [2.0, 2.0], [[0.0], [1.0]], "labels that differ"),
            ("bleu", [1, 0], [[0.0], [1.0]], "expected one of auc"),
        ],
    )
    def test_no_number_from_what_cannot_have_one(
        self, metric: str, labels: list[float], logits: list[list[float]], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            metrics.evaluate([metric], np.array(labels), np.array(logits))


class TestRanking:
    """Per query, ties as the mean over their orders."""

    def test_reciprocal_rank_by_hand(self) -> None:
        # Query 0: relevant at ranks 2 and 3. Query 1: two texts tie for rank 1, one is relevant: 1 or 1/2. Query 2 has none: left out.
        groups = np.array([0, 0, 0, 1, 1, 2])
        labels = np.array([0, 1, 1, 1, 0, 0])
        logits = one([3, 2, 1, 5, 5, 1])
        assert metrics.ranking("mrr@10", labels, logits, groups) == pytest.approx((1 / 2 + 3 / 4) / 2)

    def test_beyond_ten_counts_nothing(self) -> None:
        labels = np.array([0] * 10 + [1])
        logits = one([float(11 - i) for i in range(11)])
        assert metrics.ranking("mrr@10", labels, logits, np.zeros(11, int)) == 0
        assert metrics.ranking("ndcg@10", labels, logits, np.zeros(11, int)) == 0

    def test_discounted_gain_by_hand_and_as_scikit_learn_has_it(self) -> None:
        labels, gains = np.array([0, 1, 1]), np.array([0.0, 1.0, 3.0])
        found = metrics.ranking("ndcg@10", labels, one([3, 2, 1]), np.zeros(3, int), gains)
        assert found == pytest.approx((1 / np.log2(3) + 3 / 2) / (3 + 1 / np.log2(3)))
        random = np.random.default_rng(0)
        groups, scores = np.repeat(np.arange(20), 15), random.integers(0, 5, 300).astype(float)
        graded = random.integers(0, 4, 300).astype(float)
        expected = [
            sk.ndcg_score(graded[groups == q][None], scores[groups == q][None], k=10) for q in range(20)
        ]
        assert metrics.ranking("ndcg@10", graded, scores[:, None], groups) == pytest.approx(np.mean(expected))

    def test_the_order_of_the_rows_plays_no_part(self) -> None:
        random = np.random.default_rng(1)
        groups, labels = random.integers(0, 8, 100), random.integers(0, 2, 100)
        logits = random.integers(0, 6, (100, 1)).astype(float)
        mixed = random.permutation(100)
        for metric in metrics.RANKING:
            assert metrics.ranking(metric, labels, logits, groups) == pytest.approx(
                metrics.ranking(metric, labels[mixed], logits[mixed], groups[mixed])
            )

    def test_expected_rank_under_ties_is_that_of_random_orders(self) -> None:
        random = np.random.default_rng(2)
        labels, logits = np.array([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]), one([2, 2, *[1] * 11])
        orders = [np.lexsort((random.random(13), -logits[:, 0])) for _ in range(20_000)]
        ranks = np.array([np.flatnonzero(labels[order])[0] + 1 for order in orders])
        expected = np.where(ranks <= 10, 1 / ranks, 0).mean()
        assert metrics.ranking("mrr@10", labels, logits, np.zeros(13, int)) == pytest.approx(
            expected, abs=0.003
        )

    def test_without_queries_it_is_refused(self) -> None:
        with pytest.raises(ValueError, match="ndcg@10: expected the query of each row"):
            metrics.evaluate(["ndcg@10"], np.array([0, 1]), one([1, 2]))


class TestThreshold:
    """The score above which the rarer class is meant."""

    def test_by_hand(self) -> None:
        """All three positives above 0.5, one negative among them: F1 6/7 from there on, half-way between 0.4 and 0.2."""
        labels = np.array([1, 1, 0, 1, 0, 0])
        logits = np.array([[0.9], [0.8], [0.5], [0.4], [0.2], [-1.0]])
        assert metrics.threshold_of(labels, logits) == pytest.approx(0.3)

    def test_equal_scores_stay_together(self) -> None:
        labels, logits = np.array([1, 0, 0, 0]), np.array([[1.0], [1.0], [1.0], [0.0]])
        assert metrics.threshold_of(labels, logits) == pytest.approx(0.5)

    def test_without_a_row_of_class_1_it_is_zero(self) -> None:
        assert metrics.threshold_of(np.array([0, 0]), np.array([[-3.0], [-2.0]])) == 0

    def test_everything_may_be_above_it(self) -> None:
        assert metrics.threshold_of(np.array([1, 1]), np.array([[3.0], [2.0]])) < 2

    @pytest.mark.parametrize("seed", range(5))
    def test_no_other_has_a_better_f1(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        labels, logits = random.integers(0, 5, 200) // 4, random.normal(size=(200, 1)).round(1)
        best = metrics.evaluate(["f1"], labels, logits, threshold=metrics.threshold_of(labels, logits))["f1"]
        others = [
            metrics.evaluate(["f1"], labels, logits, threshold=t)["f1"]
            for t in np.linspace(-3, 3, 121) + 1e-9
        ]
        assert best is not None and best >= max(f for f in others if f is not None)

    def test_classes_are_told_apart_at_it_and_ranks_are_not(self) -> None:
        """Scores far below 0: at 0 no row is of class 1, F1 0 and accuracy 0.5."""
        labels, logits = np.array([0, 0, 1, 1]), np.array([[-9.0], [-8.0], [-7.0], [-6.0]])
        names = ["f1", "accuracy", "auc"]
        assert list(metrics.evaluate(names, labels, logits).values()) == [0.0, 0.5, 1.0]
        assert list(metrics.evaluate(names, labels, logits, threshold=-7.5).values()) == [1.0, 1.0, 1.0]
