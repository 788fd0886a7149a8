"""Facts about costs and clocks: FLOPs and bytes worked out by hand, every contender does its work, nothing stored is invented."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import models
from dipair_lib.evaluation import benchmarks, clocks
from dipair_lib.inference import device
from dipair_lib.models.tokens import Texts, read
from dipair_lib.system import progress


@pytest.fixture(scope="module")
def texts(tiny_backbone: str, pairs: pd.DataFrame) -> Texts:
    return read(models.load_tokenizer(tiny_backbone), pairs, ["query", "passage"], [8, 12])


class TestCosts:
    def test_ffnn_head_by_hand(self, tiny_backbone: str, texts: Texts) -> None:
        model = models.DualEncoder(tiny_backbone, (8, 12), (2, 2), projection=8, hidden=(16, 4))
        found = model.costs(texts)
        # per pair only 16 -> 4 -> 1 remain, a multiplication and an addition each; biases are no products
        assert found["flops_per_pair"] == 2 * (16 * 4 + 4 * 1)
        assert found["params_per_pair"] == 16 * 4 + 4 + 4 + 1
        assert found["bytes_per_text"] == 16 * 4
        assert found["params_total"] == sum(p.numel() for p in model.parameters())

    def test_the_cosine_costs_one_dot_product(self, tiny_backbone: str, texts: Texts) -> None:
        model = models.DualEncoder(tiny_backbone, (8, 12), (0, 0), True, 0, "cosine")
        found = model.costs(texts)
        assert found["flops_per_pair"] == 2 * 32
        assert found["bytes_per_text"] == 32 * 4
        assert found["params_per_pair"] == 2

    def test_more_kept_tokens_cost_an_ffnn_nothing_per_pair_and_a_transformer_more(
        self, tiny_backbone: str, texts: Texts
    ) -> None:
        per_pair = {
            (head, k): models.DualEncoder(tiny_backbone, (8, 12), (k, k), projection=8, head=head).costs(
                texts
            )["flops_per_pair"]
            for head in ("ffnn", "transformer")
            for k in (1, 6)
        }
        assert per_pair["ffnn", 1] == per_pair["ffnn", 6]
        assert per_pair["transformer", 1] < per_pair["transformer", 6]

    def test_lstm_by_hand(self, texts: Texts) -> None:
        model = models.BiLSTM([f"w{i}" for i in range(30)], (8, 12), width=12, hidden=10, fc=6).eval()
        found = model.costs(texts)["flops_per_text"]
        tokens = np.mean(
            [
                [
                    len(t.take(texts.index[[r], f])[0][0])
                    for r in np.linspace(0, len(texts) - 1, 8).astype(int)
                ]
                for f, t in enumerate(texts.tokens)
            ]
        )
        # Per token: 2 directions x 4 gates x 10 x 10 states, times 2; the input's share is looked up. Per text: 20 states x 6, times 2.
        assert found == pytest.approx(tokens * 2 * 4 * 10 * 10 * 2 + 20 * 6 * 2)

    def test_a_cross_encoder_has_no_cost_per_text(self, tiny_backbone: str, texts: Texts) -> None:
        found = models.CrossEncoder(tiny_backbone, (8, 12)).costs(texts)
        assert found["flops_per_text"] is None
        assert found["bytes_per_text"] is None
        assert found["flops_per_pair"] > 0


class TestBenchmarks:
    def test_every_part_of_a_student_runs_and_is_counted(
        self, tiny_backbone: str, texts: Texts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            benchmarks, "BATCH_SIZES", {"cpu": {"encode": (4, 8), "combine": (16, 64), "cross-encoder": (4,)}}
        )
        model = models.DualEncoder(tiny_backbone, (8, 12), (2, 2), projection=8).eval()
        seen = {"encoded": 0, "pairs": 0}
        encode, combine = model.encode, model.combine

        def counted_encode(ids: torch.Tensor, mask: torch.Tensor, field: int) -> Any:
            seen["encoded"] += len(ids)
            return encode(ids, mask, field)

        def counted_combine(*prepared: Any) -> torch.Tensor:
            logits = combine(*prepared)
            seen["pairs"] += logits.shape[:-1].numel()  # of a tile [m, n, outputs]
            return logits

        monkeypatch.setattr(model, "encode", counted_encode)
        monkeypatch.setattr(model, "combine", counted_combine)
        contender = benchmarks.dual(
            "r", model, models.load_tokenizer(tiny_backbone), list(texts.distinct), texts
        )
        seen |= {"encoded": 0, "pairs": 0}
        contender.measure()
        assert seen["pairs"] == contender.parts["combine"][1]
        assert seen["encoded"] == pytest.approx(
            contender.parts["encode"][1], rel=0.05
        )  # in texts of average length
        assert set(contender.times) == {"tokenize", "encode", "combine"}
        seen |= {"encoded": 0, "pairs": 0}
        contender.request(3)
        assert seen == {"encoded": 1, "pairs": benchmarks.CANDIDATES}

    def test_a_cross_encoder_scores_every_pair_of_its_sample(
        self, tiny_backbone: str, texts: Texts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = models.CrossEncoder(tiny_backbone, (8, 12)).eval()
        words = [[texts.distinct[f][i] for i in texts.index[:, f]] for f in (0, 1)]
        contender = benchmarks.cross_encoder(
            "r", model, "float32", models.load_tokenizer(tiny_backbone), words, texts
        )
        seen: list[int] = []
        batch = model.batch

        def counted(t: Texts, rows: np.ndarray) -> Any:
            seen.append(len(rows))
            return batch(t, rows)

        monkeypatch.setattr(model, "batch", counted)
        contender.measure()
        assert benchmarks.LEAST <= sum(seen) == pytest.approx(contender.parts["combine"][1], rel=0.05)

    def test_one_request_of_single_texts_is_one_text_for_everybody(
        self, tiny_backbone: str, pairs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokenizer = models.load_tokenizer(tiny_backbone)
        texts, words = read(tokenizer, pairs, ["query"], [8]), [pairs["query"].tolist()]
        cross = models.CrossEncoder(tiny_backbone, (8,)).eval()
        student = models.DualEncoder(tiny_backbone, (8,), (2,), projection=8).eval()
        entered = [
            benchmarks.cross_encoder("t", cross, "float32", tokenizer, words, texts),
            benchmarks.dual("s", student, tokenizer, words, texts),
            benchmarks.baseline("c", models.TfIdf.fit(texts, pairs["label"].to_numpy(), 2), words),
        ]
        assert [one.candidates for one in entered] == [1, 1, 1]
        seen: list[int] = []
        batch = cross.batch

        def counted(t: Texts, rows: np.ndarray) -> Any:
            seen.append(len(rows))
            return batch(t, rows)

        monkeypatch.setattr(cross, "batch", counted)
        with torch.inference_mode():
            entered[0].request(3)
        assert seen == [1]


class TestBatches:
    LENGTHS = np.random.default_rng(0).integers(5, 90, 1_000)

    @pytest.mark.parametrize("size", [16, 48])
    def test_next_to_nothing_is_padding_and_the_average_is_that_of_all(self, size: int) -> None:
        batches = benchmarks.bulk_batches(self.LENGTHS, size)
        assert {len(batch) for batch in batches} == {size}
        assert sum(map(len, batches)) >= benchmarks.LEAST
        filled = sum(self.LENGTHS[batch].sum() for batch in batches)
        padded = sum(len(batch) * self.LENGTHS[batch].max() for batch in batches)
        assert filled / padded > 0.95
        assert benchmarks.average_rows(self.LENGTHS, batches) == pytest.approx(filled / self.LENGTHS.mean())

    def test_few_rows_are_all_there_once(self) -> None:
        batches = benchmarks.bulk_batches(self.LENGTHS[:50], 16)
        assert sorted(np.concatenate(batches).tolist()) == list(range(50))
        assert benchmarks.average_rows(self.LENGTHS[:50], batches) == pytest.approx(50)


class TestRequests:
    def test_as_many_as_the_time_allows_and_a_least(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(benchmarks, "timed", lambda call, device: call() or 0.3)
        one = benchmarks.Benchmark("r", "float32", {}, lambda number: None, 1)
        assert (
            len(clocks.clock_requests([one], 3)[id(one)]) == 6
        )  # the seventh passes two seconds; the first is warm-up
        assert len(clocks.clock_requests([one], 24)[id(one)]) == 24
        monkeypatch.setattr(benchmarks, "timed", lambda call, device: call() or 1e-6)
        assert len(clocks.clock_requests([one], 24)[id(one)]) == clocks.MOST_REQUESTS


class TestChoices:
    def test_the_best_batch_size_is_the_quickest(self) -> None:
        import time

        assert benchmarks.best_size((1, 2), lambda size: time.sleep(0.02 if size == 1 else 0.001)) == 2

    def test_ceiling_is_measured(self) -> None:
        found = clocks.ceiling(seconds=0.01)
        assert set(found) == {"peak_gflops_float32", "peak_gflops_bfloat16", "copy_gb_per_s"}
        assert all(np.isfinite(v) and v > 0 for v in found.values())

    @pytest.mark.parametrize("gains", [False, True])
    def test_bfloat16_is_clocked_only_where_the_device_gains_by_it(
        self,
        gains: bool,
        tiny_backbone: str,
        tmp_path: Path,
        pairs: pd.DataFrame,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(device._PROBED, "cpu", "bfloat16" if gains else "float32")
        model = models.CrossEncoder(tiny_backbone, (8, 12))
        models.save(model, tmp_path / "rows" / "t" / "model")
        row = types.SimpleNamespace(run_id="t", parameters='{"fields": ["query", "passage"]}')
        entered = benchmarks.make_benchmarks(tmp_path, row, pairs, pairs, True, torch.device("cpu"))  # type: ignore[arg-type]
        assert [one.dtype for one in entered] == ["float32", "bfloat16"][: 1 + gains]

    def test_an_unknown_choice_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="expected none, missing or all, but got 'some'"):
            clocks.clock_rows(tmp_path, "some")


class TestProgress:
    def test_under_a_suite_the_state_is_in_its_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import json

        monkeypatch.setenv(progress.FILE_VARIABLE, str(tmp_path / "p.json"))
        assert list(progress.track([1, 2, 3], "counting")) == [1, 2, 3]
        assert json.loads((tmp_path / "p.json").read_text()) == {
            "what": "counting",
            "done": 0,
            "total": 3,
            "eta_s": None,
        }

    def test_a_display_that_cannot_be_written_stops_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(progress.FILE_VARIABLE, str(tmp_path / "missing" / "p.json"))
        assert list(progress.track([1, 2], "counting")) == [1, 2]
