"""Facts about devices: what is placed on one scores as it does on the CPU, and nothing that it needs is left elsewhere.

Every test runs on the CPU and on a device that is not there (``stand_in``); with a CUDA GPU, on that too: ``make test-gpu``.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_brought import checkpoint

from dipair_lib import inference, models
from dipair_lib.evaluation import benchmarks, clocks, provenance, results, schema
from dipair_lib.inference import outputs
from dipair_lib.inference.device import place, placed_on, ready
from dipair_lib.models.dipair import SELECT
from dipair_lib.models.tokens import Texts, read
from dipair_lib.scoring import encoding, scorer

FIELDS, LENGTHS = ["query", "passage"], (10, 14)
NEAR = 1e-3  # what scores of the same weights may differ by between devices
STUDENTS: dict[str, dict[str, Any]] = {
    **{f"select {select}": {"keep": (3, 4), "pooled": True, "select": select} for select in SELECT},
    "cosine": {"head": "cosine", "keep": (0, 0), "projection": 0, "pooled": True},
    "maxsim": {"head": "maxsim", "keep": (2, 3)},
    "cosine+maxsim": {"head": "cosine+maxsim", "keep": (2, 3), "pooled": True, "shared": False},
    "ffnn on both": {"keep": (3, 20), "read_lengths": (10, 24), "pooled": True, "residual": "cosine+maxsim"},
    "transformer": {"head": "transformer", "keep": (2, 3), "pooled": True, "head_layers": 2},
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches, of float32: a GPU's bfloat16 is further off than what is asked here."""
    monkeypatch.setattr(outputs, "GPU_TOKENS", 100)
    for module in (outputs, encoding, scorer):
        monkeypatch.setattr(module, "encoder_dtype", lambda *_: "float32")


@pytest.fixture(scope="module")
def texts(tiny_backbone: str, pairs: pd.DataFrame) -> Texts:
    return read(models.load_tokenizer(tiny_backbone), pairs[:36], FIELDS, LENGTHS)


def student(backbone: str, **settings: Any) -> models.DualEncoder:
    """Every weight of its head is large enough to matter, and its outputs differ in length, so that a selection by it is no chance."""
    torch.manual_seed(0)
    model = models.DualEncoder(backbone, **{"read_lengths": LENGTHS, "projection": 8, **settings}).eval()
    with torch.no_grad():
        for p in model.head.parameters():
            torch.nn.init.normal_(p, std=0.6)
        for norm in (m for m in model.encoder.modules() if isinstance(m, torch.nn.LayerNorm)):
            torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    return model


def bilstm() -> models.BiLSTM:
    torch.manual_seed(0)
    return models.BiLSTM(["red", "car", "tree", "the"], LENGTHS, width=12, hidden=10, fc=6).eval()


def row_by_row(model: Any, texts: Texts) -> np.ndarray:
    """Logits [rows, outputs] on the CPU, of each row alone: no padding, no cache, no batch."""
    found = []
    with torch.no_grad():
        for row in texts.index:
            kept = [
                model.encode(*t.take(np.array([i])), f)
                for f, (t, i) in enumerate(zip(texts.tokens, row, strict=True))
            ]
            found.append(model.score(*kept))
    return torch.cat(found).numpy()


