# mypy: disable-error-code="arg-type,operator,union-attr"
"""Facts about the paper's systems: their sizes, their logits, the clock end to end in little, what is told of it, what was published."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, OpenAIGPTConfig

from dipair_lib.evaluation import architecture_rows, results, verification
from dipair_lib.evaluation.schema import Result
from dipair_lib.experiments import architectures, paper_systems
from dipair_lib.models import BiLSTM
from dipair_lib.models.elmo import ELMo
from dipair_lib.models.lstm_ways import cell, compiled, gate_tables, packed, padded
from dipair_lib.reporting import architecture_table, derived, overview, published, report, selection
from dipair_lib.system.disk import ResultError

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
TINY: dict[str, Any] = {
    "BERT-large": BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    ),
    "OpenAI GPT": OpenAIGPTConfig(n_embd=16, n_layer=1, n_head=2, vocab_size=50),
    "ELMo": {"filters": ((1, 3), (2, 5)), "char_width": 4, "width": 6, "cells": 10},
    "BiLSTM 150": {"words": 30, "width": 8, "hidden": 6, "fc": 4},
}


def tiny(name: str) -> Any:
    torch.manual_seed(0)
    return paper_systems.build(name, copy.deepcopy(TINY[name]))


class TestSizes:
    def test_parameters_at_the_papers_sizes(self) -> None:
        found = paper_systems.count_parameters().set_index("system")
        parameters, without = found["parameters"].to_dict(), found["without look-up"].to_dict()
        heads = {name: 2 * width + 2 for name, width in (("BERT-large", 1024), ("BERT-base", 768))}
        # BERT counts 335,141,888 and 109,482,240 with a pooler (width^2 + width), which is never used here.
        assert parameters["BERT-large"] - heads["BERT-large"] + 1024**2 + 1024 == 335_141_888
        assert parameters["BERT-base"] - heads["BERT-base"] + 768**2 + 768 == 109_482_240
        assert parameters["OpenAI GPT"] - (2 * 768 + 2) == 116_534_784
        # ELMo's 93.6 M: torch's second bias (4 LSTMs x 4 gates x 4096), three weights of the mix and the head come on top.
        assert parameters["ELMo"] - 4 * 4 * 4096 - 3 - (2 * 1024 + 2) == 93_600_864
        assert without["BiLSTM 150"] == 963_002
        assert found["published"].tolist() == ["335 M", "–", "–", "93.6 M", "–", "0.96 M"]

    def test_an_unknown_system_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"expected some of BERT-large.*but got 'BERT-huge'"):
            paper_systems.build("BERT-huge")

    def test_elmo_flops_by_hand(self) -> None:
        words = paper_systems.lengths_like_sst2(8).mean()
        whole, rest = paper_systems.flops_of(tiny("ELMo"))
        # Per word and direction: two layers of 4 gates x 10 cells x (6 in + 6 back) and a projection 10 x 6; per sentence the mix and head.
        lstm = 2 * 2 * 2 * (4 * 10 * (6 + 6) + 10 * 6)
        once = 2 * (3 * 12) + 2 * (12 * 2)
        assert rest == pytest.approx(words * lstm + once)
        # Convolutions over 50 characters, two highways 8 -> 16, projection 8 -> 6.
        characters = 2 * (1 * 4 * 3 * 50 + 2 * 4 * 5 * 49 + 2 * 8 * 16 + 8 * 6)
        assert whole - rest == pytest.approx(words * characters)

    def test_flops_of_the_others(self) -> None:
        words = paper_systems.lengths_like_sst2(8)
        whole, rest = paper_systems.flops_of(tiny("BiLSTM 150"))
        assert whole == rest == pytest.approx(words.mean() * 2 * (2 * 4 * 6 * 6) + 2 * (12 * 4 + 4 * 2))
        pieces = np.rint(1.2 * words) + 2
        per_piece = 2 * (4 * 16 * 16 + 2 * 16 * 32)
        attention = 2 * 2 * 16 * (pieces**2).mean()
        found = paper_systems.flops_of(tiny("BERT-large"))[0]
        assert found == pytest.approx(pieces.mean() * (per_piece + 2 * 16) + attention + 2 * 16 * 2)


class TestSentences:
    def test_lengths_are_those_of_sst2_for_every_n(self) -> None:
        lengths = paper_systems.lengths_like_sst2(8192)
        assert lengths.mean() == pytest.approx(9.4, abs=0.05) and lengths.max() == 52 and lengths.min() == 1
        assert np.quantile(lengths, [0.25, 0.5, 0.75, 0.9]).tolist() == [3, 7, 13, 21]
        assert paper_systems.lengths_like_sst2(128).mean() == pytest.approx(9.4, abs=0.3)

    @pytest.mark.parametrize("name", TINY)
    def test_batches_hold_every_sentence_once_and_little_padding(self, name: str) -> None:
        lengths = paper_systems.lengths_like_sst2(512)
        masks = [mask for _, mask in paper_systems.batches_of(tiny(name), lengths, 100)]
        assert sum(len(mask) for mask in masks) == 512 and max(len(mask) for mask in masks) == 100
        if name == "ELMo":  # computes no padding
            assert [len(mask) for mask in masks] == [100] * 5 + [12]
        else:
            assert sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks) > 0.75
        ends = 2 if name == "BERT-large" else 0
        pieces = np.rint((1.2 if name in {"BERT-large", "OpenAI GPT"} else 1.0) * lengths) + ends
        assert torch.cat([m.sum(1) for m in masks]).tolist() == pieces.tolist()


class TestLogits:
    @pytest.mark.parametrize("name", TINY)
    @torch.no_grad()
    def test_padding_and_batches_change_nothing(self, name: str) -> None:
        model, lengths = tiny(name), np.array([9, 4, 1])
        ids, mask = paper_systems.batches_of(model, lengths, 3)[0]
        wider = torch.nn.functional.pad
        more = (0, 0, 0, 3) if ids.dim() == 3 else (0, 3)
        together = paper_systems.whole(model, wider(ids, more), wider(mask, (0, 3)))
        for i in range(len(ids)):
            n = int(mask[i].sum())
            alone = paper_systems.whole(model, ids[i : i + 1, :n], mask[i : i + 1, :n])
            torch.testing.assert_close(together[i : i + 1], alone, **CLOSE)

    @torch.no_grad()
    def test_whole_is_the_models_own_forward_pass(self) -> None:
        for name in ("BERT-large", "OpenAI GPT", "ELMo", "BiLSTM 150"):
            model = tiny(name)
            ids, mask = paper_systems.batches_of(model, np.array([5, 3]), 2)[0]
            own = (
                model.score(model.encode(ids, mask, 0)) if isinstance(model, BiLSTM)
                else model(ids, mask) if isinstance(model, ELMo) else model(ids, mask, torch.zeros_like(ids))
            )  # fmt: skip
            torch.testing.assert_close(paper_systems.whole(model, ids, mask), own, **CLOSE)

    @torch.no_grad()
    def test_every_way_of_the_bilstm_gives_the_textbooks_logits(self) -> None:
        model = tiny("BiLSTM 150")
        ids, mask = paper_systems.batches_of(model, np.array([9, 4, 4, 1]), 4)[0]
        expected = packed(model, ids, mask)
        assert expected.std() > 0
        for way in (padded, gate_tables):
            torch.testing.assert_close(way(model, ids, mask), expected, **CLOSE)
        torch.testing.assert_close(compiled(cell, model, ids, mask), expected, **CLOSE)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no C++ compiler\nhere")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(architectures, "peak_of", lambda device: {"float32": 100.0, "bfloat16": 200.0})


def measure(out: Path, clock: str = "missing", **others: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"systems": list(TINY), "sentences": 12, "repeats": 2, "sizes": TINY, **others}
    return architectures.measure(out, clock, **given)


@pytest.mark.usefixtures("no_compiler")
class TestClock:
    def test_from_end_to_end(self, tmp_path: Path) -> None:
        found = measure(tmp_path)
        assert architecture_rows.load(tmp_path) == found
        float32 = {row["system"]: row for row in found["systems"] if row["dtype"] == "float32"}
        assert list(float32) == list(TINY)
        for row in found["systems"]:
            assert row["sentences"] == 12 and row["repeats"] == 2 and 0 <= row["padding"] < 0.5
            assert 0 < row["seconds_q1"] <= row["seconds"] <= row["seconds_q3"] and row["rest_seconds"] > 0
            assert 0 < row["peak_fraction"] < 1
        halves = {row["system"] for row in found["systems"] if row["dtype"] == "bfloat16"}
        assert halves ^ {row["system"] for row in found["slower"]} == set(TINY)
        assert all(row["ratio"] >= 1 for row in found["slower"])
        assert set(found["parts"]) == {"look-up", "recurrence", "head"}
        assert found["machine"]["threads"] == torch.get_num_threads() and found["machine"]["clock_id"]
        exact = {way["way"]: way for way in found["ways"]}
        assert exact["nn.LSTM, padded"]["difference"] < 1e-4 > exact["gate tables"]["difference"]
        assert exact["gate tables, bfloat16"]["difference"] > 1e-4
        assert exact["gate tables, torch.compile"]["problem"] == "RuntimeError: no C++ compiler"
        marked = architecture_table.ways_table(found)["remarks"].tolist()
        assert sum("fastest that is exact" in remark for remark in marked) == 1

    def test_is_measured_once_for_the_same_parameters(self, tmp_path: Path) -> None:
        first = measure(tmp_path, systems=["BiLSTM 150"])
        assert measure(tmp_path, systems=["BiLSTM 150"]) == first
        assert measure(tmp_path, "none", systems=["ELMo"]) == first
        other = measure(tmp_path, systems=["BiLSTM 150"], repeats=3)
        assert other["machine"]["clock_id"] != first["machine"]["clock_id"]
        again = measure(tmp_path, "all", systems=["BiLSTM 150"], repeats=3)
        assert again["machine"]["clock_id"] != other["machine"]["clock_id"]

    def test_a_damaged_file_is_measured_anew_only_when_asked(self, tmp_path: Path) -> None:
        (tmp_path / "architectures.json").write_text("{")
        with pytest.raises(ResultError, match="cut off"):
            measure(tmp_path, systems=["BiLSTM 150"])
        measure(tmp_path, "all", systems=["BiLSTM 150"])

    def test_without_the_smallest_there_is_no_ratio(self, tmp_path: Path) -> None:
        found = measure(tmp_path, systems=["ELMo"])
        assert found["ways"] == [] and found["parts"] == {}
        assert architecture_table.table(found)["time, BiLSTM 150 = 1"].tolist()[0] == "–"
        assert architecture_table.sentence(found) == ""
        architecture_table.figure(found)

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="clock: expected none, missing or all, but got 'now'"):
            measure(tmp_path, "now")
        with pytest.raises(ResultError, match=r"architectures\.json: not found"):
            measure(tmp_path, "none")


def system(name: str, seconds: float, **others: Any) -> dict[str, Any]:
    row = {
        "system": name, "device": "cpu", "dtype": "float32", "sentences": 128, "batch_size": 16, "padding": 0.1, "repeats": 5,
        "params_total": 2_000_000, "params_look_up": 500_000, "flops": 1e9 * seconds, "flops_rest": 1e9 * seconds,
        "seconds": seconds, "seconds_q1": seconds, "seconds_q3": seconds,
        "rest_seconds": seconds / 2, "rest_seconds_q1": seconds / 2, "rest_seconds_q3": seconds / 2, "peak_fraction": 0.5,
    }  # fmt: skip
    return {**row, **others}


@pytest.fixture
def content() -> dict[str, Any]:
    """BERT-large 200 times, ELMo 8 times, the textbook's BiLSTM twice the time of the BiLSTM."""
    way = {"seconds": 2e-3, "seconds_q1": 2e-3, "seconds_q3": 2e-3, "problem": ""}
    return {
        "schema": 1, "created_utc": "2026", "parameters": {}, "slower": [],
        "machine": {"device_name": "<b>chip</b>", "threads": 2, "torch": "2", "peak_gflops": {"cpu": {"float32": 100.0}}},
        "systems": [
            system("BERT-large", 0.2), system("BERT-large", 0.05, dtype="bfloat16"), system("ELMo", 0.008, rest_seconds=0.003),
            system("BiLSTM 150", 0.001, seconds_q3=0.002, peak_fraction=0.25),
        ],
        "parts": {"look-up": 0.00025, "recurrence": 0.00075},
        "ways": [
            {**way, "way": "nn.LSTM, packed (textbook)", "speedup": 1.0, "difference": 0.0},
            {**way, "way": "slow <i>", "speedup": 0.5, "difference": 0.5, "seconds": 1e-4},
        ],
    }  # fmt: skip


