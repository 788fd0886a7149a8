"""What is reported, compared with textbook code: metrics, intervals over groups, gap closed. And what the intervals cover in simulated
worlds whose true values are known."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from test_tradeoff import floor, row, teacher

from dipair_lib.evaluation import bootstrap, gap, metrics, results
from dipair_lib.evaluation.schema import Result
from dipair_lib.reporting import derived

EXACT: dict[str, Any] = {"rel": 0, "abs": 1e-9}
REFERENCE: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auc": sk.roc_auc_score,
    "accuracy": lambda labels, score: sk.accuracy_score(labels, score > 0),
    "f1": lambda labels, score: sk.f1_score(labels, score > 0, zero_division=0),
    "pearson": lambda labels, score: stats.pearsonr(labels, score)[0],
    "spearman": lambda labels, score: stats.spearmanr(labels, score)[0],
}


def drawn_from(seed: int, ties: bool, n: int = 150) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Labels 0 and 1, and scores that know a little of them."""
    random = np.random.default_rng(seed)
    labels = np.append([0, 1], random.random(n - 2) < random.uniform(0.1, 0.9)).astype(int)
    score = labels + random.normal(0, 1.5, n)
    return random, labels, score.round() if ties else score


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
class TestMetrics:
    def test_two_classes(self, seed: int, ties: bool) -> None:
        _, labels, score = drawn_from(seed, ties)
        for least in (-0.5, 0.0, 1.0):  # whole numbers: with ties, some scores lie on the threshold
            found = metrics.evaluate(["auc", "accuracy", "f1"], labels, score[:, None], threshold=least)
            assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, score), **EXACT)
            assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, score > least), **EXACT)
            assert found["f1"] == pytest.approx(sk.f1_score(labels, score > least), **EXACT)

    def test_many_classes(self, seed: int, ties: bool) -> None:
        random, _, _ = drawn_from(seed, ties)
        labels, logits = random.integers(0, 4, 90), random.normal(size=(90, 5))
        logits = logits.round() if ties else logits
        found = metrics.evaluate(["accuracy", "macro_f1"], labels, logits)
        predicted = np.array([row.tolist().index(max(row)) for row in logits])
        assert found["accuracy"] == pytest.approx(np.mean(predicted == labels), **EXACT)
        assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"), **EXACT)

    def test_the_threshold_has_the_best_f1_of_all(self, seed: int, ties: bool) -> None:
        _, labels, score = drawn_from(seed, ties)
        chosen = metrics.threshold_of(labels, score[:, None])
        every = [sk.f1_score(labels, score > cut) for cut in (*(np.unique(score) - 1e-9), score.max())]
        assert sk.f1_score(labels, score > chosen) == pytest.approx(max(every), **EXACT)

    def test_correlations(self, seed: int, ties: bool) -> None:
        random, labels, score = drawn_from(seed, ties)
        grades = labels * 2 + random.integers(0, 4, len(labels)) / 2
        found = metrics.evaluate(["pearson", "spearman"], grades, score[:, None])
        assert found["pearson"] == pytest.approx(stats.pearsonr(grades, score)[0], **EXACT)
        assert found["spearman"] == pytest.approx(stats.spearmanr(grades, score)[0], **EXACT)

    def test_rankings(self, seed: int, ties: bool) -> None:
        """Queries of one to 15 texts, in mixed order. A query without a relevant text is left out."""
        random, labels, score = drawn_from(seed, ties)
        groups = random.permutation(np.repeat(np.arange(20), np.append(np.arange(1, 16), [6] * 5)))
        labels, score = labels[: len(groups)], score[: len(groups)]
        groups = groups[: len(labels)]
        gains = labels * random.integers(1, 4, len(labels))
        found = metrics.evaluate(["ndcg@10", "mrr@10"], labels, score[:, None], groups, gains)
        asked = [groups == q for q in np.unique(groups) if labels[groups == q].any()]
        ndcg = [ndcg_at_10(gains[q], score[q]) for q in asked]
        assert found["ndcg@10"] == pytest.approx(np.mean(ndcg), **EXACT)
        mrr = [mrr_at_10(labels[q], score[q]) for q in asked]
        assert found["mrr@10"] == pytest.approx(np.mean(mrr), **EXACT)


def ndcg_at_10(gains: np.ndarray, score: np.ndarray) -> float:
    """Of one query. scikit-learn takes the mean over the orders of equal scores, but refuses a single text."""
    return float(sk.ndcg_score(gains[None], score[None], k=10)) if len(gains) > 1 else 1.0


def mrr_at_10(labels: np.ndarray, score: np.ndarray) -> float:
    """Of one query: the mean over all places that the relevant texts of the best relevant score may take among their equals."""
    best = score[labels == 1].max()
    ahead, equal = int((score > best).sum()), score == best
    places = itertools.combinations(range(int(equal.sum())), int(labels[equal].sum()))
    ranks = np.array([ahead + place[0] + 1 for place in places])
    return float(np.where(ranks <= 10, 1 / ranks, 0).mean())


