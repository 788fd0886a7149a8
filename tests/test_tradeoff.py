"""Facts about what is derived from rows: exact small numbers, the front, the choice under limits, pictures, the page."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dipair_lib.evaluation import results, schema
from dipair_lib.evaluation.schema import Result
from dipair_lib.reporting import (
    answer,
    derived,
    explorer,
    guard,
    overview,
    report,
    report_details,
    selection,
    wording,
)
from dipair_lib.reporting.criteria import Limits
from dipair_lib.reporting.figures import tradeoff
from dipair_lib.system import disk

TEACHER = "01_teacher-0.teacher"
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e & <img src=x onerror=alert(2)>"


def row(name: str, family: str = "dipair", **fields: Any) -> Result:
    """A row with a clock: quality .8 of the teacher's .9, a microsecond per pair, a millisecond per text."""
    known: dict[str, Any] = {
        "run_id": "run." + re.sub(r"[^A-Za-z0-9-]+", "-", name)[:40],
        "created_utc": "2026-01-01T00:00:00+00:00",
        "notebook": "03_dipair",
        "suite": "demo",
        "task": "toy",
        "split": "test",
        "model": name,
        "family": family,
        "head": "ffnn",
        "keep": 8,
        "read_lengths": "16+32",
        "metric": "auc",
        "quality": 0.8,
        "quality_low": 0.78,
        "quality_high": 0.82,
        "retained": 0.8 / 0.9,
        "retained_low": 0.87,
        "retained_high": 0.91,
        "n_boot": 1000,
        "teacher_run": TEACHER,
        "seed": 0,
        "steps": 10,
        "train_seconds": 1.0,
        "params_total": 1000,
        "bytes_per_text": 512.0,
        "flops_per_pair": 2000.0,
        "dtype": "float32",
        "tokenize_s_per_text": 2e-4,
        "encode_s_per_text": 8e-4,
        "combine_s_per_pair": 1e-6,
        "combine_s_per_pair_q1": 0.9e-6,
        "combine_s_per_pair_q3": 1.25e-6,
        "latency_p95_s": 0.01,
        "teacher_s_per_pair": 1e-2,
        "teacher_fastest_s_per_pair": 2e-3,
        "teacher_fastest_dtype": "bfloat16",
        "peak_gflops": 100.0,
        "noisy": False,
        "data_sha256": "0" * 64,
        "parameters": json.dumps({"task": "toy"}),
    }
    return Result(**{**known, **fields})


def teacher(**fields: Any) -> Result:
    own = {
        "quality": 0.9,
        "quality_low": 0.88,
        "quality_high": 0.92,
        "retained": 1.0,
        "retained_low": 1.0,
        "retained_high": 1.0,
    }
    speed = {
        "encode_s_per_text": None,
        "tokenize_s_per_text": None,
        "combine_s_per_pair": 1e-2,
        "bytes_per_text": None,
    }
    clock = {"combine_s_per_pair_q1": 0.9e-2, "combine_s_per_pair_q3": 1.1e-2, "keep": None, "head": None}
    return row("teacher", "cross-encoder", **{**own, **speed, **clock, "run_id": TEACHER, **fields})


def floor(name: str, family: str, quality: float, **fields: Any) -> Result:
    untrained = {"steps": None, "train_seconds": None, "keep": None, "notebook": "01_teacher"}
    return row(
        name,
        family,
        quality=quality,
        quality_low=quality - 0.02,
        quality_high=quality + 0.02,
        **{**untrained, **fields},
    )


@pytest.fixture
def rows() -> list[Result]:
    return [
        teacher(),
        floor("constant", "constant", 0.5),
        floor("TF-IDF", "lexical", 0.6),
        floor("frozen cosine", "dual-encoder", 0.7, head="cosine"),
        row("fast"),
        row("good", quality=0.88, quality_low=0.86, quality_high=0.9, retained=0.88 / 0.9, retained_low=0.965, retained_high=0.99,
            combine_s_per_pair=1e-5, combine_s_per_pair_q1=0.9e-5, combine_s_per_pair_q3=1.1e-5, keep=16),
        row("beaten", quality=0.75, combine_s_per_pair=2e-6),
        row("not clocked", quality=0.89, combine_s_per_pair=None, combine_s_per_pair_q1=None, combine_s_per_pair_q3=None),
    ]  # fmt: skip