class TestTold:
    def test_ratios_by_hand(self, content: dict[str, Any]) -> None:
        rows = architecture_table.with_ratios([*content["systems"], system("ELMo", 1.0, device="cuda")])
        assert [row["ratio"] for row in rows[:4]] == pytest.approx([200, 50, 8, 1])
        assert [row["rest_ratio"] for row in rows[:4]] == pytest.approx([200, 50, 6, 1])
        assert rows[4]["ratio"] is None, "no BiLSTM was clocked on that device"

    def test_table_and_sentence_hold_ours_and_the_papers(self, content: dict[str, Any]) -> None:
        table = architecture_table.table(content).set_index(["system", "dtype"])
        large = table.loc[("BERT-large", "float32")]
        assert (large["time, BiLSTM 150 = 1"], large["published"]) == ("200x", "434x")
        assert (large["sentences/s"], large["sentences clocked"], large["without look-up's"]) == (
            "5",
            "128",
            "1.5 M",
        )
        assert "noisy" in table.loc[("BiLSTM 150", "float32")]["per sentence"]
        said = architecture_table.sentence(content)
        assert "BERT-large takes 200x the time of BiLSTM 150, in the paper 434x" in said
        assert "ELMo takes 8x the time of BiLSTM 150, in the paper 15x" in said
        assert "reaches 50.0 % of the matrix peak, BiLSTM 150 25.0 %" in said
        assert "BERT-large in bfloat16: 50x" in said and "BERT-large takes 100x on this CPU" in said
        assert "look-up 25 %, recurrence 75 %" in said

    def test_the_fastest_exact_way_is_marked_not_the_fastest(self, content: dict[str, Any]) -> None:
        assert architecture_table.ways_table(content)["remarks"].tolist() == [
            "the fastest that is exact to 0.001",
            "–",
        ]

    def test_figure_has_a_bar_for_each_and_for_the_papers(self, content: dict[str, Any]) -> None:
        ax = architecture_table.figure(content).axes[0]
        names = [label.get_text() for label in ax.get_yticklabels()]
        ends = [float(bar.get_extents().transformed(ax.transData.inverted()).x1) for bar in ax.patches]
        named = dict(zip(names, ends, strict=True))
        assert named == pytest.approx(
            {
                "BERT-large, published (V100)": 434, "BERT-large, cpu float32": 200, "BERT-large, cpu bfloat16": 50,
                "ELMo, published (V100)": 15, "ELMo, cpu float32": 8, "BiLSTM 150, published (V100)": 1, "BiLSTM 150, cpu float32": 1,
            }
        )  # fmt: skip


