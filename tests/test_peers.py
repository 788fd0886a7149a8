"""Facts about the comparison with other libraries: they compute what we compute, and each one's work is on its clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dipair_lib import models
from dipair_lib.data import loading
from dipair_lib.evaluation import results, schema
from dipair_lib.experiments import peer_files, peer_systems, peers
from dipair_lib.experiments.peer_files import Setting
from dipair_lib.experiments.peer_systems import Entry
from dipair_lib.inference import encoder_dtype
from dipair_lib.system import disk

pytestmark = pytest.mark.filterwarnings("ignore")
FIELDS = ("query", "passage")
TEACHER, FROZEN, STUDENT = "01_teacher-0.teacher", "01_teacher-0.frozen", "03_dipair-0.student"


@pytest.fixture(scope="module")
def folder(tiny_backbone: str, pairs: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a teacher, the frozen cosine and an FFNN student, random but for the backbone; one query is too long."""
    out = tmp_path_factory.mktemp("peers")
    long = pairs.assign(query=pairs["query"].where(pairs["group"] != 3, "red " * 20))
    long.to_csv(out / "pairs.csv", index=False)
    parameters = {"task": str(out / "pairs.csv"), "fields": FIELDS, "label": "label", "group": "group"}
    task = loading.load_run_task(parameters)
    torch.manual_seed(0)
    made: dict[str, Any] = {
        TEACHER: models.CrossEncoder(tiny_backbone, (12, 14)),
        FROZEN: models.DualEncoder(tiny_backbone, (12, 14), (0, 0), True, 0, "cosine"),
        STUDENT: models.DualEncoder(tiny_backbone, (12, 14), (2, 3), projection=8, hidden=(32, 16)),
    }
    torch.nn.init.normal_(made[TEACHER].output.weight)
    for run, model in made.items():
        models.save(model.eval(), results.row_folder(out, run) / "model")
        n = len(task.test)
        row = schema.Result(
            run_id=run, created_utc="", notebook=run[:10], suite="s", task=task.name, split="test", metric="auc", quality=0.5,
            n_examples=n, model=run.split(".")[1], family="cross-encoder" if run == TEACHER else "dual-encoder", teacher_run=TEACHER,
            read_lengths="12+14", head=None if run == TEACHER else model.settings["head"],
            backbone=tiny_backbone, data_sha256=task.fingerprint,
            parameters=disk.canonical_json(parameters),
        )  # fmt: skip
        results.save_result(
            out, row, np.zeros((n, 1)), task.test["label"].to_numpy(), task.test["group"].to_numpy()
        )
    return out


@pytest.fixture(scope="module")
def setting(folder: Path, pairs: pd.DataFrame) -> Setting:
    found = Setting(str(folder), TEACHER, str(folder / "made"), 1)
    peer_files.make_all(found, [pairs[name].tolist() for name in FIELDS])
    return found


def built(build: str, dtype: str, setting: Setting, run: str = "") -> peer_systems.Peer:
    return peer_systems.build(Entry("", "", dtype, build, "", run), setting)


class TestTeacher:
    @pytest.mark.parametrize(
        ("build", "dtype", "off"),
        [
            ("st_teacher", "float32", 1e-5),
            ("ort_teacher", "float32", 1e-5),
            ("own_teacher", "bfloat16", 0.1),
            ("st_teacher", "bfloat16", 0.1),
            ("ov_teacher", "bfloat16", 0.1),
            ("ort_teacher", "int8", 0.5),
            ("ov_teacher", "int8", 4.0),  # random weights: its static ranges fit them badly
        ],
    )
    def test_every_library_gives_its_logits(
        self, setting: Setting, pairs: pd.DataFrame, build: str, dtype: str, off: float
    ) -> None:
        texts = [pairs[name].tolist()[:50] for name in FIELDS]
        want = built("own_teacher", "float32", setting).score(*texts)
        found = built(build, dtype, setting).score(*texts)
        assert found.shape == want.shape
        assert np.abs(found - want).max() <= off
        assert np.corrcoef(found, want)[0, 1] > (0.95 if build != "ov_teacher" or dtype != "int8" else 0.5)
        if dtype != "float32":
            assert np.abs(found - want).max() > 1e-7  # it does compute in the short dtype