class TestSeeds:
    """Three seeds of one model, two groups: the line is their mean, with an interval that holds the seeds."""

    LABELS, GROUPS = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])

    def save(self, folder: Path, one: Result, right: int) -> Result:
        """Logits that classify the first ``right`` of the four rows as they are labelled."""
        logits = np.where(np.arange(4) < right, 1.0, -1.0) * (2 * self.LABELS - 1)
        one = dataclasses.replace(one, metric="accuracy", quality=right / 4)
        results.save_result(folder, one, logits[:, None], self.LABELS, self.GROUPS)
        return one

    @pytest.fixture
    def seeds(self, tmp_path: Path) -> list[Result]:
        clock: dict[str, Any] = {"combine_s_per_pair": None}
        rows = [
            row("many", run_id=f"run.many-{seed}", seed=seed, **({} if seed == 1 else clock))
            for seed in range(3)
        ]
        taught = self.save(tmp_path, teacher(), 4)
        return [
            taught,
            *(self.save(tmp_path, one, right) for one, right in zip(rows, (1, 2, 3), strict=True)),
        ]

    def test_mean_with_an_interval_over_groups_and_seeds(self, seeds: list[Result], tmp_path: Path) -> None:
        seeds = [dataclasses.replace(one, data_sha256=None) for one in seeds]  # as of rows that do not say it
        data = derived.frame(seeds, folder=tmp_path)
        assert list(data.index) == [TEACHER, "run.many-1"]  # the clocked seed's line
        line = data.loc["run.many-1"]
        assert (line["quality"], line["retained"], line["seeds"]) == (0.5, 0.5, 3)
        # seed 0 is right once in the first group, seed 2 wholly there and once in the second: draws reach from 0 to 1
        assert line["quality_low"] < 0.25
        assert line["quality_high"] > 0.75
        assert overview.table(data)["remarks"].tolist()[1] == "on the front, mean of 3 seeds"

    def test_what_was_trained_differently_is_another_model(self, seeds: list[Result], tmp_path: Path) -> None:
        """A fourth row of that name, trained longer: not one of the seeds, and called by what differs."""
        known = {"task": "toy", "stage2_epochs": 0.5, "seed": 0}
        seeds[1:] = [
            dataclasses.replace(
                one, parameters=json.dumps({**known, "seed": one.seed, "clock": str(one.seed)})
            )
            for one in seeds[1:]
        ]
        longer = dataclasses.replace(
            seeds[1], run_id="run.longer", parameters=json.dumps({**known, "stage2_epochs": 1.0})
        )
        seeds.append(self.save(tmp_path, longer, 4))
        data = derived.frame(seeds, folder=tmp_path)
        assert data["model"].tolist() == ["teacher", "many, stage2_epochs 0.5", "many, stage2_epochs 1.0"]
        assert data["quality"].tolist() == [1.0, 0.5, 1.0]
        assert data["seeds"].tolist() == [1, 3, 1]

    def test_students_of_an_earlier_teacher_are_another_model(
        self, seeds: list[Result], tmp_path: Path
    ) -> None:
        """The teacher was trained again, and taught a student of the same name: no mean over two teachers."""
        newer = dataclasses.replace(seeds[0], run_id="run.newer", created_utc="2999-01-01T00:00:00Z")
        its = dataclasses.replace(seeds[1], run_id="run.its", teacher_run="run.newer")
        seeds += [self.save(tmp_path, newer, 8), self.save(tmp_path, its, 4)]
        data = derived.frame(seeds, folder=tmp_path)
        assert data.loc["run.its", ["model", "seeds"]].tolist() == ["many", 1]
        assert data.loc["run.many-1", ["model", "seeds"]].tolist() == ["many, teacher 1 before the newest", 3]

    def test_without_logits_one_seed_stands_for_all_and_says_so(
        self, seeds: list[Result], tmp_path: Path
    ) -> None:
        (results.row_folder(tmp_path, "run.many-2") / "logits.npz").unlink()
        for folder in (tmp_path, None):
            data = derived.frame(seeds, folder=folder)
            assert data.loc["run.many-1", "quality"] == 0.5
            assert data.loc["run.many-1", "quality_low"] == 0.78
            assert overview.table(data)["remarks"].tolist()[1] == "on the front, one of 3 seeds"