def folder_with(tmp_path: Path, task: str, content: dict[str, Any] | str | None) -> Path:
    row = Result(
        run_id="k.m", created_utc="2026", notebook="n", suite="s", task=task, split="test", model="m", family="dipair",
        metric="accuracy", quality=0.75, n_examples=4, teacher_run="t", data_sha256="0",
    )  # fmt: skip
    results.save_result(
        tmp_path, row, np.array([[1.0], [1], [-1], [-1]]), np.array([1, 1, 0, 1]), np.arange(4)
    )
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "architectures.json").write_text(text)
    return tmp_path


class TestReport:
    def test_section_shows_and_escapes(self, tmp_path: Path, content: dict[str, Any]) -> None:
        folder = folder_with(tmp_path, "toy", content)
        page = report.write(folder).read_text(encoding="utf8")
        assert "Speed of the architectures, without quality" in page
        assert "in the paper 434x" in page and "&lt;b&gt;chip" in page and "slow &lt;i&gt;" in page
        assert "<b>chip" not in page and "slow <i>" not in page
        assert verification.verify(folder) == []

    def test_nothing_without_the_file(self, tmp_path: Path) -> None:
        page = report.write(folder_with(tmp_path, "toy", None)).read_text(encoding="utf8")
        assert "Speed of the architectures" not in page and "Published numbers" not in page

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            ("{", "cut off or not JSON"),
            ("[]", "schema: expected 1, but got 'list'"),
            ('{"schema": 2}', "schema: expected 1, but got 2"),
            ('{"schema": 1, "systems": []}', "missing created_utc"),
            ('{"schema": NaN}', "NaN is not a number"),
            ("no seconds", "a field is missing or of the wrong type"),
        ],
    )
    def test_a_damaged_file_is_named_and_left_out(
        self, tmp_path: Path, content: dict[str, Any], damage: str, said: str
    ) -> None:
        if damage == "no seconds":
            del content["systems"][0]["seconds"]
            damage = json.dumps(content)
        folder = folder_with(tmp_path, "toy", damage)
        with pytest.raises(ResultError, match=said):
            architecture_rows.load(folder)
        assert any(said in line and "architectures.json" in line for line in verification.verify(folder))
        page = report.write(folder).read_text(encoding="utf8")
        assert "Left out" in page and "Speed of the architectures" not in page