class TestDraws:
    def test_groups_are_drawn_with_replacement(self) -> None:
        """As many as there are; a group's rows go together; counts have the mean 1 and the variance 1 - 1 / n of such draws."""
        groups = np.random.default_rng(0).permutation(np.repeat([3, 8, 9, 20, 21], [1, 2, 3, 4, 5]))
        weights = np.concatenate(list(bootstrap.draw_groups(groups, 5000, seed=1)))
        assert weights.shape == (5000, 15)
        counts = np.stack([weights[:, groups == g].mean(1) for g in np.unique(groups)], axis=1)
        assert all((weights[:, groups == g] == counts[:, [i]]).all() for i, g in enumerate(np.unique(groups)))
        assert set(counts.sum(1)) == {5}
        assert counts.mean(0) == pytest.approx(1, abs=0.06)
        assert counts.var(0) == pytest.approx(0.8, abs=0.08)

    @pytest.mark.parametrize("metric", list(REFERENCE))
    def test_an_interval_is_that_of_rows_repeated(self, metric: str) -> None:
        """Draw by draw: the rows of a group are copied as often as it was drawn, and textbook code looks at the copies."""
        random, labels, student = drawn_from(7, ties=True)
        better, groups = labels * 2 + random.normal(size=150), random.integers(0, 30, 150)
        weights = np.concatenate(list(bootstrap.draw_groups(groups, 150, seed=3)))
        copies = [np.repeat(np.arange(150), row.astype(int)) for row in weights]
        own = np.array([REFERENCE[metric](labels[c], student[c]) for c in copies])
        above = np.array([REFERENCE[metric](labels[c], better[c]) for c in copies])
        assert metrics.METRICS[metric](labels, student[:, None], weights) == pytest.approx(own, **EXACT)
        found = bootstrap.interval(
            metric, labels, student[:, None], groups, teacher_logits=better[:, None], n_boot=150, seed=3
        )
        for name, draws in (("quality", own), ("retained", own / above)):
            ends = [found[f"{name}_low"], found[f"{name}_high"]]
            assert ends == pytest.approx(np.percentile(draws, [2.5, 97.5]), **EXACT)


LABELS, GROUPS = np.tile([0, 1], 120), np.repeat(np.arange(40), 6)


def saved(folder: Path, one: Result, share: float, seed: int) -> tuple[Result, np.ndarray]:
    """A row that is right on about such a share of the test rows, more often in some groups; and where it is right."""
    random = np.random.default_rng(seed)
    right = random.random(240) < np.clip(share + random.normal(0, 0.15, 40), 0, 1)[GROUPS]
    one = dataclasses.replace(one, metric="accuracy", quality=float(right.mean()), seed=seed)
    results.save_result(folder, one, np.where(right == LABELS, 1.0, -1.0)[:, None], LABELS, GROUPS)
    return one, right


class TestGap:
    def test_of_three_seeds_with_a_teacher_each(self, tmp_path: Path) -> None:
        """A share of each seed; percentiles of the groups' draws and Student's t of the seeds, whose squares add up."""
        below, base = saved(tmp_path, floor("TF-IDF", "lexical", 0.5), 0.5, 10)
        taught = [saved(tmp_path, teacher(run_id=f"01.teacher-{s}"), 0.9, s) for s in range(3)]
        students = [
            saved(tmp_path, row(f"s{s}", teacher_run=f"01.teacher-{s}"), 0.6 + 0.1 * s, 20 + s)
            for s in range(3)
        ]
        rows = [below, *(one for one, _ in (*taught, *students))]
        models, sure = [[one for one, _ in students]], {one.run_id for one, _ in taught}
        found = gap.closed(models, rows, sure, tmp_path)[0].share
        # By hand, on the same draws of groups.
        weights = np.concatenate(list(bootstrap.draw_groups(GROUPS, bootstrap.N_BOOT, seed=0)))
        at = [(s, t) for (_, s), (_, t) in zip(students, taught, strict=True)]
        plain = [(s.mean() - base.mean()) / (t.mean() - base.mean()) for s, t in at]
        draws = np.array(
            [
                [(w @ s - w @ base) / (w @ t - w @ base) for w in weights]  # the rows' number cancels out
                for s, t in ((s.astype(float), t.astype(float)) for s, t in at)
            ]
        )
        middle, (low, high) = np.mean(plain), np.percentile(draws.mean(0), [2.5, 97.5])
        of_seeds = 4.302653 * np.std(draws.mean(1), ddof=1) / np.sqrt(3)
        ends = (
            middle - np.sqrt((middle - low) ** 2 + of_seeds**2),
            middle + np.sqrt((high - middle) ** 2 + of_seeds**2),
        )
        assert found == pytest.approx((middle, *ends), abs=1e-6)
        assert np.isnan(gap.closed(models, rows, sure - {"01.teacher-1"}, tmp_path)[0].share).all()

    @pytest.mark.parametrize("share", [0.3, 0.65, 0.75, 0.95])
    def test_none_unless_the_teacher_is_surely_above(self, share: float, tmp_path: Path) -> None:
        """Surely: the plain paired interval of the difference lies above 0. At 0.65 it is above, but not surely."""
        below, base = saved(tmp_path, floor("TF-IDF", "lexical", 0.5), 0.5, 10)
        top, right = saved(tmp_path, teacher(), share, 1)
        student, own = saved(tmp_path, row("student"), 0.6, 2)
        gain = np.array([right[g == GROUPS].sum() - int(base[g == GROUPS].sum()) for g in range(40)])
        random = np.random.default_rng(5)
        low = np.percentile([gain[random.integers(0, 40, 40)].sum() for _ in range(4000)], 2.5)
        assert (low > 3) == (share >= 0.75) and abs(low) > 3  # far enough from 0 for any draws
        table = derived.frame([top, below, student], folder=tmp_path)
        plain = (own.mean() - base.mean()) / (right.mean() - base.mean()) if low > 0 else np.nan
        assert table.loc[student.run_id, "gap"] == pytest.approx(plain, **EXACT, nan_ok=True)