class TestDerived:
    def test_by_hand(self, rows: list[Result]) -> None:
        line = derived.frame(rows, reuse=100).loc["run.fast"]
        assert line["pairs_per_s"] == pytest.approx(1e6)
        assert (line["pairs_per_s_low"], line["pairs_per_s_high"]) == pytest.approx((8e5, 1 / 0.9e-6))
        # one pair, and a hundredth of two texts of a millisecond each
        assert line["pairs_per_s_reuse"] == pytest.approx(1 / (1e-6 + 2 * 1e-3 / 100))
        assert line["speedup"] == pytest.approx(1e4)
        assert line["speedup_vs_fastest"] == pytest.approx(2e3)
        assert line["peak_fraction"] == pytest.approx(2000 * 1e6 / 100e9)

    def test_a_cross_encoder_pays_nothing_per_text(self, rows: list[Result]) -> None:
        line = derived.frame(rows).loc[TEACHER]
        assert line["text_s"] == 0
        assert line["pairs_per_s_once"] == line["pairs_per_s"] == pytest.approx(100)

    def test_what_was_not_clocked_is_missing_not_zero(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        assert np.isnan(data.loc["run.not-clocked", "pairs_per_s"])
        table = overview.table(data).set_index("model")
        assert table.at["not clocked", "pairs/s, cached"] == wording.DASH

    def test_the_front_holds_what_nothing_beats_on_both(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        front = set(data[data["pareto"]]["model"])
        assert {"teacher", "good", "fast"} <= front
        assert "beaten" not in front

    def test_sanity_order(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        assert guard.sanity(data)["holds"].tolist() == [None, True, True, True]
        worse = derived.frame(
            [dataclasses.replace(r, quality=0.65) if r.run_id == TEACHER else r for r in rows]
        )
        assert guard.sanity(worse)["holds"].tolist()[-1] is False


class TestSelect:
    def test_the_fastest_within_the_limits(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        assert selection.select(data, Limits(min_retained=0.95, reuse=1e6)).winner == "run.good"
        assert selection.select(data, Limits(min_retained=0.80, reuse=1e6)).winner == "run.fast"

    def test_each_other_model_has_its_reason(self, rows: list[Result]) -> None:
        choice = selection.select(derived.frame(rows), Limits(min_retained=0.95))
        assert "teacher" in choice.excluded[TEACHER]
        assert "run.fast" in choice.excluded
        assert set(choice.excluded) | {choice.winner, *choice.alternatives} == {r.run_id for r in rows}

    def test_when_nothing_is_within_the_limits_it_says_so_and_names_the_nearest(
        self, rows: list[Result]
    ) -> None:
        choice = selection.select(derived.frame(rows), Limits(min_retained=0.999))
        assert choice.winner is None
        assert choice.sentence.startswith("No model here keeps at least 99.9 %")
        assert "good" in choice.sentence

    def test_an_interval_below_the_limit_is_said(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        assert "Not certain" in selection.select(data, Limits(min_retained=0.97)).sentence
        assert "Not certain" not in selection.select(data, Limits(min_retained=0.95)).sentence
        assert selection.select(data, Limits(min_retained=0.97, sure=True)).winner is None

    def test_the_teacher_beside_a_student_is_its_own(self, rows: list[Result]) -> None:
        """0.88 of 0.9: also where the teacher's row is the mean of several seeds."""
        data = derived.frame(rows)
        data.loc[TEACHER, "quality"] = 0.95
        assert (
            "0.880 (0.860 to 0.900), its teacher 0.900"
            in selection.select(data, Limits(min_retained=0.95)).sentence
        )

    def test_few_pairs_per_text_keep_the_teacher(self, rows: list[Result]) -> None:
        """A text costs 1 ms, a pair 10 µs, the teacher at its fastest 2 ms a pair: 2 texts for one pair cost more, for two pairs less."""
        data = derived.frame(rows)
        assert answer.pairs_to_pay(data.loc["run.good"]) == 2
        once = selection.select(data, Limits(min_retained=0.95, reuse=1))
        assert once.winner == TEACHER
        assert once.alternatives == ("run.good",)
        assert once.sentence.startswith("Keep the teacher: at 1 pair per text no student here that keeps")
        assert "is no slower below 2 pairs per text." in once.sentence
        assert TEACHER not in once.excluded
        twice = selection.select(data, Limits(min_retained=0.95, reuse=2))
        assert twice.winner == "run.good"
        assert "Below 2 pairs per text keep the teacher" in twice.sentence

    def test_a_teacher_that_breaks_a_limit_is_not_kept(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        asked = Limits(min_retained=0.95, reuse=1, min_pairs_per_s=400)
        assert (
            selection.select(data, asked).winner == "run.good"
        )  # 497 pairs/s, the teacher at this dtype 100

    def test_a_cache_limit_is_none_for_a_cross_encoder(self, rows: list[Result]) -> None:
        cross = row("cross", "cross-encoder", quality=0.89, retained=0.99, combine_s_per_pair=1e-3, encode_s_per_text=None,
                    tokenize_s_per_text=None, bytes_per_text=None)  # fmt: skip
        data = derived.frame([*rows, cross])
        assert (
            selection.select(data, Limits(min_retained=0.95, max_cache_bytes=1.0, n_texts=1e9)).winner
            == "run.cross"
        )

    @pytest.mark.parametrize(
        "limits",
        [
            Limits(max_p95_s=1e-3),
            Limits(max_cache_bytes=1.0),
            Limits(min_pairs_per_s=1e12),
            Limits(max_params=1),
        ],
    )
    def test_every_limit_excludes(self, limits: Limits, rows: list[Result]) -> None:
        assert (
            selection.select(derived.frame(rows), dataclasses.replace(limits, min_retained=None)).winner
            is None
        )

    def test_tasks_are_never_mixed(self, rows: list[Result]) -> None:
        with pytest.raises(ValueError, match="rows of one task"):
            selection.select(derived.frame([*rows, row("other", task="another")]))


class TestSessions:
    def test_another_machines_clock_is_never_beside_the_teachers(self, rows: list[Result]) -> None:
        here = [dataclasses.replace(one, device="cpu", device_name="Abacus", threads=2) for one in rows]
        fast = row(
            "elsewhere",
            quality=0.89,
            retained=0.99,
            device="cpu",
            device_name="Abacus",
            threads=64,
            combine_s_per_pair=1e-9,
        )
        choice = selection.select(derived.frame([*here, fast]), Limits(min_retained=0.95))
        assert choice.winner == "run.good"
        assert (
            choice.excluded["run.elsewhere"]
            == "clocked elsewhere (Abacus, 64 threads), not beside the others"
        )
        assert selection.select(derived.frame([*rows, fast]), Limits(min_retained=0.95)).winner == "run.good"

    def test_several_sessions_are_said(self, rows: list[Result]) -> None:
        one = [dataclasses.replace(r, clock_id="a") for r in rows]
        two = [dataclasses.replace(r, clock_id="b" if r.model == "fast" else "a") for r in rows]
        for made, said in ((one, False), (two, True)):
            sentence = selection.select(derived.frame(made), Limits(min_retained=0.95)).sentence
            assert ("clocks are of 2 sessions" in sentence) == said


class TestSingleTexts:
    """One field: a text is encoded for one answer, so nothing is cached and every rate holds the encoding."""

    @pytest.fixture
    def single(self) -> list[Result]:
        return [teacher(read_lengths="48"), row("good", quality=0.88, retained=0.978, read_lengths="16")]

    def test_the_encoding_is_in_the_rate(self, single: list[Result]) -> None:
        """1 ms to encode and 1 µs after it: 999 texts/s, 9.99 times the teacher's 100 and not ten thousand times."""
        line = derived.frame(single).loc["run.good"]
        assert line["pairs_per_s"] == pytest.approx(1 / (1e-3 + 1e-6))
        assert line["pairs_per_s_reuse"] == line["pairs_per_s_once"] == line["pairs_per_s"]
        assert line["speedup"] == line["speedup_reuse"] == pytest.approx(1e-2 / (1e-3 + 1e-6))
        assert line["pairs_per_s_low"] == pytest.approx(1 / (1e-3 + 1.25e-6))
        assert line["bytes_per_text"] == 0

    def test_words_and_axes_speak_of_texts(self, single: list[Result], tmp_path: Path) -> None:
        data = derived.frame(single)
        said = selection.select(data, Limits(min_retained=0.95)).sentence
        assert "It scores 999 texts/s, encoding included, 9.99x the teacher" in said
        assert "cache" not in said
        assert "pairs" not in said
        shown = overview.table(data)
        assert {"texts/s", "encoding", "after it"} <= set(shown)
        assert not [name for name in shown if "pairs/s" in name or "per pair" in name or "cache" in name]
        assert (
            tradeoff.draw("quality_speed", data).axes[0].get_xlabel() == "texts per second, encoding included"
        )
        page = report.write(saved(tmp_path, single)).read_text(encoding="utf8")
        assert "<th>texts/s</th>" in re.sub(r"<th[^>]*>", "<th>", page)


class TestPictures:
    def test_every_clocked_row_is_a_point_at_its_numbers(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        figure = tradeoff.draw("quality_speed", data)
        drawn: dict[str, Any] = {str(line.get_gid()): line for line in figure.axes[0].lines}
        points = {gid.split(":", 2)[2]: line for gid, line in drawn.items() if gid.startswith("row:")}
        assert set(points) == set(data.index[data["pairs_per_s"].notna()])
        assert points["run.fast"].get_xydata().tolist() == [[pytest.approx(1e6), 0.8]]
        assert figure.axes[0].get_xscale() == "log"

    @pytest.mark.parametrize("name", ["quality_speed", "kept", "price"])
    def test_pictures_of_one_row_and_of_no_clock_are_drawn(self, name: str) -> None:
        bare = row("alone", combine_s_per_pair=None, combine_s_per_pair_q1=None, combine_s_per_pair_q3=None)
        for data in (derived.frame([teacher()]), derived.frame([bare])):
            tradeoff.draw(name, data).draw_without_rendering()

    def test_hover_texts_are_in_the_svg(self, rows: list[Result]) -> None:
        data = derived.frame(rows)
        text = report.svg(tradeoff.draw("quality_speed", data), data, "quality_speed")
        assert "<title>fast: auc 0.800" in text.replace("AUC-ROC", "auc")
        assert text.count("<title>") == data["pairs_per_s"].notna().sum()


def saved(folder: Path, rows: list[Result]) -> Path:
    """A results folder that holds only rows.jsonl, as a committed reference does."""
    (folder / "rows.jsonl").write_text("".join(r.to_json() + "\n" for r in rows), encoding="utf8")
    return folder


class TestPage:
    def test_one_file_without_script_or_address(self, rows: list[Result], tmp_path: Path) -> None:
        path = report.write(saved(tmp_path, rows))
        page = path.read_text(encoding="utf8")
        assert path.stat().st_size < 2_000_000
        assert not re.search(r"<script|https?://|//cdn|@import|url\((?!#)|<link|<iframe", page)
        assert not re.search(r"\b(src|href)=\"(?!#)", page)

    def test_the_answer_stands_before_the_pictures(self, rows: list[Result], tmp_path: Path) -> None:
        page = report.write(saved(tmp_path, rows)).read_text(encoding="utf8")
        assert page.index("good is the fastest model here that keeps at least 95 %") < page.index("<svg")
        assert "Sanity order holds" in page

    def test_rows_of_changed_code_are_counted(self, rows: list[Result], tmp_path: Path) -> None:
        made = [dataclasses.replace(one, git_commit="a" * 40, git_dirty=i < 2) for i, one in enumerate(rows)]
        page = report.write(saved(tmp_path, made)).read_text(encoding="utf8")
        assert "aaaaaaaaaaaa (2 rows with changes that were not committed)" in page

    def test_text_from_data_is_escaped(self, rows: list[Result], tmp_path: Path) -> None:
        rows[4] = row(
            HOSTILE,
            run_id="run.hostile",
            quality=0.89,
            retained=0.99,
            data_notes=json.dumps({HOSTILE: {HOSTILE: HOSTILE}}),
        )
        rows = [dataclasses.replace(r, task=HOSTILE, data_notes=json.dumps({HOSTILE: HOSTILE})) for r in rows]
        page = report.write(saved(tmp_path, rows)).read_text(encoding="utf8")
        assert "<script" not in page
        assert "<img" not in page
        assert "\x1b" not in page
        assert "\u202e" not in page
        assert "&lt;script&gt;" in page

    def test_every_text_of_a_row_is_escaped_cleaned_and_cut(self, rows: list[Result], tmp_path: Path) -> None:
        fields = [
            name for name, kinds in schema.field_types().items()
            if str in kinds and name not in {"run_id", "family", "split", "metric", "teacher_run", "clock_id", "data_sha256"}
            and name not in {"keep", "projection", "read_lengths", "parameters", "data_notes", "metrics"}
        ]  # fmt: skip
        evil = HOSTILE + "\0\x9b2J\u061c" + "w" * 100_000
        noted = {name: json.dumps({evil: evil}) for name in ("parameters", "data_notes")}
        spoiled: dict[str, Any] = {
            **dict.fromkeys(fields, evil),
            **noted,
            "created_utc": "2026-01-01T00:00:00+00:00",
        }
        hostile = [dataclasses.replace(r, **{**spoiled, "model": f"{r.model} {evil}"}) for r in rows]
        page = report.write(saved(tmp_path, hostile)).read_text(encoding="utf8")
        shown = explorer.static(derived.frame(hostile), Limits())
        for text in (page, shown, selection.select(derived.frame(hostile)).sentence):
            assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u202e]", text)
            assert "w" * 5000 not in text
        for text in (page, shown):
            assert not re.search(r"<script|<img|\son\w+\s*=\s*['\"]?alert[^;]*>", text)

    def test_tables_hold_the_rows(self, rows: list[Result], tmp_path: Path) -> None:
        page = report.write(saved(tmp_path, rows)).read_text(encoding="utf8")
        for one in rows:
            assert f"<td>{one.model}</td>" in page

    def test_an_empty_folder_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(disk.ResultError, match="run a suite first"):
            report.write(tmp_path)

    def test_the_command_names_the_own_data(self) -> None:
        own = row("x", parameters=json.dumps({"task": "my pairs.csv", "fields": ["a", "b"], "label": "y"}))
        line = derived.frame([own]).iloc[0]
        assert report_details.command(line) == (
            "dipair run notebooks/suites/demo.yaml -p 'task=my pairs.csv' -p 'fields=[\"a\", \"b\"]' -p label=y"
        )


def test_published_rows_have_no_clock_and_stand_apart(rows: list[Result]) -> None:
    quoted = row("BERT-Tiny", "published", source="papers", quality=0.936, combine_s_per_pair=1e-9)
    data = derived.frame([*rows, quoted])
    assert np.isnan(data.loc["run.BERT-Tiny", "pairs_per_s"])
    assert "BERT-Tiny" not in overview.table(data)["model"].tolist()
    assert isinstance(overview.published(data), pd.DataFrame)
    assert overview.published(data)["model"].tolist() == ["BERT-Tiny"]