class TestScores:
    @pytest.mark.parametrize("name", STUDENTS)
    def test_a_student_scores_alike(
        self, name: str, device: torch.device, tiny_backbone: str, texts: Texts
    ) -> None:
        model = student(tiny_backbone, **STUDENTS[name])
        want = row_by_row(model, texts)
        found = inference.predict(model, texts, device=device, dtype="float32", batch_tokens=200)
        assert found.std() > 10 * NEAR
        np.testing.assert_allclose(found, want, atol=NEAR)
        assert placed_on(model).type == "cpu"

    def test_a_cross_encoder_scores_alike(
        self, device: torch.device, tiny_backbone: str, texts: Texts
    ) -> None:
        torch.manual_seed(0)
        model = models.CrossEncoder(tiny_backbone, LENGTHS).eval()
        torch.nn.init.normal_(model.output.weight)
        with torch.no_grad():
            want = torch.cat([model(*model.batch(texts, np.array([i]))) for i in range(len(texts))]).numpy()
        found = inference.predict(model, texts, device=device, dtype="float32", batch_tokens=200)
        assert found.std() > 10 * NEAR
        np.testing.assert_allclose(found, want, atol=NEAR)

    @pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
    def test_a_checkpoint_with_its_own_head_scores_alike(
        self, kind: str, device: torch.device, tiny_backbone: str, pairs: pd.DataFrame, tmp_path: Path
    ) -> None:
        model = models.bring(str(checkpoint(kind, 2, tmp_path, tiny_backbone)), 2, ["0", "1"])
        own = read(model.tokenizer, pairs[:36], FIELDS, model.read_lengths)
        with torch.no_grad():
            want = torch.cat([model(*model.batch(own, np.array([i]))) for i in range(len(own))]).numpy()
        found = inference.predict(model, own, device=device, dtype="float32", batch_tokens=200)
        assert found.std() > 10 * NEAR
        np.testing.assert_allclose(found, want, atol=NEAR)

    def test_a_bilstm_scores_alike_also_with_other_weights(
        self, device: torch.device, pairs: pd.DataFrame
    ) -> None:
        model: Any = bilstm()
        words = read(model.tokenizer, pairs[:36], FIELDS, LENGTHS)
        there = place(copy.deepcopy(model), device)
        for _ in range(2):
            with torch.no_grad():
                found = inference.predict(there, words, device=device)
                np.testing.assert_allclose(found, row_by_row(model, words), atol=NEAR)
                for one in (model, there):
                    one.trained.weight.add_(0.1)

    def test_nothing_is_made_without_saying_where(self, tiny_backbone: str, pairs: pd.DataFrame) -> None:
        """With another device as the default of all that is made, every model gives what it gave."""
        networks: list[Any] = [student(tiny_backbone, **settings) for settings in STUDENTS.values()]
        for model in [*networks, bilstm()]:
            some = read(model.tokenizer, pairs[:4], FIELDS, model.read_lengths)
            batches = [tokens.take(np.arange(len(tokens))) for tokens in some.tokens]
            with torch.no_grad():
                want = [model.prepare(model.encode(*b, f), f) for f, b in enumerate(batches)]
                with torch.device("meta"):
                    found = [model.prepare(model.encode(*b, f), f) for f, b in enumerate(batches)]
                    first = [tuple(t[:2] for t in prepared) for prepared in found]
                    logits = model.combine(*first)
            torch.testing.assert_close(found, want)
            assert logits.device.type == "cpu"


class TestStored:
    @pytest.mark.parametrize("select", ["first", "attention", "learned"])
    def test_a_frozen_encoders_outputs_are_those_of_the_cpu(
        self, select: str, device: torch.device, tiny_backbone: str, texts: Texts, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone, keep=(3, 4), pooled=True, select=select)
        stored, counts = inference.stored_outputs(model, texts, tmp_path, device)
        assert counts["from_store"] == 0
        for field, (one, tokens) in enumerate(zip(stored, texts.tokens, strict=True)):
            with torch.no_grad():
                want = model.outputs_of(*tokens.take(np.arange(len(tokens)), LENGTHS[field]), field)
            hidden = want.hidden * want.mask[..., None]
            torch.testing.assert_close(one.hidden.float(), hidden, atol=5e-3, rtol=0)
            assert one.mask.equal(want.mask)
            if one.received is not None and want.received is not None:
                torch.testing.assert_close(one.received.float(), want.received * want.mask, atol=5e-3, rtol=0)
        assert inference.stored_outputs(model, texts, tmp_path, device)[1]["encoded"] == 0

    @pytest.mark.parametrize("select", ["first", "even", "learned"])
    def test_they_are_kept_and_taken_where_the_model_is(
        self, select: str, device: torch.device, tiny_backbone: str, texts: Texts, tmp_path: Path
    ) -> None:
        """As stage 1 and ``predict`` read them: cut, brought there whole, some taken; or prepared from the files."""
        model = student(tiny_backbone, keep=(3, 4), pooled=True, select=select)
        stored, _ = inference.stored_outputs(model, texts, tmp_path, "cpu")
        rows = np.arange(1, 30, 3)
        with torch.no_grad():
            want = inference.prepare_stored(model, stored[1], 1, texts=rows)
            there = place(model, device)
            kept = outputs.cut_stored(there, stored[1], 1).to(device)
            taken = outputs.take(kept, rows, trim=select == "learned")
            found = there.prepare(there.project(taken, 1), 1)
            again = inference.prepare_stored(there, stored[1], 1, texts=rows)
        for a, b, c in zip(found, again, want, strict=True):
            assert a.device.type == b.device.type == device.type
            torch.testing.assert_close(a.cpu(), c, atol=NEAR, rtol=NEAR)
            torch.testing.assert_close(b.cpu(), c, atol=NEAR, rtol=NEAR)


