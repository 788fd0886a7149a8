"""Facts about what is stored: it is what was computed, other data never meets it, half a file is never read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from dipair_lib import inference, models, training
from dipair_lib.models.tokens import Texts, read

LENGTHS = (10, 14)


@pytest.fixture(scope="module")
def texts(tiny_backbone: str, pairs: pd.DataFrame) -> Texts:
    return read(models.load_tokenizer(tiny_backbone), pairs, ["query", "passage"], LENGTHS)


def student(backbone: str, **settings: Any) -> models.DualEncoder:
    torch.manual_seed(0)
    return models.DualEncoder(backbone, LENGTHS, **{"keep": (4, 4), "projection": 16, **settings})


class TestOutputs:
    def test_stored_outputs_are_those_of_the_encoder(
        self, tiny_backbone: str, texts: Texts, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone, pooled=True)
        stored, counts = inference.stored_outputs(model, texts, tmp_path)
        n = sum(len(t) for t in texts.tokens)
        assert counts == {"encoded": n, "from_store": 0}
        rows = np.arange(len(texts.tokens[1]))
        with torch.no_grad():
            fresh = model.prepare(model.encode(*texts.tokens[1].take(rows), 1), 1)
        torch.testing.assert_close(inference.prepare_stored(model, stored[1], 1), fresh, atol=0.05, rtol=0.05)
        assert inference.stored_outputs(model, texts, tmp_path)[1] == {"encoded": 0, "from_store": n}

    def test_what_a_killed_run_left_is_removed(
        self, tiny_backbone: str, texts: Texts, tmp_path: Path
    ) -> None:
        model = student(tiny_backbone)
        inference.stored_outputs(model, texts, tmp_path)
        whole = sorted(p.name for p in tmp_path.iterdir())
        for path in tmp_path.glob("*.npy"):
            path.rename(path.with_suffix(".123.tmp"))
        inference.stored_outputs(model, texts, tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == whole

    def test_what_was_changed_is_computed_again(
        self, tiny_backbone: str, texts: Texts, tmp_path: Path
    ) -> None:
        model, n = student(tiny_backbone), [len(t) for t in texts.tokens]
        inference.stored_outputs(model, texts, tmp_path)
        whole = {
            path: path.read_bytes() for path in sorted(tmp_path.glob("*.npy*")) if path.suffix != ".lock"
        }
        for path, data in whole.items():  # the numbers, then the hash of them
            path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
            counts = inference.stored_outputs(model, texts, tmp_path)[1]
            assert counts["encoded"] in n and sum(counts.values()) == sum(n), path
            assert {at: at.read_bytes() for at in whole} == whole

    def test_other_texts_do_not_meet_a_store(
        self, tiny_backbone: str, texts: Texts, tmp_path: Path, pairs: pd.DataFrame
    ) -> None:
        model = student(tiny_backbone)
        inference.stored_outputs(model, texts, tmp_path)
        other = read(models.load_tokenizer(tiny_backbone), pairs[:30], ["query", "passage"], LENGTHS)
        assert inference.stored_outputs(model, other, tmp_path)[1]["from_store"] == 0

    def test_other_weights_in_the_same_folder_do_not_meet_a_store(
        self, tiny_backbone: str, texts: Texts, tmp_path: Path
    ) -> None:
        """And the same weights in another folder do: what counts is the encoder, not what it is called."""
        folder = tmp_path / "backbone"
        shutil.copytree(tiny_backbone, folder)
        before = student(str(folder), pooled=True)
        old, _ = inference.stored_outputs(before, texts, tmp_path / "store")
        weights = load_file(folder / "model.safetensors")
        name = "encoder.layer.1.output.LayerNorm.weight"
        save_file({**weights, name: weights[name] * 2}, folder / "model.safetensors", {"format": "pt"})
        model = student(str(folder), pooled=True)
        new, counts = inference.stored_outputs(model, texts, tmp_path / "store")
        assert counts["from_store"] == 0
        assert (new[0].hidden.float() - old[0].hidden.float()).abs().max() > 0.1
        with torch.no_grad():
            fresh = model.outputs_of(*texts.tokens[0].take(np.arange(len(texts.tokens[0]))), 0)
        found = new[0].outputs(slice(None)).hidden
        torch.testing.assert_close(found, fresh.hidden * fresh.mask[..., None], atol=0.05, rtol=0.05)
        counts = inference.stored_outputs(student(tiny_backbone), texts, tmp_path / "store")[1]
        assert counts["encoded"] == 0

    def test_each_of_two_encoders_has_outputs_of_its_own(
        self, tiny_backbone: str, texts: Texts, tmp_path: Path
    ) -> None:
        """They start alike; once one of them was trained, its outputs are not the other's."""
        model = student(tiny_backbone, shared=False)
        inference.stored_outputs(model, texts, tmp_path)
        with torch.no_grad():
            model.encoder[1].encoder.layer[0].output.dense.weight.mul_(2)
        assert inference.stored_outputs(model, texts, tmp_path)[1] == {
            "encoded": len(texts.tokens[1]),
            "from_store": len(texts.tokens[0]),
        }


class TestTeacherLogits:
    def test_read_back_as_written(self, tmp_path: Path) -> None:
        logits = {"train": np.array([[1.5]], np.float32), "test": np.array([[2.0], [3.0]], np.float32)}
        training.save_teacher_logits(tmp_path / "t" / "a.npz", "abc", logits)
        again = training.load_teacher_logits(tmp_path / "t" / "a.npz", "abc")
        assert {k: v.tolist() for k, v in again.items()} == {k: v.tolist() for k, v in logits.items()}
        assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["a.npz", "a.npz.sha256"]

    def test_what_cannot_be_used_is_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        with pytest.raises(training.TeacherError, match="run 01_teacher"):
            training.load_teacher_logits(path, "abc")
        training.save_teacher_logits(path, "abc", {"train": np.ones((100, 1))})
        with pytest.raises(training.TeacherError, match="logits of other data"):
            training.load_teacher_logits(path, "xyz")
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(training.TeacherError, match=r"a\.npz: damaged"):
            training.load_teacher_logits(path, "abc")