class TestVectors:
    def test_the_backbones_cosine_by_two_libraries(self, setting: Setting, pairs: pd.DataFrame) -> None:
        texts = [pairs[name].tolist()[:50] for name in FIELDS]
        frozen: Any = models.load(results.row_folder(setting.out, FROZEN) / "model")
        theirs = built("st_vectors", "float32", setting)
        assert theirs.encode
        np.testing.assert_allclose(theirs.encode(texts[1]), peers.vectors_of(frozen, texts[1]), atol=1e-5)
        left, right = pairs["query"].unique()[:7].tolist(), pairs["passage"].unique()[:40].tolist()
        assert theirs.search
        search, kept = theirs.search(left, right)
        scores, _ = search()
        want = peers.vectors_of(frozen, left) @ peers.vectors_of(frozen, right).T
        np.testing.assert_allclose(scores, -np.sort(-want, axis=1)[:, : peer_systems.TOP], atol=1e-5)
        assert kept == 32 * 4

    def test_static_vectors_are_means_of_word_pieces(self, setting: Setting) -> None:
        static = built("static_vectors", "float32", setting)
        assert static.encode
        red, blue, both = static.encode(["red red", "blue", "red blue"])
        np.testing.assert_allclose(np.linalg.norm([red, blue, both], axis=1), 1, atol=1e-5)
        # the sum of two vectors lies between them, nearer to the longer one: in their plane
        plane = np.linalg.qr(np.stack([red, blue]).T)[0]
        assert np.linalg.norm(plane.T @ both) == pytest.approx(1, abs=1e-5)
        assert both @ red < 0.999 and both @ blue < 0.999


class TestCompare:
    def test_one_line_each_of_texts_read_whole(
        self, folder: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(peers, "peak_bytes", lambda *_: 1e6)
        calibrated: list[set[tuple[str, ...]]] = []
        make_all = peer_files.make_all

        def note(given: Setting, texts: list[list[str]]) -> None:
            calibrated.append(set(zip(*texts, strict=True)))
            make_all(given, texts)

        monkeypatch.setattr(peer_files, "make_all", note)
        found = peers.compare(folder, STUDENT, pairs=1000, clocked=8, side=30, turns=2)
        assert (
            found["library"].str.startswith("dipair-lab").sum() == 4
        )  # the teacher twice, the student, the frozen cosine
        own = found[found["family"] == "cross-encoder"]
        assert (own["off"] > 0).sum() == len(own) - 1
        assert own["encode_per_s"].isna().all()
        vectors = found[found["family"] != "cross-encoder"]
        assert (vectors["encode_per_s"] > 0).all() and (vectors["bytes_per_text"] > 0).all()
        assert found["quality"].between(0, 1).all()
        ours = found[found["library"].str.startswith("dipair-lab") & (found["family"] != "cross-encoder")]
        assert (ours["dtype"] == encoder_dtype()).all(), "the dtype in which this machine's encoder computes"
        task = loading.load_run_task(
            {"task": str(folder / "pairs.csv"), "fields": FIELDS, "label": "label", "group": "group"}
        )
        of_train, of_test = (
            set(zip(*(part[f] for f in task.fields), strict=True)) for part in (task.train, task.test)
        )
        assert calibrated[0] and calibrated[0] <= of_train - of_test, "int8 is calibrated on training pairs"
        whole = task.test[~task.test["query"].str.startswith("red red")]
        assert found["n_examples"].unique().tolist() == [len(whole)]
        theirs, ours = (
            found[found["system"].str.startswith(name)]["quality"].item()
            for name in ("backbone's cosine", "frozen")
        )
        assert theirs == pytest.approx(ours, abs=1e-6)
        assert len(peers.shown(found)) == len(found)

    @pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="the system does not say what a process keeps"
    )
    def test_memory_is_of_a_process_of_its_own(self, setting: Setting, pairs: pd.DataFrame) -> None:
        texts = [pairs[name].tolist()[:4] for name in FIELDS]
        ballast = np.ones(1 << 29, np.uint8)  # half a gigabyte here is not theirs
        found = peers.peak_bytes(
            Entry("teacher", "cross-encoder", "float32", "own_teacher", ""), setting, texts
        )
        assert 1e8 < found < 2e9
        assert ballast[0] == 1
        with pytest.raises(RuntimeError, match="failed in a process of its own"):
            peers.peak_bytes(
                Entry("teacher", "", "float32", "own_student", "us", "no-such-run"), setting, texts
            )

    def test_what_it_cannot_compare(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peer_systems, "NEEDS", ("no_such_package",))
        with pytest.raises(ValueError, match=r"needs no_such_package: pip install"):
            peers.compare(folder, STUDENT)


def test_encoders_side_by_side(folder: Path) -> None:
    found = peers.encoding(folder, STUDENT, n=16, turns=2)
    assert found["by"].tolist()[:2] == ["sentence-transformers", "dipair-lab"]
    assert found["least_cosine"][1] > 0.9999
    assert (found["texts_per_s_low"] <= found["texts_per_s_high"]).all()


@pytest.mark.parametrize("kind", ["brought", "scores"])
def test_a_teacher_that_was_not_trained_here_has_no_copy_elsewhere(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = results.load_result
    monkeypatch.setattr(peer_systems, "missing", list)
    monkeypatch.setattr(
        results, "load_result", lambda out, run: dataclasses.replace(load(out, run), teacher_kind=kind)
    )
    with pytest.raises(ValueError, match="expected a teacher that was trained here"):
        peers.compare(folder, STUDENT)