class TestCollections:
    @pytest.mark.parametrize("dtype", ["float32", "int8"])
    def test_texts_are_encoded_alike(
        self, dtype: str, device: torch.device, tiny_backbone: str, pairs: pd.DataFrame, tmp_path: Path
    ) -> None:
        models.save(student(tiny_backbone, head="maxsim", keep=(2, 3)), tmp_path / "s")
        pd.DataFrame({"text": pairs["passage"].unique()}).to_parquet(tmp_path / "t.parquet")
        made = [
            encoding.encode(
                tmp_path / "s", tmp_path / "t.parquet", 1, tmp_path / name, dtype=dtype, shard_texts=50, device=at
            )
            for name, at in (("here", "cpu"), ("there", device))
        ]  # fmt: skip
        one, other = (found.block(0, len(found)) for found in made)
        torch.testing.assert_close(one, other, atol=0.02 if dtype == "int8" else NEAR, rtol=0)

    def test_a_scorer_encodes_there_and_scores_here(
        self, device: torch.device, tiny_backbone: str, pairs: pd.DataFrame
    ) -> None:
        model = student(tiny_backbone, head="maxsim", keep=(2, 3))
        left, right = pairs["query"].unique()[:5].tolist(), pairs["passage"].unique()[:9].tolist()
        want, found = (scorer.Scorer(model, at) for at in ("cpu", device))
        assert placed_on(found.encoder).type == device.type and placed_on(found.model).type == "cpu"
        a, b = ([s.prepare(left, 0), s.prepare(right, 1)] for s in (want, found))
        torch.testing.assert_close(a, b, atol=NEAR, rtol=0)
        torch.testing.assert_close(found.tile(*b), want.tile(*a), atol=NEAR, rtol=0)
        assert found.where.startswith(f"scored on the CPU, {provenance.device_name('cpu')}")
        assert (": " in found.where) == (device.type != "cpu")


