"""Facts about scale: the bill adds up by hand, what a scored job lacks is found, a roofline counts what is done."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import models
from dipair_lib.evaluation import results, schema
from dipair_lib.experiments import cost_estimate, scale
from dipair_lib.scoring import encoding, execution
from dipair_lib.scoring.jobs import Job
from dipair_lib.scoring.scorer import Scorer
from dipair_lib.system import disk


@pytest.fixture
def folder(tiny_backbone: str, tmp_path: Path, pairs: pd.DataFrame) -> Path:
    """A student, two collections and a job of the best three."""
    torch.manual_seed(0)
    model = models.DualEncoder(tiny_backbone, (10, 14), (3, 3), projection=8, hidden=(32, 16))
    models.save(model.eval(), tmp_path / "s")
    for side, (name, column, n) in enumerate((("a", "query", 9), ("b", "passage", 20))):
        texts = pairs[column].drop_duplicates()[:n]
        pd.DataFrame({"id": [f"{name}{i}" for i in range(n)], "text": texts}).to_parquet(
            tmp_path / f"{name}.parquet"
        )
        encoding.encode(tmp_path / "s", tmp_path / f"{name}.parquet", side, tmp_path / name)
    paths: dict[str, Any] = {
        "student": str(tmp_path / "s"),
        "left": str(tmp_path / "a"),
        "right": str(tmp_path / "b"),
    }
    execution.score(Job(**paths, top=3, tile=(4, 6)), tmp_path / "out")
    return tmp_path


class TestEstimate:
    measured = {"pairs_per_s": 1e6, "text_s": 1e-3, "bytes_per_text": 1000.0}

    def test_every_pair_by_hand(self) -> None:
        lines = cost_estimate.estimate(2e5, 3e5, **self.measured, price_per_hour=3.6).set_index("step")
        assert lines.loc["encode", "hours"] == pytest.approx(500 / 3600)
        assert lines.loc["encode", "bytes"] == pytest.approx(5e8)
        assert lines.loc["score", "count"] == pytest.approx(6e10)
        assert lines.loc["score", "hours"] == pytest.approx(6e4 / 3600)
        assert lines.loc["together", "money"] == pytest.approx(60.5)
        assert lines["machines"].tolist() == [1, 1, 1]

    def test_candidates_are_a_line_of_their_own(self) -> None:
        lines = cost_estimate.estimate(
            1e6, 1e6, **self.measured, candidates=100, candidates_per_s=1e7
        ).set_index("step")
        assert lines.loc["find candidates", "hours"] == pytest.approx(1e5 / 3600)
        assert lines.loc["score", "count"] == pytest.approx(1e8)
        assert lines.loc["find candidates", "machines"] == 2
        assert cost_estimate.shown(lines.reset_index())["machines for a day"].tolist() == [1, 2, 1, 2]
        few = cost_estimate.estimate(10, 50, **self.measured, candidates=100, candidates_per_s=1e7).set_index(
            "step"
        )
        assert few.loc["score", "count"] == 500

    def test_candidates_are_scored_at_the_rate_of_listed_pairs(self) -> None:
        given = {**self.measured, "candidates_per_s": 1e7, "listed_per_s": 1e4}
        few = cost_estimate.estimate(1e6, 1e6, **given, candidates=100).set_index("step")
        assert few.loc["score", "hours"] == pytest.approx(1e4 / 3600)
        every = cost_estimate.estimate(1e6, 1e6, **given).set_index("step")
        assert every.loc["score", "hours"] == pytest.approx(1e6 / 3600)

    def test_rates_must_be_above_zero(self) -> None:
        with pytest.raises(ValueError, match="expected numbers above 0"):
            cost_estimate.estimate(1, 1, **{**self.measured, "text_s": 0.0})


class TestRecheck:
    def test_a_whole_job_has_nothing_missing(self, folder: Path) -> None:
        lines = scale.recheck(folder / "out")
        assert lines["left"].tolist() == list(range(9))
        assert lines["kept"].eq(3).all() and lines["missing"].eq(0).all()
        assert lines["difference"].max() < 1e-5

    @pytest.mark.parametrize("harm", ["another score", "a row less", "another text"])
    def test_what_is_wrong_in_a_part_is_seen(self, folder: Path, harm: str) -> None:
        path = folder / "out" / "part-00000.parquet"
        part = pd.read_parquet(path)
        if harm == "a row less":
            part = part.drop(index=1)
        elif harm == "another score":
            part.loc[1, "score"] += 0.01
        else:
            kept = set(part["right"][:3])
            part.loc[1, "right"] = next(f"b{i}" for i in range(20) if f"b{i}" not in kept)
        part.to_parquet(path)
        lines = scale.recheck(folder / "out").set_index("left")
        wrong = (lines["missing"] > 0) | (lines["difference"] > 1e-5)
        assert wrong.tolist() == [True] + [False] * 8


class TestRates:
    def test_a_job_is_timed_once_and_its_rate_stays(self, folder: Path) -> None:
        job = Job(str(folder / "s"), str(folder / "a"), str(folder / "b"), top=3, tile=(4, 6))
        first = cost_estimate.timed_job(job, folder / "new")
        assert first["pairs"] == 9 * 20 and first["done_before"] == 0 and first["pairs_per_s"] > 0
        noted = folder / "new-rate.json"
        assert json.loads(noted.read_text()) == {"pairs_per_s": first["pairs_per_s"]}
        noted.write_text('{"pairs_per_s": 123.0}')
        again = cost_estimate.timed_job(job, folder / "new")
        assert again["done_before"] == again["units"] and again["pairs_per_s"] == 123.0

    def test_of_a_job_from_before_a_part_is_scored_again_elsewhere(self, folder: Path) -> None:
        job = Job(str(folder / "s"), str(folder / "a"), str(folder / "b"), top=3, tile=(4, 6))
        before = sorted(path.name for path in folder.iterdir())
        found = cost_estimate.timed_job(job, folder / "out")
        assert found["done_before"] == found["units"] and 0 < found["pairs_per_s"] < math.inf
        assert sorted(path.name for path in folder.iterdir()) == before

    def test_listed_pairs_are_all_scored_and_more_where_that_is_too_quick(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = Job(str(folder / "s"), str(folder / "a"), str(folder / "b"), top=3, tile=(4, 6))
        counted: list[dict[str, int]] = []
        score = execution.score

        def count(*given: Any, **named: Any) -> dict[str, int]:
            counted.append(score(*given, **named))
            return counted[-1]

        monkeypatch.setattr(execution, "score", count)
        monkeypatch.setattr(cost_estimate, "LEAST_S", math.inf)
        monkeypatch.setattr(cost_estimate, "LISTED", (70, 500))
        assert 0 < cost_estimate.listed_pairs_per_s(job, 7, "cpu") < math.inf
        assert [one["rows"] for one in counted] == [70, 560]
        assert [one["pairs"] for one in counted] == [70, 560]
        monkeypatch.setattr(cost_estimate, "LEAST_S", 0.0)
        cost_estimate.listed_pairs_per_s(job, 1000, "cpu")
        assert counted[2]["rows"] == 60, "no more candidates than right texts: three lists of 20"

    def test_what_is_opened_once_is_in_no_rate(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        job = Job(str(folder / "s"), str(folder / "a"), str(folder / "b"), top=3, tile=(4, 6))
        load = Scorer.load

        def slow(*given: Any, **named: Any) -> Scorer:
            time.sleep(1.5)
            return load(*given, **named)

        monkeypatch.setattr(Scorer, "load", slow)
        assert cost_estimate.timed_part(job, "cpu")[1] < 1.5


class TestRoofline:
    def test_it_counts_what_a_pair_costs(self, folder: Path) -> None:
        scorer = Scorer.load(folder / "s")
        left, right = scorer.prepare(["a"] * 9, 0), scorer.prepare(["b"] * 12, 1)
        lines = scale.roofline(scorer, left, right, turns=2)
        assert set(lines["way"]) == {"torch", *(["compiled"] if scorer.compiled else [])}
        first = lines.iloc[0]
        assert first["pairs"] == 9 * 12
        assert first["flops_per_pair"] == 2 * 32 * 16 + 2 * 16
        assert first["bytes_per_pair"] == pytest.approx(32 * 4 / 9 + 32 * 4 / 12 + 4)
        assert (lines["of_peak"] == lines["gflops"] / lines["peak_gflops"]).all()
        assert first["pairs_per_s_low"] <= first["pairs_per_s"] <= first["pairs_per_s_high"]
        assert len(scale.shown(lines)) == len(lines)


class TestStudent:
    def row(self, folder: Path, name: str, **fields: Any) -> str:
        row = schema.Result(
            run_id=f"03_dipair-1.{name}", created_utc="", notebook="03_dipair", suite="s", task="t", split="test", model=name,
            metric="auc", quality=0.8, n_examples=4,
            **{"family": "dipair", "read_lengths": "32+64", "combine_s_per_pair": 1e-6, **fields},
        )  # fmt: skip
        results.save_result(
            folder, row, np.array([[1.0], [1], [-1], [-1]]), np.array([1, 1, 0, 1]), np.arange(4)
        )
        (results.row_folder(folder, row.run_id) / "model").mkdir()
        return row.run_id

    def test_the_fastest_that_is_good_enough(self, tmp_path: Path) -> None:
        with pytest.raises(disk.ResultError, match=r"no clocked student for pairs here: .*suites/demo.yaml"):
            scale.student_of(tmp_path)
        slow = self.row(tmp_path, "slow", retained=0.97)
        assert scale.student_of(tmp_path).run_id == slow
        fast = self.row(tmp_path, "fast", retained=0.91, combine_s_per_pair=1e-7)
        self.row(tmp_path, "worse", retained=0.8, combine_s_per_pair=1e-8)
        self.row(tmp_path, "unclocked", retained=0.99, combine_s_per_pair=None)
        self.row(tmp_path, "teacher", retained=1.0, family="cross-encoder", combine_s_per_pair=1e-9)
        assert scale.student_of(tmp_path).run_id == fast
        assert scale.student_of(tmp_path, least=0.975).run_id == slow
        assert scale.student_of(tmp_path, slow).run_id == slow
        with pytest.raises(disk.ResultError, match="no row 'nobody'"):
            scale.student_of(tmp_path, "nobody")


def test_nothing_is_free(folder: Path) -> None:
    assert 0 < cost_estimate.cosine_pairs_per_s(16, 64, 0.01) < math.inf
