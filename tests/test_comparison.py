"""Facts about folders compared with each other: paired differences by hand, and what is never compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipair_lib.evaluation import bootstrap, metrics, results
from dipair_lib.evaluation.schema import Result
from dipair_lib.reporting import comparison, report
from dipair_lib.system import disk

LABELS = np.tile([0, 0, 1, 1], 10)
GROUPS = np.repeat(np.arange(10), 4)
NOISE = np.random.default_rng(0).normal(size=(4, 40))


def logits_of(signal: float, draw: int) -> np.ndarray:
    """[40, 1]: the label times a signal, and noise."""
    return (signal * LABELS + NOISE[draw])[:, None].astype(np.float32)


def save(
    folder: Path, name: str, logits: np.ndarray, seed: int = 0, stored: bool = True, **fields: Any
) -> Result:
    """A row whose quality is its logits' AUC, with or without those logits."""
    found = bootstrap.interval("auc", LABELS, logits, GROUPS)
    known: dict[str, Any] = {
        "run_id": f"03_dipair-{seed}.{results.slug(name)}", "created_utc": "2026-01-01T00:00:00+00:00", "notebook": "03_dipair",
        "suite": "demo", "task": "toy", "split": "test", "model": name, "family": "dipair", "seed": seed, "metric": "auc",
        "data_sha256": "a" * 64, "retained": 0.9, "combine_s_per_pair": 1e-6, "device_name": "Abacus 3000", "device": "cpu", "threads": 2,
        "parameters": "{}", **found,
    }  # fmt: skip
    row = Result(**{**known, **fields})
    results.save_result(folder, row, logits, LABELS, GROUPS)
    if not stored:
        (results.row_folder(folder, row.run_id) / "logits.npz").unlink()
    return row


def sides(tmp_path: Path) -> tuple[comparison.Opened, comparison.Opened]:
    return comparison.opened(tmp_path / "before"), comparison.opened(tmp_path / "after")


class TestPairs:
    def test_the_difference_is_the_paired_bootstraps_on_the_logits(self, tmp_path: Path) -> None:
        first = save(tmp_path / "before", "student", logits_of(0.5, 0))
        second = save(tmp_path / "after", "student", logits_of(1.5, 1))
        line = comparison.lines(*sides(tmp_path), "toy").iloc[0]
        drawn = [
            [metrics.auc(LABELS, logits, weights) for weights in bootstrap.draw_groups(GROUPS, 1000, seed=0)]
            for logits in (logits_of(0.5, 0), logits_of(1.5, 1))
        ]
        low, high = bootstrap.bounds(np.concatenate(drawn[1]) - np.concatenate(drawn[0]))
        assert line["difference"] == pytest.approx((second.quality or 0) - (first.quality or 0))
        assert (line["difference_low"], line["difference_high"]) == (pytest.approx(low), pytest.approx(high))

    def test_seeds_are_drawn_too_and_the_difference_is_that_of_the_means(self, tmp_path: Path) -> None:
        values = [
            [
                save(tmp_path / side, "student", logits_of(signal, seed), seed).quality or 0
                for seed in range(3)
            ]
            for side, signal in (("before", 0.5), ("after", 1.0))
        ]
        line = comparison.lines(*sides(tmp_path), "toy").iloc[0]
        assert line["difference"] == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
        assert line["difference_low"] < line["difference"] < line["difference_high"]

    def test_the_same_logits_differ_by_nothing(self, tmp_path: Path) -> None:
        for side in ("before", "after"):
            save(tmp_path / side, "student", logits_of(1.0, 0))
        found = comparison.lines(*sides(tmp_path), "toy")
        assert found.loc[0, comparison.DIFFERENCE].tolist() == [0, 0, 0]
        assert "0 are surely better" in comparison.sentence(*sides(tmp_path), "toy", found)

    def test_without_logits_the_two_intervals_stand_side_by_side(self, tmp_path: Path) -> None:
        save(tmp_path / "before", "student", logits_of(0.5, 0), stored=False)
        save(tmp_path / "after", "student", logits_of(1.5, 1))
        before, after = sides(tmp_path)
        found = comparison.lines(before, after, "toy")
        table = comparison.table(before, after, found, comparison.machines([before, after]))
        assert table.loc[0, "difference"] == "–"
        assert " to " in str(table.loc[0, "quality, before"]) and " to " in str(
            table.loc[0, "quality, after"]
        )
        assert comparison.figure(before, after, found) is None
        assert "cannot be paired" in comparison.sentence(before, after, "toy", found)

    def test_other_test_rows_under_one_hash_are_not_paired(self, tmp_path: Path) -> None:
        save(tmp_path / "before", "student", logits_of(0.5, 0))
        row = save(tmp_path / "after", "student", logits_of(1.5, 1))
        results.save_result(tmp_path / "after", row, logits_of(1.5, 1), LABELS[::-1], GROUPS)
        assert np.isnan(comparison.lines(*sides(tmp_path), "toy").loc[0, "difference"])

    def test_what_was_trained_differently_is_said(self, tmp_path: Path) -> None:
        save(
            tmp_path / "before",
            "student",
            logits_of(0.5, 0),
            parameters='{"epochs":1,"loss":"hard","seed":0,"out":"x"}',
        )
        save(
            tmp_path / "after",
            "student",
            logits_of(0.5, 1),
            parameters='{"epochs":3,"loss":"hard","seed":1,"out":"y"}',
        )
        assert comparison.lines(*sides(tmp_path), "toy").loc[0, "differs"] == "epochs 1 → 3"