class TestClocks:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
        sizes = {"encode": (8,), "combine": (16, 64), "cross-encoder": (24,)}
        monkeypatch.setattr(benchmarks, "BATCH_SIZES", {device.type: sizes})
        peaks = {"peak_gflops_float32": 10.0, "peak_gflops_bfloat16": 20.0, "copy_gb_per_s": 5.0}
        monkeypatch.setattr(clocks, "ceiling", lambda device: peaks)

    @pytest.mark.parametrize("kind", ["ffnn", "bilstm"])
    def test_every_part_of_a_student_is_done_there(
        self, kind: str, device: torch.device, tiny_backbone: str, pairs: pd.DataFrame,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        model: Any = student(tiny_backbone, keep=(2, 2)) if kind == "ffnn" else bilstm()
        tokenizer = model.tokenizer
        texts = read(tokenizer, pairs[:20], FIELDS, LENGTHS)
        there = ready(model, device, "float32")
        contender = benchmarks.dual("r", there, tokenizer, [pairs[f][:20].tolist() for f in FIELDS], texts)
        encoded, encode, combine = [0], there.encode, there.combine
        seen = []

        def counted(ids: torch.Tensor, mask: torch.Tensor, field: int) -> Any:
            encoded[0] += len(ids)
            return encode(ids, mask, field)

        def looked_at(*prepared: Any) -> torch.Tensor:
            seen.append(combine(*prepared))
            return seen[-1]

        monkeypatch.setattr(there, "encode", counted)
        monkeypatch.setattr(there, "combine", looked_at)
        with torch.inference_mode():
            contender.measure()
            assert encoded[0] == pytest.approx(contender.parts["encode"][1], rel=0.05)
            contender.request(3)
        assert encoded[0] == pytest.approx(contender.parts["encode"][1] + 1, rel=0.05)
        assert {logits.device.type for logits in seen} == {device.type}
        assert sum(logits.shape[:-1].numel() for logits in seen) == 64 + benchmarks.CANDIDATES
        assert contender.device.type == device.type

    def test_a_session_is_of_one_device(
        self, device: torch.device, tiny_backbone: str, pairs: pd.DataFrame, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """A row says where its clock is from; one of another device does not count, on this one it does."""
        frame = pairs[:30].reset_index(drop=True)
        monkeypatch.setattr(clocks, "task_of", lambda row: SimpleNamespace(test=frame))
        networks: dict[str, Any] = {
            "teacher": models.CrossEncoder(tiny_backbone, LENGTHS),
            "own": student(tiny_backbone, keep=(2, 2)),
        }
        for name, model in networks.items():
            row = schema.Result(
                run_id=f"run.{name}", created_utc="2026-01-01T00:00:00+00:00", notebook="03_dipair", suite="s", task="t", split="test",
                model=name, family="dipair", metric="auc", data_sha256="f", teacher_run="run.teacher",
                parameters=json.dumps({"fields": FIELDS}), device="elsewhere", combine_s_per_pair=1.0, n_examples=4,
            )  # fmt: skip
            results.save_result(tmp_path, row, np.zeros((4, 1)), np.arange(4) % 2, np.arange(4))
            models.save(model, results.row_folder(tmp_path, row.run_id) / "model")
        clocked = clocks.clock_rows(tmp_path, repeats=1, requests=1, sample=10, device=device)
        assert sorted(clocked) == ["run.own", "run.teacher"]
        for row in results.load_results(tmp_path):
            assert (row.device, row.device_name) == (device.type, provenance.device_name(str(device)))
            assert row.combine_s_per_pair and row.combine_s_per_pair < 1.0 and row.latency_p50_s
            assert row.teacher_s_per_pair and row.peak_gflops == 10.0
        assert clocks.clock_rows(tmp_path, repeats=1, requests=1, sample=10, device=device) == []
        moved = dataclasses.replace(results.load_result(tmp_path, "run.own"), device="elsewhere")
        results.update_result(tmp_path, moved.run_id, device=moved.device)
        assert clocks.clock_rows(tmp_path, repeats=1, requests=1, sample=10, device=device) == ["run.own"]


class TestSizes:
    def test_a_size_that_has_no_room_is_left_out(self) -> None:
        def call(size: int) -> None:
            if size > 2:
                raise torch.OutOfMemoryError("no room")

        assert benchmarks.best_size((1, 2, 4), call) in {1, 2}
        with pytest.raises(torch.OutOfMemoryError):
            benchmarks.best_size((4, 8), call)

    def test_the_sample_fills_the_largest_batch(self) -> None:
        assert benchmarks.filled(3, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert benchmarks.filled(3, 0).tolist() == [0, 1, 2]


def test_what_is_on_two_devices_does_not_meet(device: torch.device) -> None:
    """The device that is not there is as strict as one that is: else the tests above would say nothing of a GPU."""
    there = torch.arange(4, device=device)
    if device.type == "cpu":
        assert (there < torch.arange(4)[:, None]).sum() == 6
        return
    with pytest.raises(RuntimeError, match="two devices"):
        there < torch.arange(4)  # noqa: B015
    with pytest.raises((TypeError, RuntimeError)):
        there.numpy()
    assert there.cpu().numpy().tolist() == [0, 1, 2, 3]