def covered(groups: int, unit: str = "groups", worlds: int = 150) -> dict[str, float]:
    """How often intervals hold the truth, in worlds of so many groups of five rows that are alike.

    AUC: a group has a mood that moves its scores, and most of its rows are of one class. Retained: the accuracies' ratio, true 0.6 / 0.8,
    where a group is easy or hard for both.
    """
    truth = {"quality": stats.norm.cdf(1 / np.sqrt(2 * (1 + 1))), "retained": 0.6 / 0.8}
    held = {name: 0 for name in truth}
    for world in range(worlds):
        random = np.random.default_rng([groups, world])
        group = np.repeat(np.arange(groups), 5)
        drawn = group if unit == "groups" else np.arange(len(group))
        common = (random.random(groups) < 0.5)[group] ^ (random.random(len(group)) < 0.05)
        score = common + random.normal(size=groups)[group] + random.normal(size=len(group))
        auc = bootstrap.interval("auc", common.astype(int), score[:, None], drawn, n_boot=300, seed=world)
        ease = random.normal(size=groups)[group]
        says = [
            np.where(
                stats.norm.cdf(np.sqrt(0.9) * ease + np.sqrt(0.1) * random.normal(size=len(group))) < p,
                1.0,
                -1.0,
            )
            for p in (0.6, 0.8)
        ]
        ratio = bootstrap.interval(
            "accuracy", np.ones(len(group), int), says[0][:, None], drawn,
            teacher_logits=says[1][:, None], n_boot=300, seed=world,
        )  # fmt: skip
        for name, found in (("quality", auc), ("retained", ratio)):
            held[name] += found[f"{name}_low"] <= truth[name] <= found[f"{name}_high"]
    return {name: n / worlds for name, n in held.items()}


class TestCoverage:
    """What is said to be 95 %."""

    def test_many_groups(self) -> None:
        assert all(0.90 <= share <= 0.98 for share in covered(200).values())

    def test_few_groups(self) -> None:
        """43 of them: percentiles are a little too narrow there."""
        assert all(0.88 <= share <= 0.98 for share in covered(43, worlds=300).values())

    def test_rows_in_place_of_groups_promise_too_much(self) -> None:
        assert all(share < 0.8 for share in covered(200, "rows", worlds=80).values())

    def test_three_seeds(self) -> None:
        """Seeds that differ more than test groups make unsure: a mean and a difference. Without the seeds' part, few would hold it."""
        random, group = np.random.default_rng(4), np.repeat(np.arange(60), 5)
        weights = np.concatenate(list(bootstrap.draw_groups(group, 200, seed=0)))
        held = []
        for _ in range(300):
            ease = random.normal(0, 0.08, 60)[group]
            sides = []
            for mean in (0.6, 0.7):
                chance = mean + random.normal(0, 0.06, (3, 1)) + ease
                sides.append((random.random((3, 300)) < chance).astype(float))
            draws = [[weights @ right / weights.sum(1) for right in side] for side in sides]
            _, low, high = bootstrap.mean_over_seeds([r.mean() for r in sides[0]], draws[0])
            first, second = ([bootstrap.Drawn(d, "test") for d in side] for side in draws)
            ends = bootstrap.difference(first, second)
            assert ends is not None and ends[0] is not None and ends[1] is not None
            alone = np.percentile(np.mean(draws[0], axis=0), [2.5, 97.5])
            held.append((low <= 0.6 <= high, ends[0] <= 0.1 <= ends[1], alone[0] <= 0.6 <= alone[1]))
        one, two, groups_alone = np.mean(held, axis=0)
        assert 0.92 <= one <= 0.995
        assert two >= 0.92
        assert groups_alone < 0.85