class TestPages:
    @pytest.fixture(autouse=True)
    def without_the_folders_own_figures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(report, "FIGURES", {})  # they are tested elsewhere, and take seconds

    def page(self, tmp_path: Path, *more: Path) -> str:
        path = report.compare([tmp_path / "before", tmp_path / "after", *more])
        assert path == tmp_path / "comparison.html"
        return path.read_text(encoding="utf8")

    def test_the_answer_comes_first_and_the_table_holds_both(self, tmp_path: Path) -> None:
        save(tmp_path / "before", "student", logits_of(0.5, 0))
        save(tmp_path / "before", "gone", logits_of(0.4, 0), parameters='{"layers":2}')
        save(tmp_path / "after", "student", logits_of(3.0, 1))
        page = self.page(tmp_path)
        assert page.index("1 is surely better in after") < page.index("<svg") < page.index("<td>gone</td>")
        assert "1 model is in before only." in page and "in after only" not in page
        assert page.count("<title>student: +0.") == 1

    def test_other_data_under_one_name_is_said_and_not_compared(self, tmp_path: Path) -> None:
        save(tmp_path / "before", "student", logits_of(0.5, 0))
        save(tmp_path / "after", "student", logits_of(1.5, 1), data_sha256="b" * 64)
        page = self.page(tmp_path)
        assert "hold different data under this name (fingerprints aaaaaaaaaaaa and bbbbbbbbbbbb)" in page
        assert "surely better" not in page

    def test_rows_that_do_not_name_their_data_are_not_compared(self, tmp_path: Path) -> None:
        for side in ("before", "after"):
            save(tmp_path / side, "student", logits_of(0.5, 0), data_sha256=None)
        assert "fingerprints unknown and unknown" in self.page(tmp_path)

    def test_clocks_of_two_machines_stand_with_their_machine_and_no_ratio(self, tmp_path: Path) -> None:
        save(tmp_path / "before", "student", logits_of(0.5, 0))
        save(
            tmp_path / "after",
            "student",
            logits_of(0.5, 0),
            device_name="Difference Engine",
            combine_s_per_pair=1e-7,
        )
        page = self.page(tmp_path)
        compared = page[: page.index('<h2 class="part">')]
        assert ">1 M, machine 1</td>" in compared and ">10 M, machine 2</td>" in compared
        assert "Abacus 3000 (cpu, 2 threads)" in compared and "Difference Engine (cpu, 2 threads)" in compared
        assert "10x" not in page and "0.1x" not in page

    def test_two_tasks_stand_side_by_side(self, tmp_path: Path) -> None:
        save(tmp_path / "before", "student", logits_of(0.5, 0))
        save(tmp_path / "after", "student", logits_of(0.5, 0), task="other")
        page = self.page(tmp_path)
        assert "Measured in before only." in page and "Measured in after only." in page

    def test_several_are_held_against_the_first(self, tmp_path: Path) -> None:
        for name in ("before", "after", "later"):
            save(tmp_path / name, "student", logits_of(0.5, 0))
        page = self.page(tmp_path, tmp_path / "later")
        assert "after against before" in page and "later against before" in page

    def test_a_page_over_the_limit_leaves_the_folders_sections_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path / "before", "student", logits_of(0.5, 0))
        save(tmp_path / "after", "student", logits_of(1.5, 1))
        whole = self.page(tmp_path)
        monkeypatch.setattr(report, "SIZE_LIMIT", len(whole.encode("utf8")) - 1)
        page = self.page(tmp_path)
        assert page.count("are left out here") == 2 and "Everything measured" not in page
        assert "after against before" in page and ">student</td>" in page
        monkeypatch.setattr(report, "SIZE_LIMIT", 1000)
        with pytest.raises(disk.ResultError, match="over the 2 MB"):
            self.page(tmp_path)

    def test_the_same_folder_twice_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path / "before", "student", logits_of(0.5, 0))
        with pytest.raises(disk.ResultError, match="named twice"):
            report.compare([tmp_path / "before", tmp_path / "after" / ".." / "before"])

    def test_folders_of_one_name_are_told_apart(self, tmp_path: Path) -> None:
        assert comparison.names_of([tmp_path / "a" / "demo", tmp_path / "b" / "demo"]) == ["a/demo", "b/demo"]

    def test_text_from_data_is_escaped(self, tmp_path: Path) -> None:
        hostile = "<script>alert(1)</script>\x1b[31m\u202e <img src=x onerror=alert(2)>"
        save(tmp_path / "before", hostile, logits_of(0.5, 0), task=hostile, device_name=hostile)
        shutil.copytree(tmp_path / "before", tmp_path / "after")
        page = self.page(tmp_path)
        assert "<script" not in page and "<img" not in page and "\x1b" not in page and "\u202e" not in page
        assert "&lt;script&gt;" in page
