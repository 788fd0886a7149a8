"""Calibration and agreement: against plain loops and scipy, by hand, and what the table and the report say of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from test_gap import GROUPS, LABELS, saved
from test_tradeoff import floor, row, teacher

from dipair_lib.evaluation import results
from dipair_lib.evaluation.schema import Logits, Result
from dipair_lib.reporting import agreement, derived, report, wording

RANDOM = np.random.default_rng(3)


def by_loops(labels: np.ndarray, chances: np.ndarray, bins: int) -> float:
    """The definition, bin by bin."""
    sure, right = chances.max(1), chances.argmax(1) == labels
    total = 0.0
    for b in range(bins):
        inside = (sure >= b / bins) & ((sure < (b + 1) / bins) | (b == bins - 1))
        if inside.any():
            total += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    return total


class TestCalibration:
    @pytest.mark.parametrize("outputs", [2, 3])
    def test_is_the_definition(self, outputs: int) -> None:
        logits, labels = RANDOM.normal(0, 2, (500, outputs)), RANDOM.integers(0, outputs, 500)
        found = agreement.calibration_error(labels, logits)
        assert found == pytest.approx(by_loops(labels, special.softmax(logits, 1), 15), abs=1e-12)

    def test_one_logit_is_a_log_odds(self) -> None:
        logits, labels = RANDOM.normal(0, 2, (500, 1)), RANDOM.integers(0, 2, 500)
        chance = special.expit(logits[:, 0])
        found = agreement.calibration_error(labels, logits)
        assert found == pytest.approx(by_loops(labels, np.stack([1 - chance, chance], 1), 15), abs=1e-12)

    def test_by_hand(self) -> None:
        """Ten rows said to be of class 1 with a chance of 0.8, eight of them are: nothing off; five of them: 0.3 off."""
        logits = np.full((10, 1), np.log(4.0))
        assert agreement.calibration_error(np.array([1] * 8 + [0] * 2), logits) == pytest.approx(0.0)
        assert agreement.calibration_error(np.array([1] * 5 + [0] * 5), logits) == pytest.approx(0.3)

    def test_log_odds_of_thousands_are_no_overflow(self) -> None:
        found = agreement.calibration_error(np.array([1, 0]), np.array([[5_000.0], [-5_000.0]]))
        assert found == 0.0


class TestAgreement:
    def test_order_is_spearman_with_ties_and_knows_no_scale(self) -> None:
        ours, theirs = (RANDOM.integers(0, 9, (200, 1)).astype(float) for _ in range(2))
        found = agreement.same_order(ours, theirs)
        assert found == pytest.approx(stats.spearmanr(ours[:, 0], theirs[:, 0])[0], abs=1e-12)
        assert agreement.same_order(np.exp(ours), 3 * theirs - 1) == pytest.approx(found)
        two = np.hstack([np.zeros_like(theirs), theirs])  # the same log-odds, from two logits
        assert agreement.same_order(ours, two) == pytest.approx(found)

    def test_none_of_three_classes_and_of_a_constant(self) -> None:
        assert agreement.same_order(np.ones((5, 1)), np.arange(5.0)[:, None]) is None
        assert agreement.same_order(np.ones((5, 3)), np.ones((5, 3))) is None

    def test_each_at_its_own_threshold(self) -> None:
        """Scores 1 to 4: the student's threshold lets two through, the teacher's three; they agree on three of four."""
        logits = np.arange(1.0, 5.0)[:, None]
        labels = np.array([0, 0, 1, 1])
        found = Logits(logits, labels, np.arange(4), "test")
        student = dataclasses.replace(row("s"), threshold=2.5)
        taught = dataclasses.replace(teacher(), threshold=1.5)
        values = agreement.measured(student, found, taught, found)
        assert values[agreement.SAME_CLASS] == 0.75
        assert values[agreement.SAME_ORDER] == pytest.approx(1.0)

    def test_other_test_rows_are_not_compared(self) -> None:
        one = Logits(np.ones((2, 1)), np.array([0, 1]), np.arange(2), "test")
        other = Logits(np.ones((2, 1)), np.array([1, 1]), np.arange(2), "test")
        assert agreement.SAME_CLASS not in agreement.measured(row("s"), one, teacher(), other)


class TestTable:
    @pytest.fixture
    def rows(self, tmp_path: Path) -> list[Result]:
        """A teacher, a floor, a student of two seeds that differ in nDCG."""
        seeds = [
            dataclasses.replace(row("half"), run_id=f"run.half{n}", seed=n, metrics=f'{{"ndcg@10":{value}}}')
            for n, value in enumerate((0.5, 0.7))
        ]
        return [
            saved(tmp_path, teacher(), 9),
            saved(tmp_path, floor("TF-IDF", "lexical", 0.6), 6),
            *(saved(tmp_path, one, 8) for one in seeds),
        ]

    def found(self, rows: list[Result], folder: Path) -> pd.DataFrame:
        data = derived.frame(rows, folder=folder)
        return agreement.table(data, rows, folder).set_index("model")

    def test_means_over_seeds_and_agreement(self, rows: list[Result], tmp_path: Path) -> None:
        half = self.found(rows, tmp_path).loc["half"]
        assert half["nDCG@10"] == "0.600"
        # 80 % and 90 % of each ten rows are right, and the wrong ones of the teacher are wrong here too
        assert half[agreement.SAME_CLASS] == "90.0 %"
        assert half[agreement.SAME_ORDER] == f"{stats.spearmanr(*self.both())[0]:.3f}"

    def both(self) -> list[np.ndarray]:
        """The scores of a model that gets eight rows of ten right, and of one that gets nine."""
        signs = [np.where(np.arange(10) < right, 1.0, -1.0) for right in (8, 9)]
        return [np.tile(sign, 40) * (2 * LABELS - 1) for sign in signs]

    def test_a_dash_for_the_teacher_itself(self, rows: list[Result], tmp_path: Path) -> None:
        found = self.found(rows, tmp_path)
        assert found.loc["teacher", agreement.SAME_CLASS] == wording.DASH
        assert found.loc["TF-IDF", "nDCG@10"] == wording.DASH

    def test_a_damaged_file_of_logits_is_left_out(self, rows: list[Result], tmp_path: Path) -> None:
        (results.row_folder(tmp_path, "run.half0") / "logits.npz").write_bytes(b"PK")
        with pytest.warns(UserWarning):
            half = self.found(rows, tmp_path).loc["half"]
        assert (
            half[agreement.SAME_CLASS] == wording.DASH and half["nDCG@10"] == "0.500"
        )  # the line is one seed's

    def test_the_report_has_it(self, rows: list[Result], tmp_path: Path) -> None:
        page = report.write(tmp_path).read_text(encoding="utf8")
        assert "other metrics, agreement with the teacher" in page and agreement.CALIBRATION in page

    def test_without_anything_to_say_there_is_no_table(self, tmp_path: Path) -> None:
        one = dataclasses.replace(row("alone"), metric="pearson")
        results.save_result(tmp_path, one, np.arange(400.0)[:, None], LABELS.astype(float), GROUPS)
        assert "other metrics, agreement" not in report.write(tmp_path).read_text(encoding="utf8")