class TestPublished:
    def test_table_1_is_the_papers(self) -> None:
        sst2 = {row.model: row.quality for row in published.rows(["glue/sst2"])}
        assert list(sst2.values()) == [0.949, 0.935, 0.913, 0.904, 0.904, 0.907, 0.867]
        qqp = [(row.metric, row.quality) for row in published.rows(["QQP"])]
        assert qqp[:2] == [("f1", 0.721), ("accuracy", 0.893)] and qqp[-2:] == [
            ("f1", 0.637),
            ("accuracy", 0.862),
        ]
        mnli = [row.quality for row in published.rows(["glue/mnli"])]
        assert mnli == [.867, .859, .846, .834, .821, .814, .764, .761, .741, .745, .730, .726, .687, .683]  # fmt: skip
        assert published.rows(["pydocs", "qqp-old"]) == []

    def test_every_row_says_where_and_how_sure(self) -> None:
        rows = published.rows(["sst2", "qqp", "mnli"])
        assert len(rows) == len({row.run_id for row in rows}) == 7 * 5
        sure = {row.model.split(", SST")[0]: row.source for row in rows if "SST-2" in row.model}
        assert "read in the paper" in sure["BERT-large (teacher)"]
        assert "from memory" in sure["ELMo (GLUE's baseline)"]
        assert "second hand" in sure["BiLSTM, hard labels"]
        assert all("arXiv 1903.12136, Table 1" in row.source for row in rows)

    def test_table_2_is_the_papers(self) -> None:
        found = {
            name: (line.parameters, line.seconds, line.ratio) for name, line in published.TABLE_2.items()
        }
        assert found == {
            "BERT-large": (335, 1060, 434), "ELMo": (93.6, 36.71, 15), "BiLSTM 150": (0.96, 2.44, 1)
        }  # fmt: skip
        for line in published.TABLE_2.values():
            assert round(line.seconds / 2.44) == line.ratio

    def test_published_rows_stand_apart(self, tmp_path: Path) -> None:
        folder = folder_with(tmp_path, "glue/sst2", None)
        data = derived.frame([*results.load_results(folder), *published.rows(["glue/sst2"])])
        assert overview.table(data)["model"].tolist() == ["m"]
        assert set(selection.select(data).excluded) >= set(data.index[data["family"] == "published"])
        assert not data.loc[data["family"] == "published", ["pareto", "teacher"]].to_numpy().any()
        page = report.write(folder).read_text(encoding="utf8")
        assert page.index("Everything measured") < page.index("BERT-large (teacher), SST-2")
        assert [row.family for row in results.load_results(folder)] == ["dipair"], "nothing is written back"
