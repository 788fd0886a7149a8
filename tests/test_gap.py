"""Gap closed: by hand, paired, and where it is not defined. And what an interval over few seeds holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_tradeoff import TEACHER, floor, row, teacher

from dipair_lib.evaluation import bootstrap, gap, results
from dipair_lib.evaluation.schema import Result
from dipair_lib.reporting import derived, overview, selection, wording
from dipair_lib.reporting.criteria import Limits

LABELS = np.tile([0, 1, 0, 1, 0, 1, 0, 1, 0, 1], 40)
GROUPS = np.repeat(np.arange(40), 10)


def saved(folder: Path, one: Result, right: int) -> Result:
    """A row that classifies the first so many of the ten rows of each group as they are labelled, and the others the other way."""
    sign = np.where(np.arange(10) < right, 1.0, -1.0)
    logits = np.tile(sign, 40) * (2 * LABELS - 1)
    one = dataclasses.replace(one, metric="accuracy", quality=right / 10)
    results.save_result(folder, one, logits[:, None], LABELS, GROUPS)
    return one


@pytest.fixture
def rows(tmp_path: Path) -> list[Result]:
    """Accuracies 0.5 and 0.6 untrained, 0.9 the teacher, 0.75 and 0.4 two students; all the same in each group."""
    return [
        saved(tmp_path, teacher(), 9),
        saved(tmp_path, floor("constant", "constant", 0.5), 5),
        saved(tmp_path, floor("TF-IDF", "lexical", 0.6), 6),
        saved(tmp_path, row("half", retained=0.75 / 0.9), 8),
        saved(tmp_path, row("below"), 4),
    ]


class TestGap:
    def test_by_hand(self, rows: list[Result], tmp_path: Path) -> None:
        """From 0.6 to 0.9: 0.8 is two thirds of the way, 0.4 two thirds of it backwards. All groups are alike: no width."""
        data = derived.frame(rows, folder=tmp_path)
        assert data.loc[TEACHER, "gap"] == 1
        assert data["gap"].tolist()[1:] == pytest.approx([-1 / 3, 0, 2 / 3, -2 / 3])
        assert data.loc["run.half", ["gap_low", "gap_high"]].tolist() == pytest.approx([2 / 3, 2 / 3])
        assert data.loc["run.half", "floor"] == "TF-IDF (0.600)"
        assert overview.table(data).loc["run.half", "gap closed"] == "67 % (67 to 67)"
        assert overview.table(data).loc["run.below", "gap closed"] == "below it"

    def test_the_sentence_says_it_and_a_limit_may_be_set_on_it(
        self, rows: list[Result], tmp_path: Path
    ) -> None:
        data = derived.frame(rows, folder=tmp_path)
        choice = selection.select(data, Limits(min_retained=0.8))
        assert choice.winner == "run.half"
        said = "closes 67 % (67 to 67) of the gap between the untrained TF-IDF (0.600) and the teacher"
        assert said in choice.sentence
        assert selection.select(data, Limits(min_retained=None, min_gap=0.6)).winner == "run.half"
        none = selection.select(data, Limits(min_retained=None, min_gap=0.7))
        assert none.winner is None
        assert "closes 66.7 % of the gap to the teacher, below 70 %" in none.excluded["run.half"]

    def test_none_where_the_teacher_is_not_surely_above_the_floor(
        self, rows: list[Result], tmp_path: Path
    ) -> None:
        worse = saved(tmp_path, dataclasses.replace(rows[2], model="frozen cosine", run_id="run.worse"), 9)
        data = derived.frame([*rows, worse], folder=tmp_path)
        assert data["gap"].isna().all()

    def test_without_logits_a_share_without_an_interval(self, rows: list[Result]) -> None:
        rows = [
            dataclasses.replace(r, quality_low=r.quality - 0.01, quality_high=r.quality + 0.01)
            for r in rows
            if r.quality is not None
        ]
        data = derived.frame(rows)
        assert data.loc["run.half", "gap"] == pytest.approx(2 / 3)
        assert np.isnan(data.loc["run.half", "gap_low"])

    def test_the_best_untrained_row_is_the_floor(self, rows: list[Result]) -> None:
        assert [one.model for one in gap.floors_of(rows).values()] == ["TF-IDF"]


class TestSeeds:
    @pytest.mark.parametrize("n", [2, 3, 5])
    def test_an_interval_over_seeds_holds_the_truth(self, n: int) -> None:
        """Simulated: seeds spread four times as far as the test groups make unsure. 95 % of the intervals hold the mean of all seeds."""
        random = np.random.default_rng(n)
        held = []
        for _ in range(400):
            test_split = random.normal(0, 0.005)
            values = test_split + random.normal(0, 0.02, n)
            draws = [value + random.normal(0, 0.005, 200) for value in values]
            _, low, high = bootstrap.mean_over_seeds(values.tolist(), draws)
            held.append(low <= 0 <= high)
        assert np.mean(held) >= 0.93

    def test_by_hand(self) -> None:
        """Two seeds at 0.6 and 0.8 whose draws have no width: 0.7 -+ 12.706 * 0.1."""
        found = bootstrap.mean_over_seeds([0.6, 0.8], [np.full(50, 0.6), np.full(50, 0.8)])
        assert found == pytest.approx((0.7, 0.7 - 1.2706, 0.7 + 1.2706), abs=1e-3)

    def test_one_seed_has_the_percentiles(self) -> None:
        draws = np.linspace(0, 1, 1001)
        assert bootstrap.mean_over_seeds([0.5], [draws]) == pytest.approx((0.5, 0.025, 0.975))


def test_nothing_is_no_negative_nothing() -> None:
    assert [wording.percent(x, 0) for x in (-0.001, 0.001, -0.26)] == ["0 %", "0 %", "-26 %"]
