"""Independent checks of what is reported: metrics against scikit-learn, scipy and plain loops; intervals against plain draws; what a stated
95 % covers in simulated worlds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from dipair_lib import paired, quality

WORLDS = 120  # simulated; the standard error of a coverage of 0.95 is 0.02


def scores(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0 and 1, and scores that know something of them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 300)
    found = random.normal(labels, 1.5)
    return labels, np.round(found) if ties else found


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(10))
class TestMetrics:
    def test_of_two_classes(self, seed: int, ties: bool) -> None:
        labels, found = scores(seed, ties)
        ours = quality.evaluate(["auc", "accuracy", "f1"], labels, found[:, None], threshold=0.5)
        said = found > 0.5
        assert ours["auc"] == pytest.approx(sk.roc_auc_score(labels, found), abs=1e-12)
        assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, said), abs=1e-12)
        assert ours["f1"] == pytest.approx(sk.f1_score(labels, said), abs=1e-12)

    def test_of_grades(self, seed: int, ties: bool) -> None:
        labels, found = scores(seed, ties)
        grades = labels + np.random.default_rng(seed + 99).integers(0, 4, 300) / 2
        ours = quality.evaluate(["pearson", "spearman"], grades, found[:, None])
        assert ours["pearson"] == pytest.approx(stats.pearsonr(grades, found)[0], abs=1e-9)
        assert ours["spearman"] == pytest.approx(stats.spearmanr(grades, found)[0], abs=1e-9)

    def test_of_rankings(self, seed: int, ties: bool) -> None:
        """Ties count as the mean over their orders: here over many random ones."""
        labels, found = scores(seed, ties)
        groups = np.repeat(np.arange(20), 15)
        ours = quality.evaluate(["ndcg@10", "mrr@10"], labels, found[:, None], groups)
        random = np.random.default_rng(seed)
        turns = [rankings(labels, found, groups, random) for _ in range(400 if ties else 1)]
        near = 0.01 if ties else 1e-12
        assert ours["ndcg@10"] == pytest.approx(np.mean([turn[0] for turn in turns]), abs=near)
        assert ours["mrr@10"] == pytest.approx(np.mean([turn[1] for turn in turns]), abs=near)

    def test_the_threshold_has_the_best_f1_of_all(self, seed: int, ties: bool) -> None:
        labels, found = scores(seed, ties)
        chosen = quality.threshold_of(labels, found[:, None])
        every = [sk.f1_score(labels, found > cut) for cut in np.append(np.unique(found) - 1e-9, found.max())]
        assert sk.f1_score(labels, found > chosen) == pytest.approx(max(every), abs=1e-12)


def rankings(
    labels: np.ndarray, found: np.ndarray, groups: np.ndarray, random: np.random.Generator
) -> tuple[float, float]:
    """Mean nDCG@10 and MRR@10, equal scores in one random order."""
    gains, firsts = [], []
    weight = 1 / np.log2(np.arange(2, 12))
    for group in np.unique(groups):
        inside = groups == group
        order = np.lexsort((random.random(inside.sum()), -found[inside]))
        ranked = labels[inside][order]
        if not ranked.any():
            continue
        gains.append((ranked[:10] * weight).sum() / (np.sort(ranked)[::-1][:10] * weight).sum())
        first = int(np.argmax(ranked))
        firsts.append(1 / (first + 1) if first < 10 else 0.0)
    return float(np.mean(gains)), float(np.mean(firsts))


def test_an_interval_is_that_of_plain_draws_of_groups() -> None:
    """Every row of a drawn group is copied as often as the group was drawn, and scikit-learn looks at the copies."""
    labels, found = scores(0, False)
    groups = np.random.default_rng(1).integers(0, 40, 300)
    ours = quality.interval("auc", labels, found[:, None], groups, n_boot=200, seed=5)
    random, names = np.random.default_rng(5), np.unique(groups)
    drawn = []
    for start in range(0, 200, quality.CHUNK):
        for row in random.integers(0, len(names), (min(quality.CHUNK, 200 - start), len(names))):
            rows = np.concatenate([np.flatnonzero(groups == names[one]) for one in row])
            drawn.append(sk.roc_auc_score(labels[rows], found[rows]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (ours["quality_low"], ours["quality_high"]) == pytest.approx((low, high), abs=1e-12)


class TestCoverage:
    """A world has groups of rows that are hard or easy together, as the candidates of one query are; its true accuracy is 0.7."""

    def world(self, seed: int, groups: int, rows: int = 20) -> tuple[np.ndarray, np.ndarray]:
        """Whether each row is right, and its group: a group's own accuracy is of a beta distribution of mean 0.7."""
        random = np.random.default_rng(seed)
        right = random.random((groups, rows)) < random.beta(1.4, 0.6, (groups, 1))
        return right.ravel(), np.repeat(np.arange(groups), rows)

    def covered(self, groups: int, by_rows: bool = False) -> float:
        hits = 0
        for seed in range(WORLDS):
            right, group = self.world(seed, groups)
            unit = np.arange(len(group)) if by_rows else group
            labels = np.ones(len(right), int)
            logits = np.where(right, 1.0, -1.0)[:, None]
            found = quality.interval("accuracy", labels, logits, unit, n_boot=300, seed=seed)
            hits += found["quality_low"] <= 0.7 <= found["quality_high"]
        return hits / WORLDS

    @pytest.mark.parametrize("groups", [43, 300])
    def test_groups_hold_the_truth(self, groups: int) -> None:
        assert 0.89 <= self.covered(groups) <= 0.99

    def test_rows_do_not(self) -> None:
        """Why groups are the unit: pairs that share a query, taken one by one, promise far too much."""
        assert self.covered(43, by_rows=True) < 0.7

    @pytest.mark.parametrize("seeds", [2, 3, 5])
    def test_few_seeds_that_differ_hold_the_truth(self, seeds: int) -> None:
        """Each seed has its own true quality around 0.7; test groups move all of them together."""
        hits, random = 0, np.random.default_rng(seeds)
        for _ in range(2000):
            values = 0.7 + random.normal(0, 0.02, seeds) + random.normal(0, 0.01)
            moved = random.normal(0, 0.01, 400)  # each draw of test groups is the same for all seeds
            draws = [value + moved for value in values]
            low, high = paired.ends(float(values.mean()), [draws])
            assert low is not None and high is not None
            hits += low <= 0.7 <= high
        assert hits / 2000 >= 0.93
